"""Rows of the scan in which another disk than the direct beam was located, since the beam jumps between rows.

Where the beam jumps by more than half the distance of the disks, a neighbor of the direct beam lies nearer to the
guess, in all patterns of the row. The row then has a disk that is brighter than the located one, and most other rows
have none.
"""

from __future__ import annotations

import numpy as np
from scipy.signal import fftconvolve

from ..core import Scan
from . import Beam, Located

MIN_ROWS, MIN_ROW_COUNT = 6, 4  # rows of a scan, and positions of a row, with which rows are compared
MAX_ODD_ROWS = 0.3  # of the rows that lie off, with which the place of no row is expected
MIN_ROW_STEP_PX = 1.0  # pixels of a row from a parabola through all rows; smaller jumps lead to no other disk
MIN_BRIGHTER_SIGMAS = 5.0  # between two disks in the sum of a row
MAX_BRIGHTER_ROWS = 0.35  # of the rows; if more have a brighter disk, the direct beam is not the brightest
NEAREST_RADII, FARTHEST_RADII, FARTHEST_PX = 1.5, 8.0, 24.0  # where another disk may lie, from the located one
ROW_ROUNDS = 2  # times that all rows are located anew if most jump
MIN_FOUND = 0.6  # of a row's positions that have to be located at the brighter disk


def followed_rows(scan: Scan, located: Located, beam: Beam) -> Located:
    """Locate the beam anew in rows that show a brighter disk than the located one, unlike most rows.

    Parameters
    ----------
    scan : Scan
        The scan.
    located : Located
        Positions of all its patterns.
    beam : Beam
        The beam.

    Returns
    -------
    Located
        The positions; a copy if rows were located anew.
    """
    rows, columns = scan.scan_shape
    if rows < MIN_ROWS or columns < MIN_ROW_COUNT or not scan.readable.all() or beam.wide:
        return located
    found = located.found.reshape(rows, columns)
    some = np.flatnonzero(found.sum(1) >= MIN_ROW_COUNT)
    if len(some) < MIN_ROWS:
        return located
    off = _off(located.position.reshape(rows, columns, 2), found, some)
    if off.mean() > MAX_ODD_ROWS:
        located = _about_rows(scan, located, beam)
    # A row that follows its neighbors is right, whichever disk is brighter; if most rows jump, none has neighbors.
    suspect = some if off.mean() > MAX_ODD_ROWS else some[off]
    offsets = {row: _brighter(scan, located, beam, row * columns + np.flatnonzero(found[row])) for row in suspect}
    odd = [row for row in suspect if offsets[row] is not None]
    if not 0 < len(odd) <= MAX_BRIGHTER_ROWS * len(some):
        return located
    followed = Located(*(a.copy() for a in (located.position, located.sigma, located.signal, located.found)))
    for row in odd:
        index = np.arange(row * columns, (row + 1) * columns)
        middle = np.median(located.position[index[found[row]]], 0)
        guess = np.where(found[row][:, None], located.position[index], middle) + offsets[row]
        anew = beam.locate(scan.read(index), guess)
        near = np.hypot(*(anew.position - guess).T) < NEAREST_RADII * beam.aperture.radius
        if (anew.found & near).mean() >= MIN_FOUND:
            followed.put(index, anew)
    return followed


def _about_rows(scan, located, beam):
    """Locate the beam anew about the median of each row, plus the mean course along the rows.

    If most rows jump, the first guess is off by pixels, and at few electrons it draws the positions toward it.
    """
    for _ in range(ROW_ROUNDS):
        position = np.where(located.found[:, None], located.position, np.nan).reshape(*scan.scan_shape, 2)
        shown = np.isfinite(position[..., 0]).any(1)
        if not np.isfinite(position[..., 0]).any(0).all():
            return located
        level = np.nanmedian(position[shown], 1, keepdims=True)
        course = np.nanmedian(position[shown] - level, 0)
        index = np.flatnonzero(np.repeat(shown, scan.scan_shape[1]))
        anew = beam.locate(scan.read(index), (level + course).reshape(-1, 2))
        if anew.found.mean() < MIN_FOUND * located.found[index].mean():
            return located
        located = Located(*(a.copy() for a in (located.position, located.sigma, located.signal, located.found)))
        located.put(index, anew)
    return located


def _off(position, found, some):
    """Which of some rows lie off a parabola through the medians of all of them, (n,) bool."""
    at = 2 * (some - some.mean()) / max(np.ptp(some), 1)
    medians = np.array([np.median(position[row][found[row]], 0) for row in some])
    design = np.stack([np.ones_like(at), at, at**2], 1)
    weight = np.ones(len(some))
    for _ in range(5):  # least absolute deviations
        fit = np.linalg.lstsq(design * weight[:, None], medians * weight[:, None], rcond=None)[0]
        away = np.hypot(*(medians - design @ fit).T)
        weight = np.maximum(away, 0.05) ** -0.5
    return away > MIN_ROW_STEP_PX


def _brighter(scan, located, beam, index):
    """Offset of a disk that is brighter than the located one in the sum of some patterns, (2,) pixels, or None."""
    noise, radius = beam.noise, beam.aperture.radius
    reach = int(np.ceil(min(FARTHEST_RADII * radius, FARTHEST_PX)))
    side = reach + int(np.ceil(radius))
    total, weight = np.zeros((2, 2 * side + 1, 2 * side + 1))
    good = ~noise.bad_pixels
    for electrons, at in zip(noise.electrons(scan.read(index)), np.rint(located.position[index]).astype(int),
                             strict=True):
        low = at - side
        part = [slice(max(a, 0), max(a + 2 * side + 1, 0)) for a in low]
        seen, usable = np.where(good, electrons, 0.0)[tuple(part)], good[tuple(part)]
        start = [max(-a, 0) for a in low]
        into = tuple(slice(s, s + n) for s, n in zip(start, seen.shape, strict=True))
        total[into] += seen
        weight[into] += usable
    mean = np.where(weight > 0, total / np.maximum(weight, 1), 0.0)
    x, y = np.indices(total.shape) - side
    distance = np.hypot(x, y)
    disk = (distance <= max(radius, 1.0)).astype(float)
    disk = disk[side - int(radius) - 1 : side + int(radius) + 2, side - int(radius) - 1 : side + int(radius) + 2]
    sums = fftconvolve(mean, disk, mode="same") * len(index)
    here = sums[side, side]
    others = np.where((distance > NEAREST_RADII * radius) & (distance <= reach), sums, -np.inf)
    at = np.unravel_index(others.argmax(), others.shape)
    readout = noise.readout / noise.gain * np.sqrt(2 * disk.sum() * len(index))
    if others[at] - here < MIN_BRIGHTER_SIGMAS * np.hypot(np.sqrt(max(others[at] + here, 1.0)), readout):
        return None
    return np.array(at) - side
