"""Noise model of the detector, bad pixels, data quality, and splitting of counts into independent parts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
