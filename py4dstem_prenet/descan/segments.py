"""Piecewise fit of a descan that changes during the scan, for instance in joined files.

`jumps` treats steps within one descan. Here each segment has its own slopes, which a surface with steps cannot
describe. A robust parabola is fitted to each scan row, and polynomials down the scan are fitted to its coefficients.
The breaks between segments are found by optimal partition (Bellman, Commun. ACM 4, 284 (1961)), and their number by the
Bayesian information criterion (Schwarz 1978).
"""

from __future__ import annotations

import numpy as np

from ..core import NORMAL_MAD, TUKEY_CUT, Decision, masked_median, robust_loss
from . import (
    JUMP_ROWS,
    LINE_OFF_SIGMAS,
    MAX_JUMPS,
    MAX_LEFT_FRACTION,
    MIN_JUMPING_PX,
    MIN_RUN_PX,
    MIN_SEGMENT_ROWS,
    MIN_SPLINE_BEND,
    MODELS,
    SIGMA_FLOOR_PX,
    SPLINE_MARGIN_SIGMAS,
    SurfaceFit,
    fit_pair,
    folds,
    prepare,
    thinned,
)

BREAK_CONTEXT_ROWS = 8  # used rows outside this margin, from which the profiles on either side are extrapolated
PROFILE_PRIOR_PX = 1e3  # pixels, 1 sigma; prior of the coefficients of a profile, too wide to have an effect


def fit_parts(maps, sigmas, valid, whole, model="auto"):
    """Fit the descan in segments of the scan if they are clearly better than one surface.

    Parameters
    ----------
    maps : array_like, shape (2, Rx, Ry)
        Measured origins in pixels.
    sigmas : array_like, shape (2, Rx, Ry)
        Standard errors of the origins in pixels.
    valid : numpy.ndarray of bool, shape (Rx, Ry)
        True where a position is used.
    whole : numpy.ndarray, shape (2, Rx, Ry)
        Best surface for the whole scan in pixels.
    model : str, optional
        Model of each segment, as for `surface.fit_pair`.

    Returns
    -------
    fits : tuple of SurfaceFit or None
        Fits of both coordinates; None if one surface is sufficient.
    frames : list of int
        Flat scan positions at which the second and later segments start; empty if there is one segment.
    """
    frames = find_breaks(maps, sigmas, valid)
    if not frames or _is_white(maps, sigmas, valid, whole):
        return None, []
    fits = _fit(maps, sigmas, valid, frames, model)
    values = np.stack([fit.values for fit in fits])
    change = (values - whole)[:, valid]
    bends = change.var(1).sum() > MIN_SPLINE_BEND**2 * whole[:, valid].var(1).sum()
    # The specimen may change the surface, but not so much relative to the descan.
    min_change = MIN_RUN_PX if bends else MIN_JUMPING_PX
    if np.abs(change).max() < min_change or not all(fit.accepted for fit in fits):
        return None, []
    if not _is_better(maps, sigmas, valid, whole, values):
        return None, []
    fold = folds(valid.shape) % 2 == 0
    held_out = np.where(fold, *(np.stack([fit.values for fit in _fit(maps, sigmas, valid & half, frames, model)])
                                for half in (~fold, fold)))
    return (fits, frames) if _is_better(maps, sigmas, valid, whole, held_out) else (None, [])


def _fit(maps, sigmas, valid, frames, model):
    """Fit each segment and combine the fits to a pair of `SurfaceFit` of the whole scan."""
    columns = valid.shape[1]
    segment = _segment_of(frames, valid.shape)
    segments = []
    for k, (first, last) in enumerate(zip([0, *frames], [*frames, valid.size], strict=True)):
        rows = slice(first // columns, -(-last // columns))
        inside = segment[rows] == k
        pair = fit_pair(*(m[rows] for m in (*maps, *sigmas)), valid[rows] & inside, model)
        segments.append((rows, inside, pair))
    fits = []
    for c in range(2):
        out = np.empty((3, *valid.shape))
        for rows, inside, pair in segments:
            for target, source in zip(out, (pair[c].values, pair[c].sigma, pair[c].residual), strict=True):
                target[rows][inside] = source[inside]
        richest = max((pair[c].model for *_, pair in segments), key=MODELS.index)
        flags = {flag.name: flag for *_, pair in segments for flag in pair[c].decision.flags}
        accepted = all(pair[c].accepted for *_, pair in segments)
        taken = tuple(map(sum, zip(*(pair[c].taken for *_, pair in segments), strict=True)))
        fits.append(SurfaceFit(*out, richest, {}, Decision(accepted, tuple(flags.values())), taken=taken))
    return tuple(fits)


def _segment_of(frames, shape):
    """Number of the segment of each position, (Rx, Ry)."""
    return np.searchsorted(frames, np.arange(shape[0] * shape[1]), side="right").reshape(shape)


def _is_white(maps, sigmas, valid, whole):
    """Return whether positions scatter about one surface no more than neighbors in a row differ from each other."""
    loss = []
    for values, sigma, surface in zip(maps, sigmas, whole, strict=True):
        data = prepare(values, sigma, valid)
        pull = (data.y - surface) / data.sigma
        step = np.diff(pull, axis=1)[data.use[:, 1:] & data.use[:, :-1]]
        scale = np.median(np.abs(step)) / (NORMAL_MAD * np.sqrt(2)) if step.size else 1.0
        loss.append(robust_loss(pull[data.use] / max(1.0, scale)) - 1)
    loss = np.concatenate(loss)
    return loss.sum() < SPLINE_MARGIN_SIGMAS * loss.std() * np.sqrt(loss.size)


def _is_better(maps, sigmas, valid, whole, parts):
    """Return whether segments explain most of the excess misfit of one surface; outliers of both fits are left out."""
    excess = np.zeros(2)
    for values, sigma, whole_values, part_values in zip(maps, sigmas, whole, parts, strict=True):
        data = prepare(values, sigma, valid)
        pull = np.abs(np.stack([whole_values, part_values]) - data.y)[:, data.use] / data.sigma[data.use]
        pull /= max(1.0, np.median(pull[1]) / NORMAL_MAD)
        loss = robust_loss(pull)
        loss = loss[:, loss.min(0) < robust_loss(np.inf)]
        excess += (loss - 1).sum(1)
    return excess[0] > 0 and excess[1] < MAX_LEFT_FRACTION * excess[0]


# --- the search for breaks --------------------------------------------------------------------------
def find_breaks(maps, sigmas, valid) -> list[int]:
    """Find the frames at which the descan of both coordinates changes.

    Parameters
    ----------
    maps : array_like, shape (2, Rx, Ry)
        Measured origins in pixels.
    sigmas : array_like, shape (2, Rx, Ry)
        Standard errors of the origins in pixels.
    valid : numpy.ndarray of bool, shape (Rx, Ry)
        True where a position is used.

    Returns
    -------
    list of int
        Flat scan positions at which a new segment starts, ascending.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.descan.segments import find_breaks
    >>> x, y = np.meshgrid(np.linspace(-1, 1, 30), np.linspace(-1, 1, 24), indexing="ij")
    >>> maps = np.stack([60 + 2 * x, 50 - y]) + np.random.default_rng(0).normal(0, 0.05, (2, 30, 24))
    >>> maps[:, 15:] += 4 * y[15:]  # another descan from row 15 on
    >>> (frame,) = find_breaks(maps, np.full(maps.shape, 0.05), np.ones((30, 24), bool))
    >>> abs(frame - 15 * 24) <= 2
    True
    """
    datas = [prepare(values, sigma, valid) for values, sigma in zip(maps, sigmas, strict=True)]
    use = datas[0].use & datas[1].use
    used = [np.flatnonzero(use.any(axis)) for axis in (1, 0)]
    if len(used[0]) < 2 * MIN_SEGMENT_ROWS:
        return []
    limits = 128, 64  # chosen for speed
    rows, columns = (thinned(lines, -(-len(lines) // limit)) for lines, limit in zip(used, limits, strict=True))
    profiles = [_profiles(data.at(rows, columns), columns, use.shape[1]) for data in datas]
    at = rows / max(1, use.shape[0] - 1)
    starts = _partition([_segment_costs(at, *p) for p in profiles], len(rows))
    return sorted({_frame(datas, profiles, rows, starts, k) for k in range(1, len(starts))})


def _row_basis(columns, count):
    """Legendre polynomials (columns, 3) of degree 0 to 2 along a scan row."""
    v = 2 * columns / max(1, count - 1) - 1
    return np.stack([np.ones(len(v)), v, 1.5 * v**2 - 0.5], 1)


def _profiles(data, columns, count):
    """Fit a robust parabola to each row: coefficients (rows, 3) and variances, which include the scatter over rows."""
    basis = _row_basis(columns, count)
    pairs = (basis[:, :, None] * basis[:, None]).reshape(len(basis), 9)
    scale = np.maximum(data.sigma, SIGMA_FLOOR_PX / 2)
    median = masked_median(data.y, data.use, 0.0)
    coef = np.zeros((len(median), 3))
    coef[:, 0] = median
    for step in range(16):  # ten steps with absolute deviations, six with the biweight
        r = np.abs(data.y - coef @ basis.T)
        spread = masked_median(r / scale, data.use, 1.0)
        z = r / scale / np.maximum(spread / NORMAL_MAD, 0.5)[:, None]
        # Least absolute deviations first, then Tukey's biweight.
        biweight = (1 - np.minimum((z / TUKEY_CUT) ** 2, 1)) ** 2
        trust = 1 / np.maximum(z, 0.3) if step < 10 else biweight
        weight = data.use * trust / (scale * np.maximum(spread / NORMAL_MAD, 0.5)[:, None]) ** 2
        gram = (weight @ pairs).reshape(-1, 3, 3) + np.eye(3) / PROFILE_PRIOR_PX**2
        right = (weight * data.y) @ basis
        right[:, 0] += median / PROFILE_PRIOR_PX**2
        coef = np.linalg.solve(gram, right[..., None])[..., 0]
    variance = np.linalg.inv(gram).diagonal(axis1=1, axis2=2)
    smooth = np.stack([np.median(np.stack([coef[np.clip(np.arange(len(coef)) + s, 0, len(coef) - 1), k]
                                           for s in range(-2, 3)]), 0) for k in range(3)], 1)
    deviation = np.abs(coef - smooth)
    inflation = 1.2 * np.median(deviation / np.sqrt(variance), 0) / NORMAL_MAD
    variance = variance * np.maximum(inflation, 1) ** 2 + SIGMA_FLOOR_PX**2
    outlier = (deviation**2 > LINE_OFF_SIGMAS**2 * variance).any(1)
    variance[outlier] = PROFILE_PRIOR_PX**2
    return coef, variance


def _segment_costs(at, coef, variance):
    """Cost (rows + 1, rows + 1) of a segment of rows i to j - 1: chi squared of polynomials down the scan.

    The cost is infinite for too few rows. The last row is left out, since the next segment may start in it.
    """
    n = len(at)
    cost = np.zeros((n + 1, n + 1))
    i, j = np.triu_indices(n + 1, MIN_SEGMENT_ROWS)
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
    costs = np.full((n + 1, n + 1), np.inf)
    costs[i, j] = cost[i, j]
    return costs


def _partition(costs, n):
    """Find the first rows, 0 included, of the segments with the smallest Bayesian information criterion."""
    cost = sum(costs)
    best, last_start = [cost[0]], []
    for _ in range(MAX_JUMPS):
        total = best[-1][:, None] + cost
        last_start.append(total.argmin(0))
        best.append(total.min(0))
    size = 6 * n
    ends = np.array([b[n] for b in best])
    # Parameters of a break: six of each coordinate, and the frame.
    criterion = size * np.log((ends + size) / size) + 13 * np.arange(len(ends)) * np.log(size)
    count = int(np.argmin(np.where(np.isfinite(ends), criterion, np.inf)))
    starts, stop = [], n
    for k in range(count, 0, -1):
        stop = int(last_start[k - 1][stop])
        starts.append(stop)
    return [0, *sorted(starts)]


def _frame(datas, profiles, rows, starts, k):
    """Find the frame between two segments at which the descan changes."""
    first, last = starts[k - 1], starts[k + 1] if k + 1 < len(starts) else len(rows)
    shape = datas[0].y.shape
    low, high = max(starts[k] - JUMP_ROWS, first + 2), min(starts[k] + JUMP_ROWS, last - 2)
    before = np.arange(max(first, low - BREAK_CONTEXT_ROWS), low)
    after = np.arange(high, min(last, high + BREAK_CONTEXT_ROWS))
    between = np.arange(rows[low], rows[high])
    basis = _row_basis(np.arange(shape[1]), shape[1])
    gain = 0.0
    for data, (coef, variance) in zip(datas, profiles, strict=True):
        residuals = []  # residuals of the extrapolated profiles before and after the break
        for side in (before, after):
            lines = [np.polynomial.polynomial.polyfit(rows[side], coef[side, t], 1, w=variance[side, t] ** -0.5)
                     for t in range(3)]
            values = np.stack([np.polynomial.polynomial.polyval(between, line) for line in lines], 1) @ basis.T
            residuals.append(np.abs(data.y[between] - values))
        scale = np.median(np.minimum(*residuals)[data.use[between]]) / NORMAL_MAD + 1e-9
        difference = np.subtract(*(np.minimum(r, 5 * scale) for r in residuals)) / scale
        gain = gain + np.where(data.use[between], difference, 0)
    # Cost of a change from the first to the second segment at each frame.
    total = np.concatenate([[0.0], np.cumsum(gain)])
    return int(between[0] * shape[1] + np.argmin(total))
