"""Center of mass of all patterns about the fitted origin, and the dark-field signal, in one streamed pass.

The center of mass is measured twice: over the whole detector, where for a thin specimen it is the gradient of the
projected potential for any probe, and within the direct disk, where counting noise is smaller if many electrons are
scattered to large angles. Descan and slow variations of the specimen cannot be distinguished; therefore a parabola is
removed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.ndimage import binary_opening, gaussian_filter, maximum_filter, minimum_filter

from ..compute import map_chunks
from ..core import NoiseModel, Scan, flat_origins, usable_positions

DISK_REACH = 1.3  # radii of the direct disk; radius in which the center of mass of the disk is measured
DARK_FROM = 1.25  # radii of the direct disk; inner radius of the dark field
# Standard deviations of counting, and ranges of the eight neighbors; a value outside the range of its neighbors by more
# than the sum of the two is replaced.
MAX_OUTLIER_SIGMAS = 8.0
MAX_OUTLIER_RANGES = 3.0
MAX_REPLACED_PX = 5  # pixels; smallest side of a hole of bad pixels that is left out instead of filled


@dataclass(frozen=True)
class Deflection:
    """Deflection of the beam at every scan position.

    Attributes
    ----------
    disk, whole : numpy.ndarray, shape (2, Rx, Ry)
        Center of mass of the direct disk and of the whole pattern about the origin, pixels of the pattern along qx and
        qy, without a parabola over the scan. `disk` is zero if the radius is unknown.
    disk_noise, whole_noise : float
        Variance of each component due to counting, square pixels.
    dark : numpy.ndarray, shape (Rx, Ry)
        Fraction of the electrons outside of the disk; zero if the radius is unknown.
    valid : numpy.ndarray of bool, shape (Rx, Ry)
        False where values were replaced.
    """

    disk: np.ndarray
    whole: np.ndarray
    disk_noise: float
    whole_noise: float
    dark: np.ndarray
    valid: np.ndarray


def measure_deflection(scan: Scan, qx0, qy0, radius, noise: NoiseModel, valid=None, progress=None) -> Deflection:
    """Measure the deflection of the beam at every scan position.

    Parameters
    ----------
    scan : Scan
        The scan.
    qx0, qy0 : numpy.ndarray, shape (Rx, Ry)
        Fitted origin, pixels.
    radius : float
        Radius of the direct disk, pixels; NaN if it is unknown.
    noise : NoiseModel
        Noise model. Bad pixels are filled from their neighbors; larger holes are left out.
    valid : numpy.ndarray of bool, shape (Rx, Ry), optional
        True where a position is used; all other positions are replaced by a mean of their neighbors.
    progress : str, optional
        Text of a progress bar.

    Returns
    -------
    Deflection
        Both fields with the variance due to counting, and the dark-field signal.

    Examples
    --------
    >>> from py4dstem_prenet.core import NoiseModel, as_scan
    >>> from py4dstem_prenet.simulation import simulate_nanobeam
    >>> made = simulate_nanobeam((8, 8), (32, 32), field=0.5, radius=4.0)
    >>> noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((32, 32), bool), counting=True, dose=1e5)
    >>> truth = made.truth
    >>> found = measure_deflection(as_scan(made.counts(1e5)), truth["qx0"], truth["qy0"], 4.0, noise)
    >>> found.disk.shape, bool(found.disk_noise < 1e-3)
    ((2, 8, 8), True)
    """
    origin = flat_origins(scan.scan_shape, qx0, qy0)
    usable = usable_positions(scan, origin, valid)
    holes = binary_opening(noise.bad_pixels, np.ones((MAX_REPLACED_PX, MAX_REPLACED_PX)))
    sums = np.full((scan.size, 8), np.nan)
    work = partial(_moments, radius=float(radius), noise=noise, holes=holes if holes.any() else None)
    for index, part in map_chunks(work, scan, origin, positions=np.flatnonzero(usable), progress=progress):
        sums[index] = part
    sums = sums.reshape(*scan.scan_shape, 8)
    good = np.isfinite(sums).all(-1) & (sums[..., 0] > 0)
    fields, noises = [], []
    for first in (1, 5):
        field = np.moveaxis(sums[..., first : first + 2], -1, 0)
        variance = float(np.mean(sums[..., first + 2][good])) if good.any() else 0.0
        field, kept = flatten(field, good, variance)
        fields.append(field)
        noises.append(variance)
        good = good & kept if first == 5 else good
    dark = np.where(good, sums[..., 4], np.median(sums[..., 4][good]) if good.any() else 0.0)
    return Deflection(fields[1], fields[0], noises[1], noises[0], dark, good)


def flatten(field, valid, noise: float = 0.0):
    """Remove a parabola from maps over the scan, and replace invalid values and outliers by a mean of neighbors.

    Parameters
    ----------
    field : numpy.ndarray, shape (k, Rx, Ry)
        The maps.
    valid : numpy.ndarray of bool, shape (Rx, Ry)
        True where a value is used.
    noise : float, optional
        Variance of the values due to counting.

    Returns
    -------
    field : numpy.ndarray, shape (k, Rx, Ry)
        The maps without parabola.
    kept : numpy.ndarray of bool, shape (Rx, Ry)
        False where values were replaced.
    """
    if not valid.any():
        return np.zeros_like(field), valid
    filled = np.where(valid, field, np.median(field[:, valid], axis=1)[:, None, None])
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False  # an atom also changes neighboring values; a cosmic ray does not
    high = np.stack([maximum_filter(m, footprint=ring, mode="nearest") for m in filled])
    low = np.stack([minimum_filter(m, footprint=ring, mode="nearest") for m in filled])
    allowed = MAX_OUTLIER_RANGES * (high - low) + MAX_OUTLIER_SIGMAS * np.sqrt(noise)
    kept = valid & ((filled <= high + allowed) & (filled >= low - allowed)).all(0)
    if not kept.any():
        return np.zeros_like(field), kept
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in valid.shape), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1)
    flattened = np.empty_like(filled)
    for k, values in enumerate(filled):
        smooth = terms @ np.linalg.lstsq(terms[kept], values[kept], rcond=None)[0]
        residual = np.where(kept, values - smooth, 0.0)
        weight = gaussian_filter(kept.astype(float), 1.0, mode="nearest")
        neighbor_mean = gaussian_filter(residual, 1.0, mode="nearest") / np.maximum(weight, 1e-3)
        flattened[k] = np.where(kept, residual, neighbor_mean)
    return flattened, kept


def _moments(index, block, origin, radius, noise, holes):
    """Moments (n, 8): electrons; x, y, variance of the whole pattern; dark fraction; x, y, variance of the disk."""
    electrons = noise.electrons(block)
    if holes is not None:
        electrons[:, holes] = 0
    moments = np.zeros((len(block), 8))
    shape = electrons.shape[1:]
    moments[:, 0] = electrons.sum((1, 2), dtype=float)
    lines = [electrons.sum(2 - axis, dtype=float) for axis in (0, 1)]
    readout = (noise.readout / noise.gain) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        for axis in (0, 1):
            distance = np.arange(shape[axis]) - origin[:, axis, None]
            moments[:, 1 + axis] = (lines[axis] * distance).sum(1) / moments[:, 0]
            spread = (np.clip(lines[axis], 0, None) + readout * shape[1 - axis]) * distance**2
            moments[:, 3] += 0.5 * spread.sum(1) / moments[:, 0] ** 2
        if np.isfinite(radius):
            _disk_moments(electrons, origin, radius, readout, moments)
    return moments


def _disk_moments(electrons, origin, radius, readout, out):
    """Write moments of the disk (soft edge, one pixel wide) and the fraction of electrons outside of it into `out`."""
    x, y = (np.arange(n, dtype=np.float32) for n in electrons.shape[1:])
    half = DISK_REACH * radius + 1.5
    for n, pattern in enumerate(electrons):
        low = np.maximum(np.ceil(origin[n] - half), 0).astype(int)
        high = np.maximum(np.floor(origin[n] + half).astype(int) + 1, low)
        dx, dy = x[low[0] : high[0], None] - origin[n, 0], y[None, low[1] : high[1]] - origin[n, 1]
        distance = np.hypot(dx, dy)
        inside = pattern[low[0] : high[0], low[1] : high[1]]
        soft_mask = np.clip(DISK_REACH * radius + 0.5 - distance, 0, 1)
        weighted = inside * soft_mask
        total = weighted.sum(dtype=float)
        out[n, 5], out[n, 6] = (weighted * dx).sum() / total, (weighted * dy).sum() / total
        out[n, 7] = 0.5 * ((np.clip(inside, 0, None) + readout) * (soft_mask * distance) ** 2).sum() / total**2
        bright = (inside * np.clip(DARK_FROM * radius + 0.5 - distance, 0, 1)).sum(dtype=float)
        out[n, 4] = 1 - bright / out[n, 0]
