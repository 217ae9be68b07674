"""Positions and intensities of disks by the likelihood fit of `fits.DiskModel`, with free contrast inside each disk.

A disk is fitted with the pixels under no other disk and, if it overlaps others, once more with all pixels. The
first fits of its neighbors, which used none of the shared pixels, are then the prior of their contribution; their
uncertainty is marginalized. Cut and shadowed disks are fitted with the pixels that remain.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from scipy.spatial import cKDTree

from . import (
    MAX_MOVE_PX,
    Candidates,
    DiskShape,
    DiskWindows,
    apart,
    directions,
    grid_side,
    grid_step,
    posterior_positions,
    weak_sigma,
    with_direct,
)

# Set on multislice silicon along [110] (benchmarks/strain.py, disks.py), unless a comment says otherwise.
FITTED_AT_ONCE = 512  # windows; limits the memory
PRIOR_PX = 1.0  # pixels, 1 sigma; prior of `fits.DiskModel` about the start, which is removed from the covariance
TELLING_ELECTRONS = 30.0  # electrons; smallest number for which residuals show whether the model of a disk holds
OFF_CENTER_ERROR = 0.15  # fraction of the distance between the center of a disk and its light; error, 1 sigma
FINE_SIGMA_PX = 0.1  # pixels; positions with a larger sigma are fitted again, from the end of the first fit
# Electrons: the variance of a position exceeds its asymptotic value by this number over the electrons of the disk. Set
# on simulated disks of 60 to 300 electrons.
FEW_ELECTRONS = 25.0
MIN_INFORMATION = 1e-3  # 1/pixel²; smallest information, for disks that the prior alone determines
CENTERED_PX = 0.75  # pixels; largest offset of a disk from the middle of its window without a new window
CENTERING_ROUNDS = 4  # windows of a disk; in half-lit disks, the most significant place is pixels off
MAX_MOVE_RADII = 0.75  # radii; largest distance of a fit from the most significant place
MAX_SIGMA_RADII = 0.5  # radii; a disk with a larger sigma is not located
SAME_RADII = 0.7  # radii; largest distance of two fits of the same disk
MIN_LIGHT = 0.5  # fraction of the electrons at the place; smallest intensity of a fit plus two standard errors
NARROW_STEPS = 0.4  # steps of the grid; smallest width of a posterior that the grid resolves
MAX_LOST_STEPS = 1.5  # steps of the grid; largest distance of a fit from the posterior at which it started
MAX_NEIGHBORS = 4  # disks; largest number fitted together with a disk, the pixels of others are left out


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
    contrast, contrast_sigma : numpy.ndarray, shape (k, terms)
        Coefficients of the brightness, electrons in a pixel, and their standard errors.
    misfit : numpy.ndarray, shape (k,)
        Mean squared residual of the first fits, in units of the expected variance.
    """

    position: np.ndarray
    sigma: np.ndarray
    intensity: np.ndarray
    intensity_sigma: np.ndarray
    good: np.ndarray
    contrast: np.ndarray
    contrast_sigma: np.ndarray
    misfit: np.ndarray

    def subset(self, keep) -> FittedDisks:
        """Select some fits.

        Parameters
        ----------
        keep : slice or numpy.ndarray
            Slice, index or mask of the fits.

        Returns
        -------
        FittedDisks
            The fits.
        """
        return FittedDisks(*(getattr(self, field.name)[keep] for field in fields(self)))


def fit_disks(windows: DiskWindows, candidates: Candidates, shape: DiskShape, direct, readout: float) -> FittedDisks:
    """Fit the disks of patterns.

    Parameters
    ----------
    windows : DiskWindows
        The patterns.
    candidates : Candidates
        The disks, the direct one left out.
    shape : DiskShape
        Aperture and contrast.
    direct : numpy.ndarray, shape (n, 2)
        Positions of the direct beam, pixels.
    readout : float
        Read-out noise in electrons, rms.

    Returns
    -------
    FittedDisks
        The fits.
    """
    k, radius = len(candidates.pattern), shape.aperture.radius
    every = with_direct(candidates, direct)
    count = len(every.pattern)
    found = FittedDisks(every.place.astype(float), np.full((count, 2), np.inf), *np.zeros((2, count)),
                        np.zeros(count, bool), *np.zeros((2, count, 28)), np.zeros(count))
    if not k:
        return found.subset(slice(0, 0))
    start, reach = every.place, max(MAX_MOVE_PX, MAX_MOVE_RADII * radius)
    wanted = np.arange(count) < k  # all but the direct beams
    every = _fit_alone(found, wanted, reach, windows, every, shape, direct, readout)
    near = np.hypot(*(found.position - start).T) < reach
    weak = wanted & ~(near & (found.sigma <= weak_sigma(shape.aperture)).all(1) & (found.intensity > 0))
    if weak.any():
        _spread(found, np.flatnonzero(weak), start, windows, every, shape, direct, readout)
    move, near = np.abs(found.position - every.place), np.hypot(*(found.position - start).T) < reach
    found.good[:] = near & (weak | (move < MAX_MOVE_PX).all(1)) & (found.intensity > 0)
    found.good[:] &= (found.sigma < MAX_SIGMA_RADII * radius).all(1)
    found.good[:] &= ~_repeated(found.position, every, found.good, radius)
    _fit_overlapping(found, wanted, windows, every, shape, direct, readout)
    found.good[:] &= np.hypot(*(found.position - start).T) < reach
    # A fit with less than half of the electrons at its place has moved to another disk, or has failed.
    found.good[:k] &= found.intensity[:k] + 2 * found.intensity_sigma[:k] > MIN_LIGHT * candidates.electrons
    # Errors of the model of the contrast follow from large residuals, and from light far off the center. Residuals of
    # few electrons do not show them.
    typical = shape.typical_misfit(every.electrons)
    off_center = (np.hypot(*(found.position - start).T) - CENTERED_PX).clip(0)
    wider = np.hypot(found.sigma * np.maximum(found.misfit / typical, 1)[:, None],
                     OFF_CENTER_ERROR * off_center[:, None])
    found.sigma[:] = np.where(every.electrons[:, None] < TELLING_ELECTRONS, found.sigma, wider)
    found.sigma[:] *= np.sqrt(shape.error_ratio(every.electrons))[:, None]
    return found.subset(slice(k))


def _fit_alone(found, wanted, reach, windows, every, shape, direct, readout):
    """Fit disks with the pixels under no other disk; return them with the places of their last windows.

    A window is moved until its disk lies in its middle. Of the direct beams, those near another disk are fitted.
    """
    crowded = _neighbors(every.place.astype(float), every, 2 * windows.reach)
    again = np.flatnonzero(wanted | (crowded[:, 0] >= 0))
    start = every.place
    for number in range(CENTERING_ROUNDS):
        if not len(again):
            break
        _fit_some(found, again, windows, every, shape, direct, readout)
        move = np.abs(found.position - every.place)
        near = np.hypot(*(found.position - start).T) < reach
        rough = (found.sigma > FINE_SIGMA_PX).any(1) & (number == 0)
        again = again[(((move > CENTERED_PX).any(1) | rough) & near)[again]]
        place = every.place.copy()
        place[again] = np.rint(found.position[again]).astype(int)
        every = replace(every, place=_near_pattern(place, windows))
    return every


def _fit_overlapping(found, wanted, windows, every, shape, direct, readout):
    """Fit disks that overlap others once more, with all pixels; a fit that goes astray is not used."""
    lit = np.flatnonzero(found.good)
    others = _neighbors(found.position[lit], every.subset(lit), 2 * windows.reach)
    others = np.where(others >= 0, lit[others], -1)
    shared = others[:, 0] >= 0
    if not shared.any():
        return
    neighbors = np.full((len(found.good), MAX_NEIGHBORS), -1)
    neighbors[lit] = others
    joint = lit[shared & wanted[lit]]
    alone = found.subset(joint)
    _fit_some(found, joint, windows, every, shape, direct, readout, neighbors)
    astray = (np.abs(found.position[joint] - alone.position) > MAX_MOVE_PX).any(1)
    astray |= (found.sigma[joint] > MAX_SIGMA_RADII * shape.aperture.radius).any(1) | (found.intensity[joint] <= 0)
    for field in fields(found):
        getattr(found, field.name)[joint[astray]] = getattr(alone, field.name)[astray]


def _near_pattern(place, windows):
    """Move places to the nearest place at which part of a disk lies in the pattern."""
    return np.clip(place, -int(windows.reach), np.subtract(windows.shape[1:], 1) + int(windows.reach))


def _fit_some(found, some, windows, every, shape, direct, readout, neighbors=None):
    """Fit some disks in windows about their places, and write the result into `found`."""
    device = windows.electrons.device
    coverage = windows.coverage(every)
    direction = directions(every, direct)
    first = deepcopy(found)
    for group, model, priors in shape.groups(every.electrons[some], device):
        members = some[group]
        for begin in range(0, len(members), FITTED_AT_ONCE):
            part = members[begin : begin + FITTED_AT_ONCE]
            offset = torch.from_numpy(found.position[part] - every.place[part]).float().to(device)
            prior, overlap, places = priors[torch.from_numpy(direction[part])], None, None
            if neighbors is not None:
                places, overlap = _overlap(model, first, every, part, neighbors[part], device)
            electrons, good = windows.cut(every.subset(part), coverage, model.side, places)
            with torch.inference_mode():
                fitted = model.fit(electrons, good, offset.clamp(-MAX_MOVE_PX, MAX_MOVE_PX), readout, prior=prior,
                                   overlap=overlap)
            _store(found, part, fitted, every.place[part], model)


def _spread(found, weak, start, windows, every, shape, direct, readout):
    """Replace the fits of weak disks by mean and width of their posterior, in windows about their light.

    The first fit of a disk that is in part dark may have taken an edge of the dark part for that of the disk, and the
    most significant place may lie on the wrong side of the light.
    """
    area, side = np.pi * shape.aperture.radius**2, grid_side(shape.aperture)
    every.place[weak] = start[weak]
    electrons, good = windows.cut(every.subset(weak), windows.coverage(every), side)
    axis = torch.arange(side, device=electrons.device) - float(side // 2)
    light = electrons * good * (torch.hypot(axis[:, None], axis) < windows.reach)
    moments = torch.stack([light.sum(2) @ axis, light.sum(1) @ axis], 1) / light.sum((1, 2)).clamp_min(1)[:, None]
    start = start.copy()
    start[weak] = _near_pattern(start[weak] + np.rint(moments.cpu().numpy()).astype(int), windows)
    every.place[weak] = start[weak]
    electrons, good = windows.cut(every.subset(weak), windows.coverage(every), side)
    device, number = electrons.device, every.electrons[weak]
    mean, covariance = posterior_positions(
        electrons + readout**2, good, torch.from_numpy(np.maximum(number / area, 1e-3)).float().to(device),
        torch.from_numpy(every.background[weak] + 1e-4).float().to(device), directions(every, direct)[weak], shape,
        number)
    mean, sigma = mean.cpu().numpy(), np.sqrt(covariance.diagonal(dim1=1, dim2=2).cpu().numpy())
    # If a posterior is narrower than a step, the first fit was far off, and a second fit starts from here.
    step = grid_step(shape.aperture)
    position, sigma = mean + start[weak], np.maximum(sigma, step / 12**0.5)
    found.position[weak], found.sigma[weak] = position, sigma
    found.intensity[weak] = number / every.seen[weak]
    found.intensity_sigma[weak] = np.sqrt(number.clip(0) + every.background[weak] * area) / every.seen[weak]
    every.place[weak] = _near_pattern(np.rint(position).astype(int), windows)
    narrow = (sigma < NARROW_STEPS * step).all(1)
    if narrow.any():
        members = weak[narrow]
        _fit_some(found, members, windows, every, shape, direct, readout)
        lost = (np.abs(found.position[members] - position[narrow]) > MAX_LOST_STEPS * step).any(1)
        found.position[members[lost]], found.sigma[members[lost]] = position[narrow][lost], sigma[narrow][lost]


def _overlap(model, first, every, part, neighbors, device):
    """Return places of the neighbors in the windows of disks (NaN without one), and their contribution."""
    none = neighbors < 0
    middle = every.place[part][:, None]
    places = np.where(none[..., None], np.nan, every.place[neighbors] - middle)
    contrast = np.where(none[..., None], 0, first.contrast[neighbors])
    values = (np.where(none[..., None], 1e3, first.position[neighbors] - middle), contrast,
              np.where(none[..., None], 1, first.sigma[neighbors]),
              np.where(none[..., None], 1, first.contrast_sigma[neighbors][..., :3]))
    return places, model.overlap(*(torch.from_numpy(v).float().to(device) for v in values))


def _store(found, part, fitted, place, model):
    """Write fits in windows at places into `found`."""
    values = {name: getattr(fitted, name).cpu().numpy().astype(float) for name in (
        "position", "covariance", "misfit", "brightness", "strength", "level", "contrast", "contrast_variance")}
    # The prior about the start holds no information on the disk.
    information = np.linalg.inv(values["covariance"]) - np.eye(2) / PRIOR_PX**2 + MIN_INFORMATION * np.eye(2)
    variance = np.einsum("kii->ki", np.linalg.inv(information))
    intensity = values["brightness"] * np.pi * model.aperture.radius**2
    few = 1 + FEW_ELECTRONS / intensity.clip(1)
    found.position[part], found.misfit[part] = values["position"] + place, values["misfit"]
    found.sigma[part] = np.sqrt(variance.clip(1e-8) * (values["misfit"].clip(1) * few)[:, None])
    found.intensity[part] = intensity
    found.intensity_sigma[part] = np.abs(intensity) / np.maximum(np.abs(values["strength"]), 1e-3)
    terms, level = values["contrast"].shape[1], values["level"][:, None]
    found.contrast[part], found.contrast_sigma[part] = 0, 0
    found.contrast[part, :terms] = values["contrast"] * level
    found.contrast_sigma[part, :terms] = np.sqrt(values["contrast_variance"].clip(0)) * level


def _neighbors(position, candidates: Candidates, reach):
    """Nearest disks of the same pattern within `reach`, nearest first, (k, MAX_NEIGHBORS); -1 for none."""
    points = apart(position, candidates.pattern)
    if len(points) < 2:
        return np.full((len(points), MAX_NEIGHBORS), -1)
    distance, index = cKDTree(points).query(points, MAX_NEIGHBORS + 1, distance_upper_bound=reach)
    return np.where(np.isfinite(distance), index, -1)[:, 1:]


def _repeated(position, candidates: Candidates, good, radius):
    """Whether a more significant disk of the pattern was fitted at the same place."""
    out = np.zeros(len(position), bool)
    index = np.flatnonzero(good)
    if len(index):
        for i, j in cKDTree(apart(position, candidates.pattern)[index]).query_pairs(SAME_RADII * radius):
            i, j = index[i], index[j]
            out[j if candidates.significance[i] >= candidates.significance[j] else i] = True
    return out
