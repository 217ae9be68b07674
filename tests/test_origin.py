"""Origins on simulated scans with known truth: where the direct beam is, how sure, and when there is none."""

import numpy as np
import pytest
import torch
from scans import CCD, distance, numbers_of, origin_map, simulated
from scipy.special import erfc

from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.core.flags import Flag
from py4dstem_prenet.core.noise import NoiseModel
from py4dstem_prenet.core.scan import as_scan
from py4dstem_prenet.descan.fit import fit_origin
from py4dstem_prenet.detector import estimate_noise
from py4dstem_prenet.fits import Aperture
from py4dstem_prenet.networks import weights
from py4dstem_prenet.origin import BeamLocator, measure as module, no_origin, pooled_origin
from py4dstem_prenet.origin.beam import Beam, Located
from py4dstem_prenet.origin.measure import measure_origin

CASES = {  # options of a scan, and the mean error in px that is allowed
    "counting": ({}, 0.08),
    "other grains": (dict(seed=1), 0.1),
    "camera": (CCD, 0.08),
    "not square": (dict(shape=(64, 96), radius=5.0), 0.07),
    "large disk": (dict(scan=(4, 4), shape=(256, 256), radius=18.0, dose=10_000.0), 0.1),
    "small disk": (dict(radius=2.0), 0.07),
    "one row": (dict(scan=(1, 9)), 0.08),
    "one pattern": (dict(scan=(1, 1)), 0.2),
    "few electrons": (dict(dose=300.0), 0.22),
}
QUICK = {"counting"}  # the others come in the full run
FAR = 1.0  # px


@pytest.fixture(scope="module")
def measured():
    """OriginMaps of unchanged scans, each measured once."""
    kept = {}

    def measure(**options):
        key = tuple(sorted(options.items()))
        if key not in kept:
            kept[key] = measure_origin(simulated(**options).counts, progress=False)
        return kept[key]

    return measure


# --- accuracy


@pytest.mark.parametrize("case", [
    pytest.param(case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES])
def test_the_direct_beam_is_found(case, measured):
    options, bound = CASES[case]
    scan, origin = simulated(**options), measured(**options)
    assert origin.found and origin.valid.all() and origin.decision.has("beam_found")
    error = distance(origin, scan.truth)
    assert error.mean() < bound
    assert (error > FAR).mean() == 0
    assert origin.radius == pytest.approx(scan.truth["radius"], rel=0.03)
    if np.isfinite(origin.radius_sigma):
        assert abs(origin.radius - scan.truth["radius"]) < 5 * origin.radius_sigma < 0.1 * origin.radius


@pytest.mark.slow
def test_an_untrained_network_would_not_pass(monkeypatch):
    """The bounds above are no formality."""
    torch.manual_seed(0)
    monkeypatch.setattr(module, "load", lambda *_: weights.build("center").eval())
    scan = simulated()
    origin = measure_origin(scan.counts, progress=False)
    assert not origin.found or distance(origin, scan.truth).mean() > 5 * CASES["counting"][1]


@pytest.mark.slow
def test_sigma_means_sigma(measured):
    """Errors in units of their sigma are of the order of one, at any dose, and more electrons mean less sigma."""
    sigmas = []
    for options in (dict(dose=300.0), {}, dict(seed=1), CCD):
        scan, origin = simulated(**options), measured(**options)
        z = np.stack([(origin.qx0 - scan.truth["qx0"]) / origin.sigma_qx0,
                      (origin.qy0 - scan.truth["qy0"]) / origin.sigma_qy0])
        assert 0.3 < np.sqrt(np.mean(z**2)) < 2.5
        assert np.mean(np.abs(z) > 4) < 0.05
        sigmas.append(np.median(origin.sigma_qx0))
    assert sigmas[0] > 1.4 * sigmas[1]


@pytest.mark.slow
def test_rows_are_x_and_columns_are_y(measured):
    """The transposed scan has the transposed answer."""
    scan, origin = simulated(), measured()
    turned = measure_origin(np.ascontiguousarray(scan.counts.swapaxes(2, 3)), progress=False)
    for one, other, sigma in ((origin.qx0, turned.qy0, origin.sigma_qx0), (origin.qy0, turned.qx0, origin.sigma_qy0)):
        assert np.abs(one - other).max() < 0.15
        assert (np.abs(one - other) < 3 * sigma).all()
    across = np.hypot(origin.qx0 - turned.qx0, origin.qy0 - turned.qy0)
    assert across.mean() > 1  # the truth lies far enough off the diagonal for a mix-up to show


@pytest.mark.slow
def test_scan_axes_are_not_mixed_up(measured):
    """Transposing the order of positions transposes the maps, and nothing else."""
    scan, origin = simulated(), measured()
    some = np.ascontiguousarray(scan.counts[:2].swapaxes(0, 1))  # (6, 2): not a square that hides a mix-up
    turned = measure_origin(some, progress=False)
    assert turned.qx0.shape == (6, 2)
    assert np.abs(turned.qx0.T - origin.qx0[:2]).max() < 0.15 and np.abs(turned.qy0.T - origin.qy0[:2]).max() < 0.15


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "dtype"), [(0.01, np.float32), (37, ">i4")])
def test_the_unit_of_counts_does_not_matter(factor, dtype, measured):
    origin = measured()
    scaled = measure_origin((simulated().counts * factor).astype(dtype), progress=False)
    assert np.abs(scaled.qx0 - origin.qx0).max() < 0.05 and np.abs(scaled.qy0 - origin.qy0).max() < 0.05


@pytest.mark.slow
def test_dark_subtracted_cameras_have_negative_values(measured):
    origin, scan = measured(**CCD), simulated(**CCD)
    counts = scan.counts.astype(np.float32) - 100
    assert counts.min() < 0
    subtracted = measure_origin(counts, progress=False)
    assert np.abs(subtracted.qx0 - origin.qx0).max() < 0.1
    assert distance(subtracted, scan.truth).mean() < CASES["camera"][1]


@pytest.mark.slow
def test_data_on_disk_give_what_data_in_memory_give(measured, tmp_path):
    np.save(tmp_path / "scan.npy", simulated().counts)
    lazy = measure_origin(np.load(tmp_path / "scan.npy", mmap_mode="r"), progress=False)
    assert np.array_equal(lazy.qx0, measured().qx0) and np.array_equal(lazy.sigma_qy0, measured().sigma_qy0)


# --- what stands in the way


def with_disks(share, strength, at=(26.0, 9.0)):
    """Counts with a Bragg disk `strength` times as bright as the direct beam in a share of the positions."""
    scan, rng = simulated(), np.random.default_rng(0)
    expected = np.array(scan.clean)
    x, y = (np.arange(n) for n in expected.shape[2:])
    for i, j in np.ndindex(expected.shape[:2]):
        dx, dy = x - scan.truth["qx0"][i, j], y - scan.truth["qy0"][i, j]
        direct = np.hypot(dx[:, None], dy) < scan.truth["radius"]
        distance = np.hypot(dx[:, None] - at[0], dy - at[1]) - scan.truth["radius"]
        if rng.random() < share:
            expected[i, j] += strength * expected[i, j][direct].mean() * 0.5 * erfc(distance)
    return rng.poisson(expected).astype(np.uint16)


@pytest.mark.slow
@pytest.mark.parametrize("strength", [1.5, 3.0])
def test_a_brighter_bragg_disk_is_not_the_direct_beam(strength):
    counts = with_disks(0.3, strength)
    error = distance(measure_origin(counts, progress=False), simulated().truth)
    assert error.mean() < 0.2 and error.max() < FAR
    # and yet the brightest thing in these patterns often is another one
    truth = simulated().truth
    sums = counts.reshape(36, 16, 8, 16, 8).sum((2, 4)).reshape(36, -1)
    brightest = np.stack(np.unravel_index(sums.argmax(1), (16, 16)), -1) * 8 + 3.5
    far = np.hypot(brightest[:, 0] - truth["qx0"].ravel(), brightest[:, 1] - truth["qy0"].ravel()) > 15
    assert far.mean() > 0.2


@pytest.mark.slow
def test_a_dead_quadrant():
    scan = simulated()
    good = np.ones(scan.counts.shape[2:], bool)
    good[:62, :62] = False
    counts = np.where(good, scan.counts, 0)
    origin = measure_origin(counts, mask=good, progress=False)
    error = distance(origin, scan.truth)
    assert error.mean() < 0.25 and error.max() < FAR
    # What lies behind the mask is not looked at, whatever it holds.
    wild = measure_origin(np.where(good, scan.counts, 5000), mask=good, progress=False)
    assert distance(wild, scan.truth).mean() < 0.25


@pytest.mark.slow
def test_a_beam_stop_that_the_user_marks():
    """Half a disk is left to see, and half its edge is enough; the sigma says how good that is."""
    scan = simulated()
    x, y = (round(scan.truth[q].mean()) for q in ("qx0", "qy0"))
    good = np.ones(scan.counts.shape[2:], bool)
    good[x - 3:x + 4, :y + 3] = False
    counts = np.where(good, scan.counts, 0)
    told, not_told = (measure_origin(counts, mask=mask, progress=False) for mask in (good, None))
    error = distance(told, scan.truth)
    assert error.mean() < 0.12 and error.max() < 0.4
    assert error.mean() < distance(not_told, scan.truth).mean()
    z = (told.qx0 - scan.truth["qx0"]) / told.sigma_qx0, (told.qy0 - scan.truth["qy0"]) / told.sigma_qy0
    assert np.sqrt(np.mean(np.square(z))) < 2
    assert np.median(told.sigma_qx0) > np.median(measure_origin(scan.counts, progress=False).sigma_qx0)


BLANK = np.zeros((6, 6), bool)
BLANK[1, 2] = BLANK[3:5, 4] = True


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, CCD], ids=["counting", "camera"])
def test_blanked_frames_are_told_from_the_others(options):
    scan = simulated(**options)
    counts = np.array(scan.counts)
    noise = np.random.default_rng(0).normal(scan.truth["offset"], scan.truth["readout"], counts[BLANK].shape)
    counts[BLANK] = np.clip(noise, 0, None)
    origin = measure_origin(counts, progress=False)
    assert np.array_equal(origin.valid, ~BLANK)
    assert numbers_of(origin, "beam_missing") == {"count": 3, "total": 36}
    assert distance(origin, scan.truth)[~BLANK].max() < FAR
    # and the fitted surface goes through them undisturbed
    assert distance(fit_origin(origin), scan.truth).max() < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("dose", [300.0, 1000.0])
def test_a_background_without_a_beam_has_no_place(dose):
    """Half as many electrons as in the others, anywhere in the pattern: most of the scan, and not dark."""
    scan, blank = simulated(dose=dose), np.zeros((6, 6), bool)
    blank[:4] = True
    blank[1, 1] = blank[3, 4] = False
    counts = np.array(scan.counts)
    counts[blank] = np.random.default_rng(0).poisson(0.5 * dose / 128**2, counts[blank].shape)
    origin = measure_origin(counts, progress=False)
    assert origin.found and not origin.valid[blank].any() and origin.valid[~blank].mean() > 0.9
    assert numbers_of(origin, "beam_missing") == {"count": int((~origin.valid).sum()), "total": 36}
    assert distance(origin, scan.truth)[origin.valid].max() < FAR


@pytest.mark.parametrize(("electrons", "missing", "found"), [
    (20_000.0, 0, True), (20_000.0, 20, False), (10.0, 20, True), (10.0, 39, False)])
def test_a_direct_beam_that_is_hardly_known_is_doubted(electrons, missing, found):
    """Places known to a pixel, as in thick crystals: that is told, and with many patterns that show no beam, though
    their electrons are there, there is none. At ten electrons it is chance, unless most show none."""
    rng = np.random.default_rng(0)
    data = rng.poisson(electrons / 64**2, (8, 8, 64, 64)).astype(np.uint16)
    noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((64, 64), bool), True, electrons)
    at, seen = 31 + rng.normal(0, 0.8, (64, 2)), np.arange(64) >= missing
    located = Located(at, np.full((64, 2), 0.9), np.full(64, electrons), seen)
    beam = Beam("cpu", noise, Aperture(3.0, 0.3, (0.0, 0.0)))
    origin = module.decide_origin(as_scan(data), noise, located, beam)
    assert origin.found is found and origin.decision.has("position_uncertain") == found
    assert origin.decision.has("beam_elsewhere") != found


@pytest.mark.slow
def test_a_large_disk_of_few_electrons_is_located_in_larger_sums():
    """Four electrons in a pattern, one in a disk of 14 px radius: sums over 7 x 7 positions do not suffice."""
    rng = np.random.default_rng(0)
    u, v = np.meshgrid(np.linspace(-1, 1, 33), np.linspace(-1, 1, 33), indexing="ij")
    qx0, qy0 = 47 + 0.8 * u, 49 - 0.5 * v + 0.4 * u
    x, y = np.indices((96, 96))
    counts = np.zeros((33, 33, 96, 96), np.uint8)
    for i in np.ndindex(33, 33):
        disk = (14.5 - np.hypot(x - qx0[i], y - qy0[i])).clip(0, 1) / (np.pi * 14**2)
        counts[i] = rng.poisson(4 * (0.75 / 96**2 + 0.25 * disk))
    scan = as_scan(counts)
    refused = no_origin(scan.scan_shape, Flag("nothing_located"))
    origin = pooled_origin(scan, estimate_noise(scan), BeamLocator, refused)
    assert origin.found and origin.decision.has("pooled_positions") and not origin.decision.has("position_uncertain")
    assert numbers_of(origin, "pooled_positions")["side"] > 7
    error = np.stack([origin.qx0 - qx0, origin.qy0 - qy0])[:, origin.valid]
    sigma = np.stack([origin.sigma_qx0, origin.sigma_qy0])[:, origin.valid]
    assert np.abs(error).max() < 1.5 and np.sqrt(np.mean((error / sigma) ** 2)) < 2


@pytest.mark.parametrize("kind", ["poisson", "sparse", "camera"])
def test_noise_alone_is_no_beam(kind):
    rng = np.random.default_rng(1)
    shape = (5, 5, 96, 96)
    counts = {"poisson": lambda: rng.poisson(1.0, shape).astype(np.uint16),
              "sparse": lambda: rng.poisson(0.01, shape).astype(np.uint8),
              "camera": lambda: rng.normal(100, 5, shape).astype(np.float32)}[kind]()
    origin = measure_origin(counts, progress=False)
    assert not origin.found and not origin.valid.any() and np.isnan(origin.qx0).all()
    assert origin.qx0.shape == origin.sigma_qy0.shape == shape[:2]
    assert origin.decision.has("no_beam", "no_electrons")


def test_nothing_at_all_is_refused():
    with pytest.raises(PrenetError):
        measure_origin(np.zeros((2, 2, 64, 64), np.uint16), progress=False)


@pytest.mark.parametrize("mask", [np.ones((128, 127), bool), np.ones((128, 128)), np.ones(128, bool)])
def test_a_mask_of_another_shape_or_type_is_refused(mask):
    with pytest.raises(PrenetError):
        measure_origin(simulated().counts, mask=mask, progress=False)


@pytest.mark.slow
def test_nothing_is_written_into_the_data():
    counts = np.array(simulated().counts)
    before = counts.copy()
    counts.flags.writeable = False
    measure_origin(counts, mask=np.ones((128, 128), bool), progress=False)
    assert np.array_equal(counts, before)


# --- the descan


@pytest.mark.slow
def test_the_fit_recovers_the_descan(measured):
    for options in ({}, dict(seed=1), CCD):
        scan, origin = simulated(**options), measured(**options)
        fit = fit_origin(origin)
        assert fit.accepted
        assert distance(fit, scan.truth).mean() < min(0.1, 0.8 * distance(origin, scan.truth).mean())
        assert np.allclose(fit.residual_qx0, origin.qx0 - fit.qx0) and np.allclose(
            fit.residual_qy0, origin.qy0 - fit.qy0)
        assert (fit.sigma_qx0 < origin.sigma_qx0).mean() > 0.8  # a surface is surer than a point of it


@pytest.mark.slow
def test_wrong_disks_do_not_move_the_surface(measured):
    scan, origin = simulated(), measured()
    qx0, qy0 = origin.qx0.copy(), origin.qy0.copy()
    qx0[0, 3], qy0[4, 4] = qx0[0, 3] + 26, qy0[4, 4] - 19
    fit = fit_origin(origin_map(qx0, qy0, origin.sigma_qx0, origin.sigma_qy0, origin.valid))
    assert distance(fit, scan.truth).max() < 0.3


@pytest.mark.slow
def test_a_named_model_is_used_and_an_unknown_one_refused(measured):
    fit = fit_origin(measured(), "plane")
    assert fit.model == "plane"
    # A plane has no second differences.
    assert np.abs(np.diff(fit.qx0, 2, axis=0)).max() < 1e-6 and np.abs(np.diff(fit.qy0, 2, axis=1)).max() < 1e-6
    with pytest.raises(PrenetError):
        fit_origin(measured(), "dance")


def test_patterns_far_from_the_guess_are_looked_at_again_in_batches(monkeypatch):
    """However many there are: memory is that of one batch."""
    seen = []

    def look(self, patterns, guess, reference):
        seen.append(len(patterns))
        return np.full((len(patterns), 2), 20.0), np.full((len(patterns), 2), 0.1)

    monkeypatch.setattr(Beam, "_look", look)
    beam = Beam("cpu", NoiseModel(1.0, 0.0, 0.0, np.zeros((32, 32), bool), True, 1e3), Aperture(5.0, 0.5, (0.0, 0.0)))
    at, _ = beam.predict(np.zeros((700, 32, 32), np.uint8), np.zeros((700, 2)))
    assert (at == 20).all() and sum(seen) == 1400 and max(seen) <= 256
