"""The error that structure of the direct disk causes at all positions of a scan alike."""

import numpy as np
import pytest
from py4DSTEM import DataCube

from py4dstem_prenet.core import MIN_RADIUS_SIGMA, Decision, NoiseModel, OriginMap
from py4dstem_prenet.descan import fit_origin
from py4dstem_prenet.fits import Aperture
from py4dstem_prenet.io import read_origin, write_origin
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


def measured(structure, seed=0, radius=RADIUS, rows=()):
    """`structure_sigma` of such disks, and the rms error of their mean position along one axis.

    The model has the given radius; pixels in the given rows are bad.
    """
    counts, truth = patterns(np.random.default_rng(seed), structure)
    bad = np.zeros((SIDE, SIDE), bool)
    bad[list(rows)] = True
    noise = NoiseModel(1.0, 0.0, 0.0, bad, counting=True, dose=float(ELECTRONS))
    aperture = Aperture(radius, 0.2, (0.0, 0.0), (0.01, 0.01))
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


def test_an_error_of_the_radius_is_in_the_sigma_if_an_edge_is_hidden():
    sigma, bias = measured(np.zeros(COUNT), radius=RADIUS + 0.1, rows=range(SIDE // 2 + 4, SIDE // 2 + 9))
    least = MIN_RADIUS_SIGMA * RADIUS / 0.1 * bias  # bias for an error of the radius of one sigma
    assert bias > 0.03 and least / 1.5 < sigma < 2 * least


def test_structure_that_differs_between_disks_averages_out():
    signs = np.where(np.arange(COUNT) % 2, 0.2, -0.2)
    assert measured(signs)[0] < measured(np.full(COUNT, 0.2))[0] / 4


def test_the_error_of_structure_is_kept_in_the_calibration():
    """A fit of the stored origin has the sigma that the fit of the measured one had."""
    rng, shape = np.random.default_rng(3), (9, 9)
    sigma = np.full(shape, 0.03)
    origin = OriginMap(*(50 + rng.normal(0, 0.03, (2, *shape))), sigma, sigma, np.ones(shape, bool), 5.0,
                       Decision(True, (), {"common": 0.04}))
    cube = DataCube(np.zeros((*shape, 32, 32), np.uint8))
    write_origin(cube, origin)
    first, second = (fit_origin(some, "plane").decision.numbers["uncertainty"] for some in (origin, read_origin(cube)))
    assert first == pytest.approx(second) and first > 0.04
