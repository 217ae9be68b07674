"""Frames that are copies of the previous frame; they have the origin of the frame that they repeat."""

from __future__ import annotations

import numpy as np

from ..core import NoiseModel, Scan

MAX_COPY_SIGMAS = 1.0  # standard errors; largest difference between the fitted positions of a frame and of its copy


def copied_frames(scan: Scan, noise: NoiseModel, positions, sigmas, valid) -> np.ndarray | None:
    """Find frames that are exact copies of the frame before them.

    Only frames with nearly the same position are compared, and only if the sample of the noise model contained copies.

    Parameters
    ----------
    scan : Scan
        The scan.
    noise : NoiseModel
        Noise model of the detector.
    positions, sigmas : numpy.ndarray, shape (Rx * Ry, 2)
        Positions of the direct beam and their standard errors, pixels.
    valid : numpy.ndarray of bool, shape (Rx * Ry,)
        True for frames that show the beam.

    Returns
    -------
    numpy.ndarray of bool, shape (Rx * Ry,), or None
        True for copies; None if there are none.
    """
    if not any(flag.name == "repeated_frames" for flag in noise.flags):
        return None
    close = (np.abs(np.diff(positions, axis=0)) < MAX_COPY_SIGMAS * sigmas[1:]).all(1)
    usable = valid & scan.readable.ravel()
    candidates = 1 + np.flatnonzero(close & usable[1:] & usable[:-1])
    copies = np.zeros(len(positions), bool)
    for frame in candidates:
        first, second = scan.read(np.array([frame - 1, frame]))
        copies[frame] = np.array_equal(first, second)
    return copies if copies.any() else None
