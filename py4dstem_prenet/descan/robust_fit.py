"""Robust fit of models to one origin map.

Each model is fitted by iteratively reweighted least squares with Tukey's biweight, from a start that is robust against
outliers (least median of squares). The penalty of a spline is chosen by the residuals at held-out positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core import NORMAL_MAD, TUKEY_CUT, PrenetError, quick_median
from . import evaluate, held_out_losses, normal, solve

LEAST_SIGMA_PX = 1e-7  # pixels; keeps weights finite on noise-free input
# Fraction of the bound of Hadamard; smallest determinant of a system that is solved directly. Rounding errors then
# change the solution by less than 1e-6.
MIN_DETERMINANT = 1e-9
_PENALTIES = 10.0 ** np.arange(-8, 3)  # penalties of the spline that are tried, relative to the sum of weights


@dataclass(frozen=True)
class MapData:
    """One origin map, prepared for the fit.

    Attributes
    ----------
    y : numpy.ndarray, shape (Rx, Ry)
        Coordinate in pixels; zero where unused.
    sigma : numpy.ndarray, shape (Rx, Ry)
        Standard error in pixels; one where unused.
    use : numpy.ndarray of bool, shape (Rx, Ry)
        True where a position is used.
    """

    y: np.ndarray
    sigma: np.ndarray
    use: np.ndarray

    def at(self, rows, cols):
        """Restrict the map to rows and columns.

        Parameters
        ----------
        rows, cols : numpy.ndarray of int
            Rows and columns of the scan.

        Returns
        -------
        MapData
            The map at these.
        """
        return MapData(*(a[np.ix_(rows, cols)] for a in (self.y, self.sigma, self.use)))


@dataclass(frozen=True)
class FittedModel:
    """A fitted model of one map.

    Attributes
    ----------
    coef : numpy.ndarray, shape (k,)
        Coefficients of the model.
    surface : numpy.ndarray, shape (Rx, Ry)
        The surface in pixels.
    noise : numpy.ndarray, shape (Rx, Ry)
        Total standard deviation of each measurement in pixels.
    weight : numpy.ndarray, shape (Rx, Ry)
        Robust weight divided by noise squared; zero where unused.
    gram : numpy.ndarray, shape (k, k)
        Normal matrix, including the penalty.
    lam : float
        Penalty.
    edf : float
        Effective number of parameters.
    """

    coef: np.ndarray
    surface: np.ndarray
    noise: np.ndarray
    weight: np.ndarray
    gram: np.ndarray
    lam: float
    edf: float


def prepare(values, sigma, valid):
    """Check an origin map and prepare it for the fit.

    Parameters
    ----------
    values : array_like, shape (Rx, Ry)
        Measured coordinate in pixels.
    sigma : array_like, shape (Rx, Ry), or float
        Standard error of the coordinate in pixels.
    valid : array_like of bool, shape (Rx, Ry)
        True where a position is used.

    Returns
    -------
    MapData
        Values, sigmas, and the mask of used positions, which are valid and finite.

    Raises
    ------
    PrenetError
        If the map is not two-dimensional or the shapes differ.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or values.size == 0:
        raise PrenetError(f"An origin map must have the scan's shape (Rx, Ry), not {values.shape}.")
    try:
        sigma = np.broadcast_to(np.asarray(sigma, dtype=np.float64), values.shape)
        valid = np.broadcast_to(np.asarray(valid, dtype=bool), values.shape)
    except ValueError:
        raise PrenetError(f"sigma and valid must have the shape of the origin map, {values.shape}.") from None
    use = valid & np.isfinite(values) & np.isfinite(sigma) & (sigma >= 0)
    return MapData(np.where(use, values, 0.0), np.where(use, np.maximum(sigma, LEAST_SIGMA_PX), 1.0), use)


def refit(basis, data, surface, lam=0.0, noise=None, steps=30):
    """Fit a model by iteratively reweighted least squares from a start surface.

    Parameters
    ----------
    basis : Basis
        The model.
    data : MapData
        The map.
    surface : numpy.ndarray, shape (Rx, Ry)
        Start surface in pixels.
    lam : float, optional
        Penalty of a spline.
    noise : numpy.ndarray, shape (Rx, Ry), optional
        Noise that decides which positions are outliers in the first step.
    steps : int, optional
        Largest number of steps.

    Returns
    -------
    FittedModel
        The fit.
    """
    edf = float(len(basis.keep)) if basis.penalty is None else 6.0
    for _ in range(steps):
        r = data.y - surface
        noise = _noise(r, data, edf, noise)
        weight = data.use * (1 - np.minimum((r / (TUKEY_CUT * noise)) ** 2, 1)) ** 2 / noise**2
        gram, right = normal(basis, weight, data.y)
        penalized = gram
        if basis.penalty is not None:
            penalized = gram + lam * (weight.sum() / data.use.sum()) * basis.penalty
            edf = float(np.trace(solve(penalized, gram)))
        coef = solve(penalized, right)
        previous, surface = surface, evaluate(basis, coef)
        if np.abs(surface - previous).max() < 1e-4 * np.sqrt(edf / weight.sum()) + 1e-10:
            break
    return FittedModel(coef, surface, noise, weight, penalized, lam, edf)


def fit_models(bases, data):
    """Fit all models to one map.

    Parameters
    ----------
    bases : sequence of Basis
        The models, simplest first.
    data : MapData
        The map.

    Returns
    -------
    list of FittedModel
        The fits.
    """
    solutions = []
    for basis in bases:
        if basis.penalty is None:
            solutions.append(refit(basis, data, _start(basis, data)))
            continue
        solution, tried = solutions[-1], _PENALTIES[::2]  # the outliers of the parabola are left out first
        for _ in range(2):
            losses = [np.mean(x) for x in held_out_losses(basis, data, solution, data.use.sum() * tried)]
            best = tried[int(np.argmin(losses))]
            solution = refit(basis, data, solution.surface, data.use.sum() * best, solution.noise)
            at = int(np.argmin(np.abs(np.log(_PENALTIES / best))))
            tried = _PENALTIES[max(at - 1, 0) : at + 2]  # the best penalty and its neighbors
        solutions.append(solution)
    return solutions


def _noise(r, data, edf, previous=None):
    """Estimate the total noise of each position from the residuals `r`.

    A constant is added to sigma in quadrature so that the median residual is that of Gaussian noise; if sigma is too
    large, it is scaled down. Positions that are outliers with the `previous` noise are left out.
    """
    inside = data.use
    if previous is not None:
        inlier = data.use & (np.abs(r) < TUKEY_CUT * previous)
        inside = inlier if 2 * inlier.sum() > data.use.sum() else data.use
    r, s = np.abs(r[inside]), data.sigma[inside]
    if r.size > 20_000:
        stride = r.size // 20_000 + 1
        r, s = r[::stride], s[::stride]
    freedom = inside.sum() - edf
    if freedom < 1:
        return data.sigma
    r = r * np.sqrt(inside.sum() / freedom)
    ratio = quick_median(r / s) / NORMAL_MAD
    if ratio <= 1:
        return data.sigma if freedom < 10 else np.maximum(data.sigma * ratio, LEAST_SIGMA_PX)
    # Half of the residuals exceed NORMAL_MAD times the total noise.
    return np.sqrt(data.sigma**2 + max(quick_median((r / NORMAL_MAD) ** 2 - s**2), 0.0))


def _start(basis, data):
    """Find a start surface by least median of squares over random subsets, which clustered outliers do not influence.

    See Rousseeuw, J. Am. Stat. Assoc. 79, 871 (1984). The subsets are drawn from the positions in the order of their
    values, so that a flipped, transposed or negated scan has the same subsets.
    """
    rng = np.random.default_rng(0)
    i, j = np.nonzero(data.use)
    order = np.argsort(np.abs(data.y[i, j] - data.y[i, j].mean()), kind="stable")
    i, j = i[order], j[order]
    if i.size > 1500:
        drawn = np.sort(rng.choice(i.size, 1500, replace=False))
        i, j = i[drawn], j[drawn]
    design = (basis.rows[i][:, :, None] * basis.cols[j][:, None, :]).reshape(i.size, -1)[:, basis.keep]
    size = design.shape[1]
    y, s = data.y[i, j], data.sigma[i, j]
    s = np.hypot(s, np.median(s))  # a wrong position may have a very small stated error
    subsets = rng.integers(i.size, size=(400 if size > 1 else 100, size))
    trial = _solved(design[subsets], y[subsets])
    trial = np.vstack([trial, np.zeros((1, size))])
    # All starts are scored at some 300 positions, and the best 40 at all positions, for speed.
    subset = slice(None, None, max(1, i.size // 300))
    score = _nearest_part(np.abs(y[subset] - trial @ design[subset].T) / s[subset])
    trial = trial[np.argsort(score, kind="stable")[:40]]
    deviation = np.abs(y - trial @ design.T) / s
    pairs = (design[:, :, None] * design[:, None]).reshape(i.size, -1)
    for _ in range(4):  # refit the best starts to the nearest 60 % of the positions
        score = _nearest_part(deviation)
        best = np.argsort(score, kind="stable")[:10]
        inlier = (deviation[best] <= score[best, None]) / s**2
        gram = (inlier @ pairs).reshape(-1, size, size)
        polished = _solved(gram, (inlier * y) @ design)
        trial = np.vstack([trial[best], polished])
        deviation = np.abs(y - trial @ design.T) / s
    return evaluate(basis, trial[np.argmin(np.median(deviation, axis=1))])


def _solved(matrices, right):
    """Solutions (n, k) of small systems; the pseudoinverse, which is slow, solves only those that may be singular."""
    size = np.prod(np.linalg.norm(matrices, axis=2), axis=1)  # bound of the determinant (Hadamard)
    regular = np.abs(np.linalg.det(matrices)) > MIN_DETERMINANT * size
    solutions = np.empty(right.shape)
    solutions[regular] = np.linalg.solve(matrices[regular], right[regular][..., None])[..., 0]
    solutions[~regular] = (np.linalg.pinv(matrices[~regular]) @ right[~regular][..., None])[..., 0]
    return solutions


def _nearest_part(deviation):
    """Largest deviation of the nearest 60 % of the positions from each start, (starts, n) to (starts,)."""
    at = 0.6 * (deviation.shape[1] - 1)
    low, high = int(at), int(np.ceil(at))
    ordered = np.partition(deviation, (low, high), axis=1)
    return ordered[:, low] + (at - low) * (ordered[:, high] - ordered[:, low])  # several times faster than a quantile
