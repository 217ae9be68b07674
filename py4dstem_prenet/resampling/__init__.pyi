from .correcting import corrected as corrected
from .cropping import (
    CalibrationCheck as CalibrationCheck,
)
from .cropping import (
    bin_Q as bin_Q,
)
from .cropping import (
    bin_R as bin_R,
)
from .cropping import (
    check_calibration as check_calibration,
)
from .cropping import (
    crop_Q as crop_Q,
)
from .cropping import (
    crop_R as crop_R,
)
