"""What a sample of a scan shows to be wrong with its values: sentences for the user, and what no stage can work on."""

import numpy as np

from ..core import Flag, PrenetError

LARGEST = 1e15  # detector units; no detector comes near it, and sums of squares still fit into float32
SMALLEST = 1e-30  # of the range of values; below, float32 has no digits left
MOST = 0.5  # of all values; no pattern is so bright in so large a part
PLENTY = 30  # electrons in the whole sample beside which none is no chance
NO_CHANCE = 16  # lit pixels from which no two patterns are alike by chance; a few electrons may well be
EDGE = 8  # pixels of a row or column that stop at once, from which that is no chance


def refuse(sample):
    """Raise PrenetError where a sample (n, Qx, Qy) holds one value only, or numbers that no detector gives."""
    low, high = sample.min(), sample.max()
    if low == high:
        what = "all zero" if low == 0 else f"constant (every value is {low})"
        raise PrenetError(
            f"The data are {what}: there is no pattern to calibrate; check that the right data set was read "
            "and that the beam was not blanked."
        )
    low, high = float(low), float(high)
    if max(-low, high) > LARGEST:
        raise PrenetError(f"The data hold values as large as {max(low, high, key=abs):.3g}, which no detector gives; "
                          "replace them, or divide the data by a constant.")
    if high - low < SMALLEST:
        raise PrenetError(f"The data differ by {high - low:.3g} at most, too little for single precision; multiply "
                          "them by a constant.")
    share = np.mean(sample == sample.max())
    if share > MOST:
        raise PrenetError(f"{100 * share:.0f} % of the values are at the largest one, {high:g}: either all is "
                          "saturated, or bright is low in these data; turn them over, then (data.max() - data).")
    if sample.dtype.kind == "i":
        top = float(np.iinfo(sample.dtype).max)
        # Dark subtraction makes small negative numbers only; single broken pixels are no reason.
        ends = [np.mean(sample < -top / 2), np.mean(sample > top / 2)]
        if sample.dtype.itemsize <= 2 and min(ends) > 1e-5:
            raise PrenetError(f"The data run from {low:.0f} to {high:.0f} and wrap from one to the other: unsigned "
                              f"numbers were read as signed ones; give data.view('uint{8 * sample.dtype.itemsize}').")


def doubts(sample, moments, noise, low, high):
    """Flags on what is wrong with a sample (n, Qx, Qy), given its `estimate._moments` and `NoiseModel`."""
    flags = []
    v, wide = (moments[key][moments["v_wide"] > 0] for key in ("v", "v_wide"))
    half = max(len(v) // 2, 1)
    if v[:half].mean() < 0.7 * wide[:half].mean():
        flags.append(Flag("shared_noise", {"ratio": float(v[:half].mean() / wide[:half].mean())}))
    top = np.count_nonzero(sample == high)
    below = np.count_nonzero((sample > high - 0.1 * (float(high) - noise.offset)) & (sample < high))
    saturated = (high - noise.offset) / noise.gain > 50 and top >= 4 and top > below
    if saturated:
        flags.append(Flag("saturated", {"count": top, "value": float(high)}))
    bottom = float(np.mean(sample == low))
    if not noise.counting and bottom > 0.02 and low < noise.offset + 0.5 * noise.gain and moments["v"][0] > 0:
        flags.append(Flag("clipped", {"percent": 100 * bottom, "value": float(low)}))
    if _upside_down(sample, noise):
        flags.append(Flag("inverted"))
    if _wrapped(sample):
        flags.append(Flag("wrapped", {"limit": int(np.iinfo(sample.dtype).max) + 1}))
    stuck = _unresponsive(sample, noise, saturated)
    if not saturated and stuck is None and _bent(moments, noise):
        flags.append(Flag("nonlinear"))
    telling = [pattern.tobytes() for pattern in sample
               if np.count_nonzero((pattern != low) & ~noise.bad_pixels) >= NO_CHANCE]
    alike = len(telling) - len(set(telling))
    if alike:
        flags.append(Flag("repeated_frames", {"count": alike, "total": len(sample)}))
    elif stuck is not None:
        flags.append(Flag("unresponsive", {"row": stuck[0], "column": stuck[1]}))
    return flags


def _upside_down(sample, noise):
    """Whether the middle of the mean pattern's values is near their upper end: beams are bright and small."""
    mean = sample.mean(0, dtype=np.float64)[~noise.bad_pixels]
    low, middle, high = np.percentile(mean, [0.1, 50, 99.9]) if mean.size else (0.0, 0.0, 0.0)
    return middle - low > 5 * (high - middle) and middle - low > 10 * noise.readout / np.sqrt(len(sample))


def _wrapped(sample):
    """Whether small values lie within a pixel of the largest ones that the type can hold, on both sides."""
    if sample.dtype.kind != "u" or sample.dtype.itemsize > 2:
        return False
    top = np.iinfo(sample.dtype).max
    if sample.max() < 0.97 * top:
        return False
    large, small = sample > 0.6 * top, sample < 0.4 * top
    found = 0
    for a, b in ((large, small), (large.swapaxes(1, 2), small.swapaxes(1, 2))):
        found = max(found, np.count_nonzero((a[:, :-2] & b[:, 1:-1] & a[:, 2:]).any(0)))
    return found >= EDGE  # several pixels: one may be dead


def _bent(moments, noise):
    """Whether bright pixels scatter by much less than counting statistics and the gain of dim ones ask for."""
    electrons = (moments["m"] - noise.offset) / noise.gain
    bright = electrons > 3
    expected = noise.gain**2 * electrons[bright] + noise.readout**2
    return np.count_nonzero(bright) >= 2 and np.median(moments["v"][bright] / expected) < 0.4


def _unresponsive(sample, noise, saturated):
    """A pixel of those that never change, where many of them border on pixels that see plenty of electrons; or None."""
    stuck = (sample.min(0) == sample.max(0)) & ~noise.bad_pixels
    if len(sample) < 8 or not stuck.any() or stuck.all():
        return None
    seen = (sample.mean(0, dtype=np.float64) - noise.offset) / noise.gain * len(sample)
    busy = (seen > PLENTY) & ~stuck & ~noise.bad_pixels
    dark = stuck & (seen < 0.1 * PLENTY)
    above, beside = np.zeros((2, *stuck.shape), bool)
    above[1:] |= dark[1:] & busy[:-1]
    above[:-1] |= dark[:-1] & busy[1:]
    beside[:, 1:] |= dark[:, 1:] & busy[:, :-1]
    beside[:, :-1] |= dark[:, :-1] & busy[:, 1:]
    edge = np.zeros_like(stuck)
    if max(above.sum(1).max(), beside.sum(0).max()) >= EDGE:
        edge = above | beside
    elif not saturated:
        edge = stuck & (seen > PLENTY)  # nothing that counts shines without any scatter
    if edge.sum() < EDGE:
        return None
    where = np.argwhere(edge)
    return tuple(int(n) for n in where[len(where) // 2])
