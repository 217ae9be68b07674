from .choice import (
    MIN_SPLINE_BEND as MIN_SPLINE_BEND,
    SPLINE_MARGIN_SIGMAS as SPLINE_MARGIN_SIGMAS,
    choose_model as choose_model,
    folds as folds,
    held_out_losses as held_out_losses,
    richer_models as richer_models,
)
from .common import common_sigma as common_sigma, specimen_sigma as specimen_sigma
from .fit import fit_descan as fit_descan, fit_origin as fit_origin, residual_flags as residual_flags
from .jumps import (
    find_jumps as find_jumps,
    jump_flags as jump_flags,
    merged as merged,
    step_at as step_at,
)
from .limits import (
    JUMP_ROWS as JUMP_ROWS,
    LINE_OFF_SIGMAS as LINE_OFF_SIGMAS,
    MAX_JUMPS as MAX_JUMPS,
    MAX_LEFT_FRACTION as MAX_LEFT_FRACTION,
    MIN_JUMPING_PX as MIN_JUMPING_PX,
    MIN_LINE_COUNT as MIN_LINE_COUNT,
    MIN_LINE_OFF_PX as MIN_LINE_OFF_PX,
    MIN_OFF_FRACTION as MIN_OFF_FRACTION,
    MIN_ORDERED as MIN_ORDERED,
    MIN_REFUSED_FRACTION as MIN_REFUSED_FRACTION,
    MIN_RUN_PX as MIN_RUN_PX,
    MIN_SEGMENT_ROWS as MIN_SEGMENT_ROWS,
    OFF_SIGMAS as OFF_SIGMAS,
    SIGMA_FLOOR_PX as SIGMA_FLOOR_PX,
)
from .models import (
    MIN_POSITIONS_PER_TERM as MIN_POSITIONS_PER_TERM,
    MODELS as MODELS,
    POWERS as POWERS,
    candidates as candidates,
    evaluate as evaluate,
    normal as normal,
    solve as solve,
    surface_variance as surface_variance,
    thinned as thinned,
)
from .order import jumping as jumping, reorder as reorder
from .order_frames import (
    reversed_rows as reversed_rows,
    shifted_frames as shifted_frames,
    slipped_frames as slipped_frames,
)
from .order_maps import (
    OrderedMaps as OrderedMaps,
    Trial as Trial,
    agreeing_outliers as agreeing_outliers,
    along_one_only as along_one_only,
    ordered_maps as ordered_maps,
    with_values as with_values,
)
from .order_motion import (
    beam_runs as beam_runs,
    centered_before as centered_before,
    lines_elsewhere as lines_elsewhere,
    row_steps as row_steps,
)
from .reach import extend_surface as extend_surface, measured_box as measured_box
from .robust_fit import (
    LEAST_SIGMA_PX as LEAST_SIGMA_PX,
    FittedModel as FittedModel,
    MapData as MapData,
    fit_models as fit_models,
    prepare as prepare,
    refit as refit,
)
from .segments import fit_parts as fit_parts
from .surface import SurfaceFit as SurfaceFit, fit_pair as fit_pair
