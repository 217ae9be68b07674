"""Direct beams at the edge of the detector: swapped quadrants, and disks that are cut.

If quadrants were swapped (a Fourier transform without `fftshift`), the pattern continues across opposite edges. If an
edge cuts the disk, its radius and its position are correlated, and the error is common to all positions.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.ndimage import gaussian_filter

from ..core import Decision, Flag, NoiseModel, OriginMap, Scan
from ..fits import OUTLINE_SIGMAS, disk_outline
from . import block_sums, is_vague, no_origin

WRAPPED_BLOCKS = 2  # number of blocks along each side of the scan whose patterns are summed
MAX_BEAM_DISTANCE = 0.08  # fraction of the side; largest distance from an edge of a spot that may continue beyond it
MIN_EDGE_BRIGHTNESS = 0.4  # fraction of the brightest pixel; smallest brightness of an edge that is compared
MIN_EDGE_ELECTRONS = 30.0  # electrons; smallest signal in the brightest pixel of an edge that is compared
MIN_CONTINUATION = 0.9  # cosine between the profiles of opposite edges minus their medians; 0 for independent profiles
# Fraction of its height; smallest fall of the profile of a beam within MIN_FALL_PX pixels or FALL_FRACTION of the edge.
MIN_FALL = 0.5
MIN_FALL_PX, FALL_FRACTION = 5, 0.05
MAX_HIDDEN_FRACTION = 0.2  # fraction of the disk's area; with more outside, radius and position cannot be separated
CIRCLE_PATTERNS = 64  # number of patterns in the sum in which the outline is found
# Radii; largest distance from an edge at which a larger disk than the located one may be cut, and radius of that disk:
# chosen, not measured.
MAX_LARGER_DISK = 2.0
MIN_CUT_SIGMA_PX = 0.01  # pixels; with a smaller error by the cut, the disk counts as whole
CUT_ERROR_RADII = 0.025  # radii, 1 sigma; error of the position at MAX_HIDDEN_FRACTION, proportional to the fraction


def check_edges(scan: Scan, noise: NoiseModel, origin: OriginMap) -> OriginMap:
    """Refuse an origin if the pattern continues across opposite edges, or if too much of the disk is cut.

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
        The given origin, with a flag and larger sigmas if an edge cuts the disk, or a refused one.
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
    middle = np.array([np.median(q[origin.valid]) for q in (origin.qx0, origin.qy0)])
    from_edge = np.minimum(middle, np.array(scan.pattern_shape) - 1 - middle).min()
    # A vague position may be that of a fringe in a larger disk, which is cut.
    larger = is_vague(origin) and from_edge < MAX_LARGER_DISK * origin.radius
    cut = sigma >= MIN_CUT_SIGMA_PX
    if not (cut or larger):
        return origin
    radius = origin.radius if cut else MAX_LARGER_DISK * origin.radius
    outline = disk_outline(_centered_sum(scan, noise, origin, middle), ~noise.bad_pixels, middle, radius)
    distance = np.inf if outline is None else float(np.hypot(*outline.offset))
    elsewhere = distance > OUTLINE_SIGMAS * np.hypot(sigma, origin.sigma)
    if cut and elsewhere:
        return no_origin(scan.scan_shape, Flag("beam_cut_off", {"percent": 100 * hidden}))
    if not cut:
        contradicted = elsewhere and outline is not None
        return no_origin(scan.scan_shape, Flag("outline_elsewhere", {"distance": distance})) if contradicted else origin
    flag = Flag("beam_cut", {"percent": 100 * hidden, "sigma": float(sigma)})
    return replace(origin, sigma_qx0=np.hypot(origin.sigma_qx0, sigma), sigma_qy0=np.hypot(origin.sigma_qy0, sigma),
                   radius_sigma=float(np.hypot(origin.radius_sigma, sigma)),  # position and radius are correlated
                   decision=Decision(True, (*origin.flags, flag), origin.decision.numbers))


def _centered_sum(scan, noise, origin, middle):
    """Sum (Qx, Qy) in electrons of a sample of patterns, shifted by whole pixels to the median position."""
    at = np.flatnonzero(origin.valid.ravel() & scan.readable.ravel())
    at = at[np.unique(np.linspace(0, len(at) - 1, CIRCLE_PATTERNS).astype(int))]
    shift = np.rint(middle[:, None] - [origin.qx0.ravel(), origin.qy0.ravel()]).astype(int)
    total = np.zeros(scan.pattern_shape)
    for index, block in scan.blocks(positions=at):
        for i, pattern in zip(index, noise.electrons(block), strict=True):
            total += np.roll(pattern, shift[:, i], (0, 1))
    return total


def hidden_fraction(distance: float, radius: float) -> float:
    """Compute the fraction of a disk's area beyond a straight edge.

    Parameters
    ----------
    distance : float
        Distance from the center to the edge in pixels; negative if the center lies beyond the edge.
    radius : float
        Radius of the disk, pixels.

    Returns
    -------
    float
        Fraction from 0 to 1.

    Examples
    --------
    >>> from py4dstem_prenet.origin import hidden_fraction
    >>> hidden_fraction(5.0, 5.0), hidden_fraction(0.0, 5.0)
    (0.0, 0.5)
    """
    u = float(np.clip(distance / radius, -1, 1))
    return float((np.arccos(u) - u * np.sqrt(1 - u * u)) / np.pi)


def continues_across_edges(pattern, good) -> bool:
    """Determine whether a pattern continues across opposite edges of the detector.

    Parameters
    ----------
    pattern : numpy.ndarray, shape (Qx, Qy)
        Sum of patterns, electrons.
    good : numpy.ndarray of bool, shape (Qx, Qy)
        Pixels to use.

    Returns
    -------
    bool
        True if bright profiles along two opposite edges are equal.

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
        usable = np.take(good, 0, axis) & np.take(good, -1, axis)
        if usable.sum() < 8:
            continue
        a, b = (edge[usable] - np.median(edge[usable]) for edge in (first, last))
        bright = min(a.max(), b.max())
        if bright < max(MIN_EDGE_BRIGHTNESS * top, MIN_EDGE_ELECTRONS):
            continue
        if a @ b <= MIN_CONTINUATION * np.sqrt((a @ a) * (b @ b)):
            continue
        # A ring that is wider than the frame is also symmetric, but its profile along an edge falls slowly.
        width = min(max(MIN_FALL_PX, int(FALL_FRACTION * len(a))), len(a) - 1)
        if np.abs((a + b)[width:] - (a + b)[:-width]).max() > MIN_FALL * (a + b).max():
            return True
    return False
