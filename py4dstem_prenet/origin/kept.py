"""The beam that a calibration learned, kept for later calls on the same cube in this process."""

from __future__ import annotations

import hashlib
from weakref import WeakKeyDictionary

import numpy as np

from ..core import Scan
from ..detector import noise_sample
from . import BeamLocator

_kept: WeakKeyDictionary = WeakKeyDictionary()  # the data of each cube when its beam was learned, and the locator


def keep_locator(datacube, scan: Scan, mask, locator: BeamLocator) -> None:
    """Keep the learned beam of a cube, until the cube is deleted.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.
    scan : Scan
        Its patterns.
    mask : numpy.ndarray of bool, shape (Qx, Qy), or None
        The mask with which `locator` was learned.
    locator : BeamLocator
        The learned beam.
    """
    _kept[datacube] = _data(scan, mask, locator.device), locator


def kept_locator(datacube, scan: Scan, mask, device: str) -> BeamLocator | None:
    """Return the learned beam of a cube, if its patterns are still the same.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.
    scan : Scan
        Its patterns; only those from which the noise model is estimated are compared.
    mask : numpy.ndarray of bool, shape (Qx, Qy), or None
        The detector mask.
    device : str
        "auto", "cpu", "cuda" or "mps".

    Returns
    -------
    BeamLocator or None
        What `BeamLocator.learn` returned; None if it was not called, or for other patterns, mask or device.
    """
    data, locator = _kept.get(datacube, (None, None))
    return locator if data is not None and data == _data(scan, mask, device) else None


def _data(scan, mask, device):
    """What must be the same."""
    sample = np.ascontiguousarray(noise_sample(scan))
    mask = None if mask is None else np.asarray(mask).tobytes()
    return scan.shape, sample.dtype.str, hashlib.sha256(sample).digest(), mask, device
