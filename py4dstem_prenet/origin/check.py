"""Whether the stated sigma of the origin is true, from two halves of a scan's electrons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core import Decided, Decision, Flag, NoiseModel, as_scan
from ..detector import MAX_SPLIT_POSITIONS, check_independence, of_part, places, read_block, split
from ..io import calibrations

MAX_RATIO = 4 / 3  # scatter over stated sigma, up to which sigma counts as true


@dataclass(frozen=True, eq=False, repr=False)
class OriginCheck(Decided):
    """How precisely the direct beam is located in a scan, from two halves of its electrons.

    Attributes
    ----------
    scatter : float
        RMS difference of the origins of the halves along each axis over sqrt(2), pixels: the precision at half the dose.
    ratio, ratio_sigma : float
        Scatter over the stated sigma, and one standard deviation of that; below 1 if sigma holds a part that both
        halves share.
    positions : int
        Positions that show a beam in both halves.
    decision : Decision
        Accepted if sigma is not understated by more than a third.
    """

    scatter: float
    ratio: float
    ratio_sigma: float
    positions: int
    decision: Decision

    def rows(self):
        return [("accepted", "yes" if self.accepted else "no"), ("positions", str(self.positions)),
                ("scatter at half the dose", f"{self.scatter:.3f} px"),
                ("scatter over stated sigma", f"{self.ratio:.2f} ± {self.ratio_sigma:.2f}"), ("flags", self.reason)]


def check_origin(datacube, noise: NoiseModel | None = None, device="auto", positions: int = MAX_SPLIT_POSITIONS,
                 seed: int = 0) -> OriginCheck:
    """Whether the origin's sigma is true, from the halves of at most `positions` neighboring positions.

    What both halves share, an error that comes from the pattern and not from its noise, is not seen by this.
    Arguments as those of `check_denoising`.
    """
    from .measure import measure_origin

    scan = as_scan(datacube)
    noise = noise or calibrations.noise_of(datacube)
    blocks = [read_block(scan, where) for where in places(scan.shape, positions, (1, 1))]
    problem, _ = check_independence(blocks, noise)
    if problem:
        return OriginCheck(np.nan, np.nan, np.nan, 0,
                           Decision(False, (Flag("not_checked", {"check": "origin"}), problem)))
    halves = split(blocks[0], noise, np.random.default_rng(seed))
    maps = [measure_origin(half, of_part(noise), device=device, progress=False) for half in halves]
    seen = maps[0].valid & maps[1].valid & maps[0].found & maps[1].found
    if seen.sum() < 2:
        return OriginCheck(np.nan, np.nan, np.nan, int(seen.sum()), Decision(False, (Flag("half_without_beam"),)))
    difference = np.array([(getattr(maps[0], q) - getattr(maps[1], q))[seen] for q in ("qx0", "qy0")])
    variance = np.array([sum(getattr(m, q)[seen] ** 2 for m in maps) for q in ("sigma_qx0", "sigma_qy0")])
    square = (difference**2 / variance).mean(0)
    ratio = float(np.sqrt(square.mean()))
    sigma = float(square.std() / np.sqrt(len(square)) / (2 * ratio))
    scatter = float(np.sqrt((difference**2).mean() / 2))
    accepted = ratio < MAX_RATIO
    flag = Flag("origin_sigma_checked" if accepted else "origin_sigma_understated",
                {"scatter": scatter, "ratio": ratio, "sigma": sigma, "positions": len(square)})
    return OriginCheck(scatter, ratio, sigma, len(square), Decision(accepted, (flag,)))
