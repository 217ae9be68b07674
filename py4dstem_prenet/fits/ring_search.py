"""Center of diffraction rings: for scans whose direct beam is behind a beam stop, and to compare with the direct beam.

If no center is given, a binned, flattened pattern is searched for the center about which the radius explains most of
the variance (corrected for the number of radii). `refine_rings` then fits the center together with the ellipse at full
resolution. Radii inside the foot of the first ring are left out, since the tails of the direct beam are centered on the
direct beam. A smooth hill or lens shading also has a center. A result is therefore accepted only if the intensity rises
with the radius somewhere, and the azimuth sectors agree with each other.

Conventions: x = qx = row, y = qy = column; a pixel's center lies on its integer index.
"""

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from scipy.ndimage import gaussian_filter

from ..core import NORMAL_MAD, Decision, Flag, binned_sum, masked_smooth
from . import (
    MAP_AZIMUTHS,
    MAX_BINNED_SIDE,
    MIN_RING_CONTINUITY,
    MIN_RING_SPAN_PX,
    UNKNOWN_COVARIANCE,
    Pooled,
    read_polar,
    refine_rings,
    ring_span,
    smooth_image,
)

# Pixels; larger patterns are binned, for speed. The fit smooths by a part of the range of radii, more than such a bin.
MAX_RINGS_SIDE = 512
FINEST_SEARCH_BIN_PX = 2  # pixels; bins at which the search ends, within RING_SEARCH_REACH_PX
FLATTENING_PX = 4.0  # pixels of the first bins, 1 sigma; smoother structure is removed before the search
RING_SEARCH_REACH_PX = 4.0  # pixels; largest error of the start from which the refinement converges
RING_CENTER_SYSTEMATIC_PX = 0.05  # pixels, 1 sigma; systematic error of each coordinate
AZIMUTH_SECTORS = 8  # number of sectors of the azimuth that are compared: of profiles, and of influences on a position
# Set on simulated and real patterns with and without rings (tests/test_ring_center.py):
MIN_SECTOR_CORRELATION = 0.7  # smallest mean correlation of the sectors' flattened profiles
MIN_RING_RISE = 6.0  # standard errors over the sectors; smallest rise of a ring above smaller radii
# Pixels, fraction of the longer side; largest standard error of an accepted center: the larger of the two.
MAX_RING_CENTER_SIGMA_PX, MAX_RING_CENTER_SIGMA_FRACTION = 0.5, 0.004


@dataclass(frozen=True)
class RingCenter:
    """Center of rings and their ellipse.

    Attributes
    ----------
    center : tuple of float
        Center (x, y) in pixels of the pattern.
    covariance : numpy.ndarray, shape (2, 2)
        Covariance of the center, square pixels.
    vector : numpy.ndarray, shape (2,)
        Ellipse vector.
    vector_covariance : numpy.ndarray, shape (2, 2)
        Covariance of the ellipse vector.
    decision : Decision
        Accepted if the pattern has rings that determine the center; otherwise the flag states the reason.
    """

    center: tuple[float, float]
    covariance: np.ndarray
    vector: np.ndarray
    vector_covariance: np.ndarray
    decision: Decision

    @property
    def accepted(self) -> bool:
        """Whether the pattern has rings that determine the center.

        Returns
        -------
        bool
            The decision.
        """
        return self.decision.accepted


def ring_center(mean, good=None, guess=None) -> RingCenter:
    """Find the center of rings in a pattern whose direct beam may be hidden.

    Parameters
    ----------
    mean : array_like, shape (Qx, Qy)
        Mean pattern of a scan or of a block of it; any unit, any offset.
    good : array_like of bool, shape (Qx, Qy), optional
        False behind a beam stop and in bad pixels. By default all pixels are good; a beam stop that is not masked is
        tolerated.
    guess : array_like, shape (2,), optional
        Approximate center (x, y) in pixels, within RING_SEARCH_REACH_PX. By default the whole pattern is searched.

    Returns
    -------
    RingCenter
        The center; refused if there are no rings.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.fits import ring_center
    >>> x, y = np.indices((96, 96)) - 45.0
    >>> rho = np.hypot(x, y)
    >>> mean = 20 + 40 * np.exp(-0.5 * ((rho - 22) / 1.5) ** 2) + 30 * np.exp(-0.5 * ((rho - 35) / 1.5) ** 2)
    >>> rings = ring_center(np.random.default_rng(0).poisson(mean))
    >>> rings.accepted, [round(q) for q in rings.center]
    (True, [45, 45])
    """
    mean = np.asarray(mean, float)
    good = np.isfinite(mean) & (True if good is None else np.asarray(good, bool))
    middle = tuple((n - 1) / 2 for n in mean.shape)
    if good.mean() < 0.2 or np.ptp(mean[good]) == 0:
        return _refused(middle, Flag("rings_empty"))
    step = -(-max(mean.shape) // MAX_RINGS_SIDE)
    if step > 1:
        image, usable = _binned(mean, good, step)
        middle = (step - 1) / 2
        rings = ring_center(image, usable, None if guess is None else (np.asarray(guess, float) - middle) / step)
        return replace(rings, center=tuple(q * step + middle for q in rings.center),
                       covariance=rings.covariance * step**2)
    # Clip saturated and hot pixels, which would dominate the search.
    low, high = np.percentile(mean[good], (0.5, 99.8))
    mean = np.where(good, np.clip(mean, low, high), 0.0)
    center = _search(np.sqrt(np.clip(mean - low, 0, None)) * good, good) if guess is None else np.asarray(guess, float)
    span = ring_span(mean, good, center)
    if span[1] - span[0] <= MIN_RING_SPAN_PX:
        return _refused(middle, Flag("rings_no_room", {"needed": MIN_RING_SPAN_PX}))
    agreement, rise, foot = _evidence(mean, good, center, span)
    if agreement < MIN_SECTOR_CORRELATION / 3 or rise < MIN_RING_RISE / 2:  # no refined center could reach the limits
        flag = _sectors_disagree(agreement) if agreement < MIN_SECTOR_CORRELATION / 3 else _no_rise(rise)
        return _refused(tuple(map(float, center)), flag)
    if span[1] - foot <= MIN_RING_SPAN_PX:
        foot = span[0]
    # Remove smooth structure, such as the tails of a direct beam that is not at the center of the rings.
    # Structure smoother than this (1 sigma) is not fitted.
    sharp = mean - masked_smooth(mean, good, (span[1] - span[0]) / 12)
    pooled = _as_pooled(sharp * good, good, center)
    fit = refine_rings(pooled, inner=foot, start_center=center, reach=RING_SEARCH_REACH_PX)
    covariance = fit.center_covariance + RING_CENTER_SYSTEMATIC_PX**2 * np.eye(2)
    if fit.improved:  # the sectors are compared again with the refined center and ellipse
        agreement, rise, _ = _evidence(mean, good, fit.center, span, fit.vector)
    sigma = float(np.sqrt(np.linalg.eigvalsh(covariance).max()))
    if not fit.improved:
        flag = Flag("rings_no_center")
    elif agreement < MIN_SECTOR_CORRELATION or fit.continuity < MIN_RING_CONTINUITY:
        flag = _sectors_disagree(agreement)
    elif rise < MIN_RING_RISE:
        flag = _no_rise(rise)
    elif sigma > (largest := max(MAX_RING_CENTER_SIGMA_PX, MAX_RING_CENTER_SIGMA_FRACTION * max(mean.shape))):
        flag = Flag("rings_uncertain", {"sigma": sigma, "needed": largest})
    else:
        flag = Flag("rings_found")
    decision = Decision(flag.name == "rings_found", (flag,))
    return RingCenter(fit.center, covariance, fit.vector, fit.covariance, decision)


def _sectors_disagree(agreement):
    numbers = {"sectors": AZIMUTH_SECTORS, "agreement": float(agreement), "needed": MIN_SECTOR_CORRELATION}
    return Flag("rings_disagree", numbers)


def _no_rise(rise):
    return Flag("rings_flat", {"rise": float(rise), "needed": MIN_RING_RISE})


def _refused(center, flag):
    decision = Decision(False, (flag,))
    return RingCenter(center, UNKNOWN_COVARIANCE * 1e4, np.zeros(2), UNKNOWN_COVARIANCE.copy(), decision)


def _as_pooled(mean, good, center):
    image, weight = mean.astype(np.float32), good.astype(np.float32)
    return Pooled(image, tuple(center), 1, weight, image[None], weight[None])


def _search(root, good):
    """Find the center (2,) in px, within about a pixel, from the square root of a pattern."""
    step = max(1, int(np.ceil(max(root.shape) / (MAX_BINNED_SIDE // 4))))
    flattening = FLATTENING_PX * step
    best = None
    while True:  # about a center that is off by half of a coarse bin, the sectors of sharp rings disagree
        image, usable = _binned(root, good, step)
        flat = _flattened(image, usable, flattening / step)
        if best is None:
            candidates, spacings = _grid(*(np.arange(0, n, 2.0) for n in image.shape)), (1.0, 0.5, 0.0)
        else:
            candidates, spacings = _grid(*((best[:, None] + 0.5) / step - 0.5 + np.arange(-2, 3))), (0.5, 0.0)
        for spacing in spacings:
            binned_best = candidates[np.argmax(_explained_variance(flat, usable, candidates))]
            candidates = _grid(*(binned_best[:, None] + spacing * np.arange(-2, 3)))
        best = (binned_best + 0.5) * step - 0.5
        if step <= FINEST_SEARCH_BIN_PX:
            return best
        step = max(FINEST_SEARCH_BIN_PX, step // 2)


def _grid(x, y):
    return np.stack(np.meshgrid(x, y, indexing="ij"), -1).reshape(-1, 2)


def _binned(image, good, step):
    """Mean over the good pixels of each bin, and the mask of bins of which at least half is good."""
    count = binned_sum(good.astype(float), step)
    return binned_sum(np.where(good, image, 0.0), step) / np.maximum(count, 1), count >= step**2 / 2


def _flattened(image, usable, width):
    """Subtract structure smoother than a width, divide by the spread, and clip spots and the edges of a beam stop."""
    flat = image - masked_smooth(image, usable, width)
    spread = np.median(np.abs(flat[usable] - np.median(flat[usable]))) / NORMAL_MAD
    return np.where(usable, np.clip(flat / max(spread, 1e-12), -3, 3), 0.0)


def _explained_variance(flat, usable, centers):
    """Fraction of the variance that the radius about each center (n, 2) explains; zero on average for noise."""
    x, y = np.nonzero(usable)
    values = flat[usable] - flat[usable].mean()
    total, count = (values**2).sum() + 1e-12, len(values)
    explained = np.empty(len(centers))
    for k, center in enumerate(centers):
        radius = np.hypot(x - center[0], y - center[1]).astype(int)
        pixels, sums = np.bincount(radius), np.bincount(radius, values)
        unexplained = 1 - (sums**2 / np.maximum(pixels, 1)).sum() / total
        explained[k] = 1 - unexplained * (count - 1) / max(count - (pixels > 0).sum(), 1)
    return explained


def _evidence(mean, good, center, span, vector=(0.0, 0.0)):
    """Measure the evidence for rings about a center.

    Returns the mean correlation of the sectors' flattened profiles, the largest rise of the profile with the radius in
    standard errors over the sectors, and the radius in px at which the first significant rise starts (the start of
    `span` if there is none).
    """
    radii = np.arange(span[0], span[1], 1.0)
    polar, usable = read_polar(smooth_image(mean, good, 1.0), center, vector, radii, MAP_AZIMUTHS)
    polar, usable = (v.reshape(AZIMUTH_SECTORS, -1, len(radii)) for v in (polar, usable))
    count = usable.sum(1)
    profiles = np.where(count >= polar.shape[1] / 2, (polar * usable).sum(1) / np.maximum(count, 1), np.nan)
    rise, foot = _largest_rise(profiles, radii, 1e-9 * np.ptp(mean))
    return _sector_correlation(profiles), rise, float(span[0] if foot is None else foot)


def _sector_correlation(profiles):
    """Mean correlation of the flattened profiles of pairs of sectors; 0 if there are too few pairs."""
    n_radii = profiles.shape[1]
    flat = []
    for profile in profiles:
        measured = np.isfinite(profile)
        if measured.sum() >= MIN_RING_SPAN_PX:
            interpolated = np.interp(np.arange(n_radii), np.flatnonzero(measured), profile[measured])
            flat.append(np.where(measured, interpolated - gaussian_filter(interpolated, n_radii / 10), np.nan))
    correlations = []
    for first, second in combinations(flat, 2):
        finite = np.isfinite(first + second)
        if finite.sum() >= MIN_RING_SPAN_PX and first[finite].std() > 0 and second[finite].std() > 0:
            correlations.append(np.corrcoef(first[finite], second[finite])[0, 1])
    return float(np.mean(correlations)) if len(correlations) >= AZIMUTH_SECTORS else 0.0


def _largest_rise(profiles, radii, floor):
    """Largest rise with the radius in standard errors, and the radius of the first significant one or None."""
    rise, foot = 0.0, None
    for k in range(len(radii) - 1):
        rises = profiles[:, k + 1 : k + 1 + len(radii) // 3] - profiles[:, k : k + 1]
        rises = rises[:, np.isfinite(rises).sum(0) >= AZIMUTH_SECTORS // 2]
        if rises.size:
            error = np.nanstd(rises, 0, ddof=1) / np.sqrt(np.isfinite(rises).sum(0))
            largest = float(np.max(np.nanmean(rises, 0) / (error + floor)))
            rise = max(rise, largest)
            if foot is None and largest > MIN_RING_RISE:
                foot = radii[k]
    return rise, foot
