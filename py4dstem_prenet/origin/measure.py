"""Where the direct beam is in every pattern of a scan, and the smooth descan through these positions.

1. Sums over blocks of the scan, where electrons are plentiful, go through the coarse network: it says whether there
   is a beam, where it is and how large. A surface through the blocks' answers is the first guess; blocks in which
   another disk was taken for the direct beam are outliers of it.
2. In a few hundred patterns the fine network says where the beam is; a surface through its answers is the better
   guess, and the recentered patterns show the aperture and the contrast inside the disk (`beam.py`).
3. A likelihood fit of that aperture locates the beam in every pattern, with the network wherever the fit is in doubt.

What is reported is the direct beam, not the center of rings; only where the direct beam is hidden, the rings' center.
Coordinates are py4DSTEM's: qx0 along rows, qy0 along columns, a pixel's centre on its integer index.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from scipy.ndimage import uniform_filter

from ..compute import map_chunks, pick_device
from ..core import NORMAL_MAD, OriginFit, OriginMap, PrenetError, Sample, reading
from ..descan import fit_descan
from ..detector import NoiseModel, estimate_noise
from ..networks import load, requirement
from .beam import UNSURE, Beam, Located, learn, nowhere
from .coarse import coarse_origin
from .hidden import ring_origins

# Sigma in pixels, and in what counting alone would leave, sqrt(radius / electrons) or so, from which a direct beam is
# in doubt although it is bright.
POOR, POORER = 0.2, 20.0
COMPARED = 16  # patterns with a beam, and as many without
MISSING, MOST = 0.2, 0.5  # of the positions, without a beam that was not blanked: it is somewhere else in the others
DARK, DIM = 0.1, 0.6  # of the electrons of the others: with fewer the beam was off, or the specimen too thick for it
NEIGHBORS = 5  # side of the block of positions whose scatter counts
NO_ELECTRONS = "No electrons are seen above the read-out noise: there is no beam in this scan."
SYSTEMATIC = 0.01  # pixels, in each direction: what the scatter of positions cannot show


def measure_origin(data, noise: NoiseModel | None = None, mask=None, device="auto", progress=True) -> OriginMap:
    """Measure the direct beam in every pattern of a scan.

    Args:
        data: a DataCube, or an array-like (Rx, Ry, Qx, Qy) in memory or on disk.
        noise: the detector's noise model; estimated from the scan by default.
        mask: (Qx, Qy) bool, True where a detector pixel is good, False behind a beam stop and the like.
        device: "auto", "cpu", "cuda" or "mps".
        progress: show a progress bar.

    Raises:
        PrenetError: data that cannot be calibrated (`batches.check`), a mask of another shape, no weights.
    """
    reading.check(data)
    check_mask(data, mask)
    load("center", pick_device(device))
    noise = estimate_noise(data, mask=mask) if noise is None else _with_mask(noise, mask)
    return survey(data, noise, np.zeros(0, int), device, progress)[0]


def survey(data, noise: NoiseModel, keep, device="auto", progress=True) -> tuple[OriginMap, Sample, NoiseModel]:
    """Measure the origin as `measure_origin` does, and keep some of the patterns that are read on the way.

    keep: flat scan positions, ascending. Where there is no beam to be located, nothing is read, and none is kept. The
    noise model comes back with the hot pixels that only the beam shows.
    """
    shape = reading.shape_of(data)
    scan, patterns = shape[:2], np.zeros((0, *shape[2:]))
    beam, guess, reason = find_beam(data, noise, device)
    if beam is None:
        return from_rings(data, noise, reason), Sample(scan, keep[:0], patterns), noise
    located = nowhere(len(guess))
    wanted = np.zeros(len(guess), bool)
    wanted[keep] = True
    locate = partial(_locate_and_keep, beam=beam)
    title = "origin" if progress else None
    for index, (found, kept) in map_chunks(locate, data, guess, wanted, progress=title, require=requirement("center")):
        located.put(index, found)
        if len(kept):
            if not len(patterns):
                patterns = np.empty((len(keep), *shape[2:]), kept.dtype)
            patterns[np.searchsorted(keep, index[wanted[index]])] = kept
    return origin_of(data, beam.noise, located, beam), Sample(scan, keep[: len(patterns)], patterns), beam.noise


def _locate_and_keep(index, block, guess, wanted, beam: Beam):
    return beam.locate(block, guess), block[wanted]


def find_beam(data, noise: NoiseModel, device) -> tuple[Beam | None, np.ndarray | None, str]:
    """The beam of a scan, or of a `Sample` of one, and a guess of every origin (Rx * Ry, 2); or why there is none.

    The noise model that comes with the beam knows hot pixels that only the beam shows: what follows uses that.
    """
    if not noise.dose > 0:
        return None, None, NO_ELECTRONS
    network = load("center", pick_device(device))
    guess, radius, shown, reason = coarse_origin(network.coarse, data, noise)
    return (None, None, reason) if reason else (*learn(data, noise, guess, radius, shown, device), "")


def shows_beam(located: Located, known=True):
    """(n,) bool: where a beam was located. known: (n,) bool, which positions were looked at."""
    known = np.broadcast_to(known, located.seen.shape)
    if not known.any():
        return np.zeros(len(known), bool)
    # A window is empty beside the others where the beam was blanked.
    usual = np.median(located.signal[known & located.seen]) if (known & located.seen).any() else 0.0
    return known & located.seen & (located.signal > 0.02 * usual) & (located.signal > 3)


def origin_of(data, noise: NoiseModel, located: Located, beam: Beam, known=True) -> OriginMap:
    """The `OriginMap` of what was located in the patterns of a scan, or of a `Sample` of one.

    known: (Rx * Ry,) bool, the positions that were looked at; the others are not valid.
    """
    scan = reading.shape_of(data)[:2]
    valid = shows_beam(located, known).reshape(scan)
    if not valid.any():
        return from_rings(data, noise, "No position shows a beam that can be located.")
    blank = int((~valid).sum() - np.count_nonzero(~np.broadcast_to(known, valid.size)))
    count = valid.size if known is True else int(np.count_nonzero(known))
    reason = f"{blank} of {count} positions show no beam." if blank else "The direct beam was found everywhere."
    position, sigma = (a.T.reshape(2, *scan) for a in (located.position, located.sigma))
    unsure = np.median(sigma[:, valid])
    counted = np.sqrt(beam.aperture.radius / np.median(located.signal[valid.ravel()]))
    # A direct beam that is guessed from what surrounds it: rings may know better.
    if unsure > min(UNSURE, max(POOR, POORER * counted)):
        rings = from_rings(data, noise, "")
        if rings.found and np.median(rings.sigma_qx0) < unsure:
            return rings
    sigma = _with_scatter(position, sigma, valid)
    vague = unsure > max(UNSURE, POORER * counted)
    # Disks that were taken for the direct beam scatter, or are hardly known, or are seen in few patterns; few electrons
    # alone do not make them.
    known_to = np.median(sigma[:, valid].max(0))
    astray = known_to > UNSURE and (vague or known_to > 2 * unsure or blank > MOST * count)
    if blank > (MISSING if astray else MOST) * count and _brightness(data, noise, valid, known) > (
            DARK if astray else DIM):
        return _no_beam(scan, "Many patterns show no direct beam, though their electrons are there, so what was "
                              "located in the others is none: it may lie behind a beam stop or off the detector, or "
                              "be as dark as what surrounds it, in a thick crystal.")
    if known_to > UNSURE:  # what makes them so uncertain is common to many positions, and does not average out
        reason += (f" A position is known to {known_to:.2g} px only, where counting alone allows some {counted:.1g}: "
                   "the electrons are few, disks overlap, or the crystal is so thick that the direct beam is no "
                   "brighter than the rest; the fitted origin may be as far off.")
    return OriginMap(*position, *sigma, valid, float(beam.aperture.radius), True, reason)


def _brightness(data, noise: NoiseModel, valid, known) -> float:
    """The electrons of patterns without a beam, in those of patterns with one; 0 where there are none of either."""
    totals = []
    held = data.held().ravel() if isinstance(data, Sample) else True
    for some in (valid.ravel() & held, ~valid.ravel() & known & held):
        chosen = np.flatnonzero(some)
        if not len(chosen):  # of a sample that holds none of these
            return 0.0
        chosen = chosen[np.unique(np.linspace(0, len(chosen) - 1, COMPARED).astype(int))]
        blocks = [noise.electrons(block).sum((1, 2)) for _, block in reading.patterns(data, positions=chosen)]
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
        out.append(np.sqrt(known**2 + extra + SYSTEMATIC**2))
    return np.stack(out)


def from_rings(data, noise, reason) -> OriginMap:
    """What rings say where the direct beam says nothing, and why it does not."""
    scan = reading.shape_of(data)[:2]
    if not noise.dose > 0:
        return _no_beam(scan, reason)
    found, no_rings = ring_origins(data, noise)
    if found is None:
        return _no_beam(scan, f"{reason} Nor do rings: {no_rings}.")
    said = "The direct beam is hidden: what is reported is the center of the rings, which can lie pixels from it."
    position, sigma, valid = found
    if not valid.all():
        said += f" {np.count_nonzero(~valid)} of {valid.size} positions show no rings."
    return OriginMap(*position, *sigma, valid, float("nan"), True, said, "rings")


def _no_beam(scan, reason) -> OriginMap:
    nothing = [np.full(scan, np.nan) for _ in range(4)]
    return OriginMap(*nothing, np.zeros(scan, bool), float("nan"), False, reason)


def fit_origin(origin: OriginMap, model: str = "auto") -> OriginFit:
    """Fit a smooth surface (constant, plane, parabola or spline) to measured origins.

    Weighted by their sigmas, robust against disks taken for the direct beam, and chosen by held-out residuals
    unless `model` names one. It steps where the beam jumps, and where the descan itself changes, as in joined scans,
    each part has a surface of its own (`descan.py`); `model` is then that of the richest part. Raises
    PrenetError for an unknown model.
    """
    maps, sigmas = (origin.qx0, origin.qy0), (origin.sigma_qx0, origin.sigma_qy0)
    x, y, more = fit_descan(maps, sigmas, origin.valid, model)
    said = [f"qx0: {x.reason}", f"qy0: {y.reason}", *more]
    sigmas = [np.hypot(surface.sigma, SYSTEMATIC) for surface in (x, y)]  # positions are off by some of it alike
    return OriginFit(x.values, y.values, x.residual, y.residual, *sigmas, x.model, x.accepted and y.accepted,
                     "; ".join(said))


def check_mask(data, mask):
    """Raise PrenetError unless the mask is None or bool of the pattern's shape (Qx, Qy)."""
    shape = reading.shape_of(data)[2:]
    if mask is not None and (np.shape(mask) != shape or np.asarray(mask).dtype != bool):
        raise PrenetError(f"The mask must be a boolean array of the pattern's shape {shape}, True where a pixel is "
                          f"good; this one has shape {np.shape(mask)} and type {np.asarray(mask).dtype}.")
    if mask is not None and not np.any(mask):
        raise PrenetError("The mask excludes every pixel; it must be True where a pixel is good.")


def _with_mask(noise: NoiseModel, mask) -> NoiseModel:
    """The noise model with the pixels that a user's mask (True = good) excludes among its bad ones."""
    if mask is None:
        return noise
    return replace(noise, bad_pixels=noise.bad_pixels | ~np.asarray(mask))
