"""Scans whose direct beam a beam stop hides: the rings' center serves, is called so, and noise has none."""

import numpy as np
import pytest
from scans import numbers_of

from py4dstem_prenet.core.scan import as_scan
from py4dstem_prenet.descan.fit import fit_origin
from py4dstem_prenet.detector.estimate import estimate_noise
from py4dstem_prenet.origin.measure import measure_origin
from py4dstem_prenet.origin.ring_origin import ring_origins
from py4dstem_prenet.simulation.scan import simulate

SCAN, SIDE, RADII = (8, 8), 128, (24.0, 38.0, 47.0)


def rings(electrons=3e4, seed=0):
    """Counts (8, 8, 128, 128) of soft rings behind a stop, their centers, and the mask (True = good)."""
    rng = np.random.default_rng(seed)
    i, j = np.meshgrid(*(np.linspace(-1, 1, n) for n in SCAN), indexing="ij")
    x0, y0 = 66.0 + 0.8 * i, 57.0 - 0.5 * j
    x, y = np.arange(SIDE)[:, None], np.arange(SIDE)
    radius = np.hypot(x - x0[..., None, None], y - y0[..., None, None])
    clean = 1.5 * np.exp(-radius / 25) + sum(np.exp(-0.5 * ((radius - r) / 1.6) ** 2) * 20 / r for r in RADII)
    clean += 300 * (radius < 3)
    good = np.hypot(x - 66, y - 57) > 11
    good &= ~((np.abs(y - 57) < 4) & (x < 66))
    clean *= good
    clean *= electrons / clean.sum((2, 3)).mean()
    return rng.poisson(clean).astype(np.uint16), (x0, y0), good


@pytest.fixture(scope="module")
def hidden():
    return rings()


@pytest.mark.slow
@pytest.mark.parametrize("masked", [True, False])
def test_the_center_of_rings_is_found_and_called_so(hidden, masked):
    counts, truth, good = hidden
    origin = measure_origin(counts, mask=good if masked else None, progress=False)
    assert origin.found and origin.feature == "rings" and origin.decision.has("beam_hidden")
    assert np.isnan(origin.radius)
    error = np.hypot(origin.qx0 - truth[0], origin.qy0 - truth[1])
    assert error.max() < 0.3
    assert 0.2 < np.sqrt(np.mean(((origin.qx0 - truth[0]) / origin.sigma_qx0) ** 2)) < 2
    fit = fit_origin(origin)
    assert fit.accepted and np.hypot(fit.qx0 - truth[0], fit.qy0 - truth[1]).max() < 0.5


@pytest.mark.slow
def test_the_descan_is_followed(hidden):
    counts, truth, _ = hidden
    (position, _, _), _ = ring_origins(as_scan(counts), estimate_noise(counts))
    assert np.corrcoef(position[0].ravel(), truth[0].ravel())[0, 1] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("background", [0.0, 0.5])
def test_a_blanked_position_has_no_rings(hidden, background):
    """Dark ones, and ones with a background half as bright as the patterns."""
    counts, truth, good = hidden
    counts, blank = counts.copy(), np.zeros(SCAN, bool)
    blank[:3], blank[5, 2] = True, True
    counts[blank] = np.random.default_rng(1).poisson(background * counts.mean() * good, counts[blank].shape)
    origin = measure_origin(counts, mask=good, progress=False)
    assert origin.feature == "rings" and np.array_equal(origin.valid, ~blank)
    assert numbers_of(origin, "rings_missing") == {"count": 25, "total": 64}
    assert np.hypot(origin.qx0 - truth[0], origin.qy0 - truth[1])[~blank].max() < 0.7


def test_noise_has_no_rings():
    counts = np.random.default_rng(0).poisson(2.0, (*SCAN, SIDE, SIDE)).astype(np.uint16)
    found, flag = ring_origins(as_scan(counts), estimate_noise(counts))
    assert found is None and flag.severity == "refusal" and flag.name.startswith("rings_")


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "electrons"), [(0, 700), (1, 700), (12, 700), (0, 2e4)])
def test_crystals_behind_a_stop_are_refused(seed, electrons):
    """Their Bragg disks were given as the direct beam, 20 px and more off, in 8 of 14 such scans of 700 electrons.

    One of three would show it with a probability of 92 %.
    """
    made = simulate((10, 10), (96, 96), seed=seed, dose=electrons, radius=5.0)
    counts, (x0, y0) = np.array(made.counts), (made.truth[q].mean() for q in ("qx0", "qy0"))
    x, y = np.arange(96)[:, None], np.arange(96)
    counts[..., (np.hypot(x - x0, y - y0) < 12) | ((np.abs(y - y0) < 3) & (x > x0))] = 0
    assert not measure_origin(counts, progress=False).found
