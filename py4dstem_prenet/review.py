"""A calibrated scan looked at anew: figures of what its calibration holds and does, and a page with verdicts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from .core import (
    TUKEY_CUT,
    Ellipse,
    Flag,
    ModelTrial,
    NoiseModel,
    OriginMap,
    PrenetError,
    ResidualTest,
    as_scan,
    check_residuals,
    ellipse_vector,
    sample_positions,
)
from .denoising import DenoisingCheck, check_denoising, denoise
from .descan import MODELS, fit_origin, residual_flags
from .detector import virtual_images
from .ellipse import EllipseCheck, check_ellipse, judge_pooled
from .fits import Pooled, pool
from .io import calibrations, check_output, new_file
from .origin import OriginCheck, check_origin
from .report import Verdict, figures, make_verdict, page_html
from .resampling import CalibrationCheck, check_calibration

HTML_ENDINGS = (".html", ".htm")
PIECE = 16  # positions along each side of the part of the scan that is denoised to be shown
PIECE_BYTES = 64 * 2**20  # of these patterns as float32
CHECKED = 256  # positions that are split into halves: some seconds, and enough to tell
MANY_MISSING = 0.01  # fraction of positions without a beam, from which it is a warning
POOR_SIGMA_PX = 0.5  # pixels, typical sigma of a position from which measured maps are poor
# RMS distance of the origin in the calibration from the best fit, pixels, that matters and that is too much: a Bragg disk
# 50 px away is then off by 0.1 % and by 0.5 % of its length.
MOVED_PX, MOVED_FAR_PX = 0.05, 0.25
SPECIMEN_PART = 0.1  # of the variance of the residuals, from which virtual images explain them
ELLIPSE_DIFFERS = 0.003  # difference in a/b that matters
MAP_SIDE = 128  # positions along each side of virtual images that residuals are compared with


@dataclass(frozen=True)
class FitReview:
    """A descan fit looked at anew.

    Attributes
    ----------
    flags : tuple of Flag
        What is to be known of it.
    trials : tuple of ModelTrial
        The models that were compared.
    noise : float
        Typical stated sigma of a measured position along one axis, pixels; NaN if none is known.
    test : ResidualTest
        The test of the residuals about the origin in the calibration.
    uncertainty : float
        Of the fitted origin, rms over the scan along both axes, pixels.
    specimen : float
        Part of the variance of the residuals that virtual images and their slopes explain; NaN if not asked.
    """

    flags: tuple[Flag, ...]
    trials: tuple[ModelTrial, ...]
    noise: float
    test: ResidualTest
    uncertainty: float
    specimen: float


@dataclass(frozen=True)
class Review:
    """All that a page shows of a scan. What was not looked at is None."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    noise: NoiseModel
    belongs: CalibrationCheck
    record: dict | None
    origin: OriginMap | None = None
    sigma_known: bool = False
    fitted: np.ndarray | None = None  # (2, Rx, Ry), the calibration's
    fit: FitReview | None = None
    before: Pooled | None = None
    after: Pooled | None = None
    stored: tuple | None = None  # ellipse
    stored_by: str = ""
    ellipse: Ellipse | None = None
    raw: np.ndarray | None = None  # (n, m, Qx, Qy), a part of the scan in electrons
    clean: np.ndarray | None = None
    virtual: np.ndarray | None = None  # (2 kinds, 2 detectors, n, m)
    denoising: DenoisingCheck | None = None
    halves: OriginCheck | None = None
    ellipse_halves: EllipseCheck | None = None

    @property
    def verdicts(self) -> list[Verdict]:
        """All verdicts, the most asked for first."""
        found = [make_verdict("calibration", self.belongs.flags)]
        if self.origin is not None:
            found = [make_verdict("descan", self.fit.flags), *found,
                     make_verdict("origin", origin_flags(self.origin, self.sigma_known, self.halves)),
                     make_verdict("ellipse", *ellipse_flags(self.stored, self.ellipse, self.stored_by,
                                                            self.ellipse_halves))]
        found.append(make_verdict("detector", noise_flags(self.noise)))
        if self.denoising is not None:
            found.append(make_verdict("denoising", self.denoising.flags))
        return found


# --- what each stage says -----------------------------------------------------------------------------------


def noise_flags(noise: NoiseModel) -> tuple[Flag, ...]:
    """What the values of the detector mean, as flags."""
    kind = Flag("counting", {"dose": noise.dose}) if noise.counting else Flag(
        "integrating", {"gain": noise.gain, "offset": noise.offset, "readout": noise.readout, "dose": noise.dose})
    bad = int(noise.bad_pixels.sum())
    return (kind, *((Flag("bad_pixels", {"count": bad}),) if bad else ()), *noise.flags)


def origin_flags(origin: OriginMap, sigma_known: bool, halves: OriginCheck | None = None) -> tuple[Flag, ...]:
    """Whether the direct beam was found, as flags."""
    total, missing = int(origin.valid.size), int((~origin.valid).sum())
    part, numbers = missing / total, {"count": missing, "total": total}
    name = "beam_missing_mostly" if part > 0.5 else "beam_missing" if part > MANY_MISSING else "beam_missing_few"
    flags = [Flag(name, numbers) if missing else Flag("beam_found")]
    if origin.feature == "rings":
        flags.append(Flag("beam_hidden"))
    if sigma_known:
        flags.append(Flag("sigma_poor" if origin.sigma > POOR_SIGMA_PX else "sigma_known", {"sigma": origin.sigma}))
    else:
        flags.append(Flag("sigma_unknown"))
    return (*flags, *(() if halves is None else halves.flags))


def review_fit(origin: OriginMap, fitted, sigma_known: bool, side: int, images=None) -> FitReview:
    """Look at a descan fit anew: is it the best one, and are its residuals noise?

    Parameters
    ----------
    origin : OriginMap
        The measured origin.
    fitted : array_like or None
        (2, Rx, Ry), the origin in the calibration; None if no fit was accepted.
    sigma_known : bool
        Whether the sigmas of `origin` mean anything.
    side : int
        Shorter side of a pattern, pixels.
    images : numpy.ndarray, optional
        (k, Rx, Ry), virtual images that residuals may follow.

    Returns
    -------
    FitReview
        The fit, and its flags.
    """
    best = fit_origin(origin)
    used = np.stack([best.qx0, best.qy0] if fitted is None else fitted)
    residual = np.stack([origin.qx0, origin.qy0]) - used
    sigma = np.stack([origin.sigma_qx0, origin.sigma_qy0])
    test = check_residuals(residual, sigma, origin.valid, sigma_known)
    moved = float(np.sqrt(np.mean(((used - (best.qx0, best.qy0)) ** 2).sum(0))))
    uncertainty = best.decision.numbers["uncertainty"]
    reach = TUKEY_CUT * test.scatter
    specimen = np.nan if images is None else _explained(np.clip(residual, -reach, reach), origin.valid, images)
    numbers = {"moved": moved, "model": best.model}
    flags = [flag for flag in best.flags if not flag.name.startswith("residuals_") and flag.name != "few_positions"]
    if fitted is None:
        flags.insert(0, Flag("fit_not_accepted"))
    elif moved > max(MOVED_PX, 3 * uncertainty):
        flags.insert(0, Flag("origin_far_off" if moved > MOVED_FAR_PX else "origin_moved", numbers))
    flags += residual_flags(test)
    if test.correlated and specimen > SPECIMEN_PART:
        flags.append(Flag("specimen_explains", {"percent": 100 * specimen}))
    richer = [t.distance for t in best.trials if t.determined and MODELS.index(t.model) >= MODELS.index(best.model)]
    choice, distance = max(richer, default=0.0), side / 4
    error = max(uncertainty, choice)
    flags.append(Flag("origin_error", {"uncertainty": uncertainty, "choice": choice, "distance": distance, "error": error,
                                       "strain": 100 * error / distance}))
    noise = float(np.median(sigma[:, origin.valid])) if sigma_known else np.nan
    return FitReview(tuple(flags), best.trials, noise, test, uncertainty, float(specimen))


def _explained(residual, valid, images):
    """Part of the variance of residuals that a mixture of images and their slopes explains, adjusted for chance."""
    terms = [np.ones(valid.shape)]
    for image in images:
        image = (image - image.mean()) / (image.std() or 1)
        terms += [image, *(np.gradient(image, axis=k) for k in (0, 1) if image.shape[k] > 1)]
    design = np.stack([t[valid] for t in terms], 1)
    if len(design) < 10 * design.shape[1]:
        return np.nan
    left = total = 0.0
    for r in residual:
        y = r[valid] - r[valid].mean()
        left += ((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2).sum()
        total += (y**2).sum()
    n, k = design.shape
    return max(0.0, 1 - left / (n - k) / (total / (n - 1))) if total > 0 else np.nan


def ellipse_flags(stored, measured: Ellipse | None, author: str, halves: EllipseCheck | None = None):
    """Whether the ellipse in the calibration is right, as flags.

    Parameters
    ----------
    stored : tuple or None
        (a, b, theta) in the calibration.
    measured : Ellipse or None
        The ellipse as this scan shows it.
    author : str
        Who wrote the stored one: "prenet" or "another program".
    halves : EllipseCheck, optional
        The check by two halves of the electrons.

    Returns
    -------
    flags : tuple of Flag
        What decides.
    details : tuple of Flag
        What this scan shows.
    """
    known = () if measured is None else measured.flags
    if stored is None:
        return (Flag("ellipse_not_set"),), known
    if measured is None or not measured.accepted:
        return (Flag("ellipse_unconfirmed", {"author": author}),), known
    difference = float(np.hypot(*np.subtract(measured.vector, ellipse_vector(*stored))))
    if difference > max(3 * measured.sigma, ELLIPSE_DIFFERS):
        return (Flag("ellipse_differs", {"author": author, "difference": difference,
                                         "sigmas": difference / measured.sigma}),), known
    a, b, theta = stored
    degrees = np.degrees(theta + (np.pi / 2 if b > a else 0)) % 180
    confirmed = Flag("ellipse_confirmed", {"author": author, "ratio": max(a, b) / min(a, b), "sigma": measured.sigma,
                                           "degrees": float(degrees)})
    return (confirmed, *(() if halves is None else halves.flags)), known


# --- the page -----------------------------------------------------------------------------------------------


def report(datacube, path, device="auto", progress=True) -> list[Verdict]:
    """Write a page about a calibrated scan: can one go on with it, and what that rests on. Returns its verdicts.

    Looks at the scan anew: the fit with every function, the ellipse, and what denoising does for these counts. Changes
    nothing in the cube.

    Args:
        datacube: a DataCube with an origin in its calibration, whoever measured it.
        path: an .html file that does not exist yet; it appears whole or not at all.

    Raises PrenetError where the path is taken, or the calibration has no origin.
    """
    path = check_output(path, HTML_ENDINGS)
    seen = review(datacube, device, progress)
    with new_file(path, HTML_ENDINGS) as partial:
        partial.write_text(page_html(seen), encoding="utf-8")
    return seen.verdicts


def review(datacube, device="auto", progress=True) -> Review:
    """Gather what a page tells. Raises PrenetError where the calibration has no origin."""
    scan = as_scan(datacube)
    if datacube.calibration is None or datacube.calibration.get_origin_meas() is None:
        raise PrenetError("No origin was measured in this scan; call datacube.prenet.calibrate() (or prenet calibrate) "
                          "first.")
    with tqdm(total=5, desc="report", unit=" stages", disable=not progress) as bar:
        noise = calibrations.noise_of(datacube)
        shape = scan.shape
        seen = {"name": datacube.name, "shape": shape, "dtype": str(datacube.data.dtype), "noise": noise,
                "belongs": check_calibration(datacube), "record": calibrations.read_provenance(datacube)}
        if set(seen["belongs"].stale) & {"measured origin", "probe radius"}:
            return Review(**seen)  # maps of other data: there is nothing to draw
        bar.update()
        origin = calibrations.read_origin(datacube)
        radius = origin.radius if np.isfinite(origin.radius) else 0.05 * min(shape[2:])
        stored = datacube.calibration.get_origin()
        if np.shape(stored)[1:] not in ((), shape[:2]):  # of the scan before it was cropped: `belongs` says so
            stored = None
        used = stored
        if stored is None:
            best = fit_origin(origin)
            used = best.qx0, best.qy0
        used = np.stack([np.broadcast_to(np.asarray(q, float), shape[:2]) for q in used])
        before = pool(datacube, *(np.full(shape[:2], q.mean()) for q in used), noise)
        after = pool(datacube, *used, noise, valid=origin.valid)
        bar.update()
        outer = figures.inner_radius(after.mean.shape, after.center)
        detectors = [(0, radius), (min(2 * radius, 0.5 * outer), outer)]
        seen |= {"origin": origin, "sigma_known": calibrations.sigma_is_current(datacube), "before": before, "after": after,
                 "fitted": None if stored is None else used,
                 "fit": review_fit(origin, stored if stored is None else used, calibrations.sigma_is_current(datacube),
                                 min(shape[2:]), _maps(datacube, used, detectors, noise))}
        bar.update()
        ours = calibrations.signatures(datacube).get("ellipse", {}).get("unchanged")
        known = origin.radius if np.isfinite(origin.radius) else None
        seen |= {"stored": figures.stored_ellipse(datacube.calibration),
                 "stored_by": "prenet" if ours else "another program",
                 "ellipse": judge_pooled(after, known, noise, device)}
        bar.update()
        seen |= _denoised(datacube, used, detectors, noise, device)
        seen["denoising"] = check_denoising(datacube, noise, device=device, positions=CHECKED)
        seen["halves"] = check_origin(datacube, noise, device=device, positions=CHECKED)
        if seen["ellipse"].accepted and stored is not None:
            seen["ellipse_halves"] = check_ellipse(datacube, noise, device=device, positions=4 * CHECKED)
        bar.update()
    return Review(**seen)


def _maps(datacube, used, detectors, noise):
    """Virtual images of the whole scan, or None where it is too large to look at all of it for a page."""
    scan = as_scan(datacube).scan_shape
    if scan[0] * scan[1] > MAP_SIDE**2:
        return None
    return virtual_images(datacube, *used, detectors, noise).reshape(-1, *scan)


def _denoised(datacube, used, detectors, noise, device):
    """A part of the scan in electrons, measured and denoised, with virtual images; about the strongest scattering."""
    from py4DSTEM import DataCube

    rx, ry, qx, qy = as_scan(datacube).shape
    some = sample_positions((rx, ry), 256)
    dark = virtual_images(datacube, *used, detectors[1:], noise, positions=some)[0]
    middle = np.unravel_index(some[np.argmax(dark)], (rx, ry))
    side = int(np.clip(np.sqrt(PIECE_BYTES / (4 * qx * qy)), 2, PIECE))
    part = tuple(slice(max(0, min(m - side // 2, n - side)), max(0, min(m - side // 2, n - side)) + side)
                 for m, n in zip(middle, (rx, ry), strict=True))
    data = np.array(datacube.data[part])
    origins = used[:, part[0], part[1]]
    piece = DataCube(data)
    piece.calibration.set_origin(tuple(origins))  # by which patterns are compared with their neighbors
    clean = denoise(piece, noise, device=device, progress=False).data
    kinds = [noise.electrons(kind.reshape(-1, qx, qy)).reshape(kind.shape) for kind in (data, clean)]
    exact = NoiseModel(1.0, 0.0, 0.0, np.zeros((qx, qy), bool), False, noise.dose)
    images = [virtual_images(kind, *origins, detectors, exact).reshape(2, *kind.shape[:2]) for kind in kinds]
    return {"raw": kinds[0], "clean": kinds[1], "virtual": np.stack(images)}


def show(datacube, axes=None):
    """What a cube's calibration holds and does: origin maps, the mean pattern and the rings before and after.

    axes: (3, 4) to draw into; by default those of a new figure. Returns them. Raises PrenetError where the cube has no
    origin, or one of other data.
    """
    measured = calibrations.read_origin(datacube)
    qx0, qy0, radius = calibrations.read_fitted_origin(datacube)
    noise = calibrations.noise_of(datacube)
    pooled = pool(datacube, qx0, qy0, noise, valid=measured.valid)
    still = pool(datacube, np.full_like(qx0, qx0.mean()), np.full_like(qy0, qy0.mean()), noise)
    if axes is None:
        axes = figures.subplots(3, 4, figsize=(13, 9.4))
    figures.show_origin((measured.qx0, measured.qy0), (qx0, qy0), axes[:2, :3], measured.valid)
    figures.show_sigma(measured.sigma_qx0, measured.sigma_qy0, measured.valid, axes[:2, 3])
    figures.show_pattern(still.mean, axes[2, 0], "mean pattern, as recorded", 0.25)
    ellipse = figures.stored_ellipse(datacube.calibration)
    vector = np.zeros(2) if ellipse is None else ellipse_vector(*ellipse)
    size = float(radius) if np.isfinite(radius) else 0.05 * min(datacube.Qshape)
    ring = figures.ring_radius(pooled.mean, pooled.center, size, pooled.weight, vector)
    if ellipse is None:
        figures.show_pattern(pooled.mean, axes[2, 1], "recentered; no ellipse is set", 0.25)
    else:
        figures.show_ellipse(pooled.mean, pooled.center, ellipse, ring or size, axes[2, 1],
                     f"recentered; a/b {ellipse[0] / ellipse[1]:.4f}")
    figures.show_straightened(pooled.mean, pooled.center, vector, axes[2, 2:], pooled.weight, ring, 1.3 * size)
    return axes
