"""Projection of patterns onto the detector: positions to a hundredth of a pixel, ellipses, rotations."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scans import moments

from py4dstem_prenet.core.geometry import ellipse_axes, ellipse_matrix
from py4dstem_prenet.simulation.pattern import CENTER, SAMPLES, project, rotation_matrix, soft_disk
from py4dstem_prenet.simulation.specimens import GRID


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
