"""Radial profile of pooled patterns, and the profile of a ring made of disks.

A powder ring of a convergent beam is a sum of disks whose centers lie on a circle. Its mean over the azimuth at radius
r is the fraction of the circle of radius r that lies inside a disk of radius R at distance G,

    arccos((r^2 + G^2 - R^2) / (2 r G)) / pi,

which is steeper on the inner side, so that the fit of a symmetric peak is biased. In addition, thin crystals also
diffract away from the Bragg condition: with an excitation error s, the disk lies at sqrt(G^2 - s^2). Orientations are
distributed evenly over s, so that a ring has a tail toward the center. The mean of sinc^2 over thicknesses is close to
a Lorentzian in s.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from ..fits import read_polar, smooth_image

STEP_PX = 0.5  # pixels; distance between two radii
POLAR_AZIMUTHS = 240  # number of azimuths of the polar map
POLAR_SMOOTHING_PX = 0.35  # pixels, 1 sigma; smoothing of the pattern before it is interpolated
MIN_AZIMUTH_FRACTION = 0.3  # fraction of the azimuth; smallest part of a used radius that is on good pixels
POINT_RADIUS_PX = 0.05  # pixels; smallest radius of a disk for which the formula is used, that of a point
CUT_FRACTION = 0.05  # fraction of the typical outer level; below it the pattern is cut off, for example by an aperture
FINE_STEP_PX, COARSE_STEP_PX = 0.1, 0.25  # pixels; steps of the grid on which rings are computed
LORENTZ_EDGES = (0, 0.5, 0.7, 0.8, 0.86, 0.9, 0.93, 0.96, 0.98, 1.0)  # fractions of a Lorentzian; edges of its parts
MAX_EXCITATION = 0.7  # fraction of |g|; larger excitation errors belong to the background


@dataclass(frozen=True)
class RadialProfile:
    """Mean over the azimuth about the center, corrected for the ellipse.

    Attributes
    ----------
    radii : numpy.ndarray
        (n,), radii in pixels, with a step of STEP_PX: the geometric mean of the semi-axes of the ellipse.
    mean : numpy.ndarray
        (n,), mean in electrons per pixel and pattern.
    variance : numpy.ndarray
        (n,), variance of `mean` due to counting statistics and read-out noise.
    polar : numpy.ndarray
        (POLAR_AZIMUTHS, n), the polar map.
    usable : numpy.ndarray
        (POLAR_AZIMUTHS, n), 1 where a sample lies on good pixels, else 0.
    """

    radii: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    polar: np.ndarray
    usable: np.ndarray


def smoothed(image, weight, readout):
    """Prepare a pooled pattern and its noise for interpolation.

    Parameters
    ----------
    image : numpy.ndarray, shape (Hx, Hy)
        Mean pattern, electrons.
    weight : numpy.ndarray, shape (Hx, Hy)
        Number of patterns that cover a pixel; zero if no pattern has a good pixel there.
    readout : float
        Read-out noise of a pixel in electrons.

    Returns
    -------
    tuple
        The pattern and the variance of its noise, as `smooth_image` returns them.

    Examples
    --------
    >>> image, noise = smoothed(np.full((64, 64), 4.0), np.full((64, 64), 100.0), 0.0)
    >>> round(float(image[0][32, 32]), 3), round(float(noise[0][32, 32]), 3)
    (4.0, 0.04)
    """
    noise = np.where(weight > 0, (np.clip(image, 0, None) + readout**2) / np.maximum(weight, 1), 0)
    return (smooth_image(image, weight > 0, POLAR_SMOOTHING_PX), smooth_image(noise, weight > 0, 1.0, order=1))


def radial_data(pictures, center, vector, span) -> RadialProfile:
    """Average a pooled pattern over the azimuth.

    Parameters
    ----------
    pictures : tuple
        The pattern and the variance of its noise, from `smoothed`.
    center : array_like, shape (2,)
        Center of the rings (x, y) in the pooled frame, pixels.
    vector : array_like, shape (2,)
        Ellipse vector.
    span : tuple of float
        Smallest and largest radius, pixels.

    Returns
    -------
    RadialProfile
        The profile at radii where enough of the azimuth is on good pixels.

    Examples
    --------
    >>> image = np.exp(-0.5 * (np.hypot(*np.indices((64, 64)) - 32.0) - 20) ** 2)
    >>> profile = radial_data(smoothed(image, np.full((64, 64), 100.0), 0.0), (32, 32), (0, 0), (10, 30))
    >>> float(profile.radii[profile.mean.argmax()])
    20.0
    """
    radii = np.arange(span[0], span[1], STEP_PX)
    polar, usable = read_polar(pictures[0], center, vector, radii, POLAR_AZIMUTHS)
    noise, _ = read_polar(pictures[1], center, vector, radii, POLAR_AZIMUTHS)
    covered_fraction = usable.mean(0)
    total = np.maximum(usable.sum(0), 1)
    mean, variance = ((values * usable).sum(0) / total for values in (polar, noise))
    variance = variance / np.maximum(2 * np.pi * radii * covered_fraction, 1)  # independent pixels on a circle
    used = (covered_fraction > MIN_AZIMUTH_FRACTION) & _lit(mean)
    return RadialProfile(radii[used], mean[used], np.maximum(variance[used], 1e-300), polar[:, used], usable[:, used])


def shrunk(profile: RadialProfile, factor: float) -> RadialProfile:
    """Compute the profile of a pattern with larger pixels.

    Parameters
    ----------
    profile : RadialProfile
        The profile.
    factor : float
        Side of the larger pixels, pixels; at least 1.

    Returns
    -------
    RadialProfile
        Means over STEP_PX of the larger pixels, with radii in units of them. The polar map is that of `profile`.

    Examples
    --------
    >>> radii, polar = np.arange(10.0, 90.0, 0.5), np.ones((1, 160))
    >>> profile = shrunk(RadialProfile(radii, radii, np.full(160, 0.04), polar, polar), 2.0)
    >>> profile.radii[:2].tolist(), profile.mean[:2].tolist(), profile.variance[:2].tolist()
    ([5.125, 5.625], [10.25, 11.25], [0.02, 0.02])
    """
    if factor <= 1:
        return profile
    number = np.floor(profile.radii / (factor * STEP_PX)).astype(int)
    index = np.unique(number, return_inverse=True)[1]
    count = np.bincount(index)
    radii, mean, variance = (np.bincount(index, v) / count for v in (profile.radii, profile.mean, profile.variance))
    whole = count > 0.6 * count.max()  # the first and the last radius may be incomplete
    return RadialProfile(radii[whole] / factor, mean[whole], variance[whole] / count[whole], profile.polar,
                         profile.usable)


def _lit(mean):
    """Mask of the radii at which the pattern is not cut off."""
    level = CUT_FRACTION * np.median(mean[len(mean) // 2:]) if len(mean) else 0
    dark = mean < max(level, 0)
    if not len(mean) or not dark[-1]:
        return np.ones(len(mean), bool)
    last = len(mean) - int(np.argmin(dark[::-1]))  # first radius of the dark range
    # The edge is as wide as a disk; the radii at which the profile falls toward it are left out.
    slope = np.gradient(mean)
    while last > 1 and slope[last - 1] < 0 and mean[last - 1] < mean[: last].max() and last > 0.8 * len(mean):
        last -= 1
    return np.arange(len(mean)) < last - 3


def ring_profiles(radii, distances, disk, blur, relrod=0.0, step=FINE_STEP_PX):
    """Compute the profiles of rings of disks, and their derivatives with respect to the logarithm of the distance.

    Parameters
    ----------
    radii : numpy.ndarray, shape (n,)
        Radii, pixels.
    distances : numpy.ndarray, shape (k,)
        Distances of the centers of the disks from the origin, pixels.
    disk : float
        Radius of a disk, pixels; 0 for points.
    blur : float
        Standard deviation of the blur along the radius, pixels.
    relrod : float
        Width of the Lorentzian of excitation errors, pixels.
    step : float
        Step of the grid on which the rings are computed, pixels.

    Returns
    -------
    profiles : numpy.ndarray, shape (n, k)
        Fraction of the circle that lies inside the disk.
    slopes : numpy.ndarray, shape (n, k)
        Derivative with respect to log(distance) for rings that move without a change of shape.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.pixel_size.profile import ring_profiles
    >>> profile, _ = ring_profiles(np.array([10.0, 20.0, 30.0]), np.array([20.0]), 5.0, 0.5)
    >>> (profile[:, 0] > 0.01).tolist()
    [False, True, False]
    """
    distances = np.asarray(distances, float)
    margin = 4 * blur + 2 * step
    first = max(radii[0] - margin, step)
    fine = np.arange(first, radii[-1] + margin + step, step)
    total = np.zeros((len(fine), len(distances)))
    if len(distances):
        for fraction, center in _excited(distances, relrod):
            total += fraction * _disk_rings(fine, center, max(disk, POINT_RADIUS_PX), step)
        total = gaussian_filter1d(total, blur / step, axis=0, mode="nearest")
    at = (radii - first) / step
    low = np.clip(at.astype(int), 0, len(fine) - 2)
    part = (at - low)[:, None]
    slope = -np.gradient(total, step, axis=0) * distances
    return tuple((1 - part) * values[low] + part * values[low + 1] for values in (total, slope))


def _excited(distances, relrod):
    """Pairs of a fraction of the intensity and the distances (k,) of its disks."""
    if not relrod:
        return [(1.0, distances)]
    limit = MAX_EXCITATION * distances
    edges = np.array(LORENTZ_EDGES)
    middle = (edges[:-1] + edges[1:]) / 2 * np.arctan(limit / relrod)[:, None]
    moved = np.sqrt(distances[:, None] ** 2 - (relrod * np.tan(middle)) ** 2)
    return list(zip(np.diff(edges), moved.T, strict=True))


def _disk_rings(radii, distances, disk, step):
    """Rings (n, k) of sharp disks; a disk narrower than the grid is replaced by a peak of the same area."""
    if disk < 1.5 * step:
        area = disk**2 / (2 * distances)
        return np.clip(1 - np.abs(radii[:, None] - distances) / step, 0, None) * area / step
    # Only radii within a disk of the distance are on it.
    count = min(int(2 * disk / step) + 3, len(radii))
    first = np.clip(np.ceil((distances - disk - radii[0]) / step).astype(int) - 1, 0, len(radii) - count)
    place, column = first + np.arange(count)[:, None], np.arange(len(distances))
    near = radii[place]
    cosine = (near**2 + distances**2 - disk**2) / (2 * near * distances)
    rings = np.zeros((len(radii), len(distances)))
    rings[place, column] = np.arccos(np.clip(cosine, -1, 1)) / np.pi
    return rings
