"""Beam stops without a mask: the shadow, the center of inversion, and what is refused."""

import numpy as np
import pytest

from py4dstem_prenet.fits import inversion_center
from py4dstem_prenet.origin import find_stop

SIDE = 160


def needle(angle, width, past, center):
    """Pixels behind a bar from the margin to `past` pixels beyond the center."""
    x, y = np.indices((SIDE, SIDE)) - np.reshape(center, (2, 1, 1))
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return (along > -past) & (np.abs(across) < width)


def crystal(center, seed, spots=40):
    """Expected electrons: a halo, and Friedel pairs of spots at random places, about a center."""
    rng = np.random.default_rng(seed)
    x, y = np.indices((SIDE, SIDE))
    rho = np.hypot(x - center[0], y - center[1])
    expected = 3000 / (1 + (rho / 12) ** 2) + 30
    for dx, dy in rng.uniform(-65, 65, (spots, 2)):
        brightness = rng.uniform(500, 4000)
        for sign in (1, -1):
            expected += brightness * np.exp(-0.5 * ((x - center[0] - sign * dx) ** 2
                                                    + (y - center[1] - sign * dy) ** 2) / 2.0)
    return expected


@pytest.mark.parametrize("seed", range(4))
def test_the_shadow_of_a_stop_is_found(seed):
    """At least nine tenths of its pixels, and little beside it, from a center that is 3 px off."""
    rng = np.random.default_rng(seed)
    center = rng.uniform(65, 95, 2)
    stop = needle(rng.uniform(0, 2 * np.pi), rng.uniform(5, 9), 14, center)
    counts = rng.poisson(np.where(stop, 0.02, 1.0) * crystal(center, seed))
    found = find_stop(counts, np.ones((SIDE, SIDE), bool), center + np.array([2, -2]))
    assert (found & stop).sum() > 0.9 * stop.sum()
    assert (found & ~stop).sum() < 0.35 * stop.sum()


@pytest.mark.parametrize("seed", range(2))
def test_gaps_between_disks_are_no_stop_where_they_move(seed):
    """A dense lattice of disks in few pixels, strong counts, dark between them: the sum has a shadow in the gaps."""
    rng = np.random.default_rng(seed)
    x, y = np.indices((60, 60))
    cells = 15 * np.stack(np.meshgrid(*(np.arange(-3, 4),) * 2, indexing="ij"), -1).reshape(-1, 2)
    center, between, parts = np.array([29.0, 31.0]), np.array([36.5, 38.5]), []
    for row, column in np.ndindex(4, 4):
        move = 3.0 * np.array([row - 1.5, column - 1.5])
        disks = sum(np.hypot(x - u, y - v) < 4.9 for u, v in center + move + cells)
        parts.append(rng.poisson(1000 * disks / (1 + (np.hypot(*([x, y] - center[:, None, None])) / 30) ** 2) + 10))
    total, good = np.sum(parts, 0), np.ones((60, 60), bool)
    assert find_stop(total, good, between)[37, 38]
    assert find_stop(total, good, between, parts) is None
    stop = np.hypot(*([x, y] - between[:, None, None])) < 9
    stop |= (np.abs(y - between[1]) < 6) & (x > between[0])
    parts = [rng.poisson(np.where(stop, 0.02, 1.0) * part) for part in parts]
    found = find_stop(np.sum(parts, 0), good, between, parts)
    assert (found & stop).sum() > 0.8 * stop.sum()


def test_a_bright_beam_has_no_stop():
    center = (80.0, 76.0)
    rho = np.hypot(*(np.indices((SIDE, SIDE)) - np.reshape(center, (2, 1, 1))))
    counts = np.random.default_rng(0).poisson(crystal(center, 5) + 2e5 * (rho < 6))
    assert find_stop(counts, np.ones((SIDE, SIDE), bool), center) is None


@pytest.mark.parametrize("seed", range(4))
def test_the_center_of_inversion_behind_a_stop(seed):
    """Within a third of a pixel (rms .1 in 60 simulated patterns), and its error within three of its sigmas."""
    rng = np.random.default_rng(10 + seed)
    center = rng.uniform(65, 95, 2)
    stop = needle(rng.uniform(0, 2 * np.pi), 7, 12, center)
    counts = rng.poisson(np.where(stop, 0.02, 1.0) * crystal(center, 20 + seed))
    found = inversion_center(counts, ~stop, center + rng.uniform(-3, 3, 2), 8.0)
    error = np.abs(found.center - center).max()
    assert found.accepted and error < 0.33 and error < 3 * found.sigma


def test_noise_has_no_center_of_inversion():
    counts = np.random.default_rng(1).poisson(50.0, (SIDE, SIDE))
    assert not inversion_center(counts, np.ones((SIDE, SIDE), bool), (80, 80), 10.0).accepted
