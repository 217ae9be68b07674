"""Fits of single and pooled patterns: the direct disk, its edge, rings, and inversion symmetry."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
