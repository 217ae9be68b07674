"""Assignment of the disks of single patterns by the evidence of every plausible pixel size and of other lattices."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import minimize

from . import (
    ALTERNATIVES,
    BASIN,
    CENTER_SIGMA_PX,
    FIRST_STRONG_HEIGHT,
    MIN_FIRST_RING,
    MIN_VISIBLE_HEIGHT,
    MIN_VISIBLE_RINGS,
    Assignment,
    Shape,
    Spots,
    Standard,
    State,
    expected_heights,
    find_standard,
    fit_spots,
    ideal_positions,
    near,
    same_rings,
    scan_evidence,
)

SCAN_STEP_PX = 0.4  # pixels; step at the outermost radius between two pixel sizes that are tried
SCAN_ERROR_PX = 0.15  # pixels; error of positions in the search, in addition to the stated error
# Chosen for speed: number of disks that are used; every SCANNED_EACH-th of them and SCAN_ROUNDS rounds of the rates are
# used in the first search.
REFINED_SPOTS, SCANNED_EACH, SCAN_ROUNDS = 500, 2, 5
REFINED, REFINED_OTHERS = 5, 3  # number of assignments that are refined for the standard and for each other lattice
# Search for the ellipse vector: step, which is also the sigma of the vectors that are kept; reach in standard errors;
# and number of vectors that are kept.
VECTOR_STEP, SEARCHED_SIGMAS, MAX_VECTORS = 0.004, 2.5, 2
ELLIPSE_SIGMA = 0.02  # sigma of each component of the ellipse vector of a camera before it is measured
CENTER_WIDTHS_PX = (1.0, 0.5, 0.25)  # pixels; blurs of the radii in the search for the center of rings


def assign_spots(spots: Spots, standard: Standard, start: State, span, approximate: float | None = None,
                 others: bool = True):
    """Assign disks to the rings of a standard.

    Parameters
    ----------
    spots : Spots
        The disks.
    standard : Standard
        The crystal.
    start : State
        Ellipse with its covariance; the scale is not used.
    span : tuple of float
        Smallest and largest radius at which disks are found, pixels.
    approximate : float, optional
        Approximate pixel size, 1/angstrom, if it is known; see `near`.
    others : bool, optional
        Whether other lattices are tried.

    Returns
    -------
    Assignment or None
        The best pixel size, with its margins to other pixel sizes and other lattices; None if no pixel size puts two
        rings on the detector.

    Examples
    --------
    >>> gold, number, zero, shape = find_standard("Au"), np.arange(32), np.zeros(2), Shape(0.05, 1.0)
    >>> turn = np.stack([np.cos(number), np.sin(number)], 1)
    >>> offset, place = gold.g[number % 8][:, None] / 0.02 * turn, np.outer(number, [1, 0])
    >>> spots = Spots(offset, np.full((32, 2), 0.1), number, place, number, np.ones(32, int), 10.0, 32.0)
    >>> start = State(1.0, zero, zero, shape, 0.0, zero, 64.0, spots.span, shape, 1e-6 * np.eye(2))
    >>> round(assign_spots(spots, gold, start, spots.span, others=False).scale, 4)
    0.02
    """
    subset, vectors = _searched(spots, tuple(start.vector), tuple(start.vector_covariance.ravel()))
    fits = _refined(subset, standard, start, span, vectors, REFINED, approximate)
    if not fits:
        return None
    best = fits[0]
    apart = [f for f in fits[1:] if abs(np.log(f.state.scale / best.state.scale)) > BASIN]
    second = apart[0].state.scale if apart else np.nan
    arguments = (tuple(start.vector), tuple(start.vector_covariance.ravel()), start.reference)
    lattices = {name: 2 * (best.evidence - _evidence_of(spots, name, *arguments))
                for name in ALTERNATIVES if others and not same_rings(find_standard(name), standard)}
    return Assignment(best.state.scale, second, tuple(2 * (best.evidence - f.evidence) for f in apart), lattices)


@lru_cache(maxsize=4)
def _searched(spots, vector, covariance):
    """Disks and ellipse vectors that are used in the search."""
    spots = spots.thinned(REFINED_SPOTS)
    return spots, sharp_vectors(spots, _blank(spots, vector, covariance, 1.0))


@lru_cache(maxsize=16)  # for several standards of one scan
def _evidence_of(spots, name, vector, covariance, reference):
    """Largest evidence of a different lattice with a cell of any size."""
    subset, vectors = _searched(spots, vector, covariance)
    fits = _refined(subset, find_standard(name), _blank(subset, vector, covariance, reference), spots.span, vectors,
                     REFINED_OTHERS)
    return fits[0].evidence if fits else -np.inf


def _blank(spots, vector, covariance, reference):
    """Initial state with a given prior of the ellipse."""
    shape, vector = Shape(0.05, 1.0), np.array(vector)
    return State(1.0, vector, np.zeros(2), shape, 0.0, np.zeros(2), reference, spots.span, shape,
                 np.array(covariance).reshape(2, 2), vector)


def sharp_vectors(spots: Spots, start: State):
    """Find the ellipses for which the radii of disks cluster most, independently of the crystal.

    Parameters
    ----------
    spots : Spots
        The disks.
    start : State
        Ellipse with the covariance within which ellipses are tried.

    Returns
    -------
    list of numpy.ndarray, shape (2,)
        At most MAX_VECTORS ellipse vectors, the best first.

    Examples
    --------
    >>> number = np.arange(40)
    >>> ring = 30 * np.stack([1.02 * np.cos(number), np.sin(number) / 1.02], 1)  # a/b = 1.04
    >>> place = np.outer(number, [1, 0])
    >>> spots = Spots(ring, np.full((40, 2), 0.1), number, place, number, np.ones(40, int), 10.0, 40.0)
    >>> zero, shape = np.zeros(2), Shape(0.05, 1.0)
    >>> start = State(1.0, zero, zero, shape, 0.0, zero, 64.0, spots.span, shape, 4e-4 * np.eye(2))
    >>> sharp_vectors(spots, start)[0].round(2).tolist()
    [0.04, 0.0]
    """
    widest = np.sqrt(np.linalg.eigvalsh(start.vector_covariance)[-1])
    if widest < VECTOR_STEP:
        return [start.vector]
    steps = int(np.ceil(SEARCHED_SIGMAS * widest / VECTOR_STEP))
    axis = np.arange(-steps, steps + 1) * VECTOR_STEP
    inverse = np.linalg.inv(start.vector_covariance)
    tried = [d for d in np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2) if d @ inverse @ d < SEARCHED_SIGMAS**2]
    scores = [_bunching(spots, start.vector + d, start.center) for d in tried]
    chosen: list[np.ndarray] = []
    for k in np.argsort(scores)[::-1]:
        if all(np.hypot(*(tried[k] - other)) > 2.5 * VECTOR_STEP for other in chosen):
            chosen.append(tried[k])
        if len(chosen) == MAX_VECTORS:
            break
    return [start.vector + d for d in chosen]


def centered_spots(spots: Spots, vector) -> Spots:
    """Move the origin of disks to the center of their rings, for a scan whose direct beam is hidden.

    Parameters
    ----------
    spots : Spots
        The disks, relative to an origin within CENTER_SIGMA_PX.
    vector : array_like, shape (2,)
        Ellipse vector, within ELLIPSE_SIGMA of the true one.

    Returns
    -------
    Spots
        The disks, relative to the center about which their radii cluster most.

    Examples
    --------
    >>> number = np.arange(40)
    >>> ring = 30 * np.stack([np.cos(number), np.sin(number)], 1) + [0.5, 0.0]  # about another center
    >>> place = np.outer(number, [1, 0])
    >>> spots = Spots(ring, np.full((40, 2), 0.1), number, place, number, np.ones(40, int), 10.0, 40.0)
    >>> radius = np.hypot(*centered_spots(spots, (0.0, 0.0)).offset.T)
    >>> bool(np.ptp(radius) < 0.2 < np.ptp(np.hypot(*spots.offset.T)))
    True
    """
    start = np.array([0.0, 0.0, *vector])
    unit = np.array([CENTER_SIGMA_PX, CENTER_SIGMA_PX, ELLIPSE_SIGMA, ELLIPSE_SIGMA])
    reflections = float((1 / spots.size).sum())

    def cost(q, width):
        return 0.5 * ((q / 2) ** 2).sum() - reflections * np.log(
            _bunching(spots, start[2:] + q[2:] * unit[2:], q[:2] * unit[:2], width))

    at, grid = np.zeros(4), np.stack(np.meshgrid(*[(-1.0, 0.0, 1.0)] * 4), -1).reshape(-1, 4)
    for width in CENTER_WIDTHS_PX:  # the cost is smooth over such an error of the radii
        at = min((at + width / CENTER_WIDTHS_PX[0] * step for step in grid), key=lambda q: cost(q, width))
        simplex = at + np.vstack([np.zeros(4), 0.4 * width * np.eye(4)])
        at = minimize(cost, at, (width,), "Nelder-Mead", options={"initial_simplex": simplex, "maxfev": 200}).x
    return replace(spots, offset=spots.offset - at[:2] * unit[:2])


def _bunching(spots, vector, center, width=0.0):
    """Integral of the squared density of disks along the radius, blurred by at least `width`."""
    radius, azimuth = ideal_positions(spots.offset, vector, center)
    sigma = float(np.median(spots.spread(radius, azimuth)))
    step = max(sigma, SCAN_ERROR_PX, width) / 2
    counts = np.bincount((radius / step).astype(int), 1 / spots.size)
    return float((gaussian_filter1d(counts, 2.0) ** 2).sum())


def _refined(spots, standard, start, span, vectors, count, approximate=None):
    """Fits at the best pixel sizes of a lattice, ordered by decreasing evidence."""
    narrow = replace(start, vector_covariance=VECTOR_STEP**2 * np.eye(2))
    starts, evidence = [], []
    subset = spots.subset(slice(None, None, SCANNED_EACH)) if len(spots.size) > REFINED_SPOTS / SCANNED_EACH else spots
    for vector in vectors:
        scales, values = scan_spots(subset, standard, replace(narrow, vector=vector), span)
        kept = near(scales, approximate)
        starts += [(scale, vector) for scale in scales[kept]]
        evidence += list(values[kept])
    chosen: list[int] = []
    for k in np.argsort(evidence)[::-1]:
        if len(chosen) < count and all(abs(np.log(starts[k][0] / starts[j][0])) > BASIN for j in chosen):
            chosen.append(int(k))
    fits = [fit_spots(spots, standard, replace(start, scale=float(starts[k][0]), vector=starts[k][1]),
                      span[1] - span[0], steps=12, complete=False) for k in chosen]
    return sorted(fits, key=lambda fit: -fit.evidence)


def scan_spots(spots: Spots, standard: Standard, start: State, span):
    """Compute the evidence of all plausible pixel sizes.

    Parameters
    ----------
    spots : Spots
        The disks.
    standard : Standard
        The crystal.
    start : State
        Ellipse with its covariance.
    span : tuple of float
        Smallest and largest radius at which disks are found, pixels.

    Returns
    -------
    scales, evidence : numpy.ndarray, shape (n,)
        Pixel sizes, 1/angstrom, and the logarithm of the evidence.

    Examples
    --------
    >>> gold, number, zero, shape = find_standard("Au"), np.arange(8), np.zeros(2), Shape(0.05, 1.0)
    >>> spots = Spots(np.outer(gold.g[:8] / 0.02, [1, 0]), np.full((8, 2), 0.1), number, np.outer(number, [1, 0]),
    ...               number, np.ones(8, int), 10.0, 8.0)
    >>> start = State(1.0, zero, zero, shape, 0.0, zero, 64.0, spots.span, shape, 1e-6 * np.eye(2))
    >>> scales, evidence = scan_spots(spots, gold, start, spots.span)
    >>> bool(abs(scales[evidence.argmax()] / 0.02 - 1) < 0.005)
    True
    """
    radius, azimuth = ideal_positions(spots.offset, start.vector, start.center)
    relative = np.sqrt(np.trace(start.vector_covariance)) / 2  # relative error of radii due to the uncertain ellipse
    sigma = np.sqrt(spots.spread(radius, azimuth) ** 2 + SCAN_ERROR_PX**2 + (relative * radius) ** 2)
    visible = standard.g[standard.intensity > MIN_VISIBLE_HEIGHT]
    if len(visible) < MIN_VISIBLE_RINGS:
        return np.empty(0), np.empty(0)
    smallest = visible[MIN_VISIBLE_RINGS - 1] / span[1]
    first = standard.g[standard.intensity > FIRST_STRONG_HEIGHT][0]
    largest = min(standard.g[-1] / span[1], visible[-MIN_VISIBLE_RINGS] / span[0], first / (MIN_FIRST_RING * span[0]))
    if largest <= smallest:
        return np.empty(0), np.empty(0)
    scales = np.geomspace(smallest, largest, int(np.log(largest / smallest) * span[1] / SCAN_STEP_PX) + 2)
    inside = [np.flatnonzero((standard.g / scale > span[0] * 0.95) & (standard.g / scale < span[1] * 1.05))
              for scale in scales]
    rings = [standard.g[kept] / scale for kept, scale in zip(inside, scales, strict=True)]
    expected = [expected_heights(standard, kept, spots.grains) for kept in inside]
    return scales, scan_evidence(radius, sigma, 1 / spots.size, rings, expected, span[1] - span[0], SCAN_ROUNDS)
