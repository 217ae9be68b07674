"""Direct beams of which a beam stop covers a part: how uncertain the center of the visible part is.

A fit to the part of a disk that a stop leaves visible finds a center between that of the disk and that of the part.
In most cases the visible part is not symmetric under inversion about this center. Its asymmetry is the fraction of the
light that lies on one side only, and this fraction of the radius is about the error of the center.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from . import find_stop

COVERED_RADII, MIN_COVERED_PX = 1.5, 4.0  # radii, pixels; radius of the area that is compared with its inverse
RING_REACHES = 2.2  # multiples of this radius; outer radius of the ring around it, whose dim pixels give the background
BACKGROUND_QUANTILE = 0.2  # quantile of the pixels of the ring: a stop or a neighboring disk covers a part of it
COVERED_BLUR_PX = 0.7  # pixels, 1 sigma; smoothing before pixels are compared
# Radii, 1 sigma along one axis; smallest error of a beam that a stop reaches: the center of mass of half a disk is 0.42
# radii from its center, and the half is nearly symmetric about it.
COVERED_ERROR = 0.2


def covered_beam(total, good, center, radius: float, readout: float = 0.0, known=None):
    """Estimate the error of the position of a beam that a beam stop covers in part.

    Parameters
    ----------
    total : numpy.ndarray, shape (Qx, Qy)
        Sum of patterns, electrons.
    good : numpy.ndarray of bool, shape (Qx, Qy)
        True where a pixel is good.
    center : array_like, shape (2,)
        Located position of the beam, pixels.
    radius : float
        Radius of the beam, pixels.
    readout : float, optional
        Read-out noise of a pixel of the sum, electrons.
    known : numpy.ndarray of bool, shape (Qx, Qy), optional
        True behind a stop that was found before.

    Returns
    -------
    stop : numpy.ndarray of bool, shape (Qx, Qy), or None
        True behind the stop; None if no stop reaches the beam.
    sigma : float
        Error of the position along one axis, pixels, if something covers a part of the beam.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.origin import covered_beam
    >>> x, y = np.indices((96, 96)) - 48
    >>> whole = 2e4 / (1 + (np.hypot(x, y) / 8) ** 2) + 1e5 * (np.hypot(x, y) < 6)
    >>> half = np.where((y > 0) & (x > -5), 0.01 * whole, whole)
    >>> good = np.ones((96, 96), bool)
    >>> covered_beam(whole, good, (48, 48), 6.0)[0] is None, covered_beam(half, good, (48, 46), 6.0)[1] > 0.5
    (True, True)
    """
    x, y = (np.arange(n) - q for n, q in zip(total.shape, center, strict=True))
    disk = np.hypot(x[:, None], y) < max(MIN_COVERED_PX, radius)
    found = [stop for stop in (find_stop(total, good, center), known) if stop is not None and stop[disk].any()]
    asymmetry = disk_asymmetry(total, good, center, radius, readout)
    if not found:
        return None, radius * asymmetry
    return np.any(found, axis=0), radius * max(asymmetry, COVERED_ERROR)


def disk_asymmetry(total, good, center, radius: float, readout: float = 0.0) -> float:
    """Measure the part of a disk's electrons that has no counterpart under inversion about its center.

    Parameters
    ----------
    total, good, center, radius, readout : numpy.ndarray, numpy.ndarray, array_like, float, float
        As in `covered_beam`.

    Returns
    -------
    float
        0 for a symmetric disk, 1 if no electron has a counterpart. The mean difference by noise is subtracted.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.origin import disk_asymmetry
    >>> x, y = np.indices((64, 64))
    >>> disk = 1e4 * (np.hypot(x - 30, y - 32) < 6)
    >>> good = np.ones(disk.shape, bool)
    >>> disk_asymmetry(disk, good, (30, 32), 6.0) < 0.01, disk_asymmetry(disk, good, (30, 35), 6.0) > 0.2
    (True, True)
    """
    reach = max(MIN_COVERED_PX, COVERED_RADII * radius)
    smooth = gaussian_filter(np.where(good, total, 0.0).astype(float), COVERED_BLUR_PX)
    x, y = (np.arange(n) - q for n, q in zip(total.shape, center, strict=True))
    distance = np.hypot(x[:, None], y)
    around = good & (distance > reach) & (distance < RING_REACHES * reach)
    background = np.quantile(smooth[around], BACKGROUND_QUANTILE) if around.any() else 0.0
    offset = np.stack(np.mgrid[-int(reach) : int(reach) + 1, 0 : int(reach) + 1]).reshape(2, -1)
    offset = offset[:, np.hypot(*offset) <= reach]
    ends = [np.reshape(center, (2, 1)) + sign * offset for sign in (1, -1)]
    first, second = (map_coordinates(smooth, end, order=1, mode="nearest") for end in ends)
    usable = np.logical_and(*(map_coordinates(good.astype(float), end, order=1) > 0.99 for end in ends))
    noise = np.sqrt((first + second).clip(0) + 2 * readout**2) / np.sqrt(2 * np.pi**2 * COVERED_BLUR_PX**2)
    difference = (np.abs(first - second) - noise)[usable].sum()
    return float(np.clip(difference / max((first + second - 2 * background)[usable].sum(), 1e-9), 0, 1))
