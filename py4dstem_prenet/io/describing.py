"""Describe the contents of a file without loading its data."""

import json

import h5py

from ..core import PrenetError
from . import (
    choose_array,
    compression_of,
    decide_shape,
    emd_nodes,
    is_emd,
    open_hdf5,
    possible_shapes,
    read_contents,
    readable_path,
    stored_json,
    to_json,
)

_CALIBRATED = {"origin_meas": "qx0_meas", "origin": "qx0", "ellipse": "a", "rotation": "QR_rotation",
               "probe radius": "probe_semiangle"}  # what is set: entry of py4DSTEM's calibration


def describe_file(path):
    """Describe the contents of a file.

    Parameters
    ----------
    path : str or pathlib.Path
        Any file that `py4dstem_prenet.open` reads, or another HDF5 file.

    Returns
    -------
    dict
        "file", the path; "kind", its type; "contents", a list with one dict for each object in the file: "path"
        inside the file, "kind" (the class name in an EMD file, otherwise "scan", "stack of patterns" or "data set"),
        "shape" and "dtype" (None where the object has no data), "compression" (names of the filters, or None) and
        "record" (the provenance that this package stored, or None). For the scan that `open` would return: "scan_shape"
        (None if it is not certain), "possible_scan_shapes" (if it is not), "pixel_sizes" ({"R" or "Q": [size,
        unit]}), "calibration" (names of the entries that are set) and "flags".

    Raises
    ------
    PrenetError
        If the file is missing, cannot be read, holds no data, or must be converted first.

    Examples
    --------
    >>> import h5py, tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "plain.h5"
    ...     with h5py.File(path, "w") as file:
    ...         _ = file.create_dataset("counts", (2, 3, 32, 32), "u2", compression="gzip")
    ...     described = describe_file(path)
    >>> content, = described["contents"]
    >>> content["path"], content["shape"], content["dtype"], content["compression"]
    ('counts', [2, 3, 32, 32], 'uint16', 'deflate')
    >>> described["scan_shape"]
    [2, 3]
    """
    path = readable_path(path)
    if is_emd(path):
        described = _describe_emd(path)
        if described["contents"]:
            return described
    contents = read_contents(path)
    if not contents.arrays and not contents.others:
        raise PrenetError(f"{path} ({contents.kind}) holds no data{f'; {contents.hint}' if contents.hint else ''}.")
    listed = [_entry(a.name, "scan" if a.ndim == 4 else "stack of patterns", a.shape, a.dtype, a.compression)
              for a in contents.arrays]
    listed += [_entry(d.name, d.kind, d.shape, d.dtype, d.compression) for d in contents.others]
    listed.sort(key=lambda part: part["path"])
    return {"file": str(path), "kind": contents.kind, "contents": listed} | _described_scan(contents, path)


def _described_scan(contents, path):
    """Describe the scan that `open` would return."""
    scan = {"scan_shape": None, "possible_scan_shapes": [], "pixel_sizes": {}, "calibration": [], "flags": []}
    try:
        array = choose_array(contents, path)
    except PrenetError:
        return scan
    sizes, flags = array.sizes.in_units_of_py4dstem()
    flags = [*contents.flags, *array.flags, *flags]
    try:
        shape, left_out = decide_shape(array, path)
        scan["scan_shape"] = list(shape)
        flags += left_out
    except PrenetError:
        scan["possible_scan_shapes"] = [list(s) for s in possible_shapes(array.count)[:20]]  # no more are listed
    return scan | {"pixel_sizes": {space: list(size) for space, size in sizes.items()},
                   "calibration": _set_entries(array.calibration or {}), "flags": [flag.to_json() for flag in flags]}


def _describe_emd(path):
    """List the nodes of an EMD 1.0 file."""
    try:
        with open_hdf5(path) as file:
            nodes = emd_nodes(file)
            contents = [_emd_entry(file[where], where, kind) for where, kind in nodes.items() if kind != "Metadata"]
            cubes = [where for where, kind in nodes.items() if kind == "DataCube"]
            values = [_calibration_values(file[where]) for where, kind in nodes.items() if kind == "Calibration"]
            shape = [int(n) for n in file[cubes[0]]["data"].shape[:2]] if len(cubes) == 1 else None
    except PrenetError:
        raise
    except Exception as error:  # HDF5 reports a damaged file by errors of many types
        raise PrenetError(f"{path} is damaged and cannot be read ({error}).") from error
    values = values[0] if len(values) == 1 else {}
    sizes = {space: [values[f"{space}_pixel_size"], values.get(f"{space}_pixel_units")] for space in "RQ"
             if values.get(f"{space}_pixel_units") not in (None, "pixels")}
    return {"file": str(path), "kind": "EMD 1.0", "contents": contents, "scan_shape": shape, "possible_scan_shapes": [],
            "pixel_sizes": to_json(sizes), "calibration": _set_entries(values), "flags": []}


def _calibration_values(group):
    from emdfile import Metadata

    return Metadata.from_h5(group)._params


def _set_entries(values):
    pixel_size = ["Q pixel size"] if values.get("Q_pixel_units") not in (None, "pixels") else []
    return [name for name, entry in _CALIBRATED.items() if values.get(entry) is not None] + pixel_size


def _emd_entry(group, where, kind):
    record, data = stored_json(group), group.get("data")
    record = json.loads(record) if record else None
    if not isinstance(data, h5py.Dataset):
        return _entry(where, kind, record=record)
    return _entry(where, kind, data.shape or (), data.dtype, compression_of(data), record)


def _entry(where, kind, shape=None, dtype=None, compression=None, record=None):
    return {"path": where, "kind": kind, "shape": None if shape is None else [int(n) for n in shape],
            "dtype": None if dtype is None else str(dtype), "compression": compression, "record": record}
