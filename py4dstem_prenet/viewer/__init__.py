"""A viewer in which a scan is looked at, corrected by hand and calibrated again."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
