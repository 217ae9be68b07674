"""Representations of an elliptical distortion: ellipse vector, matrix, and semi-axes.

Coordinates are x = qx = row and y = qy = column; a pixel's center has integer coordinates. The ellipse vector is
(eps cos 2 theta, eps sin 2 theta) with eps = a/b - 1 and theta the angle of the a axis from +qx toward +qy. The
distortion maps an ideal position to the measured one by M = R(theta) diag(sqrt(a/b), sqrt(b/a)) R(theta)^T, which keeps
areas.
"""

import numpy as np
import torch


def ellipse_matrix(vector):
    """Compute the matrices M of ellipse vectors, with measured = center + M ideal.

    Parameters
    ----------
    vector : array_like or torch.Tensor, shape (..., 2)
        Ellipse vectors.

    Returns
    -------
    numpy.ndarray or torch.Tensor, shape (..., 2, 2)
        Matrices of determinant 1.

    Examples
    --------
    >>> from py4dstem_prenet.core import ellipse_matrix
    >>> ellipse_matrix([0.21, 0.0]).round(3).tolist()
    [[1.1, 0.0], [0.0, 0.909]]
    """
    if isinstance(vector, torch.Tensor):
        eps = torch.sqrt((vector**2).sum(-1) + 1e-24)
        stretch = 0.5 * torch.log1p(eps)
        diagonal, slope, stack = torch.cosh(stretch), torch.sinh(stretch) / eps, torch.stack
    else:
        vector = np.asarray(vector, float)
        eps = np.sqrt((vector**2).sum(-1) + 1e-24)
        stretch = 0.5 * np.log1p(eps)
        diagonal, slope, stack = np.cosh(stretch), np.sinh(stretch) / eps, np.stack
    c, s = slope * vector[..., 0], slope * vector[..., 1]
    return stack([stack([diagonal + c, s], -1), stack([s, diagonal - c], -1)], -2)


def ellipse_vector(a, b, theta):
    """Compute the ellipse vector of semi-axes and an angle.

    Parameters
    ----------
    a, b : array_like
        Semi-axes; either may be the longer one.
    theta : array_like
        Angle of the a axis from +qx toward +qy, radians.

    Returns
    -------
    numpy.ndarray, shape (2, ...)
        The vector.

    Examples
    --------
    >>> from py4dstem_prenet.core import ellipse_vector
    >>> ellipse_vector(1.1, 1.0, 0.0).round(3).tolist()
    [0.1, 0.0]
    """
    eps = np.maximum(a, b) / np.minimum(a, b) - 1
    return np.where(np.less(a, b), -eps, eps) * np.array([np.cos(2 * theta), np.sin(2 * theta)])


def ellipse_axes(vector):
    """Compute the semi-axes and the angle of an ellipse vector.

    Parameters
    ----------
    vector : array_like, shape (2,)
        Ellipse vector.

    Returns
    -------
    a, b : float
        Semi-axes with a b = 1 and a >= b.
    theta : float
        Angle of the a axis from +qx toward +qy in [0, pi), radians.

    Examples
    --------
    >>> from py4dstem_prenet.core import ellipse_axes
    >>> [round(value, 3) for value in ellipse_axes([0.0, 0.21])]
    [1.1, 0.909, 0.785]
    """
    eps = float(np.hypot(*vector))
    theta = float(0.5 * np.arctan2(vector[1], vector[0]) % np.pi)
    return float(np.sqrt(1 + eps)), float(1 / np.sqrt(1 + eps)), theta if theta < np.pi else 0.0
