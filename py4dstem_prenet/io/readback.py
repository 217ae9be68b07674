"""Check that py4DSTEM reads a written file correctly, before the file gets its name."""

import zlib
from contextlib import redirect_stderr
from io import StringIO

import numpy as np

from ..core import PrenetError
from . import emd_nodes, first_line, heard, open_hdf5

_STOCK = ("py4DSTEM", "emdfile")  # packages whose classes any py4DSTEM reads
_UNREADABLE = {"StrainMap": "RealSlice"}  # classes that py4DSTEM writes but cannot read, and what reads the same maps


def check_names(datacube, path):
    """Check names and pixel sizes of a cube that py4DSTEM writes but cannot read.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.
    path : str or pathlib.Path
        The new file, for the message.

    Raises
    ------
    PrenetError
        If a name holds a slash, which HDF5 takes for a group, or a pixel size is not one number.
    """
    values = {} if datacube.calibration is None else datacube.calibration._params
    names = [("The name", node.name) for node in _nodes(datacube)]
    names += [("The entry of the calibration", key) for key in values if not str(key).startswith("_")]
    for record in datacube.metadata.values():
        names += [("The name of metadata", record.name), *(("The entry of metadata", key) for key in record.keys)]
    for what, name in names:
        if "/" in str(name) or not str(name):
            raise PrenetError(f"{path} was not written: {what} {name!r} would make it unreadable; give it a name "
                              "without a slash first.")
    for key in ("Q_pixel_size", "R_pixel_size"):
        value = values.get(key, 1.0)
        if isinstance(value, bool) or np.ndim(value) or not isinstance(value, int | float | np.number):
            raise PrenetError(f"{path} was not written: {key} of the calibration is {value!r:.60}, and py4DSTEM reads "
                              "one number only; set it first.")


def _nodes(datacube):
    """Yield the cube and all objects in the tree below it."""
    found, waiting = [], [datacube]
    while waiting:
        node = waiting.pop()
        found.append(node)
        waiting += list(node._branch._dict.values())
    return found


def use_stock_classes(file, datacube):
    """Replace the names of classes in an EMD file that py4DSTEM alone cannot read.

    Parameters
    ----------
    file : h5py.File
        The file, open for writing.
    datacube : py4DSTEM.DataCube
        What was saved in it.
    """
    stock = dict(_UNREADABLE)
    objects = [*_nodes(datacube), *datacube.metadata.values(), *datacube.root.metadata.values()]
    for kind in {type(thing) for thing in objects}:
        if kind.__module__.split(".")[0] not in _STOCK:
            base = next(b for b in kind.__mro__ if b.__module__.split(".")[0] in _STOCK)
            stock[kind.__name__] = _UNREADABLE.get(base.__name__, base.__name__)
    for where, kind in emd_nodes(file).items():
        if kind in stock:
            file[where].attrs["python_class"] = stock[kind]


def check_readable(partial, node, path):
    """Check that py4DSTEM reads a cube, with its tree, metadata and calibration, or a calibration.

    Parameters
    ----------
    partial : pathlib.Path
        The file that was written; of a cube without its patterns.
    node : py4DSTEM.DataCube or py4DSTEM.Calibration
        What was saved in it.
    path : str or pathlib.Path
        The name that the file will get, for the message.

    Raises
    ------
    PrenetError
        If it is not read, or something is missing or different.
    """
    import emdfile
    import py4DSTEM
    from py4DSTEM import Calibration

    try:
        with heard(), redirect_stderr(StringIO()):  # its progress bars
            found = emdfile.read(partial)  # what py4DSTEM.read calls, which wants the final ending of the name
            calibration = getattr(found, "calibration", None)
            if calibration is not None:
                calibration.register_target(found)
                calibration.calibrate()
    except Exception as error:  # emdfile raises exceptions of many types
        raise PrenetError(f"{path} was not written, because py4DSTEM would not read back what the cube holds: "
                          f"{first_line(error)}") from error
    lost = None
    if isinstance(node, Calibration):
        lost = _difference(node, found)
    elif not isinstance(found, py4DSTEM.DataCube):
        lost = "the cube"
    else:
        names, there = _tree_names(node), _tree_names(found)
        lost = ", ".join(sorted(names - there)) or None
        if lost is None and node.calibration is not None:
            lost = _difference(node.calibration, found.calibration)
        for name, record in node.metadata.items():
            if lost is None and name != "calibration":
                lost = _difference(record, found.metadata.get(name))
    if lost is not None:
        raise PrenetError(f"{path} was not written, because py4DSTEM would not read back {lost} as it is.")


def _tree_names(node, path=""):
    names = set()
    for name, child in node._branch._dict.items():
        names |= {f"{path}{name}", *_tree_names(child, f"{path}{name}/")}
    return names


def _difference(record, found):
    """Return the name of an entry that was not read back, or None."""
    if found is None or not hasattr(found, "_params"):
        return record.name
    for key, value in record._params.items():
        if not key.startswith("_") and not (key in found._params and _same(value, found._params[key])):
            return key
    return None


def _same(one, two):
    if isinstance(one, dict):
        return isinstance(two, dict) and one.keys() == two.keys() and all(_same(v, two[k]) for k, v in one.items())
    if one is None or isinstance(one, str):
        return one == two
    if isinstance(one, list | tuple):
        return len(one) == np.size(two, 0) and all(map(_same, one, two)) if np.ndim(two) else False
    try:
        return np.array_equal(np.asarray(one), np.asarray(two), equal_nan=True)
    except TypeError:
        return np.array_equal(np.asarray(one), np.asarray(two))


def checksum(values) -> int:
    """Sum up values, to compare them with those in a file.

    Parameters
    ----------
    values : ndarray
        The values.

    Returns
    -------
    int
        CRC-32 of the values in native byte order.
    """
    values = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    return zlib.crc32(values.reshape(-1).view(np.uint8))


def check_sums(partial, where, expected, path):
    """Compare the data in a file with what was written.

    Parameters
    ----------
    partial : pathlib.Path
        The file.
    where : str
        Path of the data set.
    expected : iterable of (slice, int)
        Rows of the scan and the checksum of each.
    path : str or pathlib.Path
        The name that the file will get, for the message.

    Raises
    ------
    PrenetError
        If they differ or cannot be read.
    """
    try:
        with open_hdf5(partial) as file:
            dataset = file[where]
            wrong = next((rows for rows, known in expected if checksum(dataset[rows]) != known), None)
    except (OSError, KeyError) as error:
        raise PrenetError(f"{path} was not written, because the file could not be read back ({error}).") from error
    if wrong is not None:
        raise PrenetError(f"{path} was not written: rows {wrong.start} to {wrong.stop - 1} of the scan read back "
                          "differently; check the disk.")
