"""Bad pixels (hot, dead or stuck), found in a sample of a scan.

A bad pixel is isolated and differs from its surroundings by more than noise and the roughness of the pattern, in all
parts of the scan; or its value never changes although electrons hit its neighbors.
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

EIGHT_NEIGHBORS = np.ones((3, 3), bool)  # footprint of a pixel's neighbors, without the pixel
EIGHT_NEIGHBORS[1, 1] = False
# Set on simulated scans with and without bad pixels (tests/test_noise.py):
MAX_NEIGHBOR_SHARE = 0.15  # third largest excess of the neighbors, relative to the excess of a hot pixel
MAX_NEIGHBOR_SHARE_SINGLE = 0.05  # the same if the sample is a single pattern
MIN_DEVIATION = 10  # standard deviations of a bad pixel's mean from the median of its surroundings
MIN_DEVIATION_SINGLE = 30  # the same if the sample is a single pattern
MIN_SLOPE_DEVIATION = 6  # standard deviations of a hot pixel's mean from the lines between opposite neighbors
MIN_LIT_OF_25 = 11  # lit pixels of 5 x 5 in a disk and on its edge; a spot of 1 px radius has nine at most
MIN_OVER_NEIGHBORS = 1.15  # brightness of a hot pixel in that of its third brightest neighbor
SIGMA_OF_75TH_PERCENTILE = 0.87  # standard deviation of a normal law over the 75th percentile of its absolute value
MIN_PATTERNS_IN_TIME = 8  # patterns, from which on changes from pattern to pattern are used
BAD_PIXEL_PARTS = 4  # consecutive parts of the scan, in each of which a pixel must be bad
MIN_PART_SHARE = 0.3  # excess in each part of the scan, relative to the mean excess
MIN_STUCK_VARIANCE = 50  # squared steps between values: sum of squared deviations of a stuck pixel's neighbors

MIN_QUIET_ELECTRONS = 10.0  # electrons that a quiet pixel seems to have
QUIET_PROBABILITY, BESIDE_PROBABILITY = 1e-9, 1e-3  # of so small a scatter by chance: of a pixel, and beside others
MAX_QUIET_SIDE = 8  # pixels, side of a cluster of quiet pixels; larger ones are part of the pattern
MAX_QUIET_RIM = 0.3  # brightness around a cluster in its own; the core of a beam has a brighter rim
MIN_QUIET_SPREAD = 0.02  # scatter of the values of a cluster in their mean; saturated pixels have one value


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
    for part in np.array_split(np.arange(n), min(BAD_PIXEL_PARTS, n)):
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
    """Find clusters of pixels that are bright, but scatter much less than as many electrons do.

    Parameters
    ----------
    sample : numpy.ndarray, shape (n, Qx, Qy)
        Patterns in detector units.
    bad : numpy.ndarray of bool, shape (Qx, Qy)
        Pixels that are known to be bad.
    gain, offset, readout : float
        The noise model, detector units.

    Returns
    -------
    numpy.ndarray of bool, shape (Qx, Qy)
        True in such clusters.

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
    bright = ~bad & (mean > MIN_QUIET_ELECTRONS * gain)
    expected = gain * mean[bright] + readout**2
    relative = np.full(bad.shape, np.inf)
    relative[bright] = sample[:, bright].var(axis=0, ddof=1, dtype=np.float64) / expected
    limits = chi2.ppf([QUIET_PROBABILITY, BESIDE_PROBABILITY], n - 1) / (n - 1)
    found = binary_propagation(relative < limits[0], np.ones((3, 3)), relative < limits[1])
    labels, _ = label(found, np.ones((3, 3)))
    for number, at in enumerate(find_objects(labels), 1):
        part = labels == number
        values = mean[part]
        rim = binary_dilation(part, iterations=2) & ~binary_dilation(part) & ~bad
        small = max(s.stop - s.start for s in at) <= MAX_QUIET_SIDE
        dark = rim.any() and np.median(mean[rim]) < MAX_QUIET_RIM * values.mean()
        if not (small and dark and (len(values) == 1 or values.std() > MIN_QUIET_SPREAD * values.mean())):
            found[part] = False
    return found


def _isolated(mean, noise, n, quantum):
    """Isolated pixels that differ from the median of their surroundings: (bad, excess), (Qx, Qy) each."""
    around = median_filter(mean, 5, mode="mirror")
    excess = mean - around
    limit, share = (MIN_DEVIATION, MAX_NEIGHBOR_SHARE) if n > 1 else (MIN_DEVIATION_SINGLE, MAX_NEIGHBOR_SHARE_SINGLE)
    # Without the roughness of the pattern, for which percentiles are needed, the limit is lower: few pixels are left.
    at = np.nonzero(np.abs(excess) > limit * (np.sqrt(noise / n) + (quantum or 0.0) / n))
    dark, value = np.percentile(mean, 1), mean[at]
    # One or two of the eight neighbors may be bad, too. Of a disk, however small, at least three neighbors are lit.
    beside = _windows(excess, at, 1)
    high = np.partition(beside, 5, 1)[:, 5] < share * excess[at]
    high &= value - dark > MIN_OVER_NEIGHBORS * (np.partition(_windows(mean, at, 1), 5, 1)[:, 5] - dark)
    if n == 1:  # only its brightness distinguishes a hot pixel from a fine feature of the pattern
        high &= excess[at] > 2 * (around[at] - dark)
    low = (np.partition(-beside, 5, 1)[:, 5] < -0.3 * excess[at]) & (value - dark <= 0.1 * (around[at] - dark))
    high &= excess[at] > 0
    low &= excess[at] < 0
    at = tuple(a[high | low] for a in at)
    bad = np.zeros(mean.shape, bool)
    bad[at] = np.abs(excess[at]) > limit * (np.sqrt(noise[at] / n + _roughness(excess, at) ** 2)
                                            + _step(excess, quantum) / n)
    return bad, excess


def _windows(image, at, reach):
    """Values about some pixels of an image (Qx, Qy) that is mirrored at its limits, (n, 8), or 25 within two pixels."""
    padded = np.pad(image, reach, mode="reflect")
    side = range(2 * reach + 1)
    return np.stack([padded[at[0] + i, at[1] + j] for i in side for j in side
                     if reach > 1 or (i, j) != (reach, reach)], 1)


def _roughness(excess, at):
    """Standard deviation of what surroundings do not predict, about some pixels, (n,).

    By the 75th percentile, not the median: on a slope more than half of the pixels equal their surroundings' median.
    """
    return SIGMA_OF_75TH_PERCENTILE * np.partition(np.abs(_windows(excess, at, 2)), 18, 1)[:, 18]


def _step(excess, quantum):
    """Step between values; of continuous ones, a thousandth of the pattern's roughness where it is roughest."""
    if quantum:
        return quantum
    rows, columns = (np.arange(0, n, 2) for n in excess.shape)
    everywhere = tuple(a.ravel() for a in np.meshgrid(rows, columns, indexing="ij"))
    return 1e-3 * _roughness(excess, everywhere).max(initial=0.0)


def _stuck(sample, mean, variance, excess, quantum):
    """(Qx, Qy) bool: pixels whose value never changes although it should."""
    n = len(sample)
    constant = sample.min(axis=0) == sample.max(axis=0)
    # The third lowest variance of the neighbors: at most two of them are stuck, too.
    busy = rank_filter(variance, 2, footprint=EIGHT_NEIGHBORS, mode="mirror")
    expected = n * busy > MIN_STUCK_VARIANCE * quantum**2 if quantum else np.abs(excess) > 5 * np.sqrt(busy / n)
    saturated = (mean >= sample.max()) & (rank_filter(mean, -3, footprint=EIGHT_NEIGHBORS, mode="mirror") >= mean)
    return constant & expected & (busy > 0) & ~saturated


def _above_slopes(sample, mean, noise, quantum):
    """(Qx, Qy) bool: pixels brighter, all along the scan, than the straight lines between opposite neighbors.

    On the slopes of a disk these lines predict a pixel much better than the median of its surroundings: a hot pixel in
    the direct beam is found if it exceeds half of the disk's brightness.
    """
    excess, above = _above_lines(mean), mean - np.percentile(mean, 1)
    counting = np.sqrt(1.4 * noise / len(sample))
    at = np.nonzero(excess > MIN_SLOPE_DEVIATION * (counting + (quantum or 0.0) / len(sample)))
    beside, around = (_windows(image, at, 1) for image in (excess, above))
    found = np.partition(beside, 5, 1)[:, 5] < MAX_NEIGHBOR_SHARE * excess[at]
    # Lines predict the pixels of a disk and of its edge, not those of a spot of few pixels, nor corners of an edge.
    found &= np.partition(around, 3, 1)[:, 3] > 0.3 * excess[at]
    found &= above[at] > MIN_OVER_NEIGHBORS * np.partition(around, 5, 1)[:, 5]
    at = tuple(a[found] for a in at)
    error = np.hypot(counting[at], _roughness(excess, at)) + _step(excess, quantum) / len(sample)
    lit = np.partition(_windows(above, at, 2), 25 - MIN_LIT_OF_25, 1)[:, 25 - MIN_LIT_OF_25]
    hot = np.zeros(mean.shape, bool)
    hot[at] = (excess[at] > MIN_SLOPE_DEVIATION * error) & (lit > 0.3 * excess[at])
    for x, y in np.argwhere(hot):
        rows, columns = (np.abs(np.arange(i - 1, i + 2)) for i in (x, y))  # mirrored at the edges
        rows, columns = (np.where(i < m, i, 2 * (m - 1) - i) for i, m in zip((rows, columns), mean.shape, strict=True))
        window = sample[:, rows[:, None], columns]
        parts = [part.mean(axis=0, dtype=np.float64) for part in np.array_split(window, BAD_PIXEL_PARTS)]
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
