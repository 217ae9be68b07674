"""Properties of the Bragg disks of a scan, learned from a sample of its patterns, and the search that uses them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from ..compute import adapt_threads, sharing_cores
from ..core import NoiseModel
from ..fits import Aperture, disk_model
from . import (
    MAX_SIGMA_RADII,
    Background,
    Candidates,
    DiskFilter,
    DiskShape,
    DiskWindows,
    FalseAlarms,
    FittedDisks,
    Structure,
    false_alarms,
    find_disks,
    fit_disks,
    grid_side,
    learned_shape,
    measure_background,
    measure_structure,
    own_significance,
    with_direct,
)

SAMPLE_PATTERNS = 64  # patterns from which background and contrast are learned; chosen for speed
SAMPLE_BYTES = 2**28  # bytes; largest size of these patterns as float32
CERTAIN_RATE = 2e-4  # false disks per pattern; largest rate at which disks tell aperture and contrast
MAX_RADIUS_CHANGE = 0.05  # fraction of the radius; after a larger change, the learned aperture is used for a new search


@dataclass(frozen=True)
class LearnedDisks:
    """Learned properties that the search for disks needs, as plain data that can be pickled.

    Attributes
    ----------
    noise : NoiseModel
        Noise model of the detector, with its bad pixels.
    background : Background
        The background between the disks.
    structure : Structure
        Deviations of the background from its mean over angles.
    alarms : FalseAlarms
        The rate of false disks.
    threshold : float
        Least significance of a disk, standard deviations.
    shape : DiskShape
        Aperture and contrast, learned from Bragg disks.
    """

    noise: NoiseModel
    background: Background
    structure: Structure
    alarms: FalseAlarms
    threshold: float
    shape: DiskShape

    @classmethod
    @sharing_cores
    def learn(cls, patterns, noise: NoiseModel, aperture: Aperture, direct, false_alarm: float,
              device="cpu") -> LearnedDisks:
        """Learn from a sample of patterns.

        Parameters
        ----------
        patterns : numpy.ndarray, shape (n, Qx, Qy)
            The sample, in detector units.
        noise : NoiseModel
            Noise model of the detector.
        aperture : Aperture
            The direct disk.
        direct : numpy.ndarray, shape (n, 2)
            Positions of the direct beam, pixels.
        false_alarm : float
            Mean number of false disks in a pattern.
        device : str, optional
            Where disks are searched and fitted.

        Returns
        -------
        LearnedDisks
            What was learned.
        """
        readout, center = noise.readout / noise.gain, np.median(direct, 0)
        for last in (False, True):
            disks, good, electrons = prepared(patterns, noise, aperture, device)
            background = measure_background(electrons, good, readout, disks, direct)
            adapt_threads()
            structure = measure_structure(electrons, background, good, readout, disks, direct)
            if structure.speckle:  # some places that were left out as disks are speckles
                background = measure_background(electrons, good, readout, disks, direct, structure.relative)
            adapt_threads()
            alarms = false_alarms(background, good, readout, disks, center, structure)
            images = background.images(direct, patterns.shape[1:]).to(electrons.device)
            threshold = alarms.threshold(false_alarm)
            adapt_threads()
            found = find_disks(electrons, images, good, disks, threshold, direct, structure.relative)
            shape = learned_shape(_windows(electrons, good, readout, aperture), found, aperture, direct, readout,
                                  alarms.threshold(CERTAIN_RATE))
            change = abs(shape.aperture.radius / aperture.radius - 1)
            if last or change < MAX_RADIUS_CHANGE:
                break
            aperture = replace(shape.aperture, contrast=())  # the contrast belongs to the wrong radius
        windows = _windows(electrons, good, readout, shape.aperture)
        fitted = fit_disks(windows, found, shape, direct, readout)
        shape = shape.with_misfits(found.electrons[fitted.good], fitted.misfit[fitted.good])
        fitted = fit_disks(windows, found, shape, direct, readout)  # the stated errors depend on the misfits
        good_fits = found.subset(fitted.good)
        shape = shape.with_errors(good_fits.pattern, fitted.position[fitted.good], fitted.sigma[fitted.good],
                                  good_fits.electrons, direct, MAX_SIGMA_RADII * shape.aperture.radius)
        return cls(noise, background, structure, alarms, threshold, shape)

    def searched(self, block, direct, device="cpu"):
        """Prepare patterns for a search.

        Parameters
        ----------
        block : numpy.ndarray, shape (n, Qx, Qy)
            Patterns in detector units.
        direct : numpy.ndarray, shape (n, 2)
            Positions of the direct beam, pixels.
        device : str, optional
            Where disks are searched.

        Returns
        -------
        disks : DiskFilter
            The filter of the aperture.
        good : torch.Tensor of bool, shape (Qx, Qy)
            Pixels that are used.
        electrons : torch.Tensor, shape (n, Qx, Qy)
            Patterns in electrons, with the variance of the read-out noise added.
        images : torch.Tensor, shape (n, Qx, Qy)
            Their background.
        """
        disks, good, electrons = prepared(block, self.noise, self.shape.aperture, device)
        return disks, good, electrons, self.background.images(direct, block.shape[1:]).to(electrons.device)

    def located(self, disks: DiskFilter, good, electrons, images, direct) -> tuple[Candidates, FittedDisks]:
        """Find and fit the disks of patterns.

        Parameters
        ----------
        disks : DiskFilter
            The filter of the aperture, from `searched`.
        good : torch.Tensor of bool, shape (Qx, Qy)
            Pixels that are used.
        electrons, images : torch.Tensor, shape (n, Qx, Qy)
            The patterns and their background, from `searched`.
        direct : numpy.ndarray, shape (n, 2)
            Positions of the direct beam, pixels.

        Returns
        -------
        found : Candidates
            The disks in the patterns, the direct one left out.
        fitted : FittedDisks
            Their positions.
        """
        readout, shape = self.noise.readout / self.noise.gain, tuple(electrons.shape[1:])
        found = find_disks(electrons, images, good, disks, self.threshold, direct, self.structure.relative)
        fitted = fit_disks(_windows(electrons, good, readout, self.shape.aperture), found, self.shape, direct, readout)
        kept = fitted.good & found.reported(shape)
        kept &= ((fitted.position > -0.5) & (fitted.position < np.subtract(shape, 0.5))).all(1)
        # Without significant electrons outside a more significant disk, it is a second fit of that disk.
        every = with_direct(replace(found, significance=np.where(fitted.good, found.significance, 0)), direct)
        alone = own_significance(every, np.concatenate([fitted.position, direct]), electrons, good, disks,
                                 self.structure.relative)[: len(kept)]
        found, kept = replace(found, significance=alone), kept & (alone > self.threshold)
        return found.subset(kept), fitted.subset(kept)


def prepared(patterns, noise: NoiseModel, aperture: Aperture, device):
    """Prepare patterns: filter, good pixels and electrons.

    Parameters
    ----------
    patterns : numpy.ndarray, shape (n, Qx, Qy)
        Patterns in detector units.
    noise : NoiseModel
        Noise model of the detector.
    aperture : Aperture
        The direct disk.
    device : str
        Where disks are searched.

    Returns
    -------
    disks : DiskFilter
        The filter of the aperture.
    good : torch.Tensor of bool, shape (Qx, Qy)
        Pixels that are used.
    electrons : torch.Tensor, shape (n, Qx, Qy)
        Patterns in electrons, with the variance of the read-out noise added; bad pixels are not filled.
    """
    disks = DiskFilter(aperture, patterns.shape[1:], device)
    good = torch.from_numpy(~noise.bad_pixels).to(device)
    electrons = torch.from_numpy(noise.electrons(patterns, fill=False)).to(device)
    return disks, good, electrons.add_((noise.readout / noise.gain) ** 2)


def window_side(aperture: Aperture) -> int:
    """Return the largest side of the windows in which disks are fitted.

    Parameters
    ----------
    aperture : Aperture
        The direct disk.

    Returns
    -------
    int
        Pixels, odd.

    Examples
    --------
    >>> from py4dstem_prenet.disks import window_side
    >>> from py4dstem_prenet.fits import Aperture
    >>> window_side(Aperture(4.0, 0.3, (0.0, 0.0)))
    21
    """
    return max(grid_side(aperture), disk_model(aperture).side)


def _windows(electrons, good, readout, aperture):
    """Patterns with the variance of the read-out noise added, ready for windows."""
    return DiskWindows(electrons - readout**2, good, aperture.radius + aperture.edge, window_side(aperture))
