"""Watch a scan that is being written, and show its state in a terminal and, if requested, on a web page.

The loop reads frames and locates the beam in them. The descan and the ellipse, which take seconds, are computed from
snapshots in the worker process, at most every few seconds, and do not delay the frames.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from ..core import CalibrationReport, PrenetError
from ..io import check_output, save
from . import (
    UNLEARNED,
    Alarm,
    Ended,
    Frames,
    OnlineCalibrator,
    Restarted,
    Snapshot,
    Terminal,
    Waiting,
    ellipse_changes,
    follow,
    judge_snapshot,
    open_source,
    quick_alarms,
    served,
    start_worker,
    wait_for_file,
)

STATUS_EVERY_S = 0.2  # seconds; time between updates of status and alarms
JUDGE_EVERY_S = 5.0  # seconds; shortest time between two evaluations of descan and ellipse
MAX_JUDGE_FRACTION = 0.5  # fraction; largest part of the time that these evaluations take


@dataclass(frozen=True)
class Status:
    """State of a scan for display.

    Attributes
    ----------
    scan : tuple of int
        (Rx, Ry).
    written, located : int
        Patterns in the file, and patterns in which the beam was searched.
    lag : int
        Patterns in the file in which the beam was not searched yet.
    rate : float
        New patterns per second.
    drift : tuple of float or None
        Beam position in scan row `row` minus that in the first row, (qx, qy), pixels.
    row : int
        The last row whose drift is known.
    sigma : float or None
        Standard deviation of one position, pixels.
    dose : float or None
        Electrons per pattern.
    ellipse, descan : str
        The last evaluation, from `judged` positions.
    judged : int
        Number of these positions.
    alarms : tuple of Alarm
        All alarms.
    reason : str
        Reason why no beam was found so far.
    state : {"running", "waiting", "ended", "calibrating", "done"}
        The stage.
    sentence : str
        Describes the state.
    complete : bool
        Whether the scan was complete when it ended.
    note : str
        Statement on an earlier scan in the same file.
    """

    scan: tuple[int, int]
    written: int = 0
    located: int = 0
    lag: int = 0
    rate: float = 0.0
    drift: tuple[float, float] | None = None
    row: int = 0
    sigma: float | None = None
    dose: float | None = None
    ellipse: str = "not yet"
    descan: str = "not yet"
    judged: int = 0
    alarms: tuple[Alarm, ...] = ()
    reason: str = ""
    state: str = "running"
    sentence: str = ""
    complete: bool = False
    note: str = ""

    @property
    def total(self) -> int:
        """Positions of the scan.

        Returns
        -------
        int
            Rx * Ry.
        """
        return self.scan[0] * self.scan[1]

    def line(self) -> str:
        """Return the numbers as one line of text, the most urgent first.

        Returns
        -------
        str
            The line.
        """
        parts = [self.sentence] if self.state == "waiting" else [f"{self.rate:.0f}/s", f"lag {self.lag}"]
        if self.written and not self.located:
            parts.append("no direct beam" if self.reason else "looking for the beam")
        if self.drift is not None:
            parts.append(f"drift ({self.drift[0]:+.2f}, {self.drift[1]:+.2f}) px")
        if self.sigma is not None:
            parts += [f"{self.dose:,.0f} e", f"sigma {self.sigma:.2g} px"]
        if self.judged:
            parts.append(self.ellipse)
        return ", ".join(parts)


@dataclass
class Watcher:
    """The state of a scan that is watched, updated by the events of a source.

    Attributes
    ----------
    calibrator : OnlineCalibrator
        Calibrates the scan.
    strain : float or None
        Precision of strain needed at each position, for the alarm on the dose; None for no such alarm.
    note : str
        Statement on an earlier scan in the same file.
    status : Status
        The present state.
    snapshot : Snapshot or None
        The snapshot of the calibrator from which the status was made.
    report : CalibrationReport or None
        The last evaluation of descan and ellipse.
    """

    calibrator: OnlineCalibrator
    strain: float | None = None
    note: str = ""
    status: Status = field(init=False)
    snapshot: Snapshot | None = None
    report: CalibrationReport | None = None

    def __post_init__(self):
        self.status = Status(self.calibrator.scan, note=self.note)
        self._arrived: list[tuple[float, int]] = [(time.monotonic(), 0)]
        self._judging: Future | None = None
        self._slow: tuple[Alarm, ...] = ()
        self._thread = ThreadPoolExecutor(1, "prenet-judge")
        self._rest_until, self._looked = time.monotonic(), 0.0

    def take(self, event) -> bool:
        """Process an event of a source.

        Parameters
        ----------
        event : Frames, Waiting, Restarted or Ended
            The event.

        Returns
        -------
        bool
            Whether the status was updated.
        """
        if isinstance(event, Frames):
            self.calibrator.feed(event.patterns, event.positions)
            self.status = replace(self.status, written=event.written, state="running", sentence="")
        elif isinstance(event, Waiting):
            self.calibrator.poll()
            if event.seconds > 1:
                cause = "the file is missing" if event.gone else "no new pattern"
                self.status = replace(self.status, state="waiting", sentence=(
                    f"{cause} for {event.seconds:.0f} s (after {event.timeout:.0f} s the scan counts as ended)"))
        elif isinstance(event, Ended):
            if self.calibrator.located < self.calibrator.seen:  # finish learning, so that the last row is located
                self.calibrator.wait()
            self.status = replace(self.status, state="ended", sentence=event.reason, complete=event.complete)
        now = time.monotonic()
        if now - self._looked < STATUS_EVERY_S and not isinstance(event, Ended):
            return False
        self._looked = now
        self._look(now)
        return True

    def _look(self, now):
        """Update status, alarms and rate."""
        self.snapshot = snapshot = self.calibrator.snapshot()
        located, status = self.calibrator.located, self.status
        # Behind a beam stop no position is located, so none is waiting.
        lag = status.written - (self.calibrator.seen if snapshot.hidden and snapshot.noise is not None else located)
        self._arrived = [entry for entry in self._arrived if now - entry[0] < 3.0] or self._arrived[-1:]
        then, n_then = self._arrived[0]
        self._arrived.append((now, self.calibrator.seen))
        rate = (self.calibrator.seen - n_then) / max(now - then, 1e-3)
        alarms = *quick_alarms(snapshot, self.strain), *self._slow
        refusal = snapshot.calibrator.refusal
        reason = "" if located or refusal is None or refusal.name == UNLEARNED else str(refusal)
        self.status = replace(status, located=located, lag=lag, rate=rate, alarms=alarms, reason=reason,
                              **_beam(snapshot))
        self._judge(snapshot, now)

    def _judge(self, snapshot, now):
        """Take the result of an evaluation of descan and ellipse, or start one."""
        if self._judging is not None and self._judging.done():
            (report, slow, took, problem, n_positions), self._judging = self._judging.result(), None
            self._rest_until = now + max(JUDGE_EVERY_S, took / MAX_JUDGE_FRACTION)
            if problem:
                self.status = replace(self.status, ellipse=problem)
            else:
                self.report, self._slow = report, slow
                self.status = replace(self.status, judged=n_positions, **_evaluation(report))
        # The worker does one thing at a time, and learning goes first.
        idle = self._judging is None and not self.calibrator.learning
        if idle and now >= self._rest_until and snapshot.noise is not None:
            self._judging = self._thread.submit(self.calibrator.worker.call, evaluate_snapshot, snapshot)

    def close(self):
        """Stop evaluating descan and ellipse; the calibrator is not closed."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def watch(reopen, scan, pattern_shape, mask=None, device="auto", output=None, strain=None, timeout=30.0, show=None,
          progress=True, worker=None) -> CalibrationReport | None:
    """Watch a growing file until its scan has ended, then calibrate it as `calibrate` does.

    Parameters
    ----------
    reopen : callable
        Opens the source, such as `sources.open_source`.
    scan : tuple of int
        (Rx, Ry).
    pattern_shape : tuple of int
        (Qx, Qy).
    mask : ndarray of bool, shape (Qx, Qy), optional
        True where a detector pixel is good.
    device : {"auto", "cpu", "cuda", "mps"}, optional
        Device on which the networks run.
    output : str or pathlib.Path, optional
        A new EMD file for the calibration.
    strain : float, optional
        Precision of strain needed at each position, for the alarm on the dose.
    timeout : float, optional
        Time without a new frame after which the scan counts as ended, seconds.
    show : callable, optional
        Called with the `Watcher` whenever its status has changed.
    progress : bool, optional
        Whether to show the state in the terminal.
    worker : Worker, optional
        The process that learns; closed at the end.

    Returns
    -------
    CalibrationReport or None
        The calibration of the complete rows in the file; None if there is none.

    Raises
    ------
    PrenetError
        If `output` exists, or the scan cannot be calibrated.
    """
    if output is not None:
        check_output(output)
    worker = worker or start_worker(scan, device)  # one for all scans of this file: its start takes seconds

    def _new_watcher(note=""):
        return Watcher(OnlineCalibrator(scan, pattern_shape, mask, device, worker), strain, note)

    def _show_status():
        terminal.show(watcher.status)
        if show is not None:
            show(watcher)

    def _set_state(state, sentence, **changes):
        watcher.status = replace(watcher.status, state=state, sentence=sentence, **changes)
        _show_status()

    watcher, frames = _new_watcher(), 0
    try:
        with _one_thread(), Terminal(scan[0] * scan[1], progress) as terminal:
            for event in follow(reopen, scan, timeout):
                if isinstance(event, Restarted):
                    watcher.close()
                    watcher = _new_watcher(f"At {time.strftime('%H:%M:%S')} the file was replaced: this is another "
                                           "scan, watched from its first pattern.")
                elif isinstance(event, Ended):
                    frames = event.frames
                if watcher.take(event):
                    _show_status()
            ended, rows = watcher.status.sentence, frames // scan[1]
            if not rows:
                _set_state("done", f"{ended} The file does not contain a complete row: nothing was calibrated.")
                return None
            part = "" if rows == scan[0] else f" its {rows} complete row{'s' * (rows > 1)} of {scan[0]},"
            _set_state("calibrating", f"{ended} Calibrating{part} from the file.")
        watcher.close()
        try:
            report = calibrate_rows(watcher.calibrator, reopen, rows, scan[1], output, terminal.live)
        except PrenetError as problem:
            _set_state("done", f"{ended} Nothing was calibrated: {problem}")
            raise
        watcher.report = report
        saved = "" if output is None else f", and saved {Path(output).name}"
        result = f"Calibrated{part.rstrip(',')}{saved}." if report.origin.found else (
            f"Nothing was calibrated: {report.origin.reason}")
        _set_state("done", f"{ended} {result}", judged=rows * scan[1], **_evaluation(report))
        return report
    finally:
        watcher.close()
        watcher.calibrator.close()


def watch_file(path, scan, layout, port=None, timeout=30.0, device="auto", **options) -> CalibrationReport | None:
    """Watch a file, which need not exist yet.

    Parameters
    ----------
    path : str or pathlib.Path
        The file; it must appear within the timeout.
    scan : tuple of int
        (Rx, Ry).
    layout : dict
        Further arguments of `sources.open_source`.
    port : int, optional
        Port for a web page on this machine, 0 for any free one; by default no page.
    timeout : float, optional
        Time without a new frame after which the scan counts as ended, seconds.
    device : {"auto", "cpu", "cuda", "mps"}, optional
        Device on which the networks run.
    **options
        Further arguments of `watch`.

    Returns
    -------
    CalibrationReport or None
        As for `watch`.

    Raises
    ------
    PrenetError
        If the file does not appear or cannot be read, the port cannot be used, or as for `watch`.
    """
    worker = start_worker(scan, device)  # loads while waiting for the scan
    reopen = partial(open_source, path, scan, **layout)
    with nullcontext((None, None)) if port is None else served(port, Path(path).name) as (address, show):
        if address:
            print(f"The page is at {address}", flush=True)
        if not Path(path).exists():
            print(f"Waiting for {path}, {timeout:.0f} s at most.", flush=True)
        first = wait_for_file(reopen, path, timeout)
        shape = first.shape
        first.close()
        return watch(reopen, scan, shape, device=device, timeout=timeout, show=show, worker=worker, **options)


def calibrate_rows(calibrator, reopen, rows, columns, output=None, progress=True) -> CalibrationReport:
    """Calibrate the complete rows of a scan in a file.

    Parameters
    ----------
    calibrator : OnlineCalibrator
        The calibrator that saw the frames.
    reopen : callable
        Opens the source.
    rows, columns : int
        Shape of this part of the scan.
    output : str or pathlib.Path, optional
        A new EMD file for the calibration.
    progress : bool, optional
        Whether to show progress bars.

    Returns
    -------
    CalibrationReport
        The calibration.
    """
    from py4DSTEM import DataCube

    source = reopen()
    try:
        datacube = DataCube(source.data(rows, columns))
        report = calibrator.finish(datacube, progress)
        if output is not None and report.origin.found:
            save(datacube, output, data=False)
    finally:
        source.close()
    return report


@contextmanager
def _one_thread():
    """Use one thread per operation: more are no faster on small windows, and slow down the worker process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threadpoolctl does not reach threads that torch starts later
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(threads)


def evaluate_snapshot(snapshot):
    """Evaluate descan and ellipse of a snapshot, without raising an exception, which would end the watch.

    Parameters
    ----------
    snapshot : Snapshot
        The positions so far.

    Returns
    -------
    report : CalibrationReport or None
        The evaluation; None if it failed.
    alarms : tuple of Alarm
        The alarms that take seconds to find.
    seconds : float
        Time that the evaluation took.
    problem : str
        Reason why it failed; empty if it did not.
    positions : int
        Number of scan positions that it is based on.
    """
    start, report, slow, problem = time.monotonic(), None, None, ""
    try:
        report = judge_snapshot(snapshot)
        if report.fit is not None:
            slow = ellipse_changes(snapshot, report.fit, report.origin.radius, snapshot.device)
    except Exception as error:
        problem = f"descan and ellipse cannot be evaluated now ({error})"
    positions = int(np.count_nonzero(snapshot.examined))
    return report, (slow,) if slow else (), time.monotonic() - start, problem, positions


def _beam(snapshot):
    """Return drift, its row, sigma and dose for the status."""
    valid = snapshot.valid
    if snapshot.beam is None or not valid.any():
        return {}
    rows, offset = snapshot.moves[:2]
    # The mean of an incomplete row contains the descan along the columns; the first row is used nevertheless.
    k = len(rows) - 1 - (len(rows) > 1 and not snapshot.processed.reshape(snapshot.scan)[rows[-1]].all())
    sigma = float(np.median(snapshot.located.sigma[valid.ravel()]))
    drift = {"drift": tuple(offset[k].tolist()), "row": int(rows[k])} if len(rows) else {}
    return drift | {"sigma": sigma, "dose": snapshot.noise.dose}


def _evaluation(report):
    """Return ellipse and descan for the status."""
    if not report.origin.found:
        return {}
    e, fit = report.ellipse, report.fit
    ellipse = "a/b unknown"
    if e is not None and e.accepted:
        ellipse = f"a/b {e.a / e.b:.4f} ± {e.sigma:.4f} at {np.degrees(e.theta):.0f}°"
    span = [float(np.ptp(q[report.origin.valid])) for q in (fit.qx0, fit.qy0)]
    return {"ellipse": ellipse, "descan": f"{fit.model}, spans ({span[0]:.2f}, {span[1]:.2f}) px"}
