"""Layouts of HDF5 files: the program, the order of the axes, pixel sizes and the shape of the scan."""

import re
from dataclasses import replace

import h5py
import numpy as np

from . import PixelSizes, StatedShape

_PATTERN_UNIT = re.compile(r"1 ?/|-1|rad")


def kind_of_hdf5(file) -> str:
    """Identify the kind of an HDF5 file.

    Parameters
    ----------
    file : h5py.File
        The open file.

    Returns
    -------
    str
        The program or format, for messages.
    """
    attributes, keys = file.attrs, set(file)
    groups = {key: group for key in keys if isinstance(group := _found(file, key), h5py.Group)}
    if _text(attributes.get("file_format")) == "HyperSpy":
        return "HyperSpy"
    if "Version" in keys and "Data" in groups and "Version" not in groups:
        return "Velox EMD"
    if _text(attributes.get("emd_group_type")) == "file":
        return "EMD 1.0"
    if "4DSTEM_simulation" in groups:
        return "Prismatic"
    for group in groups.values():
        if "emd_group_type" in group.attrs and "version_major" in group.attrs:
            return f"py4DSTEM {int(group.attrs['version_major'])}.{int(group.attrs.get('version_minor', 0))}"
    if "version_major" in attributes:
        return "EMD of NCEM"
    if "electron_events" in groups:
        return "electron events of stempy"
    if any(key.startswith("Acquisition") and "SVIData" in group for key, group in groups.items()):
        return "Delmic"
    if "STEM Metadata" in groups:
        return "Arina's metadata"
    if {"array", "sampling"} <= keys:
        return "abTEM"
    if "DECTRIS_lab_geometry" in getattr(groups.get("entry"), "attrs", {}):
        return "DECTRIS master"
    return "NeXus" if any(_text(group.attrs.get("NX_class")) for group in groups.values()) else "HDF5"


def _found(group, key):
    """Return the object with a name in a group; None if it is missing or damaged."""
    try:
        return group[key]
    except (KeyError, OSError):
        return None


def is_other_object(node, kind) -> bool:
    """Return whether an array is stored as something other than patterns: images, slices, spectra.

    Parameters
    ----------
    node : object
        A data set as `hdf5_files` found it: its `path`, `dataset`, and the group `parent` that holds it.
    kind : str
        Result of `kind_of_hdf5` for the file.

    Returns
    -------
    bool
        True if it is.
    """
    if has_spectra(node.parent, node.dataset.ndim):
        return True
    if _text(node.parent.attrs.get("interpretation")) in ("spectrum", "scalar"):  # of NeXus
        return True
    if kind == "py4DSTEM 0.13":
        return _text(node.parent.attrs.get("py4dstem_class")) not in ("", "DataCube")
    return (kind == "Prismatic" or kind.startswith("py4DSTEM")) and "/data/datacubes/" not in node.path


def stated_shapes(path, file) -> tuple:
    """Find shapes of the scan that a file of DECTRIS states, or the file beside it.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    file : h5py.File
        The same file, open.

    Returns
    -------
    tuple of StatedShape
        The shapes.
    """
    found = []
    specific = file.get("entry/instrument/detector/detectorSpecific")
    if isinstance(specific, h5py.Group):
        rows, columns = (specific.get(name) for name in ("ntrigger", "nimages"))
        if isinstance(rows, h5py.Dataset) and isinstance(columns, h5py.Dataset):
            rows, columns = int(rows[()]), int(columns[()])
            if rows > 1 and columns > 1:
                found.append(StatedShape(rows, columns, "the number of triggers", certain=False))
    attributes = _sidecar(path)
    if "NumPixelsX" in attributes and "NumPixelsY" in attributes:
        columns, rows = (int(np.ravel(attributes[name])[0]) for name in ("NumPixelsX", "NumPixelsY"))
        found.append(StatedShape(rows, columns, "the file beside it"))
    return tuple(found)


def _sidecar(path):
    """Read the contents of the file that describes the scan of an Arina, beside its master file."""
    sidecar = path.with_name(f"{path.stem.removesuffix('_master')}{path.suffix}")
    if sidecar == path or not sidecar.is_file():
        return {}
    try:
        with h5py.File(sidecar, "r") as file:
            return dict(file["STEM Metadata"].attrs) if "STEM Metadata" in file else {}
    except OSError:
        return {}


def sidecar_sizes(path) -> PixelSizes:
    """Read the pixel size of the scan in the file beside a master file of an Arina.

    Parameters
    ----------
    path : pathlib.Path
        The master file.

    Returns
    -------
    PixelSizes
        As the file states it; empty if there is none.
    """
    size = _sidecar(path).get("Pixel Size")
    return PixelSizes() if size is None else PixelSizes(scan=((float(np.ravel(size)[0]), "nm"),))


def axes_of(node, kind) -> tuple[PixelSizes, bool]:
    """Read the axes of a data set.

    Parameters
    ----------
    node : object
        A data set as `hdf5_files` found it: its `path`, `dataset`, and the group `parent` that holds it.
    kind : str
        Result of `kind_of_hdf5` for the file.

    Returns
    -------
    sizes : PixelSizes
        In the order of the scan.
    turned : bool
        Whether the axes are stored in reverse.
    """
    group, dataset = node.parent, node.dataset
    if kind == "abTEM" and "units" in group:
        pairs = list(zip(np.ravel(group["sampling"][()]), map(_text, np.ravel(group["units"][()])), strict=False))
        return _split(pairs, dataset.ndim), False
    if "axis-0" in group:
        return hyperspy_sizes(group, dataset.ndim), False
    if "axes" in group.attrs and np.size(group.attrs["axes"]) == dataset.ndim:
        axes = [group.get(_text(name)) for name in np.ravel(group.attrs["axes"])]
        return _split([(0, "") if not isinstance(a, h5py.Dataset) else (_step(a), _text(a.attrs.get("units")))
                       for a in axes], dataset.ndim), False
    first = next((k for k in (0, 1) if f"dim{k}" in group and f"dim{k + dataset.ndim - 1}" in group), None)
    if first is None:
        return PixelSizes(), False
    dims = [group[f"dim{first + k}"] for k in range(dataset.ndim)]
    turned = _is_turned(node, kind, dims)
    if turned:
        dims = dims[::-1]
    sizes = _split([(_step(dim), _text(dim.attrs.get("units"))) for dim in dims], dataset.ndim)
    return _legacy_sizes(node, sizes) if kind.startswith("py4DSTEM") else sizes, turned


def _is_turned(node, kind, dims):
    """Return whether an EMD file stores the axes in reverse, as HyperSpy writes and RosettaSciIO reads them."""
    if kind.startswith(("py4DSTEM", "Prismatic", "EMD 1.0")) or node.path.endswith("/datacube") or len(dims) < 3:
        return False
    if node.path.startswith("signals/"):
        return True
    reciprocal = [bool(_PATTERN_UNIT.search(_text(dim.attrs.get("units")))) for dim in dims]
    return all(reciprocal[:2]) or not all(reciprocal[-2:])


def _split(pairs, ndim):
    """Return the pixel sizes of axes in the order of the scan."""
    return PixelSizes(tuple(pairs[:2]) if ndim == 4 else (), tuple(pairs[-2:]))


def hyperspy_sizes(group, ndim) -> PixelSizes:
    """Read the axes that HyperSpy stores beside an array.

    Parameters
    ----------
    group : h5py.Group or zarr.Group
        The group of the array.
    ndim : int
        Number of axes.

    Returns
    -------
    PixelSizes
        As the file states them.
    """
    axes = [group[f"axis-{k}"].attrs if f"axis-{k}" in group else {} for k in range(ndim)]
    pairs = [(a.get("scale", 0), _text(a.get("units"))) for a in axes]
    return _split(pairs, ndim)


def has_spectra(group, ndim) -> bool:
    """Return whether HyperSpy's axes state that the last two axes of an array are not patterns.

    Parameters
    ----------
    group : h5py.Group or zarr.Group
        The group of the array.
    ndim : int
        Number of axes.

    Returns
    -------
    bool
        True if the axes are there, and not exactly the last two are those of the signal.
    """
    if f"axis-{ndim - 1}" not in group or "navigate" not in group[f"axis-{ndim - 1}"].attrs:
        return False
    navigate = [bool(group[f"axis-{k}"].attrs.get("navigate", True)) for k in range(ndim) if f"axis-{k}" in group]
    return any(navigate[-2:]) or not all(navigate[:-2])


def _legacy_sizes(node, sizes):
    """Read the pixel sizes in the metadata of py4DSTEM 0.9 to 0.12, which take precedence over those of the axes."""
    top = node.dataset.file.get(f"{node.path.split('/')[0]}/metadata")
    values = {}
    if isinstance(top, h5py.Group):
        def note(name, item):
            if "calibration" in name:
                values.update(item.attrs)
                if isinstance(item, h5py.Dataset) and item.size == 1:
                    values[name.split("/")[-1]] = item[()]

        top.visititems(note)
    found = {}
    for space, letters in (("scan", "R"), ("pattern", "QK")):
        for letter in letters:
            size = next((values[k] for k in (f"{letter}_pixel_size", f"{letter}_pix_size") if k in values), None)
            unit = next((values[k] for k in (f"{letter}_pixel_units", f"{letter}_units", f"{letter}_pixel_size_units")
                         if k in values), "")
            if size is not None and np.size(size) == 1 and np.asarray(size).dtype.kind in "iuf":
                found[space] = ((float(np.ravel(size)[0]), _text(np.ravel(unit)[0] if np.ndim(unit) else unit)),)
    return replace(sizes, **found)


def calibration_of_0_13(node) -> dict | None:
    """Read the calibration that py4DSTEM 0.13 stored beside a data set or above it.

    Parameters
    ----------
    node : object
        A data set as `hdf5_files` found it: its `path`, `dataset`, and the group `parent` that holds it.

    Returns
    -------
    dict or None
        Its entries; None if there is none.
    """
    from py4DSTEM.io.legacy.legacy13 import Calibration

    group = node.parent
    while group.name != "/":
        for child in group.values():
            if _text(child.attrs.get("py4dstem_class")) == "Calibration":
                return {k: v for k, v in Calibration.from_h5(child)._params.items() if not k.startswith("_")}
        group = group.parent
    return None


def _step(dim):
    return float(dim[1] - dim[0]) if dim.shape and dim.shape[0] > 1 and dim.dtype.kind in "iuf" else 0.0


def _text(value):
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else "" if value is None else str(value)
