"""The detector's noise, learned from the scan itself: gain, offset, read-out noise, bad pixels.

Model: value = gain * Poisson(electrons) + offset + Normal(0, readout), independent from pixel to pixel. Two
local filters cancel the pattern and leave its noise. Over pixels of equal surroundings, with m their mean,

    variance           v  = gain   * (m - offset) + readout**2
    third cumulant     k3 = gain**2 * (m - offset)

so the slope of v gives the gain, k3 the offset, and what is left the read-out noise. What remains of the
pattern only adds to v, and more so where it is bright: the line is fitted from the dimmest pixels upward, as
far as it is one.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from scipy.ndimage import binary_dilation, median_filter, percentile_filter, rank_filter

from ..core import PrenetError, Sample, check, patterns, shape_of
from .quality import doubts, refuse

SAMPLE = 256  # positions
SAMPLE_BYTES = 128 * 2**20
FILTERED = 1_600_000  # pixels that go through the local filters; more adds time, not accuracy
WINDOW_SIDE = 1024  # px of a large pattern that go through them
TOLERANCE = 0.02  # of the variance, that remaining structure may add before the line is called bent
MINIMUM_SIGNIFICANCE = 4.0  # of the slope, below which there is no gain to be had
OFF_THE_LINE = 6  # standard deviations from what opposite neighbors say, of a hot pixel on a slope


def stabilize(e, readout_e):
    """Counts of unit variance, 2 sqrt(e + 3/8 + readout_e**2), clipped at 0. e: electrons, array or tensor.

    readout_e: read-out noise in electrons, rms.
    """
    return 2 * (e + (0.375 + readout_e**2)).clip(min=0) ** 0.5


@dataclass(frozen=True)
class NoiseModel:
    """What one detector value means.

    gain: detector units per electron. offset: units at zero electrons. readout: rms, detector units.
    bad_pixels: (Qx, Qy) bool, True = bad. counting: `electrons` gives whole, non-negative numbers on good
    pixels (to float32 rounding). dose: mean electrons per pattern on good pixels. messages: what a user
    should know, a sentence each.
    """

    gain: float
    offset: float
    readout: float
    bad_pixels: np.ndarray
    counting: bool
    dose: float
    messages: tuple[str, ...] = field(default=())

    def electrons(self, block):
        """(n, Qx, Qy) detector units -> float32 electrons; bad pixels get the median of their good neighbors.

        Holes wider than a pixel are filled from their rim inward. The input is left as it is.
        """
        e = np.asarray(block, dtype=np.float32)
        e = (e - np.float32(self.offset)) / np.float32(self.gain)
        for pixels, around, middle in self._filling:
            near = np.concatenate([e.reshape(len(e), -1), np.full((len(e), 1), np.inf, np.float32)], axis=1)
            near = np.sort(near[:, around], axis=-1)  # what is unknown sorts to the end, as infinity
            chosen = np.take_along_axis(near, middle[None], axis=-1)
            e.reshape(len(e), -1)[:, pixels] = chosen.mean(-1)
        return e

    def variance(self, electrons):
        """Variance in electrons**2 where `electrons` (array or tensor) are expected."""
        return electrons.clip(min=0) + (self.readout / self.gain) ** 2

    @cached_property
    def _filling(self):
        """For each layer of bad pixels: (pixels, 8 neighbors each, index of the two middle known ones)."""
        shape = self.bad_pixels.shape
        known = ~self.bad_pixels
        layers = []
        while known.any() and not known.all():
            x, y = np.nonzero(~known & binary_dilation(known, np.ones((3, 3))))
            steps = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
            nx, ny = (c[:, None] + np.array(s) for c, s in zip((x, y), zip(*steps, strict=True), strict=True))
            inside = (nx >= 0) & (nx < shape[0]) & (ny >= 0) & (ny < shape[1])
            nx, ny = np.clip(nx, 0, shape[0] - 1), np.clip(ny, 0, shape[1] - 1)
            usable = inside & known[nx, ny]
            count = usable.sum(1)
            around = np.where(usable, nx * shape[1] + ny, shape[0] * shape[1])
            layers.append((x * shape[1] + y, around, np.stack([(count - 1) // 2, count // 2], -1)))
            known = known.copy()
            known[x, y] = True
        return tuple(layers)


def sample_positions(scan, count):
    """At most `count` flat scan positions on a grid over a (Rx, Ry) scan, about even, ascending.

    Each row and column of the grid lies anywhere in its cell: at equal steps, of a scan of 256 x 256 only even rows
    would be seen, though those that were scanned backward are others, and of a periodic one a single phase.
    """
    rows = int(np.clip(round(np.sqrt(count * scan[0] / scan[1])), 1, min(scan[0], count)))
    columns = min(scan[1], count // rows)
    i, j = (_anywhere(size, n) for size, n in zip(scan, (rows, columns), strict=True))
    return (i[:, None] * scan[1] + j).ravel()


def _anywhere(size, count):
    """One number out of each of `count` equal parts of range(size), ascending."""
    ends = np.arange(count + 1) * size // count
    # Multiples of the golden ratio's inverse fill a part evenly (Weyl 1916), whatever their number.
    return ends[:-1] + (np.diff(ends) * (np.arange(1, count + 1) * (5**0.5 - 1) / 2 % 1)).astype(np.int64)


def evenly(data, count):
    """`sample_positions` of a scan; of a `Sample` of one that lacks some of these, evenly from those it has."""
    grid = sample_positions(shape_of(data)[:2], count)
    if not isinstance(data, Sample) or data.has(grid):
        return grid
    held = data.positions
    return held[np.unique(np.linspace(0, len(held) - 1, min(count, len(held))).astype(np.int64))]


def _read_sample(data):
    check(data)
    qx, qy = shape_of(data)[2:]
    count = min(SAMPLE, max(8, SAMPLE_BYTES // (4 * qx * qy)))
    index, blocks = zip(*patterns(data, positions=evenly(data, count)), strict=True)
    # Blocks follow the storage, but what is the same in all quarters of the scan must be told by its order.
    return np.concatenate(blocks)[np.argsort(np.concatenate(index))]


def _quantum(sample):
    """The step in which values come (1 for integers, the scale of scaled counts); 0: they are continuous."""
    values = np.unique(sample[:: max(1, len(sample) // 8)])
    if sample.dtype.kind in "iu":
        step = float(np.gcd.reduce(np.abs(values.astype(np.int64))))
        return step if values[0] == 0 and step > 0 else 1.0
    values = values.astype(np.float64)
    if values[0] < 0:
        return float((np.rint(values) == values).all())
    steps = np.diff(values)
    if len(steps) == 0:
        return 0.0
    step = steps.min()
    for reach in (50, 1000):  # larger multiples give the step more digits
        within = values[values < reach * step]
        if len(within) < 2:
            return 0.0
        step = within[-1] / np.rint(within[-1] / step)
    multiples = values[values < 1e4 * step] / step
    whole = len(multiples) > len(values) / 2 and np.abs(multiples - np.rint(multiples)).max() < 0.01
    return float(step) if whole else 0.0


def _bad_pixels(sample, quantum):
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


def _window_sum(x, side):
    """Sums over side x side windows that lie wholly inside, (n, Qx - side + 1, Qy - side + 1)."""
    rows, columns = x.shape[1] - side + 1, x.shape[2] - side + 1
    y = x[:, :rows].copy()
    for i in range(1, side):
        y += x[:, i : i + rows]
    z = y[:, :, :columns].copy()
    for i in range(1, side):
        z += y[:, :, i : i + columns]
    return z


def _moments(sample, bad):
    """Groups of pixels of alike surroundings, dimmest first: mean m, variance v, third cumulant k3, errors.

    v_wide is the variance that the wider filter sees, of which noise that neighbors share takes less away.

    Pixels are sorted by the mean of the 40 pixels around their 3 x 3 block, and the rougher half of these
    surroundings is left out: neither choice looks at the noise that is then measured, so neither biases it.
    """
    n = max(1, FILTERED // (sample.shape[1] * sample.shape[2]))
    starts = (max(0, (side - WINDOW_SIDE) // 2) for side in sample.shape[1:])
    crop = tuple(slice(start, start + WINDOW_SIDE) for start in starts)
    picked = np.unique(np.linspace(0, len(sample) - 1, n).astype(int))
    x = sample[(picked, *crop)].astype(np.float32)
    reference = float(np.median(x[:, ::5, ::7]))
    x -= np.float32(reference)
    inner = slice(2, -2)
    block = _window_sum(x, 3)
    center = x[:, 1:-1, 1:-1] - (block - x[:, 1:-1, 1:-1]) / 8
    second = x[:, :-2] - 2 * x[:, 1:-1] + x[:, 2:]
    second = (second[:, :, :-2] - 2 * second[:, :, 1:-1] + second[:, :, 2:]) / 6
    ring = (_window_sum(x, 7) - block[:, inner, inner]) / 40
    rough = (_window_sum(x * x, 7) - _window_sum(x * x, 3)[:, inner, inner]) / 40 - ring**2

    good = ~binary_dilation(bad[crop], np.ones((7, 7)))[3:-3, 3:-3]
    if not good.any():
        good[:] = True
    ring, rough = ring[:, good], rough[:, good]
    block, center, second = (a[:, inner, inner][:, good].ravel() for a in (block, center, second))
    ring, rough = ring.ravel(), rough.ravel()

    edges, tail = list(np.linspace(0, 0.5, 9)), 0.5
    while tail * len(ring) > 3000:
        tail /= 1.5
        edges.append(1 - tail)
    edges = np.unique((np.array([*edges, 1.0]) * len(ring)).astype(int))
    order = np.argsort(ring, kind="stable")
    rows = []
    for start, stop in pairwise(edges):
        some = order[start:stop]
        some = some[np.argsort(rough[some], kind="stable")[: max(len(some) // 2, 16)]]
        d = center[some].astype(np.float64)
        v, k3 = second[some].astype(np.float64) ** 2, d**3 / (1 - 1 / 64)
        independent = np.sqrt(max(len(some) / 2, 1))  # filters of neighboring pixels overlap
        m = block[some].mean(dtype=np.float64) / 9 + reference
        wide = (d**2).mean() * 8 / 9
        rows.append((m, v.mean(), v.std() / independent, k3.mean(), k3.std() / independent, wide))
    return dict(zip(("m", "v", "v_error", "k3", "k3_error", "v_wide"), np.array(rows).T, strict=True))


def _line(t, gain):
    """(slope, its error, intercept, groups used) of v against m, from the dimmest group to where it bends."""
    fits = []
    m0 = t["m"].min()
    scale = np.ptp(t["m"]) or 1.0
    for k in range(min(5, len(t["m"])), len(t["m"]) + 1):
        m, v = (t["m"][:k] - m0) / scale, t["v"][:k]
        error = t["v_error"][:k] ** 2 + (TOLERANCE * v) ** 2 + 1e-12 * t["v"].max() ** 2
        weight = (error + 1e-300) ** -0.5
        design = np.stack([m, np.ones(k)], 1) * weight[:, None]
        target = v * weight
        if gain is not None:
            target, design = target - design[:, 0] * gain * scale, design * [0, 1]
        covariance = np.linalg.pinv(design.T @ design)
        p = covariance @ (design.T @ target)
        chi = ((design @ p - target) ** 2).sum() / max(k - 2, 1)
        slope = p[0] / scale if gain is None else gain
        error = np.sqrt(covariance[0, 0] * max(chi, 1)) / scale
        fits.append((slope, error, p[1] - slope * m0, k, chi < 1.5))
    straight = [f for f in fits if f[4]] or fits[:1]
    best = straight[-1]
    if gain is None and best[0] < MINIMUM_SIGNIFICANCE * best[1]:
        # Too short a line to have a slope: a bent one that has is the better answer.
        best = next((f for f in fits[best[3] - fits[0][3] :] if f[0] > MINIMUM_SIGNIFICANCE * f[1]), best)
    return best[:4]


def _is_counting(t, used, slope, significant, quantum, minimum):
    """Whole multiples of a step, none negative, whose variance is about their mean: electrons, counted.

    Where one electron may count in two pixels, the narrow filter suffers, but the wide one less.
    """
    m = t["m"][:used]
    lit = m > 0
    if quantum == 0 or minimum < 0 or not lit.any() or (significant and not 0.6 < slope / quantum < 1.4):
        return False
    ratios = [np.median(t[v][:used][lit] / m[lit]) / quantum for v in ("v", "v_wide")]
    return any(0.8 < ratio < 1.25 for ratio in ratios)


def _sees_electrons(t):
    """Whether the pattern rises above the noise of one pixel, or the noise is skewed as counting makes it."""
    z = t["k3"] / (t["k3_error"] + 1e-12 * t["v"].max() ** 1.5 + 1e-300)
    skewed = (z * np.abs(z)).sum() > len(z) + 5 * np.sqrt(2 * len(z))
    return skewed or np.ptp(t["m"]) > 2 * np.sqrt(np.median(t["v"]))


def _offset_and_readout(t, used, gain, intercept, offset, readout):
    """Separate the two with the third cumulant: (offset, readout**2, separated)."""
    if offset is not None:
        return offset, gain * offset + intercept, True
    if readout is not None:
        return (readout**2 - intercept) / gain, readout**2, True
    error = t["k3_error"][:used] / gain**2 + 1e-6 * np.sqrt(t["v"].max()) + 1e-300
    weight = error**-2
    offset = (weight * (t["m"][:used] - t["k3"][:used] / gain**2)).sum() / weight.sum()
    square = gain * offset + intercept
    error = gain / np.sqrt(weight.sum())
    dim = t["v"][:used].min()
    if square > -0.2 * dim and error < 0.3 * dim:
        return offset, max(square, 0.0), True
    # Only their combination is known: take one of them as zero, if the data allow it.
    darkest = t["m"].min()
    if intercept >= 0 and darkest > -3 * np.sqrt(intercept):
        return 0.0, intercept, False
    offset = min(-intercept / gain, darkest)
    return offset, gain * offset + intercept, False


def estimate_noise(data, gain=None, offset=None, readout=None, mask=None):
    """The `NoiseModel` of a scan, from at most 256 positions spread evenly over it. What is given wins.

    Args:
        data: a DataCube or array of shape (Rx, Ry, Qx, Qy).
        gain: detector units per electron; offset: units at zero electrons; readout: rms, detector units.
        mask: (Qx, Qy) bool, True where a pixel is good; the others count as bad pixels.

    Raises PrenetError where the data cannot be used (`doubts.refuse`), or hold one value only.
    """
    if gain is not None and not (np.isfinite(gain) and gain > 0):
        raise PrenetError(f"The gain must be a positive number of detector units per electron, not {gain}.")
    sample = _read_sample(data)
    refuse(sample)
    low, high = sample.min(), sample.max()
    messages = []
    quantum = _quantum(sample)
    bad = _bad_pixels(sample, quantum)
    if mask is not None:
        bad |= ~np.asarray(mask, bool)
    t = _moments(sample, bad)
    slope, error, intercept, used = _line(t, gain)
    seen = _sees_electrons(t)
    significant = gain is not None or (seen and slope > MINIMUM_SIGNIFICANCE * error)
    counting = False
    given = [g is not None for g in (gain, offset, readout)]
    if not any(given) and _is_counting(t, used, slope, significant, quantum, low):
        gain, offset, readout, counting = quantum, 0.0, 0.0, True
    elif significant:
        gain = slope
        offset, square, separated = _offset_and_readout(t, used, gain, intercept, offset, readout)
        readout = np.sqrt(max(square, 0.0)) if readout is None else readout
        if not separated:
            messages.append("Offset and read-out noise could not be told apart; one of them is set to zero.")
    else:
        gain, offset, readout, message = _fallback(t, seen, low, offset, readout)
        messages.append(message)
    good = ~bad
    mean = sample.mean(axis=0, dtype=np.float64)
    dose = max(0.0, float((mean[good].mean() - offset) / gain * good.sum()))
    model = NoiseModel(float(gain), float(offset), float(readout), bad, counting, dose)
    return replace(model, messages=(*messages, *doubts(sample, t, model, low, high)))


def _fallback(t, seen, low, offset, readout):
    """(gain, offset, readout, message) where the variance does not grow with the mean, or nothing is seen."""
    m, v = np.median(t["m"]), np.median(t["v"])
    if not seen:
        noise = np.sqrt(v) if readout is None else readout
        return noise or 1.0, m if offset is None else offset, noise, (
            "No electrons are seen above the read-out noise: the dose is about zero, and the gain is a guess "
            "(one read-out noise per electron)."
        )
    if offset is None:
        offset = 0.0 if low >= 0 else min(t["m"].min(), 0.0)
    dim = max(t["m"][: max(len(t["m"]) // 2, 1)].mean() - offset, 1e-3 * (t["m"].max() - offset))
    gain = max(t["v"][: max(len(t["v"]) // 2, 1)].mean() / dim, 1e-6 * (t["m"].max() - offset))
    return gain, offset, 0.0 if readout is None else readout, (
        "The gain could not be measured, since the noise does not grow with the signal; it is chosen as if "
        "the noise of the dim regions were counting noise (give gain= if you know it)."
    )
