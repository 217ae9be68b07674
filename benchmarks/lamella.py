"""Standard deviation of strain in an unstrained, uniform silicon lamella, with and without precession.

    python benchmarks/lamella.py [--radii 3 5 10 20] [--doses 1000 10000 100000]

Multislice silicon, 200 angstrom thick, 0.3 degrees off [110], at random probe positions; the camera length makes the
disks 3 to 20 px in radius; the descan is known. Precession is the mean over twelve directions of a beam that is tilted
by 0.5 degrees. Both methods get the true origin, are indexed with the true lattice, and have a lattice fitted to the
disks of each pattern:

- prenet: `find_bragg_disks` without a parameter; disks are weighted with the inverse of their variances.
- by hand: `find_Bragg_disks` with the true probe as the template and subpixel positions by upsampled correlation; disks
  are weighted with their intensity, as py4DSTEM does.

The standard deviation of exx and eyy over the positions, in 1e-4; `stated` is that of the sigmas of prenet.
"""

import argparse
import datetime
import os
import platform
import subprocess

import numpy as np
import torch
from disks import by_hand, lattice
from strain import quiet

from py4dstem_prenet.core import PrenetError
from py4dstem_prenet.disks import find_bragg_disks
from py4dstem_prenet.simulation import SAMPLES, draw_descan, project
from py4dstem_prenet.simulation.known import OPTICS, SILICON, KnownScan, patterns_of, zone_axis

SCAN = (6, 6)
THICKNESS, SLICE = 200.0, 2.0  # angstrom
DESCAN_PX = 3.0  # pixels, for disks of 5 px radius
TILT, PRECESSION = np.radians(0.3), np.radians(0.5)
AZIMUTHS = 12
REACH = 0.25  # of the shortest distance of two disks: farther from a point of the lattice, a disk is not indexed
MIN_DISKS = 5  # of which a lattice is fitted


def tilted(x, y):
    """Frame of the lamella for a beam tilted by small angles, radians."""
    turn = np.eye(3)
    turn[0, 2], turn[1, 2], turn[2, 0], turn[2, 1] = x, y, -x, -y
    return turn @ zone_axis((1, 1, 0), (0, 0, 1))


def patterns(precession):
    """Clean patterns (positions, GRID, GRID) of the lamella, and its frame."""
    angles = 2 * np.pi * np.arange(AZIMUTHS) / AZIMUTHS
    tilts = PRECESSION * np.stack([np.cos(angles), np.sin(angles)], 1) if precession else np.zeros((1, 2))
    layers = np.full(np.prod(SCAN), int(THICKNESS / SLICE))
    # The same seed for each tilt: the same atoms and probe positions.
    return sum(patterns_of(np.random.default_rng(3), SILICON, tilted(TILT + x, y), layers, slice_angstrom=SLICE,
                           antialias=True) for x, y in tilts) / len(tilts), tilted(TILT, 0)


def scan(clean, frame, radius):
    """A `KnownScan` with disks of a radius in pixels."""
    scale = radius / ((OPTICS.aperture - 1 / 6) / SAMPLES)
    side = int(84 * scale)
    count = len(clean)
    rng = np.random.default_rng(4)
    q0 = [(side - 1) / 2 + draw_descan(rng, SCAN, DESCAN_PX * scale) for _ in range(2)]
    origin = torch.from_numpy(np.stack(q0, -1).reshape(-1, 2)).float()
    image = project(clean, origin, torch.eye(2).expand(count, 2, 2), torch.full((count,), scale), (side, side))
    truth = dict(qx0=q0[0], qy0=q0[1], a=1.0, b=1.0, theta=0.0, frames=np.broadcast_to(frame, (*SCAN, 3, 3)),
                 radius=radius, sampling=SAMPLES * OPTICS.dk / scale)
    return KnownScan(image.clamp_min(0).numpy().reshape(*SCAN, side, side), truth)


def strains(rows, weights, points, origin):
    """(positions, 2): exx and eyy of each pattern, NaN where too few disks are indexed, and their variances."""
    found, variance = np.full((2, np.prod(SCAN), 2), np.nan)
    for k in range(len(found)):
        mine, steps = rows[:, 0] == k, np.vstack([np.zeros((1, 2)), points[k] - origin[k]])
        spacing = np.hypot(*steps[1:].T).min()
        away = np.hypot(*(rows[mine, None, 1:3] - origin[k] - steps).transpose(2, 0, 1))
        near = away.min(1) < REACH * spacing
        if near.sum() < MIN_DISKS:
            continue
        ideal, weight = steps[away.argmin(1)[near]], weights[mine][near]
        design = np.column_stack([np.ones(len(ideal)), ideal])
        matrix = np.linalg.inv((design * weight[:, None]).T @ design)
        solved = matrix @ (design * weight[:, None]).T @ (rows[mine, 1:3][near])
        found[k] = 1 - solved[1, 0], 1 - solved[2, 1]
        variance[k] = matrix[1, 1], matrix[2, 2]
    return found, variance


def measured(known, dose):
    """Standard deviations of exx and eyy: prenet, stated by prenet, by hand; and how many patterns have a lattice."""
    counts, radius = known.counts(dose), known.truth["radius"]
    origin = np.stack([known.truth["qx0"], known.truth["qy0"]], -1).reshape(-1, 2)
    points = lattice(known, SILICON)
    table = find_bragg_disks(counts, progress=False, origin=(known.truth["qx0"], known.truth["qy0"])).table
    rows = np.stack([table["position"], table["qx"], table["qy"]], 1)
    ours, variance = strains(rows, 2 / (table["sigma_qx"] ** 2 + table["sigma_qy"] ** 2), points, origin)
    hand = quiet(by_hand, counts, radius)
    hand = hand[hand[:, 3] > 0.01 * hand[:, 3].max()]
    theirs, _ = strains(hand, hand[:, 3] ** 2, points, origin)
    return (np.nanstd(ours, 0), np.sqrt(np.nanmean(variance, 0)), np.nanstd(theirs, 0),
            np.isfinite(ours[:, 0]).mean(), np.isfinite(theirs[:, 0]).mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--radii", type=float, nargs="+", default=[3, 5, 10, 20])
    parser.add_argument("--doses", type=int, nargs="+", default=[1000, 10_000, 100_000])
    args = parser.parse_args()
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    print(f"{np.prod(SCAN)} patterns; {datetime.date.today()}, commit {commit}, {os.cpu_count()} cores "
          f"({platform.machine()}), no GPU. Standard deviation of exx / eyy, 1e-4.\n")
    print("| precession | radius, px | electrons | prenet | stated | by hand | patterns with a lattice, prenet / by "
          "hand |\n" + "|---" * 7 + "|")
    for precession in (False, True):
        clean, frame = patterns(precession)
        for radius in args.radii:
            known = scan(clean, frame, radius)
            for dose in args.doses:
                begin = f"| {'0.5°' if precession else 'none'} | {radius:g} | {dose:,} |"
                try:
                    *values, ours, theirs = measured(known, dose)
                except PrenetError as refused:
                    print(f"{begin} refused: {refused} |" + " - |" * 3, flush=True)
                    continue
                cells = [" / ".join(f"{1e4 * v:.1f}" for v in pair) for pair in values]
                print(begin + " " + " | ".join(cells) + f" | {ours:.2f} / {theirs:.2f} |", flush=True)


if __name__ == "__main__":
    main()
