"""Direct beam of scans with few electrons per pattern, from sums over neighboring positions.

If single patterns do not show the beam, sums over squares of positions are treated as the patterns of a coarser scan. A
descan smaller than the disk's radius within a square only blurs the disk.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..core import Decision, Flag, NoiseModel, OriginMap, Scan, as_scan
from . import UNCERTAIN_SIGMA_PX, GivenBeam, decide_origin

MAX_SPARSE_DOSE = 60.0  # electrons per pattern; largest dose at which sums are used
MIN_SUM_ELECTRONS = 200.0  # electrons; smallest sum, for which the network is precise to some tenths of a pixel
MIN_POOLED_SIDE = 3  # sums along each side of the scan; fewest that determine a descan
MAX_POOLED_BYTES = 2**28  # bytes; largest size of the sums as float32


def pooled_origin(scan: Scan, noise: NoiseModel, locator, origin: OriginMap,
                  given: GivenBeam | None = None) -> OriginMap:
    """Measure the origin in sums over neighboring positions, if single patterns do not show the direct beam.

    Parameters
    ----------
    scan : Scan
        The scan.
    noise : NoiseModel
        Noise model of the detector.
    locator : type
        `BeamLocator`, which learns and locates.
    origin : OriginMap
        Origin measured in single patterns.
    given : GivenBeam, optional
        Position and radius of the beam given by the user.

    Returns
    -------
    OriginMap
        The origin, valid at the middle of each sum, if the sums show the direct beam; otherwise `origin`.
    """
    if not 0 < noise.dose < MAX_SPARSE_DOSE or not scan.readable.all():
        return origin
    if origin.found and origin.feature == "direct beam" and not origin.decision.has("position_uncertain"):
        return origin
    side = _odd(np.sqrt(MIN_SUM_ELECTRONS / noise.dose))  # odd, so that sums have a middle
    largest = min(scan.scan_shape) // MIN_POOLED_SIDE
    largest -= 1 - largest % 2
    side = min(side, largest)
    pooled = _in_sums(scan, noise, locator, given, side)
    if pooled is not None and pooled.decision.has("position_uncertain") and side < largest:
        # Overlapping or large disks need more electrons; the sigma falls with the side of the squares.
        sigma = np.median(np.maximum(pooled.sigma_qx0, pooled.sigma_qy0)[pooled.valid])
        side = min(max(_odd(side * sigma / UNCERTAIN_SIGMA_PX), side + 2), largest)
        pooled = _in_sums(scan, noise, locator, given, side)
    return origin if pooled is None or pooled.decision.has("position_uncertain") else pooled


def _odd(number):
    """Smallest odd integer that is not below a number."""
    return 2 * int(np.ceil((number - 1) / 2)) + 1


def _in_sums(scan, noise, locator, given, side) -> OriginMap | None:
    """Measure the origin in sums over squares of positions; None if the sums do not show the direct beam."""
    shape = tuple(n // max(side, 1) for n in scan.scan_shape)
    size = int(np.prod(shape))
    if side < 3 or 4 * size * np.prod(scan.pattern_shape) > MAX_POOLED_BYTES:
        return None
    start = [(n - m * side) // 2 for n, m in zip(scan.scan_shape, shape, strict=True)]
    row, column = np.divmod(np.arange(scan.size), scan.scan_shape[1])
    u, v = (row - start[0]) // side, (column - start[1]) // side
    member = (u >= 0) & (v >= 0) & (u < shape[0]) & (v < shape[1])
    sums = np.zeros((size, *scan.pattern_shape), np.float32)
    for index, block in scan.blocks(positions=np.flatnonzero(member)):
        np.add.at(sums, u[index] * shape[1] + v[index], noise.electrons(block))
    coarse = as_scan(sums.reshape(*shape, *scan.pattern_shape))
    summed = replace(noise, gain=1.0, offset=0.0, readout=noise.readout / noise.gain * side, dose=noise.dose * side**2)
    middles = [s + side // 2 + side * np.arange(m) for s, m in zip(start, shape, strict=True)]
    learned = locator.learn(coarse, noise=summed, device="cpu", given=None if given is None else given.at(*middles))
    if learned.beam is None:
        return None
    decided = decide_origin(coarse, learned.noise, learned.locate_all(coarse, progress=False)[0], learned.beam)
    if not decided.found or decided.feature != "direct beam":
        return None
    at = np.ix_(*middles)
    nearest = np.ix_(*(np.clip((np.arange(n) - s) // side, 0, m - 1)
                       for n, s, m in zip(scan.scan_shape, start, shape, strict=True)))
    maps = [q[nearest] for q in (decided.qx0, decided.qy0, decided.sigma_qx0, decided.sigma_qy0)]
    valid = np.zeros(scan.scan_shape, bool)
    valid[at] = decided.valid
    flag = Flag("pooled_positions", {"dose": float(noise.dose), "side": side})
    flags = (flag, *(other for other in decided.flags if other.name == "position_uncertain"))
    return OriginMap(*maps, valid, decided.radius, Decision(True, flags), radius_sigma=decided.radius_sigma)
