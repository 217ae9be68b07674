"""Positions of a scan at which the direct beam is that of vacuum, or most similar to it.

Scattering removes electrons from the direct disk, and diffraction makes the disk uneven. Both effects are measured at
every position, with their counting noise.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from ..compute import map_chunks
from ..core import NoiseModel, Scan, flat_origins, sample_positions, usable_positions

MAX_SAMPLED = 16384  # positions; most of a large scan that are examined
TOP_PART = 0.02  # fraction of the positions; those with the strongest direct beams, whose median is that of vacuum
MIN_TOP = 4  # positions; fewest of these
MAX_LOSS_SIGMAS = 3.0  # standard errors; largest loss of the direct beam relative to vacuum
MIN_LOSS = 0.005  # fraction of the direct beam; a smaller loss counts as vacuum, even if it is significant
MAX_UNEVEN_SIGMAS = 3.0  # standard errors; largest variance inside the disk in excess of counting noise
MAX_UNEVEN = 0.1  # fraction of the mean; a smaller rms in excess of counting noise counts as even
MIN_POSITIONS = 16  # positions; fewest that are chosen
INNER_PART = 0.85  # radii; radius of the part of the disk that is compared
DISK_MARGIN = 2.0  # pixels; margin around the disk whose electrons count as the direct beam


def choose_thin(scan: Scan, qx0, qy0, radius: float, noise: NoiseModel, valid=None, progress=None):
    """Choose the positions whose direct beam is most similar to that of vacuum.

    Parameters
    ----------
    scan : Scan
        The scan.
    qx0, qy0 : numpy.ndarray, shape (Rx, Ry)
        Fitted origin, pixels.
    radius : float
        Radius of the direct disk, pixels.
    noise : NoiseModel
        Noise model.
    valid : numpy.ndarray of bool, shape (Rx, Ry), optional
        True where a position is used.
    progress : str, optional
        Text of a progress bar.

    Returns
    -------
    chosen : numpy.ndarray of bool, shape (Rx, Ry)
        True where a position was chosen. Within counting noise, the chosen positions have the same fraction of their
        electrons in the direct disk as the best positions of the scan, and an equally even disk. At least 16 positions
        are chosen.
    direct : float
        Median fraction of the electrons in the direct disk at these positions.

    Examples
    --------
    >>> from py4dstem_prenet.core import NoiseModel, as_scan
    >>> from py4dstem_prenet.simulation import simulate_nanobeam
    >>> made = simulate_nanobeam((8, 8), (48, 48), field=0.0)
    >>> noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((48, 48), bool), counting=True, dose=1e4)
    >>> scan = as_scan(made.counts(1e4))
    >>> chosen, direct = choose_thin(scan, made.truth["qx0"], made.truth["qy0"], 6.0, noise)
    >>> bool(chosen.mean() > 0.9), round(direct, 2)  # vacuum everywhere
    (True, 1.0)
    """
    origin = flat_origins(scan.scan_shape, qx0, qy0)
    usable = usable_positions(scan, origin, valid)
    positions = sample_positions(scan.scan_shape, MAX_SAMPLED) if scan.size > MAX_SAMPLED else np.arange(scan.size)
    positions = positions[usable[positions]]
    chosen = np.zeros(scan.size, bool)
    if not len(positions):
        return chosen.reshape(scan.scan_shape), 0.0
    values = np.full((scan.size, 4), np.nan)
    work = partial(_evenness, radius=radius, noise=noise)
    for index, part in map_chunks(work, scan, origin, positions=positions, progress=progress):
        values[index] = part
    positions = positions[np.isfinite(values[positions]).all(1)]
    direct, direct_sigma, uneven, uneven_sigma = values[positions].T
    if not len(positions):
        return chosen.reshape(scan.scan_shape), 0.0
    order = np.argsort(-direct)
    top = order[: max(MIN_TOP, int(TOP_PART * len(order)))]
    loss = np.median(direct[top]) - direct
    pattern = max(float(np.median(uneven[top])), 0.0)  # unevenness of the aperture itself
    even = uneven - pattern <= np.maximum(MAX_UNEVEN_SIGMAS * uneven_sigma, MAX_UNEVEN**2)
    good = (loss <= np.maximum(MAX_LOSS_SIGMAS * direct_sigma, MIN_LOSS)) & even
    if good.sum() < MIN_POSITIONS:  # choose those nearest to vacuum
        good = np.zeros(len(positions), bool)
        good[np.argsort(loss + np.clip(uneven, 0, None))[:MIN_POSITIONS]] = True
    chosen[positions[good]] = True
    return chosen.reshape(scan.scan_shape), float(np.median(direct[good]))


def _evenness(index, block, origin, radius, noise):
    """Fraction of electrons in the direct disk, and squared unevenness, each with its sigma, (n, 4)."""
    electrons = noise.electrons(block)
    readout = (noise.readout / noise.gain) ** 2
    half = radius + DISK_MARGIN
    evenness = np.full((len(block), 4), np.nan)
    for n, pattern in enumerate(electrons):
        low = np.maximum(np.ceil(origin[n] - half), 0).astype(int)
        window = pattern[low[0] : max(int(origin[n, 0] + half) + 1, 0), low[1] : max(int(origin[n, 1] + half) + 1, 0)]
        x, y = (low[axis] + np.arange(window.shape[axis]) - origin[n, axis] for axis in (0, 1))
        distance = np.hypot(x[:, None], y[None, :])
        in_disk, inner = distance < half, distance < max(INNER_PART * radius, 1.0)
        total, direct = float(pattern.sum(dtype=float)), float(window[in_disk].sum(dtype=float))
        values = window[inner].astype(float)
        mean = values.mean() if values.size > 1 else 0.0
        if not (total > 0 and mean > 0):
            continue
        fraction = direct / total
        spread = np.clip(fraction * (1 - fraction), 1 / total, None) / total + readout * in_disk.sum() / total**2
        noise_variance = mean + readout
        kurtosis = mean + 2 * noise_variance**2  # variance of a squared Poisson deviation
        evenness[n] = (fraction, np.sqrt(spread), (values.var(ddof=1) - noise_variance) / mean**2,
                  np.sqrt(kurtosis / values.size) / mean**2)
    return evenness
