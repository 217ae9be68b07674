from .errors import PrenetError as PrenetError
from .flags import (
    REFUSAL as REFUSAL,
)
from .flags import (
    SEVERITIES as SEVERITIES,
)
from .flags import (
    Decision as Decision,
)
from .flags import (
    Flag as Flag,
)
from .flags import (
    worst_severity as worst_severity,
)
from .geometry import ellipse_axes as ellipse_axes
from .geometry import ellipse_matrix as ellipse_matrix
from .geometry import ellipse_vector as ellipse_vector
from .memory import budget as budget
from .reading import (
    BLOCK_BYTES as BLOCK_BYTES,
)
from .reading import (
    UnchangedFile as UnchangedFile,
)
from .reading import (
    parts as parts,
)
from .reading import (
    plan_reading as plan_reading,
)
from .reading import (
    progress_bar as progress_bar,
)
from .results import (
    MIN_SIGMA_PX as MIN_SIGMA_PX,
)
from .results import (
    CalibrationReport as CalibrationReport,
)
from .results import (
    Decided as Decided,
)
from .results import (
    Ellipse as Ellipse,
)
from .results import (
    EllipseMap as EllipseMap,
)
from .results import (
    ModelTrial as ModelTrial,
)
from .results import (
    OriginFit as OriginFit,
)
from .results import (
    OriginMap as OriginMap,
)
from .results import (
    Result as Result,
)
from .robust import (
    NORMAL_MAD as NORMAL_MAD,
)
from .robust import (
    TUKEY_CUT as TUKEY_CUT,
)
from .robust import (
    ResidualTest as ResidualTest,
)
from .robust import (
    check_residuals as check_residuals,
)
from .robust import (
    jackknife as jackknife,
)
from .robust import (
    robust_loss as robust_loss,
)
from .robust import (
    robust_sigma as robust_sigma,
)
from .sampling import sample_positions as sample_positions
from .sampling import spread_positions as spread_positions
from .scan import MIN_SIDE as MIN_SIDE
from .scan import SampledScan as SampledScan
from .scan import Scan as Scan
from .scan import as_scan as as_scan
