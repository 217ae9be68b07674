"""Methods of `DataCube.prenet` that find disks in the patterns, or make new patterns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from py4DSTEM import DataCube
    from py4DSTEM.braggvectors import BraggVectors

    from ..core import FinetuneResult


class PatternMethods:
    """Find Bragg disks, denoise, repair, resample, crop and bin the patterns of a scan."""

    _datacube: Any  # the DataCube

    def bragg_disks(self, false_alarm=0.1, weights="intensity", mask=None, device="auto",
                    progress=True) -> BraggVectors:
        """Find the Bragg disks of all patterns. Call it after `calibrate`, which finds the direct beam.

        Parameters
        ----------
        false_alarm : float, optional
            Mean number of false disks in a pattern, greater than 0 and at most 1.
        weights : {"intensity", "precision"}, optional
            The value stored as the intensity of a disk: its electrons, or the inverse standard error of its position.
            py4DSTEM's `StrainMap` weights disks by their intensity, so use "precision" for strain. With "intensity",
            weak disks are also searched for where patterns at neighboring positions show one; the stored electrons are
            those of the pattern itself.
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
            "prenet_disks" attached to them. They are also in the tree of the cube, so that `save` saves them.

        Raises
        ------
        PrenetError
            If the data cannot be used or are denoised, the scan shows no direct beam, or an argument is out of range.

        Examples
        --------
        >>> from py4DSTEM.process.strain import StrainMap
        >>> strain = StrainMap(datacube.prenet.bragg_disks(weights="precision"))  # doctest: +SKIP
        """
        from .. import bragg_disks

        return bragg_disks(self._datacube, false_alarm=false_alarm, weights=weights, mask=mask, device=device,
                           progress=progress)

    def denoise(self, out=None, scan_aware="auto", weights="denoise", device="auto", progress=True) -> DataCube:
        """Denoise the patterns.

        Smooth variations of strain, rotation and intensity over the scan are attenuated little. Steps that are weaker
        than the noise of a single pattern are attenuated strongly. Measure in denoised patterns only the quantities
        that `check_denoising` finds to be kept.

        Parameters
        ----------
        out : str or pathlib.Path, optional
            A new EMD file to stream the result to; by default the result is kept in memory.
        scan_aware : {"auto", True, False}, optional
            Whether to use similar patterns at neighboring positions. "auto" takes the choice that keeps all quantities
            and predicts held-out electrons better.
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
        from .. import denoise

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
            The improvement, and whether it was accepted. `print(result)` shows a sentence.

        Raises
        ------
        PrenetError
            If the data cannot be used, or `out` exists.

        Examples
        --------
        >>> result = datacube.prenet.finetune("gold.safetensors", minutes=10)  # doctest: +SKIP
        >>> denoised = datacube.prenet.denoise(weights=result.path)  # doctest: +SKIP
        """
        from .. import finetune

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
        from .. import preprocess

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
        from .. import corrected

        return corrected(self._datacube, out=out, progress=progress)

    def repaired(self, out=None, noise=None, progress=True) -> DataCube:
        """Replace bad pixels in the counts by the mean of their good neighbors, for example before `find_Bragg_disks`.

        Good pixels stay as they are, integers stay integers, and the mean over patterns is that of the neighbors.

        Parameters
        ----------
        out : str or pathlib.Path, optional
            A new EMD file to stream the result to; by default the result is kept in memory.
        noise : NoiseModel, optional
            The noise model whose bad pixels are replaced, for example `noise` of the report of `calibrate`, which also
            lists weak hot pixels in the direct beam. By default the bad pixels are found in the scan, and those that
            the mask in the calibration excludes are added.
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
        from .. import repaired

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
        from .. import crop_Q

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
        from .. import crop_R

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
        from .. import bin_Q

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
        from .. import bin_R

        return bin_R(self._datacube, N)
