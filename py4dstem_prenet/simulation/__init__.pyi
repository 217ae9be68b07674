from .acquisition import Acquisition as Acquisition, acquire as acquire
from .bank import Bank as Bank, joined as joined, load_bank as load_bank
from .detector import (
    Detector as Detector,
    blur as blur,
    draw_detector as draw_detector,
    expose as expose,
    uniform as uniform,
)
from .faults import (
    NO_FAULTS as NO_FAULTS,
    Faults as Faults,
    Rates as Rates,
    diffract as diffract,
    draw_faults as draw_faults,
    record as record,
    scatter as scatter,
    shade as shade,
)
from .pattern import (
    ideal_coordinates as ideal_coordinates,
    project as project,
    rotation_matrix as rotation_matrix,
    soft_disk as soft_disk,
)
from .scan import simulate as simulate
from .waves import CENTER as CENTER
