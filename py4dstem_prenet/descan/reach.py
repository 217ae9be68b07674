"""A surface through the part of a scan where the beam is seen, and how it goes on in the rest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..core import Flag

WHOLE = 0.8  # of a scan, in which the beam is seen: what is determined there does not run away in the rest
THIN = 4  # scan rows, or columns: a strip of fewer says nothing of what lies beside it
STRAY = 0.1  # of the positions in the fullest row or column: with fewer one is not part of where the beam was seen


def seen_box(use):
    """The rectangle of the scan, a pair of slices, that holds the positions in use (Rx, Ry); None where that is most of
    the scan, or a strip that tells nothing of the rest."""
    if not use.any():
        return None
    lines = [np.flatnonzero(n > STRAY * n.max()) for n in (use.sum(1), use.sum(0))]
    box = tuple(slice(int(at[0]), int(at[-1]) + 1) for at in lines)
    part = use[box]
    strip = any(n < min(THIN, whole) for n, whole in zip(part.shape, use.shape, strict=True))
    return None if strip or part.size > WHOLE * use.size else box


def beyond(inner, outer, box):
    """A surface fitted to a rectangle of the scan, that goes on outside of it as a stiffer one through the same
    positions does: what bends inside would run away. Its sigma there is how far a parabola would."""
    apart = inner.values - outer.values[box]
    at = [np.arange(n) for n in outer.values.shape]
    nearest = [np.clip(a, part.start, part.stop - 1) for a, part in zip(at, box, strict=True)]
    values = outer.values + apart[np.ix_(*(n - part.start for n, part in zip(nearest, box, strict=True)))]
    rows, columns = (np.abs(a - n) / (part.stop - part.start) for a, n, part in zip(at, nearest, box, strict=True))
    away = rows[:, None] + columns
    # A parabola over a length departs from its best line by 1 / (6 sqrt 5) of what it gains over as long again.
    sigma = np.hypot(outer.sigma, np.sqrt((apart**2).mean()) * (1 + 6 * 5**0.5 * away * (1 + away)))
    sigma[box] = inner.sigma
    flag = Flag("extrapolated", {"first_row": box[0].start, "last_row": box[0].stop - 1, "first_column": box[1].start,
                                 "last_column": box[1].stop - 1, "model": outer.model})
    decision = replace(inner.decision, flags=(*inner.decision.flags, flag))
    residual = outer.residual + outer.values - values
    return replace(inner, values=values, sigma=sigma, residual=residual, decision=decision)
