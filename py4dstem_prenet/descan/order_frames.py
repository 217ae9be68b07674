"""Models of the order of acquisition in which frames belong to other scan positions: reversed, shifted, or missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..core import STUDENT_DOF, Flag
from . import MAX_LEFT_FRACTION, MIN_OFF_FRACTION, Trial, fit_pair, with_values

MIN_CROSSED_Z = 4.0  # standard errors; smallest gain in agreement of adjacent rows if one is reversed, for a trial
MIN_FLYBACK_RATIO = 3.0  # ratio; smallest step at the end of a row relative to the median step
MAX_LENGTH_ERROR = 2  # frames; largest error of the length of a row
MAX_SLIP = 8  # frames; most that are missing or in excess together
# Surface and missing frames are determined in turn, with these multiples of the sigmas, since the first surface is bent
# by the displaced frames.
SLIP_TOLERANCES = 5.0, 2.0, 1.0, 1.0


def reversed_rows(data):
    """Try the model: every second row was scanned or stored backward.

    Parameters
    ----------
    data : OrderedMaps
        Measured origins, and the smooth surface through them.

    Yields
    ------
    Trial
        The surfaces if the model is correct, and the fault.
    """
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
        yield Trial(_fit_at(data, index.ravel(), columns)[0], Flag("rows_reversed"), 2)


def shifted_frames(data):
    """Try the model: all frames are late or early by some triggers, or rows are longer or shorter than assumed.

    Parameters
    ----------
    data : OrderedMaps
        Measured origins, and the smooth surface through them.

    Yields
    ------
    Trial
        The surfaces if the model is correct, and the fault.
    """
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
    yield Trial(_fit_at(data, np.arange(data.valid.size) - late, length)[0], flag, 3)


def slipped_frames(data):
    """Try the model: frames are missing at some times, or are in excess, also before the first one.

    The most probable number of positions by which each frame is displaced, given the surface, is a path through a
    hidden Markov chain (Viterbi 1967) that only rises, or only falls. Surface and path are determined in turn.

    Parameters
    ----------
    data : OrderedMaps
        Measured origins, and the smooth surface through them.

    Yields
    ------
    Trial
        The surfaces if the model is correct, and the fault.
    """
    rows, columns = data.valid.shape
    size, most = data.valid.size, min(MAX_SLIP, columns // 2)
    outliers = data.off(data.smooth).sum()
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
                surface = _fit_at(replace(data, model="parabola"), np.arange(size) + slip, columns)[1][:, :rows]
                fitted = slip
            slip = path(slips, surface, tolerance)
        if not slip.any():
            continue
        fits, _ = _fit_at(data, np.arange(size) + slip, columns)
        if data.off(np.stack([fit.values for fit in fits])).sum() > MAX_LEFT_FRACTION * outliers:
            continue
        changes = np.flatnonzero(np.diff(slip)) + 1
        if len(changes):
            flag = Flag("frames_missing", {"count": int(slip[-1] - slip[0]), "times": len(changes),
                                           "row": int(changes[0] // columns), "column": int(changes[0] % columns)})
        else:
            flag = Flag("frames_shifted", {"count": int(-slip[0])})
        yield Trial(fits, flag, 1 + 2 * len(changes))


def _fit_at(data, index, columns):
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
    fits, surfaces = [], fit_pair(*maps, *sigmas, valid, data.model)
    for fit, values, sigma in zip(surfaces, data.values, data.sigmas, strict=True):
        value, error = (a[at].reshape(values.shape) for a in (fit.values, fit.sigma))
        fits.append(with_values(fit, np.where(outside, values, value), np.where(outside, sigma, error), values,
                                data.valid))
    return tuple(fits), np.stack([fit.values for fit in surfaces])[:, before:]


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
