"""`DataCube.prenet`: methods that call the functions of this package and write their results into the DataCube.

The methods are in `measuring`, `patterns` and `reviewing`.

Importing this package does not import py4DSTEM: this takes seconds, and training, simulation and `prenet --help` do not
need it. `register` adds the attribute at once if py4DSTEM is already imported, otherwise when it is imported (`wrapt`'s
import hook).
"""

from __future__ import annotations

import sys
from functools import cache

from ..core import PrenetError
from .measuring import MeasuringMethods
from .patterns import PatternMethods
from .reviewing import ReviewingMethods

__all__ = ["PrenetAccessor", "register"]

_NAME = "prenet"
_HOST = "py4DSTEM.datacube.datacube"  # the module that defines DataCube


class PrenetAccessor(MeasuringMethods, PatternMethods, ReviewingMethods):
    """The functions of this package for one DataCube, as `datacube.prenet`.

    Results are stored in the DataCube, not in the accessor.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The scan, (Rx, Ry, Qx, Qy).

    Examples
    --------
    >>> import py4DSTEM, py4dstem_prenet
    >>> datacube = py4dstem_prenet.open("scan.h5")  # doctest: +SKIP
    >>> report = datacube.prenet.calibrate()  # doctest: +SKIP
    >>> datacube.prenet.save("scan_calibrated.h5")  # doctest: +SKIP
    """

    def __init__(self, datacube):
        self._datacube = datacube


class _Door:
    """The descriptor behind `DataCube.prenet`; it makes an accessor at each use, so a copied cube gets its own."""

    def __get__(self, datacube, owner=None):
        return PrenetAccessor if datacube is None else PrenetAccessor(datacube)

    def __set__(self, datacube, value):
        raise AttributeError("DataCube.prenet cannot be set.")


def register():
    """Add `DataCube.prenet`, at once or when py4DSTEM is imported. Calling it again changes nothing.

    Raises
    ------
    PrenetError
        If DataCube already has an attribute `prenet` of another package.
    """
    host = sys.modules.get(_HOST)
    if hasattr(host, "DataCube"):
        _extend(host)
    else:
        _wait_for_host()


@cache
def _wait_for_host():
    from wrapt import register_post_import_hook

    register_post_import_hook(_extend, _HOST)


def _extend(host):
    """Add the attribute to the DataCube of py4DSTEM's module."""
    present = host.DataCube.__dict__.get(_NAME)
    # Compared by name, because a reloaded package makes a new class.
    ours = (type(present).__module__, type(present).__qualname__) == (_Door.__module__, _Door.__qualname__)
    if hasattr(host.DataCube, _NAME) and not ours:
        raise PrenetError(
            "DataCube.prenet exists already and belongs to another package; import only one of these packages."
        )
    setattr(host.DataCube, _NAME, _Door())
