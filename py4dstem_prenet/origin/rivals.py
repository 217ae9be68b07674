"""Diffuse scattering between the disks of a sum of patterns, how alike opposite sectors are, and stops beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter, maximum_filter, minimum_filter, percentile_filter

from ..core import Flag, NoiseModel, OriginMap, Scan, binned_sum
from . import block_sums, find_bar, no_origin

RIVAL_BLOCKS = 2  # blocks along each side of the scan whose patterns are summed: diffuse scattering is dim
MAX_RIVAL_SIDE = 128  # pixels; larger frames are binned, for speed
DIFFUSE_SECTORS = 12  # of the azimuth; opposite ones are compared
RING_FRACTION = 1 / 20  # of the frame, width of the rings that are compared
DIM_QUANTILE = 0.2  # of the pixels of a sector: those between the disks
MIN_SECTOR_PIXELS = 8  # pixels in a sector that tell something
DIFFUSE_BLUR_PX = 1.0  # binned pixels, 1 sigma: fewer electrons than one are no quantile
MIN_LIT_SIGMAS = 3.0  # of a smoothed pixel, that a sector has to exceed; two dark ones agree about any place
MIN_LIT_SHARE = 0.15  # of the pairs; fewer are disks that cover a sector, in patterns without diffuse scattering
MIN_RIVAL_RADII, MIN_RIVAL_PX = 1.5, 5.0  # distance of a rival from the located beam: radii, binned pixels
OPENING_MARGIN_PX = 8  # binned pixels, by which the square of the opening exceeds a disk: its edge is blurred
OPENED_PERCENT = 15  # of the pixels of the square, between disks; the lowest pixel alone would be noise
MAX_OPENED_PARTS = 4  # the square is at most this part of the frame
DEAD_SIDE_PX = 5  # pixels, side of a square of one value in the sum of patterns
MAX_DEAD_VALUES = 2  # values of such squares: of dead chips, and of pixels at full scale
MIN_RIVAL_DISK = 0.15  # contrast of a disk near a rival in that of the located disk, without which it is none
MIN_SEEN_AROUND = 0.8  # of the pixels about a place that are good; else a disk may be hidden there
MAX_DIM_PX = 12  # binned pixels, half the side of the surroundings of a place; chosen for speed
MIN_UNSHADED = 0.5  # brightness of a place in that between disks around it; darker ones may lie behind a stop
RIVAL_STEP_PX = 4  # binned pixels between the places that are tried
MIN_VAGUE_RATIO = 3.0  # scatter of positions in that of counting, from which on a stop is looked for
TIP_FRACTION = 0.08  # of the frame, between the end of a stop and the positions


@dataclass(frozen=True, eq=False)
class DiffuseImage:
    """Sum of patterns for a look at their diffuse scattering; lengths are binned pixels.

    Attributes
    ----------
    smooth : numpy.ndarray, shape (Hx, Hy)
        Smoothed sum of patterns, electrons in a bin.
    between : numpy.ndarray, shape (Hx, Hy)
        The same without its disks.
    good : numpy.ndarray of bool, shape (Hx, Hy)
        True where at least half of a bin is good.
    sigma : float
        Noise of a dark pixel, electrons.
    step : int
        Side of a bin, detector pixels.
    middle : numpy.ndarray, shape (2,)
        The located beam.
    radius : float
        Radius of its disk; 0 if it is not known.
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
            The measured origin, valid somewhere.

        Returns
        -------
        DiffuseImage
            The sum.
        """
        sums, counts, _ = block_sums(scan, noise, RIVAL_BLOCKS)
        total = sums.sum(0)
        step = -(-max(scan.pattern_shape) // MAX_RIVAL_SIDE)
        # A dead chip has one value, and is dark about any place, as is what a picture clips to black.
        dead = maximum_filter(total, DEAD_SIDE_PX) == minimum_filter(total, DEAD_SIDE_PX)
        dead &= (total == total.min()) | (len(np.unique(total[dead])) <= MAX_DEAD_VALUES)
        alive = ~noise.bad_pixels & ~binary_dilation(dead, iterations=DEAD_SIDE_PX)
        good, known = (binned_sum(a.astype(np.float32), step) >= step**2 / 2 for a in (alive, ~noise.bad_pixels))
        electrons = np.where(known, binned_sum(np.where(noise.bad_pixels, 0.0, total), step), 0.0)
        share = gaussian_filter(known.astype(float), DIFFUSE_BLUR_PX)
        smooth = gaussian_filter(electrons, DIFFUSE_BLUR_PX) / np.maximum(share, 1e-3)
        # Below a step of their values, pictures tell nothing: their offset was chosen for the contrast.
        rounding = 0.0 if noise.counting or scan.dtype.kind == "f" else 1.0
        readout = np.hypot(noise.readout, rounding) / noise.gain * step * counts.sum() ** 0.5
        sigma = max(1.0, readout) / (2 * np.pi**0.5 * DIFFUSE_BLUR_PX)
        radius = float(np.nan_to_num(origin.radius)) / step
        middle = np.array([np.median(q[origin.valid]) for q in (origin.qx0, origin.qy0)])
        return cls(smooth, _between_disks(smooth, known, radius), good, sigma, step, (middle - (step - 1) / 2) / step,
                   radius)

    def asymmetry(self, center) -> tuple[float, float, int]:
        """Measure how much opposite sectors differ about a center, see `diffuse_asymmetry`.

        Parameters
        ----------
        center : array_like, shape (2,)
            The center.

        Returns
        -------
        asymmetry, error : float
            Of the sectors.
        pairs : int
            Pairs of sectors that were compared.
        """
        return diffuse_asymmetry(self.between, self.good, center, self.radius, self.sigma)

    def refused(self, at, scan_shape) -> OriginMap:
        """Refuse the origin, since the diffuse scattering is centered elsewhere.

        Parameters
        ----------
        at : array_like, shape (2,)
            The other place.
        scan_shape : tuple of int
            (Rx, Ry).

        Returns
        -------
        OriginMap
            Not accepted.
        """
        there = np.asarray(at) * self.step + (self.step - 1) / 2
        away = self.step * float(np.hypot(*(np.asarray(at) - self.middle)))
        return no_origin(scan_shape, Flag("diffuse_elsewhere", {
            "distance": away, "qx0": float(there[0]), "qy0": float(there[1])}))

    def possible(self) -> tuple[np.ndarray, np.ndarray]:
        """Find the places where the direct beam may lie instead: it shows a disk there, or something hides it.

        Returns
        -------
        disk, hidden : numpy.ndarray of bool, shape (Hx, Hy)
            True where either is so. Elsewhere the direct beam does not lie, however even the surroundings are.
        """
        share, core, around = (np.maximum(gaussian_filter(self.good.astype(float), width), 1e-3)
                               for width in (0.0, 0.5 * max(self.radius, 1.0), 2 * max(self.radius, 1.0)))
        filled = np.where(self.good, self.smooth, 0.0)
        core_level = gaussian_filter(filled, 0.5 * max(self.radius, 1.0)) / core
        level = gaussian_filter(filled, 2 * max(self.radius, 1.0)) / around
        disk = np.where(share > 0.5, core_level - level, 0.0)
        x, y = (np.arange(n) - q for n, q in zip(self.good.shape, self.middle, strict=True))
        near = np.hypot(x[:, None], y) < max(MIN_RIVAL_RADII * self.radius, MIN_RIVAL_PX) + 0.5 * self.radius
        here = disk[near].max(initial=0.0)
        disk = maximum_filter(np.where(near, 0.0, disk), 2 * RIVAL_STEP_PX + 1)
        hidden = minimum_filter(core, RIVAL_STEP_PX + 1) < MIN_SEEN_AROUND
        dim = percentile_filter(self.smooth, 100 * DIM_QUANTILE, 2 * int(np.clip(3 * self.radius, 6, MAX_DIM_PX)) + 1)
        shadow = minimum_filter(core_level - MIN_UNSHADED * dim, RIVAL_STEP_PX + 1) < 0
        return disk > MIN_RIVAL_DISK * here, hidden | shadow


def check_stop(scan: Scan, noise: NoiseModel, origin: OriginMap, stopped: bool) -> OriginMap:
    """Refuse an origin whose positions scatter, if a beam stop reaches the beam: its edges are taken for the disk's.

    Parameters
    ----------
    scan : Scan
        The scan, or a sample of one.
    noise : NoiseModel
        Noise model of the detector; pixels behind a stop are bad.
    origin : OriginMap
        The measured origin.
    stopped : bool
        Whether a stop was found; if not, it is looked for at the positions.

    Returns
    -------
    OriginMap
        The same, or refused.
    """
    flag = next((flag for flag in origin.flags if flag.name == "position_uncertain"), None)
    if not origin.found or flag is None or flag.numbers["sigma"] < MIN_VAGUE_RATIO * flag.numbers["counting"]:
        return origin
    if not stopped:
        sums, counts, _ = block_sums(scan, noise, 1)
        middle = [np.median(q[origin.valid]) for q in (origin.qx0, origin.qy0)]
        stopped = find_bar(sums[0], ~noise.bad_pixels, noise.readout / noise.gain * counts[0] ** 0.5, middle,
                           max(TIP_FRACTION * max(scan.pattern_shape), 2 * np.nan_to_num(origin.radius))) is not None
    return no_origin(scan.scan_shape, Flag("hidden_by_stop")) if stopped else origin


def _between_disks(smooth, good, radius: float):
    """Sum of patterns without its disks: a morphological opening by a square that none of them fills."""
    side = min(2 * int(np.ceil(radius)) + OPENING_MARGIN_PX, min(smooth.shape) // MAX_OPENED_PARTS)
    lowest = percentile_filter(np.where(good, smooth, np.inf), OPENED_PERCENT, side, mode="constant")
    opened = maximum_filter(np.where(np.isfinite(lowest), lowest, 0.0), side)
    return np.where(good, np.minimum(opened, smooth), 0.0)


def diffuse_asymmetry(smooth, good, center, radius: float, sigma: float) -> tuple[float, float, int]:
    """Measure how much opposite sectors differ about a center, by their dim pixels.

    Parameters
    ----------
    smooth : numpy.ndarray, shape (Qx, Qy)
        Sum of patterns, electrons.
    good : numpy.ndarray of bool, shape (Qx, Qy)
        Pixels to use.
    center : array_like, shape (2,)
        The center, pixels.
    radius : float
        Radius of the direct disk, pixels; its surroundings are left out.
    sigma : float
        Noise of a dark pixel, electrons.

    Returns
    -------
    asymmetry, error : float
        Mean absolute logarithm of the ratio of opposite sectors, less its noise, and its standard error; NaN without
        pairs.
    pairs : int
        Pairs of sectors that were compared.

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
    use = good & (distance > MIN_RIVAL_RADII * radius)
    cell, values = (ring * DIFFUSE_SECTORS + sector)[use], smooth[use]
    if not len(values):
        return np.nan, np.nan, 0
    number = np.bincount(cell, minlength=(int(ring.max()) + 1) * DIFFUSE_SECTORS)
    at = np.cumsum(number) - number + (DIM_QUANTILE * number).astype(int)
    dim = values[np.lexsort((values, cell))][at.clip(max=len(values) - 1)].clip(0) + sigma
    dim, number = (a.reshape(-1, 2, DIFFUSE_SECTORS // 2) for a in (dim, number))
    # The sum, not the brighter one: of dark sectors, noise would choose those that differ.
    large = (number >= MIN_SECTOR_PIXELS).all(1)
    compared = large & (dim.sum(1) > 2 * MIN_LIT_SIGMAS * sigma)
    noise = ((dim / (4 * np.pi * DIFFUSE_BLUR_PX**2) + sigma**2) / dim**2).sum(1)  # variance of the logarithm
    ratio = np.sqrt(np.maximum(np.log(dim[:, 0] / dim[:, 1]) ** 2 - noise, 0))[compared]
    if len(ratio) <= MIN_LIT_SHARE * np.count_nonzero(large):
        return np.nan, np.nan, 0
    return float(ratio.mean()), float(ratio.std() / len(ratio) ** 0.5), len(ratio)
