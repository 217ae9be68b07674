"""Means of similar patterns: less noise, nothing from beyond a boundary, sharp edges, and slopes that are kept."""

import numpy as np
import pytest
import torch
from scipy.special import erf

from py4dstem_prenet.denoising import neighbor_means, shift
from py4dstem_prenet.denoising.neighbors import similarity

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


LINE = np.stack([np.zeros(60, int), np.arange(60)], 1)  # places of 60 patterns in a scan of one row


def counted(expected, dose, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).poisson(dose * expected).astype(np.float32))


def inner(images):
    return images[..., 6:-6, 6:-6]


@pytest.mark.parametrize("dose", [300.0, 10_000.0])
def test_repeats_are_averaged_and_the_other_grain_is_left_out(grains, dose):
    expected, origins, _ = grains
    electrons = counted(expected, dose)
    means, patterns = neighbor_means(electrons, torch.from_numpy(origins).float(), LINE)
    assert ((patterns > 8) & (patterns < 29.5)).all()  # of 29 repeats and 30 others
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
def test_neighbors_are_carried_to_the_strain_of_each_pattern(part):
    """Disks 17 px out move by 0.34 px, at a radius of 4 px and 10,000 electrons: far more than their noise."""
    origins = 31.5 + np.random.default_rng(1).uniform(-2.5, 2.5, (60, 2))
    second = np.arange(60) >= 30
    expected = strained(origins, part[0] * second, part[1] * second)
    electrons = counted(expected, 10_000.0)
    # By the coarse samples alone, both halves look alike.
    assert similarity(shift(electrons, torch.from_numpy(origins - 31.5).float()))[:30, 30:].mean() > 0.2
    means, patterns = neighbor_means(electrons, torch.from_numpy(origins).float(), LINE)
    assert (patterns > 15).all()
    off = strained(origins, *(np.where(second, 0.0, value) for value in part)) - expected
    share = ((means.numpy() / 10_000 - expected) * off).sum((1, 2))[30:] / (off**2).sum((1, 2))[30:]
    assert np.abs(share).mean() < 0.3  # 1 for the mean of the other half, 0.5 for that of all
    error = inner((means.numpy() - 10_000 * expected) ** 2).sum() / inner(10_000 * expected).sum()
    assert error < 1 / 15  # 1 for a single pattern, 1 / 29 for the mean of the same half


def crystal(strain):
    """Patterns (n, SIDE, SIDE) of 24 small disks about the direct beam, with a strain exx (n,), of one electron."""
    orders = np.array([(h, k) for h in range(-2, 3) for k in range(-2, 3) if (h, k) != (0, 0)])
    at = orders @ [[12.3, 1.5], [-1.6, 11.9]]
    heights = np.random.default_rng(5).uniform(0.3, 0.8, len(at))
    out = np.array([disks(np.full((1, 2), 31.5), [(0, 0), *(at * (1 + exx, 1))], [1.0, *heights], radius=2.0)[0]
                    for exx in strain])
    return out / out.sum((1, 2)).mean()


@pytest.fixture(scope="module")
def strain_reader():
    """Matched filter (p,) that reads exx from a pattern of one electron, and its noise for one electron."""
    plus, minus, reference = (crystal([e])[0].ravel() for e in (0.002, -0.002, 0.0))
    tangent = (plus - minus) / 0.004
    weight = tangent / (reference + 1e-5)
    weight /= weight @ tangent
    return weight, np.sqrt(weight**2 @ reference)


SQUARE = np.argwhere(np.ones((12, 12)))


@pytest.mark.slow
@pytest.mark.parametrize("dose", [1000.0, 10_000.0])
def test_a_strain_below_the_noise_of_a_pattern_keeps_its_slope(strain_reader, dose):
    """A strain of 0.34 % rms; the noise of one pattern is 0.29 % and 0.09 %. Slopes of raw maps scatter by 0.07."""
    read, noise = strain_reader
    strain = 0.005 * np.sin(np.pi * (SQUARE[:, 1] - 5.5) / 11)
    expected, true = crystal(strain), strain - strain.mean()
    slopes, errors = [], []
    for seed in range(4):
        electrons = counted(expected, dose, seed)
        means, _ = neighbor_means(electrons, torch.full((144, 2), 31.5), SQUARE)
        maps = [patterns.numpy().reshape(144, -1) @ read / dose for patterns in (electrons, means)]
        slopes.append([(found - found.mean()) @ true / (true @ true) for found in maps])
        errors.append(np.std(maps[1] - true))
    raw, ours = np.mean(slopes, 0)
    assert abs(ours / raw - 1) < 0.1 and np.mean(errors) < noise / dose**0.5 / 2


@pytest.mark.slow
def test_without_strain_no_strain_appears(strain_reader):
    read, noise = strain_reader
    expected = crystal(np.zeros(144))
    means, patterns = neighbor_means(counted(expected, 1000.0), torch.full((144, 2), 31.5), SQUARE)
    found = means.numpy().reshape(144, -1) @ read / 1000
    assert found.std() < noise / 1000**0.5 / 3 and patterns.mean() > 100


def test_a_spread_of_strain_does_not_keep_patterns_apart():
    origins = 31.5 + np.random.default_rng(1).uniform(-2.5, 2.5, (60, 2))
    expected = strained(origins, np.linspace(0, 0.03, 60), np.zeros(60))
    for dose in (100.0, 10_000.0):
        means, patterns = neighbor_means(counted(expected, dose), torch.from_numpy(origins).float(), LINE)
        error = inner((means.numpy() - dose * expected) ** 2).sum() / inner(dose * expected).sum()
        assert patterns.mean() > 25 and error < 0.1  # 1 for a single pattern


def test_without_electrons_to_tell_them_apart_all_are_alike(grains):
    _, origins, _ = grains
    same = counted(disks(origins, [(0, 0)], [0.02]), 1.0)
    assert similarity(same).min() == 1


def test_a_pattern_is_not_its_own_neighbor(grains):
    expected, origins, _ = grains
    electrons = counted(expected, 1000.0)
    electrons[7, 10, 10] += 500
    means, _ = neighbor_means(electrons, torch.from_numpy(origins).float(), LINE)
    assert means[7, 8:13, 8:13].max() < 5
    one, patterns = neighbor_means(electrons[:1], torch.from_numpy(origins[:1]).float(), LINE[:1])
    assert not one.any() and not patterns.any()


def test_a_subpixel_descan_keeps_edges_sharp():
    """There and back, a disk's edge of 0.6 px loses less than a thousandth of the pattern's energy; bilinearly, 2 %."""
    origins = 31.5 + np.random.default_rng(3).uniform(-0.5, 0.5, (20, 2))
    expected = disks(origins, [(0, 0)], [1000.0])
    means, patterns = neighbor_means(torch.from_numpy(expected).float(), torch.from_numpy(origins).float(), LINE[:20])
    error = inner((means.numpy() - expected) ** 2).sum() / inner(expected**2).sum()
    assert (patterns > 10).all() and error < 1e-3


def test_the_edge_of_the_direct_beam_leaves_no_rings():
    """Outside a disk of 1,000 electrons per pixel, the rms error is 2.1 electrons, with interpolation alone 19."""
    generator = np.random.default_rng(0)
    origins = 23.5 + generator.uniform(-1.5, 1.5, (64, 2))
    at = (np.arange(48 * 8) + 0.5) / 8 - 0.5  # eight samples in a pixel
    radius = np.hypot(at[:, None] - origins[:, :1, None], at - origins[:, 1:, None])
    disk = np.clip((6.2 - radius) / 0.25 + 0.5, 0, 1).reshape(64, 48, 8, 48, 8).mean((2, 4))
    expected = 20 + 1000 * disk
    means, patterns = neighbor_means(torch.from_numpy(generator.poisson(expected).astype(np.float32)),
                                     torch.from_numpy(origins).float(),
                                     torch.cartesian_prod(torch.arange(8), torch.arange(8)))
    around = (disk == 0) & (radius.reshape(64, 48, 8, 48, 8).mean((2, 4)) < 9.2)
    assert (patterns > 50).all()
    assert ((means.numpy() - expected)[around] ** 2).mean() ** 0.5 < 4


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
    means, _ = neighbor_means(electrons, torch.from_numpy(origins).float(), LINE, 0.0, good)
    truth = 3000 * expected
    assert np.abs(means.numpy()[:, 31, 31] / truth[:, 31, 31] - 1).mean() < 0.15
