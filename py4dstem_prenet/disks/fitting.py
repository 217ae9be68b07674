"""Positions and intensities of disks by the likelihood fit of `fits.DiskModel`, with free contrast inside each disk.

Pixels of other disks are left out of the fit of a disk, as are bad pixels: overlapping, cut and shadowed disks are
fitted with what is seen of them alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial import cKDTree

from ..core import NoiseModel
from ..fits import LEARNING_ROUNDS, Aperture, DiskModel, electron_windows
from . import Candidates, covered

# Chosen with multislice silicon along [110] in view (benchmarks/strain.py, disks.py), unless a comment says otherwise:
FITTED_AT_ONCE = 1024  # windows; limits the memory
PRIOR_PX = 1.0  # pixels, of `fits.DiskModel`: its prior about the start, which is taken out of the covariance
FINE_SIGMA_PX = 0.1  # pixels; a position with a larger sigma is fitted again from where the first fit ended
# Electrons: the variance of a position exceeds its asymptotic value by this number over the electrons of the disk. Set
# on simulated disks of 60 to 300 electrons.
FEW_ELECTRONS = 25.0
MIN_INFORMATION = 1e-3  # inverse square pixels, for disks that are all prior
DIRECTIONS = 12  # directions, over half a turn, by which disks are grouped
LEARNED_SIGNIFICANCE = 15.0  # standard deviations of disks from which the contrast is learned
MIN_LEARNED_DISKS = 16  # disks; fewer tell nothing of the contrast
AMPLITUDE_LIMITS = (1e-3, 1.0)  # of a term, relative to the brightness of the disk
MAX_MOVE_PX = 1.5  # pixels between the middle of a window and the fit, which holds for small offsets alone
CENTERED_PX = 0.75  # pixels; a disk that is farther from the middle of its window gets a new window
CENTERING_ROUNDS = 4  # windows of a disk; half-lit disks have their most significant place some pixels off
MAX_MOVE_RADII = 0.75  # radii between the most significant place and the fit; others are no disks
MAX_SIGMA_RADII = 0.5  # radii; a disk with a larger sigma is not located
SAME_RADII = 0.7  # radii between two fits that are the same disk


@dataclass(frozen=True)
class FittedDisks:
    """Fits of k disks.

    Attributes
    ----------
    position : numpy.ndarray, shape (k, 2)
        Position (qx, qy), pixels.
    sigma : numpy.ndarray, shape (k, 2)
        Standard error along each axis, pixels.
    intensity, intensity_sigma : numpy.ndarray, shape (k,)
        Electrons in the whole disk above its surroundings, and their standard error.
    good : numpy.ndarray of bool, shape (k,)
        Whether the fit stayed with the disk.
    """

    position: np.ndarray
    sigma: np.ndarray
    intensity: np.ndarray
    intensity_sigma: np.ndarray
    good: np.ndarray


def disk_windows(patterns, candidates: Candidates, others: Candidates, noise: NoiseModel, side: int,
                 aperture: Aperture, direct):
    """Cut the windows of disks, without the pixels of other disks.

    Parameters
    ----------
    patterns : numpy.ndarray, shape (n, Qx, Qy)
        Patterns in detector units.
    candidates : Candidates
        The disks.
    others : Candidates
        All disks of the patterns.
    noise : NoiseModel
        Noise model of the detector.
    side : int
        Side of the windows, odd.
    aperture : Aperture
        The aperture.
    direct : numpy.ndarray, shape (n, 2)
        Positions of the direct beam, pixels.

    Returns
    -------
    electrons : torch.Tensor, shape (k, side, side)
        The windows.
    good : torch.Tensor of bool, shape (k, side, side)
        Pixels to fit.
    """
    reach = aperture.radius + aperture.edge
    number = np.concatenate([others.pattern, np.arange(len(patterns))])
    places = np.concatenate([others.place, np.rint(direct).astype(int)])
    times = covered(patterns.shape, number, places, reach)
    electrons, good, _ = electron_windows(patterns[candidates.pattern], candidates.place.astype(float), side, noise)
    half = side // 2
    padded = np.pad(times, ((0, 0), (half, half), (half, half)))
    axis = np.arange(side)
    rows, columns = candidates.place[:, :1] + axis, candidates.place[:, 1:] + axis
    total = padded[candidates.pattern[:, None, None], rows[:, :, None], columns[:, None, :]]
    own = np.hypot(*np.meshgrid(axis - half, axis - half, indexing="ij")) < reach
    return electrons, good & torch.from_numpy(total - own <= 0)


def fit_disks(patterns, candidates: Candidates, noise: NoiseModel, aperture: Aperture, direct, amplitudes=None,
              device="cpu") -> FittedDisks:
    """Fit the disks of patterns.

    Parameters
    ----------
    patterns : numpy.ndarray, shape (n, Qx, Qy)
        Patterns in detector units.
    candidates : Candidates
        The disks.
    noise : NoiseModel
        Noise model of the detector.
    aperture : Aperture
        The direct disk.
    direct : numpy.ndarray, shape (n, 2)
        Positions of the direct beam, pixels.
    amplitudes : numpy.ndarray, optional
        Contrast of Bragg disks along and across their direction (`learned_disk`); by default that of the direct
        disk.
    device : str, optional
        Where the windows are fitted.

    Returns
    -------
    FittedDisks
        The fits.
    """
    k, start = len(candidates.pattern), candidates.place
    found = FittedDisks(np.zeros((k, 2)), np.full((k, 2), np.inf), np.zeros(k), np.zeros(k), np.zeros(k, bool))
    if not k:
        return found
    again, reach = np.arange(k), max(MAX_MOVE_PX, MAX_MOVE_RADII * aperture.radius)
    for _ in range(CENTERING_ROUNDS):
        _fit_some(found, again, patterns, candidates, noise, aperture, direct, amplitudes, device)
        move = found.position - candidates.place
        near = np.hypot(*(found.position - start).T) < reach
        again = np.flatnonzero((np.abs(move) > CENTERED_PX).any(1) & near)
        if not len(again):
            break
        place = candidates.place.copy()
        place[again] = np.rint(found.position[again]).astype(int)
        candidates = replace(candidates, place=np.clip(place, 0, np.subtract(patterns.shape[1:], 1)))
    found.good[:] = near & (np.abs(move) < MAX_MOVE_PX).all(1) & (found.intensity > 0)
    found.good[:] &= (found.sigma < MAX_SIGMA_RADII * aperture.radius).all(1)
    found.good[:] &= ~_repeated(found.position, candidates, found.good, aperture.radius)
    return found


def _fit_some(found, some, patterns, candidates, noise, aperture, direct, amplitudes, device):
    """Fit some disks in windows about their places, and write the result into `found`."""
    for direction, members in by_direction(candidates.subset(some), direct):
        members = some[members]
        model = DiskModel(aperture, device, direction, amplitudes)
        chosen = candidates.subset(members)
        electrons, good = disk_windows(patterns, chosen, candidates, noise, model.side, aperture, direct)
        for first in range(0, len(members), FITTED_AT_ONCE):
            part = slice(first, first + FITTED_AT_ONCE)
            position, *fitted = _fit(model, electrons[part].to(device), good[part].to(device),
                                     noise.readout / noise.gain)
            found.position[members[part]] = position + chosen.place[part]
            for name, values in zip(("sigma", "intensity", "intensity_sigma"), fitted, strict=True):
                getattr(found, name)[members[part]] = values


def _repeated(position, candidates: Candidates, good, radius):
    """Whether a more significant disk of the pattern was fitted at the same place."""
    out = np.zeros(len(position), bool)
    # The patterns are laid out far from each other, so that one tree holds them all.
    apart = np.column_stack([position, candidates.pattern * 1e6])
    index = np.flatnonzero(good)
    for i, j in cKDTree(apart[index]).query_pairs(SAME_RADII * radius):
        i, j = index[i], index[j]
        out[j if candidates.significance[i] >= candidates.significance[j] else i] = True
    return out


def _fit(model, electrons, good, readout):
    """Position from the middle, sigma, intensity and its sigma of disks in windows, numpy arrays."""
    with torch.inference_mode():
        fitted = model.fit(electrons, good, electrons.new_zeros(len(electrons), 2), readout)
        rough = (fitted.covariance.diagonal(dim1=1, dim2=2).amax(1) > FINE_SIGMA_PX**2).nonzero()[:, 0]
        second = model.fit(electrons[rough], good[rough], fitted.position[rough], readout) if len(rough) else None
    values = []
    for name in ("position", "covariance", "misfit", "brightness", "strength"):
        array = getattr(fitted, name).cpu().numpy().astype(float)
        if second is not None:
            array[rough.cpu().numpy()] = getattr(second, name).cpu().numpy()
        values.append(array)
    position, covariance, misfit, brightness, strength = values
    # The prior about the start says nothing of the disk.
    information = np.linalg.inv(covariance) - np.eye(2) / PRIOR_PX**2 + MIN_INFORMATION * np.eye(2)
    variance = np.einsum("kii->ki", np.linalg.inv(information))
    intensity = brightness * np.pi * model.aperture.radius**2
    few = 1 + FEW_ELECTRONS / intensity.clip(1)
    sigma = np.sqrt(variance.clip(1e-8) * (misfit.clip(1) * few)[:, None])
    return position, sigma, intensity, np.abs(intensity) / np.maximum(np.abs(strength), 1e-3)


def by_direction(candidates: Candidates, direct):
    """Group disks by their direction from the direct beam.

    Parameters
    ----------
    candidates : Candidates
        The disks.
    direct : numpy.ndarray, shape (n, 2)
        Positions of the direct beam, pixels.

    Yields
    ------
    direction : float
        Angle from +qx toward +qy, radians in [0, pi).
    members : numpy.ndarray of int
        Index of its disks.
    """
    away = candidates.place - direct[candidates.pattern]
    group = np.rint(np.arctan2(away[:, 1], away[:, 0]) % np.pi / np.pi * DIRECTIONS).astype(int) % DIRECTIONS
    for number in np.unique(group):
        yield number * np.pi / DIRECTIONS, np.flatnonzero(group == number)


def learned_disk(patterns, candidates: Candidates, noise: NoiseModel, aperture: Aperture, direct, device="cpu"):
    """Learn the aperture from Bragg disks, and the contrast inside them.

    Radius and blur are learned from disks of all directions: in the direct disk alone, contrast that is symmetric about
    the center and the radius are hard to tell apart, and with a wrong radius half-lit disks are displaced. The rocking
    curve of a reflection varies along its direction, so Bragg disks have more contrast along it than across: each term
    has a Gaussian prior whose width maximizes the evidence (MacKay, Neural Computation 4, 415 (1992), eq. 4.8).

    Parameters
    ----------
    patterns : numpy.ndarray, shape (n, Qx, Qy)
        Patterns in detector units.
    candidates : Candidates
        Disks of these patterns.
    noise : NoiseModel
        Noise model of the detector.
    aperture : Aperture
        The direct disk.
    direct : numpy.ndarray, shape (n, 2)
        Positions of the direct beam, pixels.
    device : str, optional
        Where the windows are fitted.

    Returns
    -------
    aperture : Aperture
        The aperture; the one that was given if there are few strong disks.
    amplitudes : numpy.ndarray or None
        Relative amplitude of each term of the contrast; None if there are few strong disks.
    """
    strong = candidates.subset(candidates.significance > LEARNED_SIGNIFICANCE)
    if len(strong.pattern) < MIN_LEARNED_DISKS:
        return aperture, None
    readout = noise.readout / noise.gain
    for _ in range(LEARNING_ROUNDS):
        model = DiskModel(aperture, device)
        electrons, good = disk_windows(patterns, strong, candidates, noise, model.side, aperture, direct)
        fitted = _located(model, electrons, good, readout, learn=True)
        aperture = model.learned(fitted, (fitted.position.abs() < MAX_MOVE_PX).all(1))
    groups = []
    for direction, members in by_direction(strong, direct):
        chosen = strong.subset(members)
        side = DiskModel(aperture, device).side
        groups.append((direction, *disk_windows(patterns, chosen, candidates, noise, side, aperture, direct)))
    amplitudes = None
    for _ in range(LEARNING_ROUNDS):
        power, determined = 0.0, 0.0
        for direction, electrons, good in groups:
            model = DiskModel(aperture, device, direction, amplitudes)
            fitted = _located(model, electrons, good, readout)
            used = (fitted.position.abs() < MAX_MOVE_PX).all(1)
            power = power + fitted.contrast[used].square().sum(0)
            determined = determined + (1 - fitted.contrast_variance[used] / model.amplitudes**2).clamp(0, 1).sum(0)
        amplitudes = (power / determined.clamp_min(1)).sqrt().clamp(*AMPLITUDE_LIMITS).cpu().numpy()
        amplitudes[0] = 1
    return aperture, amplitudes


def _located(model, electrons, good, readout, learn=False):
    """Fits of windows, from their middles."""
    with torch.inference_mode():
        return model.fit(electrons.to(model.x.device), good.to(model.x.device),
                         torch.zeros(len(electrons), 2, device=model.x.device), readout, learn)
