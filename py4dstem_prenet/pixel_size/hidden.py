"""Disks of a scan whose direct beam is hidden: their radius from the scan itself, and the edge of the stop.

The deviations of single patterns from their mean are disks at random positions. Their autocorrelation, averaged over
patterns and angles, is that of one disk, (2 / pi) (arccos x - x sqrt(1 - x^2)) with x = lag / (2 radius), on a smooth
background. Counting noise is white and contributes at lag zero only.
"""

from __future__ import annotations

import numpy as np
from scipy.fft import irfft2, rfft2
from scipy.optimize import nnls

from ..fits import MIN_COVERED_AZIMUTH

# Pixels and weights; blur of the autocorrelation by pixels and by the edge of a disk, about 0.5 px each.
LAG_BLUR = ((-0.7, 0.25), (0.0, 0.5), (0.7, 0.25))
MAX_TRIED_FRACTION, MAX_LAG_FRACTION = 1 / 8, 1 / 5  # fractions of the shorter side; largest radius and lag
MIN_TRIED_RADIUS_PX = 0.6  # pixels; smallest radius that is tried
DIFFUSE_RADII = 4.0  # disk radii; width of the broad part of the background of the autocorrelation


def hidden_disk_radius(electrons, good) -> float | None:
    """Measure the radius of the Bragg disks of patterns whose direct beam is hidden.

    Parameters
    ----------
    electrons : numpy.ndarray, shape (n, Qx, Qy)
        Patterns of different parts of the specimen.
    good : numpy.ndarray of bool, shape (Qx, Qy)
        False behind the stop and in bad pixels.

    Returns
    -------
    float or None
        Radius in pixels; None if the patterns do not deviate from their mean in disks.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.pixel_size.hidden import hidden_disk_radius
    >>> rng, (x, y) = np.random.default_rng(0), np.indices((64, 64))
    >>> patterns = [5.0 * (np.hypot(x - a, y - b) < 4) for a, b in rng.uniform(5, 58, (20, 2))]
    >>> 3.7 < hidden_disk_radius(rng.poisson(patterns), np.ones((64, 64), bool)) < 4.3
    True
    """
    count = max(8, 2**22 // good.size)  # of large patterns fewer are used, for speed
    electrons = np.asarray(electrons)[:: -(-len(electrons) // count)] * good
    total = electrons.sum((1, 2))
    electrons, total = electrons[total > 0], total[total > 0]
    if len(total) < 2:
        return None
    mean = electrons.mean(0) / total.mean()
    size = [2 * n for n in good.shape]  # lags of either sign
    power = sum(np.abs(rfft2(image - level * mean, size)) ** 2
                for image, level in zip(electrons, total, strict=True))
    correlation, pairs = irfft2(power, size), irfft2(np.abs(rfft2(good.astype(float), size)) ** 2, size)
    lag = np.hypot(*np.meshgrid(*(np.minimum(np.arange(n), n - np.arange(n)) for n in size), indexing="ij"))
    used = (lag > 0) & (lag < MAX_LAG_FRACTION * min(good.shape)) & (pairs > good.sum() / 100)
    number = np.unique((lag[used] / 0.5).astype(int), return_inverse=True)[1]  # lags in steps of half a pixel
    count = np.bincount(number)
    lags, values = (np.bincount(number, v[used]) / count for v in (lag, correlation / np.maximum(pairs, 1)))
    root, best = np.sqrt(count), (np.inf, 0.0, 0.0)
    for radius in np.geomspace(MIN_TRIED_RADIUS_PX, MAX_TRIED_FRACTION * min(good.shape), 80):
        disk = sum(weight * _overlap(np.abs(lags + moved) / (2 * radius)) for moved, weight in LAG_BLUR)
        one = np.ones(len(lags))
        columns = np.stack([disk, one, -one, 1 / (1 + (lags / (DIFFUSE_RADII * radius)) ** 2)], 1)
        solution, misfit = nnls(columns * root[:, None], values * root)
        best = min(best, (misfit, radius, solution[0]))
    return float(best[1]) if best[2] > 0 else None


def _overlap(x):
    """Overlap of two disks at a distance of x diameters, relative to their area."""
    x = np.clip(x, 0, 1)
    return 2 / np.pi * (np.arccos(x) - x * np.sqrt(1 - x**2))


def hub_radius(good, center) -> float:
    """Find the radius of the part of a stop that hides the direct beam.

    Parameters
    ----------
    good : numpy.ndarray of bool, shape (Qx, Qy)
        False behind the stop.
    center : array_like, shape (2,)
        Origin, pixels.

    Returns
    -------
    float
        Radius in pixels beyond which more than a third of the azimuth is open; 0 without a stop.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.pixel_size.hidden import hub_radius
    >>> x, y = np.indices((64, 64)) - 32
    >>> hub_radius(np.hypot(x, y) > 6, (32, 32))
    6.0
    """
    ring = np.hypot(*(np.indices(good.shape) - np.asarray(center)[:, None, None])).astype(int)
    open_ = np.bincount(ring.ravel(), good.ravel()) > MIN_COVERED_AZIMUTH * np.bincount(ring.ravel())
    return float(np.argmax(open_))
