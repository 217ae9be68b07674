"""Simulation of scans whose patterns are turned and mirrored against the scan, as truth for the rotation.

`simulate_rotated` passes a focused or defocused probe through thin phase gratings, position by position, so the
deflection of the beam, the shadow image and the dark field follow from one specimen. `simulate_nanobeam` draws the
disks of a small probe over potentials that are smooth on the scale of the scan step, with grains whose disks have
contrast of their own, which deflects the center of mass without any field.

Both turn the pattern last. `rotation` and `flip` are those of py4DSTEM: a vector of the pattern, its two components
exchanged if `flip`, and then rotated by `rotation` from the rows toward the columns, is a vector of the scan. Electrons
are deflected toward atoms (positive potential), and the pattern is not inverted.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import fft
from scipy.ndimage import gaussian_filter
from torch.nn.functional import pad

from ..core import PrenetError
from . import (
    CENTER,
    PROJECTION_BATCH,
    SAMPLES,
    KnownScan,
    Optics,
    draw_origins,
    project,
    rotation_matrix,
    scattering_factor,
    soft_disk,
    voronoi_grains,
)

WAVE = 128  # samples along each side of the waves
SEMI_ANGLE = 0.8  # radius of the aperture, 1/angstrom: 20 mrad at 200 kV
LAYER_ANGSTROM = 4.0  # distance of the phase gratings, angstrom
EDGE_PX = 0.4  # pixels, edge of the disks of a small beam, 1 sigma
KINDS = ("crystal", "glass", "islands", "vacuum")


def pattern_matrix(rotation: float, flip: bool) -> np.ndarray:
    """Return the matrix that takes vectors of the scan to vectors of the pattern.

    Parameters
    ----------
    rotation : float
        py4DSTEM's `QR_rotation`, radians.
    flip : bool
        py4DSTEM's `QR_flip`.

    Returns
    -------
    numpy.ndarray
        (2, 2), the inverse of py4DSTEM's transformation.

    Examples
    --------
    >>> np.abs(pattern_matrix(0.0, True)).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    c, s = np.cos(rotation), np.sin(rotation)
    turned = np.array([[c, s], [-s, c]])
    return turned[::-1].copy() if flip else turned


def simulate_rotated(kind: str = "glass", scan=(24, 24), shape=(64, 64), *, rotation: float = 0.4, flip: bool = False,
                     step: float = 0.5, defocus: float = 0.0, layers: int = 2, radius: float | None = None,
                     amplitude: float = 1.0, seed: int = 0) -> KnownScan:
    """Simulate a scan of a thin specimen at atomic resolution, or with a defocused probe.

    Parameters
    ----------
    kind : {"crystal", "glass", "islands", "vacuum"}
        The specimen; "islands" are pieces of crystals in glass.
    scan : tuple of int
        (Rx, Ry).
    shape : tuple of int
        (Qx, Qy), pixels.
    rotation, flip : float, bool
        As in py4DSTEM, radians.
    step : float
        Distance of scan positions, angstrom.
    defocus : float
        Defocus, angstrom.
    layers : int
        Number of phase gratings.
    radius : float, optional
        Radius of the direct disk, pixels; a fifth of the smaller side by default.
    amplitude : float
        Amplitude of the descan, pixels.
    seed : int
        Seed of all random numbers.

    Returns
    -------
    KnownScan
        Expected patterns; truth: qx0, qy0, radius, rotation, flip, step, defocus, sampling (1/angstrom per pixel).

    Raises
    ------
    PrenetError
        The kind is unknown.

    Examples
    --------
    >>> made = simulate_rotated("glass", (2, 2), (32, 32), layers=1)
    >>> made.expected.shape, round(float(made.expected.sum()) / 4, 1)
    ((2, 2, 32, 32), 1.0)
    """
    if kind not in KINDS:
        raise PrenetError(f"The kind must be one of {', '.join(KINDS)}, not {kind!r}.")
    rng = np.random.default_rng((seed, 7))
    samples = 32.0 if defocus else 20.0  # radius of the aperture: windows of 40 or 25 angstrom
    dk = SEMI_ANGLE / samples
    optics, dx = Optics(200e3, dk, samples), 1 / (WAVE * dk)
    size = [fft.next_fast_len(int(np.ceil(n * step / dx)) + WAVE, real=True) for n in scan]
    gratings = torch.from_numpy(_gratings(rng, kind, size, dx, layers, optics.interaction))
    at = np.stack(np.meshgrid(*(np.arange(n) * step / dx for n in scan), indexing="ij"), -1).reshape(-1, 2)
    corner = np.floor(at).astype(int)
    k = torch.fft.fftfreq(WAVE) * WAVE
    distance = torch.hypot(k[:, None], k[None, :])
    chi = -np.pi * optics.wavelength * dk**2 * distance**2
    aperture = torch.polar((samples - distance + 0.5).clamp(0, 1), chi * defocus)
    free = torch.polar((k.abs()[:, None].clamp(min=k.abs()[None, :]) < 0.48 * WAVE).float(), chi * LAYER_ANGSTROM)
    intensity = torch.empty((len(at), WAVE, WAVE))
    for start in range(0, len(at), PROJECTION_BATCH):
        part = slice(start, start + PROJECTION_BATCH)
        shift = torch.from_numpy(at[part] - corner[part]).float() * (2 * np.pi / WAVE)
        phase = -(shift[:, 0, None, None] + np.pi) * k[:, None] - (shift[:, 1, None, None] + np.pi) * k
        wave = torch.fft.ifft2(aperture * torch.polar(torch.ones_like(phase), phase))
        for grating in gratings:
            patch = torch.stack([grating[i : i + WAVE, j : j + WAVE] for i, j in corner[part]])
            wave = torch.fft.ifft2(torch.fft.fft2(wave * patch) * free)
        intensity[part] = torch.fft.fftshift(torch.fft.fft2(wave).abs().square(), dim=(-2, -1))
    intensity /= float(aperture.abs().square().sum())
    radius = 0.2 * min(shape) if radius is None else radius
    qx0, qy0, origin = _origins(rng, scan, shape, amplitude)
    matrix = torch.from_numpy(pattern_matrix(rotation, flip)).float()
    expected = np.empty((len(at), *shape), np.float32)
    margin = CENTER - WAVE // 2
    for start in range(0, len(at), PROJECTION_BATCH):
        part = slice(start, start + PROJECTION_BATCH)
        count = len(origin[part])
        expected[part] = project(pad(intensity[part], (margin,) * 4), origin[part], matrix.expand(count, 2, 2),
                                 torch.full((count,), SAMPLES * radius / samples), shape).numpy()
    truth = dict(qx0=qx0, qy0=qy0, radius=float(radius), rotation=float(rotation), flip=bool(flip), step=float(step),
                 defocus=float(defocus), sampling=SEMI_ANGLE / radius)
    return KnownScan(expected.reshape(*scan, *shape), truth)


def simulate_nanobeam(scan=(32, 32), shape=(64, 64), *, rotation: float = 0.4, flip: bool = False,
                      field: float = 0.3, length: float = 3.0, grains: int = 0, contrast: float = 0.3,
                      radius: float = 6.0, amplitude: float = 1.0, seed: int = 0) -> KnownScan:
    """Simulate a scan of a small beam over a smooth potential, or over grains without one.

    Parameters
    ----------
    scan : tuple of int
        (Rx, Ry).
    shape : tuple of int
        (Qx, Qy), pixels.
    rotation, flip : float, bool
        As in py4DSTEM, radians.
    field : float
        Rms deflection of the beam, pixels.
    length : float
        Correlation length of the potential, scan positions.
    grains : int
        Number of grains, each with Bragg disks and contrast inside its disks; 0 for none.
    contrast : float
        Rms of the relative slope of the brightness across the disks of a grain, per radius.
    radius : float
        Radius of the direct disk, pixels.
    amplitude : float
        Amplitude of the descan, pixels.
    seed : int
        Seed of all random numbers.

    Returns
    -------
    KnownScan
        Expected patterns; truth: qx0, qy0, radius, edge, rotation, flip, deflection ((2, Rx, Ry), pixels, in the
        pattern), and reflections, (Rx, Ry, n, 2): positions of the disks, the direct beam included, from the origin.

    Examples
    --------
    >>> made = simulate_nanobeam((8, 8), (32, 32), field=0.2)
    >>> made.truth["deflection"].shape, round(float(made.expected.sum()) / 64, 2)
    ((2, 8, 8), 1.0)
    """
    rng = np.random.default_rng((seed, 8))
    potential = gaussian_filter(rng.normal(size=scan), length, mode="wrap")
    waves = (2j * np.pi * np.fft.fftfreq(n) for n in scan)
    gradient = np.fft.ifft2(np.stack(np.meshgrid(*waves, indexing="ij")) * np.fft.fft2(potential)).real
    gradient *= field / max(np.sqrt((gradient**2).sum(0).mean()), 1e-12)
    deflection = np.einsum("ij,jxy->ixy", pattern_matrix(rotation, flip), gradient)
    qx0, qy0, origin = _origins(rng, scan, shape, amplitude)
    seeds = rng.random((max(grains, 1), 2)) * scan
    grain = voronoi_grains(scan, seeds).ravel()
    base = rng.uniform(2.6, 4.0, len(seeds)) * radius
    turn = rotation_matrix(torch.from_numpy(rng.uniform(0, 2 * np.pi, len(seeds))).float()).numpy()
    lattice = [(h, k) for h in range(-1, 2) for k in range(-1, 2) if grains or (h, k) == (0, 0)]
    strength = rng.exponential(0.1, (len(seeds), len(lattice)))
    strength[:, lattice.index((0, 0))] = 1
    slopes = contrast * bool(grains) * rng.normal(size=(len(seeds), len(lattice), 2)) / 2**0.5
    origin = origin + torch.from_numpy(deflection.reshape(2, -1).T).float()
    x, y = (torch.arange(n, dtype=torch.float32) for n in shape)
    expected = np.empty((len(grain), *shape), np.float32)
    for start in range(0, len(grain), PROJECTION_BATCH):
        part = slice(start, start + PROJECTION_BATCH)
        member = grain[part]
        total = torch.zeros((len(member), *shape))
        for number, order in enumerate(lattice):
            center = origin[part] + torch.from_numpy(base[member, None] * (turn[member] @ np.array(order))).float()
            offset = torch.stack(torch.broadcast_tensors(x[None, :, None] - center[:, 0, None, None],
                                                         y[None, None, :] - center[:, 1, None, None]), -1)
            disk = soft_disk(offset, torch.full((len(member),), radius), torch.full((len(member),), EDGE_PX))
            slope = torch.from_numpy(slopes[member, number]).float()[:, None, None]
            disk = disk * (1 + (offset * slope).sum(-1) / radius).clamp(min=0.1)
            total += disk * torch.from_numpy(strength[member, number]).float()[:, None, None]
        expected[part] = (total / total.sum((-2, -1), keepdim=True)).numpy()
    orders = np.einsum("gij,nj->gni", base[:, None, None] * turn, np.array(lattice, float))
    reflections = orders[grain].reshape(*scan, -1, 2) + np.moveaxis(deflection, 0, -1)[:, :, None]
    truth = dict(qx0=qx0, qy0=qy0, radius=float(radius), edge=EDGE_PX, rotation=float(rotation), flip=bool(flip),
                 deflection=deflection, reflections=reflections)
    return KnownScan(expected.reshape(*scan, *shape), truth)


def _origins(rng, scan, shape, amplitude):
    """qx0, qy0, (Rx, Ry), and both as a tensor (Rx * Ry, 2)."""
    qx0, qy0 = draw_origins(rng, scan, shape, 0.02, amplitude)
    return qx0, qy0, torch.from_numpy(np.stack([qx0.ravel(), qy0.ravel()], 1)).float()


def _gratings(rng, kind, size, dx, layers, interaction):
    """Transmission of each layer, (layers, *size), complex64."""
    area = size[0] * size[1] * dx**2
    numbers = rng.choice([14, 22, 29, 38, 42, 56, 79], 2)
    lattice = _lattice(rng, size, dx) if kind in ("crystal", "islands") else np.zeros((0, 2))
    inside = np.ones(size, bool)
    if kind == "islands":
        inside = gaussian_filter(rng.normal(size=size), 6 / dx, mode="wrap") > 0
    k = np.hypot(np.fft.fftfreq(size[0], dx)[:, None], np.fft.rfftfreq(size[1], dx)[None, :])
    out = np.empty((layers, *size), np.complex64)
    for layer in range(layers):
        atoms = [(lattice[:: 2], numbers[0]), (lattice[1 :: 2], numbers[1])]
        atoms = [(a[inside[tuple((a % size).astype(int).T)]], z) for a, z in atoms]
        if kind in ("glass", "islands"):
            loose = rng.random((int(0.12 * area), 2)) * size  # carbon of 2 g/cm3 in a layer of 4 angstrom: 0.4 a square
            atoms.append((loose, 6 if kind == "islands" else 14))
        volts = np.zeros((size[0], size[1] // 2 + 1), complex)
        for positions, number in atoms:
            moved = (positions + rng.normal(0, 0.08 / dx, positions.shape)) % size
            base = np.floor(moved).astype(int)
            sums = np.zeros(size)
            for i in (0, 1):
                for j in (0, 1):
                    weight = np.abs(1 - i - (moved - base)[:, 0]) * np.abs(1 - j - (moved - base)[:, 1])
                    np.add.at(sums, ((base[:, 0] + i) % size[0], (base[:, 1] + j) % size[1]), weight)
            volts += fft.rfft2(sums) * scattering_factor(float(number), k)
        phase = fft.irfft2(volts, s=size) * (interaction * 47.878 / dx**2)  # 2 pi a0 e = 47.878 V A^2
        out[layer] = np.exp(1j * phase)
    return out


def _lattice(rng, size, dx):
    """Atoms of a layer of a crystal, (n, 2), samples: two alternating kinds in a sheared cell at a random angle."""
    cell = np.array([[rng.uniform(2.6, 3.6), 0.0], [0.0, rng.uniform(2.6, 3.6)]])
    cell[0, 1] = rng.uniform(-0.4, 0.4) * cell[1, 1]
    angle = rng.uniform(0, np.pi)
    cell = cell @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    reach = int(np.ceil(np.hypot(*size) * dx / 2.3))
    at = np.stack(np.meshgrid(np.arange(-reach, reach), np.arange(-reach, reach), indexing="ij"), -1).reshape(-1, 1, 2)
    at = (at + np.array([[0.0, 0.0], [0.5, 0.5]])) @ cell / dx + np.array(size) / 2
    keep = ((at >= 0) & (at < size)).all(-1).all(-1)
    return at[keep].reshape(-1, 2)
