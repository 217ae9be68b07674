"""Two independent scans out of one, that share its electrons: what is true of a data set, without any truth.

Counting detectors: every count is thinned binomially. If N is Poisson(n), then A ~ Binomial(N, p) and B = N - A are
independent, Poisson(p n) and Poisson((1 - p) n): exactly what two scans of a part of the dose would have counted
(Neufeld et al., Biostatistics 2022, "count splitting").

Detectors with gain and read-out noise: a value x of variance v, offset subtracted, becomes p x + w and (1 - p) x - w,
where w is normal with variance p (1 - p) v. Then the first has variance p^2 v + p (1 - p) v = p v, which is what the
noise model says of a part p of the electrons with sqrt(p) of the read-out noise, the other one likewise, and their
covariance is p (1 - p) v - p (1 - p) v = 0; where noise is normal, they are independent (Neufeld et al., JMLR 2024,
"data thinning"; Oliveira et al. 2021, "coupled bootstrap"). v is taken from the value itself, which makes the
covariance zero on average, except where it is dark: no variance follows from the negative values that read-out noise
makes there, and the mean of the neighbors, linear and so without bias, takes its place.
"""

from dataclasses import replace

import numpy as np
from scipy.ndimage import maximum_filter, uniform_filter

from ..core import Scan
from .noise import NoiseModel

BLOCK_BYTES = 64 * 2**20  # of the positions that are split, as float32
MAX_SPLIT_POSITIONS = 1024  # positions that are split for a check of origin or ellipse, at most
DIM = 8.0  # electrons (and rms of read-out) in neighbors, up to which they speak for a pixel
MOST = 2**53  # electrons in a pixel
OUTLIER = 6.0  # standard deviations above its neighbors, from which it speaks for itself all the same


def split(block, noise: NoiseModel, generator: np.random.Generator, fraction: float = 0.5):
    """Two independent parts of patterns: as if `fraction` of the dose had been measured, and the rest another time.

    Args:
        block: patterns (..., Qx, Qy) in detector units. noise: of the detector.
        generator: all that is random comes from it. fraction: of the electrons that go to the first, between 0 and 1.

    Returns two arrays of the block's shape, in detector units. Offset and gain are those of the input, so both are
    scans like it, with the noise model `of_part`. Whole counts keep their type where gain is 1, all else is float32.
    """
    block = np.asarray(block)
    if noise.counting:
        return _thin(block, noise, generator, fraction)
    signal = block.astype(np.float32) - np.float32(noise.offset)
    spread = np.sqrt(_variance(signal, noise) * np.float32(fraction * (1 - fraction)))
    spread *= generator.standard_normal(block.shape, np.float32)
    first = np.float32(fraction) * signal + spread
    return first + np.float32(noise.offset), signal - first + np.float32(noise.offset)


def of_part(noise: NoiseModel, fraction: float = 0.5) -> NoiseModel:
    """The noise model of a part that `split` made with this fraction of the electrons."""
    return replace(noise, dose=noise.dose * fraction, readout=noise.readout * fraction**0.5)


def _thin(block, noise, generator, fraction):
    if block.dtype.kind in "iu" and noise.gain == 1 and noise.offset == 0:
        counts = block.clip(0) if block.dtype.itemsize < 8 else block.clip(0, MOST).astype(np.int64)
        first = generator.binomial(counts, fraction).astype(block.dtype)
        return first, block - first
    # Counting was found on good pixels; a bad one may hold anything.
    counts = np.rint((block - noise.offset) / noise.gain).clip(0, MOST).astype(np.int64)
    first = generator.binomial(counts, fraction)
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


def places(shape, positions: int, parts) -> list[np.ndarray]:
    """Flat numbers of neighboring positions, an array (rx, ry) each, in the middles of `parts` of a scan.

    shape: (Rx, Ry, Qx, Qy). positions: at most so many, fewer where patterns are large. parts: into how many the scan
    is cut along Rx and Ry; a scan of no more than `positions` is taken whole.
    """
    rx, ry, qx, qy = shape
    positions = min(positions, max(16, BLOCK_BYTES // (4 * qx * qy)))
    cut = (min(parts[0], rx), min(parts[1], ry))
    each = positions // (cut[0] * cut[1])
    rows = min(rx // cut[0], max(1, round(each**0.5)))
    columns = min(ry // cut[1], max(1, each // rows))
    rows = min(rx // cut[0], max(1, each // columns))
    out = []
    for i in range(cut[0]):
        for j in range(cut[1]):
            cell = np.arange(rx * ry).reshape(rx, ry)[i * rx // cut[0]:(i + 1) * rx // cut[0],
                                                      j * ry // cut[1]:(j + 1) * ry // cut[1]]
            if rx * ry > positions:
                top, left = (cell.shape[0] - rows) // 2, (cell.shape[1] - columns) // 2
                cell = cell[top:top + rows, left:left + columns]
            out.append(cell)
    return out


def read_block(scan: Scan, where) -> np.ndarray:
    """The patterns (rx, ry, Qx, Qy) of positions (rx, ry), in detector units."""
    read = scan.read(where.ravel())
    return read.reshape(*where.shape, *read.shape[1:])
