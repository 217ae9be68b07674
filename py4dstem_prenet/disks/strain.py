"""Standard errors of the strain maps that py4DSTEM makes from Bragg disks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..core import PrenetError
from ..io import DETAILS

if TYPE_CHECKING:
    from py4DSTEM.process.strain import StrainMap


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
    covariance the inverse of the normal matrix. Errors that all positions share, such as an unknown ellipse or the
    error of the reference lattice, are not included.

    Examples
    --------
    >>> from py4DSTEM.process.strain import StrainMap
    >>> strain = StrainMap(datacube.prenet.bragg_disks(weights="precision"))  # doctest: +SKIP
    >>> strain.choose_basis_vectors()  # doctest: +SKIP
    >>> strain.fit_basis_vectors(max_peak_spacing=3)  # doctest: +SKIP
    >>> strain.get_strain()  # doctest: +SKIP
    >>> sigma_exx, sigma_eyy, sigma_exy, sigma_rotation = strain_sigma(strain)  # doctest: +SKIP
    """
    vectors = strain.braggvectors
    search = vectors.tree(DETAILS).metadata[DETAILS]._params if DETAILS in vectors.treekeys else {}
    if search.get("weights") != "precision":
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


def _combinations(angle):
    """Return exx, eyy, exy and rotation as sums of the elements of the deformation, (4, coordinate, row)."""
    x, y = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])  # axes of the map
    shear = (np.outer(x, y) + np.outer(y, x)) / 2
    return np.array([np.outer(x, x), np.outer(y, y), shear, [[0, 0.5], [-0.5, 0]]])
