"""Random specimens as stacks of projected potentials: crystals, glasses, powders and crystals on glass.

A specimen is what a simulated wave passes through (`waves.py`). All random numbers come from one
`numpy.random.Generator`, so the seed determines the specimen. Structures vary more than in real materials, so that a
network trained on them prefers no particular material.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import fft  # keeps single precision, unlike numpy.fft: half the time per specimen

GRID = 256  # samples along each side of a wave, in real and in reciprocal space
# Atomic numbers in random specimens.
ELEMENTS = np.array([5, 6, 8, 13, 14, 22, 26, 28, 29, 32, 38, 42, 47, 56, 57, 74, 78, 79])
BOHR = 0.529177  # Bohr radius, angstrom

# Fractional coordinates of the atoms of the unit cell, their species, and the edge of the cubic cell in angstrom, for a
# nearest-neighbor distance near 2.5 angstrom; cells are then scaled and sheared at random.
_FCC = [(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)]
PROTOTYPES = {
    "simple": ([(0, 0, 0)], [0], 2.7),
    "bcc": ([(0, 0, 0), (0.5, 0.5, 0.5)], [0, 0], 3.0),
    "cscl": ([(0, 0, 0), (0.5, 0.5, 0.5)], [0, 1], 3.3),
    "fcc": (_FCC, [0] * 4, 3.8),
    "rocksalt": (_FCC + [(x + 0.5, y, z) for x, y, z in _FCC], [0] * 4 + [1] * 4, 4.8),
    "diamond": (_FCC + [(x + 0.25, y + 0.25, z + 0.25) for x, y, z in _FCC], [0] * 8, 5.5),
    "zincblende": (_FCC + [(x + 0.25, y + 0.25, z + 0.25) for x, y, z in _FCC], [0] * 4 + [1] * 4, 5.7),
    "perovskite": ([(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)], [0, 1, 2, 2, 2], 3.95),
}


@dataclass(frozen=True)
class Optics:
    """Illumination and sampling.

    Attributes
    ----------
    volts : float
        Acceleration voltage, V.
    dk : float
        Sampling of the wave in reciprocal space, 1/angstrom.
    aperture : float
        Radius of the probe-forming aperture, reciprocal samples.
    """

    volts: float
    dk: float
    aperture: float

    @property
    def wavelength(self) -> float:  # numpydoc ignore=RT01
        """Relativistic wavelength, angstrom."""
        return 12.2643 / np.sqrt(self.volts * (1 + 0.97845e-6 * self.volts))

    @property
    def interaction(self) -> float:  # numpydoc ignore=RT01
        """Interaction constant, radians per (volt angstrom); Kirkland, Advanced Computing in EM, eq. 5.6."""
        rest = 510998.95  # rest energy of the electron, eV
        return (2 * np.pi / (self.wavelength * self.volts)) * (rest + self.volts) / (2 * rest + self.volts)

    @property
    def dx(self) -> float:  # numpydoc ignore=RT01
        """Sampling of the wave in real space, angstrom."""
        return 1 / (GRID * self.dk)

    @property
    def reach(self) -> float:  # numpydoc ignore=RT01
        """Radius around the probe within which atoms contribute, angstrom."""
        return min(GRID * self.dx / 2, 4 * 0.61 / (self.aperture * self.dk) + 3)


@dataclass(frozen=True)
class Specimen:
    """A stack of phase gratings.

    Attributes
    ----------
    kind : str
        Kind of the specimen.
    phase : numpy.ndarray
        Phase shift of each slice, (slices, GRID, GRID), float32, radians.
    thickness : float
        Thickness of one slice, angstrom.
    """
    kind: str
    phase: np.ndarray
    thickness: float


def frequencies(dk: float) -> np.ndarray:
    """Return the spatial frequency of every sample in FFT order.

    Parameters
    ----------
    dk : float
        Sampling in reciprocal space, 1/angstrom.

    Returns
    -------
    numpy.ndarray
        |k|, (GRID, GRID), 1/angstrom.
    """
    k = np.fft.fftfreq(GRID) * GRID * dk
    return np.hypot(k[:, None], k[None, :])


def scattering_factor(z, k):
    """Return the screened (Wentzel) electron scattering factor.

    Parameters
    ----------
    z : float
        Atomic number.
    k : array_like
        Spatial frequency, 1/angstrom.

    Returns
    -------
    array_like
        Scattering factor, angstrom, of the shape of `k`.

    Notes
    -----
    The screening radius of the Thomas-Fermi atom is multiplied by 1.6, which approximates tabulated factors.
    """
    radius = 0.885 * BOHR * z ** (-1 / 3) * 1.6
    return 2 * z / BOHR / ((2 * np.pi * k) ** 2 + radius**-2)


def random_rotation(rng) -> np.ndarray:
    """Draw a uniformly distributed rotation.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of all random numbers.

    Returns
    -------
    numpy.ndarray
        Rotation matrix, (3, 3).
    """
    q = rng.normal(size=4)
    w, x, y, z = q / np.linalg.norm(q)
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ])


def near_zone_axis(rng, cell, largest: int = 2, spread: float = 0.025) -> np.ndarray:
    """Draw a rotation that puts a low-index direction of a crystal near the beam.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of all random numbers.
    cell : numpy.ndarray
        Base vectors of the unit cell, in columns, (3, 3).
    largest : int
        Largest index of the direction.
    spread : float
        Standard deviation of the tilt about each of two axes, radians.

    Returns
    -------
    numpy.ndarray
        Rotation matrix, (3, 3).
    """
    direction = cell @ rng.integers(-1, largest + 1, 3).astype(float)
    if not direction.any():
        direction = cell[:, 2]
    z = direction / np.linalg.norm(direction)
    x = np.cross(z, rng.normal(size=3))
    x /= np.linalg.norm(x)
    frame = np.stack([x, np.cross(z, x), z])
    tilt = rng.normal(0, spread, 2)
    a, b = np.cos(tilt), np.sin(tilt)
    return np.array([[1, 0, 0], [0, a[0], -b[0]], [0, b[0], a[0]]]) @ np.array(
        [[a[1], 0, b[1]], [0, 1, 0], [-b[1], 0, a[1]]]) @ frame


def cells_of_cylinder(basis, reach: float, depth: float) -> np.ndarray:
    """List the unit cells in the bounding box of a cylinder, and one more layer around them.

    Parameters
    ----------
    basis : numpy.ndarray, shape (3, 3)
        Lattice vectors as columns, angstrom.
    reach : float
        Radius of the cylinder, angstrom.
    depth : float
        Its length along the beam, angstrom.

    Returns
    -------
    numpy.ndarray, shape (n, 3)
        Whole numbers of lattice vectors, as floats.
    """
    corners = np.array([[x, y, z] for x in (-reach, reach) for y in (-reach, reach) for z in (0, depth)])
    inside = np.linalg.solve(basis, corners.T)
    low, high = np.floor(inside.min(1)) - 1, np.ceil(inside.max(1)) + 1
    axes = [np.arange(first, end) for first, end in zip(low, high, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


def crystal_atoms(rng, reach: float, depth: float, oriented: bool = False):
    """Draw a random crystal, and return its atoms in a cylinder around the probe.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of all random numbers.
    reach : float
        Radius of the cylinder, angstrom.
    depth : float
        Thickness, angstrom.
    oriented : bool
        Whether a zone axis of the lowest indices lies along the beam, in most cases within a degree.

    Returns
    -------
    atoms : numpy.ndarray
        Positions, (n, 3), angstrom.
    species : numpy.ndarray
        Number of the species of each atom, (n,).
    """
    name = rng.choice(list(PROTOTYPES))
    sites, species, edge = PROTOTYPES[name]
    strain = rng.normal(0, 0.02, 3) + (rng.random() < 0.25) * rng.uniform(0, 0.5, 3)
    edges = edge * rng.uniform(0.9, 1.25) * np.exp(strain)
    cell = np.diag(edges)
    if rng.random() < 0.15:  # hexagonal or sheared cells
        cell[0, 1] = -0.5 * edges[1]
        cell[1, 1] *= np.sqrt(0.75)
    if oriented:
        turn = near_zone_axis(rng, cell, 1, float(np.exp(rng.uniform(np.log(0.001), np.log(0.02)))))
    else:
        turn = near_zone_axis(rng, cell) if rng.random() < 0.6 else random_rotation(rng)
    basis = turn @ cell
    lattice = cells_of_cylinder(basis, reach, depth) @ basis.T
    offsets = np.asarray(sites, float) @ basis.T
    atoms, kinds = [], []
    for offset, kind in zip(offsets, species, strict=True):
        at = lattice + offset
        keep = (at[:, 2] >= 0) & (at[:, 2] < depth) & (at[:, 0] ** 2 + at[:, 1] ** 2 < reach**2)
        atoms.append(at[keep])
        kinds.append(np.full(keep.sum(), kind))
    atoms = np.concatenate(atoms)
    return atoms + rng.normal(0, rng.uniform(0.02, 0.11), atoms.shape), np.concatenate(kinds)


def atoms_to_phase(atoms, kinds, elements, optics: Optics, slices: int, thickness: float,
                   finer: int = 1) -> np.ndarray:
    """Return the phase shift of each slice of a specimen.

    Parameters
    ----------
    atoms : numpy.ndarray
        Positions, (n, 3), angstrom; the third coordinate is the depth.
    kinds : numpy.ndarray
        Number of the species of each atom, (n,).
    elements : numpy.ndarray
        Atomic numbers of the species.
    optics : Optics
        Illumination and sampling.
    slices : int
        Number of slices.
    thickness : float
        Thickness of one slice, angstrom.
    finer : int, optional
        Samples on which atoms are distributed, along an axis of each sample of the phase.

    Returns
    -------
    numpy.ndarray
        (slices, GRID, GRID), float32, radians.

    Notes
    -----
    Atoms are distributed bilinearly over the samples, and convolved with their scattering factor in Fourier space.
    Reflections beyond the largest frequency of the samples wrap around to places where the crystal has none. In iron of
    240 angstrom, such a disk has 0.6 % of the beam; with ``finer=2`` there is none above the diffuse scattering.
    """
    k = frequencies(optics.dk)
    total = np.zeros((slices, GRID, GRID // 2 + 1), np.complex64)
    layer = np.clip((atoms[:, 2] / thickness).astype(int), 0, slices - 1)
    grid = finer * GRID
    at = atoms[:, :2] * (finer / optics.dx) + grid / 2
    base = np.floor(at).astype(int)
    fraction = at - base
    rows = np.r_[: GRID // 2, grid - GRID // 2 : grid]  # the frequencies of the phase
    for number in np.unique(kinds):
        sums = np.zeros(slices * grid * grid, np.float32)
        for dx in (0, 1):
            for dy in (0, 1):
                chosen = kinds == number
                weight = (np.abs(1 - dx - fraction[chosen, 0])) * np.abs(1 - dy - fraction[chosen, 1])
                index = ((layer[chosen] * grid) + (base[chosen, 0] + dx) % grid) * grid + (base[chosen, 1] + dy) % grid
                sums += np.bincount(index, weight, minlength=sums.size).astype(np.float32)
        factor = scattering_factor(float(elements[number % len(elements)]), k)[:, : GRID // 2 + 1]
        for slice_number, density in enumerate(sums.reshape(slices, grid, grid)):
            total[slice_number] += fft.rfft2(density)[rows, : GRID // 2 + 1] * factor.astype(np.float32)
    volts = fft.irfft2(total, s=(GRID, GRID))
    volts *= np.float32(optics.interaction * 47.878 / optics.dx**2)  # 2 pi a0 e = 47.878 V A^2
    return volts


def structure_factor(rng, k) -> np.ndarray:
    """Draw the structure factor S(k) of a random glass or fine powder.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of all random numbers.
    k : numpy.ndarray
        Spatial frequency, 1/angstrom.

    Returns
    -------
    numpy.ndarray
        S(k), of the shape of `k`: small at low frequencies (hard core), then halos or rings.
    """
    first = rng.uniform(0.22, 0.55)
    s = 1 - np.exp(-((k / (0.75 * first)) ** 4)) * rng.uniform(0.6, 0.98)
    if rng.random() < 0.5:  # glass: three broad halos
        for order, height in ((1, rng.uniform(0.5, 3)), (1.68, rng.uniform(0.2, 1.2)), (2.5, rng.uniform(0, 0.5))):
            center, width = first * order * rng.normal(1, 0.03), first * rng.uniform(0.06, 0.2) * order**0.5
            s = s + height * np.exp(-0.5 * ((k - center) / width) ** 2)
        return s
    squares = [[3, 4, 8, 11, 12, 16, 19, 20, 24], [2, 4, 6, 8, 10, 12, 14], [3, 8, 11, 16, 19, 24],
               [1, 2, 3, 4, 5, 6, 8, 9]][rng.integers(4)]
    width = rng.uniform(0.006, 0.04)
    s = s * rng.uniform(0.02, 0.6)
    for square in squares:
        center = first * np.sqrt(square / squares[0])
        s = s + rng.uniform(0.2, 1) * 0.12 / width * np.exp(-0.5 * ((k - center) / width) ** 2)
    return s


def glass_phase(rng, optics: Optics, slices: int, thickness: float) -> np.ndarray:
    """Draw a Gaussian random potential with the structure factor of a glass or powder.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of all random numbers.
    optics : Optics
        Illumination and sampling.
    slices : int
        Number of slices.
    thickness : float
        Thickness of one slice, angstrom.

    Returns
    -------
    numpy.ndarray
        Phase shift of each slice, (slices, GRID, GRID), float32, radians.
    """
    k = frequencies(optics.dk)
    z = float(rng.choice(ELEMENTS))
    density = 0.05 * rng.uniform(0.5, 1.6)  # atoms per cubic angstrom
    # White noise of unit variance per sample represents density * thickness * dx^2 atoms, each of f / dx^2.
    power = structure_factor(rng, k) * density * thickness * optics.dx**2
    spectrum = (np.sqrt(power) * scattering_factor(z, k) / optics.dx**2)[:, : GRID // 2 + 1]
    noise = fft.rfft2(rng.standard_normal((slices, GRID, GRID), dtype=np.float32))
    volts = fft.irfft2(noise * spectrum.astype(np.float32), s=(GRID, GRID))
    volts *= np.float32(optics.interaction * 47.878)
    return volts


def draw_optics(rng) -> Optics:
    """Draw random optics.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of all random numbers.

    Returns
    -------
    Optics
        60 to 300 kV, an aperture of 4.5 to 26 samples, and a sampling of 0.006 to 0.02 1/angstrom.
    """
    aperture = float(np.exp(rng.uniform(np.log(4.5), np.log(26))))
    return Optics(volts=float(rng.choice([60e3, 80e3, 120e3, 200e3, 300e3])),
                  dk=float(np.exp(rng.uniform(np.log(0.006), np.log(0.02)))), aperture=aperture)


def draw_oriented(rng) -> tuple[Specimen, Optics]:
    """Draw a crystal along a zone axis, and optics with which its disks are separate.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of all random numbers.

    Returns
    -------
    specimen : Specimen
        The crystal.
    optics : Optics
        Illumination and sampling.

    Notes
    -----
    Over a range of thicknesses, the direct beam of such a crystal is not brighter than the disks around it, so that
    only the symmetry of the whole pattern identifies it. Such patterns are rare among the specimens of `draw_specimen`.
    """
    optics = draw_optics(rng)
    aperture = float(np.exp(rng.uniform(np.log(0.035), np.log(0.12)))) / optics.dk
    optics = replace(optics, aperture=float(np.clip(aperture, 4.5, 20)))
    thickness, slices = rng.uniform(8, 16), int(rng.integers(3, 33))
    atoms, kinds = crystal_atoms(rng, optics.reach, slices * thickness, oriented=True)
    phase = atoms_to_phase(atoms, kinds, rng.choice(ELEMENTS, 3), optics, slices, thickness)
    return Specimen("oriented", phase, thickness), optics


def draw_specimen(rng, optics: Optics) -> Specimen:
    """Draw a random specimen: a crystal, two overlapping crystals, a glass or powder, or a crystal on glass.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of all random numbers.
    optics : Optics
        Illumination and sampling.

    Returns
    -------
    Specimen
        The specimen.
    """
    kind = str(rng.choice(["crystal", "bicrystal", "isotropic", "supported"], p=[0.42, 0.13, 0.27, 0.18]))
    thickness = rng.uniform(6, 16)
    slices = int(rng.integers(2, 7)) if rng.random() < 0.6 else int(rng.integers(7, 22))
    if kind == "isotropic":
        return Specimen(kind, glass_phase(rng, optics, slices, thickness), thickness)
    phase = np.zeros((slices, GRID, GRID), np.float32)
    for _ in range(2 if kind == "bicrystal" else 1):
        atoms, kinds = crystal_atoms(rng, optics.reach, slices * thickness)
        if kind == "bicrystal":  # a plane boundary through the illuminated volume: side by side, or one above the other
            normal = random_rotation(rng)[0]
            side = atoms @ normal - slices * thickness / 2 * normal[2] > rng.normal(0, 3)
            atoms, kinds = atoms[side], kinds[side]
        elements = rng.choice(ELEMENTS, 3)
        phase += atoms_to_phase(atoms, kinds, elements, optics, slices, thickness)
    if kind == "supported":
        layers = max(1, slices // 2)
        phase[:layers] = glass_phase(rng, optics, layers, thickness)
    return Specimen(kind, phase, thickness)
