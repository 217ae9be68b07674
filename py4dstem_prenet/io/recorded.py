"""Read records of a measured pixel size, rotation and ellipse from a calibration, for figures and verdicts.

The signature of an entry (`calibrations.sign`) holds the result under "result"; the radial profile of a standard is the
array "prenet_rings" of the calibration, and the deflection from which a rotation was measured is the `RealSlice`
"prenet_deflection" in the tree of the cube. Other scans do not take them over.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..core import FLAGS, Decision, Flag, PixelSize, Rotation
from . import DEFLECTION, RING_PROFILE, author_of, read_ellipse, signatures


def read_pixel_size(datacube) -> PixelSize | None:
    """Read the pixel size that was measured in a scan from a known crystal.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.

    Returns
    -------
    PixelSize or None
        With its rings and flags; None if the pixel size in the calibration was not measured in this scan.
    """
    stored = _stored(datacube, "pixel_size")
    if stored is None:
        return None
    arrays = {name: _array(stored[name]) for name in ("g", "ring_errors", "ring_sigmas", "covariance", "vector",
                                                      "threefold")}
    profile = np.array(datacube.calibration._params.get(RING_PROFILE, np.empty((3, 0))), float)
    numbers = {name: _number(stored.get(name)) for name in ("value", "sigma", "barrel", "barrel_sigma",
                                                            "threefold_sigma", "reference", "beam_radius")}
    return PixelSize(standard=stored["standard"], decision=_decision(stored), evidence=stored["evidence"],
                     hkl=tuple(stored["hkl"]), profile=profile, **numbers, **arrays)


def read_rotation(datacube) -> Rotation | None:
    """Read the rotation that was measured in a scan.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.

    Returns
    -------
    Rotation or None
        With its estimates, flags and the deflection; None if the rotation in the calibration was not measured in this
        scan.
    """
    stored = _stored(datacube, "rotation")
    if stored is None:
        return None
    field = np.array(datacube.tree(DEFLECTION).data) if DEFLECTION in datacube.treekeys else None
    if field is not None and field.shape != (2, *datacube.Rshape):
        field = None
    sources = {name: (_number(angle), bool(flip), _number(sigma)) for name, (angle, flip, sigma) in
               stored["sources"].items()}
    return Rotation(_number(stored["degrees"]), bool(stored["flip"]), _number(stored["sigma"]),
                    bool(stored["half_turn_determined"]), _decision(stored), sources, field)


def recorded_ellipse(datacube):
    """Read the record of the ellipse in a calibration.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.

    Returns
    -------
    covariance : numpy.ndarray, shape (2, 2)
        Of the ellipse vector; NaN if it is not known.
    evidence : str
        The most precise evidence that it was measured from; empty if that is not known.
    """
    entry = signatures(datacube).get("ellipse", {})
    if not entry.get("unchanged"):
        return np.full((2, 2), np.nan), ""
    covariance = entry.get("covariance")
    covariance = np.full((2, 2), np.nan) if covariance is None else np.array([_array(row) for row in covariance])
    return covariance, str(entry.get("leading", ""))


def known_ellipse(datacube):
    """Read the ellipse in the calibration with its covariance, as far as that is recorded.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.

    Returns
    -------
    Ellipse or None
        As `read_ellipse` returns it, with the recorded covariance if the ellipse was measured and not changed since.
    """
    ellipse, (covariance, _) = read_ellipse(datacube), recorded_ellipse(datacube)
    if ellipse is None or not np.isfinite(covariance).all():
        return ellipse
    return replace(ellipse, covariance=covariance)


def held_quantities(datacube) -> dict:
    """Read ellipse, pixel size and rotation from a calibration, as numbers for a summary.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.

    Returns
    -------
    dict
        "ellipse" to ratio, sigma, degrees and degrees_sigma; "pixel_size" to value, sigma, unit and corrected (whether
        it includes the factor by which py4DSTEM's correction of the ellipse makes radii smaller); "rotation" to
        degrees, sigma and flipped (a text); each with author and source; only those that are set. A sigma is NaN if
        none is recorded.

    Examples
    --------
    >>> from py4DSTEM import DataCube
    >>> datacube = DataCube(np.ones((2, 2, 32, 32), np.uint8))
    >>> datacube.calibration.set_Q_pixel_size(0.02)
    >>> datacube.calibration.set_Q_pixel_units("A^-1")
    >>> {name: numbers["author"] for name, numbers in held_quantities(datacube).items()}
    {'pixel_size': 'hand or another program'}
    """
    params = {} if datacube.calibration is None else datacube.calibration._params
    signed, found = signatures(datacube), {}
    for name in ("ellipse", "pixel_size", "rotation"):
        author, entry = author_of(datacube, name), signed.get(name, {})
        sigma = _number(entry.get("sigma") if entry.get("unchanged") else None)
        if author is None:
            continue
        if name == "ellipse":
            stored = read_ellipse(datacube)
            if stored is None:  # it varies over the scan
                continue
            values = replace(stored, covariance=recorded_ellipse(datacube)[0]).summary_numbers()
        elif name == "rotation":
            values = {"degrees": float(np.degrees(params["QR_rotation"])), "sigma": sigma,
                      "flipped": "flipped" if params.get("QR_flip") else "not flipped"}
        elif params.get("Q_pixel_units") == "pixels":
            continue
        else:
            values = {"value": float(params["Q_pixel_size"]), "sigma": sigma,
                      "unit": str(params["Q_pixel_units"]).replace("A^-1", "Å⁻¹"),
                      "corrected": bool(np.isfinite(sigma)) and entry.get("ratio", 1.0) != 1}
        found[name] = values | {"author": author, "source": str(entry.get("source", ""))}
    return found


def _stored(datacube, entry):
    """Return the recorded result of an entry that was not changed since."""
    signature = signatures(datacube).get(entry, {})
    return signature.get("result") if signature.get("unchanged") else None


def _decision(stored):
    decision = stored["decision"]
    flags = (_flag(flag["name"], flag["numbers"]) for flag in decision["flags"])
    return Decision(decision["accepted"], tuple(flag for flag in flags if flag is not None), decision["numbers"])


def _flag(name, numbers):
    """A recorded flag; None if this version does not have it, or states other numbers with it."""
    if name not in FLAGS:
        return None
    flag = Flag(name, numbers)
    try:
        flag.to_json()
    except (KeyError, TypeError, ValueError):
        return None
    return flag


def _number(value):
    """Convert a number of JSON, in which NaN is null."""
    return float("nan") if value is None else float(value)


def _array(values):
    return np.array(values, dtype=object).astype(float)  # None becomes NaN
