"""Arrange figures of the evidence for a calibration, for `show` and the page."""

from __future__ import annotations

import numpy as np

from ..core import ellipse_vector, kind_of_rings
from . import (
    ring_radius,
    show_beam,
    show_deflection,
    show_edge,
    show_ellipse,
    show_pattern,
    show_ring_errors,
    show_rotation,
    show_standard,
    show_straightened,
)

UNKNOWN_RADIUS_FRACTION = 0.05  # fraction of the shorter side of a pattern; radius that is assumed for a hidden beam


def shown_ring(pooled, radius: float, ellipse, evidence: str) -> float | None:
    """Find the ring that is drawn as evidence for an ellipse.

    Parameters
    ----------
    pooled : Pooled
        Patterns pooled about the fitted origin.
    radius : float
        Radius of the direct beam, pixels; NaN if it is hidden.
    ellipse : tuple or None
        Ellipse (a, b, theta) in the calibration.
    evidence : str
        What it was measured from.

    Returns
    -------
    float or None
        Its radius, pixels; None if the ellipse does not rest on rings and the direct beam can be drawn.
    """
    if "rings" not in evidence and np.isfinite(radius):
        return None
    vector = np.zeros(2) if ellipse is None else np.asarray(ellipse_vector(*ellipse), float)
    return ring_radius(pooled.mean, pooled.center, drawn_radius(pooled, radius), pooled.weight, vector)


def drawn_radius(pooled, radius: float) -> float:
    """Return the radius of the direct beam, or one that is assumed if it is hidden.

    Parameters
    ----------
    pooled : Pooled
        Pooled patterns.
    radius : float
        The radius, pixels, or NaN.

    Returns
    -------
    float
        A radius, pixels.
    """
    return float(radius) if np.isfinite(radius) else UNKNOWN_RADIUS_FRACTION * min(pooled.mean.shape)


def draw_evidence(pooled, centered, radius: float, ellipse, evidence: str, axes) -> None:
    """Draw the recentered mean and the evidence for the ellipse: rings, or the edge of the direct beam.

    Parameters
    ----------
    pooled : Pooled
        Patterns pooled about the fitted origin.
    centered : Pooled
        The same about whole pixels, without interpolation, to look at.
    radius : float
        Radius of the direct beam, pixels; NaN if it is hidden.
    ellipse : tuple or None
        Ellipse (a, b, theta) in the calibration.
    evidence : str
        What it was measured from.
    axes : sequence of three matplotlib.axes.Axes
        Axes to draw into.
    """
    vector = np.zeros(2) if ellipse is None else np.asarray(ellipse_vector(*ellipse), float)
    ring = shown_ring(pooled, radius, ellipse, evidence)
    ratio = "no ellipse is set" if ellipse is None else f"a/b {ellipse[0] / ellipse[1]:.4f}"
    of_beam = ring is None and np.isfinite(radius)
    if ellipse is None or ring is None:
        title = "mean recentered,\nelectrons" if of_beam else f"recentered;\n{ratio}"
        show_pattern(centered.mean, axes[0], title, 0.25, weight=centered.weight)
    else:
        show_ellipse(centered.mean, centered.center, ellipse, ring, axes[0], f"recentered;\n{ratio}",
                     weight=centered.weight)
    if of_beam:
        show_beam(pooled.mean, pooled.center, radius, ellipse, axes[1], f"direct beam;\n{ratio}", pooled.weight)
        show_edge(pooled.mean, pooled.center, radius, axes[2], None if ellipse is None else vector, pooled.weight)
    else:
        show_straightened(pooled.mean, pooled.center, vector, axes[1:], pooled.weight, ring,
                          1.3 * drawn_radius(pooled, radius))


def draw_quantities(size, turned, axes) -> None:
    """Draw the evidence for pixel size and rotation, at most two panels for each; unused axes stay empty.

    Parameters
    ----------
    size : PixelSize or None
        The pixel size.
    turned : Rotation or None
        The rotation.
    axes : sequence of matplotlib.axes.Axes
        Axes to draw into, in this order.
    """
    free = iter(axes)
    if size is not None:
        known = f"{size.value:.6f} ± {size.sigma:.6f} Å⁻¹" if size.accepted else "not accepted"
        show_standard(size, next(free), f"{size.standard}\n{known}")
        show_ring_errors(size, next(free), f"radii of the {kind_of_rings(size.evidence)}")
    if turned is not None:
        if turned.deflection is not None:
            show_deflection(turned, next(free))
        show_rotation(turned, next(free), f"rotation\n{turned.text}" if turned.accepted else "rotation:\nnot accepted")
    for ax in free:
        ax.set_axis_off()
