"""Random scenes from a bank: expected patterns with their truth, before the detector counts electrons.

The center and the denoising network are trained on these scenes, so both see the same simulated world.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..core import ellipse_matrix
from ..simulation import (
    NEEDLE_STOP,
    NO_FAULTS,
    ROUND_STOP,
    Bank,
    Detector,
    Faults,
    Rates,
    add_tails,
    blur,
    diffract,
    draw_detector,
    draw_faults,
    draw_selected_area,
    ideal_coordinates,
    log_uniform,
    project,
    rotation_matrix,
    scatter,
    shade,
    soft_disk,
    stop_distance,
    uniform,
)

MIN_HIDDEN_BEAM_DOSE = 500.0  # electrons per pattern; below, no beam is hidden: the rest is too faint


@dataclass(frozen=True)
class Scene:
    """A batch of B simulated patterns with their truth.

    Attributes
    ----------
    expected : torch.Tensor
        Expected electrons after blur by the detector and the faults up to the sensor, (B, H, W). Faults of the read-out
        are applied to counts, by `simulation.record`.
    origin : torch.Tensor
        Position of the direct beam, (B, 2), pixels.
    matrix : torch.Tensor
        Elliptical distortion, (B, 2, 2), see `core.ellipse_matrix`.
    vector : torch.Tensor
        Ellipse vector, (B, 2).
    radius : torch.Tensor
        Radius of the direct disk, (B,), pixels.
    edge : torch.Tensor
        Standard deviation of the blur of its edge, (B,), pixels.
    dose : torch.Tensor
        Electrons in the whole beam, (B,).
    detector : Detector
        Properties of the detector.
    faults : Faults
        Faults of the patterns.
    masked : torch.Tensor
        Pixels that a user would mark as bad, (B, H, W), bool.
    visible : torch.Tensor
        Fraction of the direct disk that lies on the detector and not behind a beam stop, (B,).
    """

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
    visible: torch.Tensor


def draw_background(generator, coordinates: torch.Tensor, extent: float) -> torch.Tensor:
    """Draw diffuse scattering: a power law of the distance, in 30 % of the patterns off center or with a gradient.

    Parameters
    ----------
    generator : torch.Generator
        Source of all random numbers.
    coordinates : torch.Tensor
        Coordinates of the pixels in the undistorted pattern, (B, H, W, 2), pixels from the direct beam.
    extent : float
        Size of the whole pattern, pixels.

    Returns
    -------
    torch.Tensor
        (B, H, W), each with unit sum.
    """
    batch = len(coordinates)
    width = log_uniform(generator, batch, low=0.08, high=1.5) * extent
    power = uniform(generator, batch, low=0.6, high=2.5)
    shift = torch.randn(batch, 1, 1, 2, generator=generator) * 0.1 * extent * (
        uniform(generator, batch, 1, 1, 1) < 0.3)
    square = (coordinates + shift).square().sum(-1) / width[:, None, None] ** 2
    background = (1 + square) ** -power[:, None, None]
    slope = torch.randn(batch, 2, generator=generator) * 0.3 * (uniform(generator, batch, 1) < 0.3)
    background = background * (1 + (coordinates * slope[:, None, None]).sum(-1) / extent).clamp_min(0.05)
    return background / background.sum((1, 2), keepdim=True)


def draw_scene(bank: Bank, generator, batch: int, shape, origin: torch.Tensor, *, radius_range, dose_range,
               max_eps: float = 0.12, stops: float = 0.1, grains: int = 2, reuse: int = 1,
               extent: float | None = None, rates: Rates = NO_FAULTS,
               strain: torch.Tensor | None = None, selected_area: float = 0.0, tails: float = 0.0,
               long_stops: float = 0.0, fitted_stops: float = 0.0) -> Scene:
    """Draw a batch of random scenes.

    Parameters
    ----------
    bank : Bank
        Clean patterns.
    generator : torch.Generator
        Source of all random numbers.
    batch : int
        Number of patterns.
    shape : tuple of int
        (H, W), pixels.
    origin : torch.Tensor
        True position of the direct beam, (batch, 2), pixels.
    radius_range : tuple of float
        Desired disk radii, log-uniform, pixels. The limited magnification of bank patterns takes precedence.
    dose_range : tuple of float
        Electrons in the whole beam, log-uniform.
    max_eps : float
        Largest a/b - 1 of the elliptical distortion.
    stops : float
        Fraction of the detectors with a dead bar, see `simulation.draw_detector`.
    grains : int
        Largest number of specimens that overlap in a pattern.
    reuse : int
        Number of consecutive patterns of the batch that show the same bank pattern under different conditions; must
        divide `batch`.
    extent : float, optional
        Size of the whole pattern, pixels, if `shape` is a window of it.
    rates : Rates
        Probabilities of faults; by default none.
    strain : torch.Tensor, optional
        (batch, 2, 2) matrices that displace the diffracted intensity, q to strain q. They change no label.
    selected_area : float
        Fraction of the patterns that show spots, rings or an empty probe, see `simulation.draw_selected_area`.
    tails : float
        Fraction of the patterns with long tails, and twice that of those with spots, rings or an empty probe.
    long_stops : float
        Fraction of the beam stops whose width depends on the frame and not on the disk, and that reach past the beam.
    fitted_stops : float
        Fraction of the beam stops that are about as wide as the disk and end on it.

    Returns
    -------
    Scene
        The patterns and their truth.
    """
    extent = extent or float(max(shape))
    patterns = batch // reuse
    index = torch.randint(len(bank), (patterns,), generator=generator)
    bank_radius = bank.radius[index].repeat_interleave(reuse)
    wanted = log_uniform(generator, batch, low=radius_range[0], high=radius_range[1])
    scale = (2 * wanted / bank_radius).clamp(0.45, 3.1)
    radius = (bank_radius * scale / 2).clamp(*radius_range)
    eps = uniform(generator, batch, high=max_eps) * (uniform(generator, batch) < 0.8)
    theta = uniform(generator, batch, high=2 * torch.pi)
    vector = eps[:, None] * torch.stack([torch.cos(theta), torch.sin(theta)], 1)
    matrix = ellipse_matrix(vector)
    strained = matrix if strain is None else matrix @ strain

    def layer(chosen, take=slice(None)):  # numpydoc ignore=PR01,RT01
        """Project bank patterns with random rotation and reflection, for a part of the batch; fractions of the beam."""
        count = len(radius[take])
        turn = rotation_matrix(uniform(generator, count, high=2 * torch.pi))
        flip = torch.ones(count, 2)
        flip[:, 1] = (uniform(generator, count) < 0.5) * 2.0 - 1
        sizes = 2 * radius[take] / bank.radius[chosen].repeat_interleave(reuse)
        return 1e-6 * project(bank.intensity(chosen), origin[take], strained[take] @ turn @ torch.diag_embed(flip),
                              sizes, shape)

    expected = layer(index)
    for _ in range(grains - 1):  # in 30 % of the batch, another grain overlaps
        mixed = int(0.3 * patterns) * reuse
        other = torch.randint(len(bank), (mixed // reuse,), generator=generator)
        weight = uniform(generator, mixed, 1, 1)
        expected[:mixed] = (1 - weight) * expected[:mixed] + weight * layer(other, slice(mixed))
    dose = log_uniform(generator, batch, low=dose_range[0], high=dose_range[1])
    edge = (0.5 * scale) * (1 / 18 + 1 / 6) ** 0.5  # of the disk in the bank, and bilinear interpolation
    sharp = uniform(generator, batch) < selected_area
    if sharp.any():
        drawn, drawn_radius, drawn_edge = draw_selected_area(generator, origin[sharp], matrix[sharp], shape,
                                                               extent, 1.6 * radius_range[1])
        expected[sharp], radius = drawn, radius.masked_scatter(sharp, drawn_radius)
        edge = edge.masked_scatter(sharp, drawn_edge)
    faults = draw_faults(generator, origin, radius, shape, rates, can_hide=dose > MIN_HIDDEN_BEAM_DOSE)
    if long_stops or fitted_stops:
        share = uniform(generator, batch)
        stop = _long_stops(faults.stop, origin, float(max(shape)), share < long_stops, generator)
        fitted = (share >= long_stops) & (share < long_stops + fitted_stops)
        faults = replace(faults, stop=_fitted_stops(stop, origin, radius, fitted, generator))
    coordinates = ideal_coordinates(shape, origin, matrix)
    background_fraction = uniform(generator, batch, 1, 1) ** 2 * 0.7 * (uniform(generator, batch, 1, 1) < 0.6)
    area = shape[0] * shape[1] / extent**2
    background = background_fraction * min(1.0, area * 2) * draw_background(generator, coordinates, extent)
    expected = (1 - background_fraction) * diffract(expected, faults, coordinates, radius) + background
    if tails:
        expected = add_tails(expected, coordinates, matrix, uniform(generator, batch) < tails * (1 + sharp), generator)
    detector = draw_detector(generator, batch, shape, stops=stops)
    expected = scatter(expected, faults, coordinates)
    expected, masked = shade(blur(expected * dose[:, None, None], detector.blur), faults)
    # Standard deviations that add up: blur of the detector, integration over a pixel, and the edge in the pattern.
    edge = torch.sqrt(detector.blur**2 + 1 / 12 + edge**2)
    return Scene(expected, origin, matrix, vector, radius, edge, dose, detector, faults, masked,
                 _visible_fraction(faults, coordinates, radius, shape))


def _long_stops(stop, origin, side, chosen, generator):
    """Replace beam stops by those that reach past the beam, with widths in proportion to the frame."""
    batch = len(origin)
    chosen = chosen & (stop.width > 0)
    width = log_uniform(generator, batch, low=0.012, high=0.08) * side
    direction = torch.stack([torch.cos(stop.angle), torch.sin(stop.angle)], -1)
    past = uniform(generator, batch, 1, low=-0.03, high=0.2) * side
    aside = uniform(generator, batch, 1, low=-1.2, high=1.2) * width[:, None]
    at = origin - past * direction + aside * direction.flip(1) * torch.tensor([-1.0, 1.0])
    return _replaced(stop, chosen, at=at, width=width)


def _fitted_stops(stop, origin, radius, chosen, generator):
    """Replace beam stops by sharp, opaque ones about as wide as the disk, with their tip on it."""
    batch = len(origin)
    chosen = chosen & (stop.width > 0)
    width = radius * uniform(generator, batch, low=0.4, high=1.5)
    at = origin + torch.randn(batch, 2, generator=generator) * 0.3 * radius[:, None]
    return _replaced(stop, chosen, at=at, width=width.clamp_min(1.0),
                     soft=log_uniform(generator, batch, low=0.02, high=0.5),
                     leak=log_uniform(generator, batch, low=1e-5, high=1e-2),
                     kind=torch.where(stop.kind == ROUND_STOP, NEEDLE_STOP, stop.kind))


def _replaced(stop, chosen, *, at, **numbers):
    """Replace positions (B, 2) and other properties (B,) of the chosen beam stops (B,)."""
    numbers = {name: torch.where(chosen, new, getattr(stop, name)) for name, new in numbers.items()}
    return replace(stop, at=torch.where(chosen[:, None], at, stop.at), **numbers)


def _visible_fraction(faults, coordinates, radius, shape):
    """Fraction of each direct disk that lies on the detector and not behind a beam stop, (B,)."""
    disk = soft_disk(coordinates, radius, torch.full_like(radius, 0.5))
    whole = torch.pi * (radius**2 + 0.25)
    stopped = torch.nonzero(faults.stop.width > 0)[:, 0]
    if len(stopped):
        disk[stopped] *= torch.sigmoid(stop_distance(faults.stop, stopped, shape) / 0.5)
    x, y = torch.arange(shape[0])[:, None], torch.arange(shape[1])[None, :]
    first, last, left, right = faults.sides[:, :, None, None].unbind(1)
    inside = (x >= first) & (x <= shape[0] - 1 - last) & (y >= left) & (y <= shape[1] - 1 - right)
    return ((disk * inside).sum((1, 2)) / whole).clamp_max(1)
