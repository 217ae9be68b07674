"""Choice of the model of a descan surface by its residuals at held-out blocks of positions."""

from __future__ import annotations

import numpy as np

from ..core import TUKEY_CUT, robust_loss
from . import evaluate, normal, solve

# Standard errors; smallest improvement for a more flexible polynomial, and for the spline. On 160 simulated 16 x 16
# scans of 10 kinds, with curvature near the detection limit, the mean error is 4 % above that of the best of the four
# models; 6 % with 0.5, and 10 % with the minimum of the held-out residuals.
MARGIN_SIGMAS, SPLINE_MARGIN_SIGMAS = 1.0, 2.0
# Fraction of the rms of the descan; smallest rms distance of the spline from the polynomial for which it is used. A
# spline also follows beam deflection by the specimen: on multislice scans of particles, splines that reduced held-out
# residuals but increased the true error differed by 2 to 8 %.
MIN_SPLINE_BEND = 0.12


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
    >>> from py4dstem_prenet.descan import folds
    >>> folds((2, 4)).tolist()
    [[0, 1, 2, 0], [3, 4, 5, 3]]
    """
    labels = np.zeros(shape, int)
    for k, rows in enumerate(_thirds(shape[0])):
        for m, columns in enumerate(_thirds(shape[1])):
            labels[np.ix_(rows, columns)] = 3 * k + m
    return labels


def held_out_losses(basis, data, reference, lams):
    """Compute losses at held-out positions.

    Parameters
    ----------
    basis : Basis
        The model.
    data : MapData
        The map.
    reference : FittedModel
        Fit from which robust weights and noise are taken.
    lams : sequence of float
        Penalties.

    Returns
    -------
    list of numpy.ndarray, shape (n,)
        For each penalty, the losses of the used positions.
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


def choose_model(bases, datas, starts, wanted):
    """Choose one model for all maps.

    The chosen model is the simplest polynomial that is not worse than the best polynomial by `MARGIN_SIGMAS` standard
    errors of the paired difference of held-out losses. The spline is chosen instead if it is better by
    `SPLINE_MARGIN_SIGMAS`; this margin is larger because its penalty was chosen by the same losses.

    Parameters
    ----------
    bases : sequence of Basis
        The models, simplest first.
    datas : sequence of MapData
        The maps.
    starts : sequence of list of FittedModel
        Fits of all models, for each map.
    wanted : str
        "auto", or the name of the last model, which is then chosen.

    Returns
    -------
    chosen : int
        Index of the model.
    scores : dict
        Robust held-out residual of each model, in units of the noise.
    """
    if len(bases) == 1:
        return 0, {}
    losses = []
    for k, basis in enumerate(bases):
        parts = [held_out_losses(basis, d, s[-1], [s[k].lam])[0] for d, s in zip(datas, starts, strict=True)]
        losses.append(np.concatenate(parts))
    scores = {b.name: float(np.sqrt(x.mean())) for b, x in zip(bases, losses, strict=True)}
    if wanted != "auto":
        return len(bases) - 1, scores

    def _clearly_worse(k, other, margin):
        worse = losses[k] - losses[other]
        return worse.mean() > margin * worse.std() / np.sqrt(worse.size)

    polynomials = [k for k, b in enumerate(bases) if b.penalty is None]
    best = min(polynomials, key=lambda k: losses[k].mean())
    best = next(k for k in polynomials if k == best or not _clearly_worse(k, best, MARGIN_SIGMAS))
    if bases[-1].penalty is not None and _clearly_worse(best, len(bases) - 1, SPLINE_MARGIN_SIGMAS):
        bend = sum(np.var(s[-1].surface - s[best].surface) for s in starts)
        if bend > MIN_SPLINE_BEND**2 * sum(np.var(s[-1].surface) for s in starts):
            best = len(bases) - 1
    return best, scores


def richer_models(bases, datas, starts, chosen):
    """Compute the Akaike weights of the polynomials that are more flexible than the chosen model.

    They and the weight of the chosen model add to 1. Residuals are clipped, so that outliers have little influence.

    Parameters
    ----------
    bases : sequence of Basis
        The models, simplest first.
    datas : sequence of MapData
        The maps.
    starts : sequence of list of FittedModel
        Fits of all models, for each map.
    chosen : int
        Index of the chosen model.

    Returns
    -------
    dict
        {index: weight} of the more flexible models.
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
    return {k: float(w) for k, w in zip(polynomials[1:], weights[1:], strict=True)}


def _thirds(count):
    """Indices of three interleaved sets of blocks of `count` rows or columns."""
    block = max(1, round(count / 24))
    at = np.arange(count)
    label = (at if block == 1 else np.rint((at - (count - 1) / 2) / block).astype(int)) % 3
    return [np.flatnonzero(label == k) for k in range(3)]
