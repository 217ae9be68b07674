"""Likelihood of the positions of disks: a mixture of the rings of a crystal and of disks that belong to none.

A disk of a ring lies at its radius with the error of its position and a common error that the model of disks has,
both with the tails of Student's distribution. The number of disks on each ring has a Gamma prior about the kinematic
expectation, so that the evidence of a lattice is that of a Poisson process with unknown rates, and its lower bound
follows from a few rounds (Bishop, Pattern Recognition and Machine Learning, 2006, ch. 10). Rings without disks, and
disks without rings, count against a lattice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import digamma, gammaln

from ..core import ellipse_matrix
from . import Standard

ERROR_DOF = 5.0  # degrees of freedom of the errors
REACH_SIGMAS = 7.0  # standard errors between a disk and a ring to which it may belong
HEIGHT_SHAPE = 2.5  # shape of the Gamma prior of the number of disks on a ring: a factor of 2, as of simulated scans
MIN_EXPECTED_HEIGHT = 0.03  # of the strongest ring, for the expectation: dynamical scattering excites weak rings
STRAY_SHAPE, STRAY_PART = 1.0, 0.1  # Gamma prior of the disks that belong to no ring, and their part of all disks
ROUNDS = 12  # rounds of the rates
_LOG_STUDENT = gammaln((ERROR_DOF + 1) / 2) - gammaln(ERROR_DOF / 2) - 0.5 * np.log(np.pi * ERROR_DOF)


@dataclass(frozen=True)
class RingRates:
    """Rates of disks on rings, and who belongs to which.

    Attributes
    ----------
    evidence : float
        Lower bound of the logarithm of the evidence.
    rings : numpy.ndarray
        (k,), disks on each ring.
    levels : numpy.ndarray
        (k,), weights of the rings in the mixture.
    stray : float
        Density of stray disks along the radius, 1/pixel.
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
    """Take the distortions out of positions.

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
        Pixels.

    Returns
    -------
    radius, azimuth : numpy.ndarray, shape (m,)
        Pixels and radians.

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


def expected_heights(standard: Standard, inside) -> np.ndarray:
    """Compute the expected parts of disks on the rings.

    Parameters
    ----------
    standard : Standard
        The crystal.
    inside : numpy.ndarray
        Index of the rings on the detector.

    Returns
    -------
    numpy.ndarray, shape (k,)
        Their sum is 1.
    """
    heights = np.maximum(standard.intensity[inside], MIN_EXPECTED_HEIGHT * standard.intensity.max())
    return heights / heights.sum()


def close_pairs(radius, sigma, rings):
    """List the rings to which each disk may belong.

    Parameters
    ----------
    radius, sigma : numpy.ndarray, shape (m,)
        Radii and their errors, pixels.
    rings : numpy.ndarray, shape (k,)
        Radii of the rings, ascending, pixels.

    Returns
    -------
    disk, ring : numpy.ndarray of int, shape (p,)
        Pairs.
    """
    first = np.searchsorted(rings, radius - REACH_SIGMAS * sigma)
    count = np.searchsorted(rings, radius + REACH_SIGMAS * sigma) - first
    disk = np.repeat(np.arange(len(radius)), count)
    return disk, np.arange(len(disk)) - np.repeat(np.cumsum(count) - count, count) + first[disk]


def density_of(difference, sigma) -> np.ndarray:
    """Compute the density of Student's distribution.

    Parameters
    ----------
    difference, sigma : numpy.ndarray
        Distance from the middle, and width.

    Returns
    -------
    numpy.ndarray
        The density.
    """
    z = (difference / sigma) ** 2 / ERROR_DOF
    return np.exp(_LOG_STUDENT - (ERROR_DOF + 1) / 2 * np.log1p(z)) / sigma


def fit_rates(radius, sigma, weight, rings, expected, span: float, start: RingRates | None = None,
              rounds: int = ROUNDS) -> RingRates:
    """Find the rates of disks on rings.

    Parameters
    ----------
    radius, sigma : numpy.ndarray, shape (m,)
        Radii and their errors, pixels.
    weight : numpy.ndarray, shape (m,)
        Weight of each disk: disks that show the same reflection at neighboring positions count as one.
    rings : numpy.ndarray, shape (k,)
        Radii of the rings, ascending, pixels.
    expected : numpy.ndarray, shape (k,)
        Expected parts of the disks.
    span : float
        Range of radii, pixels.
    start : RingRates, optional
        Rates that were found before.
    rounds : int
        Rounds.

    Returns
    -------
    RingRates
        The rates.
    """
    disk, ring = close_pairs(radius, sigma, rings)
    density = density_of(radius[disk] - rings[ring], sigma[disk])
    total, k, m = float(weight.sum()), len(rings), len(radius)
    rate = HEIGHT_SHAPE / np.maximum((1 - STRAY_PART) * total * expected, 1e-12)
    stray_rate = STRAY_SHAPE / (STRAY_PART * total)
    levels = start.levels if start is not None else HEIGHT_SHAPE / rate
    stray = start.stray * span if start is not None else STRAY_PART * total
    for _ in range(rounds):
        part = levels[ring] * density
        whole = np.bincount(disk, part, m) + stray / span
        belongs = part / whole[disk]
        counts = np.bincount(ring, belongs * weight[disk], k)
        rest = max(total - counts.sum(), 0.0)
        levels = np.exp(digamma(HEIGHT_SHAPE + counts)) / (rate + 1)
        stray = float(np.exp(digamma(STRAY_SHAPE + rest)) / (stray_rate + 1))
    part = levels[ring] * density
    whole = np.bincount(disk, part, m) + stray / span
    likelihood = float(weight @ np.log(whole))
    bound = likelihood - _divergence(HEIGHT_SHAPE, rate, counts) - _divergence(STRAY_SHAPE, stray_rate, rest)
    return RingRates(bound, counts, levels, stray / span, disk, ring, part / whole[disk], likelihood)


def _divergence(shape, rate, counts):
    """Expected counts, and Kullback-Leibler divergence of the posterior of Gamma rates from the prior, summed."""
    a, b = shape + counts, rate + 1
    return float(np.sum(a / b + counts * digamma(a) - gammaln(a) + gammaln(shape) + shape * np.log(b / rate)
                        + a * (rate - b) / b))
