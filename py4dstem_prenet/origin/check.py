"""Whether the stated sigma of the origin is true, from two halves of a scan's electrons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core import reading
from ..detector import NoiseModel, judge_noise, of_part, places, read_block, split
from ..io import calibrations

HALVED = 1024  # positions that are split into halves, at most


@dataclass(frozen=True)
class OriginCheck:
    """How well the direct beam is located in this scan, from its two halves. `str(check)` is a sentence.

    scatter: rms difference between the halves' origins in each direction over sqrt(2), pixels: the precision at half
    the dose. ratio, ratio_sigma: scatter over the sigma that was stated, and one standard deviation of that; below 1
    where sigma holds a part that both halves share. positions: how many were seen in both. accepted: sigma is not
    understated by more than a third. reason: in words.
    """

    scatter: float
    ratio: float
    ratio_sigma: float
    positions: int
    accepted: bool
    reason: str

    def __str__(self):
        return f"Origin {self.reason}"


def check_origin(datacube, noise: NoiseModel | None = None, device="auto", positions: int = HALVED,
                 seed: int = 0) -> OriginCheck:
    """Whether the origin's sigma is true, from the halves of at most `positions` neighboring positions.

    What both halves share, an error that comes from the pattern and not from its noise, is not seen by this.
    Arguments as those of `check_denoising`.
    """
    from .measure import measure_origin

    reading.check(datacube)
    noise = noise or calibrations.noise_of(datacube)
    blocks = [read_block(datacube, where) for where in places(reading.shape_of(datacube), positions, (1, 1))]
    problem, _ = judge_noise(blocks, noise)
    if problem:
        return OriginCheck(np.nan, np.nan, np.nan, 0, False, f"cannot be checked on these data: {problem}")
    halves = split(blocks[0], noise, np.random.default_rng(seed))
    maps = [measure_origin(half, of_part(noise), device=device, progress=False) for half in halves]
    seen = maps[0].valid & maps[1].valid & maps[0].found & maps[1].found
    if seen.sum() < 2:
        return OriginCheck(np.nan, np.nan, np.nan, int(seen.sum()), False,
                           "cannot be checked: half of the electrons show no direct beam")
    difference = np.array([(getattr(maps[0], q) - getattr(maps[1], q))[seen] for q in ("qx0", "qy0")])
    variance = np.array([sum(getattr(m, q)[seen] ** 2 for m in maps) for q in ("sigma_qx0", "sigma_qy0")])
    square = (difference**2 / variance).mean(0)
    ratio = float(np.sqrt(square.mean()))
    sigma = float(square.std() / np.sqrt(len(square)) / (2 * ratio))
    scatter = float(np.sqrt((difference**2).mean() / 2))
    return OriginCheck(scatter, ratio, sigma, len(square), ratio < 4 / 3,
                       f"scatters by {scatter:.3f} px in each direction at half the dose, {ratio:.2f} +- {sigma:.2f} "
                       f"of the sigma that is stated there ({len(square)} positions)")
