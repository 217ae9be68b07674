from .cropping import check_calibration as check_calibration
