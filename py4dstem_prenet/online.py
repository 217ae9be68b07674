"""Calibrate while the scan is still running.

Patterns are fed as they come, in any order. An even sample of them is kept in bounded memory; from it the stages of
`calibrate` learn noise and beam, on a thread of their own, again whenever twice as many patterns have been seen; every
pattern is located at once with the beam that is known. Those that come before the first beam wait for it.

Nothing here measures anything: `find_beam`, `Beam.locate`, `origin_of` and `judge_scan` are what `calibrate` calls,
and they take a `Sample` of a scan in the place of a scan. `finish` is `calibrate` itself, on the whole scan.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import cached_property
from heapq import heappush, heapreplace

import numpy as np
from scipy.ndimage import distance_transform_edt

from . import batches
from .alarms import crowded, row_moves
from .beam import BATCH, Beam, Located, nowhere
from .ellipse import Ellipse
from .errors import PrenetError
from .noise import SAMPLE as LEARNED_FROM
from .noise import NoiseModel, estimate_noise, sample_positions
from .origin import OriginFit, OriginMap, check_mask, find_beam, fit_origin, origin_of, shows_beam
from .pipeline import CalibrationReport, calibrate, check_networks, judge_scan
from .pooling import SAMPLE
from .sample import Sample

FIRST = 64  # patterns from which a beam is learned first; twice as many each time after that
SAMPLE_BYTES = 2**28  # of patterns that are kept
BACKLOG_BYTES = 2**28  # of patterns that wait for the first beam
LOCATED = ("position", "sigma", "signal", "seen")
CELL = 16  # scan columns whose median tells where the beam is nearby
FEWEST = 4  # positions that such a median needs
BLANK = 0.02  # part of the usual electrons below which a pattern holds no beam (as in `shows_beam`)


@dataclass(frozen=True)
class _Learned:
    """What the stages learned from the `seen` first patterns. guess: (Rx * Ry, 2) of every origin; outside of the
    rectangle of the scan that was seen it is that of the nearest position inside. beam: None, and why."""

    noise: NoiseModel | None
    beam: Beam | None
    guess: np.ndarray | None
    reason: str
    seen: int


@dataclass(frozen=True)
class Snapshot:
    """All that is known at a moment; plain data, to be judged anywhere, as `judge_snapshot` does.

    sample: patterns that were kept. located: of every position. known, saturated: (Rx * Ry,) bool, positions that were
    looked at, and those whose patterns crowd at their largest value.
    noise and beam are None before the first beam; reason: why there is none yet. seen: patterns that were fed.
    """

    sample: Sample
    located: Located
    known: np.ndarray
    saturated: np.ndarray
    noise: NoiseModel | None
    beam: Beam | None
    reason: str
    seen: int

    @property
    def scan(self):
        return self.sample.scan

    @property
    def valid(self):
        """(Rx, Ry) bool: where a beam was located."""
        return shows_beam(self.located, self.known).reshape(self.scan)

    @cached_property
    def moves(self):
        """How the beam moved from row to row, as `alarms.row_moves` says."""
        return row_moves(self)

    def box(self):
        """The rectangle of the scan, a pair of slices, outside of which nothing was seen."""
        seen = self.known.reshape(self.scan) | self.sample.held()
        return tuple(slice(int(at[0]), int(at[-1]) + 1) for at in (np.flatnonzero(seen.any(1 - k)) for k in (0, 1)))

    def map(self, values):
        """(..., Rx, Ry) of an array (Rx * Ry, ...)."""
        return np.moveaxis(values.reshape(*self.scan, *values.shape[1:]), (0, 1), (-2, -1))


class OnlineCalibrator:
    """Origin, descan, ellipse and noise of a scan that is still running.

    ```python
    calibrator = OnlineCalibrator((256, 256), (128, 128))
    for patterns, positions in source:            # in any order, some hundred at a time
        calibrator.feed(patterns, positions)
        print(calibrator.report)                  # as known so far
    calibrator.finish(datacube)                   # writes what `calibrate` would
    ```

    Args:
        scan_shape: (Rx, Ry). pattern_shape: (Qx, Qy).
        mask, device: as for `calibrate`.

    Memory does not grow with the scan: some 256 MB of patterns are kept, and as much waits for the first beam at most.
    Where more patterns come than can be located, `feed` takes its time.
    """

    def __init__(self, scan_shape, pattern_shape, mask=None, device="auto"):
        self._shape = (*map(int, scan_shape), *map(int, pattern_shape))
        if len(self._shape) != 4 or min(self._shape) < 1:
            raise PrenetError(f"A scan's and a pattern's shape are needed, such as (256, 256) and (128, 128), not "
                              f"{scan_shape} and {pattern_shape}.")
        batches.check(np.broadcast_to(np.uint8(0), self._shape))
        check_mask(np.broadcast_to(np.uint8(0), self._shape), mask)
        check_networks(device)
        self._mask, self._device = mask, device
        self._scan = scan = self._shape[:2]
        count = scan[0] * scan[1]
        self._located = nowhere(count)
        self._fed, self._known, self._saturated = np.zeros((3, count), bool)
        self._rank = _ranks(scan)
        self._kept: dict[int, np.ndarray] = {}
        self._worst: list[tuple[float, int]] = []  # a heap of what is kept, the least important on top
        self._dtype = None
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._learned: _Learned | None = None  # the latest that has a beam
        self._reason = "Nothing was seen yet."
        self._next = min(FIRST, count)
        self._learning: Future | None = None
        self._thread = ThreadPoolExecutor(1, "prenet-learn")
        self._nearby = np.full((scan[0], -(-scan[1] // CELL), 2), np.nan)  # located less guess, by cell
        self._judged: CalibrationReport | None = None

    # --- feeding ---------------------------------------------------------------------------------------------

    def feed(self, patterns, positions):
        """Take patterns as they come from the detector.

        Args:
            patterns: (n, Qx, Qy), detector units; copied where they are kept. positions: (n,) flat scan positions, or
                (n, 2) rows and columns, in any order. A position that is fed again is measured again.

        Raises PrenetError for other shapes, positions outside of the scan, NaN or infinity.
        """
        patterns, positions = self._checked(patterns, positions)
        for first in range(0, len(patterns), BATCH):
            part = slice(first, first + BATCH)
            block, index = patterns[part], positions[part]
            self._keep(index, block)
            self._fed[index] = True
            self._advance()
            if self._beam is None:
                self._wait_for_beam(index, block)
            else:
                self._locate(index, block)
                self._catch_up()
        self._advance()

    def _checked(self, patterns, positions):
        patterns, positions = np.asarray(patterns), np.asarray(positions)
        if patterns.ndim != 3 or patterns.shape[1:] != self._shape[2:]:
            raise PrenetError(f"Patterns of shape (n, {self._shape[2]}, {self._shape[3]}) are expected, not "
                              f"{patterns.shape}.")
        if positions.shape == (len(patterns), 2) and positions.dtype.kind in "iu":
            outside = ((positions < 0) | (positions >= self._scan)).any(1)
            positions = np.where(outside, -1, positions.astype(np.int64) @ (self._scan[1], 1))
        if positions.shape != (len(patterns),) or positions.dtype.kind not in "iu":
            raise PrenetError("Each pattern needs its scan position, in whole numbers: (n,) flat, or (n, 2).")
        if len(positions) and not 0 <= positions.min() <= positions.max() < len(self._fed):
            raise PrenetError(f"A position lies outside of the scan of {self._scan[0]} x {self._scan[1]}.")
        if patterns.dtype.kind not in "iuf" or (self._dtype is not None and patterns.dtype != self._dtype):
            raise PrenetError(f"The patterns are of type {patterns.dtype}; one type of numbers is expected for all.")
        if patterns.dtype.kind == "f" and len(patterns) and not np.isfinite([patterns.min(), patterns.max()]).all():
            raise PrenetError("The patterns contain NaN or infinite values; replace them first, or leave them out.")
        self._dtype = patterns.dtype
        return patterns, positions.astype(np.int64)

    def _keep(self, index, block):
        """Keep the most important patterns of all that were fed, which does not depend on their order."""
        most = int(np.clip(SAMPLE_BYTES // block[0].nbytes, FIRST, SAMPLE + LEARNED_FROM))
        for position, pattern in zip(index.tolist(), block, strict=True):
            entry = (-self._rank[position], position)
            if position not in self._kept:
                if len(self._kept) < most:
                    heappush(self._worst, entry)
                elif entry > self._worst[0]:
                    del self._kept[heapreplace(self._worst, entry)[1]]
                else:
                    continue
            self._kept[position] = pattern.copy()

    def _wait_for_beam(self, index, block):
        self._waiting.append((index, block.copy()))
        if sum(b.nbytes for _, b in self._waiting) > BACKLOG_BYTES:
            if self._learning is not None:
                self._learning.result()
                self._advance()
            if self._beam is None:
                self._waiting.pop(0)  # `finish` locates it

    # --- learning --------------------------------------------------------------------------------------------

    @property
    def _beam(self) -> Beam | None:
        return self._learned.beam if self._learned else None

    def _advance(self):
        """Adopt what was learned, and learn again where there is more to learn from."""
        if self._learning is not None and self._learning.done():
            learned, self._learning = self._learning.result(), None
            self._reason, self._judged = learned.reason, None
            later = 2 * learned.seen if learned.beam else learned.seen + max(FIRST, learned.seen // 4)
            self._next = min(later, len(self._fed)) if learned.seen < len(self._fed) else np.inf
            if learned.beam is not None:
                self._adopt(learned)
        seen = self.seen
        if self._learning is None and seen >= self._next:
            self._learning = self._thread.submit(_learn, self._sample(), seen, self._mask, self._device)

    def _adopt(self, learned):
        self._learned = learned
        known = np.flatnonzero(shows_beam(self._located, self._known))
        self._nearby[:] = np.nan
        self._note_nearby(known)

    def _catch_up(self):
        """Locate the latest of the patterns that waited for the first beam; what comes now is not to wait for all."""
        if self._beam is not None and self._waiting:
            index, block = self._waiting.pop()
            later = self._known[index]  # positions that were fed again meanwhile
            if not later.all():
                self._locate(index[~later], block[~later])

    def wait(self):
        """Wait until all that was fed is located, and all is learned from it that can be."""
        while True:
            self._advance()
            while self._beam is not None and self._waiting:
                self._catch_up()
            if self._learning is None:
                return
            self._learning.result()

    # --- locating --------------------------------------------------------------------------------------------

    def _locate(self, index, block):
        learned = self._learned
        found = nowhere(len(index), self._guess(index))
        usual = np.median(self._located.signal[self._located.seen]) if self._located.seen.any() else 0.0
        electrons = (block.sum((1, 2), dtype=np.float64) - learned.noise.offset * block[0].size) / learned.noise.gain
        lit = electrons > max(3.0, BLANK * usual)  # the network need not look at what holds no beam anywhere
        if lit.any():
            found.put(lit, learned.beam.locate(block[lit], found.position[lit]))
        self._located.put(index, found)
        self._saturated[index] = crowded(block, learned.noise)
        self._known[index] = True
        self._judged = None
        self._note_nearby(index[found.seen])

    def _guess(self, index):
        """Where the beam should be: the surface that was learned, moved as the positions nearest to it were."""
        guess = self._learned.guess[index].copy()
        known = np.isfinite(self._nearby[..., 0])
        if known.any():
            nearest = distance_transform_edt(~known, (1, CELL / 4), return_distances=False, return_indices=True)
            row, column = np.divmod(index, self._scan[1])
            guess += self._nearby[tuple(nearest[:, row, column // CELL])]
        return guess

    def _note_nearby(self, index):
        cells = index // self._scan[1] * self._nearby.shape[1] + index % self._scan[1] // CELL
        beside = self._located.position[index] - self._learned.guess[index]
        order = np.argsort(cells, kind="stable")
        for members in np.split(order, np.flatnonzero(np.diff(cells[order])) + 1):
            if len(members) >= min(FEWEST, self._scan[1]):
                self._nearby.reshape(-1, 2)[cells[members[0]]] = np.median(beside[members], 0)

    def poll(self):
        """Look whether something was learned meanwhile; worth calling while nothing comes that could be fed."""
        self._advance()
        self._catch_up()

    # --- what is known so far --------------------------------------------------------------------------------

    @property
    def scan(self) -> tuple[int, int]:
        return self._scan

    @property
    def learning(self) -> bool:
        """Whether noise and beam are being learned just now, which takes a core."""
        return self._learning is not None

    @property
    def seen(self) -> int:
        """Scan positions that were fed."""
        return int(np.count_nonzero(self._fed))

    @property
    def located(self) -> int:
        """Scan positions of which a result is there."""
        return int(np.count_nonzero(self._known))

    def snapshot(self) -> Snapshot:
        """All that is known now; it does not change when more is fed."""
        self._advance()
        located = Located(*(getattr(self._located, name).copy() for name in LOCATED))
        noise, beam = (self._learned.noise, self._learned.beam) if self._learned else (None, None)
        return Snapshot(self._sample(), located, self._known.copy(), self._saturated.copy(), noise, beam, self._reason,
                        self.seen)

    def _sample(self):
        positions = np.sort(np.fromiter(self._kept, np.int64, len(self._kept)))
        return Sample(self._scan, positions, [self._kept[p] for p in positions.tolist()])

    @property
    def report(self) -> CalibrationReport:
        """Everything below; judged anew where anything was located since it was last asked for, which can take some
        seconds on a large scan."""
        self._advance()
        if self._judged is None:
            self._judged = judge_snapshot(self.snapshot())
        return self._judged

    @property
    def origin(self) -> OriginMap:
        """Where the beam is; not valid where nothing was seen yet."""
        return self.report.origin

    @property
    def fit(self) -> OriginFit | None:
        """The descan; NaN outside of the rectangle of the scan that was seen; None before the first beam."""
        return self.report.fit

    @property
    def ellipse(self) -> Ellipse | None:
        """The ellipse; None before the first beam."""
        return self.report.ellipse

    # --- the end ---------------------------------------------------------------------------------------------

    def finish(self, datacube, progress=False) -> CalibrationReport:
        """Write into the scan's calibration what `calibrate` would.

        datacube: the whole scan, or its first rows where it was aborted. The last beam is learned from all of the scan,
        and earlier ones, learned from less, put single patterns some hundredths of a pixel elsewhere; so all patterns
        are located again, and the result is that of `calibrate` to the last bit, in the time that it takes.

        Raises PrenetError for a cube of another shape, and as `calibrate`.
        """
        batches.check(datacube)
        shape = batches.shape_of(datacube)
        if shape[1:] != self._shape[1:] or shape[0] > self._shape[0]:
            raise PrenetError(f"The scan that was watched has shape {self._shape}, not {shape}; give its own DataCube.")
        if self._learning is not None:  # it would compete for the cores
            self._learning.result()
        return calibrate(datacube, self._mask, self._device, progress)


def judge_snapshot(snapshot: Snapshot) -> CalibrationReport:
    """What a snapshot says, as a `CalibrationReport`; writes nothing. Changes nothing: it may run on another thread."""
    scan = snapshot.scan
    if snapshot.beam is None or not snapshot.valid.any():
        reason = snapshot.reason if snapshot.beam is None else "No position shows a beam that can be located."
        nothing = [np.full(scan, np.nan) for _ in range(4)]
        origin = OriginMap(*nothing, np.zeros(scan, bool), float("nan"), False, reason)
        noise = snapshot.noise or NoiseModel(1.0, 0.0, 0.0, np.zeros((1, 1), bool), False, 0.0)
        return CalibrationReport(origin, None, None, noise, (f"So far no beam: {reason}",))
    # A surface through half of a scan is a surface of that half: it is not bent by what nobody has seen.
    box = snapshot.box()
    inside = np.zeros(scan, bool)
    inside[box] = True
    inside = inside.ravel()
    sample, known = _boxed(snapshot.sample, box), snapshot.known[inside]
    located = Located(*(getattr(snapshot.located, name)[inside] for name in LOCATED))
    origin = origin_of(sample, snapshot.noise, located, snapshot.beam, known)
    try:
        fit, ellipse = judge_scan(sample, sample, origin, snapshot.noise, snapshot.beam.device, progress=False)
    except PrenetError:  # no pattern that was kept shows a beam
        fit, ellipse = fit_origin(origin), None
    origin, fit = (_in_scan(found, box, scan) for found in (origin, fit))
    looked = int(np.count_nonzero(snapshot.known))
    return CalibrationReport(origin, fit, ellipse, snapshot.noise, (
        f"So far: {looked} of {snapshot.known.size} positions; nothing is written before the end.",))


def _learn(sample: Sample, seen, mask, device) -> _Learned:
    """Noise and beam from the rectangle of the scan that was seen, as `calibrate` learns them from a whole one."""
    box = tuple(slice(int(at.min()), int(at.max()) + 1) for at in np.divmod(sample.positions, sample.scan[1]))
    part = _boxed(sample, box)
    try:
        noise = estimate_noise(part, mask=mask)
    except PrenetError as problem:  # a beam that is still blanked
        return _Learned(None, None, None, str(problem), seen)
    beam, guess, reason = find_beam(part, noise, device)
    if beam is None:
        return _Learned(noise, None, None, reason, seen)
    nearest = [np.clip(np.arange(n) - part.start, 0, part.stop - part.start - 1)
               for n, part in zip(sample.scan, box, strict=True)]
    guess = guess.reshape(*part.scan, 2)[nearest[0][:, None], nearest[1]].reshape(-1, 2)
    return _Learned(noise, beam, guess, "", seen)


def _boxed(sample: Sample, box) -> Sample:
    """A sample of a rectangle of the scan that holds all of it."""
    rows, columns = np.divmod(sample.positions, sample.scan[1])
    scan = tuple(part.stop - part.start for part in box)
    return Sample(scan, (rows - box[0].start) * scan[1] + columns - box[1].start, sample.patterns)


def _in_scan(result, box, scan):
    """A result on a rectangle of the scan as one on the scan, with nothing known outside of it."""
    if result is None:
        return None
    maps = {}
    for part in fields(result):
        values = getattr(result, part.name)
        if isinstance(values, np.ndarray):
            empty = False if values.dtype == bool else np.inf if part.name.startswith("sigma") else np.nan
            maps[part.name] = np.full(scan, empty)
            maps[part.name][box] = values
    return replace(result, **maps)


def _ranks(scan):
    """How important each position is to an even sample, (Rx * Ry,), the smallest first: the positions that noise and
    beam are learned from at the end, then those that are pooled, then what fills the gaps most evenly."""
    row, column = np.divmod(np.arange(scan[0] * scan[1]), scan[1])
    rank = (row * 0.7548776662466927 + column * 0.5698402909980532) % 1.0 + 2  # an even lattice at any density
    for level, count in ((1, SAMPLE), (0, LEARNED_FROM)):
        chosen = sample_positions(scan, count)
        rank[chosen] = rank[chosen] % 1.0 + level
    return rank
