"""Open scans from files without loading their data.

Each format has one reader, so that a scan has the same orientation on every machine (`docs/files.md`): h5py for all
HDF5 files, py4DSTEM for Digital Micrograph and K2, zarr and numpy for theirs, RosettaSciIO for the others; Merlin and
EMPAD frames are mapped according to their headers and sizes. A reader finds arrays (`stored`); this module chooses one
and gives it the shape of the scan.

Contiguous data become a read-only `numpy.memmap`. For HDF5 data in chunks, `cube.data` is an `h5py.Dataset`, whose file
stays open as long as the cube exists, or until `cube.data.file.close()`. Stacks in several files and data read by
RosettaSciIO are dask arrays, which are read when they are computed.
"""

import os
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from ..core import PrenetError, as_scan
from . import (
    EMD_ENDINGS,
    FileContents,
    checked_shape,
    choose_array,
    decide_shape,
    emd_nodes,
    existing,
    first_line,
    heard,
    is_zarr,
    load_shaped,
    open_dataset,
    open_hdf5,
    read_dm,
    read_empad,
    read_hdf5,
    read_k2,
    read_merlin,
    read_npy,
    read_with_rosettasciio,
    read_zarr,
    refuse_known,
    write_pixel_sizes,
)

_EMD_NODES = ("node", "array", "pointlist", "pointlistarray", "custom")  # emd_group_type
_READERS = {".npy": read_npy, ".mib": read_merlin, ".raw": read_empad, ".xml": read_empad, ".dm": read_dm,
            ".dm3": read_dm, ".dm4": read_dm, ".gtg": read_k2, ".bin": read_k2}
_MAX_AXIS = 2**22  # elements; longest axis: a longer one is that of a damaged file, and py4DSTEM makes a list of it


def open(path, scan_shape=None, name=None):
    """Open a scan without loading its data.

    Parameters
    ----------
    path : str or pathlib.Path
        EMD or any other HDF5 file, a zarr store, `.npy`, or the file of a detector or another program
        (`docs/files.md`).
    scan_shape : tuple of int, optional
        (Rx, Ry); replaces the shape in the file. It is needed if header, file name and number of frames do not agree
        on one shape. (1, 1) opens an image, or a picture such as PNG, as a single pattern.
    name : str, optional
        Name or path of the DataCube or data set, if the file holds several.

    Returns
    -------
    py4DSTEM.DataCube
        The scan, (Rx, Ry, Qx, Qy), with the calibration and the pixel sizes in the file. Parts that were left out
        and messages of the reader are issued as warnings.

    Raises
    ------
    PrenetError
        If the file is missing, damaged, of an unknown kind, must be converted first, holds no scan, or needs more
        memory than is free; or if the shape of the scan is not certain, with the possible shapes.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import py4dstem_prenet
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(Path(folder) / "stack.npy", np.ones((6, 32, 32), np.uint8))
    ...     datacube = py4dstem_prenet.open(Path(folder) / "stack.npy", scan_shape=(2, 3))
    >>> datacube.Rshape, datacube.Qshape
    ((2, 3), (32, 32))
    """
    path, shape = readable_path(path), checked_shape(scan_shape)
    if is_emd(path):
        with heard(), _readable(path):
            cube = _open_emd(path, shape, name)
        if cube is not None:
            return cube
    contents = read_contents(path, shape)
    array = choose_array(contents, path, shape, name)
    scan_shape, flags = decide_shape(array, path, shape)
    from py4DSTEM import Metadata

    with heard() as told, _readable(path):
        cube = _cube(load_shaped(array, scan_shape), path)
        flags = (*array.flags, *flags, *write_pixel_sizes(cube.calibration, array.sizes))
        if array.settings:
            cube.metadata = Metadata("microscope", dict(array.settings))
        if array.calibration:
            cube.calibration._params.update(array.calibration)
            cube.calibration.calibrate()
    for flag in (*contents.flags, *flags, *told):
        warnings.warn(str(flag), stacklevel=2)
    return cube


def readable_path(path) -> Path:
    """Check the path of a file, or of a folder that is a store.

    Parameters
    ----------
    path : str, bytes or path-like
        The path; "~" is expanded.

    Returns
    -------
    pathlib.Path
        The path.

    Raises
    ------
    PrenetError
        If there is nothing, or a folder that is no store.
    """
    try:
        path = Path(os.fsdecode(path)).expanduser()
        folder = path.is_dir()
    except (TypeError, ValueError, OSError) as error:
        raise PrenetError(f"A path to a file is needed, not {path!r:.60}.") from error
    if not folder:
        return existing(path)
    if not is_zarr(path):
        refuse_known(path)
    return path


def is_emd(path) -> bool:
    """Return whether a file is EMD 1.0, as py4DSTEM has written it since 0.14.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Returns
    -------
    bool
        True if it is.
    """
    if not _is_hdf5(path):
        return False
    with _readable(path), open_hdf5(path) as file:
        kind = file.attrs.get("emd_group_type")
        return isinstance(kind, str) and kind == "file"


def _is_hdf5(path):
    return path.is_file() and (path.suffix.lower() in EMD_ENDINGS or h5py.is_hdf5(path))


def read_contents(path, scan_shape=None) -> FileContents:
    """Find the arrays of a file that may be scans, whatever its format.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    scan_shape : tuple of int, optional
        (Rx, Ry), for formats in which RosettaSciIO finds where the scan begins.

    Returns
    -------
    FileContents
        Contents of the file.

    Raises
    ------
    PrenetError
        If it is damaged, of an unknown kind, or must be converted first.
    """
    if is_zarr(path):
        return read_zarr(path)
    if _is_hdf5(path):
        with _readable(path):
            contents = read_hdf5(path)
        name = {"Velox EMD": "EMD", "Delmic": "Delmic"}.get(contents.kind)
        return read_with_rosettasciio(path, scan_shape, name) if name else contents
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        refuse_known(path)
        return read_with_rosettasciio(path, scan_shape)
    with heard() as told, _readable(path):
        contents = reader(path)
    return replace(contents, flags=(*contents.flags, *told))


@contextmanager
def _readable(path):
    """Convert the errors of many types that readers raise for a damaged file to PrenetError."""
    try:
        yield
    except PrenetError:
        raise
    except Exception as error:
        raise PrenetError(f"{path} is damaged, or its ending is that of another format "
                          f"({first_line(error)}).") from error


def _cube(data, path, **options):
    """Make a DataCube of an array, after checks of its shape and type."""
    from py4DSTEM import DataCube

    if isinstance(data, np.ndarray) and data.dtype == bool:
        data = data.view(np.uint8)  # one-bit counts
    as_scan(data)  # raises PrenetError; py4DSTEM itself fails on an empty scan
    if max(data.shape) > _MAX_AXIS:
        raise PrenetError(f"According to {path} the scan has the shape {tuple(data.shape)}, which no detector "
                          "produces; the file is damaged, or not a scan.")
    return DataCube(data, **({"name": path.stem} | options))


# --- EMD 1.0 ------------------------------------------------------------------------------------------------
def _open_emd(path, scan_shape, name):
    """Open the only DataCube of a file; None if it holds no DataCube but other arrays."""
    with open_hdf5(path) as file:
        nodes = emd_nodes(file)
        cubes = [where for where, kind in nodes.items() if kind == "DataCube"]
        if not cubes and any(kind == "Array" and file[where]["data"].ndim >= 3 for where, kind in nodes.items()):
            return None
        if name is not None:
            name = name.strip("/")
            cubes = [where for where in cubes if name in (where, where.split("/")[-1])]
        if len(cubes) != 1:
            raise PrenetError(_which_cube(path, nodes, cubes, name))
        shape = file[cubes[0]]["data"].shape
    cube = _emd_cube(path, cubes[0])
    if scan_shape in (None, shape[:2]):
        return cube
    if scan_shape[0] * scan_shape[1] != shape[0] * shape[1] or _has_maps(cube, shape[:2]):
        raise PrenetError(f"{path} stores a scan of {shape[0]} x {shape[1]}. It holds maps of this shape, or another "
                          "number of positions than you gave; leave out scan_shape= (or --scan).")
    return _reshaped_cube(cube, scan_shape, path)


def _has_maps(cube, shape):
    """Return whether the calibration or the tree holds maps of the scan."""
    values = [v for k, v in cube.calibration._params.items() if not k.startswith("_")] if cube.calibration else []
    return bool(list(cube.treekeys)) or any(np.shape(v)[:2] == tuple(shape) for v in values)


def _reshaped_cube(cube, scan_shape, path):
    """Return the same cube with its positions in another shape."""
    from . import StoredArray

    data = load_shaped(StoredArray.of(cube.data), scan_shape)
    new = _cube(data, path, name=cube.name, calibration=cube.calibration)
    for record in cube.metadata.values():
        if record.name != "calibration":
            new.metadata = record
    return new


def _which_cube(path, nodes, cubes, name):
    """Return the message for an EMD file without exactly one matching DataCube."""
    if cubes:
        return f"{path} holds several DataCubes ({', '.join(cubes)}); give the name of one."
    contents = [f"{where.split('/')[-1]} ({kind})" for where, kind in nodes.items()]
    named = f" named {name}" if name else ""
    return f"{path} holds no DataCube{named}; it holds: {', '.join(contents[:8]) or 'nothing'}."


def _emd_cube(path, where):
    """Open the DataCube at `where` as py4DSTEM.read returns it, except that its data stay in the file."""
    import py4DSTEM
    from py4DSTEM import Calibration, DataCube, Metadata

    with open_hdf5(path) as file:
        group, calibration = file[where], None
        for entry in file[where.split("/")[0]].get("metadatabundle", {}).values():
            if entry.attrs.get("python_class") == "Calibration":
                calibration = Calibration.from_h5(entry)
                for key in [k for k in calibration.keys if k.startswith("_")]:  # paths inside the file
                    del calibration._params[key]
        cube = DataCube(open_dataset(path, f"{where}/data"), name=group.name.split("/")[-1], calibration=calibration)
        for entry in group.get("metadatabundle", {}).values():
            cube.metadata = Metadata.from_h5(entry)
        children = [child for child, node in group.items() if node.attrs.get("emd_group_type") in _EMD_NODES]
    for child in children:
        cube.attach(node := py4DSTEM.read(path, datapath=f"{where}/{child}"))
        if hasattr(node, "setcal"):  # Bragg vectors are transformed by the calibration
            cube.calibration.register_target(node)
            node.setcal()
    return cube
