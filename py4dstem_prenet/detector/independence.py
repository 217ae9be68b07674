"""Whether noise is what splitting counts supposes: independent from pixel to pixel, and as large as modeled."""

import numpy as np
from scipy.ndimage import correlate1d, uniform_filter

from ..core import Flag
from .noise import NoiseModel

GROUPS = 32  # of pixels
ENOUGH = 300  # electrons (or as much variance) in a group of pixels, from which its noise is judged
SHARED, CLEARLY_SHARED = 0.85, 0.65  # fine over coarse variance: of independent noise 1, of a blur of 0.45 px 0.7
QUIET, LOUD = 0.75, 2.0  # variance over that of the noise model, beyond which the model is wrong


def judge_noise(blocks, noise: NoiseModel) -> tuple[Flag | None, Flag | None]:
    """(what forbids, what qualifies) supposing this noise model's independent noise in these blocks, as flags.

    Noise is seen in differences of neighboring positions (in single patterns where there are none), through two
    filters that pass fine and less fine detail. Pixels are grouped by brightness. What is left of the pattern adds
    variance, and more so through the second filter: so only too little variance in a group, too much in all dim ones,
    and a lack of the finest detail in all of them tell of the noise.

    Blocks: (rx, ry, Qx, Qy) each, detector units. Qualified are detectors that now and then count one electron in two
    pixels: every pixel is Poisson, but they are not independent.
    """
    values = np.concatenate([block[..., ~noise.bad_pixels].ravel() for block in blocks])
    problem, shared = _noise_differs(blocks, noise)
    problem = _saturated(values, noise) or problem or _clipped(values, noise)
    return problem, Flag("shared_noise_flatters", {"ratio": float(shared)}) if shared < SHARED else None


def _noise_differs(blocks, noise):
    """(what is wrong, or None; fine over coarse variance where it is nearest to 1, that of independent noise)."""
    total, fine, coarse, expected = np.zeros((4, *noise.bad_pixels.shape))
    count, cancels = 0, False
    kernel = np.array([1.0, -2.0, 1.0])
    for block in blocks:
        electrons = noise.electrons(block.reshape(-1, *block.shape[2:])).reshape(block.shape)
        total += electrons.sum((0, 1), dtype=np.float64)
        axis = 1 if block.shape[1] > 1 else 0
        if block.shape[axis] > 1:
            cancels = True
            electrons = np.diff(electrons, axis=axis) / np.float32(np.sqrt(2))
        d = electrons.reshape(-1, *block.shape[2:])
        fine += (correlate1d(correlate1d(d, kernel, 1), kernel, 2) ** 2).sum(0, dtype=np.float64) / 36
        coarse += ((d - uniform_filter(d, (0, 3, 3))) ** 2).sum(0, dtype=np.float64) * 9 / 8
        count += len(d)
    mean = total / sum(block.shape[0] * block.shape[1] for block in blocks)
    readout = (noise.readout / noise.gain) ** 2
    expected = count * (correlate1d(correlate1d(mean, kernel**2, 0), kernel**2, 1) / 36 + readout)
    order = np.argsort(np.where(noise.bad_pixels, -np.inf, uniform_filter(mean, 5)), axis=None)
    order = order[noise.bad_pixels.sum():]
    groups = [[part.ravel()[some].sum() for part in (fine, coarse, expected)] for some in np.array_split(order, GROUPS)]
    groups = np.array([group for group in groups if group[2] > ENOUGH])
    if len(groups) == 0:
        return (Flag("few_electrons") if expected.sum() < ENOUGH else None), 1.0
    shared = min(1.0, (groups[:, 0] / groups[:, 1]).max()) if cancels else 1.0
    if shared < CLEARLY_SHARED:
        return Flag("noise_correlated", {"ratio": float(shared)}), shared
    ratio = groups[:, :2].max(1) / groups[:, 2]  # shared noise takes from the fine, little from the less fine
    if ratio.min() < QUIET:
        return Flag("noise_too_small", {"ratio": float(ratio.min())}), shared
    dim = groups[: len(groups) // 2 + 1, 0] / groups[: len(groups) // 2 + 1, 2]
    if cancels and dim.min() > LOUD:
        return Flag("noise_too_large", {"ratio": float(dim.min())}), shared
    return None, shared


def _saturated(values, noise):
    high = values.max()
    top = np.count_nonzero(values == high)
    below = np.count_nonzero((values > high - 0.1 * (float(high) - noise.offset)) & (values < high))
    if (float(high) - noise.offset) / noise.gain > 50 and top >= 4 and top > below:
        return Flag("saturated", {"count": top, "value": float(high)})
    return None


def _clipped(values, noise):
    low = values.min()
    bottom = np.count_nonzero(values == low)
    above = np.count_nonzero(values == values[values > low].min(initial=values.max()))
    # The smallest of values that are not clipped is a rare one, in the tail of read-out noise.
    if not noise.counting and bottom > 0.02 * values.size and bottom > above and low < noise.offset + 0.5 * noise.gain:
        return Flag("clipped", {"percent": 100 * bottom / values.size, "value": float(low)})
    return None
