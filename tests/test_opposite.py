"""Errors of positions from opposite disks, and the background of patterns with rings."""

import numpy as np
import torch

from py4dstem_prenet.disks import DiskFilter, error_ratios, measure_background
from py4dstem_prenet.fits import Aperture

STATED = 0.1  # pixels


def ratio(error, stray=0, shift=(0.0, 0.0)):
    """Ratio of the variance for disks of a strained lattice in 40 patterns; `stray` others are placed at random."""
    rng = np.random.default_rng(3)
    spots = np.stack(np.meshgrid([-20.0, 0, 20], [-20.0, 0, 20]), -1).reshape(-1, 2)[[0, 1, 2, 3, 5, 6, 7, 8]]
    spots = spots @ [[1.02, 0.03], [-0.01, 0.97]]
    position = np.concatenate([np.tile(spots, (40, 1)) + rng.normal(0, error, (320, 2)) + shift,
                               rng.uniform(-30, 30, (40 * stray, 2))])
    pattern = np.concatenate([np.repeat(np.arange(40), 8), np.repeat(np.arange(40), stray)])
    group = np.zeros(len(pattern), int)
    return error_ratios(pattern, position, np.full_like(position, STATED), group, np.zeros((40, 2)), 2.5, 2, 16)


def test_the_ratio_is_that_of_the_variances_for_any_strain():
    for times in (1.0, 2.0):
        found = ratio(times * STATED)
        assert abs(found[0] / times**2 - 1) < 0.25
        assert found[1] == 1  # a group without disks


def test_neither_a_shifted_origin_nor_disks_that_are_opposite_by_chance_count():
    assert abs(ratio(STATED, shift=(0.3, -0.2))[0] - 1) < 0.25
    assert abs(ratio(STATED, stray=15)[0] - 1) < 0.5


def test_no_pair_leaves_the_stated_errors():
    one = error_ratios(np.zeros(1, int), np.array([[9.0, 0.0]]), np.ones((1, 2)), np.zeros(1, int), np.zeros((1, 2)),
                       2.5, 1, 16)
    assert one.tolist() == [1.0]


def test_rings_as_narrow_as_a_disk_belong_to_the_background():
    direct = 40 + np.random.default_rng(0).uniform(-1, 1, (24, 2))
    distance = np.hypot(*(np.indices((80, 80))[:, None] - direct.T[..., None, None]))
    ring = 600 * np.exp(-0.5 * ((distance - 22) / 1.5) ** 2)
    expected = ring + 40 + 5000 * (distance < 5)
    electrons = torch.from_numpy(np.random.default_rng(1).poisson(expected).astype(np.float32))
    disks = DiskFilter(Aperture(5.0, 0.3, (0.0, 0.0)), (80, 80))
    background = measure_background(electrons, torch.ones(80, 80, dtype=torch.bool), 0.0, disks, direct)
    assert abs(background.profile[22] / 640 - 1) < 0.1
    assert abs(background.profile[32] / 40 - 1) < 0.1
