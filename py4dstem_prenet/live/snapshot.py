"""What is known of a running scan at a moment, and what that says: the stages of `calibrate` on a part of a scan."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np

from ..core import OriginMap, PrenetError, Sample
from ..detector import NoiseModel
from ..origin import BRIGHT, LIT, Beam, Located, fit_origin, from_rings, origin_of, shows_beam
from ..pipeline import CalibrationReport, judge_scan
from .alarms import row_moves

LOCATED = ("position", "sigma", "signal", "seen")


@dataclass(frozen=True)
class Snapshot:
    """All that is known at a moment; plain data, to be judged anywhere, as `judge_snapshot` does.

    sample: patterns that were kept. located: of every position. known, saturated: (Rx * Ry,) bool, positions that were
    looked at, and those whose patterns crowd at their largest value.
    noise and beam are None before they are learned; there is no beam, ever, where a stop hides it; reason: why there
    is none. seen: patterns that were fed. fed: (Rx * Ry,) bool, which. total: (Rx * Ry,) their sums, detector units.
    """

    sample: Sample
    located: Located
    known: np.ndarray
    saturated: np.ndarray
    noise: NoiseModel | None
    beam: Beam | None
    reason: str
    seen: int
    fed: np.ndarray
    total: np.ndarray

    @property
    def scan(self):
        return self.sample.scan

    @property
    def device(self):
        return "auto" if self.beam is None else self.beam.device

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
        shape = self.sample.shape[2:]
        electrons = (self.total - self.noise.offset * shape[0] * shape[1]) / self.noise.gain
        usual = np.quantile(electrons[self.fed], BRIGHT) if self.fed.any() else 0.0
        return self.fed & (electrons > LIT * usual)

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


def judge_snapshot(snapshot: Snapshot) -> CalibrationReport:
    """What a snapshot says, as a `CalibrationReport`; writes nothing. Changes nothing: it may run on another thread."""
    scan = snapshot.scan
    if snapshot.noise is None:
        reason = snapshot.reason
        nothing = [np.full(scan, np.nan) for _ in range(4)]
        origin = OriginMap(*nothing, np.zeros(scan, bool), float("nan"), False, reason)
        noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((1, 1), bool), False, 0.0)
        return CalibrationReport(origin, None, None, noise, (f"So far no beam: {reason}",))
    # A surface through half of a scan is a surface of that half: it is not bent by what nobody has seen.
    box = snapshot.box()
    inside = np.zeros(scan, bool)
    inside[box] = True
    inside = inside.ravel()
    sample, known = boxed(snapshot.sample, box), snapshot.known[inside]
    located = Located(*(getattr(snapshot.located, name)[inside] for name in LOCATED))
    if snapshot.hidden:  # behind a stop, it may be: the rings' center then
        reason = snapshot.reason if snapshot.beam is None else "No position shows a beam that can be located."
        origin = from_rings(sample, snapshot.noise, reason)
    else:
        origin = origin_of(sample, snapshot.noise, located, snapshot.beam, known)
    if not origin.found:
        return CalibrationReport(_in_scan(origin, box, scan), None, None, snapshot.noise,
                                 (f"So far no beam: {origin.reason}",))
    try:
        fit, ellipse = judge_scan(sample, sample, origin, snapshot.noise, snapshot.device, progress=False)
    except PrenetError:  # no pattern that was kept shows a beam
        fit, ellipse = fit_origin(origin), None
    origin, fit = (_in_scan(found, box, scan) for found in (origin, fit))
    looked = int(np.count_nonzero(snapshot.looked))
    return CalibrationReport(origin, fit, ellipse, snapshot.noise, (
        f"So far: {looked} of {snapshot.known.size} positions; nothing is written before the end.",))


def boxed(sample: Sample, box) -> Sample:
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
