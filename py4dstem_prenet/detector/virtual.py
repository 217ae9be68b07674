"""Virtual images on annular detectors that follow the origin, in bounded memory."""

from __future__ import annotations

import numpy as np

from ..core import as_scan


def virtual_images(data, qx0, qy0, detectors, noise, positions=None):
    """Sum the electrons of each pattern over annular detectors about its own origin.

    Parameters
    ----------
    data : Scan, DataCube or array_like, shape (Rx, Ry, Qx, Qy)
        The scan.
    qx0, qy0 : array_like, shape (Rx, Ry)
        Origins in pixels; with `positions`, those of these positions.
    detectors : sequence of tuple
        Inner (included) and outer (excluded) radius of each detector in pixels.
    noise : NoiseModel
        Noise model of the data; its bad pixels are filled.
    positions : numpy.ndarray of int, optional
        Flat scan positions, ascending; all by default.

    Returns
    -------
    numpy.ndarray, shape (detectors, positions)
        Electrons, float64.

    Notes
    -----
    py4DSTEM's ``get_virtual_image(shift_center=True)`` does the same for a whole scan and stores the image in the
    cube's tree.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.core import NoiseModel
    >>> from py4dstem_prenet.detector import virtual_images
    >>> data = np.zeros((1, 2, 32, 32))
    >>> data[..., 8, 8], data[0, 1, 8, 13] = 50.0, 7.0
    >>> noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((32, 32), bool), counting=True, dose=53.5)
    >>> virtual_images(data, np.full((1, 2), 8.0), np.full((1, 2), 8.0), [(0, 3), (3, 7)], noise).tolist()
    [[50.0, 50.0], [0.0, 7.0]]
    """
    origin = np.stack([np.ravel(qx0), np.ravel(qy0)])
    count = origin.shape[1] if positions is None else len(positions)
    rank = np.arange(count) if positions is None else positions
    images = np.zeros((len(detectors), count))
    for index, block in as_scan(data).blocks(positions=positions):
        electrons = noise.electrons(block)
        dx, dy = (np.arange(n, dtype=np.float32) - origin[axis, index, None].astype(np.float32)
                  for axis, n in enumerate(block.shape[1:]))
        squared = dx[:, :, None] ** 2 + dy[:, None, :] ** 2
        columns = np.searchsorted(rank, index)
        for k, (inner, outer) in enumerate(detectors):
            inside = (squared >= inner**2) & (squared < outer**2)
            images[k, columns] = np.einsum("nij,nij->n", electrons, inside, dtype=np.float64)
    return images
