"""The simulated detector, banks of patterns, and scans."""

import numpy as np
import pytest
import torch
from scans import bank_of, moments, simulated, vacuum

from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.simulation import scan as scan_module
from py4dstem_prenet.simulation.bank import load_bank, make_bank
from py4dstem_prenet.simulation.detector import Detector, blur, draw_detector, expose
from py4dstem_prenet.simulation.scan import simulate
from py4dstem_prenet.simulation.waves import draw_patterns


def detector(shape, readout=0.0, hot=None, dead=None, batch=1):
    none = torch.zeros(batch, *shape, dtype=torch.bool)
    return Detector(torch.zeros(batch), torch.full((batch,), readout), none if hot is None else hot,
                    none if dead is None else dead)


@pytest.mark.parametrize(("level", "readout"), [(0.3, 0.0), (40.0, 0.0), (7.0, 2.5)])
def test_counting_has_poisson_mean_and_variance(level, readout):
    expected = torch.full((1, 300, 300), level)
    counts = expose(expected, detector((300, 300), readout), torch.Generator().manual_seed(1)).double()
    n, variance = counts.numel(), level + readout**2
    assert counts.mean().item() == pytest.approx(level, abs=5 * (variance / n) ** 0.5)
    # var of a sample variance: (2 sigma^4 + kurtosis) / n, Poisson's fourth cumulant being its mean
    assert counts.var().item() == pytest.approx(variance, abs=5 * ((2 * variance**2 + level) / n) ** 0.5)
    assert bool((counts == counts.round()).all()) == (readout == 0)


def test_without_electrons_and_readout_there_is_nothing():
    counts = expose(torch.zeros(2, 40, 40), detector((40, 40), batch=2), torch.Generator().manual_seed(0))
    assert not counts.any()


def test_dead_pixels_count_nothing_and_hot_ones_much():
    dead, hot = torch.zeros(1, 50, 50, dtype=torch.bool), torch.zeros(1, 50, 50, dtype=torch.bool)
    dead[0, 10:20], hot[0, 30:40] = True, True
    counts = expose(torch.full((1, 50, 50), 3.0), detector((50, 50), 0.5, hot, dead),
                    torch.Generator().manual_seed(0))[0]
    assert not counts[10:20].any()
    assert counts[30:40].mean() > 10 > counts[:10].mean()


def test_blur_is_gaussian_keeps_counts_and_none_is_none():
    image = torch.zeros(3, 41, 41)
    image[:, 20, 18] = 100.0
    out = blur(image, torch.tensor([0.0, 0.6, 1.0])).numpy()
    assert np.allclose(out[0], image[0])
    for k, sigma in ((1, 0.6), (2, 1.0)):
        total, center, cov = moments(out[k])
        assert total == pytest.approx(100, rel=1e-5)
        assert np.abs(center - (20, 18)).max() < 1e-5
        assert cov == pytest.approx(np.eye(2) * sigma**2, abs=0.01)
    assert np.allclose(blur(torch.full((1, 20, 20), 4.0), torch.tensor([0.8])), 4.0)  # no loss at the rim


def test_detectors_come_from_their_seed():
    def draw(seed):
        return draw_detector(torch.Generator().manual_seed(seed), 200, (32, 48), stops=0.5)

    one, same, other = draw(3), draw(3), draw(4)
    assert all(torch.equal(getattr(one, f), getattr(same, f)) for f in ("blur", "readout", "hot", "dead"))
    assert not torch.equal(one.blur, other.blur)
    assert not (one.hot & one.dead).any()
    stopped = (one.dead.float().mean((1, 2)) > 0.01).float().mean()  # some bars only graze the sensor
    assert 0.25 < stopped < 0.55
    assert 0.25 < (one.readout > 0).float().mean() < 0.55


# --- banks and scans


@pytest.mark.slow
def test_banks_do_not_depend_on_who_makes_them(tmp_path):
    alone, together = make_bank(11, 8, workers=1), make_bank(11, 8, workers=2)
    for field in ("root", "radius"):
        assert torch.equal(getattr(alone, field), getattr(together, field))
    assert list(alone.kind) == list(together.kind)
    assert len(set(alone.kind)) > 1
    fewer = make_bank(11, 2)
    assert torch.equal(fewer.root, alone.root[:len(fewer)])  # specimen k has a seed of its own
    other = make_bank(12, 2)
    assert not torch.equal(other.radius[:1], fewer.radius[:1])
    kept = load_bank(tmp_path, 11, 2)
    again = load_bank(tmp_path, 11, 2)  # from the file this time
    assert [p.name for p in tmp_path.iterdir()] == ["bank-11-2.npz"]
    assert torch.equal(kept.root, again.root) and torch.equal(kept.root, fewer.root)
    # float16 square roots keep what they stand for
    patterns, _, _ = draw_patterns((11, 0))
    sums = fewer.intensity(slice(0, len(patterns))).sum((1, 2)) * 1e-6
    assert torch.allclose(sums, patterns.sum((1, 2)), rtol=2e-3)


@pytest.fixture
def empty_column(monkeypatch):
    """Scans without a specimen, whose direct beam has nothing on it to disturb its moments."""
    bank = bank_of(vacuum(16.0)[None], 16.0)
    monkeypatch.setattr(scan_module, "make_bank", lambda seed, specimens: bank)


def test_the_beam_is_where_the_truth_says(empty_column):
    s = simulate((4, 5), (96, 128), dose=1e6, seed=3, ratio=1.08, theta=0.7, radius=9.0, amplitude=4.0)
    along, across = np.array([np.cos(0.7), np.sin(0.7)]), np.array([-np.sin(0.7), np.cos(0.7)])
    for i, j in np.ndindex(4, 5):
        for image, sigma in ((s.clean[i, j], 0.005), (s.counts[i, j], 0.03)):
            total, center, cov = moments(image)
            assert np.abs(center - (s.truth["qx0"][i, j], s.truth["qy0"][i, j])).max() < sigma
            assert total == pytest.approx(1e6, rel=0.005)
        assert (along @ cov @ along) / (across @ cov @ across) == pytest.approx(1.08**2, rel=0.01)
        assert np.sqrt(4 * np.sqrt(np.linalg.det(cov))) == pytest.approx(9, rel=0.02)
    assert s.truth["a"] / s.truth["b"] == pytest.approx(1.08) and s.truth["theta"] == 0.7
    assert np.ptp(s.truth["qx0"]) > 1 and np.ptp(s.truth["qy0"]) > 1  # there is a descan to find
    for name in ("qx0", "qy0"):
        assert np.abs(s.truth[name] - np.mean(s.truth[name])).max() < 8


def test_detector_units_are_gain_offset_and_readout(empty_column):
    options = dict(dose=2e5, seed=3, ratio=1.0, radius=9.0)
    plain, camera = (simulate((4, 5), (64, 64), **options, **o)
                     for o in ({}, dict(gain=7.0, offset=50.0, readout=4.0)))
    assert np.array_equal(plain.clean, camera.clean)
    z = (camera.counts - (camera.clean * 7 + 50)) / np.sqrt(49 * camera.clean + 16 + 1 / 12)
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert z.std() == pytest.approx(1, abs=0.02)
    lit = plain.clean > 5
    z = (plain.counts - plain.clean)[lit] / np.sqrt(plain.clean[lit])
    assert abs(z.mean()) < 5 / np.sqrt(z.size) and z.std() == pytest.approx(1, abs=0.02)


def test_detector_blur_spreads_and_keeps(empty_column):
    options = dict(scan=(1, 2), shape=(64, 64), dose=1e5, seed=3, ratio=1.0, radius=6.0)
    sharp, soft = simulate(**options), simulate(**options, psf=1.0)
    for i in range(2):
        (n0, c0, s0), (n1, c1, s1) = moments(sharp.clean[0, i]), moments(soft.clean[0, i])
        assert n1 == pytest.approx(n0, rel=1e-4) and np.allclose(c1, c0, atol=1e-3)
        assert s1 - s0 == pytest.approx(np.eye(2), abs=0.03)


def test_with_specimens_an_aperture_fits_best_where_the_truth_says():
    s = simulated()
    radius, steps, offsets = s.truth["radius"], np.arange(-2, 2.1, 0.5), []
    for i, j in np.ndindex(6, 6):
        corner = [int(s.truth[q][i, j]) - 14 for q in ("qx0", "qy0")]
        # Square roots, lest dynamical contrast outweigh the edge.
        root = np.sqrt(s.clean[i, j, corner[0]:corner[0] + 29, corner[1]:corner[1] + 29])
        x, y = (np.arange(29) + c - s.truth[q][i, j] for c, q in zip(corner, ("qx0", "qy0"), strict=True))
        scores = {}
        for dx, dy in np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2):
            distance = np.hypot(x[:, None] - dx, y - dy)
            inside, around = distance < radius, (distance >= radius) & (distance < radius + 3)
            scores[dx, dy] = root[inside].mean() - root[around].mean()
        offsets.append(max(scores, key=scores.get))
    assert np.abs(np.mean(offsets, 0)).max() < 0.25
    assert np.median(np.hypot(*np.transpose(offsets))) <= 0.5


def test_scans_come_from_their_seed_and_have_the_dose():
    again = simulate(**dict(scan=(6, 6), shape=(128, 128), dose=2000.0, seed=0))
    s = simulated()
    assert np.array_equal(again.counts, s.counts) and again.counts.dtype == np.uint16
    assert not np.array_equal(simulated(seed=1).truth["qx0"], s.truth["qx0"])
    total = s.clean.sum((2, 3))
    assert (total < 2010).all() and (total > 1000).all()  # what is missing was scattered past the detector
    z = (s.counts.sum((2, 3)) - total) / np.sqrt(total)
    assert np.abs(z).max() < 5 and 0.6 < z.std() < 1.4


@pytest.mark.parametrize("options", [dict(dose=0), dict(dose=float("nan")), dict(shape=(64, 31))])
def test_what_cannot_be_simulated_is_refused(options):
    with pytest.raises(PrenetError):
        simulate((2, 2), **options)
