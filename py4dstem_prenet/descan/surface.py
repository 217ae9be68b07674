"""Robust fit of a smooth surface to measured origin maps.

Each model (`models.py`) is fitted by iteratively reweighted least squares with Tukey's biweight, from a start that is
robust against outliers (least median of squares). The model, a polynomial or a penalized spline, is chosen by the
residuals at held-out blocks of positions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import uniform_filter

from ..core import (
    CORRELATION_LAGS,
    NORMAL_MAD,
    TUKEY_CUT,
    Decision,
    Flag,
    ModelTrial,
    PrenetError,
    quick_median,
    robust_loss,
    robust_sigma,
)
from . import MODELS, candidates, evaluate, extend_surface, measured_box, normal, solve, surface_variance, thinned

LEAST_SIGMA_PX = 1e-7  # pixels; keeps weights finite on noise-free input
_PENALTIES = 10.0 ** np.arange(-8, 3)  # penalties of the spline that are tried, relative to the sum of weights
_MAX_CHOICE_POSITIONS = 40_000  # positions of the grid on which the model is chosen; chosen for speed
# Standard errors; smallest improvement for a more flexible polynomial, and for the spline. On 160 simulated 16 x 16
# scans of 10 kinds, with curvature near the detection limit, the mean error is 4 % above that of the best of the four
# models; 6 % with 0.5, and 10 % with the minimum of the held-out residuals.
_MARGIN_SIGMAS, _SPLINE_MARGIN_SIGMAS = 1.0, 2.0
# Fraction of the rms of the descan; smallest rms distance of the spline from the polynomial for which it is used. A
# spline also follows beam deflection by the specimen: on multislice scans of particles, splines that reduced held-out
# residuals but increased the true error differed by 2 to 8 %.
MIN_SPLINE_BEND = 0.12
# Valid positions; with fewer, the fit is refused if one lies more than MAX_SPARSE_OFFSET_PX from the surface, since it
# may be an outlier or due to curvature of the descan. Set on simulated scans.
MIN_CURVED_POSITIONS = 12
MAX_SPARSE_OFFSET_PX = 0.25  # pixels; largest distance from the surface if there are few positions
MAX_DENSE_OUTLIERS = 0.25  # fraction of the positions; if more lie in dense groups of outliers, there are two surfaces
MAX_IGNORED = 0.5  # fraction of the positions; with more outliers, the fit is refused
MIN_MODEL_WEIGHT = 0.02  # Akaike weight; smallest of a more flexible model that contributes to the uncertainty


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


@dataclass(frozen=True)
class _Data:
    """One origin map, prepared for the fit; arrays (Rx, Ry)."""

    y: np.ndarray  # zero where unused
    sigma: np.ndarray  # one where unused
    use: np.ndarray

    def at(self, rows, cols):
        """Restrict the map to rows and columns."""
        return _Data(*(a[np.ix_(rows, cols)] for a in (self.y, self.sigma, self.use)))


@dataclass(frozen=True)
class _Solution:
    """A fitted model of one map."""

    coef: np.ndarray
    surface: np.ndarray
    noise: np.ndarray  # total standard deviation of each measurement
    weight: np.ndarray  # robust weight divided by noise squared; zero where unused
    gram: np.ndarray  # normal matrix, including the penalty
    lam: float  # penalty
    edf: float  # effective number of parameters


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


# --- the fit of one or two maps -------------------------------------------------------------------
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
        datas.append(_Data(np.where(data.use, data.y - center, 0.0), data.sigma, data.use))
        centers.append(center)
    needed = min(3, datas[0].y.size)
    if min(int(d.use.sum()) for d in datas) < needed:
        return [_refused(v, d) for (v, _), d in zip(maps, datas, strict=True)]

    shape = datas[0].y.shape
    grid, whole = _grid(datas)
    bases = candidates(shape, np.logical_and.reduce([d.use for d in datas]), model)
    coarse = [d.at(*grid) for d in datas]
    coarse_bases = [b.at(*grid) for b in bases]
    starts = [_solve_all(coarse_bases, d) for d in coarse]
    wanted = "auto" if model == "auto" else bases[-1].name
    chosen, scores = _choose(coarse_bases, coarse, starts, wanted)
    richer = _richer_models(coarse_bases, coarse, starts, chosen) if model == "auto" and whole else {}
    fits = []
    for (values, _), data, part, center, solutions in zip(maps, datas, coarse, centers, starts, strict=True):
        solution, basis = solutions[chosen], bases[chosen]
        if whole:
            solution = _spread(basis, data, grid, solution)
        else:  # the basis functions are the same: the fit on the full grid starts from the coarse coefficients
            lam = solution.lam * data.use.sum() / max(part.use.sum(), 1)
            solution = _irls(basis, data, evaluate(basis, solution.coef), lam, steps=4)
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
    _Data
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
    return _Data(np.where(use, values, 0.0), np.where(use, np.maximum(sigma, LEAST_SIGMA_PX), 1.0), use)


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
    if ignored > MAX_IGNORED:
        return Decision(False, (Flag("most_positions_off", {"percent": 100 * ignored, "model": name}),))
    if _dense_fraction(data.use & ~inlier, data.use) > MAX_DENSE_OUTLIERS:
        return Decision(False, (Flag("two_surfaces", {"percent": 100 * ignored}),))
    used, largest = int(data.use.sum()), float(np.abs(r).max())
    if used == 1:
        return Decision(True, (Flag("single_position"),))
    distant = np.abs(r) > np.maximum(MAX_SPARSE_OFFSET_PX, TUKEY_CUT * data.sigma)
    if requested == "auto" and used < MIN_CURVED_POSITIONS and distant.any():
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


# --- robust fits ----------------------------------------------------------------------------------
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


def _irls(basis, data, surface, lam=0.0, noise=None, steps=30):
    """Iteratively reweighted least squares from a start surface."""
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
    return _Solution(coef, surface, noise, weight, penalized, lam, edf)


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
    trial = (np.linalg.pinv(design[subsets]) @ y[subsets][..., None])[..., 0]
    trial = np.vstack([trial, np.zeros((1, size))])
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
        polished = (np.linalg.pinv(gram, hermitian=True) @ ((inlier * y) @ design)[..., None])[..., 0]
        trial = np.vstack([trial[best], polished])
        deviation = np.abs(y - trial @ design.T) / s
    return evaluate(basis, trial[np.argmin(np.median(deviation, axis=1))])


def _nearest_part(deviation):
    """Largest deviation of the nearest 60 % of the positions from each start, (starts, n) to (starts,)."""
    at = 0.6 * (deviation.shape[1] - 1)
    low, high = int(at), int(np.ceil(at))
    ordered = np.partition(deviation, (low, high), axis=1)
    return ordered[:, low] + (at - low) * (ordered[:, high] - ordered[:, low])  # several times faster than a quantile


def _solve_all(bases, data):
    """Fit all models to one map."""
    solutions = []
    for basis in bases:
        if basis.penalty is None:
            solutions.append(_irls(basis, data, _start(basis, data)))
            continue
        solution, tried = solutions[-1], _PENALTIES[::2]  # the outliers of the parabola are left out first
        for _ in range(2):
            losses = [np.mean(x) for x in _held_out(basis, data, solution, data.use.sum() * tried)]
            best = tried[int(np.argmin(losses))]
            solution = _irls(basis, data, solution.surface, data.use.sum() * best, solution.noise)
            at = int(np.argmin(np.abs(np.log(_PENALTIES / best))))
            tried = _PENALTIES[max(at - 1, 0) : at + 2]  # the best penalty and its neighbors
        solutions.append(solution)
    return solutions


# --- choice ---------------------------------------------------------------------------------------
def folds(shape):
    """Divide a scan into nine interleaved sets of blocks (3 by 3) for cross-validation.

    Parameters
    ----------
    shape : tuple of int
        (Rx, Ry).

    Returns
    -------
    numpy.ndarray of int, shape (Rx, Ry)
        Set of each position, 0 to 8. The partition is the same for a flipped or transposed scan.

    Examples
    --------
    >>> from py4dstem_prenet.descan.surface import folds
    >>> folds((2, 4)).tolist()
    [[0, 1, 2, 0], [3, 4, 5, 3]]
    """
    labels = np.zeros(shape, int)
    for k, rows in enumerate(_thirds(shape[0])):
        for m, columns in enumerate(_thirds(shape[1])):
            labels[np.ix_(rows, columns)] = 3 * k + m
    return labels


def _thirds(count):
    """Indices of three interleaved sets of blocks of `count` rows or columns."""
    block = max(1, round(count / 24))
    at = np.arange(count)
    label = (at if block == 1 else np.rint((at - (count - 1) / 2) / block).astype(int)) % 3
    return [np.flatnonzero(label == k) for k in range(3)]


def _held_out(basis, data, reference, lams):
    """Compute losses at held-out positions: for each penalty, one array over the used positions.

    Robust weights and noise are taken from the reference solution.
    """
    shape = data.y.shape
    weight = reference.weight
    total = normal(basis, weight, data.y)
    mass, count = weight.sum(), data.use.sum()
    residuals = np.zeros((len(lams), *shape))
    rows, columns = (_thirds(n) for n in shape)
    for r in rows:
        of_rows = basis.at(r, slice(None))
        for c in columns:
            block = r[:, None], c
            used = data.use[block]
            if not used.any():
                continue
            block_basis, w, y = of_rows.at(slice(None), c), weight[block], data.y[block]
            gram, right = (a - b for a, b in zip(total, normal(block_basis, w, y), strict=True))
            mean = (mass - w.sum()) / max(count - used.sum(), 1)
            for k, lam in enumerate(lams):
                penalized = gram if basis.penalty is None else gram + lam * mean * basis.penalty
                residuals[k][block] = y - evaluate(block_basis, solve(penalized, right))
    return [robust_loss((r / reference.noise)[data.use]) for r in residuals]


def _choose(bases, datas, starts, wanted):
    """Choose one model for all maps: its index, and the score of each model.

    The chosen model is the simplest polynomial that is not worse than the best polynomial by `_MARGIN_SIGMAS` standard
    errors of the paired difference of held-out losses. The spline is chosen instead if it is better by
    `_SPLINE_MARGIN_SIGMAS`; this margin is larger because its penalty was chosen by the same losses.
    """
    if len(bases) == 1:
        return 0, {}
    losses = []
    for k, basis in enumerate(bases):
        parts = [_held_out(basis, d, s[-1], [s[k].lam])[0] for d, s in zip(datas, starts, strict=True)]
        losses.append(np.concatenate(parts))
    scores = {b.name: float(np.sqrt(x.mean())) for b, x in zip(bases, losses, strict=True)}
    if wanted != "auto":
        return len(bases) - 1, scores

    def _clearly_worse(k, other, margin):
        worse = losses[k] - losses[other]
        return worse.mean() > margin * worse.std() / np.sqrt(worse.size)

    polynomials = [k for k, b in enumerate(bases) if b.penalty is None]
    best = min(polynomials, key=lambda k: losses[k].mean())
    best = next(k for k in polynomials if k == best or not _clearly_worse(k, best, _MARGIN_SIGMAS))
    if bases[-1].penalty is not None and _clearly_worse(best, len(bases) - 1, _SPLINE_MARGIN_SIGMAS):
        bend = sum(np.var(s[-1].surface - s[best].surface) for s in starts)
        if bend > MIN_SPLINE_BEND**2 * sum(np.var(s[-1].surface) for s in starts):
            best = len(bases) - 1
    return best, scores


def _richer_models(bases, datas, starts, chosen):
    """Compute the Akaike weights of the polynomials that are more flexible than the chosen model: {index: weight}.

    They and the weight of the chosen model add to 1. Residuals are clipped, so that outliers have little influence.
    """
    polynomials = [k for k, basis in enumerate(bases) if basis.penalty is None and k >= chosen]
    if len(polynomials) < 2:
        return {}
    last = polynomials[-1]
    criterion = np.array([
        sum(np.minimum(((d.y - s[k].surface) / s[last].noise)[d.use] ** 2, TUKEY_CUT**2).sum() for d, s in
            zip(datas, starts, strict=True)) + 2 * len(datas) * len(bases[k].keep) for k in polynomials])
    weights = np.exp(-(criterion - criterion.min()) / 2)
    weights /= weights.sum()
    return {k: float(w) for k, w in zip(polynomials[1:], weights[1:], strict=True) if w > MIN_MODEL_WEIGHT}


# --- the grid ------------------------------------------------------------------------------------
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
