"""Means of similar patterns: less noise where patterns repeat, nothing from beyond a boundary, edges stay sharp."""

import numpy as np
import pytest
import torch
from scipy.special import erf

from py4dstem_prenet.denoising.neighbors import neighbor_means, shift, similarity

SIDE = 64


def disks(origins, at, heights, radius=6.0, edge=0.6):
    """Patterns (n, SIDE, SIDE) of soft disks at `at` (k, 2) from their origins (n, 2), on a little background."""
    x, y = np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")
    out = np.full((len(origins), SIDE, SIDE), 0.02)
    for (dx, dy), height in zip(at, heights, strict=True):
        r = np.hypot(x - origins[:, 0, None, None] - dx, y - origins[:, 1, None, None] - dy)
        out += height * 0.5 * (1 - erf((r - radius) / (edge * 2**0.5)))
    return out


@pytest.fixture(scope="module")
def grains():
    """60 patterns of two grains, 30 each, with a descan of some pixels: expected per unit dose, origins, grain."""
    generator = np.random.default_rng(1)
    origins = 31.5 + generator.uniform(-2.5, 2.5, (60, 2))
    grain = np.arange(60) // 30
    expected = np.where(grain[:, None, None] == 0, disks(origins, [(0, 0), (15, 3)], [1, 0.4]),
                        disks(origins, [(0, 0), (-4, 15)], [1, 0.4]))
    return expected / expected.sum((1, 2)).mean(), origins, grain


def counted(expected, dose, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).poisson(dose * expected).astype(np.float32))


def inner(images):
    return images[..., 6:-6, 6:-6]


@pytest.mark.parametrize("dose", [300.0, 10_000.0])
def test_repeats_are_averaged_and_the_other_grain_is_left_out(grains, dose):
    expected, origins, _ = grains
    electrons = counted(expected, dose)
    means, patterns = neighbor_means(electrons, torch.from_numpy(origins).float())
    assert ((patterns > 15) & (patterns < 29.5)).all()  # of 29 repeats and 30 others
    noise = dose * expected
    error = inner((means.numpy() - noise) ** 2).sum() / inner(noise).sum()  # 1 for a single pattern
    assert error < 2.0 / 29 + 1e-5 * dose
    # What an unweighted mean would show of the other grain, at the place of its disk, is not there.
    means_of = [means[k].numpy()[np.ix_(*(np.arange(-2, 3) + round(o) for o in origins[k] + (-4, 15)))].mean()
                for k in range(30)]
    assert np.mean(means_of) < 0.1 * dose * expected.max() * 0.4


def strained(origins, exx, turn, at=((0, 0), (17, 4), (-17, -4), (-4, 17), (4, -17))):
    """Patterns (n, SIDE, SIDE) of a lattice with a strain and a turn (n,) of each, a thousandth of it a disk's part."""
    out = []
    for origin, stretch, angle in zip(origins, exx, turn, strict=True):
        c, s = np.cos(angle), np.sin(angle)
        moved = np.array(at) * (1 + stretch, 1) @ np.array([[c, s], [-s, c]])
        out.append(disks(origin[None], moved, [1.0, 0.7, 0.6, 0.5, 0.7], radius=4.0)[0])
    out = np.array(out)
    return out / out.sum((1, 2)).mean()


@pytest.mark.parametrize("part", [(0.02, 0.0), (0.0, 0.02)])
def test_what_is_strained_or_turned_is_not_averaged_and_repeats_are(part):
    """Disks 17 px out move by .34 px, at a radius of 4 px and 10,000 electrons: far more than their noise."""
    origins = 31.5 + np.random.default_rng(1).uniform(-2.5, 2.5, (60, 2))
    second = np.arange(60) >= 30
    expected = strained(origins, part[0] * second, part[1] * second)
    electrons = counted(expected, 10_000.0)
    # By the coarse samples alone, they are all alike to a good part: this is what the second look is for.
    assert similarity(shift(electrons, torch.from_numpy(origins - 31.5).float()))[:30, 30:].mean() > 0.2
    means, patterns = neighbor_means(electrons, torch.from_numpy(origins).float())
    assert (patterns > 15).all() and patterns.mean() < 29.5  # of 29 repeats and 30 others
    off = strained(origins, *(np.where(second, 0.0, value) for value in part)) - expected
    share = ((means.numpy() / 10_000 - expected) * off).sum((1, 2)) / (off**2).sum((1, 2))
    assert np.abs(share).mean() < 0.15  # 1 for the others' mean, 0.5 for that of all


def test_a_small_spread_of_strain_is_told_by_many_electrons_only():
    origins = 31.5 + np.random.default_rng(1).uniform(-2.5, 2.5, (60, 2))
    expected = strained(origins, np.linspace(0, 0.03, 60), np.zeros(60))
    worth = [float(neighbor_means(counted(expected, dose), torch.from_numpy(origins).float())[1].mean())
             for dose in (100.0, 10_000.0, 1e6)]
    assert worth[0] > 45 and 5 < worth[1] < 40 and worth[2] < 15  # then by what is tolerated, 1e-3


def test_without_electrons_to_tell_them_apart_all_are_alike(grains):
    _, origins, _ = grains
    same = counted(disks(origins, [(0, 0)], [0.02]), 1.0)
    assert similarity(same).min() == 1


def test_a_pattern_is_not_its_own_neighbor(grains):
    expected, origins, _ = grains
    electrons = counted(expected, 1000.0)
    electrons[7, 10, 10] += 500
    means, _ = neighbor_means(electrons, torch.from_numpy(origins).float())
    assert means[7, 8:13, 8:13].max() < 5
    one, patterns = neighbor_means(electrons[:1], torch.from_numpy(origins[:1]).float())
    assert not one.any() and not patterns.any()


def test_a_subpixel_descan_keeps_edges_sharp():
    """There and back, a disk's edge of 0.6 px loses less than a thousandth of the pattern's energy; bilinearly, 2 %."""
    origins = 31.5 + np.random.default_rng(3).uniform(-0.5, 0.5, (20, 2))
    expected = disks(origins, [(0, 0)], [1000.0])
    means, patterns = neighbor_means(torch.from_numpy(expected).float(), torch.from_numpy(origins).float())
    error = inner((means.numpy() - expected) ** 2).sum() / inner(expected**2).sum()
    assert (patterns > 18.5).all() and error < 1e-3


def test_a_shift_moves_by_what_it_says_and_whole_pixels_exactly():
    images = torch.from_numpy(disks(np.array([[30.0, 33.0]]), [(0, 0)], [1.0])).float()
    there = disks(np.array([[28.7, 35.4]]), [(0, 0)], [1.0])[0]
    moved = shift(images, torch.tensor([[1.3, -2.4]]))[0].numpy()
    assert np.abs(moved - there).max() < 0.03
    assert torch.allclose(shift(images, torch.tensor([[2.0, -3.0]]))[0, :-2, 3:], images[0, 2:, :-3], atol=1e-6)


def test_bad_pixels_are_left_out_of_means(grains):
    expected, origins, _ = grains
    electrons = counted(expected, 3000.0)
    good = torch.ones(SIDE, SIDE, dtype=torch.bool)
    good[31, 31] = False
    electrons[:, 31, 31] = 0  # in the middle of the direct disk, and not filled in
    means, _ = neighbor_means(electrons, torch.from_numpy(origins).float(), 0.0, good)
    truth = 3000 * expected
    assert np.abs(means.numpy()[:, 31, 31] / truth[:, 31, 31] - 1).mean() < 0.15
