"""Faults of the order of acquisition: reversed or shifted rows, centered patterns, and a beam that jumps.

Every one of these leaves many positions pixels off a smooth surface, while neighbors in the order of acquisition agree
far better than the surface and they do. For each kind there is a model that says where a frame belongs. A model is
taken if it explains most positions that the surface does not, by a likelihood that allows for outliers (Student's
t) less the Bayesian information criterion. If none explains positions that agree with their
neighbors in time and not with those in space, the surface is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy.ndimage import uniform_filter
from scipy.stats import binom

from ..core import NORMAL_MAD, Decision, Flag, check_residuals
from . import SurfaceFit, fit_pair

MIN_OFF_PX = 0.15  # pixels from the surface, below which no position is off: less does no harm
OFF_SIGMAS = 5.0  # the same in standard deviations of the position
SIGMA_FLOOR_PX = 0.03  # pixels, added to the stated sigma: what specimens add to the scatter of neighbors at least
MIN_OFF_FRACTION = 0.02  # of the positions; with fewer off, no other order is looked for
MAX_LEFT_FRACTION = 0.5  # of these positions that another order may leave off
LINE_OFF_SIGMAS = 6.0  # of the mean of a row or column from the surface: false alarm 2e-9 a line
MIN_LINE_OFF_PX = 0.25  # pixels, of the same: bends that the surface does not follow are smaller
MIN_LINE_COUNT = 4  # positions in a line
ORDER_DOF = 4.0  # degrees of freedom of the distribution of positions about the right surface
MIN_EVIDENCE = 20.0  # log likelihood ratio less criterion: false alarm with odds of e^-20
MIN_PAIRED_FRACTION = 0.3  # of neighbors in time that are both valid; a sparse sample has no order
MIN_COUNT = 24  # positions
MIN_CROSSED_Z = 4.0  # standard errors by which rows agree better with the reversed one above, worth a trial
MIN_FLYBACK_RATIO = 3.0  # step at the end of a row in the usual step; smaller ones show no end of a row
MAX_LENGTH_ERROR = 2  # frames that a row may be too long or too short
MIN_BAND_ROWS = 3  # rows in which the flyback is looked for together
MAX_CENTERED_RANGE_PX = 1.3  # of positions in patterns that were centered to whole pixels; rounding leaves 1
MAX_CENTERED_SIGMA_PX = 0.3  # of a position; with more, positions are spread evenly over a pixel
RANGE_SIGMAS = 4.0  # that counting adds to the range between the 1 % quantiles
WAVE_PADDING = 4  # finer steps of the slope of that descan than a Fourier transform has
MIN_ODD_PART = 0.6  # of a line's positions off the surface, with which the line is elsewhere
MAX_ODD_LINES = 0.35  # of all lines
PARAMETERS_PER_LINE = 4  # a straight line of each coordinate; that its positions belong together is tested before
MAX_ODD_CHANCE = 1e-7  # probability of so many at the rate of the other lines
# Mean squared step between rows in the variance of rows about a parabola: below 1.4 in one of 1,000 scans of 8 to 12
# rows that jump; 0.6 for a bend with a period of 8 rows.
MIN_ROW_ROUGHNESS = 1.2
MIN_USED_ROWS, MIN_JUMPING_ROWS = 0.7, 6  # part of the rows with positions, and their number, that show jumps
MIN_RUN_PX = 0.3  # pixels; smaller steps in time do not end a run
MAX_SPACE_AGREEMENT = 0.5  # of positions off that agree with the next row as well: those are grains, not jumps
MIN_REFUSED_PX = 0.5  # pixels off, from which on a surface is refused; a specimen deflects the beam by less
MAX_LEFT_IN_TIME = 0.04  # of the positions, the same after another order was followed; 0 where that is the right one
MAX_COMPARED_STEPS, USUAL_STEP_ROUNDS = 300, 3  # steps between neighbors, and rounds, in which the usual one is found
MIN_REFUSED_FRACTION = 0.1  # of the positions off, with which a surface that leaves them is not accepted


@dataclass(frozen=True)
class _Maps:
    """Measured positions, (2, Rx, Ry), with a sigma of each position, (Rx, Ry), and which are used."""

    values: np.ndarray
    sigmas: np.ndarray
    valid: np.ndarray
    sigma: np.ndarray

    @property
    def flat(self):
        """Positions in the order of acquisition, (2, n)."""
        return self.values.reshape(2, -1)

    def off(self, fitted, least=MIN_OFF_PX):
        """Which used positions are off a surface (2, Rx, Ry), by at least so many pixels."""
        distance = np.hypot(*(self.values - fitted))
        return self.valid & (distance > np.maximum(least, OFF_SIGMAS * self.sigma))

    def lines_off(self, fitted, axis):
        """Which columns (axis 0) or rows (axis 1) are off a surface (2, Rx, Ry) in the mean of their positions.

        No position counts for more than OFF_SIGMAS.
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
        terms = np.log1p(squared / (ORDER_DOF * self.sigma**2))
        return float((ORDER_DOF + 2) / 2 * terms[self.valid].sum())


def reorder(maps, sigmas, valid, fits, model="auto"):
    """Look for an order of acquisition, or jumps, that explain what a smooth surface leaves.

    Parameters
    ----------
    maps : array_like, shape (2, Rx, Ry)
        Measured origins in pixels.
    sigmas : array_like, shape (2, Rx, Ry)
        Their standard deviations in pixels.
    valid : numpy.ndarray of bool, shape (Rx, Ry)
        True where a position is used.
    fits : sequence of SurfaceFit
        The smooth surfaces of both coordinates.
    model : str, optional
        Model of the surface, as for `surface.fit_pair`.

    Returns
    -------
    fits : tuple of SurfaceFit or None
        Surfaces that follow the order, or that are refused; None if those given stand.
    flag : Flag or None
        What happened.

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
    most = max(MAX_LEFT_FRACTION * off.sum(), MIN_OFF_FRACTION * used)
    # Models that predict more come first: what was measured stands in odd lines, and runs follow anything in time.
    groups = (_reversed_rows, _shifted, _dropped, _row_steps, _centered), (_odd_lines,), (_runs,)
    faint = off.sum() < MIN_OFF_FRACTION * used and not any(data.lines_off(smooth, axis).any() for axis in (0, 1))
    if faint:  # at few electrons no position is off, but all of them together may be no noise
        test = check_residuals(data.values - smooth, data.sigmas, data.valid)
        if not (test.correlated or test.large):
            return None, None
        groups = groups[:1]
    best = (MIN_EVIDENCE, None, None)
    before = data.loss(smooth)
    for models in groups:
        for found, flag, parameters in (trial for make in models for trial in make(data, smooth, model)):
            values = np.stack([fit.values for fit in found])
            evidence = before - data.loss(values) - 0.5 * parameters * np.log(2 * used)
            # The right order leaves no neighbors in time that agree about another place.
            if evidence > best[0] and data.off(values).sum() <= most and (
                    _left_in_time(data, values) <= MAX_LEFT_IN_TIME):
                best = evidence, found, flag
        if best[1] is not None:
            break
    if best[1] is None and not faint:
        best = next(((0.0, found, flag) for found, flag, _ in _odd_lines(data, smooth, model, jointly=True)
                     if _left_in_time(data, np.stack([fit.values for fit in found])) <= MAX_LEFT_IN_TIME), best)
    if best[1] is not None:
        return best[1], best[2]
    fraction = _left_in_time(data, smooth)
    if fraction >= MIN_REFUSED_FRACTION:
        flag = Flag("order_unknown", {"percent": 100 * fraction})
        return tuple(replace(fit, decision=Decision(False, (flag,))) for fit in fits), None
    return None, None


def _prepared(maps, sigmas, valid):
    maps, sigmas = np.asarray(maps, float), np.asarray(sigmas, float)
    valid = np.asarray(valid, bool) & np.isfinite(maps).all(0) & np.isfinite(sigmas).all(0)
    usual = float(np.median(sigmas[:, valid])) if valid.any() else 1.0
    # A wrong position may state a large sigma of its own: it must not hide there.
    sigma = np.hypot(np.minimum(np.where(valid, sigmas.max(0), usual), 3 * usual), SIGMA_FLOOR_PX)
    return _Maps(np.where(valid, maps, 0.0), np.where(valid, sigmas, 1.0), valid, sigma)


def _left_in_time(data, values):
    """Fraction of the positions that are pixels off a surface in time only."""
    return _in_time_only(data, values, data.off(values, MIN_REFUSED_PX))


def _in_time_only(data, smooth, off):
    """Fraction of the positions that are off, agree with a neighbor in time, and mostly not with one in space."""
    time, space = (_agreeing(data, smooth, off, axis) for axis in (1, 0))
    if not time.any() or (space & time).sum() > MAX_SPACE_AGREEMENT * time.sum():
        return 0.0
    return float(time.sum() / data.valid.sum())


def _agreeing(data, smooth, off, axis):
    """Positions off that agree with a neighbor that is off, along an axis of the scan, (Rx, Ry) bool.

    They agree if their step is that of the surface, or the usual one: a flexible surface bends between jumps.
    """
    out = np.zeros_like(off)
    a, b = ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:, :], np.s_[:-1, :]))[1 - axis]
    both = off[a] & off[b]
    if not both.any():
        return out
    near = OFF_SIGMAS * 2**0.5 * data.sigma[a]
    steps, expected = (values[(..., *a)] - values[(..., *b)] for values in (data.values, smooth))
    usual = _usual_step(steps, data.valid[a] & data.valid[b], near)
    alike = both & (np.minimum(np.hypot(*(steps - expected)), np.hypot(*(steps - usual))) < near)
    out[a] |= alike
    out[b] |= alike
    return out


def _usual_step(steps, valid, near):
    """The step between neighbors that most others are near to, a plane over the scan, (2, m, n) pixels."""
    i, j = np.nonzero(valid)
    taken = np.unique(np.linspace(0, len(i) - 1, MAX_COMPARED_STEPS).astype(int))
    values = steps[:, i[taken], j[taken]]
    apart = np.hypot(*(values[:, :, None] - values[:, None]))
    usual = values[:, (apart < near[i[taken], j[taken]]).sum(1).argmax()][:, None, None]
    u, v = (np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in valid.shape)
    plane = np.stack(np.broadcast_arrays(1.0, u[:, None], v), -1)
    for _ in range(USUAL_STEP_ROUNDS):
        close = valid & (np.hypot(*(steps - usual)) < near)
        if close.sum() < MIN_COUNT:
            break
        usual = np.moveaxis(plane @ np.linalg.lstsq(plane[close], steps[:, close].T, rcond=None)[0], -1, 0)
    return usual


# --- each frame belongs elsewhere -----------------------------------------------------------------
def _fit_at(data, index, columns, model):
    """Fit the surface with frames put to other places: fits in the shape of the scan.

    `index` (n,) is the place of each frame in rows of `columns` positions; negative ones lie before the first row.
    """
    # Frames before the first place, or after the last, are of another scan, or copies: what was measured stays.
    outside = ((index < 0) | (index // columns >= data.valid.shape[0] + 1)).reshape(data.valid.shape) & data.valid
    index = index - min(0, int(np.floor(index.min() / columns))) * columns
    rows = int(index.max() // columns) + 1
    at = np.divmod(index, columns)
    maps, sigmas = np.zeros((2, rows, columns)), np.ones((2, rows, columns))
    valid = np.zeros((rows, columns), bool)
    maps[(slice(None), *at)], sigmas[(slice(None), *at)] = data.flat, data.sigmas.reshape(2, -1)
    valid[at] = (data.valid & ~outside).ravel()
    out = []
    for fit, values, sigma in zip(fit_pair(*maps, *sigmas, valid, model), data.values, data.sigmas, strict=True):
        followed, error = (a[at].reshape(values.shape) for a in (fit.values, fit.sigma))
        out.append(_with_values(fit, np.where(outside, values, followed), np.where(outside, sigma, error), values,
                                data.valid))
    return tuple(out)


def _with_values(fit, values, sigma, measured, valid):
    return SurfaceFit(values, sigma, np.where(valid, measured - values, np.nan), fit.model, fit.scores, fit.decision,
                      fit.trials)


def _reversed_rows(data, smooth, model):
    """Every second row was scanned backward, or put down so."""
    rows, columns = data.valid.shape
    index = np.arange(rows * columns).reshape(rows, columns)
    index[1::2] = index[1::2, ::-1]
    both = data.valid[1:] & data.valid[:-1]
    both &= both[:, ::-1]  # so that all four positions are valid
    if both.sum() < columns:
        return
    same, across = (((data.values[:, 1:] - other) ** 2).sum(0) for other in
                    (data.values[:, :-1], data.values[:, :-1, ::-1]))
    limit = 9 * np.median(np.minimum(same, across)[both])  # a wrong disk counts for no more
    gain = (np.minimum(same, limit) - np.minimum(across, limit))[both]
    if gain.mean() > MIN_CROSSED_Z * max(gain.std(), 1e-12) / np.sqrt(gain.size):
        yield _fit_at(data, index.ravel(), columns, model), Flag("rows_reversed"), 2


def _steps(data):
    """Distance between successive frames, (n - 1,), NaN where one is not valid."""
    both = data.valid.ravel()[1:] & data.valid.ravel()[:-1]
    return np.where(both, np.hypot(*np.diff(data.flat, axis=1)), np.nan)


def _flyback(steps, first, length):
    """Find the last frame of rows of `length`, as the largest median step: (frame modulo length, step, usual step)."""
    phase = (first + np.arange(len(steps))) % length
    median = np.array([np.nanmedian(steps[phase == c]) if np.isfinite(steps[phase == c]).any() else 0.0
                       for c in range(length)])
    return int(median.argmax()), float(median.max()), float(np.nanmedian(steps))


def _shifted(data, smooth, model):
    """All frames come some triggers late or early, or rows are longer or shorter than was assumed."""
    columns = data.valid.shape[1]
    steps = _steps(data)
    best = (0.0, columns, columns - 1)
    for length in range(max(3, columns - MAX_LENGTH_ERROR), columns + MAX_LENGTH_ERROR + 1):
        last, step, usual = _flyback(steps, 0, length)
        best = max(best, (step / max(usual, 1e-9), length, last))
    ratio, length, last = best
    if ratio < MIN_FLYBACK_RATIO or (length, last) == (columns, columns - 1):
        return
    late = last + 1 if 2 * (last + 1) <= length else last + 1 - length
    flag = Flag("frames_shifted", {"count": late}) if length == columns else Flag(
        "row_length_wrong", {"columns": columns, "length": length})
    yield _fit_at(data, np.arange(data.valid.size) - late, length, model), flag, 3


def _dropped(data, smooth, model):
    """Frames are missing, or too many, from some frame on."""
    rows, columns = data.valid.shape
    bands = min(8, rows // MIN_BAND_ROWS)
    if bands < 2:
        return
    steps = _steps(data)
    edges = np.linspace(0, rows, bands + 1).astype(int) * columns
    found = [_flyback(steps[a : b - 1], a, columns) for a, b in pairwise(edges)]
    if not all(step > MIN_FLYBACK_RATIO * usual for _, step, usual in found):
        return
    last = np.array([f[0] for f in found])
    changes = np.flatnonzero(np.diff(last))
    if len(changes) not in (1, 2) or last[0] != columns - 1:
        return
    count = (columns - 1 - last[-1]) % columns
    count = count if 2 * count <= columns else count - columns
    if not count:
        return
    frame = int(edges[changes[-1] + 1])
    index = np.arange(data.valid.size)
    for _ in range(2):  # once to find the frame, once to follow it
        fits = _fit_at(data, index + count * (index >= frame), columns, model)
        moved = index + count
        surface = np.stack([fit.values.ravel() for fit in fits])
        # Before the frame the surface lies at its index, after it at its index plus count.
        full = _on_grid(surface, index + count * (index >= frame), data.valid.size + abs(count))
        costs = [np.where(data.valid.ravel(), np.log1p(((data.flat - full[:, at]) ** 2).sum(0)
                                                       / data.sigma.ravel() ** 2), 0.0)
                 for at in (index, np.clip(moved, 0, full.shape[1] - 1))]
        total = np.concatenate([[0.0], np.cumsum(np.nan_to_num(costs[0] - costs[1]))])
        frame = int(np.argmin(total))
    yield fits, Flag("frames_missing", {"count": int(count), "row": frame // columns, "column": frame % columns}), 4


def _on_grid(surface, index, size):
    """Values at frames' places on all places, (2, size), filled linearly in between."""
    out = np.empty((2, size))
    order = np.argsort(index, kind="stable")
    for k in range(2):
        out[k] = np.interp(np.arange(size), index[order], surface[k][order])
    return out


# --- the beam moves -------------------------------------------------------------------------------
def _row_steps(data, smooth, model):
    """The beam jumps with each scan row."""
    counts = data.valid.sum(1)
    used = counts >= MIN_LINE_COUNT
    hidden = np.where(data.valid & used[:, None], data.values, np.nan)  # a few positions may all be of another disk
    counts = np.where(used, counts, 0)
    if used.mean() < MIN_USED_ROWS or used.sum() < MIN_JUMPING_ROWS:
        return
    # A parabola down the scan, since a flexible surface follows the rows that it should be compared with.
    at = np.linspace(-1, 1, len(counts))[used]
    rows = _row_median(hidden)[:, used]
    off = np.stack([row - np.polyval(np.polyfit(at, row, 2), at) for row in rows])
    change = np.diff(off, axis=1)
    # The ratio of von Neumann is 2 for independent rows, and small where rows follow a smooth curve.
    if np.median(np.hypot(*change)) < MIN_RUN_PX or (change**2).mean() < MIN_ROW_ROUGHNESS * off.var(1).mean():
        return
    offset = _row_median(hidden)
    fits = fit_pair(*(data.values - offset[..., None]), *data.sigmas, data.valid, model)
    surface = np.stack([fit.values for fit in fits])
    offset = _row_median(hidden - surface)
    deviation = np.abs(hidden - surface - offset[..., None])
    error = 1.25 * np.nanmedian(deviation, (1, 2)) / NORMAL_MAD
    spread = offset[:, counts > 0].std(1)  # what is known of a row without positions
    error = np.where(counts > 0, error[:, None] / np.sqrt(counts.clip(1)), spread[:, None])
    flag = Flag("row_steps", {"step": float(np.median(np.hypot(*np.diff(offset, axis=1))))})
    yield tuple(_with_values(fit, values, np.hypot(fit.sigma, e[:, None]), measured,
                             data.valid)
                for fit, values, e, measured in zip(fits, surface + offset[..., None], error, data.values,
                                                    strict=True)), flag, 2 * len(counts)


def _row_median(values):
    """Median of each row, (2, Rx); that of the rows around where none is valid."""
    median = np.array([[np.nanmedian(row) if np.isfinite(row).any() else np.nan for row in image] for image in values])
    at = np.arange(median.shape[1])
    return np.stack([np.interp(at, at[np.isfinite(m)], m[np.isfinite(m)]) for m in median])


def _centered(data, smooth, model):
    """Patterns were moved by whole pixels before, so that the beam lies within half a pixel of one point."""
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
    # Which pixel a position near the limit between two was moved to is measured, not fitted.
    whole = [np.rint(fit.values - measured) for fit, measured in zip(fits, data.values, strict=True)]
    yield tuple(_with_values(fit, fit.values - n, fit.sigma, measured, data.valid)
                for fit, n, measured in zip(fits, whole, data.values, strict=True)), Flag("centered_before"), 16


def _unwrapped(image):
    """Add whole pixels to a map (Rx, Ry), so that it follows a plane and, locally, what it leaves."""
    wave = np.exp(2j * np.pi * image)
    size = [WAVE_PADDING * n for n in image.shape]
    spectrum = np.abs(np.fft.fft2(wave, size))
    at = np.unravel_index(spectrum.argmax(), spectrum.shape)
    slopes = [(k + n // 2) % n / n - (n // 2) / n for k, n in zip(at, size, strict=True)]  # pixels a position
    plane = sum(slope * np.arange(n).reshape((-1, 1) if axis == 0 else (1, -1))
                for axis, (slope, n) in enumerate(zip(slopes, image.shape, strict=True)))
    left = wave * np.exp(-2j * np.pi * plane)
    near = uniform_filter(left.real, 3, mode="nearest") + 1j * uniform_filter(left.imag, 3, mode="nearest")
    # The mean of neighbors turns by less than half a circle from position to position.
    phase = np.unwrap(np.unwrap(np.angle(near), axis=1), axis=0)
    expected = plane + phase / (2 * np.pi)
    return image + np.rint(expected - image)


def _odd_lines(data, smooth, model, jointly=False):
    """Whole rows or columns lie elsewhere, as those that are taken on the way back; what was measured stays there.

    They are told by the number of their positions that are off, or `jointly` by the mean.
    """
    off, valid = data.off(smooth), data.valid
    odd = np.zeros_like(valid)
    numbers, parameters = {}, 0
    for axis, name in ((1, "rows"), (0, "columns")):
        count, used = off.sum(axis), valid.sum(axis)
        lines = (used >= MIN_LINE_COUNT) & (count > MIN_ODD_PART * used)
        if jointly:
            lines = data.lines_off(smooth, axis)
        if not lines.any() or lines.mean() > MAX_ODD_LINES:
            numbers[name] = []
            continue
        rest = off.sum() - count[lines].sum()
        rate = max((rest + 1) / max(used.sum() - used[lines].sum(), 1), 1e-3)
        lines &= jointly or binom.sf(count - 1, used, rate) < MAX_ODD_CHANCE
        numbers[name] = [str(int(i)) for i in np.flatnonzero(lines)]
        odd |= lines[:, None] if axis == 1 else lines
        parameters += PARAMETERS_PER_LINE * int(lines.sum())
    if not odd.any():
        return
    fits = fit_pair(*data.values, *data.sigmas, valid & ~odd, model)
    away = np.hypot(*(data.values - [fit.values for fit in fits]))[odd & valid]
    unknown = float(np.median(away)) if away.size else np.inf  # how far positions there may lie that were not measured
    yield tuple(_with_values(fit, np.where(odd & valid, measured, fit.values),
                             np.where(odd & valid, sigma, np.where(odd, unknown, fit.sigma)), measured, valid)
                for fit, measured, sigma in zip(fits, data.values, data.sigmas, strict=True)), Flag(
                    "lines_elsewhere", numbers), parameters


def _runs(data, smooth, model):
    """The beam stays for some frames and jumps; the runs are followed, but what happened between them is unknown."""
    if _in_time_only(data, smooth, data.off(smooth)) < MIN_REFUSED_FRACTION:  # a small particle deflects the beam, too
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
        if _in_time_only(data, base, data.off(base)) == 0.0:
            continue
        level = np.stack([np.bincount(run, r) / length for r in residual[:, at]])
        followed = [np.interp(order, at, np.where(length[run] >= 2, line[run], 0.0)) for line in level]
        values = base + np.reshape(followed, base.shape)
        step = float(np.median(np.hypot(*np.diff(level))))
        refused = Decision(False, (Flag("beam_jumps", {"count": len(length) - 1, "step": step}),))
        yield tuple(SurfaceFit(v, np.full(v.shape, np.inf), np.where(data.valid, m - v, np.nan), "constant", {},
                               refused) for v, m in zip(values, data.values, strict=True)), None, 2 * len(length)
