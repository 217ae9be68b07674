"""Fit of the descan: a smooth surface, with steps where the beam jumps, or one surface for each segment of the scan.

Jumps of the beam between scan rows are found first and fitted as steps of the surface. If the descan changes during the
scan, as in joined files, each segment has its own surface (`segments.py`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..compute import sharing_cores
from ..core import (
    REFUSAL,
    Decision,
    Flag,
    OriginFit,
    OriginMap,
    ResidualTest,
    check_residuals,
    has_flag,
    robust_sigma,
)
from . import (
    MAX_JUMPS,
    MIN_JUMPING_PX,
    OFF_SIGMAS,
    SIGMA_FLOOR_PX,
    common_sigma,
    find_jumps,
    fit_pair,
    fit_parts,
    jump_flags,
    merged,
    reorder,
    specimen_sigma,
    step_at,
)

# Fraction of the positions; fewest as near to the surface as counting allows if only some positions are wrong. If all
# positions jump at random, fewer lie near to it.
MIN_CORE = 0.2
MAX_LEFT_SCATTER = 0.7  # ratio of the scatter about the best and the requested model; below, the latter is too simple
# Radii, 1 sigma along one axis; error of the center of a disk that is not resolved, which is its center of mass and
# therefore shifts with a slope of its brightness. It corresponds to slopes of 9 % per radius (1 sigma), as in the
# simulated crystals of simulation/world.py. Pixels; largest radius of such a disk.
CONTRAST_ERROR_RADII, UNRESOLVED_RADIUS_PX = 0.022, 1.7


@sharing_cores
def fit_descan(maps, sigmas, valid, model="auto"):
    """Fit the descan to maps of the origin.

    Parameters
    ----------
    maps : array_like, shape (2, Rx, Ry)
        Coordinates qx and qy of the origin in pixels.
    sigmas : array_like, shape (2, Rx, Ry)
        Standard errors of the coordinates in pixels.
    valid : numpy.ndarray of bool, shape (Rx, Ry)
        True where a position is used.
    model : str, optional
        Model of the surface, or of the surface of each segment: "constant", "plane", "parabola", "spline", or "auto" to
        choose it by held-out residuals.

    Returns
    -------
    x, y : SurfaceFit
        Fits of the two coordinates.
    flags : list of Flag
        Flags on jumps, segments and the order of acquisition.

    Raises
    ------
    PrenetError
        If the model is unknown.
    """
    maps, sigmas = np.asarray(maps, float), np.asarray(sigmas, float)
    jumps = [find_jumps(values, sigma, valid) for values, sigma in zip(maps, sigmas, strict=True)]
    steps = np.zeros(maps.shape)
    frames = merged([*jumps[0], *jumps[1]], valid.shape[1])
    if 0 < len(frames) <= MAX_JUMPS:
        steps = _steps(maps, sigmas, valid, frames, model)
    fits = [replace(f, values=f.values + step) for f, step in
            zip(fit_pair(*(maps - steps), *sigmas, valid, model), steps, strict=True)]
    flags = [*jump_flags(jumps[0], "qx0"), *jump_flags(jumps[1], "qy0")]
    if len(frames) > MAX_JUMPS:
        flags.append(Flag("too_many_jumps", {"count": len(frames)}))
    segments, frames = fit_parts(maps, sigmas, valid, np.stack([f.values for f in fits]), model)
    reordered, flag = reorder(maps, sigmas, valid, fits if segments is None else segments, model)
    if reordered is not None:
        return *reordered, [flag] if flag else []
    if segments is None:
        return *fits, flags
    places = ", ".join(f"row {f // valid.shape[1]}, column {f % valid.shape[1]}" for f in frames)
    return *segments, [Flag("segments", {"places": places, "count": len(frames) + 1})]


def _steps(maps, sigmas, valid, frames, model):
    """Fit the steps (2, Rx, Ry) in pixels that jumps at `frames` add to a smooth surface; zero before the first."""
    segment = np.searchsorted(frames, np.arange(valid.size), side="right").reshape(valid.shape)
    sizes = [[0.0, *(step_at(values, sigma, valid, f) for f in frames)]
             for values, sigma in zip(maps, sigmas, strict=True)]
    steps = np.cumsum(sizes, 1)[:, segment]
    for _ in range(2):  # more rounds do not change steps and surface
        remainder = maps - [s.values for s in fit_pair(*(maps - steps), *sigmas, valid, model)]
        for k in range(1, segment.max() + 1):
            members = (segment == k) & valid
            if members.any():
                steps[:, segment == k] = np.median(remainder[:, members], 1)[:, None]
    return steps


def fit_origin(origin: OriginMap, model: str = "auto") -> OriginFit:
    """Fit a smooth surface to measured origins.

    The fit is weighted by the sigmas of the positions and robust against disks mistaken for the direct beam. Its model
    is chosen by held-out residuals. The surface has steps where the beam jumps. If the descan changes during the scan,
    as in joined files, each segment has its own surface.

    Parameters
    ----------
    origin : OriginMap
        The measured origin.
    model : str, optional
        "constant", "plane", "parabola", "spline", or "auto" to choose it by held-out residuals.

    Returns
    -------
    OriginFit
        The fitted origin, its residuals and uncertainty, and the decision. If the scan was fitted in segments,
        `model` is the most flexible one of them.

    Raises
    ------
    PrenetError
        If the model is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.core import Decision, OriginMap
    >>> from py4dstem_prenet.descan import fit_origin
    >>> rows, columns = np.indices((12, 12))
    >>> noise = 0.05 * np.random.default_rng(0).normal(size=(2, 12, 12))
    >>> sigma, valid = np.full((12, 12), 0.05), np.ones((12, 12), bool)
    >>> measured = 60 + 0.1 * rows + noise[0], 62 - 0.2 * columns + noise[1]
    >>> fit = fit_origin(OriginMap(*measured, sigma, sigma, valid, 6.0, Decision(True)))
    >>> fit.model, bool(np.abs(fit.qx0 - (60 + 0.1 * rows)).max() < 0.05)
    ('plane', True)
    """
    maps, sigmas = (origin.qx0, origin.qy0), (origin.sigma_qx0, origin.sigma_qy0)
    valid = origin.valid if origin.copied is None else origin.valid & ~origin.copied
    x, y, flags = fit_descan(maps, sigmas, valid, model)
    if origin.copied is not None:
        x, y = (_with_copies(surface, measured, origin.copied) for surface, measured in zip((x, y), maps, strict=True))
    taken = np.asarray(x.taken) + y.taken
    test = check_residuals([x.residual, y.residual], sigmas, valid, not origin.decision.has("sigma_unknown"),
                           [x.values, y.values], taken)
    # Add the errors that all positions share.
    common = common_sigma([x.residual, y.residual], sigmas, valid, origin.decision.numbers.get("common", 0.0),
                          x.model)
    shared = max((flag.numbers["sigma"] for flag in origin.flags
                  if flag.name in ("beam_cut", "disk_clipped", "afterglow")), default=0.0)
    if origin.radius < UNRESOLVED_RADIUS_PX:
        common = float(np.hypot(common, CONTRAST_ERROR_RADII * origin.radius))
    if test.oscillating:  # the beam moves, and the surface does not follow
        common = float(np.hypot(common, test.shared))
    common = float(np.hypot(common, test.phase))  # the surface is the mean over the positions within a pixel
    # The order of the frames and jumps explain what depends on row and column together.
    follows = 0.0 if flags or x.model != "spline" or not valid.any() else specimen_sigma(
        [x.values, y.values], [x.sigma, y.sigma], valid)
    sigmas = [np.sqrt(surface.sigma**2 + shared**2 + common**2) for surface in (x, y)]
    if follows > np.sqrt(np.mean(np.square([x.sigma, y.sigma]))):
        flags = [Flag("fit_follows_specimen", {"shared": follows})]
    common = float(np.hypot(common, follows))
    sigmas = [np.hypot(sigma, follows) for sigma in sigmas]
    uncertainty = _rms(np.stack(sigmas)[:, origin.valid])
    numbers = {"scatter": test.scatter, "scale": test.scale, "shared": test.shared, "shared_sigmas": test.shared_sigmas,
               "outliers": test.outliers, "common": common, "uncertainty": uncertainty}
    scattered = _scattered(origin, np.hypot(x.residual, y.residual))
    if scattered is not None and not has_flag(x.decision.flags, "order_unknown", "beam_jumps"):
        x, y = (replace(surface, decision=Decision(False, (scattered,))) for surface in (x, y))
    accepted = x.accepted and y.accepted
    if not accepted:  # the residuals are errors of the surface
        sigmas = [np.hypot(sigma, _rms(surface.residual[valid])) for sigma, surface in zip(sigmas, (x, y), strict=True)]
    measured_each = origin.feature == "direct beam"  # maps of other features are smooth by construction
    surface_flags = [flag for flag in _merged_flags(x.decision.flags, y.decision.flags)
                     if measured_each or flag.name != "outliers"]
    of_residuals = residual_flags(test) if accepted and measured_each else ()
    if model != "auto" and test.correlated:
        of_residuals = _too_simple(maps, (origin.sigma_qx0, origin.sigma_qy0), origin.valid, x.model,
                                   test.scatter) or of_residuals
    flags = [*(f for f in surface_flags if f.severity == REFUSAL), *of_residuals, *flags,
             *(f for f in surface_flags if f.severity != REFUSAL)]
    residuals = (np.where(origin.valid, surface.residual, np.nan) for surface in (x, y))
    return OriginFit(x.values, y.values, *residuals, *sigmas, x.model,
                     Decision(accepted, tuple(flags), numbers), x.trials, tuple(taken))


def _with_copies(surface, measured, copied):
    """Assign to copied frames the value and sigma of the surface at the frame that they repeat."""
    source = np.arange(copied.size)
    source = np.maximum.accumulate(np.where(copied.ravel(), 0, source)).reshape(copied.shape)
    values, sigma = (a.ravel()[source] for a in (surface.values, surface.sigma))
    return replace(surface, values=values, sigma=sigma, residual=np.where(copied, measured - values, surface.residual))


def _rms(values):
    values = values[np.isfinite(values)]
    return float(np.sqrt(np.mean(values**2))) if values.size else 0.0


def _scattered(origin, distance):
    """Flag positions that jump by pixels at random; None if they do not, or if only some of them are wrong."""
    numbers = origin.decision.numbers
    if "jump_scatter" in numbers:  # the positions are known to be those of the direct beam
        scatter = numbers["jump_scatter"]
        return Flag("positions_jump", {"scatter": scatter, "ratio": scatter / max(numbers["counting"], SIGMA_FLOOR_PX)})
    flag = next((flag for flag in origin.flags if flag.name == "position_uncertain"), None)
    distance = distance[origin.valid & np.isfinite(distance)]
    if flag is None or not distance.size:
        return None
    scatter, counting = flag.numbers["sigma"], max(flag.numbers["counting"], SIGMA_FLOOR_PX)
    core = np.mean(distance < OFF_SIGMAS * counting)
    if scatter < MIN_JUMPING_PX or core > MIN_CORE:
        return None
    return Flag("positions_scatter", {"scatter": scatter, "ratio": scatter / counting})


def _too_simple(maps, sigmas, valid, model, scatter):
    """Flag a requested model if the automatically chosen model leaves a much smaller scatter; else return ()."""
    x, y, _ = fit_descan(maps, sigmas, valid)
    best_scatter = robust_sigma(np.stack([x.residual, y.residual])[:, valid])
    if not best_scatter < MAX_LEFT_SCATTER * scatter:
        return ()
    return (Flag("model_too_simple", {"model": model, "better": x.model, "scatter": scatter, "left": best_scatter}),)


def residual_flags(test: ResidualTest) -> tuple[Flag, ...]:
    """Convert a test of residuals to flags.

    Parameters
    ----------
    test : ResidualTest
        Result of the test.

    Returns
    -------
    tuple of Flag
        The result of the test, and whether residuals depend on where the beam lies within a pixel; empty if there is at
        most one residual.
    """
    if test.phase > 0:
        return (*residual_flags(replace(test, phase=0.0)), Flag("position_in_pixel", {"phase": test.phase}))
    if not test.testable:
        return (Flag("few_positions", {"count": test.count}),) if test.count > 1 else ()
    if test.oscillating:
        return (Flag("residuals_oscillate", {"shared": test.shared}),)
    if test.correlated:
        return (Flag("residuals_correlated", {"shared": test.shared, "sigmas": test.shared_sigmas}),)
    if test.large:
        return (Flag("residuals_large", {"scatter": test.scatter, "scale": test.scale}),)
    if not np.isfinite(test.scale):  # positions without stated sigmas
        return (Flag("residuals_uncorrelated"),)
    return (Flag("residuals_white", {"scale": test.scale}),)


def _merged_flags(first, second):
    """Merge the flags of both coordinates so that each name occurs once, with the larger percentage or sigma."""
    flags = {flag.name: flag for flag in first}
    for flag in second:
        previous = flags.get(flag.name)
        if previous is None or _size(flag) > _size(previous):
            flags[flag.name] = flag
    return tuple(flags.values())


def _size(flag):
    """Percentage or sigma of a flag; 0 without both."""
    return flag.numbers.get("percent", flag.numbers.get("sigma", 0))
