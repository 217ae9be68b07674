"""Patterns of a parallel or wide beam: spots, rings and empty probes, without multislice.

Specimens of `simulation.specimens` are imaged with disks. Selected-area and precession patterns have spots as sharp as
the direct beam, up to many orders, and rings of many grains; an empty probe of a short camera length fills the frame.
Here positions and brightness of spots are drawn from simple laws (random lattices, Friedel pairs, Laue circles, rings
at the ratios of cubic crystals), and all spots get the shape of the direct beam.
"""

from __future__ import annotations

import math
from functools import partial

import torch

from . import log_uniform, uniform

CRYSTAL, GRAINS, RINGS, EMPTY = 0, 1, 2, 3  # kinds of patterns, in order of their rates
MAX_ORDER = 8  # largest order of a reflection along a base vector
MAX_GRAIN_SPOTS = 400  # spots of a pattern of many grains
# h^2 + k^2 + l^2 of the rings of face-centered, body-centered and diamond cubic crystals
RING_SQUARES = torch.tensor([[3, 4, 8, 11, 12, 16, 19, 20, 24, 27], [2, 4, 6, 8, 10, 12, 14, 16, 18, 20],
                             [3, 8, 11, 16, 19, 24, 27, 32, 35, 40]]).float()
SPOT_EDGE_PX = 0.35  # pixels, 1 sigma: edge of spots before the blur of the detector


def draw_selected_area(generator, origin, matrix, shape, extent: float | None = None,
                       max_radius: float = math.inf) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw patterns of a parallel beam, or of an empty probe.

    Parameters
    ----------
    generator : torch.Generator
        Source of all random numbers.
    origin : torch.Tensor
        Positions of the direct beams, (B, 2), pixels.
    matrix : torch.Tensor
        Elliptical distortions, (B, 2, 2).
    shape : tuple of int
        (H, W), pixels.
    extent : float, optional
        Size of the whole pattern, pixels, if `shape` is a window of it.
    max_radius : float, optional
        Largest radius of an empty probe, pixels; half of the frame by default.

    Returns
    -------
    expected : torch.Tensor
        Patterns, (B, H, W), of unit sum over an unlimited detector.
    radius : torch.Tensor
        Radii of the direct beam, (B,), pixels.
    edge : torch.Tensor
        Standard deviations of the edge of the direct beam, (B,), pixels, averaging over a pixel included.

    Examples
    --------
    >>> import torch
    >>> from py4dstem_prenet.simulation import draw_selected_area
    >>> generator, eye = torch.Generator().manual_seed(0), torch.eye(2).expand(3, 2, 2)
    >>> expected, radius, edge = draw_selected_area(generator, torch.full((3, 2), 32.0), eye, (64, 64))
    >>> expected.shape, bool((radius > 0.5).all())
    (torch.Size([3, 64, 64]), True)
    """
    batch, side = len(origin), extent or float(max(shape))
    draw, log_draw = partial(uniform, generator, batch), partial(log_uniform, generator, batch)  # (B, *extra)
    kind = torch.bucketize(draw(), torch.tensor((0.45, 0.2, 0.2, 0.15)).cumsum(0)[:-1])
    empty = kind == EMPTY
    radius = torch.where(empty, log_draw(low=2.0, high=min(0.5 * side, max_radius)),
                         log_draw(low=0.7, high=6.0))
    spots, brightness = _crystal_spots(draw, log_draw, side)
    ring_spots, ring_brightness, rings = _rings(draw, log_draw, origin, matrix, shape, side, generator)
    crystal, grains = (kind == CRYSTAL)[:, None], (kind == GRAINS)[:, None]
    places = torch.cat([spots, ring_spots], 1)
    weights = torch.cat([brightness * crystal, ring_brightness * grains], 1)
    diffracted = weights.sum(1).clamp_min(1e-9)
    weights = weights / diffracted[:, None]
    # Electrons in the direct beam over those that were diffracted.
    direct = log_draw(1, low=0.1, high=30.0)
    image = deposit(torch.cat([torch.zeros(batch, 1, 2), places], 1),
                    torch.cat([direct, weights * (crystal | grains)], 1), origin, matrix, shape)
    image = spread_shape(image, radius, matrix)
    image = image + rings * (kind == RINGS)[:, None, None]
    total = direct[:, 0] + (~empty).float()
    edge = torch.full((batch,), math.hypot(SPOT_EDGE_PX, 1 / 6 + 12**-0.5))
    return image / total[:, None, None], radius, edge


def _crystal_spots(draw, log_draw, side):
    """Reflections of a random lattice, (B, spots, 2) pixels from the direct beam, and their brightness, (B, spots)."""
    axis = torch.arange(-MAX_ORDER, MAX_ORDER + 1).float()
    orders = torch.cartesian_prod(axis, axis)
    length = log_draw(1, low=0.04, high=0.3) * side * log_draw(2, low=0.75, high=1.35)
    angle = torch.cumsum(torch.stack([draw(high=2 * math.pi), draw(low=0.9, high=2.2)], 1), 1)
    lattice = length[..., None] * torch.stack([torch.cos(angle), torch.sin(angle)], -1)
    spots = orders @ lattice
    distance = spots.norm(dim=-1)
    half = len(orders) // 2
    pairs = log_draw(half, low=0.05, high=1.0)  # Friedel pairs are equally bright in thin specimens
    brightness = torch.cat([pairs, torch.zeros(len(pairs), 1), pairs.flip(1)], 1)
    brightness = brightness * torch.exp(-((distance / (log_draw(1, low=0.1, high=0.6) * side)) ** 2))
    # Away from a zone axis, reflections near the Laue circle are excited; it passes through the direct beam.
    turn, circle = draw(1, high=2 * math.pi), log_draw(1, low=0.1, high=3.0) * side
    middle = circle[..., None] * torch.stack([torch.cos(turn), torch.sin(turn)], -1)
    off_circle = ((spots - middle).norm(dim=-1) - circle) / (log_draw(1, low=0.05, high=0.5) * side)
    brightness = brightness * torch.where(draw(1) < 0.5, 1.0, torch.exp(-(off_circle**2)))
    return spots, brightness * log_draw(len(orders), low=0.5, high=2.0)


def _rings(draw, log_draw, origin, matrix, shape, side, generator):
    """Spots of many grains, (B, spots, 2) and (B, spots), and smooth rings of unit sum, (B, H, W)."""
    batch = len(origin)
    squares = RING_SQUARES[(draw() * len(RING_SQUARES)).long()]
    radii = (log_draw(1, low=0.06, high=0.3) * side) * (squares / squares[:, :1]).sqrt()
    strength = log_draw(radii.shape[1], low=0.1, high=1.0) * torch.exp(-radii / (log_draw(1, low=0.1, high=1.0) * side))
    chosen = torch.multinomial(strength, MAX_GRAIN_SPOTS, replacement=True, generator=generator)
    azimuth = draw(MAX_GRAIN_SPOTS, high=2 * math.pi)
    spots = radii.gather(1, chosen)[..., None] * torch.stack([torch.cos(azimuth), torch.sin(azimuth)], -1)
    count = log_draw(1, low=10, high=MAX_GRAIN_SPOTS)
    brightness = log_draw(MAX_GRAIN_SPOTS, low=0.03, high=1.0) * (torch.arange(MAX_GRAIN_SPOTS) < count)
    x = torch.arange(shape[0]).float() - origin[:, :1]
    y = torch.arange(shape[1]).float() - origin[:, 1:]
    inverse = torch.linalg.inv(matrix)
    u = x[:, :, None] * inverse[:, 0, 0, None, None] + y[:, None] * inverse[:, 0, 1, None, None]
    v = x[:, :, None] * inverse[:, 1, 0, None, None] + y[:, None] * inverse[:, 1, 1, None, None]
    rho = torch.hypot(u, v)
    width = log_draw(1, low=0.004, high=0.03) * side * (1 + draw(1, high=2.0) * radii / side)
    rings = torch.zeros(batch, *shape)
    for k in range(radii.shape[1]):
        ring = torch.exp(-0.5 * ((rho - radii[:, k, None, None]) / width[:, k, None, None]) ** 2)
        rings += ring * (strength / radii / width)[:, k, None, None]
    texture = draw(1, 1, high=0.7) * torch.cos(2 * torch.atan2(v, u) - draw(1, 1, high=2 * math.pi))
    rings = rings * (1 + texture * (draw(1, 1) < 0.4))
    return spots, brightness, rings / (2 * math.pi * (2 * math.pi) ** 0.5 * strength.sum(1))[:, None, None]


def deposit(places, weights, origin, matrix, shape) -> torch.Tensor:
    """Add points to images, each distributed over the four nearest pixels.

    Parameters
    ----------
    places : torch.Tensor
        Positions in the undistorted pattern, (B, n, 2), pixels from the direct beam.
    weights : torch.Tensor
        Brightness of the points, (B, n).
    origin : torch.Tensor
        Positions of the direct beams, (B, 2), pixels.
    matrix : torch.Tensor
        Elliptical distortions, (B, 2, 2).
    shape : tuple of int
        (H, W), pixels.

    Returns
    -------
    torch.Tensor
        Images, (B, H, W). Points outside are left out.
    """
    at = origin[:, None] + places @ matrix.transpose(1, 2)
    corner = at.floor()
    image = torch.zeros(len(origin), shape[0] * shape[1])
    for dx in (0, 1):
        for dy in (0, 1):
            cell = corner + torch.tensor([dx, dy])
            share = (1 - (at - cell).abs()).prod(-1) * weights
            inside = (cell[..., 0] >= 0) & (cell[..., 0] < shape[0]) & (cell[..., 1] >= 0) & (cell[..., 1] < shape[1])
            index = (cell[..., 0] * shape[1] + cell[..., 1]).long()
            image.scatter_add_(1, torch.where(inside, index, 0), torch.where(inside, share, 0.0))
    return image.view(-1, *shape)


def spread_shape(image, radius, matrix) -> torch.Tensor:
    """Give all points of images the shape of the direct beam.

    Parameters
    ----------
    image : torch.Tensor
        Points, (B, H, W).
    radius : torch.Tensor
        Radii of the direct beam, (B,), pixels.
    matrix : torch.Tensor
        Elliptical distortions, (B, 2, 2).

    Returns
    -------
    torch.Tensor
        (B, H, W).
    """
    distance = wrapped_distance(image.shape[1:], matrix)
    disk = 0.5 * torch.erfc((distance - radius[:, None, None]) / (SPOT_EDGE_PX * 2**0.5))
    return convolved(image, disk / disk.sum((1, 2), keepdim=True))


def wrapped_distance(shape, matrix) -> torch.Tensor:
    """Return the undistorted distance from the first pixel, around the limits of a padded image.

    Parameters
    ----------
    shape : tuple of int
        (H, W) of the image before padding.
    matrix : torch.Tensor
        Elliptical distortions, (B, 2, 2).

    Returns
    -------
    torch.Tensor
        (B, 2 H, 2 W), pixels.
    """
    x, y = (torch.fft.fftfreq(2 * n, 1 / (2 * n)) for n in shape)
    inverse = torch.linalg.inv(matrix)[..., None, None]
    u = inverse[:, 0, 0] * x[:, None] + inverse[:, 0, 1] * y
    v = inverse[:, 1, 0] * x[:, None] + inverse[:, 1, 1] * y
    return torch.hypot(u, v)


def convolved(image, kernel) -> torch.Tensor:
    """Convolve images with kernels of twice their size.

    Parameters
    ----------
    image : torch.Tensor
        (B, H, W); zero outside.
    kernel : torch.Tensor
        (B, 2 H, 2 W), with its origin at the first pixel; see `wrapped_distance`.

    Returns
    -------
    torch.Tensor
        (B, H, W), not negative.
    """
    h, w = image.shape[1:]
    product = torch.fft.rfft2(image, s=(2 * h, 2 * w)) * torch.fft.rfft2(kernel)
    return torch.fft.irfft2(product, s=(2 * h, 2 * w))[:, :h, :w].clamp_min(0)
