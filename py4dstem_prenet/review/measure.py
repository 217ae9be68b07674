"""Review of a calibrated scan: measure its calibration again.

The review fits the descan with every model, tests the residuals, measures the ellipse again, and splits the electrons
into halves to check the stated uncertainties and the effect of denoising.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ..core import BLOCK_BYTES, NoiseModel, PrenetError, as_scan, sample_positions, stage_bar
from ..denoising import UNCHANGED, WITH_NEIGHBORS, check_denoising, denoise
from ..descan import fit_origin
from ..detector import virtual_images
from ..ellipse import check_ellipse, measure_pooled
from ..fits import Pooled, pool
from ..io import (
    author_of,
    first_file,
    held_disks,
    held_quantities,
    noise_of,
    read_mask,
    read_origin,
    read_pixel_size,
    read_provenance,
    read_rotation,
    read_stop,
    recorded_ellipse,
    sigma_is_current,
)
from ..origin import check_origin
from ..report import UNKNOWN_RADIUS_FRACTION, inner_radius, stored_ellipse
from ..resampling import check_calibration
from . import Review, review_fit

SHOWN_SIDE = 8  # scan positions, side of the part of the scan that is denoised for the figures
CHECKED_POSITIONS = 256  # scan positions that are split into halves; takes some seconds
FAST_STAGES = "calibration", "mean patterns", "descan", "ellipse"  # of a review, in order
SLOW_STAGES = "check of denoising", "denoised part", "check of the origin", "check of the ellipse"
MAX_IMAGE_SIDE = 128  # scan positions, side of the largest scan whose virtual images are compared with residuals


def review(datacube, device="auto", progress=True, fast=False) -> Review:
    """Review a calibrated scan.

    Parameters
    ----------
    datacube : DataCube
        The scan, with an origin in its calibration.
    device : str, optional
        "auto", "cpu", "cuda" or "mps".
    progress : bool, optional
        Whether to show a progress bar.
    fast : bool, optional
        Whether to leave out denoising and the checks on halves of the electrons.

    Returns
    -------
    Review
        The results. Only the first fields are set if the calibration belongs to other data.

    Raises
    ------
    PrenetError
        If the calibration has no origin.
    """
    scan = as_scan(datacube)
    if datacube.calibration is None or datacube.calibration.get_origin_meas() is None:
        raise PrenetError("No origin was measured in this scan; call datacube.prenet.calibrate() (or prenet calibrate) "
                          "first.")
    stages = FAST_STAGES if fast else FAST_STAGES + SLOW_STAGES
    with stage_bar("report", stages, progress) as advance:
        noise, shape = noise_with_stop(datacube), scan.shape
        results = {"name": name_of(datacube), "shape": shape, "dtype": str(datacube.data.dtype), "noise": noise,
                   "belongs": check_calibration(datacube), "record": read_provenance(datacube)}
        if set(results["belongs"].stale) & {"measured origin", "probe radius"}:
            return Review(**results)  # the maps belong to other data
        advance()
        origin = read_origin(datacube)
        radius = origin.radius if np.isfinite(origin.radius) else UNKNOWN_RADIUS_FRACTION * min(shape[2:])
        stored = datacube.calibration.get_origin()
        if np.shape(stored)[1:] not in ((), shape[:2]):  # belongs to the scan before cropping; reported by `belongs`
            stored = None
        used = stored
        if stored is None:
            best = fit_origin(origin)
            used = best.qx0, best.qy0
        used = np.stack([np.broadcast_to(np.asarray(q, float), shape[:2]) for q in used])
        before, offset = mean_as_recorded(datacube, used, noise)
        centered = pool(datacube, *np.rint(used), noise, valid=origin.valid)
        after = pool(datacube, *used, noise, valid=origin.valid)
        advance()
        outer = inner_radius(after.mean.shape, after.center)
        detectors = [(0, radius), (min(2 * radius, 0.5 * outer), outer)]
        fitted, sigma_known = None if stored is None else used, sigma_is_current(datacube)
        images = _virtual_maps(datacube, used, detectors, noise)
        results |= {"origin": origin, "sigma_known": sigma_known, "before": before, "centered": centered,
                    "after": after, "offset": offset, "mask": read_mask(datacube), "fitted": fitted,
                    "pixel_size": read_pixel_size(datacube), "rotation": read_rotation(datacube),
                    "quantities": {name: numbers for name, numbers in held_quantities(datacube).items()
                                   if name != "ellipse"},
                    "fit": review_fit(origin, fitted, sigma_known, min(shape[2:]), images)}
        advance()
        disk_radius = origin.radius if np.isfinite(origin.radius) else None
        covariance, evidence = recorded_ellipse(datacube)
        results |= {"stored": stored_ellipse(datacube.calibration), "stored_covariance": covariance,
                    "evidence": evidence, "disks": held_disks(datacube),
                    "rotflip": datacube.calibration.get_QR_rotflip_degrees(),
                    "stored_by": author_of(datacube, "ellipse") or "", "fitted_by": author_of(datacube, "origin") or "",
                    "ellipse": measure_pooled(after, disk_radius, noise, device)}
        advance()
        if fast:
            return Review(**results)
        results["denoising"] = check_denoising(datacube, noise, device=device)
        advance()
        results |= _denoised_part(datacube, used, detectors, noise, device, results["denoising"].mode)
        advance()
        results["halves"] = check_origin(datacube, noise, device=device, positions=CHECKED_POSITIONS)
        advance()
        if results["ellipse"].accepted and stored is not None:
            results["ellipse_halves"] = check_ellipse(datacube, noise, device=device, positions=4 * CHECKED_POSITIONS)
        advance()
    return Review(**results)


def name_of(datacube) -> str:
    """Return the name of the file of a scan, and that of the file that was calibrated, or the name of a cube in memory.

    Parameters
    ----------
    datacube : DataCube
        The scan.

    Returns
    -------
    str
        The name.
    """
    path, first = as_scan(datacube).file, first_file(datacube)
    if path is None:
        return str(datacube.name)
    name = Path(path).name
    return name if first in (None, name) else f"{name} (scan of {first})"


def noise_with_stop(datacube) -> NoiseModel:
    """Return the noise model of a calibrated scan; a beam stop that was found counts as bad pixels.

    Parameters
    ----------
    datacube : DataCube
        The scan.

    Returns
    -------
    NoiseModel
        Noise model of the detector.
    """
    noise, stop = noise_of(datacube), read_stop(datacube)
    return noise if stop is None else replace(noise, bad_pixels=noise.bad_pixels | stop)


def mean_as_recorded(datacube, used, noise) -> tuple[Pooled, tuple[float, float]]:
    """Compute the mean pattern as recorded, in the frame of pooled patterns.

    Parameters
    ----------
    datacube : DataCube
        The scan.
    used : numpy.ndarray, shape (2, Rx, Ry)
        Origin, pixels.
    noise : NoiseModel
        Noise model of the detector.

    Returns
    -------
    pooled : Pooled
        The mean pattern.
    offset : tuple of float
        Position of the detector's first pixel in the frame of the mean pattern, pixels.
    """
    middle = [float(np.rint(q.mean())) for q in used]  # whole pixels, so that nothing is interpolated
    pooled = pool(datacube, *(np.full(q.shape, m) for q, m in zip(used, middle, strict=True)), noise)
    return pooled, tuple(c - m for c, m in zip(pooled.center, middle, strict=True))


def _virtual_maps(datacube, used, detectors, noise):
    """Compute virtual images of the whole scan; None if it is too large."""
    scan = as_scan(datacube).scan_shape
    if scan[0] * scan[1] > MAX_IMAGE_SIDE**2:
        return None
    return virtual_images(datacube, *used, detectors, noise).reshape(-1, *scan)


def _denoised_part(datacube, used, detectors, noise, device, mode):
    """Denoise the part of the scan around the strongest scattering: electrons before and after, and virtual images."""
    from py4DSTEM import DataCube

    rx, ry, qx, qy = as_scan(datacube).shape
    sample = sample_positions((rx, ry), 256)
    dark = virtual_images(datacube, *used, detectors[1:], noise, positions=sample)[0]
    middle = np.unravel_index(sample[np.argmax(dark)], (rx, ry))
    side = int(np.clip(np.sqrt(BLOCK_BYTES / (4 * qx * qy)), 2, SHOWN_SIDE))
    part = tuple(slice(max(0, min(m - side // 2, n - side)), max(0, min(m - side // 2, n - side)) + side)
                 for m, n in zip(middle, (rx, ry), strict=True))
    data = np.array(datacube.data[part])
    origins = used[:, part[0], part[1]]
    piece = DataCube(data)
    piece.calibration.set_origin(tuple(origins))  # denoising compares patterns about their origins
    clean = piece.data
    if mode != UNCHANGED:
        scan_aware = mode == WITH_NEIGHBORS if mode else "auto"
        clean = denoise(piece, noise, scan_aware=scan_aware, device=device, progress=False).data
    kinds = [noise.electrons(kind.reshape(-1, qx, qy)).reshape(kind.shape) for kind in (data, clean)]
    exact = NoiseModel(1.0, 0.0, 0.0, np.zeros((qx, qy), bool), False, noise.dose)
    images = [virtual_images(kind, *origins, detectors, exact).reshape(2, *kind.shape[:2]) for kind in kinds]
    return {"raw": kinds[0], "clean": kinds[1], "virtual": np.stack(images),
            "part_at": tuple(along.start for along in part)}
