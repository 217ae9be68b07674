"""Jumps of the beam between scan rows: position, size, and the steps that they cause in the origin maps.

A jump is a step of the median between two rows that is larger than noise and an outlier among the steps between other
rows. Its position within the row is the one at which a step explains the adjacent rows best.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..core import MEDIAN_ERROR, NORMAL_MAD, Flag, masked_median
from . import JUMP_ROWS, LINE_OFF_SIGMAS, MAX_JUMPS, MIN_LINE_COUNT, OFF_SIGMAS, prepare


@dataclass(frozen=True)
class Jump:
    """A jump of one coordinate of the beam.

    Attributes
    ----------
    frame : int
        First flat scan position (C order) after the jump.
    step : float
        Size in pixels.
    sigma : float
        Standard error of the size in pixels.
    row : int
        Scan row before the jump.
    """

    frame: int
    step: float
    sigma: float
    row: int


def find_jumps(values, sigma, valid) -> tuple[Jump, ...]:
    """Find jumps of one coordinate of the beam between scan rows.

    Parameters
    ----------
    values : array_like, shape (Rx, Ry)
        The coordinate in pixels.
    sigma : array_like, shape (Rx, Ry)
        Standard error of the coordinate in pixels.
    valid : array_like of bool, shape (Rx, Ry)
        True where a position is used.

    Returns
    -------
    tuple of Jump
        Jumps in the order of the scan: steps that differ from those between neighboring rows by more than
        MIN_JUMP_SIGMAS and MIN_JUMP_PX.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.descan.jumps import find_jumps
    >>> values = np.random.default_rng(0).normal(0, 0.05, (16, 16))
    >>> values[8:] += 1
    >>> jumps = find_jumps(values, np.full((16, 16), 0.05), np.ones((16, 16), bool))
    >>> [(jump.frame, round(jump.step, 1)) for jump in jumps]
    [(128, 1.0)]
    """
    data = prepare(values, sigma, valid)
    if data.y.shape[0] < 4:
        return ()
    paired = data.use[1:] & data.use[:-1]
    paired &= (paired.sum(1) >= MIN_LINE_COUNT)[:, None]
    difference = data.y[1:] - data.y[:-1]
    step = masked_median(difference, paired)
    spread = masked_median(np.abs(difference - step[:, None]), paired) / NORMAL_MAD
    stated = masked_median(np.hypot(data.sigma[1:], data.sigma[:-1]), paired)
    error = MEDIAN_ERROR * np.fmax(spread, stated) / np.sqrt(np.maximum(paired.sum(1), 1))
    measured = np.isfinite(step)
    if measured.sum() < 3:
        return ()
    # Curvature of the descan changes the steps slowly from row to row: compare each step with its neighbors.
    neighbors = sliding_window_view(np.pad(step, 4, constant_values=np.nan), 9)[:, np.arange(9) != 4]
    excess = step - masked_median(neighbors, np.isfinite(neighbors))
    if not np.isfinite(excess).any():  # the measured steps have no neighbors
        return ()
    common = np.nanmedian(np.abs(excess)) / NORMAL_MAD
    scale = np.hypot(error, common)
    # A single displaced row gives two jumps.
    rows = np.flatnonzero(measured & (np.abs(excess) > LINE_OFF_SIGMAS * scale))
    return tuple(_located_jump(data, int(i), float(excess[i]), float(scale[i])) for i in rows)


def _patch(data, frame, step=0.0):
    """Rows around a frame: frames, values, regressors of a plane, and mask of the usable values.

    A value that deviates by one `step` is not an outlier, since the position of the jump is not yet determined.
    """
    rows, columns = data.y.shape
    row = frame // columns
    first, last = max(0, row - JUMP_ROWS), min(rows, row + JUMP_ROWS)
    frames = np.arange(first * columns, last * columns)
    i, j = np.divmod(frames, columns)
    plane = np.stack([np.ones(len(frames)), (i - row) / JUMP_ROWS, 2 * j / columns - 1], 1)
    values, use = data.y[first:last].ravel(), data.use[first:last].ravel()
    plane_and_step = np.c_[plane, frames >= frame]
    residual = values - plane_and_step @ np.linalg.lstsq(plane_and_step[use], values[use], rcond=None)[0]
    residual = residual - np.median(residual[use])
    deviation = np.minimum(np.abs(residual), np.abs(np.abs(residual) - abs(step)))
    limit = OFF_SIGMAS * np.median(deviation[use]) / NORMAL_MAD + 1e-9
    return frames, values, plane, use & (deviation < limit)


def _located_jump(data, row, step, sigma):
    """Find the frame of a jump after `row`, at which a step explains the adjacent rows best."""
    columns = data.y.shape[1]
    frames, values, plane, use = _patch(data, (row + 1) * columns, step)
    best = (np.inf, (row + 1) * columns)
    for frame in range(max(row * columns, frames[0] + 1), min((row + 2) * columns, frames[-1])):
        flattened = (values - step * (frames >= frame))[use]
        cost = np.abs(flattened - plane[use] @ np.linalg.lstsq(plane[use], flattened, rcond=None)[0]).sum()
        best = min(best, (cost, frame))
    return Jump(best[1], step, sigma, row)


def step_at(values, sigma, valid, frame) -> float:
    """Fit the step of one coordinate of the beam at a frame to the adjacent rows.

    Parameters
    ----------
    values : array_like, shape (Rx, Ry)
        The coordinate in pixels.
    sigma : array_like, shape (Rx, Ry)
        Standard error of the coordinate in pixels.
    valid : array_like of bool, shape (Rx, Ry)
        True where a position is used.
    frame : int
        First flat scan position after the jump.

    Returns
    -------
    float
        Size of the step in pixels.
    """
    frames, values, plane, use = _patch(prepare(values, sigma, valid), frame)
    design = np.c_[plane, frames >= frame][use]
    return float(np.linalg.lstsq(design, values[use], rcond=None)[0][-1])


def merged(jumps, columns: int) -> list[int]:
    """Merge the jumps of both coordinates.

    Parameters
    ----------
    jumps : iterable of Jump
        Jumps of both coordinates.
    columns : int
        Number of scan columns.

    Returns
    -------
    list of int
        Frames of the jumps, ascending. Of two jumps within half a scan row the more significant one is kept.

    Examples
    --------
    >>> from py4dstem_prenet.descan.jumps import Jump, merged
    >>> merged([Jump(32, 0.5, 0.1, 1), Jump(34, 1.0, 0.1, 1), Jump(80, 1.0, 0.1, 4)], columns=16)
    [34, 80]
    """
    kept = []
    for jump in sorted(jumps, key=lambda j: -abs(j.step) / max(j.sigma, 1e-6)):
        if all(abs(jump.frame - frame) > columns / 2 for frame in kept):
            kept.append(jump.frame)
    return sorted(kept)


def jump_flags(jumps, coordinate: str) -> list[Flag]:
    """Create the flags of jumps: one for each of the first MAX_JUMPS, and one that counts the remaining jumps.

    Parameters
    ----------
    jumps : sequence of Jump
        Jumps of one coordinate.
    coordinate : str
        "qx0" or "qy0".

    Returns
    -------
    list of Flag
        The flags.
    """
    flags = [Flag("jump", {"coordinate": coordinate, "step": jump.step, "row": jump.row, "next_row": jump.row + 1,
                           "sigmas": abs(jump.step) / max(jump.sigma, 1e-6)}) for jump in jumps[:MAX_JUMPS]]
    if len(jumps) > MAX_JUMPS:
        flags.append(Flag("more_jumps", {"coordinate": coordinate, "count": len(jumps) - MAX_JUMPS}))
    return flags
