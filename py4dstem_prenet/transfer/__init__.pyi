from .conditions import Conditions as Conditions, conditions_of as conditions_of, differences as differences
from .decide import (
    MAX_STRAIN_ELLIPSE as MAX_STRAIN_ELLIPSE,
    decided_transfer as decided_transfer,
)
from .plan import (
    TRANSFERABLE as TRANSFERABLE,
    Plan as Plan,
    planned as planned,
)
from .scan_shift import descan_of as descan_of, fit_with_descan as fit_with_descan
from .standard import CalibratedScan as CalibratedScan, read_standard as read_standard
