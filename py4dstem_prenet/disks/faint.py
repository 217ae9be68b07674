"""Weak disks of a pattern at places where its neighbors in the scan show a disk.

A place that is significant in the sum of the aligned neighbors needs fewer electrons in the pattern itself. The pattern
is not part of the sum, so the noise of both is independent, and Bayes' rule gives the probability that the electrons at
this place are a disk. The intensity is measured in the pattern alone; the position also, with the place in the
neighbors as its prior.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial import cKDTree

from . import (
    MAX_SIGMA_RADII,
    MOVE_RADII,
    Candidates,
    DiskShape,
    DiskWindows,
    PatternGroup,
    apart,
    concatenated,
    directions,
    find_disks,
    grid_side,
    grid_step,
    li_ma,
    log_odds,
    pattern_ring,
    posterior_positions,
    with_direct,
)

# Set on thin gold and thick iron at 300 electrons per pattern (benchmarks/orientation.py, disks.py).
LEAST_ALIKE = 5.0  # log odds; smallest value for which two patterns count as alike
PRESENT = 0.95  # probability; prior that a disk of the neighbors is also in the pattern
MISTAKEN = 0.5  # fraction of `false_alarm`; largest expected number of false disks here (mean: 0.3)
MIN_FREE = 0.75  # fraction of the aperture; smallest part that lies in the pattern and under no other disk
# Radii; ratio. Within this distance of a disk, a place with less than this part of its electrons may be its tail.
TAIL_RADII, TAIL = 3.0, 0.1
SUMMED_AT_ONCE = 64  # patterns; limits the memory


@dataclass(frozen=True)
class FaintDisks:
    """Disks that were found with neighbors.

    Attributes
    ----------
    pattern : numpy.ndarray of int, shape (k,)
        Number of the pattern.
    position, sigma : numpy.ndarray, shape (k, 2)
        Positions and their standard errors, pixels.
    intensity, intensity_sigma : numpy.ndarray, shape (k,)
        Electrons of the pattern in the disk, and their standard error.
    significance : numpy.ndarray, shape (k,)
        Significance of these electrons in the pattern alone, standard deviations.
    probability : numpy.ndarray, shape (k,)
        Probability that they are a disk.
    """

    pattern: np.ndarray
    position: np.ndarray
    sigma: np.ndarray
    intensity: np.ndarray
    intensity_sigma: np.ndarray
    significance: np.ndarray
    probability: np.ndarray


def faint_disks(group: PatternGroup, pairs, members, thresholds, false_alarm: float, structure: float,
                shape: DiskShape, side: int) -> FaintDisks:
    """Find weak disks of patterns at places where their neighbors show a disk.

    Parameters
    ----------
    group : PatternGroup
        The patterns and their neighbors.
    pairs : numpy.ndarray of int, shape (k, 2)
        Numbers of patterns that are neighbors.
    members : numpy.ndarray of int, shape (m,)
        Numbers of the patterns whose disks are wanted.
    thresholds : tuple of float
        Least significance of a disk in a pattern alone, and of a place in the sum of neighbors, standard deviations.
    false_alarm : float
        Mean number of false disks in a pattern; these disks may contribute a part of it (`MISTAKEN`).
    structure : float
        Relative rms of the background in an aperture about its expectation, without counting noise.
    shape : DiskShape
        Aperture and contrast.
    side : int
        Largest side of the windows of disks, pixels.

    Returns
    -------
    FaintDisks
        The disks.
    """
    chosen = pairs[group.alike(pairs) > LEAST_ALIKE]
    both = np.concatenate([chosen, chosen[:, ::-1]])
    both = both[np.lexsort((both[:, 1], both[:, 0]))]
    members = members[np.isin(members, both[:, 0])]
    found = []
    for first in range(0, len(members), SUMMED_AT_ONCE):
        some = members[first : first + SUMMED_AT_ONCE]
        partners = [both[slice(*np.searchsorted(both[:, 0], (n, n + 1))), 1] for n in some]
        places, share, at, sigma = _places(group, some, partners, thresholds[1], structure, shape, side)
        found.append(_in_patterns(group, places, share, at, sigma, thresholds[0], false_alarm, shape, side))
    if not found:
        return FaintDisks(np.zeros(0, int), *np.zeros((2, 0, 2)), *np.zeros((4, 0)))
    return concatenated(found)


def _places(group, members, partners, threshold, structure, shape, side):
    """Find places where the sum of the neighbors shows a disk and the pattern alone does not.

    Return candidates, the number of neighbors of each, positions and sigmas.
    """
    own, radius, direct = group.own, group.disks.aperture.radius, group.own.direct[members]
    sums, images = _sums(group, members, partners)
    found = find_disks(sums, images, group.good, group.disks, threshold, direct, structure)
    every = np.arange(len(own.direct))
    shown = cKDTree(apart(np.concatenate([own.position, own.direct]), np.concatenate([own.pattern, every])))
    new = np.flatnonzero(found.reported(group.electrons.shape[1:])
                         & (shown.query(apart(found.place, members[found.pattern]))[0] > 0.5 * radius))
    share = np.array([len(others) for others in partners])[found.pattern[new]]
    if len(new):
        at, sigma = _located(sums, group.good, found, found.subset(new), direct, shape, side, share)
    else:
        at, sigma = np.zeros((2, 0, 2))
    places = found.subset(new)
    places = replace(places, pattern=members[places.pattern])
    kept = (shown.query(apart(at, places.pattern))[0] > radius) & (sigma < MAX_SIGMA_RADII * radius).all(1)
    order = np.flatnonzero(kept)[np.argsort(-places.significance[kept], kind="stable")]
    twice = cKDTree(apart(at[order], places.pattern[order])).query_pairs(radius, output_type="ndarray")
    kept[order[twice.max(1)]] = False  # second places in the same disk
    return places.subset(kept), share[kept], at[kept], sigma[kept]


def _in_patterns(group, places, share, at, sigma, threshold, false_alarm, shape, side):
    """Find the disks of patterns at the given places."""
    disks, own, pattern = group.disks, group.own, places.pattern
    on, beneath, seen = group.counts(pattern, at)
    mean = places.electrons / share
    absent = 1 / (1 + PRESENT / (1 - PRESENT) * np.exp(log_odds(on, beneath, mean * seen).clip(-50, 50)))
    ring = beneath * disks.ring_area / disks.area
    off = ring + pattern_ring(torch.from_numpy(ring), torch.ones(1)).numpy()
    z = li_ma(*(torch.from_numpy(v) for v in (on, off, beneath, off))).numpy()
    # Candidates that are significant in the pattern alone were decided before, without neighbors.
    wrong = (seen < MIN_FREE) | (on <= beneath) | (z > threshold)
    # Disks weaker than the background may be structure that is common to neighbors.
    wrong |= (mean * seen < beneath) | (mean < TAIL * _brightest_near(group, at, pattern))
    kept = _accepted(pattern, np.where(wrong, 1.0, absent), MISTAKEN * false_alarm)
    pattern, on, beneath, seen, z = (values[kept] for values in (pattern, on, beneath, seen, z))
    signal, place = on - beneath, np.rint(at[kept]).astype(int)
    position, sigma = at[kept], np.hypot(sigma[kept], MOVE_RADII * disks.aperture.radius)
    if len(kept):
        some = Candidates(pattern, place, z, signal / seen, beneath / (seen * disks.area), seen)
        others = Candidates(own.pattern, np.rint(own.position).astype(int), *np.ones((4, len(own.pattern))))
        members = np.unique(pattern)
        every = concatenated([some, others.subset(np.isin(others.pattern, members))])
        every = replace(every, pattern=np.searchsorted(members, every.pattern))
        some = replace(some, pattern=np.searchsorted(members, some.pattern))
        position, sigma = _located(group.electrons[members], group.good, every, some, own.direct[members], shape,
                                   side, 1, (position - place, sigma))
    return FaintDisks(pattern, position, sigma, signal / seen, np.sqrt(np.maximum(on, 1)) / seen, z,
                      1 - absent[kept])


def _sums(group, members, partners):
    """Sums of the aligned neighbors of some patterns, and their background."""
    direct, good = group.own.direct, group.good.to(group.electrons.dtype)
    sums, level = torch.zeros_like(group.electrons[members]), []
    for total, n, others in zip(sums, members, partners, strict=True):
        seen = torch.zeros_like(total)
        for other in others:
            dx, dy = np.rint(direct[n] - direct[other]).astype(int).tolist()
            to, of = _shifted_part(total.shape, dx, dy), _shifted_part(total.shape, -dx, -dy)
            total[to] += group.electrons[other][of] * good[of]
            seen[to] += good[of]
        total *= len(others) / seen.clamp_min(1)
        level.append(group.level[others].sum())
    return sums, group.images[members] * torch.stack(level)[:, None, None]


def _shifted_part(shape, dx, dy):
    """The part of an image that another image of the same shape covers after a shift by (dx, dy) pixels."""
    return slice(max(dx, 0), shape[0] + min(dx, 0)), slice(max(dy, 0), shape[1] + min(dy, 0))


def _brightest_near(group, at, pattern):
    """Electrons of the brightest disk of the same pattern near places, 0 if there is none."""
    own, some = group.own, np.unique(pattern)
    on, beneath, _ = group.counts(some, own.direct[some], everywhere=True)
    electrons = np.concatenate([own.electrons, on - beneath])
    tree = cKDTree(apart(np.concatenate([own.position, own.direct[some]]), np.concatenate([own.pattern, some])))
    near = tree.query_ball_point(apart(at, pattern), TAIL_RADII * group.disks.aperture.radius)
    return np.array([electrons[some].max(initial=0) for some in near])


def _located(electrons, good, every, some, direct, shape, side, share, prior=None):
    """Positions and sigmas of some disks out of all, from their posterior."""
    aperture = shape.aperture
    windows = DiskWindows(electrons, good, aperture.radius + aperture.edge, side)
    cut, used = windows.cut(some, windows.coverage(with_direct(every, direct)), grid_side(aperture))
    brightness = np.maximum(some.electrons / (np.pi * aperture.radius**2), 1e-3)
    mean, covariance = posterior_positions(
        cut, used, torch.from_numpy(brightness).float().to(cut.device),
        torch.from_numpy(some.background + 1e-4).float().to(cut.device), directions(some, direct), shape,
        some.electrons / share, prior)
    sigma = covariance.diagonal(dim1=1, dim2=2).clamp_min(grid_step(aperture) ** 2 / 12).sqrt()
    return mean.cpu().numpy() + some.place, sigma.cpu().numpy()


def _accepted(pattern, absent, most):
    """Select the most probable disks of each pattern; of these, at most `most` are expected to be false."""
    order = np.lexsort((absent, pattern))
    total = np.concatenate([[0.0], np.cumsum(absent[order])])
    expected = total[1:] - total[np.searchsorted(pattern[order], pattern[order])]
    return np.sort(order[expected <= most])
