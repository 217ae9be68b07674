"""Count and read the frames of a file that is still being written."""

from __future__ import annotations

import os

import h5py
import numpy as np

from ..core import MIN_SIDE, PrenetError
from ..io import existing


class Replaced(Exception):
    """The file is not the one that was opened, or cannot be read."""


class RawFile:
    """A file of raw frames. An incomplete last frame is not counted.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.
    shape : tuple of int
        (Qx, Qy), pixels of a frame.
    dtype : str or numpy.dtype, optional
        Type of the values, such as "uint16", or ">u2" for big-endian.
    header : int, optional
        Bytes before the first frame.
    gap : int, optional
        Bytes after each frame.

    Raises
    ------
    PrenetError
        If there is no file, or the layout is invalid.
    """

    def __init__(self, path, shape, dtype="uint16", header=0, gap=0):
        self.path, self.shape = existing(path), tuple(map(int, shape))
        try:
            self.dtype = np.dtype(dtype)
        except TypeError as problem:
            raise PrenetError(f"{dtype!r} is not a numpy type of numbers, such as uint16 or float32.") from problem
        if self.dtype.kind not in "iuf" or header < 0 or gap < 0 or len(self.shape) != 2 or min(self.shape) < 1:
            raise PrenetError("A raw file needs a pattern's shape such as 128,128, a type of real numbers, and no "
                              "negative header or gap.")
        self.header, self.gap = int(header), int(gap)
        self._frame = self.shape[0] * self.shape[1] * self.dtype.itemsize
        self._file = open(self.path, "rb", buffering=0)
        self._inode = os.fstat(self._file.fileno()).st_ino

    def count(self) -> int:
        """Count the complete frames in the file.

        Returns
        -------
        int
            The number of frames.

        Raises
        ------
        Replaced
            If another file has its name.
        """
        try:
            if os.stat(self.path).st_ino != self._inode:
                raise Replaced
        except FileNotFoundError:
            raise Replaced from None
        size = os.fstat(self._file.fileno()).st_size - self.header
        return max(0, (size + self.gap) // (self._frame + self.gap))  # the gap after the last frame may be missing

    def read(self, first, last) -> np.ndarray:
        """Read frames.

        Parameters
        ----------
        first, last : int
            Number of the first frame, and of the frame after the last.

        Returns
        -------
        ndarray, shape (n, Qx, Qy)
            The frames, in native byte order.

        Raises
        ------
        Replaced
            If the file does not contain them.
        """
        self._file.seek(self.header + first * (self._frame + self.gap))
        stride = self._frame + self.gap
        size = (last - first) * stride - self.gap
        content = bytearray(size)
        n_read = 0
        while n_read < size:
            more = self._file.readinto(memoryview(content)[n_read:])
            if not more:
                raise Replaced
            n_read += more
        strides = (stride, self.shape[1] * self.dtype.itemsize, self.dtype.itemsize)
        frames = np.ndarray((last - first, *self.shape), self.dtype, content, 0, strides)
        return np.ascontiguousarray(frames, self.dtype.newbyteorder("="))

    def data(self, rows, columns):
        """Return the first rows of the scan without loading them.

        Parameters
        ----------
        rows, columns : int
            Shape of this part of the scan.

        Returns
        -------
        array_like, shape (rows, columns, Qx, Qy)
            A memory map, an HDF5 data set or a dask array.
        """
        buffer = np.memmap(self.path, np.uint8, "r")
        stride, line = self._frame + self.gap, self.shape[1] * self.dtype.itemsize
        strides = (columns * stride, stride, line, self.dtype.itemsize)
        return np.ndarray((rows, columns, *self.shape), self.dtype, buffer, self.header, strides)

    def close(self):
        """Close the file."""
        self._file.close()


class Hdf5File:
    """A data set of frames in an HDF5 file that is complete or being written in SWMR mode.

    The data set grows along its first axis, or has its full shape from the start and is written chunk by chunk.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.
    columns : int
        Positions in a row of the scan.
    name : str, optional
        Name of the data set, if the file holds several with three or four axes.

    Raises
    ------
    PrenetError
        If the file cannot be read, or does not hold one such data set.
    """

    def __init__(self, path, columns, name=None):
        self.path = existing(path)
        self._columns = columns
        self._inode = os.stat(self.path).st_ino
        try:
            self._file = h5py.File(self.path, "r", libver="latest", swmr=True)
        except (OSError, ValueError) as problem:
            raise PrenetError(f"{self.path} cannot be read while it is being written ({problem}); the program that "
                              "writes it must use the SWMR mode of HDF5, or close it.") from problem
        try:
            self._data = self._chosen(name)
        except PrenetError:
            self._file.close()
            raise
        self.shape, self.dtype = self._data.shape[-2:], self._data.dtype
        self._per = 1 if self._data.ndim == 3 else self._data.shape[1]  # frames of one step along the first axis
        if self._per not in (1, columns):
            raise PrenetError(f"The rows of the scan in {self.path} have {self._per} positions, not {columns}.")

    def _chosen(self, name):
        """Return the data set of patterns; PrenetError if there is not exactly one, or none of this name."""
        found = []
        self._file.visititems(lambda where, thing: found.append(where) if isinstance(thing, h5py.Dataset) and
                              thing.ndim in (3, 4) and min(thing.shape[-2:]) >= MIN_SIDE else None)
        if name is not None and name.strip("/") in found:
            return self._file[name]
        if name is not None or len(found) != 1:
            number = "not exactly one data set" if name is None else f"no data set {name}"
            raise PrenetError(f"{self.path} holds {number} of patterns; it has: {', '.join(found) or 'none'}.")
        return self._file[found[0]]

    def count(self) -> int:
        """Count the frames that were written.

        Returns
        -------
        int
            The number of frames.

        Raises
        ------
        Replaced
            If another file has its name, or the file cannot be read.
        """
        try:
            if os.stat(self.path).st_ino != self._inode:
                raise Replaced
            self._data.refresh()
            steps = self._data.shape[0]
            if self._data.chunks and self._data.maxshape[0] == steps:  # its full shape from the start
                steps = min(steps, self._stored())
            return steps * self._per
        except (OSError, RuntimeError, KeyError):
            raise Replaced from None

    def _stored(self):
        """Count the steps along the first axis whose chunks have all been written."""
        chunks, shape = self._data.chunks, self._data.shape
        of_a_step = int(np.prod([-(-n // c) for n, c in zip(shape[1:], chunks[1:], strict=True)]))
        return self._data.id.get_num_chunks() // of_a_step * chunks[0]

    def read(self, first, last) -> np.ndarray:
        """Read frames.

        Parameters
        ----------
        first, last : int
            Number of the first frame, and of the frame after the last.

        Returns
        -------
        ndarray, shape (n, Qx, Qy)
            The frames, in native byte order.

        Raises
        ------
        Replaced
            If they cannot be read.
        """
        try:
            if self._per == 1 and self._data.ndim == 3:
                return np.ascontiguousarray(self._data[first:last], self.dtype.newbyteorder("="))
            rows = slice(first // self._per, -(-last // self._per))
            frames = self._data[rows].reshape(-1, *self.shape)
            start = rows.start * self._per
            return np.ascontiguousarray(frames[first - start : last - start], self.dtype.newbyteorder("="))
        except (OSError, RuntimeError, KeyError):
            raise Replaced from None

    def data(self, rows, columns):
        """Return the first rows of the scan without loading them.

        Parameters
        ----------
        rows, columns : int
            Shape of this part of the scan.

        Returns
        -------
        array_like, shape (rows, columns, Qx, Qy)
            A memory map, an HDF5 data set or a dask array.
        """
        import dask.array

        if self._data.ndim == 4 and self._data.shape[0] == rows:
            return self._data
        array = dask.array.from_array(self._data)
        return array[: rows * columns // self._per].reshape(rows, columns, *self.shape)

    def close(self):
        """Close the file."""
        self._file.close()


def open_source(path, scan, shape=None, dtype="uint16", header=0, gap=0, name=None):
    """Open a file as a source of frames.

    Parameters
    ----------
    path : str or pathlib.Path
        An HDF5 file, or a file of raw frames.
    scan : tuple of int
        (Rx, Ry).
    shape : tuple of int, optional
        (Qx, Qy), for raw frames.
    dtype : str, optional
        Type of the values, for raw frames.
    header, gap : int, optional
        Bytes before the first and after each frame, for raw frames.
    name : str, optional
        Name of the data set, for HDF5.

    Returns
    -------
    RawFile or Hdf5File
        The source.

    Raises
    ------
    PrenetError
        If the file is missing or cannot be read, or `shape` is needed and missing.
    """
    path = existing(path)
    if shape is None or path.suffix.lower() in (".h5", ".hdf5", ".nxs", ".emd"):
        if not h5py.is_hdf5(path):
            raise PrenetError(f"{path} is not an HDF5 file; for a raw file, give the shape of a pattern, as in "
                              "--shape 128,128 --dtype uint16.")
        return Hdf5File(path, scan[1], name)
    return RawFile(path, shape, dtype, header, gap)
