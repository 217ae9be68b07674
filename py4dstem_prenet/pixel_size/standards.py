"""Standards: crystals of known lattice, and the rings of their powders.

Lattice parameters at room temperature are those of the sources in the table: Wyckoff, Crystal Structures (1963); the
certificates of NIST standard reference materials; and the CRC Handbook. Intensities are kinematic, with py4DSTEM's
scattering factors (Lobato and Van Dyck, Acta Cryst. A 70, 636, 2014). Rings that only double diffraction makes visible,
such as 222 of silicon, are among the rings, with an intensity of zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy.signal import fftconvolve

from ..core import PrenetError

MAX_LINES = 32  # number of allowed rings of a standard, those with the smallest |g|, that are kept apart
# 1/angstrom; largest |g| of a ring, beyond the outermost pixel of most cameras (0.05 per pixel, 64 pixels: 3.2). If a
# list ends within the pattern, the right pixel size is not among those that are tried. Relative; width of the bins into
# which the outer allowed rings are merged, 0.3 pixels at 64 pixels.
MAX_G, OUTER_RING = 3.5, 5e-3
SAME_RING = 1e-3  # relative; largest difference of |g| between reflections of one ring
MIN_RELATIVE_INTENSITY = 1e-3  # fraction of the strongest ring or reflection; smallest intensity of an allowed one
INTENSITY_EXPONENT = 1.5  # exponent of |F| in the intensity, between 2 (kinematic) and 1 (dynamical two-beam)

_FCC = ((0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0))
_BCC = ((0, 0, 0), (0.5, 0.5, 0.5))


def _moved(sites, by):
    return tuple(tuple((x + d) % 1 for x, d in zip(site, by, strict=True)) for site in sites)


_TETRAHEDRA = tuple(p for s in ((0.25,) * 3, (0.75,) * 3) for p in _moved(_FCC, s))
_LAB6_X = 0.1996  # fractional coordinate of boron
_LAB6 = ((0, 0, 0), *((s, 0.5, 0.5) for s in (_LAB6_X, 1 - _LAB6_X)), *((0.5, s, 0.5) for s in (_LAB6_X, 1 - _LAB6_X)),
         *((0.5, 0.5, s) for s in (_LAB6_X, 1 - _LAB6_X)))
STRUCTURES = {  # name: sites and species of each site
    "fcc": (_FCC, (0,) * 4),
    "bcc": (_BCC, (0, 0)),
    "simple cubic": (_BCC[:1], (0,)),
    "hcp": (((1 / 3, 2 / 3, 0.25), (2 / 3, 1 / 3, 0.75)), (0, 0)),
    "diamond": (_FCC + _moved(_FCC, (0.25,) * 3), (0,) * 8),
    "zincblende": (_FCC + _moved(_FCC, (0.25,) * 3), (0,) * 4 + (1,) * 4),
    "rocksalt": (_FCC + _moved(_FCC, (0.5, 0, 0)), (0,) * 4 + (1,) * 4),
    "cesium chloride": (_BCC, (0, 1)),
    "fluorite": (_FCC + _TETRAHEDRA, (0,) * 4 + (1,) * 8),
    "perovskite": ((*_BCC, (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)), (0, 1, 2, 2, 2)),
    "hexaboride": (_LAB6, (0,) + (1,) * 6),
}
WYCKOFF = "Wyckoff, Crystal Structures, 2nd ed. (1963)"
CRC = "CRC Handbook of Chemistry and Physics"
_TABLE = {  # name: structure, lattice parameters (angstrom), atomic numbers of the species, source
    "Ag": ("fcc", (4.0862,), (47,), WYCKOFF),
    "Al": ("fcc", (4.04958,), (13,), WYCKOFF),
    "Au": ("fcc", (4.07825,), (79,), WYCKOFF),
    "C": ("diamond", (3.56679,), (6,), WYCKOFF),
    "CeO2": ("fluorite", (5.41165,), (58, 8), "NIST SRM 674b"),
    "CsCl": ("cesium chloride", (4.123,), (55, 17), WYCKOFF),
    "Cr": ("bcc", (2.8839,), (24,), WYCKOFF),
    "Cu": ("fcc", (3.61496,), (29,), WYCKOFF),
    "Fe": ("bcc", (2.8665,), (26,), WYCKOFF),
    "GaAs": ("zincblende", (5.65325,), (31, 33), CRC),
    "Ge": ("diamond", (5.65754,), (32,), CRC),
    "LaB6": ("hexaboride", (4.156826,), (57, 5), "NIST SRM 660c"),
    "LiF": ("rocksalt", (4.0270,), (3, 9), WYCKOFF),
    "MgO": ("rocksalt", (4.2117,), (12, 8), WYCKOFF),
    "Mg": ("hcp", (3.2095, 5.2107), (12,), WYCKOFF),
    "Mo": ("bcc", (3.1472,), (42,), WYCKOFF),
    "NaCl": ("rocksalt", (5.64009,), (11, 17), WYCKOFF),
    "Nb": ("bcc", (3.3004,), (41,), WYCKOFF),
    "Ni": ("fcc", (3.52387,), (28,), WYCKOFF),
    "NiO": ("rocksalt", (4.1771,), (28, 8), CRC),
    "Pd": ("fcc", (3.8902,), (46,), WYCKOFF),
    "Pt": ("fcc", (3.9237,), (78,), WYCKOFF),
    "Si": ("diamond", (5.431144,), (14,), "NIST SRM 640f, 5.431144 angstrom at 22.5 degrees C"),
    "SrTiO3": ("perovskite", (3.905,), (38, 22, 8), CRC),
    "Ta": ("bcc", (3.3058,), (73,), WYCKOFF),
    "Ti": ("hcp", (2.9506, 4.6788), (22,), WYCKOFF),
    "TiN": ("rocksalt", (4.2417,), (22, 7), CRC),
    "TlCl": ("cesium chloride", (3.8340,), (81, 17), WYCKOFF),
    "W": ("bcc", (3.16469,), (74,), WYCKOFF),
    "Zn": ("hcp", (2.6649, 4.9468), (30,), WYCKOFF),
    "ZnS": ("zincblende", (5.4093,), (30, 16), WYCKOFF),
}
STANDARDS = tuple(sorted(_TABLE))
# Lattices whose rings are compared with those of the standard, at any size of their cell; hcp with c / a of 1.62, 1.59
# and 1.86:
ALTERNATIVES = ("Au", "W", "Si", "NaCl", "CsCl", "SrTiO3", "Mg", "Ti", "Zn")


@dataclass(frozen=True, eq=False)
class Standard:
    """Rings of a known crystal.

    Attributes
    ----------
    name : str
        Name of the crystal.
    source : str
        Source of the lattice parameters.
    g : numpy.ndarray
        (n,), |g| of each ring, 1/angstrom, ascending.
    intensity : numpy.ndarray
        (n,), approximate height of each ring relative to the strongest ring; 0 if only double diffraction excites it.
    hkl : tuple of str
        Indices of a reflection of each ring.
    common : numpy.ndarray of bool
        (n,), True if a reflection of the ring is allowed, or twice an allowed one, such as 222 of silicon: a crystal
        that diffracts into the one diffracts into the other. Other forbidden reflections need a zone axis.
    vectors : numpy.ndarray
        (m, 3), allowed reflections, Cartesian, 1/angstrom.
    strength : numpy.ndarray
        (m,), approximate intensity of each of them.
    names : tuple of str
        Indices of each of them.
    """

    name: str
    source: str
    g: np.ndarray
    intensity: np.ndarray
    hkl: tuple[str, ...]
    common: np.ndarray
    vectors: np.ndarray
    strength: np.ndarray
    names: tuple[str, ...]


def find_standard(standard) -> Standard:
    """Look up a standard.

    Parameters
    ----------
    standard : str, pathlib.Path, py4DSTEM.process.diffraction.Crystal or Standard
        A name of the table `STANDARDS`, such as "Au"; the path of a CIF file; or a crystal.

    Returns
    -------
    Standard
        The rings of the standard.

    Raises
    ------
    PrenetError
        If the name is unknown, or the file or crystal cannot be used.

    Notes
    -----
    A CIF file is read with gemmi (the extra `cif`).

    Examples
    --------
    >>> from py4dstem_prenet.pixel_size import find_standard
    >>> gold = find_standard("Au")
    >>> gold.hkl[:3], gold.g[:3].round(4).tolist()
    (('1 1 1', '2 0 0', '2 2 0'), [0.4247, 0.4904, 0.6935])
    """
    if isinstance(standard, Standard):
        return standard
    if isinstance(standard, str) and standard in _TABLE:
        return _of_table(standard)
    if isinstance(standard, str | Path):
        path = Path(standard)
        if path.suffix.lower() != ".cif":
            raise PrenetError(f"There is no standard {str(standard)!r}; give one of {', '.join(STANDARDS)}, a CIF "
                              "file, or a py4DSTEM Crystal.")
        return _of_crystal(_read_cif(path), path.stem, str(path.name))
    if all(hasattr(standard, name) for name in ("positions", "numbers", "lat_inv", "calculate_structure_factors")):
        return _of_crystal(standard, "crystal", "given by the user")
    raise PrenetError(f"A standard must be a name such as 'Au', a CIF file or a py4DSTEM Crystal, not "
                      f"{type(standard).__name__}.")


@cache
def _of_table(name):
    from py4DSTEM.process.diffraction import Crystal

    structure, cell, numbers, source = _TABLE[name]
    sites, species = STRUCTURES[structure]
    cell = cell[0] if len(cell) == 1 else [cell[0], cell[0], cell[1], 90, 90, 120]
    return _of_crystal(Crystal(np.array(sites, float), [numbers[k] for k in species], cell), name, source)


def _of_crystal(crystal, name, source):
    """Compute the rings of a py4DSTEM Crystal without changing its list of reflections."""
    from copy import copy

    crystal = copy(crystal)
    crystal.calculate_structure_factors(MAX_G)
    length, factor = np.asarray(crystal.g_vec_leng), np.abs(np.asarray(crystal.struct_factors))
    keep = length > 1e-6
    weights = factor[keep] ** INTENSITY_EXPONENT
    allowed = weights > MIN_RELATIVE_INTENSITY * weights.max(initial=0.0)
    single = crystal.hkl[:, keep].astype(int)[:, allowed]
    reflections = (single.T @ crystal.lat_inv, weights[allowed], tuple(_text(v) for v in single.T))
    hkl, weights, common = _with_sums(crystal.hkl[:, keep].astype(int), weights)
    length = np.linalg.norm(hkl.T @ crystal.lat_inv, axis=1)
    order = np.argsort(length, kind="stable")
    order = order[length[order] < MAX_G]
    hkl, length, weights, common = hkl[:, order], length[order], weights[order], common[order]
    ring = np.concatenate([[0], np.cumsum(np.diff(length) > SAME_RING * length[1:])])
    g, height = _lines(length, weights, ring)
    allowed = height > MIN_RELATIVE_INTENSITY * height.max()
    if allowed.sum() < 2:
        raise PrenetError(f"The crystal {name} has no reflections.")
    last = np.flatnonzero(allowed)[:MAX_LINES][-1] + 1
    outer = (ring >= last) & allowed[ring]
    bins = np.floor(np.log(length / g[last - 1]) / OUTER_RING).astype(int)
    ring = np.where(ring < last, ring, last + bins)
    keep = (ring < last) | outer
    hkl, length, weights, common = hkl[:, keep], length[keep], weights[keep], common[keep]
    ring = np.unique(ring[keep], return_inverse=True)[1]
    g, height = _lines(length, weights, ring)
    height = np.where(height > MIN_RELATIVE_INTENSITY * height.max(), height, 0.0)
    # Indices of each ring: those without a minus sign, in descending order.
    names = [_indices(hkl[:, ring == k]) for k in range(len(g))]
    return Standard(name, source, g, height / height.max(), tuple(names), np.bincount(ring, common) > 0, *reflections)


def _lines(length, weights, ring):
    """Mean |g| of each ring, by weight, and its height; the |g| of a ring without any intensity is not weighted."""
    count, total = np.bincount(ring), np.bincount(ring, weights)
    g = np.bincount(ring, length * (weights + 1e-9 * weights.max())) / (total + 1e-9 * weights.max() * count)
    return g, total / g


def _with_sums(hkl, weights):
    """Replace weak reflections by forbidden ones that double diffraction makes visible: sums of two allowed ones.

    The third result is True for reflections that are allowed, or twice an allowed one.
    """
    allowed = weights > MIN_RELATIVE_INTENSITY * weights.max()
    reach = np.abs(hkl).max(1)[:, None]
    grid, listed, strength = (np.zeros(2 * reach.ravel() + 1) for _ in range(3))
    grid[tuple(hkl[:, allowed] + reach)] = 1
    strength[tuple(hkl[:, allowed] + reach)] = weights[allowed]
    listed[tuple(hkl + reach)] = 1
    listed[tuple(reach.ravel())] = 1  # the direct beam
    sums = fftconvolve(grid, grid, mode="same") > 0.5  # number of pairs
    place = np.flatnonzero((strength > 0) | (sums & (listed == 0)))
    found, strengths = np.stack(np.unravel_index(place, grid.shape)) - reach, strength.ravel()[place]
    twice = (strength[tuple(found // 2 + reach)] > 0) & (found % 2 == 0).all(0)
    return found, strengths, twice | (strengths > 0)


def _indices(hkl):
    best = max(hkl.T.tolist(), key=lambda v: (min(v) >= 0, v))
    return _text(best)


def _text(indices):
    return " ".join(str(int(v)) for v in indices)


def _read_cif(path):
    """Read a py4DSTEM Crystal from a CIF file."""
    from py4DSTEM.process.diffraction import Crystal

    if not path.is_file():
        raise PrenetError(f"There is no file {path}.")
    try:
        import gemmi
    except ImportError:
        raise PrenetError("A CIF file is read with gemmi; install it: pip install gemmi.") from None
    try:
        small = gemmi.read_small_structure(str(path))
        sites = small.get_all_unit_cell_sites()
        positions = np.array([[s.fract.x, s.fract.y, s.fract.z] for s in sites]) % 1
        numbers = [s.element.atomic_number for s in sites]
        cell = small.cell
        return Crystal(positions, numbers, [cell.a, cell.b, cell.c, cell.alpha, cell.beta, cell.gamma],
                       occupancy=np.array([s.occ for s in sites]))
    except (RuntimeError, ValueError, IndexError) as error:
        raise PrenetError(f"{path.name} holds no crystal structure that can be read: {error}") from None
