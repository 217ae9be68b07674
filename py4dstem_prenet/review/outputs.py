"""The review of a scan as a web page, and the maps of its calibration as a figure."""

from __future__ import annotations

from math import ceil

import numpy as np

from ..fits import pool
from ..io import (
    check_output,
    new_file,
    read_fitted_origin,
    read_mask,
    read_origin,
    read_pixel_size,
    read_rotation,
    read_stop,
    recorded_ellipse,
    sigma_is_current,
)
from ..report import (
    Verdict,
    draw_evidence,
    draw_quantities,
    page_html,
    show_left_out,
    show_origin,
    show_pattern,
    show_sigma,
    stored_ellipse,
    subplots,
)
from . import mean_as_recorded, name_of, noise_with_stop, review

HTML_ENDINGS = (".html", ".htm")


def report(datacube, path, device="auto", progress=True, fast=False) -> list[Verdict]:
    """Review a calibrated scan and write the result as an HTML page. The DataCube is not changed.

    Parameters
    ----------
    datacube : DataCube
        The scan, with an origin in its calibration, measured by any program.
    path : str or path-like
        An .html file that does not exist yet. If writing fails, no file is left.
    device : str, optional
        "auto", "cpu", "cuda" or "mps".
    progress : bool, optional
        Whether to show a progress bar.
    fast : bool, optional
        Whether to leave out the steps that take most of the time: denoising, and the repetition of the calibration on
        halves of the electrons.

    Returns
    -------
    list of Verdict
        The verdicts on the page.

    Raises
    ------
    PrenetError
        If the path exists or the calibration has no origin.

    Examples
    --------
    >>> from py4dstem_prenet.demo import load_scan
    >>> from py4dstem_prenet.review import report
    >>> datacube, truth = load_scan()
    >>> calibration = datacube.prenet.calibrate(progress=False)  # doctest: +SKIP
    >>> verdicts = report(datacube, "report.html", progress=False)  # doctest: +SKIP
    """
    path = check_output(path, HTML_ENDINGS)
    result = review(datacube, device, progress, fast)
    with new_file(path, HTML_ENDINGS) as partial:
        partial.write_text(page_html(result), encoding="utf-8")
    return result.verdicts


def show(datacube, axes=None):
    """Draw the calibration of a scan and the evidence for it.

    The first two rows show the origin: measured, fitted, and residual. The third one shows its sigma along each axis,
    and the mean pattern with detector mask, beam stop and bad pixels. The fourth one shows the recentered mean and the
    evidence for the ellipse: rings as recorded and straightened, or the edge of the direct beam. If the calibration
    holds a measured pixel size or rotation, further rows show the rings or the deflection from which it was measured.

    Parameters
    ----------
    datacube : DataCube
        The scan, with an origin in its calibration.
    axes : numpy.ndarray of matplotlib.axes.Axes, shape (rows, 3), optional
        Axes to draw into, in four to six rows; those of a new figure by default.

    Returns
    -------
    numpy.ndarray of matplotlib.axes.Axes, shape (rows, 3)
        The axes.

    Raises
    ------
    PrenetError
        If the calibration has no origin, or its origin belongs to other data.
    """
    qx0, qy0, radius = read_fitted_origin(datacube)
    measured = read_origin(datacube) if datacube.calibration.get_origin_meas() is not None else None
    noise, used = noise_with_stop(datacube), np.stack([qx0, qy0])
    valid = None if measured is None else measured.valid
    still, offset = mean_as_recorded(datacube, used, noise)
    centered = pool(datacube, *np.rint(used), noise, valid=valid)
    pooled = pool(datacube, *used, noise, valid=valid)
    size, turned = read_pixel_size(datacube), read_rotation(datacube)
    if axes is None:
        more = 0 if size is None else 2
        more += 0 if turned is None else 1 if turned.deflection is None else 2
        of_map = 0.8 + 1.9 * float(np.clip(qx0.shape[0] / qx0.shape[1], 0.3, 1.0))  # inches, with title and label
        axes = subplots([of_map, of_map, 2.8, 2.9, *[2.8] * ceil(more / 3)], 3, 8.4, name_of(datacube))
    nothing = np.full_like(qx0, np.nan)
    if measured is None:  # set by hand, without a measurement
        show_origin((qx0, qy0), (qx0, qy0), axes[:2])
        show_sigma(nothing, nothing, np.ones(qx0.shape, bool), axes[2, :2])
    else:
        show_origin((measured.qx0, measured.qy0), (qx0, qy0), axes[:2], valid)
        sigmas = (measured.sigma_qx0, measured.sigma_qy0) if sigma_is_current(datacube) else (nothing, nothing)
        show_sigma(*sigmas, valid, axes[2, :2])
    show_pattern(still.mean, axes[2, 2], "mean as recorded,\nelectrons", 0.25, weight=still.weight)
    show_left_out(axes[2, 2], offset, read_mask(datacube), read_stop(datacube), noise.bad_pixels)
    ellipse = stored_ellipse(datacube.calibration)
    draw_evidence(pooled, centered, float(radius), ellipse, recorded_ellipse(datacube)[1], axes[3])
    if len(axes) > 4:
        draw_quantities(size, turned, axes[4:].ravel())
    return axes
