"""Calibration while the scan is running: calibrator, sources, alarms, terminal and web page."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
