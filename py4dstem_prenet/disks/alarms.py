"""Rate of false disks, on simulated noise of the background."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import Background, DiskFilter, Structure, find_disks, noisy_backgrounds

# Set on multislice silicon along [110] (benchmarks/strain.py, disks.py), unless a comment says otherwise.
SIMULATED_PATTERNS = 128  # patterns of noise; they give the rate of false disks to about 10 %
SIMULATED_AT_ONCE = 32  # patterns; limits the memory
LOWEST_SIGNIFICANCE = 2.0  # standard deviations; smallest significance of false disks that are counted
TAIL_RATES = (0.05, 2.0)  # false disks per pattern; range in which the law of the tail is fitted


@dataclass(frozen=True)
class FalseAlarms:
    """Rate of false disks in a pattern, as a function of the least significance.

    Its logarithm is a polynomial of first degree in the squared significance, as for maxima of a random field (Adler,
    The Geometry of Random Fields, Wiley 1981).

    Attributes
    ----------
    intercept, slope : float
        Of the logarithm of the rate against the squared significance.

    Examples
    --------
    >>> from py4dstem_prenet.disks import FalseAlarms
    >>> alarms = FalseAlarms(intercept=5.0, slope=-0.5)
    >>> round(float(alarms.rate(alarms.threshold(0.1))), 6)
    0.1
    """

    intercept: float
    slope: float

    def rate(self, significance):
        """Compute the number of false disks in a pattern above a significance.

        Parameters
        ----------
        significance : float or numpy.ndarray
            Standard deviations.

        Returns
        -------
        float or numpy.ndarray
            Mean number of false disks.
        """
        return np.exp(self.intercept + self.slope * np.square(significance))

    def threshold(self, rate: float) -> float:
        """Compute the significance above which a pattern has `rate` false disks on average.

        Parameters
        ----------
        rate : float
            Mean number of false disks in a pattern.

        Returns
        -------
        float
            Standard deviations.
        """
        return float(np.sqrt(max((np.log(rate) - self.intercept) / self.slope, LOWEST_SIGNIFICANCE**2)))


def false_alarms(background: Background, good, readout: float, disks: DiskFilter, center,
                 structure: Structure) -> FalseAlarms:
    """Measure the rate of false disks on simulated noise of a background without any disk.

    Apertures around neighboring pixels share most of their counts, and small counts are not normally distributed, so
    no textbook law gives the largest significance in a pattern.

    Parameters
    ----------
    background : Background
        The background.
    good : torch.Tensor of bool, shape (Qx, Qy)
        Pixels that are used.
    readout : float
        Read-out noise in electrons, rms.
    disks : DiskFilter
        The filter of the aperture.
    center : array_like, shape (2,)
        Position of the direct beam, pixels.
    structure : Structure
        The structure of the background.

    Returns
    -------
    FalseAlarms
        The rate.
    """
    rng = np.random.default_rng(0)
    positions = np.tile(np.asarray(center, float), (SIMULATED_AT_ONCE, 1))
    shape = tuple(good.shape)
    images = background.images(positions[:1], shape)
    rates = np.broadcast_to((images[0].numpy() - readout**2).clip(0), (SIMULATED_AT_ONCE, *shape))
    values = []
    for _ in range(SIMULATED_PATTERNS // SIMULATED_AT_ONCE):
        electrons = noisy_backgrounds(rng, rates, readout, disks, structure.speckle)
        found = find_disks(electrons, images.expand_as(electrons), good, disks, LOWEST_SIGNIFICANCE, positions,
                           structure.relative)
        values.append(found.significance[found.reported(shape)])
    z = np.sort(np.concatenate(values))[::-1]
    rate = (np.arange(len(z)) + 0.5) / SIMULATED_PATTERNS
    tail = (rate > TAIL_RATES[0]) & (rate < TAIL_RATES[1])
    if tail.sum() < 3:  # almost no electrons outside the direct beam
        return FalseAlarms(float(np.log(TAIL_RATES[0]) + 0.5 * LOWEST_SIGNIFICANCE**2), -0.5)
    slope, intercept = np.polyfit(z[tail] ** 2, np.log(rate[tail]), 1, w=rate[tail] ** 0.5)
    return FalseAlarms(float(intercept), float(min(slope, -0.1)))
