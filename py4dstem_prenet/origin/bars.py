"""Bars of beam stops that no mask names, found anywhere in the frame by their straight edges.

`stop.find_stop` needs to know about where the direct beam lies. This search does not: it compares the electrons in
strips that end at the margin of the frame with those beside both of their edges. Diffraction, however it looks, is not
darker by a factor in a straight strip whose sides are bright; what lies between the camera and the specimen is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import affine_transform, binary_dilation, minimum_filter1d, uniform_filter1d

from ..core import binned_sum
from ..fits import ring_center

BAR_EDGE_PX, FLANK_PX = 1.0, 3.0  # binned pixels: blurred edge that is left out, and what is compared beside it
LEAK, CLEAR = 0.06, 0.4  # electrons in a bar, and in what is none, of those beside it; likelihoods of the two
# Log likelihood ratio; the search over places, widths and directions alone reaches 12. None of 80 random scans without
# a stop had a bar (below 4 %, 95 % confidence); 18 of 80 unmasked stops were not found, 4 of them not by `find_stop`
# either (benchmarks/stops.py).
MIN_BAR_EVIDENCE = 30.0
MIN_ROUGH_EVIDENCE = 8.0  # the same at half of the resolution, to go on; 31 simulated stops had 15 or more
MIN_EXPLAINED = 0.5  # electrons in a strip over those of the rings' profile there: 1 without a bar, LEAK behind one
# Evidence of another strip of the same direction in that of the best one: 0.10 or less beside 26 simulated bars, 0.14
# or more in multislice silicon without diffuse scattering.
MAX_PARALLEL = 0.12
MAX_LENGTH_FRACTION = 0.9  # of the frame that a bar crosses; strips that cross all of it are no bars
MAX_ROW_EVIDENCE = 8.0  # log likelihood ratio of one row of a strip: many rows have to agree


class _Search(NamedTuple):
    """What is searched, in binned pixels where not said otherwise."""

    side: int  # pixels; larger frames are binned, for speed
    angles: int  # directions in half a turn
    half_widths: tuple[float, ...]
    flank_rows: int  # along the strip, over which its sides are averaged
    reach_rows: int  # along the strip, within which its sides have to be bright


FULL = _Search(128, 60, (1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.5, 9.0, 11.0), 5, 19)
ROUGH = _Search(64, 45, (0.8, 1.2, 1.7, 2.5, 3.5, 5.0, 7.0), 3, 9)
FINE_STEPS = 240  # directions in half a turn that are tried about the best one


def find_bar(total, good, readout: float = 0.0, tip=None, reach: float = np.inf) -> np.ndarray | None:
    """Find the bar of a beam stop: a dark strip from the margin into the frame, between bright sides.

    Parameters
    ----------
    total : numpy.ndarray, shape (Qx, Qy)
        Sum of patterns, electrons.
    good : numpy.ndarray of bool, shape (Qx, Qy)
        True where a pixel is good.
    readout : float, optional
        Read-out noise of a pixel of the sum, electrons.
    tip : array_like, shape (2,), optional
        A place in pixels near which the bar has to end. Then its sides need to be bright there only: in vacuum they
        are dark elsewhere. By default they have to be bright beyond the distance of disks, too.
    reach : float, optional
        Largest distance of the end of the bar from that place, pixels.

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
    told = _lies_between_rings(total, good, bar) or _has_parallels(total, good, readout, strip, bar, step)
    return None if told else bar


def _has_parallels(total, good, readout, strip, bar, step):
    """Whether another strip of the same direction is dark, too: lanes between rows of disks repeat, and bars do not."""
    elsewhere = good & ~binary_dilation(bar, iterations=int(step * FLANK_PX))
    turns = strip[1] + np.arange(-1, 2) * np.pi / FINE_STEPS
    other = _best_strip(FULL, total, elsewhere, readout, None, np.inf, turns)[0]
    return other[0] > MAX_PARALLEL * strip[0]


def _lies_between_rings(total, good, bar):
    """Whether a strip is dark since it runs between rings: it holds what their radial profile tells."""
    rings = ring_center(total, good)
    if not rings.accepted:
        return False
    x, y = np.indices(total.shape)
    distance = np.hypot(x - rings.center[0], y - rings.center[1]).astype(int)
    beside = good & ~bar
    length = distance.max() + 1
    pixels = np.bincount(distance[beside], minlength=length)
    profile = np.bincount(distance[beside], total[beside], length) / np.maximum(pixels, 1)
    seen = good & bar
    return bool(total[seen].sum() > MIN_EXPLAINED * profile[distance[seen]].sum())


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
    """Best strip of a search, of all directions by default, and the side of a bin: see `best_strip`."""
    step = -(-max(total.shape) // search.side)
    count = binned_sum(good.astype(np.float32), step)
    electrons = binned_sum(np.where(good, total, 0.0).astype(np.float32), step)
    if tip is not None:
        tip = (np.asarray(tip, float) - (step - 1) / 2) / step - (np.array(electrons.shape) - 1) / 2
    turns = np.arange(search.angles) * np.pi / search.angles if turns is None else turns
    strips = [_strip_along(search, electrons, count, readout, turn, tip, reach / step) for turn in turns]
    return max(strips, key=lambda strip: strip[0]), step


def _strip_along(search, electrons, count, readout, angle, tip, reach):
    """Best strip of one direction or its opposite, see `best_strip`."""
    size = int(np.ceil(np.hypot(*electrons.shape))) | 1
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    offset = (np.array(electrons.shape) - 1) / 2 - turn @ ([(size - 1) / 2] * 2)
    # Nearest pixels, so that counts remain counts.
    turned = [affine_transform(image, turn, offset, (size, size), order=0) for image in (electrons, count)]
    smooth = [uniform_filter1d(image, search.flank_rows, axis=0, mode="constant") for image in turned]
    # Sums over columns up to each, so that a sum over some is a difference.
    margin = int(search.half_widths[-1] + BAR_EDGE_PX + FLANK_PX) + 1
    sums = [np.pad(image, ((0, 0), (margin + 1, margin))).cumsum(1, dtype=np.float64)
            for image in (*turned, *smooth)]
    within = np.cumsum(turned[1] > 0, 0)
    share = within / np.maximum(within[-1], 1)
    axis = np.arange(size) - (size - 1) / 2
    far = np.zeros((size, size), bool)
    if tip is not None:
        along, across = turn.T @ tip
        far = np.hypot(axis[:, None] - along, axis - across) > reach
    best = (-np.inf, angle, 0.0, 0.0, 0.0, 0.0)
    for half in search.half_widths:
        rows = 1 if tip is not None else search.reach_rows
        total = np.cumsum(_row_evidence(sums, size, margin, half, readout, rows), 0)
        # Strips begin at the margin of the frame. Where the best one crosses all of it, it is a gap.
        for evidence, part, up in ((total, share, True), (total[-1] - total, 1 - share, False)):
            evidence = np.where(far, -np.inf, evidence)
            ends = evidence.argmax(0)
            most = np.where(np.take_along_axis(part, ends[None], 0)[0] <= MAX_LENGTH_FRACTION, evidence.max(0), -np.inf)
            column = int(most.argmax())
            if most[column] > best[0]:
                end = ends[column]
                first, last = (axis[0], axis[end]) if up else (axis[min(end + 1, size - 1)], axis[-1])
                best = (float(most[column]), angle, axis[column], half, first, last)
    return best


def _row_evidence(sums, size, margin, half, readout, rows):
    """Log likelihood ratio of each row of a strip about each column, (size, size): a bar, or what is as bright."""
    def between(image, low, high):  # numpydoc ignore=PR01,RT01
        """Sum over columns from low to high, both included, about every column."""
        return image[:, margin + high + 1 : margin + high + 1 + size] - image[:, margin + low : margin + low + size]

    inner, low, high = int(half - 0.5), int(np.ceil(half + BAR_EDGE_PX)), int(half + BAR_EDGE_PX + FLANK_PX)
    seen, area = (between(image, -inner, inner) for image in sums[:2])
    sides = [between(sums[2], *at) / np.maximum(between(sums[3], *at), 0.5) for at in ((-high, -low), (low, high))]
    # What lies between two disks is as bright as what lies beside them: the dimmest of the sides counts.
    expected = minimum_filter1d(np.minimum(*sides).clip(0), rows, axis=0, mode="nearest") * area
    dark = readout**2 * area  # read-out noise counts as a background of Poisson electrons
    ratio = (CLEAR * expected + dark + 1e-6) / (LEAK * expected + dark + 1e-6)
    evidence = (CLEAR - LEAK) * expected - np.log(ratio) * (seen + dark).clip(0)
    return np.minimum(evidence, MAX_ROW_EVIDENCE)
