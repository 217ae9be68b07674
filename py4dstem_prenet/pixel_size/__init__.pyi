from .assign import (
    FIRST_STRONG_HEIGHT as FIRST_STRONG_HEIGHT,
    MIN_FIRST_RING as MIN_FIRST_RING,
    MIN_VISIBLE_RINGS as MIN_VISIBLE_RINGS,
    Assignment as Assignment,
    assign_rings as assign_rings,
    near as near,
    same_rings as same_rings,
    with_rings as with_rings,
)
from .decide import (
    CRYSTAL_SYSTEMATIC as CRYSTAL_SYSTEMATIC,
    DISTORTION_SIGMA as DISTORTION_SIGMA,
    MIN_DISTORTION_SIGMAS as MIN_DISTORTION_SIGMAS,
    MIN_ON_RINGS as MIN_ON_RINGS,
    MIN_POSTERIOR as MIN_POSTERIOR,
    MIN_SUSPECTED_SIGMAS as MIN_SUSPECTED_SIGMAS,
    SPOT_SYSTEMATIC as SPOT_SYSTEMATIC,
    decide_pixel_size as decide_pixel_size,
    posterior_of as posterior_of,
    significance as significance,
    unknown_size as unknown_size,
)
from .hidden import hidden_disk_radius as hidden_disk_radius, hub_radius as hub_radius
from .joint import (
    CENTER_SIGMA_PX as CENTER_SIGMA_PX,
    MIN_PARTS as MIN_PARTS,
    JointFit as JointFit,
    State as State,
    fit_joint as fit_joint,
    larger_covariance as larger_covariance,
)
from .lattice import (
    Lattice as Lattice,
    Match as Match,
    assign_lattice as assign_lattice,
    find_lattices as find_lattices,
    matches as matches,
    on_lattice as on_lattice,
)
from .lattice_fit import fit_lattice as fit_lattice
from .measure import (
    check_approximate as check_approximate,
    measure_pixel_size as measure_pixel_size,
    measure_pooled_size as measure_pooled_size,
)
from .mixture import (
    ABSENT_VARIANCE as ABSENT_VARIANCE,
    ERROR_DOF as ERROR_DOF,
    HEIGHT_SHAPE as HEIGHT_SHAPE,
    REACH_SIGMAS as REACH_SIGMAS,
    STRAY_PART as STRAY_PART,
    RingRates as RingRates,
    close_pairs as close_pairs,
    density_of as density_of,
    expected_heights as expected_heights,
    fit_rates as fit_rates,
    ideal_positions as ideal_positions,
    scan_evidence as scan_evidence,
)
from .profile import (
    COARSE_STEP_PX as COARSE_STEP_PX,
    FINE_STEP_PX as FINE_STEP_PX,
    POINT_RADIUS_PX as POINT_RADIUS_PX,
    POLAR_AZIMUTHS as POLAR_AZIMUTHS,
    STEP_PX as STEP_PX,
    RadialProfile as RadialProfile,
    radial_data as radial_data,
    ring_profiles as ring_profiles,
    shrunk as shrunk,
    smoothed as smoothed,
)
from .profile_fit import (
    BASIN as BASIN,
    MIN_VISIBLE_HEIGHT as MIN_VISIBLE_HEIGHT,
    RELROD as RELROD,
    ProfileFit as ProfileFit,
    RingTable as RingTable,
    Shape as Shape,
    background as background,
    costs as costs,
    fit_rings as fit_rings,
    independent_samples as independent_samples,
    refine_shape as refine_shape,
    weights as weights,
)
from .spot_assign import (
    ELLIPSE_SIGMA as ELLIPSE_SIGMA,
    SCAN_ERROR_PX as SCAN_ERROR_PX,
    assign_spots as assign_spots,
    centered_spots as centered_spots,
    scan_spots as scan_spots,
)
from .spot_fit import (
    COMMON_ERRORS_PX as COMMON_ERRORS_PX,
    PARTS_SIDE as PARTS_SIDE,
    SPOT_CENTER_SIGMA_PX as SPOT_CENTER_SIGMA_PX,
    SpotFit as SpotFit,
    fit_spots as fit_spots,
    joint_of as joint_of,
)
from .spots import (
    FREQUENT_PART as FREQUENT_PART,
    MAX_SIGMA_FACTOR as MAX_SIGMA_FACTOR,
    TYPICAL_ERROR_PX as TYPICAL_ERROR_PX,
    Spots as Spots,
    measure_spots as measure_spots,
    same_reflections as same_reflections,
    systematic_of as systematic_of,
)
from .standards import (
    ALTERNATIVES as ALTERNATIVES,
    SAME_RING as SAME_RING,
    STANDARDS as STANDARDS,
    Standard as Standard,
    find_standard as find_standard,
)
from .variation import lattice_variation as lattice_variation
from .zones import Zone as Zone, reduced as reduced, zones_of as zones_of
