"""New files that appear whole or not at all, never in the place of another; and what an HDF5 file holds."""

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

CHUNK_BYTES = 2**20  # of a chunk that is written, at most; HDF5's own cache holds one of these
MIN_DISK_LEFT_BYTES = 2**24  # bytes that must be left on a disk, for what a file holds beside its data
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
EMD_ENDINGS = (".h5", ".hdf5", ".emd", ".py4dstem")  # those under which py4DSTEM.read looks for EMD


def load_mask(path):
    """A mask from a .npy file, as it is there. Raises PrenetError where that holds no array of numbers."""
    try:
        return np.load(existing(path), allow_pickle=False)
    except (ValueError, EOFError) as problem:
        raise PrenetError(f"{path} holds no mask; save it with numpy.save, bool and True where good.") from problem


def existing(path):
    """`path` as a Path. Raises PrenetError where no file lies there."""
    path = Path(path).expanduser()
    if path.is_dir():
        raise PrenetError(f"{path} is a folder, not a file.")
    if not path.is_file():
        raise PrenetError(f"There is no file {path}.")
    return path


def check_output(path, endings=EMD_ENDINGS):
    """Refuse, before any work is done for it, a path that a new file cannot take; return it as a Path.

    endings: the endings that the name may have, by default those of an EMD file; any where empty.

    Raises PrenetError where something lies at `path`, its ending is another, or its folder does not exist or
    takes no new file.
    """
    path = Path(path).expanduser()
    if os.path.lexists(path):
        raise PrenetError(f"{path} exists already; choose another name or delete it first.")
    if endings and path.suffix.lower() not in endings:
        raise PrenetError(f"The name {path.name} must end in {' or '.join(endings)} to be read back.")
    if not path.parent.is_dir():
        raise PrenetError(f"The folder {path.parent} does not exist; make it first.")
    partial = _beside(path)
    try:  # permission bits say little about network and read-only disks, so a file is made
        with suppress(FileNotFoundError):
            os.lstat(path)  # a name that is too long
        partial.touch(exist_ok=False)
        partial.unlink()
    except OSError as error:
        raise PrenetError(f"No file can be written in {path.parent.absolute()}: {error.strerror}.") from error
    return path


def check_space(path, size):
    """Refuse, before any work is done for it, a file of `size` bytes that its disk has no room for."""
    free = shutil.disk_usage(Path(path).expanduser().parent).free
    if free < size + MIN_DISK_LEFT_BYTES:
        raise PrenetError(f"{path} could not be written: it needs {(size + MIN_DISK_LEFT_BYTES) / 1e9:.3g} GB, and the "
                          f"disk has {free / 1e9:.3g} GB left.")


def reserve(path, size):
    """Have the disk set aside `size` bytes more for a file. Raises OSError where it has no room for them.

    HDF5 cannot be trusted any more in a process in which it failed to write, so it must not come to that. Where the
    file system reserves nothing, nothing is done.
    """
    if sys.platform != "linux":
        return
    with open(path, "rb+") as file:
        call = ctypes.CDLL(None, use_errno=True).fallocate
        call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        if call(file.fileno(), 0, 0, os.fstat(file.fileno()).st_size + size) and ctypes.get_errno() in FULL:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextmanager
def new_file(path, endings=EMD_ENDINGS, resumable=False):
    """Yield an unused path in the same folder; what is written there becomes `path` when the block ends well.

    Left by an exception, KeyboardInterrupt included, the block leaves no file behind; a resumable one leaves what
    it has written, if `Unfinished` finds something done in it, and the next such block for the same `path` gets it.
    What a process that was killed had to leave is removed by the next block for the same `path`.

    Raises PrenetError as `check_output` does, at the start, and where a file appeared at `path` meanwhile.
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
        if error.errno not in FULL:
            raise
        raise PrenetError(f"{path} could not be written: {os.strerror(error.errno)}.") from error
    finally:
        if published or not resumable or not Unfinished.left_something(partial):
            partial.unlink(missing_ok=True)


class Unfinished:
    """A data set (Rx, Ry, Qx, Qy) that is written block by block, in an HDF5 file that says which are there.

    A block counts as done once it has been handed to the operating system, so that a run which was interrupted, or
    killed, can go on. done: (Rx * Ry,) bool, by flat scan position.
    """

    _MARKS = "prenet_unfinished"

    def __init__(self, dataset):
        self._dataset = dataset
        self.done = dataset.file[self._MARKS][:].astype(bool)

    @classmethod
    def begin(cls, dataset, record):
        """Mark a new data set as unfinished. record: what JSON can hold, all that its values depend on."""
        marks = dataset.file.create_dataset(cls._MARKS, data=np.zeros(dataset.shape[0] * dataset.shape[1], np.uint8))
        marks.attrs["record"] = json.dumps(record, sort_keys=True)
        dataset.file.flush()

    @classmethod
    def matches(cls, path, record):
        """Whether an unfinished file lies at `path`, begun with the same record; False where it is another's, or not
        whole. Raises PrenetError where another process is writing it.
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
        """Whether any block is done in the file at `path`."""
        try:
            with h5py.File(path, "r") as file:
                return bool(file[cls._MARKS][:].any())
        except BlockingIOError:  # another process's
            return True
        except (OSError, KeyError):
            return False

    def write(self, index, values):
        """Write values (n, Qx, Qy) at ascending flat scan positions (n,), and mark them as done."""
        row, column = np.divmod(index, self._dataset.shape[1])
        breaks = np.flatnonzero(np.diff(index) != 1) + 1  # HDF5 takes slices
        breaks = np.unique(np.concatenate([breaks, np.flatnonzero(np.diff(row)) + 1]))
        for part in np.split(np.arange(len(index)), breaks):
            self._dataset[row[part[0]], column[part[0]] : column[part[-1]] + 1] = values[part[0] : part[-1] + 1]
        file = self._dataset.file
        file.flush()  # never a mark without its data
        file[self._MARKS][index] = 1
        file.flush()
        self.done[index] = True

    def end(self):
        """Take the marks out of the file. Raises PrenetError where something is missing."""
        if not self.done.all():
            raise PrenetError(f"{np.count_nonzero(~self.done)} of {self.done.size} patterns were not written.")
        del self._dataset.file[self._MARKS]


def _beside(path):
    # The name is kept short of the path's own, which may be as long as the file system allows.
    return path.with_name(f".{path.name[:40]}.{_here()}-{os.getpid()}-{secrets.token_hex(4)}.part")


def _sweep(path):
    """Remove what processes that are no more left beside `path`."""
    begin = f".{path.name[:40]}.{_here()}-"
    for left in path.parent.glob(glob.escape(begin) + "*.part"):
        process = left.name[len(begin):].split("-")[0]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            left.unlink(missing_ok=True)


@cache
def _here():
    """Tells apart the machines and containers that number their processes each for itself."""
    try:
        numbering = os.readlink("/proc/self/ns/pid")
    except OSError:
        numbering = ""
    return hashlib.sha256(f"{platform.node()} {numbering}".encode()).hexdigest()[:8]


def _publish(partial, path):
    """Rename, but unlike os.rename never over another file."""
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
            f"{path} appeared while it was being written and is left alone; choose another name."
        ) from error


def save_scan(path, data, truth):
    """Save an array (Rx, Ry, Qx, Qy) as the DataCube of a new EMD file, without importing py4DSTEM.

    truth: {name: array, number or text}, kept as the Metadata "truth" of the DataCube.
    """
    import emdfile

    with new_file(path) as partial:
        axes = ["Rx", "Ry", "Qx", "Qy"]
        array = emdfile.Array(data, name="datacube", units="pixel intensity", dim_names=axes)
        array.metadata = emdfile.Metadata("truth", truth)
        emdfile.save(partial, array)
        with h5py.File(partial, "r+") as file:  # all by which a DataCube's group differs from an Array's
            file["datacube_root/datacube"].attrs["python_class"] = "DataCube"


# --- HDF5 ---------------------------------------------------------------------------------------------------
def in_chunks(group, name, shape, dtype):
    """A new data set (Rx, Ry, Qx, Qy), in chunks of about a MiB of patterns that follow one another along a scan row.

    The file must be open with libver "v110". Then all chunks lie in one piece, in the order of the scan, so that
    `whole_place` finds the data set as if it had none. Values that are not written are undefined.
    """
    fitting = max(1, CHUNK_BYTES // (shape[2] * shape[3] * np.dtype(dtype).itemsize))
    columns = max(n for n in range(1, min(fitting, shape[1]) + 1) if shape[1] % n == 0)
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return group.create_dataset(name, shape, dtype, chunks=(1, columns, *shape[2:]), dcpl=plan)


def whole_place(dataset):
    """The offset in its file of a data set whose values lie there in one piece, in order; None where they do not."""
    chunks, shape, stored = dataset.chunks, dataset.shape, dataset.id.get_create_plist()
    if chunks is None:
        return dataset.id.get_offset()
    runs = chunks[0] == 1 and chunks[2:] == shape[2:] and shape[1] % chunks[1] == 0 if len(shape) == 4 else False
    if not runs or stored.get_nfilters() or stored.get_alloc_time() != h5py.h5d.ALLOC_TIME_EARLY:
        return None
    found = []
    dataset.id.chunk_iter(lambda chunk: found.append((chunk.chunk_offset, chunk.byte_offset)))
    places = np.array([place for _, place in sorted(found)])
    step = int(np.prod(chunks)) * dataset.dtype.itemsize
    whole = len(places) * step == dataset.size * dataset.dtype.itemsize and (np.diff(places) == step).all()
    return int(places[0]) if whole else None


@contextmanager
def open_hdf5(path):
    """An HDF5 file open for reading. Raises PrenetError where it is not HDF5, or cut short."""
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if isinstance(error, PermissionError | BlockingIOError):
            what = "cannot be opened"
        else:
            what = "is damaged or cut short" if h5py.is_hdf5(path) else "is not an HDF5 file"
        raise PrenetError(f"{path} {what} ({error}).") from error
    with file:
        yield file


def emd_nodes(file):
    """{path: class name} of what an open EMD file holds, the roots left out."""
    nodes = {}

    def visit(where, group):
        kind = group.attrs.get("python_class")
        if kind not in (None, "Root"):
            nodes[where] = kind

    file.visititems(visit)
    return nodes


def stored_json(group):
    """The provenance, as JSON text, in the group of a DataCube or of a calibration saved alone, or None."""
    stored = group.get("metadatabundle/prenet/json", group.get("prenet/json"))
    return None if stored is None else stored[()].decode()
