"""Frames out of a file that is still being written.

A source says how many frames are there and reads some of them; `follow` turns it into what happens: frames come, the
writer pauses, starts anew, or is gone. Nothing is remembered between runs: the file is what has been done, and whoever
starts again begins at its first frame, at the rate of reading.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import h5py
import numpy as np

from ..core import MIN_SIDE, PrenetError
from ..io import existing

POLL = 0.05  # seconds between looks at the file
MAX_FRAMES_PER_READ = 512  # frames that are read at a time


@dataclass(frozen=True)
class Frames:
    """Frames that came. positions: (n,) flat scan positions. patterns: (n, Qx, Qy). written: frames in the file."""

    positions: np.ndarray
    patterns: np.ndarray
    written: int


@dataclass(frozen=True)
class Waiting:
    """No new frame for so many seconds; at `timeout` the writer counts as gone. gone: the file itself is not there, or
    cannot be read."""

    seconds: float
    timeout: float
    gone: bool = False


@dataclass(frozen=True)
class Restarted:
    """The file was made anew, or is shorter than it was: what was read before belongs to another scan."""


@dataclass(frozen=True)
class Ended:
    """Nothing more will be read. frames: that were. complete: whether they fill the scan. reason: a sentence."""

    frames: int
    complete: bool
    reason: str


class Replaced(Exception):
    """The file is not the one that was opened."""


class RawFile:
    """A file of nothing but frames, after a header of `header` bytes; `gap` bytes follow each frame.

    shape: (Qx, Qy). dtype: as numpy names it, such as "uint16", or ">u2" with the larger byte first. A last frame that
    is not whole is not there yet.
    """

    def __init__(self, path, shape, dtype="uint16", header=0, gap=0):
        self.path, self.shape = existing(path), tuple(map(int, shape))
        try:
            self.dtype = np.dtype(dtype)
        except TypeError as problem:
            raise PrenetError(f"{dtype!r} is no type of numbers; say uint16, float32 and the like.") from problem
        if self.dtype.kind not in "iuf" or header < 0 or gap < 0 or len(self.shape) != 2 or min(self.shape) < 1:
            raise PrenetError("A raw file needs a pattern's shape such as 128,128, a type of real numbers, and no "
                              "negative header or gap.")
        self.header, self.gap = int(header), int(gap)
        self._frame = self.shape[0] * self.shape[1] * self.dtype.itemsize
        self._file = open(self.path, "rb", buffering=0)
        self._inode = os.fstat(self._file.fileno()).st_ino

    def count(self) -> int:
        """Whole frames in the file. Raises Replaced where another file has its name."""
        try:
            if os.stat(self.path).st_ino != self._inode:
                raise Replaced
        except FileNotFoundError:
            raise Replaced from None
        size = os.fstat(self._file.fileno()).st_size - self.header
        return max(0, (size + self.gap) // (self._frame + self.gap))  # the last frame's gap may be missing

    def read(self, first, last) -> np.ndarray:
        """Frames first to last - 1, (n, Qx, Qy), in native byte order. Raises Replaced where they are not there."""
        self._file.seek(self.header + first * (self._frame + self.gap))
        stride = self._frame + self.gap
        wanted = (last - first) * stride - self.gap
        content = bytearray(wanted)
        have = 0
        while have < wanted:
            got = self._file.readinto(memoryview(content)[have:])
            if not got:
                raise Replaced
            have += got
        strides = (stride, self.shape[1] * self.dtype.itemsize, self.dtype.itemsize)
        frames = np.ndarray((last - first, *self.shape), self.dtype, content, 0, strides)
        return np.ascontiguousarray(frames, self.dtype.newbyteorder("="))

    def data(self, rows, columns):
        """The first rows of the scan as an array (rows, columns, Qx, Qy), not loaded."""
        buffer = np.memmap(self.path, np.uint8, "r")
        stride, line = self._frame + self.gap, self.shape[1] * self.dtype.itemsize
        strides = (columns * stride, stride, line, self.dtype.itemsize)
        return np.ndarray((rows, columns, *self.shape), self.dtype, buffer, self.header, strides)

    def close(self):
        self._file.close()


class Hdf5File:
    """A data set of frames in an HDF5 file that is written in SWMR mode, or complete.

    name: of the data set, where the file holds several of three or four axes. It grows along its first axis, or has its
    full shape from the start and gets chunk after chunk.
    """

    def __init__(self, path, columns, name=None):
        self.path = existing(path)
        self._columns = columns
        self._inode = os.stat(self.path).st_ino
        try:
            self._file = h5py.File(self.path, "r", libver="latest", swmr=True)
        except (OSError, ValueError) as problem:
            raise PrenetError(f"{self.path} cannot be read while it is written ({problem}); the program that writes it "
                              "must use HDF5's SWMR mode, or have closed it.") from problem
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
        found = []
        self._file.visititems(lambda where, thing: found.append(where) if isinstance(thing, h5py.Dataset) and
                              thing.ndim in (3, 4) and min(thing.shape[-2:]) >= MIN_SIDE else None)
        if name is not None and name.strip("/") in found:
            return self._file[name]
        if name is not None or len(found) != 1:
            raise PrenetError(f"{self.path} holds {'no such' if name else 'no one'} data set of patterns; it has: "
                              f"{', '.join(found) or 'none'}.")
        return self._file[found[0]]

    def count(self) -> int:
        """Frames that were written. Raises Replaced where another file has its name, or this one cannot be read."""
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
        """Steps along the first axis whose chunks have all been written."""
        chunks, shape = self._data.chunks, self._data.shape
        of_a_step = int(np.prod([-(-n // c) for n, c in zip(shape[1:], chunks[1:], strict=True)]))
        return self._data.id.get_num_chunks() // of_a_step * chunks[0]

    def read(self, first, last) -> np.ndarray:
        """Frames first to last - 1, (n, Qx, Qy). Raises Replaced where they cannot be read."""
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
        """The first rows of the scan as an array (rows, columns, Qx, Qy), not loaded."""
        import dask.array

        if self._data.ndim == 4 and self._data.shape[0] == rows:
            return self._data
        array = dask.array.from_array(self._data)
        return array[: rows * columns // self._per].reshape(rows, columns, *self.shape)

    def close(self):
        self._file.close()


def open_source(path, scan, shape=None, dtype="uint16", header=0, gap=0, name=None):
    """The source for a file: HDF5 by what it holds, anything else as raw frames of the layout that is given.

    Raises PrenetError where the file is not there or cannot be read, or a layout is needed and missing.
    """
    path = existing(path)
    if shape is None or path.suffix.lower() in (".h5", ".hdf5", ".nxs", ".emd"):
        if not h5py.is_hdf5(path):
            raise PrenetError(f"{path} is not an HDF5 file; of a raw file the pattern's shape must be given, as in "
                              "--shape 128,128 --dtype uint16.")
        return Hdf5File(path, scan[1], name)
    return RawFile(path, shape, dtype, header, gap)


def opened(reopen, path, timeout, poll=POLL):
    """The source, once there is a file with something in it; raises what `reopen` does when that takes too long."""
    until = time.monotonic() + timeout
    while not (os.path.exists(path) and os.path.getsize(path)) and time.monotonic() < until:
        time.sleep(poll)
    return _again(reopen, min(until, time.monotonic() + 2), poll) or reopen()


def follow(reopen, scan, timeout=30.0, poll=POLL) -> Iterator[Frames | Waiting | Restarted | Ended]:
    """What happens to a growing file, until the scan is full or the writer is gone.

    Args:
        reopen: a function that opens the source; called again where the file is made anew.
        scan: (Rx, Ry). timeout: seconds without a new frame after which the writer counts as gone.
    """
    total, done, source = scan[0] * scan[1], 0, reopen()
    latest = time.monotonic()
    try:
        while done < total:
            try:
                written = source.count()
                if written < done:
                    raise Replaced
                if written > done:
                    last = min(written, done + MAX_FRAMES_PER_READ, total)
                    patterns = source.read(done, last)
                    latest = time.monotonic()
                    yield Frames(np.arange(done, last), patterns, min(written, total))
                    done = last
                    continue
            except Replaced:
                source.close()
                source = None
                while source is None and (quiet := time.monotonic() - latest) < timeout:
                    yield Waiting(quiet, timeout, gone=True)
                    source = _again(reopen, time.monotonic() + 2 * poll, poll)
                if source is None:
                    yield Ended(done, False, "The file is gone, or cannot be read any more.")
                    return
                yield Restarted()
                done, latest = 0, time.monotonic()
                continue
            quiet = time.monotonic() - latest
            if quiet > timeout:
                reason = (f"No pattern has come for {quiet:.0f} s: the writer has stopped, at pattern {done} of "
                          f"{total}, or pauses for longer than the timeout.")
                yield Ended(done, False, reason)
                return
            yield Waiting(quiet, timeout)
            time.sleep(poll)
        more = _count(source) - total
        yield Ended(done, True, "The scan is complete." if more <= 0 else (
            f"The scan is complete, but the file holds {more} patterns more than {scan[0]} x {scan[1]}: check the "
            "scan's shape."))
    finally:
        if source is not None:
            source.close()


def _count(source):
    try:
        return source.count()
    except Replaced:
        return 0


def _again(reopen, until, poll):
    """The source, once it can be opened again; None where that takes too long."""
    while time.monotonic() < until:
        try:
            return reopen()
        except PrenetError:
            time.sleep(poll)
    return None


def from_frames(frames, scan, start=0) -> Iterator[Frames | Ended]:
    """Any iterator of patterns (Qx, Qy), in the order of the scan, as `follow` gives them."""
    total, done, some = scan[0] * scan[1], start, []

    def packed():
        return Frames(np.arange(done, done + len(some)), np.stack(some), done + len(some))

    for frame in frames:
        some.append(np.asarray(frame))
        if len(some) >= min(MAX_FRAMES_PER_READ, scan[1]) or done + len(some) == total:
            yield packed()
            done, some = done + len(some), []
            if done == total:
                break
    if some:
        yield packed()
        done += len(some)
    complete = done == total
    yield Ended(done, complete, "The scan is complete." if complete else f"The frames end at {done} of {total}.")
