"""Describe what a file holds without loading its data."""

import json

import h5py

from ..core import PrenetError
from . import EMD_ENDINGS, emd_nodes, existing, open as open_cube, open_hdf5, stored_json


def describe_file(path):
    """Describe the contents of a file.

    Parameters
    ----------
    path : str or pathlib.Path
        An EMD file, any other HDF5 file, or a file that `py4dstem_prenet.open` reads.

    Returns
    -------
    dict
        "file", the path, and "contents", a list with one dict for each object in the file: "path" inside the file,
        "kind" (the class name in an EMD file, "data set" in other HDF5 files, "scan" elsewhere), "shape" and
        "dtype" (None where the object has no data), "compression" (names of the HDF5 filters, or None) and "record"
        (the provenance that this package stored, or None).

    Raises
    ------
    PrenetError
        If the file is missing, cannot be read, or holds no data.

    Examples
    --------
    >>> import h5py, tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "plain.h5"
    ...     with h5py.File(path, "w") as file:
    ...         _ = file.create_dataset("counts", (2, 3, 32, 32), "u2", compression="gzip")
    ...     content, = describe_file(path)["contents"]
    >>> content["path"], content["shape"], content["dtype"], content["compression"]
    ('counts', [2, 3, 32, 32], 'uint16', 'deflate')
    """
    path = existing(path)
    if path.suffix.lower() in EMD_ENDINGS or h5py.is_hdf5(path):
        contents = _hdf5_contents(path)
    else:
        contents = [_entry("", "scan", open_cube(path).data)]
    return {"file": str(path), "contents": contents}


def _hdf5_contents(path):
    """Entries of an HDF5 file: the EMD nodes, or all data sets where there is no node."""
    try:
        with open_hdf5(path) as file:
            contents = [_emd_entry(file[where], where, kind) for where, kind in emd_nodes(file).items()
                        if kind != "Metadata"] or _data_sets(file)
    except PrenetError:
        raise
    except Exception as error:  # HDF5 reports a damaged file by errors of many types
        raise PrenetError(f"{path} is damaged and cannot be described ({error}).") from error
    if not contents:
        raise PrenetError(f"{path} is an HDF5 file without any data set.")
    return contents


def _emd_entry(group, where, kind):
    record = stored_json(group)
    return _entry(where, kind, group.get("data"), json.loads(record) if record else None)


def _data_sets(file):
    found = []

    def add(where, node):
        if isinstance(node, h5py.Dataset):
            found.append(_entry(where, "data set", node))

    file.visititems(add)
    return found


def _entry(where, kind, data, record=None):
    return {"path": where, "kind": kind, "shape": None if data is None else [int(n) for n in data.shape or ()],
            "dtype": None if data is None else str(data.dtype),
            "compression": _compression(data) if isinstance(data, h5py.Dataset) else None, "record": record}


def _compression(dataset):
    """Names of the filters of a data set as HDF5 stores them; None where there is none."""
    stored = dataset.id.get_create_plist()
    filters = [stored.get_filter(k) for k in range(stored.get_nfilters())]
    names = [name.decode(errors="replace").split(";")[0] or f"filter {number}" for number, _, _, name in filters]
    return ", ".join(names) or None
