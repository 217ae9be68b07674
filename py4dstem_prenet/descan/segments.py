"""A scan whose descan changes on the way, as of joined files: where it breaks, and a surface for each part.

A step between two parts of one descan is `jumps.py`'s. Here the parts have slopes of their own, which no surface
plus steps describes. Robust profiles along each scan row are followed down the scan; where they break is found by
optimal partition (Bellman, Commun. ACM 4, 284 (1961)), and how often by the Bayesian information criterion.
"""

from __future__ import annotations

import numpy as np

from ..core import NORMAL_MAD, Decision, robust_loss
from .models import MODELS, thinned
from .surface import BEND, SurfaceFit, fit_pair, folds, prepare

MOST_BREAKS = 8
FEWEST_ROWS = 4  # of a part
ROWS, COLUMNS = 128, 64  # at most so many tell where the scan breaks
UNSURE, NEAR = 3, 8  # rows on either side in which a break may lie, and those beyond that tell where
FLOOR = 0.02  # pixels: profiles need not be followed closer than that
UNKNOWN = 1e3  # pixels: what is known of a profile beforehand
PER_BREAK = 13  # parameters: six of each coordinate, and where
# Parts are taken where they explain this share of what one surface leaves beyond noise, at positions held out, and
# where the descan so changed lies somewhere by so many pixels from the one surface; or by fewer, if that is as much of
# the descan itself as `BEND` asks of a spline. Less may be the specimen's.
EXPLAINED, CHANGED, CHANGED_LITTLE = 0.5, 1.0, 0.3


def fit_parts(maps, sigmas, valid, whole, model="auto"):
    """The descan in parts, where that is plainly better than `whole`, and the frames from which later parts hold.

    Args:
        maps, sigmas: (2, Rx, Ry) px; valid: (Rx, Ry) bool, as for `surface.fit_pair`. whole: (2, Rx, Ry), the best
            surface for the whole scan.

    Returns: a pair of `SurfaceFit` and a list of frames (flat scan positions), or None and [].
    """
    frames = find_breaks(maps, sigmas, valid)
    if not frames:
        return None, []
    fits = _fit(maps, sigmas, valid, frames, model)
    values = np.stack([f.values for f in fits])
    away = (values - whole)[:, valid]
    bends = away.var(1).sum() > BEND**2 * whole[:, valid].var(1).sum()
    if np.abs(away).max() < (CHANGED_LITTLE if bends else CHANGED) or not all(f.accepted for f in fits):
        return None, []
    if not _better(maps, sigmas, valid, whole, values):
        return None, []
    fold = folds(valid.shape) % 2 == 0
    held = np.where(fold, *(np.stack([f.values for f in _fit(maps, sigmas, valid & half, frames, model)])
                            for half in (~fold, fold)))
    return (fits, frames) if _better(maps, sigmas, valid, whole, held) else (None, [])


def _fit(maps, sigmas, valid, frames, model):
    """A pair of `SurfaceFit`, put together of those of the parts."""
    columns = valid.shape[1]
    part = _part_of(frames, valid.shape)
    found = []
    for k, (first, last) in enumerate(zip([0, *frames], [*frames, valid.size], strict=True)):
        rows = slice(first // columns, -(-last // columns))
        inside = part[rows] == k
        pair = fit_pair(*(m[rows] for m in (*maps, *sigmas)), valid[rows] & inside, model)
        found.append((rows, inside, pair))
    fits = []
    for c in range(2):
        out = np.empty((3, *valid.shape))
        for rows, inside, pair in found:
            for target, source in zip(out, (pair[c].values, pair[c].sigma, pair[c].residual), strict=True):
                target[rows][inside] = source[inside]
        richest = max((pair[c].model for *_, pair in found), key=MODELS.index)
        flags = {flag.name: flag for *_, pair in found for flag in pair[c].decision.flags}
        accepted = all(pair[c].accepted for *_, pair in found)
        fits.append(SurfaceFit(*out, richest, {}, Decision(accepted, tuple(flags.values()))))
    return tuple(fits)


def _part_of(frames, shape):
    return np.searchsorted(frames, np.arange(shape[0] * shape[1]), side="right").reshape(shape)


def _better(maps, sigmas, valid, whole, parts):
    """Whether surfaces in parts explain most of what one surface leaves; what neither explains does not count."""
    excess = np.zeros(2)
    for values, sigma, one, other in zip(maps, sigmas, whole, parts, strict=True):
        data = prepare(values, sigma, valid)
        off = np.abs(np.stack([one, other]) - data.y)[:, data.use] / data.sigma[data.use]
        off /= max(1.0, np.median(off[1]) / NORMAL_MAD)
        loss = robust_loss(off)
        loss = loss[:, loss.min(0) < robust_loss(np.inf)]
        excess += (loss - 1).sum(1)
    return excess[0] > 0 and excess[1] < (1 - EXPLAINED) * excess[0]


# --- where the scan breaks --------------------------------------------------------------------------
def find_breaks(maps, sigmas, valid) -> list[int]:
    """Frames from which both coordinates of the beam follow another descan than before, ascending."""
    datas = [prepare(values, sigma, valid) for values, sigma in zip(maps, sigmas, strict=True)]
    use = datas[0].use & datas[1].use
    held = [np.flatnonzero(use.any(axis)) for axis in (1, 0)]
    if len(held[0]) < 2 * FEWEST_ROWS:
        return []
    rows, columns = (thinned(h, -(-len(h) // most)) for h, most in zip(held, (ROWS, COLUMNS), strict=True))
    profiles = [_profiles(data.at(rows, columns), columns, use.shape[1]) for data in datas]
    at = rows / max(1, use.shape[0] - 1)
    starts = _partition([_segment_costs(at, *p) for p in profiles], len(rows))
    return sorted({_frame(datas, profiles, rows, starts, k) for k in range(1, len(starts))})


def _basis(columns, count):
    v = 2 * columns / max(1, count - 1) - 1
    return np.stack([np.ones(len(v)), v, 1.5 * v**2 - 0.5], 1)


def _profiles(data, columns, count):
    """Robust parabola along every row: coefficients (rows, 3), and their variances with what they wobble."""
    basis = _basis(columns, count)
    pairs = (basis[:, :, None] * basis[:, None]).reshape(len(basis), 9)
    scale = np.maximum(data.sigma, FLOOR / 2)
    middle = np.array([np.median(y[u]) if u.any() else 0.0 for y, u in zip(data.y, data.use, strict=True)])
    coef = np.zeros((len(middle), 3))
    coef[:, 0] = middle
    for step in range(16):
        r = np.abs(data.y - coef @ basis.T)
        spread = np.array([np.median(a[u]) if u.any() else 1.0 for a, u in zip(r / scale, data.use, strict=True)])
        z = r / scale / np.maximum(spread / NORMAL_MAD, 0.5)[:, None]
        # least absolute deviations first, then Tukey's biweight
        trust = 1 / np.maximum(z, 0.3) if step < 10 else (1 - np.minimum((z / 4.685) ** 2, 1)) ** 2
        weight = data.use * trust / (scale * np.maximum(spread / NORMAL_MAD, 0.5)[:, None]) ** 2
        gram = (weight @ pairs).reshape(-1, 3, 3) + np.eye(3) / UNKNOWN**2
        right = (weight * data.y) @ basis
        right[:, 0] += middle / UNKNOWN**2
        coef = np.linalg.solve(gram, right[..., None])[..., 0]
    variance = np.linalg.inv(gram).diagonal(axis1=1, axis2=2)
    around = np.stack([np.median(np.stack([coef[np.clip(np.arange(len(coef)) + s, 0, len(coef) - 1), k]
                                           for s in range(-2, 3)]), 0) for k in range(3)], 1)
    away = np.abs(coef - around)
    wobble = 1.2 * np.median(away / np.sqrt(variance), 0) / NORMAL_MAD
    variance = variance * np.maximum(wobble, 1) ** 2 + FLOOR**2
    variance[(away**2 > 36 * variance).any(1)] = UNKNOWN**2  # a lone row that is far off tells nothing
    return coef, variance


def _segment_costs(at, coef, variance):
    """What a polynomial down the scan leaves of the profiles in rows i .. j - 1, squared and in units of their
    variance, (rows + 1, rows + 1); infinite for too few rows. The last one does not count: another part may begin
    in it."""
    n = len(at)
    cost = np.zeros((n + 1, n + 1))
    i, j = np.triu_indices(n + 1, FEWEST_ROWS)
    for term, degree in enumerate((2, 1, 0)):
        w, y = 1 / variance[:, term], coef[:, term] - np.median(coef[:, term])
        powers = (2 * at - 1)[:, None] ** np.arange(2 * degree + 1)

        def sums(values):
            total = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, 0)])
            return total[j - 1] - total[i]

        moments = sums(w[:, None] * powers)
        right = sums((w * y)[:, None] * powers[:, : degree + 1])
        hankel = moments[:, np.add.outer(np.arange(degree + 1), np.arange(degree + 1))]
        hankel = hankel + 1e-9 * moments[:, :1, None] * np.eye(degree + 1)
        solved = np.linalg.solve(hankel, right[..., None])[..., 0]
        cost[i, j] += np.maximum(sums((w * y**2)[:, None])[:, 0] - (right * solved).sum(1), 0)
    out = np.full((n + 1, n + 1), np.inf)
    out[i, j] = cost[i, j]
    return out


def _partition(costs, n):
    """First rows of the parts, the first one's 0 among them."""
    cost = sum(costs)
    best, came = [cost[0]], []
    for _ in range(MOST_BREAKS):
        total = best[-1][:, None] + cost
        came.append(total.argmin(0))
        best.append(total.min(0))
    size = 6 * n
    ends = np.array([b[n] for b in best])
    criterion = size * np.log((ends + size) / size) + PER_BREAK * np.arange(len(ends)) * np.log(size)
    count = int(np.argmin(np.where(np.isfinite(ends), criterion, np.inf)))
    starts, stop = [], n
    for k in range(count, 0, -1):
        stop = int(came[k - 1][stop])
        starts.append(stop)
    return [0, *sorted(starts)]


def _frame(datas, profiles, rows, starts, k):
    """The frame between two parts at which one descan turns into the other."""
    first, last = starts[k - 1], starts[k + 1] if k + 1 < len(starts) else len(rows)
    shape = datas[0].y.shape
    low, high = max(starts[k] - UNSURE, first + 2), min(starts[k] + UNSURE, last - 2)
    before, after = np.arange(max(first, low - NEAR), low), np.arange(high, min(last, high + NEAR))
    between = np.arange(rows[low], rows[high])
    basis = _basis(np.arange(shape[1]), shape[1])
    gain = 0.0
    for data, (coef, variance) in zip(datas, profiles, strict=True):
        off = []
        for some in (before, after):
            around = [np.polynomial.polynomial.polyfit(rows[some], coef[some, t], 1, w=variance[some, t] ** -0.5)
                      for t in range(3)]
            values = np.stack([np.polynomial.polynomial.polyval(between, a) for a in around], 1) @ basis.T
            off.append(np.abs(data.y[between] - values))
        scale = np.median(np.minimum(*off)[data.use[between]]) / NORMAL_MAD + 1e-9
        gain = gain + np.where(data.use[between], np.subtract(*(np.minimum(o, 5 * scale) for o in off)) / scale, 0)
    # the cost of going over from one to the other at each frame
    total = np.concatenate([[0.0], np.cumsum(gain)])
    return int(between[0] * shape[1] + np.argmin(total))
