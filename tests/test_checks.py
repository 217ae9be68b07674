"""Split counts and what follows from them, against scans whose truth is known."""

import types
from dataclasses import replace
from functools import partial

import numpy as np
import py4DSTEM
import pytest
from scans import CCD, numbers_of, others_slow, simulated
from scipy.ndimage import gaussian_filter

from py4dstem_prenet import denoising
from py4dstem_prenet.core import Ellipse
from py4dstem_prenet.core.flags import Decision, Flag, has_flag
from py4dstem_prenet.core.noise import NoiseModel
from py4dstem_prenet.core.robust import jackknife
from py4dstem_prenet.core.scan import as_scan
from py4dstem_prenet.denoising import checks
from py4dstem_prenet.denoising.checks import SplitBlocks, check_denoising
from py4dstem_prenet.detector.estimate import estimate_noise
from py4dstem_prenet.detector.independence import check_independence
from py4dstem_prenet.detector.splitting import of_part, places, read_block, split
from py4dstem_prenet.report.verdicts import make_verdict
from py4dstem_prenet.review import ellipse_flags

SMALL = dict(shape=(64, 64), radius=4.0)
CAMERA = CCD | SMALL | dict(gain=12.0, readout=4.0)


def model(scan):
    """The noise model of a simulated scan, as it was simulated."""
    t = scan.truth
    return NoiseModel(t["gain"], t["offset"], t["readout"], np.zeros(scan.counts.shape[2:], bool), t["readout"] == 0,
                      t["dose"])


def electrons(values, noise):
    return (np.asarray(values, float) - noise.offset) / noise.gain


def stand_in(monkeypatch, estimate):
    """Put a function of (electrons, noise model) in the place of `denoise`."""

    def fake(cube, noise, **_):
        return types.SimpleNamespace(data=estimate(electrons(cube.data, noise), noise) * noise.gain + noise.offset)

    monkeypatch.setattr(denoising, "denoise", fake)


# --- splitting ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("fraction", [0.5, 0.25])
@pytest.mark.parametrize(("gain", "offset", "readout"), [(1, 0, 0), (3, 0, 0), (12, 100, 4), (20, 5, 60)],
                         ids=["counting", "scaled counts", "camera", "noisy camera"])
def test_parts_are_independent_scans_of_a_part_of_the_dose(fraction, gain, offset, readout):
    """Over many exposures of one pattern: mean, variance and covariance of the parts, bright and dark."""
    rng = np.random.default_rng(1)
    x, y = np.meshgrid(np.arange(64), np.arange(64), indexing="ij")
    truth = 0.02 + 60.0 * (np.hypot(x - 20.3, y - 30.1) < 9) + 4 * np.exp(-np.hypot(x - 45, y - 40) ** 2 / 50)
    values = rng.poisson(truth, (400, 64, 64)) * gain + offset
    counting = readout == 0
    if not counting:
        values = np.rint(values + rng.normal(0, readout, values.shape))
    noise = NoiseModel(gain, offset, readout, np.zeros((64, 64), bool), counting, truth.sum())
    first, second = (electrons(part, noise) for part in split(values, noise, rng, fraction))
    assert np.allclose(first + second, electrons(values, noise), atol=1e-3)
    part = of_part(noise, fraction)
    assert part.dose == fraction * noise.dose
    expected = part.variance(fraction * truth)
    for some in (truth > 10, truth < 1):
        for image, share in ((first, fraction), (second, 1 - fraction)):
            error = np.sqrt(part.variance(share * truth)[some].mean() / 400 / some.sum())
            assert abs((image - share * truth)[:, some].mean()) < 5 * error
        scale = expected[some].mean()
        assert first.var(0)[some].mean() == pytest.approx(scale, rel=0.05)
        covariance = ((first - fraction * truth) * (second - (1 - fraction) * truth)).mean(0)
        assert abs(covariance[some].mean()) < 0.05 * scale  # undivided noise gives 1 - fraction


def test_counts_stay_counts():
    counts = np.random.default_rng(0).poisson(3, (2, 3, 32, 32)).astype(np.uint16)
    before = counts.copy()
    noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((32, 32), bool), True, 3.0)
    first, second = split(counts, noise, np.random.default_rng(1))
    assert first.dtype == second.dtype == np.uint16
    assert np.array_equal(first + second, before) and np.array_equal(counts, before)
    assert np.array_equal(first, split(counts, noise, np.random.default_rng(1))[0])


# --- errors without truth -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [SMALL | dict(dose=300.0), SMALL | dict(dose=30_000.0), CAMERA | dict(dose=3000.0)],
                         ids=["300 e", "30 ke", "camera"])
@pytest.mark.parametrize("fraction", others_slow([0.5, 0.25]))
def test_the_estimated_error_is_the_true_one(options, fraction):
    scan = simulated(**options)
    noise = model(scan)
    level = SplitBlocks([scan.counts], noise, fraction, np.random.default_rng(3))
    truth = fraction * scan.clean.reshape(level.electrons.shape)
    raw = ((level.electrons - truth) ** 2).sum()
    smooth = gaussian_filter(level.electrons, (0, 1, 1))
    for estimate in (truth, smooth, gaussian_filter(truth, (0, 2, 2)), 1.3 * truth):
        parts, true = level.squared(estimate), ((estimate - truth) ** 2).sum()
        assert jackknife(parts) < 0.1 * (raw + true)
        assert abs(parts[0] - true) < 4 * jackknife(parts)
    assert level.ratio(level.electrons)[0] == pytest.approx(1, abs=4 * jackknife(level.ratio(level.electrons)))
    # The truth predicts held-out electrons better than anything that was not told.
    assert level.deviance(truth)[0] < min(level.deviance(e)[0] for e in (smooth, level.electrons, 1.1 * truth))


@pytest.mark.slow
@pytest.mark.parametrize("options", [SMALL | dict(dose=3e3), CAMERA | dict(dose=1e4)], ids=["counting", "camera"])
def test_what_denoising_is_worth_is_what_it_is_worth(monkeypatch, options):
    alone = partial(denoising.denoise, scan_aware=False, progress=False)  # the same for both scans
    monkeypatch.setattr(denoising, "denoise", lambda cube, noise, **_: alone(cube, noise))
    scan = simulated(**options)
    noise = model(scan)
    datacube = py4DSTEM.DataCube(scan.counts)
    check = check_denoising(datacube, noise)
    assert check.valid and has_flag(check.flags, "denoising_lowers_error"), check.reason
    assert check.positions == 36
    half = simulated(**options | dict(dose=options["dose"] / 2, readout=scan.truth["readout"] / 2**0.5))
    clean = electrons(denoising.denoise(py4DSTEM.DataCube(half.counts), of_part(noise)).data, noise)
    raw = ((electrons(half.counts, noise) - half.clean) ** 2).sum()
    assert check.errors["denoised"] == pytest.approx(((clean - half.clean) ** 2).sum() / raw, rel=0.25)
    blurred = min(((gaussian_filter(electrons(half.counts, noise), (0, 0, s, s)) - half.clean) ** 2).sum()
                  for s in checks.GAUSSIAN_SIGMAS_PX)
    assert check.errors["gaussian"] == pytest.approx(blurred / raw, rel=0.25)
    # Denoising gains less at the whole dose than at half of it, but no less than half of that.
    assert 0.4 * check.worth_at_half < check.worth < 1.2 * check.worth_at_half
    assert check.deviances["denoised"] < min(check.deviances[key] for key in ("raw", "gaussian", "svd"))


@pytest.mark.slow
def test_the_truth_itself_is_found_to_be_worth_much(monkeypatch):
    scan = simulated(**SMALL, dose=3000.0)
    stand_in(monkeypatch, lambda e, noise: scan.clean * (noise.dose / 3000.0))
    check = check_denoising(py4DSTEM.DataCube(scan.counts), model(scan))
    assert check.accepted and check.errors["denoised"] < 0.05 and check.errors["denoised"] < check.errors["gaussian"]


@pytest.mark.slow
@pytest.mark.parametrize(("broken", "name"), [
    (lambda e, noise: gaussian_filter(e, (0, 0, 4, 4)), "denoising_harmful"),
    (lambda e, noise: 0.5 * e, "denoising_harmful"),
    (lambda e, noise: e, "denoising_no_effect"),
], ids=["too smooth", "half of it", "nothing"])
def test_a_broken_denoiser_is_not_to_be_used(monkeypatch, broken, name):
    scan = simulated(**SMALL, dose=30_000.0)
    stand_in(monkeypatch, broken)
    check = check_denoising(py4DSTEM.DataCube(scan.counts), model(scan))
    assert check.valid and not check.accepted
    error, sigma = numbers_of(check, name)["error"], numbers_of(check, name)["sigma"]
    assert error == check.errors["denoised"] and (error > 1 + 4 * sigma) == (name == "denoising_harmful")
    assert not check.worth > 1.1


# --- assumptions --------------------------------------------------------------------------------------------


def blurred(counts):
    return gaussian_filter(counts.astype(np.float32), (0, 0, 0.6, 0.6))


@pytest.mark.parametrize(("spoil", "name"), [
    (blurred, "noise_correlated"),
    (lambda counts: 30 * counts**0.5, "noise_too_small"),
    (lambda counts: np.log(counts + 3.0), "noise_too_small"),
    (lambda counts: counts.clip(max=60), "saturated"),
], ids=["correlated", "square root", "logarithm", "saturated"])
def test_no_verdict_where_the_assumptions_fail(monkeypatch, spoil, name):
    monkeypatch.setattr(denoising, "denoise", lambda *_, **__: pytest.fail("it was denoised"))
    scan = simulated(**SMALL, dose=30_000.0)
    check = py4DSTEM.DataCube(spoil(scan.counts)).prenet.check_denoising()
    assert not check.valid and not check.accepted and np.isnan(check.worth)
    assert [flag.name for flag in check.flags] == ["not_checked", name]


def test_clipped_read_out_noise_is_told():
    scan = simulated(**CAMERA | dict(dose=3000.0))
    counts = np.clip(scan.counts.astype(float) - 100, 0, None)
    assert check_independence([counts], estimate_noise(counts))[0].name == "clipped"


def test_a_wrong_noise_model_is_told():
    scan = simulated(**CAMERA | dict(dose=3000.0))
    noise = model(scan)
    assert check_independence([scan.counts], noise) == (None, None)
    counting = simulated(**SMALL, dose=3000.0)
    assert check_independence([4 * counting.counts], model(counting))[0].name == "noise_too_large"
    assert check_independence([scan.counts], replace(noise, readout=noise.readout * 2))[0].name == "noise_too_small"


@pytest.mark.slow
def test_electrons_that_count_twice_qualify_the_verdict(monkeypatch):
    """Every fourth electron counts in the next pixel, too: Poisson pixel by pixel, but not together."""
    scan = simulated(**SMALL, dose=30_000.0)
    rng = np.random.default_rng(0)
    counts = scan.counts.astype(np.int64)
    counts = counts + np.roll(rng.binomial(counts, 0.2), 1, axis=2) + np.roll(rng.binomial(counts, 0.2), 1, axis=3)
    stand_in(monkeypatch, lambda e, noise: 1.3 * scan.clean * (noise.dose / 30_000.0))
    check = check_denoising(py4DSTEM.DataCube(counts), model(scan))
    assert check.valid and numbers_of(check, "shared_noise_flatters")["ratio"] == pytest.approx(0.75, abs=0.06)


def test_the_brightest_of_many_counts_is_no_saturation():
    """A bright field whose largest count comes up a few times by chance."""
    counts = np.random.default_rng(2).poisson(100.0, (4, 4, 64, 64)).astype(np.uint8)
    noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((64, 64), bool), True, 100.0 * 64**2)
    assert check_independence([counts], noise) == (None, None)
    assert check_independence([counts.clip(max=100)], noise)[0].name == "saturated"


@pytest.mark.parametrize("options", others_slow([
    SMALL | dict(dose=100.0), SMALL | dict(dose=1e6), SMALL | dict(dose=1e5, seed=3), CAMERA | dict(dose=3e4),
    SMALL | dict(dose=1e5, scan=(1, 1)),
]), ids=["100 e", "1 Me", "other grains", "camera", "one pattern"])
def test_independent_noise_raises_no_alarm(options):
    scan = simulated(**options)
    problem, caveat = check_independence([scan.counts], model(scan))
    assert problem is None and (caveat is None or options["dose"] == 1e6)  # there the pattern outshines its noise


@pytest.mark.parametrize(("scan", "parts"), [
    ((40, 30), (2, 2)), ((3, 100), (4, 4)), ((1, 5), (4, 4)), ((6, 6), (1, 1)),
])
def test_blocks_keep_neighbors_together_and_apart_from_others(scan, parts):
    data = np.zeros((*scan, 32, 32), np.uint16)
    data[..., 0, 0] = np.arange(scan[0] * scan[1]).reshape(scan)
    blocks = [read_block(as_scan(data), where) for where in places(data.shape, 64, parts)]
    seen = np.concatenate([block[..., 0, 0].ravel() for block in blocks])
    assert len(set(seen)) == len(seen) <= 64
    assert len(blocks) == min(parts[0], scan[0]) * min(parts[1], scan[1])
    assert len(seen) > 30 or len(seen) == scan[0] * scan[1]
    for block in blocks:
        number = block[..., 0, 0].astype(int)
        assert (np.diff(number, axis=0) == scan[1]).all() and (np.diff(number, axis=1) == 1).all()


# --- origin -------------------------------------------------------------------------------------------------


def test_positions_of_a_hidden_beam_are_not_compared(monkeypatch):
    """Those are positions of one center, and equal in both halves whatever its sigma."""
    maps = types.SimpleNamespace(valid=np.ones((6, 6), bool), found=True, feature="center of inversion")
    locator = types.SimpleNamespace(origin=lambda *_: maps, locate_all=lambda scan, progress: (None, None))
    monkeypatch.setattr("py4dstem_prenet.origin.measure.BeamLocator.learn", lambda *_, **__: locator)
    counts = np.random.default_rng(0).poisson(2.0, (6, 6, 48, 48))
    check = py4DSTEM.DataCube(counts).prenet.check_origin()
    assert not check.accepted and np.isnan(check.ratio) and has_flag(check.flags, "half_without_beam")


@pytest.mark.parametrize(("stated", "accepted"), [(1.0, True), (0.5, False)])
def test_the_halves_tell_whether_sigma_is_true(monkeypatch, stated, accepted):
    """A center of mass, whose precision is known, that states it right or too small."""
    x, y = np.meshgrid(np.arange(48.0), np.arange(48.0), indexing="ij")
    beam = np.exp(-((x - 23.2) ** 2 + (y - 24.4) ** 2) / 2 / 3**2)
    counts = np.random.default_rng(0).poisson(500 * beam / beam.sum(), (12, 12, 48, 48))

    def origin(scan, located):
        data = scan.read(np.arange(scan.size)).reshape(scan.shape)
        total = data.sum((2, 3))
        qx0, qy0 = ((data * axis).sum((2, 3)) / total for axis in (x, y))
        sigma = stated * 3 / np.sqrt(total)
        return types.SimpleNamespace(qx0=qx0, qy0=qy0, sigma_qx0=sigma, sigma_qy0=sigma, valid=total > 0, found=True,
                                     feature="direct beam")

    locator = types.SimpleNamespace(origin=origin, locate_all=lambda scan, progress: (None, None))
    monkeypatch.setattr("py4dstem_prenet.origin.measure.BeamLocator.learn", lambda *_, **__: locator)
    check = py4DSTEM.DataCube(counts).prenet.check_origin()
    assert check.accepted == accepted and check.positions == 144
    assert check.ratio == pytest.approx(1 / stated, abs=4 * check.ratio_sigma)
    assert check.scatter == pytest.approx(3 / np.sqrt(250), rel=0.15)
    numbers = numbers_of(check, "origin_sigma_checked" if accepted else "origin_sigma_understated")
    assert numbers["scatter"] == check.scatter and numbers["ratio"] == check.ratio


# --- ellipse ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stated", "accepted"), [(1.0, True), (0.1, False)])
def test_the_halves_tell_whether_the_ellipse_is_known(monkeypatch, stated, accepted):
    """Second moments of a beam, whose ellipse is known as well as they are counted, or is said to be ten times so."""
    x, y = np.meshgrid(np.arange(48.0), np.arange(48.0), indexing="ij")
    beam = np.exp(-((x - 24) ** 2 / 3.2**2 + (y - 24) ** 2 / 3**2) / 2)
    cube = py4DSTEM.DataCube(np.random.default_rng(0).poisson(500 * beam / beam.sum(), (12, 12, 48, 48)))
    cube.calibration.set_origin((np.full((12, 12), 24.0), np.full((12, 12), 24.0)))

    def measure(data, qx0, qy0, radius, noise, **_):
        total = data.sum()
        xx, yy, xy = ((data * term).sum() / total for term in ((x - 24) ** 2, (y - 24) ** 2, (x - 24) * (y - 24)))
        vector = np.array([xx - yy, 2 * xy]) / (xx + yy)
        return types.SimpleNamespace(vector=vector, covariance=np.eye(2) * stated**2 / total, sources={"beam": 0})

    monkeypatch.setattr("py4dstem_prenet.ellipse.measure.measure_ellipse", measure)
    check = cube.prenet.check_ellipse()
    assert check.accepted == accepted and check.positions == 144
    assert check.difference < 5 * np.sqrt(2 / (72 * 500))
    name = "ellipse_halves_agree" if accepted else "ellipse_halves_differ"
    assert numbers_of(check, name)["difference"] == check.difference
    found = Ellipse(1.05, 1.0, 0.0, np.array([0.05, 0.0]), 1e-6 * np.eye(2),
                    Decision(True, (Flag("ellipse_determined", {"sources": "rings", "sigma": 0.001}),)))
    verdict = make_verdict("ellipse", *ellipse_flags((1.05, 1.0, 0.0), found, "prenet", check))
    assert verdict.light == ("green" if accepted else "amber") and numbers_of(verdict, name)
