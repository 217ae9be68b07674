from .beam_pixels import hot_pixels as hot_pixels
from .disk import (
    MARGIN as MARGIN,
    ROUNDS as ROUNDS,
    Aperture as Aperture,
    DiskModel as DiskModel,
    disk_model as disk_model,
)
from .disk_edge import fit_disk as fit_disk
from .inversion import other_center as other_center, symmetry as symmetry
from .polar import to_polar as to_polar
from .pooling import (
    KEPT_BYTES as KEPT_BYTES,
    SAMPLE as SAMPLE,
    Pooled as Pooled,
    pool as pool,
    pool_arrays as pool_arrays,
    pooled_positions as pooled_positions,
    worth_keeping as worth_keeping,
)
from .ring_fit import (
    CONTINUOUS as CONTINUOUS,
    RING_ROOM as RING_ROOM,
    refine_rings as refine_rings,
    ring_span as ring_span,
)
from .ring_search import ring_center as ring_center
from .windows import electron_windows as electron_windows
