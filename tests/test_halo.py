"""Center of diffuse scattering: for a direct beam behind a beam stop, and where a pattern has no such center."""

import numpy as np
import pytest
from scans import others_slow

from py4dstem_prenet.fits import halo_center, halo_place
from py4dstem_prenet.origin import measure_origin

SHAPE, CENTER = (200, 220), np.array([93.0, 118.0])
GOOD = np.ones(SHAPE, bool)


def center_of(counts):
    """The center of the diffuse scattering, or None."""
    place = halo_place(counts, GOOD)
    return None if place is None else halo_center(counts, GOOD, place)


def distances(center=CENTER):
    x, y = np.indices(SHAPE) - center[:, None, None]
    return x, y, np.hypot(x, y)


def halo(center=CENTER, scale=12.0):
    return 3000 / (1 + (distances(center)[2] / scale) ** 2)


def with_spots(image, center, rng, count=25):
    """Spots on one side of the pattern, as in a tilted crystal: nothing is symmetric but what lies between them."""
    for x, y in rng.uniform((-60, 0), (60, 80), (count, 2)):
        u, v, _ = distances(center + np.array([x, y]))
        image = image + rng.uniform(200, 2000) * np.exp(-0.5 * (u**2 + v**2) / 2.5**2)
    return image


def behind_stop(image, center, half=7.0, past=9.0):
    """A bar from the first row on that ends beyond the beam."""
    x, y, _ = distances(center)
    return np.where((np.abs(y) < half) & (x < past), 0.02 * image, image)


@pytest.mark.parametrize("seed", range(4))
def test_neither_spots_nor_a_stop_move_the_center(seed):
    rng = np.random.default_rng(seed)
    center = CENTER + rng.uniform(-20, 20, 2)
    counts = rng.poisson(behind_stop(with_spots(halo(center), center, rng), center))
    found = center_of(counts)
    assert found.accepted
    assert np.hypot(*(found.center - center)) < 1.0  # 0.2 and less is measured
    assert np.hypot(*(found.center - center)) < 4 * found.sigma


def test_an_ellipse_does_not_move_the_center():
    x, y, _ = distances()
    counts = np.random.default_rng(0).poisson(3000 / (1 + ((1.06 * x) ** 2 + y**2) / 144))
    found = center_of(behind_stop(counts, CENTER))
    assert found.accepted and np.hypot(*(found.center - CENTER)) < 0.5


@pytest.mark.parametrize("what", others_slow(["two halos", "noise", "slope", "ridge"]))
def test_patterns_without_a_center_are_refused(what):
    x, y, _ = distances()
    image = {"noise": np.full(SHAPE, 20.0), "slope": 20 + 0.2 * (x - x.min()),
             "ridge": 20 + 500 * np.exp(-0.5 * ((x + y) / 8) ** 2), "two halos": halo(CENTER - 30) + halo(CENTER + 25)}
    found = center_of(np.random.default_rng(0).poisson(image[what]))
    assert found is None or not found.accepted


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_origin_of_a_tilted_crystal_behind_a_stop(seed):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(behind_stop(with_spots(halo(), CENTER, rng), CENTER)).astype(np.uint16)
    origin = measure_origin(counts[None, None], progress=False)
    assert origin.found
    assert np.hypot(origin.qx0[0, 0] - CENTER[0], origin.qy0[0, 0] - CENTER[1]) < 2.0
