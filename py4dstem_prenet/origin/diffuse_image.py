"""Diffuse scattering between the disks of a sum of patterns, and its asymmetry about a point."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter, maximum_filter, minimum_filter, percentile_filter

from ..core import Flag, NoiseModel, OriginMap, Scan, binned_sum
from . import block_of_positions, block_sums, no_origin

RIVAL_BLOCKS = 2  # number of blocks along each side of the scan whose patterns are summed: diffuse scattering is weak
MAX_RIVAL_SIDE = 128  # pixels; largest side: larger frames are binned, for speed
DIFFUSE_SECTORS = 12  # number of sectors of the azimuth; opposite sectors are compared
RING_FRACTION = 1 / 20  # fraction of the frame; width of the rings in which sectors are compared
DIM_QUANTILE = 0.2  # quantile of the pixels of a sector, which selects those between disks
MIN_SECTOR_PIXELS = 8  # pixels; fewest in a sector that is compared
DIFFUSE_BLUR_PX = 1.0  # binned pixels, 1 sigma; smoothing, without which counts are too few for a quantile
MIN_LIT_SIGMAS = 3.0  # sigmas of a smoothed pixel; smallest signal of a sector: dark sectors are equal about any point
MIN_LIT_SHARE = 0.15  # fraction of the pairs; with fewer signals, these are disks without diffuse scattering
MIN_RIVAL_RADII, MIN_RIVAL_PX = 1.5, 5.0  # radii, binned pixels; smallest distance of a tested point from the beam
OPENING_MARGIN_PX = 8  # binned pixels; side of the opening's square in excess of a disk, whose edge is blurred
OPENED_PERCENT = 15  # percentile of the pixels of the square; it lies between disks, with less noise than the minimum
MAX_OPENED_PARTS = 4  # divisor of the side of the frame; largest side of the square
DEAD_SIDE_PX = 5  # pixels; side of a square of one value, in the sum of patterns, that is a dead region
MAX_DEAD_VALUES = 2  # distinct values; most of dead regions: those of dead chips and of pixels at full scale
MIN_RIVAL_DISK = 0.15  # fraction of the located disk's contrast; smallest contrast of a disk at a tested point
MIN_SEEN_AROUND = 0.8  # fraction of the pixels about a point; if fewer are good, a disk may be hidden
MAX_DIM_PX = 12  # binned pixels; largest half side of the surroundings of a point, chosen for speed
MIN_UNSHADED = 0.5  # fraction of the level between disks around a point; if it is darker, it may lie behind a stop
RIVAL_STEP_PX = 4  # binned pixels; distance between tested points


@dataclass(frozen=True, eq=False)
class DiffuseImage:
    """Sum of patterns from which diffuse scattering is measured; lengths are in binned pixels.

    Attributes
    ----------
    smooth : numpy.ndarray, shape (Hx, Hy)
        Smoothed sum of patterns, electrons in a bin.
    between : numpy.ndarray, shape (Hx, Hy)
        Smoothed sum after removal of the disks.
    good : numpy.ndarray of bool, shape (Hx, Hy)
        True where at least half of a bin is good.
    sigma : float
        Noise of a dark pixel, electrons.
    step : int
        Side of a bin, detector pixels.
    middle : numpy.ndarray, shape (2,)
        Position of the located beam.
    radius : float
        Radius of the located disk; 0 if it is unknown.
    """

    smooth: np.ndarray
    between: np.ndarray
    good: np.ndarray
    sigma: float
    step: int
    middle: np.ndarray
    radius: float

    @classmethod
    def of(cls, scan: Scan, noise: NoiseModel, origin: OriginMap):
        """Sum patterns of a scan, binned to at most MAX_RIVAL_SIDE along each side.

        Parameters
        ----------
        scan : Scan
            The scan, or a sample of one.
        noise : NoiseModel
            Noise model of the detector; pixels behind a stop are bad.
        origin : OriginMap
            The measured origin; at least one position must be valid.

        Returns
        -------
        DiffuseImage
            The sum.
        """
        maps = np.stack([origin.qx0, origin.qy0])
        middle = np.median(maps[:, origin.valid], 1)
        far = np.ptp(maps[:, origin.valid], 1).max() > np.nan_to_num(origin.radius, nan=np.inf)
        sums, counts, grid = block_sums(scan, noise, **({} if far else {"blocks": RIVAL_BLOCKS}))
        total = sums.sum(0)
        step = -(-max(scan.pattern_shape) // MAX_RIVAL_SIDE)
        # Exclude dead chips, which have one value, and areas of a picture that were clipped to black.
        dead = maximum_filter(total, DEAD_SIDE_PX) == minimum_filter(total, DEAD_SIDE_PX)
        dead &= (total == total.min()) | (len(np.unique(total[dead])) <= MAX_DEAD_VALUES)
        usable, alive = ~noise.bad_pixels, ~noise.bad_pixels & ~binary_dilation(dead, iterations=DEAD_SIDE_PX)
        if far:  # the track of the disk would look like diffuse scattering
            total, usable, alive = _recentered(sums, counts, usable, alive, _offsets(maps, origin.valid, grid))
        good, valid = (binned_sum(a.astype(np.float32), step) >= step**2 / 2 for a in (alive, usable))
        electrons = np.where(valid, binned_sum(np.where(usable, total, 0.0), step), 0.0)
        covered = gaussian_filter(valid.astype(float), DIFFUSE_BLUR_PX)
        smooth = gaussian_filter(electrons, DIFFUSE_BLUR_PX) / np.maximum(covered, 1e-3)
        # The noise of a picture includes one step of its values, since its offset was chosen for the contrast.
        rounding = 0.0 if noise.counting or scan.dtype.kind == "f" else 1.0
        readout = np.hypot(noise.readout, rounding) / noise.gain * step * counts.sum() ** 0.5
        sigma = max(1.0, readout) / (2 * np.pi**0.5 * DIFFUSE_BLUR_PX)
        radius = float(np.nan_to_num(origin.radius)) / step
        return cls(smooth, _between_disks(smooth, valid, radius), good, sigma, step, (middle - (step - 1) / 2) / step,
                   radius)

    def asymmetry(self, center) -> tuple[float, float, int]:
        """Measure how much opposite sectors differ about a center (`diffuse_asymmetry`).

        Parameters
        ----------
        center : array_like, shape (2,)
            The center.

        Returns
        -------
        asymmetry, error : float
            Asymmetry of the sectors, and its standard error.
        pairs : int
            Number of pairs of sectors that were compared.
        """
        return diffuse_asymmetry(self.between, self.good, center, self.radius, self.sigma, self._ascending)

    @cached_property
    def _ascending(self):
        """Flat indices of the pixels in the order of their brightness, sorted once for all centers."""
        return np.argsort(self.between, axis=None, kind="stable")

    def refused(self, at, scan_shape) -> OriginMap:
        """Refuse the origin, since the diffuse scattering is centered elsewhere.

        Parameters
        ----------
        at : array_like, shape (2,)
            Center of the diffuse scattering.
        scan_shape : tuple of int
            (Rx, Ry).

        Returns
        -------
        OriginMap
            An origin that is not accepted.
        """
        center = np.asarray(at) * self.step + (self.step - 1) / 2
        distance = self.step * float(np.hypot(*(np.asarray(at) - self.middle)))
        return no_origin(scan_shape, Flag("diffuse_elsewhere", {
            "distance": distance, "qx0": float(center[0]), "qy0": float(center[1])}))

    def possible(self) -> tuple[np.ndarray, np.ndarray]:
        """Find the points at which the direct beam may lie instead, because there is a disk or a disk may be hidden.

        Returns
        -------
        disk, hidden : numpy.ndarray of bool, shape (Hx, Hy)
            True where there is a disk, and where a disk may be hidden. All other points are excluded.
        """
        good_fraction, core, around = (np.maximum(gaussian_filter(self.good.astype(float), width), 1e-3)
                               for width in (0.0, 0.5 * max(self.radius, 1.0), 2 * max(self.radius, 1.0)))
        filled = np.where(self.good, self.smooth, 0.0)
        core_level = gaussian_filter(filled, 0.5 * max(self.radius, 1.0)) / core
        level = gaussian_filter(filled, 2 * max(self.radius, 1.0)) / around
        disk = np.where(good_fraction > 0.5, core_level - level, 0.0)
        x, y = (np.arange(n) - q for n, q in zip(self.good.shape, self.middle, strict=True))
        near_beam = np.hypot(x[:, None], y) < max(MIN_RIVAL_RADII * self.radius, MIN_RIVAL_PX) + 0.5 * self.radius
        here = disk[near_beam].max(initial=0.0)
        disk = maximum_filter(np.where(near_beam, 0.0, disk), 2 * RIVAL_STEP_PX + 1)
        hidden = minimum_filter(core, RIVAL_STEP_PX + 1) < MIN_SEEN_AROUND
        dim = percentile_filter(self.smooth, 100 * DIM_QUANTILE, 2 * int(np.clip(3 * self.radius, 6, MAX_DIM_PX)) + 1)
        shadow = minimum_filter(core_level - MIN_UNSHADED * dim, RIVAL_STEP_PX + 1) < 0
        return disk > MIN_RIVAL_DISK * here, hidden | shadow


def _offsets(maps, valid, grid):
    """Offsets (blocks, 2), in whole pixels, of the beam in each block from its median; 0 if a block has none."""
    block = block_of_positions(valid.shape, grid)
    middle = np.median(maps[:, valid], 1)
    offsets = np.zeros((grid[0] * grid[1], 2), int)
    for k in np.unique(block[valid]):
        offsets[k] = np.rint(np.median(maps[:, valid & (block == k)], 1) - middle)
    return offsets


def _recentered(sums, counts, usable, alive, offsets):
    """Sum of the blocks with the beam at one place, scaled to all of them where some are not usable, and its masks."""
    total, weight, lives = np.zeros((3, *usable.shape))
    for image, count, (row, column) in zip(sums, counts, offsets, strict=True):
        target, source = zip(*((slice(max(-q, 0), n - max(q, 0)), slice(max(q, 0), n - max(-q, 0)))
                               for q, n in zip((row, column), usable.shape, strict=True)), strict=True)
        total[target] += np.where(usable, image, 0.0)[source]
        weight[target] += count * usable[source]
        lives[target] += count * alive[source]
    half = counts.sum() / 2
    return total * counts.sum() / weight.clip(1), weight > half, lives > half


def _between_disks(smooth, good, radius: float):
    """Remove the disks of a sum of patterns by a morphological opening with a square that no disk fills."""
    side = min(2 * int(np.ceil(radius)) + OPENING_MARGIN_PX, min(smooth.shape) // MAX_OPENED_PARTS)
    lowest = percentile_filter(np.where(good, smooth, np.inf), OPENED_PERCENT, side, mode="constant")
    opened = maximum_filter(np.where(np.isfinite(lowest), lowest, 0.0), side)
    return np.where(good, np.minimum(opened, smooth), 0.0)


def diffuse_asymmetry(smooth, good, center, radius: float, sigma: float, ascending=None) -> tuple[float, float, int]:
    """Measure how much the dim pixels of opposite sectors differ about a center.

    Parameters
    ----------
    smooth : numpy.ndarray, shape (Qx, Qy)
        Sum of patterns, electrons.
    good : numpy.ndarray of bool, shape (Qx, Qy)
        True where a pixel is used.
    center : array_like, shape (2,)
        The center, pixels.
    radius : float
        Radius of the direct disk, pixels; the disk and its surroundings are left out.
    sigma : float
        Noise of a dark pixel, electrons.
    ascending : numpy.ndarray of int, shape (Qx * Qy,), optional
        Flat indices of the pixels in the order of their brightness, if this is known.

    Returns
    -------
    asymmetry, error : float
        Mean absolute logarithm of the ratio of opposite sectors, minus its noise, and its standard error; NaN if no
        pairs can be compared.
    pairs : int
        Number of pairs of sectors that were compared.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.origin import diffuse_asymmetry
    >>> x, y = np.indices((64, 64)) - 32
    >>> halo = 1e3 / (1 + np.hypot(x, y) / 6) ** 3
    >>> about = lambda *center: diffuse_asymmetry(halo, np.ones(halo.shape, bool), center, 3.0, 0.1)[0]
    >>> about(32, 32) < 0.1, about(32, 44) > 0.5
    (True, True)
    """
    x, y = np.indices(smooth.shape)
    x, y = x - center[0], y - center[1]
    distance = np.hypot(x, y)
    ring = (distance / max(2.0, RING_FRACTION * max(smooth.shape))).astype(int)
    turns = np.arctan2(y, x) / (2 * np.pi)
    sector = (turns * DIFFUSE_SECTORS % DIFFUSE_SECTORS).astype(int).clip(0, DIFFUSE_SECTORS - 1)
    ascending = np.argsort(smooth, axis=None, kind="stable") if ascending is None else ascending
    use = ascending[(good & (distance > MIN_RIVAL_RADII * radius)).ravel()[ascending]]
    cell, values = (ring * DIFFUSE_SECTORS + sector).ravel()[use].astype(np.uint16), smooth.ravel()[use]
    if not len(values):
        return np.nan, np.nan, 0
    number = np.bincount(cell, minlength=(int(ring.max()) + 1) * DIFFUSE_SECTORS)
    at = np.cumsum(number) - number + (DIM_QUANTILE * number).astype(int)
    dim = values[np.argsort(cell, kind="stable")][at.clip(max=len(values) - 1)].clip(0) + sigma
    dim, number = (a.reshape(-1, 2, DIFFUSE_SECTORS // 2) for a in (dim, number))
    # Select pairs by their sum, not by the brighter sector: otherwise noise would select dark sectors that differ.
    large = (number >= MIN_SECTOR_PIXELS).all(1)
    compared = large & (dim.sum(1) > 2 * MIN_LIT_SIGMAS * sigma)
    noise = ((dim / (4 * np.pi * DIFFUSE_BLUR_PX**2) + sigma**2) / dim**2).sum(1)  # variance of the logarithm
    ratio = np.sqrt(np.maximum(np.log(dim[:, 0] / dim[:, 1]) ** 2 - noise, 0))[compared]
    if len(ratio) <= MIN_LIT_SHARE * np.count_nonzero(large):
        return np.nan, np.nan, 0
    return float(ratio.mean()), float(ratio.std() / len(ratio) ** 0.5), len(ratio)
