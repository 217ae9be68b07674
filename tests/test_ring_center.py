"""The rings' center: found where a beam stop hides the direct beam, refused where there are no rings."""

from pathlib import Path

import numpy as np
import pytest
from scans import ideal_radius, others_slow

from py4dstem_prenet.fits.ring_search import ring_center

REAL = Path(__file__).parents[2] / "shared" / "real"
CENTER = (71.3, 49.6)


def rings(center=CENTER, vector=(0.04, 0.02), size=128, dose=60.0, seed=0):
    """Two rings on a falling background, as counts."""
    rho = ideal_radius((size, size), center, vector)
    mean = np.exp(-rho / 25) + np.exp(-0.5 * ((rho - 28) / 1.5) ** 2) + 0.6 * np.exp(-0.5 * ((rho - 42) / 1.5) ** 2)
    return np.random.default_rng(seed).poisson(dose * (mean + 0.1)).astype(float)


def behind_stop(image, center=CENTER, width=8.0):
    """(image, stop): a bar from the center to the edge, and a hub."""
    x, y = (np.arange(n) - c for n, c in zip(image.shape, center, strict=True))
    stop = (np.hypot(x[:, None], y) < 1.5 * width) | ((np.abs(y)[None] < width / 2) & (x[:, None] > 0))
    return np.where(stop, 0.02 * image, image), stop


@pytest.mark.parametrize("masked", [True, False])
def test_found_behind_a_beam_stop(masked):
    image, stop = behind_stop(rings())
    found = ring_center(image, ~stop if masked else None)
    assert found.accepted, found.decision
    off = np.subtract(found.center, CENTER)
    assert np.abs(off).max() < 0.3 and off @ np.linalg.solve(found.covariance, off) < 16
    assert found.vector == pytest.approx((0.04, 0.02), abs=0.012)


def test_found_far_from_the_middle_in_any_units():
    image = 0.01 * rings((40.2, 88.7)) - 3
    found = ring_center(image)
    assert found.accepted and found.center == pytest.approx((40.2, 88.7), abs=0.3)


def test_the_direct_beam_does_not_draw_the_center():
    """A beam, with tails, two pixels from the rings' center."""
    rho = ideal_radius((128, 128), np.add(CENTER, (2.0, -1.2)))
    beam = np.random.default_rng(1).poisson(2e4 / (1 + (rho / 3) ** 3))
    found = ring_center(rings(vector=(0.0, 0.0)) + beam, guess=np.add(CENTER, (2.0, -1.2)))
    assert found.accepted and found.center == pytest.approx(CENTER, abs=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["noise", "ramp", "shading", "hill", "spots", "blank"])
def test_no_rings_no_center(what):
    rng = np.random.default_rng(2)
    rho = ideal_radius((128, 128), (50, 70))
    x = np.arange(128)[:, None] + np.zeros(128)
    image = {"noise": np.full(x.shape, 5.0), "ramp": 200 + x, "shading": 1e4 * np.exp(-0.5 * (rho / 60) ** 2),
             "hill": 1e4 / (1 + (rho / 10) ** 2), "spots": np.full(x.shape, 3.0), "blank": np.zeros(x.shape)}[what]
    if what == "spots":
        for h in range(-4, 5):
            for k in range(-4, 5):
                image += 200 * np.exp(-0.5 * ((x - 62 - 14 * h - 2 * k) ** 2 + (x.T - 55 - 13 * k) ** 2) / 1.5**2)
    found = ring_center(rng.poisson(image))
    assert not found.accepted and found.decision.flags[0].severity == "refusal"


@pytest.mark.skipif(not REAL.is_dir(), reason="real patterns are not here")
def test_real_bismuth_behind_its_beam_stop():
    found = ring_center(np.load(REAL / "bi_rings_beamstop.npy"))
    assert found.accepted and found.center == pytest.approx((141.7, 99.3), abs=0.5)


@pytest.mark.skipif(not REAL.is_dir(), reason="real patterns are not here")
def test_real_gold_whose_rings_are_not_about_the_beam():
    data = np.load(REAL / "medipix_au_2x2.npy")
    found = ring_center(data.mean((0, 1)), (data > 0).any((0, 1)), guess=(125.1, 128.7))
    assert found.accepted and found.center == pytest.approx((127.3, 127.3), abs=0.7)


@pytest.mark.skipif(not REAL.is_dir(), reason="real patterns are not here")
@pytest.mark.parametrize("name", others_slow(["beam_blanked_ccd_2x2", "nanobeam_ccd_discs"]))
def test_real_patterns_without_rings(name):
    data = np.load(REAL / f"{name}.npy")
    assert not ring_center(data.reshape(-1, *data.shape[-2:]).mean(0)).accepted


def test_sharp_rings_of_a_large_frame_are_searched_to_a_pixel():
    """Rings narrower than the bins of the first search, which was 3.7 px off."""
    side = 1000
    rng = np.random.default_rng(side)
    center = side * np.array([0.503, 0.547]) + rng.uniform(0, 8, 2)
    x, y = np.indices((side, side)) - center[:, None, None]
    r = np.hypot(x, y)
    image = 3 + 400 * np.exp(-r / (0.02 * side))
    image += sum(60 * np.exp(-0.5 * ((r - side * q) / 1.1) ** 2) for q in (0.05, 0.083, 0.097, 0.137, 0.16))
    found = ring_center(rng.poisson(np.where((np.abs(y) < side / 50) & (x < 0), 0.01, 1) * image))
    assert np.hypot(*(found.center - center)) < 1.0
