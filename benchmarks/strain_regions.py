"""Errors of the mean strain of regions, beside the sigmas that `region_strain` states.

    python benchmarks/strain_regions.py [--first 11] [--scans 6] [--doses 3000 30000]

Multislice scans as in `strain.py`: silicon along [110], a substrate and a layer whose strain grows across it, with a
thickness that varies along the rows, and random optics. The strain of blocks of 4 x 4 positions of both, relative to
the mean lattice of the substrate, is compared with the truth. "Alone" is the sigma of the mean if the errors of single
positions (`strain_sigma`) were independent.
"""

import argparse
import datetime
import os
import platform
import subprocess

import numpy as np
import py4DSTEM
from strain import COMPONENTS, SCAN, SUBSTRATE, quiet, scan, strain_map

import py4dstem_prenet  # noqa: F401
from py4dstem_prenet.disks import region_strain, strain_sigma

SIDE, COLUMNS = 4, 16  # positions along the side of a block; columns of substrate and layer


def mapped(counts):
    """The StrainMap of calibrated counts."""
    cube = py4DSTEM.DataCube(counts)
    cube.prenet.calibrate(progress=False)
    return strain_map(cube.prenet.bragg_disks(weights="precision", progress=False))


def regions(found, true):
    """(error, sigma, sigma of independent positions) of each block, (blocks, 3, 4)."""
    alone, rows = strain_sigma(found), []
    for top in range(0, SCAN[0], SIDE):
        for left in range(0, COLUMNS, SIDE):
            block = np.s_[top : top + SIDE, left : left + SIDE]
            result = region_strain(found, block, SUBSTRATE)
            truth = true[(slice(None), *block)].mean((1, 2)) - true[(slice(None), *SUBSTRATE)].mean((1, 2))
            one = np.sqrt(np.nansum(alone[(slice(None), *block)] ** 2, (1, 2))) / result.positions
            rows.append((result.value - truth, result.sigma, one))
    return np.array(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=11, help="first seed")
    parser.add_argument("--scans", type=int, default=6)
    parser.add_argument("--doses", type=int, nargs="+", default=[3000, 30_000])
    args = parser.parse_args()
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    print(f"{args.scans} scans of {SCAN[0]} x {SCAN[1]} patterns, seeds {args.first} on; {datetime.date.today()}, "
          f"commit {commit}, {os.cpu_count()} cores ({platform.machine()}). {' / '.join(COMPONENTS)}, in 1e-3.\n")
    print("| electrons | blocks | rms error | median sigma | alone | error / sigma, rms | error / alone, rms |")
    print("|---|---|---|---|---|---|---|")
    for dose in args.doses:
        blocks = []
        for seed in range(args.first, args.first + args.scans):
            known, true = scan(seed)
            blocks.append(regions(quiet(mapped, known.counts(dose)), true))
        error, sigma, alone = np.concatenate(blocks).swapaxes(0, 1)
        cells = (1e3 * np.sqrt((error**2).mean(0)), 1e3 * np.median(sigma, 0), 1e3 * np.median(alone, 0),
                 np.sqrt(((error / sigma) ** 2).mean(0)), np.sqrt(((error / alone) ** 2).mean(0)))
        print(f"| {dose:,} | {len(error)} | " + " | ".join(" / ".join(f"{v:.2f}" for v in cell) for cell in cells)
              + " |", flush=True)


if __name__ == "__main__":
    main()
