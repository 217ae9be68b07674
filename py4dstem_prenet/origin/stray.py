"""Stray light: a wide, soft spot on the detector that looks like a sharp direct beam with tails.

Direct beam and Bragg disks are images of the same aperture and equally sharp. A reflection inside the column or the
camera is out of focus. If the located beam is soft, and a different spot is brighter and much sharper, the located beam
is not the direct beam.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter, label

from . import FirstGuess

# Number of blocks along each side of the scan, tried in this order; the descan blurs small blocks less, but large
# blocks contain more electrons.
STRAY_BLOCKS = 4, 2
STRAY_BLUR_PX = 1.0  # pixels, 1 sigma; smoothing of counting noise
MAX_SHARPER = 0.6  # ratio; largest radius of the sharper spot relative to the soft spot, both at half of the height
# Ratio of the area above a fifth of the height to the area above four fifths; smallest of a soft spot: 7 for a
# Gaussian, 2 for a disk of 5 px, 4 for a disk of 2.5 px.
MIN_SOFTNESS = 4.5
MIN_STRAY_SIGMAS = 5.0  # standard errors; smallest excess of the sharper spot over the soft spot in a smoothed pixel
MIN_STRAY_ELECTRONS = 25.0  # electrons in a smoothed pixel; smallest height of the soft spot: levels are exact to 6 %
MIN_STRAY_VOTES = 0.5  # fraction of the blocks; fewest that show a sharper spot
FIRST_VOTES = 4  # blocks; if none of these shows a sharper spot, the search ends, for speed
STRAY_RADII = 2.4  # radii at half of the height; radius of the mask of stray light, at which a Gaussian has 2 %


def stray_light(blocks, good, readout: float, guess: FirstGuess, scan_shape):
    """Find the pixels of stray light if the first guess of the beam is a soft spot and a sharper spot is brighter.

    Parameters
    ----------
    blocks : tuple
        Sums over blocks of the scan, see `block_sums`.
    good : numpy.ndarray of bool, shape (Qx, Qy)
        Pixels to use.
    readout : float
        Read-out noise of a pixel of a pattern, electrons.
    guess : FirstGuess
        The first guess.
    scan_shape : tuple of int
        (Rx, Ry).

    Returns
    -------
    tuple or None
        Mask (Qx, Qy) of the soft spot, and position (2,) of the sharper spot in pixels; None if the guess is not stray
        light.
    """
    sums = blocks[0]
    sharper = next((found for side in STRAY_BLOCKS
                   if (found := _sharper_spots(side, blocks, good, readout, guess, scan_shape))), [])
    if not sharper:
        return None
    smooth = _smoothed(sums.sum(0), good)
    top = _top(smooth, np.median(guess.position, 0))
    half = np.sqrt(_area(smooth, top, 0.5 * smooth[top]).sum() / np.pi)
    x, y = np.indices(smooth.shape)
    return np.hypot(x - top[0], y - top[1]) < STRAY_RADII * half, np.median(sharper, 0)


def _sharper_spots(side, blocks, good, readout, guess, scan_shape):
    """Positions of the sharper spot in sums over side x side blocks of the scan; empty if too few blocks show it."""
    sums, counts, grid = blocks
    coarse = tuple(min(side, n) for n in grid)
    row, column = np.divmod(np.arange(len(sums)), grid[1])
    group = row * coarse[0] // grid[0] * coarse[1] + column * coarse[1] // grid[1]
    rows, columns = (np.arange(n) * g // n for n, g in zip(scan_shape, coarse, strict=True))
    group_of = (rows[:, None] * coarse[1] + columns).ravel()
    shown = [k for k in range(coarse[0] * coarse[1]) if counts[group == k].any()]
    sharper = []
    for number, k in enumerate(shown):
        if number == FIRST_VOTES and not sharper:
            return []
        center = np.median(guess.position[group_of == k], 0)
        members = group == k
        spot = sharper_spot(sums[members].sum(0), good, center, readout * counts[members].sum() ** 0.5)
        sharper += [] if spot is None else [spot]
    return sharper if len(sharper) >= MIN_STRAY_VOTES * len(shown) else []


def sharper_spot(pattern, good, center, readout: float = 0.0):
    """Find a spot that is brighter and much sharper than a given soft spot.

    Parameters
    ----------
    pattern : numpy.ndarray, shape (Qx, Qy)
        Sum of patterns, electrons.
    good : numpy.ndarray of bool, shape (Qx, Qy)
        Pixels to use.
    center : array_like, shape (2,)
        Position of the given spot, pixels.
    readout : float, optional
        Read-out noise of a pixel of the sum, electrons.

    Returns
    -------
    tuple of float or None
        Position of the sharper spot, pixels; None if the given spot is not soft, or if no spot is brighter and sharper.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.origin import sharper_spot
    >>> x, y = np.indices((64, 64))
    >>> stray = 40 * np.exp(-((x - 20) ** 2 + (y - 20) ** 2) / 50)
    >>> beam = 100.0 * (np.hypot(x - 45, y - 40) < 2.5)
    >>> good = np.ones(stray.shape, bool)
    >>> [round(q) for q in sharper_spot(stray + beam, good, (20, 20))], sharper_spot(stray + beam, good, (45, 40))
    ([45, 40], None)
    """
    smooth = _smoothed(pattern, good)
    top = _top(smooth, center)
    height = smooth[top]
    if height < max(MIN_STRAY_ELECTRONS, 2 * MIN_STRAY_SIGMAS * readout / (2 * np.pi**0.5 * STRAY_BLUR_PX)):
        return None
    areas = [_area(smooth, top, level * height) for level in (0.8, 0.5, 0.2)]
    if areas[2].sum() < MIN_SOFTNESS * areas[0].sum():
        return None
    elsewhere = np.where(binary_dilation(areas[1], iterations=2), 0.0, smooth)
    brightest = np.unravel_index(elsewhere.argmax(), smooth.shape)
    error = np.sqrt((smooth[brightest] + height + readout**2) / (4 * np.pi * STRAY_BLUR_PX**2))
    if smooth[brightest] - height < MIN_STRAY_SIGMAS * error:
        return None
    spot = _area(smooth, brightest, 0.5 * smooth[brightest])
    cut = binary_dilation(spot, border_value=0) & ~good
    cut = cut.any() or spot[[0, -1]].any() or spot[:, [0, -1]].any()  # the size of a spot that is cut is unknown
    if cut or spot.sum() > MAX_SHARPER**2 * areas[1].sum():
        return None
    return float(brightest[0]), float(brightest[1])


def _smoothed(pattern, good):
    """Smooth a pattern over good pixels and subtract its median; 0 in bad pixels."""
    covered = gaussian_filter(good.astype(float), STRAY_BLUR_PX).clip(0.05)
    smooth = gaussian_filter(np.where(good, pattern, 0.0).astype(float), STRAY_BLUR_PX) / covered
    return np.where(good, smooth - np.median(smooth[good]), 0.0)


def _top(smooth, center):
    """Brightest pixel within two pixels of a position."""
    corner = [int(np.clip(round(float(c)) - 2, 0, n - 1)) for c, n in zip(center, smooth.shape, strict=True)]
    part = smooth[corner[0] : corner[0] + 5, corner[1] : corner[1] + 5]
    at = np.unravel_index(part.argmax(), part.shape)
    return corner[0] + int(at[0]), corner[1] + int(at[1])


def _area(smooth, top, level):
    """Mask (Qx, Qy) of the connected pixels about a maximum that are above a level."""
    labels, _ = label(smooth > level)
    return labels == labels[top]
