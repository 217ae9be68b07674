"""Speckles of an amorphous film and other diffuse structure: the law of speckles, and the rate of false disks.

    python benchmarks/speckles.py [--films N] [--seed S] [--diffuse]

Multislice patterns of an amorphous carbon film of 80 angstrom, 16 places on each film, without any crystal. First,
quantiles of the intensity over the aperture, relative to the mean over angles, beside those of gamma and log-normal
distributions of the same variance. Second, disks that are found with 0.5 false ones asked in a pattern, at several
doses; all of them are false. The direct beam and its radius are given.

With `--diffuse`, the same for 96 patterns of other structure, drawn by formula: a thick background with a slope, rings
of a powder, as wide as a disk and narrower, Kikuchi bands, and log-normal speckles of several sizes and strengths.
"""

import argparse

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.signal import fftconvolve
from scipy.stats import gamma, lognorm

from py4dstem_prenet.core import NoiseModel
from py4dstem_prenet.disks import LearnedDisks
from py4dstem_prenet.fits import Aperture
from py4dstem_prenet.simulation import Optics, grains, project

SIDE, RADIUS = 60, 4.92  # pixels
RADII = (14.0, 28.0)  # pixels; distances from the direct beam at which the brightness is compared
QUANTILES = (0.1587, 0.5, 0.9, 0.99, 0.999)
DOSES = (3_000, 30_000, 100_000, 300_000, 3_000_000)  # electrons per pattern
ASKED = 0.5  # false disks in a pattern
WIDE = 96  # pixels; side of the patterns of other structure
RINGS = ((20, 0.1), (28, 0.05), (36, 0.04))  # pixels, fractions of the beam; radius and intensity
BANDS = ((0.3, 9), (1.35, 12), (2.4, 7))  # radians, pixels; direction and half width of Kikuchi bands
SPECKLES = {"weak speckles": (0.5, 0.1), "speckles": (0.5, 0.3), "fine speckles": (0.2, 0.8),
            "long speckles": (1.5, 0.5)}
DIFFUSE = ("smooth", "thick, with a slope", "rings", "narrow rings", "Kikuchi bands", *SPECKLES)


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


def diffuse(kind, rng, at):
    """Expected pattern (WIDE, WIDE) of a direct beam and a diffuse background, fractions of the beam."""
    dx, dy = (axis - q for axis, q in zip(np.indices((WIDE, WIDE)), at, strict=True))
    distance = np.hypot(dx, dy)
    beam = 1 / (1 + np.exp((distance - RADIUS) / 0.25)) / (np.pi * RADIUS**2)
    smooth = np.exp(-distance / 14)
    smooth /= smooth.sum()
    if kind == "thick, with a slope":
        return 0.24 * beam + 0.76 * smooth * (1 + 0.4 * dx / 30).clip(0.2)
    if kind == "Kikuchi bands":
        bands = np.ones((WIDE, WIDE))
        for angle, half in BANDS:
            across = dx * np.cos(angle) + dy * np.sin(angle) - rng.uniform(-6, 6)
            bands *= (1 + 0.15 * (np.abs(across) < half) + 0.3 * np.exp(-0.5 * ((across - half) / 1.2) ** 2)
                      - 0.2 * np.exp(-0.5 * ((across + half) / 1.2) ** 2))
        return 0.24 * beam + 0.76 * smooth * bands
    if "rings" in kind:
        background = 0.05 * smooth
        for radius, weight in RINGS:
            away = distance - radius
            ring = np.exp(-0.5 * (away / 1.5) ** 2) if "narrow" in kind else (RADIUS**2 - away**2).clip(0) ** 0.5
            background += weight * ring / ring.sum()
        return 0.8 * beam + background
    field = np.zeros((WIDE, WIDE))
    if kind in SPECKLES:
        size, strength = SPECKLES[kind]
        field = gaussian_filter(rng.normal(size=field.shape), size * RADIUS)
        field = strength * field / field.std() - strength**2 / 2
    return 0.8 * beam + 0.2 * smooth * np.exp(field)


def false_disks(expected, direct, dose):
    """Disks that are found in a pattern without disks, and the relative structure."""
    shape = expected.shape[1:]
    noise = NoiseModel(1.0, 0.0, 0.0, np.zeros(shape, bool), counting=True, dose=1e4)
    counts = np.random.default_rng(dose).poisson(expected * dose).astype(np.float32)
    learned = LearnedDisks.learn(counts[:64], noise, Aperture(RADIUS, 0.3, (0.0, 0.0)), direct[:64], ASKED)
    disks, good, electrons, images = learned.searched(counts, direct)
    found, _ = learned.located(disks, good, electrons, images, direct)
    return len(found.pattern) / len(expected), learned.structure.relative


def other_structure(seed):
    """Print the false disks on other diffuse structure."""
    print("| false disks a pattern (relative structure) | " + " | ".join(f"{dose:,}" for dose in DOSES)
          + " |\n|---" + "|---" * len(DOSES) + "|")
    for kind in DIFFUSE:
        rng = np.random.default_rng(seed)
        direct = WIDE / 2 + rng.uniform(-1, 1, (96, 2))
        expected = np.array([diffuse(kind, rng, at) for at in direct])
        cells = ["{:.2f} ({:.2f})".format(*false_disks(expected, direct, dose)) for dose in DOSES]
        print(f"| {kind} | " + " | ".join(cells) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--diffuse", action="store_true", help="other diffuse structure alone")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.diffuse:
        other_structure(arguments.seed)
        return
    expected = films(arguments.films, arguments.seed)
    values = brightness(expected)
    variance, log_variance = values.var(), np.log1p(values.var())
    print("| quantile | measured | gamma | log-normal |\n|---|---|---|---|")
    for q in QUANTILES:
        print(f"| {q} | {np.quantile(values, q):.2f} | {gamma.ppf(q, 1 / variance, scale=variance):.2f} | "
              f"{lognorm.ppf(q, log_variance**0.5, scale=np.exp(-log_variance / 2)):.2f} |")
    direct = np.full((len(expected), 2), (SIDE - 1) / 2)
    print("\n| electrons | false disks a pattern | relative structure |\n|---|---|---|")
    for dose in DOSES:
        false, structure = false_disks(expected, direct, dose)
        print(f"| {dose:,} | {false:.2f} | {structure:.2f} |", flush=True)


if __name__ == "__main__":
    main()
