"""Calibrations for other programs: pyxem and HyperSpy, and quantem.

Nothing here needs py4DSTEM: a file that `save` or py4DSTEM wrote is read with h5py, so that it can be used in an
environment with numpy 2, which quantem needs and py4DSTEM refuses. pyxem and quantem are imported where they are used.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core import PrenetError, ellipse_matrix, ellipse_vector

INVERSE_ANGSTROM = ("A^-1", "1/A", "Å^-1", "1/Å", "Å⁻¹")  # how units of the pixel size are written


@dataclass(frozen=True)
class CalibrationValues:
    """Numbers of a calibration.

    Attributes
    ----------
    qx0, qy0 : numpy.ndarray, shape (Rx, Ry)
        Origin: row and column in pixels; the center of a pixel lies on its integer index.
    pattern_shape : tuple of int or None
        (Qx, Qy) of the patterns; None if the file does not state it.
    vector : numpy.ndarray, shape (2,)
        Ellipse vector (eps cos 2 theta, eps sin 2 theta), eps = a/b - 1, theta from +qx toward +qy; zeros without one.
    pixel_size : float or None
        1/angstrom per pixel after the distortion was removed without a change of area; None if it is not known in this
        unit.
    degrees : float
        Rotation that takes a vector of the pattern to the scan, from the first axis toward the second, after the flip.
    flip : bool
        Whether the components of a vector of the pattern are exchanged before the rotation.
    """

    qx0: np.ndarray
    qy0: np.ndarray
    pattern_shape: tuple[int, int] | None
    vector: np.ndarray
    pixel_size: float | None
    degrees: float
    flip: bool

    @property
    def correction(self) -> np.ndarray:
        """Matrix (2, 2) of determinant 1 from measured to undistorted (row, column) about the origin."""
        return np.linalg.inv(ellipse_matrix(self.vector))


def calibration_values(source) -> CalibrationValues:
    """Read the numbers of a calibration.

    Parameters
    ----------
    source : DataCube, py4DSTEM.Calibration, str or pathlib.Path
        A calibrated scan, its calibration, or an EMD file with either.

    Returns
    -------
    CalibrationValues
        The numbers.

    Raises
    ------
    PrenetError
        If the file cannot be read, or the calibration holds no origin.

    Examples
    --------
    >>> import numpy as np
    >>> from py4DSTEM import DataCube
    >>> datacube = DataCube(np.zeros((2, 3, 32, 32), np.uint8))
    >>> datacube.calibration.set_origin((np.full((2, 3), 15.0), np.full((2, 3), 16.5)))
    >>> values = calibration_values(datacube)
    >>> values.pattern_shape, float(values.qy0[1, 2])
    ((32, 32), 16.5)
    """
    shape = None
    if isinstance(source, str | Path):
        entries, shape = _read_file(Path(source))
    else:
        calibration = getattr(source, "calibration", source)
        entries = dict(calibration._params)
        shape = tuple(source.data.shape[2:]) if hasattr(source, "data") and calibration is not source else None
    if entries.get("qx0") is None or entries.get("qy0") is None:
        raise PrenetError("The calibration holds no fitted origin; call datacube.prenet.calibrate() first.")
    qx0, qy0 = (np.atleast_2d(np.asarray(entries[name], float)) for name in ("qx0", "qy0"))
    a, b, theta = (entries.get(name) for name in ("a", "b", "theta"))
    vector = np.zeros(2)
    if a is not None and b is not None and theta is not None:
        vector = np.nanmean(np.asarray(ellipse_vector(a, b, theta)).reshape(2, -1), axis=1)
    size = entries.get("Q_pixel_size")
    if size is not None and entries.get("Q_pixel_units") in INVERSE_ANGSTROM:
        # py4DSTEM's corrected radius is b times the ideal one, if a b = 1.
        size = float(size) / np.sqrt(1 + np.hypot(*vector))
    else:
        size = None
    return CalibrationValues(qx0, qy0, shape, vector, size, float(entries.get("QR_rotation_degrees") or 0.0),
                             bool(entries.get("QR_flip")))


def _read_file(path):
    """Read the entries of the first calibration in an EMD file, and the shape of its patterns."""
    import h5py

    try:
        with h5py.File(path) as file:
            found, data = [], []

            def visit(name, item):
                if isinstance(item, h5py.Group) and _text(item.attrs.get("python_class")) == "Calibration":
                    found.append(item)
                if isinstance(item, h5py.Dataset) and item.ndim == 4:
                    data.append(item)

            file.visititems(visit)
            if not found:
                raise PrenetError(f"{path} holds no calibration; save one with datacube.prenet.save().")
            entries = {key: _text(item[()]) for key, item in found[0].items() if isinstance(item, h5py.Dataset)}
            shape = data[0].shape[2:] if data else None
            record = found[0].get("prenet/json")
            if shape is None and record is not None:
                shape = json.loads(_text(record[()])).get("shape", [0, 0])[2:]
    except OSError as error:
        raise PrenetError(f"{path} cannot be read as an EMD file: {error}") from error
    return entries, tuple(int(n) for n in shape) if shape else None


def _text(value):
    return value.decode() if isinstance(value, bytes) else value


# --- pyxem and HyperSpy -------------------------------------------------------------------------------------


def _pattern_shape(values, pattern_shape):
    shape = pattern_shape or values.pattern_shape
    if shape is None:
        raise PrenetError("The file does not state the shape of the patterns; pass pattern_shape=(Qx, Qy).")
    return tuple(shape)


def pyxem_shifts(source, pattern_shape=None):
    """Make the shifts that move the origin of each pattern to its center in pyxem.

    Parameters
    ----------
    source : DataCube, py4DSTEM.Calibration, str or pathlib.Path
        The calibration.
    pattern_shape : tuple of int, optional
        (Qx, Qy), if the source does not state it.

    Returns
    -------
    pyxem.signals.BeamShift
        For `signal.center_direct_beam(shifts=...)`: data (Rx, Ry, 2), along the columns and along the rows, pixels.
        The origin comes to (Qx / 2, Qy / 2), as with pyxem's own methods.

    Raises
    ------
    PrenetError
        If the calibration holds no origin, or the shape is not known.

    Examples
    --------
    >>> signal.center_direct_beam(shifts=pyxem_shifts("scan_calibrated.h5"))  # doctest: +SKIP
    """
    try:
        from pyxem.signals import BeamShift
    except ImportError as error:
        raise PrenetError("pyxem is missing; install it (pip install pyxem).") from error

    values = calibration_values(source)
    rows, columns = _pattern_shape(values, pattern_shape)
    return BeamShift(np.stack([columns / 2 - values.qy0, rows / 2 - values.qx0], -1))


def pyxem_affine(source, pattern_shape=None) -> np.ndarray:
    """Make the affine matrix that removes the elliptical distortion in pyxem, after `center_direct_beam`.

    Parameters
    ----------
    source : DataCube, py4DSTEM.Calibration, str or pathlib.Path
        The calibration.
    pattern_shape : tuple of int, optional
        (Qx, Qy), if the source does not state it.

    Returns
    -------
    numpy.ndarray, shape (3, 3)
        For `signal.apply_affine_transformation(D)`. It keeps areas, and the point (Qx / 2, Qy / 2) in place;
        `calibration_values(source).pixel_size` is the pixel size of the result.

    Raises
    ------
    PrenetError
        If the calibration holds no origin, or the shape is not known.

    Notes
    -----
    pyxem 0.21 transforms about ((Qy - 1) / 2, (Qx - 1) / 2), rows and columns exchanged. The translation in the matrix
    corrects it.

    Examples
    --------
    >>> signal.apply_affine_transformation(pyxem_affine("scan_calibrated.h5"))  # doctest: +SKIP
    """
    values = calibration_values(source)
    rows, columns = _pattern_shape(values, pattern_shape)
    matrix = np.eye(3)
    matrix[:2, :2] = values.correction[::-1, ::-1]  # pyxem's order is column, row
    center, middle = np.array([columns, rows]) / 2, (np.array([rows, columns]) - 1) / 2
    matrix[:2, 2] = matrix[:2, :2] @ (middle - center) + center - middle
    return matrix


# --- quantem ------------------------------------------------------------------------------------------------


def quantem_origins(source) -> np.ndarray:
    """Make the origins for quantem.

    Parameters
    ----------
    source : DataCube, py4DSTEM.Calibration, str or pathlib.Path
        The calibration.

    Returns
    -------
    numpy.ndarray, shape (Rx, Ry, 2)
        Row and column, pixels, for `BraggVectors.correct_peak_origins(origins, origin_ref=(0, 0))`.

    Raises
    ------
    PrenetError
        If the calibration holds no origin.

    Examples
    --------
    >>> centered = vectors.correct_peak_origins(quantem_origins("calibrated.h5"), (0, 0))  # doctest: +SKIP
    """
    values = calibration_values(source)
    return np.stack([values.qx0, values.qy0], -1)


def quantem_calibration(source):
    """Make the calibration object of quantem: pixel size, ellipse and rotation.

    Parameters
    ----------
    source : DataCube, py4DSTEM.Calibration, str or pathlib.Path
        The calibration, with a pixel size in 1/angstrom.

    Returns
    -------
    quantem.diffraction.calibration.DiffractionCalibration
        For `apply(peaks)`, after `correct_peak_origins`.

    Raises
    ------
    PrenetError
        If the calibration holds no origin, or no pixel size in 1/angstrom.

    Examples
    --------
    >>> peaks = quantem_calibration("scan_calibrated.h5").apply(centered.peaks)  # doctest: +SKIP
    """
    from quantem.diffraction.calibration import DiffractionCalibration

    values = calibration_values(source)
    if values.pixel_size is None:
        raise PrenetError("The calibration holds no pixel size in 1/angstrom, which quantem needs; measure it with "
                          "datacube.prenet.measure_pixel_size(standard), or set it.")
    # quantem's matrix [[1 + e11, e12], [e12, 1 - e11]] has a trace of 2; the rest belongs to the pixel size.
    scale = np.trace(values.correction) / 2
    shape = values.correction / scale
    return DiffractionCalibration(values.pixel_size * scale, ellipse=[shape[0, 0] - 1, shape[0, 1]],
                                  rotation_ccw_deg=values.degrees, transpose=values.flip,
                                  metadata={"source": "py4dstem_prenet"})
