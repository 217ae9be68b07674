"""Origin of a scan whose direct beam is hidden or ambiguous: from rings, from inversion symmetry, or refused.

The coarse network proposes positions of the direct beam, with probabilities. If several are likely, the inversion
symmetry of the mean pattern about each is used as additional evidence (`resolved`). The shadow of a stop is found
(`find_stop`) and left out. A hidden direct beam is replaced by the center of rings if there are rings, otherwise by the
center of inversion or by the center of the diffuse scattering (`hidden_origin`). Next to a stop, the tails of the
direct beam may look like a disk; the center of the diffuse scattering then decides (`check_shaded`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..core import Decision, Flag, NoiseModel, OriginMap, Scan, jackknife_covariance
from ..fits import HALO_MIN_EXPLAINED, HaloCenter, halo_center, halo_place, inversion_center
from ..networks import COARSE_CELL_PX
from . import (
    MAX_FIELD_PX,
    PAIRS_WEIGHT,
    FirstGuess,
    block_sums,
    covered_beam,
    find_stop,
    is_vague,
    no_origin,
    origin_from_rings,
    pair_differences,
)

# Posterior probability; smallest for which the position of the direct beam is used. Set on real patterns
# (benchmarks/real.py): correct positions have 0.65 (one) or more, wrong positions 0.36 or less.
MIN_BEAM_PROBABILITY = 0.65
# Chosen, not measured:
# Probability; above it, the symmetry is not used, which misleads in tilted thick crystals. If a stop is found, which
# mostly covers the beam, the smallest for which one of several visible disks is the direct beam.
CERTAIN_PROBABILITY = 0.95
DESCAN_ERROR_FRACTION = 0.25  # fraction of the range of the first guess; standard error of a position behind a stop
REACH_FRACTION = 0.045  # fraction of the frame; largest distance of the center of inversion from the network's position
MIN_REACH_PX = 3.0  # pixels; lower bound of this distance, and smallest distance between two different centers
# Fraction of the pixels within MIN_REACH_PX; fewest bad ones about a beam hidden by the mask: about a disk that is cut,
# fewer are bad.
MIN_MASKED_FRACTION = 0.9
MIN_SHADOWED_FRACTION = 0.5  # fraction of these pixels; fewest that are bad or in the shadow about a beam behind a stop
HELD_MARGIN_PX = 2  # pixels; largest distance from the edge of the frame at which a mounted stop ends
MIN_SYMMETRY_ERROR = 0.05  # smallest standard error of a difference of symmetries: Friedel pairs differ in intensity
# Fractions of the frame, inner and outer distance from the center; fraction of the azimuth, largest part that the arm
# of a stop covers between these distances.
ARM_DISTANCE, MAX_ARM_COVER = (0.05, 0.1), 0.4
# Fraction of the located positions; if at least so many lie at the center of diffuse scattering, the beam is there at
# times, and the center does not contradict it. Set on a few scans of beams that jump.
CLOSEST_PART = 0.05
# Standard errors, and pixels, since diffuse scattering is not exactly symmetric; smallest distance of centers that
# contradict each other. These and the limits of the arm were chosen on the pictures 1000 to 1169 of
# benchmarks/selected_area.py.
MAX_CONTRADICTION_SIGMAS, MIN_CONTRADICTION_PX = 4.0, 2.0
# Probability; smallest that the network gives to the surroundings of the center of diffuse scattering, of this radius
# (fraction of the frame): 0.45 or more about 14 beams behind stops, 0.00 about a crossing of Kikuchi bands.
MIN_SUPPORT, SUPPORT_FRACTION = 0.02, 0.06
# Ratio of the probability about this center to that about the located beam; above it, the network favors the center.
# Set on one simulated picture.
MIN_SUPPORT_RATIO = 2.0
MIN_BRIGHTER = 3.0  # standard errors of counting; smallest difference of two disks of which one is called brighter
MAX_COVERED_RADIUS = 0.06  # fraction of the frame; largest radius of a beam of which a stop may cover a large part
# Asymmetry of a located beam; above it, a part is covered: 0.19 or less in 40 simulated patterns of crystals, glasses
# and powders, 0.49 or more of beams half behind a stop that leaks.
MAX_ASYMMETRY = 0.35
MAX_COVERED_MOVE = 0.1  # radii, standard deviation; largest motion of a beam whose sum is tested for a stop
# Standard errors; a larger symmetry deficit counts as this many, since its errors are not Gaussian.
MAX_SHORT_SIGMAS = 2.0


def resolved(scan: Scan, noise: NoiseModel, first: FirstGuess, paired: bool = False) -> FirstGuess:
    """Choose among the positions that the network proposes by the inversion symmetry about each.

    Parameters
    ----------
    scan : Scan
        The scan, or a sample of one.
    noise : NoiseModel
        Noise model of the detector.
    first : FirstGuess
        The first guess of the beam.
    paired : bool, optional
        Whether the pattern shows disks, whose Friedel pairs about each position are also compared.

    Returns
    -------
    FirstGuess
        The guess with new probabilities, at the most probable position; unchanged if the network is certain.

    Notes
    -----
    The network's probability of a position is multiplied by the likelihood of the symmetry about it. This likelihood
    follows from the difference to the largest symmetry in standard errors.
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
        deficit = (best.symmetry - trial.symmetry) / max(error, MIN_SYMMETRY_ERROR)
        likelihood[k] = np.exp(-0.5 * min(deficit, MAX_SHORT_SIGMAS) ** 2)
    if paired:
        pairs = pair_differences(mean, clear, [trial.center for trial in trials], first.radius, readout)
        likelihood *= np.exp(-PAIRS_WEIGHT * (pairs - pairs.min()))
    # Trials from neighboring positions may end at the same center, which gets the sum of their probabilities.
    same = np.array([[np.hypot(*(a.center - b.center)) < MIN_REACH_PX for a in trials] for b in trials])
    is_first = same.argmax(1) == np.arange(len(trials))
    weight = (same @ first.places[:, 2]) * (same * likelihood).max(1) * is_first
    rest = max(1 - first.places[:, 2].sum(), 0.0)  # positions that the network excludes, and the case without a beam
    probability = weight / (weight.sum() + rest * np.exp(-0.5 * MAX_SHORT_SIGMAS**2))
    chosen = int(probability.argmax())
    places = np.column_stack([[trial.center for trial in trials], probability])[np.argsort(-probability)]
    hidden = stops[chosen] is not None or _is_masked(noise, trials[chosen].center)
    visible = first.visible if chosen == 0 else -1.0 if hidden else 1.0
    position = first.position + trials[chosen].center - first.places[0, :2]
    return replace(first, position=position, visible=visible, probability=float(probability[chosen]), places=places,
                   ranked=first.ranked or paired)


def is_hidden(sums, noise: NoiseModel, first: FirstGuess) -> bool:
    """Decide whether the direct beam is hidden by a stop, by bad pixels, or outside the detector.

    Parameters
    ----------
    sums : numpy.ndarray, shape (n, Qx, Qy)
        Sums over blocks of the scan, see `block_sums`.
    noise : NoiseModel
        Noise model of the detector.
    first : FirstGuess
        The first guess of the beam.

    Returns
    -------
    bool
        True if the network finds that the disk is hidden, and a stop or bad pixels at its position confirm this.
    """
    if first.visible > 0:
        return False
    center = np.median(first.position, axis=0)
    if _is_masked(noise, center):
        return True
    stop = find_stop(sums.sum(0), ~noise.bad_pixels, center, sums)
    return (stop is not None and _is_held(stop | noise.bad_pixels)
            and (stop | noise.bad_pixels)[_about(center, stop.shape)].mean() > MIN_SHADOWED_FRACTION)


def _about(center, shape):
    """Mask (Qx, Qy) of the pixels about a center whose disk, of unknown radius, is hidden."""
    x, y = (np.arange(n) - q for n, q in zip(shape, center, strict=True))
    return np.hypot(x[:, None], y) < MIN_REACH_PX


def _is_masked(noise, center):
    """Return whether bad pixels cover a center, or it lies outside the detector."""
    middle = _about(center, noise.bad_pixels.shape)
    return not middle.any() or noise.bad_pixels[middle].mean() > MIN_MASKED_FRACTION


def _is_held(stop):
    """Return whether a stop reaches the edge of the frame; the hole of a ring, as in precession, does not."""
    rows, columns = np.nonzero(stop)
    return (rows.min() <= HELD_MARGIN_PX or columns.min() <= HELD_MARGIN_PX
            or rows.max() >= stop.shape[0] - 1 - HELD_MARGIN_PX or columns.max() >= stop.shape[1] - 1 - HELD_MARGIN_PX)


def _sum(scan, noise):
    """Sum (Qx, Qy) over an even sample of the scan, and the read-out noise of a pixel of the sum, in electrons."""
    sums, counts, _ = block_sums(scan, noise, 1)
    return sums[0], noise.readout / noise.gain * counts[0] ** 0.5


def _inversion(mean, good, place, readout):
    """Center of inversion near a position that the network proposes."""
    reach = max(MIN_REACH_PX, REACH_FRACTION * max(mean.shape))
    return inversion_center(mean, good, place, reach, readout)


def hidden_origin(scan: Scan, noise: NoiseModel, first: FirstGuess, reason: Flag, stopped: bool = False) -> OriginMap:
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
        Reason why the direct beam is not used; part of a refusal.
    stopped : bool, optional
        Whether the bad pixels include a stop that was found. If disks beside it are not certain to be the direct beam,
        the center of the diffuse scattering must lie behind it.

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
    stop_flags = () if stop is None else (Flag("stop_found", {"pixels": int(stop.sum())}),)
    rings = origin_from_rings(scan, masked, reason)
    if rings.found:
        return replace(rings, decision=Decision(True, (*rings.decision.flags, *stop_flags), rings.decision.numbers),
                       stop=stop)
    inversion = _inversion(mean, ~masked.bad_pixels, guess, readout)
    inverted = (reason.name != "beam_ambiguous" and first.probability >= MIN_BEAM_PROBABILITY
                and inversion.accepted)
    # The mask of the stop is not used here: the stop is an outlier about the center, and the remaining pixels may be
    # symmetric about a different point.
    place = _supported_place(mean, ~noise.bad_pixels, readout, first)
    halo = None if place is None else halo_center(mean, ~noise.bad_pixels, place, readout)
    halo = halo if halo is not None and halo.accepted else None
    if halo is not None and stopped and reason.name == "beam_ambiguous" and not _is_masked(noise, halo.center):
        halo = None
    if halo is not None and inverted and _apart(halo, inversion.center, inversion.sigma):
        halo, inverted = None, False  # the two centers contradict each other
    if halo is not None and not (inverted and inversion.sigma < halo.sigma):
        return _from_halo(scan, first, halo, stop_flags, stop)
    if inverted:
        flags = (Flag("inversion_used", {"symmetry": inversion.symmetry}), *stop_flags)
        return _constant(scan, first, inversion.center, inversion.sigma, flags, "center of inversion", stop)
    numbers = {"qx0": float(guess[0]), "qy0": float(guess[1]), "sigma": float(first.sigma)}
    refusal = no_origin(scan.scan_shape, *rings.decision.flags, *stop_flags, Flag("hidden_undetermined", numbers))
    return replace(refusal, stop=stop)


def check_shaded(scan: Scan, noise: NoiseModel, first: FirstGuess, origin: OriginMap) -> OriginMap:
    """Replace a located beam that is not the direct beam if the latter lies behind a beam stop.

    Next to the stop, the tails of the direct beam are as bright as a disk. The center of the diffuse scattering is used
    if it contradicts the located beam, and if a stop reaches this center, the first guess is closer to it, the network
    favors it, the pattern is brighter about it, or the located beam is vague. If a stop covers a part of the located
    beam, its sigma is widened, and a more certain center of rings or of the diffuse scattering is used.

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
        The given origin, with a wider sigma if the beam is covered in part; the center of the rings or of the diffuse
        scattering; or a refused origin, if the center of the diffuse scattering is elsewhere and too uncertain.
    """
    if not origin.found or origin.feature != "direct beam" or not origin.valid.any():
        return origin
    mean, readout = _sum(scan, noise)
    good = ~noise.bad_pixels
    located = np.stack([q[origin.valid] for q in (origin.qx0, origin.qy0)])
    # In the sum of the patterns, the center of a beam that jumps is the mean of its positions.
    middle, average = np.median(located, 1), located.mean(1)
    covered, vague = False, is_vague(origin)
    sharp = origin.radius < MAX_COVERED_RADIUS * max(mean.shape)
    if sharp and located.std(1).max() <= MAX_COVERED_MOVE * origin.radius:  # otherwise it is blurred in the sum
        stop, error = covered_beam(mean, good, middle, origin.radius, readout, origin.stop)
        held = stop is not None and _is_held(stop | noise.bad_pixels)
        covered = (vague or held or error > MAX_ASYMMETRY * origin.radius) and error > origin.sigma
        if covered:
            flag = Flag("beam_covered", {"sigma": error})
            origin = replace(origin, sigma_qx0=np.hypot(origin.sigma_qx0, error),
                             sigma_qy0=np.hypot(origin.sigma_qy0, error),
                             decision=Decision(True, (*origin.flags, flag), origin.decision.numbers))
            masked = noise if stop is None else replace(noise, bad_pixels=noise.bad_pixels | stop)
            rings = origin_from_rings(scan, masked, None)
            if rings.found and rings.sigma < origin.sigma:
                return replace(rings, stop=stop)
    place = _supported_place(mean, good, readout, first)
    if place is None:
        return origin
    if not covered and min(np.hypot(*(place - center)) for center in (middle, average)) < MIN_CONTRADICTION_PX:
        return origin
    # Where the beam moves widely, the sum is smeared, and its center is one of many positions.
    if np.quantile(np.hypot(*(located - place[:, None])), CLOSEST_PART) < MIN_CONTRADICTION_PX:
        return origin
    halo = halo_center(mean, good, place, readout)
    apart = all(_apart(halo, center, origin.sigma) for center in (middle, average))
    if not (apart or (covered and halo.accepted and halo.sigma < origin.sigma)):
        return origin
    stop = find_stop(mean, good, halo.center)
    guess = np.median(first.position, axis=0)
    held = stop is not None and (_is_arm(stop, halo.center) or _is_dark(stop, halo.center))
    expected, found = (_support(first, q, max(mean.shape)) for q in (halo.center, middle))
    favored = expected > MIN_SUPPORT_RATIO * found
    nearer = np.hypot(*(guess - halo.center)) <= np.hypot(*(guess - middle))
    brighter = _is_brighter(mean, good, halo.center, middle, origin.radius)
    if halo.accepted and (covered or vague or held or nearer or favored or brighter):
        stop = stop if held else None
        stop_flags = () if stop is None else (Flag("stop_found", {"pixels": int(stop.sum())}),)
        return _from_halo(scan, first, halo, stop_flags, stop)
    if (favored or held) and not halo.accepted and halo.explained > HALO_MIN_EXPLAINED:
        distance = float(np.hypot(*(halo.center - middle)))
        return no_origin(scan.scan_shape, Flag("diffuse_elsewhere", {
            "distance": distance, "qx0": float(halo.center[0]), "qy0": float(halo.center[1])}))
    return origin


def _supported_place(mean, good, readout, first):
    """Place of the center of the diffuse scattering among those that the network does not exclude, or None."""
    return halo_place(mean, good, readout, first.places[:, :2],
                      lambda at: _support(first, at, max(mean.shape)) >= MIN_SUPPORT)


def _support(first, place, side):
    """Probability that the network gives to the surroundings of a place; 1 if it was not asked."""
    if first.cells is None:
        return 1.0
    step = -(-side // MAX_FIELD_PX)
    probability = first.cells.mean(0)
    x, y = (np.arange(n) * COARSE_CELL_PX + (COARSE_CELL_PX - 1) / 2 - (q - (step - 1) / 2) / step
            for n, q in zip(probability.shape, place, strict=True))
    near = np.hypot(x[:, None], y) <= max(SUPPORT_FRACTION * side / step, 2 * COARSE_CELL_PX)
    return float(probability[near].sum())


def _is_brighter(mean, good, center, other, radius):
    """Return whether a disk about a center is brighter than one about another center, which is then no visible beam."""
    levels = []
    for place in (center, other):
        x, y = (np.arange(n) - q for n, q in zip(mean.shape, place, strict=True))
        inside = good & (np.hypot(x[:, None], y) < max(radius, MIN_REACH_PX))
        levels.append((mean[inside].mean(), inside.sum()) if inside.any() else (-np.inf, 1))
    (level, pixels), (other_level, other_pixels) = levels
    error = np.sqrt(max(level, other_level, 1.0) * (1 / pixels + 1 / other_pixels))
    return bool(level > other_level + MIN_BRIGHTER * error)


def _is_dark(stop, center):
    """Return whether the center lies in the shadow of a stop, and not on the disk of a visible beam."""
    near = _about(center, stop.shape)
    return bool(near.any()) and stop[near].mean() > MIN_SHADOWED_FRACTION


def _is_arm(stop, center):
    """Return whether a stop covers a part of the azimuth about a center; the hole of a precession ring covers all."""
    x, y = np.indices(stop.shape)
    low, high = (part * max(stop.shape) for part in ARM_DISTANCE)
    distance = np.hypot(x - center[0], y - center[1])
    covered = stop[(distance >= low) & (distance < high)]
    return bool(covered.size) and 0 < covered.mean() < MAX_ARM_COVER


def _apart(halo: HaloCenter, center, sigma) -> bool:
    """Return whether a center contradicts the center of the diffuse scattering."""
    distance = np.hypot(*(halo.center - center))
    return bool(distance > max(MAX_CONTRADICTION_SIGMAS * np.hypot(halo.sigma, sigma), MIN_CONTRADICTION_PX))


def _from_halo(scan, first, halo, found, stop):
    """Origin from the center of the diffuse scattering, with the descan of the first guess."""
    flags = (Flag("halo_used", {"explained": halo.explained}), *found)
    return _constant(scan, first, halo.center, halo.sigma, flags, "diffuse scattering", stop)


def _constant(scan, first, center, sigma, flags, feature, stop):
    """Origin from a center of the summed patterns, with the descan of the first guess."""
    position = (first.position - np.median(first.position, axis=0) + center).T.reshape(2, *scan.scan_shape)
    descan = np.ptp(first.position, axis=0).max()  # range of the guess, of which a fraction is added to the error
    sigmas = np.full((2, *scan.scan_shape), np.hypot(sigma, DESCAN_ERROR_FRACTION * descan))
    return OriginMap(*position, *sigmas, np.ones(scan.scan_shape, bool), float("nan"),
                     Decision(True, flags, {"common": float(sigmas[0, 0, 0])}), feature, stop)
