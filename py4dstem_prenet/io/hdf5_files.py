"""Find the arrays of any HDF5 file: links and virtual sources followed, stacks in several files joined.

Known layouts (`hdf5_layouts`) tell the order of the axes, pixel sizes and the shape of the scan; in others the axes are
taken as (Rx, Ry, Qx, Qy).
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from ..core import Flag, PrenetError, silent_sources
from . import (
    FileContents,
    OtherData,
    StoredArray,
    axes_of,
    calibration_of_0_13,
    contiguous_offset,
    is_other_object,
    kind_of_hdf5,
    open_hdf5,
    settings_of_hyperspy,
    shortened,
    sidecar_sizes,
    stated_shapes,
)

MAX_NODES = 20_000  # nodes; largest number of groups and arrays of a file that are searched
_STACK = re.compile(r"data_(\d+)")  # DECTRIS' names of the parts of a stack


@dataclass(frozen=True)
class _Node:
    """A data set: the first path that leads to it, the file and the path where it is, and the group that holds it."""

    path: str
    file: str
    inner: str
    dataset: h5py.Dataset
    parent: h5py.Group


class _Walk:
    """All data sets of an open file, with links followed, each once; and the links that lead nowhere."""

    def __init__(self, file):
        self.nodes, self.aliases, self.broken, self._seen = [], {}, [], {}
        self._visit(file, "", file, "")

    def _visit(self, group, path, file, inner):
        for key in group:
            if len(self._seen) > MAX_NODES:
                return
            where, link = f"{path}/{key}".lstrip("/"), group.get(key, getlink=True)
            try:
                node = group[key]
            except (KeyError, OSError):
                target = getattr(link, "path", "?")
                external = isinstance(link, h5py.ExternalLink)
                self.broken.append((where, f"{link.filename}:{target}" if external else target))
                continue
            known = self._seen.setdefault((node.file.filename, h5py.h5o.get_info(node.id).addr), where)
            if known != where:
                self.aliases.setdefault(known, []).append(where)
                continue
            home, place = file, f"{inner}/{key}"
            if not isinstance(link, h5py.HardLink):
                home, place = _locate(home, place)
            if isinstance(node, h5py.Dataset):
                self.nodes.append(_Node(where, home.filename, place, node, group))
            elif isinstance(node, h5py.Group):
                self._visit(node, where, home, place)


def _locate(file, where, depth=0):
    """Follow links and return the file and the path in it, since h5py knows only the path by which it was opened."""
    group, consumed, remaining = file, "", [part for part in where.split("/") if part]
    while remaining and depth < 30:  # longest chain of links that is followed
        link = group.get(remaining[0], getlink=True)
        suffix = "/".join(remaining[1:])
        if isinstance(link, h5py.ExternalLink):
            return _locate(group[remaining[0]].file, f"{link.path}/{suffix}", depth + 1)
        if isinstance(link, h5py.SoftLink):
            target = link.path if link.path.startswith("/") else f"{consumed}/{link.path}"
            return _locate(file, f"{target}/{suffix}", depth + 1)
        group, consumed, remaining = group[remaining[0]], f"{consumed}/{remaining[0]}", remaining[1:]
    return file, consumed


def read_hdf5(path) -> FileContents:
    """Find the arrays of an HDF5 file that may be scans.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Returns
    -------
    FileContents
        Contents of the file; the data stay in it.

    Raises
    ------
    PrenetError
        If it is damaged, or holds data that must be converted first, or the files that it links to are missing.
    """
    with open_hdf5(path) as file:
        kind = kind_of_hdf5(file)
        return _contents(path, file, kind, _Walk(file))


def _contents(path, file, kind, walk):
    _refuse_events(path, walk)
    parts = _stack_parts(path, walk)
    joined = {id(node) for nodes in parts.values() for node in nodes}
    arrays, others = [], []
    for node in walk.nodes:
        if id(node) in joined:
            continue
        aliases = tuple(walk.aliases.get(node.path, ()))
        if _is_array(node.dataset) and not is_other_object(node, kind):
            arrays.append(_array(path, node, kind, aliases))
        else:
            found = node.dataset
            others.append(OtherData(node.path, found.shape or (), found.dtype, compression=compression_of(found)
                                    if found.chunks else None, pattern=_pattern(node, kind, aliases)))
    arrays += [_joined(path, where, nodes, walk) for where, nodes in parts.items()]
    if walk.broken and not arrays:
        broken = shortened([f"{target} (linked as {where})" for where, target in walk.broken], 1)
        raise PrenetError(f"{path} ({kind}) only links to its data, and {broken} cannot be read; "
                          "copy the files that it links to into its folder.")
    arrays = [replace(a, stated=(*a.stated, *stated_shapes(path, file))) for a in arrays]
    sizes = sidecar_sizes(path)
    if sizes.scan:
        arrays = [a if a.sizes.scan else replace(a, sizes=replace(a.sizes, scan=sizes.scan)) for a in arrays]
    hint = ""
    if "STEM Metadata" in file and path.with_name(f"{path.stem}_master.h5").is_file():
        hint = f"its patterns are in {path.stem}_master.h5"
    return FileContents(kind, tuple(arrays), tuple(others), hint)


def _is_array(dataset):
    return dataset.ndim >= 3 and dataset.size and dataset.dtype.kind in "iufbc"


def _refuse_events(path, walk):
    """Raise PrenetError for lists of single electrons."""
    for node in walk.nodes:
        listed = h5py.check_vlen_dtype(node.dataset.dtype)
        numbers = listed is not None and np.dtype(listed).kind in "iu"
        if numbers and not any(_is_array(n.dataset) and n.dataset.ndim == 4 for n in walk.nodes):
            raise PrenetError(f"{path} lists the electrons of each frame ({node.path}), as stempy and 4D Camera write "
                              "them, not patterns; make patterns with stempy "
                              "(stempy.io.SparseArray.from_hdf5(...).to_dense()) and save them with numpy.save.")


def _pattern(node, kind, aliases):
    """Describe an image as a scan of one pattern; None if it is none."""
    if is_other_object(node, kind) or not node.dataset.size:
        return None
    return StoredArray.of_pattern(node.dataset.shape, node.dataset.dtype,
                                  lambda: open_dataset(node.file, node.inner)[...], name=node.path, aliases=aliases)


def _array(path, node, kind, aliases):
    """Describe a data set as an array of patterns."""
    names = tuple(aliases)
    if node.path.split("/")[-1] in ("data", "datacube", "array") and "/" in node.path:
        names += (node.path.rsplit("/", 1)[0],)
    sizes, turned = axes_of(node, kind)
    shape = node.dataset.shape[::-1] if turned else node.dataset.shape

    def load():
        data = open_dataset(node.file, node.inner)
        return _transposed(data) if turned else data

    siblings = node.dataset.parent
    stated = settings_of_hyperspy(siblings["metadata"]) if "axis-0" in siblings and "metadata" in siblings else None
    return StoredArray(shape, node.dataset.dtype, load, node.path, names, sizes=sizes, settings=stated,
                       compression=compression_of(node.dataset),
                       calibration=calibration_of_0_13(node) if kind == "py4DSTEM 0.13" else None)


def _transposed(data):
    if isinstance(data, np.ndarray):
        return data.T
    import dask.array

    return dask.array.from_array(data, chunks=data.chunks or "auto").T


def open_dataset(file, where):
    """Open a data set of an HDF5 file without loading it.

    Parameters
    ----------
    file : str or pathlib.Path
        The file.
    where : str
        Its path in the file.

    Returns
    -------
    numpy.memmap or h5py.Dataset
        A memory map if the values are contiguous; otherwise the data set, whose file stays open as long as it exists.

    Raises
    ------
    PrenetError
        If a compression filter is not installed, or files that a virtual data set is made of are missing.
    """
    opened = h5py.File(file, "r")
    dataset = opened[where]
    try:
        _check_filters(dataset, file)
        _check_sources(dataset, file)
    except PrenetError:
        opened.close()
        raise
    offset = None if dataset.is_virtual else contiguous_offset(dataset)
    kind = dataset.dtype.kind
    if offset is None or kind not in "iufb" or opened.userblock_size or dataset.external:
        return dataset
    shape, dtype = dataset.shape, np.dtype(np.uint8) if kind == "b" else dataset.dtype  # one-bit counts
    opened.close()
    return np.memmap(file, dtype, "r", offset, shape)


def _check_filters(dataset, path):
    """Raise PrenetError if the data are compressed by a filter that is not installed."""
    numbers = [number for number, _ in _filters(dataset)]
    if dataset.is_virtual or not all(h5py.h5z.filter_avail(n) for n in numbers):
        import hdf5plugin  # noqa: F401 - bitshuffle, LZ4, Zstandard, Blosc
    for number in numbers:
        if not h5py.h5z.filter_avail(number):
            raise PrenetError(f"{path} is compressed by an HDF5 filter (number {number}) that hdf5plugin does not "
                              "have; convert it with h5repack where the filter is installed.")


def _check_sources(dataset, path):
    """Raise PrenetError if sources of a virtual data set are missing: HDF5 would read zeros."""
    if not dataset.is_virtual:
        return
    # Of many source files, the first 200 are checked, for speed.
    missing = [Path(name).name for name in silent_sources(dataset)[:200] if not Path(name).is_file()]
    if missing:
        raise PrenetError(f"{path} is a virtual data set of other files, and {shortened(missing, 1)} cannot be found; "
                          "copy them into its folder.")


def _filters(dataset):
    stored = dataset.id.get_create_plist()
    return [(number, name.decode(errors="replace").split(";")[0] or f"filter {number}")
            for number, _, _, name in map(stored.get_filter, range(stored.get_nfilters()))]


def compression_of(dataset) -> str | None:
    """Name the filters of a data set as HDF5 stores them.

    Parameters
    ----------
    dataset : h5py.Dataset
        The data set.

    Returns
    -------
    str or None
        The names; None where there is none.
    """
    return ", ".join(name for _, name in _filters(dataset)) or None


# --- stacks in several data sets ----------------------------------------------------------------------------
def _stack_parts(path, walk):
    """Find stacks that are stored in several data sets: {path of the group: parts in order}."""
    parts = {}
    for node in walk.nodes:
        group, _, name = node.path.rpartition("/")
        if _STACK.fullmatch(name) and node.dataset.ndim == 3 and node.dataset.dtype.kind in "iufb":
            parts.setdefault(group, []).append(node)
    broken = {}
    for where, target in walk.broken:
        group, _, name = where.rpartition("/")
        if _STACK.fullmatch(name):
            broken.setdefault(group, []).append((int(_STACK.fullmatch(name)[1]), target))
    found = {}
    for group, nodes in parts.items():
        nodes.sort(key=_number)
        if len({(n.dataset.shape[1:], n.dataset.dtype) for n in nodes}) > 1:
            continue
        numbers = [_number(n) for n in nodes]
        holes = [target for number, target in sorted(broken.get(group, [])) if number < numbers[-1]]
        if holes or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            raise PrenetError(f"{path} holds a stack of patterns in several parts, and one before the last is missing"
                              f"{f' ({holes[0]})' if holes else ''}; copy all parts into its folder.")
        found[group] = nodes
    return found


def _number(node):
    return int(_STACK.fullmatch(node.path.rpartition("/")[2])[1])


def _joined(path, where, nodes, walk):
    """Join a stack in several data sets to one array."""
    names = tuple(node.path for node in nodes) + tuple(a for n in nodes for a in walk.aliases.get(n.path, ()))
    missing = sorted(target for link, target in walk.broken if link.rpartition("/")[0] == where)
    flags = ()
    if missing:
        flags = (Flag("sources_missing", {"count": len(missing), "name": path.name, "first": missing[0]}),)

    def load():
        data = [open_dataset(node.file, node.inner) for node in nodes]
        if len(data) == 1:
            return data[0]
        import dask.array

        return dask.array.concatenate([dask.array.from_array(d, chunks=_whole_frames(d), name=False) for d in data])

    first = nodes[0].dataset
    shape = (sum(node.dataset.shape[0] for node in nodes), *first.shape[1:])
    return StoredArray(shape, first.dtype, load, where, names, grows=True, compression=compression_of(first),
                       flags=flags)


def _whole_frames(data):
    """Return dask chunks of about 64 MiB that consist of whole storage chunks along the frames."""
    step = (getattr(data, "chunks", None) or (1,))[0]
    frame = int(np.prod(data.shape[1:])) * data.dtype.itemsize
    return (min(data.shape[0], step * max(1, 2**26 // max(1, step * frame))), *data.shape[1:])
