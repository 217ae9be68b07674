"""One recentered pattern from a whole scan, with the means of its parts, streamed in one pass.

Every pattern is moved by its own sub-pixel origin to one center, an integer pixel of the pooled frame. The
move is a cubic convolution (Keys): its second moment is zero for every fraction of a pixel, so that a scan
whose origins share one fraction is not blurred along one direction more than along the other, which would
look like an ellipse.

Patterns whose origins agree within a quarter of a pixel are summed before they are moved (by their mean origin:
what is left is a blur of 0.005 px^2), since summing is a hundred times cheaper than moving. Of a large scan an even
sample is pooled: beyond some thousand positions and some million electrons, it is not counting that limits a pool.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from ..compute import map_chunks
from ..core import PrenetError, Scan, as_scan, budget, sample_positions
from ..detector import NoiseModel

CELL = 0.25  # px: origins that agree within this are summed before they are moved
SAMPLE = 4096  # positions of a large scan that are pooled, or more, until they hold
ELECTRONS = 5e6
KEPT_BYTES = 2**29  # of patterns that are kept from the origin's pass, so that pooling need not read them again
PARTS = 16  # contiguous blocks of the scan whose means are kept for jackknife estimates
PARTS_BYTES = 64 * 2**20  # what these may hold


@dataclass(frozen=True)
class Pooled:
    """Recentered patterns of a scan, pooled. Images have the pooled frame's shape (Hx, Hy), in electrons a
    pattern.

    `mean`: float32, mean over the patterns that cover a pixel. `center`: (cx, cy), the pixel of the frame to
    which every origin was moved. `positions`: patterns pooled. `weight`: float32, how many patterns cover a
    pixel of `mean`; zero where none does (off the detector, or bad in all of them) and there the images are
    zero. `parts`, `parts_weight`: (P, Hx, Hy), mean and weight of contiguous blocks of the scan: grains and
    specimen structure differ between them, so leaving one out at a time says how far an estimate can be
    trusted.
    """

    mean: np.ndarray
    center: tuple[float, float]
    positions: int
    weight: np.ndarray
    parts: np.ndarray
    parts_weight: np.ndarray


@dataclass(frozen=True)
class _Frame:
    """The pooled frame: its shape (Hx, Hy) and the pixel (cx, cy) to which origins are moved."""

    shape: tuple[int, int]
    center: tuple[int, int]


def pool(data, qx0, qy0, noise: NoiseModel, valid=None, progress=None) -> Pooled:
    """Pool the recentered patterns of a scan, or of an even sample of a large one, in one streamed pass.

    Args:
        data: (Rx, Ry, Qx, Qy), any array-like that `batches.patterns` reads.
        qx0, qy0: origins in pixels, (Rx, Ry) or anything that broadcasts to it.
        noise: `NoiseModel` of the data; its bad pixels carry no weight.
        valid: (Rx, Ry) bool, True = use this position; positions with an origin that is not finite are left
            out.
        progress: text for a progress bar, None for silence.

    Raises PrenetError if no position is left.
    """
    scan = as_scan(data)
    made = plan(scan.shape, qx0, qy0, noise, valid)
    positions = None if len(made.chosen) == len(made.origin) else made.chosen
    pieces = map_chunks(made.add, scan, made.origin, made.part, positions=positions, progress=progress)
    return made.total(piece for _, piece in pieces)


@dataclass(frozen=True)
class Plan:
    """How a scan is pooled, for whoever reads it: `add` is applied to blocks of it, `total` makes one of the pieces.

    chosen: flat positions that are pooled, ascending. origin: (Rx * Ry, 2), pixels. part: (Rx * Ry,), the block of the
    scan that each position belongs to. frame: where they are summed.
    """

    chosen: np.ndarray
    origin: np.ndarray
    part: np.ndarray
    add: partial  # (index, block, origin and part at index) -> {part: (sum, weight)}, both (Hx, Hy)
    frame: _Frame

    @property
    def parts(self):
        return int(self.part.max()) + 1

    def total(self, pieces) -> Pooled:
        return _total(pieces, self.frame, self.parts, len(self.chosen))


def plan(shape, qx0, qy0, noise: NoiseModel, valid=None) -> Plan:
    """The plan for a scan of `shape` (Rx, Ry, Qx, Qy). Other arguments and errors as for `pool`."""
    scan = shape[:2]
    origin = np.stack([np.broadcast_to(np.asarray(q, float), scan).ravel() for q in (qx0, qy0)], -1)
    use = np.isfinite(origin).all(1)
    if valid is not None:
        use &= np.broadcast_to(np.asarray(valid, bool), scan).ravel()
    chosen = pooled_positions(use, scan, noise.dose)
    frame = _frame(origin[chosen], shape[2:])
    add = partial(_pool_block, frame=frame, bad=noise.bad_pixels, offset=noise.offset, gain=noise.gain)
    return Plan(chosen, origin, _parts(chosen, scan, frame.shape), add, frame)


def pool_arrays(electrons, qx0, qy0, bad=None) -> Pooled:
    """Pool recentered patterns held in memory, all of them.

    Args:
        electrons: (n, Qx, Qy) or (Rx, Ry, Qx, Qy) patterns in electrons; qx0, qy0: (n,) or (Rx, Ry) origins
            in pixels.
        bad: (Qx, Qy) bool, True = bad pixel, or None.
    """
    electrons = np.asarray(electrons)
    scan = electrons.shape[:-2] if electrons.ndim == 4 else (1, len(electrons))
    electrons = electrons.reshape(-1, *electrons.shape[-2:])
    origin = np.stack([np.broadcast_to(np.asarray(q, float).reshape(-1), len(electrons)) for q in (qx0, qy0)], -1)
    bad = np.zeros(electrons.shape[1:], bool) if bad is None else np.asarray(bad, bool)
    index = np.flatnonzero(np.isfinite(origin).all(1))
    if not len(index):
        raise PrenetError(_NOTHING)
    frame = _frame(origin[index], electrons.shape[1:])
    part = _parts(index, scan, frame.shape)
    piece = _pool_block(index, electrons[index], origin[index], part[index], frame, bad, 0.0, 1.0)
    return _total([piece], frame, int(part.max()) + 1, len(index))


_NOTHING = "There is no position with a valid origin to pool; measure the origin first."


def pooled_positions(use, scan, dose):
    """Flat positions to pool, ascending: of those that can be used, (Rx * Ry,) bool, all or an even sample."""
    if not use.any():
        raise PrenetError(_NOTHING)
    wanted = int(max(SAMPLE, min(ELECTRONS / max(dose, 1e-9), len(use))))
    if use.sum() <= wanted:
        return np.flatnonzero(use)
    even = sample_positions(scan, wanted)
    even = even[use[even]]
    if len(even) >= wanted / 2:
        return even
    return np.flatnonzero(use)[np.linspace(0, use.sum() - 1, wanted).astype(int)]


def worth_keeping(scan: Scan, dose):
    """Flat positions that will probably be pooled, ascending, to be kept when they are read; none where the data are in
    memory anyway, or would take more than KEPT_BYTES or a quarter of the memory budget."""
    positions = pooled_positions(np.ones(scan.size, bool), scan.scan_shape, dose)
    size = len(positions) * int(np.prod(scan.pattern_shape)) * scan.dtype.itemsize
    return positions[:0] if scan.in_memory or size > min(KEPT_BYTES, budget() // 4) else positions


def _frame(origin, shape):
    """A frame that holds every pixel of every pattern, but which a stray origin does not blow up."""
    sides, center = [], []
    for axis, size in enumerate(shape):
        q = origin[:, axis]
        middle = np.median(q)
        low, high = np.clip([q.min(), q.max()], middle - size / 4, middle + size / 4)
        center.append(int(np.ceil(high)))
        sides.append(int(np.ceil(high) + size - np.floor(low)))
    return _Frame(tuple(sides), tuple(center))


def _parts(chosen, scan, frame_shape):
    """(Rx * Ry,) the contiguous block of the scan that each position belongs to; the blocks are as many as may
    be held, and cover what was chosen."""
    number = int(np.clip(PARTS_BYTES // (8 * frame_shape[0] * frame_shape[1]), 4, PARTS))
    row, column = np.divmod(chosen, scan[1])
    first, size = (row.min(), column.min()), (np.ptp(row) + 1, np.ptp(column) + 1)
    rows = min(size[0], max(int(np.sqrt(number)), number // size[1]))
    columns = min(size[1], number // rows)
    block = [np.clip((np.arange(n) - f) * c // s, 0, c - 1)
             for n, f, c, s in zip(scan, first, (rows, columns), size, strict=True)]
    return (block[0][:, None] * columns + block[1]).ravel()


def _pool_block(index, block, origin, part, frame, bad, offset, gain):
    """{part: [sum, weight, slices of the frame]} of patterns (n, Qx, Qy) as stored; origin (n, 2), part (n,)."""
    key = np.column_stack([part, np.floor(origin / CELL).astype(np.int64)])
    _, group = np.unique(key, axis=0, return_inverse=True)
    order = np.argsort(group.ravel(), kind="stable")
    edges = np.flatnonzero(np.diff(group.ravel()[order])) + 1
    bad = bad if bad.any() else None
    sums = {}
    for members in np.split(order, edges):
        total, weight = sums.setdefault(int(part[members[0]]), np.zeros((2, *frame.shape), np.float32))
        summed = block[members].sum(0, dtype=np.float32)
        summed = (summed - np.float32(len(members) * offset)) / np.float32(gain)
        moved, good, into = _move(summed, origin[members].mean(0), frame, bad)
        total[into] += moved if good is None else moved * good
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


def _move(image, origin, frame, bad):
    """(moved, good or None where all is, slices of the frame)."""
    whole = np.floor(origin + 1e-6).astype(int)
    taps = [_taps(f) for f in np.clip(origin - whole, 0, None)]
    moved = image
    for axis, (_, weights) in enumerate(taps):
        length = moved.shape[axis] - len(weights) + 1
        pieces = (moved[k : k + length] if axis == 0 else moved[:, k : k + length] for k in range(len(weights)))
        moved = sum(np.float32(t) * piece for t, piece in zip(weights, pieces, strict=True))
    good = None
    if bad is not None:  # where all pixels that the interpolation reads are good
        good = ~np.lib.stride_tricks.sliding_window_view(bad, [len(w) for _, w in taps]).any((-2, -1))
    into, inside = [], []
    for axis, (first, _) in enumerate(taps):
        # row j of `moved` is the pattern's pixel j - first, the frame's j - first - whole + center
        start = -first - whole[axis] + frame.center[axis]
        low, high = max(start, 0), min(start + moved.shape[axis], frame.shape[axis])
        into.append(slice(low, max(high, low)))
        inside.append(slice(low - start, max(high, low) - start))
    inside = tuple(inside)
    return moved[inside], None if good is None else good[inside], tuple(into)


def _taps(fraction):
    """(offset of the first tap, weights) that read an image at `fraction` of a pixel beyond a pixel."""
    if fraction < 1e-5:
        return 0, np.ones(1)
    distance = np.abs(np.arange(-1, 3) - fraction)
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    return -1, np.where(distance <= 1, near, far)
