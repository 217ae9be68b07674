"""Pixel size from standards: error, calibration of sigma, refusals and wrong assignments.

    python benchmarks/pixel_size.py [--kind KIND] [--materials N] [--seed S] [--keep FOLDER]
    python benchmarks/pixel_size.py --crystals [--approximate ERROR] [--materials N] [--seed S] [--keep FOLDER] [--kept]
    python benchmarks/pixel_size.py --bounds [--materials N] [--seed S]

Scans of 12 x 12 patterns of 128 x 128 pixels, grains (one in a pattern) and powders (four in a pattern) of ten
materials, with random optics and ellipse, at 300, 3,000 and 30,000 electrons per pattern. Each scan is measured with
its own standard and with wrong ones of other lattices, first two that only weak rings tell apart: bcc and primitive
cubic, fcc and diamond or zinc blende, rocksalt and primitive cubic. The origin is known; the ellipse is not.

The second command measures scans of 6 x 6 patterns of one crystal of each material in four zone axes, tilted by up to
half a degree; the ellipse is not known, and measured with the pixel size. Without an approximate pixel size, nearly all
must be refused: the lattice of one zone axis is that of several crystals. With one, a wrong standard is accepted if its
lattice agrees; those whose flag `crystal_not_tested` lists the true crystal are counted apart.

The third command prints the Cramer-Rao bound of the pixel size from the expected radial profile of the pooled pattern,
outside the direct beam, for a known profile and for a profile on an unknown smooth background.

With `--keep`, pooled patterns and disks of each scan are written to a folder, or read from it if they are there, so
that assignment and fit can be measured again without the search for disks. With `--kept`, only those that are there
are measured.
"""

from __future__ import annotations

import argparse
import pickle
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import map_coordinates

from py4dstem_prenet.core import NoiseModel, as_scan, ellipse_matrix, ellipse_vector
from py4dstem_prenet.fits import pool
from py4dstem_prenet.pixel_size import background, measure_pooled_size, measure_spots
from py4dstem_prenet.simulation import Optics
from py4dstem_prenet.simulation.grains import simulate_grains
from py4dstem_prenet.simulation.known import Cubic, simulate_known, zone_axis

MATERIALS = {  # standard: crystal of the simulation
    "Al": Cubic("fcc", 4.04958, 13), "Fe": Cubic("bcc", 2.8665, 26), "Ge": Cubic("diamond", 5.65754, 32),
    "MgO": Cubic("rocksalt", 4.2117, (12, 8)), "TlCl": Cubic("cscl", 3.834, (81, 17)),
    "GaAs": Cubic("zincblende", 5.65325, (31, 33)), "SrTiO3": Cubic("perovskite", 3.905, (38, 22, 8)),
    "Pt": Cubic("fcc", 3.9237, 78), "Ta": Cubic("bcc", 3.3058, 73), "Ag": Cubic("fcc", 4.0862, 47),
}
_FCC, _DIAMOND, _PRIMITIVE = ("Fe", "Si", "TlCl", "Ti"), ("Mo", "LaB6", "Mg", "TlCl"), ("Cu", "Ge", "Ti", "Al")
WRONG = {"fcc": ("Ge", "ZnS", *_FCC), "rocksalt": ("TlCl", "Si", "Fe", "Ti"),
         "bcc": ("TlCl", "SrTiO3", "Ni", "Si", "Zn", "Ge"), "diamond": ("Pt", "MgO", *_DIAMOND),
         "zincblende": ("Pt", "MgO", *_DIAMOND), "cscl": ("Ta", "Fe", *_PRIMITIVE),
         "perovskite": ("Fe", "Ta", *_PRIMITIVE)}  # standards of other lattices
ZONES = {"001": (1, 0, 0), "011": (1, 0, 0), "111": (1, -1, 0), "112": (1, -1, 0)}  # zone axis: direction of the rows
DOSES = (300, 3_000, 30_000)  # electrons per pattern
TRUE_LIMIT = 0.02  # relative error beyond which an accepted pixel size of the right standard is a wrong assignment


def cases(seed, count):
    """Yield scans: material, kind and a function that simulates the scan."""
    rng = np.random.default_rng(seed)
    for number, (name, crystal) in enumerate(list(MATERIALS.items())[:count]):
        for kind, in_pattern in (("grains", 1), ("powder", 4)):
            optics = Optics(float(rng.choice([80e3, 200e3, 300e3])), rng.uniform(0.0085, 0.011), rng.uniform(5, 13))
            yield name, kind, partial(
                simulate_grains, crystal, (12, 12), grains=144, in_pattern=in_pattern, optics=optics,
                seed=100 * seed + 2 * number, ratio=rng.uniform(1, 1.04), theta=rng.uniform(0, np.pi),
                thickness=(60, 200), support=rng.uniform(0.1, 0.5))


def crystals(seed, count):
    """Yield scans of single crystals: material, zone axis and a function that simulates the scan."""
    rng = np.random.default_rng((seed, 1))
    for number, (name, crystal) in enumerate(list(MATERIALS.items())[:count]):
        for zone, rows in ZONES.items():
            tilt = np.eye(3)
            tilt[:2, 2] = np.radians(rng.uniform(-0.5, 0.5, 2))
            tilt[2, :2] = -tilt[:2, 2]
            frames = np.broadcast_to(tilt @ zone_axis([int(k) for k in zone], rows), (6, 6, 3, 3))
            yield name, zone, partial(
                simulate_known, crystal, frames, thickness=rng.uniform(50, 150), seed=100 * seed + number,
                ratio=rng.uniform(1, 1.04), theta=rng.uniform(0, np.pi))


def evidence(scan, dose):
    """Truth, pooled patterns, noise model and disks of a scan at one dose."""
    truth, counts = scan.truth, as_scan(scan.counts(dose))
    origin = np.stack([truth["qx0"].ravel(), truth["qy0"].ravel()], 1)
    noise = NoiseModel(1.0, 0.0, 0.0, np.zeros(counts.pattern_shape, bool), counting=True, dose=float(dose))
    pooled = pool(counts, truth["qx0"], truth["qy0"], noise)
    spots = measure_spots(counts, origin, np.ones(len(origin), bool), truth["radius"], noise, np.zeros(2))
    return truth, pooled, noise, spots


def kept_evidence(path, simulate, dose):
    """The evidence, read from a file or written to it; without a path, computed."""
    if path is not None and path.exists():
        return pickle.loads(path.read_bytes())
    found = evidence(simulate(), dose)
    if path is not None:
        path.write_bytes(pickle.dumps(found))
    return found


def bounds(scan, step=0.5, azimuths=240):
    """Compute Cramer-Rao bounds, relative, at one electron a pattern: known profile, and unknown background."""
    truth, side = scan.truth, scan.expected.shape[-1]
    radii, angles = np.arange(2.2 * truth["radius"] + 1.5, 0.47 * side, step), np.arange(azimuths) / azimuths
    ring = np.stack([np.cos(2 * np.pi * angles), np.sin(2 * np.pi * angles)])[..., None] * radii
    matrix = ellipse_matrix(ellipse_vector(truth["a"], truth["b"], truth["theta"]))
    total, covered = np.zeros(len(radii)), np.zeros(len(radii))
    for pattern, x, y in zip(scan.expected.reshape(-1, side, side), truth["qx0"].ravel(), truth["qy0"].ravel(),
                             strict=True):
        place = np.einsum("ij,jar->iar", matrix, ring) + np.array([x, y])[:, None, None]
        inside = ((place >= 0) & (place <= side - 1)).all(0)
        total += (map_coordinates(pattern, place, order=1) * inside).sum(0)
        covered += inside.sum(0)
    profile, pixels = total / covered, covered * radii * step * 2 * np.pi / azimuths
    root = np.sqrt(pixels / profile)
    slope = radii * np.gradient(profile, step) * root
    basis = np.linalg.qr(background(radii, 2 * truth["radius"] + 2.4) * root[:, None])[0]
    return 1 / np.linalg.norm(slope), 1 / np.linalg.norm(slope - basis @ (basis.T @ slope))


def print_bounds(seed, count):
    """Print the bounds of all scans and their rms at each dose."""
    found = []
    print(f"{'material':8} {'kind':7} {'dose':>6} {'known profile, %':>17} {'unknown background, %':>22}")
    for name, kind, simulate in cases(seed, count):
        found.append(bounds(simulate()))
        for dose in DOSES:
            known, free = 100 * np.array(found[-1]) / np.sqrt(dose)
            print(f"{name:8} {kind:7} {dose:6} {known:17.3f} {free:22.3f}", flush=True)
    for dose in DOSES:
        known, free = 100 * np.sqrt(np.square(found).mean(0) / dose)
        print(f"{'all, rms':16} {dose:6} {known:17.3f} {free:22.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--materials", type=int, default=len(MATERIALS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--wrong", type=int, default=6, help="wrong standards of each scan")
    parser.add_argument("--kind", choices=("grains", "powder"), help="only scans of this kind")
    parser.add_argument("--crystals", action="store_true", help="single crystals")
    parser.add_argument("--approximate", type=float, help="relative error of an approximate pixel size that is stated")
    parser.add_argument("--bounds", action="store_true", help="print the Cramer-Rao bounds only")
    parser.add_argument("--keep", type=Path, help="folder of the pooled patterns and disks")
    parser.add_argument("--kept", action="store_true", help="measure only what is in this folder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.bounds:
        return print_bounds(arguments.seed, arguments.materials)
    right, wrong = [], []
    print(f"{'material':8} {'kind':7} {'dose':>6} {'standard':8} {'from':6} {'error, %':>9} {'sigma, %':>9}  flags")
    if arguments.keep is not None:
        arguments.keep.mkdir(parents=True, exist_ok=True)
    for name, kind, simulate in (crystals if arguments.crystals else cases)(arguments.seed, arguments.materials):
        if arguments.kind not in (None, kind):
            continue
        simulate = cache(simulate)  # once for all doses
        for dose in DOSES:
            path = arguments.keep and arguments.keep / f"{arguments.seed}_{name}_{kind}_{dose}.pickle"
            if arguments.kept and not path.exists():
                continue
            truth, pooled, noise, spots = kept_evidence(path, simulate, dose)
            stated = None if arguments.approximate is None else truth["sampling"] * (1 + arguments.approximate)
            for standard in (name, *WRONG[MATERIALS[name].prototype][: arguments.wrong]):
                size = measure_pooled_size(pooled, truth["radius"], noise, standard, None, spots, stated)
                error = float(np.log(size.value / truth["sampling"]))
                print(f"{name:8} {kind:7} {dose:6} {standard:8} {size.evidence:6} {100 * error:9.3f} "
                      f"{100 * size.relative_sigma:9.3f}  {' '.join(flag.name for flag in size.flags)} "
                      f"{size.decision.numbers}", flush=True)
                if standard == name:
                    off = size.vector - ellipse_vector(truth["a"], truth["b"], truth["theta"])
                    right.append((kind, dose, size.accepted, error, size.relative_sigma, *off,
                                  *np.sqrt(np.diag(size.covariance)[1:])))
                else:
                    others = [flag.numbers["others"].split(", ") for flag in size.flags
                              if flag.name == "crystal_not_tested"]
                    wrong.append((size.accepted, any(name in listed for listed in others)))
    print(f"\n{'kind':7} {'dose':>6} {'accepted':>9} {'|error| median, %':>18} {'rms, %':>8} {'sigma median, %':>16} "
          f"{'error/sigma rms':>16} {'wrong':>6} {'ellipse vector: rms':>20} {'error/sigma rms':>16}")
    for kind in dict.fromkeys(row[0] for row in right):
        for dose in DOSES:
            rows = [row for row in right if row[:2] == (kind, dose)]
            taken = np.array([row[3:] for row in rows if row[2]])
            if not len(taken):
                print(f"{kind:7} {dose:6} {0:4} of {len(rows):2}")
                continue
            good = taken[np.abs(taken[:, 0]) < TRUE_LIMIT]
            print(f"{kind:7} {dose:6} {len(taken):4} of {len(rows):2} {100 * np.median(np.abs(good[:, 0])):18.3f} "
                  f"{100 * np.sqrt((good[:, 0] ** 2).mean()):8.3f} {100 * np.median(good[:, 1]):16.3f} "
                  f"{np.sqrt(((good[:, 0] / good[:, 1]) ** 2).mean()):16.2f} {len(taken) - len(good):6} "
                  f"{np.sqrt((good[:, 2:4] ** 2).mean()):20.4f} "
                  f"{np.sqrt(((good[:, 2:4] / good[:, 4:]) ** 2).mean()):16.2f}")
    wrong = np.array(wrong, bool).reshape(-1, 2)
    print(f"\nwrong standard accepted: {wrong[:, 0].sum()} of {len(wrong)}, "
          f"of these with a flag that lists the true crystal: {wrong.all(1).sum()}")


if __name__ == "__main__":
    main()
