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
