"""Figures in py4DSTEM's look. Every function draws into matplotlib axes and returns them.

Patterns are shown with qx downward and qy to the right, as py4DSTEM shows them. Nothing here needs a display; `show`
alone makes a figure, with pyplot, so that a notebook shows it.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Annulus, Ellipse as EllipsePatch
from scipy.ndimage import gaussian_filter1d

from ..core import ellipse_axes, ellipse_vector
from ..fits import to_polar

_LABEL = {"fontsize": 8}
MIN_COLOR_RANGE_PX = 1e-3  # what maps of lengths are stretched to at most: px


def subplots(rows, columns, figsize):
    """Axes (rows, columns) of a new pyplot figure, which a notebook shows."""
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
    """One pattern, its intensity raised to `power`. origin: (qx0, qy0) to mark. Returns the axes."""
    pattern = np.clip(pattern, 0, None) ** power
    ax.imshow(pattern, cmap="gray", vmin=0, vmax=None if vmax is None else vmax**power)
    if origin is not None:
        ax.plot(origin[1], origin[0], "+", color="red", ms=12)
    _bare(ax, title)
    return ax


def show_map(values, ax, title="", valid=None, symmetric=True, center=None, reach=None):
    """A map over the scan (Rx, Ry) with its color bar, positions that are not valid gray. Returns the axes.

    symmetric: RdBu_r about `center` (the median by default), as py4DSTEM shows origins; else viridis. reach: how far
    the colors go from the center; by default to the 99th percentile.
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
    """Measured, fitted and residual origin, x above y, into axes (2, 3). measured, fitted: (qx0, qy0). Returns them.

    Measured and fitted have the same colors; the residual has its own, about zero.
    """
    for row, name in enumerate(("qx0", "qy0")):
        center = float(np.median(fitted[row]))
        known = np.asarray(measured[row])[slice(None) if valid is None else valid]
        off = np.abs(np.concatenate([known.ravel(), np.ravel(fitted[row])]) - center)
        reach = float(np.nanpercentile(off, 99))
        show_map(measured[row], axes[row, 0], f"{name} measured, px", valid, center=center, reach=reach)
        show_map(fitted[row], axes[row, 1], f"{name} fitted, px", center=center, reach=reach)
        show_map(np.subtract(measured[row], fitted[row]), axes[row, 2], f"{name} residual, px", valid, center=0.0)
    return axes


def show_sigma(sigma_qx0, sigma_qy0, valid, axes):
    """Into two axes: the uncertainty of the measured origin (both coordinates), and where it was measured.

    Returns the axes. White is valid, black is not; positions that are not are gray in the map of sigma.
    """
    show_map(np.hypot(sigma_qx0, sigma_qy0), axes[0], "sigma, px", valid, symmetric=False)
    axes[1].imshow(valid, cmap="gray", vmin=0, vmax=1)
    _bare(axes[1], f"valid: {np.mean(valid):.1%}")
    return axes


# --- recentered patterns and ellipse ------------------------------------------------------------------------
def show_recentered(before, after, axes, power=0.25):
    """The mean pattern as recorded, and recentered, into two axes with the same colors. Returns them."""
    top = float(max(np.max(before), np.max(after)))
    show_pattern(before, axes[0], "mean pattern, as recorded", power, top)
    show_pattern(after, axes[1], "mean pattern, recentered", power, top)
    return axes


def show_ellipse(pattern, center, ellipse, radius, ax, title="", width=0.12, power=0.25):
    """The ellipse (a, b, theta) of mean radius `radius`, red, over a yellow annulus on a pattern. Returns the axes.

    The annulus is round, as in py4DSTEM's `show_elliptical_fit`: where the ellipse leaves its middle, it is one.
    """
    show_pattern(pattern, ax, title, power)
    a, b, theta = ellipse
    ax.add_patch(Annulus((center[1], center[0]), radius * (1 + width), 2 * radius * width, fc="yellow", ec="none",
                         alpha=0.2))
    # A patch has its width along the columns and its angle from them toward the rows.
    size = 2 * radius / np.sqrt(a * b)
    ax.add_patch(EllipsePatch((center[1], center[0]), size * b, size * a, angle=-np.degrees(theta), fill=False,
                              ec="red", lw=1.5, alpha=0.7))
    return ax


def stored_ellipse(calibration):
    """(a, b, theta) in a py4DSTEM calibration, the mean one where it varies over the scan, or None."""
    ellipse = calibration.get_ellipse()
    if ellipse is None or not np.ndim(ellipse[0]):
        return ellipse
    return ellipse_axes(np.nanmean(ellipse_vector(*ellipse).reshape(2, -1), axis=1))


def ring_radius(pattern, center, radius, weight=None, vector=(0.0, 0.0)):
    """Radius, px, of the strongest ring beyond 1.5 `radius`, the ellipse (vector) taken out; None where there is none.

    A ring is a maximum of the radial profile, its fall with the radius taken out, that stands out by 3 %.
    """
    radii = np.arange(1.5 * radius, max(inner_radius(pattern.shape, center), 1.5 * radius + 8), 0.5)
    polar, seen = to_polar(np.asarray(pattern, np.float32), center, radii, 180, weight=weight, vector=vector)
    profile = _log_profile(polar, seen)
    out = profile - _trend(profile, 1.5 * max(radius, 6.0))
    inside = out[1:-1]
    peaks = np.flatnonzero((inside > out[:-2]) & (inside >= out[2:]) & (inside > 0.03)) + 1
    return float(radii[peaks[np.argmax(out[peaks])]]) if peaks.size else None


def _log_profile(polar, seen):
    """Logarithm of the mean over the azimuth of a polar map (n_phi, n_r), its radii half a pixel apart."""
    profile = gaussian_filter1d(np.ma.masked_where(seen <= 0, polar).mean(0).filled(0), 2.0, mode="nearest")
    return np.log(np.maximum(profile, 1e-3 * profile.max() + 1e-12))


def _trend(profile, pixels):
    return gaussian_filter1d(profile, 2 * pixels, mode="nearest")


def inner_radius(shape, center):
    """Radius of the largest circle about the center that lies inside."""
    return min(*center, *(n - 1 - c for n, c in zip(shape, center, strict=True)))


def show_polar(pattern, center, ax, title="", vector=(0.0, 0.0), weight=None, power=0.4, edge=None, line=None,
               inner=2.0):
    """The polar transform with an ellipse (vector) taken out: rings become straight lines. Returns the axes.

    Intensities are relative to the smoothed radial profile, lest the direct beam's surroundings outshine every ring.
    edge: radius of the direct beam, px, to show the surroundings of its edge alone, as they are, the edge in red.
    line: a radius to mark, for the eye to compare with. inner: where to start, px.
    """
    outer = max(inner_radius(pattern.shape, center), inner + 8)
    radii = _around(edge) if edge else np.arange(inner, outer, 0.5)
    polar, seen = to_polar(pattern.astype(np.float32), center, radii, 180, weight=weight, vector=vector)
    shown = np.ma.masked_where(seen <= 0, np.clip(polar, 0, None))
    shown = (shown if edge else shown / np.exp(_trend(_log_profile(polar, seen), 10.0))) ** power
    low, high = np.percentile(shown.compressed(), (2, 99)) if shown.count() else (0, 1)
    ax.imshow(shown, aspect="auto", cmap="gray", extent=(radii[0], radii[-1], 360, 0), vmin=low, vmax=high)
    if edge:
        ax.plot(_half(polar, radii), np.arange(180) * 2.0, color="red", lw=1.2)
    if line:
        ax.axvline(line, color="yellow", lw=1, ls=(0, (4, 6)), alpha=0.8)
    ax.set_xlabel("radius, px", **_LABEL)
    ax.set_ylabel("azimuth from +qx, degrees", **_LABEL)
    ax.tick_params(labelsize=7)
    ax.set_title(title, fontsize=10)
    return ax


def show_straightened(pattern, center, vector, axes, weight=None, line=None, inner=2.0):
    """The polar transform as recorded, and with the ellipse (vector) taken out, into two axes. Returns them.

    line: a radius to mark; inner: where to start, px, as for `show_polar`.
    """
    show_polar(pattern, center, axes[0], "polar, as recorded", weight=weight, line=line, inner=inner)
    show_polar(pattern, center, axes[1], "polar, ellipse taken out", vector, weight, line=line, inner=inner)
    return axes


def show_edge(pattern, center, radius, ax, vector=None, weight=None):
    """Where the direct beam falls to half its intensity, against azimuth: as recorded, and with an ellipse (vector)
    taken out, where a round aperture is a straight line. Returns the axes.
    """
    for taken_out, style, label in (((0.0, 0.0), "-", "as recorded"), (vector, "--", "ellipse taken out")):
        if taken_out is not None:
            polar, _ = to_polar(pattern.astype(np.float32), center, _around(radius), 180, weight=weight,
                                vector=taken_out)
            ax.plot(np.arange(180) * 2.0, _half(polar, _around(radius)), style, color="tab:red" if style == "-" else
                    "tab:blue", lw=1.4, label=label)
    ax.set_xlabel("azimuth from +qx, degrees", **_LABEL)
    ax.tick_params(labelsize=7)
    ax.legend(fontsize=7, framealpha=0)
    ax.set_title("edge of the direct beam, px", fontsize=10)
    return ax


def _around(radius):
    return np.linspace(0.5 * radius, 1.5 * radius, 200)


def _half(polar, radii):
    """Radius at which each azimuth of a polar map (n_phi, n_r) first falls below half the disk's intensity."""
    level = np.median(polar[:, :len(radii) // 4]) / 2
    return radii[np.argmax(polar < level, axis=1)]


# --- denoising ----------------------------------------------------------------------------------------------
def show_denoised(raw, denoised, axes, titles=("measured", "denoised", "difference"), power=0.4):
    """Raw, denoised and their difference into three axes. Returns them."""
    top = float(np.max(denoised))
    show_pattern(raw, axes[0], titles[0], power, top)
    show_pattern(denoised, axes[1], titles[1], power, top)
    difference = np.subtract(raw, denoised, dtype=float)
    reach = float(np.percentile(np.abs(difference), 99.5)) or 1.0
    axes[2].imshow(difference, cmap="RdBu_r", vmin=-reach, vmax=reach)
    _bare(axes[2], titles[2])
    return axes


def show_virtual(raw, denoised, axes):
    """Bright field (above) and annular dark field, measured and denoised, into axes (2, 2). Returns them.

    raw, denoised: (2, Rx, Ry) each, bright field first. The two of a row have the same colors.
    """
    for row, name in enumerate(("bright field", "annular dark field")):
        low, high = np.percentile(raw[row], (1, 99))
        for ax, kind, image in zip(axes[row], ("measured", "denoised"), (raw[row], denoised[row]), strict=True):
            ax.imshow(image, cmap="gray", vmin=low, vmax=high if high > low else low + 1)
            _bare(ax, f"{name}, {kind}")
    return axes


def show_denoising_check(check, ax):
    """Squared errors against held-out counts, as parts of that of the raw counts. Returns the axes.

    check: `checks.DenoisingCheck`, or anything with its `errors` and `error_sigmas`.
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
    ax.set_title("squared error on counts that were held out" if kinds else "denoising was not judged", fontsize=10)
    return ax
