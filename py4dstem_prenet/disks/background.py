"""Smooth background of patterns between their disks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d

from . import MIN_SEEN_FRACTION, DiskFilter, covered, find_disks

# Set on multislice silicon along [110] (benchmarks/strain.py, disks.py), unless a comment says otherwise.
CLEAR_SIGNIFICANCE = 3.0  # standard deviations; smallest significance of disks that are left out
PLACE_ERROR_PX = 2.0  # pixels; distance of the most significant place of a half-lit disk from its center
BACKGROUND_ROUNDS = 3  # rounds; the first one assumes a constant background
RING_EXCESS_SIGMAS = 3.0  # standard errors; largest difference from the smoothed profile that is noise (1 of 400)
SMOOTHING_RADII = 0.25  # radii, 1 sigma; smoothing of the radial profile of the background


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
        images, radii = np.empty((len(positions), *shape), np.float32), np.arange(len(self.profile))
        axes = (np.square(np.arange(n) - positions[:, k, None]) for k, n in enumerate(shape))
        for image, x, y in zip(images, *axes, strict=True):  # one by one, in the cache of the processor
            image[:] = np.interp(np.sqrt(x[:, None] + y), radii, self.profile)
        return torch.from_numpy(images)


def measure_background(electrons, good, readout: float, disks: DiskFilter, positions,
                       structure: float = 0.0) -> Background:
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
    structure : float, optional
        Relative rms of the background in an aperture about its mean, without counting noise.

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
    background, good_pixels = Background(np.ones(2)), good.expand_as(electrons).cpu().numpy()
    counted = electrons.cpu().numpy().astype(float)
    for _ in range(BACKGROUND_ROUNDS):
        free = outside_disks(electrons, background.images(positions, shape).to(electrons.device),
                             good.expand_as(electrons), disks, positions, structure).cpu().numpy()
        # Disks leave part of a ring free, and its pixels scatter by more than their mean. Where nearly all was taken
        # for disks and the scatter beyond that of counts is smaller, the ring is part of the background.
        every = np.bincount(ring[good_pixels], minlength=size).clip(1)
        mean, square = (np.bincount(ring[good_pixels], counted[good_pixels] ** power, size) / every for power in (1, 2))
        covered_rings = np.bincount(ring[free], minlength=size) < MIN_SEEN_FRACTION * every
        covered_rings &= square - mean**2 - mean < mean**2
        covered_rings[: int(np.ceil(disks.inner + PLACE_ERROR_PX)) + 1] = False  # under the direct disk
        free |= good_pixels & covered_rings[ring]
        values = counted[free]
        sums, squares, counts = (np.bincount(ring[free], weight, size) for weight in (values, values**2, None))
        known = counts > 0
        if not known.any():
            return background
        mean, square = (np.interp(np.arange(size), np.flatnonzero(known), (total / counts.clip(1))[known])
                        for total in (sums, squares))
        profile = gaussian_filter1d(mean, SMOOTHING_RADII * disks.aperture.radius)
        # Rings may be narrower than the smoothing. Of each difference, the part beyond its noise is kept. Scatter
        # beyond that of counts is structure, as wide as a disk.
        noise = RING_EXCESS_SIGMAS * ((mean + disks.area * (square - mean**2 - mean).clip(0)) / counts.clip(1)) ** 0.5
        profile += np.sign(mean - profile) * (np.abs(mean - profile) - noise).clip(0)
        background = Background(profile.clip(max(readout**2, 1e-4)))
    return background


def outside_disks(electrons, expected, free, disks: DiskFilter, direct, structure: float = 0.0) -> torch.Tensor:
    """Leave out the pixels under places of patterns that may be disks, and under the direct disk.

    Parameters
    ----------
    electrons : torch.Tensor, shape (n, Qx, Qy)
        Patterns in electrons, the variance of the read-out noise added to every pixel.
    expected : torch.Tensor, shape (n, Qx, Qy)
        Expected background of each pattern.
    free : torch.Tensor of bool, shape (n, Qx, Qy)
        Pixels that are used.
    disks : DiskFilter
        The filter of the aperture.
    direct : numpy.ndarray, shape (n, 2)
        Positions of the direct beam, pixels.
    structure : float, optional
        Relative rms of the background in an aperture about its mean, without counting noise.

    Returns
    -------
    torch.Tensor of bool, shape (n, Qx, Qy)
        Those under no disk.
    """
    found = find_disks(electrons, expected, free.any(0), disks, CLEAR_SIGNIFICANCE, direct, structure)
    pattern = np.concatenate([found.pattern, np.arange(len(direct))])
    place = np.concatenate([found.place, np.rint(direct).astype(int)])
    covering = covered(electrons.shape, pattern, place, disks.inner + PLACE_ERROR_PX)
    return free & torch.from_numpy(covering == 0).to(free.device)
