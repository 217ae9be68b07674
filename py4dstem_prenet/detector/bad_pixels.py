"""Pixels that are hot, dead or stuck, found in a sample of a scan."""

import numpy as np
from scipy.ndimage import median_filter, percentile_filter, rank_filter

OFF_THE_LINE = 6  # standard deviations from what opposite neighbors say, of a hot pixel on a slope


def find_bad_pixels(sample, quantum):
    """(Qx, Qy) bool: single pixels far from their surroundings at all positions, or that never change."""
    n = len(sample)
    mean = sample.mean(axis=0, dtype=np.float64)
    spread = np.zeros_like(mean)
    for pattern in sample:
        spread += (pattern - mean) ** 2
    spread /= max(n - 1, 1)
    around = median_filter(mean, 5, mode="mirror")
    noise = median_filter(spread, 5, mode="mirror")
    # Not the median of these: on a slope more than half of all pixels are their own surroundings' median.
    rough = 0.87 * percentile_filter(np.abs(mean - around), 75, 5, mode="mirror")
    error = np.sqrt(noise / n + rough**2) + (quantum or 1e-3 * rough.max()) / n
    excess = mean - around

    # One or two of eight neighbors may be bad too; of a disk, however small, at least three are lit.
    others = np.ones((3, 3), bool)
    others[1, 1] = False
    limit, share = (10, 0.15) if n > 1 else (30, 0.05)
    third = rank_filter(excess, 5, footprint=others, mode="mirror")
    bad = (excess > limit * error) & (third < share * excess)
    dark = np.percentile(mean, 1)
    if n == 1:  # nothing but its height tells such a pixel from a fine feature of the pattern
        bad &= excess > 2 * (around - dark)
    third = rank_filter(-excess, 5, footprint=others, mode="mirror")
    low = (-excess > limit * error) & (third < -0.3 * excess)
    bad |= low & (mean - dark <= 0.1 * (around - dark))

    if n >= 8:
        bad |= _off_the_line(sample, mean, noise, quantum)

    # What the specimen does changes along the scan, what a pixel does not.
    x, y = np.nonzero(bad)
    for part in np.array_split(np.arange(n), min(4, n)):
        for i, j in zip(x, y, strict=True):
            window = sample[part, max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3].mean(axis=0, dtype=np.float64)
            here = sample[part, i, j].mean(dtype=np.float64) - np.median(window)
            bad[i, j] &= here * np.sign(excess[i, j]) > 0.3 * abs(excess[i, j])

    if n >= 8:
        stuck = sample.min(axis=0) == sample.max(axis=0)
        busy = rank_filter(spread, 2, footprint=others, mode="mirror")  # at most two neighbors are as dead
        expected = n * busy > 50 * quantum**2 if quantum else np.abs(excess) > 5 * np.sqrt(busy / n)
        saturated = (mean >= sample.max()) & (rank_filter(mean, -3, footprint=others, mode="mirror") >= mean)
        bad |= stuck & expected & (busy > 0) & ~saturated
    elif n > 1:
        step = rank_filter(mean, 2, footprint=others, mode="mirror") - mean
        bad |= (sample.max(axis=0) == sample.min()) & (step > 5 * np.sqrt(noise / n)) & (noise > 0)
    return bad


def _off_the_line(sample, mean, noise, quantum):
    """(Qx, Qy) bool: pixels brighter, all along the scan, than the straight lines between opposite neighbors.

    On the slopes of a disk, these lines say far better than the surroundings' median what a pixel should see: a hot
    pixel within the direct beam is found from half of the disk's brightness on.
    """
    excess = _above_lines(mean)
    rough = 0.87 * percentile_filter(np.abs(excess), 75, 5, mode="mirror")
    error = np.sqrt(1.4 * noise / len(sample) + rough**2) + (quantum or 1e-3 * rough.max()) / len(sample)
    others = np.ones((3, 3), bool)
    others[1, 1] = False
    third = rank_filter(excess, 5, footprint=others, mode="mirror")
    found = (excess > OFF_THE_LINE * error) & (third < 0.15 * excess)
    # Five of eight neighbors are lit within a disk and on its edge; beside the brightest pixel of a small one, fewer.
    found &= rank_filter(mean, 3, footprint=others, mode="mirror") - np.percentile(mean, 1) > 0.3 * excess
    for x, y in np.argwhere(found):
        rows, columns = (np.abs(np.arange(i - 1, i + 2)) for i in (x, y))  # mirrored at the edges
        rows, columns = (np.where(i < m, i, 2 * (m - 1) - i) for i, m in zip((rows, columns), mean.shape, strict=True))
        window = sample[:, rows[:, None], columns]
        parts = [part.mean(axis=0, dtype=np.float64) for part in np.array_split(window, 4)]
        found[x, y] = min(_above_lines(part)[1, 1] for part in parts) > 0.3 * excess[x, y]
    return found


def _above_lines(image):
    """An image (Qx, Qy) less the median, over the four directions, of the mean of opposite neighbors."""
    p = np.pad(image, 1, mode="reflect")
    rows, columns = image.shape
    near = {(i, j): p[1 + i : 1 + i + rows, 1 + j : 1 + j + columns] for i in (-1, 0, 1) for j in (-1, 0, 1)}
    lines = np.sort([(near[i, j] + near[-i, -j]) / 2 for i, j in ((0, 1), (1, 0), (1, 1), (1, -1))], axis=0)
    return image - (lines[1] + lines[2]) / 2
