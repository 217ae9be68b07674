"""Watch a scan that is being written: what an operator wants to see, in a terminal and, if asked, on a small page.

The loop reads frames and locates the beam in them. What takes seconds (descan, ellipse) is judged from snapshots, at
most every few seconds, in the process that learns, and never delays a frame.
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

from ..core import PrenetError
from ..io import check_output, emd_files
from ..pipeline import CalibrationReport
from . import sources
from .alarms import Alarm, ellipse_changes, quick_alarms
from .online import UNLEARNED, OnlineCalibrator, start_worker
from .server import served
from .snapshot import Snapshot, judge_snapshot
from .terminal import Terminal

LOOK = 0.2  # seconds between looks at alarms and status
JUDGE = 5.0  # seconds between judgments, and
JUDGE_PART = 0.5  # of the time at most that they may take
RATE_OVER = 3.0  # seconds over which the rate is taken


@dataclass(frozen=True)
class Status:
    """What is shown.

    scan: (Rx, Ry). written, located: patterns in the file, and those that were looked at for a beam. lag: patterns in
    the file that wait for that. rate: patterns a second that arrived. drift: px, where the beam is in scan row `row`
    less in the first. sigma: px, of one position. dose: electrons of a pattern. ellipse, descan: in words, from
    `judged` positions. reason: why no beam was found in what was learned from. state: "running", "waiting", "ended",
    "calibrating" or "done", and a sentence on it. complete: whether the scan was, once it has ended. note: what came
    before.
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
        return self.scan[0] * self.scan[1]

    def line(self) -> str:
        """Numbers for one line of text, the most urgent first."""
        said = [self.sentence] if self.state == "waiting" else [f"{self.rate:.0f}/s", f"lag {self.lag}"]
        if self.written and not self.located:
            said.append("no direct beam" if self.reason else "looking for the beam")
        if self.drift is not None:
            said.append(f"drift ({self.drift[0]:+.2f}, {self.drift[1]:+.2f}) px")
        if self.sigma is not None:
            said += [f"{self.dose:,.0f} e", f"sigma {self.sigma:.2g} px"]
        if self.judged:
            said.append(self.ellipse)
        return ", ".join(said)


@dataclass
class Watcher:
    """A scan under watch: feed it what a source says, and ask it for its status.

    strain: the precision of strain that a single position shall give; None: any dose will do.
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
        """Take an event of a source; whether the status is a new one."""
        if isinstance(event, sources.Frames):
            self.calibrator.feed(event.patterns, event.positions)
            self.status = replace(self.status, written=event.written, state="running", sentence="")
        elif isinstance(event, sources.Waiting):
            self.calibrator.poll()
            if event.seconds > 1:
                what = "the file is gone" if event.gone else "no new pattern"
                self.status = replace(self.status, state="waiting", sentence=(
                    f"{what} for {event.seconds:.0f} s (at {event.timeout:.0f} s the scan counts as over)"))
        elif isinstance(event, sources.Ended):
            if self.calibrator.located < self.calibrator.seen:  # the last row is not to wait for what is still learned
                self.calibrator.wait()
            self.status = replace(self.status, state="ended", sentence=event.reason, complete=event.complete)
        now = time.monotonic()
        if now - self._looked < LOOK and not isinstance(event, sources.Ended):
            return False
        self._looked = now
        self._look(now)
        return True

    def _look(self, now):
        self.snapshot = snapshot = self.calibrator.snapshot()
        located, status = self.calibrator.located, self.status
        # Where no position can have a result, behind a beam stop, none waits for one.
        lag = status.written - (self.calibrator.seen if snapshot.hidden and snapshot.noise is not None else located)
        self._arrived = [entry for entry in self._arrived if now - entry[0] < RATE_OVER] or self._arrived[-1:]
        then, had = self._arrived[0]
        self._arrived.append((now, self.calibrator.seen))
        rate = (self.calibrator.seen - had) / max(now - then, 1e-3)
        alarms = *quick_alarms(snapshot, self.strain), *self._slow
        refusal = snapshot.calibrator.refusal
        reason = "" if located or refusal is None or refusal.name == UNLEARNED else str(refusal)
        self.status = replace(status, located=located, lag=lag, rate=rate, alarms=alarms, reason=reason,
                              **_beam(snapshot))
        self._judge(snapshot, now)

    def _judge(self, snapshot, now):
        if self._judging is not None and self._judging.done():
            (report, slow, took, problem, seen), self._judging = self._judging.result(), None
            self._rest_until = now + max(JUDGE, took / JUDGE_PART)
            if problem:
                self.status = replace(self.status, ellipse=problem)
            else:
                self.report, self._slow = report, slow
                self.status = replace(self.status, judged=seen, **_said(report))
        # One after the other: learning is not to wait for a judgment.
        idle = self._judging is None and not self.calibrator.learning
        if idle and now >= self._rest_until and snapshot.noise is not None:
            self._judging = self._thread.submit(self.calibrator.worker.call, judged, snapshot)

    def close(self):
        """Judge no more. The calibrator goes on."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def watch(reopen, scan, pattern_shape, mask=None, device="auto", output=None, strain=None, timeout=30.0, show=None,
          progress=True, worker=None) -> CalibrationReport | None:
    """Watch a growing file until its scan is complete or its writer gone; calibrate it then, as `calibrate` would.

    Args:
        reopen: opens the source (`sources.open_source`). scan: (Rx, Ry). pattern_shape: (Qx, Qy).
        mask, device: as for `calibrate`. output: the calibration is saved there, an EMD file.
        strain, timeout: as for `alarms.quick_alarms` and `sources.follow`.
        show: is called with the `Watcher` whenever its status is new.
        worker: as for `OnlineCalibrator`; ended here.

    Returns the report on the whole rows that are in the file; None where there is not one.
    """
    if output is not None:
        check_output(output)
    worker = worker or start_worker(scan, device)  # one for all scans of this file: its start takes seconds

    def fresh(note=""):
        return Watcher(OnlineCalibrator(scan, pattern_shape, mask, device, worker), strain, note)

    def tell():
        terminal.show(watcher.status)
        if show is not None:
            show(watcher)

    def move_on(state, sentence, **known):
        watcher.status = replace(watcher.status, state=state, sentence=sentence, **known)
        tell()

    watcher, frames = fresh(), 0
    try:
        with _one_thread(), Terminal(scan[0] * scan[1], progress) as terminal:
            for event in sources.follow(reopen, scan, timeout):
                if isinstance(event, sources.Restarted):
                    watcher.close()
                    watcher = fresh(f"At {time.strftime('%H:%M:%S')} the file was made anew: this is another scan, "
                                    "watched from its first pattern.")
                elif isinstance(event, sources.Ended):
                    frames = event.frames
                if watcher.take(event):
                    tell()
            ended, rows = watcher.status.sentence, frames // scan[1]
            if not rows:
                move_on("done", f"{ended} It holds no whole row of the scan: nothing was calibrated.")
                return None
            part = "" if rows == scan[0] else f" its {rows} whole row{'s' * (rows > 1)} of {scan[0]},"
            move_on("calibrating", f"{ended} Calibrating{part} from the file.")
        watcher.close()
        try:
            report = calibrate_rows(watcher.calibrator, reopen, rows, scan[1], output, terminal.live)
        except PrenetError as problem:
            move_on("done", f"{ended} Nothing was calibrated: {problem}")
            raise
        watcher.report = report
        saved = "" if output is None else f", and saved {Path(output).name}"
        how = f"Calibrated{part.rstrip(',')}{saved}." if report.origin.found else (
            f"Nothing was calibrated: {report.origin.reason}")
        move_on("done", f"{ended} {how}", judged=rows * scan[1], **_said(report))
        return report
    finally:
        watcher.close()
        watcher.calibrator.close()


def watch_file(path, scan, layout, port=None, timeout=30.0, device="auto", **options) -> CalibrationReport | None:
    """`watch` for a file, which may appear within the timeout only. layout: as for `sources.open_source`, by name.

    port: serve the page there, 0 for any port; None: no page. options: as for `watch`.
    """
    worker = start_worker(scan, device)  # loads while the scan has not begun
    reopen = partial(sources.open_source, path, scan, **layout)
    with nullcontext((None, None)) if port is None else served(port, Path(path).name) as (address, show):
        if address:
            print(f"Look at {address}", flush=True)
        if not Path(path).exists():
            print(f"Waiting for {path}, {timeout:.0f} s at most.", flush=True)
        first = sources.opened(reopen, path, timeout)
        shape = first.shape
        first.close()
        return watch(reopen, scan, shape, device=device, timeout=timeout, show=show, worker=worker, **options)


def calibrate_rows(calibrator, reopen, rows, columns, output=None, progress=True) -> CalibrationReport:
    """The calibration of the whole rows that are in a file, saved as an EMD file if asked."""
    from py4DSTEM import DataCube

    source = reopen()
    try:
        datacube = DataCube(source.data(rows, columns))
        report = calibrator.finish(datacube, progress)
        if output is not None and report.origin.found:
            emd_files.save(datacube, output, data=False)
    finally:
        source.close()
    return report


@contextmanager
def _one_thread():
    """One thread for locating, one for learning: more within an operation on small windows would be in their way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def judged(snapshot):
    """Report, slow alarms, seconds that it took, what went wrong, and how many positions it is from: nobody stops
    watching because of a bad fit."""
    start, report, slow, problem = time.monotonic(), None, None, ""
    try:
        report = judge_snapshot(snapshot)
        if report.fit is not None:
            slow = ellipse_changes(snapshot, report.fit, report.origin.radius, snapshot.device)
    except Exception as error:
        problem = f"descan and ellipse cannot be judged now ({error})"
    seen = int(np.count_nonzero(snapshot.looked))
    return report, (slow,) if slow else (), time.monotonic() - start, problem, seen


def _beam(snapshot):
    """drift, its row, sigma and dose for the status."""
    valid = snapshot.valid
    if snapshot.beam is None or not valid.any():
        return {}
    rows, away = snapshot.moves[:2]
    # A row that is still written moves as its columns do; only the first is better than none.
    k = len(rows) - 1 - (len(rows) > 1 and not snapshot.known.reshape(snapshot.scan)[rows[-1]].all())
    sigma = float(np.median(snapshot.located.sigma[valid.ravel()]))
    moved = {"drift": tuple(away[k].tolist()), "row": int(rows[k])} if len(rows) else {}
    return moved | {"sigma": sigma, "dose": snapshot.noise.dose}


def _said(report):
    """What the judged report says of ellipse and descan, for the status."""
    if not report.origin.found:
        return {}
    e, fit = report.ellipse, report.fit
    ellipse = "a/b not known"
    if e is not None and e.accepted:
        sigma = float(np.sqrt(np.linalg.eigvalsh(e.covariance).max()))
        ellipse = f"a/b {e.a / e.b:.4f} +- {sigma:.4f} at {np.degrees(e.theta):.0f} degrees"
    span = [float(np.ptp(q[report.origin.valid])) for q in (fit.qx0, fit.qy0)]
    return {"ellipse": ellipse, "descan": f"{fit.model}, spans ({span[0]:.2f}, {span[1]:.2f}) px"}
