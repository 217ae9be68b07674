from .aperture import (
    MAX_CONTRAST_DEGREE as MAX_CONTRAST_DEGREE,
    MIN_BLUR_PX as MIN_BLUR_PX,
    Aperture as Aperture,
    disk_terms as disk_terms,
    highest_degree as highest_degree,
    monomials as monomials,
    orthonormal as orthonormal,
    unit_disk as unit_disk,
)
from .beam_pixels import hot_pixels as hot_pixels
from .circle import kasa_circle as kasa_circle
from .disk import (
    DISK_MARGIN_PX as DISK_MARGIN_PX,
    LEARNING_ROUNDS as LEARNING_ROUNDS,
    MAX_START_OFFSET_PX as MAX_START_OFFSET_PX,
    MIN_EXPECTED_FRACTION as MIN_EXPECTED_FRACTION,
    DiskModel as DiskModel,
    DiskPositions as DiskPositions,
    disk_model as disk_model,
)
from .disk_edge import DISK_BLUR_PX as DISK_BLUR_PX, fit_disk as fit_disk
from .disk_radius import pooled_radius as pooled_radius
from .halo import (
    HALO_MIN_EXPLAINED as HALO_MIN_EXPLAINED,
    HaloCenter as HaloCenter,
    halo_center as halo_center,
    halo_place as halo_place,
)
from .inversion import (
    MAX_BINNED_SIDE as MAX_BINNED_SIDE,
    other_center as other_center,
    symmetry as symmetry,
)
from .inversion_search import (
    OPPOSITE_SECTORS as OPPOSITE_SECTORS,
    InversionCenter as InversionCenter,
    inversion_center as inversion_center,
    stabilized_bins as stabilized_bins,
)
from .outline import (
    OUTLINE_SIGMAS as OUTLINE_SIGMAS,
    SEARCHED_RADII as SEARCHED_RADII,
    DiskOutline as DiskOutline,
    disk_outline as disk_outline,
)
from .polar import to_polar as to_polar
from .polar_fit import (
    MAP_AZIMUTHS as MAP_AZIMUTHS,
    UNKNOWN_COVARIANCE as UNKNOWN_COVARIANCE,
    radial_profile as radial_profile,
    read_polar as read_polar,
    smooth_image as smooth_image,
)
from .pooling import (
    MAX_KEPT_BYTES as MAX_KEPT_BYTES,
    MIN_POOLED_POSITIONS as MIN_POOLED_POSITIONS,
    Pooled as Pooled,
    pool as pool,
    pool_arrays as pool_arrays,
    pooled_positions as pooled_positions,
    worth_keeping as worth_keeping,
)
from .ring_fit import (
    MIN_COVERED_AZIMUTH as MIN_COVERED_AZIMUTH,
    MIN_RING_CONTINUITY as MIN_RING_CONTINUITY,
    MIN_RING_SPAN_PX as MIN_RING_SPAN_PX,
    refine_rings as refine_rings,
    ring_span as ring_span,
)
from .ring_search import AZIMUTH_SECTORS as AZIMUTH_SECTORS, ring_center as ring_center
from .spot import SpotModel as SpotModel, spot_model as spot_model
from .windows import electron_windows as electron_windows, pixel_mean as pixel_mean
