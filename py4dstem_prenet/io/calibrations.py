"""Write results into the calibration of a py4DSTEM DataCube, and read them back.

Results are written to py4DSTEM's objects here only (`resampling` also sets up the calibration of a new cube). Only
classes of py4DSTEM are used, so that it reads saved files without this package: `Calibration`; the `RealSlice`
"prenet_origin_sigma" with maps of the uncertainty of the origin; the `Metadata` "prenet" with the provenance. The
calibration also holds the text "prenet_written", which records the data and values for which its entries were written,
so that outdated entries are found, the detector mask "prenet_mask", and "prenet_stop", a beam stop that was found.
Files: `emd_files`.
"""

import copy
import hashlib
import json
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from datetime import datetime, timezone

import numpy as np
from scipy.ndimage import distance_transform_edt

from .._version import __version__
from ..core import Decision, Ellipse, Flag, OriginMap, PrenetError, ellipse_axes, ellipse_vector
from ..detector import estimate_noise
from .fingerprints import fingerprint

# Names in the tree and the metadata of a cube, and in its calibration
SIGMA = "prenet_origin_sigma"
ELLIPSE_MAP = "prenet_ellipse_map"
MASK = "prenet_mask"
STOP = "prenet_stop"
RING_PROFILE = "prenet_rings"
DEFLECTION = "prenet_deflection"
PROVENANCE = "prenet"
WRITTEN = "prenet_written"
PROBE = "prenet_probe"
KERNEL_REACH = 2.0  # radii of the disk, outer radius of the negative annulus of a probe's kernel
STORED_ELLIPSE_SIGMA = 0.005  # of each component of an ellipse in a calibration, which holds no uncertainty
BEFORE = "prenet_before"  # in the metadata: what stood in the calibration before the last writing
ENTRIES = {  # of the calibration, and the names of their numbers in it
    "origin_meas": ("qx0_meas", "qy0_meas"), "origin": ("qx0", "qy0"), "ellipse": ("a", "b", "theta"),
    "pixel_size": ("Q_pixel_size", "Q_pixel_units"), "rotation": ("QR_rotation", "QR_rotation_degrees", "QR_flip")}


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
    sign(datacube, "origin_meas", feature=origin_map.feature, **facts)
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


def write_rotation(datacube, rotation, **facts):
    """Write rotation and flip between scan and pattern with `set_QR_rotflip_degrees`, if they were accepted.

    py4DSTEM's `BraggVectors` and strain maps use them from then on. An angle that is known up to half a turn is written
    as it is, in (-90, 90] degrees; the record in the calibration says so.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The scan whose rotation was measured.
    rotation : Rotation
        The rotation.
    **facts
        Facts for `sign`.

    Returns
    -------
    bool
        Whether it was written.
    """
    from py4DSTEM import RealSlice

    if not rotation.accepted:
        return False
    calibration_of(datacube).set_QR_rotflip_degrees((float(rotation.degrees), bool(rotation.flip)))
    if rotation.deflection is not None:
        datacube.attach(RealSlice(np.array(rotation.deflection), name=DEFLECTION, slicelabels=["qx", "qy"]))
    sign(datacube, "rotation", half_turn_determined=bool(rotation.half_turn_determined), sigma=float(rotation.sigma),
         result=replace(rotation, deflection=None), **facts)
    return True


def write_pixel_size(datacube, size, **facts):
    """Write a pixel size with `set_Q_pixel_size` and `set_Q_pixel_units`, if it was accepted.

    py4DSTEM's elliptical correction multiplies the geometric-mean radius by sqrt(b / a). The pixel size is therefore
    multiplied by sqrt(a / b) if an ellipse is set, so that `BraggVectors.cal` and `PolarDatacube` return 1/angstrom.
    Distortions beyond the ellipse, which py4DSTEM cannot hold, are recorded for `corrected`.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The scan whose pixel size was measured; its ellipse is written already.
    size : PixelSize
        The pixel size.
    **facts
        Facts for `sign`.

    Returns
    -------
    bool
        Whether it was written.
    """
    if not size.accepted:
        return False
    calibration = calibration_of(datacube)
    ratio = stored_ratio(calibration)
    calibration.set_Q_pixel_size(float(size.value * np.sqrt(ratio)))
    calibration.set_Q_pixel_units("A^-1")
    sign(datacube, "pixel_size", standard=size.standard, sigma=float(size.sigma * np.sqrt(ratio)), ratio=ratio,
         barrel=float(size.barrel), threefold=[float(v) for v in size.threefold], reference=float(size.reference),
         result=replace(size, profile=np.empty(0)), **facts)
    calibration[RING_PROFILE] = np.array(size.profile, float)
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


def write_probe(datacube, image):
    """Make a py4DSTEM `Probe` with its kernel, attach it to a cube, and store the convergence semi-angle.

    The kernel is that of `Probe.get_kernel(mode="sigmoid")` with an annulus from one to two radii, so that it sums to
    zero; it is ready for `find_Bragg_disks(template=probe.kernel)`.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The scan whose probe was measured.
    image : ProbeImage
        The image of the probe, accepted.

    Returns
    -------
    py4DSTEM.Probe
        The probe, in the tree of the cube as "probe".

    Raises
    ------
    PrenetError
        If the image was refused.
    """
    from py4DSTEM import Metadata, Probe

    if not image.accepted:
        raise PrenetError(f"No probe was made. {image.reason}")
    probe = Probe(np.array(image.image, dtype=np.float64))
    probe.alpha, probe.origin = float(image.radius), tuple(map(float, image.center))
    probe.get_kernel(mode="sigmoid", origin=image.center, returncalc=False,
                     radii=(float(image.radius), KERNEL_REACH * float(image.radius)))
    probe.metadata = Metadata(PROBE, {"json": json.dumps(to_json(replace(image, image=None)))})
    datacube.attach(probe)
    calibration = calibration_of(datacube)
    calibration.set_convergence_semiangle_pixels(float(image.radius))
    if image.semiangle_mrad is not None:
        calibration.set_convergence_semiangle_mrad(float(image.semiangle_mrad))
    return probe


def probe_optics(datacube):
    """Read the pixel size and the acceleration voltage from the calibration.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.

    Returns
    -------
    pixel_size : float or None
        Size of a detector pixel, 1/angstrom; None if it is not calibrated in this unit.
    voltage : float or None
        Acceleration voltage, V; None if the calibration does not hold it as "accelerating_voltage".
    """
    calibration = datacube.calibration
    if calibration is None:
        return None, None
    size = float(calibration.get_Q_pixel_size()) if calibration.get_Q_pixel_units() == "A^-1" else None
    voltage = calibration._params.get("accelerating_voltage")
    return size, None if voltage is None else float(voltage)


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
    return OriginMap(
        qx0=qx0,
        qy0=qy0,
        sigma_qx0=sigma[0],
        sigma_qy0=sigma[1],
        valid=valid,
        radius=float("nan") if radius is None else float(radius),
        decision=Decision(bool(valid.any()), flags),
        feature=written["feature"] if written.get("unchanged") and "feature" in written else "direct beam",
        stop=read_stop(datacube),
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
        raise PrenetError("No origin is set; call datacube.prenet.measure_origin() and fit_origin() first.")
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
    """Whether the origin in the calibration is that of a hidden direct beam, so that no disk lies there.

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
    """Whether the maps of sigma belong to the measured origin in the calibration.

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


def sign(datacube, *entries, **facts):
    """Record the shape of the data and the present values of entries in the calibration.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.
    *entries : {"origin_meas", "origin", "ellipse", "pixel_size", "rotation"}
        The entries that were written.
    **facts
        Further facts about the entries; numbers and arrays. `data` is the fingerprint of the data, if it is known.
    """
    record = json.loads(datacube.calibration._params.get(WRITTEN) or "{}")
    facts = to_json(facts if "data" in facts else {"data": fingerprint(datacube), **facts})
    for entry in entries:
        record[entry] = {"shape": to_json(datacube.data.shape), "values": _digest(datacube.calibration, entry), **facts}
    if "origin" in entries:
        record["origin"]["measured"] = _digest(datacube.calibration, "origin_meas")
    datacube.calibration[WRITTEN] = json.dumps(record)


def signatures(datacube):
    """Read what `sign` recorded, compared with the present values.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.

    Returns
    -------
    dict
        {entry: {"shape": shape of the data it was written for, "unchanged": whether its values are the same}}, and the
        facts given to `sign`. The fitted origin also has "measured": whether the measured origin is the one that was
        fitted. Empty if this package wrote nothing.
    """
    calibration = datacube.calibration
    record = {} if calibration is None else json.loads(calibration._params.get(WRITTEN) or "{}")
    for entry, signature in record.items():
        signature["unchanged"] = signature.pop("values") == _digest(calibration, entry)
        if "measured" in signature:
            signature["measured"] = signature["measured"] == _digest(calibration, "origin_meas")
    return record


def _digest(calibration, entry):
    """A hash of the values of an entry."""
    values = [calibration._params.get(name) for name in ENTRIES[entry]]
    text = (v.encode() if isinstance(v, str) else np.asarray(v, dtype=np.float64).tobytes() for v in values)
    return hashlib.sha256(b"".join(text)).hexdigest()[:16]


def _check_map(datacube, name, values):
    """Raise PrenetError if a map does not have the shape of the scan."""
    if values.shape != tuple(datacube.Rshape):
        raise PrenetError(
            f"The map {name} has the shape {values.shape}, but the scan is {tuple(datacube.Rshape)}; "
            "write it to the cube on which it was measured."
        )


def _stored_map(datacube, values):
    """A map from the calibration, (Rx, Ry); a constant is repeated."""
    values = np.array(values, dtype=np.float64)
    if values.ndim and values.shape != tuple(datacube.Rshape):
        raise PrenetError(
            f"The origin in the calibration has the shape {values.shape}, but the scan is "
            f"{tuple(datacube.Rshape)}: it was measured before the cube was cropped or binned; measure it again."
        )
    return np.broadcast_to(values, datacube.Rshape).copy()


# --- provenance ---------------------------------------------------------------------------------------------
def make_provenance(datacube, weights=None, settings=None, noise=None, flags=()):
    """Describe how a cube was processed.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.
    weights : dict, optional
        {name: SHA-256} of the networks that were used.
    settings : dict, optional
        The settings of the caller.
    noise : NoiseModel, optional
        The noise model that was used.
    flags : iterable of Flag, optional
        What was accepted, refused and written.

    Returns
    -------
    dict
        The record, in types of JSON.
    """
    import py4DSTEM

    record = {
        "package": "py4dstem_prenet",
        "version": __version__,
        "py4DSTEM": py4DSTEM.__version__,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "shape": datacube.data.shape,
        "dtype": str(datacube.data.dtype),
        "weights": weights or {},
        "settings": settings or {},
        "flags": [flag.to_json() for flag in flags],
    }
    if noise is not None:
        record["noise"] = replace(noise, bad_pixels=int(np.count_nonzero(noise.bad_pixels)))
    return to_json(record)


def to_json(value):
    """Convert a value to types of JSON.

    Parameters
    ----------
    value : object
        Dataclasses become dicts, arrays and sets become lists, NaN and infinity become None, and objects of other types
        become text.

    Returns
    -------
    dict, list, str, int, float, bool or None
        The converted value.

    Examples
    --------
    >>> to_json({"a": np.arange(2), "b": (1.5, float("nan"))})
    {'a': [0, 1], 'b': [1.5, None]}
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return to_json(value.tolist())
    if isinstance(value, list | tuple | set):
        return [to_json(v) for v in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def write_provenance(datacube, record):
    """Store a provenance in the metadata of a cube, replacing an earlier one.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.
    record : dict
        What `make_provenance` returned.
    """
    from py4DSTEM import Metadata

    datacube.metadata = Metadata(PROVENANCE, {"json": json.dumps(record, allow_nan=False)})


def read_provenance(datacube):
    """Read the provenance from the metadata of a cube.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.

    Returns
    -------
    dict or None
        The record; None if this package wrote none.
    """
    stored = datacube.metadata.get(PROVENANCE)
    return json.loads(stored["json"]) if stored else None


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
        if record.name not in ("calibration", BEFORE):
            new.metadata = copy.deepcopy(record)
    return new
