"""Open HDF5 files, list what they hold, and lay out data sets such that they can be mapped into memory."""

from contextlib import contextmanager

import h5py
import numpy as np

from ..core import PrenetError

MAX_CHUNK_BYTES = 2**20  # bytes; largest storage chunk that is written: the chunk cache of HDF5 holds one of them


def in_chunks(group, name, shape, dtype):
    """Make a data set whose chunks hold successive patterns of a scan row, about 1 MiB each.

    The file must be open with libver "v110". Then the chunks are contiguous and in the order of the scan, so that
    `contiguous_offset` finds the data set like one without chunks. Values that are not written are undefined.

    Parameters
    ----------
    group : h5py.Group
        File or group in which the data set is made.
    name : str
        Its name.
    shape : tuple of int
        (Rx, Ry, Qx, Qy).
    dtype : numpy.dtype
        Type of the values.

    Returns
    -------
    h5py.Dataset
        The data set.
    """
    fitting = max(1, MAX_CHUNK_BYTES // (shape[2] * shape[3] * np.dtype(dtype).itemsize))
    columns = max(n for n in range(1, min(fitting, shape[1]) + 1) if shape[1] % n == 0)
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return group.create_dataset(name, shape, dtype, chunks=(1, columns, *shape[2:]), dcpl=plan)


def contiguous_offset(dataset):
    """Return the offset of a data set whose values are contiguous in the file.

    Parameters
    ----------
    dataset : h5py.Dataset
        The data set.

    Returns
    -------
    int or None
        Bytes from the start of the file; None if the values are not contiguous, in order and uncompressed.
    """
    chunks, shape, stored = dataset.chunks, dataset.shape, dataset.id.get_create_plist()
    if chunks is None:
        return dataset.id.get_offset()
    in_order = chunks[0] == 1 and chunks[2:] == shape[2:] and shape[1] % chunks[1] == 0 if len(shape) == 4 else False
    if not in_order or stored.get_nfilters() or stored.get_alloc_time() != h5py.h5d.ALLOC_TIME_EARLY:
        return None
    stored_chunks = []
    dataset.id.chunk_iter(lambda chunk: stored_chunks.append((chunk.chunk_offset, chunk.byte_offset)))
    offsets = np.array([offset for _, offset in sorted(stored_chunks)])
    step = int(np.prod(chunks)) * dataset.dtype.itemsize
    contiguous = len(offsets) * step == dataset.size * dataset.dtype.itemsize and (np.diff(offsets) == step).all()
    return int(offsets[0]) if contiguous else None


@contextmanager
def open_hdf5(path):
    """Open an HDF5 file for reading.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.

    Yields
    ------
    h5py.File
        The open file.

    Raises
    ------
    PrenetError
        If the file cannot be opened, is damaged, or is not HDF5.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if isinstance(error, PermissionError | BlockingIOError):
            reason = "cannot be opened"
        else:
            reason = "is damaged or cut short" if h5py.is_hdf5(path) else "is not an HDF5 file"
        raise PrenetError(f"{path} {reason} ({error}).") from error
    with file:
        yield file


def emd_nodes(file):
    """List the objects in an EMD file.

    Parameters
    ----------
    file : h5py.File
        The open file.

    Returns
    -------
    dict
        {path: name of the Python class}, without the roots.
    """
    nodes = {}

    def _visit(where, group):
        kind = group.attrs.get("python_class")
        if kind not in (None, "Root"):
            nodes[where] = kind

    file.visititems(_visit)
    return nodes


def stored_json(group):
    """Read the provenance that this package stored in an EMD file.

    Parameters
    ----------
    group : h5py.Group
        The group of a DataCube, or of a calibration that was saved alone.

    Returns
    -------
    str or None
        The record as JSON text; None if there is none.
    """
    stored = group.get("metadatabundle/prenet/json", group.get("prenet/json"))
    return None if stored is None else stored[()].decode()
