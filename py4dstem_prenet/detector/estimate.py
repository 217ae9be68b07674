"""Estimate a detector's noise model (gain, offset, read-out noise, bad pixels) from the scan itself.

The model is value = gain * Poisson(electrons) + offset + Normal(0, readout), independent from pixel to pixel. Two local
filters cancel the pattern and leave its noise. In groups of pixels of equal mean m,

    variance           v  = gain   * (m - offset) + readout**2
    third cumulant     k3 = gain**2 * (m - offset)

The slope of v is the gain; k3 then determines the offset, and the intercept of v the read-out noise. The part of the
pattern that passes the filters adds to v, and more where the pattern is bright. The line is therefore fitted from the
dimmest pixels upward, as far as it is straight.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..core import BLOCK_BYTES, Flag, NoiseModel, PrenetError, as_scan, jackknife, remembered, spread_positions
from . import (
    MEAN_SIGMAS,
    bad_lines,
    confirmed_hits,
    dark_sides,
    doubts,
    find_bad_pixels,
    full_scale_pixels,
    group_moments,
    hit_candidates,
    leave_one_out,
    lost_frames,
    padded_lines,
    quiet_pixels,
    refuse,
)

MAX_NOISE_POSITIONS = 256  # positions; largest sample of the scan, chosen for speed
HIT_CLIP = 0.005  # fraction of the deviations that may be hits; it is clipped for the first noise model
# Set on simulated counting detectors and cameras (tests/test_noise.py):
MAX_STRUCTURE_FRACTION = 0.02  # fraction of the variance; error allowed for structure that the filters do not cancel
MAX_LINE_CHI = 1.5  # mean squared residual in units of its variance; largest value for which the line is straight
MAX_FANO_DEVIATION = 0.1  # steps between values; largest deviation from 1 of variance over mean, dim pixels of counters
# Steps between values; smallest variance over mean in most groups: 1 for counts, the gain if that is smaller.
MIN_COUNTING_RATIO = 0.8
# Rare electrons: fraction of the values, smallest that are zero, and limits of the ratio of pixel pairs with (0, 2) to
# those with (1, 1). Read-out noise about zero, cut there, leaves 0.66 to 0.76 of the values at zero at such ratios.
MIN_EMPTY, PAIR_RATIOS = 0.8, (0.5, 2.0)
MIN_RATIO_GROUPS = 3  # groups of pixels; fewest in the brightest quarter for its variance over mean to be used
MIN_LINE_GROUPS = 5  # groups of pixels; fewest, from the dimmest on, to which a line is fitted


def noise_sample(scan):
    """Read the patterns from which the noise model of a scan is estimated.

    Parameters
    ----------
    scan : Scan
        The scan.

    Returns
    -------
    numpy.ndarray, shape (n, Qx, Qy)
        An even sample, in the order of the scan.
    """
    qx, qy = scan.pattern_shape
    count = min(MAX_NOISE_POSITIONS, max(8, 2 * BLOCK_BYTES // (4 * qx * qy)))
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


def _line(t, gain):
    """Fit v against m from the dimmest group to where the line bends: (slope, its error, intercept, groups used)."""
    fits = [_line_of(t, k, gain) for k in range(min(MIN_LINE_GROUPS, len(t["m"])), len(t["m"]) + 1)]
    fits = [(*fit[:3], k, fit[3] < MAX_LINE_CHI) for k, fit in
            enumerate(fits, min(MIN_LINE_GROUPS, len(t["m"])))]
    straight = [fit for fit in fits if fit[4]] or fits[:1]
    best = straight[-1]
    if gain is None and best[0] < MEAN_SIGMAS * best[1]:
        # The straight part is too short for a significant slope: use the shortest bent line with a significant one.
        longer = fits[best[3] - fits[0][3] :]
        best = next((fit for fit in longer if fit[0] > MEAN_SIGMAS * fit[1]), best)
    return best[:4]


def _line_of(t, k, gain):
    """Fit v against m in the k dimmest groups: (slope, its error, intercept, reduced chi squared)."""
    m0 = t["m"].min()
    scale = np.ptp(t["m"]) or 1.0
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
    return slope, np.sqrt(covariance[0, 0] * max(chi, 1)) / scale, p[1] - slope * m0, chi


def _rare_counts(sample, bad, quantum):
    """Return whether most values are zero and the others are as rare as counts of electrons.

    Two pixels side by side with the same mean count m hold (0, 2) or (2, 0) as often as (1, 1), at any m and however m
    varies between pairs and patterns. Sharp spots raise the ratio little: few pairs hold their flanks. They raise the
    variance by factors.
    """
    good = ~bad
    if not quantum or np.count_nonzero(sample[:, good] == 0) < MIN_EMPTY * len(sample) * np.count_nonzero(good):
        return False
    steps = np.where(bad, -1, np.clip(np.rint(sample / np.float32(quantum)), -1, 3)).astype(np.int8)
    first, second = steps[:, :, :-1], steps[:, :, 1:]
    equal = np.count_nonzero((first == 1) & (second == 1))
    unequal = np.count_nonzero((first * second == 0) & (first + second == 2))
    return PAIR_RATIOS[0] * equal < unequal < PAIR_RATIOS[1] * equal


def _moments(sample, bad, quantum, clip=0.0):
    """Moments of `group_moments`, and whether the values are rare counts."""
    return {**group_moments(sample, bad, clip), "rare_counts": _rare_counts(sample, bad, quantum)}


def _is_counting(t, used, slope, significant, quantum, minimum):
    """Return whether values are counts: multiples of a step, none negative, with a variance equal to their mean.

    If one electron can be counted in two pixels, the variance is too small after the narrow filter, and less so after
    the wide filter.
    """
    m = t["m"][:used]
    lit = m > 0
    if quantum == 0 or minimum < 0 or not lit.any():
        return False
    # Motion of the pattern adds to the variance from pattern to pattern, and edges add to the slope of the line. If
    # one of the two contradicts counting, the variance of most groups decides.
    lit_groups = np.argsort(t["m"])[np.count_nonzero(t["m"] <= 0) :]
    ratios = t["v"][lit_groups] / t["m"][lit_groups] / quantum
    count = len(ratios) // 4
    dim_ratio, bright_ratio = ((np.median(ratios[:-count]), np.median(ratios[-count:])) if count >= MIN_RATIO_GROUPS
                               else (np.nan, np.nan))
    # Read-out noise, an offset or a gain changes at least one of the two.
    if (np.abs([dim_ratio - 1, bright_ratio - 1]) < MAX_FANO_DEVIATION).all():
        return True
    # Of an empty probe on a counter, few groups hold more than an electron; their median omits the edge of the disk.
    above_step = ratios[t["m"][lit_groups] > quantum]
    if count < MIN_RATIO_GROUPS and len(above_step) and abs(np.median(above_step) - 1) < MAX_FANO_DEVIATION:
        return True
    of_camera = significant and ((slope / quantum < 0.6 and np.median(ratios) < MIN_COUNTING_RATIO)
                                 or (slope / quantum > 1.4 and bright_ratio > 1.4))
    if abs(t["fano"][0] / quantum - 1) < MAX_FANO_DEVIATION and not of_camera:
        return True
    if t["rare_counts"]:
        return True
    if significant and not 0.6 < slope / quantum < 1.4:
        return False
    ratios = [np.median(t[v][:used][lit] / m[lit]) / quantum for v in ("v", "v_wide")]
    return any(0.8 < ratio < 1.25 for ratio in ratios)


def _has_electrons(t):
    """Return whether the pattern exceeds the noise of one pixel, or the noise is skewed like that of counts."""
    z = t["k3"] / (t["k3_error"] + 1e-12 * t["v"].max() ** 1.5 + 1e-300)
    skewed = (z * np.abs(z)).sum() > len(z) + 5 * np.sqrt(2 * len(z))
    return skewed or np.ptp(t["m"]) > 2 * np.sqrt(np.median(t["v"]))


def _offset_and_readout(t, used, gain, intercept, offset, readout):
    """Separate offset and read-out noise by the third cumulant: (offset, readout**2, whether they are separated)."""
    if offset is not None:
        return offset, gain * offset + intercept, True
    if readout is not None:
        return (readout**2 - intercept) / gain, readout**2, True
    offset, square, error = _offset_and_square(t, used, gain, intercept, None)
    dim = t["v"][:used].min()
    if square > -0.2 * dim and error < 0.3 * dim:
        return offset, max(square, 0.0), True
    # Only a combination of the two is determined: set one of them to zero if the data allow it.
    darkest = t["m"].min()
    if intercept >= 0 and darkest > -3 * np.sqrt(intercept):
        return 0.0, intercept, False
    offset = min(-intercept / gain, darkest)
    return offset, gain * offset + intercept, False


def _offset_and_square(t, used, gain, intercept, readout):
    """Offset from the third cumulant or from a given read-out noise: (offset, readout**2, error of gain * offset)."""
    if readout is not None:
        return (readout**2 - intercept) / gain, readout**2, 0.0
    error = t["k3_error"][:used] / gain**2 + 1e-6 * np.sqrt(t["v"].max()) + 1e-300
    weight = error**-2
    offset = (weight * (t["m"][:used] - t["k3"][:used] / gain**2)).sum() / weight.sum()
    return offset, gain * offset + intercept, gain / np.sqrt(weight.sum())


def estimate_noise(data, gain=None, offset=None, readout=None, mask=None):
    """Estimate the noise model of a scan from at most MAX_NOISE_POSITIONS evenly spread positions.

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
        True where a pixel is good; False marks bad pixels.

    Returns
    -------
    NoiseModel
        The noise model, with flags that describe faults of the data.

    Raises
    ------
    PrenetError
        If all values are equal or no detector can give them, or if `gain` is not positive.

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
    scan = as_scan(data)
    mask = None if mask is None else np.asarray(mask, bool)
    model = _estimated(noise_sample(scan), scan.invalid_pixels, mask, (gain, offset, readout))
    return replace(model, bad_pixels=model.bad_pixels.copy())


@remembered
def _estimated(sample, invalid_pixels, mask, given):
    """Noise model of a sample (n, Qx, Qy); `given` are gain, offset and read-out noise, each None by default."""
    offset = given[1]
    invalid = full_scale_pixels(sample)
    if invalid_pixels is not None:
        invalid = invalid | invalid_pixels
    sample = _filled(sample, invalid)
    refuse(sample)
    lost = lost_frames(sample)
    flags = []
    if lost.any():
        flags.append(Flag("lost_frames", {"count": int(lost.sum()), "total": len(sample)}))
        sample = sample[~lost]
    low, quantum = sample.min(), _quantum(sample)
    bad = invalid | padded_lines(sample)
    bad = bad if mask is None else bad | ~np.asarray(mask, bool)
    dark = dark_sides(sample, bad)
    if dark.any():
        flags.append(Flag("dead_part", {"percent": 100 * float(dark.mean())}))
        bad = bad | dark
    lines, line_flags = _bad_lines(sample, bad, quantum)
    sample = _filled(sample, lines)
    bad = bad | lines | find_bad_pixels(sample, quantum)
    flags.extend(line_flags)
    sample, count = _without_hits(sample, bad, quantum, low, given)
    if count:
        flags.append(Flag("hits", {"count": count, "total": len(sample)}))
    moments = _moments(sample, bad, quantum)
    fitted = _parameters(moments, quantum, low, *given)
    if not any(flag.name in ("no_electrons", "gain_undetermined") for flag in fitted.flags):
        quiet = quiet_pixels(sample, bad, *fitted[:3])
        if quiet.any():
            bad = bad | quiet
            moments = _moments(sample, bad, quantum)
            fitted = _parameters(moments, quantum, low, *given)
    sums = sample.sum(2, where=~bad, dtype=np.float64).sum(1)
    dose, sigmas = _uncertainty(moments, fitted, given, sums, int(np.count_nonzero(~bad)))
    if not dose > 0 and offset is None and _has_electrons(moments):  # the electrons in a pixel cannot be negative
        fitted = fitted._replace(offset=min(fitted.offset, float(moments["m"].min())))
        dose, sigmas = _uncertainty(moments, fitted, given, sums, int(np.count_nonzero(~bad)))
    model = NoiseModel(*(float(a) for a in fitted[:3]), bad, fitted.counting, max(0.0, dose), sigmas=sigmas)
    return replace(model, flags=(*fitted.flags, *flags, *doubts(sample, moments, model, low)))


def _filled(sample, pixels):
    """Fill pixels of a sample from the pixels around them; return the sample itself if there is nothing to fill."""
    if not pixels.any() or pixels.all():
        return sample
    filled = NoiseModel(1.0, 0.0, 0.0, pixels, False, 0.0).electrons(sample)[:, pixels]
    sample = sample.copy()
    sample[:, pixels] = filled if sample.dtype.kind == "f" else np.rint(filled)
    return sample


def _bad_lines(sample, bad, quantum):
    """Mask (Qx, Qy) of bad rows and columns, and flags for those that need more than a mask."""
    pixels = np.zeros_like(bad)
    numbers = {"dead_lines": {}, "wide_lines": {}, "interpolated_lines": {}}
    for axis, faults in zip(("rows", "columns"), bad_lines(sample, bad, quantum), strict=True):
        mask = pixels if axis == "rows" else pixels.T
        for lines in faults:
            mask[lines] = True
        for name, indices in numbers.items():
            indices[axis] = getattr(faults, name.removesuffix("_lines")).tolist()
    flags = [Flag(name, {key: [str(i) for i in value] for key, value in indices.items()})
             for name, indices in numbers.items() if indices["rows"] or indices["columns"]]
    return pixels, flags


def _without_hits(sample, bad, quantum, low, given):
    """Replace X-ray hits by the mean of the pixel in all other patterns: (sample, number of hits)."""
    index, value, reference = hit_candidates(sample, bad, quantum)
    if not len(index):
        return sample, 0
    first_model = _parameters(_moments(sample, bad, quantum, HIT_CLIP), quantum, low, *given)
    gain = max(first_model.gain, quantum if low >= 0 else 0.0)
    f, x, y = index[confirmed_hits(value, reference, gain, first_model.offset, first_model.readout)].T
    if not len(f):
        return sample, 0
    sample = sample.copy()
    mean_without = (sample[:, x, y].sum(0, dtype=np.float64) - sample[f, x, y]) / (len(sample) - 1)
    sample[f, x, y] = mean_without if sample.dtype.kind == "f" else np.rint(mean_without)
    return sample, len(f)


class _Parameters(NamedTuple):
    """Parameters of a noise model in detector units, and how they were found."""

    gain: float
    offset: float
    readout: float
    counting: bool
    flags: list
    used: int = 0  # number of groups to which the line was fitted
    square: float = 0.0  # estimate of readout**2, which noise can make negative


def _parameters(t, quantum, low, gain, offset, readout):
    """Estimate those of the parameters gain, offset and readout that are None."""
    slope, error, intercept, used = _line(t, gain)
    has_electrons = _has_electrons(t)
    significant = gain is not None or (has_electrons and slope > MEAN_SIGMAS * error)
    all_free = gain is None and offset is None and readout is None
    if all_free and _is_counting(t, used, slope, significant, quantum, low):
        return _Parameters(quantum, 0.0, 0.0, True, [])
    if not significant:
        gain, offset, readout, flag = _fallback(t, has_electrons, low, offset, readout)
        return _Parameters(gain, offset, readout, False, [flag])
    gain = slope
    offset, square, separated = _offset_and_readout(t, used, gain, intercept, offset, readout)
    readout = np.sqrt(max(square, 0.0)) if readout is None else readout
    return _Parameters(gain, offset, readout, False, [] if separated else [Flag("offset_undetermined")], used, square)


def _uncertainty(t, fitted, given, sums, pixels):
    """Electrons per pattern, and standard errors of (gain, offset, readout, dose) by a jackknife over patterns.

    A standard error is infinite if the parameter was assumed, and zero if it was given or follows from counting.
    """
    def dose_of(total, gain, offset):  # numpydoc ignore=PR01,RT01
        return (total - offset * pixels) / gain

    dose = dose_of(sums.mean(), fitted.gain, fitted.offset)
    scatter = float(sums.std() / np.sqrt(len(sums)) / fitted.gain)
    if fitted.counting:
        return dose, (0.0, 0.0, 0.0, scatter)
    leave_out_moments = leave_one_out(t) if fitted.used else []
    if not leave_out_moments:
        unknown = [0.0 if a is not None else np.inf for a in given]
        return dose, (*unknown, np.inf)
    separated = not fitted.flags
    estimates = [(fitted.gain, fitted.offset, fitted.square)]
    for moments in leave_out_moments:
        slope, _, intercept, _ = _line_of(moments, fitted.used, given[0])
        offset, square = given[1], None
        if offset is None and separated:
            offset, square, _ = _offset_and_square(moments, fitted.used, slope, intercept, given[2])
        else:
            offset = fitted.offset if offset is None else offset
            square = slope * offset + intercept
        estimates.append((slope, offset, square))
    estimates = np.array(estimates)
    gain_sigma, offset_sigma, square_sigma = (jackknife(a) for a in estimates.T)
    if given[0] is None:  # add the error by structure of the pattern that the filters do not cancel
        gain_sigma = float(np.hypot(gain_sigma, MAX_STRUCTURE_FRACTION / 2 * fitted.gain))
    readout_sigma = 0.0 if given[2] is not None else float(square_sigma / max(2 * fitted.readout, square_sigma**0.5))
    doses = dose_of(sums.mean(), estimates[:, 0], estimates[:, 1])
    dose_sigma = float(np.hypot(jackknife(doses), scatter))
    if given[0] is None:  # the same error, common to all patterns
        dose_sigma = float(np.hypot(dose_sigma, MAX_STRUCTURE_FRACTION / 2 * dose))
    if not separated:
        offset_sigma = readout_sigma = dose_sigma = np.inf
    return dose, (gain_sigma, offset_sigma, readout_sigma, dose_sigma)


def _fallback(t, has_electrons, low, offset, readout):
    """Guess (gain, offset, readout, flag) if the variance does not grow with the mean, or there are no electrons."""
    m, v = np.median(t["m"]), np.median(t["v"])
    if not has_electrons:
        noise = np.sqrt(v) if readout is None else readout
        # Guess the gain: the signal of one electron equals the read-out noise.
        return noise or 1.0, m if offset is None else offset, noise, Flag("no_electrons")
    if offset is None:
        offset = 0.0 if low >= 0 else min(t["m"].min(), 0.0)
    dim = max(t["m"][: max(len(t["m"]) // 2, 1)].mean() - offset, 1e-3 * (t["m"].max() - offset))
    gain = max(t["v"][: max(len(t["v"]) // 2, 1)].mean() / dim, 1e-6 * (t["m"].max() - offset))
    return gain, offset, 0.0 if readout is None else readout, Flag("gain_undetermined")
