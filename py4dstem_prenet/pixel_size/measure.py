"""Pixel size of a scan of a known crystal, from its pooled patterns and from the disks of single patterns.

Patterns are pooled about the fitted origin, as for the ellipse. There are two kinds of evidence: the rings of the
pooled pattern, which are as wide as a disk, and the positions of disks in single patterns (`spots.py`), which are far
sharper if disks are resolved. For each kind, the rings are assigned over all plausible pixel sizes (`assign.py`,
`spot_assign.py`), and pixel size, ellipse and center are fitted together (`joint.py`, `spot_fit.py`). The assignment is
that of the disks, and rings add their evidence for or against it. Without disks, rings are fitted.
If the disks lie on the lattice of one crystal, it is assigned to a zone axis (`lattice.py`), and fitted
(`lattice_fit.py`).

The pixel size refers to the geometric mean of the semi-axes of the ellipse. py4DSTEM's `BraggVectors.cal` and
`PolarDatacube` return b times that radius. If an ellipse is set, the pixel size times sqrt(a / b) is written.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..compute import sharing_cores
from ..core import BraggDisks, Ellipse, Flag, NoiseModel, PixelSize, PrenetError, as_scan
from ..ellipse import in_region
from ..fits import MIN_RING_SPAN_PX, Pooled, pool, refine_rings, ring_span
from . import (
    CRYSTAL_SYSTEMATIC,
    ELLIPSE_SIGMA,
    MIN_DISTORTION_SIGMAS,
    MIN_ON_RINGS,
    MIN_SUSPECTED_SIGMAS,
    POINT_RADIUS_PX,
    RELROD,
    RadialProfile,
    RingTable,
    Shape,
    Spots,
    State,
    assign_lattice,
    assign_rings,
    assign_spots,
    centered_spots,
    decide_pixel_size,
    find_lattices,
    find_standard,
    fit_joint,
    fit_lattice,
    fit_spots,
    joint_of,
    measure_spots,
    on_lattice,
    radial_data,
    shrunk,
    significance,
    smoothed,
    unknown_size,
    with_rings,
)

BLURS_PX = (0.6, 1.5)  # pixels; start values of the blur of rings
POINT_BLURS_PX = (0.7, 2.0)  # pixels; start values of the blur of rings whose disks are points or unknown
# Binned pixels; smallest outermost radius when rings are fitted, and largest one when they are assigned. Larger
# patterns are binned, for speed.
MIN_FITTED_RADIUS_PX, MAX_ASSIGNED_RADIUS_PX = 120.0, 80.0
LOOSER, LOOSE_VECTOR = 2.0, 0.004  # factor on the prior sigma of the ellipse for disks, and sigma added to it
WIDE_BLUR_PX = 3.5  # pixels; start value of the blur of wide rings whose disks are unknown


@sharing_cores
def measure_pixel_size(data, qx0, qy0, radius, noise: NoiseModel, standard, ellipse: Ellipse | None = None, valid=None,
                       region=None, progress=True, approximate: float | None = None,
                       disks: BraggDisks | None = None) -> PixelSize:
    """Measure the pixel size of a scan of a known crystal.

    Parameters
    ----------
    data : Scan, DataCube or array_like, shape (Rx, Ry, Qx, Qy)
        The scan.
    qx0, qy0 : array_like, shape (Rx, Ry)
        Origin in pixels.
    radius : float or None
        Radius of the direct disk in pixels; None or NaN if the direct beam is hidden. The radius of the disks is then
        measured from the autocorrelation of the patterns (`hidden_disk_radius`).
    noise : NoiseModel
        Noise model of the detector.
    standard : str, pathlib.Path, py4DSTEM.process.diffraction.Crystal or Standard
        The crystal: a name such as "Au" (`find_standard` lists them), a CIF file, or a py4DSTEM Crystal.
    ellipse : Ellipse, optional
        The elliptical distortion, if it was measured before; its sigma limits its change in the joint fit.
    valid : array_like of bool, shape (Rx, Ry), optional
        True where a position is used.
    region : tuple of slice or numpy.ndarray of bool, shape (Rx, Ry), optional
        Positions to measure; the whole scan by default.
    progress : bool, optional
        Whether to show a progress bar.
    approximate : float, optional
        Pixel size, 1/angstrom, known within 10 %, for example from the camera length. It makes the zone axis of
        a single crystal unambiguous. Other crystals that fit as well are listed in a flag.
    disks : BraggDisks, optional
        Disks of this scan from `find_bragg_disks`. If their direct beam is at the given origin, these disks are used,
        and none are searched for.

    Returns
    -------
    PixelSize
        The pixel size with its uncertainty, accepted or refused.

    Raises
    ------
    PrenetError
        If the approximate pixel size is not positive, the standard is unknown, no position can be pooled, or the region
        is invalid.

    Notes
    -----
    Strain of the standard, for example in a single crystal, changes the pixel size by the same fraction, and shear
    changes the ellipse. The variation of the strain over the scan is part of the sigma.

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
    check_approximate(approximate)
    use = in_region(region, scan.scan_shape)
    if valid is not None:
        use = use & np.asarray(valid, bool)
    if radius is not None and np.isfinite(radius) and not radius > 0:
        raise PrenetError(f"The probe radius must be positive, not {radius}; measure the origin first.")
    radius = float(radius) if radius is not None and np.isfinite(radius) else None
    pooled = pool(scan, qx0, qy0, noise, valid=use, progress="pixel size" if progress else None)
    origin = np.stack([np.broadcast_to(np.asarray(q, float), scan.scan_shape).ravel() for q in (qx0, qy0)], 1)
    vector = ellipse.vector if ellipse is not None and ellipse.accepted else np.zeros(2)
    spots = measure_spots(scan, origin, use.ravel() & np.isfinite(origin).all(1), radius, noise, vector,
                          "disks" if progress else None, disks)
    if spots is not None and radius is None:
        spots = centered_spots(spots, vector)
    size = measure_pooled_size(pooled, radius, noise, standard, ellipse, spots, approximate)
    return replace(size, beam_radius=np.nan if radius is None else radius)


def check_approximate(approximate: float | None) -> None:
    """Check an approximate pixel size.

    Parameters
    ----------
    approximate : float or None
        Approximate pixel size, 1/angstrom.

    Raises
    ------
    PrenetError
        If it is not positive.

    Examples
    --------
    >>> check_approximate(0.02)
    """
    if approximate is not None and not 0 < approximate < np.inf:
        raise PrenetError(f"The approximate pixel size must be a positive number of 1/angstrom, not {approximate!r}.")


def measure_pooled_size(pooled: Pooled, radius, noise: NoiseModel, standard, ellipse: Ellipse | None = None,
                        spots: Spots | None = None, approximate: float | None = None) -> PixelSize:
    """Measure the pixel size of pooled patterns.

    Parameters
    ----------
    pooled : Pooled
        The pooled patterns.
    radius : float or None
        Radius of the direct disk in pixels; None if the disk is hidden.
    noise : NoiseModel
        Noise model of the detector.
    standard : str, pathlib.Path, py4DSTEM.process.diffraction.Crystal or Standard
        The crystal.
    ellipse : Ellipse, optional
        The elliptical distortion.
    spots : Spots, optional
        Positions of disks, from `measure_spots`.
    approximate : float, optional
        Pixel size, 1/angstrom, known within 10 %.

    Returns
    -------
    PixelSize
        The pixel size with its uncertainty, accepted or refused.

    Raises
    ------
    PrenetError
        If the standard is unknown.

    Examples
    --------
    >>> from py4dstem_prenet.core import NoiseModel
    >>> index, number = np.array([(i, j) for i in range(-2, 3) for j in range(-2, 3) if i or j]), np.arange(24)
    >>> square = 24.52 * index + 0.05 * np.stack([np.cos(number), np.sin(number)], 1)  # 200 of gold
    >>> spots = Spots(square, np.full((24, 2), 0.1), 0 * number, 0 * index, number, np.ones(24, int), 12.0, 1.0)
    >>> weight, empty = np.full((128, 128), 100.0), np.zeros((0, 128, 128))
    >>> pooled = Pooled(np.ones((128, 128)), (64.0, 64.0), 100, weight, empty, empty)
    >>> noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((128, 128), bool), counting=True, dose=1e5)
    >>> size = measure_pooled_size(pooled, 5.0, noise, "Au", spots=spots, approximate=0.021)
    >>> round(size.value, 4), size.evidence
    (0.02, 'lattice')
    """
    standard = find_standard(standard)
    span = ring_span(pooled.mean, pooled.weight > 0, pooled.center)
    reference = min(pooled.mean.shape) / 2
    few = spots is not None and spots.few_grains
    if few:
        size = _from_lattice(spots, standard, ellipse, reference, approximate)
        if size is not None:
            return size
        if ellipse is None or not ellipse.accepted:
            return unknown_size(standard.name, Flag("pixel_size_without_ellipse"))
    vector, center, covariance = _start(pooled, span, ellipse)
    disks = None if spots is None else _from_spots(spots, standard, vector, covariance, reference, approximate)
    if few:
        if disks is None:
            return unknown_size(standard.name, Flag("pixel_size_no_rings", {"standard": standard.name}))
        return disks[1](disks[0])
    rings = _rings(pooled, span, (vector, center, covariance), radius, noise)
    if disks is None:
        return _from_rings(rings, standard, reference, approximate)
    assignment, decided = disks
    # Also if disks alone accept an assignment: false disks may lie on the rings of a wrong lattice.
    found = None if rings is None else rings.assigned(standard, approximate, assignment.scale)
    return decided(assignment if found is None else with_rings(assignment, found[0]))


def _from_lattice(spots, standard, ellipse, reference, approximate):
    """Measure the pixel size, and with it the ellipse, from the lattice of one crystal; None if there are several."""
    vector, covariance = _prior(ellipse)
    if ellipse is not None and ellipse.accepted:
        covariance = _loosened(covariance)
    lattices = find_lattices(spots)
    if not lattices or on_lattice(spots, lattices[0]).mean() < MIN_ON_RINGS:
        return None
    found = assign_lattice(lattices, standard, vector, covariance, approximate)
    if found is None:
        return unknown_size(standard.name, Flag("pixel_size_no_zone", {"standard": standard.name}))
    assignment, match = found
    shape = Shape(POINT_RADIUS_PX, POINT_BLURS_PX[0])
    start = State(match.scale, vector, np.zeros(2), shape, 0.0, np.zeros(2), reference, spots.span, shape, covariance,
                  vector)
    fit, doubt = _fitted(lambda state, extra=(): fit_lattice(spots, standard, match, state, extra), start)
    doubt = float(np.hypot(doubt, CRYSTAL_SYSTEMATIC))
    return decide_pixel_size(fit, standard, assignment, "lattice", reference, doubt)


def _loosened(covariance):
    """Covariance of the ellipse of disks: that of rings may differ slightly, for example if they are of few grains."""
    return LOOSER**2 * covariance + LOOSE_VECTOR**2 * np.eye(2)


def _from_spots(spots, standard, vector, covariance, reference, approximate):
    """Assignment of the disks of single patterns, and the decision on their fit; None without an assignment."""
    span = spots.span
    wide = _loosened(covariance)
    shape = Shape(POINT_RADIUS_PX, POINT_BLURS_PX[0])
    start = State(1.0, vector, np.zeros(2), shape, 0.0, np.zeros(2), reference, span, shape, wide, vector)
    few = spots.few_grains
    # The reflections of a single crystal fit many lattices. With a pixel size, the user also vouches for the crystal.
    assignment = assign_spots(spots, standard, start, span, approximate, others=not few or approximate is None)
    if assignment is None:
        return None

    def fitted(state, extra=()):
        return joint_of(fit_spots(spots, standard, state, span[1] - span[0], extra), spots, standard)

    try:
        fit, doubt = _fitted(fitted, replace(start, scale=assignment.scale))
    except np.linalg.LinAlgError:
        return None
    if few:
        doubt = float(np.hypot(doubt, CRYSTAL_SYSTEMATIC))
    return assignment, lambda joint: decide_pixel_size(fit, standard, joint, "disks", reference, doubt)


@dataclass(frozen=True)
class _Rings:
    """Rings of pooled patterns, in pixels that are `side` times as large for the fit, and `factor` for the assignment.

    `start` has vector and covariance of the ellipse; `profile` and the `tables` of ring shapes are those of the
    assignment.
    """

    pooled: Pooled
    center: np.ndarray
    start: tuple
    span: tuple[float, float]
    readout: float
    side: int
    factor: float
    profile: RadialProfile
    tables: list[RingTable]

    def assigned(self, standard, approximate, scale=None):
        """The assignment in pixels of the detector, and the shape in those of the fit; None without one."""
        bin_ = self.side * self.factor
        binned = [None if value is None else value * bin_ for value in (approximate, scale)]
        found = assign_rings([self], standard, *binned)
        if found is None:
            return None
        assignment, (shape,) = found
        shape = replace(shape, disk=shape.disk * self.factor, blur=max(shape.blur * self.factor, BLURS_PX[0]))
        return replace(assignment, scale=assignment.scale / bin_, second=assignment.second / bin_), shape


def _rings(pooled, span, start, radius, noise):
    """The rings of pooled patterns; None if their range is too small."""
    if span[1] - span[0] < MIN_RING_SPAN_PX:
        return None
    vector, center, covariance = start
    side = max(1, int(span[1] // MIN_FITTED_RADIUS_PX))
    pooled, center, radius = _binned(pooled, center, radius, side)
    span = span[0] / side, span[1] / side
    readout = side * noise.readout / noise.gain
    profile = radial_data(smoothed(pooled.mean, pooled.weight, readout), center, vector, span)
    if len(profile.radii) < 2 * MIN_RING_SPAN_PX / side:
        return None
    factor = max(1.0, span[1] / MAX_ASSIGNED_RADIUS_PX)
    # Rings may differ in shape from the direct beam, for example if the beam is saturated or a spot with tails.
    shapes = [Shape(POINT_RADIUS_PX, blur, RELROD) for blur in (*POINT_BLURS_PX, WIDE_BLUR_PX)]
    if radius is not None and radius > factor:
        shapes = [Shape(radius / factor, blur, RELROD) for blur in BLURS_PX] + shapes[1:]
    profile = shrunk(profile, factor)
    tables = [RingTable(profile.radii, shape) for shape in shapes]
    return _Rings(pooled, center, (vector, covariance), span, readout, side, factor, profile, tables)


def _from_rings(rings, standard, reference, approximate):
    """Measure the pixel size from the rings of the pooled pattern."""
    unknown = unknown_size(standard.name, Flag("pixel_size_no_rings", {"standard": standard.name}))
    found = None if rings is None else rings.assigned(standard, approximate)
    if found is None:
        return unknown
    (assignment, shape), (vector, covariance) = found, rings.start
    state = State(assignment.scale * rings.side, vector, rings.center, shape, 0.0, np.zeros(2), reference / rings.side,
                  rings.span, shape, covariance, vector)
    try:
        fit, doubt = _fitted(
            lambda state, extra=(): fit_joint(rings.pooled, standard, state, rings.readout, extra), state)
    except np.linalg.LinAlgError:
        return unknown
    radii = fit.profile.radii * rings.side
    fit = replace(fit, scale=fit.scale / rings.side, profile=replace(fit.profile, radii=radii))
    return decide_pixel_size(fit, standard, assignment, "rings", reference, doubt)


def _binned(pooled, center, radius, side):
    """Bin a pooled pattern; return it with its center and the radius of the direct disk."""
    if side == 1:
        return pooled, center, radius

    def sums(images):
        rows, columns = (n // side * side for n in images.shape[-2:])
        cut = images[..., :rows, :columns]
        return cut.reshape(*images.shape[:-2], rows // side, side, columns // side, side).sum((-3, -1))

    weight, parts_weight = sums(pooled.weight), sums(pooled.parts_weight)
    mean = sums(pooled.mean * pooled.weight) / np.maximum(weight, 1)
    parts = sums(pooled.parts * pooled.parts_weight) / np.maximum(parts_weight, 1)
    area = side**2  # weights are means over the pixels of a bin; electrons are sums over them
    middle = (np.asarray(center) - (side - 1) / 2) / side
    return (Pooled(mean * area, tuple(middle), pooled.positions, weight / area, parts * area, parts_weight / area),
            middle, None if radius is None else radius / side)


def _prior(ellipse):
    """Ellipse vector and its covariance before the measurement; an ellipse that is not known has a few percent."""
    if ellipse is not None and ellipse.accepted:
        return np.array(ellipse.vector, float), np.array(ellipse.covariance, float)
    return np.zeros(2), ELLIPSE_SIGMA**2 * np.eye(2)


def _start(pooled, span, ellipse):
    """Ellipse vector, center, and covariance of the vector with which the joint fit starts."""
    center, (vector, wide) = np.array(pooled.center), _prior(ellipse)
    if ellipse is not None and ellipse.accepted:
        return vector, center, wide
    try:
        rings = refine_rings(pooled, inner=span[0])
    except PrenetError:
        return vector, center, wide
    if not rings.improved:
        return vector, center, wide
    return rings.vector, center, np.minimum(rings.covariance, 1.0) + 1e-8 * np.eye(2)


def _fitted(fitted, start):
    """Joint fit with all significant distortions, and relative sigma due to suspected distortions."""
    fit = fitted(start)
    kept: tuple[str, ...] = ()
    doubt = 0.0
    for names in (("barrel",), ("three0", "three1")):
        current = replace(start, scale=fit.scale, vector=fit.vector, center=fit.center, shape=fit.shape,
                          barrel=fit.barrel)
        trial = fitted(current, (*kept, *names))
        sigmas = significance(trial, names)
        if sigmas > MIN_SUSPECTED_SIGMAS:  # the less significant the distortion is, the more may it be another error
            part = min(1.0, (MIN_DISTORTION_SIGMAS / sigmas) ** 2)
            doubt = float(np.hypot(doubt, part * np.log(trial.scale / fit.scale)))
        if sigmas > MIN_DISTORTION_SIGMAS:
            kept, fit = (*kept, *names), trial
    return fit, doubt
