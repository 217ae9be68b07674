"""Fraction of the variation of a quantity that an estimate keeps, from two halves of the counts, without the truth.

A quantity is measured on an estimate made of half A, on raw half A and on raw half B of the counts. The noise of B is
independent of A, so the covariance of either value from A with that from B is an unbiased estimate of the covariance
with the truth. Their ratio is the slope of the estimate on the truth: 1 if all of the variation is kept, less if it is
attenuated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

KEPT, ATTENUATED, EXAGGERATED, UNKNOWN = "kept", "attenuated", "exaggerated", "unknown"
SLOPE_TOLERANCE = 0.05  # slope; largest tolerated deviation from 1, and largest standard error of a slope that is kept
KEPT_SIGMAS = 2.0  # standard errors; largest deviation from 1 of a slope that is kept, if more than SLOPE_TOLERANCE
# Standard errors; smallest deviation beyond SLOPE_TOLERANCE of an attenuated or exaggerated slope: a false alarm in at
# most 0.14 % of slopes, 1.4 % of sets of ten.
ALARM_SIGMAS = 3.0
MIN_VARIATION_SIGMAS = 4.0  # standard errors; smallest variance of the truth for which a slope is measurable
MIN_SLOPE_POSITIONS = 16  # positions; smallest number that determines a standard error


@dataclass(frozen=True)
class Slope:
    """Slope of a quantity that was measured on an estimate, on its true values over a scan.

    Attributes
    ----------
    value, sigma : float
        The slope and its standard error; NaN if the quantity does not vary measurably.
    variation : float
        RMS of the true variation in units of the noise of a raw pattern at half the dose.
    status : str
        "kept", "attenuated", "exaggerated" or "unknown".
    more : float
        Factor on the number of scan positions with which an unknown status would be decided, extrapolated; infinite if
        no variation of the quantity was found.
    least : float
        The same if the variation of a quantity that is not measurable is larger than found, by two standard errors.
    """

    value: float
    sigma: float
    variation: float
    status: str
    more: float = np.inf
    least: float = np.inf

    def __str__(self):
        digits = 3 if self.sigma < 0.01 else 2
        return f"{self.value:.{digits}f} ± {self.sigma:.{digits}f}" if np.isfinite(self.value) else "not measurable"


def slope_of_halves(estimate, first, second, variance) -> Slope:
    """Measure the slope of an estimate on the truth.

    Parameters
    ----------
    estimate : numpy.ndarray, shape (n,)
        Values from an estimate made of half A; the mean is zero.
    first, second : numpy.ndarray, shape (n,)
        Values from raw halves A and B, with independent noise; the means are zero.
    variance : numpy.ndarray, shape (n,)
        Variance of the noise of a raw value.

    Returns
    -------
    Slope
        The slope and its status.

    Notes
    -----
    slope = sum(E B) / sum(A B). Its error is sum(R B) / sum(A B) with R = E - slope A. The terms R B are taken to
    be independent; for estimates that average neighbors this overstates sigma, since the sum of R T over neighbors with
    equal truth T cancels. Given A, B alone is random: that variance, sum(R**2 variance), is a lower bound.

    The ratio is meaningful if sum(A B), n times the variance of the truth, is significant (`MIN_VARIATION_SIGMAS`).
    Statuses: attenuated or exaggerated if the slope deviates by more than `SLOPE_TOLERANCE` + `ALARM_SIGMAS` sigma;
    kept if sigma is at most `SLOPE_TOLERANCE` and the slope deviates by no more than that or `KEPT_SIGMAS` sigma. For
    the alarm, sigma is that of sum((E - c A) B) at the limit c (Fieller 1954): where the denominator is high by
    chance, slope and sigma are both too low.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.core import slope_of_halves
    >>> rng = np.random.default_rng(0)
    >>> truth = 3 * np.sin(np.arange(400) / 20)
    >>> first, second = truth + rng.normal(size=(2, 400))
    >>> slope_of_halves(0.7 * truth, first, second, np.ones(400)).status
    'attenuated'
    """
    estimate, first, second, variance = (np.asarray(v, float) for v in (estimate, first, second, variance))
    count = len(first)
    covariance = float((first * second).sum())
    variation = float(np.sqrt(max(covariance, 0.0) / max(variance.sum(), 1e-300)))
    covariance_sigma = np.sqrt(2 * max(covariance, 0.0) * variance.sum() / max(count, 1) + (variance**2).sum())
    if count < MIN_SLOPE_POSITIONS or not covariance > MIN_VARIATION_SIGMAS * covariance_sigma:
        more, least = ((MIN_VARIATION_SIGMAS * covariance_sigma / part) ** 2 if part > 0 else np.inf
                       for part in (covariance, covariance + KEPT_SIGMAS * covariance_sigma))
        return Slope(np.nan, np.nan, variation, UNKNOWN, more, least)
    value = float((estimate * second).sum() / covariance)
    residual = estimate - value * first
    sigma = float(np.sqrt(max(((residual * second) ** 2).sum(), (residual**2 * variance).sum())) / covariance)
    deviation = abs(value - 1)
    excess = deviation - SLOPE_TOLERANCE
    if excess > ALARM_SIGMAS * (sigma + excess * covariance_sigma / covariance):
        status = ATTENUATED if value < 1 else EXAGGERATED
    elif sigma <= SLOPE_TOLERANCE and deviation <= max(SLOPE_TOLERANCE, KEPT_SIGMAS * sigma):
        status = KEPT
    else:
        status = UNKNOWN
    decisive = SLOPE_TOLERANCE if excess <= 0 else excess / ALARM_SIGMAS  # sigma that decides
    return Slope(value, sigma, variation, status, (sigma / decisive) ** 2)
