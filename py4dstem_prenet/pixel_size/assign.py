"""Assignment of rings by the likelihood of every plausible pixel size, for a standard and for other lattices."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from . import (
    ALTERNATIVES,
    BASIN,
    MIN_VISIBLE_HEIGHT,
    STEP_PX,
    RadialProfile,
    RingTable,
    Standard,
    background,
    costs,
    find_standard,
    fit_rings,
    independent_samples,
    refine_shape,
)

MIN_VISIBLE_RINGS = 2  # rings; fewest visible ones on the detector at a plausible pixel size
FIRST_STRONG_HEIGHT = 0.3  # fraction of the strongest ring; smallest height of the innermost ring that must be visible
# Fraction of the smallest radius that is measured; smallest radius of the innermost strong ring. The direct beam or a
# stop may hide rings; with 0.5, the first three of fcc.
MIN_FIRST_RING = 0.5
# Rings of two lattices that are compared; relative difference of ratios of |g| up to which they agree; and ratio of
# heights beyond which a ring is taken for absent (MgO and NaCl: 9, GaAs and fcc: 43).
COMPARED_RINGS, SAME_RATIO, MAX_HEIGHT_RATIO = 8, 2e-3, 12.0
APPROXIMATE_RANGE = 0.1  # relative; largest error of a pixel size that the user states; chosen
CANDIDATES = 4  # number of assignments that are refined for each kind of evidence


@dataclass(frozen=True)
class Assignment:
    """Assignment of the rings of a standard, with margins to other assignments.

    All margins are differences of -2 log likelihood (rings) or -2 log evidence (disks) to the best pixel size; they are
    negative if the other assignment fits better.

    Attributes
    ----------
    scale : float
        Best pixel size, 1/angstrom.
    second : float
        Second best pixel size; NaN if there is none.
    margins : tuple of float
        Margins to the other pixel sizes of the standard, ascending.
    lattices : dict
        Margins to lattices other than that of the standard, each with a cell of the best size, by name.
    results : tuple of str
        The best result and those that compete with it, in words, if zone axes of a single crystal compete.
    crystals : dict
        Margins to other crystals of the table at the approximate pixel size, and their pixel sizes, by name, for a
        single crystal.

    Examples
    --------
    >>> found = Assignment(0.02, 0.03, (6.0,), {"W": 12.0, "Si": 20.0})
    >>> found.margin, found.other, found.lattice_margin
    (6.0, 'W', 12.0)
    """

    scale: float
    second: float
    margins: tuple[float, ...]
    lattices: dict[str, float]
    results: tuple[str, ...] = ()
    crystals: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def margin(self) -> float:  # numpydoc ignore=RT01
        """Margin to the second best pixel size; infinite if there is none."""
        return min(self.margins, default=np.inf)

    @property
    def other(self) -> str:  # numpydoc ignore=RT01
        """Name of the other lattice that fits best; empty if there is none."""
        return min(self.lattices, key=lambda name: self.lattices[name], default="")

    @property
    def lattice_margin(self) -> float:  # numpydoc ignore=RT01
        """Margin to the other lattice that fits best; infinite if there is none."""
        return min(self.lattices.values(), default=np.inf)


def with_rings(disks: Assignment, rings: Assignment) -> Assignment:
    """Add the evidence of the rings of pooled patterns to that of disks.

    Parameters
    ----------
    disks : Assignment
        Assignment of disks.
    rings : Assignment
        Assignment of rings at the same pixel size.

    Returns
    -------
    Assignment
        The assignment of disks, with the sums of the margins. Another pixel size has at least the sum of the smallest
        ones.

    Examples
    --------
    >>> found = with_rings(Assignment(0.02, 0.03, (6.0, 9.0), {"W": -1.0}), Assignment(0.02, 0.01, (8.0,), {"W": 12.0}))
    >>> found.margins, found.lattices
    ((14.0,), {'W': 11.0})
    """
    lattices = {name: margin + rings.lattices[name] for name, margin in disks.lattices.items()}
    return replace(disks, margins=(disks.margin + rings.margin,), lattices=lattices)


def near(scales, approximate: float | None) -> np.ndarray:
    """Determine which pixel sizes agree with an approximate one.

    Parameters
    ----------
    scales : array_like, shape (n,)
        Pixel sizes, 1/angstrom.
    approximate : float or None
        The approximate pixel size; None if it is unknown.

    Returns
    -------
    numpy.ndarray of bool, shape (n,)
        True where the relative difference is less than APPROXIMATE_RANGE.

    Examples
    --------
    >>> from py4dstem_prenet.pixel_size import near
    >>> near([0.01, 0.02, 0.04], 0.021).tolist()
    [False, True, False]
    """
    ratio = np.ones(np.shape(scales)) if approximate is None else np.asarray(scales) / approximate
    return np.abs(np.log(ratio)) < APPROXIMATE_RANGE


def assign_rings(evidence, standard: Standard, approximate: float | None = None, scale: float | None = None):
    """Assign the rings of a standard by the joint likelihood of all kinds of evidence.

    Parameters
    ----------
    evidence : list
        Objects with a `profile` and with `tables` of rings for the shapes that are tried.
    standard : Standard
        The crystal.
    approximate : float, optional
        Approximate pixel size, 1/angstrom, if it is known; see `near`.
    scale : float, optional
        Pixel size, 1/angstrom, of a different assignment, whose margins are needed; by default the best one.

    Returns
    -------
    assignment : Assignment
        This pixel size, with its margins to other pixel sizes and other lattices.
    shapes : list of Shape
        Shape of the rings in each kind of evidence.

    Notes
    -----
    None is returned if no pixel size puts two rings on the detector.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from py4dstem_prenet.pixel_size import Shape, ring_profiles
    >>> gold, radii, shape = find_standard("Au"), np.arange(12.0, 60.0, 0.5), Shape(4.0, 0.6, 0.003)
    >>> mean = ring_profiles(radii, gold.g / 0.02, 4.0, 0.6, 0.15)[0] @ gold.intensity + 0.1
    >>> profile = RadialProfile(radii, mean, 1e-4 * mean, mean[None], np.ones((1, len(radii))))
    >>> rings = SimpleNamespace(profile=profile, tables=[RingTable(radii, shape)])
    >>> assigned, _ = assign_rings([rings], gold, 0.021)
    >>> round(assigned.scale, 3), assigned.margin > 9, assigned.lattice_margin > 0
    (0.02, True, True)
    """
    starts, samples, best_shapes = [] if scale is None else [scale], [], []
    for e in evidence:
        tables = e.tables
        if scale is not None:
            misfits = [fit_rings(e.profile, standard, scale, t.shape, table=t).chi2 for t in tables]
            tables = [tables[int(np.argmin(misfits))]]
        scales, fits, shapes = scan_scales(e.profile, standard, tables)
        kept = np.flatnonzero(near(scales, approximate))
        if not len(kept):
            continue
        scales, fits, shapes = scales[kept], [fits[k] for k in kept], [shapes[k] for k in kept]
        samples.append(independent_samples(min(fits, key=lambda fit: fit.chi2).residual))
        best_shapes.append(shapes[int(np.argmin(costs(fits, samples[-1])))])
        for k in _basins(scales, costs(fits, samples[-1])):
            if all(abs(np.log(scales[k] / start)) > BASIN / 2 for start in starts):
                starts.append(scales[k])
    if not starts or len(samples) < len(evidence):
        return None
    refined = [[refine_shape(e.profile, standard, start, shape) for start in starts]
             for e, shape in zip(evidence, best_shapes, strict=True)]
    samples = [independent_samples(min((fit for fit, _ in row), key=lambda fit: fit.chi2).residual) for row in refined]
    total = sum(costs([fit for fit, _ in row], n) for row, n in zip(refined, samples, strict=True))
    order = np.argsort(total)
    best = int(order[0]) if scale is None else 0
    # The last kind of evidence, whose rings are sharpest, determines the best pixel size.
    best_scales = [row[best][0].scale for row in refined]
    alternatives = [k for k in order if k != best and all(abs(np.log(row[k][0].scale / other)) > BASIN
                                        for row, other in zip(refined, best_scales, strict=True))]
    second = float(refined[-1][alternatives[0]][0].scale) if alternatives else np.nan
    shapes = [row[best][1] for row in refined]
    tables = [RingTable(e.profile.radii, shape) for e, shape in zip(evidence, shapes, strict=True)]
    others = {name: _best_cost(evidence, find_standard(name), tables, samples) - float(total[best])
              for name in ALTERNATIVES if not same_rings(find_standard(name), standard)}
    margins = tuple(float(total[k] - total[best]) for k in alternatives)
    return Assignment(float(best_scales[-1]), second, margins, others), shapes


def _best_cost(evidence, lattice, tables, samples):
    """Smallest cost of a lattice with a cell of any size; infinite if no size puts two rings on the detector."""
    starts = []
    for e, table, n in zip(evidence, tables, samples, strict=True):
        scales, fits, _ = scan_scales(e.profile, lattice, [table])
        if len(scales):
            starts.append(scales[int(np.argmin(costs(fits, n)))])
    totals = [sum(float(costs([refine_shape(e.profile, lattice, scale, table.shape)[0]], n)[0])
                  for e, table, n in zip(evidence, tables, samples, strict=True)) for scale in starts]
    return min(totals, default=np.inf)


def _basins(scales, cost):
    """Indices of the best pixel sizes, one for each basin of the cost."""
    chosen: list[int] = []
    for k in np.argsort(cost):
        if all(abs(np.log(scales[k] / scales[j])) > BASIN for j in chosen):
            chosen.append(int(k))
        if len(chosen) == CANDIDATES:
            break
    return chosen


def same_rings(a: Standard, b: Standard) -> bool:
    """Determine whether two standards have the same rings, but for the size of the cell and for weak rings.

    Parameters
    ----------
    a, b : Standard
        Crystals.

    Returns
    -------
    bool
        True if each of the first strong rings of one standard is a ring of the other.

    Examples
    --------
    >>> from py4dstem_prenet.pixel_size import find_standard, same_rings
    >>> same_rings(find_standard("Au"), find_standard("Al")), same_rings(find_standard("Au"), find_standard("W"))
    (True, False)
    >>> same_rings(find_standard("Si"), find_standard("GaAs")), same_rings(find_standard("Au"), find_standard("GaAs"))
    (True, False)
    """
    for first, second in ((a, b), (b, a)):
        ratios, others = (s.g / s.g[s.intensity > 0][0] for s in (first, second))
        strong = np.flatnonzero(first.intensity > MIN_VISIBLE_HEIGHT)[:COMPARED_RINGS]
        near = np.abs(others / ratios[strong, None] - 1) < SAME_RATIO
        if (first.intensity[strong] > MAX_HEIGHT_RATIO * (near * second.intensity).max(1)).any():
            return False
    return True


def scan_scales(profile: RadialProfile, standard: Standard, tables):
    """Fit the rings of a crystal at all plausible pixel sizes.

    Parameters
    ----------
    profile : RadialProfile
        The profile.
    standard : Standard
        The crystal.
    tables : list of RingTable
        Tables of the shapes that are tried at each pixel size; the best shape is kept.

    Returns
    -------
    scales : numpy.ndarray, shape (n,)
        Pixel sizes, 1/angstrom, ascending.
    fits : list of ProfileFit
        The best fit at each pixel size.
    best : list of Shape
        The shape of each of these fits.

    Examples
    --------
    >>> from py4dstem_prenet.pixel_size import Shape, ring_profiles
    >>> gold, radii, shape = find_standard("Au"), np.arange(12.0, 60.0, 0.5), Shape(4.0, 0.6, 0.003)
    >>> mean = ring_profiles(radii, gold.g / 0.02, 4.0, 0.6, 0.15)[0] @ gold.intensity + 0.1
    >>> profile = RadialProfile(radii, mean, 1e-4 * mean, mean[None], np.ones((1, len(radii))))
    >>> scales, fits, _ = scan_scales(profile, gold, [RingTable(radii, shape)])
    >>> round(float(scales[np.argmin(costs(fits, 96.0))]), 3)
    0.02
    """
    radii = profile.radii
    visible = standard.g[standard.intensity > MIN_VISIBLE_HEIGHT]
    if len(visible) < MIN_VISIBLE_RINGS:
        return np.empty(0), [], []
    smallest = standard.g[0] / radii[-1]
    smallest = max(smallest, visible[MIN_VISIBLE_RINGS - 1] / radii[-1])
    # At larger pixel sizes, rings beyond the list of the standard would lie on the detector.
    first = standard.g[standard.intensity > FIRST_STRONG_HEIGHT][0]
    largest = min(standard.g[-1] / radii[-1], visible[-MIN_VISIBLE_RINGS] / radii[0],
                  first / (MIN_FIRST_RING * radii[0]))
    if largest <= smallest:
        return np.empty(0), [], []
    count = int(np.log(largest / smallest) * radii[-1] / STEP_PX) + 2  # steps of STEP_PX at the outermost radius
    scales = np.geomspace(smallest, largest, count)
    bases = [background(radii, table.shape.width) for table in tables]
    fits, best = [], []
    for scale in scales:
        tried = [fit_rings(profile, standard, scale, table.shape, base, table=table)
                 for table, base in zip(tables, bases, strict=True)]
        k = int(np.argmin([fit.chi2 for fit in tried]))
        fits.append(tried[k])
        best.append(tables[k].shape)
    return scales, fits, best
