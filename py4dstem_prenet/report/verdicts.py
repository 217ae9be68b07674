"""Whether one can go on with a calibration, in plain words, from what is in the calibration and in the data.

Each question gets a light: green, go on; amber, go on when you have read why; red, not yet. Where a threshold decides,
it stands at the top of this file, with the reason for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core import NORMAL_MAD, OriginMap
from ..descan import MODELS, MOST_JUMPS, find_jumps
from ..origin import fit_origin

LIGHTS = ("green", "amber", "red")
# Residuals scatter more than their sigmas by this much only where something beside noise is in them.
EXCESS = 1.3
# Products of neighboring residuals, in standard errors of their sum for independent noise.
SHARED_SIGMAS = 5.0
# Residuals further off than this many sigmas are outliers, as for the surface fit (Tukey's biweight).
OUTLIER = 4.685
MANY_OUTLIERS = 0.1
# By how much, in pixels (and beyond three sigmas), another function may move the origin before it matters, and before
# it is too much: a Bragg disk 50 px out is then off by 0.1 % and by 0.5 % of its length.
MATTERS, TOO_MUCH = 0.05, 0.25
ENOUGH = 16  # positions, from which residuals can be judged
VAGUE = 0.5  # px, typical sigma of single positions from which measured maps are poor


@dataclass(frozen=True)
class Verdict:
    """question; light: "green", "amber" or "red"; answer: one sentence; why: sentences, the weightiest first."""

    question: str
    light: str
    answer: str
    why: tuple[str, ...] = ()


@dataclass(frozen=True)
class FunctionTried:
    """One function fitted to the measured origin. residual: robust sigma of measured less fitted, px an axis.

    moves: rms distance, px, of its surface from the origin in the calibration (or from the best fit where there is
    none). determined: whether the positions fix it at all. best: whether held-out residuals choose it.
    """

    model: str
    residual: float
    moves: float
    determined: bool
    best: bool


@dataclass(frozen=True)
class FitJudged:
    """The verdict on a descan fit, and what it rests on; lengths in px.

    noise: typical sigma of a measured position along an axis, NaN where no sigmas are known. scatter: robust sigma of
    the residuals along an axis. shared: rms of what neighboring residuals have in common, 0 where nothing. outliers:
    part of the valid positions. uncertainty: of the fitted origin, rms over the scan along both axes. specimen: part of
    the residuals' variance that virtual images and their slopes explain; NaN where not asked.
    """

    verdict: Verdict
    functions: tuple[FunctionTried, ...]
    noise: float
    scatter: float
    shared: float
    outliers: float
    uncertainty: float
    specimen: float


def overall(verdicts) -> Verdict:
    """The one line above all: as bad as the worst light."""
    worst = max((LIGHTS.index(v.light) for v in verdicts), default=0)
    answer = ("Go on.", "Go on, when you have read what is amber.", "Do not go on yet: see what is red.")[worst]
    return Verdict("Can I go on?", LIGHTS[worst], answer)


def judge_belonging(check) -> Verdict:
    """Whether the calibration belongs to the data; check: `carry.CalibrationCheck`."""
    question = "Does the calibration belong to these data?"
    if check.current:
        return Verdict(question, "green", "Yes: nothing was cropped, binned or measured again since.")
    if set(check.stale) == {"sigma"}:
        return Verdict(question, "amber", "Yes, but the stored uncertainties do not.", check.findings)
    return Verdict(question, "red", "No: the data were changed, or measured again, since.", check.findings)


def judge_origin(origin: OriginMap, sigma_known: bool, halves=None) -> Verdict:
    """Whether the direct beam was found. halves: `checks.OriginCheck`, what the scan's own halves say of sigma."""
    question = "Was the direct beam found?"
    count, missing = origin.valid.size, int((~origin.valid).sum())
    why = []
    if missing:
        why.append(f"{missing} of {count} positions show no beam that can be located; they have the origin of their "
                   "neighbors and take no part in the fit.")
    if not sigma_known:
        why.append("No uncertainties are stored (py4DSTEM's own measurement has none); "
                   "datacube.prenet.measure_origin() gives them.")
        sigma = np.nan
    else:
        sigma = np.median(np.hypot(origin.sigma_qx0, origin.sigma_qy0)[origin.valid])
        why.append(f"A single position is known to {sigma:.2g} px.")
    if missing > count / 2:
        return Verdict(question, "red", "In less than half of the patterns.", tuple(why))
    if sigma > VAGUE:
        why.append("That is poor; few electrons, or a direct beam without an edge. The fit averages over the scan.")
    doubted = halves is not None and np.isfinite(halves.ratio) and not halves.accepted
    if halves is not None:
        why.append(_sentence(f"Measured in two halves of the counts, it {halves.reason}"))
    light = "amber" if missing > 0.01 * count or not sigma_known or sigma > VAGUE or doubted else "green"
    answer = "Yes, in every pattern." if not missing else f"Yes, in {1 - missing / count:.1%} of the patterns."
    return Verdict(question, light, answer, tuple(why))


def judge_fit(origin: OriginMap, fitted, sigma_known: bool, side: int, images=None) -> FitJudged:
    """Is this fit good enough? Strong residuals with every function: can I go on?

    Args:
        origin: what was measured. fitted: (qx0, qy0), the origin in the calibration, or None where none was accepted.
        sigma_known: whether the sigmas of `origin` mean anything. side: shorter side of a pattern, px.
        images: (k, Rx, Ry), virtual images that residuals may follow, or None.
    """
    question = "Is the descan fit good enough?"
    best = fit_origin(origin)
    used = np.stack([best.qx0, best.qy0] if fitted is None else fitted)
    measured, sigma = np.stack([origin.qx0, origin.qy0]), np.stack([origin.sigma_qx0, origin.sigma_qy0])
    residual, valid = measured - used, origin.valid
    scatter = _robust(residual[:, valid])
    noise = float(np.median(sigma[:, valid])) if sigma_known else np.nan
    each = np.maximum(sigma, 0.5 * scatter) if sigma_known else np.full_like(residual, scatter)
    reach = OUTLIER * np.maximum(each, scatter)
    outliers = float((valid & (np.abs(residual) > reach).any(0)).sum() / max(valid.sum(), 1))
    # A wrong disk counts no more than the strongest deflection does, which counts.
    residual = np.clip(residual, -reach, reach)
    shared, shared_sigmas = _shared(residual, each, valid)
    uncertainty = float(np.sqrt(np.mean(best.sigma_qx0**2 + best.sigma_qy0**2)))
    fits = {model: best if model == best.model else fit_origin(origin, model) for model in MODELS}
    functions = tuple(_tried(model, fit, used, origin.valid, best.model) for model, fit in fits.items())
    specimen = np.nan if images is None else _explained(residual, valid, images)
    jumped = [f"{name}: {jump}" for name, values, s in zip(("qx0", "qy0"), measured, sigma, strict=True)
              for jump in find_jumps(values, s, valid)]
    moved = float(np.sqrt(np.mean(((used - (best.qx0, best.qy0)) ** 2).sum(0))))

    excess = _robust((residual / sigma)[:, valid]) if sigma_known else np.nan
    structure = shared_sigmas > SHARED_SIGMAS
    why, light = [], "green"
    if valid.sum() < ENOUGH:
        light = "amber"
        why.append(f"{int(valid.sum())} positions are too few to judge a fit by its residuals.")
    elif structure:
        light = "amber"
        beside = f", beside a measurement error of {noise:.2g} px" if sigma_known else ""
        why.append(f"The residuals are not noise alone: neighbors share {shared:.2g} px of them (rms){beside}.")
        if specimen > 0.1:
            why.append(f"{specimen:.0%} of their variance follows the virtual images and their slopes, so they may "
                       "come from the specimen, which deflects the beam or shades the disk. That is not descan.")
        why.append("A descan fit should not follow them, and a richer function would: that is why strong residuals may "
                   "remain with every one. Use the fitted origin, not the measured one.")
    elif excess > EXCESS:
        light = "amber"
        why.append(f"The residuals scatter {excess:.1f} times as much as the measurement's sigmas say, but neighbors "
                   "share nothing: this averages out in the fit.")
    elif sigma_known:
        why.append(f"The residuals are the measurement's noise ({scatter:.2g} px, {excess:.2f} of what its sigmas say) "
                   "and nothing else.")
    else:
        why.append("Neighboring residuals share nothing, so they look like noise.")
    if jumped:
        light = "amber"
        followed = "prenet's fit breaks there, too; py4DSTEM's functions do not."
        too_many = ("These are too many for a fit with steps: crop the scan between them with datacube.prenet.crop_R, "
                    "and calibrate the parts.")
        why += [*jumped, followed if len(jumped) <= MOST_JUMPS else too_many]
    if outliers > 0.01:
        light = "amber" if outliers > MANY_OUTLIERS else light
        why.append(f"{outliers:.1%} of the positions are far from the surface and were left out of it.")
    if moved > max(MATTERS, 3 * uncertainty):
        light = "red" if moved > TOO_MUCH else "amber"
        why.insert(0, f"The origin in the calibration is {moved:.2g} px (rms) from the best fit, a {best.model}; "
                      'datacube.prenet.fit_origin() writes that.')
    choice = max((f.moves for f in functions if f.determined and _rich(f, best.model)), default=0.0)
    why.append(_what_it_costs(max(uncertainty, choice), choice, uncertainty, side))
    if fitted is None or not best.accepted:
        light = "red"
        why.insert(0, f"No surface was accepted. {_sentence(best.reason)}")
    answer = {"green": "Yes. Go on with the fitted origin.",
              "amber": "Yes, go on with the fitted origin, and mind what follows.",
              "red": "No, not as it is."}[light]
    return FitJudged(Verdict(question, light, answer, tuple(why)), functions, noise, scatter, shared, outliers,
                     uncertainty, float(specimen))


def _rich(tried, chosen):
    """Functions at least as rich as the chosen one: simpler ones were found to be wrong."""
    return MODELS.index(tried.model) >= MODELS.index(chosen)


def _what_it_costs(error, choice, uncertainty, side):
    far = side / 4
    told = f"The fitted origin is uncertain by {uncertainty:.2g} px (noise)"
    if choice > 0:
        told += f", and a richer function would move it by up to {choice:.2g} px (rms)"
    return f"{told}. At a Bragg disk {far:.0f} px from it, {error:.2g} px is {error / far:.2%} of strain."


def _tried(model, fit, used, valid, best):
    residual = np.stack([fit.residual_qx0, fit.residual_qy0])[:, valid]
    moves = np.sqrt(np.mean((fit.qx0 - used[0]) ** 2 + (fit.qy0 - used[1]) ** 2))
    return FunctionTried(model, _robust(residual), float(moves), fit.model == model, model == best)


def _robust(values):
    values = np.abs(values[np.isfinite(values)])
    return float(np.median(values) / NORMAL_MAD) if values.size else np.nan


def _shared(residual, noise, valid):
    """What neighboring residuals have in common: its rms in px, and how sure that is, in standard errors."""
    product, weight, pairs = 0.0, 0.0, 0
    for a, b in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        both = valid[a] & valid[b]
        for r, s in zip(residual, noise, strict=True):
            product += (r[a] * r[b])[both].sum()
            weight += ((s[a] * s[b])[both] ** 2).sum()
        pairs += 2 * int(both.sum())
    if pairs < 60 or not product > 0:
        return 0.0, 0.0
    return float(np.sqrt(product / pairs)), float(product / np.sqrt(weight))


def _explained(residual, valid, images):
    """Part of the variance of residuals that a mixture of images and their slopes explains, adjusted for chance."""
    terms = [np.ones(valid.shape)]
    for image in images:
        image = (image - image.mean()) / (image.std() or 1)
        terms += [image, *(np.gradient(image, axis=k) for k in (0, 1) if image.shape[k] > 1)]
    design = np.stack([t[valid] for t in terms], 1)
    if len(design) < 10 * design.shape[1]:
        return np.nan
    left = total = 0.0
    for r in residual:
        y = r[valid] - r[valid].mean()
        left += ((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2).sum()
        total += (y**2).sum()
    n, k = design.shape
    return max(0.0, 1 - left / (n - k) / (total / (n - 1))) if total > 0 else np.nan


def judge_ellipse(stored, seen, origin_of, halves=None) -> Verdict:
    """Whether the elliptical distortion is known. stored: (a, b, theta) in the calibration, or None.

    seen: `Ellipse` as measured now, or None. origin_of: who wrote the stored one: "prenet", or "another hand". halves:
    `checks.EllipseCheck`, what the scan's own halves say.
    """
    question = "Is the elliptical distortion known?"
    if stored is None:
        why = () if seen is None else (_sentence(seen.reason), )
        return Verdict(question, "amber", "No, and none is set: rings stay as the detector shows them.", (
            *why, "What is there is taken for the specimen's own: strain is then right only against a reference in the "
            "same scan."))
    from ..core import ellipse_vector

    ratio = max(stored[:2]) / min(stored[:2])
    told = f"a/b {ratio:.4f}, its long axis at {_long_axis(stored):.1f}° from +qx toward +qy"
    if seen is None or not seen.accepted:
        why = () if seen is None else (_sentence(seen.reason),)
        return Verdict(question, "amber", f"One is set ({told}), by {origin_of}; this scan cannot confirm it.", why)
    apart = np.subtract(seen.vector, ellipse_vector(*stored))
    sigma = float(np.sqrt(np.linalg.eigvalsh(seen.covariance).max()))
    why = (f"{told}; known to ±{sigma:.4f}.", _sentence(seen.reason),
           "datacube.calibration.set_ellipse((None, None, None)) takes it back.")
    if np.hypot(*apart) > max(3 * sigma, 0.003):
        return Verdict(question, "red", f"The one that is set, by {origin_of}, is not the one that this scan shows.", (
            f"The difference is {np.hypot(*apart):.4f} in a/b, {np.hypot(*apart) / sigma:.0f} sigma.", *why))
    if halves is not None and np.isfinite(halves.chi2):
        why = (*why[:2], _sentence(f"It {halves.reason}"), why[2])
        if not halves.accepted:
            return Verdict(question, "amber", "Yes, but less well than its sigma says.", why)
    return Verdict(question, "green", "Yes, and it was corrected.", why)


def _long_axis(ellipse):
    a, b, theta = ellipse
    return np.degrees(theta + (np.pi / 2 if b > a else 0)) % 180


def judge_noise(noise) -> Verdict:
    """What the detector's values mean."""
    bad = int(noise.bad_pixels.sum())
    if noise.counting:
        answer = f"Yes: it counts electrons, {plain(noise.dose)} a pattern."
    else:
        answer = (f"Yes: {noise.gain:.4g} units an electron, offset {noise.offset:.4g}, read-out noise "
                  f"{noise.readout:.3g} units; {plain(noise.dose)} electrons a pattern.")
    found = (f"{bad} bad pixels were found and are filled from their neighbors.",) if bad else ()
    why = found + tuple(noise.messages)
    return Verdict("Is the detector understood?", "amber" if noise.messages else "green", answer, why)


def judge_denoising(check) -> Verdict:
    """Whether denoising helps; check: `checks.DenoisingCheck`. Never red: nobody has to denoise."""
    question = "Does denoising help these data?"
    reason = _sentence(f"Denoising {check.reason}")
    if not check.valid:
        return Verdict(question, "amber", "That cannot be told here.", (reason,))
    if check.accepted:  # never green: squared error does not show that maps are flattened
        return Verdict(question, "amber", "Only to look at. Measure strain and rotation on the raw counts.", (reason,))
    return Verdict(question, "amber", "No. Use the measured counts.", (reason,))


def plain(number):
    """Three digits, and no exponent: 4,000."""
    return f"{float(f'{number:.3g}'):,.10g}"


def _sentence(text):
    text = text.strip().replace(" +- ", " ± ")
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
