"""Variation of a lattice over the scan, such as strained layers on the crystal that is the standard.

In each part of the scan, a change of the lattice moves the disks of all reflections outward or inward, while errors of
the disk model are independent for different reflections. The products of the shifts of different reflections in the
same part therefore have a mean of zero without a variation, and otherwise of its square. Disks count as far as the fit
takes them for disks of a ring: stray disks of one pattern often lie off the rings by the same fraction.
"""

from __future__ import annotations

import numpy as np

from . import Spots

VARIED_SIDE = 8  # parts along each axis of the scan, whose lattices are compared; chosen
# Standard deviations of the sum of the products; a larger sum is significant. Without a variation it is at worst
# distributed like (x - 1) / sqrt(2), where x is chi square with one degree of freedom: false in 1 % of the scans.
VARIED_SIGMAS = 4.0


def lattice_variation(spots: Spots, disk, ring, change, weight) -> float:
    """Measure how much the lattice differs between parts of the scan.

    Parameters
    ----------
    spots : Spots
        The disks.
    disk, ring : numpy.ndarray of int, shape (p,)
        Pairs of a disk and a ring to which it may belong.
    change : numpy.ndarray, shape (p,)
        Relative difference between the radius of the disk and that of the ring.
    weight : numpy.ndarray, shape (p,)
        Inverse variance of the change, times the probability that the disk belongs to the ring.

    Returns
    -------
    float
        Root mean square of the relative change, beyond the errors of positions; 0 if it is not significant.

    Examples
    --------
    >>> rng, number = np.random.default_rng(0), np.tile(np.arange(12), 64)  # 12 reflections at 8 x 8 positions
    >>> place = np.repeat(np.indices((8, 8)).reshape(2, -1).T, 12, 0)
    >>> spots = Spots(np.full((768, 2), 20.0), np.full((768, 2), 0.03), np.arange(768) // 12, place, number,
    ...               np.full(768, 64), 10.0, 1.0)
    >>> change = 0.006 * (place[:, 1] > 3) + rng.normal(0, 0.001, 768)  # half of the scan has another lattice
    >>> round(lattice_variation(spots, np.arange(768), number % 2, change, np.full(768, 1e6)), 4)
    0.003
    """
    ring = np.unique(ring, return_inverse=True)[1]
    # Errors that are common to the disks of a ring are none of the lattice.
    total = np.maximum(np.bincount(ring, weight), np.finfo(float).tiny)  # 0 for a ring to which no disk belongs
    change = change - (np.bincount(ring, weight * change) / total)[ring]
    number = np.unique(spots.reflection[disk], return_inverse=True)[1]
    part = np.unique(spots.parts(VARIED_SIDE)[disk], return_inverse=True)[1]
    if not len(part):
        return 0.0
    count = int(number.max()) + 1
    cells, shape = part * count + number, (int(part.max()) + 1, count)
    shifts, weights = (np.bincount(cells, w, np.prod(shape)).reshape(shape) for w in (weight * change, weight))
    # Over pairs of different reflections: sums of the products, of their weights, and of their variances.
    products = float((shifts.sum(1) ** 2 - (shifts**2).sum(1)).sum())
    of_weights = float((weights.sum(1) ** 2 - (weights**2).sum(1)).sum())
    variance = 2 * float(((shifts @ shifts.T) ** 2).sum() - ((shifts**2).sum(0) ** 2).sum())
    if products <= VARIED_SIGMAS * np.sqrt(max(variance, 0.0)):
        return 0.0
    return float(np.sqrt(products / of_weights))
