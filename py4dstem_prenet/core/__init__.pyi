from .checks import (
    CalibrationCheck as CalibrationCheck,
    DenoisingCheck as DenoisingCheck,
    EllipseCheck as EllipseCheck,
    FinetuneResult as FinetuneResult,
    OriginCheck as OriginCheck,
)
from .conclusions import CENTERS as CENTERS, conclude as conclude, paragraphs as paragraphs
from .ellipses import Ellipse as Ellipse, EllipseMap as EllipseMap
from .errors import PrenetError as PrenetError
from .flags import (
    FLAGS as FLAGS,
    REFUSAL as REFUSAL,
    SEVERITIES as SEVERITIES,
    WARNING as WARNING,
    Decision as Decision,
    Flag as Flag,
    has_flag as has_flag,
    worst_severity as worst_severity,
)
from .geometry import ellipse_axes as ellipse_axes, ellipse_matrix as ellipse_matrix, ellipse_vector as ellipse_vector
from .memory import budget as budget
from .noise import (
    MIN_PART_SHARE as MIN_PART_SHARE,
    MIN_PATTERNS_IN_TIME as MIN_PATTERNS_IN_TIME,
    SCAN_PARTS as SCAN_PARTS,
    NoiseModel as NoiseModel,
    stabilize as stabilize,
    with_sigma as with_sigma,
)
from .origins import (
    MIN_RADIUS_SIGMA as MIN_RADIUS_SIGMA,
    ModelTrial as ModelTrial,
    OriginFit as OriginFit,
    OriginMap as OriginMap,
    missing_beam as missing_beam,
)
from .pixels import binned_sum as binned_sum, cubic_kernel as cubic_kernel, masked_smooth as masked_smooth
from .quantities import (
    PixelSize as PixelSize,
    ProbeImage as ProbeImage,
    Ring as Ring,
    Rotation as Rotation,
    kind_of_rings as kind_of_rings,
    semi_angle as semi_angle,
)
from .reading import (
    BLOCK_BYTES as BLOCK_BYTES,
    UnchangedFile as UnchangedFile,
    all_finite as all_finite,
    longest_part as longest_part,
    parts as parts,
    plan_reading as plan_reading,
    progress_bar as progress_bar,
    stage_bar as stage_bar,
)
from .repeats import remembered as remembered
from .results import BraggDisks as BraggDisks, CalibrationReport as CalibrationReport
from .robust import (
    CORRELATION_LAGS as CORRELATION_LAGS,
    MEDIAN_ERROR as MEDIAN_ERROR,
    NORMAL_MAD as NORMAL_MAD,
    STUDENT_DOF as STUDENT_DOF,
    TUKEY_CUT as TUKEY_CUT,
    ResidualTest as ResidualTest,
    check_residuals as check_residuals,
    jackknife as jackknife,
    jackknife_covariance as jackknife_covariance,
    masked_median as masked_median,
    quick_median as quick_median,
    robust_loss as robust_loss,
    robust_sigma as robust_sigma,
)
from .sampling import (
    flat_origins as flat_origins,
    sample_positions as sample_positions,
    spread_positions as spread_positions,
    usable_positions as usable_positions,
)
from .scan import (
    MIN_SIDE as MIN_SIDE,
    READING_ERRORS as READING_ERRORS,
    SampledScan as SampledScan,
    Scan as Scan,
    as_scan as as_scan,
    check_sources as check_sources,
    silent_sources as silent_sources,
)
from .shown import (
    MAX_REPR_LINES as MAX_REPR_LINES,
    Decided as Decided,
    Result as Result,
    shape_text as shape_text,
    wrapped as wrapped,
)
from .slopes import (
    ATTENUATED as ATTENUATED,
    EXAGGERATED as EXAGGERATED,
    KEPT as KEPT,
    SLOPE_TOLERANCE as SLOPE_TOLERANCE,
    UNKNOWN as UNKNOWN,
    Slope as Slope,
    slope_of_halves as slope_of_halves,
)
from .transfers import Transfer as Transfer
