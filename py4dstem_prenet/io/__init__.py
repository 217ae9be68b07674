"""Files and py4DSTEM's objects: detector files, EMD files, and the calibration of a DataCube."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
