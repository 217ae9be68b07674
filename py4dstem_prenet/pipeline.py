"""Calibration of a scan: origin, descan and ellipse, and writing of the accepted results.

`Calibrator` holds the sequence `learn`, `locate`, `finish`. `calibrate` runs it on a DataCube, `libertem` on the
workers of LiberTEM, and `live` on a scan that is still running.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .compute import sharing_cores
from .core import CalibrationReport, Flag, SampledScan, Scan, as_scan
from .denoising import denoise
from .descan import fit_origin
from .ellipse import measure_ellipse
from .fits import MAX_KEPT_BYTES, MIN_POOLED_POSITIONS, pooled_positions, worth_keeping
from .io import (
    all_or_none,
    check_output,
    make_provenance,
    read_mask,
    write_ellipse,
    write_fit,
    write_mask,
    write_origin,
    write_pixel_size,
    write_provenance,
)
from .networks import load, verify
from .origin import BeamLocator, Located, check_mask
from .pixel_size import find_standard, measure_pixel_size

NETWORKS = ("center", "ellipse")  # names of the weights that calibration uses


class Calibrator(BeamLocator):
    """The stages of a calibration: `learn`, `locate` and `finish`.

    `learn` and `locate` are those of `BeamLocator`. `finish` decides on the origin, fits the descan, and measures the
    ellipse. Nothing is written.

    Attributes
    ----------
    POOLED_POSITIONS : int
        Minimum number of scan positions that are pooled for the ellipse.

    Examples
    --------
    >>> from py4dstem_prenet.core import as_scan
    >>> scan = as_scan(datacube)  # doctest: +SKIP
    >>> calibrator = Calibrator.learn(scan)  # doctest: +SKIP
    >>> located, kept = calibrator.locate_all(scan)  # doctest: +SKIP
    >>> report = calibrator.finish(scan, located, kept)  # doctest: +SKIP
    """

    POOLED_POSITIONS = MIN_POOLED_POSITIONS

    def finish(self, scan: Scan, located: Located | None, kept: SampledScan | None = None, processed=True,
               progress: bool = True, standard=None) -> CalibrationReport:
        """Decide on the located origin, fit the descan, and measure the ellipse.

        Parameters
        ----------
        scan : Scan
            The scan, or a sample of one.
        located : Located or None
            Positions of all patterns of the scan.
        kept : SampledScan, optional
            Patterns in memory; patterns that are pooled but not kept are read from `scan`.
        processed : numpy.ndarray of bool, shape (Rx * Ry,), or bool, optional
            False for positions that have not been searched; these are not valid.
        progress : bool, optional
            Whether to show a progress bar.
        standard : str, pathlib.Path, py4DSTEM.process.diffraction.Crystal or Standard, optional
            The known crystal that the pixel size is measured from; without one, it is not measured.

        Returns
        -------
        CalibrationReport
            The results; `written` is empty.
        """
        origin = self.origin(scan, located, processed)
        if not origin.found:
            return CalibrationReport(origin, None, None, self.noise)
        fit = fit_origin(origin)
        valid = origin.valid & scan.readable
        if not valid.any():  # no pattern that can be pooled shows a beam
            return CalibrationReport(origin, fit, None, self.noise)
        pooled = pooled_positions(valid.ravel(), scan.scan_shape, self.noise.dose)
        source = kept if kept is not None and kept.holds(pooled) else scan
        radius = origin.radius if np.isfinite(origin.radius) else None
        stop = origin.stop
        noise = self.noise if stop is None else replace(self.noise, bad_pixels=self.noise.bad_pixels | stop)
        ellipse = measure_ellipse(source, fit.qx0, fit.qy0, radius, noise, valid=valid, device=self.device,
                                  progress=progress)
        size = None if standard is None else measure_pixel_size(
            source, fit.qx0, fit.qy0, radius, noise, standard, ellipse, valid, progress=progress)
        return CalibrationReport(origin, fit, ellipse, self.noise, pixel_size=size)

    def positions_to_keep(self, scan_shape):
        """Choose the positions whose patterns are kept in memory for the ellipse, before any is located.

        Parameters
        ----------
        scan_shape : tuple of int
            (Rx, Ry).

        Returns
        -------
        numpy.ndarray of int
            Flat positions, ascending; their patterns take at most `fits.MAX_KEPT_BYTES` as float32.
        """
        keep = pooled_positions(np.ones(scan_shape, bool).ravel(), scan_shape, self.noise.dose)
        count = max(1, MAX_KEPT_BYTES // (4 * self.noise.bad_pixels.size))
        return keep if len(keep) <= count else keep[np.linspace(0, len(keep) - 1, count).astype(int)]


@sharing_cores
def calibrate(datacube, mask=None, device="auto", progress=True, standard=None) -> CalibrationReport:
    """Calibrate a DataCube: measure and fit the origin, measure the ellipse, write what is accepted.

    If the specimen is a known crystal that is named as `standard`, the pixel size is measured, too, and replaces the
    one in the calibration. Otherwise the pixel size is not touched.

    Writes into `datacube.calibration` with `set_origin_meas`, `set_origin` and `set_ellipse`; attaches the maps of
    sigma and the provenance. If no origin is found, nothing is written.

    Parameters
    ----------
    datacube : DataCube
        The scan, in memory or in a file.
    mask : numpy.ndarray of bool, optional
        (Qx, Qy), True where a detector pixel is good, False behind a beam stop. Bad pixels that the noise model finds
        need not be named. The mask is kept in the calibration until another one is given.
    device : str
        "auto", "cpu", "cuda" or "mps".
    progress : bool
        Whether to show progress bars.
    standard : str, pathlib.Path, py4DSTEM.process.diffraction.Crystal or Standard, optional
        The known crystal: a name such as "Au", a CIF file, or a py4DSTEM Crystal.

    Returns
    -------
    CalibrationReport
        What was found and written; `print(report)` shows all of it.

    Raises
    ------
    PrenetError
        The data cannot be calibrated, weights are missing or altered, or the device is not available.

    Examples
    --------
    >>> from py4dstem_prenet.demo import load_scan
    >>> datacube, truth = load_scan()
    >>> report = calibrate(datacube, progress=False)  # doctest: +SKIP
    """
    scan = as_scan(datacube)
    check_mask(scan, mask)
    standard = None if standard is None else find_standard(standard)
    check_networks(device)
    mask = read_mask(datacube) if mask is None else mask
    calibrator = Calibrator.learn(scan, mask, device, progress=progress)
    # The whole file is read once: patterns that are pooled later are kept on the way.
    located, kept = calibrator.locate_all(scan, worth_keeping(scan, calibrator.noise.dose), progress)
    report = calibrator.finish(scan, located, kept, progress=progress, standard=standard)
    settings = {"device": device} | ({} if standard is None else {"standard": standard.name})
    return write_report(datacube, report, mask, settings)


def check_networks(device: str) -> None:
    """Check weights and device before work starts.

    Parameters
    ----------
    device : str
        "auto", "cpu", "cuda" or "mps".

    Raises
    ------
    PrenetError
        Weights are missing or altered, or the device is not available.
    """
    for name in NETWORKS:
        verify(name)
        load(name, device)


def write_report(datacube, report: CalibrationReport, mask=None, settings=None) -> CalibrationReport:
    """Write what is accepted into the calibration of a DataCube, with provenance; nothing if no origin was found.

    Parameters
    ----------
    datacube : DataCube
        The cube.
    report : CalibrationReport
        What was found.
    mask : numpy.ndarray of bool, optional
        (Qx, Qy), the detector mask to keep.
    settings : dict, optional
        What the caller set, for the provenance.

    Returns
    -------
    CalibrationReport
        The report, with `written`.
    """
    origin, fit, ellipse, size = report.origin, report.fit, report.ellipse, report.pixel_size
    if not origin.found:
        return _with_written(report, Flag("nothing_written"))
    report = _with_written(
        report, Flag("origin_written", {"feature": origin.feature}),
        Flag("fit_written", {"model": fit.model}) if fit.accepted else Flag("fit_not_written"),
        Flag("ellipse_written") if ellipse is not None and ellipse.accepted else Flag("ellipse_not_written"),
        *(() if size is None else (Flag("pixel_size_written" if size.accepted else "pixel_size_not_written"),)))
    record = make_provenance(datacube, weights={name: verify(name) for name in NETWORKS}, settings=settings,
                             noise=report.noise, flags=report.flags)
    with all_or_none(datacube):
        write_origin(datacube, origin)
        write_mask(datacube, mask)
        write_fit(datacube, fit)
        if ellipse is not None:
            write_ellipse(datacube, ellipse)
        if size is not None:
            write_pixel_size(datacube, size)
        write_provenance(datacube, record)
    return report


def _with_written(report, *flags):
    return replace(report, written=flags)


def preprocess(datacube, out=None, device="auto", progress=True):
    """Calibrate and denoise a DataCube.

    Parameters
    ----------
    datacube : DataCube
        The scan; the results of the calibration are written into it.
    out : str or path-like, optional
        An EMD file that does not exist yet, to which the result is streamed. In memory by default.
    device : str, optional
        "auto", "cpu", "cuda" or "mps".
    progress : bool, optional
        Whether to show progress bars.

    Returns
    -------
    DataCube
        The denoised scan, with a copy of the calibration.

    Raises
    ------
    PrenetError
        If the data cannot be used, the path exists, or weights are missing.

    Examples
    --------
    >>> from py4dstem_prenet.demo import load_scan
    >>> from py4dstem_prenet.pipeline import preprocess
    >>> datacube, truth = load_scan()
    >>> clean = preprocess(datacube, progress=False)  # doctest: +SKIP
    """
    as_scan(datacube)
    if out is not None:
        check_output(out)
    report = calibrate(datacube, device=device, progress=progress)
    return denoise(datacube, report.noise, out=out, device=device, progress=progress)
