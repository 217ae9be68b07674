"""Data for the viewer: a virtual image, and the pattern of a position, measured and denoised."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.ndimage import gaussian_filter, label

from ..core import NoiseModel, PrenetError, as_scan, sample_positions
from ..denoising import denoise
from ..detector import virtual_images
from ..disks import DiskFinder
from ..io import noise_of, read_ellipse, read_fitted_origin, read_mask, read_origin, sigma_is_current

MAX_IMAGE_POSITIONS = 128**2  # scan positions; largest number in the virtual image: larger scans are sampled
DENOISED_REACH = 4  # scan positions; similar patterns are searched up to this distance
MAX_KEPT = 32  # patterns; largest number of denoised ones that are kept
BRIGHTEST_POSITIONS = 64  # patterns; number in which the brightest disk is searched if no origin is known
DARK_FIELD = (2.0, 0.48)  # radii of the direct disk, shorter sides of a pattern; inner and outer radius


@dataclass(frozen=True)
class PatternView:
    """Data of one scan position. Lengths are in pixels; a field is None if it is unknown or was not requested.

    Attributes
    ----------
    position : tuple of int
        Row and column of the scan.
    measured : numpy.ndarray, shape (Qx, Qy)
        The pattern in electrons.
    clean : numpy.ndarray or None, shape (Qx, Qy)
        The denoised pattern in electrons.
    good : numpy.ndarray of bool, shape (Qx, Qy)
        False at bad and masked pixels.
    readout : float
        Read-out noise, rms electrons.
    fitted : tuple of float or None
        Origin (qx0, qy0) in the calibration, which py4DSTEM uses.
    origin : tuple of float or None
        Measured origin (qx0, qy0) of this pattern.
    sigma : tuple of float or None
        Standard deviation of the measured origin along qx and qy.
    radius : float or None
        Radius of the direct disk.
    ellipse : tuple of float or None
        (a, b, theta) in the calibration, with a b = 1, theta in radians from +qx toward +qy.
    disks : numpy.ndarray or None, shape (n, 2)
        Bragg disks (qx, qy).
    """

    position: tuple[int, int]
    measured: np.ndarray
    clean: np.ndarray | None
    good: np.ndarray
    readout: float
    fitted: tuple[float, float] | None = None
    origin: tuple[float, float] | None = None
    sigma: tuple[float, float] | None = None
    radius: float | None = None
    ellipse: tuple[float, float, float] | None = None
    disks: np.ndarray | None = None

    @property
    def difference(self) -> np.ndarray:
        """Measured minus denoised, with the variance stabilized: counting noise has a standard deviation of 1."""
        measured, clean = (2 * np.sqrt(np.clip(e + 3 / 8 + self.readout**2, 0, None))
                           for e in (self.measured, self.clean))
        return np.where(self.good, measured - clean, 0.0)


class PatternSource:
    """Reads the data to show from a DataCube and its calibration.

    Parameters
    ----------
    datacube : DataCube
        The scan.
    denoised : DataCube, optional
        The same scan, denoised. Without it, single patterns are denoised on request.
    device : str, optional
        "auto", "cpu", "cuda" or "mps".

    Raises
    ------
    PrenetError
        If `denoised` has another shape.
    """

    def __init__(self, datacube, denoised=None, device="auto"):
        self.datacube, self.denoised, self.device = datacube, denoised, device
        self.scan = as_scan(datacube)
        if denoised is not None and tuple(denoised.data.shape) != tuple(self.scan.shape):
            raise PrenetError(f"The denoised scan has the shape {tuple(denoised.data.shape)}, and this one "
                              f"{tuple(self.scan.shape)}; give the same scan, denoised.")
        self.refresh()

    def refresh(self) -> None:
        """Discard values that depend on the calibration, after it was written."""
        self._clean, self._finder = {}, None
        for name in ("noise", "fitted", "origin"):
            self.__dict__.pop(name, None)

    @cached_property
    def noise(self) -> NoiseModel:
        """Noise model of the detector, with the mask in the calibration."""
        return noise_of(self.datacube)

    @cached_property
    def fitted(self):
        """Origin (qx0, qy0, radius) in the calibration; None if there is none for these data."""
        try:
            return read_fitted_origin(self.datacube)
        except PrenetError:
            return None

    @cached_property
    def origin(self):
        """Measured origin in the calibration, an OriginMap; None if there is none for these data."""
        try:
            return read_origin(self.datacube)
        except PrenetError:
            return None

    @property
    def radius(self) -> float | None:
        """Radius of the direct disk, pixels; None if it is unknown."""
        radius = self.datacube.calibration.get_probe_semiangle() if self.datacube.calibration is not None else None
        return float(radius) if radius is not None and np.isfinite(radius) else None

    def image(self):
        """Compute a virtual image: dark field about the origin, or about the brightest disk if no origin is known.

        Returns
        -------
        values : numpy.ndarray, shape (n, m)
            Electrons.
        title : str
            Kind of image.
        """
        rx, ry = self.scan.scan_shape
        step = int(np.ceil(np.sqrt(rx * ry / MAX_IMAGE_POSITIONS)))
        rows, columns = np.arange(0, rx, step), np.arange(0, ry, step)
        sample = (rows[:, None] * ry + columns).ravel()
        if self.fitted is not None and self.radius is not None:
            origin = np.stack([q.ravel()[sample] for q in self.fitted[:2]])
            inner, outer = DARK_FIELD[0] * self.radius, DARK_FIELD[1] * min(self.scan.pattern_shape)
            title = "virtual dark field"
            if inner > 0.8 * outer:  # large disks leave no dark field
                inner, outer, title = 0.0, self.radius, "virtual bright field"
        else:
            center, inner = self._brightest()
            origin = np.broadcast_to(np.array(center)[:, None], (2, len(sample)))
            outer, title = 2.0 * max(self.scan.pattern_shape), "electrons outside the brightest disk"
        values = virtual_images(self.scan, *origin, [(inner, outer)], self.noise, positions=sample)[0]
        return values.reshape(len(rows), len(columns)), title

    def _brightest(self):
        """Center of the brightest disk of the mean over some patterns, and twice its radius, pixels."""
        positions = sample_positions(self.scan.scan_shape, BRIGHTEST_POSITIONS)
        smooth = gaussian_filter(self.noise.electrons(self.scan.read(positions)).mean(0), 1.5)
        center = np.unravel_index(np.argmax(smooth), smooth.shape)
        distance = np.hypot(*(np.indices(smooth.shape) - np.array(center)[:, None, None]))
        parts, _ = label(smooth > 0.5 * smooth.max())
        return center, 1.0 + 2 * distance[parts == parts[center]].max()

    def look(self, position, clean=False, disks=False) -> PatternView:
        """Read the data of a position.

        Parameters
        ----------
        position : tuple of int
            Row and column of the scan.
        clean : bool, optional
            Whether the pattern is denoised, if no denoised scan was given.
        disks : bool, optional
            Whether Bragg disks are searched.

        Returns
        -------
        PatternView
            The data.
        """
        at, noise = tuple(position), self.noise
        electrons = self._electrons(self.scan.read(np.array([np.ravel_multi_index(at, self.scan.scan_shape)]))[0])
        mask = read_mask(self.datacube)
        facts = {"good": ~noise.bad_pixels if mask is None else ~noise.bad_pixels & mask,
                 "readout": noise.readout / noise.gain, "radius": self.radius}
        if self.denoised is not None:
            facts["clean"] = self._electrons(np.asarray(self.denoised.data[at]))
        else:
            facts["clean"] = self._cleaned(at) if clean else self._clean.get(at)
        if self.fitted is not None:
            facts["fitted"] = tuple(float(q[at]) for q in self.fitted[:2])
        if self.origin is not None and self.origin.valid[at]:
            facts["origin"] = float(self.origin.qx0[at]), float(self.origin.qy0[at])
            if sigma_is_current(self.datacube):
                facts["sigma"] = float(self.origin.sigma_qx0[at]), float(self.origin.sigma_qy0[at])
        ellipse = read_ellipse(self.datacube)
        if ellipse is not None:
            facts["ellipse"] = ellipse.a, ellipse.b, ellipse.theta
        return PatternView(at, electrons, disks=self._disks(at) if disks else None, **facts)

    def _electrons(self, pattern):
        """Electrons, with bad pixels as they are."""
        return (np.asarray(pattern, np.float32) - self.noise.offset) / self.noise.gain

    def _cleaned(self, at):
        """The denoised pattern of a position, from the part of the scan around it."""
        from py4DSTEM import DataCube

        if at not in self._clean:
            part = tuple(slice(max(0, k - DENOISED_REACH), k + DENOISED_REACH + 1) for k in at)
            piece = DataCube(np.array(self.datacube.data[part]))
            if self.fitted is not None:  # patterns are compared about their origins
                piece.calibration.set_origin(tuple(np.array(q[part]) for q in self.fitted[:2]))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a quantity is attenuated: `check_denoising` measures it
                clean = denoise(piece, self.noise, device=self.device, progress=False).data
            if len(self._clean) >= MAX_KEPT:
                self._clean.clear()
            self._clean[at] = self._electrons(clean[tuple(k - s.start for k, s in zip(at, part, strict=True))])
        return self._clean[at]

    def _disks(self, at):
        """Positions of the Bragg disks of a pattern; the finder is learned from the scan at the first call."""
        if self._finder is None:
            origin = None if self.fitted is None else np.stack(self.fitted[:2], -1).reshape(-1, 2)
            self._finder = DiskFinder.learn(self.scan, mask=read_mask(self.datacube), device=self.device,
                                            origin=origin)
        index = np.array([np.ravel_multi_index(at, self.scan.scan_shape)])
        table = self._finder.find(index, self.scan.read(index))
        return np.stack([table["qx"], table["qy"]], 1)
