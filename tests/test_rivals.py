"""Stops that no mask names found without knowing the beam's place, and disks that only look like the direct beam."""

import numpy as np
import pytest
from scans import others_slow
from scipy.special import erfc

from py4dstem_prenet.core import Decision, NoiseModel, OriginMap, as_scan
from py4dstem_prenet.detector import estimate_noise
from py4dstem_prenet.origin import check_diffuse, diffuse_asymmetry, find_bar, find_stop, measure_origin

SIDE = 112


def pattern(center, radius, seed, vectors=True):
    """Expected part of the electrons in each pixel: direct disk, Bragg disks on a lattice, diffuse scattering."""
    rng = np.random.default_rng(seed)
    x, y = np.indices((SIDE, SIDE)) - np.reshape(center, (2, 1, 1))

    def disk(gx, gy):
        return 0.5 * erfc((np.hypot(x - gx, y - gy) - radius) / 0.6) / (np.pi * radius**2)

    halo = 1 / (1 + (np.hypot(x, y) / 14) ** 2) ** 1.5
    out = 0.5 * disk(0, 0) + 0.2 * halo / halo.sum()
    turn = rng.uniform(0, np.pi)
    a, b = (3.4 * radius * np.array([np.cos(t), np.sin(t)]) for t in (turn, turn + 1.7))
    for h in range(-3, 4):
        for k in range(-3, 4):
            if vectors and (h or k):
                out += 0.03 * rng.uniform(0.2, 1) * disk(*(h * a + k * b))
    return out


def bar(center, angle, width, past):
    x, y = np.indices((SIDE, SIDE)) - np.reshape(center, (2, 1, 1))
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return (np.abs(across) < width) & (along > -past)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("crystal", [True, False])
def test_a_bar_is_found_wherever_the_beam_is(seed, crystal):
    rng = np.random.default_rng(seed)
    center, angle = rng.uniform(45, 65, 2), rng.uniform(0, 2 * np.pi)
    hidden = bar(center, angle, 5.0, 7.0)
    counts = rng.poisson(2e6 * pattern(center, 5.0, seed, crystal) * np.where(hidden, 1e-3, 1))
    found = find_bar(counts, np.ones((SIDE, SIDE), bool))
    assert (found & hidden).sum() > 0.85 * hidden.sum() and (found & ~hidden).sum() < 0.5 * hidden.sum()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("crystal", [True, False])
def test_where_there_is_none_no_bar_is_found(seed, crystal):
    """Not between Bragg disks, and not beside a gap that the noise model knows."""
    rng = np.random.default_rng(seed)
    expected = 2e6 * pattern(rng.uniform(45, 65, 2), 5.0, seed, crystal)
    good = np.ones((SIDE, SIDE), bool)
    assert find_bar(rng.poisson(expected), good) is None
    expected[:, 50:54], good[:, 50:54] = 0, False
    assert find_bar(rng.poisson(expected), good) is None


@pytest.mark.parametrize("seed", range(5))
def test_diffuse_scattering_tells_the_direct_beam_from_a_bragg_disk(seed):
    rng = np.random.default_rng(seed)
    center = rng.uniform(50, 60, 2)
    counts = rng.poisson(2e6 * pattern(center, 5.0, seed)).astype(float)
    good = ~bar(center, rng.uniform(0, 6), 5.0, 7.0)
    turn = np.random.default_rng(seed).uniform(0, np.pi)
    bragg = center + 17 * np.array([np.cos(turn), np.sin(turn)])
    here, there = (diffuse_asymmetry(counts, good, at, 5.0, 1.0)[0] for at in (center, bragg))
    assert here < 0.4 and there > 0.6


@pytest.mark.slow
@pytest.mark.parametrize("masked", [True, False])
def test_a_bragg_disk_beside_a_stop_is_not_the_direct_beam(masked):
    """Right, as the center of inversion, or refused."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        center = rng.uniform(50, 60, 2)
        hidden = bar(center, rng.uniform(0, 6), 6.0, 8.0)
        counts = rng.poisson(np.broadcast_to(9e3 * pattern(center, 5.0, seed) * ~hidden, (8, 8, SIDE, SIDE)))
        origin = measure_origin(counts.astype(np.uint16), mask=~hidden if masked else None, progress=False)
        if origin.found:
            assert np.hypot(np.median(origin.qx0) - center[0], np.median(origin.qy0) - center[1]) < 1


@pytest.mark.parametrize("background", others_slow([0.05, 0.0, 0.005]))
def test_patterns_without_diffuse_scattering_tell_of_no_rival(background):
    """Disks on a flat background, as in simulations without inelastic scattering and offset-corrected camera frames."""
    x, y = np.indices((128, 128))
    for seed in range(4):
        rng = np.random.default_rng(seed)
        center, turn = rng.uniform(50, 78, 2), rng.uniform(0, np.pi)
        mean = np.full(x.shape, background)
        for h, k in np.ndindex(7, 7):
            a, b = 22 * (h - 3), 25 * (k - 3)
            at = center + np.array([a * np.cos(turn) - b * np.sin(turn), a * np.sin(turn) + b * np.cos(turn)])
            part = 1.0 if h == k == 3 else 0.1 * rng.uniform(0.2, 1.8)
            mean = mean + 3000 * part / 113 * (np.hypot(x - at[0], y - at[1]) < 6)
        counts = rng.poisson(np.broadcast_to(mean, (4, 4, 128, 128))).astype(np.uint16)
        one = np.ones((4, 4))
        origin = OriginMap(*(q * one for q in center), 0.05 * one, 0.05 * one, one > 0, 6.0, Decision(True))
        scan = as_scan(counts)
        assert check_diffuse(scan, estimate_noise(scan), origin).found


@pytest.mark.parametrize("center", [(400, 400), (-500, 20), (1e300, 4), (np.nan, 30)])
def test_a_center_off_the_frame_has_no_stop(center):
    counts = np.random.default_rng(0).poisson(1e5 * pattern((55, 55), 5.0, 0))
    assert find_stop(counts, np.ones((SIDE, SIDE), bool), center) is None


@pytest.mark.slow
def test_the_hole_of_a_ring_is_no_stop():
    """The direct beam of a precession pattern, with a halo: the beam is found as it is, not hidden in its own hole."""
    x, y = np.indices((SIDE, SIDE)) - np.reshape((54.3, 57.8), (2, 1, 1))
    rho = np.hypot(x, y)
    ring = 0.5 * erfc((rho - 9.0) / 0.6) * (1 - 0.5 * erfc((rho - 6.75) / 0.6))
    halo, glass = 1 / (1 + (rho / 27) ** 2) ** 1.5, np.exp(-(((rho - 30) / 5) ** 2) / 2)
    expected = 0.5 * ring / ring.sum() + 0.1 * halo / halo.sum() + 0.3 * glass / glass.sum()
    counts = np.random.default_rng(0).poisson(np.broadcast_to(15000 * expected, (6, 6, SIDE, SIDE)))
    origin = measure_origin(counts.astype(np.uint16), progress=False)
    assert origin.feature == "direct beam" and origin.stop is None
    assert np.hypot(np.median(origin.qx0) - 54.3, np.median(origin.qy0) - 57.8) < 0.15


@pytest.mark.slow
def test_the_gap_between_rings_is_no_bar():
    x, y = np.indices((128, 128)) - 64
    r = np.hypot(x - 1, y + 2)
    rings = sum(a * np.exp(-(((r - at) / 1.4) ** 2) / 2) for a, at in ((1, 30.3), (0.6, 35), (0.5, 49.4), (0.4, 57.9)))
    mean = 3000 * (r < 5) + 2.5e5 * rings / rings.sum()  # no background at all
    good = np.ones((128, 128), bool)
    assert find_bar(np.random.default_rng(0).poisson(mean), good) is None
    mean += 2.0
    mean[:64, 59:70] *= 0.01
    bar = find_bar(np.random.default_rng(0).poisson(mean), good)
    assert bar is not None and bar[20, 64]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("at_edge", [False, True])
def test_a_bragg_disk_is_told_at_few_electrons_and_at_the_edge_of_the_frame(seed, at_edge):
    """At 800 electrons per pattern; at the edge no opposite sectors are left, and the brighter disk is compared."""
    rng = np.random.default_rng(seed)
    turn = rng.uniform(0, np.pi)  # that of `pattern`
    bragg = 17 * np.array([np.cos(turn), np.sin(turn)])
    center = np.array([57.0, 52.0])
    if at_edge:
        bragg, center = np.array([0.0, 34.0]), np.array([56.0, 72.0])
    expected = pattern(center, 5.0, seed) + (0.1 * edge_disk(center + bragg) if at_edge else 0)
    counts = np.random.default_rng(seed).poisson(np.broadcast_to(800 * expected, (8, 8, SIDE, SIDE)))
    scan, valid = as_scan(counts.astype(np.uint16)), np.ones((8, 8), bool)
    noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((SIDE, SIDE), bool), True, 700.0)
    for offset, found in (((0.0, 0.0), True), (bragg, False)):
        maps = [np.full((8, 8), c + o) for c, o in zip(center, offset, strict=True)]
        sigma = np.full((8, 8), 0.1)
        assert check_diffuse(scan, noise, OriginMap(*maps, sigma, sigma, valid, 5.0, Decision(True))).found == found


def edge_disk(center):
    x, y = np.indices((SIDE, SIDE)) - np.reshape(center, (2, 1, 1))
    return 0.5 * erfc((np.hypot(x, y) - 5.0) / 0.6) / (np.pi * 25)


@pytest.mark.slow
def test_lanes_between_rows_of_disks_are_no_bar():
    """Rows of disks that touch, without a background: the lanes between them are dark, straight, and repeat."""
    x, y = np.indices((SIDE, SIDE)) - 56
    mean = np.zeros((SIDE, SIDE))
    for h in range(-3, 4):
        for k in range(-6, 7):
            weight = np.exp(-np.hypot(24 * h, 11 * k) / 25)
            mean += 4e4 * weight * 0.5 * erfc((np.hypot(x - 24 * h, y - 11 * k) - 6.5) / 0.6) / (np.pi * 6.5**2)
    assert find_bar(np.random.default_rng(0).poisson(mean), np.ones(mean.shape, bool)) is None


@pytest.mark.parametrize("lit", [False, True])
def test_a_strip_that_light_reaches_is_no_bar(lit):
    """A dark strip between two bright bands, with or without disks in it beyond the bands, where its sides are dark."""
    x, y = np.indices((96, 96)) - 48
    mean = np.where((np.abs(x) < 18) & (np.abs(y) > 7) & (np.abs(y) < 20), 30.0, 0.05)
    for row in (-34, 34) if lit else ():
        mean[np.hypot(x - row, y) < 5] = 300
    assert (find_bar(np.random.default_rng(0).poisson(mean), np.ones(mean.shape, bool)) is None) == lit


@pytest.mark.parametrize("behind", [False, True])
def test_the_track_of_a_beam_with_much_descan_is_not_diffuse_scattering(behind):
    """In a sum of patterns the disk is a bar of 30 px; the halo of a hidden beam moves along with the Bragg disk."""
    rng = np.random.default_rng(6)
    u, v = np.meshgrid(np.linspace(-1, 1, 10), np.linspace(-1, 1, 10), indexing="ij")
    qx0, qy0 = 60 + 8 * u + 4 * v, 66 - 3 * u + 10 * v
    x, y = np.indices((128, 128))
    distance = np.hypot(x - qx0[..., None, None], y - qy0[..., None, None])
    mean = 20.0 * (distance < 5) + 0.001
    if behind:  # the located disk is that of a crystal, 40 px from the direct beam
        mean = mean + 4 * np.exp(-np.hypot(x - qx0[..., None, None] - 28, y - qy0[..., None, None] - 28) / 20)
    data, sigma = rng.poisson(mean).astype(np.uint16), np.full((10, 10), 0.02)
    mask = np.ones((128, 128), bool)
    if behind:
        mask[70:108, 74:112] = False  # the stop
    origin = OriginMap(qx0, qy0, sigma, sigma, np.ones((10, 10), bool), 5.0, Decision(True))
    assert check_diffuse(as_scan(data), estimate_noise(data, mask=mask), origin).found == (not behind)
