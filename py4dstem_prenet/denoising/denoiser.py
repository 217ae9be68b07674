"""Denoised scans: the expected counts of every pattern, in the units of the input."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch.nn.functional import pad

from .._version import __version__
from ..compute import in_batches, map_chunks, pick_device
from ..core import NoiseModel, PrenetError, as_scan, sample_positions
from ..descan import fit_origin
from ..detector import of_part, split
from ..io import calibrations, check_output, emd_files, open as open_cube
from ..networks import MULTIPLE, load, requirement, verify
from ..origin import measure_origin
from .neighbors import neighbor_means

PIXELS = 2**17  # of patterns that go through the network at once; more than that leave the cache
TILE = 512  # positions whose patterns are compared with one another: the time of each grows with them
LEVELS = 24  # of brightness, for each of which the network's mean bias is found
PRIOR = 50.0  # electrons at a level that speak for no bias; more where it is bright
DARK = 0.02  # electrons in a pixel of a pattern, from which it counts as bright
PLENTY = 2e6  # electrons a pattern about which estimates fade into the counts: training saw few patterns beyond
LOCATED = 256  # positions, at most, from which the descan is learned where it is not known
TRIED = (16, 12)  # side of the part of the scan on which both modes are tried, and patterns of it that are scored


def denoise(datacube, noise: NoiseModel | None = None, out=None, scan_aware="auto", weights: str = "denoise",
            device="auto", progress=True):
    """A new DataCube of expected counts, float32, in the units of the input, with a copy of the calibration.

    The network's correction of a pixel is bounded to six standard deviations of its noise (networks/denoise.py), and
    takes similar patterns of the scan into account (neighbors.py). Then the electrons are balanced, so that as many
    are in the result as in the data. Beyond some million electrons a pattern the estimate fades into the measured
    counts. Bad pixels are filled with what the network expects there.

    Do not measure strain or rotation on denoised patterns. Patterns are averaged with neighbors that cannot be told
    apart one by one, so a strain or rotation that varies smoothly over the scan is flattened: measured slopes of the
    map are 0.2 to 0.9. Use the raw counts for such maps.

    Args:
        datacube: py4DSTEM DataCube whose data may lie in memory or on disk.
        noise: the detector's noise model; estimated from the scan by default.
        out: an EMD file that does not exist yet, to stream the result to; it appears whole or not at all, and a run
            that was interrupted is resumed. The cube returned then reads from that file.
        scan_aware: whether the patterns around are used; "auto" tries on a part of the scan what predicts
            electrons that were held out (splitting.py) better. Patterns are brought into one frame by the fitted
            origin in the calibration, or one that is measured here; without a beam, none are used.
        weights: a name, or a safetensors file such as `finetune` writes.
        device: "auto", "cpu", "cuda" or "mps".

    Raises:
        PrenetError: data that cannot be used, an output path that is taken, weights that are missing.
    """
    scan = as_scan(datacube)
    if scan_aware not in (True, False, "auto"):
        raise PrenetError(f'scan_aware must be True, False or "auto", not {scan_aware!r}.')
    if out is not None:
        check_output(out)
    pick_device(device)  # refused now where it cannot be used
    digest = verify(weights)
    noise = noise or calibrations.noise_of(datacube)
    if not noise.dose > 0:
        raise PrenetError("No electrons are seen above the read-out noise, so there is nothing to denoise; where "
                          "bright is low in these data, turn them over.")
    origins = None
    if scan_aware and scan.size > 1:
        origins = smooth_origins(datacube, noise, device)
        if scan_aware == "auto" and origins is not None and not neighbors_help(datacube, origins, noise, weights,
                                                                               device):
            origins = None
    along = () if origins is None else (origins,)
    clean = partial(_clean, noise=noise, weights=weights, device=device)
    options = dict(chunk=TILE, progress="denoising" if progress else None, require=requirement(weights))
    if out is None:
        shape = scan.shape
        data = np.empty(shape, np.float32)
        for index, block in map_chunks(clean, scan, *along, **options):
            data.reshape(-1, *shape[2:])[index] = block
        return calibrations.cube_like(datacube, data)
    record = {"version": __version__, "weights": digest, "noise": calibrations.to_json(noise),
              "origins": origins is not None and hashlib.sha256(origins.tobytes()).hexdigest()}
    with emd_files.resumable_cube(datacube, out, np.float32, record) as target:
        for index, block in map_chunks(clean, scan, *along, skip=target.done, **options):
            target.write(index, block)
    return open_cube(out)


def smooth_origins(datacube, noise: NoiseModel, device="auto") -> np.ndarray | None:
    """The smooth origin of every position, (Rx * Ry, 2) pixels: the calibration's, or measured; None without a beam."""
    scan = as_scan(datacube)
    with suppress(PrenetError):  # of other data than these, or none
        maps = calibrations.read_fitted_origin(datacube)[:2]
        if np.isfinite(maps).all():
            return np.stack(maps, -1).reshape(-1, 2)
    # A smooth surface needs no measurement everywhere.
    count = int(np.clip(scan.size / 4, 64, LOCATED))
    positions = sample_positions(scan.scan_shape, count)
    read = scan.read(positions)
    rows = np.unique(positions // scan.scan_shape[1])
    found = measure_origin(read.reshape(len(rows), -1, *read.shape[1:]), noise, device=device, progress=False)
    if not found.found:
        return None
    sparse = {}
    for name in ("qx0", "qy0", "sigma_qx0", "sigma_qy0", "valid"):
        part = np.nan_to_num(getattr(found, name), nan=1.0)
        sparse[name] = np.zeros(scan.scan_shape, bool) if name == "valid" else np.ones(scan.scan_shape)
        sparse[name].reshape(-1)[positions] = part.ravel()
    fit = fit_origin(replace(found, **sparse))
    return np.stack([fit.qx0, fit.qy0], -1).reshape(-1, 2)


def neighbors_help(datacube, origins, noise: NoiseModel, weights: str = "denoise", device="auto", seed: int = 0) -> bool:
    """Whether estimates with neighbors predict held-out electrons better, in patterns from the middle of the scan.

    Electrons are split in two halves, patterns are estimated in both ways from one, and scored on the other by their
    squared difference: its excess over the noise of that half, the same for both, is the squared error.
    """
    scan = as_scan(datacube)
    side, scored = TRIED
    rows, columns = (np.arange(max(0, (n - side) // 2), min(n, (n + side) // 2)) for n in scan.scan_shape)
    positions = (rows[:, None] * scan.scan_shape[1] + columns).ravel()
    index, read = zip(*scan.blocks(positions=positions), strict=True)
    read, positions = np.concatenate(read), np.concatenate(index)
    half, rest = split(read, noise, np.random.default_rng(seed))
    part, device = of_part(noise), str(pick_device(device))
    electrons, target = part.electrons(half), part.electrons(rest)
    chosen = sample_positions((1, len(read)), scored)
    means, patterns = neighbor_means(
        torch.from_numpy(electrons), torch.from_numpy(origins[positions]).float(), part.readout / part.gain,
        torch.from_numpy(~noise.bad_pixels), torch.from_numpy(chosen))
    scores = []
    for count in (torch.zeros_like(patterns), patterns):
        expected = _expected(electrons[chosen], means.numpy(), count.numpy(), part, weights, device)
        balance(expected, electrons[chosen], part)
        scores.append(((target[chosen] - expected)[:, ~noise.bad_pixels] ** 2).sum(dtype=float))
    return scores[1] < scores[0]


def _clean(index, block, origins=None, *, noise: NoiseModel, weights: str, device: str):
    """Denoised patterns (n, Qx, Qy) in detector units, of neighboring positions in detector units.

    device: as the user gave it; "auto" is for each worker to decide.
    """
    device = str(pick_device(device))
    electrons = noise.electrons(block)
    means, patterns = np.zeros_like(electrons), np.zeros(len(block), np.float32)
    if origins is not None and len(block) > 1:
        means, patterns = (t.cpu().numpy() for t in neighbor_means(
            torch.from_numpy(electrons).to(device), torch.from_numpy(origins).float().to(device),
            noise.readout / noise.gain, torch.from_numpy(~noise.bad_pixels).to(device)))
    clean = _expected(electrons, means, patterns, noise, weights, device)
    balance(clean, electrons, noise)
    trust = np.float32(1 / (1 + (noise.dose / PLENTY) ** 2))
    if trust < 0.999:
        clean *= trust
        clean += (1 - trust) * electrons
    if noise.gain != 1:
        clean *= np.float32(noise.gain)
    if noise.offset != 0:
        clean += np.float32(noise.offset)
    return clean


def balance(estimate, electrons, noise: NoiseModel) -> None:
    """Give estimates (n, Qx, Qy) as many electrons, in good pixels, as were measured; in place.

    In the dark parts of patterns of a few hundred electrons a network learns the mean only to some per cent. Over
    many patterns the electrons themselves say what it is: the ratio of measured to estimated electrons in all pixels
    of a like brightness, near 1 wherever there is something to see. What is missing then is made up for by a
    factor, or, where there is read-out noise and the offset may be the cause, by the same amount in every pixel.
    """
    good = ~noise.bad_pixels
    measured, estimated = (part.sum(0, dtype=float) * good for part in (electrons, estimate))
    level = np.log(gaussian_filter(estimated, 1.0).clip(1e-9))
    edges = np.linspace(level.min(), level.max() + 1e-6, LEVELS + 1)
    group = np.digitize(level, edges) - 1
    seen, expected, pixels = (np.bincount(group[good], values[good], LEVELS)
                              for values in (measured, estimated, np.ones_like(measured)))
    # Where single pixels see electrons the network is hardly ever wrong, and chance must not be put in its place.
    prior = PRIOR * (1 + expected / (pixels.clip(1) * len(estimate) * DARK))
    ratio = (np.clip(seen, 0, None) + prior) / (expected + prior)
    some = pixels > 0
    ratio = np.interp(level, (edges[:-1] + edges[1:])[some] / 2, ratio[some])
    estimate *= ratio.astype(np.float32)
    missing, total = measured.sum() - (estimated * ratio).sum(), (estimated * ratio).sum()
    if noise.readout == 0 and total > 0:
        estimate *= np.float32(1 + missing / total)
    else:
        estimate += np.float32(missing / max(good.sum() * len(estimate), 1))


def _expected(electrons, means, patterns, noise: NoiseModel, weights: str, device: str) -> np.ndarray:
    """Expected electrons of patterns (n, Qx, Qy), with the means of their neighbors and what these are worth (n,)."""
    network = load(weights, device)
    shape = electrons.shape[1:]
    side = (0, -shape[1] % MULTIPLE, 0, -shape[0] % MULTIPLE)
    alone = not patterns.any()

    def longer(images):
        return pad(images[:, None], side, mode="replicate")[:, 0] if any(side) else images

    good = longer(torch.from_numpy(~noise.bad_pixels)[None].float().to(device)) > 0.5

    def clean(electrons, means, patterns):
        readout = torch.full_like(patterns, noise.readout / noise.gain)
        others = () if alone else (longer(means), patterns)
        estimate = network(longer(electrons), readout, good.expand(len(electrons), -1, -1), *others)
        return estimate[:, :shape[0], :shape[1]]

    return in_batches(clean, electrons, means, patterns, device=device, size=max(1, PIXELS // (shape[0] * shape[1])))
