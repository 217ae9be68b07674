"""Positions of the disks of single patterns, grouped into reflections of one grain."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from ..compute import map_chunks
from ..core import BraggDisks, NoiseModel, PrenetError, Scan, sample_positions
from ..disks import MAX_ORIGIN_OFFSET_PX, SAMPLE_BYTES, SAMPLE_PATTERNS, LearnedDisks
from ..fits import Aperture
from . import (
    ABSENT_VARIANCE,
    CRYSTAL_SYSTEMATIC,
    HEIGHT_SHAPE,
    SPOT_SYSTEMATIC,
    hidden_disk_radius,
    hub_radius,
)

MAX_SPOT_POSITIONS = 1024  # scan positions; most in which disks are searched for, chosen for speed
TYPICAL_ERROR_PX = 0.1  # pixels; width of the prior of the error that is common to the disks of a reflection
MIN_SPOT_POSITIONS = 8  # scan positions; fewest: maxima on the rings of a single powder pattern are not disks
MIN_SPOTS = 12  # reflections; fewest that are used as evidence, except those of a single crystal
# Radii of the direct disk, and pixels added to them; smallest radius of the search, inside which the direct beam
# disturbs.
INNER_RADII, INNER_PX = 2.2, 1.5
# Factor on a quantile of the sigmas; largest sigma of a used disk: weak disks contain little information, and many of
# them are false.
MAX_SIGMA_FACTOR, SIGMA_QUANTILE = 3.0, 0.2
FREQUENT_PART = 0.9  # fraction of the disks that belong to the reflections from which grains are counted; chosen
FALSE_DISKS = 0.03  # expected number of false disks per pattern
# Pixels, standard errors, and steps of the searched positions; largest distances of two disks of the same reflection. A
# weak disk is not found in every pattern.
SAME_SPOT_PX, SAME_SPOT_SIGMAS, SAME_SPOT_STEPS = 0.7, 3.0, 2
_last_search: dict[bytes, Spots | None] = {}  # at most one result of `measure_spots`, by the hash of its input


@dataclass(frozen=True, eq=False)
class Spots:
    """Positions of m disks.

    Attributes
    ----------
    offset : numpy.ndarray
        (m, 2), position relative to the origin of the pattern, pixels.
    sigma : numpy.ndarray
        (m, 2), standard errors, pixels.
    pattern : numpy.ndarray of int
        (m,), number of the pattern.
    place : numpy.ndarray of int
        (m, 2), row and column of the pattern, counted among those that were searched.
    reflection : numpy.ndarray of int
        (m,), number of the reflection; disks of one reflection of one grain at neighboring positions of the scan have
        the same number.
    size : numpy.ndarray of int
        (m,), number of disks of this reflection.
    inner : float
        Smallest radius at which disks were searched for, pixels.
    grains : float
        Number of grains, from the number of reflections and the mean number of disks of a pattern.

    Examples
    --------
    >>> offset, place = np.array([[20.0, 0.0], [20.1, 0.0], [0.0, 30.0]]), np.array([[0, 0], [0, 1], [0, 1]])
    >>> spots = Spots(offset, np.full((3, 2), 0.1), np.array([0, 1, 1]), place, np.array([0, 0, 1]),
    ...               np.array([2, 2, 1]), 10.0, 1.0)
    >>> spots.span
    (10.0, 30.0)
    """

    offset: np.ndarray
    sigma: np.ndarray
    pattern: np.ndarray
    place: np.ndarray
    reflection: np.ndarray
    size: np.ndarray
    inner: float
    grains: float

    @property
    def span(self) -> tuple[float, float]:
        """Smallest radius at which disks were searched for, and largest radius of a disk, pixels.

        Returns
        -------
        tuple of float
            The radii.
        """
        return self.inner, float(np.hypot(*self.offset.T).max())

    @property
    def few_grains(self) -> bool:
        """Whether the scan has too few grains for rings.

        The heights of rings then vary more because of few zone axes than because of dynamical scattering.

        Returns
        -------
        bool
            True for fewer than five grains.
        """
        return ABSENT_VARIANCE / self.grains > 1 / HEIGHT_SHAPE

    def parts(self, side: int) -> np.ndarray:
        """Number the parts of the scan, rectangles of about equal size.

        Parameters
        ----------
        side : int
            Number of parts along each axis of the scan. If an axis has fewer positions, the other one has more parts.

        Returns
        -------
        numpy.ndarray of int, shape (m,)
            Part of each disk.
        """
        size = self.place.max(0) + 1
        rows = min(size[0], max(side, -(-side**2 // size[1])))
        columns = min(size[1], side**2 // rows)
        row, column = (self.place * (rows, columns) // size).T
        return row * columns + column

    def thinned(self, count: int) -> Spots:
        """Select disks, of as many reflections as possible.

        Parameters
        ----------
        count : int
            Largest number of disks.

        Returns
        -------
        Spots
            The selected disks; their sizes are the numbers of selected disks of the same reflection.

        Examples
        --------
        >>> offset, zeros = np.array([[20.0, 0.0], [20.1, 0.0], [0.0, 30.0]]), np.zeros((3, 2), int)
        >>> spots = Spots(offset, np.full((3, 2), 0.1), zeros[:, 0], zeros, np.array([0, 0, 1]), np.array([2, 2, 1]),
        ...               10.0, 1.0)
        >>> fewer = spots.thinned(2)
        >>> fewer.offset.tolist(), fewer.size.tolist()  # one disk of each reflection
        ([[20.1, 0.0], [0.0, 30.0]], [1, 1])
        """
        if len(self.pattern) <= count:
            return self
        number, sizes = np.unique(self.reflection, return_inverse=True, return_counts=True)[1:]
        order = np.argsort(number, kind="stable")
        rank = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # within the reflection
        each = np.minimum(max(count // len(sizes), 1), sizes)[number[order]]
        chosen = order[(rank + 1) * each // sizes[number[order]] > rank * each // sizes[number[order]]]
        kept = np.sort(chosen)[np.unique(np.linspace(0, len(chosen) - 1, min(count, len(chosen))).astype(int))]
        number, sizes = np.unique(self.reflection[kept], return_inverse=True, return_counts=True)[1:]
        return replace(self.subset(kept), size=sizes[number])

    def subset(self, keep) -> Spots:
        """Select a subset of the disks.

        Parameters
        ----------
        keep : numpy.ndarray
            Index or mask.

        Returns
        -------
        Spots
            The selected disks; their sizes are not changed.
        """
        return replace(self, **{field.name: getattr(self, field.name)[keep] for field in fields(self)
                                if field.name not in ("inner", "grains")})

    def sharp(self) -> Spots:
        """Leave out disks whose position is far less certain than that of the best disks.

        Returns
        -------
        Spots
            The remaining disks.
        """
        error = np.hypot(*self.sigma.T)
        return self.subset(error < MAX_SIGMA_FACTOR * np.quantile(error, SIGMA_QUANTILE))

    def spread(self, radius, azimuth):
        """Compute the standard errors along the radius.

        Parameters
        ----------
        radius, azimuth : numpy.ndarray, shape (m,)
            Positions corrected for distortions.

        Returns
        -------
        numpy.ndarray, shape (m,)
            Standard errors in pixels.
        """
        measured = np.hypot(*self.offset.T)
        return np.hypot(self.sigma[:, 0] * np.cos(azimuth), self.sigma[:, 1] * np.sin(azimuth)) * radius / measured


def measure_spots(scan: Scan, origin, use, radius: float | None, noise: NoiseModel, vector,
                  progress=None, disks: BraggDisks | None = None) -> Spots | None:
    """Find the disks of an even sample of patterns.

    Parameters
    ----------
    scan : Scan
        The scan.
    origin : numpy.ndarray, shape (Rx * Ry, 2)
        Origins, pixels.
    use : numpy.ndarray of bool, shape (Rx * Ry,)
        True where a position is used.
    radius : float or None
        Radius of the direct disk, pixels; None if it is hidden.
    noise : NoiseModel
        Noise model of the detector.
    vector : array_like, shape (2,)
        Ellipse vector of the disks.
    progress : str, optional
        Text of a progress bar.
    disks : BraggDisks, optional
        Disks of this scan that were found before. They are used in place of a search, if it was about the same beam.

    Returns
    -------
    Spots or None
        The disks outside the region of the direct beam; None if there are too few.

    Notes
    -----
    The result of the last search is kept in memory, and returned for the same data and arguments, for example if
    another standard is tried. The data are compared by the sample of patterns from which the search learns.

    Examples
    --------
    >>> from py4dstem_prenet.core import as_scan
    >>> x, y = np.indices((64, 64))
    >>> disks = [np.hypot(x - 32 - a, y - 32 - b) < 3 for a in (-16, 0, 16) for b in (-16, 0, 16)]
    >>> scan = as_scan(np.random.default_rng(0).poisson(0.5 + 20 * np.sum(disks, 0), (3, 3, 64, 64)))
    >>> noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((64, 64), bool), counting=True, dose=7000.0)
    >>> spots = measure_spots(scan, np.full((9, 2), 32.0), np.ones(9, bool), 3.0, noise, (0.0, 0.0))
    >>> len(np.unique(spots.reflection)), np.abs(spots.offset).max(0).round().tolist()
    (8, [16.0, 16.0])
    """
    chosen = np.flatnonzero(use)
    if len(chosen) > MAX_SPOT_POSITIONS:
        even = sample_positions(scan.scan_shape, MAX_SPOT_POSITIONS * len(use) // len(chosen))
        chosen = even[use[even]]
    if len(chosen) < MIN_SPOT_POSITIONS:
        return None
    if disks is not None and radius is not None and _same_beam(disks, origin, use):
        return _grouped([_found_before(disks, chosen)], scan, origin, use, chosen, INNER_RADII * radius + INNER_PX)
    count = int(np.clip(SAMPLE_BYTES // (4 * np.prod(scan.pattern_shape)), 1, SAMPLE_PATTERNS))
    sample = chosen[np.unique(np.linspace(0, len(chosen) - 1, count).astype(int))]
    patterns, hub = scan.read(sample), 0.0
    if radius is None:
        good = ~noise.bad_pixels
        radius = hidden_disk_radius((patterns - noise.offset) / noise.gain, good)
        hub = hub_radius(good, np.median(origin[sample], 0))
        if radius is None:
            return None
    inner = max(INNER_RADII * radius + INNER_PX, hub + radius)
    search = (scan.shape, patterns, chosen, origin, radius, noise, np.asarray(vector))
    key = hashlib.sha256(pickle.dumps(search)).digest()
    if key in _last_search:
        return _last_search[key]
    aperture = Aperture(radius, 0.5, tuple(map(float, vector)))  # pixels, where the fit of the blur starts
    try:
        learned = LearnedDisks.learn(patterns, noise, aperture, origin[sample], FALSE_DISKS)
    except PrenetError:
        return None
    work = partial(_disks_of_block, learned=learned)
    pieces: list[tuple[np.ndarray, ...]] = []
    first = _quarter(chosen, scan.scan_shape) if len(chosen) > MAX_SPOT_POSITIONS / 2 else np.ones(len(chosen), bool)
    for searched, new in ((chosen[first], chosen[first]), (chosen, chosen[~first])):
        pieces += [piece for _, piece in map_chunks(work, scan, origin, positions=new, progress=progress)]
        spots = _grouped(pieces, scan, origin, use, searched, inner)
        # More positions do not reduce the systematic error, which is larger for few grains.
        if first.all() or (spots is not None and _expected_sigma(spots) < systematic_of(spots)):
            break
    _last_search.clear()
    _last_search[key] = spots
    return spots


def systematic_of(spots: Spots) -> float:
    """Return the systematic error of the pixel size from disks.

    Parameters
    ----------
    spots : Spots
        The disks.

    Returns
    -------
    float
        Relative error; larger for few grains, whose contrast moves all disks.

    Examples
    --------
    >>> offset, zeros = np.array([[20.0, 0.0], [0.0, 30.0]]), np.zeros((2, 2), int)
    >>> one = Spots(offset, np.full((2, 2), 0.1), zeros[0], zeros, np.array([0, 1]), np.ones(2, int), 10.0, 1.0)
    >>> systematic_of(one) > systematic_of(replace(one, grains=100.0))
    True
    """
    return CRYSTAL_SYSTEMATIC if spots.few_grains else SPOT_SYSTEMATIC


def _same_beam(disks, origin, use):
    """Whether disks were searched about these origins."""
    direct = disks.table[np.isinf(disks.table["significance"])]
    direct = direct[use[direct["position"]]]
    if not len(direct):
        return False
    off = np.stack([direct["qx"], direct["qy"]], 1) - origin[direct["position"]]
    return bool(np.median(np.hypot(*off.T)) < MAX_ORIGIN_OFFSET_PX)


def _found_before(disks, positions):
    """Pattern, position and sigma of the disks that are as significant as those of a search for this purpose."""
    # The rate of false disks falls off with the significance like the tail of a normal distribution.
    excess = 2 * np.log(max(disks.false_alarm / FALSE_DISKS, 1.0))
    table, significance = disks.table, disks.table["significance"]
    strong = np.isfinite(significance) & (significance > np.sqrt(disks.threshold**2 + excess))
    table = table[strong & np.isin(table["position"], positions)]
    return (table["position"], np.stack([table["qx"], table["qy"]], 1),
            np.stack([table["sigma_qx"], table["sigma_qy"]], 1))


def _quarter(positions, scan_shape):
    """Mask of every second row and column of an even sample of positions."""
    row, column = counted_places(positions, scan_shape[1]).T
    return (row % 2 == 0) & (column % 2 == 0)


def _expected_sigma(spots):
    """Relative sigma of the pixel size if all disks lie on rings."""
    variance = (spots.sigma**2).mean(1) + TYPICAL_ERROR_PX**2
    return 1 / np.sqrt(((spots.offset**2).sum(1) / variance / spots.size).sum())


def _grouped(pieces, scan, origin, use, searched, inner):
    """Group the disks that were found at some positions into reflections; None if there are too few."""
    pattern, position, sigma = (np.concatenate(values) for values in zip(*pieces, strict=True))
    offset = position - origin[pattern]
    kept = np.flatnonzero(np.hypot(*offset.T) > inner)
    kept = kept[np.argsort(pattern[kept], kind="stable")]
    pattern, offset, sigma = pattern[kept], offset[kept], sigma[kept]
    place = counted_places(searched, scan.scan_shape[1])
    order = np.searchsorted(searched, pattern)
    reflection, size = same_reflections(place[order], offset, sigma)
    if len(np.unique(reflection)) < MIN_SPOTS and len(pattern) < len(searched):
        return None  # otherwise, few reflections are in many patterns: those of a single crystal
    # Weak disks are not found in each pattern, and one reflection of them counts as several.
    frequent = np.searchsorted(np.cumsum(np.sort(np.bincount(reflection))[::-1]), FREQUENT_PART * len(pattern)) + 1
    grains = max(frequent * len(np.unique(pattern)) / len(pattern), 1.0)
    return Spots(offset, sigma, order, place[order], reflection, size, inner, grains).sharp()


def _disks_of_block(index, block, origin, learned):
    """Pattern, position and sigma of the disks of a block of patterns."""
    disks, good, electrons, images = learned.searched(block, origin)
    found, fitted = learned.located(disks, good, electrons, images, origin)
    return index[found.pattern], fitted.position, fitted.sigma


def counted_places(searched, columns: int) -> np.ndarray:
    """Count rows and columns among those that were searched, whose distances vary.

    Parameters
    ----------
    searched : numpy.ndarray of int, shape (n,)
        Flat positions of the scan.
    columns : int
        Number of columns of the scan.

    Returns
    -------
    numpy.ndarray of int, shape (n, 2)
        Row and column of each position among those that were searched.

    Examples
    --------
    >>> counted_places(np.array([11, 13, 16, 71, 73, 76]), 10).tolist()
    [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    """
    return np.stack([np.unique(q, return_inverse=True)[1] for q in np.divmod(searched, columns)], 1)


def same_reflections(place, offset, sigma):
    """Find disks of the same reflection at neighboring positions of the scan.

    Parameters
    ----------
    place : numpy.ndarray of int, shape (m, 2)
        Row and column of the pattern in the scan, in units of the distance between two patterns.
    offset, sigma : numpy.ndarray, shape (m, 2)
        Positions relative to the origin, and standard errors, pixels.

    Returns
    -------
    reflection, size : numpy.ndarray of int, shape (m,)
        Reflection of each disk, and number of disks of this reflection.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.pixel_size.spots import same_reflections
    >>> place, offset = np.array([[0, 0], [0, 1], [5, 5]]), np.array([[20.0, 0.0], [20.1, 0.0], [20.0, 0.0]])
    >>> same_reflections(place, offset, np.full((3, 2), 0.05))[1].tolist()
    [2, 2, 1]
    """
    m = len(place)
    if m < 2:
        return np.zeros(m, int), np.ones(m, int)
    error = np.hypot(*sigma.T)
    limit = np.maximum(SAME_SPOT_PX, SAME_SPOT_SIGMAS * np.sqrt(2) * error)
    reach = max(SAME_SPOT_PX, float(np.quantile(limit, 0.98)))
    # Coordinates are scaled so that the largest difference counts.
    points = np.column_stack([place / (SAME_SPOT_STEPS + 0.01), offset / reach])
    pairs = cKDTree(points).query_pairs(1.0, p=np.inf, output_type="ndarray")
    i, j = pairs.T
    distance = np.hypot(*(offset[i] - offset[j]).T)
    different_pattern = (place[i] != place[j]).any(1)
    pairs = pairs[different_pattern & (distance < np.minimum(np.hypot(limit[i], limit[j]) / np.sqrt(2), reach))]
    graph = coo_matrix((np.ones(len(pairs)), pairs.T), (m, m))
    _, reflection = connected_components(graph, directed=False)
    return reflection, np.bincount(reflection)[reflection]
