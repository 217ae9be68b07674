"""The direct disk in single patterns, by maximum likelihood, with whatever contrast is inside it.

A network answers within a few hundredths of a pixel and no better, and a plain disk fitted to a pattern is
pulled by the dynamical contrast inside real disks, however many electrons there are. Here a window of a pattern is

    expected(q) = A(q - q0) c(q) + b(q),

with A the aperture as this detector sees it (radius, blur, ellipse; a uniform edge averaged over a pixel), c a
polynomial, and b a plane. The position is what moves the edge; c absorbs what is inside. How strong c may be is
learned from the scan itself: each degree of c has a Gaussian prior whose width follows from the evidence
(MacKay, Neural Computation 4, 415 (1992), eq. 4.8), so that at low dose the disk is flat and nothing is paid
for freedom that is not used, and at high dose it is free. Poisson likelihood by iteratively reweighted
Gauss-Newton steps; the covariance is the inverse of the information matrix, contrast marginalized.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import pi

import numpy as np
import torch

from ..core import ellipse_matrix

MARGIN = 3.0  # pixels around the disk that are fitted with it
SLACK = 1.5  # pixels that a position may lie from the middle of its window
HIGHEST = 6  # degree of the contrast
STEPS = 4  # Gauss-Newton steps; some 0.3 px from the solution two are enough
ROUNDS = 5  # in which aperture and contrast are learned
NARROWEST = 0.05  # blur, pixels: what is left of an edge that one pixel's size hides
WEAKEST = 0.03  # least expected counts in a pixel, of the disk's level: no pixel's weight is boundless
PRIOR = 1.0  # pixels around the start: keeps a disk that hardly shows from wandering off


@dataclass(frozen=True)
class Aperture:
    """The direct disk as the detector sees it.

    radius, blur (of the edge, one sigma, a pixel's own size left out): pixels. vector: of the ellipse.
    contrast: relative amplitude of each degree of the contrast inside, degree 1 first; empty where not yet learned.
    """

    radius: float
    blur: float
    vector: tuple[float, float]
    contrast: tuple[float, ...] = ()

    @property
    def edge(self) -> float:
        """Width of the edge, one sigma, the size of a pixel included."""
        return float(np.hypot(self.blur, 12**-0.5))

    def binned(self, bins: int) -> Aperture:
        return replace(self, radius=self.radius / bins, blur=max(self.blur / bins, NARROWEST))

    def unbinned(self, bins: int) -> Aperture:
        return replace(self, radius=self.radius * bins, blur=self.blur * bins)


@dataclass(frozen=True)
class DiskPositions:
    """position (n, 2), pixels from the window's middle; covariance (n, 2, 2); misfit (n,), mean squared residual
    in units of what counting allows (below 1 where a pixel has less than an electron); strength (n,), of the disk
    above its surroundings, in its own sigmas; contrast (n, terms) and its variances, relative to the level;
    curvature (n, 2, 2) and slope (n, 2): information on (radius, blur)."""

    position: torch.Tensor
    covariance: torch.Tensor
    misfit: torch.Tensor
    strength: torch.Tensor
    contrast: torch.Tensor
    contrast_variance: torch.Tensor
    curvature: torch.Tensor
    slope: torch.Tensor


def _terms(u, v, degree):
    return torch.stack([u ** (n - k) * v**k for n in range(degree + 1) for k in range(n + 1)], -1)


def highest_degree(radius: float) -> int:
    """As many terms as half of the disk's pixels can tell apart."""
    degree = 1
    while degree < HIGHEST and (degree + 2) * (degree + 3) / 2 <= pi * radius**2 / 2:
        degree += 1
    return degree


class DiskModel:
    """The matrices that an aperture needs, made once; `fit` then takes batches of windows.

    side: of the windows, pixels (odd; the middle is a pixel's centre).
    """

    def __init__(self, aperture: Aperture, device="cpu"):
        self.aperture = aperture
        radius = aperture.radius
        self.degree = len(aperture.contrast) or highest_degree(radius)
        self.inverse = torch.linalg.inv(ellipse_matrix(torch.tensor(np.asarray(aperture.vector)))).float()
        reach = radius * (1 + np.hypot(*aperture.vector)) ** 0.5
        half = int(np.ceil(reach + MARGIN + SLACK))
        self.side = 2 * half + 1
        axis = torch.arange(-half, half + 1, dtype=torch.float32)
        x, y = torch.meshgrid(axis, axis, indexing="ij")
        ideal = torch.stack([x, y], -1) @ self.inverse.T
        distance = ideal.norm(dim=-1)
        self.keep = (distance < radius + MARGIN).flatten()
        u, v = (ideal / radius / (distance / radius).clamp_min(1)[..., None]).view(-1, 2)[self.keep].unbind(1)
        self.x, self.y = x.flatten()[self.keep].to(device), y.flatten()[self.keep].to(device)
        inside = torch.linspace(-1, 1, 61, dtype=torch.float64)
        inside = torch.stack(torch.meshgrid(inside, inside, indexing="ij"), -1).view(-1, 2)
        inside = _terms(*inside[inside.norm(dim=1) < 1].unbind(1), self.degree)
        # Orthonormal on the disk, and no term reaches into one of lower degree.
        mix = torch.linalg.inv(torch.linalg.cholesky(inside.T @ inside / len(inside))).T.float()
        self.terms = (_terms(u, v, self.degree) @ mix).to(device)
        self.degrees = torch.tensor([n for n in range(self.degree + 1) for _ in range(n + 1)], device=device)
        self.plane = _terms(self.x / (radius + MARGIN), self.y / (radius + MARGIN), 1)
        self.pairs = torch.triu_indices(self.terms.shape[1], self.terms.shape[1], device=device)
        self.term_pairs = self.terms[:, self.pairs[0]] * self.terms[:, self.pairs[1]]
        self.plane_pairs = (self.plane[:, :, None] * self.plane[:, None]).flatten(1)
        self.mixed_pairs = (self.terms[:, :, None] * self.plane[:, None]).flatten(1)
        self.inverse = self.inverse.to(device)
        self.contrast = torch.tensor([1.0, *(aperture.contrast or [0.4] * self.degree)], device=device)

    def _aperture(self, position):
        """A (n, pixels), its derivatives to position (n, pixels, 2), to radius and to blur."""
        m = self.inverse
        radius, blur = self.aperture.radius, self.aperture.blur
        # A pixel is four points, each with the blur of a quarter pixel: of a square's moments, the second and fourth.
        width = float(np.hypot(blur, 48**-0.5))
        value, move_x, move_y, steep, soft = 0, 0, 0, 0, 0
        for sx in (-0.25, 0.25):
            for sy in (-0.25, 0.25):
                dx, dy = self.x + sx - position[:, :1], self.y + sy - position[:, 1:]
                u, v = dx * m[0, 0] + dy * m[0, 1], dx * m[1, 0] + dy * m[1, 1]
                distance = torch.hypot(u, v).clamp_min(1e-6)
                # Beyond 5.5 sigma nothing happens, and products too small for float32 would cost much time.
                t = ((distance - radius) / width).clamp(-5.5, 5.5)
                bell = (-0.5 * t.square()).exp() * (0.25 * (2 * pi) ** -0.5 / width)
                value = value + 0.125 * torch.erfc(t * 0.5**0.5)
                along = bell / distance
                move_x = move_x + along * (u * m[0, 0] + v * m[1, 0])
                move_y = move_y + along * (u * m[0, 1] + v * m[1, 1])
                steep, soft = steep + bell, soft + bell * t
        return value, move_x, move_y, steep, soft * (blur / width)

    def fit(self, electrons, good, start, readout: float, learn: bool = False) -> DiskPositions:
        """Fit a batch of windows.

        Args:
            electrons: (n, side, side); good: the same, bool. start: (n, 2), pixels from the window's middle.
            readout: electrons rms in a pixel.
            learn: also fill curvature and slope (else they are zero).
        """
        n, terms, planes = len(electrons), self.terms.shape[1], 3
        first, last = 2, 2 + terms
        counts = electrons.reshape(n, -1)[:, self.keep]
        good = good.reshape(n, -1)[:, self.keep].to(counts.dtype)
        counts = counts * good
        position, coefficients = start, None
        prior = torch.zeros(last + planes, device=counts.device)
        prior[first + 1 : last] = self.contrast[self.degrees[1:]] ** -2
        i, j = self.pairs
        for _ in range(STEPS):
            value, move_x, move_y, steep, soft = self._aperture(position)
            if coefficients is None:
                level, around = (_mean(counts, good * part) for part in (value > 0.5, value < 0.02))
                level = level.clamp_min(1e-3)
                coefficients = counts.new_zeros(n, terms + planes)
                coefficients[:, 0] = (level - around).clamp_min(0.05 * level)
                coefficients[:, terms] = around.clamp_min(0)
            inside = coefficients[:, :terms] @ self.terms.T
            expected = value * inside + coefficients[:, terms:] @ self.plane.T
            weight = good / (expected.clamp_min(WEAKEST * level[:, None]) + readout**2 + 1e-3)
            bright = inside.clamp_min(0)  # an edge between negative brightness and nothing would be none
            move_x, move_y = bright * move_x, bright * move_y
            seen, weighted = value * weight, weight * counts
            matrix = counts.new_zeros(n, last + planes, last + planes)
            block = (seen * value) @ self.term_pairs
            matrix[:, first + i, first + j] = block
            matrix[:, first + j, first + i] = block
            matrix[:, last:, last:] = (weight @ self.plane_pairs).view(n, planes, planes)
            matrix[:, first:last, last:] = (seen @ self.mixed_pairs).view(n, terms, planes)
            matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, 0, 1] = (
                (a * b * weight).sum(1) for a, b in ((move_x, move_x), (move_y, move_y), (move_x, move_y)))
            right = [(move_x * weighted).sum(1, keepdim=True), (move_y * weighted).sum(1, keepdim=True),
                     (value * weighted) @ self.terms, weighted @ self.plane]
            for k, move in enumerate((move_x, move_y)):
                matrix[:, k, first:last] = (move * seen) @ self.terms
                matrix[:, k, last:] = (move * weight) @ self.plane
            matrix = torch.triu(matrix) + torch.triu(matrix, 1).mT
            right = torch.cat(right, 1)
            right[:, :2] += (start - position) / PRIOR**2
            held = prior / level[:, None] ** 2 + 1e-6 * matrix.diagonal(dim1=1, dim2=2) + 1e-9
            held[:, :2] += PRIOR**-2
            matrix = matrix + torch.diag_embed(held)
            factor = torch.linalg.cholesky_ex(matrix)[0]
            solved = torch.cholesky_solve(right[..., None], factor)[..., 0]
            before, coefficients = coefficients, solved[:, 2:]
            position = (position + solved[:, :2].clamp(-0.5, 0.5)).clamp(-SLACK - 0.5, SLACK + 0.5)
        inverse = torch.cholesky_inverse(factor)
        misfit = _mean((counts - expected).square() * weight, good)
        curvature, slope = counts.new_zeros(n, 2, 2), counts.new_zeros(n, 2)
        if learn:
            shape = torch.stack([bright * steep, bright * soft], 1)
            by_weight = shape * weight[:, None]
            both = torch.cat([by_weight @ torch.stack([move_x, move_y], -1), (by_weight * value[:, None]) @ self.terms,
                              by_weight @ self.plane], 2)
            left = (right - (matrix @ torch.cat([torch.zeros_like(position), before], 1)[..., None])[..., 0])
            part = both @ inverse
            trust = 1 / misfit.clamp_min(1)[:, None]
            pull = (by_weight @ (counts - expected)[..., None])[..., 0] - (part @ left[..., None])[..., 0]
            curvature = (by_weight @ shape.mT - part @ both.mT) * trust[..., None]
            slope = pull * trust
        spread = inverse.diagonal(dim1=1, dim2=2)[:, first:last]
        strength = coefficients[:, 0] / inverse[:, first, first].sqrt()
        return DiskPositions(position, inverse[:, :2, :2], misfit, strength, coefficients[:, :terms] / level[:, None],
                             spread / level[:, None] ** 2, curvature, slope)

    def surplus(self, electrons, good, fitted: DiskPositions, readout: float):
        """What each pixel gives beyond what the model says that has been fitted to all others.

        Args: as for `fit`, and what that found.

        Returns:
            score (n, kept pixels), information, the same, and level (n,), electrons in a pixel of the disk. Summed over
            windows, score over information is the surplus of a pixel in electrons, and 1 / information its variance.
        """
        n, terms = len(electrons), self.terms.shape[1]
        counts, good = (a.reshape(n, -1)[:, self.keep].to(electrons.dtype) for a in (electrons, good))
        value, move_x, move_y, *_ = self._aperture(fitted.position)
        level, around = (_mean(counts, good * part) for part in (value > 0.5, value < 0.02))
        level = level.clamp_min(1e-3)
        inside = level[:, None] * (fitted.contrast @ self.terms.T)
        moves = torch.stack([move_x, move_y], -1) * inside.clamp_min(0)[..., None]
        design = torch.cat([moves, value[..., None] * self.terms, self.plane.expand(n, -1, -1)], 2)
        prior = torch.zeros(n, design.shape[2], device=counts.device)
        prior[:, 3 : 2 + terms] = (self.contrast[self.degrees[1:]] * level[:, None]) ** -2
        expected = value * inside + around[:, None]
        for _ in range(2):
            weight = good / (expected.clamp_min(WEAKEST * level[:, None]) + readout**2 + 1e-3)
            weighted = weight[..., None] * design
            matrix = weighted.mT @ design
            factor = torch.linalg.cholesky_ex(
                matrix + torch.diag_embed(prior + 1e-6 * matrix.diagonal(dim1=1, dim2=2) + 1e-9))[0]
            solved = torch.cholesky_solve(weighted.mT @ counts[..., None], factor)
            expected = (design[..., 2:] @ solved[:, 2:])[..., 0]
        leverage = (weighted * torch.cholesky_solve(design.mT, factor).mT).sum(2)
        score = weight * (counts - (design @ solved)[..., 0])
        return score, weight * (1 - leverage).clamp_min(0), level

    def learned(self, fitted: DiskPositions, some) -> Aperture:
        """The aperture after one round of learning from `some` (bool) of a sample: contrast, radius and blur."""
        contrast = []
        for degree in range(1, self.degree + 1):
            terms = self.degrees == degree
            variance, strength = fitted.contrast_variance[some][:, terms], fitted.contrast[some][:, terms]
            known = (1 - variance / self.contrast[degree] ** 2).clamp(0, 1).sum()
            power = strength.square().sum() / known.clamp_min(1)
            contrast.append(float(power.sqrt().clamp(1e-3, 1)))
        held = 100 * torch.eye(2, device=fitted.slope.device)  # some hundredths of a pixel need some hundred electrons
        step = torch.linalg.solve(fitted.curvature[some].sum(0) + held, fitted.slope[some].sum(0))
        step = step.clamp(-0.2, 0.2).cpu().numpy()
        return replace(self.aperture, radius=float(self.aperture.radius + step[0]), contrast=tuple(contrast),
                       blur=float(np.clip(self.aperture.blur + step[1], NARROWEST, 1.5)))


@lru_cache(maxsize=16)
def disk_model(aperture: Aperture, device: str = "cpu") -> DiskModel:
    """The model of an aperture, made once in a process."""
    return DiskModel(aperture, device)


def _mean(values, weight):
    return (values * weight).sum(1) / weight.sum(1).clamp_min(1)
