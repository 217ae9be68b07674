"""First guess of a direct beam that fills most of the detector: an empty probe or a bright-field disk.

The coarse network was trained on disks of up to half of the frame, few of them larger than a third. A disk this large
needs no network: its interior is flat, and the contour at half of its level is a circle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter, label

from ..core import NoiseModel, Scan
from ..fits import kasa_circle
from . import FirstGuess, spread_blocks

# Chosen, not measured:
# Fractions of the shorter side of the frame; smallest and largest radius. The network finds smaller disks.
MIN_WIDE_RADIUS, MAX_WIDE_RADIUS = 0.34, 0.62
SMOOTHING = 0.006  # fraction of the side, 1 sigma; smoothing that prevents single pixels from breaking the contour
MIN_SMOOTHING_PX = 0.7  # pixels, 1 sigma; lower bound of the smoothing
MIN_LEVEL_ELECTRONS = 50.0  # electrons in the area of the smoothing; smallest level: its noise is then a seventh of it
MAX_HALF_LIT = 0.2  # ratio of the pixels at 1/4 to 3/4 of the level to those above half of it; largest for a sharp edge
MAX_PEAK = 3.0  # ratio of the 97 % quantile of the disk to its median; largest: no diffraction pattern is this flat
MIN_FILLED = 0.9  # fraction; smallest overlap of the circle with the pixels above half of the level, of either area
MAX_CONTOUR_ERROR = 0.02  # radii; largest median distance of the contour from the circle
MIN_CONTOUR, CONTOUR_SECTORS = 0.3, 72  # fraction of the circle, smallest part with a contour; number of sectors
SLOPE_ERROR = 0.3  # widths of the smoothing; error of the center if the level falls by a fifth across the disk
CORRELATED_PIXELS = 5.0  # pixels along the contour; length over which its errors are correlated
VISIBLE_LOG_ODDS = 5.0  # log odds that the disk is visible, stated for every disk that is found by its edge


@dataclass(frozen=True)
class WideDisk:
    """A disk that fills most of a pattern.

    Attributes
    ----------
    center : numpy.ndarray, shape (2,)
        Center (qx, qy), pixels.
    radius : float
        Radius at half of the level, pixels.
    sigma : float
        Standard error of the center along one axis, pixels, from the scatter of the contour.
    """

    center: np.ndarray
    radius: float
    sigma: float


def wide_disk(pattern, good) -> WideDisk | None:
    """Find a flat disk with a sharp, circular edge that fills most of a pattern.

    Parameters
    ----------
    pattern : numpy.ndarray, shape (Qx, Qy)
        Sum of patterns, electrons.
    good : numpy.ndarray of bool, shape (Qx, Qy)
        True where a pixel is used.

    Returns
    -------
    WideDisk or None
        The disk; None if the pattern shows no such disk.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.origin import wide_disk
    >>> x, y = np.indices((64, 64))
    >>> disk = wide_disk(100.0 * (np.hypot(x - 33, y - 30) < 28), np.ones((64, 64), bool))
    >>> disk.center.round().tolist(), round(disk.radius)
    ([33.0, 30.0], 28)
    """
    side = min(pattern.shape)
    width = max(MIN_SMOOTHING_PX, SMOOTHING * side)
    covered = gaussian_filter(good.astype(float), width, mode="nearest").clip(1e-6)
    smooth = gaussian_filter(np.where(good, pattern, 0.0).astype(float), width, mode="nearest") / covered
    usable = covered > 0.5
    area = np.pi * (MIN_WIDE_RADIUS * side) ** 2
    if usable.sum() < area:
        return None
    # The disk covers a third of the frame or more: the median of the brightest third is its level.
    bright = np.sort(smooth[usable])[-int(area):]
    level = float(np.median(bright))
    if 4 * np.pi * width**2 * level < MIN_LEVEL_ELECTRONS or np.quantile(bright, 0.97) > MAX_PEAK * level:
        return None
    inside = usable & (smooth > 0.5 * level)
    half_lit = usable & (smooth > 0.25 * level) & (smooth < 0.75 * level)
    if half_lit.sum() > MAX_HALF_LIT * inside.sum():
        return None
    return _circle(inside, usable, width)


def _circle(inside, usable, width):
    """Fit a circle to the largest connected region; None if it is not a circle. `width` is that of the smoothing."""
    labels, count = label(inside)
    if not count:
        return None
    inside = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    # Contour without the edges of the frame and of bad pixels.
    limit = binary_dilation(~usable, iterations=2)
    limit[[0, 1, -2, -1]], limit[:, [0, 1, -2, -1]] = True, True
    contour = np.argwhere(inside & ~binary_erosion(inside) & ~limit).astype(float)
    for _ in range(6):  # repeat the fit without points far from the circle: shadows of dirt, gaps between chips
        if len(contour) < 16:
            return None
        center, radius = kasa_circle(contour.T)
        error = np.abs(np.hypot(*(contour - center).T) - radius)
        kept = error <= max(1.0, 3 * np.median(error))
        contour = contour[kept]
    azimuth = np.unique((np.arctan2(*(contour - center).T) * CONTOUR_SECTORS / (2 * np.pi)).astype(int))
    x, y = np.indices(inside.shape)
    disk = usable & (np.hypot(x - center[0], y - center[1]) < radius)
    overlap = (disk & inside).sum()
    if (not MIN_WIDE_RADIUS < radius / min(inside.shape) < MAX_WIDE_RADIUS
            or np.median(error[kept]) > max(0.5, MAX_CONTOUR_ERROR * radius)
            or len(azimuth) < MIN_CONTOUR * CONTOUR_SECTORS
            or overlap < MIN_FILLED * max(disk.sum(), inside.sum())):
        return None
    # Errors of neighboring pixels of the contour are correlated; a circle of which half is visible has twice the error.
    covered = len(azimuth) / CONTOUR_SECTORS
    sigma = max(0.3, 1.5 * float(np.median(error[kept]))) * (2 / len(contour) * CORRELATED_PIXELS) ** 0.5 / covered**2
    sigma = float(np.hypot(sigma, SLOPE_ERROR * width))
    return WideDisk(center, radius + 0.5, sigma)  # the contour consists of the outermost pixels of the disk


def wide_origin(scan: Scan, noise: NoiseModel, blocks) -> FirstGuess | None:
    """Guess every origin of a scan whose direct beam fills most of the detector.

    Parameters
    ----------
    scan : Scan
        The scan, or a sample of one.
    noise : NoiseModel
        Noise model of the detector.
    blocks : tuple
        Sums over blocks of the scan, see `block_sums`.

    Returns
    -------
    FirstGuess or None
        The guess; None if the mean pattern shows no such disk.
    """
    sums, counts, grid = blocks
    good = ~noise.bad_pixels
    whole = wide_disk(sums.sum(0), good)
    if whole is None:
        return None
    disks = [wide_disk(image, good) if n else None for image, n in zip(sums, counts, strict=True)]
    with_disk = np.array([disk is not None for disk in disks])
    centers = np.array([whole.center if disk is None else disk.center for disk in disks])
    if not with_disk.any():
        with_disk = counts > 0
    guess = spread_blocks(centers, grid, scan.scan_shape, 0.5, with_disk)
    middle = np.median(guess, axis=0)
    shown = np.ones(len(guess), bool)
    return FirstGuess(guess, whole.radius, shown, VISIBLE_LOG_ODDS, 1.0, 1.0, np.array([[*middle, 1.0]]),
                      wide=True)
