"""Calibrated cubes as EMD files that any py4DSTEM reads, with or without this package; and calibrations out of them."""

import copy
import json
from contextlib import contextmanager

import h5py
import numpy as np
import py4DSTEM
from py4DSTEM import Calibration, Metadata
from tqdm import tqdm

from ..core import PrenetError
from .calibrations import PROVENANCE, SIGMA, all_or_none, calibration_of, read_provenance, sigma_slice, to_json
from .files import (
    EMD_ENDINGS,
    Unfinished,
    check_space,
    emd_nodes,
    existing,
    in_chunks,
    new_file,
    open_hdf5,
    reserve,
    stored_json,
)

TABLES = 2**16  # bytes of an HDF5 file's own tables, at most, beside those of its data
_BLOCK_BYTES = 64 * 2**20
_LARGEST_CHUNK = 2**30


def save(datacube, path, data=True):
    """Save a cube, its calibration, tree and provenance as a new EMD file that any py4DSTEM reads.

    data: False leaves the patterns out and saves a `Calibration` of some 30 kB, for `load_calibration`.

    The file appears whole or not at all, and never replaces another. Data on disk are copied in bounded
    memory. A StrainMap in the tree becomes a RealSlice of the same maps: py4DSTEM cannot read its own back.

    Raises PrenetError where `path` cannot be taken or py4DSTEM cannot save what the cube holds.
    """
    if not data:
        if datacube.calibration is None:
            raise PrenetError("The cube has no calibration to save; call datacube.prenet.calibrate() first.")
        with new_file(path, EMD_ENDINGS) as partial:
            check_space(path, 0)
            _save(_calibration_only(datacube), partial, path)
        return
    source = datacube.data
    with new_cube(datacube, path, source.dtype) as target:
        rows = range(0, source.shape[0], _rows_at_once(source))
        for start in tqdm(rows, desc="saving", unit=" blocks", delay=2):  # seconds
            block = np.s_[start : start + rows.step]
            target[block] = np.asarray(source[block])


@contextmanager
def new_cube(datacube, path, dtype):
    """A new EMD file with all of `datacube` but its data, which the caller fills in.

    Yields the file's data: an h5py.Dataset of the cube's shape, zero where nothing is written. The file
    appears at `path` once the block ends well; left by an exception it leaves nothing.

    A cube that needs no data of its own, only a shape, is `DataCube(np.broadcast_to(np.float32(0), shape))`.
    """
    with new_file(path, EMD_ENDINGS) as partial:
        _save_without_data(datacube, partial, path, dtype)
        with _told(path), h5py.File(partial, "r+") as file:
            yield file[datacube.root.name][datacube.name]["data"]


@contextmanager
def resumable_cube(datacube, path, dtype, record):
    """As `new_cube`, but yields `files.Unfinished`, to which blocks are written in any order.

    Left by an exception, or killed, what was written stays beside `path`, and is found there again when the block
    is entered with an equal record.

    Args:
        record: what JSON can hold, all that the data depend on (versions, weights, noise, the scan itself).
    """
    with new_file(path, EMD_ENDINGS, resumable=True) as partial:
        if not Unfinished.matches(partial, record):
            partial.unlink(missing_ok=True)
            _save_without_data(datacube, partial, path, dtype)
            with h5py.File(partial, "r+") as file:
                Unfinished.begin(file[datacube.root.name][datacube.name]["data"], record)
        with _told(path), h5py.File(partial, "r+") as file:
            target = Unfinished(file[datacube.root.name][datacube.name]["data"])
            yield target
            target.end()


def _save_without_data(datacube, partial, path, dtype):
    size = int(np.prod(datacube.data.shape)) * np.dtype(dtype).itemsize
    check_space(path, size)
    # emdfile turns any data into one array in memory, so it is given one number, and that is exchanged.
    shell = copy.copy(datacube)
    shell.data = np.zeros((1, 1, 1, 1), dtype)
    _save(shell, partial, path)
    reserve(partial, size + TABLES)
    with _told(path), h5py.File(partial, "r+", libver=("v110", "v110")) as file:
        for where, kind in emd_nodes(file).items():
            if kind == "StrainMap":  # py4DSTEM cannot rebuild one, and would read nothing of the file
                file[where].attrs["python_class"] = "RealSlice"
        group = file[datacube.root.name][datacube.name]
        units = group["data"].attrs["units"]
        del group["data"]
        in_chunks(group, "data", datacube.data.shape, dtype).attrs["units"] = units


@contextmanager
def _told(path):
    try:
        yield
    except OSError as error:
        raise PrenetError(f"{path} could not be written: {error}.") from error


def _save(node, partial, path):
    try:
        py4DSTEM.save(partial, node)
    except Exception as error:  # emdfile raises bare exceptions, or stumbles over types it does not know
        raise PrenetError(
            f"{path} could not be written, because py4DSTEM cannot save what the cube holds: {error}"
        ) from error
    finally:  # what a failed save leaves behind would spoil the next one
        calibration = getattr(node, "calibration", node)
        for key in ("_root_treepath", "_target_paths"):
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
    """Scan rows in a block: about 64 MiB, or one row of storage chunks, lest each be unpacked many times."""
    row = max(1, int(np.prod(data.shape[1:])) * data.dtype.itemsize)
    rows = max(1, _BLOCK_BYTES // row)
    chunks = getattr(data, "chunks", None)
    if chunks:
        chunk = int(np.max(chunks[0]))  # h5py gives a number, dask the length of every chunk
        if rows < chunk <= _LARGEST_CHUNK // row:
            return chunk
    return rows


def load_calibration(datacube, path):
    """Apply the calibration in a file to a cube of the same scan.

    path: what `save` wrote, with or without data, or any EMD file with a calibration. What was never set
    there (pixel sizes, say) is left as it is in the cube.

    Raises PrenetError where the file holds no calibration, or one for a scan or patterns of another shape.
    """
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
    with all_or_none(datacube):
        for key, value in params.items():
            if not key.startswith("_") and (np.ndim(value) or value != untouched.get(key)):
                target[key] = value
        target.calibrate()  # what the setters do: the cube's axes follow
        if sigma is not None:
            datacube.attach(sigma_slice(sigma))
        if record:
            datacube.metadata = Metadata(PROVENANCE, {"json": record})


def _read_calibration(file, path):
    """Calibration, shape of the data, sigma maps and provenance (JSON text); None for those not there."""
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
                return calibration, None, None, None
    raise PrenetError(f"{path} holds no calibration; it must be an EMD file that py4DSTEM saved.")
