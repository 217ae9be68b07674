"""Test which disk is taken for the direct beam in thick crystals, in which it is often not the brightest.

    python benchmarks/zone_axis.py [--scans 16]

Multislice scans (`simulation/known.py`) of cubic crystals near a zone axis of low indices, wedges of some 30 to 300
angstrom, tilted as a whole by 0 to 30 mrad, with 3,000 electrons per pattern. An origin is right if the median error of
the fitted origin over the scan is below a pixel. py4DSTEM's `get_origin` gets the true radius, and its robust parabola
follows. A wrong origin of prenet counts as flagged if nothing was found, if the fit was refused, or if the mean pattern
is symmetric about another point.
"""

import argparse
import contextlib
import datetime
import io
import os
import platform
import subprocess
import warnings

import numpy as np
import py4DSTEM
from py4DSTEM.process.calibration import fit_origin
from py4DSTEM.process.calibration.origin import get_origin
from scipy.spatial.transform import Rotation

from py4dstem_prenet.core.flags import has_flag
from py4dstem_prenet.pipeline import calibrate
from py4dstem_prenet.simulation.known import GOLD, SILICON, Cubic, simulate_known, zone_axis

CRYSTALS = (SILICON, Cubic("diamond", 5.658, 32), Cubic("fcc", 4.05, 13), GOLD, Cubic("fcc", 3.61, 29),
            Cubic("bcc", 2.866, 26))
ZONES = (((1, 1, 0), (0, 0, 1)), ((1, 0, 0), (0, 1, 0)), ((1, 1, 1), (1, -1, 0)), ((1, 1, 2), (1, -1, 0)))
TILTS = (0.0, 2.0, 5.0, 10.0, 30.0)  # mrad
SCAN, DOSE = (6, 6), 3000


def scan(rng, tilt):
    zone, x = ZONES[rng.choice(len(ZONES), p=(0.5, 0.2, 0.2, 0.1))]
    turn = Rotation.from_euler("zxy", [rng.uniform(0, 2 * np.pi), 1e-3 * tilt, 0]).as_matrix()
    frames = np.broadcast_to(turn @ zone_axis(zone, x), (*SCAN, 3, 3))
    thickness = np.linspace(rng.uniform(30, 120), rng.uniform(120, 300), SCAN[0])[:, None]
    crystal = CRYSTALS[rng.choice(len(CRYSTALS), p=(0.4, 0.12, 0.12, 0.12, 0.12, 0.12))]
    return simulate_known(crystal, frames, thickness=thickness, seed=int(rng.integers(1 << 30)),
                          amplitude=float(rng.uniform(0, 4)))


def darkest(known):
    """Electrons a pixel in the direct beam over those in the brightest other place as large, in the worst pattern."""
    x, y = np.meshgrid(*map(np.arange, known.expected.shape[2:]), indexing="ij")
    ratios = []
    for at in np.ndindex(SCAN):
        away = np.hypot(x - known.truth["qx0"][at], y - known.truth["qy0"][at])
        inside = away < 0.8 * known.truth["radius"]
        others = np.sort(known.expected[at][away > 1.2 * known.truth["radius"]])
        ratios.append(known.expected[at][inside].mean() / others[-inside.sum():].mean())
    return min(ratios)


def right(qx0, qy0, truth):
    return np.median(np.hypot(qx0 - truth["qx0"], qy0 - truth["qy0"])) < 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=16, help="scans at each tilt")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    print(f"{args.scans} scans of {SCAN[0]} x {SCAN[1]} patterns at each tilt; {datetime.date.today()}, commit "
          f"{commit}, {os.cpu_count()} cores ({platform.machine()}), no GPU.\n")
    print("| tilt, mrad | direct beam darker than another disk somewhere | right: prenet | wrong, but flagged | right: "
          "`get_origin`, robust parabola |\n|---|---|---|---|---|")
    for tilt in TILTS:
        rng = np.random.default_rng(int(1000 + tilt))
        dark = ours = told = theirs = 0
        for _ in range(args.scans):
            known = scan(rng, tilt)
            counts, truth = known.counts(DOSE), known.truth
            dark += darkest(known) < 1
            report = calibrate(py4DSTEM.DataCube(counts), progress=False)
            good = report.origin.found and report.fit.accepted and right(report.fit.qx0, report.fit.qy0, truth)
            ours += good
            silent = report.origin.found and report.fit.accepted and not has_flag(report.flags, "symmetric_elsewhere")
            told += not good and not silent
            with contextlib.redirect_stderr(io.StringIO()):
                measured = get_origin(py4DSTEM.DataCube(counts.astype(np.float32)), r=truth["radius"])
            theirs += right(*fit_origin((measured[0], measured[1]), fitfunction="parabola", robust=True)[:2], truth)
        print(f"| {tilt:g} | {dark} of {args.scans} | {ours} | {told} of {args.scans - ours} | {theirs} |", flush=True)


if __name__ == "__main__":
    main()
