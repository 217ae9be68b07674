"""Virtual images: electrons on round detectors that follow the origin, in bounded memory."""

from __future__ import annotations

import numpy as np

from ..core import as_scan


def virtual_images(data, qx0, qy0, detectors, noise, positions=None):
    """Electrons that each pattern leaves on round detectors about its own origin: float64 (detectors, positions).

    py4DSTEM's `get_virtual_image(shift_center=True)` does this for a whole scan and keeps it in the cube's tree.

    Args:
        data: (Rx, Ry, Qx, Qy), any array-like that `batches.patterns` reads, or a DataCube.
        qx0, qy0: origins, (Rx, Ry), px. detectors: (inner, outer) radii, px, the outer left out.
        noise: `NoiseModel`; its bad pixels are filled. positions: flat, ascending; all by default.
    """
    origin = np.stack([np.ravel(qx0), np.ravel(qy0)])
    count = origin.shape[1] if positions is None else len(positions)
    rank = np.arange(count) if positions is None else positions
    out = np.zeros((len(detectors), count))
    for index, block in as_scan(data).blocks(positions=positions):
        electrons = noise.electrons(block)
        dx, dy = (np.arange(n, dtype=np.float32) - origin[axis, index, None].astype(np.float32)
                  for axis, n in enumerate(block.shape[1:]))
        squared = dx[:, :, None] ** 2 + dy[:, None, :] ** 2
        at = np.searchsorted(rank, index)
        for k, (inner, outer) in enumerate(detectors):
            inside = (squared >= inner**2) & (squared < outer**2)
            out[k, at] = np.einsum("nij,nij->n", electrons, inside, dtype=np.float64)
    return out
