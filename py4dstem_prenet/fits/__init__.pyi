from .beam_pixels import hot_pixels as hot_pixels
from .disk import (
    MARGIN as MARGIN,
)
from .disk import (
    ROUNDS as ROUNDS,
)
from .disk import (
    Aperture as Aperture,
)
from .disk import (
    DiskModel as DiskModel,
)
from .disk import (
    disk_model as disk_model,
)
from .disk_edge import fit_disk as fit_disk
from .inversion import other_center as other_center
from .inversion import symmetry as symmetry
from .polar import to_polar as to_polar
from .pooling import (
    KEPT_BYTES as KEPT_BYTES,
)
from .pooling import (
    SAMPLE as SAMPLE,
)
from .pooling import (
    Pooled as Pooled,
)
from .pooling import (
    pool as pool,
)
from .pooling import (
    pool_arrays as pool_arrays,
)
from .pooling import (
    pooled_positions as pooled_positions,
)
from .pooling import (
    worth_keeping as worth_keeping,
)
from .ring_fit import (
    CONTINUOUS as CONTINUOUS,
)
from .ring_fit import (
    RING_ROOM as RING_ROOM,
)
from .ring_fit import (
    refine_rings as refine_rings,
)
from .ring_fit import (
    ring_span as ring_span,
)
from .ring_search import ring_center as ring_center
from .windows import electron_windows as electron_windows
