"""Agreement of the estimate of the network with the evidence: what the counts determine well must not change.

The evidence of a pattern is the mean of its own counts and those of its neighbors, in pixels where the network trusts
the neighbors, and its own counts elsewhere. The network reduces the noise of single pixels, but it may move electrons
between areas and attenuate small displacements of disks. Both are few numbers, which the evidence determines far better
than any pixel. The estimate is corrected to have those of the evidence.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from . import derivatives, displacement_fields, unexplained_fraction, variance_of

AREAS_PER_SIDE = 16  # areas along each side of a pattern, which overlap and add up to 1
AREA_GROUPS = 12  # groups of areas of similar brightness, for each of which the correction is weighted
MAX_AREA_FACTOR = 4.0  # largest factor by which the electrons of an area are changed
NORMAL_RIDGE = 1e-3  # added to the normalized information matrix of the displacement, which may be singular
CORRECTED_CHUNK_PX = 2**18  # pixels of patterns that are corrected at a time: for memory


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
    Electrons in areas: the difference from the evidence is reduced by the fraction of its square that noise explains
    (James and Stein 1961), for areas of similar brightness together. The six parameters of the displacement are
    corrected without reduction. Where the counts differ from the evidence by more than noise, over all patterns, those
    of each pattern alone are used (`unexplained_fraction`).
    """
    height, width = estimates.shape[1:]
    good = torch.ones(height, width) if good is None else good
    good = good.to(estimates)
    rows, columns = _hats(height).to(estimates), _hats(width).to(estimates)
    chunks = torch.arange(len(estimates)).split(max(1, CORRECTED_CHUNK_PX // (height * width)))
    differences, expected, noise, out = [], [], [], []
    for chosen in chunks:
        estimate = estimates[chosen].clamp_min(0) * good
        share = trust[chosen] / (1 + patterns[chosen])[:, None, None]  # of the pattern in the part that is trusted
        variance = (1 - trust[chosen]).square() + 2 * share - trust[chosen] * share
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
    parameters, own, sigmas = [], [], []
    for chosen in chunks:
        estimate = estimates[chosen].clamp_min(0)
        estimate = estimate * (1 + rows.T @ factors[chosen] @ columns)
        evidence = _evidence(electrons[chosen], means[chosen], trust[chosen], patterns[chosen])
        found, found_alone, sigma = _displacements(estimate, (evidence, electrons[chosen]), origins[chosen], readout,
                                                   good)
        out.append(estimate)
        parameters.append(found)
        own.append(found_alone - found)
        sigmas.append(sigma)
    parameters, own, sigmas = (torch.cat(values) for values in (parameters, own, sigmas))
    parameters = parameters + unexplained_fraction((own / sigmas).square().mean(0) - 1, len(own)) * own
    for k, chosen in enumerate(chunks):
        change = (parameters[chosen][:, :, None] * _tangents(out[k], origins[chosen])).sum(1).view_as(out[k])
        # A displacement by less than a pixel stays within the values of the adjacent pixels; the first order may not.
        lowest, highest = _of_adjacent(out[k], torch.minimum), _of_adjacent(out[k], torch.maximum)
        out[k] = (out[k] + change).clamp(lowest, highest)
    return torch.cat(out)


def _of_adjacent(images, extreme):
    """Minimum or maximum of 3 x 3 pixels of images (m, H, W). Of slices it is several times faster than by pooling."""
    images = pad(images[None], (1,) * 4, mode="replicate")[0]
    images = extreme(extreme(images[:, :-2], images[:, 1:-1]), images[:, 2:])
    return extreme(extreme(images[..., :-2], images[..., 1:-1]), images[..., 2:])


def _evidence(electrons, means, trust, patterns):
    """Evidence (m, H, W): the counts, and where neighbors are trusted, the mean of counts and neighbors."""
    count = patterns[:, None, None]
    return electrons + trust * (count / (1 + count)) * (means - electrons)


def _tangents(estimates, origins):
    """Change (m, 6, p) of estimates (m, H, W) with the parameters of an affine displacement."""
    fields = torch.stack([displacement_fields(origin, *estimates.shape[1:]) for origin in origins])
    return -(derivatives(estimates)[:, :, None] * fields[:, None]).flatten(3).flatten(1, 2)


def _displacements(estimates, measured, origins, readout, good):
    """Parameters (m, 6) of the displacement of each of two `measured` against estimates, and their noise for counts."""
    tangents = _tangents(estimates, origins)
    weights = tangents * (good / variance_of(estimates, readout)).flatten(1)[:, None]
    information = weights @ tangents.transpose(1, 2)
    scores = weights @ torch.stack([(values - estimates).flatten(1) for values in measured], 2)
    scale = information.diagonal(dim1=1, dim2=2).clamp_min(1e-20).rsqrt()[:, :, None]
    normal = scale * information * scale.transpose(1, 2)
    inverse = torch.linalg.inv(normal + NORMAL_RIDGE * torch.eye(normal.shape[1]).to(normal))
    sigma = scale[..., 0] * (inverse @ normal @ inverse).diagonal(dim1=1, dim2=2).clamp_min(1e-12).sqrt()
    return *(scale * (inverse @ (scale * scores))).unbind(2), sigma


def _hats(side):
    """Triangular weights along an axis, which add up to 1, (AREAS_PER_SIDE, side)."""
    step = side / AREAS_PER_SIDE
    at = (torch.arange(AREAS_PER_SIDE) + 0.5) * step - 0.5
    weight = (1 - (torch.arange(side) - at[:, None]).abs() / step).clamp_min(0)
    return weight / weight.sum(0)
