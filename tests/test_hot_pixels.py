"""Weak hot pixels in the direct beam: none moves origins, and none is seen where the disk itself is uneven."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scans import simulated

from py4dstem_prenet.core import NoiseModel, as_scan
from py4dstem_prenet.descan.fit import fit_origin
from py4dstem_prenet.detector.estimate import estimate_noise
from py4dstem_prenet.fits import Aperture, hot_pixels
from py4dstem_prenet.origin.measure import BeamLocator, measure_origin

SCANS = {"moving": dict(scan=(12, 12), shape=(96, 80), dose=10_000.0, amplitude=1.5, radius=6.0, theta=0.5, seed=8),
         "still": dict(scan=(10, 10), shape=(64, 64), dose=10_000.0, amplitude=0.0, radius=3.5, seed=6)}


def middle(truth):
    return np.array([truth["qx0"].mean(), truth["qy0"].mean()])


def measured(counts, noise=None):
    """(2, Rx, Ry) px, each: the measured origin, and the fitted one."""
    origin = measure_origin(counts, noise, progress=False)
    return [np.stack([o.qx0, o.qy0]) for o in (origin, fit_origin(origin))]


def off(found, other):
    """Distances (Rx, Ry), px, rms: of the measured origins, and of the fitted ones."""
    return np.array([np.sqrt(np.mean(np.hypot(*(a - b)) ** 2)) for a, b in zip(found, other, strict=True)])


@cache
def known(name):
    """A scan; its origins; a pixel just outside the edge of its disk; and how far origins move where that is dead."""
    made = simulated(**SCANS[name])
    clean, noise = measured(made.counts), estimate_noise(made.counts)
    edge = (made.truth["radius"] + 0.8) * np.array([np.cos(2.1), np.sin(2.1)])
    x, y = np.rint(middle(made.truth) + edge).astype(int)
    bad = noise.bad_pixels.copy()
    bad[x, y] = True
    return made, clean, (x, y), off(measured(made.counts, replace(noise, bad_pixels=bad)), clean)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "level"), [("moving", 0.15), ("still", 0.15), ("still", 0.3)])
def test_a_hot_pixel_on_the_edge_of_the_disk_moves_origins_hardly_more_than_a_dead_one(name, level):
    """Of `level` times the disk's brightness: by less than .01 px more; what a pixel would tell is lost in any case."""
    made, clean, (x, y), dead = known(name)
    inside = np.hypot(*(np.indices(made.counts.shape[2:]) - middle(made.truth)[:, None, None]))
    bright = made.clean[..., inside < made.truth["radius"] - 1.5].mean()
    counts = made.counts.copy()
    counts[:, :, x, y] += np.random.default_rng(0).poisson(level * bright, counts.shape[:2]).astype(counts.dtype)
    assert not estimate_noise(counts).bad_pixels.any()  # nobody but the beam knows it
    assert (off(measured(counts), clean) < dead + 0.01).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", SCANS)
def test_no_pixel_is_lost_to_what_is_uneven_in_a_disk(name):
    made = simulated(**SCANS[name])
    x, y = np.indices(made.counts.shape[2:]) - middle(made.truth)[:, None, None]
    line = np.abs(0.8 * x + 0.6 * y - 1.3) < 0.6
    spot = np.exp(-((x - 2) ** 2 + (y + 1) ** 2) / 2)
    rng = np.random.default_rng(1)
    for change in (1.0, 1 + 0.3 * line, 1 + 0.3 * spot, rng.normal(1, 0.03, line.shape)):
        counts = rng.poisson(made.clean * change).astype(np.uint16)
        noise = estimate_noise(counts)
        learned = BeamLocator.learn(as_scan(counts), noise=noise, device="cpu")
        assert not (learned.noise.bad_pixels & ~noise.bad_pixels).any()


def test_positions_off_the_frame_have_no_hot_pixels():
    patterns = np.random.default_rng(0).poisson(5.0, (40, 32, 32))
    noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((32, 32), bool), counting=True, dose=5120.0)
    aperture = Aperture(3.0, 0.3, (0.0, 0.0), (0.01, 0.01))
    positions = np.full((40, 2), [-60.0, 15.0])  # as surfaces through the quadrants of swapped patterns give them
    assert not hot_pixels(patterns, positions, noise, aperture, 5.0, "cpu").any()
