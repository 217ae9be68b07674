"""Whether an ellipse is accepted: the evidence joined by covariance, and the refusal."""

from __future__ import annotations

import numpy as np
from scipy.stats import chi2 as chi2_law

from ..core import Decision, Ellipse, Flag, PrenetError, ellipse_axes

# Set on simulations (benchmarks/acceptance.py):
SIGMA_ACCEPTED = 0.008  # a component of the ellipse vector must be known better than this
WHOLE = 0.7  # part from which rings stand against the direct beam's shape


def unknown_ellipse(flag: Flag, *notes: Flag) -> Ellipse:
    """An ellipse of which nothing is known. flag: why."""
    return Ellipse(1.0, 1.0, 0.0, np.zeros(2), np.eye(2), Decision(False, (flag, *notes)), {})


def decide_ellipse(sources, notes, continuity) -> Ellipse:
    """Join the evidence, and accept or refuse the ellipse.

    sources: name to (vector (2,), covariance (2, 2)). notes: flags that are added. continuity: part of the azimuth that
    carries the signal of rings.
    """
    if not sources:
        return unknown_ellipse(Flag("ellipse_no_evidence"), *notes)
    used = dict(sources)
    vector, covariance, agree, chi2 = combine(used)
    if not agree and continuity >= WHOLE and _sigma(sources["rings"][1]) < SIGMA_ACCEPTED:
        # Distortion is seen in rings; the shape of the direct beam supposes a round aperture.
        notes = [*notes, Flag("beam_shape_left_out", {"sigmas": float(np.sqrt(chi2))})]
        used = {"rings": sources["rings"]}
        vector, covariance, agree, chi2 = combine(used)
    a, b, theta = ellipse_axes(vector)
    names, sigma = " and ".join(used), _sigma(covariance)
    accepted = bool(agree and sigma < SIGMA_ACCEPTED)
    if not agree:
        flags = [Flag("ellipse_sources_disagree", {"sources": names, "sigmas": float(np.sqrt(chi2))})]
    elif not accepted:
        flags = [Flag("ellipse_uncertain", {"sigma": sigma, "needed": SIGMA_ACCEPTED})]
        flags += [] if "rings" in sources else [Flag("spots_only")]
    else:
        flags = [Flag("ellipse_determined", {"sources": names, "sigma": sigma})]
    decision = Decision(accepted, (*flags, *notes), {"sigma": sigma, "chi2": float(chi2)})
    return Ellipse(a, b, theta, vector, covariance, decision, sources)


def combine(sources):
    """Join estimates by inverse covariance.

    Args:
        sources: dict name -> (vector (2,), covariance (2, 2)).

    Returns: (vector, covariance, agree, chi2). `agree`: chi2 of the sources about their mean, with 2 (n - 1)
    degrees of freedom, is one that chance exceeds in more than one case in a thousand. Where it is one that chance
    exceeds in less than one case in twenty, the covariance is scaled up by their ratio.
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
    likely, possible = chi2_law.ppf((0.95, 0.999), freedom)
    return vector, covariance * max(1.0, chi2 / likely), bool(chi2 < possible), chi2


def _sigma(covariance) -> float:
    """The largest standard deviation in any direction."""
    return float(np.sqrt(np.linalg.eigvalsh(covariance).max()))
