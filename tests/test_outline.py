"""The outline of the direct disk: clipped disks, and objects that are no disk."""

from dataclasses import replace

import numpy as np
import pytest

from py4dstem_prenet.core import NoiseModel, OriginMap, as_scan
from py4dstem_prenet.descan import fit_origin
from py4dstem_prenet.fits import Aperture, disk_outline
from py4dstem_prenet.origin import Beam, Located, decide_origin

SIDE, CENTER = 72, (35.3, 36.1)
GOOD = np.ones((SIDE, SIDE), bool)


def edge(distance, blur=0.4):
    return 1 / (1 + np.exp((distance / blur).clip(-50, 50)))


def axes(center=CENTER):
    return np.indices((SIDE, SIDE)) - np.reshape(center, (2, 1, 1))


def counts(expected, electrons=1e6, seed=0):
    return np.random.default_rng(seed).poisson(electrons * expected / expected.sum()).astype(float)


def clipped(radius, part, angle, center=CENTER):
    """A disk that ends at a chord, `part` radii from its center."""
    x, y = axes(center)
    return edge(np.hypot(x, y) - radius) * edge(x * np.cos(angle) + y * np.sin(angle) - part * radius)


def overlapping():
    """Disks of a two-dimensional material, closer than their diameter."""
    angles = np.arange(6) * np.pi / 3 + 0.2
    return sum(w * edge(np.hypot(*axes(np.add(CENTER, g))) - 12)
               for w, g in [(1, (0, 0)), *((0.1 + 0.02 * k, (18 * np.cos(a), 18 * np.sin(a))) for k, a in
                                           enumerate(angles))])


def crossing():
    """Kikuchi bands that cross."""
    x, y = axes()
    bands = [1 + 0.8 * edge(np.abs(x * np.cos(a) + y * np.sin(a)) - w / 2) for a, w in
             ((0.2, 14), (0.9, 14), (1.8, 20), (2.5, 24))]
    return np.exp(-np.hypot(x - 8, y + 15) / 60) * np.prod(bands, 0)


@pytest.mark.parametrize(("radius", "part"), [(8, 0.75), (8, 0.5), (14, 0.6), (4, 0.5)])
def test_center_of_a_clipped_disk(radius, part):
    """The circle is that of the aperture, although the given center is that of the visible part."""
    angle = 0.7
    move = -0.12 * radius * np.array([np.cos(angle), np.sin(angle)])
    outline = disk_outline(counts(clipped(radius, part, angle)), GOOD, np.add(CENTER, move), 0.92 * radius)
    assert np.hypot(*(outline.offset + move)) < 0.02 * radius
    assert abs(outline.contradiction - 0.12 * radius) < 0.02 * radius and outline.is_round


@pytest.mark.parametrize("expected", [
    edge(np.hypot(*axes()) - 8), edge(np.hypot(axes()[0] * 1.08, axes()[1] / 1.08) - 8),
    edge(np.hypot(*axes()) - 8) * (1 + 0.5 * axes()[0] / 8).clip(0.1), overlapping(),
], ids=["round", "elliptical", "slope", "overlapping"])
def test_whole_disks_do_not_contradict_their_center(expected):
    outline = disk_outline(counts(expected), GOOD, CENTER, 12 if expected[35, 45] > 0.5 * expected.max() else 8)
    assert outline.contradiction == 0 and outline.is_round


def test_a_crossing_of_bands_is_not_round():
    outline = disk_outline(counts(crossing(), 3e6), GOOD, CENTER, 7)
    assert not outline.is_round


def test_no_outline_in_noise_or_behind_bad_pixels():
    few = counts(edge(np.hypot(*axes()) - 8), 300)
    assert disk_outline(few, GOOD, CENTER, 8) is None
    assert disk_outline(counts(edge(np.hypot(*axes()) - 8)), GOOD & (axes()[0] > 4), CENTER, 8) is None


def decided(expected, outline):
    """The decision on a vacuum scan whose beam has an outline."""
    scan = as_scan(np.stack([counts(expected, 5e3, k) for k in range(25)]).reshape(5, 5, SIDE, SIDE))
    noise = NoiseModel(1.0, 0.0, 0.0, ~GOOD, counting=True, dose=5e3)
    positions = np.tile(CENTER, (25, 1)) + np.random.default_rng(1).normal(0, 0.05, (25, 2))
    located = Located(positions, np.full((25, 2), 0.05), np.full(25, 5e3), np.ones(25, bool))
    return decide_origin(scan, noise, located, Beam("cpu", noise, Aperture(8.0, 0.5, (0.0, 0.0)), outline=outline))


def test_a_contradiction_is_told_and_widens_sigma():
    """The error is common to all positions: averaging over the scan does not reduce it."""
    expected = edge(np.hypot(*axes()) - 8)
    whole = disk_outline(counts(expected), GOOD, CENTER, 8)
    moved = disk_outline(counts(clipped(8, 0.5, 0.7)), GOOD, np.add(CENTER, (-0.7, -0.6)), 7.5)
    plain, told = decided(expected, whole), decided(expected, moved)
    assert isinstance(told, OriginMap) and told.decision.has("disk_clipped")
    assert not plain.decision.has("disk_clipped") and plain.sigma < 0.1
    sigmas = [fit_origin(origin).decision.numbers["uncertainty"] for origin in (plain, told)]
    assert sigmas[1] > 0.4 > 10 * sigmas[0]
    assert not decided(expected, replace(whole, difference=0.5)).found
