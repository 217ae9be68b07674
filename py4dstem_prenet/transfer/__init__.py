"""Transfer of a calibration from a scan of a standard to other scans of the same microscope."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
