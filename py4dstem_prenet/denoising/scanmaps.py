"""Smooth maps over scan positions: significant coefficients are kept unchanged, all others are set to zero."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

# Chosen on simulated crystals with smooth fields; tests/test_scanmaps.py bounds their errors.
SIGNIFICANT_SIGMA = 3.0  # standard deviations; smallest coefficient that is kept: 99.7 % of those of noise are removed
SLOW_FRACTION = 0.6  # fraction of the number of positions; largest degree of a polynomial that varies slowly
UNEXPLAINED_SIGMA = (2.0, 4.0)  # standard deviations; excess over noise of which nothing, and everything, is kept
MAX_EMPTY_FACTOR = 4  # grid positions per measured position; sparser positions are treated as a line


class ScanGrid:
    """Grid of the scan positions of some patterns.

    Parameters
    ----------
    places : array_like of int, shape (n, 2)
        Row and column of each pattern in the scan.

    Notes
    -----
    Maps are expanded in products of discrete orthonormal polynomials (Gram 1883). Polynomials of high degree
    (`SLOW_FRACTION`) and coefficients that are not significant are set to zero (Donoho and Johnstone 1994, doi
    10.1093/biomet/81.3.425). Unlike a smoothing kernel, which reduces every slope by a fraction, this keeps the other
    coefficients unchanged.

    Examples
    --------
    >>> import torch
    >>> places = torch.cartesian_prod(torch.arange(12), torch.arange(12))
    >>> ramp = places[:, 1] / 3.0
    >>> noisy = ramp + torch.randn(144, generator=torch.Generator().manual_seed(0))
    >>> smooth = ScanGrid(places).smooth(noisy[None, None], torch.ones(1, 144, dtype=torch.bool))[0][0, 0]
    >>> bool((smooth - ramp).square().mean() < 0.1)
    True
    """

    def __init__(self, places):
        rows, columns = (np.unique(part, return_inverse=True) for part in np.asarray(places).T)
        shape = len(rows[0]), len(columns[0])
        flat = rows[1] * shape[1] + columns[1]
        if shape[0] * shape[1] > MAX_EMPTY_FACTOR * len(flat):
            shape, flat = (1, len(flat)), np.arange(len(flat))
        self.shape, self.flat = shape, torch.from_numpy(flat)
        if np.array_equal(flat, np.arange(len(flat))):
            self.flat = slice(len(flat))  # much faster than indices

    def slow_part(self, values: torch.Tensor) -> torch.Tensor:
        """Compute the coefficients of slowly varying polynomials in maps.

        Parameters
        ----------
        values : torch.Tensor
            Maps, (k, n).

        Returns
        -------
        torch.Tensor
            Coefficients, (k, c), without the mean. For noise of unit variance, each has unit variance.
        """
        rows, columns = (_slow_polynomials(size).to(values) for size in self.shape)
        grid = self._on_grid(values).view(-1, *self.shape)
        return (rows.T @ (grid @ columns)).flatten(1)[:, 1:]

    def smooth(self, values: torch.Tensor, members: torch.Tensor, sigma=None) -> tuple[torch.Tensor, torch.Tensor]:
        """Smooth maps.

        Parameters
        ----------
        values : torch.Tensor
            Maps, (m, k, n), in units of their noise.
        members : torch.Tensor
            True where a value belongs to the map, (m, n), bool. Other values are not used.
        sigma : torch.Tensor, optional
            Standard deviation of the noise of each map, (k,); 1 by default.

        Returns
        -------
        smooth : torch.Tensor
            Smooth maps, (m, k, n), with values at all positions.
        rough : torch.Tensor
            Fraction of the residuals of the smooth maps that is kept, (m, k, 1); see `unexplained_fraction`.
        """
        rows, columns = (_slow_polynomials(size).to(values) for size in self.shape)
        measured = self._on_grid(members[:, None].to(values.dtype))
        grid = (self._on_grid(values) * measured).view(*values.shape[:2], *self.shape)
        empty = (1 - measured).view(len(values), 1, *self.shape)
        mean = grid.sum((2, 3), keepdim=True) / measured.sum(2)[..., None, None].clamp_min(1)
        limit = SIGNIFICANT_SIGMA * (values.new_ones(1) if sigma is None else sigma)[:, None, None]
        smooth_maps = mean
        for _ in range(8 if bool(empty.any()) else 1):  # rounds in which missing positions are filled
            coefficients = rows.T @ ((grid + empty * smooth_maps) @ columns)
            keep = coefficients.abs() > limit
            keep[..., 0, 0] = True
            smooth_maps = rows @ (coefficients * keep) @ columns.T
        smooth_maps = smooth_maps.flatten(2)[..., self.flat]
        return smooth_maps, self._rough_fraction(values - smooth_maps, members, keep.sum((2, 3)), sigma)

    def _on_grid(self, values):
        """Values (..., n) at the cells of the grid, (..., rows * columns), zero elsewhere."""
        grid = values.new_zeros(*values.shape[:-1], self.shape[0] * self.shape[1])
        grid[..., self.flat] = values
        return grid

    def _rough_fraction(self, residuals, members, fitted, sigma):
        """Fraction (m, k, 1) of the residuals (m, k, n) that is kept, from their excess over noise."""
        count = members.sum(1)[:, None]
        energy = (residuals.square() * members[:, None]).sum(2) / (1 if sigma is None else sigma.square())
        return unexplained_fraction((energy - (count - fitted)) / count.clamp_min(1), count.clamp_min(1))[..., None]


def unexplained_fraction(excess, count):
    """Compute the fraction of the differences between measurements and a smooth model that is kept.

    If the model does not explain the variation, measurements are kept with their noise: an attenuated quantity is worse
    than a noisy one.

    Parameters
    ----------
    excess : torch.Tensor
        Mean squared difference, in units of the variance of the noise, minus its expectation.
    count : torch.Tensor or int
        Number of differences.

    Returns
    -------
    torch.Tensor
        Fraction, from 0 if the excess is noise to 1 if it is significant (`UNEXPLAINED_SIGMA`).
    """
    none, full = UNEXPLAINED_SIGMA
    return ((excess * (count / 2) ** 0.5 - none) / (full - none)).clamp(0, 1)


@lru_cache(maxsize=32)
def _slow_polynomials(size: int) -> torch.Tensor:
    """Orthonormal polynomials (size, k) on equidistant points that vary slowly, in columns, ordered by degree."""
    x = np.linspace(-1, 1, size) if size > 1 else np.zeros(1)
    basis, _ = np.linalg.qr(np.polynomial.legendre.legvander(x, size - 1))
    return torch.from_numpy(basis[:, np.arange(size) < max(2, SLOW_FRACTION * size)]).float()
