"""The first paragraph of a report: results, their uncertainty, the next step, and cautions.

It consists of flags of the stage "summary", which are derived from numbers and from the flags of the other stages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from . import REFUSAL, WARNING, Flag, has_flag

ROUND_SIGMAS = 3.0  # standard errors; a/b - 1 must be smaller for patterns to be called round
# Names of the center of a feature, where they differ from that of the feature (`OriginMap.feature`):
CENTERS = {"rings": "center of the rings", "diffuse scattering": "center of the diffuse scattering"}
MAX_CAUTIONS = 4  # number; largest of cautions in a summary
# Stages whose refusals leave the rest of the calibration valid:
OPTIONAL_STAGES = ("ellipse", "pixel_size", "rotation", "probe", "transfer", "denoising")


def conclude(found: Mapping, flags: Iterable[Flag], refusals: int | None = None) -> tuple[Flag, ...]:
    """Conclude from the results of a calibration.

    Parameters
    ----------
    found : mapping
        "origin": feature, count, total, qx0, qy0, sigma, high (`OriginMap.high_sigma`); "descan": model, span_x,
        span_y, sigma; "ellipse": ratio, sigma, degrees, degrees_sigma; "pixel_size": value, sigma, unit, corrected;
        "rotation": degrees, sigma, flip; "disks": name of the Bragg vectors in the cube. Each is a dict, or missing if
        it is not known. Sigmas are standard deviations along one axis, px; NaN if they are not known.
    flags : iterable of Flag
        The flags of all stages.
    refusals : int, optional
        Number of refusals that forbid using the calibration; by default, all but those of OPTIONAL_STAGES.

    Returns
    -------
    tuple of Flag
        Results, the next step (warnings to read first, the step, bad pixels) and at most MAX_CAUTIONS cautions.

    Examples
    --------
    >>> origin = {"feature": "direct beam", "count": 9, "total": 9, "qx0": 31.0, "qy0": 30.0, "sigma": 0.05}
    >>> descan = {"model": "plane", "span_x": 1.0, "span_y": 0.5, "sigma": 0.02}
    >>> [flag.name for flag in conclude({"origin": origin, "descan": descan}, ())]
    ['summary_origin', 'summary_descan', 'summary_no_ellipse', 'next_use', 'avoid_lengths', 'avoid_directions',
     'avoid_frame']
    """
    flags = tuple(flags)
    if "origin" not in found:
        return (Flag("summary_no_origin"), Flag("next_refusals", {"count": _count(flags, REFUSAL)}))
    single = found["origin"]["total"] == 1
    statements = [_origin(found["origin"]), *(() if single else (_descan(found),)), _ellipse(found.get("ellipse"))]
    for name, sure, unsure in (("pixel_size", "summary_pixel_size", "summary_pixel_size_unsure"),
                               ("rotation", "summary_rotation", "summary_rotation_unsure")):
        if name in found:
            statements.append(Flag(sure if np.isfinite(found[name]["sigma"]) else unsure, found[name]))
            if found[name].get("corrected"):
                statements.append(Flag("summary_pixel_size_corrected"))
    return (*statements, *_next(found, flags, refusals), *_cautions(found, flags)[:MAX_CAUTIONS])


def paragraphs(flags: Iterable[Flag]) -> list[list[Flag]]:
    """Divide the flags of a summary into its paragraphs.

    Parameters
    ----------
    flags : iterable of Flag
        What `conclude` returned.

    Returns
    -------
    list of list of Flag
        Results, next steps and cautions; paragraphs without a flag are left out.

    Examples
    --------
    >>> [[flag.name for flag in part] for part in paragraphs(conclude({}, ()))]
    [['summary_no_origin'], ['next_refusals']]
    """
    flags = tuple(flags)
    kinds = [[flag for flag in flags if flag.name.startswith(kind)] for kind in ("summary_", "next_", "avoid_")]
    return [part for part in kinds if part]


def _origin(numbers):
    known = np.isfinite(numbers["sigma"])
    if numbers["total"] == 1:
        return Flag("summary_single" if known else "summary_single_unsure", numbers)
    return Flag("summary_origin" if known else "summary_origin_unsure", numbers)


def _descan(found):
    if "descan" not in found:
        return Flag("summary_no_descan")
    numbers = found["descan"]
    if numbers["model"] == "constant" and np.isfinite(numbers["sigma"]):
        return Flag("summary_constant", numbers)
    return Flag("summary_descan" if np.isfinite(numbers["sigma"]) else "summary_descan_unsure", numbers)


def _ellipse(numbers):
    if numbers is None:
        return Flag("summary_no_ellipse")
    if not np.isfinite(numbers["sigma"]):
        return Flag("summary_ellipse_unsure", numbers)
    if numbers["ratio"] - 1 < ROUND_SIGMAS * numbers["sigma"] or not np.isfinite(numbers["degrees_sigma"]):
        return Flag("summary_round", numbers)
    return Flag("summary_ellipse", numbers)


def _next(found, flags, serious):
    """Return the flags that state the next step."""
    if serious is None:
        serious = sum(flag.severity == REFUSAL and flag.kind.stage not in OPTIONAL_STAGES for flag in flags)
    marked = _count(flags, WARNING) + _count(flags, REFUSAL)
    if serious or "descan" not in found:
        return (Flag("next_refusals", {"count": max(serious, 1)}),)
    first = (Flag("next_read", {"count": marked}),) if marked else ()
    if found["origin"]["total"] == 1:
        return (*first, Flag("next_single"))
    if found["origin"]["feature"] == CENTERS["rings"]:  # of a powder or a glass, which have no Bragg disks to find
        return (*first, Flag("next_rings"))
    bad = next((flag.numbers["count"] for flag in flags if flag.name == "bad_pixels"), 0)
    use = Flag("next_map", found["disks"]) if "disks" in found else Flag("next_use")
    return (*first, use, *((Flag("next_repair", {"count": bad}),) if bad else ()))


def _cautions(found, flags):
    """Return the cautions, the most important first."""
    cautions = []
    if found["origin"]["feature"] != "direct beam":
        cautions.append(Flag("avoid_direct_beam", {"feature": found["origin"]["feature"]}))
    if elsewhere := next((flag for flag in flags if flag.name == "center_elsewhere"), None):
        cautions.append(Flag("avoid_center", elsewhere.numbers))
    if has_flag(flags, "denoising_harmful", "denoising_attenuates", "denoising_exaggerates", "denoising_no_effect"):
        cautions.append(Flag("avoid_denoised"))
    if has_flag(flags, "attenuation_unknown", "attenuation_undetermined", "not_checked"):
        cautions.append(Flag("avoid_denoised_unknown"))
    if "descan" in found and has_flag(flags, "residuals_correlated", "specimen_explains"):
        cautions.append(Flag("avoid_richer_model"))
    if "pixel_size" not in found:
        refused = any(flag.kind.stage == "pixel_size" and flag.severity == REFUSAL for flag in flags)
        cautions.append(Flag("avoid_lengths_refused" if refused else "avoid_lengths"))
    if "ellipse" not in found:
        cautions.append(Flag("avoid_directions"))
    if "rotation" not in found and "descan" in found and found["origin"]["feature"] == "direct beam":
        cautions.append(Flag("avoid_frame"))
    if has_flag(flags, "rotation_half_turn_open"):
        cautions.append(Flag("avoid_sign"))
    return cautions


def _count(flags, severity):
    return sum(flag.severity == severity and flag.kind.stage != "denoising" for flag in flags)
