"""Diffuse scattering as evidence of where the direct beam is: in the frame, or beyond it."""

import numpy as np
import pytest

from py4dstem_prenet.origin import measure_origin, radial_scatter
from py4dstem_prenet.origin.diffuse import dim_levels

SIDE = 256


def crystal(seed):
    """Expected electrons (SIDE, SIDE): spots as bright as each other near the center, and a halo; and the center."""
    rng = np.random.default_rng(seed)
    center = rng.uniform(115, 140, 2)
    x, y = np.indices((SIDE, SIDE))
    r = np.hypot(x - center[0], y - center[1])
    image = 400 / (1 + (r / 50) ** 2) ** 1.5 + 3
    angle, length = rng.uniform(0, np.pi), rng.uniform(18, 24)
    lattice = length * np.array([[np.cos(t), np.sin(t)] for t in (angle, angle + rng.uniform(1.2, 1.9))])
    for h in range(-7, 8):
        for k in range(-7, 8):
            at = center + (h, k) @ lattice
            fall = np.exp(-(np.hypot(*(at - center)) / 70) ** 2)
            image += 6000 * fall * rng.uniform(0.5, 1) * np.exp(-0.5 * ((x - at[0]) ** 2 + (y - at[1]) ** 2) / 2.5)
    return image, center


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("beyond", [8, 30])
def test_a_spot_of_a_crop_is_not_the_direct_beam(seed, beyond):
    """The beam lies beyond the frame; the brightest spot at its margin was taken for it in one of these crops."""
    image, center = crystal(seed)
    part = image[int(center[0]) + beyond :]
    counts = np.random.default_rng(seed).poisson(part)[None, None].astype(np.uint16)
    assert not measure_origin(counts, progress=False).found


@pytest.mark.parametrize("seed", range(4))
def test_diffuse_scattering_scatters_least_about_the_direct_beam(seed):
    """In the frame and beyond it, by the brightness between the spots."""
    image, center = crystal(seed)
    for first in (0, int(center[0]) + 20):
        part = np.random.default_rng(seed).poisson(image[first:]).astype(float)
        at, level = dim_levels(part, np.ones(part.shape, bool), 1.0)
        true = center - (first, 0)
        there = radial_scatter(at, level, true, 12.0, 5.0)
        for away in ((40, 0), (0, 40), (30, -30)):
            assert there < 0.75 * radial_scatter(at, level, true + away, 12.0, 5.0)


@pytest.mark.slow
def test_a_visible_beam_is_kept_off_the_middle_of_its_halo():
    """A dominating spot 12 px beside the center of the halo, as in tilted crystals: no other place shows a disk."""
    image, center = crystal(5)
    x, y = np.indices(image.shape)
    at = center + np.array([9.0, 8.0])
    image = 400 / (1 + (np.hypot(x - center[0], y - center[1]) / 50) ** 2) ** 1.5
    image += 2e4 * np.exp(-0.5 * ((x - at[0]) ** 2 + (y - at[1]) ** 2) / 4.0)
    counts = np.random.default_rng(0).poisson(image)[None, None].astype(np.uint16)
    origin = measure_origin(counts, progress=False)
    assert origin.found and np.hypot(origin.qx0 - at[0], origin.qy0 - at[1]).max() < 0.1
