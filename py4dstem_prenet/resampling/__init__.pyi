from .checking import check_calibration as check_calibration, has_origin as has_origin
from .correcting import corrected as corrected
from .cropping import bin_Q as bin_Q, bin_R as bin_R, crop_Q as crop_Q, crop_R as crop_R
from .repairing import repaired as repaired
