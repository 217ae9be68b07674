"""Noise and beam learned from the patterns that have come of a running scan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..core import Flag, PrenetError, SampledScan
from ..pipeline import Calibrator
from .snapshot import boxed


def learn_so_far(sample: SampledScan, mask, device: str) -> Calibrator:
    """Learn from the rectangle of the scan that was seen, as `calibrate` learns from a whole scan.

    Parameters
    ----------
    sample : SampledScan
        Patterns that were kept.
    mask : numpy.ndarray of bool or None
        (Qx, Qy), True where a detector pixel is good.
    device : str
        "auto", "cpu", "cuda" or "mps".

    Returns
    -------
    Calibrator
        What was learned. Outside the rectangle the guess of an origin is that of the nearest position inside.
    """
    box = tuple(slice(int(at.min()), int(at.max()) + 1)
                for at in np.divmod(sample.positions, sample.scan_shape[1]))
    part = boxed(sample, box)
    try:
        learned = Calibrator.learn(part, mask, device)
    except PrenetError as problem:  # the beam is still blanked, for example
        return Calibrator(None, None, None, Flag("input_refused", {"message": str(problem)}), device)
    if learned.beam is None:
        return learned
    rows, columns = (np.clip(np.arange(n) - side.start, 0, side.stop - side.start - 1)
                     for n, side in zip(sample.scan_shape, box, strict=True))
    guess = learned.guess.reshape(*part.scan_shape, 2)[rows[:, None], columns].reshape(-1, 2)
    return replace(learned, guess=guess)
