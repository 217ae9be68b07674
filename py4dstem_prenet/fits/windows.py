"""Square windows of patterns around given positions, in electrons."""

from __future__ import annotations

import numpy as np
import torch

from ..detector import NoiseModel


def cut_windows(patterns, corner, side: int):
    """Windows (n, side, side) from corners (n, 2), of patterns (n, Qx, Qy) or of one image; and what lies inside."""
    rows = corner[:, :1] + np.arange(side)
    columns = corner[:, 1:] + np.arange(side)
    shape = patterns.shape[-2:]
    inside = ((rows >= 0) & (rows < shape[0]))[:, :, None] & ((columns >= 0) & (columns < shape[1]))[:, None, :]
    rows, columns = rows.clip(0, shape[0] - 1)[:, :, None], columns.clip(0, shape[1] - 1)[:, None, :]
    if patterns.ndim == 2:
        return patterns[rows, columns], inside
    return patterns[np.arange(len(patterns))[:, None, None], rows, columns], inside


def electron_windows(patterns, around, side: int, noise: NoiseModel, bins: int = 1):
    """Windows of `side` x `side` bins of `bins` x `bins` pixels, as close around positions (n, 2) as pixels allow.

    Returns:
        electrons (n, side, side) float32, zero where nothing is known; good, the same, bool; and the middle of
        each window, (n, 2) pixels.
    """
    span = side * bins
    corner = np.floor(around - (span - 1) / 2 + 0.5).astype(int)
    values, inside = cut_windows(patterns, corner, span)
    good = torch.from_numpy(inside & ~cut_windows(noise.bad_pixels, corner, span)[0])
    electrons = torch.from_numpy(values.astype(np.float32)).sub_(noise.offset).div_(noise.gain)
    electrons = electrons.masked_fill_(~good, 0.0)
    if bins > 1:  # a bin counts as far as its pixels are good
        electrons = torch.nn.functional.avg_pool2d(electrons[None], bins)[0] * bins**2
        weight = torch.nn.functional.avg_pool2d(good.float()[None], bins)[0]
        electrons, good = electrons / weight.clamp_min(0.25), weight >= 0.5
    return electrons, good, corner + (span - 1) / 2
