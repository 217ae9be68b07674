"""Fraction of the error of the direct beam's position that is the same at all positions of a scan.

Structure in the direct disk shifts its measured position. Over many different grains these errors average out; in a
single crystal they are the same everywhere, and averaging does not reduce them. Only structure that is not symmetric
about the center shifts the position; therefore only the asymmetric part of the patterns is compared.
"""

from __future__ import annotations

import numpy as np

from ..fits import electron_windows
from . import Beam

EDGE_MARGIN_PX = 2.0  # pixels; margin about the edge of the disk that is left out, where shifts cause asymmetry
OUTER_RADII, MAX_WINDOW_BINS = 4.0, 65  # radii, outer limit of the surroundings of the disk; bins, side of their window
MIN_SIGNIFICANCE = 3.0  # standard errors; smallest asymmetry for which the repeated fraction is measured
# Weight of asymmetry in the surroundings of the disk relative to asymmetry inside it. Set on 65 multislice scans of 1
# to 33 grains (rms of error / sigma of the fit).
SURROUNDINGS_PART = 0.1


def repeated_fraction(patterns, positions, beam: Beam) -> float:
    """Measure the fraction of the variance of the position errors that all patterns of a sample share.

    Parameters
    ----------
    patterns : numpy.ndarray, shape (n, Qx, Qy)
        Patterns in detector units.
    positions : numpy.ndarray, shape (n, 2)
        Positions of the direct beam in pixels.
    beam : Beam
        The direct beam.

    Returns
    -------
    float
        1 if all patterns have the same asymmetric structure, as in a single crystal; 1 / n for n equally frequent
        specimens; 0 if the patterns show no structure beyond counting noise.

    Notes
    -----
    If the error of a position is a linear function of the asymmetric structure a of its pattern, the variance of the
    mean error is that of a single error times ``|mean(a)|**2 / mean(|a|**2)``, both without counting noise.
    """
    radius, noise = beam.aperture.radius, beam.noise
    inner = radius - max(EDGE_MARGIN_PX, 2 * beam.aperture.edge)
    inside = _repeated(patterns, positions, noise, 2 * int(inner / beam.bins) + 1, beam.bins, 0.0, inner)
    outer = OUTER_RADII * radius
    bins = max(1, int(np.ceil(2 * outer / MAX_WINDOW_BINS)))
    outside = _repeated(patterns, positions, noise, 2 * int(outer / bins) + 1, bins,
                        radius + max(EDGE_MARGIN_PX, 2 * beam.aperture.edge), outer)
    return float(min(1.0, inside + SURROUNDINGS_PART * outside))


def _repeated(patterns, positions, noise, side, bins, low, high):
    """Squared ratio of the mean asymmetry to that of single patterns between two radii; 0 if not significant."""
    if side < 3:
        return 0.0
    electrons, good, _ = electron_windows(patterns, positions, side, noise, bins)
    electrons, good = (a.numpy().reshape(len(patterns), -1) for a in (electrons, good))
    axis = (np.arange(side) - (side - 1) / 2) * bins
    distance = np.hypot(axis[:, None], axis).ravel()
    half = np.flatnonzero((distance >= low) & (distance < high))
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
