"""Smooth maps over the scan: what varies slowly keeps its full size, noise is removed, gaps do not matter."""

import numpy as np
import pytest
import torch

from py4dstem_prenet.denoising import ScanGrid

PLACES = np.argwhere(np.ones((16, 20)))


def smooth(values, places=PLACES, members=None):
    values = torch.from_numpy(np.asarray(values)).float()[None, None]
    members = torch.ones(1, values.shape[2], dtype=torch.bool) if members is None else torch.from_numpy(members)[None]
    return ScanGrid(places).smooth(values, members)[0][0, 0].numpy()


def slope(found, true):
    found, true = found - found.mean(), true - true.mean()
    return found @ true / (true @ true)


@pytest.mark.parametrize("shape", [(16, 20), (1, 40), (40, 1), (5, 3), (1, 1), (2, 2)])
def test_a_constant_stays_a_constant(shape):
    places = np.add(np.argwhere(np.ones(shape)), (7, 3))
    assert np.allclose(smooth(np.full(len(places), 4.0), places), 4.0, atol=1e-4)


@pytest.mark.parametrize("field", [
    lambda x, y: 2 * y, lambda x, y: 1.5 * np.sin(np.pi * x), lambda x, y: 2 * np.tanh(3 * y),
    lambda x, y: 2 * np.sin(2 * np.pi * y) * np.cos(np.pi * x)])
def test_slow_fields_of_the_size_of_the_noise_keep_their_slope(field):
    """Slopes of raw maps scatter by 0.05; a kernel of 5 positions would reduce the last field to 0.6."""
    x, y = PLACES[:, 0] / 7.5 - 1, PLACES[:, 1] / 9.5 - 1
    true = field(x, y)
    found = [smooth(true + np.random.default_rng(seed).normal(size=len(true))) for seed in range(8)]
    assert np.mean([slope(f, true) for f in found]) > 0.9
    assert np.mean([np.std(f - true) for f in found]) < 0.5


def test_noise_is_removed():
    rms = [smooth(np.random.default_rng(seed).normal(size=len(PLACES))).std() for seed in range(20)]
    assert np.mean(rms) < 0.15  # 0.3 % of the coefficients remain, with 9 times their energy: 0.16 of all, less if slow


def test_other_members_are_not_seen():
    true = PLACES[:, 1] / 3.0
    members = PLACES[:, 0] < 9
    spoiled = np.where(members, true, 1e4)
    found = smooth(spoiled, members=members)[members]
    assert slope(found, true[members]) > 0.9 and np.abs(found - true[members]).max() < 1  # of 6.3


def test_missing_and_scattered_positions():
    generator = np.random.default_rng(0)
    kept = generator.random(len(PLACES)) < 0.6
    true = PLACES[kept, 1] / 3.0
    assert np.abs(smooth(true, PLACES[kept]) - true).max() < 0.5
    scattered = generator.integers(0, 5000, (60, 2))
    assert np.isfinite(smooth(np.arange(60.0), scattered)).all()


def test_what_no_smooth_map_explains_is_told_from_noise():
    """Independent values of three times the noise, 100 sigma of excess, are kept; of noise alone, hardly anything."""
    generator = np.random.default_rng(0)
    members = torch.ones(1, len(PLACES), dtype=torch.bool)
    rough = []
    for scale in (1.0, 1.0, 1.0, 10**0.5):
        values = torch.from_numpy(scale * generator.normal(size=len(PLACES))).float()[None, None]
        rough.append(float(ScanGrid(PLACES).smooth(values, members)[1]))
    assert max(rough[:3]) < 0.5 and rough[3] == 1
