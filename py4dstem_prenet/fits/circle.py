"""Fit of a circle to points."""

from __future__ import annotations

import numpy as np


def kasa_circle(points) -> tuple[np.ndarray, float]:
    """Fit a circle to points by linear least squares (Kasa 1976).

    Parameters
    ----------
    points : numpy.ndarray, shape (2, n)
        Points, pixels; at least three.

    Returns
    -------
    center : numpy.ndarray, shape (2,)
        Center of the circle, pixels.
    radius : float
        Its radius, pixels.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.fits import kasa_circle
    >>> center, radius = kasa_circle(np.array([[3.0, 1.0, 3.0, 5.0], [1.0, 3.0, 5.0, 3.0]]))
    >>> center.round(6).tolist(), round(radius, 6)
    ([3.0, 3.0], 2.0)
    """
    design = np.stack([*points, np.ones(points.shape[1])], 1)
    solution = np.linalg.lstsq(design, (points**2).sum(0), rcond=None)[0]
    center = solution[:2] / 2
    return center, float(np.sqrt(max(solution[2] + center @ center, 0.0)))
