"""Denoise real patterns, and compare with held-out electrons of the same patterns.

    python benchmarks/real_denoising.py FOLDER

The electrons of each pattern are split into halves. One half is denoised, the other is the reference; the counting
noise of the reference is subtracted. Errors are squared, divided by the expected counts, averaged over pixels, and
given relative to those of the noisy half. The Gaussian filter and the SVD get the best parameter by the reference.
"""

import argparse
import datetime
import os
import platform
import subprocess
import warnings
from pathlib import Path

import denoisers
import numpy as np
from denoisers import Measured

from py4dstem_prenet.detector import estimate_noise, of_part, split

FILES = ("merlin_6bit_2x4.npz", "medipix_au_2x2.npy", "merlin_aupd_scan_16x16.npz")
RIVALS = ("best Gaussian", "best truncated SVD")
MIN_EXPECTED = 0.5  # electrons, of the weight of a pixel: dark pixels would dominate
EXPECTED_SIGMA_PX = 2.0  # smoothing of the mean pattern from which weights are taken


def weighted_error(estimate, reference, weight, good):
    """Mean squared error in units of the expected variance, without the counting noise of the reference."""
    return float((((estimate - reference) ** 2 - reference) / weight)[..., good].mean())


def measure(scan):
    """Errors relative to the noisy half, by method."""
    from scipy.ndimage import gaussian_filter

    noise = estimate_noise(scan)
    first, second = split(scan, noise, np.random.default_rng(0))
    half = Measured(np.asarray(first), of_part(noise))
    reference = Measured(np.asarray(second), of_part(noise)).electrons
    good = ~noise.bad_pixels
    weight = np.maximum(gaussian_filter(reference.mean(0), EXPECTED_SIGMA_PX), MIN_EXPECTED)

    def error(estimate):
        return weighted_error(estimate, reference, weight, good)

    at = np.arange(len(reference))
    noisy = error(half.electrons)
    rows = {name: denoisers.best(name, half, at, error) for name in RIVALS}
    out = {f"{name} ({pair[0]})": error(pair[1]) / noisy for name, pair in rows.items() if pair is not None}
    out["prenet, single patterns"] = error(denoisers.ours(half, False)[0]) / noisy
    out["prenet, scan-aware"] = error(denoisers.ours(half, True)[0]) / noisy
    return out, noise


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    print(f"{datetime.date.today()}, commit {commit}, {os.cpu_count()} cores ({platform.machine()}), no GPU.\n")
    print("| scan | electrons in a half | method | weighted error relative to the noisy half |\n|---|---|---|---|")
    for name in FILES:
        content = np.load(args.folder / name)
        scan = content["data"] if name.endswith(".npz") else content
        errors, noise = measure(scan)
        for method, value in errors.items():
            print(f"| {name.split('.')[0]} | {noise.dose / 2:.3g} | {method} | {value:.4f} |", flush=True)


if __name__ == "__main__":
    main()
