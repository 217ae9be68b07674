"""Round apertures of the microscope or of the camera that crop a diffraction pattern.

The edge of such an aperture is the strongest ring of the pattern, and it is not centered on the direct beam. Unlike the
edge of a direct disk, it encloses a pattern that falls with the distance from a much smaller beam.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from ..core import NORMAL_MAD, binned_sum
from ..fits import kasa_circle
from . import MAX_FIELD_PX

CORNER_FRACTION = 0.06  # fraction of the side; size of the corners of the frame, which lie outside of an aperture
DARK_CORNERS = 3  # corners; a label may lie in the other one
LIT_CORNER_SIGMAS = 5.0  # standard deviations of the corners; smallest level of a lit pixel above them
MIN_CROP_RADIUS, MAX_CROP_RADIUS = 0.36, 0.7  # fractions of the shorter side of the frame; radii that are searched for
MAX_CROP_ERROR = 0.015  # radii; largest median distance of the outline from the circle
MIN_CROP_POINTS, MIN_CROP_AZIMUTHS = 0.5, 0.4  # fractions; fewest points of the outline, and sectors, on the circle
CROP_SECTORS = 72  # number of sectors of the azimuth
# Binned pixels; distances inside the edge of three levels that are compared, and ratio; smallest step at the edge
# relative to the fall of the pattern inside. Set on a few pictures of a simulation that is not part of the project: 1.4
# or less where the pattern fades out, 2.9 or more for eight that were cropped.
CROP_DISTANCES, MIN_CROP_STEP = (-3.0, 3.0, 7.0), 2.0
MIN_STEP_SECTORS = 0.6  # fraction of the sectors; fewest with a step of this size
CROP_MARGIN_PX = 2.0  # binned pixels; width of the blurred edge, which is left out
MAX_BEAM_PART = 0.6  # radii of the aperture; largest radius of a direct beam: a larger one is the image of the aperture


def find_vignette(total, good, radius: float) -> np.ndarray | None:
    """Find the surroundings of a round aperture that crops a pattern.

    Parameters
    ----------
    total : numpy.ndarray, shape (Qx, Qy)
        Sum of patterns, electrons.
    good : numpy.ndarray of bool, shape (Qx, Qy)
        True where a pixel is good.
    radius : float
        Approximate radius of the direct beam, pixels.

    Returns
    -------
    numpy.ndarray of bool, shape (Qx, Qy), or None
        True outside the aperture and at its blurred edge; None if nothing crops the pattern.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.origin import find_vignette
    >>> x, y = np.indices((96, 96))
    >>> mean = 20 + 4e3 / (1 + ((x - 40) ** 2 + (y - 52) ** 2) / 30)
    >>> good, rng = np.ones((96, 96), bool), np.random.default_rng(0)
    >>> outside = find_vignette(rng.poisson(mean * (np.hypot(x - 49, y - 47) < 44)), good, 5.0)
    >>> bool(outside[2, 2]), bool(outside[48, 48]), find_vignette(rng.poisson(mean), good, 5.0) is None
    (True, False, True)
    """
    step = -(-max(total.shape) // MAX_FIELD_PX)
    count = binned_sum(good.astype(np.float32), step)
    image = binned_sum(np.where(good, total, 0.0), step) / np.maximum(count, 1)
    side = min(image.shape)
    n = max(3, round(CORNER_FRACTION * side))
    corners = [part[count_part > 0] for part, count_part in (
        (image[rows, columns], count[rows, columns]) for rows in (slice(n), slice(-n, None))
        for columns in (slice(n), slice(-n, None)))]
    if any(len(corner) < n for corner in corners):
        return None
    dark = np.concatenate(sorted(corners, key=np.median)[:DARK_CORNERS])
    level = np.median(dark)
    spread = max(np.median(np.abs(dark - level)) / NORMAL_MAD, 1e-3 * (np.median(image[count > 0]) - level), 1e-12)
    smooth = gaussian_filter(image, 1.0)
    threshold = level + LIT_CORNER_SIGMAS * spread
    for _ in range(2):  # from the foot of the edge to the middle of its height
        fitted = _outline_circle(gaussian_filter(((image > threshold) & (count > 0)).astype(float), 1.0) > 0.5)
        if fitted is None:
            return None
        center, crop, azimuths = fitted
        angle = (azimuths + 0.5) * 2 * np.pi / CROP_SECTORS
        ray = np.stack([np.cos(angle), np.sin(angle)])
        outside, inside, inner = (map_coordinates(smooth, center[:, None] + r * ray, order=1, mode="nearest")
                                  for r in crop - np.array(CROP_DISTANCES))
        threshold = max(threshold, (level + np.median(inside)) / 2)
    if not MIN_CROP_RADIUS < crop / side < MAX_CROP_RADIUS or radius / step > MAX_BEAM_PART * crop:
        return None
    steep = (inside - outside > MIN_CROP_STEP * np.abs(inner - inside)) & (inside - outside > 2 * spread)
    if steep.mean() < MIN_STEP_SECTORS:
        return None
    x, y = (np.arange(n) - (q * step + (step - 1) / 2) for n, q in zip(total.shape, center, strict=True))
    return np.hypot(x[:, None], y) > (crop - CROP_MARGIN_PX) * step


def _outline_circle(lit):
    """Circle through the outermost lit pixels of each row and column: center, radius and its sectors, or None."""
    points = []
    for image, swapped in ((lit, False), (lit.T, True)):
        lines = np.flatnonzero(image.any(1))
        for ends in (image[lines].argmax(1) - 0.5, image.shape[1] - 0.5 - image[lines, ::-1].argmax(1)):
            inside = (ends > 1) & (ends < image.shape[1] - 2)
            pair = np.c_[lines, ends][inside]
            points.append(pair[:, ::-1] if swapped else pair)
    outline = kept = np.concatenate(points)
    for _ in range(8):  # without points at the shadow of a stop
        if len(kept) < max(16, MIN_CROP_POINTS * len(outline)):
            return None
        center, radius = kasa_circle(kept.T)
        error = np.abs(np.hypot(*(outline - center).T) - radius)
        near = error <= max(1.0, 2.5 * np.median(error))
        kept = outline[near]
    azimuths = np.arctan2(*(kept - center).T[::-1]) % (2 * np.pi) * CROP_SECTORS / (2 * np.pi)
    azimuths = np.unique(azimuths.astype(int))
    if np.median(error[near]) > max(0.5, MAX_CROP_ERROR * radius) or len(azimuths) < MIN_CROP_AZIMUTHS * CROP_SECTORS:
        return None
    return center, radius, azimuths
