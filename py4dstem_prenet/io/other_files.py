"""Files that RosettaSciIO, py4DSTEM, zarr and numpy read, and files that must be converted first.

All give patterns in the order and orientation of the file: rows first, as in HyperSpy, and the slow axis of the scan is
Rx.
"""

import glob
import importlib

import numpy as np

from ..core import PrenetError, budget
from . import (
    MAX_NODES,
    FileContents,
    OtherData,
    PixelSizes,
    StoredArray,
    has_spectra,
    heard,
    hyperspy_sizes,
    settings_of_dm,
    settings_of_hyperspy,
)

_CONVERTED = {  # endings of files that hold something other than patterns, or that no dependency reads
    "tpx3": ("events of a Timepix3 camera", "bin them to patterns with pymepix or the software of the camera, and save "
             "them as HDF5"),
    "t3pa": ("events of a Timepix3 camera", "bin them to patterns with pymepix or the software of the camera, and save "
             "them as HDF5"),
    "t3p": ("events of a Timepix3 camera", "bin them to patterns with pymepix, and save them as HDF5"),
    "raw_csr": ("sparse frames of LiberTEM", "load them with LiberTEM, and calibrate with py4dstem_prenet.libertem"),
    "toml": ("a description for LiberTEM", "load it with LiberTEM, and calibrate with py4dstem_prenet.libertem"),
    "frms6": ("a stack of a pnCCD camera", "load it with LiberTEM, and calibrate with py4dstem_prenet.libertem"),
    "seq": ("a sequence of StreamPix", "load it with LiberTEM, and calibrate with py4dstem_prenet.libertem"),
    "4dstem": ("raw events of a 4D Camera", "count them with stempy and make patterns of them"),
    "npz": ("an archive of numpy arrays", "load it with numpy.load and make a py4DSTEM.DataCube of an array"),
    "dat": ("a raw file of an unknown detector", "map its patterns with numpy.memmap and make a py4DSTEM.DataCube"),
}
_IMAGES = (".tif", ".tiff", ".png", ".bmp", ".cbf", ".edf", ".img", ".smv", ".dm3", ".dm4")


def refuse_known(path):
    """Raise PrenetError for a file that must be converted first, or a folder that is not a store.

    Parameters
    ----------
    path : pathlib.Path
        The file or folder.

    Raises
    ------
    PrenetError
        What it is, and what converts it.
    """
    if path.is_dir():
        images = sorted({p.suffix.lower() for p in path.iterdir() if p.suffix.lower() in _IMAGES})
        if images:
            raise PrenetError(f"{path} is a folder of single images ({', '.join(images)}); stack them in the order of "
                              "the scan, for example with tifffile.imread, and save the stack with numpy.save.")
        raise PrenetError(f"{path} is a folder, but not a zarr store; give a file.")
    known = _CONVERTED.get(path.suffix.lower().lstrip("."))
    if known:
        raise PrenetError(f"{path} holds {known[0]}, and no reader for it is installed; {known[1]}.")


# --- numpy --------------------------------------------------------------------------------------------------
def read_npy(path) -> FileContents:
    """Map the array of a `.npy` file.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Returns
    -------
    FileContents
        The array.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy parses the header as Python, which may raise anything
        raise PrenetError(f"{path} is not a complete array of numbers ({first_line(error)}).") from error
    if array.ndim < 3:
        pattern = StoredArray.of_pattern(array.shape, array.dtype, lambda: array)
        return FileContents("numpy", (), (OtherData("", array.shape, array.dtype, pattern=pattern),))
    return FileContents("numpy", (StoredArray.of(array),))


def first_line(error) -> str:
    """Return the first line of the text of an exception.

    Parameters
    ----------
    error : Exception
        The exception.

    Returns
    -------
    str
        Its first line, or the name of its type.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# --- zarr ---------------------------------------------------------------------------------------------------
def is_zarr(path) -> bool:
    """Return whether a path is a zarr store: a folder, or a zip file with the ending of one.

    Parameters
    ----------
    path : pathlib.Path
        The path.

    Returns
    -------
    bool
        True if it is.
    """
    if path.is_dir():
        return any((path / name).is_file() for name in (".zgroup", ".zarray", ".zmetadata", "zarr.json"))
    return path.is_file() and path.suffix.lower() in (".zspy", ".zarr")


def read_zarr(path) -> FileContents:
    """Find the arrays of a zarr store.

    Parameters
    ----------
    path : pathlib.Path
        The store.

    Returns
    -------
    FileContents
        Its arrays.

    Raises
    ------
    PrenetError
        If zarr is not installed, or cannot read the store.
    """
    try:
        import zarr
    except ImportError as error:
        raise PrenetError(f"{path} is a zarr store; to read it, install this package's extra `formats`.") from error
    arrays, others = [], []

    def add(name, array, group):
        spectra = group is not None and array.ndim and has_spectra(group, array.ndim)
        if array.ndim >= 3 and array.size and np.dtype(array.dtype).kind in "iufbc" and not spectra:
            sizes = hyperspy_sizes(group, array.ndim) if group is not None and "axis-0" in group else PixelSizes()
            names = (name.rpartition("/")[0],) if "/" in name else ()
            stated = None if group is None or "metadata" not in group else settings_of_hyperspy(group["metadata"])
            arrays.append(StoredArray.of(array, name=name, aliases=names, sizes=sizes, settings=stated,
                                         compression=str(getattr(array.compressor, "codec_id", "") or "") or None))
        else:
            pattern = None if spectra else StoredArray.of_pattern(array.shape, array.dtype, lambda: array[:], name=name)
            others.append(OtherData(name, array.shape, array.dtype, pattern=pattern))

    def visit(group, path):
        for key in group.array_keys():
            if len(arrays) + len(others) < MAX_NODES:
                add(f"{path}{key}", group[key], group)
        for key in group.group_keys():
            visit(group[key], f"{path}{key}/")

    try:
        store = zarr.open(zarr.ZipStore(str(path), mode="r") if path.is_file() else str(path), mode="r")
        if hasattr(store, "array_keys"):
            visit(store, "")
        else:
            add("", store, None)
    except Exception as error:  # zarr and its codecs raise errors of many types
        raise PrenetError(f"{path} is not a complete zarr store ({first_line(error)}).") from error
    return FileContents("HyperSpy zspy" if path.suffix.lower() == ".zspy" else "zarr", tuple(arrays), tuple(others))


# --- py4DSTEM -----------------------------------------------------------------------------------------------
def read_dm(path) -> FileContents:
    """Find the scan, or the stack of patterns, in a file of Digital Micrograph.

    py4DSTEM's reader leaves the data in the file; RosettaSciIO reads types that it does not know, such as truth values.

    Parameters
    ----------
    path : pathlib.Path
        A `.dm3` or `.dm4` file.

    Returns
    -------
    FileContents
        Its largest array. Older files that store an image of the scan for each detector pixel are turned.
    """
    import py4DSTEM

    try:
        found = py4DSTEM.import_file(str(path), mem="MEMMAP")
        data = found.data
        scales, images, settings = _dm_axes(path, data.ndim)
    except Exception:  # readers raise errors of many types
        return read_with_rosettasciio(path)
    kind = "Digital Micrograph"
    if data.ndim < 3 or data.dtype.kind not in "iufbc":
        sizes = PixelSizes((), tuple(scales[:2][::-1]))
        image = StoredArray.of_pattern(data.shape, data.dtype, lambda: data, sizes=sizes, settings=settings)
        return FileContents(kind, (), (OtherData("", data.shape, data.dtype, "image", pattern=image),))
    if any(unit in ("eV", "keV") for _, unit in scales):
        return FileContents(kind, (), (OtherData("", data.shape, data.dtype, "spectra"),))
    if data.ndim == 4 and images:
        data, scales = data.transpose(2, 3, 0, 1), (*scales[2:], *scales[:2])
    pattern, scan = tuple(scales[:2][::-1]), tuple(scales[2:4][::-1]) if data.ndim == 4 else ()
    if not images and any(unit in ("nm", "µm") for _, unit in pattern):
        pattern = scan = ()  # py4DSTEM: the microscope did not tell its state to the camera
    elif isinstance(found, py4DSTEM.DataCube) and not images:  # py4DSTEM makes A^-1 of angles, where it can
        known = found.calibration
        pattern = ((known.get_Q_pixel_size(), known.get_Q_pixel_units()),)
        scan = ((known.get_R_pixel_size(), known.get_R_pixel_units()),)
    return FileContents(kind, (StoredArray.of(data, sizes=PixelSizes(scan, pattern), settings=settings),))


def _dm_axes(path, ndim):
    """Return (size, unit) of the axes, the fastest first; whether images of the scan are stored; the settings.

    Newer files have a tag if they store one pattern after another. Without the tag, reciprocal units of the slow axes
    and real units of the fast axes mean images of the scan.
    """
    from ncempy.io import dm

    with dm.fileDM(path, on_memory=False) as file:
        scales = list(zip(file.scale[-ndim:], file.scaleUnit[-ndim:], strict=False))
        if any(value for tag, value in file.allTags.items() if tag.endswith("Meta Data.Data Order Swapped")):
            return scales, False, settings_of_dm(file.allTags)
        settings = settings_of_dm(file.allTags)
    fast, slow = ([unit for _, unit in part] for part in (scales[:-2], scales[-2:]))
    images = len(fast) == 2 and all(u.startswith("1/") or u.endswith("rad") for u in slow) and not any(
        u == "" or u.startswith("1/") or u.endswith("rad") for u in fast)
    return scales, images, settings


def read_k2(path) -> FileContents:
    """Find the frames of a Gatan K2 camera (`.gtg` and `.bin`), through py4DSTEM's reader.

    Parameters
    ----------
    path : pathlib.Path
        One of the files.

    Returns
    -------
    FileContents
        The scan.
    """
    import py4DSTEM

    try:
        found = py4DSTEM.import_file(str(path), mem="MEMMAP")
    except Exception as error:  # readers raise errors of many types
        raise PrenetError(f"{path} could not be opened by py4DSTEM: {first_line(error)}") from error
    return FileContents("Gatan K2", (StoredArray.of(found.data),))


# --- RosettaSciIO -------------------------------------------------------------------------------------------
def read_with_rosettasciio(path, scan_shape=None, reader=None) -> FileContents:
    """Find the arrays of a file that RosettaSciIO reads.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    scan_shape : tuple of int, optional
        (Rx, Ry), for formats in which RosettaSciIO finds where the scan begins.
    reader : str, optional
        Name of the reader; by default those of the file's ending are tried.

    Returns
    -------
    FileContents
        Its arrays, as dask arrays or memory maps.

    Raises
    ------
    PrenetError
        If RosettaSciIO does not know the format, or cannot read the file.
    """
    from rsciio import IO_PLUGINS

    ending = path.suffix.lower().lstrip(".")
    plugins = [p for p in IO_PLUGINS
               if (p["name"] == reader if reader else ending and ending in map(str.lower, p["file_extensions"]))]
    if not plugins:
        raise PrenetError(f"{path} has an ending that neither py4DSTEM nor RosettaSciIO knows.")
    if ending == "tvips":  # RosettaSciIO loads it as a whole, and finds where the scan begins
        _check_memory(path, _series_size(path))
    trials = [{"scan_shape": scan_shape or "auto"}, {}] if ending == "tvips" else [{}]
    reason, signals, flags = "", None, []
    for plugin, options in ((p, o) for p in plugins for o in trials):
        try:
            with heard() as flags:
                signals = _lazily(importlib.import_module(plugin["api"]).file_reader, path, options)
            break
        except PrenetError:
            raise
        except Exception as error:  # readers of many formats raise errors of many types
            reason = reason or first_line(error)
    if signals is None:
        raise PrenetError(f"{path} could not be opened by RosettaSciIO: {reason}")
    arrays, others = [], []
    for signal in signals:
        title = str(signal.get("metadata", {}).get("General", {}).get("title", "") or "")
        data, axes = _gray(signal["data"]), signal["axes"]
        n_signal = sum(a.get("navigate") is False for a in axes) if any(a.get("navigate") for a in axes) else 2
        if n_signal != 2:
            others.append(OtherData(title, data.shape, data.dtype, "spectra"))
            continue
        known = {"name": title, "sizes": _sizes(signal), "settings": settings_of_hyperspy(signal.get("metadata", {}))}
        if data.ndim >= 3 and np.dtype(data.dtype).kind in "iufbc":
            arrays.append(StoredArray.of(data, **known))
        else:
            image = StoredArray.of_pattern(data.shape, data.dtype, lambda data=data: data, **known)
            others.append(OtherData(title, data.shape, data.dtype, "image", pattern=image))
    return FileContents(plugin["name"], tuple(arrays), tuple(others), flags=tuple(flags))


def _lazily(reader, path, options):
    try:
        return reader(str(path), lazy=True, **options)
    except (NotImplementedError, TypeError):  # TypeError: of pictures (png, jpg, bmp), its lazy reader knows no size
        _check_memory(path, path.stat().st_size)
        return reader(str(path), **options)


def _gray(data):
    """Return the sum of red, green and blue of a picture in colors, or one of them if they are equal."""
    colors = [c for c in "RGB" if c in (data.dtype.names or ())]
    if not colors or data.ndim != 2:
        return data
    same = all(np.array_equal(data[c], data[colors[0]]) for c in colors)
    return data[colors[0]] if same else sum(data[c].astype(np.uint32) for c in colors)


def _sizes(signal):
    """Return the pixel sizes of a signal, in the order of the scan; RosettaSciIO gives 1 if a file states none."""
    pairs = [(0 if a.get("scale") == 1 else a.get("scale"), a.get("units")) for a in signal["axes"]]
    header = signal.get("original_metadata", {}).get("blockfile_header", {})
    length = header.get("Camera_length")  # of 0.1 mm
    return PixelSizes(tuple(pairs[:2]) if len(pairs) == 4 else (), tuple(pairs[-2:]),
                      1e-4 * float(length) if length else None)


def _series_size(path):
    """Return the bytes of a file and of the files that continue it (a_000, a_001, ...)."""
    series = path.stem.rstrip("0123456789")
    return sum(p.stat().st_size for p in path.parent.glob(f"{glob.escape(series)}*{path.suffix}"))


def _check_memory(path, size):
    """Raise PrenetError if `size` bytes of a file that must be loaded as a whole need too much memory."""
    allowed = 3 * budget()  # three quarters of the free memory
    if size > allowed:
        raise PrenetError(f"{path} can only be loaded as a whole. This needs {size / 2**30:.2g} GiB of memory, but "
                          f"only {allowed / 2**30:.2g} GiB may be used; convert the file to HDF5 or zspy first, or bin "
                          "it.")
