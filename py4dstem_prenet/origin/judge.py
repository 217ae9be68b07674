"""The measured origin of a scan, judged from what was located in its patterns."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, uniform_filter

from ..core import MIN_SIGMA_PX, NORMAL_MAD, Decision, Flag, NoiseModel, OriginMap, Scan
from ..descan import fit_descan
from ..fits import ring_center
from .beam import UNSURE, Beam, Located
from .coarse import block_sums, spread_blocks

# Sigma in pixels, and in what counting alone would leave, sqrt(radius / electrons) or so, from which a direct beam is
# in doubt although it is bright.
POOR = 0.2
POORER = 20.0
COMPARED = 16  # patterns with a beam, and as many without
MISSING = 0.2
MOST = 0.5  # of the positions, without a beam that was not blanked: it is somewhere else in the others
DARK = 0.1
DIM = 0.6  # of the electrons of the others: with fewer the beam was off, or the specimen too thick for it
NEIGHBORS = 5  # side of the block of positions whose scatter counts


def shows_beam(located: Located, known=True):
    """(n,) bool: where a beam was located. known: (n,) bool, which positions were looked at."""
    known = np.broadcast_to(known, located.seen.shape)
    if not known.any():
        return np.zeros(len(known), bool)
    # A window is empty beside the others where the beam was blanked.
    usual = np.median(located.signal[known & located.seen]) if (known & located.seen).any() else 0.0
    return known & located.seen & (located.signal > 0.02 * usual) & (located.signal > 3)


def origin_of(scan: Scan, noise: NoiseModel, located: Located, beam: Beam, known=True) -> OriginMap:
    """The `OriginMap` of what was located in the patterns of a scan.

    known: (Rx * Ry,) bool, the positions that were looked at; the others are not valid.
    """
    valid = shows_beam(located, known).reshape(scan.scan_shape)
    if not valid.any():
        return from_rings(scan, noise, Flag("nothing_located"))
    count = valid.size if known is True else int(np.count_nonzero(known))
    blank = count - int(valid.sum())
    flags = [Flag("beam_missing", {"count": blank, "total": count}) if blank else Flag("beam_found")]
    position, sigma = (a.T.reshape(2, *scan.scan_shape) for a in (located.position, located.sigma))
    stated = np.median(sigma[:, valid])
    counting = np.sqrt(beam.aperture.radius / np.median(located.signal[valid.ravel()]))
    # The network guesses a direct beam from its surroundings: the rings may give a better center.
    if stated > min(UNSURE, max(POOR, POORER * counting)):
        rings = from_rings(scan, noise, None)
        if rings.found and np.median(rings.sigma_qx0) < stated:
            return rings
    sigma = _with_scatter(position, sigma, valid)
    vague = stated > max(UNSURE, POORER * counting)
    # Positions of other disks scatter, or have large sigmas, or are seen in few patterns; few electrons alone do none of
    # this.
    scattered = np.median(sigma[:, valid].max(0))
    astray = scattered > UNSURE and (vague or scattered > 2 * stated or blank > MOST * count)
    if blank > (MISSING if astray else MOST) * count:
        ratio = _brightness(scan, noise, valid, known)
        if ratio > (DARK if astray else DIM):
            return no_origin(scan.scan_shape, Flag("beam_elsewhere", {"count": blank, "total": count,
                                                                      "ratio": float(ratio)}))
    if scattered > UNSURE:  # the cause is common to many positions, and does not average out
        flags.append(Flag("position_uncertain", {"sigma": float(scattered), "counting": float(counting)}))
    return OriginMap(*position, *sigma, valid, float(beam.aperture.radius), Decision(True, tuple(flags)))


def _brightness(scan, noise: NoiseModel, valid, known) -> float:
    """The electrons of patterns without a beam, in those of patterns with one; 0 where there are none of either."""
    totals = []
    held = scan.readable.ravel()
    for some in (valid.ravel() & held, ~valid.ravel() & known & held):
        chosen = np.flatnonzero(some)
        if not len(chosen):  # of a sample that holds none of these
            return 0.0
        chosen = chosen[np.unique(np.linspace(0, len(chosen) - 1, COMPARED).astype(int))]
        blocks = [noise.electrons(block).sum((1, 2)) for _, block in scan.blocks(positions=chosen)]
        totals.append(np.median(np.concatenate(blocks)))
    return totals[1] / max(totals[0], 1e-9)


def _with_scatter(position, sigma, valid):
    """Sigmas (2, Rx, Ry) widened by what neighboring positions scatter about the descan beyond them.

    Counting statistics know nothing of structure in a disk that the contrast cannot follow, nor of a specimen that
    deflects the beam: that shows as scatter about a smooth descan.
    """
    *surfaces, _ = fit_descan(position, sigma, valid)
    out = []
    for surface, known in zip(surfaces, sigma, strict=True):
        residual = np.where(valid, np.nan_to_num(surface.residual), 0.0)
        usual = np.median(np.abs(residual[valid])) / NORMAL_MAD
        excess = np.where(valid, np.clip(residual, -5 * usual, 5 * usual) ** 2 - known**2, 0.0)
        share = uniform_filter(valid.astype(float), NEIGHBORS, mode="nearest")
        local = uniform_filter(excess, NEIGHBORS, mode="nearest") / share.clip(1e-3)
        few = NEIGHBORS**2 / 4 / max(1, valid.sum())  # with fewer positions than that a surface hides the scatter
        extra = np.clip(local, 0, None) * (few < 1)
        out.append(np.sqrt(known**2 + extra + MIN_SIGMA_PX**2))
    return np.stack(out)


def from_rings(scan: Scan, noise: NoiseModel, flag: Flag | None) -> OriginMap:
    """The center of the rings as origin. flag: why the direct beam does not give it."""
    why = () if flag is None else (flag,)
    if not noise.dose > 0:
        return no_origin(scan.scan_shape, *why)
    found, refusal = ring_origins(scan, noise)
    if found is None:
        return no_origin(scan.scan_shape, *why, refusal)
    position, sigma, valid = found
    flags = [Flag("beam_hidden")]
    if not valid.all():
        flags.append(Flag("rings_missing", {"count": int(np.count_nonzero(~valid)), "total": int(valid.size)}))
    return OriginMap(*position, *sigma, valid, float("nan"), Decision(True, tuple(flags)), "rings")


def no_origin(scan_shape, *flags: Flag) -> OriginMap:
    """An `OriginMap` without any position. flags: why."""
    nothing = [np.full(scan_shape, np.nan) for _ in range(4)]
    return OriginMap(*nothing, np.zeros(scan_shape, bool), float("nan"), Decision(False, flags))

BLOCKS = 4  # along each side of the scan: rings need more electrons than a disk
SYSTEMATIC = 0.1  # pixels, in each direction
FLAT = 1 / 16  # of the pattern's side: what is smoother than that is no ring
DIFFERS = 4.0  # sigmas by which a single pattern shows rings
LIT, BRIGHT = 0.05, 0.9  # part of the electrons, and of the rings, of bright patterns (this quantile), below which one

# was blanked
def ring_origins(scan: Scan, noise: NoiseModel):
    """Positions and sigmas of the rings' center, (2, Rx, Ry) each, pixels, and where a pattern shows rings, (Rx, Ry)
    bool; or None. And a flag on why there are no rings."""
    sums, counts, grid = block_sums(scan, noise, BLOCKS)
    good = ~noise.bad_pixels
    whole = ring_center(sums.sum(0), good)
    if not whole.accepted:
        return None, whole.decision.flags[0]
    found = [ring_center(image, good, whole.center) if n else whole for image, n in zip(sums, counts, strict=True)]
    known = np.array([f.accepted for f in found])
    if known.mean() < 0.5:  # too few electrons in a block: no descan is seen, and none is claimed
        found, grid, known = [whole], (1, 1), np.ones(1, bool)
    at = np.array([f.center if k else whole.center for f, k in zip(found, known, strict=True)])
    sigma = np.array([np.diag((f if k else whole).covariance) for f, k in zip(found, known, strict=True)])
    position = spread_blocks(at, grid, scan.scan_shape, 0.2, known)
    sigma = np.sqrt(sigma[known].mean(0) + SYSTEMATIC**2)
    sigma = np.broadcast_to(sigma[:, None, None], (2, *scan.scan_shape)).copy()
    return (position.T.reshape(2, *scan.scan_shape), sigma, _shows_rings(scan, noise, sums.sum(0))), None


def _shows_rings(scan, noise, mean):
    """Where a pattern holds electrons, and what is not smooth in the mean (Qx, Qy) of the scan, (Rx, Ry) bool.

    Where bright patterns are too dim to show rings one by one, electrons must do.
    """
    good = ~noise.bad_pixels
    width = FLAT * max(mean.shape)
    share = gaussian_filter(good.astype(float), width).clip(1e-3)
    rings = (mean - gaussian_filter(np.where(good, mean, 0.0), width) / share)[good]
    rings = (rings - rings.mean()).astype(np.float32)
    known = scan.positions
    electrons, strength = np.zeros((2, scan.size))
    for index, block in scan.blocks(positions=known):
        seen = (block[:, good].astype(np.float32) - noise.offset) / noise.gain
        electrons[index], strength[index] = seen.sum(1, dtype=np.float64), seen @ rings
    sigma = np.sqrt((electrons.clip(1) / len(rings) + (noise.readout / noise.gain) ** 2) * (rings**2).sum())
    valid = np.zeros(len(electrons), bool)
    valid[known] = electrons[known] > LIT * np.quantile(electrons[known], BRIGHT)
    if np.quantile((strength / sigma)[known], BRIGHT) > 2 * DIFFERS:
        valid &= (strength > DIFFERS * sigma) & (strength > LIT * np.quantile(strength[known], BRIGHT))
    return valid.reshape(scan.scan_shape)
