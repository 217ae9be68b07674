"""Crop and bin a scan with its calibration.

The functions have the names and arguments of those of py4DSTEM, but adapt the calibration, return a new DataCube and do
not change the old one, whose tree (Bragg vectors, virtual images) belongs to the old data.

The center of a pixel lies on its integer index. Pixel k of patterns binned by N covers pixels k N to k N + N - 1, so a
position q becomes (q + 1/2) / N - 1/2, not q / N. Cropping from pixel m changes q to q - m. Rotation and flip between
scan and pattern do not change, since both axes are binned equally.
"""

from __future__ import annotations

import numpy as np

from ..core import PrenetError
from ..io import (
    RING_PROFILE,
    SIGMA,
    WRITTEN,
    cube_like,
    fingerprint,
    read_frame,
    read_mask,
    read_stop,
    record_change,
    record_frame,
    sigma_slice,
    sign,
    signatures,
    write_mask,
    write_stop,
)
from . import check_calibration, has_origin

_ORIGIN = ("qx0", "qy0", "qx0_meas", "qy0_meas")
_OF_THE_DATA = ("shape", "unchanged", "measured", "data")  # facts of a signature that new data change


# --- crop and bin -------------------------------------------------------------------------------------------
def crop_Q(datacube, ROI):
    """Crop the patterns and adapt the calibration.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The scan.
    ROI : tuple of int
        (Qx_min, Qx_max, Qy_min, Qy_max), pixels; the maxima are excluded.

    Returns
    -------
    py4DSTEM.DataCube
        A new cube; its data are a view if the old ones are in memory.

    Raises
    ------
    PrenetError
        If the region is not inside the pattern, or the calibration does not belong to the data.

    Examples
    --------
    >>> import numpy as np
    >>> from py4DSTEM import DataCube
    >>> datacube = DataCube(np.ones((2, 2, 32, 32), np.uint8))
    >>> datacube.calibration.set_origin((np.full((2, 2), 15.0), np.full((2, 2), 16.0)))
    >>> crop_Q(datacube, (4, 28, 4, 28)).calibration.get_origin()[0][0, 0]
    11.0
    """
    rows, columns = _region(ROI, datacube.Qshape, "Q")
    signed = _ready(datacube)
    new = cube_like(datacube, datacube.data[:, :, rows, columns])
    _move(new.calibration, lambda q, axis: q - (rows, columns)[axis].start)
    record_frame(new, read_frame(datacube), start=(rows.start, columns.start))
    mask = read_mask(datacube)
    write_mask(new, None if mask is None else mask[rows, columns])
    stop = read_stop(datacube)
    write_stop(new, None if stop is None else stop[rows, columns])
    return _finish(new, signed, f"crop_Q({rows.start}, {rows.stop}, {columns.start}, {columns.stop})")


def crop_R(datacube, ROI):
    """Crop the scan and adapt the calibration.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The scan.
    ROI : tuple of int
        (Rx_min, Rx_max, Ry_min, Ry_max), positions; the maxima are excluded.

    Returns
    -------
    py4DSTEM.DataCube
        A new cube; its data are a view if the old ones are in memory.

    Raises
    ------
    PrenetError
        If the region is not inside the scan, or the calibration does not belong to the data.
    """
    rows, columns = _region(ROI, datacube.Rshape, "R")
    signed = _ready(datacube)
    new = cube_like(datacube, datacube.data[rows, columns])
    _rescan(datacube, new, lambda maps: maps[..., rows, columns], 1)
    return _finish(new, signed, f"crop_R({rows.start}, {rows.stop}, {columns.start}, {columns.stop})")


def bin_Q(datacube, N):
    """Sum the patterns over N x N pixels and adapt the calibration.

    Origins become (q + 1/2) / N - 1/2; sigmas, the probe radius and ellipse axes in pixels are divided by N; the Q
    pixel size is multiplied by N. A binned pixel is good in the detector mask if all of its pixels are. Rows and
    columns that do not fill a bin are dropped. Integers get the smallest type in which no sum can overflow. One scan
    row is read at a time.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The scan.
    N : int
        The binning factor.

    Returns
    -------
    py4DSTEM.DataCube
        A new cube.

    Raises
    ------
    PrenetError
        If the factor is not a whole number from 1 to the side of the pattern, or the calibration does not belong to the
        data.
    """
    N = _factor(N, datacube.Qshape, "the pattern")
    signed = _ready(datacube)
    new = cube_like(datacube, _binned(datacube, 1, N))
    calibration = new.calibration
    _move(calibration, lambda q, axis: (q + 0.5) / N - 0.5)
    record_frame(new, read_frame(datacube), binning=N)
    for key in ("probe_semiangle", "convergence_semiangle_pixels"):
        if calibration._params.get(key) is not None:
            calibration[key] = calibration[key] / N
    a, b = calibration.get_a(), calibration.get_b()
    # py4DSTEM's fits give semi-axes in pixels. Semi-axes with a b = 1, as in this package, are not lengths.
    if a is not None and b is not None and not np.allclose(np.multiply(a, b), 1):
        calibration["a"], calibration["b"] = a / N, b / N
    calibration["Q_pixel_size"] = calibration.get_Q_pixel_size() * N
    mask = read_mask(datacube)
    if mask is not None:  # a sum is good if all of its pixels are good
        rows, columns = new.Qshape
        write_mask(new, mask[:rows * N, :columns * N].reshape(rows, N, columns, N).all((1, 3)))
    stop = read_stop(datacube)
    if stop is not None:
        rows, columns = new.Qshape
        write_stop(new, stop[:rows * N, :columns * N].reshape(rows, N, columns, N).any((1, 3)))
    if SIGMA in new.treekeys:
        new.attach(sigma_slice(new.tree(SIGMA).data / N))
    for name in ("radius", "radius_sigma"):
        if signed.get("origin_meas", {}).get(name) is not None:
            signed["origin_meas"][name] /= N
    if "pixel_size" in signed:
        for name, factor in (("sigma", N), ("reference", 1 / N)):
            if name in signed["pixel_size"]:
                signed["pixel_size"][name] *= factor
        result = signed["pixel_size"].get("result")
        if result is not None and RING_PROFILE in calibration._params:
            for name, factor in (("value", N), ("sigma", N), ("reference", 1 / N)):
                result[name] = None if result[name] is None else result[name] * factor
            calibration[RING_PROFILE] = np.array(calibration[RING_PROFILE]) * [[1 / N], [1], [1]]  # radius, mean, fit
    return _finish(new, signed, f"bin_Q({N})")


def bin_R(datacube, N):
    """Sum the patterns over N x N scan positions without recentering them, and adapt the calibration.

    The origin of a bin is the mean over its valid positions (over all positions if none is valid), which is the beam
    position in the sum; its sigma assumes independent errors. A bin is valid if at least one of its positions is valid.
    Descan within a bin blurs the beam. The R pixel size is multiplied by N. Rows and columns that do not fill a bin are
    dropped. Integers get the smallest type in which no sum can overflow.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The scan.
    N : int
        The binning factor.

    Returns
    -------
    py4DSTEM.DataCube
        A new cube.

    Raises
    ------
    PrenetError
        If the factor is not a whole number from 1 to the side of the scan, the ellipse varies over the scan, or the
        calibration does not belong to the data.
    """
    N = _factor(N, datacube.Rshape, "the scan")
    signed = _ready(datacube)
    if np.ndim(datacube.calibration.get_a()):
        raise PrenetError("The ellipse varies over the scan and cannot be averaged; set one ellipse before binning.")
    new = cube_like(datacube, _binned(datacube, N, 1))
    rows, columns = (slice(0, n * N) for n in new.Rshape)
    _rescan(datacube, new, lambda maps: maps[..., rows, columns], N)
    new.calibration["R_pixel_size"] = new.calibration.get_R_pixel_size() * N
    return _finish(new, signed, f"bin_R({N})")


def _region(ROI, shape, space):
    """Convert a region of interest to two slices; raise PrenetError if it is not inside the shape."""
    try:
        region = [int(n) for n in ROI]
        whole = len(region) == 4 and all(n == m for n, m in zip(region, ROI, strict=True))
    except (TypeError, ValueError):
        whole = False
    if not whole or not (0 <= region[0] < region[1] <= shape[0] and 0 <= region[2] < region[3] <= shape[1]):
        raise PrenetError(f"The region must be ({space}x_min, {space}x_max, {space}y_min, {space}y_max), whole pixels "
                          f"inside (0, {shape[0]}, 0, {shape[1]}), not {ROI}.")
    return slice(*region[:2]), slice(*region[2:])


def _factor(N, shape, what):
    """Convert the binning factor to int; raise PrenetError if it does not fit the shape."""
    if isinstance(N, bool) or not isinstance(N, int | np.integer) or not 1 <= N <= min(shape):
        raise PrenetError(f"The binning factor must be a whole number from 1 to {min(shape)}, the side of {what}, "
                          f"not {N!r}.")
    return int(N)


def _ready(datacube):
    """Signatures of the calibration's entries; raise PrenetError if the calibration does not belong to the data."""
    if datacube.calibration is None:
        raise PrenetError("The cube has no calibration to adapt; call datacube.prenet.calibrate() first.")
    if not has_origin(datacube.calibration):
        return {}
    found = check_calibration(datacube)
    for name, flag in zip(found.stale, found.flags if found.stale else (), strict=True):
        if name in ("measured origin", "origin"):
            raise PrenetError(f"Nothing was changed, because the calibration does not belong to the data. {flag}")
    return signatures(datacube)


def _move(calibration, moved):
    """Transform all positions in the pattern by `moved(q, axis)`, for numbers and maps."""
    for key in (*_ORIGIN, "qx0_mean", "qy0_mean"):
        if calibration._params.get(key) is not None:
            calibration[key] = moved(calibration[key], "xy".index(key[1]))
    center = calibration.get_probe_center()
    if center is not None:
        calibration["probe_center"] = tuple(moved(c, axis) for axis, c in enumerate(center))


def _rescan(datacube, new, part, N):
    """Transform all maps over the scan: crop them by `part(maps)`, then average over N x N positions."""
    calibration, scan = new.calibration, tuple(datacube.Rshape)
    mask = calibration.get_origin_meas_mask()
    valid = np.asarray(mask, bool) if np.shape(mask) == scan else np.ones(scan, bool)

    def total(maps):
        maps = part(maps)
        rows, columns = maps.shape[-2] // N, maps.shape[-1] // N
        return maps.reshape(*maps.shape[:-2], rows, N, columns, N).sum((-3, -1))

    n_valid = total(valid.astype(float))
    for key in (*_ORIGIN, "a", "b", "theta"):
        if np.shape(calibration._params.get(key)) == scan:
            values = np.asarray(calibration[key], float)
            mean = total(np.where(valid, values, 0)) / np.maximum(n_valid, 1)
            calibration[key] = np.where(n_valid > 0, mean, total(values) / N**2)
    if np.shape(mask) == scan:
        calibration.set_origin_meas_mask(n_valid > 0)
    if SIGMA in new.treekeys:
        variance = total(np.where(valid, np.asarray(new.tree(SIGMA).data) ** 2, 0))
        new.attach(sigma_slice(np.where(n_valid > 0, np.sqrt(variance) / np.maximum(n_valid, 1), np.nan)))


def _binned(datacube, over_scan, over_pattern):
    """Sum over blocks of scan positions and of pixels, reading one row of new positions at a time."""
    shape = datacube.data.shape
    bins = (over_scan, over_scan, over_pattern, over_pattern)
    new = tuple(n // b for n, b in zip(shape, bins, strict=True))
    used = tuple(n * b for n, b in zip(new, bins, strict=True))
    sums = np.empty(new, _sum_type(np.dtype(datacube.data.dtype), (over_scan * over_pattern) ** 2))
    _, columns, qx, qy = new
    for row in range(new[0]):
        block = np.asarray(datacube.data[row * over_scan:(row + 1) * over_scan, :used[1]])[..., :used[2], :used[3]]
        split = block.reshape(over_scan, columns, over_scan, qx, over_pattern, qy, over_pattern)
        sums[row] = split.sum((0, 2, 4, 6), dtype=sums.dtype)
    return sums


def _sum_type(dtype, count):
    """Choose a type in native byte order for sums of `count` values: float32 or more, or integers without overflow."""
    if dtype.kind not in "iu":
        return np.promote_types(dtype, np.float32)
    wider = (np.dtype(f"{dtype.kind}{size}") for size in (1, 2, 4))
    return next((w for w in wider if np.iinfo(w).max >= np.iinfo(dtype).max * count), np.dtype(f"{dtype.kind}8"))


def _finish(new, signed, done):
    """Update the axes of the cube, renew the signatures, and record the operation in the provenance."""
    calibration = new.calibration
    if calibration.get_origin() is not None:
        calibration.set_origin(calibration.get_origin())  # updates mean and shift
    calibration.calibrate()
    calibration._params.pop(WRITTEN, None)
    data = fingerprint(new)
    for entry, signature in signed.items():
        if signature["unchanged"]:
            sign(new, entry, data=data, **{k: v for k, v in signature.items() if k not in _OF_THE_DATA})
    return record_change(new, done)
