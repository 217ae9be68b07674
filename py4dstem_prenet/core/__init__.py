"""Common basis of all other packages: errors, patterns out of any array, sampling, robust statistics, results."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
