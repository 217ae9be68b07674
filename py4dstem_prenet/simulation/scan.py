"""Whole scans with known truth: grains, descan, one ellipse, one detector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..core import PrenetError, ellipse_matrix
from .bank import make_bank
from .detector import blur
from .pattern import project, rotation_matrix

BATCH = 64


@dataclass(frozen=True)
class SimulatedScan:
    """counts: (Rx, Ry, Qx, Qy), detector units. clean: the same shape, float32, expected electrons.

    truth: qx0, qy0 (Rx, Ry), pixels; a, b, theta; radius of the direct disk, pixels; gain, offset, readout; dose; seed.
    """

    counts: np.ndarray
    clean: np.ndarray
    truth: dict


def descan(rng, scan, amplitude: float) -> np.ndarray:
    """A plane and a weaker parabola within +-amplitude, (Rx, Ry), pixels."""
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in scan), indexing="ij")
    c = rng.uniform(-1, 1, 5)
    surface = c[0] * x + c[1] * y + 0.4 * (c[2] * x * x + c[3] * y * y + c[4] * x * y)
    return amplitude * surface / max(np.abs(surface).max(), 1e-6)


def simulate(scan=(16, 16), shape=(128, 128), *, dose: float = 10_000, seed: int = 0, specimens: int = 6,
             ratio: float | None = None, theta: float | None = None, radius: float | None = None,
             amplitude: float = 3.0, gain: float = 1.0, offset: float = 0.0, readout: float = 0.0,
             psf: float = 0.0) -> SimulatedScan:
    """Simulate a scan over grains of random specimens.

    Args:
        scan: (Rx, Ry). shape: (Qx, Qy), pixels. dose: electrons in the whole beam, per pattern.
        specimens: how many random specimens the grains are of.
        ratio, theta: a / b and the angle of the ellipse; drawn (1 to 1.06) by default. radius: of the direct disk,
            pixels; 5 % of the smaller side by default.
        amplitude: of the descan, pixels. gain, offset, readout: detector units; psf: blur of the detector, pixels.

    Raises:
        PrenetError: a dose that is not positive, patterns smaller than 32 pixels, read-out noise that reaches zero.
    """
    if not dose > 0:
        raise PrenetError("The dose must be positive: electrons in a pattern.")
    if min(shape) < 32:
        raise PrenetError(f"Patterns must have at least 32 pixels on each side, not {tuple(shape)}.")
    if offset < 4 * readout:
        raise PrenetError(f"Read-out noise of {readout:g} units at an offset of {offset:g} would be cut off at zero; "
                          f"give an offset of at least {4 * readout:g}.")
    rng = np.random.default_rng((seed, 4))
    bank = make_bank(seed + 1000, specimens)
    ratio = float(rng.uniform(1, 1.06)) if ratio is None else float(ratio)
    theta = float(rng.uniform(0, np.pi)) if theta is None else float(theta)
    radius = 0.05 * min(shape) if radius is None else float(radius)
    qx0, qy0 = ((n - 1) / 2 + rng.uniform(-0.05, 0.05) * n + descan(rng, scan, amplitude) for n in shape)
    # Grains of a Voronoi map; each shows one pattern, a glass or powder another one at every position.
    seeds = rng.random((max(4, scan[0] * scan[1] // 12), 2)) * scan
    at = np.stack(np.meshgrid(*map(np.arange, scan), indexing="ij"), -1)
    grain = np.argmin(((at[:, :, None] - seeds) ** 2).sum(-1), -1).ravel()
    index = rng.integers(len(bank), size=len(seeds))[grain]
    turn = rng.uniform(0, 2 * np.pi, len(seeds))[grain]
    varied = bank.kind[index] == "isotropic"
    turn = np.where(varied, rng.uniform(0, 2 * np.pi, turn.shape), turn)
    eps = ratio - 1
    matrix = ellipse_matrix(torch.tensor([eps * np.cos(2 * theta), eps * np.sin(2 * theta)], dtype=torch.float32))
    origin = torch.from_numpy(np.stack([qx0.ravel(), qy0.ravel()], 1)).float()
    clean = np.empty((len(index), *shape), np.float32)
    for start in range(0, len(index), BATCH):
        part = slice(start, start + BATCH)
        chosen = torch.from_numpy(index[part])
        turned = matrix @ rotation_matrix(torch.from_numpy(turn[part]).float())
        drawn = project(bank.intensity(chosen), origin[part], turned, 2 * radius / bank.radius[chosen], shape)
        clean[part] = blur(drawn * (1e-6 * dose), torch.full((len(chosen),), float(psf))).numpy()
    clean = clean.reshape(*scan, *shape)
    measured = rng.poisson(clean).astype(np.float32)
    if (gain, offset, readout) != (1.0, 0.0, 0.0):
        measured = measured * gain + offset + rng.normal(0, readout, measured.shape).astype(np.float32)
    counts = np.rint(measured).clip(0)
    counts = counts.astype(np.uint16 if counts.max() < 2**16 else np.uint32)
    truth = dict(qx0=qx0, qy0=qy0, a=ratio**0.5, b=ratio**-0.5, theta=theta, radius=radius, gain=float(gain),
                 offset=float(offset), readout=float(readout), dose=float(dose), seed=int(seed))
    return SimulatedScan(counts, clean, truth)
