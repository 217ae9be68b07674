"""Lattice of the disks of one crystal, and the zone axes of a known crystal that explain it.

The positions of the disks of one crystal are those of a plane lattice: two vectors, which are measured. A zone axis of
a known crystal predicts both vectors in 1/angstrom, up to a rotation. Each zone axis therefore gives a linear map from
the crystal to the detector, and with it a pixel size and an ellipse. All of them fit exactly. They are compared by the
probability of their ellipse, that of a zone axis, and that of the lattice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import numpy as np

from . import (
    ALTERNATIVES,
    FREQUENT_PART,
    MAX_SIGMA_FACTOR,
    REACH_SIGMAS,
    SAME_RING,
    SCAN_ERROR_PX,
    SPOT_CENTER_SIGMA_PX,
    STANDARDS,
    STRAY_PART,
    TYPICAL_ERROR_PX,
    Assignment,
    Spots,
    Standard,
    density_of,
    find_standard,
    near,
    reduced,
    same_rings,
    zones_of,
)

# Exponent of the period along a zone axis in its prior probability: the number of axes up to a period grows with its
# third power, so that all octaves of the period are equally probable.
PERIOD_EXPONENT = 3
STRONG_REFLECTIONS = 12  # reflections; most frequent ones whose distances are tried as vectors, for speed


@dataclass(frozen=True)
class Lattice:
    """Lattice of the disks of one crystal.

    Attributes
    ----------
    basis : numpy.ndarray
        (2, 2), reduced basis, one vector a column, pixels.
    center : numpy.ndarray
        (2,), place of the direct beam relative to the origin, pixels.
    covariance : numpy.ndarray
        (2, 2), covariance of each row of the basis, pixels^2.
    evidence : float
        Logarithm of the likelihood of the reflections.
    """

    basis: np.ndarray
    center: np.ndarray
    covariance: np.ndarray
    evidence: float

    def indices(self, offset) -> np.ndarray:
        """Return the closest places of the lattice.

        Parameters
        ----------
        offset : numpy.ndarray, shape (m, 2)
            Positions relative to the origin, pixels.

        Returns
        -------
        numpy.ndarray of int, shape (m, 2)
            Their indices.

        Examples
        --------
        >>> Lattice(20 * np.eye(2), np.zeros(2), np.eye(2), 0.0).indices(np.array([[40.3, -19.0]])).tolist()
        [[2, -1]]
        """
        return np.round((offset - self.center) @ np.linalg.inv(self.basis).T).astype(int)


@dataclass(frozen=True)
class Match:
    """A zone axis that explains a lattice.

    Attributes
    ----------
    name : str
        Indices of the zone axis.
    lattice : Lattice
        The lattice.
    crystal : numpy.ndarray
        (2, 2), the two reflections that correspond to the basis of the lattice, 1/angstrom.
    scale : float
        Pixel size, 1/angstrom.
    vector : numpy.ndarray
        (2,), ellipse vector.
    evidence : float
        Logarithm of the probability, up to a constant.
    """

    name: str
    lattice: Lattice
    crystal: np.ndarray
    scale: float
    vector: np.ndarray
    evidence: float


def find_lattices(spots: Spots) -> list[Lattice]:
    """Find the lattices on which the disks of one crystal may lie.

    Parameters
    ----------
    spots : Spots
        The disks.

    Returns
    -------
    list of Lattice
        The best ones, by decreasing evidence; empty if the disks do not lie on a lattice.

    Examples
    --------
    >>> index = np.array([(i, j) for i in (-2, -1, 0, 1, 2) for j in (-1, 0, 1) if i or j])
    >>> offset, number = index @ np.array([[20.0, 1.0], [0.0, 30.0]]), np.arange(len(index))
    >>> spots = Spots(offset, np.full((14, 2), 0.1), 0 * number, np.zeros((14, 2), int), number, np.ones(14, int),
    ...               12.0, 1.0)
    >>> find_lattices(spots)[0].basis.round(6).tolist()
    [[20.0, 0.0], [1.0, -30.0]]
    """
    place, sigma, count = _reflections(spots)
    if len(place) <= 2:  # these and the direct beam determine a lattice, and nothing tests it
        return []
    shortest = spots.inner / 2  # about a diameter: disks do not overlap
    strong = place[np.argsort(-count, kind="stable")[:STRONG_REFLECTIONS]]
    between = (strong[:, None] - strong[None]).reshape(-1, 2)
    vectors = np.concatenate([strong, between])
    vectors = vectors[np.hypot(*vectors.T) > shortest]
    vectors = vectors * np.where(vectors[:, :1] + 1e-3 * vectors[:, 1:] < 0, -1, 1)
    vectors = vectors[np.argsort(np.hypot(*vectors.T), kind="stable")]
    distinct: list[np.ndarray] = []
    for v in vectors:
        if all(np.hypot(*(v - w)) > 4 * SCAN_ERROR_PX for w in distinct):
            distinct.append(v)
    tried: list[Lattice] = []
    seen: set[tuple] = set()
    for k, a in enumerate(distinct):
        for b in distinct[k + 1:]:
            basis = np.stack([a, b], 1)
            if abs(np.linalg.det(basis)) < 0.2 * np.linalg.norm(a) * np.linalg.norm(b):
                continue
            basis = reduced(basis)
            if np.hypot(*basis[:, 0]) < shortest or tuple(np.round(np.abs(basis)).ravel()) in seen:
                continue
            seen.add(tuple(np.round(np.abs(basis)).ravel()))
            tried.append(_scored(Lattice(basis, np.zeros(2), np.zeros((2, 2)), 0.0), place, sigma))
    tried.sort(key=lambda lattice: -lattice.evidence)
    kept: list[Lattice] = []
    for lattice in tried[:STRONG_REFLECTIONS]:
        fitted = _refined(lattice, place, sigma)
        if fitted is not None and all(np.abs(fitted.basis - k.basis).max() > 4 * SCAN_ERROR_PX for k in kept):
            kept.append(fitted)
    return sorted(kept, key=lambda lattice: -lattice.evidence)


def _reflections(spots):
    """Mean position, standard error and number of disks of the most frequent reflections."""
    number = np.unique(spots.reflection, return_inverse=True)[1]
    count = np.bincount(number)
    order = np.argsort(-count, kind="stable")
    order = order[: int(np.searchsorted(np.cumsum(count[order]), FREQUENT_PART * len(number))) + 1]
    weight = 1 / (spots.sigma**2).mean(1)
    total = np.bincount(number, weight)
    place = np.stack([np.bincount(number, weight * q) / total for q in spots.offset.T], 1)
    return place[order], np.sqrt(1 / total[order] + SCAN_ERROR_PX**2), count[order]


def _distances(lattice, place):
    return place - lattice.center - lattice.indices(place) @ lattice.basis.T


def _scored(lattice, place, sigma):
    """The lattice with its evidence: each reflection lies on any place of it, or anywhere."""
    rest = _distances(lattice, place)
    density = density_of(rest[:, 0], sigma) * density_of(rest[:, 1], sigma) * abs(np.linalg.det(lattice.basis))
    # Without reflections, no density is preferred: that of places anywhere is 1.
    return replace(lattice, evidence=float(np.log((1 - STRAY_PART) * density + STRAY_PART).sum()))


def on_lattice(spots: Spots, lattice: Lattice) -> np.ndarray:
    """Determine which disks lie on a lattice.

    Parameters
    ----------
    spots : Spots
        The disks.
    lattice : Lattice
        The lattice.

    Returns
    -------
    numpy.ndarray of bool, shape (m,)
        True where both coordinates agree within three standard errors and a typical error of a reflection.

    Examples
    --------
    >>> lattice, zeros = Lattice(20 * np.eye(2), np.zeros(2), np.eye(2), 0.0), np.zeros((2, 2), int)
    >>> spots = Spots(np.array([[20.1, 40.0], [31.0, 0.0]]), np.full((2, 2), 0.1), zeros[0], zeros, zeros[0],
    ...               np.ones(2, int), 12.0, 1.0)
    >>> on_lattice(spots, lattice).tolist()
    [True, False]
    """
    reach = MAX_SIGMA_FACTOR * np.hypot(spots.sigma, TYPICAL_ERROR_PX)
    return (np.abs(_distances(lattice, spots.offset)) < reach).all(1)


def _refined(lattice, place, sigma):
    """Least-squares fit of basis and center; None if too few reflections determine it."""
    for _ in range(6):
        rest, index = _distances(lattice, place), lattice.indices(place)
        on = np.hypot(*rest.T) < 4 * sigma + 2 * SCAN_ERROR_PX
        if len(np.unique(index[on], axis=0)) <= 2:
            return None
        design = np.column_stack([index, np.ones(len(index))])[on] / sigma[on, None]
        normal = design.T @ design
        normal[2, 2] += 1 / SPOT_CENTER_SIGMA_PX**2
        if np.linalg.cond(normal[:2, :2]) > 1e4:
            return None
        solution = np.linalg.solve(normal, design.T @ (place[on] / sigma[on, None]))
        lattice = replace(lattice, basis=solution[:2].T, center=solution[2],
                          covariance=np.linalg.inv(normal)[:2, :2])
    return _scored(lattice, place, sigma)


@dataclass(frozen=True)
class _Table:
    """All bases of the zones of a crystal that may correspond to a reduced basis."""

    inverse: np.ndarray
    area: np.ndarray
    name: tuple[str, ...]


@lru_cache(maxsize=32)
def _tables(standard):
    zones, integers = zones_of(standard), np.array(list(product((-1, 0, 1), repeat=4)))
    integers = integers[len(integers) // 2 + 1:].reshape(-1, 2, 2)  # the others are their negatives
    integers = integers[np.abs(np.round(np.linalg.det(integers))) == 1]
    inverse = np.linalg.inv(np.concatenate([zone.basis @ integers for zone in zones]))
    return _Table(inverse, np.repeat([zone.area for zone in zones], len(integers)),
                  tuple(zone.name for zone in zones for _ in integers))


def matches(lattices, standard: Standard, vector, covariance, approximate: float | None = None) -> list[Match]:
    """List the zone axes of a crystal that explain the disks.

    Parameters
    ----------
    lattices : list of Lattice
        The lattices on which the disks may lie.
    standard : Standard
        The crystal.
    vector, covariance : numpy.ndarray, shape (2,) and (2, 2)
        Prior of the ellipse vector.
    approximate : float, optional
        Approximate pixel size, 1/angstrom; see `near`.

    Returns
    -------
    list of Match
        Explanations with different results, the most probable first.

    Examples
    --------
    >>> silicon, square = find_standard("Si"), np.array([[26.0, 0.0], [0.0, 26.52]])
    >>> lattice = Lattice(square, np.zeros(2), 1e-4 * np.eye(2), 0.0)
    >>> best = matches([lattice], silicon, np.zeros(2), 4e-4 * np.eye(2))[0]
    >>> best.name, round(best.scale, 4), best.vector.round(3).tolist()  # 2 % between the axes
    ('[0 0 1]', 0.0198, [-0.02, 0.0])
    """
    found: list[Match] = []
    zones, near_by = _tables(standard), np.linalg.inv(covariance)
    for lattice in lattices:
        basis = reduced(lattice.basis)
        scales = np.sqrt(zones.area / abs(np.linalg.det(basis)))
        ellipses = _ellipse_of(basis @ zones.inverse)
        off = ellipses - vector
        plausible = near(scales, approximate) & (np.einsum("ki,ij,kj->k", off, near_by, off) < REACH_SIGMAS**2)
        for k in np.flatnonzero(plausible):
            both = covariance + _spread(basis, zones.inverse[k], lattice.covariance)
            cost = 0.5 * (off[k] @ np.linalg.solve(both, off[k]) + np.log(np.linalg.det(both)))
            evidence = lattice.evidence - PERIOD_EXPONENT * np.log(zones.area[k]) - float(cost)
            found.append(Match(zones.name[k], replace(lattice, basis=basis), np.linalg.inv(zones.inverse[k]),
                               float(scales[k]), ellipses[k], evidence))
    found.sort(key=lambda match: -match.evidence)
    distinct: list[Match] = []
    for match in found:
        if all(abs(np.log(match.scale / m.scale)) > SAME_RING or np.abs(match.vector - m.vector).max() > SAME_RING
               for m in distinct):
            distinct.append(match)
    return distinct


def _ellipse_of(linear):
    """Ellipse vectors (..., 2) of linear maps (..., 2, 2); each is an ellipse after a rotation or reflection."""
    square = linear @ np.swapaxes(linear, -1, -2)
    mean = (square[..., 0, 0] + square[..., 1, 1]) / 2
    half = np.stack([(square[..., 0, 0] - square[..., 1, 1]) / 2, square[..., 0, 1]], -1)
    size = np.sqrt((half**2).sum(-1, keepdims=True))
    mean = mean[..., None]
    ratio = np.sqrt((mean + size) / np.maximum(mean - size, 1e-12 * mean))
    return (ratio - 1) * half / np.maximum(size, 1e-300)


def _spread(basis, inverse, covariance):
    """Covariance of the ellipse vector due to that of the basis."""
    step = 1e-4 * np.linalg.norm(basis)
    moved = basis + step * np.eye(4).reshape(4, 2, 2)
    slopes = ((_ellipse_of(moved @ inverse) - _ellipse_of(basis @ inverse)) / step).T.reshape(2, 2, 2)
    return np.einsum("irk,kl,jrl->ij", slopes, covariance, slopes)


def assign_lattice(lattices, standard: Standard, vector, covariance, approximate: float | None = None):
    """Assign the lattice of the disks of one crystal to a zone axis of a known one.

    Parameters
    ----------
    lattices : list of Lattice
        The lattices on which the disks may lie.
    standard : Standard
        The crystal.
    vector, covariance : numpy.ndarray, shape (2,) and (2, 2)
        Prior of the ellipse vector.
    approximate : float, optional
        Approximate pixel size, 1/angstrom. With it, other crystals are compared at this pixel size only.

    Returns
    -------
    (Assignment, Match) or None
        The assignment with its margins to other results and lattices, and the zone axis; None if no zone axis explains
        the disks.

    Examples
    --------
    >>> lattice = Lattice(np.array([[26.0, 0.0], [0.0, 26.52]]), np.zeros(2), 1e-4 * np.eye(2), 0.0)
    >>> assigned, match = assign_lattice([lattice], find_standard("Si"), np.zeros(2), 4e-4 * np.eye(2), 0.0205)
    >>> match.name, round(assigned.scale, 4), assigned.margin > 9
    ('[0 0 1]', 0.0198, True)
    """
    found = matches(lattices, standard, vector, covariance, approximate)
    if not found:
        return None
    best = found[0]
    others = {}
    for name in ALTERNATIVES:
        if approximate is None and not same_rings(find_standard(name), standard):
            other = matches(lattices, find_standard(name), vector, covariance)
            others[name] = 2 * (best.evidence - other[0].evidence) if other else np.inf
    second = found[1].scale if len(found) > 1 else np.nan
    margins = tuple(2 * (best.evidence - m.evidence) for m in found[1:])
    crystals = {}
    for name in STANDARDS:
        if approximate is not None and name != standard.name:
            other = matches(lattices, find_standard(name), vector, covariance, approximate)
            crystals[name] = (2 * (best.evidence - other[0].evidence), other[0].scale) if other else (np.inf, np.nan)
    texts = tuple(f"{match.scale:.5f} 1/Å per pixel and a/b = {1 + np.hypot(*match.vector):.3f} ({match.name})"
                  for match in found)
    return Assignment(best.scale, second, margins, others, texts, crystals), best
