"""Patterns of a part of a scan, and which neighbors show the same crystal.

Each disk of a pattern is searched in the neighbor, at the same distance from the direct beam. The likelihood of its
electrons and of its distance there is compared with that in a pattern of another crystal. A common disk can be a
coincidence and has a small weight; a missing disk has a large one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree

from . import MIN_AREA_FRACTION, DiskFilter, covered

# Set on thin gold and thick iron at 300 electrons per pattern (benchmarks/orientation.py, disks.py).
NEIGHBOR_STEPS = ((0, 1), (1, -1), (1, 0), (1, 1))  # scan rows, columns: half of the neighbors
AMPLITUDES = np.linspace(0.1, 3.0, 16)  # ratios of the electrons of a disk in two neighbors, for the integral
AMPLITUDE_SHAPE = 2.0  # shape of the gamma distribution of these ratios: a relative scatter of 0.7
MOST_FOR, MOST_AGAINST = 2.0, -10.0  # log odds; largest contribution of a single disk for and against "alike"
MOVE_RADII = 0.1  # radii, 1 sigma; distance of the same disk in two patterns that are alike


@dataclass(frozen=True)
class OwnDisks:
    """Disks that were found in each of n patterns alone.

    Attributes
    ----------
    direct : numpy.ndarray, shape (n, 2)
        Positions of the direct beam, pixels.
    pattern : numpy.ndarray of int, shape (k,)
        Number of the pattern, ascending.
    position, sigma : numpy.ndarray, shape (k, 2)
        Positions and their standard errors, pixels.
    electrons : numpy.ndarray, shape (k,)
        Electrons.
    """

    direct: np.ndarray
    pattern: np.ndarray
    position: np.ndarray
    sigma: np.ndarray
    electrons: np.ndarray

    def covering(self, shape, radius: float) -> np.ndarray:
        """Count the disks over each pixel, the direct ones included.

        Parameters
        ----------
        shape : tuple of int
            (n, Qx, Qy).
        radius : float
            Radius of the disks, pixels.

        Returns
        -------
        numpy.ndarray of int, shape (n, Qx, Qy)
            The number of disks.
        """
        return covered(shape, np.concatenate([self.pattern, np.arange(len(self.direct))]),
                       np.rint(np.concatenate([self.position, self.direct])).astype(int), radius)


class PatternGroup:
    """Patterns with the disks that each of them shows alone.

    Parameters
    ----------
    electrons, images : torch.Tensor, shape (n, Qx, Qy)
        Patterns in electrons, with the variance of the read-out noise added to every pixel, and their background up to
        a factor.
    good : torch.Tensor of bool, shape (Qx, Qy)
        Pixels that are used.
    disks : DiskFilter
        The filter of the aperture.
    own : OwnDisks
        Their disks.

    Attributes
    ----------
    free : torch.Tensor of bool, shape (n, Qx, Qy)
        Good pixels under no disk.
    level : torch.Tensor, shape (n,)
        Factor of the background of each pattern.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from py4dstem_prenet.disks import DiskFilter, OwnDisks, PatternGroup
    >>> from py4dstem_prenet.fits import Aperture
    >>> none = OwnDisks(np.full((1, 2), 16.0), np.zeros(0, int), *np.zeros((2, 0, 2)), np.zeros(0))
    >>> one = torch.ones(1, 32, 32)
    >>> group = PatternGroup(3 * one, one, one[0] > 0, DiskFilter(Aperture(4.0, 0.3, (0.0, 0.0)), (32, 32)), none)
    >>> group.level.tolist()
    [3.0]
    """

    def __init__(self, electrons, images, good, disks: DiskFilter, own: OwnDisks):
        self.electrons, self.images, self.good, self.disks, self.own = electrons, images, good, disks, own
        covering = own.covering(tuple(electrons.shape), disks.inner)
        self.free = good & torch.from_numpy(covering == 0).to(good.device)
        free = self.free.to(electrons.dtype)
        self.level = (electrons * free).sum((1, 2)) / (images * free).sum((1, 2)).clamp_min(1e-6)

    def counts(self, pattern, place, everywhere=False):
        """Count the electrons in apertures.

        Parameters
        ----------
        pattern : numpy.ndarray of int, shape (k,)
            Number of the pattern.
        place : numpy.ndarray, shape (k, 2)
            Middle of the aperture, rounded to pixels.
        everywhere : bool, optional
            Whether pixels under disks count.

        Returns
        -------
        on, beneath, seen : numpy.ndarray, shape (k,)
            Electrons, those of the background, and the part of the aperture that counts.
        """
        device, shape = self.electrons.device, tuple(self.good.shape)
        index, used = (v.to(device) for v in self.disks.pixels_at(shape, pattern, np.rint(place).astype(int), 0))
        used &= self.good.view(-1)[index % self.good.numel()] if everywhere else self.free.view(-1)[index]
        on, beneath = ((image.reshape(-1)[index] * used).sum(1).double() for image in (self.electrons, self.images))
        beneath = beneath * self.level[torch.from_numpy(pattern).to(device)]
        return on.cpu().numpy(), beneath.cpu().numpy(), used.sum(1).cpu().numpy() / self.disks.area

    def alike(self, pairs) -> np.ndarray:
        """Compute the odds that pairs of patterns show the same crystal.

        Parameters
        ----------
        pairs : numpy.ndarray of int, shape (k, 2)
            Numbers of the patterns of each pair.

        Returns
        -------
        numpy.ndarray, shape (k,)
            Log odds; 0 where neither has a disk.
        """
        own, odds, radius = self.own, np.zeros(len(pairs)), self.disks.aperture.radius
        if not len(own.pattern):
            return odds
        count = np.bincount(own.pattern, minlength=len(own.direct))
        first = np.cumsum(count) - count
        tree = cKDTree(apart(own.position, own.pattern))
        for a, b in (pairs.T, pairs.T[::-1]):
            pair = np.repeat(np.arange(len(pairs)), count[a])
            disk = first[a[pair]] + np.arange(len(pair)) - np.repeat(np.cumsum(count[a]) - count[a], count[a])
            at = own.position[disk] - own.direct[a[pair]] + own.direct[b[pair]]
            on, beneath, seen = self.counts(b[pair], at, everywhere=True)
            value = log_odds(on, beneath, own.electrons[disk] * seen).clip(MOST_AGAINST, MOST_FOR)
            odds += np.bincount(pair, value * (seen > MIN_AREA_FRACTION), len(pairs))
            away, nearest = tree.query(apart(at, b[pair]), distance_upper_bound=radius)
            met = np.isfinite(away)
            move, nearest = at[met] - own.position[nearest[met]], nearest[met]
            variance = own.sigma[disk[met]] ** 2 + own.sigma[nearest] ** 2 + (MOVE_RADII * radius) ** 2
            # Compared with a uniform distribution within a radius; each pair of disks occurs twice.
            value = np.log(radius**2 / (2 * np.sqrt(variance.prod(1)))) - 0.5 * (move**2 / variance).sum(1)
            odds += 0.5 * np.bincount(pair[met], value, len(pairs))
        return odds


def apart(position, pattern) -> np.ndarray:
    """Lay out the positions of patterns far from each other, so that one tree holds them all.

    Parameters
    ----------
    position : numpy.ndarray, shape (k, 2)
        Pixels.
    pattern : numpy.ndarray of int, shape (k,)
        Number of the pattern.

    Returns
    -------
    numpy.ndarray, shape (k, 3)
        The points.
    """
    return np.column_stack([position, pattern * 1e6])


def log_odds(counts, background, expected) -> np.ndarray:
    """Compute the log likelihood ratio of "disk" to "no disk", given the disk of a neighbor.

    Parameters
    ----------
    counts, background : numpy.ndarray, shape (k,)
        Counts at a place, and those of the background.
    expected : numpy.ndarray, shape (k,)
        Electrons of the disk of the neighbor.

    Returns
    -------
    numpy.ndarray, shape (k,)
        Natural logarithm, the electrons of the disk marginalized.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.disks import log_odds
    >>> log_odds(np.array([0.0, 2.0]), np.full(2, 0.1), np.full(2, 3.0)).round(1).tolist()
    [-1.8, 3.7]
    """
    weight = AMPLITUDES ** (AMPLITUDE_SHAPE - 1) * np.exp(-AMPLITUDE_SHAPE * AMPLITUDES)
    more = np.maximum(expected, 1e-3)[:, None] * AMPLITUDES
    background = np.maximum(background, 1e-3)[:, None]
    value = np.maximum(counts, 0)[:, None] * np.log1p(more / background) - more
    most = value.max(1, keepdims=True)
    return most[:, 0] + np.log(np.exp(value - most) @ (weight / weight.sum()))


def neighbor_pairs(index, scan_shape) -> np.ndarray:
    """List the pairs of neighbors in a scan, diagonal ones included.

    Parameters
    ----------
    index : numpy.ndarray of int, shape (n,)
        Flat scan positions, ascending.
    scan_shape : tuple of int
        (Rx, Ry).

    Returns
    -------
    numpy.ndarray of int, shape (k, 2)
        Pairs of numbers of positions of `index`.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.disks import neighbor_pairs
    >>> neighbor_pairs(np.array([0, 1, 3]), (2, 2)).tolist()
    [[0, 1], [1, 2], [0, 2]]
    """
    row, column = np.divmod(index, scan_shape[1])
    pairs = []
    for down, right in NEIGHBOR_STEPS:
        inside = (row + down < scan_shape[0]) & (column + right >= 0) & (column + right < scan_shape[1])
        wanted = index[inside] + down * scan_shape[1] + right
        at = np.searchsorted(index, wanted).clip(0, len(index) - 1)
        held = index[at] == wanted
        pairs.append(np.stack([np.flatnonzero(inside)[held], at[held]], 1))
    return np.concatenate(pairs)
