"""What the scan around a pattern says of it: means of recentered neighbors that cannot be told from it.

Non-local means (Buades et al. 2005, doi 10.1137/040616024) over scan positions instead of pixels: patterns of one
grain repeat, moved by the descan. They are moved into one frame, compared, averaged, and moved back.
"""

from __future__ import annotations

import torch

LOBES = 4  # of the Lanczos kernel: a sharp disk edge keeps 99.8 % of its energy there and back

FEATURES = 16  # smooth samples along each side of a pattern, by which patterns are compared
FEW = 4.0  # counts in a sample, over all patterns, that say nothing yet
NOISE = (0.5, 1.3)  # limits of the scale of the noise, in case its model is wrong
TOLERANCE = 0.005  # squared difference of patterns, in parts of their electrons, beyond noise
UNMOVED = (0.02, 1e-3)  # pixels of shift, and strain (or radians), that are no difference
SURE = (0.0, 2.0)  # standard deviations beyond the expected distance, from which on weights fade, and where they end
TELLING = 0.98  # part of what patterns say of shift and strain; the pixels that hold it are compared
AT_ONCE = 2**18  # pixels of patterns whose neighbors are tested for strain at once


def kernels(offset: torch.Tensor, side: int) -> torch.Tensor:
    """Matrices that resample an axis: (n, side, side), row i weighs the samples around i + offset[n].

    Windowed sinc of LOBES lobes (Duchon 1979), rows of unit sum; what lies beyond the ends repeats the last pixel.
    """
    whole = torch.floor(offset)
    reach = torch.arange(1 - LOBES, LOBES + 1, device=offset.device)
    distance = reach - (offset - whole)[:, None]
    weight = torch.sinc(distance) * torch.sinc(distance / LOBES) * (distance.abs() < LOBES)
    weight = weight / weight.sum(1, keepdim=True)
    at = torch.arange(side, device=offset.device)[None, :, None] + (whole[:, None] + reach).long()[:, None, :]
    out = weight.new_zeros(len(offset), side, side)
    return out.scatter_add_(2, at.clamp(0, side - 1), weight[:, None, :].expand_as(at))


def shift(images: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Images (n, H, W) seen from a frame that is moved by offset (n, 2) pixels: out[i, j] = image[i + dx, j + dy]."""
    rows, columns = kernels(offset[:, 0], images.shape[1]), kernels(offset[:, 1], images.shape[2])
    return rows @ images @ columns.transpose(1, 2)


def neighbor_means(electrons, origins, readout: float = 0.0, good=None, wanted=None):
    """Means of the patterns of a tile that cannot be told from each of the wanted ones, in the place of that one.

    Args:
        electrons: (n, H, W) float32, all patterns of the tile, bad pixels filled in. origins: (n, 2) of their direct
            beams, pixels. readout: electrons rms. good: (H, W) bool; bad pixels are left out of means.
        wanted: (m,) numbers of the patterns that a mean is wanted for; all by default.

    Returns:
        means (m, H, W) electrons per pattern; patterns (m,), as how many patterns each is worth,
        (sum w)^2 / sum w^2, 0 where no other pattern is similar (the mean is 0 there).
    """
    wanted = torch.arange(len(electrons), device=electrons.device) if wanted is None else wanted
    middle = origins.mean(0)
    moved = shift(electrons, origins - middle)
    weight = similarity(moved, readout)[wanted]
    weight *= unstrained(moved, middle, weight, wanted, readout)
    weight[torch.arange(len(wanted)), wanted] = 0  # a pattern's own noise is no second opinion
    total = weight.sum(1)
    patterns = total**2 / weight.square().sum(1).clamp_min(1e-12)
    means = (weight @ moved.flatten(1)).reshape(-1, *moved.shape[1:])
    if good is None or bool(good.all()):
        means /= total.clamp_min(1e-12)[:, None, None]
    else:
        seen = shift(good.to(moved.dtype).expand_as(electrons), origins - middle).clamp(0, 1)
        sums = (weight @ (moved * seen).flatten(1)).reshape(means.shape)
        parts = (weight @ seen.flatten(1)).reshape(means.shape)
        means = torch.where(parts > 0.2 * total[:, None, None], sums / parts.clamp_min(1e-6),
                            means / total.clamp_min(1e-12)[:, None, None])
    return shift(means, middle - origins[wanted]), torch.where(total > 0, patterns, 0.0)


def similarity(patterns, readout: float = 0.0):
    """Weights between recentered patterns (n, H, W): 1 where only counting noise tells them apart, 0 where more does.

    Patterns are smoothed to FEATURES x FEATURES samples, in units of their noise (Keenan and Kotula 2004, doi
    10.1002/sia.1657), and seen in those principal components that stand out of noise (beyond the edge of Marchenko and
    Pastur 1967), shrunk as Gavish and Donoho 2017 (doi 10.1109/TIT.2017.2653801) do. There the distance of two
    patterns that differ by noise alone follows a chi-squared distribution; a little more is tolerated, since repeats
    differ where the pixel grid cuts their edges.
    """
    count = len(patterns)
    rows, columns = (_samples(side, patterns) for side in patterns.shape[1:])
    mean = patterns.mean(0)
    variance = (rows.square() @ mean @ columns.square().T).flatten() + readout**2
    seen = variance * count > FEW
    scaled = (rows @ (patterns - mean) @ columns.T).flatten(1)[:, seen] / variance[seen].sqrt()
    scaled = (scaled.cpu() if scaled.device.type == "mps" else scaled).double()  # MPS knows no such numbers
    size = scaled.shape[1]
    values, axes = torch.linalg.eigh(scaled.T @ scaled)
    values, axes = values.flip(0), axes.flip(1)
    aspect = size / count
    kept, noise = 0, 1.0
    for _ in range(4):  # the scale of the noise is 1, if its model is right
        edge = noise * (count**0.5 + size**0.5) ** 2
        kept = int((values > 1.1 * edge).sum())
        rest = values[kept:].sum() / max((count - kept) * (size - kept), 1)
        noise = float(rest.clamp(*NOISE))
    if kept == 0:
        return patterns.new_ones(count, count)
    y = values[:kept] / (noise * count)
    shrunk = ((y - aspect - 1).square() - 4 * aspect).sqrt() / y
    scores = scaled @ axes[:, :kept] * (shrunk / noise**0.5)
    excess = (torch.cdist(scores, scores).square() / 2 - kept).to(patterns)
    tolerance = 3 * (2 * kept) ** 0.5 + TOLERANCE * float(mean.clamp_min(0).sum())
    return ((4 - excess / tolerance) / 3).clamp(0, 1)


def unstrained(patterns, origin, weight, wanted, readout: float = 0.0):
    """Weights (m, n) of recentered patterns (n, H, W) for each wanted one: 0 where they are strained against it.

    Strain, turns and what is left of a shift move disks by parts of a pixel, which `similarity` hardly sees but which
    an average would wash out. Here these six are fitted: to first order a moved pattern differs by the gradient of
    the expected one (the mean of the similar patterns, `weight` (m, n)) times the displacement of each pixel from
    origin (2,), and the score of the Poisson likelihood along these six (Fisher 1925) says how far two patterns
    differ, with covariance. Where only noise moves them the squared distance follows a chi-squared distribution.
    """
    x, y = (torch.arange(side, device=patterns.device, dtype=patterns.dtype) for side in patterns.shape[1:])
    x, y = torch.broadcast_tensors(x[:, None] - origin[0], y - origin[1])
    fields = torch.stack([torch.ones_like(x), x, y]).flatten(1)  # displacements, along x and along y
    flat = patterns.flatten(1)
    telling = _telling(*_expected(patterns.mean(0, keepdim=True), readout), fields)
    fields, few = fields[:, telling], flat[:, telling].T.contiguous()
    products = (fields[:, None] * fields).flatten(0, 1).T.contiguous()
    tolerated = torch.tensor([UNMOVED[0], UNMOVED[1], UNMOVED[1]] * 2, device=flat.device) ** 2
    out = []
    for some, numbers in zip(*(part.split(max(1, AT_ONCE // flat.shape[1])) for part in (weight, wanted)), strict=True):
        mean = (some @ flat / some.sum(1, keepdim=True)).view(-1, *patterns.shape[1:])
        slope, variance = (t[..., telling] for t in _expected(mean, readout))
        part = slope / variance
        along = ((part[:, :, None] * fields).flatten(0, 2) @ few).view(len(some), 6, -1)
        information = ((part[:, :, None] * slope[:, None]) @ products).view(-1, 2, 2, 3, 3)
        information = information.transpose(2, 3).reshape(-1, 6, 6)
        difference = along - along.gather(2, numbers[:, None, None].expand(-1, 6, 1))
        covariance = 2 * information + information * tolerated @ information
        scale = covariance.diagonal(dim1=1, dim2=2).clamp_min(1e-20).rsqrt()
        covariance = scale[:, :, None] * covariance * scale[:, None] + 1e-4 * torch.eye(6, device=flat.device)
        difference = scale[:, :, None] * difference
        excess = ((difference * torch.linalg.solve(covariance, difference)).sum(1) - 6) / 12**0.5
        out.append(((SURE[1] - excess) / (SURE[1] - SURE[0])).clamp(0, 1))
    return torch.cat(out)


def _expected(mean, readout):
    """Slope (n, 2, pixels) of what is expected where the mean (n, H, W) was seen, and variance (n, 1, pixels)."""
    rows, columns = _thrice(mean, 1), _thrice(mean, 2)
    slope = torch.stack([torch.gradient(columns, dim=1)[0], torch.gradient(rows, dim=2)[0]], 1)
    # In the dark, where single counts make up the mean, they must not be taken for what is expected.
    variance = _thrice(columns, 1).clamp_min(0) + readout**2 + mean.mean((1, 2), keepdim=True)
    return slope.flatten(2), variance.flatten(1)[:, None].clamp_min(1e-12)


def _telling(slope, variance, fields):
    """Numbers of the pixels, mostly at the edges of disks, that hold nearly all that is known of shift and strain."""
    shift = (slope.square() / variance).sum((0, 1))
    strain = shift * fields[1:].square().sum(0)
    known = shift / shift.sum().clamp_min(1e-20) + strain / strain.sum().clamp_min(1e-20)
    share, order = known.sort(descending=True)
    return order[: int((share.cumsum(0) < TELLING * share.sum()).sum()) + 1].sort()[0]


def _thrice(images, axis: int):
    """Mean of three pixels along an axis of images (n, H, W). Slices are several times faster than pooling."""
    size = images.shape[axis]
    images = torch.cat([images.narrow(axis, 0, 1), images, images.narrow(axis, size - 1, 1)], axis)
    return (images.narrow(axis, 0, size) + images.narrow(axis, 1, size) + images.narrow(axis, 2, size)) / 3


def _samples(side: int, like) -> torch.Tensor:
    """A low-pass filter to FEATURES samples of an axis, (FEATURES, side). Rows of unit norm and nearly orthogonal.

    Blocks of pixels would show what a shift by part of a pixel does to an edge between them; smooth samples do not.
    """
    step = side / FEATURES
    at = (torch.arange(FEATURES, device=like.device, dtype=like.dtype) + 0.5) * step - 0.5
    distance = (torch.arange(side, device=like.device) - at[:, None]) / step
    weight = torch.sinc(distance) * torch.sinc(distance / 3) * (distance.abs() < 3)
    return weight / weight.square().sum(1, keepdim=True).sqrt()
