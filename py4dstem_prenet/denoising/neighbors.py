"""Means of similar patterns in the neighborhood of each pattern of a scan.

The method is non-local means (Buades et al. 2005, doi 10.1137/040616024) over scan positions instead of pixels.
Patterns of one grain repeat, shifted by the descan. They are recentered, compared with each other, averaged with
weights that vanish where patterns differ by more than noise, and shifted back.
"""

from __future__ import annotations

import torch

LANCZOS_LOBES = 4  # lobes of the Lanczos kernel; a disk edge of 0.6 px keeps 99.8 % of its energy after two shifts

# Comparison of patterns; chosen by hand, tests/test_neighbors.py bounds its errors.
FEATURES_PER_SIDE = 16  # low-pass samples along each side of a pattern, by which patterns are compared
MIN_FEATURE_COUNTS = 4.0  # counts in a sample, summed over all patterns, below which it is not compared
NOISE_SCALE_LIMITS = (0.5, 1.3)  # limits of the fitted noise variance, in units of the variance of the noise model
MODEL_ERROR_FRACTION = 0.005  # squared difference tolerated beyond noise, fraction of the electrons: pixelated edges

# Test for strain; set on simulated disks with a displacement of 0.34 px, tests/test_neighbors.py.
TOLERATED_SHIFT_PX = 0.02  # difference in shift that is not tested, pixels, rms
TOLERATED_STRAIN = 1e-3  # difference in strain, or in rotation (radians), that is not tested, rms
STRAIN_FADE_SIGMA = (0.0, 2.0)  # excess over the expected distance, standard deviations: weight 1 below, 0 above
INFORMATIVE_FRACTION = 0.98  # fraction of the information on shift and strain in the pixels compared: for speed
STRAIN_CHUNK_PX = 2**18  # pixels of patterns whose neighbors are tested for strain at a time: for memory


def kernels(offset: torch.Tensor, side: int) -> torch.Tensor:
    """Return matrices that resample an axis at shifted positions.

    Parameters
    ----------
    offset : torch.Tensor
        Shift of each matrix, (n,), samples.
    side : int
        Number of samples of the axis.

    Returns
    -------
    torch.Tensor
        (n, side, side). Row i holds the weights of the samples around i + offset[n] and sums to 1. Beyond the ends of
        the axis, the first or last sample is repeated.

    Notes
    -----
    Windowed sinc with `LANCZOS_LOBES` lobes (Duchon 1979, doi 10.1175/1520-0450(1979)018<1016:LFIOAT>2.0.CO;2).
    """
    whole = torch.floor(offset)
    taps = torch.arange(1 - LANCZOS_LOBES, LANCZOS_LOBES + 1, device=offset.device)
    distance = taps - (offset - whole)[:, None]
    weight = torch.sinc(distance) * torch.sinc(distance / LANCZOS_LOBES) * (distance.abs() < LANCZOS_LOBES)
    weight = weight / weight.sum(1, keepdim=True)
    at = torch.arange(side, device=offset.device)[None, :, None] + (whole[:, None] + taps).long()[:, None, :]
    out = weight.new_zeros(len(offset), side, side)
    return out.scatter_add_(2, at.clamp(0, side - 1), weight[:, None, :].expand_as(at))


def shift(images: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Resample images in a shifted frame: ``out[i, j] = image[i + dx, j + dy]``.

    Parameters
    ----------
    images : torch.Tensor
        (n, H, W).
    offset : torch.Tensor
        Shift (dx, dy) of the frame of each image, (n, 2), pixels.

    Returns
    -------
    torch.Tensor
        (n, H, W).

    Examples
    --------
    >>> import torch
    >>> image = torch.zeros(1, 16, 16)
    >>> image[0, 8, 8] = 1.0
    >>> moved = shift(image, torch.tensor([[2.0, -1.0]]))
    >>> round(moved[0, 6, 9].item(), 3)
    1.0
    """
    rows, columns = kernels(offset[:, 0], images.shape[1]), kernels(offset[:, 1], images.shape[2])
    return rows @ images @ columns.transpose(1, 2)


def neighbor_means(electrons, origins, readout: float = 0.0, good=None, wanted=None):
    """Average, for each pattern, the other patterns that differ from it by no more than noise.

    Parameters
    ----------
    electrons : torch.Tensor
        All patterns of a tile of the scan, bad pixels filled in, (n, H, W), float32, electrons.
    origins : torch.Tensor
        Positions of their direct beams, (n, 2), pixels.
    readout : float
        Read-out noise, rms electrons.
    good : torch.Tensor, optional
        True for usable pixels, (H, W), bool. Bad pixels are excluded from the means.
    wanted : torch.Tensor, optional
        Indices of the patterns for which means are computed, (m,). All by default.

    Returns
    -------
    means : torch.Tensor
        Weighted means, each in the frame of its pattern, (m, H, W), electrons per pattern. Zero where no other
        pattern is similar.
    patterns : torch.Tensor
        Effective number of patterns in each mean, (sum w)^2 / sum w^2, (m,). Zero where no other pattern is similar.

    Examples
    --------
    Twenty exposures of one pattern, each with the others as neighbors. Some are excluded by chance.

    >>> import torch
    >>> electrons = torch.poisson(torch.full((20, 32, 32), 5.0), generator=torch.Generator().manual_seed(0))
    >>> means, patterns = neighbor_means(electrons, torch.full((20, 2), 15.5))
    >>> bool((patterns > 10).all() and (patterns <= 19).all())
    True
    """
    wanted = torch.arange(len(electrons), device=electrons.device) if wanted is None else wanted
    middle = origins.mean(0)
    centered = shift(electrons, origins - middle)
    weight = similarity(centered, readout)[wanted]
    weight *= unstrained(centered, middle, weight, wanted, readout)
    weight[torch.arange(len(wanted)), wanted] = 0  # the mean must be independent of the noise of the pattern itself
    total = weight.sum(1)
    patterns = total**2 / weight.square().sum(1).clamp_min(1e-12)
    means = (weight @ centered.flatten(1)).reshape(-1, *centered.shape[1:])
    if good is None or bool(good.all()):
        means /= total.clamp_min(1e-12)[:, None, None]
    else:
        valid = shift(good.to(centered.dtype).expand_as(electrons), origins - middle).clamp(0, 1)
        sums = (weight @ (centered * valid).flatten(1)).reshape(means.shape)
        coverage = (weight @ valid.flatten(1)).reshape(means.shape)
        means = torch.where(coverage > 0.2 * total[:, None, None], sums / coverage.clamp_min(1e-6),
                            means / total.clamp_min(1e-12)[:, None, None])
    return shift(means, middle - origins[wanted]), torch.where(total > 0, patterns, 0.0)


def similarity(patterns, readout: float = 0.0):
    """Return weights between recentered patterns: 1 where they differ by noise only, falling to 0 beyond.

    Parameters
    ----------
    patterns : torch.Tensor
        Recentered patterns, (n, H, W), electrons.
    readout : float
        Read-out noise, rms electrons.

    Returns
    -------
    torch.Tensor
        Weights, (n, n).

    Notes
    -----
    Patterns are reduced to FEATURES_PER_SIDE x FEATURES_PER_SIDE low-pass samples in units of their noise (Keenan and
    Kotula 2004, doi 10.1002/sia.1657), and projected on the principal components whose eigenvalues exceed the edge of
    the noise spectrum (Marchenko and Pastur 1967), shrunk as in Gavish and Donoho 2017 (doi
    10.1109/TIT.2017.2653801). In that space, the squared distance of two patterns that differ by noise alone follows
    a chi-squared distribution. `MODEL_ERROR_FRACTION` is tolerated beyond it, since repeats differ where the pixel
    grid samples disk edges.
    """
    count = len(patterns)
    rows, columns = (_lowpass(side, patterns) for side in patterns.shape[1:])
    mean = patterns.mean(0)
    variance = (rows.square() @ mean @ columns.square().T).flatten() + readout**2
    counted = variance * count > MIN_FEATURE_COUNTS
    scaled = (rows @ (patterns - mean) @ columns.T).flatten(1)[:, counted] / variance[counted].sqrt()
    scaled = (scaled.cpu() if scaled.device.type == "mps" else scaled).double()  # MPS has no float64
    size = scaled.shape[1]
    values, axes = torch.linalg.eigh(scaled.T @ scaled)
    values, axes = values.flip(0), axes.flip(1)
    aspect = size / count
    kept, noise = 0, 1.0
    for _ in range(4):  # the noise variance is 1 where its model is right; otherwise estimate it from the rest
        edge = noise * (count**0.5 + size**0.5) ** 2
        kept = int((values > 1.1 * edge).sum())
        rest = values[kept:].sum() / max((count - kept) * (size - kept), 1)
        noise = float(rest.clamp(*NOISE_SCALE_LIMITS))
    if kept == 0:
        return patterns.new_ones(count, count)
    y = values[:kept] / (noise * count)
    shrunk = ((y - aspect - 1).square() - 4 * aspect).sqrt() / y
    scores = scaled @ axes[:, :kept] * (shrunk / noise**0.5)
    excess = (torch.cdist(scores, scores).square() / 2 - kept).to(patterns)
    tolerance = 3 * (2 * kept) ** 0.5 + MODEL_ERROR_FRACTION * float(mean.clamp_min(0).sum())
    return ((4 - excess / tolerance) / 3).clamp(0, 1)


def unstrained(patterns, origin, weight, wanted, readout: float = 0.0):
    """Return weights of recentered patterns for each wanted one: 0 where they are strained, rotated or shifted.

    Parameters
    ----------
    patterns : torch.Tensor
        Recentered patterns, (n, H, W), electrons.
    origin : torch.Tensor
        Position of their common origin, (2,), pixels.
    weight : torch.Tensor
        Weights from `similarity` of all patterns for each wanted one, (m, n).
    wanted : torch.Tensor
        Indices of the wanted patterns, (m,).
    readout : float
        Read-out noise, rms electrons.

    Returns
    -------
    torch.Tensor
        Weights, (m, n).

    Notes
    -----
    Strain, rotation and residual shifts move disks by fractions of a pixel. `similarity` hardly detects that, but an
    average would blur it. Here the six parameters of an affine displacement are fitted: to first order, a displaced
    pattern differs from the expected one (the mean of the similar patterns) by the gradient of that mean times the
    displacement of each pixel. The scores of the Poisson likelihood along the six parameters (Fisher 1925) give the
    difference of two patterns and its covariance. Where only noise moves them, the squared distance follows a
    chi-squared distribution with six degrees of freedom.
    """
    x, y = (torch.arange(side, device=patterns.device, dtype=patterns.dtype) for side in patterns.shape[1:])
    x, y = torch.broadcast_tensors(x[:, None] - origin[0], y - origin[1])
    fields = torch.stack([torch.ones_like(x), x, y]).flatten(1)  # displacement fields, for each of x and y
    flat = patterns.flatten(1)
    pixels = _informative_pixels(*_gradient_and_variance(patterns.mean(0, keepdim=True), readout), fields)
    fields, compared = fields[:, pixels], flat[:, pixels].T.contiguous()
    products = (fields[:, None] * fields).flatten(0, 1).T.contiguous()
    tolerated = torch.tensor([TOLERATED_SHIFT_PX, TOLERATED_STRAIN, TOLERATED_STRAIN] * 2, device=flat.device) ** 2
    out = []
    chunks = (values.split(max(1, STRAIN_CHUNK_PX // flat.shape[1])) for values in (weight, wanted))
    for chunk_weight, indices in zip(*chunks, strict=True):
        mean = (chunk_weight @ flat / chunk_weight.sum(1, keepdim=True)).view(-1, *patterns.shape[1:])
        slope, variance = (values[..., pixels] for values in _gradient_and_variance(mean, readout))
        score_weight = slope / variance
        scores = ((score_weight[:, :, None] * fields).flatten(0, 2) @ compared).view(len(chunk_weight), 6, -1)
        information = ((score_weight[:, :, None] * slope[:, None]) @ products).view(-1, 2, 2, 3, 3)
        information = information.transpose(2, 3).reshape(-1, 6, 6)
        difference = scores - scores.gather(2, indices[:, None, None].expand(-1, 6, 1))
        covariance = 2 * information + information * tolerated @ information
        scale = covariance.diagonal(dim1=1, dim2=2).clamp_min(1e-20).rsqrt()
        covariance = scale[:, :, None] * covariance * scale[:, None] + 1e-4 * torch.eye(6, device=flat.device)
        difference = scale[:, :, None] * difference
        excess = ((difference * torch.linalg.solve(covariance, difference)).sum(1) - 6) / 12**0.5
        full, none = STRAIN_FADE_SIGMA
        out.append(((none - excess) / (none - full)).clamp(0, 1))
    return torch.cat(out)


def _gradient_and_variance(mean, readout):
    """Gradient (n, 2, pixels) and variance (n, 1, pixels) of the counts expected from means (n, H, W)."""
    rows, columns = _mean_of_three(mean, 1), _mean_of_three(mean, 2)
    slope = torch.stack([torch.gradient(columns, dim=1)[0], torch.gradient(rows, dim=2)[0]], 1)
    # In dark areas the mean consists of single counts; the overall mean keeps the variance from being too small there.
    variance = _mean_of_three(columns, 1).clamp_min(0) + readout**2 + mean.mean((1, 2), keepdim=True)
    return slope.flatten(2), variance.flatten(1)[:, None].clamp_min(1e-12)


def _informative_pixels(slope, variance, fields):
    """Indices of the pixels, mostly at disk edges, with INFORMATIVE_FRACTION of the information on shift and strain."""
    shift_information = (slope.square() / variance).sum((0, 1))
    strain_information = shift_information * fields[1:].square().sum(0)
    total = (shift_information / shift_information.sum().clamp_min(1e-20)
             + strain_information / strain_information.sum().clamp_min(1e-20))
    fraction, order = total.sort(descending=True)
    return order[: int((fraction.cumsum(0) < INFORMATIVE_FRACTION * fraction.sum()).sum()) + 1].sort()[0]


def _mean_of_three(images, axis: int):
    """Mean of three pixels along an axis of images (n, H, W). Slices are several times faster than pooling."""
    size = images.shape[axis]
    images = torch.cat([images.narrow(axis, 0, 1), images, images.narrow(axis, size - 1, 1)], axis)
    return (images.narrow(axis, 0, size) + images.narrow(axis, 1, size) + images.narrow(axis, 2, size)) / 3


def _lowpass(side: int, like) -> torch.Tensor:
    """Low-pass filter of an axis to FEATURES_PER_SIDE samples, (FEATURES_PER_SIDE, side), with rows of unit norm.

    Rows are nearly orthogonal. Means over blocks of pixels would change with subpixel shifts of a disk edge; smooth
    samples hardly do.
    """
    step = side / FEATURES_PER_SIDE
    at = (torch.arange(FEATURES_PER_SIDE, device=like.device, dtype=like.dtype) + 0.5) * step - 0.5
    distance = (torch.arange(side, device=like.device) - at[:, None]) / step
    weight = torch.sinc(distance) * torch.sinc(distance / 3) * (distance.abs() < 3)
    return weight / weight.square().sum(1, keepdim=True).sqrt()
