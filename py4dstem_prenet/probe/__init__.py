"""The image of the probe, a template for the disks of Bragg reflections."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
