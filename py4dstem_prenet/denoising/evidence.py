"""Correction of the network's estimate, so that it agrees with quantities that the counts determine well.

The evidence of a pattern is the mean of its own counts and those of its neighbors in pixels where the network trusts
the neighbors, and its own counts elsewhere. The network reduces the noise of single pixels, but it may move electrons
between areas and attenuate small displacements of disks. The electrons in areas and the displacements are few numbers,
which the evidence determines far better than single pixels. The estimate is corrected to the values of the evidence.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from . import CHUNK_PX, FIELDS_PER_AXIS, STATE_RIDGE, derivatives, unexplained_fraction, variance_of

AREAS_PER_SIDE = 16  # number of areas along each side of a pattern; they overlap, and their weights add up to 1
AREA_GROUPS = 12  # number of groups of areas of similar brightness; the correction is weighted in each group
MAX_AREA_FACTOR = 4.0  # factor; largest change of the electrons of an area


def agree(estimates, trust, electrons, means, patterns, origins, readout: float = 0.0, good=None):
    """Correct estimates so that they agree with the evidence.

    Parameters
    ----------
    estimates : torch.Tensor
        Estimated electrons, (n, H, W).
    trust : torch.Tensor
        Weight of the neighbors in each pixel, (n, H, W), from 0 to 1.
    electrons : torch.Tensor
        Measured electrons, (n, H, W).
    means : torch.Tensor
        Means of neighbors, (n, H, W), electrons per pattern.
    patterns : torch.Tensor
        Effective number of patterns in each mean, (n,).
    origins : torch.Tensor
        Positions of the direct beams, (n, 2), pixels.
    readout : float
        Read-out noise, rms electrons.
    good : torch.Tensor, optional
        True for usable pixels, (H, W), bool.

    Returns
    -------
    torch.Tensor
        Corrected estimates, (n, H, W).

    Notes
    -----
    For electrons in areas, the difference from the evidence is reduced by the fraction of its square that noise
    explains (James and Stein 1961), jointly for areas of similar brightness. The six parameters of the displacement are
    corrected without reduction. If the counts differ from the evidence by more than noise over all patterns, the
    parameters of each pattern alone are used (`unexplained_fraction`).
    """
    height, width = estimates.shape[1:]
    good = torch.ones(height, width) if good is None else good
    good = good.to(estimates)
    rows, columns = _hats(height).to(estimates), _hats(width).to(estimates)
    chunks = torch.arange(len(estimates)).split(max(1, CHUNK_PX // (height * width)))
    differences, expected, noise, corrected = [], [], [], []
    for chosen in chunks:
        estimate = estimates[chosen].clamp_min(0) * good
        own_weight = trust[chosen] / (1 + patterns[chosen])[:, None, None]  # trust times weight of the pattern itself
        variance = (1 - trust[chosen]).square() + 2 * own_weight - trust[chosen] * own_weight
        evidence = _evidence(electrons[chosen], means[chosen], trust[chosen], patterns[chosen])
        differences.append(rows @ (evidence * good - estimate) @ columns.T)
        expected.append(rows @ estimate @ columns.T)
        noise.append(rows.square() @ (variance * (estimate + readout**2 * good)) @ columns.square().T)
    differences, expected, noise = (torch.cat(values).flatten(1) for values in (differences, expected, noise))
    weight = torch.zeros_like(expected[0])
    for group in expected.mean(0).argsort().chunk(AREA_GROUPS):
        weight[group] = (1 - noise[:, group].sum() / differences[:, group].square().sum().clamp_min(1e-20)).clamp(0, 1)
    factors = (weight * differences / expected.clamp_min(1e-6)).clamp(1 / MAX_AREA_FACTOR - 1, MAX_AREA_FACTOR - 1)
    factors = factors.view(-1, len(rows), len(columns))
    parameters, excess, sigmas = [], [], []
    for chosen in chunks:
        estimate = estimates[chosen].clamp_min(0)
        estimate = estimate * (1 + rows.T @ factors[chosen] @ columns)
        evidence = _evidence(electrons[chosen], means[chosen], trust[chosen], patterns[chosen])
        common, alone, sigma = _displacements(estimate, (evidence, electrons[chosen]), origins[chosen], readout,
                                                   good)
        corrected.append(estimate)
        parameters.append(common)
        excess.append(alone - common)
        sigmas.append(sigma)
    parameters, excess, sigmas = (torch.cat(values) for values in (parameters, excess, sigmas))
    parameters = parameters + unexplained_fraction((excess / sigmas).square().mean(0) - 1, len(excess)) * excess
    for k, chosen in enumerate(chunks):
        change = -(_move(parameters[chosen], origins[chosen], corrected[k]) * derivatives(corrected[k])).sum(1)
        # A displacement by less than a pixel gives values between those of adjacent pixels; the first order may not.
        lowest, highest = _of_adjacent(corrected[k], torch.minimum), _of_adjacent(corrected[k], torch.maximum)
        corrected[k] = (corrected[k] + change).clamp(lowest, highest)
    return torch.cat(corrected)


def _of_adjacent(images, extreme):
    """Minimum or maximum over 3 x 3 pixels of images (m, H, W); slices are several times faster than pooling."""
    images = pad(images[None], (1,) * 4, mode="replicate")[0]
    images = extreme(extreme(images[:, :-2], images[:, 1:-1]), images[:, 2:])
    return extreme(extreme(images[..., :-2], images[..., 1:-1]), images[..., 2:])


def _evidence(electrons, means, trust, patterns):
    """Evidence (m, H, W): the mean of counts and neighbors where neighbors are trusted, and the counts elsewhere."""
    count = patterns[:, None, None]
    return electrons + trust * (count / (1 + count)) * (means - electrons)


def _axes(origins, images):
    """Distances of rows (m, H) and columns (m, W) of images from origins, in the unit of `displacement_fields`."""
    unit = max(images.shape[1:]) / 4
    return [(torch.arange(side).to(origins) - start[:, None]) / unit
            for side, start in zip(images.shape[1:], origins.T, strict=True)]


def _move(parameters, origins, images):
    """Displacement (m, 2, H, W) of each pixel of images along both axes."""
    x, y = _axes(origins, images)
    constant, along_x, along_y = parameters.view(-1, 2, FIELDS_PER_AXIS)[..., None].unbind(2)
    return (constant + along_x * x[:, None])[..., None] + (along_y * y[:, None])[:, :, None]


def _displacements(estimates, measured, origins, readout, good):
    """Parameters (m, 6) of the displacement of two sets of `measured` patterns from estimates, and their noise."""
    # Displacement fields and their products are powers of the distances x and y from the origin: 1, x, y, x^2, xy, y^2.
    powers = torch.tensor([[0, 0], [1, 0], [0, 1]])
    products = powers[:, None] + powers
    left, right = (torch.stack([torch.ones_like(axis), axis, axis**2], 1)[:, None]
                   for axis in _axes(origins, estimates))
    slopes = derivatives(estimates)
    weights = slopes * (good / variance_of(estimates, readout))[:, None]
    sums = left @ (weights[:, :, None] * slopes[:, None]).flatten(1, 2) @ right.transpose(2, 3)
    information = sums[:, :, products[..., 0], products[..., 1]].unflatten(1, (2, 2))
    information = information.transpose(2, 3).flatten(3).flatten(1, 2)
    differences = torch.cat([weights * (estimates - values)[:, None] for values in measured], 1)
    sums = left @ differences @ right.transpose(2, 3)
    scores = sums[:, :, powers[:, 0], powers[:, 1]].unflatten(1, (len(measured), 2)).flatten(2).transpose(1, 2)
    scale = information.diagonal(dim1=1, dim2=2).clamp_min(1e-20).rsqrt()[:, :, None]
    normal = scale * information * scale.transpose(1, 2)
    inverse = torch.linalg.inv(normal + STATE_RIDGE * torch.eye(normal.shape[1]).to(normal))
    sigma = scale[..., 0] * (inverse @ normal @ inverse).diagonal(dim1=1, dim2=2).clamp_min(1e-12).sqrt()
    return *(scale * (inverse @ (scale * scores))).unbind(2), sigma


def _hats(side):
    """Triangular weights along an axis, which add up to 1, (AREAS_PER_SIDE, side)."""
    step = side / AREAS_PER_SIDE
    at = (torch.arange(AREAS_PER_SIDE) + 0.5) * step - 0.5
    weight = (1 - (torch.arange(side) - at[:, None]).abs() / step).clamp_min(0)
    return weight / weight.sum(0)
