"""Outline of the direct disk in a sum of patterns, and the circle on which most of it lies.

Disks are images of a round aperture. If a second aperture or a shadow cuts a part of the disk, the rest of its outline
still lies on a circle, whose center is that of the whole disk.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import map_coordinates

from ..core import MIN_RADIUS_SIGMA, NORMAL_MAD, masked_smooth
from . import DISK_BLUR_PX, kasa_circle

OUTLINE_RAYS = 72  # number of rays from the center on which the edge is searched for
BLUR_STEPS = 2  # points on a ray within this blur; the fall is measured between points so far on both sides
SEARCHED_RADII = 0.6  # radii; largest distance of the edge from the given radius
MAJORITY = 0.55  # fraction of the edge; smallest part of it that lies on the circle; the rest may be missing
# Standard deviations; largest distance of a point on the circle from it, and of the given center from that of the
# circle; half of the smallest fall at the edge.
OUTLINE_SIGMAS = 3.0
# Fraction of the area of the circle; largest difference of the outline of a disk: 0.22 or less in serrated, soft,
# elliptical, half-clipped and bullseye apertures, 0.33 or more in nine crossings of Kikuchi bands,
# all drawn.
MAX_ROUND_DIFFERENCE = 0.3


@dataclass(frozen=True, eq=False)
class DiskOutline:
    """Circle through most of the outline of a disk; lengths in pixels.

    Attributes
    ----------
    offset : numpy.ndarray, shape (2,)
        Center of the circle minus the given center.
    sigma : float
        Standard error of the offset along one axis.
    radius : float
        Radius of the circle.
    difference : float
        Area between the outline and the circle, as a fraction of the area of the circle.
    asymmetry : float
        Mean difference of the outline in opposite directions, as the offset of a circle that would be as asymmetric. It
        is 0 for any outline that is symmetric under inversion about the given center, such as an ellipse.
    """

    offset: np.ndarray
    sigma: float
    radius: float
    difference: float
    asymmetry: float

    @property
    def contradiction(self) -> float:
        """Distance of the two centers in pixels if the outline contradicts the given one; otherwise 0.

        Returns
        -------
        float
            The distance.
        """
        distance = float(np.hypot(*self.offset))
        # The outline of a disk with contrast is as uncertain as its radius.
        limit = OUTLINE_SIGMAS * np.hypot(self.sigma / self.radius, MIN_RADIUS_SIGMA)
        evidence = min(distance / self.radius, self.asymmetry / self.radius, self.difference / 2)
        return distance if evidence > limit else 0.0

    @property
    def is_round(self) -> bool:
        """Whether the outline may be that of a disk of which less than half is missing.

        Returns
        -------
        bool
            False for other objects, such as a crossing of Kikuchi bands.
        """
        return self.difference <= MAX_ROUND_DIFFERENCE

    def scaled(self, factor: float) -> DiskOutline:
        """Convert the lengths from bins to pixels.

        Parameters
        ----------
        factor : float
            Side of a bin in pixels.

        Returns
        -------
        DiskOutline
            The same outline.
        """
        return replace(self, **{name: factor * getattr(self, name) for name in
                                ("offset", "sigma", "radius", "asymmetry")})


def disk_outline(image, good, center, radius: float, readout: float = 0.0) -> DiskOutline | None:
    """Fit a circle to most of the outline of a disk.

    Parameters
    ----------
    image : numpy.ndarray, shape (Qx, Qy)
        Sum of patterns, electrons.
    good : numpy.ndarray of bool, shape (Qx, Qy)
        True where a pixel is used.
    center : array_like, shape (2,)
        Located center of the disk, pixels.
    radius : float
        Radius of the disk, pixels.
    readout : float, optional
        Read-out noise of a pixel of the sum, electrons.

    Returns
    -------
    DiskOutline or None
        The circle; None if less than half of the outline is visible, or if it is lost in noise.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.fits import disk_outline
    >>> x, y = np.indices((64, 64)) - 30.0
    >>> disk = 1e3 / (1 + np.exp(3 * (np.hypot(x, y) - 9))) * (x < 5)
    >>> outline = disk_outline(disk, np.ones(disk.shape, bool), (29.0, 30.0), 8.5)
    >>> 0.8 < outline.contradiction < 1.2, 0.1 < outline.difference < 0.3
    (True, True)
    """
    angles = np.arange(OUTLINE_RAYS) * 2 * np.pi / OUTLINE_RAYS
    direction = np.stack([np.cos(angles), np.sin(angles)])
    steps = np.arange(0.0, (1 + SEARCHED_RADII) * radius + 2, DISK_BLUR_PX / BLUR_STEPS)
    rays = np.reshape(center, (2, 1, 1)) + direction[:, :, None] * steps
    inside = np.logical_and.reduce([(r >= 0) & (r <= n - 1) for r, n in zip(rays, image.shape, strict=True)])
    inside &= map_coordinates(good.astype(float), rays, order=1, mode="nearest") > 0.99
    values = map_coordinates(masked_smooth(image, good, DISK_BLUR_PX), rays, order=3, mode="nearest")
    edge, fall = _steepest(values, inside, steps, radius)
    seen = np.isfinite(edge)
    opposite = np.abs(np.subtract(*edge.reshape(2, -1)))
    opposite = opposite[np.isfinite(opposite)]
    if seen.mean() < 1 - MAJORITY or not opposite.size:
        return None
    variance = 2 * (max(values[:, 0].mean(), 0.0) + readout**2) / (4 * np.pi * DISK_BLUR_PX**2)
    # The steepest fall of pure noise on a ray is often two to three standard errors.
    if np.median(fall[seen]) < 2 * OUTLINE_SIGMAS * np.sqrt(variance):
        return None
    points = edge[seen] * direction[:, seen]
    offset, circle, on = _majority_circle(points)
    error = np.hypot(*(points - offset[:, None])) - circle
    # Points within three sigmas of the smoothing have the same error.
    independent = on.sum() * min(1.0, 2 * np.pi * circle / OUTLINE_RAYS / (3 * DISK_BLUR_PX))
    sigma = np.sqrt(2 * np.mean(error[on] ** 2) / max(independent - 3, 1)) / (on.sum() / OUTLINE_RAYS)
    return DiskOutline(offset, float(sigma), circle, float(np.mean(np.abs((error / circle + 1) ** 2 - 1))),
                       float(np.pi / 4 * opposite.mean()))


def _steepest(values, inside, steps, radius):
    """Distance on each ray at which it falls most steeply, NaN where that is not seen; and how much it falls."""
    number = np.arange(len(values))
    fall = np.full(values.shape, -np.inf)
    fall[:, BLUR_STEPS:-BLUR_STEPS] = values[:, : -2 * BLUR_STEPS] - values[:, 2 * BLUR_STEPS :]
    within = steps < (1 - SEARCHED_RADII) * radius
    fall = np.where(inside & ~within, fall, -np.inf)
    k = fall.argmax(1)
    seen = (k > BLUR_STEPS) & (k < len(steps) - BLUR_STEPS - 1) & (fall[number, k] > 0)
    # The edge is not seen if a pixel between the inside of the disk and the edge is bad.
    seen &= np.logical_and.accumulate(inside | within, axis=1)[number, (k + BLUR_STEPS).clip(max=len(steps) - 1)]
    weight = np.where(np.abs(np.arange(len(steps)) - k[:, None]) <= 3 * BLUR_STEPS, fall, 0.0).clip(0)
    return np.where(seen, weight @ steps / weight.sum(1).clip(1e-30), np.nan), fall[number, k]


def _majority_circle(points):
    """Center and radius of the circle on which most points (2, n) lie closest, and the mask (n,) of these points."""
    number = points.shape[1]
    majority, best = int(np.ceil(MAJORITY * number)), np.inf
    for start in range(0, number, 3):  # halves of the outline
        chosen = (start + np.arange(number // 2)) % number
        for _ in range(4):
            center, radius = kasa_circle(points[:, chosen])
            error = np.abs(np.hypot(*(points - center[:, None])) - radius)
            chosen = np.argsort(error)[:majority]
        loss = float(np.square(error[chosen]).sum())
        if loss < best:
            best, kept = loss, chosen
    on = np.zeros(number, bool)
    on[kept] = True
    for _ in range(4):
        center, radius = kasa_circle(points[:, on])
        error = np.abs(np.hypot(*(points - center[:, None])) - radius)
        deviation = np.median(error[on]) / NORMAL_MAD
        on = error <= max(OUTLINE_SIGMAS * deviation, np.sort(error)[majority - 1])
    return center, radius, on
