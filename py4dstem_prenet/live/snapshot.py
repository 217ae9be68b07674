"""State of a running scan at one moment, and the stages of the calibration for it."""

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
    """State of a running scan; plain data that can be pickled.

    Attributes
    ----------
    sample : SampledScan
        Kept patterns.
    located : Located
        Position and sigma of every pattern of the scan.
    processed : numpy.ndarray of bool, shape (Rx * Ry,)
        True where the beam was searched.
    saturated : numpy.ndarray of bool, shape (Rx * Ry,)
        True where many pixels of a pattern have its largest value.
    calibrator : Calibrator
        The calibrator; without noise before it has learned, and without a beam if the scan shows none.
    seen : int
        Number of positions that were fed.
    fed : numpy.ndarray of bool, shape (Rx * Ry,)
        True where a pattern was fed.
    total : numpy.ndarray, shape (Rx * Ry,)
        Sum of each pattern in detector units.
    """

    sample: SampledScan
    located: Located
    processed: np.ndarray
    saturated: np.ndarray
    calibrator: Calibrator
    seen: int
    fed: np.ndarray
    total: np.ndarray

    @property
    def scan(self):
        """Shape of the scan.

        Returns
        -------
        tuple of int
            (Rx, Ry).
        """
        return self.sample.scan_shape

    @property
    def noise(self):
        """Noise model of the detector.

        Returns
        -------
        NoiseModel or None
            None if it has not been learned.
        """
        return self.calibrator.noise

    @property
    def beam(self):
        """The beam.

        Returns
        -------
        Beam or None
            None if there is none, or it has not been learned.
        """
        return self.calibrator.beam

    @property
    def device(self):
        """Device as the user named it.

        Returns
        -------
        str
            "auto", "cpu", "cuda" or "mps".
        """
        return self.calibrator.device

    @property
    def valid(self):
        """Positions at which the beam was located.

        Returns
        -------
        numpy.ndarray of bool, shape (Rx, Ry)
            True where it was.
        """
        return shows_beam(self.located, self.processed).reshape(self.scan)

    @cached_property
    def hidden(self):
        """Whether no position shows a direct beam; a beam stop may hide it.

        Returns
        -------
        bool
            True if there is none.
        """
        return self.beam is None or not self.valid.any()

    @property
    def examined(self):
        """Positions for which `lit` is determined.

        Returns
        -------
        numpy.ndarray of bool, shape (Rx * Ry,)
            True where it is.
        """
        return self.fed if self.hidden else self.processed

    @property
    def lit(self):
        """Positions at which the beam is on.

        Returns
        -------
        numpy.ndarray of bool, shape (Rx * Ry,)
            True where the beam was located; if it is hidden, where a pattern is not dark compared with the others.
        """
        if not self.hidden:
            return self.valid.ravel()
        shape = self.sample.pattern_shape
        electrons = (self.total - self.noise.offset * shape[0] * shape[1]) / self.noise.gain
        typical_electrons = np.quantile(electrons[self.fed], BRIGHT_QUANTILE) if self.fed.any() else 0.0
        return self.fed & (electrons > BLANKED_FRACTION * typical_electrons)

    @cached_property
    def moves(self):
        """Motion of the beam from row to row.

        Returns
        -------
        tuple of numpy.ndarray
            The result of `alarms.row_moves`.
        """
        return row_moves(self)

    def box(self):
        """Find the smallest rectangle of the scan that contains all patterns so far.

        Returns
        -------
        tuple of slice
            Rows and columns.
        """
        received = self.processed.reshape(self.scan) | self.sample.readable
        lines = (np.flatnonzero(received.any(1 - k)) for k in (0, 1))
        return tuple(slice(int(line[0]), int(line[-1]) + 1) for line in lines)

    def map(self, values):
        """Arrange values of all positions as maps.

        Parameters
        ----------
        values : numpy.ndarray, shape (Rx * Ry, ...)
            The values.

        Returns
        -------
        numpy.ndarray, shape (..., Rx, Ry)
            The maps.
        """
        return np.moveaxis(values.reshape(*self.scan, *values.shape[1:]), (0, 1), (-2, -1))


def judge_snapshot(snapshot: Snapshot) -> CalibrationReport:
    """Finish the calibration of a running scan as it is now; nothing is written.

    Parameters
    ----------
    snapshot : Snapshot
        The state of the scan.

    Returns
    -------
    CalibrationReport
        The results so far; NaN outside the rectangle that contains all patterns.
    """
    scan, calibrator = snapshot.scan, snapshot.calibrator
    count = int(np.count_nonzero(snapshot.examined))
    written = (Flag("scan_running", {"count": count, "total": int(snapshot.processed.size)}),)
    if calibrator.noise is None:
        return CalibrationReport(no_origin(scan, calibrator.refusal), None, None, None, written)
    # The descan is fitted inside the rectangle: its surface must not depend on positions without patterns.
    box = snapshot.box()
    inside = np.zeros(scan, bool)
    inside[box] = True
    inside = inside.ravel()
    sample, processed = boxed(snapshot.sample, box), snapshot.processed[inside]
    located = snapshot.located.subset(inside)
    report = calibrator.finish(sample, located, sample, processed, progress=False)
    origin, fit = (_in_scan(result, box, scan) for result in (report.origin, report.fit))
    return CalibrationReport(origin, fit, report.ellipse, calibrator.detector, written)


def boxed(sample: SampledScan, box) -> SampledScan:
    """Cut a sample to a rectangle of the scan that contains all its positions.

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
    """Extend the maps of a result from a rectangle to the scan; NaN outside, sigmas infinite."""
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
    """Learn from the patterns of a running scan, as `calibrate` learns from a whole scan.

    Parameters
    ----------
    sample : SampledScan
        Kept patterns.
    mask : numpy.ndarray of bool, shape (Qx, Qy), or None
        True where a detector pixel is good.
    device : str
        "auto", "cpu", "cuda" or "mps".

    Returns
    -------
    Calibrator
        The calibrator. Outside the rectangle of the sample, the guess of the origin is that of the nearest position
        inside.
    """
    box = tuple(slice(int(axis_positions.min()), int(axis_positions.max()) + 1)
                for axis_positions in np.divmod(sample.positions, sample.scan_shape[1]))
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
