"""Patterns in which the direct beam lies far from where the rest of the scan lets expect it, since the beam jumps.

If the direct beam is by far the brightest disk of nearly all patterns, its place needs no guess: the brightest area is
the guess for patterns in which no beam was found, or in which another disk was located.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter

from ..core import Scan
from . import Beam, Located

MIN_UNFOUND = 0.02  # fraction of the patterns without a beam; fewest for which patterns are searched again
DOMINANCE_SAMPLE = 64  # patterns; number that show whether the direct beam is the brightest disk, chosen for speed
MIN_DOMINANT = 0.8  # fraction of this sample; fewest in which it is
MAX_SECOND = 0.5  # fraction of its brightness; brightest other area of a pattern in which the beam is the brightest
MIN_COMMON, MAX_COMMON = 0.5, 2.0  # fractions of the usual brightness of the beam; limits of another place for it
ASIDE_PX = 2.0  # pixels; other areas are farther away than the diameter of the disk and this margin
NEAR_RADII = 1.5  # disk radii; largest distance of the located beam from the brightest area


def followed_patterns(scan: Scan, located: Located, beam: Beam) -> Located:
    """Locate the beam again at the brightest area of patterns in which it was not found there.

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
        The positions; a copy if patterns were located again.
    """
    found = np.flatnonzero(located.found)
    if not scan.readable.all() or beam.wide or len(found) < DOMINANCE_SAMPLE or (
            1 - located.found.mean() < MIN_UNFOUND):
        return located
    sample = found[np.unique(np.linspace(0, len(found) - 1, DOMINANCE_SAMPLE).astype(int))]
    areas = [_areas(block, located.position[index], beam) for index, block in scan.blocks(positions=sample)]
    distance, brightness, dominant = (np.concatenate(a) for a in list(zip(*areas, strict=True))[1:])
    right = dominant & (distance < NEAR_RADII * beam.aperture.radius + ASIDE_PX)
    if right.mean() < MIN_DOMINANT:
        return located
    usual = np.median(brightness[right])
    located = Located(*(a.copy() for a in (located.position, located.sigma, located.signal, located.found)))
    for index, block in scan.blocks():
        place, distance, brightness, dominant = _areas(block, located.position[index], beam)
        elsewhere = ~located.found[index] | (distance > 2 * beam.aperture.radius + ASIDE_PX)
        moved = np.flatnonzero(elsewhere & dominant & (brightness > MIN_COMMON * usual)
                               & (brightness < MAX_COMMON * usual))
        if len(moved):
            again = beam.locate(block[moved], place[moved])
            near = again.found & (np.hypot(*(again.position - place[moved]).T) < NEAR_RADII * beam.aperture.radius
                                  + ASIDE_PX)
            located.put(index[moved[near]], again.subset(near))
    return located


def _areas(block, position, beam):
    """Brightest area of each pattern: its place, distance from a position, brightness, and whether none is similar."""
    radius = beam.aperture.radius
    x, y = np.indices(block.shape[1:])
    place, brightness, dominant = np.zeros((len(block), 2)), np.zeros(len(block)), np.zeros(len(block), bool)
    for number, pattern in enumerate(beam.noise.electrons(block)):
        smooth = uniform_filter(pattern, max(3, round(1.5 * radius)), mode="nearest")
        place[number] = qx, qy = np.unravel_index(smooth.argmax(), smooth.shape)
        brightness[number] = smooth[qx, qy]
        other = smooth[np.hypot(x - qx, y - qy) > 2 * radius + ASIDE_PX].max(initial=0.0)
        dominant[number] = other < MAX_SECOND * brightness[number]
    return place, np.hypot(*(place - position).T), brightness, dominant
