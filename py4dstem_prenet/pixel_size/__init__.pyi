from .assign import (
    FIRST_STRONG_HEIGHT as FIRST_STRONG_HEIGHT,
    MIN_FIRST_RING as MIN_FIRST_RING,
    Assignment as Assignment,
    assign_rings as assign_rings,
    near as near,
    same_rings as same_rings,
)
from .decide import (
    MIN_DISTORTION_SIGMAS as MIN_DISTORTION_SIGMAS,
    MIN_SUSPECTED_SIGMAS as MIN_SUSPECTED_SIGMAS,
    decide_pixel_size as decide_pixel_size,
    posterior_of as posterior_of,
    significance as significance,
    unknown_size as unknown_size,
)
from .hidden import hidden_disk_radius as hidden_disk_radius, hub_radius as hub_radius
from .joint import (
    MIN_PARTS as MIN_PARTS,
    JointFit as JointFit,
    State as State,
    fit_joint as fit_joint,
    larger_covariance as larger_covariance,
)
from .measure import measure_pixel_size as measure_pixel_size, measure_pooled_size as measure_pooled_size
from .mixture import (
    ERROR_DOF as ERROR_DOF,
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
    POLAR_AZIMUTHS as POLAR_AZIMUTHS,
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
from .spot_assign import assign_spots as assign_spots, centered_spots as centered_spots, scan_spots as scan_spots
from .spot_fit import SpotFit as SpotFit, fit_spots as fit_spots, joint_of as joint_of
from .spots import Spots as Spots, measure_spots as measure_spots, same_reflections as same_reflections
from .standards import (
    ALTERNATIVES as ALTERNATIVES,
    STANDARDS as STANDARDS,
    Standard as Standard,
    find_standard as find_standard,
)
from .variation import lattice_variation as lattice_variation
