"""Coordinates of an elliptical distortion.

Conventions: x = qx = row, y = qy = column; a pixel's center lies on its integer index. An ellipse is the vector
(eps cos 2 theta, eps sin 2 theta), eps = a/b - 1, theta the angle of the a axis from +qx toward +qy. It moves a position
from ideal to measured by M = R(theta) diag(sqrt(a/b), sqrt(b/a)) R(theta)^T, which keeps areas.
"""

import numpy as np
import torch


def ellipse_matrix(vector):
    """(..., 2) ellipse vectors -> (..., 2, 2) matrices M, measured = center + M ideal. Arrays or tensors."""
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
    """(2, ...) vector of semi-axes a, b and angle theta (radians, from +qx toward +qy to the a axis), whichever of
    them is the longer."""
    eps = np.maximum(a, b) / np.minimum(a, b) - 1
    return np.where(np.less(a, b), -eps, eps) * np.array([np.cos(2 * theta), np.sin(2 * theta)])


def ellipse_axes(vector):
    """(a, b, theta) as plain floats, normalized to a b = 1, with a >= b and theta in [0, pi)."""
    eps = float(np.hypot(*vector))
    theta = float(0.5 * np.arctan2(vector[1], vector[0]) % np.pi)
    return float(np.sqrt(1 + eps)), float(1 / np.sqrt(1 + eps)), theta if theta < np.pi else 0.0
