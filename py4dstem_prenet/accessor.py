"""`DataCube.prenet`: doors to the package's functions, and nothing behind them.

Importing this package does not import py4DSTEM, which takes seconds that training, simulation and
`prenet --help` need not wait: `register` adds the attribute at once where py4DSTEM is loaded, otherwise the
moment it is.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING

from .core import PrenetError

if TYPE_CHECKING:
    from py4DSTEM import DataCube

    from .core import Ellipse, EllipseMap, OriginFit, OriginMap
    from .denoising import DenoisingCheck, FinetuneResult
    from .ellipse import EllipseCheck
    from .origin import OriginCheck
    from .pipeline import CalibrationReport
    from .resampling import CalibrationCheck

_NAME = "prenet"
_HOST = "py4DSTEM.datacube.datacube"  # the module that defines DataCube


class PrenetAccessor:
    """What this package does for one DataCube, as `datacube.prenet`. Results stay in the cube, not here."""

    def __init__(self, datacube):
        self._datacube = datacube

    def measure_origin(self, mask=None, device="auto", progress=True) -> OriginMap:
        """Measure the direct beam's position in every pattern; written with `set_origin_meas`.

        mask: (Qx, Qy) bool, True = good pixel; kept in the calibration for what follows. Returns an `OriginMap`;
        where its `found` is False, nothing is written.
        """
        from .io import calibrations
        from .origin import measure_origin

        mask = calibrations.read_mask(self._datacube) if mask is None else mask
        result = measure_origin(self._datacube, mask=mask, device=device, progress=progress)
        if calibrations.write_origin(self._datacube, result):
            calibrations.write_mask(self._datacube, mask)
        return result

    def fit_origin(self, model="auto") -> OriginFit:
        """Fit a smooth surface to the measured origin; written with `set_origin` if accepted.

        model: "constant", "plane", "parabola", "spline", or "auto" to let the data choose. Returns an
        `OriginFit`.
        """
        from .descan import fit_origin
        from .io import calibrations

        result = fit_origin(calibrations.read_origin(self._datacube), model)
        calibrations.write_fit(self._datacube, result)
        return result

    def measure_ellipse(self, region=None) -> Ellipse:
        """Measure the elliptical distortion about the fitted origin; written with `set_ellipse` if accepted.

        region: the positions to measure, a pair of slices or a bool mask (Rx, Ry); None = the whole scan.

        Returns an `Ellipse`. `datacube.calibration.set_ellipse((None, None, None))` undoes it.
        """
        from .ellipse import measure_ellipse
        from .io import calibrations

        qx0, qy0, radius = calibrations.read_fitted_origin(self._datacube)
        result = measure_ellipse(self._datacube, qx0, qy0, radius, calibrations.noise_of(self._datacube),
                                 valid=calibrations.read_valid(self._datacube), region=region)
        calibrations.write_ellipse(self._datacube, result)
        return result

    def map_ellipse(self, blocks=4) -> EllipseMap:
        """Measure the ellipse in blocks x blocks regions of the scan; the calibration keeps its one ellipse.

        Returns an `EllipseMap`, and attaches it to the cube as the RealSlice "prenet_ellipse_map".
        """
        from .ellipse import map_ellipse
        from .io import calibrations

        qx0, qy0, radius = calibrations.read_fitted_origin(self._datacube)
        result = map_ellipse(self._datacube, qx0, qy0, radius, calibrations.noise_of(self._datacube), blocks,
                             calibrations.read_valid(self._datacube))
        calibrations.attach_ellipse_map(self._datacube, result)
        return result

    def corrected(self, out=None, progress=True) -> DataCube:
        """A new DataCube, resampled to one center and round rings: float32, the same electrons.

        out: an EMD file to stream it to. The new calibration has a constant origin and no ellipse.
        """
        from .resampling import corrected

        return corrected(self._datacube, out=out, progress=progress)

    def denoise(self, out=None, scan_aware="auto", weights="denoise", device="auto", progress=True) -> DataCube:
        """A new DataCube, denoised: float32, in the units of the input.

        out: an EMD file to stream it to. scan_aware: whether similar patterns around are used; "auto" takes what
        predicts held-out electrons better. weights: a name, or a file from `finetune`.

        Do not measure strain or rotation on denoised patterns: smooth variation over the scan is flattened.
        """
        from .denoising import denoise

        return denoise(self._datacube, out=out, scan_aware=scan_aware, weights=weights, device=device,
                       progress=progress)

    def calibrate(self, mask=None, device="auto", progress=True) -> CalibrationReport:
        """Measure and fit the origin, measure the ellipse, and write what is accepted.

        mask: (Qx, Qy) bool, True where a detector pixel is good, False behind a beam stop and the like; kept in the
        calibration for what follows.

        Returns a `CalibrationReport`, which prints as a page of text.
        """
        from .pipeline import calibrate

        return calibrate(self._datacube, mask=mask, device=device, progress=progress)

    def preprocess(self, out=None, device="auto", progress=True) -> DataCube:
        """Calibrate and denoise: a new calibrated DataCube. out: an EMD file to stream it to."""
        from .pipeline import preprocess

        return preprocess(self._datacube, out=out, device=device, progress=progress)

    def check_denoising(self, weights=None, device="auto") -> DenoisingCheck:
        """Squared error of denoising on this scan, measured on its own counts: a `DenoisingCheck`, which prints."""
        from .denoising import check_denoising

        return check_denoising(self._datacube, weights=weights, device=device)

    def check_origin(self, device="auto") -> OriginCheck:
        """Whether the stated sigma of the origin is true, from two halves of the electrons: an `OriginCheck`."""
        from .origin import check_origin

        return check_origin(self._datacube, device=device)

    def check_ellipse(self, device="auto") -> EllipseCheck:
        """Whether two halves of the electrons show the same ellipse, within its sigma: an `EllipseCheck`."""
        from .ellipse import check_ellipse

        return check_ellipse(self._datacube, device=device)

    def finetune(self, out="weights.safetensors", minutes=5.0, device="auto", progress=True) -> FinetuneResult:
        """Adapt the denoising network to this scan; `denoise(weights=out)` takes what is written, if it is better.

        Returns a `FinetuneResult`, which prints as a sentence.
        """
        from .denoising import finetune

        return finetune(self._datacube, out=out, minutes=minutes, device=device, progress=progress)

    def show(self):
        """Figures of what the calibration holds and does. Returns their axes, (3, 4)."""
        from .review import show

        return show(self._datacube)

    def report(self, path, device="auto", progress=True):
        """Write a web page: can one go on with this calibration, and why. path: a new .html file."""
        from .review import report

        return report(self._datacube, path, device=device, progress=progress)

    def check(self) -> CalibrationCheck:
        """Whether the calibration still belongs to the data, as a `CalibrationCheck` that prints what to do."""
        from .resampling import check

        return check(self._datacube)

    def crop_Q(self, ROI) -> DataCube:
        """A new DataCube of a part of the patterns, calibrated. ROI: (Qx_min, Qx_max, Qy_min, Qy_max)."""
        from .resampling import crop_Q

        return crop_Q(self._datacube, ROI)

    def crop_R(self, ROI) -> DataCube:
        """A new DataCube of a part of the scan, calibrated. ROI: (Rx_min, Rx_max, Ry_min, Ry_max)."""
        from .resampling import crop_R

        return crop_R(self._datacube, ROI)

    def bin_Q(self, N) -> DataCube:
        """A new DataCube of patterns summed over N x N pixels, calibrated: q becomes (q + 1/2) / N - 1/2."""
        from .resampling import bin_Q

        return bin_Q(self._datacube, N)

    def bin_R(self, N) -> DataCube:
        """A new DataCube of patterns summed over N x N scan positions, calibrated with mean origins."""
        from .resampling import bin_R

        return bin_R(self._datacube, N)

    def save(self, path, data=True) -> None:
        """Save the cube as a new EMD file; data=False saves its calibration alone, some 30 kB."""
        from .io import emd_files

        emd_files.save(self._datacube, path, data=data)

    def load_calibration(self, path) -> None:
        """Apply the calibration that `save` wrote for the same scan."""
        from .io import emd_files

        emd_files.load_calibration(self._datacube, path)


class _Door:
    """The descriptor. An accessor is made at each use, so that a copied or pickled cube gets its own."""

    def __get__(self, datacube, owner=None):
        return PrenetAccessor if datacube is None else PrenetAccessor(datacube)

    def __set__(self, datacube, value):
        raise AttributeError("DataCube.prenet cannot be set.")


class _Watcher(MetaPathFinder):
    """Adds the attribute when py4DSTEM defines DataCube."""

    def find_spec(self, name, path=None, target=None):
        if name != _HOST:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module):
                run(module)
                _add_to(module.DataCube)

            spec.loader.exec_module = exec_module
        return spec


def register():
    """Add `DataCube.prenet`, now or as soon as py4DSTEM is imported. Calling it again changes nothing.

    Raises PrenetError where DataCube already has a `prenet` that is not ours.
    """
    cube = getattr(sys.modules.get(_HOST), "DataCube", None)
    if cube is not None:
        _add_to(cube)
    elif not any(_is_ours(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())


def _add_to(cube):
    there = cube.__dict__.get(_NAME)
    if hasattr(cube, _NAME) and not _is_ours(there, _Door):
        raise PrenetError(
            "DataCube.prenet exists already and is not py4dstem_prenet's; import only one of these packages."
        )
    setattr(cube, _NAME, _Door())


def _is_ours(thing, kind):
    # By name: a reloaded package makes new classes.
    return (type(thing).__module__, type(thing).__qualname__) == (kind.__module__, kind.__qualname__)
