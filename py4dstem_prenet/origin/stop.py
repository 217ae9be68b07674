"""Beam stops that no mask names, found by their shadow.

About the direct beam the intensity falls with the distance, on whatever specimen. Behind a stop it is far below that
of other azimuths at the same or a larger distance, in a region that reaches the direct beam.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ..core import masked_smooth

# Set on five real patterns with stops, and on simulated crystals behind bars:
SHADOW_FRACTION = 0.35  # intensity behind a stop, of the bright azimuths at its distance, above the level of the frame
BRIGHT_AZIMUTHS = 0.75  # of the pixels at a distance; a stop covers less than this part of the azimuth
DARK_QUANTILE = 0.005  # of the pixels of a frame: its level without electrons
MIN_SHADOW_SIGMAS = 6.0  # standard errors of a smoothed pixel between the bright azimuths and the level of the frame
STEP_FRACTION = 1 / 128  # of the frame: width of the rings in which azimuths are compared
SMOOTHING_FRACTION = 1 / 256  # of the frame, 1 sigma
NEAR_FRACTION = 0.03  # of the frame: largest distance of a stop's shadow from the direct beam that it hides
MIN_STOP_FRACTION, MAX_STOP_FRACTION = 5e-4, 0.4  # of the frame's pixels in a stop
EDGE_FRACTION = 0.006  # of the frame: margin around the shadow, since the edge of a stop is blurred


def find_stop(mean, good, center) -> np.ndarray | None:
    """Find the shadow of a beam stop that hides the direct beam.

    Parameters
    ----------
    mean : numpy.ndarray, shape (Qx, Qy)
        Sum or mean of patterns, in electrons.
    good : numpy.ndarray of bool, shape (Qx, Qy)
        True where a pixel is good.
    center : array_like, shape (2,)
        Approximate position of the direct beam in pixels.

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
    off = [max(-c, c - n) for c, n in zip(center, mean.shape, strict=True)]
    if not good.any() or not max(off) < side:  # so far off the frame, nothing in it hides the beam
        return None
    width = max(1.0, SMOOTHING_FRACTION * side)
    smooth = masked_smooth(mean, good, width)
    x, y = np.indices(mean.shape)
    distance = np.hypot(x - center[0], y - center[1])
    ring = (distance / max(1.0, STEP_FRACTION * side)).astype(int)
    order = np.argsort(ring[good], kind="stable")
    # Rings nearer than the frame, or without a good pixel, are empty.
    values = np.split(smooth[good][order], np.cumsum(np.bincount(ring[good], minlength=ring.max() + 1))[:-1])
    bright = np.array([np.quantile(v, BRIGHT_AZIMUTHS) if len(v) else -np.inf for v in values])
    # The direct beam lies in the middle of the shadow: near it no azimuth is bright, but those farther out are.
    bright = np.maximum.accumulate(bright[::-1])[::-1]
    bright = bright[ring]
    level = np.quantile(smooth[good], DARK_QUANTILE)
    noise = np.sqrt(np.maximum(bright, 1) / (4 * np.pi * width**2))
    shadow = (smooth - level < SHADOW_FRACTION * (bright - level)) & (bright - level > MIN_SHADOW_SIGMAS * noise)
    shadow = ndimage.binary_opening(ndimage.binary_closing(shadow | ~good, iterations=2), iterations=2)
    labels, _ = ndimage.label(shadow)
    near = np.unique(labels[(distance <= max(2.0, NEAR_FRACTION * side)) & shadow])
    stop = np.isin(labels, near[near > 0]) & good
    if not MIN_STOP_FRACTION < stop.mean() < MAX_STOP_FRACTION:
        return None
    return ndimage.binary_dilation(stop, iterations=max(1, round(EDGE_FRACTION * side)))
