"""Measure `prenet watch` on a scan that is being written: lag, delay of a row, memory, a lost beam, the final result.

    python benchmarks/online.py        # 256 x 256 patterns of 128 x 128 at 1,000 a second, without a fault and with one
    python benchmarks/online.py --scan 24 32 --rate 100        # a quick look

A simulated detector (`prenet simulate --acquire`) writes in a process of its own. This process watches with one thread
that locates, and starts the process that learns and evaluates before the scan, as an operator would. Memory is the
anonymous memory of both. The delay of a row is the time from its last pattern in the file (polled every 10 ms) until
its positions are known. Rows that came before the first beam was learned are excluded, and that time is printed. It
needs two cores; the detector uses a quarter of one.
"""

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np


def anonymous(process="self"):
    """MB of anonymous resident memory of a process; 0 where it is none, or has ended."""
    try:
        with open(f"/proc/{process}/status") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("RssAnon")), 0) / 1024
    except OSError:
        return 0.0


class Log:
    """What happens, by the clock: when each row was in the file, and when its positions were known."""

    def __init__(self, columns, rows):
        self.columns = columns
        self.written, self.known = np.full(rows, np.nan), np.full(rows, np.nan)
        self.lags, self.memory, self.alarms, self.learned = [], [], {}, None

    def follow(self, path, frame, calibrator, ended):
        """Note how the file grows until the event `ended`."""
        while not ended.wait(0.01):
            frames = path.stat().st_size // frame
            rows = frames // self.columns
            new = np.isnan(self.written[:rows])
            self.written[:rows][new] = time.perf_counter()
            self.lags.append((frames, frames - calibrator.located))

    def look(self, watcher, done):
        now = time.perf_counter()
        located = watcher.calibrator.located
        if located and self.learned is None:
            self.learned = now
        if watcher.snapshot is not None:  # what is shown
            rows = watcher.snapshot.processed.reshape(-1, self.columns).all(1)
            self.known[rows & np.isnan(self.known)] = now
        self.memory.append((done, anonymous() + anonymous(watcher.calibrator.worker.pid)))
        for alarm in watcher.status.alarms:
            self.alarms.setdefault(alarm.kind, (done, alarm))


def watched(path, acquisition, rate, threads):
    """Log and watcher of a scan that a process of its own writes, and that process's words."""
    import torch

    torch.set_num_threads(threads)
    from py4dstem_prenet import live
    from py4dstem_prenet.live.online import OnlineCalibrator
    from py4dstem_prenet.live.watcher import Watcher

    fault = [] if acquisition.fault is None else ["--fault", acquisition.fault]
    pair = lambda values: ",".join(map(str, values))  # noqa: E731
    command = [sys.executable, "-m", "py4dstem_prenet.cli", "simulate", "--acquire", "--rate", str(rate), "--scan",
               pair(acquisition.scan), "--shape", pair(acquisition.shape), "--dose", str(acquisition.dose), "-o",
               str(path), *fault]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(
        [str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")])}
    watcher = Watcher(OnlineCalibrator(acquisition.scan, acquisition.shape))
    writer = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    log = Log(acquisition.scan[1], acquisition.scan[0])
    reopen = lambda: live.open_source(path, acquisition.scan, acquisition.shape)  # noqa: E731
    live.wait_for_file(reopen, path, 120).close()
    done, ended = 0, threading.Event()
    frame = 2 * acquisition.shape[0] * acquisition.shape[1]
    thread = threading.Thread(target=log.follow, args=(path, frame, watcher.calibrator, ended))
    thread.start()
    try:
        for event in live.follow(reopen, acquisition.scan, timeout=60):
            if isinstance(event, live.Frames):
                done = int(event.positions[-1]) + 1
            watcher.take(event)
            log.look(watcher, done)
    finally:
        ended.set()
        thread.join()
    return log, watcher, writer.communicate(timeout=60)[0].strip()


def told(log, acquisition):
    late = log.known - log.written
    after = (log.written > log.learned) & np.isfinite(log.known)
    lag = np.array([lag for _, lag in log.lags])
    begun = np.array([written for written, _ in log.lags]) > 0.25 * acquisition.count
    done, memory = np.array(log.memory).T
    quarters = [memory[(done > q * acquisition.count) & (done <= (q + 0.25) * acquisition.count)] for q in (0.25, 0.75)]
    flat = [f"{q.max():.0f}" if len(q) else "?" for q in quarters]
    columns = acquisition.scan[1]
    if not after.any():
        raise SystemExit("The scan was over before a beam was learned; make it longer, or slower.")
    return [
        ("first beam after", "", f"{log.learned - np.nanmin(log.written):.1f} s from the first row"),
        ("lag, from a quarter of the scan on", "bounded",
         f"{lag[begun].max()} patterns at most, "
         f"{np.median(lag[begun]):.0f} in the median; {lag.max()} ever"),
        ("a row's result after its last pattern", "0.5 s", f"{np.quantile(late[after], 0.99):.2f} s in 99 of 100 rows, "
                                                           f"{late[after].max():.2f} s at most ({after.sum()} rows)"),
        ("peak memory, second and last quarter", "flat", " and ".join(flat) + " MB"),
        ("alarms", "none", ", ".join(log.alarms) or "none") if acquisition.fault is None else
        ("beam loss told", "2 rows", _told_after(log, acquisition, columns)),
    ]


def _told_after(log, acquisition, columns):
    if "beam lost" not in log.alarms:
        return "never"
    done, alarm = log.alarms["beam lost"]
    return f"{(done - acquisition.faulty_from) / columns:.1f} rows after it, as since row {alarm.since[0]}"


def end_to_end(path, acquisition, watcher):
    """What `finish` gives beside `calibrate`, and how long both take."""
    import py4DSTEM

    from py4dstem_prenet.live import open_source
    from py4dstem_prenet.pipeline import calibrate

    source = open_source(path, acquisition.scan, acquisition.shape)
    here, there = (py4DSTEM.DataCube(source.data(*acquisition.scan)) for _ in range(2))
    start = time.perf_counter()
    live = watcher.calibrator.report
    finished = watcher.calibrator.finish(here)
    middle = time.perf_counter()
    offline = calibrate(there, progress=False)
    took = middle - start, time.perf_counter() - middle
    source.close()

    def apart(a, b):
        q = np.nanmax(np.hypot(a.fit.qx0 - b.fit.qx0, a.fit.qy0 - b.fit.qy0))
        return f"{q:.4f} px, {np.hypot(*(a.ellipse.vector - b.ellipse.vector)):.5f} in a/b"

    truth = acquisition.origin.T.reshape(2, *acquisition.scan)
    error = np.hypot(offline.fit.qx0 - truth[0], offline.fit.qy0 - truth[1]).mean()
    return [("the end beside `calibrate`: origin and ellipse", "0.01 px, 0.0005", apart(finished, offline)),
            ("known when the last pattern came, beside `calibrate`", "", apart(live, offline)),
            ("`finish` and `calibrate` take", "", f"{took[0]:.1f} s and {took[1]:.1f} s"),
            ("`calibrate` beside the truth: mean of the descan", "", f"{error:.3f} px")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scan", type=int, nargs=2, default=[256, 256])
    parser.add_argument("--side", type=int, default=128, help="of a pattern, pixels")
    parser.add_argument("--rate", type=float, default=1000, help="patterns per second")
    parser.add_argument("--dose", type=float, default=3000, help="electrons per pattern")
    parser.add_argument("--folder", type=Path, help="where the files are made; must have room for the scan")
    options = parser.parse_args()
    from py4dstem_prenet.simulation.acquisition import Acquisition

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
                            cwd=Path(__file__).parent).stdout.strip()
    cores = len(os.sched_getaffinity(0))
    print(f"{datetime.date.today()}, commit {commit}, {platform.machine()}, {cores} cores, no GPU; {options.scan[0]} x "
          f"{options.scan[1]} patterns of {options.side} x {options.side} at {options.rate:.0f} a second, "
          f"{options.dose:.0f} electrons.\n\n| | target | measured |\n|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for fault in (None, "beam-loss"):
            acquisition = Acquisition(tuple(options.scan), (options.side,) * 2, options.dose, fault=fault)
            path = Path(folder) / f"{fault}.raw"
            log, watcher, said = watched(path, acquisition, options.rate, 1)
            rows = told(log, acquisition)
            if fault is None:
                rows += end_to_end(path, acquisition, watcher)
                print(f"| the detector's rate | {options.rate:.0f} | {said.split(' at ')[-1]} |")
            for row in rows if fault is None else rows[-1:]:
                print("| " + " | ".join(row) + " |", flush=True)
            path.unlink()


if __name__ == "__main__":
    main()
