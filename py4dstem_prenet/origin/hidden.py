"""Origin of a scan whose direct beam is hidden behind a stop: from rings, from inversion symmetry, or refused.

The stop's shadow is found first (`find_stop`) and left out. The center of rings is used where there are rings. The
inversion symmetry of the mean pattern is used where the coarse network knows the position well enough to tell the
right center of inversion from others.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..core import Decision, Flag, NoiseModel, OriginMap, Scan
from ..fits import inversion_center
from . import FirstGuess, block_sums, find_stop, no_origin, origin_from_rings

MIN_BEAM_PROBABILITY = 0.6  # posterior probability of the direct beam's place, below which it is not used
SYMMETRY_BLOCKS = 1  # blocks along each side of the scan: one center for the whole scan
REACH_SIGMAS = 3.0  # standard errors of the first guess within which the center of inversion is searched
MAX_REACH_FRACTION = 0.08  # of the frame, largest such distance
MIN_REACH_PX = 3.0  # pixels, smallest such distance


def is_hidden(scan: Scan, noise: NoiseModel, first: FirstGuess) -> bool:
    """Decide whether the direct beam is hidden: by a stop, by bad pixels, or beyond the margin of the detector.

    Parameters
    ----------
    scan : Scan
        The scan, or a sample of one.
    noise : NoiseModel
        Noise model of the detector.
    first : FirstGuess
        The first guess of the beam.

    Returns
    -------
    bool
        True if the network says so and the pattern shows what hides the beam.
    """
    if first.visible > 0:
        return False
    center = np.median(first.position, axis=0)
    x, y = np.indices(noise.bad_pixels.shape)
    disk = np.hypot(x - center[0], y - center[1]) < max(first.radius, MIN_REACH_PX)
    if not disk.any() or noise.bad_pixels[disk].mean() > 0.5:
        return True
    return _stop(scan, noise, center)[1] is not None


def _stop(scan, noise, center):
    """Mean pattern of a scan in electrons, and the shadow of the stop over a center or None, (Qx, Qy) each."""
    sums, _, _ = block_sums(scan, noise, SYMMETRY_BLOCKS)
    return sums[0], find_stop(sums[0], ~noise.bad_pixels, center)


def hidden_origin(scan: Scan, noise: NoiseModel, first: FirstGuess, reason: Flag) -> OriginMap:
    """Measure the origin of a scan whose direct beam is hidden.

    Parameters
    ----------
    scan : Scan
        The scan, or a sample of one.
    noise : NoiseModel
        Noise model of the detector.
    first : FirstGuess
        The first guess of the beam.
    reason : Flag
        The reason why the direct beam is not used, for a refusal.

    Returns
    -------
    OriginMap
        The origin, with `feature` "rings" or "center of inversion"; not found if the patterns do not determine it.
    """
    guess = np.median(first.position, axis=0)
    mean, stop = _stop(scan, noise, guess)
    masked = noise if stop is None else replace(noise, bad_pixels=noise.bad_pixels | stop)
    found = () if stop is None else (Flag("stop_found", {"pixels": int(stop.sum())}),)
    rings = origin_from_rings(scan, masked, reason)
    if rings.found:
        return replace(rings, decision=Decision(True, (*rings.decision.flags, *found)), stop=stop)
    limit = MAX_REACH_FRACTION * max(mean.shape)
    reach = min(max(REACH_SIGMAS * first.sigma, MIN_REACH_PX), limit)
    known = first.probability > MIN_BEAM_PROBABILITY
    inversion = inversion_center(mean, ~masked.bad_pixels, guess, reach, noise.readout / noise.gain)
    numbers = {"qx0": float(guess[0]), "qy0": float(guess[1]), "sigma": float(first.sigma)}
    if not (known and inversion.accepted):
        return no_origin(scan.scan_shape, *rings.decision.flags, *found, Flag("hidden_undetermined", numbers))
    position = np.broadcast_to(inversion.center[:, None, None], (2, *scan.scan_shape)).copy()
    sigma = np.full((2, *scan.scan_shape), inversion.sigma)
    flags = (Flag("inversion_used", {"symmetry": inversion.symmetry}), *found)
    return OriginMap(*position, *sigma, np.ones(scan.scan_shape, bool), float("nan"), Decision(True, flags),
                     "center of inversion", stop)
