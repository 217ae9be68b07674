"""Direct beams that saturate: a round plateau of one value, as in pictures whose contrast was stretched.

The inside of a plateau contains no information on its center, and networks and fits that expect a smaller beam find
an arbitrary point in it. The outline of the plateau is that of the beam; its radius and center are used as the start.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.ndimage import binary_fill_holes, label

from ..core import NoiseModel, OriginMap, Scan
from . import FirstGuess

MIN_PLATEAU_PX = 30  # pixels; smallest area of a plateau: smaller ones do not mislead a fit
MIN_PLATEAU_LEVELS = 8  # distinct values; fewest in a pattern for which an area of one value indicates saturation
# Fraction of the circle of the same area about its center; smallest part that is in a plateau. In disks of 4 to 20 px
# radius whose outline is uneven by 12 % of the radius it is 0.86 or more.
MIN_ROUND = 0.85
# Ratio; largest second or fourth moment of the azimuth about the center: 0.28 or less in the same disks, 0.43 or more
# in squares, and 0.35 or more in rectangles.
MAX_AZIMUTH_MOMENT = 0.32
PLATEAU_PATTERNS = 4  # patterns; number that is examined
MIN_PLATEAUS = 0.5  # fraction of these patterns; fewest with a plateau
# Radii, 1 sigma along one axis; error of the center of an outline, since its surroundings are uneven. From one pattern.
OUTLINE_ERROR_RADII = 0.03
MAX_RADIUS_RATIO = 1.25  # ratio; largest radius of the plateau relative to the guess for which the guess is not changed


def saturated_disk(pattern, good, position, reach: float) -> tuple[np.ndarray, float] | None:
    """Find the round plateau of a pattern's largest value near a position.

    Parameters
    ----------
    pattern : numpy.ndarray, shape (Qx, Qy)
        A pattern in detector units.
    good : numpy.ndarray of bool, shape (Qx, Qy)
        True where a pixel is used.
    position : array_like, shape (2,)
        Approximate position of the beam, pixels.
    reach : float
        Largest distance of the plateau from this position, pixels.

    Returns
    -------
    center : numpy.ndarray, shape (2,)
        Center of the plateau, pixels.
    radius : float
        Radius of the plateau, pixels.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.origin import saturated_disk
    >>> x, y = np.indices((64, 64))
    >>> picture = (400 * np.exp(-np.hypot(x - 30, y - 35) / 20)).clip(max=255).astype(int)
    >>> center, radius = saturated_disk(picture, np.ones((64, 64), bool), (33, 31), 8.0)
    >>> center.tolist(), round(radius)
    ([30.0, 35.0], 9)
    """
    flat = good & (pattern == pattern[good].max(initial=pattern.min()))
    if flat.sum() < MIN_PLATEAU_PX:
        return None
    labels, count = label(flat)
    rows, columns = np.nonzero(flat)
    distance = np.hypot(rows - position[0], columns - position[1])
    size = np.bincount(labels[rows[distance <= reach], columns[distance <= reach]], minlength=count + 1)
    if not size.any():
        return None
    disk = binary_fill_holes(labels == size.argmax())
    at = np.argwhere(disk)
    center = at.mean(0)
    radius = float(np.sqrt(len(at) / np.pi))
    if len(at) < MIN_PLATEAU_PX or len(np.unique(pattern)) < MIN_PLATEAU_LEVELS:
        return None
    distance = np.hypot(*(at - center).T)
    x, y = (at - center).T
    moments = [abs(((x + 1j * y) ** order).sum()) / (distance**order).sum() for order in (2, 4)]
    if (distance < radius).mean() < MIN_ROUND or max(moments) > MAX_AZIMUTH_MOMENT:
        return None
    return center, radius


def on_plateau(scan: Scan, noise: NoiseModel, first: FirstGuess) -> FirstGuess:
    """Move the first guess to the center of the beam if the beam saturates.

    Parameters
    ----------
    scan : Scan
        The scan, or a sample of one.
    noise : NoiseModel
        Noise model of the detector.
    first : FirstGuess
        The first guess of the beam.

    Returns
    -------
    FirstGuess
        The guess with a new radius and position; unchanged if there is no plateau that is larger than its radius.
    """
    if first.wide:
        return first
    chosen = np.flatnonzero(first.shown & scan.readable.ravel())
    if not len(chosen):
        return first
    chosen = chosen[np.unique(np.linspace(0, len(chosen) - 1, PLATEAU_PATTERNS).astype(int))]
    good, plateaus = ~noise.bad_pixels, []
    for index, patterns in scan.blocks(positions=chosen):
        for i, pattern in zip(index, patterns, strict=True):
            disk = saturated_disk(pattern, good, first.position[i], first.radius)
            if disk is not None:
                plateaus.append((*(disk[0] - first.position[i]), disk[1]))
    if len(plateaus) < MIN_PLATEAUS * len(chosen):
        return first
    *shift, radius = np.median(plateaus, 0)
    if radius < MAX_RADIUS_RATIO * first.radius:
        return first
    return replace(first, position=first.position + shift, radius=float(radius), flat=True)


def with_outline_error(origin: OriginMap, first: FirstGuess | None) -> OriginMap:
    """Increase the sigmas of an origin that was found from the outline of a saturated beam.

    Parameters
    ----------
    origin : OriginMap
        The measured origin.
    first : FirstGuess or None
        The first guess of the beam.

    Returns
    -------
    OriginMap
        The given origin, or with larger sigmas.
    """
    if first is None or not first.flat or not origin.found or origin.feature != "direct beam":
        return origin
    error = OUTLINE_ERROR_RADII * first.radius
    return replace(origin, sigma_qx0=np.hypot(origin.sigma_qx0, error), sigma_qy0=np.hypot(origin.sigma_qy0, error))
