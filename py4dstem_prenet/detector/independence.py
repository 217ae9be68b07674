"""Check that noise is independent from pixel to pixel and as large as modeled, which count splitting requires."""

import numpy as np
from scipy.ndimage import correlate1d, uniform_filter

from ..core import Flag, NoiseModel

MIN_GROUP_ELECTRONS = 300  # electrons squared; smallest expected variance, summed over a group, for which it is tested
# Ratio of fine to coarse variance: 1 for independent noise, 0.7 for a blur of 0.45 px. Set on simulated detectors
# (tests/test_checks.py), like the limits of the variance.
MIN_INDEPENDENT_RATIO = 0.85  # ratio of fine to coarse variance; smallest one without a warning
MIN_USABLE_RATIO = 0.65  # ratio of fine to coarse variance; smallest one that is not refused
MIN_VARIANCE_RATIO, MAX_VARIANCE_RATIO = 0.75, 2.0  # ratios; limits of measured variance over that of the noise model
SECOND_DIFFERENCE = np.array([1.0, -2.0, 1.0])  # filter that cancels straight slopes of the pattern


def check_independence(blocks, noise: NoiseModel) -> tuple[Flag | None, Flag | None]:
    """Check whether the noise in blocks of a scan is independent and as large as the noise model states.

    Parameters
    ----------
    blocks : list of numpy.ndarray, shape (rx, ry, Qx, Qy)
        Patterns of neighboring positions in detector units.
    noise : NoiseModel
        Noise model of the detector.

    Returns
    -------
    problem : Flag or None
        Reason why the noise model is not valid.
    caveat : Flag or None
        Reason why results are optimistic: the detector sometimes counts one electron in two pixels, so that each pixel
        has Poisson noise but neighbors are not independent.

    Notes
    -----
    Noise is measured in differences of neighboring positions (in single patterns if there are none), with two filters
    that pass fine and coarser detail. Pixels are grouped by brightness. The part of the pattern that remains in the
    differences adds variance, and more in the second filter. Therefore only three deviations are attributed to the
    noise: too little variance in one group, too much variance in all dim groups, and too little fine detail in all
    groups.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.core import NoiseModel
    >>> from py4dstem_prenet.detector import check_independence
    >>> counts = np.random.default_rng(0).poisson(5.0, (8, 8, 32, 32)).astype(float)
    >>> noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((32, 32), bool), counting=True, dose=5120.0)
    >>> check_independence([counts], noise)
    (None, None)
    >>> problem, caveat = check_independence([(counts + np.roll(counts, 1, -1)) / 2], noise)
    >>> problem.name
    'noise_correlated'
    """
    good = ~noise.bad_pixels
    values = np.concatenate([block.ravel() if good.all() else block[..., good].ravel() for block in blocks])
    problem, ratio = _noise_differs(blocks, noise)
    problem = _saturated(values, noise) or problem or _clipped(values, noise)
    caveat = Flag("shared_noise_flatters", {"ratio": float(ratio)}) if ratio < MIN_INDEPENDENT_RATIO else None
    return problem, caveat


def _noise_differs(blocks, noise):
    """Problem or None, and largest ratio of fine to coarse variance over all groups, 1 for independent noise."""
    groups, expected, cancels = _group_variances(blocks, noise)
    if len(groups) == 0:
        return (Flag("few_electrons") if expected < MIN_GROUP_ELECTRONS else None), 1.0
    ratio = min(1.0, (groups[:, 0] / groups[:, 1]).max()) if cancels else 1.0
    if ratio < MIN_USABLE_RATIO:
        return Flag("noise_correlated", {"ratio": float(ratio)}), ratio
    # Noise that neighbors share reduces the fine variance, but hardly the coarse variance.
    measured = groups[:, :2].max(1) / groups[:, 2]
    if measured.min() < MIN_VARIANCE_RATIO:
        return Flag("noise_too_small", {"ratio": float(measured.min())}), ratio
    dim = groups[: len(groups) // 2 + 1, 0] / groups[: len(groups) // 2 + 1, 2]
    if cancels and dim.min() > MAX_VARIANCE_RATIO:
        return Flag("noise_too_large", {"ratio": float(dim.min())}), ratio
    return None, ratio


def _group_variances(blocks, noise):
    """Variances of groups of pixels, dimmest first.

    Returns sums (groups, 3) of fine, coarse and expected variance in electrons squared, the expected variance of all
    pixels, and whether differences of neighboring positions were used.
    """
    total, fine, coarse, expected = np.zeros((4, *noise.bad_pixels.shape))
    count, cancels = 0, False
    for block in blocks:
        for line in block if block.shape[1] > 1 else block.swapaxes(0, 1):  # by lines, which fit into the cache
            d = noise.electrons(line)
            total += d.sum(0, dtype=np.float64)
            if len(d) > 1:
                cancels = True
                d = np.diff(d, axis=0) / np.float32(np.sqrt(2))
            detail = correlate1d(correlate1d(d, SECOND_DIFFERENCE, 1), SECOND_DIFFERENCE, 2)
            fine += (detail**2).sum(0, dtype=np.float64) / 36
            coarse += ((d - uniform_filter(d, (0, 3, 3))) ** 2).sum(0, dtype=np.float64) * 9 / 8
            count += len(d)
    mean = total / sum(block.shape[0] * block.shape[1] for block in blocks)
    readout = (noise.readout / noise.gain) ** 2
    spread = correlate1d(correlate1d(mean, SECOND_DIFFERENCE**2, 0), SECOND_DIFFERENCE**2, 1)
    expected = count * (spread / 36 + readout)
    order = np.argsort(np.where(noise.bad_pixels, -np.inf, uniform_filter(mean, 5)), axis=None)
    order = order[noise.bad_pixels.sum():]
    groups = [[part.ravel()[pixels].sum() for part in (fine, coarse, expected)]
              for pixels in np.array_split(order, 32)]  # groups of similar brightness
    return np.array([group for group in groups if group[2] > MIN_GROUP_ELECTRONS]), expected.sum(), cancels


def _saturated(values, noise):
    top = noise.saturated_count(values)
    return Flag("saturated", {"count": top, "value": float(values.max())}) if top else None


def _clipped(values, noise):
    low = values.min()
    bottom = np.count_nonzero(values == low)
    above = np.count_nonzero(values == values[values > low].min(initial=values.max()))
    # Without clipping, the smallest value is rare, since it lies in the tail of the read-out noise.
    if not noise.counting and bottom > 0.02 * values.size and bottom > above and low < noise.offset + 0.5 * noise.gain:
        return Flag("clipped", {"percent": 100 * bottom / values.size, "value": float(low)})
    return None
