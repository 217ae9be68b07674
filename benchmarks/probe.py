"""Bragg disks found with the measured probe, with the true one, and with py4DSTEM's own, on simulated scans.

    python benchmarks/probe.py [--scans 4]

Each scan has a region of vacuum and grains with contrast inside their disks. py4DSTEM's `get_vacuum_probe` gets a
boolean mask of the vacuum, which prenet has to find; all kernels are made with the same radii.
"""

from __future__ import annotations

import argparse
import contextlib
import io

import numpy as np
from py4DSTEM import DataCube, Probe
from scipy.spatial import cKDTree

from py4dstem_prenet.core import NoiseModel
from py4dstem_prenet.io import KERNEL_REACH, write_probe
from py4dstem_prenet.probe import draw_aperture, measure_probe
from py4dstem_prenet.simulation import simulate_nanobeam

DOSES = (300, 3_000, 30_000)
SHAPE, SIDE, EMPTY = (96, 96), 10, 3  # pattern; scan; columns of vacuum


def find(cube, kernel, truth, columns):
    """Squared distances in px of the disks that were found, and how many were missed, false, and there."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        vectors = cube.find_Bragg_disks(template=kernel, minPeakSpacing=8, edgeBoundary=6, minRelativeIntensity=0.02,
                                        maxNumPeaks=20, sigma_cc=1.0)
    squares, counts = [], np.zeros(3, int)
    for i in range(SIDE):
        for j in columns:
            found = np.stack([vectors.raw[i, j].qx, vectors.raw[i, j].qy], -1)
            true = truth["reflections"][i, j] + [truth["qx0"][i, j], truth["qy0"][i, j]]
            distance, nearest = cKDTree(found).query(true)
            near = distance < 2
            squares += list(distance[near] ** 2)
            counts += [(~near).sum(), len(found) - len(set(nearest[near])), len(true)]
    return squares, counts


def kernel_of(image, center, radius):
    """A kernel with the radii that prenet uses."""
    return Probe(np.array(image)).get_kernel(mode="sigmoid", origin=center, radii=(radius, KERNEL_REACH * radius))


def main():
    """Print a row for each dose and probe."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--scans", type=int, default=4)
    options = options.parse_args()
    print("| electrons | probe | center off, px | rms distance of disks, px | missed | false |")
    print("|---|---|---|---|---|---|")
    for dose in DOSES:
        rows = {name: ([], np.zeros(3, int), []) for name in ("prenet", "true", "get_vacuum_probe")}
        for seed in range(options.scans):
            radius = np.random.default_rng(seed).uniform(4, 8)
            made, vacuum = (simulate_nanobeam((SIDE, SIDE), SHAPE, field=0.0, grains=grains, radius=radius, seed=seed)
                            for grains in (12, 0))
            made.expected[:, :EMPTY] = vacuum.expected[:, :EMPTY]
            truth, counts = made.truth, made.counts(dose, seed)
            for k in ("qx0", "qy0"):
                truth[k][:, :EMPTY] = vacuum.truth[k][:, :EMPTY]
            noise = NoiseModel(1.0, 0.0, 0.0, np.zeros(SHAPE, bool), counting=True, dose=dose)
            cube = DataCube(counts.astype(np.float32))
            ours = measure_probe(counts, truth["qx0"], truth["qy0"], radius, noise, progress=False)
            edge = np.hypot(truth["edge"], 12**-0.5)
            true, _ = draw_aperture(SHAPE, ours.center, radius, edge)
            mask = np.zeros((SIDE, SIDE), bool)
            mask[:, :EMPTY] = True
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                theirs = cube.get_vacuum_probe(ROI=mask)
                _, *place = theirs.measure_disk(plot=False)
            write_probe(cube, ours)
            kernels = {"prenet": (cube.tree("probe").kernel, ours.image, ours.center),
                       "true": (kernel_of(true, ours.center, radius), true, ours.center),
                       "get_vacuum_probe": (kernel_of(theirs.probe, place, radius), None, None)}
            for name, (kernel, image, center) in kernels.items():
                squares, numbers = find(cube, kernel, truth, range(EMPTY, SIDE))
                rows[name][0].extend(squares)
                rows[name][1][:] += numbers
                if image is not None:
                    middle = [(image * axis).sum() / image.sum() for axis in np.indices(SHAPE)]
                    rows[name][2].append(np.abs(np.subtract(middle, center)).max())
        for name, (squares, (missed, false, total), off) in rows.items():
            print(f"| {dose:,} | {name} | {f'{max(off):.3f}' if off else ''} | {np.sqrt(np.mean(squares)):.3f} | "
                  f"{missed / total:.1%} | {false / total:.1%} |", flush=True)


if __name__ == "__main__":
    main()
