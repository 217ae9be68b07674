"""Pixel size of patterns from a known crystal, and distortions of the camera beyond the ellipse."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
