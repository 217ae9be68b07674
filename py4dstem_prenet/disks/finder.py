"""Find the Bragg disks of patterns: beam, background and contrast are learned from a sample of a scan."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from ..core import BraggDisks, Flag, PrenetError, Scan
from ..origin import BeamLocator, given_beam
from . import (
    SAMPLE_BYTES,
    SAMPLE_PATTERNS,
    FalseAlarms,
    LearnedDisks,
    OwnDisks,
    PatternGroup,
    faint_disks,
    neighbor_pairs,
    window_side,
)

SEARCHED_BYTES = 2**25  # bytes; size as float32 of the patterns that are searched at once, for speed
MAX_ORIGIN_OFFSET_PX = 2.0  # pixels; largest distance of the direct beam from the given origin
PLACES_RATE = 0.2  # fraction of `false_alarm`; number of false places in a sum of neighbors


@dataclass(frozen=True)
class DiskFinder:
    """The search for the disks of a scan, as plain data that can be pickled.

    Attributes
    ----------
    locator : BeamLocator
        Locates the direct beam; its noise model includes the bad pixels.
    learned : LearnedDisks
        Background, aperture and contrast of the disks.
    origin : numpy.ndarray or None
        Positions of the direct beam, (positions, 2), pixels; None if they are located in each pattern.
    false_alarm : float
        Mean number of false disks in a pattern.
    """

    locator: BeamLocator
    learned: LearnedDisks
    origin: np.ndarray | None = None
    false_alarm: float = 0.1

    @classmethod
    def learn(cls, scan: Scan, false_alarm: float = 0.1, mask=None, device="auto", progress=False,
              origin=None, locator: BeamLocator | None = None) -> DiskFinder:
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
            Positions of the direct beam, (positions, 2), pixels. If it is not given and several disks may be the direct
            one, the most probable of them is taken.
        locator : BeamLocator, optional
            Learned from this scan with this mask on this device; by default it is learned here.

        Returns
        -------
        DiskFinder
            The finder.

        Raises
        ------
        PrenetError
            If the scan shows no direct beam.
        """
        locator = locator or BeamLocator.learn(scan, mask, device, progress=progress)
        if locator.refusal and locator.refusal.name == "beam_ambiguous":
            # The disks are the same, whichever of them is the direct one. Without an origin, the likeliest is taken.
            if origin is None:
                warnings.warn(f"{locator.refusal.sentence} Disks are searched with the most likely one as the direct "
                              f"beam; this choice hardly changes the disks. {locator.refusal.action}", stacklevel=2)
            center = locator.first.position.clip(0, np.subtract(scan.pattern_shape, 1)) if origin is None else origin
            locator = BeamLocator.learn(scan, mask, device, locator.noise, progress,
                                        given_beam(scan, center.reshape(*scan.scan_shape, 2).transpose(2, 0, 1)))
        if locator.beam is None:
            flag = locator.refusal or Flag("no_beam")
            raise PrenetError(f"{flag.sentence} Bragg disks are searched only if the direct beam is found. "
                              f"{flag.kind.action}".strip())
        count = int(np.clip(SAMPLE_BYTES // (4 * np.prod(scan.pattern_shape)), 1, SAMPLE_PATTERNS))
        held = scan.positions
        sample = held[np.unique(np.linspace(0, len(held) - 1, count).astype(int))]
        patterns = scan.read(sample)
        direct, _ = _direct_beam(locator.locate(sample, patterns), origin, sample)
        learned = LearnedDisks.learn(patterns, locator.noise, locator.beam.aperture, direct, false_alarm,
                                     locator.beam.resolved_device)
        return cls(locator, learned, origin, false_alarm)

    @property
    def alarms(self) -> FalseAlarms:  # numpydoc ignore=RT01
        """The rate of false disks."""
        return self.learned.alarms

    @property
    def threshold(self) -> float:  # numpydoc ignore=RT01
        """Least significance of a disk, standard deviations."""
        return self.learned.threshold

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
        located = locator.locate(index, block)
        direct, right = _direct_beam(located, self.origin, index)
        disks, good, electrons, images = self.learned.searched(block, direct, locator.beam.resolved_device)
        found, fitted = self.learned.located(disks, good, electrons, images, direct)
        lit = np.flatnonzero(located.found & right)
        level = disks.sums_at((electrons - images) * good.to(electrons.dtype), lit,
                              np.rint(direct[lit]).astype(int), 0).cpu().numpy()
        rows = np.zeros(len(lit) + len(found.pattern), BraggDisks.DTYPE)
        head, tail = rows[: len(lit)], rows[len(lit) :]
        head["position"], head["significance"] = index[lit], np.inf
        head["qx"], head["qy"] = located.position[lit].T
        head["sigma_qx"], head["sigma_qy"] = located.sigma[lit].T
        head["intensity"], head["intensity_sigma"] = level.clip(1e-6), np.sqrt(level.clip(1))
        tail["position"], tail["significance"] = index[found.pattern], found.significance
        tail["qx"], tail["qy"] = fitted.position.T
        tail["sigma_qx"], tail["sigma_qy"] = fitted.sigma.T
        tail["intensity"], tail["intensity_sigma"] = fitted.intensity, fitted.intensity_sigma
        tail["probability"] = self.alarms.rate(found.significance)
        return rows[np.argsort(rows["position"], kind="stable")]

    def find_faint(self, index, patterns, rows, wanted, scan_shape):
        """Find weak disks of patterns at places where their neighbors in the scan show a disk.

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
        disks, good, electrons, images = self.learned.searched(patterns[known], direct,
                                                               self.locator.beam.resolved_device)
        own = OwnDisks(direct, np.searchsorted(index, own["position"]), _pairs(own, "qx", "qy"),
                       _pairs(own, "sigma_qx", "sigma_qy"), own["intensity"])
        found = faint_disks(PatternGroup(electrons, images, good, disks, own), neighbor_pairs(index, scan_shape),
                            np.flatnonzero(np.isin(index, wanted)),
                            (self.threshold, self.alarms.threshold(PLACES_RATE * self.false_alarm)), self.false_alarm,
                            self.learned.structure.relative, self.learned.shape,
                            window_side(self.learned.shape.aperture))
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
    """Return positions of the direct beam, and whether each located disk lies at the given origin."""
    if origin is None:
        return located.position, np.ones(len(index), bool)
    given = origin[index]
    right = np.hypot(*(located.position - given).T) < MAX_ORIGIN_OFFSET_PX
    return np.where(np.isfinite(given), given, located.position), right
