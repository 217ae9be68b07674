"""Joint fit of pixel size, ellipse, center and higher distortions to the rings of a standard, with covariance.

The azimuth is divided into sectors. Each sector has its own heights of the rings (texture, few grains) and its own
background. The parameters common to all sectors are linearized about the model: a relative change of all radii, the
ellipse vector, the center, a radial term that grows with the square of the radius, a threefold term that grows with the
radius, and the shape of the rings, which has a wide prior. The covariance is the larger of two jackknife estimates,
over parts of the scan and over pairs of opposite sectors, as for the ellipse.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls

from ..core import ellipse_matrix, jackknife_covariance
from . import (
    POLAR_AZIMUTHS,
    ProfileFit,
    RadialProfile,
    Shape,
    Standard,
    background,
    radial_data,
    ring_profiles,
    smoothed,
    weights,
)

SECTORS = 24  # number of sectors of the azimuth; POLAR_AZIMUTHS is a multiple of it
RESOLVED_WIDTHS = 0.6  # widths of a ring; smallest distance of rings that have separate errors of the radius
MAX_STEP = 0.01  # relative; largest change of the pixel size in one step
LOG_SHAPE_SIGMAS = {"disk": 0.02, "blur": 0.4, "relrod": 0.7}  # sigmas of the priors of the logarithms of the shape
NAMES = ("scale", "v0", "v1", "x", "y", "disk", "blur", "relrod")  # parameters of every fit
CENTER_SIGMA_PX = 1.0  # pixels; sigma of the prior of the center of the rings about the origin
MIN_PARTS = 6  # parts of a scan; fewest whose scatter gives a covariance


@dataclass(frozen=True)
class JointFit:
    """Result of `fit_joint`.

    Attributes
    ----------
    scale : float
        Pixel size, 1/angstrom, at the center of the pattern.
    vector : numpy.ndarray
        (2,), ellipse vector.
    center : numpy.ndarray
        (2,), center of the rings, pixels of the pooled frame.
    shape : Shape
        Shape of the rings.
    barrel : float
        Relative change of the radius at `reference`.
    threefold : numpy.ndarray
        (2,), amplitudes of cos 3 phi and sin 3 phi in the relative change of the radius at `reference`.
    names : tuple of str
        Names of the parameters.
    covariance : numpy.ndarray
        (p, p), covariance of the parameters; the parameter "scale" is log(pixel size).
    profile : RadialProfile
        The radial profile about the fitted center, corrected for the fitted ellipse.
    fit : ProfileFit
        The fit of the profile.
    ring_errors, ring_sigmas : numpy.ndarray
        (k,), relative difference between measured and predicted radius of each ring, and its standard error; NaN if the
        radius was not measured.
    variation : float
        Relative variation of the lattice over the scan, rms, if disks show that it is significant.
    on_rings : float
        Fraction of the reflections that lie on rings of the standard; 1 if the evidence is the profile.
    """

    scale: float
    vector: np.ndarray
    center: np.ndarray
    shape: Shape
    barrel: float
    threefold: np.ndarray
    names: tuple[str, ...]
    covariance: np.ndarray
    profile: RadialProfile
    fit: ProfileFit
    ring_errors: np.ndarray
    ring_sigmas: np.ndarray
    variation: float = 0.0
    on_rings: float = 1.0

    def sigma(self, name) -> float:
        """Return the standard error of a parameter.

        Parameters
        ----------
        name : str
            One of `names`.

        Returns
        -------
        float
            Standard error of the parameter; infinite if it was not fitted.
        """
        if name not in self.names:
            return np.inf
        k = self.names.index(name)
        return float(np.sqrt(self.covariance[k, k]))


@dataclass(frozen=True)
class State:
    """Parameters of the model.

    Attributes
    ----------
    scale : float
        Pixel size, 1/angstrom.
    vector, center : numpy.ndarray
        (2,), ellipse vector, and center of the rings in pixels.
    shape : Shape
        Shape of the rings.
    barrel : float
        Relative change of the radius at `reference`, growing with the square of the radius.
    threefold : numpy.ndarray
        (2,), amplitudes of cos 3 phi and sin 3 phi at `reference`, growing with the radius.
    reference : float
        Radius to which the distortions refer, pixels.
    span : tuple of float
        Smallest and largest radius that is fitted, pixels.
    nominal : Shape
        Mean of the prior of the shape.
    vector_covariance : numpy.ndarray
        (2, 2), covariance of the prior of the ellipse vector.
    nominal_vector : numpy.ndarray or None
        (2,), mean of the prior of the ellipse vector; if None, it is `vector`.
    """

    scale: float
    vector: np.ndarray
    center: np.ndarray
    shape: Shape
    barrel: float
    threefold: np.ndarray
    reference: float
    span: tuple[float, float]
    nominal: Shape
    vector_covariance: np.ndarray
    nominal_vector: np.ndarray | None = None

    def distances(self, standard):
        """Compute the radii of the rings.

        Parameters
        ----------
        standard : Standard
            The crystal.

        Returns
        -------
        numpy.ndarray, shape (k,)
            Radii in pixels.

        Examples
        --------
        >>> from py4dstem_prenet.pixel_size import Shape, State, find_standard
        >>> start = State(0.02, np.zeros(2), np.zeros(2), Shape(5.0, 0.6), 0.01, np.zeros(2), 64.0, (12.0, 60.0),
        ...               Shape(5.0, 0.6), 1e-4 * np.eye(2))
        >>> start.distances(find_standard("Au"))[:2].round(2).tolist()  # 21.23 and 24.52 without the radial term
        [21.26, 24.56]
        """
        ideal = standard.g / self.scale
        return ideal * (1 + self.barrel * (ideal / self.reference) ** 2)


def fit_joint(pooled, standard: Standard, start: State, readout, extra=()) -> JointFit:
    """Fit pixel size, ellipse, center and distortions.

    Parameters
    ----------
    pooled : Pooled
        Pooled patterns.
    standard : Standard
        The crystal.
    start : State
        Start of the parameters.
    readout : float
        Read-out noise of a pixel, electrons.
    extra : tuple of str
        Additional parameters: "barrel", and "three0" with "three1".

    Returns
    -------
    JointFit
        The fit.

    Examples
    --------
    >>> from py4dstem_prenet.fits import Pooled
    >>> from py4dstem_prenet.pixel_size import find_standard
    >>> gold, radius = find_standard("Au"), np.hypot(*np.indices((96, 96)) - 48.0)
    >>> rings = gold.intensity[:6, None, None] * np.exp(-0.5 * (radius - gold.g[:6, None, None] / 0.02) ** 2)
    >>> image, weight = 5 + 50 * rings.sum(0), np.full((96, 96), 100.0)
    >>> pooled = Pooled(image, (48.0, 48.0), 100, weight, np.zeros((0, 96, 96)), np.zeros((0, 96, 96)))
    >>> shape, center = Shape(0.05, 1.0, 1e-3), np.array([48.0, 48.0])
    >>> start = State(0.0201, np.zeros(2), center, shape, 0.0, np.zeros(2), 48.0, (15.0, 44.0), shape, 1e-4 * np.eye(2))
    >>> round(fit_joint(pooled, gold, start, 0.0).scale, 4)
    0.02
    """
    names = (*NAMES, *extra)
    state = start if start.nominal_vector is not None else replace(start, nominal_vector=start.vector)
    pictures, previous_step = smoothed(pooled.mean, pooled.weight, readout), np.zeros(len(names))
    for _ in range(12):  # largest number of Gauss-Newton steps
        system = _System(pictures, state, standard, names)
        step = system.solution()
        if step @ previous_step < 0:  # full steps oscillate, since heights and shape follow the radii
            step = 0.5 * step
        previous_step = step
        state = system.moved(step)
        if abs(step[names.index("scale")]) < 3e-5:  # converged
            break
    system = _System(pictures, state, standard, names)
    parts = list(_part_maps(system, pooled))
    covariance = _covariance(system, parts)
    errors, sigmas = _ring_errors(system, parts)
    k = names.index("scale")
    covariance = covariance.copy()
    covariance[k] *= -1  # of log(pixel size) = - log(radius)
    covariance[:, k] *= -1
    return JointFit(state.scale, state.vector, state.center, state.shape, state.barrel, state.threefold, names,
                    covariance, system.profile, system.fit, errors, sigmas)


class _System:
    """Linearized model of one pattern at one set of parameters."""

    def __init__(self, pictures, state, standard, names):
        self.state, self.names, self.standard = state, names, standard
        self.profile = profile = radial_data(pictures, state.center, state.vector, state.span)
        radii, shape = profile.radii, state.shape
        distances = state.distances(standard)
        reach = shape.disk + 3 * shape.blur
        inside = (distances > max(radii[0] - reach, 1.0)) & (distances < radii[-1] + reach)
        self.index = np.flatnonzero(inside)
        self.distances = distances[inside]
        self.rings, self.slopes = self._templates(shape)
        self.base = background(radii, shape.width)
        self.weight = weights(profile)
        self.fit = self._whole(distances)
        self.variations = {}
        for name in ("disk", "blur", "relrod"):
            step = 0.05
            high, low = (replace(shape, **{name: getattr(shape, name) * np.exp(d)}) for d in (step, -step))
            self.variations[name] = (self._templates(high)[0] - self._templates(low)[0]) / (2 * step)
        self.sectors = self._sectors(profile.polar, profile.usable)
        self._linearize()

    def _templates(self, shape):
        return ring_profiles(self.profile.radii, self.distances, shape.disk, shape.blur,
                             shape.relrod / self.state.scale)

    def _whole(self, distances):
        columns = np.hstack([self.rings, self.base])
        solution, residual = _fit(columns, self.profile.mean, self.weight)
        n = self.rings.shape[1]
        heights = np.zeros(len(distances))
        heights[self.index] = solution[:n]
        below = self.base @ solution[n:]
        fitted = self.rings @ solution[:n] + below
        return ProfileFit(self.state.scale, heights, fitted, below, residual**2, 0.0, n,
                          (self.profile.mean - fitted) * self.weight)

    @staticmethod
    def _sectors(polar, usable):
        """Mean and number of samples (SECTORS, n) of each sector."""
        shape = (SECTORS, POLAR_AZIMUTHS // SECTORS, polar.shape[1])
        count = usable.reshape(shape).sum(1)
        return (polar * usable).reshape(shape).sum(1) / np.maximum(count, 1), count

    def _linearize(self):
        """Compute for each sector the weights, a basis of the nuisance parameters, and the projected design matrix."""
        mean, count = self.sectors
        per_sector = POLAR_AZIMUTHS // SECTORS
        self.roots = self.weight * np.sqrt(count / per_sector / SECTORS)
        azimuth = (np.arange(SECTORS) + 0.5 - 0.5 / per_sector) * (2 * np.pi / SECTORS)
        self.columns, self.nuisances, self.right, self.heights = [], [], [], []
        for k, phi in enumerate(azimuth):
            root = self.roots[k]
            nuisance = np.hstack([self.rings, self.base])
            solution, _ = _fit(nuisance, mean[k], root)
            n = self.rings.shape[1]
            active = solution > 0
            basis = np.linalg.qr(nuisance[:, active] * root[:, None])[0]
            columns = self._parameters(phi, solution[:n]) * root[:, None]
            columns -= basis @ (basis.T @ columns)
            self.columns.append(columns)
            self.nuisances.append(basis)
            self.heights.append(solution[:n])
            self.right.append(_project(basis, mean[k] * root))
        residuals = np.concatenate(self.right)
        used = np.concatenate(self.roots) > 0
        self.scatter = max(float((residuals[used] ** 2).mean()), 1e-300)  # mean square of weighted residuals
        self.normal = sum(c.T @ c for c in self.columns)
        self.prior = np.zeros((len(self.names),) * 2)
        for name, sigma in LOG_SHAPE_SIGMAS.items():
            self.prior[(self.names.index(name),) * 2] = self.scatter / sigma**2
        for name in ("x", "y"):
            self.prior[(self.names.index(name),) * 2] = self.scatter / CENTER_SIGMA_PX**2
        k = [self.names.index(name) for name in ("v0", "v1")]
        self.prior[np.ix_(k, k)] = self.scatter * np.linalg.inv(self.state.vector_covariance)

    def _parameters(self, phi, heights):
        """Design matrix (n, p) of the parameters in a sector at azimuth phi."""
        moving = self.slopes * heights  # derivative with respect to the logarithm of the radius of each ring
        relative = self.distances / self.state.reference
        factors = {
            "scale": 1.0, "v0": np.cos(2 * phi) / 2, "v1": np.sin(2 * phi) / 2, "x": np.cos(phi) / self.distances,
            "y": np.sin(phi) / self.distances, "barrel": relative**2, "three0": relative * np.cos(3 * phi),
            "three1": relative * np.sin(3 * phi)}
        return np.stack([self.variations[name] @ heights if name in self.variations else
                         (moving * factors[name]).sum(1) for name in self.names], 1)

    def right_of(self, polar, usable):
        """Right-hand sides (SECTORS, p) of a different polar map about the same model."""
        mean, count = self._sectors(polar, usable)
        mean = np.where(count > 0, mean, self.sectors[0])
        return np.array([c.T @ _project(q, m * root) for c, q, m, root in
                         zip(self.columns, self.nuisances, mean, self.roots, strict=True)])

    def solution(self):
        right = sum(c.T @ r for c, r in zip(self.columns, self.right, strict=True))
        s, prior_offset = self.state, np.zeros(len(self.names))
        for name in LOG_SHAPE_SIGMAS:
            prior_offset[self.names.index(name)] = np.log(getattr(s.nominal, name) / getattr(s.shape, name))
        prior_offset[[self.names.index("v0"), self.names.index("v1")]] = s.nominal_vector - s.vector
        right = right + self.prior @ prior_offset
        return np.linalg.solve(self.normal + self.prior + 1e-12 * np.diag(np.diag(self.normal)), right)

    def moved(self, step):
        s, delta = self.state, dict(zip(self.names, step, strict=True))

        def log(name):
            return float(np.exp(np.clip(delta[name], -0.3, 0.3)))

        center = s.center + ellipse_matrix(s.vector) @ np.clip([delta["x"], delta["y"]], -1, 1)
        shape = replace(s.shape, disk=s.shape.disk * log("disk"),
                        blur=float(np.clip(s.shape.blur * log("blur"), 0.3, 8)),
                        relrod=float(np.clip(s.shape.relrod * log("relrod"), 2e-4, 0.05)))
        return replace(
            s, scale=s.scale * float(np.exp(-np.clip(delta["scale"], -MAX_STEP, MAX_STEP))),
            vector=s.vector + np.clip([delta["v0"], delta["v1"]], -0.02, 0.02), center=center, shape=shape,
            barrel=s.barrel + float(delta.get("barrel", 0.0)), threefold=_three(delta))


def _three(delta):
    # The rings of the model have no threefold distortion, so that each step gives its full amplitude.
    return np.array([delta.get("three0", 0.0), delta.get("three1", 0.0)])


def _fit(columns, values, root):
    scaled = columns * root[:, None]
    size = np.linalg.norm(scaled, axis=0) + 1e-300
    solution, residual = nnls(scaled / size, values * root, maxiter=60 * columns.shape[1])
    return solution / size, residual


def _project(basis, values):
    return values - basis @ (basis.T @ values)


def _part_maps(system, pooled):
    """Yield the polar map, mask of usable samples, and weight of each part of the scan."""
    for image, weight in zip(pooled.parts, pooled.parts_weight, strict=True):
        if weight.sum() > 0:
            state = system.state
            data = radial_data(smoothed(image, weight, 0.0), state.center, state.vector, state.span)
            polar = np.zeros_like(system.profile.polar)
            usable = np.zeros_like(polar)
            shared = np.isin(np.round(system.profile.radii, 6), np.round(data.radii, 6))
            shared_in_part = np.isin(np.round(data.radii, 6), np.round(system.profile.radii, 6))
            polar[:, shared], usable[:, shared] = data.polar[:, shared_in_part], data.usable[:, shared_in_part]
            yield polar, usable, float(weight.sum())


def _covariance(system, parts):
    matrix = system.normal + system.prior + 1e-12 * np.diag(np.diag(system.normal))
    shape_prior = np.linalg.inv(matrix) @ system.prior * system.scatter @ np.linalg.inv(matrix)
    estimates = [_leave_sectors(system)]
    if len(parts) >= MIN_PARTS:
        rights = np.array([system.right_of(polar, usable).sum(0) for polar, usable, _ in parts])
        estimates.append(_leave_parts(np.linalg.solve(matrix, rights.T).T, np.array([w for _, _, w in parts])))
    return larger_covariance([jackknife_covariance(e) for e in estimates]) + shape_prior


def larger_covariance(covariances):
    """Combine the largest variance of each parameter with the correlations of the largest covariance.

    Parameters
    ----------
    covariances : list of numpy.ndarray
        Covariances, (p, p) each.

    Returns
    -------
    numpy.ndarray, shape (p, p)
        The covariance.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.pixel_size.joint import larger_covariance
    >>> larger_covariance([np.diag([1.0, 4.0]), np.diag([4.0, 1.0])]).round(9).tolist()
    [[4.0, 0.0], [0.0, 4.0]]
    """
    diagonals = np.array([np.diag(c) for c in covariances])
    largest = diagonals.max(0)
    chosen = int(np.argmax((diagonals / np.maximum(largest, 1e-300)).sum(1)))
    factor = np.sqrt(largest / np.maximum(diagonals[chosen], 1e-300))
    factor = np.where(diagonals[chosen] > 0, factor, 1.0)
    return covariances[chosen] * np.outer(factor, factor)


def _leave_parts(single, weight):
    fraction = weight / weight.sum()
    total_change = fraction @ single
    return (total_change - fraction[:, None] * single) / (1 - fraction)[:, None] - total_change


def _leave_sectors(system):
    rights = np.array([c.T @ r for c, r in zip(system.columns, system.right, strict=True)])
    normals = np.array([c.T @ c for c in system.columns])
    small = system.prior + 1e-12 * np.diag(np.diag(system.normal))
    whole = np.linalg.solve(system.normal + small, rights.sum(0))
    changes = []
    for kept in _without_pairs():
        changes.append(np.linalg.solve(normals[kept].sum(0) + small, rights[kept].sum(0)) - whole)
    return np.array(changes)


def _without_pairs():
    """Sectors that remain without each pair of opposite ones, which are not independent (Friedel pairs)."""
    pairs = SECTORS // 2
    return [[j for j in range(SECTORS) if j % pairs != pair] for pair in range(pairs)]


def _ring_errors(system, parts):
    """Relative error of the radius of each ring, with a jackknife sigma over sectors and parts.

    Overlapping rings have a common error.
    """
    k = len(system.standard.g)
    resolved = np.diff(system.distances) > RESOLVED_WIDTHS * system.state.shape.width
    group = np.r_[0, np.cumsum(resolved)] if len(system.distances) else np.zeros(0, int)
    n = int(group[-1]) + 1 if len(group) else 0
    member = np.eye(n)[group]
    errors, sigmas = np.full(k, np.nan), np.full(k, np.nan)
    if not n:
        return errors, sigmas
    radii = system.profile.radii
    columns = []
    for root, basis, heights in zip(system.roots, system.nuisances, system.heights, strict=True):
        moving = (system.slopes * heights * root[:, None]) @ member
        columns.append(moving - basis @ (basis.T @ moving))
    normals = np.array([c.T @ c for c in columns])
    rights = np.array([c.T @ r for c, r in zip(columns, system.right, strict=True)])
    prior = np.diag(np.full(n, system.scatter / 0.05**2))  # a ring whose radius is not determined has an error of 5 %
    whole = np.linalg.solve(normals.sum(0) + prior, rights.sum(0))
    by_sectors = np.array([np.linalg.solve(normals[kept].sum(0) + prior, rights[kept].sum(0)) - whole
                           for kept in _without_pairs()])
    variance = np.diag(jackknife_covariance(by_sectors))
    if len(parts) >= MIN_PARTS:
        part_changes = []
        for polar, usable, _ in parts:
            mean, count = system._sectors(polar, usable)
            mean = np.where(count > 0, mean, system.sectors[0])
            part_changes.append(sum(c.T @ _project(q, m * root) for c, q, m, root in
                              zip(columns, system.nuisances, mean, system.roots, strict=True)))
        part_changes = np.linalg.solve(normals.sum(0) + prior, np.array(part_changes).T).T
        by_parts = _leave_parts(part_changes, np.array([w for _, _, w in parts]))
        variance = np.maximum(variance, np.diag(jackknife_covariance(by_parts)))
    measured = (system.distances > radii[0]) & (system.distances < radii[-1]) & (system.fit.heights[system.index] > 0)
    errors[system.index[measured]] = whole[group[measured]]
    sigmas[system.index[measured]] = np.sqrt(variance[group[measured]])
    return errors, sigmas
