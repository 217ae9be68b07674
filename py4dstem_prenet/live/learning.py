"""Noise and beam learned from what has come of a running scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core import PrenetError, Sample
from ..detector import NoiseModel, estimate_noise
from ..origin import Beam, find_beam
from .snapshot import boxed


@dataclass(frozen=True)
class Learned:
    """What the stages learned from the `seen` first patterns. guess: (Rx * Ry, 2) of every origin; outside of the
    rectangle of the scan that was seen it is that of the nearest position inside. beam: None, and why."""

    noise: NoiseModel | None
    beam: Beam | None
    guess: np.ndarray | None
    reason: str
    seen: int


def learn(sample: Sample, seen, mask, device) -> Learned:
    """Noise and beam from the rectangle of the scan that was seen, as `calibrate` learns them from a whole one."""
    box = tuple(slice(int(at.min()), int(at.max()) + 1) for at in np.divmod(sample.positions, sample.scan[1]))
    part = boxed(sample, box)
    noise = None
    try:
        noise = estimate_noise(part, mask=mask)
        beam, guess, reason = find_beam(part, noise, device)
    except PrenetError as problem:  # a beam that is still blanked
        return Learned(noise, None, None, str(problem), seen)
    if beam is None:
        return Learned(noise, None, None, reason, seen)
    nearest = [np.clip(np.arange(n) - part.start, 0, part.stop - part.start - 1)
               for n, part in zip(sample.scan, box, strict=True)]
    guess = guess.reshape(*part.scan, 2)[nearest[0][:, None], nearest[1]].reshape(-1, 2)
    return Learned(beam.noise, beam, guess, "", seen)
