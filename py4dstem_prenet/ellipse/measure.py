"""The elliptical distortion of a scan: pooled, looked at by a network, refined, and refused where it cannot be told.

The ellipse belongs to the microscope, so the whole scan is pooled about its fitted origin. Two kinds of evidence are
weighed: everything outside the direct beam (rings and halos, or the many grains of a powder), and the shape of the
direct beam itself, which supposes a round aperture. Each comes from a network on polar maps that starts a refinement
on the full-resolution pool. One crystal's lattice cannot tell strain from distortion, so spots alone never count.

`a`, `b`, `theta` are py4DSTEM's: theta in radians from +qx (rows) toward +qy (columns) to the `a` axis, in [0, pi).
Only a / b matters to py4DSTEM; here a b = 1. The vector is (eps cos 2theta, eps sin 2theta) with eps = a / b - 1.

What consumers make of it. A position is measured = origin + R(theta) diag(a, b) R(theta)^T ideal, so that an ideal
radius rho is an ellipse with semi-axes a rho and b rho on the detector. Having undone the shape, consumers return

    BraggVectors.cal                                    b rho    (the a axis is divided by a / b, the b axis is left)
    PolarDatacube (all of it: data, radial profiles)    b rho
    process.utils.elliptical_coords                     a rho    (radii count along the a axis)
    DataCube.get_radial_bkgrnd                          wrong as soon as an ellipse is set: leave it out

`BraggVectors.cal` and `PolarDatacube` thus shrink areas by b / a = b^2. A pixel size (calibrated length per pixel)
that was found before the ellipse was set, from a geometric-mean radius, must be multiplied by sqrt(a / b) = a
for them; one that is calibrated afterwards, with the same consumer, needs nothing. `corrected` keeps areas: there an
ideal radius stays rho.
"""

from __future__ import annotations

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
    refine_rings,
    ring_center,
    ring_span,
    to_polar,
)
from ..networks import AZIMUTHS, DISK_SPAN, RADII, RINGS_FROM, load, normalize_polar
from .decide import _sigma, decide_ellipse, unknown_ellipse

BEAM_CENTER = 0.05  # px, sigma of the pooled direct beam's center
LEAST_APART = 0.3  # px between rings and direct beam that are worth a word
SPOT = 0.4  # edge width of the direct beam, in radii, from which it shows no aperture


def measure_ellipse(data, qx0, qy0, radius, noise: NoiseModel, valid=None, region=None, device="auto",
                    progress=True) -> Ellipse:
    """Measure the elliptical distortion of a scan, or of a region of it, about its origin.

    Args:
        data: a DataCube or array-like (Rx, Ry, Qx, Qy).
        qx0, qy0: origin in pixels, (Rx, Ry). radius: of the direct disk, pixels; None or NaN where the direct beam
            is hidden or nobody knows its size, and rings must do.
        noise: the detector's noise model. valid: (Rx, Ry) bool, positions to use.
        region: positions to measure: a pair of slices, or a bool mask (Rx, Ry); None = the whole scan.

    Raises:
        PrenetError: no position to pool, a radius that is not positive, a region that is none, no weights.
    """
    scan = as_scan(data)
    use = in_region(region, scan.scan_shape) if valid is None else in_region(region, scan.scan_shape) & np.asarray(valid, bool)
    load("ellipse", device)  # what is wrong with weights or device is told before the work
    pooled = pool(scan, qx0, qy0, noise, valid=use, progress="ellipse" if progress else None)
    return judge_pooled(pooled, radius, noise, device)


def map_ellipse(data, qx0, qy0, radius, noise: NoiseModel, blocks: int = 4, valid=None, device="auto",
                progress=True) -> EllipseMap:
    """Measure the ellipse in each of blocks x blocks regions of a scan: whether it changes with the position.

    Arguments and errors as for `measure_ellipse`; a region without a valid position is not accepted.
    """
    data = as_scan(data)
    scan = data.scan_shape
    if not 1 <= blocks <= min(scan):
        raise PrenetError(f"A scan of {scan[0]} x {scan[1]} positions cannot be cut into {blocks} x {blocks} regions.")
    valid = np.ones(scan, bool) if valid is None else np.asarray(valid, bool)
    edges = [-(-np.arange(blocks + 1) * n // blocks) for n in scan]
    ellipses: list[list[Ellipse]] = []
    for k in range(blocks):
        ellipses.append([])
        for m in range(blocks):
            region = tuple(slice(int(e[i]), int(e[i + 1])) for e, i in zip(edges, (k, m), strict=True))
            if valid[region].any():
                found = measure_ellipse(data, qx0, qy0, radius, noise, valid, region, device, progress)
            else:
                found = unknown_ellipse(Flag("region_without_beam"))
            ellipses[-1].append(found)
    accepted = np.array([[e.accepted for e in row] for row in ellipses])
    values = np.array([[(e.a, e.b, e.theta, _sigma(e.covariance)) for e in row] for row in ellipses])
    a, b, theta, sigma = np.moveaxis(np.where(accepted[..., None], values, np.nan), -1, 0)
    return EllipseMap(a, b, theta, sigma, accepted, ellipses, scan)


def in_region(region, scan):
    """(Rx, Ry) bool of a pair of slices or a bool mask; None = everywhere. Raises PrenetError for anything else."""
    if region is None:
        return np.ones(scan, bool)
    if isinstance(region, tuple) and len(region) == 2 and all(isinstance(s, slice) for s in region):
        use = np.zeros(scan, bool)
        use[region] = True
    else:
        use = np.asarray(region)
        if use.dtype != bool or use.shape != tuple(scan):
            raise PrenetError(f"A region is a pair of slices or a boolean mask of the scan's shape {tuple(scan)}, not "
                              f"{type(region).__name__} of shape {use.shape} and type {use.dtype}.")
    if not use.any():
        raise PrenetError("The region holds no scan position.")
    return use


@sharing_cores
def judge_pooled(pooled: Pooled, radius, noise: NoiseModel, device="auto") -> Ellipse:
    """Weigh the evidence in pooled patterns. radius: of the direct disk, px, or None where it is hidden."""
    sources, notes, continuity, disk, start = {}, [], 0.0, None, np.zeros(2)
    if radius is not None and np.isfinite(radius):
        if not radius > 0:
            raise PrenetError(f"The probe radius must be positive, not {radius}; measure the origin first.")
        elsewhere = other_center(pooled.mean, pooled.weight, pooled.center, radius, noise.readout / noise.gain)
        notes += [elsewhere] if elsewhere else []
        seen = predict(load("ellipse", device), pooled, radius, noise)
        start = seen["rings"][0]
        disk = fit_disk(pooled, radius, start_vector=seen["disk"][0])
        # Where the edge is as wide as the disk there is a spot, not the image of an aperture.
        if np.isfinite(disk.vector).all() and np.isfinite(disk.covariance).all() and disk.edge < SPOT * disk.radius:
            sources["direct beam"] = (disk.vector, disk.covariance)
    first, last = ring_span(pooled.mean, pooled.weight > 0, pooled.center)
    if usable_radius(pooled) > 2 * (0 if disk is None else radius) + 14 and last > first + MIN_RING_SPAN_PX:
        rings = refine_rings(pooled, start_vector=start, inner=first)
        continuity = rings.continuity
        if continuity >= MIN_RING_CONTINUITY and rings.improved:
            sources["rings"] = (rings.vector, rings.covariance)
            if disk is not None:
                notes += _apart(pooled, disk.center)
    return decide_ellipse(sources, notes, continuity)


def _apart(pooled, beam):
    """A flag where the rings' center is not the direct beam's, in a list."""
    found = ring_center(pooled.mean, pooled.weight > 0, guess=beam)
    apart = np.subtract(found.center, beam)
    sigma = np.sqrt(np.diag(found.covariance) + BEAM_CENTER**2)
    if not found.accepted or np.hypot(*apart) < LEAST_APART or (np.abs(apart) < 3 * sigma).all():
        return []
    return [Flag("rings_off_center", {"dx": float(apart[0]), "dy": float(apart[1]), "sigma_x": float(sigma[0]),
                                      "sigma_y": float(sigma[1])})]


def usable_radius(pooled: Pooled) -> float:
    """The radius, in pixels, out to which half of the azimuth was seen."""
    shape, center = pooled.weight.shape, np.asarray(pooled.center)
    corners = np.array([[x, y] for x in (0, shape[0] - 1) for y in (0, shape[1] - 1)])
    radii = np.arange(1.0, np.linalg.norm(corners - center, axis=1).max())
    _, weight = to_polar(pooled.weight, center, radii, AZIMUTHS, weight=pooled.weight)
    covered = (weight > 0).mean(0) >= 0.5
    return float(radii[covered][-1]) if covered.any() else 0.0


def predict(network, pooled: Pooled, radius: float, noise: NoiseModel) -> dict:
    """What the network says of "rings" and "disk": (vector (2,), sigma)."""
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
