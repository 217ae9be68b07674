"""The stages in order: noise, origin, descan, ellipse; what was found is written, what was refused is said."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .compute import pick_device
from .core import Ellipse, OriginFit, OriginMap, Sample, reading
from .denoising import denoise
from .detector import NoiseModel, estimate_noise
from .ellipse import measure_ellipse
from .fits import pooled_positions, worth_keeping
from .io import calibrations, check_output
from .networks import load, verify
from .origin import check_mask, fit_origin, survey

NETWORKS = ("center", "ellipse")


@dataclass(frozen=True)
class CalibrationReport:
    """What was found in a scan. `str(report)` is a page of text.

    fit and ellipse are None where no beam was found. verdicts: one sentence each on origin, descan and ellipse.
    """

    origin: OriginMap
    fit: OriginFit | None
    ellipse: Ellipse | None
    noise: NoiseModel
    verdicts: tuple[str, ...]

    def __str__(self):
        noise = self.noise
        kind = "counts electrons" if noise.counting else (
            f"gain {noise.gain:.4g} units per electron, offset {noise.offset:.4g}, read-out {noise.readout:.3g} rms")
        lines = ["Calibration by py4dstem_prenet", "",
                 f"Detector  {kind}; {noise.dose:.4g} electrons a pattern; {int(noise.bad_pixels.sum())} bad pixels"]
        lines += [f"          {message}" for message in noise.messages]
        origin = self.origin
        if origin.found:
            sigma = np.median(np.hypot(origin.sigma_qx0, origin.sigma_qy0)[origin.valid])
            disk = f"disk radius {origin.radius:.2f} px" if np.isfinite(origin.radius) else f"of the {origin.feature}"
            lines += [f"Origin    ({np.nanmedian(origin.qx0):.2f}, {np.nanmedian(origin.qy0):.2f}) px in the median, "
                      f"each position known to {sigma:.3f} px; {disk}"]
        lines += [f"          {origin.reason}"]
        if self.fit is not None:
            rms = [np.sqrt(np.nanmean(r[origin.valid] ** 2)) for r in (self.fit.residual_qx0, self.fit.residual_qy0)]
            span = [np.nanmax(q) - np.nanmin(q) for q in (self.fit.qx0, self.fit.qy0)]
            lines += [f"Descan    {self.fit.model}; spans ({span[0]:.2f}, {span[1]:.2f}) px; residual rms "
                      f"({rms[0]:.3f}, {rms[1]:.3f}) px"]
            lines += ["          " + self.fit.reason.replace("; qy0", "\n          qy0")]
        if self.ellipse is not None:
            e = self.ellipse
            sigma = np.sqrt(np.linalg.eigvalsh(e.covariance).max())
            lines += [f"Ellipse   a/b {e.a / e.b:.4f} +- {sigma:.4f}, a axis at {np.degrees(e.theta):.1f} degrees from "
                      "+qx toward +qy", f"          {e.reason}"]
            for name, (vector, covariance) in e.sources.items():
                lines += [f"          {name}: a/b {1 + np.hypot(*vector):.4f} at "
                          f"{np.degrees(0.5 * np.arctan2(vector[1], vector[0])) % 180:.1f} degrees, sigma "
                          f"{np.sqrt(np.linalg.eigvalsh(covariance).max()):.4f}"]
        return "\n".join([*lines, "", *(f"- {verdict}" for verdict in self.verdicts)])


def calibrate(datacube, mask=None, device="auto", progress=True) -> CalibrationReport:
    """Calibrate a DataCube: measure and fit the origin, measure the ellipse, write what is accepted.

    mask: (Qx, Qy) bool, True where a detector pixel is good, False behind a beam stop and the like; bad pixels that
    the noise model finds need not be named. It is kept in the calibration, and holds for whatever is done with the
    cube afterwards, until another one is given.

    Writes into `datacube.calibration` with `set_origin_meas`, `set_origin` and `set_ellipse`; attaches the maps of
    sigma and the provenance. Where no beam is found, nothing is written.

    Raises:
        PrenetError: data that cannot be calibrated, missing or altered weights, a device that is not there.
    """
    reading.check(datacube)
    check_mask(datacube, mask)
    check_networks(device)
    mask = calibrations.read_mask(datacube) if mask is None else mask
    noise = estimate_noise(datacube, mask=mask)
    # The whole file is read once: what is pooled later is kept on the way.
    origin, kept, noise = survey(datacube, noise, worth_keeping(datacube, noise.dose), device, progress)
    fit, ellipse = judge_scan(datacube, kept, origin, noise, device, progress)
    return write(datacube, origin, fit, ellipse, noise, device, mask)


def check_networks(device):
    """Say what is wrong with weights or device before work starts. Raises PrenetError."""
    for name in NETWORKS:
        verify(name)
        load(name, pick_device(device))


def judge_scan(data, kept: Sample, origin: OriginMap, noise: NoiseModel, device="auto", progress=True):
    """(OriginFit, Ellipse) of a scan whose origin is measured, or of a `Sample` of one; (None, None) without a beam.

    kept: patterns that are in memory; where these are not all that is pooled, data are read.
    """
    if not origin.found:
        return None, None
    fit = fit_origin(origin)
    valid = origin.valid & data.held() if isinstance(data, Sample) else origin.valid
    pooled = pooled_positions(valid.ravel(), valid.shape, noise.dose)
    radius = origin.radius if np.isfinite(origin.radius) else None
    return fit, measure_ellipse(kept if kept.has(pooled) else data, fit.qx0, fit.qy0, radius, noise, valid=valid,
                                device=device, progress=progress)


def write(datacube, origin: OriginMap, fit, ellipse, noise: NoiseModel, device, mask=None) -> CalibrationReport:
    """Write what is accepted into a DataCube's calibration, with provenance; nothing where no beam was found."""
    if not origin.found:
        return CalibrationReport(origin, None, None, noise, (f"Nothing was written: {origin.reason}",))
    verdicts = (
        f"The measured origin was written (set_origin_meas): the {origin.feature}.",
        f"The fitted origin was {'written (set_origin)' if fit.accepted else 'not written'}: {fit.model}.",
        f"The ellipse was {'written (set_ellipse)' if ellipse.accepted else 'not written'}: {ellipse.reason}.",
    )
    record = calibrations.provenance(datacube, weights={name: verify(name) for name in NETWORKS}, settings={"device": device},
                            noise=noise, verdicts=verdicts)
    with calibrations.all_or_none(datacube):
        calibrations.write_origin(datacube, origin)
        calibrations.write_mask(datacube, mask)
        calibrations.write_fit(datacube, fit)
        calibrations.write_ellipse(datacube, ellipse)
        calibrations.write_provenance(datacube, record)
    return CalibrationReport(origin, fit, ellipse, noise, verdicts)


def preprocess(datacube, out=None, device="auto", progress=True):
    """Calibrate and denoise: a new DataCube, calibrated as `datacube` then is. out: an EMD file to stream it to."""
    reading.check(datacube)
    if out is not None:
        check_output(out)
    report = calibrate(datacube, device=device, progress=progress)
    return denoise(datacube, report.noise, out=out, device=device, progress=progress)
