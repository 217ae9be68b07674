"""One recentered pattern from a whole scan: mean, maximum and spread, streamed in one pass.

Every pattern is moved by its own sub-pixel origin to one center, an integer pixel of the pooled frame. The
move is a cubic convolution (Keys): its second moment is zero for every fraction of a pixel, so that a scan
whose origins share one fraction is not blurred along one direction more than along the other, which would
look like an ellipse.

The mean uses every position. Patterns whose origins agree within an eighth of a pixel are summed before they
are moved (by their mean origin: what is left is a blur of 0.001 px^2), since summing is a hundred times
cheaper than moving.
Maximum and spread are not linear, so there every pattern is moved by itself; they are taken from an even
sample of the scan.
"""

from dataclasses import dataclass

import numpy as np

from . import batches
from .errors import PrenetError

CELL = 0.125  # px: origins that agree within this are summed before they are moved
SAMPLE = 2048  # positions that maximum and spread are taken from
PARTS = 16  # contiguous blocks of the scan whose means are kept for jackknife estimates
PARTS_BYTES = 64 * 2**20  # what these may hold


@dataclass(frozen=True)
class Pooled:
    """Recentered patterns of a scan, pooled. Images have the pooled frame's shape (Hx, Hy), in electrons a
    pattern.

    `mean`: float32, mean over the patterns that cover a pixel. `maximum`: of the patterns smoothed by (1, 2,
    1)/4 along both axes, so that single electrons do not rule. `spread`: standard deviation of the smoothed
    patterns beyond counting noise. `weight`: float32, how many patterns cover a pixel of `mean`; zero where
    none does (off the detector, or bad in all of them) and there the images are zero. `center`: (cx, cy), the
    pixel of the frame to which every origin was moved. `positions`: patterns pooled.
    `parts`, `parts_weight`: (P, Hx, Hy), mean and weight of contiguous blocks of the scan: grains and
    specimen structure differ between them, so leaving one out at a time says how far an estimate can be
    trusted.
    """

    mean: np.ndarray
    maximum: np.ndarray
    spread: np.ndarray
    center: tuple[float, float]
    positions: int
    weight: np.ndarray
    parts: np.ndarray
    parts_weight: np.ndarray

    def without(self, part):
        """(mean, weight) of all but one part: float32 (Hx, Hy) each."""
        weight = np.maximum(self.weight - self.parts_weight[part], 0)
        total = self.mean * self.weight - self.parts[part] * self.parts_weight[part]
        return np.where(weight > 0, total / np.maximum(weight, 1), 0).astype(np.float32), weight


def pool(data, qx0, qy0, noise, valid=None, progress=None):
    """Pool the recentered patterns of a scan in one streamed pass.

    Args:
        data: (Rx, Ry, Qx, Qy), any array-like that `batches.patterns` reads.
        qx0, qy0: origins in pixels, (Rx, Ry) or anything that broadcasts to it.
        noise: `NoiseModel` of the data; its bad pixels carry no weight.
        valid: (Rx, Ry) bool, True = use this position; positions with an origin that is not finite are left
            out.
        progress: text for a progress bar, None for silence.

    Returns: `Pooled`. Raises PrenetError if no position is left.
    """
    scan, shape = batches.shape_of(data)[:2], batches.shape_of(data)[2:]
    qx0, qy0 = (np.broadcast_to(np.asarray(q, float), scan).ravel() for q in (qx0, qy0))
    use = np.isfinite(qx0) & np.isfinite(qy0)
    if valid is not None:
        use &= np.broadcast_to(np.asarray(valid, bool), scan).ravel()
    positions = None if use.all() else np.flatnonzero(use)
    pooling = _Pooling(qx0, qy0, use, noise.bad_pixels, shape, _blocks(scan), noise)
    for index, block in batches.patterns(data, progress=progress, positions=positions):
        pooling.add(index, block)
    return pooling.result()


def pool_arrays(electrons, qx0, qy0, bad=None):
    """Pool recentered patterns held in memory.

    Args:
        electrons: (n, Qx, Qy) or (Rx, Ry, Qx, Qy) patterns in electrons; qx0, qy0: (n,) or (Rx, Ry) origins
            in pixels.
        bad: (Qx, Qy) bool, True = bad pixel, or None.
    """
    electrons = np.asarray(electrons)
    scan = electrons.shape[:-2] if electrons.ndim == 4 else (1, len(electrons))
    electrons = electrons.reshape(-1, *electrons.shape[-2:])
    qx0, qy0 = (np.broadcast_to(np.asarray(q, float).reshape(-1), len(electrons)) for q in (qx0, qy0))
    bad = np.zeros(electrons.shape[1:], bool) if bad is None else np.asarray(bad, bool)
    pooling = _Pooling(qx0, qy0, np.isfinite(qx0 + qy0), bad, electrons.shape[1:], _blocks(scan), None)
    index = np.flatnonzero(np.isfinite(qx0 + qy0))
    pooling.add(index, electrons[index])
    return pooling.result()


class _Pooling:
    """Sums over the patterns seen so far."""

    def __init__(self, qx0, qy0, use, bad, shape, blocks, noise):
        if not use.any():
            raise PrenetError("There is no position with a valid origin to pool; measure the origin first.")
        self.origin = np.stack([qx0, qy0], -1)
        self.noise, self.shape = noise, shape
        # the frame holds every pixel of every pattern, but a stray origin must not blow it up
        self.frame, self.center = [], []
        for axis, size in enumerate(shape):
            q = self.origin[use, axis]
            middle = np.median(q)
            low, high = np.clip([q.min(), q.max()], middle - size / 4, middle + size / 4)
            self.center.append(int(np.ceil(high)))
            self.frame.append(int(np.ceil(high) + size - np.floor(low)))
        self.frame = tuple(self.frame)
        parts = int(np.clip(PARTS_BYTES // (8 * self.frame[0] * self.frame[1]), 4, PARTS))
        self.part = blocks(parts)
        number = int(self.part.max()) + 1
        self.sums = np.zeros((number, *self.frame), np.float32)
        self.weights = np.zeros((number, *self.frame), np.float32)
        self.bad = bad if bad.any() else None
        self.masks = {}
        sample = np.flatnonzero(use)
        self.sample = np.zeros(len(use), bool)
        self.sample[sample[np.linspace(0, len(sample) - 1, min(SAMPLE, len(sample))).astype(int)]] = True
        self.maximum = np.full(self.frame, -np.inf, np.float32)
        self.first, self.second, self.count, self.shot = (np.zeros(self.frame, np.float32) for _ in range(4))
        self.positions = int(use.sum())

    def add(self, index, block):
        """Take in patterns: index (n,) flat scan positions, block (n, Qx, Qy) as stored."""
        cell = np.floor(self.origin[index] / CELL).astype(np.int64)
        key = np.column_stack([self.part[index], cell])
        _, group = np.unique(key, axis=0, return_inverse=True)
        order = np.argsort(group.ravel(), kind="stable")
        edges = np.flatnonzero(np.diff(group.ravel()[order])) + 1
        for members in np.split(order, edges):
            summed = block[members].sum(0, dtype=np.float32)
            if self.noise is not None:
                summed = (summed - np.float32(len(members) * self.noise.offset)) / np.float32(self.noise.gain)
            origin = self.origin[index[members]].mean(0)
            moved, good, into, _ = self._move(summed, origin, smooth=False)
            part = self.part[index[members[0]]]
            self.sums[part][into] += moved if good is None else moved * good
            self.weights[part][into] += len(members) if good is None else np.float32(len(members)) * good
        chosen = np.flatnonzero(self.sample[index])
        if not len(chosen):
            return
        electrons = block[chosen] if self.noise is None else self.noise.electrons(block[chosen])
        readout = 0.0 if self.noise is None else (self.noise.readout / self.noise.gain) ** 2
        for pattern, origin in zip(np.asarray(electrons, np.float32), self.origin[index[chosen]], strict=True):
            moved, good, into, shot = self._move(pattern, origin, smooth=True)
            weighted = moved if good is None else moved * good
            np.maximum(
                self.maximum[into],
                moved if good is None else np.where(good, moved, -np.inf),
                out=self.maximum[into],
            )
            self.first[into] += weighted
            self.second[into] += weighted * moved
            self.shot[into] += shot * (weighted + readout)
            self.count[into] += 1 if good is None else good

    def _move(self, image, origin, smooth):
        """(moved, good, slices of the frame, sum of squared weights of the interpolation)."""
        whole = np.floor(origin + 1e-6).astype(int)
        fractions = np.clip(origin - whole, 0, None)
        moved, spans, shot = image, [], 1.0
        for axis in (0, 1):
            first, taps = _taps(fractions[axis], smooth)
            length = moved.shape[axis] - len(taps) + 1
            pieces = (moved[k : k + length] if axis == 0 else moved[:, k : k + length] for k in range(len(taps)))
            moved = sum(np.float32(t) * piece for t, piece in zip(taps, pieces, strict=True))
            spans.append((first, len(taps)))
            shot *= float(np.square(taps).sum())
        good = self._good(tuple(spans))
        into, inside = [], []
        for axis in (
            0,
            1,
        ):  # row j of `moved` is the pattern's pixel j - first, the frame's j - first - whole + center
            start = -spans[axis][0] - whole[axis] + self.center[axis]
            low, high = max(start, 0), min(start + moved.shape[axis], self.frame[axis])
            into.append(slice(low, max(high, low)))
            inside.append(slice(low - start, max(high, low) - start))
        inside = tuple(inside)
        return moved[inside], None if good is None else good[inside], tuple(into), np.float32(shot)

    def _good(self, spans):
        """Where all pixels that an interpolation reads are good, or None if every pixel is."""
        if self.bad is None:
            return None
        if spans not in self.masks:
            touched = np.lib.stride_tricks.sliding_window_view(self.bad, (spans[0][1], spans[1][1]))
            self.masks[spans] = ~touched.any((-2, -1))
        return self.masks[spans]

    def result(self):
        weight = self.weights.sum(0)
        seen = self.count > 0
        count = np.maximum(self.count, 1)
        mean = self.first / count
        excess = (self.second - self.shot) / count - mean**2
        return Pooled(
            mean=self.sums.sum(0) / np.maximum(weight, 1),
            maximum=np.where(seen, self.maximum, 0).astype(np.float32),
            spread=np.sqrt(np.clip(excess, 0, None)),
            center=(float(self.center[0]), float(self.center[1])),
            positions=self.positions,
            weight=weight,
            parts=self.sums / np.maximum(self.weights, 1),
            parts_weight=self.weights,
        )


def _taps(fraction, smooth):
    """(offset of the first tap, weights) that read an image at `fraction` of a pixel beyond a pixel."""
    if fraction < 1e-5:
        first, taps = 0, np.ones(1)
    else:
        distance = np.abs(np.arange(-1, 3) - fraction)
        near = 1.5 * distance**3 - 2.5 * distance**2 + 1
        far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
        first, taps = -1, np.where(distance <= 1, near, far)
    return (first - 1, np.convolve(taps, [0.25, 0.5, 0.25])) if smooth else (first, taps)


def _blocks(scan):
    """A function number -> (Rx*Ry,) block of the scan that each position belongs to, at most `number`
    blocks."""

    def assign(number):
        rows = min(scan[0], max(int(np.sqrt(number)), number // scan[1]))
        columns = min(scan[1], number // rows)
        row = np.arange(scan[0]) * rows // scan[0]
        column = np.arange(scan[1]) * columns // scan[1]
        return (row[:, None] * columns + column).ravel()

    return assign
