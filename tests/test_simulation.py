"""The simulation: waves as Fourier optics says, labels to a hundredth of a pixel, counts as statistics says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scans import bank_of, simulated, vacuum
from scipy.special import jv

from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.core.geometry import ellipse_axes, ellipse_matrix
from py4dstem_prenet.simulation import faults, scan as scan_module
from py4dstem_prenet.simulation.bank import load_bank, make_bank
from py4dstem_prenet.simulation.detector import Detector, blur, draw_detector, expose
from py4dstem_prenet.simulation.faults import draw_faults
from py4dstem_prenet.simulation.pattern import CENTER, SAMPLES, ideal_coordinates, project, rotation_matrix, soft_disk
from py4dstem_prenet.simulation.scan import simulate
from py4dstem_prenet.simulation.specimens import GRID, Optics, Specimen, atoms_to_phase, glass_phase
from py4dstem_prenet.simulation.waves import draw_patterns, multislice, probe

OPTICS = Optics(volts=200e3, dk=0.01, aperture=12.0)


def moments(image):
    """Sum, centroid (2,) and covariance (2, 2) of an image (H, W)."""
    image = np.asarray(image, float)
    total = image.sum()
    x, y = (np.arange(n) for n in image.shape)
    cx, cy = image.sum(1) @ x / total, image.sum(0) @ y / total
    cov = np.array([[image.sum(1) @ (x - cx) ** 2, (x - cx) @ image @ (y - cy)],
                    [(x - cx) @ image @ (y - cy), image.sum(0) @ (y - cy) ** 2]]) / total
    return total, np.array([cx, cy]), cov


def through(phase, thickness=10.0, optics=OPTICS, position=(0.0, 0.0)):
    """The pattern of a stack of phase gratings."""
    specimen = Specimen("test", np.asarray(phase, np.float32), thickness)
    waves = probe(optics, np.zeros(1), np.array([position]))
    return multislice(specimen, optics, waves, {len(phase)})[0, 0].numpy()


# --- waves


@pytest.mark.parametrize("slices", [1, 9])
def test_vacuum_is_an_even_disk_of_the_apertures_size(slices):
    """However thick: propagation alone turns phases, which no detector sees."""
    disk = vacuum(12.0, slices).numpy()
    total, center, cov = moments(disk)
    assert total == pytest.approx(1, abs=1e-4)
    assert np.abs(center - CENTER).max() < 1e-3
    level = np.median(disk[disk > disk.max() / 2])
    assert np.sqrt(total / level / np.pi) == pytest.approx(12, abs=0.25)
    x = np.arange(GRID) - CENTER
    radius = np.hypot(x[:, None], x)
    assert np.allclose(disk[radius < 11], level, rtol=1e-3)
    assert disk[radius > 13].max() < 1e-6 * level
    assert np.allclose(cov, np.eye(2) * 12**2 / 4, atol=1.5)


def test_defocus_and_position_do_not_show_in_vacuum():
    nothing = Specimen("vacuum", np.zeros((1, GRID, GRID), np.float32), 10.0)
    waves = probe(OPTICS, np.array([0.0, 400.0, -90.0]), np.array([[0.0, 0.0], [3.0, -2.0], [1.0, 5.0]]))
    patterns = multislice(nothing, OPTICS, waves, {1})[0]
    assert torch.allclose(patterns[1:], patterns[:1].expand(2, -1, -1), atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_sine_grating_diffracts_as_bessel_functions(axis):
    """A phase A cos(2 pi g x) sends J_n(A)^2 into order n, at n g along the grating's own axis."""
    strength, g = 0.9, 30
    x = np.arange(GRID) * 2 * np.pi * g / GRID
    grating = np.broadcast_to(strength * np.cos(x), (GRID, GRID))
    grating = grating.T if axis == 0 else grating
    pattern = through(grating[None], thickness=0.0)
    for order in (-2, -1, 0, 1, 2):
        at = [CENTER, CENTER]
        at[axis] += order * g
        disk = pattern[at[0] - 14:at[0] + 15, at[1] - 14:at[1] + 15]
        total, center, _ = moments(disk)
        assert total == pytest.approx(jv(order, strength) ** 2, abs=2e-4)
        assert np.abs(center - 14).max() < 0.01


def test_phase_objects_keep_electrons():
    """Only what would leave the grid is lost, and a smooth potential sends nothing there."""
    x = (np.arange(GRID) - GRID / 2) / 20
    hill = np.exp(-(x[:, None] ** 2 + x**2) / 2)
    pattern = through(np.repeat(1.5 * hill[None], 6, 0))
    assert pattern.sum() == pytest.approx(1, abs=0.01)
    disk = vacuum(12.0).numpy()
    assert np.abs(pattern - disk).sum() > 0.1  # and yet it is no vacuum


def test_specimens_keep_most_electrons_and_scatter_some():
    for seed in range(6):
        patterns, radius, kind = draw_patterns((5, seed))
        total = patterns.sum((1, 2))
        assert ((total > 0.6) & (total < 1.001)).all(), kind
        x = torch.arange(GRID) - CENTER
        outside = torch.hypot(x[:, None].float(), x.float()) > radius + 2
        scattered = (patterns * outside).sum((1, 2))
        assert (scattered > 1e-3).all(), kind


def test_an_atom_refracts_toward_itself():
    """Electrons are drawn to nuclei: a probe left of an atom (smaller x) is deflected toward larger x."""
    optics = Optics(volts=200e3, dk=0.02, aperture=10.0)
    atom = np.array([[0.0, 0.0, 0.5]])
    phase = atoms_to_phase(atom, np.zeros(1, int), np.array([29, 29, 29]), optics, 1, 2.0)
    assert phase[0, GRID // 2, GRID // 2] == phase.max() > 0
    for axis in (0, 1):
        position = np.zeros(2)
        position[axis] = -1.0
        _, center, _ = moments(through(phase, optics=optics, position=position))
        assert center[axis] > CENTER + 0.05
        assert abs(center[1 - axis] - CENTER) < 0.02


def test_phase_grows_with_thickness_not_with_slicing():
    """The variance of a glass's phase is proportional to its thickness."""
    rng = np.random.default_rng(3)
    thin = glass_phase(np.random.default_rng(3), OPTICS, 4, 5.0)
    thick = glass_phase(np.random.default_rng(3), OPTICS, 4, 20.0)
    assert thick.var() / thin.var() == pytest.approx(4, rel=0.01)
    assert abs(glass_phase(rng, OPTICS, 1, 5.0).mean()) < 3 * thin.std()


# --- positions


def spot(sigma=9.0, at=(0.0, 0.0)):
    """A round Gaussian of unit sum, sigma in samples, at an offset from CENTER: (1, GRID, GRID)."""
    x = torch.arange(GRID, dtype=torch.float64) - CENTER
    image = torch.exp(-0.5 * ((x[:, None] - at[0]) ** 2 + (x - at[1]) ** 2) / sigma**2)
    return (image / image.sum())[None].float()


def projected(intensity, origin, matrix=None, scale=1.0, shape=(128, 120)):
    matrix = torch.eye(2) if matrix is None else matrix
    return project(intensity, torch.tensor([origin]), matrix[None], torch.tensor([scale]), shape)[0].numpy()


@given(st.floats(50, 75), st.floats(50, 70), st.floats(0.6, 2.0))
@settings(max_examples=12, deadline=None, derandomize=True)
def test_projection_puts_the_beam_where_it_is_told(x, y, scale):
    total, center, cov = moments(projected(spot(6.0), (x, y), scale=scale))
    assert total == pytest.approx(1, abs=2e-3)
    assert np.abs(center - (x, y)).max() < 5e-3
    assert np.sqrt(np.diag(cov)) == pytest.approx(6.0 * scale / SAMPLES, rel=0.05)


def test_projection_keeps_rows_rows():
    """A spot off the beam along x (rows) is off along rows, by scale / 2 pixels a sample."""
    _, center, _ = moments(projected(spot(4.0, (40.0, -10.0)), (60.0, 50.0)))
    assert np.abs(center - (80.0, 45.0)).max() < 5e-3


@given(st.floats(1.0, 1.15), st.floats(0, np.pi))
@settings(max_examples=12, deadline=None, derandomize=True)
def test_an_ellipse_stretches_second_moments(ratio, theta):
    """Forward model of py4DSTEM: stretched by a/b along theta, here with areas kept."""
    eps = ratio - 1
    vector = torch.tensor([eps * np.cos(2 * theta), eps * np.sin(2 * theta)], dtype=torch.float32)
    _, center, cov = moments(projected(spot(), (61.3, 58.9), ellipse_matrix(vector)))
    along = np.array([np.cos(theta), np.sin(theta)])
    across = np.array([-np.sin(theta), np.cos(theta)])
    # What bilinear reading and the pixel's four points add is round and small.
    assert (along @ cov @ along) / (across @ cov @ across) == pytest.approx(ratio**2, rel=0.004)
    assert abs(along @ cov @ across) < 0.003 * np.trace(cov)
    assert np.sqrt(np.linalg.det(cov)) == pytest.approx((9 / SAMPLES) ** 2, rel=0.05)
    assert np.abs(center - (61.3, 58.9)).max() < 5e-3  # linear interpolation is not exact between samples


def test_a_turn_goes_from_x_toward_y():
    _, center, _ = moments(projected(spot(4.0, (40.0, 0.0)), (60.0, 50.0), rotation_matrix(torch.tensor(0.3))))
    assert np.abs(center - (60 + 20 * np.cos(0.3), 50 + 20 * np.sin(0.3))).max() < 5e-3


@given(st.floats(-0.15, 0.15), st.floats(-0.15, 0.15))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_ellipse_matrices_of_tensors_and_arrays_agree_and_keep_areas(p, q):
    matrix = ellipse_matrix(torch.tensor([p, q], dtype=torch.float64)).numpy()
    assert np.allclose(matrix, ellipse_matrix(np.array([p, q])), atol=1e-9)
    assert np.linalg.det(matrix) == pytest.approx(1, abs=1e-9)
    a, b, theta = ellipse_axes((p, q))
    c, s = np.cos(theta), np.sin(theta)
    turn = np.array([[c, -s], [s, c]])
    assert np.allclose(matrix, turn @ np.diag([np.sqrt(a / b), np.sqrt(b / a)]) @ turn.T, atol=1e-9)


def test_neighbors_may_share_a_pattern():
    """n patterns serve B views in order, as if each had been given its own."""
    two = torch.cat([spot(5.0), spot(8.0, (9.0, 4.0))])
    origin = torch.tensor([[30.0, 31.0], [33.0, 28.0], [30.5, 30.5], [29.0, 35.0]])
    matrix, scale = torch.eye(2).expand(4, 2, 2), torch.tensor([1.0, 0.8, 1.2, 1.0])
    shared = project(two, origin, matrix, scale, (64, 60))
    alone = project(two.repeat_interleave(2, 0), origin, matrix, scale, (64, 60))
    assert torch.allclose(shared, alone, atol=1e-9)


def test_soft_disk_is_half_at_its_radius():
    at = torch.tensor([[[[3.0, 4.0], [0.0, 0.0], [6.0, 8.0], [5.5, 0.0]]]])
    value = soft_disk(at, torch.tensor([5.0]), torch.tensor([0.5]))[0, 0]
    assert value[:3].tolist() == pytest.approx([0.5, 1, 0], abs=1e-6)
    assert float(value[3]) == pytest.approx(0.1587, abs=1e-3)  # one sigma outside


# --- detector


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


# --- faults


def clean_faults(batch, shape=(48, 48), **changes):
    """Faults of which none is there but those that are given."""
    middle = torch.tensor([(n - 1) / 2 for n in shape]).expand(batch, 2)
    none = draw_faults(torch.Generator().manual_seed(0), middle, torch.full((batch,), 5.0), shape, faults.NO_FAULTS)
    return replace(none, **changes)


def spread_image(batch=4, shape=(48, 48), seed=0):
    """Positive everywhere, of no symmetry."""
    return 1 + 50 * torch.rand(batch, *shape, generator=torch.Generator().manual_seed(seed)) ** 4


def coordinates_of(batch, shape=(48, 48)):
    middle = torch.tensor([(n - 1) / 2 for n in shape]).expand(batch, 2)
    return ideal_coordinates(shape, middle, torch.eye(2).expand(batch, 2, 2))


def test_without_faults_nothing_changes():
    image, none, at = spread_image(), clean_faults(4), coordinates_of(4)
    assert not any(some.any() for some in none.kinds().values())
    assert torch.equal(faults.scatter(image, none, at), image)
    assert torch.equal(faults.diffract(image, none, at, torch.full((4,), 9.0)), image)
    shaded, masked = faults.shade(image, none)
    assert torch.equal(shaded, image) and not masked.any()
    assert torch.equal(faults.record(image, image, none, torch.Generator().manual_seed(1)), image)


def test_faults_come_as_often_as_they_should_and_from_their_seed():
    def draw(seed, **options):
        generator = torch.Generator().manual_seed(seed)
        return draw_faults(generator, torch.full((4000, 2), 20.0), torch.full((4000,), 6.0), (48, 40),
                           faults.Rates(moved=0.2), **options)

    one, same, other = draw(1).kinds(), draw(1).kinds(), draw(2).kinds()
    for name, rate in vars(faults.Rates(moved=0.2)).items():
        share = float(one[name].float().mean())
        seen = {"bands": 0.97, "hits": 0.97, "sides": 0.87}.get(name, 1.0)  # all parts of one may come out as none
        assert share == pytest.approx(rate * seen, abs=4 * (rate / 4000) ** 0.5), name
        assert torch.equal(one[name], same[name]) and not torch.equal(one[name], other[name])
    few = draw(1, can_hide=torch.arange(4000) < 2000).kinds()
    assert few["stop"][:2000].any() and few["sides"][:2000].any()
    assert not few["stop"][2000:].any() and not few["sides"][2000:].any()
    assert few["dark"][2000:].any()


def test_a_saturated_pattern_never_exceeds_its_level():
    image = spread_image()
    clipped = faults.record(image, image, clean_faults(4, saturated=torch.tensor([0.5, 0.9, torch.inf, 0.2])),
                            torch.Generator().manual_seed(0))
    peak = image.amax((1, 2))
    assert clipped.amax((1, 2)).tolist() == pytest.approx((peak * torch.tensor([0.5, 0.9, 1.0, 0.2])).tolist())
    under = image < (0.2 * peak)[:, None, None]
    assert torch.equal(clipped[under], image[under])


def test_wrapped_counts_are_what_is_left_of_them():
    image = spread_image().round()
    image[0, 0, 0] = -3.0  # below its offset a camera may read anything; that does not wrap
    level = 0.3 * image.amax((1, 2))
    wrapped = faults.record(image, image, clean_faults(4, wrapped=torch.full((4,), 0.3)),
                            torch.Generator().manual_seed(0))
    turns = (image - wrapped) / level[:, None, None]
    assert (wrapped < level[:, None, None]).all() and turns.max() > 1.5
    assert torch.allclose(turns, turns.round(), atol=1e-4)
    assert torch.equal(wrapped[turns < 0.5], image[turns < 0.5])


def test_smear_leaves_each_column_its_charge_and_trails_its_way():
    image = torch.zeros(3, 40, 40)
    image[:, 15, 7] = 1000.0
    smear = torch.tensor([[0.2, 8.0, 1.0], [0.2, 8.0, -1.0], [0.2, 1e4, 0.0]])
    out, _ = faults.shade(image, clean_faults(3, (40, 40), smear=smear))
    assert torch.allclose(out.sum(1), image.sum(1), rtol=1e-5)
    assert not out[:, :, :7].any() and not out[:, :, 8:].any()
    assert (out[0, 16:, 7] > 0).all() and not out[0, :15, 7].any()  # rows after the spot
    assert (out[1, :15, 7] > 0).all() and not out[1, 16:, 7].any()
    assert out[2, [0, 39], 7].tolist() == pytest.approx([5, 5], rel=0.02)  # an even trail: a part of 1 / 40 each
    trail = out[0, 16:24, 7]
    assert (trail[1:] / trail[:-1]).tolist() == pytest.approx([np.exp(-1 / 8)] * 7, rel=1e-4)


def beam_stop(**changes):
    given = dict(at=[[20.0, 30.0]], angle=[0.0], width=[4.0], slope=[0.0], wire=[0.0], soft=[0.1], leak=[0.0],
                 kind=[faults.NEEDLE_STOP], in_mask=[True]) | changes
    return faults.BeamStop(**{name: torch.tensor(value) for name, value in given.items()})


def test_beam_stops_hide_what_is_behind_them_and_masks_know_it_or_not():
    image = torch.full((1, 48, 48), 100.0)

    def behind(**changes):
        out, masked = faults.shade(image, clean_faults(1, stop=beam_stop(**changes)))
        return out[0], masked[0]

    out, masked = behind()
    # A needle along +x from its tip at row 20 - 4: held at the last row, 9 px wide.
    assert out[24:, 30].max() < 1 and out[47, 30] < 1 and out[18, 30] < 1
    assert out[14, 30] > 99 and out[30, 24] > 99 and out[30, 36] > 99 and out[0, 0] > 99
    assert masked[out < 50].all() and not masked[10, 30] and not masked[30, 20]
    assert masked.float().mean() < 0.2
    unknown, nothing = behind(in_mask=[False])
    assert torch.equal(unknown, out) and not nothing.any()
    leaky, _ = behind(leak=[0.1])
    assert leaky[30, 30] == pytest.approx(10, rel=1e-3) and leaky[0, 0] == pytest.approx(100)
    bar, _ = behind(kind=[faults.BAR_STOP])
    assert bar[:, 30].max() < 1 and bar[:, 20].min() > 99
    disk, _ = behind(kind=[faults.ROUND_STOP], width=[6.0])
    assert float((100 - disk).sum() / 100) == pytest.approx(np.pi * 36, rel=0.03)
    held, _ = behind(kind=[faults.ROUND_STOP], width=[6.0], wire=[1.5])
    assert (held[26:, 30] < 1).all() and held[10, 30] > 99 and held[40, 33] > 99
    wedge, _ = behind(slope=[0.3])
    assert (100 - wedge[45]).sum() > 1.5 * (100 - wedge[22]).sum()
    turned, _ = behind(angle=[np.pi / 2])
    assert turned[20, 40] < 1 and turned[20, 20] > 99 and turned[40, 30] > 99  # along +y


def test_gaps_between_chips_cross_and_count_what_they_count():
    cross = torch.tensor([[20.0, 31.0, 1.6, 0.0], [20.0, 31.0, 1.6, 2.5]])
    image = spread_image(2)
    out, masked = faults.shade(image, clean_faults(2, cross=cross, cross_in_mask=torch.tensor([True, False])))
    gap = torch.zeros(48, 48, dtype=torch.bool)
    gap[19:22], gap[:, 30:33] = True, True
    assert torch.equal(out[:, ~gap], image[:, ~gap])
    assert not out[0, gap].any() and torch.allclose(out[1, gap], 2.5 * image[1, gap])
    assert torch.equal(masked[0], gap) and not masked[1].any()


def test_past_the_detectors_sides_nothing_is_seen_and_that_is_known():
    out, masked = faults.shade(spread_image(1), clean_faults(1, sides=torch.tensor([[3.0, 0.0, 0.0, 5.0]])))
    seen = torch.zeros(48, 48, dtype=torch.bool)
    seen[3:, :43] = True
    assert torch.equal(masked[0], ~seen) and torch.equal(out[0] > 0, seen)


def test_moved_copies_spread_a_beam_about_its_place():
    image = torch.zeros(2, 61, 61)
    image[:, 33, 28] = 100.0
    moved = torch.zeros(2, faults.MAX_COPIES, 2)
    moved[0, :8], moved[0, 8:] = torch.tensor([2.0, -1.5]), torch.tensor([-2.0, 1.5])
    out = faults.scatter(image, clean_faults(2, (61, 61), moved=moved), coordinates_of(2, (61, 61)))
    assert torch.equal(out[1], image[1])
    total, center, cov = moments(out[0])
    assert total == pytest.approx(100, rel=1e-5) and np.abs(center - (33, 28)).max() < 1e-4
    assert cov[0, 1] == pytest.approx(-3, abs=0.01)  # of the copies: 2 * -1.5
    assert out[0, 35, 26:28].sum() == pytest.approx(50, rel=1e-4)  # +2 rows, -1.5 columns
    drawn = draw_faults(torch.Generator().manual_seed(3), torch.full((50, 2), 30.0), torch.full((50,), 5.0), (61, 61),
                        faults.Rates(moved=1.0)).moved
    assert drawn.mean(1).abs().max() < 1e-4
    assert 0.3 < drawn.abs().amax((1, 2)).min() <= drawn.abs().max() < faults.MAX_COPY_SHIFT_PX


def test_a_dark_direct_beam_is_dark_and_all_else_as_it_was():
    image, at = spread_image(2), coordinates_of(2)
    radius = torch.tensor([6.0, 9.0])
    out = faults.diffract(image, clean_faults(2, dark=torch.tensor([0.05, 1.0])), at, radius)
    distance = torch.linalg.vector_norm(at[0], dim=-1)
    assert torch.allclose(out[0, distance < 6], 0.05 * image[0, distance < 6])
    assert torch.equal(out[0, distance > 7.5], image[0, distance > 7.5]) and torch.equal(out[1], image[1])


def test_bragg_disks_overlap_where_their_lattice_is_finer_than_they_are_wide():
    """Those of the orders +-(1, 0) of a lattice of 9 px, of 6 px radius: between them both are seen."""
    strength = torch.zeros(2, len(faults.BRAGG_ORDERS))
    chosen = [faults.BRAGG_ORDERS.tolist().index([h, 0]) for h in (0, 1)]
    strength[0, chosen[0]], strength[0, chosen[1]] = 0.5, 2.0
    base = torch.tensor([[9.0, 0.0], [0.0, 11.0]]).expand(2, 2, 2)
    given, at = clean_faults(2, disks=strength, lattice=base), coordinates_of(2)
    added = faults.diffract(torch.zeros(2, 48, 48), given, at, torch.full((2,), 6.0))
    assert not added[1].any()
    total, center, _ = moments(added[0])
    assert total == pytest.approx(2.5, rel=0.02)
    assert center == pytest.approx([23.5 + 2.0 / 2.5 * 9, 23.5], abs=0.02)  # +x is down the rows
    level = added[0, [20, 28, 37], 24] * np.pi * 36
    assert level.tolist() == pytest.approx([0.5, 2.5, 2.0], rel=0.01)
    drawn = draw_faults(torch.Generator().manual_seed(1), torch.full((300, 2), 20.0), torch.full((300,), 6.0),
                        (48, 48), faults.Rates(disks=1.0))
    assert not drawn.disks[:, faults.BRAGG_ORDERS.abs().sum(1) == 0].any()  # the direct beam is the bank's own
    shortest = torch.linalg.vector_norm(drawn.lattice, dim=-1).amin(1)
    assert 0.2 < (shortest < 12).float().mean() < 0.9 and (drawn.disks.amax(1) > 1).any()


def test_bands_are_bright_between_their_edges():
    image, at = torch.full((2, 48, 48), 10.0), coordinates_of(2)
    bands = torch.zeros(2, faults.MAX_BANDS, 4)
    bands[0, 0] = torch.tensor([0.5, 0.0, 8.0, 5.0])  # across x, 8 px from the direct beam, 10 px wide
    out = faults.scatter(image, clean_faults(2, bands=bands), at)
    assert torch.equal(out[1], image[1])
    rows = out[0].mean(1)
    assert torch.allclose(out[0], rows[:, None].expand(48, 48), rtol=1e-5)
    assert float(rows[31]) == pytest.approx(15, rel=0.03) and float(rows[:20].mean()) == pytest.approx(10, rel=0.02)
    assert rows[36] > 15 and rows[26] < 12.5  # its excess line and its deficit line
    deep = clean_faults(2, bands=bands * torch.tensor([-9.0, 1, 1, 1]))
    assert (faults.scatter(image, deep, at) > 0).all()


def test_hits_are_few_pixels_of_huge_counts_and_units_may_be_wrong():
    image = torch.full((2, 48, 48), 2.0)
    hits = torch.zeros(2, faults.MAX_HITS)
    hits[0, :3] = 100.0
    out = faults.record(image, image, clean_faults(2, hits=hits), torch.Generator().manual_seed(2))
    struck = out[0] != 2
    assert torch.equal(out[1], image[1]) and 1 <= struck.sum() <= 9 and out[0].max() > 50 and out.min() >= 2
    wrong = clean_faults(2, gain=torch.tensor([3.0, 1.0]), offset=torch.tensor([0.0, 7.0]))
    assert torch.equal(faults.record(image, image, wrong, torch.Generator())[:, 0, 0], torch.tensor([6.0, 9.0]))
    striped = faults.record(image, image, clean_faults(2, columns=torch.tensor([2.0, 0.0])),
                            torch.Generator().manual_seed(4))
    assert torch.equal(striped[0], striped[0, :1].expand(48, 48)) and 1 < striped[0, 0].std() < 3


@pytest.mark.parametrize("aperture", [6.0, 9.3, 14.7, 22.0])
def test_the_radius_of_a_bank_is_that_of_the_even_disk_with_as_many_electrons(aperture):
    """The aperture's edge falls linearly in amplitude, as a square in intensity."""
    areas = [vacuum(aperture + step) for step in np.arange(-0.5, 0.5, 0.1)]  # the grid's own steps average out
    found = np.mean([np.sqrt(float(a.sum() / a[CENTER - 2:CENTER + 3, CENTER - 2:CENTER + 3].mean()) / np.pi)
                     for a in areas]) + 0.05
    bank = bank_of(vacuum(aperture)[None], aperture)
    assert found == pytest.approx(float(bank.radius), abs=0.03)
    assert abs(found - aperture) > 0.1
