"""What must hold of any scan: what is done to the patterns or the scan is done to the answers, and py4DSTEM uses them.

Truth of absolute values is for other modules. Here each answer is compared with the answer to the same data, moved.
"""

from functools import cache

import numpy as np
import py4DSTEM
import pytest
import torch
from hypothesis import Phase, assume, given, settings, strategies as st
from scans import origin_map, simulated

from py4dstem_prenet.core import Ellipse, OriginFit
from py4dstem_prenet.core.flags import Decision
from py4dstem_prenet.core.geometry import ellipse_axes, ellipse_matrix
from py4dstem_prenet.descan.fit import fit_origin
from py4dstem_prenet.fits import Aperture, DiskModel
from py4dstem_prenet.fits.pooling import pool_arrays
from py4dstem_prenet.io import calibrations
from py4dstem_prenet.origin.measure import measure_origin
from py4dstem_prenet.pipeline import calibrate

SCAN = dict(scan=(4, 5), shape=(96, 80), dose=10_000.0, ratio=1.05, theta=0.5, seed=3)
# A scan takes a second or two: a failure is told as it was found, not looked at again a hundred times.
few = settings(max_examples=4, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
many = settings(max_examples=40, deadline=None, derandomize=True, database=None)

# A symmetry of patterns: transpose, then flip rows, then flip columns. All eight of a square are among them.
symmetries = st.tuples(st.booleans(), st.booleans(), st.booleans())


def moved(images, symmetry):
    """Images (..., Qx, Qy), moved."""
    transpose, rows, columns = symmetry
    images = images.swapaxes(-2, -1) if transpose else images
    images = images[..., ::-1, :] if rows else images
    return np.ascontiguousarray(images[..., ::-1] if columns else images)


def moved_origin(qx0, qy0, shape, symmetry):
    """Where a pixel (qx0, qy0) of patterns of a shape is after the move."""
    transpose, rows, columns = symmetry
    if transpose:
        qx0, qy0, shape = qy0, qx0, shape[::-1]
    return shape[0] - 1 - qx0 if rows else qx0, shape[1] - 1 - qy0 if columns else qy0


def moved_vector(vector, symmetry):
    """(eps cos 2 theta, eps sin 2 theta) after the move."""
    transpose, rows, columns = symmetry
    c, s = vector
    return np.array([-c if transpose else c, -s if rows != columns else s])


@cache
def known():
    """A scan and its calibration."""
    counts = simulated(**SCAN).counts
    return counts, calibrate(py4DSTEM.DataCube(counts.copy()), progress=False)


def apart(found, qx0, qy0):
    return np.hypot(found.qx0 - qx0, found.qy0 - qy0)


def close_to(found, qx0, qy0):
    """The networks know no symmetry, so the beam that is learned differs a little: by less than positions are known."""
    sigma = np.median(np.hypot(known()[1].origin.sigma_qx0, known()[1].origin.sigma_qy0))
    assert np.median(apart(found, qx0, qy0)) < sigma / 2 and apart(found, qx0, qy0).max() < 3 * sigma < 0.2


# --- calibrate


@pytest.mark.slow
@few
@given(symmetries, st.tuples(st.integers(0, 9), st.integers(0, 9)), st.floats(0.1, 300))
def test_calibration_follows_transposed_flipped_turned_shifted_and_scaled_patterns(symmetry, shift, gain):
    counts, before = known()
    data = np.pad(moved(counts, symmetry), ((0, 0), (0, 0), (shift[0], 0), (shift[1], 0))).astype(np.float32)
    report = calibrate(py4DSTEM.DataCube(data * np.float32(gain)), progress=False)
    for found, was in ((report.origin, before.origin), (report.fit, before.fit)):
        qx0, qy0 = moved_origin(was.qx0, was.qy0, counts.shape[2:], symmetry)
        close_to(found, qx0 + shift[0], qy0 + shift[1])
    assert report.origin.valid.all() and report.fit.accepted and report.ellipse.accepted
    assert report.origin.radius == pytest.approx(before.origin.radius, abs=0.05)
    assert report.ellipse.vector == pytest.approx(moved_vector(before.ellipse.vector, symmetry), abs=0.002)
    a, _, theta = ellipse_axes(moved_vector(before.ellipse.vector, symmetry))
    assert np.cos(2 * (report.ellipse.theta - theta)) > 0.995 and report.ellipse.a == pytest.approx(a, abs=0.001)
    assert report.noise.counting and report.noise.gain == pytest.approx(gain, rel=1e-4)
    assert report.noise.dose == pytest.approx(before.noise.dose, rel=1e-3)


@pytest.mark.slow
@few
@given(st.permutations(range(20)))
def test_permuted_positions_permute_the_measured_origin(order):
    """To 0.02 px in the median: the guess is a smooth surface over the scan, and a shuffled descan has none, so that
    now and then the network's answer stands instead of the fit's."""
    counts, before = known()
    found = measure_origin(counts.reshape(20, *counts.shape[2:])[order].reshape(counts.shape), progress=False)
    qx0, qy0 = (q.ravel()[order].reshape(4, 5) for q in (before.origin.qx0, before.origin.qy0))
    distance = apart(found, qx0, qy0)
    assert np.median(distance) < 0.02 and np.mean(distance < 0.1) >= 0.75 and distance.max() < 1
    assert found.valid.all()


@pytest.mark.slow
@few
@given(st.tuples(st.floats(0, 1), st.floats(0, 1)), st.integers(0, 65535))
def test_a_stuck_pixel_moves_no_origin(place, value):
    """By more than 0.02 px where no disk comes; in the disk, whose electrons it costs, by less than a sigma or two."""
    counts, before = known()
    counts = counts.copy()
    x, y = (int(p * (n - 1)) for p, n in zip(place, counts.shape[2:], strict=True))
    counts[:, :, x, y] = value
    found = measure_origin(counts, progress=False)
    distance = apart(found, before.origin.qx0, before.origin.qy0)
    nearest = np.hypot(before.origin.qx0 - x, before.origin.qy0 - y).min()
    if nearest > before.origin.radius + 5:
        assert distance.max() < 0.02
    else:
        assert distance.max() < 2 * np.median(np.hypot(before.origin.sigma_qx0, before.origin.sigma_qy0))


# --- the fit of a disk


@cache
def disks():
    """Windows (16, side, side) of an elliptical disk whose contrast has no symmetry, with where it is."""
    rng = np.random.default_rng(0)
    aperture = Aperture(5.0, 0.5, (0.03, 0.02), (0.3, 0.1))
    model = DiskModel(aperture)
    at = rng.uniform(-0.9, 0.9, (16, 2))
    axis = np.arange(model.side) - model.side // 2
    x, y = axis[:, None] - at[:, :1, None], axis - at[:, 1:, None]
    x, y = np.broadcast_arrays(x, y)
    u, v = np.einsum("ij,jnxy->inxy", np.linalg.inv(ellipse_matrix(aperture.vector)), np.stack([x, y]))
    disk = 1 / (1 + np.exp((np.hypot(u, v) - 5) / 0.3)) * (1 + 0.05 * u - 0.03 * v)
    return rng.poisson(100 * disk + 2).astype(np.float32), at, aperture


@pytest.mark.slow
@many
@given(symmetries, st.floats(0.2, 50), st.permutations(range(16)))
def test_the_disk_fit_follows_its_window(symmetry, gain, order):
    windows, at, aperture = disks()

    def fit(windows, start, vector):
        model = DiskModel(Aperture(aperture.radius, aperture.blur, tuple(vector), aperture.contrast))
        return model.fit(torch.from_numpy(windows), torch.ones(windows.shape, dtype=torch.bool),
                         torch.from_numpy(start).float(), 0.0)

    side = windows.shape[-1]
    guess = np.zeros((16, 2))
    was = fit(windows, guess, aperture.vector)
    assert np.abs(was.position.numpy() - at).max() < 0.15
    found = fit(moved(windows, symmetry)[list(order)], guess[list(order)], moved_vector(aperture.vector, symmetry))
    middle = side // 2
    expected = moved_origin(*(was.position.numpy().T + middle), (side, side), symmetry)
    assert found.position.numpy().T == pytest.approx(np.stack(expected)[:, list(order)] - middle, abs=2e-3)
    swap = [1, 0] if symmetry[0] else [0, 1]
    spread = was.covariance.diagonal(dim1=1, dim2=2).numpy()[list(order)][:, swap]
    assert found.covariance.diagonal(dim1=1, dim2=2).numpy() == pytest.approx(spread, rel=0.02)


@many
@given(symmetries, st.integers(0, 2**31))
def test_pooling_follows_its_patterns(symmetry, seed):
    rng = np.random.default_rng(seed)
    patterns = rng.poisson(3, (6, 34, 41)).astype(np.float32)
    qx0, qy0 = 17 + rng.uniform(-2, 2, 6), 20 + rng.uniform(-2, 2, 6)
    assume(np.abs((qx0 % 0.25) - 0.125).min() > 1e-6)
    was = pool_arrays(patterns, qx0, qy0)
    found = pool_arrays(moved(patterns, symmetry), *moved_origin(qx0, qy0, (34, 41), symmetry))
    mean, weight = moved(was.mean, symmetry), moved(was.weight, symmetry)
    center = moved_origin(*was.center, was.mean.shape, symmetry)
    size = 12
    (x, y), (u, v) = (np.round(c).astype(int) for c in (center, found.center))
    here, there = (np.s_[i - size : i + size + 1, j - size : j + size + 1] for i, j in ((x, y), (u, v)))
    assert found.mean[there] == pytest.approx(mean[here], abs=0.02 * mean.max())
    assert found.weight[there] == pytest.approx(weight[here], abs=0.6)


# --- surfaces


@pytest.mark.slow
@settings(few, max_examples=8)
@given(symmetries, st.floats(0.1, 10), st.floats(-50, 50), st.integers(0, 1000))
def test_a_descan_fit_follows_the_scan_and_its_own_coordinates(symmetry, scale, shift, seed):
    """The scan transposed and flipped, the origin shifted: a parabola through it follows."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(-1, 1, 9), np.linspace(-1, 1, 8), indexing="ij")
    truth = [np.einsum("k,kij", rng.normal(size=6), np.stack([x * 0 + 1, x, y, x * x, x * y, y * y])) for _ in "xy"]
    maps = np.stack(truth) + rng.normal(0, 0.05, (2, 9, 8))
    sigma, valid = np.full((2, 9, 8), 0.05), rng.random((9, 8)) < 0.9

    def fit(maps, sigma, valid):
        return fit_origin(origin_map(*maps, *sigma, valid), "parabola")

    was = fit(maps, sigma, valid)
    found = fit(moved(maps, symmetry) * scale + shift, moved(sigma, symmetry) * scale, moved(valid, symmetry))
    for now, before in ((found.qx0, was.qx0), (found.qy0, was.qy0)):
        assert now == pytest.approx(moved(before, symmetry) * scale + shift, abs=0.01 * scale)
    assert found.residual_qx0[moved(valid, symmetry)] == pytest.approx(
        moved(was.residual_qx0, symmetry)[moved(valid, symmetry)] * scale, abs=0.01 * scale)


# --- what is written


@many
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**31), st.floats(1.0, 1.15), st.floats(0, 3.14))
def test_what_is_written_is_what_py4dstem_uses(rx, ry, seed, ratio, theta):
    """Through `BraggVectors`: measured disks come out about zero, and on the circles that they lay on."""
    rng = np.random.default_rng(seed)
    qx0, qy0 = rng.uniform(8, 24, (2, rx, ry))
    vector = (ratio - 1) * np.array([np.cos(2 * theta), np.sin(2 * theta)])
    a, b, angle = ellipse_axes(vector)
    cube = py4DSTEM.DataCube(np.zeros((rx, ry, 32, 36), np.uint8))
    sigma = np.full((2, rx, ry), 0.1)
    valid = np.ones((rx, ry), bool)
    assert calibrations.write_origin(cube, origin_map(qx0 + 0.01, qy0, *sigma, valid))
    assert calibrations.write_fit(cube, OriginFit(qx0, qy0, *sigma, *sigma, "plane", Decision(True)))
    accepted = Ellipse(a, b, angle, vector, np.eye(2) * 1e-6, Decision(True))
    assert calibrations.write_ellipse(cube, accepted)
    ideal = 7 * np.stack([np.cos(np.arange(5)), np.sin(np.arange(5))])
    vectors = py4DSTEM.BraggVectors((rx, ry), (32, 36), calibration=cube.calibration)
    for i, j in np.ndindex(rx, ry):
        disks = np.zeros(5, vectors._v_uncal.dtype)
        disks["qx"], disks["qy"] = ellipse_matrix(vector) @ ideal + np.array([[qx0[i, j]], [qy0[i, j]]])
        disks["intensity"] = 1
        vectors._v_uncal[i, j].add(disks)
    vectors.setcal()
    for i, j in np.ndindex(rx, ry):
        assert np.stack([vectors.cal[i, j].qx, vectors.cal[i, j].qy]) == pytest.approx(b * ideal, abs=1e-9)
    read = calibrations.read_origin(cube)
    assert np.array_equal(read.qx0, qx0 + 0.01) and np.array_equal(read.qy0, qy0)


@many
@given(st.integers(2, 4), st.integers(2, 4), st.integers(0, 2**31))
def test_positions_without_a_beam_get_a_neighbors_origin_and_stay_marked(rx, ry, seed):
    rng = np.random.default_rng(seed)
    maps = rng.uniform(8, 24, (2, rx, ry))
    valid = rng.random((rx, ry)) < 0.5
    assume(valid.any())
    maps[:, ~valid] = np.nan if seed % 2 else 1000.0  # a guess is not to be believed, either
    cube = py4DSTEM.DataCube(np.zeros((rx, ry, 32, 32), np.uint8))
    calibrations.write_origin(cube, origin_map(*maps, *np.ones((2, rx, ry)), valid))
    written = np.stack(cube.calibration.get_origin_meas())
    assert np.isfinite(written).all() and np.array_equal(written[:, valid], maps[:, valid])
    assert np.array_equal(cube.calibration.get_origin_meas_mask(), valid)
    x, y = np.nonzero(valid)
    for i, j in np.argwhere(~valid):
        distance = np.hypot(x - i, y - j)
        nearest = distance == distance.min()
        assert (written[:, i, j, None] == maps[:, x[nearest], y[nearest]]).all(0).any()


def test_sigmas_of_an_earlier_measurement_are_not_those_of_a_later_one():
    """py4DSTEM's own origin, set after ours, has no sigma: it reads as 1 px, not as what ours had."""
    cube = py4DSTEM.DataCube(np.zeros((2, 3, 32, 32), np.uint8))
    calibrations.write_origin(cube, origin_map(*np.full((4, 2, 3), 0.1), np.ones((2, 3), bool)))
    assert (calibrations.read_origin(cube).sigma_qx0 == 0.1).all()
    cube.calibration.set_origin_meas((np.full((2, 3), 9.0), np.full((2, 3), 9.0)))
    assert (calibrations.read_origin(cube).sigma_qx0 == 1).all() and (calibrations.read_origin(cube).qx0 == 9).all()
