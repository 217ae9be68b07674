"""Joint fit of pixel size, ellipse, center and higher distortions to the positions of disks, with covariance.

Each step is a Gauss-Newton step, weighted by the probabilities that disks belong to rings (`mixture.py`). Thin crystals
also diffract away from the Bragg condition: the disk of a reflection at a distance h from the plane of the pattern lies
at sqrt(g^2 - h^2). Rings of small |g| therefore appear smaller, on average by a fraction <h^2> / (2 g^2); <h^2> is
fitted with a prior. The covariance is the largest of three: that of the likelihood, and those from the scatter of its
slopes over reflections and over parts of the scan (sandwich estimators; White, Econometrica 50, 1 (1982)).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from . import (
    DISTORTION_SIGMA,
    ERROR_DOF,
    MIN_PARTS,
    TYPICAL_ERROR_PX,
    JointFit,
    ProfileFit,
    RadialProfile,
    RingRates,
    Spots,
    Standard,
    State,
    close_pairs,
    density_of,
    expected_heights,
    fit_rates,
    ideal_positions,
    larger_covariance,
    lattice_variation,
)

# 1/angstrom^2; mean and sigma of the prior of <h^2>, for crystals of 60 to 200 angstrom.
EXCITATION, EXCITATION_SIGMA = 1.5e-4, 1.2e-4
COMMON_ERRORS_PX = (0.0, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5, 0.8)  # pixels; common errors that are tried
SPOT_CENTER_SIGMA_PX = 0.5  # pixels; sigma of the prior of the center of the rings about the origin
LARGEST_STEP = 0.004  # relative; largest change of the pixel size in one step
SPOT_NAMES = ("scale", "v0", "v1", "x", "y", "excitation")  # parameters of every fit
# Differences of the parameters, in their units, from which the curvature of the likelihood is computed; that of a
# distortion is 1e-3.
DIFFERENCES = {"scale": 1e-4, "v0": 1e-3, "v1": 1e-3, "x": 0.02, "y": 0.02, "excitation": 2e-5}
PARTS_SIDE = 4  # parts along each axis of the scan, whose scatter is used for the covariance


@dataclass(frozen=True)
class SpotFit:
    """Result of `fit_spots`.

    Attributes
    ----------
    state : State
        The parameters; `center` is relative to the origin.
    excitation : float
        <h^2>, 1/angstrom^2.
    common_error : float
        Error of positions in addition to the stated errors, pixels.
    names : tuple of str
        Names of the parameters.
    covariance : numpy.ndarray
        (p, p), covariance of the parameters; the parameter "scale" is log(pixel size).
    rates : RingRates
        Rates of the disks on the rings.
    inside : numpy.ndarray of int
        (k,), indices of these rings in the standard.
    evidence : float
        Logarithm of the evidence, including the prior of the fitted parameters.
    ring_errors, ring_sigmas : numpy.ndarray
        For all rings of the standard, relative difference between measured and predicted radius, and its standard
        error; NaN for rings without disks.
    variation : float
        Relative variation of the lattice over the scan, rms, if it is significant.
    """

    state: State
    excitation: float
    common_error: float
    names: tuple[str, ...]
    covariance: np.ndarray
    rates: RingRates
    inside: np.ndarray
    evidence: float
    ring_errors: np.ndarray
    ring_sigmas: np.ndarray
    variation: float = 0.0


class _Model:
    """Likelihood of the positions for one set of parameters."""

    def __init__(self, spots: Spots, standard, state, excitation, error, inside, span, names):
        self.spots, self.state, self.names, self.span = spots, state, names, span
        self.radius, self.azimuth = ideal_positions(
            spots.offset, state.vector, state.center, state.barrel, state.threefold, state.reference)
        self.g = standard.g[inside]
        self.rings = self.g / state.scale * (1 - excitation / (2 * self.g**2))
        self.own_variance = spots.spread(self.radius, self.azimuth) ** 2
        self.weight = 1 / spots.size
        self.set_error(error)

    def set_error(self, error):
        self.variance = self.own_variance + error**2
        # An error that is common to the disks of one reflection does not average out.
        self.shared_variance = self.own_variance + self.spots.size * error**2

    def rates(self, expected, start=None, rounds=3):
        return fit_rates(self.radius, np.sqrt(self.variance), self.weight, self.rings, expected, self.span, start,
                         rounds)

    def likelihood(self, rates):
        disk, ring = close_pairs(self.radius, np.sqrt(self.variance), self.rings)
        density = density_of(self.radius[disk] - self.rings[ring], np.sqrt(self.variance[disk]))
        total_density = np.bincount(disk, rates.levels[ring] * density, len(self.radius)) + rates.stray
        return float(self.weight @ np.log(total_density))

    def slopes(self, rates):
        """Slope (m, p) of the log likelihood of each disk, design matrix of the pairs, and weight of each pair."""
        disk, ring = close_pairs(self.radius, np.sqrt(self.variance), self.rings)
        difference = self.radius[disk] - self.rings[ring]
        ring_density = rates.levels[ring] * density_of(difference, np.sqrt(self.variance[disk]))
        total_density = np.bincount(disk, ring_density, len(self.radius)) + rates.stray
        z = difference**2 / self.variance[disk]
        weight = ring_density / total_density[disk] * (ERROR_DOF + 1) / (ERROR_DOF + z) / self.shared_variance[disk]
        columns = np.stack([self._column(name, disk, ring) for name in self.names], 1)
        slopes = np.zeros((len(self.radius), len(self.names)))
        for k in range(len(self.names)):
            slopes[:, k] = -np.bincount(disk, weight * difference * columns[:, k], len(self.radius))
        return slopes, columns, weight, disk, ring, difference

    def _column(self, name, disk, ring):
        """Derivative of (radius of disk - radius of ring) with respect to a parameter."""
        r, phi, s = self.radius[disk], self.azimuth[disk], self.state
        relative_radius = r / s.reference
        if name == "scale":  # derivative with respect to log(pixel size)
            return self.rings[ring]
        if name == "excitation":
            return 1 / (2 * self.g[ring] * s.scale)
        return {"v0": lambda: -r / 2 * np.cos(2 * phi), "v1": lambda: -r / 2 * np.sin(2 * phi),
                "x": lambda: -np.cos(phi), "y": lambda: -np.sin(phi), "barrel": lambda: -r * relative_radius**2,
                "three0": lambda: -r * relative_radius * np.cos(3 * phi),
                "three1": lambda: -r * relative_radius * np.sin(3 * phi)}[name]()


def fit_spots(spots: Spots, standard: Standard, start: State, span: float, extra=(), steps: int = 40,
              complete: bool = True) -> SpotFit:
    """Fit pixel size, ellipse, center and distortions to positions of disks.

    Parameters
    ----------
    spots : Spots
        The positions.
    standard : Standard
        The crystal.
    start : State
        Start of the parameters; its `center` is relative to the origin.
    span : float
        Range of radii, pixels.
    extra : tuple of str
        Additional parameters: "barrel", and "three0" with "three1".
    steps : int
        Largest number of steps.
    complete : bool
        Whether covariance and errors of rings are needed.

    Returns
    -------
    SpotFit
        The fit.

    Examples
    --------
    >>> from py4dstem_prenet.pixel_size import Shape, find_standard
    >>> gold, rng, number = find_standard("Au"), np.random.default_rng(0), np.arange(60)
    >>> ring = rng.choice(8, 60, p=gold.intensity[:8] / gold.intensity[:8].sum())
    >>> radius, phi = gold.g[ring] / 0.02, rng.uniform(0, 2 * np.pi, 60)
    >>> offset = (radius * [np.cos(phi), np.sin(phi)]).T + rng.normal(0, 0.1, (60, 2))
    >>> spots = Spots(offset, np.full((60, 2), 0.1), number, np.stack(np.divmod(number, 8), 1), number,
    ...               np.ones(60, int), 10.0, 60.0)
    >>> start = State(0.0201, np.zeros(2), np.zeros(2), Shape(0.05, 1.0), 0.0, np.zeros(2), 64.0, spots.span,
    ...               Shape(0.05, 1.0), 1e-6 * np.eye(2))
    >>> fit = fit_spots(spots, gold, start, 50.0)
    >>> bool(abs(np.log(fit.state.scale / 0.02)) < 4 * fit.covariance[0, 0] ** 0.5 < 0.004)
    True
    """
    names = (*SPOT_NAMES, *extra)
    middle = start if start.nominal_vector is not None else replace(start, nominal_vector=start.vector)
    prior = _prior(names, middle)
    measured = np.hypot(*spots.offset.T)
    predicted = standard.g / start.scale
    inside = np.flatnonzero((predicted > measured.min() * 0.95) & (predicted < measured.max() * 1.05))
    expected = expected_heights(standard, inside, spots.grains)
    state, excitation, error, rates = middle, EXCITATION, 0.3, None
    arguments = (inside, span, names)
    for step in range(steps):
        model = _Model(spots, standard, state, excitation, error, *arguments)
        rates = model.rates(expected, rates, 4 if rates is None else 2)
        slopes, columns, weight, *_ = model.slopes(rates)
        normal = (columns * weight[:, None]).T @ columns + prior
        right = slopes.sum(0) - prior @ _off(names, state, excitation, middle)
        delta = np.linalg.solve(normal + 1e-12 * np.diag(np.diag(normal)), right)
        state, excitation = _moved(names, state, excitation, delta)
        if step % 2 == 0:
            error = _common_error(spots, standard, state, excitation, rates, arguments)
        if abs(delta[0]) < 1e-6 and step > 8:  # converged
            break
    model = _Model(spots, standard, state, excitation, error, *arguments)
    rates = model.rates(expected, rates, 8)
    offset = _off(names, state, excitation, middle)
    evidence = rates.evidence - 0.5 * float(offset @ prior @ offset) - np.log1p((error / TYPICAL_ERROR_PX) ** 2)
    if not complete:
        unknown = np.full(len(standard.g), np.nan)
        return SpotFit(state, excitation, error, names, np.full((len(names),) * 2, np.nan), rates, inside, evidence,
                       unknown, unknown)
    covariance = _covariance(model, rates, prior, spots, standard, excitation, error, arguments)
    errors, sigmas = _ring_errors(model, rates, spots, inside, len(standard.g))
    radius, weight = model.rings[rates.ring], rates.belongs / model.variance[rates.disk]
    change = model.radius[rates.disk] / radius - 1
    variation = lattice_variation(spots, rates.disk, rates.ring, change, weight * radius**2)
    return SpotFit(state, excitation, error, names, covariance, rates, inside, evidence, errors, sigmas, variation)


def _prior(names, state):
    prior = np.zeros((len(names),) * 2)
    prior[0, 0] = 1.0  # of the logarithm of the scale, which is otherwise free if no disk lies on a ring
    k = [names.index("v0"), names.index("v1")]
    prior[np.ix_(k, k)] = np.linalg.inv(state.vector_covariance)
    for name in ("x", "y"):
        prior[(names.index(name),) * 2] = 1 / SPOT_CENTER_SIGMA_PX**2
    prior[(names.index("excitation"),) * 2] = 1 / EXCITATION_SIGMA**2
    for name in names[len(SPOT_NAMES):]:
        prior[(names.index(name),) * 2] = DISTORTION_SIGMA**-2
    return prior


def _off(names, state, excitation, middle):
    """Difference of the parameters from the mean of their prior."""
    offset = np.zeros(len(names))
    offset[1:3] = state.vector - middle.nominal_vector
    offset[3:5] = state.center
    offset[5] = excitation - EXCITATION
    distortions = {"barrel": state.barrel, "three0": state.threefold[0], "three1": state.threefold[1]}
    offset[6:] = [distortions[name] for name in names[len(SPOT_NAMES):]]
    return offset


def _moved(names, state, excitation, delta):
    d = dict(zip(names, delta, strict=True))
    three = np.array([d.get("three0", 0.0), d.get("three1", 0.0)])
    moved = replace(
        state, scale=state.scale * float(np.exp(np.clip(d["scale"], -LARGEST_STEP, LARGEST_STEP))),
        vector=state.vector + np.clip(delta[1:3], -0.01, 0.01), center=state.center + np.clip(delta[3:5], -0.5, 0.5),
        barrel=state.barrel + float(np.clip(d.get("barrel", 0.0), -0.01, 0.01)),
        threefold=state.threefold + np.clip(three, -0.01, 0.01))
    return moved, max(excitation + float(d["excitation"]), 0.0)


def _common_error(spots, standard, state, excitation, rates, arguments):
    model, tried = _Model(spots, standard, state, excitation, 0.0, *arguments), []
    for error in COMMON_ERRORS_PX:
        model.set_error(error)
        tried.append(model.likelihood(rates) - np.log1p((error / TYPICAL_ERROR_PX) ** 2))
    return COMMON_ERRORS_PX[int(np.argmax(tried))]


def _covariance(model, rates, prior, spots, standard, excitation, error, arguments):
    names = model.names
    slopes = model.slopes(rates)[0]
    curvature = np.zeros((len(names),) * 2)
    for k, name in enumerate(names):
        step, delta = DIFFERENCES.get(name, 1e-3), np.zeros(len(names))
        sides = []
        for sign in (1, -1):
            delta[k] = sign * step
            state, moved = _moved(names, model.state, excitation, delta)
            if name == "excitation":
                moved = excitation + sign * step
            sides.append(_Model(spots, standard, state, moved, error, *arguments).slopes(rates)[0].sum(0))
        curvature[k] = (sides[1] - sides[0]) / (2 * step)
    curvature = (curvature + curvature.T) / 2 + prior
    values, vectors = np.linalg.eigh(curvature / np.sqrt(np.outer(np.diag(curvature), np.diag(curvature))))
    scale = np.sqrt(np.abs(np.diag(curvature)))
    inverse = vectors @ np.diag(1 / np.maximum(values, 1e-6)) @ vectors.T / np.outer(scale, scale)
    estimates = [inverse]
    for group, least in ((spots.reflection, 2), (spots.parts(PARTS_SIDE), MIN_PARTS)):
        number = np.unique(group, return_inverse=True)[1]
        count = int(number.max()) + 1
        if count >= least:
            sums = np.stack([np.bincount(number, column, count) for column in slopes.T], 1)
            estimates.append(inverse @ (sums.T @ sums * count / (count - 1) + prior) @ inverse)
    return larger_covariance(estimates)


def _ring_errors(model, rates, spots, inside, count):
    """Relative error of the radius of each ring, and its standard error."""
    _, _, weight, disk, ring, difference = model.slopes(rates)
    errors, sigmas = np.full(count, np.nan), np.full(count, np.nan)
    for k in np.unique(ring):
        at = ring == k
        total = weight[at].sum()
        if rates.rings[k] < 1 or not total > 0:
            continue
        mean = float((weight[at] * difference[at]).sum() / total)
        number = np.unique(spots.reflection[disk[at]], return_inverse=True)[1]
        sums = np.bincount(number, weight[at] * (difference[at] - mean))
        n = len(sums)
        scatter = float((sums**2).sum()) * n / max(n - 1, 1) / total**2
        errors[inside[k]] = mean / model.rings[k]
        sigmas[inside[k]] = np.sqrt(max(scatter, 1 / total)) / model.rings[k]
    return errors, sigmas


def joint_of(fit: SpotFit, spots: Spots, standard: Standard) -> JointFit:
    """Convert a fit of positions to a `JointFit`, with the density of disks along the radius as its profile.

    Parameters
    ----------
    fit : SpotFit
        The fit.
    spots : Spots
        The disks.
    standard : Standard
        The crystal.

    Returns
    -------
    JointFit
        The same fit.

    Examples
    --------
    >>> from py4dstem_prenet.pixel_size import Shape, find_standard
    >>> gold, number, zero, shape = find_standard("Au"), np.arange(8), np.zeros(2), Shape(0.05, 1.0)
    >>> turn = np.stack([np.cos(number), np.sin(number)], 1)
    >>> spots = Spots(gold.g[:8, None] / 0.02 * turn, np.full((8, 2), 0.1), number, np.outer(number, [1, 0]), number,
    ...               np.ones(8, int), 10.0, 8.0)
    >>> start = State(0.02, zero, zero, shape, 0.0, zero, 64.0, spots.span, shape, 1e-6 * np.eye(2))
    >>> joint = joint_of(fit_spots(spots, gold, start, 50.0), spots, gold)
    >>> round(joint.scale, 4), round(joint.on_rings, 1)
    (0.02, 1.0)
    """
    model = _Model(spots, standard, fit.state, fit.excitation, fit.common_error, fit.inside, 1.0, fit.names)
    sigma = np.sqrt(model.variance + 0.3**2)  # blurred by 0.3 px
    radii = np.arange(model.radius.min() - 2, model.radius.max() + 2, 0.25)
    density = density_of(radii[:, None] - model.radius, sigma) @ model.weight
    typical = np.full(len(model.rings), np.median(sigma))
    rings = density_of(radii[:, None] - model.rings, typical) @ fit.rates.rings
    below = np.full(len(radii), fit.rates.stray)
    heights = np.zeros(len(standard.g))
    heights[fit.inside] = fit.rates.rings
    profile = RadialProfile(radii, density, np.maximum(density, 1e-300), density[None], np.ones((1, len(radii))))
    profile_fit = ProfileFit(fit.state.scale, heights, rings + below, below, 0.0, 0.0, int((fit.rates.rings > 1).sum()),
                       density - rings - below)
    s = fit.state
    return JointFit(s.scale, s.vector, s.center, s.shape, s.barrel, s.threefold, fit.names, fit.covariance, profile,
                    profile_fit, fit.ring_errors, fit.ring_sigmas, fit.variation,
                    float(model.weight[fit.rates.disk] @ fit.rates.belongs / model.weight.sum()))
