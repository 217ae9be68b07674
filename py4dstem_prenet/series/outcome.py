"""Outcome of one file of a series, as a row of the summary table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core import SEVERITIES, Result, worst_severity
from ..io import author_of
from ..report import LIGHTS

COLUMNS = (  # columns of the summary table; px are pixels of the file; "own" is the ellipse measured in the scan
    "file", "state", "light", "flags", "qx0_px", "qy0_px", "sigma_px", "radius_px", "no_beam", "descan", "span_qx_px",
    "span_qy_px", "ratio", "theta_rad", "ellipse_sigma", "ellipse_by",
    "own_ratio", "own_theta_rad", "own_sigma", "pixel_size", "pixel_unit", "rotation_deg",
    "electrons", "date", "seconds", "output", "problem")


@dataclass(frozen=True)
class FileOutcome:
    """Outcome of the calibration of one file.

    Attributes
    ----------
    source : pathlib.Path
        The file.
    output : pathlib.Path
        The calibrated file; it exists if `state` is "calibrated" or "done before".
    state : str
        "calibrated"; "done before": found in the folder; "refused": no direct beam was found, and nothing was saved;
        "failed": it could not be read or saved.
    row : dict
        Values by the names in COLUMNS; None for missing values.
    """

    source: Path
    output: Path
    state: str
    row: dict

    @property
    def saved(self) -> bool:
        """Whether the calibrated file exists."""
        return self.state in ("calibrated", "done before")


@dataclass(frozen=True, eq=False, repr=False)
class Series(Result):
    """Outcome of a series of files.

    Attributes
    ----------
    folder : pathlib.Path
        The folder with the calibrated files and the summary.
    files : tuple of FileOutcome
        The files, in their order.
    table : pathlib.Path
        The summary as CSV.
    page : pathlib.Path
        The summary as HTML, with the drift over the series.
    """

    folder: Path
    files: tuple[FileOutcome, ...]
    table: Path
    page: Path

    @property
    def complete(self) -> bool:
        """Whether all files are calibrated."""
        return all(file.saved for file in self.files)

    def rows(self):
        """List the results for display.

        Returns
        -------
        list of tuple of str
            Name and value of each result.
        """
        shown = [("files", f"{sum(file.saved for file in self.files)} of {len(self.files)} calibrated"),
                 ("summary", f"{self.table}, {self.page}")]
        not_saved = [file for file in self.files if not file.saved]
        shown += [(file.source.name, str(file.row["problem"])) for file in not_saved[:7]]
        return shown if len(not_saved) <= 7 else [*shown, ("", f"{len(not_saved) - 7} more: see the summary")]


def outcome_of(datacube, report, date=None) -> dict:
    """Summarize the calibration of a file.

    Parameters
    ----------
    datacube : DataCube
        The cube, after the results were written.
    report : CalibrationReport
        Results of the calibration.
    date : datetime, optional
        Time of the acquisition.

    Returns
    -------
    dict
        Values by the names in COLUMNS, in types that JSON supports.
    """
    origin, fit, calibration = report.origin, report.fit, datacube.calibration
    row = dict.fromkeys(COLUMNS)
    warnings_and_refusals = [flag for flag in report.flags if flag.severity != "info"]
    row |= {"flags": " ".join(dict.fromkeys(flag.name for flag in warnings_and_refusals)), "light": _light(report),
            "electrons": report.noise.dose, "date": None if date is None else date.isoformat()}
    if not origin.found:
        return _plain(row | {"problem": " ".join(flag.sentence for flag in origin.flags if flag.severity == "refusal")})
    row |= {"qx0_px": np.median(fit.qx0), "qy0_px": np.median(fit.qy0), "sigma_px": origin.sigma,
            "radius_px": origin.radius, "no_beam": int((~origin.valid).sum()),
            "descan": fit.model if fit.accepted else "refused", "span_qx_px": fit.span[0],
            "span_qy_px": fit.span[1]}
    stored = calibration.get_ellipse()
    if stored is not None and not any(map(np.ndim, stored)):
        used = report.transfer.ellipse if report.transfer is not None and report.transfer.ellipse else report.ellipse
        by = author_of(datacube, "ellipse")
        row |= {"ratio": stored[0] / stored[1], "theta_rad": stored[2], "ellipse_by": by,
                "ellipse_sigma": None if used is None or by == "hand or another program" else used.sigma}
    own = report.ellipse
    if own is not None and own.accepted and own.sources and np.isfinite(own.sigma):  # measured in this scan
        row |= {"own_ratio": own.a / own.b, "own_theta_rad": own.theta, "own_sigma": own.sigma}
    if calibration.get_Q_pixel_units() != "pixels":
        row |= {"pixel_size": calibration.get_Q_pixel_size(), "pixel_unit": calibration.get_Q_pixel_units()}
    if calibration._params.get("QR_rotation") is not None:
        row["rotation_deg"] = np.degrees(calibration._params["QR_rotation"])
    return _plain(row)


def _light(report):
    """Traffic light of a calibration; an ellipse that is not determined or not carried over is amber, not red."""
    if not report.origin.found:
        return "red"
    stages = [worst_severity(stage.flags) for stage in (report.origin, report.fit)]
    stages += [min(worst_severity(stage.flags), "warning", key=SEVERITIES.index)
               for stage in (report.ellipse, report.transfer) if stage is not None]
    stages.append(worst_severity(report.written))
    return LIGHTS[max(stages, key=SEVERITIES.index)]


def _plain(row):
    """Convert numbers to Python types, and values that are not finite to None."""
    plain = {}
    for name, value in row.items():
        value = value.item() if isinstance(value, np.generic) else value
        plain[name] = None if isinstance(value, float) and not np.isfinite(value) else value
    return plain
