"""The page of a report as HTML: verdicts in plain words first, then figures and numbers.

The page loads nothing: figures are inline SVG whose ink is the page's own text color, so that it reads in light and
dark; each panel is a figure of its own, so that it reads on a phone.
"""

from __future__ import annotations

import io
import re
from datetime import datetime, timezone
from html import escape

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from ..core import ellipse_vector
from . import figures, verdicts

_INK = "#012345"  # stands for the page's text color in figures


# --- figures ------------------------------------------------------------------------------------------------
class Panels:
    """Axes, each of a figure of its own, and the captions they are shown with."""

    def __init__(self, section):
        self.section, self.rows = section, []

    def axes(self, *captions, across=None, size=(2.5, 2.2)):
        """Axes for captions, `across` (all by default) of them side by side where there is room: (rows, across)."""
        axes = np.array([Figure(figsize=size, layout="constrained").add_subplot() for _ in captions], dtype=object)
        across = across or len(captions)
        self.rows.append((across, list(zip(axes, captions, strict=True))))
        return axes.reshape(-1, across)

    def html(self):
        """The panels."""
        return "".join(f'<div class="panels" style="--across:{across}">' + "".join(
            f"<figure>{_svg(ax, f'{self.section}{row}{k}', caption)}<figcaption>{escape(caption)}</figcaption></figure>"
            for k, (ax, caption) in enumerate(made)) + "</div>" for row, (across, made) in enumerate(self.rows))


_STYLE = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK) | {
    "svg.fonttype": "none", "svg.hashsalt": "prenet", "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"]}


def _svg(ax, name, caption):
    """The axes' figure as an SVG element; its title is left to the caption."""
    ax.set_title("")
    text = io.StringIO()
    ax.figure.savefig(text, format="svg", transparent=True, dpi=150,
                      metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = text.getvalue()
    svg = svg[svg.index("<svg"):].replace(_INK, "currentColor")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)  # every figure has a "patch_1"
    head, body = svg.split(">", 1)
    box = head.split('viewBox="')[1].split('"')[0]
    return (f'<svg viewBox="{box}" role="img" aria-label="{escape(caption)}" xmlns:xlink="http://www.w3.org/1999/xlink">'
            f"{body}").strip()


def _origin_panels(seen):
    panels = Panels("origin")
    names = [f"{name} {kind}, px" for name in ("qx0", "qy0") for kind in ("measured", "fitted", "residual")]
    used = np.stack([seen.origin.qx0, seen.origin.qy0]) if seen.fitted is None else seen.fitted
    measured = (seen.origin.qx0, seen.origin.qy0)
    figures.show_origin(measured, used, panels.axes(*names, across=3), seen.origin.valid)
    last = panels.axes("sigma of single positions, px" if seen.sigma_known else "sigma: none is stored",
                       "where a beam was found (white)")[0]
    figures.show_sigma(seen.origin.sigma_qx0, seen.origin.sigma_qy0, seen.origin.valid, last)
    return panels.html()


def _pattern_panels(seen):
    panels, after = Panels("pattern"), seen.after
    radius = seen.origin.radius if np.isfinite(seen.origin.radius) else 0.05 * min(seen.shape[2:])
    vector = np.zeros(2) if seen.stored is None else ellipse_vector(*seen.stored)
    ring = figures.ring_radius(after.mean, after.center, radius, after.weight, vector)
    over = "strongest ring" if ring else "edge of the direct beam"
    told = "no ellipse is set" if seen.stored is None else f"ellipse (red) over the {over}; the annulus is round"
    patterns = panels.axes("mean pattern, as recorded", "mean pattern, recentered", told)[0]
    figures.show_recentered(seen.before.mean, after.mean, patterns)
    if seen.stored is None:
        figures.show_pattern(after.mean, patterns[2], power=0.25)
    else:
        figures.show_ellipse(after.mean, after.center, seen.stored, ring or radius, patterns[2])
    polar = panels.axes("polar, as recorded: rings wave where there is an ellipse",
                        "polar, ellipse taken out: rings are straight lines", "edge of the direct beam, px")[0]
    figures.show_straightened(after.mean, after.center, vector, polar, after.weight, ring, 1.3 * radius)
    figures.show_edge(after.mean, after.center, radius, polar[2], vector if vector.any() else None, after.weight)
    return panels.html()


def _denoising_panels(seen):
    panels = Panels("denoised")
    dark = seen.virtual[0, 1]
    order = np.argsort(dark, axis=None)
    for name, flat in (("strongest scattering", order[-1]), ("typical", order[len(order) // 2])):
        at = np.unravel_index(flat, dark.shape)
        figures.show_denoised(seen.raw[at], seen.clean[at], panels.axes(
            f"{name}: measured", f"{name}: denoised", f"{name}: difference")[0], power=0.3)
    figures.show_virtual(*seen.virtual, panels.axes(
        *(f"{d}, {kind}" for d in ("bright field", "annular dark field") for kind in ("measured", "denoised")),
        across=2))
    figures.show_denoising_check(seen.denoising, panels.axes(
        "squared error on counts that were held out, raw = 1; bars of two sigma", size=(4.2, 2.2))[0, 0])
    return panels.html()


# --- numbers ------------------------------------------------------------------------------------------------
def _numbers(seen):
    """Pairs of what and how much."""
    noise = seen.noise
    yield "scan, positions", f"{seen.shape[0]} x {seen.shape[1]}"
    yield "pattern, pixels", f"{seen.shape[2]} x {seen.shape[3]}, {seen.dtype}"
    if seen.origin is not None:
        origin, fit = seen.origin, seen.fit
        yield "positions with a beam", f"{int(origin.valid.sum())} of {origin.valid.size}"
        yield "radius of the direct disk", f"{origin.radius:.3f} px"
        if seen.fitted is not None:
            yield "origin, mean over the scan", "({:.3f}, {:.3f}) px".format(*seen.fitted.mean((1, 2)))
            yield "descan, peak to peak", "({:.3f}, {:.3f}) px".format(*np.ptp(seen.fitted, axis=(1, 2)))
        yield "sigma of a measured position, an axis", _number(fit.noise, "px")
        yield "scatter of the residuals, an axis", _number(fit.test.scatter, "px")
        yield "what neighboring residuals share", _number(fit.test.shared if fit.test.correlated else 0.0, "px")
        yield "positions far from the surface", f"{fit.test.outliers:.1%}"
        yield "uncertainty of the fitted origin, from noise", _number(fit.uncertainty, "px")
        if np.isfinite(fit.specimen):
            yield "residuals that follow virtual images", f"{fit.specimen:.0%} of their variance"
    if seen.stored is not None:
        a, b, theta = seen.stored
        angle = np.degrees(theta) % 180
        yield "ellipse in the calibration", f"a/b {a / b:.4f}, a axis at {angle:.1f}° ({seen.stored_by})"
    if seen.ellipse is not None:
        for name, (vector, covariance) in seen.ellipse.sources.items():
            sigma = np.sqrt(np.linalg.eigvalsh(covariance).max())
            angle = np.degrees(0.5 * np.arctan2(vector[1], vector[0])) % 180
            yield f"ellipse from {name}", f"a/b {1 + np.hypot(*vector):.4f} ± {sigma:.4f} at {angle:.1f}°"
    yield "gain", f"{noise.gain:.4g} detector units an electron"
    yield "offset", f"{noise.offset:.4g} detector units"
    yield "read-out noise", f"{noise.readout:.3g} detector units, {noise.readout / noise.gain:.3g} electrons"
    yield "electrons a pattern", _digits(noise.dose)
    yield "bad pixels", f"{int(noise.bad_pixels.sum())}"
    if seen.denoising is not None and seen.denoising.valid:
        error, sigma = (values["denoised"] for values in (seen.denoising.errors, seen.denoising.error_sigmas))
        yield "squared error of denoised patterns", f"{error:.3g} ± {sigma:.1g} of that of the raw counts"


def _digits(number):
    """Three digits without an exponent, such as 4,000."""
    return f"{float(f'{number:.3g}'):,.10g}"


def _number(value, unit):
    return f"{value:.3g} {unit}" if np.isfinite(value) else "not known"


def _provenance(record):
    if record is None:
        yield "calibrated by", "no record of this package is kept with the scan"
        return
    yield "calibrated by", f"{record.get('package')} {record.get('version')}, py4DSTEM {record.get('py4DSTEM')}"
    yield "when", str(record.get("date"))
    yield "data then", f"{_by(record.get('shape', ()))}, {record.get('dtype')}"
    for name, digest in record.get("weights", {}).items():
        yield f"weights: {name}", str(digest)
    for name, value in record.get("settings", {}).items():
        yield f"setting: {name}", str(value)
    for flag in record.get("flags", ()):
        yield "flag then", str(flag.get("sentence"))
    if record.get("since"):
        yield "since then", ", ".join(map(str, record["since"]))


def _by(shape):
    return " x ".join(map(str, shape))


# --- the page -----------------------------------------------------------------------------------------------

_CSS = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1b1f24;--soft:#57606a;--card:#f6f8fa;--line:#d0d7de;
--green:#116329;--amber:#7d4e00;--red:#a40e26}
@media (prefers-color-scheme:dark){:root{--paper:#0f1318;--ink:#e6edf3;--soft:#9aa6b2;--card:#171d24;--line:#30363d;
--green:#4ac26b;--amber:#e0a83a;--red:#ff7b72}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:70rem;padding:1.25rem;background:var(--paper);color:var(--ink);
font:1rem/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
h1{font-size:1.4rem;margin:0;overflow-wrap:anywhere}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}
h3{font-size:1rem;margin:0}
p{margin:.3rem 0}.soft,figcaption,th{color:var(--soft)}
.verdicts{display:grid;gap:.7rem;align-items:start;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr))}
.verdict,.overall{background:var(--card);border:1px solid var(--line);border-left:.4rem solid var(--light);
border-radius:.4rem;padding:.7rem .9rem}.verdict:first-child{grid-column:1/-1}
.overall{margin:1rem 0 .7rem;font-size:1.25rem}
.green{--light:var(--green)}.amber{--light:var(--amber)}.red{--light:var(--red)}
.light{color:var(--light);font-weight:700}
.verdict ul{margin:.4rem 0 0;padding-left:1.1rem;font-size:.93rem}
.panels{display:grid;gap:1rem;margin:1rem 0;grid-template-columns:repeat(var(--across),minmax(0,21rem))}
@media (max-width:40rem){.panels{grid-template-columns:repeat(auto-fill,minmax(min(100%,15rem),1fr))}}
figure{margin:0}figure svg{width:100%;height:auto;display:block}figcaption{font-size:.85rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.93rem}
th,td{text-align:left;padding:.25rem 1rem .25rem 0;border-bottom:1px solid var(--line);vertical-align:top;
font-variant-numeric:tabular-nums}th{font-weight:400}td{overflow-wrap:anywhere}
"""
_WORDS = {"green": "● Green", "amber": "▲ Amber", "red": "■ Red"}  # never by color alone


def page_html(seen) -> str:
    """The page about what was `report.Seen`, as HTML text."""
    made = datetime.now(timezone.utc).isoformat(" ", "minutes").replace("+00:00", " UTC")
    found = seen.verdicts
    total = verdicts.overall(found)
    with rc_context(_STYLE):
        sections = [
            f'<header><h1>{escape(str(seen.name))}</h1><p class="soft">Calibration report, '
            f"{_by(seen.shape[:2])} positions of {_by(seen.shape[2:])} pixels; {escape(made)}</p></header>",
            f'<p class="overall {total.light}"><span class="light">{_WORDS[total.light]}</span> '
            f"<strong>{escape(total.question)}</strong> {escape(total.answer)}</p>",
            '<div class="verdicts">' + "".join(map(_card, found)) + "</div>",
        ]
        if seen.origin is not None:
            sections += ["<h2>Origin: measured, fitted, residual</h2>", _functions(seen.fit), _origin_panels(seen),
                         "<h2>Recentered patterns, rings and ellipse</h2>", _pattern_panels(seen),
                         "<h2>Denoising</h2>", _denoising_panels(seen)]
    sections += ["<h2>Numbers</h2>", _table(_numbers(seen)), "<h2>Provenance</h2>", _table(_provenance(seen.record))]
    return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f"<title>{escape(str(seen.name))}: calibration report</title>"
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f'<link rel="icon" href="data:,"><style>{_CSS}</style></head><body>\n' + "\n".join(sections) +
            "\n</body></html>\n")


def _card(verdict):
    why = "".join(f"<li>{escape(sentence)}</li>" for sentence in verdict.why)
    return (f'<section class="verdict {verdict.light}"><h3>{escape(verdict.question)}</h3>'
            f'<p><span class="light">{_WORDS[verdict.light]}</span> {escape(verdict.answer)}</p>'
            + (f"<ul>{why}</ul>" if why else "") + "</section>")


def _functions(fit):
    rows = "".join(
        f"<tr><td>{escape(f.model)}{' (best on held-out positions)' if f.chosen else ''}</td>"
        f"<td>{f.scatter:.3g}</td><td>{f.distance:.3g}</td></tr>" if f.determined else
        f"<tr><td>{escape(f.model)}</td><td colspan=\"2\">the positions do not determine it</td></tr>"
        for f in fit.trials)
    return ('<div class="scroll"><table><thead><tr><th>function</th><th>residual scatter, px</th>'
            f"<th>distance from the best fit, px rms</th></tr></thead><tbody>{rows}</tbody></table></div>")


def _table(pairs):
    rows = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in pairs)
    return f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>'
