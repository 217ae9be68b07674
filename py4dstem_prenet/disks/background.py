"""Smooth background of patterns between their disks, and the rate of false disks on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d

from . import DiskFilter, covered, find_disks

# Chosen with multislice silicon along [110] in view (benchmarks/strain.py, disks.py), unless a comment says otherwise:
CLEAR_SIGNIFICANCE = 4.5  # standard deviations of disks that are left out of the background
PLACE_ERROR_PX = 2.0  # pixels by which the most significant place of a half-lit disk may be off its center
BACKGROUND_ROUNDS = 2  # rounds: without a background, then with it
SMOOTHING_RADII = 0.25  # radii of the disk, 1 sigma: smoothing of the background's radial profile
SIMULATED_PATTERNS = 128  # patterns of noise; the rate of false disks is then known to about 10 %
SIMULATED_AT_ONCE = 32  # patterns; limits the memory
LOWEST_SIGNIFICANCE = 2.0  # standard deviations, from which on false disks are counted
TAIL_RATES = (0.05, 2.0)  # false disks a pattern, between which the law of the tail is fitted


@dataclass(frozen=True)
class Background:
    """Background of the patterns of a scan as a function of the distance from the direct beam.

    Attributes
    ----------
    profile : numpy.ndarray, shape (m,)
        Electrons in a pixel at distances of 0, 1, 2, ... pixels, with the variance of the read-out noise.
    """

    profile: np.ndarray

    def images(self, positions, shape) -> torch.Tensor:
        """Compute the background of patterns.

        Parameters
        ----------
        positions : numpy.ndarray, shape (n, 2)
            Positions of the direct beam, pixels.
        shape : tuple of int
            (Qx, Qy).

        Returns
        -------
        torch.Tensor, shape (n, Qx, Qy)
            Expected electrons in each pixel.

        Examples
        --------
        >>> import numpy as np
        >>> from py4dstem_prenet.disks import Background
        >>> image = Background(np.array([4.0, 2.0, 1.0, 1.0])).images(np.array([[1.0, 1.0]]), (3, 3))[0]
        >>> image[1].tolist()
        [2.0, 4.0, 2.0]
        """
        x = np.arange(shape[0])[:, None] - positions[:, 0, None, None]
        y = np.arange(shape[1]) - positions[:, 1, None, None]
        distance = np.hypot(x, y)
        image = np.interp(distance, np.arange(len(self.profile)), self.profile)
        return torch.from_numpy(image.astype(np.float32))


def measure_background(electrons, good, readout: float, disks: DiskFilter, positions) -> Background:
    """Measure the mean background of patterns over angles, without their disks.

    Parameters
    ----------
    electrons : torch.Tensor, shape (n, Qx, Qy)
        Patterns in electrons, the variance of the read-out noise added to every pixel.
    good : torch.Tensor of bool, shape (Qx, Qy)
        Pixels that are used.
    readout : float
        Read-out noise in electrons, rms.
    disks : DiskFilter
        The filter of the aperture.
    positions : numpy.ndarray, shape (n, 2)
        Positions of the direct beam, pixels.

    Returns
    -------
    Background
        The background.
    """
    shape = tuple(electrons.shape[1:])
    distance = np.hypot(np.arange(shape[0])[:, None] - positions[:, 0, None, None],
                        np.arange(shape[1]) - positions[:, 1, None, None])
    ring = np.rint(distance).astype(int)
    size = ring.max() + 1
    background = Background(np.ones(2))
    for _ in range(BACKGROUND_ROUNDS):
        found = find_disks(electrons, background.images(positions, shape), good, disks, CLEAR_SIGNIFICANCE, positions)
        pattern = np.concatenate([found.pattern, np.arange(len(positions))])
        place = np.concatenate([found.place, np.rint(positions).astype(int)])
        free = (covered(electrons.shape, pattern, place, disks.inner + PLACE_ERROR_PX) == 0) & good.cpu().numpy()
        sums, counts = (np.bincount(ring[free], weight, size) for weight in (electrons.cpu().numpy()[free], None))
        known = counts > 0
        if not known.any():
            return background
        profile = np.interp(np.arange(size), np.flatnonzero(known), (sums / counts.clip(1))[known])
        profile = gaussian_filter1d(profile, SMOOTHING_RADII * disks.aperture.radius)
        background = Background(profile.clip(max(readout**2, 1e-4)))
    return background


@dataclass(frozen=True)
class FalseAlarms:
    """Rate of false disks in a pattern, as a function of the least significance.

    Its logarithm is a polynomial of first degree in the squared significance, as for maxima of a random field (Adler,
    The Geometry of Random Fields, Wiley 1981).

    Attributes
    ----------
    intercept, slope : float
        Of the logarithm of the rate against the squared significance.

    Examples
    --------
    >>> from py4dstem_prenet.disks import FalseAlarms
    >>> alarms = FalseAlarms(intercept=5.0, slope=-0.5)
    >>> round(float(alarms.rate(alarms.threshold(0.1))), 6)
    0.1
    """

    intercept: float
    slope: float

    def rate(self, significance):
        """Compute the number of false disks in a pattern above a significance.

        Parameters
        ----------
        significance : float or numpy.ndarray
            Standard deviations.

        Returns
        -------
        float or numpy.ndarray
            Mean number of false disks.
        """
        return np.exp(self.intercept + self.slope * np.square(significance))

    def threshold(self, rate: float) -> float:
        """Compute the significance above which a pattern has so many false disks.

        Parameters
        ----------
        rate : float
            Mean number of false disks in a pattern.

        Returns
        -------
        float
            Standard deviations.
        """
        return float(np.sqrt(max((np.log(rate) - self.intercept) / self.slope, LOWEST_SIGNIFICANCE**2)))


def false_alarms(background: Background, good, readout: float, disks: DiskFilter, center, seed: int = 0) -> FalseAlarms:
    """Measure the rate of false disks on simulated noise of a background without any disk.

    Neighboring pixels share most of their counts, and few counts are not normal: the largest significance in a pattern
    follows no textbook law.

    Parameters
    ----------
    background : Background
        The background.
    good : torch.Tensor of bool, shape (Qx, Qy)
        Pixels that are used.
    readout : float
        Read-out noise in electrons, rms.
    disks : DiskFilter
        The filter of the aperture.
    center : array_like, shape (2,)
        Position of the direct beam, pixels.
    seed : int, optional
        Seed of the noise.

    Returns
    -------
    FalseAlarms
        The rate.
    """
    rng = np.random.default_rng(seed)
    positions = np.tile(np.asarray(center, float), (SIMULATED_AT_ONCE, 1))
    shape = tuple(good.shape)
    images = background.images(positions[:1], shape)
    rate = (images[0].numpy() - readout**2).clip(0)
    values = []
    for _ in range(SIMULATED_PATTERNS // SIMULATED_AT_ONCE):
        patterns = rng.poisson(rate, (SIMULATED_AT_ONCE, *shape)) + readout**2
        if readout > 0:
            patterns = patterns + rng.normal(0, readout, patterns.shape)
        electrons = torch.from_numpy(patterns.astype(np.float32))
        found = find_disks(electrons, images.expand_as(electrons), good, disks, LOWEST_SIGNIFICANCE, positions)
        values.append(found.significance[found.reported(shape)])
    z = np.sort(np.concatenate(values))[::-1]
    rate = (np.arange(len(z)) + 0.5) / SIMULATED_PATTERNS
    tail = (rate > TAIL_RATES[0]) & (rate < TAIL_RATES[1])
    if tail.sum() < 3:  # almost no electrons outside the direct beam
        return FalseAlarms(float(np.log(TAIL_RATES[0]) + 0.5 * LOWEST_SIGNIFICANCE**2), -0.5)
    slope, intercept = np.polyfit(z[tail] ** 2, np.log(rate[tail]), 1, w=rate[tail] ** 0.5)
    return FalseAlarms(float(intercept), float(min(slope, -0.1)))
