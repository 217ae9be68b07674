"""The error that structure of the direct disk causes at all positions of a scan alike."""

import numpy as np
import pytest

from py4dstem_prenet.core import NoiseModel
from py4dstem_prenet.fits import Aperture
from py4dstem_prenet.origin import Beam, structure_sigma

RADIUS, SIDE, ELECTRONS, COUNT = 6.0, 48, 20_000, 144


def patterns(rng, structure):
    """Counts of disks at positions that differ by parts of a pixel, and these positions.

    `structure` (n,) is the amplitude of two dark bars in each disk, one of which covers a part of the edge.
    """
    at = SIDE / 2 + rng.uniform(-0.5, 0.5, (COUNT, 2))
    x, y = np.indices((SIDE, SIDE))
    dx, dy = x - at[:, 0, None, None], y - at[:, 1, None, None]
    disk = np.clip(RADIUS + 0.5 - np.hypot(dx, dy), 0, 1)
    bars = np.exp(-((dx - 0.9 * RADIUS) ** 2)) + np.exp(-((dx + 0.3 * RADIUS) ** 2 + (dy - 2) ** 2))
    mean = disk * (1 - np.reshape(structure, (-1, 1, 1)) * bars) * ELECTRONS / disk.sum((1, 2), keepdims=True)
    return rng.poisson(mean).astype(np.uint16), at


def measured(structure, seed=0):
    """`structure_sigma` of such disks, and the rms error of their mean position along one axis."""
    counts, truth = patterns(np.random.default_rng(seed), structure)
    noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((SIDE, SIDE), bool), counting=True, dose=float(ELECTRONS))
    aperture = Aperture(RADIUS, 0.2, (0.0, 0.0), (0.01, 0.01))
    beam = Beam("cpu", noise, aperture, fits=((aperture, np.inf),))
    located = beam.locate(counts, truth)
    bias = (located.position - truth).mean(0)
    return structure_sigma(counts, located.position, located.sigma, beam), float(np.sqrt(np.mean(bias**2)))


@pytest.mark.parametrize("amplitude", [0.2, 0.3])
def test_structure_of_all_disks_is_in_the_sigma(amplitude):
    sigma, bias = measured(np.full(COUNT, amplitude))
    assert bias > 0.01 and bias / 2 < sigma < 5 * bias


def test_even_disks_have_no_common_error():
    sigma, bias = measured(np.zeros(COUNT))
    assert bias < 0.004 and sigma < 0.008


def test_structure_that_differs_between_disks_averages_out():
    signs = np.where(np.arange(COUNT) % 2, 0.2, -0.2)
    assert measured(signs)[0] < measured(np.full(COUNT, 0.2))[0] / 4
