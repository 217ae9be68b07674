"""Simulated patterns of a parallel beam, with long tails and as pictures: what is drawn is where its truth says."""

import numpy as np
import pytest
import torch

from py4dstem_prenet.core import ellipse_matrix
from py4dstem_prenet.simulation import (
    add_tails,
    convolved,
    draw_selected_area,
    ideal_coordinates,
    stretch,
    wrapped_distance,
)

SIDE, COUNT = 96, 48


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def drawn():
    generator = seeded()
    origin = SIDE / 2 + 5 * torch.randn(COUNT, 2, generator=generator)
    matrix = ellipse_matrix(0.05 * torch.randn(COUNT, 2, generator=generator))
    expected, radius, edge = draw_selected_area(generator, origin, matrix, (SIDE, SIDE))
    return origin, matrix, expected, radius, edge


def test_the_direct_beam_lies_at_the_origin(drawn):
    """The electrons within the direct beam have their center of mass there; neighbors may overlap a few."""
    origin, matrix, expected, radius, _ = drawn
    away = ideal_coordinates((SIDE, SIDE), origin, matrix)
    weight = expected * (away.norm(dim=-1) < radius[:, None, None] + 1)
    center = (away * weight[..., None]).sum((1, 2)) / weight.sum((1, 2))[:, None]
    assert center.norm(dim=1).median() < 0.1
    assert (center.norm(dim=1) < 0.35 * radius.clamp_min(2)).float().mean() > 0.9


def test_patterns_hold_at_most_all_electrons(drawn):
    expected = drawn[2]
    total = expected.sum((1, 2))
    assert (expected >= 0).all() and (total <= 1 + 1e-3).all() and total.median() > 0.7


def test_a_narrow_window_shows_part_of_a_large_pattern():
    """The lattice is that of the whole pattern, so a window of a quarter of its side has fewer spots."""
    origin, eye = torch.full((8, 2), 24.0), torch.eye(2).expand(8, 2, 2)
    whole, *_ = draw_selected_area(seeded(3), origin, eye, (48, 48))
    window, *_ = draw_selected_area(seeded(3), origin, eye, (48, 48), extent=192.0)
    assert window.sum((1, 2)).mean() < whole.sum((1, 2)).mean()


def test_tails_conserve_electrons_and_reach_far():
    """A point with tails keeps its sum within what leaves the frame, and its brightness falls with the distance."""
    image = torch.zeros(1, 65, 65)
    image[0, 32, 32] = 1.0
    origin, eye = torch.full((1, 2), 32.0), torch.eye(2)[None]
    at = ideal_coordinates((65, 65), origin, eye)
    out = add_tails(image, at, eye, torch.ones(1, dtype=torch.bool), seeded(1))[0]
    assert 0.5 < out.sum() < 1.001
    profile = [float(out[32, 32 + k]) for k in (1, 4, 12, 30)]
    assert profile == sorted(profile, reverse=True) and profile[-1] > 0


def test_convolution_keeps_a_point_in_its_place():
    image = torch.zeros(1, 40, 30)
    image[0, 7, 21] = 2.0
    kernel = torch.exp(-wrapped_distance((40, 30), torch.eye(2)[None]) ** 2)
    out = convolved(image, kernel / kernel.sum((1, 2), keepdim=True))[0]
    assert np.unravel_index(int(out.argmax()), out.shape) == (7, 21)
    assert float(out.sum()) == pytest.approx(2.0, abs=1e-4)


def test_pictures_have_at_most_256_levels_and_labels_near_the_margin():
    counts = torch.rand(12, 64, 64, generator=seeded(2)) * 1000
    pictures, labeled = stretch(counts, torch.arange(12) < 8, seeded(4))
    assert torch.equal(pictures[8:], counts[8:]) and not labeled[8:].any()
    assert all(len(p.unique()) <= 256 for p in pictures[:8])
    assert 0 < labeled[:8].any((1, 2)).sum() < 8
