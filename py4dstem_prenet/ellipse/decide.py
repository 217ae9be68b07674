"""Decision on the ellipse: combine the estimates by their covariances, and accept or refuse the result.

The rings and the shape of the direct beam are independent estimates. They are combined if they agree (chi square). If
the rings are strong and the chi square would be exceeded by chance in less than one case in twenty, only the rings are
used: the covariance of the beam's shape includes a model error, but the aperture may deviate more from a circle, so
that a mean of both would be wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import chi2 as chi2_law

from ..core import Decision, Ellipse, Flag, PrenetError, ellipse_axes, ellipse_vector

# Set on simulated scans (benchmarks/acceptance.py):
MAX_ELLIPSE_SIGMA = 0.008  # ellipse vector; largest standard error of an accepted one, in its least certain direction
MIN_STRONG_RINGS = 0.7  # fraction of the azimuth with signal; smallest for which rings are preferred to the direct beam
MAX_AXES_RATIO = 1.5  # ratio of semi-axes; largest that a user may give: microscopes distort by some percent
# Quantiles of the chi square of estimates that agree:
SCALED_PROBABILITY = 0.95  # probability; above it, only strong rings are used; without any, the covariance is increased
DISAGREE_PROBABILITY = 0.999  # probability; above it, the estimates disagree


def unknown_ellipse(flag: Flag, *notes: Flag) -> Ellipse:
    """Create the `Ellipse` of a scan that does not determine its ellipse.

    Parameters
    ----------
    flag : Flag
        Reason why the ellipse is not determined.
    *notes : Flag
        Additional flags.

    Returns
    -------
    Ellipse
        A circle that is not accepted.

    Examples
    --------
    >>> from py4dstem_prenet.core import Flag
    >>> from py4dstem_prenet.ellipse.decide import unknown_ellipse
    >>> unknown_ellipse(Flag("ellipse_no_evidence")).accepted
    False
    """
    return Ellipse(1.0, 1.0, 0.0, np.zeros(2), np.eye(2), Decision(False, (flag, *notes)), {})


def decide_ellipse(sources, notes, continuity) -> Ellipse:
    """Combine the estimates of the ellipse, and accept or refuse the result.

    Parameters
    ----------
    sources : dict
        Ellipse vector, (2,), and covariance, (2, 2), of each source ("rings", "direct beam").
    notes : list of Flag
        Flags that are added to the decision.
    continuity : float
        Fraction of the azimuth in which the rings have signal.

    Returns
    -------
    Ellipse
        The ellipse, with the decision.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.ellipse.decide import decide_ellipse
    >>> rings = np.array([0.02, 0.0]), 1e-6 * np.eye(2)
    >>> ellipse = decide_ellipse({"rings": rings}, [], continuity=1.0)
    >>> ellipse.accepted, round(ellipse.a / ellipse.b, 3)
    (True, 1.02)
    """
    if not sources:
        return unknown_ellipse(Flag("ellipse_no_evidence"), *notes)
    used = dict(sources)
    vector, covariance, agree, chi2 = combine(used)
    doubtful = len(used) > 1 and chi2 > chi2_law.ppf(SCALED_PROBABILITY, 2 * (len(used) - 1))
    if doubtful and continuity >= MIN_STRONG_RINGS and largest_sigma(sources["rings"][1]) < MAX_ELLIPSE_SIGMA:
        # Rings measure the distortion directly; the shape of the direct beam does so only for a round aperture.
        notes = [*notes, Flag("beam_shape_left_out", {"sigmas": float(np.sqrt(chi2))})]
        used = {"rings": sources["rings"]}
        vector, covariance, agree, chi2 = combine(used)
    a, b, theta = ellipse_axes(vector)
    names, sigma = " and ".join(used), largest_sigma(covariance)
    accepted = bool(agree and sigma < MAX_ELLIPSE_SIGMA)
    if not agree:
        flags = [Flag("ellipse_sources_disagree", {"sources": names, "sigmas": float(np.sqrt(chi2))})]
    elif not accepted:
        flags = [Flag("ellipse_uncertain", {"sigma": sigma, "needed": MAX_ELLIPSE_SIGMA})]
        flags += [] if "rings" in sources else [Flag("spots_only")]
    else:
        flags = [Flag("ellipse_determined", {"sources": names, "sigma": sigma})]
        flags += [] if "rings" in used else [Flag("ellipse_of_aperture")]
    decision = Decision(accepted, (*flags, *notes), {"sigma": sigma, "chi2": float(chi2)})
    return Ellipse(a, b, theta, vector, covariance, decision, sources)


def given_ellipse(ellipse) -> Ellipse:
    """Create an `Ellipse` from three numbers given by the user.

    Parameters
    ----------
    ellipse : tuple of float
        (a, b, theta): semi-axes in any unit, and the angle of the a axis from +qx toward +qy, radians.

    Returns
    -------
    Ellipse
        The ellipse with a b = 1, accepted; its covariance is NaN.

    Raises
    ------
    PrenetError
        If the input is not three finite numbers with positive semi-axes of a plausible ratio.

    Examples
    --------
    >>> from py4dstem_prenet.ellipse import given_ellipse
    >>> ellipse = given_ellipse((30.6, 30.0, 0.3))
    >>> round(ellipse.a / ellipse.b, 3), ellipse.theta
    (1.02, 0.3)
    """
    try:
        a, b, theta = (float(value) for value in ellipse)
    except (TypeError, ValueError):
        a = b = theta = np.nan
    if not (np.isfinite([a, b, theta]).all() and min(a, b) > 0 and max(a, b) < MAX_AXES_RATIO * min(a, b)):
        raise PrenetError("The ellipse must be True, False, or (a, b, theta): two positive semi-axes whose ratio is "
                          f"below {MAX_AXES_RATIO:g}, and an angle in radians; not {ellipse!r}.")
    vector = np.asarray(ellipse_vector(a, b, theta))
    flag = Flag("ellipse_given", {"ratio": a / b, "degrees": float(np.degrees(theta))})
    return Ellipse(*ellipse_axes(vector), vector, np.full((2, 2), np.nan), Decision(True, (flag,)))


@dataclass(frozen=True)
class Agreement:
    """Test of an ellipse against the ellipse measured in a scan.

    Attributes
    ----------
    testable : bool
        Whether an ellipse was measured in the scan.
    agrees : bool
        Whether chance exceeds this chi square in more than one test in a thousand; True if it is not testable.
    decisive : bool
        Whether the measured ellipse includes rings; the shape of the direct beam alone may be that of an aperture that
        is not round.
    difference : float
        Length of the difference of the ellipse vectors.
    sigmas : float
        Square root of the chi square with two degrees of freedom.
    """

    testable: bool
    agrees: bool
    decisive: bool
    difference: float
    sigmas: float

    @property
    def numbers(self) -> dict:
        """The numbers of a flag."""
        return {"difference": self.difference, "sigmas": self.sigmas}


def compare_ellipses(own: Ellipse | None, other: Ellipse) -> Agreement:
    """Test whether an ellipse agrees with the ellipse measured in a scan.

    Parameters
    ----------
    own : Ellipse or None
        The ellipse measured in the scan, accepted or not.
    other : Ellipse
        The ellipse to test; a covariance of NaN counts as zero.

    Returns
    -------
    Agreement
        The result.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.ellipse import compare_ellipses, given_ellipse
    >>> from py4dstem_prenet.ellipse.decide import decide_ellipse
    >>> own = decide_ellipse({"rings": (np.array([0.02, 0.0]), 1e-6 * np.eye(2))}, [], continuity=1.0)
    >>> [compare_ellipses(own, given_ellipse((ratio, 1, 0))).agrees for ratio in (1.021, 1.0)]
    [True, False]
    """
    if own is None or not own.sources or own.decision.has("ellipse_sources_disagree"):
        return Agreement(False, True, False, np.nan, np.nan)
    offset = own.vector - other.vector
    covariance = own.covariance + np.nan_to_num(other.covariance)
    chi2 = float(offset @ np.linalg.solve(covariance, offset))
    agrees = bool(chi2 < chi2_law.ppf(DISAGREE_PROBABILITY, 2))
    return Agreement(True, agrees, "rings" in own.sources, float(np.hypot(*offset)), chi2**0.5)


def judged_ellipse(given: Ellipse, own: Ellipse | None) -> Ellipse:
    """Add a flag to a given ellipse that states whether the scan agrees with it.

    Parameters
    ----------
    given : Ellipse
        The ellipse that is set by hand; it remains accepted.
    own : Ellipse or None
        The ellipse measured in the scan.

    Returns
    -------
    Ellipse
        The given ellipse with a flag on the agreement, and with the sources of the measured ellipse.
    """
    test = compare_ellipses(own, given)
    name = "ellipse_untested" if not test.testable else "ellipse_agrees" if test.agrees else "given_ellipse_differs"
    flag = Flag(name, test.numbers if test.testable else {})
    decision = Decision(True, (*given.decision.flags, flag), given.decision.numbers)
    return replace(given, decision=decision, sources={} if own is None else own.sources)


def combine(sources):
    """Combine independent estimates of an ellipse by their inverse covariances.

    Parameters
    ----------
    sources : dict
        Ellipse vector, (2,), and covariance, (2, 2), of each source.

    Returns
    -------
    vector : numpy.ndarray, shape (2,)
        Weighted mean of the vectors.
    covariance : numpy.ndarray, shape (2, 2)
        Covariance of the mean. If chance exceeds `chi2` in less than one case in twenty, it is scaled up by the ratio
        of `chi2` to its 95 % quantile.
    agree : bool
        Whether chance exceeds `chi2` in more than one case in a thousand.
    chi2 : float
        Chi square of n sources about their mean, with 2 (n - 1) degrees of freedom; 0 for one source.

    Raises
    ------
    PrenetError
        If there is no source.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.ellipse import combine
    >>> sources = {name: (np.array([0.01, x]), 1e-4 * np.eye(2)) for name, x in (("rings", 0.0), ("direct beam", 0.01))}
    >>> vector, covariance, agree, chi2 = combine(sources)
    >>> vector.round(4).tolist(), agree, round(chi2, 2)
    ([0.01, 0.005], True, 0.5)
    """
    if not sources:
        raise PrenetError("There is no ellipse estimate to combine.")
    vectors = [np.asarray(v, float) for v, _ in sources.values()]
    precisions = [np.linalg.inv(np.asarray(c, float)) for _, c in sources.values()]
    covariance = np.linalg.inv(np.sum(precisions, 0))
    vector = covariance @ np.sum([p @ v for p, v in zip(precisions, vectors, strict=True)], 0)
    chi2 = float(sum((v - vector) @ p @ (v - vector) for p, v in zip(precisions, vectors, strict=True)))
    freedom = 2 * (len(vectors) - 1)
    if not freedom:
        return vector, covariance, True, 0.0
    scaled_from, largest = chi2_law.ppf((SCALED_PROBABILITY, DISAGREE_PROBABILITY), freedom)
    return vector, covariance * max(1.0, chi2 / scaled_from), bool(chi2 < largest), chi2


def largest_sigma(covariance) -> float:
    """Compute the standard error in the most uncertain direction.

    Parameters
    ----------
    covariance : array_like, shape (2, 2)
        Covariance of an ellipse vector.

    Returns
    -------
    float
        Square root of the largest eigenvalue.

    Examples
    --------
    >>> from py4dstem_prenet.ellipse.decide import largest_sigma
    >>> largest_sigma([[4.0, 0.0], [0.0, 9.0]])
    3.0
    """
    return float(np.sqrt(np.linalg.eigvalsh(covariance).max()))
