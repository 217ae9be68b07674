"""Pooling: recentered sums are where and what they should be, and unusable pixels stay out."""

import numpy as np
import pytest
from scipy.special import ndtr

from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.core.noise import NoiseModel
from py4dstem_prenet.fits.pooling import pool, pool_arrays, pooled_positions

SIZE = 48


def disk(x, y, radius=6.0, edge=0.4, size=SIZE, k=6):
    """A round soft disk, averaged over its pixels."""
    inside = (np.arange(k) + 0.5) / k - 0.5
    at = (np.arange(size)[:, None] + inside).ravel()
    rho = np.hypot(at[:, None] - x, at[None, :] - y)
    return ndtr((radius - rho) / edge).reshape(size, k, size, k).mean((1, 3))


def moments(image, center):
    """Centroid and (xx - yy, 2 xy) / (xx + yy)."""
    x, y = (np.arange(n) - c for n, c in zip(image.shape, center, strict=True))
    total = image.sum()
    cx, cy = (image.sum(1) @ x) / total, (image.sum(0) @ y) / total
    xx, yy = (image.sum(1) @ (x - cx) ** 2) / total, (image.sum(0) @ (y - cy) ** 2) / total
    xy = ((x - cx) @ image @ (y - cy)) / total
    return np.array([cx, cy]), np.array([xx - yy, 2 * xy]) / (xx + yy)


def noise_model(gain=1.0, offset=0.0, bad=None, readout=0.0):
    bad = np.zeros((SIZE, SIZE), bool) if bad is None else bad
    return NoiseModel(gain, offset, readout, bad, False, 100.0)


@pytest.mark.parametrize("fraction", [(0.0, 0.0), (0.5, 0.0), (0.5, 0.5), (0.25, 0.6), None])
def test_centered_and_round(fraction):
    rng = np.random.default_rng(0)
    origins = rng.uniform(20, 26, (24, 2)) if fraction is None else np.tile(np.add(23, fraction), (4, 1))
    pooled = pool_arrays(np.array([disk(*q) for q in origins]), *origins.T)
    at, shape = moments(pooled.mean, pooled.center)
    assert np.abs(at).max() < 2e-3
    assert np.abs(shape).max() < 3e-4
    assert pooled.positions == len(origins)
    assert pooled.mean.sum() == pytest.approx(disk(23, 23).sum(), rel=1e-3)


def test_off_the_detector_carries_no_weight():
    patterns = np.ones((2, SIZE, SIZE))
    pooled = pool_arrays(patterns, [20.0, 28.0], [24.0, 24.0])
    assert np.allclose(pooled.mean[pooled.weight > 0], 1)
    # 8 px apart: as many rows are seen by one pattern only at either end
    assert set(np.unique(pooled.weight)) == {1, 2} and pooled.mean.shape == (SIZE + 8, SIZE)
    assert (pooled.weight[:, SIZE // 2] == 1).sum() == 16


def test_no_weight_where_interpolation_would_reach_beyond_the_detector():
    pooled = pool_arrays(np.ones((1, SIZE, SIZE)), [23.5], [24.0])
    assert (pooled.weight > 0).sum() == (SIZE - 3) * SIZE
    assert not pooled.mean[pooled.weight == 0].any()


def test_bad_pixels_are_left_out_not_filled():
    bad = np.zeros((SIZE, SIZE), bool)
    bad[10, 12] = bad[30:, 5] = True
    patterns = np.ones((3, SIZE, SIZE), np.float32)
    patterns[:, bad] = 1e6
    steady = pool_arrays(patterns, [23.3] * 3, [24.6] * 3, bad)
    assert steady.mean.max() == pytest.approx(1, abs=1e-5)
    row, column = 10 - 23 + int(steady.center[0]), 12 - 24 + int(steady.center[1])
    assert steady.weight[row, column] == 0
    # where the scan moves the bad pixel about, others fill the hole
    moving = pool_arrays(patterns, [19.3, 23.3, 27.3], [20.6, 24.6, 28.6], bad)
    assert moving.weight[row + 4, column + 4] > 0 and moving.mean.max() == pytest.approx(1, abs=1e-5)


def test_streamed_equals_in_memory_and_uses_units():
    rng = np.random.default_rng(2)
    origins = 23 + np.stack(np.meshgrid(np.linspace(-1, 1, 5), np.linspace(-2, 2, 6), indexing="ij"))
    electrons = rng.poisson(np.array([10 * disk(x, y) + 1 for x, y in origins.reshape(2, -1).T])).reshape(
        5, 6, SIZE, SIZE
    )
    here = pool_arrays(electrons, *origins)
    stored = (electrons * 12 + 100).astype(np.uint16)
    there = pool(stored, *origins, noise_model(gain=12.0, offset=100.0))
    assert np.allclose(here.mean, there.mean, atol=1e-4)
    assert np.array_equal(here.weight, there.weight)
    whole = sum(there.parts * there.parts_weight) / np.maximum(there.weight, 1)
    assert np.allclose(whole, there.mean, atol=1e-4)


def test_masked_and_missing_origins():
    patterns = np.stack([disk(23, 23)] * 3 + [100 * disk(10, 10)] * 2).reshape(1, 5, SIZE, SIZE)
    qx0 = np.array([[23.0, 23.0, 23.0, np.nan, 23.0]])
    valid = np.array([[True, True, True, True, False]])
    pooled = pool(patterns, qx0, np.full((1, 5), 23.0), noise_model(), valid=valid)
    assert pooled.positions == 3 and pooled.mean.max() < 1.1
    with pytest.raises(PrenetError):
        pool(patterns, qx0, qx0 * np.nan, noise_model())


def test_a_stray_origin_does_not_blow_up_the_frame():
    patterns = np.stack([disk(23, 23)] * 9)
    qx0 = np.full(9, 23.0)
    qx0[4] = 4000.0
    pooled = pool_arrays(patterns, qx0, np.full(9, 23.0))
    assert max(pooled.mean.shape) <= 2 * SIZE
    assert pooled.mean[int(pooled.center[0]), int(pooled.center[1])] == pytest.approx(1, abs=1e-3)


def test_a_sample_where_little_of_the_scan_can_be_used(monkeypatch):
    """An even sample of the whole scan would hold too few of these positions: then an even one of them serves."""
    monkeypatch.setattr("py4dstem_prenet.fits.pooling.MIN_POOLED_POSITIONS", 100)
    monkeypatch.setattr("py4dstem_prenet.fits.pooling.POOLED_ELECTRONS", 100.0)
    use = np.zeros((80, 80), bool)
    use[10:30, 40:55] = True
    at = pooled_positions(use.ravel(), use.shape, 1e4)
    assert len(at) == 100 and (np.diff(at) > 0).all() and use.ravel()[at].all()
    rows, columns = np.divmod(at, 80)
    assert set(rows) == set(range(10, 30)) and len(set(columns)) > 8


def test_nothing_to_pool_in_memory_is_refused():
    with pytest.raises(PrenetError):
        pool_arrays(np.ones((2, SIZE, SIZE)), [np.nan, np.nan], [20.0, 20.0])


def test_an_even_sample_of_a_large_scan_serves(monkeypatch):
    rng = np.random.default_rng(3)
    origins = rng.uniform(22, 24, (2, 20, 20))
    patterns = np.array([disk(x, y, k=3) for x, y in origins.reshape(2, -1).T]).reshape(20, 20, SIZE, SIZE)
    whole = pool(patterns, *origins, noise_model())
    monkeypatch.setattr("py4dstem_prenet.fits.pooling.MIN_POOLED_POSITIONS", 100)
    monkeypatch.setattr("py4dstem_prenet.fits.pooling.POOLED_ELECTRONS", 100.0)
    some = pool(patterns, *origins, noise_model())
    assert whole.positions == 400 and 60 <= some.positions <= 100
    assert some.mean == pytest.approx(whole.mean, abs=0.02)
    assert (some.parts_weight.max((1, 2)) > 0).all()  # every part of the scan is in the sample
    # where few electrons are in a pattern, more positions are taken
    monkeypatch.setattr("py4dstem_prenet.fits.pooling.POOLED_ELECTRONS", 1e9)
    assert pool(patterns, *origins, noise_model()).positions == 400
