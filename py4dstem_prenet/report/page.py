"""Write the report of a calibrated scan as an HTML page: verdicts first, then figures and numbers.

The page loads nothing: figures are inline SVG elements, drawn in the text color of the page, so that they are readable
in light and dark mode. Each panel is a figure of its own, so that the page fits a phone. The layout is the jinja2
template `page.html`, which escapes all text.
"""

from __future__ import annotations

import io
import re
from datetime import datetime, timezone

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from ..core import ellipse_vector, paragraphs, shape_text
from . import (
    drawn_radius,
    length_text,
    mark_ellipse,
    number_rows,
    provenance_rows,
    show_beam,
    show_deflection,
    show_denoised,
    show_denoising_check,
    show_edge,
    show_left_out,
    show_origin,
    show_recentered,
    show_ring_errors,
    show_rotation,
    show_sigma,
    show_slopes,
    show_standard,
    show_straightened,
    show_virtual,
    shown_ring,
)

FIGURE_PAD = 0.7  # font sizes; margin of a figure: a browser's fonts are wider than those measured here
# inches; space beside and above an image in its panel, which holds the names of the axes and the color bar
IMAGE_LEFT, IMAGE_RIGHT, IMAGE_TOP = 0.46, 0.62, 0.08
MIN_IMAGE_HEIGHT = 0.4  # inches; of a map of a few scan rows
MAP_SIZE, PATTERN_SIZE, CHECK_SIZE = (2.9, 2.5), (3.1, 2.9), (2.9, 2.2)  # inches; width and height of panels
_INK = "#012345"  # placeholder color in figures, replaced by the text color of the page
_STYLE = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK) | {
    "svg.fonttype": "none", "svg.hashsalt": "prenet", "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"]}


def page_style():
    """Return a context in which figures are drawn for a page, so that they take its text color.

    Returns
    -------
    contextlib.AbstractContextManager
        The context of matplotlib's settings.
    """
    return rc_context(_STYLE)


def page_html(seen) -> str:
    """Return the report page as HTML text.

    Parameters
    ----------
    seen : Review
        What `review.review` gathered from a scan: verdicts, maps, patterns and numbers.

    Returns
    -------
    str
        A complete HTML page.
    """
    from jinja2 import Environment, PackageLoader

    single = tuple(seen.shape[:2]) == (1, 1)
    with page_style():
        sections = [] if seen.origin is None else _sections(seen, single)
    made = datetime.now(timezone.utc).isoformat(" ", "minutes").replace("+00:00", " UTC")
    template = Environment(loader=PackageLoader(__package__, ""), autoescape=True).get_template("page.html")
    return template.render(
        name=str(seen.name), made=made, length=length_text, pattern=shape_text(seen.shape[2:]),
        scan="a single pattern" if single else f"{shape_text(seen.shape[:2])} positions",
        verdicts=seen.verdicts, overall=seen.overall, summary=paragraphs(seen.summary),
        sections=sections, numbers=number_rows(seen), provenance=provenance_rows(seen.record)) + "\n"


def _sections(seen, single):
    """Sections of the page that have figures."""
    sections = [
        {"heading": "Patterns and ellipse", "rows": _pattern_panels(seen)},
        {"heading": "Pixel size", "rows": _pixel_size_panels(seen)},
        {"heading": "Rotation", "rows": _rotation_panels(seen)},
        {"heading": "Denoising", "rows": _denoising_panels(seen)},
    ]
    if not single:
        sections.insert(0, {"heading": "Origin: measured, fitted, residual", "functions": seen.fit.trials,
                            "rows": _origin_panels(seen)})
    return [section for section in sections if section["rows"]]


# --- figures ------------------------------------------------------------------------------------------------
class Panels:
    """Rows of figures with captions.

    Parameters
    ----------
    section : str
        Name of the section, the first part of all ids in its figures.
    """

    def __init__(self, section):
        self.section, self._rows = section, []

    def axes(self, *captions, across=None, size=MAP_SIZE):
        """Add a row of panels.

        Parameters
        ----------
        *captions : str
            The caption of each panel.
        across : int, optional
            Panels side by side where the page is wide enough; by default all.
        size : tuple of float, optional
            Width and height of each panel, inches.

        Returns
        -------
        ndarray of matplotlib.axes.Axes, shape (rows, across)
            Axes to draw into, each in a figure of its own.
        """
        drawn = [Figure(figsize=size, dpi=150) for _ in captions]
        axes = np.array([figure.add_subplot() for figure in drawn], dtype=object)
        across = across or len(captions)
        self._rows.append((across, list(zip(axes, captions, strict=True))))
        return axes.reshape(-1, across)

    def rows(self):
        """Draw all panels.

        Returns
        -------
        list of dict
            For each row "across" and "figures", a list of dicts with "svg" and "caption".
        """
        return [{"across": across, "figures": [
            {"svg": _svg(ax, f"{self.section}{row}{k}", caption), "caption": caption}
            for k, (ax, caption) in enumerate(panels)]} for row, (across, panels) in enumerate(self._rows)]


def _svg(ax, name, caption):
    """The figure of the axes as an SVG element without title, which the caption replaces."""
    from markupsafe import Markup

    ax.set_title("")
    for part in (ax.figure, *ax.figure.axes):
        part.set_facecolor("none")
    x, y, width, height = _lay_out_image(ax) if ax.images and ax.get_aspect() == 1 else _lay_out_plot(ax)
    text = io.StringIO()
    # `savefig` would draw the figure twice.
    FigureCanvasSVG(ax.figure).print_svg(text, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = text.getvalue()
    svg = svg[svg.index("<svg"):].replace(_INK, "currentColor")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)  # matplotlib repeats ids such as "patch_1"
    body = svg.split(">", 1)[1]
    return Markup('<svg viewBox="{} {} {} {}" role="img" aria-label="{}" '
                  'xmlns:xlink="http://www.w3.org/1999/xlink">{}').format(
        *(f"{72 * value:.2f}" for value in (x, y, width, height)), caption, Markup(body.strip()))


def _lay_out_image(ax):
    """Give an image the same place in each panel, and return the part of the figure that is shown, inches.

    A layout by the size of the labels would make images of one row differ in size.
    """
    figure, box = ax.figure, ax.viewLim
    width, height = figure.get_size_inches()
    side = width - IMAGE_LEFT - IMAGE_RIGHT
    tall = float(np.clip(side * abs(box.height / box.width), MIN_IMAGE_HEIGHT, side))
    ax.set_position((IMAGE_LEFT / width, 1 - (IMAGE_TOP + tall) / height, side / width, tall / height))
    low = figure.get_tightbbox().y0
    return 0.0, 0.0, width, height - low + IMAGE_TOP


def _lay_out_plot(ax):
    """Fit a plot with its labels into its figure, and return the part of the figure that is shown, inches."""
    ax.figure.tight_layout(pad=FIGURE_PAD)
    return 0.0, 0.0, *ax.figure.get_size_inches()


def _origin_panels(seen):
    panels = Panels("origin")
    names = [f"{name} {kind}, px" for name in ("qx0", "qy0") for kind in ("measured", "fitted", "residual")]
    used = np.stack([seen.origin.qx0, seen.origin.qy0]) if seen.fitted is None else seen.fitted
    measured = (seen.origin.qx0, seen.origin.qy0)
    show_origin(measured, used, panels.axes(*names, across=3), seen.origin.valid)
    sigmas = (seen.origin.sigma_qx0, seen.origin.sigma_qy0)
    if not seen.sigma_known:
        sigmas = [np.full_like(sigma, np.nan) for sigma in sigmas]
    show_sigma(*sigmas, seen.origin.valid, panels.axes(
        *(f"{name}: sigma of single positions, px" for name in ("qx0", "qy0")))[0])
    return panels.rows()


def _pattern_panels(seen):
    panels, after, ellipse = Panels("pattern"), seen.after, seen.stored
    radius = float(seen.origin.radius)
    used = seen.evidence or ("" if seen.ellipse is None else seen.ellipse.leading)
    ring = shown_ring(after, radius, ellipse, used)
    vector = np.zeros(2) if ellipse is None else np.asarray(ellipse_vector(*ellipse), float)
    over = "" if ellipse is None or ring is None else (
        " Red: the ellipse in the calibration, over the strongest ring; the yellow annulus is round.")
    unseen = np.count_nonzero(np.asarray(seen.before.weight) <= 0)
    empty = " Dark blue: no data." if unseen > np.count_nonzero(seen.noise.bad_pixels) else ""
    first = panels.axes(f"Mean pattern as recorded, electrons.{empty}",
                        f"Mean pattern, recentered to whole pixels, electrons.{over}", size=PATTERN_SIZE)[0]
    show_recentered(seen.before.mean, seen.centered.mean, first,
                    weights=(seen.before.weight, seen.centered.weight))
    show_left_out(first[0], seen.offset, seen.mask, seen.origin.stop, seen.noise.bad_pixels)
    if over:
        mark_ellipse(first[1], seen.centered.center, ellipse, ring)
    if np.isfinite(radius):
        red = "" if ellipse is None else " Red: the ellipse in the calibration."
        beam = panels.axes(f"Direct beam, electrons. Dots: where it falls to half its height.{red}",
                           "The same edge against the azimuth, from +qx toward +qy. With the ellipse removed, a "
                           "round aperture gives a straight line. One wave per turn comes from brightness that changes "
                           "across the disk, or from an origin that is off; more waves per turn come from the pixels, "
                           "from an aperture that is not round, or from disks that overlap.", size=PATTERN_SIZE)[0]
        show_beam(after.mean, after.center, radius, ellipse, beam[0], weight=after.weight)
        show_edge(after.mean, after.center, radius, beam[1], vector if vector.any() else None, after.weight)
    if ring is not None:
        polar = panels.axes("Polar, as recorded: an ellipse makes rings wavy. The intensity is divided by the "
                            "smoothed radial profile.",
                            "Polar, ellipse removed: rings are straight lines.", size=PATTERN_SIZE)[0]
        show_straightened(after.mean, after.center, vector, polar, after.weight, ring,
                                  1.3 * drawn_radius(after, radius))
    return panels.rows()


def _pixel_size_panels(seen):
    size, panels = seen.pixel_size, Panels("size")
    if size is None:
        return []
    what = "radial profile of the mean pattern" if size.evidence == "rings" else "density of disks"
    axes = panels.axes(f"{size.standard}: {what} with its fit. Lines: where rings are expected, with their indices; "
                       "pale where the ring is not seen.",
                       "Measured minus expected radius of each ring; error bars: one sigma.", size=(3.3, 2.8))[0]
    show_standard(size, axes[0])
    show_ring_errors(size, axes[1])
    return panels.rows()


def _rotation_panels(seen):
    turned, panels = seen.rotation, Panels("rotation")
    if turned is None:
        return []
    captions = ["Curl and divergence of the deflection against the rotation. At the right rotation and flip, the curl "
                "is least."]
    if turned.deflection is not None:
        captions.insert(0, "Center of mass about the fitted origin, px, rotated into the frame of the scan. The arrows "
                           "show the deflection of the electrons, which is toward atoms in thin specimens.")
    axes = panels.axes(*captions, size=PATTERN_SIZE)[0]
    if turned.deflection is not None:
        show_deflection(turned, axes[0])
    show_rotation(turned, axes[-1])
    return panels.rows()


def _denoising_panels(seen):
    panels = Panels("denoised")
    if seen.denoising is None:
        return []
    dark = seen.virtual[0, 1]
    order = np.argsort(dark, axis=None)
    for name, flat in (("Strongest scattering", order[-1]), ("Typical pattern", order[len(order) // 2])):
        at = np.unravel_index(flat, dark.shape)
        row, column = np.add(at, seen.part_at)
        show_denoised(seen.raw[at], seen.clean[at], panels.axes(
            f"{name} (scan row {row}, column {column}): measured, electrons.",
            "The same, denoised. Brightness is the intensity to the power 0.3, which shows differences of 0.01 "
            "electrons, for example a dark ring around a disk.",
            "Measured minus denoised, electrons.", size=PATTERN_SIZE)[0], power=0.3)
    spans = [f"{kind} {first} to {first + n - 1}" for kind, first, n in
             zip(("rows", "columns"), seen.part_at, dark.shape, strict=True)]
    images = [f"{detector} of scan {' and '.join(spans)}, {kind}, electrons."
              for detector in ("Bright field", "Annular dark field") for kind in ("measured", "denoised")]
    show_virtual(*seen.virtual, panels.axes(*images, across=2), seen.part_at)
    axes = panels.axes(
        "Squared error on held-out counts, raw = 1; error bars: two sigma.",
        *(["Variation over the scan that denoised patterns keep; error bars: two sigma; gray: 1 within 5 %."]
          if any(np.isfinite(slope.value) for slope in seen.denoising.slopes.values()) else []), size=CHECK_SIZE)[0]
    show_denoising_check(seen.denoising, axes[0])
    if len(axes) > 1:
        show_slopes(seen.denoising, axes[1])
    return panels.rows()
