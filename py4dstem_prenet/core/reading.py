"""Diffraction patterns out of any 4-D array, a block at a time, in bounded memory.

An array here is a numpy array or memmap, an `h5py.Dataset`, a dask array or anything that slices like them,
with axes (Rx, Ry, Qx, Qy). Wherever an array is taken, a py4DSTEM `DataCube` that holds one may be given.

What reading may hold is a quarter of the memory that is free, or as many GiB as the environment variable
PY4DSTEM_PRENET_MEMORY says, however large the file. Values keep their type until a block is computed with.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .errors import PrenetError
from .memory import budget

BLOCK_BYTES = 64 * 2**20  # of one block once it is float32, at most; more makes nothing faster
SMALLEST_SIDE = 32  # px; below that there is no room for a disk and its surroundings


def _array(data):
    """The array inside a DataCube, or `data` itself (numpy's own `.data` is a memoryview)."""
    return data.data if hasattr(data, "R_Nx") else data


def shape_of(data):
    """(Rx, Ry, Qx, Qy) of a DataCube or array. Raises PrenetError where there are not four axes."""
    shape = getattr(_array(data), "shape", None)
    if shape is None or len(shape) != 4:
        found = "something without a shape" if shape is None else f"an array of shape {tuple(shape)}"
        raise PrenetError(
            f"A 4D-STEM scan with axes (Rx, Ry, Qx, Qy) is needed, not {found}; "
            "give a single pattern as pattern[None, None]."
        )
    return tuple(int(n) for n in shape)


def check(data):
    """Refuse, without reading any of it, data that no stage can work on.

    Raises PrenetError where the data are not 4-D, the scan is empty, a pattern's side is below 32 px, the
    numbers are not real, or the array is masked.
    """
    rx, ry, qx, qy = shape_of(data)
    dtype = np.dtype(_array(data).dtype)
    if dtype.kind not in "iuf":
        raise PrenetError(
            f"The data are of type {dtype}, but intensities must be integer or floating-point numbers; "
            "convert them first (for example data.astype('float32'))."
        )
    if rx * ry == 0:
        raise PrenetError(f"The scan is empty: its shape is ({rx}, {ry}).")
    if min(qx, qy) < SMALLEST_SIDE:
        raise PrenetError(
            f"The patterns are {qx} x {qy} px, and at least {SMALLEST_SIDE} x {SMALLEST_SIDE} are needed; "
            "use less binning, or check that the axes are (Rx, Ry, Qx, Qy)."
        )
    if isinstance(_array(data), np.ma.MaskedArray):
        raise PrenetError("The data are a masked array, whose mask would be lost; give a plain array.")


def _storage_chunk(array, allowed):
    """Scan positions that are read together, as (rows, columns); (1, 1) where single patterns can be read.

    These are whole storage chunks: a compressed chunk must be unpacked as a whole, and should be once. A chunk of
    more than `allowed` positions is parted along the scan as little as that allows.
    """
    chunks = getattr(array, "chunks", None)
    if not chunks:
        return 1, 1
    rows, columns = (c if np.isscalar(c) else max(c) for c in chunks[:2])  # dask lists every chunk's length
    rows, columns = min(rows, array.shape[0]), min(columns, array.shape[1])
    if rows * columns <= allowed:
        return rows, columns
    if hasattr(array, "id") and array.id.get_create_plist().get_nfilters() == 0:
        return 1, 1  # HDF5 reads parts of a chunk that nothing was done to
    columns = _part(columns, array.shape[1], allowed)
    return _part(rows, array.shape[0], max(1, allowed // columns)), columns


def _part(chunk, size, allowed):
    """The longest part of a chunk along an axis, such that no part reaches into the next chunk."""
    if chunk <= allowed:
        return chunk
    if chunk == size:  # there is no next one
        return -(-chunk // -(-chunk // allowed))
    return max(n for n in range(1, allowed + 1) if chunk % n == 0)


def _tiles(shape, chunk, limit):
    """Rectangles of the scan, as pairs of slices: whole storage chunks, about `limit` positions.

    They are as square as that allows, since neighbors are looked for within one; scans of a width up to twice that
    of the square go by whole rows, as they are stored.
    """
    square = limit**0.5
    columns = _parted(shape[1], chunk[1], shape[1] if shape[1] <= 2 * square else square)
    rows = _parted(shape[0], chunk[0], limit / max(np.diff(columns)))
    if len(rows) == 2:
        columns = _parted(shape[1], chunk[1], limit / shape[0])
    yield from product(*([slice(*ends) for ends in pairwise(edges)] for edges in (rows, columns)))


def _parted(size, chunk, wanted):
    """Where the parts of an axis begin and end: whole chunks, `wanted` at most if a chunk is no longer than that, and
    nearly the same for all parts."""
    chunks = -(-size // chunk)
    parts = -(-chunks // max(1, int(wanted / chunk)))
    return [min(chunks * k // parts * chunk, size) for k in range(parts + 1)]


def _groups(positions, columns, chunk, limit):
    """Split flat positions into runs of about `limit`, never parting those that share a storage chunk."""
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


def _read_points(array, rows, columns, key):
    if isinstance(array, np.ndarray):
        return np.asarray(array[rows, columns])
    if hasattr(array, "dask"):
        return np.asarray(array.vindex[rows, columns])
    if hasattr(array, "read_at"):  # scattered positions at once
        return array.read_at(rows, columns)
    block = np.empty((len(rows), *array.shape[2:]), array.dtype)
    for k in np.unique(key):  # one storage chunk at a time: the part of it that holds all positions wanted
        at = np.flatnonzero(key == k)
        i, j = rows[at].min(), columns[at].min()
        box = array[i : rows[at].max() + 1, j : columns[at].max() + 1]
        block[at] = box[rows[at] - i, columns[at] - j]
    return block


def _usable(block, index, columns):
    """The block in native byte order; raises PrenetError where a pattern holds NaN or infinity."""
    block = np.ascontiguousarray(block, dtype=block.dtype.newbyteorder("="))
    # NaN passes through minimum and maximum, so no temporary array is needed.
    if block.dtype.kind == "f" and not np.isfinite([block.min(), block.max()]).all():
        bad = index[~np.isfinite(block).all(axis=(1, 2))][0]
        raise PrenetError(
            f"The data contain NaN or infinite values at scan position {divmod(int(bad), columns)}; "
            "replace them first, or leave the position out."
        )
    return block


def _place(flat, array):
    return tuple(int(n) for n in divmod(int(flat), array.shape[1]))


class Unchanged:
    """Notices that the file behind an array is written while it is read: its size or time of change differ.

    A file that another one was put in the place of is no such case: what was opened stays as it was. Nor is one that
    the reader itself has open for writing, or reads while it grows (SWMR).
    """

    def __init__(self, array):
        file = getattr(array, "file", None)
        if file is None:  # a memory map, or nothing that lies in a file
            name = getattr(array, "filename", None) if getattr(array, "mode", None) in ("r", "c") else None
        else:
            growing = getattr(file, "swmr_mode", False)
            name = file.filename if getattr(file, "mode", None) == "r" and not growing else None
        self._path = None if name is None else Path(os.fsdecode(name))
        self._before = self._state()

    def _state(self):
        try:
            found = None if self._path is None else self._path.stat()
        except OSError:  # it is gone, which does not matter to who has it open
            return None
        return found and (found.st_ino, found.st_size, found.st_mtime_ns)

    def check(self):
        """Raise PrenetError where the file changed since this was made."""
        now = self._state()
        if now and self._before and now[0] == self._before[0] and now != self._before:
            raise PrenetError(f"{self._path} was written while it was read, so what was read may belong to two scans; "
                              "wait until it is finished, and start again.")


@dataclass(frozen=True)
class Job:
    """What is read at a time. index: (n,) int64, flat scan positions, ascending.

    tile: (rows, columns), slices of the scan that hold these positions and no other; None for single positions,
    with key: (n,), the storage chunk of each.
    """

    index: np.ndarray
    tile: tuple[slice, slice] | None = None
    key: np.ndarray | None = None

    def select(self, array):
        """The part of an array (Rx, Ry, Qx, Qy) that the job wants, read where reading is not lazy.

        Raises PrenetError where the file is damaged there, or needs an HDF5 filter that is not installed.
        """
        try:
            return self._select(array)
        except OSError as error:
            raise PrenetError(self._unreadable(array, error)) from error

    def _unreadable(self, array, error):
        """Which part of which file cannot be read, in a sentence."""
        file = getattr(array, "file", None)
        if file is None or not getattr(array, "chunks", None):
            return f"The data cannot be read from scan position {_place(self.index[0], array)} on: {error}."
        rows, columns = np.divmod(self.index, array.shape[1])
        for i, j in sorted(set(zip((rows // array.chunks[0]).tolist(), (columns // array.chunks[1]).tolist(),
                                   strict=True))):
            first = (i * array.chunks[0], j * array.chunks[1])
            held = tuple(slice(n, n + size) for n, size in zip(first, array.chunks[:2], strict=True))
            try:
                array[held]
            except OSError:
                last = tuple(min(h.stop, size) - 1 for h, size in zip(held, array.shape[:2], strict=True))
                holds = f"position {first}" if first == last else f"positions {first} to {last}"
                return (f"{file.filename} is damaged: of {array.name} the chunk with scan {holds} cannot be read or "
                        "unpacked; copy the file again from where it came, or crop these positions off.")
        return f"{file.filename} could not be read once, and then it could ({error}); try again."

    def _select(self, array):
        if self.tile is not None:
            return array[self.tile]
        rows, columns = np.divmod(self.index, array.shape[1])
        if hasattr(array, "dask"):
            return array.vindex[rows, columns]
        return _read_points(array, rows, columns, self.key)

    def block(self, selected, columns):
        """(n, Qx, Qy), our own copy in native byte order, of what was selected; `columns`: Ry.

        Raises PrenetError where a pattern holds NaN or infinity.
        """
        block = np.asarray(selected)
        # A consumer may write into its block; what it must never write into is the user's data.
        if not block.flags.owndata or hasattr(selected, "dask"):
            block = np.array(block)
        return _usable(block.reshape(-1, *block.shape[-2:]), self.index, columns)


def plan(data, chunk=None, positions=None, skip=None):
    """How a scan is read: `(chunk, total, jobs)`: patterns in a block at most, patterns in all, and an iterator of
    jobs, each of which is read at once and cut into blocks. Arguments as for `patterns`.
    """
    check(data)
    array = _array(data)
    rx, ry, qx, qy = shape_of(array)
    memory, itemsize = budget(), np.dtype(array.dtype).itemsize
    # Held at a time are the block in use, the next one, HDF5's own copy while it unpacks, and what is computed.
    limit = max(1, min(BLOCK_BYTES, memory // 8) // (qx * qy * max(itemsize, 4)))
    chunk = limit if chunk is None else max(1, min(int(chunk), limit))
    stored = _storage_chunk(array, max(chunk, memory // 4 // (qx * qy * itemsize)))

    if positions is None:
        total = rx * ry
        flat = np.arange(total, dtype=np.int64).reshape(rx, ry)
        jobs = (Job(flat[tile].ravel(), tile) for tile in _tiles((rx, ry), stored, chunk))
    else:
        positions = np.asarray(positions, dtype=np.int64).ravel()
        total = len(positions)
        if total and (positions[0] < 0 or positions[-1] >= rx * ry or (np.diff(positions) <= 0).any()):
            raise PrenetError(f"Scan positions must ascend without repeats, from 0 to {rx * ry - 1} at most.")
        jobs = (Job(index, key=key) for index, key in _groups(positions, ry, stored, chunk))
    if skip is not None:
        total -= int(np.count_nonzero(skip if positions is None else skip[positions]))
        jobs = (job for job in jobs if not skip[job.index].all())
    return chunk, total, jobs


def patterns(data, chunk=None, progress=None, positions=None, skip=None):
    """Yield all patterns of a scan, or some of them, as `(index, block)`, reading the next block meanwhile.

    index: (n,) int64, flat scan positions (C order over (Rx, Ry)), ascending within a block. Blocks follow
    the storage, so they need not follow one another: place results by `index`. block: (n, Qx, Qy), the
    caller's own copy, in the type of the data and native byte order.

    Args:
        data: a DataCube or array of shape (Rx, Ry, Qx, Qy).
        chunk: at most so many patterns a block; by default about 64 MiB of them once they are float32.
        progress: a title, to show a bar that counts patterns.
        positions: flat scan positions in ascending order, to read only those.
        skip: (Rx * Ry,) bool, True where nothing is wanted any more. The blocks are the same ones as without;
            those that hold nothing else are left out.

    Raises PrenetError as `check` does, at the first pattern that holds NaN or infinity, and where the file is damaged
    or was written meanwhile.
    """
    chunk, total, jobs = plan(data, chunk, positions, skip)
    array = _array(data)
    columns = shape_of(array)[1]
    file = Unchanged(array)

    def read(job):
        file.check()  # a memory map of a file that was cut would end the process
        try:
            return job.index, job.block(job.select(array), columns)
        except PrenetError:
            file.check()  # what another writes looks like damage
            raise

    # Leaving the executor waits for the one read under way, so that closing the generator early leaks no
    # thread and the caller may close the file.
    with progress_bar(total, progress) as bar, ThreadPoolExecutor(1, thread_name_prefix="prenet-read") as reader:
        job = next(jobs, None)
        coming = reader.submit(read, job) if job else None
        while coming is not None:
            index, block = coming.result()
            job = next(jobs, None)
            coming = reader.submit(read, job) if job else None
            for part in parts(len(index), chunk):  # a storage chunk may hold more than a block
                yield index[part], block[part]
                bar.update(len(index[part]))


def read_at(data, positions) -> np.ndarray:
    """The patterns (n, Qx, Qy) at flat scan positions (n,) in ascending order, in that order, as they are stored."""
    dtype = np.dtype(_array(data).dtype).newbyteorder("=")
    out = np.empty((len(positions), *shape_of(data)[2:]), dtype)
    for index, block in patterns(data, positions=positions):
        out[np.searchsorted(positions, index)] = block
    return out


def parts(total, size):
    """Slices of at most `size` that cover range(total) in order."""
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def progress_bar(total, title):
    """A bar that counts patterns, patterns a second and the time left; silent without a title."""
    return tqdm(total=total, desc=title, unit=" patterns", disable=title is None)
