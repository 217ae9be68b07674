"""Check of the ellipse and its covariance, from two independent halves of a scan's electrons."""

from __future__ import annotations

import numpy as np

from ..compute import sharing_cores
from ..core import Decision, EllipseCheck, Flag, NoiseModel, as_scan
from ..detector import MAX_SPLIT_POSITIONS, check_independence, of_part, places, read_block, split
from ..io import beam_is_hidden, noise_of, read_fitted_origin

MAX_HALVES_CHI2 = 13.8  # chi square, two degrees of freedom; largest accepted: exceeded by chance in 1 of 1,000 checks


@sharing_cores
def check_ellipse(datacube, noise: NoiseModel | None = None, device="auto", positions: int = MAX_SPLIT_POSITIONS,
                  seed: int = 0) -> EllipseCheck:
    """Check the ellipse and its covariance with two halves of the electrons.

    Patterns are pooled about the fitted origin in the calibration.

    Parameters
    ----------
    datacube : DataCube
        The scan, with a fitted origin in its calibration.
    noise : NoiseModel, optional
        Noise model of the detector; that of the calibration, or estimated, by default.
    device : str, optional
        "auto", "cpu", "cuda" or "mps".
    positions : int, optional
        Largest number of neighboring scan positions that are split.
    seed : int, optional
        Seed of the split.

    Returns
    -------
    EllipseCheck
        Difference, chi square and the decision. The numbers are NaN if the noise is not independent between pixels or
        if a half determines no ellipse.

    Raises
    ------
    PrenetError
        If the calibration has no origin.

    Notes
    -----
    Errors that both halves share, for example due to strain or an aperture that is not round, are not detected.
    """
    from .measure import measure_ellipse

    scan = as_scan(datacube)
    qx0, qy0, radius = read_fitted_origin(datacube)
    radius = None if beam_is_hidden(datacube) else radius
    noise = noise or noise_of(datacube)
    chosen = places(scan.shape, positions, (1, 1))[0]
    block = read_block(scan, chosen)
    problem, _ = check_independence([block], noise)
    if problem:
        return EllipseCheck(np.nan, np.nan, 0, Decision(False, (Flag("not_checked", {"check": "ellipse"}), problem)))
    ellipses = [measure_ellipse(half, qx0.ravel()[chosen], qy0.ravel()[chosen], radius, of_part(noise), device=device,
                                progress=False) for half in split(block, noise, np.random.default_rng(seed))]
    if not all(ellipse.sources for ellipse in ellipses):
        return EllipseCheck(np.nan, np.nan, chosen.size, Decision(False, (Flag("half_without_ellipse"),)))
    offset = ellipses[0].vector - ellipses[1].vector
    chi2 = float(offset @ np.linalg.solve(ellipses[0].covariance + ellipses[1].covariance, offset))
    accepted, difference = bool(chi2 < MAX_HALVES_CHI2), float(np.hypot(*offset))
    flag = Flag("ellipse_halves_agree" if accepted else "ellipse_halves_differ",
                {"difference": difference, "sigmas": chi2**0.5, "positions": chosen.size})
    return EllipseCheck(difference, chi2, chosen.size, Decision(accepted, (flag,)))
