"""Two scans of half the dose out of one: what is true of a data set, without any truth.

Counting detectors: every count is thinned binomially. If N is Poisson(n), then A ~ Binomial(N, 1/2) and B = N - A are
independent Poisson(n / 2): exactly what two scans of half the dose would have counted (Neufeld et al., Biostatistics
2022, "count splitting").

Detectors with gain and read-out noise: a value x of variance v becomes offset + (x - offset) / 2 +- w, where w is
normal with variance v / 4. Then both halves have v / 4 + v / 4 = v / 2, which is what the noise model says of half the
electrons with 1 / sqrt(2) of the read-out noise, and the covariance v / 4 - v / 4 = 0; where noise is normal, they are
independent (Neufeld et al., JMLR 2024, "data thinning"; Oliveira et al. 2021, "coupled bootstrap"). v is taken from the
value itself, which makes the covariance zero on average, except where it is dark: no variance follows from the negative
values that read-out noise makes there, and the mean of the neighbors, linear and so without bias, takes its place.
"""

from dataclasses import replace

import numpy as np
from scipy.ndimage import maximum_filter, uniform_filter

from .noise import NoiseModel

DIM = 8.0  # electrons (and rms of read-out) in neighbors, up to which they speak for a pixel
OUTLIER = 6.0  # standard deviations above its neighbors, from which it speaks for itself all the same


def split(block, noise: NoiseModel, generator: np.random.Generator):
    """Two independent halves of patterns, in detector units: what two scans of half the dose would have measured.

    Args:
        block: patterns (..., Qx, Qy) in detector units. noise: of the detector.
        generator: all that is random comes from it.

    Returns two arrays of the block's shape. Offset and gain are those of the input, so both halves are scans like it,
    with the noise model `of_half(noise)`. Whole counts keep their type where gain is 1, all else is float32.
    """
    block = np.asarray(block)
    if noise.counting:
        return _thin(block, noise, generator)
    middle = (block.astype(np.float32) - np.float32(noise.offset)) * np.float32(0.5)
    spread = np.sqrt(_variance(2 * middle, noise)) * np.float32(0.5)
    spread *= generator.standard_normal(block.shape, np.float32)
    middle += np.float32(noise.offset)
    return middle + spread, middle - spread


def of_half(noise: NoiseModel) -> NoiseModel:
    """The noise model of either half of a split scan."""
    return replace(noise, dose=noise.dose / 2, readout=noise.readout / np.sqrt(2))


def _thin(block, noise, generator):
    if block.dtype.kind in "iu" and noise.gain == 1 and noise.offset == 0:
        first = generator.binomial(block, 0.5).astype(block.dtype)
        return first, block - first
    # Counting was found on good pixels; a bad one may hold anything.
    counts = np.rint((block - noise.offset) / noise.gain).clip(0).astype(np.int64)
    first = generator.binomial(counts, 0.5)
    return tuple((part * noise.gain + noise.offset).astype(np.float32) for part in (first, counts - first))


def _variance(signal, noise):
    """Variance of `signal` (..., Qx, Qy), detector units above the offset, estimated without bias from itself."""
    flat = signal.reshape(-1, *signal.shape[-2:])
    near, wide = (uniform_filter(flat, (0, side, side), mode="mirror") for side in (3, 7))
    spread = np.float32(noise.gain + noise.readout)
    alike = maximum_filter(near, (0, 3, 3)) < DIM * spread
    alike &= flat < near + OUTLIER * np.sqrt(noise.gain * near.clip(min=0) + spread**2)
    dark = maximum_filter(near, (0, 5, 5)) < spread
    mean = np.where(alike, np.where(dark, wide, near), flat)
    return (np.float32(noise.gain) * mean + np.float32(noise.readout**2)).clip(min=0).reshape(signal.shape)
