"""How often the test of a standard errs: the ellipse of one scan against that of another.

    python benchmarks/transfer.py [PAIRS]

Scans are simulated (powders, grains, glasses, mixtures) with the same ellipse, with one that differs by 0.01 as under
strain, and with one that differs by 0.04 as of another camera length. Both scans of a pair are calibrated through
`calibrate(like=)`. The table counts flags and refusals, and the error of what is written.
"""

import sys
import time
from collections import Counter

import numpy as np
from py4DSTEM import DataCube

from py4dstem_prenet import calibrate
from py4dstem_prenet.core import ellipse_vector
from py4dstem_prenet.simulation import simulate

OPTIONS = dict(scan=(6, 6), shape=(96, 96))
DOSES = (300.0, 3000.0, 30_000.0)
DIFFERENCES = (0.0, 0.01, 0.04)  # in a/b between standard and scan


def pair(seed, dose, difference):
    """Calibrate a standard and a scan like it; return the transfer and the true vector of the scan."""
    rng = np.random.default_rng(seed)
    ratio, theta = 1 + rng.uniform(0, 0.05), rng.uniform(0, np.pi)
    gold = simulate(**OPTIONS, dose=30_000.0, ratio=ratio, theta=theta, seed=1000 + seed)
    scan = simulate(**OPTIONS, dose=dose, ratio=ratio + difference, theta=theta, seed=2000 + seed)
    standard, cube = DataCube(gold.counts, name="standard"), DataCube(scan.counts)
    if not calibrate(standard, progress=False).ellipse.accepted:
        return None
    standard.calibration.set_Q_pixel_size(0.01)
    standard.calibration.set_Q_pixel_units("A^-1")
    report = calibrate(cube, progress=False, like=standard)
    if not report.origin.found:
        return None
    stored = cube.calibration.get_ellipse()
    truth = ellipse_vector(scan.truth["a"], scan.truth["b"], scan.truth["theta"])
    error = np.nan if stored is None else np.hypot(*np.subtract(ellipse_vector(*stored), truth))
    return report.transfer, error


def main(pairs):
    """Print the table."""
    print("| electrons | difference | pairs | agree | flagged | refused | untested | error of the ellipse, median |")
    print("|---|---|---|---|---|---|---|---|")
    for dose in DOSES:
        for difference in DIFFERENCES:
            count, errors = Counter(), []
            for seed in range(pairs):
                found = pair(seed, dose, difference)
                if found is None:
                    continue
                transfer, error = found
                has = transfer.decision.has
                count["refused" if has("standard_contradicted") else
                      "flagged" if has("standard_differs", "beam_shape_differs") else
                      "agree" if has("ellipse_agrees") else "untested"] += 1
                errors.append(error)
            print(f"| {dose:.0f} | {difference} | {len(errors)} | {count['agree']} | {count['flagged']} | "
                  f"{count['refused']} | {count['untested']} | {np.nanmedian(errors):.4f} |", flush=True)


if __name__ == "__main__":
    start = time.monotonic()
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
    print(f"\n{time.monotonic() - start:.0f} s")
