"""Plot patterns, maps and checks in the style of py4DSTEM.

Each function draws into the given matplotlib axes and returns them. Patterns are shown with qx downward and qy to the
right, as in py4DSTEM. No function needs a display; `subplots` alone makes a figure, with pyplot, so that a notebook
shows it.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import PowerNorm, to_rgba
from matplotlib.legend_handler import HandlerPatch
from matplotlib.patches import Annulus, Ellipse as EllipsePatch, Patch
from matplotlib.ticker import MaxNLocator

from ..core import ellipse_axes, ellipse_vector

# points; letters of titles, of the names of axes, and of ticks and legends. The figures are only a few inches wide, so
# that these letters are legible when a figure is shown 400 pixels wide.
TITLE_SIZE, LABEL_SIZE, SMALL_SIZE = 10, 9, 8
MAX_CROSSES = 60  # bad pixels; largest number that is marked one by one
NO_DATA = "#24365c"  # color of pixels without data
MIN_COLOR_RANGE_PX = 1e-3  # pixels; smallest half range of a color scale, so that rounding errors are not visible


def subplots(heights, columns, width, title=""):
    """Make axes in a new pyplot figure, which a notebook shows.

    Parameters
    ----------
    heights : list of float
        Height of each row of axes with its labels, inches.
    columns : int
        Number of axes in a row.
    width : float
        Width of the figure, inches.
    title : str, optional
        Title of the figure.

    Returns
    -------
    ndarray of matplotlib.axes.Axes, shape (rows, columns)
        The axes.
    """
    figure, axes = plt.subplots(len(heights), columns, figsize=(width, sum(heights)), constrained_layout=True,
                                height_ratios=heights)
    figure.suptitle(title, fontsize=TITLE_SIZE)
    return axes


def no_ticks(ax, title):
    """Set a title and remove the ticks.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        The axes.
    title : str
        The title.
    """
    ax.set_title(title, fontsize=TITLE_SIZE)
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
    label_color_bar(ax.figure.colorbar(image, cax=ax.inset_axes((1.04, 0.0, 0.05, 1.0))))


def label_color_bar(bar):
    """Give a color bar few ticks, so that their labels do not overlap.

    Parameters
    ----------
    bar : matplotlib.colorbar.Colorbar
        The color bar. A power law crowds its upper ticks, so it gets fewer.
    """
    bar.ax.yaxis.set_major_locator(MaxNLocator(2 if isinstance(bar.norm, PowerNorm) else 4))
    bar.ax.minorticks_off()
    bar.formatter.set_useOffset(False)
    bar.formatter.set_powerlimits((-3, 5))
    bar.ax.tick_params(labelsize=SMALL_SIZE)
    bar.ax.yaxis.get_offset_text().set_fontsize(SMALL_SIZE)


def legend_below(ax, columns=2, handles=None, gap=0.1):
    """Draw a legend below the axes, if they have labels.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        The axes.
    columns : int, optional
        Columns of the legend.
    handles : list of matplotlib.artist.Artist, optional
        What the legend names; by default everything in the axes that has a label.
    gap : float, optional
        Distance from the axes, as a fraction of their height.
    """
    handles = ax.get_legend_handles_labels()[0] if handles is None else handles
    if handles:
        ax.legend(handles=handles, fontsize=SMALL_SIZE, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -gap),
                  ncols=columns, handlelength=1.5, columnspacing=1.0, handletextpad=0.5, handler_map=round_handles())


def round_handles():
    """Return the handler with which a legend shows an ellipse as an ellipse; by default it shows a rectangle.

    Returns
    -------
    dict
        The argument `handler_map` of a legend.
    """
    def ellipse(width, height, xdescent, ydescent, **others):
        return EllipsePatch((width / 2 - xdescent, height / 2 - ydescent), 1.5 * height, 1.2 * height)

    return {EllipsePatch: HandlerPatch(patch_func=ellipse)}


def name_pattern_axes(ax):
    """Name the axes of a pattern: qx is the row and grows downward, qy is the column.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        The axes.
    """
    ax.set_xlabel("qy →", fontsize=LABEL_SIZE, labelpad=1)
    ax.set_ylabel("← qx", fontsize=LABEL_SIZE, labelpad=1)


def name_scan_axes(ax):
    """Name and number the axes of a map over the scan.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        The axes.
    """
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(3, integer=True))
    ax.tick_params(labelsize=SMALL_SIZE, length=2, pad=1)
    ax.set_xlabel("scan column →", fontsize=LABEL_SIZE, labelpad=1)
    ax.set_ylabel("← scan row", fontsize=LABEL_SIZE, labelpad=1)


def gray_colors():
    """Return the color map of patterns, in which pixels without data are blue.

    Returns
    -------
    matplotlib.colors.Colormap
        The color map.
    """
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
    image = ax.imshow(pattern, cmap=gray_colors(), norm=PowerNorm(power, 0, vmax if vmax > 0 else 1.0))
    add_color_bar(image, ax)
    if origin is not None:
        ax.plot(origin[1], origin[0], "+", color="red", ms=12)
    no_ticks(ax, title)
    name_pattern_axes(ax)
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
    no_ticks(ax, title)
    name_scan_axes(ax)
    if shown.mask.any():
        ax.set_xlabel("scan column →   (gray: no value)", fontsize=LABEL_SIZE, labelpad=1)
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
            ax.text(0.5, 0.5, "no sigma is stored", ha="center", va="center", fontsize=LABEL_SIZE,
                    transform=ax.transAxes)
            no_ticks(ax, f"{name} sigma, px")
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
    for ax, mean, weight, title in zip(axes, (before, after), weights, ("mean as recorded,\nelectrons",
                                                      "mean recentered,\nelectrons"),
                                       strict=True):
        show_pattern(mean, ax, title, power, top, weight=weight)
    return axes


def show_left_out(ax, offset=(0, 0), mask=None, stop=None, bad=None):
    """Mark the pixels that the fits left out (detector mask, beam stop, bad pixels) on a pattern, with a legend.

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
            handles += ax.plot(columns + offset[1], rows + offset[0], "x", color="red", ms=6, mew=1.2,
                               label=f"bad pixels ({len(rows)})")
    ax.set_xlim(limits[0])
    ax.set_ylim(limits[1])
    legend_below(ax, 1, handles)
    return ax


def _shade(ax, region, color, alpha, offset):
    """Color the pixels of a region (Qx, Qy) whose first pixel lies at `offset`."""
    rows, columns = region.shape
    shade = np.zeros((rows, columns, 4))
    shade[region] = to_rgba(color, alpha)
    ax.imshow(shade, extent=(offset[1] - 0.5, offset[1] + columns - 0.5, offset[0] + rows - 0.5, offset[0] - 0.5),
              interpolation="nearest", zorder=2)


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
    draw_ellipse(ax, center, ellipse, radius)
    legend_below(ax)
    return ax


def draw_ellipse(ax, center, ellipse, radius):
    """Draw an ellipse over a pattern, in red.

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
    """
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
