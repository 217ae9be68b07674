"""Bragg disks as py4DSTEM's `BraggVectors`."""

from __future__ import annotations

import warnings
from contextlib import redirect_stdout
from io import StringIO
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ..core import BraggDisks
from . import fingerprint, new_file, same_data

if TYPE_CHECKING:
    from py4DSTEM.braggvectors import BraggVectors

NAME, OTHER_NAME = "braggvectors", "prenet_braggvectors"  # the latter where another author's vectors have the former
# The PointListArray with sigma and probability of each disk, beside the vectors, and its metadata on the search.
DETAILS = "prenet_disks"
_DETAILS = ("qx", "qy", "intensity", "sigma_qx", "sigma_qy", "intensity_sigma", "significance", "probability")


def to_bragg_vectors(datacube, disks: BraggDisks, weights: str = "intensity") -> BraggVectors:
    """Convert disks to `BraggVectors` in the tree of a DataCube, with its calibration.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube. Its tree gets the vectors, as py4DSTEM's `find_Bragg_disks` does it, in place of earlier ones by this
        package; vectors by another author are kept.
    disks : BraggDisks
        The disks.
    weights : str, optional
        Measure of the intensity of a disk: "intensity" (electrons) or "precision", the inverse standard error of
        its position (1 / pixel), by which py4DSTEM's fit of a lattice is then weighted.

    Returns
    -------
    py4DSTEM.BraggVectors
        The vectors, with the `PointListArray` "prenet_disks" attached, which holds sigma and probability of each.
    """
    from emdfile import Metadata
    from py4DSTEM.braggvectors import BraggVectors

    table = disks.table
    if weights == "precision":
        table = table.copy()
        table["intensity"] = 1 / np.sqrt(0.5 * (table["sigma_qx"] ** 2 + table["sigma_qy"] ** 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the calibration is in the tree already: it is the same
        vectors = BraggVectors(disks.scan_shape, disks.pattern_shape, name=_free_name(datacube),
                               calibration=datacube.calibration)
        datacube.attach(vectors)
    raw = _point_lists(table, disks.scan_shape, ("qx", "qy", "intensity"), "_v_uncal")
    vectors.set_raw_vectors(raw)
    vectors.setcal()
    details = _point_lists(disks.table, disks.scan_shape, _DETAILS, DETAILS)
    details.metadata = Metadata(DETAILS, {"threshold": disks.threshold, "false_alarm": disks.false_alarm,
                                         "weights": weights, "data": fingerprint(datacube) or ""})
    vectors.attach(details)
    return vectors


def read_disks(datacube) -> BraggDisks | None:
    """Read the disks of this package in the tree of a DataCube.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.

    Returns
    -------
    BraggDisks or None
        The disks; None if there are none, or if they were found in other data than those of the cube.
    """
    name = held_disks(datacube)
    if name is None or DETAILS not in datacube.tree(name).treekeys:
        return None
    details = datacube.tree(name).tree(DETAILS)
    search = details.metadata.get(DETAILS)
    same = search is not None and same_data(search["data"] or None, fingerprint(datacube))
    if not same or tuple(details.shape) != tuple(datacube.Rshape):
        return None
    lists = [details[divmod(k, details.shape[1])].data for k in range(int(np.prod(details.shape)))]
    table = np.zeros(sum(map(len, lists)), BraggDisks.DTYPE)
    table["position"] = np.repeat(np.arange(len(lists)), [len(rows) for rows in lists])
    for key in _DETAILS:
        table[key] = np.concatenate([rows[key] for rows in lists])
    return BraggDisks(table, tuple(details.shape), tuple(datacube.Qshape), float(search["threshold"]),
                      float(search["false_alarm"]))


def held_disks(datacube) -> str | None:
    """Return the name of the Bragg vectors in the tree of a DataCube.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.

    Returns
    -------
    str or None
        That of vectors by this package, before those by another author; None if there are none.
    """
    return next((name for name in (OTHER_NAME, NAME) if name in datacube.treekeys), None)


def _free_name(datacube):
    """Return the name of the vectors in the tree of a cube."""
    if NAME not in datacube.treekeys or DETAILS in datacube.tree(NAME).treekeys:
        return NAME
    return OTHER_NAME


def save_bragg_vectors(vectors: BraggVectors, path):
    """Save vectors with their calibration as a new EMD file that any py4DSTEM reads.

    Parameters
    ----------
    vectors : py4DSTEM.BraggVectors
        The vectors.
    path : str or pathlib.Path
        A new file, .h5, .hdf5, .emd or .py4dstem. It appears complete or not at all.

    Raises
    ------
    PrenetError
        If the file exists or cannot be written.
    """
    import py4DSTEM

    with new_file(path) as partial:
        with redirect_stdout(StringIO()):
            py4DSTEM.save(str(partial), vectors)


def _point_lists(table, scan_shape, names, name):
    """Make a PointListArray of some columns of a table that is in the order of the scan."""
    from emdfile import PointListArray

    lists = PointListArray([(key, np.float64) for key in names], scan_shape, name=name)
    limits = np.searchsorted(table["position"], np.arange(int(np.prod(scan_shape)) + 1))
    for k, (first, last) in enumerate(pairwise(limits)):
        rows = np.zeros(last - first, [(key, np.float64) for key in names])
        for key in names:
            rows[key] = table[key][first:last]
        lists[divmod(k, scan_shape[1])].add(rows)
    return lists
