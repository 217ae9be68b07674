"""Plot patterns, maps and checks in the style of py4DSTEM.

Each function draws into the given matplotlib axes and returns them. Patterns are shown with qx downward and qy to the
right, as in py4DSTEM. No function needs a display; `subplots` alone makes a figure, with pyplot, so that a notebook
shows it.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import PowerNorm, to_rgba
from matplotlib.patches import Annulus, Ellipse as EllipsePatch, Patch
from matplotlib.ticker import MaxNLocator
from scipy.ndimage import gaussian_filter1d

from ..core import SLOPE_TOLERANCE, ellipse_axes, ellipse_matrix, ellipse_vector
from ..fits import to_polar

MIN_RING_CONTRAST = 0.03  # of the logarithm of the radial profile, to mark a ring in a figure
MAX_CROSSES = 60  # bad pixels that are marked one by one
NO_DATA = "#24365c"  # color of pixels without data
MIN_COLOR_RANGE_PX = 1e-3  # px, half the range of colors at least, so that rounding errors are not visible


def subplots(rows, columns, figsize):
    """Make axes in a new pyplot figure, which a notebook shows.

    Parameters
    ----------
    rows, columns : int
        Number of axes.
    figsize : tuple of float
        Width and height of the figure, inches.

    Returns
    -------
    ndarray of matplotlib.axes.Axes, shape (rows, columns)
        The axes.
    """
    return plt.subplots(rows, columns, figsize=figsize, constrained_layout=True)[1]


def _bare(ax, title):
    ax.set_title(title, fontsize=10)
    ax.set_xticks([])
    ax.set_yticks([])


def add_color_bar(image, ax):
    """Add a color bar to an image.

    Parameters
    ----------
    image : matplotlib.image.AxesImage
        The image.
    ax : matplotlib.axes.Axes
        Its axes.
    """
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.04)
    bar.ax.yaxis.set_major_locator(MaxNLocator(4))
    bar.ax.minorticks_off()
    bar.formatter.set_useOffset(False)
    bar.formatter.set_powerlimits((-3, 4))
    bar.ax.tick_params(labelsize=7)
    bar.ax.yaxis.get_offset_text().set_fontsize(7)


def _legend(ax, columns=2):
    """A legend below the axes."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=columns,
                  handlelength=1.5, columnspacing=1.0)


def _pattern_axes(ax):
    """Name the axes of a pattern: qx is the row and grows downward, qy is the column."""
    ax.set_xlabel("qy →", fontsize=8, labelpad=1)
    ax.set_ylabel("← qx", fontsize=8, labelpad=1)


def _scan_axes(ax):
    """Name the axes of a map over the scan."""
    ax.set_xlabel("scan column →", fontsize=8, labelpad=1)
    ax.set_ylabel("← scan row", fontsize=8, labelpad=1)


def _gray():
    return plt.get_cmap("gray").with_extremes(bad=NO_DATA)


# --- patterns and maps --------------------------------------------------------------------------------------
def show_pattern(pattern, ax, title="", power=0.4, vmax=None, origin=None, weight=None):
    """Plot a diffraction pattern.

    Parameters
    ----------
    pattern : ndarray, shape (Qx, Qy)
        The intensities; negative values are shown as zero.
    ax : matplotlib.axes.Axes
        Axes to draw into.
    title : str, optional
        Title of the axes.
    power : float, optional
        Exponent applied to the intensities.
    vmax : float, optional
        Intensity shown as white; by default the maximum.
    origin : tuple of float, optional
        Position (qx0, qy0) to mark, pixels.
    weight : ndarray, shape (Qx, Qy), optional
        Zero for pixels without data, which are shown in blue.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> ax = show_pattern(np.eye(32), Figure().add_subplot(), origin=(16, 16))
    >>> len(ax.images), len(ax.lines)
    (1, 1)
    """
    pattern = np.clip(np.asarray(pattern, float), 0, None)
    vmax = float(np.max(pattern)) if vmax is None else float(vmax)
    if weight is not None:
        pattern = np.ma.masked_where(np.asarray(weight) <= 0, pattern)
    image = ax.imshow(pattern, cmap=_gray(), norm=PowerNorm(power, 0, vmax if vmax > 0 else 1.0))
    add_color_bar(image, ax)
    if origin is not None:
        ax.plot(origin[1], origin[0], "+", color="red", ms=12)
    _bare(ax, title)
    _pattern_axes(ax)
    return ax


def show_map(values, ax, title="", valid=None, symmetric=True, center=None, reach=None):
    """Plot a map over the scan with a color bar; invalid positions are gray.

    Parameters
    ----------
    values : ndarray, shape (Rx, Ry)
        The map; NaN is invalid.
    ax : matplotlib.axes.Axes
        Axes to draw into.
    title : str, optional
        Title of the axes.
    valid : ndarray of bool, shape (Rx, Ry), optional
        Positions to show in color.
    symmetric : bool, optional
        Whether to use the color map RdBu_r around `center`, as py4DSTEM shows origins; otherwise viridis.
    center : float, optional
        Value of the middle color; by default the median.
    reach : float, optional
        Difference from `center` shown in full color; by default the 99th percentile of the differences.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.
    """
    shown = np.ma.masked_invalid(values if valid is None else np.where(valid, values, np.nan))
    settings = {"cmap": plt.get_cmap("RdBu_r" if symmetric else "viridis").with_extremes(bad="0.5")}
    if symmetric and shown.count():
        center = float(np.ma.median(shown)) if center is None else center
        reach = max(reach or float(np.percentile(np.abs(shown.compressed() - center), 99)), MIN_COLOR_RANGE_PX)
        settings |= {"vmin": center - reach, "vmax": center + reach}
    add_color_bar(ax.imshow(shown, **settings), ax)
    _bare(ax, title)
    _scan_axes(ax)
    if shown.mask.any():
        ax.set_xlabel("scan column →   (gray: no value)", fontsize=8, labelpad=1)
    return ax


def show_origin(measured, fitted, axes, valid=None):
    """Plot the measured origin, the fitted origin and the residuals, with qx0 above qy0.

    The measured and the fitted origin have the same color scale; the residuals have their own, around zero.

    Parameters
    ----------
    measured, fitted : tuple of two ndarray, shape (Rx, Ry)
        (qx0, qy0), pixels.
    axes : ndarray of matplotlib.axes.Axes, shape (2, 3)
        Axes to draw into.
    valid : ndarray of bool, shape (Rx, Ry), optional
        Positions where the origin was measured.

    Returns
    -------
    ndarray of matplotlib.axes.Axes, shape (2, 3)
        The axes.
    """
    for row, name in enumerate(("qx0", "qy0")):
        center = float(np.median(fitted[row]))
        valid_values = np.asarray(measured[row])[slice(None) if valid is None else valid]
        difference = np.abs(np.concatenate([valid_values.ravel(), np.ravel(fitted[row])]) - center)
        reach = float(np.nanpercentile(difference, 99))
        show_map(measured[row], axes[row, 0], f"{name} measured, px", valid, center=center, reach=reach)
        show_map(fitted[row], axes[row, 1], f"{name} fitted, px", center=center, reach=reach)
        show_map(np.subtract(measured[row], fitted[row]), axes[row, 2], f"{name} residual, px", valid, center=0.0)
    return axes


def show_sigma(sigma_qx0, sigma_qy0, valid, axes):
    """Plot the uncertainty of the measured origin along each axis, with one color scale.

    Parameters
    ----------
    sigma_qx0, sigma_qy0 : ndarray, shape (Rx, Ry)
        Standard deviations, pixels.
    valid : ndarray of bool, shape (Rx, Ry)
        Positions where the origin was measured; the others are gray.
    axes : sequence of two matplotlib.axes.Axes
        Axes to draw into.

    Returns
    -------
    sequence of two matplotlib.axes.Axes
        The axes.
    """
    values = np.stack([sigma_qx0, sigma_qy0])[:, np.asarray(valid, bool)]
    values = values[np.isfinite(values)]
    for ax, sigma, name in zip(axes, (sigma_qx0, sigma_qy0), ("qx0", "qy0"), strict=True):
        if values.size:
            show_map(sigma, ax, f"{name} sigma, px", valid, symmetric=False)
            low, high = np.percentile(values, (1, 99))
            ax.images[0].set_clim(low, max(high, low + MIN_COLOR_RANGE_PX))
        else:
            ax.text(0.5, 0.5, "no sigma is stored", ha="center", va="center", fontsize=8, transform=ax.transAxes)
            _bare(ax, f"{name} sigma, px")
            ax.set_frame_on(False)
    return axes


# --- recentered patterns and ellipse ------------------------------------------------------------------------
def show_recentered(before, after, axes, power=0.25, weights=(None, None)):
    """Plot the mean pattern as recorded and the mean recentered pattern, with the same gray scale.

    Parameters
    ----------
    before, after : ndarray, shape (Qx, Qy)
        Mean patterns, as recorded and recentered.
    axes : sequence of two matplotlib.axes.Axes
        Axes to draw into.
    power : float, optional
        Exponent applied to the intensities.
    weights : tuple of two ndarray, optional
        Weights of the pixels of both, 0 for those without data.

    Returns
    -------
    sequence of two matplotlib.axes.Axes
        The axes.
    """
    top = float(max(np.max(before), np.max(after)))
    for ax, mean, weight, title in zip(axes, (before, after), weights, ("mean as recorded", "mean, recentered"),
                                       strict=True):
        show_pattern(mean, ax, title, power, top, weight=weight)
    return axes


def show_left_out(ax, offset=(0, 0), mask=None, stop=None, bad=None):
    """Mark on a pattern what the fits left out: a detector mask, a beam stop, and bad pixels, with a legend.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Axes of the pattern.
    offset : tuple of float, optional
        Place of the detector's first pixel in the pattern.
    mask : ndarray of bool, shape (Qx, Qy), optional
        True where the user says that a pixel is good.
    stop : ndarray of bool, shape (Qx, Qy), optional
        True behind a beam stop that was found.
    bad : ndarray of bool, shape (Qx, Qy), optional
        All bad pixels; those that neither mask nor stop explains are marked one by one.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> ax = show_pattern(np.ones((32, 32)), Figure().add_subplot())
    >>> ax = show_left_out(ax, mask=np.arange(1024).reshape(32, 32) > 64)
    >>> len(ax.images), len(ax.get_legend().get_texts())
    (2, 1)
    """
    handles, explained = [], np.False_
    limits = ax.get_xlim(), ax.get_ylim()
    for region, color, label in ((None if mask is None else ~np.asarray(mask, bool), "tab:blue", "detector mask"),
                                 (stop, "tab:orange", "beam stop that was found")):
        if region is None or not np.any(region):
            continue
        explained = explained | region
        _shade(ax, region, color, 0.45, offset)
        handles.append(Patch(color=color, alpha=0.45, label=label))
    if bad is not None:
        rows, columns = np.nonzero(np.asarray(bad, bool) & ~explained)
        if len(rows) > MAX_CROSSES:
            _shade(ax, np.asarray(bad, bool) & ~explained, "red", 0.7, offset)
            handles.append(Patch(color="red", alpha=0.7, label=f"bad pixels ({len(rows)})"))
        elif len(rows):
            handles += ax.plot(columns + offset[1], rows + offset[0], "x", color="red", ms=4, mew=0.8,
                               label=f"bad pixels ({len(rows)})")
    ax.set_xlim(limits[0])
    ax.set_ylim(limits[1])
    if handles:
        ax.legend(handles=handles, fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    return ax


def _shade(ax, region, color, alpha, offset):
    """Color the pixels of a region (Qx, Qy) whose first pixel lies at `offset`."""
    rows, columns = region.shape
    shade = np.zeros((rows, columns, 4))
    shade[region] = to_rgba(color, alpha)
    ax.imshow(shade, extent=(offset[1] - 0.5, offset[1] + columns - 0.5, offset[0] + rows - 0.5, offset[0] - 0.5),
              interpolation="nearest", zorder=2)


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
    ax.plot(center[1] + edge * np.sin(phi), center[0] + edge * np.cos(phi), ".", color="cyan", ms=4,
            label="half height")
    mean = float(np.median(edge))
    ax.add_patch(EllipsePatch((center[1], center[0]), 2 * mean, 2 * mean, fill=False, ec="yellow", ls="--", lw=1,
                              label="circle"))
    if ellipse is not None:
        _draw_ellipse(ax, center, ellipse, mean)
    ax.set_xlim(center[1] - 2 * radius, center[1] + 2 * radius)
    ax.set_ylim(center[0] + 2 * radius, center[0] - 2 * radius)
    _legend(ax, 3)
    return ax


def mark_ellipse(ax, center, ellipse, radius, width=0.12):
    """Draw an ellipse (red) and a circular annulus (yellow) over a pattern, with a legend.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Axes of the pattern.
    center : tuple of float
        Center of the ellipse (qx, qy), pixels.
    ellipse : tuple of float
        (a, b, theta).
    radius : float
        Geometric mean of the semiaxes that are drawn, pixels.
    width : float, optional
        Half width of the annulus, as a fraction of `radius`.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.
    """
    ax.add_patch(Annulus((center[1], center[0]), radius * (1 + width), 2 * radius * width, fc="yellow", ec="none",
                         alpha=0.2, label="round annulus"))
    _draw_ellipse(ax, center, ellipse, radius)
    _legend(ax)
    return ax


def _draw_ellipse(ax, center, ellipse, radius):
    a, b, theta = ellipse
    # The width of a patch lies along the columns; its angle is measured from them toward the rows.
    size = 2 * radius / np.sqrt(a * b)
    ax.add_patch(EllipsePatch((center[1], center[0]), size * b, size * a, angle=-np.degrees(theta), fill=False,
                              ec="red", lw=1.5, alpha=0.7, label="ellipse"))


def show_ellipse(pattern, center, ellipse, radius, ax, title="", width=0.12, power=0.25, weight=None):
    """Plot an ellipse (red) over a pattern, with a circular annulus (yellow) to compare, as py4DSTEM does.

    Parameters
    ----------
    pattern : ndarray, shape (Qx, Qy)
        The intensities.
    center : tuple of float
        Center of the ellipse (qx, qy), pixels.
    ellipse : tuple of float
        (a, b, theta): semiaxes, of which only the ratio counts, and the angle of a from +qx toward +qy, radians.
    radius : float
        Geometric mean of the semiaxes that are drawn, pixels.
    ax : matplotlib.axes.Axes
        Axes to draw into.
    title : str, optional
        Title of the axes.
    width : float, optional
        Half width of the annulus, as a fraction of `radius`.
    power : float, optional
        Exponent applied to the intensities.
    weight : ndarray, shape (Qx, Qy), optional
        Weight of each pixel, 0 for those without data.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.
    """
    show_pattern(pattern, ax, title, power, weight=weight)
    return mark_ellipse(ax, center, ellipse, radius, width)


def stored_ellipse(calibration):
    """Read the ellipse from a calibration.

    Parameters
    ----------
    calibration : py4DSTEM.Calibration
        The calibration.

    Returns
    -------
    tuple of float or None
        (a, b, theta), averaged if it varies over the scan; None if there is none.
    """
    ellipse = calibration.get_ellipse()
    if ellipse is None or not np.ndim(ellipse[0]):
        return ellipse
    return ellipse_axes(np.nanmean(ellipse_vector(*ellipse).reshape(2, -1), axis=1))


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
    image = ax.imshow(shown, aspect="auto", cmap=_gray(), extent=(radii[0], radii[-1], 360, 0), vmin=low, vmax=high)
    add_color_bar(image, ax)
    if edge:
        ax.plot(_half(polar, radii), np.arange(180) * 2.0, color="red", lw=1.2, label="half height")
    if line:
        ax.axvline(line, color="yellow", lw=1, ls=(0, (4, 6)), alpha=0.8, label="strongest ring")
    if edge or line:
        ax.legend(fontsize=7, loc="upper right", facecolor="0.2", labelcolor="w", edgecolor="none")
    ax.set_xlabel("radius, px", fontsize=8)
    ax.set_ylabel("azimuth from +qx, degrees", fontsize=8)
    ax.tick_params(labelsize=7)
    ax.set_title(title, fontsize=10)
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
        x, y = ellipse_matrix(np.asarray(vector, float)) @ (radius * np.array([np.cos(phi), np.sin(phi)]))
        at = np.argsort(np.arctan2(y, x) % (2 * np.pi))
        ax.plot(np.degrees(np.arctan2(y, x) % (2 * np.pi))[at], np.hypot(x, y)[at], color="0.5", lw=1.0,
                label="ellipse that is set")
    ax.set_xlabel("azimuth from +qx toward +qy, degrees", fontsize=8)
    ax.set_ylabel("radius at half height, px", fontsize=8)
    ax.tick_params(labelsize=7)
    _below(ax)
    ax.set_title("edge of the direct beam", fontsize=10)
    return ax


def _below(ax):
    """A legend below the label of the axis."""
    ax.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, handlelength=1.5,
              columnspacing=1.0)


def _around(radius):
    """Radii, pixels, around the edge of a disk."""
    return np.linspace(0.5 * radius, 1.5 * radius, 200)


def _half(polar, radii):
    """Radius at which each azimuth of a polar map (n_phi, n_r) first falls below half the disk's intensity."""
    level = np.median(polar[:, :len(radii) // 4]) / 2
    first = np.maximum(np.argmax(polar < level, axis=1), 1)
    row = np.arange(len(polar))
    above, below = polar[row, first - 1] - level, polar[row, first] - level
    return radii[first] - (radii[1] - radii[0]) * np.clip(-below / np.maximum(above - below, 1e-12), 0, 1)


# --- denoising ----------------------------------------------------------------------------------------------
def show_denoised(raw, denoised, axes, titles=("measured", "denoised", "difference"), power=0.4):
    """Plot a raw pattern, the denoised pattern and their difference.

    Parameters
    ----------
    raw, denoised : ndarray, shape (Qx, Qy)
        The patterns.
    axes : sequence of three matplotlib.axes.Axes
        Axes to draw into.
    titles : tuple of str, optional
        Titles of the axes.
    power : float, optional
        Exponent applied to the intensities of the patterns.

    Returns
    -------
    sequence of three matplotlib.axes.Axes
        The axes.
    """
    top = float(np.max(denoised))
    show_pattern(raw, axes[0], titles[0], power, top)
    show_pattern(denoised, axes[1], titles[1], power, top)
    difference = np.subtract(raw, denoised, dtype=float)
    reach = float(np.percentile(np.abs(difference), 99.5)) or 1.0
    add_color_bar(axes[2].imshow(difference, cmap="RdBu_r", vmin=-reach, vmax=reach), axes[2])
    _bare(axes[2], titles[2])
    _pattern_axes(axes[2])
    return axes


def show_virtual(raw, denoised, axes):
    """Plot bright-field and annular dark-field images of raw and denoised patterns.

    The two images of a row have the same gray scale.

    Parameters
    ----------
    raw, denoised : ndarray, shape (2, Rx, Ry)
        Bright-field and annular dark-field image.
    axes : ndarray of matplotlib.axes.Axes, shape (2, 2)
        Axes to draw into.

    Returns
    -------
    ndarray of matplotlib.axes.Axes, shape (2, 2)
        The axes.
    """
    for row, name in enumerate(("bright field", "annular dark field")):
        low, high = np.percentile(raw[row], (1, 99))
        for ax, kind, image in zip(axes[row], ("measured", "denoised"), (raw[row], denoised[row]), strict=True):
            add_color_bar(ax.imshow(image, cmap="gray", vmin=low, vmax=high if high > low else low + 1), ax)
            _bare(ax, f"{name}, {kind}")
            _scan_axes(ax)
    return axes


def show_denoising_check(check, ax):
    """Plot squared errors on held-out counts, relative to the error of the raw counts.

    Parameters
    ----------
    check : DenoisingCheck
        Or any object with its `errors` and `error_sigmas`.
    ax : matplotlib.axes.Axes
        Axes to draw into.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.
    """
    names = {"raw": "raw counts", "denoised": "denoised", "gaussian": "best Gaussian", "svd": "best SVD"}
    kinds = [key for key in names if key in check.errors]
    errors = [check.errors[key] for key in kinds]
    ax.barh(range(len(kinds)), errors, xerr=[2 * check.error_sigmas[key] for key in kinds], height=0.6,
            color=["tab:blue" if key == "denoised" else "0.6" for key in kinds], ecolor="0.45")
    for k, error in enumerate(errors):
        ax.text(error + 2 * check.error_sigmas[kinds[k]] + 0.02, k, f"{error:.3g}", va="center", fontsize=8)
    ax.set_yticks(range(len(kinds)), [names[key] for key in kinds], fontsize=8)
    ax.set_xlim(min(0, *errors) if errors else 0, 1.15 * max([1.0, *errors]))
    ax.tick_params(axis="x", labelsize=7)
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title("squared error on held-out counts" if kinds else "denoising was not judged", fontsize=10)
    return ax


def show_slopes(check, ax):
    """Plot which part of the variation of each quantity over the scan denoised patterns keep.

    Parameters
    ----------
    check : DenoisingCheck
        Or any object with its `slopes`.
    ax : matplotlib.axes.Axes
        Axes to draw into.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.
    """
    measured = {name: slope for name, slope in check.slopes.items() if np.isfinite(slope.value)}
    ax.axvspan(1 - SLOPE_TOLERANCE, 1 + SLOPE_TOLERANCE, color="0.85", lw=0)
    for k, slope in enumerate(measured.values()):
        color = {"kept": "tab:blue", "unknown": "0.5"}.get(slope.status, "tab:red")
        ax.errorbar(slope.value, k, xerr=2 * slope.sigma, fmt="o", ms=4, color=color)
    ax.set_yticks(range(len(measured)), measured, fontsize=8)
    ax.set_ylim(len(measured) - 0.5, -0.5)
    ax.tick_params(axis="x", labelsize=7)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title("variation kept by denoising", fontsize=10)
    return ax
