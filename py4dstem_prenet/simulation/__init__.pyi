from .acquisition import Acquisition as Acquisition
from .acquisition import acquire as acquire
from .bank import Bank as Bank
from .bank import joined as joined
from .bank import load_bank as load_bank
from .detector import (
    Detector as Detector,
)
from .detector import (
    blur as blur,
)
from .detector import (
    draw_detector as draw_detector,
)
from .detector import (
    expose as expose,
)
from .detector import (
    uniform as uniform,
)
from .faults import (
    NO_FAULTS as NO_FAULTS,
)
from .faults import (
    Faults as Faults,
)
from .faults import (
    Rates as Rates,
)
from .faults import (
    diffract as diffract,
)
from .faults import (
    draw_faults as draw_faults,
)
from .faults import (
    record as record,
)
from .faults import (
    scatter as scatter,
)
from .faults import (
    shade as shade,
)
from .pattern import (
    ideal_coordinates as ideal_coordinates,
)
from .pattern import (
    project as project,
)
from .pattern import (
    rotation_matrix as rotation_matrix,
)
from .pattern import (
    soft_disk as soft_disk,
)
from .scan import simulate as simulate
from .waves import CENTER as CENTER
