"""Test whether diffuse scattering is centered on the located beam, or on a different point inside or outside the frame.

The Bragg disks of a crystal repeat: if the direct beam lies behind a stop or outside the frame, or is dimmer than
Bragg disks, the brightest visible disk looks like the direct beam. Diffuse scattering does not repeat. It falls with
the distance from the direct beam equally in all directions. About the direct beam, inside or outside the frame, the
scatter of its logarithm about the median at each distance is therefore smallest, and opposite sectors are equal; about
a Bragg disk, opposite sectors differ by factors. Patterns without diffuse scattering cannot be tested.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..core import NoiseModel, OriginMap, Scan
from ..fits import ring_center
from . import MIN_RIVAL_PX, MIN_RIVAL_RADII, RIVAL_BLOCKS, RIVAL_STEP_PX, DiffuseImage, block_sums

BLOCK_PX = 5  # binned pixels; side of the blocks whose dim pixels are compared
DIM_PART = 0.2  # quantile of the pixels of a block, which selects those between disks
MIN_LIT_BLOCKS = 40  # blocks; fewest with a signal for which the dependence on the distance is tested
MIN_LIT_PART = 0.15  # fraction of all blocks; fewest with a signal: if there are fewer, their brightness selects them
LIT_SIGMAS = 3.0  # sigmas of a smoothed pixel; smallest signal of a block
DISTANCE_FRACTION = 1 / 20  # fraction of the frame; step of the distance
OUTSIDE_FRACTION = 0.35  # fraction of the frame; largest distance outside the frame at which a center is searched for
OUTSIDE_STEP_PX = 8  # binned pixels; distance between tested points outside the frame
CENTER_SHIFTS = ((0, 0), (3, 0), (-3, 0), (0, 3), (0, -3))  # binned pixels; halos are not exactly centered on the beam
LEAST_SCATTER = 0.01  # natural logarithm of the brightness; smaller scatter counts as this
MIN_SECTOR_PAIRS = 8  # pairs of opposite sectors; fewest from which an asymmetry is computed
MIN_LIT_EVERYWHERE = 0.7  # fraction of all blocks; fewest for which the scatter suffices without opposite sectors
ASYMMETRY_HERE = 0.5  # asymmetry assumed near an edge of the frame, where it cannot be measured
# Sum of the decreases of the asymmetry of opposite sectors and of the logarithm of the scatter, from the located beam
# to a different point; at or above this limit, the origin is refused. About the true origins of 48 scans of the
# simulated world (seeds from 81000 of benchmarks/stops.py) it was 0.00, about the brightest Bragg disks of 24 scans
# 0.81 or more in 21; with wide reflections 0.50 or less about the true origin of 6.
MAX_DIFFUSE_EVIDENCE = 0.6
MAX_INVERSION_EVIDENCE = 0.45  # the same limit for a center of inversion without a visible disk: 0.49 about a wrong one
# Amount by which the evidence must be larger if the disk was chosen among several candidates, except for points that
# may be hidden: in multislice scans, whose diffuse scattering has speckles, the evidence is 0.6 or more about the true
# origin of 8 of 96, and 1.2 or more of 2.
RANKED_EVIDENCE = 0.6


def check_diffuse(scan: Scan, noise: NoiseModel, origin: OriginMap, ranked: bool = False) -> OriginMap:
    """Refuse an origin if the diffuse scattering is centered on a different point, inside or outside the frame.

    Parameters
    ----------
    scan : Scan
        The scan, or a sample of one.
    noise : NoiseModel
        Noise model of the detector; pixels behind a stop are bad.
    origin : OriginMap
        The measured origin.
    ranked : bool, optional
        Whether the disk was chosen among several disks (`ranked_beam`).

    Returns
    -------
    OriginMap
        The given origin, or a refused one.
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
    offset = (np.array(rings.center) - (image.step - 1) / 2) / image.step - image.middle if rings.accepted else np.inf
    if np.hypot(*np.broadcast_to(offset, 2)) < max(MIN_RIVAL_RADII * image.radius, MIN_RIVAL_PX):
        return origin  # rings are stronger evidence than diffuse scattering between disks
    return image.refused(at, scan.scan_shape)


def diffuse_evidence(image: DiffuseImage, ranked: bool = False) -> tuple[float, np.ndarray]:
    """Measure how much better a different point is as the center of diffuse scattering than the located disk.

    Parameters
    ----------
    image : DiffuseImage
        The sum of patterns.
    ranked : bool, optional
        Whether visible disks were compared before; a different disk then needs more evidence.

    Returns
    -------
    evidence : float
        Sum of the decreases of the asymmetry of opposite sectors and of the logarithm of the scatter at each distance,
        from the located disk to the best different point; 0 if the patterns cannot be tested.
    at : numpy.ndarray, shape (2,)
        The best point, binned pixels.
    """
    shape, middle, radius = image.good.shape, image.middle, image.radius
    at, level = dim_levels(image.between, image.good, image.sigma)
    part = len(level) / max(image.good.sum() / BLOCK_PX**2, 1)
    lit, everywhere = (len(level) >= MIN_LIT_BLOCKS and part >= least for least in (MIN_LIT_PART, MIN_LIT_EVERYWHERE))
    here, _, pairs = image.asymmetry(middle)
    if not lit and pairs < MIN_SECTOR_PAIRS:
        return 0.0, middle
    measured = pairs >= MIN_SECTOR_PAIRS
    here = here if measured else ASYMMETRY_HERE
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
        if scatter + here <= best[0]:  # the symmetry cannot compensate this
            continue
        place_asymmetry, _, place_pairs = image.asymmetry(place)
        if place_pairs < max(MIN_SECTOR_PAIRS, pairs / 2 if measured else 0):
            if not everywhere:
                continue
            place_asymmetry = here
        best = max(best, (scatter + here - place_asymmetry, place), key=lambda some: some[0])
    return float(best[0]), best[1]


def _places(axes, middle, radius):
    """Points (n, 2) of a grid that are far enough from the located disk."""
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
        Centers of the blocks with a signal, pixels.
    level : numpy.ndarray, shape (k,)
        Logarithm of the brightness of these blocks.
    """
    rows, columns = (n // BLOCK_PX for n in smooth.shape)

    def blocks(image):  # numpydoc ignore=PR01,RT01
        """Pixels of each block, (blocks, pixels)."""
        part = image[: rows * BLOCK_PX, : columns * BLOCK_PX].reshape(rows, BLOCK_PX, columns, BLOCK_PX)
        return part.swapaxes(1, 2).reshape(rows * columns, -1)

    used = blocks(good)
    number = used.sum(1)
    ordered = np.sort(np.where(used, blocks(smooth), np.inf), 1)
    dim = ordered[np.arange(len(ordered)), (DIM_PART * number).astype(int)]
    lit = (number > BLOCK_PX**2 / 2) & (dim > LIT_SIGMAS * sigma)
    at = np.indices((rows, columns)).reshape(2, -1) * BLOCK_PX + (BLOCK_PX - 1) / 2
    return at[:, lit], np.log(dim[lit] + sigma)


def radial_scatter(at, level, center, width: float, nearest: float) -> float:
    """Compute the mean absolute deviation of levels from their median at the same distance from a center.

    Parameters
    ----------
    at : numpy.ndarray, shape (2, k)
        Positions, pixels.
    level : numpy.ndarray, shape (k,)
        Levels at these positions.
    center : array_like, shape (2,)
        The center, pixels.
    width : float
        Step of the distance, pixels.
    nearest : float
        Smallest distance of used positions, pixels.

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
