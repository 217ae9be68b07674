"""Plot patterns, maps and checks in the style of py4DSTEM.

Each function draws into the given matplotlib axes and returns them. Patterns are shown with qx downward and qy to the
right, as in py4DSTEM. No function needs a display; `subplots` alone makes a figure, with pyplot, so that a notebook
shows it.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Annulus, Ellipse as EllipsePatch
from scipy.ndimage import gaussian_filter1d

from ..core import SLOPE_TOLERANCE, ellipse_axes, ellipse_vector
from ..fits import to_polar

MIN_RING_CONTRAST = 0.03  # of the logarithm of the radial profile, to mark a ring in a figure
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


def _color_bar(image, ax):
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.04)
    bar.formatter.set_useOffset(False)
    bar.ax.tick_params(labelsize=7)
    bar.ax.yaxis.get_offset_text().set_fontsize(7)


# --- patterns and maps --------------------------------------------------------------------------------------
def show_pattern(pattern, ax, title="", power=0.4, vmax=None, origin=None):
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
    pattern = np.clip(pattern, 0, None) ** power
    ax.imshow(pattern, cmap="gray", vmin=0, vmax=None if vmax is None else vmax**power)
    if origin is not None:
        ax.plot(origin[1], origin[0], "+", color="red", ms=12)
    _bare(ax, title)
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
    _color_bar(ax.imshow(shown, **settings), ax)
    _bare(ax, title)
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


def show_rotation(rotation, ax, title="curl of the deflection"):
    """Plot how much of the deflection's power has curl, against the rotation, without and with flip.

    Parameters
    ----------
    rotation : Rotation
        The rotation between scan and pattern.
    ax : matplotlib.axes.Axes
        Axes to draw into.
    title : str, optional
        Title of the axes.

    Returns
    -------
    matplotlib.axes.Axes
        The axes. The gray band is the rotation within three sigma; a rotation that was not accepted has none.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from py4dstem_prenet.core import Decision, Rotation
    >>> numbers = {"strength": 0.9, "strength_flipped": 0.1, "degrees": 20.0, "degrees_flipped": 50.0}
    >>> ax = show_rotation(Rotation(20.0, False, 0.2, False, Decision(True, (), numbers)), Figure().add_subplot())
    >>> len(ax.lines)
    2
    """
    numbers, angles = rotation.decision.numbers, np.linspace(-90, 90, 361)
    for name, label in (("", "not flipped"), ("_flipped", "flipped")):
        if f"strength{name}" in numbers:
            aside = np.radians(2 * (angles - numbers[f"degrees{name}"]))
            ax.plot(angles, 0.5 * (1 - numbers[f"strength{name}"] * np.cos(aside)), label=label)
    if rotation.accepted:
        at = 90 - (90 - rotation.degrees) % 180
        ax.axvspan(at - 3 * rotation.sigma, at + 3 * rotation.sigma, color="0.5", alpha=0.4, lw=0)
    ax.set_xlabel("rotation, degrees", fontsize=9)
    ax.set_ylabel("curl, fraction of the power", fontsize=9)
    ax.set_xlim(-90, 90)
    ax.set_ylim(0, 1)
    if ax.lines:
        ax.legend(fontsize=8, frameon=False)
    ax.set_title(title, fontsize=10)
    return ax


def show_sigma(sigma_qx0, sigma_qy0, valid, axes):
    """Plot the uncertainty of the measured origin, and the valid positions.

    Parameters
    ----------
    sigma_qx0, sigma_qy0 : ndarray, shape (Rx, Ry)
        Standard deviations, pixels; their Euclidean norm is shown.
    valid : ndarray of bool, shape (Rx, Ry)
        Positions where the origin was measured: white in the second map; the others are gray in the first.
    axes : sequence of two matplotlib.axes.Axes
        Axes to draw into.

    Returns
    -------
    sequence of two matplotlib.axes.Axes
        The axes.
    """
    show_map(np.hypot(sigma_qx0, sigma_qy0), axes[0], "sigma, px", valid, symmetric=False)
    axes[1].imshow(valid, cmap="gray", vmin=0, vmax=1)
    _bare(axes[1], f"valid: {np.mean(valid):.1%}")
    return axes


# --- recentered patterns and ellipse ------------------------------------------------------------------------
def show_recentered(before, after, axes, power=0.25):
    """Plot the mean pattern as recorded and the mean recentered pattern, with the same gray scale.

    Parameters
    ----------
    before, after : ndarray, shape (Qx, Qy)
        Mean patterns, as recorded and recentered.
    axes : sequence of two matplotlib.axes.Axes
        Axes to draw into.
    power : float, optional
        Exponent applied to the intensities.

    Returns
    -------
    sequence of two matplotlib.axes.Axes
        The axes.
    """
    top = float(max(np.max(before), np.max(after)))
    show_pattern(before, axes[0], "mean pattern, as recorded", power, top)
    show_pattern(after, axes[1], "mean pattern, recentered", power, top)
    return axes


def show_ellipse(pattern, center, ellipse, radius, ax, title="", width=0.12, power=0.25):
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

    Returns
    -------
    matplotlib.axes.Axes
        The axes.
    """
    show_pattern(pattern, ax, title, power)
    a, b, theta = ellipse
    ax.add_patch(Annulus((center[1], center[0]), radius * (1 + width), 2 * radius * width, fc="yellow", ec="none",
                         alpha=0.2))
    # The width of a patch lies along the columns; its angle is measured from them toward the rows.
    size = 2 * radius / np.sqrt(a * b)
    ax.add_patch(EllipsePatch((center[1], center[0]), size * b, size * a, angle=-np.degrees(theta), fill=False,
                              ec="red", lw=1.5, alpha=0.7))
    return ax


def show_standard(size, ax, title=""):
    """Plot the radial profile of a standard with its fit and the assigned rings.

    Parameters
    ----------
    size : PixelSize
        The measured pixel size.
    ax : matplotlib.axes.Axes
        Axes to draw into.
    title : str, optional
        Title of the axes.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> from py4dstem_prenet.core import Decision, PixelSize
    >>> size = PixelSize(0.02, 1e-5, "Au", Decision(True, ()), "rings", ("1 1 1",), np.array([0.4247]), np.zeros(1),
    ...                  np.ones(1), profile=np.ones((3, 40)) * np.arange(40))
    >>> len(show_standard(size, Figure().add_subplot()).lines)
    3
    """
    radii, mean, fitted = size.profile
    scale = radii**2 if size.evidence == "rings" else np.ones_like(radii)  # rings fall off with the radius
    ax.plot(radii, mean * scale, color="0.4", lw=1.5, label="measured")
    ax.plot(radii, fitted * scale, color="tab:red", lw=1, label="fit")
    for hkl, g in zip(size.hkl, size.g, strict=True):
        radius = g / size.value
        radius *= 1 + size.barrel * (radius / size.reference) ** 2 if size.barrel else 1
        if len(radii) and radii[0] <= radius <= radii[-1]:
            ax.axvline(radius, color="tab:blue", lw=0.6)
            ax.annotate(hkl.replace(" ", ""), (radius, 1), xycoords=("data", "axes fraction"), rotation=90, fontsize=6,
                        ha="right", va="top")
    ax.set_xlabel("radius, px", fontsize=8)
    ax.set_ylabel("intensity times radius squared" if size.evidence == "rings" else "density of disks", fontsize=8)
    ax.tick_params(labelsize=7)
    ax.legend(fontsize=7, frameon=False)
    ax.set_title(title, fontsize=10)
    return ax


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

    Intensities are divided by the smoothed radial profile, because the tail of the direct beam is stronger than rings.

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
    ax.imshow(shown, aspect="auto", cmap="gray", extent=(radii[0], radii[-1], 360, 0), vmin=low, vmax=high)
    if edge:
        ax.plot(_half(polar, radii), np.arange(180) * 2.0, color="red", lw=1.2)
    if line:
        ax.axvline(line, color="yellow", lw=1, ls=(0, (4, 6)), alpha=0.8)
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
    ax.set_xlabel("azimuth from +qx, degrees", fontsize=8)
    ax.tick_params(labelsize=7)
    ax.legend(fontsize=7, framealpha=0)
    ax.set_title("edge of the direct beam, px", fontsize=10)
    return ax


def _around(radius):
    """Radii, pixels, around the edge of a disk."""
    return np.linspace(0.5 * radius, 1.5 * radius, 200)


def _half(polar, radii):
    """Radius at which each azimuth of a polar map (n_phi, n_r) first falls below half the disk's intensity."""
    level = np.median(polar[:, :len(radii) // 4]) / 2
    return radii[np.argmax(polar < level, axis=1)]


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
    axes[2].imshow(difference, cmap="RdBu_r", vmin=-reach, vmax=reach)
    _bare(axes[2], titles[2])
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
            ax.imshow(image, cmap="gray", vmin=low, vmax=high if high > low else low + 1)
            _bare(ax, f"{name}, {kind}")
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
