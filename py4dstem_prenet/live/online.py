"""Calibrate while the scan is still running.

Patterns are fed as they come, in any order. An even sample of them is kept in bounded memory; from it the stages of
`calibrate` learn noise and beam, in a process of their own, again whenever twice as many patterns have been seen; every
pattern is located at once with the beam that is known. Those that come before the first beam wait for it.

The stages are those of `calibrate`: `Calibrator.learn` (in `learn_so_far`), `locate`, and `finish` (in `judge_snapshot`), on a
sample of the scan. At the end `calibrate` itself runs on the whole scan.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from copy import deepcopy
from heapq import heappush, heapreplace

import numpy as np
from scipy.ndimage import distance_transform_edt

from ..core import (
    CalibrationReport,
    Ellipse,
    Flag,
    OriginFit,
    OriginMap,
    PrenetError,
    SampledScan,
    as_scan,
    sample_positions,
)
from ..detector import MAX_NOISE_POSITIONS as LEARNED_FROM
from ..fits import MIN_POOLED_POSITIONS
from ..origin import LOCATE_BATCH, Beam, check_mask, shows_beam, unlocated
from ..pipeline import Calibrator, calibrate, check_networks
from .alarms import crowded
from .snapshot import Snapshot, judge_snapshot, learn_so_far
from .worker import Worker

FIRST = 64  # patterns from which a beam is learned first; twice as many each time after that
SAMPLE_BYTES = 2**28  # of patterns that are kept
BACKLOG_BYTES = 2**28  # of patterns that wait for the first beam
MANY = 2048  # positions of a scan; one of fewer is over about when a process has started
CELL = 16  # scan columns whose median tells where the beam is nearby
FEWEST = 4  # positions that such a median needs
LATE = 64  # patterns that waited for the first beam and are located beside those that come: more would delay these
UNLEARNED = "nothing_learned"  # flag of a scan that has just begun
BLANK = 0.02  # part of the usual electrons below which a pattern holds no beam (as in `shows_beam`)


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
        worker: from `start_worker`, where that could be called before the patterns' shape was known; None: one is made.

    Make it before the scan begins: it waits until the process that learns has loaded, which takes seconds; beside
    patterns that come already, that would delay their results.

    Memory does not grow with the scan: some 256 MB of patterns are kept, here and in the process that learns, and as
    much waits for the first beam at most. Where more patterns come than can be located, `feed` takes its time.

    worker: the process that learns, and may judge; it ends with `finish`, `close`, or this object.
    """

    def __init__(self, scan_shape, pattern_shape, mask=None, device="auto", worker=None):
        self._shape = (*map(int, scan_shape), *map(int, pattern_shape))
        if len(self._shape) != 4 or min(self._shape) < 1:
            raise PrenetError(f"A scan's and a pattern's shape are needed, such as (256, 256) and (128, 128), not "
                              f"{scan_shape} and {pattern_shape}.")
        check_mask(as_scan(np.broadcast_to(np.uint8(0), self._shape)), mask)
        check_networks(device)
        self._mask, self._device = mask, device
        self._scan = scan = self._shape[:2]
        self.worker = start_worker(scan, device) if worker is None else worker
        self.worker.wait()
        count = scan[0] * scan[1]
        self._located = unlocated(count)
        self._fed, self._known, self._saturated = np.zeros((3, count), bool)
        self._total = np.zeros(count)  # of each pattern, detector units
        self._rank = _ranks(scan)
        self._kept: dict[int, np.ndarray] = {}
        self._worst: list[tuple[float, int]] = []  # a heap of what is kept, the least important on top
        self._dtype = None
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._learned = Calibrator(None, None, None, Flag(UNLEARNED), device)  # the latest, with a beam if any has one
        self._learned_from = 0  # patterns from which the learning under way learns
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
        for first in range(0, len(patterns), LOCATE_BATCH):
            part = slice(first, first + LOCATE_BATCH)
            block, index = patterns[part], positions[part]
            self._keep(index, block)
            self._fed[index] = True
            self._total[index] = block.sum((1, 2), dtype=np.float64)
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
        most = int(np.clip(SAMPLE_BYTES // block[0].nbytes, FIRST, MIN_POOLED_POSITIONS + LEARNED_FROM))
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
        if self._learned.noise is not None:  # saturation needs no beam, which a stop may hide for good
            self._saturated[index] = crowded(block, self._learned.noise)
        self._waiting.append((index, block.copy()))
        if sum(b.nbytes for _, b in self._waiting) > BACKLOG_BYTES:
            if self._learning is not None:
                wait([self._learning])
                self._advance()
            if self._beam is None:
                self._waiting.pop(0)  # `finish` locates it

    # --- learning --------------------------------------------------------------------------------------------

    @property
    def _beam(self) -> Beam | None:
        return self._learned.beam

    def _advance(self):
        """Adopt what was learned, and learn again where there is more to learn from."""
        if self._learning is not None and self._learning.done():
            future, self._learning = self._learning, None
            try:
                learned = future.result()
            except PrenetError as problem:  # of the process that learns: what is known stays, and it tries again
                learned = Calibrator(None, None, None, Flag("input_refused", {"message": str(problem)}), self._device)
            seen, self._judged = self._learned_from, None
            later = 2 * seen if learned.beam else seen + max(FIRST, seen // 4)
            self._next = min(later, len(self._fed)) if seen < len(self._fed) else np.inf
            if learned.beam is not None:
                self._adopt(learned)
            elif self._beam is None:
                self._learned = learned
        seen = self.seen
        if self._learning is None and seen >= self._next:
            self._learned_from = seen
            self._learning = self._thread.submit(self.worker.call, learn_so_far, self._sample(), self._mask, self._device)

    def _adopt(self, learned):
        self._learned = learned
        known = np.flatnonzero(shows_beam(self._located, self._known))
        self._nearby[:] = np.nan
        self._note_nearby(known)

    def _catch_up(self):
        """Locate the latest of the patterns that waited for the first beam; what comes now is not to wait for all."""
        parts, room = [], LATE
        while self._beam is not None and self._waiting and room:
            index, block = self._waiting.pop()
            if len(index) > room:
                self._waiting.append((index[:-room], block[:-room]))
            parts.insert(0, (index[-room:], block[-room:]))  # in the order in which they came
            room -= len(parts[0][0])
        if parts:
            index, block = (np.concatenate(values) for values in zip(*parts, strict=True))
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
            wait([self._learning])

    # --- locating --------------------------------------------------------------------------------------------

    def _locate(self, index, block):
        learned = self._learned
        found = unlocated(len(index), self._guess(index))
        usual = np.median(self._located.signal[self._located.found]) if self._located.found.any() else 0.0
        electrons = (self._total[index] - learned.noise.offset * block[0].size) / learned.noise.gain
        lit = electrons > max(3.0, BLANK * usual)  # the network need not look at what holds no beam anywhere
        if lit.any():
            found.put(lit, learned.beam.locate(block[lit], found.position[lit]))
        self._located.put(index, found)
        self._saturated[index] = crowded(block, learned.noise)
        self._known[index] = True
        self._judged = None
        self._note_nearby(index[found.found])

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
        located = deepcopy(self._located)
        return Snapshot(self._sample(), located, self._known.copy(), self._saturated.copy(), self._learned, self.seen,
                        self._fed.copy(), self._total.copy())

    def _sample(self):
        positions = np.sort(np.fromiter(self._kept, np.int64, len(self._kept)))
        patterns = [self._kept[p] for p in positions.tolist()]
        return SampledScan(self._scan, positions, patterns or np.empty((0, *self._shape[2:]), self._dtype))

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
        shape = as_scan(datacube).shape
        if shape[1:] != self._shape[1:] or shape[0] > self._shape[0]:
            raise PrenetError(f"The scan that was watched has shape {self._shape}, not {shape}; give its own DataCube.")
        self.close()  # it would compete for the cores
        return calibrate(datacube, self._mask, self._device, progress)

    def close(self):
        """End the process that learns. What is known stays known; what is fed later is learned from here."""
        self.worker.close()
        if self._learning is not None:
            wait([self._learning])
            self._learning = None if self._learning.exception() else self._learning


def start_worker(scan, device="auto") -> Worker:
    """The process that learns from a scan (Rx, Ry), which loads from now on; none for a scan that is soon over."""
    return Worker(check_networks if np.prod(scan) >= MANY else None, device)


def _ranks(scan):
    """How important each position is to an even sample, (Rx * Ry,), the smallest first: the positions that noise and
    beam are learned from at the end, then those that are pooled, then what fills the gaps most evenly."""
    row, column = np.divmod(np.arange(scan[0] * scan[1]), scan[1])
    rank = (row * 0.7548776662466927 + column * 0.5698402909980532) % 1.0 + 2  # an even lattice at any density
    for level, count in ((1, MIN_POOLED_POSITIONS), (0, LEARNED_FROM)):
        chosen = sample_positions(scan, count)
        rank[chosen] = rank[chosen] % 1.0 + level
    return rank
