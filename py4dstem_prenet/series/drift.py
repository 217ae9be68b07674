"""Figures of the drift of the microscope over a series of files."""

from __future__ import annotations

from datetime import datetime

import numpy as np

from ..report import LABEL_SIZE, Panels, page_style

MIN_PLOTTED_FILES = 2  # calibrated files; fewest for which a drift is plotted


def drift_panels(outcomes) -> list:
    """Draw origin, descan, ellipse and pixel size over the files of a series.

    Parameters
    ----------
    outcomes : sequence of FileOutcome
        The files, in their order.

    Returns
    -------
    list of dict
        Rows of figures for the page (`Panels.rows`); empty with fewer than two calibrated files.
    """
    rows = [outcome.row for outcome in outcomes if outcome.saved]
    if len(rows) < MIN_PLOTTED_FILES:
        return []
    with page_style():
        return _drawn(rows, *_abscissa(outcomes))


def _drawn(rows, at, label):
    values = {name: np.array([np.nan if row.get(name) is None else row[name] for row in rows], float)
              for name in ("qx0_px", "qy0_px", "sigma_px", "span_qx_px", "span_qy_px", "own_ratio",
                           "own_theta_rad", "own_sigma", "pixel_size")}
    panels = Panels("drift")
    origin, descan = panels.axes("origin minus its mean over the series, px",
                                 "descan, peak to peak, px", size=(4.2, 2.4))[0]
    for ax, names in ((origin, ("qx0_px", "qy0_px")), (descan, ("span_qx_px", "span_qy_px"))):
        for name, text, style in zip(names, ("qx", "qy"), ("o-", "s--"), strict=True):
            plotted = values[name] - (np.nanmean(values[name]) if ax is origin else 0)
            ax.plot(at, plotted, style, markersize=4, linewidth=1, label=text)
    captions = {
        "own_ratio": "ellipse of each scan: eps cos 2 theta, eps sin 2 theta (eps = a/b - 1); error bars: one sigma",
        "pixel_size": "pixel size minus its mean, %"}
    drawn = [name for name in captions if np.isfinite(values[name]).sum() >= MIN_PLOTTED_FILES
             and np.nanmax(values[name]) > np.nanmin(values[name])]  # values carried over from a standard are all equal
    below = panels.axes(*(captions[name] for name in drawn), size=(4.2, 2.4))[0] if drawn else ()
    for name, ax in zip(drawn, below, strict=True):
        if name == "own_ratio":
            _draw_ellipse(ax, at, values)
        else:
            ax.plot(at, 100 * (values[name] / np.nanmean(values[name]) - 1), "o-", markersize=4, linewidth=1)
        _finish(ax, label)
    for ax in (origin, descan):
        _finish(ax, label)
    return panels.rows()


def _abscissa(outcomes):
    """Hours since the first file if the acquisition time of all files is known; otherwise numbers in the series."""
    saved = [(number, outcome.row) for number, outcome in enumerate(outcomes, 1) if outcome.saved]
    dates = [row.get("date") for _, row in saved]
    if all(dates) and len(set(dates)) == len(dates):
        times = [datetime.fromisoformat(date) for date in dates]
        return np.array([(time - times[0]).total_seconds() / 3600 for time in times]), "hours since the first file"
    return np.array([number for number, _ in saved]), "file"


def _draw_ellipse(ax, at, values):
    eps, theta = values["own_ratio"] - 1, values["own_theta_rad"]
    bars = np.nan_to_num(values["own_sigma"])
    for component, text, style in ((np.cos(2 * theta), "cos", "o-"), (np.sin(2 * theta), "sin", "s--")):
        ax.errorbar(at, eps * component, bars, fmt=style, markersize=4, linewidth=1, capsize=2, label=text)


def _finish(ax, label):
    ax.set_xlabel(label)
    ax.grid(alpha=0.25)
    if label == "file":
        ax.xaxis.get_major_locator().set_params(integer=True)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(fontsize=LABEL_SIZE, frameon=False)
