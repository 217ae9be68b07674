"""Direct beams at the edge of the detector: quadrants that were swapped, and disks that are cut.

If quadrants were swapped (a Fourier transform without `fftshift`), the pattern continues across opposite edges. If an
edge cuts the disk, its radius and its position are not independent: the error is common to all positions.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from ..core import Decision, Flag, NoiseModel, OriginMap, Scan
from ..fits import kasa_circle
from . import block_sums, no_origin

WRAPPED_BLOCKS = 2  # blocks along each side of the scan whose patterns are summed
MAX_BEAM_DISTANCE = 0.08  # of the brightest spot from an edge in the side; nearer ones may continue beyond it
MIN_EDGE_BRIGHTNESS = 0.4  # brightest pixel at an edge in the brightest of the pattern; fainter edges tell nothing
MIN_EDGE_ELECTRONS = 30.0  # electrons in the brightest pixel of an edge, for profiles to be compared
MIN_CONTINUATION = 0.9  # cosine between the profiles of opposite edges, less their medians; 0 for independent ones
MIN_FALL = 0.5  # of its height by which the profile of a beam falls within so many pixels, or so much of the edge
MIN_FALL_PX, FALL_FRACTION = 5, 0.05
MAX_HIDDEN_FRACTION = 0.2  # hidden part of the disk's area; with more, radius and position cannot be told apart
CIRCLE_PATTERNS, CIRCLE_RAYS = 64, 72  # patterns in the sum, and rays, to which the circle is fitted
MAX_CIRCLE_SIGMAS = 3.0  # between the position and the center of a circle through the edge
CUT_ERROR_RADII = 0.025  # error of the position in radii at that fraction, 1 sigma; less in proportion


def check_edges(scan: Scan, noise: NoiseModel, origin: OriginMap) -> OriginMap:
    """Refuse an origin where the pattern continues across opposite edges, or too much of the disk is cut.

    Parameters
    ----------
    scan : Scan
        The scan, or a sample of one.
    noise : NoiseModel
        Noise model of the detector.
    origin : OriginMap
        The measured origin.

    Returns
    -------
    OriginMap
        The same; with a flag and larger sigmas if an edge cuts the disk; or refused.
    """
    if not origin.found:
        return origin
    if continues_across_edges(block_sums(scan, noise, WRAPPED_BLOCKS)[0].sum(0), ~noise.bad_pixels):
        return no_origin(scan.scan_shape, Flag("quadrants_swapped"))
    if not (np.isfinite(origin.radius) and origin.valid.any()):
        return origin
    hidden = sum(hidden_fraction(float(np.median(np.minimum(q, n - 1 - q)[origin.valid])) + 0.5, origin.radius)
                 for q, n in zip((origin.qx0, origin.qy0), scan.pattern_shape, strict=True))
    if hidden > MAX_HIDDEN_FRACTION:
        return no_origin(scan.scan_shape, Flag("beam_cut_off", {"percent": 100 * hidden}))
    sigma = CUT_ERROR_RADII * origin.radius * hidden / MAX_HIDDEN_FRACTION
    if sigma < 0.01:
        return origin
    middle = np.array([np.median(q[origin.valid]) for q in (origin.qx0, origin.qy0)])
    circle = edge_circle(_centered_sum(scan, noise, origin, middle), ~noise.bad_pixels, middle, origin.radius)
    if circle is None or np.hypot(*(circle - middle)) > MAX_CIRCLE_SIGMAS * np.hypot(sigma, origin.sigma):
        return no_origin(scan.scan_shape, Flag("beam_cut_off", {"percent": 100 * hidden}))
    flag = Flag("beam_cut", {"percent": 100 * hidden, "sigma": float(sigma)})
    return replace(origin, sigma_qx0=np.hypot(origin.sigma_qx0, sigma), sigma_qy0=np.hypot(origin.sigma_qy0, sigma),
                   decision=Decision(True, (*origin.flags, flag), origin.decision.numbers))


def _centered_sum(scan, noise, origin, middle):
    """Sum of some patterns, moved by whole pixels to the median position, electrons (Qx, Qy)."""
    at = np.flatnonzero(origin.valid.ravel() & scan.readable.ravel())
    at = at[np.unique(np.linspace(0, len(at) - 1, CIRCLE_PATTERNS).astype(int))]
    shift = np.rint(middle[:, None] - [origin.qx0.ravel(), origin.qy0.ravel()]).astype(int)
    total = np.zeros(scan.pattern_shape)
    for index, block in scan.blocks(positions=at):
        for i, pattern in zip(index, noise.electrons(block), strict=True):
            total += np.roll(pattern, shift[:, i], (0, 1))
    return total


def edge_circle(pattern, good, center, radius: float):
    """Fit a circle to the edge of a disk that the detector cuts.

    Along rays from the center the edge is where the intensity falls most, within the detector.

    Parameters
    ----------
    pattern : numpy.ndarray, shape (Qx, Qy)
        Sum of patterns, electrons.
    good : numpy.ndarray of bool, shape (Qx, Qy)
        Pixels to use.
    center : array_like, shape (2,)
        Approximate center, pixels.
    radius : float
        Approximate radius, pixels.

    Returns
    -------
    numpy.ndarray or None
        Center of the circle, (2,), pixels; None if less than a third of the edge is seen.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.origin import edge_circle
    >>> x, y = np.indices((64, 64))
    >>> disk = 1 / (1 + np.exp(np.hypot(x - 8, y - 30) - 14))
    >>> edge_circle(disk, np.ones(disk.shape, bool), (11, 31), 13.0).round().tolist()
    [8.0, 30.0]
    """
    angles = np.arange(CIRCLE_RAYS) * 2 * np.pi / CIRCLE_RAYS
    steps = np.arange(0.4 * radius, 1.9 * radius + 2, 0.5)
    rays = np.stack([c + steps * f(angles)[:, None] for c, f in zip(center, (np.cos, np.sin), strict=True)])
    inside = np.logical_and.reduce([(r >= 1) & (r <= n - 2) for r, n in zip(rays, pattern.shape, strict=True)])
    inside &= map_coordinates(good.astype(float), rays, order=1, mode="nearest") > 0.99
    values = map_coordinates(gaussian_filter(pattern.astype(float), 0.7), rays, order=1, mode="nearest")
    fall = np.where(inside[:, 4:] & inside[:, :-4], values[:, :-4] - values[:, 4:], -np.inf)
    at = fall.argmax(1)
    deepest = fall.max(1)
    seen = (deepest > 0.4 * np.quantile(deepest, 0.8)) & (at > 0) & (at < fall.shape[1] - 1)
    rows = np.arange(CIRCLE_RAYS)[seen]
    points = rays[:, rows, at[seen] + 2]
    for _ in range(6):  # Kasa's fit, without points far from the circle
        if points.shape[1] < CIRCLE_RAYS / 3:
            return None
        found, _ = kasa_circle(points)
        off = np.hypot(*(points - found[:, None]))
        off = np.abs(off - np.median(off))
        points = points[:, off <= max(1.0, 3 * np.median(off))]
    return found


def hidden_fraction(distance: float, radius: float) -> float:
    """Part of a disk's area beyond a straight edge.

    Parameters
    ----------
    distance : float
        From the center to the edge, pixels; negative beyond it.
    radius : float
        Radius of the disk, pixels.

    Returns
    -------
    float
        From 0 to 1.

    Examples
    --------
    >>> from py4dstem_prenet.origin import hidden_fraction
    >>> hidden_fraction(5.0, 5.0), hidden_fraction(0.0, 5.0)
    (0.0, 0.5)
    """
    u = float(np.clip(distance / radius, -1, 1))
    return float((np.arccos(u) - u * np.sqrt(1 - u * u)) / np.pi)


def continues_across_edges(pattern, good) -> bool:
    """Whether a pattern continues across opposite edges of the detector.

    Parameters
    ----------
    pattern : numpy.ndarray, shape (Qx, Qy)
        Sum of patterns, electrons.
    good : numpy.ndarray of bool, shape (Qx, Qy)
        Pixels to use.

    Returns
    -------
    bool
        True if bright profiles along two opposite edges are alike.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.origin import continues_across_edges
    >>> x, y = np.indices((64, 64)) - 32
    >>> disk = 500.0 * (np.hypot(x, y) < 8) + 1
    >>> good = np.ones(disk.shape, bool)
    >>> continues_across_edges(disk, good), continues_across_edges(np.fft.ifftshift(disk), good)
    (False, True)
    """
    top = np.quantile(pattern[good], 0.999) if good.any() else 0.0
    brightest = np.unravel_index(gaussian_filter(np.where(good, pattern, 0.0), 2.0, mode="nearest").argmax(),
                                 pattern.shape)
    for axis in (0, 1):
        side = pattern.shape[axis]
        if min(brightest[axis], side - 1 - brightest[axis]) > MAX_BEAM_DISTANCE * side:
            continue
        first, last = (np.take(pattern, k, axis) for k in (0, -1))
        both = np.take(good, 0, axis) & np.take(good, -1, axis)
        if both.sum() < 8:
            continue
        a, b = (edge[both] - np.median(edge[both]) for edge in (first, last))
        bright = min(a.max(), b.max())
        if bright < max(MIN_EDGE_BRIGHTNESS * top, MIN_EDGE_ELECTRONS):
            continue
        if a @ b <= MIN_CONTINUATION * np.sqrt((a @ a) * (b @ b)):
            continue
        # A ring that is wider than the frame is symmetric, too, but along an edge it falls slowly.
        width = min(max(MIN_FALL_PX, int(FALL_FRACTION * len(a))), len(a) - 1)
        if np.abs((a + b)[width:] - (a + b)[:-width]).max() > MIN_FALL * (a + b).max():
            return True
    return False
