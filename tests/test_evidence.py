"""Estimates agree with the evidence: displacements and electrons of areas come back, and right estimates stay."""

import numpy as np
import pytest
import torch
from scipy.special import erf

from py4dstem_prenet.denoising import agree, unexplained_fraction

SIDE, COUNT = 64, 48


def disks(shift, amplitude):
    """Expected patterns (n, SIDE, SIDE) of nine disks: shift along x (n,), pixels; amplitude of the outer ones (n,)."""
    x, y = np.indices((SIDE, SIDE)) - 31.5
    out = np.full((len(shift), SIDE, SIDE), 0.05)
    for h in (-1, 0, 1):
        for k in (-1, 0, 1):
            r = np.hypot(x - 18 * h - np.asarray(shift)[:, None, None], y - 18 * k)
            out += (8 if h == k == 0 else 3 * np.asarray(amplitude)[:, None, None]) * 0.5 * (1 - erf((r - 4) / 1.2))
    return out


def agreed(estimate, counts, means=None, patterns=None):
    patterns = torch.zeros(COUNT) if patterns is None else patterns
    means = estimate if means is None else means
    tensors = [torch.from_numpy(np.asarray(values)).float() for values in (estimate, counts, means)]
    trust = torch.ones_like(tensors[0])
    return agree(tensors[0], trust, tensors[1], tensors[2], patterns, torch.full((COUNT, 2), 31.5)).numpy()


def slope(found, true):
    found, true = found - found.mean(), true - true.mean()
    return found @ true / (true @ true)


@pytest.fixture(scope="module")
def counts():
    move, height = 0.3 * np.sin(np.arange(COUNT) / 5), 1 + 0.3 * np.cos(np.arange(COUNT) / 4)
    truth = disks(move, height)
    return move, height, truth, np.random.default_rng(0).poisson(truth)


def position(patterns):
    """Position of the disks along x, pixels, by a matched filter; (n,)."""
    plus, minus, middle = (disks([s], [1.0])[0].ravel() for s in (0.1, -0.1, 0.0))
    weight = (plus - minus) / 0.2 / middle
    return patterns.reshape(len(patterns), -1) @ weight / (weight @ (plus - minus) / 0.2)


def test_a_displacement_that_the_estimate_lost_comes_back(counts):
    move, height, _, measured = counts
    lost = disks(0.3 * move, height)
    assert slope(position(lost), move) < 0.4
    assert slope(position(agreed(lost, measured)), move) == pytest.approx(1, abs=0.1)  # sigma of raw counts: 0.03


@pytest.mark.parametrize(("number", "least"), [(0, 0.5), (30, 0.9)])
def test_electrons_of_disks_come_back(counts, number, least):
    """Where areas of one pattern are noisy, a part; with 30 neighbors, nearly all."""
    move, height, truth, measured = counts
    lost = disks(move, 1 + 0.3 * (height - 1))
    means = np.random.default_rng(1).poisson(truth * 30) / 30
    found = agreed(lost, measured, means, torch.full((COUNT,), float(number)))
    ring = np.hypot(*(np.indices((SIDE, SIDE)) - 31.5)) > 9
    before, after, true = ((values * ring).sum((1, 2)) for values in (lost, found, truth))
    assert slope(before, true) < 0.4 and slope(after, true) > least


def test_a_right_estimate_stays_nearly_as_it_is(counts):
    _, _, truth, measured = counts
    off = ((agreed(truth, measured) - truth) ** 2).sum() / ((measured - truth) ** 2).sum()
    assert off < 0.01  # six parameters of 4,096 pixels, and what the weighted areas add


def test_neighbors_lower_the_noise_of_what_is_corrected(counts):
    move, height, truth, measured = counts
    noise = {}
    for number in (0, 30):
        means = np.random.default_rng(1).poisson(truth * 30) / 30
        found = agreed(disks(0.3 * move, height), measured, means, torch.full((COUNT,), float(number)))
        noise[number] = (position(found) - move).std()
    assert noise[30] < 0.6 * noise[0]


def test_only_a_significant_excess_is_kept():
    assert unexplained_fraction(torch.tensor([0.0, 0.1, 0.5]), 200).tolist() == [0, 0, 1]  # 0, 1 and 5 sigma
