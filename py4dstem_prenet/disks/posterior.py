"""Positions of weak disks: the mean over their posterior, instead of its maximum.

Few of the electrons of a weak disk lie near its edge, so the likelihood of its position is not Gaussian: the error of
its maximum is a third larger than that of its mean, and the curvature there does not give the variance. Therefore the
Poisson likelihood is evaluated on a grid of positions, with a flat prior; the contrast is marginalized by Laplace's
approximation about a uniform disk. For a given ratio of brightness to background, every sum over pixels is a product of
matrices; those of a tile of the grid hold the pixels that a disk at one of its positions covers.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from ..core import ellipse_matrix
from ..fits import Aperture, disk_terms
from . import DiskShape

# Set on multislice silicon along [110] (benchmarks/strain.py, disks.py), unless a comment says otherwise.
WEAK_SIGMA_PX, WEAK_SIGMA_RADII = 0.25, 0.05  # pixels, radii; the larger is the smallest sigma of a weak disk
STEP_SIGMAS = 1.8  # units of this smallest sigma; step of the grid (at 2, the error of the sums is below 1 %)
REACH_RADII, MIN_REACH_STEPS = 1.0, 4  # radii, steps; the larger is half of the side of the grid about the first fit
DEGREE = 3  # polynomial degree of the contrast
BRIGHTNESS_AMPLITUDE = 0.7  # relative uncertainty of the brightness of the first fit
RATIO_STEP = 2.0  # factor between the ratios of brightness to background for which tables are made
RATIO_LIMITS = (0.05, 500.0)  # ratios of brightness to background; smallest and largest that have a table
EVALUATED_AT_ONCE = 256  # disks; limits the memory
TILE_STEPS = 4  # steps of the grid; side of a tile, chosen for speed
MIN_COVERED = 1e-7  # brightness of the disk; smallest one in a pixel that a disk covers, the rounding of a sum


def weak_sigma(aperture: Aperture) -> float:
    """Return the smallest sigma for which the posterior of a position is evaluated.

    Parameters
    ----------
    aperture : Aperture
        The aperture.

    Returns
    -------
    float
        Standard error, pixels.
    """
    return max(WEAK_SIGMA_PX, WEAK_SIGMA_RADII * aperture.radius)


def grid_step(aperture: Aperture) -> float:
    """Return the step between positions at which the posterior is evaluated.

    Parameters
    ----------
    aperture : Aperture
        The aperture.

    Returns
    -------
    float
        Pixels.
    """
    return STEP_SIGMAS * weak_sigma(aperture)


def grid_side(aperture: Aperture) -> int:
    """Return the side of the windows that `posterior_positions` takes.

    Parameters
    ----------
    aperture : Aperture
        The aperture.

    Returns
    -------
    int
        Pixels, odd.
    """
    reach = _grid(aperture).abs().max()
    return 2 * int(np.ceil(aperture.radius * (1 + np.hypot(*aperture.vector)) + reach + 2 * aperture.edge + 1)) + 1


def posterior_positions(electrons, good, brightness, background, direction, shape: DiskShape, number: np.ndarray,
                        prior=None):
    """Compute mean and covariance of the posterior of positions.

    Parameters
    ----------
    electrons : torch.Tensor, shape (n, side, side)
        Windows, the variance of the read-out noise added to every pixel.
    good : torch.Tensor of bool, shape (n, side, side)
        Pixels that are used.
    brightness : torch.Tensor, shape (n,)
        Electrons in a pixel of the disk above the background, about.
    background : torch.Tensor, shape (n,)
        Electrons in a pixel of the background, the variance of the read-out noise included.
    direction : numpy.ndarray of int, shape (n,)
        Directions of the disks (`directions`).
    shape : DiskShape
        Aperture and contrast.
    number : numpy.ndarray, shape (n,)
        Electrons of the disks, which choose their class of contrast.
    prior : tuple of numpy.ndarray, shape (n, 2), optional
        Position from the middle of the window and its standard error, pixels; flat by default.

    Returns
    -------
    mean : torch.Tensor, shape (n, 2)
        Positions from the middle of the window, pixels.
    covariance : torch.Tensor, shape (n, 2, 2)
        Their covariance, square pixels.
    """
    n, device = len(electrons), electrons.device
    grid = _grid(shape.aperture).to(device)
    used = good.reshape(n, -1).float()
    counts = electrons.reshape(n, -1) * used
    steps = torch.round(torch.log(brightness / background.clamp_min(1e-4)).clamp(*np.log(RATIO_LIMITS)).cpu()
                        / np.log(RATIO_STEP)).int().numpy()
    amplitude = shape.contrast_class(number)
    mean, covariance = counts.new_zeros(n, 2), counts.new_zeros(n, 2, 2)
    for step, kind in sorted({*zip(steps.tolist(), amplitude.tolist(), strict=True)}):
        members = np.flatnonzero((steps == step) & (amplitude == kind))
        tiles, information = _tables(shape.aperture, electrons.shape[1], float(RATIO_STEP**step), str(device))
        priors = shape.priors(kind, DEGREE, BRIGHTNESS_AMPLITUDE).to(device)
        for first in range(0, len(members), EVALUATED_AT_ONCE):
            part = torch.from_numpy(members[first : first + EVALUATED_AT_ONCE]).to(device)
            bright, seen, seen_used = brightness[part, None], counts[part].T.contiguous(), used[part].T.contiguous()
            seen_used *= bright.T
            sums = torch.cat([seen[pixels].T @ of_counts - seen_used[pixels].T @ of_used
                              for pixels, of_counts, of_used in tiles], 1).view(len(part), len(grid), -1)
            level, slope = sums[..., 0], sums[..., 1:]
            curvature = information * bright[..., None] + priors[torch.from_numpy(direction[members[
                first : first + EVALUATED_AT_ONCE]]).to(device)]
            solved = torch.linalg.solve_triangular(torch.linalg.cholesky(curvature), slope.mT, upper=False)
            level = level + 0.5 * solved.square().sum(1)
            if prior is not None:
                expected, sigma = (torch.from_numpy(p[part.cpu().numpy()]).float().to(device)[:, None] for p in prior)
                level = level - 0.5 * ((grid - expected) / sigma).square().sum(2)
            weight = torch.softmax(level, 1)
            mean[part] = weight @ grid
            away = grid - mean[part][:, None]
            covariance[part] = torch.einsum("ng,ngi,ngj->nij", weight, away, away)
    return mean, covariance


def _grid(aperture: Aperture):
    """Positions of the grid about the middle, (m, 2), pixels, tile by tile."""
    return torch.cat(_tiles(aperture))


def _tiles(aperture: Aperture):
    """Positions of the grid in each tile, (k, 2), pixels."""
    step = grid_step(aperture)
    count = max(MIN_REACH_STEPS, int(REACH_RADII * aperture.radius / step))
    axis = step * torch.arange(-count, count + 1)
    square = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    tiles = (tile.reshape(-1, 2) for rows in square.split(TILE_STEPS) for tile in rows.split(TILE_STEPS, 1))
    tiles = (tile[tile.norm(dim=1) < (count + 0.1) * step].float() for tile in tiles)
    return [tile for tile in tiles if len(tile)]


@lru_cache(maxsize=24)
def _tables(aperture: Aperture, side: int, ratio: float, device: str):
    """What is summed over pixels, for each position of the grid, of a disk that is `ratio` times its background.

    Return the tables of each tile of k positions, and the information on the terms for unit brightness (terms, terms).
    A tile has its pixels, what is multiplied with their counts, (pixels, k * (1 + terms)), and with their use. For each
    position, these are the log of one plus the disk over the background, and the share of the disk in the expected
    counts times terms; and the aperture, and the aperture times terms.
    """
    tiles = []
    for positions in _tiles(aperture):
        value, terms = _aperture_terms(aperture, side, positions)
        pixels = (value > MIN_COVERED).any(1).nonzero()[:, 0]
        value, terms = value[pixels, :, None], terms[pixels]
        of_counts = torch.cat([torch.log1p(ratio * value), ratio * value / (1 + ratio * value) * terms], 2)
        tiles.append(tuple(table.to(device) for table in (
            pixels, of_counts.flatten(1), torch.cat([value, value * terms], 2).flatten(1))))
    value, terms = _aperture_terms(aperture, side, torch.zeros(1, 2))
    weighted = (ratio * value / (1 + ratio * value) * value)[..., None] * terms
    return tiles, (weighted[:, 0].T @ terms[:, 0]).to(device)


def _aperture_terms(aperture: Aperture, side: int, positions):
    """Aperture at positions (k, 2) in each pixel of a window, (pixels, k), and its terms (pixels, k, terms)."""
    axis = torch.arange(side) - float(side // 2)
    pixels = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).view(-1, 1, 2)
    inverse = torch.linalg.inv(ellipse_matrix(torch.tensor(np.asarray(aperture.vector, float)))).float()
    away = (pixels - positions) @ inverse.T
    distance = away.norm(dim=-1)
    value = 0.5 * torch.erfc((distance - aperture.radius) / (aperture.edge * 2**0.5))
    inside = away / torch.maximum(distance, torch.tensor(aperture.radius))[..., None]
    return value, disk_terms(*inside.unbind(-1), DEGREE)
