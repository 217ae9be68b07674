"""Rivals of a located beam: places about which the diffuse scattering is more symmetric than about the located disk.

The Bragg disks of a crystal repeat: where the direct beam is hidden behind a stop, or dimmer than others, the
brightest disk that is left looks like it. Diffuse scattering does not repeat. It is centered on the direct beam, so the
dim pixels of opposite sectors agree about the direct beam, and about a Bragg disk they differ by factors.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_dilation, binary_opening, gaussian_filter, maximum_filter, minimum_filter

from ..core import Flag, NoiseModel, OriginMap, Scan, binned_sum
from ..fits import ring_center
from . import block_sums, find_bar, no_origin

RIVAL_BLOCKS = 2  # blocks along each side of the scan whose patterns are summed where diffuse scattering is dim
MAX_DIM_DOSE = 1500.0  # electrons a pattern, below which it is; with 16 patterns the disks that were missed had fewer
MAX_RIVAL_SIDE = 128  # pixels; larger frames are binned, for speed
DIFFUSE_SECTORS = 12  # of the azimuth; opposite ones are compared
RING_FRACTION = 1 / 20  # of the frame, width of the rings that are compared
DIM_QUANTILE = 0.2  # of the pixels of a sector: those between the disks
MIN_SECTOR_PIXELS, MIN_SECTOR_PAIRS = 8, 6  # pixels in a sector, and pairs of sectors, that tell something
DIFFUSE_BLUR_PX = 1.0  # binned pixels, 1 sigma: fewer electrons than one are no quantile
MIN_LIT_SIGMAS = 3.0  # of a smoothed pixel, that a sector has to exceed; two dark ones agree about any place
MIN_RIVAL_RADII, MIN_RIVAL_PX = 1.5, 5.0  # distance of a rival from the located beam: radii, binned pixels
DEAD_SIDE_PX = 5  # pixels, side of a square of one value in the sum of patterns
RIVAL_STEP_PX = 4  # binned pixels between the places that are tried
# Mean logarithm of the ratio of opposite sectors. The check as a whole (benchmarks/stops.py) refused none of 80 true
# origins without a stop (below 4 %, 95 % confidence) and 1 of 80 beside a masked one, and left 6 of 104 places of the
# brightest Bragg disk beside a stop.
MAX_ASYMMETRY = 0.5
# Standard errors between the located beam and the best of all rivals: without a stop, and with something that hides a
# disk, where the located disk has to be the better one.
MAX_RIVAL_SIGMAS, MAX_HIDDEN_RIVAL_SIGMAS = 2.0, 1.0
# Where the asymmetry about the located disk is unknown: of a disk that is brighter by this factor.
MIN_BRIGHTER_RATIO, MAX_BRIGHTER_PLACES, MAX_ASYMMETRY_BRIGHTER = 1.2, 4, 0.42
MIN_VAGUE_RATIO = 3.0  # scatter of positions in that of counting, from which on a stop is looked for
TIP_FRACTION = 0.08  # of the frame, between the end of a stop and the positions
MIN_STOP_RADII, MIN_STOP_PX = 0.8, 3.0  # width of bad pixels that hide a disk: radii of the disk, binned pixels


def check_rivals(scan: Scan, noise: NoiseModel, origin: OriginMap) -> OriginMap:
    """Refuse an origin if the diffuse scattering is centered elsewhere.

    Parameters
    ----------
    scan : Scan
        The scan, or a sample of one.
    noise : NoiseModel
        Noise model of the detector; pixels behind a stop are bad.
    origin : OriginMap
        The measured origin.

    Returns
    -------
    OriginMap
        The same, or refused.
    """
    if not origin.found or origin.feature == "rings" or not origin.valid.any():
        return origin
    sums, counts, _ = block_sums(scan, noise, RIVAL_BLOCKS if noise.dose < MAX_DIM_DOSE else 1)
    total = sums.sum(0)
    step = -(-max(scan.pattern_shape) // MAX_RIVAL_SIDE)
    # A dead chip that no mask names has one value, and is dark about any place.
    dead = maximum_filter(total, DEAD_SIDE_PX) == minimum_filter(total, DEAD_SIDE_PX)
    alive = ~noise.bad_pixels & ~binary_dilation(dead, iterations=DEAD_SIDE_PX)
    good = binned_sum(alive.astype(np.float32), step) >= step**2 / 2
    electrons = np.where(good, binned_sum(np.where(alive, total, 0.0), step), 0.0)
    share = gaussian_filter(good.astype(float), DIFFUSE_BLUR_PX)
    smooth = gaussian_filter(electrons, DIFFUSE_BLUR_PX) / np.maximum(share, 1e-3)
    readout = noise.readout / noise.gain * step * counts.sum() ** 0.5
    sigma = max(1.0, readout) / (2 * np.pi**0.5 * DIFFUSE_BLUR_PX)
    radius = float(np.nan_to_num(origin.radius)) / step
    middle = np.array([np.median(q[origin.valid]) for q in (origin.qx0, origin.qy0)])
    middle = (middle - (step - 1) / 2) / step
    here, error, pairs = diffuse_asymmetry(smooth, good, middle, radius, sigma)
    nearest = max(MIN_RIVAL_RADII * radius, MIN_RIVAL_PX)
    if pairs < MIN_SECTOR_PAIRS:  # too near the edge of the frame, or too dark
        at = _brighter_center(smooth, good, middle, radius, sigma, nearest)
        return origin if at is None else _refused(scan, step, middle, at)
    if here < MAX_ASYMMETRY:
        return origin
    width = int(max(MIN_STOP_PX, MIN_STOP_RADII * radius))
    hidden = binned_sum(noise.bad_pixels.astype(np.float32), step) > step**2 / 2
    hides = bool(binary_opening(hidden, np.ones((width, width), bool)).any())
    x, y = (a.ravel() for a in np.meshgrid(*(np.arange(RIVAL_STEP_PX, n - 1, RIVAL_STEP_PX) for n in good.shape),
                                           indexing="ij"))
    far = np.hypot(x - middle[0], y - middle[1]) > nearest
    rivals = [(*diffuse_asymmetry(smooth, good, at, radius, sigma), at) for at in zip(x[far], y[far], strict=True)]
    rivals = [rival for rival in rivals if rival[2] >= max(MIN_SECTOR_PAIRS, pairs / 2)]
    if not rivals:
        return origin
    there, there_error, _, at = min(rivals, key=lambda rival: rival[0])
    sigmas = (here - there) / max(float(np.hypot(error, there_error)), 1e-6)
    if sigmas < (MAX_HIDDEN_RIVAL_SIGMAS if hides else MAX_RIVAL_SIGMAS):
        return origin
    rings = ring_center(total, ~noise.bad_pixels)
    if rings.accepted and np.hypot(*((np.array(rings.center) - (step - 1) / 2) / step - middle)) < nearest:
        return origin  # rings tell more than what lies between disks
    return _refused(scan, step, middle, at)


def _refused(scan, step, middle, at):
    """No origin, since the diffuse scattering is centered elsewhere; both places in binned pixels."""
    away = step * float(np.hypot(*(np.array(at) - middle)))
    return no_origin(scan.scan_shape, Flag("diffuse_elsewhere", {
        "distance": away, "qx0": float(at[0] * step + (step - 1) / 2), "qy0": float(at[1] * step + (step - 1) / 2)}))


def _brighter_center(smooth, good, middle, radius, sigma, nearest):
    """A brighter disk than the located one, about which the diffuse scattering is symmetric, or None."""
    bright = gaussian_filter(np.where(good, smooth, 0.0), max(DIFFUSE_BLUR_PX, radius / 2))
    x, y = np.indices(bright.shape)
    close = np.hypot(x - middle[0], y - middle[1]) <= nearest
    if not close.any():
        return None
    top = bright == maximum_filter(bright, 2 * int(nearest) + 1)
    places = np.argwhere(top & ~close & (bright > MIN_BRIGHTER_RATIO * bright[close].max()))
    for at in sorted(places, key=lambda place: -bright[tuple(place)])[:MAX_BRIGHTER_PLACES]:
        asymmetry, _, pairs = diffuse_asymmetry(smooth, good, at, radius, sigma)
        if pairs >= 2 * MIN_SECTOR_PAIRS and asymmetry < MAX_ASYMMETRY_BRIGHTER:
            return at
    return None


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


def diffuse_asymmetry(smooth, good, center, radius: float, sigma: float) -> tuple[float, float, int]:
    """Measure how much the dim pixels of opposite sectors differ about a center.

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
        Mean absolute logarithm of the ratio of opposite sectors, and its standard error; NaN without pairs.
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
    compared = (number >= MIN_SECTOR_PIXELS).all(1) & (dim.max(1) > MIN_LIT_SIGMAS * sigma)
    ratio = np.abs(np.log(dim[:, 0] / dim[:, 1]))[compared]
    if not len(ratio):
        return np.nan, np.nan, 0
    return float(ratio.mean()), float(ratio.std() / len(ratio) ** 0.5), len(ratio)
