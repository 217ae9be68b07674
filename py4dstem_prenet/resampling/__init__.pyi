from .correcting import corrected as corrected
from .cropping import (
    bin_Q as bin_Q,
    bin_R as bin_R,
    check_calibration as check_calibration,
    crop_Q as crop_Q,
    crop_R as crop_R,
)
from .repairing import repaired as repaired
