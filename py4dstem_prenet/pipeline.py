"""Calibration of a scan: origin, descan, ellipse, pixel size and rotation.

`Calibrator` holds the sequence `learn`, `locate`, `finish`. `calibrate` runs it on a DataCube, `libertem` on the
workers of LiberTEM, and `live` on a scan that is still running.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from .choices import AUTOMATIC, Choices, KnownCrystal, chosen, known_crystal, write_report
from .compute import sharing_cores
from .core import CalibrationReport, Flag, SampledScan, Scan, as_scan
from .denoising import denoise
from .ellipse import measure_ellipse
from .fits import MAX_KEPT_BYTES, MIN_POOLED_POSITIONS, pooled_positions, worth_keeping
from .io import STORED_ELLIPSE_SIGMA, check_output, read_mask
from .networks import load, verify
from .origin import BeamLocator, Located, check_mask, keep_locator
from .pixel_size import measure_pixel_size
from .rotation import measure_rotation

NETWORKS = ("center", "ellipse")  # names of the weights that calibration uses


class Calibrator(BeamLocator):
    """The stages of a calibration: `learn`, `locate` and `finish`.

    `learn` and `locate` are those of `BeamLocator`. `finish` decides on the origin, fits the descan, and measures the
    ellipse and, if asked for, the rotation. Nothing is written.

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
               progress: bool = True, rotation: bool = False, crystal: KnownCrystal | None = None,
               choices: Choices = AUTOMATIC) -> CalibrationReport:
        """Decide on the located origin, fit the descan, measure ellipse, pixel size and rotation.

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
        rotation : bool, optional
            Whether to measure the rotation between scan and pattern, for which all patterns are read once more.
        crystal : KnownCrystal, optional
            The crystal that the pixel size is measured from; without one, it is not measured.
        choices : Choices, optional
            What the user decides.

        Returns
        -------
        CalibrationReport
            The results; `written` is empty.
        """
        origin = choices.restricted(self.origin(scan, located, choices.searched(processed)))
        if not origin.found:
            return CalibrationReport(origin, None, None, self.detector)
        fit, descan = choices.fit(origin)
        own = None if choices.ellipse is False else self._ellipse(scan, origin, fit, kept, progress)
        ellipse, transfer = choices.settled(own, descan)
        applied = choices.applied(ellipse, transfer)
        turned = self._rotation(scan, origin, fit, applied, progress) if rotation else None
        size = None if crystal is None else self._pixel_size(scan, origin, fit, applied, kept, crystal, progress)
        return CalibrationReport(origin, fit, ellipse, self.detector, rotation=turned, transfer=transfer,
                                 pixel_size=size)

    def _pooled_source(self, scan, origin, kept):
        """Positions that can be pooled, and a scan that holds their patterns; None if no pattern shows a beam."""
        valid = origin.valid & scan.readable
        if not valid.any():
            return None
        pooled = pooled_positions(valid.ravel(), scan.scan_shape, self.noise.dose)
        return valid, kept if kept is not None and kept.holds(pooled) else scan

    def _pixel_size(self, scan, origin, fit, ellipse, kept, crystal, progress):
        """The pixel size from the rings of a standard; None if no pattern that can be pooled shows a beam."""
        found = self._pooled_source(scan, origin, kept)
        if found is None:
            return None
        valid, source = found
        if ellipse is not None and not np.isfinite(ellipse.covariance).all():  # set by hand, or of a bare calibration
            ellipse = dataclasses.replace(ellipse, covariance=STORED_ELLIPSE_SIGMA**2 * np.eye(2))
        source = source if crystal.region is None else scan  # other patterns are pooled than for the ellipse
        return measure_pixel_size(source, fit.qx0, fit.qy0, _radius(origin), self._noise(origin), crystal.standard,
                                  ellipse, valid, crystal.region, progress, crystal.approximate)

    def _ellipse(self, scan, origin, fit, kept, progress):
        """The ellipse of the pooled patterns; None if no pattern that can be pooled shows a beam."""
        found = self._pooled_source(scan, origin, kept)
        if found is None:
            return None
        valid, source = found
        return measure_ellipse(source, fit.qx0, fit.qy0, _radius(origin), self._noise(origin), valid=valid,
                               device=self.device, progress=progress)

    def _rotation(self, scan, origin, fit, ellipse, progress):
        """The rotation between scan and pattern; None if no pattern shows a beam."""
        valid = origin.valid & scan.readable
        if not valid.any():
            return None
        round_ = ellipse is None or not ellipse.accepted
        return measure_rotation(scan, fit.qx0, fit.qy0, _radius(origin), self._noise(origin), valid=valid,
                                ellipse=None if round_ else ellipse.vector, progress=progress)

    def _noise(self, origin):
        """The noise model; a beam stop that was found counts as bad pixels."""
        if origin.stop is None:
            return self.noise
        return dataclasses.replace(self.noise, bad_pixels=self.noise.bad_pixels | origin.stop)

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


def _radius(origin):
    """Radius of the direct disk, pixels; None if it is hidden."""
    return origin.radius if np.isfinite(origin.radius) else None


@sharing_cores
def calibrate(datacube, mask=None, device="auto", progress=True, *, center=None, radius=None, model="auto",
              region=None, ellipse=True, standard=None, approximate=None, standard_region=None, rotation=False,
              like=None, transfer=None, binning=None, replace=False, write=True) -> CalibrationReport:
    """Calibrate a DataCube: measure and fit the origin, measure the ellipse, and write accepted results.

    If the specimen is a known crystal, named as `standard`, the pixel size is also measured and replaces the one in the
    calibration. Otherwise the pixel size does not change.

    Writes into `datacube.calibration` with `set_origin_meas`, `set_origin`, `set_ellipse` and, if pixel size or
    rotation are measured, `set_Q_pixel_size` and `set_QR_rotflip_degrees`; attaches the maps of sigma and the
    provenance. If no origin is found, nothing is written. `datacube.prenet.undo()` restores the previous calibration.
    An origin or ellipse that was set by hand or by another program is kept, and the report compares it with the
    measured one.

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
    center : tuple of float or of array_like, optional
        Approximate position (qx, qy) of the direct beam, row and column in pixels: two numbers, or two maps (Rx, Ry).
        The search starts there instead of in the whole pattern, and the fits refine it. The origin is refused if no
        disk lies within 1.5 disk radii of this position. By default, the search starts at the origin in the calibration
        if that origin is kept.
    radius : float, optional
        Approximate radius of the direct disk in pixels, within about 30 %; its fit starts there.
    model : {"auto", "constant", "plane", "parabola", "spline"}, optional
        Surface of the descan; "auto" selects it by cross-validation.
    region : tuple of slice or numpy.ndarray of bool, shape (Rx, Ry), optional
        Scan positions from which descan and ellipse are determined; the surface covers the whole scan. The measured
        origin is masked outside of it.
    ellipse : bool or tuple of float, optional
        True measures the ellipse, False does not change it. (a, b, theta) sets this ellipse, and the report tests it
        against the scan; semi-axes in any unit, theta in radians from +qx toward +qy.
    standard : str, pathlib.Path, py4DSTEM.process.diffraction.Crystal or Standard, optional
        The specimen, if it is a known crystal: a name such as "Au", a CIF file, or a py4DSTEM Crystal.
    approximate : float, optional
        Pixel size of the standard, 1/angstrom, known within 10 %, for example from the camera length. A single
        crystal needs it, and then determines the ellipse as well; the name of the crystal is not tested.
    standard_region : tuple of slice or numpy.ndarray of bool, shape (Rx, Ry), optional
        Scan positions that show the standard, such as an unstrained substrate; by default the whole scan. Origin,
        descan and the ellipse of rings or of the direct beam are still measured in the whole scan, or in `region`.
    rotation : bool
        Whether to also measure rotation and flip between scan and pattern.
    like : DataCube, str or path-like, optional
        A calibrated standard, recorded with the same microscope and camera length, or its file. Its ellipse, pixel size
        and rotation (those that it holds) are carried over to this scan unless the scan contradicts them.
    transfer : str or iterable of str, optional
        Quantities to carry over: one or more of "ellipse", "pixel_size", "rotation" (by default these three) and
        "descan". The descan depends on the scan settings: take it from a scan with the same settings, for example of
        vacuum.
    binning : float, optional
        Number of pixels of the standard along one side of a pixel of this scan. It is not needed after `crop_Q` and
        `bin_Q` of this package, which record it.
    replace : bool, optional
        Whether to replace an origin or ellipse that was set by hand or by another program.
    write : bool, optional
        False returns the report and changes nothing.

    Returns
    -------
    CalibrationReport
        Results, and the entries that were written; `print(report)` shows them.

    Raises
    ------
    PrenetError
        The data cannot be calibrated, an argument is wrong, weights are missing or altered, or the device is not
        available.

    Examples
    --------
    >>> from py4dstem_prenet.demo import load_scan
    >>> datacube, truth = load_scan()
    >>> report = calibrate(datacube, progress=False)  # doctest: +SKIP
    >>> report = calibrate(datacube, center=(61, 64), model="plane", ellipse=False)  # doctest: +SKIP
    >>> report = calibrate(datacube, like="gold_calibrated.h5")  # doctest: +SKIP
    """
    scan = as_scan(datacube)
    check_mask(scan, mask)
    choices = chosen(datacube, scan, center, radius, model, region, ellipse, replace, like, transfer, binning)
    crystal = known_crystal(standard, approximate, standard_region, scan.scan_shape)
    weights = check_networks(device)
    mask = read_mask(datacube) if mask is None else mask
    calibrator = Calibrator.learn(scan, mask, device, progress=progress, given=choices.given)
    if choices.given is None:
        keep_locator(datacube, scan, mask, calibrator)
    # The whole file is read once: patterns that are pooled later are kept on the way.
    located, kept = calibrator.locate_all(scan, worth_keeping(scan, calibrator.noise.dose), progress)
    report = calibrator.finish(scan, located, kept, progress=progress, rotation=rotation, crystal=crystal,
                               choices=choices)
    if not write:
        return dataclasses.replace(report, written=(Flag("not_written_as_asked"),))
    settings = {"device": device} | ({} if crystal is None else crystal.settings) | choices.settings
    return write_report(datacube, report, weights, mask, settings, choices)


def check_networks(device: str) -> dict[str, str]:
    """Check weights and device before work starts.

    Parameters
    ----------
    device : str
        "auto", "cpu", "cuda" or "mps".

    Returns
    -------
    dict
        SHA-256 of each weights file that calibration uses, by name.

    Raises
    ------
    PrenetError
        Weights are missing or altered, or the device is not available.
    """
    weights = {name: verify(name) for name in NETWORKS}
    for name in NETWORKS:
        load(name, device)
    return weights


def preprocess(datacube, out=None, device="auto", progress=True):
    """Calibrate and denoise a DataCube.

    Parameters
    ----------
    datacube : DataCube
        The scan; the results of the calibration are written into it.
    out : str or path-like, optional
        An EMD file that does not exist yet, to which the result is streamed. By default, the result is kept in memory.
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
