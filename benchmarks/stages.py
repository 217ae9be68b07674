"""Every stage beside what py4DSTEM users run, on simulated scans with known truth, as the README's table.

    python benchmarks/stages.py [--scans 4]

The scans share no specimen with training. `get_origin` is given the true disk radius, the Gaussian its best width.
"""

import argparse
import contextlib
import datetime
import io
import os
import platform
import subprocess
import time

import numpy as np
import py4DSTEM
from py4DSTEM.process.calibration import fit_origin
from py4DSTEM.process.calibration.origin import get_origin
from scipy.ndimage import gaussian_filter

import py4dstem_prenet  # noqa: F401  adds DataCube.prenet
from py4dstem_prenet.simulation.scan import simulate

DOSES = (300, 3_000, 30_000)


def quiet(function, *args, **kwargs):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return function(*args, **kwargs)


def distance(origin, truth):
    return np.hypot(np.asarray(origin[0]) - truth["qx0"], np.asarray(origin[1]) - truth["qy0"])


def relative_error(estimate, clean):
    return float(((estimate - clean) ** 2).mean() / (clean**2).mean())


def one(dose, seed):
    scan = simulate((14, 14), (128, 128), dose=dose, seed=seed, specimens=8)
    cube = py4DSTEM.DataCube(scan.counts)
    start = time.perf_counter()
    report = cube.prenet.calibrate(progress=False)
    calibrating = time.perf_counter() - start
    start = time.perf_counter()
    clean = cube.prenet.denoise(progress=False)
    denoising = time.perf_counter() - start
    electrons = scan.counts.astype(np.float32)
    peer = quiet(get_origin, py4DSTEM.DataCube(electrons), r=scan.truth["radius"])[:2]
    peer_fit = quiet(fit_origin, peer, fitfunction="parabola", robust=True)[:2]
    eps = scan.truth["a"] / scan.truth["b"] - 1
    true_vector = eps * np.array([np.cos(2 * scan.truth["theta"]), np.sin(2 * scan.truth["theta"])])
    ours = distance(cube.calibration.get_origin_meas(), scan.truth)
    count = ours.size
    return {
        "origin, mean error in px": ours.mean(),
        "`get_origin`, true radius": distance(peer, scan.truth).mean(),
        "after the descan fit": distance(cube.calibration.get_origin(), scan.truth).mean(),
        "`fit_origin`, robust parabola": distance(peer_fit, scan.truth).mean(),
        "ellipse accepted": float(report.ellipse.accepted),
        "its error": np.hypot(*(report.ellipse.vector - true_vector)) if report.ellipse.accepted else np.nan,
        "noisy patterns, relative MSE": relative_error(electrons, scan.clean),
        "best Gaussian": min(relative_error(gaussian_filter(electrons, (0, 0, s, s)), scan.clean)
                             for s in (0.5, 0.8, 1.2, 1.8, 2.6)),
        "denoised": relative_error(clean.data, scan.clean),
        "electrons kept": float(clean.data.sum() / electrons.sum()),
        "calibration, patterns a second": count / calibrating,
        "denoising, patterns a second": count / denoising,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=4)
    scans = parser.parse_args().scans
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    rows = {dose: [one(dose, 100 + seed) for seed in range(scans)] for dose in DOSES}
    print(f"{scans} scans of 14 x 14 patterns of 128 x 128 pixels; {datetime.date.today()}, commit {commit}, "
          f"{os.cpu_count()} cores ({platform.machine()}), no GPU.\n")
    print("| electrons a pattern | " + " | ".join(f"{dose:,}" for dose in DOSES) + " |")
    print("|---|" + "---|" * len(DOSES))
    for key in rows[DOSES[0]][0]:
        values = [np.nanmean([row[key] for row in rows[dose]]) for dose in DOSES]
        print(f"| {key} | " + " | ".join(f"{value:.3g}" for value in values) + " |")


if __name__ == "__main__":
    main()
