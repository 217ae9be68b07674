"""Rotation and flip between scan and pattern, as py4DSTEM's `QR_rotation` and `QR_flip`.

A vector (qx, qy) of the pattern becomes a vector of the scan if its components are exchanged (only if `flip` is set)
and the result is rotated by the angle from +x (rows) toward +y (columns):

    (x, y) = R(angle) (qx, qy)    or    R(angle) (qy, qx).

`BraggVectors.cal`, `StrainMap` and the phase retrieval of py4DSTEM 0.14.18 use this convention. py4DSTEM stores the
angle in radians (`QR_rotation`) and in degrees (`QR_rotation_degrees`).

`deflection` measures the center of mass of all patterns about the fitted origin, `curl` finds the angle at which it has
no curl, `shadow` follows the shadow image of a defocused probe, and `decide` accepts or refuses.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from ..core import Flag, NoiseModel, PrenetError, Rotation, as_scan, ellipse_matrix
from . import (
    CENTER_OF_MASS,
    MAX_PROBABILITY,
    SHADOW,
    align,
    decide_rotation,
    flatten,
    from_alignment,
    from_shadow,
    half_turn_distance,
    measure_deflection,
    measure_shadow,
    sign_of_field,
    unknown_rotation,
)

MAX_SIGN_DEGREES = 15.0  # degrees; largest difference from the rotation of the deflection whose sign is used
MIN_SCAN_SIDE = 8  # positions; smallest side of a scan: a smaller scan contains too few waves


def measure_rotation(data, qx0, qy0, radius, noise: NoiseModel, valid=None, ellipse=None, feature=None,
                     progress=True) -> Rotation:
    """Measure the rotation and the flip between the scan and its patterns.

    Parameters
    ----------
    data : Scan, DataCube or array_like, shape (Rx, Ry, Qx, Qy)
        The scan.
    qx0, qy0 : array_like, shape (Rx, Ry)
        Fitted origin, pixels. It must not include the deflection by the specimen.
    radius : float or None
        Radius of the direct disk, pixels; None or NaN if it is hidden.
    noise : NoiseModel
        Noise model of the detector; its bad pixels are left out.
    valid : array_like of bool, shape (Rx, Ry), optional
        True where a position is used.
    ellipse : array_like, shape (2,), optional
        Ellipse vector of the elliptical distortion, which rotates deflections along single directions by up to a
        quarter of its length. It is corrected first, as in py4DSTEM. None if there is no distortion.
    feature : array_like, shape (Rx, Ry), optional
        An image of the scan that is brighter where the specimen is heavier or thicker, used to resolve the ambiguity of
        180 degrees; by default the dark field of the scan.
    progress : bool, optional
        Whether to show a progress bar.

    Returns
    -------
    Rotation
        Angle, flip and standard error, accepted or refused. The angle has an ambiguity of 180 degrees if
        `half_turn_determined` is False.

    Raises
    ------
    PrenetError
        If the shape of a map differs from that of the scan, or the radius is not positive.

    Notes
    -----
    In a thin specimen the center of mass is the gradient of the projected potential, blurred by the probe (Mueller et
    al., Nat. Commun. 5, 5653 (2014); Lazic, Bosch and Lazar, Ultramicroscopy 160, 265 (2016)), which has no curl.

    Examples
    --------
    >>> from py4dstem_prenet.core import NoiseModel
    >>> from py4dstem_prenet.simulation import simulate_nanobeam
    >>> made = simulate_nanobeam((40, 40), (32, 32), rotation=0.5, field=0.8, length=2.0, radius=5.0)
    >>> noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((32, 32), bool), counting=True, dose=1e5)
    >>> truth = made.truth
    >>> found = measure_rotation(made.counts(1e5), truth["qx0"], truth["qy0"], 5.0, noise, progress=False)
    >>> found.accepted, found.flip, bool(abs(found.degrees - np.degrees(0.5)) < 1)
    (True, False, True)
    """
    scan = as_scan(data)
    maps = {"qx0": qx0, "qy0": qy0} | ({} if valid is None else {"valid": valid})
    maps |= {} if feature is None else {"feature": feature}
    for name, map_ in maps.items():
        if np.ndim(map_) and np.shape(map_) != scan.scan_shape:
            raise PrenetError(f"The map {name} has the shape {np.shape(map_)}, but the scan is {scan.scan_shape}.")
    radius = float("nan") if radius is None else float(radius)
    if np.isfinite(radius) and not radius > 0:
        raise PrenetError(f"The probe radius must be positive, not {radius}; measure the origin first.")
    if min(scan.scan_shape) < MIN_SCAN_SIDE:
        return unknown_rotation(Flag("rotation_scan_small", {"rows": scan.scan_shape[0], "columns": scan.scan_shape[1],
                                                             "needed": MIN_SCAN_SIDE}))
    deflection = measure_deflection(scan, qx0, qy0, radius, noise, valid, "rotation" if progress else None)
    undistort = np.linalg.inv(ellipse_matrix(np.zeros(2) if ellipse is None else np.asarray(ellipse, float)))
    fields = [(np.einsum("ij,jxy->ixy", undistort, deflection.whole), deflection.whole_noise)]
    if np.isfinite(radius):
        fields.append((np.einsum("ij,jxy->ixy", undistort, deflection.disk), deflection.disk_noise))
    aligned = [align(*field) for field in fields]
    options = [from_alignment(alignment) for alignment in aligned]
    chosen = min(range(len(fields)), key=lambda k: (options[k].refusal is not None, options[k].sigma))
    best, alignment = options[chosen], aligned[chosen]
    numbers = {"strength": alignment.strength[0], "strength_flipped": alignment.strength[1],
               "degrees": float(np.degrees(alignment.angle[0])),
               "degrees_flipped": float(np.degrees(alignment.angle[1])), "probability": alignment.probability}
    estimates = {CENTER_OF_MASS: best}
    shadow = measure_shadow(scan, qx0, qy0, radius, noise, valid)
    shadow = from_shadow(None if shadow is None else shadow.undistorted(undistort))
    if shadow is not None:
        estimates[SHADOW] = shadow
    bright = deflection.dark if feature is None else np.asarray(feature, float)
    sign = partial(_sign, field=fields[0], alignment=aligned[0],
                   bright=flatten(bright[None], deflection.valid & np.isfinite(bright))[0][0])
    result = decide_rotation(estimates, sign if np.ptp(bright) > 0 else None, numbers)
    return replace(result, deflection=fields[chosen][0])


def _sign(degrees, flip, field, alignment, bright):
    """Sign of the deflection toward bright positions: correlation in standard errors, and agreement on the sign.

    Both are zero if the deflection over the whole detector has a different rotation.
    """
    difference = half_turn_distance(float(np.degrees(alignment.angle[int(flip)])), degrees)
    if alignment.probability > MAX_PROBABILITY or alignment.flip != flip or abs(difference) > MAX_SIGN_DEGREES:
        return 0.0, 0.0
    return sign_of_field(*field, float(np.radians(degrees)), flip, bright)
