"""Viewer: look at the patterns of a scan, correct the calibration by hand, and calibrate again."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
