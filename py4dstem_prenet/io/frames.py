"""How the patterns of a cube were cropped and binned, so that calibrations of other frames can be converted."""

from __future__ import annotations

import json
from dataclasses import dataclass

from .calibrations import calibration_of

RESAMPLED = "prenet_resampled"  # name of the entry in the calibration


@dataclass(frozen=True)
class Frame:
    """The frame of a detector from which patterns were cropped and binned.

    Attributes
    ----------
    shape : tuple of int
        (Qx, Qy) of the frame as it was opened, pixels.
    binning : int
        Its pixels along the side of a pixel.
    offset : tuple of int
        Row and column in it of the first pixel.
    """

    shape: tuple[int, int]
    binning: int = 1
    offset: tuple[int, int] = (0, 0)


def read_frame(datacube) -> Frame:
    """Read how the patterns of a cube were cropped and binned by this package.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.

    Returns
    -------
    Frame
        The frame; that of the patterns as they are if nothing is recorded.
    """
    text = None if datacube.calibration is None else datacube.calibration._params.get(RESAMPLED)
    if not text:
        rows, columns = datacube.Qshape
        return Frame((int(rows), int(columns)))
    record = json.loads(text)
    return Frame(tuple(record["shape"]), record["binning"], tuple(record["offset"]))


def record_frame(new, old: Frame, start=(0, 0), binning: int = 1) -> None:
    """Record in the calibration of a new cube how its patterns were made of those of another.

    Parameters
    ----------
    new : py4DSTEM.DataCube
        The new cube.
    old : Frame
        The frame of the old one.
    start : tuple of int, optional
        Row and column of its pixel that became the first one.
    binning : int, optional
        Its pixels along the side of a new one.
    """
    offset = [int(o + old.binning * s) for o, s in zip(old.offset, start, strict=True)]
    record = {"shape": list(old.shape), "binning": int(old.binning * binning), "offset": offset}
    calibration_of(new)[RESAMPLED] = json.dumps(record)
