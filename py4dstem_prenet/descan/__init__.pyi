from .common import common_sigma as common_sigma
from .fit import fit_descan as fit_descan, fit_origin as fit_origin, residual_flags as residual_flags
from .jumps import find_jumps as find_jumps, jump_flags as jump_flags, merged as merged, step_at as step_at
from .models import (
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
from .reach import extend_surface as extend_surface, measured_box as measured_box
from .segments import fit_parts as fit_parts
from .surface import (
    LEAST_SIGMA_PX as LEAST_SIGMA_PX,
    MIN_SPLINE_BEND as MIN_SPLINE_BEND,
    SurfaceFit as SurfaceFit,
    fit_pair as fit_pair,
    folds as folds,
    prepare as prepare,
)
