"""The center of rings: for scans whose direct beam a beam stop hides, and to compare with the direct beam.

Where nothing is known of it, the center is the one about which a binned, flattened pattern is best explained by its
radius alone (explained variance, corrected for the number of radii). `refine_rings` then takes it, with the ellipse,
to the full resolution; what lies inside the first ring's foot is left out, for the direct beam's tails lie about the
direct beam. A smooth hill has a center, too, and so has a lens shading: a result is accepted only where the intensity
rises with radius somewhere, in sectors all round that agree.

Conventions: x = qx = row, y = qy = column, a pixel's center on its integer index.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.ndimage import gaussian_filter

from ..core import NORMAL_MAD, Decision, Flag
from .polar_fit import NOTHING_KNOWN, read_polar, smooth
from .pooling import Pooled
from .ring_fit import CONTINUOUS, RING_ROOM, refine_rings, ring_span

SIDE = 64  # pixels of the larger side in the search
FLAT = 4.0  # of these, the scale beyond which the pattern is flattened
REACH = 4.0  # px of the pattern from which the refinement finds its way
RINGS_WIDTH = 12  # part of their span, beyond which a pattern is smooth
SYSTEMATIC = 0.05  # px
SECTORS = 8
AGREEMENT = 0.7  # mean correlation of the flattened profiles of sectors
RISE = 6.0  # standard errors by which a ring rises above what lies inside it
SURE = 0.5  # px, the largest sigma of an accepted center


@dataclass(frozen=True)
class RingCenter:
    """Center of rings and their ellipse.

    center: (x, y) px of the pattern. covariance: (2, 2). vector, vector_covariance: of the ellipse, see `polar`.
    decision: accepted if there are rings; the flag says why not.
    """

    center: tuple[float, float]
    covariance: np.ndarray
    vector: np.ndarray
    vector_covariance: np.ndarray
    decision: Decision

    @property
    def accepted(self) -> bool:
        """Whether there are rings."""
        return self.decision.accepted


def ring_center(mean, good=None, guess=None) -> RingCenter:
    """Find the center of rings in a pattern whose direct beam need not be seen.

    Args:
        mean: (Qx, Qy) pattern, the mean of a scan or of a block of it; any unit, any offset.
        good: (Qx, Qy) bool, False behind a beam stop and at bad pixels; None = all good. A stop that is not
            masked is borne as well.
        guess: (x, y) px, if the center is known to REACH; None searches the whole pattern.

    Returns: `RingCenter`, refused where there are no rings.
    """
    mean = np.asarray(mean, float)
    good = np.isfinite(mean) & (True if good is None else np.asarray(good, bool))
    middle = tuple((n - 1) / 2 for n in mean.shape)
    if good.mean() < 0.2 or np.ptp(mean[good]) == 0:
        return _nothing(middle, Flag("rings_empty"))
    # a few saturated or hot pixels must not rule
    low, high = np.percentile(mean[good], (0.5, 99.8))
    mean = np.where(good, np.clip(mean, low, high), 0.0)
    center = _search(np.sqrt(np.clip(mean - low, 0, None)) * good, good) if guess is None else np.asarray(guess, float)
    span = ring_span(mean, good, center)
    if span[1] - span[0] <= RING_ROOM:
        return _nothing(middle, Flag("rings_no_room", {"needed": RING_ROOM}))
    agreement, rise, foot = _evidence(mean, good, center, span)
    if agreement < AGREEMENT / 3 or rise < RISE / 2:  # far from it, whatever a better center would show
        flag = _disagree(agreement) if agreement < AGREEMENT / 3 else _flat(rise)
        return _nothing(tuple(map(float, center)), flag)
    if span[1] - foot <= RING_ROOM:
        foot = span[0]
    # without what is smooth: the tails of a direct beam that need not lie in the rings' center
    sharp = mean - _smooth_part(mean, good, (span[1] - span[0]) / RINGS_WIDTH)
    fit = refine_rings(_as_pooled(sharp * good, good, center), inner=foot, start_center=center, reach=REACH)
    covariance = fit.center_covariance + SYSTEMATIC**2 * np.eye(2)
    if fit.improved:  # an ellipse and some pixels change what the sectors show
        agreement, rise, _ = _evidence(mean, good, fit.center, span, fit.vector)
    sigma = float(np.sqrt(np.linalg.eigvalsh(covariance).max()))
    if not fit.improved:
        flag = Flag("rings_no_center")
    elif agreement < AGREEMENT or fit.continuity < CONTINUOUS:
        flag = _disagree(agreement)
    elif rise < RISE:
        flag = _flat(rise)
    elif sigma > SURE:
        flag = Flag("rings_uncertain", {"sigma": sigma, "needed": SURE})
    else:
        flag = Flag("rings_found")
    decision = Decision(flag.name == "rings_found", (flag,))
    return RingCenter(fit.center, covariance, fit.vector, fit.covariance, decision)


def _disagree(agreement):
    return Flag("rings_disagree", {"sectors": SECTORS, "agreement": float(agreement), "needed": AGREEMENT})


def _flat(rise):
    return Flag("rings_flat", {"rise": float(rise), "needed": RISE})


def _nothing(center, flag):
    return RingCenter(center, NOTHING_KNOWN * 1e4, np.zeros(2), NOTHING_KNOWN.copy(), Decision(False, (flag,)))


def _as_pooled(mean, good, center):
    image, weight = mean.astype(np.float32), good.astype(np.float32)
    return Pooled(image, tuple(center), 1, weight, image[None], weight[None])


def _search(root, good):
    """(2,) the center, to about a pixel, of a stabilized pattern; px."""
    step = max(1, int(np.ceil(max(root.shape) / SIDE)))
    image, usable = _binned(root, good, step)
    flat = _flattened(image, usable)
    at = _grid(*(np.arange(0, n, 2.0) for n in image.shape))
    for spacing in (1.0, 0.5, 0.0):
        best = at[np.argmax(_explained(flat, usable, at))]
        near = best[:, None] + spacing * np.arange(-2, 3)
        at = _grid(*near)
    return (best + 0.5) * step - 0.5


def _grid(x, y):
    return np.stack(np.meshgrid(x, y, indexing="ij"), -1).reshape(-1, 2)


def _binned(image, good, step):
    rows, columns = (n // step for n in image.shape)

    def total(values):
        return values[: rows * step, : columns * step].reshape(rows, step, columns, step).sum((1, 3))

    count = total(good.astype(float))
    return total(np.where(good, image, 0.0)) / np.maximum(count, 1), count >= step**2 / 2


def _flattened(image, usable):
    """Less its smooth part, in units of its own spread, and clipped: spots and a stop's edges must not rule."""
    flat = image - _smooth_part(image, usable, FLAT)
    spread = np.median(np.abs(flat[usable] - np.median(flat[usable]))) / NORMAL_MAD
    return np.where(usable, np.clip(flat / max(spread, 1e-12), -3, 3), 0.0)


def _smooth_part(image, usable, width):
    share = np.maximum(gaussian_filter(usable.astype(float), width), 1e-3)
    return gaussian_filter(np.where(usable, image, 0.0), width) / share


def _explained(flat, usable, centers):
    """Part of the variance that the radius about each center (n, 2) explains, as by chance none."""
    x, y = np.nonzero(usable)
    values = flat[usable] - flat[usable].mean()
    total, count = (values**2).sum() + 1e-12, len(values)
    out = np.empty(len(centers))
    for k, center in enumerate(centers):
        radius = np.hypot(x - center[0], y - center[1]).astype(int)
        pixels, sums = np.bincount(radius), np.bincount(radius, values)
        left = 1 - (sums**2 / np.maximum(pixels, 1)).sum() / total
        out[k] = 1 - left * (count - 1) / max(count - (pixels > 0).sum(), 1)
    return out


def _evidence(mean, good, center, span, vector=(0.0, 0.0)):
    """How well the sectors' flattened profiles agree (-1 to 1); the largest rise in standard errors over the
    sectors; the radius, px, from which the first significant one rises (the span's beginning if there is none)."""
    radii = np.arange(span[0], span[1], 1.0)
    polar, usable = read_polar(smooth(mean, good, 1.0), center, vector, radii, 16 * SECTORS)
    polar, usable = (v.reshape(SECTORS, -1, len(radii)) for v in (polar, usable))
    seen = usable.sum(1)
    profiles = np.where(seen >= 8, (polar * usable).sum(1) / np.maximum(seen, 1), np.nan)
    flat = []
    for profile in profiles:
        there = np.isfinite(profile)
        if there.sum() >= RING_ROOM:
            full = np.interp(np.arange(len(radii)), np.flatnonzero(there), profile[there])
            flat.append(np.where(there, full - gaussian_filter(full, len(radii) / 10), np.nan))
    agreements = []
    for one, other in combinations(flat, 2):
        both = np.isfinite(one + other)
        if both.sum() >= RING_ROOM and one[both].std() > 0 and other[both].std() > 0:
            agreements.append(np.corrcoef(one[both], other[both])[0, 1])
    rise, foot = 0.0, None
    for k in range(len(radii) - 1):
        rises = profiles[:, k + 1 : k + 1 + len(radii) // 3] - profiles[:, k : k + 1]
        count = np.isfinite(rises).sum(0)
        rises = rises[:, count >= SECTORS // 2]
        if rises.size:
            error = np.nanstd(rises, 0, ddof=1) / np.sqrt(np.isfinite(rises).sum(0))
            largest = float(np.max(np.nanmean(rises, 0) / (error + 1e-9 * np.ptp(mean))))
            rise = max(rise, largest)
            if foot is None and largest > RISE:
                foot = radii[k]
    enough = len(agreements) >= SECTORS  # of the pairs of sectors
    return float(np.mean(agreements)) if enough else 0.0, rise, float(span[0] if foot is None else foot)
