"""Find calibrations that no longer belong to the data of their cube.

py4DSTEM's `crop_Q`, `crop_R`, `bin_Q`, `bin_R`, `pad_Q`, `resample_Q` and `thin_R` change the data but not the origin
maps, and no later step of py4DSTEM checks the maps; `check_calibration` does.
"""

from __future__ import annotations

import numpy as np

from ..core import CalibrationCheck, Decision, Flag, shape_text
from ..io import SIGMA, fingerprint, same_data, sigma_is_current, signatures, stored_ratio

MAX_ROUNDING_PX = 1e-3  # pixels; largest rounding difference of a mean that a different program or version computed
MAX_RATIO_ROUNDING = 1e-6  # relative; largest rounding difference of a / b after it was stored and read


def check_calibration(datacube) -> CalibrationCheck:
    """Check whether a calibration belongs to the data of its cube.

    The check compares the shapes of the maps with the data, and the data with records of this package in the
    calibration: the shape of the data, a fingerprint of eight patterns, and the hash of the values. It detects a cube
    that was cropped, binned, padded, transposed or measured again since it was calibrated, and the calibration of a
    different scan of the same shape. For maps that py4DSTEM wrote, it detects only a different scan shape and an origin
    outside the pattern.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.

    Returns
    -------
    CalibrationCheck
        The entries that are out of date, and what to do.

    Examples
    --------
    >>> import numpy as np
    >>> from py4DSTEM import DataCube
    >>> datacube = DataCube(np.ones((2, 2, 32, 32), np.uint8))
    >>> datacube.calibration.set_origin((np.full((2, 2), 15.0), np.full((2, 2), 16.0)))
    >>> check_calibration(datacube).current
    True
    >>> datacube.data = datacube.data[:1]
    >>> check_calibration(datacube).stale
    ('origin',)
    """
    found = {}
    calibration, scan, pattern = datacube.calibration, tuple(datacube.Rshape), tuple(datacube.Qshape)
    if not has_origin(calibration):
        return CalibrationCheck(("origin",), Decision(False, (Flag("calibration_missing"),)))
    signed = signatures(datacube)
    for entry, name, values in (("origin_meas", "measured origin", calibration.get_origin_meas()),
                                ("origin", "origin", calibration.get_origin())):
        if values is not None:
            flag = _of_other_data(name, values, signed.get(entry, {}), scan, pattern)
            if flag is not None:
                found[name] = flag
    if found and calibration.get_probe_semiangle() is not None and any(
            tuple(kept["shape"][2:]) != pattern for kept in signed.values() if kept["unchanged"]):
        found["probe radius"] = Flag("radius_stale")
    if not found and _is_of_other_data(datacube, signed):
        found["data"] = Flag("other_data")
    fitted = signed.get("origin")
    if "origin" not in found and fitted and fitted["unchanged"] and not fitted["measured"]:
        found["origin"] = Flag("fit_stale")
    moved = _moved_mean(calibration)
    if moved is not None and "origin" not in found:
        found["mean origin"] = moved
    size = signed.get("pixel_size")
    if size and size["unchanged"] and "ratio" in size:  # excludes a pixel size that was set by hand
        # The pixel size was written for sqrt(a / b); a change within its sigma is ignored.
        change = abs(np.log(stored_ratio(calibration) / size["ratio"])) / 2
        if change > max(size.get("sigma", 0.0) / calibration.get_Q_pixel_size(), MAX_RATIO_ROUNDING):
            found["pixel size"] = Flag("pixel_size_stale")
    if SIGMA in datacube.treekeys and not sigma_is_current(datacube):
        found["sigma"] = Flag("sigma_stale")
    for name, vectors in _bragg_vectors(datacube):
        if (tuple(vectors.Rshape), tuple(vectors.Qshape)) != (scan, pattern):
            was = shape_text((*vectors.Rshape, *vectors.Qshape))
            found[name] = Flag("bragg_vectors_stale", {"name": name, "was": was})
    flags = tuple(found.values()) or (Flag("calibration_current"),)
    if size and not size["unchanged"] and "value" in size:
        value = float(calibration.get_Q_pixel_size())
        numbers = {"value": value, "measured": size["value"], "ratio": value / size["value"]}
        flags += (Flag("pixel_size_by_hand", numbers | {key: size[key] for key in ("sigma", "standard")}),)
    return CalibrationCheck(tuple(found), Decision(not found, flags))


def _is_of_other_data(datacube, signed):
    """Return whether the fingerprint with which an unchanged entry was signed is that of different data."""
    kept = {signature.get("data") for signature in signed.values() if signature["unchanged"]} - {None}
    return bool(kept) and any(same_data(one, fingerprint(datacube)) is False for one in kept)


def _moved_mean(calibration):
    """Flag a mean origin that differs from the mean of the maps; None if it does not, or if there are no maps."""
    origin, means = calibration.get_origin(), (calibration.get_qx0_mean(), calibration.get_qy0_mean())
    if origin is None or None in means:
        return None
    dx, dy = (float(mean - np.mean(values)) for mean, values in zip(means, origin, strict=True))
    return None if max(abs(dx), abs(dy)) <= MAX_ROUNDING_PX else Flag("mean_origin_moved", {"dx": dx, "dy": dy})


def has_origin(calibration) -> bool:
    """Return whether a calibration has a measured or fitted origin.

    Parameters
    ----------
    calibration : py4DSTEM.Calibration or None
        The calibration, if there is one.

    Returns
    -------
    bool
        True if it has one.
    """
    return calibration is not None and (calibration.get_origin_meas() or calibration.get_origin()) is not None


def _of_other_data(name, values, kept, scan, pattern):
    """Flag maps that belong to different data; None if there is no sign of it."""
    shape = np.shape(values[0])
    if shape and shape != scan:
        return Flag("other_scan_shape", {"name": name, "was": shape_text(shape), "now": shape_text(scan)})
    if kept.get("unchanged") and tuple(kept["shape"][2:]) != pattern:
        return Flag("other_pattern_shape", {"name": name, "was": shape_text(kept["shape"][2:]),
                                            "now": shape_text(pattern)})
    if not all(-0.5 <= np.nanmedian(v) <= n - 0.5 for v, n in zip(values, pattern, strict=True)):
        qx0, qy0 = (float(np.nanmedian(v)) for v in values)
        return Flag("origin_outside", {"name": name, "qx0": qx0, "qy0": qy0, "now": shape_text(pattern)})
    return None


def _bragg_vectors(datacube):
    """Yield names and nodes of the Bragg vectors in the tree of a cube."""
    for name in datacube.treekeys:
        node = datacube.tree(name)
        if type(node).__name__ == "BraggVectors":
            yield name, node
