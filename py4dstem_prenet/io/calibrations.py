"""Write results into the calibration of a py4DSTEM DataCube, and read them back.

Results are written to py4DSTEM's objects here only (`resampling` also sets up the calibration of a new cube). Only
classes of py4DSTEM are used, so that it reads saved files without this package: `Calibration`, and the `RealSlice`
"prenet_origin_sigma" with maps of the uncertainty of the origin. The calibration also holds the detector mask
"prenet_mask", and "prenet_stop", a beam stop that was found. Pixel size, rotation and probe: `quantities`; what was
written when, and for which data: `provenance`; files: `emd_files`.
"""

import copy
import json
from contextlib import contextmanager

import numpy as np
from scipy.ndimage import distance_transform_edt

from ..core import Decision, Ellipse, Flag, OriginMap, PrenetError, ellipse_axes, ellipse_vector
from ..detector import estimate_noise
from .provenance import WRITTEN, sign, signatures

# Names in the tree and metadata of a cube, and in its calibration:
SIGMA = "prenet_origin_sigma"
ELLIPSE_MAP = "prenet_ellipse_map"
MASK = "prenet_mask"
STOP = "prenet_stop"
STORED_ELLIPSE_SIGMA = 0.005  # ellipse vector; assumed standard error of each component of an ellipse without any
STORED_NUMBERS = "common", "searched"  # names of numbers of the decision on the origin that are kept
BEFORE = "prenet_before"  # start of names in the metadata; entries of the calibration before a change


# --- origin and ellipse -------------------------------------------------------------------------------------
@contextmanager
def all_or_none(datacube):
    """Undo all changes to a cube if the block is left by an exception, KeyboardInterrupt included.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube; its calibration, tree and metadata are restored, not its data.

    Yields
    ------
    None
        The block writes into the cube.
    """
    calibration = datacube.calibration
    params = None if calibration is None else dict(calibration._params)
    tree, metadata = dict(datacube._branch._dict), dict(datacube._metadata)
    try:
        yield
    except BaseException:
        datacube._branch._dict.clear()
        datacube._branch._dict.update(tree)
        datacube._metadata.clear()
        datacube._metadata.update(metadata)
        if calibration is not None:
            calibration._params.clear()
            calibration._params.update(params)
            calibration.calibrate()  # updates the axes of the cube
        raise


def write_origin(datacube, origin_map, **facts):
    """Write a measured origin with `set_origin_meas`, its mask, the probe radius and the maps of sigma.

    Invalid positions get the origin of the nearest valid position, because a single NaN makes py4DSTEM's virtual images
    and Bragg vector maps zero; their sigma is NaN. An earlier measurement is replaced. If no beam was found, nothing is
    written.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The scan that was measured.
    origin_map : OriginMap
        The measured origin.
    **facts
        Facts for `sign`.

    Returns
    -------
    bool
        Whether anything was written.

    Raises
    ------
    PrenetError
        If the maps do not have the shape of the scan.
    """
    names = ("qx0", "qy0", "sigma_qx0", "sigma_qy0")
    maps = {name: np.array(getattr(origin_map, name), dtype=np.float64) for name in names}
    valid = np.array(origin_map.valid, dtype=bool)
    for name, values in {**maps, "valid": valid}.items():
        _check_map(datacube, name, values)
    valid &= np.isfinite(maps["qx0"]) & np.isfinite(maps["qy0"])
    if not origin_map.found or not valid.any():
        return False

    nearest = tuple(distance_transform_edt(~valid, return_distances=False, return_indices=True))
    calibration = calibration_of(datacube)
    calibration.set_origin_meas((maps["qx0"][nearest], maps["qy0"][nearest], valid))
    # set_probe_param would also change qx0_mean, and with it the axes of the cube, which belong to the fitted origin.
    calibration.set_probe_semiangle(float(origin_map.radius) if np.isfinite(origin_map.radius) else None)
    sigma = np.where(valid, [maps["sigma_qx0"], maps["sigma_qy0"]], np.nan)
    datacube.attach(sigma_slice(sigma))
    write_stop(datacube, origin_map.stop)
    numbers = {name: float(n) for name, n in origin_map.decision.numbers.items() if name in STORED_NUMBERS}
    sign(datacube, "origin_meas", feature=origin_map.feature, radius=float(origin_map.radius),
         radius_sigma=float(origin_map.radius_sigma), **numbers, **facts)
    return True


def sigma_slice(sigma):
    """Wrap maps of the uncertainty of the origin for the tree of a cube.

    Parameters
    ----------
    sigma : ndarray, shape (2, Rx, Ry)
        Standard deviations of qx0 and qy0, pixels.

    Returns
    -------
    py4DSTEM.RealSlice
        The maps, named "prenet_origin_sigma".
    """
    from py4DSTEM import RealSlice

    return RealSlice(sigma, name=SIGMA, slicelabels=["qx0", "qy0"])


def calibration_of(datacube):
    """Return the calibration of a cube; make one if the cube has none.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        A cube; one that was read from a file may have no calibration.

    Returns
    -------
    py4DSTEM.Calibration
        The calibration, registered with the cube.
    """
    from py4DSTEM import Calibration

    if datacube.calibration is None:
        datacube.calibration = Calibration()
        datacube.calibration.register_target(datacube)
    return datacube.calibration


def write_mask(datacube, mask):
    """Store a detector mask in the calibration.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.
    mask : ndarray of bool, shape (Qx, Qy), or None
        True where a pixel is good; None changes nothing.
    """
    if mask is not None:
        datacube.calibration[MASK] = np.array(mask, bool)


def read_mask(datacube):
    """Read the detector mask from the calibration.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube or array_like
        The scan; an array has no mask.

    Returns
    -------
    ndarray of bool, shape (Qx, Qy), or None
        The mask; None if there is none for patterns of this shape.
    """
    calibration = getattr(datacube, "calibration", None)
    mask = None if calibration is None else calibration._params.get(MASK)
    return None if mask is None or np.shape(mask) != tuple(datacube.Qshape) else mask


def write_stop(datacube, stop):
    """Store a beam stop that was found, or remove an earlier one.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.
    stop : ndarray of bool, shape (Qx, Qy), or None
        True behind the stop.
    """
    if stop is not None:
        datacube.calibration[STOP] = np.array(stop, bool)
    else:
        datacube.calibration._params.pop(STOP, None)


def read_stop(datacube):
    """Read the beam stop that was found in a scan.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The scan.

    Returns
    -------
    ndarray of bool, shape (Qx, Qy), or None
        True behind the stop; `calibrate(mask=~stop)` keeps it as the detector mask. None if none was found.
    """
    stop = None if datacube.calibration is None else datacube.calibration._params.get(STOP)
    return None if stop is None or np.shape(stop) != tuple(datacube.Qshape) else np.array(stop, bool)


def noise_of(datacube):
    """Estimate the noise model of a scan, using the detector mask in its calibration.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube or array_like
        The scan, (Rx, Ry, Qx, Qy).

    Returns
    -------
    NoiseModel
        Gain, offset, read-out noise, dose and bad pixels.
    """
    return estimate_noise(datacube, mask=read_mask(datacube))


def read_valid(datacube):
    """Read at which positions the origin was measured.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.

    Returns
    -------
    ndarray of bool, shape (Rx, Ry), or None
        True where a beam was found; None if there is no mask of this shape.
    """
    calibration = datacube.calibration
    mask = None if calibration is None else calibration.get_origin_meas_mask()
    return np.array(mask, bool) if np.shape(mask) == tuple(datacube.Rshape) else None


def write_fit(datacube, origin_fit, **facts):
    """Write a fitted origin with `set_origin`, if it was accepted.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The scan whose origin was fitted.
    origin_fit : OriginFit
        The fitted origin.
    **facts
        Facts for `sign`.

    Returns
    -------
    bool
        Whether it was written.

    Raises
    ------
    PrenetError
        If the maps do not have the shape of the scan or are not finite.
    """
    if not origin_fit.accepted:
        return False
    qx0, qy0 = (np.array(v, dtype=np.float64) for v in (origin_fit.qx0, origin_fit.qy0))
    for name, values in (("qx0", qx0), ("qy0", qy0)):
        _check_map(datacube, name, values)
        if not np.isfinite(values).all():
            raise PrenetError(f"The fitted {name} is not finite everywhere, which py4DSTEM cannot use.")
    datacube.calibration.set_origin((qx0, qy0))
    sign(datacube, "origin", **facts)
    return True


def write_ellipse(datacube, ellipse, **facts):
    """Write an ellipse with `set_ellipse`, if it was accepted.

    `datacube.calibration.set_ellipse((None, None, None))` removes it.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The scan whose ellipse was measured.
    ellipse : Ellipse
        The ellipse.
    **facts
        Facts for `sign`, such as the covariance of the ellipse vector, or another author.

    Returns
    -------
    bool
        Whether it was written.
    """
    if not ellipse.accepted:
        return False
    calibration_of(datacube).set_ellipse((float(ellipse.a), float(ellipse.b), float(ellipse.theta)))
    sign(datacube, "ellipse", **facts)
    return True


def read_ellipse(datacube):
    """Read the ellipse in the calibration.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.

    Returns
    -------
    Ellipse or None
        With a covariance as of an ellipse that is known to STORED_ELLIPSE_SIGMA; None if there is none, or one that
        varies over the scan.
    """
    ellipse = None if datacube.calibration is None else datacube.calibration.get_ellipse()
    if ellipse is None or any(v is None or np.size(v) != 1 for v in ellipse):
        return None
    vector = ellipse_vector(*(float(np.squeeze(v)) for v in ellipse))
    covariance = STORED_ELLIPSE_SIGMA**2 * np.eye(2)
    return Ellipse(*ellipse_axes(vector), vector, covariance, Decision(True, ()))


def stored_ratio(calibration):
    """Return a / b of the ellipse in a calibration.

    Parameters
    ----------
    calibration : py4DSTEM.Calibration
        The calibration.

    Returns
    -------
    float
        a / b, the mean if it varies over the scan; 1 if there is no ellipse.
    """
    a, b = (calibration._params.get(name) for name in "ab")
    return 1.0 if a is None or b is None else float(np.mean(np.asarray(a, float) / np.asarray(b, float)))


def attach_ellipse_map(datacube, ellipse_map):
    """Attach maps of a, b, theta, sigma and acceptance to a cube, as the RealSlice "prenet_ellipse_map".

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The scan whose ellipses were measured.
    ellipse_map : EllipseMap
        The ellipses of the regions of the scan.
    """
    from py4DSTEM import RealSlice

    labels = ["a", "b", "theta", "sigma", "accepted"]
    datacube.attach(RealSlice(ellipse_map.at_positions(), name=ELLIPSE_MAP, slicelabels=labels))


def read_origin(datacube):
    """Read the measured origin from the calibration, measured by this package or by py4DSTEM.

    Without maps of sigma for this measurement (py4DSTEM writes none) all sigmas are 1 px; without a stored radius the
    radius is NaN.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.

    Returns
    -------
    OriginMap
        The measured origin.

    Raises
    ------
    PrenetError
        If no origin was measured, or only for a scan of another shape.
    """
    measured = None if datacube.calibration is None else datacube.calibration.get_origin_meas()
    if measured is None:
        raise PrenetError("The origin has not been measured; call datacube.prenet.measure_origin() first.")
    qx0, qy0 = (_stored_map(datacube, v) for v in measured)
    valid = np.isfinite(qx0) & np.isfinite(qy0)
    mask = datacube.calibration.get_origin_meas_mask()
    if np.shape(mask) == valid.shape:  # py4DSTEM may store a single False, which has no meaning
        valid &= np.asarray(mask, dtype=bool)
    sigma = np.ones((2, *qx0.shape))
    sigma_known = sigma_is_current(datacube)
    if sigma_known:
        sigma = np.array(datacube.tree(SIGMA).data)
    radius = datacube.calibration.get_probe_semiangle()
    written = signatures(datacube).get("origin_meas", {})
    flags = (Flag("stored_origin"),) if sigma_known else (Flag("stored_origin"), Flag("sigma_unknown"))
    known = written.get("unchanged") and radius is not None and written.get("radius") == float(radius)
    radius_sigma = written.get("radius_sigma") if known else None
    numbers = {name: written[name] for name in STORED_NUMBERS if written.get("unchanged") and name in written}
    return OriginMap(
        qx0=qx0,
        qy0=qy0,
        sigma_qx0=sigma[0],
        sigma_qy0=sigma[1],
        valid=valid,
        radius=float("nan") if radius is None else float(radius),
        decision=Decision(bool(valid.any()), flags, numbers),
        feature=written["feature"] if written.get("unchanged") and "feature" in written else "direct beam",
        stop=read_stop(datacube),
        radius_sigma=float("nan") if radius_sigma is None else float(radius_sigma),
    )


def read_fitted_origin(datacube):
    """Read the origin that py4DSTEM uses.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.

    Returns
    -------
    qx0, qy0 : ndarray, shape (Rx, Ry)
        The origin, pixels.
    radius : float
        The probe radius, pixels; NaN if it is unknown.

    Raises
    ------
    PrenetError
        If no origin is set, or only for data of another shape.
    """
    origin = None if datacube.calibration is None else datacube.calibration.get_origin()
    if origin is None:
        raise PrenetError("No origin is set; call datacube.prenet.calibrate() (prenet calibrate) first.")
    entry = signatures(datacube).get("origin")
    if entry and entry["unchanged"] and tuple(entry["shape"][2:]) != tuple(datacube.Qshape):
        raise PrenetError(
            f"The origin is for patterns of {entry['shape'][2]} x {entry['shape'][3]} pixels, but they are "
            f"{datacube.Qshape[0]} x {datacube.Qshape[1]} now; calibrate again, and crop or bin with "
            "datacube.prenet.crop_Q and bin_Q, which adapt the calibration."
        )
    radius = datacube.calibration.get_probe_semiangle()
    return *(_stored_map(datacube, v) for v in origin), float("nan") if radius is None else float(radius)


def beam_is_hidden(datacube) -> bool:
    """Return whether the origin in the calibration is that of a hidden direct beam, so that no disk lies there.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.

    Returns
    -------
    bool
        True if this package measured it from rings or from inversion symmetry.
    """
    written = signatures(datacube).get("origin_meas", {})
    return bool(written.get("unchanged")) and written.get("feature", "direct beam") != "direct beam"


def sigma_is_current(datacube):
    """Return whether the maps of sigma belong to the measured origin in the calibration.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.

    Returns
    -------
    bool
        False also if there are no maps.
    """
    if SIGMA not in datacube.treekeys or datacube.tree(SIGMA).data.shape != (2, *datacube.Rshape):
        return False
    entry = signatures(datacube).get("origin_meas")  # files of the first version have no entry
    return entry is None or entry["unchanged"]


def _check_map(datacube, name, values):
    """Raise PrenetError if a map does not have the shape of the scan."""
    if values.shape != tuple(datacube.Rshape):
        raise PrenetError(
            f"The map {name} has the shape {values.shape}, but the scan is {tuple(datacube.Rshape)}; "
            "write it to the cube on which it was measured."
        )


def _stored_map(datacube, values):
    """Return a map from the calibration, (Rx, Ry); a constant is repeated."""
    values = np.array(values, dtype=np.float64)
    if values.ndim and values.shape != tuple(datacube.Rshape):
        raise PrenetError(
            f"The origin in the calibration has the shape {values.shape}, but the scan is "
            f"{tuple(datacube.Rshape)}: it was measured before the cube was cropped or binned; measure it again."
        )
    return np.broadcast_to(values, datacube.Rshape).copy()


# --- copies ------------------------------------------------------------------------------------------------
def cube_like(datacube, data):
    """Make a DataCube of other data with copies of the calibration, the maps of sigma and the metadata.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube to copy from.
    data : array_like, shape (Rx, Ry, Qx, Qy)
        The data of the new cube.

    Returns
    -------
    py4DSTEM.DataCube
        The new cube.
    """
    from py4DSTEM import DataCube

    new = DataCube(data=data, name=datacube.name)
    for key, value in calibration_of(datacube)._params.items():
        if not key.startswith("_"):  # paths in the tree of the original
            new.calibration[key] = copy.deepcopy(value)
    record = json.loads(new.calibration._params.get(WRITTEN) or "{}")
    if record:  # the fingerprint is that of the old data
        new.calibration[WRITTEN] = json.dumps({entry: {**facts, "data": None} for entry, facts in record.items()})
    if sigma_is_current(datacube):
        # A deep copy of the RealSlice would copy its whole tree, data included.
        new.attach(sigma_slice(np.array(datacube.tree(SIGMA).data)))
    for record in datacube.metadata.values():
        if record.name != "calibration" and not record.name.startswith(BEFORE):
            new.metadata = copy.deepcopy(record)
    return new
