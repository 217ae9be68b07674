"""Direct beams that fill most of the detector, larger than the networks were trained on."""

import numpy as np
import pytest

from py4dstem_prenet.core import as_scan
from py4dstem_prenet.detector import estimate_noise
from py4dstem_prenet.origin import BeamLocator, measure_origin, wide_disk

SCAN, SIDE = (5, 5), 128


def probes(radius, electrons, seed=0, slope=0.2):
    """Scan of an empty probe whose brightness falls across it, and its true origins (2, Rx, Ry)."""
    rng = np.random.default_rng(seed)
    rows = np.linspace(-0.8, 0.8, SCAN[0])[:, None] + np.zeros(SCAN)
    origins = np.stack([64.3 + rows, 62.6 - 0.7 * rows.T])
    x, y = np.indices((SIDE, SIDE))
    qx, qy = origins[..., None, None]
    expected = 1 / (1 + np.exp((np.hypot(x - qx, y - qy) - radius) / 0.4))
    expected = expected * (1 + slope * (x - SIDE / 2) / SIDE) + 2e-3
    return rng.poisson(expected / expected.sum((2, 3), keepdims=True) * electrons).astype(np.uint16), origins


@pytest.mark.slow
@pytest.mark.parametrize("radius, electrons", [(48, 3e4), (60, 1e5)])
def test_a_beam_that_fills_the_frame_is_found(radius, electrons):
    counts, truth = probes(radius, electrons)
    origin = measure_origin(as_scan(counts), progress=False)
    assert origin.found and origin.feature == "direct beam"
    error = np.stack([origin.qx0, origin.qy0]) - truth
    pull = error / np.stack([origin.sigma_qx0, origin.sigma_qy0])
    assert np.median(np.hypot(*error)) < 0.12  # a third of it at these doses
    assert np.sqrt(np.mean(pull**2)) < 2.0
    assert abs(origin.radius - radius) < 0.3


def test_a_beam_cut_by_all_edges_is_covered_by_its_sigma():
    counts, truth = probes(65, 3e5)
    origin = measure_origin(as_scan(counts), progress=False)
    if origin.found:
        error = np.stack([origin.qx0, origin.qy0]) - truth
        assert np.median(np.abs(error)) < 3 * np.median(origin.sigma_qx0)


def test_a_diffraction_pattern_is_no_wide_disk():
    x, y = np.indices((SIDE, SIDE)) - 64
    distance = np.hypot(x, y)
    good = np.ones((SIDE, SIDE), bool)
    rings = 50 * np.exp(-((distance - 40) ** 2) / 50) + 100 * np.exp(-distance / 20)
    in_a_round_detector = np.where(distance < 60, 1e3 * (distance < 6) + rings, 0)
    assert wide_disk(rings, good) is None
    assert wide_disk(in_a_round_detector, good) is None
    assert wide_disk(200.0 * (np.maximum(np.abs(x), np.abs(y)) < 50), good) is None  # a square


@pytest.mark.slow
def test_the_networks_are_asked_where_the_disk_is_small():
    counts, _ = probes(30, 3e4)
    assert not BeamLocator.learn(as_scan(counts)).beam.wide


@pytest.mark.parametrize("radius, electrons", [(56, 3e4), (56, 1e6)])
def test_counts_of_a_beam_that_fills_the_frame_are_counts(radius, electrons):
    noise = estimate_noise(as_scan(probes(radius, electrons)[0]))
    assert noise.counting and noise.gain == 1.0
    assert "inverted" not in {flag.name for flag in noise.flags}
