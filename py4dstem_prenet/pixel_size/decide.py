"""Decision on the pixel size: assign the rings, and accept or refuse the result.

All differences are of -2 log likelihood, or evidence for disks. The best assignment is accepted if it is MIN_MARGIN
above all others of the standard (odds of exp(MIN_MARGIN / 2), so that a wrong one is accepted at most once in a
hundred cases or so if the model holds), if no other lattice fits rings better by more than MAX_LATTICE_EXCESS, or
disks nearly as well, and if the rings agree.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import chi2 as chi2_law

from ..core import Decision, Flag, PixelSize
from . import Assignment, JointFit, Standard

# Set on simulated powders and grains, with Al, Fe, Ge and MgO of benchmarks/pixel_size.py in view:
MIN_MARGIN = 10.0  # to the next assignment: odds of 150
MAX_LATTICE_EXCESS = 2.0  # by which another lattice may fit rings better: bcc and rocksalt differ in weak rings only
MIN_LATTICE_MARGIN = 2.0  # by which the standard must fit disks of single patterns better than other lattices
MAX_RELATIVE_SIGMA = 0.02  # of an accepted pixel size: as well as it is read off rings by hand
MAX_RING_SCATTER = 0.005  # relative, rms of the rings, beyond which they do not belong to the standard
CONSISTENT_PROBABILITY = 0.999  # above its chi square the rings differ by more than noise
MAX_CHECKED_RING_SIGMA = 0.01  # relative, of a ring whose radius is compared
MIN_DISTORTION_SIGMAS = 4.5  # of a radial or threefold distortion that is reported
MIN_SUSPECTED_SIGMAS = 2.0  # of one that is not reported, but whose effect is part of the sigma of the pixel size
MAX_DISTORTION = 0.05  # relative, at the reference; a larger one is a fit that failed
SIGMA_FACTOR = 1.15  # of the jackknife of rings, from the errors of simulated scans
# Relative sigma of a pixel size that no scatter shows, set on simulated scans: for rings, their shape in thin crystals;
# for disks, excitation errors, and contrast that moves disks inward by some 0.01 px.
SYSTEMATIC, SPOT_SYSTEMATIC = 2e-4, 2.5e-4
THREEFOLD_SYSTEMATIC = 3e-3  # of each amplitude, for few grains
RADIAL_SYSTEMATIC = 3e-3  # of the radial distortion, for the same reason
# The same for disks, so that of 180 fits of simulated scans without such distortions none exceeds 4 sigma:
SPOT_THREEFOLD_SYSTEMATIC, SPOT_RADIAL_SYSTEMATIC = 5e-4, 1.5e-3


def unknown_size(standard: str, *flags: Flag, numbers=None) -> PixelSize:
    """Create the `PixelSize` of a scan that does not determine it.

    Parameters
    ----------
    standard : str
        Name of the standard.
    *flags : Flag
        The reasons.
    numbers : dict, optional
        Numbers of the decision.

    Returns
    -------
    PixelSize
        NaN, not accepted.

    Examples
    --------
    >>> from py4dstem_prenet.core import Flag
    >>> from py4dstem_prenet.pixel_size.decide import unknown_size
    >>> unknown_size("Au", Flag("pixel_size_no_rings", {"standard": "Au"})).accepted
    False
    """
    return PixelSize(np.nan, np.nan, standard, Decision(False, flags, numbers or {}))


def assignment_doubts(assignment: Assignment, standard: str, lattice_margin: float) -> list[Flag]:
    """List why an assignment is not accepted.

    Parameters
    ----------
    assignment : Assignment
        The assignment.
    standard : str
        Name of the standard.
    lattice_margin : float
        Least difference to other lattices.

    Returns
    -------
    list of Flag
        Empty if it is accepted.
    """
    flags = []
    if assignment.lattice_margin < lattice_margin:
        flags.append(Flag("pixel_size_other_lattice", {"standard": standard, "other": assignment.other,
                                                       "margin": -assignment.lattice_margin}))
    if assignment.margin < MIN_MARGIN:
        flags.append(Flag("pixel_size_ambiguous", {
            "standard": standard, "first": assignment.scale, "second": assignment.second, "margin": assignment.margin,
            "needed": MIN_MARGIN}))
    return flags


def is_significant(fit: JointFit, names, sigmas: float = MIN_DISTORTION_SIGMAS) -> bool:
    """Decide whether a distortion is reported.

    Parameters
    ----------
    fit : JointFit
        A fit with the distortion.
    names : tuple of str
        Its parameters.
    sigmas : float
        Standard errors.

    Returns
    -------
    bool
        Whether its amplitude exceeds `sigmas` standard errors.
    """
    value = np.array([fit.barrel]) if names == ("barrel",) else fit.threefold
    k = [fit.names.index(name) for name in names]
    covariance = SIGMA_FACTOR**2 * fit.covariance[np.ix_(k, k)]
    radial, threefold = _systematics("excitation" in fit.names)
    systematic = radial if names == ("barrel",) else threefold
    covariance = covariance + systematic**2 * np.eye(len(k))
    chi2 = float(value @ np.linalg.solve(covariance + 1e-12 * np.eye(len(k)), value))
    limit = chi2_law.isf(chi2_law.sf(sigmas**2, 1), len(k))
    return bool(chi2 > limit and np.abs(value).max() < MAX_DISTORTION)


def _systematics(disks):
    """Errors of a radial and a threefold distortion that no scatter shows."""
    return (SPOT_RADIAL_SYSTEMATIC, SPOT_THREEFOLD_SYSTEMATIC) if disks else (RADIAL_SYSTEMATIC, THREEFOLD_SYSTEMATIC)


def decide_pixel_size(fit: JointFit, standard: Standard, assignment: Assignment, evidence: str, reference: float,
                      doubt: float = 0.0, notes=()) -> PixelSize:
    """Accept or refuse a fitted pixel size.

    Parameters
    ----------
    fit : JointFit
        The fit.
    standard : Standard
        The standard.
    assignment : Assignment
        The assignment of the rings.
    evidence : str
        "rings" or "disks".
    reference : float
        Radius to which the distortions refer, pixels.
    doubt : float
        Relative sigma of the pixel size from distortions that are suspected.
    notes : iterable of Flag
        Further flags.

    Returns
    -------
    PixelSize
        The pixel size, with the decision.
    """
    disks = evidence == "disks"
    factor, systematic = (1.0, SPOT_SYSTEMATIC) if disks else (SIGMA_FACTOR, SYSTEMATIC)
    relative = float(np.sqrt((factor * fit.sigma("scale")) ** 2 + systematic**2 + doubt**2))
    errors, sigmas = fit.ring_errors, factor * fit.ring_sigmas
    checked = np.isfinite(errors) & (sigmas < MAX_CHECKED_RING_SIGMA)
    # Rings that overlap have one common error.
    checked[checked] = np.isin(np.arange(checked.sum()), np.unique(errors[checked], return_index=True)[1])
    weight = 1 / np.maximum(sigmas[checked], systematic) ** 2
    scatter, chi2, freedom = 0.0, 0.0, max(int(checked.sum()) - 1, 1)
    if checked.any():
        mean = np.average(errors[checked], weights=weight)
        scatter = float(np.sqrt(np.average((errors[checked] - mean) ** 2, weights=weight)))
        chi2 = float((weight * (errors[checked] - mean) ** 2).sum())
    inconsistent = scatter > MAX_RING_SCATTER and chi2 > chi2_law.ppf(CONSISTENT_PROBABILITY, freedom)
    flags = assignment_doubts(assignment, standard.name, MIN_LATTICE_MARGIN if disks else -MAX_LATTICE_EXCESS)
    if inconsistent:
        flags.append(Flag("pixel_size_inconsistent", {"standard": standard.name, "scatter": 100 * scatter}))
    if not relative < MAX_RELATIVE_SIGMA:
        flags.append(Flag("pixel_size_uncertain", {"percent": 100 * relative, "needed": 100 * MAX_RELATIVE_SIGMA}))
    accepted = not flags
    if accepted:
        flags.append(Flag("pixel_size_determined", {
            "evidence": evidence, "standard": standard.name, "percent": 100 * relative, "rings": int(checked.sum()),
            "scatter": 100 * scatter}))
    radial, threefold = _systematics(disks)
    barrel_sigma = float(np.hypot(SIGMA_FACTOR * fit.sigma("barrel"), radial))
    three_sigma = float(np.hypot(SIGMA_FACTOR * max(fit.sigma("three0"), fit.sigma("three1")), threefold))
    if accepted and fit.barrel:
        flags.append(Flag("radial_distortion", {"percent": 100 * fit.barrel, "sigma": 100 * barrel_sigma,
                                                "radius": reference}))
    if accepted and fit.threefold.any():
        flags.append(Flag("threefold_distortion", {"percent": 100 * float(np.hypot(*fit.threefold)),
                                                   "sigma": 100 * three_sigma, "radius": reference}))
    numbers = {"margin": assignment.margin, "lattice_margin": assignment.lattice_margin, "scatter": scatter,
               "chi2": chi2}
    k = [fit.names.index(name) for name in ("scale", "v0", "v1")]
    covariance = factor**2 * fit.covariance[np.ix_(k, k)]
    covariance[0, 0] = relative**2
    on_detector = np.flatnonzero(np.isfinite(errors) | (fit.fit.heights > 0))
    return PixelSize(
        fit.scale, relative * fit.scale, standard.name, Decision(accepted, (*flags, *notes), numbers), evidence,
        tuple(standard.hkl[i] for i in on_detector), standard.g[on_detector], errors[on_detector], sigmas[on_detector],
        covariance, fit.vector, fit.barrel, barrel_sigma, fit.threefold, three_sigma, reference,
        np.array([fit.profile.radii, fit.profile.mean, fit.fit.fitted]))
