"""Calibration of a standard, read from a DataCube or a file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core import Decision, Ellipse, PrenetError, ellipse_axes, ellipse_vector
from ..io import Frame, open_bare_calibration, open_calibrated, read_frame, signatures
from ..resampling import check_calibration
from . import Conditions, conditions_of

_OF_THE_SCAN = ("shape", "data", "unchanged", "measured", "author", "source", "sha256", "result")  # facts that stay
_HASHED = ("a", "b", "theta", "Q_pixel_size", "Q_pixel_units", "QR_rotation", "QR_flip", "qx0", "qy0")


@dataclass(frozen=True)
class CalibratedScan:
    """Values of a scan's calibration that depend on the microscope.

    Attributes
    ----------
    name : str
        Name of the file or DataCube.
    sha256 : str
        Hash of the values.
    frame : Frame or None
        Record of how the patterns were cropped and binned; None for a calibration without its scan.
    conditions : Conditions
        Settings of the microscope.
    ellipse : Ellipse or None
        The ellipse, with the stored covariance, or NaN if none was stored.
    round_beam : bool
        Whether the ellipse was also measured from the shape of the direct beam.
    pixel_size : tuple of (float, str) or None
        Q pixel size and its unit; None if it is not calibrated.
    rotation : tuple of (float, bool) or None
        Rotation between scan and pattern, radians, and flip.
    origin : numpy.ndarray or None, shape (2, Rx, Ry)
        The fitted origin, pixels.
    uncertainty : float
        Standard error of the fitted origin, pixels; NaN if it is unknown.
    step : tuple of (float, str)
        R pixel size and its unit.
    facts : dict
        Facts that this package recorded for "pixel_size" and "rotation", such as the sigma.
    data : frozenset of str
        Fingerprints of the scans in which the entries were measured.
    """

    name: str
    sha256: str
    frame: Frame | None
    conditions: Conditions
    ellipse: Ellipse | None
    round_beam: bool
    pixel_size: tuple[float, str] | None
    rotation: tuple[float, bool] | None
    origin: np.ndarray | None
    uncertainty: float
    step: tuple[float, str]
    facts: dict
    data: frozenset


def read_standard(like) -> CalibratedScan:
    """Read the calibration of a standard.

    Parameters
    ----------
    like : DataCube, str or path-like
        A calibrated cube, or an EMD file that contains one, with or without its patterns, or a calibration that
        py4DSTEM saved.

    Returns
    -------
    CalibratedScan
        The calibration of the standard.

    Raises
    ------
    PrenetError
        If there is no calibration, or it does not belong to its own data.

    Examples
    --------
    >>> import numpy as np
    >>> from py4DSTEM import DataCube
    >>> gold = DataCube(np.ones((2, 2, 32, 32), np.uint8), name="gold")
    >>> gold.calibration.set_ellipse((1.02, 1.0, 0.3))
    >>> standard = read_standard(gold)
    >>> round(standard.ellipse.a / standard.ellipse.b, 3), standard.pixel_size
    (1.02, None)
    """
    if isinstance(like, str | Path):
        path = Path(like)
        bare = open_bare_calibration(path)
        cube, name = open_calibrated(path) if bare is None else _empty_cube(bare, path.stem), path.name
    elif hasattr(like, "calibration") and hasattr(like, "Qshape"):
        cube, name, bare = like, str(like.name), None
    else:
        raise PrenetError("The standard (like=) must be a calibrated DataCube or the path of a calibrated EMD file, "
                          f"not {type(like).__name__}.")
    if cube.calibration is None:
        raise PrenetError(f"{name} holds no calibration; calibrate the standard first.")
    check = check_calibration(cube)
    harmless = check.decision.has("calibration_missing", "sigma_stale", "mean_origin_moved")
    if bare is None and not check.current and not harmless:
        raise PrenetError(f"{name} cannot be a standard, because its calibration does not belong to its data: "
                          f"{check.flags[0].sentence}")
    params, signed = cube.calibration._params, signatures(cube)
    size, unit = params.get("Q_pixel_size"), str(params.get("Q_pixel_units"))
    rotation = params.get("QR_rotation")
    maps = cube.calibration.get_origin()
    fitted, ellipse = signed.get("origin", {}), signed.get("ellipse", {})
    if maps is not None and any(np.shape(q) != tuple(cube.Rshape) for q in maps):
        maps = None
    return CalibratedScan(
        name=name,
        sha256=_hash(params),
        frame=read_frame(cube) if bare is None else None,
        conditions=conditions_of(cube),
        ellipse=_ellipse(cube.calibration, ellipse),
        round_beam=bool(ellipse.get("unchanged")) and "direct beam" in ellipse.get("used", ""),
        pixel_size=None if unit == "pixels" or size is None else (float(size), unit),
        rotation=None if rotation is None else (float(rotation), bool(params.get("QR_flip"))),
        origin=None if maps is None else np.stack(maps).astype(float),
        uncertainty=float(fitted.get("uncertainty") or np.nan) if fitted.get("unchanged") else np.nan,
        step=(float(params.get("R_pixel_size") or 1), str(params.get("R_pixel_units"))),
        facts={name: _facts(signed.get(name, {})) for name in ("pixel_size", "rotation")},
        data=frozenset(entry["data"] for entry in signed.values() if entry["unchanged"] and entry.get("data")))


def _empty_cube(calibration, name):
    """Create a cube with a given calibration, whose patterns are single zeros."""
    from py4DSTEM import DataCube

    maps = np.shape(calibration._params.get("qx0"))
    cube = DataCube(np.broadcast_to(np.uint8(0), (*(maps if len(maps) == 2 else (1, 1)), 1, 1)), name=name)
    for key, value in calibration._params.items():
        if not key.startswith("_"):
            cube.calibration[key] = value
    return cube


def _ellipse(calibration, signature):
    """Ellipse of a calibration; None if none is set, or if it varies over the scan."""
    stored = calibration.get_ellipse()
    if stored is None or any(map(np.ndim, stored)):
        return None
    vector = np.asarray(ellipse_vector(*stored))
    covariance = signature.get("covariance") if signature.get("unchanged") else None
    covariance = np.full((2, 2), np.nan) if covariance is None else np.array(covariance, float)
    return Ellipse(*ellipse_axes(vector), vector, covariance, Decision(True))


def _facts(signature):
    """Facts that a signature records of the values; empty if the values were changed since."""
    if not signature.get("unchanged"):
        return {}
    return {name: value for name, value in signature.items() if name not in _OF_THE_SCAN}


def _hash(params):
    """SHA-256 of the values of a calibration that can be carried over."""
    digest = hashlib.sha256()
    for key in _HASHED:
        value = params.get(key)
        if value is None or isinstance(value, str):
            digest.update(f"{key} {value}".encode())
        else:
            digest.update(key.encode() + np.asarray(value, dtype="<f8").tobytes())
    return digest.hexdigest()
