"""Checks of the values in a sample of a scan: unusable data are refused, and doubtful data get a warning."""

import numpy as np
from scipy.ndimage import binary_dilation, binary_fill_holes

from ..core import MIN_PATTERNS_IN_TIME, Flag, PrenetError
from . import MIN_SAMPLE_ELECTRONS

# Set on simulated and real scans with faults of detectors and files (tests/test_detector_faults.py):
MIN_PIXELS = 8  # pixels; fewest with a fault, or lit in equal patterns, that are not due to chance
MIN_FRACTION_AT_BOTTOM = 0.02  # fraction of all values; smallest part at the lowest value if data are clipped below
MIN_SHARED_NOISE_RATIO = 0.7  # ratio of fine to coarse variance, 1 for independent noise; below, neighbors share noise
MIN_BENT_RATIO = 0.4  # ratio of measured to expected variance of bright pixels; below, the response is not linear
MIN_BRIGHT_ELECTRONS = 3  # electrons; smallest mean of a pixel that is used to test the linearity
MIN_WRAPPED_TOP = 0.99  # fraction of the limit of a counter; smallest maximum of data that may have wrapped
HOLE_SIGMAS = 3.0  # sigmas of counting noise; distance from half of the limit of values in and around a hole
MIN_ABRUPT = 0.7  # fraction of the pixels around a hole; fewest that are bright, if the hole is due to wrapped counts


def refuse(sample):
    """Refuse data that are constant, or whose values no detector can give.

    Parameters
    ----------
    sample : numpy.ndarray, shape (n, Qx, Qy)
        Patterns in detector units.

    Raises
    ------
    PrenetError
        If the data cannot be used.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.detector.quality import refuse
    >>> refuse(np.zeros((4, 8, 8)))
    Traceback (most recent call last):
        ...
    py4dstem_prenet.core.errors.PrenetError: The data are all zero: there is no pattern to calibrate; ...
    """
    low, high = sample.min(), sample.max()
    if low == high:
        what = "all zero" if low == 0 else f"constant (every value is {low})"
        raise PrenetError(
            f"The data are {what}: there is no pattern to calibrate; check that the right data set was read "
            "and that the beam was not blanked."
        )
    low, high = float(low), float(high)
    if max(-low, high) > 1e15:  # no detector gives larger values, and sums of squares still fit into float32
        raise PrenetError(f"The data hold values as large as {max(low, high, key=abs):.3g}, which no detector gives; "
                          "replace them, or divide the data by a constant.")
    if high - low < 1e-30:  # float32 does not resolve them
        raise PrenetError(f"The values differ by at most {high - low:.3g}, too little for single precision; multiply "
                          "them by a constant.")
    fraction = np.mean(sample == sample.max())
    if 2 * fraction > 1:  # no pattern is so bright in most of the detector
        raise PrenetError(f"{100 * fraction:.0f} % of the values equal the largest one, {high:g}: the data "
                          "are saturated, or their contrast is inverted (then use data.max() - data).")
    if sample.dtype.kind == "i":
        top = float(np.iinfo(sample.dtype).max)
        # Subtracting a dark image gives only small negative numbers. Single broken pixels are tolerated.
        ends = [np.mean(sample < -top / 2), np.mean(sample > top / 2)]
        if sample.dtype.itemsize <= 2 and min(ends) > 1e-5:
            raise PrenetError(f"The data run from {low:.0f} to {high:.0f} and wrap from one to the other: unsigned "
                              f"numbers were read as signed ones; give data.view('uint{8 * sample.dtype.itemsize}').")


def doubts(sample, moments, noise, low):
    """List warnings about a sample.

    Parameters
    ----------
    sample : numpy.ndarray, shape (n, Qx, Qy)
        Patterns in detector units.
    moments : dict
        Moments of groups of pixels, from `group_moments`.
    noise : NoiseModel
        Noise model of the sample.
    low : float
        Smallest value of the sample.

    Returns
    -------
    list of Flag
        The warnings.
    """
    flags = []
    v, wide = (moments[key][moments["v_wide"] > 0] for key in ("v", "v_wide"))
    half = max(len(v) // 2, 1)
    if len(v) and v[:half].mean() < MIN_SHARED_NOISE_RATIO * wide[:half].mean():
        flags.append(Flag("shared_noise", {"ratio": float(v[:half].mean() / wide[:half].mean())}))
    good = sample[:, ~noise.bad_pixels]  # a pixel that is stuck at a high value says nothing about the others
    saturated = noise.saturated_count(good) if good.size else 0
    if saturated:
        flags.append(Flag("saturated", {"count": saturated, "value": float(good.max())}))
    bottom = float(np.mean(sample == low))
    near_zero = low < noise.offset + 0.5 * noise.gain
    if not noise.counting and bottom > MIN_FRACTION_AT_BOTTOM and near_zero and moments["v"][0] > 0:
        flags.append(Flag("clipped", {"percent": 100 * bottom, "value": float(low)}))
    if _upside_down(sample, noise):
        flags.append(Flag("inverted"))
    limit = _wrapped(sample, noise, good.max(initial=0))
    if limit is not None:
        flags.append(Flag("wrapped", {"limit": limit}))
    stuck = _unresponsive(sample, noise, saturated)
    if not saturated and stuck is None and _bent(moments, noise):
        flags.append(Flag("nonlinear"))
    lit = [pattern.tobytes() for pattern in sample
           if np.count_nonzero((pattern != low) & ~noise.bad_pixels) >= MIN_PIXELS]
    copies = len(lit) - len(set(lit))
    if copies:
        flags.append(Flag("repeated_frames", {"count": copies, "total": len(sample)}))
    elif stuck is not None:
        flags.append(Flag("unresponsive", {"row": stuck[0], "column": stuck[1]}))
    return flags


def _upside_down(sample, noise):
    """Return whether the contrast is inverted: most of the mean pattern, with its corners, is near the maximum.

    If a wide beam fills the detector, the corners are dark.
    """
    pattern, good = sample.mean(0, dtype=np.float64), ~noise.bad_pixels
    mean = pattern[good]
    if not mean.size:
        return False
    low, median, high = np.percentile(mean, [0.1, 50, 99.9])
    ends = [np.r_[: max(1, n // 16), n - max(1, n // 16) : n] for n in pattern.shape]
    corners = pattern[np.ix_(*ends)][good[np.ix_(*ends)]]
    dark_corners = corners.size and np.median(corners) - low < 0.5 * (median - low)
    return (median - low > 5 * (high - median) and median - low > 10 * noise.readout / np.sqrt(len(sample))
            and not dark_corners)


def _wrapped(sample, noise, high):
    """Find the power of two at which values wrapped to zero, from dark holes in bright areas; None if there are none.

    A counter may be narrower than the data type, so that the limit is the smallest power of two above the largest
    value. A hole has an abrupt edge, unlike the inside of a ring, or is a dark pixel between two bright pixels.
    """
    high = int(high) if sample.dtype.kind in "iu" else 0
    limit = 1 << high.bit_length()
    if limit < 64 or high < MIN_WRAPPED_TOP * limit - 1:  # a counter has at least six bits
        return None
    # Counting noise at half of the limit does not reach from one level to the other.
    reach = HOLE_SIGMAS * (0.5 * noise.gain / limit) ** 0.5
    dark_level, bright_level = (0.5 - reach) * limit, (0.5 + reach) * limit
    holes = np.zeros(sample.shape[1:], bool)
    for pattern in sample[:: max(1, len(sample) // 32)]:  # a part of the sample, for speed
        bright = (pattern > bright_level) | noise.bad_pixels
        hole = binary_fill_holes(bright) & ~bright
        rim = binary_dilation(hole) & ~hole
        if np.count_nonzero(rim & bright) > MIN_ABRUPT * np.count_nonzero(rim):
            holes |= hole & (pattern < dark_level)
        dark, bright = pattern < dark_level, bright & ~noise.bad_pixels
        holes[1:-1] |= bright[:-2] & dark[1:-1] & bright[2:]
        holes[:, 1:-1] |= bright[:, :-2] & dark[:, 1:-1] & bright[:, 2:]
    holes &= ~noise.bad_pixels
    return limit if np.count_nonzero(holes) >= MIN_PIXELS else None


def _bent(moments, noise):
    """Return whether bright pixels scatter much less than counting statistics and the gain of dim pixels predict."""
    electrons = (moments["m"] - noise.offset) / noise.gain
    bright = electrons > MIN_BRIGHT_ELECTRONS
    expected = noise.gain**2 * electrons[bright] + noise.readout**2
    return np.count_nonzero(bright) >= 2 and np.median(moments["v"][bright] / expected) < MIN_BENT_RATIO


def _unresponsive(sample, noise, saturated):
    """Find a pixel (x, y) of a group that never changes although electrons hit adjacent pixels, or return None."""
    constant = (sample.min(0) == sample.max(0)) & ~noise.bad_pixels
    if len(sample) < MIN_PATTERNS_IN_TIME or not constant.any() or constant.all():
        return None
    electrons = (sample.mean(0, dtype=np.float64) - noise.offset) / noise.gain * len(sample)
    busy = (electrons > MIN_SAMPLE_ELECTRONS) & ~constant & ~noise.bad_pixels
    dark = constant & (electrons < 0.1 * MIN_SAMPLE_ELECTRONS)
    above_or_below, left_or_right = np.zeros((2, *constant.shape), bool)
    above_or_below[1:] |= dark[1:] & busy[:-1]
    above_or_below[:-1] |= dark[:-1] & busy[1:]
    left_or_right[:, 1:] |= dark[:, 1:] & busy[:, :-1]
    left_or_right[:, :-1] |= dark[:, :-1] & busy[:, 1:]
    edge = np.zeros_like(constant)
    if max(above_or_below.sum(1).max(), left_or_right.sum(0).max()) >= MIN_PIXELS:
        edge = above_or_below | left_or_right
    elif not saturated:
        edge = constant & (electrons > MIN_SAMPLE_ELECTRONS)  # counted electrons scatter
    if edge.sum() < MIN_PIXELS:
        return None
    pixels = np.argwhere(edge)
    return tuple(int(n) for n in pixels[len(pixels) // 2])
