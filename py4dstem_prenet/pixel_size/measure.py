"""Pixel size of a scan of a known crystal, from its pooled patterns and from the disks of single patterns.

Patterns are pooled about the fitted origin, as for the ellipse. There are two kinds of evidence: the rings of the
pooled pattern, whose width is that of a disk, and the positions of disks in single patterns, which are sharper where
grains are separate. For each, the rings are assigned over all plausible pixel sizes (`assign.py`), and pixel size,
ellipse and center are fitted together (`joint.py`). The more precise one counts.

The pixel size refers to the geometric mean of the semi-axes of the ellipse. py4DSTEM's `BraggVectors.cal` and
`PolarDatacube` return b times that radius, so what is written is the pixel size times sqrt(a / b) if an ellipse is set.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from ..compute import map_chunks, sharing_cores
from ..core import Ellipse, Flag, NoiseModel, PixelSize, PrenetError, as_scan, flat_origins
from ..ellipse import in_region
from ..fits import MIN_RING_SPAN_PX, Pooled, pool, pooled_positions, refine_rings, ring_span
from . import (
    MIN_SUSPECTED_SIGMAS,
    RELROD,
    RingTable,
    Shape,
    State,
    assign_rings,
    decide_pixel_size,
    disk_maxima,
    find_standard,
    fit_joint,
    is_significant,
    pool_disks,
    radial_data,
    unknown_size,
)

BLURS_PX = (0.6, 1.5)  # pixels, blur of rings that is tried first
POINT_BLURS_PX = (0.7, 2.0)  # pixels, of rings whose disks are points or unknown
POINT_RADIUS_PX = 0.05  # pixels, radius of a disk that is a point
MAX_DISK_POSITIONS = 1024  # scan positions whose disks are found, for speed
MIN_DISK_POSITIONS = 8  # scan positions; maxima on the rings of a single powder pattern are no disks
MIN_DISKS = 60  # disks without the direct beam, for them to count as evidence
INNER_RADII, INNER_PX = 3.0, 1.5  # radii of the direct disk, and pixels: inside, the direct beam disturbs the search
WIDE_BLUR_PX = 3.5  # pixels, of wide rings whose disks are unknown


def measure_pixel_size(data, qx0, qy0, radius, noise: NoiseModel, standard, ellipse: Ellipse | None = None, valid=None,
                       region=None, progress=True) -> PixelSize:
    """Measure the pixel size of a scan of a known crystal.

    Parameters
    ----------
    data : Scan, DataCube or array_like, shape (Rx, Ry, Qx, Qy)
        The scan.
    qx0, qy0 : array_like, shape (Rx, Ry)
        Origin in pixels.
    radius : float or None
        Radius of the direct disk in pixels; None or NaN if the direct beam is hidden.
    noise : NoiseModel
        Noise model of the detector.
    standard : str, pathlib.Path, py4DSTEM.process.diffraction.Crystal or Standard
        The crystal: a name such as "Au" (`find_standard` lists them), a CIF file, or a py4DSTEM Crystal.
    ellipse : Ellipse, optional
        The elliptical distortion, if it was measured before; its sigma limits how far the joint fit may change it.
    valid : array_like of bool, shape (Rx, Ry), optional
        True where a position is used.
    region : tuple of slice or numpy.ndarray of bool, shape (Rx, Ry), optional
        Positions to measure; the whole scan by default.
    progress : bool, optional
        Whether to show a progress bar.

    Returns
    -------
    PixelSize
        The pixel size with its uncertainty, accepted or refused.

    Raises
    ------
    PrenetError
        If the standard is unknown, no position can be pooled, or the region is invalid.

    Notes
    -----
    Strain of the standard, such as that of a single crystal, changes the result in proportion.

    Examples
    --------
    >>> from py4dstem_prenet.demo import load_scan
    >>> from py4dstem_prenet.pixel_size import measure_pixel_size
    >>> datacube, truth = load_scan()
    >>> report = datacube.prenet.calibrate(progress=False)  # doctest: +SKIP
    >>> fit, radius = report.fit, report.origin.radius  # doctest: +SKIP
    >>> size = measure_pixel_size(datacube, fit.qx0, fit.qy0, radius, report.noise, "Au")  # doctest: +SKIP
    """
    scan, standard = as_scan(data), find_standard(standard)
    use = in_region(region, scan.scan_shape)
    if valid is not None:
        use = use & np.asarray(valid, bool)
    if radius is not None and np.isfinite(radius) and not radius > 0:
        raise PrenetError(f"The probe radius must be positive, not {radius}; measure the origin first.")
    radius = float(radius) if radius is not None and np.isfinite(radius) else None
    pooled = pool(scan, qx0, qy0, noise, valid=use, progress="pixel size" if progress else None)
    disks = None
    if radius is not None:
        origin = flat_origins(scan.scan_shape, qx0, qy0)
        disks = _pooled_disks(scan, origin, use.ravel() & np.isfinite(origin).all(1), radius, noise, pooled)
    return measure_pooled_size(pooled, radius, noise, standard, ellipse, disks)


def _pooled_disks(scan, origin, use, radius, noise, pooled):
    """Positions of the disks of an even sample of patterns, pooled; None if there are too few."""
    chosen = pooled_positions(use, scan.scan_shape, noise.dose)
    if len(chosen) < MIN_DISK_POSITIONS:
        return None
    if len(chosen) > MAX_DISK_POSITIONS:
        chosen = chosen[np.linspace(0, len(chosen) - 1, MAX_DISK_POSITIONS).astype(int)]
    work = partial(_disks_of_block, radius=radius, noise=noise)
    index, position, significance = [], [], []
    for at, found in map_chunks(work, scan, positions=chosen):
        index.append(at[found[0]])
        position.append(found[1])
        significance.append(found[2])
    index, position, significance = (np.concatenate(v) for v in (index, position, significance))
    order = np.full(len(origin), -1)
    order[chosen] = np.arange(len(chosen))
    parts = np.arange(len(chosen)) * min(len(pooled.parts), len(chosen)) // len(chosen)
    offset = np.hypot(*(position - origin[index]).T)
    if (offset > INNER_RADII * radius + INNER_PX).sum() < MIN_DISKS:
        return None
    return pool_disks(order[index], position, significance, origin[chosen], parts, radius, pooled)


def _disks_of_block(index, block, radius, noise):
    return disk_maxima(noise.electrons(block), radius, noise.readout / noise.gain)


@sharing_cores
def measure_pooled_size(pooled: Pooled, radius, noise: NoiseModel, standard, ellipse: Ellipse | None = None,
                        disks: Pooled | None = None) -> PixelSize:
    """Measure the pixel size of pooled patterns.

    Parameters
    ----------
    pooled : Pooled
        The pooled patterns.
    radius : float or None
        Radius of the direct disk in pixels; None if it is hidden.
    noise : NoiseModel
        Noise model of the detector.
    standard : str, pathlib.Path, py4DSTEM.process.diffraction.Crystal or Standard
        The crystal.
    ellipse : Ellipse, optional
        The elliptical distortion.
    disks : Pooled, optional
        Positions of disks, from `pool_disks`.

    Returns
    -------
    PixelSize
        The pixel size with its uncertainty, accepted or refused.

    Raises
    ------
    PrenetError
        If the standard is unknown.
    """
    standard = find_standard(standard)
    span = ring_span(pooled.mean, pooled.weight > 0, pooled.center)
    if span[1] - span[0] < MIN_RING_SPAN_PX:
        return unknown_size(standard.name, Flag("pixel_size_no_rings", {"standard": standard.name}))
    vector, center, covariance = _start(pooled, span, ellipse)
    readout = noise.readout / noise.gain
    reference = min(pooled.mean.shape) / 2
    # Rings need not have the shape of the direct beam, for example if it is saturated or a spot with tails.
    shapes = [Shape(POINT_RADIUS_PX, blur, RELROD) for blur in (*POINT_BLURS_PX, WIDE_BLUR_PX)]
    if radius is not None and radius > 1:
        shapes = [Shape(radius, blur, RELROD) for blur in BLURS_PX] + shapes[1:]
    evidence = [_Evidence("rings", pooled, span, shapes, readout, vector, center)]
    if disks is not None:
        lit = evidence[0].profile.radii
        outer = (lit[-1] if len(lit) else span[1]) - radius  # disks that are cut off are not where they seem to be
        points = [Shape(POINT_RADIUS_PX, blur, RELROD) for blur in POINT_BLURS_PX]
        radii = INNER_RADII * radius + INNER_PX, outer
        evidence.append(_Evidence("disks", disks, radii, points, 0.0, vector, center))
    evidence = [e for e in evidence if len(e.profile.radii) >= 2 * MIN_RING_SPAN_PX]
    assigned = assign_rings(evidence, standard) if evidence else None
    if assigned is None:
        return unknown_size(standard.name, Flag("pixel_size_no_rings", {"standard": standard.name}))
    assignment, shapes = assigned
    results = []
    for e, shape in zip(evidence, shapes, strict=True):
        start = State(assignment.scale, vector, center, shape, 0.0, np.zeros(2), reference, e.span, shape, covariance)
        try:
            fit, doubt = _fitted(e.source, standard, start, e.readout)
        except np.linalg.LinAlgError:
            continue
        results.append(decide_pixel_size(fit, standard, assignment, e.name, reference, doubt))
    if not results:
        return unknown_size(standard.name, Flag("pixel_size_no_rings", {"standard": standard.name}))
    # A distortion that only one kind of evidence shows would bias the other.
    return min(results, key=lambda result: (not result.accepted, not result.distorted, result.relative_sigma))


class _Evidence:
    """A pattern, its radial profile and the shapes of rings that are tried."""

    def __init__(self, name, source, span, shapes, readout, vector, center):
        self.name, self.source, self.span, self.readout = name, source, span, readout
        self.profile = radial_data(source.mean, source.weight, center, vector, span, readout)
        self.tables = [RingTable(self.profile.radii, shape) for shape in shapes]


def _start(pooled, span, ellipse):
    """Ellipse vector, center, and covariance of the vector, with which the joint fit begins."""
    if ellipse is not None and ellipse.accepted:
        center = np.array(pooled.center)
        return np.array(ellipse.vector, float), center, np.array(ellipse.covariance, float)
    wide = 0.02**2 * np.eye(2)
    try:
        rings = refine_rings(pooled, inner=span[0])
    except PrenetError:
        return np.zeros(2), np.array(pooled.center), wide
    if not rings.improved:
        return np.zeros(2), np.array(pooled.center), wide
    return rings.vector, np.array(pooled.center), np.minimum(rings.covariance, 1.0) + 1e-8 * np.eye(2)


def _fitted(source, standard, start, readout):
    """The joint fit, with the distortions that are significant; what others may change, as a relative sigma."""
    fit = fit_joint(source, standard, start, readout)
    kept: tuple[str, ...] = ()
    doubt = 0.0
    for names in (("barrel",), ("three0", "three1")):
        near = replace(start, scale=fit.scale, vector=fit.vector, center=fit.center, shape=fit.shape, barrel=fit.barrel)
        trial = fit_joint(source, standard, replace(near, nominal_vector=start.vector), readout, (*kept, *names))
        if is_significant(trial, names):
            kept, fit = (*kept, *names), trial
        elif is_significant(trial, names, MIN_SUSPECTED_SIGMAS):
            doubt = float(np.hypot(doubt, np.log(trial.scale / fit.scale)))
    return fit, doubt


