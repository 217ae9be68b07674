"""Bragg disks, and the report of a calibration. Lengths are detector pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from . import (
    MAX_REPR_LINES,
    Ellipse,
    Flag,
    OriginFit,
    OriginMap,
    PixelSize,
    Result,
    Rotation,
    conclude,
    paragraphs,
    wrapped,
)

if TYPE_CHECKING:
    from . import NoiseModel, Transfer

_MARKS = {"info": "-", "warning": "!", "refusal": "x"}  # before a flag


@dataclass(frozen=True, eq=False, repr=False)
class BraggDisks(Result):
    """Bragg disks of a scan.

    Attributes
    ----------
    table : numpy.ndarray, shape (k,)
        A structured array of `DTYPE`, in the order of the scan, the direct beam first in each pattern: flat position in
        the scan; qx, qy and their sigmas, pixels; intensity of the whole disk above its surroundings and its sigma,
        electrons; significance, standard deviations; probability that it is a disk.
    scan_shape : tuple of int
        (Rx, Ry).
    pattern_shape : tuple of int
        (Qx, Qy).
    threshold : float
        Smallest significance of a disk that is found in a single pattern, standard deviations. Disks below it were
        found with neighboring patterns.
    false_alarm : float
        Mean number of false disks per pattern above the threshold.
    """

    DTYPE: ClassVar[list] = [("position", np.int64), *((name, np.float64) for name in (
        "qx", "qy", "sigma_qx", "sigma_qy", "intensity", "intensity_sigma", "significance", "probability"))]

    table: np.ndarray
    scan_shape: tuple[int, int]
    pattern_shape: tuple[int, int]
    threshold: float
    false_alarm: float

    def rows(self):
        disks = self.table
        bragg = disks[np.isfinite(disks["significance"])]
        size = int(np.prod(self.scan_shape))
        shown = [("Bragg disks", f"{len(bragg)} in {size} patterns, {len(bragg) / size:.1f} in each"),
                 ("false disks", f"{self.false_alarm:g} in a pattern on average"),
                 ("least significance without neighbors", f"{self.threshold:.1f} standard deviations")]
        if len(bragg):
            sigma = np.median([bragg["sigma_qx"], bragg["sigma_qy"]])
            shown.append(("sigma of a position, per axis, median", f"{sigma:.2g} px"))
        return shown


@dataclass(frozen=True, eq=False, repr=False)
class CalibrationReport(Result):
    """Results of the calibration of a scan, and a record of the entries that were written.

    Attributes
    ----------
    origin : OriginMap
        The measured origin.
    fit : OriginFit or None
        The descan; None if no beam was found.
    ellipse : Ellipse or None
        The elliptical distortion; None if no beam was found.
    noise : NoiseModel or None
        The detector's noise; None if nothing was learned yet.
    written : tuple of Flag
        Flags on entries of the calibration that were written, and on those that were not.
    pixel_size : PixelSize or None
        The pixel size; None if no standard was named.
    rotation : Rotation or None
        Rotation and flip between scan and pattern; None if they were not measured.
    transfer : Transfer or None
        Quantities that were carried over from a standard; None if none was given.
    held : dict
        Numbers that the calibration holds after writing, for each of "ellipse", "pixel_size" and "rotation"
        (`io.held_quantities`).
    """

    origin: OriginMap
    fit: OriginFit | None
    ellipse: Ellipse | None
    noise: NoiseModel | None
    written: tuple[Flag, ...] = ()
    pixel_size: PixelSize | None = None
    rotation: Rotation | None = None
    transfer: Transfer | None = None
    held: dict = field(default_factory=dict)

    @property
    def flags(self) -> tuple[Flag, ...]:
        """The flags of all stages, in their order."""
        stages = (self.noise, self.origin, self.fit, self.ellipse, self.pixel_size, self.rotation, self.transfer)
        bad_pixels = () if self.noise is None else self.noise.bad_pixel_flags
        return (*bad_pixels, *(flag for stage in stages if stage is not None for flag in stage.flags), *self.written)

    @property
    def summary(self) -> tuple[Flag, ...]:
        """The first paragraph: results, their uncertainty, the next step, and cautions."""
        if not self.origin.found:
            return conclude({}, self.flags)
        carried = self.transfer
        found = {"origin": self.origin.summary_numbers()}
        if self.fit is not None and self.fit.accepted:
            found["descan"] = self.fit.summary_numbers()
        ellipse = self.ellipse if carried is None or carried.ellipse is None else carried.ellipse
        if ellipse is not None and ellipse.accepted:
            found["ellipse"] = ellipse.summary_numbers()
        found |= self.held
        size, turned = self.pixel_size, self.rotation
        if size is not None and size.accepted:
            found["pixel_size"] = {"value": size.value, "sigma": size.sigma, "unit": "Å⁻¹"}
        elif "pixel_size" not in found and carried is not None and carried.pixel_size is not None:
            value, unit = carried.pixel_size
            sigma = carried.facts["pixel_size"].get("sigma")
            found["pixel_size"] = {"value": value, "sigma": np.nan if sigma is None else sigma,
                                   "unit": unit.replace("A^-1", "Å⁻¹")}
        if turned is not None and turned.accepted:
            found["rotation"] = turned.summary_numbers()
        elif "rotation" not in found and carried is not None and carried.rotation is not None:
            sigma = carried.facts["rotation"].get("sigma")
            angle, flip = carried.rotation
            found["rotation"] = {"degrees": float(np.degrees(angle)), "flipped": "flipped" if flip else "not flipped",
                                 "sigma": np.nan if sigma is None else sigma}
        return conclude(found, self.flags)

    def rows(self):
        shown = []
        if self.noise is not None:
            shown.append(("detector", self.noise.summary))
        if self.origin.found:
            at = [np.nanmedian(q) for q in (self.origin.qx0, self.origin.qy0)]
            shown.append(("origin", f"({at[0]:.2f}, {at[1]:.2f}) px, sigma of a position {self.origin.sigma:.2g} px "
                                    f"per axis, the {self.origin.feature}"))
        if self.fit is not None:
            rows = dict(self.fit.rows())
            accepted = "" if self.fit.accepted else "refused; "
            shown.append(("descan", f"{accepted}{self.fit.model}, span {rows['span']}, residual "
                                    f"{rows['residual, rms']}"))
        if self.ellipse is not None:
            e = self.ellipse
            shown.append(("ellipse", f"a/b {e.ratio} at {e.angle}"
                          if e.accepted else "not determined"))
        if self.pixel_size is not None:
            p = self.pixel_size
            shown.append(("pixel size", f"{p.value:.6f} ± {p.sigma:.6f} Å⁻¹, from {p.standard}"
                          if p.accepted else f"not determined from {p.standard}"))
        if self.rotation is not None:
            shown.append(("rotation", self.rotation.text if self.rotation.accepted else "not determined"))
        if self.transfer is not None:
            shown.append(("carried over", self.transfer.summary))
        warnings = [flag.sentence for flag in self.flags if flag.severity != "info"]
        count = min(4, MAX_REPR_LINES - 2 - len(shown))
        shown += [("warning", sentence) for sentence in warnings[:count]]
        if len(warnings) > count:
            shown.append(("", f"{len(warnings) - count} more: see print(report)"))
        return shown

    def __str__(self):
        lines = ["Calibration by py4dstem_prenet", ""]
        for part in paragraphs(self.summary):
            lines += [wrapped("", " ".join(flag.sentence for flag in part)), ""]
        for title, stage in (("Detector", self.noise), ("Origin", self.origin), ("Descan", self.fit),
                             ("Ellipse", self.ellipse), ("Pixel size", self.pixel_size), ("Rotation", self.rotation),
                             ("Standard", self.transfer)):
            if stage is None or (stage is self.fit and self.origin.valid.size == 1):  # a single pattern has no descan
                continue
            shown = [(label, value) for label, value in stage.rows() if label not in ("flag", "flags")]
            flags = (*(stage.bad_pixel_flags if stage is self.noise else ()), *stage.flags)
            lines += [title, *(wrapped(f"  {label}: ", value) for label, value in shown),
                      *(wrapped(f"  {_MARKS[flag.severity]} ", str(flag)) for flag in flags), ""]
        return "\n".join([*lines, *(wrapped(f"{_MARKS[f.severity]} ", str(f)) for f in self.written)]).rstrip()
