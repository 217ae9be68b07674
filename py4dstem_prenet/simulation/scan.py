"""Simulation of whole scans with known truth: grains, descan, one elliptical distortion, one detector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..core import PrenetError, ellipse_matrix
from . import blur, make_bank, project, rotation_matrix

PROJECTION_BATCH = 64  # patterns made at a time: for memory


@dataclass(frozen=True)
class SimulatedScan:
    """A simulated scan with its truth.

    Attributes
    ----------
    counts : numpy.ndarray
        (Rx, Ry, Qx, Qy), uint16 or uint32, detector units.
    clean : numpy.ndarray
        Expected electrons, (Rx, Ry, Qx, Qy), float32.
    truth : dict
        qx0, qy0: origins, (Rx, Ry), pixels; a, b, theta: ellipse; radius: of the direct disk, pixels; gain, offset,
        readout: detector units; dose: electrons per pattern; seed.
    """

    counts: np.ndarray
    clean: np.ndarray
    truth: dict


def draw_descan(rng, scan, amplitude: float) -> np.ndarray:
    """Draw a random descan: a plane and a weaker parabola.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the coefficients.
    scan : tuple of int
        (Rx, Ry).
    amplitude : float
        Largest absolute value, pixels.

    Returns
    -------
    numpy.ndarray
        Shift along one detector axis, (Rx, Ry), pixels.

    Examples
    --------
    >>> import numpy as np
    >>> descan = draw_descan(np.random.default_rng(0), (8, 8), amplitude=3.0)
    >>> descan.shape, round(float(np.abs(descan).max()), 6)
    ((8, 8), 3.0)
    """
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in scan), indexing="ij")
    c = rng.uniform(-1, 1, 5)
    surface = c[0] * x + c[1] * y + 0.4 * (c[2] * x * x + c[3] * y * y + c[4] * x * y)
    return amplitude * surface / max(np.abs(surface).max(), 1e-6)


def draw_origins(rng, scan, shape, offset: float, amplitude: float) -> np.ndarray:
    """Draw the origin at every scan position: near the middle of the pattern, with a descan.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of all random numbers.
    scan : tuple of int
        (Rx, Ry).
    shape : tuple of int
        (Qx, Qy), pixels.
    offset : float
        Largest distance of the mean origin from the middle along each axis, fraction of the side.
    amplitude : float
        Amplitude of the descan, pixels.

    Returns
    -------
    numpy.ndarray, shape (2, Rx, Ry)
        qx0 and qy0, pixels.
    """
    return np.stack([(side - 1) / 2 + rng.uniform(-offset, offset) * side + draw_descan(rng, scan, amplitude)
                     for side in shape])


def voronoi_grains(scan, seeds) -> np.ndarray:
    """Number the grains of a scan, the cells of a Voronoi map.

    Parameters
    ----------
    scan : tuple of int
        (Rx, Ry).
    seeds : numpy.ndarray, shape (n, 2)
        A point of each grain, scan positions.

    Returns
    -------
    numpy.ndarray of int, shape (Rx, Ry)
        Number of the nearest point.

    Examples
    --------
    >>> voronoi_grains((1, 4), np.array([[0.0, 0.0], [0.0, 3.0]])).tolist()
    [[0, 0, 1, 1]]
    """
    at = np.stack(np.meshgrid(*map(np.arange, scan), indexing="ij"), -1)
    return np.argmin(((at[:, :, None] - seeds) ** 2).sum(-1), -1)


def simulate(scan=(16, 16), shape=(128, 128), *, dose: float = 10_000, seed: int = 0, specimens: int = 6,
             ratio: float | None = None, theta: float | None = None, radius: float | None = None,
             amplitude: float = 3.0, gain: float = 1.0, offset: float = 0.0, readout: float = 0.0,
             psf: float = 0.0, grains: int | None = None) -> SimulatedScan:
    """Simulate a scan over grains of random specimens.

    Parameters
    ----------
    scan : tuple of int
        (Rx, Ry).
    shape : tuple of int
        (Qx, Qy), pixels, at least 32.
    dose : float
        Electrons in the whole beam, per pattern.
    seed : int
        Seed of all random numbers.
    specimens : int
        Number of random specimens among the grains.
    ratio : float, optional
        a / b of the ellipse; random between 1 and 1.06 by default.
    theta : float, optional
        Angle of the a axis from x toward y, radians; random by default.
    radius : float, optional
        Radius of the direct disk, pixels; 5 % of the smaller side by default.
    amplitude : float
        Amplitude of the descan, pixels.
    gain : float
        Detector units per electron.
    offset : float
        Detector units without electrons.
    readout : float
        Read-out noise, rms detector units.
    psf : float
        Standard deviation of the point spread function, pixels.
    grains : int, optional
        Number of grains; by default one for twelve positions.

    Returns
    -------
    SimulatedScan
        Counts, expected electrons and truth.

    Raises
    ------
    PrenetError
        The dose is not positive, patterns are smaller than 32 pixels, or read-out noise would reach negative values,
        which unsigned integers cut off.

    Examples
    --------
    >>> scan = simulate((2, 2), (32, 32), dose=1000, specimens=1)
    >>> scan.counts.shape, scan.truth["qx0"].shape
    ((2, 2, 32, 32), (2, 2))
    """
    if not dose > 0:
        raise PrenetError("The dose (electrons per pattern) must be positive.")
    if min(shape) < 32:
        raise PrenetError(f"Patterns must have at least 32 pixels on each side, not {tuple(shape)}.")
    if offset < 4 * readout:
        raise PrenetError(f"Read-out noise of {readout:g} units at an offset of {offset:g} gives negative counts, "
                          f"which unsigned integers cannot hold; give an offset of at least {4 * readout:g}.")
    rng = np.random.default_rng((seed, 4))
    bank = make_bank(seed + 1000, specimens)
    ratio = float(rng.uniform(1, 1.06)) if ratio is None else float(ratio)
    theta = float(rng.uniform(0, np.pi)) if theta is None else float(theta)
    radius = 0.05 * min(shape) if radius is None else float(radius)
    qx0, qy0 = draw_origins(rng, scan, shape, 0.05, amplitude)
    # Grains of a Voronoi map. A grain repeats one pattern; glasses and powders are rotated at random at each position.
    seeds = rng.random((grains or max(4, scan[0] * scan[1] // 12), 2)) * scan
    grain = voronoi_grains(scan, seeds).ravel()
    index = rng.integers(len(bank), size=len(seeds))[grain]
    turn = rng.uniform(0, 2 * np.pi, len(seeds))[grain]
    isotropic = bank.kind[index] == "isotropic"
    turn = np.where(isotropic, rng.uniform(0, 2 * np.pi, turn.shape), turn)
    eps = ratio - 1
    matrix = ellipse_matrix(torch.tensor([eps * np.cos(2 * theta), eps * np.sin(2 * theta)], dtype=torch.float32))
    origin = torch.from_numpy(np.stack([qx0.ravel(), qy0.ravel()], 1)).float()
    clean = np.empty((len(index), *shape), np.float32)
    for start in range(0, len(index), PROJECTION_BATCH):
        part = slice(start, start + PROJECTION_BATCH)
        chosen = torch.from_numpy(index[part])
        turned = matrix @ rotation_matrix(torch.from_numpy(turn[part]).float())
        projected = project(bank.intensity(chosen), origin[part], turned, 2 * radius / bank.radius[chosen], shape)
        clean[part] = blur(projected * (1e-6 * dose), torch.full((len(chosen),), float(psf))).numpy()
    clean = clean.reshape(*scan, *shape)
    measured = rng.poisson(clean).astype(np.float32)
    if (gain, offset, readout) != (1.0, 0.0, 0.0):
        measured = measured * gain + offset + rng.normal(0, readout, measured.shape).astype(np.float32)
    counts = np.rint(measured).clip(0)
    counts = counts.astype(np.uint16 if counts.max() < 2**16 else np.uint32)
    truth = dict(qx0=qx0, qy0=qy0, a=ratio**0.5, b=ratio**-0.5, theta=theta, radius=radius, gain=float(gain),
                 offset=float(offset), readout=float(readout), dose=float(dose), seed=int(seed))
    return SimulatedScan(counts, clean, truth)
