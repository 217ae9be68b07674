"""Standard errors of the strain that py4DSTEM maps from Bragg disks, at single positions and of regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..core import PrenetError, Result
from ..ellipse import in_region
from ..io import DETAILS

if TYPE_CHECKING:
    from py4DSTEM.process.strain import StrainMap


COMPONENTS = "exx", "eyy", "exy", "rotation"
MIN_OPPOSITE_PAIRS = 3  # pairs of opposite reflections; fewest from which the errors of a region are estimated


@dataclass(frozen=True, eq=False, repr=False)
class RegionStrain(Result):
    """Strain of the mean lattice of a region relative to that of a reference.

    Attributes
    ----------
    value, sigma : numpy.ndarray
        (4,), exx, eyy, exy (dimensionless) and rotation (radians) in the axes of the map, and one standard deviation of
        each; sigma is NaN if fewer than three pairs of opposite reflections were found.
    positions, reference_positions : int
        Number of positions of region and reference whose lattice was fitted.
    pairs : int
        Number of pairs of opposite reflections, from which sigma was estimated. An error has the distribution of
        Student's t with pairs - 1 degrees of freedom.
    """

    value: np.ndarray
    sigma: np.ndarray
    positions: int
    reference_positions: int
    pairs: int

    def rows(self):
        units = ("", "", "", " mrad")
        return [*((name, f"{1e3 * value:.2f} ± {1e3 * sigma:.2f}{unit or ' in 1e-3'}") for name, value, sigma, unit in
                  zip(COMPONENTS, self.value, self.sigma, units, strict=True)),
                ("positions", f"{self.positions}, reference {self.reference_positions}"),
                ("pairs of reflections", str(self.pairs))]


def region_strain(strain: StrainMap, region, reference) -> RegionStrain:
    """Measure the strain of a region relative to a reference, with the errors that its positions share.

    The contrast inside of disks changes with thickness and tilt, and displaces each reflection by a few hundredths of a
    pixel. Neighbors share these displacements, so that the mean over a region has an error that does not fall with the
    number of positions, and that `strain_sigma` does not include. Different reflections are displaced differently; the
    error is therefore estimated by a jackknife over pairs of opposite reflections. It is at least that of the counting
    statistics, if the disks have weights of their precision.

    Parameters
    ----------
    strain : py4DSTEM.process.strain.StrainMap
        The map, after `fit_basis_vectors` and `get_strain`.
    region, reference : tuple of two slices, or numpy.ndarray of bool, shape (Rx, Ry)
        The scan positions that are averaged, and those of the unstrained lattice.

    Returns
    -------
    RegionStrain
        The strain, its sigma, and the numbers of positions and reflections.

    Raises
    ------
    PrenetError
        If the map has no strain yet, or no lattice was fitted in one of the regions.

    Notes
    -----
    In each replicate, one pair of reflections is left out at all positions of both regions, and the lattices of all
    positions are fitted again (Efron & Stein, Ann. Stat. 9, 586 (1981)). Errors that region and reference share cancel.
    An unknown ellipse or pixel size, and errors that displace all reflections in proportion to their distance from the
    direct beam, are not included.

    Examples
    --------
    >>> layer, substrate = (slice(0, 8), slice(None)), (slice(12, 20), slice(None))
    >>> print(region_strain(strain, layer, substrate))  # doctest: +SKIP
    RegionStrain
      exx                   5.12 ± 0.61 in 1e-3
    """
    if not hasattr(strain, "strainmap_g1g2"):
        raise PrenetError("The map has no strain yet; call its fit_basis_vectors() and get_strain() first.")
    fitted = np.asarray(strain.g1g2_map["mask"].data, bool)
    parts = [in_region(part, fitted.shape) & fitted for part in (region, reference)]
    if not all(part.any() for part in parts):
        raise PrenetError("No lattice was fitted in the region or in the reference; choose other positions.")
    tables = [[strain.bragg_vectors_indexed[at].data for at in map(tuple, np.argwhere(part))] for part in parts]
    found = {_pair(*disk) for part in tables for table in part for disk in table[["g1_ind", "g2_ind"]]}
    pairs = sorted(found - {(0, 0)})
    of_region, of_reference = (_mean_lattices(part, pairs) for part in tables)
    combine = _combinations(strain.coordinate_rotation_radians)
    change = np.linalg.solve(of_reference, of_region) - np.eye(2)  # rows of the lattices are g1 and g2
    values = np.einsum("kci,nic->nk", combine, change) * (-1, -1, -1, 1)  # signs of py4DSTEM
    value, replicates = values[0], values[1:]
    sigma = np.sqrt((len(pairs) - 1) * replicates.var(0)) if len(pairs) >= MIN_OPPOSITE_PAIRS else np.full(4, np.nan)
    if _has_precision(strain):  # the jackknife over few pairs may be smaller by chance
        variance = strain_sigma(strain) ** 2
        counting = sum(np.nansum(variance[:, part], 1) / part.sum() ** 2 for part in parts)
        sigma = np.maximum(sigma, np.sqrt(counting))
    return RegionStrain(value, sigma, *(len(part) for part in tables), len(pairs))


def strain_sigma(strain: StrainMap) -> np.ndarray:
    """Propagate the sigmas of Bragg disks to the strain that py4DSTEM's `StrainMap` measured from them.

    Parameters
    ----------
    strain : py4DSTEM.process.strain.StrainMap
        The map, after `fit_basis_vectors` and `get_strain`, of vectors from `bragg_disks(weights="precision")`.

    Returns
    -------
    numpy.ndarray, shape (4, Rx, Ry)
        One standard deviation of exx, eyy, exy (dimensionless) and of the rotation (radians) at each scan position, in
        the axes of the map; NaN where the lattice could not be fitted, or its disks lie in one row.

    Raises
    ------
    PrenetError
        If the disks have no stated precision, or no strain was computed yet.

    Notes
    -----
    py4DSTEM fits both basis vectors by weighted least squares, and the precision of the disks as weight makes their
    covariance the inverse of the normal matrix. Errors that positions share, such as those of the contrast inside of
    disks, of the ellipse and of the reference lattice, are not included; `region_strain` estimates the first and last.

    Examples
    --------
    >>> from py4DSTEM.process.strain import StrainMap
    >>> strain = StrainMap(datacube.prenet.bragg_disks(weights="precision"))  # doctest: +SKIP
    >>> strain.choose_basis_vectors()  # doctest: +SKIP
    >>> strain.fit_basis_vectors(max_peak_spacing=3)  # doctest: +SKIP
    >>> strain.get_strain()  # doctest: +SKIP
    >>> sigma_exx, sigma_eyy, sigma_exy, sigma_rotation = strain_sigma(strain)  # doctest: +SKIP
    """
    if not _has_precision(strain):
        raise PrenetError('The disks have no stated precision; find them with bragg_disks(weights="precision").')
    if not hasattr(strain, "strainmap_g1g2"):
        raise PrenetError("The map has no strain yet; call its fit_basis_vectors() and get_strain() first.")
    fitted = strain.g1g2_map
    lattice = np.stack([fitted[name].data for name in ("g1x", "g1y", "g2x", "g2y")], -1).reshape(*strain.rshape, 2, 2)
    variances = np.full((4, *strain.rshape), np.nan)
    combine = _combinations(strain.coordinate_rotation_radians)
    for at in map(tuple, np.argwhere(np.asarray(fitted["mask"].data, bool))):
        disks = strain.bragg_vectors_indexed[at].data
        design = np.stack([np.ones(len(disks)), disks["g1_ind"], disks["g2_ind"]], 1) * disks["intensity"][:, None]
        if np.linalg.matrix_rank(design) < 3:  # disks in one row do not determine both vectors
            continue
        of_vectors = np.linalg.inv(design.T @ design)[1:, 1:]  # the same for both coordinates, which are independent
        inverse = np.linalg.inv(lattice[at])
        of_rows = inverse @ of_vectors @ inverse.T
        variances[(slice(None), *at)] = np.einsum("kci,ij,kcj->k", combine, of_rows, combine)
    return np.sqrt(variances)


def _has_precision(strain):
    """Whether the weights of the disks are their precision."""
    vectors = strain.braggvectors
    search = vectors.tree(DETAILS).metadata[DETAILS]._params if DETAILS in vectors.treekeys else {}
    return search.get("weights") == "precision"


def _combinations(angle):
    """Return exx, eyy, exy and rotation as sums of the elements of the deformation, (4, coordinate, row)."""
    x, y = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])  # axes of the map
    shear = (np.outer(x, y) + np.outer(y, x)) / 2
    return np.array([np.outer(x, x), np.outer(y, y), shear, [[0, 0.5], [-0.5, 0]]])


def _pair(h, k):
    """Indices that stand for a reflection and the opposite one."""
    return max((int(h), int(k)), (-int(h), -int(k)))


def _mean_lattices(tables, pairs):
    """Mean lattice (g1, g2) over positions, (1 + pairs, 2, 2): of all reflections, and without each pair."""
    number = {pair: k for k, pair in enumerate(pairs, 1)}
    total, count = np.zeros((len(pairs) + 1, 2, 2)), np.zeros(len(pairs) + 1)
    for table in tables:
        design = np.stack([np.ones(len(table)), table["g1_ind"], table["g2_ind"]], 1)
        place = np.stack([table["qx"], table["qy"]], 1)
        weight = table["intensity"] ** 2  # as in py4DSTEM's fit
        of_disk = weight[:, None, None] * design[:, :, None] * np.hstack([design, place])[:, None]
        normal = np.repeat(of_disk.sum(0)[None], len(pairs) + 1, 0)
        for k, term in zip((number.get(_pair(*disk), 0) for disk in design[:, 1:]), of_disk, strict=True):
            if k:
                normal[k] -= term
        known = np.linalg.cond(normal[:, :, :3]) < 1 / np.sqrt(np.finfo(float).eps)  # not if disks lie in one row
        total[known] += np.linalg.solve(normal[known, :, :3], normal[known, :, 3:])[:, 1:]
        count += known
    with np.errstate(invalid="ignore"):
        return total / count[:, None, None]
