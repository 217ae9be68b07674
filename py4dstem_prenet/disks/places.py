"""Where a scan shows disks, relative to the direct beam: there, fewer pixels are searched, and weaker disks are found.

The places widen what is searched with the lower threshold; they do not enter the fit of a position.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import binary_dilation

from . import Background, Candidates, DiskFilter, find_disks

# Chosen with multislice silicon along [110] in view (benchmarks/strain.py, disks.py):
SUM_SIGNIFICANCE = 5.0  # standard deviations of a disk in the sum of the patterns
MIN_REPEATS = 2  # patterns with a disk at a place
REACH_RADII, MIN_REACH_PX = 0.7, 2.0  # how far from a place disks are likely: radii of the disk, at least pixels
MAX_PART = 0.5  # of the pixels; places that cover more tell nothing


@dataclass(frozen=True)
class LikelyPlaces:
    """Pixels relative to the direct beam where disks are likely.

    Attributes
    ----------
    image : numpy.ndarray of bool, shape (2 Qx + 1, 2 Qy + 1)
        The pixels; the direct beam lies in the middle.
    """

    image: np.ndarray

    def images(self, positions, shape) -> np.ndarray:
        """Shift the places to the direct beams of patterns.

        Parameters
        ----------
        positions : numpy.ndarray, shape (n, 2)
            Positions of the direct beam, pixels.
        shape : tuple of int
            (Qx, Qy).

        Returns
        -------
        numpy.ndarray of bool, shape (n, Qx, Qy)
            True where disks are likely.

        Examples
        --------
        >>> import numpy as np
        >>> from py4dstem_prenet.disks import LikelyPlaces
        >>> places = LikelyPlaces(np.eye(9, dtype=bool))
        >>> places.images(np.array([[1.0, 1.0]]), (4, 4))[0].astype(int).tolist()
        [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
        """
        first = np.array(shape) - np.clip(np.rint(positions).astype(int), 0, shape)
        return np.stack([self.image[x : x + shape[0], y : y + shape[1]] for x, y in first])


def learn_places(electrons, background: Background, good, disks: DiskFilter, positions,
                 found: Candidates) -> LikelyPlaces:
    """Learn where disks are likely, from disks found in several patterns and those in the sum of all.

    Parameters
    ----------
    electrons : torch.Tensor, shape (n, Qx, Qy)
        Patterns in electrons, the variance of the read-out noise added to every pixel.
    background : Background
        Their background.
    good : torch.Tensor of bool, shape (Qx, Qy)
        Pixels that are used.
    disks : DiskFilter
        The filter of the aperture.
    positions : numpy.ndarray, shape (n, 2)
        Positions of the direct beam, pixels.
    found : Candidates
        Disks that were found in single patterns.

    Returns
    -------
    LikelyPlaces
        The places; none if they cover most of the pattern.
    """
    shape = np.array(electrons.shape[1:])
    image = np.zeros(2 * shape + 1, int)
    away = np.rint(found.place - positions[found.pattern]).astype(int) + shape
    away = away[((away >= 0) & (away < image.shape)).all(1)]
    np.add.at(image, tuple(away.T), 1)
    near = _disk(max(MIN_REACH_PX, REACH_RADII * disks.aperture.radius))
    # A disk within reach of another one is counted twice.
    repeats = torch.nn.functional.conv2d(torch.from_numpy(image)[None, None].float(), torch.from_numpy(near)[None, None]
                                         .float(), padding="same")[0, 0].numpy().round()
    places = (image > 0) & (repeats >= MIN_REPEATS)
    middle = np.rint(np.median(positions, 0)).astype(int)
    sums = torch.zeros(3, *shape, device=electrons.device)
    images = background.images(positions, tuple(shape)).to(electrons.device)
    for pattern, expected, shift in zip(electrons, images, middle - np.rint(positions).astype(int), strict=True):
        source, target = zip(*(_ranges(int(d), int(n)) for d, n in zip(shift, shape, strict=True)), strict=True)
        for total, part in zip(sums, (pattern * good, expected * good, good.float()), strict=True):
            total[target] += part[source]
    known = sums[2] > 0.5 * len(electrons)
    in_sum = find_disks(sums[:1], sums[1:2], known, disks, SUM_SIGNIFICANCE, middle[None].astype(float))
    places[tuple((in_sum.place - middle + shape).T)] = True
    places = binary_dilation(places, near)
    return LikelyPlaces(places if places.mean() < MAX_PART else np.zeros_like(places))


def _disk(radius):
    axis = np.arange(-int(radius), int(radius) + 1)
    return np.hypot(axis[:, None], axis) <= radius


def _ranges(shift, size):
    """Slices of the source and the target of an axis that is shifted."""
    return slice(max(0, -shift), size - max(0, shift)), slice(max(0, shift), size + min(0, shift))
