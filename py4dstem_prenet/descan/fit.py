"""The descan of a scan: a smooth surface, with steps where the beam jumps, or in parts where the descan changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..core import (
    MIN_SIGMA_PX,
    REFUSAL,
    Decision,
    Flag,
    OriginFit,
    OriginMap,
    ResidualTest,
    check_residuals,
)
from .jumps import find_jumps, jump_flags, merged, step_at
from .segments import fit_parts
from .surface import fit_pair

MOST_JUMPS, STEP_ROUNDS = 8, 2  # more jumps than that are no descan with steps


def fit_descan(maps, sigmas, valid, model="auto"):
    """Fit both coordinates of the origin; see `surface.fit_pair`.

    Args:
        maps, sigmas: (2, Rx, Ry) px. valid: (Rx, Ry) bool. model: of the surface, or of that of each part.

    Returns: the two `SurfaceFit`, and flags on jumps and parts.
    """
    maps, sigmas = np.asarray(maps, float), np.asarray(sigmas, float)
    jumps = [find_jumps(values, sigma, valid) for values, sigma in zip(maps, sigmas, strict=True)]
    steps = np.zeros(maps.shape)
    frames = merged([*jumps[0], *jumps[1]], valid.shape[1])
    if 0 < len(frames) <= MOST_JUMPS:
        steps = _steps(maps, sigmas, valid, frames, model)
    fits = [replace(f, values=f.values + step) for f, step in
            zip(fit_pair(*(maps - steps), *sigmas, valid, model), steps, strict=True)]
    flags = [*jump_flags(jumps[0], "qx0"), *jump_flags(jumps[1], "qy0")]
    if len(frames) > MOST_JUMPS:
        flags.append(Flag("too_many_jumps", {"count": len(frames)}))
    parts, frames = fit_parts(maps, sigmas, valid, np.stack([f.values for f in fits]), model)
    if parts is None:
        return *fits, flags
    places = ", ".join(f"row {f // valid.shape[1]}, column {f % valid.shape[1]}" for f in frames)
    return *parts, [Flag("segments", {"places": places, "count": len(frames) + 1})]


def _steps(maps, sigmas, valid, frames, model):
    """What jumps at `frames` add to a smooth surface, (2, Rx, Ry) pixels, zero before the first."""
    segment = np.searchsorted(frames, np.arange(valid.size), side="right").reshape(valid.shape)
    sizes = [[0.0, *(step_at(values, sigma, valid, f) for f in frames)]
             for values, sigma in zip(maps, sigmas, strict=True)]
    steps = np.cumsum(sizes, 1)[:, segment]
    for _ in range(STEP_ROUNDS):
        left = maps - [s.values for s in fit_pair(*(maps - steps), *sigmas, valid, model)]
        for k in range(1, segment.max() + 1):
            here = (segment == k) & valid
            if here.any():
                steps[:, segment == k] = np.median(left[:, here], 1)[:, None]
    return steps


def fit_origin(origin: OriginMap, model: str = "auto") -> OriginFit:
    """Fit a smooth surface (constant, plane, parabola or spline) to measured origins.

    Weighted by their sigmas, robust against disks taken for the direct beam, and chosen by held-out residuals
    unless `model` names one. It steps where the beam jumps, and where the descan itself changes, as in joined scans,
    each part has a surface of its own (`descan.py`); `model` is then that of the richest part. Raises
    PrenetError for an unknown model.
    """
    maps, sigmas = (origin.qx0, origin.qy0), (origin.sigma_qx0, origin.sigma_qy0)
    x, y, flags = fit_descan(maps, sigmas, origin.valid, model)
    test = check_residuals([x.residual, y.residual], sigmas, origin.valid, not origin.decision.has("sigma_unknown"))
    sigmas = [np.hypot(surface.sigma, MIN_SIGMA_PX) for surface in (x, y)]  # errors that positions have in common
    uncertainty = float(np.sqrt(np.mean(sigmas[0] ** 2 + sigmas[1] ** 2)))
    numbers = {"scatter": test.scatter, "scale": test.scale, "shared": test.shared, "shared_sigmas": test.shared_sigmas,
               "outliers": test.outliers, "uncertainty": uncertainty}
    accepted = x.accepted and y.accepted
    surface_flags = _merged_flags(x.decision.flags, y.decision.flags)
    flags = [*(f for f in surface_flags if f.severity == REFUSAL), *(residual_flags(test) if accepted else ()), *flags,
             *(f for f in surface_flags if f.severity != REFUSAL)]
    return OriginFit(x.values, y.values, x.residual, y.residual, *sigmas, x.model,
                     Decision(accepted, tuple(flags), numbers), x.trials)


def residual_flags(test: ResidualTest) -> tuple[Flag, ...]:
    """What a test of residuals says, as flags."""
    if not test.testable:
        return (Flag("few_positions", {"count": test.count}),) if test.count > 1 else ()
    if test.correlated:
        return (Flag("residuals_correlated", {"shared": test.shared, "sigmas": test.shared_sigmas}),)
    if test.large:
        return (Flag("residuals_large", {"scatter": test.scatter, "scale": test.scale}),)
    return (Flag("residuals_white", {"scale": test.scale}),)


def _merged_flags(first, second):
    """The flags of both coordinates, each name once; of outliers the larger part."""
    merged = {flag.name: flag for flag in first}
    for flag in second:
        known = merged.get(flag.name)
        if known is None or flag.numbers.get("percent", 0) > known.numbers.get("percent", 0):
            merged[flag.name] = flag
    return tuple(merged.values())
