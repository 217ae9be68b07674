"""Structure of the background: what the pattern has besides disks and the mean over angles.

Counts away from the disks scatter more than counting noise does, since a diffuse background has speckles and is not the
same in all directions. Over the aperture of a disk the excess is a part of the background, so that a bright background
hides more than its noise. It is measured as the lower half of the width of the distribution of the significance over
all apertures without a disk: weak disks change the upper half, and few of the others (the empirical null of Efron,
J. Am. Stat. Assoc. 99, 96 (2004)).

Which apertures have no disk depends on the structure: on a background that is assumed to be smooth, each speckle is a
disk. Therefore the assumed structure is raised stepwise, and disks and background are determined anew with it, until
simulated patterns of this structure are as wide as the measured ones. Disks of a crystal are not explained by any
structure: they are brighter than its speckles, and between them the background is as smooth as its counts allow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from . import Background, DiskFilter, disk_significance, measure_background, outside_disks

MIN_FREE_APERTURE, MIN_FREE_RING = 0.95, 0.5  # fractions; smallest parts of aperture and ring without disks
# Variances over squared mean that are tried for a field of speckles. Fully developed speckles have 1 in a point; those
# of thin amorphous carbon 1.2, with the law of `speckle_fields` (benchmarks/speckles.py). The last one leaves room for
# the error of the widths that are compared.
SPECKLES = (0.0, 0.03, 0.1, 0.25, 0.6, 1.5, 4.0)
LOWER_QUANTILE = 0.1587  # probability; of a normal distribution, it lies one standard deviation below the median
QUANTILE_ERROR = 1.2  # fraction of the width; its standard error for one aperture
MOST_PATTERNS = 48  # patterns, measured and simulated; number from which structure is measured, for speed
MIN_PLACES = 120.0  # independent apertures; fewest that tell the structure: its width is then known to 15 %


@dataclass(frozen=True)
class Structure:
    """Structure of the background.

    Attributes
    ----------
    speckle : float
        Variance of the background in a point, in units of its squared mean; 0 for a smooth background.
    relative : float
        Relative rms over the aperture of a disk.

    Examples
    --------
    >>> from py4dstem_prenet.disks import Structure
    >>> Structure(0.0, 0.0).speckle
    0.0
    """

    speckle: float = 0.0
    relative: float = 0.0


def speckle_fields(rng, count: int, shape, disks: DiskFilter, speckle: float) -> np.ndarray:
    """Draw fields of log-normal speckles of the size of a disk.

    Over an aperture, the intensities of multislice patterns of amorphous carbon have the quantiles of a log-normal
    distribution; a gamma distribution has too few bright ones (`benchmarks/speckles.py`).

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the random numbers.
    count : int
        Number of fields.
    shape : tuple of int
        (Qx, Qy).
    disks : DiskFilter
        The filter of the aperture.
    speckle : float
        Variance of a field.

    Returns
    -------
    numpy.ndarray, shape (count, Qx, Qy)
        Fields with a mean of one.
    """
    if not speckle:
        return np.ones((count, *shape))
    noise = torch.from_numpy(rng.normal(size=(count, *(n + 2 * disks.outside for n in shape))).astype(np.float32))
    inner = slice(disks.outside, -disks.outside)
    smooth = disks.sums(noise.to(disks.waves.device), 0)[:, inner, inner].cpu().numpy() / disks.area**0.5
    log_variance = np.log1p(speckle)
    return np.exp(log_variance**0.5 * smooth - log_variance / 2)


def noisy_backgrounds(rng, rate, readout: float, disks: DiskFilter, speckle: float) -> torch.Tensor:
    """Draw patterns of a background without any disk.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the random numbers.
    rate : numpy.ndarray, shape (n, Qx, Qy)
        Expected electrons of each pattern.
    readout : float
        Read-out noise in electrons, rms.
    disks : DiskFilter
        The filter of the aperture.
    speckle : float
        Variance of the speckles, in units of the squared rate.

    Returns
    -------
    torch.Tensor, shape (n, Qx, Qy)
        Patterns in electrons, the variance of the read-out noise added to every pixel.
    """
    patterns = rng.poisson(rate * speckle_fields(rng, len(rate), rate.shape[1:], disks, speckle)) + readout**2
    if readout > 0:
        patterns = patterns + rng.normal(0, readout, patterns.shape)
    return torch.from_numpy(patterns.astype(np.float32))


def measure_structure(electrons, background: Background, good, readout: float, disks: DiskFilter, direct) -> Structure:
    """Measure the structure of the background of patterns, away from their disks.

    Parameters
    ----------
    electrons : torch.Tensor, shape (n, Qx, Qy)
        Patterns in electrons, the variance of the read-out noise added to every pixel.
    background : Background
        The mean background, measured as a smooth one.
    good : torch.Tensor of bool, shape (Qx, Qy)
        Pixels that are used.
    readout : float
        Read-out noise in electrons, rms.
    disks : DiskFilter
        The filter of the aperture.
    direct : numpy.ndarray, shape (n, 2)
        Positions of the direct beam, pixels.

    Returns
    -------
    Structure
        The smallest structure that explains the width of the measured distribution; none if a smooth background
        explains it within its error, or if no structure does.
    """
    some = np.unique(np.linspace(0, len(electrons) - 1, MOST_PATTERNS).astype(int))
    electrons, direct = electrons[some], direct[some]
    lower = None  # the last speckle whose simulated patterns are narrower than the measured ones, and by how much
    for speckle in SPECKLES:
        rng = np.random.default_rng(0)
        structure = _structure(rng, speckle, tuple(electrons.shape[1:]), disks)
        if speckle:
            background = measure_background(electrons, good, readout, disks, direct, structure.relative)
        excess, error, places = _excess(rng, electrons, background, good, readout, disks, direct, structure)
        if not speckle and excess <= error:
            break
        if excess <= 0 and places > MIN_PLACES:
            below, most = lower
            between = speckle if not np.isfinite(most) else below + (speckle - below) * most / (most - excess)
            return _structure(rng, between, tuple(electrons.shape[1:]), disks)
        lower = speckle, excess if places > MIN_PLACES or not speckle else np.inf
    return Structure()


def _structure(rng, speckle, shape, disks):
    """Structure of a field of speckles."""
    if not speckle:
        return Structure()
    fields = torch.from_numpy(speckle_fields(rng, MOST_PATTERNS, shape, disks, speckle).astype(np.float32))
    fields = fields.to(disks.kernels.device)
    whole = disks.sums(torch.ones_like(fields[:1]), 0) > 0.99 * disks.area
    return Structure(speckle, float((disks.sums(fields, 0) / disks.area)[whole.expand_as(fields)].std()))


def _excess(rng, electrons, background, good, readout, disks, direct, structure):
    """Width of the significance in patterns less that in simulated ones, its error, and the number of apertures."""
    images = background.images(direct, tuple(electrons.shape[1:]))
    expected, rate = images.to(electrons.device), (images.numpy() - readout**2).clip(0)
    free = outside_disks(electrons, expected, good.expand_as(electrons), disks, direct, structure.relative)
    measured, places = _width(electrons, expected, free, disks)
    if not places:
        return np.inf, 0.0, 0.0
    drawn = noisy_backgrounds(rng, rate, readout, disks, structure.speckle).to(electrons.device)
    left = outside_disks(drawn, expected, free, disks, direct, structure.relative)
    simulated = _width(drawn, expected, left, disks)[0]
    return measured - simulated, simulated * QUANTILE_ERROR * (2 / places) ** 0.5, places


def _width(electrons, expected, free, disks):
    """Lower half of the width of the significance of apertures without a disk, and the number of independent ones."""
    free = free.to(electrons.dtype)
    (on, off), (expected_on, expected_off), (area, ring) = (
        disks.both_sums(image * free) for image in (electrons, expected, torch.ones_like(electrons)))
    used = (area > MIN_FREE_APERTURE * disks.area) & (ring > MIN_FREE_RING * disks.ring_area)
    z = disk_significance(on, off, expected_on, expected_off, 0.0)[used].cpu().numpy()
    low, middle = np.quantile(z, (LOWER_QUANTILE, 0.5)) if len(z) else (0.0, 0.0)
    return float(middle - low), len(z) / disks.area
