"""Estimate a detector's noise model (gain, offset, read-out noise, bad pixels) from the scan itself.

Model: value = gain * Poisson(electrons) + offset + Normal(0, readout), independent from pixel to pixel. Two local
filters cancel the pattern and leave its noise. Over pixels with equal surroundings, with m their mean,

    variance           v  = gain   * (m - offset) + readout**2
    third cumulant     k3 = gain**2 * (m - offset)

so the slope of v is the gain, k3 then determines the offset, and the rest is the read-out noise. The pattern that
remains after the filters adds to v, and more where the pattern is bright. The line is therefore fitted from the dimmest
pixels upward, as far as it is straight.
"""

from dataclasses import replace
from itertools import pairwise

import numpy as np
from scipy.ndimage import binary_dilation

from ..core import Flag, NoiseModel, PrenetError, as_scan, spread_positions
from . import doubts, find_bad_pixels, refuse

MAX_NOISE_POSITIONS = 256  # positions of the sample, chosen for speed
MAX_NOISE_SAMPLE_BYTES = 128 * 2**20  # bytes of the sample as float32
MAX_FILTERED_PIXELS = 1_600_000  # pixels that go through the local filters; more add time, not accuracy
MAX_FILTERED_SIDE = 1024  # pixels along each side of a large pattern that go through the filters
# Set on simulated counting detectors and cameras (tests/test_noise.py):
MAX_STRUCTURE_FRACTION = 0.02  # of the variance that remaining structure may add before the line counts as bent
MIN_SLOPE_SIGNIFICANCE = 4.0  # standard errors of the slope, below which the gain is not determined
MAX_LINE_CHI = 1.5  # mean squared residual, in units of its variance, up to which the line counts as straight
MIN_LINE_GROUPS = 5  # groups of pixels, from the dimmest on, to which a line is fitted


def _read_sample(data):
    """Read an even sample of a scan, (n, Qx, Qy), in the order of the scan."""
    scan = as_scan(data)
    qx, qy = scan.pattern_shape
    count = min(MAX_NOISE_POSITIONS, max(8, MAX_NOISE_SAMPLE_BYTES // (4 * qx * qy)))
    index, blocks = zip(*scan.blocks(positions=spread_positions(scan, count)), strict=True)
    # Blocks come in the order of storage, but the search for bad pixels needs the order of the scan.
    return np.concatenate(blocks)[np.argsort(np.concatenate(index))]


def _quantum(sample):
    """Step between values: 1 for integers, the factor of scaled counts, 0 for continuous values."""
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
    for limit in (50, 1000):  # larger multiples determine the step more exactly
        within = values[values < limit * step]
        if len(within) < 2:
            return 0.0
        step = within[-1] / np.rint(within[-1] / step)
    multiples = values[values < 1e4 * step] / step
    whole = len(multiples) > len(values) / 2 and np.abs(multiples - np.rint(multiples)).max() < 0.01
    return float(step) if whole else 0.0


def _window_sum(x, side):
    """Sums over side x side windows that lie entirely inside, (n, Qx - side + 1, Qy - side + 1)."""
    rows, columns = x.shape[1] - side + 1, x.shape[2] - side + 1
    y = x[:, :rows].copy()
    for i in range(1, side):
        y += x[:, i : i + rows]
    z = y[:, :, :columns].copy()
    for i in range(1, side):
        z += y[:, :, i : i + columns]
    return z


def _moments(sample, bad):
    """Moments of groups of pixels with similar surroundings, dimmest first.

    Returns a dict of arrays, a value for each group: mean m, variance v, third cumulant k3, standard errors v_error and
    k3_error, and v_wide, the variance after the wider filter, which noise shared by neighbors reduces less.

    Pixels are sorted by the mean of the 40 pixels around their 3 x 3 block, and the half with the rougher surroundings
    is left out. Neither choice depends on the noise that is then measured, so neither biases it.
    """
    n = max(1, MAX_FILTERED_PIXELS // (sample.shape[1] * sample.shape[2]))
    starts = (max(0, (side - MAX_FILTERED_SIDE) // 2) for side in sample.shape[1:])
    crop = tuple(slice(start, start + MAX_FILTERED_SIDE) for start in starts)
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
        group = order[start:stop]
        group = group[np.argsort(rough[group], kind="stable")[: max(len(group) // 2, 16)]]
        d = center[group].astype(np.float64)
        v, k3 = second[group].astype(np.float64) ** 2, d**3 / (1 - 1 / 64)
        independent = np.sqrt(max(len(group) / 2, 1))  # filters of neighboring pixels overlap
        m = block[group].mean(dtype=np.float64) / 9 + reference
        wide = (d**2).mean() * 8 / 9
        rows.append((m, v.mean(), v.std() / independent, k3.mean(), k3.std() / independent, wide))
    return dict(zip(("m", "v", "v_error", "k3", "k3_error", "v_wide"), np.array(rows).T, strict=True))


def _line(t, gain):
    """Fit v against m from the dimmest group to where the line bends: (slope, its error, intercept, groups used)."""
    fits = []
    m0 = t["m"].min()
    scale = np.ptp(t["m"]) or 1.0
    for k in range(min(MIN_LINE_GROUPS, len(t["m"])), len(t["m"]) + 1):
        m, v = (t["m"][:k] - m0) / scale, t["v"][:k]
        error = t["v_error"][:k] ** 2 + (MAX_STRUCTURE_FRACTION * v) ** 2 + 1e-12 * t["v"].max() ** 2
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
        fits.append((slope, error, p[1] - slope * m0, k, chi < MAX_LINE_CHI))
    straight = [fit for fit in fits if fit[4]] or fits[:1]
    best = straight[-1]
    if gain is None and best[0] < MIN_SLOPE_SIGNIFICANCE * best[1]:
        # The straight part is too short for a significant slope: take the shortest bent line that has one.
        longer = fits[best[3] - fits[0][3] :]
        best = next((fit for fit in longer if fit[0] > MIN_SLOPE_SIGNIFICANCE * fit[1]), best)
    return best[:4]


def _is_counting(t, used, slope, significant, quantum, minimum):
    """Whether values are counts of electrons: multiples of a step, none negative, with a variance equal to their mean.

    If one electron may count in two pixels, the variance after the narrow filter is too small, after the wide one less
    so.
    """
    m = t["m"][:used]
    lit = m > 0
    if quantum == 0 or minimum < 0 or not lit.any() or (significant and not 0.6 < slope / quantum < 1.4):
        return False
    ratios = [np.median(t[v][:used][lit] / m[lit]) / quantum for v in ("v", "v_wide")]
    return any(0.8 < ratio < 1.25 for ratio in ratios)


def _has_electrons(t):
    """Whether the pattern exceeds the noise of one pixel, or the noise is skewed as that of counts is."""
    z = t["k3"] / (t["k3_error"] + 1e-12 * t["v"].max() ** 1.5 + 1e-300)
    skewed = (z * np.abs(z)).sum() > len(z) + 5 * np.sqrt(2 * len(z))
    return skewed or np.ptp(t["m"]) > 2 * np.sqrt(np.median(t["v"]))


def _offset_and_readout(t, used, gain, intercept, offset, readout):
    """Separate offset and read-out noise with the third cumulant: (offset, readout**2, whether they are separated)."""
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
    # Only a combination of the two is determined: set one of them to zero, if the data allow it.
    darkest = t["m"].min()
    if intercept >= 0 and darkest > -3 * np.sqrt(intercept):
        return 0.0, intercept, False
    offset = min(-intercept / gain, darkest)
    return offset, gain * offset + intercept, False


def estimate_noise(data, gain=None, offset=None, readout=None, mask=None):
    """Estimate the noise model of a scan from at most MAX_NOISE_POSITIONS positions spread evenly over it.

    Parameters
    ----------
    data : DataCube or array_like, shape (Rx, Ry, Qx, Qy)
        The scan.
    gain : float, optional
        Detector units per electron. Estimated by default, like `offset` and `readout`.
    offset : float, optional
        Value at zero electrons in detector units.
    readout : float, optional
        Read-out noise in detector units, rms.
    mask : array_like of bool, shape (Qx, Qy), optional
        True where a pixel is good; the others count as bad pixels.

    Returns
    -------
    NoiseModel
        The noise model, with flags on the data.

    Raises
    ------
    PrenetError
        If the data hold one value only or numbers that no detector gives, or if `gain` is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.detector import estimate_noise
    >>> x, y = np.indices((48, 48)) - 24
    >>> electrons = 0.2 + 60 * np.exp(-(x**2 + y**2) / 200)
    >>> rng = np.random.default_rng(0)
    >>> data = 20.0 * rng.poisson(electrons, (10, 10, 48, 48)) + 100 + rng.normal(0, 5, (10, 10, 48, 48))
    >>> noise = estimate_noise(data)
    >>> round(noise.gain), abs(noise.offset - 100) < 10, noise.counting
    (20, True, False)
    """
    if gain is not None and not (np.isfinite(gain) and gain > 0):
        raise PrenetError(f"The gain must be a positive number of detector units per electron, not {gain}.")
    sample = _read_sample(data)
    refuse(sample)
    low, high = sample.min(), sample.max()
    quantum = _quantum(sample)
    bad = find_bad_pixels(sample, quantum)
    if mask is not None:
        bad |= ~np.asarray(mask, bool)
    moments = _moments(sample, bad)
    gain, offset, readout, counting, flags = _parameters(moments, quantum, low, gain, offset, readout)
    good = ~bad
    mean = sample.mean(axis=0, dtype=np.float64)
    dose = max(0.0, float((mean[good].mean() - offset) / gain * good.sum()))
    model = NoiseModel(float(gain), float(offset), float(readout), bad, counting, dose)
    return replace(model, flags=(*flags, *doubts(sample, moments, model, low, high)))


def _parameters(t, quantum, low, gain, offset, readout):
    """Estimate the parameters that are None: (gain, offset, readout, counting, flags)."""
    slope, error, intercept, used = _line(t, gain)
    has_electrons = _has_electrons(t)
    significant = gain is not None or (has_electrons and slope > MIN_SLOPE_SIGNIFICANCE * error)
    all_free = gain is None and offset is None and readout is None
    if all_free and _is_counting(t, used, slope, significant, quantum, low):
        return quantum, 0.0, 0.0, True, []
    if not significant:
        gain, offset, readout, flag = _fallback(t, has_electrons, low, offset, readout)
        return gain, offset, readout, False, [flag]
    gain = slope
    offset, square, separated = _offset_and_readout(t, used, gain, intercept, offset, readout)
    readout = np.sqrt(max(square, 0.0)) if readout is None else readout
    return gain, offset, readout, False, [] if separated else [Flag("offset_undetermined")]


def _fallback(t, has_electrons, low, offset, readout):
    """(gain, offset, readout, flag) if the variance does not grow with the mean, or there are no electrons."""
    m, v = np.median(t["m"]), np.median(t["v"])
    if not has_electrons:
        noise = np.sqrt(v) if readout is None else readout
        # The gain is a guess: one electron is as large as the read-out noise.
        return noise or 1.0, m if offset is None else offset, noise, Flag("no_electrons")
    if offset is None:
        offset = 0.0 if low >= 0 else min(t["m"].min(), 0.0)
    dim = max(t["m"][: max(len(t["m"]) // 2, 1)].mean() - offset, 1e-3 * (t["m"].max() - offset))
    gain = max(t["v"][: max(len(t["v"]) // 2, 1)].mean() / dim, 1e-6 * (t["m"].max() - offset))
    return gain, offset, 0.0 if readout is None else readout, Flag("gain_undetermined")
