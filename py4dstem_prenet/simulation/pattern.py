"""Clean patterns on a detector: moved, stretched and sampled, with exact labels.

Coordinates are py4DSTEM's: x is the row axis (Qx), y the column axis (Qy), a pixel's centre lies on its
integer index, and q_measured = origin + M q_ideal with M = R(theta) diag(sqrt(a/b), sqrt(b/a)) R(theta)^T.
Distortion acts on positions before anything is drawn, so labels hold to rounding.
"""

from __future__ import annotations

import torch
from torch.nn.functional import grid_sample

from .specimens import GRID
from .waves import CENTER

SAMPLES = 2.0  # bank samples per detector pixel at scale 1


def rotation_matrix(angle: torch.Tensor) -> torch.Tensor:
    c, s = torch.cos(angle), torch.sin(angle)
    return torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)


def ideal_coordinates(shape, origin: torch.Tensor, matrix: torch.Tensor, offset=(0.0, 0.0)) -> torch.Tensor:
    """Where each detector pixel lies in the undistorted pattern, pixels from the direct beam: (B, H, W, 2)."""
    x = torch.arange(shape[0], dtype=torch.float32, device=origin.device) + offset[0]
    y = torch.arange(shape[1], dtype=torch.float32, device=origin.device) + offset[1]
    dx, dy = x[None] - origin[:, :1], y[None] - origin[:, 1:]
    inverse = torch.linalg.inv(matrix)
    return dx[:, :, None, None] * inverse[:, None, None, :, 0] + dy[:, None, :, None] * inverse[:, None, None, :, 1]


def project(intensity, origin, matrix, scale, shape) -> torch.Tensor:
    """Bank patterns as expected intensity in each detector pixel, in the unit of `intensity`.

    Args:
        intensity: (n, GRID, GRID), direct beam at CENTER; n divides B, and each serves B / n neighbors in the batch.
        origin: (B, 2) of the direct beam, pixels. matrix: (B, 2, 2), may hold a rotation as well.
        scale: (B,), detector pixels per bank pixel pair; a disk of radius r samples gets r scale / 2 pixels.
        shape: (H, W) of the detector.

    Returns:
        (B, H, W) float32. Each pixel is the mean of four points in it.
    """
    step = (SAMPLES / scale)[:, None, None, None]
    out = 0
    patterns, batch = len(intensity), len(origin)
    for dx in (-0.25, 0.25):
        for dy in (-0.25, 0.25):
            at = ideal_coordinates(shape, origin, matrix, (dx, dy)) * step + CENTER
            # grid_sample wants (column, row) in -1 .. 1 from the first to the last pixel's centre.
            grid = (at * (2 / (GRID - 1)) - 1).flip(-1)
            grid = grid.reshape(patterns, -1, shape[1], 2)
            out = out + grid_sample(intensity[:, None], grid, "bilinear", "zeros", align_corners=True)
    return out.view(batch, *shape) * (step[:, 0] ** 2 / 4)


def soft_disk(coordinates: torch.Tensor, radius: torch.Tensor, edge: torch.Tensor) -> torch.Tensor:
    """1 inside, 0 outside, an error function between: coordinates (B, H, W, 2), radius and edge (B,)."""
    distance = torch.linalg.vector_norm(coordinates, dim=-1) - radius[:, None, None]
    return 0.5 * torch.erfc(distance / (edge[:, None, None] * 2**0.5))
