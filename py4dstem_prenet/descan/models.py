"""Models of a descan surface, and their linear algebra on the grid of scan positions.

Every model is a sum of products of a function of the scan row and a function of the scan column. Normal equations and
variances are therefore matrix products on the grid, without a design matrix of all positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import BSpline
from scipy.linalg.lapack import dposv

MODELS = ("constant", "plane", "parabola", "spline")  # simplest first
MIN_SPLINE_POSITIONS = 40  # used positions; fewest for a spline
MIN_POSITIONS_PER_TERM = 2  # used positions per coefficient; fewest for a polynomial that is chosen automatically
SOLVE_RIDGE = 1e-11  # ridge added to the unit diagonal of scaled normal equations
MAX_LEVERAGE_RATIO = 50  # ratio; largest variance of the surface relative to its mean at used positions
MAX_SPLINE_PIECES = 8  # pieces; most of the spline along each axis of the scan

POWERS = {  # (power of row, power of column) of the terms of each polynomial
    "constant": [(0, 0)],
    "plane": [(0, 0), (1, 0), (0, 1)],
    "parabola": [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)],
}


@dataclass(frozen=True)
class Basis:
    """Basis functions of one model on the grid of a scan.

    Attributes
    ----------
    name : str
        Name of the model, one of MODELS.
    rows : numpy.ndarray, shape (Rx, p)
        Basis functions of the scan row.
    cols : numpy.ndarray, shape (Ry, q)
        Basis functions of the scan column.
    keep : numpy.ndarray of int, shape (k,)
        Indices of the p * q products that belong to the model.
    penalty : numpy.ndarray or None, shape (k, k)
        Roughness matrix of the kept products.
    """

    name: str
    rows: np.ndarray
    cols: np.ndarray
    keep: np.ndarray
    penalty: np.ndarray | None

    def at(self, rows, cols):
        """Restrict the model to given rows and columns of the scan.

        Parameters
        ----------
        rows, cols : numpy.ndarray of int
            Rows and columns.

        Returns
        -------
        Basis
            The model on these rows and columns.
        """
        return Basis(self.name, self.rows[rows], self.cols[cols], self.keep, self.penalty)


def candidates(shape, use, model) -> list[Basis]:
    """List the models that the used positions determine.

    Parameters
    ----------
    shape : tuple of int
        Shape (Rx, Ry) of the scan.
    use : numpy.ndarray of bool, shape (Rx, Ry)
        True where a position is used.
    model : str
        Most flexible model to list, one of MODELS, or "auto" for all.

    Returns
    -------
    list of Basis
        The models, simplest first.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.descan.models import candidates
    >>> use = np.ones((6, 9), bool)
    >>> [basis.name for basis in candidates(use.shape, use, "auto")]
    ['constant', 'plane', 'parabola', 'spline']
    >>> use[2:] = False  # two rows do not determine a parabola
    >>> [basis.name for basis in candidates(use.shape, use, "auto")]
    ['constant', 'plane']
    """
    count = int(use.sum())
    bases = []
    for name in MODELS:
        basis = _spline(shape) if name == "spline" else _polynomial(name, shape)
        size = len(basis.keep)
        if name == "constant":
            bases.append(basis)
        elif name == "spline":
            if count >= MIN_SPLINE_POSITIONS and bases[-1].name == "parabola":
                bases.append(basis)
        elif size > len(bases[-1].keep) and count >= (MIN_POSITIONS_PER_TERM * size if model == "auto" else size):
            # A term that is fitted to a thin strip of positions would diverge in the rest of the scan.
            gram, _ = normal(basis, use.astype(float), np.zeros(shape))
            scale = 1 / np.sqrt(np.maximum(np.diag(gram), 1e-300))
            if np.linalg.eigvalsh(gram * np.outer(scale, scale))[0] > 1e-7:
                leverage = surface_variance(basis, np.linalg.inv(gram))
                if leverage.max() < MAX_LEVERAGE_RATIO * leverage[use].mean():
                    bases.append(basis)
        if name == model:
            break
    return bases


def _polynomial(name, shape):
    rows, cols = (np.linspace(-1, 1, n)[:, None] ** np.arange(3) if n > 1 else np.eye(1, 3) for n in shape)
    keep = [3 * a + b for a, b in POWERS[name] if a < shape[0] and b < shape[1]]
    return Basis(name, rows, cols, np.array(keep), None)


def _spline(shape):
    """Tensor-product cubic B-splines.

    The roughness is the variance of the second derivatives over the scan. It is zero for a parabola; far from all
    positions, the curvature returns to the mean curvature.
    """
    longest = max(max(shape) - 1, 1)
    (rows, r), (cols, c) = (_spline_axis(n, (n - 1) / longest) for n in shape)
    area = r["mean"][0].sum() * c["mean"][0].sum()
    penalty = 0.0
    for a, b, factor in ((2, 0, 1), (1, 1, 2), (0, 2, 1)):
        mean = np.kron(r["mean"][a], c["mean"][b])
        penalty = penalty + factor * (np.kron(r["square"][a], c["square"][b]) - np.outer(mean, mean) / area)
    return Basis("spline", rows, cols, np.arange(rows.shape[1] * cols.shape[1]), penalty / area)


def _spline_axis(n, half):
    """B-splines along one axis of n positions, and the means and mean products of their derivatives."""
    if n == 1:
        mean, square = np.eye(3)[:, :1], np.eye(3)[:, :1, None]  # one flat function, no derivatives
        return np.ones((1, 1)), {"mean": mean, "square": square}
    degree, pieces = min(3, n - 1), int(np.clip((n - 1) // 2, 1, MAX_SPLINE_PIECES))
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
def _pairs(axis, other=None):
    other = axis if other is None else other
    return (axis[:, :, None] * other[:, None, :]).reshape(len(axis), axis.shape[1] ** 2)


def normal(basis, weight, y):
    """Compute the normal equations of a weighted fit to a map.

    Parameters
    ----------
    basis : Basis
        The model.
    weight : numpy.ndarray, shape (Rx, Ry)
        Weights.
    y : numpy.ndarray, shape (Rx, Ry)
        The map.

    Returns
    -------
    gram : numpy.ndarray, shape (k, k)
        Normal matrix.
    right : numpy.ndarray, shape (k,)
        Right-hand side.
    """
    p, q = basis.rows.shape[1], basis.cols.shape[1]
    gram = (_pairs(basis.rows).T @ weight @ _pairs(basis.cols)).reshape(p, p, q, q)
    gram = gram.transpose(0, 2, 1, 3).reshape(p * q, p * q)
    right = (basis.rows.T @ (weight * y) @ basis.cols).ravel()
    if len(basis.keep) == p * q:
        return gram, right
    return gram[basis.keep[:, None], basis.keep], right[basis.keep]


def evaluate(basis, coef):
    """Compute the surface of given coefficients.

    Parameters
    ----------
    basis : Basis
        The model.
    coef : numpy.ndarray, shape (k,)
        Coefficients.

    Returns
    -------
    numpy.ndarray, shape (Rx, Ry)
        The surface.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.descan.models import candidates, evaluate, normal, solve
    >>> y = np.add.outer(0.1 * np.arange(6), 0.2 * np.arange(8))
    >>> plane = candidates(y.shape, np.ones(y.shape, bool), "plane")[-1]
    >>> bool(np.allclose(evaluate(plane, solve(*normal(plane, np.ones(y.shape), y))), y))
    True
    """
    p, q = basis.rows.shape[1], basis.cols.shape[1]
    full = np.zeros(p * q)
    full[basis.keep] = coef
    return basis.rows @ full.reshape(p, q) @ basis.cols.T


def surface_variance(basis, covariance, distance=(0, 0)):
    """Compute the variance of a surface, or its covariance at pairs of positions.

    Parameters
    ----------
    basis : Basis
        The model.
    covariance : numpy.ndarray, shape (k, k)
        Covariance of the coefficients.
    distance : tuple of int, optional
        Rows and columns from the second position of a pair to the first.

    Returns
    -------
    numpy.ndarray, shape (Rx - rows, Ry - columns)
        Variance at each position, or covariance of each pair.
    """
    p, q = basis.rows.shape[1], basis.cols.shape[1]
    full = np.zeros((p * q, p * q))
    full[np.ix_(basis.keep, basis.keep)] = covariance
    full = full.reshape(p, q, p, q).transpose(0, 2, 1, 3).reshape(p * p, q * q)
    rows, cols = (_pairs(axis[step:], axis[: max(len(axis) - step, 0)]) for axis, step in
                  zip((basis.rows, basis.cols), distance, strict=True))
    return rows @ full @ cols.T


def solve(gram, right):
    """Solve normal equations, scaled to a unit diagonal.

    Parameters
    ----------
    gram : numpy.ndarray, shape (k, k)
        Normal matrix.
    right : numpy.ndarray, shape (k,) or (k, m)
        Right-hand sides.

    Returns
    -------
    numpy.ndarray, shape (k,) or (k, m)
        Solutions.
    """
    scale = 1 / np.sqrt(np.maximum(np.diagonal(gram), 1e-300))
    scaled = gram * (scale[:, None] * scale)
    scaled.flat[:: len(scaled) + 1] += SOLVE_RIDGE
    scaled_right = scale * right if right.ndim == 1 else scale[:, None] * right
    _, solved, failed = dposv(scaled.T, scaled_right, overwrite_a=True)  # the transpose needs no copy
    if failed:  # rounding has made the matrix indefinite
        scaled = gram * (scale[:, None] * scale) + SOLVE_RIDGE * np.eye(len(gram))
        solved = np.linalg.solve(scaled, scaled_right)
    return scale * solved if right.ndim == 1 else scale[:, None] * solved


def thinned(array, step):
    """Select every step-th row of an array, centered.

    Parameters
    ----------
    array : numpy.ndarray
        The array.
    step : int
        Step.

    Returns
    -------
    numpy.ndarray
        The selected rows; as many rows are left out at the start as at the end.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.descan.models import thinned
    >>> thinned(np.arange(9), 4).tolist()
    [0, 4, 8]
    """
    return array[(len(array) - 1) % step // 2 :: step]
