"""Test whether accepted ellipses are right within their sigma, on many small simulated scans.

    python benchmarks/acceptance.py [--cases 250] [--first 300]

The number of a case seeds its specimens, layout (one orientation, some grains, or another orientation at every
position), aperture, dose, detector and ellipse; the true origins are given. The constants in `ellipse/decide.py` and
`fits/disk_edge.py` were set on cases 0 to 299, 553 and 558; other cases are independent of them. It prints how many
ellipses were accepted, their errors, and how many errors exceed three sigma.
"""

import argparse
import datetime
import subprocess
from dataclasses import dataclass

import numpy as np
import torch

from py4dstem_prenet.core.geometry import ellipse_matrix
from py4dstem_prenet.detector.estimate import estimate_noise
from py4dstem_prenet.ellipse.measure import measure_ellipse
from py4dstem_prenet.simulation.bank import make_bank
from py4dstem_prenet.simulation.detector import blur
from py4dstem_prenet.simulation.pattern import project, rotation_matrix
from py4dstem_prenet.simulation.scan import draw_descan

SCAN, SHAPE = (8, 8), (128, 128)
GRAINS = 5
GAIN, OFFSET, READOUT, PSF = 12.0, 100.0, 4.0, 0.6  # of an integrating camera; half of the cases have one


@dataclass(frozen=True)
class Case:
    """counts: (*SCAN, *SHAPE), detector units. qx0, qy0: SCAN, true origins, px. radius: of the direct disk, px.

    vector: (2,) true ellipse. kind: of specimen. layout: "one", "grains" or "many" orientations. dose: electrons.
    """

    counts: np.ndarray
    qx0: np.ndarray
    qy0: np.ndarray
    radius: float
    vector: np.ndarray
    kind: str
    layout: str
    dose: float


def draw_case(number: int) -> Case:
    """The case of this number."""
    rng = np.random.default_rng((number, 77))
    bank = make_bank(5_000_000 + number, int(rng.integers(1, 4)))
    here = bank.radius == bank.radius[int(rng.integers(len(bank)))]  # one aperture: one specimen's patterns
    members = np.flatnonzero(here.numpy())
    kind, aperture = str(bank.kind[members[0]]), float(bank.radius[members[0]])
    count = SCAN[0] * SCAN[1]
    seeds = rng.random((GRAINS, 2)) * SCAN
    at = np.stack(np.meshgrid(*map(np.arange, SCAN), indexing="ij"), -1)
    grain = np.argmin(((at[:, :, None] - seeds) ** 2).sum(-1), -1).ravel()
    layout = "many" if kind == "isotropic" else str(rng.choice(["one", "grains", "grains", "many"]))
    if layout == "many":
        index, turn = rng.choice(members, count), rng.uniform(0, 2 * np.pi, count)
    elif layout == "grains":
        index, turn = rng.choice(members, GRAINS)[grain], rng.uniform(0, 2 * np.pi, GRAINS)[grain]
    else:
        index, turn = np.full(count, rng.choice(members)), np.full(count, rng.uniform(0, 2 * np.pi))
    # the bank must reach the detector's corners
    radius = float(rng.uniform(max(2.0, 0.55 * aperture), max(8.0, 0.55 * aperture + 3)))
    dose = float(np.exp(rng.uniform(np.log(100), np.log(1e6))))
    eps, theta = rng.uniform(0, 0.08), rng.uniform(0, 2 * np.pi)
    vector = eps * np.array([np.cos(theta), np.sin(theta)])
    qx0, qy0 = ((n - 1) / 2 + rng.uniform(-6, 6) + draw_descan(rng, SCAN, 3.0) for n in SHAPE)
    origin = torch.from_numpy(np.stack([qx0.ravel(), qy0.ravel()], 1)).float()
    matrix = ellipse_matrix(torch.from_numpy(vector).float()) @ rotation_matrix(torch.from_numpy(turn).float())
    clean = project(bank.intensity(torch.from_numpy(index)), origin, matrix,
                    torch.full((count,), 2 * radius / aperture), SHAPE) * (1e-6 * dose)
    if rng.random() < 0.5:
        counts = rng.poisson(clean.numpy()).astype(np.uint16)
    else:
        clean = blur(clean, torch.full((count,), PSF)).numpy()
        counts = GAIN * rng.poisson(clean) + OFFSET + rng.normal(0, READOUT, clean.shape)
        counts = np.clip(np.rint(counts), 0, 65535).astype(np.uint16)
    return Case(counts.reshape(*SCAN, *SHAPE), qx0, qy0, radius, vector, kind, layout, dose)


def measured(number: int) -> dict:
    """What the measurement says of a case, beside the truth."""
    case = draw_case(number)
    found = measure_ellipse(case.counts, case.qx0, case.qy0, case.radius, estimate_noise(case.counts), progress=False)
    off = found.vector - case.vector
    return {"kind": case.kind, "layout": case.layout, "dose": case.dose, "accepted": found.accepted,
            "error": float(np.hypot(*off)), "pull": float(np.sqrt(off @ np.linalg.solve(found.covariance, off))),
            "sigma": float(np.sqrt(np.linalg.eigvalsh(found.covariance).max())), "reason": found.reason}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=250)
    parser.add_argument("--first", type=int, default=300)
    args = parser.parse_args()
    rows = []
    for number in range(args.first, args.first + args.cases):
        rows.append({"case": number, **measured(number)})
        if rows[-1]["accepted"] and rows[-1]["pull"] > 3:
            print(f"beyond three sigmas: {rows[-1]}", flush=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    last = args.first + args.cases - 1
    print(f"cases {args.first} to {last}: scans of {SCAN[0]} x {SCAN[1]} patterns, 100 to 1,000,000 "
          f"electrons; {datetime.date.today()}, commit {commit}\n")
    print("| | cases | accepted | median error | largest error | beyond 3 sigmas |\n|---|---|---|---|---|---|")
    groups = {"all": rows, "glasses and powders": [r for r in rows if r["kind"] == "isotropic"],
              "crystals, one orientation": [r for r in rows if r["layout"] == "one"],
              "crystals, several": [r for r in rows if r["kind"] != "isotropic" and r["layout"] != "one"],
              "1,000 electrons and more": [r for r in rows if r["dose"] >= 1000]}
    for name, some in groups.items():
        accepted = [r for r in some if r["accepted"]]
        if accepted:
            errors = [r["error"] for r in accepted]
            print(f"| {name} | {len(some)} | {len(accepted)} | {np.median(errors):.4f} | {max(errors):.4f} | "
                  f"{sum(r['pull'] > 3 for r in accepted)} |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
