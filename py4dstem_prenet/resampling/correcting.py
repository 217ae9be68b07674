"""Resampling of patterns to a common center and round rings, for programs that use no calibration.

The value of each measured pixel is distributed over the pixels that its corrected area overlaps, in two passes along
one axis each (Catmull and Smith 1980). This keeps the number of electrons, except for those that leave the frame. No
value becomes negative, a uniform pattern remains uniform, and areas are kept, because the correction has a b = 1. The
noise of neighboring pixels is correlated afterward: calibrate, denoise and count first, resample last.
"""

from functools import partial

import numpy as np

from .._version import __version__
from ..compute import map_chunks, sharing_cores
from ..core import NoiseModel, PrenetError, as_scan, ellipse_matrix, ellipse_vector
from ..io import (
    MASK,
    SIGMA,
    WRITTEN,
    check_output,
    cube_like,
    noise_of,
    open as open_cube,
    read_fitted_origin,
    record_change,
    resumable_cube,
    sign,
    signatures,
)


@sharing_cores
def corrected(datacube, noise: NoiseModel | None = None, out=None, progress=True):
    """Resample a scan so that each direct beam lies on the same pixel and rings are round.

    The fitted origin and the ellipse in the calibration are corrected; without an ellipse, patterns are only shifted.
    The beam moves to the integer pixel nearest to the mean origin. The new calibration has this pixel as a constant
    origin and no ellipse; the measured origin, the maps of sigma and the detector mask are removed. A radius keeps its
    length in pixels. A pixel size that this package wrote for py4DSTEM's elliptical correction, which multiplies radii
    by b, is therefore multiplied by b; the user must do this for a pixel size from a different source. Radial and
    threefold distortions that were measured with the pixel size are also corrected. Bad pixels are first replaced by
    the median of their neighbors. Pixels without data get zero electrons.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        A calibrated scan, in memory or on disk.
    noise : NoiseModel, optional
        Noise model of the detector, which gives the value of zero electrons; estimated from the scan by default.
    out : str or pathlib.Path, optional
        A new EMD file to stream the result to; the returned cube reads from it.
    progress : bool, optional
        Whether to show a progress bar.

    Returns
    -------
    py4DSTEM.DataCube
        A new cube, float32, in the units of the input.

    Raises
    ------
    PrenetError
        If no origin is set, the ellipse varies over the scan, or `out` exists.

    Notes
    -----
    E. Catmull and A. R. Smith, "3-D transformations of images in scanline order", SIGGRAPH 1980.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.demo import load_scan
    >>> from py4dstem_prenet.resampling import corrected, crop_R
    >>> datacube, truth = load_scan()
    >>> datacube.calibration.set_origin((truth["qx0"], truth["qy0"]))
    >>> new = corrected(crop_R(datacube, (0, 4, 0, 4)), progress=False)
    >>> bool(abs(new.data.sum() / datacube.data[:4, :4].sum() - 1) < 0.01)
    True
    """
    scan = as_scan(datacube)
    if out is not None:
        check_output(out)
    qx0, qy0, _ = read_fitted_origin(datacube)
    matrix = ellipse_matrix(_vector(datacube))
    noise = noise or noise_of(datacube)
    origin = np.stack([qx0.ravel(), qy0.ravel()], 1)
    center = np.rint(origin.mean(0))
    shape = scan.shape
    size = signatures(datacube).get("pixel_size", {})
    work = partial(_move_block, inverse=np.linalg.inv(matrix), center=center, noise=noise,
                   edges=_distorted_edges(shape[2:], center, size))
    title = "correcting" if progress else None
    if out is None:
        data = np.empty((shape[0] * shape[1], *shape[2:]), np.float32)
        for index, moved in map_chunks(work, scan, origin, progress=title):
            data[index] = moved
        return _calibrated(datacube, data.reshape(shape), center)
    shell = _calibrated(datacube, np.broadcast_to(np.float32(0), shape), center)
    record = {"version": __version__, "matrix": matrix.tolist(), "origin": origin.tolist(),
              "distortion": [size.get("barrel"), size.get("threefold")] if size.get("unchanged") else None,
              "noise": [float(v) for v in (noise.gain, noise.offset, noise.dose, noise.bad_pixels.sum())]}
    with resumable_cube(shell, out, np.float32, record) as target:
        for index, moved in map_chunks(work, scan, origin, progress=title, skip=target.done):
            target.write(index, moved)
    return open_cube(out)


def _vector(datacube):
    """Read the ellipse vector from the calibration; zero if there is none."""
    ellipse = datacube.calibration.get_ellipse()
    if ellipse is None or any(v is None for v in ellipse):
        return np.zeros(2)
    if any(np.size(v) != 1 for v in ellipse):
        raise PrenetError("The ellipse in the calibration varies over the scan; set one ellipse before correcting.")
    return ellipse_vector(*(float(np.squeeze(v)) for v in ellipse))


def _calibrated(datacube, data, center):
    """Create a cube of `data` with metadata and calibration of the input, a constant origin, and no ellipse."""
    new = cube_like(datacube, data)
    size = signatures(datacube).get("pixel_size")
    if SIGMA in new.treekeys:
        new.tree(SIGMA).cut(root_metadata=False)
    calibration = new.calibration
    for key in ("qx0_meas", "qy0_meas", "origin_meas_mask", MASK, WRITTEN):
        calibration._params.pop(key, None)
    calibration.set_origin(tuple(np.full(new.Rshape, float(c)) for c in center))
    calibration.set_ellipse((None, None, None))
    sign(new, "origin")
    if size and size["unchanged"] and "ratio" in size:
        stretch = np.sqrt(size["ratio"])
        calibration.set_Q_pixel_size(calibration.get_Q_pixel_size() / stretch)
        facts = {name: size[name] for name in ("standard", "reference") if name in size}
        if "sigma" in size:
            facts["sigma"] = size["sigma"] / stretch
        sign(new, "pixel_size", ratio=1.0, barrel=0.0, threefold=[0.0, 0.0], **facts)
    return record_change(new, "corrected()")


def _distorted_edges(shape, center, size):
    """Positions of the edges of corrected pixels in distorted patterns, for two passes; None without distortion.

    The first pass resamples along x at fixed distorted y, the second along y at fixed corrected x. Returns arrays
    (Qy, Qx + 1) and (Qx, Qy + 1), in pixels from the first edge.
    """
    if not size.get("unchanged") or not (size.get("barrel") or any(size.get("threefold", ()))):
        return None

    def stretch(x, y):
        r, phi = np.hypot(x, y) / size["reference"], np.arctan2(y, x)
        cosine, sine = size["threefold"]
        return 1 + size["barrel"] * r**2 + r * (cosine * np.cos(3 * phi) + sine * np.sin(3 * phi))

    x, y = (np.arange(n) - c for n, c in zip(shape, center, strict=True))
    x_edge, y_edge = (np.arange(n + 1) - 0.5 - c for n, c in zip(shape, center, strict=True))
    across = np.broadcast_to(x_edge, (shape[1], shape[0] + 1))
    ideal = np.repeat(y[:, None], shape[0] + 1, 1)
    for _ in range(5):
        ideal = y[:, None] / stretch(across, ideal)
    first = across * stretch(across, ideal) + center[0] + 0.5
    second = y_edge * stretch(x[:, None], y_edge) + center[1] + 0.5
    return first, second


def _move_block(index, block, origin, inverse, center, noise, edges=None):
    """Correct stored patterns with origins (n, 2): patterns (n, Qx, Qy), float32."""
    electrons = noise.electrons(block)
    (a, b), (c, d) = inverse
    p, q = (center - origin @ inverse.T).T[:, :, None]  # x' = a x + b y + p, y' = c x + d y + q
    x, y = (np.arange(n) for n in block.shape[1:])
    moved = _resampled(electrons.swapaxes(1, 2), a, b * y + p).swapaxes(1, 2)
    # Rows are now at x'. The second pass is y' = (d - b c / a) y + c / a x' + q - c / a p.
    moved = _resampled(moved, d - b * c / a, c / a * x + q - c / a * p)
    if edges is not None:
        moved = _between(_between(moved.swapaxes(1, 2), edges[0]).swapaxes(1, 2), edges[1])
    return (moved * noise.gain + noise.offset).astype(np.float32)


def _resampled(values, scale, shift):
    """Move values (n, lines, pixels) to scale * pixel + shift (n, lines) and distribute them over the new pixels."""
    return _between(values, (np.arange(values.shape[2] + 1) - 0.5 - shift[..., None]) / scale + 0.5)


def _between(values, edges):
    """Sum values (n, lines, pixels) between edges (..., lines, pixels + 1), in pixels from the first edge."""
    pixels = values.shape[2]
    edges = np.broadcast_to(np.clip(edges, 0, pixels), (*values.shape[:2], pixels + 1))
    whole = np.minimum(edges.astype(int), pixels - 1)
    running = np.zeros((*values.shape[:2], pixels + 1))
    np.cumsum(values, axis=2, dtype=float, out=running[..., 1:])
    at = np.take_along_axis(running, whole, 2) + (edges - whole) * np.take_along_axis(values, whole, 2)
    return np.diff(at, axis=2)
