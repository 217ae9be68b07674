"""Errors that many positions of a fitted descan share, so that averaging over positions does not reduce them."""

from __future__ import annotations

import numpy as np

from ..core import NORMAL_MAD, robust_sigma

# Set on 65 multislice scans of 1 to 33 grains, 300 to 30,000 electrons (rms of error / sigma of the fit: 2.4 without
# common errors, 1.3 with them).
UNSEEN_FRACTION = 0.15**2  # fraction of the positions' variance; common part that patterns and residuals do not reveal
# Fraction of the stated variance; smallest true variance of simulated positions. If residuals are smaller, the
# difference is common to all positions.
MIN_TRUE_VARIANCE = 0.5
SURFACE_PARAMETERS = 6  # number of parameters of a parabola
CLIPPED_AT_SIGMAS = 3.0  # robust standard deviations; limit to which residuals are clipped
MIN_CORRELATION_SIGMAS = 2.0  # standard errors; smallest correlation at a distance up to which it is summed


def common_sigma(residuals, sigmas, valid, repeated: float = 0.0) -> float:
    """Estimate the error that all positions of a scan share.

    It has three causes: structure that repeats in all patterns; stated sigmas that exceed the residuals, since an error
    that all positions share leaves no residual; and residuals that are correlated over some distance in the scan.

    Parameters
    ----------
    residuals : array_like, shape (2, Rx, Ry)
        Measured minus fitted origin in pixels.
    sigmas : array_like, shape (2, Rx, Ry)
        Standard errors of the measured origin in pixels.
    valid : numpy.ndarray of bool, shape (Rx, Ry)
        True where a position is used.
    repeated : float, optional
        Fraction of the positions' variance that all of them share, estimated from the patterns, 0 to 1.

    Returns
    -------
    float
        Standard error along one axis in pixels.

    Examples
    --------
    >>> import numpy as np
    >>> noise = np.random.default_rng(0).normal(0, 0.05, (2, 20, 20))
    >>> sigma, valid = np.full_like(noise, 0.05), np.ones((20, 20), bool)
    >>> round(common_sigma(noise, sigma, valid), 4), round(common_sigma(noise, sigma, valid, repeated=1.0), 4)
    (0.0075, 0.05)
    """
    residuals, sigmas = np.asarray(residuals, float), np.asarray(sigmas, float)
    valid = valid & np.isfinite(residuals).all(0) & np.isfinite(sigmas).all(0)
    if not valid.any():
        return 0.0
    stated, scatter = (_clipped_variance(a[:, valid]) for a in (sigmas, residuals))
    fraction = max(UNSEEN_FRACTION, repeated, MIN_TRUE_VARIANCE - scatter / stated if stated > 0 else 0.0)
    patches = min(correlated_area(residuals, valid) * scatter * SURFACE_PARAMETERS / valid.sum(), stated)
    return float(np.sqrt(fraction * stated + patches))


def _clipped_variance(values):
    """Mean square of values after clipping at CLIPPED_AT_SIGMAS robust standard deviations."""
    limit = CLIPPED_AT_SIGMAS * np.median(np.abs(values)) / NORMAL_MAD
    return float(np.mean(np.clip(values, -limit, limit) ** 2))


def correlated_area(residuals, valid) -> float:
    """Measure the number of positions over which residuals are correlated.

    Parameters
    ----------
    residuals : numpy.ndarray, shape (2, Rx, Ry)
        Measured minus fitted origin in pixels.
    valid : numpy.ndarray of bool, shape (Rx, Ry)
        True where a position is used.

    Returns
    -------
    float
        Sum of the autocorrelation over all distances, except 0, up to the one where it is no longer significant; 0 for
        independent residuals.

    Examples
    --------
    >>> import numpy as np
    >>> grains = np.kron(np.random.default_rng(0).normal(size=(2, 8, 8)), np.ones((4, 4)))  # of 4 x 4 positions
    >>> 5 < correlated_area(grains, np.ones((32, 32), bool)) < 25
    True
    """
    values = residuals[:, valid]
    limit = CLIPPED_AT_SIGMAS * robust_sigma(values)
    clipped = np.where(valid, np.clip(np.where(valid, residuals, 0.0), -limit, limit), 0.0)
    size = [2 * n for n in valid.shape]  # padded, so that opposite sides are not compared
    weight = np.rint(np.fft.irfft2(np.abs(np.fft.rfft2(valid.astype(float), size)) ** 2, size))
    product = np.fft.irfft2((np.abs(np.fft.rfft2(clipped, size)) ** 2).sum(0), size) / len(residuals)
    if not product[0, 0] > 0:
        return 0.0
    distance = np.hypot(*np.meshgrid(*(np.minimum(np.arange(n), n - np.arange(n)) for n in size), indexing="ij"))
    ring = np.rint(distance).astype(int).ravel()
    pairs, sums, count = (np.bincount(ring, a.ravel()) for a in (weight, product, np.ones_like(product)))
    area = 0.0
    for r in range(1, max(valid.shape) // 2 + 1):
        correlation = sums[r] / max(pairs[r], 1) / (product[0, 0] / weight[0, 0])
        if correlation < MIN_CORRELATION_SIGMAS / np.sqrt(max(pairs[r], 1)):
            break
        area += correlation * count[r]
    return float(area)
