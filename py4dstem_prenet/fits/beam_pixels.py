"""Hot pixels in the direct beam that are too weak for `detector.bad_pixels` but bias the origins.

The residuals of the disk model are summed for each detector pixel over a sample of patterns. Where the model is not
exact (the edge has a different shape, a line crosses the disk), pixels at a similar distance from the edge have similar
residuals, or the residual moves with the beam. A hot pixel exceeds the pixels at a similar distance, is isolated, and
is hot throughout the scan.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import rank_filter

from ..core import MIN_PART_SHARE, MIN_PATTERNS_IN_TIME, SCAN_PARTS, NoiseModel, ellipse_matrix
from ..detector import EIGHT_NEIGHBORS, MIN_SAMPLE_ELECTRONS
from . import Aperture, disk_model, electron_windows

# Set on simulated scans with and without hot pixels (tests/test_hot_pixels.py):
MIN_HOT_PULL = 7.0  # standard errors (noise and misfit in quadrature); smallest excess of a hot pixel
MIN_HOT_LEVEL = 0.04  # fraction of the disk's brightness; a smaller excess moves an origin by less than 0.01 px
MAX_HOT_FRACTION = 0.05  # fraction of the disk's pixels; more hot pixels than this show that the model is wrong


def hot_pixels(patterns, positions, noise: NoiseModel, aperture: Aperture, max_misfit: float, device: str):
    """Find pixels that are hot throughout a sample of patterns.

    Parameters
    ----------
    patterns : numpy.ndarray, shape (n, Qx, Qy)
        Patterns in detector units, in the order of the scan.
    positions : numpy.ndarray, shape (n, 2)
        Approximate positions of the direct beam in pixels.
    noise : NoiseModel
        Noise model of the detector.
    aperture : Aperture
        Aperture learned from the scan, in pixels.
    max_misfit : float
        Largest `DiskPositions.misfit` of a pattern that is used.
    device : str
        Device on which the disk is fitted.

    Returns
    -------
    numpy.ndarray of bool, shape (Qx, Qy)
        True where a pixel is hot; all False if so many pixels seem hot that the model must be wrong.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.core import NoiseModel
    >>> from py4dstem_prenet.fits import Aperture, hot_pixels
    >>> x, y = np.indices((32, 32)) - 15
    >>> mean = np.clip(5.5 - np.hypot(x, y), 0, 1) * 50.0 + 0.1
    >>> mean[20, 15] += 20  # on the edge of the disk
    >>> patterns = np.random.default_rng(0).poisson(mean, (64, 32, 32))
    >>> noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((32, 32), bool), counting=True, dose=mean.sum())
    >>> aperture = Aperture(5.0, 0.1, (0.0, 0.0), (0.01, 0.01))
    >>> np.argwhere(hot_pixels(patterns, np.full((64, 2), 15.0), noise, aperture, 5.0, "cpu")).tolist()
    [[20, 15]]
    """
    hot_map = np.zeros(patterns.shape[1:], bool)
    if len(patterns) < MIN_PATTERNS_IN_TIME:
        return hot_map
    half = disk_model(aperture, device).side // 2 + 1  # only the part of the detector that windows cover is examined
    low = (np.floor(positions.min(0)).astype(int) - half).clip(0)
    box = tuple(slice(a, b + half + 1) for a, b in zip(low, np.ceil(positions.max(0)).astype(int), strict=True))
    patterns, positions = patterns[(slice(None), *box)], positions - low
    if not patterns.size:  # the positions lie outside the frame
        return hot_map
    noise = replace(noise, bad_pixels=noise.bad_pixels[box])
    sums, *beam = _residual_sums(patterns, positions, noise, aperture, max_misfit, device)
    hot = _find_outliers(sums, *beam, aperture)
    if not hot.any():  # the strongest pixel may bias the fit, and so hide itself: repeat the fit without it
        score, information, _ = sums.sum(1)
        strongest = np.zeros(hot.shape, bool)
        strongest[np.unravel_index(np.argmax(score.clip(0) ** 2 / information.clip(1e-12)), hot.shape)] = True
        without = replace(noise, bad_pixels=noise.bad_pixels | strongest)
        sums_without, *beam = _residual_sums(patterns, positions, without, aperture, max_misfit, device)
        hot = _find_outliers(np.where(strongest, sums, sums_without), *beam, aperture) & strongest
    if hot.sum() <= max(1, MAX_HOT_FRACTION * np.pi * aperture.radius**2):
        hot_map[box] = hot
    return hot_map


def _find_outliers(sums, center, level, aperture):
    """Mask (Qx, Qy) of isolated pixels that clearly exceed other pixels at a similar distance from the edge."""
    _, information, count = sums.sum(1)
    measured = information > 0
    expected, scatter, excess, sigma = np.zeros((4, *measured.shape))
    if not measured.any():
        return measured
    excess[measured] = sums[0].sum(0)[measured] / information[measured]
    sigma[measured] = information[measured] ** -0.5
    distance = np.hypot(*np.linalg.solve(ellipse_matrix(aperture.vector), (np.argwhere(measured) - center).T))
    similar = 2 * int(2.5 * aperture.radius) + 1  # number of pixels at similar distances that one is compared with
    expected[measured], scatter[measured] = _running_median(excess[measured], distance, similar)
    excess -= expected
    hot = measured & (excess > np.maximum(MIN_HOT_PULL * np.hypot(sigma, scatter), MIN_HOT_LEVEL * level))
    # Pixels that few windows cover lie outside the beam, where `detector.bad_pixels` finds them.
    hot &= (excess * count > MIN_SAMPLE_ELECTRONS) & (count > count.max() / 2)
    hot &= rank_filter(excess, 6, footprint=EIGHT_NEIGHBORS, mode="constant") < MIN_PART_SHARE * excess
    for x, y in np.argwhere(hot):
        score, part_information = sums[:2, sums[1, :, x, y] > 0, x, y]
        hot[x, y] = (score / part_information).min() - expected[x, y] > MIN_PART_SHARE * excess[x, y]
    return hot


def _residual_sums(patterns, positions, noise, aperture, max_misfit, device):
    """Sum the residuals of the disk model by detector pixel.

    Returns the sums (3, SCAN_PARTS, Qx, Qy) of score, information and number of windows, the median position of
    the beam in pixels, and the median brightness of the disk in electrons per pixel.
    """
    model, shape = disk_model(aperture, device), patterns.shape[1:]
    electrons, good, middle = electron_windows(patterns, positions, model.side, noise)
    start, readout = torch.from_numpy(positions - middle).float(), noise.readout / noise.gain
    with torch.inference_mode():
        electrons, good = electrons.to(device), good.to(device)
        fitted = model.fit(electrons, good, start.to(device), readout)
        is_disk = (fitted.misfit <= max_misfit).cpu().numpy()
        score, information, level = (a.cpu().numpy() for a in model.surplus(electrons, good, fitted, readout))
    kept = np.argwhere(model.keep.reshape(model.side, model.side).numpy()) - (model.side - 1) // 2
    pixel = np.rint(middle).astype(int)[:, None] + kept
    on_detector = ((pixel >= 0) & (pixel < shape)).all(2) & is_disk[:, None]
    part = np.broadcast_to(np.arange(len(pixel))[:, None] * SCAN_PARTS // len(pixel), on_detector.shape)
    flat_index = np.ravel_multi_index((part[on_detector], *pixel[on_detector].T), (SCAN_PARTS, *shape))
    size = SCAN_PARTS * shape[0] * shape[1]
    sums = [np.bincount(flat_index, values[on_detector], size).reshape(SCAN_PARTS, *shape)
            for values in (score, information, np.ones_like(score))]
    center = np.median(fitted.position.cpu().numpy() + middle, 0)
    return np.stack(sums), center, np.median(level[is_disk]) if is_disk.any() else np.inf


def _running_median(values, distance, count):
    """Median of the `count` values nearest in distance, and their scatter (1 sigma), for each of values (n,)."""
    count = min(max(count, 9), 2 * ((len(values) - 1) // 2) + 1)
    order = np.argsort(distance, kind="stable")
    similar = sliding_window_view(np.pad(values[order], count // 2, mode="reflect"), count)
    median = np.median(similar, 1)
    out = np.empty((2, len(values)))
    out[:, order] = median, 1.4826 * np.median(np.abs(similar - median[:, None]), 1)
    return out
