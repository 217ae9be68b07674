"""The result of the review of a calibrated scan, with its verdicts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..core import (
    CalibrationCheck,
    Decision,
    DenoisingCheck,
    Ellipse,
    EllipseCheck,
    Flag,
    NoiseModel,
    OriginCheck,
    OriginMap,
    PixelSize,
    Rotation,
    conclude,
    ellipse_axes,
    ellipse_vector,
)
from ..fits import Pooled
from ..report import Verdict, make_verdict, overall
from . import FitReview, ellipse_flags, noise_flags, origin_flags, quantity_flags


@dataclass(frozen=True)
class Review:
    """Results of the review of a calibrated scan. A field is None if it was not measured.

    Attributes
    ----------
    name : str
        Name of the file, or of a DataCube that is in memory.
    shape : tuple of int
        (Rx, Ry, Qx, Qy).
    dtype : str
        Type of the values.
    noise : NoiseModel
        Noise model of the detector.
    belongs : CalibrationCheck
        Whether the calibration belongs to these data.
    record : dict or None
        Provenance stored in the calibration.
    origin : OriginMap or None
        Measured origin in the calibration.
    sigma_known : bool
        Whether the sigmas of `origin` are stored.
    fitted : numpy.ndarray or None, shape (2, Rx, Ry)
        Fitted origin in the calibration, pixels.
    fit : FitReview or None
        Review of the descan fit.
    before, centered, after : Pooled or None
        Patterns pooled as recorded; about the fitted origin rounded to whole pixels (without interpolation, for
        figures); and about the fitted origin.
    offset : tuple of float
        Position of the detector's first pixel in the frame of `before`.
    mask : numpy.ndarray of bool or None, shape (Qx, Qy)
        Detector mask in the calibration.
    stored : tuple or None
        Ellipse (a, b, theta) in the calibration.
    stored_covariance : numpy.ndarray, shape (2, 2)
        Covariance of its vector; NaN if none is recorded.
    evidence : str
        The most precise evidence from which it was measured; empty if that is not recorded.
    stored_by : str
        Author of this ellipse (`io.author_of`); empty without an ellipse.
    rotflip : tuple or None
        Rotation (degrees) and flip in the calibration.
    pixel_size : PixelSize or None
        Pixel size that was measured in this scan.
    rotation : Rotation or None
        Rotation that was measured in this scan.
    quantities : dict
        Input of `quantity_flags` for "pixel_size" and "rotation", if they are set.
    fitted_by : str
        Author of the fitted origin (`io.author_of`).
    ellipse : Ellipse or None
        Ellipse measured in this review.
    raw, clean : numpy.ndarray or None, shape (n, m, Qx, Qy)
        A part of the scan in electrons, as measured and denoised.
    virtual : numpy.ndarray or None, shape (2, 2, n, m)
        Virtual images of this part: measured and denoised, bright and dark field.
    part_at : tuple of int
        Row and column of the scan at which this part starts.
    disks : str or None
        Name of the Bragg vectors in the tree of the DataCube.
    denoising : DenoisingCheck or None
        Check of denoising by split electrons.
    halves : OriginCheck or None
        Check of the origin's sigma by split electrons.
    ellipse_halves : EllipseCheck or None
        Check of the ellipse by split electrons.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    noise: NoiseModel
    belongs: CalibrationCheck
    record: dict | None
    origin: OriginMap | None = None
    sigma_known: bool = False
    fitted: np.ndarray | None = None
    fit: FitReview | None = None
    before: Pooled | None = None
    centered: Pooled | None = None
    after: Pooled | None = None
    offset: tuple[float, float] = (0.0, 0.0)
    mask: np.ndarray | None = None
    stored: tuple | None = None
    stored_covariance: np.ndarray = field(default_factory=lambda: np.full((2, 2), np.nan))
    evidence: str = ""
    stored_by: str = ""
    rotflip: tuple | None = None
    pixel_size: PixelSize | None = None
    rotation: Rotation | None = None
    quantities: dict = field(default_factory=dict)
    fitted_by: str = ""
    ellipse: Ellipse | None = None
    raw: np.ndarray | None = None
    clean: np.ndarray | None = None
    virtual: np.ndarray | None = None
    part_at: tuple[int, int] = (0, 0)
    disks: str | None = None
    denoising: DenoisingCheck | None = None
    halves: OriginCheck | None = None
    ellipse_halves: EllipseCheck | None = None

    @property
    def verdicts(self) -> list[Verdict]:
        """All verdicts, the descan first; a single pattern has none.

        Returns
        -------
        list of Verdict
            One for each topic.
        """
        verdicts = [make_verdict("calibration", self.belongs.flags)]
        if self.origin is not None:
            descan = [] if self.origin.valid.size == 1 else [make_verdict("descan", self.fit.flags)]
            verdicts = [*descan, *verdicts,
                        make_verdict("origin", origin_flags(self.origin, self.sigma_known, self.halves)),
                        make_verdict("ellipse", *ellipse_flags(self.stored, self.ellipse, self.stored_by,
                                                               self.ellipse_halves))]
            measured = {"pixel_size": self.pixel_size, "rotation": self.rotation}
            verdicts += [make_verdict(name, quantity_flags(name, numbers, measured[name]))
                         for name, numbers in self.quantities.items()]
        verdicts.append(make_verdict("detector", noise_flags(self.noise)))
        if self.denoising is not None:
            verdicts.append(make_verdict("denoising", self.denoising.flags))
        return verdicts

    @property
    def summary(self) -> tuple[Flag, ...]:
        """The first paragraph: results, their uncertainty, the next step, and cautions.

        Returns
        -------
        tuple of Flag
            Its sentences.
        """
        verdicts, found = self.verdicts, {}
        if self.origin is not None and self.origin.valid.any():
            numbers = self.origin.summary_numbers()
            found["origin"] = numbers if self.sigma_known else numbers | {"sigma": np.nan}
            if self.fitted is not None:
                span = np.ptp(self.fitted, axis=(1, 2))
                found["descan"] = {"model": self.fit.model, "span_x": float(span[0]), "span_y": float(span[1]),
                                   "sigma": self.fit.uncertainty}
        if self.stored is not None:
            found["ellipse"] = self.stored_result.summary_numbers()
        found |= self.quantities
        if self.disks is not None:
            found["disks"] = {"name": self.disks}
        if self.pixel_size is not None and "pixel_size" in found:
            found["pixel_size"] = {"value": self.pixel_size.value, "sigma": self.pixel_size.sigma, "unit": "Å⁻¹"}
        serious = sum(flag.severity == "refusal" for verdict in verdicts for flag in verdict.flags
                      if verdict.light == "red" and verdict.topic != "denoising")
        flags = [flag for verdict in verdicts if verdict.light != "green" for flag in verdict.flags]
        flags += self.noise.bad_pixel_flags
        return conclude(found, flags, serious)

    @property
    def stored_result(self) -> Ellipse:
        """The ellipse in the calibration, with the covariance that is recorded.

        Returns
        -------
        Ellipse
            Its axes with a b = 1 and a >= b.
        """
        vector = np.asarray(ellipse_vector(*self.stored), float)
        return Ellipse(*ellipse_axes(vector), vector, self.stored_covariance, Decision(True))

    @property
    def overall(self) -> Verdict:
        """The verdicts joined.

        Returns
        -------
        Verdict
            Whether the calibration can be used.
        """
        return overall(self.verdicts)
