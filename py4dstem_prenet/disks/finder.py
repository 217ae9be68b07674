"""Find the Bragg disks of a scan: learn beam, background and contrast from a sample, then search every pattern."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from ..compute import map_chunks, sharing_cores
from ..core import BraggDisks, Flag, PrenetError, Scan, as_scan
from ..networks import requirement
from ..origin import BeamLocator, check_mask
from . import (
    Background,
    DiskFilter,
    DiskShape,
    DiskWindows,
    FalseAlarms,
    Structure,
    false_alarms,
    find_disks,
    fit_disks,
    learned_shape,
    measure_background,
    measure_structure,
)

SAMPLE_PATTERNS = 64  # patterns from which background and contrast are learned; chosen for speed
SAMPLE_BYTES = 2**28  # bytes of these patterns as float32
SEARCHED_BYTES = 2**25  # bytes of the patterns that are searched at once as float32; chosen for speed
MAX_ORIGIN_OFFSET_PX = 2.0  # pixels between the origin that is given and the located disk, if it is the direct one
MAX_FALSE_ALARM = 1.0  # false disks in a pattern that may be asked for
WEIGHTS = ("intensity", "precision")
RATE_STEP = 1.0  # natural logarithm: width of the bins of the rate in which false and found disks are compared
MAX_RADIUS_CHANGE = 0.05  # of the radius, from which on disks are searched again with the learned aperture
WINDOW_MARGIN_PX = 8  # pixels between the edge of a disk and the end of its window, at most


@dataclass(frozen=True)
class DiskFinder:
    """What is needed to find the disks of a scan. Plain data that can be pickled.

    Attributes
    ----------
    locator : BeamLocator
        Locates the direct beam; its noise model includes the bad pixels.
    background : Background
        The background between the disks.
    structure : Structure
        What the background has besides its mean over angles.
    alarms : FalseAlarms
        The rate of false disks.
    threshold : float
        Least significance of a disk, standard deviations.
    shape : DiskShape
        Aperture and contrast, learned from Bragg disks.
    origin : numpy.ndarray or None
        Positions of the direct beam, (positions, 2), pixels; None if they are located in each pattern.
    """

    locator: BeamLocator
    background: Background
    structure: Structure
    alarms: FalseAlarms
    threshold: float
    shape: DiskShape
    origin: np.ndarray | None = None

    @classmethod
    def learn(cls, scan: Scan, false_alarm: float = 0.1, mask=None, device="auto", progress=False,
              origin=None) -> DiskFinder:
        """Learn from a sample of a scan.

        Parameters
        ----------
        scan : Scan
            The scan.
        false_alarm : float, optional
            Mean number of false disks in a pattern.
        mask : numpy.ndarray of bool, shape (Qx, Qy), optional
            True where a detector pixel is good.
        device : str, optional
            "auto", "cpu", "cuda" or "mps".
        progress : bool, optional
            Whether to show the stages.
        origin : numpy.ndarray, optional
            Positions of the direct beam, (positions, 2), pixels.

        Returns
        -------
        DiskFinder
            The finder.

        Raises
        ------
        PrenetError
            If the scan shows no direct beam.
        """
        locator = BeamLocator.learn(scan, mask, device, progress=progress)
        if locator.beam is None:
            flag = locator.refusal or Flag("no_beam")
            raise PrenetError(f"{flag.sentence} Without it, Bragg disks are not searched. {flag.kind.action}".strip())
        count = int(np.clip(SAMPLE_BYTES // (4 * np.prod(scan.pattern_shape)), 1, SAMPLE_PATTERNS))
        held = scan.positions
        sample = held[np.unique(np.linspace(0, len(held) - 1, count).astype(int))]
        patterns = scan.read(sample)
        direct, _ = _direct_beam(locator.locate(sample, patterns), origin, sample)
        device, noise, aperture = locator.beam.resolved_device, locator.noise, locator.beam.aperture
        readout, center = noise.readout / noise.gain, np.median(direct, 0)
        for last in (False, True):
            disks, good, electrons = _prepared(patterns, locator, aperture, device)
            background = measure_background(electrons, good, readout, disks, direct)
            alarms = false_alarms(background, good, readout, disks, center, Structure())
            images = background.images(direct, scan.pattern_shape).to(device)
            threshold = alarms.threshold(false_alarm)
            found = find_disks(electrons, images, good, disks, threshold, direct)
            shape = learned_shape(_windows(electrons, good, readout, aperture), found, aperture, direct, readout)
            change = abs(shape.aperture.radius / aperture.radius - 1)
            if last or change < MAX_RADIUS_CHANGE:
                break
            aperture = replace(shape.aperture, contrast=())  # which belongs to the radius that was wrong
        structure = measure_structure(electrons, background, good, readout, disks, threshold, direct)
        if structure.speckle:
            alarms = false_alarms(background, good, readout, disks, center, structure)
            threshold = alarms.threshold(false_alarm)
        return cls(locator, background, structure, alarms, threshold, shape, origin)

    def find(self, index, block):
        """Find the disks of some patterns.

        Parameters
        ----------
        index : numpy.ndarray of int, shape (n,)
            Flat scan positions.
        block : numpy.ndarray, shape (n, Qx, Qy)
            Patterns in detector units.

        Returns
        -------
        numpy.ndarray
            A structured array of `BraggDisks.DTYPE`. The direct beam has an infinite significance; "probability" holds
            the number of false disks in a pattern that are at least as significant.
        """
        locator = self.locator
        count = max(1, SEARCHED_BYTES // (4 * block[0].size))
        return np.concatenate([self._find(index[first : first + count], block[first : first + count], locator)
                               for first in range(0, len(block), count)])

    def _find(self, index, block, locator):
        device, noise = locator.beam.resolved_device, locator.noise
        located = locator.locate(index, block)
        direct, right = _direct_beam(located, self.origin, index)
        readout, shape = noise.readout / noise.gain, block.shape[1:]
        disks, good, electrons = _prepared(block, locator, self.shape.aperture, device)
        images = self.background.images(direct, shape).to(device)
        found = find_disks(electrons, images, good, disks, self.threshold, direct, self.structure.relative)
        windows = _windows(electrons, good, readout, self.shape.aperture)
        fitted = fit_disks(windows, found, self.shape, direct, readout)
        lit = np.flatnonzero(located.found & right)
        kept = fitted.good & found.reported(shape)
        kept &= ((fitted.position > -0.5) & (fitted.position < np.subtract(shape, 0.5))).all(1)
        level = disks.sums_at((electrons - images) * good, lit, np.rint(direct[lit]).astype(int), 0).cpu().numpy()
        rows = np.zeros(len(lit) + int(kept.sum()), BraggDisks.DTYPE)
        head, tail = rows[: len(lit)], rows[len(lit) :]
        head["position"], head["significance"] = index[lit], np.inf
        head["qx"], head["qy"] = located.position[lit].T
        head["sigma_qx"], head["sigma_qy"] = located.sigma[lit].T
        head["intensity"], head["intensity_sigma"] = level.clip(1e-6), np.sqrt(level.clip(1))
        tail["position"], tail["significance"] = index[found.pattern[kept]], found.significance[kept]
        tail["qx"], tail["qy"] = fitted.position[kept].T
        tail["sigma_qx"], tail["sigma_qy"] = fitted.sigma[kept].T
        tail["intensity"], tail["intensity_sigma"] = fitted.intensity[kept], fitted.intensity_sigma[kept]
        tail["probability"] = self.alarms.rate(found.significance[kept])
        return rows[np.argsort(rows["position"], kind="stable")]


def _direct_beam(located, origin, index):
    """Positions of the direct beam, and whether the disk that was located is the direct one."""
    if origin is None:
        return located.position, np.ones(len(index), bool)
    given = origin[index]
    right = np.hypot(*(located.position - given).T) < MAX_ORIGIN_OFFSET_PX
    return np.where(np.isfinite(given), given, located.position), right


def _prepared(patterns, locator, aperture, device):
    """Filter, good pixels and patterns in electrons, with the variance of the read-out noise added."""
    noise = locator.noise
    disks = DiskFilter(aperture, patterns.shape[1:], device)
    good = torch.from_numpy(~noise.bad_pixels).to(device)
    electrons = torch.from_numpy(np.asarray(noise.electrons(patterns), np.float32)).to(device)
    return disks, good, electrons + (noise.readout / noise.gain) ** 2


def _windows(electrons, good, readout, aperture):
    """Patterns with the variance of the read-out noise added, ready for windows."""
    margin = int(np.ceil(aperture.radius * (1 + np.hypot(*aperture.vector)))) + WINDOW_MARGIN_PX
    return DiskWindows(electrons - readout**2, good, aperture.radius + aperture.edge, margin)


@sharing_cores
def find_bragg_disks(data, false_alarm: float = 0.1, mask=None, device="auto", progress=True,
                     origin=None) -> BraggDisks:
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
        (qx0, qy0) of the direct beam, each a number or (Rx, Ry), pixels. By default it is located in each pattern,
        where a Bragg disk that is brighter may be taken for it.

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

    Examples
    --------
    >>> from py4dstem_prenet.disks import find_bragg_disks
    >>> disks = find_bragg_disks(datacube)  # doctest: +SKIP
    """
    if not 0 < false_alarm <= MAX_FALSE_ALARM:
        raise PrenetError(f"false_alarm is the number of false disks in a pattern, above 0 and at most 1, not "
                          f"{false_alarm!r}.")
    scan = as_scan(data)
    check_mask(scan, mask)
    if origin is not None:
        try:
            origin = np.stack([np.broadcast_to(np.asarray(q, float), scan.scan_shape).ravel() for q in origin], 1)
        except ValueError:
            raise PrenetError(f"origin is (qx0, qy0), each a number or of shape {scan.scan_shape}.") from None
    finder = DiskFinder.learn(scan, false_alarm, mask, device, progress, origin)
    parts = [rows for _, rows in map_chunks(partial(_find, finder=finder), scan,
                                            progress="disks" if progress else None, require=requirement("center"))]
    rows = np.concatenate(parts)
    rows = rows[np.argsort(rows["position"], kind="stable")]
    bragg = np.isfinite(rows["significance"])
    rows["probability"][~bragg] = 1
    rows["probability"][bragg] = probabilities(rows["probability"][bragg], len(scan.positions))
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
        What the vectors hold as intensity: the electrons of the disk, or the inverse standard error of its position.
        py4DSTEM's `StrainMap` weights disks by it: give "precision" for strain.
    mask : numpy.ndarray of bool, shape (Qx, Qy), optional
        True where a detector pixel is good; by default the mask in the calibration.
    device : str, optional
        "auto", "cpu", "cuda" or "mps".
    progress : bool, optional
        Whether to show a progress bar.

    Returns
    -------
    py4DSTEM.BraggVectors
        The vectors, calibrated as the cube is. The `PointListArray` "prenet_disks" attached to them has sigma and
        probability of each disk.

    Raises
    ------
    PrenetError
        If the data cannot be used, the scan shows no direct beam, or an argument is out of range.

    Examples
    --------
    >>> vectors = bragg_disks(datacube, weights="precision")  # doctest: +SKIP
    """
    from ..io import read_mask, to_bragg_vectors

    if weights not in WEIGHTS:
        raise PrenetError(f"weights is {' or '.join(map(repr, WEIGHTS))}, not {weights!r}.")
    mask = read_mask(datacube) if mask is None else mask
    origin = _origin(datacube)
    if origin is None:
        warnings.warn(str(Flag("disks_not_centered")), stacklevel=2)
    return to_bragg_vectors(datacube, find_bragg_disks(datacube, false_alarm, mask, device, progress, origin), weights)


def _origin(datacube):
    """(qx0, qy0) in the calibration of a cube; None if there is none."""
    origin = datacube.calibration.get_origin()
    return None if origin is None or any(q is None for q in origin) else origin


def _find(index, block, finder):
    return finder.find(index, block)


def probabilities(rate, patterns: int):
    """Compute the probability that each disk is one.

    Parameters
    ----------
    rate : numpy.ndarray, shape (k,)
        For each disk of all patterns, the mean number of false disks in a pattern that are as significant.
    patterns : int
        Number of patterns.

    Returns
    -------
    numpy.ndarray, shape (k,)
        One less the ratio of false to found disks of a similar rate; it does not grow with the rate.

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
