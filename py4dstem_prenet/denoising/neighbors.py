"""Means of similar patterns in the neighborhood of each pattern of a scan, adjusted to the state of that pattern.

The method is non-local means (Buades et al. 2005, doi 10.1137/040616024) over scan positions instead of pixels.
Patterns of one grain differ only by the descan and by strain, rotation and intensity, which vary slowly over the scan.
Patterns are recentered and grouped by similarity. Within a group, the displacement of the disks and the intensities
(the state) are estimated as smooth maps over the scan (`states.py`, `scanmaps.py`). Patterns of nearly the same state
are averaged, and the mean is displaced and scaled to the state of the pattern. Without this adjustment, averaging would
remove variations that are smaller than the noise of a single pattern.
"""

from __future__ import annotations

import torch

from . import MIN_SUMMED_ELECTRONS, Displacements, Profiles, ScanGrid, derivatives, edge_errors, shift

# Comparison of patterns; chosen by hand, tests/test_neighbors.py bounds its errors.
FEATURES_PER_SIDE = 16  # number of low-pass samples along each side of a pattern, by which patterns are compared
NOISE_SCALE_LIMITS = (0.5, 1.3)  # units of the noise model's variance; limits of the fitted noise variance
MODEL_ERROR_FRACTION = 0.005  # fraction of the electrons; squared difference tolerated beyond noise: pixelated edges

# Limits for averaging patterns of different states; tests/test_neighbors.py and benchmarks/slopes.py measure the
# result.
MAX_NEGATIVE_SIGMAS = 6.0  # standard errors, plus half an electron for the offset; most negative mean of a valid frame
MAX_SHIFT_PX = 0.15  # pixels; largest rms displacement with full weight, at the first order: 0 weight at twice as much
EDGE_WIDTH_PX = 1.2  # pixels; displacement at which the error of the first order equals the first order itself
TOLERATED_CHI2 = 10.0  # units of the noise of a pattern; largest squared error of a corrected pattern with full weight
CHUNK_PX = 2**18  # pixels; most of the patterns that are averaged, denoised or corrected together: they fit a cache


def neighbor_means(electrons, origins, places, readout: float = 0.0, good=None, wanted=None):
    """Average the patterns similar to each pattern, adjusted to its state and without the pattern itself.

    Parameters
    ----------
    electrons : torch.Tensor
        All patterns of a tile of the scan, with bad pixels filled, (n, H, W), float32, electrons.
    origins : torch.Tensor
        Positions of the direct beams, (n, 2), pixels.
    places : array_like of int, shape (n, 2)
        Rows and columns of the patterns in the scan.
    readout : float
        Read-out noise, rms electrons.
    good : torch.Tensor, optional
        True for usable pixels, (H, W), bool. Bad pixels are excluded from the means.
    wanted : torch.Tensor, optional
        Indices of the patterns for which means are computed, (m,). All by default.

    Returns
    -------
    means : torch.Tensor
        Weighted means, each in the frame and state of its pattern, (m, H, W), electrons per pattern; zero if no other
        pattern is similar.
    patterns : torch.Tensor
        Effective number of patterns in each mean, (sum w)^2 / sum w^2, (m,); zero if no other pattern is similar.

    Notes
    -----
    The mean of a pattern depends on the pattern's own counts only through the smooth maps.

    Examples
    --------
    A 5 x 5 scan of one pattern, in which all positions are neighbors. Some neighbors are excluded by chance.

    >>> import torch
    >>> electrons = torch.poisson(torch.full((25, 32, 32), 5.0), generator=torch.Generator().manual_seed(0))
    >>> places = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    >>> means, patterns = neighbor_means(electrons, torch.full((25, 2), 15.5), places)
    >>> bool((patterns > 12).all() and (patterns <= 24).all())
    True
    """
    wanted = torch.arange(len(electrons), device=electrons.device) if wanted is None else wanted
    lost = _lost(electrons, readout)
    if lost.any() and not lost.all():  # lost frames would change the principal components of all other frames
        electrons = torch.where(lost[:, None, None], electrons[~lost].mean(0), electrons)
    middle = origins.mean(0)
    centered = shift(electrons, origins - middle)
    valid = None if good is None or bool(good.all()) else (
        shift(good.to(centered.dtype).expand_as(electrons), origins - middle).clamp(0, 1))
    if len(electrons) < 2:
        return torch.zeros_like(electrons[wanted]), electrons.new_zeros(len(wanted))
    grid = ScanGrid(places)
    displacements, profiles = Displacements(centered, middle, readout), Profiles(centered, middle, grid, readout)
    tolerated = MODEL_ERROR_FRACTION * float(centered.sum((1, 2)).mean().clamp_min(0))
    weight = similarity(centered, readout)[wanted]
    weight[torch.arange(len(wanted)), wanted] = 0  # the mean must be independent of the noise of the pattern itself
    weight[:, lost] = 0
    weight[lost[wanted]] = 0
    means, count = _means(centered, weight, valid), _effective_number(weight)
    # A pattern without neighbors is its own reference, and its mean is set to zero below.
    means = torch.where((count > 0)[:, None, None], means, centered[wanted])
    chunks = torch.arange(len(wanted)).split(max(1, CHUNK_PX // centered[0].numel()))
    moves, changes = [], []
    for at in chunks:
        chosen, reference = wanted[at], means[at]
        slopes = derivatives(reference)
        measured = displacements.measure(reference, slopes, count[at].clamp_min(1))
        members = weight[at] > 0
        members[torch.arange(len(at)), chosen] = True
        move, all_moves = (states * measured.sigma[:, :, None]
                           for states in _states(grid, measured.values, members, None, chosen))
        # Displacements also change the intensities in rings: subtract the changes that they explain.
        values = profiles.values.T - profiles.measure_changes(slopes) @ move
        intensities, all_intensities = _states(grid, values, members, profiles.sigma, chosen)
        weight[at] *= _closeness(move, intensities, measured.information, tolerated)
        fraction = (weight[at] / weight[at].sum(1, keepdim=True).clamp_min(1e-12))[:, :, None]
        moves.append(-(all_moves @ fraction)[..., 0])
        changes.append(-(all_intensities @ fraction)[..., 0])
    means, count = _means(centered, weight, valid), _effective_number(weight)
    for at, move, change in zip(chunks, moves, changes, strict=True):
        mean = displacements.displaced(profiles.changed(means[at], change), move)
        means[at] = shift(mean, middle - origins[wanted[at]])
    part, errors = edge_errors(electrons, origins, weight, wanted)
    means[:, part[0], part[1]] += errors
    return means * (count > 0)[:, None, None], count


def _lost(electrons, readout):
    """Mask (n,) of frames without a signal, not even the offset: their mean is negative beyond noise."""
    return electrons.mean((1, 2)) < -MAX_NEGATIVE_SIGMAS * max(readout, 0.1) / electrons[0].numel() ** 0.5 - 0.5


def _states(grid, values, members, sigma, chosen):
    """States (m, k, n) of patterns minus those of the chosen patterns: smooth, and with significant detail."""
    smooth, rough = grid.smooth(values, members, sigma)
    maps = smooth, smooth + rough * (values - smooth)
    return [states - states.gather(2, chosen[:, None, None].expand(-1, states.shape[1], 1)) for states in maps]


def _closeness(moves, intensities, information, tolerated: float):
    """Weights (m, n) of patterns by the difference of their states from the wanted state; 1 if it can be corrected.

    Correcting the displacement `moves` (m, 6, n) to first order leaves an error that grows with its square. Differences
    of `intensities` (m, k, n) beyond those due to the displacement are corrected only on average. `information`
    (m, 6, 6) is that of the displacement; `tolerated` is added to the largest squared difference with weight 1.
    """
    chi2 = (moves * (information @ moves)).sum(1).clamp_min(0)
    of_shift = information[:, 0, 0] + information[:, 3, 3]
    displacement = (chi2 / of_shift.clamp_min(1e-12)[:, None]).sqrt()
    error = chi2 * (displacement / EDGE_WIDTH_PX).square() + intensities.square().sum(1)
    return (2 - error / (TOLERATED_CHI2 + tolerated)).clamp(0, 1) * (2 - displacement / MAX_SHIFT_PX).clamp(0, 1)


def _means(patterns, weight, valid):
    """Weighted means (m, H, W) of patterns (n, H, W) with weights (m, n), from valid pixels if there are enough."""
    total = weight.sum(1).clamp_min(1e-12)[:, None, None]
    if valid is None:
        return (weight @ patterns.flatten(1)).view(-1, *patterns.shape[1:]) / total
    sums, coverage, plain = ((weight @ values.flatten(1)).view(-1, *patterns.shape[1:])
                             for values in (patterns * valid, valid, patterns))
    return torch.where(coverage > 0.2 * total, sums / coverage.clamp_min(1e-6), plain / total)


def _effective_number(weight):
    """Effective number of patterns, (m,), of weights (m, n)."""
    return weight.sum(1) ** 2 / weight.square().sum(1).clamp_min(1e-12)


def similarity(patterns, readout: float = 0.0):
    """Compute weights between recentered patterns: 1 if they differ only by noise, decreasing to 0 beyond.

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
    a chi-squared distribution. `MODEL_ERROR_FRACTION` is tolerated beyond it, since the pixel grid samples the edges of
    disks differently in equal patterns.
    """
    count = len(patterns)
    rows, columns = (_lowpass(side, patterns) for side in patterns.shape[1:])
    mean = patterns.mean(0)
    variance = (rows.square() @ mean @ columns.square().T).flatten() + readout**2
    counted = variance * count > MIN_SUMMED_ELECTRONS
    scaled = (rows @ (patterns - mean) @ columns.T).flatten(1)[:, counted] / variance[counted].sqrt()
    scaled = (scaled.cpu() if scaled.device.type == "mps" else scaled).double()  # MPS has no float64
    size = scaled.shape[1]
    values, axes = torch.linalg.eigh(scaled.T @ scaled)
    values, axes = values.flip(0), axes.flip(1)
    aspect = size / count
    kept, noise = 0, 1.0
    for _ in range(4):  # the noise variance is 1 if its model is correct; estimate it from the remaining eigenvalues
        edge = noise * (count**0.5 + size**0.5) ** 2
        kept = int((values > 1.1 * edge).sum())
        remaining = values[kept:].sum() / max((count - kept) * (size - kept), 1)
        noise = float(remaining.clamp(*NOISE_SCALE_LIMITS))
    if kept == 0:
        return patterns.new_ones(count, count)
    y = values[:kept] / (noise * count)
    shrunk = ((y - aspect - 1).square() - 4 * aspect).sqrt() / y
    scores = scaled @ axes[:, :kept] * (shrunk / noise**0.5)
    excess = (torch.cdist(scores, scores).square() / 2 - kept).to(patterns)
    tolerance = 3 * (2 * kept) ** 0.5 + MODEL_ERROR_FRACTION * float(mean.clamp_min(0).sum())
    return ((4 - excess / tolerance) / 3).clamp(0, 1)


def _lowpass(side: int, like) -> torch.Tensor:
    """Low-pass filter (FEATURES_PER_SIDE, side) of an axis, with rows of unit norm.

    Rows are nearly orthogonal. Means over blocks of pixels would change with subpixel shifts of the edge of a disk;
    smooth samples hardly change.
    """
    step = side / FEATURES_PER_SIDE
    at = (torch.arange(FEATURES_PER_SIDE, device=like.device, dtype=like.dtype) + 0.5) * step - 0.5
    distance = (torch.arange(side, device=like.device) - at[:, None]) / step
    weight = torch.sinc(distance) * torch.sinc(distance / 3) * (distance.abs() < 3)
    return weight / weight.square().sum(1, keepdim=True).sqrt()
