"""The elliptical distortion, and the center, from all that lies outside the direct beam. Conventions: `polar`."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from ..core import PrenetError
from .polar_fit import (
    NOTHING_KNOWN,
    fit_polar,
    jackknife,
    over_parts,
    over_sectors,
    radial_profile,
    read_polar,
    share_of,
    smooth,
)

RING_PHI = 192
RING_ROOM = 12  # px of radius that rings need
RING_INFLATION = 2.5  # of the ring covariance, from pulls on simulated glasses and powders
CONTINUOUS = 0.35  # part of the azimuth that must carry the signal of rings
STRAIN = 0.03  # sigma of what strain and orientation of a few grains do to an ellipse
SYSTEMATIC = 0.001  # sigma of each component that no scatter shows


@dataclass(frozen=True)
class RingFit:
    """Ellipse from all that lies outside the direct beam.

    `vector` (2,), `covariance` (2, 2). `center`: (x, y) px in the pooled frame, `center_covariance` (2, 2).
    `improved`: the corrected profile is sharper than at the start; where it is False the start vector is
    returned. `continuity`: 0 to 1, the part of the azimuth that carries the signal: near 1 for rings, some
    0.1 for one crystal's spots, whose lattice cannot tell strain from ellipse whatever the covariance says.
    """

    vector: np.ndarray
    covariance: np.ndarray
    center: tuple[float, float]
    center_covariance: np.ndarray
    improved: bool
    continuity: float


def refine_rings(pooled, start_vector=(0.0, 0.0), inner=None, start_center=None, reach=2.0):
    """Ellipse and center that make the pooled pattern outside the direct beam sharpest as a function of the
    radius.

    The azimuthal variance at fixed ideal radius, weighted by what noise, speckle and spots leave at that
    radius, is minimized over ellipse and center, from coarse (blurred) to fine. The covariance is the larger
    of two jackknifes: over parts of the scan, and over pairs of opposite azimuth sectors, which a few spots
    cannot pass.

    Args:
        pooled: `Pooled`. start_vector: from the network or the disk.
        inner: px, smallest radius used, outside the direct beam and its tails; None finds where these end.
        start_center: (x, y) px in the pooled frame, None = `pooled.center`. reach: px, how far off it may be.

    Returns: `RingFit`. Raises PrenetError where the detector leaves less than RING_ROOM px of radius.
    """
    mask = pooled.weight > 0
    center = np.array(pooled.center if start_center is None else start_center, float)
    start = np.asarray(start_vector, float)
    first, outer = ring_span(pooled.mean, mask, center)
    inner = first if inner is None else inner
    if not outer > inner + RING_ROOM:
        raise PrenetError(f"Rings need at least {RING_ROOM} px of radius between the direct beam and the "
                          "detector's edge.")
    step = max(0.7, (outer - inner) / 120)
    radii = np.arange(inner, outer, step)
    fine = max(0.7, 0.7 * step)
    picture = smooth(pooled.mean, mask, fine)
    # only their scatter matters, so that these are read linearly
    parts = [
        (smooth(image, weight > 0, fine, order=1), weight.sum())
        for image, weight in zip(pooled.parts, pooled.parts_weight, strict=True)
    ]
    stiff, soft = _RingModel(radii, 0), _RingModel(radii, 3)

    def fits(*places):
        """Those that converge near where they were to look, from each place (center, vector) with both models."""
        found = (fit_polar(picture, *place, radii, RING_PHI, model) for place in places for model in (stiff, soft))
        return [f for f in found if f.converged and _sane(f, center, reach)]

    at_start = fit_polar(picture, center, start, radii, RING_PHI, stiff, steps=0)
    # from the start itself, and from coarse to fine, which finds its way from some pixels off
    place = center, start
    for blur in (2 * reach, reach):
        if blur > 1.5 * fine:
            coarse = fit_polar(smooth(pooled.mean, mask, blur), *place, radii, RING_PHI, soft)
            if _sane(coarse, center, reach):
                place = coarse.center, coarse.vector
    best = min(fits((center, start), place), key=lambda f: f.misfit(at_start.variance), default=None)
    if best is None or best.misfit(at_start.variance) >= at_start.misfit(at_start.variance):
        nothing = NOTHING_KNOWN.copy()
        return RingFit(start, nothing, tuple(map(float, center)), nothing * reach**2, False, _continuity(at_start))
    # both models from there: the softer says what smooth brightness may have done to the stiffer
    both = fits((best.center, best.vector)) or [best]
    estimate, covariance = _weighed(both, parts)
    continuity = _continuity(both[0])
    strain = STRAIN * np.clip((0.6 - continuity) / 0.3, 0, 1)
    return RingFit(
        estimate[:2],
        covariance[:2, :2] + (SYSTEMATIC**2 + strain**2) * np.eye(2),
        (float(estimate[2]), float(estimate[3])),
        covariance[2:, 2:],
        True,
        continuity,
    )


def _weighed(fits, parts):
    """(4,) ellipse and center, and (4, 4) covariance: the stiff fit's, and the soft one's as far as the data ask."""
    estimate = np.r_[fits[0].vector, fits[0].center]
    scatter = [(over_sectors(fit), over_parts(fit, parts)) for fit in fits]
    covariance = _ring_covariance(*scatter[0])
    if len(fits) == 2:
        gap = np.r_[fits[1].vector, fits[1].center] - estimate
        apart = _ring_covariance(*(b - a for a, b in zip(*scatter, strict=True)))
        share = share_of(gap[:2], apart[:2, :2])
        estimate = estimate + share * gap
        covariance = (1 - share) * covariance + share * _ring_covariance(*scatter[1])
        covariance = covariance + share * (1 - share) * np.outer(gap, gap)
    return estimate, covariance


class _RingModel:
    """Weights and brightness terms of everything outside: azimuthal variance found at each radius."""

    robust = 4.0  # degrees of freedom of Student's law: single spots must not rule
    freedom = 1e-3
    enough = 2e-4
    slope_blur, damping = 2.0, 0.6  # px; damped since the smoothed slope of a sharp ring is too small

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
        return [(m, bump * level) for m in (1, 2) for bump in self.bumps]


def _sane(fit, center, reach):
    return np.hypot(*fit.vector) < 0.3 and np.hypot(*(fit.center - center)) < 4 * reach + 1


def _ring_covariance(by_sectors, by_parts):
    """The larger of both jackknifes, scaled by what they were found to miss."""
    covariances = [jackknife(by_sectors), *([jackknife(by_parts)] if len(by_parts) >= 4 else [])]
    return RING_INFLATION * max(covariances, key=lambda c: np.trace(c[:2, :2]))


def ring_span(image, mask, center):
    """(first, last) radius in px of what lies outside the direct beam and its tails, on the detector."""
    last = _outer_radius(mask, np.asarray(center, float))
    return _tail_end(image, mask, center, last), last


def _outer_radius(mask, center):
    """Largest radius at which a third of the azimuth is on the detector."""
    x = np.arange(mask.shape[0])[:, None] - center[0]
    y = np.arange(mask.shape[1])[None, :] - center[1]
    ring = np.hypot(x, y).astype(int)
    seen = np.bincount(ring.ravel(), mask.ravel())
    enough = seen > 2 * np.pi * (np.arange(len(seen)) + 0.5) / 3
    enough[: len(seen) // 8] = True  # a beam stop's hub
    return float(np.argmin(enough) if not enough.all() else len(seen)) - 1


def _tail_end(image, mask, center, outer):
    """Radius at which the direct beam's fall is over: where the log profile first falls no faster than its
    median."""
    radii = np.arange(1, outer, 0.5)
    polar, usable = read_polar(smooth(image, mask, 1.0), center, (0.0, 0.0), radii, RING_PHI)
    profile = radial_profile(polar, usable)
    floor = 1e-4 * max(profile.max(), 1e-12)
    fall = -gaussian_filter(np.gradient(np.log(np.clip(profile, floor, None)), radii), 2)
    first = np.argmax(fall[: len(fall) // 2])
    slow = np.flatnonzero(fall[first:] < max(0.15 * fall[first], np.median(fall)))
    return float(radii[first + slow[0]] + 1) if len(slow) else 0.25 * outer


def _continuity(fit):
    """Participation ratio over the azimuth of what rises above the radial background."""
    background = np.minimum(gaussian_filter(fit.profile, len(fit.radii) / 8), fit.profile)
    rise = np.clip(fit.residual + fit.profile - background, 0, None) * fit.usable
    rise = gaussian_filter(rise, (1.5, 0), mode=("wrap", "nearest"))
    seen = np.maximum(fit.usable.sum(0), 1)
    mean, square = rise.sum(0) / seen, (rise**2).sum(0) / seen
    signal = np.clip(fit.profile - background, 0, None)
    ratio = mean**2 / np.maximum(square, 1e-300)
    return float(np.average(ratio, weights=signal)) if signal.sum() > 0 else 0.0
