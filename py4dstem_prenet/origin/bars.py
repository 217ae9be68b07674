"""Bars of beam stops that no mask covers, found anywhere in the frame by their straight edges.

`stop.find_stop` needs the approximate position of the direct beam. This search does not: it compares the electrons in
strips that end at the edge of the frame with the electrons beside both edges of the strip. A straight strip between
bright sides is not darker by a large factor in any diffraction pattern, but it is behind an object between the camera
and the specimen.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import affine_transform, binary_dilation, minimum_filter1d, uniform_filter1d

from ..core import binned_sum

BAR_EDGE_PX, FLANK_PX = 1.0, 3.0  # binned pixels; blurred edge that is left out, and width of the flanks beside it
LEAK, CLEAR = 0.06, 0.4  # fractions of the electrons beside a strip; expected in a bar, and in a strip that is no bar
# Log likelihood ratio; smallest of a bar. It is 8 or less in 60 sums of patterns of crystals near a zone axis, without
# a stop (`benchmarks/stops.py --crystals` counts bars there), except between rows of disks that touch.
MIN_BAR_EVIDENCE = 20.0
# Log likelihood ratio at half of the resolution; smallest for which the search continues: 31 simulated stops had 15 or
# more.
MIN_ROUGH_EVIDENCE = 8.0
# Ratio of the evidence of a parallel strip to that of the best strip; largest for a bar: 0.10 or less beside 26
# simulated bars, 0.14 or more in multislice silicon without diffuse scattering.
MAX_PARALLEL = 0.12
MAX_LENGTH_FRACTION = 0.9  # fraction of the frame; longest bar: strips that cross the whole frame are no bars
MAX_ROW_EVIDENCE = 8.0  # log likelihood ratio; largest contribution of one row of a strip, so that many rows must agree


class _Search(NamedTuple):
    """Parameters of a search for strips; lengths are in binned pixels."""

    side: int  # largest side of the binned frame; larger frames are binned, for speed
    angles: int  # number of directions in 180 degrees
    half_widths: tuple[float, ...]
    flank_rows: int  # rows along the strip over which its sides are averaged
    reach_rows: int  # rows along the strip within which its sides must be bright


# The search, and the first, coarse one at half of the resolution:
FULL = _Search(128, 60, (1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.5, 9.0, 11.0), 5, 19)
ROUGH = _Search(64, 45, (0.8, 1.2, 1.7, 2.5, 3.5, 5.0, 7.0), 3, 9)
FINE_STEPS = 240  # number of directions in 180 degrees when directions about the best one are tried


def find_bar(total, good, readout: float = 0.0, tip=None, reach: float = np.inf) -> np.ndarray | None:
    """Find the bar of a beam stop: a dark strip from the edge of the frame inward, between bright sides.

    Parameters
    ----------
    total : numpy.ndarray, shape (Qx, Qy)
        Sum of patterns, electrons.
    good : numpy.ndarray of bool, shape (Qx, Qy)
        True where a pixel is good.
    readout : float, optional
        Read-out noise of a pixel of the sum, electrons.
    tip : array_like, shape (2,), optional
        Position in pixels near which the bar must end. Its sides then need to be bright only near this position: in
        vacuum they are dark elsewhere. By default, they must also be bright beyond the distance between disks.
    reach : float, optional
        Largest distance of the end of the bar from `tip`, pixels.

    Returns
    -------
    numpy.ndarray of bool, shape (Qx, Qy), or None
        True behind the bar and at its blurred edge; None if there is no bar.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.origin import find_bar
    >>> x, y = np.indices((96, 96)) - 48
    >>> mean = 4e3 / (1 + (np.hypot(x, y) / 8) ** 2)
    >>> mean[:52, 44:53] *= 0.01
    >>> bar = find_bar(np.random.default_rng(0).poisson(mean), np.ones((96, 96), bool))
    >>> bool(bar[20, 48]), bool(bar[20, 60]), bool(bar[60, 48])
    (True, False, False)
    """
    if tip is None and _best_strip(ROUGH, total, good, readout, tip, reach)[0][0] < MIN_ROUGH_EVIDENCE:
        return None
    strip, step = best_strip(total, good, readout, tip, reach)
    if strip[0] < MIN_BAR_EVIDENCE:
        return None
    _, angle, across, half, first, last = strip
    x, y = ((at - (step - 1) / 2) / step - (n // step - 1) / 2
            for at, n in zip(np.indices(total.shape), total.shape, strict=True))
    along, side = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    inside = (along >= first - BAR_EDGE_PX) & (along <= last + BAR_EDGE_PX)
    bar = inside & (np.abs(side - across) <= half + BAR_EDGE_PX)
    if tip is not None:
        return bar
    return None if _has_parallels(total, good, readout, strip, bar, step) else bar


def _has_parallels(total, good, readout, strip, bar, step):
    """Return whether a parallel strip is also dark: lanes between rows of disks repeat, but bars do not."""
    elsewhere = good & ~binary_dilation(bar, iterations=int(step * FLANK_PX))
    turns = strip[1] + np.arange(-1, 2) * np.pi / FINE_STEPS
    parallel = _best_strip(FULL, total, elsewhere, readout, None, np.inf, turns)[0]
    return parallel[0] > MAX_PARALLEL * strip[0]


def best_strip(total, good, readout, tip=None, reach=np.inf):
    """Search for the strip that looks most like a bar.

    Parameters
    ----------
    total, good, readout, tip, reach : numpy.ndarray, numpy.ndarray, float, array_like, float
        As in `find_bar`.

    Returns
    -------
    strip : tuple of float
        Evidence, angle from +qx toward +qy, distance of the strip from the middle of the frame, half width, first and
        last point along it, in binned pixels from the middle.
    step : int
        Side of a bin in pixels.
    """
    best = _best_strip(FULL, total, good, readout, tip, reach)[0]
    turns = best[1] + np.arange(-3, 4) * np.pi / FINE_STEPS
    return _best_strip(FULL, total, good, readout, tip, reach, turns)


def _best_strip(search, total, good, readout, tip, reach, turns=None):
    """Best strip of a search over `turns` (by default all directions), and the side of a bin; see `best_strip`."""
    step = -(-max(total.shape) // search.side)
    count = binned_sum(good.astype(np.float32), step)
    electrons = binned_sum(np.where(good, total, 0.0).astype(np.float32), step)
    if tip is not None:
        tip = (np.asarray(tip, float) - (step - 1) / 2) / step - (np.array(electrons.shape) - 1) / 2
    turns = np.arange(search.angles) * np.pi / search.angles if turns is None else turns
    best = (-np.inf, turns[0], 0.0, 0.0, 0.0, 0.0)
    for turn in turns:
        best = _strip_along(search, electrons, count, readout, turn, tip, reach / step, best)
    return best, step


def _strip_along(search, electrons, count, readout, angle, tip, reach, best):
    """Best strip along one direction or its opposite, or `best` if none has more evidence; see `best_strip`."""
    size = int(np.ceil(np.hypot(*electrons.shape))) | 1
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    offset = (np.array(electrons.shape) - 1) / 2 - turn @ ([(size - 1) / 2] * 2)
    # Interpolation by nearest pixels keeps counts unchanged.
    turned = [affine_transform(image, turn, offset, (size, size), order=0) for image in (electrons, count)]
    smooth = [uniform_filter1d(image, search.flank_rows, axis=0, mode="constant") for image in turned]
    # Cumulative sums over columns, so that the sum over a range of columns is a difference.
    margin = int(search.half_widths[-1] + BAR_EDGE_PX + FLANK_PX) + 1
    sums = [np.pad(image, ((0, 0), (margin + 1, margin))).cumsum(1, dtype=np.float64)
            for image in (*turned, *smooth)]
    within = np.cumsum(turned[1] > 0, 0)
    covered = within / np.maximum(within[-1], 1)
    axis = np.arange(size) - (size - 1) / 2
    if tip is not None:
        along, across = turn.T @ tip
        excluded = np.hypot(axis[:, None] - along, axis - across) > reach
    for half in search.half_widths:
        rows = 1 if tip is not None else search.reach_rows
        total = np.cumsum(_row_evidence(sums, size, margin, half, readout, rows), 0)
        # Strips start at the edge of the frame. If the best strip crosses the whole frame, it is a gap.
        for evidence, part, up in ((total, covered, True), (total[-1] - total, 1 - covered, False)):
            if tip is not None:
                evidence = np.where(excluded, -np.inf, evidence)
            largest = evidence.max(0)
            if largest.max() <= best[0]:
                continue
            ends = evidence.argmax(0)
            top = np.where(np.take_along_axis(part, ends[None], 0)[0] <= MAX_LENGTH_FRACTION, largest, -np.inf)
            column = int(top.argmax())
            if top[column] > best[0]:
                end = ends[column]
                first, last = (axis[0], axis[end]) if up else (axis[min(end + 1, size - 1)], axis[-1])
                best = (float(top[column]), angle, axis[column], half, first, last)
    return best


def _row_evidence(sums, size, margin, half, readout, rows):
    """Log likelihood ratio (size, size) of each row of a strip about each column: bar against bright strip."""
    def between(image, low, high):  # numpydoc ignore=PR01,RT01
        """Sum over columns from low to high, both included, about every column."""
        return image[:, margin + high + 1 : margin + high + 1 + size] - image[:, margin + low : margin + low + size]

    inner, low, high = int(half - 0.5), int(np.ceil(half + BAR_EDGE_PX)), int(half + BAR_EDGE_PX + FLANK_PX)
    electrons, area = (between(image, -inner, inner) for image in sums[:2])
    sides = [between(sums[2], *at) / np.maximum(between(sums[3], *at), 0.5) for at in ((-high, -low), (low, high))]
    # A strip between two disks is as dark as the regions beside the disks: use the dimmest part of the sides.
    expected = minimum_filter1d(np.minimum(*sides).clip(0), rows, axis=0, mode="nearest") * area
    dark = readout**2 * area  # read-out noise counts as a background of Poisson electrons
    least = np.maximum(expected, 1.0)  # electrons; a dark strip between dark sides tells nothing, a lit one is no bar
    ratio = (CLEAR * least + dark) / (LEAK * least + dark)
    evidence = (CLEAR - LEAK) * least - np.log(ratio) * (electrons + dark).clip(0)
    return np.minimum(evidence, np.where(expected < 1, 0.0, MAX_ROW_EVIDENCE))
