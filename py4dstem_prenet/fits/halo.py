"""Center of the diffuse scattering of a pattern, where the direct beam itself is not visible.

About the direct beam, diffuse scattering, rings and the tails of the beam depend on the distance only. The center is
the place about which the median at each distance describes the pattern best. A beam stop and Bragg disks cover a part
of the azimuth and are outliers there.

The center is searched in a binned pattern and refined by robust least squares, together with an ellipse: the deviations
from the radial profile are fitted by the derivative of the profile. Annuli are refined alone, too. Where they have
different centers, the pattern is not symmetric about any place, and the result is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d, maximum_filter

from ..core import NORMAL_MAD, TUKEY_CUT, jackknife_covariance, masked_smooth
from . import stabilized_bins

HALO_SIDE_PX, HALO_SEARCH_SIDE_PX = 256, 64  # pixels; larger patterns are binned, for speed
HALO_SMOOTHING_PX = 1.0  # binned pixels, 1 sigma, before medians are taken
SEARCH_REACH = 0.2  # of the side: radius of the area that judges a place in the search
HALO_SEARCH_STEP_PX, PEAK_SIDE, MAX_HALO_PLACES = 2, 3, 4  # binned pixels, steps, places that are refined
HALO_MIN_SEEN = 0.6  # part of the area about a center that is good and in the frame
CLIP_PART = 0.25  # of the range of an area's values: larger deviations, as of disks and stops, count alike
ANNULI = ((0.0, 0.1), (0.1, 0.2), (0.2, 0.35))  # of the side: inner and outer radius
HALO_OPPOSITE_SECTORS = 6  # pairs of opposite sectors of the jackknife
MIN_RING_PIXELS = 5  # pixels at a distance that a median needs
MIN_ANNULUS_PIXELS = 50  # pixels of an annulus
REFINEMENTS, HALO_MAX_STEP_PX, LAST_STEP_PX = 25, 1.0, 0.01  # steps, their largest length, and one that ends them
# Largest standard error of an accepted center, pixels and part of the frame. Of 138 scans of the simulated world 87
# had less than 0.8 px, all of them right within 1.0 px; others were off by up to 100 px.
MAX_HALO_SIGMA_PX, MAX_HALO_SIGMA_FRACTION = 0.8, 0.008
HALO_MIN_EXPLAINED = 0.15  # about centers 0.2 to 0.9, in noise 0.02
MAX_ELONGATION = 0.12  # length of the ellipse vector; 0.05 or less about centers, 0.4 about a point of a ridge
HALO_SYSTEMATIC_PX = 0.2  # binned pixels, 1 sigma along each axis
PRIOR = 1e-9  # of the normal equations, for patterns without any slope


@dataclass(frozen=True)
class HaloCenter:
    """Center of the diffuse scattering of a pattern.

    Attributes
    ----------
    center : numpy.ndarray, shape (2,)
        Center in pixels.
    sigma : float
        Standard error along one axis in pixels: of the sectors, and of the centers of the annuli.
    explained : float
        Part of the deviations from the median that the distance explains.
    accepted : bool
        Whether the pattern determines its center.
    """

    center: np.ndarray
    sigma: float
    explained: float
    accepted: bool


def halo_place(mean, good, readout: float = 0.0, starts=()) -> np.ndarray | None:
    """Find the place about which the distance explains a pattern best; `halo_center` decides whether it is a center.

    Parameters
    ----------
    mean : numpy.ndarray, shape (Qx, Qy)
        Sum of patterns in electrons.
    good : numpy.ndarray of bool, shape (Qx, Qy)
        True where a pixel is good.
    readout : float, optional
        Read-out noise of the sum in electrons, rms.
    starts : array_like, shape (n, 2), optional
        Places in pixels that are tried in addition to those of the search.

    Returns
    -------
    numpy.ndarray or None
        The place (qx, qy) in pixels; None if no area of the pattern can be judged.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.fits import halo_place
    >>> x, y = np.indices((96, 96))
    >>> halo_place(400 / (1 + ((x - 45) ** 2 + (y - 50) ** 2) / 50), np.ones((96, 96), bool)).round().tolist()
    [45.0, 50.0]
    """
    points, side, step = _points(mean, good, readout)
    coarse, seen, further = _binned(mean, good, readout, HALO_SEARCH_SIDE_PX)
    best, explained = None, 0.0
    for place in (*(_places(coarse, seen) * further + (further - 1) / 2), *np.reshape(starts, (-1, 2))):
        center, _ = _refined(points, (place - (step - 1) / 2) / step, 0.0, ANNULI[-1][1] * side)
        part = _explained_about(points, center, SEARCH_REACH * side)
        if part > explained:
            best, explained = center, part
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
        The place that `halo_place` found in this pattern, pixels.
    readout : float, optional
        Read-out noise of the sum in electrons, rms.

    Returns
    -------
    HaloCenter
        The center with its sigma, accepted or not.

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
    points, side, step = _points(mean, good, readout)
    outer = ANNULI[-1][1] * side
    center, elongation = _refined(points, (np.asarray(place, float) - (step - 1) / 2) / step, 0.0, outer)
    explained = _explained_about(points, center, SEARCH_REACH * side)
    annuli = np.array([_refined(points, center, low * side, high * side)[0] for low, high in ANNULI])
    parts = np.array([_refined(points, center, 0.0, outer, left_out=k)[0] for k in range(HALO_OPPOSITE_SECTORS)])
    sectors = np.trace(jackknife_covariance(parts)) / 2 if np.isfinite(parts).all() else np.inf
    # All annuli count alike: where one is symmetric about another place, as disks are, the pattern has no such center.
    apart = (annuli - center)[np.isfinite(annuli).all(1)]
    between = (apart**2).sum() / (2 * len(apart) - 2) / len(apart) if len(apart) > 1 else np.inf
    sigma = float(np.sqrt(sectors + between + HALO_SYSTEMATIC_PX**2) * step)
    certain = sigma < max(MAX_HALO_SIGMA_PX, MAX_HALO_SIGMA_FRACTION * max(mean.shape))
    accepted = certain and elongation < MAX_ELONGATION and explained > HALO_MIN_EXPLAINED
    return HaloCenter(center * step + (step - 1) / 2, sigma, explained, bool(accepted))


def _points(mean, good, readout):
    """Usable pixels and their values, the side of the binned pattern, and that of a bin."""
    z, usable, step = _binned(mean, good, readout, HALO_SIDE_PX)
    x, y = np.nonzero(usable)
    return (np.stack([x, y]).astype(float), z[usable]), max(z.shape), step


def _binned(mean, good, readout, largest):
    """Square roots of the counts, binned and smoothed, (Hx, Hy); which of them are usable; and the side of a bin."""
    z, usable, step = stabilized_bins(mean, good, readout, largest)
    return masked_smooth(z, usable, HALO_SMOOTHING_PX), usable, step


def _places(z, usable):
    """Places that explain their surroundings best, (n, 2) binned pixels, the best first and none beside another."""
    reach = SEARCH_REACH * max(z.shape)
    axis = np.arange(-int(reach), int(reach) + 1)
    dx, dy = (a.ravel() for a in np.meshgrid(axis, axis, indexing="ij"))
    distance = np.hypot(dx, dy)
    inside = distance < reach
    dx, dy, ring = dx[inside], dy[inside], distance[inside].astype(int)
    margin = int(reach)
    z, usable = (np.pad(image, margin) for image in (z, usable))
    shape = [-(-(n - 2 * margin) // HALO_SEARCH_STEP_PX) for n in z.shape]
    at = HALO_SEARCH_STEP_PX * np.indices(shape).reshape(2, -1, 1) + margin
    x, y = at[0] + dx, at[1] + dy
    held = usable[x, y]
    parts = np.where(held.mean(1) >= HALO_MIN_SEEN, _explained(z[x, y], held, ring), 0.0).reshape(shape)
    peaks = np.argwhere((parts > 0) & (parts == maximum_filter(parts, PEAK_SIDE)))
    order = np.argsort(-parts[tuple(peaks.T)], kind="stable")
    return HALO_SEARCH_STEP_PX * peaks[order[:MAX_HALO_PLACES]].astype(float)


def _explained_about(points, center, reach):
    """Part of the deviations within reach of a center that the distance explains."""
    (x, y), values = points
    distance = np.hypot(x - center[0], y - center[1])
    inside = distance < reach  # nowhere if the center is NaN
    if inside.sum() < max(MIN_ANNULUS_PIXELS, HALO_MIN_SEEN * np.pi * reach**2):
        return 0.0
    return float(_explained(values[inside], np.ones(inside.sum(), bool), distance[inside].astype(int)))


def _explained(values, held, ring):
    """Part of the clipped deviations from the median that the medians of the rings explain, (...).

    values, held : (..., n), and which of them are used; ring : (n,), the ring of each.
    """
    count = held.sum(-1)
    low, middle, high = (_quantile(values, held, part) for part in (0.05, 0.5, 0.95))
    clip = CLIP_PART * (high - low)
    total = left = rings = 0.0
    for k in np.unique(ring):
        v, h = values[..., ring == k], held[..., ring == k]
        off, spread = (np.where(h, np.minimum(np.abs(v - center[..., None]), clip[..., None]), 0.0).sum(-1)
                       for center in (_quantile(v, h, 0.5), middle))
        left, total, rings = left + off, total + spread, rings + h.any(-1)
    usual = total / np.maximum(count - 1, 1)
    return np.where(usual > 0, 1 - left / np.maximum(count - rings, 1) / np.where(usual > 0, usual, 1.0), 0.0)


def _quantile(values, held, part):
    """Quantile of the held values along the last axis, the upper one of two; 0 where none is held."""
    ordered = np.sort(np.where(held, values, np.inf), axis=-1)
    at = np.minimum((part * held.sum(-1)).astype(int), values.shape[-1] - 1)
    found = np.take_along_axis(ordered, at[..., None], -1)[..., 0]
    return np.where(np.isfinite(found), found, 0.0)


def _medians(values, ring, number):
    """Median of the values in each ring, (number,), and how many there are; empty rings hold any value."""
    count = np.bincount(ring, minlength=number)
    first = np.cumsum(count) - count
    ordered = values[np.lexsort((values, ring))]
    return ordered[np.minimum(first + count // 2, len(values) - 1)], count


def _refined(points, center, inner, outer, left_out=None):
    """The center of an annulus, (2,) binned pixels, from a start, and its elongation; NaN if it is not seen.

    With a profile p(r), a pattern whose center is moved by d differs by -p'(r) d * n, n being the direction; an ellipse
    adds -p'(r) r (a cos 2 phi + b sin 2 phi).
    """
    (x, y), values = points
    number = int(outer) + 1
    for _ in range(REFINEMENTS):
        dx, dy = x - center[0], y - center[1]
        distance = np.hypot(dx, dy)
        inside = (distance >= inner) & (distance < outer)
        if left_out is not None:
            sector = (np.arctan2(dy, dx) % np.pi * HALO_OPPOSITE_SECTORS / np.pi).astype(int)
            inside &= sector != left_out
        if inside.sum() < MIN_ANNULUS_PIXELS:
            return np.full(2, np.nan), np.inf
        r, v = distance[inside], values[inside]
        cosine, sine = dx[inside] / np.maximum(r, 1e-9), dy[inside] / np.maximum(r, 1e-9)
        ring = r.astype(int)
        median, count = _medians(v, ring, number)
        known = np.flatnonzero(count >= MIN_RING_PIXELS)
        if len(known) < 3:
            return np.full(2, np.nan), np.inf
        spread, _ = _medians(np.abs(v - median[ring]), ring, number)
        profile = gaussian_filter1d(np.interp(np.arange(number), known, median[known]), 1.0, mode="nearest")
        spread = gaussian_filter1d(np.interp(np.arange(number), known, spread[known]), 2.0, mode="nearest")
        sigma = np.maximum(spread / NORMAL_MAD, np.median(spread[known]) / 3 + 1e-9)[ring]
        middle = np.arange(number) + 0.5
        slope = np.interp(r, middle, np.gradient(profile))
        residual = v - np.interp(r, middle, profile)
        weight = (1 - np.minimum((residual / (TUKEY_CUT * sigma)) ** 2, 1)) ** 2 / sigma**2
        design = -slope[:, None] * np.stack([cosine, sine, r * (cosine**2 - sine**2), 2 * r * cosine * sine], 1)
        gram = (design * weight[:, None]).T @ design + PRIOR * np.eye(4)
        solution = np.linalg.solve(gram, (design * weight[:, None]).T @ residual)
        step = solution[:2].clip(-HALO_MAX_STEP_PX, HALO_MAX_STEP_PX)
        center = center + step
        if np.hypot(*step) < LAST_STEP_PX:
            break
    return center, float(np.hypot(*solution[2:]))
