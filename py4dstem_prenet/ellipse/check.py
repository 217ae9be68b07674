"""Whether two halves of a scan's electrons show the same ellipse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core import Decided, Decision, Flag, NoiseModel, as_scan
from ..detector import MAX_SPLIT_POSITIONS, check_independence, of_part, places, read_block, split
from ..io import calibrations

CHANCE = 13.8  # chi square of two degrees of freedom that chance exceeds once in a thousand


@dataclass(frozen=True, eq=False, repr=False)
class EllipseCheck(Decided):
    """Whether two halves of the electrons of a scan show the same ellipse.

    Attributes
    ----------
    difference : float
        Length of the difference of the two ellipse vectors, a difference in a/b; NaN if it was not checked.
    chi2 : float
        The same in units of the stated covariances, with two degrees of freedom.
    positions : int
        Positions that were split.
    decision : Decision
        Accepted if chance exceeds this chi2 in more than one case in a thousand.
    """

    difference: float
    chi2: float
    positions: int
    decision: Decision

    def rows(self):
        return [("accepted", "yes" if self.accepted else "no"), ("positions", str(self.positions)),
                ("difference in a/b", f"{self.difference:.4f}"), ("flags", self.reason)]


def check_ellipse(datacube, noise: NoiseModel | None = None, device="auto", positions: int = MAX_SPLIT_POSITIONS,
                  seed: int = 0) -> EllipseCheck:
    """Whether the ellipse's covariance is true as far as counting goes, from the halves of at most `positions`.

    About the fitted origin in the calibration. What both halves share (an aperture that is not round, strain) is not
    seen by this. Arguments as those of `check_denoising`. Raises PrenetError where no origin is set.
    """
    from .measure import measure_ellipse

    scan = as_scan(datacube)
    qx0, qy0, radius = calibrations.read_fitted_origin(datacube)
    noise = noise or calibrations.noise_of(datacube)
    where = places(scan.shape, positions, (1, 1))[0]
    block = read_block(scan, where)
    problem, _ = check_independence([block], noise)
    if problem:
        return EllipseCheck(np.nan, np.nan, 0, Decision(False, (Flag("not_checked", {"check": "ellipse"}), problem)))
    found = [measure_ellipse(half, qx0.ravel()[where], qy0.ravel()[where], radius, of_part(noise), device=device,
                             progress=False) for half in split(block, noise, np.random.default_rng(seed))]
    if not all(e.sources for e in found):
        return EllipseCheck(np.nan, np.nan, where.size, Decision(False, (Flag("half_without_ellipse"),)))
    apart = found[0].vector - found[1].vector
    chi2 = float(apart @ np.linalg.solve(found[0].covariance + found[1].covariance, apart))
    accepted, difference = bool(chi2 < CHANCE), float(np.hypot(*apart))
    flag = Flag("ellipse_halves_agree" if accepted else "ellipse_halves_differ",
                {"difference": difference, "sigmas": chi2**0.5, "positions": where.size})
    return EllipseCheck(difference, chi2, where.size, Decision(accepted, (flag,)))
