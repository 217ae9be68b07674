"""Invalid pixels at full scale, and rows and columns of the detector that are dead, hot, wide, interpolated or padded.

A line is judged by what its neighbors predict all along it, since no pattern has a feature one pixel wide along a whole
row. A pixel at full scale is one that never changes and is far above all that the other pixels give.
"""

import warnings
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import binary_dilation

from ..core import NORMAL_MAD, masked_median

FULL_SCALE_BITS = range(7, 33)  # 2**bits - 1 and 2**bits - 2 mark invalid pixels in files of some detector
FULL_SCALE_RATIO = 4.0  # full scale over the largest value of other pixels; a saturated beam has values in between
SMALL_FULL_SCALE_RATIO = 16.0  # the same below 16 bits, where beams saturate often
MAX_NEGATIVE_MARKS = 2  # negative values that mark invalid pixels; of a single pattern less its dark image all differ
MIN_LINE_PART = 0.9  # of a line's pixels at full scale, with which the line is invalid whatever the others give
MAX_INVALID_FRACTION = 0.5  # of the pixels; if more hold one value, they are not the invalid ones
MIN_MARKED_PATTERNS = 0.02  # fraction of the patterns with a mark, above which a pixel is invalid; fewer are hits
MIN_LINE_PATTERNS = 4  # patterns, without which noise and pattern cannot be told apart
SIDE_LINES = 4  # lines on either side that predict a line
LINE_BLOCKS = 8  # parts of a line that must deviate alike
MIN_BLOCKS_OFF = 0.75  # of the parts; the others may cross the beam
LINE_SIGMAS = 4.0  # standard errors of each; false alarm in 6 of 8 parts: less than 1 in 10^20 lines
MIN_LINE_DEVIATION = 0.15  # of the signal expected in a part; smooth patterns bend by less within four lines
MIN_EDGE_DEVIATION = 1.0  # the same within three lines of the detector's edge, where only one side predicts
MAX_UNEVEN_LINES = 2  # side by side, as at the edges of two chips; more are a part of the pattern
LEAST_PART = 0.2  # of a line's pixels: those that deviate least. Disks that do not overlap cover less than the others
MIN_SHARED_RATIO = 0.5  # their deviation in that of the line; 1 in a line of uneven pixels, 0 between disks
WIDE_RATIO = 1.4  # signal of a line in that of its neighbors, above which its pixels are wide
MIN_EXPECTED = 20.0  # steps of the values expected in a constant line; it is constant by chance with e^-20
MAX_PADDED = 0.4  # of the lines at one side; more are the pattern itself
MAX_GAP_LINES = 4  # constant lines side by side; wider gaps need a background beside them
MIN_GAP_COLUMNS = 0.5  # of a line's pixels that are lit on both sides of a wider gap
MAX_GAP_WIDTH = 48  # lines, the widest gap between chips
MIN_DETAIL = 300.0  # squared steps of second differences along a line, so that those across it are not small by chance
MAX_INTERPOLATED = 1e-5  # squared second differences across an interpolated line in those along it; noise leaves more
ROUNDING = 0.75  # squared steps of a second difference of interpolated values that are rounded; 0.5 on average
MAX_BAD_LINES = 0.25  # of all lines; more are the pattern itself


class LineFaults(NamedTuple):
    """Lines of a detector that are bad, as indices along one axis."""

    dead: np.ndarray
    uneven: np.ndarray
    wide: np.ndarray
    interpolated: np.ndarray


def full_scale_pixels(sample):
    """Find invalid pixels that files mark by the largest value of their type, or by -1.

    Parameters
    ----------
    sample : numpy.ndarray, shape (n, Qx, Qy)
        Patterns in detector units.

    Returns
    -------
    numpy.ndarray of bool, shape (Qx, Qy)
        True where a pixel holds such a value in every pattern, or in part of the patterns and no value near it
        otherwise, as where a detector marks pixels that overflowed.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.detector import full_scale_pixels
    >>> sample = np.random.default_rng(0).poisson(20.0, (4, 8, 8)).astype(np.uint16)
    >>> sample[:, 3] = 65535
    >>> np.unique(np.nonzero(full_scale_pixels(sample))[0]).tolist()
    [3]
    """
    low, high = sample.min(0), sample.max(0)
    constant = low == high
    invalid = np.zeros(constant.shape, bool)
    while constant.any():
        rest = ~invalid
        varying = rest & ~constant
        values = high[rest & constant]
        top, bottom = float(values.max()), float(values.min())
        # The largest value in all patterns but one: a hit must not hide invalid pixels.
        largest = float(_second_largest(sample)[varying].max()) if varying.any() else 0.0
        inner = next((float(value) for value in np.unique(values)[-2::-1] if not _full_scale(value)), largest)
        largest = max(largest, inner)
        smallest = float(low[varying].min()) if varying.any() else 0.0
        ratio = FULL_SCALE_RATIO if top >= 2**15 - 2 else SMALL_FULL_SCALE_RATIO
        if _full_scale(top) and top > ratio * max(largest, 1.0):
            found = rest & constant & (high == values.max())
        elif bottom < 0 <= smallest and len(np.unique(values[values < 0])) <= MAX_NEGATIVE_MARKS:
            found = rest & constant & (high == values.min())
        elif _full_scale(top):  # a beam may be as bright, but fills no line
            found = _whole_lines(rest & constant & (high == values.max()))
        else:
            break
        if not found.any():
            break
        invalid |= found
        constant &= ~found
    invalid |= _marked_pixels(sample)
    return invalid if invalid.mean() < MAX_INVALID_FRACTION else np.zeros_like(invalid)


def _marked_pixels(sample):
    """Find pixels at full scale in part of the patterns; otherwise neither they nor their neighbors come near it."""
    top = sample.max()
    if not _full_scale(float(top)):
        return np.zeros(sample.shape[1:], bool)
    marks = sample == top
    whole = marks.mean((1, 2)) < MAX_INVALID_FRACTION  # the others are saturated frames
    marked = marks[whole].mean(0) > MIN_MARKED_PATTERNS if whole.any() else np.zeros(sample.shape[1:], bool)
    if not marked.any():
        return marked
    around = binary_dilation(marked, np.ones((3, 3)))
    values = np.where(marks[whole][:, around], sample.min(), sample[whole][:, around])
    largest = float(_second_largest(values).max())  # one hit must not hide marks
    ratio = FULL_SCALE_RATIO if top >= 2**15 - 2 else SMALL_FULL_SCALE_RATIO
    return marked if top > ratio * max(largest, 1.0) else np.zeros_like(marked)


def padded_lines(sample):
    """Find rows and columns that a program padded patterns with: of one value, from the limit of the frame inward.

    Parameters
    ----------
    sample : numpy.ndarray, shape (n, Qx, Qy)
        Patterns in detector units.

    Returns
    -------
    numpy.ndarray of bool, shape (Qx, Qy)
        True in these lines. Dark lines of a pattern are none: the next ones have as few electrons.

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
            inner = lines.any(0)  # without what is padded along the other axis
            width = int(lines.any(1).argmax()) if lines.any() else 0
            if not 0 < width <= MAX_PADDED * len(lines) or inner.sum() < LINE_BLOCKS:
                continue
            # If the lines were like the next one, all of their values would be equal with a chance of e^-expected.
            line = np.take(sample, width if step == 1 else len(lines) - 1 - width, 1 + axis)[:, inner]
            others = (line != (sample[0, 0, 0] if step == 1 else sample[-1, -1, -1])).sum(0)
            expected = [width * part.sum() for part in np.array_split(others, LINE_BLOCKS)]
            if np.mean(np.array(expected) > MIN_EXPECTED) >= MIN_BLOCKS_OFF:
                (padded if axis == 0 else padded.T)[::step][:width] = True
    return padded


def _second_largest(sample):
    """Second largest value of each pixel over the patterns, (Qx, Qy); the value itself of a single pattern."""
    first = second = sample[0]
    for number, pattern in enumerate(sample[1:]):
        second = np.minimum(first, pattern) if number == 0 else np.maximum(second, np.minimum(first, pattern))
        first = np.maximum(first, pattern)
    return second


def _whole_lines(pixels):
    """Those pixels, (Qx, Qy) bool, of rows and columns that are among them nearly as a whole."""
    rows, columns = (pixels.mean(axis) > MIN_LINE_PART for axis in (1, 0))
    return pixels & (rows[:, None] | columns)


def _full_scale(value) -> bool:
    """Whether a value is the largest of an integer type, or one below."""
    return any(float(value) in (2.0**bits - 1, 2.0**bits - 2, float(np.float32(2.0**bits - 1)))
               for bits in FULL_SCALE_BITS)


def bad_lines(sample, bad, quantum) -> tuple[LineFaults, LineFaults]:
    """Find bad rows and columns of a detector.

    Parameters
    ----------
    sample : numpy.ndarray, shape (n, Qx, Qy)
        Patterns in detector units.
    bad : numpy.ndarray of bool, shape (Qx, Qy)
        Pixels that are known to be bad.
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
    return tuple(_faults(*(a if axis == 0 else np.swapaxes(a, -1, -2) for a in maps), across[axis], along[axis],
                         copied[axis], len(sample), quantum) for axis in (0, 1))


def _faults(mean, halves, variance, constant, good, across, along, copied, n, quantum):
    """Judge the rows of one orientation."""
    lines = len(mean)
    none = np.zeros(0, int)
    if n < MIN_LINE_PATTERNS or lines < 16:
        return LineFaults(none, none, none, none)
    usable = good.mean(1) > 0.5
    step = quantum or float(np.sqrt(np.median(variance)))
    dead = _dead(mean, (constant | ~good).all(1) & usable, n, step)
    rounded = ROUNDING * quantum**2 * n * mean.shape[1]  # what rounding to whole steps leaves
    interpolated = (across < MAX_INTERPOLATED * along) | ((across < rounded) & (along > 10 * rounded))
    interpolated[[0, -1]] = False
    copy = np.flatnonzero(copied[1:] < MAX_INTERPOLATED * along[1:])
    interpolated[copy] = interpolated[copy + 1] = True  # which of the two is the copy, nobody knows
    interpolated &= usable & (along > MIN_DETAIL * step**2)
    off, ratio = _uneven(mean, halves, variance, good, usable & ~dead & ~interpolated, n)
    wide = (off > 0) & (ratio > WIDE_RATIO)
    found = [np.flatnonzero(a) for a in (dead, (off != 0) & ~wide, wide, interpolated)]
    return LineFaults(*(a if len(a) <= MAX_BAD_LINES * lines else none for a in found))


def _dead(mean, flat, n, step):
    """Constant lines, (lines,) bool, between lines that predict electrons in them."""
    dead = np.zeros(len(mean), bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(int)))
    for first, stop in zip(edges[::2], edges[1::2], strict=True):
        if first == 0 or stop == len(mean) or stop - first > MAX_GAP_WIDTH:
            continue
        level = np.median(mean[first:stop])
        expected = n * np.minimum(np.abs(mean[first - 1] - level), np.abs(mean[stop] - level)) / step
        if expected.sum() < MIN_EXPECTED:
            continue
        dead[first:stop] = stop - first <= MAX_GAP_LINES or (expected > 0).mean() > MIN_GAP_COLUMNS
    return dead


def _uneven(mean, halves, variance, good, usable, n):
    """Lines that deviate from their neighbors in most of their parts: sign (lines,), and the ratio of signals."""
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
    scatter = np.nanmedian(np.abs(deviation), 0) / NORMAL_MAD
    around = sliding_window_view(np.pad(error, ((SIDE_LINES, SIDE_LINES), (0, 0)), constant_values=np.nan),
                                 2 * SIDE_LINES + 1, axis=0)
    typical = np.sqrt(masked_median(around, ~np.isnan(around)))
    with np.errstate(invalid="ignore", divide="ignore"):
        z = deviation / np.maximum(np.maximum(typical, scatter), 1e-12 * max(abs(dark), 1e-12))
        share = deviation / np.maximum(expected - dark, 1e-12)
    needed = np.full(lines, MIN_LINE_DEVIATION)
    needed[:3] = needed[-3:] = MIN_EDGE_DEVIATION
    for s in (-1, 1):
        off = (s * z > LINE_SIGMAS) & (s * share > needed[:, None])
        sign[off.mean(1) >= MIN_BLOCKS_OFF] = s
    off = sign != 0
    ratio[off] = np.nanmedian(1 + share[off], 1)
    for i in np.flatnonzero(off):
        off[i] = (_is_sharp(i, sign, ratio[i], level - dark)
                  and _deviates_everywhere(i, sign[i], ratio[i], np.where(good, halves, np.nan) - dark))
    return np.where(off, sign, 0), np.where(off, ratio, 1.0)


def _side_levels(level):
    """Lower and higher one of the medians of the lines before and after each line, (lines, blocks) each.

    A side on which some block has no level does not count; NaN where neither counts.
    """
    padded = np.pad(level, ((SIDE_LINES, SIDE_LINES), (0, 0)), constant_values=np.nan)
    windows = sliding_window_view(padded, SIDE_LINES, axis=0)
    sides = []
    for window in (windows[: len(level)], windows[SIDE_LINES + 1 :]):
        median = masked_median(window, np.isfinite(window))
        sides.append(np.where(np.isfinite(median).all(1)[:, None], median, np.nan))
    return np.fmin(*sides), np.fmax(*sides)


def _is_sharp(i, sign, ratio, level):
    """Whether an uneven line deviates from the very next lines, and not only from those farther away, as disks do."""
    first, last = i, i
    while first > 0 and sign[first - 1] == sign[i]:
        first -= 1
    while last < len(sign) - 1 and sign[last + 1] == sign[i]:
        last += 1
    beside = [k for k in (first - 1, last + 1) if 0 <= k < len(sign) and np.isfinite(level[k]).any()]
    if last - first + 1 > MAX_UNEVEN_LINES:
        return False
    if not beside:
        return True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # parts of bad pixels
        next_lines = np.nanmean(level[beside], 0)
        step = np.nanmedian(level[i] / np.where(next_lines > 0, next_lines, np.nan)) - 1
    return bool(sign[i] * step > MIN_SHARED_RATIO * abs(ratio - 1))


def _deviates_everywhere(i, sign, ratio, halves):
    """Whether an uneven line deviates where it deviates least, too: between disks or spots, a row of them does not.

    The pixels that deviate least are chosen in half of the patterns, and judged in the other half.
    """
    sides = [halves[:, max(0, i - 4) : i], halves[:, i + 1 : i + 5]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # columns of bad pixels
        expected = np.nanmean([np.nanmedian(side, 1) for side in sides if side.shape[1]], 0)
    deviations = []
    for chosen, judged in ((0, 1), (1, 0)):
        line = halves[:, i]
        usable = np.flatnonzero(np.isfinite(expected + line).all(0))
        excess = sign * (line[chosen] - expected[chosen])[usable]
        least = usable[np.argsort(excess / np.maximum(expected[chosen, usable], 1e-12))]
        least = least[: max(1, int(LEAST_PART * len(least)))]
        deviations.append(line[judged, least].sum() / max(expected[judged, least].sum(), 1e-12) - 1)
    return bool(np.mean(deviations) * sign > MIN_SHARED_RATIO * abs(ratio - 1))
