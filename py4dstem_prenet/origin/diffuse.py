"""Whether diffuse scattering is centered on the located beam, or beyond the frame, behind a stop, or on another disk.

Where the direct beam lies beyond the limit of the frame, no place in the frame is symmetric, and the brightest of many
similar spots looks like it. Diffuse scattering falls with the distance from the direct beam alike in all directions.
What is left of its logarithm after the median at each distance is smallest about the direct beam, in or off the frame.
"""

from __future__ import annotations

import numpy as np

from ..core import NoiseModel, OriginMap, Scan
from . import DiffuseImage

BLOCK_PX = 5  # binned pixels, side of the blocks whose dim pixels are compared
DIM_PART = 0.2  # quantile of the pixels of a block: those between disks
MIN_LIT_BLOCKS = 60  # blocks that electrons reach, without which the distance tells nothing
MIN_LIT_PART = 0.7  # of all blocks; where only some are lit, these were chosen by their brightness
LIT_SIGMAS = 3.0  # of a smoothed pixel, that a block has to exceed
DISTANCE_FRACTION = 1 / 20  # of the frame, steps of the distance
OUTSIDE_FRACTION = 0.35  # of the frame, beyond its limits, where a center is looked for
SEARCH_STEP_PX = 4  # binned pixels between places
OTHER_RADII, OTHER_PX = 1.5, 5.0  # distance of another center: radii, binned pixels
CENTER_SHIFTS = ((0, 0), (3, 0), (-3, 0), (0, 3), (0, -3))  # binned pixels; halos are not quite centered
# Scatter about the best other center in that about the located one: 1.01 or more about the direct beam of 24 simulated
# and 7 real scans, 0.31 to 0.96 about the brightest Bragg disk of these simulated scans (below 0.8 in 17), and 0.43 to
# 0.65 in crops of a real pattern whose beam lies beyond the frame. These were measured before disks were removed from
# the sum, and where all blocks were lit; multislice gold and silicon with fewer lit blocks had 0.67 to 0.79.
MIN_CENTER_RATIO = 0.8


def check_diffuse(scan: Scan, noise: NoiseModel, origin: OriginMap) -> OriginMap:
    """Refuse an origin if the diffuse scattering falls from another place, in the frame or beyond it.

    Parameters
    ----------
    scan : Scan
        The scan, or a sample of one.
    noise : NoiseModel
        Noise model of the detector; pixels behind a stop are bad.
    origin : OriginMap
        The measured origin.

    Returns
    -------
    OriginMap
        The same, or refused.
    """
    # Rings and inverse spots behind a stop tell more than what lies between disks.
    if not origin.found or origin.feature != "direct beam" or not origin.valid.any():
        return origin
    image = DiffuseImage.of(scan, noise, origin)
    shape, middle, radius = image.good.shape, image.middle, image.radius
    at, level = dim_levels(image.between, image.good, image.sigma)
    if len(level) < max(MIN_LIT_BLOCKS, MIN_LIT_PART * image.good.sum() / BLOCK_PX**2):
        return origin
    width = DISTANCE_FRACTION * max(shape)
    nearest = max(OTHER_RADII * radius, 3.0)
    here = min(radial_scatter(at, level, middle + shift, width, nearest) for shift in CENTER_SHIFTS)
    grids = [np.arange(-OUTSIDE_FRACTION * n, (1 + OUTSIDE_FRACTION) * n, SEARCH_STEP_PX) for n in shape]
    places = np.stack(np.meshgrid(*grids, indexing="ij"), -1).reshape(-1, 2)
    places = places[np.hypot(*(places - middle).T) > max(OTHER_RADII * radius, OTHER_PX)]
    possible = np.ones(len(places), bool)
    inside = ((places >= 0) & (places < shape)).all(1)
    possible[inside] = image.possible()[tuple(places[inside].astype(int).T)]
    places = places[possible]
    scatter = [radial_scatter(at, level, place, width, nearest) for place in places]
    best = int(np.argmin(scatter))
    if scatter[best] > MIN_CENTER_RATIO * here:
        return origin
    return image.refused(places[best], scan.scan_shape)


def dim_levels(smooth, good, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Measure the brightness between disks in blocks of a pattern.

    Parameters
    ----------
    smooth : numpy.ndarray, shape (Hx, Hy)
        Sum of patterns, electrons.
    good : numpy.ndarray of bool, shape (Hx, Hy)
        Pixels to use.
    sigma : float
        Noise of a dark pixel, electrons.

    Returns
    -------
    at : numpy.ndarray, shape (2, k)
        Middles of the blocks that electrons reach, pixels.
    level : numpy.ndarray, shape (k,)
        Logarithm of their brightness.
    """
    rows, columns = (n // BLOCK_PX for n in smooth.shape)

    def blocks(image):  # numpydoc ignore=PR01,RT01
        """Pixels of each block, (blocks, pixels)."""
        part = image[: rows * BLOCK_PX, : columns * BLOCK_PX].reshape(rows, BLOCK_PX, columns, BLOCK_PX)
        return part.swapaxes(1, 2).reshape(rows * columns, -1)

    seen = blocks(good)
    number = seen.sum(1)
    ordered = np.sort(np.where(seen, blocks(smooth), np.inf), 1)
    dim = ordered[np.arange(len(ordered)), (DIM_PART * number).astype(int)]
    lit = (number > BLOCK_PX**2 / 2) & (dim > LIT_SIGMAS * sigma)
    at = np.indices((rows, columns)).reshape(2, -1) * BLOCK_PX + (BLOCK_PX - 1) / 2
    return at[:, lit], np.log(dim[lit] + sigma)


def radial_scatter(at, level, center, width: float, nearest: float) -> float:
    """Mean absolute deviation of levels from their median at the same distance from a center.

    Parameters
    ----------
    at : numpy.ndarray, shape (2, k)
        Places, pixels.
    level : numpy.ndarray, shape (k,)
        Levels there.
    center : array_like, shape (2,)
        The center, pixels.
    width : float
        Step of the distance, pixels.
    nearest : float
        Distance in pixels below which places are left out.

    Returns
    -------
    float
        The deviation, corrected for the number of medians.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.origin import radial_scatter
    >>> at = np.indices((20, 20)).reshape(2, -1) * 5.0
    >>> level = -np.hypot(at[0] - 40, at[1] + 10) / 30
    >>> radial_scatter(at, level, (40, -10), 5.0, 3.0) < 0.5 * radial_scatter(at, level, (40, 20), 5.0, 3.0)
    True
    """
    distance = np.hypot(at[0] - center[0], at[1] - center[1])
    used = distance > nearest
    step, level = (distance[used] / width).astype(int), level[used]
    number = np.bincount(step)
    order = np.lexsort((level, step))
    middle = np.cumsum(number) - number + number // 2
    median = level[order][np.minimum(middle, len(level) - 1)]
    return float(np.abs(level - median[step]).sum() / max(len(level) - np.count_nonzero(number), 1))
