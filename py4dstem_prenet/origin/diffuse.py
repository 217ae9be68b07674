"""Whether diffuse scattering is centered on the located beam, or beyond the frame, behind a stop, or on another disk.

The Bragg disks of a crystal repeat: where the direct beam is hidden behind a stop, beyond the frame, or dimmer than
others, the brightest disk that is left looks like it. Diffuse scattering does not repeat. It falls with the distance
from the direct beam alike in all directions: what is left of its logarithm after the median at each distance is
smallest about the direct beam, in or off the frame, and opposite sectors are alike about it and differ by factors about
a Bragg disk. Patterns without diffuse scattering tell nothing.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..core import NoiseModel, OriginMap, Scan
from ..fits import ring_center
from . import MIN_RIVAL_PX, MIN_RIVAL_RADII, RIVAL_BLOCKS, RIVAL_STEP_PX, DiffuseImage, block_sums

BLOCK_PX = 5  # binned pixels, side of the blocks whose dim pixels are compared
DIM_PART = 0.2  # quantile of the pixels of a block: those between disks
MIN_LIT_BLOCKS = 40  # blocks that electrons reach, without which the distance tells nothing
MIN_LIT_PART = 0.15  # of all blocks; where only some are lit, these were chosen by their brightness
LIT_SIGMAS = 3.0  # of a smoothed pixel, that a block has to exceed
DISTANCE_FRACTION = 1 / 20  # of the frame, steps of the distance
OUTSIDE_FRACTION = 0.35  # of the frame, beyond its limits, where a center is looked for
OUTSIDE_STEP_PX = 8  # binned pixels between places there
CENTER_SHIFTS = ((0, 0), (3, 0), (-3, 0), (0, 3), (0, -3))  # binned pixels; halos are not quite centered
LEAST_SCATTER = 0.01  # of the logarithm; less is chance
MIN_SECTOR_PAIRS = 8  # pairs of sectors that tell something
MIN_LIT_EVERYWHERE = 0.7  # of all blocks, with which the scatter alone is evidence, where no opposite sectors are left
ASYMMETRY_HERE = 0.5  # that is supposed near an edge of the frame, where it is not known
# How much smaller asymmetry of opposite sectors and logarithm of the scatter are, together, about another place. About
# the true origins of 48 scans of the simulated world (seeds from 81000 of benchmarks/stops.py) 0.00, about 24 brightest
# Bragg disks 0.81 or more in 21; with wide reflections 0.50 or less about the true origin of 6.
MAX_DIFFUSE_EVIDENCE = 0.6
MAX_INVERSION_EVIDENCE = 0.45  # the same against a center of inversion, where no disk is seen: 0.49 about a wrong one
# What contradicts one of several disks that were compared as candidates has to be stronger by this, unless something
# hides a place: multislice scans, whose diffuse scattering has speckles, have 0.6 or more about the true origin of 8 of
# 96, 1.2 or more of 2.
RANKED_EVIDENCE = 0.6


def check_diffuse(scan: Scan, noise: NoiseModel, origin: OriginMap, ranked: bool = False) -> OriginMap:
    """Refuse an origin if the diffuse scattering falls from another place, in the frame or beyond it.

    Parameters
    ----------
    scan : Scan
        The scan, or a sample of one.
    noise : NoiseModel
        Noise model of the detector; pixels behind a stop are bad.
    origin : OriginMap
        The measured origin.
    ranked : bool, optional
        Whether the disk was chosen among others, see `ranked_beam`.

    Returns
    -------
    OriginMap
        The same, or refused.
    """
    if not origin.found or origin.feature == "rings" or not origin.valid.any():
        return origin
    if origin.stop is not None:
        noise = replace(noise, bad_pixels=noise.bad_pixels | origin.stop)
    image = DiffuseImage.of(scan, noise, origin)
    evidence, at = diffuse_evidence(image, ranked)
    if evidence < (MAX_DIFFUSE_EVIDENCE if origin.feature == "direct beam" else MAX_INVERSION_EVIDENCE):
        return origin
    rings = ring_center(block_sums(scan, noise, RIVAL_BLOCKS)[0].sum(0), ~noise.bad_pixels)
    away = (np.array(rings.center) - (image.step - 1) / 2) / image.step - image.middle if rings.accepted else np.inf
    if np.hypot(*np.broadcast_to(away, 2)) < max(MIN_RIVAL_RADII * image.radius, MIN_RIVAL_PX):
        return origin  # rings tell more than what lies between disks
    return image.refused(at, scan.scan_shape)


def diffuse_evidence(image: DiffuseImage, ranked: bool = False) -> tuple[float, np.ndarray]:
    """Measure how much better another place is as the center of the diffuse scattering than the located disk.

    Parameters
    ----------
    image : DiffuseImage
        The sum of patterns.
    ranked : bool, optional
        Whether visible disks were compared before; then another one needs more evidence.

    Returns
    -------
    evidence : float
        By how much the asymmetry of opposite sectors and the logarithm of the scatter at each distance are smaller,
        together, about the best other place; 0 if the patterns tell nothing.
    at : numpy.ndarray, shape (2,)
        That place, binned pixels.
    """
    shape, middle, radius = image.good.shape, image.middle, image.radius
    at, level = dim_levels(image.between, image.good, image.sigma)
    part = len(level) / max(image.good.sum() / BLOCK_PX**2, 1)
    lit, everywhere = (len(level) >= MIN_LIT_BLOCKS and part >= least for least in (MIN_LIT_PART, MIN_LIT_EVERYWHERE))
    here, _, pairs = image.asymmetry(middle)
    if not lit and pairs < MIN_SECTOR_PAIRS:
        return 0.0, middle
    known = pairs >= MIN_SECTOR_PAIRS
    here = here if known else ASYMMETRY_HERE
    step, nearest = DISTANCE_FRACTION * max(shape), max(MIN_RIVAL_RADII * radius, 3.0)
    inside = _places([np.arange(RIVAL_STEP_PX, n - 1, RIVAL_STEP_PX) for n in shape], middle, radius)
    disk, hidden = (some[tuple(inside.T.astype(int))] for some in image.possible())
    inside, hidden = inside[disk | hidden], hidden[disk | hidden]
    outside = np.zeros((0, 2))
    scatter_here = 1.0
    if lit:
        scatter_here = min(radial_scatter(at, level, middle + shift, step, nearest) for shift in CENTER_SHIFTS)
        scatter_here = max(scatter_here, LEAST_SCATTER)
        outside = _places([np.arange(-OUTSIDE_FRACTION * n, (1 + OUTSIDE_FRACTION) * n, OUTSIDE_STEP_PX)
                           for n in shape], middle, radius)
        outside = outside[~((outside >= 0) & (outside < shape)).all(1)]
    best = 0.0, middle
    hidden = np.append(hidden, np.zeros(len(outside), bool))
    for place, concealed in zip((*inside, *outside), hidden, strict=True):
        scatter = 0.0
        if lit:
            scatter = np.log(scatter_here / max(radial_scatter(at, level, place, step, nearest), LEAST_SCATTER))
        if ranked and not concealed:
            scatter -= RANKED_EVIDENCE
        if scatter + here <= best[0]:  # no symmetry makes up for it
            continue
        there, _, others = image.asymmetry(place)
        if others < max(MIN_SECTOR_PAIRS, pairs / 2 if known else 0):
            if not everywhere:
                continue
            there = here
        best = max(best, (scatter + here - there, place), key=lambda some: some[0])
    return float(best[0]), best[1]


def _places(axes, middle, radius):
    """Places of a grid that are far enough from the located disk, (n, 2)."""
    places = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    return places[np.hypot(*(places - middle).T) > max(MIN_RIVAL_RADII * radius, MIN_RIVAL_PX)]


def dim_levels(smooth, good, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Measure the brightness between disks in blocks of a pattern.

    Parameters
    ----------
    smooth : numpy.ndarray, shape (Hx, Hy)
        Sum of patterns, electrons.
    good : numpy.ndarray of bool, shape (Hx, Hy)
        Pixels to use.
    sigma : float
        Noise of a dark pixel, electrons.

    Returns
    -------
    at : numpy.ndarray, shape (2, k)
        Middles of the blocks that electrons reach, pixels.
    level : numpy.ndarray, shape (k,)
        Logarithm of their brightness.
    """
    rows, columns = (n // BLOCK_PX for n in smooth.shape)

    def blocks(image):  # numpydoc ignore=PR01,RT01
        """Pixels of each block, (blocks, pixels)."""
        part = image[: rows * BLOCK_PX, : columns * BLOCK_PX].reshape(rows, BLOCK_PX, columns, BLOCK_PX)
        return part.swapaxes(1, 2).reshape(rows * columns, -1)

    seen = blocks(good)
    number = seen.sum(1)
    ordered = np.sort(np.where(seen, blocks(smooth), np.inf), 1)
    dim = ordered[np.arange(len(ordered)), (DIM_PART * number).astype(int)]
    lit = (number > BLOCK_PX**2 / 2) & (dim > LIT_SIGMAS * sigma)
    at = np.indices((rows, columns)).reshape(2, -1) * BLOCK_PX + (BLOCK_PX - 1) / 2
    return at[:, lit], np.log(dim[lit] + sigma)


def radial_scatter(at, level, center, width: float, nearest: float) -> float:
    """Mean absolute deviation of levels from their median at the same distance from a center.

    Parameters
    ----------
    at : numpy.ndarray, shape (2, k)
        Places, pixels.
    level : numpy.ndarray, shape (k,)
        Levels there.
    center : array_like, shape (2,)
        The center, pixels.
    width : float
        Step of the distance, pixels.
    nearest : float
        Distance in pixels below which places are left out.

    Returns
    -------
    float
        The deviation, corrected for the number of medians.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.origin import radial_scatter
    >>> at = np.indices((20, 20)).reshape(2, -1) * 5.0
    >>> level = -np.hypot(at[0] - 40, at[1] + 10) / 30
    >>> radial_scatter(at, level, (40, -10), 5.0, 3.0) < 0.5 * radial_scatter(at, level, (40, 20), 5.0, 3.0)
    True
    """
    distance = np.hypot(at[0] - center[0], at[1] - center[1])
    used = distance > nearest
    step, level = (distance[used] / width).astype(int), level[used]
    number = np.bincount(step)
    order = np.lexsort((level, step))
    middle = np.cumsum(number) - number + number // 2
    median = level[order][np.minimum(middle, len(level) - 1)]
    return float(np.abs(level - median[step]).sum() / max(len(level) - np.count_nonzero(number), 1))
