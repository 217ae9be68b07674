"""Decision on the measured origin: identity and uncertainty of the located disk, and replacement by rings.

A position is valid if the direct disk was located there and its window contains enough electrons. The whole origin is
refused if too many patterns show no beam although they are as bright as the patterns that do: the beam then lies
elsewhere in them. Sigmas of electron counting are increased by the scatter of neighboring positions about the descan.
If the direct beam is hidden, the center of the rings is the origin.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter

from ..core import (
    MIN_RADIUS_SIGMA,
    NORMAL_MAD,
    Decision,
    Flag,
    NoiseModel,
    OriginMap,
    Scan,
    missing_beam,
)
from ..descan import fit_descan, jumping
from . import (
    UNCERTAIN_SIGMA_PX,
    Beam,
    Located,
    copied_frames,
    lag,
    measure_afterglow,
    no_origin,
    origin_from_rings,
    structure_sigma,
)

# Set on simulated scans:
MIN_SIGNAL_FRACTION = 0.02  # fraction of the median electrons in a window; with fewer electrons the beam was blanked
MIN_SIGNAL_ELECTRONS = 3  # electrons; the window of a valid position contains more
# Pixels, and multiples of sqrt(radius / electrons), which is about the sigma of counting; the direct beam is doubtful
# if the median sigma exceeds the larger of the two.
DOUBTFUL_SIGMA_PX = 0.2
DOUBTFUL_SIGMA_RATIO = 20.0
BRIGHTNESS_PATTERNS = 16  # patterns; number with a beam, and number without, whose brightness is compared
# Fractions of the positions; if more positions have no beam, their brightness is compared. The smaller limit is used if
# positions scatter.
MAX_MISSING_SCATTERED = 0.2
MAX_MISSING = 0.5
# Ratios of the electrons in patterns without a beam to those in patterns with a beam; above it, the beam was not
# blanked: DARK_BRIGHTNESS if positions scatter, otherwise DIM_BRIGHTNESS. Below DIM_BRIGHTNESS the specimen may be too
# thick.
DARK_BRIGHTNESS = 0.1
DIM_BRIGHTNESS = 0.6
MAX_STRUCTURE_PATTERNS, MAX_STRUCTURE_BYTES = 256, 2**28  # patterns, bytes; most that are compared, chosen for speed
SCATTER_SIDE = 5  # scan positions; side of the square whose scatter about the descan is added to sigma
# Fraction of the positions; fewest that jump if the beam does. Their scatter does not widen sigmas if the located disk
# is the brightest one in these patterns. The limits of the brightness were set on five simulated scans of such beams.
MIN_JUMPING = 0.1
# Fraction of the brightness of the located disk; largest brightness of any other area of its size, in so many patterns.
MAX_OTHER_BRIGHTNESS, MIN_BRIGHTEST_PATTERNS = 0.5, 0.95
DIRECT_MARGIN_PX = 2.0  # pixels; other areas are farther from the located disk than its diameter and this margin
BRIGHTEST_SAMPLE = 64  # patterns; number in which the brightness of other areas is compared, chosen for speed


def shows_beam(located: Located, processed=True):
    """Find the patterns in which the direct beam was located.

    Parameters
    ----------
    located : Located
        Positions of n patterns.
    processed : numpy.ndarray of bool, shape (n,), or bool, optional
        False for patterns that have not been searched.

    Returns
    -------
    numpy.ndarray of bool, shape (n,)
        True where a beam was located. Windows with few electrons do not count, since the beam was blanked there.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.origin import Located, shows_beam
    >>> signal, found = np.array([900.0, 5.0, 800.0]), np.array([True, True, False])
    >>> located = Located(np.zeros((3, 2)), np.ones((3, 2)), signal, found)
    >>> shows_beam(located).tolist()
    [True, False, False]
    """
    processed = np.broadcast_to(processed, located.found.shape)
    if not processed.any():
        return np.zeros(len(processed), bool)
    found = processed & located.found
    typical = np.median(located.signal[found]) if found.any() else 0.0
    return found & (located.signal > MIN_SIGNAL_FRACTION * typical) & (located.signal > MIN_SIGNAL_ELECTRONS)


def decide_origin(scan: Scan, noise: NoiseModel, located: Located, beam: Beam, processed=True) -> OriginMap:
    """Decide on the origin of a scan from the positions located in its patterns.

    Parameters
    ----------
    scan : Scan
        The scan, or a sample of one.
    noise : NoiseModel
        Noise model of the detector.
    located : Located
        Positions of all patterns of the scan.
    beam : Beam
        The beam that was located.
    processed : numpy.ndarray of bool, shape (Rx * Ry,), or bool, optional
        False for positions that have not been searched; these are not valid.

    Returns
    -------
    OriginMap
        The measured origin; the center of the rings if the direct beam is hidden.
    """
    valid = shows_beam(located, processed).reshape(scan.scan_shape)
    if not valid.any():
        return origin_from_rings(scan, noise, Flag("nothing_located"))
    total = valid.size if processed is True else int(np.count_nonzero(processed))
    missing = total - int(valid.sum())
    flags = [missing_beam(missing, total)]
    position, sigma = (a.T.reshape(2, *scan.scan_shape) for a in (located.position, located.sigma))
    stated = np.median(sigma[:, valid])
    counting = np.sqrt(beam.aperture.radius / np.median(located.signal[valid.ravel()]))
    # If the direct beam is hidden, the network infers its position from the rest of the pattern; rings may be better.
    if stated > min(UNCERTAIN_SIGMA_PX, max(DOUBTFUL_SIGMA_PX, DOUBTFUL_SIGMA_RATIO * counting)):
        rings = origin_from_rings(scan, noise, None)
        if rings.found and np.median(rings.sigma_qx0) < stated:
            return rings
    numbers = {"searched": total}
    widened, residuals = _with_scatter(position, sigma, valid)
    common = _structure(scan, located, valid, beam)
    jumps = jumping(position, sigma, valid, position - residuals)
    if jumps.sum() > MIN_JUMPING * valid.sum() and _is_brightest(scan, noise, located, jumps, beam):
        numbers["jump_scatter"] = float(np.sqrt((residuals[:, jumps] ** 2).sum() / valid.sum()))
        numbers["counting"] = float(counting)
        widened = sigma
    glow = measure_afterglow(scan, noise, located.position, valid.ravel(), beam.aperture.radius, beam.aperture.edge)
    if glow.amount > 0:
        behind = lag(position if "jump_scatter" in numbers else position - residuals, glow, beam.aperture.radius)
        lagging = float(np.sqrt((behind[:, valid] ** 2).mean()))
        flags.append(Flag("afterglow", {"percent": 100 * glow.amount, "sigma": lagging}))
        widened = np.hypot(widened, behind)
    sigma = np.hypot(widened, common)
    if beam.outline is not None and not beam.outline.is_round:
        return no_origin(scan.scan_shape, Flag("outline_not_round", {"percent": 100 * beam.outline.difference}))
    vague = stated > max(UNCERTAIN_SIGMA_PX, DOUBTFUL_SIGMA_RATIO * counting)
    # Positions of disks other than the direct beam scatter, have large sigmas, or are found in few patterns. A low dose
    # alone does not cause this.
    scatter = np.median(sigma[:, valid].max(0))
    scattered = scatter > UNCERTAIN_SIGMA_PX and (vague or scatter > 2 * stated or missing > MAX_MISSING * total)
    if missing > (MAX_MISSING_SCATTERED if scattered else MAX_MISSING) * total:
        ratio = _missing_brightness(scan, noise, valid, processed)
        if ratio > (DARK_BRIGHTNESS if scattered else DIM_BRIGHTNESS):
            numbers = {"count": missing, "total": total, "ratio": float(ratio)}
            return no_origin(scan.scan_shape, Flag("beam_elsewhere", numbers))
    if scatter > UNCERTAIN_SIGMA_PX:  # the cause is common to many positions and does not average out
        flags.append(Flag("position_uncertain", {"sigma": float(scatter), "counting": float(counting)}))
    moved = 0.0 if beam.outline is None else beam.outline.contradiction
    if moved:
        flags.append(Flag("disk_clipped", {"distance": moved, "sigma": moved / 2**0.5}))
        sigma = np.hypot(sigma, moved / 2**0.5)
    numbers["common"] = common
    copied = copied_frames(scan, noise, valid.ravel())
    return OriginMap(*position, *sigma, valid, float(beam.aperture.radius), Decision(True, tuple(flags), numbers),
                     copied=None if copied is None else copied.reshape(scan.scan_shape),
                     radius_sigma=float(np.hypot(beam.aperture.radius_sigma, MIN_RADIUS_SIGMA * beam.aperture.radius)))


def _structure(scan, located, valid, beam):
    """Error of a position that structure of the disk causes alike in all patterns, from an even sample of the scan."""
    chosen = np.flatnonzero(valid.ravel() & scan.readable.ravel())
    if len(chosen) < 2:
        return 0.0
    pattern_bytes = 4 * scan.pattern_shape[0] * scan.pattern_shape[1]
    count = int(np.clip(MAX_STRUCTURE_BYTES // pattern_bytes, 1, MAX_STRUCTURE_PATTERNS))
    chosen = chosen[np.unique(np.linspace(0, len(chosen) - 1, count).astype(int))]
    return structure_sigma(scan.read(chosen), located.position[chosen], located.sigma[chosen], beam)


def _is_brightest(scan, noise: NoiseModel, located, valid, beam) -> bool:
    """Whether the located disk is by far the brightest area of its size in nearly every pattern of an even sample."""
    chosen = np.flatnonzero(valid.ravel() & scan.readable.ravel())
    if not len(chosen):
        return False
    chosen = chosen[np.unique(np.linspace(0, len(chosen) - 1, BRIGHTEST_SAMPLE).astype(int))]
    radius = beam.aperture.radius
    x, y = np.indices(scan.pattern_shape)
    brightest = []
    for index, block in scan.blocks(positions=chosen):
        for number, pattern in zip(index, noise.electrons(block), strict=True):
            qx, qy = located.position[number]
            distance = np.hypot(x - qx, y - qy)
            brightness = uniform_filter(pattern, max(3, round(1.5 * radius)), mode="nearest")
            other = brightness[distance > 2 * radius + DIRECT_MARGIN_PX].max(initial=0.0)
            brightest.append(other < MAX_OTHER_BRIGHTNESS * brightness[distance <= max(radius, 1.0)].max(initial=0.0))
    return bool(np.mean(brightest) >= MIN_BRIGHTEST_PATTERNS)


def _missing_brightness(scan, noise: NoiseModel, valid, processed) -> float:
    """Median electrons of patterns without a beam, divided by that of patterns with one; 0 if either has no pattern."""
    medians = []
    readable = scan.readable.ravel()
    for group in (valid.ravel() & readable, ~valid.ravel() & processed & readable):
        chosen = np.flatnonzero(group)
        if not len(chosen):  # a sample may contain no such pattern
            return 0.0
        chosen = chosen[np.unique(np.linspace(0, len(chosen) - 1, BRIGHTNESS_PATTERNS).astype(int))]
        blocks = [noise.electrons(block).sum((1, 2)) for _, block in scan.blocks(positions=chosen)]
        medians.append(np.median(np.concatenate(blocks)))
    return medians[1] / max(medians[0], 1e-9)


def _with_scatter(position, sigma, valid):
    """Increase sigmas (2, Rx, Ry) by the excess scatter of neighboring positions about the descan.

    Return the sigmas and the residuals about the descan.

    Sigmas of electron counting do not include structure in a disk that the contrast model cannot describe, nor beam
    deflection by the specimen. Both appear as scatter about a smooth descan.
    """
    *surfaces, _ = fit_descan(position, sigma, valid)
    widened, residuals = [], []
    for surface, stated in zip(surfaces, sigma, strict=True):
        residual = np.where(valid, np.nan_to_num(surface.residual), 0.0)
        residuals.append(residual)
        typical = np.median(np.abs(residual[valid])) / NORMAL_MAD
        excess = np.where(valid, np.clip(residual, -5 * typical, 5 * typical) ** 2 - stated**2, 0.0)
        density = uniform_filter(valid.astype(float), SCATTER_SIDE, mode="nearest")
        local = uniform_filter(excess, SCATTER_SIDE, mode="nearest") / density.clip(1e-3)
        relative_size = SCATTER_SIDE**2 / 4 / max(1, valid.sum())  # a surface through few positions follows the scatter
        extra = np.clip(local, 0, None) * (relative_size < 1)
        widened.append(np.sqrt(stated**2 + extra))
    return np.stack(widened), np.stack(residuals)
