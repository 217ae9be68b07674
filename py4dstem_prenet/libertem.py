"""Calibration on LiberTEM's workers: data sets, clusters, and detectors' streams (LiberTEM-live).

    ctx = libertem.api.Context()
    report = calibrate_dataset(ctx, ctx.load("auto", path), out="calibration.h5")

calibrates a LiberTEM data set on LiberTEM's workers, as `calibrate` does for a DataCube. A stream can be read only
once, so noise and beam are learned from an earlier scan over the same field of view, which may have fewer positions:

    learned = learn(ctx, survey)
    for partial in ctx.run_udf_iter(acquisition, learned.origin_udf(acquisition.shape.nav)):
        origin = learned.origin(partial.buffers[0])    # the positions so far
    report = learned.calibrate(partial.buffers[0], out="calibration.h5")

LiberTEM's (y, x) axes of navigation and signal are (Rx, Ry) and (Qx, Qy) here. Needs the extra `libertem`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from py4DSTEM import DataCube
from scipy.ndimage import map_coordinates

from .core import CalibrationReport, OriginMap, PrenetError, as_scan
from .io import DatasetScan, check_output, save
from .live.udf import OriginUDF, read_result
from .origin import check_mask
from .pipeline import Calibrator, check_networks, write_report


def calibrate_dataset(ctx, dataset, out=None, mask=None, device="auto", progress=False) -> CalibrationReport:
    """Calibrate a LiberTEM data set; the report is that of `calibrate` for the same data.

    LiberTEM's workers read all frames once. About a thousand frames, from which the beam is learned, and those that are
    pooled for the ellipse (some thousand of a large scan) are sent to this process.

    Parameters
    ----------
    ctx : libertem.api.Context
        A synchronous context.
    dataset : libertem.io.dataset.base.DataSet
        A data set with two axes of navigation and two of signal.
    out : path-like, optional
        A new EMD file for the calibration, as `save(data=False)` writes it; `load_calibration` reads it. It is not
        written if no beam was found.
    mask : numpy.ndarray of bool, optional
        (Qx, Qy), True where a detector pixel is good.
    device : str
        "auto", "cpu", "cuda" or "mps", on each worker.
    progress : bool
        Whether to show LiberTEM's progress bars.

    Returns
    -------
    CalibrationReport
        The report.

    Raises
    ------
    PrenetError
        The data cannot be calibrated, the file exists, weights are missing, or the device is not available.
    """
    scan = DatasetScan(ctx, dataset)
    if out is not None:
        check_output(out)
    learned = _learn(scan, mask, device)
    if learned.calibrator.beam is None:
        return _written(learned.calibrator.finish(scan, None, progress=progress), scan, out)
    located, known, kept = read_result(ctx.run_udf(dataset, learned.origin_udf(), progress=progress))
    return _written(learned.calibrator.finish(scan, located, kept, known, progress), scan, out)


def learn(ctx, dataset, mask=None, device="auto") -> Learned:
    """Learn noise and beam from about a thousand frames of a data set.

    Parameters
    ----------
    ctx : libertem.api.Context
        A synchronous context.
    dataset : libertem.io.dataset.base.DataSet
        A data set with two axes of navigation and two of signal.
    mask : numpy.ndarray of bool, optional
        (Qx, Qy), True where a detector pixel is good.
    device : str
        "auto", "cpu", "cuda" or "mps", on each worker.

    Returns
    -------
    Learned
        Noise and beam, for streams over the same field of view.

    Raises
    ------
    PrenetError
        The data cannot be calibrated, or show no direct beam.
    """
    learned = _learn(DatasetScan(ctx, dataset), mask, device)
    if learned.calibrator.beam is None:
        raise PrenetError(f"There is no direct beam to learn from. {learned.calibrator.refusal}")
    return learned


def _learn(scan, mask, device):
    check_mask(scan, mask)
    check_networks(device)
    return Learned(Calibrator.learn(scan, mask, device), scan.scan_shape)


@dataclass(frozen=True)
class Learned:
    """Noise, beam and origins learned from one scan, for later scans over the same field of view.

    Attributes
    ----------
    calibrator : Calibrator
        Noise, beam and a guess of the origins of the scan that it was learned from.
    scan_shape : tuple of int
        (Rx, Ry) of that scan.
    """

    calibrator: Calibrator
    scan_shape: tuple[int, int]

    def guess_at(self, scan_shape) -> np.ndarray:
        """Interpolate the guess to a scan with other positions over the same field of view.

        Parameters
        ----------
        scan_shape : tuple of int
            (Rx, Ry).

        Returns
        -------
        numpy.ndarray
            (Rx, Ry, 2), origins (qx0, qy0), pixels.
        """
        guess = self.calibrator.guess.reshape(*self.scan_shape, 2)
        if tuple(scan_shape) == tuple(self.scan_shape):
            return guess
        at = np.meshgrid(*[((np.arange(n) + 0.5) * m / n - 0.5).clip(0, m - 1)
                           for n, m in zip(scan_shape, self.scan_shape, strict=True)], indexing="ij")
        return np.stack([map_coordinates(guess[..., k], at, order=1) for k in (0, 1)], -1)

    def origin_udf(self, scan_shape=None) -> OriginUDF:
        """Make the UDF that locates the beam; it keeps an even sample of the frames, 512 MB at most, for the ellipse.

        Parameters
        ----------
        scan_shape : tuple of int, optional
            (Rx, Ry) of the data set; that of the scan that was learned from by default.

        Returns
        -------
        OriginUDF
            For `Context.run_udf` or `run_udf_iter`.
        """
        guess = self.guess_at(scan_shape or self.scan_shape)
        count = guess.shape[0] * guess.shape[1]
        keep = self.calibrator.positions_to_keep(guess.shape[:2])
        return OriginUDF.of(guess, np.isin(np.arange(count), keep).reshape(guess.shape[:2]), self.calibrator.beam)

    def origin(self, result) -> OriginMap:
        """Convert the result of the UDF, also a partial one; positions without a frame so far are not valid.

        Parameters
        ----------
        result : dict
            The UDF's result buffers.

        Returns
        -------
        OriginMap
            The measured origin.
        """
        located, known, kept = read_result(result)
        return self._for(result).origin(self._scan(result, kept), located, known)

    def calibrate(self, result, out=None) -> CalibrationReport:
        """Calibrate from the result of the UDF.

        Parameters
        ----------
        result : dict
            The UDF's result buffers.
        out : path-like, optional
            As for `calibrate_dataset`.

        Returns
        -------
        CalibrationReport
            The report.
        """
        if out is not None:
            check_output(out)
        located, known, kept = read_result(result)
        scan = self._scan(result, kept)
        return _written(self._for(result).finish(scan, located, kept, known, progress=False), scan, out)

    def _for(self, result):
        return replace(self.calibrator, guess=self.guess_at(result["qx0"].data.shape).reshape(-1, 2))

    def _scan(self, result, kept):
        """The frames that were kept, or a scan of zeros if none has come."""
        shape = (*result["qx0"].data.shape, *self.calibrator.noise.bad_pixels.shape)
        return as_scan(np.broadcast_to(np.uint8(0), shape)) if kept is None else kept


def _written(report, scan, out):
    cube = DataCube(np.broadcast_to(np.zeros((), scan.dtype), scan.shape))  # a shape, to hold the calibration
    report = write_report(cube, report, check_networks("cpu"))
    if out is not None and report.origin.found:
        save(cube, out, data=False)
    return report
