"""Arrays in a file that may be scans, as they are stored, and the choice of one of them."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..core import MIN_SIDE, Flag, PrenetError, check_sources, silent_sources
from . import PixelSizes, checked_shape, choose_shape, shapes_in_name, shortened

MAX_AXES = 4  # axes; largest number of an array that is chosen without being named: the meaning of others is unknown
MAX_LISTED = 8  # arrays; largest number that a sentence lists


@dataclass(frozen=True)
class StoredArray:
    """An array of a file whose last two axes are patterns.

    Attributes
    ----------
    shape : tuple of int
        (..., Qx, Qy), in the order of the scan.
    dtype : numpy.dtype
        Type of the values.
    load : callable
        Returns the array without loading its values.
    name : str
        Its path or title in the file; empty if the file holds nothing else.
    aliases : tuple of str
        Other names.
    stated : tuple of StatedShape
        Shapes of the scan that the file states.
    sizes : PixelSizes
        Pixel sizes as the file states them.
    grows : bool
        Whether the detector writes frame after frame, so that the file may end before the scan.
    compression : str or None
        Names of the filters.
    flags : tuple of Flag
        Flags that the reader raised.
    calibration : dict or None
        Entries of py4DSTEM's calibration, in files of an earlier version.
    settings : dict or None
        Settings of the microscope that the file states.
    """

    shape: tuple
    dtype: np.dtype
    load: Callable
    name: str = ""
    aliases: tuple = ()
    stated: tuple = ()
    sizes: PixelSizes = field(default_factory=PixelSizes)
    grows: bool = False
    compression: str | None = None
    flags: tuple = ()
    calibration: dict | None = None
    settings: dict | None = None

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def count(self) -> int:
        """Number of patterns."""
        return int(np.prod(self.shape[:-2]))

    @classmethod
    def of(cls, data, **options):
        """Describe an array that is open.

        Parameters
        ----------
        data : array_like
            The array.
        **options
            The other attributes.

        Returns
        -------
        StoredArray
            The description.
        """
        return cls(tuple(int(n) for n in data.shape), np.dtype(data.dtype), lambda: data, **options)

    @classmethod
    def of_pattern(cls, shape, dtype, load, **options):
        """Describe an image that is a single pattern, as a scan of one position.

        Parameters
        ----------
        shape : tuple of int
            (Qx, Qy).
        dtype : numpy.dtype
            Type of the values.
        load : callable
            Returns the image (Qx, Qy).
        **options
            The other attributes.

        Returns
        -------
        StoredArray or None
            The description, of shape (1, 1, Qx, Qy); None if it is not an image of numbers.
        """
        if len(shape or ()) != 2 or np.dtype(dtype).kind not in "iufb":
            return None
        return cls((1, 1, *(int(n) for n in shape)), np.dtype(dtype), lambda: np.asarray(load())[None, None], **options)

    def is_named(self, name) -> bool:
        """Return whether a caller's name means this array.

        Parameters
        ----------
        name : str
            A path or title, or the last part of a path.

        Returns
        -------
        bool
            True if it does.
        """
        name = name.strip("/")
        return any(name in (known.strip("/"), known.strip("/").split("/")[-1])
                   for known in (self.name, *self.aliases) if known)


@dataclass(frozen=True)
class OtherData:
    """Data of a file that cannot be a scan.

    Attributes
    ----------
    name : str
        Path or title in the file.
    shape : tuple of int
        Its shape.
    dtype : numpy.dtype
        Type of the values.
    kind : str
        Description of the data.
    compression : str or None
        Names of the filters.
    pattern : StoredArray or None
        The same data as a scan of one pattern, if they are an image. It is opened only if the caller says so.
    """

    name: str
    shape: tuple
    dtype: np.dtype
    kind: str = "data set"
    compression: str | None = None
    pattern: StoredArray | None = None


@dataclass(frozen=True)
class FileContents:
    """Arrays and other data that a reader found in a file.

    Attributes
    ----------
    kind : str
        Kind of the file, for messages.
    arrays : tuple of StoredArray
        Arrays that may be scans.
    others : tuple of OtherData
        Everything else in the file.
    hint : str
        Advice for the user if none of the arrays is a scan.
    flags : tuple of Flag
        Warnings of the reader.
    """

    kind: str
    arrays: tuple = ()
    others: tuple = ()
    hint: str = ""
    flags: tuple = ()


def choose_array(contents, path, scan_shape=None, name=None) -> StoredArray:
    """Choose the array of a file that is the scan.

    Parameters
    ----------
    contents : FileContents
        Contents of the file.
    path : pathlib.Path
        The file.
    scan_shape : tuple of int, optional
        (Rx, Ry) that the caller wants.
    name : str, optional
        The name that the caller gives.

    Returns
    -------
    StoredArray
        The only array that fits: the one that was named; otherwise a 4-D one before a stack, and one that fills the
        shape before one that does not. An image is a single pattern only if the caller wants a scan of one position.

    Raises
    ------
    PrenetError
        If there is none or more than one.
    """
    images = [d.pattern for d in contents.others if d.pattern is not None]
    found = [a for a in contents.arrays if name is None or a.is_named(name)]
    if scan_shape == (1, 1) and not any(a.count == 1 for a in found):
        found += [a for a in images if name is None or a.is_named(name)]
    exact = [a for a in found if name is not None and name.strip("/") == a.name.strip("/")]
    found = exact or found
    # A property that no remaining array has is not asked for.
    found = [a for a in found if min(a.shape[-2:]) >= MIN_SIDE] or found
    if scan_shape:
        found = [a for a in found if a.count == scan_shape[0] * scan_shape[1]] or found
    found = [a for a in found if a.ndim == 4] or found
    if name is None and scan_shape is None:
        found = [a for a in found if a.ndim <= MAX_AXES]
    if len(found) == 1:
        return found[0]
    if found:
        raise PrenetError(f"{path} holds several arrays that may be scans "
                          f"({shortened([_told(a) for a in found], MAX_LISTED)}); give the name of one.")
    named = f" named {name}" if name else ""
    available = [_told(a) for a in (*contents.arrays, *contents.others)]
    hint = contents.hint or ("give scan_shape for an array of more than four axes" if any(
        a.ndim > MAX_AXES for a in contents.arrays) else "")
    if not hint and not contents.arrays and images:
        hint = "if it is a single pattern, give scan_shape=(1, 1), in a shell --scan 1,1"
    hint = f"; {hint}" if hint else ""
    raise PrenetError(f"{path} ({contents.kind}) holds no scan or stack of patterns{named}, but "
                      f"{shortened(available, MAX_LISTED) or 'nothing'}{hint}.")


def decide_shape(array, path, scan_shape=None):
    """Decide the shape of the scan of an array.

    Parameters
    ----------
    array : StoredArray
        The array.
    path : pathlib.Path
        Its file.
    scan_shape : tuple of int, optional
        (Rx, Ry); replaces the shape in the file.

    Returns
    -------
    shape : tuple of int
        (Rx, Ry).
    flags : tuple of Flag
        Flags on patterns that were left out.

    Raises
    ------
    PrenetError
        If the shape does not fit, or is not certain.
    """
    given = checked_shape(scan_shape)
    if array.ndim == 4 and given in (None, array.shape[:2]):
        return array.shape[:2], ()
    stated = [*array.stated, *shapes_in_name(path.stem)] if given is None else ()
    try:
        return choose_shape(array.count, given, stated, array.grows)
    except PrenetError as error:
        raise PrenetError(f"{path} {error}") from None


def load_shaped(array, shape):
    """Open an array in the shape of its scan, without loading its values.

    Parameters
    ----------
    array : StoredArray
        The array.
    shape : tuple of int
        (Rx, Ry); fewer positions than the array holds patterns leave out the last ones.

    Returns
    -------
    array_like, shape (Rx, Ry, Qx, Qy)
        A numpy memory map, an HDF5 data set, a zarr array or a dask array.
    """
    data = array.load()
    return data if tuple(data.shape[:-2]) == shape else _reshaped(data, shape)


def _reshaped(data, shape):
    """Reshape an array to (*shape, Qx, Qy), with its first patterns if there are more."""
    if not isinstance(data, np.ndarray) and not hasattr(data, "dask"):  # of HDF5 or zarr
        import dask.array

        # Blocks of whole scan rows can be reshaped without moving data.
        rows = max(1, (data.chunks or (1,))[0] // shape[1])
        chunks = (rows * shape[1], *data.shape[1:]) if data.ndim == 3 else "auto"
        checked = _Watched(data) if silent_sources(data) else data
        data = dask.array.from_array(checked, chunks=chunks)
    pattern = data.shape[-2:]
    flat = data.reshape(-1, *pattern) if data.ndim != 3 else data
    return flat[: shape[0] * shape[1]].reshape(*shape, *pattern)


class _Watched:
    """Array whose files are checked at every access, since missing ones would give zeros."""

    def __init__(self, array):
        self._array, self._sources = array, silent_sources(array)
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __getitem__(self, key):
        check_sources(self._sources)
        return self._array[key]


def _told(array):
    return f"{array.name or 'an array'} {tuple(array.shape or ())}"


@contextlib.contextmanager
def heard():
    """Catch the output, log messages and warnings of a reader.

    Yields
    ------
    list of Flag
        Filled when the block ends: one flag for each warning.
    """
    flags, printed, logged = [], io.StringIO(), []

    class Handler(logging.Handler):
        def emit(self, record):
            logged.append(record.getMessage())

    handler, loggers = Handler(logging.WARNING), [logging.getLogger(name) for name in ("rsciio", "ncempy", "tifffile")]
    before = [(logger.propagate, logger.handlers) for logger in loggers]
    for logger in loggers:  # RosettaSciIO's own handler writes to stdout
        logger.propagate, logger.handlers = False, [handler]
    try:
        with contextlib.redirect_stdout(printed), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("default")
            yield flags
    finally:
        for logger, (propagate, handlers) in zip(loggers, before, strict=True):
            added = [h for h in logger.handlers if h is not handler]
            logger.propagate, logger.handlers = propagate, [*handlers, *added]
    told = [*logged, *(str(w.message) for w in warned if not issubclass(w.category, _OF_PROGRAMMERS))]
    flags += [Flag("reader_warned", {"text": " ".join(text.split())[:300]})
              for text in dict.fromkeys(told) if "numba" not in text]  # which tells nothing of the file


_OF_PROGRAMMERS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning, ImportWarning)
