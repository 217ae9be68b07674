"""Diffraction patterns as pictures: saturated beams, padding, and what a crop leaves of a pattern."""

import numpy as np
import pytest
from py4DSTEM import DataCube

from py4dstem_prenet import calibrate
from py4dstem_prenet.detector import estimate_noise, padded_lines
from py4dstem_prenet.fits import inversion_center, ring_center
from py4dstem_prenet.origin import find_vignette, measure_origin, saturated_disk

SIDE = 192


def crystal(center, seed, height=60.0):
    """Expected brightness (SIDE, SIDE) of a sharp beam with a long tail among spots of a lattice."""
    rng = np.random.default_rng(seed)
    x, y = np.indices((SIDE, SIDE))
    angle, length = rng.uniform(0, np.pi), rng.uniform(34, 44)
    lattice = length * np.array([[np.cos(t), np.sin(t)] for t in (angle, angle + rng.uniform(1.3, 1.8))])

    def spot(at):
        return 1 / (1 + (np.hypot(x - at[0], y - at[1]) / 2.0) ** 2)

    image = height * spot(center) + 0.02 / (1 + (np.hypot(x - center[0], y - center[1]) / 40) ** 2)
    for h in range(-2, 3):
        for k in range(-2, 3):
            if h or k:
                image += height * rng.uniform(0.01, 0.1) * spot(np.array(center) + (h, k) @ lattice)
    return image


def picture(image, rng):
    """8 bits with some noise; everything above 1 is white."""
    return np.rint(255 * (image + rng.normal(0, 0.004, image.shape)).clip(0, 1)).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_saturated_beam_is_in_the_middle_of_its_plateau(seed):
    """A plateau of 15 px radius: the network expects a smaller beam, and took a place anywhere in it."""
    rng = np.random.default_rng(seed)
    center = rng.uniform(80, 110, 2)
    data = picture(crystal(center, seed), rng)
    found, radius = saturated_disk(data, np.ones(data.shape, bool), center + np.array([4, -5]), 9.0)
    assert np.hypot(*(found - center)) < 0.5 and radius > 12
    origin = measure_origin(data[None, None], progress=False)
    assert origin.found and np.hypot(origin.qx0 - center[0], origin.qy0 - center[1]).max() < 1.0


def test_white_bars_and_single_pixels_are_no_saturated_beam():
    data, good = np.random.default_rng(0).integers(0, 200, (64, 64)), np.ones((64, 64), bool)
    assert saturated_disk(data, good, (30, 30), 20.0) is None
    data[20:40, 28:33] = 255
    assert saturated_disk(data, good, (30, 30), 20.0) is None


@pytest.mark.parametrize("sides", [(8, 8), (12, 12), (10, 14), (30, 30)])
def test_a_block_at_full_scale_is_no_saturated_beam(sides):
    """A disk of the same area covers up to 92 % of a square, as it does of a disk with an uneven outline."""
    data, good = np.random.default_rng(0).integers(0, 200, (64, 64)), np.ones((64, 64), bool)
    data[20 : 20 + sides[0], 28 : 28 + sides[1]] = 255
    assert saturated_disk(data, good, (25, 32), 20.0) is None


@pytest.mark.parametrize("seed", range(2))
def test_few_electrons_make_the_outline_of_a_plateau_uneven(seed):
    """The farthest pixel of the plateau is no measure of its roundness; half of a plateau is not round."""
    rng = np.random.default_rng(seed)
    x, y = np.indices((SIDE, SIDE)) - np.array([101.3, 86.6])[:, None, None]
    counts = rng.poisson(40 / (1 + (np.hypot(x, y) / 18) ** 2))
    data, good = (counts * 255 // 20).clip(max=255), np.ones(x.shape, bool)
    found, radius = saturated_disk(data, good, (98, 90), 8.0)
    assert np.hypot(found[0] - 101.3, found[1] - 86.6) < 0.8 and 10 < radius < 22
    assert saturated_disk(np.where(x > 1, data // 2, data), good, (95, 86), 8.0) is None


def cropped(center, aperture, radius, seed=0):
    """Counts of three rings and a halo behind a bar, cropped by an aperture."""
    x, y = np.indices((SIDE, SIDE))
    r = np.hypot(x - center[0], y - center[1])
    image = 6 + 300 / (1 + (r / 8) ** 2) + sum(25 * np.exp(-0.5 * ((r - q) / 1.2) ** 2) for q in (26, 37, 51))
    image *= np.where(np.abs(x - center[0] + 0.1 * y) < 5, 0.02, 1)
    edge = np.hypot(x - aperture[0], y - aperture[1]) - radius
    return np.random.default_rng(seed).poisson(image / (1 + np.exp((1.5 * edge).clip(-50, 50))))


def test_an_aperture_that_crops_a_pattern_is_found():
    counts, good = cropped((80.0, 101.0), (97.0, 93.0), 84.0), np.ones((SIDE, SIDE), bool)
    outside = find_vignette(counts, good, 4.0)
    x, y = np.indices(outside.shape)
    away = np.hypot(x - 97, y - 93)
    assert outside[away > 84].all() and not outside[away < 77].any()
    assert find_vignette(counts, good, 70.0) is None  # a direct beam as large as the aperture is its image


@pytest.mark.parametrize("scale", [8, 25, 60])
def test_a_pattern_that_fades_out_is_not_cropped(scale):
    x, y = np.indices((SIDE, SIDE)) - 95
    counts = np.random.default_rng(0).poisson(400 * np.exp(-np.hypot(x, y) / scale))
    assert find_vignette(counts, np.ones(counts.shape, bool), 4.0) is None


@pytest.mark.slow
def test_the_center_of_a_cropped_pattern_is_not_that_of_its_aperture():
    report = calibrate(DataCube(cropped((80.0, 101.0), (97.0, 93.0), 84.0)[None, None]), progress=False)
    origin = report.origin
    assert origin.found and np.hypot(origin.qx0 - 80, origin.qy0 - 101).max() < 1.5
    assert origin.decision.has("pattern_cropped")
    assert not report.noise.bad_pixels.any()  # pixels outside the aperture are good


@pytest.mark.parametrize("fill", [0, -30, 255])
def test_padding_is_no_part_of_a_pattern(fill):
    """Rings whose frame was padded: the edge of the padding was taken for a ring."""
    rng = np.random.default_rng(0)
    x, y = np.indices((128, 128))
    r = np.hypot(x - 70.0, y - 58.0)
    image = 20 + 60 * np.exp(-r / 20) + sum(40 * np.exp(-0.5 * ((r - q) / 1.5) ** 2) for q in (24, 38, 47))
    counts = rng.poisson(image) - 30
    widths = (30, 5), (40, 20)
    data = np.pad(counts, widths, constant_values=fill)
    expected = np.pad(np.zeros(counts.shape, bool), widths, constant_values=True)
    assert np.array_equal(padded_lines(data[None]), expected)
    good = ~estimate_noise(data[None, None]).bad_pixels
    assert not good[expected].any()
    found = ring_center(data, good)
    assert found.accepted and np.hypot(found.center[0] - 100, found.center[1] - 98) < 0.3


@pytest.mark.parametrize("patterns", [1, 16])
def test_vacuum_around_a_disk_is_no_padding(patterns):
    x, y = np.indices((96, 96)) - 46
    counts = np.random.default_rng(0).poisson(50.0 * (np.hypot(x, y) < 30), (patterns, 96, 96))
    assert not padded_lines(counts).any()


@pytest.mark.parametrize("beyond", [12, 3, -6])
def test_about_the_limit_of_a_frame_there_is_no_center_of_inversion(beyond):
    """A center beyond the frame, or so near its limit that little has a counterpart."""
    rng = np.random.default_rng(3)
    whole = np.full((160, 160), 30.0)
    x, y = np.indices(whole.shape)
    for dx, dy in rng.uniform(-60, 60, (60, 2)):
        for sign in (1, -1):
            whole += 1500 * np.exp(-0.25 * ((x - 80 - sign * dx) ** 2 + (y - 80 - sign * dy) ** 2))
    part = rng.poisson(whole[80 + beyond :])
    start = (max(1.0, -beyond), 80.0)
    assert not inversion_center(part, np.ones(part.shape, bool), start, 10.0).accepted
