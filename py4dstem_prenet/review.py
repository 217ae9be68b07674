"""Review of a calibrated scan: measure again what its calibration states, and report it with verdicts and figures.

`review` gathers the results, `report` writes them as an HTML page, and `show` draws the maps of the calibration. The
review fits the descan with every model, tests the residuals, measures the ellipse again, and splits the electrons into
halves to check the stated uncertainties and the effect of denoising.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .core import (
    TUKEY_CUT,
    CalibrationCheck,
    Decision,
    DenoisingCheck,
    Ellipse,
    EllipseCheck,
    Flag,
    ModelTrial,
    NoiseModel,
    OriginCheck,
    OriginMap,
    PixelSize,
    PrenetError,
    ResidualTest,
    Rotation,
    as_scan,
    check_residuals,
    conclude,
    ellipse_axes,
    ellipse_vector,
    sample_positions,
)
from .denoising import UNCHANGED, WITH_NEIGHBORS, check_denoising, denoise
from .descan import MODELS, fit_origin, residual_flags
from .detector import virtual_images
from .ellipse import check_ellipse, measure_pooled
from .fits import Pooled, pool
from .io import (
    STANDARD,
    author_of,
    check_output,
    held_quantities,
    new_file,
    noise_of,
    read_fitted_origin,
    read_mask,
    read_origin,
    read_pixel_size,
    read_provenance,
    read_rotation,
    read_stop,
    recorded_ellipse,
    sigma_is_current,
)
from .origin import check_origin
from .report import (
    UNKNOWN_RADIUS_FRACTION,
    Verdict,
    draw_evidence,
    draw_quantities,
    inner_radius,
    make_verdict,
    overall,
    page_html,
    show_left_out,
    show_origin,
    show_pattern,
    show_sigma,
    stored_ellipse,
    subplots,
)
from .resampling import check_calibration
from .transfer import MAX_STRAIN_ELLIPSE

HTML_ENDINGS = (".html", ".htm")
SHOWN_SIDE = 16  # scan positions, side of the part of the scan that is denoised for the figures
MAX_SHOWN_BYTES = 64 * 2**20  # bytes of its patterns as float32
CHECKED_POSITIONS = 256  # scan positions that are split into halves; takes some seconds
MAX_FEW_MISSING = 0.01  # fraction of positions without a beam, above which the flag is a warning
MAX_MINORITY_MISSING = 0.5  # fraction of positions without a beam, above which most are missing
MAX_GOOD_SIGMA_PX = 0.5  # pixels, typical sigma of a position, above which the measured maps are poor
# rms distance of the origin in the calibration from the best fit, pixels: 0.1 % and 0.5 % of the distance of a Bragg
# disk at 50 px.
MIN_ORIGIN_SHIFT_PX = 0.05  # above this, a flag is set
LARGE_ORIGIN_SHIFT_PX = 0.25  # above this, the flag is a refusal
MIN_SPECIMEN_FRACTION = 0.1  # fraction of the residuals' variance, above which virtual images explain them
MIN_ELLIPSE_DIFFERENCE = 0.003  # difference in a/b between calibration and scan, above which a flag is set
MAX_IMAGE_SIDE = 128  # scan positions, side of the largest scan whose virtual images are compared with residuals


@dataclass(frozen=True)
class FitReview:
    """Review of a descan fit.

    Attributes
    ----------
    flags : tuple of Flag
        The results, for the verdict.
    trials : tuple of ModelTrial
        The models that were compared.
    noise : float
        Typical stated sigma of a measured position along one axis, pixels; NaN if none is known.
    test : ResidualTest
        The test of the residuals about the origin in the calibration.
    uncertainty : float
        Standard error of the fitted origin along both axes together, rms over the scan, pixels.
    model : str
        The model of the best fit.
    specimen : float
        Fraction of the residuals' variance that virtual images and their gradients explain; NaN if it was not
        measured.
    """

    flags: tuple[Flag, ...]
    trials: tuple[ModelTrial, ...]
    noise: float
    test: ResidualTest
    uncertainty: float
    specimen: float
    model: str = ""


@dataclass(frozen=True)
class Review:
    """Results of the review of a calibrated scan; None for what was not measured.

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
        Patterns pooled as recorded, about the fitted origin rounded to whole pixels (without interpolation, to look
        at), and about the fitted origin.
    offset : tuple of float
        Place of the detector's first pixel in the frame of `before`.
    mask : numpy.ndarray of bool or None, shape (Qx, Qy)
        Detector mask in the calibration.
    stored : tuple or None
        Ellipse (a, b, theta) in the calibration.
    stored_covariance : numpy.ndarray, shape (2, 2)
        Covariance of its vector; NaN if none is recorded.
    evidence : str
        The most precise evidence that it was measured from; empty if that is not recorded.
    stored_by : str
        Who wrote it (`io.author_of`); empty if there is none.
    rotflip : tuple or None
        Rotation (degrees) and flip in the calibration.
    pixel_size : PixelSize or None
        Pixel size that was measured in this scan.
    rotation : Rotation or None
        Rotation that was measured in this scan.
    quantities : dict
        "pixel_size" and "rotation" to the dict that `quantity_flags` makes flags of, if they are set.
    fitted_by : str
        Who wrote the fitted origin.
    ellipse : Ellipse or None
        Ellipse measured in this review.
    raw, clean : numpy.ndarray or None, shape (n, m, Qx, Qy)
        A part of the scan in electrons, as measured and denoised.
    virtual : numpy.ndarray or None, shape (2, 2, n, m)
        Virtual images of this part: measured and denoised, bright and dark field.
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
    denoising: DenoisingCheck | None = None
    halves: OriginCheck | None = None
    ellipse_halves: EllipseCheck | None = None

    @property
    def verdicts(self) -> list[Verdict]:
        """All verdicts, the descan first.

        Returns
        -------
        list of Verdict
            One for each topic.
        """
        verdicts = [make_verdict("calibration", self.belongs.flags)]
        if self.origin is not None:
            verdicts = [make_verdict("descan", self.fit.flags), *verdicts,
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
        """The first paragraph: what was found, how sure, what to do next, and what not to do.

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
                                   "sigma": self.fit.uncertainty / np.sqrt(2)}
        if self.stored is not None:
            found["ellipse"] = self.stored_result.summary_numbers()
        found |= self.quantities
        if self.pixel_size is not None and "pixel_size" in found:
            found["pixel_size"] = {"value": self.pixel_size.value, "sigma": self.pixel_size.sigma, "unit": "Å⁻¹"}
        serious = sum(flag.severity == "refusal" for verdict in verdicts for flag in verdict.flags
                      if verdict.light == "red" and verdict.topic != "denoising")
        flags = [flag for verdict in verdicts if verdict.light != "green" for flag in verdict.flags]
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


# --- flags of each stage ------------------------------------------------------------------------------------


def noise_flags(noise: NoiseModel) -> tuple[Flag, ...]:
    """Convert a noise model to flags.

    Parameters
    ----------
    noise : NoiseModel
        Noise model of the detector.

    Returns
    -------
    tuple of Flag
        Kind of detector, bad pixels, and the warnings about the data.
    """
    kind = Flag("counting", {"dose": noise.dose}) if noise.counting else Flag(
        "integrating", {"gain": noise.gain, "offset": noise.offset, "readout": noise.readout, "dose": noise.dose})
    return (kind, *noise.bad_pixel_flags, *noise.flags)


def origin_flags(origin: OriginMap, sigma_known: bool, halves: OriginCheck | None = None) -> tuple[Flag, ...]:
    """Convert a measured origin to flags.

    Parameters
    ----------
    origin : OriginMap
        The measured origin.
    sigma_known : bool
        Whether its sigmas are stored.
    halves : OriginCheck, optional
        Check of the sigmas by split electrons.

    Returns
    -------
    tuple of Flag
        Positions without a beam, and the typical sigma.
    """
    total, missing = int(origin.valid.size), int((~origin.valid).sum())
    fraction = missing / total
    name = ("beam_missing_mostly" if fraction > MAX_MINORITY_MISSING else "beam_missing" if fraction > MAX_FEW_MISSING
            else "beam_missing_few")
    flags = [Flag(name, {"count": missing, "total": total}) if missing else Flag("beam_found")]
    if origin.feature == "rings":
        flags.append(Flag("beam_hidden"))
    if sigma_known:
        flags.append(Flag("sigma_poor" if origin.sigma > MAX_GOOD_SIGMA_PX else "sigma_known", {"sigma": origin.sigma}))
    else:
        flags.append(Flag("sigma_unknown"))
    return (*flags, *(() if halves is None else halves.flags))


def review_fit(origin: OriginMap, fitted, sigma_known: bool, side: int, images=None) -> FitReview:
    """Compare a descan fit with the best fit, and test its residuals.

    Parameters
    ----------
    origin : OriginMap
        The measured origin.
    fitted : array_like or None, shape (2, Rx, Ry)
        Fitted origin in the calibration, pixels; None if no fit was accepted.
    sigma_known : bool
        Whether the sigmas of `origin` are stored.
    side : int
        Shorter side of a pattern, pixels.
    images : numpy.ndarray, shape (k, Rx, Ry), optional
        Virtual images with which residuals are compared.

    Returns
    -------
    FitReview
        The results and their flags.
    """
    best = fit_origin(origin)
    used = np.stack([best.qx0, best.qy0] if fitted is None else fitted)
    residual = np.stack([origin.qx0, origin.qy0]) - used
    sigma = np.stack([origin.sigma_qx0, origin.sigma_qy0])
    test = check_residuals(residual, sigma, origin.valid, sigma_known)
    moved = float(np.sqrt(np.mean(((used - (best.qx0, best.qy0)) ** 2).sum(0))))
    uncertainty = best.decision.numbers["uncertainty"]
    reach = TUKEY_CUT * test.scatter
    clipped = np.clip(residual, -reach, reach)
    specimen = np.nan if images is None else _explained_fraction(clipped, origin.valid, images)
    numbers = {"moved": moved, "model": best.model}
    flags = [flag for flag in best.flags if not flag.name.startswith("residuals_") and flag.name != "few_positions"]
    if fitted is None:
        flags.insert(0, Flag("fit_not_accepted"))
    elif moved > max(MIN_ORIGIN_SHIFT_PX, 3 * uncertainty):
        flags.insert(0, Flag("origin_far_off" if moved > LARGE_ORIGIN_SHIFT_PX else "origin_moved", numbers))
    flags += residual_flags(test)
    if test.correlated and specimen > MIN_SPECIMEN_FRACTION:
        flags.append(Flag("specimen_explains", {"percent": 100 * specimen}))
    # Error by the choice of the model: the largest distance to a more flexible one.
    distances = [t.distance for t in best.trials if t.determined and MODELS.index(t.model) >= MODELS.index(best.model)]
    choice, distance = max(distances, default=0.0), side / 4
    choice = choice / np.sqrt(2)  # along each axis, as the sigmas
    along = uncertainty / np.sqrt(2)
    error = max(along, choice)
    flags.append(Flag("origin_error", {"uncertainty": along, "choice": choice, "distance": distance,
                                       "error": error, "strain": 100 * error / distance}))
    noise = float(np.median(sigma[:, origin.valid])) if sigma_known else np.nan
    return FitReview(tuple(flags), best.trials, noise, test, uncertainty, float(specimen), best.model)


def _explained_fraction(residual, valid, images):
    """Fraction of the residuals' variance explained by images and their gradients (adjusted R squared)."""
    terms = [np.ones(valid.shape)]
    for image in images:
        image = (image - image.mean()) / (image.std() or 1)
        terms += [image, *(np.gradient(image, axis=k) for k in (0, 1) if image.shape[k] > 1)]
    design = np.stack([t[valid] for t in terms], 1)
    if len(design) < 10 * design.shape[1]:
        return np.nan
    unexplained = total = 0.0
    for r in residual:
        y = r[valid] - r[valid].mean()
        unexplained += ((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2).sum()
        total += (y**2).sum()
    n, k = design.shape
    return max(0.0, 1 - unexplained / (n - k) / (total / (n - 1))) if total > 0 else np.nan


def ellipse_flags(stored, measured: Ellipse | None, author: str, halves: EllipseCheck | None = None):
    """Compare the ellipse in the calibration with the measured one, as flags.

    Parameters
    ----------
    stored : tuple or None
        Ellipse (a, b, theta) in the calibration.
    measured : Ellipse or None
        Ellipse measured in this scan.
    author : str
        Who wrote the stored one (`io.author_of`).
    halves : EllipseCheck, optional
        Check of the ellipse by split electrons.

    Returns
    -------
    flags : tuple of Flag
        Flags that decide the verdict.
    details : tuple of Flag
        Flags of the measured ellipse.
    """
    details = () if measured is None else measured.flags
    if stored is None:
        return (Flag("ellipse_not_set"),), details
    if measured is None or not measured.accepted:
        return (Flag("ellipse_unconfirmed", {"author": author}),), details
    difference = float(np.hypot(*np.subtract(measured.vector, ellipse_vector(*stored))))
    if difference > max(3 * measured.sigma, MIN_ELLIPSE_DIFFERENCE):
        numbers = {"difference": difference, "sigmas": difference / measured.sigma}
        if author == STANDARD and "rings" not in measured.sources:  # the aperture may not be round
            return (Flag("beam_shape_differs", numbers),), details
        if author == STANDARD and difference <= MAX_STRAIN_ELLIPSE:
            return (Flag("standard_differs", numbers),), details
        return (Flag("ellipse_differs", {"author": author, "difference": difference,
                                         "sigmas": difference / measured.sigma}),), details
    a, b, theta = stored
    degrees = np.degrees(theta + (np.pi / 2 if b > a else 0)) % 180
    confirmed = Flag("ellipse_confirmed", {"author": author, "ratio": max(a, b) / min(a, b), "sigma": measured.sigma,
                                           "degrees": float(degrees)})
    return (confirmed, *(() if halves is None else halves.flags)), details


def quantity_flags(name: str, numbers, measured=None) -> tuple[Flag, ...]:
    """Convert a pixel size or rotation in the calibration to flags.

    Parameters
    ----------
    name : {"pixel_size", "rotation"}
        Which of them.
    numbers : dict
        What `held_quantities` returned for it.
    measured : PixelSize or Rotation, optional
        The result, if it was measured in this scan.

    Returns
    -------
    tuple of Flag
        Where it comes from, and the flags of the measurement.

    Examples
    --------
    >>> size = {"value": 0.02, "sigma": float("nan"), "unit": "A^-1", "author": "hand", "source": ""}
    >>> [flag.name for flag in quantity_flags("pixel_size", size)]
    ['pixel_size_untested']
    """
    if measured is not None:
        source = () if name == "rotation" else (Flag("pixel_size_from_crystal", {
            "value": measured.value, "sigma": measured.sigma, "unit": "Å⁻¹", "standard": measured.standard,
            "stored": numbers["value"]}),)
        return (*source, *measured.flags)
    carried, untested = (("pixel_size_from_standard", "pixel_size_untested") if name == "pixel_size" else
                         ("rotation_from_standard", "rotation_untested"))
    return (Flag(carried if numbers["author"] == STANDARD else untested, numbers),)


# --- the page -----------------------------------------------------------------------------------------------


def report(datacube, path, device="auto", progress=True, fast=False) -> list[Verdict]:
    """Review a calibrated scan and write the result as an HTML page. The DataCube is not changed.

    Parameters
    ----------
    datacube : DataCube
        The scan, with an origin in its calibration, measured by any program.
    path : str or path-like
        An .html file that does not exist yet. If writing fails, no file is left.
    device : str, optional
        "auto", "cpu", "cuda" or "mps".
    progress : bool, optional
        Whether to show a progress bar.
    fast : bool, optional
        Whether to leave out what takes most of the time: denoising, and the repetition of the calibration on halves of
        the electrons.

    Returns
    -------
    list of Verdict
        The verdicts on the page.

    Raises
    ------
    PrenetError
        If the path exists or the calibration has no origin.

    Examples
    --------
    >>> from py4dstem_prenet.demo import load_scan
    >>> from py4dstem_prenet.review import report
    >>> datacube, truth = load_scan()
    >>> calibration = datacube.prenet.calibrate(progress=False)  # doctest: +SKIP
    >>> verdicts = report(datacube, "report.html", progress=False)  # doctest: +SKIP
    """
    path = check_output(path, HTML_ENDINGS)
    result = review(datacube, device, progress, fast)
    with new_file(path, HTML_ENDINGS) as partial:
        partial.write_text(page_html(result), encoding="utf-8")
    return result.verdicts


def review(datacube, device="auto", progress=True, fast=False) -> Review:
    """Review a calibrated scan.

    Parameters
    ----------
    datacube : DataCube
        The scan, with an origin in its calibration.
    device : str, optional
        "auto", "cpu", "cuda" or "mps".
    progress : bool, optional
        Whether to show a progress bar.
    fast : bool, optional
        Whether to leave out denoising and the checks on halves of the electrons.

    Returns
    -------
    Review
        The results. Only the first fields are set if the calibration belongs to other data.

    Raises
    ------
    PrenetError
        If the calibration has no origin.
    """
    scan = as_scan(datacube)
    if datacube.calibration is None or datacube.calibration.get_origin_meas() is None:
        raise PrenetError("No origin was measured in this scan; call datacube.prenet.calibrate() (or prenet calibrate) "
                          "first.")
    with tqdm(total=5, desc="report", unit=" stages", disable=not progress) as bar:
        noise, shape = _noise(datacube), scan.shape
        results = {"name": _name_of(datacube), "shape": shape, "dtype": str(datacube.data.dtype), "noise": noise,
                   "belongs": check_calibration(datacube), "record": read_provenance(datacube)}
        if set(results["belongs"].stale) & {"measured origin", "probe radius"}:
            return Review(**results)  # the maps belong to other data
        bar.update()
        origin = read_origin(datacube)
        radius = origin.radius if np.isfinite(origin.radius) else UNKNOWN_RADIUS_FRACTION * min(shape[2:])
        stored = datacube.calibration.get_origin()
        if np.shape(stored)[1:] not in ((), shape[:2]):  # belongs to the scan before cropping; reported by `belongs`
            stored = None
        used = stored
        if stored is None:
            best = fit_origin(origin)
            used = best.qx0, best.qy0
        used = np.stack([np.broadcast_to(np.asarray(q, float), shape[:2]) for q in used])
        before, offset = _as_recorded(datacube, used, noise)
        centered = pool(datacube, *np.rint(used), noise, valid=origin.valid)
        after = pool(datacube, *used, noise, valid=origin.valid)
        bar.update()
        outer = inner_radius(after.mean.shape, after.center)
        detectors = [(0, radius), (min(2 * radius, 0.5 * outer), outer)]
        fitted, sigma_known = None if stored is None else used, sigma_is_current(datacube)
        images = _virtual_maps(datacube, used, detectors, noise)
        results |= {"origin": origin, "sigma_known": sigma_known, "before": before, "centered": centered,
                    "after": after, "offset": offset, "mask": read_mask(datacube), "fitted": fitted,
                    "pixel_size": read_pixel_size(datacube), "rotation": read_rotation(datacube),
                    "quantities": {name: numbers for name, numbers in held_quantities(datacube).items()
                                   if name != "ellipse"},
                    "fit": review_fit(origin, fitted, sigma_known, min(shape[2:]), images)}
        bar.update()
        disk_radius = origin.radius if np.isfinite(origin.radius) else None
        covariance, evidence = recorded_ellipse(datacube)
        results |= {"stored": stored_ellipse(datacube.calibration), "stored_covariance": covariance,
                    "evidence": evidence,
                    "rotflip": datacube.calibration.get_QR_rotflip_degrees(),
                    "stored_by": author_of(datacube, "ellipse") or "", "fitted_by": author_of(datacube, "origin") or "",
                    "ellipse": measure_pooled(after, disk_radius, noise, device)}
        bar.update()
        if fast:
            bar.update()
            return Review(**results)
        results["denoising"] = check_denoising(datacube, noise, device=device, positions=CHECKED_POSITIONS)
        results |= _denoised_part(datacube, used, detectors, noise, device, results["denoising"].mode)
        results["halves"] = check_origin(datacube, noise, device=device, positions=CHECKED_POSITIONS)
        if results["ellipse"].accepted and stored is not None:
            results["ellipse_halves"] = check_ellipse(datacube, noise, device=device, positions=4 * CHECKED_POSITIONS)
        bar.update()
    return Review(**results)


def _name_of(datacube):
    """Name of the file of a scan, or of a cube in memory."""
    path = getattr(as_scan(datacube), "file", None)
    return str(datacube.name) if path is None else Path(path).name


def _noise(datacube):
    """The noise model; a beam stop that was found counts as bad pixels."""
    noise, stop = noise_of(datacube), read_stop(datacube)
    return noise if stop is None else replace(noise, bad_pixels=noise.bad_pixels | stop)


def _as_recorded(datacube, used, noise):
    """The mean pattern as recorded, and the place of the detector's first pixel in its frame."""
    middle = [float(np.rint(q.mean())) for q in used]  # whole pixels, so that nothing is interpolated
    pooled = pool(datacube, *(np.full(q.shape, m) for q, m in zip(used, middle, strict=True)), noise)
    return pooled, tuple(c - m for c, m in zip(pooled.center, middle, strict=True))


def _virtual_maps(datacube, used, detectors, noise):
    """Compute virtual images of the whole scan; None if it is too large."""
    scan = as_scan(datacube).scan_shape
    if scan[0] * scan[1] > MAX_IMAGE_SIDE**2:
        return None
    return virtual_images(datacube, *used, detectors, noise).reshape(-1, *scan)


def _denoised_part(datacube, used, detectors, noise, device, mode):
    """Denoise the part of the scan around the strongest scattering: electrons before and after, and virtual images."""
    from py4DSTEM import DataCube

    rx, ry, qx, qy = as_scan(datacube).shape
    sample = sample_positions((rx, ry), 256)
    dark = virtual_images(datacube, *used, detectors[1:], noise, positions=sample)[0]
    middle = np.unravel_index(sample[np.argmax(dark)], (rx, ry))
    side = int(np.clip(np.sqrt(MAX_SHOWN_BYTES / (4 * qx * qy)), 2, SHOWN_SIDE))
    part = tuple(slice(max(0, min(m - side // 2, n - side)), max(0, min(m - side // 2, n - side)) + side)
                 for m, n in zip(middle, (rx, ry), strict=True))
    data = np.array(datacube.data[part])
    origins = used[:, part[0], part[1]]
    piece = DataCube(data)
    piece.calibration.set_origin(tuple(origins))  # denoising compares patterns about their origins
    clean = piece.data
    if mode != UNCHANGED:
        scan_aware = mode == WITH_NEIGHBORS if mode else "auto"
        clean = denoise(piece, noise, scan_aware=scan_aware, device=device, progress=False).data
    kinds = [noise.electrons(kind.reshape(-1, qx, qy)).reshape(kind.shape) for kind in (data, clean)]
    exact = NoiseModel(1.0, 0.0, 0.0, np.zeros((qx, qy), bool), False, noise.dose)
    images = [virtual_images(kind, *origins, detectors, exact).reshape(2, *kind.shape[:2]) for kind in kinds]
    return {"raw": kinds[0], "clean": kinds[1], "virtual": np.stack(images)}


def show(datacube, axes=None):
    """Draw the calibration of a scan and the evidence for it.

    The first two rows show the origin: measured, fitted, residual, and sigma along each axis. The third one shows the
    mean pattern with detector mask, beam stop and bad pixels, the recentered mean, and the evidence for the ellipse:
    rings as they are and straightened, or the edge of the direct beam. A fourth row shows the rings from which the
    pixel size was measured, and the deflection from which the rotation was, if the calibration holds them.

    Parameters
    ----------
    datacube : DataCube
        The scan, with an origin in its calibration.
    axes : numpy.ndarray of matplotlib.axes.Axes, shape (3, 4) or (4, 4), optional
        Axes to draw into; those of a new figure by default.

    Returns
    -------
    numpy.ndarray of matplotlib.axes.Axes, shape (3, 4) or (4, 4)
        The axes.

    Raises
    ------
    PrenetError
        If the calibration has no origin, or that of other data.
    """
    qx0, qy0, radius = read_fitted_origin(datacube)
    measured = read_origin(datacube) if datacube.calibration.get_origin_meas() is not None else None
    noise, used = _noise(datacube), np.stack([qx0, qy0])
    valid = None if measured is None else measured.valid
    still, offset = _as_recorded(datacube, used, noise)
    centered = pool(datacube, *np.rint(used), noise, valid=valid)
    pooled = pool(datacube, *used, noise, valid=valid)
    size, turned = read_pixel_size(datacube), read_rotation(datacube)
    if axes is None:
        rows = 3 if size is None and turned is None else 4
        axes = subplots(rows, 4, figsize=(14, 3.5 * rows))
    nothing = np.full_like(qx0, np.nan)
    if measured is None:  # set by hand, without a measurement
        show_origin((qx0, qy0), (qx0, qy0), axes[:2, :3])
        show_sigma(nothing, nothing, np.ones(qx0.shape, bool), axes[:2, 3])
    else:
        show_origin((measured.qx0, measured.qy0), (qx0, qy0), axes[:2, :3], valid)
        sigmas = (measured.sigma_qx0, measured.sigma_qy0) if sigma_is_current(datacube) else (nothing, nothing)
        show_sigma(*sigmas, valid, axes[:2, 3])
    show_pattern(still.mean, axes[2, 0], "mean as recorded", 0.25, weight=still.weight)
    show_left_out(axes[2, 0], offset, read_mask(datacube), read_stop(datacube), noise.bad_pixels)
    ellipse = stored_ellipse(datacube.calibration)
    draw_evidence(pooled, centered, float(radius), ellipse, recorded_ellipse(datacube)[1], axes[2, 1:])
    if len(axes) > 3:
        draw_quantities(size, turned, axes[3])
    return axes
