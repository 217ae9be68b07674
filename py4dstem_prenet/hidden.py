"""The origin of a scan whose direct beam cannot be seen: the center of its rings."""

from __future__ import annotations

import numpy as np

from . import batches
from .coarse import block_sums, spread_blocks
from .noise import NoiseModel
from .ring_center import ring_center

BLOCKS = 4  # along each side of the scan: rings need more electrons than a disk
SYSTEMATIC = 0.1  # pixels, in each direction


def ring_origins(data, noise: NoiseModel):
    """Positions and sigmas of the rings' center, (2, Rx, Ry) each, pixels; or None, and why there are no rings."""
    scan = batches.shape_of(data)[:2]
    sums, counts, grid = block_sums(data, noise, BLOCKS)
    good = ~noise.bad_pixels
    whole = ring_center(sums.sum(0), good)
    if not whole.accepted:
        return None, whole.reason
    found = [ring_center(image, good, whole.center) if n else whole for image, n in zip(sums, counts, strict=True)]
    known = np.array([f.accepted for f in found])
    if known.mean() < 0.5:  # too few electrons in a block: no descan is seen, and none is claimed
        found, grid, known = [whole], (1, 1), np.ones(1, bool)
    at = np.array([f.center if k else whole.center for f, k in zip(found, known, strict=True)])
    sigma = np.array([np.diag((f if k else whole).covariance) for f, k in zip(found, known, strict=True)])
    position = spread_blocks(at, grid, scan, 0.2, known)
    sigma = np.sqrt(sigma[known].mean(0) + SYSTEMATIC**2)
    return (position.T.reshape(2, *scan), np.broadcast_to(sigma[:, None, None], (2, *scan)).copy()), ""
