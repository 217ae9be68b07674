"""Compare denoising with other methods: the tables and the figure of docs/benchmarks.md.

    python benchmarks/denoise.py [--quick] [--bench FOLDER] [--figure docs/denoise.png]

Scans are simulated and share no specimen with training. The other methods (`denoisers.py`) get the parameter with the
least squared error: a width, a strength, a rank or a radius. prenet gets no input besides the data. All methods are
scored on the same patterns of each scan. --bench adds scans from a folder of multislice patterns, made with the code in
that folder. A measured scan of a counting detector, if there is one beside the checkout, is scored by the Poisson
deviance of held-out electrons. `slopes.py` scores what is measured from the patterns.
"""

import argparse
import datetime
import os
import platform
import subprocess
import sys
import time
import warnings
from pathlib import Path

import matplotlib
import numpy as np
from denoisers import OURS, RIVALS, Measured, best, ours
from scipy.ndimage import gaussian_filter

from py4dstem_prenet.denoising.checks import GAUSSIAN_SIGMAS_PX, SplitBlocks, truncated_svds
from py4dstem_prenet.detector.estimate import estimate_noise
from py4dstem_prenet.detector.independence import check_independence
from py4dstem_prenet.simulation.scan import simulate

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "py4dstem_prenet" / "data" / "demo_scan.npz"
REAL = ROOT.parent / "shared" / "real" / "medipix_au_2x2.npy"
DOSES = (100, 1_000, 10_000, 100_000)
SCORED = 8  # patterns of every scan
METHODS = ("noisy", *RIVALS, *OURS)
LINEAR = 0.1  # electrons up to which the figure's asinh scale is about linear


def error(estimate, truth):
    return float(((estimate - truth) ** 2).mean() / (truth**2).mean())


def compare(counts, truth, at):
    """({method: (relative squared error, part of the electrons kept, patterns per second)}, {method: scored patterns}).

    counts: (Rx, Ry, Qx, Qy), detector units. truth: expected electrons (n, Qx, Qy) at the flat positions `at`, which
    are scored. What is told of the noise is what the package learned from the scan, for all methods.
    """
    scan = Measured(counts, estimate_noise(counts))
    noisy = scan.electrons[at]
    shown, figures = {"truth": truth, "noisy": noisy}, {"noisy": (error(noisy, truth), 1.0, np.nan)}
    for name in RIVALS:
        found = best(name, scan, at, lambda estimate: error(estimate, truth))
        if found is not None:
            shown[name] = found[1]
            figures[name] = (error(shown[name], truth), float(shown[name].sum() / noisy.sum()), np.nan)
    for name, scan_aware in OURS.items():
        estimate, speed = ours(scan, scan_aware)
        shown[name] = estimate[at]
        figures[name] = (error(shown[name], truth), float(estimate.sum() / scan.electrons.sum()), speed)
    return figures, shown


def scored(counts, clean):
    """The arguments of `compare`: truth at SCORED positions."""
    at = np.linspace(0, counts.shape[0] * counts.shape[1] - 1, SCORED).astype(int)  # across the scan
    return counts, clean.reshape(-1, *clean.shape[2:])[at], at


def simulated(dose, seed, side, camera):
    detector = dict(gain=12.0, offset=100.0, readout=4.0, psf=0.6) if camera else {}
    scan = simulate((side, side), (128, 128), dose=dose, seed=200 + seed, **detector)
    return scored(scan.counts, scan.clean)


def from_bench(folder, dose, side):
    """What `compare` takes, of one scan of every material."""
    sys.path.insert(0, str(folder))
    from cubes import make_cube

    bank = dict(np.load(folder / "dev_patterns.npz"))
    for number, label in enumerate(dict.fromkeys(bank["label"].tolist())):
        cube = make_cube(bank, label, dose, 31 * number, scan=(side, side))
        yield scored(cube.counts, cube.clean)


def table(rows):
    """rows: {dose: [figures of a scan]} to markdown."""
    lines = ["| electrons per pattern | " + " | ".join(f"{dose:,}" for dose in rows) + " |",
             "|---|" + "---|" * len(rows)]

    def line(title, name, column):
        values = [np.mean([scan[name][column] for scan in scans]) for scans in rows.values()]
        lines.append(f"| {title} | " + " | ".join(f"{value:.3g}" if column != 1 else f"{value:.4f}" for value in values)
                     + " |")

    for name in METHODS:
        if all(name in scan for scans in rows.values() for scan in scans):
            line(f"{name}{', relative squared error' if name == 'noisy' else ''}", name, 0)
        else:
            lines.append(f"| {name} |" + " not installed |" * len(rows))
    for name in OURS:
        line(f"{name}: electrons kept", name, 1)
        line(f"{name}: patterns per second", name, 2)
    return "\n".join(lines)


def real():
    """Held-out Poisson deviance on a real scan, as markdown."""
    counts = np.load(REAL)
    noise = estimate_noise(counts)
    level = SplitBlocks([counts], noise, 0.5, np.random.default_rng(0))
    e = level.electrons
    scores = {"raw": level.deviance(e), "prenet": level.deviance(level.denoised(dict(progress=False)))}
    scores["best Gaussian"] = min((level.deviance(gaussian_filter(e, (0, s, s))) for s in GAUSSIAN_SIGMAS_PX),
                                  key=lambda d: d[0])
    scores["best truncated SVD"] = min((level.deviance(f) for _, f in truncated_svds(e, 0.0)), key=lambda d: d[0])
    caveat = check_independence([counts], noise)[1]
    return "\n".join(["| real counting scan (2 x 2, gold), held-out half | Poisson deviance a pixel |", "|---|---|",
                      *(f"| {name} | {d[0]:.4f} |" for name, d in scores.items()), "",
                      *([f"Caveat of the check: {caveat}."] if caveat else [])])


def figure(path):
    """Two patterns of the scan that comes with the package: truth, counts, and every method above what it errs."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    demo = np.load(DEMO)
    which = [list(demo["regions"]).index(name) for name in ("crystal", "amorphous")]
    at = np.ravel_multi_index(demo["positions"][which].T, demo["counts"].shape[:2])
    shown = compare(demo["counts"], demo["clean"][which].astype(np.float32), at)[1]
    names = ["truth", *(name for name in METHODS if name in shown)]
    columns = -(-len(names) // 2)  # two lines of methods for each pattern, so that the text stays legible
    fig, axes = plt.subplots(8, columns, figsize=(2.1 * columns, 18.4), squeeze=False, layout="constrained")
    lines = axes.reshape(2, 2, 2, columns)
    for row, truth in enumerate(shown["truth"]):
        top = np.arcsinh(truth.max() / LINEAR)
        for number, name in enumerate(names):
            above, below = lines[row, number // columns, :, number % columns]
            image = np.arcsinh(shown[name][row] / LINEAR)
            above.imshow(image, cmap="magma", vmin=0, vmax=top)
            above.set_title(name, fontsize=10)
            if number:
                below.imshow(image - np.arcsinh(truth / LINEAR), cmap="RdBu_r", vmin=-2, vmax=2)
                below.set_xlabel(f"relative squared error {error(shown[name][row], truth):.3g}", fontsize=8)
            else:
                below.text(0.5, 0.5, "difference\nfrom the truth", ha="center", va="center", transform=below.transAxes)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[], frame_on=ax.has_data())
    fig.suptitle(f"{float(demo['dose']):,.0f} electrons per pattern, asinh scale")
    fig.savefig(path, dpi=80)
    plt.close(fig)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=2, help="simulated scans for each dose")
    parser.add_argument("--side", type=int, default=8, help="positions along each side of a scan")
    parser.add_argument("--quick", action="store_true", help="one scan of 6 x 6 at two doses, no camera")
    parser.add_argument("--bench", type=Path, help="folder of multislice patterns, such as ../shared/bench")
    parser.add_argument("--figure", type=Path, help="write the figure here, such as docs/denoise.png")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    side, scans = (6, 1) if args.quick else (args.side, args.scans)
    doses = (1_000, 10_000) if args.quick else DOSES
    began = time.perf_counter()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT).stdout
    print(f"{datetime.date.today()}, commit {commit.strip()}, {os.cpu_count()} cores ({platform.machine()}), no GPU; "
          f"scans of {side} x {side} patterns of 128 x 128 pixels, {SCORED} of each scored.\n")
    for camera in (False,) if args.quick else (False, True):
        rows = {}
        for dose in doses[1:] if camera else doses:
            rows[dose] = []
            for seed in range(1 if camera else scans):
                rows[dose].append(compare(*simulated(dose, seed, side, camera))[0])
        kind = "Camera: 12 units per electron, read-out 4 units rms, blur 0.6 px" if camera else "Counting detector"
        print(f"{kind}, simulated scans.\n\n{table(rows)}\n", flush=True)
    if args.bench:
        rows = {dose: [compare(*cube)[0] for cube in from_bench(args.bench, dose, side)] for dose in doses}
        print(f"Multislice patterns of other materials, counting detector.\n\n{table(rows)}\n", flush=True)
    if args.figure:
        figure(args.figure)
    if REAL.exists():
        print(f"{real()}\n")
    print(f"All of it took {time.perf_counter() - began:.0f} s.")


if __name__ == "__main__":
    main()
