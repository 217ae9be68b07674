"""Denoised scans: the expected counts of every pattern, in the units of the input."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch.nn.functional import pad

from . import batches, emd
from .files import check_output, open_cube
from .networks.denoise import MULTIPLE
from .networks.weights import load, pick_device
from .noise import NoiseModel, estimate_noise, sample_positions

PIXELS = 2**19  # of patterns that go through the network at once
ENOUGH = 2e5  # electrons, over some positions, from which the network's mean bias is learned
SMOOTH = 4.0  # pixels over which it is averaged
PRIOR = 50.0  # electrons in that area that speak for no bias
PLENTY = 2e6  # electrons a pattern about which estimates fade into the counts: training saw few patterns beyond


def denoise(datacube, noise: NoiseModel | None = None, out=None, device="auto", progress=True):
    """A new DataCube of expected counts, float32, in the units of the input, with a copy of the calibration.

    The network's correction of a pixel is bounded to six standard deviations of its noise (networks/denoise.py);
    then the scan's electrons are balanced (`balance`). Beyond some million electrons a pattern the estimate fades
    into the measured counts. Bad pixels are filled with what the network expects there.

    Args:
        datacube: py4DSTEM DataCube whose data may lie in memory or on disk.
        noise: the detector's noise model; estimated from the scan by default.
        out: an EMD file that does not exist yet, to stream the result to; it appears whole or not at all. The cube
            returned then reads from that file.
        device: "auto", "cpu", "cuda" or "mps".

    Raises:
        PrenetError: data that cannot be used, an output path that is taken, weights that are missing.
    """
    batches.check(datacube)
    if out is not None:
        check_output(out)
    device = pick_device(device)
    network = load("denoise", device)
    noise = noise or estimate_noise(datacube)
    title = "denoising" if progress else None
    scale = balance(network, datacube, noise, device)
    if out is None:
        data = np.empty(batches.shape_of(datacube), np.float32)
        _fill(data, network, datacube, noise, scale, device, title)
        return emd.cube_like(datacube, data)
    with emd.new_cube(datacube, out, np.float32) as target:
        _fill(target, network, datacube, noise, scale, device, title)
    return open_cube(out)


def balance(network, datacube, noise: NoiseModel, device="cpu") -> np.ndarray:
    """What the network's estimates must be multiplied by so that on average the electrons are kept: (Qx, Qy).

    In the dark parts of patterns of a few hundred electrons a network learns the mean only to some per cent. Over
    a scan the electrons themselves say what it is: the ratio of measured to estimated electrons, summed over
    positions and smoothed, is near 1 wherever there is something to see.
    """
    scan = batches.shape_of(datacube)[:2]
    count = int(np.clip(ENOUGH / max(noise.dose, 1.0), 16, scan[0] * scan[1]))
    good = ~noise.bad_pixels
    measured, estimated = np.zeros((2, *good.shape))
    for _, patterns in batches.patterns(datacube, positions=sample_positions(scan, count)):
        measured += ((patterns.astype(np.float32) - noise.offset) / noise.gain).sum(0, dtype=float)
        estimated += _expected(network, patterns, noise, device).sum(0, dtype=float)
    area = 4 * np.pi * SMOOTH**2
    measured, estimated = (area * gaussian_filter(total * good, SMOOTH, mode="constant")
                           for total in (measured, estimated))
    return ((np.clip(measured, 0, None) + PRIOR) / (estimated + PRIOR)).astype(np.float32)


def _fill(target, network, datacube, noise, scale, device, title):
    columns = batches.shape_of(datacube)[1]
    trust = np.float32(1 / (1 + (noise.dose / PLENTY) ** 2))
    for index, patterns in batches.patterns(datacube, progress=title):
        clean = _expected(network, patterns, noise, device) * (scale * trust)
        clean += (1 - trust) * noise.electrons(patterns)
        clean *= np.float32(noise.gain)
        clean += np.float32(noise.offset)
        row, column = np.divmod(index, columns)
        for r in np.unique(row):  # an HDF5 file takes slices
            part = row == r
            if np.ptp(column[part]) + 1 == part.sum():
                target[r, column[part][0]:column[part][-1] + 1] = clean[part]
            else:
                target[r, column[part]] = clean[part]


def _expected(network, patterns, noise: NoiseModel, device) -> np.ndarray:
    """Expected electrons of patterns (n, Qx, Qy) in detector units, float32."""
    shape = patterns.shape[1:]
    side = (0, -shape[1] % MULTIPLE, 0, -shape[0] % MULTIPLE)
    good = pad(torch.from_numpy(~noise.bad_pixels).float()[None, None], side, mode="replicate")[0] > 0.5
    out = np.empty(patterns.shape, np.float32)
    count = max(1, PIXELS // (shape[0] * shape[1]))
    for start in range(0, len(patterns), count):
        part = slice(start, start + count)
        electrons = pad(torch.from_numpy(noise.electrons(patterns[part]))[:, None], side, mode="replicate")[:, 0]
        readout = torch.full((len(electrons),), noise.readout / noise.gain)
        with torch.inference_mode():
            clean = network(electrons.to(device), readout.to(device), good.expand_as(electrons).to(device))
        out[part] = clean[:, :shape[0], :shape[1]].cpu().numpy()
    return out
