"""Afterglow of a slow detector: each frame holds a part of the frame before, and the measured beam lags.

The image of the direct disk at its previous position is bright in a frame after a long step of the beam, as at the
start of a scan row, and not in the next frame.
"""

from __future__ import annotations

import numpy as np

from ..core import MEDIAN_ERROR, NoiseModel, Scan, robust_sigma

MAX_GLOW_STEPS = 32  # frames after the longest steps of the beam that are compared, chosen for speed
MIN_GLOW_STEPS = 8  # frames; fewest whose median has an error that can be estimated
GLOW_MARGIN_PX = 1.0  # pixels; margin beyond the soft edge of the disk, where small shifts change a pixel
MIN_IMAGE_PART = 0.1  # fraction of the disk's area; smallest part of its previous image that is not covered by it
# Standard errors; smallest ratio that is not noise. The median of 8 frames exceeds it by chance in 0.3 % of the scans,
# that of 32 frames in 0.006 %.
MIN_GLOW_Z = 6.0
MAX_GLOW = 0.5  # ratio; largest afterglow of a frame: with more, the previous frame is the brighter one


def afterglow_ratio(scan: Scan, noise: NoiseModel, positions, valid, radius: float, edge: float) -> float:
    """Measure the part of a frame that is left in the next one.

    Parameters
    ----------
    scan : Scan
        The scan.
    noise : NoiseModel
        Noise model of the detector.
    positions : numpy.ndarray, shape (Rx * Ry, 2)
        Positions of the direct beam in pixels.
    valid : numpy.ndarray of bool, shape (Rx * Ry,)
        True for frames that show the beam.
    radius, edge : float
        Radius of the direct disk and width of its edge in pixels.

    Returns
    -------
    float
        The ratio; 0 if it is not significant, or if the beam never makes a step of the size of the disk.
    """
    usable = valid & scan.readable.ravel()
    step = np.zeros(len(usable))
    step[1:-1] = np.where(usable[1:-1] & usable[:-2] & usable[2:], np.hypot(*(positions[1:-1] - positions[:-2]).T), 0.0)
    margin = GLOW_MARGIN_PX + 2 * edge
    longest = np.argsort(step)[::-1][:MAX_GLOW_STEPS]
    frames = np.sort(longest[step[longest] > margin])
    if len(frames) < MIN_GLOW_STEPS:
        return 0.0
    at = np.unique([frames, frames + 1])
    patterns = noise.electrons(scan.read(at))
    x, y = np.indices(scan.pattern_shape)
    ratios = []
    for frame in frames:
        here, following = patterns[np.searchsorted(at, [frame, frame + 1])]
        before, now, after = (np.hypot(x - qx, y - qy) for qx, qy in positions[frame - 1 : frame + 2])
        image = (before < radius) & (now > radius + margin) & (after > radius + margin) & ~noise.bad_pixels
        disk = (now < radius) & ~noise.bad_pixels
        if image.sum() > MIN_IMAGE_PART * np.pi * radius**2 and here[disk].sum() > 0:
            ratios.append((here - following)[image].mean() / here[disk].mean())
    if len(ratios) < MIN_GLOW_STEPS:
        return 0.0
    ratio = np.median(ratios)
    error = MEDIAN_ERROR * robust_sigma(ratios - ratio) / np.sqrt(len(ratios))
    return float(min(ratio, MAX_GLOW)) if ratio > MIN_GLOW_Z * error else 0.0


def lag(positions, ratio: float, radius: float) -> np.ndarray:
    """Compute how far the beam lags because of afterglow.

    Parameters
    ----------
    positions : numpy.ndarray, shape (2, Rx, Ry)
        Positions of the direct beam in pixels.
    ratio : float
        Part of a frame that is left in the next one.
    radius : float
        Radius of the direct disk in pixels.

    Returns
    -------
    numpy.ndarray, shape (2, Rx, Ry)
        Size of the lag in pixels: the center of mass of all earlier images of the disk, ``ratio + ratio**2 + ...`` in
        brightness. An image that does not overlap the disk does not move it.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.origin import lag
    >>> positions = np.stack([np.zeros((2, 4)), [[0.0, 1.0, 2.0, 3.0]] * 2])
    >>> lag(positions, 0.2, 2.0)[1].tolist()
    [[0.0, 0.25, 0.25, 0.25], [0.0, 0.25, 0.25, 0.25]]
    """
    step = np.diff(positions.reshape(2, -1), axis=1, prepend=positions.reshape(2, -1)[:, :1])
    step[:, np.hypot(*step) > radius] = 0.0
    return (ratio / (1 - ratio) * np.abs(step)).reshape(positions.shape)
