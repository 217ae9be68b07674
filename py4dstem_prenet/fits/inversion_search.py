"""Center of inversion of a pattern, where the direct beam itself is not visible.

A direct beam behind a beam stop cannot be located, but spots, rings and diffuse scattering are symmetric about it. The
center is the position near a start about which the pattern agrees best with its inverse. Its error is a jackknife
estimate, which leaves out one pair of opposite sectors at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..core import binned_sum, jackknife_covariance, masked_smooth, stabilize
from . import MAX_BINNED_SIDE, symmetry

OPPOSITE_SECTORS = 6  # pairs of opposite sectors in the jackknife
# Fraction of the longer side, 1 sigma; smoother structure is removed, since the symmetry of a halo has a broad maximum.
SMOOTH_PART_FRACTION = 1 / 24
CLIP_SIGMAS = 8.0  # root mean squares of the pattern; spots are clipped at it, so that the brightest do not dominate
CORE_REACHES = 1.2  # fraction of `reach`; radius about the start that is left out
MIN_SYMMETRY = 0.25  # smallest symmetry of an accepted center; about random points of a pattern it is 0.1 or less
MIN_COUNTERPART = 0.3  # fraction of the summed squares; smallest part whose inverse lies on usable pixels
MAX_SIGMA_PX, MAX_SIGMA_FRACTION = 1.0, 0.005  # pixels, fraction of the frame; largest standard error of a center
SYSTEMATIC_PX = 0.25  # binned pixels, 1 sigma along each axis; systematic error by unequal intensities of Friedel pairs


@dataclass(frozen=True)
class InversionCenter:
    """Center of inversion of a pattern.

    Attributes
    ----------
    center : numpy.ndarray, shape (2,)
        Center in pixels.
    sigma : float
        Standard error along one axis in pixels.
    symmetry : float
        Symmetry about the center, 0 to 1; see `symmetry`.
    accepted : bool
        Whether the pattern determines its center: the symmetry is significant, and the error is small.
    parts : numpy.ndarray, shape (OPPOSITE_SECTORS,)
        Symmetry without one pair of opposite sectors at a time.
    """

    center: np.ndarray
    sigma: float
    symmetry: float
    accepted: bool
    parts: np.ndarray


def stabilized_bins(mean, good, readout: float, largest: int):
    """Bin a sum of patterns and stabilize the variance of its counts.

    Parameters
    ----------
    mean : numpy.ndarray, shape (Qx, Qy)
        Sum of patterns in electrons.
    good : numpy.ndarray of bool, shape (Qx, Qy)
        True where a pixel is good.
    readout : float
        Read-out noise of the sum in electrons, rms.
    largest : int
        Largest side of the binned pattern in bins.

    Returns
    -------
    z : numpy.ndarray, shape (Hx, Hy)
        Stabilized counts.
    usable : numpy.ndarray of bool, shape (Hx, Hy)
        True where at least half of a bin is good.
    step : int
        Side of a bin in pixels.
    """
    step = -(-max(mean.shape) // largest)
    count = binned_sum(good.astype(np.float32), step)
    electrons = binned_sum(np.where(good, mean, 0.0), step) * step**2 / np.maximum(count, 1)
    return stabilize(np.clip(electrons, 0, None), readout * step), count >= step**2 / 2, step


def inversion_center(mean, good, start, reach: float, readout: float = 0.0) -> InversionCenter:
    """Find the center of inversion of a pattern near a start.

    Parameters
    ----------
    mean : numpy.ndarray, shape (Qx, Qy)
        Sum of patterns in electrons.
    good : numpy.ndarray of bool, shape (Qx, Qy)
        False behind a stop and in bad pixels.
    start : array_like, shape (2,)
        Approximate center in pixels.
    reach : float
        Largest distance of the center from the start in pixels.
    readout : float, optional
        Read-out noise of the sum in electrons, rms.

    Returns
    -------
    InversionCenter
        The center.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.fits import inversion_center
    >>> x, y = np.indices((96, 96))
    >>> mean, rng = np.full((96, 96), 20.0), np.random.default_rng(0)
    >>> for dx, dy in rng.uniform(-40, 40, (12, 2)):
    ...     for sign in (1, -1):
    ...         mean += 300 * np.exp(-0.25 * ((x - 45 - sign * dx) ** 2 + (y - 50 - sign * dy) ** 2))
    >>> found = inversion_center(rng.poisson(mean), np.hypot(x - 45, y - 50) > 8, (47, 49), 6.0)
    >>> found.center.round().tolist(), found.accepted
    ([45.0, 50.0], True)
    """
    z, usable, step = stabilized_bins(mean, good, readout, MAX_BINNED_SIDE)
    z = np.where(usable, z - masked_smooth(z, usable, SMOOTH_PART_FRACTION * max(z.shape)), 0.0)
    limit = CLIP_SIGMAS * np.sqrt((z[usable] ** 2).mean())
    z = np.clip(z, -limit, limit)
    origin = (np.asarray(start, float) - (step - 1) / 2) / step
    x, y = np.indices(z.shape)
    angle = np.arctan2(y - origin[1], x - origin[0]) % np.pi
    sector = (angle * OPPOSITE_SECTORS / np.pi).astype(int).clip(0, OPPOSITE_SECTORS - 1)
    distance = np.hypot(x - origin[0], y - origin[1])
    allowed = distance <= max(2.0, reach / step)
    usable = usable & (distance > CORE_REACHES * reach / step)  # a spot is symmetric about its own center
    allowed &= (x > 0) & (y > 0) & (x < z.shape[0] - 1) & (y < z.shape[1] - 1)
    masks = np.stack([usable, *(usable & (sector != k) for k in range(OPPOSITE_SECTORS))])
    maps = symmetry(torch.from_numpy(np.where(masks, z, 0)).float(), torch.from_numpy(masks)).numpy()
    if not allowed.any():
        return InversionCenter(np.asarray(start, float), np.inf, 0.0, False, np.zeros(OPPOSITE_SECTORS))
    centers = np.array([_peak(values, allowed) for values in maps])
    variance = np.trace(jackknife_covariance(centers[1:])) / 2
    sigma = float(np.sqrt(variance + SYSTEMATIC_PX**2) * step)
    peak = tuple(np.round(centers[0]).astype(int).clip(1, np.array(z.shape) - 2))  # the refined one may be at the edge
    value = float(maps[0][peak])
    accepted = value > MIN_SYMMETRY and sigma < max(MAX_SIGMA_PX, MAX_SIGMA_FRACTION * max(mean.shape))
    # The maximum must not lie on the limit of the search, nor so near the edge of the frame that few pixels have an
    # inverse on the detector.
    accepted &= value >= maps[0][peak[0] - 1 : peak[0] + 2, peak[1] - 1 : peak[1] + 2].max()
    accepted = bool(accepted) and _counterpart(z, usable, peak) > MIN_COUNTERPART
    return InversionCenter(centers[0] * step + (step - 1) / 2, sigma, value, accepted, maps[(slice(1, None), *peak)])


def _counterpart(z, usable, at):
    """Fraction of a pattern's summed squares in pixels whose inverse about a given pixel is also usable."""
    box = tuple(slice(max(0, 2 * q - n + 1), min(n - 1, 2 * q) + 1) for q, n in zip(at, z.shape, strict=True))
    paired = usable[box] & usable[box][::-1, ::-1]
    return float((z[box][paired] ** 2).sum() / (z[usable] ** 2).sum().clip(1e-12))


def _peak(values, near):
    """Position (2,) of the maximum of a map among allowed pixels, refined by a parabola."""
    at = np.unravel_index(np.where(near, values, -np.inf).argmax(), values.shape)
    position = np.array(at, float)
    for axis in (0, 1):
        step = np.eye(2, dtype=int)[axis]
        low, high = values[tuple(at - step)], values[tuple(at + step)]
        curvature = 2 * values[at] - low - high
        if curvature > 0:
            position[axis] += np.clip((high - low) / (2 * curvature), -0.5, 0.5)
    return position
