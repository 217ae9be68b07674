from .acquisition import Acquisition as Acquisition, acquire as acquire
from .bank import Bank as Bank, joined as joined, load_bank as load_bank, make_bank as make_bank
from .detector import (
    Detector as Detector,
    blur as blur,
    draw_detector as draw_detector,
    expose as expose,
    log_uniform as log_uniform,
    uniform as uniform,
)
from .display import stretch as stretch
from .faults import (
    NEEDLE_STOP as NEEDLE_STOP,
    NO_FAULTS as NO_FAULTS,
    ROUND_STOP as ROUND_STOP,
    Faults as Faults,
    Rates as Rates,
    diffract as diffract,
    draw_faults as draw_faults,
    record as record,
    scatter as scatter,
    shade as shade,
    stop_distance as stop_distance,
)
from .known import (
    OPTICS as OPTICS,
    SLICE_ANGSTROM as SLICE_ANGSTROM,
    Cubic as Cubic,
    KnownScan as KnownScan,
    patterns_of as patterns_of,
)
from .pattern import (
    SAMPLES as SAMPLES,
    ideal_coordinates as ideal_coordinates,
    project as project,
    rotation_matrix as rotation_matrix,
    soft_disk as soft_disk,
)
from .rotated_scan import (
    pattern_matrix as pattern_matrix,
    simulate_nanobeam as simulate_nanobeam,
    simulate_rotated as simulate_rotated,
)
from .scan import (
    PROJECTION_BATCH as PROJECTION_BATCH,
    draw_descan as draw_descan,
    draw_origins as draw_origins,
    simulate as simulate,
    voronoi_grains as voronoi_grains,
)
from .selected_area import (
    convolved as convolved,
    draw_selected_area as draw_selected_area,
    wrapped_distance as wrapped_distance,
)
from .specimens import (
    GRID as GRID,
    PROTOTYPES as PROTOTYPES,
    Optics as Optics,
    Specimen as Specimen,
    atoms_to_phase as atoms_to_phase,
    cells_of_cylinder as cells_of_cylinder,
    glass_phase as glass_phase,
    scattering_factor as scattering_factor,
)
from .tails import add_tails as add_tails
from .waves import CENTER as CENTER, draw_patterns as draw_patterns, multislice as multislice, probe as probe
from .world import Case as Case, Made as Made, draw_case as draw_case, make_case as make_case
from .world_faults import FAULT_STAGES as FAULT_STAGES, FAULTS as FAULTS
