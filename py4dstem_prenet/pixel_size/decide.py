"""Decision to accept or refuse a pixel size.

The best assignment is accepted if its posterior probability is at least MIN_POSTERIOR. It competes with the other
pixel sizes of the standard, all with the same prior probability, and with other lattices whose cell has any size. The
name that the user states is no evidence: the standard and the other lattice that fits best have the same prior
probability. If the model is correct, a wrong name is therefore accepted in at most 1 - MIN_POSTERIOR of the cases. The
rings must also agree with each other.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit
from scipy.stats import chi2 as chi2_law

from ..core import Decision, Flag, PixelSize, kind_of_rings
from ..ellipse import MAX_ELLIPSE_SIGMA
from . import Assignment, JointFit, Standard

# Probability; largest error rate of assignments is 1 - MIN_POSTERIOR if the model is correct.
MIN_POSTERIOR = 0.99
MAX_RELATIVE_SIGMA = 0.02  # relative; largest sigma of an accepted pixel size, as good as a measurement by hand
MAX_RING_SCATTER = 0.005  # relative; largest rms scatter of the rings if they belong to the standard
CONSISTENT_PROBABILITY = 0.999  # probability; rings whose chi square exceeds this quantile differ by more than noise
MIN_DISTORTION_SIGMAS = 4.5  # standard errors; smallest radial or threefold distortion that is reported
MIN_SUSPECTED_SIGMAS = 2.0  # standard errors; smallest distortion whose effect is added to the sigma of the pixel size
# Fraction of the reflections that must lie on rings of the standard if no other lattice was tried. Simulated single
# crystals had 0.82 or more, and most wrong lattices 0.39 to 0.56; others have the same rings.
MIN_ON_RINGS = 0.7
SIGMA_FACTOR = 1.15  # factor on the jackknife sigma of rings, from the errors of simulated scans
# Relative; systematic error of the pixel size, set on simulated scans. For rings it is due to their shape in thin
# crystals; for disks, to excitation errors and to contrast that moves disks inward by about 0.01 px.
SYSTEMATIC, SPOT_SYSTEMATIC = 2e-4, 2.5e-4
# Relative; systematic error of the pixel size from few grains, because contrast moves all disks alike. Two simulated
# crystals had errors of 0.18 and 0.24 % (benchmarks/pixel_size.py --crystals, seeds 1 and 2).
CRYSTAL_SYSTEMATIC = 2e-3
DISTORTION_SIGMA = 0.01  # relative, at the reference; sigma of the prior of a distortion, for typical cameras
DISTORTION_SYSTEMATIC = 3e-3  # relative; systematic error of each amplitude of a distortion from rings, for few grains
# Relative; this systematic error for disks: in 180 fits of simulated scans without distortions none exceeds 4 sigma.
SPOT_THREEFOLD_SYSTEMATIC, SPOT_RADIAL_SYSTEMATIC = 5e-4, 1.5e-3


def unknown_size(standard: str, *flags: Flag) -> PixelSize:
    """Create the `PixelSize` of a scan that does not determine its pixel size.

    Parameters
    ----------
    standard : str
        Name of the standard.
    *flags : Flag
        Reasons why the pixel size is not determined.

    Returns
    -------
    PixelSize
        A pixel size of NaN that is not accepted.

    Examples
    --------
    >>> from py4dstem_prenet.core import Flag
    >>> from py4dstem_prenet.pixel_size.decide import unknown_size
    >>> unknown_size("Au", Flag("pixel_size_no_rings", {"standard": "Au"})).accepted
    False
    """
    return PixelSize(np.nan, np.nan, standard, Decision(False, flags))


def posterior_of(assignment: Assignment, scales: bool = True, lattices: bool = True) -> float:
    """Compute the posterior probability of an assignment.

    Parameters
    ----------
    assignment : Assignment
        The assignment.
    scales, lattices : bool
        Whether the other pixel sizes of the standard, and other lattices, compete with it.

    Returns
    -------
    float
        The probability.

    Examples
    --------
    >>> from py4dstem_prenet.pixel_size import Assignment
    >>> from py4dstem_prenet.pixel_size.decide import posterior_of
    >>> round(posterior_of(Assignment(0.02, 0.03, (6.0,), {})), 3)
    0.953
    >>> round(posterior_of(Assignment(0.02, 0.03, (), {"W": 0.0})), 3)  # nothing but the name tells
    0.5
    """
    log_odds = [-0.5 * margin for margin in assignment.margins if scales]
    if assignment.lattices and lattices:
        # The lattice that fits best competes for all: many that fit badly do not make the name less certain.
        log_odds.append(-0.5 * assignment.lattice_margin)
    return float(np.exp(-np.logaddexp.reduce([0.0, *log_odds])))


def name_posterior(margin: float) -> float:
    """Compute the posterior probability of the name of the crystal if one other crystal competes.

    Parameters
    ----------
    margin : float
        Difference of -2 log evidence between the other crystal and the named one.

    Returns
    -------
    float
        The probability.

    Examples
    --------
    >>> [round(name_posterior(margin), 3) for margin in (-14.0, 0.0, 14.0)]
    [0.001, 0.5, 0.999]
    """
    return float(expit(margin / 2))


def assignment_doubts(assignment: Assignment, standard: str) -> list[Flag]:
    """List the reasons why an assignment is not accepted.

    Parameters
    ----------
    assignment : Assignment
        The assignment.
    standard : str
        Name of the standard.

    Returns
    -------
    list of Flag
        The reasons; empty if the assignment is accepted.

    Examples
    --------
    >>> from py4dstem_prenet.pixel_size import Assignment
    >>> [flag.name for flag in assignment_doubts(Assignment(0.02, 0.03, (20.0,), {"W": 1.0}), "Au")]
    ['pixel_size_other_lattice']
    """
    if assignment.crystals:
        other = min(assignment.crystals, key=assignment.crystals.__getitem__)
        probability = name_posterior(assignment.crystals[other][0])
        if probability < 1 - MIN_POSTERIOR:
            return [Flag("pixel_size_other_crystal", {
                "standard": standard, "other": other, "posterior": 100 * probability})]
    posterior = posterior_of(assignment)
    if posterior >= MIN_POSTERIOR:
        return []
    other, second = posterior_of(assignment, scales=False), posterior_of(assignment, lattices=False)
    if other < MIN_POSTERIOR or other <= second:  # if the lattice is in doubt, so are both of its pixel sizes
        return [Flag("pixel_size_other_lattice", {
            "standard": standard, "other": assignment.other, "margin": -assignment.lattice_margin,
            "posterior": 100 * other, "needed": 100 * MIN_POSTERIOR})]
    if assignment.results:
        likely = sum(np.exp(-margin / 2) > 1 - MIN_POSTERIOR for margin in assignment.margins)
        return [Flag("pixel_size_zones", {
            "standard": standard, "results": "; ".join(assignment.results[: 1 + max(likely, 1)]),
            "posterior": 100 * second, "needed": 100 * MIN_POSTERIOR})]
    return [Flag("pixel_size_ambiguous", {
        "standard": standard, "first": assignment.scale, "second": assignment.second, "margin": assignment.margin,
        "posterior": 100 * second, "needed": 100 * MIN_POSTERIOR})]


def significance(fit: JointFit, names) -> float:
    """Compute the significance of a distortion.

    Parameters
    ----------
    fit : JointFit
        A fit that includes the distortion.
    names : tuple of str
        Names of the parameters of the distortion.

    Returns
    -------
    float
        Number of standard errors of a normal variable that is as improbable; 0 if the fit failed.

    Examples
    --------
    >>> from py4dstem_prenet.pixel_size import Shape
    >>> names, zero, one, shape = ("scale", "v0", "v1", "barrel"), np.zeros(2), np.ones(1), Shape(4.0, 0.6)
    >>> rings = JointFit(0.02, zero, zero, shape, 0.02, zero, names, 1e-6 * np.eye(4), None, None, one, one)
    >>> round(significance(rings, ("barrel",)), 1)  # 0.02 with a sigma of 0.0032
    6.2
    """
    value = np.array([fit.barrel]) if names == ("barrel",) else fit.threefold
    k = [fit.names.index(name) for name in names]
    covariance = SIGMA_FACTOR**2 * fit.covariance[np.ix_(k, k)]
    radial, threefold = _systematics("excitation" in fit.names)
    systematic = radial if names == ("barrel",) else threefold
    covariance = covariance + systematic**2 * np.eye(len(k))
    chi2 = float(value @ np.linalg.solve(covariance + 1e-12 * np.eye(len(k)), value))
    if not np.abs(value).max() < MIN_DISTORTION_SIGMAS * DISTORTION_SIGMA:  # beyond any camera: the fit failed
        return 0.0
    return float(np.sqrt(chi2_law.isf(max(chi2_law.sf(chi2, len(k)), 1e-300), 1)))


def _systematics(disks):
    """Systematic errors of a radial and a threefold distortion."""
    return (SPOT_RADIAL_SYSTEMATIC, SPOT_THREEFOLD_SYSTEMATIC) if disks else (DISTORTION_SYSTEMATIC,) * 2


def decide_pixel_size(fit: JointFit, standard: Standard, assignment: Assignment, evidence: str, reference: float,
                      doubt: float = 0.0) -> PixelSize:
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
        "rings", "disks", or "lattice": that of one crystal.
    reference : float
        Radius to which the distortions refer, pixels.
    doubt : float
        Relative sigma of the pixel size due to suspected distortions.

    Returns
    -------
    PixelSize
        The pixel size, with the decision.

    Examples
    --------
    >>> from py4dstem_prenet.pixel_size import ProfileFit, RadialProfile, Shape, find_standard
    >>> gold, zero, shape = find_standard("Au"), np.zeros(2), Shape(4.0, 0.6)
    >>> radii, heights, error = np.arange(12.0, 60.0), gold.intensity, np.full(len(gold.g), np.nan)
    >>> profile = RadialProfile(radii, radii, radii, radii[None], radii[None])
    >>> rings = ProfileFit(0.02, heights, radii, radii, 1.0, 0.0, 6, radii)
    >>> fit = JointFit(0.02, zero, zero, shape, 0.0, zero, ("scale", "v0", "v1"), 1e-6 * np.eye(3), profile, rings,
    ...                error, error)
    >>> sure, unsure = (Assignment(0.02, 0.03, (margin,), {"W": 20.0}) for margin in (20.0, 1.0))
    >>> [decide_pixel_size(fit, gold, found, "rings", 64.0).accepted for found in (sure, unsure)]
    [True, False]
    """
    disks = evidence != "rings"
    variation = fit.variation  # added to the sigma, since only a part of the scan may be the standard
    factor, systematic = (1.0, SPOT_SYSTEMATIC) if disks else (SIGMA_FACTOR, SYSTEMATIC)
    relative = float(np.sqrt((factor * fit.sigma("scale")) ** 2 + systematic**2 + doubt**2 + variation**2))
    errors, sigmas = fit.ring_errors, factor * fit.ring_sigmas
    checked = np.isfinite(errors) & (sigmas < 2 * MAX_RING_SCATTER)  # the others do not tell such a scatter
    # Overlapping rings have one common error.
    checked[checked] = np.isin(np.arange(checked.sum()), np.unique(errors[checked], return_index=True)[1])
    weight = 1 / np.maximum(sigmas[checked], systematic) ** 2
    scatter, chi2, freedom = 0.0, 0.0, max(int(checked.sum()) - 1, 1)
    if checked.any():
        mean = np.average(errors[checked], weights=weight)
        scatter = float(np.sqrt(np.average((errors[checked] - mean) ** 2, weights=weight)))
        chi2 = float((weight * (errors[checked] - mean) ** 2).sum())
    inconsistent = scatter > MAX_RING_SCATTER and chi2 > chi2_law.ppf(CONSISTENT_PROBABILITY, freedom)
    flags = assignment_doubts(assignment, standard.name)
    if inconsistent:
        flags.append(Flag("pixel_size_inconsistent", {"standard": standard.name, "scatter": 100 * scatter}))
    if not assignment.lattices and fit.on_rings < MIN_ON_RINGS:
        flags.append(Flag("pixel_size_off_rings", {"standard": standard.name, "percent": 100 * fit.on_rings}))
    if not relative < MAX_RELATIVE_SIGMA:
        flags.append(Flag("pixel_size_uncertain", {"percent": 100 * relative, "needed": 100 * MAX_RELATIVE_SIGMA}))
    k = [fit.names.index(name) for name in ("scale", "v0", "v1")]
    covariance = factor**2 * fit.covariance[np.ix_(k, k)]
    covariance[0, 0] = relative**2
    if evidence == "lattice":  # variation of its strain, and contrast that moves all disks
        covariance += (variation**2 + CRYSTAL_SYSTEMATIC**2) * np.diag([0, 1, 1])
        ellipse_sigma = float(np.sqrt(np.linalg.eigvalsh(covariance[1:, 1:])[-1]))
        if not ellipse_sigma < MAX_ELLIPSE_SIGMA:
            flags.append(Flag("ellipse_uncertain", {"sigma": ellipse_sigma, "needed": MAX_ELLIPSE_SIGMA}))
    accepted = not flags
    if accepted:
        flags.append(Flag("pixel_size_determined", {
            "evidence": evidence, "standard": standard.name, "percent": 100 * relative, "rings": int(checked.sum()),
            "kind": kind_of_rings(evidence), "scatter": 100 * scatter}))
        if not assignment.lattices:
            others = {name: scale for name, (margin, scale) in sorted(assignment.crystals.items(), key=lambda x: x[1])
                      if name_posterior(margin) < MIN_POSTERIOR}
            spread = max((abs(scale / assignment.scale - 1) for scale in others.values()), default=0.0)
            names = (", ".join(others) or "none") if assignment.crystals else "not compared"
            flags.append(Flag("crystal_not_tested", {
                "standard": standard.name, "others": names, "spread": 100 * spread}))
        if evidence == "lattice":
            flags.append(Flag("ellipse_of_crystal", {
                "standard": standard.name, "ratio": 1 + float(np.hypot(*fit.vector)), "sigma": ellipse_sigma}))
    radial, threefold = _systematics(evidence == "disks")
    barrel_sigma = float(np.hypot(SIGMA_FACTOR * fit.sigma("barrel"), radial))
    three_sigma = float(np.hypot(SIGMA_FACTOR * max(fit.sigma("three0"), fit.sigma("three1")), threefold))
    if variation**2 > relative**2 / 2:  # a smaller variation is not what limits the pixel size
        flags.append(Flag("lattice_varies", {"percent": 100 * variation, "standard": standard.name}))
    if accepted and fit.barrel:
        flags.append(Flag("radial_distortion", {"percent": 100 * fit.barrel, "sigma": 100 * barrel_sigma,
                                                "radius": reference}))
    if accepted and fit.threefold.any():
        flags.append(Flag("threefold_distortion", {"percent": 100 * float(np.hypot(*fit.threefold)),
                                                   "sigma": 100 * three_sigma, "radius": reference}))
    numbers = {"posterior": posterior_of(assignment), "margin": assignment.margin,
               "lattice_margin": assignment.lattice_margin, "scatter": scatter, "chi2": chi2}
    on_detector = np.flatnonzero(np.isfinite(errors) | (fit.fit.heights > 0))
    return PixelSize(
        fit.scale, relative * fit.scale, standard.name, Decision(accepted, tuple(flags), numbers), evidence,
        tuple(standard.hkl[i] for i in on_detector), standard.g[on_detector], errors[on_detector], sigmas[on_detector],
        covariance, fit.vector, fit.barrel, barrel_sigma, fit.threefold, three_sigma, reference,
        np.array([fit.profile.radii, fit.profile.mean, fit.fit.fitted]))
