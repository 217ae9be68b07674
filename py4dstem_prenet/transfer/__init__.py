"""What a calibrated scan of a standard tells of other scans of the same microscope."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
