"""A scan resampled to one center and round rings, for whatever takes no calibration: the electrons stay, they move.

Every measured pixel's value goes to the pixels that its corrected area overlaps, in two passes, along one axis each
(Catmull and Smith 1980). So nothing is lost or made but what leaves the frame, no value turns negative, a flat pattern
stays flat, and areas are kept: the correction used has a b = 1. A pixel's
values spread over its neighbors, whose noise is then no longer independent: calibrate, denoise and count first,
resample last.
"""

from functools import partial

import numpy as np

from .._version import __version__
from ..compute import map_chunks
from ..core import NoiseModel, PrenetError, as_scan, ellipse_matrix, ellipse_vector
from ..io import calibrations, check_output, emd_files, open as open_cube


def corrected(datacube, noise: NoiseModel | None = None, out=None, progress=True):
    """A new DataCube, float32, in the units of the input, with every direct beam on one pixel and round rings.

    The fitted origin and the ellipse of the calibration are taken out; without an ellipse the patterns are only
    moved. The beam comes to the whole pixel nearest to the mean origin. The new cube's calibration says so: a constant
    origin of that pixel and no ellipse; its measured origin, maps of sigma and detector mask are dropped. An ideal
    radius keeps its length in pixels: a pixel size that was calibrated with py4DSTEM's own correction on (which makes
    it b times as long) must be multiplied by b. Bad pixels get the median of their neighbors first. What no pixel
    reaches is zero electrons.

    Args:
        datacube: a calibrated DataCube, whose data may lie in memory or on disk.
        noise: the detector's noise model, whose offset is zero electrons; estimated from the scan by default.
        out: an EMD file that does not exist yet, to stream the result to; it appears whole or not at all. The cube
            returned then reads from that file.

    Raises PrenetError where no fitted origin is set, or the output path is taken.
    """
    scan = as_scan(datacube)
    if out is not None:
        check_output(out)
    qx0, qy0, _ = calibrations.read_fitted_origin(datacube)
    matrix = ellipse_matrix(_vector(datacube))
    noise = noise or calibrations.noise_of(datacube)
    origin = np.stack([qx0.ravel(), qy0.ravel()], 1)
    center = np.rint(origin.mean(0))
    shape = scan.shape
    work = partial(_move_block, inverse=np.linalg.inv(matrix), center=center, noise=noise)
    title = "correcting" if progress else None
    if out is None:
        data = np.empty((shape[0] * shape[1], *shape[2:]), np.float32)
        for index, moved in map_chunks(work, scan, origin, progress=title):
            data[index] = moved
        return _calibrated(datacube, data.reshape(shape), center)
    shell = _calibrated(datacube, np.broadcast_to(np.float32(0), shape), center)
    record = {"version": __version__, "matrix": matrix.tolist(), "origin": origin.tolist(),
              "noise": [float(v) for v in (noise.gain, noise.offset, noise.dose, noise.bad_pixels.sum())]}
    with emd_files.resumable_cube(shell, out, np.float32, record) as target:
        for index, moved in map_chunks(work, scan, origin, progress=title, skip=target.done):
            target.write(index, moved)
    return open_cube(out)


def _vector(datacube):
    ellipse = datacube.calibration.get_ellipse()
    if ellipse is None or any(v is None for v in ellipse):
        return np.zeros(2)
    if any(np.size(v) != 1 for v in ellipse):
        raise PrenetError("The calibration holds an ellipse for every position, but a microscope has one; set scalars.")
    return ellipse_vector(*(float(np.squeeze(v)) for v in ellipse))


def _calibrated(datacube, data, center):
    """A cube of these data with the input's metadata and calibration, but a constant origin and no ellipse."""
    new = calibrations.cube_like(datacube, data)
    if calibrations.SIGMA in new.treekeys:
        new.tree(calibrations.SIGMA).cut(root_metadata=False)
    calibration = new.calibration
    for key in ("qx0_meas", "qy0_meas", "origin_meas_mask", calibrations.MASK, calibrations.WRITTEN):
        calibration._params.pop(key, None)
    calibration.set_origin(tuple(np.full(new.Rshape, float(c)) for c in center))
    calibration.set_ellipse((None, None, None))
    calibrations.sign(new, "origin")
    record = calibrations.read_provenance(new)
    if record is not None:
        calibrations.write_provenance(new, record | {"since": [*record.get("since", []), "corrected()"]})
    return new


def _move_block(index, block, origin, inverse, center, noise):
    """Corrected patterns (n, Qx, Qy), float32, of patterns as stored with origins (n, 2)."""
    electrons = noise.electrons(block)
    (a, b), (c, d) = inverse
    p, q = (center - origin @ inverse.T).T[:, :, None]  # x' = a x + b y + p, y' = c x + d y + q
    x, y = (np.arange(n) for n in block.shape[1:])
    moved = _resampled(electrons.swapaxes(1, 2), a, b * y + p).swapaxes(1, 2)
    # now x is x', and what remains is y' = (d - b c / a) y + c / a x' + q - c / a p
    moved = _resampled(moved, d - b * c / a, c / a * x + q - c / a * p)
    return (moved * noise.gain + noise.offset).astype(np.float32)


def _resampled(values, scale, shift):
    """(n, lines, pixels) values shared among the pixels that their intervals overlap once they lie at scale * pixel +
    shift, (n, lines): differences of the running sum at the new pixels' edges."""
    pixels = values.shape[2]
    edges = (np.arange(pixels + 1) - 0.5 - shift[..., None]) / scale + 0.5
    edges = np.clip(edges, 0, pixels)
    whole = np.minimum(edges.astype(int), pixels - 1)
    running = np.zeros((*values.shape[:2], pixels + 1))
    np.cumsum(values, axis=2, dtype=float, out=running[..., 1:])
    at = np.take_along_axis(running, whole, 2) + (edges - whole) * np.take_along_axis(values, whole, 2)
    return np.diff(at, axis=2)
