"""Random scenes from a bank: expected patterns with their truth, before a detector counts them.

All tasks draw here, so what one network sees of the world the others see, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..core import ellipse_matrix
from ..simulation import (
    NONE,
    Bank,
    Detector,
    Faults,
    Rates,
    blur,
    diffract,
    draw_detector,
    draw_faults,
    ideal_coordinates,
    project,
    rotation_matrix,
    scatter,
    shade,
    uniform,
)

PLENTY = 5000.0  # electrons with which a pattern is seen although its direct beam is hidden


@dataclass(frozen=True)
class Scene:
    """expected: (B, H, W) electrons, blurred. origin: (B, 2). matrix: (B, 2, 2) of the ellipse. vector: (B, 2).
    radius, edge: (B,) of the direct disk, pixels. dose: (B,) electrons in the whole beam. faults: what is wrong with
    the patterns; `expected` has had its share of it, counts want `faults.record`. masked: (B, H, W) bool, pixels
    that a user would call bad."""

    expected: torch.Tensor
    origin: torch.Tensor
    matrix: torch.Tensor
    vector: torch.Tensor
    radius: torch.Tensor
    edge: torch.Tensor
    dose: torch.Tensor
    detector: Detector
    faults: Faults
    masked: torch.Tensor


def log_uniform(generator, *shape, low: float, high: float):
    return torch.exp(uniform(generator, *shape, low=math.log(low), high=math.log(high)))


def draw_background(generator, coordinates: torch.Tensor, extent: float) -> torch.Tensor:
    """Diffuse scattering of unit sum: a power-law hill, off-center and lopsided now and then. (B, H, W)."""
    batch = len(coordinates)
    width = log_uniform(generator, batch, low=0.08, high=1.5) * extent
    power = uniform(generator, batch, low=0.6, high=2.5)
    shift = torch.randn(batch, 1, 1, 2, generator=generator) * 0.1 * extent * (
        uniform(generator, batch, 1, 1, 1) < 0.3)
    square = (coordinates + shift).square().sum(-1) / width[:, None, None] ** 2
    hill = (1 + square) ** -power[:, None, None]
    slope = torch.randn(batch, 2, generator=generator) * 0.3 * (uniform(generator, batch, 1) < 0.3)
    hill = hill * (1 + (coordinates * slope[:, None, None]).sum(-1) / extent).clamp_min(0.05)
    return hill / hill.sum((1, 2), keepdim=True)


def draw_scene(bank: Bank, generator, batch: int, shape, origin: torch.Tensor, *, radius_range, dose_range,
               max_eps: float = 0.12, stops: float = 0.1, grains: int = 2, reuse: int = 1,
               extent: float | None = None, rates: Rates = NONE,
               strain: torch.Tensor | None = None) -> Scene:
    """A batch of random scenes.

    Args:
        origin: (batch, 2) true position of the direct beam, pixels.
        radius_range: disk radii in pixels that are wanted, log-uniform; limits of the bank's scale come first.
        dose_range: electrons in the whole beam, log-uniform.
        grains: at most so many specimens overlap in a pattern.
        reuse: neighbors in the batch that show one bank pattern, each in its own way; divides `batch`.
        extent: size of the whole pattern in pixels, where `shape` is a window of it.
        rates: how often something is wrong with a pattern; never by default.
        strain: (batch, 2, 2) that moves what specimens diffract, q to strain q; no label tells of it.
    """
    extent = extent or float(max(shape))
    patterns = batch // reuse
    index = torch.randint(len(bank), (patterns,), generator=generator)
    own = bank.radius[index].repeat_interleave(reuse)
    wanted = log_uniform(generator, batch, low=radius_range[0], high=radius_range[1])
    scale = (2 * wanted / own).clamp(0.45, 3.1)
    radius = (own * scale / 2).clamp(*radius_range)
    eps = uniform(generator, batch, high=max_eps) * (uniform(generator, batch) < 0.8)
    theta = uniform(generator, batch, high=2 * torch.pi)
    vector = eps[:, None] * torch.stack([torch.cos(theta), torch.sin(theta)], 1)
    matrix = ellipse_matrix(vector)
    strained = matrix if strain is None else matrix @ strain

    def layer(chosen, take=slice(None)):
        count = len(radius[take])
        turn = rotation_matrix(uniform(generator, count, high=2 * torch.pi))
        flip = torch.ones(count, 2)
        flip[:, 1] = (uniform(generator, count) < 0.5) * 2.0 - 1
        sizes = 2 * radius[take] / bank.radius[chosen].repeat_interleave(reuse)
        return 1e-6 * project(bank.intensity(chosen), origin[take], strained[take] @ turn @ torch.diag_embed(flip),
                              sizes, shape)

    expected = layer(index)
    for _ in range(grains - 1):  # grains over one another in a part of the batch
        mixed = int(0.3 * patterns) * reuse
        other = torch.randint(len(bank), (mixed // reuse,), generator=generator)
        weight = uniform(generator, mixed, 1, 1)
        expected[:mixed] = (1 - weight) * expected[:mixed] + weight * layer(other, slice(mixed))
    dose = log_uniform(generator, batch, low=dose_range[0], high=dose_range[1])
    faults = draw_faults(generator, origin, radius, shape, rates, plenty=dose > PLENTY)
    coordinates = ideal_coordinates(shape, origin, matrix)
    share = uniform(generator, batch, 1, 1) ** 2 * 0.7 * (uniform(generator, batch, 1, 1) < 0.6)
    area = shape[0] * shape[1] / extent**2
    hill = draw_background(generator, coordinates, extent)
    expected = (1 - share) * diffract(expected, faults, coordinates, radius) + share * min(1.0, area * 2) * hill
    detector = draw_detector(generator, batch, shape, stops=stops)
    expected = scatter(expected, faults, coordinates)
    expected, masked = shade(blur(expected * dose[:, None, None], detector.blur), faults)
    # The bank's own edge (rms of 0.24 samples: `Bank.radius`), its bilinear reading (0.41) and the mean over a pixel
    # widen the edge, too; two bank samples are a pixel at scale 1.
    edge = torch.sqrt(detector.blur**2 + 1 / 12 + (0.5 * scale) ** 2 * (1 / 18 + 1 / 6))
    return Scene(expected, origin, matrix, vector, radius, edge, dose, detector, faults, masked)
