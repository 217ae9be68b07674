"""Learn the direct beam of a scan from a sample of its patterns: aperture, contrast, hot pixels and descan surface.

The network locates the beam in the sample; a surface through these positions is a better guess, and the mean of the
recentered patterns shows the aperture. The disk model (`fits.DiskModel`) then learns edge and contrast from windows
around the positions, locates the beam, and learns once more. A sharp beam with soft edges is no image of an aperture;
its radial profile is fitted (`fits.SpotModel`). The fit is given up, and the network alone locates the beam, if the
fitted positions scatter more about the descan than those of the network, or contradict them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..compute import adapt_threads
from ..core import NoiseModel, Scan, spread_positions
from ..descan import fit_descan
from ..fits import LEARNING_ROUNDS, Aperture, DiskModel, electron_windows, fit_disk, hot_pixels, pool_arrays, spot_model
from .beam import MAX_FIT_MOVE_PX, Beam, fit_windows

MAX_BEAM_PATTERNS = 256  # patterns from which the beam is learned; chosen for speed
MAX_BEAM_BYTES = 2**28  # bytes of these patterns as float32
# Set on simulated scans:
MAX_FIT_RADIUS_PX = 26.0  # disk radius in pixels up to which the fit needs no binning; chosen for speed
MIN_APERTURE_PATTERNS = 8  # patterns of a sample that determine an aperture
ROUGH_BLUR_PX = 0.5  # pixels, 1 sigma: blur of the edge before it is learned
MAX_PULL = 5.0  # standard errors of the network, between its position and the fit
MAX_DISAGREEING_FRACTION = 0.03  # fraction of the patterns with a larger pull, above which the fit is given up
MAX_SCATTER_RATIO = 1.5  # scatter of fitted positions in that of the network's, above which the fit is given up
MIN_SEARCHED_RADIUS_PX = 2.0  # pixels, radius of a disk in which hot pixels are searched for
HOT_PIXEL_ROUNDS = 3  # rounds of the search for hot pixels: strong ones hide weak ones
RADIUS_FACTORS = (0.5, 0.7, 1.0, 1.4, 2.0)  # factors of the radius that are tried
RADIUS_ROUNDS = 4  # rounds in which another radius may be chosen
RADIUS_PATTERNS = 16  # patterns that are located with each radius; chosen for speed
MIN_SIGMA_GAIN = 0.8  # ratio of the network's sigmas below which another radius is better
FEW_PATTERNS = 8  # patterns of a sample in which a single contradiction of network and fit counts
# Beams that are no image of the aperture, set on simulated sharp beams (benchmarks/sharp_beams.py):
MAX_SHARP_RADIUS_PX = 13.0  # pixels, radius of the window of the network; a larger beam is a disk
MIN_HARD_RADIUS_PX = 1.7  # pixels at half maximum, about 1.8 at the edge: smaller disks cannot be told from spots
MAX_DISK_SOFTNESS = 0.5  # distance in which the profile of a disk falls from 0.8 to 0.2 of its height, in radii
CLEARLY_HARD = 0.7  # the same without a fit: of the softness, and the inverse of the radius
SPOT_ROUNDS = 2  # rounds in which the radius of a spot is found
SPOT_MISFIT_FACTOR = 4.0  # largest misfit of a spot in the 75 % quantile of a sample; it varies with the pixel's phase
BRIGHT_PATTERN_QUANTILE = 0.9  # of the electrons of a sample: those of a bright pattern
MIN_LIT_FRACTION = 0.05  # electrons of a pattern in those of bright ones; with fewer the beam was off


def learn_beam(scan: Scan, noise: NoiseModel, guess, radius: float, shown, device: str,
               search_radius: bool = True, wide: bool = False) -> tuple[Beam, np.ndarray]:
    """Learn the beam from a sample of a scan.

    Parameters
    ----------
    scan : Scan
        The scan, or a sample of one.
    noise : NoiseModel
        Noise model of the detector.
    guess : numpy.ndarray, shape (Rx * Ry, 2)
        Guess of every origin, pixels.
    radius : float
        Approximate radius of the disk, pixels.
    shown : numpy.ndarray of bool, shape (Rx * Ry,)
        True for positions to learn from.
    device : str
        "auto", "cpu", "cuda" or "mps".
    search_radius : bool, optional
        Whether other radii are tried before the edge is fitted; False if the user states the radius.
    wide : bool, optional
        Whether the disk is too large for the network, see `wide_disk`.

    Returns
    -------
    beam : Beam
        The beam. Its noise model includes the hot pixels that were found.
    guess : numpy.ndarray, shape (Rx * Ry, 2)
        A better guess of every origin, pixels.
    """
    pattern_bytes = 4 * scan.pattern_shape[0] * scan.pattern_shape[1]
    sample = _spread_sample(scan, shown, int(np.clip(MAX_BEAM_BYTES // pattern_bytes, 16, MAX_BEAM_PATTERNS)))
    patterns = scan.read(sample)
    lit = _lit_patterns(patterns, noise)
    sample, patterns = sample[lit], patterns[lit]
    beam = Beam(device, noise, Aperture(radius, ROUGH_BLUR_PX, (0.0, 0.0)), wide=wide)
    if search_radius and not wide:
        beam = _with_radius(beam, patterns, guess[sample])
    position, sigma = beam.predict(patterns, guess[sample])
    smooth, scatter = _surface(position, sigma, sample, scan.scan_shape)
    guess = guess if smooth is None else smooth
    beam = replace(beam, aperture=_pooled_aperture(patterns, position, noise, beam.aperture))
    without_fit, predicted = beam, (position, sigma)
    for _ in range(2):  # the first round gives a better surface, and with it better windows to learn from
        adapt_threads()
        # Where the network is close to the surface, the surface is the better start.
        near = (np.abs(position - guess[sample]) < np.maximum(MAX_FIT_MOVE_PX, 3 * sigma)).all(1)
        start = np.where(near[:, None], guess[sample], position)
        beam = (None if wide else _as_spot(patterns, start, beam)) or _with_fits(patterns, start, beam)
        located = beam.locate(patterns, guess[sample])
        smooth, fitted_scatter = _surface(located.position, located.sigma, sample, scan.scan_shape)
        if len(sample) >= MIN_APERTURE_PATTERNS and fitted_scatter > MAX_SCATTER_RATIO * scatter:
            return without_fit, guess  # the disk of this scan has no edge that a fit can use
        position, sigma = located.position, located.sigma
        guess = guess if smooth is None else smooth
    if beam.noise is not noise:  # the hot pixels that were found had disturbed the network
        without_fit = replace(without_fit, noise=beam.noise)
        predicted = without_fit.predict(patterns, guess[sample])
    if _disagree(*predicted, position):
        return without_fit, guess
    electrons = float(np.quantile(located.signal, BRIGHT_PATTERN_QUANTILE))
    return replace(beam, aperture=beam.fits[0][0].unbinned(beam.fit_bins),
                   fits=tuple((aperture.lean(electrons), limit) for aperture, limit in beam.fits)), guess


def _disagree(predicted, sigma, fitted):
    """Test whether fitted positions contradict those of the network, (n, 2) each, in part of a sample.

    In a scan with few specimens, the contrast learned from most patterns may be wrong for all patterns of another
    specimen. The network assumes no contrast; where both methods are right they agree.
    """
    pulled = (np.abs(fitted - predicted) / sigma).max(1) > MAX_PULL
    return pulled.sum() >= (2 if len(pulled) > FEW_PATTERNS else 1) and pulled.mean() > MAX_DISAGREEING_FRACTION


def _with_radius(beam, patterns, guess):
    """Return the beam with the radius for which the network is most certain of the positions in some patterns.

    A sharp beam with long tails looks larger in block sums than it is. With a wrong radius the network finds no
    position with a small sigma.
    """
    chosen = np.unique(np.linspace(0, len(patterns) - 1, RADIUS_PATTERNS).astype(int))
    patterns, guess = patterns[chosen], guess[chosen]
    for _ in range(RADIUS_ROUNDS):
        trials = []  # (sigma, beam, positions)
        for factor in RADIUS_FACTORS:
            trial = replace(beam, aperture=replace(beam.aperture, radius=beam.aperture.radius * factor))
            position, sigma = trial.predict(patterns, guess)
            trials.append((np.median(np.hypot(*sigma.T)), trial, position))
        usual = trials[RADIUS_FACTORS.index(1.0)][0]
        best = min(trials, key=lambda trial: trial[0])
        if best[0] > MIN_SIGMA_GAIN * usual:
            break
        _, beam, guess = best
    return beam


def _with_fits(patterns, start, beam):
    """Return the beam with its fits learned, and with the hot pixels that these show in its noise model."""
    beam = replace(beam, fits=() if beam.spot else beam.fits, spot=False,
                   fit_bins=max(1, int(np.ceil(beam.aperture.radius / MAX_FIT_RADIUS_PX))))
    for _ in range(HOT_PIXEL_ROUNDS):
        beam = replace(beam, fits=_fits(patterns, start, beam))
        # One hot pixel does not move a disk that is so large, and of a spot the brightest pixel looks hot.
        if beam.fit_bins > 1 or not beam.fits or beam.aperture.radius < MIN_SEARCHED_RADIUS_PX:
            break
        hot = hot_pixels(patterns, start, beam.noise, *beam.fits[0], beam.resolved_device)
        if not hot.any():
            break
        beam = replace(beam, noise=replace(beam.noise, bad_pixels=beam.noise.bad_pixels | hot))
    return beam


def _as_spot(patterns, start, beam) -> Beam | None:
    """Return the beam with the fit of a spot if it is small, or has softer edges than the image of an aperture."""
    if beam.aperture.radius > MAX_SHARP_RADIUS_PX:
        return None
    radius = beam.aperture.radius
    for number in range(SPOT_ROUNDS + 1):
        aperture = Aperture(round(radius, 2), ROUGH_BLUR_PX, (0.0, 0.0))
        model = spot_model(aperture, beam.resolved_device)
        electrons, good, middle = electron_windows(patterns, start, model.side, beam.noise)
        position, device = torch.from_numpy(start - middle), model.x.device
        if number:
            fitted = fit_windows(model, patterns, start, beam.noise, 1)[0]
            position = fitted.position
        radius, softness = model.shape(electrons.to(device), good.to(device), position.to(device))
        # Errors of the start soften the mean profile: what looks hard about the start is hard.
        part = 1.0 if number else CLEARLY_HARD
        if number in (0, SPOT_ROUNDS) and radius * part > MIN_HARD_RADIUS_PX and softness < MAX_DISK_SOFTNESS * part:
            return None
        radius = beam.aperture.radius if not number else radius
    limit = SPOT_MISFIT_FACTOR * float(np.quantile(fitted.misfit.cpu().numpy(), 0.75))
    return replace(beam, spot=True, fits=((aperture, limit),), fit_bins=1)


def _surface(position, sigma, sample, scan_shape):
    """Fit the descan surface through a sample: (Rx * Ry, 2) or None, and the scatter of the sample about it, pixels."""
    chosen = np.zeros(scan_shape[0] * scan_shape[1], bool)
    chosen[sample] = np.isfinite(sigma).all(1)
    maps = np.ones((4, len(chosen)))
    maps[:, sample] = *position.T, *np.where(np.isfinite(sigma), sigma, 1.0).T
    *surfaces, _ = fit_descan(*maps.reshape(2, 2, *scan_shape), chosen.reshape(scan_shape))
    values = np.stack([s.values.ravel() for s in surfaces], 1)
    scatter = float(np.hypot(*np.median(np.abs(position - values[sample]), 0)))
    if 2 * chosen.sum() < len(sample):
        scatter = np.inf  # of positions that were not found nothing is known
    return (values if all(s.accepted for s in surfaces) else None), scatter


def _spread_sample(scan, shown, count):
    """Choose about `count` flat positions, evenly from those with `shown`, (Rx * Ry,) bool."""
    sample = spread_positions(scan, int(count / shown.mean()))
    sample = sample[shown[sample]]
    if len(sample):
        return sample
    return np.flatnonzero(shown & scan.readable.ravel())[:count]


def _lit_patterns(patterns, noise):
    """Find the patterns with enough electrons for the beam to be on, (n,) bool."""
    electrons = (patterns[:, ~noise.bad_pixels].mean(1, dtype=np.float64) - noise.offset) / noise.gain
    bright = np.quantile(electrons, BRIGHT_PATTERN_QUANTILE)
    return (electrons >= MIN_LIT_FRACTION * bright) | (bright <= 0)


def _pooled_aperture(patterns, position, noise, rough: Aperture) -> Aperture:
    """Fit the aperture to the mean of recentered patterns; return the rough one if that shows no plausible disk."""
    electrons = (patterns.astype(np.float32) - noise.offset) / noise.gain
    disk = fit_disk(pool_arrays(electrons, *position.T, bad=noise.bad_pixels), rough.radius)
    plausible = (0.6 < disk.radius / rough.radius < 1.6 and np.hypot(*disk.vector) < 0.2 and
                 0 <= disk.edge < 0.5 * disk.radius + 1)
    return Aperture(disk.radius, max(disk.edge, 0.1), tuple(map(float, disk.vector))) if plausible else rough


def _fits(patterns, start, beam):
    """Learn apertures from sample windows, each with the largest misfit of a disk that it describes.

    Usually a scan has one aperture, but joined files or a change of the condenser give it two: a second one is learned
    from patterns that the first does not describe.
    """
    fits, aperture = [], beam.fits[0][0] if beam.fits else beam.aperture.binned(beam.fit_bins)
    odd = _odd_sizes(patterns, start, beam)
    index, rest = np.flatnonzero(~odd), np.flatnonzero(odd)
    if not len(index):  # the sizes vary so much that none is usual
        index, rest = rest, index
    while len(index) and len(fits) < 2:
        aperture, misfit = _learned_aperture(aperture, patterns[index], start[index], beam)
        fits.append((aperture, _misfit_limit(misfit)))
        index = np.union1d(rest, index[misfit > fits[-1][1]])
        if len(index) < MIN_APERTURE_PATTERNS:
            break
        aperture = Aperture(_half_maximum(patterns[index], start[index], beam), 0.3, aperture.vector)
    return tuple(fits)


def _odd_sizes(patterns, positions, beam):
    """Find disks that are clearly larger or smaller than the usual one, even at a few electrons, (n,) bool."""
    electrons, _, middle = beam.windows(patterns, positions)
    side = electrons.shape[-1]
    axis = np.arange(side) - (side - 1) / 2
    away = (positions - middle) / beam.bins
    distance = np.hypot(axis[:, None] - away[:, :1, None], axis - away[:, 1:, None]) * beam.bins
    inner, whole = ((electrons.numpy() * (distance < part * beam.aperture.radius)).sum((1, 2)) for part in (0.5, 1.1))
    fraction = inner / whole.clip(1)  # 1/4 in a uniform disk, twice that in a very uneven one
    return np.abs(fraction - np.median(fraction)) > np.maximum(0.4, 5 * 0.5 / np.sqrt(whole.clip(1)))


def _learned_aperture(aperture, patterns, start, beam):
    """Learn edge and contrast of the aperture from windows; return it, and its misfit in each window."""
    for _ in range(LEARNING_ROUNDS):
        model = DiskModel(aperture, beam.resolved_device)
        fitted = fit_windows(model, patterns, start, beam.noise, beam.fit_bins, learn=True)[0]
        misfit = fitted.misfit.cpu().numpy()
        before, aperture = aperture, model.learned(fitted, torch.from_numpy(misfit <= _misfit_limit(misfit)))
        if aperture.steady(before):
            break
    model = DiskModel(aperture, beam.resolved_device)
    return aperture, fit_windows(model, patterns, start, beam.noise, beam.fit_bins)[0].misfit.cpu().numpy()


def _misfit_limit(misfit) -> float:
    """Largest misfit of patterns that the aperture describes, from the lower half of all misfits."""
    low, middle = np.quantile(misfit, [0.1, 0.4])
    return float(middle + 5 * max(middle - low, 0.05 * middle))


def _half_maximum(patterns, positions, beam) -> float:
    """Radius, in bins of the fit, at which the mean of windows falls to half of its center."""
    electrons, good, _ = beam.windows(patterns, positions)
    mean = (electrons.sum(0) / good.sum(0).clamp_min(1)).numpy()
    side = mean.shape[-1]
    axis = np.arange(side) - (side - 1) / 2
    radius = np.hypot(axis[:, None], axis).astype(int)
    profile = np.bincount(radius.ravel(), mean.ravel()) / np.bincount(radius.ravel())
    top = profile[:2].mean()
    background = np.median(profile[side // 4 : side // 2])
    return float(max(1.0, np.argmax(profile < (top + background) / 2) * beam.bins / beam.fit_bins))
