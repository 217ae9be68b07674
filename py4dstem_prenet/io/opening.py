"""Open scans from files without loading their data.

Each format has one reader, so that a scan has the same orientation on every machine: numpy for `.npy`; h5py for all
HDF5 files (py4DSTEM's EMD, HyperSpy's `.hspy`, any file with a 4-D data set); py4DSTEM for the detector files that it
reads; RosettaSciIO, if it is installed, for the others.

Contiguous data become a read-only `numpy.memmap`. For HDF5 data in chunks, `cube.data` is an `h5py.Dataset`, whose file
stays open as long as the cube exists, or until `cube.data.file.close()`. RosettaSciIO gives dask arrays, which are read
when they are computed. EMPAD (`.raw`) and tvips files are loaded as a whole, if they need at most three quarters of the
free memory.
"""

import glob
import importlib
from pathlib import Path

import h5py
import numpy as np

from ..core import PrenetError, as_scan, budget
from .files import EMD_ENDINGS, contiguous_offset, emd_nodes, existing, open_hdf5

_EMD_NODES = ("node", "array", "pointlist", "pointlistarray", "custom")  # emd_group_type
_BY_PY4DSTEM = (".dm", ".dm3", ".dm4", ".mib", ".gtg", ".bin", ".raw")
_LOADED = ("tvips",)  # formats that RosettaSciIO always loads as a whole
_MAX_AXIS = 2**22  # elements of an axis: a longer one comes from a damaged file, and py4DSTEM makes a list of it
_MAX_LEGACY_BYTES = 2**30  # of a file from an earlier py4DSTEM, which reads data and metadata only as a whole


def open(path, scan_shape=None, name=None):
    """Open a scan without loading its data.

    Parameters
    ----------
    path : str or pathlib.Path
        EMD or any other HDF5 file, `.npy`, or a detector file: dm3, dm4, mib, gtg, raw (EMPAD) through py4DSTEM; blo,
        tvips, zspy and others through RosettaSciIO (`pip install py4dstem-prenet[formats]`).
    scan_shape : tuple of int, optional
        (Rx, Ry), if the file stores a stack of patterns.
    name : str, optional
        Name of the DataCube or data set, if the file holds several.

    Returns
    -------
    py4DSTEM.DataCube
        The scan, (Rx, Ry, Qx, Qy), with the calibration in the file.

    Raises
    ------
    PrenetError
        If the file is missing, damaged, of an unknown kind, holds no scan, or needs more memory than is free.

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
    path = Path(path).expanduser()
    if not (path.is_dir() and path.suffix.lower() == ".zspy"):  # these are folders
        path = existing(path)
    ending = path.suffix.lower()
    if ending == ".npy":
        return _cube(_open_npy(path), scan_shape, path)
    if path.is_file() and (ending in EMD_ENDINGS or h5py.is_hdf5(path)):
        try:
            return _open_any_hdf5(path, scan_shape, name)
        except PrenetError:
            raise
        except Exception as error:  # HDF5 and py4DSTEM report a damaged file by errors of many types
            raise PrenetError(f"{path} is damaged, or not in the format of py4DSTEM ({_first_line(error)}).") from error
    if ending in _BY_PY4DSTEM:
        return _open_with_py4dstem(path, scan_shape)
    return _cube(_open_with_rosettasciio(path, scan_shape, name), scan_shape, path)


def _cube(data, scan_shape, path, **options):
    """A DataCube of an array, after checks of its shape and type."""
    from py4DSTEM import DataCube

    data = _as_scan(data, scan_shape, path)
    as_scan(data)  # raises PrenetError; py4DSTEM itself fails on an empty scan
    if max(data.shape) > _MAX_AXIS:
        raise PrenetError(f"According to {path} the scan has the shape {tuple(data.shape)}, which no detector "
                          "produces; the file is damaged, or not a scan.")
    return DataCube(data, **({"name": path.stem} | options))


def _as_scan(data, scan_shape, path):
    """The array with axes (Rx, Ry, Qx, Qy)."""
    if scan_shape is None:
        if data.ndim != 4:
            raise PrenetError(
                f"{path} holds an array of shape {data.shape}, but a scan has four axes (Rx, Ry, Qx, Qy); "
                "if it is a stack of patterns, give the shape of the scan (Rx, Ry)."
            )
        return data
    scan_shape = tuple(int(n) for n in scan_shape)
    if data.ndim < 3 or np.prod(data.shape[:-2]) != np.prod(scan_shape) or len(scan_shape) != 2:
        raise PrenetError(
            f"{path} holds an array of shape {tuple(data.shape)}, which does not fill a scan of "
            f"{' x '.join(map(str, scan_shape))}."
        )
    if data.shape[:-2] == scan_shape:
        return data
    if isinstance(data, h5py.Dataset):
        import dask.array

        # Blocks of whole scan rows, so that to reshape moves nothing.
        rows = max(1, (data.chunks or (1,))[0] // scan_shape[1])
        chunks = (rows * scan_shape[1], *data.shape[1:]) if data.ndim == 3 else "auto"
        data = dask.array.from_array(data, chunks=chunks)
    return data.reshape(*scan_shape, *data.shape[-2:])


def _open_npy(path):
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy parses the header as Python, which may raise anything
        raise PrenetError(f"{path} is not a complete array of numbers ({_first_line(error)}).") from error


def _first_line(error):
    """The first line of the text of an exception."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# --- HDF5 ---------------------------------------------------------------------------------------------------
def _open_any_hdf5(path, scan_shape, name):
    with open_hdf5(path) as file:
        kind = file.attrs.get("emd_group_type")
    return (_open_emd if isinstance(kind, str) and kind == "file" else _open_hdf5)(path, scan_shape, name)


def _lazy(path, where):
    """A data set of an HDF5 file: a memmap if it is contiguous, otherwise an h5py.Dataset."""
    file = h5py.File(path, "r")  # stays open as long as the data set exists
    dataset = file[where]
    _check_filters(dataset, path)
    offset = contiguous_offset(dataset)
    if offset is None or dataset.dtype.kind not in "iuf" or file.userblock_size:
        return dataset
    shape, dtype = dataset.shape, dataset.dtype
    file.close()
    return np.memmap(path, dtype, "r", offset, shape)


def _check_filters(dataset, path):
    """Raise PrenetError if the data are compressed by a filter that is not installed."""
    stored = dataset.id.get_create_plist()
    for number in (stored.get_filter(i)[0] for i in range(stored.get_nfilters())):
        if not h5py.h5z.filter_avail(number):
            dataset.file.close()
            raise PrenetError(f"{path} is compressed by a filter (number {number}) that is not installed; try `import "
                              "hdf5plugin` first.")


def _open_hdf5(path, scan_shape, name):
    """The only data set with the axes of a scan, in a file that is not EMD."""
    import py4DSTEM

    if py4DSTEM.io.legacy.is_py4DSTEM_file(str(path)) and path.stat().st_size < _MAX_LEGACY_BYTES:
        return _open_with_py4dstem(path, scan_shape)
    axes = 4 if scan_shape is None else 3
    found, contents = [], []

    def visit(where, node):
        if isinstance(node, h5py.Dataset):
            contents.append(f"{where} {node.shape}")
            if node.ndim >= axes and node.dtype.kind in "iuf" and name in (None, where, where.split("/")[-1]):
                found.append(where)

    with open_hdf5(path) as file:
        file.visititems(visit)
    if len(found) > 1:
        raise PrenetError(f"{path} holds several data sets that may be scans ({', '.join(found)}); "
                          "give the name of one.")
    if not found:
        named = f" named {name}" if name else ""
        raise PrenetError(f"{path} holds no data set{named} with {'four' if axes == 4 else 'at least three'} axes; it "
                          f"holds: {', '.join(contents[:8]) or 'nothing'}.")
    return _cube(_lazy(path, found[0]), scan_shape, path)


def _open_emd(path, scan_shape, name):
    with open_hdf5(path) as file:
        nodes = emd_nodes(file)
        cubes = [where for where, kind in nodes.items() if kind == "DataCube"]
        if name is not None:
            cubes = [where for where in cubes if name in (where, where.split("/")[-1])]
        if len(cubes) != 1:
            raise PrenetError(_which_cube(path, nodes, cubes, name))
        shape = file[cubes[0]]["data"].shape
    if scan_shape is not None and tuple(scan_shape) != shape[:2]:
        raise PrenetError(f"{path} stores its scan as {shape[0]} x {shape[1]}; leave the shape of the scan out.")
    return _emd_cube(path, cubes[0])


def _which_cube(path, nodes, cubes, name):
    """The message for an EMD file without exactly one matching DataCube."""
    if cubes:
        return f"{path} holds several DataCubes ({', '.join(cubes)}); give the name of one."
    contents = [f"{where.split('/')[-1]} ({kind})" for where, kind in nodes.items()]
    named = f" named {name}" if name else ""
    return f"{path} holds no DataCube{named}; it holds: {', '.join(contents[:8]) or 'nothing'}."


def _emd_cube(path, where):
    """The DataCube at `where` as py4DSTEM.read returns it, except that its data stay in the file."""
    import py4DSTEM
    from py4DSTEM import Calibration, DataCube, Metadata

    with open_hdf5(path) as file:
        group, calibration = file[where], None
        for entry in file[where.split("/")[0]].get("metadatabundle", {}).values():
            if entry.attrs.get("python_class") == "Calibration":
                calibration = Calibration.from_h5(entry)
                for key in [k for k in calibration.keys if k.startswith("_")]:  # paths inside the file
                    del calibration._params[key]
        cube = DataCube(_lazy(path, f"{where}/data"), name=group.name.split("/")[-1], calibration=calibration)
        for entry in group.get("metadatabundle", {}).values():
            cube.metadata = Metadata.from_h5(entry)
        children = [child for child, node in group.items() if node.attrs.get("emd_group_type") in _EMD_NODES]
    for child in children:
        cube.attach(node := py4DSTEM.read(path, datapath=f"{where}/{child}"))
        if hasattr(node, "setcal"):  # Bragg vectors are transformed by the calibration
            cube.calibration.register_target(node)
            node.setcal()
    return cube


# --- detector files -----------------------------------------------------------------------------------------
def _open_with_py4dstem(path, scan_shape):
    import py4DSTEM

    ending = path.suffix.lower()
    if ending == ".raw":
        _check_memory(path, path.stat().st_size)
    options = {"scan": tuple(scan_shape)} if ending == ".mib" and scan_shape is not None else {}
    try:
        if ending in _BY_PY4DSTEM:
            found = py4DSTEM.import_file(str(path), mem="RAM" if ending == ".raw" else "MEMMAP", **options)
        else:
            found = py4DSTEM.read(str(path))
    except Exception as error:  # readers of many formats raise errors of many types
        hint = "; if the file does not store the shape of the scan (Rx, Ry), give it" if ending == ".mib" else ""
        raise PrenetError(f"{path} could not be opened by py4DSTEM{hint}: {_first_line(error)}") from error
    if ending in (".dm3", ".dm4") and _images_of_the_scan(path) and found.data.ndim == 4:
        return _cube(found.data.transpose(2, 3, 0, 1), scan_shape, path)
    if isinstance(found, py4DSTEM.DataCube) and (scan_shape is None or tuple(scan_shape) == found.Rshape):
        return found
    if not hasattr(found, "data") or not hasattr(found.data, "reshape"):
        raise PrenetError(f"{path} holds no DataCube, but a {type(found).__name__}.")
    return _cube(found.data, scan_shape, path)


def _series_size(path):
    """Bytes of a file and of the files that continue it (a_000, a_001, ...)."""
    series = path.stem.rstrip("0123456789")
    return sum(p.stat().st_size for p in path.parent.glob(f"{glob.escape(series)}*{path.suffix}"))


def _check_memory(path, size):
    """Raise PrenetError if `size` bytes of a file that must be loaded as a whole need too much memory."""
    allowed = 3 * budget()  # three quarters of the free memory
    if size > allowed:
        raise PrenetError(f"{path} must be loaded as a whole, {size / 2**30:.2g} GiB, and {allowed / 2**30:.2g} GiB of "
                          "memory may be used; convert it to HDF5 or zspy first, or bin it.")


def _images_of_the_scan(path):
    """Whether a Digital Micrograph file stores an image of the scan for each detector pixel, as older files do.

    Newer files have a tag if they store one pattern after another. Without the tag, reciprocal units of the slow axes
    and real units of the fast axes mean images of the scan.
    """
    from ncempy.io import dm

    with dm.fileDM(path, on_memory=False) as file:
        if any(value for tag, value in file.allTags.items() if tag.endswith("Meta Data.Data Order Swapped")):
            return False
        fast, slow = file.scaleUnit[-4:-2], file.scaleUnit[-2:]
    return len(fast) == 2 and all(u.startswith("1/") or u.endswith("rad") for u in slow) and not any(
        u == "" or u.startswith("1/") or u.endswith("rad") for u in fast)


def _open_with_rosettasciio(path, scan_shape, name):
    """The only scan in the file, or stack of patterns if the shape of the scan is given; a dask array or memmap."""
    ending = path.suffix.lower().lstrip(".")
    try:
        from rsciio import IO_PLUGINS
    except ImportError as error:
        raise PrenetError(f"py4DSTEM does not read {path}; RosettaSciIO may read it: "
                          "pip install py4dstem-prenet[formats].") from error
    plugins = [p for p in IO_PLUGINS if ending in map(str.lower, p["file_extensions"])]
    if not ending or not plugins:
        raise PrenetError(f"Neither py4DSTEM nor RosettaSciIO reads files such as {path}.")
    options = {"tvips": {"scan_shape": scan_shape or "auto"}, "zspy": {"mode": "r"}}.get(ending, {})
    signals, reason = [], ""
    if ending in _LOADED:
        _check_memory(path, _series_size(path))
    for plugin in plugins:
        try:
            signals += importlib.import_module(plugin["api"]).file_reader(str(path), lazy=True, **options)
            break
        except Exception as error:  # readers of many formats raise errors of many types
            reason = reason or _first_line(error)
    else:
        raise PrenetError(f"{path} could not be opened by RosettaSciIO: {reason}")
    titles = [str(s.get("metadata", {}).get("General", {}).get("title", "")) for s in signals]
    min_axes = 4 if scan_shape is None else 3
    found = [(title, s["data"]) for title, s in zip(titles, signals, strict=True)
             if s["data"].ndim >= min_axes and name in (None, title)]
    if len(found) == 1:
        return found[0][1]
    if found:
        raise PrenetError(f"{path} holds several scans ({', '.join(title for title, _ in found)}); "
                          "give the name of one.")
    contents = ", ".join(f"{title or 'an array'} {tuple(s['data'].shape)}"
                         for title, s in zip(titles, signals, strict=True))
    raise PrenetError(f"{path} holds no scan with axes (Rx, Ry, Qx, Qy), but {contents or 'nothing'}; if it is a stack "
                      "of patterns, give the shape of the scan (Rx, Ry).")
