"""Jumps of the beam during a scan: where they are, how large, and the steps that they leave in the origin maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core import NORMAL_MAD, Flag
from .surface import prepare

SIGMAS, LEAST = 6.0, 0.05  # standard errors and pixels by which a row must step out of line
AROUND = 3  # rows on either side that tell where in a row a jump is
OUTLIER = 5.0  # standard deviations
TOLD = 5  # at most so many are told one by one


@dataclass(frozen=True)
class Jump:
    """frame: flat scan position (C order over (Rx, Ry)) from which the beam lies elsewhere. step: pixels.
    sigma: of the step, pixels. row: the scan row before it."""

    frame: int
    step: float
    sigma: float
    row: int


def find_jumps(values, sigma, valid) -> tuple[Jump, ...]:
    """Jumps of one coordinate of the beam between scan rows.

    values, sigma, valid: (Rx, Ry) as for `surface.fit_surface`. A jump is a median step from one row to the next that
    stands out of the other steps and of the noise by more than 6 sigma and is larger than 0.05 px.
    """
    data = prepare(values, sigma, valid)
    if data.y.shape[0] < 4:
        return ()
    both = data.use[1:] & data.use[:-1]
    step = np.full(len(both), np.nan)
    error = np.full(len(both), np.inf)
    for i in np.flatnonzero(both.sum(1) >= 3):
        difference = (data.y[i + 1] - data.y[i])[both[i]]
        step[i] = np.median(difference)
        spread = np.median(np.abs(difference - step[i])) / NORMAL_MAD
        stated = np.median(np.hypot(data.sigma[i + 1], data.sigma[i])[both[i]])
        error[i] = 1.2533 * max(spread, stated) / np.sqrt(both[i].sum())
    known = np.isfinite(step)
    if known.sum() < 3:
        return ()
    # Curvature of the descan makes steps drift slowly with the row: compare with the neighboring steps.
    around = (np.delete(step[max(i - 4, 0) : i + 5], min(i, 4)) for i in range(len(step)))
    excess = step - np.array([np.median(s[np.isfinite(s)]) if np.isfinite(s).any() else np.nan for s in around])
    if not np.isfinite(excess).any():  # steps are known only far from one another
        return ()
    common = np.nanmedian(np.abs(excess)) / NORMAL_MAD
    scale = np.hypot(error, common)
    # Noise in a row counts in the two steps around it, a jump in one: a lone displaced row is two jumps.
    found = np.flatnonzero(known & (np.abs(excess) > SIGMAS * scale) & (np.abs(excess) > LEAST))
    return tuple(_placed(data, int(i), float(excess[i]), float(scale[i])) for i in found)


def _patch(data, frame, step=0.0):
    """What lies around a frame: frames, values, regressors of a plane, and which of them can be used.

    A value one `step` off is no outlier: where exactly the jump lies is what is asked.
    """
    rows, columns = data.y.shape
    row = frame // columns
    first, last = max(0, row - AROUND), min(rows, row + AROUND)
    frames = np.arange(first * columns, last * columns)
    i, j = np.divmod(frames, columns)
    plane = np.stack([np.ones(len(frames)), (i - row) / AROUND, 2 * j / columns - 1], 1)
    values, use = data.y[first:last].ravel(), data.use[first:last].ravel()
    both = np.c_[plane, frames >= frame]
    rest = values - both @ np.linalg.lstsq(both[use], values[use], rcond=None)[0]
    rest = rest - np.median(rest[use])
    rest = np.minimum(np.abs(rest), np.abs(np.abs(rest) - abs(step)))
    return frames, values, plane, use & (rest < OUTLIER * np.median(rest[use]) / NORMAL_MAD + 1e-9)


def _placed(data, row, step, sigma):
    """A jump found between `row` and the next, with the frame at which a step explains its surroundings best."""
    columns = data.y.shape[1]
    frames, values, plane, use = _patch(data, (row + 1) * columns, step)
    best = (np.inf, (row + 1) * columns)
    for frame in range(max(row * columns, frames[0] + 1), min((row + 2) * columns, frames[-1])):
        left = (values - step * (frames >= frame))[use]
        cost = np.abs(left - plane[use] @ np.linalg.lstsq(plane[use], left, rcond=None)[0]).sum()
        best = min(best, (cost, frame))
    return Jump(best[1], step, sigma, row)


def step_at(values, sigma, valid, frame) -> float:
    """By how much a coordinate of the beam steps at a frame, pixels, from the rows around it."""
    frames, values, plane, use = _patch(prepare(values, sigma, valid), frame)
    both = np.c_[plane, frames >= frame][use]
    return float(np.linalg.lstsq(both, values[use], rcond=None)[0][-1])


def merged(jumps, columns: int) -> list[int]:
    """Frames of jumps found in both coordinates, ascending; of two within half a scan row the surer one."""
    kept = []
    for jump in sorted(jumps, key=lambda j: -abs(j.step) / max(j.sigma, 1e-6)):
        if all(abs(jump.frame - frame) > columns / 2 for frame in kept):
            kept.append(jump.frame)
    return sorted(kept)


def jump_flags(jumps, coordinate: str) -> list[Flag]:
    """Flags for the first few jumps one by one, and for the number of the others."""
    flags = [Flag("jump", {"coordinate": coordinate, "step": jump.step, "row": jump.row, "next_row": jump.row + 1,
                           "sigmas": abs(jump.step) / max(jump.sigma, 1e-6)}) for jump in jumps[:TOLD]]
    if len(jumps) > TOLD:
        flags.append(Flag("more_jumps", {"coordinate": coordinate, "count": len(jumps) - TOLD}))
    return flags
