"""Test random sequences of calls on small simulated scans: a call may be refused, but nothing may break.

    python tests/walks.py --walks 500

The number of a walk is its seed: `--first N --walks 1` repeats walk N. Failures are: any exception other than
PrenetError; measured data that changed; a calibration that changed although the call was refused or returned a new
cube; maps of another shape than the scan, or a mean origin that is not their mean; and a measured origin that differs
from the truth, through all cropping, binning, correcting, denoising, saving and reading back.
"""

import argparse
import contextlib
import hashlib
import io
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import py4DSTEM

import py4dstem_prenet
from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.io import calibrations
from py4dstem_prenet.simulation.scan import simulate

LENGTH = 7  # calls in a walk
FAR, SIGMAS = 0.6, 4.0  # pixels, and stated sigmas, from which the median measured origin is wrong
QUIET = {"progress": False}
MODELS = ("auto", "constant", "plane", "parabola", "spline")


@dataclass
class Walker:
    """The state of a walk. truth: true qx0 and qy0 of the cube, (2, Rx, Ry). folder: for its files."""

    cube: py4DSTEM.DataCube
    truth: np.ndarray
    rng: np.random.Generator
    folder: Path
    files: int = 0

    def path(self, ending="h5"):
        self.files += 1
        return self.folder / f"{self.files}.{ending}"

    def within(self, cube, truth=None):
        self.cube = cube
        self.truth = self.truth if truth is None else truth


# --- calls that work on the cube itself, or look at it -------------------------------------------------------


def calibrate(at):
    at.cube.prenet.calibrate(**QUIET)


def calibrate_with_mask(at):
    mask = np.ones(at.cube.Qshape, bool)
    mask[at.rng.integers(len(mask))] = False
    at.cube.prenet.calibrate(mask=mask, **QUIET)


def measure_origin(at):
    at.cube.prenet.measure_origin()


def fit_origin(at):
    at.cube.prenet.fit_origin(model=str(at.rng.choice(MODELS)))


def measure_ellipse(at):
    region = at.rng.random(at.cube.Rshape) < 0.7 if at.rng.random() < 0.5 else None
    at.cube.prenet.measure_ellipse(region=region)


def undo_ellipse(at):
    at.cube.calibration.set_ellipse((None, None, None))


def map_ellipse(at):
    at.cube.prenet.map_ellipse(int(at.rng.integers(1, 4)))


def look(at):
    at.cube.prenet.show()
    plt.close("all")


def check(at):
    str(at.cube.prenet.check())


def check_denoising(at):
    str(at.cube.prenet.check_denoising())


def check_origin(at):
    str(at.cube.prenet.check_origin())


def check_ellipse(at):
    str(at.cube.prenet.check_ellipse())


def report(at):
    at.cube.prenet.report(at.path("html"), **QUIET)


def finetune(at):
    at.cube.prenet.finetune(out=at.path("safetensors"), minutes=0.01, **QUIET)


# --- calls that give another cube, where the walk goes on ----------------------------------------------------


def denoise(at):
    at.within(at.cube.prenet.denoise(out=_perhaps(at), **QUIET))


def preprocess(at):
    at.within(at.cube.prenet.preprocess(out=_perhaps(at), **QUIET))


def corrected(at):
    new = at.cube.prenet.corrected(out=_perhaps(at), **QUIET)
    moved = np.stack(new.calibration.get_origin()) - np.stack(at.cube.calibration.get_origin())
    at.within(new, at.truth + moved)


def repaired(at):
    at.within(at.cube.prenet.repaired(out=_perhaps(at), **QUIET))


def crop_R(at):
    (top, bottom), (left, right) = (np.sort(at.rng.choice(n + 1, 2, replace=False)) for n in at.cube.Rshape)
    at.within(at.cube.prenet.crop_R((top, bottom, left, right)), at.truth[:, top:bottom, left:right])


def crop_Q(at):
    top, bottom, left, right = at.rng.integers(0, 4, 4)
    rows, columns = at.cube.Qshape
    new = at.cube.prenet.crop_Q((top, rows - bottom, left, columns - right))
    at.within(new, at.truth - np.reshape([top, left], (2, 1, 1)))


def bin_Q(at):
    n = int(at.rng.integers(1, 3))
    at.within(at.cube.prenet.bin_Q(n), (at.truth + 0.5) / n - 0.5)


def bin_R(at):
    n = int(at.rng.integers(1, 3))
    new = at.cube.prenet.bin_R(n)
    rows, columns = new.Rshape
    blocks = at.truth[:, : rows * n, : columns * n].reshape(2, rows, n, columns, n)
    at.within(new, blocks.mean((2, 4)))


def copy(at):
    at.within(at.cube.copy())


def save_and_open(at):
    path = at.path()
    at.cube.prenet.save(path)
    at.within(py4dstem_prenet.open(path))


def save_and_read(at):
    path = at.path()
    at.cube.prenet.save(path)
    at.within(py4DSTEM.read(path))


def save_calibration(at):
    path = at.path()
    at.cube.prenet.save(path, data=False)
    new = py4DSTEM.DataCube(np.array(at.cube.data[...]))
    new.prenet.load_calibration(path)
    at.within(new)


def start_again(at):
    at.within(py4DSTEM.DataCube(np.array(at.cube.data[...])))


def _perhaps(at):
    return at.path() if at.rng.random() < 0.5 else None


# How often each is chosen: what calibrates, often; what takes minutes, hardly ever.
CALLS = {
    calibrate: 4, calibrate_with_mask: 1, measure_origin: 2, fit_origin: 2, measure_ellipse: 1, undo_ellipse: 1,
    map_ellipse: 1, look: 2, check: 2, check_denoising: 1, check_origin: 1, check_ellipse: 1, report: 1,
    finetune: 0.2, denoise: 2, preprocess: 1, corrected: 3, repaired: 2, crop_R: 1, crop_Q: 1, bin_Q: 1, bin_R: 1,
    copy: 1, save_and_open: 2, save_and_read: 1, save_calibration: 1, start_again: 0.5,
}
CALIBRATE = {calibrate, calibrate_with_mask, measure_origin, fit_origin, measure_ellipse, undo_ellipse, preprocess}


def start(number, folder):
    """A walker on a small scan of random shape, dose, descan and type of numbers."""
    rng = np.random.default_rng(number)
    scan, shape = rng.integers(1, 9, 2), rng.integers(48, 90, 2)
    made = simulate(tuple(map(int, scan)), tuple(map(int, shape)), dose=10 ** rng.uniform(2.2, 5), seed=number,
                    amplitude=rng.choice([0.5, 2.0]))
    kind = rng.choice(["u2", ">u2", "i4", "f4", "f8"])
    counts = made.counts.clip(0, 65535) if "u2" in kind else made.counts
    truth = np.stack([made.truth["qx0"], made.truth["qy0"]])
    return Walker(py4DSTEM.DataCube(counts.astype(kind)), truth, rng, folder)


def calibration(cube):
    """The parameters of the calibration of a cube, as bytes."""
    parameters = calibrations.calibration_of(cube)._params if calibrations.calibration_of(cube) is not None else {}
    return {key: np.array(value).tobytes() for key, value in parameters.items()
            if value is not None and not key.startswith("_")}


def digest(cube):
    return hashlib.sha256(np.ascontiguousarray(cube.data[...])).digest()


def wrong(at):
    """What is wrong with the origin in the calibration of the cube, or None."""
    maps = [at.cube.calibration.get_origin(), at.cube.calibration.get_origin_meas()]
    for origin in maps:
        if origin is not None and any(np.shape(part) not in ((), tuple(at.cube.Rshape)) for part in origin[:2]):
            return "maps of another shape than the scan"
    fitted, measured = maps
    if fitted is not None and abs(at.cube.calibration.get_qx0_mean() - np.mean(fitted[0])) > 1e-3:
        return "a mean origin that is not the mean of the map"
    if measured is not None:
        stated = calibrations.read_origin(at.cube)
        sigma = np.nanmedian([stated.sigma_qx0, stated.sigma_qy0], (1, 2))
        off = np.nanmedian(np.abs(np.stack(measured[:2]) - at.truth), (1, 2))
        if (off > np.maximum(FAR, SIGMAS * sigma)).any():
            return f"an origin that is {off.max():.2f} px off"
    return None


def walk(number, counted=None):
    """Make a walk. Returns the names of its calls, with "!" if refused, and the failure, or None."""
    counted = Counter() if counted is None else counted
    steps = []
    with tempfile.TemporaryDirectory() as folder:
        at = start(number, Path(folder))
        calls, chance = list(CALLS), np.array(list(CALLS.values()))
        for _ in range(LENGTH):
            call = calls[at.rng.choice(len(calls), p=chance / chance.sum())]
            cube, data, before = at.cube, digest(at.cube), calibration(at.cube)
            steps.append(call.__name__)
            counted["calls"] += 1
            refused = False
            try:
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), \
                        warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    call(at)
            except PrenetError:
                refused = True
                steps[-1] += "!"
                counted["refused"] += 1
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                return steps, f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
            if digest(cube) != data:
                return steps, "the data changed"
            if (refused or call not in CALIBRATE) and calibration(cube) != before:
                return steps, "the calibration changed"
            if failure := wrong(at):
                return steps, failure
    return steps, None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--first", type=int, default=0, help="number of the first walk")
    parser.add_argument("--walks", type=int, default=100)
    arguments = parser.parse_args()
    counted, made, failures = Counter(), 0, 0
    try:
        for number in range(arguments.first, arguments.first + arguments.walks):
            steps, failure = walk(number, counted)
            made += 1
            if failure:
                failures += 1
                print(f"walk {number}: {', '.join(steps)}: {failure}", flush=True)
    except KeyboardInterrupt:
        print(f"Interrupted in walk {number}, whose calls are counted below.")
    print(f"{made:,} of {arguments.walks:,} walks, {counted['calls']:,} calls, {counted['refused']:,} refused, "
          f"{failures:,} failures")
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
