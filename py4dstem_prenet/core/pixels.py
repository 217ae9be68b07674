"""Pixel arithmetic that several packages share: binning by sums, smoothing, and the kernel of cubic convolution."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter


def binned_sum(image, step: int):
    """Bin an image by summing square blocks of pixels.

    Parameters
    ----------
    image : numpy.ndarray, shape (Qx, Qy)
        The image. Rows and columns that do not fill a block are left out.
    step : int
        Side of a block in pixels.

    Returns
    -------
    numpy.ndarray, shape (Qx // step, Qy // step)
        The sums.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.core import binned_sum
    >>> binned_sum(np.ones((5, 4)), 2).tolist()
    [[4.0, 4.0], [4.0, 4.0]]
    """
    rows, columns = (n // step for n in image.shape)
    return image[: rows * step, : columns * step].reshape(rows, step, columns, step).sum((1, 3))


def masked_smooth(image, good, sigma: float):
    """Smooth an image by a Gaussian filter that leaves bad pixels out.

    Parameters
    ----------
    image : numpy.ndarray, shape (Qx, Qy)
        The image.
    good : numpy.ndarray of bool, shape (Qx, Qy)
        True where a pixel is used.
    sigma : float
        Standard deviation of the filter in pixels.

    Returns
    -------
    numpy.ndarray, shape (Qx, Qy)
        Weighted means of the good pixels.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.core import masked_smooth
    >>> image, good = np.full((9, 9), 2.0), np.ones((9, 9), bool)
    >>> image[4, 4], good[4, 4] = 1e6, False
    >>> bool(np.allclose(masked_smooth(image, good, 1.0), 2.0))
    True
    """
    weight = np.maximum(gaussian_filter(good.astype(float), sigma), 1e-3)  # by which a sum is divided
    return gaussian_filter(np.where(good, image, 0.0), sigma) / weight


def cubic_kernel(distance):
    """Evaluate the kernel of cubic convolution for distances up to two pixels.

    Parameters
    ----------
    distance : array_like
        Absolute distances in pixels, 0 to 2.

    Returns
    -------
    numpy.ndarray
        Weights of samples at these distances.

    Notes
    -----
    The kernel with a = -1/2 of Keys, IEEE Trans. Acoust. Speech Signal Process. 29, 1153 (1981).

    Examples
    --------
    >>> from py4dstem_prenet.core import cubic_kernel
    >>> import numpy as np
    >>> cubic_kernel(np.array([0.0, 0.5, 1.0, 1.5])).tolist()
    [1.0, 0.5625, 0.0, -0.0625]
    """
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    return np.where(distance <= 1, near, far)
