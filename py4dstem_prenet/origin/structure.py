"""Error of the direct beam's position that is the same at all positions of a scan, because structure in the disk is.

Structure in the direct disk shifts its measured position. Over many different grains these errors average out; in a
single crystal they are the same everywhere, and averaging does not reduce them. Two parts of this error are measured
in a sample of patterns:

- The prior of the contrast pulls its terms toward zero, and the rest of the contrast moves the disk. In a fit with a
  prior that the whole sample would have, the terms are free: the mean position changes by what the prior moved it.
- Structure that the terms do not describe remains in the residuals of the fit. Only its asymmetric part shifts a
  position.

If pixels of the disk are bad or outside the frame, the position of the visible part depends on the radius: a third fit
with a larger radius tells by how much an error of the radius moves it.

Positions of a network or of a contour have no residuals. Their errors are common in proportion to the asymmetry of the
disk that is common to all patterns.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..core import MIN_RADIUS_SIGMA
from ..fits import disk_model, electron_windows
from . import Beam

EDGE_MARGIN_PX = 2.0  # pixels; margin about the edge of the disk that is left out, where shifts cause asymmetry
MIN_SIGNIFICANCE = 3.0  # standard errors; smallest asymmetry for which the repeated fraction is measured
# Radii, for a relative asymmetry of 1, rms over the disk; common error along one axis. For comparison, a slope of the
# brightness moves the center of mass by 0.35 radii. Set on multislice scans of 1 to 33 grains (benchmarks/sigma.py,
# seeds 1000 to 1044) and on hunts from seed 105000.
SHIFT_OF_ASYMMETRY = 0.2


def structure_sigma(patterns, positions, sigmas, beam: Beam) -> float:
    """Measure the error of the position that structure in the direct disk causes alike in all patterns of a sample.

    Parameters
    ----------
    patterns : numpy.ndarray, shape (n, Qx, Qy)
        Patterns in detector units.
    positions : numpy.ndarray, shape (n, 2)
        Positions of the direct beam in pixels.
    sigmas : numpy.ndarray, shape (n, 2)
        Standard errors of the positions in pixels.
    beam : Beam
        The direct beam.

    Returns
    -------
    float
        Standard error along one axis in pixels.
    """
    if len(patterns) < 2:
        return 0.0
    if not beam.fits or beam.spot:
        fraction = _repeated_fraction(patterns, positions, beam)
        return float(np.sqrt(fraction * np.median(sigmas**2)))
    aperture, max_misfit = beam.fits[0]
    model = disk_model(aperture, beam.resolved_device)
    device, readout = model.x.device, beam.noise.readout / beam.noise.gain * beam.fit_bins
    electrons, good, middle = electron_windows(patterns, positions, model.side, beam.noise, beam.fit_bins)
    electrons, good = electrons.to(device), good.to(device)
    start = torch.from_numpy((positions - middle) / beam.fit_bins).float().to(device)
    pooled = replace(aperture, contrast=tuple(c * len(patterns) ** 0.5 for c in aperture.contrast))
    with torch.inference_mode():
        fitted = model.fit(electrons, good, start, readout)
        free = disk_model(pooled, beam.resolved_device).fit(electrons, good, start, readout)
        described = fitted.misfit <= max_misfit
        if described.sum() < 2:
            return 0.0
        moved = (free.position - fitted.position)[described].mean(0)
        by_radius = torch.zeros_like(moved)
        if not good.all():
            error = float(np.hypot(np.nan_to_num(aperture.radius_sigma), MIN_RADIUS_SIGMA * aperture.radius))
            larger = disk_model(replace(aperture, radius=aperture.radius + error), beam.resolved_device)
            wider = electron_windows(patterns, positions, larger.side, beam.noise, beam.fit_bins)
            fit = larger.fit(wider[0].to(device), wider[1].to(device), start, readout)
            by_radius = (fit.position - fitted.position)[described].mean(0)
        score, information, level = (a[described].double() for a in model.surplus(electrons, good, fitted, readout))
        inside = torch.hypot(model.x, model.y) < aperture.radius
        asymmetry = _mean_asymmetry(*((a * level[:, None] ** power)[:, inside] for power, a in
                                      enumerate((score, information), 1)))
    variance = (moved.square() + by_radius.square()).mean() + (SHIFT_OF_ASYMMETRY * aperture.radius) ** 2 * asymmetry
    return float(variance.sqrt()) * beam.fit_bins


def _mean_asymmetry(score, information):
    """Mean square over the pixels of the asymmetric part of the mean residual, without noise; at least 0.

    `score` and `information` (n, pixels) are relative to the level of the disk. The pixels are in an order that is
    reversed by inversion. The noise is that of the scatter of the n patterns.
    """
    total = information.sum(0)
    used = (total > 0) & (total.flip(0) > 0)
    if not used.any():
        return total.new_zeros(())
    mean = score.sum(0) / total.clamp_min(1e-12)
    variance = (score - information * mean).square().sum(0) / total.clamp_min(1e-12).square()
    asymmetry = (mean - mean.flip(0)) / 2
    noise = (variance + variance.flip(0)) / 4
    return (asymmetry.square() - noise)[used].mean().clamp_min(0)


def _repeated_fraction(patterns, positions, beam):
    """Squared ratio of the mean asymmetry of the disk to that of single patterns; 0 if it is not significant."""
    radius, noise, bins = beam.aperture.radius, beam.noise, beam.bins
    inner = radius - max(EDGE_MARGIN_PX, 2 * beam.aperture.edge)
    side = 2 * int(inner / bins) + 1
    if side < 3:
        return 0.0
    electrons, good, _ = electron_windows(patterns, positions, side, noise, bins)
    electrons, good = (a.numpy().reshape(len(patterns), -1) for a in (electrons, good))
    axis = (np.arange(side) - (side - 1) / 2) * bins
    half = np.flatnonzero(np.hypot(axis[:, None], axis).ravel() < inner)
    half = half[half < side**2 // 2]  # one of each pair of a pixel and its inverse
    usable = good[:, half] & good[:, ::-1][:, half]
    asymmetry = np.where(usable, electrons[:, half] - electrons[:, ::-1][:, half], 0.0)
    readout = 2 * (bins * noise.readout / noise.gain) ** 2
    variance = np.where(usable, electrons[:, half] + electrons[:, ::-1][:, half] + readout, 0.0).sum(1)
    single = ((asymmetry**2).sum(1) - variance).mean()
    error = np.sqrt((2 * variance**2 / np.maximum(usable.sum(1), 1)).sum()) / len(patterns)
    if not single > MIN_SIGNIFICANCE * error:
        return 0.0
    mean = ((asymmetry.sum(0) ** 2).sum() - variance.sum()) / len(patterns) ** 2
    return float(np.clip(mean / single, 0.0, 1.0))
