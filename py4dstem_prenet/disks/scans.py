"""Find the Bragg disks of whole scans, block by block: each pattern alone, then weak disks with its neighbors."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np

from ..compute import map_chunks, sharing_cores, use_cluster
from ..core import BraggDisks, Flag, PrenetError, as_scan, flat_origins
from ..networks import requirement
from ..origin import BeamLocator, check_mask, kept_locator
from . import DiskFinder

WEIGHTS = ("intensity", "precision")
RATE_STEP = 1.0  # natural logarithm of the rate; width of the bins in which false and found disks are compared


@sharing_cores
def find_bragg_disks(data, false_alarm: float = 0.1, mask=None, device="auto", progress=True,
                     origin=None, neighbors: bool = True, locator: BeamLocator | None = None) -> BraggDisks:
    """Find the Bragg disks of every pattern of a scan.

    Parameters
    ----------
    data : Scan, DataCube or array_like, shape (Rx, Ry, Qx, Qy)
        The scan, in memory or on disk.
    false_alarm : float, optional
        Mean number of false disks in a pattern, greater than 0 and at most 1.
    mask : numpy.ndarray of bool, shape (Qx, Qy), optional
        True where a detector pixel is good.
    device : str, optional
        "auto", "cpu", "cuda" or "mps".
    progress : bool, optional
        Whether to show a progress bar.
    origin : tuple of array_like, optional
        (qx0, qy0) of the direct beam, each a number or (Rx, Ry), pixels. By default it is located in each pattern; a
        brighter Bragg disk can then be taken for it. If several disks may be the direct one, the most probable of them
        is taken.
    neighbors : bool, optional
        Whether weak disks are also searched at places where neighbors that show the same crystal have a disk. In the
        result, their significance is below `threshold`.
    locator : BeamLocator, optional
        Learned from this scan with this mask on this device; by default it is learned here.

    Returns
    -------
    BraggDisks
        Position, intensity, sigmas and probability of each disk.

    Raises
    ------
    PrenetError
        If the data cannot be used, the scan shows no direct beam, or `false_alarm` is out of range.

    Notes
    -----
    A disk is detected by the likelihood ratio between a disk on the background and the background alone (Li and Ma,
    Astrophys. J. 272, 317 (1983)); the rate of false disks is measured on simulated noise of the scan's own
    background and its structure. Positions and intensities are fitted with free contrast inside each disk.

    With `neighbors`, disks of a few electrons are added. At most 0.5 times `false_alarm` of them are false in a pattern
    (0.3 times on average). The neighbors give the prior of the position, with a sigma of at least a tenth of the
    radius. The electrons are those of the pattern alone.

    Examples
    --------
    >>> from py4dstem_prenet.disks import find_bragg_disks
    >>> disks = find_bragg_disks(datacube)  # doctest: +SKIP
    """
    if not 0 < false_alarm <= 1:
        raise PrenetError(f"false_alarm must be a number of false disks per pattern above 0 and at most 1, not "
                          f"{false_alarm!r}.")
    scan = as_scan(data)
    check_mask(scan, mask)
    if origin is not None:
        try:
            origin = flat_origins(scan.scan_shape, *origin)
        except ValueError:
            raise PrenetError(f"origin must be (qx0, qy0), each a number or of shape {scan.scan_shape}.") from None
    finder = DiskFinder.learn(scan, false_alarm, mask, device, progress, origin, locator)
    parts = [rows for _, rows in map_chunks(partial(_find, finder=finder), scan,
                                            progress="disks" if progress else None, require=requirement("center"))]
    rows = np.concatenate(parts)
    rows = rows[np.argsort(rows["position"], kind="stable")]
    bragg = np.isfinite(rows["significance"])
    rows["probability"][~bragg] = 1
    rows["probability"][bragg] = probabilities(rows["probability"][bragg], len(scan.positions))
    if neighbors:
        with use_cluster(None):  # the neighbors of a block are read from the scan that is open here
            found = map_chunks(partial(_find_faint, finder=finder, rows=rows, scan=scan), scan,
                               progress="weak disks" if progress else None)
            rows = np.concatenate([rows, *(added for _, added in found)])
        rows = rows[np.argsort(rows["position"], kind="stable")]
    return BraggDisks(rows, scan.scan_shape, scan.pattern_shape, finder.threshold, float(false_alarm))


def bragg_disks(datacube, false_alarm: float = 0.1, weights: str = "intensity", mask=None, device="auto",
                progress=True):
    """Find the Bragg disks of a DataCube, as py4DSTEM's `BraggVectors`.

    Parameters
    ----------
    datacube : DataCube
        The scan, in memory or in a file.
    false_alarm : float, optional
        Mean number of false disks in a pattern, greater than 0 and at most 1.
    weights : {"intensity", "precision"}, optional
        The value stored as the intensity of a disk: its electrons, or the inverse standard error of its position.
        py4DSTEM's `StrainMap` weights disks by their intensity, so use "precision" for strain. With "precision",
        neighbors in the scan are not used, since they would smooth the map.
    mask : numpy.ndarray of bool, shape (Qx, Qy), optional
        True where a detector pixel is good; by default the mask in the calibration.
    device : str, optional
        "auto", "cpu", "cuda" or "mps".
    progress : bool, optional
        Whether to show a progress bar.

    Returns
    -------
    py4DSTEM.BraggVectors
        The vectors, calibrated as the cube is, in the tree of the cube. The `PointListArray` "prenet_disks" attached
        to them has sigma and probability of each disk.

    Raises
    ------
    PrenetError
        If the data cannot be used or are denoised, the scan shows no direct beam, or an argument is out of range.

    Examples
    --------
    >>> vectors = bragg_disks(datacube, weights="precision")  # doctest: +SKIP
    """
    from ..io import is_denoised, read_mask, to_bragg_vectors

    if weights not in WEIGHTS:
        raise PrenetError(f"weights must be {' or '.join(map(repr, WEIGHTS))}, not {weights!r}.")
    if is_denoised(datacube):
        raise PrenetError("These patterns are denoised: their noise is not that of electrons, so the sigmas of disks "
                          "would be wrong. Find the disks in the measured scan.")
    mask = read_mask(datacube) if mask is None else mask
    origin = _origin(datacube)
    if origin is None:
        warnings.warn(str(Flag("disks_not_centered")), stacklevel=2)
    locator = kept_locator(datacube, as_scan(datacube), mask, device)
    found = find_bragg_disks(datacube, false_alarm, mask, device, progress, origin, weights != "precision", locator)
    return to_bragg_vectors(datacube, found, weights)


def _origin(datacube):
    """(qx0, qy0) in the calibration of a cube; None if there is none."""
    origin = datacube.calibration.get_origin()
    return None if origin is None or any(q is None for q in origin) else origin


def _find(index, block, finder):
    return finder.find(index, block)


def _find_faint(index, block, finder, rows, scan):
    """Find the weak disks of a block; neighbors outside the block are read again."""
    row, column = np.divmod(index, scan.scan_shape[1])
    around = np.zeros(np.add(scan.scan_shape, 2), bool)
    for down in range(3):
        for right in range(3):
            around[row + down, column + right] = True
    every = np.flatnonzero(around[1:-1, 1:-1] & scan.readable)
    here = np.isin(every, index)
    patterns = np.empty((len(every), *block.shape[1:]), block.dtype)
    patterns[here] = block
    if not here.all():
        patterns[~here] = scan.read(every[~here])
    first, last = np.searchsorted(rows["position"], (every[0], every[-1] + 1))
    rows = rows[first:last]
    return finder.find_faint(every, patterns, rows[np.isin(rows["position"], every)], index, scan.scan_shape)


def probabilities(rate, patterns: int):
    """Compute the probability that each disk is real.

    Parameters
    ----------
    rate : numpy.ndarray, shape (k,)
        For each disk of all patterns, the mean number of false disks in a pattern that are as significant.
    patterns : int
        Number of patterns.

    Returns
    -------
    numpy.ndarray, shape (k,)
        One minus the ratio of false to found disks of a similar rate; it does not increase with the rate.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.disks import probabilities
    >>> p = probabilities(np.array([0.09, 0.08, 1e-9]), patterns=10)
    >>> bool(p[0] < 0.8), round(float(p[2]), 2)
    (True, 1.0)
    """
    if not len(rate):
        return np.ones(0)
    level = -np.log(np.maximum(rate, 1e-300))
    edges = np.arange(level.min(), min(level.max(), level.min() + 40) + 2 * RATE_STEP, RATE_STEP)
    found = np.histogram(level, edges)[0]
    false = -np.diff(np.exp(-edges)) * patterns
    ratio = np.maximum.accumulate(1 - np.minimum(false / np.maximum(found, 1), 1))
    return ratio[np.clip(np.digitize(level, edges) - 1, 0, len(ratio) - 1)]
