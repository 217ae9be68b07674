"""Robust statistics, and the test of whether residuals are white noise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

NORMAL_MAD = 0.6745  # standard deviations; median absolute deviation (MAD) of the normal distribution
MEDIAN_ERROR = 1.2533  # ratio of the standard error of a median to that of a mean, normal distribution
TUKEY_CUT = 4.685  # standard deviations; Tukey's biweight is then 95 % efficient for normal noise (Beaton, Tukey 1974)
TUKEY_MEAN_LOSS = 0.4368  # units of TUKEY_CUT**2 / 6; mean of Tukey's loss of standard normal values
STUDENT_DOF = 4.0  # degrees of freedom of Student's t distribution of errors that include outliers
# Standard errors; smallest correlation of neighbors: 1 in 10,000 maps of white noise is above, 1 in 800 of 8 x 8.
MIN_CORRELATION_Z = 3.72
CORRELATION_LAGS = 1, 2  # scan positions; distances at which residuals are compared: no period has both products near 0
# The pairs at these distances in maps (k, Rx, Ry): down the scan and along its rows, for each distance.
NEIGHBORS = tuple(pair for step in CORRELATION_LAGS for pair in (
    (np.s_[:, step:], np.s_[:, :-step]), (np.s_[:, :, step:], np.s_[:, :, :-step])))
MIN_SCALE = 1e-6  # stated sigmas (without them pixels); smallest scatter that is not a rounding error of a computed map
MIN_PAIRS = 60  # pairs; smallest number of neighboring residuals whose sum of products is close to normal
MAX_SCALE = 1.25  # ratio; largest of scatter over stated sigma for calibrated sigmas (tests require 0.8 to 1.25)
SCALE_Z = 3.09  # standard errors; smallest excess of the scale over MAX_SCALE: a false alarm in one of 1,000 maps
MIN_FREEDOM = 0.3  # fraction of the positions; least that a fit leaves: a spline has at most 121 parameters
PHASE_HARMONICS = 2  # number; highest harmonic, along each axis, of the position within a pixel in its error
# Pixels; smallest range of the origin along an axis of which the position within a pixel is regarded: with a smaller
# one, its harmonics vary as slowly over the scan as the deflection by a specimen.
MIN_PHASE_RANGE_PX = 2.0
MIN_PHASE_VALUE = 0.1  # ratio to the largest; smallest singular value of a combination of harmonics that is fitted
MAD_ERROR = 1.17  # relative; standard error of a MAD scale of n normal values, times sqrt(n)


def robust_sigma(values) -> float:
    """Estimate the standard deviation of values about zero by their median absolute value.

    Parameters
    ----------
    values : array_like
        Values of any shape; those that are not finite are left out.

    Returns
    -------
    float
        Standard deviation of the normal distribution with this median; NaN without values.

    Examples
    --------
    >>> round(robust_sigma([-1.0, 1.0, 1.0, 100.0]), 3)
    1.483
    """
    values = np.abs(np.asarray(values, float))
    values = values[np.isfinite(values)]
    return float(np.median(values) / NORMAL_MAD) if values.size else np.nan


def robust_loss(z) -> np.ndarray:
    """Compute Tukey's loss, scaled to mean 1 for standard normal values.

    Parameters
    ----------
    z : array_like
        Residuals in standard deviations.

    Returns
    -------
    numpy.ndarray
        Loss of each.
    """
    return (1 - (1 - np.minimum((z / TUKEY_CUT) ** 2, 1)) ** 3) * (TUKEY_CUT**2 / 6) / TUKEY_MEAN_LOSS


def quick_median(values) -> float:
    """Compute the median of finite values, several times faster than `numpy.median` for some hundred values.

    Parameters
    ----------
    values : numpy.ndarray, shape (n,)
        At least one value.

    Returns
    -------
    float
        The median.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.core import quick_median
    >>> quick_median(np.array([1.0, 7.0, 2.0, 4.0]))
    3.0
    """
    low, high = (values.size - 1) // 2, values.size // 2
    ordered = np.partition(values, (low, high))
    return float(ordered[low] + ordered[high]) / 2


def masked_median(values, use, empty=np.nan) -> np.ndarray:
    """Compute the median of the used values along the last axis.

    Parameters
    ----------
    values : array_like, shape (..., n)
        Values.
    use : array_like of bool, shape (..., n)
        True where a value is used.
    empty : float, optional
        Result where no value is used.

    Returns
    -------
    numpy.ndarray, shape (...)
        The medians.

    Examples
    --------
    >>> from py4dstem_prenet.core import masked_median
    >>> masked_median([[1.0, 7.0, 3.0], [1.0, 2.0, 9.0]], [[True, True, True], [True, True, False]]).tolist()
    [3.0, 1.5]
    """
    use = np.asarray(use, bool)
    ordered = np.sort(np.where(use, values, np.inf), axis=-1)
    count = np.maximum(use.sum(-1), 1)
    low, high = (np.take_along_axis(ordered, index[..., None], -1)[..., 0] for index in ((count - 1) // 2, count // 2))
    return np.where(use.any(-1), (low + high) / 2, empty)


def jackknife(parts) -> float:
    """Estimate a standard deviation by the jackknife.

    Parameters
    ----------
    parts : numpy.ndarray
        (1 + n,), an estimate from all data, then from the data with one of n groups left out each.

    Returns
    -------
    float
        Standard deviation of the estimate from all data.
    """
    left_out = parts[1:]
    return float(np.sqrt((len(left_out) - 1) / len(left_out) * ((left_out - left_out.mean()) ** 2).sum()))


def jackknife_covariance(estimates):
    """Compute the jackknife covariance of an estimate.

    Parameters
    ----------
    estimates : numpy.ndarray, shape (groups, k)
        Estimates of k quantities with one group left out each.

    Returns
    -------
    numpy.ndarray, shape (k, k)
        Covariance of the estimate from all groups.

    Notes
    -----
    Tukey's jackknife (Efron, The Jackknife, the Bootstrap and Other Resampling Plans, SIAM 1982).

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.core import jackknife_covariance
    >>> values = np.array([[1.0], [2.0], [4.0], [5.0]])
    >>> without_one = (values.sum(0) - values) / 3
    >>> round(float(jackknife_covariance(without_one)[0, 0]), 3)  # the variance of a mean, s**2 / n
    0.833
    """
    spread = estimates - estimates.mean(0)
    return (len(spread) - 1) / len(spread) * spread.T @ spread


@dataclass(frozen=True)
class ResidualTest:
    """Result of the test of whether residuals of origin maps are noise.

    Attributes
    ----------
    count : int
        Positions that were tested.
    scatter : float
        Robust standard deviation of the residuals along one axis, pixels.
    scale : float
        Scatter over stated sigma; NaN if no sigma is stated.
    shared : float
        RMS of the common part of neighboring residuals, pixels; 0 if there is none.
    shared_sigmas : float
        The test statistic of the correlation; standard normal for white noise.
    outliers : float
        Fraction of the positions that lie beyond Tukey's cut.
    correlated : bool
        Whether the residuals are spatially correlated (false alarms: 1 in 10,000).
    oscillating : bool
        Whether neighbors along an axis are anticorrelated (false alarms: 4 in 10,000). Specimens that deflect the beam
        give positive correlations only.
    large : bool
        Whether the residuals scatter more than the stated sigma allows (false alarms: 1 in 1,000).
    testable : bool
        Whether there are enough positions for the test of correlation.
    phase : float
        RMS of the part of the residuals that depends on where the beam lies within a pixel, pixels; 0 if it does not
        explain why they oscillate. The other attributes are then those of the remaining residuals.
    """

    count: int
    scatter: float
    scale: float
    shared: float
    shared_sigmas: float
    outliers: float
    correlated: bool
    oscillating: bool
    large: bool
    testable: bool
    phase: float = 0.0


def check_residuals(residuals, sigmas, valid, sigma_known: bool = True, positions=None,
                    taken=None) -> ResidualTest:
    """Test whether residuals of the origin are white noise of the stated size.

    The statistic for correlation is the portmanteau of Box and Pierce (1970): the sum of the squares of four
    correlations, those of neighbors and of second neighbors along rows and along columns, each in standard errors for
    independent residuals. It is transformed to a standard normal value (Wilson and Hilferty 1931). Correlations along
    rows and columns do not cancel, as they may if the beam oscillates while it is scanned. Residuals of a fit to white
    noise are smaller than the noise, and negatively correlated by the covariance of the fitted values; both are
    corrected. Residuals beyond Tukey's cut are left out: wrong disks often lie to one side, and would pass for a common
    offset. The size of the correlated part is measured with all residuals, clipped to that cut.

    Parameters
    ----------
    residuals : array_like
        (k, Rx, Ry), measured minus fitted origin, pixels.
    sigmas : array_like
        (k, Rx, Ry), stated standard deviations, pixels; ignored if they are not known.
    valid : array_like of bool
        (Rx, Ry), positions to test.
    sigma_known : bool
        Whether `sigmas` are known.
    positions : array_like, optional
        (k, Rx, Ry), fitted origin, pixels; to tell a beam that oscillates from errors that depend on where it lies
        within a pixel.
    taken : array_like, optional
        (1 + pairs,), sums of the covariance of fitted values, in units of the noise of a position: of each position
        with itself (the number of parameters), then of each kind of pair in NEIGHBORS. By default, nothing was fitted.

    Returns
    -------
    ResidualTest
        The statistics and the two decisions.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(0, 0.05, (2, 20, 20))
    >>> found = check_residuals(noise, np.full_like(noise, 0.05), np.ones((20, 20), bool))
    >>> found.correlated, found.large
    (False, False)
    """
    residuals, valid = np.asarray(residuals, float), np.asarray(valid, bool)
    valid = valid & np.isfinite(residuals).all(0)
    scatter = robust_sigma(residuals[:, valid])
    each = np.asarray(sigmas, float) if sigma_known else np.ones_like(residuals)
    with np.errstate(divide="ignore", invalid="ignore"):  # a stated sigma of zero: not finite, and left out
        ratio = robust_sigma((residuals / each)[:, valid])
    if not ratio > 0:  # nothing to test, or no residual at all
        return ResidualTest(int(valid.sum()), scatter, ratio if sigma_known else np.nan, 0.0, 0.0, 0.0, False, False,
                            False, False)
    noise = max(ratio, MIN_SCALE) * each
    near = valid & (np.abs(residuals) <= TUKEY_CUT * noise)  # (k, Rx, Ry)
    outliers = float((valid & ~near.all(0)).sum() / max(valid.sum(), 1))
    clipped = np.clip(np.where(valid, residuals, 0.0), -TUKEY_CUT * noise, TUKEY_CUT * noise)
    pairs, correlations, common = 0, [], 0.0
    parameters, *taken_by_fit = np.zeros(1 + len(NEIGHBORS)) if taken is None else taken
    freedom = max(1 - parameters / near.sum(), MIN_FREEDOM)
    for (a, b), by_fit in zip(NEIGHBORS, taken_by_fit, strict=True):
        pair_used = near[a] & near[b]
        variance = ((noise[a] * noise[b])[pair_used] ** 2).sum()
        if not variance > 0:
            continue
        pairs += int(pair_used.sum()) if (a, b) in NEIGHBORS[:2] else 0
        products = freedom * (residuals[a] * residuals[b])[pair_used].sum() / np.sqrt(variance)
        correlations.append(products + by_fit / np.sqrt(pair_used.sum()))
        compared = len(residuals) * int((valid[a[1:]] & valid[b[1:]]).sum())
        common = max(common, abs(np.nansum(clipped[a] * clipped[b])) / compared)
    testable = pairs >= MIN_PAIRS
    z = _standard_normal(np.square(correlations).sum(), len(correlations))
    shared = float(np.sqrt(common))
    correlated = testable and z > MIN_CORRELATION_Z
    oscillating = correlated and min(correlations) < -MIN_CORRELATION_Z
    if correlated and positions is not None:
        part, taken_too = _phase_part(residuals, noise, near.all(0), np.asarray(positions, float))
        if part.any():
            taken_too += 0 if taken is None else np.asarray(taken)
            rest = check_residuals(residuals - part, sigmas, valid, sigma_known, None, taken_too)
            if not rest.correlated:
                return replace(rest, phase=float(np.sqrt(np.mean(part[:, valid] ** 2))))
    error = MAD_ERROR / np.sqrt(len(residuals) * max(int(valid.sum()), 1))
    large = sigma_known and ratio * (1 - SCALE_Z * error) > MAX_SCALE
    return ResidualTest(int(valid.sum()), scatter, ratio if sigma_known else np.nan, shared, z, outliers,
                        bool(correlated), bool(oscillating), bool(large), testable)


def _phase_part(residuals, noise, used, positions):
    """Part (k, Rx, Ry) of residuals that is periodic in the pixels, by least squares, and what that fit takes.

    The part is 0 if it is not significant. Of white noise, the squares that the fit explains are distributed as chi
    square. The second result is that of `taken` in `check_residuals`.
    """
    highest = [PHASE_HARMONICS * int(np.ptp(q[used]) >= MIN_PHASE_RANGE_PX) for q in positions]
    orders = np.array([order for order in np.ndindex(*(2 * h + 1 for h in highest))]) - highest
    orders = orders[len(orders) // 2 + 1 :]  # the others are their negatives
    angles = 2 * np.pi * np.tensordot(orders, positions, 1)
    waves = np.concatenate([np.cos(angles), np.sin(angles)])
    waves -= waves[:, used].mean(1)[:, None, None]
    part, explained, degrees, taken = np.zeros_like(residuals), 0.0, 0, np.zeros(1 + len(NEIGHBORS))
    for k, (residual, sigma) in enumerate(zip(residuals, noise, strict=True)):
        left, values, _ = np.linalg.svd((waves[:, used] / sigma[used]).T, full_matrices=False)
        left = left[:, values > MIN_PHASE_VALUE * values.max(initial=0.0)]
        fitted = np.zeros((left.shape[1], *used.shape))
        fitted[:, used] = left.T
        amounts = left.T @ (residual[used] / sigma[used])
        part[k] = np.where(used, sigma, 0.0) * np.tensordot(amounts, fitted, 1)  # 0 where sigma is infinite
        explained += float((amounts**2).sum())
        degrees += len(amounts)
        taken[0] += len(amounts)
        taken[1:] += [float((fitted[a] * fitted[b]).sum()) for a, b in NEIGHBORS]
    return (part, taken) if _standard_normal(explained, degrees) > MIN_CORRELATION_Z else (np.zeros_like(part), taken)


def _standard_normal(chi_square, degrees):
    """Transform a chi square to a value that is standard normal (Wilson and Hilferty 1931); 0 without any degree."""
    if not degrees:
        return 0.0
    variance = 2 / (9 * degrees)
    return float(((chi_square / degrees) ** (1 / 3) - (1 - variance)) / np.sqrt(variance))
