"""Methods of `DataCube.prenet` that check, show and save a calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:

    from ..core import CalibrationCheck, DenoisingCheck, EllipseCheck, OriginCheck


class ReviewingMethods:
    """Check, show and save the calibration of a scan."""

    _datacube: Any  # the DataCube

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
        from .. import check_calibration

        return check_calibration(self._datacube)

    def check_denoising(self, weights=None, device="auto", positions=None) -> DenoisingCheck:
        """Measure how much of strain, rotation and intensities denoising keeps in this scan, and its squared error.

        Parameters
        ----------
        weights : str or pathlib.Path, optional
            Name of the weights, or a file that `finetune` wrote.
        device : {"auto", "cpu", "cuda", "mps"}, optional
            Where the network runs.
        positions : int, optional
            Largest number of scan positions that are checked, by default 256. More positions make the slopes more
            certain, and take longer.

        Returns
        -------
        DenoisingCheck
            Slopes of the quantities measured in denoised patterns against their true values (1: nothing is lost), and
            squared errors.
            `print(check)` shows a summary.

        Raises
        ------
        PrenetError
            If the data cannot be used.

        Examples
        --------
        >>> print(datacube.prenet.check_denoising())  # doctest: +SKIP
        """
        from .. import check_denoising

        return check_denoising(self._datacube, weights=weights, device=device, positions=positions)

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
        from .. import check_origin

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
        from .. import check_ellipse

        return check_ellipse(self._datacube, device=device)

    def show(self):
        """Plot the calibration and the evidence for it.

        Returns
        -------
        ndarray of matplotlib.axes.Axes, shape (rows, 3)
            The axes of a new figure: the origin in the first two rows, its sigma and the mean pattern in the third, the
            ellipse in the fourth. If pixel size or rotation were measured, further rows show the evidence for them.

        Raises
        ------
        PrenetError
            If the calibration has no origin.

        Examples
        --------
        >>> axes = datacube.prenet.show()  # doctest: +SKIP
        """
        from .. import show

        return show(self._datacube)

    def view(self, denoised=None, image=None, device="auto"):
        """Look at the patterns of the scan, correct the calibration by hand, and calibrate again.

        A click in the image of the scan shows a pattern with origin, sigma and ellipse. On request, the pattern is
        denoised and its Bragg disks are shown. Center, model of the descan, region and mask are set with the mouse;
        Apply calls `calibrate` with them.

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
        from .. import view

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
            Whether to leave out the steps that take most of the time: denoising, and the repetition of the calibration
            on halves of the electrons.

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
        from ..review import report

        return report(self._datacube, path, device=device, progress=progress, fast=fast)

    def save(self, path, data=True) -> None:
        """Save the cube, its calibration and provenance as an EMD file that any py4DSTEM reads.

        Parameters
        ----------
        path : str or pathlib.Path
            A new .h5 file.
        data : bool, optional
            False saves the calibration alone, about 30 kB, without the patterns.

        Raises
        ------
        PrenetError
            If the file exists or cannot be written.

        Examples
        --------
        >>> datacube.prenet.save("calibration.h5", data=False)  # doctest: +SKIP
        """
        from .. import save

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
            If the file holds no calibration, or a calibration for data of another shape.

        Examples
        --------
        >>> datacube.prenet.load_calibration("calibration.h5")  # doctest: +SKIP
        """
        from .. import load_calibration

        load_calibration(self._datacube, path)
