"""Variation of a lattice over the scan, such as strained layers on the crystal that is the standard.

In each part of the scan, a change of the lattice moves the disks of all reflections outward or inward, while errors of
the disk model are independent for different reflections. The products of the shifts of different reflections in the
same part therefore have a mean of zero without a variation, and otherwise of its square.
"""

from __future__ import annotations

import numpy as np

from . import JointFit, Spots, Standard, ideal_positions

VARIED_SIDE = 8  # parts along each axis of the scan, whose lattices are compared; chosen
# Chosen: largest ratio of the distance of a reflection from its ring to that from the next ring; others are left out.
MAX_RING_RATIO = 0.5
# Standard deviations of the sum of the products; a larger sum is significant. Without a variation it is at worst
# distributed like (x - 1) / sqrt(2), where x is chi square with one degree of freedom: false in 1 % of the scans.
VARIED_SIGMAS = 4.0


def lattice_variation(spots: Spots, fit: JointFit, standard: Standard, reference: float) -> float:
    """Measure how much the lattice differs between parts of the scan.

    Parameters
    ----------
    spots : Spots
        The disks.
    fit : JointFit
        The fit of all disks.
    standard : Standard
        The crystal.
    reference : float
        Radius to which the distortions refer, pixels.

    Returns
    -------
    float
        Root mean square of the relative change, beyond the errors of positions; 0 if it is not significant.

    Examples
    --------
    >>> from py4dstem_prenet.pixel_size import Shape, State, find_standard, fit_spots, joint_of
    >>> silicon, rng = find_standard("Si"), np.random.default_rng(0)
    >>> place, number = np.repeat(np.indices((8, 8)).reshape(2, -1).T, 12, 0), np.tile(np.arange(12), 64)
    >>> layer = 0.006 * (place[:, 1] > 3)  # relative change of |g| in half of the scan
    >>> radius, phi = silicon.g[2 + number % 2] / 0.02 * (1 + layer), number * 1.1  # rings 220 and 311
    >>> offset = (radius * [np.cos(phi), np.sin(phi)]).T + rng.normal(0, 0.05, (768, 2))
    >>> spots = Spots(offset, np.full((768, 2), 0.05), np.arange(768) // 12, place, number, np.full(768, 64), 10.0, 1.0)
    >>> start = State(0.02, np.zeros(2), np.zeros(2), Shape(0.05, 1.0), 0.0, np.zeros(2), 64.0, spots.span,
    ...               Shape(0.05, 1.0), 1e-8 * np.eye(2))
    >>> fit = joint_of(fit_spots(spots, silicon, start, 50.0), spots, silicon)
    >>> round(lattice_variation(spots, fit, silicon, 64.0), 3)
    0.003
    """
    radius, azimuth = ideal_positions(spots.offset, fit.vector, fit.center, fit.barrel, fit.threefold, reference)
    sigma = spots.spread(radius, azimuth)
    number = np.unique(spots.reflection, return_inverse=True)[1]
    count = int(number.max()) + 1
    mean = np.bincount(number, radius / sigma**2) / np.bincount(number, 1 / sigma**2)
    rings = standard.g / fit.scale * (1 + np.nan_to_num(fit.ring_errors))
    distance = np.sort(np.abs(mean[:, None] - rings), 1)
    ring = rings[np.abs(mean[:, None] - rings).argmin(1)]
    used = (distance[:, 0] < MAX_RING_RATIO * distance[:, 1])[number]
    change = (radius / ring[number] - 1)[used]
    weight = (ring[number] / sigma)[used] ** 2
    part = np.unique(spots.parts(VARIED_SIDE)[used], return_inverse=True)[1]
    if not len(part):
        return 0.0
    change = change - np.average(change, weights=weight)
    cells, shape = part * count + number[used], (int(part.max()) + 1, count)
    shifts, weights = (np.bincount(cells, w, np.prod(shape)).reshape(shape) for w in (weight * change, weight))
    # Over pairs of different reflections: sums of the products, of their weights, and of their variances.
    products = float((shifts.sum(1) ** 2 - (shifts**2).sum(1)).sum())
    of_weights = float((weights.sum(1) ** 2 - (weights**2).sum(1)).sum())
    variance = 2 * float(((shifts @ shifts.T) ** 2).sum() - ((shifts**2).sum(0) ** 2).sum())
    if products <= VARIED_SIGMAS * np.sqrt(max(variance, 0.0)):
        return 0.0
    return float(np.sqrt(products / of_weights))
