"""The center of the rings as the origin, for scans whose direct beam is hidden."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from ..core import Decision, Flag, NoiseModel, OriginMap, Scan
from ..fits import ring_center
from . import block_sums, no_origin, spread_blocks

RING_BLOCKS = 4  # number of blocks along each side of the scan; rings need more electrons than a disk
RING_CENTER_ERROR_PX = 0.1  # pixels along each axis; systematic error of the center of rings
RING_BACKGROUND_FRACTION = 1 / 16  # fraction of the pattern's side, 1 sigma; smoothness of the background of rings
RING_SIGMAS = 4.0  # standard errors; smallest significance of rings in a single pattern
# Fraction of the electrons (or rings) of bright patterns, which are the BRIGHT_QUANTILE of all patterns; with less, the
# beam was blanked.
BLANKED_FRACTION = 0.05
BRIGHT_QUANTILE = 0.9


def origin_from_rings(scan: Scan, noise: NoiseModel, flag: Flag | None) -> OriginMap:
    """Measure the center of the rings as the origin.

    Parameters
    ----------
    scan : Scan
        The scan, or a sample of one.
    noise : NoiseModel
        Noise model of the detector.
    flag : Flag or None
        Reason why the direct beam is not used; part of a refusal.

    Returns
    -------
    OriginMap
        The origin, with `feature` "rings"; not found if there are no rings.
    """
    reason = () if flag is None else (flag,)
    if not noise.dose > 0:
        return no_origin(scan.scan_shape, *reason)
    rings, refusal = ring_origins(scan, noise)
    if rings is None:
        return no_origin(scan.scan_shape, *reason, refusal)
    position, sigma, valid = rings
    flags = [Flag("beam_hidden")]
    common = float(np.sqrt(np.mean(np.square(sigma))))
    if not valid.all():
        flags.append(Flag("rings_missing", {"count": int(np.count_nonzero(~valid)), "total": int(valid.size)}))
    return OriginMap(*position, *sigma, valid, float("nan"), Decision(True, tuple(flags), {"common": common}),
                     "rings")


def ring_origins(scan: Scan, noise: NoiseModel):
    """Measure the center of the rings over the scan.

    Parameters
    ----------
    scan : Scan
        The scan, or a sample of one.
    noise : NoiseModel
        Noise model of the detector.

    Returns
    -------
    rings : tuple or None
        Positions and sigmas in pixels, (2, Rx, Ry) each, and the mask (Rx, Ry) of patterns that show rings; None if
        there are no rings.
    refusal : Flag or None
        Reason why there are no rings.
    """
    sums, counts, grid = block_sums(scan, noise, RING_BLOCKS)
    good = ~noise.bad_pixels
    whole = ring_center(sums.sum(0), good)
    if not whole.accepted:
        return None, whole.decision.flags[0]
    if len(sums) == 1:
        centers = [whole]
    else:
        centers = [ring_center(image, good, whole.center) if n else whole
                   for image, n in zip(sums, counts, strict=True)]
    accepted = np.array([c.accepted for c in centers])
    if accepted.mean() < 0.5:  # too few electrons in a block to measure the descan: one center for the whole scan
        centers, grid, accepted = [whole], (1, 1), np.ones(1, bool)
    centers = [c if a else whole for c, a in zip(centers, accepted, strict=True)]
    variance = np.array([np.diag(c.covariance) for c in centers])
    position = spread_blocks(np.array([c.center for c in centers]), grid, scan.scan_shape, 0.2, accepted)
    sigma = np.sqrt(variance[accepted].mean(0) + RING_CENTER_ERROR_PX**2)
    sigma = np.broadcast_to(sigma[:, None, None], (2, *scan.scan_shape)).copy()
    return (position.T.reshape(2, *scan.scan_shape), sigma, _shows_rings(scan, noise, sums.sum(0))), None


def _shows_rings(scan, noise, mean):
    """Mask (Rx, Ry) of the patterns that show the rings of the mean pattern (Qx, Qy) of the scan.

    Each pattern is projected on the mean pattern without its smooth background. If even bright patterns have too few
    electrons to show rings, the total electrons of each pattern decide.
    """
    good = ~noise.bad_pixels
    width = RING_BACKGROUND_FRACTION * max(mean.shape)
    covered = gaussian_filter(good.astype(float), width).clip(1e-3)
    rings = (mean - gaussian_filter(np.where(good, mean, 0.0), width) / covered)[good]
    rings = (rings - rings.mean()).astype(np.float32)
    positions = scan.positions
    electrons, strength = np.zeros((2, scan.size))
    for index, block in scan.blocks(positions=positions):
        counts = (block[:, good].astype(np.float32) - noise.offset) / noise.gain
        electrons[index], strength[index] = counts.sum(1, dtype=np.float64), counts @ rings
    sigma = np.sqrt((electrons.clip(1) / len(rings) + (noise.readout / noise.gain) ** 2) * (rings**2).sum())
    valid = np.zeros(len(electrons), bool)
    valid[positions] = electrons[positions] > BLANKED_FRACTION * np.quantile(electrons[positions], BRIGHT_QUANTILE)
    if np.quantile((strength / sigma)[positions], BRIGHT_QUANTILE) > 2 * RING_SIGMAS:
        strong = strength > BLANKED_FRACTION * np.quantile(strength[positions], BRIGHT_QUANTILE)
        valid &= (strength > RING_SIGMAS * sigma) & strong
    return valid.reshape(scan.scan_shape)
