"""Bad pixels (hot, dead or stuck), found in a sample of a scan.

A bad pixel is isolated and differs from the pixels around it by more than noise and the roughness of the pattern, in
all parts of the scan; or its value never changes although electrons hit its neighbors.
"""

import numpy as np
from scipy.ndimage import (
    binary_dilation,
    binary_propagation,
    find_objects,
    label,
    median_filter,
    rank_filter,
)
from scipy.stats import chi2

from ..core import MIN_PART_SHARE, MIN_PATTERNS_IN_TIME, SCAN_PARTS
from . import MIN_PIXEL_ELECTRONS, PIXEL_SIGMAS

EIGHT_NEIGHBORS = np.ones((3, 3), bool)  # footprint of a pixel's neighbors, without the pixel
EIGHT_NEIGHBORS[1, 1] = False
# Set on simulated scans with and without bad pixels (tests/test_noise.py):
MAX_NEIGHBOR_SHARE = 0.15  # fraction of a hot pixel's excess; largest third-highest excess among its neighbors
MAX_NEIGHBOR_SHARE_SINGLE = 0.05  # MAX_NEIGHBOR_SHARE if the sample is a single pattern
MIN_DEVIATION = 10  # standard deviations; smallest distance of a bad pixel's mean from the median around it
MIN_DEVIATION_SINGLE = 30  # MIN_DEVIATION if the sample is a single pattern
MIN_LIT_OF_25 = 11  # pixels; fewest lit ones of 5 x 5 in a disk and on its edge: a spot of 1 px radius has at most nine
MIN_OVER_NEIGHBORS = 1.15  # ratio; smallest brightness of a hot pixel relative to its third brightest neighbor
MIN_STUCK_VARIANCE = 50  # squared steps between values; smallest sum of squares of the neighbors of a stuck pixel

# Probabilities of such a small scatter by chance: in the first pixel of a cluster, and in pixels adjacent to it.
QUIET_PROBABILITY, BESIDE_PROBABILITY = 1e-9, 1e-3
MAX_QUIET_SIDE = 8  # pixels; largest side of a cluster of quiet pixels: larger clusters belong to the pattern
MAX_QUIET_RIM = 0.3  # fraction of a cluster's brightness; brightest allowed rim: the core of a beam has a brighter one
MIN_QUIET_SPREAD = 0.02  # fraction of a cluster's mean; smallest scatter of its values, which saturated pixels lack


def find_bad_pixels(sample, quantum):
    """Find single bad pixels in a sample of a scan.

    Parameters
    ----------
    sample : numpy.ndarray, shape (n, Qx, Qy)
        Patterns in detector units, in the order of the scan.
    quantum : float
        Step between values in detector units; 0 if they are continuous.

    Returns
    -------
    numpy.ndarray of bool, shape (Qx, Qy)
        True where a pixel is bad.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.detector.bad_pixels import find_bad_pixels
    >>> sample = np.random.default_rng(0).poisson(20.0, (16, 24, 24))
    >>> sample[:, 5, 7] += 100
    >>> np.argwhere(find_bad_pixels(sample, quantum=1.0)).tolist()
    [[5, 7]]
    """
    n = len(sample)
    mean = sample.mean(axis=0, dtype=np.float64)
    variance = np.zeros_like(mean)
    for pattern in sample:
        variance += (pattern - mean) ** 2
    variance /= max(n - 1, 1)
    noise = median_filter(variance, 5, mode="mirror") if n > 1 else variance
    bad, excess = _isolated(mean, noise, n, quantum)
    if n >= MIN_PATTERNS_IN_TIME:
        bad |= _above_slopes(sample, mean, noise, quantum)

    # The specimen changes along the scan, a bad pixel does not.
    x, y = np.nonzero(bad)
    for part in np.array_split(np.arange(n), min(SCAN_PARTS, n)):
        for i, j in zip(x, y, strict=True):
            window = sample[part, max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3].mean(axis=0, dtype=np.float64)
            part_excess = sample[part, i, j].mean(dtype=np.float64) - np.median(window)
            bad[i, j] &= part_excess * np.sign(excess[i, j]) > MIN_PART_SHARE * abs(excess[i, j])

    if n >= MIN_PATTERNS_IN_TIME:
        bad |= _stuck(sample, mean, variance, excess, quantum)
    elif n > 1:
        step = rank_filter(mean, 2, footprint=EIGHT_NEIGHBORS, mode="mirror") - mean
        bad |= (sample.max(axis=0) == sample.min()) & (step > 5 * np.sqrt(noise / n)) & (noise > 0)
    return bad


def quiet_pixels(sample, bad, gain: float, offset: float, readout: float):
    """Find clusters of bright pixels that scatter much less than counting statistics predict.

    Parameters
    ----------
    sample : numpy.ndarray, shape (n, Qx, Qy)
        Patterns in detector units.
    bad : numpy.ndarray of bool, shape (Qx, Qy)
        Bad pixels found so far.
    gain, offset, readout : float
        Parameters of the noise model in detector units.

    Returns
    -------
    numpy.ndarray of bool, shape (Qx, Qy)
        True in quiet clusters.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.detector.bad_pixels import quiet_pixels
    >>> sample = np.random.default_rng(0).poisson(2.0, (64, 24, 24))
    >>> sample[:, 5:8, 7:9] += [[100, 80], [90, 120], [70, 60]]
    >>> quiet_pixels(sample, np.zeros((24, 24), bool), 1.0, 0.0, 0.0).sum()
    6
    """
    n = len(sample)
    if n < MIN_PATTERNS_IN_TIME:
        return np.zeros(bad.shape, bool)
    mean = sample.mean(axis=0, dtype=np.float64) - offset
    bright = ~bad & (mean > MIN_PIXEL_ELECTRONS * gain)
    expected = gain * mean[bright] + readout**2
    relative = np.full(bad.shape, np.inf)
    relative[bright] = sample[:, bright].var(axis=0, ddof=1, dtype=np.float64) / expected
    limits = chi2.ppf([QUIET_PROBABILITY, BESIDE_PROBABILITY], n - 1) / (n - 1)
    quiet = binary_propagation(relative < limits[0], np.ones((3, 3)), relative < limits[1])
    labels, _ = label(quiet, np.ones((3, 3)))
    for number, box in enumerate(find_objects(labels), 1):
        cluster = labels == number
        values = mean[cluster]
        rim = binary_dilation(cluster, iterations=2) & ~binary_dilation(cluster) & ~bad
        small = max(s.stop - s.start for s in box) <= MAX_QUIET_SIDE
        dark = rim.any() and np.median(mean[rim]) < MAX_QUIET_RIM * values.mean()
        if not (small and dark and (len(values) == 1 or values.std() > MIN_QUIET_SPREAD * values.mean())):
            quiet[cluster] = False
    return quiet


def _isolated(mean, noise, n, quantum):
    """Isolated pixels that differ from the median of the pixels around them: (bad, excess), (Qx, Qy) each."""
    median = median_filter(mean, 5, mode="mirror")
    excess = mean - median
    limit, share = (MIN_DEVIATION, MAX_NEIGHBOR_SHARE) if n > 1 else (MIN_DEVIATION_SINGLE, MAX_NEIGHBOR_SHARE_SINGLE)
    # Select candidates with a limit that omits the roughness of the pattern, since percentiles are slow to compute.
    at = np.nonzero(np.abs(excess) > limit * (np.sqrt(noise / n) + (quantum or 0.0) / n))
    dark, value = np.percentile(mean, 1), mean[at]
    # One or two of the eight neighbors may also be bad. In a disk of any size, at least three neighbors are lit.
    neighbors = _windows(excess, at, 1)
    high = np.partition(neighbors, 5, 1)[:, 5] < share * excess[at]
    high &= value - dark > MIN_OVER_NEIGHBORS * (np.partition(_windows(mean, at, 1), 5, 1)[:, 5] - dark)
    if n == 1:  # only the brightness of a hot pixel distinguishes it from a fine feature of the pattern
        high &= excess[at] > 2 * (median[at] - dark)
    low = (np.partition(-neighbors, 5, 1)[:, 5] < -0.3 * excess[at]) & (value - dark <= 0.1 * (median[at] - dark))
    high &= excess[at] > 0
    low &= excess[at] < 0
    at = tuple(a[high | low] for a in at)
    bad = np.zeros(mean.shape, bool)
    bad[at] = np.abs(excess[at]) > limit * (np.sqrt(noise[at] / n + _roughness(excess, at) ** 2)
                                            + _step(excess, quantum) / n)
    return bad, excess


def _windows(image, at, reach):
    """Values (n, 8) of the neighbors of n pixels, or (n, 25) within two pixels.

    At an edge of the image its outermost row is repeated, so that the other half of a spot on the edge is not dark;
    beyond a corner the image is mirrored, so that a pixel there is not its own neighbor three times.
    """
    padded, mirrored = (np.pad(image, reach, mode=mode) for mode in ("symmetric", "reflect"))
    ends = np.r_[:reach, -reach:0]
    padded[np.ix_(ends, ends)] = mirrored[np.ix_(ends, ends)]
    side = range(2 * reach + 1)
    return np.stack([padded[at[0] + i, at[1] + j] for i in side for j in side
                     if reach > 1 or (i, j) != (reach, reach)], 1)


def _roughness(excess, at):
    """Robust standard deviation (n,) of the excess in 5 x 5 windows around n pixels.

    It uses the 75th percentile, not the median: on a slope, more than half of the pixels equal their local median.
    """
    # 0.87 is the standard deviation of normal values over the 75th percentile of |x|.
    return 0.87 * np.partition(np.abs(_windows(excess, at, 2)), 18, 1)[:, 18]


def _step(excess, quantum):
    """Step between values; for continuous values, a thousandth of the largest roughness of the pattern."""
    if quantum:
        return quantum
    rows, columns = (np.arange(0, n, 2) for n in excess.shape)
    everywhere = tuple(a.ravel() for a in np.meshgrid(rows, columns, indexing="ij"))
    return 1e-3 * _roughness(excess, everywhere).max(initial=0.0)


def _stuck(sample, mean, variance, excess, quantum):
    """Mask (Qx, Qy) of pixels whose value never changes although their neighbors change."""
    n = len(sample)
    constant = sample.min(axis=0) == sample.max(axis=0)
    # Use the third lowest variance of the neighbors, since up to two of them may also be stuck.
    busy = rank_filter(variance, 2, footprint=EIGHT_NEIGHBORS, mode="mirror")
    expected = n * busy > MIN_STUCK_VARIANCE * quantum**2 if quantum else np.abs(excess) > 5 * np.sqrt(busy / n)
    saturated = (mean >= sample.max()) & (rank_filter(mean, -3, footprint=EIGHT_NEIGHBORS, mode="mirror") >= mean)
    return constant & expected & (busy > 0) & ~saturated


def _above_slopes(sample, mean, noise, quantum):
    """Mask (Qx, Qy) of pixels that, throughout the scan, exceed the straight lines between opposite neighbors.

    On the slopes of a disk these lines predict a pixel much better than the median of the pixels around it: a hot pixel
    in the direct beam is found if its excess is more than half of the disk's brightness.
    """
    excess, above = _above_lines(mean), mean - np.percentile(mean, 1)
    counting = np.sqrt(1.4 * noise / len(sample))
    at = np.nonzero(excess > PIXEL_SIGMAS * (counting + (quantum or 0.0) / len(sample)))
    neighbor_excess, neighbor_level = (_windows(image, at, 1) for image in (excess, above))
    candidate = np.partition(neighbor_excess, 5, 1)[:, 5] < MAX_NEIGHBOR_SHARE * excess[at]
    # Lines predict the pixels in a disk and on its edge, but not in a spot of few pixels or at corners of an edge.
    candidate &= np.partition(neighbor_level, 3, 1)[:, 3] > 0.3 * excess[at]
    candidate &= above[at] > MIN_OVER_NEIGHBORS * np.partition(neighbor_level, 5, 1)[:, 5]
    at = tuple(a[candidate] for a in at)
    error = np.hypot(counting[at], _roughness(excess, at)) + _step(excess, quantum) / len(sample)
    lit = np.partition(_windows(above, at, 2), 25 - MIN_LIT_OF_25, 1)[:, 25 - MIN_LIT_OF_25]
    hot = np.zeros(mean.shape, bool)
    hot[at] = (excess[at] > PIXEL_SIGMAS * error) & (lit > 0.3 * excess[at])
    for x, y in np.argwhere(hot):
        rows, columns = (np.abs(np.arange(i - 1, i + 2)) for i in (x, y))  # mirrored at the edges
        rows, columns = (np.where(i < m, i, 2 * (m - 1) - i) for i, m in zip((rows, columns), mean.shape, strict=True))
        window = sample[:, rows[:, None], columns]
        parts = [part.mean(axis=0, dtype=np.float64) for part in np.array_split(window, SCAN_PARTS)]
        hot[x, y] = min(_above_lines(part)[1, 1] for part in parts) > MIN_PART_SHARE * excess[x, y]
    return hot


def _above_lines(image):
    """Subtract from an image (Qx, Qy) the median, over four directions, of the mean of opposite neighbors."""
    p = np.pad(image, 1, mode="reflect")
    rows, columns = image.shape
    shifted = {(i, j): p[1 + i : 1 + i + rows, 1 + j : 1 + j + columns] for i in (-1, 0, 1) for j in (-1, 0, 1)}
    directions = (0, 1), (1, 0), (1, 1), (1, -1)
    lines = np.sort([(shifted[i, j] + shifted[-i, -j]) / 2 for i, j in directions], axis=0)
    return image - (lines[1] + lines[2]) / 2
