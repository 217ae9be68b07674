"""Polar maps of diffraction patterns, corrected for elliptical distortion.

Conventions are those of `core.geometry`: x = qx = row, y = qy = column, and a pixel's center lies on its integer
index. The azimuth phi runs from +qx toward +qy.
"""

import numpy as np
import torch
import torch.nn.functional as F

from ..core import ellipse_matrix


def polar_grid(center, radii, n_phi, vector=(0.0, 0.0)):
    """Compute the detector positions of an ideal polar grid.

    Parameters
    ----------
    center : array_like or torch.Tensor, shape (..., 2)
        Center in pixels. A tensor may carry gradients.
    radii : array_like, shape (n_r,)
        Ideal radii in pixels.
    n_phi : int
        Number of azimuths; azimuth k is 2 pi k / n_phi.
    vector : array_like or torch.Tensor, shape (..., 2), optional
        Ellipse vector (eps cos 2 theta, eps sin 2 theta). A tensor may carry gradients.

    Returns
    -------
    torch.Tensor, shape (..., n_phi, n_r, 2)
        Positions (x, y) on the detector in pixels, float64.

    Examples
    --------
    >>> from py4dstem_prenet.fits.polar import polar_grid
    >>> polar_grid((10.0, 20.0), [5.0], n_phi=4)[:, 0].round().tolist()
    [[15.0, 20.0], [10.0, 25.0], [5.0, 20.0], [10.0, 15.0]]
    """
    center, vector, radii = (torch.as_tensor(v, dtype=torch.float64) for v in (center, vector, radii))
    phi = torch.arange(n_phi, dtype=torch.float64) * (2 * torch.pi / n_phi)
    ideal = radii[None, :, None] * torch.stack([torch.cos(phi), torch.sin(phi)], -1)[:, None, :]
    matrix = ellipse_matrix(vector)
    return center[..., None, None, :] + torch.einsum("...ij,pqj->...pqi", matrix, ideal)


def sample(image, at, mode="bilinear"):
    """Interpolate images at given positions.

    Parameters
    ----------
    image : torch.Tensor, shape (..., Qx, Qy)
        Images.
    at : torch.Tensor, shape (..., n_phi, n_r, 2)
        Positions (x, y) in pixels.
    mode : {"bilinear", "bicubic", "nearest"}, optional
        Interpolation, as in `torch.nn.functional.grid_sample`.

    Returns
    -------
    torch.Tensor, shape (..., n_phi, n_r)
        Interpolated values; pixels outside the image count as zero.
    """
    lead, shape = image.shape[:-2], image.shape[-2:]
    size = torch.tensor([shape[0], shape[1]], dtype=at.dtype, device=at.device)
    grid = ((2 * at + 1) / size - 1).flip(-1)  # grid_sample expects (column, row), with pixel edges at -1 and 1
    flat = image.reshape(-1, 1, *shape)
    grid = grid.expand(*lead, *at.shape[-3:]).reshape(-1, *at.shape[-3:])
    out = F.grid_sample(flat, grid.to(flat.dtype), mode=mode, padding_mode="zeros", align_corners=False)
    return out.reshape(*lead, *at.shape[-3:-1])


def to_polar(image, center, radii, n_phi, weight=None, vector=(0.0, 0.0), mode="bilinear"):
    """Compute the polar map of a pattern on an ideal polar grid.

    Parameters
    ----------
    image : array_like or torch.Tensor, shape (..., Qx, Qy)
        Patterns.
    center : array_like or torch.Tensor, shape (..., 2)
        Center (x, y) in pixels.
    radii : array_like, shape (n_r,)
        Ideal radii in pixels.
    n_phi : int
        Number of azimuths.
    weight : array_like, shape (Qx, Qy) or (..., Qx, Qy), optional
        Weight of each pixel; zero excludes a pixel. By default every pixel has weight one.
    vector : array_like or torch.Tensor, shape (..., 2), optional
        Ellipse vector that is corrected: row k of the map is the azimuth 2 pi k / n_phi, column j the ideal radius
        ``radii[j]``.
    mode : {"bilinear", "bicubic", "nearest"}, optional
        Interpolation of the image.

    Returns
    -------
    values : numpy.ndarray or torch.Tensor, shape (..., n_phi, n_r)
        The polar map, a tensor if `image` is one.
    weight : numpy.ndarray or torch.Tensor, shape (..., n_phi, n_r)
        Weight of each sample. Weight and value are zero where the interpolation reads an excluded pixel or a position
        outside the image.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.fits import to_polar
    >>> x, y = np.indices((21, 21)) - 10
    >>> values, weight = to_polar(x**2 + y**2, center=(10, 10), radii=[2.0, 5.0], n_phi=8)
    >>> values.shape
    (8, 2)
    >>> values[0].round(3).tolist()
    [4.0, 25.0]
    """
    is_tensor = isinstance(image, torch.Tensor)
    pattern = image if is_tensor else torch.as_tensor(np.ascontiguousarray(image, dtype=np.float32))
    weight = torch.ones(pattern.shape[-2:]) if weight is None else torch.as_tensor(np.asarray(weight, np.float32))
    weight = weight.to(pattern.device, pattern.dtype)
    at = polar_grid(center, radii, n_phi, vector).to(pattern.device)
    usable = sample((weight > 0).to(pattern.dtype), at) > 0.999
    covered = torch.where(usable, sample(weight, at), 0.0).expand(*pattern.shape[:-2], *at.shape[-3:-1])
    values = torch.where(covered > 0, sample(pattern, at, mode), 0.0)
    return (values, covered) if is_tensor else (values.numpy(), covered.numpy())
