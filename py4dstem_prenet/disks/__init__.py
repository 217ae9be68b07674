"""Bragg disks: found by a likelihood ratio with a stated false-alarm rate, located by a fit with free contrast."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
