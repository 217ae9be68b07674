"""Hot pixels in the direct beam, too weak for `noise.py` to tell from its contrast: origins follow them all the same.

What the model of the disk leaves of a sample of patterns is summed by detector pixel. Where that model is not quite
right, an edge of another form or a line, pixels of like distance from the edge are off alike, or what is off moves with
the beam. A hot pixel stands out of that, alone, all along the scan.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import rank_filter

from ..core import ellipse_matrix
from ..detector import NoiseModel
from .disk import Aperture, disk_model
from .windows import electron_windows

FEWEST = 8  # patterns
PARTS = 4  # of the scan, in each of which a pixel must be hot
SIGMAS = 7.0  # of noise and misfit together, by which it stands out
WEAKEST = 0.04  # of the disk's brightness: less moves no origin by a hundredth of a pixel
ELECTRONS = 30  # more in the whole sample than others have: of fewer, chance knows more than sigmas do
PART = 0.3  # of its excess, that each part of the scan shows at least, and all but one of its neighbors at most
MOST = 0.05  # of the disk's pixels: more are no hot pixels, but something that the model does not know


def hot_pixels(patterns, around, noise: NoiseModel, aperture: Aperture, limit: float, device: str):
    """(Qx, Qy) bool: pixels that are hot throughout a sample of patterns (n, Qx, Qy), detector units, in scan order.

    around: (n, 2), where the beam is, roughly. aperture: what was learned, in pixels. limit: misfit up to which it
    describes a disk.
    """
    found = np.zeros(patterns.shape[1:], bool)
    if len(patterns) < FEWEST:
        return found
    half = disk_model(aperture, device).side // 2 + 1  # nothing is looked at but where windows are
    low = (np.floor(around.min(0)).astype(int) - half).clip(0)
    box = tuple(slice(a, b + half + 1) for a, b in zip(low, np.ceil(around.max(0)).astype(int), strict=True))
    patterns, around = patterns[(slice(None), *box)], around - low
    noise, none = replace(noise, bad_pixels=noise.bad_pixels[box]), found[box].copy()
    sums, *beam = _surplus(patterns, around, noise, aperture, limit, device)
    hot = _standing_out(sums, *beam, aperture)
    if not hot.any():  # one may spoil what the model says of all others
        score, information, _ = sums.sum(1)
        strongest = np.unravel_index(np.argmax(score.clip(0) ** 2 / information.clip(1e-12)), none.shape)
        one = none.copy()
        one[strongest] = True
        without = replace(noise, bad_pixels=noise.bad_pixels | one)
        others, *beam = _surplus(patterns, around, without, aperture, limit, device)
        hot = _standing_out(np.where(one, sums, others), *beam, aperture) & one
    if hot.sum() <= max(1, MOST * np.pi * aperture.radius**2):
        found[box] = hot
    return found


def _standing_out(sums, center, level, aperture):
    """(Qx, Qy) bool: where pixels give clearly more than others of like distance from the edge, each alone."""
    _, information, count = sums.sum(1)
    seen = information > 0
    usual, scatter, excess, spread = np.zeros((4, *seen.shape))
    if not seen.any():
        return seen
    excess[seen] = sums[0].sum(0)[seen] / information[seen]
    spread[seen] = information[seen] ** -0.5
    distance = np.hypot(*np.linalg.solve(ellipse_matrix(aperture.vector), (np.argwhere(seen) - center).T))
    usual[seen], scatter[seen] = _alike(excess[seen], distance, 2 * int(2.5 * aperture.radius) + 1)
    excess -= usual
    hot = seen & (excess > np.maximum(SIGMAS * np.hypot(spread, scatter), WEAKEST * level))
    hot &= (excess * count > ELECTRONS) & (count > count.max() / 2)  # elsewhere it is dark enough for `noise.py`
    neighbors = np.ones((3, 3), bool)
    neighbors[1, 1] = False
    hot &= rank_filter(excess, 6, footprint=neighbors, mode="constant") < PART * excess
    for x, y in np.argwhere(hot):
        score, known = sums[:2, sums[1, :, x, y] > 0, x, y]
        hot[x, y] = (score / known).min() - usual[x, y] > PART * excess[x, y]
    return hot


def _surplus(patterns, around, noise, aperture, limit, device):
    """Sums (3, PARTS, Qx, Qy) of score, information and windows; the beam's middle, pixels, and its level."""
    model, shape = disk_model(aperture, device), patterns.shape[1:]
    electrons, good, middle = electron_windows(patterns, around, model.side, noise)
    start, readout = torch.from_numpy(around - middle).float(), noise.readout / noise.gain
    with torch.inference_mode():
        electrons, good = electrons.to(device), good.to(device)
        fitted = model.fit(electrons, good, start.to(device), readout)
        some = (fitted.misfit <= limit).cpu().numpy()
        score, information, level = (a.cpu().numpy() for a in model.surplus(electrons, good, fitted, readout))
    kept = np.argwhere(model.keep.reshape(model.side, model.side).numpy()) - (model.side - 1) // 2
    at = np.rint(middle).astype(int)[:, None] + kept
    there = ((at >= 0) & (at < shape)).all(2) & some[:, None]
    part = np.broadcast_to(np.arange(len(at))[:, None] * PARTS // len(at), there.shape)
    where = np.ravel_multi_index((part[there], *at[there].T), (PARTS, *shape))
    size = PARTS * shape[0] * shape[1]
    sums = [np.bincount(where, a[there], size).reshape(PARTS, *shape)
            for a in (score, information, np.ones_like(score))]
    center = np.median(fitted.position.cpu().numpy() + middle, 0)
    return np.stack(sums), center, np.median(level[some]) if some.any() else np.inf


def _alike(values, distance, count):
    """Median of the `count` values of the most like distance, and their scatter, for each of values (n,)."""
    count = min(max(count, 9), 2 * ((len(values) - 1) // 2) + 1)
    order = np.argsort(distance, kind="stable")
    near = sliding_window_view(np.pad(values[order], count // 2, mode="reflect"), count)
    middle = np.median(near, 1)
    out = np.empty((2, len(values)))
    out[:, order] = middle, 1.4826 * np.median(np.abs(near - middle[:, None]), 1)
    return out
