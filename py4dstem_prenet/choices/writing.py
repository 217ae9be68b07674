"""Write accepted results into the calibration of a DataCube, as far as the choices of the user allow it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..core import CENTERS, CalibrationReport, Decision, Ellipse, Flag, ellipse_vector
from ..ellipse import compare_ellipses
from ..io import (
    PRENET,
    STANDARD,
    USER,
    author_of,
    fingerprint,
    held_quantities,
    is_kept,
    make_provenance,
    transfer_record,
    undoable,
    write_ellipse,
    write_fit,
    write_mask,
    write_origin,
    write_pixel_size,
    write_provenance,
    write_rotation,
    write_transfer,
)
from . import AUTOMATIC, Choices


def write_report(datacube, report: CalibrationReport, weights: dict[str, str], mask=None, settings=None,
                 choices: Choices = AUTOMATIC) -> CalibrationReport:
    """Write accepted results and provenance into the calibration of a DataCube; nothing if no origin was found.

    Parameters
    ----------
    datacube : DataCube
        The cube.
    report : CalibrationReport
        The report.
    weights : dict
        SHA-256 of each weights file that was used, by name, for the provenance.
    mask : numpy.ndarray of bool, optional
        (Qx, Qy), the detector mask to keep.
    settings : dict, optional
        What the caller set, for the provenance.
    choices : Choices, optional
        What the user decides: whether entries of others are replaced.

    Returns
    -------
    CalibrationReport
        The report, with `written`.
    """
    origin, fit, ellipse, transfer = report.origin, report.fit, report.ellipse, report.transfer
    size, turned = report.pixel_size, report.rotation
    if not origin.found:
        return _with_written(report, Flag("nothing_written"))
    by_hand = isinstance(choices.ellipse, Ellipse)
    kept = {entry: not choices.replace and is_kept(datacube, entry) for entry in ("origin_meas", "origin", "ellipse")}
    kept["origin_meas"] &= kept["origin"]  # a measurement that was not fitted is replaced
    carried = () if transfer is None else transfer.quantities
    kept["origin"] &= "descan" not in carried
    kept["ellipse"] = choices.ellipse is False or (kept["ellipse"] and not by_hand)
    if transfer is not None and "ellipse" not in carried:
        ratio = _ratio(datacube, None if kept["ellipse"] else ellipse)
        transfer = transfer.for_ellipse(ratio)
        report = replace(report, transfer=transfer)
    center = CENTERS.get(origin.feature, origin.feature)
    written = [] if kept["origin_meas"] else [Flag("origin_written", {"feature": center})]
    written.append(_origin_flag(datacube, fit, kept["origin"]))
    if "ellipse" not in carried:
        written.append(_ellipse_flag(datacube, ellipse, kept["ellipse"], size, choices))
    if size is not None:
        written.append(Flag("pixel_size_written" if size.accepted else "pixel_size_not_written"))
    written += _replaced(datacube, size, transfer)
    if turned is not None:
        written.append(Flag("rotation_written" if turned.accepted else "rotation_not_written"))
    written += _from_standard(transfer, size, turned)
    report = _with_written(report, *written)
    record = make_provenance(datacube, weights=weights, settings=settings, noise=report.noise, flags=report.flags)
    data = fingerprint(datacube)
    with undoable(datacube):
        if not kept["origin_meas"]:
            write_origin(datacube, origin, data=data)
        write_mask(datacube, mask)
        if not kept["origin"]:
            write_fit(datacube, fit, uncertainty=fit.decision.numbers.get("uncertainty"), data=data)
        if ellipse is not None and not kept["ellipse"] and "ellipse" not in carried:
            write_ellipse(datacube, ellipse, covariance=ellipse.covariance, used=ellipse.used, leading=ellipse.leading,
                          author=USER if by_hand else PRENET, data=data)
        if transfer is not None:
            write_transfer(datacube, transfer, data=data)
            record["transfer"] = transfer_record(transfer)
        # What this scan shows is better than what another one does.
        if size is not None:
            write_pixel_size(datacube, size, choices.ellipse is not False, data=data)
        if turned is not None:
            write_rotation(datacube, turned, data=data)
        write_provenance(datacube, record)
    return replace(report, held=held_quantities(datacube))


def _ratio(datacube, ellipse):
    """a / b of the ellipse that the calibration holds in the end."""
    if ellipse is not None and ellipse.accepted:
        return ellipse.a / ellipse.b
    stored = None if datacube.calibration is None else datacube.calibration.get_ellipse()
    return 1.0 if stored is None else float(np.mean(np.divide(stored[0], stored[1])))


def _from_standard(transfer, size, turned):
    """A flag that lists what is written from the standard; what this scan shows is better."""
    measured = {name for name, result in (("pixel_size", size), ("rotation", turned))
                if result is not None and result.accepted}
    written = [] if transfer is None else [name for name in transfer.quantities if name not in measured]
    return (Flag("standard_written", {"source": transfer.source, "quantities": written}),) if written else ()


def _origin_flag(datacube, fit, kept):
    """What is written of the fitted origin."""
    if not kept:
        return Flag("fit_written", {"model": fit.model}) if fit.accepted else Flag("fit_not_written")
    away = [np.subtract(theirs, ours) for theirs, ours in
            zip(datacube.calibration.get_origin(), (fit.qx0, fit.qy0), strict=True)]
    return Flag("fit_kept", {"author": author_of(datacube, "origin"),
                             "distance": float(np.sqrt(np.mean(away[0] ** 2 + away[1] ** 2)))})


def _replaced(datacube, size, transfer):
    """A flag if a pixel size that this package did not measure is replaced."""
    author, unit = author_of(datacube, "pixel_size"), datacube.calibration.get_Q_pixel_units()
    written = (size is not None and size.accepted) or (transfer is not None and transfer.pixel_size is not None)
    if not written or author in (None, PRENET, STANDARD) or unit == "pixels":
        return ()
    return (Flag("pixel_size_replaced", {"value": float(datacube.calibration.get_Q_pixel_size()), "unit": unit,
                                         "author": author}),)


def _ellipse_flag(datacube, ellipse, kept, size, choices):
    """What is written of the ellipse: that of the scan, or that of a crystal if there is no other."""
    if choices.ellipse is False:
        return Flag("ellipse_not_asked")
    if not kept:
        accepted = ellipse is not None and ellipse.accepted
        of_crystal = size is not None and size.accepted and size.ellipse is not None
        free = datacube.calibration is None or datacube.calibration.get_ellipse() is None
        if of_crystal and free and not accepted:
            return Flag("crystal_ellipse_written")
        return Flag("ellipse_written" if accepted else "ellipse_not_written")
    author = {"author": author_of(datacube, "ellipse")}
    theirs = datacube.calibration.get_ellipse()
    if any(map(np.ndim, theirs)):  # it varies over the scan
        return Flag("ellipse_kept_untested", author)
    vector = np.asarray(ellipse_vector(*theirs))
    test = compare_ellipses(ellipse, Ellipse(*theirs, vector, np.full((2, 2), np.nan), Decision(True)))
    if not test.testable:
        return Flag("ellipse_kept_untested", author)
    return Flag("ellipse_kept_agrees" if test.agrees else "ellipse_kept", author | test.numbers)


def _with_written(report, *flags):
    return replace(report, written=flags)
