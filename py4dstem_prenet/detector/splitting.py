"""Split the electrons of a scan into two independent scans, to test results without a known truth.

Counting detectors: every count is thinned binomially. If N is Poisson(n), then A ~ Binomial(N, p) and B = N - A are
independent, Poisson(p n) and Poisson((1 - p) n), like two scans at these fractions of the dose ("count splitting",
Neufeld et al., Biostatistics 2022).

Detectors with gain and read-out noise: a value x of variance v, after subtraction of the offset, becomes p x + w and
(1 - p) x - w, where w is normal with variance p (1 - p) v. The first has variance p^2 v + p (1 - p) v = p v, which is
that of a fraction p of the electrons with sqrt(p) of the read-out noise; the second likewise. Their covariance is
p (1 - p) v - p (1 - p) v = 0, and for normal noise they are independent ("data thinning", Neufeld et al., JMLR 2024;
"coupled bootstrap", Oliveira et al. 2021). v is estimated from the value itself, which makes the covariance zero on
average. In dark pixels, read-out noise causes negative values, from which no variance can be estimated; there v follows
from the mean of the neighbors, which is linear and therefore unbiased.
"""

from dataclasses import replace

import numpy as np
from scipy.ndimage import maximum_filter, uniform_filter

from ..core import BLOCK_BYTES, NoiseModel, Scan

MAX_SPLIT_POSITIONS = 1024  # positions; most that are split for a check of the origin or the ellipse
# Units of gain + rms read-out noise; where the mean of the neighbors is smaller, it determines the variance.
MAX_DIM_ELECTRONS = 8.0
MAX_COUNTS = 2**53  # electrons; largest number in a pixel that is exact in float64
MAX_NEIGHBOR_PULL = 6.0  # standard deviations; a pixel that exceeds its neighbors by more determines its own variance


def split(block, noise: NoiseModel, generator: np.random.Generator, fraction: float = 0.5):
    """Split patterns into two independent parts, as if each fraction of the dose had been measured separately.

    Parameters
    ----------
    block : array_like, shape (..., Qx, Qy)
        Patterns in detector units.
    noise : NoiseModel
        Noise model of the detector.
    generator : numpy.random.Generator
        Source of all random numbers.
    fraction : float, optional
        Fraction of the electrons in the first result, between 0 and 1.

    Returns
    -------
    first, second : numpy.ndarray, shape (..., Qx, Qy)
        The parts in detector units, with the gain and offset of the input; `of_part` gives their noise model. Integer
        counts keep their type if the gain is 1; otherwise the parts are float32.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.core import NoiseModel
    >>> from py4dstem_prenet.detector import split
    >>> rng = np.random.default_rng(0)
    >>> counts = rng.poisson(9.0, (8, 16, 16))
    >>> noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((16, 16), bool), counting=True, dose=2304.0)
    >>> first, second = split(counts, noise, rng, fraction=0.3)
    >>> bool((first + second == counts).all()), round(first.sum() / counts.sum(), 1)
    (True, 0.3)
    """
    block = np.asarray(block)
    if noise.counting:
        return _thin(block, noise, generator, fraction)
    signal = block.astype(np.float32) - np.float32(noise.offset)
    shift = np.sqrt(_variance(signal, noise) * np.float32(fraction * (1 - fraction)))
    shift *= generator.standard_normal(block.shape, np.float32)
    first = np.float32(fraction) * signal + shift
    return first + np.float32(noise.offset), signal - first + np.float32(noise.offset)


def of_part(noise: NoiseModel, fraction: float = 0.5) -> NoiseModel:
    """Compute the noise model of one result of `split`.

    Parameters
    ----------
    noise : NoiseModel
        Noise model before the split.
    fraction : float, optional
        Fraction of the electrons in the result.

    Returns
    -------
    NoiseModel
        Noise model of the part.
    """
    gain, offset, readout, dose = noise.sigmas
    return replace(noise, dose=noise.dose * fraction, readout=noise.readout * fraction**0.5,
                   sigmas=(gain, offset, readout * fraction**0.5, dose * fraction))


def _thin(block, noise, generator, fraction):
    if block.dtype.kind in "iu" and noise.gain == 1 and noise.offset == 0:
        counts = block.clip(0) if block.dtype.itemsize < 8 else block.clip(0, MAX_COUNTS).astype(np.int64)
        first = _binomial(counts, fraction, generator).astype(block.dtype)
        return first, block - first
    # `counting` is valid for good pixels only; bad pixels may have any value.
    counts = np.rint((block - noise.offset) / noise.gain).clip(0, MAX_COUNTS).astype(np.int64)
    first = _binomial(counts, fraction, generator)
    return tuple((part * noise.gain + noise.offset).astype(np.float32) for part in (first, counts - first))


def _binomial(counts, fraction, generator):
    """Random parts of counts; zeros, which use no random numbers, are left out."""
    first, lit = np.zeros_like(counts), counts > 0
    first[lit] = generator.binomial(counts[lit], fraction)
    return first


def _variance(signal, noise):
    """Unbiased estimate of the variance of `signal` (..., Qx, Qy), which is in detector units above the offset."""
    flat = signal.reshape(-1, *signal.shape[-2:])
    mean_of_3, mean_of_7 = (uniform_filter(flat, (0, side, side), mode="mirror") for side in (3, 7))
    spread = np.float32(noise.gain + noise.readout)
    dim = maximum_filter(mean_of_3, (0, 3, 3)) < MAX_DIM_ELECTRONS * spread
    dim &= flat < mean_of_3 + MAX_NEIGHBOR_PULL * np.sqrt(noise.gain * mean_of_3.clip(min=0) + spread**2)
    dark = maximum_filter(mean_of_3, (0, 5, 5)) < spread
    mean = np.where(dim, np.where(dark, mean_of_7, mean_of_3), flat)
    return (np.float32(noise.gain) * mean + np.float32(noise.readout**2)).clip(min=0).reshape(signal.shape)


def places(shape, positions: int, parts, most_bytes: int = BLOCK_BYTES) -> list[np.ndarray]:
    """Choose blocks of neighboring positions, each in the middle of one part of the scan.

    Parameters
    ----------
    shape : tuple of int
        Shape (Rx, Ry, Qx, Qy) of the scan.
    positions : int
        Largest number of positions in all blocks together; fewer if patterns are large. A smaller scan is used whole.
    parts : tuple of int
        Number of parts along Rx and Ry.
    most_bytes : int, optional
        Largest size of all patterns together as float32.

    Returns
    -------
    list of numpy.ndarray of int, shape (rx, ry)
        Flat positions of each block.

    Examples
    --------
    >>> from py4dstem_prenet.detector import places
    >>> [block.tolist() for block in places((4, 8, 32, 32), positions=8, parts=(1, 2))]
    [[[9, 10], [17, 18]], [[13, 14], [21, 22]]]
    """
    rx, ry, qx, qy = shape
    positions = min(positions, max(16, most_bytes // (4 * qx * qy)))
    cut = (min(parts[0], rx), min(parts[1], ry))
    each = positions // (cut[0] * cut[1])
    rows = min(rx // cut[0], max(1, round(each**0.5)))
    columns = min(ry // cut[1], max(1, each // rows))
    rows = min(rx // cut[0], max(1, each // columns))
    blocks = []
    for i in range(cut[0]):
        for j in range(cut[1]):
            cell = np.arange(rx * ry).reshape(rx, ry)[i * rx // cut[0]:(i + 1) * rx // cut[0],
                                                      j * ry // cut[1]:(j + 1) * ry // cut[1]]
            if rx * ry > positions:
                top, left = (cell.shape[0] - rows) // 2, (cell.shape[1] - columns) // 2
                cell = cell[top:top + rows, left:left + columns]
            blocks.append(cell)
    return blocks


def read_block(scan: Scan, positions) -> np.ndarray:
    """Read the patterns of a block of positions.

    Parameters
    ----------
    scan : Scan
        The scan.
    positions : numpy.ndarray of int, shape (rx, ry)
        Flat positions.

    Returns
    -------
    numpy.ndarray, shape (rx, ry, Qx, Qy)
        The patterns in detector units.
    """
    block = scan.read(positions.ravel())
    return block.reshape(*positions.shape, *block.shape[1:])
