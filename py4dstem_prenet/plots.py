"""Figures in py4DSTEM's look. Every function draws into matplotlib axes and returns them.

Patterns are shown with qx downward and qy to the right, as py4DSTEM shows them.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Ellipse as EllipsePatch

from .polar import to_polar


def _bare(ax, title):
    ax.set_title(title, fontsize=10)
    ax.set_xticks([])
    ax.set_yticks([])


def show_pattern(pattern, ax, title="", power=0.4, vmax=None, origin=None):
    """One pattern, its intensity raised to `power`. origin: (qx0, qy0) to mark. Returns the axes."""
    pattern = np.clip(pattern, 0, None) ** power
    ax.imshow(pattern, cmap="gray", vmin=0, vmax=None if vmax is None else vmax**power)
    if origin is not None:
        ax.plot(origin[1], origin[0], "+", color="red", ms=12)
    _bare(ax, title)
    return ax


def show_map(values, ax, title="", valid=None, symmetric=True, center=None):
    """A map over the scan (Rx, Ry) with its color bar, positions that are not valid gray. Returns the axes.

    symmetric: RdBu_r about `center` (the median by default), as py4DSTEM shows origins; else viridis.
    """
    shown = np.ma.masked_invalid(values if valid is None else np.where(valid, values, np.nan))
    settings = {"cmap": plt.get_cmap("RdBu_r" if symmetric else "viridis").with_extremes(bad="0.5")}
    if symmetric and shown.count():
        center = float(np.ma.median(shown)) if center is None else center
        reach = float(np.percentile(np.abs(shown.compressed() - center), 99)) or 1e-6
        settings |= {"vmin": center - reach, "vmax": center + reach}
    image = ax.imshow(shown, **settings)
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.04)
    bar.ax.tick_params(labelsize=7)
    bar.ax.yaxis.get_offset_text().set_fontsize(7)
    _bare(ax, title)
    return ax


def show_origin(measured, fitted, axes, valid=None):
    """Measured, fitted and residual origin, x above y, into axes (2, 3). measured, fitted: (qx0, qy0). Returns them."""
    for row, name in enumerate(("qx0", "qy0")):
        show_map(measured[row], axes[row, 0], f"{name} measured, px", valid)
        show_map(fitted[row], axes[row, 1], f"{name} fitted, px")
        show_map(np.subtract(measured[row], fitted[row]), axes[row, 2], f"{name} residual, px", valid, center=0.0)
    return axes


def show_ellipse(pattern, center, ellipse, radius, ax, title="", width=0.12, power=0.4):
    """The ellipse (a, b, theta) of mean radius `radius` over a pattern, red in a yellow annulus. Returns the axes."""
    show_pattern(pattern, ax, title, power)
    a, b, theta = ellipse
    for scale, color in ((1 - width, "yellow"), (1 + width, "yellow"), (1, "red")):
        # A patch has its width along the columns and its angle from them toward the rows.
        size = 2 * radius * scale / np.sqrt(a * b)
        ax.add_patch(EllipsePatch((center[1], center[0]), size * b, size * a, angle=-np.degrees(theta), fill=False,
                                  ec=color, lw=1.2))
    return ax


def show_polar(pattern, center, ax, title="", vector=(0.0, 0.0), weight=None, power=0.4, edge=None):
    """The polar transform with an ellipse (vector) taken out: rings become straight lines. Returns the axes.

    edge: radius of the direct beam, px, to show the surroundings of its edge alone, the edge in red.
    """
    if edge:
        radii = _around(edge)
    else:
        outer = min(*center, *(n - 1 - c for n, c in zip(pattern.shape, center, strict=True)))
        radii = np.arange(2.0, max(outer, 8.0), 0.5)
    polar, seen = to_polar(pattern.astype(np.float32), center, radii, 180, weight=weight, vector=vector)
    shown = np.ma.masked_where(seen <= 0, np.clip(polar, 0, None) ** power)
    ax.imshow(shown, aspect="auto", cmap="gray", extent=(radii[0], radii[-1], 360, 0))
    if edge:
        ax.plot(_half(polar, radii), np.arange(180) * 2.0, color="red", lw=1.2)
    ax.set_xlabel("radius, px", fontsize=8)
    ax.set_ylabel("azimuth from +qx, degrees", fontsize=8)
    ax.set_title(title, fontsize=10)
    return ax


def show_edge(pattern, center, radius, ax, vector=None, weight=None):
    """Where the direct beam falls to half its intensity, against azimuth: as recorded, and with an ellipse (vector)
    taken out, where a round aperture is a straight line. Returns the axes.
    """
    for taken_out, color, label in (((0.0, 0.0), "red", "as recorded"), (vector, "black", "ellipse taken out")):
        if taken_out is not None:
            polar, _ = to_polar(pattern.astype(np.float32), center, _around(radius), 180, weight=weight,
                                vector=taken_out)
            ax.plot(np.arange(180) * 2.0, _half(polar, _around(radius)), color=color, lw=1.2, label=label)
    ax.set_xlabel("azimuth from +qx, degrees", fontsize=8)
    ax.legend(fontsize=7)
    ax.set_title("edge of the direct beam, px", fontsize=10)
    return ax


def _around(radius):
    return np.linspace(0.5 * radius, 1.5 * radius, 200)


def _half(polar, radii):
    """Radius at which each azimuth of a polar map (n_phi, n_r) first falls below half the disk's intensity."""
    level = np.median(polar[:, :len(radii) // 4]) / 2
    return radii[np.argmax(polar < level, axis=1)]


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


def show(datacube):
    """What a cube's calibration holds and does: origin maps, the mean pattern before and after, rings before and after.

    Returns the figure. Raises PrenetError where the cube has no origin.
    """
    from .emd import read_fitted_origin, read_origin
    from .noise import estimate_noise
    from .polar import ellipse_vector
    from .pooling import pool

    measured = read_origin(datacube)
    qx0, qy0, radius = read_fitted_origin(datacube)
    noise = estimate_noise(datacube)
    pooled = pool(datacube, qx0, qy0, noise, valid=measured.valid)
    still = pool(datacube, np.full_like(qx0, qx0.mean()), np.full_like(qy0, qy0.mean()), noise)
    ellipse = datacube.calibration.get_ellipse()
    figure, axes = plt.subplots(3, 4, figsize=(13, 9.4), constrained_layout=True)
    show_origin((measured.qx0, measured.qy0), (qx0, qy0), axes[:2, :3], measured.valid)
    sigma = np.hypot(measured.sigma_qx0, measured.sigma_qy0)
    show_map(sigma, axes[0, 3], "sigma, px; gray: no beam found", measured.valid, symmetric=False)
    show_pattern(still.mean, axes[2, 0], "mean pattern, as recorded")
    outer = min(*pooled.center, *(n - 1 - c for n, c in zip(pooled.mean.shape, pooled.center, strict=True)))
    if ellipse is None or ellipse[0] is None:
        show_pattern(pooled.mean, axes[2, 1], "recentered; no ellipse was written")
        vector = np.zeros(2)
    else:
        show_ellipse(pooled.mean, pooled.center, ellipse, max(0.6 * outer, 1.5 * np.nan_to_num(radius)), axes[2, 1],
                     f"recentered; a/b {ellipse[0] / ellipse[1]:.4f}")
        vector = ellipse_vector(*ellipse)
    if np.isfinite(radius):
        show_edge(pooled.mean, pooled.center, radius, axes[1, 3], vector if vector.any() else None, pooled.weight)
    else:
        axes[1, 3].set_axis_off()
    show_polar(pooled.mean, pooled.center, axes[2, 2], "polar, ellipse in", weight=pooled.weight)
    show_polar(pooled.mean, pooled.center, axes[2, 3], "polar, ellipse taken out", vector, pooled.weight)
    return figure
