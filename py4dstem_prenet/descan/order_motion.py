"""Models of a beam that moves against the descan: from row to row, in single lines, in runs, or by whole pixels."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter
from scipy.stats import binom

from ..core import MEDIAN_ERROR, NORMAL_MAD, Decision, Flag
from . import (
    MAX_LEFT_FRACTION,
    MIN_LINE_COUNT,
    MIN_REFUSED_FRACTION,
    MIN_RUN_PX,
    OFF_SIGMAS,
    SurfaceFit,
    Trial,
    along_one_only,
    fit_pair,
    with_values,
)

MAX_CENTERED_RANGE_PX = 1.3  # pixels; largest range of the beam in patterns centered to whole pixels: rounding leaves 1
MIN_ODD_PART = 0.6  # fraction of a line's positions; fewest outliers in a displaced line
MAX_ODD_LINES = 0.35  # fraction of all lines; most that may be displaced
MAX_ODD_CHANCE = 1e-7  # probability that a line has so many outliers at the rate of the other lines
# Mean squared step between rows relative to the variance of rows about a parabola; smallest for rows that jump: below
# 1.4 in one of 1,000 scans of 8 to 12 rows that all jump, about 1 if every second row jumps; 0.6 for a bend with a
# period of 8 rows.
MIN_ROW_ROUGHNESS = 0.8
MIN_JUMPING_STEPS = 0.3  # fraction of the steps between rows; fewest that are longer than MIN_RUN_PX if rows jump
MIN_USED_ROWS = 0.7  # fraction of the rows; fewest with positions that can reveal jumps


def row_steps(data):
    """Try the model: the beam jumps at each scan row.

    Parameters
    ----------
    data : OrderedMaps
        Measured origins, and the smooth surface through them.

    Yields
    ------
    Trial
        The surfaces if the model is correct, and the fault.
    """
    counts = data.valid.sum(1)
    used = counts >= MIN_LINE_COUNT
    masked = np.where(data.valid & used[:, None], data.values, np.nan)  # if few are valid, all may be on a wrong disk
    counts = np.where(used, counts, 0)
    if used.mean() < MIN_USED_ROWS or used.sum() <= 3:  # a parabola has three parameters
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
    fits = fit_pair(*(data.values - offset[..., None]), *data.sigmas, data.valid, data.model)
    surface = np.stack([fit.values for fit in fits])
    offset = _row_median(masked - surface)
    deviation = np.abs(masked - surface - offset[..., None])
    error = MEDIAN_ERROR * np.nanmedian(deviation, (1, 2)) / NORMAL_MAD
    spread = offset[:, counts > 0].std(1)  # uncertainty of a row without positions
    error = np.where(counts > 0, error[:, None] / np.sqrt(counts.clip(1)), spread[:, None])
    flag = Flag("row_steps", {"step": float(np.median(np.hypot(*np.diff(offset, axis=1))))})
    stepped = tuple(with_values(fit, values, np.hypot(fit.sigma, e[:, None]), measured, data.valid)
                    for fit, values, e, measured in zip(fits, surface + offset[..., None], error, data.values,
                                                        strict=True))
    yield Trial(stepped, flag, 2 * len(counts))


def centered_before(data):
    """Try the model: patterns were centered by whole pixels, so that the beam is within half a pixel of one point.

    Parameters
    ----------
    data : OrderedMaps
        Measured origins, and the smooth surface through them.

    Yields
    ------
    Trial
        The surfaces if the model is correct, and the fault.
    """
    ends = np.percentile(data.values[:, data.valid], [1, 99], axis=1)
    sigma = float(np.median(data.sigma))
    # Counting adds 4.7 sigmas to the range between these quantiles.
    if np.ptp(ends, axis=0).max() > MAX_CENTERED_RANGE_PX + OFF_SIGMAS * sigma or not data.valid.all():
        return
    unwrapped = np.stack([_unwrapped(image) for image in data.values])
    if not (unwrapped - data.values).any():
        return
    fits = fit_pair(*unwrapped, *data.sigmas, data.valid, data.model)
    # The number of whole pixels is taken from the measurement, since a fit cannot determine it near a limit.
    whole = [np.rint(fit.values - measured) for fit, measured in zip(fits, data.values, strict=True)]
    rounded = tuple(with_values(fit, fit.values - n, fit.sigma, measured, data.valid)
                    for fit, n, measured in zip(fits, whole, data.values, strict=True))
    yield Trial(rounded, Flag("centered_before"), 16)


def lines_elsewhere(data, jointly=False):
    """Try the model: rows or columns are displaced, as if taken during the flyback; their measured values are kept.

    Parameters
    ----------
    data : OrderedMaps
        Measured origins, and the smooth surface through them.
    jointly : bool, optional
        Whether lines are identified by the mean of their positions instead of their number of outliers.

    Yields
    ------
    Trial
        The surfaces if the model is correct, and the fault.
    """
    outlier, valid = data.off(data.smooth), data.valid
    displaced = np.zeros_like(valid)
    numbers, parameters = {}, 0
    for axis, name in ((1, "rows"), (0, "columns")):
        count, used = outlier.sum(axis), valid.sum(axis)
        lines = (used >= MIN_LINE_COUNT) & (count > MIN_ODD_PART * used)
        if jointly:
            lines = data.lines_off(data.smooth, axis)
        if not lines.any() or lines.mean() > MAX_ODD_LINES:
            numbers[name] = []
            continue
        remaining = outlier.sum() - count[lines].sum()
        rate = max((remaining + 1) / max(used.sum() - used[lines].sum(), 1), 1e-3)
        lines &= jointly or binom.sf(count - 1, used, rate) < MAX_ODD_CHANCE
        numbers[name] = np.flatnonzero(lines).tolist()
        displaced |= lines[:, None] if axis == 1 else lines
        parameters += 4 * int(lines.sum())  # a straight line for each coordinate
    if not displaced.any():
        return
    fits = fit_pair(*data.values, *data.sigmas, valid & ~displaced, data.model)
    distance = np.hypot(*(data.values - [fit.values for fit in fits]))[displaced & valid]
    unknown = float(np.median(distance)) if distance.size else np.inf  # sigma of positions there that were not measured
    kept = tuple(with_values(fit, np.where(displaced & valid, measured, fit.values),
                             np.where(displaced & valid, sigma, np.where(displaced, unknown, fit.sigma)), measured,
                             valid)
                 for fit, measured, sigma in zip(fits, data.values, data.sigmas, strict=True))
    yield Trial(kept, Flag("lines_elsewhere", numbers), parameters)


def beam_runs(data):
    """Try the model: the beam stays for some frames and then jumps; the surface follows these runs, but is refused.

    Parameters
    ----------
    data : OrderedMaps
        Measured origins, and the smooth surface through them.

    Yields
    ------
    Trial
        The surfaces, refused.
    """
    # A small particle also deflects the beam.
    if along_one_only(data, data.smooth, data.off(data.smooth)) < MIN_REFUSED_FRACTION:
        return
    middle = np.median(data.values[:, data.valid], 1)[:, None, None] + np.zeros_like(data.smooth)
    at = np.flatnonzero(data.valid.ravel())
    order = np.arange(data.valid.size)
    for base in (data.smooth, middle):
        residual = (data.values - base).reshape(2, -1)
        step = np.hypot(*np.diff(residual[:, at], axis=1))
        limit = np.maximum(MIN_RUN_PX, OFF_SIGMAS * 2**0.5 * data.sigma.ravel()[at[1:]])
        run = np.concatenate([[0], np.cumsum(step > limit)])
        length = np.bincount(run)
        if len(length) < 4 or (length[run] >= 2).mean() < 1 - MAX_LEFT_FRACTION / 2:
            continue
        if along_one_only(data, base, data.off(base)) == 0.0:
            continue
        level = np.stack([np.bincount(run, r) / length for r in residual[:, at]])
        displacement = [np.interp(order, at, np.where(length[run] >= 2, line[run], 0.0)) for line in level]
        values = base + np.reshape(displacement, base.shape)
        if data.off(values).sum() > MAX_LEFT_FRACTION * data.off(data.smooth).sum():
            continue
        step = float(np.median(np.hypot(*np.diff(level))))
        refused = Decision(False, (Flag("beam_jumps", {"count": len(length) - 1, "step": step}),))
        runs = tuple(SurfaceFit(v, np.full(v.shape, np.inf), np.where(data.valid, m - v, np.nan), "constant", {},
                                refused) for v, m in zip(values, data.values, strict=True))
        yield Trial(runs, None, 2 * len(length))


def _row_median(values):
    """Median (2, Rx) of each row, interpolated between rows if no position is valid."""
    median = np.array([[np.nanmedian(row) if np.isfinite(row).any() else np.nan for row in image] for image in values])
    at = np.arange(median.shape[1])
    return np.stack([np.interp(at, at[np.isfinite(m)], m[np.isfinite(m)]) for m in median])


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
