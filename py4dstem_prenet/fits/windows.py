"""Square windows of diffraction patterns around given positions, in electrons."""

from __future__ import annotations

import numpy as np
import torch

from ..core import NoiseModel


def cut_windows(patterns, corner, side: int):
    """Cut square windows out of patterns, or out of one image.

    Parameters
    ----------
    patterns : numpy.ndarray, shape (n, Qx, Qy) or (Qx, Qy)
        One pattern for each window, or one image for all windows.
    corner : numpy.ndarray of int, shape (n, 2)
        First row and column of each window; may lie outside the pattern.
    side : int
        Side of the windows in pixels.

    Returns
    -------
    values : numpy.ndarray, shape (n, side, side)
        The windows. Pixels outside the pattern repeat its edge pixels.
    inside : numpy.ndarray of bool, shape (n, side, side)
        True where a window's pixel lies inside the pattern.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.fits.windows import cut_windows
    >>> values, inside = cut_windows(np.arange(16).reshape(4, 4), np.array([[-1, 2]]), side=2)
    >>> values[0].tolist()
    [[2, 3], [2, 3]]
    >>> inside[0].tolist()
    [[False, False], [True, True]]
    """
    rows = corner[:, :1] + np.arange(side)
    columns = corner[:, 1:] + np.arange(side)
    shape = patterns.shape[-2:]
    inside = ((rows >= 0) & (rows < shape[0]))[:, :, None] & ((columns >= 0) & (columns < shape[1]))[:, None, :]
    rows, columns = rows.clip(0, shape[0] - 1)[:, :, None], columns.clip(0, shape[1] - 1)[:, None, :]
    if patterns.ndim == 2:
        return patterns[rows, columns], inside
    return patterns[np.arange(len(patterns))[:, None, None], rows, columns], inside


def electron_windows(patterns, positions, side: int, noise: NoiseModel, bins: int = 1):
    """Cut windows around positions, convert them to electrons and bin them.

    Parameters
    ----------
    patterns : numpy.ndarray, shape (n, Qx, Qy)
        Patterns in detector units.
    positions : numpy.ndarray, shape (n, 2)
        Position (x, y) of each window in pixels. Windows are centered on it to the nearest pixel.
    side : int
        Side of the windows in bins.
    noise : NoiseModel
        Noise model of the detector; its bad pixels are excluded.
    bins : int, optional
        Side of a bin in pixels.

    Returns
    -------
    electrons : torch.Tensor, shape (n, side, side)
        Electrons in each bin, float32: the sum over its usable pixels, scaled to the whole bin; zero where no pixel is
        usable.
    good : torch.Tensor of bool, shape (n, side, side)
        True where at least half of the bin's pixels are usable.
    middle : numpy.ndarray, shape (n, 2)
        Middle of each window in pixels.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.core import NoiseModel
    >>> from py4dstem_prenet.fits import electron_windows
    >>> noise = NoiseModel(2.0, 0.0, 0.0, np.zeros((8, 8), bool), counting=True, dose=64.0)
    >>> electrons, good, middle = electron_windows(np.full((1, 8, 8), 6.0), np.array([[3.2, 4.1]]), 3, noise)
    >>> electrons[0, 0].tolist(), bool(good.all()), middle.tolist()
    ([3.0, 3.0, 3.0], True, [[3.0, 4.0]])
    """
    span = side * bins
    corner = np.floor(positions - (span - 1) / 2 + 0.5).astype(int)
    values, inside = cut_windows(patterns, corner, span)
    good = torch.from_numpy(inside & ~cut_windows(noise.bad_pixels, corner, span)[0])
    electrons = torch.from_numpy(values.astype(np.float32)).sub_(noise.offset).div_(noise.gain)
    electrons = electrons.masked_fill_(~good, 0.0)
    if bins > 1:  # scale the sum over the usable pixels of a bin to the whole bin
        electrons = torch.nn.functional.avg_pool2d(electrons[None], bins)[0] * bins**2
        weight = torch.nn.functional.avg_pool2d(good.float()[None], bins)[0]
        electrons, good = electrons / weight.clamp_min(0.25), weight >= 0.5
    return electrons, good, corner + (span - 1) / 2


def pixel_mean(values, weight):
    """Return the weighted mean over the pixels of each window.

    Parameters
    ----------
    values : torch.Tensor, shape (n, pixels)
        Values of the pixels.
    weight : torch.Tensor, shape (n, pixels)
        Weights of the pixels; if they sum to less than 1, the mean is biased toward zero.

    Returns
    -------
    torch.Tensor, shape (n,)
        The means.

    Examples
    --------
    >>> import torch
    >>> from py4dstem_prenet.fits import pixel_mean
    >>> pixel_mean(torch.tensor([[1.0, 5.0], [2.0, 3.0]]), torch.tensor([[3.0, 1.0], [0.0, 0.0]])).tolist()
    [2.0, 0.0]
    """
    return (values * weight).sum(1) / weight.sum(1).clamp_min(1)
