"""Errors that many positions of a fitted descan share, so that averaging over positions does not reduce them."""

from __future__ import annotations

import numpy as np

from ..core import NORMAL_MAD, robust_sigma
from . import LEAST_SIGMA_PX, POWERS

# Fraction of the stated variance; smallest true variance of simulated positions. If residuals are smaller, the
# difference is common to all positions.
MIN_TRUE_VARIANCE = 0.5
CLIPPED_AT_SIGMAS = 3.0  # robust standard deviations; limit to which residuals are clipped
BLOCKS_PER_SIDE = 12  # blocks; most along a side of the scan in which residuals are averaged, chosen for speed
MIN_BLOCKS = 12  # blocks; fewest from which a correlation is estimated
# Correlation lengths, in longer sides of the scan, and ratios of correlated variance to noise in a block that are
# weighed against one another. On 40 simulated scans, steps half as large change the sigma of the fit by -7 to 2 %.
CORRELATION_LENGTHS = 0.5, 0.25, 0.125
VARIANCE_RATIOS = (0.0, *10.0 ** np.arange(-2, 2.5, 0.5))


def common_sigma(residuals, sigmas, valid, measured: float = 0.0, model: str = "parabola") -> float:
    """Estimate the error that all positions of a scan share.

    It has three causes: structure that is common to all patterns; stated sigmas that exceed the residuals, since an
    error that all positions share leaves no residual; and errors that neighbors share, of which the surface absorbs a
    part.

    Parameters
    ----------
    residuals : array_like, shape (2, Rx, Ry)
        Measured minus fitted origin in pixels.
    sigmas : array_like, shape (2, Rx, Ry)
        Standard errors of the measured origin in pixels.
    valid : numpy.ndarray of bool, shape (Rx, Ry)
        True where a position is used.
    measured : float, optional
        Standard error along one axis that structure causes at all positions alike, measured in the patterns, pixels.
    model : str, optional
        Model of the surface, one of MODELS.

    Returns
    -------
    float
        Standard error along one axis in pixels.

    Examples
    --------
    >>> import numpy as np
    >>> noise = np.random.default_rng(0).normal(0, 0.05, (2, 20, 20))
    >>> sigma, valid = np.full_like(noise, 0.05), np.ones((20, 20), bool)
    >>> round(common_sigma(noise, sigma, valid), 3), round(common_sigma(noise, sigma, valid, measured=0.05), 3)
    (0.002, 0.05)
    """
    residuals, sigmas = np.asarray(residuals, float), np.asarray(sigmas, float)
    valid = valid & np.isfinite(residuals).all(0) & np.isfinite(sigmas).all(0)
    if not valid.any():
        return 0.0
    stated, scatter = (_clipped_variance(a[:, valid]) for a in (sigmas, residuals))
    common = max(measured**2, MIN_TRUE_VARIANCE * stated - scatter)
    return float(np.sqrt(common + shared_variance(residuals, sigmas, valid, model)))


def _clipped_variance(values):
    """Mean square of values after clipping at CLIPPED_AT_SIGMAS robust standard deviations."""
    limit = CLIPPED_AT_SIGMAS * np.median(np.abs(values)) / NORMAL_MAD
    return float(np.mean(np.clip(values, -limit, limit) ** 2))


def shared_variance(residuals, sigmas, valid, model: str = "parabola") -> float:
    """Estimate the variance of a surface due to errors that neighboring positions share.

    Parameters
    ----------
    residuals : numpy.ndarray, shape (2, Rx, Ry)
        Measured minus fitted origin in pixels.
    sigmas : numpy.ndarray, shape (2, Rx, Ry)
        Standard errors of the measured origin in pixels.
    valid : numpy.ndarray of bool, shape (Rx, Ry)
        True where a position is used.
    model : str, optional
        Model of the surface, one of MODELS; a spline is treated as a parabola.

    Returns
    -------
    float
        Mean variance along one axis, square pixels, in excess of that of independent errors.

    Notes
    -----
    The surface absorbs the smooth part of such errors, so that residuals show only the rest. Residuals are averaged in
    blocks. Their covariance is modeled as noise and a part that decreases exponentially with distance, and its
    restricted likelihood takes the absorbed part into account (Patterson and Thompson, Biometrika 58, 545 (1971)). The
    variance is the mean over correlation lengths and ratios of the two parts, weighted by this likelihood. Independent
    errors have a prior probability of 1/2 (Jeffreys, Theory of Probability, 1961, chapter 5), all ratios together the
    rest.

    Examples
    --------
    >>> grains = np.kron(np.random.default_rng(0).normal(0, 0.1, (2, 4, 4)), np.ones((5, 5)))  # of 5 x 5 positions
    >>> sigmas, valid = np.full_like(grains, 0.1), np.ones((20, 20), bool)
    >>> 0.03 < shared_variance(grains, sigmas, valid) ** 0.5 < 0.1
    True
    """
    means, noise, at = _block_means(residuals, sigmas, valid)
    terms = _terms(at, valid.shape, model)
    freedom = len(means) * (len(at) - terms.shape[1])
    if len(at) < MIN_BLOCKS or freedom < 1:
        return 0.0
    smoother = terms @ np.linalg.solve((terms.T / noise) @ terms, terms.T / noise)
    independent = (smoother**2 @ noise).mean()
    distance = np.hypot(*(at[:, None] - at).transpose(2, 0, 1))
    root = np.sqrt(noise)
    logs, variances = [], []
    ratio_prior = -np.log(len(VARIANCE_RATIOS) - 1)  # logarithm, relative to that of independent errors
    for length in np.array(CORRELATION_LENGTHS) * max(valid.shape):
        correlation = np.exp(-distance / length)
        correlated = np.einsum("ij,jk,ik->i", smoother, correlation, smoother).mean()
        values, vectors = np.linalg.eigh(correlation / np.outer(root, root))
        y, x = vectors.T @ (means / root).T, vectors.T @ (terms / root[:, None])
        unit = values.mean()
        for ratio in VARIANCE_RATIOS:
            variance = (1 + ratio * values / unit)[:, None]
            gram = (x / variance).T @ x
            rest = y - x @ np.linalg.solve(gram, (x / variance).T @ y)
            scale = (rest**2 / variance).sum() / freedom  # of the noise
            logs.append(-0.5 * (len(means) * (np.log(variance).sum() + np.linalg.slogdet(gram)[1])
                                + freedom * np.log(max(scale, 1e-300))) + ratio_prior * (ratio > 0))
            variances.append(max(scale * (ratio / unit * correlated + independent) - independent, 0.0))
    weights = np.exp(np.array(logs) - max(logs))
    return float(weights @ variances / weights.sum())


def _block_means(residuals, sigmas, valid):
    """Means (2, n) of clipped residuals in blocks, their variances (n,) if errors are independent, and centers (n, 2).

    The variance of a position is that stated, or that of the residuals if it is larger.
    """
    rows, columns = (np.arange(n) * min(n, BLOCKS_PER_SIDE) // n for n in valid.shape)
    block = (rows[:, None] * (columns[-1] + 1) + columns)[valid]
    count = np.bincount(block)
    used = count > 0

    def _mean(values):
        return np.bincount(block, values, len(count))[used] / count[used]

    limits = [CLIPPED_AT_SIGMAS * robust_sigma(values[valid]) for values in residuals]
    clipped = [np.clip(values[valid], -limit, limit) for values, limit in zip(residuals, limits, strict=True)]
    stated = [np.maximum(sigma[valid], LEAST_SIGMA_PX) ** 2 for sigma in sigmas]
    excess = max(1.0, np.mean(np.square(clipped)) / np.mean(stated))
    means = np.array([_mean(values) for values in clipped])
    noise = excess * np.mean([_mean(values) for values in stated], 0) / count[used]
    return means, noise, np.stack([_mean(at[valid]) for at in np.indices(valid.shape)], 1)


def _terms(at, shape, model):
    """Orthonormal terms (n, k) of a polynomial surface at scan positions `at` (n, 2), without dependent ones."""
    u, v = (2 * x / max(n - 1, 1) - 1 for x, n in zip(at.T, shape, strict=True))
    powers = POWERS["parabola" if model == "spline" else model]
    left, singular, _ = np.linalg.svd(np.stack([u**a * v**b for a, b in powers], 1), full_matrices=False)
    return left[:, singular > 1e-6 * singular[0]]


def specimen_sigma(surfaces, sigmas, valid) -> float:
    """Measure the error of a fitted surface that follows the specimen instead of the descan.

    The descan is a smooth deflection by the scan coils, plus any function of the scan row (drift) and of the scan
    column (flyback), plus an oscillation in time (mains). What the specimen does to the position of the disk depends on
    row and column together.

    Parameters
    ----------
    surfaces : array_like, shape (2, Rx, Ry)
        Fitted origin in pixels.
    sigmas : array_like, shape (2, Rx, Ry)
        Standard errors of the fitted origin in pixels.
    valid : numpy.ndarray of bool, shape (Rx, Ry)
        True where a position was measured.

    Returns
    -------
    float
        Rms along one axis, in pixels, of what remains of the surface after the best function of the row, function of
        the column, cubic polynomial and oscillation in time are removed, in excess of the standard errors. If it is
        larger than these, the surface follows the specimen: the rms of all of the surface beyond a parabola.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.descan import specimen_sigma
    >>> rows, columns = np.indices((12, 12)) / 11
    >>> descan = np.stack([np.exp(-5 * columns) + np.sin(9 * rows), rows**2 * columns])
    >>> wave = np.sin(9 * rows) * np.sin(9 * columns)
    >>> sigmas, valid = np.full(descan.shape, 0.01), np.ones((12, 12), bool)
    >>> specimen_sigma(descan, sigmas, valid), round(specimen_sigma(descan + wave, sigmas, valid), 1)
    (0.0, 0.7)
    """
    box = np.ix_(valid.any(1), valid.any(0))
    inside = valid[box]
    u, v = (np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in inside.shape)
    cubic = [np.outer(u**a, v**b) for a, b in ((1, 1), (2, 1), (1, 2))]
    rests = [_without(_without_lines(np.asarray(surface, float)[box]), cubic) for surface in surfaces]
    # The strongest frequency of both coordinates, frame by frame.
    frequencies = np.fft.rfftfreq(4 * inside.size)
    power = sum(np.abs(np.fft.rfft(rest.ravel(), 4 * inside.size)) ** 2 for rest in rests)
    phase = 2 * np.pi * frequencies[power.argmax()] * np.arange(inside.size).reshape(inside.shape)
    rests = [_without(rest, [*cubic, np.cos(phase), np.sin(phase)]) for rest in rests]
    noise = np.mean([np.mean(np.asarray(sigma, float)[box][inside] ** 2) for sigma in sigmas])
    variance = max(np.mean(np.square(rests)[:, inside]) - noise, 0.0)
    if variance > noise:
        terms = _terms(np.argwhere(inside), inside.shape, "parabola")
        values = np.array([np.asarray(surface, float)[box][inside] for surface in surfaces]).T
        variance = np.mean((values - terms @ (terms.T @ values)) ** 2)
    return float(np.sqrt(variance))


def _without(surface, terms):
    """Surface without the best combination of terms, apart from functions of the row and of the column."""
    left, singular, _ = np.linalg.svd(np.stack([_without_lines(term).ravel() for term in terms], 1),
                                      full_matrices=False)
    left = left[:, singular > 1e-6]
    return surface - (left @ (left.T @ surface.ravel())).reshape(surface.shape)


def _without_lines(surface):
    """Surface without the best sum of a function of the row and a function of the column."""
    return surface - surface.mean(0) - surface.mean(1, keepdims=True) + surface.mean()
