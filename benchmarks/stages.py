"""Measure how long each step takes that a user waits for, on one scan.

    python benchmarks/stages.py [FILE] [--standard NAME] [--only STEP ...]

Without FILE, the scan is 64 x 64 positions of 128 x 128 pixels of gold grains, 3,000 electrons per pattern. The table
gives seconds of wall time and of processor time, and patterns per second. Nothing of FILE is changed.
"""

import argparse
import datetime
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SCAN, PIECE, DOSE = 64, 16, 3000


def gold_scan(folder):
    """Write a scan of gold grains: a simulated piece, mirrored, with a parabolic descan and new counting noise."""
    from scipy.ndimage import fourier_shift

    from py4dstem_prenet.simulation.grains import simulate_grains
    from py4dstem_prenet.simulation.known import GOLD

    expected = simulate_grains(GOLD, (PIECE, PIECE), seed=5, amplitude=0.0).expected * DOSE
    waves = np.fft.fft2(expected)
    rng = np.random.default_rng(0)
    at = np.arange(SCAN) % (2 * PIECE - 2)
    at = np.minimum(at, 2 * PIECE - 2 - at)
    u = np.linspace(-1, 1, SCAN)
    path = Path(folder) / "gold.npy"
    counts = np.empty((SCAN, SCAN, *expected.shape[2:]), np.uint16)
    for row, column in np.ndindex(SCAN, SCAN):
        shift = 2 * u[row] + 0.5 * u[column] ** 2, u[row] * u[column] - 1.5 * u[column]
        pattern = np.fft.ifft2(fourier_shift(waves[at[row], at[column]], shift)).real
        counts[row, column] = rng.poisson(pattern.clip(0))
    np.save(path, counts)
    return path


def steps(datacube, folder, standard):
    """What users call, in this order."""
    prenet = datacube.prenet
    yield "`calibrate()`", lambda: prenet.calibrate(progress=False)
    if standard:
        yield f'`measure_pixel_size("{standard}")`', lambda: prenet.measure_pixel_size(standard, progress=False)
    yield "`show()`", prenet.show
    yield "`bragg_disks()`", lambda: prenet.bragg_disks(progress=False)
    yield '`bragg_disks(weights="precision")`', lambda: prenet.bragg_disks(weights="precision", progress=False)
    yield "`denoise()`", lambda: prenet.denoise(progress=False)
    yield "`check_denoising()`", prenet.check_denoising
    yield "`report(fast=True)`", lambda: prenet.report(folder / "fast.html", progress=False, fast=True)
    yield "`report()`", lambda: prenet.report(folder / "full.html", progress=False)


def main():
    import matplotlib

    matplotlib.use("Agg")
    import py4dstem_prenet

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", help="a scan; simulated by default")
    parser.add_argument("--standard", help="the crystal in it, such as Au; by default that of the simulated scan")
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the names of steps, besides calibrate")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        datacube = py4dstem_prenet.open(arguments.file or gold_scan(folder))
        positions = int(np.prod(datacube.Rshape))
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {datetime.date.today()}; "
              f"{datacube.Rshape[0]} x {datacube.Rshape[1]} positions of {datacube.Qshape[0]} x {datacube.Qshape[1]}")
        print("| step | seconds | processor seconds | patterns per second |\n|---|---|---|---|")
        for name, step in steps(datacube, folder, arguments.standard or (None if arguments.file else "Au")):
            if "calibrate" not in name and not any(part in name for part in arguments.only):
                continue
            wall, processor = time.perf_counter(), time.process_time()
            try:
                step()
            except py4dstem_prenet.PrenetError as error:
                print(f"{name}: {error}", file=sys.stderr)
                continue
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
            print(f"| {name} | {wall:.1f} | {processor:.1f} | {positions / wall:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
