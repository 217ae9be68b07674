"""Quantities that can be carried over from a standard to a scan, checked before the measurement starts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..core import Flag, PrenetError, shape_text
from ..io import fingerprint, read_frame, same_data
from . import CalibratedScan, conditions_of, differences, read_standard

TRANSFERABLE = ("ellipse", "pixel_size", "rotation", "descan")
# Ratio; largest between the pixel size of the standard and the nominal one in the scan's file. Nominal pixel sizes are
# correct within some percent; neighboring camera lengths of a microscope differ by a sixth or more.
MAX_NOMINAL_RATIO = 1.1
MAX_STEP_RATIO = 1.01  # ratio; largest between the R pixel sizes of two scans with the same settings


_SAME_SCAN = ("The standard (like=) is this scan itself, and nothing can be carried over; leave like= out, or use "
              "load_calibration(path) to take the calibration of this scan from a file.")


@dataclass(frozen=True)
class Plan:
    """Quantities that are to be carried over from a standard.

    Attributes
    ----------
    standard : CalibratedScan
        The standard.
    quantities : tuple of str
        Quantities that are carried over unless the scan disagrees.
    binning : float or None
        Pixels of the standard along the side of a pixel of the scan.
    flags : tuple of Flag
        Reasons for refused quantities, and warnings.
    """

    standard: CalibratedScan
    quantities: tuple[str, ...]
    binning: float | None
    flags: tuple[Flag, ...]

    def without(self, quantity: str) -> Plan:
        """Leave a quantity out.

        Parameters
        ----------
        quantity : str
            The quantity.

        Returns
        -------
        Plan
            The plan for the remaining quantities.
        """
        return replace(self, quantities=tuple(name for name in self.quantities if name != quantity))


def planned(datacube, like, transfer=None, binning=None) -> Plan:
    """Check which quantities can be carried over from a standard to a scan.

    Parameters
    ----------
    datacube : DataCube
        The scan.
    like : DataCube, str or path-like
        The standard.
    transfer : str or iterable of str, optional
        One or more of "ellipse", "pixel_size", "rotation" and "descan"; by default the first three, as far as the
        standard has them.
    binning : float, optional
        Pixels of the standard along the side of a pixel of the scan; by default from the record of how this package
        cropped and binned both, if their frames have the same shape.

    Returns
    -------
    Plan
        The plan.

    Raises
    ------
    PrenetError
        If a quantity is unknown, the standard has none of the quantities, or the standard cannot be read.

    Examples
    --------
    >>> import numpy as np
    >>> from py4DSTEM import DataCube
    >>> gold, scan = (DataCube(np.ones((2, 2, 32, 32), np.uint8), name=name) for name in ("gold", "scan"))
    >>> gold.calibration.set_Q_pixel_size(0.02)
    >>> gold.calibration.set_Q_pixel_units("A^-1")
    >>> plan = planned(scan, gold)
    >>> plan.quantities, plan.binning
    (('pixel_size',), 1.0)
    """
    if binning is not None and (isinstance(binning, bool) or not isinstance(binning, int | float | np.number)
                                or not binning > 0):
        raise PrenetError(f"The binning must be a positive number, the pixels of the standard along one pixel of "
                          f"this scan, not {binning!r}.")
    if transfer is None:
        transfer = TRANSFERABLE[:-1]  # the descan belongs to the settings of the scan, not to the microscope
    asked = (transfer,) if isinstance(transfer, str) else tuple(transfer)
    unknown = [name for name in asked if name not in TRANSFERABLE]
    if unknown or not asked:
        raise PrenetError(f"transfer takes {', '.join(TRANSFERABLE)}, not {', '.join(map(str, unknown)) or 'nothing'}.")
    if like is datacube:
        raise PrenetError(_SAME_SCAN)
    standard = read_standard(like)
    if standard.data and any(same_data(one, fingerprint(datacube)) for one in standard.data):
        raise PrenetError(_SAME_SCAN)
    available = {"ellipse": standard.ellipse, "pixel_size": standard.pixel_size, "rotation": standard.rotation,
            "descan": standard.origin}
    lacking = [name for name in asked if available[name] is None]
    if len(lacking) == len(asked):
        raise PrenetError(f"{standard.name} holds none of the quantities to carry over: {', '.join(asked)}.")
    flags = [Flag("standard_lacks", {"source": standard.name, "quantities": lacking})] if lacking else []
    quantities = [name for name in asked if name not in lacking]
    binning = _binning(standard, datacube) if binning is None else float(binning)
    if standard.frame is None:
        flags.append(Flag("standard_bare", {"source": standard.name, "binning": binning}))
    refused, why = _refused(standard, datacube, quantities, binning)
    return Plan(standard, tuple(q for q in quantities if q not in refused), binning, (*flags, *why))


def _binning(standard, datacube):
    """Ratio of the recorded binnings; None if the frames of the detector differ."""
    if standard.frame is None:  # the binning of the standard is unknown
        return 1.0
    frame = read_frame(datacube)
    if standard.frame.shape != frame.shape:
        return None
    return frame.binning / standard.frame.binning


def _refused(standard, datacube, quantities, binning):
    """Quantities that cannot be carried over, and flags with the reasons."""
    different, flags = differences(standard.conditions, conditions_of(datacube)), []
    params = {} if datacube.calibration is None else datacube.calibration._params
    for name, flag in (("voltage", "voltage_differs"), ("camera_length", "camera_length_differs")):
        if name in different:
            theirs, ours = different[name]
            flags.append(Flag(flag, {"theirs": theirs, "ours": ours}))
    if flags:
        return set(quantities), flags
    if "days" in different:
        flags.append(Flag("standard_old", {"days": different["days"]}))
    refused = set()
    if binning is None:
        refused |= {"pixel_size", "descan", "ellipse"} & set(quantities)
        if refused:
            frame, theirs = read_frame(datacube), standard.frame.shape
            flags.append(Flag("frames_differ", {
                "quantities": sorted(refused), "ours": shape_text(frame.shape),
                "theirs": shape_text(theirs)}))
    elif standard.pixel_size is not None and {"pixel_size", "ellipse"} & set(quantities):
        nominal, unit = (params.get(name) for name in ("Q_pixel_size", "Q_pixel_units"))
        ratio = nominal / (standard.pixel_size[0] * binning) if unit == standard.pixel_size[1] and nominal else 1.0
        if not 1 / MAX_NOMINAL_RATIO < ratio < MAX_NOMINAL_RATIO:
            refused |= {"pixel_size", "ellipse", "descan"} & set(quantities)
            flags.append(Flag("scale_differs", {"quantities": sorted(refused), "ours": float(nominal), "unit": unit,
                                                "theirs": float(standard.pixel_size[0] * binning)}))
    if "descan" in quantities and "descan" not in refused:
        shape = tuple(datacube.Rshape)
        step, unit = params.get("R_pixel_size"), params.get("R_pixel_units")
        ratio = standard.step[0] / step if step and unit == standard.step[1] else 1.0
        if standard.origin.shape[1:] != shape or not 1 / MAX_STEP_RATIO < ratio < MAX_STEP_RATIO:
            refused.add("descan")
            flags.append(Flag("scan_differs", {"ours": shape_text(shape),
                                               "theirs": shape_text(standard.origin.shape[1:])}))
    return refused, flags
