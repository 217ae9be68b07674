from .errors import PrenetError as PrenetError
from .geometry import ellipse_axes as ellipse_axes
from .geometry import ellipse_matrix as ellipse_matrix
from .geometry import ellipse_vector as ellipse_vector
from .memory import budget as budget
from .reading import SMALLEST_SIDE as SMALLEST_SIDE
from .reading import check as check
from .reading import patterns as patterns
from .reading import shape_of as shape_of
from .results import Ellipse as Ellipse
from .results import EllipseMap as EllipseMap
from .results import OriginFit as OriginFit
from .results import OriginMap as OriginMap
from .robust import (
    NORMAL_MAD as NORMAL_MAD,
)
from .robust import (
    TUKEY_CUT as TUKEY_CUT,
)
from .robust import (
    jackknife as jackknife,
)
from .robust import (
    robust_loss as robust_loss,
)
from .sample import Sample as Sample
from .sampling import evenly as evenly
from .sampling import sample_positions as sample_positions
