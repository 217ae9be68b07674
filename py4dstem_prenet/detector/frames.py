"""Frames and values that must be excluded from the noise estimate: lost frames and X-ray hits."""

import numpy as np
from scipy.ndimage import find_objects, label, maximum_filter

from ..core import MIN_PATTERNS_IN_TIME
from . import MIN_MEAN_PATTERNS, MIN_PIXEL_ELECTRONS, PIXEL_SIGMAS

MIN_LOST_ROWS = 0.25  # fraction of a frame's rows; fewest constant rows of a lost frame: fewer do not affect the noise
MAX_LOST_LOG_PROBABILITY = -14.0  # log probability of so many constant rows by chance: 1 in 1,000,000 frames
MAX_CUT_RATE = 0.1  # fraction of the frames; a row that is constant in more of them is dark because of the specimen
HIT_RATIO = 4.0  # ratio; smallest signal of a hit relative to the largest value within a pixel in other patterns
MAX_HIT_NEIGHBOR = 0.25  # fraction of a hit's excess; largest third-highest excess of its neighbors: less than in disks
# Pixels; shortest length and largest mean width of the track of a charged particle: disks are wider. Set on four
# simulated scans with tracks (tests/test_scan_faults.py).
MIN_TRACK_PX, MAX_TRACK_WIDTH_PX = 5, 2.5
MAX_HIT_FRACTION = 1e-3  # fraction of the values; if there are more candidates, none is a hit


def lost_frames(sample):
    """Find lost frames, which are constant entirely or in many rows.

    Parameters
    ----------
    sample : numpy.ndarray, shape (n, Qx, Qy)
        Patterns in detector units.

    Returns
    -------
    numpy.ndarray of bool, shape (n,)
        True where a frame was lost; all False if half of the frames or more seem lost.

    Notes
    -----
    A constant frame is lost if the other frames have so many electrons that it cannot be empty by chance. A frame that
    was cut has constant rows which are not constant in nearly all other frames.

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
    if n < MIN_MEAN_PATTERNS:
        return lost
    constant = sample.min(2) == sample.max(2)  # (n, Qx)
    # Constant frames, if typical frames have so many lit pixels that an empty frame is improbable.
    lit_pixels = np.median([np.count_nonzero(frame != frame.min()) for frame in sample])
    lost = constant.all(1) & (lit_pixels > -MAX_LOST_LOG_PROBABILITY)
    # Cut frames: constant rows which are not constant in nearly all other frames.
    rate = (constant.sum(0) - constant + 0.5) / n  # fraction of the other frames in which the row is constant
    rare = constant & (rate < MAX_CUT_RATE)
    log_probability = (rare * np.log(rate.clip(max=1.0))).sum(1)
    lost |= (rare.mean(1) > MIN_LOST_ROWS) & (log_probability < MAX_LOST_LOG_PROBABILITY)
    return lost if 2 * lost.sum() < n else np.zeros(n, bool)


def hit_candidates(sample, bad, quantum):
    """Find pixels that are much brighter in one pattern than in all others, alone or in a thin track.

    Parameters
    ----------
    sample : numpy.ndarray, shape (n, Qx, Qy)
        Patterns in detector units.
    bad : numpy.ndarray of bool, shape (Qx, Qy)
        True where a pixel is bad; bad pixels are left out.
    quantum : float
        Step between values in detector units.

    Returns
    -------
    index : numpy.ndarray of int, shape (k, 3)
        Pattern, row and column of each candidate.
    value, usual : numpy.ndarray, shape (k,)
        Value of each candidate, and largest value within a pixel of it in all other patterns, in detector units.
    """
    none = np.zeros((0, 3), int), np.zeros(0), np.zeros(0)
    if len(sample) < MIN_PATTERNS_IN_TIME:
        return none
    top = sample.argmax(0)
    largest = np.take_along_axis(sample, top[None], 0)[0].astype(np.float64)
    base = float(np.median(sample[:, ::3, ::3]))
    # The second largest value of each pixel over the patterns.
    second = np.partition(sample, -2, axis=0)[-2].astype(np.float64)
    usual = maximum_filter(np.where(bad, -np.inf, second), 3)
    chosen = ~bad & (largest - base > HIT_RATIO * (usual - base) + MIN_PIXEL_ELECTRONS * quantum) & (usual >= base)
    x, y = np.nonzero(chosen)
    keep = []
    for i, j in zip(x, y, strict=True):
        window = np.s_[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
        excess = np.sort((sample[(top[i, j], *window)] - second[window]).ravel())
        keep.append(len(excess) < 4 or excess[-4] < MAX_HIT_NEIGHBOR * (largest[i, j] - second[i, j]))
    keep = np.array(keep, bool) | _in_tracks(np.where(chosen, top, -1))[x, y]
    x, y = x[keep], y[keep]
    if len(x) > MAX_HIT_FRACTION * sample.size:
        return none
    return np.stack([top[x, y], x, y], -1).astype(int), largest[x, y], usual[x, y]


def _in_tracks(pattern):
    """Mask long and thin groups of adjacent pixels of one pattern, whose number is `pattern` (Qx, Qy), -1 for none."""
    tracks = np.zeros(pattern.shape, bool)
    numbers, counts = np.unique(pattern[pattern >= 0], return_counts=True)
    for number in numbers[counts >= MIN_TRACK_PX]:
        labels, _ = label(pattern == number, np.ones((3, 3)))
        for k, box in enumerate(find_objects(labels), 1):
            group = labels[box] == k
            length = np.hypot(*group.shape)
            tracks[box] |= group & (length >= MIN_TRACK_PX) & (group.sum() <= MAX_TRACK_WIDTH_PX * length)
    return tracks


def confirmed_hits(value, usual, gain, offset, readout):
    """Select the candidates that are brighter than counting statistics allow.

    Parameters
    ----------
    value, usual : numpy.ndarray, shape (k,)
        Results of `hit_candidates`.
    gain, offset, readout : float
        Parameters of a first noise model in detector units.

    Returns
    -------
    numpy.ndarray of bool, shape (k,)
        True where a candidate is a hit.
    """
    electrons = (usual - offset).clip(min=0) / gain
    limit = electrons + PIXEL_SIGMAS * np.sqrt(electrons + (readout / gain) ** 2) + MIN_PIXEL_ELECTRONS
    return (value - offset) / gain > limit
