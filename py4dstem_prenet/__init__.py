"""Trained networks that calibrate and denoise 4D-STEM scans, as a py4DSTEM plugin.

Importing this package adds `DataCube.prenet`; see `accessor.PrenetAccessor` for what it offers.
"""

import lazy_loader

from . import accessor
from ._version import __version__ as __version__

__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = [name for name in _names if name != "open"]  # `import *` must not replace the built-in

accessor.register()
