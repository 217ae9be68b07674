"""Center of the diffuse scattering of a pattern, where the direct beam itself is not visible.

Diffuse scattering, rings and the tails of the beam depend only on the distance from the direct beam. The center is the
point about which the median at each distance describes the pattern best. A beam stop and Bragg disks cover only part of
the azimuth and are treated as outliers.

The center is searched in a binned pattern and refined by robust least squares, together with an ellipse: the deviations
from the radial profile are fitted by the derivative of the profile. The refinement is repeated in separate annuli. If
they have different centers, the pattern is not symmetric about any point, and the result is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d, maximum_filter

from ..core import NORMAL_MAD, TUKEY_CUT, jackknife_covariance, masked_smooth
from . import MAX_BINNED_SIDE, OPPOSITE_SECTORS, stabilized_bins

SEARCH_REACH = 0.2  # fraction of the longer side; radius of the area in which a candidate center is scored
HALO_SEARCH_STEP_PX = 2  # binned pixels between candidate centers
MAX_HALO_PLACES = 4  # number of local maxima that are refined
HALO_MIN_SEEN = 0.6  # fraction; smallest part of the area about a center that is good and inside the frame
# Fraction of the range of values in an area; deviations are clipped at it, so that disks and stops do not dominate.
CLIP_PART = 0.25
ANNULI = ((0.0, 0.1), (0.1, 0.2), (0.2, 0.35))  # fractions of the longer side; inner and outer radius of each annulus
MIN_RING_PIXELS = 5  # pixels; fewest at a distance for which a median is computed
MIN_ANNULUS_PIXELS = 50  # pixels; fewest in an annulus that is fitted
HALO_MAX_STEP_PX = 1.0  # binned pixels; longest step of the refinement
# Pixels, and fraction of the frame; largest standard error of an accepted center. Of 138 scans of the simulated world
# 87 had less than 0.8 px, and all of these were correct within 1.0 px; others were wrong by up to 100 px.
MAX_HALO_SIGMA_PX, MAX_HALO_SIGMA_FRACTION = 0.8, 0.008
HALO_MIN_EXPLAINED = 0.15  # fraction; smallest `HaloCenter.explained` of a center: 0.2 to 0.9 at centers, 0.02 in noise
MAX_ELONGATION = 0.12  # largest length of the ellipse vector; 0.05 or less about centers, 0.4 about a point of a ridge
HALO_SYSTEMATIC_PX = 0.2  # binned pixels, 1 sigma along each axis; systematic error of the center


@dataclass(frozen=True)
class HaloCenter:
    """Center of the diffuse scattering of a pattern.

    Attributes
    ----------
    center : numpy.ndarray, shape (2,)
        Center in pixels.
    sigma : float
        Standard error along one axis in pixels, from a jackknife over sectors and from the scatter of the annuli.
    explained : float
        Fraction of the absolute deviations from the median that the distance from the center explains.
    accepted : bool
        Whether the pattern determines its center.
    """

    center: np.ndarray
    sigma: float
    explained: float
    accepted: bool


def halo_place(mean, good, readout: float = 0.0, starts=(), allowed=None) -> np.ndarray | None:
    """Find the point about which the radial median describes a pattern best; `halo_center` then tests it.

    Parameters
    ----------
    mean : numpy.ndarray, shape (Qx, Qy)
        Sum of patterns in electrons.
    good : numpy.ndarray of bool, shape (Qx, Qy)
        True where a pixel is good.
    readout : float, optional
        Read-out noise of the sum in electrons, rms.
    starts : array_like, shape (n, 2), optional
        Positions in pixels that are tried in addition to those of the search.
    allowed : callable, optional
        Takes a position (qx, qy) in pixels and returns whether it may be the center; all positions by default.

    Returns
    -------
    numpy.ndarray or None
        The point (qx, qy) in pixels; None if too few pixels are good about every candidate.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.fits import halo_place
    >>> x, y = np.indices((96, 96))
    >>> halo_place(400 / (1 + ((x - 45) ** 2 + (y - 50) ** 2) / 50), np.ones((96, 96), bool)).round().tolist()
    [45.0, 50.0]
    """
    points, side, step = _points(mean, good, readout, MAX_BINNED_SIDE // 2)
    coarse, coarse_usable, coarse_step = _binned(mean, good, readout, MAX_BINNED_SIDE // 4)
    best, explained = None, 0.0
    for place in (*(_places(coarse, coarse_usable) * coarse_step + (coarse_step - 1) / 2),
                  *np.reshape(starts, (-1, 2))):
        center, _ = _refined(points, (place - (step - 1) / 2) / step, 0.0, ANNULI[-1][1] * side)
        if allowed is not None and not allowed(center * step + (step - 1) / 2):
            continue
        candidate_explained = _explained_about(points, center, SEARCH_REACH * side)
        if candidate_explained > explained:
            best, explained = center, candidate_explained
    return None if best is None else best * step + (step - 1) / 2


def halo_center(mean, good, place, readout: float = 0.0) -> HaloCenter:
    """Measure the center of the diffuse scattering of a pattern.

    Parameters
    ----------
    mean : numpy.ndarray, shape (Qx, Qy)
        Sum of patterns in electrons.
    good : numpy.ndarray of bool, shape (Qx, Qy)
        True where a pixel is good.
    place : array_like, shape (2,)
        Result of `halo_place` for this pattern, in pixels.
    readout : float, optional
        Read-out noise of the sum in electrons, rms.

    Returns
    -------
    HaloCenter
        The center, its standard error, and whether it is accepted.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.fits import halo_center, halo_place
    >>> x, y = np.indices((96, 96))
    >>> mean = 400 / (1 + ((x - 45) ** 2 + (y - 50) ** 2) / 50)
    >>> mean[:49, 47:54] *= 0.05  # a stop
    >>> counts, good = np.random.default_rng(0).poisson(mean), np.ones(mean.shape, bool)
    >>> found = halo_center(counts, good, halo_place(counts, good))
    >>> found.center.round().tolist(), found.accepted
    ([45.0, 50.0], True)
    """
    points, side, step = _points(mean, good, readout, MAX_BINNED_SIDE)
    outer = ANNULI[-1][1] * side
    center, elongation = _refined(points, (np.asarray(place, float) - (step - 1) / 2) / step, 0.0, outer)
    explained = _explained_about(points, center, SEARCH_REACH * side)
    annuli = np.array([_refined(points, center, low * side, high * side)[0] for low, high in ANNULI])
    without = np.array([_refined(points, center, 0.0, outer, left_out=k)[0] for k in range(OPPOSITE_SECTORS)])
    sector_variance = np.trace(jackknife_covariance(without)) / 2 if np.isfinite(without).all() else np.inf
    # Annuli have equal weights: if one is symmetric about a different point, as disks are, the pattern has no center.
    offsets = (annuli - center)[np.isfinite(annuli).all(1)]
    annulus_variance = (offsets**2).sum() / (2 * len(offsets) - 2) / len(offsets) if len(offsets) > 1 else np.inf
    sigma = float(np.sqrt(sector_variance + annulus_variance + HALO_SYSTEMATIC_PX**2) * step)
    certain = sigma < max(MAX_HALO_SIGMA_PX, MAX_HALO_SIGMA_FRACTION * max(mean.shape))
    accepted = certain and elongation < MAX_ELONGATION and explained > HALO_MIN_EXPLAINED
    return HaloCenter(center * step + (step - 1) / 2, sigma, explained, bool(accepted))


def _points(mean, good, readout, largest):
    """Usable pixels in the order of their values, the longer side of the binned pattern, and the side of a bin."""
    z, usable, step = _binned(mean, good, readout, largest)
    at, values = np.stack(np.nonzero(usable)), z[usable]
    ascending = np.argsort(values, kind="stable")  # once here, and not in each step of each refinement
    return (at[:, ascending].astype(float), values[ascending]), max(z.shape), step


def _binned(mean, good, readout, largest):
    """Square roots of the counts, binned and smoothed (Hx, Hy), the mask of usable bins, and the side of a bin."""
    z, usable, step = stabilized_bins(mean, good, readout, largest)
    return masked_smooth(z, usable, 1.0), usable, step  # 1 sigma of the smoothing, binned pixels


def _places(z, usable):
    """Candidate centers (n, 2) in binned pixels: local maxima of the explained deviations, the largest first."""
    reach = SEARCH_REACH * max(z.shape)
    axis = np.arange(-int(reach), int(reach) + 1)
    dx, dy = (a.ravel() for a in np.meshgrid(axis, axis, indexing="ij"))
    distance = np.hypot(dx, dy)
    inside = distance < reach
    dx, dy, ring = dx[inside], dy[inside], distance[inside].astype(int)
    margin = int(reach)
    z, usable = (np.pad(image, margin) for image in (z, usable))
    shape = [-(-(n - 2 * margin) // HALO_SEARCH_STEP_PX) for n in z.shape]
    centers = HALO_SEARCH_STEP_PX * np.indices(shape).reshape(2, -1, 1) + margin
    x, y = centers[0] + dx, centers[1] + dy
    covered = usable[x, y]
    explained = np.where(covered.mean(1) >= HALO_MIN_SEEN, _explained(z[x, y], covered, ring), 0.0).reshape(shape)
    peaks = np.argwhere((explained > 0) & (explained == maximum_filter(explained, 3)))
    order = np.argsort(-explained[tuple(peaks.T)], kind="stable")
    return HALO_SEARCH_STEP_PX * peaks[order[:MAX_HALO_PLACES]].astype(float)


def _explained_about(points, center, reach):
    """Fraction of the deviations within reach of a center that the distance from it explains."""
    (x, y), values = points
    distance = np.hypot(x - center[0], y - center[1])
    inside = distance < reach  # nowhere if the center is NaN
    if inside.sum() < max(MIN_ANNULUS_PIXELS, HALO_MIN_SEEN * np.pi * reach**2):
        return 0.0
    return float(_explained(values[inside], np.ones(inside.sum(), bool), distance[inside].astype(int)))


def _explained(values, held, ring):
    """Fraction (...) of the clipped deviations from the median that the medians of the rings explain.

    values : (..., n); held : (..., n), True where a value is used; ring : (n,), ring index of each value.
    """
    count = held.sum(-1)
    low, middle, high = (_quantile(values, held, part) for part in (0.05, 0.5, 0.95))
    clip = CLIP_PART * (high - low)
    total = within_rings = rings = 0.0
    for k in np.unique(ring):
        v, h = values[..., ring == k], held[..., ring == k]
        inner, whole = (np.where(h, np.minimum(np.abs(v - center[..., None]), clip[..., None]), 0.0).sum(-1)
                        for center in (_quantile(v, h, 0.5), middle))
        within_rings, total, rings = within_rings + inner, total + whole, rings + h.any(-1)
    expected = total / np.maximum(count - 1, 1)
    return np.where(expected > 0,
                    1 - within_rings / np.maximum(count - rings, 1) / np.where(expected > 0, expected, 1.0), 0.0)


def _quantile(values, held, part):
    """Quantile of the values with `held` True along the last axis, the upper one of two; 0 if there are none."""
    ordered = np.sort(np.where(held, values, np.inf), axis=-1)
    index = np.minimum((part * held.sum(-1)).astype(int), values.shape[-1] - 1)
    quantile = np.take_along_axis(ordered, index[..., None], -1)[..., 0]
    return np.where(np.isfinite(quantile), quantile, 0.0)


def _ring_quantiles(values, ring, number):
    """Quartiles (3, number) and count of ascending values in each ring; quartiles of an empty ring are arbitrary."""
    count = np.bincount(ring, minlength=number)
    first = np.cumsum(count) - count
    ordered = values[np.argsort(ring.astype(np.uint16), kind="stable")]  # a radix sort, which keeps values ascending
    quartiles = first + np.arange(1, 4)[:, None] * count // 4
    return ordered[np.minimum(quartiles, len(values) - 1)], count


def _refined(points, center, inner, outer, left_out=None):
    """Refine the center (2,) of an annulus in binned pixels, and its elongation; NaN if too few pixels are usable.

    If p(r) is the radial profile, a shift d of the center changes the pattern by -p'(r) d . n, where n is the unit
    vector away from the center; an ellipse changes it by -p'(r) r (a cos 2 phi + b sin 2 phi).
    """
    (x, y), values = points
    number = int(outer) + 1
    for _ in range(25):  # largest number of steps
        dx, dy = x - center[0], y - center[1]
        distance = np.sqrt(dx * dx + dy * dy)  # several times faster than `numpy.hypot`
        inside = (distance >= inner) & (distance < outer)
        if left_out is not None:
            sector = (np.arctan2(dy, dx) % np.pi * OPPOSITE_SECTORS / np.pi).astype(int)
            inside &= sector != left_out
        if inside.sum() < MIN_ANNULUS_PIXELS:
            return np.full(2, np.nan), np.inf
        r, v = distance[inside], values[inside]
        inverse = 1 / np.maximum(r, 1e-9)
        cosine, sine = dx[inside] * inverse, dy[inside] * inverse
        ring = r.astype(int)
        (lower, median, upper), count = _ring_quantiles(v, ring, number)
        measured = np.flatnonzero(count >= MIN_RING_PIXELS)
        if len(measured) < 3:
            return np.full(2, np.nan), np.inf
        spread = np.minimum(upper - median, median - lower)  # a stop widens one side, and disks the other one
        profile = gaussian_filter1d(np.interp(np.arange(number), measured, median[measured]), 1.0, mode="nearest")
        spread = gaussian_filter1d(np.interp(np.arange(number), measured, spread[measured]), 2.0, mode="nearest")
        sigma = np.maximum(spread / NORMAL_MAD, np.median(spread[measured]) / 3 + 1e-9)[ring]
        # Profile and slope between the middles of the rings. The rings are evenly spaced: `numpy.interp` is slower.
        part = np.clip(r - 0.5, 0, number - 1)
        below = np.minimum(part.astype(int), number - 2)
        part -= below
        gradient = np.gradient(profile)
        slope = gradient[below] + part * np.diff(gradient)[below]
        residual = v - profile[below] - part * np.diff(profile)[below]
        weight = (1 - np.minimum((residual / (TUKEY_CUT * sigma)) ** 2, 1)) ** 2 / sigma**2
        design = -slope * np.stack([cosine, sine, r * (cosine**2 - sine**2), 2 * r * cosine * sine])
        weighted = design * weight
        # The ridge is for patterns without any slope.
        solution = np.linalg.solve(weighted @ design.T + 1e-9 * np.eye(4), weighted @ residual)
        step = solution[:2].clip(-HALO_MAX_STEP_PX, HALO_MAX_STEP_PX)
        center = center + step
        if np.hypot(*step) < 0.01:  # converged
            break
    return center, float(np.hypot(*solution[2:]))
