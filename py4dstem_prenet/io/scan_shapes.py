"""Decide the shape of a scan whose frames a file stores one after another.

The shape that a caller gives wins. Otherwise a shape is taken only if header, file name and number of frames agree on
exactly one; the refusal lists the shapes that are possible.
"""

import re
from dataclasses import dataclass

import numpy as np

from ..core import Flag, PrenetError, shape_text

MAX_SHAPES_TOLD = 12  # shapes; largest number that a sentence lists
MIN_PAUSE = 10  # ratio; smallest of the excess of a pause to the scatter of the other times between frames
_ROWS_AND_COLUMNS = re.compile(r"x(\d+)_?y(\d+)", re.IGNORECASE)  # EMPAD's names, as in scan_x256_y128
_PAIR = re.compile(r"(?<!\d)(\d+) ?[x×] ?(\d+)(?!\d)", re.IGNORECASE)  # as in 4x2_6bit


@dataclass(frozen=True)
class StatedShape:
    """A shape of the scan that a file states.

    Attributes
    ----------
    rows, columns : int
        Rx and Ry.
    source : str
        Source that states it.
    certain : bool
        Whether a contradiction to the number of frames must be noticed; False for a pair of numbers in a file name,
        which may mean anything.
    """

    rows: int
    columns: int
    source: str
    certain: bool = True

    @property
    def size(self) -> int:
        """Number of positions."""
        return self.rows * self.columns


def checked_shape(scan_shape) -> tuple[int, int] | None:
    """Check a shape that a caller gives.

    Parameters
    ----------
    scan_shape : sequence of int or None
        (Rx, Ry).

    Returns
    -------
    tuple of int or None
        The shape; None for None.

    Raises
    ------
    PrenetError
        If it is not two positive whole numbers.

    Examples
    --------
    >>> checked_shape([2, 3.0])
    (2, 3)
    """
    if scan_shape is None:
        return None
    try:
        rows, columns = scan_shape
        whole = int(rows), int(columns)
        valid = whole == (rows, columns) and min(whole) > 0 and not isinstance(scan_shape, str | bytes)
    except (TypeError, ValueError, OverflowError):
        valid = False
    if not valid:
        raise PrenetError("The shape of the scan must be two positive whole numbers, scan_shape=(rows, columns), not "
                          f"{scan_shape!r:.60}.")
    return whole


def shapes_in_name(name) -> list[StatedShape]:
    """Find shapes of a scan in the name of a file.

    Parameters
    ----------
    name : str
        The name, without its ending.

    Returns
    -------
    list of StatedShape
        Those labeled x and y are certain; a plain pair of numbers gives both orders.

    Examples
    --------
    >>> [(s.rows, s.columns, s.certain) for s in shapes_in_name("scan_x8_y4")]
    [(4, 8, True)]
    >>> [(s.rows, s.columns, s.certain) for s in shapes_in_name("gold_4x2_6bit")]
    [(4, 2, False), (2, 4, False)]
    """
    labeled = [StatedShape(int(y), int(x), "the file name") for x, y in _ROWS_AND_COLUMNS.findall(name)]
    if labeled:
        return labeled
    pairs: dict[tuple[int, int], None] = {}  # in order, each once
    for first, second in _PAIR.findall(name):
        a, b = int(first), int(second)
        pairs |= {(a, b): None, (b, a): None}
    return [StatedShape(rows, columns, "the file name", certain=False) for rows, columns in pairs]


def possible_shapes(count) -> list[tuple[int, int]]:
    """List the shapes that a number of frames fills, the most square ones first.

    Parameters
    ----------
    count : int
        Number of frames.

    Returns
    -------
    list of tuple of int
        (Rx, Ry).

    Examples
    --------
    >>> possible_shapes(6)
    [(2, 3), (3, 2), (1, 6), (6, 1)]
    """
    rows = np.arange(1, int(count**0.5) + 1)
    divisors = [int(n) for n in rows[count % rows == 0]][::-1]
    return list(dict.fromkeys(shape for n in divisors for shape in ((n, count // n), (count // n, n))))


def choose_shape(count, given, stated=(), grows=False):
    """Choose the shape of a scan.

    Parameters
    ----------
    count : int
        Number of frames in the file.
    given : tuple of int or None
        The shape that the caller wants.
    stated : sequence of StatedShape, optional
        Shapes that the file states.
    grows : bool, optional
        Whether the detector writes frame after frame, so that a file may end before the scan.

    Returns
    -------
    shape : tuple of int
        (Rx, Ry); Rx * Ry may be less than `count` if the last row of an interrupted scan is incomplete, or if there are
        a few frames more than positions.
    flags : tuple of Flag
        Flags on stated shapes or frames that were left out.

    Raises
    ------
    PrenetError
        If the given shape does not fit, or no shape is certain. The message is the end of a sentence about the file.
    """
    if given is not None:
        extra, whole = count - given[0] * given[1], _whole_rows(count, given[1])
        if extra == 0:
            return given, ()
        if grows and extra < 0 and whole:
            return (whole, given[1]), (_cut_short(count, given),)
        if grows and 0 < extra < given[1] and count % given[0]:  # too few for a flyback frame in every row
            return given, (Flag("frames_left_over", {"frames": count, "extra": extra}),)
        raise PrenetError(f"holds {_frames(count)}, which do not fill a scan of {shape_text(given)}; {_listed(count)}")
    fitting = {}  # by source, which may state several
    for s in stated:
        if s.size == count:
            fitting.setdefault(s.source, set()).add((s.rows, s.columns))
    agreed = set.intersection(*fitting.values()) if fitting else set()
    wrong = [s for s in stated if s.certain and s.size != count]
    if len({(s.rows, s.columns) for s in wrong}) == 1 and not agreed and grows and wrong[0].size > count:
        whole = _whole_rows(count, wrong[0].columns)
        if whole:
            return (whole, wrong[0].columns), (_cut_short(count, (wrong[0].rows, wrong[0].columns)),)
    if not wrong:
        if len(agreed) == 1:
            return agreed.pop(), ()
        if count == 1 and grows:
            return (1, 1), ()
    told = "; ".join(f"{s.source} says {s.rows} x {s.columns}{_flyback(count, s)}" for s in stated if s.certain)
    raise PrenetError(f"holds {_frames(count)}, and the shape of the scan is not certain"
                      f"{f' ({told})' if told else ''}; {_listed(count)}")


def period_of_gaps(times, resolution=0) -> int | None:
    """Find after how many frames the pauses between frames repeat, as at the ends of scan rows.

    Parameters
    ----------
    times : ndarray, shape (n,)
        Time of each frame.
    resolution : float, optional
        Resolution of the clock, in the same unit.

    Returns
    -------
    int or None
        Frames in a row; None if no regular pauses stand out.

    Examples
    --------
    >>> period_of_gaps(np.array([0, 1, 2, 10, 11, 12, 20, 21, 22]))
    3
    >>> period_of_gaps(np.arange(9.0))
    """
    gaps = np.diff(np.asarray(times))
    if len(gaps) < 3:
        return None
    long = np.flatnonzero(gaps > (gaps.min() + gaps.max()) / 2)
    others = np.delete(gaps, long)
    # A pause must stand out of the scatter of all other gaps, and pauses must come at equal distances from the first
    # frame on.
    if not len(long) or gaps[long].min() - others.max() <= MIN_PAUSE * max(np.ptp(others), resolution):
        return None
    period = int(long[0]) + 1
    return period if period > 1 and np.array_equal(long, np.arange(period - 1, len(gaps), period)) else None


def _whole_rows(count, columns):
    return count // columns


def _cut_short(count, shape):
    rows = _whole_rows(count, shape[1])
    return Flag("scan_cut_short", {"frames": count, "stated": shape[0] * shape[1], "rows": rows,
                                   "stated_rows": shape[0], "columns": shape[1]})


def _flyback(count, stated):
    """Describe the number of frames as that of a detector that also records while the beam flies back."""
    columns = count // stated.rows
    if count % stated.rows or columns <= stated.columns:
        return ""
    return f", which with {columns - stated.columns} flyback frames in each row is {stated.rows} x {columns}"


def _frames(count):
    return f"{count} frame{'s' * (count != 1)}"


def _listed(count):
    shapes = [shape_text(shape) for shape in possible_shapes(count)]
    return (f"give scan_shape=(rows, columns), in a shell --scan rows,columns; possible are "
            f"{shortened(shapes, MAX_SHAPES_TOLD)}.")


def shortened(texts, most: int) -> str:
    """List texts in a sentence, and only the number of those after the first `most`.

    Parameters
    ----------
    texts : list of str
        The texts.
    most : int
        Largest number that is listed.

    Returns
    -------
    str
        The list.

    Examples
    --------
    >>> shortened(["a.h5", "b.h5", "c.h5"], 2)
    'a.h5, b.h5 and 1 more'
    """
    rest = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + rest
