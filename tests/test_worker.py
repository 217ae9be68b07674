"""Work in a process of its own: the same results, sentences for errors, and nothing left behind, whatever dies."""

import os
import signal
import subprocess
import sys
import time
from threading import Thread

import numpy as np
import pytest
from scans import simulated

from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.live import online
from py4dstem_prenet.live.online import OnlineCalibrator
from py4dstem_prenet.live.snapshot import learn_so_far
from py4dstem_prenet.live.worker import Worker


def until(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.02)


def is_there(pid):
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def worker():
    made = Worker(os.getpid)
    made.wait()
    assert made.call(os.getpid) != os.getpid()
    yield made
    made.close()


def test_until_it_has_started_and_without_one_work_is_done_here():
    assert Worker(None).call(os.getpid) == os.getpid() and Worker(None).pid is None
    starting = Worker(time.sleep, 60)
    assert starting.call(os.getpid) == os.getpid() and is_there(starting.pid)
    pid = starting.pid
    starting.close()
    assert not is_there(pid) and starting.call(os.getpid) == os.getpid()


@pytest.mark.parametrize("end", [lambda worker: os.kill(worker.pid, signal.SIGKILL), Worker.close])
def test_nobody_waits_for_one_that_ends_before_it_has_started(end):
    starting = Worker(time.sleep, 600)
    Thread(target=lambda: (time.sleep(0.2), end(starting))).start()
    starting.wait()
    assert starting.call(os.getpid) == os.getpid() and starting.pid is None


def test_what_is_called_there_returns_here_and_errors_are_sentences(worker):
    assert worker.call(os.getpid) == worker.pid
    values = np.arange(2_000_000.0)
    assert np.array_equal(worker.call(np.negative, values), -values)
    assert worker.call(print, "no answer") is None and worker.call(abs, -3) == 3
    with pytest.raises(PrenetError, match="ZeroDivisionError"):
        worker.call(divmod, 1, 0)
    assert worker.call(os.getpid) == worker.pid


def test_work_goes_on_here_where_the_process_dies(worker):
    os.kill(worker.pid, signal.SIGKILL)
    assert worker.call(abs, -4) == 4 and worker.pid is None


def test_one_that_dies_over_its_work_is_survived(worker):
    pid = worker.pid
    Thread(target=lambda: (time.sleep(0.3), os.kill(pid, signal.SIGKILL))).start()
    assert worker.call(time.sleep, 1.0) is None and worker.pid is None


def test_what_cannot_be_sent_is_done_here(worker):
    assert worker.call(lambda: 5) == 5


def test_closing_gives_up_what_is_being_done(worker):
    pid, problems = worker.pid, []

    def call():
        try:
            worker.call(time.sleep, 600)
        except PrenetError as problem:
            problems.append(str(problem))

    thread = Thread(target=call)
    thread.start()
    time.sleep(0.2)
    worker.close()
    thread.join(30)
    assert not thread.is_alive() and len(problems) == 1 and not is_there(pid)


@pytest.mark.parametrize("end", ["del worker; gc.collect(); time.sleep(600)", "os.kill(os.getpid(), 9)", "sys.exit()"])
def test_none_is_left_behind(end):
    """Neither by one who forgets it, nor by one who is killed; and a script without a guard is not run again."""
    script = ("import gc, os, sys, time\nfrom py4dstem_prenet.live.worker import Worker\n"
              "worker = Worker(time.sleep, 600)\n"
              f"print(worker.pid, flush=True)\nsys.stdin.readline()\n{end}")
    user = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        pid = int(user.stdout.readline())
        assert is_there(pid)
        user.stdin.write("\n")
        user.stdin.flush()
        until(lambda: not is_there(pid))
    finally:
        user.kill()
        user.communicate()


@pytest.mark.slow
def test_a_scan_learned_there_is_learned_as_here(monkeypatch):
    """The same noise, beam and guess; a worker that is killed in mid-scan changes nothing; `finish` ends it."""
    monkeypatch.setattr(online, "MIN_PROCESS_POSITIONS", 0)
    counts = simulated(scan=(12, 16), shape=(64, 64), dose=5000.0, seed=3, ratio=1.03, theta=0.5).counts
    patterns = counts.reshape(-1, 64, 64)
    calibrator = OnlineCalibrator(counts.shape[:2], counts.shape[2:], device="cpu")
    there = calibrator.worker.pid
    assert calibrator.worker.call(os.getpid) == there  # from the first pattern on
    calibrator.feed(patterns[:96], np.arange(96))
    calibrator.wait()
    assert calibrator.worker.pid == there
    here = learn_so_far(calibrator._sample(), None, "cpu")
    assert calibrator._learned_from == 96
    assert calibrator._learned.beam.aperture == here.beam.aperture and calibrator._learned.noise.gain == here.noise.gain
    assert np.array_equal(calibrator._learned.guess, here.guess)
    os.kill(there, signal.SIGKILL)
    calibrator.feed(patterns[96:], np.arange(96, 192))
    calibrator.wait()
    assert calibrator.worker.pid is None and calibrator.located == 192 and calibrator._learned_from == 192
