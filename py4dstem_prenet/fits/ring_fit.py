"""Elliptical distortion and center from the pattern outside the direct beam.

Conventions are those of `core.geometry`.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from ..core import PrenetError, jackknife_covariance
from .polar_fit import (
    MAP_AZIMUTHS,
    MIN_JACKKNIFE_PARTS,
    UNKNOWN_COVARIANCE,
    fit_polar,
    leave_out_parts,
    leave_out_sectors,
    radial_profile,
    read_polar,
    shrinkage_weight,
    smooth_image,
)

MIN_RING_SPAN_PX = 12  # pixels; smallest range of radii outside the direct beam in which rings are fitted
# Set on simulated glasses, powders and crystals:
RING_INFLATION = 2.5  # factor on the covariance, from the pulls of simulated glasses and powders
MIN_COVERED_AZIMUTH = 1 / 3  # fraction of the azimuth on good pixels; smallest one at a radius with rings
MIN_HUB_PX = 4.0  # pixels; smallest radius of a stop that hides the direct beam: bad pixels inside it are fewer
MIN_RING_CONTINUITY = 0.35  # fraction of the azimuth; smallest part that contains the signal of rings
GRAIN_SIGMA = 0.03  # sigma of each component of the vector if few grains contribute, from their strain and orientation
RING_SYSTEMATIC = 0.001  # systematic error of each component of the vector, 1 sigma
# Pixels, and length of a vector; largest differences of two fits that found the same minimum. Other minima are a period
# of the rings or more away.
SAME_MINIMUM_PX, SAME_MINIMUM_VECTOR = 0.5, 0.02
MAX_ECCENTRICITY = 0.3  # length of the ellipse vector; a larger one shows that a fit has diverged


@dataclass(frozen=True)
class RingFit:
    """Ellipse from the pattern outside the direct beam.

    Attributes
    ----------
    vector : numpy.ndarray, shape (2,)
        Ellipse vector; the start vector if `improved` is False.
    covariance : numpy.ndarray, shape (2, 2)
        Covariance of the vector.
    center : tuple of float
        Center (x, y) in pixels of the pooled frame.
    center_covariance : numpy.ndarray, shape (2, 2)
        Covariance of the center, square pixels.
    improved : bool
        Whether the fit makes the pattern sharper, as a function of the radius, than the start does.
    continuity : float
        Fraction of the azimuth that contains the signal, 0 to 1: near 1 for rings, about 0.1 for the spots of one
        crystal. The strain of a crystal has the same effect as an elliptical distortion, so that the covariance is then
        too small.
    """

    vector: np.ndarray
    covariance: np.ndarray
    center: tuple[float, float]
    center_covariance: np.ndarray
    improved: bool
    continuity: float


def refine_rings(pooled, start_vector=(0.0, 0.0), inner=None, start_center=None, reach=2.0):
    """Fit the ellipse and center that make the pattern outside the direct beam sharpest as a function of the radius.

    Parameters
    ----------
    pooled : Pooled
        Pooled patterns.
    start_vector : array_like, shape (2,), optional
        Start of the ellipse vector, from the network or the disk.
    inner : float, optional
        Smallest radius used in pixels, outside the direct beam and its tails. By default found from the profile.
    start_center : array_like, shape (2,), optional
        Start of the center (x, y) in pixels of the pooled frame, by default ``pooled.center``.
    reach : float, optional
        Largest error of the start center in pixels.

    Returns
    -------
    RingFit
        The ellipse and the center.

    Raises
    ------
    PrenetError
        If fewer than MIN_RING_SPAN_PX pixels of radius are on the detector outside `inner`.

    Notes
    -----
    The azimuthal variance at fixed ideal radius, in units of the variance due to noise, speckle and spots, is
    minimized over ellipse and center, first in a blurred pattern and then at full resolution. The covariance is the
    larger of two jackknife estimates: over parts of the scan, and over pairs of opposite azimuth sectors. The second is
    large if the pattern consists of a few spots.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.fits import pool_arrays, refine_rings
    >>> x, y = np.indices((80, 80)) - 39.5
    >>> rho = np.hypot(x / 1.02, y * 1.02)  # a / b = 1.04
    >>> image = 50 + 500 * np.exp(-0.5 * ((rho - 25) / 1.5) ** 2)
    >>> patterns = np.random.default_rng(0).poisson(image, (16, 80, 80))
    >>> fit = refine_rings(pool_arrays(patterns, 16 * [39.5], 16 * [39.5]), inner=12)
    >>> round(float(fit.vector[0]), 2), fit.improved
    (0.04, True)
    """
    mask = pooled.weight > 0
    center = np.array(pooled.center if start_center is None else start_center, float)
    start = np.asarray(start_vector, float)
    first, outer = ring_span(pooled.mean, mask, center)
    inner = first if inner is None else inner
    if not outer > inner + MIN_RING_SPAN_PX:
        raise PrenetError(f"Rings need at least {MIN_RING_SPAN_PX} px of radius between the direct beam and the "
                          "detector's edge.")
    step = max(0.7, (outer - inner) / 120)
    radii = np.arange(inner, outer, step)
    fine = max(0.7, 0.7 * step)
    picture = smooth_image(pooled.mean, mask, fine)
    # Only the scatter among the parts is used, for which linear interpolation is accurate enough.
    parts = [
        (smooth_image(image, weight > 0, fine, order=1), weight.sum())
        for image, weight in zip(pooled.parts, pooled.parts_weight, strict=True)
    ]
    stiff, soft = _RingModel(radii, 0), _RingModel(radii, 3)

    def _fits(*starts):  # fits with both models from each start (center, vector); diverged fits are omitted
        found = (fit_polar(picture, *at, radii, MAP_AZIMUTHS, model) for at in starts for model in (stiff, soft))
        return [fit for fit in found if fit.converged and _is_plausible(fit, center, reach)]

    at_start = fit_polar(picture, center, start, radii, MAP_AZIMUTHS, stiff, steps=0)
    # Fit from the start, and from coarse to fine, which converges from an error of several pixels.
    coarse_start = center, start
    for blur in (2 * reach, reach):
        if blur > 1.5 * fine:
            blurred = smooth_image(pooled.mean, mask, blur)
            coarse = fit_polar(blurred, *coarse_start, radii, MAP_AZIMUTHS, soft)
            if _is_plausible(coarse, center, reach):
                coarse_start = coarse.center, coarse.vector
    fits = _fits((center, start))
    if not any(_near(fit, *coarse_start) for fit in fits):
        fits += _fits(coarse_start)
    best = min(fits, key=lambda fit: fit.misfit(at_start.variance), default=None)
    if best is None or best.misfit(at_start.variance) >= at_start.misfit(at_start.variance):
        unknown = UNKNOWN_COVARIANCE.copy()
        return RingFit(start, unknown, tuple(map(float, center)), unknown * reach**2, False, _continuity(at_start))
    # Fit both models from the best fit: their difference shows how much smooth brightness biases the stiff model.
    final_fits = _fits((best.center, best.vector)) or [best]
    estimate, covariance = _combined(final_fits, parts)
    continuity = _continuity(final_fits[0])
    grain_sigma = GRAIN_SIGMA * np.clip((0.6 - continuity) / 0.3, 0, 1)
    return RingFit(
        estimate[:2],
        covariance[:2, :2] + (RING_SYSTEMATIC**2 + grain_sigma**2) * np.eye(2),
        (float(estimate[2]), float(estimate[3])),
        covariance[2:, 2:],
        True,
        continuity,
    )


def _combined(fits, parts):
    """Combine the stiff and the soft fit into one estimate (4,) of ellipse and center, with covariance (4, 4)."""
    estimate = np.r_[fits[0].vector, fits[0].center]
    scatter = [(leave_out_sectors(fit), leave_out_parts(fit, parts)) for fit in fits]
    covariance = _ring_covariance(*scatter[0])
    if len(fits) == 2:
        gap = np.r_[fits[1].vector, fits[1].center] - estimate
        gap_covariance = _ring_covariance(*(b - a for a, b in zip(*scatter, strict=True)))
        soft_weight = shrinkage_weight(gap[:2], gap_covariance[:2, :2])
        estimate = estimate + soft_weight * gap
        covariance = (1 - soft_weight) * covariance + soft_weight * _ring_covariance(*scatter[1])
        covariance = covariance + soft_weight * (1 - soft_weight) * np.outer(gap, gap)
    return estimate, covariance


class _RingModel:
    """Weights and brightness terms of the pattern outside the direct beam, for `fit_polar`."""

    student_dof = 4.0  # single spots must not determine the fit
    ridge = 1e-3
    tolerance = 2e-4
    slope_blur, damping = 2.0, 0.6  # pixels, factor; steps are damped since smoothing reduces the slope of a sharp ring

    def __init__(self, radii, knots):
        at = np.linspace(radii[0], radii[-1], knots)
        width = at[1] - at[0] if knots > 1 else 1.0
        self.bumps = [np.clip(1 - np.abs(radii - a) / width, 0, None) for a in at]

    def variance(self, profile, residual, usable):
        row = (residual**2 * usable).sum(0) / np.maximum(usable.sum(0), 1)
        return np.maximum(gaussian_filter(row, 3), 1e-12 * max(row.max(), 1e-30))

    def brightness(self, radii, profile):
        level = profile - profile.min()
        level = gaussian_filter(level, len(radii) / 8) + 0.02 * level.max()
        return [(order, bump * level) for order in (1, 2) for bump in self.bumps]


def _is_plausible(fit, center, reach):
    return np.hypot(*fit.vector) < MAX_ECCENTRICITY and np.hypot(*(fit.center - center)) < 4 * reach + 1


def _near(fit, center, vector):
    """Test whether a fit and the fit to the blurred pattern found the same minimum."""
    return np.hypot(*(fit.center - center)) < SAME_MINIMUM_PX and np.hypot(*(fit.vector - vector)) < SAME_MINIMUM_VECTOR


def _ring_covariance(by_sectors, by_parts):
    """The larger of the two jackknife covariances, times RING_INFLATION."""
    estimates = [by_sectors, *([by_parts] if len(by_parts) >= MIN_JACKKNIFE_PARTS else [])]
    return RING_INFLATION * max(map(jackknife_covariance, estimates), key=lambda c: np.trace(c[:2, :2]))


def ring_span(image, mask, center):
    """Find the range of radii between the tails of the direct beam and the edge of the detector.

    Parameters
    ----------
    image : numpy.ndarray, shape (Qx, Qy)
        A pattern.
    mask : numpy.ndarray of bool, shape (Qx, Qy)
        True where a pixel is good.
    center : array_like, shape (2,)
        Position (x, y) of the direct beam in pixels.

    Returns
    -------
    first : float
        Radius in pixels where the tails of the direct beam end.
    last : float
        Largest radius in pixels at which a third of the azimuth is on good pixels.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.fits import ring_span
    >>> x, y = np.indices((64, 64)) - 32
    >>> image = 1e4 * np.exp(-0.5 * np.hypot(x, y) ** 2 / 9) + 10
    >>> first, last = ring_span(image, np.ones((64, 64), bool), (32, 32))
    >>> 8 < first < 16, last > 32
    (True, True)
    """
    last = _outer_radius(mask, np.asarray(center, float))
    return _tail_end(image, mask, center, last), last


def _outer_radius(mask, center):
    """Largest radius at which enough of the azimuth is on good pixels."""
    x = np.arange(mask.shape[0])[:, None] - center[0]
    y = np.arange(mask.shape[1])[None, :] - center[1]
    ring = np.hypot(x, y).astype(int)
    pixels = np.bincount(ring.ravel(), mask.ravel())
    covered = pixels > 2 * np.pi * (np.arange(len(pixels)) + 0.5) * MIN_COVERED_AZIMUTH
    return float(np.flatnonzero(covered)[-1] if covered.any() else 0)


def _tail_end(image, mask, center, outer):
    """Radius where the tails of the direct beam end: where the log profile first falls no faster than its median.

    The tails begin at the steepest fall, or at the edge of a stop that hides the direct beam. If less than
    `MIN_RING_SPAN_PX` is open, there is no room for rings, and `outer` is returned.
    """
    if outer < MIN_RING_SPAN_PX:
        return outer
    radii = np.arange(1, outer, 0.5)
    polar, usable = read_polar(smooth_image(image, mask, 1.0), center, (0.0, 0.0), radii, MAP_AZIMUTHS)
    open_ = usable.mean(0) > MIN_COVERED_AZIMUTH
    hub = int(np.argmax(open_))
    if outer - radii[hub] < MIN_RING_SPAN_PX or not open_.any():
        return outer
    hidden = radii[hub] > MIN_HUB_PX
    if hidden:
        radii, polar, usable = radii[hub:], polar[:, hub:], usable[:, hub:]
    profile = radial_profile(polar, usable)
    floor = 1e-4 * max(profile.max(), 1e-12)
    fall = -gaussian_filter(np.gradient(np.log(np.clip(profile, floor, None)), radii), 2)
    first = 0 if hidden else np.argmax(fall[: len(fall) // 2])
    slow = np.flatnonzero(fall[first:] < max(0.15 * fall[first], np.median(fall)))
    return float(radii[first + slow[0]] + 1) if len(slow) else 0.25 * outer


def _continuity(fit):
    """Participation ratio, over the azimuth, of the signal above the radial background."""
    background = np.minimum(gaussian_filter(fit.profile, len(fit.radii) / 8), fit.profile)
    rise = np.clip(fit.residual + fit.profile - background, 0, None) * fit.usable
    rise = gaussian_filter(rise, (1.5, 0), mode=("wrap", "nearest"))
    samples = np.maximum(fit.usable.sum(0), 1)
    mean, square = rise.sum(0) / samples, (rise**2).sum(0) / samples
    signal = np.clip(fit.profile - background, 0, None)
    ratio = mean**2 / np.maximum(square, 1e-300)
    return float(np.average(ratio, weights=signal)) if signal.sum() > 0 else 0.0
