"""The descan of a scan: a smooth surface, with steps where the beam jumps, or in parts where the descan changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .jumps import find_jumps, merged, step_at, told
from .segments import fit_parts
from .surface import fit_pair

MOST_JUMPS, STEP_ROUNDS = 8, 2  # more jumps than that are no descan with steps


def fit_descan(maps, sigmas, valid, model="auto"):
    """Fit both coordinates of the origin; see `surface.fit_pair`.

    Args:
        maps, sigmas: (2, Rx, Ry) px. valid: (Rx, Ry) bool. model: of the surface, or of that of each part.

    Returns: the two `SurfaceFit`, and sentences about jumps and parts.
    """
    maps, sigmas = np.asarray(maps, float), np.asarray(sigmas, float)
    jumps = [find_jumps(values, sigma, valid) for values, sigma in zip(maps, sigmas, strict=True)]
    steps = np.zeros(maps.shape)
    frames = merged([*jumps[0], *jumps[1]], valid.shape[1])
    if 0 < len(frames) <= MOST_JUMPS:
        steps = _steps(maps, sigmas, valid, frames, model)
    fits = [replace(f, values=f.values + step) for f, step in
            zip(fit_pair(*(maps - steps), *sigmas, valid, model), steps, strict=True)]
    said = [*told(jumps[0], "qx0"), *told(jumps[1], "qy0")]
    parts, frames = fit_parts(maps, sigmas, valid, np.stack([f.values for f in fits]), model)
    if parts is None:
        return *fits, said
    places = ", ".join(f"row {f // valid.shape[1]}, column {f % valid.shape[1]}" for f in frames)
    return *parts, [f"The descan itself changes at scan {places}, as in joined scans: it is fitted in "
                    f"{len(frames) + 1} parts."]


def _steps(maps, sigmas, valid, frames, model):
    """What jumps at `frames` add to a smooth surface, (2, Rx, Ry) pixels, zero before the first."""
    segment = np.searchsorted(frames, np.arange(valid.size), side="right").reshape(valid.shape)
    sizes = [[0.0, *(step_at(values, sigma, valid, f) for f in frames)]
             for values, sigma in zip(maps, sigmas, strict=True)]
    steps = np.cumsum(sizes, 1)[:, segment]
    for _ in range(STEP_ROUNDS):
        left = maps - [s.values for s in fit_pair(*(maps - steps), *sigmas, valid, model)]
        for k in range(1, segment.max() + 1):
            here = (segment == k) & valid
            if here.any():
                steps[:, segment == k] = np.median(left[:, here], 1)[:, None]
    return steps
