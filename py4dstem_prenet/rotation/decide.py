"""Decision on the rotation: accept or refuse each estimate, combine them, and resolve the ambiguity of 180 degrees.

There are two estimates: from the center of mass, whose curl vanishes, and from the shadow image of a defocused probe.
Both leave 180 degrees undetermined. The sign of the deflection resolves this ambiguity: a thin specimen deflects
electrons toward its atoms, which are bright in the dark field.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core import Decision, Flag, Rotation
from . import Alignment, ShadowShift

# Error rates are those of the null hypotheses; the limits were set on simulated scans (benchmarks/rotation.py).
# Nominal probability; largest for which a field is related to the scan: one of 1,000 fields of noise on 24 x 24 to
# 64 x 64 positions is below it.
MAX_PROBABILITY = 4e-4
MAX_OTHER_FLIP = 0.8  # ratio; largest strength of the rejected flip relative to the chosen one
MIN_FLIP_SIGMAS = 3.1  # standard errors over regions; smallest difference of the two: wrong flip in one of 1,000 scans
MAX_CURL = 0.3  # fraction of the power; largest power of the curl of a gradient field
MAX_ROTATION_SIGMA = 0.5  # degrees; largest standard error of an accepted rotation
SCATTER_INFLATION = 1.2  # factor on the standard error from the center of mass, since regions and sectors are few
MIN_ROTATION_SIGMA = 0.1  # degrees; smallest standard error, for errors that the scatter over a scan does not include
MIN_SHADOW_STEP_PX = 0.5  # pixels per scan step; smallest shift of a shadow image: below it, the contrast is static
# Ratio; largest part of the shift's matrix of the rejected flip, due to astigmatism, relative to the chosen one.
MAX_SHADOW_OTHER_FLIP = 0.25
MIN_MOTION_SIGMAS = 5.0  # standard errors; smallest value of the larger part, and of the difference of both parts
ONE_IN_10_000_SIGMAS = 3.9  # standard errors; exceeded by chance in one of 10,000 scans
MIN_SIGN_AGREEMENT = 0.9  # smallest agreement of the sectors of directions on the sign of the correlation
CENTER_OF_MASS, SHADOW = "center of mass", "shadow image"


@dataclass(frozen=True)
class Estimate:
    """One estimate of the rotation, with an ambiguity of 180 degrees.

    Attributes
    ----------
    degrees : float
        Angle in (-90, 90].
    flip : bool
        Flip.
    sigma : float
        Standard error, degrees.
    refusal : Flag or None
        Reason why the estimate is not used; None if it is used.
    """

    degrees: float
    flip: bool
    sigma: float
    refusal: Flag | None = None


def from_alignment(alignment: Alignment) -> Estimate:
    """Accept or refuse the estimate from the center of mass.

    Parameters
    ----------
    alignment : Alignment
        Result of `align`.

    Returns
    -------
    Estimate
        The estimate, with a refusal unless the field is related to the scan, the flip is determined, the field is a
        gradient, and the standard error is small.
    """
    flip = alignment.flip
    degrees, sigma = (float(np.degrees(values[int(flip)])) for values in (alignment.angle, alignment.sigma))
    sigma = float(np.hypot(SCATTER_INFLATION * sigma, MIN_ROTATION_SIGMA))
    best, rejected = alignment.strength[int(flip)], alignment.strength[1 - int(flip)]
    refusal = None
    if alignment.probability > MAX_PROBABILITY:
        refusal = Flag("rotation_no_field", {"probability": alignment.probability})
    elif rejected > MAX_OTHER_FLIP * best or alignment.flip_sigmas < MIN_FLIP_SIGMAS:
        refusal = Flag("rotation_flip_open", {"ratio": rejected / best, "sigmas": alignment.flip_sigmas})
    elif alignment.curl > MAX_CURL:
        refusal = Flag("rotation_curl", {"curl": alignment.curl, "allowed": MAX_CURL})
    elif not sigma <= MAX_ROTATION_SIGMA:
        refusal = Flag("rotation_uncertain", {"sigma": sigma, "needed": MAX_ROTATION_SIGMA})
    return Estimate(degrees, flip, sigma, refusal)


def from_shadow(shadow: ShadowShift | None) -> Estimate | None:
    """Accept or refuse the estimate from the shadow image.

    Parameters
    ----------
    shadow : ShadowShift or None
        Result of `measure_shadow`.

    Returns
    -------
    Estimate or None
        The estimate; None if no shadow image moves.

    Examples
    --------
    >>> shift = ShadowShift(np.array([[0.0, 2.0], [-2.0, 0.0]]), 1e-6 * np.eye(4), 20.0)
    >>> found = from_shadow(shift)
    >>> found.degrees, found.flip, found.refusal
    (90.0, False, None)
    """
    if shadow is None:
        return None
    (a, b), (c, d) = shadow.matrix
    turned = np.array([[1, 0, 0, 1], [0, -1, 1, 0]]) / 2  # cosine and sine from the elements in C order
    mirrored = np.array([[-1, 0, 0, 1], [0, 1, 1, 0]]) / 2  # sine and cosine from the elements in C order
    parts = [p @ np.array([a, b, c, d]) for p in (turned, mirrored)]
    size = [float(np.hypot(*p)) for p in parts]
    sigmas = []
    for p, values, length in zip((turned, mirrored), parts, size, strict=True):
        direction = values / max(length, 1e-12) @ p
        sigmas.append(float(np.sqrt(direction @ shadow.covariance @ direction)))
    flip = bool(size[1] > size[0])
    large, small = size[int(flip)], size[1 - int(flip)]
    error = max(sigmas[0], sigmas[1], 1e-9)
    if large < MIN_SHADOW_STEP_PX or large < MIN_MOTION_SIGMAS * error:
        return None
    x, y = parts[int(flip)] if not flip else parts[1][::-1]
    angle = -np.arctan2(y, x) if not flip else np.arctan2(y, x)
    across = (np.array([-parts[int(flip)][1], parts[int(flip)][0]]) / large) @ (mirrored if flip else turned)
    sigma = float(np.degrees(np.sqrt(across @ shadow.covariance @ across) / large))
    sigma = float(np.hypot(sigma, MIN_ROTATION_SIGMA))
    degrees = float(90 - (90 - np.degrees(angle)) % 180)
    refusal = None
    if small > MAX_SHADOW_OTHER_FLIP * large or large - small < MIN_MOTION_SIGMAS * error:
        refusal = Flag("rotation_flip_open", {"ratio": small / large, "sigmas": (large - small) / error})
    elif not sigma <= MAX_ROTATION_SIGMA:
        refusal = Flag("rotation_uncertain", {"sigma": sigma, "needed": MAX_ROTATION_SIGMA})
    return Estimate(degrees, flip, sigma, refusal)


def half_turn_distance(first: float, second: float) -> float:
    """Compute the difference of two angles modulo 180 degrees.

    Parameters
    ----------
    first, second : float
        Angles, degrees.

    Returns
    -------
    float
        first - second in (-90, 90], degrees.

    Examples
    --------
    >>> half_turn_distance(89.0, -89.0)
    -2.0
    """
    return float(90 - (90 - (first - second)) % 180)


def unknown_rotation(flag: Flag, numbers=None) -> Rotation:
    """Create the `Rotation` of a scan without an estimate.

    Parameters
    ----------
    flag : Flag
        Reason why there is no estimate.
    numbers : dict, optional
        Numbers of the decision.

    Returns
    -------
    Rotation
        A rotation that is not accepted.

    Examples
    --------
    >>> unknown_rotation(Flag("rotation_no_field", {"probability": 1.0})).accepted
    False
    """
    return Rotation(0.0, False, np.inf, False, Decision(False, (flag,), dict(numbers or {})))


def decide_rotation(estimates, sign=None, numbers=None) -> Rotation:
    """Combine the estimates of the rotation, and accept or refuse the result.

    Parameters
    ----------
    estimates : dict
        `Estimate` of each source by its name.
    sign : callable, optional
        Function of the angle in degrees and the flip that returns the correlation of the potential with the dark field
        in standard errors, and the agreement on its sign. None if there is no dark field.
    numbers : dict, optional
        Numbers that are added to the decision.

    Returns
    -------
    Rotation
        The rotation, with the decision.

    Examples
    --------
    >>> found = decide_rotation({"shadow image": Estimate(30.0, True, 0.2)})
    >>> found.accepted, found.degrees, found.flip, found.half_turn_determined
    (True, 30.0, True, False)
    """
    numbers = dict(numbers or {})
    good = {name: e for name, e in estimates.items() if e.refusal is None}
    sources = {name: (e.degrees, e.flip, e.sigma) for name, e in estimates.items()}
    if not good:
        # The refusal of a moving shadow image is more informative than that of the center of mass.
        name = SHADOW if SHADOW in estimates else next(iter(estimates), None)
        if name is None:
            return unknown_rotation(Flag("rotation_no_field", {"probability": 1.0}), numbers)
        e = estimates[name]
        return Rotation(e.degrees, e.flip, e.sigma, False, Decision(False, (e.refusal,), numbers), sources)
    first, *others = good.values()
    weights = [e.sigma**-2 for e in good.values()]
    offsets = [half_turn_distance(e.degrees, first.degrees) for e in good.values()]
    degrees = float(half_turn_distance(first.degrees + np.average(offsets, weights=weights), 0.0))
    sigma = float(max(np.sum(weights) ** -0.5, MIN_ROTATION_SIGMA))
    for e in others:
        difference = abs(half_turn_distance(first.degrees, e.degrees)) / np.hypot(first.sigma, e.sigma)
        if e.flip != first.flip or difference > ONE_IN_10_000_SIGMAS:
            flag = Flag("rotation_sources_disagree", {"degrees": [[round(e.degrees, 2), int(e.flip)]
                                                                  for e in good.values()]})
            return Rotation(degrees, first.flip, sigma, False, Decision(False, (flag,), numbers), sources)
    flip = first.flip
    flags = [Flag("rotation_determined", {"sources": " and ".join(good), "degrees": degrees, "sigma": sigma})]
    resolved = False
    if sign is not None:
        correlation, agreement = sign(degrees, flip)
        numbers |= {"sign_sigmas": correlation, "sign_agreement": agreement}
        resolved = abs(correlation) >= ONE_IN_10_000_SIGMAS and correlation * agreement > 0 and (
            abs(agreement) >= MIN_SIGN_AGREEMENT)
        if resolved and correlation < 0:
            degrees = degrees + 180 if degrees <= 0 else degrees - 180
    if resolved:
        flags = [Flag("rotation_determined", {**flags[0].numbers, "degrees": degrees}),
                 Flag("rotation_sign_from_atoms", {"sigmas": abs(correlation)})]
    else:
        flags.append(Flag("rotation_half_turn_open", {"degrees": degrees}))
    return Rotation(degrees, flip, sigma, resolved, Decision(True, tuple(flags), numbers), sources)
