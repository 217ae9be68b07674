"""Crystals along a zone axis: which of many like disks is the direct beam."""

import numpy as np
import pytest
import torch
from scans import numbers_of

from py4dstem_prenet.detector.estimate import estimate_noise
from py4dstem_prenet.ellipse.measure import measure_ellipse
from py4dstem_prenet.fits.inversion import symmetry
from py4dstem_prenet.networks.center import COARSE_CELL_PX, coarse_position
from py4dstem_prenet.origin.coarse import agreed_positions
from py4dstem_prenet.origin.measure import measure_origin
from py4dstem_prenet.simulation.known import SILICON, simulate_known, zone_axis
from py4dstem_prenet.simulation.specimens import draw_oriented

INVERTED = [(7, 19, 3.0), (-11, 5, 2.0), (23, -2, 1.5)]  # x, y and brightness of disks that have a like one opposite


def disks(center, shape=(96, 112), direct=0.5):
    """Disks on both sides of a direct beam that is darker than any of them."""
    x, y = np.meshgrid(*map(np.arange, shape), indexing="ij")
    image = np.zeros(shape, np.float32)
    for dx, dy, height in [(0, 0, direct), *INVERTED, *((-a, -b, h) for a, b, h in INVERTED)]:
        image += height * (np.hypot(x - center[0] - dx, y - center[1] - dy) < 4)
    return torch.from_numpy(image)[None]


def best(z, good=None):
    found = symmetry(z, torch.ones_like(z, dtype=torch.bool) if good is None else good)[0]
    return tuple(int(k) for k in np.unravel_index(int(found.argmax()), found.shape)), float(found.max())


@pytest.mark.parametrize("center", [(48, 55), (40, 70), (26, 24)])
def test_a_pattern_is_symmetric_about_its_dark_direct_beam(center):
    at, value = best(disks(center))
    assert at == center and value == pytest.approx(1, abs=1e-3)


def test_what_is_off_the_detector_or_bad_does_not_count():
    half = disks((10, 55))  # a third of the disks lie above the detector
    assert best(half) == ((10, 55), pytest.approx(1, abs=1e-3))
    good = torch.ones(1, 96, 112, dtype=torch.bool)
    good[:, 52:60, 70:80] = False
    masked = disks((48, 55)) * good
    assert best(masked, good)[0] == (48, 55)


def test_noise_is_symmetric_about_nothing():
    z = torch.randn(4, 64, 64, generator=torch.Generator().manual_seed(0))
    middle = symmetry(z, torch.ones_like(z, dtype=torch.bool))[:, 16:48, 16:48]
    assert float(middle.mean()) == pytest.approx(0, abs=0.01) and float(middle.std()) < 0.05


def test_oriented_crystals_often_have_a_direct_beam_that_is_not_the_brightest():
    """What they are drawn for."""
    from py4dstem_prenet.simulation.waves import CENTER, draw_patterns

    darker, count = 0, 0
    x, y = (torch.arange(256) - CENTER for _ in range(2))
    for number in range(10):
        patterns, radius, kind = draw_patterns((5, number), oriented=True)
        assert kind == "oriented"
        inside = torch.hypot(x[:, None].float(), y[None].float()) < radius
        darker += int((patterns[:, inside].amax(1) < patterns[:, ~inside].amax(1)).sum())
        count += len(patterns)
    assert 0.1 < darker / count < 0.7


def test_oriented_specimens_part_their_disks():
    _, optics = draw_oriented(np.random.default_rng(1))
    assert 4.5 <= optics.aperture <= 20


@pytest.mark.slow
@pytest.mark.parametrize("zone, thickness", [((1, 1, 0), 110), ((1, 1, 0), 140), ((1, 1, 1), 160)])
def test_the_direct_beam_of_a_thick_crystal_is_found_though_others_are_brighter(zone, thickness):
    frame = zone_axis(zone, (1, -1, 0))
    known = simulate_known(SILICON, np.broadcast_to(frame, (4, 4, 3, 3)), thickness=thickness, seed=3)
    pattern, at = known.expected[0, 0], (known.truth["qx0"][0, 0], known.truth["qy0"][0, 0])
    x, y = np.meshgrid(*map(np.arange, pattern.shape), indexing="ij")
    direct = np.hypot(x - at[0], y - at[1]) < 0.8 * known.truth["radius"]
    beside = np.hypot(x - at[0], y - at[1]) > 1.2 * known.truth["radius"]
    brightest = pattern[direct].mean(), np.sort(pattern[beside])[-direct.sum():].mean()
    assert brightest[0] < 0.9 * brightest[1], "the direct beam is the brightest: no test of anything"
    counts = known.counts(3000)
    found = measure_origin(counts, estimate_noise(counts), progress=False)
    off = np.hypot(found.qx0 - known.truth["qx0"], found.qy0 - known.truth["qy0"])
    assert found.valid.all() and off.max() < 1


@pytest.mark.slow
def test_an_origin_in_a_diffracted_disk_is_told():
    known = simulate_known(SILICON, np.broadcast_to(zone_axis((1, 1, 0), (0, 0, 1)), (5, 5, 3, 3)), thickness=60,
                           seed=1, amplitude=1.0)
    counts = known.counts(3000)
    noise, radius = estimate_noise(counts), known.truth["radius"]
    qx0, qy0 = known.truth["qx0"], known.truth["qy0"]
    right = measure_ellipse(counts, qx0, qy0, radius, noise, progress=False)
    assert not right.decision.has("symmetric_elsewhere")
    reciprocal = np.linalg.inv(known.truth["frames"][0, 0]).T / SILICON.edge / known.truth["sampling"]
    beside = reciprocal @ np.array([1, -1, 1])
    wrong = measure_ellipse(counts, qx0 + beside[0], qy0 + beside[1], radius, noise, progress=False)
    found = numbers_of(wrong, "symmetric_elsewhere")
    assert np.allclose((found["dx"], found["dy"]), -beside[:2], atol=2) and found["there"] > found["here"]


def heat(places, rows=24, columns=32):
    """Logits of a coarse map whose places (x, y in cells) have these probabilities."""
    probability = torch.full((rows, columns), 1e-7)
    for (x, y), part in places.items():
        probability[x, y] = part
    return probability.log()


def positions(*cells):
    return (torch.tensor(cells, dtype=torch.float32)) * COARSE_CELL_PX + (COARSE_CELL_PX - 1) / 2


def test_a_few_blocks_that_are_sure_overrule_many_that_are_not():
    right, wrong = (12, 16), (12, 20)
    unsure, sure = heat({wrong: 0.5, right: 0.45}), heat({right: 0.99})
    logits = torch.stack([unsure] * 6 + [sure] * 2)
    at = coarse_position(logits)
    assert torch.allclose(at[:6], positions(wrong).expand(6, 2), atol=0.1)
    seen = torch.ones(8, dtype=torch.bool)
    agreed = agreed_positions(logits, at, positions(wrong).expand(8, 2), seen)
    assert torch.allclose(coarse_position(logits, agreed), positions(right).expand(8, 2), atol=0.1)
    assert agreed_positions(logits[:6], at[:6], at[:6], seen[:6]) is None  # nobody says that they are wrong


def test_blocks_that_follow_the_descan_and_one_that_shows_something_else_are_left_alone():
    cells = [(4 + 2 * k, 5 + 3 * k) for k in range(8)]
    logits = torch.stack([heat({cell: 0.9}) for cell in cells[:7]] + [heat({(20, 2): 0.95})])
    at = coarse_position(logits)
    assert agreed_positions(logits, at, positions(*cells), torch.ones(8, dtype=torch.bool)) is None
