"""What a detector value means: noise model, bad pixels, data quality, and counts split into independent halves."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
