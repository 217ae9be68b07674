"""Long tails of spots, and the halo of inelastic scattering around the direct beam.

Sharp beams have no edge that a top-hat describes: the point spread of the detector and the incoherent illumination add
tails that fall with a power of the distance. Inelastic scattering adds a halo around the direct beam.
"""

from __future__ import annotations

from functools import partial

import torch

from . import convolved, log_uniform, uniform, wrapped_distance


def moffat(distance, width, power) -> torch.Tensor:
    """Return a profile with a flat core and a power-law tail.

    Parameters
    ----------
    distance : torch.Tensor
        (B, H, W), pixels.
    width : torch.Tensor
        Width of the core, (B,), pixels.
    power : torch.Tensor
        Half the exponent of the tail, (B,).

    Returns
    -------
    torch.Tensor
        (B, H, W), 1 in the middle.
    """
    return (1 + (distance / width[:, None, None]) ** 2) ** -power[:, None, None]


def add_tails(expected, coordinates, matrix, affected, generator) -> torch.Tensor:
    """Give the patterns of a batch long tails, and a halo around the direct beam.

    Parameters
    ----------
    expected : torch.Tensor
        Patterns, (B, H, W).
    coordinates : torch.Tensor
        Coordinates of the pixels in the undistorted pattern, (B, H, W, 2), pixels from the direct beam.
    matrix : torch.Tensor
        Elliptical distortions, (B, 2, 2).
    affected : torch.Tensor
        Patterns that get tails, (B,) bool; half of these get a halo.
    generator : torch.Generator
        Source of all random numbers.

    Returns
    -------
    torch.Tensor
        (B, H, W).
    """
    at = torch.nonzero(affected)[:, 0]
    if not len(at):
        return expected
    n, side = len(at), float(max(expected.shape[1:]))
    log_draw = partial(log_uniform, generator, n)
    part = expected[at]
    kernel = moffat(wrapped_distance(part.shape[1:], matrix[at]), log_draw(low=0.7, high=0.08 * side),
                    uniform(generator, n, low=0.9, high=2.5))
    kernel = kernel / kernel.sum((1, 2), keepdim=True)
    share = log_draw(low=0.02, high=0.9)[:, None, None]
    part = (1 - share) * part + share * convolved(part, kernel)
    halo = moffat(coordinates[at].norm(dim=-1), log_draw(low=0.01 * side, high=0.3 * side),
                  uniform(generator, n, low=0.8, high=3.0))
    strength = log_draw(low=0.02, high=5.0) * (uniform(generator, n) < 0.6)
    total = part.sum((1, 2)) / halo.sum((1, 2))
    out = expected.clone()
    out[at] = (part + halo * (strength * total)[:, None, None]) / (1 + strength)[:, None, None]
    return out
