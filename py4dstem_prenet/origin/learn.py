"""Learn the direct beam of a scan from a sample of its patterns: aperture, contrast, hot pixels and descan surface.

The network locates the beam in the sample. A surface through these positions is a better guess, and the mean of the
recentered patterns shows the aperture. The disk model (`fits.DiskModel`) then learns edge and contrast from windows
around the positions, locates the beam, and learns once more. A sharp beam with soft edges is not the image of an
aperture; its radial profile is fitted (`fits.SpotModel`). The fit is not used, and the network alone locates the beam,
if the fitted positions scatter more about the descan than those of the network, or contradict them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..compute import adapt_threads
from ..core import NoiseModel, Scan, spread_positions
from ..descan import fit_descan
from ..fits import (
    LEARNING_ROUNDS,
    SEARCHED_RADII,
    Aperture,
    DiskModel,
    disk_outline,
    electron_windows,
    fit_disk,
    hot_pixels,
    pool_arrays,
    spot_model,
)
from .beam import MAX_FIT_MOVE_PX, Beam, fit_windows

MAX_BEAM_PATTERNS = 256  # patterns; most from which the beam is learned, chosen for speed
MAX_BEAM_BYTES = 2**28  # bytes; largest size of these patterns as float32
# Set on simulated scans:
MAX_FIT_RADIUS_PX = 26.0  # pixels; largest disk radius that is fitted without binning, chosen for speed
MIN_APERTURE_PATTERNS = 8  # patterns; fewest that determine an aperture
ROUGH_BLUR_PX = 0.5  # pixels, 1 sigma; blur of the edge before it is learned
MAX_PULL = 5.0  # standard errors of the network; largest difference between its position and the fit
MAX_DISAGREEING_FRACTION = 0.03  # fraction of the patterns; if more have a larger difference, the fit is not used
MAX_SCATTER_RATIO = 1.5  # ratio; largest scatter of fitted positions relative to the network's if the fit is used
MIN_SEARCHED_RADIUS_PX = 2.0  # pixels; smallest radius of a disk in which hot pixels are searched for
HOT_PIXEL_ROUNDS = 3  # rounds; most in which hot pixels are searched for, since strong ones hide weak ones
RADIUS_FACTORS = (0.5, 0.7, 1.0, 1.4, 2.0)  # factors on the radius that are tried
RADIUS_ROUNDS = 4  # rounds; most in which the radius may change
RADIUS_PATTERNS = 16  # patterns; number that is located with each radius, chosen for speed
MIN_SIGMA_GAIN = 0.8  # ratio; largest sigma with a new radius relative to the current one, for which the radius changes
FEW_PATTERNS = 8  # patterns; largest sample in which a single contradiction between network and fit suffices
# Beams that are not an image of the aperture, set on simulated sharp beams (benchmarks/sharp_beams.py):
MAX_SHARP_RADIUS_PX = 13.0  # pixels; largest radius of a spot, that of the network's window: a larger beam is a disk
MIN_HARD_RADIUS_PX = 1.7  # pixels at half maximum, about 1.8 at the edge; smaller disks look like spots
MAX_DISK_SOFTNESS = 0.5  # radii; largest distance in which the profile of a disk falls from 0.8 to 0.2 of its height
CLEARLY_HARD = 0.7  # factor on MAX_DISK_SOFTNESS, and divisor of MIN_HARD_RADIUS_PX, before the spot is fitted
SPOT_ROUNDS = 2  # rounds in which the radius of a spot is measured
# Factor on the 75 % quantile of a sample; largest misfit of a spot, which varies with its position within a pixel.
SPOT_MISFIT_FACTOR = 4.0
BRIGHT_PATTERN_QUANTILE = 0.9  # quantile of the electrons in a sample that defines a bright pattern
MIN_LIT_FRACTION = 0.05  # fraction of the electrons of a bright pattern; with fewer electrons the beam was blanked


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
        True for positions from which the beam is learned.
    device : str
        "auto", "cpu", "cuda" or "mps".
    search_radius : bool, optional
        Whether different radii are tried before the edge is fitted; False if the user gives the radius.
    wide : bool, optional
        Whether the disk is too large for the network (`wide_disk`).

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
    for _ in range(2):  # the first round gives a better surface, and therefore better windows for the second
        adapt_threads()
        # If the network is close to the surface, the surface is the better start.
        close = (np.abs(position - guess[sample]) < np.maximum(MAX_FIT_MOVE_PX, 3 * sigma)).all(1)
        start = np.where(close[:, None], guess[sample], position)
        beam = (None if wide else _as_spot(patterns, start, beam)) or _with_fits(patterns, start, beam)
        located = beam.locate(patterns, guess[sample])
        smooth, fitted_scatter = _surface(located.position, located.sigma, sample, scan.scan_shape)
        if len(sample) >= MIN_APERTURE_PATTERNS and fitted_scatter > MAX_SCATTER_RATIO * scatter:
            # The disk of this scan has no edge that can be fitted.
            return _with_outline(without_fit, patterns, predicted[0]), guess
        position, sigma = located.position, located.sigma
        guess = guess if smooth is None else smooth
    if beam.noise is not noise:  # the hot pixels that were found had disturbed the network
        without_fit = replace(without_fit, noise=beam.noise)
        predicted = without_fit.predict(patterns, guess[sample])
    if _disagree(*predicted, position):
        return _with_outline(without_fit, patterns, predicted[0]), guess
    beam = _with_outline(beam, patterns, position)
    electrons = float(np.quantile(located.signal, BRIGHT_PATTERN_QUANTILE))
    return replace(beam, aperture=beam.fits[0][0].unbinned(beam.fit_bins),
                   fits=tuple((aperture.lean(electrons), limit) for aperture, limit in beam.fits)), guess


def _with_outline(beam, patterns, positions):
    """Return the beam with the outline of its disk in the sum of the recentered patterns."""
    if beam.aperture.radius < MIN_HARD_RADIUS_PX:  # the outline is that of a pixel
        return beam
    bins = beam.fit_bins
    side = 2 * int(np.ceil((1 + SEARCHED_RADII) * beam.aperture.radius / bins)) + 7
    electrons, good, middle = electron_windows(patterns, positions, side, beam.noise, bins)
    number = good.sum(0).numpy()
    total = electrons.sum(0).numpy() * (number.max() / number.clip(1))
    center = (side - 1) / 2 + (positions - middle).mean(0) / bins
    readout = bins * beam.noise.readout / beam.noise.gain * number.max() ** 0.5
    outline = disk_outline(total, number > 0, center, beam.aperture.radius / bins, readout)
    return replace(beam, outline=None if outline is None else outline.scaled(bins))


def _disagree(predicted, sigma, fitted):
    """Test whether fitted positions contradict those of the network, (n, 2) each, in a part of a sample.

    In a scan of few specimens, the contrast learned from most patterns may be wrong for all patterns of one specimen.
    The network assumes no contrast; if both methods are correct, they agree.
    """
    pulled = (np.abs(fitted - predicted) / sigma).max(1) > MAX_PULL
    return pulled.sum() >= (2 if len(pulled) > FEW_PATTERNS else 1) and pulled.mean() > MAX_DISAGREEING_FRACTION


def _with_radius(beam, patterns, guess):
    """Return the beam with the radius for which the network is most certain of the positions in a few patterns.

    A sharp beam with long tails looks too large in block sums. With a wrong radius, the sigmas of the network are
    large.
    """
    chosen = np.unique(np.linspace(0, len(patterns) - 1, RADIUS_PATTERNS).astype(int))
    patterns, guess = patterns[chosen], guess[chosen]
    for _ in range(RADIUS_ROUNDS):
        trials = []  # (sigma, beam, positions)
        for factor in RADIUS_FACTORS:
            trial = replace(beam, aperture=replace(beam.aperture, radius=beam.aperture.radius * factor))
            position, sigma = trial.predict(patterns, guess)
            trials.append((np.median(np.hypot(*sigma.T)), trial, position))
        current = trials[RADIUS_FACTORS.index(1.0)][0]
        best = min(trials, key=lambda trial: trial[0])
        if best[0] > MIN_SIGMA_GAIN * current:
            break
        _, beam, guess = best
    return beam


def _with_fits(patterns, start, beam):
    """Return the beam with learned fits, and with the hot pixels that they reveal in its noise model."""
    beam = replace(beam, fits=() if beam.spot else beam.fits, spot=False,
                   fit_bins=max(1, int(np.ceil(beam.aperture.radius / MAX_FIT_RADIUS_PX))))
    for _ in range(HOT_PIXEL_ROUNDS):
        beam = replace(beam, fits=_fits(patterns, start, beam))
        # One hot pixel does not shift a disk this large, and the brightest pixel of a small spot looks hot.
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
        # Errors of the start positions soften the mean profile: a profile that is sharp about them is certainly sharp.
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
        scatter = np.inf  # the scatter is unknown if most positions were not found
    return (values if all(s.accepted for s in surfaces) else None), scatter


def _spread_sample(scan, shown, count):
    """Choose about `count` flat positions, evenly from those where `shown` (Rx * Ry,) is True."""
    sample = spread_positions(scan, int(count / shown.mean()))
    sample = sample[shown[sample]]
    if len(sample):
        return sample
    return np.flatnonzero(shown & scan.readable.ravel())[:count]


def _lit_patterns(patterns, noise):
    """Mask (n,) of the patterns with enough electrons for the beam to be on."""
    electrons = (patterns[:, ~noise.bad_pixels].mean(1, dtype=np.float64) - noise.offset) / noise.gain
    bright = np.quantile(electrons, BRIGHT_PATTERN_QUANTILE)
    return (electrons >= MIN_LIT_FRACTION * bright) | (bright <= 0)


def _pooled_aperture(patterns, position, noise, rough: Aperture) -> Aperture:
    """Fit the aperture to the mean of recentered patterns; return `rough` if the mean shows no plausible disk."""
    electrons = (patterns.astype(np.float32) - noise.offset) / noise.gain
    disk = fit_disk(pool_arrays(electrons, *position.T, bad=noise.bad_pixels), rough.radius)
    plausible = (0.6 < disk.radius / rough.radius < 1.6 and np.hypot(*disk.vector) < 0.2 and
                 0 <= disk.edge < 0.5 * disk.radius + 1)
    return Aperture(disk.radius, max(disk.edge, 0.1), tuple(map(float, disk.vector))) if plausible else rough


def _fits(patterns, start, beam):
    """Learn apertures from sample windows, each with the largest misfit of a disk that it describes.

    Usually a scan has one aperture, but joined files or a change of the condenser give two: a second aperture is
    learned from the patterns that the first does not describe.
    """
    fits, aperture = [], beam.fits[0][0] if beam.fits else beam.aperture.binned(beam.fit_bins)
    atypical = _odd_sizes(patterns, start, beam)
    index, remaining = np.flatnonzero(~atypical), np.flatnonzero(atypical)
    if not len(index):  # the sizes vary so much that no size is typical
        index, remaining = remaining, index
    while len(index) and len(fits) < 2:
        aperture, misfit = _learned_aperture(aperture, patterns[index], start[index], beam)
        fits.append((aperture, _misfit_limit(misfit)))
        index = np.union1d(remaining, index[misfit > fits[-1][1]])
        if len(index) < MIN_APERTURE_PATTERNS:
            break
        aperture = Aperture(_half_maximum(patterns[index], start[index], beam), 0.3, aperture.vector)
    return tuple(fits)


def _odd_sizes(patterns, positions, beam):
    """Mask (n,) of disks that are clearly larger or smaller than the typical disk, even with few electrons."""
    electrons, _, middle = beam.windows(patterns, positions)
    side = electrons.shape[-1]
    axis = np.arange(side) - (side - 1) / 2
    offset = (positions - middle) / beam.bins
    distance = np.hypot(axis[:, None] - offset[:, :1, None], axis - offset[:, 1:, None]) * beam.bins
    inner, whole = ((electrons.numpy() * (distance < part * beam.aperture.radius)).sum((1, 2)) for part in (0.5, 1.1))
    fraction = inner / whole.clip(1)  # 1/4 in a uniform disk, twice as much in a disk with strong contrast
    return np.abs(fraction - np.median(fraction)) > np.maximum(0.4, 5 * 0.5 / np.sqrt(whole.clip(1)))


def _learned_aperture(aperture, patterns, start, beam):
    """Learn edge and contrast of the aperture from windows; return the aperture and its misfit in each window."""
    for _ in range(LEARNING_ROUNDS):
        model = DiskModel(aperture, beam.resolved_device)
        fitted = fit_windows(model, patterns, start, beam.noise, beam.fit_bins, learn=True)[0]
        misfit = fitted.misfit.cpu().numpy()
        previous, aperture = aperture, model.learned(fitted, torch.from_numpy(misfit <= _misfit_limit(misfit)))
        if aperture.steady(previous):
            break
    model = DiskModel(aperture, beam.resolved_device)
    return aperture, fit_windows(model, patterns, start, beam.noise, beam.fit_bins)[0].misfit.cpu().numpy()


def _misfit_limit(misfit) -> float:
    """Largest misfit of patterns that the aperture describes, from the lower half of all misfits."""
    low, middle = np.quantile(misfit, [0.1, 0.4])
    return float(middle + 5 * max(middle - low, 0.05 * middle))


def _half_maximum(patterns, positions, beam) -> float:
    """Radius, in bins of the fit, at which the mean of windows falls to half of its central value."""
    electrons, good, _ = beam.windows(patterns, positions)
    mean = (electrons.sum(0) / good.sum(0).clamp_min(1)).numpy()
    side = mean.shape[-1]
    axis = np.arange(side) - (side - 1) / 2
    radius = np.hypot(axis[:, None], axis).astype(int)
    profile = np.bincount(radius.ravel(), mean.ravel()) / np.bincount(radius.ravel())
    top = profile[:2].mean()
    background = np.median(profile[side // 4 : side // 2])
    return float(max(1.0, np.argmax(profile < (top + background) / 2) * beam.bins / beam.fit_bins))
