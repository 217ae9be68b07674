"""Calibrations in other programs, against the truth of an asymmetric pattern. py4DSTEM is not needed.

Those programs need other versions of numpy (`make bridges` makes an environment for each), so the file is written here.
"""

import h5py
import numpy as np
import pytest

from py4dstem_prenet.core import PrenetError, ellipse_matrix, ellipse_vector
from py4dstem_prenet.io import (
    calibration_values,
    pyxem_affine,
    pyxem_shifts,
    quantem_calibration,
    quantem_origins,
)

SCAN, SHAPE = (3, 4), (70, 90)  # neither is square
A, B, THETA, SIZE, DEGREES = 1.06**0.5, 1.06**-0.5, 0.5, 0.02, 25.0
RNG = np.random.default_rng(0)
QX0, QY0 = 30 + RNG.uniform(-4, 4, SCAN), 47 + RNG.uniform(-4, 4, SCAN)
# Spots at ideal places about the origin, rows and columns in pixels; no symmetry maps them to one another.
IDEAL = np.array([(18.0, 4.0), (-6.0, 25.0), (-14.0, -20.0)])
HEIGHTS = np.array([400.0, 250.0, 150.0])
ORIGIN_HEIGHT = 1000.0


def measured_places():
    """(Rx, Ry, spots, 2): places of the direct beam and the spots on the detector."""
    matrix = ellipse_matrix(ellipse_vector(A, B, THETA))
    spots = np.concatenate([np.zeros((1, 2)), IDEAL]) @ matrix.T
    return np.stack([QX0, QY0], -1)[:, :, None] + spots


def patterns():
    """(Rx, Ry, Qx, Qy): Gaussian spots of 1.5 px."""
    x, y = np.indices(SHAPE)
    places = measured_places()[..., None, None]
    spots = np.exp(-((x - places[..., 0, :, :]) ** 2 + (y - places[..., 1, :, :]) ** 2) / (2 * 1.5**2))
    return np.einsum("ijkxy,k->ijxy", spots, np.concatenate([[ORIGIN_HEIGHT], HEIGHTS]))


def place(pattern, near):
    """Center of mass within 5 px of a place."""
    x, y = np.indices(pattern.shape)
    weights = pattern * (np.hypot(x - near[0], y - near[1]) < 5)
    return np.array([(weights * x).sum(), (weights * y).sum()]) / weights.sum()


@pytest.fixture
def path(tmp_path):
    """A calibration as `save(data=False)` writes it; the pixel size is for py4DSTEM's corrected radius."""
    path = tmp_path / "calibration.h5"
    entries = {"qx0": QX0, "qy0": QY0, "a": A, "b": B, "theta": THETA, "Q_pixel_size": SIZE * np.sqrt(A / B),
               "Q_pixel_units": "A^-1", "QR_rotation_degrees": DEGREES, "QR_flip": True}
    with h5py.File(path, "w") as file:
        group = file.create_group("root/metadatabundle/calibration")
        group.attrs["python_class"] = "Calibration"
        for name, value in entries.items():
            group[name] = value
        group["prenet/json"] = f'{{"shape": [3, 4, {SHAPE[0]}, {SHAPE[1]}]}}'
    return path


def test_values_of_a_file(path):
    values = calibration_values(path)
    np.testing.assert_array_equal(values.qx0, QX0)
    assert values.pattern_shape == SHAPE and values.flip and values.degrees == DEGREES
    assert values.pixel_size == pytest.approx(SIZE)
    back = (measured_places()[1, 2] - (QX0[1, 2], QY0[1, 2])) @ values.correction.T
    np.testing.assert_allclose(back[1:], IDEAL)


def test_a_file_of_py4dstem_tells_the_same(path, tmp_path):
    py4DSTEM = pytest.importorskip("py4DSTEM")
    cube = py4DSTEM.DataCube(np.zeros((*SCAN, *SHAPE), np.uint8))
    cube.calibration.set_origin((QX0, QY0))
    cube.calibration.set_ellipse((A, B, THETA))
    cube.calibration.set_Q_pixel_size(SIZE * np.sqrt(A / B))
    cube.calibration.set_Q_pixel_units("A^-1")
    cube.calibration.set_QR_rotflip_degrees((DEGREES, True))
    py4DSTEM.save(str(tmp_path / "cube.h5"), cube)
    expected = calibration_values(path)
    for source in (cube, tmp_path / "cube.h5"):
        values = calibration_values(source)
        assert values.pattern_shape == SHAPE and values.flip and values.degrees == pytest.approx(DEGREES)
        np.testing.assert_allclose(values.vector, expected.vector)
        np.testing.assert_allclose(values.qy0, QY0)
    assert calibration_values(cube.calibration).pattern_shape is None
    # and py4DSTEM removes the same distortion with its own convention
    from py4DSTEM.braggvectors import BraggVectors

    vectors = BraggVectors(SCAN, SHAPE, calibration=cube.calibration)
    raw = vectors._v_uncal
    for i, j in np.ndindex(SCAN):
        spots = measured_places()[i, j]
        raw[i, j].add(np.rec.fromarrays([*spots.T, np.ones(len(spots))], dtype=raw.dtype))
    vectors.set_raw_vectors(raw)
    vectors.setcal(center=True, ellipse=True, pixel=True, rotate=False)
    found = vectors.cal[1, 2]
    np.testing.assert_allclose(np.stack([found.qx, found.qy], 1)[1:], SIZE * IDEAL, atol=1e-9)


def test_what_is_missing_is_said(path, tmp_path):
    with h5py.File(path, "a") as file:
        del file["root/metadatabundle/calibration/prenet"], file["root/metadatabundle/calibration/Q_pixel_units"]
    assert calibration_values(path).pixel_size is None
    with pytest.raises(PrenetError):
        pyxem_affine(path)
    with h5py.File(path, "a") as file:
        del file["root/metadatabundle/calibration/qx0"]
    with pytest.raises(PrenetError):
        calibration_values(path)
    (tmp_path / "text.h5").write_text("no file of HDF5")
    with pytest.raises(PrenetError):
        calibration_values(tmp_path / "text.h5")


@pytest.mark.parametrize("square", [False, True])
def test_pyxem_centers_and_removes_the_distortion(path, square):
    pyxem = pytest.importorskip("pyxem", reason="pyxem is not installed")
    data, shape = patterns(), SHAPE
    if square:
        data, shape = np.pad(data, ((0, 0), (0, 0), (0, 20), (0, 0))), (90, 90)
    signal = pyxem.signals.Diffraction2D(data)
    signal.center_direct_beam(shifts=pyxem_shifts(path, shape))
    middle = np.array(shape) / 2
    for i, j in np.ndindex(SCAN):
        np.testing.assert_allclose(place(signal.data[i, j], middle), middle, atol=0.1)
    signal.apply_affine_transformation(pyxem_affine(path, shape))
    for i, j in np.ndindex(SCAN):
        np.testing.assert_allclose(place(signal.data[i, j], middle), middle, atol=0.1)
        for ideal in IDEAL:
            assert np.abs(place(signal.data[i, j], middle + ideal) - middle - ideal).max() < 0.1


def test_quantem_gets_the_same_vectors(path):
    pytest.importorskip("quantem.diffraction.calibration", reason="quantem is not installed")
    from quantem.core.datastructures.vector import Vector

    origins = quantem_origins(path)
    peaks = measured_places() - origins[:, :, None]
    nested = [[np.column_stack([spots[1:], HEIGHTS]) for spots in row] for row in peaks]
    fields, units = ["q_row", "q_col", "intensity"], ["px", "px", "counts"]
    vector = Vector.from_data(nested, fields=fields, units=units, name="peaks")
    found = quantem_calibration(path).apply(vector)
    turn = np.radians(DEGREES)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    expected = SIZE * IDEAL[:, ::-1] @ rotation.T  # exchanged, then rotated from the first axis toward the second
    for i, j in np.ndindex(SCAN):
        np.testing.assert_allclose(found[i, j].numpy()[:, :2], expected, atol=1e-6)
