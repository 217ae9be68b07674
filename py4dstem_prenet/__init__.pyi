from . import errors as errors
from ._version import __version__ as __version__
from .compute import use_cluster as use_cluster
from .core import PrenetError as PrenetError
from .denoising import check_denoising as check_denoising, denoise as denoise, finetune as finetune
from .descan import fit_origin as fit_origin
from .detector import estimate_noise as estimate_noise
from .disks import bragg_disks as bragg_disks
from .ellipse import check_ellipse as check_ellipse, map_ellipse as map_ellipse, measure_ellipse as measure_ellipse
from .io import load_calibration as load_calibration, open as open, save as save, undo as undo
from .live import OnlineCalibrator as OnlineCalibrator
from .origin import check_origin as check_origin, measure_origin as measure_origin
from .pipeline import calibrate as calibrate, preprocess as preprocess
from .pixel_size import measure_pixel_size as measure_pixel_size
from .probe import measure_probe as measure_probe
from .resampling import (
    bin_Q as bin_Q,
    bin_R as bin_R,
    check_calibration as check_calibration,
    corrected as corrected,
    crop_Q as crop_Q,
    crop_R as crop_R,
    repaired as repaired,
)
from .review import show as show
from .rotation import measure_rotation as measure_rotation
from .series import calibrate_files as calibrate_files
from .viewer import view as view
