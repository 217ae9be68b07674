from .averaging import averaged_weights as averaged_weights
from .center import (
    COARSE_CELL_PX as COARSE_CELL_PX,
    WINDOW as WINDOW,
    CenterNet as CenterNet,
    coarse_position as coarse_position,
    normalize as normalize,
)
from .denoise import MULTIPLE as MULTIPLE, DenoiseNet as DenoiseNet
from .ellipse import (
    AZIMUTHS as AZIMUTHS,
    DISK_SPAN as DISK_SPAN,
    RADII as RADII,
    RINGS_FROM as RINGS_FROM,
    EllipseNet as EllipseNet,
    normalize_polar as normalize_polar,
)
from .weights import (
    build as build,
    load as load,
    publish as publish,
    requirement as requirement,
    serialize as serialize,
    tensors as tensors,
    verify as verify,
)
