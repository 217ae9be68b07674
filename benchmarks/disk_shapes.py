"""Test the sigma of the ellipse from the shape of the direct beam, on simulated probe disks and multislice scans.

    python benchmarks/disk_shapes.py [--scans 100] [--first 1000]

Probe disks have 4 to 60 px radius, 3e3 to 1e8 electrons in 1, 4 or 16 patterns, a bright rim, interference inside, a
slope or a quadrupole of the brightness, and the blur of a detector up to 2 px, with and without a second wider one.
Multislice scans are those of `simulation.simulate`. The origins are true within 0.02 px. The constants of
`fits/disk_edge.py` were set on the scans 0 to 449. It prints error / sigma (rms over both components), for all scans
and for those whose sigma is below the limit of acceptance.
"""

import argparse
import datetime
import subprocess

import numpy as np
from scipy.ndimage import gaussian_filter

from py4dstem_prenet.core import ellipse_matrix
from py4dstem_prenet.ellipse.decide import MAX_ELLIPSE_SIGMA, largest_sigma
from py4dstem_prenet.fits import fit_disk, pool_arrays
from py4dstem_prenet.simulation import simulate

FINE = 4  # samples along the side of a pixel


def drawn_disk(side, center, radius, vector, edge, brightness):
    """A disk with a soft edge, (side, side), of unit sum."""
    inverse = np.linalg.inv(np.asarray(ellipse_matrix(vector)))
    x, y = ((np.arange(side * FINE) + 0.5) / FINE - 0.5 - c for c in center)
    u, v = (inverse[k, 0] * x[:, None] + inverse[k, 1] * y for k in (0, 1))
    r = np.hypot(u, v)
    image = brightness(u / radius, v / radius, r / radius) / (1 + np.exp((r - radius) * 1.7 / edge))
    image = image.reshape(side, FINE, side, FINE).mean((1, 3))
    return image / image.sum()


def probe_scan(seed):
    """Patterns (n, side, side), origins (n, 2), true vector and radius of a probe disk."""
    rng = np.random.default_rng((seed, 11))
    length, angle = rng.uniform(0, 0.04), rng.uniform(0, 2 * np.pi)
    vector = length * np.array([np.cos(angle), np.sin(angle)])
    radius, count = float(np.exp(rng.uniform(np.log(4), np.log(60)))), int(rng.choice([1, 4, 16]))
    dose, side = float(np.exp(rng.uniform(np.log(3e3), np.log(1e8)))) / count, int(2.4 * radius + 40)
    blur, second = rng.uniform(0.3, 2.0) * (rng.random() < 0.6), rng.random() < 0.5
    rim, fringes = rng.uniform(0, 0.5) * (rng.random() < 0.5), rng.uniform(0, 0.25) * (rng.random() < 0.5)
    slope = rng.uniform(-0.15, 0.15, 2) * (rng.random() < 0.4)
    quadrupole = rng.uniform(-0.15, 0.15, 2) * (rng.random() < 0.3)
    phase, frequency, edge = rng.uniform(0, 6, 2), rng.uniform(1, 6, 2), rng.uniform(0.2, 0.5)

    def brightness(u, v, r):
        fringe = np.cos(frequency[0] * u + phase[0]) * np.cos(frequency[1] * v + phase[1])
        return ((1 + rim * np.exp(-(((r - 0.92) / 0.05) ** 2))) * (1 + fringes * fringe)
                * (1 + slope[0] * u + slope[1] * v) * (1 + quadrupole[0] * (u * u - v * v) + 2 * quadrupole[1] * u * v))

    patterns, origins = [], side / 2 + rng.uniform(-0.7, 0.7, (count, 2))
    for origin in origins:
        image = dose * (drawn_disk(side, origin, radius, vector, edge, brightness) + 1e-7)
        if blur:
            wide = gaussian_filter(image, 2.5 * blur) if second else 0.0
            image = (0.6 if second else 1.0) * gaussian_filter(image, blur) + 0.4 * wide
        patterns.append(rng.poisson(image))
    return np.array(patterns, float), origins + rng.normal(0, 0.02, origins.shape), vector, radius


def multislice_scan(seed):
    """The same of a multislice scan."""
    rng = np.random.default_rng((seed, 12))
    radius = float(np.exp(rng.uniform(np.log(3.5), np.log(20))))
    side, positions = (96 if radius < 10 else 160), int(rng.choice([2, 4, 8]))
    scan = simulate((positions, positions), (side, side), dose=float(np.exp(rng.uniform(np.log(300), np.log(1e5)))),
                    seed=seed + 4000, radius=radius, specimens=3, amplitude=1.5,
                    psf=float(rng.uniform(0, 1) * (rng.random() < 0.6)))
    angle, length = 2 * scan.truth["theta"], scan.truth["a"] / scan.truth["b"] - 1
    vector = length * np.array([np.cos(angle), np.sin(angle)])
    origins = np.stack([scan.truth["qx0"].ravel(), scan.truth["qy0"].ravel()], 1)
    return scan.counts.reshape(-1, side, side).astype(float), origins, vector, radius


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=100)
    parser.add_argument("--first", type=int, default=1000)
    args = parser.parse_args()
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    print(f"{datetime.date.today()}, commit {commit}\n\n| scans | error / sigma, rms | beyond three sigma | "
          f"sigma below {MAX_ELLIPSE_SIGMA:g} | error / sigma of these | median sigma |\n|---|---|---|---|---|---|")
    for name, draw in (("probe disks", probe_scan), ("multislice", multislice_scan)):
        ratios, sigmas = [], []
        for seed in range(args.first, args.first + args.scans):
            patterns, origins, vector, radius = draw(seed)
            fit = fit_disk(pool_arrays(patterns, *origins.T), radius * 1.02)
            error = fit.vector - vector
            ratios.append(error @ np.linalg.solve(fit.covariance, error) / 2)
            sigmas.append(largest_sigma(fit.covariance))
        ratios, small = np.array(ratios), np.array(sigmas) < MAX_ELLIPSE_SIGMA
        print(f"| {args.scans} {name} | {ratios.mean() ** 0.5:.2f} | {(ratios > 4.5).sum()} | {small.sum()} | "
              f"{ratios[small].mean() ** 0.5:.2f} | {np.median(sigmas):.4f} |", flush=True)


if __name__ == "__main__":
    main()
