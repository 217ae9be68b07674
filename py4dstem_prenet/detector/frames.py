"""Frames and values of a sample that say nothing of the detector's noise: lost frames and X-ray hits."""

import numpy as np
from scipy.ndimage import maximum_filter

MIN_LOST_ROWS = 0.25  # fraction of a frame's rows that hold one value; fewer do not change the noise model
MAX_LOST_LOG_PROBABILITY = -14.0  # of so many constant values by chance; false alarm: 1 in 1,000,000 frames
MAX_CUT_RATE = 0.1  # fraction of the frames in which a row has one value; in more, the specimen leaves it dark
MIN_HIT_PATTERNS = 8  # patterns, below which a hit cannot be told from a feature of the pattern
HIT_RATIO = 4.0  # signal of a hit in that of the brightest other pattern, within a pixel
MIN_HIT_ELECTRONS = 10.0  # of a hit beyond that signal; Poisson counts reach them in 1 of 10^9 pixels at most
HIT_SIGMAS = 6.0  # standard deviations of counting and read-out that a hit has beyond it
MAX_HIT_NEIGHBOR = 0.25  # third largest excess of a hit's neighbors in its own; a disk lights more of them
MAX_HIT_FRACTION = 1e-3  # of the values; more are no hits


def lost_frames(sample):
    """Find frames that were lost: constant in a large part.

    Parameters
    ----------
    sample : numpy.ndarray, shape (n, Qx, Qy)
        Patterns in detector units.

    Returns
    -------
    numpy.ndarray of bool, shape (n,)
        True where a frame was lost. None if half of them look so: the scan is then of another kind.

    Notes
    -----
    A frame of one value is lost if the others show so many electrons that all could not miss it by chance. A cut frame
    has rows of one value that hold others in nearly all frames.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.detector import lost_frames
    >>> sample = np.random.default_rng(0).normal(500.0, 10.0, (16, 32, 32))
    >>> sample[5] = 0
    >>> np.flatnonzero(lost_frames(sample)).tolist()
    [5]
    """
    n = len(sample)
    lost = np.zeros(n, bool)
    if n < 4:
        return lost
    constant = sample.min(2) == sample.max(2)  # (n, Qx)
    # Frames of one value, if others have so many pixels of other values that none would be left by chance.
    usual = np.median([np.count_nonzero(frame != frame.min()) for frame in sample])
    lost = constant.all(1) & (usual > -MAX_LOST_LOG_PROBABILITY)
    # Frames that are cut: rows of one value that have others in nearly all frames.
    rate = (constant.sum(0) - constant + 0.5) / n  # of the other frames
    rare = constant & (rate < MAX_CUT_RATE)
    log_probability = (rare * np.log(rate.clip(max=1.0))).sum(1)
    lost |= (rare.mean(1) > MIN_LOST_ROWS) & (log_probability < MAX_LOST_LOG_PROBABILITY)
    return lost if 2 * lost.sum() < n else np.zeros(n, bool)


def hit_candidates(sample, bad, quantum):
    """Find pixels that are much brighter in one pattern than in all others, and brighter than their neighbors.

    Parameters
    ----------
    sample : numpy.ndarray, shape (n, Qx, Qy)
        Patterns in detector units.
    bad : numpy.ndarray of bool, shape (Qx, Qy)
        Bad pixels, which are left out.
    quantum : float
        Step between values in detector units.

    Returns
    -------
    index : numpy.ndarray of int, shape (k, 3)
        Pattern, row and column of each.
    value, usual : numpy.ndarray, shape (k,)
        Its value, and the largest within a pixel in any other pattern, detector units.
    """
    none = np.zeros((0, 3), int), np.zeros(0), np.zeros(0)
    if len(sample) < MIN_HIT_PATTERNS:
        return none
    top = sample.argmax(0)
    largest = np.take_along_axis(sample, top[None], 0)[0].astype(np.float64)
    base = float(np.median(sample[:, ::3, ::3]))
    # Most pixels are dark in all patterns, so the second largest value is sought for bright ones only.
    second = np.partition(sample, -2, axis=0)[-2].astype(np.float64)
    usual = maximum_filter(np.where(bad, -np.inf, second), 3)
    chosen = ~bad & (largest - base > HIT_RATIO * (usual - base) + MIN_HIT_ELECTRONS * quantum) & (usual >= base)
    x, y = np.nonzero(chosen)
    keep = []
    for i, j in zip(x, y, strict=True):
        window = np.s_[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
        excess = np.sort((sample[(top[i, j], *window)] - second[window]).ravel())
        keep.append(len(excess) < 4 or excess[-4] < MAX_HIT_NEIGHBOR * (largest[i, j] - second[i, j]))
    x, y = x[keep], y[keep]
    if len(x) > MAX_HIT_FRACTION * sample.size:
        return none
    return np.stack([top[x, y], x, y], -1).astype(int), largest[x, y], usual[x, y]


def confirmed_hits(value, usual, gain, offset, readout):
    """Select the candidates that are too bright for electrons.

    Parameters
    ----------
    value, usual : numpy.ndarray, shape (k,)
        From `hit_candidates`.
    gain, offset, readout : float
        A first noise model, detector units.

    Returns
    -------
    numpy.ndarray of bool, shape (k,)
        True for hits.
    """
    electrons = (usual - offset).clip(min=0) / gain
    limit = electrons + HIT_SIGMAS * np.sqrt(electrons + (readout / gain) ** 2) + MIN_HIT_ELECTRONS
    return (value - offset) / gain > limit
