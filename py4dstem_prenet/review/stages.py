"""Flags of each stage in the review of a calibrated scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core import (
    CENTERS,
    TUKEY_CUT,
    Ellipse,
    EllipseCheck,
    Flag,
    ModelTrial,
    NoiseModel,
    OriginCheck,
    OriginMap,
    ResidualTest,
    check_residuals,
    ellipse_vector,
    missing_beam,
)
from ..descan import MODELS, fit_origin, residual_flags
from ..ellipse import compare_ellipses, given_ellipse
from ..io import STANDARD
from ..transfer import MAX_STRAIN_ELLIPSE

MAX_GOOD_SIGMA_PX = 0.5  # pixels, typical sigma of a position, above which the measured maps are poor
# Rms distance of the origin in the calibration from the best fit: 0.1 % and 0.5 % of the distance of a Bragg disk at
# 50 px.
MIN_ORIGIN_SHIFT_PX = 0.05  # pixels; smallest shift that is flagged
LARGE_ORIGIN_SHIFT_PX = 0.25  # pixels; smallest shift that is refused
MIN_SPECIMEN_FRACTION = 0.1  # fraction of the residuals' variance, above which virtual images explain them
MIN_ELLIPSE_DIFFERENCE = 0.003  # difference in a/b between calibration and scan, above which a flag is set


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
        Standard error of the fitted origin along each axis, rms over the measured positions, pixels.
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
        Positions without a beam, the center that replaces a hidden beam, and the typical sigma.
    """
    missing = origin.searched - int(origin.valid.sum())
    hidden = origin.feature != "direct beam"
    flags = [] if hidden and not missing else [missing_beam(missing, origin.searched)]
    if hidden:
        flags.append(Flag("beam_hidden" if origin.feature == "rings" else "other_center",
                          {"feature": CENTERS.get(origin.feature, origin.feature)}))
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
    test = check_residuals(residual, sigma, origin.valid, sigma_known, used,
                           best.taken)
    moved = float(np.sqrt(np.mean(((used - (best.qx0, best.qy0)) ** 2).sum(0))))
    uncertainty = best.decision.numbers["uncertainty"]
    reach = TUKEY_CUT * test.scatter
    clipped = np.clip(residual, -reach, reach)
    specimen = np.nan if images is None else _explained_fraction(clipped, origin.valid, images)
    numbers = {"moved": moved, "model": best.model}
    flags = [flag for flag in best.flags
             if not flag.name.startswith("residuals_") and flag.name not in ("few_positions", "position_in_pixel")]
    if fitted is None:
        flags.insert(0, Flag("fit_not_accepted"))
    elif moved > max(MIN_ORIGIN_SHIFT_PX, 3 * np.sqrt(2) * uncertainty):
        flags.insert(0, Flag("origin_far_off" if moved > LARGE_ORIGIN_SHIFT_PX else "origin_moved", numbers))
    flags += residual_flags(test)
    if test.correlated and specimen > MIN_SPECIMEN_FRACTION:
        flags.append(Flag("specimen_explains", {"percent": 100 * specimen}))
    # Error by the choice of the model: the largest distance to a more flexible one.
    distances = [t.distance for t in best.trials if t.determined and MODELS.index(t.model) >= MODELS.index(best.model)]
    choice, distance = max(distances, default=0.0), side / 4
    choice = choice / np.sqrt(2)  # along each axis, as the sigmas
    error = max(uncertainty, choice)
    flags.append(Flag("origin_error", {"uncertainty": uncertainty, "choice": choice, "distance": distance,
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
        Author of the stored ellipse (`io.author_of`).
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
        test = compare_ellipses(measured, given_ellipse(stored))
        agrees = test.testable and test.agrees
        flag = Flag("ellipse_agrees", test.numbers) if agrees else Flag("ellipse_unconfirmed", {"author": author})
        return (flag,), () if agrees else details  # that this scan determines no ellipse does not matter then
    difference = float(np.hypot(*np.subtract(measured.vector, ellipse_vector(*stored))))
    if difference > max(3 * measured.sigma, MIN_ELLIPSE_DIFFERENCE):
        numbers = {"difference": difference, "sigmas": difference / measured.sigma}
        if author == STANDARD and "rings" not in measured.sources:  # the aperture may not be round
            return (Flag("beam_shape_differs", numbers),), details
        if author == STANDARD and difference <= MAX_STRAIN_ELLIPSE:
            return (Flag("standard_differs", numbers),), details
        return (Flag("ellipse_differs", {"author": author, **numbers}),), details
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
        Name of the quantity.
    numbers : dict
        Result of `held_quantities` for it.
    measured : PixelSize or Rotation, optional
        The result, if it was measured in this scan.

    Returns
    -------
    tuple of Flag
        Its origin (measured, carried over, or set by hand), and the flags of the measurement.

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
    carried = numbers["author"] == STANDARD
    if name == "pixel_size":
        return (Flag("pixel_size_from_standard" if carried else "pixel_size_untested", numbers),)
    return (Flag("rotation_from_standard" if carried else "rotation_untested", numbers),)
