"""Frames that repeat the frame before: their origin is that of the frame that they show."""

from __future__ import annotations

import numpy as np

from ..core import NoiseModel, Scan

MAX_COPY_SIGMAS = 1.0  # between the positions of a frame and of its copy, which were fitted from different starts


def copied_frames(scan: Scan, noise: NoiseModel, positions, sigmas, valid) -> np.ndarray | None:
    """Find frames that are exact copies of the frame before them.

    Only frames with nearly the same position are compared, and only if the noise model's sample held copies.

    Parameters
    ----------
    scan : Scan
        The scan.
    noise : NoiseModel
        Noise model of the detector.
    positions, sigmas : numpy.ndarray, shape (Rx * Ry, 2)
        Positions of the direct beam and their standard errors, pixels.
    valid : numpy.ndarray of bool, shape (Rx * Ry,)
        Frames that show the beam.

    Returns
    -------
    numpy.ndarray of bool, shape (Rx * Ry,), or None
        True for copies; None without any.
    """
    if not any(flag.name == "repeated_frames" for flag in noise.flags):
        return None
    near = (np.abs(np.diff(positions, axis=0)) < MAX_COPY_SIGMAS * sigmas[1:]).all(1)
    held = valid & scan.readable.ravel()
    candidates = 1 + np.flatnonzero(near & held[1:] & held[:-1])
    copies = np.zeros(len(positions), bool)
    for frame in candidates:
        first, second = scan.read(np.array([frame - 1, frame]))
        copies[frame] = np.array_equal(first, second)
    return copies if copies.any() else None
