"""Check of the stated sigma of the origin, from two independent halves of a scan's electrons.

The electrons of each pattern are split at random into two halves (`detector.split`), and the origin is measured in
both. The scatter of their difference is compared with the stated sigmas.
"""

from __future__ import annotations

import numpy as np

from ..compute import sharing_cores
from ..core import Decision, Flag, NoiseModel, OriginCheck, as_scan
from ..detector import MAX_SPLIT_POSITIONS, check_independence, of_part, places, read_block, split
from ..io import noise_of

MAX_SIGMA_RATIO = 1.25  # ratio; largest scatter relative to the stated sigma that is accepted: tests require it
SIGMA_RATIO_SIGNIFICANCE = 2.33  # sigmas of the ratio; excess that is an alarm: false in 1 % of scans at the limit


@sharing_cores
def check_origin(datacube, noise: NoiseModel | None = None, device="auto", positions: int = MAX_SPLIT_POSITIONS,
                 seed: int = 0) -> OriginCheck:
    """Check the stated sigma of the origin with two halves of the electrons.

    Parameters
    ----------
    datacube : DataCube or array_like, shape (Rx, Ry, Qx, Qy)
        The scan.
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
    OriginCheck
        Scatter, its ratio to the stated sigma, and the decision, which is not accepted if the ratio is significantly
        larger than 1.25. The numbers are NaN if the noise is not independent between pixels or if the halves show no
        beam.

    Raises
    ------
    PrenetError
        If the data cannot be calibrated.

    Notes
    -----
    The beam is learned from the first half and measured in both. Errors that both halves share, such as those due to
    contrast in the disk, are not detected.
    """
    from .measure import BeamLocator

    scan = as_scan(datacube)
    noise = noise or noise_of(datacube)
    blocks = [read_block(scan, where) for where in places(scan.shape, positions, (1, 1))]
    problem, _ = check_independence(blocks, noise)
    if problem:
        return OriginCheck(np.nan, np.nan, np.nan, 0,
                           Decision(False, (Flag("not_checked", {"check": "origin"}), problem)))
    halves = [as_scan(half) for half in split(blocks[0], noise, np.random.default_rng(seed))]
    locator = BeamLocator.learn(halves[0], device=device, noise=of_part(noise))
    maps = [locator.origin(half, locator.locate_all(half, progress=False)[0]) for half in halves]
    # About a hidden beam, all positions are those of one center, with its sigma.
    located = all(half.found and half.feature == "direct beam" for half in maps)
    valid = maps[0].valid & maps[1].valid & located
    if valid.sum() < 2:
        return OriginCheck(np.nan, np.nan, np.nan, int(valid.sum()), Decision(False, (Flag("half_without_beam"),)))
    difference = np.array([(getattr(maps[0], q) - getattr(maps[1], q))[valid] for q in ("qx0", "qy0")])
    variance = np.array([sum(getattr(m, q)[valid] ** 2 for m in maps) for q in ("sigma_qx0", "sigma_qy0")])
    square = (difference**2 / variance).mean(0)
    ratio = float(np.sqrt(square.mean()))
    sigma = float(square.std() / np.sqrt(len(square)) / (2 * ratio))
    scatter = float(np.sqrt((difference**2).mean() / 2))
    accepted = ratio - SIGMA_RATIO_SIGNIFICANCE * sigma < MAX_SIGMA_RATIO
    flag = Flag("origin_sigma_checked" if accepted else "origin_sigma_understated",
                {"scatter": scatter, "ratio": ratio, "sigma": sigma, "positions": len(square)})
    return OriginCheck(scatter, ratio, sigma, len(square), Decision(accepted, (flag,)))
