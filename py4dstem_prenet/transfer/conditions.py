"""Settings of the microscope, read from the metadata of a scan."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

import numpy as np

MAX_SETTING_DIFFERENCE = 0.01  # relative; largest difference of equal voltages or camera lengths
MIN_VOLTS = 1e3  # volts; smallest voltage: a smaller number is in kilovolts
MAX_AGE_DAYS = 30  # days; largest difference between standard and scan without a flag; chosen, not measured
_NAMES = {  # names in metadata, without punctuation, in lower case
    "voltage": ("voltage", "acceleratingvoltage", "beamenergy", "hightension", "accelerationvoltage", "energy"),
    "camera_length": ("cameralength", "stemcameralength", "nominalcameralength"),
    "date": ("date", "acquisitiondate", "datetime", "acquisitiondatetime"),
}


@dataclass(frozen=True)
class Conditions:
    """Settings of the microscope; None if the metadata do not contain a setting.

    Attributes
    ----------
    voltage : float or None
        Accelerating voltage, volts.
    camera_length : float or None
        Camera length, in the unit of the file.
    date : datetime or None
        Day of the acquisition.
    """

    voltage: float | None = None
    camera_length: float | None = None
    date: datetime | None = None


def conditions_of(datacube) -> Conditions:
    """Find settings of the microscope in the metadata of a cube.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube. All its metadata are searched for common names, and its calibration for "accelerating_voltage".

    Returns
    -------
    Conditions
        The settings that were found.

    Examples
    --------
    >>> import numpy as np
    >>> from py4DSTEM import DataCube, Metadata
    >>> datacube = DataCube(np.ones((2, 2, 32, 32), np.uint8))
    >>> datacube.metadata = Metadata("microscope", {"beam_energy": 300.0, "Camera Length": 0.23})
    >>> conditions_of(datacube)
    Conditions(voltage=300000.0, camera_length=0.23, date=None)
    """
    params = {} if datacube.calibration is None else datacube.calibration._params
    found = {"voltage": params["accelerating_voltage"]} if params.get("accelerating_voltage") else {}
    for record in datacube.metadata.values():
        if record.name == "calibration" or str(record.name).startswith("prenet"):
            continue
        for name, value in _entries(record._params):
            plain = re.sub(r"[^a-z]", "", str(name).lower())
            for kind, names in _NAMES.items():
                if plain in names and kind not in found:
                    found[kind] = value
    voltage, length = (_number(found.get(kind)) for kind in ("voltage", "camera_length"))
    if voltage is not None and voltage < MIN_VOLTS:
        voltage *= 1e3
    return Conditions(voltage, length, _date(found.get("date")))


def _entries(params):
    """Yield names and values of nested metadata."""
    for name, value in params.items():
        if isinstance(value, dict):
            yield from _entries(value)
        else:
            yield name, value


def _number(value):
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) and number > 0 else None


def _date(value):
    try:
        return datetime.fromisoformat(str(value)).replace(tzinfo=None)
    except ValueError:
        return None


def differences(one: Conditions, other: Conditions) -> dict:
    """Compare the settings that both scans have.

    Parameters
    ----------
    one, other : Conditions
        The settings.

    Returns
    -------
    dict
        Both values of "voltage" and "camera_length" if they differ; "days" if the dates are far apart.

    Examples
    --------
    >>> differences(Conditions(voltage=3e5), Conditions(voltage=2e5))
    {'voltage': (300000.0, 200000.0)}
    """
    found = {}
    for name in ("voltage", "camera_length"):
        first, second = getattr(one, name), getattr(other, name)
        if None not in (first, second) and abs(first - second) > MAX_SETTING_DIFFERENCE * max(first, second):
            found[name] = (first, second)
    if None not in (one.date, other.date) and abs((one.date - other.date).days) > MAX_AGE_DAYS:
        found["days"] = abs((one.date - other.date).days)
    return found
