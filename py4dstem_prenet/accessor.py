"""`DataCube.prenet`: methods that call the functions of this package and write their results into the DataCube.

Importing this package does not import py4DSTEM, which takes seconds that training, simulation and `prenet --help` do
not need: `register` adds the attribute at once if py4DSTEM is loaded, otherwise when it is (`wrapt`'s import hook).
"""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING

from .core import PrenetError

if TYPE_CHECKING:
    from py4DSTEM import DataCube, Probe
    from py4DSTEM.braggvectors import BraggVectors

    from .core import (
        CalibrationCheck,
        CalibrationReport,
        DenoisingCheck,
        Ellipse,
        EllipseCheck,
        EllipseMap,
        FinetuneResult,
        OriginCheck,
        OriginFit,
        OriginMap,
        PixelSize,
        Rotation,
    )

_NAME = "prenet"
_HOST = "py4DSTEM.datacube.datacube"  # the module that defines DataCube


class PrenetAccessor:
    """The functions of this package for one DataCube, as `datacube.prenet`.

    The results are stored in the DataCube: the accessor itself holds none.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The scan, (Rx, Ry, Qx, Qy).

    Examples
    --------
    >>> import py4DSTEM, py4dstem_prenet
    >>> datacube = py4dstem_prenet.open("scan.h5")  # doctest: +SKIP
    >>> report = datacube.prenet.calibrate()  # doctest: +SKIP
    >>> datacube.prenet.save("scan_calibrated.h5")  # doctest: +SKIP
    """

    def __init__(self, datacube):
        self._datacube = datacube

    # --- calibration --------------------------------------------------------------------------------------------
    def calibrate(self, mask=None, device="auto", progress=True, *, center=None, radius=None, model="auto",
                  region=None, ellipse=True, standard=None, rotation=False, like=None, transfer=None, binning=None,
                  replace=False, write=True) -> CalibrationReport:
        """Measure and fit the origin, measure the ellipse, and write what is accepted into the calibration.

        All arguments can be left out. An origin or ellipse that was set by hand or by another program is kept, and the
        report compares it with the measured one. `undo` restores what was in the calibration before.

        Parameters
        ----------
        mask : ndarray of bool, shape (Qx, Qy), optional
            True where a detector pixel is good, False behind a beam stop, for example. The mask is stored in the
            calibration and used by the other methods.
        device : {"auto", "cpu", "cuda", "mps"}, optional
            Where the networks run; "auto" takes a GPU if there is one.
        progress : bool, optional
            Whether to show progress bars.
        center : tuple of float or of ndarray, shape (Rx, Ry), optional
            Place (qx, qy) of the direct beam, row and column in pixels. The search starts there instead of in the whole
            pattern, and the fits refine it; if no disk is found within 1.5 of its radii of this place, the origin
            is refused.
        radius : float, optional
            Radius of the direct disk in pixels, right within some 30 %; its fit starts there.
        model : {"auto", "constant", "plane", "parabola", "spline"}, optional
            Surface of the descan; "auto" selects it by cross-validation.
        region : tuple of two slices, or ndarray of bool, shape (Rx, Ry), optional
            Scan positions from which descan and ellipse are determined; the surface covers the whole scan. The measured
            origin is masked outside of it.
        ellipse : bool or tuple of float, optional
            False leaves the ellipse as it is. (a, b, theta) is set as it is given, and tested against the scan; theta
            in radians from +qx toward +qy.
        standard : str, pathlib.Path or py4DSTEM.process.diffraction.Crystal, optional
            The known crystal that the specimen is: a name such as "Au", a CIF file, or a Crystal. The pixel size is
            then measured and replaces the one in the calibration; without it, the pixel size is not touched.
        rotation : bool, optional
            Whether to measure rotation and flip between scan and pattern, too.
        like : DataCube, str or pathlib.Path, optional
            A calibrated standard of the same microscope and camera length, or its file, also one of a calibration that
            py4DSTEM saved alone. Ellipse, pixel size and rotation are carried over from it, as far as it has them, if
            what this scan shows does not contradict.
        transfer : str or tuple of str, optional
            What is carried over: of "ellipse", "pixel_size", "rotation", and "descan" for scans with the same scan
            settings, such as one of vacuum.
        binning : float, optional
            Pixels of the standard along the side of a pixel of this scan. It is known for patterns that `crop_Q` and
            `bin_Q` made.
        replace : bool, optional
            Whether an origin and ellipse that others set are replaced.
        write : bool, optional
            False returns the report and changes nothing.

        Returns
        -------
        CalibrationReport
            Origin, descan fit, ellipse, noise model, and the pixel size if a standard is named. `print(report)` shows
            a summary.

        Raises
        ------
        PrenetError
            If the data cannot be used, or an argument is wrong.

        Examples
        --------
        >>> from py4dstem_prenet.demo import load_scan
        >>> datacube, truth = load_scan()
        >>> report = datacube.prenet.calibrate(progress=False)  # doctest: +SKIP
        >>> report.ellipse.a / report.ellipse.b  # doctest: +SKIP
        1.0495
        >>> report = datacube.prenet.calibrate(center=(61, 64), model="plane", ellipse=False)  # doctest: +SKIP
        >>> report = datacube.prenet.calibrate(like="gold_calibrated.h5")  # doctest: +SKIP
        """
        from . import calibrate

        return calibrate(self._datacube, mask=mask, device=device, progress=progress, center=center, radius=radius,
                         model=model, region=region, ellipse=ellipse, standard=standard, rotation=rotation, like=like,
                         transfer=transfer, binning=binning, replace=replace, write=write)

    def undo(self) -> tuple[str, ...]:
        """Restore what was in the calibration before this package wrote into it the last time.

        This also works after the cube was saved and read again. Entries that were changed since, by hand for example,
        are left as they are.

        Returns
        -------
        tuple of str
            Names of the entries of the calibration that were restored.

        Raises
        ------
        PrenetError
            If there is nothing to undo.

        Examples
        --------
        >>> report = datacube.prenet.calibrate()  # doctest: +SKIP
        >>> restored = datacube.prenet.undo()  # doctest: +SKIP
        """
        from . import undo

        return undo(self._datacube)

    def measure_origin(self, mask=None, device="auto", progress=True, center=None, radius=None) -> OriginMap:
        """Measure the position of the direct beam in every pattern, and write it with `set_origin_meas`.

        Parameters
        ----------
        mask : ndarray of bool, shape (Qx, Qy), optional
            True where a detector pixel is good. The mask is stored in the calibration.
        device : {"auto", "cpu", "cuda", "mps"}, optional
            Where the network runs.
        progress : bool, optional
            Whether to show a progress bar.
        center : tuple of float or of ndarray, shape (Rx, Ry), optional
            Place (qx, qy) of the direct beam in pixels, where the search starts.
        radius : float, optional
            Radius of the direct disk in pixels, where its fit starts.

        Returns
        -------
        OriginMap
            Positions and their uncertainties. If its `found` is False, nothing was written.

        Raises
        ------
        PrenetError
            If the data cannot be used.

        Examples
        --------
        >>> origin = datacube.prenet.measure_origin()  # doctest: +SKIP
        >>> origin.qx0.shape == datacube.Rshape  # doctest: +SKIP
        True
        """
        from . import measure_origin
        from .io import read_mask, undoable, write_mask, write_origin

        mask = read_mask(self._datacube) if mask is None else mask
        result = measure_origin(self._datacube, mask=mask, device=device, progress=progress, center=center,
                                radius=radius)
        with undoable(self._datacube):
            if write_origin(self._datacube, result):
                write_mask(self._datacube, mask)
        return result

    def fit_origin(self, model="auto") -> OriginFit:
        """Fit a smooth surface to the measured origin, and write it with `set_origin` if it is accepted.

        Parameters
        ----------
        model : {"auto", "constant", "plane", "parabola", "spline"}, optional
            The surface; "auto" selects it by cross-validation.

        Returns
        -------
        OriginFit
            The fitted origin, its residuals, and whether it was accepted.

        Raises
        ------
        PrenetError
            If no origin was measured, or the model is unknown.

        Examples
        --------
        >>> import numpy as np
        >>> from py4dstem_prenet.demo import load_scan
        >>> datacube, truth = load_scan()
        >>> datacube.calibration.set_origin_meas((truth["qx0"], truth["qy0"]))
        >>> fit = datacube.prenet.fit_origin("plane")
        >>> fit.model, fit.qx0.shape
        ('plane', (20, 20))
        """
        from . import fit_origin
        from .io import read_origin, undoable, write_fit

        result = fit_origin(read_origin(self._datacube), model)
        with undoable(self._datacube):
            write_fit(self._datacube, result, uncertainty=result.decision.numbers.get("uncertainty"))
        return result

    def measure_ellipse(self, region=None, device="auto", progress=True, write=None) -> Ellipse:
        """Measure the elliptical distortion about the origin in the calibration, set by any program.

        An accepted ellipse of the whole scan is written with `set_ellipse`; `undo` restores the one that was there, and
        `datacube.calibration.set_ellipse((None, None, None))` removes it. If the calibration holds no radius of the
        direct disk, it is measured about the origin.

        Parameters
        ----------
        region : tuple of two slices, or ndarray of bool, shape (Rx, Ry), optional
            The scan positions to use; by default all.
        device : {"auto", "cpu", "cuda", "mps"}, optional
            Where the network runs.
        progress : bool, optional
            Whether to show a progress bar.
        write : bool, optional
            Whether an accepted ellipse is written; by default only that of the whole scan.

        Returns
        -------
        Ellipse
            Axes, angle, covariance, and whether it was accepted.

        Raises
        ------
        PrenetError
            If no origin is set, or the region contains no position.

        Examples
        --------
        >>> ellipse = datacube.prenet.measure_ellipse((slice(0, 10), slice(0, 10)))  # doctest: +SKIP
        """
        from . import measure_ellipse
        from .io import beam_is_hidden, noise_of, read_fitted_origin, read_valid, undoable, write_ellipse

        qx0, qy0, radius = read_fitted_origin(self._datacube)
        radius = None if beam_is_hidden(self._datacube) else radius
        result = measure_ellipse(self._datacube, qx0, qy0, radius, noise_of(self._datacube),
                                 valid=read_valid(self._datacube), region=region, device=device, progress=progress)
        if write or (write is None and region is None):
            with undoable(self._datacube):
                write_ellipse(self._datacube, result, covariance=result.covariance, used=result.used,
                              leading=result.leading)
        return result

    def measure_pixel_size(self, standard, region=None, progress=True) -> PixelSize:
        """Measure the pixel size from a known crystal, and write it with `set_Q_pixel_size` if it is accepted.

        The pixel size is written such that py4DSTEM returns 1/angstrom with the ellipse that is in the calibration.
        With a region, nothing is written.

        Parameters
        ----------
        standard : str, pathlib.Path or py4DSTEM.process.diffraction.Crystal
            The crystal: a name such as "Au", a CIF file, or a Crystal.
        region : tuple of two slices, or ndarray of bool, shape (Rx, Ry), optional
            The scan positions to use; by default all.
        progress : bool, optional
            Whether to show a progress bar.

        Returns
        -------
        PixelSize
            The pixel size, its uncertainty, the agreement of the rings, and whether it was accepted.

        Raises
        ------
        PrenetError
            If no origin is set, or the standard is unknown.

        Examples
        --------
        >>> size = datacube.prenet.measure_pixel_size("Au")  # doctest: +SKIP
        >>> size.value, size.sigma  # doctest: +SKIP
        (0.02001, 2e-05)
        """
        from . import measure_pixel_size
        from .io import noise_of, read_ellipse, read_fitted_origin, read_valid, undoable, write_pixel_size

        qx0, qy0, radius = read_fitted_origin(self._datacube)
        result = measure_pixel_size(self._datacube, qx0, qy0, radius, noise_of(self._datacube), standard,
                                    read_ellipse(self._datacube), read_valid(self._datacube), region, progress)
        if region is None:
            with undoable(self._datacube):
                write_pixel_size(self._datacube, result)
        return result

    def map_ellipse(self, blocks=4, device="auto", progress=True) -> EllipseMap:
        """Measure the ellipse in each of `blocks` x `blocks` regions of the scan.

        The map is attached to the cube as the RealSlice "prenet_ellipse_map"; the ellipse in the calibration is not
        changed.

        Parameters
        ----------
        blocks : int, optional
            Number of regions along each axis of the scan.
        device : {"auto", "cpu", "cuda", "mps"}, optional
            Where the network runs.
        progress : bool, optional
            Whether to show progress bars.

        Returns
        -------
        EllipseMap
            Axes, angle, sigma and acceptance for each region.

        Raises
        ------
        PrenetError
            If no origin is set, or the scan has fewer than `blocks` positions along an axis.

        Examples
        --------
        >>> ellipses = datacube.prenet.map_ellipse(blocks=2)  # doctest: +SKIP
        >>> ellipses.a.shape  # doctest: +SKIP
        (2, 2)
        """
        from . import map_ellipse
        from .io import attach_ellipse_map, beam_is_hidden, noise_of, read_fitted_origin, read_valid

        qx0, qy0, radius = read_fitted_origin(self._datacube)
        radius = None if beam_is_hidden(self._datacube) else radius
        result = map_ellipse(self._datacube, qx0, qy0, radius, noise_of(self._datacube), blocks,
                             read_valid(self._datacube), device=device, progress=progress)
        attach_ellipse_map(self._datacube, result)
        return result

    def measure_rotation(self, feature=None, progress=True) -> Rotation:
        """Measure rotation and flip between scan and pattern, and write them with `set_QR_rotflip_degrees` if accepted.

        The deflection of the beam about the fitted origin is a gradient, and has no curl in the frame of the scan. With
        a defocused probe, the shadow image in the direct disk is followed as well. An ellipse in the calibration is
        removed first.
        `datacube.calibration.set_QR_rotflip_degrees((None, None))` does not remove them; set them to (0, False).

        Parameters
        ----------
        feature : ndarray, shape (Rx, Ry), optional
            An image of the scan that is brighter where the specimen is heavier or thicker. It decides about the half
            turn that the curl leaves open; by default the dark field of the scan does, if it can.
        progress : bool, optional
            Whether to show a progress bar.

        Returns
        -------
        Rotation
            Angle in degrees, flip, sigma, and whether they were accepted.

        Raises
        ------
        PrenetError
            If no origin is set, or the feature has another shape than the scan.

        Examples
        --------
        >>> rotation = datacube.prenet.measure_rotation()  # doctest: +SKIP
        >>> rotation.degrees, rotation.flip, rotation.half_turn_determined  # doctest: +SKIP
        (-13.52, False, True)
        """
        from . import measure_rotation
        from .io import noise_of, read_ellipse, read_fitted_origin, read_valid, undoable, write_rotation

        qx0, qy0, radius = read_fitted_origin(self._datacube)
        ellipse = read_ellipse(self._datacube)
        result = measure_rotation(self._datacube, qx0, qy0, radius, noise_of(self._datacube),
                                  valid=read_valid(self._datacube), ellipse=None if ellipse is None else ellipse.vector,
                                  feature=feature, progress=progress)
        with undoable(self._datacube):
            write_rotation(self._datacube, result)
        return result

    def probe(self, voltage=None, progress=True) -> Probe:
        """Make the image of the probe and its kernel, a template for `find_Bragg_disks`.

        The image is the mean direct beam of the positions nearest to vacuum, each shifted by its fitted origin; if they
        are not thin enough, it is drawn from the measured aperture. It is attached to the cube as "probe", and the
        radius of the disk is stored as the convergence semi-angle in pixels; in mrad, too, if the Q pixel size is in
        A^-1 and the voltage is known.

        Parameters
        ----------
        voltage : float, optional
            Acceleration voltage, V; by default "accelerating_voltage" of the calibration, if it is there.
        progress : bool, optional
            Whether to show a progress bar.

        Returns
        -------
        Probe
            py4DSTEM's `Probe`: `probe.probe`, with a sum of 1 and the center at (Qx // 2, Qy // 2), and
            `probe.kernel`. `py4dstem_prenet.measure_probe` returns the numbers and flags.

        Raises
        ------
        PrenetError
            If no origin is set, or the direct beam is hidden.

        Examples
        --------
        >>> probe = datacube.prenet.probe()  # doctest: +SKIP
        >>> vectors = datacube.find_Bragg_disks(template=probe.kernel)  # doctest: +SKIP
        """
        from . import measure_probe
        from .io import noise_of, probe_optics, read_fitted_origin, read_valid, undoable, write_probe

        qx0, qy0, radius = read_fitted_origin(self._datacube)
        pixel_size, known = probe_optics(self._datacube)
        image = measure_probe(self._datacube, qx0, qy0, radius, noise_of(self._datacube),
                              valid=read_valid(self._datacube), pixel_size=pixel_size,
                              voltage=known if voltage is None else voltage, progress=progress)
        with undoable(self._datacube):
            return write_probe(self._datacube, image)

    # --- Bragg disks --------------------------------------------------------------------------------------------
    def bragg_disks(self, false_alarm=0.1, weights="intensity", mask=None, device="auto",
                    progress=True) -> BraggVectors:
        """Find the Bragg disks of all patterns. Call it after `calibrate`, which finds the direct beam.

        Parameters
        ----------
        false_alarm : float, optional
            Mean number of false disks in a pattern, greater than 0 and at most 1.
        weights : {"intensity", "precision"}, optional
            What the vectors hold as intensity: the electrons of the disk, or the inverse standard error of its
            position. py4DSTEM's `StrainMap` weights disks by it: give "precision" for strain. With "intensity", weak
            disks are searched, too, where neighbors in the scan have one; their electrons are those of the pattern.
        mask : ndarray of bool, shape (Qx, Qy), optional
            True where a detector pixel is good; by default the mask in the calibration.
        device : {"auto", "cpu", "cuda", "mps"}, optional
            Where disks are searched.
        progress : bool, optional
            Whether to show a progress bar.

        Returns
        -------
        BraggVectors
            The vectors, calibrated as the cube is; sigma and probability of each disk are in the PointListArray
            "prenet_disks" attached to them.

        Raises
        ------
        PrenetError
            If the data cannot be used, the scan shows no direct beam, or an argument is out of range.

        Examples
        --------
        >>> from py4DSTEM.process.strain import StrainMap
        >>> strain = StrainMap(datacube.prenet.bragg_disks(weights="precision"))  # doctest: +SKIP
        """
        from . import bragg_disks

        return bragg_disks(self._datacube, false_alarm=false_alarm, weights=weights, mask=mask, device=device,
                           progress=progress)

    # --- new data -----------------------------------------------------------------------------------------------
    def denoise(self, out=None, scan_aware="auto", weights="denoise", device="auto", progress=True) -> DataCube:
        """Denoise the patterns.

        Strain, rotation and intensities that vary smoothly over the scan are kept; steps that are weaker than the noise
        of a single pattern are attenuated. Measure on denoised patterns only what `check_denoising` finds to be kept.

        Parameters
        ----------
        out : str or pathlib.Path, optional
            A new EMD file to stream the result to; by default the result is kept in memory.
        scan_aware : {"auto", True, False}, optional
            Whether to use similar patterns at neighboring positions; "auto" selects what keeps all quantities and
            predicts held-out electrons better.
        weights : str or pathlib.Path, optional
            Name of the weights, or a file that `finetune` wrote.
        device : {"auto", "cpu", "cuda", "mps"}, optional
            Where the network runs.
        progress : bool, optional
            Whether to show a progress bar.

        Returns
        -------
        DataCube
            A new cube, float32, in the units of the input, with the same calibration.

        Raises
        ------
        PrenetError
            If the data cannot be used, or `out` exists.

        Examples
        --------
        >>> denoised = datacube.prenet.denoise(out="denoised.h5")  # doctest: +SKIP
        """
        from . import denoise

        return denoise(self._datacube, out=out, scan_aware=scan_aware, weights=weights, device=device,
                       progress=progress)

    def finetune(self, out="weights.safetensors", minutes=5.0, device="auto", progress=True) -> FinetuneResult:
        """Fine-tune the denoising network on this scan, and save its weights if they are better on held-out electrons.

        Parameters
        ----------
        out : str or pathlib.Path, optional
            A new .safetensors file, for `denoise(weights=out)`.
        minutes : float, optional
            Training time.
        device : {"auto", "cpu", "cuda", "mps"}, optional
            Where the network is trained.
        progress : bool, optional
            Whether to show a progress bar.

        Returns
        -------
        FinetuneResult
            The gain and whether it was accepted. `print(result)` shows a sentence.

        Raises
        ------
        PrenetError
            If the data cannot be used, or `out` exists.

        Examples
        --------
        >>> result = datacube.prenet.finetune("gold.safetensors", minutes=10)  # doctest: +SKIP
        >>> denoised = datacube.prenet.denoise(weights=result.path)  # doctest: +SKIP
        """
        from . import finetune

        return finetune(self._datacube, out=out, minutes=minutes, device=device, progress=progress)

    def preprocess(self, out=None, device="auto", progress=True) -> DataCube:
        """Calibrate and denoise the scan.

        Parameters
        ----------
        out : str or pathlib.Path, optional
            A new EMD file to stream the result to; by default the result is kept in memory.
        device : {"auto", "cpu", "cuda", "mps"}, optional
            Where the networks run.
        progress : bool, optional
            Whether to show progress bars.

        Returns
        -------
        DataCube
            A new cube, denoised and calibrated.

        Raises
        ------
        PrenetError
            If the data cannot be used, or `out` exists.

        Examples
        --------
        >>> clean = datacube.prenet.preprocess(out="clean.h5")  # doctest: +SKIP
        """
        from . import preprocess

        return preprocess(self._datacube, out=out, device=device, progress=progress)

    def corrected(self, out=None, progress=True) -> DataCube:
        """Resample the patterns to a common center and round rings.

        Parameters
        ----------
        out : str or pathlib.Path, optional
            A new EMD file to stream the result to; by default the result is kept in memory.
        progress : bool, optional
            Whether to show a progress bar.

        Returns
        -------
        DataCube
            A new cube, float32, with the same number of electrons. Its calibration has a constant origin and no
            ellipse.

        Raises
        ------
        PrenetError
            If no origin is set, or `out` exists.

        Examples
        --------
        >>> round_rings = datacube.prenet.corrected()  # doctest: +SKIP
        """
        from . import corrected

        return corrected(self._datacube, out=out, progress=progress)

    def repaired(self, out=None, noise=None, progress=True) -> DataCube:
        """Replace bad pixels in the counts by the mean of their good neighbors, for example before `find_Bragg_disks`.

        Good pixels stay as they are, integers stay integers, and the mean over patterns is that of the neighbors.

        Parameters
        ----------
        out : str or pathlib.Path, optional
            A new EMD file to stream the result to; by default the result is kept in memory.
        noise : NoiseModel, optional
            The noise model whose bad pixels are replaced. By default those that are found in the scan, and those that
            the mask in the calibration excludes; `noise` of the report of `calibrate` also has weak hot pixels in the
            direct beam.
        progress : bool, optional
            Whether to show a progress bar.

        Returns
        -------
        DataCube
            A new cube of the same type, with the same calibration.

        Raises
        ------
        PrenetError
            If the data cannot be used, all pixels are bad, or `out` exists.

        Examples
        --------
        >>> vectors = datacube.prenet.repaired().find_Bragg_disks(template=kernel)  # doctest: +SKIP
        """
        from . import repaired

        return repaired(self._datacube, noise=noise, out=out, progress=progress)

    def crop_Q(self, ROI) -> DataCube:
        """Crop the patterns, and adapt the calibration.

        Parameters
        ----------
        ROI : tuple of int
            (Qx_min, Qx_max, Qy_min, Qy_max), pixels; the maxima are excluded.

        Returns
        -------
        DataCube
            A new cube; its data are a view if those of this cube are in memory.

        Raises
        ------
        PrenetError
            If the region is not inside the pattern, or the calibration does not belong to the data.

        Examples
        --------
        >>> import numpy as np
        >>> from py4DSTEM import DataCube
        >>> datacube = DataCube(np.ones((2, 2, 32, 32), np.uint8))
        >>> datacube.calibration.set_origin((np.full((2, 2), 15.0), np.full((2, 2), 16.0)))
        >>> cropped = datacube.prenet.crop_Q((4, 28, 4, 28))
        >>> cropped.Qshape, cropped.calibration.get_origin()[0][0, 0]
        ((24, 24), 11.0)
        """
        from . import crop_Q

        return crop_Q(self._datacube, ROI)

    def crop_R(self, ROI) -> DataCube:
        """Crop the scan, and adapt the calibration.

        Parameters
        ----------
        ROI : tuple of int
            (Rx_min, Rx_max, Ry_min, Ry_max), positions; the maxima are excluded.

        Returns
        -------
        DataCube
            A new cube; its data are a view if those of this cube are in memory.

        Raises
        ------
        PrenetError
            If the region is not inside the scan, or the calibration does not belong to the data.

        Examples
        --------
        >>> part = datacube.prenet.crop_R((0, 10, 0, 10))  # doctest: +SKIP
        """
        from . import crop_R

        return crop_R(self._datacube, ROI)

    def bin_Q(self, N) -> DataCube:
        """Sum the patterns over N x N pixels, and adapt the calibration: q becomes (q + 1/2) / N - 1/2.

        Parameters
        ----------
        N : int
            The binning factor.

        Returns
        -------
        DataCube
            A new cube.

        Raises
        ------
        PrenetError
            If the factor is not a whole number that fits, or the calibration does not belong to the data.

        Examples
        --------
        >>> import numpy as np
        >>> from py4DSTEM import DataCube
        >>> datacube = DataCube(np.ones((2, 2, 32, 32), np.uint8))
        >>> datacube.calibration.set_origin((np.full((2, 2), 15.0), np.full((2, 2), 16.0)))
        >>> binned = datacube.prenet.bin_Q(2)
        >>> binned.Qshape, binned.calibration.get_origin()[0][0, 0]
        ((16, 16), 7.25)
        """
        from . import bin_Q

        return bin_Q(self._datacube, N)

    def bin_R(self, N) -> DataCube:
        """Sum the patterns over N x N scan positions, and adapt the calibration: origins are averaged.

        Parameters
        ----------
        N : int
            The binning factor.

        Returns
        -------
        DataCube
            A new cube.

        Raises
        ------
        PrenetError
            If the factor is not a whole number that fits, or the calibration does not belong to the data.

        Examples
        --------
        >>> coarse = datacube.prenet.bin_R(2)  # doctest: +SKIP
        """
        from . import bin_R

        return bin_R(self._datacube, N)

    # --- checks -------------------------------------------------------------------------------------------------
    def check(self) -> CalibrationCheck:
        """Check whether the calibration still belongs to the data, for example after py4DSTEM's own `crop_Q`.

        Returns
        -------
        CalibrationCheck
            Names of the entries that are out of date. `print(check)` shows what to do.

        Examples
        --------
        >>> import numpy as np
        >>> from py4DSTEM import DataCube
        >>> DataCube(np.ones((2, 2, 32, 32), np.uint8)).prenet.check().stale
        ('origin',)
        """
        from . import check_calibration

        return check_calibration(self._datacube)

    def check_denoising(self, weights=None, device="auto") -> DenoisingCheck:
        """Measure on the counts of this scan what denoising keeps of strain, rotation and intensities, and its error.

        Parameters
        ----------
        weights : str or pathlib.Path, optional
            Name of the weights, or a file that `finetune` wrote.
        device : {"auto", "cpu", "cuda", "mps"}, optional
            Where the network runs.

        Returns
        -------
        DenoisingCheck
            Slopes of what is read from denoised patterns on its true values (1: nothing is lost), and squared errors.
            `print(check)` shows a summary.

        Raises
        ------
        PrenetError
            If the data cannot be used.

        Examples
        --------
        >>> print(datacube.prenet.check_denoising())  # doctest: +SKIP
        """
        from . import check_denoising

        return check_denoising(self._datacube, weights=weights, device=device)

    def check_origin(self, device="auto") -> OriginCheck:
        """Check the stated sigma of the origin with two halves of the electrons.

        Parameters
        ----------
        device : {"auto", "cpu", "cuda", "mps"}, optional
            Where the network runs.

        Returns
        -------
        OriginCheck
            The scatter between the halves and its ratio to the stated sigma. `print(check)` shows a sentence.

        Raises
        ------
        PrenetError
            If the data cannot be used.

        Examples
        --------
        >>> datacube.prenet.check_origin().accepted  # doctest: +SKIP
        True
        """
        from . import check_origin

        return check_origin(self._datacube, device=device)

    def check_ellipse(self, device="auto") -> EllipseCheck:
        """Check whether two halves of the electrons give the same ellipse within its sigma.

        Parameters
        ----------
        device : {"auto", "cpu", "cuda", "mps"}, optional
            Where the network runs.

        Returns
        -------
        EllipseCheck
            The difference of the two ellipses and its chi-squared. `print(check)` shows a sentence.

        Raises
        ------
        PrenetError
            If no origin is set, or the data cannot be used.

        Examples
        --------
        >>> datacube.prenet.check_ellipse().accepted  # doctest: +SKIP
        True
        """
        from . import check_ellipse

        return check_ellipse(self._datacube, device=device)

    # --- output -------------------------------------------------------------------------------------------------
    def show(self):
        """Plot the calibration and the evidence for it.

        Returns
        -------
        ndarray of matplotlib.axes.Axes, shape (3, 4) or (4, 4)
            The axes of a new figure: origin and its sigma in two rows, patterns and ellipse in the third; a fourth
            shows what pixel size and rotation were measured from, if they were.

        Raises
        ------
        PrenetError
            If the calibration has no origin.

        Examples
        --------
        >>> axes = datacube.prenet.show()  # doctest: +SKIP
        """
        from . import show

        return show(self._datacube)

    def view(self, denoised=None, image=None, device="auto"):
        """Look at the patterns of the scan, correct the calibration by hand, and calibrate again.

        A click in the image of the scan shows a pattern with origin, sigma and ellipse, on request denoised and with
        Bragg disks. Center, model of the descan, region and mask are set with the mouse; Apply calls `calibrate` with
        them.

        Parameters
        ----------
        denoised : DataCube, optional
            The same scan, denoised; otherwise single patterns are denoised on request.
        image : numpy.ndarray, shape (Rx, Ry), optional
            Image in which positions are chosen; by default a virtual dark field.
        device : {"auto", "cpu", "cuda", "mps"}, optional
            Where the networks run.

        Returns
        -------
        Viewer
            The viewer, which a notebook shows; needs the extra `viewer`. In a script, call `matplotlib.pyplot.show()`.

        Raises
        ------
        PrenetError
            If `denoised` or `image` have another shape.

        Examples
        --------
        >>> viewer = datacube.prenet.view()  # doctest: +SKIP
        >>> viewer.session.report  # after Apply  # doctest: +SKIP
        """
        from . import view

        return view(self._datacube, denoised=denoised, image=image, device=device)

    def report(self, path, device="auto", progress=True, fast=False):
        """Write a web page that says whether the calibration can be used, and why.

        Parameters
        ----------
        path : str or pathlib.Path
            A new .html file.
        device : {"auto", "cpu", "cuda", "mps"}, optional
            Where the networks run.
        progress : bool, optional
            Whether to show a progress bar.
        fast : bool, optional
            Whether to leave out what takes most of the time: denoising, and the repetition of the calibration on halves
            of the electrons.

        Returns
        -------
        list of Verdict
            The verdicts on the page.

        Raises
        ------
        PrenetError
            If the calibration has no origin, or the file exists.

        Examples
        --------
        >>> verdicts = datacube.prenet.report("scan.html")  # doctest: +SKIP
        """
        from .review import report

        return report(self._datacube, path, device=device, progress=progress, fast=fast)

    def save(self, path, data=True) -> None:
        """Save the cube, its calibration and provenance as an EMD file that any py4DSTEM reads.

        Parameters
        ----------
        path : str or pathlib.Path
            A new .h5 file.
        data : bool, optional
            False leaves the patterns out, and saves the calibration alone, about 30 kB.

        Raises
        ------
        PrenetError
            If the file exists or cannot be written.

        Examples
        --------
        >>> datacube.prenet.save("calibration.h5", data=False)  # doctest: +SKIP
        """
        from . import save

        save(self._datacube, path, data=data)

    def load_calibration(self, path) -> None:
        """Apply a calibration that `save` wrote for the same scan.

        Parameters
        ----------
        path : str or pathlib.Path
            An EMD file with a calibration, with or without patterns.

        Raises
        ------
        PrenetError
            If the file holds no calibration, or one for data of another shape.

        Examples
        --------
        >>> datacube.prenet.load_calibration("calibration.h5")  # doctest: +SKIP
        """
        from . import load_calibration

        load_calibration(self._datacube, path)


class _Door:
    """The descriptor behind `DataCube.prenet`; it makes an accessor at each use, so a copied cube gets its own."""

    def __get__(self, datacube, owner=None):
        return PrenetAccessor if datacube is None else PrenetAccessor(datacube)

    def __set__(self, datacube, value):
        raise AttributeError("DataCube.prenet cannot be set.")


def register():
    """Add `DataCube.prenet`, at once or when py4DSTEM is imported. Calling it again changes nothing.

    Raises
    ------
    PrenetError
        If DataCube already has an attribute `prenet` of another package.
    """
    host = sys.modules.get(_HOST)
    if hasattr(host, "DataCube"):
        _extend(host)
    else:
        _wait_for_host()


@cache
def _wait_for_host():
    from wrapt import register_post_import_hook

    register_post_import_hook(_extend, _HOST)


def _extend(host):
    """Add the attribute to the DataCube of py4DSTEM's module."""
    present = host.DataCube.__dict__.get(_NAME)
    # Compared by name, because a reloaded package makes a new class.
    ours = (type(present).__module__, type(present).__qualname__) == (_Door.__module__, _Door.__qualname__)
    if hasattr(host.DataCube, _NAME) and not ours:
        raise PrenetError(
            "DataCube.prenet exists already and belongs to another package; import only one of these packages."
        )
    setattr(host.DataCube, _NAME, _Door())
