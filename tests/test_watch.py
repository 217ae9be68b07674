"""A simulated detector writes, `watch` looks on: alarms, the calibration at the end, and what the page shows."""

import base64
import json
import os
import shutil
import subprocess
import threading
from dataclasses import replace
from types import SimpleNamespace
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import h5py
import numpy as np
import py4DSTEM
import pytest
from test_alarms import NOISE, snapshot
from typer.testing import CliRunner

from py4dstem_prenet.cli import app
from py4dstem_prenet.core import Flag
from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.live import online, sources
from py4dstem_prenet.live.alarms import quick_alarms
from py4dstem_prenet.live.online import UNLEARNED, OnlineCalibrator
from py4dstem_prenet.live.server import served, state_of
from py4dstem_prenet.live.watcher import Status, Watcher, watch
from py4dstem_prenet.pipeline import Calibrator, calibrate
from py4dstem_prenet.simulation.acquisition import Acquisition, acquire

SCAN, SHAPE = (12, 16), (64, 64)
FAULTY = Acquisition(SCAN, SHAPE, dose=4000.0, seed=2, fault="beam-loss", at=0.75)
FAST = 1e9


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "scan.raw"
    acquire(path, FAULTY, FAST)
    return path


def test_both_kinds_of_files_hold_what_was_acquired(written, tmp_path):
    patterns = FAULTY.expose(0, FAULTY.count)
    assert np.array_equal(np.fromfile(written, np.uint16).reshape(patterns.shape), patterns)
    held = acquire(tmp_path / "scan.h5", FAULTY, FAST)
    assert held > 0
    with h5py.File(tmp_path / "scan.h5") as file:
        assert np.array_equal(file["data"], patterns) and file["origin"].shape == (192, 2)
        assert json.loads(file.attrs["truth"])["faulty_from"] == 144
    with pytest.raises(PrenetError):
        acquire(written, FAULTY)
    with pytest.raises(PrenetError):
        Acquisition(SCAN, fault="fire")


@pytest.mark.slow
def test_acquired_patterns_have_the_origin_that_they_claim():
    good = Acquisition(SCAN, SHAPE, dose=20_000.0, seed=2)
    data = good.expose(0, good.count).reshape(*SCAN, *SHAPE)
    report = calibrate(py4DSTEM.DataCube(data), device="cpu", progress=False)
    error = np.stack([report.fit.qx0, report.fit.qy0]) - good.origin.T.reshape(2, *SCAN)
    assert np.abs(np.median(error, (1, 2))).max() < 0.03 and np.sqrt((error**2).mean()) < 0.06


@pytest.mark.slow
def test_a_scan_is_watched_to_its_end(written, tmp_path):
    """The lost beam is an alarm; the calibration in the file is that of `calibrate`, to the last bit."""
    runner = CliRunner().invoke(app, ["watch", str(written), "--scan", "12,16", "--shape", "64,64", "--device", "cpu",
                                      "-o", str(tmp_path / "cal.h5"), "--strain", "0.0001"])
    assert runner.exit_code == 0, runner.output
    alarms = [line for line in runner.output.splitlines() if line.startswith("ALARM")]
    assert len(alarms) == 2 and any("beam lost since row 9, column 0" in line for line in alarms)
    data = np.fromfile(written, np.uint16).reshape(*SCAN, *SHAPE)
    offline = py4DSTEM.DataCube(data)
    report = calibrate(offline, device="cpu", progress=False)
    assert str(report) in runner.output
    here = py4DSTEM.DataCube(data.copy())
    here.prenet.load_calibration(tmp_path / "cal.h5")
    for a, b in zip(here.calibration.get_origin(), offline.calibration.get_origin(), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.slow
def test_an_aborted_scan_is_calibrated_as_far_as_whole_rows_go(written, tmp_path):
    path = tmp_path / "cut.raw"
    path.write_bytes(written.read_bytes()[: (6 * 16 + 5) * 64 * 64 * 2 + 77])
    shown = []
    report = watch(lambda: sources.RawFile(path, SHAPE), SCAN, SHAPE, device="cpu", timeout=0.2, progress=False,
                   show=lambda watcher: shown.append(watcher.status))
    assert report.origin.valid.shape == (6, 16) and report.origin.found
    assert [status.state for status in shown[-3:]] == ["ended", "calibrating", "done"] and not shown[-1].complete
    assert shown[-1].located == 101 and shown[-1].lag == 0 and shown[-1].judged == 96
    path.write_bytes(path.read_bytes()[:30000])
    assert watch(lambda: sources.RawFile(path, SHAPE), SCAN, SHAPE, device="cpu", timeout=0.01, progress=False) is None


@pytest.mark.slow
def test_a_file_that_goes_is_told_and_nothing_is_calibrated(written, tmp_path):
    path, shown = tmp_path / "goes.raw", []
    shutil.copy(written, path)
    with open(path, "r+b") as file:
        file.truncate(100 * 64 * 64 * 2)

    def show(watcher):
        shown.append(watcher.status)
        path.unlink(missing_ok=True)

    with pytest.raises(PrenetError):
        watch(lambda: sources.RawFile(path, SHAPE), SCAN, SHAPE, device="cpu", timeout=1.5, progress=False, show=show)
    assert any(status.state == "waiting" for status in shown)
    assert shown[-1].state == "done" and not shown[-1].complete


@pytest.mark.slow
def test_a_scan_that_begins_anew_keeps_the_process_that_learns(tmp_path, monkeypatch):
    """Its start takes seconds, while patterns come. The end is the second scan's, and nothing is left behind."""
    monkeypatch.setattr(online, "MIN_PROCESS_POSITIONS", 0)
    path, again = tmp_path / "scan.raw", tmp_path / "again.raw"
    acquire(path, FAULTY, FAST)
    with open(path, "r+b") as file:
        file.truncate(150 * 64 * 64 * 2)  # the first is aborted
    good = Acquisition(SCAN, SHAPE, dose=4000.0, seed=5)
    acquire(again, good, FAST)
    seen = []

    def show(watcher):
        if watcher.status.state != "done":
            seen.append((watcher.calibrator, watcher.calibrator.worker.pid))
        if again.exists() and watcher.status.written:
            again.rename(path)

    report = watch(lambda: sources.RawFile(path, SHAPE), SCAN, SHAPE, device="cpu", timeout=5, show=show)
    assert len({calibrator for calibrator, _ in seen}) == 2 and len({pid for _, pid in seen}) == 1
    assert seen[0][1] is not None and seen[-1][0].worker.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(seen[0][1], 0)
    error = np.stack([report.fit.qx0, report.fit.qy0]) - good.origin.T.reshape(2, *SCAN)
    assert report.origin.valid.all() and np.sqrt((error**2).mean()) < 0.1


# --- the page


def watcher():
    state = snapshot(rows=7)
    state.located.found[120:140] = False
    status = Status((12, 20), 150, 140, 10, 998.4, (0.31, -0.18), 5, 0.05, 1000.0, "a/b 1.0300 +- 0.0010 at 29 degrees",
                    "plane, spans (0.30, 0.20) px", 120, quick_alarms(state))
    return SimpleNamespace(status=status, snapshot=state, report=None)


def get(address, host=None):
    with urlopen(Request(address, headers={} if host is None else {"Host": host}), timeout=10) as answer:
        return answer.read()


def test_the_page_is_served_here_and_nowhere_else():
    with served(0, "scan.h5") as (address, show):
        assert address.startswith("http://127.0.0.1:")
        assert json.loads(get(address + "state.json")) == {"name": "scan.h5"}
        show(watcher())
        state = json.loads(get(address + "state.json"))
        assert b"prenet watch" in get(address)
        for path, host in (("etc/passwd", None), ("../cli.py", None), ("state.json", "elsewhere.example")):
            with pytest.raises(HTTPError):
                get(address + path, host)
        with pytest.raises(PrenetError), served(int(address.split(":")[2][:-1])):
            pass
    assert state["lag"] == 10 and state["alarms"][0]["text"].startswith("beam lost since row 6")
    with pytest.raises(OSError):
        get(address)


def test_maps_grow_with_the_scan():
    maps = state_of(watcher())["maps"]
    levels = [np.frombuffer(base64.b64decode(m["levels"]), np.uint8).reshape(12, 20) for m in maps]
    for level in levels:  # what was looked at and shows no beam is not what is yet to come
        assert (level[:6] > 1).all() and (level[6] == 1).all() and not level[7:].any()
    assert levels[0][5].mean() > 200 > 60 > levels[0][0].mean()  # the beam moves along +qx from row to row


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no browser is here")
def test_a_browser_draws_the_maps_and_tells_the_alarm(tmp_path):
    with served(0) as (address, show):
        show(watcher())
        page = subprocess.run(
            [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}",
             "--virtual-time-budget=2500", "--dump-dom", address], capture_output=True, text=True, timeout=120).stdout
    assert page.count("<canvas") == 3 and 'width="20" height="12"' in page
    for text in ("140 of 240", "998", "10 patterns", "(+0.31, −0.18) px", "row 0 to 5", "0.050 px", ">Beam lost<",
                 "Beam lost since row 6, column 0", "from 120 positions", "no beam there"):
        assert text in page


def test_positions_that_cannot_have_a_result_do_not_wait_for_one():
    """Behind a beam stop no position is located ever: nothing lags; before the first learning, all that came does."""
    state = snapshot()
    calibrator = SimpleNamespace(scan=SCAN, located=0, seen=180, learning=True, snapshot=lambda: state)
    seen = Watcher(calibrator)
    seen.status = replace(seen.status, written=192)
    state = replace(state, calibrator=Calibrator(None, None, None, Flag(UNLEARNED), "cpu"))
    seen._look(1.0)
    assert (seen.status.lag, seen.status.reason) == (192, "")
    refusal = Flag("input_refused", {"message": "A stop, perhaps."})
    state = replace(state, calibrator=Calibrator(NOISE, None, None, refusal, "cpu"))
    seen._look(1.0)
    assert (seen.status.lag, seen.status.reason) == (12, str(refusal))
    seen.close()
    assert OnlineCalibrator(SCAN, SHAPE, device="cpu").snapshot().calibrator.refusal.name == UNLEARNED


@pytest.mark.slow
def test_no_thread_outlives_a_watch_that_fails(written):
    def show(watcher):
        if watcher.status.state == "ended":  # by when something has been judged
            raise RuntimeError("The display fails.")

    with pytest.raises(RuntimeError) as held:
        watch(lambda: sources.RawFile(written, SHAPE), SCAN, SHAPE, device="cpu", progress=False, show=show)
    for thread in threading.enumerate():
        if thread.name.startswith("prenet-judge"):
            thread.join(30)  # ends by itself, once what it does is done
            assert not thread.is_alive()
    assert held.tb is not None  # and not because nobody knows it any more


def test_an_interrupted_watch_ends_with_one_line(written, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("py4dstem_prenet.live.watcher.watch", stopped)
    ran = CliRunner().invoke(app, ["watch", str(written), "--scan", "12,16", "--shape", "64,64", "--device", "cpu"])
    assert ran.exit_code == 130
    assert ran.output.startswith("prenet: ") and ran.output.count("\n") == 1
