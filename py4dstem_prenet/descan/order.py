"""Faults of the order of acquisition: reversed or shifted rows, centered patterns, and a beam that jumps.

With such a fault, many positions differ by pixels from a smooth surface but agree with their neighbors in the order of
acquisition. A model of each fault predicts the scan position of every frame. A model is used if it explains most of the
outliers of the surface, and if its likelihood, which allows for outliers (Student's t), exceeds that of the surface by
more than the Bayesian information criterion. If no model explains outliers that agree with their neighbors in time but
not with those in space, the surface is refused. Scans may be acquired row by row or column by column: both are tried.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from scipy.ndimage import uniform_filter
from scipy.stats import binom

from ..core import MEDIAN_ERROR, NORMAL_MAD, STUDENT_DOF, Decision, Flag, check_residuals
from . import SurfaceFit, fit_pair

MIN_OFF_PX = 0.15  # pixels; smallest distance from the surface at which a position counts as an outlier
OFF_SIGMAS = 5.0  # standard deviations of a position; smallest distance from the surface of an outlier
SIGMA_FLOOR_PX = 0.03  # pixels; added to the stated sigma: the least that specimens add to the scatter of neighbors
MIN_OFF_FRACTION = 0.02  # fraction of the positions; with fewer outliers, no fault of the order is searched for
MAX_LEFT_FRACTION = 0.5  # fraction of the outliers; most that missing frames, or runs, may leave
LINE_OFF_SIGMAS = 6.0  # standard errors; smallest mean distance of an outlier line: false alarm in 2e-9 of the lines
MIN_LINE_OFF_PX = 0.25  # pixels; smallest mean distance of an outlier line: bends that the surface misses are smaller
MIN_LINE_COUNT = 4  # used positions; fewest in a row or column that is tested
MIN_EVIDENCE = 20.0  # log likelihood ratio minus criterion; smallest that is accepted: false alarm with odds of e^-20
MIN_PAIRED_FRACTION = 0.3  # fraction of valid pairs of successive frames; in a sparser sample the order is undetermined
MIN_COUNT = 24  # used positions; fewest for which the order is tested
MIN_CROSSED_Z = 4.0  # standard errors; smallest gain in agreement of adjacent rows if one is reversed, for a trial
MIN_FLYBACK_RATIO = 3.0  # ratio; smallest step at the end of a row relative to the median step
MAX_LENGTH_ERROR = 2  # frames; largest error of the length of a row
MAX_SLIP = 8  # frames; most that are missing or in excess together
# Surface and missing frames are determined in turn, with these multiples of the sigmas, since the first surface is bent
# by the displaced frames.
SLIP_TOLERANCES = 5.0, 2.0, 1.0, 1.0
MAX_CENTERED_RANGE_PX = 1.3  # pixels; largest range of the beam in patterns centered to whole pixels: rounding leaves 1
MAX_CENTERED_SIGMA_PX = 0.3  # pixels; largest sigma of a position: beyond it, positions spread evenly over a pixel
RANGE_SIGMAS = 4.0  # sigmas of a position; amount that counting adds to the range between the 1 % and 99 % quantiles
MIN_ODD_PART = 0.6  # fraction of a line's positions; fewest outliers in a displaced line
MAX_ODD_LINES = 0.35  # fraction of all lines; most that may be displaced
MAX_ODD_CHANCE = 1e-7  # probability that a line has so many outliers at the rate of the other lines
# Mean squared step between rows relative to the variance of rows about a parabola; smallest for rows that jump: below
# 1.4 in one of 1,000 scans of 8 to 12 rows that all jump, about 1 if every second row jumps; 0.6 for a bend with a
# period of 8 rows.
MIN_ROW_ROUGHNESS = 0.8
MIN_JUMPING_STEPS = 0.3  # fraction of the steps between rows; fewest that are longer than MIN_RUN_PX if rows jump
MIN_USED_ROWS, MIN_JUMPING_ROWS = 0.7, 4  # fraction and number of rows with positions; fewest that can reveal jumps
MIN_JUMPING_PX = 1.0  # pixels; smallest distance from the descan of a position that jumps: contrast moves disks by less
MIN_RUN_PX = 0.3  # pixels; smallest step between successive frames that ends a run
MAX_SPACE_AGREEMENT = 0.5  # fraction of the outliers; if more also agree with the adjacent row, they are grains
MIN_REFUSED_PX = 0.5  # pixels; smallest distance of outliers that refute a surface: specimens deflect the beam by less
MAX_LEFT_IN_TIME = 0.04  # fraction of the positions; most such outliers of a corrected order: 0 if it is correct
MIN_REFUSED_FRACTION = 0.1  # fraction of the positions; with more outliers in time only, the surface is refused


@dataclass(frozen=True)
class _Maps:
    """Measured origins with their sigmas, prepared for the tests of the order."""

    values: np.ndarray  # (2, Rx, Ry), pixels
    sigmas: np.ndarray  # (2, Rx, Ry), pixels
    valid: np.ndarray  # (Rx, Ry), True where a position is used
    sigma: np.ndarray  # (Rx, Ry), pixels, including SIGMA_FLOOR_PX

    @property
    def flat(self):
        """Origins (2, n) in the order of acquisition."""
        return self.values.reshape(2, -1)

    def off(self, fitted, least=MIN_OFF_PX):
        """Mask (Rx, Ry) of used positions at least `least` pixels and OFF_SIGMAS away from a surface (2, Rx, Ry)."""
        distance = np.hypot(*(self.values - fitted))
        return self.valid & (distance > np.maximum(least, OFF_SIGMAS * self.sigma))

    def lines_off(self, fitted, axis):
        """Mask of the columns (axis 0) or rows (axis 1) whose mean deviates from a surface (2, Rx, Ry).

        Residuals are clipped at OFF_SIGMAS.
        """
        used = self.valid.sum(axis)
        residual = np.where(self.valid, self.values - fitted, 0.0)
        limit = OFF_SIGMAS * self.sigma
        clipped = np.clip(residual, -limit, limit)
        mean, pull = clipped.sum(axis + 1) / used.clip(1), (clipped / self.sigma).sum(axis + 1) / np.sqrt(used.clip(1))
        off = (np.abs(pull) > LINE_OFF_SIGMAS) & (np.abs(mean) > MIN_LINE_OFF_PX)
        return off.any(0) & (used >= MIN_LINE_COUNT)

    def loss(self, fitted):
        """Negative log likelihood of all used positions."""
        squared = ((self.values - fitted) ** 2).sum(0)
        terms = np.log1p(squared / (STUDENT_DOF * self.sigma**2))
        return float((STUDENT_DOF + 2) / 2 * terms[self.valid].sum())


def reorder(maps, sigmas, valid, fits, model="auto"):
    """Search for an order of acquisition, or for jumps, that explain the outliers of a smooth surface.

    Parameters
    ----------
    maps : array_like, shape (2, Rx, Ry)
        Measured origins in pixels.
    sigmas : array_like, shape (2, Rx, Ry)
        Standard errors of the origins in pixels.
    valid : numpy.ndarray of bool, shape (Rx, Ry)
        True where a position is used.
    fits : sequence of SurfaceFit
        The smooth surfaces of both coordinates.
    model : str, optional
        Model of the surface, as for `surface.fit_pair`.

    Returns
    -------
    fits : tuple of SurfaceFit or None
        Surfaces for the corrected order, or refused surfaces; None if the given fits remain valid.
    flag : Flag or None
        The fault that was found.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.descan import fit_pair, reorder
    >>> rows, columns = np.indices((12, 12))
    >>> maps = np.stack([60 + 0.1 * rows, 50 + 0.5 * columns])
    >>> maps[:, 1::2] = maps[:, 1::2, ::-1]  # every second row was scanned backward
    >>> sigmas, valid = np.full(maps.shape, 0.05), np.ones((12, 12), bool)
    >>> fits, flag = reorder(maps, sigmas, valid, fit_pair(*maps, *sigmas, valid))
    >>> flag.name, bool(np.abs(fits[1].values - maps[1]).max() < 0.01)
    ('rows_reversed', True)
    """
    data = _prepared(maps, sigmas, valid)
    smooth = np.stack([fit.values for fit in fits])
    used = int(data.valid.sum())
    pairs = data.valid.ravel()[1:] & data.valid.ravel()[:-1]
    if min(data.valid.shape) < 4 or used < MIN_COUNT or pairs.mean() < MIN_PAIRED_FRACTION:
        return None, None
    off = data.off(smooth)
    # Models that predict more positions come first: displaced lines keep the measured values, and runs follow any
    # motion in time.
    groups = (_reversed_rows, _shifted, _slipped, _row_steps, _centered), (_odd_lines,), (_runs,)
    faint = off.sum() < MIN_OFF_FRACTION * used and not any(data.lines_off(smooth, axis).any() for axis in (0, 1))
    if faint:  # with few electrons there are no outliers, but the residuals together may differ from noise
        taken = np.sum([fit.taken for fit in fits], axis=0)
        test = check_residuals(data.values - smooth, data.sigmas, data.valid, taken=taken)
        if not (test.correlated or test.large):
            return None, None
        groups = groups[:1]
    best = (MIN_EVIDENCE, None, None)
    smooth_loss = data.loss(smooth)
    for models in groups:
        trials = (trial for make in models for trial in make(data, smooth, model))
        by_columns = _by_columns(data, smooth, model) if models is groups[0] else ()
        for candidate, flag, parameters in chain(trials, by_columns):
            values = np.stack([fit.values for fit in candidate])
            evidence = smooth_loss - data.loss(values) - 0.5 * parameters * np.log(2 * used)
            # The correct order leaves no outliers that agree with their neighbors in time.
            if evidence > best[0] and _left_in_time(data, values) <= MAX_LEFT_IN_TIME:
                best = evidence, candidate, flag
        if best[1] is not None:
            break
    if best[1] is None and not faint:
        best = next(((0.0, candidate, flag) for candidate, flag, _ in _odd_lines(data, smooth, model, jointly=True)
                     if _left_in_time(data, np.stack([fit.values for fit in candidate])) <= MAX_LEFT_IN_TIME), best)
    if best[1] is not None:
        return best[1], best[2]
    fraction = _left_in_time(data, smooth)
    if fraction >= MIN_REFUSED_FRACTION:
        flag = Flag("order_unknown", {"percent": 100 * fraction})
        return tuple(replace(fit, decision=Decision(False, (flag,))) for fit in fits), None
    return None, None


def jumping(maps, sigmas, valid, surfaces):
    """Find positions that jump: they lie off the descan and do not agree with their neighbors along both scan axes.

    Parameters
    ----------
    maps, sigmas : array_like, shape (2, Rx, Ry)
        Measured origins and their standard errors in pixels.
    valid : numpy.ndarray of bool, shape (Rx, Ry)
        True where a position is used.
    surfaces : array_like, shape (2, Rx, Ry)
        The descan in pixels.

    Returns
    -------
    numpy.ndarray of bool, shape (Rx, Ry)
        True where a position is at least MIN_JUMPING_PX and OFF_SIGMAS standard deviations off. Parts of the specimen
        that deflect the beam are left out.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.descan import jumping
    >>> maps = np.zeros((2, 6, 6))
    >>> maps[0, 2, 3] = 4.0
    >>> np.argwhere(jumping(maps, np.full(maps.shape, 0.1), np.ones((6, 6), bool), np.zeros(maps.shape))).tolist()
    [[2, 3]]
    """
    data, surfaces = _prepared(maps, sigmas, valid), np.asarray(surfaces, float)
    off = data.off(surfaces, MIN_JUMPING_PX)
    alike = [_agreeing(data, surfaces, off, axis) for axis in (0, 1) if off.shape[axis] > 1]
    return off & ~np.logical_and.reduce(alike) if alike else off


def _prepared(maps, sigmas, valid):
    maps, sigmas = np.asarray(maps, float), np.asarray(sigmas, float)
    valid = np.asarray(valid, bool) & np.isfinite(maps).all(0) & np.isfinite(sigmas).all(0)
    typical = float(np.median(sigmas[:, valid])) if valid.any() else 1.0
    # A wrong position may have a large stated sigma; the limit prevents it from being overlooked.
    sigma = np.hypot(np.minimum(np.where(valid, sigmas.max(0), typical), 3 * typical), SIGMA_FLOOR_PX)
    return _Maps(np.where(valid, maps, 0.0), np.where(valid, sigmas, 1.0), valid, sigma)


def _left_in_time(data, values):
    """Fraction of the positions that deviate from a surface by MIN_REFUSED_PX and agree along one scan axis only."""
    off = data.off(values, MIN_REFUSED_PX)
    return max(_along_one_only(data, values, off, axis) for axis in (0, 1))


def _along_one_only(data, smooth, off, axis=1):
    """Fraction of the positions that are outliers and agree with a neighbor along an axis of the scan.

    It is 0 if most of them also agree with one along the other axis, as in grains.
    """
    along, across = (_agreeing(data, smooth, off, a) for a in (axis, 1 - axis))
    if not along.any() or (along & across).sum() > MAX_SPACE_AGREEMENT * along.sum():
        return 0.0
    return float(along.sum() / data.valid.sum())


def _agreeing(data, smooth, off, axis):
    """Mask (Rx, Ry) of outliers that agree with an adjacent outlier along an axis of the scan.

    Two positions agree if their step equals that of the surface or the most common step. The latter is needed because a
    flexible surface bends between jumps.
    """
    agreeing = np.zeros_like(off)
    a, b = ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:, :], np.s_[:-1, :]))[1 - axis]
    paired = off[a] & off[b]
    if not paired.any():
        return agreeing
    tolerance = OFF_SIGMAS * 2**0.5 * data.sigma[a]
    steps, expected = (values[(..., *a)] - values[(..., *b)] for values in (data.values, smooth))
    common_step = _usual_step(steps, data.valid[a] & data.valid[b], tolerance)
    alike = paired & (np.minimum(np.hypot(*(steps - expected)), np.hypot(*(steps - common_step))) < tolerance)
    agreeing[a] |= alike
    agreeing[b] |= alike
    return agreeing


def _usual_step(steps, valid, near):
    """Most common step between neighbors, as a plane over the scan, (2, m, n) pixels."""
    i, j = np.nonzero(valid)
    taken = np.unique(np.linspace(0, len(i) - 1, 300).astype(int))  # chosen for speed
    values = steps[:, i[taken], j[taken]]
    distance = np.hypot(*(values[:, :, None] - values[:, None]))
    common_step = values[:, (distance < near[i[taken], j[taken]]).sum(1).argmax()][:, None, None]
    u, v = (np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in valid.shape)
    plane = np.stack(np.broadcast_arrays(1.0, u[:, None], v), -1)
    for _ in range(3):
        close = valid & (np.hypot(*(steps - common_step)) < near)
        if close.sum() < MIN_COUNT:
            break
        common_step = np.moveaxis(plane @ np.linalg.lstsq(plane[close], steps[:, close].T, rcond=None)[0], -1, 0)
    return common_step


def _by_columns(data, smooth, model):
    """Yield the trials of a scan that was acquired column by column."""
    flipped = _Maps(*(np.swapaxes(a, -1, -2) for a in (data.values, data.sigmas, data.valid, data.sigma)))
    for make in (_reversed_rows, _row_steps):
        for fits, flag, parameters in make(flipped, np.swapaxes(smooth, -1, -2), model):
            fits = tuple(replace(f, values=f.values.T, sigma=f.sigma.T, residual=f.residual.T) for f in fits)
            yield fits, replace(flag, name=flag.name.replace("row", "column")), parameters


# --- frames assigned to other scan positions ------------------------------------------------------
def _fit_at(data, index, columns, model):
    """Fit the surface with frames at corrected scan positions; return fits in the shape of the scan, and the surface.

    `index` (n,) is the flat position of each frame in rows of `columns` positions; negative before the first row.
    """
    # Frames before the first or after the last position belong to a different scan or are copies: keep their values.
    outside = ((index < 0) | (index // columns >= data.valid.shape[0] + 1)).reshape(data.valid.shape) & data.valid
    before = -min(0, int(np.floor(index.min() / columns)))
    index = index + before * columns
    rows = int(index.max() // columns) + 1
    at = np.divmod(index, columns)
    maps, sigmas = np.zeros((2, rows, columns)), np.ones((2, rows, columns))
    valid = np.zeros((rows, columns), bool)
    maps[(slice(None), *at)], sigmas[(slice(None), *at)] = data.flat, data.sigmas.reshape(2, -1)
    valid[at] = (data.valid & ~outside).ravel()
    fits, surfaces = [], fit_pair(*maps, *sigmas, valid, model)
    for fit, values, sigma in zip(surfaces, data.values, data.sigmas, strict=True):
        value, error = (a[at].reshape(values.shape) for a in (fit.values, fit.sigma))
        fits.append(_with_values(fit, np.where(outside, values, value), np.where(outside, sigma, error), values,
                                data.valid))
    return tuple(fits), np.stack([fit.values for fit in surfaces])[:, before:]


def _with_values(fit, values, sigma, measured, valid):
    return SurfaceFit(values, sigma, np.where(valid, measured - values, np.nan), fit.model, fit.scores, fit.decision,
                      fit.trials, fit.taken)


def _reversed_rows(data, smooth, model):
    """Model: every second row was scanned or stored backward."""
    rows, columns = data.valid.shape
    index = np.arange(rows * columns).reshape(rows, columns)
    index[1::2] = index[1::2, ::-1]
    paired = data.valid[1:] & data.valid[:-1]
    paired &= paired[:, ::-1]  # requires that all four positions are valid
    if paired.sum() < columns:
        return
    direct, mirrored = (((data.values[:, 1:] - other) ** 2).sum(0) for other in
                    (data.values[:, :-1], data.values[:, :-1, ::-1]))
    limit = 9 * np.median(np.minimum(direct, mirrored)[paired])  # limits the influence of wrong disks
    gain = (np.minimum(direct, limit) - np.minimum(mirrored, limit))[paired]
    if gain.mean() > MIN_CROSSED_Z * max(gain.std(), 1e-12) / np.sqrt(gain.size):
        yield _fit_at(data, index.ravel(), columns, model)[0], Flag("rows_reversed"), 2


def _steps(data):
    """Distance (n - 1,) between origins of successive frames; NaN if one of them is not valid."""
    paired = data.valid.ravel()[1:] & data.valid.ravel()[:-1]
    return np.where(paired, np.hypot(*np.diff(data.flat, axis=1)), np.nan)


def _flyback(steps, first, length):
    """Find the last frame of rows of `length` by the largest median step: (frame modulo length, step, median step)."""
    phase = (first + np.arange(len(steps))) % length
    median = np.array([np.nanmedian(steps[phase == c]) if np.isfinite(steps[phase == c]).any() else 0.0
                       for c in range(length)])
    return int(median.argmax()), float(median.max()), float(np.nanmedian(steps))


def _shifted(data, smooth, model):
    """Model: all frames are late or early by some triggers, or rows are longer or shorter than assumed."""
    columns = data.valid.shape[1]
    steps = _steps(data)
    best = (0.0, columns, columns - 1)
    for length in range(max(3, columns - MAX_LENGTH_ERROR), columns + MAX_LENGTH_ERROR + 1):
        last, step, typical = _flyback(steps, 0, length)
        best = max(best, (step / max(typical, 1e-9), length, last))
    ratio, length, last = best
    if ratio < MIN_FLYBACK_RATIO or (length, last) == (columns, columns - 1):
        return
    late = last + 1 if 2 * (last + 1) <= length else last + 1 - length
    flag = Flag("frames_shifted", {"count": late}) if length == columns else Flag(
        "row_length_wrong", {"columns": columns, "length": length})
    yield _fit_at(data, np.arange(data.valid.size) - late, length, model)[0], flag, 3


def _slipped(data, smooth, model):
    """Models: frames are missing at some times, or are in excess, also before the first one.

    The most probable number of positions by which each frame is displaced, given the surface, is a path through a
    hidden Markov chain (Viterbi 1967) that only rises, or only falls. Surface and path are determined in turn.
    """
    rows, columns = data.valid.shape
    size, most = data.valid.size, min(MAX_SLIP, columns // 2)
    outliers = data.off(smooth).sum()
    if outliers < MIN_OFF_FRACTION * data.valid.sum():  # the specimen may deflect the beam as far as a slip does
        return
    change = np.log(2 * size * most)  # the time of a change, and the new number
    first = np.stack([fit.values for fit in fit_pair(*data.values, *data.sigmas, data.valid, "parabola")])
    valid = data.valid.ravel()

    def path(slips, surface, tolerance, steps=False):
        """Find the cheapest slips (n,) of the frames about a surface, or those of their steps to the next frame."""
        before, after = 2 * surface[:, :1] - surface[:, 1:2], 2 * surface[:, -1:] - surface[:, -2:-1]
        expected = np.concatenate([before, surface, after], 1).reshape(2, -1)  # a row more before and after
        measured, used, sigma = data.flat, valid, tolerance * data.sigma.ravel()
        if steps:
            expected, measured = (np.diff(a, axis=1, append=a[:, -1:]) for a in (expected, measured))
            used, sigma = used & np.append(used[1:], False), 2**0.5 * sigma
        padded = np.arange(size)[:, None] + slips + columns
        squared = ((measured[..., None] - expected[:, padded]) ** 2).sum(0) / sigma[:, None] ** 2
        cost = (STUDENT_DOF + 2) / 2 * np.log1p(squared / STUDENT_DOF) * used[:, None]
        return slips[_cheapest_path(cost, change)]

    for slips in (np.arange(-most, most + 1), np.arange(most, -most - 1, -1)):
        # The first surface passes through frames of all slips: it lies at their mean, but has the right slope.
        surface, fitted = first, np.zeros(size, int)  # the surface, and the slips for which it was fitted
        slip = path(slips, surface, SLIP_TOLERANCES[0], steps=True)
        for tolerance in SLIP_TOLERANCES:
            if (slip != fitted).any():
                surface = _fit_at(data, np.arange(size) + slip, columns, "parabola")[1][:, :rows]
                fitted = slip
            slip = path(slips, surface, tolerance)
        if not slip.any():
            continue
        fits, _ = _fit_at(data, np.arange(size) + slip, columns, model)
        if data.off(np.stack([fit.values for fit in fits])).sum() > MAX_LEFT_FRACTION * outliers:
            continue
        changes = np.flatnonzero(np.diff(slip)) + 1
        if len(changes):
            flag = Flag("frames_missing", {"count": int(slip[-1] - slip[0]), "times": len(changes),
                                           "row": int(changes[0] // columns), "column": int(changes[0] % columns)})
        else:
            flag = Flag("frames_shifted", {"count": int(-slip[0])})
        yield fits, flag, 1 + 2 * len(changes)


def _cheapest_path(cost, change):
    """State (n,) of each of n steps with the smallest sum of costs (n, states); each change of state costs `change`.

    The number of the state never decreases, so each state is solved for all steps at once, in ascending order.
    """
    steps, states = cost.shape
    total, entry = np.empty((states, steps)), np.empty((states, steps), int)  # sum up to a step; when its state began
    lower, origin = np.full(steps, np.inf), np.zeros((states + 1, steps), int)  # smallest sum of lower states; which
    for state in range(states):
        summed = np.cumsum(cost[:, state])
        # Sum at the entry of the state less that of its own costs before; the path may begin in any state.
        start = np.concatenate([[0.0], lower[:-1] + change - summed[:-1]])
        least = np.minimum.accumulate(start)
        entry[state] = np.maximum.accumulate(np.where(start == least, np.arange(steps), 0))
        total[state] = least + summed
        better = total[state] < lower
        lower = np.where(better, total[state], lower)
        origin[state + 1] = np.where(better, state, origin[state])
    path, stop = np.empty(steps, int), steps
    state = int(total[:, -1].argmin())
    while stop > 0:
        first = int(entry[state, stop - 1])
        path[first:stop] = state
        if first > 0:
            state = int(origin[state, first - 1])
        stop = first
    return path


# --- motion of the beam ---------------------------------------------------------------------------
def _row_steps(data, smooth, model):
    """Model: the beam jumps at each scan row."""
    counts = data.valid.sum(1)
    used = counts >= MIN_LINE_COUNT
    masked = np.where(data.valid & used[:, None], data.values, np.nan)  # if few are valid, all may be on a wrong disk
    counts = np.where(used, counts, 0)
    if used.mean() < MIN_USED_ROWS or used.sum() < MIN_JUMPING_ROWS:
        return
    # Compare with a parabola down the scan, since a flexible surface follows the jumps.
    at = np.linspace(-1, 1, len(counts))[used]
    rows = _row_median(masked)[:, used]
    deviations = np.stack([row - np.polyval(np.polyfit(at, row, 2), at) for row in rows])
    change = np.diff(deviations, axis=1)
    steps = np.diff(rows, axis=1)
    long = np.hypot(*(steps - np.median(steps, 1)[:, None])) > MIN_RUN_PX  # few lines elsewhere bend the parabola
    # The ratio of von Neumann is 2 for independent rows, and small if rows follow a smooth curve.
    if long.mean() < MIN_JUMPING_STEPS or (
            (change**2).mean() < MIN_ROW_ROUGHNESS * deviations.var(1).mean()):
        return
    offset = _row_median(masked)
    fits = fit_pair(*(data.values - offset[..., None]), *data.sigmas, data.valid, model)
    surface = np.stack([fit.values for fit in fits])
    offset = _row_median(masked - surface)
    deviation = np.abs(masked - surface - offset[..., None])
    error = MEDIAN_ERROR * np.nanmedian(deviation, (1, 2)) / NORMAL_MAD
    spread = offset[:, counts > 0].std(1)  # uncertainty of a row without positions
    error = np.where(counts > 0, error[:, None] / np.sqrt(counts.clip(1)), spread[:, None])
    flag = Flag("row_steps", {"step": float(np.median(np.hypot(*np.diff(offset, axis=1))))})
    yield tuple(_with_values(fit, values, np.hypot(fit.sigma, e[:, None]), measured,
                             data.valid)
                for fit, values, e, measured in zip(fits, surface + offset[..., None], error, data.values,
                                                    strict=True)), flag, 2 * len(counts)


def _row_median(values):
    """Median (2, Rx) of each row, interpolated between rows if no position is valid."""
    median = np.array([[np.nanmedian(row) if np.isfinite(row).any() else np.nan for row in image] for image in values])
    at = np.arange(median.shape[1])
    return np.stack([np.interp(at, at[np.isfinite(m)], m[np.isfinite(m)]) for m in median])


def _centered(data, smooth, model):
    """Model: patterns were centered before by whole pixels, so that the beam is within half a pixel of one point."""
    ends = np.percentile(data.values[:, data.valid], [1, 99], axis=1)
    sigma = float(np.median(data.sigma))
    if np.ptp(ends, axis=0).max() > MAX_CENTERED_RANGE_PX + RANGE_SIGMAS * sigma or sigma > MAX_CENTERED_SIGMA_PX:
        return
    if not data.valid.all():
        return
    unwrapped = np.stack([_unwrapped(image) for image in data.values])
    if not (unwrapped - data.values).any():
        return
    fits = fit_pair(*unwrapped, *data.sigmas, data.valid, model)
    # The number of whole pixels is taken from the measurement, since a fit cannot determine it near a limit.
    whole = [np.rint(fit.values - measured) for fit, measured in zip(fits, data.values, strict=True)]
    yield tuple(_with_values(fit, fit.values - n, fit.sigma, measured, data.valid)
                for fit, n, measured in zip(fits, whole, data.values, strict=True)), Flag("centered_before"), 16


def _unwrapped(image):
    """Add whole pixels to a map (Rx, Ry), so that it follows a plane and the smooth residual of that plane."""
    wave = np.exp(2j * np.pi * image)
    size = [4 * n for n in image.shape]  # zero padding refines the slope
    spectrum = np.abs(np.fft.fft2(wave, size))
    at = np.unravel_index(spectrum.argmax(), spectrum.shape)
    slopes = [(k + n // 2) % n / n - (n // 2) / n for k, n in zip(at, size, strict=True)]  # pixels a position
    plane = sum(slope * np.arange(n).reshape((-1, 1) if axis == 0 else (1, -1))
                for axis, (slope, n) in enumerate(zip(slopes, image.shape, strict=True)))
    residual = wave * np.exp(-2j * np.pi * plane)
    smooth = uniform_filter(residual.real, 3, mode="nearest") + 1j * uniform_filter(residual.imag, 3, mode="nearest")
    # The mean of neighbors turns by less than half a circle from position to position.
    phase = np.unwrap(np.unwrap(np.angle(smooth), axis=1), axis=0)
    expected = plane + phase / (2 * np.pi)
    return image + np.rint(expected - image)


def _odd_lines(data, smooth, model, jointly=False):
    """Model: whole rows or columns are displaced, as if taken during the flyback; their measured values are kept.

    They are identified by their number of outliers or, if `jointly`, by the mean of their positions.
    """
    outlier, valid = data.off(smooth), data.valid
    displaced = np.zeros_like(valid)
    numbers, parameters = {}, 0
    for axis, name in ((1, "rows"), (0, "columns")):
        count, used = outlier.sum(axis), valid.sum(axis)
        lines = (used >= MIN_LINE_COUNT) & (count > MIN_ODD_PART * used)
        if jointly:
            lines = data.lines_off(smooth, axis)
        if not lines.any() or lines.mean() > MAX_ODD_LINES:
            numbers[name] = []
            continue
        remaining = outlier.sum() - count[lines].sum()
        rate = max((remaining + 1) / max(used.sum() - used[lines].sum(), 1), 1e-3)
        lines &= jointly or binom.sf(count - 1, used, rate) < MAX_ODD_CHANCE
        numbers[name] = [str(int(i)) for i in np.flatnonzero(lines)]
        displaced |= lines[:, None] if axis == 1 else lines
        parameters += 4 * int(lines.sum())  # a straight line for each coordinate
    if not displaced.any():
        return
    fits = fit_pair(*data.values, *data.sigmas, valid & ~displaced, model)
    distance = np.hypot(*(data.values - [fit.values for fit in fits]))[displaced & valid]
    unknown = float(np.median(distance)) if distance.size else np.inf  # sigma of positions there that were not measured
    yield tuple(_with_values(fit, np.where(displaced & valid, measured, fit.values),
                             np.where(displaced & valid, sigma, np.where(displaced, unknown, fit.sigma)), measured,
                             valid)
                for fit, measured, sigma in zip(fits, data.values, data.sigmas, strict=True)), Flag(
                    "lines_elsewhere", numbers), parameters


def _runs(data, smooth, model):
    """Model: the beam stays for some frames and then jumps; the surface follows these runs, but is refused."""
    # A small particle also deflects the beam.
    if _along_one_only(data, smooth, data.off(smooth)) < MIN_REFUSED_FRACTION:
        return
    middle = np.median(data.values[:, data.valid], 1)[:, None, None] + np.zeros_like(smooth)
    at = np.flatnonzero(data.valid.ravel())
    order = np.arange(data.valid.size)
    for base in (smooth, middle):
        residual = (data.values - base).reshape(2, -1)
        step = np.hypot(*np.diff(residual[:, at], axis=1))
        limit = np.maximum(MIN_RUN_PX, OFF_SIGMAS * 2**0.5 * data.sigma.ravel()[at[1:]])
        run = np.concatenate([[0], np.cumsum(step > limit)])
        length = np.bincount(run)
        if len(length) < 4 or (length[run] >= 2).mean() < 1 - MAX_LEFT_FRACTION / 2:
            continue
        if _along_one_only(data, base, data.off(base)) == 0.0:
            continue
        level = np.stack([np.bincount(run, r) / length for r in residual[:, at]])
        displacement = [np.interp(order, at, np.where(length[run] >= 2, line[run], 0.0)) for line in level]
        values = base + np.reshape(displacement, base.shape)
        if data.off(values).sum() > max(MAX_LEFT_FRACTION * data.off(smooth).sum(),
                                        MIN_OFF_FRACTION * data.valid.sum()):
            continue
        step = float(np.median(np.hypot(*np.diff(level))))
        refused = Decision(False, (Flag("beam_jumps", {"count": len(length) - 1, "step": step}),))
        yield tuple(SurfaceFit(v, np.full(v.shape, np.inf), np.where(data.valid, m - v, np.nan), "constant", {},
                               refused) for v, m in zip(values, data.values, strict=True)), None, 2 * len(length)
