"""The likelihood fit of a disk: exact without noise, at the bound with it, not pulled by what is inside."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.ndimage import gaussian_filter

from py4dstem_prenet.core.geometry import ellipse_matrix
from py4dstem_prenet.fits import Aperture, DiskModel, highest_degree

RADIUS, BLUR, VECTOR = 6.3, 0.35, (0.03, -0.05)
FINE = 20  # points along each side of a pixel: what is fitted here was drawn in another way
FLAT, FREE = (0.001,) * 6, (0.3, 0.2, 0.05, 0.03, 0.02, 0.01)


def draw(offset, side, contrast=None, radius=RADIUS, vector=VECTOR, background=0.02):
    """A disk of brightness 1 times a contrast(u, v), drawn point by point, hard-edged and blurred; (side, side)."""
    axis = (np.arange(side * FINE) + 0.5) / FINE - 0.5 - (side - 1) / 2
    at = np.stack(np.meshgrid(axis - offset[0], axis - offset[1], indexing="ij"), -1)
    at = at @ np.linalg.inv(ellipse_matrix(np.array(vector))).T / radius
    image = (np.hypot(at[..., 0], at[..., 1]) < 1) * (1 if contrast is None else contrast(at[..., 0], at[..., 1]))
    image = gaussian_filter(np.asarray(image, float), BLUR * FINE)
    return image.reshape(side, FINE, side, FINE).mean((1, 3)) + background


def fit(images, aperture, start=None, readout=0.0, good=None):
    model = DiskModel(aperture)
    y = torch.as_tensor(np.asarray(images), dtype=torch.float32)
    good = torch.ones_like(y, dtype=torch.bool) if good is None else torch.as_tensor(good)
    start = torch.zeros(len(y), 2) if start is None else torch.as_tensor(start, dtype=torch.float32)
    return model.fit(y, good, start, readout)


def side_of(aperture):
    return DiskModel(aperture).side


KNOWN = Aperture(RADIUS, BLUR, VECTOR, FLAT)


@settings(max_examples=15, deadline=None)
@given(st.floats(-1, 1), st.floats(-1, 1))
def test_a_shift_without_noise_is_recovered(x, y):
    image = 1e4 * draw((x, y), side_of(KNOWN))
    assert np.abs(fit(image[None], KNOWN).position[0].numpy() - (x, y)).max() < 0.005


@pytest.mark.parametrize("radius", [1.5, 3.0, 12.0])
def test_small_and_large_disks(radius):
    known = Aperture(radius, BLUR, VECTOR, FLAT[: highest_degree(radius)])
    image = 1e4 * draw((0.31, -0.44), side_of(known), radius=radius)
    assert np.abs(fit(image[None], known).position[0].numpy() - (0.31, -0.44)).max() < 0.02


def test_contrast_inside_the_disk_does_not_pull_the_position():
    """A slope like this moves the disk's center of mass by half a pixel, and pulls a flat disk's fit."""
    slope = lambda u, v: 1 + 0.6 * u - 0.4 * v + 0.5 * u * v - 0.8 * u**3  # noqa: E731
    image = 1e5 * draw((0.2, -0.3), side_of(KNOWN), slope)
    free = fit(image[None], Aperture(RADIUS, BLUR, VECTOR, FREE)).position[0].numpy() - (0.2, -0.3)
    flat = fit(image[None], Aperture(RADIUS, BLUR, VECTOR, FLAT)).position[0].numpy() - (0.2, -0.3)
    assert np.abs(free).max() < 0.02
    assert np.abs(flat).max() > 0.03


@pytest.mark.parametrize(("brightness", "readout"), [(2.0, 0.0), (20.0, 0.0), (200.0, 0.0), (20.0, 4.0)])
def test_errors_are_what_the_covariance_says_and_near_the_bound(brightness, readout):
    rng, count = np.random.default_rng(0), 600
    known = Aperture(RADIUS, BLUR, VECTOR, FLAT)  # nothing inside, and known to be so
    clean = brightness * draw((0.2, -0.3), side_of(known))
    fitted = fit(rng.poisson(clean, (count, *clean.shape)) + rng.normal(0, readout, (count, *clean.shape)), known,
                 readout=readout)
    error = fitted.position.numpy() - (0.2, -0.3)
    white = np.linalg.solve(np.linalg.cholesky(fitted.covariance.numpy()), error[..., None])
    assert 0.85 < np.sqrt((white**2).mean()) < 1.1
    assert np.abs(error.mean(0)).max() < 4 * error.std() / count**0.5 + 0.003
    gx, gy = (brightness * 50 * (draw((0.2 + dx, -0.3 + dy), len(clean)) - draw((0.2 - dx, -0.3 - dy), len(clean)))
              for dx, dy in ((0.01, 0), (0, 0.01)))
    information = np.array([[(a * b / (clean + readout**2)).sum() for b in (gx, gy)] for a in (gx, gy)])
    bound = np.trace(np.linalg.inv(information))
    assert 0.9 * bound < (error**2).sum(1).mean() < 1.5 * bound  # amplitude and background are not known here


def test_pixels_that_are_not_good_are_not_looked_at():
    image = 1e4 * draw((0.3, 0.1), side_of(KNOWN))
    good = np.ones(image.shape, bool)
    good[:, 12:15] = False
    spoilt = np.where(good, image, 1e7)
    assert np.abs(fit(spoilt[None], KNOWN, good=good[None]).position[0].numpy() - (0.3, 0.1)).max() < 0.02


def test_a_pattern_that_the_aperture_does_not_describe_has_a_misfit():
    rng = np.random.default_rng(0)
    own, other = (rng.poisson(1e3 * draw((0, 0), side_of(KNOWN), radius=r)) for r in (RADIUS, 0.4 * RADIUS))
    known = Aperture(RADIUS, BLUR, VECTOR, (0.05,) * 6)
    assert fit(own[None], known).misfit < 1.3 and fit(other[None], known).misfit > 5


@pytest.mark.slow
def test_radius_blur_and_contrast_are_learned():
    rng = np.random.default_rng(1)
    known = Aperture(RADIUS - 0.25, 0.1, VECTOR)
    images, side = [], side_of(known)
    for _ in range(80):
        a, b = rng.normal(0, 0.2, 2)
        shift = rng.uniform(-0.5, 0.5, 2)
        images.append(rng.poisson(2e3 * draw(shift, side, lambda u, v, a=a, b=b: 1 + a * u + b * v)))
    y = torch.tensor(np.array(images), dtype=torch.float32)
    everywhere, start = torch.ones_like(y, dtype=torch.bool), torch.zeros(len(y), 2)
    for _ in range(8):
        model = DiskModel(known)
        known = model.learned(model.fit(y, everywhere, start, 0.0, learn=True), torch.ones(len(y), dtype=torch.bool))
    assert known.radius == pytest.approx(RADIUS, abs=0.02)
    assert known.blur == pytest.approx(BLUR, abs=0.06)
    slope, *higher = known.contrast
    assert slope == pytest.approx(0.1, rel=0.3)  # u has a root mean square of 1/2 on the disk
    assert max(higher[1:]) < 0.2 * slope


def test_the_contrast_is_as_free_as_the_disk_has_pixels():
    assert [highest_degree(r) for r in (0.8, 1.5, 3.0, 10.0)] == [1, 1, 3, 6]
