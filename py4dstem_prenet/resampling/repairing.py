"""Replacement of bad pixels in the counts of a scan, for functions that use no mask, such as `find_Bragg_disks`."""

import numpy as np

from .._version import __version__
from ..core import NoiseModel, PrenetError, as_scan, progress_bar
from ..io import (
    check_output,
    cube_like,
    noise_of,
    open as open_cube,
    record_change,
    resumable_cube,
    to_json,
)


def repaired(datacube, noise: NoiseModel | None = None, out=None, progress=True):
    """Replace bad pixels in the counts of a scan by the mean of their good neighbors.

    Bad pixels are those found in the scan and those that the detector mask in the calibration excludes. Holes are
    filled from their rim inward; the values in a wide hole, such as behind a beam stop, are not reliable. Good pixels
    do not change. Integers remain integers, and counts remain counts, by random rounding that depends only on scan
    position and pixel (`NoiseModel.replace_bad`).

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The scan, in memory or on disk.
    noise : NoiseModel, optional
        Noise model of the detector, whose bad pixels are replaced; estimated from the scan by default.
    out : str or pathlib.Path, optional
        A new EMD file to stream the result to; the returned cube reads from it. An interrupted run is resumed.
    progress : bool, optional
        Whether to show a progress bar.

    Returns
    -------
    py4DSTEM.DataCube
        A new cube of the same type, with a copy of the calibration, which includes the detector mask.

    Raises
    ------
    PrenetError
        If the data cannot be used or are not a DataCube, all pixels are bad, the noise model belongs to a different
        detector, or `out` exists.

    Examples
    --------
    >>> from py4dstem_prenet.demo import load_scan
    >>> from py4dstem_prenet.resampling import repaired
    >>> datacube, truth = load_scan()
    >>> datacube.data[:, :, 20, 90] = 4000
    >>> new = repaired(datacube, progress=False)
    >>> new.data.dtype == datacube.data.dtype, int(new.data[:, :, 20, 90].max()) < 10
    (True, True)
    """
    scan = as_scan(datacube)
    if not hasattr(datacube, "calibration"):
        raise PrenetError(f"A py4DSTEM DataCube is needed, not {type(datacube).__name__}; make one: DataCube(data).")
    if out is not None:
        check_output(out)
    noise = noise or noise_of(datacube)
    if np.shape(noise.bad_pixels) != scan.pattern_shape:
        raise PrenetError(f"The noise model is for patterns of {np.shape(noise.bad_pixels)} px, but these have "
                          f"{scan.pattern_shape} px; estimate it from this scan.")
    if noise.bad_pixels.all():
        raise PrenetError("All pixels are bad, so none can be replaced; the mask must be True where a pixel is good.")
    dtype = scan.dtype.newbyteorder("=")
    if out is None:
        data = np.empty(scan.shape, dtype)
        patterns = data.reshape(-1, *scan.pattern_shape)

        def write(index, values):
            patterns[index] = values

        _repair(scan, noise, write, progress)
        return record_change(cube_like(datacube, data), "repaired()")
    shell = record_change(cube_like(datacube, np.broadcast_to(dtype.type(0), scan.shape)), "repaired()")
    record = {"version": __version__, "repaired": True, "noise": to_json(noise)}
    with resumable_cube(shell, out, dtype, record) as target:
        _repair(scan, noise, target.write, progress, target.done)
    return open_cube(out)


def _repair(scan, noise, write, progress, done=None):
    """Call `write(index, patterns)` with the repaired patterns of all positions that are not done."""
    missing = scan.size if done is None else int((~done).sum())
    with progress_bar(missing, "repairing" if progress else None) as bar:
        for index, block in scan.blocks(skip=done):
            wanted = slice(None) if done is None else ~done[index]
            write(index[wanted], noise.replace_bad(index[wanted], block[wanted]))
            bar.update(len(index[wanted]))
