"""What is written as (a, b, theta) makes py4DSTEM's consumers return circles of radius b times the ideal one."""

import numpy as np
import py4DSTEM
import pytest
from py4DSTEM.process.utils.elliptical_coords import cartesian_to_polarelliptical_transform

from py4dstem_prenet.core.geometry import ellipse_axes, ellipse_matrix, ellipse_vector

RSHAPE, QSHAPE = (3, 4), (96, 90)
RADIUS = 25.0  # ideal, px
CASES = [(ratio, theta) for ratio in (1.03, 1.1) for theta in np.arange(6) * np.pi / 6 + 0.1]


def origins():
    """Per-position origins (Rx, Ry), with descan."""
    i, j = np.meshgrid(*map(np.arange, RSHAPE), indexing="ij")
    return 46.3 + 0.9 * i - 0.4 * j, 44.1 - 0.5 * i + 0.7 * j


def calibrate(calibration, ratio, theta):
    """Write plain arrays and floats through the setters, as the contract says; (a, b) come back."""
    a, b, theta = ellipse_axes(ellipse_vector(ratio, 1.0, theta))
    calibration.set_origin(origins())
    calibration.set_ellipse((a, b, theta))
    return a, b


@pytest.mark.parametrize(("ratio", "theta"), CASES)
def test_bragg_vectors_lie_on_circles_of_radius_b(ratio, theta):
    cube = py4DSTEM.DataCube(np.zeros((*RSHAPE, 4, 4)))
    vectors = py4DSTEM.BraggVectors(RSHAPE, QSHAPE, calibration=cube.calibration)
    _, b = calibrate(cube.calibration, ratio, theta)
    phi = np.arange(12) * np.pi / 6
    ideal = RADIUS * np.stack([np.cos(phi), np.sin(phi)])
    measured = ellipse_matrix(ellipse_vector(ratio, 1.0, theta)) @ ideal
    qx0, qy0 = origins()
    for i, j in np.ndindex(RSHAPE):
        peaks = np.zeros(len(phi), vectors._v_uncal.dtype)
        peaks["qx"], peaks["qy"], peaks["intensity"] = measured[0] + qx0[i, j], measured[1] + qy0[i, j], 1
        vectors._v_uncal[i, j].add(peaks)
    vectors.setcal()
    for i, j in np.ndindex(RSHAPE):
        out = vectors.cal[i, j]
        assert np.hypot(out.qx, out.qy) == pytest.approx(np.full(12, b * RADIUS), rel=1e-9)
        # and where they belong: the correction only shrinks the ideal pattern by b
        assert np.stack([out.qx, out.qy]) == pytest.approx(b * ideal, abs=1e-9)


@pytest.fixture(scope="module")
def grid():
    return np.meshgrid(*(np.arange(n, dtype=float) for n in QSHAPE), indexing="ij")


def ring_pattern(grid, center, ratio, theta, width=1.5):
    inverse = np.linalg.inv(ellipse_matrix(ellipse_vector(ratio, 1.0, theta)))
    x, y = grid[0] - center[0], grid[1] - center[1]
    rho = np.hypot(inverse[0, 0] * x + inverse[0, 1] * y, inverse[1, 0] * x + inverse[1, 1] * y)
    return np.exp(-0.5 * ((rho - RADIUS) / width) ** 2)


def ring_radius(polar, radii):
    """Centroid of the ring in every azimuth bin."""
    polar = np.ma.filled(polar, 0.0)
    return (polar * radii).sum(1) / polar.sum(1)


@pytest.mark.parametrize(("ratio", "theta"), CASES)
def test_polar_datacube_sees_straight_rings_at_b(grid, ratio, theta):
    qx0, qy0 = origins()
    data = np.array([ring_pattern(grid, (x, y), ratio, theta) for x, y in zip(qx0.flat, qy0.flat, strict=True)])
    cube = py4DSTEM.DataCube(data.reshape(*RSHAPE, *QSHAPE).astype(np.float32))
    _, b = calibrate(cube.calibration, ratio, theta)
    polar = py4DSTEM.PolarDatacube(cube, qmin=10, qmax=38, qstep=0.5, n_annular=36)
    for i, j in ((0, 0), (2, 3)):
        radius = ring_radius(polar.data[i, j], polar.radial_bins)
        assert radius.std() < 0.05  # px; uncorrected it is 0.26 and more
        assert radius.mean() == pytest.approx(b * RADIUS, abs=0.15)


@pytest.mark.parametrize(("ratio", "theta"), CASES[::3])
def test_elliptical_coords_see_straight_rings_at_a(grid, ratio, theta):
    """py4DSTEM's older transform counts along the a axis: its corrected radius is a times the ideal one."""
    center = (46.3, 44.1)
    a, b, angle = ellipse_axes(ellipse_vector(ratio, 1.0, theta))
    polar, radii, _ = cartesian_to_polarelliptical_transform(
        ring_pattern(grid, center, ratio, theta), (*center, a, b, angle), dr=0.5, dphi=np.radians(10), r_range=38
    )
    radius = ring_radius(polar, np.asarray(radii)[0] if np.ndim(radii) == 2 else radii)
    assert radius.std() < 0.02 * RADIUS * (a / b - 1) + 0.02
    assert radius.mean() == pytest.approx(a * RADIUS, abs=0.3)
