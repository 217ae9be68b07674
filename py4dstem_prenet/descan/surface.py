"""A smooth descan surface through measured origin maps: robust, weighted, its model chosen by held-out residuals."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import uniform_filter

from ..core import (
    NORMAL_MAD,
    TUKEY_CUT,
    Decision,
    Flag,
    ModelTrial,
    PrenetError,
    robust_loss,
    robust_sigma,
)
from .models import MODELS, candidates, evaluate, normal, solve, surface_variance, thinned
from .reach import extend_surface, measured_box

_TINY = 1e-7  # px; keeps weights finite on noise-free input
_PENALTIES = 10.0 ** np.arange(-8, 3)  # relative to the sum of weights
_CHOICE_POINTS = 40_000  # the model is chosen on a coarser grid of about this many positions
# Standard errors by which a richer polynomial, and the spline, must be better. Simulated on 16 x 16 scans at
# the edge of what can be detected (160 scans of 10 kinds), the mean error to truth is on average 4 % above
# that of always taking the best of the four; 6 % with 0.5, and 10 % with a plain minimum of the polynomials.
_MARGIN, _SPLINE_MARGIN = 1.0, 2.0
# A spline follows whatever is smooth, the deflection of the beam by the specimen included. It is taken for descan
# only where it bends away from the polynomial by this part of the descan itself: on multislice scans over
# particles the departures that helped held-out residuals and hurt the truth were 2 to 8 %.
BEND = 0.12

FEW, FAR = 12, 0.25  # positions, that cannot tell a bent descan from wrong positions; px off the surface that this is
TOGETHER = 0.25  # of the positions, off the surface side by side: no outliers, but another surface


@dataclass(frozen=True)
class SurfaceFit:
    """A surface fitted to one origin map; maps have the scan's shape (Rx, Ry) and are in pixels, float64.

    values: the surface, finite everywhere. sigma: its one-sigma uncertainty (inf where nothing was measured).
    residual: measured minus fitted, NaN where the input is not finite. model: the model that was used.
    scores: held-out robust residual of each candidate, in units of the noise (1 = noise alone).
    decision: accepted if the surface can be trusted. trials: the models that were compared.
    """

    values: np.ndarray
    sigma: np.ndarray
    residual: np.ndarray
    model: str
    scores: dict[str, float]
    decision: Decision
    trials: tuple[ModelTrial, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether the surface can be trusted."""
        return self.decision.accepted


@dataclass(frozen=True)
class _Data:
    y: np.ndarray  # zero where unused
    sigma: np.ndarray  # one where unused
    use: np.ndarray

    def at(self, rows, cols):
        return _Data(*(a[np.ix_(rows, cols)] for a in (self.y, self.sigma, self.use)))


@dataclass(frozen=True)
class _Solution:
    coef: np.ndarray
    surface: np.ndarray
    noise: np.ndarray  # total one-sigma noise of each measurement
    weight: np.ndarray  # robust weight over noise squared; zero where unused
    gram: np.ndarray  # normal matrix, with the penalty
    lam: float
    edf: float


def fit_surface(values, sigma, valid, model="auto") -> SurfaceFit:
    """Fit a smooth surface to one origin map.

    values, sigma: (Rx, Ry) in px, the measured coordinate and its one-sigma error (a scalar will do for
    sigma; an excess of noise over it is estimated). valid: (Rx, Ry) bool, True = use. Positions that are not
    finite are left out. Up to some 30 % of the positions may be far off, all to one side. model: "constant",
    "plane", "parabola", "spline", or "auto" to choose by held-out residuals; a model that the valid positions
    cannot determine gives way to the richest one that they can. Raises PrenetError for an unknown model or
    maps whose shapes differ.
    """
    return _fit_seen([(values, sigma)], valid, model)[0]


def fit_pair(qx, qy, sigma_qx, sigma_qy, valid, model="auto") -> tuple[SurfaceFit, SurfaceFit]:
    """Fit both coordinates of the origin with one model, chosen for the two together; see `fit_surface`."""
    first, second = _fit_seen([(qx, sigma_qx), (qy, sigma_qy)], valid, model)
    return first, second


# --- the fit of one or two maps -------------------------------------------------------------------
def _fit_seen(maps, valid, model):
    """`_fit`; where the beam is seen in a part of the scan only, as bent a surface there as that part determines."""
    fits = _fit(maps, valid, model)
    use = np.logical_and.reduce([prepare(values, sigma, valid).use for values, sigma in maps])
    box = measured_box(use)
    if box is None:
        return fits
    cut = [(np.asarray(values)[box], np.broadcast_to(sigma, use.shape)[box]) for values, sigma in maps]
    there = _fit(cut, use[box], model)
    if MODELS.index(there[0].model) <= MODELS.index(fits[0].model):
        return fits
    return [extend_surface(inner, outer, box) for inner, outer in zip(there, fits, strict=True)]


def _fit(maps, valid, model):
    if model != "auto" and model not in MODELS:
        known = ", ".join(MODELS)
        raise PrenetError(f"The surface model {model!r} is unknown; use 'auto' or one of {known}.")
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
    fits = []
    for (values, _), data, part, center, solutions in zip(maps, datas, coarse, centers, starts, strict=True):
        solution, basis = solutions[chosen], bases[chosen]
        if whole:
            solution = _spread(basis, data, grid, solution)
        else:  # same basis functions, so the coarse coefficients start the full grid
            lam = solution.lam * data.use.sum() / max(part.use.sum(), 1)
            solution = _irls(basis, data, evaluate(basis, solution.coef), lam, steps=4)
        fits.append(_finish(values, data, center, basis, solution, scores, model))
    trials = _trials(bases, coarse, starts, chosen)
    return [replace(fit, trials=trials) for fit in fits]


def _trials(bases, datas, starts, chosen):
    """How well each model fits all maps, and how far its surface lies from the chosen one."""
    trials = []
    for k, basis in enumerate(bases):
        off = [(d.y - s[k].surface)[d.use] for d, s in zip(datas, starts, strict=True)]
        moves = sum(np.mean((s[k].surface - s[chosen].surface) ** 2) for s in starts)
        trials.append(ModelTrial(basis.name, robust_sigma(np.concatenate(off)), float(np.sqrt(moves)), True, k == chosen))
    named = {trial.model for trial in trials}
    return (*trials, *(ModelTrial(name, np.nan, np.nan, False, False) for name in MODELS if name not in named))


def prepare(values, sigma, valid):
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or values.size == 0:
        raise PrenetError(f"An origin map must have the scan's shape (Rx, Ry), not {values.shape}.")
    try:
        sigma = np.broadcast_to(np.asarray(sigma, dtype=np.float64), values.shape)
        valid = np.broadcast_to(np.asarray(valid, dtype=bool), values.shape)
    except ValueError:
        raise PrenetError(f"sigma and valid must have the shape of the origin map, {values.shape}.") from None
    use = valid & np.isfinite(values) & np.isfinite(sigma) & (sigma >= 0)
    return _Data(np.where(use, values, 0.0), np.where(use, np.maximum(sigma, _TINY), 1.0), use)


def _refused(values, data):
    values = np.asarray(values, dtype=np.float64)
    pool = values[data.use] if data.use.any() else values[np.isfinite(values)]
    guess = float(np.median(pool)) if pool.size else 0.0
    count = int(data.use.sum())
    residual = np.where(np.isfinite(values), values - guess, np.nan)
    flat = np.full(values.shape, guess)
    flag = Flag("no_surface", {"count": count, "total": int(values.size)})
    return SurfaceFit(flat, np.full(values.shape, np.inf), residual, "constant", {}, Decision(False, (flag,)))


def _finish(values, data, center, basis, solution, scores, asked):
    values = np.asarray(values, dtype=np.float64)
    surface = solution.surface + center
    residual = np.where(np.isfinite(values), values - surface, np.nan)
    variance = surface_variance(basis, np.linalg.pinv(solution.gram, hermitian=True))
    z = ((data.y - solution.surface) / solution.noise)[data.use]
    # efficiency of the biweight, rejected positions included
    t = np.minimum((z / TUKEY_CUT) ** 2, 1)
    psi2, slope, weight = (z**2 * (1 - t) ** 4).sum(), ((1 - t) * (1 - 5 * t)).sum(), ((1 - t) ** 2).sum()
    inflate = psi2 * weight / slope**2 if slope > 0.3 * weight and z.size > 2 * solution.edf + 10 else 1.05
    sigma = np.sqrt(np.maximum(variance * np.clip(inflate, 1.0, 4.0), 0))
    return SurfaceFit(surface, sigma, residual, basis.name, scores, _decide(basis.name, data, solution, asked))


def _decide(name, data, solution, asked):
    """Whether the surface describes the positions; what the residuals are is tested for both coordinates together."""
    r = (data.y - solution.surface) * data.use
    near = data.use & (np.abs(r) < TUKEY_CUT * solution.noise)
    ignored = float(1 - near.sum() / data.use.sum())
    if ignored > 0.5:
        return Decision(False, (Flag("most_positions_off", {"percent": 100 * ignored, "model": name}),))
    if _dense(data.use & ~near, data.use) > TOGETHER:
        return Decision(False, (Flag("two_surfaces", {"percent": 100 * ignored}),))
    used, furthest = int(data.use.sum()), float(np.abs(r).max())
    if used == 1:
        return Decision(True, (Flag("single_position"),))
    if asked == "auto" and used < FEW and (np.abs(r) > np.maximum(FAR, TUKEY_CUT * data.sigma)).any():
        return Decision(False, (Flag("too_few_positions", {"count": used, "deviation": furthest, "model": name}),))
    flags = []
    if ignored > 0.01:
        flags.append(Flag("outliers", {"percent": 100 * ignored}))
    if asked not in ("auto", name):
        flags.append(Flag("model_undetermined", {"asked": asked, "model": name}))
    return Decision(True, tuple(flags))


def _dense(off, use):
    """The part of the positions in use in whose surroundings nearly all that are in use are off."""
    share = [uniform_filter(a.astype(float), 5, mode="nearest") for a in (off, use)]
    return (use & (share[0] > 0.75 * share[1])).sum() / use.sum()


# --- robust fits ----------------------------------------------------------------------------------
def _noise(r, data, edf, previous=None):
    """Total noise: sigma and a floor in quadrature so that the median residual is a Gaussian's (or sigma
    scaled down where it is plainly too large). Rejected positions do not count once there is a `previous`
    noise."""
    inside = data.use
    if previous is not None:
        near = data.use & (np.abs(r) < TUKEY_CUT * previous)
        inside = near if 2 * near.sum() > data.use.sum() else data.use
    r, s = np.abs(r[inside]), data.sigma[inside]
    if r.size > 20_000:
        stride = r.size // 20_000 + 1
        r, s = r[::stride], s[::stride]
    freedom = inside.sum() - edf
    if freedom < 1:
        return data.sigma
    r = r * np.sqrt(inside.sum() / freedom)
    ratio = np.median(r / s) / NORMAL_MAD
    if ratio <= 1:
        return data.sigma if freedom < 10 else np.maximum(data.sigma * ratio, _TINY)
    low, high = 0.0, np.median(r) / NORMAL_MAD * 1.01 + _TINY
    for _ in range(20):
        floor = (low + high) / 2
        low, high = (floor, high) if np.median(r / np.hypot(s, floor)) > NORMAL_MAD else (low, floor)
    return np.hypot(data.sigma, (low + high) / 2)


def _irls(basis, data, surface, lam=0.0, noise=None, steps=30):
    edf = float(len(basis.keep)) if basis.penalty is None else 6.0
    for _ in range(steps):
        r = data.y - surface
        noise = _noise(r, data, edf, noise)
        weight = data.use * (1 - np.minimum((r / (TUKEY_CUT * noise)) ** 2, 1)) ** 2 / noise**2
        gram, right = normal(basis, weight, data.y)
        whole = gram
        if basis.penalty is not None:
            whole = gram + lam * (weight.sum() / data.use.sum()) * basis.penalty
            edf = float(np.trace(solve(whole, gram)))
        coef = solve(whole, right)
        last, surface = surface, evaluate(basis, coef)
        if np.abs(surface - last).max() < 1e-4 * np.sqrt(edf / weight.sum()) + 1e-10:
            break
    return _Solution(coef, surface, noise, weight, whole, lam, edf)


def _start(basis, data):
    """Least median of squares over random small subsets: outliers, even clustered ones, do not steer it."""
    rng = np.random.default_rng(0)
    i, j = np.nonzero(data.use)
    if i.size > 1500:
        some = np.sort(rng.choice(i.size, 1500, replace=False))
        i, j = i[some], j[some]
    design = (basis.rows[i][:, :, None] * basis.cols[j][:, None, :]).reshape(i.size, -1)[:, basis.keep]
    size = design.shape[1]
    y, s = data.y[i, j], data.sigma[i, j]
    s = np.hypot(s, np.median(s))  # a wrong position may claim a tiny error
    subsets = rng.integers(i.size, size=(400 if size > 1 else 100, size))
    trial = (np.linalg.pinv(design[subsets]) @ y[subsets][..., None])[..., 0]
    trial = np.vstack([trial, np.zeros((1, size))])
    off = np.abs(y - trial @ design.T) / s
    for _ in range(4):  # polish the best by refitting their nearer 60 %
        score = np.quantile(off, 0.6, axis=1)
        best = np.argsort(score, kind="stable")[:10]
        near = (off[best] <= score[best, None]) / s**2
        gram = np.einsum("tn,na,nb->tab", near, design, design)
        right = np.einsum("tn,na,n->ta", near, design, y)
        polished = (np.linalg.pinv(gram, hermitian=True) @ right[..., None])[..., 0]
        trial = np.vstack([trial[best], polished])
        off = np.abs(y - trial @ design.T) / s
    return evaluate(basis, trial[np.argmin(np.median(off, axis=1))])


def _solve_all(bases, data):
    solutions = []
    for basis in bases:
        if basis.penalty is None:
            solutions.append(_irls(basis, data, _start(basis, data)))
            continue
        solution = solutions[-1]  # the parabola's idea of which positions are outliers
        for _ in range(2):
            losses = [np.mean(x) for x in _held_out(basis, data, solution, data.use.sum() * _PENALTIES)]
            lam = data.use.sum() * _PENALTIES[int(np.argmin(losses))]
            solution = _irls(basis, data, solution.surface, lam, solution.noise)
        solutions.append(solution)
    return solutions


# --- choice ---------------------------------------------------------------------------------------
def folds(shape):
    """Nine interleaved sets of blocks (3 by 3), numbered as an (Rx, Ry) map; the partition is the same for a flipped
    or transposed scan."""
    labels = []
    for n in shape:
        block = max(1, round(n / 24))
        i = np.arange(n)
        labels.append((i if block == 1 else np.rint((i - (n - 1) / 2) / block).astype(int)) % 3)
    return 3 * labels[0][:, None] + labels[1][None, :]


def _held_out(basis, data, reference, lams):
    """Losses (one array over the used positions for each penalty) at positions left out of the fit, with the
    robust weights and the noise of the reference solution."""
    fold_of = folds(data.y.shape)
    weight = reference.weight
    total = normal(basis, weight, data.y)
    off = np.zeros((len(lams), *data.y.shape))
    for fold in np.unique(fold_of[data.use]):
        out = fold_of == fold
        gram, right = (a - b for a, b in zip(total, normal(basis, weight * out, data.y), strict=True))
        mean = (weight * ~out).sum() / max((data.use & ~out).sum(), 1)
        for k, lam in enumerate(lams):
            whole = gram if basis.penalty is None else gram + lam * mean * basis.penalty
            off[k][out] = (data.y - evaluate(basis, solve(whole, right)))[out]
    return [robust_loss((o / reference.noise)[data.use]) for o in off]


def _choose(bases, datas, starts, wanted):
    """The simplest polynomial that is not worse than the best one by `_MARGIN` standard errors of the
    (paired) difference of held-out losses, or the spline where it beats that by `_SPLINE_MARGIN` (its penalty
    was chosen by the same losses, which flatters it). All maps count together."""
    if len(bases) == 1:
        return 0, {}
    losses = []
    for k, basis in enumerate(bases):
        parts = [_held_out(basis, d, s[-1], [s[k].lam])[0] for d, s in zip(datas, starts, strict=True)]
        losses.append(np.concatenate(parts))
    scores = {b.name: float(np.sqrt(x.mean())) for b, x in zip(bases, losses, strict=True)}
    if wanted != "auto":
        return len(bases) - 1, scores

    def clearly_worse(k, other, margin):
        worse = losses[k] - losses[other]
        return worse.mean() > margin * worse.std() / np.sqrt(worse.size)

    polynomials = [k for k, b in enumerate(bases) if b.penalty is None]
    best = min(polynomials, key=lambda k: losses[k].mean())
    best = next(k for k in polynomials if k == best or not clearly_worse(k, best, _MARGIN))
    if bases[-1].penalty is not None and clearly_worse(best, len(bases) - 1, _SPLINE_MARGIN):
        bend = sum(np.var(s[-1].surface - s[best].surface) for s in starts)
        if bend > BEND**2 * sum(np.var(s[-1].surface) for s in starts):
            best = len(bases) - 1
    return best, scores


# --- small things ---------------------------------------------------------------------------------
def _grid(datas):
    """((rows, columns) of the scan on which the model is chosen, whether all measurements lie on them).

    Where nothing was measured in a row or column, there is nothing to fit: a sample of a large scan is as quick as a
    small scan. What remains is thinned where it is much.
    """
    use = np.logical_or.reduce([d.use for d in datas])
    held = [np.flatnonzero(use.any(axis)) for axis in (1, 0)]
    shape = [len(h) for h in held]
    excess = max(1.0, shape[0] * shape[1] / _CHOICE_POINTS)
    short = int(np.clip(min(shape) // 100, 1, np.ceil(np.sqrt(excess))))  # a short axis is not thinned
    long = int(np.ceil(excess / short))
    steps = (short, long) if shape[0] <= shape[1] else (long, short)
    grid = [thinned(h, step) for h, step in zip(held, steps, strict=True)]
    if steps == (1, 1) or min(int(d.use[np.ix_(*grid)].sum()) for d in datas) < 2000:
        return held, True
    return grid, False


def _spread(basis, data, grid, solution):
    """A solution on the rows and columns that hold all measurements, on the whole grid of the scan."""
    if data.y.shape == solution.surface.shape:
        return solution
    noise, weight = np.ones(data.y.shape), np.zeros(data.y.shape)
    noise[np.ix_(*grid)], weight[np.ix_(*grid)] = solution.noise, solution.weight
    return replace(solution, surface=evaluate(basis, solution.coef), noise=noise, weight=weight)
