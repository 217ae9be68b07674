"""Record the entries that this package wrote into a calibration, their data, and the processing of a cube.

The calibration holds the text "prenet_written", with the data and values for which each entry was written, so that
outdated entries are found; the metadata hold the provenance, "prenet".
"""

import hashlib
import json
from dataclasses import fields, is_dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from .._version import __version__
from ..core import as_scan
from .fingerprints import fingerprint

PROVENANCE = "prenet"
WRITTEN = "prenet_written"
DENOISED = "denoise()"  # the change that `denoise` records
ENTRIES = {  # of the calibration, and the names of their numbers in it
    "origin_meas": ("qx0_meas", "qy0_meas"), "origin": ("qx0", "qy0"), "ellipse": ("a", "b", "theta"),
    "pixel_size": ("Q_pixel_size", "Q_pixel_units"), "rotation": ("QR_rotation", "QR_rotation_degrees", "QR_flip")}


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
    """Read the record of `sign`, compared with the present values.

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
    """Hash the values of an entry."""
    values = [calibration._params.get(name) for name in ENTRIES[entry]]
    text = (v.encode() if isinstance(v, str) else np.asarray(v, dtype=np.float64).tobytes() for v in values)
    return hashlib.sha256(b"".join(text)).hexdigest()[:16]


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
        Flags on results that were accepted, refused and written.

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
        "file": first_file(datacube),
        "shape": datacube.data.shape,
        "dtype": str(datacube.data.dtype),
        "weights": weights or {},
        "settings": settings or {},
        "flags": [flag.to_json() for flag in flags],
    }
    if noise is not None:
        record["noise"] = replace(noise, bad_pixels=int(np.count_nonzero(noise.bad_pixels)))
    return to_json(record)


def record_change(datacube, change: str):
    """Add a change of the patterns to the provenance of a cube, if it has one.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The new cube.
    change : str
        The call that changed the patterns, such as "denoise()".

    Returns
    -------
    py4DSTEM.DataCube
        The cube.
    """
    record = read_provenance(datacube)
    if record is not None:
        write_provenance(datacube, record | {"since": [*record.get("since", []), change]})
    return datacube


def is_denoised(datacube) -> bool:
    """Return whether the patterns of a cube are recorded as denoised by this package.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.

    Returns
    -------
    bool
        True after `denoise` of a calibrated scan, also in a copy that was saved, cropped or binned.
    """
    return DENOISED in (read_provenance(datacube) or {}).get("since", ())


def first_file(datacube):
    """Return the name of the file in which a scan was when this package first processed it.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.

    Returns
    -------
    str or None
        The name without its folder; None for a scan in memory.
    """
    path = (read_provenance(datacube) or {}).get("file") or as_scan(datacube).file
    return None if path is None else Path(path).name


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
        Result of `make_provenance`.
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
