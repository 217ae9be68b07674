"""Elliptical distortion of a scan, from its pooled patterns.

The microscope causes the distortion; therefore all patterns of the scan are pooled about the fitted origin. There are
two independent estimates: from the rings outside the direct beam (halos, powder rings, or many grains), and from the
shape of the direct beam, if the aperture is round. For each, a network on polar maps gives the start of a least-squares
fit to the pooled pattern. Strain and distortion cannot be separated in a single crystal; therefore Bragg spots alone
are never used. `decide.py` combines the two estimates and accepts or refuses the result.

`a`, `b`, `theta` are those of py4DSTEM: theta in radians from +qx (rows) toward +qy (columns) to the `a` axis, in
[0, pi). py4DSTEM uses only a / b; here a b = 1. The ellipse vector is (eps cos 2theta, eps sin 2theta) with
eps = a / b - 1.

How py4DSTEM applies it: a measured position is origin + R(theta) diag(a, b) R(theta)^T ideal, so an ideal circle of
radius rho is an ellipse with semi-axes a rho and b rho on the detector. After the correction, py4DSTEM returns the
radius

    BraggVectors.cal                                    b rho    (the a axis is divided by a / b, the b axis stays)
    PolarDatacube (data and radial profiles)            b rho
    process.utils.elliptical_coords                     a rho    (radii are measured along the a axis)
    DataCube.get_radial_bkgrnd                          wrong if an ellipse is set; do not use it

`BraggVectors.cal` and `PolarDatacube` thus reduce areas by b / a = b^2. A pixel size (calibrated length per pixel)
that was measured before the ellipse was set, from a geometric-mean radius, must be multiplied by sqrt(a / b) = a for
them. A pixel size calibrated afterward, with the same function, needs no correction. `corrected` keeps areas and the
radius rho.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..compute import sharing_cores
from ..core import Ellipse, EllipseMap, Flag, NoiseModel, PrenetError, as_scan, stabilize
from ..fits import (
    MIN_RING_CONTINUITY,
    MIN_RING_SPAN_PX,
    Pooled,
    fit_disk,
    other_center,
    pool,
    pooled_radius,
    refine_rings,
    ring_center,
    ring_span,
    to_polar,
)
from ..networks import AZIMUTHS, DISK_SPAN, RADII, RINGS_FROM, load, normalize_polar
from .decide import decide_ellipse, unknown_ellipse

BEAM_CENTER_SIGMA_PX = 0.05  # pixels; standard error of the center of the pooled direct beam
MIN_CENTER_OFFSET_PX = 0.3  # pixels; smallest offset between the centers of rings and direct beam that is flagged
MIN_CENTER_OFFSET_SIGMAS = 3  # standard errors; smallest significance of this offset, along either axis, for a flag
MAX_EDGE_RADII = 0.4  # radii; largest width of the edge: a beam with a wider edge is not an image of the aperture
MIN_SHAPE_RADIUS_PX = 2.0  # pixels; smallest radius of a direct beam whose shape is resolved
MIN_RING_MARGIN_PX = 14  # pixels; smallest difference of usable radius and disk diameter for which rings are fitted


@sharing_cores
def measure_ellipse(data, qx0, qy0, radius, noise: NoiseModel, valid=None, region=None, device="auto",
                    progress=True) -> Ellipse:
    """Measure the elliptical distortion of a scan, or of a region of it, about its origin.

    Parameters
    ----------
    data : Scan, DataCube or array_like, shape (Rx, Ry, Qx, Qy)
        The scan.
    qx0, qy0 : array_like, shape (Rx, Ry)
        Origin in pixels.
    radius : float or None
        Radius of the direct disk in pixels. NaN if it is unknown; it is then measured about the origin. None if the
        direct beam is hidden; only rings are then used.
    noise : NoiseModel
        Noise model of the detector.
    valid : array_like of bool, shape (Rx, Ry), optional
        True where a position is used.
    region : tuple of slice or numpy.ndarray of bool, shape (Rx, Ry), optional
        Positions to measure; the whole scan by default.
    device : str, optional
        "auto", "cpu", "cuda" or "mps".
    progress : bool, optional
        Whether to show a progress bar.

    Returns
    -------
    Ellipse
        The ellipse with its covariance, accepted or refused.

    Raises
    ------
    PrenetError
        If no position can be pooled, the radius is not positive, the region is invalid, or weights are missing.

    Examples
    --------
    >>> from py4dstem_prenet.demo import load_scan
    >>> from py4dstem_prenet.ellipse import measure_ellipse
    >>> datacube, truth = load_scan()
    >>> report = datacube.prenet.calibrate(progress=False)  # doctest: +SKIP
    >>> fit, radius = report.fit, report.origin.radius  # doctest: +SKIP
    >>> ellipse = measure_ellipse(datacube, fit.qx0, fit.qy0, radius, report.noise)  # doctest: +SKIP
    """
    scan = as_scan(data)
    use = in_region(region, scan.scan_shape)
    if valid is not None:
        use = use & np.asarray(valid, bool)
    load("ellipse", device)  # refuse missing weights or an unavailable device before the patterns are read
    pooled = pool(scan, qx0, qy0, noise, valid=use, progress="ellipse" if progress else None)
    if radius is not None and np.isnan(radius):
        radius = pooled_radius(pooled)
        if np.isnan(radius):
            ellipse = measure_pooled(pooled, None, noise, device)
            return replace(ellipse, decision=replace(ellipse.decision, flags=(*ellipse.flags, Flag("radius_unknown"))))
    return measure_pooled(pooled, radius, noise, device)


@sharing_cores
def map_ellipse(data, qx0, qy0, radius, noise: NoiseModel, blocks: int = 4, valid=None, device="auto",
                progress=True) -> EllipseMap:
    """Measure the ellipse in regions of a scan, to show whether it changes with the position.

    Parameters
    ----------
    data : Scan, DataCube or array_like, shape (Rx, Ry, Qx, Qy)
        The scan.
    qx0, qy0 : array_like, shape (Rx, Ry)
        Origin in pixels.
    radius : float or None
        Radius of the direct disk in pixels; NaN if it is unknown, None if the direct beam is hidden.
    noise : NoiseModel
        Noise model of the detector.
    blocks : int, optional
        Regions along each side of the scan.
    valid : array_like of bool, shape (Rx, Ry), optional
        True where a position is used. The ellipse of a region without such positions is not accepted.
    device : str, optional
        "auto", "cpu", "cuda" or "mps".
    progress : bool, optional
        Whether to show progress bars.

    Returns
    -------
    EllipseMap
        The ellipse of each region; NaN where it is not accepted.

    Raises
    ------
    PrenetError
        If the scan has fewer positions along a side than regions, or for the reasons given in `measure_ellipse`.
    """
    scan = as_scan(data)
    shape = scan.scan_shape
    if not 1 <= blocks <= min(shape):
        raise PrenetError(
            f"A scan of {shape[0]} x {shape[1]} positions cannot be cut into {blocks} x {blocks} regions.")
    valid = np.ones(shape, bool) if valid is None else np.asarray(valid, bool)
    edges = [-(-np.arange(blocks + 1) * n // blocks) for n in shape]
    ellipses: list[list[Ellipse]] = []
    for k in range(blocks):
        ellipses.append([])
        for m in range(blocks):
            region = tuple(slice(int(e[i]), int(e[i + 1])) for e, i in zip(edges, (k, m), strict=True))
            if valid[region].any():
                ellipse = measure_ellipse(scan, qx0, qy0, radius, noise, valid, region, device, progress)
            else:
                ellipse = unknown_ellipse(Flag("region_without_beam"))
            ellipses[-1].append(ellipse)
    accepted = np.array([[e.accepted for e in row] for row in ellipses])
    values = np.array([[(e.a, e.b, e.theta, e.sigma) for e in row] for row in ellipses])
    a, b, theta, sigma = np.moveaxis(np.where(accepted[..., None], values, np.nan), -1, 0)
    return EllipseMap(a, b, theta, sigma, accepted, ellipses, shape)


def in_region(region, scan_shape):
    """Convert a region of a scan to a mask.

    Parameters
    ----------
    region : tuple of slice, numpy.ndarray of bool, shape (Rx, Ry), or None
        The region; None is the whole scan.
    scan_shape : tuple of int
        (Rx, Ry).

    Returns
    -------
    numpy.ndarray of bool, shape (Rx, Ry)
        True inside the region.

    Raises
    ------
    PrenetError
        If the region has a wrong type or shape, reaches beyond the scan, or is empty.

    Examples
    --------
    >>> from py4dstem_prenet.ellipse.measure import in_region
    >>> in_region((slice(0, 1), slice(None)), (2, 2)).tolist()
    [[True, True], [False, False]]
    """
    if region is None:
        return np.ones(scan_shape, bool)
    if isinstance(region, tuple) and len(region) == 2 and all(isinstance(s, slice) for s in region):
        for part, length, axis in zip(region, scan_shape, ("rows", "columns"), strict=True):
            if any(end is not None and not -length <= end <= length for end in (part.start, part.stop)):
                raise PrenetError(f"The region reaches beyond the scan: {part.start} to {part.stop} were given, and "
                                  f"the scan has {length} {axis}.")
        use = np.zeros(scan_shape, bool)
        use[region] = True
    else:
        use, shape = np.asarray(region), tuple(scan_shape)
        if use.dtype != bool or use.shape != shape:
            raise PrenetError(f"A region is a pair of slices or a boolean mask of the scan's shape {shape}, not "
                              f"{type(region).__name__} of shape {use.shape} and type {use.dtype}.")
    if not use.any():
        raise PrenetError("The region holds no scan position.")
    return use


@sharing_cores
def measure_pooled(pooled: Pooled, radius, noise: NoiseModel, device="auto") -> Ellipse:
    """Measure the ellipse of pooled patterns.

    Parameters
    ----------
    pooled : Pooled
        The pooled patterns.
    radius : float or None
        Radius of the direct disk in pixels; None or NaN if the disk is hidden, so that only rings are used.
    noise : NoiseModel
        Noise model of the detector.
    device : str, optional
        "auto", "cpu", "cuda" or "mps".

    Returns
    -------
    Ellipse
        The ellipse with its covariance, accepted or refused.

    Raises
    ------
    PrenetError
        If the radius is not positive.
    """
    sources, notes, continuity, disk, start = {}, [], 0.0, None, np.zeros(2)
    if radius is not None and np.isfinite(radius):
        if not radius > 0:
            raise PrenetError(f"The probe radius must be positive, not {radius}; measure the origin first.")
        elsewhere = other_center(pooled.mean, pooled.weight, pooled.center, radius, noise.readout / noise.gain)
        notes += [elsewhere] if elsewhere else []
        prediction = predict_ellipse(load("ellipse", device), pooled, radius, noise)
        start = prediction["rings"][0]
        disk = fit_disk(pooled, radius, start_vector=prediction["disk"][0])
        finite = np.isfinite(disk.vector).all() and np.isfinite(disk.covariance).all()
        if finite and disk.edge < MAX_EDGE_RADII * disk.radius and disk.radius > MIN_SHAPE_RADIUS_PX:
            sources["direct beam"] = (disk.vector, disk.covariance)
    first, last = ring_span(pooled.mean, pooled.weight > 0, pooled.center)
    diameter = 2 * (0 if disk is None else radius)
    if usable_radius(pooled) > diameter + MIN_RING_MARGIN_PX and last > first + MIN_RING_SPAN_PX:
        rings = refine_rings(pooled, start_vector=start, inner=first)
        continuity = rings.continuity
        if continuity >= MIN_RING_CONTINUITY and rings.improved:
            sources["rings"] = (rings.vector, rings.covariance)
            if disk is not None:
                notes += _center_flags(pooled, disk.center)
    return decide_ellipse(sources, notes, continuity)


def _center_flags(pooled, beam_center):
    """Return a list with a flag if the center of the rings differs from that of the direct beam."""
    rings = ring_center(pooled.mean, pooled.weight > 0, guess=beam_center)
    if not rings.accepted:  # narrow rings may be centered far from the beam
        rings = ring_center(pooled.mean, pooled.weight > 0)
    offset = np.subtract(rings.center, beam_center)
    sigma = np.sqrt(np.diag(rings.covariance) + BEAM_CENTER_SIGMA_PX**2)
    small = np.hypot(*offset) < MIN_CENTER_OFFSET_PX or (np.abs(offset) < MIN_CENTER_OFFSET_SIGMAS * sigma).all()
    if not rings.accepted or small:
        return []
    return [Flag("rings_off_center", {"dx": float(offset[0]), "dy": float(offset[1]), "sigma_x": float(sigma[0]),
                                      "sigma_y": float(sigma[1])})]


def usable_radius(pooled: Pooled) -> float:
    """Find the radius up to which at least half of the azimuth lies on the detector.

    Parameters
    ----------
    pooled : Pooled
        The pooled patterns.

    Returns
    -------
    float
        Radius in pixels; 0 if there is none.
    """
    shape, center = pooled.weight.shape, np.asarray(pooled.center)
    corners = np.array([[x, y] for x in (0, shape[0] - 1) for y in (0, shape[1] - 1)])
    radii = np.arange(1.0, np.linalg.norm(corners - center, axis=1).max())
    _, weight = to_polar(pooled.weight, center, radii, AZIMUTHS, weight=pooled.weight)
    covered = (weight > 0).mean(0) >= 0.5
    return float(radii[covered][-1]) if covered.any() else 0.0


def predict_ellipse(network, pooled: Pooled, radius: float, noise: NoiseModel) -> dict:
    """Estimate the ellipse with the network.

    Parameters
    ----------
    network : EllipseNet
        The network.
    pooled : Pooled
        The pooled patterns.
    radius : float
        Radius of the direct disk in pixels.
    noise : NoiseModel
        Noise model of the detector.

    Returns
    -------
    dict
        Ellipse vector, (2,), and its standard error, for "rings" and "disk".
    """
    counts = np.clip(pooled.mean * pooled.weight, 0, None)
    z = stabilize(counts, noise.readout / noise.gain * np.sqrt(pooled.weight)).astype(np.float32)
    device = next(network.parameters()).device
    maps = {}
    for name, count in RADII.items():
        first, last = ((RINGS_FROM * radius, max(usable_radius(pooled), 2.2 * radius)) if name == "rings" else
                       (DISK_SPAN[0] * radius, DISK_SPAN[1] * radius))
        polar, weight = to_polar(z, pooled.center, np.linspace(first, last, count), AZIMUTHS, weight=pooled.weight)
        usable = torch.from_numpy((weight > 0).astype(np.float32))[None]
        maps[name] = normalize_polar(torch.from_numpy(polar.astype(np.float32))[None], usable).to(device)
    with torch.inference_mode():
        return {name: (vector[0].cpu().numpy().astype(float), float(log_sigma[0].exp()))
                for name, (vector, log_sigma) in network(**maps).items()}
