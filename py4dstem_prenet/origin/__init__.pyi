from .beam import LOCATE_BATCH as LOCATE_BATCH, Beam as Beam, Located as Located, unlocated as unlocated
from .check import check_origin as check_origin
from .judge import (
    BLANKED_FRACTION as BLANKED_FRACTION,
    BRIGHT_QUANTILE as BRIGHT_QUANTILE,
    MIN_SIGNAL_ELECTRONS as MIN_SIGNAL_ELECTRONS,
    MIN_SIGNAL_FRACTION as MIN_SIGNAL_FRACTION,
    no_origin as no_origin,
    shows_beam as shows_beam,
)
from .measure import BeamLocator as BeamLocator, check_mask as check_mask, measure_origin as measure_origin
