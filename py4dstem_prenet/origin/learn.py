"""The beam of a scan learned from a sample of its patterns: aperture, contrast, hot pixels, and the descan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..compute import adapt_threads
from ..core import NoiseModel, Scan, spread_positions
from ..descan import fit_descan
from ..fits import (
    LEARNING_ROUNDS,
    Aperture,
    DiskModel,
    electron_windows,
    fit_disk,
    hot_pixels,
    pool_arrays,
)
from ..networks import WINDOW
from .beam import ASTRAY, Beam, fit_windows

SAMPLE, SAMPLE_BYTES = 256, 2**28  # patterns from which the beam is learned
FEWEST = 8  # patterns in a sample that may show an aperture of their own
ROUGH = 0.5  # blur before it is known, pixels
CONTRADICTS, CONTRADICTED = 5.0, 0.03  # sigmas of the network off what it says, and the part of patterns that may be
HOT_ROUNDS = 3  # in which pixels are found to be hot, strong ones before those that they outshine


def learn_beam(scan: Scan, noise: NoiseModel, guess, radius: float, shown, device: str) -> tuple[Beam, np.ndarray]:
    """Learn the beam from a sample of a scan; and a better guess of every origin, (Rx * Ry, 2).

    Args:
        guess: (Rx * Ry, 2) of the origins, pixels. radius: of the disk, roughly. shown: (Rx * Ry,) bool, where
            to learn from.
    """
    fewer = int(np.clip(SAMPLE_BYTES // (4 * scan.pattern_shape[0] * scan.pattern_shape[1]), 16, SAMPLE))
    sample = _some(scan, shown, fewer)
    patterns = scan.read(sample)
    lit = _lit(patterns, noise)
    sample, patterns = sample[lit], patterns[lit]
    beam = Beam(device, noise, Aperture(radius, ROUGH, (0.0, 0.0)))
    at, sigma = beam.ask(patterns, guess[sample])
    smooth, scatter = _surface(at, sigma, sample, scan.scan_shape)
    guess = guess if smooth is None else smooth
    beam = replace(beam, aperture=_pooled_aperture(patterns, at, noise, beam.aperture))
    unfitted, asked = beam, (at, sigma)
    for _ in range(2):  # what was learned gives a better surface, and that better windows to learn from
        # Where the network is close to the surface, the surface is the better start.
        adapt_threads()
        near = (np.abs(at - guess[sample]) < np.maximum(ASTRAY, 3 * sigma)).all(1)
        beam = _fitted_to(patterns, np.where(near[:, None], guess[sample], at), beam)
        found = beam.locate(patterns, guess[sample])
        smooth, fitted_scatter = _surface(found.position, found.sigma, sample, scan.scan_shape)
        if len(sample) >= FEWEST and fitted_scatter > 1.5 * scatter:
            return unfitted, guess  # the disk of this scan has no edge that the fit could hold on to
        at, sigma = found.position, found.sigma
        guess = guess if smooth is None else smooth
    if beam.noise is not noise:  # hot pixels were found, which misled the network
        unfitted = replace(unfitted, noise=beam.noise)
        asked = unfitted.ask(patterns, guess[sample])
    if _disagree(*asked, at):
        return unfitted, guess
    return replace(beam, aperture=beam.fits[0][0].unbinned(beam.bins)), guess


def _disagree(asked, sigma, fitted):
    """Whether the fit contradicts the network in some part of a sample, (n, 2) each, by more than the network errs.

    In a scan of few specimens the contrast that was learned from most of them may mislead the fit in all patterns of
    another. The network knows no contrast in particular; where both are right they agree.
    """
    off = (np.abs(fitted - asked) / sigma).max(1) > CONTRADICTS
    return off.sum() >= 2 and off.mean() > CONTRADICTED


def _fitted_to(patterns, start, beam):
    """The beam with its fits; and with the hot pixels that these show in its noise model."""
    for _ in range(HOT_ROUNDS):
        beam = replace(beam, fits=_fits(patterns, start, beam.noise, beam))
        if beam.bins > 1 or not beam.fits:  # a pixel of a disk so large moves nothing
            break
        hot = hot_pixels(patterns, start, beam.noise, *beam.fits[0], beam.here)
        if not hot.any():
            break
        beam = replace(beam, noise=replace(beam.noise, bad_pixels=beam.noise.bad_pixels | hot))
    return beam


def _surface(at, sigma, sample, scan):
    """The descan surface through a sample, (Rx * Ry, 2) or None; and the scatter of the sample about it, pixels."""
    chosen = np.zeros(scan[0] * scan[1], bool)
    chosen[sample] = np.isfinite(sigma).all(1)
    maps = np.ones((4, len(chosen)))
    maps[:, sample] = *at.T, *np.where(np.isfinite(sigma), sigma, 1.0).T
    *surfaces, _ = fit_descan(*maps.reshape(2, 2, *scan), chosen.reshape(scan))
    values = np.stack([s.values.ravel() for s in surfaces], 1)
    scatter = float(np.hypot(*np.median(np.abs(at - values[sample]), 0)))
    return (values if all(s.accepted for s in surfaces) else None), scatter


def _some(scan, shown, count):
    """About `count` flat positions, evenly from those that are shown (Rx * Ry, bool)."""
    some = spread_positions(scan, int(count / shown.mean()))
    some = some[shown[some]]
    if len(some):
        return some
    return np.flatnonzero(shown & scan.readable.ravel())[:count]


def _lit(patterns, noise):
    """Patterns with a twentieth of the electrons of bright ones: nothing is learned where the beam was off."""
    electrons = (patterns[:, ~noise.bad_pixels].mean(1, dtype=np.float64) - noise.offset) / noise.gain
    bright = np.quantile(electrons, 0.9)
    return (electrons >= 0.05 * bright) | (bright <= 0)


def _pooled_aperture(patterns, at, noise, rough: Aperture) -> Aperture:
    """The aperture seen in the mean of recentered patterns; the rough one where that shows no disk worth the name."""
    electrons = (patterns.astype(np.float32) - noise.offset) / noise.gain
    disk = fit_disk(pool_arrays(electrons, *at.T, bad=noise.bad_pixels), rough.radius)
    plausible = (0.6 < disk.radius / rough.radius < 1.6 and np.hypot(*disk.vector) < 0.2 and
                 0 <= disk.edge < 0.5 * disk.radius + 1)
    return Aperture(disk.radius, max(disk.edge, 0.1), tuple(map(float, disk.vector))) if plausible else rough


def _fits(patterns, start, noise, beam):
    """Apertures learned from sample windows, each with the misfit up to which it describes a disk.

    A scan holds one aperture, but now and then two (files joined, the condenser changed): patterns that the first
    does not describe may show one of their own.
    """
    fits, aperture = [], beam.aperture.binned(beam.bins)
    odd = _odd_sizes(patterns, start, noise, beam)
    some, rest = np.flatnonzero(~odd), np.flatnonzero(odd)
    if not len(some):  # no size is the usual one
        some, rest = rest, some
    while len(some) and len(fits) < 2:
        aperture, misfit = _learned(aperture, patterns[some], start[some], beam)
        fits.append((aperture, _limit(misfit)))
        some = np.union1d(rest, some[misfit > fits[-1][1]])
        if len(some) < FEWEST:
            break
        aperture = Aperture(_half_maximum(patterns[some], start[some], noise, beam), 0.3, aperture.vector)
    return tuple(fits)


def _odd_sizes(patterns, around, noise, beam):
    """True where a disk is clearly larger or smaller than the usual one, even at a few electrons."""
    electrons, _, middle = electron_windows(patterns, around, WINDOW, noise, beam.bins)
    axis = np.arange(WINDOW) - (WINDOW - 1) / 2
    away = (around - middle) / beam.bins
    distance = np.hypot(axis[:, None] - away[:, :1, None], axis - away[:, 1:, None]) * beam.bins
    inner, whole = ((electrons.numpy() * (distance < part * beam.aperture.radius)).sum((1, 2)) for part in (0.5, 1.1))
    part = inner / whole.clip(1)  # a quarter in a flat disk, twice that in a very uneven one
    return np.abs(part - np.median(part)) > np.maximum(0.4, 5 * 0.5 / np.sqrt(whole.clip(1)))


def _learned(aperture, patterns, start, beam):
    """The aperture, sharpened and with its contrast, from windows; and its misfit in each of them."""
    for _ in range(LEARNING_ROUNDS):
        model = DiskModel(aperture, beam.here)
        fitted = fit_windows(model, patterns, start, beam.noise, beam.bins, learn=True)[0]
        misfit = fitted.misfit.cpu().numpy()
        aperture = model.learned(fitted, torch.from_numpy(misfit <= _limit(misfit)))
    model = DiskModel(aperture, beam.here)
    return aperture, fit_windows(model, patterns, start, beam.noise, beam.bins)[0].misfit.cpu().numpy()


def _limit(misfit) -> float:
    """The misfit that the described half of patterns hardly ever has."""
    low, middle = np.quantile(misfit, [0.1, 0.4])
    return float(middle + 5 * max(middle - low, 0.05 * middle))


def _half_maximum(patterns, around, noise, beam) -> float:
    """The radius, in bins, at which the mean of windows falls to half of its middle."""
    electrons, good, _ = electron_windows(patterns, around, WINDOW, noise, beam.bins)
    mean = (electrons.sum(0) / good.sum(0).clamp_min(1)).numpy()
    axis = np.arange(WINDOW) - (WINDOW - 1) / 2
    radius = np.hypot(axis[:, None], axis).astype(int)
    profile = np.bincount(radius.ravel(), mean.ravel()) / np.bincount(radius.ravel())
    top = profile[:2].mean()
    floor = np.median(profile[WINDOW // 4 : WINDOW // 2])
    return float(max(1.0, np.argmax(profile < (top + floor) / 2)))
