"""The origin of a scan whose direct beam cannot be seen: the center of its rings."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from ..core import Scan
from ..detector import NoiseModel
from ..fits import ring_center
from .coarse import block_sums, spread_blocks

BLOCKS = 4  # along each side of the scan: rings need more electrons than a disk
SYSTEMATIC = 0.1  # pixels, in each direction
FLAT = 1 / 16  # of the pattern's side: what is smoother than that is no ring
DIFFERS = 4.0  # sigmas by which a single pattern shows rings
LIT, BRIGHT = 0.05, 0.9  # part of the electrons, and of the rings, of bright patterns (this quantile), below which one
# was blanked
def ring_origins(scan: Scan, noise: NoiseModel):
    """Positions and sigmas of the rings' center, (2, Rx, Ry) each, pixels, and where a pattern shows rings, (Rx, Ry)
    bool; or None. And a flag on why there are no rings."""
    sums, counts, grid = block_sums(scan, noise, BLOCKS)
    good = ~noise.bad_pixels
    whole = ring_center(sums.sum(0), good)
    if not whole.accepted:
        return None, whole.decision.flags[0]
    found = [ring_center(image, good, whole.center) if n else whole for image, n in zip(sums, counts, strict=True)]
    known = np.array([f.accepted for f in found])
    if known.mean() < 0.5:  # too few electrons in a block: no descan is seen, and none is claimed
        found, grid, known = [whole], (1, 1), np.ones(1, bool)
    at = np.array([f.center if k else whole.center for f, k in zip(found, known, strict=True)])
    sigma = np.array([np.diag((f if k else whole).covariance) for f, k in zip(found, known, strict=True)])
    position = spread_blocks(at, grid, scan.scan_shape, 0.2, known)
    sigma = np.sqrt(sigma[known].mean(0) + SYSTEMATIC**2)
    sigma = np.broadcast_to(sigma[:, None, None], (2, *scan.scan_shape)).copy()
    return (position.T.reshape(2, *scan.scan_shape), sigma, _shows_rings(scan, noise, sums.sum(0))), None


def _shows_rings(scan, noise, mean):
    """Where a pattern holds electrons, and what is not smooth in the mean (Qx, Qy) of the scan, (Rx, Ry) bool.

    Where bright patterns are too dim to show rings one by one, electrons must do.
    """
    good = ~noise.bad_pixels
    width = FLAT * max(mean.shape)
    share = gaussian_filter(good.astype(float), width).clip(1e-3)
    rings = (mean - gaussian_filter(np.where(good, mean, 0.0), width) / share)[good]
    rings = (rings - rings.mean()).astype(np.float32)
    known = scan.positions
    electrons, strength = np.zeros((2, scan.size))
    for index, block in scan.blocks(positions=known):
        seen = (block[:, good].astype(np.float32) - noise.offset) / noise.gain
        electrons[index], strength[index] = seen.sum(1, dtype=np.float64), seen @ rings
    sigma = np.sqrt((electrons.clip(1) / len(rings) + (noise.readout / noise.gain) ** 2) * (rings**2).sum())
    valid = np.zeros(len(electrons), bool)
    valid[known] = electrons[known] > LIT * np.quantile(electrons[known], BRIGHT)
    if np.quantile((strength / sigma)[known], BRIGHT) > 2 * DIFFERS:
        valid &= (strength > DIFFERS * sigma) & (strength > LIT * np.quantile(strength[known], BRIGHT))
    return valid.reshape(scan.scan_shape)
