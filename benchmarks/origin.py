"""Compare the error of the origin with py4DSTEM's methods and the statistical bound against dose: table and figure.

    python benchmarks/origin.py [--scans 6] [--figure docs/origin.png]

The scans are simulated and share no specimen with training. The other methods get what a user would have to choose:
`get_origin` the true disk radius, disk detection a kernel of the true probe and the true mean origin, phase correlation
the true probe. The bound is the Cramér-Rao bound for a known pattern at an unknown position (Fisher information
4 |grad sqrt(expected counts)|^2).
"""

import argparse
import contextlib
import datetime
import io
import os
import platform
import subprocess
import time
import warnings

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import py4DSTEM
from py4DSTEM.braggvectors import Probe
from py4DSTEM.process.calibration import fit_origin as parabola
from py4DSTEM.process.calibration.origin import get_origin
from scipy.special import erfc
from skimage.registration import phase_cross_correlation

from py4dstem_prenet.descan.fit import fit_origin
from py4dstem_prenet.origin.measure import measure_origin
from py4dstem_prenet.simulation.scan import simulate

DOSES = (100, 1_000, 10_000, 100_000)
SIDE, SCAN = 128, (12, 12)
OURS, FIT = "prenet", "prenet, descan fit"


def quiet(function, *args, **kwargs):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return function(*args, **kwargs)


def disk(radius, at=((SIDE - 1) / 2, (SIDE - 1) / 2)):
    x, y = np.arange(SIDE)[:, None] - at[0], np.arange(SIDE) - at[1]
    return 0.5 * erfc((np.hypot(x, y) - radius) / 0.5)


def center_of_mass(counts, truth):
    axis = np.arange(SIDE)
    total = counts.sum((2, 3)).clip(1)
    return counts.sum(3) @ axis / total, counts.sum(2) @ axis / total


def disk_detection(counts, truth):
    guess = tuple(float(truth[q].mean()) for q in ("qx0", "qy0"))
    radius = truth["radius"]
    probe = Probe(disk(radius))
    quiet(probe.get_kernel, mode="sigmoid", radii=(radius, 2.2 * radius), origin=((SIDE - 1) / 2,) * 2)
    peaks = quiet(py4DSTEM.DataCube(counts).find_Bragg_disks, template=probe.kernel, corrPower=1, sigma_cc=1,
                  subpixel="multicorr", upsample_factor=16, minRelativeIntensity=0.05, minPeakSpacing=1.5 * radius,
                  edgeBoundary=8, maxNumPeaks=40)
    return quiet(peaks.measure_origin, center_guess=guess, score_method="distance")[:2]


def phase_correlation(counts, truth):
    probe = disk(truth["radius"])
    shifts = np.array([phase_cross_correlation(pattern, probe, upsample_factor=20)[0]
                       for pattern in np.sqrt(counts).reshape(-1, SIDE, SIDE)])
    return (shifts.T + (SIDE - 1) / 2).reshape(2, *counts.shape[:2])


def get_origin_true_radius(counts, truth):
    return quiet(get_origin, py4DSTEM.DataCube(counts), r=truth["radius"])[:2]


PEERS = {"`get_origin`, true radius": get_origin_true_radius,
         "`find_Bragg_disks` + `measure_origin`, true probe": disk_detection,
         "center of mass": center_of_mass,
         "phase correlation, true probe": phase_correlation}


def bound(clean):
    """Cramér-Rao bound of the mean error for a known pattern at an unknown position, pixels."""
    root = np.sqrt(clean)
    dx, dy = np.diff(root, axis=-2)[..., :-1], np.diff(root, axis=-1)[..., :-1, :]
    xx, yy, xy = (4 * (a * b).sum((-2, -1)) for a, b in ((dx, dx), (dy, dy), (dx, dy)))
    return np.sqrt(np.pi / 2 * 0.5 * (xx + yy) / (xx * yy - xy**2)).mean()


def distance(origin, truth):
    return np.hypot(np.asarray(origin[0]) - truth["qx0"], np.asarray(origin[1]) - truth["qy0"])


def one(dose, seed):
    scan = simulate(SCAN, (SIDE, SIDE), dose=dose, seed=seed, specimens=8, radius=float(4 + seed % 4 * 1.5))
    start = time.perf_counter()
    origin = measure_origin(scan.counts, progress=False)
    seconds = time.perf_counter() - start
    fit = fit_origin(origin)
    errors = {OURS: distance((origin.qx0, origin.qy0), scan.truth), FIT: distance((fit.qx0, fit.qy0), scan.truth)}
    counts = scan.counts.astype(np.float32)
    for name, method in PEERS.items():
        errors[name] = distance(method(counts, scan.truth), scan.truth)
        if name.startswith("`get_origin`"):
            found = method(counts, scan.truth)
            errors["`get_origin`, robust parabola"] = distance(
                quiet(parabola, found, fitfunction="parabola", robust=True)[:2], scan.truth)
    pulls = [(origin.qx0 - scan.truth["qx0"]) / origin.sigma_qx0, (origin.qy0 - scan.truth["qy0"]) / origin.sigma_qy0]
    return {k: (np.nanmean(e), np.mean(~(e < 1))) for k, e in errors.items()} | {
        "bound": (bound(scan.clean), 0.0), "pull": (np.sqrt(np.mean(np.square(pulls))), 0.0),
        "rate": (origin.qx0.size / seconds, 0.0)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=6)
    parser.add_argument("--figure")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    one(1000, 99)  # what is loaded and compiled once
    results = {dose: [one(dose, seed) for seed in range(args.scans)] for dose in DOSES}
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    print(f"{args.scans} scans of {SCAN[0]} x {SCAN[1]} patterns, {SIDE} x {SIDE}, at each dose; "
          f"{os.cpu_count()} cores ({platform.machine()}), {datetime.date.today()}, {commit or 'no commit'}\n")
    mean = {dose: {k: np.mean([r[k] for r in rows], 0) for k in rows[0]} for dose, rows in results.items()}
    print("| mean error in px (off by more than 1 px) | " + " | ".join(f"{d:,} e" for d in DOSES) + " |")
    print("|---" * (len(DOSES) + 1) + "|")
    names = [k for k in mean[DOSES[0]] if k not in ("pull", "rate", "bound")]
    print("| bound | " + " | ".join(f"{mean[d]['bound'][0]:.3f}" for d in DOSES) + " |")
    for name in names:
        print(f"| {name} | " + " | ".join(f"{mean[d][name][0]:.3f} ({mean[d][name][1]:.1%})" for d in DOSES) + " |")
    print("| prenet: error / sigma, rms | " + " | ".join(f"{mean[d]['pull'][0]:.2f}" for d in DOSES) + " |")
    if args.figure:
        figure, ax = plt.subplots(figsize=(8.6, 4.4), constrained_layout=True)
        colors = iter(("tab:blue", "tab:cyan", "tab:green", "tab:gray", "tab:purple"))
        for name in names:
            style = {OURS: dict(lw=2.6, color="tab:red"), FIT: dict(lw=2.6, color="tab:orange")}.get(name)
            ax.loglog(DOSES, [mean[d][name][0] for d in DOSES], "o-", label=name.replace("`", ""),
                      **(style or dict(color=next(colors))))
        ax.loglog(DOSES, [mean[d]["bound"][0] for d in DOSES], "k--", label="bound, single patterns")
        ax.set_xlabel("electrons in a pattern")
        ax.set_ylabel("mean error of the origin, px")
        ax.grid(alpha=0.3, which="both")
        figure.legend(fontsize=7, loc="outside right upper")
        figure.savefig(args.figure, dpi=130)


if __name__ == "__main__":
    main()
