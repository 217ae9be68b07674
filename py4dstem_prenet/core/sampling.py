"""Even samples of scan positions."""

import numpy as np

from .reading import shape_of
from .sample import Sample


def sample_positions(scan, count):
    """At most `count` flat scan positions on a grid over a (Rx, Ry) scan, about even, ascending.

    Each row and column of the grid lies anywhere in its cell: at equal steps, of a scan of 256 x 256 only even rows
    would be seen, though those that were scanned backward are others, and of a periodic one a single phase.
    """
    rows = int(np.clip(round(np.sqrt(count * scan[0] / scan[1])), 1, min(scan[0], count)))
    columns = min(scan[1], count // rows)
    i, j = (_anywhere(size, n) for size, n in zip(scan, (rows, columns), strict=True))
    return (i[:, None] * scan[1] + j).ravel()


def _anywhere(size, count):
    """One number out of each of `count` equal parts of range(size), ascending."""
    ends = np.arange(count + 1) * size // count
    # Multiples of the golden ratio's inverse fill a part evenly (Weyl 1916), whatever their number.
    return ends[:-1] + (np.diff(ends) * (np.arange(1, count + 1) * (5**0.5 - 1) / 2 % 1)).astype(np.int64)


def evenly(data, count):
    """`sample_positions` of a scan; of a `Sample` of one that lacks some of these, evenly from those it has."""
    grid = sample_positions(shape_of(data)[:2], count)
    if not isinstance(data, Sample) or data.has(grid):
        return grid
    held = data.positions
    return held[np.unique(np.linspace(0, len(held) - 1, min(count, len(held))).astype(np.int64))]
