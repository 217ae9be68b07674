"""Methods of `DataCube.prenet` that measure the calibration and write it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from py4DSTEM import Probe

    from ..core import CalibrationReport, Ellipse, EllipseMap, OriginFit, OriginMap, PixelSize, Rotation


class MeasuringMethods:
    """Measure the calibration of a scan, and write accepted results."""

    _datacube: Any  # the DataCube

    def calibrate(self, mask=None, device="auto", progress=True, *, center=None, radius=None, model="auto",
                  region=None, ellipse=True, standard=None, approximate=None, standard_region=None, rotation=False,
                  like=None, transfer=None, binning=None, replace=False, write=True) -> CalibrationReport:
        """Measure and fit the origin, measure the ellipse, and write accepted results into the calibration.

        All arguments can be left out. An origin or ellipse that was set by hand or by another program is kept, and the
        report compares it with the measured one. `undo` restores the previous calibration.

        Parameters
        ----------
        mask : ndarray of bool, shape (Qx, Qy), optional
            True where a detector pixel is good, False for example behind a beam stop. The mask is stored in the
            calibration, and the other methods use it.
        device : {"auto", "cpu", "cuda", "mps"}, optional
            Where the networks run; "auto" takes a GPU if there is one.
        progress : bool, optional
            Whether to show progress bars.
        center : tuple of float or of ndarray, shape (Rx, Ry), optional
            Approximate position (qx, qy) of the direct beam, row and column in pixels. The search starts there instead
            of in the whole pattern, and the fits refine it. The origin is refused if no disk lies within 1.5 disk radii
            of this position.
        radius : float, optional
            Approximate radius of the direct disk in pixels, within about 30 %; its fit starts there.
        model : {"auto", "constant", "plane", "parabola", "spline"}, optional
            Surface of the descan; "auto" selects it by cross-validation.
        region : tuple of two slices, or ndarray of bool, shape (Rx, Ry), optional
            Scan positions from which descan and ellipse are determined; the surface covers the whole scan. The measured
            origin is masked outside of it.
        ellipse : bool or tuple of float, optional
            True measures the ellipse, False does not change it. (a, b, theta) sets this ellipse, and the report tests
            it against the scan; theta is in radians from +qx toward +qy.
        standard : str, pathlib.Path or py4DSTEM.process.diffraction.Crystal, optional
            The specimen, if it is a known crystal: a name such as "Au", a CIF file, or a Crystal. The pixel size is
            then measured and replaces the one in the calibration. By default the pixel size does not change.
        approximate : float, optional
            Pixel size of the standard, 1/angstrom, known within 10 %, for example from the camera length. A
            single crystal needs it, and then determines the ellipse as well; the name of the crystal is not tested.
        standard_region : tuple of two slices, or ndarray of bool, shape (Rx, Ry), optional
            Scan positions that show the standard, such as an unstrained substrate; by default the whole scan. Origin,
            descan and the ellipse of rings or of the direct beam are still measured in the whole scan, or in `region`.
        rotation : bool, optional
            Whether to also measure rotation and flip between scan and pattern.
        like : DataCube, str or pathlib.Path, optional
            A calibrated standard, recorded with the same microscope and camera length: a DataCube, or a file, which may
            hold only a calibration. Its ellipse, pixel size and rotation (those that it holds) are carried over to this
            scan unless the scan contradicts them.
        transfer : str or tuple of str, optional
            Quantities to carry over: one or more of "ellipse", "pixel_size", "rotation" (by default these three) and
            "descan". The descan depends on the scan settings: take it from a scan with the same settings, for example
            of vacuum.
        binning : float, optional
            Number of pixels of the standard along one side of a pixel of this scan. It is not needed after `crop_Q` and
            `bin_Q`, which record it.
        replace : bool, optional
            Whether to replace an origin or ellipse that was set by hand or by another program.
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
        from .. import calibrate

        return calibrate(self._datacube, mask=mask, device=device, progress=progress, center=center, radius=radius,
                         model=model, region=region, ellipse=ellipse, standard=standard, approximate=approximate,
                         standard_region=standard_region, rotation=rotation, like=like, transfer=transfer,
                         binning=binning, replace=replace, write=write)

    def undo(self) -> tuple[str, ...]:
        """Undo the last change that this package made to the calibration.

        This also works after the cube was saved and read again. Entries that were changed after this change, for
        example by hand, are not touched. Further calls undo earlier changes; the last four are kept.

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
        from .. import undo

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
            Approximate position (qx, qy) of the direct beam in pixels, where the search starts.
        radius : float, optional
            Approximate radius of the direct disk in pixels, where its fit starts.

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
        from .. import measure_origin
        from ..io import read_mask, undoable, write_mask, write_origin

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
        from .. import fit_origin
        from ..io import read_origin, undoable, write_fit

        result = fit_origin(read_origin(self._datacube), model)
        with undoable(self._datacube):
            write_fit(self._datacube, result, uncertainty=result.decision.numbers.get("uncertainty"))
        return result

    def measure_ellipse(self, region=None, device="auto", progress=True, write=None) -> Ellipse:
        """Measure the elliptical distortion about the origin in the calibration, whichever program set it.

        An accepted ellipse of the whole scan is written with `set_ellipse`; `undo` restores the previous ellipse, and
        `datacube.calibration.set_ellipse((None, None, None))` removes it. If the calibration holds no radius of the
        direct disk, the radius is measured about the origin.

        Parameters
        ----------
        region : tuple of two slices, or ndarray of bool, shape (Rx, Ry), optional
            The scan positions to use; by default all.
        device : {"auto", "cpu", "cuda", "mps"}, optional
            Where the network runs.
        progress : bool, optional
            Whether to show a progress bar.
        write : bool, optional
            Whether to write an accepted ellipse; by default True without a region, and False with one.

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
        from .. import measure_ellipse
        from ..io import beam_is_hidden, noise_of, read_fitted_origin, read_valid, undoable, write_ellipse

        qx0, qy0, radius = read_fitted_origin(self._datacube)
        radius = None if beam_is_hidden(self._datacube) else radius
        result = measure_ellipse(self._datacube, qx0, qy0, radius, noise_of(self._datacube),
                                 valid=read_valid(self._datacube), region=region, device=device, progress=progress)
        if write or (write is None and region is None):
            with undoable(self._datacube):
                write_ellipse(self._datacube, result, covariance=result.covariance, used=result.used,
                              leading=result.leading)
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
        from .. import map_ellipse
        from ..io import attach_ellipse_map, beam_is_hidden, noise_of, read_fitted_origin, read_valid

        qx0, qy0, radius = read_fitted_origin(self._datacube)
        radius = None if beam_is_hidden(self._datacube) else radius
        result = map_ellipse(self._datacube, qx0, qy0, radius, noise_of(self._datacube), blocks,
                             read_valid(self._datacube), device=device, progress=progress)
        attach_ellipse_map(self._datacube, result)
        return result

    def measure_pixel_size(self, standard, region=None, progress=True, write=None,
                           approximate=None) -> PixelSize:
        """Measure the pixel size from a known crystal, and write it with `set_Q_pixel_size` if it is accepted.

        The written value is the pixel size times sqrt(a/b) of the ellipse in the calibration. py4DSTEM applies both,
        and then returns lengths in 1/angstrom.

        Parameters
        ----------
        standard : str, pathlib.Path or py4DSTEM.process.diffraction.Crystal
            The crystal: a name such as "Au", a CIF file, or a Crystal.
        region : tuple of two slices, or ndarray of bool, shape (Rx, Ry), optional
            The scan positions to use; by default all.
        progress : bool, optional
            Whether to show a progress bar.
        write : bool, optional
            Whether to write an accepted pixel size; by default True without a region, and False with one.
        approximate : float, optional
            Pixel size, 1/angstrom, known within 10 %, for example from the camera length. It makes the zone
            axis of a single crystal unambiguous. Other crystals that fit as well are listed in a flag.

        Returns
        -------
        PixelSize
            The pixel size, its uncertainty, the agreement of the rings, and whether it was accepted.

        Raises
        ------
        PrenetError
            If no origin is set, or the standard is unknown.

        Notes
        -----
        Powders and scans of many grains determine their pixel size. The reflections of a single crystal fit several
        lattices, so a single crystal needs `approximate`. Near a zone axis it also determines the ellipse, which is
        written if the calibration has none. Disks that `bragg_disks` found in this scan are used; without them, the
        search for disks takes longer than `calibrate`. The disks of the last search are kept in memory, so that another
        standard takes seconds.

        Examples
        --------
        >>> size = datacube.prenet.measure_pixel_size("Au")  # doctest: +SKIP
        >>> size.value, size.sigma  # doctest: +SKIP
        (0.02001, 2e-05)
        """
        from .. import measure_pixel_size
        from ..io import (
            known_ellipse,
            noise_of,
            read_disks,
            read_fitted_origin,
            read_valid,
            undoable,
            write_pixel_size,
        )

        qx0, qy0, radius = read_fitted_origin(self._datacube)
        result = measure_pixel_size(self._datacube, qx0, qy0, radius, noise_of(self._datacube), standard,
                                    known_ellipse(self._datacube), read_valid(self._datacube), region, progress,
                                    approximate, read_disks(self._datacube))
        if write or (write is None and region is None):
            with undoable(self._datacube):
                write_pixel_size(self._datacube, result)
        return result

    def measure_rotation(self, feature=None, progress=True) -> Rotation:
        """Measure rotation and flip between scan and pattern, and write them with `set_QR_rotflip_degrees` if accepted.

        The deflection of the beam from the fitted origin is the gradient of a potential. Its curl therefore vanishes in
        the frame of the scan; the rotation is the angle at which the curl is least. With a defocused probe, the motion
        of the shadow image in the direct disk is used as well. The distortion by an ellipse in the calibration is
        removed first. To remove rotation and flip from the calibration, call
        `datacube.calibration.set_QR_rotflip_degrees((0, False))`.

        Parameters
        ----------
        feature : ndarray, shape (Rx, Ry), optional
            An image of the scan that is brighter where the specimen is heavier or thicker. It decides between the
            rotation and the rotation + 180 degrees, which have the same curl. By default the dark field of the scan is
            used, if it can decide.
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
        from .. import measure_rotation
        from ..io import noise_of, read_ellipse, read_fitted_origin, read_valid, undoable, write_rotation

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

        The image is the mean direct beam of the positions nearest to vacuum, each pattern shifted by its fitted origin.
        If no position is thin enough, the image is drawn from the measured aperture. It is attached to the cube as
        "probe", and the radius of the disk is stored as the convergence semi-angle: in pixels, and also in mrad if the
        Q pixel size is in A^-1 and the voltage is known.

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
        from .. import measure_probe
        from ..io import noise_of, probe_optics, read_fitted_origin, read_valid, undoable, write_probe

        qx0, qy0, radius = read_fitted_origin(self._datacube)
        pixel_size, known = probe_optics(self._datacube)
        image = measure_probe(self._datacube, qx0, qy0, radius, noise_of(self._datacube),
                              valid=read_valid(self._datacube), pixel_size=pixel_size,
                              voltage=known if voltage is None else voltage, progress=progress)
        with undoable(self._datacube):
            return write_probe(self._datacube, image)
