"""One test of residuals: fit, review and report give the same verdict on a map, with few false alarms."""

from functools import cache

import numpy as np
import pytest
from scans import origin_map
from scipy.ndimage import gaussian_filter

from py4dstem_prenet.core import CalibrationReport
from py4dstem_prenet.core.flags import has_flag
from py4dstem_prenet.core.robust import check_residuals
from py4dstem_prenet.descan.fit import fit_origin, residual_flags
from py4dstem_prenet.report.verdicts import make_verdict
from py4dstem_prenet.review import review_fit

SHAPE = (16, 16)
NOISE_PX, SHARED_PX = 0.05, 0.028
KINDS = [(shared, factor) for shared in (False, True) for factor in (1.0, 1.6)]  # and sigma stated too small by factor
SEEDS, COMPARED = range(50), range(16)  # of maps of white noise, and of all maps whose review is compared with the fit
RESIDUAL_FLAGS = ("residuals_white", "residuals_correlated", "residuals_large", "few_positions")


def test_without_stated_sigmas_only_the_correlation_is_tested():
    noise = np.random.default_rng(3).normal(0, NOISE_PX, (2, *SHAPE))
    (flag,) = residual_flags(check_residuals(noise, None, np.ones(SHAPE, bool), sigma_known=False))
    assert flag.name == "residuals_uncorrelated"


@cache
def residual_map(shared, factor, seed):
    """The measured origin of a scan, a plane: white noise, perhaps a smooth correlated part.

    Without descan a spline would follow the smooth part.
    """
    rng = np.random.default_rng((seed, int(shared)))
    maps = rng.normal(0, NOISE_PX, (2, *SHAPE))
    if shared:
        smooth = gaussian_filter(rng.normal(size=(2, *SHAPE)), (0, 1.5, 1.5), mode="wrap")
        maps += SHARED_PX * smooth / smooth.std((1, 2), keepdims=True)
    sigma = np.full((2, *SHAPE), NOISE_PX / factor)
    u, v = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    descan = np.stack([60 + 2 * u + 0.5 * v, 50 - 0.4 * u + 1.5 * v])
    return origin_map(*(descan + maps), *sigma, np.ones(SHAPE, bool))


@cache
def fitted(shared, factor, seed):
    return fit_origin(residual_map(shared, factor, seed))


def residual_flags_of(flags):
    return {flag.name: dict(flag.numbers) for flag in flags if flag.name in RESIDUAL_FLAGS}


def count(shared, factor, name, seeds=COMPARED):
    return sum(fitted(shared, factor, seed).decision.has(name) for seed in seeds)


@pytest.mark.slow
@pytest.mark.parametrize(("shared", "factor"), KINDS)
def test_fit_review_and_report_agree(shared, factor):
    for seed in COMPARED:
        origin, fit = residual_map(shared, factor, seed), fitted(shared, factor, seed)
        review = review_fit(origin, (fit.qx0, fit.qy0), True, 128)
        report = CalibrationReport(origin, fit, None, None)
        found = residual_flags_of(fit.flags)
        assert len(found) == 1 and residual_flags_of(report.flags) == found
        (name,) = found
        again = residual_flags_of(review.flags)
        assert list(again) == [name] and again[name] == pytest.approx(found[name])
        # the light is that of the residuals where nothing else is raised
        others = [flag for flag in review.flags if flag.name not in RESIDUAL_FLAGS and flag.severity != "info"]
        light = make_verdict("descan", review.flags).light
        assert others or light == ("green" if name == "residuals_white" else "amber")


@pytest.mark.slow
def test_false_alarms_are_few_and_what_is_there_is_found():
    # The noise of a map is the same whatever sigma is stated, so that one sigma is enough for the rate of false alarms.
    assert count(False, 1.0, "residuals_correlated", SEEDS) <= 1
    assert count(False, 1.0, "residuals_white", SEEDS) >= 49
    assert count(False, 1.6, "residuals_correlated") == 0
    assert count(False, 1.6, "residuals_large", range(25)) > 12  # 1.6 is 4 standard errors of the scale from 1.25
    # Two of three are found, 21 of 32 with a standard error of 2.7.
    assert count(True, 1.0, "residuals_correlated") + count(True, 1.6, "residuals_correlated") > 12


def test_a_few_maps_of_each_kind():
    """The quick part of the above, away from the limits."""
    for seed in range(3):
        sigma, valid = np.full((2, *SHAPE), NOISE_PX), np.ones(SHAPE, bool)
        white = np.random.default_rng(seed).normal(0, NOISE_PX, (2, *SHAPE))
        smooth = gaussian_filter(white, (0, 1.5, 1.5)) * 10
        test = check_residuals(white, sigma, valid)
        assert not test.correlated and not test.large and test.testable and abs(test.shared_sigmas) < 3
        assert test.scale == pytest.approx(1, abs=0.15)
        assert check_residuals(white + smooth, sigma, valid).shared_sigmas > 6
        understated = check_residuals(white, sigma / 3, valid)
        assert understated.large and not understated.correlated
        assert not check_residuals(white, sigma / 3, valid, sigma_known=False).large


@pytest.mark.parametrize("period", [2.1, 3.3, 4.0, 7.7, 21.0])
@pytest.mark.parametrize("advance", [0.1, 0.5])  # periods from row to row; with half of one, rows and columns cancel
def test_a_beam_that_oscillates_is_told_or_followed_and_the_sigma_of_the_fit_includes_it(period, advance):
    rng = np.random.default_rng(5)
    rows, columns = np.indices((24, 24))
    hum = 0.3 * np.sin(2 * np.pi * (columns / period + advance * rows))
    truth = np.stack([60 + 0.05 * rows + hum, 60 + 0.1 * columns - 0.5 * hum])
    sigma = np.full((2, 24, 24), 0.2)  # a single position shows nothing of it
    fit = fit_origin(origin_map(*rng.normal(truth, sigma), *sigma, np.ones((24, 24), bool)))
    error = np.stack([fit.qx0, fit.qy0]) - truth
    assert fit.accepted and 0.6 < np.sqrt(np.mean((error / (fit.sigma_qx0, fit.sigma_qy0)) ** 2)) < 1.25
    followed = error.std() < 0.5 * hum.std()  # a spline follows long periods, and leaves white residuals
    assert followed == (period >= 7.7 and advance == 0.1) and fit.decision.has("residuals_oscillate") != followed


def test_a_specimen_does_not_oscillate():
    rng = np.random.default_rng(7)
    for _ in range(20):
        patches = np.kron(rng.normal(0, 0.1, (2, 6, 6)), np.ones((4, 4)))
        test = check_residuals(rng.normal(patches, NOISE_PX), np.full((2, 24, 24), NOISE_PX), np.ones((24, 24), bool))
        assert test.correlated and not test.oscillating


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(14, 14), (24, 20)])
def test_white_noise_about_a_flexible_surface_is_white(shape):
    """A spline takes a part of the noise, which leaves neighbors of opposite signs."""
    rng = np.random.default_rng(11)
    u, v = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    descan = np.stack([60 + 2 * u + u**4 + v**3, 50 - u + 2 * v + np.sin(4 * u)])
    sigma = np.full((2, *shape), 0.03)
    for _ in range(10):
        fit = fit_origin(origin_map(*rng.normal(descan, sigma), *sigma, np.ones(shape, bool)))
        assert fit.model == "spline" and residual_flags_of(fit.flags).keys() == {"residuals_white"}


def test_an_error_that_depends_on_the_position_in_a_pixel_is_told_from_a_beam_that_oscillates():
    rng = np.random.default_rng(12)
    u, v = np.meshgrid(np.linspace(-1, 1, 18), np.linspace(-1, 1, 20), indexing="ij")
    truth = np.stack([60 + 2 * u + 0.3 * v, 50 - 0.2 * u + 4 * v])
    first, second = 2 * np.pi * truth
    error = 0.06 * np.stack([np.sin(first) * np.cos(second), np.sin(2 * second) + np.cos(first - second)])
    sigma = np.full(truth.shape, 0.05)
    origin = origin_map(*rng.normal(truth + error, sigma), *sigma, np.ones(u.shape, bool))
    fit = fit_origin(origin)
    assert fit.decision.has("position_in_pixel")
    assert not has_flag(fit.flags, "residuals_oscillate", "residuals_correlated")
    assert fit.decision.numbers["common"] > 0.5 * error.std()  # the sigma of the fit includes it
    assert residual_flags_of(review_fit(origin, (fit.qx0, fit.qy0), True, 128).flags) == residual_flags_of(fit.flags)
    hum = 0.09 * np.sin(2 * np.pi * (np.arange(20) / 3.3 + 0.4 * np.arange(18)[:, None]))
    fit = fit_origin(origin_map(*rng.normal(truth + hum, sigma), *sigma, np.ones(u.shape, bool)))
    assert fit.decision.has("residuals_oscillate") and not fit.decision.has("position_in_pixel")


def test_outliers_to_one_side_are_no_correlation():
    """Wrong disks lie on one side; at a seventh of the positions they passed for a common offset, at 40 sigma."""
    rng = np.random.default_rng(3)
    residuals = rng.normal(0, NOISE_PX, (2, *SHAPE))
    residuals[:, rng.random(SHAPE) < 0.15] += 12
    test = check_residuals(residuals, np.full((2, *SHAPE), NOISE_PX), np.ones(SHAPE, bool))
    assert not test.correlated and abs(test.shared_sigmas) < 3 and test.outliers == pytest.approx(0.15, abs=0.05)


def test_rounding_errors_are_no_correlation():
    rows, columns = np.indices(SHAPE)
    residuals = 1e-12 * np.stack([rows, columns]) - 5e-12
    test = check_residuals(residuals, np.full((2, *SHAPE), NOISE_PX), np.ones(SHAPE, bool))
    assert test.testable and not test.correlated and not test.large


def test_of_too_few_positions_nothing_is_said():
    rng = np.random.default_rng(0)
    origin = origin_map(*rng.normal(60, NOISE_PX, (2, 3, 3)), *np.full((2, 3, 3), NOISE_PX), np.ones((3, 3), bool))
    assert has_flag(fit_origin(origin).flags, "few_positions")


def correlated_errors(side, length, rng):
    """Errors (2, side, side) of standard deviation 1; their correlation decreases exponentially with distance."""
    wide = np.minimum(np.arange(4 * side), 4 * side - np.arange(4 * side))
    power = np.fft.fft2(np.exp(-np.hypot(wide[:, None], wide) / length)).real.clip(0)
    white = np.fft.fft2(rng.normal(size=(2, *power.shape)))
    return np.fft.ifft2(white * np.sqrt(power)).real[:, :side, :side]


@pytest.mark.slow
def test_the_sigma_of_the_fit_includes_what_the_surface_absorbed():
    """Errors that a specimen of few grains causes: by the residuals alone, the rms of error / sigma was 1.9."""
    side, pulls = 20, []
    u, v = np.meshgrid(*2 * [np.linspace(-1, 1, side)], indexing="ij")
    truth = np.stack([64 + 1.5 * u + 0.8 * u * v, 62 - 1.2 * v + 0.6 * u**2])
    sigma = np.full((2, side, side), NOISE_PX)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        errors = NOISE_PX * correlated_errors(side, 5, rng) + rng.normal(0, NOISE_PX, truth.shape)
        fit = fit_origin(origin_map(*(truth + errors), *sigma, np.ones((side, side), bool)))
        pulls.append((np.stack([fit.qx0, fit.qy0]) - truth) / [fit.sigma_qx0, fit.sigma_qy0])
    assert 0.65 < np.sqrt(np.mean(np.square(pulls))) < 1.25  # 0.88 of 24 maps; by the former estimate 1.89


def hidden_part():
    """True in a part of the scan."""
    u, v = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    return 0.6 * u + v > 0.1


def specimen(kind):
    """Displacement (2, Rx, Ry) of the located disk, and the descan; a column of the flyback and drift are descan."""
    u, v = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    zero = np.zeros(SHAPE)
    shift = {"descan": np.stack([zero, zero]),
             "contrast": 0.8 * np.stack([np.sin(5 * u) * np.sin(5 * v), np.cos(5 * u) * np.sin(5 * v)]),
             "corner": hidden_part() * np.stack([zero + 1.2, zero - 0.9])}[kind]
    descan = np.stack([60 + 2 * u + 0.4 * u * v**2, 50 + 1.5 * v + 1.5 * np.exp(-4 * (v + 1)) + 0.3 * np.sin(4 * u)])
    return shift, descan


@pytest.mark.parametrize("kind", ["descan", "contrast", "corner"])
def test_what_the_specimen_moves_is_not_stated_as_descan(kind):
    """A spline follows contrast inside the disk, and a part of the scan in which another object was located."""
    shift, descan = specimen(kind)
    rng = np.random.default_rng(3)
    sigma = np.full((2, *SHAPE), NOISE_PX)
    if kind == "corner":  # another object, whose positions are less certain
        sigma[:, hidden_part()] *= 5
    measured = descan + shift + rng.normal(0, sigma)
    fit = fit_origin(origin_map(*measured, *sigma, np.ones(SHAPE, bool)))
    assert fit.model == "spline"
    error = np.stack([fit.qx0, fit.qy0]) - descan
    stated = np.stack([fit.sigma_qx0, fit.sigma_qy0])
    assert has_flag(fit.flags, "fit_follows_specimen") == (kind != "descan")
    if kind == "descan":
        assert np.sqrt((error**2).mean()) < NOISE_PX and np.median(stated) < NOISE_PX
    else:
        assert np.sqrt((error**2).mean()) > 5 * NOISE_PX  # no fit could tell
        assert 0.3 < np.sqrt(((error / stated) ** 2).mean()) < 4
