"""Save calibrated cubes as EMD files that any py4DSTEM reads, with or without this package; load calibrations."""

from __future__ import annotations

import copy
import json
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import h5py
import numpy as np
from tqdm import tqdm

from ..core import BLOCK_BYTES, READING_ERRORS, Flag, PrenetError, check_sources, silent_sources
from . import (
    EMD_ENDINGS,
    PROVENANCE,
    SIGMA,
    WRITTEN,
    Unfinished,
    calibration_of,
    check_names,
    check_readable,
    check_space,
    check_sums,
    checksum,
    existing,
    fingerprint,
    first_line,
    in_chunks,
    new_file,
    open_hdf5,
    read_provenance,
    reserve,
    same_data,
    sigma_slice,
    signatures,
    stored_json,
    to_json,
    undoable,
    use_stock_classes,
)

if TYPE_CHECKING:
    from py4DSTEM import Calibration, DataCube

MAX_TABLE_BYTES = 2**16  # bytes; largest size of the tables of an HDF5 file, in addition to its data
_MAX_CHUNK_BYTES = 2**30  # bytes; largest row of storage chunks that is copied at once


def save(datacube, path, data=True):
    """Save a cube, its calibration, tree and provenance as a new EMD file that any py4DSTEM reads.

    The file gets its name only when it is complete, and it never replaces another file. Data on disk are copied in
    bounded memory. Before the data are written, everything else is read back as py4DSTEM reads it. At the end, a
    checksum of the data is compared with that of the file. A StrainMap in the tree is saved as a RealSlice of the same
    maps, because py4DSTEM cannot read a StrainMap; an object of a subclass of a py4DSTEM class is saved as an object of
    that class.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.
    path : str or pathlib.Path
        A new file, .h5, .hdf5, .emd or .py4dstem.
    data : bool, optional
        False leaves the patterns out and saves a `Calibration` of about 30 kB for `load_calibration`.

    Raises
    ------
    PrenetError
        If the file exists or cannot be written, or py4DSTEM cannot save the contents of the cube, or would not read
        them back.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from py4DSTEM import DataCube
    >>> from py4dstem_prenet import load_calibration, save
    >>> cube = DataCube(np.ones((2, 3, 32, 32), np.uint8))
    >>> cube.calibration.set_ellipse((1.02, 0.98, 0.3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(cube, Path(folder) / "calibration.h5", data=False)
    ...     other = DataCube(np.ones((2, 3, 32, 32), np.uint8))
    ...     load_calibration(other, Path(folder) / "calibration.h5")
    >>> [float(v) for v in other.calibration.get_ellipse()]
    [1.02, 0.98, 0.3]
    """
    if not data:
        if datacube.calibration is None:
            raise PrenetError("The cube has no calibration to save; call datacube.prenet.calibrate() first.")
        with new_file(path, EMD_ENDINGS) as partial:
            check_space(path, 0)
            _save(calibration := _calibration_only(datacube), partial, path)
            check_readable(partial, calibration, path)
        return
    source = datacube.data
    rows = range(0, source.shape[0], _rows_at_once(source))
    blocks = [np.s_[start : start + rows.step] for start in rows]
    with new_file(path, EMD_ENDINGS) as partial:
        _save_without_data(datacube, partial, path, source.dtype)
        where, sums = f"{datacube.root.name}/{datacube.name}/data", []
        with _write_errors(path), h5py.File(partial, "r+") as file:
            for block in tqdm(blocks, desc="saving", unit=" blocks", delay=2):  # seconds
                values = _read(source, block, path)
                file[where][block] = values
                sums.append(checksum(values))
        check_sums(partial, where, zip(blocks, sums, strict=True), path)


@contextmanager
def new_cube(datacube, path, dtype):
    """Make a new EMD file with all contents of a cube except its data, which the caller writes.

    The file appears at `path` when the block ends; if the block is left by an exception, there is no file.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube. Of its data only the shape is used: `np.broadcast_to(np.float32(0), shape)` will do.
    path : str or pathlib.Path
        A new file.
    dtype : numpy.dtype
        Type of the data in the file.

    Yields
    ------
    h5py.Dataset
        The data in the file, (Rx, Ry, Qx, Qy); values that are not written are undefined.
    """
    with new_file(path, EMD_ENDINGS) as partial:
        _save_without_data(datacube, partial, path, dtype)
        with _write_errors(path), h5py.File(partial, "r+") as file:
            yield file[datacube.root.name][datacube.name]["data"]


@contextmanager
def resumable_cube(datacube, path, dtype, record):
    """Make a new EMD file like `new_cube`, whose writing can be interrupted and continued.

    If the block is left by an exception, or the process is killed, the written blocks stay beside `path`. They are used
    again when the block is entered with an equal record.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube; of its data only the shape is used.
    path : str or pathlib.Path
        A new file.
    dtype : numpy.dtype
        Type of the data in the file.
    record : dict
        All that the data depend on (versions, weights, noise, the scan), in types of JSON.

    Yields
    ------
    Unfinished
        The data in the file; blocks are written in any order.
    """
    record = record | {"cube": f"{datacube.root.name}/{datacube.name}"}  # where its data are in the file
    with new_file(path, EMD_ENDINGS, resumable=True) as partial:
        if not Unfinished.matches(partial, record):
            partial.unlink(missing_ok=True)
            _save_without_data(datacube, partial, path, dtype)
            with h5py.File(partial, "r+") as file:
                Unfinished.begin(file[datacube.root.name][datacube.name]["data"], record)
        with _write_errors(path), h5py.File(partial, "r+") as file:
            target = Unfinished(file[datacube.root.name][datacube.name]["data"])
            yield target
            target.end()


def _read(source, block, path):
    """Read rows of the scan into memory."""
    try:
        check_sources(silent_sources(source))
        return np.asarray(source[block])
    except READING_ERRORS as error:
        raise PrenetError(f"{path} was not written: rows {block.start} to {block.stop - 1} of the scan cannot be read "
                          f"({first_line(error)}).") from error


def _save_without_data(datacube, partial, path, dtype):
    size = int(np.prod(datacube.data.shape)) * np.dtype(dtype).itemsize
    check_space(path, size)
    # emdfile loads the data into memory, so it gets an array of one number, which is replaced in the file.
    shell = copy.copy(datacube)
    shell.data = np.zeros((1, 1, 1, 1), dtype)
    check_names(shell, path)
    _save(shell, partial, path)
    with _write_errors(path), h5py.File(partial, "r+") as file:
        use_stock_classes(file, shell)
    check_readable(partial, shell, path)
    reserve(partial, size + MAX_TABLE_BYTES)
    with _write_errors(path), h5py.File(partial, "r+", libver=("v110", "v110")) as file:
        group = file[datacube.root.name][datacube.name]
        units = group["data"].attrs["units"]
        del group["data"]
        in_chunks(group, "data", datacube.data.shape, dtype).attrs["units"] = units


@contextmanager
def _write_errors(path):
    """Turn an OSError into a PrenetError."""
    try:
        yield
    except OSError as error:
        raise PrenetError(f"{path} could not be written: {error}.") from error


def _save(node, partial, path):
    import py4DSTEM

    try:
        py4DSTEM.save(partial, node)
    except Exception as error:  # emdfile raises exceptions of many types
        raise PrenetError(
            f"{path} could not be written, because py4DSTEM cannot save what the cube holds: {error}"
        ) from error
    finally:  # entries that a failed save leaves in the calibration would break the next one
        calibration = getattr(node, "calibration", node)
        for key in ("_root_treepath", "_target_paths") if calibration is not None else ():
            calibration._params.pop(key, None)


def _calibration_only(datacube):
    calibration = datacube.calibration.copy(name="calibration")
    record = {**(read_provenance(datacube) or {}), "shape": to_json(datacube.data.shape)}
    entry = {"json": json.dumps(record)}
    if SIGMA in datacube.treekeys:
        entry["sigma"] = np.array(datacube.tree(SIGMA).data)
    calibration[PROVENANCE] = entry
    return calibration


def _rows_at_once(data):
    """Return the scan rows of a block: about 64 MiB, or a row of storage chunks, to decompress each only once."""
    row = max(1, int(np.prod(data.shape[1:])) * data.dtype.itemsize)
    rows = max(1, BLOCK_BYTES // row)
    chunks = getattr(data, "chunks", None)
    if chunks:
        chunk = int(np.max(chunks[0]))  # h5py gives a number, dask the length of every chunk
        if rows < chunk <= _MAX_CHUNK_BYTES // row:
            return chunk
    return rows


def load_calibration(datacube, path):
    """Apply the calibration in a file to a cube of the same scan.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube. Entries that are not set in the file, such as pixel sizes, are left as they are. `undo` restores the
        previous calibration.
    path : str or pathlib.Path
        A file that `save` wrote, with or without data, or any EMD file with a calibration.

    Raises
    ------
    PrenetError
        If the file holds no calibration, or a calibration for data of another shape.

    Warns
    -----
    UserWarning
        If the calibration was measured on another scan of the same shape; `check_calibration` also reports this.
    """
    from py4DSTEM import Calibration, Metadata

    path = existing(path)
    with open_hdf5(path) as file:
        calibration, shape, sigma, record = _read_calibration(file, path)
    params = calibration._params
    if shape is None and np.ndim(params.get("qx0", params.get("qx0_meas"))) == 2:
        shape = np.shape(params.get("qx0", params.get("qx0_meas")))
    own = tuple(datacube.data.shape)
    if shape is not None and tuple(shape) != own[: len(shape)]:
        raise PrenetError(f"{path} calibrates data of shape {tuple(shape)}, but this cube is {own}.")

    untouched, target = Calibration()._params, calibration_of(datacube)
    if "QR_rotation" in params:  # a rotation without flip replaces one with it
        untouched.pop("QR_flip", None)
    with undoable(datacube):
        for key, value in params.items():
            if not key.startswith("_") and (np.ndim(value) or value != untouched.get(key)):
                target[key] = value
        target.calibrate()  # updates the axes of the cube, as the setters do
        if sigma is not None:
            datacube.attach(sigma_slice(sigma))
        if record:
            datacube.metadata = Metadata(PROVENANCE, {"json": record})
    own_print = fingerprint(datacube)
    if any(entry["unchanged"] and same_data(entry.get("data"), own_print) is False
           for entry in signatures(datacube).values()):
        warnings.warn(str(Flag("other_data")), stacklevel=2)


def open_calibrated(path) -> DataCube:
    """Open the calibration in an EMD file as a cube, with its patterns left in the file, or without any.

    Parameters
    ----------
    path : str or pathlib.Path
        A file with a calibrated cube, or with a calibration alone.

    Returns
    -------
    py4DSTEM.DataCube
        The cube; patterns that the file lacks are zero.

    Raises
    ------
    PrenetError
        If the file holds no calibration.
    """
    from py4DSTEM import DataCube

    path = existing(path)
    with open_hdf5(path) as file:
        shape = _read_calibration(file, path)[1]
        with_data = any(node.attrs.get("python_class") == "DataCube" for root in file.values() for node in root.values()
                        if hasattr(node, "attrs"))
    if with_data:
        from . import open as open_scan

        return open_scan(path)
    if shape is None:
        raise PrenetError(f"{path} holds a calibration without the shape of its data; give the calibrated DataCube, or "
                          "a file that datacube.prenet.save(data=False) wrote.")
    cube = DataCube(np.broadcast_to(np.uint8(0), tuple(shape)), name=path.stem)
    load_calibration(cube, path)
    return cube


def open_bare_calibration(path) -> Calibration | None:
    """Open a calibration that py4DSTEM saved without its cube.

    Parameters
    ----------
    path : str or pathlib.Path
        An EMD file.

    Returns
    -------
    py4DSTEM.Calibration or None
        The calibration; None if the file states the shape of its data.

    Raises
    ------
    PrenetError
        If the file holds no calibration.
    """
    path = existing(path)
    with open_hdf5(path) as file:
        calibration, shape, _, _ = _read_calibration(file, path)
    return calibration if shape is None else None


def _read_calibration(file, path) -> tuple[Calibration, tuple | None, np.ndarray | None, str | None]:
    """Read calibration, shape of the data, maps of sigma and provenance (JSON text); None for what is missing."""
    from py4DSTEM import Calibration

    for root in file.values():
        for group in root.get("metadatabundle", {}).values():
            if group.attrs.get("python_class") == "Calibration":
                calibration = Calibration.from_h5(group)
                entry = calibration._params.pop(PROVENANCE, None)
                if entry:  # without data
                    return calibration, json.loads(entry["json"])["shape"], entry.get("sigma"), entry["json"]
                for cube in root.values():
                    if cube.attrs.get("python_class") == "DataCube":
                        sigma = cube[SIGMA]["data"][...] if SIGMA in cube else None
                        return calibration, cube["data"].shape, sigma, stored_json(cube)
                written = json.loads(calibration._params.get(WRITTEN) or "{}")  # by this package
                return calibration, next((entry["shape"] for entry in written.values()), None), None, None
    raise PrenetError(f"{path} holds no calibration. Calibrate it and save the result as an EMD file: "
                      f"prenet calibrate {path.name} -o {path.stem}_calibrated.h5.")
