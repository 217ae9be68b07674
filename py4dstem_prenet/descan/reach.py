"""Extrapolation of a descan surface from the part of a scan in which the beam was measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..core import Flag
from . import MIN_SEGMENT_ROWS

MAX_BOX_FRACTION = 0.8  # fraction of the positions; with more of them measured, no extrapolation is needed
MIN_LINE_FILLING = 0.1  # fraction of the positions of the fullest row or column; lines with fewer are left out


def measured_box(use):
    """Find the rectangle of the scan that contains the used positions.

    Parameters
    ----------
    use : numpy.ndarray of bool, shape (Rx, Ry)
        True where a position is used.

    Returns
    -------
    tuple of slice or None
        Rows and columns; None if the rectangle is most of the scan, or too thin for an extrapolation.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.descan.reach import measured_box
    >>> use = np.zeros((12, 12), bool)
    >>> use[2:8, 3:9] = True
    >>> measured_box(use)
    (slice(2, 8, None), slice(3, 9, None))
    """
    if not use.any():
        return None
    lines = [np.flatnonzero(n > MIN_LINE_FILLING * n.max()) for n in (use.sum(1), use.sum(0))]
    box = tuple(slice(int(at[0]), int(at[-1]) + 1) for at in lines)
    inside = use[box]
    strip = any(n < min(MIN_SEGMENT_ROWS, whole) for n, whole in zip(inside.shape, use.shape, strict=True))
    return None if strip or inside.size > MAX_BOX_FRACTION * use.size else box


def extend_surface(inner, outer, box):
    """Extend a surface fitted in a rectangle of the scan by a less flexible surface fitted to the same positions.

    Parameters
    ----------
    inner : SurfaceFit
        Fit in the rectangle.
    outer : SurfaceFit
        Fit of a less flexible model on the whole scan.
    box : tuple of slice
        Rows and columns of the rectangle.

    Returns
    -------
    SurfaceFit
        Inside the rectangle, `inner`. Outside it, `outer` plus the difference of the two fits at the nearest position
        of the rectangle, with the extrapolation error of a parabola as uncertainty. The curvature of `inner` is not
        extrapolated, since it would diverge.
    """
    difference = inner.values - outer.values[box]
    at = [np.arange(n) for n in outer.values.shape]
    nearest = [np.clip(a, part.start, part.stop - 1) for a, part in zip(at, box, strict=True)]
    values = outer.values + difference[np.ix_(*(n - part.start for n, part in zip(nearest, box, strict=True)))]
    rows, columns = (np.abs(a - n) / (part.stop - part.start) for a, n, part in zip(at, nearest, box, strict=True))
    distance = rows[:, None] + columns
    # The rms difference of a parabola from its best line over a length is 1 / (6 sqrt 5) of the difference that it
    # accumulates over the next length.
    sigma = np.hypot(outer.sigma, np.sqrt((difference**2).mean()) * (1 + 6 * 5**0.5 * distance * (1 + distance)))
    sigma[box] = inner.sigma
    outside = np.ones(sigma.shape, bool)
    outside[box] = False
    flag = Flag("extrapolated", {"sigma": float(np.sqrt((sigma[outside] ** 2).mean())),
                                 "first_row": box[0].start, "last_row": box[0].stop - 1,
                                 "first_column": box[1].start, "last_column": box[1].stop - 1, "model": outer.model})
    decision = replace(inner.decision, flags=(*inner.decision.flags, flag))
    residual = outer.residual + outer.values - values
    return replace(inner, values=values, sigma=sigma, residual=residual, decision=decision)
