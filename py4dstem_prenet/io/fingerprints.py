"""Fingerprints of scans, to check whether a calibration belongs to the data in the same file.

A few patterns of the scan are cut into bands of detector rows, and a byte of the hash of each band is kept. The same
data have the same bytes, in any type that holds their values. In another scan, even of the same specimen, nearly all
bytes of bands with electrons differ. A few pixels that are repaired later change a few bands only.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np

PRINTED_PATTERNS = 8  # patterns; number that are read for a fingerprint
PRINTED_BANDS = 8  # bands; number of bands of detector rows of each pattern
# Fraction; smallest part of the bands that are not blank and agree for the same data. Of other data, 1/255 agree by
# chance, of the same data all.
MIN_SAME_FRACTION = 0.5
MIN_PRINTED_BANDS = 4  # bands; smallest number that are not blank in a fingerprint


def fingerprint(datacube) -> str | None:
    """Make a fingerprint of the data of a cube.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube; eight patterns are read.

    Returns
    -------
    str or None
        Hexadecimal, two digits for each band; "00" is a blank band. None if the data cannot be read or are blank.

    Examples
    --------
    >>> import numpy as np
    >>> from py4DSTEM import DataCube
    >>> counts = np.random.default_rng(0).poisson(1, (4, 4, 32, 32))
    >>> one, other = DataCube(counts), DataCube(counts.astype(np.float32))
    >>> fingerprint(one) == fingerprint(other), fingerprint(one) == fingerprint(DataCube(counts[::-1]))
    (True, False)
    """
    shape = datacube.data.shape
    count = shape[0] * shape[1]
    positions = np.unique(np.linspace(0, count - 1, min(PRINTED_PATTERNS, count)).astype(int))
    edges = np.linspace(0, shape[2], min(PRINTED_BANDS, shape[2]) + 1).astype(int)
    digits = []
    for position in positions:
        try:
            pattern = np.asarray(datacube.data[int(position // shape[1]), int(position % shape[1])], dtype="<f8")
        except Exception:  # readers raise errors of many types; what cannot be read has no fingerprint
            return None
        for first, last in pairwise(edges):
            band = np.ascontiguousarray(pattern[first:last]) + 0.0  # -0 is 0
            blank = not band.any()
            digits.append("00" if blank else f"{1 + hashlib.sha256(band.tobytes()).digest()[0] % 255:02x}")
    return "".join(digits) if sum(d != "00" for d in digits) >= MIN_PRINTED_BANDS else None


def same_data(one: str | None, other: str | None) -> bool | None:
    """Compare two fingerprints.

    Parameters
    ----------
    one, other : str or None
        Result of `fingerprint`.

    Returns
    -------
    bool or None
        Whether they are of the same data; None if that cannot be determined.

    Examples
    --------
    >>> same_data("0a1b2c3d", "0a1b2c99"), same_data("0a1b2c3d", None)
    (True, None)
    """
    if not one or not other:
        return None
    if len(one) != len(other):
        return False
    pairs = [(one[k : k + 2], other[k : k + 2]) for k in range(0, len(one), 2)]
    printed = [pair for pair in pairs if pair != ("00", "00")]
    if not printed:
        return None
    return sum(a == b for a, b in printed) >= MIN_SAME_FRACTION * len(printed)
