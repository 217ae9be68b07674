"""New files that appear whole or not at all, never in the place of another; and what an HDF5 file holds."""

import os
import secrets
from contextlib import contextmanager
from pathlib import Path

import h5py

from .errors import PrenetError

EMD_ENDINGS = (".h5", ".hdf5", ".emd", ".py4dstem")  # those under which py4DSTEM.read looks for EMD


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
        partial.touch(exist_ok=False)
        partial.unlink()
    except OSError as error:
        raise PrenetError(f"No file can be written in {path.parent.absolute()}: {error.strerror}.") from error
    return path


@contextmanager
def new_file(path, endings=EMD_ENDINGS):
    """Yield an unused path in the same folder; what is written there becomes `path` when the block ends well.

    Left by an exception, KeyboardInterrupt included, the block leaves no file behind.

    Raises PrenetError as `check_output` does, at the start, and where a file appeared at `path` meanwhile.
    """
    path = check_output(path, endings)
    partial = _beside(path)
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        _publish(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _beside(path):
    # The name is kept short of the path's own, which may be as long as the file system allows.
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(6)}.part")


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


def open_cube(path):  # until denoise.py imports `opening.open`
    from .opening import open

    return open(path)
