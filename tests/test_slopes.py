"""Slopes of what is measured from estimated patterns, against simulated crystals whose strain and intensities are known."""

import numpy as np
import pytest
from scipy.special import erf

from py4dstem_prenet.core.noise import NoiseModel
from py4dstem_prenet.core.slopes import slope_of_halves
from py4dstem_prenet.denoising.functionals import DISPLACEMENTS, QUANTITIES, measure_slopes

SIDE, RADIUS, EDGE = 64, 3.5, 0.7  # pixels
LATTICE = np.array([[12.1, 2.3], [-2.9, 11.3]])  # px, reciprocal lattice vectors as rows
DOSE = 4000.0  # electrons per pattern in both halves
SCAN = 14  # positions a side


def crystal(seed=0, strain=1.0, rotation=1.0, intensity=1.0, tilt=0.0, scan=SCAN):
    """Expected patterns (n, SIDE, SIDE) of one electron, and origins (n, 2), of a bent crystal of varying thickness.

    The arguments scale the fields: strain along qx of 1 % rms, rotation of 10 mrad rms, Bragg disks that vary by 25 % rms;
    phases of the fields depend on the seed.
    """
    rng = np.random.default_rng(seed)
    r, c = (axis.ravel() for axis in np.meshgrid(*[np.linspace(-1, 1, scan)] * 2, indexing="ij"))
    along = rng.uniform(0, 2 * np.pi, 3)
    exx = strain * 0.014 * np.sin(2.5 * c + along[0])
    turn = rotation * 0.014 * np.sin(2.5 * r + along[1])
    bragg = 1 + intensity * 0.35 * np.sin(3 * (r + c) + along[2])
    orders = [(h, k) for h in (-2, -1, 0, 1, 2) for k in (-2, -1, 0, 1, 2)]
    amplitudes = rng.uniform(0.15, 0.5, len(orders))
    origins = np.array([30.7, 32.4]) + 0.5 * np.stack([r + 0.3 * c, c], -1)
    axis = np.arange(SIDE)
    out = np.full((len(r), SIDE, SIDE), 2e-5)
    for order, amplitude in zip(orders, amplitudes, strict=True):
        g = np.array(order) @ LATTICE
        x = axis - (origins[:, :1] + (g[0] * (1 + exx) - turn * g[1])[:, None])
        y = axis - (origins[:, 1:] + (g[1] + turn * g[0])[:, None])
        disk = 0.5 * (1 - erf((np.hypot(x[:, :, None], y[:, None]) - RADIUS) / EDGE))
        weight = np.ones(len(r)) if order == (0, 0) else amplitude * bragg
        out += weight[:, None, None] * disk / (np.pi * RADIUS**2)
    return out / out.sum((1, 2)).mean(), origins


def slopes_of(estimate, clean, origins, seed, dose=DOSE):
    """Slopes of an estimate: expected patterns of one electron, or a function of half A in electrons."""
    rng = np.random.default_rng(1000 + seed)
    first, second = rng.poisson(clean * dose / 2, (2, *clean.shape)).astype(np.float32)
    estimate = estimate(first) if callable(estimate) else estimate * dose / 2
    noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((SIDE, SIDE), bool), True, dose / 2)
    return measure_slopes(estimate, first, second, origins, noise)
