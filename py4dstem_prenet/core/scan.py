"""Access to the patterns of a scan in any kind of array or file.

A `Scan` gives the patterns of scan positions in bounded memory. There is one for arrays in memory and memory maps, one
for HDF5, one for dask arrays, one for any object that slices like an array, and one for patterns that were kept from a
scan. Only `as_scan` distinguishes kinds of data; every other function takes a `Scan`.
"""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, partial

import h5py
import numpy as np

from . import PrenetError, UnchangedFile, longest_part, parts, plan_reading

READING_ERRORS = (OSError, ValueError, RuntimeError, KeyError, EOFError)  # raised if a file vanishes or ends early
MIN_SIDE = 32  # pixels; smallest side of a pattern with room for a disk and its surroundings


class Scan(ABC):
    """Patterns of a scan with axes (Rx, Ry, Qx, Qy).

    Attributes
    ----------
    scan_shape : tuple of int
        (Rx, Ry), positions.
    pattern_shape : tuple of int
        (Qx, Qy), pixels.
    dtype : numpy.dtype
        Type of the values as they are stored.
    """

    scan_shape: tuple[int, int]
    pattern_shape: tuple[int, int]
    dtype: np.dtype

    # --- what an implementation provides ---------------------------------------------------------------------

    def read_tile(self, tile):
        """Read a rectangle of the scan; by default, its positions one by one.

        Parameters
        ----------
        tile : tuple of slice
            Rows and columns of the scan.

        Returns
        -------
        array
            Patterns (rows, columns, Qx, Qy).
        """
        rows, columns = (np.arange(n)[part] for n, part in zip(self.scan_shape, tile, strict=True))
        index = np.add.outer(rows * self.scan_shape[1], columns).ravel()
        block = self.read_points(*np.divmod(index, self.scan_shape[1]), None)
        return block.reshape(len(rows), len(columns), *self.pattern_shape)

    @abstractmethod
    def read_points(self, rows, columns, key):
        """Read single positions.

        Parameters
        ----------
        rows, columns : numpy.ndarray of int
            (n,) of each position.
        key : numpy.ndarray of int or None
            (n,), the storage chunk of each position; None if the positions are a rectangle.

        Returns
        -------
        array
            Patterns (n, Qx, Qy).
        """

    def storage_chunk(self, allowed: int) -> tuple[int, int]:
        """Return how many positions should be read together.

        Parameters
        ----------
        allowed : int
            Positions at most.

        Returns
        -------
        tuple of int
            Scan rows and columns; (1, 1) if single patterns can be read.
        """
        return 1, 1

    @property
    def in_memory(self) -> bool:
        """Whether reading a pattern again costs nothing."""
        return False

    @property
    def deferred(self) -> bool:
        """Whether `read_tile` and `read_points` return dask arrays that are computed later."""
        return False

    @property
    def file(self):
        """Path of the file that holds the patterns, if a change of it can be noticed; otherwise None."""
        return None

    def reopener(self) -> Callable | None:
        """Return a function that opens the same scan in another process.

        Returns
        -------
        callable or None
            A picklable function that returns a context manager of the scan; None if the patterns lie in no file.
        """
        return None

    def describe_failure(self, index, error) -> str:
        """Describe positions that cannot be read.

        Parameters
        ----------
        index : numpy.ndarray of int
            (n,) flat scan positions.
        error : OSError
            Exception that reading raised.

        Returns
        -------
        str
            One sentence.
        """
        place = tuple(int(n) for n in divmod(int(index[0]), self.scan_shape[1]))
        return f"The data cannot be read from scan position {place} on: {error}."

    @property
    def positions(self) -> np.ndarray:
        """(n,) int64, flat scan positions that can be read, ascending."""
        return np.arange(self.size)

    def holds(self, positions) -> bool:
        """Return whether all of some positions can be read.

        Parameters
        ----------
        positions : array_like of int
            Flat scan positions.

        Returns
        -------
        bool
            True if all can be read.
        """
        return True

    # --- what every scan does --------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(Rx, Ry, Qx, Qy)."""
        return (*self.scan_shape, *self.pattern_shape)

    @property
    def size(self) -> int:
        """Number of scan positions."""
        return self.scan_shape[0] * self.scan_shape[1]

    @property
    def readable(self) -> np.ndarray:
        """(Rx, Ry) bool, positions that can be read."""
        readable = np.zeros(self.scan_shape, bool)
        readable.flat[self.positions] = True
        return readable

    @cached_property
    def invalid_pixels(self) -> np.ndarray | None:
        """(Qx, Qy) bool, pixels with NaN or infinity in all sampled patterns, which are read as 0; None if none."""
        if self.dtype.kind != "f" or not len(self.positions):
            return None
        chosen = np.unique(np.linspace(0, len(self.positions) - 1, 4).astype(int))  # four patterns
        rows, columns = np.divmod(np.asarray(self.positions)[chosen], self.scan_shape[1])
        try:
            sample = np.asarray(self.read_points(rows, columns, np.arange(len(chosen))))
        except READING_ERRORS:  # told where the positions are read for a purpose
            return None
        invalid = ~np.isfinite(sample).any(0)
        return invalid if invalid.any() and not invalid.all() else None

    def blocks(self, chunk=None, positions=None, skip=None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Read all patterns, or some of them, block by block; the next block is read meanwhile.

        Parameters
        ----------
        chunk : int, optional
            Patterns in a block, at most; by default as many as fill 64 MiB as float32.
        positions : array_like of int, optional
            Flat scan positions in ascending order; all by default.
        skip : numpy.ndarray of bool, optional
            (Rx * Ry,), True at positions that are not needed. The blocks are those of a call without `skip`; blocks
            without any needed position are left out.

        Yields
        ------
        index : numpy.ndarray
            (n,) int64, flat scan positions (C order over (Rx, Ry)), ascending within a block. Blocks follow the
            storage, so place results by `index`.
        block : numpy.ndarray
            (n, Qx, Qy), a copy in the type of the data and native byte order.

        Raises
        ------
        PrenetError
            A good pixel holds NaN or infinity, the file is damaged, or it was written meanwhile.
        """
        chunk, _, jobs = plan_reading(self, chunk, positions, skip)
        file = UnchangedFile(self.file)

        def read(job):
            file.check()  # a memory map of a file that was cut would end the process
            try:
                return job.index, job.block(job.select(self), self.scan_shape[1], self.invalid_pixels)
            except PrenetError:
                file.check()  # a file that is being written looks damaged
                raise
            except READING_ERRORS as error:
                file.check()
                raise PrenetError(self.describe_failure(job.index, error)) from error

        # Leaving the executor waits for the read that is under way, so that closing the generator early leaks no
        # thread and the caller may close the file.
        with ThreadPoolExecutor(1, thread_name_prefix="prenet-read") as reader:
            job = next(jobs, None)
            next_block = reader.submit(read, job) if job else None
            while next_block is not None:
                index, block = next_block.result()
                job = next(jobs, None)
                next_block = reader.submit(read, job) if job else None
                for part in parts(len(index), chunk):  # a storage chunk may hold more than a block
                    yield index[part], block[part]

    def read(self, positions) -> np.ndarray:
        """Read patterns.

        Parameters
        ----------
        positions : array_like of int
            (n,) flat scan positions in ascending order.

        Returns
        -------
        numpy.ndarray
            (n, Qx, Qy), in the order of `positions` and in native byte order.
        """
        out = np.empty((len(positions), *self.pattern_shape), self.dtype.newbyteorder("="))
        for index, block in self.blocks(positions=positions):
            out[np.searchsorted(positions, index)] = block
        return out


# --- files that vanish --------------------------------------------------------------------------------------
def silent_sources(array) -> list[str]:
    """List the files of an array that give zeros, instead of an error, when they are missing.

    Parameters
    ----------
    array : array_like
        Any array; HDF5 fills what a virtual data set lacks, and zarr every chunk that is not there.

    Returns
    -------
    list of str
        Their paths.
    """
    if isinstance(array, h5py.Dataset) and array.is_virtual:
        folder = os.path.dirname(os.path.abspath(array.file.filename))
        names = dict.fromkeys(source.file_name for source in array.virtual_sources())
        return [os.path.join(folder, name) for name in names if name != "." and "%" not in name]
    store = getattr(array, "store", None)
    if store is None or type(store).__name__ not in ("DirectoryStore", "NestedDirectoryStore"):
        return []
    return [str(store.path)]


def check_sources(paths) -> None:
    """Check that files are still there.

    Parameters
    ----------
    paths : list of str
        Result of `silent_sources`.

    Raises
    ------
    FileNotFoundError
        If one has vanished.
    """
    for path in paths:
        if not os.path.exists(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


# --- implementations ----------------------------------------------------------------------------------------
class SlicedScan(Scan):
    """A scan in any object that has a shape and a type and slices like an array, such as a zarr array.

    Parameters
    ----------
    array : array_like
        (Rx, Ry, Qx, Qy).
    """

    def __init__(self, array):
        self.array = array
        shape, dtype = tuple(int(n) for n in array.shape), np.dtype(array.dtype)
        self.scan_shape, self.pattern_shape = shape[:2], shape[2:]
        self.dtype = np.dtype(np.uint8) if dtype.kind == "b" else dtype  # truth values are one-bit counts
        self._sources = silent_sources(array)

    def read_tile(self, tile):
        check_sources(self._sources)
        return self.array[tile]

    def read_points(self, rows, columns, key):
        check_sources(self._sources)
        block = np.empty((len(rows), *self.pattern_shape), self.dtype)
        for k in np.unique(key):  # of each storage chunk, the part that holds all wanted positions
            at = np.flatnonzero(key == k)
            i, j = rows[at].min(), columns[at].min()
            box = self.array[i : rows[at].max() + 1, j : columns[at].max() + 1]
            block[at] = box[rows[at] - i, columns[at] - j]
        return block

    @property
    def chunks(self) -> tuple[int, int] | None:
        """(rows, columns) of the largest storage chunk; None if the data are not stored in chunks."""
        chunks = getattr(self.array, "chunks", None)
        return None if not chunks else tuple(min(c, n) for c, n in zip(chunks[:2], self.scan_shape, strict=True))

    def storage_chunk(self, allowed):
        # Whole storage chunks: a compressed chunk must be unpacked as a whole, and should be once. A chunk of more than
        # `allowed` positions is cut along the scan as little as possible.
        if self.chunks is None:
            return 1, 1
        rows, columns = self.chunks
        if rows * columns <= allowed:
            return rows, columns
        columns = longest_part(columns, self.scan_shape[1], allowed)
        return longest_part(rows, self.scan_shape[0], max(1, allowed // columns)), columns


class MemoryScan(SlicedScan):
    """A scan in a numpy array or a memory map."""

    def read_points(self, rows, columns, key):
        return np.asarray(self.array[rows, columns])

    @property
    def in_memory(self):
        return not isinstance(self.array, np.memmap)

    @property
    def file(self):
        return getattr(self.array, "filename", None) if getattr(self.array, "mode", None) in ("r", "c") else None

    def reopener(self):
        root = self.array
        while isinstance(root.base, np.ndarray):
            root = root.base
        if not isinstance(root, np.memmap) or root.filename is None or root.mode == "c":
            return None
        start = root.offset + _address(self.array) - _address(root)
        return partial(_reopen_memory_map, os.path.abspath(root.filename), self.array.dtype, self.array.shape,
                       self.array.strides, start)


class Hdf5Scan(SlicedScan):
    """A scan in an HDF5 data set."""

    def storage_chunk(self, allowed):
        rows, columns = self.chunks or (1, 1)
        if rows * columns > allowed and self.array.id.get_create_plist().get_nfilters() == 0:
            return 1, 1  # HDF5 reads parts of a chunk that is not compressed
        return super().storage_chunk(allowed)

    @property
    def file(self):
        file = self.array.file
        growing = getattr(file, "swmr_mode", False)
        return file.filename if getattr(file, "mode", None) == "r" and not growing else None

    def reopener(self):
        if self.array.file.driver == "core":
            return None
        return partial(_reopen_hdf5, os.path.abspath(self.array.file.filename), self.array.name)

    def describe_failure(self, index, error):
        if not self.array.chunks:
            return super().describe_failure(index, error)
        chunks = self.array.chunks[:2]
        rows, columns = np.divmod(index, self.scan_shape[1])
        for i, j in sorted(set(zip((rows // chunks[0]).tolist(), (columns // chunks[1]).tolist(), strict=True))):
            first = (i * chunks[0], j * chunks[1])
            tile = tuple(slice(n, n + size) for n, size in zip(first, chunks, strict=True))
            try:
                self.array[tile]
            except OSError:
                last = tuple(min(part.stop, size) - 1 for part, size in zip(tile, self.scan_shape, strict=True))
                held = f"position {first}" if first == last else f"positions {first} to {last}"
                return (f"{self.array.file.filename} is damaged: the chunk of {self.array.name} with scan {held} "
                        "cannot be read or unpacked; copy the file again from its source, or crop these positions off.")
        return f"{self.array.file.filename} could not be read at first, and then it could ({error}); try again."


class DaskScan(SlicedScan):
    """A scan in a dask array."""

    deferred = True

    def read_points(self, rows, columns, key):
        return self.array.vindex[rows, columns]

    @property
    def chunks(self):
        return tuple(min(max(c), n) for c, n in zip(self.array.chunks[:2], self.scan_shape, strict=True))


class SampledScan(Scan):
    """Patterns of some positions of a scan, kept in memory; nothing else of the scan can be read.

    Parameters
    ----------
    scan_shape : tuple of int
        (Rx, Ry).
    positions : numpy.ndarray
        (n,) flat scan positions, ascending.
    patterns : numpy.ndarray or list
        (n, Qx, Qy), or a list of n patterns, as the detector stored them.
    """

    positions = np.zeros(0, np.int64)  # in the place of the property of a whole scan
    in_memory = True

    def __init__(self, scan_shape, positions, patterns):
        self.scan_shape, self.positions, self.patterns = tuple(scan_shape), positions, patterns
        first = patterns if isinstance(patterns, np.ndarray) else patterns[0][None]
        self.pattern_shape, self.dtype = tuple(first.shape[1:]), first.dtype

    def holds(self, positions):
        return bool(np.isin(positions, self.positions, assume_unique=True).all())

    def read_points(self, rows, columns, key):
        wanted = rows * self.scan_shape[1] + columns
        if not self.holds(wanted):
            raise PrenetError("This sample of the scan does not hold all requested patterns.")
        return np.stack([self.patterns[k] for k in np.searchsorted(self.positions, wanted)])


# --- scans that another process opens -----------------------------------------------------------------------
def _address(array):
    return array.__array_interface__["data"][0]


def _require_file(path):
    if not os.path.isfile(path):
        raise PrenetError(f"A worker of the Dask cluster does not find the file {path}; put it where all "
                          "workers find it under the same path.")


@contextmanager
def _reopen_hdf5(path, name):
    _require_file(path)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise PrenetError(f"A worker of the Dask cluster cannot open {path} ({error}).") from error
    with file:
        yield as_scan(file[name])


@contextmanager
def _reopen_memory_map(path, dtype, shape, strides, start):
    _require_file(path)
    buffer = np.memmap(path, np.uint8, "r")
    yield as_scan(np.ndarray(shape, dtype, buffer, start, strides))


# --- making a scan of data ----------------------------------------------------------------------------------
def _in_host_memory(array):
    """Return the array itself, or that of a torch tensor or xarray array; PrenetError if it is on a GPU."""
    home = type(array).__module__.split(".")[0]
    on_gpu = home == "cupy" or getattr(getattr(array, "device", None), "type", "cpu") != "cpu"
    if on_gpu:
        call = "array.cpu().numpy()" if home == "torch" else "cupy.asnumpy(array)"
        raise PrenetError(f"The data lie on a GPU; give them as {call}, and the GPU will be used where it helps.")
    if home == "torch":
        try:
            return array.detach().numpy()
        except (TypeError, RuntimeError) as error:
            raise PrenetError(f"This tensor cannot be used ({error}); convert it to float32 first.") from error
    return array.data if home == "xarray" else array


def as_scan(data) -> Scan:
    """Make a `Scan` of data, without reading any of them.

    Parameters
    ----------
    data : DataCube, array_like or Scan
        A py4DSTEM DataCube; a numpy array or memory map, an HDF5 data set, a dask array, or any object that slices like
        them, with axes (Rx, Ry, Qx, Qy); a `Scan` is returned as it is.

    Returns
    -------
    Scan
        The scan.

    Raises
    ------
    PrenetError
        There are not four axes, the scan is empty, a side of a pattern is below 32 pixels, the values are not real
        numbers, or the array is masked.

    Examples
    --------
    >>> import numpy as np
    >>> scan = as_scan(np.ones((2, 3, 32, 40), np.uint16))
    >>> scan.scan_shape, scan.pattern_shape
    ((2, 3), (32, 40))
    >>> scan.read([4]).shape
    (1, 32, 40)
    """
    array = data.data if hasattr(data, "R_Nx") else data  # an array's own `data` is its buffer
    if isinstance(array, Scan):
        return array
    array = _in_host_memory(array)
    shape = getattr(array, "shape", None)
    if shape is None or len(shape) != 4:
        found = "something without a shape" if shape is None else f"an array of shape {tuple(shape)}"
        raise PrenetError(
            f"A 4D-STEM scan with axes (Rx, Ry, Qx, Qy) is needed, not {found}; "
            "give a single pattern as pattern[None, None]."
        )
    rx, ry, qx, qy = shape
    try:
        dtype = np.dtype(array.dtype)
    except (TypeError, AttributeError):
        raise PrenetError(f"Data in a {type(array).__module__}.{type(array).__name__} cannot be used; convert them "
                          "with numpy.asarray first.") from None
    if dtype.kind not in "iufb":
        raise PrenetError(
            f"The data are of type {dtype}, but intensities must be integer or floating-point numbers; "
            "convert them first (for example data.astype('float32'))."
        )
    if rx * ry == 0:
        raise PrenetError(f"The scan is empty: its shape is ({rx}, {ry}).")
    if min(qx, qy) < MIN_SIDE:
        raise PrenetError(
            f"The patterns are {qx} x {qy} px, and at least {MIN_SIDE} x {MIN_SIDE} are needed; "
            "use less binning, or check that the axes are (Rx, Ry, Qx, Qy)."
        )
    if isinstance(array, np.ma.MaskedArray):
        raise PrenetError("The data are a masked array, whose mask would be lost; give a plain array.")
    if isinstance(array, np.ndarray):
        return MemoryScan(array)
    if isinstance(array, h5py.Dataset):
        return Hdf5Scan(array)
    return DaskScan(array) if hasattr(array, "dask") else SlicedScan(array)
