"""Trained networks that calibrate and denoise 4D-STEM scans, as a py4DSTEM plugin.

Importing this package adds `DataCube.prenet`; see `accessor.PrenetAccessor` for what it offers.
"""

from importlib import import_module

from . import accessor
from ._version import __version__
from .errors import PrenetError

_HOME = {
    "measure_origin": "origin", "fit_origin": "origin", "measure_ellipse": "ellipse", "map_ellipse": "ellipse",
    "estimate_noise": "noise",
    "calibrate": "pipeline", "preprocess": "pipeline", "open": "opening", "save": "emd_files",
    "load_calibration": "emd_files", "check_denoising": "checks", "check_origin": "checks",
    "check_ellipse": "checks",
    "OnlineCalibrator": "online",
}
__all__ = ["PrenetError", "__version__", *_HOME]


def __getattr__(name):
    # AttributeError before any import: py4DSTEM.read asks every loaded module for names.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


accessor.register()
