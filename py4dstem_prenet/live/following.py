"""Events of a file that is still being written: new frames, a pause, a new file, the end.

Nothing is stored between runs: a program that starts again reads the file from its first frame.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..core import PrenetError
from . import Replaced

POLL_S = 0.05  # seconds; time between two checks of the file
MAX_FRAMES_PER_READ = 512  # frames; largest number per event: 16 MiB of 128 x 128 pixels of uint16


@dataclass(frozen=True)
class Frames:
    """New frames.

    Attributes
    ----------
    positions : ndarray of int, shape (n,)
        Flat scan positions.
    patterns : ndarray, shape (n, Qx, Qy)
        The patterns.
    written : int
        Frames in the file.
    """

    positions: np.ndarray
    patterns: np.ndarray
    written: int


@dataclass(frozen=True)
class Waiting:
    """No new frame.

    Attributes
    ----------
    seconds : float
        Time since the last frame.
    timeout : float
        Time after which the scan counts as ended, seconds.
    gone : bool
        Whether the file is missing or cannot be read.
    """

    seconds: float
    timeout: float
    gone: bool = False


@dataclass(frozen=True)
class Restarted:
    """The file was replaced or became shorter: the frames read so far belong to another scan."""


@dataclass(frozen=True)
class Ended:
    """The end of the scan.

    Attributes
    ----------
    frames : int
        Frames that were read.
    complete : bool
        Whether they fill the scan.
    reason : str
        Reason why no more frames are read.
    """

    frames: int
    complete: bool
    reason: str


def wait_for_file(reopen, path, timeout, poll=POLL_S):
    """Wait until a file exists and is not empty, and open it.

    Parameters
    ----------
    reopen : callable
        Opens the source.
    path : str or pathlib.Path
        The file.
    timeout : float
        Longest time to wait, seconds.
    poll : float, optional
        Time between two looks at the file, seconds.

    Returns
    -------
    RawFile or Hdf5File
        The source.

    Raises
    ------
    PrenetError
        If the file cannot be opened within the timeout.
    """
    deadline = time.monotonic() + timeout
    while not (os.path.exists(path) and os.path.getsize(path)) and time.monotonic() < deadline:
        time.sleep(poll)
    return _again(reopen, min(deadline, time.monotonic() + 2), poll) or reopen()


def follow(reopen, scan, timeout=30.0, poll=POLL_S) -> Iterator[Frames | Waiting | Restarted | Ended]:
    """Follow a growing file until the scan is complete or no frames come any more.

    Parameters
    ----------
    reopen : callable
        Opens the source; called again if the file is replaced.
    scan : tuple of int
        (Rx, Ry).
    timeout : float, optional
        Time without a new frame after which the scan counts as ended, seconds.
    poll : float, optional
        Time between two looks at the file, seconds.

    Yields
    ------
    Frames, Waiting, Restarted or Ended
        Events; `Ended` is the last.
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
                    end = min(written, done + MAX_FRAMES_PER_READ, total)
                    patterns = source.read(done, end)
                    latest = time.monotonic()
                    yield Frames(np.arange(done, end), patterns, min(written, total))
                    done = end
                    continue
            except Replaced:
                source.close()
                source = None
                while source is None and (silence := time.monotonic() - latest) < timeout:
                    yield Waiting(silence, timeout, gone=True)
                    source = _again(reopen, time.monotonic() + 2 * poll, poll)
                if source is None:
                    yield Ended(done, False, "The file is missing, or can no longer be read.")
                    return
                yield Restarted()
                done, latest = 0, time.monotonic()
                continue
            silence = time.monotonic() - latest
            if silence > timeout:
                reason = (f"No new pattern for {silence:.0f} s: the detector has stopped at pattern {done} of {total}, "
                          "or pauses for longer than the timeout.")
                yield Ended(done, False, reason)
                return
            yield Waiting(silence, timeout)
            time.sleep(poll)
        n_extra = _count(source) - total
        yield Ended(done, True, "The scan is complete." if n_extra <= 0 else (
            f"The scan is complete, but the file holds {n_extra} patterns more than {scan[0]} x {scan[1]}: check the "
            "shape of the scan."))
    finally:
        if source is not None:
            source.close()


def _count(source):
    """Count the frames in the file; 0 if it was replaced."""
    try:
        return source.count()
    except Replaced:
        return 0


def _again(reopen, until, poll):
    """Open the source again as soon as possible; None if that fails until the time `until`."""
    while time.monotonic() < until:
        try:
            return reopen()
        except PrenetError:
            time.sleep(poll)
    return None


def from_frames(frames, scan, start=0) -> Iterator[Frames | Ended]:
    """Make the events of `follow` from an iterable of patterns.

    Parameters
    ----------
    frames : iterable of ndarray, shape (Qx, Qy)
        The patterns, in the order of the scan.
    scan : tuple of int
        (Rx, Ry).
    start : int, optional
        Flat scan position of the first pattern.

    Yields
    ------
    Frames or Ended
        Events; `Ended` is the last.

    Examples
    --------
    >>> *frames, end = from_frames(np.ones((6, 32, 32)), (2, 3))
    >>> [f.positions.tolist() for f in frames], end.complete
    ([[0, 1, 2], [3, 4, 5]], True)
    """
    total, done, batch = scan[0] * scan[1], start, []

    def _event():
        return Frames(np.arange(done, done + len(batch)), np.stack(batch), done + len(batch))

    for frame in frames:
        batch.append(np.asarray(frame))
        if len(batch) >= min(MAX_FRAMES_PER_READ, scan[1]) or done + len(batch) == total:
            yield _event()
            done, batch = done + len(batch), []
            if done == total:
                break
    if batch:
        yield _event()
        done += len(batch)
    complete = done == total
    yield Ended(done, complete, "The scan is complete." if complete else f"The frames end at {done} of {total}.")
