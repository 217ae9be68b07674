from .alarms import FalseAlarms as FalseAlarms, false_alarms as false_alarms
from .background import (
    Background as Background,
    measure_background as measure_background,
    outside_disks as outside_disks,
)
from .contrast import (
    MAX_MOVE_PX as MAX_MOVE_PX,
    DiskShape as DiskShape,
    directions as directions,
    learned_shape as learned_shape,
    with_direct as with_direct,
)
from .cutting import DiskWindows as DiskWindows
from .faint import FaintDisks as FaintDisks, faint_disks as faint_disks
from .finder import MAX_ORIGIN_OFFSET_PX as MAX_ORIGIN_OFFSET_PX, DiskFinder as DiskFinder
from .fitting import MAX_SIGMA_RADII as MAX_SIGMA_RADII, FittedDisks as FittedDisks, fit_disks as fit_disks
from .learned import (
    SAMPLE_BYTES as SAMPLE_BYTES,
    SAMPLE_PATTERNS as SAMPLE_PATTERNS,
    LearnedDisks as LearnedDisks,
    prepared as prepared,
    window_side as window_side,
)
from .neighborhood import (
    MOVE_RADII as MOVE_RADII,
    OwnDisks as OwnDisks,
    PatternGroup as PatternGroup,
    apart as apart,
    log_odds as log_odds,
    neighbor_pairs as neighbor_pairs,
)
from .opposite import error_ratios as error_ratios
from .posterior import (
    grid_side as grid_side,
    grid_step as grid_step,
    posterior_positions as posterior_positions,
    weak_sigma as weak_sigma,
)
from .scans import (
    bragg_disks as bragg_disks,
    find_bragg_disks as find_bragg_disks,
    probabilities as probabilities,
)
from .search import (
    MIN_AREA_FRACTION as MIN_AREA_FRACTION,
    MIN_SEEN_FRACTION as MIN_SEEN_FRACTION,
    Candidates as Candidates,
    concatenated as concatenated,
    covered as covered,
    find_disks as find_disks,
    own_significance as own_significance,
    pattern_ring as pattern_ring,
)
from .significance import (
    DiskFilter as DiskFilter,
    disk_significance as disk_significance,
    li_ma as li_ma,
    may_exceed as may_exceed,
)
from .strain import RegionStrain as RegionStrain, region_strain as region_strain, strain_sigma as strain_sigma
from .structure import (
    Structure as Structure,
    measure_structure as measure_structure,
    noisy_backgrounds as noisy_backgrounds,
    speckle_fields as speckle_fields,
)
