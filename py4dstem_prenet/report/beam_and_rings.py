"""Plot the evidence for an ellipse: the edge of the direct beam, and rings in polar coordinates."""

from __future__ import annotations

import numpy as np
from matplotlib.patches import Ellipse as EllipsePatch
from scipy.ndimage import gaussian_filter1d

from ..core import ellipse_matrix
from ..fits import to_polar
from . import LABEL_SIZE, SMALL_SIZE, TITLE_SIZE, add_color_bar, draw_ellipse, gray_colors, legend_below, show_pattern

PIXEL_WIDTH_PX = 0.5  # pixels; standard deviation, along the edge, of the filter that removes the grid of the detector
MIN_RING_CONTRAST = 0.03  # natural logarithm of the radial profile; smallest height of a ring that is marked


def show_beam(pattern, center, radius, ellipse, ax, title="", weight=None):
    """Plot the direct beam with the measured edge, the ellipse that is set, and a circle to compare.

    Parameters
    ----------
    pattern : ndarray, shape (Qx, Qy)
        A mean pattern.
    center : tuple of float
        (qx, qy), pixels.
    radius : float
        Radius of the direct beam, pixels.
    ellipse : tuple of float or None
        (a, b, theta); None draws the circle alone.
    ax : matplotlib.axes.Axes
        Axes to draw into.
    title : str, optional
        Title of the axes.
    weight : ndarray, shape (Qx, Qy), optional
        Weight of each pixel, 0 for those without data.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.
    """
    show_pattern(pattern, ax, title, 1.0, weight=weight)
    polar, _ = to_polar(np.asarray(pattern, np.float32), center, _around(radius), 36, weight=weight)
    phi, edge = np.arange(36) * 2 * np.pi / 36, _half(polar, _around(radius))
    ax.plot(center[1] + edge * np.sin(phi), center[0] + edge * np.cos(phi), ".", color="cyan", ms=3,
            label="half height")
    mean = float(np.median(edge))
    ax.add_patch(EllipsePatch((center[1], center[0]), 2 * mean, 2 * mean, fill=False, ec="yellow", ls="--", lw=1,
                              label="circle"))
    if ellipse is not None:
        draw_ellipse(ax, center, ellipse, mean)
    ax.set_xlim(center[1] - 2 * radius, center[1] + 2 * radius)
    ax.set_ylim(center[0] + 2 * radius, center[0] - 2 * radius)
    legend_below(ax, 3)
    return ax


def ring_radius(pattern, center, radius, weight=None, vector=(0.0, 0.0)):
    """Find the strongest ring outside the direct beam.

    A ring is a maximum of the radial profile that exceeds the smoothed profile by MIN_RING_CONTRAST.

    Parameters
    ----------
    pattern : ndarray, shape (Qx, Qy)
        A mean pattern.
    center : tuple of float
        (qx, qy), pixels.
    radius : float
        Radius of the direct beam, pixels; the search starts at 1.5 times it.
    weight : ndarray, shape (Qx, Qy), optional
        Weight of each pixel, 0 for those without data.
    vector : tuple of float, optional
        Ellipse vector to correct for; see `core.geometry`.

    Returns
    -------
    float or None
        The radius, pixels; None if there is no ring.
    """
    radii = np.arange(1.5 * radius, max(inner_radius(pattern.shape, center), 1.5 * radius + 8), 0.5)
    polar, coverage = to_polar(np.asarray(pattern, np.float32), center, radii, 180, weight=weight, vector=vector)
    profile = _log_profile(polar, coverage)
    contrast = profile - _trend(profile, 1.5 * max(radius, 6.0))
    inside = contrast[1:-1]
    peaks = np.flatnonzero((inside > contrast[:-2]) & (inside >= contrast[2:]) & (inside > MIN_RING_CONTRAST)) + 1
    return float(radii[peaks[np.argmax(contrast[peaks])]]) if peaks.size else None


def _log_profile(polar, coverage):
    """Logarithm of the azimuthal mean of a polar map (n_phi, n_r) whose radii are half a pixel apart."""
    profile = gaussian_filter1d(np.ma.masked_where(coverage <= 0, polar).mean(0).filled(0), 2.0, mode="nearest")
    return np.log(np.maximum(profile, 1e-3 * profile.max() + 1e-12))


def _trend(profile, pixels):
    """A profile, sampled at half pixels, smoothed by a Gaussian of `pixels`."""
    return gaussian_filter1d(profile, 2 * pixels, mode="nearest")


def inner_radius(shape, center):
    """Radius of the largest circle around a center that fits into a pattern.

    Parameters
    ----------
    shape : tuple of int
        (Qx, Qy).
    center : tuple of float
        (qx, qy), pixels.

    Returns
    -------
    float
        The radius, pixels.

    Examples
    --------
    >>> inner_radius((64, 64), (30.0, 32.0))
    30.0
    """
    return min(*center, *(n - 1 - c for n, c in zip(shape, center, strict=True)))


def show_polar(pattern, center, ax, title="", vector=(0.0, 0.0), weight=None, power=0.4, edge=None, line=None,
               inner=2.0):
    """Plot the polar transform of a pattern, corrected for an ellipse: rings become straight lines.

    Intensities are divided by the smoothed radial profile, because the tail of the direct beam is stronger than rings,
    and raised to `power`; the color bar shows the result.

    Parameters
    ----------
    pattern : ndarray, shape (Qx, Qy)
        A mean pattern.
    center : tuple of float
        (qx, qy), pixels.
    ax : matplotlib.axes.Axes
        Axes to draw into.
    title : str, optional
        Title of the axes.
    vector : tuple of float, optional
        Ellipse vector to correct for; see `core.geometry`.
    weight : ndarray, shape (Qx, Qy), optional
        Weight of each pixel, 0 for those without data.
    power : float, optional
        Exponent applied to the intensities.
    edge : float, optional
        Radius of the direct beam, pixels: show only the surroundings of its edge, not divided by the profile, with the
        edge in red.
    line : float, optional
        A radius to mark, pixels.
    inner : float, optional
        The smallest radius, pixels.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.
    """
    outer = max(inner_radius(pattern.shape, center), inner + 8)
    radii = _around(edge) if edge else np.arange(inner, outer, 0.5)
    polar, coverage = to_polar(pattern.astype(np.float32), center, radii, 180, weight=weight, vector=vector)
    shown = np.ma.masked_where(coverage <= 0, np.clip(polar, 0, None))
    shown = (shown if edge else shown / np.exp(_trend(_log_profile(polar, coverage), 10.0))) ** power
    low, high = np.percentile(shown.compressed(), (2, 99)) if shown.count() else (0, 1)
    image = ax.imshow(shown, aspect="auto", cmap=gray_colors(), extent=(radii[0], radii[-1], 360, 0), vmin=low,
                      vmax=high)
    add_color_bar(image, ax)
    if edge:
        ax.plot(_half(polar, radii), np.arange(180) * 2.0, color="red", lw=1.2, label="half height")
    if line:
        ax.axvline(line, color="yellow", lw=1, ls=(0, (4, 6)), alpha=0.8, label="strongest ring")
    if edge or line:
        ax.legend(fontsize=SMALL_SIZE, loc="upper right", facecolor="0.2", labelcolor="w", edgecolor="none")
    ax.set_xlabel("radius, px", fontsize=LABEL_SIZE)
    ax.set_ylabel("azimuth from +qx, degrees", fontsize=LABEL_SIZE)
    ax.tick_params(labelsize=SMALL_SIZE)
    ax.set_title(title, fontsize=TITLE_SIZE)
    return ax


def show_straightened(pattern, center, vector, axes, weight=None, line=None, inner=2.0):
    """Plot the polar transform as recorded, and corrected for an ellipse.

    Parameters
    ----------
    pattern : ndarray, shape (Qx, Qy)
        A mean pattern.
    center : tuple of float
        (qx, qy), pixels.
    vector : tuple of float
        Ellipse vector to correct for; see `core.geometry`.
    axes : sequence of two matplotlib.axes.Axes
        Axes to draw into.
    weight : ndarray, shape (Qx, Qy), optional
        Weight of each pixel, 0 for those without data.
    line : float, optional
        A radius to mark, pixels.
    inner : float, optional
        The smallest radius, pixels.

    Returns
    -------
    sequence of two matplotlib.axes.Axes
        The axes.
    """
    show_polar(pattern, center, axes[0], "polar, as recorded", weight=weight, line=line, inner=inner)
    show_polar(pattern, center, axes[1], "polar, ellipse removed", vector, weight, line=line, inner=inner)
    return axes


def show_edge(pattern, center, radius, ax, vector=None, weight=None):
    """Plot the radius at which the direct beam falls to half its intensity, against the azimuth.

    Corrected for the ellipse, a round aperture gives a straight line.

    Parameters
    ----------
    pattern : ndarray, shape (Qx, Qy)
        A mean pattern.
    center : tuple of float
        (qx, qy), pixels.
    radius : float
        Radius of the direct beam, pixels.
    ax : matplotlib.axes.Axes
        Axes to draw into.
    vector : tuple of float, optional
        Ellipse vector to correct for, in a second curve.
    weight : ndarray, shape (Qx, Qy), optional
        Weight of each pixel, 0 for those without data.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.
    """
    for correction, style, label in (((0.0, 0.0), "-", "as recorded"), (vector, "--", "ellipse removed")):
        if correction is not None:
            polar, _ = to_polar(pattern.astype(np.float32), center, _around(radius), 180, weight=weight,
                                vector=correction)
            ax.plot(np.arange(180) * 2.0, _half(polar, _around(radius)), style, color="tab:red" if style == "-" else
                    "tab:blue", lw=1.4, label=label)
    if vector is not None:
        phi = np.radians(np.arange(0, 361, 2.0))
        middle = np.median(ax.lines[-1].get_ydata())
        x, y = ellipse_matrix(np.asarray(vector, float)) @ (middle * np.array([np.cos(phi), np.sin(phi)]))
        at = np.argsort(np.arctan2(y, x) % (2 * np.pi))
        ax.plot(np.degrees(np.arctan2(y, x) % (2 * np.pi))[at], np.hypot(x, y)[at], color="0.5", lw=1.0,
                label="ellipse that is set")
    ax.set_xlabel("azimuth from +qx, degrees", fontsize=LABEL_SIZE)
    ax.set_ylabel("radius at half height, px", fontsize=LABEL_SIZE)
    ax.tick_params(labelsize=SMALL_SIZE)
    legend_below(ax, gap=0.22)
    ax.set_title("edge of the direct beam", fontsize=TITLE_SIZE)
    return ax


def _around(radius):
    """Radii, pixels, around the edge of a disk."""
    return np.linspace(0.5 * radius, 1.5 * radius, 200)


def _half(polar, radii):
    """Radius at which each azimuth of a polar map (n_phi, n_r) first falls below half its intensity inside the disk.

    Details finer than a pixel are smoothed, since they show the grid of the detector.
    """
    step = 2 * np.pi / len(polar) * np.median(radii)  # length of arc between azimuths, pixels
    polar = gaussian_filter1d(polar, PIXEL_WIDTH_PX / step, axis=0, mode="wrap")
    level = polar[:, :len(radii) // 4].mean(1) / 2
    first = np.maximum(np.argmax(polar < level[:, None], axis=1), 1)
    row = np.arange(len(polar))
    above, below = polar[row, first - 1] - level, polar[row, first] - level
    return radii[first] - (radii[1] - radii[0]) * np.clip(-below / np.maximum(above - below, 1e-12), 0, 1)
