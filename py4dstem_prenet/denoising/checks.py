"""Check of denoising on the user's own scan, from two independent halves of its electrons.

The first check concerns the quantities that users measure: shift, strain, rotation and intensities. They are measured
in denoised half A, raw A and raw B, which shows how much of their variation over the scan remains (`measure_slopes`).

The second check concerns the squared error. If A and B are the halves of a scan (`detector.split`), f an estimate from
A alone, and v the variance of the noise of B, then the mean of (f - B)**2 - v is the squared error of f, for any f.
There is an unbiased estimate of v (for Poisson counts, B itself). Raw counts, the network, the best Gaussian filter and
the best truncated SVD are compared in this way.

Both checks assume independent noise, which is tested first (`detector.check_independence`); if the test fails, there is
no result.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import gaussian_filter

from ..compute import sharing_cores
from ..core import (
    BLOCK_BYTES,
    KEPT,
    UNKNOWN,
    Decision,
    DenoisingCheck,
    Flag,
    NoiseModel,
    as_scan,
    budget,
    jackknife,
)
from ..detector import check_independence, places, read_block
from ..io import noise_of
from . import SplitBlocks, slope_flags, truncated_svds

DENOISING_CHECK_POSITIONS = 256  # scan positions; number that is split by default, which takes some seconds
CHECK_ARRAYS = 16  # arrays of the size of the sample; number that the check holds at once
GAUSSIAN_SIGMAS_PX = (0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 1.3, 1.6, 2.0, 2.6, 3.3, 4.2)  # pixels; sigmas of Gaussian filters
MAX_WORTH_ERROR = 0.5  # relative standard error; largest one of a worth that is reported


@sharing_cores
def check_denoising(datacube, noise: NoiseModel | None = None, weights=None, device="auto",
                    positions: int | None = None, seed: int = 0) -> DenoisingCheck:
    """Check how `denoise` changes shift, strain, rotation, intensities and squared error of a scan.

    For each quantity, the slope of its values in denoised patterns against its true values is measured; a slope of 1
    means that no variation is lost. The squared error is compared with that of the raw counts, the best Gaussian filter
    and the best truncated SVD.

    Parameters
    ----------
    datacube : DataCube or array_like, shape (Rx, Ry, Qx, Qy)
        The scan.
    noise : NoiseModel, optional
        Noise model of the detector; that of the calibration, or estimated, by default.
    weights : str, optional
        Weights as for `denoise`.
    device : str, optional
        "auto", "cpu", "cuda" or "mps".
    positions : int, optional
        Largest number of scan positions that are split, in up to four blocks of neighbors; fewer if the memory does not
        suffice. By default 256, and fewer of patterns larger than 256 x 256.
    seed : int, optional
        Seed of the split.

    Returns
    -------
    DenoisingCheck
        Slopes, squared errors, their standard errors, and the decision. It is not accepted if a slope differs
        significantly from 1 or if the squared error does not decrease. It is accepted with the flag
        "attenuation_unknown" if more positions would determine some slopes to 5 %, and with the flag
        "attenuation_undetermined" if the whole scan would not. If no slope is wrong by more than 5 %, at most
        1.4 % of the checks raise a false alarm.

    Raises
    ------
    PrenetError
        If the data cannot be used.

    Notes
    -----
    The blocks are denoised at half of the dose, about the origins of the scan and in the mode that `denoise` chooses
    for it; if that mode returns the counts unchanged, the counts are scored. Denoising gains less at a higher dose:
    `worth` is the gain at half of the dose, extrapolated to the full dose by the loss from a quarter to a half in the
    first block, which is limited to a factor of two. Width and rank of the filters are chosen on the same half on which
    they are scored, which favors them slightly.

    Examples
    --------
    >>> from py4dstem_prenet.demo import load_scan
    >>> from py4dstem_prenet.denoising import check_denoising
    >>> datacube, truth = load_scan()
    >>> result = check_denoising(datacube)  # doctest: +SKIP
    """
    scan = as_scan(datacube)
    noise = noise or noise_of(datacube)
    affordable = max(BLOCK_BYTES, budget() // CHECK_ARRAYS)
    most_bytes = BLOCK_BYTES if positions is None else affordable
    positions = DENOISING_CHECK_POSITIONS if positions is None else positions
    parts = (1, 1) if scan.size <= positions else (2, 2)
    chosen = places(scan.shape, positions, parts, most_bytes)
    blocks, sizes = [read_block(scan, block) for block in chosen], [block.size for block in chosen]
    problem, caveat = check_independence(blocks, noise)
    if problem:
        decision = Decision(False, (Flag("not_checked", {"check": "denoising"}), problem))
        return DenoisingCheck({}, np.nan, np.nan, np.nan, {}, {}, {}, np.nan, 0, sum(sizes), False, decision)
    # Imported here, since the networks are slow to import.
    from . import ALONE, UNCHANGED, WITH_NEIGHBORS, choose_mode, measure_slopes, smooth_origins

    weights, mode, unchanged = weights or "denoise", ALONE, None
    origins = smooth_origins(datacube, noise, device) if scan.size > 1 else None
    if origins is not None:
        mode, unchanged = choose_mode(datacube, origins, noise, weights, device)
        origins = origins[np.concatenate([block.ravel() for block in chosen])]
    block_of = np.repeat(np.arange(len(sizes)), sizes)
    generator = np.random.default_rng(seed)
    options = dict(device=device, progress=False, weights=weights, scan_aware=mode == WITH_NEIGHBORS)
    half, quarter = SplitBlocks(blocks, noise, 0.5, generator), SplitBlocks(blocks[:1], noise, 0.25, generator)
    denoised, at_quarter = (level.electrons if mode == UNCHANGED else level.denoised(options, origins)
                            for level in (half, quarter))
    estimates = {"raw": half.electrons, "denoised": denoised}
    sigma, estimates["gaussian"] = half.best(
        (s, gaussian_filter(half.electrons, (0, s, s))) for s in GAUSSIAN_SIGMAS_PX)
    rank, estimates["svd"] = half.best(truncated_svds(half.electrons, half.readout))
    ratios = {key: half.ratio(estimate) for key, estimate in estimates.items()}
    ratios["raw"] = np.ones(len(ratios["raw"]))  # by definition
    errors = {key: float(parts[0]) for key, parts in ratios.items()}
    sigmas = {key: jackknife(parts) for key, parts in ratios.items()}
    # Gains at half of the dose, and in the first block at half and at a quarter of it, as logarithms. Doubling the
    # electrons halves the squared error of the raw counts and does not increase that of the estimate, so the gain
    # decreases by a factor of two at most.
    at_half, first_at_half, first_at_quarter = (-np.log(ratio.clip(1e-3)) for ratio in (
        ratios["denoised"], half.ratio(denoised, sizes[0]), quarter.ratio(at_quarter)))
    worth = np.exp(at_half + (first_at_half - first_at_quarter).clip(-np.log(2), 0))
    slopes = measure_slopes(estimates["denoised"], half.electrons, half.target, origins, half.noise, block_of)
    largest = sum(block.size for block in places(scan.shape, scan.size, parts, affordable))
    accepted, flags = _decide(slopes, (sum(sizes), largest), float(worth[0]), errors, sigmas)
    reasons = tuple(flag for flag in (unchanged, caveat) if flag is not None)
    decision = Decision(accepted, (*flags, *reasons))
    deviances = {key: float(half.deviance(estimate)[0]) for key, estimate in estimates.items()}
    stated = _stated_worth(worth, errors["denoised"], sigmas["denoised"], max(sizes))
    return DenoisingCheck(slopes, *stated, float(np.exp(at_half[0])), errors, sigmas, deviances, sigma, rank,
                          sum(sizes), True, decision, mode)


def _stated_worth(worth, error, error_sigma, patterns: int) -> tuple[float, float]:
    """Worth and its standard error; at most the number of patterns that can be averaged, and NaN if uncertain."""
    value, sigma = min(float(worth[0]), float(patterns)), jackknife(worth)
    meaningful = error_sigma < MAX_WORTH_ERROR * error and sigma < MAX_WORTH_ERROR * value
    return (value, sigma) if meaningful else (np.nan, np.nan)


def _decide(slopes, samples, worth, errors, sigmas):
    """Decide whether denoising keeps the variation over the scan and lowers the squared error: (accepted, flags).

    `samples` is the number of positions that were checked and the largest number that can be.
    """
    flags = list(slope_flags(slopes))
    accepted = not flags
    if kept := {quantity: slope for quantity, slope in slopes.items() if slope.status == KEPT}:
        flags.append(Flag("denoising_keeps_slopes", {
            "quantities": list(kept), "deviation": max(abs(slope.value - 1) for slope in kept.values()),
            "sigma": max(slope.sigma for slope in kept.values())}))
    checked, largest = samples
    undecided = {quantity: slope for quantity, slope in slopes.items() if slope.status == UNKNOWN}
    unknown = {quantity: slope for quantity, slope in undecided.items()
               if checked < largest and checked * min(slope.more, slope.least) <= largest}
    if unknown:
        needed = min(largest, checked * max(slope.more for slope in unknown.values()))
        positions = min(largest, _rounded_up(needed))
        flags.append(Flag("attenuation_unknown", {"quantities": list(unknown), "checked": checked,
                                                  "positions": positions, "times": positions / checked}))
    if undetermined := [quantity for quantity in undecided if quantity not in unknown]:
        flags.append(Flag("attenuation_undetermined", {
            "quantities": undetermined, "slopes": [f"{quantity} {slopes[quantity]}" for quantity in undetermined]}))
    error, sigma = errors["denoised"], sigmas["denoised"]
    numbers = {"error": error, "sigma": sigma}
    if not (error + 2 * sigma < 1 and worth > 1):
        return False, (*flags, Flag("denoising_harmful" if error - 2 * sigma > 1 else "denoising_no_effect", numbers))
    flags.append(Flag("denoising_lowers_error", numbers))
    rival, lowest = min(((key, errors[key]) for key in ("gaussian", "svd")), key=lambda pair: pair[1])
    if lowest + 2 * sigmas[rival] < error - 2 * sigma:
        method = {"gaussian": "Gaussian", "svd": "truncated SVD"}[rival]
        flags.append(Flag("rival_better", {"method": method, "error": lowest, "sigma": sigmas[rival]}))
    return accepted, tuple(flags)


def _rounded_up(count: float) -> int:
    """A number of positions with two significant digits."""
    step = 10 ** max(0, math.floor(math.log10(count)) - 1)
    return math.ceil(count / step) * step
