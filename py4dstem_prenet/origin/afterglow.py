"""Afterglow of a detector: each frame holds a part of earlier frames, and the measured beam lags.

The part that is left of a frame m frames later is ``amount * decay**(m - 1)``. After a long step of the beam, as at the
start of a scan row, the images of the direct disk at its earlier positions stand beside it, and those of the frames
that follow stand elsewhere. Specimens that differ along the rows look alike if the time is reversed; afterglow does
not.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.stats import t as student_t

from ..core import NoiseModel, Scan

MAX_GLOW_STEPS = 32  # frames after the longest steps of the beam that are compared, chosen for speed
GLOW_MARGIN_PX = 1.0  # pixels; margin beyond the soft edge of the disk, where small shifts change a pixel
# Standard errors, frames; smallest amount that is not noise, from so many frames or more. The amount of 8 frames
# exceeds it by chance in 0.3 % of the scans, that of 32 frames in 0.006 %. Fewer frames have the limit of Student's t
# with the probability of 8 frames.
MIN_GLOW_Z, MIN_GLOW_STEPS = 6.0, 8
MAX_GLOW = 0.5  # fraction; largest part of a frame in the next one: with more, the previous frame is the brighter one
MAX_GLOW_FRAMES = 256  # frames; longest history of a frame that is summed, chosen for speed


class Afterglow(NamedTuple):
    """Part of a frame that is left in later frames: ``amount * decay**(m - 1)`` after m frames.

    Attributes
    ----------
    amount : float
        Part that is left in the next frame; 0 without significant afterglow.
    decay : float
        Ratio of the parts in one frame and in the frame before.
    """

    amount: float
    decay: float

    @property
    def parts(self) -> np.ndarray:
        """Part of a frame that is left after 1, 2, ... frames, as long as it is a thousandth of the first one."""
        count = 1 if self.decay <= 0 else int(np.log(1e-3) / np.log(self.decay)) + 1
        return self.amount * self.decay ** np.arange(min(count, MAX_GLOW_FRAMES))


def measure_afterglow(scan: Scan, noise: NoiseModel, positions, valid, radius: float, edge: float) -> Afterglow:
    """Measure the part of a frame that is left in later frames.

    Parameters
    ----------
    scan : Scan
        The scan.
    noise : NoiseModel
        Noise model of the detector.
    positions : numpy.ndarray, shape (Rx * Ry, 2)
        Positions of the direct beam in pixels.
    valid : numpy.ndarray of bool, shape (Rx * Ry,)
        True for frames that show the beam.
    radius, edge : float
        Radius of the direct disk and width of its edge in pixels.

    Returns
    -------
    Afterglow
        The afterglow; its amount is 0 if it is not significant, or if the beam never makes a step of the size of the
        disk.
    """
    nothing = Afterglow(0.0, 0.0)
    usable = valid & scan.readable.ravel()
    step = np.zeros(len(usable))
    step[1:-1] = np.where(usable[1:-1] & usable[:-2] & usable[2:], np.hypot(*(positions[1:-1] - positions[:-2]).T), 0.0)
    margin = GLOW_MARGIN_PX + 2 * edge
    longest = np.argsort(step, kind="stable")[::-1][:MAX_GLOW_STEPS]
    frames = np.sort(longest[step[longest] > margin])
    if len(frames) < 2:
        return nothing
    # Frames up to half of the way to the next step, at doubling distances.
    later = 2 ** np.arange(int(np.log2(max(np.median(np.diff(frames)) / 2, 1))) + 1)
    decays = np.concatenate([[0.0], np.exp(-1 / 2.0 ** np.arange(-1, np.log2(MAX_GLOW_FRAMES)))])
    forward = _excess(scan, noise, positions, usable, frames, later, 1, radius, margin, decays)
    if forward is None:
        return nothing
    amounts, errors, losses = _fitted(*forward)
    best = int(losses.argmin())
    amount = float(amounts[best])
    freedom = int(np.isfinite(forward[0]).any(1).sum()) - 1
    limit = errors[best] * max(MIN_GLOW_Z, student_t.isf(student_t.sf(MIN_GLOW_Z, MIN_GLOW_STEPS - 1), freedom))
    if amount <= limit:
        return nothing
    backward = _excess(scan, noise, positions, usable, frames - 1, later, -1, radius, margin, decays[[best]])
    reversed_amount = 0.0 if backward is None else _fitted(*backward)[0][0]
    if amount <= np.hypot(limit, reversed_amount):
        return nothing
    return Afterglow(min(amount, MAX_GLOW), float(decays[best]))


def _excess(scan, noise, positions, usable, frames, later, direction, radius, margin, decays):
    """Brightness of the previous image of the disk in frames in excess of that in later ones, relative to the disk.

    Both are compared at the same distances from the beam, at which a specimen that does not change is equally bright.

    Returns the excess (frames, later), and what each decay predicts for an amount of 1, (decays, frames, later); NaN
    where a frame is not usable or the disk covers too much of the image. None if too few frames remain.
    """
    axes = np.indices(scan.pattern_shape).reshape(2, -1).T
    excess = np.full((len(frames), len(later)), np.nan)
    predicted = np.full((len(decays), *excess.shape), np.nan)
    wanted = frames[:, None] + direction * np.append(0, later)
    at = np.unique(wanted[(wanted >= 0) & (wanted < len(usable))])
    at = at[usable[at]]
    patterns = dict(zip(at.tolist(), noise.electrons(scan.read(at), fill=False), strict=True))
    bad = noise.bad_pixels.astype(np.float32)
    for row, frame in enumerate(frames):
        before = frame - direction
        if frame not in patterns or not (0 <= before < len(usable)):
            continue
        distance = np.hypot(*(axes - positions[frame]).T)
        near = np.hypot(*(axes - positions[before]).T) < radius
        points = axes[near & (distance > radius + margin) & ~noise.bad_pixels.ravel()] - positions[frame]
        inside = (distance < radius) & ~noise.bad_pixels.ravel()
        level = patterns[frame].ravel()[inside].sum() / max(inside.sum(), 1)
        if not level > 0:
            continue
        for column, other in enumerate(frame + direction * later):
            if other not in patterns:
                continue
            there = points + positions[other]
            used = map_coordinates(bad, there.T, order=1, cval=1.0) == 0
            if not used.any():
                continue
            places = [(points + positions[frame])[used], there[used]]
            values = [map_coordinates(patterns[k], place.T, order=1).mean()
                      for k, place in zip((frame, other), places, strict=True)]
            excess[row, column] = (values[0] - values[1]) / level
            history = [_history(positions, place, k, direction, radius)
                       for k, place in zip((frame, other), places, strict=True)]
            for number, decay in enumerate(decays):
                first, second = (covered @ decay ** np.arange(len(covered)) for covered in history)
                predicted[number, row, column] = first - second
    return None if np.isfinite(excess).any(1).sum() < 2 else (excess, predicted)


def _history(positions, points, frame, direction, radius):
    """Part of points (n, 2) that the disk covered 1, 2, ... frames before a frame."""
    earlier = frame - direction * np.arange(1, MAX_GLOW_FRAMES + 1)
    earlier = positions[earlier[(earlier >= 0) & (earlier < len(positions))]]
    return (np.hypot(*(earlier[:, None] - points).transpose(2, 0, 1)) < radius).mean(1)


def _fitted(excess, predicted):
    """Amount, its standard error and the loss for each decay; frames count as independent, not their later ones."""
    used = np.isfinite(excess)
    y, x = np.where(used, excess, 0.0), np.where(used, predicted, 0.0)
    weight = (x**2).sum((1, 2)).clip(1e-12)
    amounts = (x * y).sum((1, 2)) / weight
    residual = y - amounts[:, None, None] * x
    frames = used.any(1).sum()
    errors = np.sqrt(((x * residual).sum(2) ** 2).sum(1) * frames / (frames - 1)) / weight
    return amounts, errors, (residual**2).sum((1, 2))


def lag(positions, glow: Afterglow, radius: float) -> np.ndarray:
    """Compute how far the beam lags because of afterglow.

    Parameters
    ----------
    positions : numpy.ndarray, shape (2, Rx, Ry)
        Positions of the direct beam in pixels.
    glow : Afterglow
        Part of a frame that is left in later frames.
    radius : float
        Radius of the direct disk in pixels.

    Returns
    -------
    numpy.ndarray, shape (2, Rx, Ry)
        Size of the lag in pixels: the center of mass of the disk and its earlier images. An image that does not overlap
        the disk does not move it.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.origin import Afterglow, lag
    >>> positions = np.stack([np.zeros((2, 4)), [[0.0, 1.0, 2.0, 3.0]] * 2])
    >>> lag(positions, Afterglow(0.25, 0.0), 2.0)[1].tolist()
    [[0.0, 0.2, 0.2, 0.2], [0.0, 0.2, 0.2, 0.2]]
    """
    flat = positions.reshape(2, -1)
    moment, total = np.zeros(flat.shape), np.ones(flat.shape[1])
    for frames, part in enumerate(glow.parts[: flat.shape[1] - 1], start=1):
        offset = flat[:, :-frames] - flat[:, frames:]
        overlaps = np.hypot(*offset) <= radius
        moment[:, frames:] += part * np.where(overlaps, offset, 0.0)
        total[frames:] += part * overlaps
    return np.abs(moment / total).reshape(positions.shape)
