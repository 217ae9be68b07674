"""Kill what writes files at random moments, and look at what is left: the old file or the new one, and readable.

    python benchmarks/kills.py [--kills 240] [--seed 0]

Each round forks a process that saves, saves a calibration, denoises into a file or writes fine-tuned weights, and kills
it (SIGKILL) after a random part of the time that this takes. A file that stood in the folder before must be as it was;
the new one is not there, or whole. Calibrations in memory are interrupted (SIGINT) while they are written. It prints
counts, and fails where a single byte was lost.
"""

import argparse
import hashlib
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import py4DSTEM
import torch
from py4DSTEM import DataCube

from py4dstem_prenet.core import Decision, NoiseModel
from py4dstem_prenet.denoising import denoiser as _denoise
from py4dstem_prenet.io import calibrations, emd_files, provenance
from py4dstem_prenet.networks import weights

SHAPE = (6, 6, 64, 64)
NOISE = NoiseModel(1.0, 0.0, 0.0, np.zeros(SHAPE[2:], bool), True, 400.0)


def make_cube():
    """A calibrated cube of Poisson noise on a disk."""
    x, y = np.mgrid[:SHAPE[2], :SHAPE[3]]
    data = np.random.default_rng(0).poisson(3.0 * (np.hypot(x - 31, y - 32) < 6) + 0.02, SHAPE).astype(np.uint16)
    cube = DataCube(data, name="scan")
    cube.calibration.set_origin(tuple(np.full(SHAPE[:2], v) for v in (31.0, 32.0)))
    return cube


def save(cube, path):
    emd_files.save(cube, path)


def save_calibration(cube, path):
    emd_files.save(cube, path, data=False)


def denoise(cube, path):
    _denoise.denoise(cube, NOISE, out=path, scan_aware=False, device="cpu", progress=False)


def finetune(cube, path):
    """What fine-tuning does once it has learned: publish weights and their description."""
    source = weights.find("denoise")
    weights.publish(path, source.read_bytes(), {path.with_suffix(".json"): source.with_suffix(".json").read_bytes()})


def whole_scan(path):
    read = py4DSTEM.read(path)
    return read.data.shape == SHAPE and read.calibration.get_origin()[0].shape == SHAPE[:2] and read.data.any()


def whole_calibration(path):
    return py4DSTEM.read(path).get_origin()[0].shape == SHAPE[:2]


def whole_weights(path):
    return weights.verify(str(path)) and weights.load(str(path)) is not None


WRITERS = {  # name: (what writes, ending, what tells that it is whole)
    "save": (save, ".h5", whole_scan), "save(data=False)": (save_calibration, ".h5", whole_calibration),
    "denoise(out=)": (denoise, ".h5", whole_scan), "finetune": (finetune, ".safetensors", whole_weights),
}


def in_fork(work):
    """The process id of a fork that does the work and ends."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def kill_once(name, cube, folder, seconds):
    """Kill a writer after so many seconds; "old" or "new" is there then. Raises AssertionError for anything else."""
    write, ending, whole = WRITERS[name]
    old, new = folder / f"old{ending}", folder / f"new{ending}"
    before = hashlib.sha256(old.read_bytes()).hexdigest()
    pid = in_fork(lambda: write(cube, new))
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert hashlib.sha256(old.read_bytes()).hexdigest() == before, f"{name}: another file was changed"
    if not new.exists():
        return "old"
    assert whole(new), f"{name}: {new} is not whole"
    return "new"


def try_again(name, cube, folder):
    """After a kill the same call must work, and nothing be left beside its file."""
    write, ending, whole = WRITERS[name]
    for path in folder.glob(f"new{'' if name == 'finetune' else ending}*"):
        path.unlink()
    new = folder / f"new{ending}"
    pid = in_fork(lambda: write(cube, new))
    os.waitpid(pid, 0)
    assert whole(new), name
    left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert not left, f"{name}: {left} were left behind"
    for path in folder.glob("new*"):
        path.unlink()


class _Result:
    """As much of an OriginMap, OriginFit and Ellipse as is written."""

    def __init__(self, value):
        maps = np.full(SHAPE[:2], value)
        self.qx0 = self.qy0 = self.sigma_qx0 = self.sigma_qy0 = maps
        self.valid, self.found, self.accepted, self.radius = np.ones(SHAPE[:2], bool), True, True, value
        self.a = self.b = self.theta = self.radius_sigma = value
        self.feature, self.stop, self.decision = "direct beam", None, Decision(True)


def update(cube, value):
    result = _Result(value)
    with calibrations.all_or_none(cube):
        calibrations.write_origin(cube, result)
        calibrations.write_fit(cube, result)
        calibrations.write_ellipse(cube, result)
        provenance.write_provenance(cube, {"value": value})


def interrupt_once(cube, value, seconds):
    """Interrupt an update of a calibration in memory; "old" or "new" is there then, never a part of each."""
    def held():
        c = cube.calibration
        return {float(np.mean(v)) for v in (*c.get_origin_meas(), *c.get_origin(), *c.get_ellipse(),
                                            cube.tree(calibrations.SIGMA).data,
                                            provenance.read_provenance(cube)["value"])}

    def stop(*_):
        raise KeyboardInterrupt

    update(cube, value)
    previous = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))
        update(cube, value + 1)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert held() in ({value}, {value + 1}), f"a mixed calibration: {held()}"
    return "old" if held() == {value} else "new"


def duration(work):
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def run(kills, seed=0, folder=None):
    """{name: {"old": times, "new": times}} of so many kills of each writer, and interruptions of updates."""
    torch.set_num_threads(1)
    rng, cube, counts = np.random.default_rng(seed), make_cube(), {}
    with tempfile.TemporaryDirectory(dir=folder) as base:
        for name, (write, ending, _) in WRITERS.items():
            place = Path(base) / str(len(counts))
            place.mkdir()
            write(cube, place / f"old{ending}")
            usual = duration(lambda w=write, e=ending, p=place: os.waitpid(in_fork(lambda: w(cube, p / f"new{e}")), 0))
            for path in place.glob("new*"):
                path.unlink()
            counts[name] = Counter()
            for _ in range(kills):
                counts[name][kill_once(name, cube, place, rng.uniform(0, 1.3) * usual)] += 1
                for path in place.glob("new*"):
                    path.unlink()
            try_again(name, cube, place)
        usual = duration(lambda: update(cube, 1.0))
        counts["calibrate, in memory"] = Counter(
            interrupt_once(cube, float(k), rng.uniform(0, 1.3) * usual) for k in range(kills))
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=240, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts = run(-(-options.kills // (len(WRITERS) + 1)), options.seed)
    for name, found in counts.items():
        print(f"{name}: {sum(found.values())} kills, {found['old']} times nothing new, {found['new']} times all of it")
    print(f"{sum(sum(found.values()) for found in counts.values())} kills survived, bytes lost: 0")
    sys.exit()
