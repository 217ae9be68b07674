"""The fitted descan surface: accuracy, robustness, symmetry, honest errors, choice of model, odd scans."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scans import numbers_of, origin_map

from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.descan.fit import fit_origin
from py4dstem_prenet.descan.surface import fit_pair, fit_surface

SHAPE = (16, 16)
SIGMA = 0.05


def axes(shape):
    return (np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape)


def truth(kind, shape=SHAPE, seed=0):
    rng = np.random.default_rng(seed)
    u, v = np.meshgrid(*axes(shape), indexing="ij")
    a, b = rng.choice([-1, 1], 2) * rng.uniform(0.5, 1.5, 2)
    surface = np.full(shape, 60 + rng.normal())
    if kind != "constant":
        surface += a * u + b * v
    if kind in ("parabola", "spline"):
        surface += 0.5 * u**2 - 0.3 * u * v + 0.4 * b * v**2
    if kind == "spline":
        surface += 0.4 * np.sin(2.5 * u + a) * np.cos(2 * v + b)
    return surface


def measure(surface, seed=0, sigma=SIGMA, outliers=0.0):
    rng = np.random.default_rng(1000 + seed)
    measured = surface + sigma * rng.normal(size=surface.shape)
    bad = rng.random(surface.shape) < outliers
    return np.where(bad, measured + rng.uniform(10, 40, surface.shape), measured), bad


def fit(values, sigma=SIGMA, valid=True, model="auto"):
    return fit_surface(values, np.full(np.shape(values), sigma), np.full(np.shape(values), valid), model)


def pair(kind, seed, outliers=0.0):
    surfaces = truth(kind, seed=seed), truth(kind, seed=seed + 500)
    measured = [measure(s, seed + 7 * k, outliers=outliers)[0] for k, s in enumerate(surfaces)]
    sigma = np.full(SHAPE, SIGMA)
    fits = fit_pair(*measured, sigma, sigma, np.ones(SHAPE, bool))
    error = np.hypot(*(f.values - s for f, s in zip(fits, surfaces, strict=True))).mean()
    return fits, error


def least_squares_error(kind, seed, outliers):
    """Plain least squares with the true model, told which positions are good."""
    u, v = np.meshgrid(*axes(SHAPE), indexing="ij")
    terms = [u**0, u, v, u**2, u * v, v**2][: {"constant": 1, "plane": 3, "parabola": 6}[kind]]
    design = np.stack([t.ravel() for t in terms], 1)
    errors = []
    for k in range(2):
        surface = truth(kind, seed=seed + 500 * k)
        values, bad = measure(surface, seed + 7 * k, outliers=outliers)
        good = ~bad.ravel()
        coef = np.linalg.lstsq(design[good], values.ravel()[good], rcond=None)[0]
        errors.append((design @ coef).reshape(SHAPE) - surface)
    return np.hypot(*errors).mean()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["constant", "plane", "parabola"])
@pytest.mark.parametrize("outliers", [0.0, 0.3])
def test_error_is_near_that_of_least_squares_that_knows_all(kind, outliers):
    seeds = range(6)
    errors = [pair(kind, seed, outliers)[1] for seed in seeds]
    # a model too rich in one scan of ten doubles that scan's error: few seeds cannot hold a tighter bound
    assert np.mean(errors) < 1.35 * np.mean([least_squares_error(kind, seed, outliers) for seed in seeds])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["constant", "plane", "parabola"])
def test_robust_fit_of_a_given_model_is_efficient(kind):
    errors, best = [], []
    for seed in range(10):
        surface = truth(kind, seed=seed), truth(kind, seed=seed + 500)
        fits = [fit(measure(s, seed + 7 * k, outliers=0.3)[0], model=kind) for k, s in enumerate(surface)]
        errors.append(np.hypot(*(f.values - s for f, s in zip(fits, surface, strict=True))).mean())
        best.append(least_squares_error(kind, seed, 0.3))
    assert np.mean(errors) < 1.1 * np.mean(best)


@pytest.mark.slow
@pytest.mark.parametrize("outliers", [0.0, 0.3])
def test_spline_error_is_below_the_noise(outliers):
    assert np.mean([pair("spline", seed, outliers)[1] for seed in range(4)]) < 0.6 * SIGMA


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["constant", "plane", "parabola", "spline"])
def test_model_is_found(kind):
    names = [pair(kind, seed)[0][0].model for seed in range(4)]
    assert names.count(kind) >= 3
    fits, _ = pair(kind, 0)
    assert fits[0].model == fits[1].model
    assert set(fits[0].scores) == {"constant", "plane", "parabola", "spline"}


def test_score_is_one_for_noise():
    assert fit(measure(truth("plane"))[0]).scores["plane"] == pytest.approx(1, abs=0.15)


def test_clustered_outliers_with_tiny_errors_are_ignored():
    surface = truth("parabola")
    values, _ = measure(surface)
    sigma = np.full(SHAPE, SIGMA)
    values[:8, :9] += 25  # 28 %, one grain
    sigma[:8, :9] = 0.005
    result = fit_surface(values, sigma, np.ones(SHAPE, bool))
    assert np.abs(result.values - surface).max() < 0.3
    assert numbers_of(result.decision, "outliers")["percent"] == pytest.approx(28, abs=2)


@pytest.mark.slow
def test_precise_positions_do_not_make_outliers_of_the_others():
    """Half of the positions are ten times more precise than stated, the others as precise as stated."""
    surface = truth("parabola")
    precise = np.random.default_rng(0).random(SHAPE) < 0.55
    measured = surface + np.where(precise, 0.1, 1.0) * (measure(surface)[0] - surface)
    fit = fit_surface(measured, SIGMA, np.ones(SHAPE, bool))
    assert fit.accepted
    assert not fit.decision.has("outliers")
    assert np.sqrt(np.mean((fit.values - surface) ** 2)) < 0.02


@pytest.mark.slow
def test_sigma_means_sigma():
    for kind in ("plane", "parabola", "spline"):
        pulls = []
        for seed in range(12):
            surface = truth(kind, seed=seed)
            # errors that are stated 3 times too small must not matter
            result = fit(measure(surface, seed, outliers=0.1)[0], sigma=SIGMA / 3, model=kind)
            pulls.append(((result.values - surface) / result.sigma)[::5, ::5].ravel())
        assert 0.8 < np.std(np.concatenate(pulls)) < 1.2


def test_weights_count():
    surface = truth("plane")
    sigma = np.where(np.arange(16)[:, None] % 2, 0.02, 1.0) * np.ones(SHAPE)
    errors = []
    for seed in range(10):
        values = surface + sigma * np.random.default_rng(seed).normal(size=SHAPE)
        errors.append(np.abs(fit_surface(values, sigma, np.ones(SHAPE, bool)).values - surface).mean())
    assert np.mean(errors) < 2 * 0.02 * np.sqrt(3 / 128)


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(
    kind=st.sampled_from(["constant", "plane", "parabola", "spline"]),
    seed=st.integers(0, 1000),
    shape=st.tuples(st.integers(6, 14), st.integers(6, 14)),
    shift=st.floats(-200, 200),
)
def test_symmetries(kind, seed, shape, shift):
    values, _ = measure(truth(kind, shape, seed), seed)
    values[0, 0] += 30
    reference = fit(values)
    for moved, back in (
        (values + shift, lambda f: f - shift),
        (values.T, np.transpose),
        (values[::-1], np.flipud),
        (values[:, ::-1], np.fliplr),
        (-values, np.negative),
    ):
        result = fit(moved)
        assert result.model == reference.model
        np.testing.assert_allclose(back(result.values), reference.values, atol=0.01 * SIGMA)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (1, 9), (12, 1), (2, 2), (3, 3), (2, 30), (5, 4)])
@pytest.mark.parametrize("model", ["auto", "parabola", "spline"])
def test_small_scans(shape, model):
    surface = truth("plane", shape)
    result = fit(measure(surface)[0], model=model)
    assert result.values.shape == result.sigma.shape == result.residual.shape == shape
    assert np.isfinite(result.values).all() and np.isfinite(result.sigma).all()
    assert result.accepted or (max(shape) == 2 and result.decision.has("too_few_positions"))
    if min(shape) > 2 or max(shape) > 8:
        assert np.abs(result.values - surface).max() < 8 * SIGMA


@pytest.mark.parametrize("shape", [(1, 3), (2, 2), (3, 3)])
def test_few_positions_off_the_surface_are_not_written_over(shape):
    """A third of a 3 x 3 scan's descan was taken for outliers, and a constant put for a plane in 2 x 2 positions."""
    bent = np.zeros(shape)
    bent[-1, -1:] = bent[-1:, :] = 1.0
    bent[..., 0] += 0.5
    result = fit(bent, sigma=0.02)
    assert not result.accepted and numbers_of(result.decision, "too_few_positions")["count"] == np.prod(shape)
    assert fit(bent, sigma=0.02, model="constant").accepted
    assert fit(bent, sigma=1.0).accepted  # what its own errors explain
    assert fit(0.1 * bent, sigma=0.02).accepted


def test_of_one_position_nothing_is_said_of_residuals():
    result = fit(np.full((1, 1), 3.0))
    assert result.accepted and result.values == 3.0 and [f.name for f in result.decision.flags] == ["single_position"]


def test_nothing_valid_is_refused_but_finite():
    for values, guess in ((np.full((4, 5), np.nan), 0.0), (np.full((4, 5), 31.0), 31.0)):
        result = fit(values, valid=False)
        assert not result.accepted and numbers_of(result.decision, "no_surface") == {"count": 0, "total": 20}
        np.testing.assert_array_equal(result.values, guess)
        assert np.isinf(result.sigma).all()


def test_invalid_positions():
    surface = truth("parabola")
    values, _ = measure(surface)
    values[3, 4] = np.nan
    values[5, 6] = np.inf
    values[7, 7] += 50
    valid = np.ones(SHAPE, bool)
    valid[7, 7] = False
    result = fit_surface(values, SIGMA, valid)
    assert np.isnan(result.residual[3, 4]) and np.isnan(result.residual[5, 6])
    assert result.residual[7, 7] == pytest.approx(50, abs=0.5)  # told, not used
    assert np.abs(result.values - surface).max() < 3 * SIGMA


@pytest.mark.parametrize("model", ["auto", "spline"])
def test_extrapolation_is_tame(model):
    surface = truth("parabola", (24, 24))
    values, _ = measure(surface)
    valid = np.ones((24, 24), bool)
    valid[14:, 10:] = False
    result = fit_surface(values, SIGMA, valid, model)
    assert np.abs(result.values - surface).max() < 0.5
    corner = result.sigma[-1, -1]
    assert corner > 2 * result.sigma[6, 6]
    thin = np.zeros((24, 24), bool)
    thin[:2] = True
    far = fit_surface(values, SIGMA, thin, model).values
    assert np.abs(far - np.median(values[:2])).max() < 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parabola", "spline"])
@pytest.mark.parametrize("seen", [np.s_[:14], np.s_[12:], np.s_[:, :12], np.s_[4:16, 20:]])
def test_a_beam_that_is_lost_halfway_leaves_the_fit_as_it_was(kind, seen):
    """A parabola that half of a scan determines would run away in the other half, and a plane was .6 px off in this."""
    surface = truth(kind, (32, 32), seed=3)
    measured, _ = measure(surface, seed=3)
    valid = np.zeros(surface.shape, bool)
    valid[seen] = True
    alone = fit_surface(measured[seen], SIGMA, True)
    stray = valid.copy()
    stray[-1 if valid[0].any() else 0, -1 if valid[:, 0].any() else 0] = True
    for shown in (valid, stray):
        fit = fit_surface(np.where(shown, measured, np.nan), SIGMA, shown)
        assert fit.accepted and np.abs(fit.values[seen] - alone.values).max() < 0.05
        assert kind == "spline" or np.abs(fit.values - surface)[seen].max() < 0.1
        outside = ~valid
        assert (np.abs(fit.values - surface) / fit.sigma)[outside].max() < 5 and np.isfinite(fit.sigma).all()
        assert max(np.abs(np.diff(fit.values, axis=k)).max() for k in (0, 1)) < 0.5  # no step at the edge
        assert np.allclose(fit.residual[shown], (measured - fit.values)[shown])


@pytest.mark.slow
def test_residuals():
    surface = truth("plane", (18, 18))
    values, _ = measure(surface)
    sigma, valid = np.full((18, 18), SIGMA), np.ones((18, 18), bool)
    checker = np.kron(np.random.default_rng(0).choice([-0.2, 0.2], (6, 6)), np.ones((3, 3)))
    for maps, stated, name in ((values, 1, "residuals_white"), (values + checker, 1, "residuals_correlated"),
                               (values, 1 / 4, "residuals_large")):
        found = fit_origin(origin_map(maps, maps.T, stated * sigma, stated * sigma, valid))
        assert found.accepted and [f.name for f in found.flags if f.name.startswith("residuals")] == [name]
    assert numbers_of(found, "residuals_large")["scale"] == pytest.approx(4, rel=0.1)


def test_noise_free_and_zero_sigma():
    surface = truth("parabola")
    for sigma in (0.0, SIGMA):
        np.testing.assert_allclose(fit(surface, sigma=sigma).values, surface, atol=1e-5)


def test_bad_arguments():
    values = np.zeros((4, 4))
    with pytest.raises(PrenetError):
        fit_surface(values, 1.0, True, model="cubic")
    with pytest.raises(PrenetError):
        fit_surface(values, np.ones((3, 3)), True)
    with pytest.raises(PrenetError):
        fit_surface(np.zeros(4), 1.0, True)
    with pytest.raises(PrenetError):
        fit_pair(values, np.zeros((4, 5)), 1.0, 1.0, True)


def test_large_scan():
    surface = truth("parabola", (300, 400))
    values, bad = measure(surface, outliers=0.3)
    result = fit(values)
    assert result.model in ("parabola", "spline")
    assert np.abs(result.values - surface).mean() < 3 * SIGMA * np.sqrt(6 / (~bad).sum())


@pytest.mark.parametrize("kind", ["plane", "spline"])
def test_a_sample_of_a_large_scan_costs_what_the_sample_costs(kind):
    """The surface through every 20th row and column is that of a small scan, and little is held beside the maps."""
    shape = (500, 400)
    surface = truth(kind, shape)
    values = np.zeros(shape)
    values[10::20, 10::20] = measure(surface[10::20, 10::20], outliers=0.1)[0]
    valid = np.zeros(shape, bool)
    valid[10::20, 10::20] = True
    tracemalloc.start()
    found = fit(values, valid=valid)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.accepted and found.model == kind
    assert np.abs(found.values - surface)[10:-10, 10:-10].max() < (0.02 if kind == "plane" else 0.05)
    small = fit(values[10::20, 10::20], model=kind)
    np.testing.assert_allclose(found.values[10::20, 10::20], small.values, atol=0.015)  # its splines end elsewhere
    assert np.isfinite(found.sigma).all() and np.isfinite(found.residual).all()
    assert peak < 30e6  # bytes: 150 a position; a fit on the whole grid takes 50 MB
