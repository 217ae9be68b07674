"""Simulation of scans of many grains or of a powder of a known crystal, as truth for the pixel size.

Each grain has a random orientation and passes the multislice of `known.py`. Positions of disks are exact: those of the
crystal, within the resolution of the illuminated patch. The pattern is then distorted by the ellipse and the higher
orders of the camera, shifted by the descan, and sampled.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import map_coordinates, spline_filter
from scipy.spatial.transform import Rotation

from ..core import PrenetError, ellipse_matrix, ellipse_vector
from . import (
    GRID,
    OPTICS,
    PROJECTION_BATCH,
    SAMPLES,
    SLICE_ANGSTROM,
    Cubic,
    KnownScan,
    Specimen,
    atoms_to_phase,
    blur,
    draw_origins,
    multislice,
    patterns_of,
    probe,
    project,
    rotation_matrix,
    voronoi_grains,
)

FILM_ANGSTROM, FILM_DENSITY = 80.0, 0.1  # thickness and atoms per cubic angstrom of the carbon film
FILM_PATTERNS = 8  # places on it


def simulate_grains(crystal: Cubic, scan=(8, 8), shape=(128, 128), *, grains: int = 64, in_pattern: int = 1,
                    thickness=(60.0, 160.0), support: float = 0.3, optics=OPTICS, seed: int = 0, ratio: float = 1.03,
                    theta: float = 0.6, amplitude: float = 2.0, barrel: float = 0.0, threefold=(0.0, 0.0),
                    psf: float = 0.0) -> KnownScan:
    """Simulate a scan of grains of random orientation.

    Parameters
    ----------
    crystal : Cubic
        The crystal.
    scan : tuple of int
        (Rx, Ry).
    shape : tuple of int
        (Qx, Qy), pixels.
    grains : int
        Number of random orientations. Each appears with random in-plane rotations.
    in_pattern : int
        Grains that contribute to one pattern: 1 for a scan of separate grains, several for a powder.
    thickness : tuple of float
        Smallest and largest thickness of a grain, angstrom.
    support : float
        Fraction of a pattern that comes from an amorphous film.
    optics : Optics
        Illumination and sampling.
    seed : int
        Seed of all random numbers.
    ratio, theta : float
        a / b and angle (radians) of the ellipse of the camera.
    amplitude : float
        Amplitude of the descan, pixels.
    barrel : float
        Relative change of the radius at half of the shorter side of the pattern; it grows with the square of the
        radius.
    threefold : tuple of float
        Amplitudes of cos 3 phi and sin 3 phi in the relative change of the radius at half of the shorter side of the
        pattern; they grow with the radius.
    psf : float
        Standard deviation of the point spread function of the detector, pixels.

    Returns
    -------
    KnownScan
        Expected patterns and truth; "frames" holds the orientations of the grains, (grains, 3, 3).

    Raises
    ------
    PrenetError
        A number is not positive.

    Examples
    --------
    >>> from py4dstem_prenet.simulation.grains import simulate_grains
    >>> from py4dstem_prenet.simulation.known import GOLD
    >>> simulate_grains(GOLD, (2, 2), (64, 64), grains=1, thickness=(8, 16)).expected.shape
    (2, 2, 64, 64)
    """
    if min(grains, in_pattern) < 1 or not 0 < thickness[0] <= thickness[1]:
        raise PrenetError("grains, in_pattern and thickness must be positive.")
    rng = np.random.default_rng((seed, 7))
    frames = Rotation.random(grains, random_state=int(rng.integers(2**31))).as_matrix()
    layers = np.maximum(1, np.rint(rng.uniform(*thickness, grains) / SLICE_ANGSTROM)).astype(int)
    bank = torch.cat([patterns_of(rng, crystal, frame, [n], optics) for frame, n in zip(frames, layers, strict=True)])
    film = _film(rng, optics)
    number = scan[0] * scan[1]
    qx0, qy0 = draw_origins(rng, scan, shape, 0.03, amplitude)
    origin = np.stack([qx0.ravel(), qy0.ravel()], 1)
    if in_pattern == 1:  # a Voronoi map of grains
        seeds = rng.random((grains, 2)) * scan
        chosen = voronoi_grains(scan, seeds).reshape(-1, 1)
        turn = rng.uniform(0, 2 * np.pi, grains)[chosen]
    else:
        # Each orientation appears at neighboring positions only, so that parts of the scan are independent.
        chosen = (np.arange(number * in_pattern) * grains // (number * in_pattern)).reshape(number, in_pattern)
        turn = rng.uniform(0, 2 * np.pi, chosen.shape)
    matrix = torch.from_numpy(ellipse_matrix(ellipse_vector(ratio, 1.0, theta))).float()
    expected = np.zeros((number, *shape), np.float32)

    def add(patterns, index, turns, weight):
        for start in range(0, number, PROJECTION_BATCH):
            part = slice(start, start + PROJECTION_BATCH)
            turned = matrix @ rotation_matrix(torch.from_numpy(turns[part]).float())
            placed = project(patterns[index[part]], torch.from_numpy(origin[part]).float(), turned,
                             torch.ones(len(index[part])), shape)
            expected[part] += weight * blur(placed, torch.full((len(placed),), float(psf))).clamp_min(0).numpy()

    for k in range(chosen.shape[1]):
        add(bank, chosen[:, k], turn[:, k], (1 - support) / chosen.shape[1])
    if support:
        add(film, rng.integers(len(film), size=number), rng.uniform(0, 2 * np.pi, number), support)
    if barrel or np.any(threefold):
        for pattern, center in zip(expected, origin, strict=True):
            pattern[:] = distort(pattern, center, barrel, threefold)
    truth = dict(qx0=qx0, qy0=qy0, a=ratio**0.5, b=ratio**-0.5, theta=float(theta), frames=frames, barrel=barrel,
                 threefold=tuple(threefold), radius=(optics.aperture - 1 / 6) / SAMPLES, sampling=SAMPLES * optics.dk)
    return KnownScan(expected.reshape(*scan, *shape), truth)


def _film(rng, optics):
    """Patterns (FILM_PATTERNS, GRID, GRID) of an amorphous carbon film, of atoms at random places."""
    layers = int(FILM_ANGSTROM / SLICE_ANGSTROM)
    side = GRID * optics.dx
    atoms = rng.random((int(FILM_DENSITY * side**2 * FILM_ANGSTROM), 3)) * (side, side, FILM_ANGSTROM)
    atoms[:, :2] -= side / 2
    phase = atoms_to_phase(atoms, np.zeros(len(atoms), int), np.array([6]), optics, layers, SLICE_ANGSTROM)
    waves = probe(optics, np.zeros(FILM_PATTERNS), rng.uniform(-side / 2, side / 2, (FILM_PATTERNS, 2)))
    return multislice(Specimen("film", phase, SLICE_ANGSTROM), optics, waves, {layers})[0]


def distort(pattern, center, barrel: float, threefold) -> np.ndarray:
    """Distort a pattern radially, beyond the ellipse.

    Parameters
    ----------
    pattern : numpy.ndarray
        (Qx, Qy).
    center : array_like
        (x, y) of the direct beam, pixels.
    barrel : float
        Relative change of the radius at half of the shorter side; grows with its square.
    threefold : tuple of float
        Amplitudes of cos 3 phi and sin 3 phi there; they grow with the radius.

    Returns
    -------
    numpy.ndarray
        (Qx, Qy); intensities are densities, and scaled by the change of area.
    """
    reference = min(pattern.shape) / 2
    x, y = (np.arange(n) - c for n, c in zip(pattern.shape, center, strict=True))
    x, y = np.meshgrid(x, y, indexing="ij")

    def source(x, y):  # the undistorted position, to second order in the distortion
        ideal = np.stack([x, y])
        for _ in range(3):
            r, phi = np.hypot(*ideal) / reference, np.arctan2(ideal[1], ideal[0])
            change = barrel * r**2 + r * (threefold[0] * np.cos(3 * phi) + threefold[1] * np.sin(3 * phi))
            ideal = np.stack([x, y]) / (1 + change)
        return ideal

    h = 0.5
    dx, dy = ((source(x + h, y) - source(x - h, y)) / (2 * h), (source(x, y + h) - source(x, y - h)) / (2 * h))
    at = source(x, y) + np.asarray(center, float)[:, None, None]
    values = map_coordinates(spline_filter(pattern.astype(float)), at, prefilter=False, mode="nearest")
    return np.clip(values * (dx[0] * dy[1] - dx[1] * dy[0]), 0, None)
