"""Plot the effect of denoising on patterns, virtual images and measured quantities."""

from __future__ import annotations

import numpy as np

from ..core import SLOPE_TOLERANCE
from . import (
    LABEL_SIZE,
    SMALL_SIZE,
    TITLE_SIZE,
    add_color_bar,
    name_pattern_axes,
    name_scan_axes,
    no_ticks,
    show_pattern,
)


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
    no_ticks(axes[2], titles[2])
    name_pattern_axes(axes[2])
    return axes


def show_virtual(raw, denoised, axes, first=(0, 0)):
    """Plot bright-field and annular dark-field images of raw and denoised patterns.

    The two images of a row have the same gray scale.

    Parameters
    ----------
    raw, denoised : ndarray, shape (2, Rx, Ry)
        Bright-field and annular dark-field image.
    axes : ndarray of matplotlib.axes.Axes, shape (2, 2)
        Axes to draw into.
    first : tuple of int, optional
        Row and column of the scan at which the images begin.

    Returns
    -------
    ndarray of matplotlib.axes.Axes, shape (2, 2)
        The axes.
    """
    (rows, columns), (top, left) = raw[0].shape, first
    extent = left - 0.5, left + columns - 0.5, top + rows - 0.5, top - 0.5
    for row, name in enumerate(("bright field", "annular dark field")):
        low, high = np.percentile(raw[row], (1, 99))
        for ax, kind, image in zip(axes[row], ("measured", "denoised"), (raw[row], denoised[row]), strict=True):
            add_color_bar(ax.imshow(image, cmap="gray", vmin=low, vmax=high if high > low else low + 1, extent=extent),
                          ax)
            no_ticks(ax, f"{name}, {kind}")
            name_scan_axes(ax)
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
        ax.text(error + 2 * check.error_sigmas[kinds[k]] + 0.02, k, f"{error:.3g}", va="center", fontsize=LABEL_SIZE)
    ax.set_yticks(range(len(kinds)), [names[key] for key in kinds], fontsize=LABEL_SIZE)
    ax.set_xlim(min(0, *errors) if errors else 0, 1.15 * max([1.0, *errors]))
    ax.tick_params(axis="x", labelsize=SMALL_SIZE)
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title("squared error on held-out counts" if kinds else "denoising was not judged", fontsize=TITLE_SIZE)
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
    ax.set_yticks(range(len(measured)), measured, fontsize=LABEL_SIZE)
    ax.set_ylim(len(measured) - 0.5, -0.5)
    ax.tick_params(axis="x", labelsize=SMALL_SIZE)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title("variation kept by denoising", fontsize=TITLE_SIZE)
    return ax
