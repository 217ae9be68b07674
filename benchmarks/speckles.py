"""Speckles of an amorphous film: the law of their brightness, and the rate of false disks on them.

    python benchmarks/speckles.py [--films N] [--seed S]

Multislice patterns of an amorphous carbon film of 80 angstrom, 16 places on each film, without any crystal. First,
quantiles of the intensity over the aperture, relative to the mean over angles, beside those of gamma and log-normal
distributions of the same variance. Second, disks that are found with 0.5 false ones asked in a pattern, at several
doses; all of them are false. The direct beam and its radius are given.
"""

import argparse

import numpy as np
import torch
from scipy.signal import fftconvolve
from scipy.stats import gamma, lognorm

from py4dstem_prenet.core import NoiseModel
from py4dstem_prenet.disks import LearnedDisks
from py4dstem_prenet.fits import Aperture
from py4dstem_prenet.simulation import Optics, grains, project

SIDE, RADIUS = 60, 4.92  # pixels
RADII = (14.0, 28.0)  # pixels; distances from the direct beam at which the brightness is compared
QUANTILES = (0.1587, 0.5, 0.9, 0.99, 0.999)
DOSES = (3_000, 30_000, 100_000, 300_000)  # electrons per pattern
ASKED = 0.5  # false disks in a pattern


def films(count, seed):
    """Expected patterns (16 * count, SIDE, SIDE), fractions of the beam."""
    grains.FILM_PATTERNS = 16
    middle, same = torch.full((16, 2), (SIDE - 1) / 2), torch.eye(2).expand(16, 2, 2)
    return np.concatenate([project(
        grains._film(np.random.default_rng((seed, k)), Optics(200e3, 0.01, 2 * RADIUS + 1 / 6)), middle, same,
        torch.ones(16), (SIDE, SIDE)).numpy().clip(0) for k in range(count)])


def brightness(expected):
    """Relative intensities over the aperture at all places of RADII."""
    distance = np.hypot(*(np.indices((SIDE, SIDE)) - (SIDE - 1) / 2))
    ring = np.rint(distance).astype(int)
    profile = np.bincount(ring.ravel(), expected.mean(0).ravel()) / np.bincount(ring.ravel()).clip(1)
    reach = int(np.ceil(RADIUS))
    aperture = np.hypot(*(np.indices((2 * reach + 1,) * 2) - reach)) < RADIUS
    sums = [fftconvolve(image / profile[ring].clip(1e-12), aperture, mode="same") for image in expected]
    values = np.array(sums)[:, (distance > RADII[0]) & (distance < RADII[1])].ravel()
    return values / values.mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    expected = films(arguments.films, arguments.seed)
    values = brightness(expected)
    variance, log_variance = values.var(), np.log1p(values.var())
    print("| quantile | measured | gamma | log-normal |\n|---|---|---|---|")
    for q in QUANTILES:
        print(f"| {q} | {np.quantile(values, q):.2f} | {gamma.ppf(q, 1 / variance, scale=variance):.2f} | "
              f"{lognorm.ppf(q, log_variance**0.5, scale=np.exp(-log_variance / 2)):.2f} |")
    noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((SIDE, SIDE), bool), counting=True, dose=1e4)
    direct = np.full((len(expected), 2), (SIDE - 1) / 2)
    print("\n| electrons | false disks a pattern | relative structure |\n|---|---|---|")
    for dose in DOSES:
        counts = np.random.default_rng(dose).poisson(expected * dose).astype(np.float32)
        learned = LearnedDisks.learn(counts[:64], noise, Aperture(RADIUS, 0.3, (0.0, 0.0)), direct[:64], ASKED)
        disks, good, electrons, images = learned.searched(counts, direct)
        found, _ = learned.located(disks, good, electrons, images, direct)
        print(f"| {dose:,} | {len(found.pattern) / len(expected):.2f} | {learned.structure.relative:.2f} |", flush=True)


if __name__ == "__main__":
    main()
