"""Rotation and flip on simulated scans with known answers, beside py4DSTEM's DPC.

    python benchmarks/rotation.py [--cases 100] [--seed 0]

Cases are drawn at random: scans at atomic resolution of crystals, glass, and islands of crystals; defocused scans;
small beams over smooth potentials, over grains with and without them; and vacuum. The dose is 300 to 30,000 electrons a
pattern. py4DSTEM gets the true origins, and its answer is counted as right if flip and angle (up to half a turn) are
within 1 degree.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import warnings
from collections import defaultdict

import numpy as np

from py4dstem_prenet.core import NoiseModel
from py4dstem_prenet.rotation import half_turn_distance, measure_rotation
from py4dstem_prenet.simulation import simulate_nanobeam, simulate_rotated

KINDS = ("crystal", "glass", "islands", "defocus", "potential", "grains", "grains only", "vacuum")
SIDE = 48  # positions along each side of a scan at atomic resolution


def draw_scan(rng):
    """(kind, dose, KnownScan) of a random case."""
    kind, seed = rng.choice(KINDS), int(rng.integers(1_000_000))
    turned = dict(rotation=rng.uniform(-np.pi, np.pi), flip=bool(rng.random() < 0.5), seed=seed)
    dose = float(10 ** rng.uniform(2.5, 4.5))
    if kind == "defocus":
        made = simulate_rotated(rng.choice(["glass", "islands"]), (24, 24), (64, 64), step=rng.uniform(2, 5),
                                defocus=rng.uniform(200, 600) * rng.choice([-1, 1]), layers=2, **turned)
    elif kind in ("potential", "grains", "grains only"):
        side = SIDE if kind == "potential" else 32
        made = simulate_nanobeam((side, side), (48, 48), field=0 if kind == "grains only" else rng.uniform(0.1, 0.6),
                                 length=rng.uniform(1.5, 4), grains=0 if kind == "potential" else rng.integers(4, 40),
                                 **turned)
    else:
        made = simulate_rotated(kind, (SIDE, SIDE), (48, 48), step=rng.uniform(0.3, 0.6), layers=rng.integers(1, 4),
                                **turned)
    return kind, dose, made, seed


def by_py4dstem(counts, truth):
    """Angle in degrees, up to half a turn, and flip that py4DSTEM's DPC finds about the true origins."""
    from py4DSTEM import DataCube
    from py4DSTEM.process.phase import DPC

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        dpc = DPC(datacube=DataCube(counts.astype(np.float32)), energy=200e3, verbose=False)
        dpc.preprocess(force_com_shifts=(truth["qx0"], truth["qy0"]), plot_center_of_mass=False, plot_rotation=False,
                       vectorized_com_calculation=True)
    return np.degrees(dpc._rotation_best_rad), bool(dpc._rotation_best_transpose)


def main():
    """Print one row for each kind of scan, and the pulls of what was accepted."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--cases", type=int, default=100)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--each", action="store_true", help="print each case")
    options = options.parse_args()
    rng = np.random.default_rng(options.seed)
    rows = defaultdict(list)
    for _ in range(options.cases):
        kind, dose, made, seed = draw_scan(rng)
        counts, truth = made.counts(dose, seed), made.truth
        noise = NoiseModel(1.0, 0.0, 0.0, np.zeros(counts.shape[2:], bool), counting=True, dose=dose)
        found = measure_rotation(counts, truth["qx0"], truth["qy0"], truth["radius"], noise, progress=False)
        angle = np.degrees(truth["rotation"])
        error = half_turn_distance(found.degrees, angle) if found.flip == truth["flip"] else np.inf
        turn = found.half_turn_determined and abs((found.degrees - angle + 180) % 360 - 180) > 90
        theirs, flip = by_py4dstem(counts, truth)
        rival = abs(half_turn_distance(theirs, angle)) if flip == truth["flip"] else np.inf
        rows[kind].append((found.accepted, error, found.sigma, found.accepted and found.half_turn_determined,
                           found.accepted and turn, rival))
        if options.each:
            print(f"{kind:12} {dose:6.0f} e  {'accepted' if found.accepted else 'refused ':8}  error {error:7.2f}  "
                  f"sigma {found.sigma:6.2f}  py4DSTEM {rival:6.2f}  {', '.join(f.name for f in found.flags)}",
                  flush=True)
    print("| scan | cases | accepted | rms error | largest error | rms error / sigma | half turn known (wrong) | "
          "py4DSTEM's DPC within 1 degree |\n|---|---|---|---|---|---|---|---|")
    for kind in (*KINDS, "all"):
        cases = [row for k, values in rows.items() for row in values if kind in (k, "all")]
        if not cases:
            continue
        accepted, error, sigma, half, wrong, rival = map(np.array, zip(*cases, strict=True))
        error, sigma = error[accepted], sigma[accepted]
        shown = "| |" if not len(error) else (f"{np.sqrt(np.mean(error**2)):.2f}° | {np.abs(error).max():.2f}° | "
                                                f"{np.sqrt(np.mean((error / sigma) ** 2)):.2f}")
        print(f"| {kind} | {len(cases)} | {accepted.sum()} | {shown} | {half.sum()} ({wrong.sum()}) | "
              f"{np.mean(rival < 1):.0%} |")
        if kind == "all" and len(error):
            print(f"\nLargest error / sigma of {len(error)} accepted: {np.abs(error / sigma).max():.2f}; beyond 1 "
                  f"degree: {(np.abs(error) > 1).sum()}.")


if __name__ == "__main__":
    main()
