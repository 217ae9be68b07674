"""The state of a running scan at a moment, and the stages of calibration on it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np

from ..core import CalibrationReport, Flag, PrenetError, SampledScan
from ..origin import BLANKED_FRACTION, BRIGHT_QUANTILE, Located, no_origin, shows_beam
from ..pipeline import Calibrator
from .alarms import row_moves


@dataclass(frozen=True)
class Snapshot:
    """The state of a running scan; plain data that any thread or process may judge.

    Attributes
    ----------
    sample : SampledScan
        Patterns that were kept.
    located : Located
        Position and sigma of every pattern of the scan.
    known : numpy.ndarray
        (Rx * Ry,) bool, positions whose patterns were looked at.
    saturated : numpy.ndarray
        (Rx * Ry,) bool, positions whose patterns hold many pixels at their largest value.
    calibrator : Calibrator
        What was learned; without noise before anything was, and without a beam if none can be located.
    seen : int
        Patterns that were fed.
    fed : numpy.ndarray
        (Rx * Ry,) bool, positions that were fed.
    total : numpy.ndarray
        (Rx * Ry,), sum of each pattern, detector units.
    """

    sample: SampledScan
    located: Located
    known: np.ndarray
    saturated: np.ndarray
    calibrator: Calibrator
    seen: int
    fed: np.ndarray
    total: np.ndarray

    @property
    def scan(self):
        """(Rx, Ry)."""
        return self.sample.scan_shape

    @property
    def noise(self):
        """The detector's noise, or None."""
        return self.calibrator.noise

    @property
    def beam(self):
        """The beam, or None."""
        return self.calibrator.beam

    @property
    def device(self):
        """The device as the user gave it."""
        return self.calibrator.device

    @property
    def valid(self):
        """(Rx, Ry) bool: where a beam was located."""
        return shows_beam(self.located, self.known).reshape(self.scan)

    @cached_property
    def hidden(self):
        """Whether no position shows a direct beam: where patterns are not dark, a stop may hide it."""
        return self.beam is None or not self.valid.any()

    @property
    def looked(self):
        """(Rx * Ry,) bool: positions of which it is known whether they are lit."""
        return self.fed if self.hidden else self.known

    @property
    def lit(self):
        """(Rx * Ry,) bool: where a beam was located; where none can be, where a pattern is not dark beside others."""
        if not self.hidden:
            return self.valid.ravel()
        shape = self.sample.pattern_shape
        electrons = (self.total - self.noise.offset * shape[0] * shape[1]) / self.noise.gain
        usual = np.quantile(electrons[self.fed], BRIGHT_QUANTILE) if self.fed.any() else 0.0
        return self.fed & (electrons > BLANKED_FRACTION * usual)

    @cached_property
    def moves(self):
        """How the beam moved from row to row, as `alarms.row_moves` says."""
        return row_moves(self)

    def box(self):
        """The rectangle of the scan, a pair of slices, outside of which nothing was seen."""
        seen = self.known.reshape(self.scan) | self.sample.readable
        return tuple(slice(int(at[0]), int(at[-1]) + 1) for at in (np.flatnonzero(seen.any(1 - k)) for k in (0, 1)))

    def map(self, values):
        """(..., Rx, Ry) of an array (Rx * Ry, ...)."""
        return np.moveaxis(values.reshape(*self.scan, *values.shape[1:]), (0, 1), (-2, -1))


def judge_snapshot(snapshot: Snapshot) -> CalibrationReport:
    """Judge a running scan; nothing is written, and any thread or process may do it.

    Parameters
    ----------
    snapshot : Snapshot
        The state of the scan.

    Returns
    -------
    CalibrationReport
        The results so far; NaN outside the rectangle of the scan that was seen.
    """
    scan, calibrator = snapshot.scan, snapshot.calibrator
    looked = int(np.count_nonzero(snapshot.looked))
    written = (Flag("scan_running", {"count": looked, "total": int(snapshot.known.size)}),)
    if calibrator.noise is None:
        return CalibrationReport(no_origin(scan, calibrator.refusal), None, None, None, written)
    # A surface through half of a scan is a surface of that half: positions that were not seen must not bend it.
    box = snapshot.box()
    inside = np.zeros(scan, bool)
    inside[box] = True
    inside = inside.ravel()
    sample, known = boxed(snapshot.sample, box), snapshot.known[inside]
    located = snapshot.located.subset(inside)
    report = calibrator.finish(sample, located, sample, known, progress=False)
    origin, fit = (_in_scan(result, box, scan) for result in (report.origin, report.fit))
    return CalibrationReport(origin, fit, report.ellipse, calibrator.noise, written)


def boxed(sample: SampledScan, box) -> SampledScan:
    """Cut a sample to a rectangle of the scan that holds all of it.

    Parameters
    ----------
    sample : SampledScan
        Patterns of a scan.
    box : tuple of slice
        Rows and columns of the rectangle.

    Returns
    -------
    SampledScan
        The same patterns, as a sample of the rectangle.
    """
    rows, columns = np.divmod(sample.positions, sample.scan_shape[1])
    shape = tuple(side.stop - side.start for side in box)
    return SampledScan(shape, (rows - box[0].start) * shape[1] + columns - box[1].start, sample.patterns)


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


def learn_so_far(sample: SampledScan, mask, device: str) -> Calibrator:
    """Learn from the rectangle of the scan that was seen, as `calibrate` learns from a whole scan.

    Parameters
    ----------
    sample : SampledScan
        Patterns that were kept.
    mask : numpy.ndarray of bool or None
        (Qx, Qy), True where a detector pixel is good.
    device : str
        "auto", "cpu", "cuda" or "mps".

    Returns
    -------
    Calibrator
        What was learned. Outside the rectangle the guess of an origin is that of the nearest position inside.
    """
    box = tuple(slice(int(at.min()), int(at.max()) + 1)
                for at in np.divmod(sample.positions, sample.scan_shape[1]))
    part = boxed(sample, box)
    try:
        learned = Calibrator.learn(part, mask, device)
    except PrenetError as problem:  # the beam is still blanked, for example
        return Calibrator(None, None, None, Flag("input_refused", {"message": str(problem)}), device)
    if learned.beam is None:
        return learned
    rows, columns = (np.clip(np.arange(n) - side.start, 0, side.stop - side.start - 1)
                     for n, side in zip(sample.scan_shape, box, strict=True))
    guess = learned.guess.reshape(*part.scan_shape, 2)[rows[:, None], columns].reshape(-1, 2)
    return replace(learned, guess=guess)
