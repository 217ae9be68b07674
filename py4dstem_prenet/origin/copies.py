"""Frames that are copies of the previous frame; they have the origin of the frame that they repeat."""

from __future__ import annotations

import zlib

import numpy as np

from ..core import NoiseModel, Scan


def copied_frames(scan: Scan, noise: NoiseModel, valid) -> np.ndarray | None:
    """Find frames that are exact copies of the frame before them.

    The scan is read for this only if the sample of the noise model contained copies.

    Parameters
    ----------
    scan : Scan
        The scan.
    noise : NoiseModel
        Noise model of the detector.
    valid : numpy.ndarray of bool, shape (Rx * Ry,)
        True for frames that show the beam.

    Returns
    -------
    numpy.ndarray of bool, shape (Rx * Ry,), or None
        True for copies; None if there are none.
    """
    if not any(flag.name == "repeated_frames" for flag in noise.flags):
        return None
    usable = valid & scan.readable.ravel()
    checksums = np.zeros(len(usable), np.int64)
    for index, block in scan.blocks(positions=np.flatnonzero(usable)):
        checksums[index] = [zlib.crc32(pattern) for pattern in block]
    copies = np.zeros(len(usable), bool)
    copies[1:] = usable[1:] & usable[:-1] & (checksums[1:] == checksums[:-1])
    return copies if copies.any() else None
