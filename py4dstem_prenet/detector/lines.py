"""Rows and columns of the detector that are dead, hot, wide, interpolated or padded.

A line (row or column) is compared with the prediction of its neighbors along its whole length, since no pattern has a
feature that is one pixel wide along a whole row.
"""

import warnings
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..core import NORMAL_MAD, masked_median
from . import MEAN_SIGMAS, MIN_MEAN_PATTERNS

SIDE_LINES = 4  # lines on either side that predict a line
LINE_BLOCKS = 8  # number of parts of a line that are compared with the prediction
# Fraction of the parts; fewest that deviate by MEAN_SIGMAS in a bad line, by chance in less than 1 of 10^20 lines: the
# other parts may cross the beam.
MIN_BLOCKS_OFF = 0.75
# Fraction of the expected signal; smallest deviation of a part: smooth patterns bend by less within four lines.
MIN_LINE_DEVIATION = 0.15
MIN_EDGE_DEVIATION = 1.0  # MIN_LINE_DEVIATION within three lines of the detector's edge, where one side predicts
# Standard errors; smallest deviation of a line that ends a dead part: where patterns fade, the first line above 4 has
# hardly more.
MIN_SIDE_SIGMAS = 8.0
MAX_UNEVEN_LINES = 2  # lines; most adjacent uneven ones, as at the edges of two chips: more belong to the pattern
# Fraction of a line's pixels, those that deviate least; it is smaller than the gaps between disks that do not overlap.
LEAST_PART = 0.2
MIN_SHARED_RATIO = 0.5  # ratio of their deviation to that of the line; 1 in a line of uneven pixels, 0 between disks
WIDE_RATIO = 1.4  # ratio; smallest signal of a line of wide pixels relative to its neighbors
MIN_EXPECTED = 20.0  # steps between values; smallest signal expected in a bad constant line: e^-20 to occur by chance
MAX_PADDED = 0.4  # fraction of the lines; more constant lines at one side belong to the pattern
MAX_GAP_LINES = 4  # lines; widest gap that needs no background on both sides, in most of its pixels
MAX_GAP_WIDTH = 48  # lines; widest gap between chips
MIN_DETAIL = 300.0  # squared steps; smallest sum of second differences along a line that is tested for interpolation
# Ratio of squared second differences across an interpolated line to those along it; noise leaves a larger ratio.
MAX_INTERPOLATED = 1e-5
ROUNDING = 0.75  # squared steps; second difference of interpolated values that are rounded: 0.5 on average
MAX_BAD_LINES = 0.25  # fraction of all lines; more lines of a kind belong to the pattern


class LineFaults(NamedTuple):
    """Indices of the bad lines of a detector along one axis, by kind of fault."""

    dead: np.ndarray
    uneven: np.ndarray
    wide: np.ndarray
    interpolated: np.ndarray


def padded_lines(sample):
    """Find constant rows and columns at the edges of the frame with which a program padded the patterns.

    Parameters
    ----------
    sample : numpy.ndarray, shape (n, Qx, Qy)
        Patterns in detector units.

    Returns
    -------
    numpy.ndarray of bool, shape (Qx, Qy)
        True in padded lines. Dark lines of a pattern are not included, since the lines beside them are as dark.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.detector import padded_lines
    >>> sample = np.zeros((4, 40, 40))
    >>> sample[:, 6:, :-3] = np.random.default_rng(0).poisson(5.0, (4, 34, 37))
    >>> rows, columns = np.nonzero(padded_lines(sample))
    >>> np.setdiff1d(rows, rows[columns == 0]).size, np.unique(rows[columns == 0]).tolist()[:6]
    (34, [0, 1, 2, 3, 4, 5])
    """
    padded = np.zeros(sample.shape[1:], bool)
    varies = (sample != sample[0, 0, 0]).any(0), (sample != sample[-1, -1, -1]).any(0)
    for axis in (0, 1):
        for step, changed in zip((1, -1), varies, strict=True):
            lines = (changed if axis == 0 else changed.T)[::step]
            inner = lines.any(0)  # excludes the padding along the other axis
            width = int(lines.any(1).argmax()) if lines.any() else 0
            if not 0 < width <= MAX_PADDED * len(lines) or inner.sum() < LINE_BLOCKS:
                continue
            # If these lines were like the next one, they would be constant with a probability of e^-expected.
            line = np.take(sample, width if step == 1 else len(lines) - 1 - width, 1 + axis)[:, inner]
            lit = (line != (sample[0, 0, 0] if step == 1 else sample[-1, -1, -1])).sum(0)
            expected = [width * part.sum() for part in np.array_split(lit, LINE_BLOCKS)]
            if np.mean(np.array(expected) > MIN_EXPECTED) >= MIN_BLOCKS_OFF:
                (padded if axis == 0 else padded.T)[::step][:width] = True
    return padded


def dark_sides(sample, bad):
    """Find the parts of a detector beside its edges that are dead but have read-out noise.

    Parameters
    ----------
    sample : numpy.ndarray, shape (n, Qx, Qy)
        Patterns in detector units.
    bad : numpy.ndarray of bool, shape (Qx, Qy)
        Bad pixels found so far.

    Returns
    -------
    numpy.ndarray of bool, shape (Qx, Qy)
        True in lines that all have one level, from an edge of the detector up to a line that is brighter along its
        whole length. Patterns fade gradually: no line is that much brighter than the one before.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.detector import dark_sides
    >>> electrons = np.full((40, 40), 0.5)
    >>> electrons[25:] = 0
    >>> rng = np.random.default_rng(0)
    >>> sample = 20 * rng.poisson(electrons, (64, 40, 40)) + rng.normal(100, 5, (64, 40, 40))
    >>> np.flatnonzero(dark_sides(sample, np.zeros((40, 40), bool)).all(1)).tolist() == list(range(25, 40))
    True
    """
    dark = np.zeros(sample.shape[1:], bool)
    if len(sample) < MIN_MEAN_PATTERNS:
        return dark
    for axis in (0, 1):
        patterns, good = (sample, ~bad) if axis == 0 else (sample.swapaxes(1, 2), ~bad.T)
        lines = np.flatnonzero(good.mean(1) > 0.5)
        if len(lines) <= SIDE_LINES:
            continue
        # The scatter of whole lines from pattern to pattern includes noise that the pixels of a line share.
        level, error = _level([patterns[:, i, good[i]] for i in lines])
        for step in (1, -1):
            at = _end_of_dark(patterns, good, lines[::step], level[::step], error[::step])
            if at is not None:
                (dark if axis == 0 else dark.T)[slice(None, at) if step == 1 else slice(at + 1, None)] = True
    return dark


def _end_of_dark(patterns, good, lines, level, error):
    """First of the lines that is brighter than those before along its whole length; None if there is none."""
    first = slice(0, SIDE_LINES)
    dark, dark_error = level[first].mean(), max(error[first].max(), level[first].std(), 1e-150) / SIDE_LINES**0.5
    deviation = (level - dark) / np.hypot(error, dark_error)
    at = int((np.abs(deviation) > MEAN_SIGMAS).argmax())
    if at < SIDE_LINES or deviation[at] < MIN_SIDE_SIGMAS:
        return None
    parts = np.array_split(np.flatnonzero(good[lines[at]]), LINE_BLOCKS)
    level, error = _level([patterns[:, lines[at], part] for part in parts])
    lit = level - dark > MEAN_SIGMAS * np.hypot(error, dark_error)
    return int(lines[at]) if lit.mean() >= MIN_BLOCKS_OFF else None


def _level(parts):
    """Mean of each part (n, pixels) of n patterns, and its standard error from the scatter over the patterns."""
    means = np.stack([part.mean(1, dtype=np.float64) for part in parts])
    return means.mean(1), means.std(1, ddof=1) / means.shape[1] ** 0.5


def bad_lines(sample, bad, quantum) -> tuple[LineFaults, LineFaults]:
    """Find bad rows and columns of a detector.

    Parameters
    ----------
    sample : numpy.ndarray, shape (n, Qx, Qy)
        Patterns in detector units.
    bad : numpy.ndarray of bool, shape (Qx, Qy)
        Bad pixels found so far.
    quantum : float
        Step between values in detector units; 0 if they are continuous.

    Returns
    -------
    rows, columns : LineFaults
        The bad lines of each axis.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.detector import bad_lines
    >>> sample = np.random.default_rng(0).poisson(5.0, (16, 40, 40))
    >>> sample[:, 12] = 0
    >>> rows, columns = bad_lines(sample, np.zeros((40, 40), bool), quantum=1.0)
    >>> rows.dead.tolist(), columns.dead.tolist()
    ([12], [])
    """
    mean = sample.mean(0, dtype=np.float64)
    variance = np.zeros_like(mean)
    for pattern in sample:
        variance += (pattern - mean) ** 2
    variance /= max(len(sample) - 1, 1)
    constant = sample.min(0) == sample.max(0)
    across, along, copied = ([np.zeros(n) for n in mean.shape] for _ in range(3))
    for pattern in sample:
        detail = [np.square(np.diff(pattern - mean, 2, axis=axis)) for axis in (0, 1)]
        for axis in (0, 1):
            copied[axis][1:] += np.square(np.diff(pattern - mean, axis=axis)).sum(1 - axis)
        across[0][1:-1] += detail[0].sum(1)
        along[0] += detail[1].sum(1)
        across[1][1:-1] += detail[1].sum(0)
        along[1] += detail[0].sum(0)
    halves = np.stack([sample[k % len(sample) :: 2].mean(0, dtype=np.float64) for k in (0, 1)])
    maps = mean, halves, variance, constant, ~bad
    return tuple(_faults([a if axis == 0 else np.swapaxes(a, -1, -2) for a in maps],
                         (across[axis], along[axis], copied[axis]), len(sample), quantum) for axis in (0, 1))


def _faults(maps, differences, n, quantum):
    """Find the bad rows of a detector, or its bad columns if the maps are transposed.

    `maps` are mean, means of both halves, variance, constant and good pixels; `differences` the sums of squared second
    differences across and along each line, and of squared differences from the line before.
    """
    mean, halves, variance, constant, good = maps
    across, along, copied = differences
    lines = len(mean)
    none = np.zeros(0, int)
    if n < MIN_MEAN_PATTERNS or lines < 16:
        return LineFaults(none, none, none, none)
    usable = good.mean(1) > 0.5
    step = quantum or float(np.sqrt(np.median(variance)))
    dead = _dead(mean, (constant | ~good).all(1) & usable, n, step)
    rounded = ROUNDING * quantum**2 * n * mean.shape[1]  # squared second differences due to rounding
    interpolated = (across < MAX_INTERPOLATED * along) | ((across < rounded) & (along > 10 * rounded))
    interpolated[[0, -1]] = False
    copy = np.flatnonzero(copied[1:] < MAX_INTERPOLATED * along[1:])
    interpolated[copy] = interpolated[copy + 1] = True  # it is unknown which of the two lines is the copy
    interpolated &= usable & (along > MIN_DETAIL * step**2)
    uneven, ratio = _uneven(mean, halves, variance, good, usable & ~dead & ~interpolated, n)
    wide = (uneven > 0) & (ratio > WIDE_RATIO)
    faulty = [np.flatnonzero(a) for a in (dead, (uneven != 0) & ~wide, wide, interpolated)]
    return LineFaults(*(a if len(a) <= MAX_BAD_LINES * lines else none for a in faulty))


def _dead(mean, flat, n, step):
    """Mask (lines,) of constant lines between lines whose signal predicts electrons in them."""
    dead = np.zeros(len(mean), bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(int)))
    for first, stop in zip(edges[::2], edges[1::2], strict=True):
        if first == 0 or stop == len(mean) or stop - first > MAX_GAP_WIDTH:
            continue
        level = np.median(mean[first:stop])
        expected = n * np.minimum(np.abs(mean[first - 1] - level), np.abs(mean[stop] - level)) / step
        if expected.sum() < MIN_EXPECTED:
            continue
        dead[first:stop] = stop - first <= MAX_GAP_LINES or 2 * (expected > 0).sum() > expected.size
    return dead


def _uneven(mean, halves, variance, good, usable, n):
    """Lines that deviate from their neighbors in most parts: sign (lines,), and ratio of their signals."""
    lines = len(mean)
    parts = np.array_split(np.arange(mean.shape[1]), LINE_BLOCKS)
    weight = np.stack([good[:, p].sum(1) for p in parts], 1)
    level = np.stack([np.where(good, mean, 0.0)[:, p].sum(1) for p in parts], 1) / weight.clip(1)
    error = np.stack([np.where(good, variance, 0.0)[:, p].sum(1) for p in parts], 1) / (n * weight.clip(1) ** 2)
    level = np.where((weight > 0) & usable[:, None], level, np.nan)
    sign, ratio = np.zeros(lines, int), np.ones(lines)
    dark = np.nanmin(level) if np.isfinite(level).any() else 0.0
    low, high = _side_levels(level)
    expected = (low + high) / 2
    # A line between a dark and a bright side, as along the edges of a row of disks, is not uneven.
    deviation = np.where(np.isnan(expected), np.nan, level - np.clip(level, low, high))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # raised for parts that contain only bad pixels
        scatter = np.nanmedian(np.abs(deviation), 0) / NORMAL_MAD
    errors = sliding_window_view(np.pad(error, ((SIDE_LINES, SIDE_LINES), (0, 0)), constant_values=np.nan),
                                 2 * SIDE_LINES + 1, axis=0)
    typical = np.sqrt(masked_median(errors, ~np.isnan(errors)))
    with np.errstate(invalid="ignore", divide="ignore"):
        z = deviation / np.maximum(np.maximum(typical, scatter), 1e-12 * max(abs(dark), 1e-12))
        relative = deviation / np.maximum(expected - dark, 1e-12)
    needed = np.full(lines, MIN_LINE_DEVIATION)
    needed[:3] = needed[-3:] = MIN_EDGE_DEVIATION
    for s in (-1, 1):
        uneven = (s * z > MEAN_SIGMAS) & (s * relative > needed[:, None])
        sign[uneven.mean(1) >= MIN_BLOCKS_OFF] = s
    uneven = sign != 0
    ratio[uneven] = np.nanmedian(1 + relative[uneven], 1)
    for i in np.flatnonzero(uneven):
        uneven[i] = (_is_sharp(i, sign, ratio[i], level - dark)
                  and _deviates_everywhere(i, sign[i], ratio[i], np.where(good, halves, np.nan) - dark))
    return np.where(uneven, sign, 0), np.where(uneven, ratio, 1.0)


def _side_levels(level):
    """Smaller and larger of the medians of the lines before and after each line, (lines, blocks) each.

    A side is left out if one of its blocks has no level; the result is NaN if both sides are left out.
    """
    padded = np.pad(level, ((SIDE_LINES, SIDE_LINES), (0, 0)), constant_values=np.nan)
    windows = sliding_window_view(padded, SIDE_LINES, axis=0)
    sides = []
    for window in (windows[: len(level)], windows[SIDE_LINES + 1 :]):
        median = masked_median(window, np.isfinite(window))
        sides.append(np.where(np.isfinite(median).all(1)[:, None], median, np.nan))
    return np.fmin(*sides), np.fmax(*sides)


def _is_sharp(i, sign, ratio, level):
    """Return whether an uneven line deviates from the adjacent lines; disks deviate only from more distant lines."""
    first, last = i, i
    while first > 0 and sign[first - 1] == sign[i]:
        first -= 1
    while last < len(sign) - 1 and sign[last + 1] == sign[i]:
        last += 1
    adjacent = [k for k in (first - 1, last + 1) if 0 <= k < len(sign) and np.isfinite(level[k]).any()]
    if last - first + 1 > MAX_UNEVEN_LINES:
        return False
    if not adjacent:
        return True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # raised for parts that contain only bad pixels
        next_lines = np.nanmean(level[adjacent], 0)
        step = np.nanmedian(level[i] / np.where(next_lines > 0, next_lines, np.nan)) - 1
    return bool(sign[i] * step > MIN_SHARED_RATIO * abs(ratio - 1))


def _deviates_everywhere(i, sign, ratio, halves):
    """Return whether an uneven line deviates even in its least deviating pixels; a row of disks has gaps.

    The deviation is a factor on the expected signal, or a level that is added to it. The pixels that deviate least are
    chosen in one half of the patterns and tested in the other half.
    """
    sides = [halves[:, max(0, i - 4) : i], halves[:, i + 1 : i + 5]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # raised for columns that contain only bad pixels
        expected = np.nanmean([np.nanmedian(side, 1) for side in sides if side.shape[1]], 0)
    line = halves[:, i]
    usable = np.flatnonzero(np.isfinite(expected + line).all(0))
    added = np.median((line - expected)[:, usable])
    for unit, typical in ((expected, abs(ratio - 1)), (np.ones_like(expected), abs(added))):
        deviations = []
        for chosen, tested in ((0, 1), (1, 0)):
            excess = sign * (line[chosen] - expected[chosen])[usable]
            least = usable[np.argsort(excess / np.maximum(unit[chosen, usable], 1e-12))]
            least = least[: max(1, int(LEAST_PART * len(least)))]
            deviations.append((line - expected)[tested, least].sum() / max(unit[tested, least].sum(), 1e-12))
        if np.mean(deviations) * sign > MIN_SHARED_RATIO * typical:
            return True
    return False
