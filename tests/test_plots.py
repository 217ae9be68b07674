"""Figures show what they are given, where it is."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.patches import Ellipse

from py4dstem_prenet import plots


@pytest.fixture
def axes():
    figure, axes = plt.subplots(2, 3)
    yield axes
    plt.close(figure)


def test_maps_are_symmetric_and_leave_out_what_is_not_valid(axes):
    values = np.linspace(4, 6, 12).reshape(3, 4)
    valid = np.ones((3, 4), bool)
    values[0, 0], valid[0, 0] = 100, False
    image = plots.show_map(values, axes[0, 0], valid=valid).images[0]
    low, high = image.get_clim()
    assert (low + high) / 2 == pytest.approx(np.median(values[valid])) and high < 7
    assert image.get_array().mask[0, 0] and image.get_array().mask.sum() == 1


def test_residual_is_measured_less_fitted_about_zero(axes):
    measured, fitted = np.random.default_rng(0).normal(size=(2, 2, 5, 6))
    plots.show_origin(measured, fitted, axes)
    for row in range(2):
        image = axes[row, 2].images[0]
        assert np.allclose(image.get_array(), measured[row] - fitted[row])
        assert sum(image.get_clim()) == pytest.approx(0)


@pytest.mark.parametrize("theta", [0.0, 0.4, 1.9])
def test_ellipse_lies_where_the_forward_model_puts_it(axes, theta):
    a, b, radius, center = 1.1, 1 / 1.1, 20.0, (30.0, 35.0)
    ax = plots.show_ellipse(np.ones((64, 64)), center, (a, b, theta), radius, axes[0, 0])
    red = [p for p in ax.patches if isinstance(p, Ellipse)][-1]
    drawn = red.get_patch_transform().transform(red.get_path().vertices)[:, ::-1] - center  # (qx, qy)
    turn = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    ideal = drawn @ np.linalg.inv(turn @ np.diag([a, b]) @ turn.T).T
    on_curve = np.hypot(*drawn.T) > 0.5 * radius  # Bezier control points lie near, the closing point at zero
    assert np.hypot(*ideal[on_curve].T).mean() == pytest.approx(radius, rel=0.03)
    assert np.ptp(np.hypot(*ideal[on_curve].T)) < 0.06 * radius


def test_rings_become_lines(axes):
    x, y = np.meshgrid(np.arange(96) - 48.0, np.arange(96) - 47.0, indexing="ij")
    ratio, theta = 1.1, 0.7
    c, s = np.cos(theta), np.sin(theta)
    along, across = (x * c + y * s) / ratio**0.5, (-x * s + y * c) * ratio**0.5
    ring = np.exp(-0.5 * (np.hypot(along, across) - 28) ** 2)
    vector = (ratio - 1) * np.array([np.cos(2 * theta), np.sin(2 * theta)])
    spread = []
    for taken_out in ((0.0, 0.0), vector):
        axes[0, 0].clear()
        shown = plots.show_polar(ring, (48, 47), axes[0, 0], vector=taken_out).images[0].get_array()
        spread.append(np.ptp(np.asarray(shown).argmax(1)))
    assert spread[0] > 4 and spread[1] <= 1  # half pixels


def test_difference_is_raw_less_denoised(axes):
    raw, denoised = np.random.default_rng(1).poisson(5, (2, 16, 16)).astype(float)
    plots.show_denoised(raw, denoised, axes[0])
    assert np.allclose(axes[0, 2].images[0].get_array(), raw - denoised)


def test_edge_of_a_stretched_disk_becomes_a_straight_line(axes):
    x, y = np.meshgrid(np.arange(64) - 31.0, np.arange(64) - 33.0, indexing="ij")
    ratio = 1.08
    distance = np.hypot(x / ratio**0.5, y * ratio**0.5) - 12  # the a axis along +qx
    disk = np.clip(0.5 - distance, 0, 1)
    ax = plots.show_edge(disk, (31, 33), 12.0, axes[0, 0], vector=(ratio - 1, 0.0))
    before, after = (line.get_ydata() for line in ax.lines)
    assert before[0] - before[45] == pytest.approx(12 * (ratio**0.5 - ratio**-0.5), abs=0.2)  # 0 and 90 degrees
    assert np.ptp(after) < 0.25 and np.median(after) == pytest.approx(12, abs=0.1)
    marked = plots.show_polar(disk, (31, 33), axes[0, 1], edge=12.0).lines[0].get_xdata()
    assert np.allclose(marked, before)
