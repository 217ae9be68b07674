"""Joint fit of pixel size, ellipse, rotation, center and higher distortions to the lattice of the disks of one crystal.

Each place of the lattice has an error of its own, since contrast inside a disk moves it in all patterns alike. The
covariance is that of these errors. If the lattice varies over the scan more than the disks of its parts scatter, as in
a bent or strained crystal, the variation is added, since the mean need not be the lattice of the standard.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import f as f_law

from ..core import ellipse_matrix
from . import (
    COMMON_ERRORS_PX,
    DISTORTION_SIGMA,
    ERROR_DOF,
    MIN_POSTERIOR,
    PARTS_SIDE,
    SPOT_CENTER_SIGMA_PX,
    TYPICAL_ERROR_PX,
    JointFit,
    Match,
    ProfileFit,
    RadialProfile,
    Spots,
    Standard,
    State,
    density_of,
    on_lattice,
)

# Fraction of the standard error of a disk by which contrast moves all disks inward alike: 0.20 at 300 and 0.25 at 3,000
# electrons per pattern (benchmarks/pixel_size.py --crystals, seed 12).
COMMON_PART = 0.2


class _Places:
    """Mean positions of the disks at the places of a lattice."""

    def __init__(self, spots: Spots, match: Match):
        on = on_lattice(spots, match.lattice)
        self.fraction, self.spots = float(on.mean()), spots.subset(on)
        self.index, number = np.unique(match.lattice.indices(self.spots.offset), axis=0, return_inverse=True)
        self.number = number.ravel()
        self.weight = 1 / self.spots.sigma**2
        total = self.sums(self.weight)
        self.mean = self.sums(self.weight * self.spots.offset) / total
        self.variance = 1 / total
        self.g = self.index @ match.crystal.T

    def sums(self, values):
        return np.stack([np.bincount(self.number, v, len(self.index)) for v in values.T], 1)


def _positions(g, parameters, names, reference):
    """Positions (m, 2) of reflections g (m, 2), with a scale, ellipse, rotation, center, and distortions."""
    p = dict(zip(names, parameters, strict=True))
    c, s = np.cos(p["turn"]), np.sin(p["turn"])
    flat = g @ np.array([[c, s], [-s, c]]) / np.exp(p["scale"])
    radius, azimuth = np.hypot(*flat.T) / reference, np.arctan2(flat[:, 1], flat[:, 0])
    wave = p.get("three0", 0.0) * np.cos(3 * azimuth) + p.get("three1", 0.0) * np.sin(3 * azimuth)
    flat = flat * (1 + p.get("barrel", 0.0) * radius**2 + radius * wave)[:, None]
    return flat @ ellipse_matrix([p["v0"], p["v1"]]).T + [p["x"], p["y"]]


def _slopes(g, parameters, names, reference):
    size = 1e-5  # in the units of the parameters
    steps = size * np.eye(len(names))
    sides = [[_positions(g, parameters + sign * step, names, reference) for sign in (1, -1)] for step in steps]
    return np.stack([(high - low) / (2 * size) for high, low in sides], -1)


def fit_lattice(spots: Spots, standard: Standard, match: Match, start: State, extra=()) -> JointFit:
    """Fit pixel size, ellipse, rotation, center and distortions to the disks on a lattice.

    Parameters
    ----------
    spots : Spots
        The disks.
    standard : Standard
        The crystal.
    match : Match
        The zone axis and the lattice, from `assign_lattice`.
    start : State
        Prior of the ellipse, and reference radius.
    extra : tuple of str
        Additional parameters: "barrel", and "three0" with "three1".

    Returns
    -------
    JointFit
        The fit. Its profile is the density of disks along the radius.

    Examples
    --------
    >>> from py4dstem_prenet.pixel_size import Shape, find_standard, matches
    >>> from py4dstem_prenet.pixel_size.lattice import Lattice
    >>> index, rng = np.array([(i, j) for i in range(-2, 3) for j in range(-2, 3) if i or j]), np.random.default_rng(0)
    >>> square = np.array([[26.3, 0.0], [0.0, 26.0]])
    >>> offset, number, shape = index @ square + rng.normal(0, 0.05, (24, 2)), np.arange(24), Shape(0.05, 1.0)
    >>> spots = Spots(offset, np.full((24, 2), 0.05), 0 * number, np.zeros((24, 2), int), number, np.ones(24, int),
    ...               12.0, 1.0)
    >>> start = State(1.0, np.zeros(2), np.zeros(2), shape, 0.0, np.zeros(2), 64.0, spots.span, shape, 4e-4 * np.eye(2))
    >>> silicon, found = find_standard("Si"), Lattice(square, np.zeros(2), 1e-4 * np.eye(2), 0.0)
    >>> match = matches([found], silicon, np.zeros(2), 4e-4 * np.eye(2))[0]
    >>> fit = fit_lattice(spots, silicon, match, start)
    >>> round(fit.scale, 4), fit.vector.round(2).tolist(), fit.sigma("v0") < 0.005
    (0.0199, [0.01, 0.0], True)
    """
    names, places = ("scale", "v0", "v1", "turn", "x", "y", *extra), _Places(spots, match)  # turn: radians
    prior, middle = _prior(names, start)
    parameters = middle.copy()
    parameters[0], parameters[1:3] = np.log(match.scale), match.vector
    # The rotation: that of the linear map without its ellipse, which may be a reflection as well.
    linear = match.scale * match.lattice.basis @ np.linalg.inv(match.crystal)
    turn = np.linalg.inv(ellipse_matrix(match.vector)) @ linear
    if np.linalg.det(turn) < 0:
        places.g = places.g * (1, -1)
        turn = turn * (1, -1)
    parameters[3] = np.arctan2(turn[1, 0], turn[0, 0])
    error, freedom = TYPICAL_ERROR_PX, np.ones(len(places.mean))
    for _ in range(12):
        variance = places.variance + error**2
        design = _slopes(places.g, parameters, names, start.reference)
        rest = places.mean - _positions(places.g, parameters, names, start.reference)
        freedom = (ERROR_DOF + 1) / (ERROR_DOF + (rest**2 / variance).mean(1))
        weight = freedom[:, None] / variance
        normal = np.einsum("mip,mi,miq->pq", design, weight, design) + prior
        step = np.linalg.solve(normal, np.einsum("mip,mi->p", design, weight * rest) - prior @ (parameters - middle))
        parameters = parameters + step
        rest = rest - design @ step
        error = _common_error(rest, places.variance, design, prior)
        if np.abs(step[:3]).max() < 1e-7:
            break
    covariance, p = np.linalg.inv(normal), dict(zip(names, parameters, strict=True))
    radius = np.average(np.hypot(*places.mean.T), weights=1 / variance.mean(1))
    covariance[0, 0] += (COMMON_PART * np.median(places.spots.sigma) / radius) ** 2
    scale, vector = float(np.exp(p["scale"])), parameters[1:3]
    varied = _variation(places, design, names)
    center = parameters[4:6]
    flat = (places.spots.offset - center) @ np.linalg.inv(ellipse_matrix(vector)).T
    errors, sigmas, heights = _ring_errors(places, rest, variance, standard, center)
    variation = float(np.sqrt(varied[0, 0] + (varied[1, 1] + varied[2, 2]) / 4))  # of a principal strain
    profile, fitted = _profile(np.hypot(*flat.T), places.spots.sigma.mean(1), standard.g / scale, error)
    return JointFit(scale, vector, center, start.shape, p.get("barrel", 0.0),
                    np.array([p.get("three0", 0.0), p.get("three1", 0.0)]), names, covariance, profile,
                    ProfileFit(scale, heights, fitted, np.zeros(len(fitted)), 0.0, 0.0, int((heights > 0).sum()),
                               profile.mean - fitted),
                    errors, sigmas, variation, places.fraction)


def _prior(names, start):
    """Inverse covariance and mean of the prior."""
    prior, middle = np.zeros((len(names),) * 2), np.zeros(len(names))
    prior[1:3, 1:3] = np.linalg.inv(start.vector_covariance)
    middle[1:3] = start.vector if start.nominal_vector is None else start.nominal_vector
    prior[4, 4] = prior[5, 5] = 1 / SPOT_CENTER_SIGMA_PX**2
    for k in range(names.index("y") + 1, len(names)):
        prior[k, k] = DISTORTION_SIGMA**-2
    return prior, middle


def _common_error(rest, variance, design, prior):
    """Error of each place in addition to that of its disks: the largest restricted likelihood with a prior."""
    tried = []
    for error in COMMON_ERRORS_PX:
        total = variance + error**2
        normal = np.einsum("mip,mi,miq->pq", design, 1 / total, design) + prior
        tried.append(-0.5 * (np.log(total) + rest**2 / total).sum() - 0.5 * np.linalg.slogdet(normal)[1]
                     - np.log1p((error / TYPICAL_ERROR_PX) ** 2))
    return COMMON_ERRORS_PX[int(np.argmax(tried))]


def _variation(places, design, names):
    """Covariance (3, 3) of log(pixel size) and ellipse vector over the parts of a scan, beyond that of errors.

    In each part, the displacements of all places from their means over the scan are fitted by the same parameters as in
    the whole scan. Their sum of squares is compared with that of the remaining displacements (F test).
    """
    spots, part = places.spots, np.unique(places.spots.parts(PARTS_SIDE), return_inverse=True)[1].ravel()
    moved = spots.offset - places.mean[places.number]
    # Disks of weak reflections have errors with tails, which would count as a variation.
    weights_of = places.weight * (ERROR_DOF + 1) / (ERROR_DOF + moved**2 * places.weight)
    found, freedom, remaining, weights = [], 0, 0.0, []
    for k in range(int(part.max()) + 1):
        at = np.flatnonzero(part == k)
        number = places.number[at]
        if len(np.unique(number)) <= 2:
            continue
        columns = design[number][..., : names.index("y") + 1]
        weight = weights_of[at]
        normal = np.einsum("mip,mi,miq->pq", columns, weight, columns)
        if np.linalg.cond(normal / np.sqrt(np.outer(np.diag(normal), np.diag(normal)))) > 1e8:
            continue
        change = np.linalg.solve(normal, np.einsum("mip,mi->p", columns, weight * moved[at]))
        rest = moved[at] - columns @ change
        found.append(change[:3])
        weights.append(np.linalg.inv(normal)[:3, :3])
        remaining += float((weight * rest**2).sum())
        freedom += rest.size - len(change)
    if len(found) < 2 or freedom < 1:
        return np.zeros((3, 3))
    changes, noise = np.array(found), np.array(weights)
    scatter = remaining / freedom
    sum_squares = float(np.einsum("ki,kij,kj->", changes, np.linalg.inv(noise), changes))
    count = 3 * (len(changes) - 1)
    if sum_squares / count / scatter < f_law.ppf(MIN_POSTERIOR, count, freedom):
        return np.zeros((3, 3))
    excess = changes.T @ changes / len(changes) - scatter * noise.mean(0)
    values, axes = np.linalg.eigh(excess)
    return axes @ np.diag(np.maximum(values, 0)) @ axes.T


def _ring_errors(places, rest, variance, standard, center):
    """Relative error of the radius of each ring, its standard error, and the number of places on it."""
    count = len(standard.g)
    errors, sigmas = np.full(count, np.nan), np.full(count, np.nan)
    ring = np.abs(np.linalg.norm(places.g, axis=1)[:, None] - standard.g).argmin(1)
    measured = places.mean - center
    radius = np.hypot(*measured.T)
    along = (rest * measured).sum(1) / radius**2
    weight = radius**2 / variance.mean(1)
    for k in np.unique(ring):
        at = ring == k
        errors[k] = np.average(along[at], weights=weight[at])
        sigmas[k] = 1 / np.sqrt(weight[at].sum())
    return errors, sigmas, np.bincount(ring, minlength=count).astype(float)


def _profile(radius, sigma, rings, error):
    """Density of disks along the radius, and what it would be if each disk were on the nearest ring but for errors."""
    blur = np.hypot(error, 2 * TYPICAL_ERROR_PX)
    radii = np.arange(radius.min() - 2, radius.max() + 2, 0.25)
    density = density_of(radii[:, None] - radius, blur).mean(1)
    nearest = rings[np.abs(radius[:, None] - rings).argmin(1)]
    fitted = density_of(radii[:, None] - nearest, np.hypot(blur, sigma)).mean(1)
    return RadialProfile(radii, density, np.maximum(density, 1e-300), density[None], np.ones((1, len(radii)))), fitted
