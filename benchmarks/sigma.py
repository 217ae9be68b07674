"""Error over stated sigma of origin, descan fit and disk radius, in scans of few to many grains.

    python benchmarks/sigma.py [--scans 100] [--first 1000]

Scan k is simulated by multislice with seed k; grains, specimens, dose, disk radius and size of the scan are drawn. What
the specimen does to the direct beam is common to a grain, so that it does not average out over the scan. Scans whose
fit is refused are counted; scans off by more than MAX_GROSS_PX took another disk for the direct beam, and are counted
apart.
"""

import argparse
import datetime
import platform
import subprocess
import warnings

import numpy as np

from py4dstem_prenet.descan import fit_origin
from py4dstem_prenet.origin import measure_origin
from py4dstem_prenet.simulation import simulate

SIDE = 96
GRAINS, DOSES = (1, 2, 3, 6, None), (300, 3_000, 30_000)
MAX_GROSS_PX = 0.5  # mean error of a scan along one axis


def run(seed):
    """Grains, dose, rms of error / sigma of positions and fit, and that of the radius; None where it is refused."""
    rng = np.random.default_rng((seed, 77))
    grains, dose = GRAINS[seed % len(GRAINS)], float(rng.choice(DOSES))
    specimens, radius, n = int(rng.choice([1, 1, 2, 6])), SIDE * rng.uniform(0.025, 0.12), int(rng.choice([8, 12, 14]))
    scan = simulate((n, n), (SIDE, SIDE), dose=dose, seed=seed, specimens=specimens, radius=radius, grains=grains)
    truth = np.stack([scan.truth["qx0"], scan.truth["qy0"]])
    origin = measure_origin(scan.counts, progress=False)
    if not origin.found:
        return grains, dose, None
    fit = fit_origin(origin)
    error = np.stack([origin.qx0, origin.qy0]) - truth
    pull = (error / [origin.sigma_qx0, origin.sigma_qy0])[:, origin.valid]
    fit_pull = (np.stack([fit.qx0, fit.qy0]) - truth) / [fit.sigma_qx0, fit.sigma_qy0]
    gross = np.abs(np.median(error[:, origin.valid], 1)).max() > MAX_GROSS_PX
    return grains, dose, "gross" if gross else None if not fit.accepted else (
        rms(pull), rms(fit_pull), (origin.radius - radius) / origin.radius_sigma)


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=100)
    parser.add_argument("--first", type=int, default=1000)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    print(f"{datetime.date.today()}, commit {commit}, {platform.machine()}, no GPU.\n")
    print("| grains | electrons | scans | refused | gross | positions, rms | fit, rms | fit, median | fit, largest | "
          "radius, rms | radius without sigma |")
    print("|" + "---|" * 11)
    results = [run(seed) for seed in range(args.first, args.first + args.scans)]
    some = [(g, None) for g in GRAINS] + [(0, d) for d in DOSES] + [(0, None)]
    for grains, dose in some:
        chosen = [r[2] for r in results if grains in (0, r[0]) and dose in (None, r[1])]
        pulls = np.array([r for r in chosen if isinstance(r, tuple)])
        if len(pulls):
            print(f"| {'all' if grains == 0 else grains or 'many'} | {dose or 'all'} | {len(chosen)} | "
                  f"{chosen.count(None)} | {chosen.count('gross')} | {rms(pulls[:, 0]):.2f} | {rms(pulls[:, 1]):.2f} | "
                  f"{np.median(pulls[:, 1]):.2f} | {pulls[:, 1].max():.1f} | "
                  f"{np.sqrt(np.nanmean(pulls[:, 2] ** 2)):.2f} | {np.isnan(pulls[:, 2]).sum()} |")


if __name__ == "__main__":
    main()
