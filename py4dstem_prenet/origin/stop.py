"""Beam stops that no mask covers, found by their shadow.

The intensity falls with the distance from the direct beam for any specimen. Behind a stop it is far below the intensity
of other azimuths at the same or a larger distance, in a region that reaches the direct beam. This also holds between
the disks of a crystal. But a stop is dark at the same place in every part of the scan, while gaps between disks move
with the descan and turn with the grains.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ..core import masked_smooth

# Set on five real patterns with stops, and on simulated crystals behind bars:
SHADOW_FRACTION = 0.35  # fraction of the bright azimuths at its distance; largest intensity behind a stop
BRIGHT_AZIMUTHS = 0.75  # quantile of the pixels at a distance; a stop covers less than this fraction of the azimuth
DARK_QUANTILE = 0.005  # quantile of the pixels of a frame that gives its level without electrons
MIN_SHADOW_SIGMAS = 6.0  # standard errors of a smoothed pixel; smallest difference of bright azimuths from that level
STEP_FRACTION = 1 / 128  # fraction of the frame; width of the rings in which azimuths are compared
SMOOTHING_FRACTION = 1 / 256  # fraction of the frame, 1 sigma; smoothing of the pattern
NEAR_FRACTION = 0.03  # fraction of the frame; largest distance of the shadow from the direct beam that it hides
MIN_STOP_FRACTION, MAX_STOP_FRACTION = 5e-4, 0.4  # fraction of the frame's pixels; smallest and largest area of a stop
# Fraction of the parts of a scan; most in which a pixel behind a stop is lit, since a part may hold faulty frames;
# chosen, with room for a few of 64 parts.
MAX_LIT_PARTS = 0.05
EDGE_FRACTION = 0.006  # fraction of the frame; margin added around the shadow, since the edge of a stop is blurred


def find_stop(mean, good, center, parts=()) -> np.ndarray | None:
    """Find the shadow of a beam stop that hides the direct beam.

    Parameters
    ----------
    mean : numpy.ndarray, shape (Qx, Qy)
        Sum or mean of patterns, in electrons.
    good : numpy.ndarray of bool, shape (Qx, Qy)
        True where a pixel is good.
    center : array_like, shape (2,)
        Approximate position of the direct beam in pixels.
    parts : array_like, shape (n, Qx, Qy), optional
        Sums over parts of the scan, in electrons. Pixels that are clearly lit in some of them are not behind a stop.

    Returns
    -------
    numpy.ndarray of bool, shape (Qx, Qy), or None
        True behind the stop; None if no stop reaches the direct beam.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.origin import find_stop
    >>> x, y = np.indices((96, 96)) - 48
    >>> mean = 2e4 / (1 + (np.hypot(x, y) / 8) ** 2)
    >>> mean[:52, 44:53] *= 0.02
    >>> stop = find_stop(np.random.default_rng(0).poisson(mean), np.ones((96, 96), bool), (47, 49))
    >>> bool(stop[20, 48]), bool(stop[20, 60])
    (True, False)
    """
    mean, side = np.asarray(mean, float), max(mean.shape)
    outside = [max(-c, c - n) for c, n in zip(center, mean.shape, strict=True)]
    if not good.any() or not max(outside) < side:  # a beam this far outside the frame is not hidden by a stop
        return None
    width = max(1.0, SMOOTHING_FRACTION * side)
    smooth = masked_smooth(mean, good, width)
    x, y = np.indices(mean.shape)
    distance = np.hypot(x - center[0], y - center[1])
    ring = (distance / max(1.0, STEP_FRACTION * side)).astype(int)
    order = np.argsort(ring[good], kind="stable")
    # Rings that lie outside the frame, or contain no good pixel, are empty.
    values = np.split(smooth[good][order], np.cumsum(np.bincount(ring[good], minlength=ring.max() + 1))[:-1])
    bright = np.array([np.quantile(v, BRIGHT_AZIMUTHS) if len(v) else -np.inf for v in values])
    # The direct beam lies inside the shadow: no azimuth is bright close to it, but some are bright at larger distances.
    bright = np.maximum.accumulate(bright[::-1])[::-1]
    bright = bright[ring]
    level = np.quantile(smooth[good], DARK_QUANTILE)
    noise = np.sqrt(np.maximum(bright, 1) / (4 * np.pi * width**2))
    limit = level + SHADOW_FRACTION * (bright - level)
    shadow = (smooth < limit) & (bright - level > MIN_SHADOW_SIGMAS * noise)
    lit = np.zeros(mean.shape, int)
    for part in parts:
        expected = limit * part[good].sum() / mean[good].sum()
        lit += masked_smooth(part, good, width) - expected > MIN_SHADOW_SIGMAS * np.sqrt(
            np.maximum(expected, 1) / (4 * np.pi * width**2))
    shadow &= lit <= MAX_LIT_PARTS * len(parts)
    shadow = ndimage.binary_opening(ndimage.binary_closing(shadow | ~good, iterations=2), iterations=2)
    labels, _ = ndimage.label(shadow)
    near_beam = np.unique(labels[(distance <= max(2.0, NEAR_FRACTION * side)) & shadow])
    stop = np.isin(labels, near_beam[near_beam > 0]) & good
    if not MIN_STOP_FRACTION < stop.mean() < MAX_STOP_FRACTION:
        return None
    return ndimage.binary_dilation(stop, iterations=max(1, round(EDGE_FRACTION * side)))
