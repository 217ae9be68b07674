"""Whether an accepted ellipse is what it says it is: many small simulated scans, with known truth.

    python benchmarks/acceptance.py [--cases 300] [--first 0]

Every case draws its own specimens, layout (one orientation, some grains, every position another), aperture, dose,
detector and ellipse from its number. Thresholds in `ellipse.py` were set on cases 0 to 999; later numbers are unseen.
Printed: how many were accepted, their errors, and in how many of them the error exceeds three of its sigmas.
"""

import argparse
import datetime
import subprocess
import warnings
from dataclasses import dataclass

import numpy as np
import torch

from py4dstem_prenet.polar import ellipse_matrix
from py4dstem_prenet.simulation.bank import make_bank
from py4dstem_prenet.simulation.detector import blur
from py4dstem_prenet.simulation.pattern import project, rotation_matrix
from py4dstem_prenet.simulation.scan import descan

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
    qx0, qy0 = ((n - 1) / 2 + rng.uniform(-6, 6) + descan(rng, SCAN, 3.0) for n in SHAPE)
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
