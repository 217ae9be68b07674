"""Maximum-likelihood fit of a sharp direct beam whose radial profile is free.

A sharp beam is not the image of an aperture: it has a core of a few pixels with long tails, on a halo, and may be
saturated. Its expected counts in a window of a pattern are

    expected(q) = f(|q - q0|) + g . (q - q0),

where f is a cubic spline, free in every pattern, and g the slope of the background. This describes any radial profile:
Gaussian, Lorentzian, or a flat saturated top. Pixels that contain other spots get small weights (Student's t
distribution). Tails that are not symmetric about the center shift it; a fit to the core alone shows by how much.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch.nn.functional import one_hot

from ..core import BLOCK_BYTES, NORMAL_MAD, STUDENT_DOF
from . import (
    AZIMUTH_SECTORS,
    DISK_MARGIN_PX,
    MAX_START_OFFSET_PX,
    MIN_EXPECTED_FRACTION,
    Aperture,
    DiskPositions,
    pixel_mean,
)

# Chosen, not measured:
FITTED_RADII, FITTED_PX = 1.5, 2.5  # spot radii, and pixels added to them; radius of the fitted pixels
CORE_RADII, CORE_PX = 1.0, 1.5  # spot radii, and pixels added to them; radius of the core
KNOT_RADII, MIN_KNOT_PX = 0.25, 0.6  # spot radii, and at least so many pixels; distance between knots in the core
SMOOTHNESS = 1e-5  # fraction of the weight of the best-determined knot; penalty on the second differences of the knots
MAX_STEP_PX = 0.5  # pixels; longest Gauss-Newton step along each axis
# Fraction of the brightness of its rim, and standard errors; a hole in a saturated beam is darker than both allow.
MAX_WRAPPED, WRAPPED_SIGMAS = 0.6, 5.0
SPLINE_STEP_PX = 0.01  # pixels; step of the table of the spline
# Set on simulated sharp beams (benchmarks/sharp_beams.py):
PROFILE_ERROR = 0.04  # fraction of the profile, 1 sigma; deviation of a spot from a round profile sampled by pixels
CORE_SHARE = 0.3  # factor on the squared shift between the whole fit and the core fit, added to the variance


class _Evaluated(NamedTuple):
    """Fit of a profile about a given position in n windows."""

    loss: torch.Tensor  # (n,), mean loss of the residuals
    step: torch.Tensor  # (n, 2), step to the next position
    design: torch.Tensor  # (n, pixels, 4 + knots)
    used: torch.Tensor  # (n, pixels), 1 where a pixel is used, else 0
    expected: torch.Tensor  # (n, pixels), expected electrons
    height: torch.Tensor  # (n, pixels), electrons above the outermost knot
    counting: torch.Tensor  # (n, pixels), variance of counting and read-out noise
    weight: torch.Tensor  # (n, pixels), weights of the next solution
    scale: torch.Tensor  # (n, 1), variance of the residuals relative to the expected variance
    inverse: torch.Tensor  # (n, 4 + knots, 4 + knots), inverse of the normal matrix


class SpotModel:
    """Model of a sharp beam; fits batches of windows as `DiskModel` does.

    Parameters
    ----------
    aperture : Aperture
        Radius at half maximum, in pixels; the blur and the ellipse are not used.
    device : str or torch.device, optional
        Device on which windows are fitted.

    Attributes
    ----------
    aperture : Aperture
        The aperture.
    side : int
        Side of the windows in pixels; odd, so that the middle is the center of a pixel.
    x, y : torch.Tensor, shape (pixels,)
        Coordinates of the fitted pixels from the middle of a window.

    Examples
    --------
    >>> import torch
    >>> from py4dstem_prenet.fits import Aperture, SpotModel
    >>> model = SpotModel(Aperture(radius=2.0, blur=0.3, vector=(0.0, 0.0)))
    >>> axis = torch.arange(model.side) - model.side // 2
    >>> x, y = torch.meshgrid(axis - 0.3, axis + 0.2, indexing="ij")  # a Lorentzian at (0.3, -0.2)
    >>> electrons = 1000 / (1 + (x**2 + y**2) / 4)[None]
    >>> fitted = model.fit(electrons, torch.ones_like(electrons, dtype=bool), torch.zeros(1, 2), readout=0.0)
    >>> [round(q, 2) for q in fitted.position[0].tolist()]
    [0.3, -0.2]
    """

    def __init__(self, aperture: Aperture, device="cpu"):
        self.aperture = aperture
        radius = max(aperture.radius, 1.0)  # pixels blur any smaller spot
        self.core = CORE_RADII * radius + CORE_PX
        self.outer = FITTED_RADII * radius + FITTED_PX
        half = int(np.ceil(self.outer + MAX_START_OFFSET_PX + 0.5))
        self.side = 2 * half + 1
        axis = torch.arange(-half, half + 1, dtype=torch.float64)
        x, y = torch.meshgrid(axis, axis, indexing="ij")
        self.keep = (torch.hypot(x, y) < half + 0.5).flatten()
        self.x, self.y = x.flatten()[self.keep].to(device), y.flatten()[self.keep].to(device)
        inner = np.arange(0, FITTED_RADII * radius + 0.1, max(MIN_KNOT_PX, KNOT_RADII * radius))
        tail = np.geomspace(inner[-1] + np.clip(radius / 3, 0.8, 2.0), self.outer + 1, 3)  # three knots
        self.knots = np.r_[inner, tail]
        even = np.r_[-self.knots[:0:-1], self.knots]  # a profile is an even function of the distance
        values = np.concatenate([np.eye(len(self.knots))[:0:-1], np.eye(len(self.knots))])
        splines = CubicSpline(even, values, bc_type="natural")
        second = np.diff(np.eye(len(self.knots)), 2, axis=0)
        self.bending = torch.tensor(second.T @ second, device=device)
        self.table_at = np.arange(0, self.outer + 2, SPLINE_STEP_PX)
        self.table, self.falls = (torch.tensor(splines(self.table_at, k), device=device) for k in (0, 1))

    def fit(self, electrons, good, start, readout: float, learn: bool = False) -> DiskPositions:
        """Fit the spot in a batch of windows.

        Parameters
        ----------
        electrons : torch.Tensor, shape (n, side, side)
            Windows in electrons.
        good : torch.Tensor of bool, shape (n, side, side)
            True where a pixel is used.
        start : torch.Tensor, shape (n, 2)
            Start positions in pixels from the middle of the window.
        readout : float
            Read-out noise in electrons, rms.
        learn : bool, optional
            Not used; for the signature of `DiskModel.fit`.

        Returns
        -------
        DiskPositions
            Positions, covariances and quality of the fits; without contrast.
        """
        size = max(1, BLOCK_BYTES // (8 * len(self.x) * (len(self.knots) + 4)))  # batches, to limit memory
        parts = [self._fit_part(e, g, s, readout) for e, g, s in
                 zip(electrons.split(size), good.split(size), start.split(size), strict=True)]
        return DiskPositions(*(torch.cat(fields) for fields in zip(*parts, strict=True)))

    def _fit_part(self, electrons, good, start, readout):
        counts, good = self._kept_pixels(electrons, good, readout)
        noise = readout**2 + 0.1
        start_distance = torch.hypot(self.x - start[:, :1], self.y - start[:, 1:])
        core = torch.where((start_distance < self.aperture.radius + 0.5) * good > 0, counts, torch.nan)
        level = core.nanquantile(0.75, dim=1, keepdim=True).nan_to_num(0.0).clamp_min(1e-3)
        weight = 1 / (0.5 * counts.clamp_min(0) + 0.5 * level * torch.exp(-(start_distance / self.core) ** 2) + noise
                      + (PROFILE_ERROR * level) ** 2)
        position, spot = self._search(counts, good, start.double(), weight, level, noise, self.outer, steps=8)
        core_position, _ = self._search(counts, good, position, spot.weight, level, noise, self.core, steps=3)
        residual, counting = counts - spot.expected, spot.counting
        sampling = self._sampling(spot.design, spot.weight * spot.used * residual, spot.inverse, position)
        core_shift = (position - core_position).square().mean(1)[:, None, None] * torch.eye(2).to(position)
        covariance = spot.inverse[:, :2, :2] * spot.scale[:, :, None] + sampling + CORE_SHARE * core_shift
        region = spot.used * (start_distance < self.aperture.radius + DISK_MARGIN_PX)
        misfit, excess = (pixel_mean(v, region) for v in (residual.square() / counting, residual.square() - counting))
        strength = (spot.height.square() / counting * spot.used).sum(1).sqrt()
        no_contrast, zeros = counts.new_zeros(len(counts), 0), counts.new_zeros(len(counts), 2)
        fields = (position, covariance, misfit, excess.clamp_min(0).sqrt() / level[:, 0], spot.height.amax(1),
                  level[:, 0], strength, no_contrast, no_contrast, zeros[:, :, None] * zeros[:, None], zeros)
        return tuple(field.float() for field in fields)

    def _search(self, counts, good, position, weight, level, noise, reach, steps):
        """Find the position (n, 2) by Gauss-Newton steps, halved if they worsen the fit, and the fit at it."""
        first_weight, best, lowest = weight, position, torch.full_like(level[:, 0], torch.inf)
        step = torch.zeros_like(position)
        for k in range(steps + 1):
            spot = self._evaluate(counts, good, position, weight, first_weight, level, noise, reach)
            better = (spot.loss < lowest)[:, None]
            lowest, best = torch.where(better[:, 0], spot.loss, lowest), torch.where(better, position, best)
            weight = torch.where(better, spot.weight, weight)
            step = torch.where(better, spot.step, step / 2)
            position = best + step if k < steps else best
        return best, self._evaluate(counts, good, best, weight, first_weight, level, noise, reach)

    def _evaluate(self, counts, good, position, weight, fixed, level, noise, reach):
        """Fit the profile about a position and compute the next step."""
        knots = len(self.knots)
        design, distance = self._design(position)
        used = (distance < reach) * good
        solved, _ = self._solve(design[:, :, 2:], weight * used, counts)
        expected = (design[:, :, 2:] * solved[:, None]).sum(-1)
        loss = pixel_mean(torch.log1p((counts - expected).square() * fixed / STUDENT_DOF), used)
        spline = (design[:, :, 2 : 2 + knots] * solved[:, None, :knots]).sum(-1)
        design[:, :, :2] *= (self._read(self.falls, distance) * solved[:, None, :knots]).sum(-1, keepdim=True)
        moved, inverse = self._solve(design, weight * used, counts)
        height = (spline - solved[:, None, knots - 1]).clamp_min(0)
        counting = expected.clamp_min(MIN_EXPECTED_FRACTION * level) + noise
        variance = counting + (PROFILE_ERROR * height) ** 2
        squared = (counts - expected).square() / variance
        scale = (_median(squared, used) / NORMAL_MAD**2).clamp_min(1)[:, None]
        weight = (STUDENT_DOF + 1) / (STUDENT_DOF + squared / scale) / variance
        return _Evaluated(loss, moved[:, :2].clamp(-MAX_STEP_PX, MAX_STEP_PX), design, used, expected, height, counting,
                          weight, scale, inverse)

    def _kept_pixels(self, electrons, good, readout):
        """Fitted pixels of windows (n, pixels), and 1 where they are used, else 0; holes in the beam are not used.

        Counts of a saturated beam overflow to small values: its middle is dark and surrounded by brighter pixels.
        """
        values = (electrons * good).double()
        brightest = [values.flip(axis).cummax(axis).values.flip(axis) for axis in (1, 2)]
        brightest += [values.cummax(axis).values for axis in (1, 2)]
        rim = torch.stack(brightest).amin(0)
        hole = values < MAX_WRAPPED * rim - WRAPPED_SIGMAS * (rim + readout**2).clamp_min(0).sqrt()
        counts, good = (a.reshape(len(electrons), -1)[:, self.keep] for a in (values, (good & ~hole).double()))
        return counts * good, good

    def _design(self, position):
        """Design matrix (n, pixels, 4 + knots) of unit vectors, knots and slope, and distance from the position."""
        offset = torch.stack([self.x - position[:, :1], self.y - position[:, 1:]], -1)
        distance = offset.norm(dim=-1).clamp_min(1e-6)
        return torch.cat([-offset / distance[..., None], self._read(self.table, distance), offset / self.outer],
                         -1), distance

    @staticmethod
    def _read(table, distance):
        index = (distance / SPLINE_STEP_PX).clamp(max=len(table) - 2)
        low = index.floor().long()
        part = (index - low)[..., None]
        return table[low] * (1 - part) + table[low + 1] * part

    def _solve(self, design, weight, counts):
        """Solve weighted least squares: coefficients (n, k) and inverse of the normal matrix (n, k, k).

        A penalty keeps knots that few pixels determine near the line through their neighbors.
        """
        weighted = design * weight[..., None]
        normal = weighted.mT @ design
        diagonal = normal.diagonal(dim1=1, dim2=2)
        first = design.shape[2] - len(self.knots) - 2
        largest = diagonal[:, first:-2].amax(1)[:, None, None]
        normal[:, first:-2, first:-2] += SMOOTHNESS * largest * self.bending
        diagonal.mul_(1 + 1e-8).add_(1e-10 * diagonal.amax(1, keepdim=True) + 1e-12)
        factor = torch.linalg.cholesky_ex(normal)[0]
        inverse = torch.cholesky_inverse(factor)
        return (inverse @ (weighted.mT @ counts[..., None]))[..., 0], inverse

    def _sampling(self, design, score, inverse, position):
        """Covariance (n, 2, 2) of the position from the influence of azimuth sectors, as in a jackknife."""
        turn = torch.atan2(self.y - position[:, 1:], self.x - position[:, :1]) / (2 * torch.pi) + 0.5
        sector = one_hot((turn * AZIMUTH_SECTORS).long().clamp(0, AZIMUTH_SECTORS - 1), AZIMUTH_SECTORS).to(score)
        influence = (inverse @ (design.mT @ (score[..., None] * sector)))[:, :2]
        return influence @ influence.mT * (AZIMUTH_SECTORS / (AZIMUTH_SECTORS - 1))

    def shape(self, electrons, good, position) -> tuple[float, float]:
        """Measure radius and softness of the mean profile of windows.

        Parameters
        ----------
        electrons : torch.Tensor, shape (n, side, side)
            Windows in electrons.
        good : torch.Tensor of bool, shape (n, side, side)
            True where a pixel is used.
        position : torch.Tensor, shape (n, 2)
            Positions of the spots in pixels from the middle of the window.

        Returns
        -------
        radius : float
            Radius at half of the height, pixels; that of the aperture if the profile does not fall to half.
        softness : float
            Distance in which the profile falls from 0.8 to 0.2 of its height, in radii: 0.96 for a Gaussian, 1.7 s / R
            for a disk of radius R whose edge has the width s (1 sigma); 0 if the profile does not fall to 0.2.
        """
        counts, good = self._kept_pixels(electrons, good, 0.0)
        design, distance = self._design(position.double())
        used = good * (distance < self.outer)
        solved = self._solve(design[:, :, 2:], used, counts)[0]
        height = (self.table @ solved[:, : len(self.knots)].mean(0)).cpu().numpy()[self.table_at < self.outer]
        width = int(0.5 / SPLINE_STEP_PX)
        means = np.convolve(height, np.ones(width) / width, "valid")
        first, top, floor = means.argmax(), means.max(), height[-2 * width:].mean()
        falls = [np.flatnonzero(height[first:] < floor + part * (top - floor)) for part in (0.8, 0.5, 0.2)]
        if not top > floor or not all(map(len, falls)):
            return self.aperture.radius, 0.0
        inner_radius, radius, outer_radius = (float(self.table_at[first + fall[0]]) for fall in falls)
        return radius, (outer_radius - inner_radius) / max(radius, SPLINE_STEP_PX)


@lru_cache(maxsize=16)
def spot_model(aperture: Aperture, device: str = "cpu") -> SpotModel:
    """Return the model of a sharp beam, cached within a process.

    Parameters
    ----------
    aperture : Aperture
        The aperture.
    device : str, optional
        Device on which windows are fitted.

    Returns
    -------
    SpotModel
        The model.
    """
    return SpotModel(aperture, device)


def _median(values, used):
    """Median over the used entries of each row, (n,)."""
    ordered = torch.where(used > 0, values, torch.inf).sort(1).values
    return ordered.gather(1, (used.sum(1) / 2).long()[:, None])[:, 0].nan_to_num(posinf=0.0)
