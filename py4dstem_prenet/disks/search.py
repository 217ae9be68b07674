"""Search for the disks of patterns: local maxima of their significance, strong disks first.

A strong disk raises the background of the disks around it. The search is therefore repeated with the pixels of all
disks that were found left out of the background.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from scipy.spatial import cKDTree

from . import DiskFilter, disk_significance, may_exceed

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
MAX_DISKS_A_PATTERN = 400  # disks; largest number in a pattern, for speed
# Ratio; smallest significance of a disk that overlaps another disk, relative to that disk. The brightest place of a
# half-lit disk lies off its center, and the rest of the disk is left as a weaker crescent.
NEIGHBOR_RATIO = 0.5
CERTAIN_SIGNIFICANCE = 5.0  # standard deviations; smallest significance of a disk that is left out of the background
FIRST_RATIO = 0.15  # ratio; smallest significance of disks of the first round, relative to the strongest disk
SEARCHED_AT_ONCE = 16  # patterns; number that fits into the caches of a processor
MAXIMA = np.dtype([("pattern", int), ("place", int, 2), ("significance", float), ("least", float),
                   ("strongest", float)])


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
    margin = disks.outside  # part of a disk whose center lies outside is in the pattern
    sides = (margin, disks.size[1] - good.shape[1] - margin, margin, disks.size[0] - good.shape[0] - margin)
    good = good.to(electrons.dtype)  # products of numbers and bools are slow
    padded = torch.nn.functional.pad(good, sides)
    area = disks.sums(padded[None], 0)
    area[:, good.shape[0] + 2 * margin :], area[:, :, good.shape[1] + 2 * margin :] = 0, 0
    direct, parts = np.rint(direct).astype(int), []
    for first in range(0, max(len(electrons), 1), SEARCHED_AT_ONCE):
        part = slice(first, first + SEARCHED_AT_ONCE)
        images = (torch.nn.functional.pad(image[part] * good, sides) for image in (electrons, background))
        found = _Search(*images, padded, area, disks, threshold, structure).found(direct[part] + margin)
        parts.append(replace(found, pattern=found.pattern + first, place=found.place - margin))
    return concatenated(parts)


def concatenated(parts):
    """Concatenate results whose fields are arrays with one row for each disk.

    Parameters
    ----------
    parts : sequence of Candidates or of FaintDisks
        At least one result; all are of the same class.

    Returns
    -------
    Candidates or FaintDisks
        The disks of all parts, in order.
    """
    columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(parts[0])}
    return type(parts[0])(**{name: np.concatenate(arrays) for name, arrays in columns.items()})


class _Search:
    """The search in a few patterns, which fill the transforms of the filter."""

    def __init__(self, electrons, background, good, area, disks, threshold, structure):
        self.electrons, self.background, self.good, self.disks = electrons, background, good, disks
        self.threshold, self.structure = threshold, structure
        self.reach = max(1, int(np.ceil(disks.aperture.radius)) - 1)  # pixels; no two disks are closer than a radius
        expected = disks.sums(background, 0)
        self.ring = expected * (disks.ring_area / area.clamp_min(1))  # of the background, with all pixels
        self.enough = torch.where(area > 0, MIN_AREA_FRACTION * area / area.clamp_min(1) * expected, torch.inf)
        self.free = good.expand_as(electrons).clone(memory_format=torch.contiguous_format)
        self.open = (area > MIN_SEEN_FRACTION * disks.area).expand_as(electrons).clone(
            memory_format=torch.contiguous_format)
        self.least = torch.full_like(electrons, threshold)

    def found(self, direct) -> Candidates:
        """Find the disks, given the pixels (n, 2) of the direct beam."""
        every = np.arange(len(direct))
        counted = self.disks.sums_at(self.electrons, every, direct, 0).clamp_min(0).sqrt().cpu().numpy()
        self._take(every, direct, counted)
        changed, maxima, found = every, np.zeros(0, MAXIMA), []
        for number in range(SEARCH_ROUNDS + 1):
            if len(changed):  # in the other patterns, the maxima are still the same
                maxima = np.concatenate([maxima[~np.isin(maxima["pattern"], changed)], self._maxima(changed)])
            new = maxima[maxima["significance"] > np.maximum(maxima["least"], CERTAIN_SIGNIFICANCE)]
            if number == 0:  # only strong disks, since they change the background of weak ones
                new = new[new["significance"] > FIRST_RATIO * new["strongest"]]
            # Uncertain disks stay in the background; without its brightest places it would be too low.
            last = number == SEARCH_ROUNDS or (number > 0 and not len(new))
            found.append(maxima if last else new)
            if last:
                break
            self._take(new["pattern"], new["place"], new["significance"])
            changed = np.unique(new["pattern"])
        found = np.concatenate(found)
        return self._measured(found["pattern"], found["place"])

    def _take(self, pattern, place, significance):
        """Take disks out of the background and the search, and raise the least significance around them."""
        device = self.least.device
        for image, radius in ((self.free, self.disks.inner), (self.open, self.reach + 0.5)):
            image.view(-1)[torch.from_numpy(_pixels(image.shape, pattern, place, radius)[0]).to(device)] = 0
        pixels, number = _pixels(self.least.shape, pattern, place, 2 * self.disks.inner)
        raised = torch.from_numpy((NEIGHBOR_RATIO * significance[number]).astype(np.float32))
        self.least.view(-1).scatter_reduce_(0, torch.from_numpy(pixels).to(device), raised.to(device), "amax")

    def _maxima(self, members) -> np.ndarray:
        """Find the local maxima of the significance in some patterns.

        Pixels of disks that were found are not used, neither in apertures nor in rings.
        """
        part = torch.from_numpy(members).to(self.free.device) if len(members) < len(self.free) else slice(None)
        free, open_, ring, enough, least = (values[part] for values in (
            self.free, self.open, self.ring, self.enough, self.least))
        electrons, background = (image[part] * free for image in (self.electrons, self.background))
        level = _level(electrons, background)
        (on, off), (expected_on, expected_off) = map(self.disks.both_sums, (electrons, background))
        around = pattern_ring(ring, level)
        off.addcmul_(level, around).clamp_min_(0), on.clamp_min_(0)
        expected_off.add_(around).clamp_min_(1e-6)
        places = may_exceed(on, off, expected_on, expected_off, self.threshold) & (expected_on > enough)
        places = places.view(-1).nonzero()[:, 0]
        z = torch.zeros_like(on)
        z.view(-1)[places] = disk_significance(*(image.view(-1)[places] for image in (
            on, off, expected_on, expected_off)), self.structure)
        opened = torch.where(open_, z, 0)
        maxima = ((opened > least) & (z == _highest(z, self.reach))).nonzero()
        number, x, y = maxima.T
        out = np.zeros(len(maxima), MAXIMA)
        out["pattern"], out["place"] = members[number.cpu().numpy()], maxima[:, 1:].cpu().numpy()
        for name, values in (("significance", z[number, x, y]), ("least", least[number, x, y]),
                             ("strongest", opened.amax((1, 2))[number])):
            out[name] = values.cpu().numpy()
        return out

    def _measured(self, pattern, place) -> Candidates:
        """Measure the disks on the background without any of them, and drop those that are not significant."""
        disks, background = self.disks, self.background * self.free
        electrons = self.electrons * self.free
        on, expected_on = disks.sums_at(torch.stack([self.electrons, self.background]), pattern, place, 0)
        off, expected_off = disks.sums_at(torch.stack([electrons, background]), pattern, place, 1)
        covered_area = disks.sums_at(self.good[None], 0 * pattern, place, 0).clamp_min(1)
        level = _level(electrons, background)[pattern, 0, 0]
        around = pattern_ring(disks.ring_area * expected_on / covered_area, level)
        off, expected_off = off + level * around, expected_off + around
        z = disk_significance(on, off, expected_on, expected_off, self.structure)
        beneath = off * expected_on / expected_off.clamp_min(1e-6)
        found = Candidates(pattern, place, z.cpu().numpy(), (on - beneath).cpu().numpy(),
                           (beneath / covered_area).cpu().numpy(), (covered_area / disks.area).cpu().numpy())
        found = found.subset((z > self.threshold).cpu().numpy())
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
    pixels = np.rint(position[members]).astype(int)[:, None] + disks.offsets[0].T
    shape = tuple(good.shape)
    used = ((pixels >= 0) & (pixels < shape)).all(2)
    x, y = np.moveaxis(pixels.clip(0, np.subtract(shape, 1)), 2, 0)
    used &= good.cpu().numpy()[x, y]
    for pair in range(len(weak)):
        used[number[pair]] &= np.hypot(*(pixels[number[pair]] - position[strong[pair]]).T) > disks.inner
    flat = torch.from_numpy((found.pattern[members][:, None] * shape[0] + x) * shape[1] + y)
    counts = electrons.reshape(-1)[flat.to(electrons.device)].cpu().numpy()
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
    numpy.ndarray of uint8, shape (n, Qx, Qy)
        Disks over each pixel.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.disks import covered
    >>> int(covered((1, 8, 8), np.array([0]), np.array([[0, 0]]), 1.5).sum())
    4
    """
    count = torch.zeros(tuple(shape), dtype=torch.uint8)
    pixels = torch.from_numpy(_pixels(shape, pattern, place, radius)[0])
    count.view(-1).index_add_(0, pixels, torch.ones((), dtype=torch.uint8).expand(len(pixels)))
    return count.numpy()


def _level(electrons, background):
    """Ratio (n, 1, 1) of measured to expected background of each pattern."""
    return electrons.sum((1, 2), keepdim=True) / background.sum((1, 2), keepdim=True).clamp_min(1e-6)


def _pixels(shape, pattern, place, radius):
    """Flat index of the pixels under disks, and the number of the disk of each."""
    half = int(np.ceil(radius))
    axis = np.arange(-half, half + 1)
    dx, dy = (a.ravel() for a in np.meshgrid(axis, axis, indexing="ij"))
    near = np.hypot(dx, dy) < radius
    dx, dy = dx[near], dy[near]
    flat = (pattern * shape[1] + place[:, 0])[:, None] * shape[2] + place[:, 1:] + (dx * shape[2] + dy)
    number = np.broadcast_to(np.arange(len(place))[:, None], flat.shape)
    cut = ((place < half) | (place >= np.subtract(shape[1:], half))).any(1)
    if not cut.any():
        return flat.ravel(), number.ravel()
    x, y = place[cut, :1] + dx, place[cut, 1:] + dy
    inside = np.ones(flat.shape, bool)
    inside[cut] = (x >= 0) & (x < shape[1]) & (y >= 0) & (y < shape[2])
    return flat[inside], number[inside]


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
