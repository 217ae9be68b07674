"""Test which disk is taken for the direct beam in crystals, in which it is often not the brightest.

    python benchmarks/zone_axis.py [--scans 60] [--first 60000]

Multislice scans (`simulation/known.py`) of cubic crystals near zone axes of low indices: thin (30 to 120 angstrom) or
thick (to 400), even or wedges, of 1 to 9 grains in bands or cells that differ by degrees or by any rotation, each
within half a degree of its zone axis, and tilted as a whole by 0 to 30 mrad. The beam lies within an eighth of the
frame of its middle. Scan k is made from seed k and counted at 300, 3,000 and 30,000 electrons per pattern. The limits
of `origin/candidates.py` were set on the seeds 0 to 95.

Outcomes are those of `hunt.py`: right, refused, warned (wrong, with a warning other than that of a jump), silently
wrong (off by more than 0.15 px and five sigmas in the median, or by more than half a pixel and five sigmas in 5 % of
the positions); and how many of the wrong ones lie in another disk (5 % of the positions off by more than half a
radius).
*Bright*: the direct beam is the brightest disk in most patterns. py4DSTEM's `get_origin` gets the true radius, and its
robust parabola follows; it is right within a pixel in the median.
"""

import argparse
import contextlib
import datetime
import io
import platform
import subprocess
import warnings
from collections import Counter
from types import SimpleNamespace

import numpy as np
import py4DSTEM
from hunt import judge
from py4DSTEM.process.calibration import fit_origin
from py4DSTEM.process.calibration.origin import get_origin
from scipy.signal import fftconvolve
from scipy.spatial.transform import Rotation

from py4dstem_prenet.core import PrenetError
from py4dstem_prenet.pipeline import calibrate
from py4dstem_prenet.simulation.known import GOLD, SILICON, Cubic, KnownScan, simulate_known, zone_axis

CRYSTALS = {"silicon": SILICON, "gold": GOLD, "iron": Cubic("bcc", 2.866, 26),
            "GaAs": Cubic("zincblende", 5.653, (31, 33)), "MgO": Cubic("rocksalt", 4.212, (12, 8)),
            "aluminum": Cubic("fcc", 4.05, 13)}
ZONES = (((1, 1, 0), (0, 0, 1)), ((1, 0, 0), (0, 1, 0)), ((1, 1, 1), (1, -1, 0)), ((1, 1, 2), (1, -1, 0)))
TILTS = (0.0, 2.0, 5.0, 10.0, 30.0)  # mrad, of the whole scan
DOSES = (300, 3000, 30_000)
SCAN, SIDES, SLICE_ANGSTROM = (6, 6), (64, 96, 128), 4.0
MAX_OFF_CENTER = 1 / 8  # of the frame
GRAINS = (1, 1, 1, 2, 3, 4, 6, 9)
OUTCOMES = {"right": "right", "wrongly refused": "refused", "wrong, warned": "warned",
            "silently wrong": "silently wrong"}
CLASSES = ("bright", "dark, several orientations", "dark, one orientation")


def in_plane(rng, angle):
    """Rotation by an angle, in radians, about a random axis in the plane of the specimen."""
    azimuth = rng.uniform(0, 2 * np.pi)
    return Rotation.from_rotvec([angle * np.cos(azimuth), angle * np.sin(azimuth), 0])


def scan(seed):
    """The material, and a `KnownScan` of it."""
    rng = np.random.default_rng((seed, 17))
    name = list(CRYSTALS)[seed % len(CRYSTALS)]
    grains, tilt = int(rng.choice(GRAINS)), 1e-3 * TILTS[seed // len(CRYSTALS) % len(TILTS)]
    x, y = np.indices(SCAN)
    if rng.random() < 0.5:  # bands of rows
        grain = x * grains // SCAN[0]
    else:  # the nearest of some places
        places = rng.uniform(0, SCAN[0], (grains, 2))
        grain = np.hypot(x[..., None] - places[:, 0], y[..., None] - places[:, 1]).argmin(-1)
    alike = rng.random() < 0.5  # one zone axis, and rotations by degrees
    whole = in_plane(rng, tilt)
    frames = np.empty((*SCAN, 3, 3))
    for k in range(grains):
        if k == 0 or not alike:
            zone = ZONES[rng.choice(len(ZONES), p=(0.4, 0.25, 0.25, 0.1))]
            turn = rng.uniform(0, 2 * np.pi)
        else:
            turn = turn + rng.uniform(-0.2, 0.2)
        turned = whole * in_plane(rng, rng.uniform(0, 9e-3)) * Rotation.from_euler("z", turn)
        frames[grain == k] = turned.as_matrix() @ zone_axis(*zone)
    thickness = rng.uniform(30, 120) if rng.random() < 0.5 else rng.uniform(120, 400)
    wedge = rng.uniform(0.5, 1) if rng.random() < 0.5 else 1.0
    depth = thickness * np.linspace(wedge, 1, SCAN[0])[:, None]
    side = int(rng.choice(SIDES))
    margin = int(MAX_OFF_CENTER * side)
    known = simulate_known(CRYSTALS[name], frames, thickness=depth, shape=(side + 2 * margin,) * 2, seed=seed,
                           amplitude=float(rng.uniform(0, 4)), ratio=float(rng.uniform(1, 1.04)),
                           theta=float(rng.uniform(0, np.pi)), slice_angstrom=SLICE_ANGSTROM,
                           antialias=side == min(SIDES))
    row, column = (int(k) for k in rng.integers(0, 2 * margin + 1, 2))
    truth = known.truth | {"qx0": known.truth["qx0"] - row, "qy0": known.truth["qy0"] - column}
    return name, KnownScan(known.expected[:, :, row : row + side, column : column + side].copy(), truth)


def kind(known):
    """Which of CLASSES a scan belongs to."""
    x, y = np.indices(known.expected.shape[2:])
    radius = known.truth["radius"]
    size = int(radius) + 1
    u, v = np.mgrid[-size : size + 1, -size : size + 1]
    disk = (np.hypot(u, v) < 0.8 * radius).astype(float)
    bright = []
    for at in np.ndindex(SCAN):
        electrons = fftconvolve(known.expected[at], disk, mode="same")
        away = np.hypot(x - known.truth["qx0"][at], y - known.truth["qy0"][at])
        bright.append(electrons[away < 1.5].max() > electrons[away > 1.6 * radius].max())
    if np.mean(bright) > 0.5:
        return CLASSES[0]
    return CLASSES[1 if len(np.unique(known.truth["frames"].reshape(-1, 9).round(6), axis=0)) > 1 else 2]


def run(known, dose):
    """Outcome of a scan, and whether another disk was taken."""
    counts, truth = known.counts(dose), known.truth
    made = SimpleNamespace(truth=truth | {"good": np.ones(SCAN, bool)}, determinable=True)
    try:
        report = calibrate(py4DSTEM.DataCube(counts), progress=False)
    except PrenetError:
        return "wrongly refused", False
    outcome = judge(report, made, "none")["outcome"]
    if outcome not in ("wrong, warned", "silently wrong"):
        return outcome, False
    found = report.fit if report.fit.accepted else report.origin
    away = np.hypot(found.qx0 - truth["qx0"], found.qy0 - truth["qy0"])[report.origin.valid]
    return outcome, bool(np.mean(away > truth["radius"] / 2) > 0.05)


def by_hand(known, dose):
    """Whether py4DSTEM's fitted origin is right within a pixel in the median."""
    truth = known.truth
    cube = py4DSTEM.DataCube(known.counts(dose).astype(np.float32))
    with contextlib.redirect_stderr(io.StringIO()):
        measured = get_origin(cube, r=truth["radius"])
    qx0, qy0 = fit_origin((measured[0], measured[1]), fitfunction="parabola", robust=True)[:2]
    return np.median(np.hypot(qx0 - truth["qx0"], qy0 - truth["qy0"])) < 1


def table(results, column):
    """Counts by a column of the results, in Markdown."""
    lines = [f"| | scans | {' | '.join(OUTCOMES.values())} | another disk | right: `get_origin`, parabola |",
             f"|{'---|' * (len(OUTCOMES) + 4)}"]
    for value in [*dict.fromkeys(result[column] for result in results), None]:
        some = [result for result in results if value is None or result[column] == value]
        count = Counter(result["outcome"] for result in some)
        title = "**all**" if value is None else f"{value:,} electrons" if column == "dose" else value
        lines.append(f"| {title} | {len(some)} | {' | '.join(str(count[o] or '') for o in OUTCOMES)} | "
                     f"{sum(result['other'] for result in some) or ''} | {sum(result['by_hand'] for result in some)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=60)
    parser.add_argument("--first", type=int, default=60_000)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    print(f"{args.scans} scans of {SCAN[0]} x {SCAN[1]} patterns, seeds from {args.first}, at {len(DOSES)} doses; "
          f"{datetime.date.today()}, commit {commit}, {platform.machine()}, no GPU.\n", flush=True)
    results = []
    for seed in range(args.first, args.first + args.scans):
        name, known = scan(seed)
        for dose in DOSES:
            outcome, other = run(known, dose)
            results.append({"seed": seed, "material": name, "dose": dose, "kind": kind(known), "outcome": outcome,
                            "other": other, "by_hand": by_hand(known, dose)})
            if outcome != "right":
                print(f"seed {seed}, {name}, {dose:,} electrons, {results[-1]['kind']}: "
                      f"{OUTCOMES.get(outcome, outcome)}", flush=True)
    for column in ("material", "dose", "kind"):
        print("\n" + table(results, column))


if __name__ == "__main__":
    main()
