"""Robust statistics: Tukey's biweight and the jackknife."""

from __future__ import annotations

import numpy as np

NORMAL_MAD = 0.6745  # median absolute deviation of the standard normal law
TUKEY_CUT = 4.685  # standard deviations; Tukey's biweight is then 95 % efficient for Gaussian noise


def robust_loss(z):
    """Tukey's loss, scaled to mean 1 for standard normal z."""
    return (1 - (1 - np.minimum((z / TUKEY_CUT) ** 2, 1)) ** 3) * (TUKEY_CUT**2 / 6) / 0.4368


def jackknife(parts):
    """The standard deviation of parts[0], from the values with one group left out each."""
    rest = parts[1:]
    return float(np.sqrt((len(rest) - 1) / len(rest) * ((rest - rest.mean()) ** 2).sum()))
