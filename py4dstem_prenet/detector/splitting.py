"""Split a scan into two independent scans that share its electrons, to test results without a known truth.

Counting detectors: every count is thinned binomially. If N is Poisson(n), then A ~ Binomial(N, p) and B = N - A are
independent, Poisson(p n) and Poisson((1 - p) n), as two scans at these parts of the dose would be ("count splitting",
Neufeld et al., Biostatistics 2022).

Detectors with gain and read-out noise: a value x of variance v, offset subtracted, becomes p x + w and (1 - p) x - w,
where w is normal with variance p (1 - p) v. The first has variance p^2 v + p (1 - p) v = p v, that of a part p of the
electrons with sqrt(p) of the read-out noise; the second likewise. Their covariance is p (1 - p) v - p (1 - p) v = 0,
and for normal noise they are independent ("data thinning", Neufeld et al., JMLR 2024; "coupled bootstrap", Oliveira et
al. 2021). v is estimated from the value itself, which makes the covariance zero on average. In dark pixels read-out
noise makes negative values, which determine no variance; there v follows from the mean of the neighbors, which is
linear and so unbiased.
"""

from dataclasses import replace

import numpy as np
from scipy.ndimage import maximum_filter, uniform_filter

from ..core import NoiseModel, Scan

MAX_SPLIT_BYTES = 64 * 2**20  # bytes of the positions that are split, as float32
MAX_SPLIT_POSITIONS = 1024  # positions that are split for a check of the origin or the ellipse
MAX_DIM_ELECTRONS = 8.0  # electrons plus rms read-out noise: in dimmer surroundings neighbors determine the variance
MAX_COUNTS = 2**53  # electrons in a pixel; larger numbers are not exact in float64
MAX_NEIGHBOR_PULL = 6.0  # standard deviations above its neighbors; a brighter pixel determines its own variance


def split(block, noise: NoiseModel, generator: np.random.Generator, fraction: float = 0.5):
    """Split patterns into two independent parts, as if each part of the dose had been measured separately.

    Parameters
    ----------
    block : array_like, shape (..., Qx, Qy)
        Patterns in detector units.
    noise : NoiseModel
        Noise model of the detector.
    generator : numpy.random.Generator
        Source of all random numbers.
    fraction : float, optional
        Part of the electrons that go to the first result, between 0 and 1.

    Returns
    -------
    first, second : numpy.ndarray, shape (..., Qx, Qy)
        The parts in detector units, with the gain and offset of the input and the noise model `of_part`. Whole counts
        keep their type if the gain is 1; else the parts are float32.

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
    """Compute the noise model of a part that `split` made.

    Parameters
    ----------
    noise : NoiseModel
        Noise model of the whole.
    fraction : float, optional
        Part of the electrons.

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
        first = generator.binomial(counts, fraction).astype(block.dtype)
        return first, block - first
    # `counting` holds for good pixels only; a bad one may have any value.
    counts = np.rint((block - noise.offset) / noise.gain).clip(0, MAX_COUNTS).astype(np.int64)
    first = generator.binomial(counts, fraction)
    return tuple((part * noise.gain + noise.offset).astype(np.float32) for part in (first, counts - first))


def _variance(signal, noise):
    """Unbiased estimate of the variance of `signal` (..., Qx, Qy), in detector units above the offset, from itself."""
    flat = signal.reshape(-1, *signal.shape[-2:])
    near, wide = (uniform_filter(flat, (0, side, side), mode="mirror") for side in (3, 7))
    spread = np.float32(noise.gain + noise.readout)
    dim = maximum_filter(near, (0, 3, 3)) < MAX_DIM_ELECTRONS * spread
    dim &= flat < near + MAX_NEIGHBOR_PULL * np.sqrt(noise.gain * near.clip(min=0) + spread**2)
    dark = maximum_filter(near, (0, 5, 5)) < spread
    mean = np.where(dim, np.where(dark, wide, near), flat)
    return (np.float32(noise.gain) * mean + np.float32(noise.readout**2)).clip(min=0).reshape(signal.shape)


def places(shape, positions: int, parts) -> list[np.ndarray]:
    """Choose blocks of neighboring positions in the middles of parts of a scan.

    Parameters
    ----------
    shape : tuple of int
        Shape (Rx, Ry, Qx, Qy) of the scan.
    positions : int
        Most positions in all blocks; fewer where patterns are large. A scan of no more positions is taken whole.
    parts : tuple of int
        Number of parts along Rx and Ry.

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
    positions = min(positions, max(16, MAX_SPLIT_BYTES // (4 * qx * qy)))
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
