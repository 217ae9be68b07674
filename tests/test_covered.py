"""Direct beams that a beam stop covers in part, and diffuse scattering about a point that cannot be the direct beam."""

from dataclasses import replace

import numpy as np
import pytest

from py4dstem_prenet.core import Decision, Flag, OriginMap, as_scan
from py4dstem_prenet.detector import estimate_noise
from py4dstem_prenet.fits import Aperture, disk_outline
from py4dstem_prenet.origin import (
    Beam,
    BeamLocator,
    FirstGuess,
    Located,
    check_shaded,
    covered_beam,
    disk_asymmetry,
    hidden_origin,
    measure_origin,
)

SIDE, RADIUS = 192, 7.0


def distance(center):
    x, y = np.indices((SIDE, SIDE)) - np.reshape(center, (2, 1, 1))
    return x, y, np.hypot(x, y)


def beam(center, seed=0, height=40.0):
    """Brightness of a beam with its halo among pairs of spots, 1 at the halo's center."""
    r = distance(center)[2]
    image = height / (1 + np.exp(2 * (r - RADIUS))) + 1 / (1 + (r / 14) ** 2)
    for at in np.random.default_rng(seed).uniform(-80, 80, (14, 2)):
        for sign in (1, -1):
            image += 0.3 * np.exp(-0.5 * (distance(np.asarray(center) + sign * at)[2] / 2.5) ** 2)
    return image


def tip(center, past, half=9.0, aside=0.0):
    """Transmission of a stop from the first row on, whose round tip ends `past` pixels beyond the center."""
    x, y, _ = distance(center)
    outside = np.where(x > past - half, np.hypot(x - past + half, y - aside), np.abs(y - aside)) - half
    return 0.01 + 0.99 / (1 + np.exp(-2 * outside.clip(-20, 20)))


def picture(image, seed=0):
    """8 bits; the brightness above 0.8 is white."""
    shown = image / 0.8 + np.random.default_rng(seed).normal(0, 0.01, image.shape)
    return np.rint(255 * shown.clip(0, 1) ** 0.7).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize(("past", "aside"), [(12.0, 0.0), (4.0, 0.0), (0.0, 6.0)])
def test_a_covered_beam_is_right_or_its_sigma_says_so(past, aside):
    center = np.array([98.3, 90.6])
    data = picture(beam(center) * tip(center, past, aside=aside))
    origin = measure_origin(data[None, None], progress=False)
    if origin.found:
        error = np.hypot(origin.qx0[0, 0] - center[0], origin.qy0[0, 0] - center[1])
        assert error < max(2.0, 3 * np.hypot(origin.sigma_qx0[0, 0], origin.sigma_qy0[0, 0]))


@pytest.mark.parametrize("aside", [7.0, 10.0])
def test_the_asymmetry_of_the_visible_part_covers_its_error(aside):
    """The center of mass of the visible part is taken for the beam."""
    center = np.array([95.0, 95.0])
    total = 1e4 * beam(center) * tip(center, 25.0, aside=aside)
    x, y, r = distance(center)
    weight = total * (r < RADIUS + 2)
    shift = np.array([(weight * q).sum() for q in (x, y)]) / weight.sum()
    stop, sigma = covered_beam(total, np.ones(total.shape, bool), center + shift, RADIUS)
    assert stop is not None and np.hypot(*shift) > 1
    assert np.hypot(*shift) < 3 * np.hypot(sigma, sigma)


@pytest.mark.parametrize("seed", range(3))
def test_a_whole_beam_is_symmetric(seed):
    center = np.random.default_rng(seed).uniform(80, 110, 2)
    counts = np.random.default_rng(seed).poisson(300 * beam(center, seed))
    good = np.ones(counts.shape, bool)
    assert covered_beam(counts, good, center, RADIUS)[0] is None
    assert disk_asymmetry(counts, good, center, RADIUS) * RADIUS < 0.2


def guess_at(place, radius=4.0):
    """A first guess whose network excludes all places but one."""
    cells = np.full((1, 24, 24), 1e-6)
    cells[(0, *(np.asarray(place) / 8).astype(int))] = 1.0  # cells of 4 px in a pattern that is binned by 2
    places = np.array([[*place, 0.5]])
    return FirstGuess(np.array([place], float), radius, np.ones(1, bool), -2.0, 2.0, 0.5, places, cells=cells)


@pytest.mark.parametrize(("at", "found"), [((96.0, 96.0), True), ((150.0, 40.0), False)])
def test_diffuse_scattering_about_an_excluded_place_is_not_that_of_the_beam(at, found):
    """A crossing of Kikuchi bands is as round as the halo of a direct beam."""
    r = distance((96.0, 96.0))[2]
    counts = np.random.default_rng(0).poisson(3000 / (1 + (r / 12) ** 2))
    scan = as_scan(counts[None, None])
    origin = hidden_origin(scan, estimate_noise(scan), guess_at(at), Flag("beam_ambiguous", {"probability": 0.5}))
    assert origin.found == found
    if found:
        assert np.hypot(origin.qx0[0, 0] - 96, origin.qy0[0, 0] - 96) < 1


@pytest.mark.parametrize(("favored", "found"), [((96.0, 96.0), True), ((150.0, 40.0), False)])
def test_the_halo_is_used_if_what_was_located_is_not_round(favored, found):
    """A stop covers a part of the beam; halos that the network excludes are those of crossing Kikuchi bands."""
    center = np.array([96.0, 96.0])
    counts = np.random.default_rng(0).poisson(3000 / (1 + (distance(center)[2] / 12) ** 2))
    scan, disk = as_scan(counts[None, None]), 1e3 / (1 + np.exp(2 * (distance(center)[2] - 8)))
    noise, outline = estimate_noise(scan), disk_outline(disk, np.ones(disk.shape, bool), center, 8.0)
    beam_of_halo = Beam("cpu", noise, Aperture(8.0, 0.5, (0.0, 0.0)), outline=replace(outline, difference=0.5))
    located = Located(center[None] + 4, np.full((1, 2), 0.1), np.full(1, 5e4), np.ones(1, bool))
    first = replace(guess_at(favored), visible=3.0)
    origin = BeamLocator(noise, beam_of_halo, center[None], None, "cpu", first).origin(scan, located)
    assert origin.found == found
    if found:
        assert np.hypot(origin.qx0[0, 0] - 96, origin.qy0[0, 0] - 96) < 1


def test_a_spot_is_not_the_beam_if_network_and_diffuse_scattering_contradict_it():
    """A Bragg spot was located with a small sigma; the halo is about the place that the network favors."""
    center, spot = np.array([96.0, 96.0]), np.array([120.0, 70.0])
    counts = np.random.default_rng(0).poisson(
        3000 / (1 + (distance(center)[2] / 12) ** 2) + 4000 * np.exp(-0.5 * (distance(spot)[2] / 2.5) ** 2))
    scan, one = as_scan(counts[None, None]), np.ones((1, 1))
    located = OriginMap(spot[0] * one, spot[1] * one, 0.1 * one, 0.1 * one, one > 0, 4.0, Decision(True))
    origin = check_shaded(scan, estimate_noise(scan), guess_at(center), located)
    assert not origin.found or np.hypot(origin.qx0[0, 0] - 96, origin.qy0[0, 0] - 96) < 1


@pytest.mark.parametrize("seed", range(2))
def test_a_place_beside_the_brightest_one_of_a_halo_is_no_beam(seed):
    """A place in a saturated column was taken for the direct beam; the network knows no such columns."""
    center = np.array([98.0, 90.0])
    y, r = distance(center)[1:]
    image = 1.5 / (1 + (r / 15) ** 2) + 0.9 * (np.abs(y) < 1.5)
    data = picture(image, seed)[None, None]
    scan, noise = as_scan(data), estimate_noise(as_scan(data))
    at = center + np.array([11.0, 1.0])
    located = OriginMap(*(np.full((1, 1), q) for q in (*at, 0.3, 0.3)), np.ones((1, 1), bool), 8.0,
                        Decision(True, (Flag("beam_found"),), {}))
    found = check_shaded(scan, noise, guess_at(at), located)
    assert found.found and np.hypot(found.qx0[0, 0] - center[0], found.qy0[0, 0] - center[1]) < 1.0


def test_tails_beside_a_stop_are_no_beam_though_the_center_of_the_halo_is_uncertain():
    """A Kikuchi band tilts the halo, so that its annuli have different centers; the stop is where they lie."""
    center = np.array([96.0, 96.0])
    x, y, r = distance(center)
    band = 60 * np.exp(-0.5 * ((x - 2 * y + 60) / 25) ** 2)
    image = (3000 / (1 + (r / 12) ** 2) + band) * tip(center, 9.0)
    scan, one = as_scan(np.random.default_rng(0).poisson(image)[None, None]), np.ones((1, 1))
    at = center + np.array([24.0, 0.0])  # in the tails, beyond the end of the stop
    located = OriginMap(at[0] * one, at[1] * one, 0.3 * one, 0.3 * one, one > 0, 8.0, Decision(True))
    found = check_shaded(scan, estimate_noise(scan), guess_at((at + center) / 2), located)
    assert not found.found or np.hypot(found.qx0[0, 0] - center[0], found.qy0[0, 0] - center[1]) < 2.5
