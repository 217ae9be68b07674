"""What should stop a scan: told as soon as it can be known, from where on, and in words.

All of it is computed from what is known anyway: positions, sigmas and electrons of the patterns so far
(`snapshot.Snapshot`), and the patterns that were kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core import NORMAL_MAD, Flag, PrenetError
from ..ellipse import combine, measure_ellipse
from ..networks import WINDOW

SHORTEST_LOSS = 8  # positions in a row without a beam, and
LOSS_PART = 0.5  # of a scan row: shorter ones may be thick parts of the specimen
JUMP, JUMP_SIGMAS = 1.0, 8.0  # px and standard errors from one scan row to the next
CROWD = 8  # pixels at the largest value that are more than chance, if fewer are just below it
SATURATED_PART = 0.5  # of a scan row's patterns
ENOUGH = 256  # kept patterns that an ellipse of one half of a scan needs
ELLIPSE_CHANGE = 0.003  # of the ellipse vector that is worth a word
KINDS = ("beam lost", "dose too low", "drift", "saturation", "ellipse changes")


@dataclass(frozen=True)
class Alarm:
    """Something that should stop a scan.

    Attributes
    ----------
    kind : str
        One of KINDS.
    since : tuple of int
        (row, column) of the scan from which on.
    flag : Flag
        What happened, with its numbers.
    over : bool
        Whether it has ended since.
    """

    kind: str
    since: tuple[int, int]
    flag: Flag
    over: bool = False

    @property
    def text(self) -> str:
        """What happened, and what to do."""
        return str(self.flag)

    def __str__(self):
        return f"{self.kind} since row {self.since[0]}, column {self.since[1]}: {self.text}"


def quick_alarms(snapshot, strain=None) -> tuple[Alarm, ...]:
    """Alarms that take milliseconds: beam lost, drift, saturation, dose. Empty before the first beam.

    snapshot: `snapshot.Snapshot`. strain: the precision of strain that a single position shall give, such as 0.002;
    None: any dose will do.
    """
    if snapshot.noise is None or not snapshot.looked.any():
        return ()
    if snapshot.hidden:  # hidden by a stop, it may be: what needs no position
        return tuple(alarm for alarm in (beam_lost(snapshot), saturates(snapshot)) if alarm is not None)
    found = [beam_lost(snapshot), drifts(snapshot), saturates(snapshot), None if strain is None else
             too_few_electrons(snapshot, strain)]
    return tuple(alarm for alarm in found if alarm is not None)


def beam_lost(snapshot) -> Alarm | None:
    """The last run of positions, in the order of the scan, that show no beam, where it is long enough."""
    at = np.flatnonzero(snapshot.looked)
    bad = ~snapshot.lit[at]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], bad, [False]])))
    columns = snapshot.scan[1]
    runs = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True)
            if b - a >= max(SHORTEST_LOSS, LOSS_PART * columns)]
    if not runs:
        return None
    first, last = runs[-1]
    over = bool(last < len(bad))
    row, column = (int(n) for n in divmod(int(at[first]), columns))
    back = divmod(int(at[last]), columns) if over else None
    flag = Flag("alarm_beam_lost", {
        "count": int(last - first), "look": "are dark" if snapshot.hidden else "show no beam", "row": row,
        "column": column, "losses": len(runs),
        "state": f"the beam is back at row {back[0]}, column {back[1]}" if over else "it is not back"})
    return Alarm("beam lost", (row, column), flag, over)


def drifts(snapshot) -> Alarm | None:
    """Where the beam left the window that it was in at first, touches the detector's edge, or jumped."""
    rows, away, step, error = snapshot.moves
    if len(rows) < 2:
        return None
    radius, shape = snapshot.beam.aperture.radius, snapshot.sample.pattern_shape
    position, valid = snapshot.map(snapshot.located.position), snapshot.valid
    middle = np.array([np.median(position[:, r, valid[r]], 1) for r in rows])
    reach = WINDOW / 2 * snapshot.beam.bins
    far = np.abs(away).max(1) > reach
    cut = ((middle < radius) | (middle > np.array(shape) - 1 - radius)).any(1)
    usual = np.median(np.abs(step[1:]), 0) / NORMAL_MAD
    jump = (np.hypot(*step.T) > JUMP) & (np.abs(step) > JUMP_SIGMAS * np.hypot(error, usual)).any(1)
    bad = np.flatnonzero(far | cut | jump)
    if not len(bad):
        return None
    k = bad[0]
    since = (int(rows[k]), 0)
    if cut[k]:
        flag = Flag("alarm_edge")
    elif jump[k]:
        flag = Flag("alarm_jump", {"dx": float(step[k, 0]), "dy": float(step[k, 1]), "before": int(rows[max(k - 1, 0)]),
                                   "row": since[0]})
    else:
        flag = Flag("alarm_drift", {"dx": float(away[k, 0]), "dy": float(away[k, 1]), "reach": float(reach)})
    return Alarm("drift", since, flag)


def saturates(snapshot) -> Alarm | None:
    """The first scan row from which on most patterns crowd at the detector's largest value."""
    known = snapshot.looked.reshape(snapshot.scan)
    saturated = (snapshot.saturated.reshape(snapshot.scan) & known).sum(1)
    bad = np.flatnonzero((saturated >= np.maximum(SATURATED_PART * known.sum(1), SHORTEST_LOSS)) & known.any(1))
    if not len(bad):
        return None
    first = np.flatnonzero(snapshot.saturated.reshape(snapshot.scan)[bad[0]])[0]
    return Alarm("saturation", (int(bad[0]), int(first)), Flag("alarm_saturation"))


def too_few_electrons(snapshot, strain) -> Alarm | None:
    """Where already the direct beam is known too badly in single patterns.

    A disk that is known to sigma px gives the strain along its direction to sigma / distance; here at a quarter of the
    pattern's side, and of the direct beam, which in most patterns holds more electrons than a Bragg disk does. That is
    counting alone: what bends the beam or shades the disk comes on top.
    """
    valid = snapshot.valid.ravel()
    if valid.sum() < SHORTEST_LOSS:
        return None
    far = min(snapshot.sample.pattern_shape) / 4
    sigma = float(np.median(snapshot.located.sigma[valid]))
    if not sigma > strain * far:
        return None
    first = divmod(int(np.flatnonzero(valid)[0]), snapshot.scan[1])
    times = (sigma / (strain * far)) ** 2
    flag = Flag("alarm_dose_low", {"sigma": sigma, "strain": 100 * sigma / far, "distance": far, "wanted": 100 * strain,
                                   "times": float(times), "dose": float(snapshot.noise.dose)})
    return Alarm("dose too low", first, flag)


def ellipse_changes(snapshot, fit, radius, device="auto") -> Alarm | None:
    """Whether the first and the second half of the rows so far show different ellipses; takes seconds.

    fit: `OriginFit` of the snapshot. radius: of the direct disk, pixels, or None.
    """
    held = snapshot.sample.readable & snapshot.valid
    rows = np.flatnonzero(held.any(1))
    if held.sum() < 2 * ENOUGH or len(rows) < 2:
        return None
    middle = int(np.searchsorted(np.cumsum(held.sum(1)), held.sum() / 2)) + 1
    halves = []
    for part in (slice(0, middle), slice(middle, snapshot.scan[0])):
        try:
            halves.append(measure_ellipse(snapshot.sample, fit.qx0, fit.qy0, radius, snapshot.noise, held,
                                          (part, slice(None)), device, progress=False))
        except PrenetError:  # nothing to pool in one of them
            return None
    if not all(half.accepted for half in halves):
        return None
    _, _, agree, chi2 = combine({str(k): (half.vector, half.covariance) for k, half in enumerate(halves)})
    change = float(np.hypot(*(halves[1].vector - halves[0].vector)))
    if agree or change < ELLIPSE_CHANGE:
        return None
    ratios, angles = zip(*((h.a / h.b, float(np.degrees(h.theta))) for h in halves), strict=True)
    flag = Flag("alarm_ellipse_changes", {"ratio_before": ratios[0], "angle_before": angles[0], "ratio_after": ratios[1],
                                          "angle_after": angles[1], "sigmas": float(np.sqrt(chi2))})
    return Alarm("ellipse changes", (middle, 0), flag)


def crowded(block, noise):
    """(n,) bool: patterns (n, Qx, Qy) in which more pixels hold the largest value than values just below it."""
    if noise.bad_pixels.any():
        block = np.where(noise.bad_pixels, block.dtype.type(0), block)
    top = block.max((1, 2), keepdims=True)
    height = top.astype(np.float64) - noise.offset
    low = np.maximum(top - 1.001 * np.maximum(noise.gain, 0.1 * height), block.min())
    if block.dtype.kind in "iu":  # compared in their own type, which is several times faster
        low = np.ceil(low).astype(block.dtype)
    at = (block == top).sum((1, 2))
    near = (block >= low).sum((1, 2))
    return (height[:, 0, 0] > 2 * noise.gain) & (at >= CROWD) & (at > near - at)


def row_moves(snapshot):
    """How the beam moved from row to row, by the columns that show it in both: descan along the columns is none, and a
    row may be known in part.

    Returns: rows (n,) that share enough columns with the first of them and the one before; the beam there less that in
    the first row, and less that in the row before, (n, 2) px each; the standard error of the latter.
    """
    valid, least = snapshot.valid, min(SHORTEST_LOSS, snapshot.scan[1])
    rows = np.flatnonzero(valid.sum(1) >= least)
    if not len(rows):
        return rows, *np.zeros((3, 0, 2))
    position, sigma = (np.where(valid, snapshot.map(values), np.nan)[:, rows] for values in
                       (snapshot.located.position, snapshot.located.sigma))
    before = np.maximum(np.arange(len(rows)) - 1, 0)
    away, shared_first = _row_median(position - position[:, :1])
    step, shared = _row_median(position - position[:, before])
    error = 1.25 * _row_median(np.hypot(sigma, sigma[:, before]))[0] / np.sqrt(np.maximum(shared, 1))
    enough = (shared_first >= least) & (shared >= least)
    return rows[enough], *(values.T[enough] for values in (away, step, error))


def _row_median(values):
    """Median over columns of (2, n, columns) without what is NaN, (2, n), and how many there were, (n,)."""
    count = np.isfinite(values[0]).sum(1)
    ordered = np.sort(values, 2)  # NaN last
    middle = np.stack([np.maximum(count - 1, 0) // 2, count // 2], 1)[None]
    return np.take_along_axis(ordered, np.broadcast_to(middle, (2, *middle.shape[1:])), 2).mean(2), count
