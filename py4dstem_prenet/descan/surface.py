"""Smooth surface through measured origin maps: its values, their uncertainty, and whether it is accepted.

Each model (`models.py`), a polynomial or a penalized spline, is fitted robustly (`robust_fit.py`), and one is chosen
(`choice.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import uniform_filter

from ..core import CORRELATION_LAGS, TUKEY_CUT, Decision, Flag, ModelTrial, PrenetError, robust_sigma
from . import (
    MIN_LINE_OFF_PX,
    MIN_POSITIONS_PER_TERM,
    MODELS,
    POWERS,
    MapData,
    candidates,
    choose_model,
    evaluate,
    extend_surface,
    fit_models,
    measured_box,
    prepare,
    refit,
    richer_models,
    surface_variance,
    thinned,
)

_MAX_CHOICE_POSITIONS = 40_000  # positions of the grid on which the model is chosen; chosen for speed
MAX_DENSE_OUTLIERS = 0.25  # fraction of the positions; if more lie in dense groups of outliers, there are two surfaces


@dataclass(frozen=True)
class SurfaceFit:
    """A surface fitted to one origin map; maps are float64, in pixels.

    Attributes
    ----------
    values : numpy.ndarray, shape (Rx, Ry)
        The surface, finite everywhere.
    sigma : numpy.ndarray, shape (Rx, Ry)
        Standard error of the surface; infinite if it was not determined.
    residual : numpy.ndarray, shape (Rx, Ry)
        Measured minus fitted; NaN where the measured value is not finite.
    model : str
        The model that was used.
    scores : dict
        Robust held-out residual of each model, in units of the noise.
    decision : Decision
        Whether the fit is accepted, with flags.
    trials : tuple of ModelTrial
        The models that were compared.
    taken : tuple of float
        Sums of the covariance of the surface over positions and pairs of neighbors, as for `check_residuals`; zeros if
        they are not known.
    """

    values: np.ndarray
    sigma: np.ndarray
    residual: np.ndarray
    model: str
    scores: dict[str, float]
    decision: Decision
    trials: tuple[ModelTrial, ...] = ()
    taken: tuple[float, ...] = (0.0,) * (1 + 2 * len(CORRELATION_LAGS))

    @property
    def accepted(self) -> bool:
        """Whether the fit is accepted.

        Returns
        -------
        bool
            True if the fit is accepted.
        """
        return self.decision.accepted


def fit_surface(values, sigma, valid, model="auto") -> SurfaceFit:
    """Fit a smooth surface to one origin map.

    About 30 % of the positions may be outliers, even all to one side.

    Parameters
    ----------
    values : array_like, shape (Rx, Ry)
        Measured coordinate in pixels; values that are not finite are left out.
    sigma : array_like, shape (Rx, Ry), or float
        Standard error of the coordinate in pixels. Noise in excess of it is estimated.
    valid : array_like of bool, shape (Rx, Ry)
        True where a position is used.
    model : str, optional
        "constant", "plane", "parabola", "spline", or "auto" to choose by held-out residuals. If the valid positions do
        not determine the named model, the most flexible one that they determine is used.

    Returns
    -------
    SurfaceFit
        The surface, its uncertainty, and the decision.

    Raises
    ------
    PrenetError
        If the model is unknown or the shapes of the maps differ.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.descan.surface import fit_surface
    >>> rows, columns = np.indices((10, 10))
    >>> values = 64 + 0.1 * rows - 0.05 * columns
    >>> values[2, 3] = 90  # a wrong disk
    >>> fit = fit_surface(values, 0.02, np.ones((10, 10), bool))
    >>> fit.model, round(float(fit.values[2, 3]), 2)
    ('plane', 64.05)
    """
    return _fit_measured_box([(values, sigma)], valid, model)[0]


def fit_pair(qx, qy, sigma_qx, sigma_qy, valid, model="auto") -> tuple[SurfaceFit, SurfaceFit]:
    """Fit both coordinates of the origin with one model, which is chosen for both together.

    Parameters
    ----------
    qx, qy : array_like, shape (Rx, Ry)
        Measured coordinates in pixels.
    sigma_qx, sigma_qy : array_like, shape (Rx, Ry), or float
        Standard errors of the coordinates in pixels.
    valid : array_like of bool, shape (Rx, Ry)
        True where a position is used.
    model : str, optional
        As for `fit_surface`.

    Returns
    -------
    x, y : SurfaceFit
        Fits of the two coordinates.

    Raises
    ------
    PrenetError
        If the model is unknown or the shapes of the maps differ.
    """
    first, second = _fit_measured_box([(qx, sigma_qx), (qy, sigma_qy)], valid, model)
    return first, second


def _fit_measured_box(maps, valid, model):
    """Fit maps; if the beam was measured only in a part of the scan, allow a more flexible surface in that part."""
    fits = _fit(maps, valid, model)
    use = np.logical_and.reduce([prepare(values, sigma, valid).use for values, sigma in maps])
    box = measured_box(use)
    if box is None:
        return fits
    cut = [(np.asarray(values)[box], np.broadcast_to(sigma, use.shape)[box]) for values, sigma in maps]
    inside = _fit(cut, use[box], model)
    if MODELS.index(inside[0].model) <= MODELS.index(fits[0].model):
        return fits
    return [extend_surface(inner, outer, box) for inner, outer in zip(inside, fits, strict=True)]


def _fit(maps, valid, model):
    """Fit one or two maps with one model."""
    if model != "auto" and model not in MODELS:
        raise PrenetError(f"The surface model {model!r} is unknown; use 'auto' or one of {', '.join(MODELS)}.")
    datas, centers = [], []
    for values, sigma in maps:
        data = prepare(values, sigma, valid)
        if datas and data.y.shape != datas[0].y.shape:
            raise PrenetError("The two origin maps differ in shape; both must be (Rx, Ry).")
        center = float(np.median(data.y[data.use])) if data.use.any() else 0.0
        datas.append(MapData(np.where(data.use, data.y - center, 0.0), data.sigma, data.use))
        centers.append(center)
    needed = min(3, datas[0].y.size)
    if min(int(d.use.sum()) for d in datas) < needed:
        return [_refused(v, d) for (v, _), d in zip(maps, datas, strict=True)]

    shape = datas[0].y.shape
    grid, whole = _grid(datas)
    bases = candidates(shape, np.logical_and.reduce([d.use for d in datas]), model)
    coarse = [d.at(*grid) for d in datas]
    coarse_bases = [b.at(*grid) for b in bases]
    starts = [fit_models(coarse_bases, d) for d in coarse]
    wanted = "auto" if model == "auto" else bases[-1].name
    chosen, scores = choose_model(coarse_bases, coarse, starts, wanted)
    richer = richer_models(coarse_bases, coarse, starts, chosen) if model == "auto" and whole else {}
    fits = []
    for (values, _), data, part, center, solutions in zip(maps, datas, coarse, centers, starts, strict=True):
        solution, basis = solutions[chosen], bases[chosen]
        if whole:
            solution = _spread(basis, data, grid, solution)
        else:  # the basis functions are the same: the fit on the full grid starts from the coarse coefficients
            lam = solution.lam * data.use.sum() / max(part.use.sum(), 1)
            solution = refit(basis, data, evaluate(basis, solution.coef), lam, steps=4)
        others = [(weight, bases[k], _spread(bases[k], data, grid, solutions[k])) for k, weight in richer.items()]
        fits.append(_finish(values, data, center, basis, solution, scores, model, others))
    trials = _trials(bases, coarse, starts, chosen)
    return [replace(fit, trials=trials) for fit in fits]


def _trials(bases, datas, starts, chosen):
    """Scatter of all maps about each model, and rms distance of its surface from the chosen surface."""
    trials = []
    for k, basis in enumerate(bases):
        residuals = np.concatenate([(d.y - s[k].surface)[d.use] for d, s in zip(datas, starts, strict=True)])
        distance = float(np.sqrt(sum(np.mean((s[k].surface - s[chosen].surface) ** 2) for s in starts)))
        trials.append(ModelTrial(basis.name, robust_sigma(residuals), distance, True, k == chosen))
    named = {trial.model for trial in trials}
    return (*trials, *(ModelTrial(name, np.nan, np.nan, False, False) for name in MODELS if name not in named))


def _refused(values, data):
    """Return a constant surface that is not accepted, for maps with too few valid positions."""
    values = np.asarray(values, dtype=np.float64)
    pool = values[data.use] if data.use.any() else values[np.isfinite(values)]
    guess = float(np.median(pool)) if pool.size else 0.0
    count = int(data.use.sum())
    residual = np.where(np.isfinite(values), values - guess, np.nan)
    flat = np.full(values.shape, guess)
    flag = Flag("no_surface", {"count": count, "total": int(values.size)})
    return SurfaceFit(flat, np.full(values.shape, np.inf), residual, "constant", {}, Decision(False, (flag,)))


def _finish(values, data, center, basis, solution, scores, requested, others=()):
    """Compute uncertainty and decision of a solution; `others` are more flexible models with their Akaike weights."""
    values = np.asarray(values, dtype=np.float64)
    surface = solution.surface + center
    residual = np.where(np.isfinite(values), values - surface, np.nan)
    # Standard error of a prediction if the model is uncertain (Buckland et al., Biometrics 53, 603 (1997), eq. 9),
    # about the prediction of the chosen model: a term that is too small to be chosen need not be zero.
    sigma = (1 - sum(weight for weight, *_ in others)) * np.sqrt(_variance(data, basis, solution))
    for weight, richer_basis, richer in others:
        sigma = sigma + weight * np.sqrt(_variance(data, richer_basis, richer)
                                         + (richer.surface - solution.surface) ** 2)
    return SurfaceFit(surface, sigma, residual, basis.name, scores, _decide(basis.name, data, solution, requested),
                      taken=_taken(data, basis, solution))


def _taken(data, basis, solution):
    """Sums of the covariance of the surface over used positions and over pairs of neighbors, in units of the noise."""
    covariance = np.linalg.pinv(solution.gram, hermitian=True)
    weight = np.sqrt(solution.weight)
    distances = (0, 0), *((step * axis, step * (1 - axis)) for step in CORRELATION_LAGS for axis in (1, 0))
    sums = []
    for down, right in distances:
        rows, columns = (max(n - step, 0) for n, step in zip(weight.shape, (down, right), strict=True))
        a, b = np.s_[down:, right:], np.s_[:rows, :columns]
        sums.append(float((surface_variance(basis, covariance, (down, right)) * weight[a] * weight[b]).sum()))
    return tuple(sums)


def _variance(data, basis, solution):
    """Variance (Rx, Ry) of a surface if its model is correct."""
    variance = surface_variance(basis, np.linalg.pinv(solution.gram, hermitian=True))
    z = ((data.y - solution.surface) / solution.noise)[data.use]
    # Asymptotic variance of the biweight, including rejected positions (Huber, Robust Statistics, 1981).
    t = np.minimum((z / TUKEY_CUT) ** 2, 1)
    psi2, slope, weight = (z**2 * (1 - t) ** 4).sum(), ((1 - t) * (1 - 5 * t)).sum(), ((1 - t) ** 2).sum()
    inflate = psi2 * weight / slope**2 if slope > 0.3 * weight and z.size > 2 * solution.edf + 10 else 1.05
    return np.maximum(variance * np.clip(inflate, 1.0, 4.0), 0)


def _decide(name, data, solution, requested):
    """Decide whether the surface describes the positions; residuals of both coordinates are tested together later."""
    r = (data.y - solution.surface) * data.use
    # The most precise positions may set the noise; the others are inliers if they agree within their sigma.
    inlier = data.use & (np.abs(r) < TUKEY_CUT * np.maximum(solution.noise, data.sigma))
    ignored = float(1 - inlier.sum() / data.use.sum())
    if 2 * inlier.sum() < data.use.sum():
        return Decision(False, (Flag("most_positions_off", {"percent": 100 * ignored, "model": name}),))
    if _dense_fraction(data.use & ~inlier, data.use) > MAX_DENSE_OUTLIERS:
        return Decision(False, (Flag("two_surfaces", {"percent": 100 * ignored}),))
    used, largest = int(data.use.sum()), float(np.abs(r).max())
    if used == 1:
        return Decision(True, (Flag("single_position"),))
    distant = np.abs(r) > np.maximum(MIN_LINE_OFF_PX, TUKEY_CUT * data.sigma)
    # A position far from the surface of few positions may be an outlier, or due to curvature of the descan.
    determined = used >= MIN_POSITIONS_PER_TERM * len(POWERS["parabola"])
    if requested == "auto" and not determined and distant.any():
        return Decision(False, (Flag("too_few_positions", {"count": used, "deviation": largest, "model": name}),))
    flags = []
    if ignored > 0.01:
        flags.append(Flag("outliers", {"percent": 100 * ignored}))
    if requested not in ("auto", name):
        flags.append(Flag("model_undetermined", {"asked": requested, "model": name}))
    return Decision(True, tuple(flags))


def _dense_fraction(outliers, use):
    """Fraction of the used positions for which most used positions in the surrounding 5 x 5 are outliers."""
    density = [uniform_filter(a.astype(float), 5, mode="nearest") for a in (outliers, use)]
    return (use & (density[0] > 0.75 * density[1])).sum() / use.sum()


def _grid(datas):
    """Choose the grid (rows, columns) on which the models are compared, and return whether it is complete.

    Rows and columns without a measurement are left out, so that a sample of a large scan takes no longer than a small
    scan. A large grid is thinned.
    """
    use = np.logical_or.reduce([d.use for d in datas])
    measured = [np.flatnonzero(use.any(axis)) for axis in (1, 0)]
    shape = [len(h) for h in measured]
    excess = max(1.0, shape[0] * shape[1] / _MAX_CHOICE_POSITIONS)
    short = int(np.clip(min(shape) // 100, 1, np.ceil(np.sqrt(excess))))  # a short axis is not thinned
    long = int(np.ceil(excess / short))
    steps = (short, long) if shape[0] <= shape[1] else (long, short)
    grid = [thinned(h, step) for h, step in zip(measured, steps, strict=True)]
    if steps == (1, 1) or min(int(d.use[np.ix_(*grid)].sum()) for d in datas) < 2000:
        return measured, True
    return grid, False


def _spread(basis, data, grid, solution):
    """Evaluate a solution that was found on the rows and columns with measurements on the whole scan."""
    if data.y.shape == solution.surface.shape:
        return solution
    noise, weight = np.ones(data.y.shape), np.zeros(data.y.shape)
    noise[np.ix_(*grid)], weight[np.ix_(*grid)] = solution.noise, solution.weight
    return replace(solution, surface=evaluate(basis, solution.coef), noise=noise, weight=weight)
