"""Radius of the direct disk in a pooled pattern whose center is known."""

import numpy as np

from . import Pooled, fit_disk, radial_profile, to_polar

MIN_DISK_RADIUS_PX = 1.0  # pixels; smallest radius: a smaller disk is not resolved
# Fraction of the radius; largest distance of the fitted disk from the given center, in addition to one pixel.
MAX_DISK_OFFSET_FRACTION = 0.5


def pooled_radius(pooled: Pooled) -> float:
    """Measure the radius of the direct disk about the center of a pooled pattern.

    Parameters
    ----------
    pooled : Pooled
        Pooled patterns; their center is the given origin.

    Returns
    -------
    float
        Radius in pixels; NaN if no disk lies at the center.

    Notes
    -----
    The fit of the edge (`fit_disk`) starts at the radius where the radial profile falls to half of its height above
    the background.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.fits import pool_arrays, pooled_radius
    >>> x, y = np.indices((64, 64)) - 31
    >>> image = 1000 / (1 + np.exp(4 * (np.hypot(x, y) - 7)))
    >>> round(pooled_radius(pool_arrays([image] * 4, 4 * [31.0], 4 * [31.0])), 1)
    7.0
    """
    radii = np.arange(0, 0.5 * min(pooled.mean.shape), 0.25)  # pixels, to half of the shorter side
    polar, weight = to_polar(pooled.mean, pooled.center, radii, 64, weight=pooled.weight)
    profile = radial_profile(polar, weight)
    top, floor = profile.max(), np.median(profile[len(profile) // 2:])
    below = np.flatnonzero(profile[profile.argmax():] < (top + floor) / 2)
    if not top > 0 or not len(below):
        return float("nan")
    start = radii[profile.argmax() + below[0]]
    if start < MIN_DISK_RADIUS_PX:
        return float("nan")
    disk = fit_disk(pooled, start)
    offset = np.hypot(*np.subtract(disk.center, pooled.center))
    plausible = (np.isfinite(disk.radius) and MIN_DISK_RADIUS_PX <= disk.radius <= radii[-1]
                 and offset < 1 + MAX_DISK_OFFSET_FRACTION * disk.radius)
    return float(disk.radius) if plausible else float("nan")
