"""The detector's noise, learned from the scan itself: gain, offset, read-out noise, bad pixels.

Model: value = gain * Poisson(electrons) + offset + Normal(0, readout), independent from pixel to pixel. Two
local filters cancel the pattern and leave its noise. Over pixels of equal surroundings, with m their mean,

    variance           v  = gain   * (m - offset) + readout**2
    third cumulant     k3 = gain**2 * (m - offset)

so the slope of v gives the gain, k3 the offset, and what is left the read-out noise. What remains of the
pattern only adds to v, and more so where it is bright: the line is fitted from the dimmest pixels upward, as
far as it is one.
"""

from dataclasses import replace
from itertools import pairwise

import numpy as np
from scipy.ndimage import binary_dilation

from ..core import Flag, PrenetError, as_scan, spread_positions
from .bad_pixels import find_bad_pixels
from .noise import NoiseModel
from .quality import doubts, refuse

SAMPLE = 256  # positions
SAMPLE_BYTES = 128 * 2**20
FILTERED = 1_600_000  # pixels that go through the local filters; more adds time, not accuracy
WINDOW_SIDE = 1024  # px of a large pattern that go through them
TOLERANCE = 0.02  # of the variance, that remaining structure may add before the line is called bent
MINIMUM_SIGNIFICANCE = 4.0  # of the slope, below which there is no gain to be had


def _read_sample(data):
    scan = as_scan(data)
    qx, qy = scan.pattern_shape
    count = min(SAMPLE, max(8, SAMPLE_BYTES // (4 * qx * qy)))
    index, blocks = zip(*scan.blocks(positions=spread_positions(scan, count)), strict=True)
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
    flags = []
    quantum = _quantum(sample)
    bad = find_bad_pixels(sample, quantum)
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
            flags.append(Flag("offset_undetermined"))
    else:
        gain, offset, readout, flag = _fallback(t, seen, low, offset, readout)
        flags.append(flag)
    good = ~bad
    mean = sample.mean(axis=0, dtype=np.float64)
    dose = max(0.0, float((mean[good].mean() - offset) / gain * good.sum()))
    model = NoiseModel(float(gain), float(offset), float(readout), bad, counting, dose)
    return replace(model, flags=(*flags, *doubts(sample, t, model, low, high)))


def _fallback(t, seen, low, offset, readout):
    """(gain, offset, readout, flag) where the variance does not grow with the mean, or nothing is seen."""
    m, v = np.median(t["m"]), np.median(t["v"])
    if not seen:
        noise = np.sqrt(v) if readout is None else readout
        return noise or 1.0, m if offset is None else offset, noise, Flag("no_electrons")  # one read-out noise per electron
    if offset is None:
        offset = 0.0 if low >= 0 else min(t["m"].min(), 0.0)
    dim = max(t["m"][: max(len(t["m"]) // 2, 1)].mean() - offset, 1e-3 * (t["m"].max() - offset))
    gain = max(t["v"][: max(len(t["v"]) // 2, 1)].mean() / dim, 1e-6 * (t["m"].max() - offset))
    return gain, offset, 0.0 if readout is None else readout, Flag("gain_undetermined")
