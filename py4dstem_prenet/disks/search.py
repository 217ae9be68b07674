"""Search for the disks of patterns: local maxima of their significance, strong disks first.

A strong disk raises the background of the disks around it. The search is therefore repeated with the pixels of all
disks that were found left out of the background.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from scipy.spatial import cKDTree

from . import DiskFilter, disk_significance

# Set on multislice silicon along [110] (benchmarks/strain.py, disks.py), unless a comment says otherwise.
SEARCH_ROUNDS = 3  # rounds of the search; a fourth round finds nothing new in patterns of 60 disks
MIN_AREA_FRACTION = 0.35  # fraction of the disk's area; smallest part on good pixels of a disk that is reported
# Fraction of the disk's area; smallest part on good pixels of a disk that is searched. Between this and
# MIN_AREA_FRACTION a disk is not reported, but its electrons are not taken for background or for another disk.
MIN_SEEN_FRACTION = 0.1
# Fraction of the area of the ring around a disk: weight of the background of the whole pattern, which is all that is
# left where other disks cover the ring.
PATTERN_RING_FRACTION = 0.15
# Electrons; areas of a ring. Largest weight of the background of the whole pattern where the ring has few electrons: a
# ring alone does not determine a background of less than one electron in the aperture.
PATTERN_ELECTRONS, PATTERN_RINGS = 4.0, 3.0
MIN_SPACING_RADII = 1.0  # radii; smallest distance of two disks
MAX_DISKS_A_PATTERN = 400  # disks; largest number in a pattern, for speed
# Ratio; smallest significance of a disk that overlaps another disk, relative to that disk. The brightest place of a
# half-lit disk lies off its center, and the rest of the disk is left as a weaker crescent.
NEIGHBOR_RATIO = 0.5
CERTAIN_SIGNIFICANCE = 5.0  # standard deviations; smallest significance of a disk that is left out of the background
FIRST_RATIO = 0.15  # ratio; smallest significance of disks of the first round, relative to the strongest disk
SEARCHED_AT_ONCE = 16  # patterns; number that fits into the caches of a processor


@dataclass(frozen=True)
class Candidates:
    """Places in patterns that may be disks.

    Attributes
    ----------
    pattern : numpy.ndarray of int, shape (k,)
        Number of the pattern, ascending.
    place : numpy.ndarray of int, shape (k, 2)
        Pixel (qx, qy).
    significance : numpy.ndarray, shape (k,)
        Significance in standard deviations.
    electrons : numpy.ndarray, shape (k,)
        Electrons above the background.
    background : numpy.ndarray, shape (k,)
        Electrons of the background in a pixel.
    seen : numpy.ndarray, shape (k,)
        Part of the disk that lies on good pixels.
    """

    pattern: np.ndarray
    place: np.ndarray
    significance: np.ndarray
    electrons: np.ndarray
    background: np.ndarray
    seen: np.ndarray

    def subset(self, keep) -> Candidates:
        """Select some places.

        Parameters
        ----------
        keep : numpy.ndarray
            Index or mask of the places.

        Returns
        -------
        Candidates
            The places.
        """
        return Candidates(*(getattr(self, field.name)[keep] for field in fields(self)))

    def reported(self, shape) -> np.ndarray:
        """Tell which places are reported as disks; the others belong to disks that are largely cut off.

        Parameters
        ----------
        shape : tuple of int
            (Qx, Qy) of the patterns.

        Returns
        -------
        numpy.ndarray of bool, shape (k,)
            True if the center lies in the pattern, and enough of the disk on good pixels.
        """
        return (self.seen > MIN_AREA_FRACTION) & ((self.place >= 0) & (self.place < shape)).all(1)


def find_disks(electrons, background, good, disks: DiskFilter, threshold, direct, structure: float = 0.0) -> Candidates:
    """Find the disks of patterns, the direct one left out.

    Parameters
    ----------
    electrons : torch.Tensor, shape (n, Qx, Qy)
        Patterns in electrons; with read-out noise, its variance added to every pixel.
    background : torch.Tensor, shape (n, Qx, Qy)
        Expected background of each pattern, up to a factor that varies slowly over the pattern.
    good : torch.Tensor of bool, shape (Qx, Qy)
        Pixels that are used.
    disks : DiskFilter
        The filter of the aperture.
    threshold : float
        Least significance of a disk, standard deviations.
    direct : numpy.ndarray, shape (n, 2)
        Positions of the direct beam, pixels.
    structure : float, optional
        Relative rms of the background in an aperture about its expectation, without counting noise (`Structure`).

    Returns
    -------
    Candidates
        The disks.
    """
    if len(electrons) > SEARCHED_AT_ONCE:
        parts = []
        for first in range(0, len(electrons), SEARCHED_AT_ONCE):
            part = slice(first, first + SEARCHED_AT_ONCE)
            found = find_disks(electrons[part], background[part], good, disks, threshold, direct[part], structure)
            parts.append(replace(found, pattern=found.pattern + first))
        return Candidates(*(np.concatenate([getattr(found, field.name) for found in parts])
                            for field in fields(Candidates)))
    n, radius = len(electrons), disks.aperture.radius
    sides = (disks.outside,) * 4  # part of a disk whose center lies outside is in the pattern
    electrons, background, good = (torch.nn.functional.pad(image, sides) for image in (
        electrons * good, background * good, good))
    direct = np.rint(direct).astype(int) + disks.outside
    area = disks.sums(good.float()[None], 0)
    seen = area > MIN_SEEN_FRACTION * disks.area
    density = disks.sums(background, 0) / area.clamp_min(1)
    reach = max(1, int(np.ceil(MIN_SPACING_RADII * radius)) - 1)
    free, open_ = _without(good.expand_as(electrons), seen.expand_as(electrons), np.arange(n),
                           direct, disks.inner, reach)
    asked, threshold = threshold, torch.full_like(electrons, threshold)
    counted = disks.sums_at(electrons, np.arange(n), direct, 0).clamp_min(0).sqrt()
    _raise(threshold, np.arange(n), direct, counted, 2 * disks.inner)
    found = np.zeros((0, 3), int)
    for number in range(SEARCH_ROUNDS + 1):
        # Pixels of disks that were found are not used, neither in apertures nor in rings.
        (on, off), (expected_on, expected_off) = (disks.both_sums(image * free) for image in (electrons, background))
        level = _level(electrons, background, free)
        around = pattern_ring(density * disks.ring_area, level)
        z = disk_significance(on, off + level * around, expected_on, expected_off + around, structure)
        z = z * (expected_on > MIN_AREA_FRACTION * area * density)
        maxima = (z == _highest(z, reach)) & open_
        last = number == SEARCH_ROUNDS
        if not last:
            least = threshold.clamp_min(CERTAIN_SIGNIFICANCE)
            if number == 0:  # only strong disks, since they change the background of weak ones
                least = torch.maximum(least, FIRST_RATIO * (z * open_).amax((1, 2), keepdim=True))
            new = (maxima & (z > least)).nonzero().cpu().numpy()
            last = not len(new)
        if last:  # uncertain disks stay in the background; without its brightest places it would be too low
            new = (maxima & (z > threshold)).nonzero().cpu().numpy()
        found = np.concatenate([found, new])
        _raise(threshold, new[:, 0], new[:, 1:], z[tuple(new.T)], 2 * disks.inner)
        if last:
            break
        free, open_ = _without(free, open_, new[:, 0], new[:, 1:], disks.inner, reach)
    # Now all disks are known, so that the background can be measured without them.
    pattern, place = found[:, 0], found[:, 1:]
    on, off, expected_on, expected_off = (disks.sums_at(image, pattern, place, kernel) for image, kernel in (
        (electrons, 0), (electrons * free, 1), (background, 0), (background * free, 1)))
    covered_area = disks.sums_at(good.float()[None], 0 * pattern, place, 0).clamp_min(1)
    level = _level(electrons, background, free)[pattern, 0, 0]
    around = pattern_ring(disks.ring_area * expected_on / covered_area, level)
    off, expected_off = off + level * around, expected_off + around
    z = disk_significance(on, off, expected_on, expected_off, structure)
    beneath = off * expected_on / expected_off.clamp_min(1e-6)
    found = Candidates(pattern, place - disks.outside, z.cpu().numpy(), (on - beneath).cpu().numpy(),
                       (beneath / covered_area).cpu().numpy(), (covered_area / disks.area).cpu().numpy())
    found = found.subset((z > asked).cpu().numpy())
    found = found.subset(np.lexsort((-found.significance, found.pattern)))
    rank = np.arange(len(found.pattern)) - np.searchsorted(found.pattern, found.pattern)
    return found.subset(rank < MAX_DISKS_A_PATTERN)


def pattern_ring(expected_ring, level):
    """Return the weight of the background of the whole pattern, as expected counts in a ring.

    Parameters
    ----------
    expected_ring : torch.Tensor
        Expected counts of the background in a whole ring, divided by `level`.
    level : torch.Tensor
        Level of the background in the pattern.

    Returns
    -------
    torch.Tensor
        Expected counts, divided by `level`.
    """
    few = torch.minimum(PATTERN_RINGS * expected_ring, PATTERN_ELECTRONS / level.clamp_min(1e-6))
    return torch.maximum(PATTERN_RING_FRACTION * expected_ring, few)


def own_significance(found: Candidates, position, electrons, good, disks: DiskFilter, structure: float) -> np.ndarray:
    """Compute the significance of located disks without the pixels under more significant ones.

    Parameters
    ----------
    found : Candidates
        The disks.
    position : numpy.ndarray, shape (k, 2)
        Their fitted positions, pixels.
    electrons : torch.Tensor, shape (n, Qx, Qy)
        Patterns in electrons; with read-out noise, its variance added to every pixel.
    good : torch.Tensor of bool, shape (Qx, Qy)
        Pixels that are used.
    disks : DiskFilter
        The filter of the aperture.
    structure : float
        Relative rms of the background in an aperture about its expectation, without counting noise.

    Returns
    -------
    numpy.ndarray, shape (k,)
        Standard deviations; at most those of `found`, and the same where no other disk is near.
    """
    value = found.significance.copy()
    every = np.column_stack([position, 1e6 * found.pattern])
    pairs = cKDTree(every).query_pairs(2 * disks.inner, output_type="ndarray") if len(every) else np.zeros((0, 2), int)
    if not len(pairs):
        return value
    brighter = value[pairs[:, 0]] >= value[pairs[:, 1]]
    weak, strong = np.where(brighter, pairs.T[::-1], pairs.T)
    members, number = np.unique(weak, return_inverse=True)
    offset = ((disks.kernels[0] > 0).nonzero() - disks.half).cpu().numpy()
    pixels = np.rint(position[members]).astype(int)[:, None] + offset
    shape = tuple(good.shape)
    used = ((pixels >= 0) & (pixels < shape)).all(2)
    x, y = np.moveaxis(pixels.clip(0, np.subtract(shape, 1)), 2, 0)
    used &= good.cpu().numpy()[x, y]
    for pair in range(len(weak)):
        used[number[pair]] &= np.hypot(*(pixels[number[pair]] - position[strong[pair]]).T) > disks.inner
    counts = electrons.cpu().numpy()[found.pattern[members][:, None], x, y]
    on, beneath = (counts * used).sum(1), found.background[members] * used.sum(1)
    ring = torch.from_numpy(found.background[members] * disks.ring_area)
    off = ring + pattern_ring(ring, torch.ones(1))
    z = disk_significance(torch.from_numpy(on), off, torch.from_numpy(beneath), off, structure).numpy()
    value[members] = np.minimum(value[members], z)
    return value


def covered(shape, pattern, place, radius: float) -> np.ndarray:
    """Count the disks that cover each pixel.

    Parameters
    ----------
    shape : tuple of int
        (n, Qx, Qy).
    pattern : numpy.ndarray of int, shape (k,)
        Number of the pattern of each disk.
    place : numpy.ndarray of int, shape (k, 2)
        Pixel (qx, qy) of each disk.
    radius : float
        Radius of the disks, pixels.

    Returns
    -------
    numpy.ndarray of int, shape (n, Qx, Qy)
        Disks over each pixel.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.disks import covered
    >>> int(covered((1, 8, 8), np.array([0]), np.array([[0, 0]]), 1.5).sum())
    4
    """
    return np.bincount(_pixels(shape, pattern, place, radius)[0], minlength=int(np.prod(shape))).reshape(shape)


def _raise(threshold, pattern, place, significance, radius):
    """Raise the threshold around disks to a fraction of their significance."""
    pixels, number = (torch.from_numpy(a).to(threshold.device)
                      for a in _pixels(tuple(threshold.shape), pattern, place, radius))
    threshold.view(-1).scatter_reduce_(0, pixels, NEIGHBOR_RATIO * significance[number], "amax")


def _level(electrons, background, free):
    """Ratio (n, 1, 1) of measured to expected background of each pattern."""
    sums = [(image * free).sum((1, 2), keepdim=True) for image in (electrons, background)]
    return sums[0] / sums[1].clamp_min(1e-6)


def _pixels(shape, pattern, place, radius):
    """Flat index of the pixels under disks, and the number of the disk of each."""
    half = int(np.ceil(radius))
    axis = np.arange(-half, half + 1)
    dx, dy = (a.ravel() for a in np.meshgrid(axis, axis, indexing="ij"))
    near = np.hypot(dx, dy) < radius
    x, y = place[:, :1] + dx[near], place[:, 1:] + dy[near]
    inside = (x >= 0) & (x < shape[1]) & (y >= 0) & (y < shape[2])
    return ((pattern[:, None] * shape[1] + x) * shape[2] + y)[inside], inside.nonzero()[0]


def _highest(image, reach: int):
    """Highest value within `reach` pixels along each axis, by doubling; (n, Qx, Qy)."""
    width = 2 * reach + 1
    for axis in (1, 2):
        size = image.shape[axis]
        padding = (reach, reach) if axis == 2 else (0, 0, reach, reach)
        image, span = torch.nn.functional.pad(image, padding, value=-torch.inf), 1
        while span < width:
            step = min(span, width - span)
            left = image.shape[axis] - step
            image, span = torch.maximum(image.narrow(axis, 0, left), image.narrow(axis, step, left)), span + step
        image = image.narrow(axis, 0, size)
    return image


def _without(free, open_, pattern, place, radius, reach):
    """Take the pixels of disks out of the background, and their neighborhood out of the search."""
    out = []
    for mask, least in ((free, radius), (open_, reach + 0.5)):
        left = mask.clone(memory_format=torch.contiguous_format)
        left.view(-1)[torch.from_numpy(_pixels(mask.shape, pattern, place, least)[0]).to(mask.device)] = False
        out.append(left)
    return out
