"""Trained networks that calibrate and denoise 4D-STEM scans, as a py4DSTEM plugin.

Importing this package adds `DataCube.prenet`; see `accessor.PrenetAccessor` for what it offers.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from . import accessor
from ._version import __version__
from .errors import PrenetError

if TYPE_CHECKING:  # at work they are imported when they are asked for
    from .checks import check_denoising, check_ellipse, check_origin
    from .ellipse import map_ellipse, measure_ellipse
    from .emd_files import load_calibration, save
    from .noise import estimate_noise
    from .online import OnlineCalibrator
    from .opening import open
    from .origin import fit_origin, measure_origin
    from .pipeline import calibrate, preprocess

_HOME = {
    "measure_origin": "origin", "fit_origin": "origin", "measure_ellipse": "ellipse", "map_ellipse": "ellipse",
    "estimate_noise": "noise",
    "calibrate": "pipeline", "preprocess": "pipeline", "open": "opening", "save": "emd_files",
    "load_calibration": "emd_files", "check_denoising": "checks", "check_origin": "checks",
    "check_ellipse": "checks",
    "OnlineCalibrator": "online",
}
__all__ = [
    "OnlineCalibrator", "PrenetError", "__version__", "calibrate", "check_denoising", "check_ellipse",
    "check_origin", "estimate_noise", "fit_origin", "load_calibration", "map_ellipse", "measure_ellipse",
    "measure_origin", "open", "preprocess", "save",
]


def __getattr__(name):
    # AttributeError before any import: py4DSTEM.read asks every loaded module for names.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


accessor.register()
