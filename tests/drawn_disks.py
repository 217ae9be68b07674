"""Positions of disks drawn from the rings of a standard, for tests of pixel size."""

import numpy as np

from py4dstem_prenet.core import ellipse_matrix
from py4dstem_prenet.pixel_size import Shape, Spots, State, find_standard, fit_spots, joint_of, zones_of


def disks_of(standard, scale, count=150, sigma=0.15, vector=(0.02, -0.01), barrel=0.0, threefold=(0.0, 0.0), seed=0,
             forbidden=()):
    """Positions of disks on the rings of a standard, one in ten anywhere; forbidden ones a third as high as 111."""
    rng, crystal = np.random.default_rng(seed), find_standard(standard)
    inside = np.flatnonzero((crystal.g / scale > 10) & (crystal.g / scale < 60))
    weight = crystal.intensity[inside] + np.isin(np.array(crystal.hkl)[inside], forbidden) / 3
    radius = crystal.g[rng.choice(inside, count, p=weight / weight.sum())] / scale
    radius = np.where(rng.random(count) < 0.1, rng.uniform(10, 60, count), radius)
    phi = rng.uniform(0, 2 * np.pi, count)
    wave = threefold[0] * np.cos(3 * phi) + threefold[1] * np.sin(3 * phi)
    radius = radius * (1 + barrel * (radius / 64) ** 2 + radius / 64 * wave)
    offset = (ellipse_matrix(vector) @ (radius * np.stack([np.cos(phi), np.sin(phi)]))).T
    offset += rng.normal(0, sigma, offset.shape)
    number = np.arange(count)
    place = np.stack(np.divmod(number, 10), 1)
    return Spots(offset, np.full((count, 2), sigma), number, place, number, np.ones(count, int), 10.0, float(count))


def state_of(spots, scale=1.0, covariance=0.02**2):
    shape = Shape(0.05, 1.0)
    return State(scale, np.zeros(2), np.zeros(2), shape, 0.0, np.zeros(2), 64.0, spots.span, shape,
                 covariance * np.eye(2), np.zeros(2))


def crystal_disks(change, error=0.0, sigma=0.1, count=24, seed=0):
    """Disks of one silicon crystal for a relative `change` (side, side) of its lattice, and their fit.

    Each reflection has an error of its own, of `error` px, in each quarter of the scan.
    """
    rng, crystal, scale, side = np.random.default_rng(seed), find_standard("Si"), 0.02, len(change)
    place = np.stack(np.indices(change.shape), -1).reshape(-1, 2)
    inside = np.flatnonzero((crystal.g / scale > 10) & (crystal.g / scale < 60))
    phi = rng.uniform(0, 2 * np.pi, count)
    radius = crystal.g[rng.choice(inside, count)] / scale * (1 + change.reshape(-1, 1))
    quarter = (place * 2 // side) @ (2, 1)
    radius += rng.normal(0, error, (4, count))[quarter]
    offset = (radius[..., None] * np.stack([np.cos(phi), np.sin(phi)], -1)).reshape(-1, 2)
    pattern, reflection = (q.ravel() for q in np.indices(radius.shape))
    spots = Spots(offset + rng.normal(0, sigma, offset.shape), np.full(offset.shape, sigma), pattern, place[pattern],
                  reflection, np.full(len(pattern), len(place)), 10.0, 1.0)
    return spots, joint_of(fit_spots(spots, crystal, state_of(spots, scale, 1e-8), 50.0), spots, crystal)


def lattice_disks(standard, zone=0, scale=0.02, vector=(0.02, -0.01), turn=0.3, side=6, sigma=0.1, own=0.05, seed=0,
                  strain=None):
    """Disks of one crystal near a zone axis, in side x side patterns; each reflection has an error `own` px.

    `strain` (side, side, 2, 2) is a relative displacement of the disks at each position.
    """
    rng, basis = np.random.default_rng(seed), zones_of(find_standard(standard))[zone].basis / scale
    index = np.stack(np.meshgrid(*[np.arange(-12, 13)] * 2), -1).reshape(-1, 2)
    ideal = index @ basis.T @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    ideal = ideal[(np.hypot(*ideal.T) > 12) & (np.hypot(*ideal.T) < 56)]
    measured = ideal @ ellipse_matrix(vector).T
    measured += rng.normal(0, own, measured.shape)
    place = np.stack(np.indices((side, side)), -1).reshape(-1, 2)
    pattern, reflection = (q.ravel() for q in np.indices((side**2, len(measured))))
    offset = measured[reflection]
    if strain is not None:
        offset = offset + np.einsum("kij,kj->ki", strain.reshape(-1, 2, 2)[pattern], offset)
    offset = offset + rng.normal(0, sigma, offset.shape)
    count = np.full(len(pattern), side**2)
    return Spots(offset, np.full(offset.shape, sigma), pattern, place[pattern], reflection, count, 11.0, 1.0)
