"""Maximum-likelihood fit of the direct disk in single patterns, with dynamical contrast inside the disk.

A network locates the disk to a few hundredths of a pixel, and a uniform disk fitted to a pattern is biased by the
dynamical contrast inside real disks, at any dose. Here the expected counts in a window of a pattern are

    expected(q) = A(q - q0) c(q) + b(q),

where A is the image of the aperture (radius, blur, ellipse; a uniform edge averaged over a pixel), c a polynomial (the
contrast), and b a plane (the background). The position q0 moves the edge; c describes the contrast. The amplitude
of c is learned from the scan: each degree of c has a Gaussian prior whose width maximizes the evidence
(MacKay, Neural Computation 4, 415 (1992), eq. 4.8). At low dose the disk is therefore uniform and the unused terms do
not increase the variance; at high dose the contrast is free. The Poisson likelihood is maximized by iteratively
reweighted Gauss-Newton steps. The covariance is the inverse of the information matrix, with the contrast marginalized.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import pi
from typing import NamedTuple

import numpy as np
import torch

from ..core import ellipse_matrix
from . import (
    MAX_CONTRAST_DEGREE,
    MIN_BLUR_PX,
    Aperture,
    disk_terms,
    highest_degree,
    monomials,
    orthonormal,
    pixel_mean,
    unit_disk,
)

DISK_MARGIN_PX = 3.0  # pixels; width of the margin around the disk that is fitted with it, to determine the background
MAX_START_OFFSET_PX = 1.5  # pixels; largest distance of a position from the middle of its window
# Standard errors; an additional step is taken where the last of three steps was longer. From a start that is wrong by
# 0.3 px, most windows converge in three steps. Iterating until all converge increases the error: in windows that
# converge slowly, the contrast absorbs the shift of the edge.
MAX_MOVE_SIGMAS = 0.1
LEARNING_ROUNDS = 6  # rounds; largest number in which aperture and contrast are learned from a sample
MIN_EXPECTED_FRACTION = 0.03  # fraction of the disk's level; lower bound of the expected counts in weights, a safeguard
MISFIT_SIGMAS = 4.0  # standard errors; largest excess of the mean squared residual that is attributed to counting noise
MAX_GROWTH = 10.0  # factor; largest growth of the amplitude of the contrast in one round of learning, a safeguard
CONTRAST_LIMITS = 1e-3, 1.0  # relative amplitudes; smallest and largest contrast that is learned
# Fraction of a coefficient's noise variance; smallest variance of the contrast that is learned, limited by float32.
MIN_CONTRAST_PART = 0.01
POSITION_PRIOR_PX = 1.0  # pixels, 1 sigma; prior of the position about its start, which the fit of a weak disk needs


@dataclass(frozen=True)
class DiskPositions:
    """Result of `DiskModel.fit` for n windows.

    Attributes
    ----------
    position : torch.Tensor, shape (n, 2)
        Position of the disk in pixels from the middle of the window.
    covariance : torch.Tensor, shape (n, 2, 2)
        Covariance of the position, square pixels.
    misfit : torch.Tensor, shape (n,)
        Mean squared residual in units of the expected variance; below 1 if pixels have less than one electron.
    relative_misfit : torch.Tensor, shape (n,)
        Rms residual in excess of counting noise, relative to the brightness of the disk; 0 if there is no excess.
    brightness : torch.Tensor, shape (n,)
        Mean brightness of the disk above the background, electrons per pixel.
    level : torch.Tensor, shape (n,)
        Electrons in a pixel of the disk, including the background.
    strength : torch.Tensor, shape (n,)
        `brightness` in units of its standard error.
    contrast : torch.Tensor, shape (n, terms)
        Coefficients of the contrast relative to the level of the disk.
    contrast_variance : torch.Tensor, shape (n, terms)
        Variances of `contrast`.
    curvature : torch.Tensor, shape (n, 2, 2)
        Information on (radius, blur); zero without ``learn=True``.
    slope : torch.Tensor, shape (n, 2)
        Gradient of the log likelihood with respect to (radius, blur); zero without ``learn=True``.
    """

    position: torch.Tensor
    covariance: torch.Tensor
    misfit: torch.Tensor
    relative_misfit: torch.Tensor
    brightness: torch.Tensor
    level: torch.Tensor
    strength: torch.Tensor
    contrast: torch.Tensor
    contrast_variance: torch.Tensor
    curvature: torch.Tensor
    slope: torch.Tensor


class _ApertureValues(NamedTuple):
    """Aperture A and its derivatives, (n, pixels) each."""

    value: torch.Tensor
    move_x: torch.Tensor  # derivative with respect to the position along x
    move_y: torch.Tensor  # derivative with respect to the position along y
    radial: torch.Tensor | None  # derivative with respect to the radius
    blurring: torch.Tensor | None  # derivative with respect to the blur


class Overlap(NamedTuple):
    """Contribution of overlapping disks to the fitted pixels of n windows.

    Attributes
    ----------
    expected : torch.Tensor, shape (n, kept pixels)
        Expected electrons of the overlapping disks.
    change : torch.Tensor, shape (n, kept pixels, m)
        Derivatives of `expected` with respect to m uncertain parameters of the overlapping disks.
    precision : torch.Tensor, shape (n, m)
        Inverse variances of these parameters.
    """

    expected: torch.Tensor
    change: torch.Tensor
    precision: torch.Tensor


class _Windows(NamedTuple):
    """Data and priors of the fit of n windows."""

    counts: torch.Tensor  # (n, kept pixels), electrons after subtraction of `beneath`
    good: torch.Tensor  # (n, kept pixels), 1 where a pixel is used, else 0
    start: torch.Tensor  # (n, 2), pixels from the middle of the window
    beneath: torch.Tensor  # `Overlap.expected`
    change: torch.Tensor  # `Overlap.change`
    precision: torch.Tensor  # `Overlap.precision`
    prior: torch.Tensor  # (n, terms, terms), inverse covariance of the contrast


class _Start(NamedTuple):
    """Parameters from which Gauss-Newton steps start."""

    position: torch.Tensor
    coefficients: torch.Tensor
    level: torch.Tensor


class _State(NamedTuple):
    """Parameters after the last Gauss-Newton step, with the arrays from which that step was computed."""

    position: torch.Tensor  # (n, 2)
    coefficients: torch.Tensor  # (n, unknowns - 2), all unknowns except the position
    level: torch.Tensor  # (n,), electrons in a pixel of the disk
    move: torch.Tensor  # (n, 2), length of the last step in pixels
    expected: torch.Tensor  # (n, pixels), expected electrons
    weight: torch.Tensor  # (n, pixels), inverse variance
    value: torch.Tensor  # (n, pixels), aperture
    move_x: torch.Tensor  # (n, pixels), derivative of `expected` with respect to the position
    move_y: torch.Tensor
    factor: torch.Tensor  # (n, unknowns, unknowns), Cholesky factor of the information
    gradient: torch.Tensor  # (n, unknowns), gradient of the log likelihood; empty without ``learn=True``
    shapes: torch.Tensor  # (n, 2, pixels), derivatives with respect to radius and blur; empty without ``learn=True``

    def put(self, index, other):
        """Replace the windows at `index` by those of another state."""
        for values, new in zip(self, other, strict=True):
            values[index] = new


class DiskModel:
    """Model of the direct disk for one aperture; fits batches of windows.

    The matrices that depend on the aperture alone are computed once.

    Parameters
    ----------
    aperture : Aperture
        The aperture.
    device : str or torch.device, optional
        Device on which windows are fitted.
    direction : float, optional
        Angle from +qx toward +qy to which the terms of the contrast are aligned, radians.
    amplitudes : numpy.ndarray, shape (terms,), optional
        Relative amplitude of each term of the contrast; by default that of its degree in the aperture.

    Attributes
    ----------
    aperture : Aperture
        The aperture.
    amplitudes : torch.Tensor, shape (terms,)
        Relative amplitude of each term of the contrast. Terms are ordered by degree n, and in a degree by k of
        u**(n - k) v**k, u along `direction`.
    degree : int
        Degree of the contrast.
    side : int
        Side of the windows in pixels; odd, so that the middle is the center of a pixel.
    keep : torch.Tensor of bool, shape (side * side,)
        Pixels of a window that are fitted.

    Examples
    --------
    >>> import torch
    >>> from py4dstem_prenet.fits import Aperture, DiskModel
    >>> model = DiskModel(Aperture(radius=4.0, blur=0.3, vector=(0.0, 0.0), contrast=(0.01, 0.01)))
    >>> axis = torch.arange(model.side) - model.side // 2
    >>> x, y = torch.meshgrid(axis - 0.3, axis + 0.2, indexing="ij")  # a disk at (0.3, -0.2)
    >>> electrons = 1000 * torch.sigmoid(6 * (4 - torch.hypot(x, y)))[None]
    >>> fitted = model.fit(electrons, torch.ones_like(electrons, dtype=bool), torch.zeros(1, 2), readout=0.0)
    >>> [round(q, 1) for q in fitted.position[0].tolist()]
    [0.3, -0.2]
    """

    def __init__(self, aperture: Aperture, device="cpu", direction: float = 0.0, amplitudes=None):
        self.aperture = aperture
        radius = aperture.radius
        self.degree = len(aperture.contrast) or highest_degree(radius)
        self.inverse = torch.linalg.inv(ellipse_matrix(torch.tensor(np.asarray(aperture.vector)))).float()
        semi_major = radius * (1 + np.hypot(*aperture.vector)) ** 0.5
        half = int(np.ceil(semi_major + DISK_MARGIN_PX + MAX_START_OFFSET_PX))
        self.side = 2 * half + 1
        axis = torch.arange(-half, half + 1, dtype=torch.float32)
        x, y = torch.meshgrid(axis, axis, indexing="ij")
        ideal = torch.stack([x, y], -1) @ self.inverse.T
        distance = ideal.norm(dim=-1)
        self.keep = (distance < radius + DISK_MARGIN_PX).flatten()
        u, v = (ideal / radius / (distance / radius).clamp_min(1)[..., None]).view(-1, 2)[self.keep].unbind(1)
        along, across = np.cos(direction), np.sin(direction)
        u, v = u * along + v * across, v * along - u * across
        self.x, self.y = x.flatten()[self.keep].to(device), y.flatten()[self.keep].to(device)
        self.terms = disk_terms(u, v, self.degree).to(device)
        self.degrees = torch.tensor([n for n in range(self.degree + 1) for _ in range(n + 1)], device=device)
        self.plane = monomials(self.x / (radius + DISK_MARGIN_PX), self.y / (radius + DISK_MARGIN_PX), 1)
        i, j = torch.triu_indices(self.terms.shape[1], self.terms.shape[1], device=device)
        self.term_pairs = self.terms[:, i] * self.terms[:, j]
        pair_of = torch.zeros(self.terms.shape[1], self.terms.shape[1], dtype=torch.long, device=device)
        pair_of[i, j] = pair_of[j, i] = torch.arange(len(i), device=device)
        self.pair_of = pair_of.flatten()
        self.plane_pairs = (self.plane[:, :, None] * self.plane[:, None]).flatten(1)
        self.mixed_pairs = (self.plane[:, :, None] * self.terms[:, None]).flatten(1)
        self.inverse = self.inverse.to(device)
        self.contrast = torch.tensor([1.0, *(aperture.contrast or [0.4] * self.degree)], device=device)
        self.amplitudes = self.contrast[self.degrees]
        if amplitudes is not None:
            self.amplitudes = torch.as_tensor(np.asarray(amplitudes, np.float32), device=device)

    def _distance(self, position):
        """Offsets of the pixels from positions (n, 2), the same in ideal coordinates, and their ideal distance."""
        m = self.inverse
        dx, dy = self.x - position[:, :1], self.y - position[:, 1:]
        u, v = dx * m[0, 0] + dy * m[0, 1], dx * m[1, 0] + dy * m[1, 1]
        return dx, dy, u, v, torch.hypot(u, v).clamp_min(1e-6)

    def _aperture(self, position, shapes: bool = False) -> _ApertureValues:
        """Compute the aperture at positions (n, 2), and its derivatives; with `shapes` also to radius and blur.

        The edge is that of a disk blurred by a Gaussian and averaged over a pixel: a normal distribution with the
        variance of both, corrected for the fourth cumulant of a square (Gram-Charlier series), and moved inward by
        the curvature of the edge. The error is below 1 % of the disk's level for a radius of 2 px or more and a blur
        of 0.2 px or more.
        """
        m = self.inverse
        radius, blur, edge = self.aperture.radius, self.aperture.blur, self.aperture.edge
        dx, dy, u, v, distance = self._distance(position)
        # Beyond 5.5 sigma the edge is flat; denormal float32 products there would be slow.
        t = ((distance - (radius - edge**2 / (2 * radius))) / edge).clamp(-5.5, 5.5)
        square = t * t
        bell = (-0.5 * square).exp() * ((2 * pi) ** -0.5 / edge)
        inverse = 1 / distance
        diagonal = dx * dy * inverse.square()  # sine times cosine of the azimuth
        cumulant = (diagonal.square() * 2 - 1) * (1 / (2880 * edge**4))  # of a square along the gradient, over 4!
        third = t * (square - 3)
        value = 0.5 * torch.erfc(t * 0.5**0.5) + cumulant * third * bell * edge
        fall = bell * (1 + cumulant * (square * (square - 6) + 3))
        along = fall * inverse
        radial = blurring = None
        if shapes:
            radial = fall * (1 + edge**2 / (2 * radius**2))
            blurring = (fall * (t - edge / radius) - 4 * cumulant * third * bell) * (blur / edge)
        return _ApertureValues(value, along * (u * m[0, 0] + v * m[1, 0]), along * (u * m[0, 1] + v * m[1, 1]),
                               radial, blurring)

    def _kept_pixels(self, electrons, good):
        """Return the fitted pixels of windows, (n, pixels), and 1 where they are good, else 0."""
        n = len(electrons)
        return electrons.reshape(n, -1)[:, self.keep], good.reshape(n, -1)[:, self.keep].to(electrons.dtype)

    def _weight(self, expected, level, good, readout):
        """Inverse variance of the counts in each pixel; zero for bad pixels."""
        return good / (expected.clamp_min(MIN_EXPECTED_FRACTION * level[:, None]) + readout**2 + 1e-3)

    def fit(self, electrons, good, start, readout: float, learn: bool = False, prior=None,
            overlap: Overlap | None = None) -> DiskPositions:
        """Fit the disk in a batch of windows.

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
            Whether to compute `curvature` and `slope`, which `learned` needs.
        prior : torch.Tensor, shape (n, terms, terms), optional
            Inverse covariance of the contrast relative to the level of the disk (`turned_priors`); by default that of
            `amplitudes`.
        overlap : Overlap, optional
            Contribution of overlapping disks; their uncertainty is marginalized.

        Returns
        -------
        DiskPositions
            Positions, covariances and quality of the fits.
        """
        n, terms = len(electrons), self.terms.shape[1]
        first_term, first_plane = 2, 2 + terms  # the unknowns: position, terms of the contrast, plane
        counts, good = self._kept_pixels(electrons, good)
        beneath, change, precision = overlap or (
            torch.zeros_like(counts), counts.new_zeros(*counts.shape, 0), counts.new_zeros(n, 0))
        if prior is None:
            prior = torch.diag(self.amplitudes**-2 * (self.degrees > 0)).expand(n, -1, -1)
        windows = _Windows((counts - beneath) * good, good, start, beneath, change, precision, prior)
        state = self._stepped(windows, self._started(windows), readout, learn, steps=3)
        first = torch.eye(state.factor.shape[1], 2, device=counts.device).expand(n, -1, -1)
        sigma = torch.cholesky_solve(first, state.factor).diagonal(dim1=1, dim2=2).sqrt()
        moving = (state.move > MAX_MOVE_SIGMAS * sigma).any(1).nonzero()[:, 0]
        if len(moving):
            start_values = _Start(state.position[moving], state.coefficients[moving], state.level[moving])
            state.put(moving, self._stepped(_Windows(*(a[moving] for a in windows)), start_values, readout, learn,
                                            steps=1))

        counts, level, weight, inverse = windows.counts, state.level, state.weight, torch.cholesky_inverse(state.factor)
        residual = counts - state.expected
        misfit = pixel_mean(residual.square() * weight, good)
        # The variance of a squared Poisson residual is 2 + 1 / mean, in units of its mean squared.
        chance = MISFIT_SIGMAS * ((2 + 1 / level) / (good * state.value).sum(1).clamp_min(1)).sqrt()
        noise = pixel_mean(good / weight.clamp_min(1e-12), good) * (1 + chance)
        relative = (pixel_mean(residual.square() * good, good) - noise).clamp_min(0).sqrt() / level
        curvature, slope = counts.new_zeros(n, 2, 2), counts.new_zeros(n, 2)
        if learn:
            curvature, slope = self._shape_information(state, inverse, residual, misfit)
        coefficients = state.coefficients
        variance = inverse.diagonal(dim1=1, dim2=2)[:, first_term:first_plane]
        strength = coefficients[:, 0] / inverse[:, first_term, first_term].sqrt()
        return DiskPositions(state.position, inverse[:, :2, :2], misfit, relative, coefficients[:, 0], level, strength,
                             coefficients[:, :terms] / level[:, None], variance / level[:, None] ** 2, curvature, slope)

    def _started(self, windows) -> _Start:
        """Start each fit with a uniform disk on a uniform background."""
        terms, planes = self.terms.shape[1], self.plane.shape[1]
        outward, edge = self._distance(windows.start)[-1] - self.aperture.radius, self.aperture.edge
        level, background = (pixel_mean(windows.counts, windows.good * region)
                             for region in (outward < 0, outward > 2 * edge))
        level = level.clamp_min(1e-3)
        coefficients = outward.new_zeros(len(outward), terms + planes + windows.change.shape[2])
        coefficients[:, 0] = (level - background).clamp_min(0.05 * level)
        coefficients[:, terms] = background.clamp_min(0)
        return _Start(windows.start, coefficients, level)

    def _stepped(self, windows, begun, readout, learn, steps) -> _State:
        """Take Gauss-Newton steps."""
        terms, planes = self.terms.shape[1], self.plane.shape[1]
        first_term, first_plane, first_change = 2, 2 + terms, 2 + terms + planes
        counts, change = windows.counts, windows.change
        position, coefficients, level = begun
        limit = MAX_START_OFFSET_PX + 0.5
        for _ in range(steps):
            value, move_x, move_y, radial, blurring = self._aperture(position, learn)
            inside = coefficients[:, :terms] @ self.terms.T
            expected = value * inside + coefficients[:, terms : terms + planes] @ self.plane.T
            if change.shape[2]:
                expected = expected + (change @ coefficients[:, terms + planes :, None])[..., 0]
            weight = self._weight(expected + windows.beneath, level, windows.good, readout)
            bright = inside.clamp_min(0)  # the edge of a region of negative brightness must not move the position
            move_x, move_y = bright * move_x, bright * move_y
            matrix, right_side = self._normal_equations(counts, weight, value, move_x, move_y, change)
            right_side[:, :2] += (windows.start - position) / POSITION_PRIOR_PX**2
            diagonal = matrix.diagonal(dim1=1, dim2=2)
            diagonal.mul_(1 + 1e-6).add_(1e-9)
            diagonal[:, :2] += POSITION_PRIOR_PX**-2
            diagonal[:, first_change:] += windows.precision
            matrix[:, first_term:first_plane, first_term:first_plane] += windows.prior / level[:, None, None] ** 2
            factor = torch.linalg.cholesky_ex(matrix)[0]
            solved = torch.cholesky_solve(right_side[..., None], factor)[..., 0]
            previous, coefficients = coefficients, solved[:, 2:]
            last_position = position
            position = (position + solved[:, :2].clamp(-0.5, 0.5)).clamp(-limit, limit)
        gradient, shapes = right_side[:, :0], value[:, None, :0]
        if learn:
            matrix = torch.tril(matrix) + torch.tril(matrix, -1).mT
            gradient = right_side - (matrix @ torch.cat([torch.zeros_like(position), previous], 1)[..., None])[..., 0]
            shapes = torch.stack([bright * radial, bright * blurring], 1)
        return _State(position, coefficients, level, (position - last_position).abs(), expected, weight, value, move_x,
                      move_y, factor, gradient, shapes)

    def overlap(self, position, contrast, sigma, contrast_sigma) -> Overlap:
        """Compute the contribution of k overlapping disks to each window.

        Parameters
        ----------
        position : torch.Tensor, shape (n, k, 2)
            Positions of the overlapping disks in pixels from the middle of the window.
        contrast : torch.Tensor, shape (n, k, terms)
            Coefficients of their brightness in electrons per pixel, for at least three terms; zero where there is no
            disk.
        sigma : torch.Tensor, shape (n, k, 2)
            Standard errors of `position`.
        contrast_sigma : torch.Tensor, shape (n, k, 3)
            Standard errors of the first three coefficients.

        Returns
        -------
        Overlap
            The contribution. Its uncertain parameters are the position, the brightness and the slope of the brightness.
        """
        expected, change, precision = 0, [], []
        degree = next(d for d in range(MAX_CONTRAST_DEGREE + 1) if (d + 1) * (d + 2) // 2 >= contrast.shape[2])
        for k in range(position.shape[1]):
            value, move_x, move_y, *_ = self._aperture(position[:, k])
            offset = torch.stack([self.x - position[:, k, :1], self.y - position[:, k, 1:]], -1) @ self.inverse.T
            offset = offset / offset.norm(dim=-1, keepdim=True).clamp_min(self.aperture.radius)
            terms = disk_terms(*offset.unbind(-1), degree)
            inside = (terms @ contrast[:, k, :, None])[..., 0]
            expected = expected + value * inside
            bright = inside.clamp_min(0)
            change += [bright * move_x, bright * move_y, *(value[..., None] * terms[..., :3]).unbind(-1)]
            precision += [sigma[:, k].clamp_min(1e-3) ** -2, contrast_sigma[:, k].clamp_min(1e-6) ** -2]
        return Overlap(expected, torch.stack(change, -1), torch.cat(precision, 1))

    def turned_priors(self, count: int):
        """Compute the prior of the contrast, in the form that `fit` takes, for evenly spaced directions.

        Parameters
        ----------
        count : int
            Number of directions in 180 degrees.

        Returns
        -------
        torch.Tensor, shape (count, terms, terms)
            Inverse covariance of the contrast; row k applies `amplitudes` along and across `direction` + k pi / count.
        """
        precision = (self.amplitudes**-2 * (self.degrees > 0)).double().cpu()
        turns = _turns(self.degree, count)
        return (turns.mT @ (precision[:, None] * turns)).float().to(self.terms.device)

    def _normal_equations(self, counts, weight, value, move_x, move_y, change):
        """Lower half of the normal matrix (n, unknowns, unknowns) and right-hand side of a Gauss-Newton step."""
        n, terms, planes = len(counts), self.terms.shape[1], self.plane.shape[1]
        first_term, first_plane, first_change = 2, 2 + terms, 2 + terms + planes
        value_weight, weighted = value * weight, weight * counts
        matrix = counts.new_zeros(n, first_change + change.shape[2], first_change + change.shape[2])
        products = ((value_weight * value) @ self.term_pairs).index_select(1, self.pair_of)
        matrix[:, first_term:first_plane, first_term:first_plane] = products.view(n, terms, terms)
        plane = slice(first_plane, first_change)
        matrix[:, plane, plane] = (weight @ self.plane_pairs).view(n, planes, planes)
        matrix[:, plane, first_term:first_plane] = (value_weight @ self.mixed_pairs).view(n, planes, terms)
        right_side = []
        for k, move in enumerate((move_x, move_y)):
            moved = move * weight
            matrix[:, k, k] = (move * moved).sum(1)
            matrix[:, first_term:first_plane, k] = (moved * value) @ self.terms
            matrix[:, plane, k] = moved @ self.plane
            right_side.append((moved * counts).sum(1, keepdim=True))
        matrix[:, 1, 0] = (move_x * move_y * weight).sum(1)
        right_side += [(value * weighted) @ self.terms, weighted @ self.plane]
        if change.shape[2]:
            weighted_change = weight[..., None] * change
            design = torch.cat([move_x[..., None], move_y[..., None], value[..., None] * self.terms,
                                self.plane.expand(n, -1, -1), change], 2)
            matrix[:, first_change:] = weighted_change.mT @ design
            right_side.append((weighted_change.mT @ counts[..., None])[..., 0])
        return matrix, torch.cat(right_side, 1)

    def _shape_information(self, state, inverse, residual, misfit):
        """Curvature (n, 2, 2) and slope (n, 2) of the log likelihood in (radius, blur), other unknowns marginalized."""
        weighted = state.shapes * state.weight[:, None]
        moves = torch.stack([state.move_x, state.move_y], -1)
        mixed = torch.cat([weighted @ moves, (weighted * state.value[:, None]) @ self.terms, weighted @ self.plane], 2)
        projection = mixed @ inverse
        trust = 1 / misfit.clamp_min(1)[:, None]
        pull = (weighted @ residual[..., None])[..., 0] - (projection @ state.gradient[..., None])[..., 0]
        return (weighted @ state.shapes.mT - projection @ mixed.mT) * trust[..., None], pull * trust

    def surplus(self, electrons, good, fitted: DiskPositions, readout: float):
        """Compute how much each pixel exceeds a fit to all other pixels of its window.

        Parameters
        ----------
        electrons : torch.Tensor, shape (n, side, side)
            Windows in electrons.
        good : torch.Tensor of bool, shape (n, side, side)
            True where a pixel is used.
        fitted : DiskPositions
            Result of `fit` for these windows.
        readout : float
            Read-out noise in electrons, rms.

        Returns
        -------
        score : torch.Tensor, shape (n, kept pixels)
            Weighted residual of each pixel.
        information : torch.Tensor, shape (n, kept pixels)
            Information on the surplus of each pixel.
        level : torch.Tensor, shape (n,)
            Electrons in a pixel of the disk.

        Notes
        -----
        With both summed over windows, score / information is the surplus of a pixel in electrons, and 1 / information
        its variance.
        """
        n, terms = len(electrons), self.terms.shape[1]
        counts, good = self._kept_pixels(electrons, good)
        value, move_x, move_y, *_ = self._aperture(fitted.position)
        level, background = (pixel_mean(counts, good * part) for part in (value > 0.5, value < 0.02))
        level = level.clamp_min(1e-3)
        inside = level[:, None] * (fitted.contrast @ self.terms.T)
        moves = torch.stack([move_x, move_y], -1) * inside.clamp_min(0)[..., None]
        design = torch.cat([moves, value[..., None] * self.terms, self.plane.expand(n, -1, -1)], 2)
        prior = torch.zeros(n, design.shape[2], device=counts.device)
        prior[:, 3 : 2 + terms] = (self.amplitudes[1:] * level[:, None]) ** -2
        expected = value * inside + background[:, None]
        for _ in range(2):
            weight = self._weight(expected, level, good, readout)
            weighted = weight[..., None] * design
            matrix = weighted.mT @ design
            factor = torch.linalg.cholesky_ex(
                matrix + torch.diag_embed(prior + 1e-6 * matrix.diagonal(dim1=1, dim2=2) + 1e-9))[0]
            solved = torch.cholesky_solve(weighted.mT @ counts[..., None], factor)
            expected = (design[..., 2:] @ solved[:, 2:])[..., 0]
        leverage = (weighted * torch.cholesky_solve(design.mT, factor).mT).sum(2)
        score = weight * (counts - (design @ solved)[..., 0])
        return score, weight * (1 - leverage).clamp_min(0), level

    def learned(self, fitted: DiskPositions, used) -> Aperture:
        """Improve the aperture by one round of learning from a sample of windows.

        Parameters
        ----------
        fitted : DiskPositions
            Result of `fit` with ``learn=True``.
        used : torch.Tensor of bool, shape (n,)
            True for the windows that are learned from.

        Returns
        -------
        Aperture
            The aperture with improved contrast, radius and blur, and the sigma of its radius.
        """
        contrast = []
        for degree in range(1, self.degree + 1):
            terms = self.degrees == degree
            variance, coefficients = fitted.contrast_variance[used][:, terms], fitted.contrast[used][:, terms]
            prior = float(self.contrast[degree]) ** 2
            determined = (1 - variance / prior).clamp(0, 1)
            # One step of Fisher scoring to the maximum of the evidence, which MacKay's iteration approaches slowly.
            change = (coefficients.square() - determined * prior).sum() / determined.square().sum().clamp_min(1e-3)
            part = float(determined.mean().clamp(1e-3, 1 - 1e-6))
            noise = prior * (1 - part) / part  # variance of a coefficient without its prior
            low = max(CONTRAST_LIMITS[0] ** 2, MIN_CONTRAST_PART * noise)
            power = (prior + change).clamp(low, max(low, min(CONTRAST_LIMITS[1] ** 2, MAX_GROWTH**2 * prior)))
            contrast.append(float(power.sqrt()))
        # A prior of 0.1 px (1 sigma) on the step prevents a few electrons from changing radius and blur.
        prior = 100 * torch.eye(2, device=fitted.slope.device)
        inverse = torch.linalg.inv(fitted.curvature[used].sum(0) + prior)
        step = (inverse @ fitted.slope[used].sum(0)).clamp(-0.2, 0.2).cpu().numpy()
        steps = fitted.slope[used] @ inverse[0]  # of each window; they scatter also by errors of the model
        return replace(self.aperture, radius=float(self.aperture.radius + step[0]), contrast=tuple(contrast),
                       blur=float(np.clip(self.aperture.blur + step[1], MIN_BLUR_PX, 1.5)),
                       radius_sigma=float((steps - steps.mean()).square().sum().sqrt()))


@lru_cache(maxsize=16)
def disk_model(aperture: Aperture, device: str = "cpu") -> DiskModel:
    """Return the model of an aperture, cached within a process.

    Parameters
    ----------
    aperture : Aperture
        The aperture.
    device : str, optional
        Device on which windows are fitted.

    Returns
    -------
    DiskModel
        The model.
    """
    return DiskModel(aperture, device)


@lru_cache(maxsize=16)
def _turns(degree: int, count: int) -> torch.Tensor:
    """Matrices (count, terms, terms) that turn the coefficients of a contrast, for directions k pi / count."""
    mix = orthonormal(degree).double()
    u, v = unit_disk()
    terms = monomials(u, v, degree) @ mix
    angles = torch.arange(count, dtype=torch.float64)[:, None] * pi / count
    across = monomials(u * angles.cos() + v * angles.sin(), v * angles.cos() - u * angles.sin(), degree) @ mix
    return torch.linalg.lstsq(across, terms.expand(count, -1, -1)).solution
