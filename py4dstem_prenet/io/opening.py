"""Scans out of files, whose data stay there until they are used.

Each format has one reader, so that a scan has the same orientation on every machine: numpy for `.npy`; h5py for
whatever is HDF5 (py4DSTEM's EMD, HyperSpy's `.hspy`, any file with a 4-D data set); py4DSTEM for the detector files it
knows; RosettaSciIO, where it is installed, for the others.

What lies in one piece becomes a read-only `numpy.memmap`. Of HDF5 that is stored in chunks, `cube.data` is an
`h5py.Dataset`: its file stays open as long as the cube lives, or until `cube.data.file.close()`. RosettaSciIO gives
dask arrays, which read when they are computed; tvips alone it loads as a whole, which is refused where that is more
than three quarters of the free memory.
"""

import glob
import importlib
from pathlib import Path

import h5py
import numpy as np

from ..core import PrenetError, as_scan, budget
from .files import EMD_ENDINGS, emd_nodes, existing, open_hdf5, whole_place

_EMD_NODES = ("node", "array", "pointlist", "pointlistarray", "custom")
_BY_PY4DSTEM = (".dm", ".dm3", ".dm4", ".mib", ".gtg", ".bin", ".raw")
_LOADED = ("tvips",)  # which RosettaSciIO reads as a whole, whatever it is asked
_LONGEST = 2**22  # of an axis; py4DSTEM makes a list as long as each
_SMALL = 2**30  # bytes of a file from an earlier py4DSTEM, which can be had with its metadata only as a whole


def open(path, scan_shape=None, name=None):
    """A py4DSTEM DataCube out of a file, opened without loading its data.

    Args:
        path: EMD or any other HDF5, `.npy`, or a detector's file: dm3, dm4, mib, gtg, raw (EMPAD) through py4DSTEM;
            blo, tvips, zspy and others through RosettaSciIO (`pip install py4dstem-prenet[formats]`).
        scan_shape: (Rx, Ry), for a file that stores a plain stack of patterns.
        name: which DataCube or data set to take where the file holds several.

    Raises PrenetError where the file is missing, damaged, of an unknown kind, or holds no scan.
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
        except Exception as error:  # of a damaged file, HDF5 and py4DSTEM say it each in its own way
            raise PrenetError(f"{path} is damaged, or not as py4DSTEM writes it ({_first_line(error)}).") from error
    if ending in _BY_PY4DSTEM:
        return _open_with_py4dstem(path, scan_shape)
    return _cube(_open_with_rosettasciio(path, scan_shape, name), scan_shape, path)


def _cube(data, scan_shape, path, **options):
    from py4DSTEM import DataCube

    data = _as_scan(data, scan_shape, path)
    as_scan(data)  # py4DSTEM cannot even hold an empty scan
    if max(data.shape) > _LONGEST:
        raise PrenetError(f"{path} says that it holds a scan of shape {tuple(data.shape)}, which no detector gives; "
                          "the file is damaged, or no scan.")
    return DataCube(data, **({"name": path.stem} | options))


def _as_scan(data, scan_shape, path):
    """The array with axes (Rx, Ry, Qx, Qy)."""
    if scan_shape is None:
        if data.ndim != 4:
            raise PrenetError(
                f"{path} holds an array of shape {data.shape}, but a scan has four axes (Rx, Ry, Qx, Qy); "
                "if it is a stack of patterns, give the scan's shape (Rx, Ry)."
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
    except Exception as error:  # a header may say anything, and numpy parses it as Python
        raise PrenetError(f"{path} is not a complete array of numbers ({_first_line(error)}).") from error


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# --- HDF5 ---------------------------------------------------------------------------------------------------
def _open_any_hdf5(path, scan_shape, name):
    with open_hdf5(path) as file:
        kind = file.attrs.get("emd_group_type")
    return (_open_emd if isinstance(kind, str) and kind == "file" else _open_hdf5)(path, scan_shape, name)


def _lazy(path, where):
    """The data set `where` of an HDF5 file: a memmap where it lies there in one piece, or an h5py.Dataset."""
    file = h5py.File(path, "r")  # stays open as long as the data set is in use
    dataset = file[where]
    _check_filters(dataset, path)
    place = whole_place(dataset)
    if place is None or dataset.dtype.kind not in "iuf" or file.userblock_size:
        return dataset
    shape, dtype = dataset.shape, dataset.dtype
    file.close()
    return np.memmap(path, dtype, "r", place, shape)


def _check_filters(dataset, path):
    """Raise PrenetError where the data are compressed by what this HDF5 does not have."""
    stored = dataset.id.get_create_plist()
    for number in (stored.get_filter(i)[0] for i in range(stored.get_nfilters())):
        if not h5py.h5z.filter_avail(number):
            dataset.file.close()
            raise PrenetError(f"{path} is compressed by a filter (number {number}) that is not installed; try `import "
                              "hdf5plugin` first.")


def _open_hdf5(path, scan_shape, name):
    """Of a file that is not EMD, the only data set with the axes of a scan."""
    import py4DSTEM

    if py4DSTEM.io.legacy.is_py4DSTEM_file(str(path)) and path.stat().st_size < _SMALL:
        return _open_with_py4dstem(path, scan_shape)
    axes = 4 if scan_shape is None else 3
    found, held = [], []

    def visit(where, node):
        if isinstance(node, h5py.Dataset):
            held.append(f"{where} {node.shape}")
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
                          f"holds: {', '.join(held[:8]) or 'nothing'}.")
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
        raise PrenetError(f"{path} stores its scan as {shape[0]} x {shape[1]}; leave the scan's shape out.")
    return _emd_cube(path, cubes[0])


def _which_cube(path, nodes, cubes, name):
    if cubes:
        return f"{path} holds several DataCubes ({', '.join(cubes)}); give the name of one."
    held = [f"{where.split('/')[-1]} ({kind})" for where, kind in nodes.items()]
    named = f" named {name}" if name else ""
    return f"{path} holds no DataCube{named}; it holds: {', '.join(held[:8]) or 'nothing'}."


def _emd_cube(path, where):
    """The DataCube at `where`, as py4DSTEM.read gives it, but for its data, which stay in the file."""
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
        cube.attach(read := py4DSTEM.read(path, datapath=f"{where}/{child}"))
        if hasattr(read, "setcal"):  # Bragg vectors follow the calibration
            cube.calibration.register_target(read)
            read.setcal()
    return cube


# --- detectors' files ---------------------------------------------------------------------------------------
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
    except Exception as error:  # readers of many formats, each failing in its own way
        hint = "; if the file does not say the scan's shape (Rx, Ry), give it" if ending == ".mib" else ""
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
    """Whether a Digital Micrograph file stores an image of the scan for every detector pixel, as older ones do.

    Newer files say by a tag that patterns lie one after another. Without it, reciprocal units of the slow axes say it.
    """
    from ncempy.io import dm

    with dm.fileDM(path, on_memory=False) as file:
        if any(value for tag, value in file.allTags.items() if tag.endswith("Meta Data.Data Order Swapped")):
            return False
        fast, slow = file.scaleUnit[-4:-2], file.scaleUnit[-2:]
    return len(fast) == 2 and all(u.startswith("1/") or u.endswith("rad") for u in slow) and not any(
        u == "" or u.startswith("1/") or u.endswith("rad") for u in fast)


def _open_with_rosettasciio(path, scan_shape, name):
    """The only scan in the file, or stack of patterns if there is a shape for it; a dask array or memmap."""
    ending = path.suffix.lower().lstrip(".")
    try:
        from rsciio import IO_PLUGINS
    except ImportError as error:
        raise PrenetError(f"{path} is of no kind that py4DSTEM reads; RosettaSciIO may read it: "
                          "pip install py4dstem-prenet[formats].") from error
    plugins = [p for p in IO_PLUGINS if ending in map(str.lower, p["file_extensions"])]
    if not ending or not plugins:
        raise PrenetError(f"{path} is of no kind that py4DSTEM or RosettaSciIO reads.")
    options = {"tvips": {"scan_shape": scan_shape or "auto"}, "zspy": {"mode": "r"}}.get(ending, {})
    signals, told = [], ""
    if ending in _LOADED:
        _check_memory(path, _series_size(path))
    for plugin in plugins:
        try:
            signals += importlib.import_module(plugin["api"]).file_reader(str(path), lazy=True, **options)
            break
        except Exception as error:  # readers of many formats, each failing in its own way
            told = told or _first_line(error)
    else:
        raise PrenetError(f"{path} could not be opened by RosettaSciIO: {told}")
    titles = [str(s.get("metadata", {}).get("General", {}).get("title", "")) for s in signals]
    least = 4 if scan_shape is None else 3
    found = [(title, s["data"]) for title, s in zip(titles, signals, strict=True)
             if s["data"].ndim >= least and name in (None, title)]
    if len(found) == 1:
        return found[0][1]
    if found:
        raise PrenetError(f"{path} holds several scans ({', '.join(title for title, _ in found)}); "
                          "give the name of one.")
    held = ", ".join(f"{title or 'an array'} {tuple(s['data'].shape)}"
                     for title, s in zip(titles, signals, strict=True))
    raise PrenetError(f"{path} holds no scan with axes (Rx, Ry, Qx, Qy), but {held or 'nothing'}; if it is a stack of "
                      "patterns, give the scan's shape (Rx, Ry).")
