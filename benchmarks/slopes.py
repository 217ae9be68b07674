"""What denoising leaves of what varies over a scan: slopes of maps on the truth, and their errors.

    python benchmarks/slopes.py [--doses 300 2000 20000] [--figure docs/slopes.png]

A simulated crystal whose strain, rotation and disk intensity vary smoothly and independently over 20 x 20 positions,
seen by a counting detector without descan. Maps are read by a linear estimator, which is matched to the noiseless
pattern and its derivatives and weighted by the counting noise; the truth is its reading of noiseless patterns, which is
that of the crystal within a per cent. A slope below 1 is attenuation; raw counts have a slope of 1 within their noise.
The means of maps are not compared, as a reference region would remove them.

The other denoisers (`denoisers.py`) get the parameter that is best by the truth: the one for which the largest of the
four errors of exx, eyy, rotation and intensity, relative to raw counts, is least. The squared error of pixels would
choose parameters that flatten the maps more. BM3D, non-local means and Noise2Void are slow: they are scored on a ninth
or a quarter of the patterns, relative to the raw counts of the same patterns.
"""

import argparse
import datetime
import os
import platform
import subprocess
import time
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import torch
from denoisers import OURS, RIVALS, Measured, best, ours

from py4dstem_prenet.detector.estimate import estimate_noise
from py4dstem_prenet.simulation import soft_disk

ROOT = Path(__file__).parents[1]
SCAN, SIDE = 20, 128  # positions and pixels along each side
LATTICE = np.array([[18.2, -4.7], [8.6, 19.9]])  # reciprocal basis, px
REACH = 48.0  # px from the direct beam, up to which there are disks
CENTER = np.array([62.6, 64.8])  # direct beam, px
RADIUS, EDGE = 5.6, 0.7  # of the disks, px
DIFFUSE, DIFFUSE_WIDTH = 0.08, 26.0  # fraction of the electrons between the disks; standard deviation, px
NAMES = ("exx", "eyy", "rotation", "intensity")
PARTS = np.array([[[1, 0], [0, 0]], [[0, 0], [0, 1]], [[0, -1], [1, 0]], [[0, 1], [1, 0]]], float)  # last: exy
STEP = 1e-3  # of the derivatives
EVERY = {"best non-local means": 2, "BM3D": 3, "Noise2Void": 2}  # scored at every nth row and column: for speed
METHODS = ("raw", *RIVALS, *OURS)


class Crystal:
    """Disks with fringes inside, on a diffuse background; every seed gives another one."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        orders = np.indices((9, 9)).reshape(2, -1).T - 4
        self.g = orders[np.hypot(*(orders @ LATTICE).T) < REACH] @ LATTICE
        bragg = self.g.any(1)
        self.weight = np.where(bragg, rng.uniform(0.1, 0.6, len(bragg)) * np.exp(-((self.g / REACH) ** 2).sum(1)), 1.0)
        self.bragg = torch.from_numpy(bragg)
        self.fringe = torch.from_numpy(rng.normal(0, 1.5 / RADIUS, self.g.shape))  # radians per px
        self.phase = torch.from_numpy(rng.uniform(0, 2 * np.pi, len(bragg)))
        self.pixels = torch.from_numpy(np.stack(np.indices((SIDE, SIDE)), -1) - CENTER)
        self.diffuse = torch.exp(-(self.pixels**2).sum(-1) / (2 * DIFFUSE_WIDTH**2))
        self.diffuse *= DIFFUSE / self.diffuse.sum()
        self.scale = 1.0
        self.scale = (1 - DIFFUSE) / (self.pattern(np.zeros((2, 2))).sum() - DIFFUSE)

    def pattern(self, deformation, intensity=0.0):
        """Expected pattern of one electron in the mean; deformation (2, 2), relative change of the Bragg disks."""
        at = self.pixels - torch.from_numpy(self.g @ (np.eye(2) + deformation).T)[:, None, None]
        size = torch.full((len(at),), RADIUS, dtype=at.dtype), torch.full((len(at),), EDGE, dtype=at.dtype)
        contrast = 1 + 0.5 * torch.cos((at * self.fringe[:, None, None]).sum(-1) + self.phase[:, None, None])
        weight = torch.from_numpy(self.weight) * torch.where(self.bragg, 1.0 + intensity, 1.0)
        disks = (weight[:, None, None] * contrast * soft_disk(at, *size)).sum(0)
        return (disks * self.scale + self.diffuse).numpy()


def fields():
    """exx, eyy, rotation (radians) and relative change of the disk intensity: (4, SCAN, SCAN)."""
    r, c = np.meshgrid(*2 * [np.linspace(-1, 1, SCAN)], indexing="ij")
    return np.stack([0.008 * np.tanh(2 * c), 0.005 * np.sin(np.pi * r), 0.006 * np.cos(np.pi * c),
                     0.25 * np.cos(2 * np.pi * r) * np.cos(np.pi * c)])


def reader(crystal):
    """A function from electrons (n, SIDE, SIDE) to exx, eyy, rotation and intensity, (4, n)."""
    none = np.zeros((2, 2))
    base = crystal.pattern(none)
    columns = [base, *((crystal.pattern(STEP * part) - crystal.pattern(-STEP * part)) / (2 * STEP) for part in PARTS),
               (crystal.pattern(none, STEP) - crystal.pattern(none, -STEP)) / (2 * STEP)]
    design = np.stack(columns, -1).reshape(-1, len(columns))
    weighted = design / base.reshape(-1, 1)  # the variance of counts is their mean
    solve = np.linalg.solve(weighted.T @ design, weighted.T)

    def read(electrons):
        total, exx, eyy, rotation, _, intensity = solve @ np.asarray(electrons, float).reshape(len(electrons), -1).T
        bragg = total + intensity  # strain and rotation move the Bragg disks only
        return np.stack([exx / bragg, eyy / bragg, rotation / bragg, intensity / total])

    return read


def compared(maps, truth):
    """Slope on the truth and rms error, (2, 4), of maps (4, n)."""
    off = (maps - truth) - (maps - truth).mean(1, keepdims=True)
    x = truth - truth.mean(1, keepdims=True)
    return np.stack([1 + (x * off).sum(1) / (x * x).sum(1), np.sqrt((off**2).mean(1))])


def measure(counts, read, truth, methods=METHODS):
    """{method: (slopes and relative rms errors (2, 4), maps, parameter, seconds)} of a scan; None: not installed."""
    scan, positions, out = Measured(counts, estimate_noise(counts)), np.arange(SCAN**2).reshape(SCAN, SCAN), {}
    raw = read(scan.electrons)
    for name in methods:
        start, step = time.perf_counter(), EVERY.get(name, 1)
        at = positions[::step, ::step].ravel()
        x, unit = truth[:, at], compared(raw[:, at], truth[:, at])
        unit[0] = 1.0
        if name == "raw":
            found = "", scan.electrons
        elif name in OURS:
            found = "", ours(scan, OURS[name])[0]
        else:
            found = best(name, scan, at, lambda e, x=x, unit=unit: (compared(read(e), x) / unit)[1].max())
        out[name] = None
        if found is not None:
            maps = read(found[1])
            out[name] = compared(maps, x) / unit, maps, found[0], time.perf_counter() - start
    return out


def table(results, which):
    """Markdown of slopes (which = 0) or relative errors (1); results: {dose: {method: ...}}."""
    lines = ["| electrons per pattern | " + " | ".join(f"{dose:,}" for dose in results) + " |",
             "|---" * (len(results) + 1) + "|"]
    for name in next(iter(results.values())):
        cells = ["not installed" if found[name] is None else " / ".join(f"{x:.2f}" for x in found[name][0][which])
                 for found in results.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def figure(path, results, truth):
    """exx at each dose: truth, raw, prenet and the rival with the least rms error of exx; 1.3 times the true range."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(len(results), 4, figsize=(9, 2.3 * len(results)), squeeze=False, layout="constrained")
    limit = 130 * np.abs(truth[0] - truth[0].mean()).max()
    for row, (dose, found) in zip(axes, results.items(), strict=True):
        rivals = [name for name in RIVALS if found.get(name) and name not in EVERY]
        winner = min(rivals, key=lambda name: found[name][0][1, 0])
        shown = {"truth": truth, **{name: found[name][1] for name in ("raw", "prenet, scan-aware", winner)}}
        for ax, (name, maps) in zip(row, shown.items(), strict=True):
            exx = 100 * (maps[0] - maps[0].mean()).reshape(SCAN, SCAN)
            image = ax.imshow(exx, vmin=-limit, vmax=limit, cmap="RdBu_r")
            ax.set(title=name, xticks=[], yticks=[])
            if name != "truth":
                ax.set_xlabel("slope {:.2f}, rms {:.2f} of raw".format(*found[name][0][:, 0]), fontsize=8)
        row[0].set_ylabel(f"{dose:,} electrons")
    fig.colorbar(image, ax=axes, label="exx, %", shrink=0.6)
    fig.savefig(path, dpi=80)
    plt.close(fig)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--doses", type=int, nargs="+", default=[300, 2000, 20_000], help="electrons per pattern")
    parser.add_argument("--figure", type=Path, help="write the figure here, such as docs/slopes.png")
    parser.add_argument("--ours", action="store_true", help="only the raw counts, the local regression, and prenet")
    args = parser.parse_args()
    methods = ("raw", "best local regression", *OURS) if args.ours else METHODS
    warnings.filterwarnings("ignore")
    began = time.perf_counter()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT).stdout
    print(f"{datetime.date.today()}, commit {commit.strip()}, {os.cpu_count()} cores ({platform.machine()}), no GPU; "
          f"a scan of {SCAN} x {SCAN} patterns of {SIDE} x {SIDE} pixels at each dose.\n")
    crystal, (exx, eyy, rotation, intensity) = Crystal(), fields().reshape(4, -1)
    deformations = np.einsum("kn,kij->nij", [exx, eyy, rotation], PARTS[:3])
    clean = np.stack([crystal.pattern(*both) for both in zip(deformations, intensity, strict=True)])
    read = reader(crystal)
    truth, results = read(clean), {}
    for dose in args.doses:
        counts = np.random.default_rng((1, dose)).poisson(clean * dose).astype(np.uint16)
        results[dose] = measure(counts.reshape(SCAN, SCAN, SIDE, SIDE), read, truth, methods)
    for which, title in enumerate(("Slope of the map on the truth", "rms error relative to that of raw counts")):
        print(f"{title}: {' / '.join(NAMES)}.\n\n{table(results, which)}\n")
    spread = truth.std(1)
    for dose, found in results.items():
        error = compared(found["raw"][1], truth)[1]
        print(f"{dose:,} electrons: rms error of raw counts "
              + " / ".join(f"{value:.2g}" for value in error) + ", standard error of their slopes "
              + " / ".join(f"{value:.2g}" for value in error / spread / SCAN) + ". Parameters: "
              + ", ".join(f"{name} {each[2]}" for name, each in found.items() if each and each[2]) + ". Seconds: "
              + ", ".join(f"{name} {each[3]:.0f}" for name, each in found.items() if each and each[3]) + ".\n")
    if args.figure:
        figure(args.figure, results, truth)
    print(f"All of it took {time.perf_counter() - began:.0f} s.")


if __name__ == "__main__":
    main()
