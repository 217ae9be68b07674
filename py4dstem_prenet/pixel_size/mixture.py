"""Likelihood of the positions of disks: a mixture of the rings of a crystal and of background disks on no ring.

A disk of a ring lies at the ring's radius with two errors, that of its position and a common error of the disk model;
both have the tails of Student's distribution. The number of disks on each ring has a Gamma prior about the kinematic
expectation. The evidence of a lattice is therefore that of a Poisson process with unknown rates; a lower bound of it is
found iteratively (Bishop, Pattern Recognition and Machine Learning, 2006, ch. 10). Rings without disks, and disks
without rings, reduce the evidence of a lattice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import beta, digamma, gammaln

from ..core import ellipse_matrix
from . import Standard

ERROR_DOF = 5.0  # degrees of freedom of Student's t distribution of the errors
REACH_SIGMAS = 7.0  # standard errors; largest distance of a disk from a ring to which it may belong
HEIGHT_SHAPE = 2.5  # shape of the Gamma prior of the number of disks on a ring: a factor of 2, as in simulated scans
ABSENT_VARIANCE = 2.0  # relative variance of this number for one grain: a third of the zone axes show a given ring
# Fraction of the strongest ring; smallest expected height of a ring, since dynamical scattering excites weak and
# forbidden rings. They may be absent or several times as high: in simulated powders of germanium 30 to 200 angstrom
# thick, 222 has 0.2 to 0.35 of the disks of 111, and 200, which needs a zone axis, has none. Shape of the Gamma prior
# of their number of disks.
MIN_EXPECTED_HEIGHT, WEAK_SHAPE = 0.03, 0.5
STRAY_SHAPE, STRAY_PART = 1.0, 0.1  # shape of the Gamma prior of background disks, and their fraction of all disks
ROUNDS = 12  # rounds; number in which the rates are updated


@dataclass(frozen=True)
class RingRates:
    """Rates of disks on rings, and probabilities that disks belong to rings.

    Attributes
    ----------
    evidence : float
        Lower bound of the logarithm of the evidence.
    rings : numpy.ndarray
        (k,), number of disks on each ring.
    levels : numpy.ndarray
        (k,), weights of the rings in the mixture.
    stray : float
        Density of background disks along the radius, 1/pixel.
    disk, ring : numpy.ndarray of int
        (p,), pairs of a disk and a ring to which it may belong.
    belongs : numpy.ndarray
        (p,), probability of each pair.
    log_likelihood : float
        Weighted sum of the logarithm of the mixture.
    """

    evidence: float
    rings: np.ndarray
    levels: np.ndarray
    stray: float
    disk: np.ndarray
    ring: np.ndarray
    belongs: np.ndarray
    log_likelihood: float


def ideal_positions(offset, vector, center, barrel=0.0, threefold=(0.0, 0.0), reference=1.0):
    """Correct positions for the distortions.

    Parameters
    ----------
    offset : numpy.ndarray, shape (m, 2)
        Positions from the origin, pixels.
    vector : array_like, shape (2,)
        Ellipse vector.
    center : array_like, shape (2,)
        Center of the rings from the origin, pixels.
    barrel : float
        Relative change of the radius at `reference`, growing with the square of the radius.
    threefold : array_like, shape (2,)
        Amplitudes of cos 3 phi and sin 3 phi at `reference`, growing with the radius.
    reference : float
        Radius to which the distortions refer, pixels.

    Returns
    -------
    radius, azimuth : numpy.ndarray, shape (m,)
        Ideal polar coordinates in pixels and radians.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.pixel_size.mixture import ideal_positions
    >>> radius, _ = ideal_positions(np.array([[3.0, 4.0]]), (0.0, 0.0), (0.0, 0.0))
    >>> radius.round(6).tolist()
    [5.0]
    """
    x, y = np.linalg.solve(ellipse_matrix(vector), (offset - np.asarray(center)).T)
    measured, azimuth = np.hypot(x, y), np.arctan2(y, x)
    radius = measured
    if barrel or np.any(threefold):
        wave = threefold[0] * np.cos(3 * azimuth) + threefold[1] * np.sin(3 * azimuth)
        for _ in range(5):
            radius = measured / (1 + barrel * (radius / reference) ** 2 + radius / reference * wave)
    return radius, azimuth


def expected_heights(standard: Standard, inside, grains: float = np.inf):
    """Compute the prior of the number of disks on each ring.

    Parameters
    ----------
    standard : Standard
        The crystal.
    inside : numpy.ndarray
        Index of the rings on the detector.
    grains : float, optional
        Number of grains. The zone axis of a single grain shows few rings. A forbidden ring that needs a zone axis is
        expected in one grain.

    Returns
    -------
    fractions : numpy.ndarray, shape (k,)
        Expected fractions of the disks; their sum is 1.
    shapes : numpy.ndarray, shape (k,)
        Shapes of the Gamma priors.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.pixel_size import expected_heights, find_standard
    >>> fractions, shapes = expected_heights(find_standard("Si"), np.arange(5), 100.0)
    >>> fractions.round(4).tolist()  # 111, 200 (forbidden), 220, 311, 222 (twice 111)
    [0.4574, 0.0001, 0.3057, 0.2231, 0.0137]
    """
    heights = standard.intensity[inside]
    shapes = 1 / (1 / np.where(heights < MIN_EXPECTED_HEIGHT, WEAK_SHAPE, HEIGHT_SHAPE) + ABSENT_VARIANCE / grains)
    heights = np.maximum(heights, MIN_EXPECTED_HEIGHT / np.where(standard.common[inside], 1.0, grains))
    return heights / heights.sum(), shapes


def close_pairs(radius, sigma, rings):
    """List the rings to which each disk may belong.

    Parameters
    ----------
    radius, sigma : numpy.ndarray, shape (m,)
        Radii of the disks and their errors, pixels.
    rings : numpy.ndarray, shape (k,)
        Radii of the rings, ascending, pixels.

    Returns
    -------
    disk, ring : numpy.ndarray of int, shape (p,)
        Indices of the disk and the ring of each pair.

    Examples
    --------
    >>> disk, ring = close_pairs(np.array([20.1, 40.0]), np.full(2, 0.1), np.array([20.0, 20.5, 30.0]))
    >>> disk.tolist(), ring.tolist()
    ([0, 0], [0, 1])
    """
    first = np.searchsorted(rings, radius - REACH_SIGMAS * sigma)
    count = np.searchsorted(rings, radius + REACH_SIGMAS * sigma) - first
    disk = np.repeat(np.arange(len(radius)), count)
    return disk, np.arange(len(disk)) - np.repeat(np.cumsum(count) - count, count) + first[disk]


def density_of(difference, sigma) -> np.ndarray:
    """Compute the density of Student's t distribution.

    Parameters
    ----------
    difference, sigma : numpy.ndarray
        Difference from the mean, and width.

    Returns
    -------
    numpy.ndarray
        The density.

    Examples
    --------
    >>> at_mean, far = density_of(np.array([0.0, 1.0]), 0.1)
    >>> round(float(far / at_mean), 5)  # 4e-22 for a normal distribution
    0.00011
    """
    z = (difference / sigma) ** 2 / ERROR_DOF
    at_mean = 1 / (np.sqrt(ERROR_DOF) * beta(0.5, ERROR_DOF / 2))
    return at_mean * np.exp(-(ERROR_DOF + 1) / 2 * np.log1p(z)) / sigma


def fit_rates(radius, sigma, weight, rings, expected, span: float, start: RingRates | None = None,
              rounds: int = ROUNDS) -> RingRates:
    """Fit the rates of disks on rings.

    Parameters
    ----------
    radius, sigma : numpy.ndarray, shape (m,)
        Radii of the disks and their errors, pixels.
    weight : numpy.ndarray, shape (m,)
        Weight of each disk: disks of the same reflection at neighboring positions have a total weight of 1.
    rings : numpy.ndarray, shape (k,)
        Radii of the rings, ascending, pixels.
    expected : tuple of numpy.ndarray, shape (k,)
        Expected fraction of the disks on each ring, and shape of its Gamma prior, from `expected_heights`.
    span : float
        Range of radii, pixels.
    start : RingRates, optional
        Start values of the rates.
    rounds : int
        Number of rounds.

    Returns
    -------
    RingRates
        The rates.

    Examples
    --------
    >>> radius, one = np.array([20.0, 30.0, 20.1, 25.0]), np.ones(4)
    >>> rates = fit_rates(radius, 0.1 * one, one, np.array([20.0, 30.0]), (np.full(2, 0.5), np.full(2, 2.5)), 30.0)
    >>> rates.rings.round(1).tolist()
    [2.0, 1.0]
    """
    levels, stray = (None, None) if start is None else (start.levels, np.array([start.stray * span]))
    return _iterated(radius, sigma, weight, [rings], [expected], span, rounds, levels, stray)[1]


def scan_evidence(radius, sigma, weight, rings, expected, span: float, rounds: int = ROUNDS) -> np.ndarray:
    """Compute the evidence of many lattices or pixel sizes at once, which is faster than `fit_rates` for each.

    Parameters
    ----------
    radius, sigma, weight : numpy.ndarray, shape (m,)
        The disks, as for `fit_rates`.
    rings : list of numpy.ndarray
        Radii of the rings of each, ascending, pixels.
    expected : list of tuple of numpy.ndarray
        Prior of the rings of each, as for `fit_rates`.
    span : float
        Range of radii, pixels.
    rounds : int
        Number of rounds.

    Returns
    -------
    numpy.ndarray, shape (n,)
        The evidence of each.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.pixel_size.mixture import scan_evidence
    >>> radius, one = np.array([20.0, 30.0, 20.1]), np.ones(3)
    >>> prior = np.full(2, 0.5), np.full(2, 2.5)
    >>> right, wrong = scan_evidence(radius, 0.1 * one, one, [np.array([20, 30]), np.array([22, 33])], [prior] * 2, 30)
    >>> bool(right > wrong)
    True
    """
    return _iterated(radius, sigma, weight, rings, expected, span, rounds)[0]


def _iterated(radius, sigma, weight, rings, expected, span, rounds, levels=None, stray=None):
    """Evidence of each of n sets of rings, and the rates of all sets in one `RingRates`."""
    m, n = len(radius), len(rings)
    owner = np.repeat(np.arange(n), [len(r) for r in rings])  # set of each ring
    rings, fractions, shapes = (np.concatenate(v) for v in (rings, *zip(*expected, strict=True)))
    # The sets lie at radii that are far apart, so that the pairs of all sets are found at once.
    apart = 2 * float(np.max(np.r_[radius + REACH_SIGMAS * sigma, rings], initial=1.0)) * np.arange(n)
    disk, ring = close_pairs(np.add.outer(apart, radius).ravel(), np.tile(sigma, n), rings + apart[owner])
    number = disk % max(m, 1)
    density = density_of(radius[number] - rings[ring], sigma[number])
    total, k = float(weight.sum()), len(rings)
    rate = shapes / np.maximum((1 - STRAY_PART) * total * fractions, 1e-12)
    stray_rate = STRAY_SHAPE / (STRAY_PART * total)
    levels = shapes / rate if levels is None else levels
    stray = np.full(n, STRAY_PART * total) if stray is None else stray
    for _ in range(rounds):
        ring_density = levels[ring] * density
        total_density = np.bincount(disk, ring_density, m * n) + np.repeat(stray / span, m)
        counts = np.bincount(ring, ring_density / total_density[disk] * weight[number], k)
        outside = np.maximum(total - np.bincount(owner, counts, n), 0.0)
        levels = np.exp(digamma(shapes + counts)) / (rate + 1)
        stray = np.exp(digamma(STRAY_SHAPE + outside)) / (stray_rate + 1)
    ring_density = levels[ring] * density
    total_density = np.bincount(disk, ring_density, m * n) + np.repeat(stray / span, m)
    likelihood = np.log(total_density).reshape(n, m) @ weight
    evidence = (likelihood - np.bincount(owner, _divergence(shapes, rate, counts), n)
                - _divergence(STRAY_SHAPE, stray_rate, outside))
    return evidence, RingRates(float(evidence[0]), counts, levels, float(stray[0]) / span, disk, ring,
                               ring_density / total_density[disk], float(likelihood[0]))


def _divergence(shape, rate, counts):
    """Expected counts, and the Kullback-Leibler divergence of posterior Gamma rates from the prior."""
    a, b = shape + counts, rate + 1
    return (a / b + counts * digamma(a) - gammaln(a) + gammaln(shape) + shape * np.log(b / rate)
            + a * (rate - b) / b)
