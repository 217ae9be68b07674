"""Whether two halves of a scan's electrons show the same ellipse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core import reading
from ..detector import NoiseModel, judge_noise, of_part, places, read_block, split
from ..io import calibrations

HALVED = 1024  # positions that are split into halves, at most
CHANCE = 13.8  # chi square of two degrees of freedom that chance exceeds once in a thousand


@dataclass(frozen=True)
class EllipseCheck:
    """Whether two halves of this scan's electrons show the same ellipse. `str(check)` is a sentence.

    difference: length of the difference of the two ellipse vectors, a difference in a/b. chi2: the same in units of
    the covariances that were stated, with two degrees of freedom. positions: how many were split. accepted: chi2 is
    one that chance exceeds in more than one case in a thousand. reason: in words.
    """

    difference: float
    chi2: float
    positions: int
    accepted: bool
    reason: str

    def __str__(self):
        return f"Ellipse {self.reason}"


def check_ellipse(datacube, noise: NoiseModel | None = None, device="auto", positions: int = HALVED,
                  seed: int = 0) -> EllipseCheck:
    """Whether the ellipse's covariance is true as far as counting goes, from the halves of at most `positions`.

    About the fitted origin in the calibration. What both halves share (an aperture that is not round, strain) is not
    seen by this. Arguments as those of `check_denoising`. Raises PrenetError where no origin is set.
    """
    from .measure import measure_ellipse

    reading.check(datacube)
    qx0, qy0, radius = calibrations.read_fitted_origin(datacube)
    noise = noise or calibrations.noise_of(datacube)
    where = places(reading.shape_of(datacube), positions, (1, 1))[0]
    block = read_block(datacube, where)
    problem, _ = judge_noise([block], noise)
    if problem:
        return EllipseCheck(np.nan, np.nan, 0, False, f"cannot be checked on these data: {problem}")
    found = [measure_ellipse(half, qx0.ravel()[where], qy0.ravel()[where], radius, of_part(noise), device=device,
                             progress=False) for half in split(block, noise, np.random.default_rng(seed))]
    if not all(e.sources for e in found):
        return EllipseCheck(np.nan, np.nan, where.size, False, "cannot be checked: half of the electrons show none")
    apart = found[0].vector - found[1].vector
    chi2 = float(apart @ np.linalg.solve(found[0].covariance + found[1].covariance, apart))
    return EllipseCheck(float(np.hypot(*apart)), chi2, where.size, chi2 < CHANCE,
                        f"differs by {np.hypot(*apart):.4f} in a/b between two halves of the electrons, "
                        f"{chi2**0.5:.1f} of the sigma that is stated ({where.size} positions)")
