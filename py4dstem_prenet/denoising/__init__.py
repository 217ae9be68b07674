"""Denoising of scans, fine-tuning of the network, and checks on the counts of the scan itself."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
