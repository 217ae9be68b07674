"""The direct beam among the disks of a crystal: one place in all grains, or not to be told."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import erfc

from py4dstem_prenet.core import NoiseModel, as_scan
from py4dstem_prenet.origin import MIN_RANKED_PROBABILITY, FirstGuess, diffuse_evidence, ranked_beam, resolved
from py4dstem_prenet.origin.diffuse_image import DiffuseImage

SCAN, SIDE, RADIUS, LENGTH = (6, 6), 96, 5.0, 24.0
CENTER = np.array([51.0, 44.0])
NOISE = NoiseModel(1.0, 0.0, 0.0, np.zeros((SIDE, SIDE), bool), True, 5000.0)


def blocks(turns, direct, seed=0, descan=0.0, bragg=1.0):
    """Counts of 36 positions in bands with lattices turned by `turns`, and the origins; four disks beside the beam."""
    rng = np.random.default_rng(seed)
    x, y = np.indices((SIDE, SIDE))
    sums, origins = [], []
    for row, column in np.ndindex(SCAN):
        band = row * len(turns) // SCAN[0]
        bright = np.random.default_rng((seed, band)).permutation([1.0, 0.6, 0.4, 0.3])
        origin = CENTER + descan * (np.array([row, column]) - 2.5) / 2.5
        image = np.full((SIDE, SIDE), 0.01)
        angles = turns[band] + np.arange(4) * np.pi / 2
        for angle, part in [(None, direct), *zip(angles, bragg * bright, strict=True)]:
            at = origin if angle is None else origin + LENGTH * np.array([np.cos(angle), np.sin(angle)])
            image += 20 * part * 0.5 * erfc((np.hypot(x - at[0], y - at[1]) - RADIUS) / 0.7)
        sums.append(rng.poisson(image))
        origins.append(origin)
    return (np.array(sums, np.float32), np.ones(len(sums), int), SCAN), np.array(origins)


def guess(at, certain=False):
    """What a coarse network says that knows nothing, or that is certain of a place; its radius is a fifth too small."""
    cells = np.full((36, SIDE // 4, SIDE // 4), 1 / (SIDE // 4) ** 2)
    if certain:
        cells[:] = 1e-6
        cells[:, round(at[0] / 4 - 0.375), round(at[1] / 4 - 0.375)] = 0.99
    position = np.broadcast_to(np.asarray(at, float), (36, 2))
    return FirstGuess(position, 0.8 * RADIUS, np.ones(36, bool), 3.0, 1.0, 0.99, np.array([[*at, 0.99]]), cells=cells)


@pytest.mark.parametrize("descan", [0.0, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_direct_beam_is_the_disk_that_all_grains_share(seed, descan):
    """A third as bright as another disk in each grain; the network was wrong, and does not know."""
    sums, origins = blocks((0.1, 0.4, 0.7, 1.1, 1.4, 0.9), 0.35, seed, descan)
    found = ranked_beam(sums, NOISE, guess(origins.mean(0) + np.array([LENGTH, 0.0])), SCAN)
    assert found.probability > MIN_RANKED_PROBABILITY + 0.05 and found.ranked
    assert np.hypot(*(found.position - origins).T).max() < 1.0


def test_of_one_lattice_with_like_disks_none_is_chosen():
    """They fill the frame, and are bright at random: no disk is a better center of Friedel pairs than another."""
    x, y = np.indices((SIDE, SIDE))
    rng, image = np.random.default_rng(0), np.full((SIDE, SIDE), 0.01)
    for h in range(-4, 5):
        for k in range(-4, 5):
            at = CENTER + 0.6 * LENGTH * np.array([h, k])
            image += 10 * rng.uniform(0.3, 1.0) * erfc((np.hypot(x - at[0], y - at[1]) - RADIUS) / 0.7)
    sums = rng.poisson(np.broadcast_to(image, (36, SIDE, SIDE))).astype(np.float32), np.ones(36, int), SCAN
    found = ranked_beam(sums, NOISE, guess(CENTER), SCAN)
    assert found.probability < MIN_RANKED_PROBABILITY - 0.1


def thin_crystal(seed=1):
    """Expected counts of a lattice of spots, and those of the direct beam, which is dimmer than some of them."""
    x, y = np.indices((SIDE, SIDE))
    rng, image, heights = np.random.default_rng(seed), np.full((SIDE, SIDE), 0.5), {}
    for h in range(-5, 6):
        for k in range(-5, 6):
            at = CENTER + 9.0 * np.array([h, k])
            height = heights.setdefault((-h, -k), 300 * np.exp(rng.uniform(-3, 0) - np.hypot(h, k) / 4))
            heights[h, k] = height
            image += (200.0 if h == k == 0 else height) * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / 2.5)
    return rng.poisson(image).astype(np.float32)


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (0, 1)])
def test_friedel_pairs_tell_the_direct_beam_of_one_pattern(shift):
    """The network knows nothing, and other spots are brighter; each is as bright as the one opposite the beam."""
    sums = thin_crystal()[None], np.ones(1, int), (1, 1)
    start = guess(CENTER + 9.0 * np.array(shift))
    first = FirstGuess(start.position[:1], 1.5, np.ones(1, bool), 3.0, 1.0, 0.99, start.places, cells=start.cells[:1])
    found = ranked_beam(sums, NOISE, first, (1, 1))
    assert np.hypot(*(found.position[0] - CENTER)) < 0.3 and found.probability > 3 * found.places[1, 2]


def test_of_one_lattice_the_network_decides_if_it_is_certain():
    sums, origins = blocks((0.3,), 0.9)
    found = ranked_beam(sums, NOISE, guess(origins.mean(0), True), SCAN)
    assert found.probability > 0.9 and np.hypot(*(found.position - origins).T).max() < 0.1


def test_the_certainty_of_the_network_belongs_to_one_spot_of_a_dense_lattice():
    """Spots of a crystal in one pattern are one or two cells of the network apart; the direct beam is the brightest."""
    x, y = np.indices((SIDE, SIDE))
    image = np.full((SIDE, SIDE), 0.5)
    for h in range(-4, 5):
        for k in range(-4, 5):
            at = CENTER + 6.0 * np.array([h, k])
            height = 300.0 if h == k == 0 else 90.0 * np.exp(-np.hypot(h, k) / 3)
            image += height * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / 2.5)
    sums = np.random.default_rng(0).poisson(image).astype(np.float32)[None], np.ones(1, int), (1, 1)
    certain = guess(CENTER, True)
    first = FirstGuess(certain.position[:1], 1.5, np.ones(1, bool), 3.0, 1.0, 0.99, certain.places,
                       cells=certain.cells[:1])
    found = ranked_beam(sums, NOISE, first, (1, 1))
    assert found.probability > MIN_RANKED_PROBABILITY + 0.1 and np.hypot(*(found.position[0] - CENTER)) < 0.3


def test_a_single_disk_is_not_compared():
    sums, origins = blocks((0.3,), 1.0, bragg=0.0)
    assert ranked_beam(sums, NOISE, guess(origins.mean(0)), SCAN) is None


def test_a_hidden_place_about_which_the_crystal_is_symmetric_is_chosen():
    """The network favors a spot; the mask covers the direct beam."""
    counts, spot = thin_crystal(), CENTER + np.array([9.0, 0.0])
    x, y = np.indices((SIDE, SIDE))
    masked = replace(NOISE, bad_pixels=np.hypot(x - CENTER[0], y - CENTER[1]) < 5)
    places = np.array([[*spot, 0.6], [*(CENTER + 1.5), 0.3]])
    first = FirstGuess(spot[None], 1.5, np.ones(1, bool), 3.0, 1.0, 0.6, places, cells=guess(spot).cells[:1])
    found = resolved(as_scan(counts[None, None]), masked, first, paired=True)
    assert found.visible < 0 and found.probability > 0.8 and np.hypot(*(found.position[0] - CENTER)) < 1


def test_a_hidden_place_is_not_replaced_by_a_bragg_disk():
    sums, origins = blocks((0.1, 0.8), 0.5)
    x, y = np.indices((SIDE, SIDE))
    bad = np.hypot(x - CENTER[0], y - CENTER[1]) < 9
    masked = NoiseModel(1.0, 0.0, 0.0, bad, True, 5000.0)
    assert ranked_beam(sums, masked, guess(origins.mean(0), True), SCAN) is None


@pytest.mark.parametrize("middle, wrong", [((48.0, 52.0), False), ((72.0, 52.0), True), ((48.0, 20.0), True)])
@pytest.mark.parametrize("ranked", [True, False])
def test_diffuse_scattering_is_evidence_against_another_disk(middle, wrong, ranked):
    x, y = np.indices((SIDE, SIDE))
    halo = 2e3 / (1 + (np.hypot(x - 48, y - 52) / 12) ** 2) ** 1.5
    disks = sum(5e3 * (np.hypot(x - u, y - v) < RADIUS) for u, v in ((48, 52), (72, 52), (24, 52), (48, 20), (48, 84)))
    counts = np.random.default_rng(0).poisson(halo + disks).astype(float)
    between = np.random.default_rng(1).poisson(halo).astype(float)
    image = DiffuseImage(counts, between, np.ones(halo.shape, bool), 0.3, 1, np.array(middle), RADIUS)
    evidence, at = diffuse_evidence(image, ranked)
    assert evidence > 0.7 if wrong else evidence < 0.2
    assert not wrong or np.hypot(*(at - [48, 52])) < 6
