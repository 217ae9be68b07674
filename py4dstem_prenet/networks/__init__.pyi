from .averaging import averaged_weights as averaged_weights
from .center import (
    COARSE_CELL_PX as COARSE_CELL_PX,
)
from .center import (
    WINDOW as WINDOW,
)
from .center import (
    CenterNet as CenterNet,
)
from .center import (
    coarse_position as coarse_position,
)
from .center import (
    normalize as normalize,
)
from .denoise import MULTIPLE as MULTIPLE
from .denoise import DenoiseNet as DenoiseNet
from .ellipse import (
    AZIMUTHS as AZIMUTHS,
)
from .ellipse import (
    DISK_SPAN as DISK_SPAN,
)
from .ellipse import (
    RADII as RADII,
)
from .ellipse import (
    RINGS_FROM as RINGS_FROM,
)
from .ellipse import (
    EllipseNet as EllipseNet,
)
from .ellipse import (
    normalize_polar as normalize_polar,
)
from .weights import load as load
from .weights import requirement as requirement
from .weights import tensors as tensors
from .weights import verify as verify
