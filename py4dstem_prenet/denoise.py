"""Denoised scans: the expected counts of every pattern, in the units of the input."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import pad

from . import batches, emd
from .files import check_output, open_cube
from .networks.denoise import MULTIPLE
from .networks.weights import load, pick_device
from .noise import NoiseModel, estimate_noise

PIXELS = 2**19  # of patterns that go through the network at once


def denoise(datacube, noise: NoiseModel | None = None, out=None, device="auto", progress=True):
    """A new DataCube of expected counts, float32, in the units of the input, with a copy of the calibration.

    The correction of every pixel is bounded to six standard deviations of its noise (networks/denoise.py). Bad
    pixels are filled with what the network expects there.

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
    if out is None:
        data = np.empty(batches.shape_of(datacube), np.float32)
        _fill(data, network, datacube, noise, device, title)
        return emd.cube_like(datacube, data)
    with emd.new_cube(datacube, out, np.float32) as target:
        _fill(target, network, datacube, noise, device, title)
    return open_cube(out)


def _fill(target, network, datacube, noise, device, title):
    columns = batches.shape_of(datacube)[1]
    for index, patterns in batches.patterns(datacube, progress=title):
        clean = denoise_patterns(network, patterns, noise, device)
        row, column = np.divmod(index, columns)
        for r in np.unique(row):  # an HDF5 file takes slices
            part = row == r
            if np.ptp(column[part]) + 1 == part.sum():
                target[r, column[part][0]:column[part][-1] + 1] = clean[part]
            else:
                target[r, column[part]] = clean[part]


def denoise_patterns(network, patterns, noise: NoiseModel, device="cpu") -> np.ndarray:
    """Expected counts of patterns (n, Qx, Qy) in detector units, float32."""
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
    return out * np.float32(noise.gain) + np.float32(noise.offset)
