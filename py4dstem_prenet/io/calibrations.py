"""Results into py4DSTEM's calibration, and back; no other module writes to py4DSTEM's objects.

Only stock classes are used, so that py4DSTEM reads what is saved without this package: `Calibration`,
`RealSlice` "prenet_origin_sigma" (maps of the origin's uncertainty), `Metadata` "prenet" (the provenance), and in the
calibration the text "prenet_written" (of which data and values its entries are, so that stale ones can be told) and the
user's detector mask "prenet_mask". Files: `emd_files`.
"""

import copy
import hashlib
import json
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from datetime import datetime, timezone

import numpy as np
import py4DSTEM
from py4DSTEM import Calibration, DataCube, Metadata, RealSlice
from scipy.ndimage import distance_transform_edt

from .._version import __version__
from ..core import Decision, Flag, OriginMap, PrenetError
from ..detector import estimate_noise

SIGMA = "prenet_origin_sigma"
ELLIPSE_MAP = "prenet_ellipse_map"
MASK = "prenet_mask"
PROVENANCE = "prenet"
WRITTEN = "prenet_written"
_ENTRIES = {"origin_meas": ("qx0_meas", "qy0_meas"), "origin": ("qx0", "qy0"), "ellipse": ("a", "b", "theta")}


# --- origin and ellipse -------------------------------------------------------------------------------------


@contextmanager
def all_or_none(datacube):
    """Take back what was written into a cube in the block, if that is left by an exception, KeyboardInterrupt too."""
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
            calibration.calibrate()  # the cube's axes follow
        raise


def write_origin(datacube, origin_map):
    """Write a measured origin: `set_origin_meas` with its mask (True = valid), probe radius and sigma maps.

    Positions that are not valid get the origin of the nearest valid one, because a single NaN makes
    py4DSTEM's virtual images and Bragg vector maps zero; their sigma is NaN. Nothing is written where no beam
    was found. Writing again replaces what was there.

    Returns whether anything was written. Raises PrenetError where the maps do not have the scan's shape.
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
    # set_probe_param would also move qx0_mean, and with it the axes of the cube, away from the fitted origin.
    calibration.set_probe_semiangle(float(origin_map.radius) if np.isfinite(origin_map.radius) else None)
    sigma = np.where(valid, [maps["sigma_qx0"], maps["sigma_qy0"]], np.nan)
    datacube.attach(sigma_slice(sigma))
    sign(datacube, "origin_meas", feature=origin_map.feature)
    return True


def sigma_slice(sigma):
    """Maps of the origin's uncertainty, (2, Rx, Ry) px, as what hangs in a cube's tree."""
    return RealSlice(sigma, name=SIGMA, slicelabels=["qx0", "qy0"])


def calibration_of(datacube):
    """The cube's calibration; a new one where it was read from a file that has none."""
    if datacube.calibration is None:
        datacube.calibration = Calibration()
        datacube.calibration.register_target(datacube)
    return datacube.calibration


def write_mask(datacube, mask):
    """Keep a detector mask, (Qx, Qy) bool, True = good, with the calibration; None leaves what is there."""
    if mask is not None:
        datacube.calibration[MASK] = np.array(mask, bool)


def read_mask(datacube):
    """The detector mask that was given for patterns of this shape, (Qx, Qy) bool; None where there is none."""
    calibration = getattr(datacube, "calibration", None)
    mask = None if calibration is None else calibration._params.get(MASK)
    return None if mask is None or np.shape(mask) != tuple(datacube.Qshape) else mask


def noise_of(datacube):
    """The `NoiseModel` estimated from a scan, with the detector mask that was given for it."""
    return estimate_noise(datacube, mask=read_mask(datacube))


def read_valid(datacube):
    """(Rx, Ry) bool, positions that show a beam, as measured; None where that was not for this scan."""
    calibration = datacube.calibration
    mask = None if calibration is None else calibration.get_origin_meas_mask()
    return np.array(mask, bool) if np.shape(mask) == tuple(datacube.Rshape) else None


def write_fit(datacube, origin_fit):
    """Write a fitted origin with `set_origin`, if it was accepted; returns whether it was.

    Raises PrenetError where the maps do not have the scan's shape or are not finite.
    """
    if not origin_fit.accepted:
        return False
    qx0, qy0 = (np.array(v, dtype=np.float64) for v in (origin_fit.qx0, origin_fit.qy0))
    for name, values in (("qx0", qx0), ("qy0", qy0)):
        _check_map(datacube, name, values)
        if not np.isfinite(values).all():
            raise PrenetError(f"The fitted {name} is not finite everywhere, which py4DSTEM cannot use.")
    datacube.calibration.set_origin((qx0, qy0))
    sign(datacube, "origin")
    return True


def write_ellipse(datacube, ellipse):
    """Write an ellipse with `set_ellipse`, if it was accepted; returns whether it was.

    The line `datacube.calibration.set_ellipse((None, None, None))` undoes it.
    """
    if not ellipse.accepted:
        return False
    datacube.calibration.set_ellipse((float(ellipse.a), float(ellipse.b), float(ellipse.theta)))
    sign(datacube, "ellipse")
    return True


def attach_ellipse_map(datacube, ellipse_map):
    """Attach an `EllipseMap` as the RealSlice "prenet_ellipse_map": a, b, theta, sigma, accepted at each position."""
    labels = ["a", "b", "theta", "sigma", "accepted"]
    datacube.attach(RealSlice(ellipse_map.at_positions(), name=ELLIPSE_MAP, slicelabels=labels))


def read_origin(datacube):
    """The measured origin in a cube's calibration, as `OriginMap`, whoever measured it.

    Where no sigma maps of this measurement are there (py4DSTEM's own has none), all sigmas are 1 px. Without a
    stored radius it is NaN.

    Raises PrenetError where no origin was measured, or for other scan positions than the cube has now.
    """
    measured = None if datacube.calibration is None else datacube.calibration.get_origin_meas()
    if measured is None:
        raise PrenetError("The origin has not been measured; call datacube.prenet.measure_origin() first.")
    qx0, qy0 = (_stored_map(datacube, v) for v in measured)
    valid = np.isfinite(qx0) & np.isfinite(qy0)
    mask = datacube.calibration.get_origin_meas_mask()
    if np.shape(mask) == valid.shape:  # py4DSTEM itself may leave a lone False, which says nothing
        valid &= np.asarray(mask, dtype=bool)
    sigma = np.ones((2, *qx0.shape))
    known = sigma_is_current(datacube)
    if known:
        sigma = np.array(datacube.tree(SIGMA).data)
    radius = datacube.calibration.get_probe_semiangle()
    written = signatures(datacube).get("origin_meas", {})
    return OriginMap(
        qx0=qx0,
        qy0=qy0,
        sigma_qx0=sigma[0],
        sigma_qy0=sigma[1],
        valid=valid,
        radius=float("nan") if radius is None else float(radius),
        decision=Decision(bool(valid.any()), (Flag("stored_origin"), *(() if known else (Flag("sigma_unknown"),)))),
        feature=written["feature"] if written.get("unchanged") and "feature" in written else "direct beam",
    )


def read_fitted_origin(datacube):
    """The origin that py4DSTEM uses, qx0 and qy0 of shape (Rx, Ry), and the probe radius or NaN; all in px.

    Raises PrenetError where there is none, or for other scan positions or patterns than the cube has now.
    """
    origin = None if datacube.calibration is None else datacube.calibration.get_origin()
    if origin is None:
        raise PrenetError("No origin is set; call datacube.prenet.measure_origin() and fit_origin() first.")
    entry = signatures(datacube).get("origin")
    if entry and entry["unchanged"] and tuple(entry["shape"][2:]) != tuple(datacube.Qshape):
        raise PrenetError(
            f"The origin is for patterns of {entry['shape'][2]} x {entry['shape'][3]} pixels, but they are "
            f"{datacube.Qshape[0]} x {datacube.Qshape[1]} now; calibrate again, and crop or bin with "
            "datacube.prenet.crop_Q and bin_Q, which carry it along."
        )
    radius = datacube.calibration.get_probe_semiangle()
    return *(_stored_map(datacube, v) for v in origin), float("nan") if radius is None else float(radius)


def sigma_is_current(datacube):
    """Whether the cube has maps of sigma, and of the measurement that is in its calibration now."""
    if SIGMA not in datacube.treekeys or datacube.tree(SIGMA).data.shape != (2, *datacube.Rshape):
        return False
    entry = signatures(datacube).get("origin_meas")  # files of the first version have none
    return entry is None or entry["unchanged"]


def sign(datacube, *entries, **facts):
    """Note in the calibration the shape of the data and the values that entries ("origin_meas", ...) have now, and
    facts about them that JSON can hold."""
    record = json.loads(datacube.calibration._params.get(WRITTEN, "{}"))
    for entry in entries:
        record[entry] = {"shape": to_json(datacube.data.shape), "values": _digest(datacube.calibration, entry), **facts}
    if "origin" in entries:
        record["origin"]["measured"] = _digest(datacube.calibration, "origin_meas")
    datacube.calibration[WRITTEN] = json.dumps(record)


def signatures(datacube):
    """{entry: {"shape": of the data it was written for, "unchanged": whether its values are still these}}.

    And the facts that were given. For the fitted origin also "measured": whether the measured one is still that which
    was fitted. Empty where this package wrote nothing.
    """
    calibration = datacube.calibration
    record = {} if calibration is None else json.loads(calibration._params.get(WRITTEN, "{}"))
    for entry, kept in record.items():
        kept["unchanged"] = kept.pop("values") == _digest(calibration, entry)
        if "measured" in kept:
            kept["measured"] = kept["measured"] == _digest(calibration, "origin_meas")
    return record


def _digest(calibration, entry):
    values = [np.asarray(calibration._params.get(name), dtype=np.float64) for name in _ENTRIES[entry]]
    return hashlib.sha256(b"".join(v.tobytes() for v in values)).hexdigest()[:16]


def _check_map(datacube, name, values):
    if values.shape != tuple(datacube.Rshape):
        raise PrenetError(
            f"The map {name} has the shape {values.shape}, but the scan is {tuple(datacube.Rshape)}; "
            "measure on the cube to which it is written."
        )


def _stored_map(datacube, values):
    values = np.array(values, dtype=np.float64)
    if values.ndim and values.shape != tuple(datacube.Rshape):
        raise PrenetError(
            f"The origin in the calibration has the shape {values.shape}, but the scan is "
            f"{tuple(datacube.Rshape)}: it is from before the cube was cropped or binned, so measure again."
        )
    return np.broadcast_to(values, datacube.Rshape).copy()


# --- provenance ---------------------------------------------------------------------------------------------
def make_provenance(datacube, weights=None, settings=None, noise=None, flags=()):
    """What was done to a cube, as a dict that JSON can hold.

    weights: {name: SHA-256} of the networks used. settings: what the caller set. noise: the NoiseModel.
    flags: what was found, refused and written.
    """
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
    """`value` with nothing in it that JSON cannot hold; NaN and infinity become None."""
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
    """Keep a `provenance` dict with the cube, in the place of an earlier one."""
    datacube.metadata = Metadata(PROVENANCE, {"json": json.dumps(record, allow_nan=False)})


def read_provenance(datacube):
    """The provenance dict kept with a cube; None where this package has not written one."""
    kept = datacube.metadata.get(PROVENANCE)
    return json.loads(kept["json"]) if kept else None


# --- copies ------------------------------------------------------------------------------------------------
def cube_like(datacube, data):
    """A DataCube of other data, (Rx, Ry, Qx, Qy), with copies of the calibration, sigma maps and metadata."""
    new = DataCube(data=data, name=datacube.name)
    for key, value in calibration_of(datacube)._params.items():
        if not key.startswith("_"):  # where the original sits in its tree
            new.calibration[key] = copy.deepcopy(value)
    if sigma_is_current(datacube):
        # Not a deep copy of what hangs there: that would take its tree along, and with it the data.
        new.attach(sigma_slice(np.array(datacube.tree(SIGMA).data)))
    for record in datacube.metadata.values():
        if record.name != "calibration":
            new.metadata = copy.deepcopy(record)
    return new
