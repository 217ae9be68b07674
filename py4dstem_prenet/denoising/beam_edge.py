"""Remove the dark and bright rings that interpolation leaves along the edge of the direct beam."""

from __future__ import annotations

import torch

from . import LANCZOS_LOBES, shift

STEPS_PER_PX = 4  # samples of the radial profile of the direct beam in a pixel, several across its edge
PROFILE_PATTERNS = 128  # patterns; most from which the profile is made, chosen for speed
BEAM_MARGIN_PX = 6.0  # pixels; part of the profile beyond the radius at half height, which includes a soft edge


def edge_errors(electrons, origins, weight, wanted):
    """Estimate the error of interpolation in weighted means of patterns near the direct beam.

    A pixel is larger than the edge of a disk is wide. Patterns that are shifted by a fraction of a pixel, averaged, and
    shifted back therefore have rings along a bright edge. The same shifts and means of a model of the direct beam have
    the same rings, and the model itself has none. The model is a mean radial profile.

    Parameters
    ----------
    electrons : torch.Tensor
        Patterns, (n, H, W), electrons.
    origins : torch.Tensor
        Positions of the direct beams, (n, 2), pixels.
    weight : torch.Tensor
        Weights of the patterns in each mean, (m, n).
    wanted : torch.Tensor
        Index of the pattern into whose frame each mean is shifted, (m,).

    Returns
    -------
    part : tuple of slice
        Rows and columns around the direct beam.
    errors : torch.Tensor
        Model minus its shifted mean, (m, h, w) in these rows and columns, electrons: the sum of a mean and its error
        has no rings.

    Examples
    --------
    >>> import torch
    >>> patterns = torch.full((4, 32, 32), 2.0)
    >>> part, errors = edge_errors(patterns, torch.full((4, 2), 15.5), torch.ones(1, 4), torch.tensor([0]))
    >>> bool(errors.abs().max() < 1e-4)  # no edge
    True
    """
    middle = origins.mean(0)
    moved = float((origins - middle).abs().max())
    profile = _radial_profile(electrons, origins)
    reach = len(profile) / STEPS_PER_PX
    half = int(reach + moved + LANCZOS_LOBES) + 1
    part = tuple(slice(max(0, int(q) - half), int(q) + half + 1) for q in middle)
    corner = torch.tensor([s.start for s in part], device=origins.device)
    radius = _radii(electrons[:, part[0], part[1]].shape, origins - corner)
    at = (radius * STEPS_PER_PX - 0.5).clamp(0, len(profile) - 1)
    below = at.long().clamp(max=len(profile) - 2)
    model = torch.lerp(profile[below], profile[below + 1], at - below)
    total = weight.sum(1).clamp_min(1e-12)[:, None]
    mean = ((weight @ shift(model, origins - middle).flatten(1)) / total).view(-1, *model.shape[1:])
    return part, model[wanted] - shift(mean, middle - origins[wanted])


def _radii(shape, origins):
    """Distances (n, H, W) of pixels from points (n, 2)."""
    rows, columns = (torch.arange(n, device=origins.device) - q[:, None] for n, q in
                     zip(shape[1:], origins.T, strict=True))
    return torch.hypot(rows[:, :, None], columns[:, None, :])


def _radial_profile(electrons, origins):
    """Mean electrons at radii of 1/8, 3/8, ... px, less the value at the last one; zero for a beam that is cut off."""
    length = STEPS_PER_PX * min(electrons.shape[1:]) // 2
    sums, pixels = electrons.new_zeros(2, length)
    step = -(-len(electrons) // PROFILE_PATTERNS)
    for pattern, origin in zip(electrons[::step], origins[::step], strict=True):  # one by one, to limit memory
        place = (_radii((1, *pattern.shape), origin[None]) * STEPS_PER_PX).long().clamp(max=length).flatten()
        sums += torch.bincount(place, pattern.flatten(), length + 1)[:length]
        pixels += torch.bincount(place, minlength=length + 1)[:length]
    for values in (sums, pixels):
        values[:STEPS_PER_PX] = values[:STEPS_PER_PX].sum()  # few pixels lie within one of the origin
    profile = sums / pixels.clamp_min(1)
    end = int(torch.nonzero(profile > profile.max() / 2).max()) + int(BEAM_MARGIN_PX * STEPS_PER_PX)
    if end > length:  # the beam fills the pattern
        return torch.zeros_like(profile[:2])
    return profile[:end] - profile[end - 1]
