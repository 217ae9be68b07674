"""Scans out of files, and new files that appear whole or not at all, never in the place of another.

py4DSTEM is imported only where a DataCube is made: it takes seconds.
"""

import os
import secrets
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import psutil

from . import batches
from .errors import PrenetError

EMD_ENDINGS = (".h5", ".hdf5", ".emd", ".py4dstem")  # those under which py4DSTEM.read looks for EMD
_EMD_NODES = ("node", "array", "pointlist", "pointlistarray", "custom")


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


# --- scans out of files -------------------------------------------------------------------------------------


def open_cube(path, scan=None, name=None):
    """A py4DSTEM DataCube out of a file: EMD, `.npy`, or whatever `py4DSTEM.import_file` reads.

    Data larger than a quarter of the free memory stay on disk where the format allows it, `.npy` always.

    Args:
        path: the file.
        scan: (Rx, Ry), for a format that stores a plain stack of patterns.
        name: which DataCube to take where the file holds several.

    Raises PrenetError where the file is missing, damaged, of an unknown kind, or holds no scan.
    """
    path = existing(path)
    if path.suffix.lower() == ".npy":
        from py4DSTEM import DataCube

        try:
            data = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise PrenetError(f"{path} is not a complete array of numbers ({error}).") from error
        data = _as_scan(data, scan, path)
        batches.check(data)  # py4DSTEM cannot even hold an empty scan
        return DataCube(data, name=path.stem)
    if path.suffix.lower() in EMD_ENDINGS:
        with open_hdf5(path) as file:
            is_emd = file.attrs.get("emd_group_type") == "file"
        if is_emd:
            return _open_emd(path, scan, name)
    return _import(path, scan)


def _as_scan(data, scan, path):
    """The array with axes (Rx, Ry, Qx, Qy)."""
    patterns = int(np.prod(data.shape[:-2]))
    if scan is not None:
        if data.ndim < 2 or patterns != scan[0] * scan[1]:
            raise PrenetError(
                f"{path} holds an array of shape {data.shape}, which does not fill a scan of "
                f"{scan[0]} x {scan[1]}."
            )
        return data.reshape(*scan, *data.shape[-2:])
    if data.ndim != 4:
        raise PrenetError(
            f"{path} holds an array of shape {data.shape}, but a scan has four axes (Rx, Ry, Qx, Qy); "
            "if it is a stack of patterns, give the scan's shape (Rx, Ry)."
        )
    return data


def _too_large(size):
    return size > psutil.virtual_memory().available / 4


def _open_emd(path, scan, name):
    import py4DSTEM

    with open_hdf5(path) as file:
        nodes = emd_nodes(file)
        cubes = [where for where, kind in nodes.items() if kind == "DataCube"]
        if name is not None:
            cubes = [where for where in cubes if name in (where, where.split("/")[-1])]
        if len(cubes) != 1:
            raise PrenetError(_which_cube(path, nodes, cubes, name))
        shape, size = file[cubes[0]]["data"].shape, file[cubes[0]]["data"].nbytes
    if scan is not None and tuple(scan) != shape[:2]:
        raise PrenetError(f"{path} stores its scan as {shape[0]} x {shape[1]}; leave the scan's shape out.")
    try:
        return _on_disk(path, cubes[0]) if _too_large(size) else py4DSTEM.read(path, datapath=cubes[0])
    except Exception as error:  # emdfile raises bare exceptions
        raise PrenetError(f"{path} could not be read by py4DSTEM: {error}") from error


def _which_cube(path, nodes, cubes, name):
    if cubes:
        return f"{path} holds several DataCubes ({', '.join(cubes)}); give the name of one."
    held = [f"{where.split('/')[-1]} ({kind})" for where, kind in nodes.items()]
    named = f" named {name}" if name else ""
    return f"{path} holds no DataCube{named}; it holds: {', '.join(held[:8]) or 'nothing'}."


def _on_disk(path, where):
    """The DataCube at `where`, as py4DSTEM.read gives it, but for its data, which stay in the file."""
    import py4DSTEM
    from py4DSTEM import Calibration, DataCube, Metadata

    file = h5py.File(path, "r")  # stays open as long as the cube's data are in use
    group, calibration = file[where], None
    for entry in file[where.split("/")[0]].get("metadatabundle", {}).values():
        if entry.attrs.get("python_class") == "Calibration":
            calibration = Calibration.from_h5(entry)
            for key in [k for k in calibration.keys if k.startswith("_")]:  # paths inside the file
                del calibration._params[key]
    cube = DataCube(group["data"], name=group.name.split("/")[-1], calibration=calibration)
    for entry in group.get("metadatabundle", {}).values():
        cube.metadata = Metadata.from_h5(entry)
    for child, node in group.items():
        if node.attrs.get("emd_group_type") in _EMD_NODES:
            cube.attach(read := py4DSTEM.read(path, datapath=f"{where}/{child}"))
            if hasattr(read, "setcal"):  # Bragg vectors follow the calibration
                cube.calibration.register_target(read)
                read.setcal()
    return cube


def _import(path, scan):
    """Other formats, through py4DSTEM."""
    import py4DSTEM
    from py4DSTEM import DataCube

    ending = path.suffix.lower()
    options = {"mem": "MEMMAP" if ending in (".gtg", ".bin") or _too_large(path.stat().st_size) else "RAM"}
    if ending == ".mib" and scan is not None:
        options["scan"] = tuple(scan)
    try:
        if ending in EMD_ENDINGS and py4DSTEM.io.legacy.is_py4DSTEM_file(str(path)):
            found = py4DSTEM.read(str(path))
        else:
            found = py4DSTEM.import_file(str(path), **options)
    except Exception as error:  # readers of many formats, each failing in its own way
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise PrenetError(f"{path} could not be opened by py4DSTEM: {told[0]}") from error
    if isinstance(found, DataCube) and scan in (None, found.Rshape):
        return found
    if not hasattr(found, "data") or not hasattr(found.data, "reshape"):
        raise PrenetError(f"{path} holds no DataCube, but a {type(found).__name__}.")
    return DataCube(_as_scan(found.data, scan, path), name=path.stem)


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
