"""Mean of the recentered patterns of a scan, and of parts of the scan, in one streamed pass.

Each pattern is shifted by its own sub-pixel origin to one center, an integer pixel of the pooled frame. The shift is a
cubic convolution (Keys 1981). The second moment of its kernel is zero for every fraction of a pixel. A scan whose
origins all have the same fraction is therefore not blurred more along one direction than along the other, which would
look like an elliptical distortion.

Patterns whose origins agree within a quarter of a pixel are summed first and then shifted by their mean origin. This
adds a blur of 0.005 px^2, and summing is a hundred times faster than shifting. From a large scan an even sample is
pooled: beyond several thousand positions and several million electrons, counting noise is not the limiting error.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from ..compute import map_chunks
from ..core import (
    BLOCK_BYTES,
    NoiseModel,
    PrenetError,
    Scan,
    as_scan,
    budget,
    cubic_kernel,
    flat_origins,
    sample_positions,
)
from .polar_fit import MIN_JACKKNIFE_PARTS

ORIGIN_CELL_PX = 0.25  # pixels; patterns whose origins lie in the same cell of this side are summed before the shift
MIN_POOLED_POSITIONS = 4096  # positions; fewest that are pooled from a large scan, more if needed for POOLED_ELECTRONS
POOLED_ELECTRONS = 5e6  # electrons; more do not improve the ellipse, which is then limited by systematic errors
MAX_KEPT_BYTES = 2**29  # bytes; patterns kept in memory when origins are measured, so that they are not read again
MAX_POOLED_PARTS = 16  # largest number of contiguous parts of the scan whose means are kept for jackknife estimates
NO_ORIGIN = "There is no position with a valid origin to pool; measure the origin first."


@dataclass(frozen=True)
class Pooled:
    """Pooled, recentered patterns of a scan.

    Images have the shape (Hx, Hy) of the pooled frame, in electrons per pattern.

    Attributes
    ----------
    mean : numpy.ndarray, shape (Hx, Hy)
        Mean over the patterns that cover a pixel, float32; zero where no pattern does.
    center : tuple of float
        Pixel (cx, cy) of the frame to which every origin was shifted.
    positions : int
        Number of patterns pooled.
    weight : numpy.ndarray, shape (Hx, Hy)
        Number of patterns that cover a pixel with a good pixel of the detector, float32.
    parts : numpy.ndarray, shape (P, Hx, Hy)
        Means of contiguous parts of the scan. Grains and specimen structure differ between parts, so a jackknife over
        them gives an uncertainty that includes the specimen.
    parts_weight : numpy.ndarray, shape (P, Hx, Hy)
        Weights of the parts.
    """

    mean: np.ndarray
    center: tuple[float, float]
    positions: int
    weight: np.ndarray
    parts: np.ndarray
    parts_weight: np.ndarray


@dataclass(frozen=True)
class _Frame:
    """Shape (Hx, Hy) of the pooled frame, and the pixel (cx, cy) to which origins are shifted."""

    shape: tuple[int, int]
    center: tuple[int, int]


def pool(data, qx0, qy0, noise: NoiseModel, valid=None, progress=None) -> Pooled:
    """Pool the recentered patterns of a scan, or of an even sample of a large one.

    Parameters
    ----------
    data : Scan, DataCube or array_like, shape (Rx, Ry, Qx, Qy)
        The scan.
    qx0, qy0 : array_like, shape (Rx, Ry)
        Origins in pixels, or anything that broadcasts to this shape.
    noise : NoiseModel
        Noise model of the data; its bad pixels have weight zero.
    valid : array_like of bool, shape (Rx, Ry), optional
        True where a position is used. Positions whose origin is not finite are always left out.
    progress : str, optional
        Text of a progress bar; None for no bar.

    Returns
    -------
    Pooled
        The pooled pattern and its parts.

    Raises
    ------
    PrenetError
        If no position is left.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.core import NoiseModel
    >>> from py4dstem_prenet.fits import pool
    >>> data = np.zeros((4, 4, 32, 32))
    >>> data[..., 15, 16] = 100.0
    >>> noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((32, 32), bool), counting=True, dose=100.0)
    >>> pooled = pool(data, 15.0, 16.0, noise)
    >>> pooled.positions, pooled.mean[tuple(map(int, pooled.center))].item()
    (16, 100.0)
    """
    scan = as_scan(data)
    origin = flat_origins(scan.scan_shape, qx0, qy0)
    use = np.isfinite(origin).all(1)
    if valid is not None:
        use &= np.broadcast_to(np.asarray(valid, bool), scan.scan_shape).ravel()
    chosen = pooled_positions(use, scan.scan_shape, noise.dose)
    frame = _frame(origin[chosen], scan.pattern_shape)
    part = _parts(chosen, scan.scan_shape, frame.shape)
    add = partial(_pool_block, frame=frame, bad=noise.bad_pixels, offset=noise.offset, gain=noise.gain)
    positions = None if len(chosen) == len(origin) else chosen
    pieces = map_chunks(add, scan, origin, part, positions=positions, progress=progress)
    return _total((piece for _, piece in pieces), frame, int(part.max()) + 1, len(chosen))


def pool_arrays(electrons, qx0, qy0, bad=None) -> Pooled:
    """Pool all recentered patterns of an array.

    Parameters
    ----------
    electrons : array_like, shape (n, Qx, Qy) or (Rx, Ry, Qx, Qy)
        Patterns in electrons.
    qx0, qy0 : array_like, shape (n,) or (Rx, Ry)
        Origins in pixels.
    bad : array_like of bool, shape (Qx, Qy), optional
        True where a pixel is bad.

    Returns
    -------
    Pooled
        The pooled pattern and its parts.

    Raises
    ------
    PrenetError
        If no origin is finite.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.fits import pool_arrays
    >>> pooled = pool_arrays(np.ones((9, 16, 16)), np.full(9, 7.5), np.full(9, 8.0))
    >>> pooled.center, pooled.mean.shape, round(float(pooled.mean.max()), 3)
    ((8.0, 8.0), (17, 16), 1.0)
    """
    electrons = np.asarray(electrons)
    scan = electrons.shape[:-2] if electrons.ndim == 4 else (1, len(electrons))
    electrons = electrons.reshape(-1, *electrons.shape[-2:])
    origin = np.stack([np.broadcast_to(np.asarray(q, float).reshape(-1), len(electrons)) for q in (qx0, qy0)], -1)
    bad = np.zeros(electrons.shape[1:], bool) if bad is None else np.asarray(bad, bool)
    index = np.flatnonzero(np.isfinite(origin).all(1))
    if not len(index):
        raise PrenetError(NO_ORIGIN)
    frame = _frame(origin[index], electrons.shape[1:])
    part = _parts(index, scan, frame.shape)
    piece = _pool_block(index, electrons[index], origin[index], part[index], frame, bad, 0.0, 1.0)
    return _total([piece], frame, int(part.max()) + 1, len(index))


def pooled_positions(use, scan, dose):
    """Choose the positions of a scan that are pooled.

    Parameters
    ----------
    use : numpy.ndarray of bool, shape (Rx * Ry,)
        True where a position can be used.
    scan : tuple of int
        Shape (Rx, Ry) of the scan.
    dose : float
        Mean electrons per pattern.

    Returns
    -------
    numpy.ndarray of int
        Flat positions, ascending: all that can be used, or an even sample of them.

    Raises
    ------
    PrenetError
        If no position can be used.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.fits import pooled_positions
    >>> len(pooled_positions(np.ones(10_000, bool), (100, 100), dose=1e4))
    4096
    """
    if not use.any():
        raise PrenetError(NO_ORIGIN)
    wanted = int(max(MIN_POOLED_POSITIONS, min(POOLED_ELECTRONS / max(dose, 1e-9), len(use))))
    if use.sum() <= wanted:
        return np.flatnonzero(use)
    even = sample_positions(scan, wanted)
    even = even[use[even]]
    if len(even) >= wanted / 2:
        return even
    return np.flatnonzero(use)[np.linspace(0, use.sum() - 1, wanted).astype(int)]


def worth_keeping(scan: Scan, dose):
    """Choose the positions whose patterns are kept in memory for pooling when they are first read.

    Parameters
    ----------
    scan : Scan
        The scan.
    dose : float
        Mean electrons per pattern.

    Returns
    -------
    numpy.ndarray of int
        Flat positions, ascending. Empty if the data are in memory, or if the patterns take more than MAX_KEPT_BYTES
        or a quarter of the memory budget.
    """
    positions = pooled_positions(np.ones(scan.size, bool), scan.scan_shape, dose)
    size = len(positions) * int(np.prod(scan.pattern_shape)) * scan.dtype.itemsize
    return positions[:0] if scan.in_memory or size > min(MAX_KEPT_BYTES, budget() // 4) else positions


def _frame(origin, shape):
    """Choose a frame that contains every pixel of every shifted pattern; outliers of the origin are clipped."""
    sides, center = [], []
    for axis, size in enumerate(shape):
        q = origin[:, axis]
        median = np.median(q)
        low, high = np.clip([q.min(), q.max()], median - size / 4, median + size / 4)
        center.append(int(np.ceil(high)))
        sides.append(int(np.ceil(high) + size - np.floor(low)))
    return _Frame(tuple(sides), tuple(center))


def _parts(chosen, scan, frame_shape):
    """Divide the scan into contiguous parts that cover the chosen positions; return the part (Rx * Ry,) of each."""
    part_bytes = 8 * frame_shape[0] * frame_shape[1]
    number = int(np.clip(BLOCK_BYTES // part_bytes, MIN_JACKKNIFE_PARTS, MAX_POOLED_PARTS))
    row, column = np.divmod(chosen, scan[1])
    first, size = (row.min(), column.min()), (np.ptp(row) + 1, np.ptp(column) + 1)
    rows = min(size[0], max(int(np.sqrt(number)), number // size[1]))
    columns = min(size[1], number // rows)
    part_of_axis = [np.clip((np.arange(n) - f) * c // s, 0, c - 1)
             for n, f, c, s in zip(scan, first, (rows, columns), size, strict=True)]
    return (part_of_axis[0][:, None] * columns + part_of_axis[1]).ravel()


def _pool_block(index, block, origin, part, frame, bad, offset, gain):
    """Pool a block of patterns (n, Qx, Qy) in detector units: {part: (sum, weight)}, in the frame's shape."""
    key = np.column_stack([part, np.floor(origin / ORIGIN_CELL_PX).astype(np.int64)])
    _, group = np.unique(key, axis=0, return_inverse=True)
    order = np.argsort(group.ravel(), kind="stable")
    edges = np.flatnonzero(np.diff(group.ravel()[order])) + 1
    clean, sums = {} if bad.any() else None, {}
    for members in np.split(order, edges):
        total, weight = sums.setdefault(int(part[members[0]]), np.zeros((2, *frame.shape), np.float32))
        summed = block[members].sum(0, dtype=np.float32)
        summed = (summed - np.float32(len(members) * offset)) / np.float32(gain)
        shifted, good, into = _shift(summed, origin[members].mean(0), frame, bad, clean)
        total[into] += shifted if good is None else shifted * good
        weight[into] += len(members) if good is None else np.float32(len(members)) * good
    return sums


def _total(pieces, frame, parts, positions):
    sums, weights = np.zeros((2, parts, *frame.shape), np.float32)
    for piece in pieces:
        for part, (total, weight) in piece.items():
            sums[part] += total
            weights[part] += weight
    weight = weights.sum(0)
    return Pooled(sums.sum(0) / np.maximum(weight, 1), tuple(map(float, frame.center)), positions, weight,
                  sums / np.maximum(weights, 1), weights)


def _shift(image, origin, frame, bad, clean):
    """Shift an image to the center of the frame.

    Returns the shifted image, the mask of its good pixels (None if all are good), and the slices of the frame that it
    covers. `clean` keeps these masks by the numbers of taps; it is None if there are no bad pixels.
    """
    whole = np.floor(origin + 1e-6).astype(int)
    taps = [_taps(fraction) for fraction in np.clip(origin - whole, 0, None)]
    shifted = image
    for axis, (_, weights) in enumerate(taps):
        length = shifted.shape[axis] - len(weights) + 1
        pieces = (shifted[k : k + length] if axis == 0 else shifted[:, k : k + length] for k in range(len(weights)))
        shifted = sum(np.float32(weight) * piece for weight, piece in zip(weights, pieces, strict=True))
    good = None
    if clean is not None:
        lengths = tuple(len(weights) for _, weights in taps)
        if lengths not in clean:
            clean[lengths] = _clean(bad, lengths)
        good = clean[lengths]
    into, inside = [], []
    for axis, (first, _) in enumerate(taps):
        # Row j of `shifted` is row j - first of the pattern, and row j - first - whole + center of the frame.
        start = -first - whole[axis] + frame.center[axis]
        low, high = max(start, 0), min(start + shifted.shape[axis], frame.shape[axis])
        into.append(slice(low, max(high, low)))
        inside.append(slice(low - start, max(high, low) - start))
    inside = tuple(inside)
    return shifted[inside], None if good is None else good[inside], tuple(into)


def _clean(bad, lengths):
    """Pixels of an interpolated image for which no bad pixel is read."""
    for axis, length in enumerate(lengths):
        size = bad.shape[axis] - length + 1
        bad = np.logical_or.reduce([bad.take(np.arange(k, k + size), axis) for k in range(length)])
    return ~bad


def _taps(fraction):
    """Offset of the first tap, and weights, that interpolate an image at `fraction` of a pixel after a pixel."""
    if fraction < 1e-5:
        return 0, np.ones(1)
    return -1, cubic_kernel(np.abs(np.arange(-1, 3) - fraction))
