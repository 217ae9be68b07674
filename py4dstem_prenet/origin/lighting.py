"""Frames without a beam that are unevenly lit: a flat field with lens shading, or a glow beside the frame.

Such a frame is a smooth hill or slope. Its maximum looks like the center of diffuse scattering. A diffraction pattern
also has disks, spots, rings, the shadow of a stop, or at least the cusp of the diffuse scattering at the beam. A
polynomial describes the hill, and leaves a large part of the variance of a pattern.

Variances without noise are covariances between two halves of the pixels, those with an even and with an odd sum of row
and column. They need no noise model.
"""

from __future__ import annotations

import numpy as np

from ..core import NORMAL_MAD, binned_sum

LIGHTING_SIDE = 64  # bins; longer side of the binned frame
LIGHTING_DEGREE = 6  # degree of the polynomial in both coordinates together
# Fraction of the variance without noise; largest that a polynomial leaves of a frame that is only unevenly lit: 0.019
# or less in 59 of 60 simulated hills and slopes with dust, column gains, and contrast stretched to 8 bits (the other
# has 0.023); 0.030 or more in 87 pictures of a simulation that is not part of the project (one with logarithmic
# contrast; the next has 0.042), and 0.12 or more in the real patterns of benchmarks/real.csv.
MAX_UNEXPLAINED = 0.025
LIGHTING_SIGMAS = 2.0  # standard errors by which the fraction must lie below this limit
# Standard deviations; largest bright deviation from the polynomial in a bin, since a beam as small as a bin has little
# variance: 13 or less in the same hills, 26 or more in the two pictures of beams with little variance.
MAX_LIGHTING_PEAK = 18.0
MIN_HALF_GOOD = 0.5  # fraction of the pixels of each half of a bin; fewest good ones in a bin that is used
MIN_LIGHTING_BINS = 200  # bins; fewest that are fitted, several times the number of terms of the polynomial


def is_smoothly_lit(total, good) -> bool:
    """Determine whether a frame is only unevenly lit, and shows no part of a diffraction pattern.

    Parameters
    ----------
    total : numpy.ndarray, shape (Qx, Qy)
        Sum of patterns; any unit, any offset.
    good : numpy.ndarray of bool, shape (Qx, Qy)
        True where a pixel is good.

    Returns
    -------
    bool
        True if a polynomial describes the frame within a small fraction of its variance. False if noise hides that, and
        for frames of LIGHTING_SIDE pixels or fewer, which are not tested.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.origin import is_smoothly_lit
    >>> x, y = np.indices((128, 128)) - 60
    >>> hill, good = 200 * np.exp(-(x**2 + y**2) / 9000), np.ones((128, 128), bool)
    >>> rng = np.random.default_rng(0)
    >>> is_smoothly_lit(rng.poisson(hill), good), is_smoothly_lit(rng.poisson(hill + 500 * (np.hypot(x, y) < 6)), good)
    (True, False)
    """
    step = -(-max(total.shape) // LIGHTING_SIDE)
    if step < 2:
        return False
    odd = np.indices(total.shape).sum(0) % 2
    halves = [good & (odd == k) for k in (0, 1)]
    counts = [binned_sum(half.astype(np.float32), step) for half in halves]
    used = np.minimum(*counts) >= MIN_HALF_GOOD * (step**2 // 2)
    if used.sum() < MIN_LIGHTING_BINS:
        return False
    levels = [binned_sum(np.where(half, total, 0.0), step)[used] / count[used]
              for half, count in zip(halves, counts, strict=True)]
    x, y = (axis[used] for axis in np.meshgrid(*(np.linspace(-1, 1, n) for n in used.shape), indexing="ij"))
    terms = [x**i * y**j for i in range(LIGHTING_DEGREE + 1) for j in range(LIGHTING_DEGREE + 1 - i)]
    basis = np.linalg.qr(np.stack(terms, 1))[0]
    residuals = [level - basis @ (basis.T @ level) for level in levels]
    error = float(np.sqrt(np.mean(residuals[0] ** 2) * np.mean(residuals[1] ** 2) / len(x)))
    unexplained = float(np.mean(residuals[0] * residuals[1]))
    variance = float(np.cov(*levels)[0, 1])
    rest = (residuals[0] + residuals[1]) / 2
    peak = rest.max() > MAX_LIGHTING_PEAK * np.median(np.abs(rest)) / NORMAL_MAD
    return not peak and unexplained + LIGHTING_SIGMAS * error < MAX_UNEXPLAINED * variance
