"""Position and radius of the direct beam that the user gives, as the start of learning.

A given position replaces the first guess of the coarse network; a single position is combined with the descan of that
guess. The fine network and the fits refine it; they find a beam within `Beam.reach` of it. If the direct beam that they
find is more than 1.5 of its radii away from the given position in all patterns, it is a different disk, and the origin
is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..core import Decision, Flag, NoiseModel, OriginMap, PrenetError, Scan
from ..fits import pool_arrays, pooled_radius
from . import MIN_BEAM_PROBABILITY, FirstGuess, block_sums, no_origin

# Disk radii; largest distance of the intended disk from the given position. Adjacent disks are two radii away, unless
# they overlap.
MAX_CONFIRMED_RADII = 1.5
MIN_CONFIRMED_PX = 2.0  # pixels; lower bound of this distance, for small disks


@dataclass(frozen=True)
class GivenBeam:
    """Position, radius and region of the direct beam as given by the user.

    Attributes
    ----------
    center : numpy.ndarray or None, shape (Rx, Ry, 2)
        Position (qx, qy) of the direct beam in every pattern, pixels; None if it is not given.
    radius : float or None
        Radius of the direct disk, pixels; None if it is not given.
    region : numpy.ndarray of bool or None, shape (Rx, Ry)
        True at scan positions from which the beam is learned; None uses all.
    """

    center: np.ndarray | None = None
    radius: float | None = None
    region: np.ndarray | None = None

    def at(self, rows, columns) -> GivenBeam:
        """Select scan positions.

        Parameters
        ----------
        rows, columns : numpy.ndarray of int
            Rows and columns of the scan.

        Returns
        -------
        GivenBeam
            The given values at these positions.
        """
        at = np.ix_(rows, columns)
        return GivenBeam(None if self.center is None else self.center[at], self.radius,
                         None if self.region is None else self.region[at])


def given_beam(scan: Scan, center=None, radius=None, region=None) -> GivenBeam | None:
    """Check the position, radius and region of the direct beam that the user gives.

    Parameters
    ----------
    scan : Scan
        The scan.
    center : tuple of float or of array_like, optional
        (qx, qy) in pixels: two numbers, or two maps of shape (Rx, Ry).
    radius : float, optional
        Radius of the direct disk, pixels.
    region : numpy.ndarray of bool, shape (Rx, Ry), optional
        True at scan positions from which the beam is learned.

    Returns
    -------
    GivenBeam or None
        The given values; None if nothing is given.

    Raises
    ------
    PrenetError
        If the center is not a pair of numbers or maps inside the pattern, or the radius does not fit into it.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.core import as_scan
    >>> from py4dstem_prenet.origin import given_beam
    >>> given_beam(as_scan(np.ones((2, 3, 32, 32))), center=(15, 16.5)).center[1, 2].tolist()
    [15.0, 16.5]
    """
    if center is None and radius is None and region is None:
        return None
    maps, sides = None, scan.pattern_shape
    if center is not None:
        try:
            parts = [np.asarray(q, float) for q in center]
            fits = len(parts) == 2 and all(q.shape in ((), tuple(scan.scan_shape)) for q in parts)
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise PrenetError("The center must be (qx, qy), two numbers or two maps of the scan's shape "
                              f"{tuple(scan.scan_shape)}, in pixels.")
        maps = np.stack([np.broadcast_to(q, scan.scan_shape) for q in parts], -1)
        if not all(((-0.5 <= maps[..., k]) & (maps[..., k] <= n - 0.5)).all() for k, n in enumerate(sides)):
            raise PrenetError(f"The center must lie inside patterns of {sides[0]} x {sides[1]} px; give (qx, qy), row "
                              "and column of the direct beam.")
    if radius is not None:
        if isinstance(radius, bool) or not isinstance(radius, int | float | np.number) or not (
                0 < radius < min(sides) / 2):
            raise PrenetError(f"The radius of the direct disk must be between 0 and {min(sides) / 2:g} px, half the "
                              f"side of a pattern, not {radius!r}.")
        radius = float(radius)
    return GivenBeam(maps, radius, region)


def started(scan: Scan, noise: NoiseModel, first: FirstGuess | None, given: GivenBeam) -> FirstGuess | None:
    """Replace the first guess by the given values.

    Parameters
    ----------
    scan : Scan
        The scan, or a sample of one.
    noise : NoiseModel
        Noise model of the detector.
    first : FirstGuess or None
        Guess of the coarse network; None if it finds no beam.
    given : GivenBeam
        The values given by the user.

    Returns
    -------
    FirstGuess or None
        The guess; None if no position is given and the network finds no beam, or if no radius can be measured.
    """
    shown = np.ones(scan.size, bool) if first is None else first.shown
    if given.region is not None and (shown & given.region.ravel()).any():
        shown = shown & given.region.ravel()
    if given.center is None:
        return None if first is None else replace(first, radius=given.radius or first.radius, shown=shown)
    position = given.center.reshape(-1, 2)
    if first is not None and not np.ptp(position, axis=0).any():
        position = _with_descan(position, first)
    radius = given.radius or (None if first is None else first.radius)
    if radius is None:
        sums, counts = block_sums(scan, noise)[:2]
        lit = counts > 0
        middle = [np.median(q) for q in position.T]
        radius = pooled_radius(pool_arrays(sums[lit], *(np.full(lit.sum(), q) for q in middle), noise.bad_pixels))
        if not np.isfinite(radius):
            return None
    places = np.array([[*np.median(position, axis=0), 1.0]])
    visible = 1.0 if first is None else first.visible
    return FirstGuess(position, radius, shown, visible, 0.0, 1.0, places)


def searched_elsewhere(first: FirstGuess | None, given: GivenBeam) -> Flag | None:
    """Compare the given position with the result of the search without it.

    Parameters
    ----------
    first : FirstGuess or None
        Guess of the coarse network; None if it finds no beam.
    given : GivenBeam
        The values given by the user.

    Returns
    -------
    Flag or None
        "center_elsewhere" if the search is certain of a beam more than 1.5 of its radii away from the given position.
    """
    if first is None or given.center is None or first.probability < MIN_BEAM_PROBABILITY or first.visible <= 0:
        return None
    place = given.center.reshape(-1, 2)
    distance = float(np.median(np.hypot(*(first.position - place)[first.shown].T)))
    if distance < max(MIN_CONFIRMED_PX, MAX_CONFIRMED_RADII * first.radius):
        return None
    qx, qy = np.median(first.position[first.shown], 0)
    return Flag("center_elsewhere", {"qx": float(qx), "qy": float(qy), "distance": distance})


def _with_descan(position, first):
    """Add the descan found by the network to a constant position (Rx * Ry, 2); all disks of a pattern share it."""
    surface = first.position
    if np.hypot(*(surface - position).T).min() <= max(MIN_CONFIRMED_PX, MAX_CONFIRMED_RADII * first.radius):
        return surface  # the network has found the intended disk
    return position + surface - np.median(surface, axis=0)


def confirmed(origin: OriginMap, given: GivenBeam | None, elsewhere: Flag | None = None) -> OriginMap:
    """Refuse an origin that is far from the given position; otherwise add flags for the given values.

    Parameters
    ----------
    origin : OriginMap
        The measured origin.
    given : GivenBeam or None
        The values given by the user.
    elsewhere : Flag or None
        Result of `searched_elsewhere`.

    Returns
    -------
    OriginMap
        The origin with flags; not found if it is within 1.5 disk radii of the given position in no pattern.
    """
    if given is None:
        return origin
    if not origin.found:
        return origin if given.center is None else no_origin(origin.valid.shape, *origin.flags, Flag("center_searched"))
    flags = () if given.radius is None else (Flag("radius_given", {"given": given.radius, "radius": origin.radius}),)
    if given.center is not None:
        distance = np.hypot(origin.qx0 - given.center[..., 0], origin.qy0 - given.center[..., 1])[origin.valid]
        reach = max(MIN_CONFIRMED_PX, MAX_CONFIRMED_RADII * origin.radius if np.isfinite(origin.radius) else 0.0)
        numbers = {"distance": float(np.median(distance)), "nearest": float(distance.min()), "reach": float(reach)}
        if distance.min() > reach:
            return no_origin(origin.valid.shape, Flag("center_not_confirmed", numbers))
        flags = (*((elsewhere,) if elsewhere is not None else ()), Flag("center_given", numbers), *flags)
    decision = Decision(True, (*origin.decision.flags, *flags), origin.decision.numbers)
    return replace(origin, decision=decision)
