"""Ellipse and polar coordinates against images drawn from their own definition."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scans import ideal_radius, numbers_of, others_slow
from scipy.special import ndtr

from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.core.geometry import ellipse_axes, ellipse_matrix, ellipse_vector
from py4dstem_prenet.ellipse.decide import combine, decide_ellipse
from py4dstem_prenet.fits.disk_edge import fit_disk
from py4dstem_prenet.fits.polar import to_polar
from py4dstem_prenet.fits.pooling import pool_arrays
from py4dstem_prenet.fits.ring_fit import refine_rings

REAL = Path(__file__).parents[2] / "shared" / "real"
VECTORS = [(0.0, 0.0), (0.05, 0.02), (-0.03, 0.04), (0.0, -0.08)]


def draw(profile, vector, center, size, k=6):
    """An image whose intensity depends on the ideal radius alone, averaged over its pixels."""
    fine = (np.asarray(center) + 0.5) * k - 0.5
    rho = ideal_radius((size * k, size * k), fine, vector)
    return profile(rho / k).reshape(size, k, size, k).mean((1, 3))


def scan(profile, vector, size=64, positions=36, dose=None, seed=0):
    rng = np.random.default_rng(seed)
    origins = (size - 1) / 2 + rng.uniform(-1.5, 1.5, (positions, 2))
    patterns = np.array([draw(profile, vector, q, size) for q in origins])
    if dose:
        patterns = rng.poisson(patterns * dose / patterns.sum((1, 2)).mean())
    return pool_arrays(patterns.reshape(6, -1, size, size), *origins.T)


def rings(rho):
    return (
        0.2 * np.exp(-rho / 15)
        + 0.3 * np.exp(-0.5 * ((rho - 26) / 1.2) ** 2)
        + 0.2 * np.exp(-0.5 * ((rho - 38) / 1.5) ** 2)
        + 40 * ndtr((5 - rho) / 0.4)
        + 0.02
    )


# Coordinates


@pytest.mark.parametrize("vector", VECTORS[1:])
def test_vector_axes_matrix(vector):
    a, b, theta = ellipse_axes(vector)
    assert a >= b and a * b == pytest.approx(1) and 0 <= theta < np.pi
    assert ellipse_vector(a, b, theta) == pytest.approx(vector)
    assert ellipse_vector(b, a, theta + np.pi / 2) == pytest.approx(vector)  # the same ellipse
    turn = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    expected = turn @ np.diag([np.sqrt(a / b), np.sqrt(b / a)]) @ turn.T
    assert ellipse_matrix(vector) == pytest.approx(expected)
    assert ellipse_matrix(torch.tensor(vector, dtype=torch.float64)).numpy() == pytest.approx(expected)
    assert all(type(v) is float for v in (a, b, theta))


def test_no_ellipse_is_the_identity():
    assert ellipse_axes((0.0, 0.0)) == (1.0, 1.0, 0.0)
    assert ellipse_matrix((0.0, 0.0)) == pytest.approx(np.eye(2))


def test_azimuth_runs_from_rows_to_columns():
    image = np.zeros((41, 41), np.float32)
    image[30, 20] = 1  # qx above the center: phi = 0
    image[20, 30] = 2  # qy above the center: phi = 90 degrees
    polar, weight = to_polar(image, (20, 20), np.array([10.0]), 8)
    assert polar[:, 0] == pytest.approx([1, 0, 2, 0, 0, 0, 0, 0], abs=1e-6)
    assert (weight == 1).all()


@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_polar_map_of_rings_is_straight(vector, as_tensor):
    def profile(rho):
        return np.exp(-0.5 * ((rho - 20) / 3) ** 2)

    image = draw(profile, vector, (31.3, 32.8), 64)
    image = torch.tensor(image) if as_tensor else image
    radii = np.arange(10, 27, 1.0)
    polar, _ = to_polar(image, (31.3, 32.8), radii, 90, vector=vector, mode="bicubic")
    assert isinstance(polar, torch.Tensor) == as_tensor and polar.shape == (90, 17)
    polar = np.asarray(polar)
    assert polar.std(0).max() < 8e-3
    assert polar.mean(0) == pytest.approx(profile(radii), abs=0.02)


def test_polar_map_leaves_out_what_cannot_be_used():
    weight = np.ones((33, 33))
    weight[:, :10] = 0
    polar, seen = to_polar(np.ones((33, 33)), (16, 16), np.array([4.0, 10.0, 30.0]), 36, weight=weight)
    assert seen[:, 0].all() and not seen[:, 2].any()
    assert 0 < seen[:, 1].mean() < 1 and not polar[seen == 0].any() and np.allclose(polar[seen > 0], 1)


def test_polar_map_has_gradients():
    image = torch.tensor(draw(rings, (0.03, 0.0), (31.5, 31.5), 64))
    vector = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    polar, _ = to_polar(image, (31.5, 31.5), torch.arange(20.0, 30.0), 64, vector=vector)
    polar.std(0).sum().backward()
    assert vector.grad[0] < 0 and abs(vector.grad[1]) < 0.1 * abs(vector.grad[0])


# The direct beam


@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.parametrize(("radius", "edge"), others_slow([(3.5, 0.1), (6.5, 0.1), (13.0, 0.1)]))
def test_disk_is_unbiased(vector, radius, edge):
    pooled = scan(lambda rho: 5 * ndtr((radius - rho) / edge) + 0.01, vector)
    fit = fit_disk(pooled, radius * 1.12)
    assert fit.vector == pytest.approx(vector, abs=0.0015 if radius > 5 else 0.0025)
    assert fit.radius == pytest.approx(radius, abs=0.15)
    assert np.subtract(fit.center, pooled.center) == pytest.approx([0, 0], abs=0.02)


def test_disk_with_structure_inside_and_slope_outside():
    vector = (0.04, -0.02)
    pooled = scan(lambda rho: ndtr((9 - rho) / 0.1), vector)
    x, y = (np.arange(n) - c for n, c in zip(pooled.mean.shape, pooled.center, strict=True))
    x, y = x[:, None] / 9, y[None, :] / 9
    inside = 1 + 0.2 * x - 0.1 * y + 0.15 * (x**2 - y**2) + 0.1 * x * y
    outside = 0.01 * (3 + x)
    mean, parts = pooled.mean * inside + outside, pooled.parts * inside + outside
    uneven = type(pooled)(**{**vars(pooled), "mean": mean, "parts": parts})
    fit = fit_disk(uneven, 9)
    assert fit.vector == pytest.approx(vector, abs=0.005)


@pytest.mark.slow
def test_disk_pulls():
    vector, pulls = np.array([0.03, 0.03]), []
    for seed in range(12):
        pooled = scan(lambda rho: ndtr((5 - rho) / 0.4) + 1e-3, vector, dose=300, seed=seed)
        fit = fit_disk(pooled, 5, systematic=0.0)
        error = fit.vector - vector
        pulls.append(error @ np.linalg.solve(fit.covariance, error))
    assert 0.5 < np.mean(pulls) < 6  # 2 expected, of sixteen parts and twelve scans


def test_systematic_sigma_is_a_floor():
    pooled = scan(lambda rho: 5 * ndtr((6 - rho) / 0.4), (0.0, 0.0))
    assert np.diag(fit_disk(pooled, 6, systematic=0.01).covariance).min() >= 0.9999e-4


def test_disk_that_cannot_be_seen_says_so():
    pooled = scan(lambda rho: 5 * ndtr((6 - rho) / 0.4), (0.0, 0.0))
    hidden = pooled.weight.copy()
    hidden[:, : int(pooled.center[1]) + 2] = 0
    fit = fit_disk(type(pooled)(**{**vars(pooled), "weight": hidden}), 6)
    assert np.diag(fit.covariance).min() > 0.1
    with pytest.raises(PrenetError):
        fit_disk(pooled, 0)


# Rings


@pytest.mark.parametrize(("vector",), others_slow([(vector,) for vector in VECTORS[::-1]]))
def test_rings(vector):
    pooled = scan(rings, vector, size=96, dose=20_000)
    fit = refine_rings(pooled)
    assert fit.improved or vector == (0.0, 0.0)
    assert fit.vector == pytest.approx(vector, abs=0.003)
    assert fit.continuity > 0.8


@pytest.mark.slow
def test_rings_find_their_center():
    pooled = scan(rings, (0.04, 0.0), size=96, dose=20_000)
    fit = refine_rings(pooled, start_center=np.add(pooled.center, (1.7, -1.2)), inner=12)
    assert fit.improved and fit.center == pytest.approx(pooled.center, abs=0.1)
    assert fit.vector == pytest.approx((0.04, 0.0), abs=0.003)


def test_no_rings_no_claim():
    pooled = scan(lambda rho: 40 * ndtr((5 - rho) / 0.4) + 0.01, (0.05, 0.0), size=96, dose=2000)
    fit = refine_rings(pooled)
    assert not fit.improved or np.sqrt(np.trace(fit.covariance)) > 0.02


@pytest.mark.slow
def test_spots_of_one_crystal_claim_little():
    ideal = np.array([(i * 17, j * 19) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)])
    rng = np.random.default_rng(3)
    origins = 47.5 + rng.uniform(-1.5, 1.5, (16, 2))
    patterns = []
    for q in origins:
        image = draw(lambda rho: 10 * ndtr((4 - rho) / 0.4), (0.0, 0.0), q, 96)
        for spot in ideal:
            image = image + draw(lambda rho: 2 * ndtr((4 - rho) / 0.4), (0.0, 0.0), q + spot, 96, 2)
        patterns.append(image)
    pooled = pool_arrays(rng.poisson(patterns).reshape(4, 4, 96, 96), *origins.T)
    fit = refine_rings(pooled)
    assert fit.continuity < 0.5
    assert not fit.improved or np.sqrt(np.trace(fit.covariance)) > 0.03


def test_rings_need_room():
    pooled = scan(rings, (0.0, 0.0))
    with pytest.raises(PrenetError):
        refine_rings(pooled, inner=60)


@pytest.mark.skipif(not REAL.is_dir(), reason="real patterns are not here")
@pytest.mark.parametrize("start", [(128, 128), (126, 130)])
def test_real_gold(start):
    image = np.load(REAL / "au_rings_xgrating.npy")
    fit = refine_rings(pool_arrays(image[None], [start[0]], [start[1]]))
    a, b, theta = ellipse_axes(fit.vector)
    # published: 0.9659 and 147.4 degrees from the column axis toward the row axis
    assert b / a == pytest.approx(0.966, abs=0.004)
    assert (90 - np.degrees(theta)) % 180 == pytest.approx(147.4, abs=3)


@pytest.mark.skipif(not REAL.is_dir(), reason="real patterns are not here")
@pytest.mark.parametrize(("x", "y"), others_slow([(141, 99), (138, 102), (145, 97)]))
def test_real_bismuth_behind_its_beam_stop(x, y):
    image = np.load(REAL / "bi_rings_beamstop.npy").astype(np.float32)
    pooled = pool_arrays(image[None], [x], [y])
    fit = refine_rings(pooled, reach=4)
    assert fit.improved
    assert np.add(fit.center, (x, y)) - pooled.center == pytest.approx((141.7, 99.3), abs=0.5)


# Together


def test_combine():
    one, two = (np.array([0.02, 0.0]), np.eye(2) * 1e-6), (np.array([0.022, 0.0]), np.eye(2) * 4e-6)
    vector, covariance, agree, chi2 = combine({"disk": one, "rings": two})
    assert vector == pytest.approx([0.0204, 0.0]) and covariance == pytest.approx(np.eye(2) * 0.8e-6)
    assert agree and chi2 == pytest.approx(0.8)
    _, wider, agree, _ = combine({"disk": one, "rings": (np.array([0.05, 0.0]), np.eye(2) * 4e-6)})
    assert not agree and wider[0, 0] > 10 * covariance[0, 0]
    alone = combine({"disk": one})
    assert alone[0] == pytest.approx(one[0]) and alone[2] and alone[3] == 0
    with pytest.raises(PrenetError):
        combine({})


def test_evidence_that_disagrees_is_refused_unless_whole_rings_say_it():
    """Rings stand alone where they go all the way round and are sure enough; the disk's shape never does."""
    disk, rings = (np.array([0.02, 0.0]), np.eye(2) * 4e-6), (np.array([0.05, 0.0]), np.eye(2) * 4e-6)
    found = decide_ellipse({"direct beam": disk, "rings": rings}, [], continuity=0.5)
    assert not found.accepted
    assert numbers_of(found, "ellipse_sources_disagree")["sigmas"] == pytest.approx(0.03 / 8e-6**0.5)
    found = decide_ellipse({"direct beam": disk, "rings": rings}, [], continuity=0.9)
    assert found.accepted and found.vector == pytest.approx(rings[0]) and found.decision.has("beam_shape_left_out")
    vague = rings[0] * 3, np.eye(2) * 9e-5  # of .0095
    assert not decide_ellipse({"direct beam": disk, "rings": vague}, [], continuity=0.9).accepted
