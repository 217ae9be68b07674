"""Bragg disks of single patterns, and their pooled positions.

Where few grains contribute to a pattern, its disks are separate, and their positions are sharper than the rings of the
pooled pattern, which are as wide as a disk. Each pattern is correlated with a disk less an annulus around it, and the
local maxima that exceed the noise are kept. The positions, relative to the origin of their pattern, make up an image
that is fitted like a pooled pattern whose disks are points.
"""

from __future__ import annotations

import numpy as np
from scipy import fft
from scipy.ndimage import maximum_filter

from ..fits import Pooled

MIN_MAXIMUM_SIGMAS = 6.0  # standard errors by which a disk exceeds the annulus around it
MIN_RELATIVE_SIGNIFICANCE = 0.35  # of the most significant disk of a pattern: faint ones are off the Bragg condition
MIN_DISTANCE_RADII = 2.2  # radii of the direct disk from the origin to the center of a Bragg disk
ANNULUS_RADII, ANNULUS_PX = 1.45, 1.5  # outer radius of the annulus: radii, and pixels beyond
NEIGHBOR_RADII = 0.8  # radii of the direct disk within which only the largest maximum is kept
VARIANCE_FLOOR = 0.02  # of the variance of the square root of a pixel, for patterns of few electrons
CORRELATED_AT_ONCE = 32  # patterns correlated at a time: for memory


def kernel_of(disk: float):
    """Return the kernel that disks are found with.

    Parameters
    ----------
    disk : float
        Radius of the direct disk, pixels.

    Returns
    -------
    numpy.ndarray, shape (k, k)
        The mean over the disk less the mean over the annulus; k is odd.

    Examples
    --------
    >>> from py4dstem_prenet.pixel_size.disks import kernel_of
    >>> kernel = kernel_of(4.0)
    >>> bool(abs(kernel.sum()) < 1e-9), kernel.shape[0] % 2
    (True, 1)
    """
    disk = max(disk, 1.0)
    outer = ANNULUS_RADII * disk + ANNULUS_PX
    half = int(np.ceil(outer)) + 1
    radius = np.hypot(*np.mgrid[-half : half + 1, -half : half + 1])
    inside = np.clip(disk - radius + 0.5, 0, 1)
    annulus = np.clip(outer - radius + 0.5, 0, 1) * np.clip(radius - disk - 0.5, 0, 1)
    return inside / inside.sum() - annulus / annulus.sum()


def disk_maxima(patterns, disk: float, readout: float):
    """Find disks in patterns.

    Parameters
    ----------
    patterns : numpy.ndarray, shape (n, Qx, Qy)
        Electrons.
    disk : float
        Radius of the direct disk, pixels.
    readout : float
        Read-out noise of a pixel, electrons.

    Returns
    -------
    index : numpy.ndarray of int, shape (m,)
        Pattern of each disk.
    position : numpy.ndarray, shape (m, 2)
        Center (x, y), pixels.
    significance : numpy.ndarray, shape (m,)
        Standard errors.
    """
    kernel = kernel_of(disk)
    half = kernel.shape[0] // 2
    shape = [fft.next_fast_len(n + 2 * half, real=True) for n in patterns.shape[1:]]
    transforms = [fft.rfft2(k[::-1, ::-1], shape) for k in (kernel, kernel**2)]
    window = 2 * max(1, round(NEIGHBOR_RADII * disk)) + 1
    inner = max(1, round(disk))
    noise = VARIANCE_FLOOR + min(readout**2, readout / 2)  # of square roots
    found = []
    for start in range(0, len(patterns), CORRELATED_AT_ONCE):
        block = patterns[start : start + CORRELATED_AT_ONCE].astype(np.float32)
        block = np.sqrt(np.clip(block, 0, None))  # edges count more than the contrast in disks
        signal, variance = (
            fft.irfft2(fft.rfft2(values, shape) * transform, shape)[:, half : half + block.shape[1],
                                                                   half : half + block.shape[2]]
            for values, transform in ((block, transforms[0]), (np.minimum(block**2, 0.25) + noise, transforms[1])))
        ratio = signal / np.sqrt(np.maximum(variance, 1e-12))
        top = (signal == maximum_filter(signal, (1, window, window))) & (ratio > MIN_MAXIMUM_SIGMAS)
        top[:, :inner] = top[:, -inner:] = top[:, :, :inner] = top[:, :, -inner:] = False
        k, x, y = np.nonzero(top)
        found.append((k + start, np.stack([x, y], 1) + _subpixel(signal, k, x, y), ratio[top]))
    return tuple(np.concatenate(values) for values in zip(*found, strict=True))


def _subpixel(signal, k, x, y):
    """Offsets (m, 2) of the maxima, from parabolas. A wider step would follow the contrast inside the disks."""
    offsets = []
    for dx, dy in ((1, 0), (0, 1)):
        below, at, above = (signal[k, np.clip(x + s * dx, 0, signal.shape[1] - 1),
                                   np.clip(y + s * dy, 0, signal.shape[2] - 1)] for s in (-1, 0, 1))
        curvature = np.minimum(below - 2 * at + above, -1e-9)
        offsets.append(np.clip((below - above) / (2 * curvature), -1, 1))
    return np.stack(offsets, 1)


def pool_disks(index, position, significance, origin, part, disk: float, frame: Pooled) -> Pooled:
    """Make an image of the positions of disks.

    Parameters
    ----------
    index : numpy.ndarray of int, shape (m,)
        Pattern of each disk.
    position : numpy.ndarray, shape (m, 2)
        Centers of the disks, pixels.
    significance : numpy.ndarray, shape (m,)
        Standard errors.
    origin : numpy.ndarray, shape (n, 2)
        Origins of the patterns, pixels.
    part : numpy.ndarray of int, shape (n,)
        Part of the scan of each pattern.
    disk : float
        Radius of the direct disk, pixels.
    frame : Pooled
        The pooled pattern, whose frame is used.

    Returns
    -------
    Pooled
        Weights of the disks; each is distributed over four pixels.
    """
    offset = position - origin[index]
    apart = np.hypot(*offset.T) > MIN_DISTANCE_RADII * disk
    best = np.zeros(len(origin))
    np.maximum.at(best, index[apart], significance[apart])
    keep = apart & (significance > MIN_RELATIVE_SIGNIFICANCE * best[index])
    offset, weight, parts = offset[keep], significance[keep], part[index[keep]]
    count = int(part.max()) + 1
    at = offset + np.asarray(frame.center)
    whole = np.floor(at).astype(int)
    fraction = at - whole
    sums = np.zeros((count, *frame.mean.shape))
    for dx in (0, 1):
        for dy in (0, 1):
            x, y = whole[:, 0] + dx, whole[:, 1] + dy
            inside = (x >= 0) & (y >= 0) & (x < sums.shape[1]) & (y < sums.shape[2])
            share = np.abs(1 - dx - fraction[:, 0]) * np.abs(1 - dy - fraction[:, 1])
            np.add.at(sums, (parts[inside], x[inside], y[inside]), (weight * share)[inside])
    patterns = np.bincount(part, minlength=count).astype(float)
    covered = frame.weight > 0
    return Pooled(sums.sum(0) / patterns.sum(), frame.center, int(patterns.sum()), covered * patterns.sum(),
                  sums / np.maximum(patterns, 1)[:, None, None], covered * patterns[:, None, None])
