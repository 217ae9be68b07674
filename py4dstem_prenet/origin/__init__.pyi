from .beam import BATCH as BATCH
from .beam import Beam as Beam
from .beam import Located as Located
from .beam import nowhere as nowhere
from .check import OriginCheck as OriginCheck
from .check import check_origin as check_origin
from .hidden import BRIGHT as BRIGHT
from .hidden import LIT as LIT
from .measure import (
    check_mask as check_mask,
)
from .measure import (
    find_beam as find_beam,
)
from .measure import (
    fit_origin as fit_origin,
)
from .measure import (
    from_rings as from_rings,
)
from .measure import (
    measure_origin as measure_origin,
)
from .measure import (
    origin_of as origin_of,
)
from .measure import (
    shows_beam as shows_beam,
)
from .measure import (
    survey as survey,
)
