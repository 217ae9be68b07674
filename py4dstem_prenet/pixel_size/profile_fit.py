"""Fit of a radial profile by the rings of a crystal, at one pixel size.

All rings have the shape of the direct disk and free, non-negative heights on a smooth background. The residual is
noise, or larger than noise by an unknown factor (grains, dynamical scattering). The cost is therefore n log(1 + reduced
chi square), with n independent samples of the residual, plus a weak penalty for heights far from the kinematic heights,
plus log(n) for each visible ring.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import BSpline
from scipy.optimize import minimize, nnls

from ..core import quick_median
from . import COARSE_STEP_PX, FINE_STEP_PX, RadialProfile, Standard, ring_profiles

MIN_VISIBLE_HEIGHT = 0.1  # fraction of the strongest ring; smallest kinematic height of a ring expected to be visible
TABLE_STEP_PX, TABLE_RELROD_FACTOR = 0.2, 1.6  # pixels, step of the distances in a table; factor between relrod widths
MODEL_ERROR = 0.02  # fraction of the profile, 1 sigma; error of the model of the profile, in addition to noise
BACKGROUND_WIDTHS = 5.0  # widths of a ring; smallest distance between two knots of the background
MAX_BACKGROUND_KNOTS = 6  # number of intervals; most between the knots of the background
LOG_HEIGHT_SIGMA = 1.0  # sigma of log(height / kinematic height), due to texture, dynamical scattering and few grains
MIN_HEIGHT_FRACTION = 0.12  # fraction of the height expected from the other rings; smallest height of a visible ring
MAX_HEIGHT_PENALTY = 9.0  # chi square; largest penalty of one ring, since texture may remove a ring
BASIN = 0.02  # relative; smallest difference between the pixel sizes of two different assignments
# 1/angstrom, width of the Lorentzian of crystals of about 75 angstrom; sigma of the prior of its logarithm.
RELROD, RELROD_LOG_SIGMA = 0.003, 0.8
RELROD_LIMITS = 3e-4, 0.03  # 1/angstrom; limits of the width of the Lorentzian
BLUR_LIMITS_PX = 0.35, 8.0  # pixels; limits of the blur


@dataclass(frozen=True)
class ProfileFit:
    """A fit of a radial profile by rings and a background.

    Attributes
    ----------
    scale : float
        Pixel size, 1/angstrom.
    heights : numpy.ndarray
        (k,), heights of the rings.
    fitted : numpy.ndarray
        (n,), fitted profile.
    background : numpy.ndarray
        (n,), background of the fitted profile.
    chi2 : float
        Weighted sum of squared residuals.
    penalty : float
        Penalty of the heights.
    rings : int
        Number of rings in the range of radii whose height is significant.
    residual : numpy.ndarray
        (n,), weighted residual.
    """

    scale: float
    heights: np.ndarray
    fitted: np.ndarray
    background: np.ndarray
    chi2: float
    penalty: float
    rings: int
    residual: np.ndarray


@dataclass(frozen=True)
class Shape:
    """Shape of the rings.

    Attributes
    ----------
    disk : float
        Radius of the disks, pixels.
    blur : float
        Standard deviation of the blur, pixels.
    relrod : float
        1 / thickness of the crystals, 1/angstrom.
    """

    disk: float
    blur: float
    relrod: float = 0.0

    @property
    def width(self) -> float:  # numpydoc ignore=RT01
        """Full width of a ring, pixels."""
        return 2 * self.disk + 2.4 * self.blur


def weights(profile: RadialProfile) -> np.ndarray:
    """Compute the square roots of the weights of the radii.

    Parameters
    ----------
    profile : RadialProfile
        The profile.

    Returns
    -------
    numpy.ndarray, shape (n,)
        1 / sigma.

    Examples
    --------
    >>> polar = np.ones((1, 2))
    >>> profile = RadialProfile(np.array([20.0, 30.0]), np.ones(2), np.array([1e-2, 1e-4]), polar, polar)
    >>> weights(profile).round(1).tolist()
    [9.8, 44.7]
    """
    return 1 / np.sqrt(profile.variance + (MODEL_ERROR * profile.mean) ** 2)


def background(radii, width) -> np.ndarray:
    """Compute the columns of the background in the design matrix.

    Parameters
    ----------
    radii : numpy.ndarray, shape (n,)
        Radii, pixels.
    width : float
        Width of a ring, pixels.

    Returns
    -------
    numpy.ndarray, shape (n, m)
        Non-negative columns: powers of the radius, and cubic splines.

    Examples
    --------
    >>> background(np.arange(12.0, 60.0, 0.5), 10.0).shape
    (96, 9)
    """
    powers = (radii[0] / radii[:, None]) ** np.arange(5)  # for the tails of the direct beam
    intervals = int(np.clip((radii[-1] - radii[0]) / (BACKGROUND_WIDTHS * width), 1, MAX_BACKGROUND_KNOTS))
    knots = np.linspace(radii[0], radii[-1] + 1e-6, intervals + 1)
    step = knots[1] - knots[0]
    knots = np.r_[knots[0] - step * np.arange(3, 0, -1), knots, knots[-1] + step * np.arange(1, 4)]
    return np.hstack([powers, BSpline.design_matrix(radii, knots, 3).toarray()])


class RingTable:
    """Profiles of rings at all distances, for many pixel sizes of many lattices.

    Parameters
    ----------
    radii : numpy.ndarray, shape (n,)
        Radii, pixels.
    shape : Shape
        Shape of the rings.
    """

    def __init__(self, radii, shape):
        self.radii, self.shape, self._tables = radii, shape, {}

    def rings(self, distances, relrod):
        """Look up the profiles of rings.

        Parameters
        ----------
        distances : numpy.ndarray, shape (k,)
            Distances, pixels; rounded to TABLE_STEP_PX.
        relrod : float
            Width of the Lorentzian of excitation errors, pixels; rounded to a factor of TABLE_RELROD_FACTOR.

        Returns
        -------
        numpy.ndarray, shape (n, k)
            The profiles.
        """
        power = round(np.log(relrod) / np.log(TABLE_RELROD_FACTOR))
        if power not in self._tables:
            largest = self.radii[-1] + self.shape.disk + 4 * self.shape.blur + 1
            grid = np.arange(1, int(largest / TABLE_STEP_PX) + 1) * TABLE_STEP_PX
            width = TABLE_RELROD_FACTOR**power
            self._tables[power] = ring_profiles(self.radii, grid, self.shape.disk, self.shape.blur, width,
                                                COARSE_STEP_PX)[0]
        table = self._tables[power]
        return table[:, np.clip(np.rint(distances / TABLE_STEP_PX).astype(int) - 1, 0, table.shape[1] - 1)]


def fit_rings(profile: RadialProfile, standard: Standard, scale: float, shape: Shape, base=None,
              step=FINE_STEP_PX, table: RingTable | None = None) -> ProfileFit:
    """Fit the rings of a crystal at one pixel size.

    Parameters
    ----------
    profile : RadialProfile
        The profile.
    standard : Standard
        The crystal.
    scale : float
        Pixel size, 1/angstrom.
    shape : Shape
        Shape of the rings.
    base : numpy.ndarray, optional
        (n, m), columns of the background.
    step : float
        Step of the grid on which the rings are computed, pixels.
    table : RingTable, optional
        Precomputed rings of this shape.

    Returns
    -------
    ProfileFit
        The fit.

    Examples
    --------
    >>> from py4dstem_prenet.pixel_size import find_standard
    >>> gold, radii, shape = find_standard("Au"), np.arange(12.0, 60.0, 0.5), Shape(4.0, 0.6)
    >>> mean = ring_profiles(radii, gold.g / 0.02, 4.0, 0.6)[0] @ gold.intensity + 0.1
    >>> profile = RadialProfile(radii, mean, 1e-3 * mean, mean[None], np.ones((1, len(radii))))
    >>> right, wrong = (fit_rings(profile, gold, scale, shape) for scale in (0.02, 0.021))
    >>> bool(right.chi2 < 0.01 * wrong.chi2)
    True
    """
    radii = profile.radii
    base = background(radii, shape.width) if base is None else base
    distances = standard.g / scale
    reach = shape.disk + 3 * shape.blur
    inside = (distances > max(radii[0] - reach, 1.0)) & (distances < radii[-1] + reach)
    rings = (table.rings(distances[inside], shape.relrod / scale) if table else
             ring_profiles(radii, distances[inside], shape.disk, shape.blur, shape.relrod / scale, step)[0])
    weight = weights(profile)
    columns = np.hstack([rings, base]) * weight[:, None]
    size = np.linalg.norm(columns, axis=0) + 1e-300
    values, count = profile.mean * weight, int(inside.sum())
    columns /= size
    solution, residual = nnls(columns, values, maxiter=50 * columns.shape[1])
    # No strong ring may be missing: each height is at least a fraction of the height expected from the other rings.
    expected = np.where(standard.intensity > MIN_VISIBLE_HEIGHT, standard.intensity, 0.0)[inside]
    least = np.zeros(columns.shape[1])
    within = ((distances > radii[0]) & (distances < radii[-1]))[inside]
    free_heights = solution[:count] / size[:count]
    if (expected * within).any():
        common = float((free_heights * expected)[within].sum() / (expected[within] ** 2).sum())
        least[:count] = MIN_HEIGHT_FRACTION * common * expected * size[:count]
    if (solution < least).any():
        solution, residual = nnls(columns, values - columns @ least, maxiter=50 * columns.shape[1])
        solution = solution + least
    solution = solution / size
    heights = np.zeros(len(distances))
    heights[inside] = solution[: inside.sum()]
    below = base @ solution[inside.sum():]
    fitted = rings @ solution[: inside.sum()] + below
    floor = 1 / size[: inside.sum()]  # one sigma of the height of a ring that overlaps no other ring
    return ProfileFit(scale, heights, fitted, below, residual**2,
                      _penalty(heights[inside], standard.intensity[inside], floor, within),
                      int((within & (heights[inside] > 2 * floor)).sum()), (profile.mean - fitted) * weight)


def _penalty(heights, expected, floor, within):
    """Penalty for heights that differ from the expected heights, in units of chi square.

    Strong rings have a log-normal prior. Rings that are weak or forbidden have an exponential one, with a mean of at
    least MIN_VISIBLE_HEIGHT, since dynamical scattering may excite them: in simulated powders of germanium, 222 has 0.2
    to 0.35 of the disks of 111.
    """
    strong = within & (expected > MIN_VISIBLE_HEIGHT)
    if not strong.any():
        return 0.0
    log = np.log(np.maximum(heights, floor)[strong] / expected[strong])
    sigma = np.hypot(LOG_HEIGHT_SIGMA, np.minimum(floor[strong] / np.maximum(heights[strong], floor[strong]), 1))
    middle = quick_median(log)
    weak = within & ~strong
    common = np.exp(middle) * np.maximum(expected[weak], MIN_VISIBLE_HEIGHT)
    excess = np.maximum(heights[weak] - floor[weak], 0) / common - 1
    return float(np.minimum(((log - middle) / sigma) ** 2, MAX_HEIGHT_PENALTY).sum() + 2 * np.maximum(excess, 0).sum())


def independent_samples(residual) -> float:
    """Estimate the number of independent samples of a residual from its autocorrelation.

    Parameters
    ----------
    residual : numpy.ndarray, shape (n,)
        Weighted residual.

    Returns
    -------
    float
        n / (1 + 2 sum of the correlations up to the first that is not positive).

    Examples
    --------
    >>> white = np.random.default_rng(0).normal(size=400)
    >>> independent_samples(white) > 300 > 200 > independent_samples(np.convolve(white, np.ones(5)))
    True
    """
    n = len(residual)
    r = residual - residual.mean()
    power = float(r @ r)
    if not power:
        return float(n)
    total = 0.0
    for lag in range(1, n // 3):
        rho = float(r[lag:] @ r[:-lag]) / power
        if rho <= 0:
            break
        total += rho
    return n / (1 + 2 * total)


def costs(fits, samples: float) -> np.ndarray:
    """Compute the cost of each fit, -2 log likelihood.

    Parameters
    ----------
    fits : list of ProfileFit
        The fits.
    samples : float
        Number of independent samples of the residual.

    Returns
    -------
    numpy.ndarray, shape (n,)
        The costs.

    Examples
    --------
    >>> one = np.zeros(1)
    >>> good, poor = (ProfileFit(0.02, one, one, one, chi2, 0.0, 4, one) for chi2 in (1.0, 10.0))
    >>> np.diff(costs([good, poor], 40.0)).round(1).tolist()  # 40 log(11 / 2)
    [68.2]
    """
    chi2, penalty, rings = (np.array([getattr(fit, name) for fit in fits]) for name in ("chi2", "penalty", "rings"))
    return samples * np.log1p(chi2 / len(fits[0].residual)) + penalty + np.log(samples) * rings


def refine_shape(profile: RadialProfile, standard: Standard, scale: float, shape: Shape):
    """Refine pixel size and shape of the rings on the radial profile.

    Parameters
    ----------
    profile : RadialProfile
        The profile.
    standard : Standard
        The crystal.
    scale : float
        Start of the pixel size, 1/angstrom.
    shape : Shape
        Start of the shape.

    Returns
    -------
    ProfileFit
        The fit.
    Shape
        The shape.

    Examples
    --------
    >>> from py4dstem_prenet.pixel_size import find_standard
    >>> gold, radii = find_standard("Au"), np.arange(12.0, 60.0, 0.5)
    >>> mean = ring_profiles(radii, gold.g / 0.02, 4.0, 1.2, 0.15)[0] @ gold.intensity + 0.1
    >>> profile = RadialProfile(radii, mean, 1e-4 * mean, mean[None], np.ones((1, len(radii))))
    >>> fit, shape = refine_shape(profile, gold, 0.0201, Shape(4.0, 0.6, 0.003))
    >>> round(fit.scale, 4), abs(shape.blur - 1.2) < 0.3
    (0.02, True)
    """
    base = background(profile.radii, shape.width)

    def at(parameters):
        moved = scale * np.exp(np.clip(parameters[0], -BASIN, BASIN))
        blur, relrod = (np.exp(np.clip(p, *np.log(limits))) for p, limits in
                        zip(parameters[1:], (BLUR_LIMITS_PX, RELROD_LIMITS), strict=True))
        return moved, Shape(shape.disk, float(blur), float(relrod))

    def cost(parameters):
        moved, formed = at(parameters)
        fit = fit_rings(profile, standard, moved, formed, base, COARSE_STEP_PX)
        prior = np.log(formed.relrod / RELROD) ** 2 / RELROD_LOG_SIGMA**2
        return len(profile.radii) * np.log1p(fit.chi2 / len(profile.radii)) + fit.penalty + prior

    start = np.array([0.0, np.log(shape.blur), np.log(shape.relrod)])
    simplex = start + np.vstack([np.zeros(3), np.diag([0.004, 0.4, 0.7])])
    optimum = minimize(cost, start, method="Nelder-Mead", options={
        "initial_simplex": simplex, "maxfev": 70, "xatol": 1e-4, "fatol": 0.05})
    moved, formed = at(optimum.x)
    return fit_rings(profile, standard, moved, formed, base), formed
