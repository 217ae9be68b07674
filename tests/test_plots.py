"""Figures show what they are given, where it is."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.patches import Ellipse
from py4DSTEM import DataCube
from scans import simulated

from py4dstem_prenet import report as figures, review
from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.core.slopes import Slope


@pytest.fixture
def axes():
    figure, axes = plt.subplots(2, 3)
    yield axes
    plt.close(figure)


def test_maps_are_symmetric_and_leave_out_what_is_not_valid(axes):
    values = np.linspace(4, 6, 12).reshape(3, 4)
    valid = np.ones((3, 4), bool)
    values[0, 0], valid[0, 0] = 100, False
    image = figures.show_map(values, axes[0, 0], valid=valid).images[0]
    low, high = image.get_clim()
    assert (low + high) / 2 == pytest.approx(np.median(values[valid])) and high < 7
    assert image.get_array().mask[0, 0] and image.get_array().mask.sum() == 1


def test_residual_is_measured_less_fitted_about_zero(axes):
    measured, fitted = np.random.default_rng(0).normal(size=(2, 2, 5, 6))
    figures.show_origin(measured, fitted, axes)
    for row in range(2):
        image = axes[row, 2].images[0]
        assert np.allclose(image.get_array(), measured[row] - fitted[row])
        assert sum(image.get_clim()) == pytest.approx(0)
        assert axes[row, 0].images[0].get_clim() == axes[row, 1].images[0].get_clim()  # to be compared


@pytest.mark.parametrize("theta", [0.0, 0.4, 1.9])
def test_ellipse_lies_where_the_forward_model_puts_it(axes, theta):
    a, b, radius, center = 1.1, 1 / 1.1, 20.0, (30.0, 35.0)
    ax = figures.show_ellipse(np.ones((64, 64)), center, (a, b, theta), radius, axes[0, 0])
    annulus, red = ax.patches
    assert isinstance(red, Ellipse)
    assert annulus.get_facecolor()[:3] == (1, 1, 0) and red.get_edgecolor()[:3] == (1, 0, 0)
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
        shown = figures.show_polar(ring, (48, 47), axes[0, 0], vector=taken_out).images[0].get_array()
        spread.append(np.ptp(np.asarray(shown).argmax(1)))
    assert spread[0] > 4 and spread[1] <= 1  # half pixels


def test_strongest_ring_is_found_where_it_is():
    x, y = np.meshgrid(np.arange(128) - 62.0, np.arange(128) - 65.0, indexing="ij")
    radius = np.hypot(x, y)
    background = 100 * np.exp(-radius / 12)
    rings = 4 * np.exp(-0.5 * ((radius - 33) / 1.5) ** 2) + 0.2 * np.exp(-0.5 * ((radius - 48) / 1.5) ** 2)
    assert figures.ring_radius(background + rings, (62, 65), 5.0) == pytest.approx(33, abs=1)
    assert figures.ring_radius(background, (62, 65), 5.0) is None


def test_an_ellipse_that_varies_is_shown_as_its_mean():
    calibration = DataCube(np.zeros((2, 3, 8, 8))).calibration
    assert figures.stored_ellipse(calibration) is None
    calibration.set_ellipse((1.05, 1.0, 0.3))
    assert figures.stored_ellipse(calibration) == (1.05, 1.0, 0.3)
    calibration.set_ellipse((np.full((2, 3), 1.05), np.ones((2, 3)), np.full((2, 3), 0.3)))
    a, b, theta = figures.stored_ellipse(calibration)
    assert (a / b, theta) == pytest.approx((1.05, 0.3))


def test_straightened_rings_have_the_same_axes_and_the_line(axes):
    figures.show_straightened(np.ones((64, 64)), (32, 32), np.array([0.1, 0.0]), axes[0], line=20.0, inner=6.0)
    for ax in axes[0, :2]:
        assert ax.images[0].get_extent()[0] == 6 and ax.lines[0].get_xdata()[0] == 20


def test_sigma_is_shown_along_each_axis_with_one_color_scale(axes):
    valid = np.ones((3, 4), bool)
    valid[1, 2] = False
    figures.show_sigma(np.full((3, 4), 0.3), np.full((3, 4), 0.4), valid, axes[0, :2])
    first, second = (ax.images[0] for ax in axes[0, :2])
    assert first.get_array().mask.sum() == 1 and first.get_array()[0, 0] == 0.3 and second.get_array()[0, 0] == 0.4
    assert first.get_clim() == second.get_clim()
    figures.show_sigma(np.full((3, 4), np.nan), np.full((3, 4), np.nan), valid, axes[1, :2])
    assert not axes[1, 0].images  # instead of an empty map


def test_what_was_left_out_is_marked_where_it_is(axes):
    mask, stop, bad = np.ones((20, 24), bool), np.zeros((20, 24), bool), np.zeros((20, 24), bool)
    mask[:, 22:], stop[:8, 10:13] = False, True
    bad |= ~mask | stop
    bad[15, 4] = True
    ax = figures.show_left_out(figures.show_pattern(np.ones((26, 30)), axes[0, 0]), (3, 5), mask, stop, bad)
    shades = [image.get_array()[..., 3] > 0 for image in ax.images[1:]]
    assert (shades[0] == ~mask).all() and (shades[1] == stop).all()
    assert ax.images[1].get_extent() == [4.5, 28.5, 22.5, 2.5]
    assert [tuple(line.get_xydata()[0]) for line in ax.lines] == [(9, 18)]  # column and row in the frame
    assert len(ax.get_legend().get_texts()) == 3


def test_virtual_images_are_shown_alike(axes):
    raw, clean = np.random.default_rng(2).poisson(50, (2, 2, 8, 9)).astype(float)
    figures.show_virtual(raw, clean, axes[:, :2])
    for row in range(2):
        measured, denoised = (ax.images[0] for ax in axes[row, :2])
        assert measured.get_clim() == denoised.get_clim()
        assert np.allclose(measured.get_array(), raw[row]) and np.allclose(denoised.get_array(), clean[row])


def test_bars_of_the_check(axes):
    check = SimpleNamespace(errors={"raw": 1.0, "denoised": 0.2, "svd": 0.4},
                            error_sigmas={"raw": 0.0, "denoised": 0.01, "svd": 0.02})
    ax = figures.show_denoising_check(check, axes[0, 0])
    assert [bar.get_width() for bar in ax.patches] == [1.0, 0.2, 0.4]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["raw counts", "denoised", "best SVD"]
    slopes = {"rotation": Slope(0.7, 0.02, 3.0, "attenuated"), "shear": Slope(np.nan, np.nan, 0.1, "unknown")}
    ax = figures.show_slopes(SimpleNamespace(slopes=slopes), axes[1, 0])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["rotation"]
    assert ax.lines[0].get_xdata() == [0.7]
    assert "not judged" in figures.show_denoising_check(SimpleNamespace(errors={}), axes[0, 1]).get_title()


@pytest.mark.slow
def test_show_draws_what_the_calibration_holds():
    scan = simulated()
    cube = DataCube(scan.counts)
    with pytest.raises(PrenetError):
        review.show(cube)
    shift = np.full(cube.Rshape, 0.25)
    cube.calibration.set_origin_meas((scan.truth["qx0"] + shift, scan.truth["qy0"].copy()))
    cube.calibration.set_origin((scan.truth["qx0"].copy(), scan.truth["qy0"].copy()))
    cube.calibration.set_probe_semiangle(float(scan.truth["radius"]))
    shown = review.show(cube)
    assert shown.shape == (4, 3) and np.allclose(shown[0, 2].images[0].get_array(), 0.25)
    assert not shown[3, 0].patches and len(shown[3, 1].patches) == 1  # a circle about the direct beam
    cube.calibration.set_ellipse((1.05, 1 / 1.05, 0.3))
    given = plt.subplots(4, 3)[1]
    assert review.show(cube, given) is given and len(given[3, 1].patches) == 2
    assert shown[2, 1].get_title() and not shown[2, 1].images  # no sigma is stored
    plt.close("all")


def test_difference_is_raw_less_denoised(axes):
    raw, denoised = np.random.default_rng(1).poisson(5, (2, 16, 16)).astype(float)
    figures.show_denoised(raw, denoised, axes[0])
    assert np.allclose(axes[0, 2].images[0].get_array(), raw - denoised)


def test_edge_of_a_stretched_disk_becomes_a_straight_line(axes):
    x, y = np.meshgrid(np.arange(64) - 31.0, np.arange(64) - 33.0, indexing="ij")
    ratio = 1.08
    distance = np.hypot(x / ratio**0.5, y * ratio**0.5) - 12  # the a axis along +qx
    disk = np.clip(0.5 - distance, 0, 1)
    ax = figures.show_edge(disk, (31, 33), 12.0, axes[0, 0], vector=(ratio - 1, 0.0))
    before, after = (line.get_ydata() for line in ax.lines[:2])
    assert len(ax.get_legend().get_texts()) == len(ax.lines) == 3
    assert before[0] - before[45] == pytest.approx(12 * (ratio**0.5 - ratio**-0.5), abs=0.2)  # 0 and 90 degrees
    assert np.ptp(after) < 0.25 and np.median(after) == pytest.approx(12, abs=0.1)
    marked = figures.show_polar(disk, (31, 33), axes[0, 1], edge=12.0).lines[0].get_xdata()
    assert np.allclose(marked, before)
