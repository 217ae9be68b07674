"""Zone axes of a crystal: the lattice of the reflections of each zone, as a pattern of one crystal shows it.

A pattern near a zone axis shows the reflections of a plane of the reciprocal lattice. Double diffraction makes all sums
of allowed reflections visible, so the lattice of a zone is the one that its allowed reflections generate. Weak
reflections may be missing; the lattice of the strong ones alone is listed, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np

from . import FIRST_STRONG_HEIGHT, SAME_RING, Standard

ZONE_REFLECTIONS = 120  # reflections; shortest ones of a crystal whose pairs are the zones that are tried, for speed


@dataclass(frozen=True)
class Zone:
    """Lattice of the reflections of a zone.

    Attributes
    ----------
    basis : numpy.ndarray
        (2, 2), reduced basis, one vector a column, 1/angstrom, in a frame whose third axis is the zone axis.
    name : str
        Indices of the zone axis.
    """

    basis: np.ndarray
    name: str

    @property
    def area(self) -> float:  # numpydoc ignore=RT01
        """Area of the cell, 1/angstrom^2; it grows with the period of the crystal along the zone axis."""
        return float(abs(np.linalg.det(self.basis)))


def reduced(basis) -> np.ndarray:
    """Return the basis of the shortest vectors of a lattice, with an obtuse or right angle.

    Parameters
    ----------
    basis : numpy.ndarray, shape (2, 2)
        A basis, one vector a column.

    Returns
    -------
    numpy.ndarray, shape (2, 2)
        The reduced basis.

    Examples
    --------
    >>> reduced(np.array([[2.0, 5.0], [0.0, 1.0]])).tolist()
    [[1.0, 1.0], [1.0, -1.0]]
    """
    a, b = basis.T
    if a @ a > b @ b:
        a, b = b, a
    while True:
        b = b - np.round((a @ b) / (a @ a)) * a
        if b @ b >= a @ a * (1 - SAME_RING):
            break
        a, b = b, a
    return np.stack([a, -b if a @ b > SAME_RING * (a @ a) else b], 1)


@lru_cache(maxsize=32)
def zones_of(standard: Standard) -> tuple[Zone, ...]:
    """List the lattices of the zones of a crystal.

    Parameters
    ----------
    standard : Standard
        The crystal.

    Returns
    -------
    tuple of Zone
        Lattices of different shape or size, the smallest cell first.

    Examples
    --------
    >>> from py4dstem_prenet.pixel_size import find_standard
    >>> [zone.name for zone in zones_of(find_standard("Au"))[:3]]
    ['[0 1 -1]', '[0 0 1]', '[1 -2 -1]']
    """
    vectors, strength = standard.vectors, standard.strength
    length = np.linalg.norm(vectors, axis=1)
    half = _half(vectors)
    short = half[np.argsort(length[half], kind="stable")[: ZONE_REFLECTIONS // 2]]
    i, j = np.array(list(combinations(short, 2))).T
    axes = np.cross(vectors[i], vectors[j])
    size = np.linalg.norm(axes, axis=1)
    across = size > SAME_RING * length[i] * length[j]
    i, j, axes = i[across], j[across], axes[across] / size[across, None]
    leading = np.argmax(np.abs(axes) > SAME_RING, axis=1)
    axes *= np.sign(axes[np.arange(len(axes)), leading])[:, None]
    found: dict[tuple, Zone] = {}
    for k in np.unique(np.round(axes, 3) + 0.0, axis=0, return_index=True)[1]:
        plane = np.flatnonzero(np.abs(vectors @ axes[k]) < SAME_RING * length)
        x = vectors[i[k]] / length[i[k]]
        flat = vectors[plane] @ np.stack([x, np.cross(axes[k], x)], 1)
        for kept in (strength[plane] > 0, strength[plane] > FIRST_STRONG_HEIGHT * strength.max()):
            basis = _generated(flat[kept])
            if basis is None:
                continue
            first, second = np.linalg.norm(basis, axis=0)
            shape = tuple(np.round(np.log([first, second, abs(np.linalg.det(basis))]) / SAME_RING).astype(int))
            if shape not in found:
                found[shape] = Zone(basis, _axis(standard.names[i[k]], standard.names[j[k]]))
    return tuple(sorted(found.values(), key=lambda zone: zone.area))


def _axis(first, second):
    """Zone axis of two reflections: primitive indices of their cross product."""
    axis = np.cross(*(np.array(hkl.split(), int) for hkl in (first, second)))
    axis = axis // np.gcd.reduce(axis)
    return "[" + " ".join(str(int(k)) for k in axis * np.sign(axis[np.flatnonzero(axis)[0]])) + "]"


def _half(vectors):
    """Indices of one reflection of each Friedel pair."""
    first = np.argmax(np.abs(vectors) > SAME_RING, axis=1)
    return np.flatnonzero(vectors[np.arange(len(vectors)), first] > 0)


def _generated(vectors):
    """Reduced basis of the lattice that vectors of a plane generate; None if they lie in a row."""
    vectors = vectors[np.argsort(np.linalg.norm(vectors, axis=1), kind="stable")]
    if not len(vectors):
        return None
    across = np.abs(vectors[0, 0] * vectors[:, 1] - vectors[0, 1] * vectors[:, 0])
    apart = np.flatnonzero(across > SAME_RING * (vectors[0] ** 2).sum())
    if not len(apart):
        return None
    basis = reduced(np.stack([vectors[0], vectors[apart[0]]], 1))
    while True:
        parts = vectors @ np.linalg.inv(basis).T
        rest = parts - np.round(parts)
        off = np.flatnonzero(np.abs(rest).max(1) > 10 * SAME_RING)
        if not len(off):
            return basis
        left = basis @ rest[off[0]]
        # The cell of the remainder and one of the basis vectors is smaller, by an integer factor.
        pairs = [np.stack([v, left], 1) for v in basis.T]
        areas = [abs(np.linalg.det(pair)) for pair in pairs]
        usable = [k for k in (0, 1) if areas[k] > SAME_RING * abs(np.linalg.det(basis))]
        basis = reduced(pairs[min(usable, key=lambda k: areas[k])])
