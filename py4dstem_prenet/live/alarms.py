"""Alarms of a running scan: reasons to stop it, with the scan position at which each began.

They are computed from the state of the scan (`snapshot.Snapshot`): positions, sigmas and electrons of the patterns so
far, and the patterns that were kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core import NORMAL_MAD, Flag, PrenetError
from ..ellipse import combine, measure_ellipse

# Set on simulated scans:
MIN_LOSS_POSITIONS = 8  # positions; shortest run without a beam that is a loss, and fewest valid positions of a row
MIN_LOSS_ROWS = 0.5  # scan rows; shortest run without a beam that is a loss: thick parts of the specimen are shorter
MIN_ALARM_JUMP_PX = 1.0  # pixels; smallest jump between consecutive scan rows that raises an alarm
MIN_ALARM_JUMP_SIGMAS = 8.0  # standard errors; smallest jump between consecutive scan rows that raises an alarm
MIN_SATURATED_PIXELS = 8  # pixels; smallest number at the largest value of a saturated pattern
MIN_SATURATED_FRACTION = 0.5  # fraction; smallest part of the patterns of a scan row whose saturation raises an alarm
MIN_HALF_PATTERNS = 256  # patterns; smallest mean number of kept patterns per half of a scan for comparing ellipses
MIN_ELLIPSE_CHANGE = 0.003  # ellipse vector; smallest change that raises an alarm


@dataclass(frozen=True)
class Alarm:
    """A reason to stop a scan.

    Attributes
    ----------
    kind : str
        "beam lost", "dose too low", "drift", "saturation" or "ellipse changes".
    since : tuple of int
        Scan position (row, column) at which it began.
    flag : Flag
        The statement about the scan, with its numbers.
    over : bool
        Whether it has ended.
    """

    kind: str
    since: tuple[int, int]
    flag: Flag
    over: bool = False

    @property
    def text(self) -> str:
        """The statement about the scan, and what to do.

        Returns
        -------
        str
            One or two sentences.
        """
        return str(self.flag)

    def __str__(self):
        return f"{self.kind} since row {self.since[0]}, column {self.since[1]}: {self.text}"


def quick_alarms(snapshot, strain=None) -> tuple[Alarm, ...]:
    """Find the alarms that take milliseconds: beam lost, drift, saturation, dose.

    Parameters
    ----------
    snapshot : Snapshot
        The state of the scan.
    strain : float, optional
        Precision of strain required of a single position, such as 0.002; the dose is not checked by default.

    Returns
    -------
    tuple of Alarm
        The alarms; none before the noise model is learned.
    """
    if snapshot.noise is None or not snapshot.examined.any():
        return ()
    alarms = [beam_lost(snapshot), saturates(snapshot)]
    if not snapshot.hidden:  # a beam behind a stop has no position
        alarms.insert(1, drifts(snapshot))
        alarms.append(None if strain is None else too_few_electrons(snapshot, strain))
    return tuple(alarm for alarm in alarms if alarm is not None)


def beam_lost(snapshot) -> Alarm | None:
    """Find the last run of positions without a beam that is long enough to be a loss.

    Parameters
    ----------
    snapshot : Snapshot
        The state of the scan.

    Returns
    -------
    Alarm or None
        The alarm.
    """
    positions = np.flatnonzero(snapshot.examined)
    dark = ~snapshot.lit[positions]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], dark, [False]])))
    columns = snapshot.scan[1]
    runs = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True)
            if b - a >= max(MIN_LOSS_POSITIONS, MIN_LOSS_ROWS * columns)]
    if not runs:
        return None
    first, last = runs[-1]
    over = bool(last < len(dark))
    row, column = (int(n) for n in divmod(int(positions[first]), columns))
    end_position = divmod(int(positions[last]), columns) if over else None
    flag = Flag("alarm_beam_lost", {
        "count": int(last - first), "look": "are dark" if snapshot.hidden else "show no beam", "row": row,
        "column": column, "losses": len(runs),
        "state": f"the beam is back at row {end_position[0]}, column {end_position[1]}" if over else "it is not back"})
    return Alarm("beam lost", (row, column), flag, over)


def drifts(snapshot) -> Alarm | None:
    """Find the first row in which the beam left its first window, touches the detector's edge, or jumped.

    Parameters
    ----------
    snapshot : Snapshot
        The state of the scan.

    Returns
    -------
    Alarm or None
        The alarm.
    """
    rows, offset, step, error = snapshot.moves
    if len(rows) < 2:
        return None
    radius, shape = snapshot.beam.aperture.radius, snapshot.sample.pattern_shape
    position, valid = snapshot.map(snapshot.located.position), snapshot.valid
    row_position = np.array([np.median(position[:, r, valid[r]], 1) for r in rows])
    reach = snapshot.beam.reach
    outside = np.abs(offset).max(1) > reach
    cut = ((row_position < radius) | (row_position > np.array(shape) - 1 - radius)).any(1)
    typical_step = np.median(np.abs(step[1:]), 0) / NORMAL_MAD
    significant = (np.abs(step) > MIN_ALARM_JUMP_SIGMAS * np.hypot(error, typical_step)).any(1)
    jump = (np.hypot(*step.T) > MIN_ALARM_JUMP_PX) & significant
    affected = np.flatnonzero(outside | cut | jump)
    if not len(affected):
        return None
    k = affected[0]
    since = (int(rows[k]), 0)
    if cut[k]:
        flag = Flag("alarm_edge")
    elif jump[k]:
        flag = Flag("alarm_jump", {"dx": float(step[k, 0]), "dy": float(step[k, 1]), "before": int(rows[max(k - 1, 0)]),
                                   "row": since[0]})
    else:
        flag = Flag("alarm_drift", {"dx": float(offset[k, 0]), "dy": float(offset[k, 1]), "reach": float(reach)})
    return Alarm("drift", since, flag)


def saturates(snapshot) -> Alarm | None:
    """Find the first scan row in which most patterns are saturated.

    Parameters
    ----------
    snapshot : Snapshot
        The state of the scan.

    Returns
    -------
    Alarm or None
        The alarm.
    """
    examined = snapshot.examined.reshape(snapshot.scan)
    saturated = (snapshot.saturated.reshape(snapshot.scan) & examined).sum(1)
    limit = np.maximum(MIN_SATURATED_FRACTION * examined.sum(1), MIN_LOSS_POSITIONS)
    rows = np.flatnonzero((saturated >= limit) & examined.any(1))
    if not len(rows):
        return None
    first = np.flatnonzero(snapshot.saturated.reshape(snapshot.scan)[rows[0]])[0]
    return Alarm("saturation", (int(rows[0]), int(first)), Flag("alarm_saturation"))


def too_few_electrons(snapshot, strain) -> Alarm | None:
    """Test whether the dose is too low for the required precision of strain.

    A disk with a position error of sigma gives the strain along its direction to sigma / distance. The sigma of the
    direct beam is used, at a distance of a quarter of the pattern's side. This is a lower limit: most Bragg disks have
    fewer electrons, and deflection or contrast add to the error of counting.

    Parameters
    ----------
    snapshot : Snapshot
        The state of the scan.
    strain : float
        Precision of strain required of a single position.

    Returns
    -------
    Alarm or None
        The alarm.
    """
    valid = snapshot.valid.ravel()
    if valid.sum() < MIN_LOSS_POSITIONS:
        return None
    distance = min(snapshot.sample.pattern_shape) / 4
    sigma = float(np.median(snapshot.located.sigma[valid]))
    if not sigma > strain * distance:
        return None
    first = divmod(int(np.flatnonzero(valid)[0]), snapshot.scan[1])
    times = (sigma / (strain * distance)) ** 2
    flag = Flag("alarm_dose_low", {"sigma": sigma, "strain": 100 * sigma / distance, "distance": distance,
                                   "wanted": 100 * strain, "times": float(times), "dose": float(snapshot.noise.dose)})
    return Alarm("dose too low", first, flag)


def ellipse_changes(snapshot, fit, radius, device="auto") -> Alarm | None:
    """Test whether the first and the second half of the scan so far show different ellipses; takes seconds.

    Parameters
    ----------
    snapshot : Snapshot
        The state of the scan.
    fit : OriginFit
        Its fitted origin.
    radius : float or None
        Radius of the direct disk in pixels; None if it is hidden.
    device : str, optional
        "auto", "cpu", "cuda" or "mps".

    Returns
    -------
    Alarm or None
        The alarm; None if a half does not determine the ellipse.
    """
    usable = snapshot.sample.readable & snapshot.valid
    rows = np.flatnonzero(usable.any(1))
    if usable.sum() < 2 * MIN_HALF_PATTERNS or len(rows) < 2:
        return None
    middle = int(np.searchsorted(np.cumsum(usable.sum(1)), usable.sum() / 2)) + 1
    halves = []
    for part in (slice(0, middle), slice(middle, snapshot.scan[0])):
        try:
            halves.append(measure_ellipse(snapshot.sample, fit.qx0, fit.qy0, radius, snapshot.noise, usable,
                                          (part, slice(None)), device, progress=False))
        except PrenetError:  # a half has no patterns to pool
            return None
    if not all(half.accepted for half in halves):
        return None
    _, _, agree, chi2 = combine({str(k): (half.vector, half.covariance) for k, half in enumerate(halves)})
    change = float(np.hypot(*(halves[1].vector - halves[0].vector)))
    if agree or change < MIN_ELLIPSE_CHANGE:
        return None
    ratios, angles = zip(*((h.a / h.b, float(np.degrees(h.theta))) for h in halves), strict=True)
    flag = Flag("alarm_ellipse_changes", {"ratio_before": ratios[0], "angle_before": angles[0],
                                          "ratio_after": ratios[1], "angle_after": angles[1],
                                          "sigmas": float(np.sqrt(chi2))})
    return Alarm("ellipse changes", (middle, 0), flag)


def saturated_patterns(block, noise):
    """Find patterns in which more pixels have the largest value than values just below it.

    Parameters
    ----------
    block : numpy.ndarray, shape (n, Qx, Qy)
        Patterns in detector units.
    noise : NoiseModel
        Noise model of the detector.

    Returns
    -------
    numpy.ndarray of bool, shape (n,)
        True where a pattern is saturated.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.core import NoiseModel
    >>> from py4dstem_prenet.live.alarms import saturated_patterns
    >>> noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((16, 16), bool), counting=True, dose=1e4)
    >>> block = np.random.default_rng(0).poisson(50, (2, 16, 16))
    >>> block[1] = block[1].clip(max=45)
    >>> saturated_patterns(block, noise).tolist()
    [False, True]
    """
    if noise.bad_pixels.any():
        block = np.where(noise.bad_pixels, block.dtype.type(0), block)
    top = block.max((1, 2), keepdims=True)
    height = top.astype(np.float64) - noise.offset
    low = np.maximum(top - 1.001 * np.maximum(noise.gain, 0.1 * height), block.min())
    if block.dtype.kind in "iu":  # comparing integers is several times faster
        low = np.ceil(low).astype(block.dtype)
    at_top = (block == top).sum((1, 2))
    near_top = (block >= low).sum((1, 2))
    return (height[:, 0, 0] > 2 * noise.gain) & (at_top >= MIN_SATURATED_PIXELS) & (at_top > near_top - at_top)


def row_moves(snapshot):
    """Measure how the beam moved from row to row, from the columns that are valid in both rows.

    The descan along a row thus cancels, and a row may be incomplete.

    Parameters
    ----------
    snapshot : Snapshot
        The state of the scan.

    Returns
    -------
    rows : numpy.ndarray of int, shape (n,)
        Rows that share enough valid columns with the first one and with the one before.
    offset : numpy.ndarray, shape (n, 2)
        Distance of the beam from that of the first row in pixels.
    step : numpy.ndarray, shape (n, 2)
        Distance of the beam from that of the row before in pixels.
    error : numpy.ndarray, shape (n, 2)
        Standard error of `step` in pixels.
    """
    valid, needed = snapshot.valid, min(MIN_LOSS_POSITIONS, snapshot.scan[1])
    rows = np.flatnonzero(valid.sum(1) >= needed)
    if not len(rows):
        return rows, *np.zeros((3, 0, 2))
    position, sigma = (np.where(valid, snapshot.map(values), np.nan)[:, rows] for values in
                       (snapshot.located.position, snapshot.located.sigma))
    previous = np.maximum(np.arange(len(rows)) - 1, 0)
    offset, shared_first = _row_median(position - position[:, :1])
    step, shared = _row_median(position - position[:, previous])
    error = 1.25 * _row_median(np.hypot(sigma, sigma[:, previous]))[0] / np.sqrt(np.maximum(shared, 1))
    enough = (shared_first >= needed) & (shared >= needed)
    return rows[enough], *(values.T[enough] for values in (offset, step, error))


def _row_median(values):
    """Return the median over columns of (2, n, columns) without NaN, (2, n), and the number of values, (n,)."""
    count = np.isfinite(values[0]).sum(1)
    ordered = np.sort(values, 2)  # NaN last
    middle = np.stack([np.maximum(count - 1, 0) // 2, count // 2], 1)[None]
    return np.take_along_axis(ordered, np.broadcast_to(middle, (2, *middle.shape[1:])), 2).mean(2), count
