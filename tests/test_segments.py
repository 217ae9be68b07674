"""Joined scans, whose descan changes on the way: followed in parts, at the right frame, or refused; others are not."""

from dataclasses import replace

import numpy as np
import pytest
from scans import numbers_of, origin_map, others_slow

from py4dstem_prenet.descan.fit import fit_origin
from py4dstem_prenet.descan.segments import find_breaks
from py4dstem_prenet.descan.surface import fit_surface

NOISE = 0.05


def scan(change, shape=(30, 24), frame=None, seed=0, noise=NOISE, outliers=0.0, blank=0.0):
    """An OriginMap whose descan changes at a frame: a tilt along rows, columns, or all; and its truth."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    frame = int(rng.integers(0.25 * x.size, 0.75 * x.size)) if frame is None else frame
    later = (np.arange(x.size) >= frame).reshape(shape)
    truth = np.stack([60 + 2 * x + 0.5 * y - 0.4 * x * y, 50 - y + 0.3 * x**2])
    u = x - x[frame // shape[1], 0]
    truth += later * {"nothing": 0 * x, "rows": 10 * u, "columns": -4 * y, "all": 5 * u - 4 * y + 3}[change]
    maps = truth + rng.normal(0, noise, truth.shape) + 12.0 * (rng.random(shape) < outliers)
    valid = rng.random(shape) >= blank
    sigma = np.full(shape, noise)
    return origin_map(*np.where(valid, maps, np.nan), sigma, sigma, valid), truth, frame


def error(fit, truth, frame):
    """Distances from the truth, px, but for two frames on either side of the change."""
    off = np.hypot(fit.qx0 - truth[0], fit.qy0 - truth[1]).ravel()
    return np.delete(off, slice(frame - 2, frame + 2))


@pytest.mark.slow
@pytest.mark.parametrize(("change", "options"), [
    ("rows", {}), ("columns", {}), ("all", {}), ("columns", dict(outliers=0.15)), ("all", dict(blank=0.3)),
    ("columns", dict(noise=0.3)), ("all", dict(shape=(20, 16))), ("rows", dict(outliers=0.15)),
    ("rows", dict(noise=0.3))])
def test_a_changed_descan_is_followed(change, options):
    """Without parts, a spline is up to 13 px off beside the change, or half of the scan are outliers."""
    origin, truth, frame = scan(change, seed=1, **options)
    fit = fit_origin(origin)
    off = error(fit, truth, frame)
    noise = options.get("noise", NOISE)
    assert fit.accepted and off.max() < 6 * noise and off.mean() < noise
    assert np.isfinite(fit.sigma_qx0).all() and fit.decision.has("residuals_white")
    if change != "rows":  # there, a spline bends, too
        assert numbers_of(fit, "segments")["count"] == 2
    inside = origin.valid
    assert np.allclose(fit.residual_qx0[inside], (origin.qx0 - fit.qx0)[inside], atol=1e-9)


def test_the_frame_is_found():
    for frame in (240, 251, 263, 400):
        origin, *_ = scan("all", frame=frame)
        maps, sigmas = (origin.qx0, origin.qy0), (origin.sigma_qx0, origin.sigma_qy0)
        (found,) = find_breaks(maps, sigmas, origin.valid)
        assert abs(found - frame) <= 1


@pytest.mark.slow
def test_three_parts():
    origin, truth, _ = scan("columns", shape=(48, 24), frame=380)
    third = (np.arange(48 * 24) >= 800).reshape(48, 24)
    slope = 6 * np.linspace(-1, 1, 24) * third
    fit = fit_origin(replace(origin, qx0=origin.qx0 + slope))
    truth[0] += slope
    off = np.hypot(fit.qx0 - truth[0], fit.qy0 - truth[1]).ravel()
    assert np.delete(off, [*range(378, 382), *range(798, 802)]).max() < 0.2
    assert numbers_of(fit, "segments")["count"] == 3
    first, second = find_breaks((origin.qx0 + slope, origin.qy0), (origin.sigma_qx0, origin.sigma_qy0), origin.valid)
    assert abs(first - 380) <= 1 and abs(second - 800) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_one_descan_has_no_parts(seed):
    """Nor has one with outliers, with what a specimen adds, or with a bend that a spline follows."""
    origin, *_ = scan("nothing", seed=seed, outliers=0.2 if seed % 2 else 0.0, blank=0.2 if seed > 3 else 0.0)
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) for n in origin.valid.shape), indexing="ij")
    extra = [0 * x, 0.3 * np.sin(9 * x + seed) * np.sin(8 * y), 1.5 * np.sin(3 * x)][seed % 3]
    fit = fit_origin(replace(origin, qx0=origin.qx0 + extra))
    assert fit.accepted and not fit.decision.has("segments")


@pytest.mark.parametrize("seed", others_slow(range(4)))
def test_what_particles_deflect_is_no_changed_descan(seed):
    """Half a pixel along the gradient of three soft hills was fitted in parts in 14 of 24 such scans."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(*(np.linspace(-1, 1, 20),) * 2, indexing="ij")
    truth = np.stack([60 + 2 * x + 0.5 * y - 0.4 * x * y, 50 - y + 0.3 * x**2])
    hills = sum(rng.choice([-1, 1]) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 2 / rng.uniform(0.3, 0.7) ** 2)
                for cx, cy in rng.uniform(-1, 1, (3, 2)))
    deflected = np.stack(np.gradient(hills))
    measured = truth + 0.5 * deflected / np.abs(deflected).max() + rng.normal(0, NOISE, truth.shape)
    sigma = np.full(x.shape, NOISE)
    fit = fit_origin(origin_map(*measured, sigma, sigma, np.ones(x.shape, bool)))
    assert fit.accepted and not fit.decision.has("segments") and fit.decision.has("residuals_correlated")


def test_a_third_that_lies_elsewhere_is_refused_where_no_part_follows_it():
    """A part of the columns is no part of the time: a plane that holds for the rest is not the descan there."""
    origin, *_ = scan("nothing")
    bent = origin.qx0.copy()
    bent[:, 16:] += 6 + 4 * np.linspace(-1, 1, 30)[:, None]
    fit = fit_surface(bent, NOISE, True, "plane")
    assert not fit.accepted and numbers_of(fit.decision, "two_surfaces")["percent"] == pytest.approx(100 / 3, abs=2)
    scattered = origin.qx0 + 9 * (np.random.default_rng(0).random(bent.shape) < 1 / 3)
    assert fit_surface(scattered, NOISE, True, "plane").accepted


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (40, 2), (9, 3)])
@pytest.mark.parametrize("sigma", [0.0, NOISE])
def test_narrow_scans_and_ones_without_noise(shape, sigma):
    fit = fit_origin(scan("all", shape=shape, seed=3, noise=sigma)[0])
    assert np.isfinite(fit.qx0).all() and np.isfinite(fit.sigma_qy0).all()


@pytest.mark.parametrize("sigma", [0.0, NOISE])
def test_a_line_is_refused_and_two_columns_are_followed(sigma):
    line = fit_origin(scan("all", shape=(40, 1), seed=3, noise=sigma)[0])
    assert not line.accepted and numbers_of(line, "two_surfaces")["percent"] > 30
    origin, truth, frame = scan("all", shape=(40, 2), seed=3, noise=sigma)
    fit = fit_origin(origin)
    assert fit.accepted and error(fit, truth, frame).max() < 3 * sigma + 1e-6
