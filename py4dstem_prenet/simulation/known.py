"""Scans of a crystal whose lattice is known at every position: what strain and orientation maps are measured against.

Each position has a frame, a 3 x 3 matrix that takes the crystal's coordinates (angstrom) to the laboratory's: turned,
strained, or both. Its atoms are put where that frame says, and a probe passes them (`waves.py`).

What is exact: the positions of the disks. The wave knows the strained crystal only, so each disk lies at an
in-plane component of the inverse transpose of the frame times hkl, to the size of the illuminated patch, and every
disk is the same aperture, round and of the same size, however the lattice is strained. (A pattern of the
unstrained crystal that is stretched would stretch its disks as well, and be an ellipse of the camera.) The camera's
ellipse and descan come after, and act on everything. What is not exact: slices of some angstrom, one frozen
arrangement of vibrating atoms for each frame, screened scattering factors, no inelastic scattering.

Coordinates are those of py4DSTEM's orientations: x along the rows, y along the columns of a pattern, and the beam
travels along -z, so that the frame of a `Crystal`'s orientation matrix is its transpose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from ..core import PrenetError, ellipse_matrix, ellipse_vector
from .pattern import SAMPLES, project
from .scan import descan
from .specimens import PROTOTYPES, Optics, Specimen, atoms_to_phase, glass_phase
from .waves import multislice, probe

OPTICS = Optics(volts=200e3, dk=0.01, aperture=10.0)  # disks of 4.9 px radius, .02 per angstrom a pixel
SLICE = 8.0  # angstrom
VIBRATION = 0.06  # angstrom rms along each axis


@dataclass(frozen=True)
class Cubic:
    """A cubic crystal of one element: a name of `specimens.PROTOTYPES`, its edge in angstrom, the atomic number."""

    prototype: str
    edge: float
    number: int

    @property
    def sites(self) -> np.ndarray:
        """(n, 3) fractional coordinates of the atoms in the cell."""
        return np.array(PROTOTYPES[self.prototype][0], float)


SILICON = Cubic("diamond", 5.431, 14)
GOLD = Cubic("fcc", 4.078, 79)


@dataclass(frozen=True)
class KnownScan:
    """A scan before its electrons are counted.

    expected: (Rx, Ry, Qx, Qy) float32, fractions of the beam. truth: qx0, qy0 (Rx, Ry), pixels; a, b, theta of the
    ellipse; radius of the direct disk, pixels; sampling, 1/angstrom a pixel of an undistorted camera; frames
    (Rx, Ry, 3, 3), NaN where there is glass.
    """

    expected: np.ndarray
    truth: dict

    def counts(self, dose: float, seed: int = 0) -> np.ndarray:
        """(Rx, Ry, Qx, Qy) uint16: what a counting detector makes of `dose` electrons a pattern."""
        drawn = np.random.default_rng((seed, 5)).poisson(self.expected * dose)
        return np.minimum(drawn, 65535).astype(np.uint16)


def zone_axis(zone, x) -> np.ndarray:
    """(3, 3) frame of an unstrained cubic crystal: direction `zone` toward the source, `x` along the rows.

    Both are (3,) directions of the crystal; what of `x` lies along `zone` is taken off.
    """
    z = np.asarray(zone, float) / np.linalg.norm(zone)
    x = np.asarray(x, float) - np.dot(x, z) * z
    if np.linalg.norm(x) < 1e-9:
        raise PrenetError("The direction along the rows must not be the zone axis.")
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])


def deformation(exx=0.0, eyy=0.0, exy=0.0, turn=0.0) -> np.ndarray:
    """(..., 3, 3) in-plane strain, then a rotation by `turn` radians from the rows toward the columns.

    To be multiplied from the left: `deformation(...) @ frame`. Arguments may be arrays.
    """
    exx, eyy, exy, turn = np.broadcast_arrays(exx, eyy, exy, turn)
    strain, rotation = (np.zeros((*exx.shape, 3, 3)) for _ in range(2))
    strain[..., 0, 0], strain[..., 1, 1], strain[..., 0, 1], strain[..., 1, 0] = 1 + exx, 1 + eyy, exy, exy
    rotation[..., 0, 0] = rotation[..., 1, 1] = np.cos(turn)
    rotation[..., 1, 0], rotation[..., 0, 1] = np.sin(turn), -np.sin(turn)
    strain[..., 2, 2] = rotation[..., 2, 2] = 1
    return rotation @ strain


def strain_of(frames, reference) -> np.ndarray:
    """(4, ...) exx, eyy, exy and theta of frames (..., 3, 3) against a reference frame (3, 3).

    As py4DSTEM's `StrainMap` has them: to first order, from reciprocal vectors, so that a layer that is wider by 2 %
    has 1 - 1 / 1.02, and a rotation from the rows toward the columns is negative.
    """
    change = (np.asarray(frames) @ np.linalg.inv(reference))[..., :2, :2]
    beta = np.linalg.inv(change).swapaxes(-1, -2)
    return np.stack([1 - beta[..., 0, 0], 1 - beta[..., 1, 1], -(beta[..., 0, 1] + beta[..., 1, 0]) / 2,
                     (beta[..., 0, 1] - beta[..., 1, 0]) / 2])


def misorientation(frames, reference) -> np.ndarray:
    """(...) degrees between orientations of a cubic crystal, the least over the 24 rotations of the cube.

    Both are (..., 3, 3) frames without strain, and broadcast; py4DSTEM's are `orientation_map.matrix` with its last
    axes swapped. NaN where a frame is no rotation: py4DSTEM leaves zeros where it found no orientation.
    """
    cube = Rotation.create_group("O").as_matrix()
    trace = np.einsum("...ij,njk,...ik->...n", frames, cube, reference).max(-1)
    found = (np.abs(np.linalg.det(frames) - 1) < 1e-3) & (np.abs(np.linalg.det(reference) - 1) < 1e-3)
    return np.where(found, np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1))), np.nan)


def atoms_of(crystal: Cubic, frame, reach: float, depth: float) -> np.ndarray:
    """(n, 3) atoms in a cylinder around the probe: x, y, and depth below the entrance surface, angstrom."""
    basis = np.diag([1.0, 1.0, -1.0]) @ frame * crystal.edge  # the wave meets depth, which is -z
    corners = np.array([[x, y, z] for x in (-reach, reach) for y in (-reach, reach) for z in (0, depth)])
    inside = np.linalg.solve(basis, corners.T)
    axes = [np.arange(a, b) for a, b in zip(np.floor(inside.min(1)) - 1, np.ceil(inside.max(1)) + 1, strict=True)]
    cells = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 1, 3)
    atoms = (cells + crystal.sites).reshape(-1, 3) @ basis.T
    return atoms[(atoms[:, 2] >= 0) & (atoms[:, 2] < depth) & (np.hypot(atoms[:, 0], atoms[:, 1]) < reach)]


def patterns_of(rng, crystal: Cubic, frame, layers, optics: Optics = OPTICS) -> torch.Tensor:
    """(n, GRID, GRID) patterns of n random probe positions on one frame, or on glass where it is NaN.

    layers: (n,) slices of `SLICE` angstrom that each probe passes.
    """
    slices = int(max(layers))
    if np.isnan(frame).any():
        phase = glass_phase(rng, optics, slices, SLICE)
    else:
        atoms = atoms_of(crystal, frame, optics.reach, slices * SLICE)
        atoms = atoms + rng.normal(0, VIBRATION, atoms.shape)
        phase = atoms_to_phase(atoms, np.zeros(len(atoms), int), np.array([crystal.number]), optics, slices, SLICE)
    waves = probe(optics, np.zeros(len(layers)), rng.uniform(-3, 3, (len(layers), 2)))
    exits = sorted(set(map(int, layers)))
    passed = multislice(Specimen("known", phase, SLICE), optics, waves, set(exits))
    return passed[[exits.index(int(k)) for k in layers], np.arange(len(layers))]


def simulate_known(crystal: Cubic, frames, *, thickness=120.0, shape=(128, 128), seed: int = 0, ratio: float = 1.03,
                   theta: float = 0.6, amplitude: float = 3.0, progress: bool = False) -> KnownScan:
    """Simulate a scan of one crystal with a frame at each position.

    Args:
        frames: (Rx, Ry, 3, 3), as `zone_axis`, with `deformation` from the left; NaN where there is glass instead.
            Positions with the same frame share the arrangement of their atoms.
        thickness: angstrom, one value or (Rx, Ry). shape: (Qx, Qy), pixels.
        ratio, theta: a / b and the angle (radians) of the camera's ellipse. amplitude: of the descan, pixels.
    """
    frames = np.asarray(frames, float)
    if frames.ndim != 4 or frames.shape[2:] != (3, 3):
        raise PrenetError(f"frames must have the shape (Rx, Ry, 3, 3), not {frames.shape}.")
    rng = np.random.default_rng((seed, 6))
    scan = frames.shape[:2]
    layers = np.maximum(1, np.rint(np.broadcast_to(thickness, scan) / SLICE)).astype(int).ravel()
    qx0, qy0 = ((n - 1) / 2 + rng.uniform(-0.03, 0.03) * n + descan(rng, scan, amplitude) for n in shape)
    flat = frames.reshape(-1, 9)
    glass = np.isnan(flat).any(1)
    _, group = np.unique(np.nan_to_num(flat).round(12), axis=0, return_inverse=True)
    group = group.ravel()
    # No two patches of a glass are the same one.
    group[glass] = group.max() + 1 + np.arange(glass.sum())
    matrix = torch.from_numpy(ellipse_matrix(ellipse_vector(ratio, 1.0, theta))).float()
    expected = np.empty((len(flat), *shape), np.float32)
    for number in tqdm(np.unique(group), "scan", disable=not progress):
        at = np.flatnonzero(group == number)
        patterns = patterns_of(rng, crystal, frames.reshape(-1, 3, 3)[at[0]], layers[at])
        origin = torch.from_numpy(np.stack([qx0.ravel()[at], qy0.ravel()[at]], 1)).float()
        drawn = project(patterns, origin, matrix.expand(len(at), 2, 2), torch.ones(len(at)), shape)
        expected[at] = drawn.clamp_min(0).numpy()
    truth = dict(qx0=qx0, qy0=qy0, a=ratio**0.5, b=ratio**-0.5, theta=float(theta), frames=frames,
                 radius=(OPTICS.aperture - 1 / 6) / SAMPLES, sampling=SAMPLES * OPTICS.dk)
    return KnownScan(expected.reshape(*scan, *shape), truth)
