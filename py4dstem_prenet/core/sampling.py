"""Scan positions in one list: even samples of them, and their origins."""

from __future__ import annotations

import numpy as np

from .scan import Scan


def flat_origins(scan_shape, qx0, qy0) -> np.ndarray:
    """Return the origin of each scan position, in the order of the scan.

    Parameters
    ----------
    scan_shape : tuple of int
        (Rx, Ry).
    qx0, qy0 : float or array_like, shape (Rx, Ry)
        Origin, pixels; a number stands for all positions.

    Returns
    -------
    numpy.ndarray, shape (Rx * Ry, 2)
        (qx0, qy0) of each position, pixels.

    Examples
    --------
    >>> flat_origins((1, 2), 3.0, [[4.0, 5.0]]).tolist()
    [[3.0, 4.0], [3.0, 5.0]]
    """
    return np.stack([np.broadcast_to(np.asarray(q, float), scan_shape).ravel() for q in (qx0, qy0)], 1)


def usable_positions(scan: Scan, origin, valid=None) -> np.ndarray:
    """Tell which positions of a scan can be read, have an origin, and are valid.

    Parameters
    ----------
    scan : Scan
        The scan.
    origin : numpy.ndarray, shape (Rx * Ry, 2)
        Origin of each position, pixels, from `flat_origins`.
    valid : array_like of bool, shape (Rx, Ry), optional
        True where a position may be used.

    Returns
    -------
    numpy.ndarray of bool, shape (Rx * Ry,)
        True for these positions.
    """
    usable = np.isfinite(origin).all(1) & scan.readable.ravel()
    return usable if valid is None else usable & np.asarray(valid, bool).ravel()


def sample_positions(scan_shape, count: int) -> np.ndarray:
    """Choose scan positions on an even grid.

    Each row and column of the grid lies anywhere in its cell. At equal steps, of a scan of 256 x 256 only even rows
    would be seen, although rows that were scanned backward are odd; and of a periodic specimen a single phase.

    Parameters
    ----------
    scan_shape : tuple of int
        (Rx, Ry).
    count : int
        Largest number of positions.

    Returns
    -------
    numpy.ndarray
        Flat scan positions, ascending.

    Notes
    -----
    Multiples of the golden ratio's inverse fill a cell evenly, whatever their number (Weyl, Math. Ann. 77, 313 (1916)).

    Examples
    --------
    >>> sample_positions((4, 4), 4)
    array([ 5,  6,  9, 10])
    """
    rows = int(np.clip(round(np.sqrt(count * scan_shape[0] / scan_shape[1])), 1, min(scan_shape[0], count)))
    columns = min(scan_shape[1], count // rows)
    i, j = (_one_of_each(size, n) for size, n in zip(scan_shape, (rows, columns), strict=True))
    return (i[:, None] * scan_shape[1] + j).ravel()


def _one_of_each(size, count):
    """Return one number from each of `count` equal parts of range(size), ascending."""
    ends = np.arange(count + 1) * size // count
    return ends[:-1] + (np.diff(ends) * (np.arange(1, count + 1) * (5**0.5 - 1) / 2 % 1)).astype(np.int64)


def spread_positions(scan: Scan, count: int) -> np.ndarray:
    """Choose positions that are spread evenly over a scan and can be read.

    Parameters
    ----------
    scan : Scan
        The scan, or a sample of one.
    count : int
        Largest number of positions.

    Returns
    -------
    numpy.ndarray
        Flat scan positions, ascending: those of `sample_positions` if all of these can be read, otherwise evenly chosen
        ones of those that can.
    """
    grid = sample_positions(scan.scan_shape, count)
    if scan.holds(grid):
        return grid
    readable = scan.positions
    return readable[np.unique(np.linspace(0, len(readable) - 1, min(count, len(readable))).astype(np.int64))]
