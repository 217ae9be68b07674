"""Simulation of scans of a crystal whose lattice is known at every position, as truth for strain and orientation maps.

Each position has a frame, a 3 x 3 matrix that maps the coordinates of the crystal (angstrom) to those of the
laboratory; it contains rotation and strain. The atoms of the crystal are placed by that frame, and a probe passes them
(`waves.py`).

The positions of the disks are exact. The strained crystal diffracts the wave, so each disk lies at the in-plane
component of the inverse transpose of the frame times hkl, within the resolution of the illuminated patch, and every
disk is the same round aperture. (Distorting the pattern of an unstrained crystal would distort its disks as well.)
The ellipse of the camera and the descan act afterward, on the whole pattern. Approximations are slices of some
angstrom, one frozen-phonon configuration for each frame, screened scattering factors, and no inelastic scattering.

Coordinates are those of py4DSTEM's orientations: x along the rows and y along the columns of a pattern. The beam
travels along -z, so the frame of a `Crystal` is the transpose of its orientation matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from ..core import PrenetError, ellipse_matrix, ellipse_vector
from . import (
    PROTOTYPES,
    SAMPLES,
    Optics,
    Specimen,
    atoms_to_phase,
    cells_of_cylinder,
    draw_origins,
    glass_phase,
    multislice,
    probe,
    project,
)

OPTICS = Optics(volts=200e3, dk=0.01, aperture=10.0)  # disks of 4.9 px radius, 0.02 per angstrom and pixel
# Thickness of a slice of the multislice, angstrom: chosen for speed. Where it is near a multiple of the repeat along
# the beam (silicon [110], gold [001]), higher Laue zones appear as weak disks among those of the zero-order one.
SLICE_ANGSTROM = 8.0
VIBRATION_ANGSTROM = 0.06  # rms displacement of atoms along each axis, angstrom; silicon at 293 K has 0.076


@dataclass(frozen=True)
class Cubic:
    """A cubic crystal.

    Attributes
    ----------
    prototype : str
        Name of its structure in `specimens.PROTOTYPES`.
    edge : float
        Edge of the unit cell, angstrom.
    number : int or tuple of int
        Atomic number, or the numbers of the species of the structure.
    """

    prototype: str
    edge: float
    number: int | tuple[int, ...]

    @property
    def sites(self) -> np.ndarray:  # numpydoc ignore=RT01
        """Fractional coordinates of the atoms in the unit cell, (n, 3)."""
        return np.array(PROTOTYPES[self.prototype][0], float)

    @property
    def species(self) -> np.ndarray:  # numpydoc ignore=RT01
        """Number of the species of each atom in the unit cell, (n,)."""
        return np.array(PROTOTYPES[self.prototype][1])


SILICON = Cubic("diamond", 5.431, 14)
GOLD = Cubic("fcc", 4.078, 79)


@dataclass(frozen=True)
class KnownScan:
    """A scan before its electrons are counted.

    Attributes
    ----------
    expected : numpy.ndarray
        Fractions of the beam, (Rx, Ry, Qx, Qy), float32.
    truth : dict
        qx0, qy0: origins, (Rx, Ry), pixels; a, b, theta: ellipse; radius: of the direct disk, pixels; sampling:
        1/angstrom per pixel, without distortion; frames: (Rx, Ry, 3, 3), NaN where there is glass.
    """

    expected: np.ndarray
    truth: dict

    def counts(self, dose: float, seed: int = 0) -> np.ndarray:
        """Draw the counts of a counting detector.

        Parameters
        ----------
        dose : float
            Electrons per pattern.
        seed : int
            Seed of the Poisson noise.

        Returns
        -------
        numpy.ndarray
            (Rx, Ry, Qx, Qy), uint16.
        """
        drawn = np.random.default_rng((seed, 5)).poisson(self.expected * dose)
        return np.minimum(drawn, 65535).astype(np.uint16)


def zone_axis(zone, x) -> np.ndarray:
    """Return the frame of an unstrained cubic crystal on a zone axis.

    Parameters
    ----------
    zone : array_like
        Direction of the crystal that points toward the source, (3,).
    x : array_like
        Direction of the crystal along the rows, (3,). Its component along `zone` is removed.

    Returns
    -------
    numpy.ndarray
        The frame, (3, 3).

    Raises
    ------
    PrenetError
        Both directions are parallel.

    Examples
    --------
    >>> import numpy as np
    >>> frame = zone_axis([0, 0, 1], [1, 0, 0])
    >>> bool(np.allclose(frame, np.eye(3)))
    True
    """
    z = np.asarray(zone, float) / np.linalg.norm(zone)
    x = np.asarray(x, float) - np.dot(x, z) * z
    if np.linalg.norm(x) < 1e-9:
        raise PrenetError("The direction along the rows must not be the zone axis.")
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])


def deformation(exx=0.0, eyy=0.0, exy=0.0, turn=0.0) -> np.ndarray:
    """Return in-plane deformations: a strain, followed by a rotation.

    Parameters
    ----------
    exx, eyy, exy : array_like
        Components of the strain, (...).
    turn : array_like
        Angle of the rotation from the rows toward the columns, (...), radians.

    Returns
    -------
    numpy.ndarray
        (..., 3, 3). Multiply from the left: ``deformation(...) @ frame``.

    Examples
    --------
    >>> deformation(exx=0.01)[0].tolist()
    [1.01, 0.0, 0.0]
    """
    exx, eyy, exy, turn = np.broadcast_arrays(exx, eyy, exy, turn)
    strain, rotation = (np.zeros((*exx.shape, 3, 3)) for _ in range(2))
    strain[..., 0, 0], strain[..., 1, 1], strain[..., 0, 1], strain[..., 1, 0] = 1 + exx, 1 + eyy, exy, exy
    rotation[..., 0, 0] = rotation[..., 1, 1] = np.cos(turn)
    rotation[..., 1, 0], rotation[..., 0, 1] = np.sin(turn), -np.sin(turn)
    strain[..., 2, 2] = rotation[..., 2, 2] = 1
    return rotation @ strain


def strain_of(frames, reference) -> np.ndarray:
    """Return the strain of frames against a reference, as py4DSTEM's `StrainMap` defines it.

    Parameters
    ----------
    frames : array_like
        Frames, (..., 3, 3).
    reference : array_like
        Frame of the reference, (3, 3).

    Returns
    -------
    numpy.ndarray
        exx, eyy, exy and theta (radians), (4, ...).

    Notes
    -----
    py4DSTEM computes strain from reciprocal vectors, to first order. A layer that is 2 % wider has exx = 1 - 1 / 1.02,
    and a rotation from the rows toward the columns is negative.

    Examples
    --------
    >>> import numpy as np
    >>> round(float(strain_of(deformation(exx=0.02), np.eye(3))[0]), 6) == round(1 - 1 / 1.02, 6)
    True
    """
    change = (np.asarray(frames) @ np.linalg.inv(reference))[..., :2, :2]
    beta = np.linalg.inv(change).swapaxes(-1, -2)
    return np.stack([1 - beta[..., 0, 0], 1 - beta[..., 1, 1], -(beta[..., 0, 1] + beta[..., 1, 0]) / 2,
                     (beta[..., 0, 1] - beta[..., 1, 0]) / 2])


def misorientation(frames, reference) -> np.ndarray:
    """Return the angle between orientations of a cubic crystal, the smallest over its 24 rotations.

    Parameters
    ----------
    frames, reference : array_like
        Frames without strain, (..., 3, 3), broadcast. For py4DSTEM's orientations, swap the last two axes of
        `orientation_map.matrix`.

    Returns
    -------
    numpy.ndarray
        Angles, (...), degrees. NaN where a frame is not a rotation, as the zeros that py4DSTEM stores where it found no
        orientation.
    """
    cube = Rotation.create_group("O").as_matrix()
    trace = np.einsum("...ij,njk,...ik->...n", frames, cube, reference).max(-1)
    is_rotation = (np.abs(np.linalg.det(frames) - 1) < 1e-3) & (np.abs(np.linalg.det(reference) - 1) < 1e-3)
    return np.where(is_rotation, np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1))), np.nan)


def atoms_of(crystal: Cubic, frame, reach: float, depth: float):
    """Return the atoms of a crystal in a cylinder around the probe.

    Parameters
    ----------
    crystal : Cubic
        The crystal.
    frame : numpy.ndarray
        Its frame, (3, 3).
    reach : float
        Radius of the cylinder, angstrom.
    depth : float
        Thickness, angstrom.

    Returns
    -------
    atoms : numpy.ndarray
        x, y, and depth below the entrance surface, (n, 3), angstrom.
    species : numpy.ndarray
        Number of the species of each atom, (n,).
    """
    basis = np.diag([1.0, 1.0, -1.0]) @ frame * crystal.edge  # the third coordinate is the depth, along -z
    cells = cells_of_cylinder(basis, reach, depth)
    atoms = (cells[:, None] + crystal.sites).reshape(-1, 3) @ basis.T
    inside = (atoms[:, 2] >= 0) & (atoms[:, 2] < depth) & (np.hypot(atoms[:, 0], atoms[:, 1]) < reach)
    return atoms[inside], np.tile(crystal.species, len(cells))[inside]


def patterns_of(rng, crystal: Cubic, frame, layers, optics: Optics = OPTICS,
                slice_angstrom: float = SLICE_ANGSTROM, antialias: bool = False,
                configurations: int = 1) -> torch.Tensor:
    """Simulate clean patterns of one frame at random probe positions.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of all random numbers.
    crystal : Cubic
        The crystal.
    frame : numpy.ndarray
        Its frame, (3, 3); NaN for glass instead of the crystal.
    layers : sequence of int
        Number of slices for each pattern, (n,).
    optics : Optics
        Illumination and sampling.
    slice_angstrom : float
        Thickness of a slice, angstrom.
    antialias : bool
        As for `multislice`; atoms are distributed over finer samples, too.
    configurations : int
        Number of frozen-phonon configurations whose patterns are averaged.

    Returns
    -------
    torch.Tensor
        (n, GRID, GRID), fractions of the beam.
    """
    slices, exits = int(max(layers)), sorted(set(map(int, layers)))
    glass = np.isnan(frame).any()
    configurations, waves, total = 1 if glass else configurations, None, 0
    for _ in range(configurations):
        if glass:
            phase = glass_phase(rng, optics, slices, slice_angstrom)
        else:
            atoms, species = atoms_of(crystal, frame, optics.reach, slices * slice_angstrom)
            atoms = atoms + rng.normal(0, VIBRATION_ANGSTROM, atoms.shape)
            phase = atoms_to_phase(atoms, species, np.atleast_1d(crystal.number), optics, slices, slice_angstrom,
                                   finer=2 if antialias else 1)
        if waves is None:
            waves = probe(optics, np.zeros(len(layers)), rng.uniform(-3, 3, (len(layers), 2)))
        total = total + multislice(Specimen("known", phase, slice_angstrom), optics, waves, set(exits), antialias)
    return total[[exits.index(int(k)) for k in layers], np.arange(len(layers))] / configurations


def simulate_known(crystal: Cubic, frames, *, thickness=120.0, shape=(128, 128), seed: int = 0, ratio: float = 1.03,
                   theta: float = 0.6, amplitude: float = 3.0, progress: bool = False,
                   slice_angstrom: float = SLICE_ANGSTROM, antialias: bool = False,
                   configurations: int = 1) -> KnownScan:
    """Simulate a scan of one crystal with a given frame at each position.

    Parameters
    ----------
    crystal : Cubic
        The crystal.
    frames : array_like
        (Rx, Ry, 3, 3), from `zone_axis`, multiplied by `deformation` from the left; NaN for glass instead of the
        crystal. Positions with equal frames share one configuration of atoms.
    thickness : float or array_like
        Thickness, one value or (Rx, Ry), angstrom.
    shape : tuple of int
        (Qx, Qy), pixels.
    seed : int
        Seed of all random numbers.
    ratio, theta : float
        a / b and angle (radians) of the ellipse of the camera.
    amplitude : float
        Amplitude of the descan, pixels.
    progress : bool
        Whether to show a progress bar.
    slice_angstrom : float
        Thickness of a slice of the multislice, angstrom. At most half of the crystal's repeat along the beam keeps
        reflections of higher Laue zones out of the zero-order one.
    antialias : bool
        Whether reflections of high angles are kept from wrapping around to wrong places; patterns then end at about
        40 pixels from the direct beam.
    configurations : int
        Number of frozen-phonon configurations whose patterns are averaged. The diffuse background of a single one has
        speckles of the size of a disk, which the many of an exposure do not have.

    Returns
    -------
    KnownScan
        Expected patterns and truth.

    Raises
    ------
    PrenetError
        `frames` has a wrong shape.

    Examples
    --------
    >>> frames = zone_axis([0, 0, 1], [1, 0, 0])[None, None]
    >>> scan = simulate_known(SILICON, frames, thickness=16, shape=(64, 64))
    >>> scan.counts(1000).shape
    (1, 1, 64, 64)
    """
    frames = np.asarray(frames, float)
    if frames.ndim != 4 or frames.shape[2:] != (3, 3):
        raise PrenetError(f"frames must have the shape (Rx, Ry, 3, 3), not {frames.shape}.")
    rng = np.random.default_rng((seed, 6))
    scan = frames.shape[:2]
    layers = np.maximum(1, np.rint(np.broadcast_to(thickness, scan) / slice_angstrom)).astype(int).ravel()
    qx0, qy0 = draw_origins(rng, scan, shape, 0.03, amplitude)
    flat = frames.reshape(-1, 9)
    glass = np.isnan(flat).any(1)
    _, group = np.unique(np.nan_to_num(flat).round(12), axis=0, return_inverse=True)
    group = group.ravel()
    # Each position of glass is a group of its own, with its own structure.
    group[glass] = group.max() + 1 + np.arange(glass.sum())
    matrix = torch.from_numpy(ellipse_matrix(ellipse_vector(ratio, 1.0, theta))).float()
    expected = np.empty((len(flat), *shape), np.float32)
    for number in tqdm(np.unique(group), "scan", disable=not progress):
        at = np.flatnonzero(group == number)
        patterns = patterns_of(rng, crystal, frames.reshape(-1, 3, 3)[at[0]], layers[at],
                               slice_angstrom=slice_angstrom, antialias=antialias, configurations=configurations)
        origin = torch.from_numpy(np.stack([qx0.ravel()[at], qy0.ravel()[at]], 1)).float()
        projected = project(patterns, origin, matrix.expand(len(at), 2, 2), torch.ones(len(at)), shape)
        expected[at] = projected.clamp_min(0).numpy()
    truth = dict(qx0=qx0, qy0=qy0, a=ratio**0.5, b=ratio**-0.5, theta=float(theta), frames=frames,
                 radius=(OPTICS.aperture - 1 / 6) / SAMPLES, sampling=SAMPLES * OPTICS.dk)
    return KnownScan(expected.reshape(*scan, *shape), truth)
