"""Plan the reading of a scan: positions that are read together, their order, and the memory.

A scan is read in jobs: a rectangle of the scan, or some of its positions, that follow the storage, so that every chunk
of a compressed file is unpacked once. Jobs are cut into blocks of patterns that fit into the memory budget
(`memory.budget`). Values keep their type until a block is computed with.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from . import PrenetError, budget

if TYPE_CHECKING:
    from . import Scan

BLOCK_BYTES = 64 * 2**20  # bytes; largest size of a block as float32: larger blocks were not faster
REDRAW_SECONDS = 1.0  # seconds; time after which a progress bar is redrawn even if no block was finished


@dataclass(frozen=True)
class Job:
    """Positions that are read together.

    Attributes
    ----------
    index : numpy.ndarray
        (n,) int64, flat scan positions, ascending.
    tile : tuple of slice or None
        Rows and columns of the scan that hold exactly these positions; None for single positions.
    key : numpy.ndarray or None
        (n,) int64, the storage chunk of each position where `tile` is None.
    """

    index: np.ndarray
    tile: tuple[slice, slice] | None = None
    key: np.ndarray | None = None

    def select(self, scan: Scan):
        """Select these patterns of a scan.

        Parameters
        ----------
        scan : Scan
            The scan to read from.

        Returns
        -------
        array
            Patterns, (rows, columns, Qx, Qy) or (n, Qx, Qy); a dask array where reading is lazy.

        Raises
        ------
        PrenetError
            The file is damaged at these positions, or needs an HDF5 filter that is not installed.
        """
        try:
            if self.tile is not None:
                return scan.read_tile(self.tile)
            return scan.read_points(*np.divmod(self.index, scan.scan_shape[1]), self.key)
        except OSError as error:
            raise PrenetError(scan.describe_failure(self.index, error)) from error

    def block(self, selected, columns: int, invalid=None) -> np.ndarray:
        """Load what `select` returned.

        Parameters
        ----------
        selected : array
            Patterns as `select` returned them.
        columns : int
            Scan columns, Ry.
        invalid : numpy.ndarray of bool, shape (Qx, Qy), optional
            `Scan.invalid_pixels`, which are set to 0.

        Returns
        -------
        numpy.ndarray
            (n, Qx, Qy), a copy in native byte order that the caller may change.

        Raises
        ------
        PrenetError
            A valid pixel holds NaN or infinity.
        """
        block = np.asarray(selected)
        if block.dtype == bool:
            block = block.view(np.uint8)  # one-bit counts
        if block is not selected or not block.flags.owndata:
            block = np.array(block)
        block = block.reshape(-1, *block.shape[-2:])
        block = np.ascontiguousarray(block, dtype=block.dtype.newbyteorder("="))
        if invalid is not None:
            block[:, invalid] = 0
        if not all_finite(block):
            bad = self.index[~np.isfinite(block).all(axis=(1, 2))][0]
            raise PrenetError(
                f"The data contain NaN or infinite values at scan position {divmod(int(bad), columns)}; "
                "replace them first, or leave the position out."
            )
        return block


def all_finite(patterns) -> bool:
    """Tell whether patterns hold neither NaN nor infinity.

    Parameters
    ----------
    patterns : numpy.ndarray
        The patterns, in any type of numbers.

    Returns
    -------
    bool
        True if all values are finite.
    """
    if patterns.dtype.kind != "f" or not patterns.size:
        return True
    # NaN passes through minimum and maximum, so no temporary array is needed.
    return bool(np.isfinite([patterns.min(), patterns.max()]).all())


def plan_reading(scan: Scan, chunk=None, positions=None, skip=None) -> tuple[int, int, Iterator[Job]]:
    """Plan how a scan is read. The parameters are those of `Scan.blocks`.

    Parameters
    ----------
    scan : Scan
        The scan to read.
    chunk : int, optional
        Largest number of patterns in a block.
    positions : array_like of int, optional
        Flat scan positions in ascending order; all by default.
    skip : numpy.ndarray of bool, optional
        (Rx * Ry,), True at positions that are not needed.

    Returns
    -------
    chunk : int
        Largest number of patterns in a block.
    total : int
        Patterns that will be read.
    jobs : iterator of Job
        The jobs, in the order of the storage.

    Raises
    ------
    PrenetError
        The positions do not ascend, or lie outside the scan.
    """
    (rx, ry), (qx, qy) = scan.scan_shape, scan.pattern_shape
    memory, itemsize = budget(), scan.dtype.itemsize
    # Four things are in memory at a time: the current block, the next one, HDF5's own copy, and results.
    limit = max(1, min(BLOCK_BYTES, memory // 8) // (qx * qy * max(itemsize, 4)))
    chunk = limit if chunk is None else max(1, min(int(chunk), limit))
    stored = scan.storage_chunk(max(chunk, memory // 4 // (qx * qy * itemsize)))

    if positions is None:
        total = rx * ry
        flat = np.arange(total, dtype=np.int64).reshape(rx, ry)
        jobs = (Job(flat[tile].ravel(), tile) for tile in _tiles((rx, ry), stored, chunk))
    else:
        positions = np.asarray(positions, dtype=np.int64).ravel()
        total = len(positions)
        if total and (positions[0] < 0 or positions[-1] >= rx * ry or (np.diff(positions) <= 0).any()):
            raise PrenetError(f"Scan positions must be ascending integers from 0 to {rx * ry - 1}, each once at most.")
        jobs = (Job(index, key=key) for index, key in _groups(positions, ry, stored, chunk))
    if skip is not None:
        total -= int(np.count_nonzero(skip if positions is None else skip[positions]))
        jobs = (job for job in jobs if not skip[job.index].all())
    return chunk, total, jobs


def _tiles(shape, chunk, limit):
    """Yield rectangles of the scan, as pairs of slices: whole storage chunks, about `limit` positions.

    Tiles are about square, since neighbors are compared within a tile; a scan up to twice as wide as the square is
    read by whole rows, as it is stored.
    """
    square = limit**0.5
    columns = _edges(shape[1], chunk[1], shape[1] if shape[1] <= 2 * square else square)
    rows = _edges(shape[0], chunk[0], limit / max(np.diff(columns)))
    if len(rows) == 2:
        columns = _edges(shape[1], chunk[1], limit / shape[0])
    yield from product(*([slice(*ends) for ends in pairwise(edges)] for edges in (rows, columns)))


def _edges(size, chunk, wanted):
    """Return the edges of nearly equal parts of an axis, in whole chunks, each about `wanted` long."""
    chunks = -(-size // chunk)
    count = -(-chunks // max(1, int(wanted / chunk)))
    return [min(chunks * k // count * chunk, size) for k in range(count + 1)]


def _groups(positions, columns, chunk, limit):
    """Split flat positions into runs of about `limit`; positions that share a storage chunk stay together."""
    i, j = np.divmod(positions, columns)
    key = (i // chunk[0]) * -(-columns // chunk[1]) + j // chunk[1]
    order = np.argsort(key, kind="stable")
    positions, key = positions[order], key[order]
    start = 0
    while start < len(positions):
        stop = min(start + limit, len(positions))
        first = np.searchsorted(key, key[stop - 1], "left")
        last = np.searchsorted(key, key[stop - 1], "right")
        stop = last if first <= start else (stop if last == stop else first)
        ascending = start + np.argsort(positions[start:stop])
        yield positions[ascending], key[ascending]
        start = stop


def longest_part(chunk: int, size: int, allowed: int) -> int:
    """Return the longest part of a storage chunk along an axis that fits and does not reach into the next chunk.

    Parameters
    ----------
    chunk : int
        Length of a chunk along the axis.
    size : int
        Length of the axis.
    allowed : int
        Longest part that is allowed.

    Returns
    -------
    int
        Length of the part.
    """
    if chunk <= allowed:
        return chunk
    if chunk == size:  # there is one chunk only
        return -(-chunk // -(-chunk // allowed))
    return max(n for n in range(1, allowed + 1) if chunk % n == 0)


class UnchangedFile:
    """Check that a file is not written while it is read, by its size and time of change.

    A file that is replaced by another one under the same name is no such case: the opened file stays as it was.

    Parameters
    ----------
    path : path-like or None
        The file; None if the data do not lie in a file, or in one that this process itself writes.
    """

    def __init__(self, path):
        self._path = None if path is None else Path(os.fsdecode(path))
        self._before = self._state()

    def _state(self):
        try:
            status = None if self._path is None else self._path.stat()
        except OSError:  # deleted, which does not matter to a process that has it open
            return None
        return status and (status.st_ino, status.st_size, status.st_mtime_ns)

    def check(self):
        """Raise PrenetError if the file changed since this object was made."""
        now = self._state()
        if now and self._before and now[0] == self._before[0] and now != self._before:
            raise PrenetError(f"{self._path} changed while it was read, so its patterns may belong to two scans; wait "
                              "until the file is complete, and start again.")


def parts(total: int, size: int) -> list[slice]:
    """Cut range(total) into consecutive slices.

    Parameters
    ----------
    total : int
        Length of the range.
    size : int
        Largest length of a slice.

    Returns
    -------
    list of slice
        The slices, in order.

    Examples
    --------
    >>> parts(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


@contextmanager
def progress_bar(total: int, title: str | None):
    """Show a progress bar that counts patterns; its rate is the mean since the start.

    Whoever shows it advances it (`bar.update(n)`) when patterns are finished, not when they are read.

    Parameters
    ----------
    total : int
        Patterns in all.
    title : str or None
        Name of the stage; None shows nothing.

    Yields
    ------
    tqdm.tqdm
        The bar.
    """
    with _redrawn(tqdm(total=total, desc=title, unit=" patterns", disable=title is None, smoothing=0)) as bar:
        yield bar


@contextmanager
def stage_bar(title: str, stages, shown: bool):
    """Show a progress bar of named stages.

    Parameters
    ----------
    title : str
        Name of the task of the stages.
    stages : sequence of str
        Names of the stages, in order.
    shown : bool
        Whether to show the bar.

    Yields
    ------
    callable
        To be called at the end of each stage.
    """
    # Without a time that remains, since stages differ in length.
    with _redrawn(tqdm(total=len(stages), desc=f"{title}: {stages[0]}", disable=not shown,
                       bar_format="{desc}: {n_fmt} of {total_fmt} stages done, {elapsed}")) as bar:
        def advance():
            bar.update()
            bar.set_description_str(f"{title}: {stages[bar.n]}" if bar.n < len(stages) else title)

        yield advance


@contextmanager
def _redrawn(bar):
    """Redraw a bar every REDRAW_SECONDS, so that its clock runs during a long block; close it at the end."""
    ended = Event()

    def redraw():
        while not ended.wait(REDRAW_SECONDS):
            bar.refresh()

    thread = Thread(target=redraw, name="prenet-bar", daemon=True)
    with bar:
        if not bar.disable:
            thread.start()
        try:
            yield bar
        finally:
            ended.set()
            if not bar.disable:
                thread.join()
