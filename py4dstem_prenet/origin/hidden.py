"""Origin of a scan whose direct beam is hidden or ambiguous: from rings, from inversion symmetry, or refused.

The coarse network proposes places for the direct beam, with probabilities. Where several are likely, the inversion
symmetry of the mean pattern about each is the second evidence (`resolved`). The shadow of a stop is found (`find_stop`)
and left out. A hidden direct beam is replaced by the center of rings where there are rings, otherwise by the center of
inversion or by that of the diffuse scattering (`hidden_origin`). Beside a stop, the tails of the direct beam may look
like a disk; there the center of the diffuse scattering decides (`check_shaded`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..core import Decision, Flag, NoiseModel, OriginMap, Scan, jackknife_covariance
from ..fits import HaloCenter, halo_center, halo_place, inversion_center
from . import FirstGuess, block_sums, find_stop, no_origin, origin_from_rings

# Set on real patterns (benchmarks/real.py): right places have 0.65 (one) or more, wrong ones 0.36 or less.
MIN_BEAM_PROBABILITY = 0.65  # posterior probability of the direct beam's place, below which it is not used
# Chosen, not measured:
CERTAIN_PROBABILITY = 0.95  # above it, the symmetry is not consulted: in tilted thick crystals it may mislead
DESCAN_ERROR_FRACTION = 0.25  # of the range of the first guess: standard error of a position, behind a stop
REACH_FRACTION = 0.045  # of the frame: distance of the center of inversion from a place that the network proposes
MIN_REACH_PX = 3.0  # pixels, smallest such distance
MIN_MASKED_FRACTION = 0.9  # of the pixels within MIN_REACH_PX of a hidden beam are bad; a disk that is cut shows more
MIN_SHADOWED_FRACTION = 0.5  # of these pixels are bad or in the shadow of a stop
HELD_MARGIN_PX = 2  # pixels from the margin of the frame, at which a stop that is held from outside ends
SAME_CENTER_PX = 3.0  # pixels between the centers of two trials that are the same
MIN_SYMMETRY_ERROR = 0.05  # smallest standard error of a difference of symmetries: intensities of Friedel pairs differ
ARM_DISTANCE, MAX_ARM_COVER = (0.05, 0.1), 0.4  # of the frame, from the center; of the azimuth that a stop covers there
# Distance of two centers that contradict each other: standard errors, and pixels, since diffuse scattering is not quite
# symmetric. These and the limits of the arm were chosen on the pictures 1000 to 1169 of benchmarks/selected_area.py.
MAX_CONTRADICTION_SIGMAS, MIN_CONTRADICTION_PX = 4.0, 2.0
MAX_SHORT_SIGMAS = 2.0  # standard errors that count: errors of the symmetry are not Gaussian


def resolved(scan: Scan, noise: NoiseModel, first: FirstGuess) -> FirstGuess:
    """Choose between the places that the network proposes, by the inversion symmetry about each.

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
    FirstGuess
        The guess with new probabilities, at the most probable place; unchanged if the network is certain.

    Notes
    -----
    The network's probability of a place is multiplied by the likelihood of the symmetry about it: by how many standard
    errors it falls short of the largest one.
    """
    if first.probability > CERTAIN_PROBABILITY:
        return first
    (mean, readout), good = _sum(scan, noise), ~noise.bad_pixels
    stops = [find_stop(mean, good, place[:2]) for place in first.places]
    clear = good & ~np.any([stop for stop in stops if stop is not None] or [~good], axis=0)
    trials = [_inversion(mean, clear, place[:2], readout) for place in first.places]
    best = max(trials, key=lambda trial: trial.symmetry)
    if not best.accepted:
        return first
    likelihood = np.empty(len(trials))
    for k, trial in enumerate(trials):
        error = jackknife_covariance((best.parts - trial.parts)[:, None])[0, 0] ** 0.5
        short = (best.symmetry - trial.symmetry) / max(error, MIN_SYMMETRY_ERROR)
        likelihood[k] = np.exp(-0.5 * min(short, MAX_SHORT_SIGMAS) ** 2)
    # Trials from neighboring places may end at the same center, which gets the probability of all of them.
    same = np.array([[np.hypot(*(a.center - b.center)) < SAME_CENTER_PX for a in trials] for b in trials])
    alone = same.argmax(1) == np.arange(len(trials))
    weight = (same @ first.places[:, 2]) * (same * likelihood).max(1) * alone
    left = max(1 - first.places[:, 2].sum(), 0.0)  # places that the network excludes, and the case without a beam
    probability = weight / (weight.sum() + left * np.exp(-0.5 * MAX_SHORT_SIGMAS**2))
    chosen = int(probability.argmax())
    places = np.column_stack([[trial.center for trial in trials], probability])[np.argsort(-probability)]
    visible = first.visible if chosen == 0 else 1.0 if stops[chosen] is None else -1.0
    position = first.position + trials[chosen].center - first.places[0, :2]
    return replace(first, position=position, visible=visible, probability=float(probability[chosen]), places=places)


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
    middle = np.hypot(x - center[0], y - center[1]) < MIN_REACH_PX  # the radius of a hidden disk is not known
    if not middle.any() or noise.bad_pixels[middle].mean() > MIN_MASKED_FRACTION:
        return True
    stop = find_stop(_sum(scan, noise)[0], ~noise.bad_pixels, center)
    return (stop is not None and _is_held(stop | noise.bad_pixels)
            and (stop | noise.bad_pixels)[middle].mean() > MIN_SHADOWED_FRACTION)


def _is_held(stop):
    """Whether a stop reaches the margin of the frame; the hole of a ring, as in precession, does not."""
    rows, columns = np.nonzero(stop)
    return (rows.min() <= HELD_MARGIN_PX or columns.min() <= HELD_MARGIN_PX
            or rows.max() >= stop.shape[0] - 1 - HELD_MARGIN_PX or columns.max() >= stop.shape[1] - 1 - HELD_MARGIN_PX)


def _sum(scan, noise):
    """Sum over an even sample of the scan, (Qx, Qy), and the read-out noise of a pixel of it, in electrons."""
    sums, counts, _ = block_sums(scan, noise, 1)
    return sums[0], noise.readout / noise.gain * counts[0] ** 0.5


def _inversion(mean, good, place, readout):
    """Center of inversion near a place that the network proposes."""
    reach = max(MIN_REACH_PX, REACH_FRACTION * max(mean.shape))
    return inversion_center(mean, good, place, reach, readout)


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
        The origin, with `feature` "rings", "center of inversion" or "diffuse scattering"; not found if the patterns do
        not determine it.
    """
    guess = np.median(first.position, axis=0)
    mean, readout = _sum(scan, noise)
    stop = find_stop(mean, ~noise.bad_pixels, guess)
    masked = noise if stop is None else replace(noise, bad_pixels=noise.bad_pixels | stop)
    found = () if stop is None else (Flag("stop_found", {"pixels": int(stop.sum())}),)
    rings = origin_from_rings(scan, masked, reason)
    if rings.found:
        return replace(rings, decision=Decision(True, (*rings.decision.flags, *found), rings.decision.numbers),
                       stop=stop)
    inversion = _inversion(mean, ~masked.bad_pixels, guess, readout)
    inverted = (reason.name != "beam_ambiguous" and first.probability >= MIN_BEAM_PROBABILITY
                and inversion.accepted)
    # The stop is an outlier about the center, and what its mask leaves may be symmetric about another place.
    place = halo_place(mean, ~noise.bad_pixels, readout, first.places[:, :2])
    halo = None if place is None else halo_center(mean, ~noise.bad_pixels, place, readout)
    halo = halo if halo is not None and halo.accepted else None
    if halo is not None and inverted and _apart(halo, inversion.center, inversion.sigma):
        halo, inverted = None, False  # they contradict each other
    if halo is not None and not (inverted and inversion.sigma < halo.sigma):
        return _from_halo(scan, first, halo, found, stop)
    if inverted:
        flags = (Flag("inversion_used", {"symmetry": inversion.symmetry}), *found)
        return _constant(scan, first, inversion.center, inversion.sigma, flags, "center of inversion", stop)
    numbers = {"qx0": float(guess[0]), "qy0": float(guess[1]), "sigma": float(first.sigma)}
    refusal = no_origin(scan.scan_shape, *rings.decision.flags, *found, Flag("hidden_undetermined", numbers))
    return replace(refusal, stop=stop)


def check_shaded(scan: Scan, noise: NoiseModel, first: FirstGuess, origin: OriginMap) -> OriginMap:
    """Replace a located beam that is not the direct beam, which lies behind a beam stop.

    Beside the stop, the tails of the direct beam are as bright as a disk. The center of the diffuse scattering decides
    if it contradicts the located beam, and if a stop reaches this center or the first guess is nearer to it.

    Parameters
    ----------
    scan : Scan
        The scan, or a sample of one.
    noise : NoiseModel
        Noise model of the detector.
    first : FirstGuess
        The first guess of the beam.
    origin : OriginMap
        The measured origin.

    Returns
    -------
    OriginMap
        The same, or that of the diffuse scattering.
    """
    if not origin.found or origin.feature != "direct beam" or not origin.valid.any():
        return origin
    mean, readout = _sum(scan, noise)
    good = ~noise.bad_pixels
    located = np.stack([q[origin.valid] for q in (origin.qx0, origin.qy0)])
    # In the sum of the patterns, the center of a beam that jumps is the mean of its positions.
    middle, average = np.median(located, 1), located.mean(1)
    place = halo_place(mean, good, readout, first.places[:, :2])
    if place is None or min(np.hypot(*(place - center)) for center in (middle, average)) < MIN_CONTRADICTION_PX:
        return origin
    halo = halo_center(mean, good, place, readout)
    if not halo.accepted or not all(_apart(halo, center, origin.sigma) for center in (middle, average)):
        return origin
    stop = find_stop(mean, good, halo.center)
    stop = stop if stop is not None and _is_arm(stop, halo.center) else None
    guess = np.median(first.position, axis=0)
    if stop is None and np.hypot(*(guess - halo.center)) > np.hypot(*(guess - middle)):
        return origin
    found = () if stop is None else (Flag("stop_found", {"pixels": int(stop.sum())}),)
    return _from_halo(scan, first, halo, found, stop)


def _is_arm(stop, center):
    """Whether a stop leaves most of the azimuth about a center free; the hole of a ring, as in precession, does not."""
    x, y = np.indices(stop.shape)
    low, high = (part * max(stop.shape) for part in ARM_DISTANCE)
    distance = np.hypot(x - center[0], y - center[1])
    covered = stop[(distance >= low) & (distance < high)]
    return bool(covered.size) and 0 < covered.mean() < MAX_ARM_COVER


def _apart(halo: HaloCenter, center, sigma) -> bool:
    """Whether another center contradicts that of the diffuse scattering."""
    distance = np.hypot(*(halo.center - center))
    return bool(distance > max(MAX_CONTRADICTION_SIGMAS * np.hypot(halo.sigma, sigma), MIN_CONTRADICTION_PX))


def _from_halo(scan, first, halo, found, stop):
    """The origin of the diffuse scattering; descan as the first guess has it."""
    flags = (Flag("halo_used", {"explained": halo.explained}), *found)
    return _constant(scan, first, halo.center, halo.sigma, flags, "diffuse scattering", stop)


def _constant(scan, first, center, sigma, flags, feature, stop):
    """The origin of a center of the summed patterns, with the descan of the first guess."""
    position = (first.position - np.median(first.position, axis=0) + center).T.reshape(2, *scan.scan_shape)
    descan = np.ptp(first.position, axis=0).max()  # of the network's guess, of which it adds a part to the error
    sigmas = np.full((2, *scan.scan_shape), np.hypot(sigma, DESCAN_ERROR_FRACTION * descan))
    return OriginMap(*position, *sigmas, np.ones(scan.scan_shape, bool), float("nan"),
                     Decision(True, flags, {"repeated": 1.0}), feature, stop)
