from .beam import BATCH as BATCH, Beam as Beam, Located as Located, nowhere as nowhere
from .check import OriginCheck as OriginCheck, check_origin as check_origin
from .judge import BRIGHT as BRIGHT, LIT as LIT, no_origin as no_origin, shows_beam as shows_beam
from .measure import BeamLocator as BeamLocator, check_mask as check_mask, measure_origin as measure_origin
