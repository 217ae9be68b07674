"""Denoise a scan with the denoising network: estimate the expected counts of every pattern.

The input of the network is a pattern, its read-out noise and, if it improves the result, the mean of similar patterns
nearby (`neighbors.py`). The estimates are then scaled to the measured number of electrons (`balance`).
"""

from __future__ import annotations

import hashlib
import warnings
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch.nn.functional import pad

from .._version import __version__
from ..compute import has_fast_bfloat16, in_batches, map_chunks, pick_device, sharing_cores
from ..core import NoiseModel, PrenetError, as_scan, remembered, sample_positions
from ..descan import fit_origin
from ..detector import lost_frames, of_part, split
from ..io import (
    DENOISED,
    check_output,
    cube_like,
    noise_of,
    open as open_cube,
    read_fitted_origin,
    record_change,
    resumable_cube,
    to_json,
)
from ..networks import MULTIPLE, load, requirement, verify
from ..origin import measure_origin
from . import CHUNK_PX, agree, measure_slopes, neighbor_means, slope_flags

NEIGHBOR_TILE = 512  # scan positions; number whose patterns are compared with each other: the time per pattern grows
BRIGHTNESS_LEVELS = 24  # number of groups of pixels of similar brightness, in which the network's bias is measured
BIAS_PRIOR_ELECTRONS = 50.0  # electrons per group; weight of the prior that the network is unbiased, for dark pixels
BRIGHT_PIXEL_ELECTRONS = 0.02  # electrons per pixel and pattern; smallest signal of a bright pixel
FADE_DOSE = 2e6  # electrons per pattern; dose of equal weight of estimate and counts: few training patterns have more
DESCAN_POSITIONS = 256  # scan positions; most from which the descan is measured if the calibration has none
WITH_NEIGHBORS, ALONE, UNCHANGED = "neighbors", "alone", "unchanged"  # modes
TRIAL_SIDE = 16  # scan positions; side of the part of the scan in which both modes are compared
TRIAL_PATTERNS = 49  # patterns; number in the middle of this part that is scored


@sharing_cores
def denoise(datacube, noise: NoiseModel | None = None, out=None, scan_aware="auto", weights: str = "denoise",
            device="auto", progress=True):
    """Denoise a scan.

    Smooth variations of strain, rotation and intensity over the scan are attenuated little. Steps that are weaker than
    the noise of a single pattern are attenuated strongly. `check_denoising` measures on the counts how much of each
    quantity is kept.

    Parameters
    ----------
    datacube : DataCube
        The scan, in memory or on disk.
    noise : NoiseModel, optional
        Noise model of the detector; that of the calibration, or estimated, by default.
    out : str or path-like, optional
        An EMD file that does not exist yet, to which the result is streamed. If writing fails, no file of this name
        remains; an interrupted run is resumed. By default, the result is kept in memory.
    scan_aware : bool or "auto", optional
        Whether similar patterns nearby are used. "auto" tests both modes in a part of the scan, on half of its
        electrons. Among the modes that keep every quantity (`measure_slopes`), the one that predicts the other half
        better is used; if no mode keeps them, the counts are returned unchanged, with a warning. Patterns are compared
        about their origins, which are read from the calibration or measured; without a beam, each pattern is denoised
        alone.
    weights : str, optional
        Name of the weights, or a safetensors file written by `finetune`.
    device : str, optional
        "auto", "cpu", "cuda" or "mps".
    progress : bool, optional
        Whether to show a progress bar.

    Returns
    -------
    DataCube
        Expected counts, float32, in the units of the input, with a copy of the calibration. With `out`, its data are
        read from that file.

    Raises
    ------
    PrenetError
        If the data cannot be used, the path exists, or weights are missing.

    Notes
    -----
    The network changes a pixel by at most six standard deviations of its noise (`networks/denoise.py`). The result has
    as many electrons as the data. The weight of the measured counts increases with the dose and is one half at 2e6
    electrons per pattern. Bad pixels are filled with the estimate.

    Examples
    --------
    >>> from py4dstem_prenet.demo import load_scan
    >>> from py4dstem_prenet.denoising import denoise
    >>> datacube, truth = load_scan()
    >>> clean = denoise(datacube, progress=False)  # doctest: +SKIP
    """
    scan = as_scan(datacube)
    if scan_aware not in (True, False, "auto"):
        raise PrenetError(f'scan_aware must be True, False or "auto", not {scan_aware!r}.')
    if out is not None:
        check_output(out)
    pick_device(device)  # refuse an unavailable device before the patterns are read
    digest = verify(weights)
    noise = noise or noise_of(datacube)
    if not noise.dose > 0:
        raise PrenetError("No electrons are seen above the read-out noise, so there is nothing to denoise; if "
                          "the contrast is inverted, use data.max() - data.")
    origins = None
    if scan_aware and scan.size > 1:
        origins = smooth_origins(datacube, noise, device)
    mode = ALONE if origins is None else WITH_NEIGHBORS
    if scan_aware == "auto" and origins is not None:
        mode, flag = choose_mode(datacube, origins, noise, weights, device)
        if flag is not None:
            warnings.warn(str(flag), stacklevel=2)
    if mode != WITH_NEIGHBORS:
        origins = None
    along = () if origins is None else (origins,)
    clean = partial(_clean, columns=scan.scan_shape[1], noise=noise, weights=weights, device=device)
    if mode == UNCHANGED:
        clean = partial(_unchanged, noise=noise)
    options = dict(chunk=NEIGHBOR_TILE, progress="denoising" if progress else None, require=requirement(weights))
    if out is None:
        shape = scan.shape
        data = np.empty(shape, np.float32)
        for index, block in map_chunks(clean, scan, *along, **options):
            data.reshape(-1, *shape[2:])[index] = block
        return record_change(cube_like(datacube, data), DENOISED)
    shell = record_change(cube_like(datacube, np.broadcast_to(np.float32(0), scan.shape)), DENOISED)
    record = {"version": __version__, "weights": digest, "noise": to_json(noise), "mode": mode,
              "origins": origins is not None and hashlib.sha256(origins.tobytes()).hexdigest()}
    with resumable_cube(shell, out, np.float32, record) as target:
        for index, block in map_chunks(clean, scan, *along, skip=target.done, **options):
            target.write(index, block)
    return open_cube(out)


def smooth_origins(datacube, noise: NoiseModel, device="auto") -> np.ndarray | None:
    """Read the fitted origin from the calibration; measure it if there is none.

    Parameters
    ----------
    datacube : DataCube
        The scan.
    noise : NoiseModel
        Noise model of the detector.
    device : str, optional
        "auto", "cpu", "cuda" or "mps".

    Returns
    -------
    numpy.ndarray or None
        Origin of every position, (Rx * Ry, 2), in pixels; None if no beam is found.
    """
    scan = as_scan(datacube)
    with suppress(PrenetError):  # raised if the calibration has no origin or that of other data
        maps = read_fitted_origin(datacube)[:2]
        if np.isfinite(maps).all():
            return np.stack(maps, -1).reshape(-1, 2)
    # A smooth surface is determined by a sample of the positions.
    count = int(np.clip(scan.size / 4, 64, DESCAN_POSITIONS))
    positions = sample_positions(scan.scan_shape, count)
    read = scan.read(positions)
    rows = np.unique(positions // scan.scan_shape[1])
    origin = measure_origin(read.reshape(len(rows), -1, *read.shape[1:]), noise, device=device, progress=False)
    if not origin.found:
        return None
    sparse = {}
    for name in ("qx0", "qy0", "sigma_qx0", "sigma_qy0", "valid"):
        part = np.nan_to_num(getattr(origin, name), nan=1.0)
        sparse[name] = np.zeros(scan.scan_shape, bool) if name == "valid" else np.ones(scan.scan_shape)
        sparse[name].reshape(-1)[positions] = part.ravel()
    fit = fit_origin(replace(origin, **sparse))
    return np.stack([fit.qx0, fit.qy0], -1).reshape(-1, 2)


def choose_mode(datacube, origins, noise: NoiseModel, weights: str = "denoise", device="auto"):
    """Choose how a scan is denoised by a test on patterns in its middle.

    The electrons of the patterns are split into two halves. Both modes estimate the patterns from one half. The second
    half shows how much of the variation of each quantity is kept, and gives the squared error.

    Parameters
    ----------
    datacube : DataCube
        The scan.
    origins : numpy.ndarray, shape (Rx * Ry, 2)
        Origin of every position, pixels.
    noise : NoiseModel
        Noise model of the detector.
    weights : str, optional
        Name of the weights, or a safetensors file.
    device : str, optional
        "auto", "cpu", "cuda" or "mps".

    Returns
    -------
    mode : {"neighbors", "alone", "unchanged"}
        The mode with the smaller squared error, among those that attenuate or exaggerate no quantity; "unchanged" if
        there is none.
    flag : Flag or None
        Reason why the counts remain unchanged: the quantity that deviates in the mode with the smaller squared error.
    """
    scan = as_scan(datacube)
    rows, columns = (np.arange(max(0, (n - TRIAL_SIDE) // 2), min(n, (n + TRIAL_SIDE) // 2)) for n in scan.scan_shape)
    positions = (rows[:, None] * scan.scan_shape[1] + columns).ravel()
    index, patterns_read = zip(*scan.blocks(positions=positions), strict=True)
    patterns_read, positions = np.concatenate(patterns_read), np.concatenate(index)
    lost = lost_frames(patterns_read)
    patterns_read, positions = patterns_read[~lost], positions[~lost]
    places = np.stack(divmod(positions, scan.scan_shape[1]), 1)
    return _better_mode(patterns_read, places, origins[positions], noise, weights, verify(weights),
                        str(pick_device(device)))


@remembered
def _better_mode(patterns_read, places, origins, noise, weights, digest, device):
    """Mode and flag of `choose_mode` for patterns (n, Qx, Qy) at rows and columns of the scan (n, 2)."""
    first, second = split(patterns_read, noise, np.random.default_rng(0))
    half_noise = of_part(noise)
    electrons, target = half_noise.electrons(first), half_noise.electrons(second)
    distance = np.abs(places - np.median(places, 0)).max(1)
    chosen = np.sort(np.argsort(distance, kind="stable")[:TRIAL_PATTERNS])
    means, patterns = neighbor_means(
        torch.from_numpy(electrons), torch.from_numpy(origins).float(), places,
        half_noise.readout / half_noise.gain, torch.from_numpy(~noise.bad_pixels), torch.from_numpy(chosen))
    raw, target, middle = electrons[chosen], target[chosen], origins[chosen]
    trials = []
    for mode, count in ((ALONE, torch.zeros_like(patterns)), (WITH_NEIGHBORS, patterns)):
        expected = _expected(raw, means.numpy(), count.numpy(), middle, half_noise, weights, device)
        balance(expected, raw, half_noise)
        flags = slope_flags(measure_slopes(expected, raw, target, middle, half_noise))
        error = ((target - expected)[:, ~noise.bad_pixels] ** 2).sum(dtype=float)
        trials.append((error, mode, next(iter(flags), None)))
    trials.sort(key=lambda result: result[0])
    kept = [mode for _, mode, flag in trials if flag is None]
    if kept:
        return kept[0], None
    return UNCHANGED, trials[0][2]


def _unchanged(index, block, *along, noise: NoiseModel):
    """Return patterns (n, Qx, Qy) in detector units as float32, with bad pixels filled, otherwise unchanged."""
    return noise.electrons(block) * np.float32(noise.gain) + np.float32(noise.offset)


def _clean(index, block, origins=None, *, columns: int, noise: NoiseModel, weights: str, device: str):
    """Denoise patterns (n, Qx, Qy) of neighboring positions, in detector units.

    `columns` is the number of columns of the scan. The device "auto" is resolved by each worker.
    """
    device = str(pick_device(device))
    electrons = noise.electrons(block)
    means, patterns = np.zeros_like(electrons), np.zeros(len(block), np.float32)
    if origins is not None and len(block) > 1:
        means, patterns = (values.cpu().numpy() for values in neighbor_means(
            torch.from_numpy(electrons).to(device), torch.from_numpy(origins).float().to(device),
            np.stack(divmod(index, columns), 1), noise.readout / noise.gain,
            torch.from_numpy(~noise.bad_pixels).to(device)))
    clean = _expected(electrons, means, patterns, origins, noise, weights, device)
    lost = lost_frames(block)
    if lost.any():  # lost frames remain unchanged, and must not bias the other frames
        intact = clean[~lost]
        balance(intact, electrons[~lost], noise)
        clean[~lost], clean[lost] = intact, electrons[lost]
    else:
        balance(clean, electrons, noise)
    estimate_weight = np.float32(1 / (1 + (noise.dose / FADE_DOSE) ** 2))
    if estimate_weight < 0.999:
        clean *= estimate_weight
        clean += (1 - estimate_weight) * electrons
    if noise.gain != 1:
        clean *= np.float32(noise.gain)
    if noise.offset != 0:
        clean += np.float32(noise.offset)
    return clean


def balance(estimate, electrons, noise: NoiseModel) -> None:
    """Scale estimates to the measured number of electrons in good pixels, in place.

    At a few hundred electrons per pattern, the network's mean in dark pixels is wrong by some percent. It is corrected
    by the ratio of measured to estimated electrons, summed over many patterns and over pixels of similar brightness.
    The remaining difference is corrected by a factor. With read-out noise, an error of the offset may cause it; it is
    then corrected by the same amount in every pixel.

    Parameters
    ----------
    estimate : numpy.ndarray, shape (n, Qx, Qy)
        Estimated electrons; changed in place.
    electrons : numpy.ndarray, shape (n, Qx, Qy)
        Measured electrons.
    noise : NoiseModel
        Noise model of the detector.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.core import NoiseModel
    >>> from py4dstem_prenet.denoising.denoiser import balance
    >>> noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((8, 8), bool), counting=True, dose=640.0)
    >>> estimate, electrons = np.full((5, 8, 8), 8.0, np.float32), np.full((5, 8, 8), 10.0, np.float32)
    >>> balance(estimate, electrons, noise)
    >>> round(float(estimate.sum() / electrons.sum()), 4)
    1.0
    """
    good = ~noise.bad_pixels
    measured, estimated = (part.sum(0, dtype=float) * good for part in (electrons, estimate))
    level = np.log(gaussian_filter(estimated, 1.0).clip(1e-9))
    edges = np.linspace(level.min(), level.max() + 1e-6, BRIGHTNESS_LEVELS + 1)
    group = np.digitize(level, edges) - 1
    counted, expected, pixels = (np.bincount(group[good], values[good], BRIGHTNESS_LEVELS)
                                 for values in (measured, estimated, np.ones_like(measured)))
    # In bright pixels the network is nearly unbiased, so that a correction would only add counting noise.
    prior = BIAS_PRIOR_ELECTRONS * (1 + expected / (pixels.clip(1) * len(estimate) * BRIGHT_PIXEL_ELECTRONS))
    ratio = (np.clip(counted, 0, None) + prior) / (expected + prior)
    filled = pixels > 0
    ratio = np.interp(level, (edges[:-1] + edges[1:])[filled] / 2, ratio[filled])
    estimate *= ratio.astype(np.float32)
    missing, total = measured.sum() - (estimated * ratio).sum(), (estimated * ratio).sum()
    if noise.readout == 0 and total > 0:
        estimate *= np.float32(1 + missing / total)
    else:
        estimate += np.float32(missing / max(good.sum() * len(estimate), 1))


def _expected(electrons, means, patterns, origins, noise: NoiseModel, weights: str, device: str) -> np.ndarray:
    """Expected electrons of patterns (n, Qx, Qy), from the patterns, their origins, and means of their neighbors."""
    network = load(weights, device)
    shape = electrons.shape[1:]
    side = (0, -shape[1] % MULTIPLE, 0, -shape[0] % MULTIPLE)
    alone, half = not patterns.any(), has_fast_bfloat16(device)

    def _padded(images):
        return pad(images[:, None], side, mode="replicate")[:, 0] if any(side) else images

    good = _padded(torch.from_numpy(~noise.bad_pixels)[None].float().to(device)) > 0.5

    def _estimate(electrons, means, patterns):
        readout = torch.full_like(patterns, noise.readout / noise.gain)
        extra = () if alone else (_padded(means), patterns)
        results = network.estimate_with_trust(_padded(electrons), readout, good.expand(len(electrons), -1, -1), *extra,
                                              half=half)
        return tuple(images[..., :shape[0], :shape[1]] for images in results)

    size = max(1, CHUNK_PX // (shape[0] * shape[1]))
    estimates, trust = in_batches(_estimate, electrons, means, patterns, device=device, size=size)
    if origins is None:  # any point can be used, since shift and strain are corrected together
        origins = np.tile((np.array(shape) - 1) / 2, (len(electrons), 1))
    return agree(*(torch.from_numpy(values) for values in (estimates, trust, electrons, means, patterns)),
                 torch.from_numpy(origins).float(), noise.readout / noise.gain,
                 torch.from_numpy(~noise.bad_pixels)).numpy()
