"""Find the Bragg disks of patterns: beam, background and contrast are learned from a sample of a scan."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from ..core import BraggDisks, Flag, PrenetError, Scan
from ..origin import BeamLocator
from . import (
    Background,
    DiskFilter,
    DiskShape,
    DiskWindows,
    FalseAlarms,
    OwnDisks,
    PatternGroup,
    Structure,
    faint_disks,
    false_alarms,
    find_disks,
    fit_disks,
    learned_shape,
    measure_background,
    measure_structure,
    neighbor_pairs,
)

SAMPLE_PATTERNS = 64  # patterns from which background and contrast are learned; chosen for speed
SAMPLE_BYTES = 2**28  # bytes of these patterns as float32
SEARCHED_BYTES = 2**25  # bytes of the patterns that are searched at once as float32; chosen for speed
MAX_ORIGIN_OFFSET_PX = 2.0  # pixels between the origin that is given and the located disk, if it is the direct one
MAX_RADIUS_CHANGE = 0.05  # of the radius, from which on disks are searched again with the learned aperture
PLACES_RATE = 0.2  # of the rate of false disks: places in sums of neighbors where there is no disk
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
    false_alarm: float = 0.1

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
        fitted = fit_disks(_windows(electrons, good, readout, shape.aperture), found, shape, direct, readout)
        shape = shape.with_misfits(found.electrons[fitted.good], fitted.misfit[fitted.good])
        structure = measure_structure(electrons, background, good, readout, disks, threshold, direct)
        if structure.speckle:
            alarms = false_alarms(background, good, readout, disks, center, structure)
            threshold = alarms.threshold(false_alarm)
        return cls(locator, background, structure, alarms, threshold, shape, origin, false_alarm)

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

    def find_faint(self, index, patterns, rows, wanted, scan_shape):
        """Find the weak disks of patterns at places where their neighbors in the scan have one.

        Parameters
        ----------
        index : numpy.ndarray of int, shape (n,)
            Flat scan positions, ascending, neighbors included.
        patterns : numpy.ndarray, shape (n, Qx, Qy)
            Their patterns in detector units.
        rows : numpy.ndarray
            What `find` returned for them.
        wanted : numpy.ndarray of int, shape (m,)
            Flat scan positions whose disks are searched.
        scan_shape : tuple of int
            (Rx, Ry).

        Returns
        -------
        numpy.ndarray
            A structured array of `BraggDisks.DTYPE`; "probability" is the probability that the electrons are a disk.
        """
        bragg, direct = np.isfinite(rows["significance"]), np.full((len(index), 2), np.nan)
        direct[np.searchsorted(index, rows["position"][~bragg])] = _pairs(rows[~bragg], "qx", "qy")
        if self.origin is not None:
            direct = np.where(np.isfinite(self.origin[index]), self.origin[index], direct)
        known = np.isfinite(direct).all(1)
        index, direct = index[known], direct[known]
        own = rows[bragg & np.isin(rows["position"], index)]
        disks, good, electrons = _prepared(patterns[known], self.locator, self.shape.aperture,
                                           self.locator.beam.resolved_device)
        images = self.background.images(direct, patterns.shape[1:]).to(electrons.device)
        own = OwnDisks(direct, np.searchsorted(index, own["position"]), _pairs(own, "qx", "qy"),
                       _pairs(own, "sigma_qx", "sigma_qy"), own["intensity"])
        found = faint_disks(PatternGroup(electrons, images, good, disks, own), neighbor_pairs(index, scan_shape),
                            np.flatnonzero(np.isin(index, wanted)),
                            (self.threshold, self.alarms.threshold(PLACES_RATE * self.false_alarm)), self.false_alarm,
                            self.structure.relative, self.shape, _margin(self.shape.aperture))
        out = np.zeros(len(found.pattern), BraggDisks.DTYPE)
        out["position"] = index[found.pattern]
        out["qx"], out["qy"] = found.position.T
        out["sigma_qx"], out["sigma_qy"] = found.sigma.T
        for name in ("intensity", "intensity_sigma", "significance", "probability"):
            out[name] = getattr(found, name)
        return out


def _pairs(rows, *names):
    """Two columns of a table, (k, 2)."""
    return np.stack([rows[name] for name in names], 1)


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
    return DiskWindows(electrons - readout**2, good, aperture.radius + aperture.edge, _margin(aperture))


def _margin(aperture):
    return int(np.ceil(aperture.radius * (1 + np.hypot(*aperture.vector)))) + WINDOW_MARGIN_PX
