"""Polar maps of patterns, and the coordinates of an elliptical distortion.

Conventions: x = qx = row, y = qy = column; a pixel's center lies on its integer index. The azimuth phi runs
from +qx toward +qy. An ellipse is the vector (eps cos 2 theta, eps sin 2 theta), eps = a/b - 1, theta the a
axis, and moves a position from ideal to measured by M = R(theta) diag(sqrt(a/b), sqrt(b/a)) R(theta)^T,
which keeps areas.
"""

import numpy as np
import torch
import torch.nn.functional as F

from ..core import ellipse_matrix


def polar_grid(center, radii, n_phi, vector=(0.0, 0.0)):
    """Measured positions (x, y) of an ideal polar grid: float64 tensor (..., n_phi, n_r, 2).

    `center` (..., 2) and `vector` (..., 2) may be tensors with gradients; azimuths are 2 pi k / n_phi.
    """
    center, vector, radii = (torch.as_tensor(v, dtype=torch.float64) for v in (center, vector, radii))
    phi = torch.arange(n_phi, dtype=torch.float64) * (2 * torch.pi / n_phi)
    ideal = radii[None, :, None] * torch.stack([torch.cos(phi), torch.sin(phi)], -1)[:, None, :]
    matrix = ellipse_matrix(vector)
    return center[..., None, None, :] + torch.einsum("...ij,pqj->...pqi", matrix, ideal)


def sample(image, at, mode="bilinear"):
    """Read images (..., Qx, Qy) at positions (..., n_phi, n_r, 2) in pixels; zero beyond the image."""
    lead, shape = image.shape[:-2], image.shape[-2:]
    size = torch.tensor([shape[0], shape[1]], dtype=at.dtype, device=at.device)
    grid = ((2 * at + 1) / size - 1).flip(-1)  # grid_sample wants (column, row), pixel edges at -1 and 1
    flat = image.reshape(-1, 1, *shape)
    grid = grid.expand(*lead, *at.shape[-3:]).reshape(-1, *at.shape[-3:])
    out = F.grid_sample(flat, grid.to(flat.dtype), mode=mode, padding_mode="zeros", align_corners=False)
    return out.reshape(*lead, *at.shape[-3:-1])


def to_polar(image, center, radii, n_phi, weight=None, vector=(0.0, 0.0), mode="bilinear"):
    """Polar map of a pattern on an ideal polar grid.

    Args:
        image: (..., Qx, Qy) array or tensor; center: (cx, cy) or (..., 2) pixels; radii: (n_r,) px; n_phi:
            azimuths.
        weight: (Qx, Qy) or (..., Qx, Qy), zero where a pixel must not be used; None = every pixel.
        vector: ellipse that is taken out: row k is the azimuth 2 pi k / n_phi, column j the ideal radius
            radii[j].

    Returns: (map, weight), each (..., n_phi, n_r), of the kind of `image`. A sample whose interpolation
    touches an unusable pixel or the outside has weight zero, and there the map is zero.
    """
    tensor = isinstance(image, torch.Tensor)
    picture = image if tensor else torch.as_tensor(np.ascontiguousarray(image, dtype=np.float32))
    heavy = torch.ones(picture.shape[-2:]) if weight is None else torch.as_tensor(np.asarray(weight, np.float32))
    heavy = heavy.to(picture.device, picture.dtype)
    at = polar_grid(center, radii, n_phi, vector).to(picture.device)
    usable = sample((heavy > 0).to(picture.dtype), at) > 0.999
    covered = torch.where(usable, sample(heavy, at), 0.0).expand(*picture.shape[:-2], *at.shape[-3:-1])
    values = torch.where(covered > 0, sample(picture, at, mode), 0.0)
    return (values, covered) if tensor else (values.numpy(), covered.numpy())
