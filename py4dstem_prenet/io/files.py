"""Write files that appear complete or not at all, and never replace another."""

import ctypes
import errno
import glob
import hashlib
import json
import os
import platform
import secrets
import shutil
import sys
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import psutil

from ..core import PrenetError

MIN_DISK_LEFT_BYTES = 2**24  # bytes; smallest disk space for calibration, tree and tables, in addition to the data
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # error numbers of a full disk
EMD_ENDINGS = (".h5", ".hdf5", ".emd", ".py4dstem")  # endings of files that py4DSTEM.read opens as EMD


def load_mask(path):
    """Load a detector mask from a .npy file.

    Parameters
    ----------
    path : str or pathlib.Path
        A .npy file.

    Returns
    -------
    ndarray
        The array in the file.

    Raises
    ------
    PrenetError
        If the file is missing or holds no array of numbers.
    """
    path = existing(path)
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as problem:
        raise PrenetError(f"{path} holds no mask; save a bool array, True where a pixel is good, with "
                          "numpy.save.") from problem


def existing(path):
    """Check that a file exists.

    Parameters
    ----------
    path : str or pathlib.Path
        The file; "~" is expanded.

    Returns
    -------
    pathlib.Path
        The path.

    Raises
    ------
    PrenetError
        If there is no file, or a folder.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise PrenetError(f"{path} is a folder, not a file.")
    if not path.is_file():
        raise PrenetError(f"There is no file {path}.")
    return path


def make_folder(path) -> Path:
    """Make a folder, with the folders above it, if it does not exist.

    Parameters
    ----------
    path : str or pathlib.Path
        The folder; "~" is expanded.

    Returns
    -------
    pathlib.Path
        The path.

    Raises
    ------
    PrenetError
        If a file is in its place, or it cannot be made.
    """
    path = Path(path).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as problem:
        raise PrenetError(f"{path} is a file, not a folder; choose another name.") from problem
    except OSError as problem:
        raise PrenetError(f"The folder {path} cannot be made: {problem.strerror}.") from problem
    return path


def check_output(path, endings=EMD_ENDINGS):
    """Check that a new file can be written, before any work is done for it.

    Parameters
    ----------
    path : str or pathlib.Path
        The new file; "~" is expanded.
    endings : tuple of str, optional
        Allowed endings of the name, by default those of an EMD file; empty for any.

    Returns
    -------
    pathlib.Path
        The path.

    Raises
    ------
    PrenetError
        If the path exists, its ending is not allowed, or its folder does not exist or is not writable.
    """
    path = Path(path).expanduser()
    if os.path.lexists(path):
        raise PrenetError(f"{path} exists already; choose another name or delete it first.")
    if endings and path.suffix.lower() not in endings:
        raise PrenetError(f"The name {path.name} must end in {' or '.join(endings)}.")
    if not path.parent.is_dir():
        raise PrenetError(f"The folder {path.parent} does not exist; make it first.")
    partial = _beside(path)
    try:  # permission bits are unreliable on network and read-only disks, so a file is made
        with suppress(FileNotFoundError):
            os.lstat(path)  # raises OSError for a name that is too long
        partial.touch(exist_ok=False)
        partial.unlink()
    except OSError as error:
        raise PrenetError(f"No file can be written in {path.parent.absolute()}: {error.strerror}.") from error
    return path


def check_space(path, size):
    """Check that the disk has room for a file, before any work is done for it.

    Parameters
    ----------
    path : str or pathlib.Path
        The new file.
    size : int
        Its size, bytes.

    Raises
    ------
    PrenetError
        If the free space is less than `size` and MIN_DISK_LEFT_BYTES.
    """
    free = shutil.disk_usage(Path(path).expanduser().parent).free
    if free < size + MIN_DISK_LEFT_BYTES:
        raise PrenetError(f"{path} could not be written: it needs {(size + MIN_DISK_LEFT_BYTES) / 1e9:.3g} GB, and the "
                          f"disk has {free / 1e9:.3g} GB left.")


def reserve(path, size):
    """Reserve disk space for a file that will grow (Linux only).

    HDF5 is unreliable in a process in which a write has failed, so writes must not fail for want of space. On file
    systems that cannot reserve space, nothing is done.

    Parameters
    ----------
    path : str or pathlib.Path
        An existing file.
    size : int
        Bytes to reserve beyond its end.

    Raises
    ------
    OSError
        If the disk has no room.
    """
    if sys.platform != "linux":
        return
    with open(path, "rb+") as file:
        call = ctypes.CDLL(None, use_errno=True).fallocate
        call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        if call(file.fileno(), 0, 0, os.fstat(file.fileno()).st_size + size) and ctypes.get_errno() in DISK_FULL:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextmanager
def new_file(path, endings=EMD_ENDINGS, resumable=False):
    """Write a file that appears at `path` complete or not at all.

    If the block is left by an exception, KeyboardInterrupt included, the partial file is deleted; a resumable one stays
    if `Unfinished` finds a written block in it, and the next resumable block for the same `path` gets it. A partial
    file of a process that was killed is deleted by the next block for the same `path`.

    Parameters
    ----------
    path : str or pathlib.Path
        The new file.
    endings : tuple of str, optional
        As for `check_output`.
    resumable : bool, optional
        Whether to keep a partial file for the next attempt.

    Yields
    ------
    pathlib.Path
        An unused path in the same folder to write to; it is renamed to `path` when the block ends.

    Raises
    ------
    PrenetError
        At the start as for `check_output`; at the end if the disk is full or a file appeared at `path` meanwhile.
    """
    path = check_output(path, endings)
    _sweep(path)
    partial = path.with_name(f".{path.name[:40]}.unfinished") if resumable else _beside(path)
    published = False
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        _publish(partial, path)
        published = True
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise PrenetError(f"{path} could not be written: {os.strerror(error.errno)}.") from error
    finally:
        if published or not resumable or not Unfinished.left_something(partial):
            partial.unlink(missing_ok=True)


class Unfinished:
    """A data set in an HDF5 file that is written block by block, with marks of the patterns that are done.

    A block is marked after it has been passed to the operating system, so that a run that was interrupted or killed can
    continue.

    Parameters
    ----------
    dataset : h5py.Dataset
        The data set, (Rx, Ry, Qx, Qy), for which `begin` was called.

    Attributes
    ----------
    done : ndarray of bool, shape (Rx * Ry,)
        True for flat scan positions whose pattern is written.
    """

    _MARKS = "prenet_unfinished"

    def __init__(self, dataset):
        self._dataset = dataset
        self.done = dataset.file[self._MARKS][:].astype(bool)

    @classmethod
    def begin(cls, dataset, record):
        """Mark a new data set as unfinished.

        Parameters
        ----------
        dataset : h5py.Dataset
            The data set, (Rx, Ry, Qx, Qy).
        record : dict
            All that its values depend on, in types of JSON.
        """
        marks = dataset.file.create_dataset(cls._MARKS, data=np.zeros(dataset.shape[0] * dataset.shape[1], np.uint8))
        marks.attrs["record"] = json.dumps(record, sort_keys=True)
        dataset.file.flush()

    @classmethod
    def matches(cls, path, record):
        """Return whether an unfinished file can be continued.

        Parameters
        ----------
        path : pathlib.Path
            The partial file.
        record : dict
            All that the values depend on.

        Returns
        -------
        bool
            True if the file exists, is intact, and was begun with the same record.

        Raises
        ------
        PrenetError
            If another process is writing the file.
        """
        if not path.exists():
            return False
        try:
            with h5py.File(path, "r") as file:
                return file[cls._MARKS].attrs["record"] == json.dumps(record, sort_keys=True)
        except BlockingIOError as error:
            raise PrenetError(f"Another process is writing {path}; wait for it, or choose another name.") from error
        except (OSError, KeyError):
            return False

    @classmethod
    def left_something(cls, path):
        """Return whether a partial file contains a written block.

        Parameters
        ----------
        path : pathlib.Path
            The partial file.

        Returns
        -------
        bool
            True also if another process is writing the file.
        """
        try:
            with h5py.File(path, "r") as file:
                return bool(file[cls._MARKS][:].any())
        except BlockingIOError:  # another process writes it
            return True
        except (OSError, KeyError):
            return False

    def write(self, index, values):
        """Write patterns and mark them as done.

        Parameters
        ----------
        index : ndarray of int, shape (n,)
            Flat scan positions, ascending.
        values : ndarray, shape (n, Qx, Qy)
            The patterns.
        """
        row, column = np.divmod(index, self._dataset.shape[1])
        breaks = np.flatnonzero(np.diff(index) != 1) + 1  # HDF5 writes slices
        breaks = np.unique(np.concatenate([breaks, np.flatnonzero(np.diff(row)) + 1]))
        for part in np.split(np.arange(len(index)), breaks):
            self._dataset[row[part[0]], column[part[0]] : column[part[-1]] + 1] = values[part[0] : part[-1] + 1]
        file = self._dataset.file
        file.flush()  # the data before their marks
        file[self._MARKS][index] = 1
        file.flush()
        self.done[index] = True

    def end(self):
        """Remove the marks from the file.

        Raises
        ------
        PrenetError
            If a pattern was not written.
        """
        if not self.done.all():
            raise PrenetError(f"{np.count_nonzero(~self.done)} of {self.done.size} patterns were not written.")
        del self._dataset.file[self._MARKS]


def _beside(path):
    """Return an unused name in the same folder, shortened because the name of `path` may be as long as allowed."""
    return path.with_name(f".{path.name[:40]}.{_process_space()}-{os.getpid()}-{secrets.token_hex(4)}.part")


def _sweep(path):
    """Delete partial files beside `path` whose process has ended."""
    begin = f".{path.name[:40]}.{_process_space()}-"
    for partial in path.parent.glob(glob.escape(begin) + "*.part"):
        process = partial.name[len(begin):].split("-")[0]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            partial.unlink(missing_ok=True)


@cache
def _process_space():
    """Identify the machine and the container, each of which numbers its own processes."""
    try:
        numbering = os.readlink("/proc/self/ns/pid")
    except OSError:
        numbering = ""
    return hashlib.sha256(f"{platform.node()} {numbering}".encode()).hexdigest()[:8]


def _publish(partial, path):
    """Rename a file, but unlike os.rename never replace another one."""
    try:
        try:
            os.link(partial, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links: take the name first, then fill it
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            try:
                os.replace(partial, path)
            except BaseException:
                os.unlink(path)
                raise
    except FileExistsError as error:
        raise PrenetError(
            f"{path} was created by another program meanwhile and is not replaced; choose another name."
        ) from error


def save_scan(path, data, truth):
    """Save a simulated scan as the DataCube of a new EMD file, without importing py4DSTEM.

    Parameters
    ----------
    path : str or pathlib.Path
        A new file.
    data : ndarray, shape (Rx, Ry, Qx, Qy)
        The scan.
    truth : dict
        {name: array, number or text}, saved as the Metadata "truth" of the DataCube.
    """
    import emdfile

    with new_file(path) as partial:
        axes = ["Rx", "Ry", "Qx", "Qy"]
        array = emdfile.Array(data, name="datacube", units="pixel intensity", dim_names=axes)
        array.metadata = emdfile.Metadata("truth", truth)
        emdfile.save(partial, array)
        with h5py.File(partial, "r+") as file:  # the only difference between the groups of an Array and a DataCube
            file["datacube_root/datacube"].attrs["python_class"] = "DataCube"
