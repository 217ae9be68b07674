"""Calibration of a scan while it is running.

Patterns are fed as they arrive, in any order. An even sample of them is kept in bounded memory. From the sample, a
separate process learns noise and beam, and learns again whenever the number of patterns has doubled. The beam is
located at once in every pattern that is fed; patterns that arrive before the beam is learned wait in memory.

The stages are those of `calibrate`, on a sample of the scan: `Calibrator.learn` (called by `learn_so_far`), `locate`,
and `finish` (called by `judge_snapshot`). At the end, `calibrate` itself runs on the whole scan.
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
    all_finite,
    as_scan,
    sample_positions,
)
from ..origin import (
    LOCATE_BATCH,
    MIN_SIGNAL_ELECTRONS,
    MIN_SIGNAL_FRACTION,
    Beam,
    check_mask,
    shows_beam,
    unlocated,
)
from ..pipeline import Calibrator, calibrate, check_networks
from . import Snapshot, Worker, judge_snapshot, learn_so_far, saturated_patterns

FIRST_LEARNING_PATTERNS = 64  # patterns; number after which the beam is first learned; doubled each time
MAX_SAMPLE_BYTES = 2**28  # bytes; largest size of the kept patterns, and of those that wait for the beam
MIN_PROCESS_POSITIONS = 2048  # positions; smallest scan with a process of its own: smaller ones end before it is ready
CELL_COLUMNS = 16  # scan columns; width of a cell, whose median offset from the guess corrects the guess nearby
MIN_CELL_POSITIONS = 4  # positions; smallest number of located positions in a cell for its median offset
UNLEARNED = "nothing_learned"  # name of the flag of a scan before the beam is first learned
MAX_LATE_PATTERNS = 64  # patterns; most waiting ones that a call of `feed` locates: more would delay new patterns


class OnlineCalibrator:
    """Origin, descan, ellipse and noise of a scan that is still running.

    Create it before the scan begins, since it waits some seconds until the learning process is ready.

    Parameters
    ----------
    scan_shape : tuple of int
        (Rx, Ry).
    pattern_shape : tuple of int
        (Qx, Qy).
    mask : numpy.ndarray of bool, shape (Qx, Qy), optional
        True where a detector pixel is good.
    device : str, optional
        "auto", "cpu", "cuda" or "mps".
    worker : Worker, optional
        Learning process from `start_worker`; started here by default.

    Attributes
    ----------
    worker : Worker
        The learning process. It ends when `finish` or `close` is called, or when this object is deleted.

    Notes
    -----
    Memory does not grow with the scan: at most 256 MB of patterns are kept, here and in the learning process, and
    patterns that wait for the first beam take at most as much again. If patterns arrive faster than they can be
    located, `feed` blocks.

    Examples
    --------
    >>> from py4dstem_prenet.live import OnlineCalibrator
    >>> calibrator = OnlineCalibrator((256, 256), (128, 128))  # doctest: +SKIP
    >>> for patterns, positions in source:  # doctest: +SKIP
    ...     calibrator.feed(patterns, positions)  # some hundred patterns at a time, in any order
    ...     print(calibrator.report)  # results so far
    >>> report = calibrator.finish(datacube)  # doctest: +SKIP
    """

    def __init__(self, scan_shape, pattern_shape, mask=None, device="auto", worker=None):
        self._shape = (*map(int, scan_shape), *map(int, pattern_shape))
        if len(self._shape) != 4 or min(self._shape) < 1:
            raise PrenetError(f"Give the shapes of the scan and of a pattern, such as (256, 256) and (128, 128), not "
                              f"{scan_shape} and {pattern_shape}.")
        check_mask(as_scan(np.broadcast_to(np.uint8(0), self._shape)), mask)
        check_networks(device)
        self._mask, self._device = mask, device
        self._scan = scan = self._shape[:2]
        self.worker = start_worker(scan, device) if worker is None else worker
        self.worker.wait()
        count = scan[0] * scan[1]
        self._located = unlocated(count)
        self._fed, self._processed, self._saturated = np.zeros((3, count), bool)
        self._total = np.zeros(count)  # sum of each pattern, detector units
        self._rank = _ranks(scan)
        self._kept: dict[int, np.ndarray] = {}
        self._worst: list[tuple[float, int]] = []  # heap of the kept positions, the least important on top
        self._dtype = None
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        # The latest calibrator; one with a beam is not replaced by one without.
        self._learned = Calibrator(None, None, None, Flag(UNLEARNED), device)
        self._learned_from = 0  # number of patterns from which the current learning started
        self._next = min(FIRST_LEARNING_PATTERNS, count)  # number of patterns at which learning starts again
        self._learning: Future | None = None
        self._thread = ThreadPoolExecutor(1, "prenet-learn")
        self._nearby = np.full((scan[0], -(-scan[1] // CELL_COLUMNS), 2), np.nan)  # located minus guess in each cell
        self._judged: CalibrationReport | None = None

    # --- feeding ---------------------------------------------------------------------------------------------

    def feed(self, patterns, positions):
        """Process patterns as they arrive from the detector.

        Parameters
        ----------
        patterns : numpy.ndarray, shape (n, Qx, Qy)
            Patterns in detector units; copied if they are kept.
        positions : array_like of int, shape (n,) or (n, 2)
            Flat scan positions, or rows and columns, in any order. A position that is fed again is measured again.

        Raises
        ------
        PrenetError
            If a shape or type is wrong, a position lies outside the scan, or a value is NaN or infinite.
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
        if not all_finite(patterns):
            raise PrenetError("The patterns contain NaN or infinite values; replace them first, or leave them out.")
        self._dtype = patterns.dtype
        return patterns, positions.astype(np.int64)

    def _keep(self, index, block):
        """Keep the most important patterns of all that were fed; the sample does not depend on their order."""
        most_used = Calibrator.POOLED_POSITIONS + Calibrator.NOISE_POSITIONS
        limit = int(np.clip(MAX_SAMPLE_BYTES // block[0].nbytes, FIRST_LEARNING_PATTERNS, most_used))
        for position, pattern in zip(index.tolist(), block, strict=True):
            entry = (-self._rank[position], position)
            if position not in self._kept:
                if len(self._kept) < limit:
                    heappush(self._worst, entry)
                elif entry > self._worst[0]:
                    del self._kept[heapreplace(self._worst, entry)[1]]
                else:
                    continue
            self._kept[position] = pattern.copy()

    def _wait_for_beam(self, index, block):
        """Store patterns until the beam is learned."""
        if self._learned.noise is not None:  # saturation is tested without a beam, which a beam stop may hide
            self._saturated[index] = saturated_patterns(block, self._learned.noise)
        self._waiting.append((index, block.copy()))
        if sum(b.nbytes for _, b in self._waiting) > MAX_SAMPLE_BYTES:
            if self._learning is not None:
                wait([self._learning])
                self._advance()
            if self._beam is None:
                self._waiting.pop(0)  # located by `finish`

    # --- learning --------------------------------------------------------------------------------------------

    @property
    def _beam(self) -> Beam | None:
        return self._learned.beam

    def _advance(self):
        """Use the result of the learning process, and start it again if there are enough new patterns."""
        if self._learning is not None and self._learning.done():
            future, self._learning = self._learning, None
            try:
                learned = future.result()
            except PrenetError as problem:  # learning failed: keep the last result and try again
                learned = Calibrator(None, None, None, Flag("input_refused", {"message": str(problem)}), self._device)
            seen, self._judged = self._learned_from, None
            next_learning = 2 * seen if learned.beam else seen + max(FIRST_LEARNING_PATTERNS, seen // 4)
            self._next = min(next_learning, len(self._fed)) if seen < len(self._fed) else np.inf
            if learned.beam is not None:
                self._adopt(learned)
            elif self._beam is None:
                self._learned = learned
        seen = self.seen
        if self._learning is None and seen >= self._next:
            self._learned_from = seen
            self._learning = self._thread.submit(self.worker.call, learn_so_far, self._sample(), self._mask,
                                                 self._device)

    def _adopt(self, learned):
        """Replace the calibrator by one with a newly learned beam."""
        self._learned = learned
        self._nearby[:] = np.nan
        self._update_nearby(np.flatnonzero(shows_beam(self._located, self._processed)))

    def _catch_up(self):
        """Locate some of the waiting patterns, the latest ones first."""
        parts, remaining = [], MAX_LATE_PATTERNS
        while self._beam is not None and self._waiting and remaining:
            index, block = self._waiting.pop()
            if len(index) > remaining:
                self._waiting.append((index[:-remaining], block[:-remaining]))
            parts.insert(0, (index[-remaining:], block[-remaining:]))  # in the order of their arrival
            remaining -= len(parts[0][0])
        if parts:
            index, block = (np.concatenate(values) for values in zip(*parts, strict=True))
            repeated = self._processed[index]  # positions that were fed again meanwhile
            if not repeated.all():
                self._locate(index[~repeated], block[~repeated])

    def wait(self):
        """Wait until all patterns are located and learning has ended."""
        while True:
            self._advance()
            while self._beam is not None and self._waiting:
                self._catch_up()
            if self._learning is None:
                return
            wait([self._learning])

    # --- locating --------------------------------------------------------------------------------------------

    def _locate(self, index, block):
        """Locate the beam in patterns."""
        learned = self._learned
        located = unlocated(len(index), self._guess(index))
        typical_signal = np.median(self._located.signal[self._located.found]) if self._located.found.any() else 0.0
        electrons = (self._total[index] - learned.noise.offset * block[0].size) / learned.noise.gain
        # Darker patterns are not searched.
        lit = electrons > max(MIN_SIGNAL_ELECTRONS, MIN_SIGNAL_FRACTION * typical_signal)
        if lit.any():
            located.put(lit, learned.beam.locate(block[lit], located.position[lit]))
        self._located.put(index, located)
        self._saturated[index] = saturated_patterns(block, learned.noise)
        self._processed[index] = True
        self._judged = None
        self._update_nearby(index[located.found])

    def _guess(self, index):
        """Guess beam positions: the learned surface plus the offset of the nearest cell with located positions."""
        guess = self._learned.guess[index].copy()
        measured = np.isfinite(self._nearby[..., 0])
        if measured.any():
            spacing = 1, CELL_COLUMNS / 4
            nearest = distance_transform_edt(~measured, spacing, return_distances=False, return_indices=True)
            row, column = np.divmod(index, self._scan[1])
            guess += self._nearby[tuple(nearest[:, row, column // CELL_COLUMNS])]
        return guess

    def _update_nearby(self, index):
        """Update the median offsets of the cells of some located positions."""
        cells = index // self._scan[1] * self._nearby.shape[1] + index % self._scan[1] // CELL_COLUMNS
        offset = self._located.position[index] - self._learned.guess[index]
        order = np.argsort(cells, kind="stable")
        for members in np.split(order, np.flatnonzero(np.diff(cells[order])) + 1):
            if len(members) >= min(MIN_CELL_POSITIONS, self._scan[1]):
                self._nearby.reshape(-1, 2)[cells[members[0]]] = np.median(offset[members], 0)

    def poll(self):
        """Process waiting patterns and new results of the learning process; call it while no patterns arrive."""
        self._advance()
        self._catch_up()

    # --- results so far ---------------------------------------------------------------------------------------

    @property
    def scan(self) -> tuple[int, int]:
        """Shape of the scan.

        Returns
        -------
        tuple of int
            (Rx, Ry).
        """
        return self._scan

    @property
    def learning(self) -> bool:
        """Whether the learning process is busy.

        Returns
        -------
        bool
            True if it is.
        """
        return self._learning is not None

    @property
    def seen(self) -> int:
        """Number of scan positions that were fed.

        Returns
        -------
        int
            The number.
        """
        return int(np.count_nonzero(self._fed))

    @property
    def located(self) -> int:
        """Number of scan positions that were processed.

        Returns
        -------
        int
            The number.
        """
        return int(np.count_nonzero(self._processed))

    def snapshot(self) -> Snapshot:
        """Copy the state of the scan.

        Returns
        -------
        Snapshot
            The state; it does not change when more patterns are fed.
        """
        self._advance()
        located = deepcopy(self._located)
        return Snapshot(self._sample(), located, self._processed.copy(), self._saturated.copy(), self._learned,
                        self.seen, self._fed.copy(), self._total.copy())

    def _sample(self):
        positions = np.sort(np.fromiter(self._kept, np.int64, len(self._kept)))
        patterns = [self._kept[p] for p in positions.tolist()]
        return SampledScan(self._scan, positions, patterns or np.empty((0, *self._shape[2:]), self._dtype))

    @property
    def report(self) -> CalibrationReport:
        """Results of the calibration so far; takes some seconds on a large scan if patterns were added.

        Returns
        -------
        CalibrationReport
            The results.
        """
        self._advance()
        if self._judged is None:
            self._judged = judge_snapshot(self.snapshot())
        return self._judged

    @property
    def origin(self) -> OriginMap:
        """Measured origin so far.

        Returns
        -------
        OriginMap
            The origin; not valid at positions without a pattern.
        """
        return self.report.origin

    @property
    def fit(self) -> OriginFit | None:
        """Fitted origin so far.

        Returns
        -------
        OriginFit or None
            The fit; NaN outside the rectangle that contains all patterns. None before the beam is learned.
        """
        return self.report.fit

    @property
    def ellipse(self) -> Ellipse | None:
        """Ellipse so far.

        Returns
        -------
        Ellipse or None
            The ellipse; None before the beam is learned.
        """
        return self.report.ellipse

    # --- the end ---------------------------------------------------------------------------------------------

    def finish(self, datacube, progress=False) -> CalibrationReport:
        """Calibrate the whole scan with `calibrate`, and end the learning process.

        The beam was located with parameters learned from part of the scan, which shifts single positions by some
        hundredths of a pixel, so all patterns are located again. The result is exactly that of `calibrate`.

        Parameters
        ----------
        datacube : DataCube
            The whole scan, or its first rows if it was aborted.
        progress : bool, optional
            Whether to show progress bars.

        Returns
        -------
        CalibrationReport
            The results, which are written into the calibration of the DataCube.

        Raises
        ------
        PrenetError
            If the DataCube has another shape, or as for `calibrate`.
        """
        shape = as_scan(datacube).shape
        if shape[1:] != self._shape[1:] or shape[0] > self._shape[0]:
            raise PrenetError(f"The scan that was watched has shape {self._shape}, not {shape}; give its own DataCube.")
        self.close()  # free its core
        return calibrate(datacube, self._mask, self._device, progress)

    def close(self):
        """End the learning process. Results are kept; later learning runs in this process."""
        self.worker.close()
        if self._learning is not None:
            wait([self._learning])
            self._learning = None if self._learning.exception() else self._learning


def start_worker(scan, device="auto") -> Worker:
    """Start the learning process for a scan.

    Parameters
    ----------
    scan : tuple of int
        (Rx, Ry).
    device : str, optional
        "auto", "cpu", "cuda" or "mps".

    Returns
    -------
    Worker
        The process; for a small scan, a `Worker` that calls functions in this process.
    """
    return Worker(check_networks if np.prod(scan) >= MIN_PROCESS_POSITIONS else None, device)


def _ranks(scan):
    """Return the rank of each position in the sample, (Rx * Ry,), smallest first.

    Positions from which `calibrate` learns the noise come first, then those that it pools, then the others, in an order
    that covers the scan evenly.
    """
    row, column = np.divmod(np.arange(scan[0] * scan[1]), scan[1])
    rank = (row * 0.7548776662466927 + column * 0.5698402909980532) % 1.0 + 2  # R2 sequence: even at any density
    for level, count in ((1, Calibrator.POOLED_POSITIONS), (0, Calibrator.NOISE_POSITIONS)):
        chosen = sample_positions(scan, count)
        rank[chosen] = rank[chosen] % 1.0 + level
    return rank
