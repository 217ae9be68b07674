"""Where the direct beam is in every pattern of a scan, and the smooth descan through these positions.

1. Sums over blocks of the scan, where electrons are plentiful, go through the coarse network: it says whether there
   is a beam, where it is and how large. A surface through the blocks' answers is the first guess; blocks in which
   another disk was taken for the direct beam are outliers of it.
2. In a few hundred patterns the fine network says where the beam is; a surface through its answers is the better
   guess, and the recentered patterns show the aperture and the contrast inside the disk (`beam.py`).
3. A likelihood fit of that aperture locates the beam in every pattern, with the network wherever the fit is in doubt.

What is reported is the direct beam, not the center of rings; only where the direct beam is hidden, the rings' center.
Coordinates are py4DSTEM's: qx0 along rows, qy0 along columns, a pixel's centre on its integer index.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..compute import pick_device
from ..core import OriginMap, PrenetError, Scan, as_scan
from ..detector import NoiseModel, estimate_noise
from ..networks import load
from .locator import BeamLocator


def measure_origin(data, noise: NoiseModel | None = None, mask=None, device="auto", progress=True) -> OriginMap:
    """Measure the direct beam in every pattern of a scan.

    Args:
        data: a DataCube, or an array-like (Rx, Ry, Qx, Qy) in memory or on disk.
        noise: the detector's noise model; estimated from the scan by default.
        mask: (Qx, Qy) bool, True where a detector pixel is good, False behind a beam stop and the like.
        device: "auto", "cpu", "cuda" or "mps".
        progress: show a progress bar.

    Raises:
        PrenetError: data that cannot be calibrated (`as_scan`), a mask of another shape, no weights.
    """
    scan = as_scan(data)
    check_mask(scan, mask)
    load("center", pick_device(device))
    noise = estimate_noise(scan, mask=mask) if noise is None else _with_mask(noise, mask)
    locator = BeamLocator.learn(scan, device=device, noise=noise)
    return locator.origin(scan, locator.locate_all(scan, progress=progress)[0])


def check_mask(scan: Scan, mask):
    """Raise PrenetError unless the mask is None or bool of the pattern's shape (Qx, Qy)."""
    shape = scan.pattern_shape
    if mask is not None and (np.shape(mask) != shape or np.asarray(mask).dtype != bool):
        raise PrenetError(f"The mask must be a boolean array of the pattern's shape {shape}, True where a pixel is "
                          f"good; this one has shape {np.shape(mask)} and type {np.asarray(mask).dtype}.")
    if mask is not None and not np.any(mask):
        raise PrenetError("The mask excludes every pixel; it must be True where a pixel is good.")


def _with_mask(noise: NoiseModel, mask) -> NoiseModel:
    """The noise model with the pixels that a user's mask (True = good) excludes among its bad ones."""
    if mask is None:
        return noise
    return replace(noise, bad_pixels=noise.bad_pixels | ~np.asarray(mask))
