"""The models of a descan surface, and their linear algebra on the grid of scan positions.

Every model is a sum over products of one-dimensional basis functions of the scan row and the scan column, so
normal equations and variances are three matrix products on the grid and no design matrix of all positions is
ever made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import BSpline

MODELS = ("constant", "plane", "parabola", "spline")

_POWERS = {  # (power of row, power of column) of the terms of each polynomial
    "constant": [(0, 0)],
    "plane": [(0, 0), (1, 0), (0, 1)],
    "parabola": [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)],
}


@dataclass(frozen=True)
class Basis:
    """One model on the grid of a scan."""

    name: str
    rows: np.ndarray  # (Rx, p)
    cols: np.ndarray  # (Ry, q)
    keep: np.ndarray  # which of the p * q products belong to the model
    penalty: np.ndarray | None  # roughness, over the kept products

    def at(self, rows, cols):
        """The model on some rows and columns of the scan."""
        return Basis(self.name, self.rows[rows], self.cols[cols], self.keep, self.penalty)


def candidates(shape, use, model) -> list[Basis]:
    """The models that the positions in use, (Rx, Ry) bool, determine, simplest first; up to `model` unless "auto"."""
    count = int(use.sum())
    found = []
    for name in MODELS:
        basis = _spline(shape) if name == "spline" else _polynomial(name, shape)
        size = len(basis.keep)
        if name == "constant":
            found.append(basis)
        elif name == "spline":
            grown = max(use.any(1).sum(), use.any(0).sum()) >= 8
            if count >= 40 and grown and found[-1].name == "parabola":
                found.append(basis)
        elif size > len(found[-1].keep) and count >= (2 * size if model == "auto" else size):
            # a term fixed by a thin strip of positions would run away over the rest of the scan
            gram, _ = normal(basis, use.astype(float), np.zeros(shape))
            scale = 1 / np.sqrt(np.maximum(np.diag(gram), 1e-300))
            if np.linalg.eigvalsh(gram * np.outer(scale, scale))[0] > 1e-7:
                leverage = surface_variance(basis, np.linalg.inv(gram))
                if leverage.max() < 50 * leverage[use].mean():
                    found.append(basis)
        if name == model:
            break
    return found


def _polynomial(name, shape):
    rows, cols = (np.linspace(-1, 1, n)[:, None] ** np.arange(3) if n > 1 else np.eye(1, 3) for n in shape)
    keep = [3 * a + b for a, b in _POWERS[name] if a < shape[0] and b < shape[1]]
    return Basis(name, rows, cols, np.array(keep), None)


def _spline(shape):
    """Tensor-product cubic B-splines. The roughness is the variance of the second derivatives over the scan,
    so a parabola costs nothing, and far from any position the curvature returns to the mean one."""
    longest = max(max(shape) - 1, 1)
    (rows, r), (cols, c) = (_spline_axis(n, (n - 1) / longest) for n in shape)
    area = r["mean"][0].sum() * c["mean"][0].sum()
    penalty = 0.0
    for a, b, factor in ((2, 0, 1), (1, 1, 2), (0, 2, 1)):
        mean = np.kron(r["mean"][a], c["mean"][b])
        penalty = penalty + factor * (np.kron(r["square"][a], c["square"][b]) - np.outer(mean, mean) / area)
    return Basis("spline", rows, cols, np.arange(rows.shape[1] * cols.shape[1]), penalty / area)


def _spline_axis(n, half):
    if n == 1:
        mean, square = np.eye(3)[:, :1], np.eye(3)[:, :1, None]  # one flat function, no derivatives
        return np.ones((1, 1)), {"mean": mean, "square": square}
    degree, pieces = min(3, n - 1), int(np.clip((n - 1) // 2, 1, 8))
    edges = np.linspace(-half, half, pieces + 1)
    knots = np.concatenate([[-half] * degree, edges, [half] * degree])
    nodes, weights = np.polynomial.legendre.leggauss(5)
    at = (edges[:-1, None] + (nodes + 1) * half / pieces).ravel()
    weights = np.tile(weights * half / pieces, pieces)
    basis = BSpline(knots, np.eye(len(knots) - degree - 1), degree)
    derivatives = [basis(at)] + [basis.derivative(k)(at) if k <= degree else 0 * basis(at) for k in (1, 2)]
    return basis(np.linspace(-half, half, n)), {
        "mean": [weights @ d for d in derivatives],
        "square": [d.T @ (weights[:, None] * d) for d in derivatives],
    }


# --- linear algebra on the grid -------------------------------------------------------------------
def _pairs(axis):
    return (axis[:, :, None] * axis[:, None, :]).reshape(len(axis), -1)


def normal(basis, weight, y):
    """Normal matrix and right side of the weighted fit to a map y (Rx, Ry)."""
    p, q = basis.rows.shape[1], basis.cols.shape[1]
    gram = (_pairs(basis.rows).T @ weight @ _pairs(basis.cols)).reshape(p, p, q, q)
    gram = gram.transpose(0, 2, 1, 3).reshape(p * q, p * q)
    right = (basis.rows.T @ (weight * y) @ basis.cols).ravel()
    return gram[np.ix_(basis.keep, basis.keep)], right[basis.keep]


def evaluate(basis, coef):
    """The surface (Rx, Ry) of coefficients."""
    p, q = basis.rows.shape[1], basis.cols.shape[1]
    full = np.zeros(p * q)
    full[basis.keep] = coef
    return basis.rows @ full.reshape(p, q) @ basis.cols.T


def surface_variance(basis, covariance):
    """Variance (Rx, Ry) of the surface whose coefficients have this covariance."""
    p, q = basis.rows.shape[1], basis.cols.shape[1]
    full = np.zeros((p * q, p * q))
    full[np.ix_(basis.keep, basis.keep)] = covariance
    full = full.reshape(p, q, p, q).transpose(0, 2, 1, 3).reshape(p * p, q * q)
    return _pairs(basis.rows) @ full @ _pairs(basis.cols).T


def solve(gram, right):
    """Solve normal equations, scaled to a unit diagonal."""
    scale = 1 / np.sqrt(np.maximum(np.diag(gram), 1e-300))
    scaled = gram * np.outer(scale, scale)
    scaled[np.diag_indices_from(scaled)] += 1e-11
    return scale * np.linalg.solve(scaled, scale * right if right.ndim == 1 else scale[:, None] * right)


def thinned(array, step):
    """Every step-th row, as many left out at one end as at the other."""
    return array[(len(array) - 1) % step // 2 :: step]
