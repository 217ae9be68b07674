"""Projection of clean patterns onto a detector: shifted, distorted and sampled, with exact labels.

Coordinates are those of py4DSTEM: x is the row axis (Qx), y the column axis (Qy), the center of a pixel lies on its
integer index, and q_measured = origin + M q_ideal with M = R(theta) diag(sqrt(a/b), sqrt(b/a)) R(theta)^T. The
distortion acts on coordinates before the pattern is sampled, so labels are exact to rounding.
"""

from __future__ import annotations

import torch
from torch.nn.functional import grid_sample

from . import CENTER, GRID

SAMPLES = 2.0  # bank samples per detector pixel at scale 1: oversampled for interpolation


def rotation_matrix(angle: torch.Tensor) -> torch.Tensor:
    """Return rotation matrices.

    Parameters
    ----------
    angle : torch.Tensor
        Angles from x toward y, (...), radians.

    Returns
    -------
    torch.Tensor
        (..., 2, 2).

    Examples
    --------
    >>> import torch
    >>> (rotation_matrix(torch.tensor(torch.pi / 2)) @ torch.tensor([1.0, 0.0])).round().tolist()
    [-0.0, 1.0]
    """
    c, s = torch.cos(angle), torch.sin(angle)
    return torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)


def ideal_coordinates(shape, origin: torch.Tensor, matrix: torch.Tensor, offset=(0.0, 0.0)) -> torch.Tensor:
    """Return the position of each detector pixel in the undistorted pattern.

    Parameters
    ----------
    shape : tuple of int
        (H, W) of the detector.
    origin : torch.Tensor
        Positions of the direct beams, (B, 2), pixels.
    matrix : torch.Tensor
        Elliptical distortions, (B, 2, 2).
    offset : tuple of float
        Position within each pixel, relative to its center, pixels.

    Returns
    -------
    torch.Tensor
        (B, H, W, 2), pixels from the direct beam.
    """
    x = torch.arange(shape[0], dtype=torch.float32, device=origin.device) + offset[0]
    y = torch.arange(shape[1], dtype=torch.float32, device=origin.device) + offset[1]
    dx, dy = x[None] - origin[:, :1], y[None] - origin[:, 1:]
    inverse = torch.linalg.inv(matrix)
    return dx[:, :, None, None] * inverse[:, None, None, :, 0] + dy[:, None, :, None] * inverse[:, None, None, :, 1]


def project(intensity, origin, matrix, scale, shape) -> torch.Tensor:
    """Return the expected intensity of bank patterns in each detector pixel.

    Parameters
    ----------
    intensity : torch.Tensor
        Bank patterns with the direct beam at CENTER, (n, GRID, GRID). n must divide B; each pattern is used for B / n
        consecutive items of the batch.
    origin : torch.Tensor
        Positions of the direct beams, (B, 2), pixels.
    matrix : torch.Tensor
        Elliptical distortions, (B, 2, 2); they may contain rotations.
    scale : torch.Tensor
        Magnification, (B,): a disk of radius r samples gets a radius of r scale / 2 pixels.
    shape : tuple of int
        (H, W) of the detector.

    Returns
    -------
    torch.Tensor
        (B, H, W), float32, in the unit of `intensity`. Each pixel is the mean over four points in it.
    """
    step = (SAMPLES / scale)[:, None, None, None]
    out = 0
    patterns, batch = len(intensity), len(origin)
    for dx in (-0.25, 0.25):
        for dy in (-0.25, 0.25):
            at = ideal_coordinates(shape, origin, matrix, (dx, dy)) * step + CENTER
            # grid_sample expects (column, row), from -1 at the center of the first pixel to 1 at that of the last.
            grid = (at * (2 / (GRID - 1)) - 1).flip(-1)
            grid = grid.reshape(patterns, -1, shape[1], 2)
            out = out + grid_sample(intensity[:, None], grid, "bilinear", "zeros", align_corners=True)
    return out.view(batch, *shape) * (step[:, 0] ** 2 / 4)


def soft_disk(coordinates: torch.Tensor, radius: torch.Tensor, edge: torch.Tensor) -> torch.Tensor:
    """Draw disks with a blurred edge.

    Parameters
    ----------
    coordinates : torch.Tensor
        Coordinates of the pixels, (B, H, W, 2), pixels from the center of the disk.
    radius : torch.Tensor
        Radii, (B,), pixels.
    edge : torch.Tensor
        Standard deviations of the blur, (B,), pixels.

    Returns
    -------
    torch.Tensor
        (B, H, W): 1 inside, 0 outside, 1/2 at the radius; an error function between.
    """
    distance = torch.linalg.vector_norm(coordinates, dim=-1) - radius[:, None, None]
    return 0.5 * torch.erfc(distance / (edge[:, None, None] * 2**0.5))
