"""Errors of positions beyond those that the fits state, from disks that lie opposite each other.

A lattice is symmetric under inversion, so the middle between a disk and the opposite one is the position of the direct
beam, for any crystal, strain and ellipse. The middles in a pattern therefore scatter only by the errors of the disk
positions, including errors from contrast that the fits do not describe.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from . import apart

MIXTURE_ROUNDS = 50  # rounds of expectation maximization, which then changes the ratio by less than its standard error


def error_ratios(pattern, position, sigma, group, direct, reach: float, groups: int, prior: float) -> np.ndarray:
    """Measure the ratio of the variance of positions to the stated one.

    Parameters
    ----------
    pattern : numpy.ndarray of int, shape (k,)
        Number of the pattern of each disk.
    position, sigma : numpy.ndarray, shape (k, 2)
        Positions and their stated standard errors, pixels.
    group : numpy.ndarray of int, shape (k,)
        Group of each disk; a group has one ratio.
    direct : numpy.ndarray, shape (n, 2)
        Positions of the direct beam, pixels.
    reach : float
        Largest distance from the direct beam at which the middle of two disks is that of a pair, pixels.
    groups : int
        Number of groups.
    prior : float
        Weight of a ratio of 1 as prior knowledge, as a number of disks.

    Returns
    -------
    numpy.ndarray, shape (groups,)
        The ratio of the variances; 1 for a group without pairs.

    Notes
    -----
    The middles are a mixture of two distributions: a normal one about the fitted middle of the pattern, and a uniform
    one for disks that are opposite by chance. The likelihood is maximized over the ratios and the fraction of chance
    pairs.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.disks import error_ratios
    >>> rng = np.random.default_rng(0)
    >>> spots = np.array([[9, 0], [-9, 0], [0, 9], [0, -9], [9, 9], [-9, -9]])
    >>> position = np.tile(spots, (50, 1)) + rng.normal(0, 0.2, (300, 2))
    >>> pattern, none = np.arange(300) // 6, np.zeros(300, int)
    >>> ratio = error_ratios(pattern, position, np.full((300, 2), 0.1), none, np.zeros((50, 2)), 2.0, 1, 16)
    >>> bool(abs(ratio[0] - 4) < 1)
    True
    """
    first, second = _pairs(pattern, position, direct, 2 * reach)
    if not len(first):
        return np.ones(groups)
    at, members = pattern[first], np.stack([first, second])
    middle = position[members].mean(0) - direct[at]
    parts, kinds = sigma[members] ** 2 / 4, group[members]  # variances of a middle by each of its disks
    chance, paired = 0.5, np.ones(len(at))
    ratio = _ratios(np.ones(groups), parts, kinds, middle, at, paired, prior)  # as if no pair were one by chance
    for _ in range(MIXTURE_ROUNDS):
        variance = (ratio[kinds][..., None] * parts).sum(0)
        off, free = _off_middle(middle, variance, at, paired)
        density = np.exp(-0.5 * (off**2 / (variance * free)).sum(1)) / (2 * np.pi * np.sqrt((variance * free).prod(1)))
        paired = (1 - chance) * density / ((1 - chance) * density + chance / (np.pi * reach**2) + 1e-300)
        chance = 1 - paired.mean()
        ratio = _ratios(ratio, parts, kinds, middle, at, paired, prior)
    return ratio


def _pairs(pattern, position, direct, reach):
    """Numbers of the disks of each pair: each is the nearest to the place opposite the other."""
    tree = cKDTree(apart(position, pattern))
    away, nearest = tree.query(apart(2 * direct[pattern] - position, pattern), distance_upper_bound=reach)
    found = np.flatnonzero(np.isfinite(away))
    other = nearest[found]
    mutual = (found < other) & (nearest[other] == found)
    return found[mutual], other[mutual]


def _off_middle(middle, variance, at, paired):
    """Offsets (pairs, 2) of middles from the mean of their pattern, and the part of their variance that is left."""
    weight = paired[:, None] / variance
    total, moment = np.zeros((2, at.max() + 1, 2))
    np.add.at(total, at, weight)
    np.add.at(moment, at, weight * middle)
    total = total[at].clip(1e-12)
    return middle - moment[at] / total, (1 - weight / total).clip(1e-3)


def _ratios(ratio, parts, kinds, middle, at, paired, prior):
    """Expected ratios, given those of the last round."""
    variance = (ratio[kinds][..., None] * parts).sum(0)
    off, free = _off_middle(middle, variance, at, paired)
    pull = np.where(free > 1e-3, off**2 / (variance * free), 1)  # a single pair in a pattern has no scatter
    total, count = np.full((2, len(ratio)), prior, float)
    for part, kind in zip(parts, kinds, strict=True):
        own = ratio[kind][:, None]
        expected = own * (1 + own * part / variance * (pull - 1)).mean(1, keepdims=True)
        np.add.at(total, kind, paired * expected[:, 0])
        np.add.at(count, kind, paired)
    return total / count
