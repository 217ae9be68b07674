"""Strain after cropping and binning: py4DSTEM's BraggVectors and StrainMap see the truth through what was carried."""

import contextlib
import io
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
from py4DSTEM import DataCube
from py4DSTEM.braggvectors import Probe
from py4DSTEM.process.strain import StrainMap
from scans import origin_map
from scipy.special import expit

from py4dstem_prenet import accessor
from py4dstem_prenet.core import Ellipse, OriginFit
from py4dstem_prenet.core.flags import Decision
from py4dstem_prenet.core.geometry import ellipse_axes, ellipse_matrix
from py4dstem_prenet.io import calibrations
from py4dstem_prenet.simulation.known import deformation, strain_of

accessor.register()
SCAN, PATTERN = (4, 16), (150, 142)
RADIUS = 6.0  # px, of the disks
BASIS = np.array([[27.0, 4.0], [-5.0, 25.0]])  # px, a lattice vector in each row
VECTOR = np.array([0.05, 0.06])  # of the ellipse: a / b = 1.08
OPERATIONS = {
    "as it was": (),
    "crop_Q": (("crop_Q", (7, 145, 4, 139)),),
    "crop_R": (("crop_R", (1, 4, 2, 15)),),
    "bin_Q": (("bin_Q", 2),),
    "bin_R": (("bin_R", 2),),
    "one after another": (("crop_R", (0, 4, 2, 16)), ("crop_Q", (5, 145, 3, 139)), ("bin_R", 2), ("bin_Q", 2)),
}


def truth():
    """Deformations (Rx, Ry, 3, 3), the same within 2 x 2 positions: a substrate, a strained layer, a turned grain."""
    exx, exy, turn = np.zeros((3, *SCAN))
    exx[:, 6:10], exx[:, 10:12], exy[:, 6:12] = 0.01, 0.02, 0.006
    turn[:, 12:] = 0.04
    return deformation(exx, -exx / 2, exy, turn)


@pytest.fixture(scope="module")
def cube():
    """A cube of disks on a lattice, with the origins and the ellipse that it was made with written as measured."""
    i, j = np.meshgrid(*map(np.arange, SCAN), indexing="ij")
    qx0, qy0 = 74.3 + 0.4 * i - 0.15 * j, 70.8 - 0.3 * i + 0.1 * j
    orders = np.stack(np.meshgrid(*2 * [np.arange(-3, 4)], indexing="ij"), -1).reshape(-1, 2)
    x, y = (np.arange(n) for n in PATTERN)
    clean = np.zeros((*SCAN, *PATTERN))
    for at, change in zip(np.ndindex(SCAN), truth().reshape(-1, 3, 3)[:, :2, :2], strict=True):
        beta = np.linalg.inv(change).T  # what the lattice does, the reciprocal lattice does the other way round
        ideal = orders @ BASIS @ beta.T
        for (u, v), (h, k) in zip(ideal @ ellipse_matrix(VECTOR).T, orders, strict=True):
            distance = np.hypot(x[:, None] - qx0[at] - u, y - qy0[at] - v)
            clean[at] += (3 if h == k == 0 else 1) * expit((RADIUS - distance) / 0.4)
    cube = DataCube(np.random.default_rng(4).poisson(20 * clean).astype(np.uint16))
    sigma, valid = np.full(SCAN, 0.02), np.ones(SCAN, bool)
    calibrations.write_origin(cube, origin_map(qx0, qy0, sigma, sigma, valid, RADIUS))
    calibrations.write_fit(cube, OriginFit(qx0, qy0, *np.zeros((2, *SCAN)), sigma, sigma, "plane", Decision(True)))
    a, b, theta = ellipse_axes(VECTOR)
    calibrations.write_ellipse(cube, Ellipse(a, b, theta, VECTOR, 1e-6 * np.eye(2), Decision(True)))
    return cube


def bragg_vectors(cube, radius):
    axes = [np.arange(n) - n // 2 for n in cube.Qshape]
    probe = Probe(expit((radius - np.hypot(axes[0][:, None], axes[1])) / 0.4).astype(np.float32))
    probe.get_kernel(mode="sigmoid", radii=(radius, 2 * radius), origin=[n // 2 for n in cube.Qshape])
    vectors = DataCube(cube.data.astype(np.float32), calibration=cube.calibration.copy()).find_Bragg_disks(
        template=probe.kernel, corrPower=1, sigma_cc=1, subpixel="multicorr", upsample_factor=16,
        minRelativeIntensity=0.05, minPeakSpacing=1.5 * radius, edgeBoundary=int(radius) + 1)
    vectors.setcal()
    return vectors


def strain(vectors, reference):
    """(4, Rx, Ry) exx, eyy, exy and theta against the lattice where `reference` (Rx, Ry) is True."""
    mapped = StrainMap(vectors)
    mapped.choose_basis_vectors(minSpacing=5, minAbsoluteIntensity=0.02 * np.sort(mapped.bvm.data.ravel())[-20],
                                maxNumPeaks=40, edgeBoundary=4)
    mapped.fit_basis_vectors(max_peak_spacing=3)
    mapped.get_strain(gvects=reference)
    plt.close("all")
    assert (mapped.data[4] > 0.5).all()  # a lattice was fitted everywhere
    return mapped.data[:4]


def seen(cube, done):
    """Bragg vectors and strain of a cube after what was `done` to it, with the true strain (4, Rx, Ry)."""
    frames, scale = truth(), 1
    for name, argument in done:
        cube = getattr(cube.prenet, name)(argument)
        if name == "bin_R":
            frames = frames[::argument, ::argument]
        elif name == "crop_R":
            frames = frames[argument[0]:argument[1], argument[2]:argument[3]]
        elif name == "bin_Q":
            scale *= argument
    true = strain_of(frames, np.eye(3))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), \
            warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vectors = bragg_vectors(cube, RADIUS / scale)
        return vectors, strain(vectors, np.abs(true).sum(0) == 0), true, scale


@pytest.mark.parametrize("done", [
    pytest.param(done, id=name, marks=() if name == "one after another" else pytest.mark.slow)
    for name, done in OPERATIONS.items()])
def test_strain_is_the_truth_after(cube, done):
    vectors, found, true, scale = seen(cube, done)
    _, b, _ = ellipse_axes(VECTOR)
    lattice = np.linalg.inv(b * BASIS / scale)
    off = []
    for i, j in np.argwhere(np.abs(true).sum(0) == 0):  # the unstrained substrate
        orders = np.stack([vectors.cal[i, j].qx, vectors.cal[i, j].qy], -1) @ lattice
        off.append((orders - np.rint(orders)) @ np.linalg.inv(lattice))
    # px; a half-pixel forgotten in binning is 0.25, and what cropping forgets are whole ones.
    assert np.abs(np.concatenate(off).mean(0)).max() < 0.03
    error = np.sqrt(((found - true) ** 2).mean((1, 2)))
    assert error.max() < 1e-3
