"""Shift of the shadow image inside the direct disk from one scan position to the next, in scans with a defocused probe.

With a defocused probe the direct disk shows a shadow image of the specimen, which moves across the disk as the probe
moves over the specimen: by A d if the probe moves by d scan steps. A = F R(-theta) H with the flip F, the rotation
theta, and the symmetric matrix H of defocus and astigmatism (Lupini et al., Microsc. Microanal. 22, 1242 (2016)). The
rotation and the flip follow from A, with an ambiguity of 180 degrees, since the sign of the defocus is unknown.

The cross-correlation of the disks of neighboring positions, summed over many pairs, has its peak at A d, even at doses
at which the shadow image is not visible in single patterns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft

from ..core import NoiseModel, Scan, flat_origins, jackknife_covariance, robust_sigma

TILES_ALONG = 5  # largest number of tiles along each side of the scan
MIN_TILE, MAX_TILE = 4, 12  # positions; smallest and largest side of a tile
STEPS = (1, 2, 3)  # scan steps; distances of the positions that are compared
MAX_RADIUS_PX = 32.0  # pixels; largest radius of a disk: larger disks are binned
MIN_IMAGE_RADIUS_PX = 4.0  # pixels; smallest radius of a disk that can show an image
DISK_PART = 0.93  # radii; radius of the compared part of the disk: the edge does not move with the specimen
MIN_DISK_OVERLAP = 0.15  # fraction of the disk; smallest overlap of two shifted disks at which a peak is searched for
PEAK_BLUR_PX = 0.8  # pixels, 1 sigma; smoothing of the correlation
MIN_PEAK_SIGMAS = 6.5  # standard deviations; smallest peak: noise reaches it in one of 10,000 searches of 1,000 shifts
FINE = 6  # number of samples to each side of a peak on the grids on which it is refined
MAX_INCONSISTENT_PX = 1.0  # pixels; largest difference of the peak of n steps from n times the shift of a single step


@dataclass(frozen=True)
class ShadowShift:
    """Shift of the shadow image.

    Attributes
    ----------
    matrix : numpy.ndarray, shape (2, 2)
        Shift in pixels for a step along the rows (first column) and along the columns of the scan.
    covariance : numpy.ndarray, shape (4, 4)
        Jackknife covariance of the elements of `matrix` in C order.
    peak : float
        Height of the lower of the two peaks of single steps, in standard deviations of the correlation.
    """

    matrix: np.ndarray
    covariance: np.ndarray
    peak: float

    def undistorted(self, matrix) -> ShadowShift:
        """Return the shift after a linear map of the pattern.

        Parameters
        ----------
        matrix : array_like, shape (2, 2)
            Matrix from measured to undistorted vectors of the pattern.

        Returns
        -------
        ShadowShift
            The shift of the undistorted pattern.
        """
        kronecker = np.kron(matrix, np.eye(2))
        return ShadowShift(matrix @ self.matrix, kronecker @ self.covariance @ kronecker.T, self.peak)


def measure_shadow(scan: Scan, qx0, qy0, radius, noise: NoiseModel, valid=None) -> ShadowShift | None:
    """Measure how the shadow image in the direct disk moves with the probe.

    Parameters
    ----------
    scan : Scan
        The scan; an even sample of it, of about 3,000 positions at most, is read.
    qx0, qy0 : numpy.ndarray, shape (Rx, Ry)
        Fitted origin, pixels.
    radius : float
        Radius of the direct disk, pixels.
    noise : NoiseModel
        Noise model; bad pixels are filled.
    valid : numpy.ndarray of bool, shape (Rx, Ry), optional
        True where a position is used.

    Returns
    -------
    ShadowShift or None
        The shift; None if the disks of neighboring positions show no moving image.

    Examples
    --------
    >>> from py4dstem_prenet.core import NoiseModel, as_scan
    >>> noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((64, 64), bool), counting=True, dose=1e4)
    >>> vacuum = as_scan(np.random.default_rng(0).poisson(9.0, (8, 8, 64, 64)))
    >>> measure_shadow(vacuum, np.full((8, 8), 32.0), np.full((8, 8), 32.0), 10.0, noise) is None
    True
    """
    if not np.isfinite(radius) or radius < MIN_IMAGE_RADIUS_PX:
        return None
    origin = flat_origins(scan.scan_shape, qx0, qy0).reshape(*scan.scan_shape, 2)
    usable = np.isfinite(origin).all(-1) & scan.readable
    if valid is not None:
        usable &= np.asarray(valid, bool)
    bins = int(np.ceil(radius / MAX_RADIUS_PX))
    disks = [_disks(scan, tile, origin, usable, radius, bins, noise) for tile in _tiles(scan.scan_shape)]
    disks = [d for d in disks if d is not None]
    if len(disks) < 2:
        return None
    radius = radius / bins
    side = disks[0][0].shape[-1]
    size = fft.next_fast_len(2 * side, real=True)
    axis = np.arange(side) - side // 2
    mask = np.clip(DISK_PART * radius + 0.5 - np.hypot(axis[:, None], axis[None, :]), 0, 1).astype(np.float32)
    count = sum(d[1].sum() for d in disks)
    mean = sum(np.einsum("xyij,xy->ij", d[0], d[1].astype(np.float32)) for d in disks) / count
    overlap = fft.irfft2(np.abs(fft.rfft2(mask, s=(size, size))) ** 2, s=(size, size))
    parts = np.stack([_correlations(*d, mean, mask, size) for d in disks])  # (tiles, steps, axes, size, size // 2 + 1)
    searched = overlap > MIN_DISK_OVERLAP * overlap.max()
    start = _matrix(parts.sum(0), overlap, searched, size)
    if start is None:
        return None
    matrix, peak = start
    leave_one_out = [_matrix(parts.sum(0) - part, overlap, searched, size, near=matrix) for part in parts]
    covariance = jackknife_covariance(np.array([r[0].ravel() for r in leave_one_out]))
    return ShadowShift(matrix * bins, covariance * bins**2, peak)


def _tiles(scan_shape):
    """Slices of contiguous tiles that are spread evenly over a scan."""
    along = []
    for n in scan_shape:
        count = int(np.clip(n // MIN_TILE, 1, TILES_ALONG))
        starts = np.arange(count) * n // count
        along.append([slice(int(s), int(min(s + n // count, s + MAX_TILE))) for s in starts])
    return [(rows, columns) for rows in along[0] for columns in along[1]]


def _disks(scan, tile, origin, usable, radius, bins, noise):
    """Normalized disks (rows, columns, side, side) of a tile, mask of usable disks, and sub-pixel offset of the origin.

    The windows are cut at whole pixels; the offset is that of the origin from the middle of the window, binned pixels.
    """
    at, use = origin[tile], usable[tile]
    if not use.any():
        return None
    half = int(np.ceil((radius + 1) / bins))
    side = 2 * half + 1
    reach = side * bins
    rows, columns = np.meshgrid(*(np.arange(s.start, s.stop) for s in tile), indexing="ij")
    chosen = (rows * scan.scan_shape[1] + columns)[use]
    low = np.rint(np.where(use[..., None], at, 0) - (reach - 1) / 2).astype(int)
    inside = (low >= 0).all(-1) & (low[..., 0] + reach <= scan.pattern_shape[0])
    inside &= low[..., 1] + reach <= scan.pattern_shape[1]
    disks = np.zeros((*use.shape, side, side), np.float32)
    for index, block in scan.blocks(positions=chosen):
        rows, columns = np.divmod(index, scan.scan_shape[1])
        for pattern, i, j in zip(noise.electrons(block), rows - tile[0].start, columns - tile[1].start, strict=True):
            if inside[i, j]:
                a, b = low[i, j]
                cut = pattern[a : a + reach, b : b + reach].reshape(side, bins, side, bins).sum((1, 3))
                total = cut.sum()
                disks[i, j] = cut / total if total > 0 else 0
    use = use & inside & (disks.sum((2, 3)) > 0)
    subpixel = (at - low - (reach - 1) / 2) / bins
    return (disks, use, np.where(use[..., None], subpixel, 0.0)) if use.any() else None


def _correlations(disks, use, rest, mean, mask, size):
    """Cross spectra (steps, 2, size, size // 2 + 1) of a tile, summed over its pairs of positions."""
    contrast = (disks - mean) * mask * use[..., None, None]
    contrast -= mask * (contrast.sum((2, 3)) / mask.sum())[..., None, None]
    kx, ky = fft.fftfreq(size)[:, None], fft.rfftfreq(size)[None, :]
    spectra = fft.rfft2(contrast, s=(size, size)).astype(np.complex64)
    spectra *= np.exp(2j * np.pi * (rest[..., 0, None, None] * kx + rest[..., 1, None, None] * ky))
    cross_spectra = np.zeros((len(STEPS), 2, *spectra.shape[2:]), np.complex128)
    for k, step in enumerate(STEPS):
        cross_spectra[k, 0] = np.einsum("xyij,xyij->ij", spectra[:-step].conj(), spectra[step:])
        cross_spectra[k, 1] = np.einsum("xyij,xyij->ij", spectra[:, :-step].conj(), spectra[:, step:])
    return cross_spectra


def _matrix(spectra, overlap, searched, size, near=None):
    """Matrix and lower peak of single steps; None if one has no peak. `near` is a matrix that predicts the peaks."""
    columns, lowest = [], np.inf
    kx, ky = fft.fftfreq(size)[:, None], fft.rfftfreq(size)[None, :]
    blur = np.exp(-2 * (np.pi * PEAK_BLUR_PX) ** 2 * (kx**2 + ky**2))
    for axis in (0, 1):
        shifts, weights = [], []
        for k, step in enumerate(STEPS):
            smooth = spectra[k, axis] * blur
            start = None if near is None else near[:, axis] * step
            peak = _peak(smooth, overlap, searched, start)
            if peak is None:
                if step == 1 and near is None:
                    return None
                continue
            place, height = peak
            if step == 1:
                lowest = min(lowest, height)
            elif not shifts or np.hypot(*(place - step * shifts[0])) > MAX_INCONSISTENT_PX:
                continue
            shifts.append(place / step)
            weights.append((height * step) ** 2)
        if not shifts:
            return near, lowest
        columns.append(np.average(shifts, axis=0, weights=weights))
    return np.stack(columns, -1), lowest


def _peak(spectrum, overlap, searched, start):
    """Shift in pixels with the largest correlation per overlapping pixel, and its height in standard deviations.

    Returns None if there is no peak. With `start`, the peak nearest to it is used.
    """
    size = len(overlap)
    map_ = fft.irfft2(spectrum, s=(size, size))
    precision = np.sqrt(np.clip(overlap / overlap.max(), 1e-6, None))  # noise is proportional to this root
    with np.errstate(divide="ignore", invalid="ignore"):
        significance = map_ / precision
    scale = robust_sigma(significance[searched])
    if not scale > 0:
        return None
    if start is None:
        i, j = np.unravel_index(np.argmax(np.where(searched, significance, -np.inf)), map_.shape)
        if significance[i, j] < MIN_PEAK_SIGMAS * scale:
            return None
        start = (np.array([i, j]) + size // 2) % size - size // 2
    elif not searched[tuple(np.rint(start).astype(int) % size)]:
        return None
    height = float(max(significance[tuple(np.rint(start).astype(int) % size)] / scale, 1.0))
    place = np.array(start, float)
    # Refine the maximum of the ratio of two band-limited maps on finer and finer grids.
    for step in (0.5, 0.1, 0.02):
        grid = step * np.arange(-FINE, FINE + 1)
        fine = _values(spectrum, place, grid, size) / _values(fft.rfft2(overlap), place, grid, size)
        at = np.array(np.unravel_index(np.argmax(fine), fine.shape)) - FINE
        place = place + step * at
        if step == 0.5 and np.abs(at).max() == FINE:
            return None  # the maximum lies outside the grid
    return place, height


def _values(spectrum, place, grid, size):
    """Evaluate a map at place + grid along both axes from its real Fourier transform."""
    kx, ky = fft.fftfreq(size), fft.rfftfreq(size)
    twice = np.where((ky == 0) | (ky == 0.5), 1.0, 2.0)
    left = np.exp(2j * np.pi * (place[0] + grid)[:, None] * kx)
    right = np.exp(2j * np.pi * ky[:, None] * (place[1] + grid)[None, :]) * twice[:, None]
    return (left @ spectrum @ right).real / size**2
