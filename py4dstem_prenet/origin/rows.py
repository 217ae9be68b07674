"""Rows of the scan in which a disk other than the direct beam was located, because the beam jumps between rows.

If the beam jumps by more than half of the distance between disks, a neighbor of the direct beam is closer to the guess
in all patterns of the row. The row then contains a disk that is brighter than the located disk, unlike most other rows.
"""

from __future__ import annotations

import numpy as np
from scipy.signal import fftconvolve

from ..core import Scan
from . import Beam, Located

MIN_ROWS, MIN_ROW_COUNT = 6, 4  # rows of a scan, and located positions of a row; fewest with which rows are compared
MAX_ODD_ROWS = 0.3  # fraction of the rows; if more are outliers, no row can be predicted from the others
MIN_ROW_STEP_PX = 1.0  # pixels; smallest distance of an outlier row from a parabola through all rows
MIN_BRIGHTER_SIGMAS = 5.0  # standard errors; smallest difference in brightness of two disks in the sum of a row
MAX_BRIGHTER_ROWS = 0.35  # fraction of the rows; if more have a brighter disk, the direct beam is not the brightest
# Disk radii, and pixels; smallest and largest distance of a different disk from the located disk.
NEAREST_RADII, FARTHEST_RADII, FARTHEST_PX = 1.5, 8.0, 24.0
ROW_ROUNDS = 2  # rounds in which all rows are located again if most rows jump
MIN_FOUND = 0.6  # fraction of a row's positions; fewest that must be located at the brighter disk


def followed_rows(scan: Scan, located: Located, beam: Beam) -> Located:
    """Locate the beam again in rows that, unlike most rows, contain a disk brighter than the located disk.

    Parameters
    ----------
    scan : Scan
        The scan.
    located : Located
        Positions of all patterns of the scan.
    beam : Beam
        The beam.

    Returns
    -------
    Located
        The positions; a copy if rows were located again.
    """
    rows, columns = scan.scan_shape
    if rows < MIN_ROWS or columns < MIN_ROW_COUNT or not scan.readable.all() or beam.wide:
        return located
    found = located.found.reshape(rows, columns)
    usable_rows = np.flatnonzero(found.sum(1) >= MIN_ROW_COUNT)
    if len(usable_rows) < MIN_ROWS:
        return located
    outlier = _off(located.position.reshape(rows, columns, 2), found, usable_rows)
    if outlier.mean() > MAX_ODD_ROWS:
        located = _about_rows(scan, located, beam)
    # A row that agrees with its neighbors is correct, whichever disk is brighter. If most rows jump, test all of them.
    suspect = usable_rows if outlier.mean() > MAX_ODD_ROWS else usable_rows[outlier]
    offsets = {row: _brighter(scan, located, beam, row * columns + np.flatnonzero(found[row])) for row in suspect}
    wrong_rows = [row for row in suspect if offsets[row] is not None]
    if not 0 < len(wrong_rows) <= MAX_BRIGHTER_ROWS * len(usable_rows):
        return located
    corrected = Located(*(a.copy() for a in (located.position, located.sigma, located.signal, located.found)))
    for row in wrong_rows:
        index = np.arange(row * columns, (row + 1) * columns)
        middle = np.median(located.position[index[found[row]]], 0)
        guess = np.where(found[row][:, None], located.position[index], middle) + offsets[row]
        again = beam.locate(scan.read(index), guess)
        near = np.hypot(*(again.position - guess).T) < NEAREST_RADII * beam.aperture.radius
        if (again.found & near).mean() >= MIN_FOUND:
            corrected.put(index, again)
    return corrected


def _about_rows(scan, located, beam):
    """Locate the beam again, starting at the median of each row plus the mean course along the rows.

    If most rows jump, the first guess is wrong by pixels, and with few electrons it biases the positions.
    """
    for _ in range(ROW_ROUNDS):
        position = np.where(located.found[:, None], located.position, np.nan).reshape(*scan.scan_shape, 2)
        shown = np.isfinite(position[..., 0]).any(1)
        if not np.isfinite(position[..., 0]).any(0).all():
            return located
        level = np.nanmedian(position[shown], 1, keepdims=True)
        course = np.nanmedian(position[shown] - level, 0)
        index = np.flatnonzero(np.repeat(shown, scan.scan_shape[1]))
        again = beam.locate(scan.read(index), (level + course).reshape(-1, 2))
        if again.found.mean() < MIN_FOUND * located.found[index].mean():
            return located
        located = Located(*(a.copy() for a in (located.position, located.sigma, located.signal, located.found)))
        located.put(index, again)
    return located


def _off(position, found, some):
    """Mask (n,) of the rows in `some` that are far from a parabola through the medians of all of them."""
    at = 2 * (some - some.mean()) / max(np.ptp(some), 1)
    medians = np.array([np.median(position[row][found[row]], 0) for row in some])
    design = np.stack([np.ones_like(at), at, at**2], 1)
    weight = np.ones(len(some))
    for _ in range(5):  # least absolute deviations
        fit = np.linalg.lstsq(design * weight[:, None], medians * weight[:, None], rcond=None)[0]
        distance = np.hypot(*(medians - design @ fit).T)
        weight = np.maximum(distance, 0.05) ** -0.5
    return distance > MIN_ROW_STEP_PX


def _brighter(scan, located, beam, index):
    """Offset (2,) in pixels of a disk that is brighter than the located disk in the sum of a row, or None."""
    noise, radius = beam.noise, beam.aperture.radius
    reach = int(np.ceil(min(FARTHEST_RADII * radius, FARTHEST_PX)))
    side = reach + int(np.ceil(radius))
    total, weight = np.zeros((2, 2 * side + 1, 2 * side + 1))
    good = ~noise.bad_pixels
    for electrons, at in zip(noise.electrons(scan.read(index)), np.rint(located.position[index]).astype(int),
                             strict=True):
        low = at - side
        part = [slice(max(a, 0), max(a + 2 * side + 1, 0)) for a in low]
        cropped, usable = np.where(good, electrons, 0.0)[tuple(part)], good[tuple(part)]
        start = [max(-a, 0) for a in low]
        into = tuple(slice(s, s + n) for s, n in zip(start, cropped.shape, strict=True))
        total[into] += cropped
        weight[into] += usable
    mean = np.where(weight > 0, total / np.maximum(weight, 1), 0.0)
    x, y = np.indices(total.shape) - side
    distance = np.hypot(x, y)
    disk = (distance <= max(radius, 1.0)).astype(float)
    disk = disk[side - int(radius) - 1 : side + int(radius) + 2, side - int(radius) - 1 : side + int(radius) + 2]
    sums = fftconvolve(mean, disk, mode="same") * len(index)
    own = sums[side, side]
    others = np.where((distance > NEAREST_RADII * radius) & (distance <= reach), sums, -np.inf)
    at = np.unravel_index(others.argmax(), others.shape)
    readout = noise.readout / noise.gain * np.sqrt(2 * disk.sum() * len(index))
    if others[at] - own < MIN_BRIGHTER_SIGMAS * np.hypot(np.sqrt(max(others[at] + own, 1.0)), readout):
        return None
    return np.array(at) - side
