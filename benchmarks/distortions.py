"""Distortions beyond the ellipse, from the disks of a standard: error, detection and false alarms.

    python benchmarks/distortions.py [--scans N] [--seed S]

Scans of 10 x 10 patterns of 128 x 128 pixels, one grain in a pattern, of six materials, with no distortion besides the
ellipse, with a radial one, and with a threefold one, at 30,000 electrons per pattern. The relative amplitudes are those
at half of the side of the pattern.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from py4dstem_prenet.core import NoiseModel
from py4dstem_prenet.pixel_size import measure_pixel_size
from py4dstem_prenet.simulation import Optics
from py4dstem_prenet.simulation.grains import simulate_grains
from py4dstem_prenet.simulation.known import Cubic

MATERIALS = {"Cu": Cubic("fcc", 3.61496, 29), "Cr": Cubic("bcc", 2.8839, 24), "Si": Cubic("diamond", 5.431144, 14),
             "LiF": Cubic("rocksalt", 4.0270, (3, 9)), "Nb": Cubic("bcc", 3.3004, 41), "Pd": Cubic("fcc", 3.8902, 46)}
DOSE = 30_000
KINDS = {"none": (0.0, 0.0), "radial 1 %": (0.01, 0.0), "radial 3 %": (0.03, 0.0), "threefold 1 %": (0.0, 0.01),
         "threefold 3 %": (0.0, 0.03)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=6, help="scans of each distortion")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(arguments.seed)
    rows: dict[str, list] = {kind: [] for kind in KINDS}
    for number in range(arguments.scans):
        name, crystal = list(MATERIALS.items())[number % len(MATERIALS)]
        optics = Optics(200e3, rng.uniform(0.0085, 0.011), rng.uniform(5, 11))
        for kind, (barrel, three) in KINDS.items():
            barrel *= rng.choice([-1, 1])
            angle = rng.uniform(0, 2 * np.pi)
            threefold = three * np.array([np.cos(angle), np.sin(angle)])
            scan = simulate_grains(crystal, (10, 10), grains=100, optics=optics, seed=1000 * arguments.seed + number,
                                   ratio=rng.uniform(1, 1.03), theta=rng.uniform(0, np.pi), thickness=(60, 200),
                                   barrel=barrel, threefold=threefold)
            counts, truth = scan.counts(DOSE), scan.truth
            noise = NoiseModel(1.0, 0.0, 0.0, np.zeros(counts.shape[2:], bool), counting=True, dose=float(DOSE))
            size = measure_pixel_size(counts, truth["qx0"], truth["qy0"], truth["radius"], noise, name, progress=False)
            factor = 64 / size.reference if np.isfinite(size.reference) else 1.0
            radial, fold = size.barrel * factor**2, size.threefold * factor
            off = radial - barrel, *(fold - threefold)
            sigma = size.barrel_sigma * factor**2, size.threefold_sigma * factor
            error = float(np.log(size.value / truth["sampling"]))
            rows[kind].append((size.accepted, bool(size.barrel), bool(size.threefold.any()), error,
                               size.relative_sigma, *off, *sigma))
            print(f"{kind:14} {name:3} accepted {size.accepted} radial {100 * radial:+.2f} ({100 * barrel:+.2f}) +- "
                  f"{100 * sigma[0]:.2f} threefold {np.round(100 * fold, 2)} ({np.round(100 * threefold, 2)}) +- "
                  f"{100 * sigma[1]:.2f} pixel size {100 * error:+.3f} +- {100 * size.relative_sigma:.3f} %",
                  flush=True)
    print(f"\n{'distortion':14} {'accepted':>9} {'radial':>7} {'threefold':>9} {'rms error, %':>13} {'ratio':>12} "
          f"{'pixel size rms, %':>18} {'error/sigma':>12}")
    for kind, (barrel, three) in KINDS.items():
        table = np.array(rows[kind], float)
        taken = table[np.isfinite(table[:, 3])]  # distortions are known of refused pixel sizes, too
        if not len(taken):
            continue
        found = taken[(taken[:, 1] if barrel else taken[:, 2]) > 0] if barrel or three else taken[:0]
        errors, ratio = np.nan, np.nan
        if len(found) and barrel:
            errors, ratio = np.sqrt((found[:, 5] ** 2).mean()), np.sqrt(((found[:, 5] / found[:, 8]) ** 2).mean())
        elif len(found):
            errors = np.sqrt((found[:, 6:8] ** 2).mean())
            ratio = np.sqrt(((found[:, 6:8] / found[:, 9:]) ** 2).mean())
        print(f"{kind:14} {int(table[:, 0].sum()):4} of {len(table):2} {int(taken[:, 1].sum()):7} "
              f"{int(taken[:, 2].sum()):9} "
              f"{100 * errors:13.3f} {ratio:12.2f} {100 * np.sqrt((taken[:, 3] ** 2).mean()):18.3f} "
              f"{np.sqrt(((taken[:, 3] / taken[:, 4]) ** 2).mean()):12.2f}")


if __name__ == "__main__":
    main()
