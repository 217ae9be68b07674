"""Disks of scans whose direct beam is behind a stop: their radius, the center of their rings, and the pixel size."""

from dataclasses import replace

import numpy as np
import pytest
from drawn_disks import disks_of

from py4dstem_prenet import measure_pixel_size
from py4dstem_prenet.core import NoiseModel
from py4dstem_prenet.fits import ring_span
from py4dstem_prenet.pixel_size import centered_spots, hidden_disk_radius
from py4dstem_prenet.simulation.grains import simulate_grains
from py4dstem_prenet.simulation.known import Cubic

SIDE = 96


def stop_about(center, hub, side=SIDE):
    """True in front of a stop: a hub, and an arm along the columns."""
    x, y = np.indices((side, side)) - np.reshape(center, (2, 1, 1))
    return (np.hypot(x, y) > hub) & ~((np.abs(x) < 2) & (y > 0))


@pytest.mark.parametrize("radius", [1.5, 3.0, 6.0])
def test_the_radius_of_disks_is_measured_without_the_direct_beam(radius):
    """Six disks in a pattern, on a halo, half-lit ones among them; 30 electrons each."""
    rng, (x, y) = np.random.default_rng(1), np.indices((SIDE, SIDE))
    halo = 0.2 * np.exp(-(((np.hypot(x - 47, y - 49) - 20) / 8) ** 2))
    patterns = []
    for _ in range(40):
        image = halo.copy()
        for a, b in rng.uniform(3, SIDE - 3, (6, 2)):
            lit = np.clip(1 + 0.3 * ((x - a) * np.cos(a) + (y - b) * np.sin(a)) / radius, 0, None)
            image += 30 / (np.pi * radius**2) * lit * np.clip(radius + 0.5 - np.hypot(x - a, y - b), 0, 1)
        patterns.append(image)
    good = stop_about((47, 49), 9)
    found = hidden_disk_radius(rng.poisson(patterns) * good, good)
    assert found == pytest.approx(radius, rel=0.1, abs=0.25)


def test_rings_are_read_from_the_edge_of_a_stop_to_the_edge_of_the_frame():
    """The hub is wider than an eighth of the diagonal; the first ring is next to it."""
    center, hub = (47.0, 49.0), 12.0
    x, y = np.indices((SIDE, SIDE)) - np.reshape(center, (2, 1, 1))
    rho = np.hypot(x, y)
    image = 50 * np.exp(-rho / 30) + sum(100 * np.exp(-0.5 * ((rho - g) / 1.5) ** 2) for g in (18, 21, 30, 35))
    good = stop_about(center, hub)
    first, last = ring_span(np.where(good, image, 0.0), good, center)
    assert hub <= first < 16 and last > 44


@pytest.mark.parametrize("open_", [lambda rho: rho < 0, lambda rho: rho < 3, lambda rho: rho > 60,
                                   lambda rho: (rho > 20) & (rho < 24)])
def test_a_mask_that_leaves_no_room_for_rings_leaves_no_span(open_):
    center = (47.0, 49.0)
    good = open_(np.hypot(*(np.indices((SIDE, SIDE)) - np.reshape(center, (2, 1, 1)))))
    first, last = ring_span(np.where(good, 5.0, 0.0), good, center)
    assert last - first < 12


def test_rings_of_disks_are_centered_without_a_known_ellipse():
    spots = disks_of("Al", 0.0195, 200, 0.1, vector=(0.015, -0.02))
    for shift in ((0.8, -0.5), (-0.3, 1.0)):
        moved = centered_spots(replace(spots, offset=spots.offset + shift), np.zeros(2))
        assert np.abs((moved.offset - spots.offset).mean(0)).max() < 0.15


@pytest.mark.slow
def test_a_scan_behind_a_stop_gives_its_pixel_size():
    """The origin is off by 0.5 px, as that of rings may be; the ellipse is not known."""
    scan = simulate_grains(Cubic("fcc", 4.04958, 13), (10, 10), grains=100, in_pattern=2, seed=5, ratio=1.02)
    truth, side = scan.truth, scan.expected.shape[-1]
    good = stop_about((truth["qx0"].mean(), truth["qy0"].mean()), 2.0 * truth["radius"], side)
    noise = NoiseModel(1.0, 0.0, 0.0, ~good, counting=True, dose=5_000.0)
    size = measure_pixel_size(scan.counts(5_000) * good, truth["qx0"] + 0.4, truth["qy0"] - 0.3, None, noise, "Al",
                              progress=False)
    error = np.log(size.value / truth["sampling"])
    assert size.accepted and size.evidence == "disks"
    assert abs(error) < 2e-3 and abs(error) < 4 * size.relative_sigma
