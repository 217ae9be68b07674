"""Corrections by hand in the viewer, as arguments of `calibrate`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..core import PrenetError

# Arguments of `calibrate` if nothing is decided by hand.
BY_ITSELF = {"center": None, "model": "auto", "region": None, "mask": None, "ellipse": True, "replace": False}


@dataclass
class Edits:
    """Corrections by hand, and the equivalent arguments of `calibrate`.

    Attributes
    ----------
    scan_shape : tuple of int
        (Rx, Ry).
    pattern_shape : tuple of int
        (Qx, Qy), pixels.
    centers : dict
        Position (qx, qy) of the direct beam in a pattern, pixels, by scan position (row, column).
    model : str
        Surface of the descan: "auto", "constant", "plane", "parabola" or "spline".
    region : tuple of two slices or None
        Scan positions that are used; None for all.
    mask : numpy.ndarray of bool or None, shape (Qx, Qy)
        True where a detector pixel is good; None if nothing was masked by hand.
    ellipse : bool
        Whether the ellipse is measured.
    replace : bool
        Whether an origin and ellipse that were set by hand or by another program are replaced.

    Examples
    --------
    >>> edits = Edits((4, 6), (64, 64))
    >>> edits.set_center((1, 2), 30.5, 33.0)
    >>> edits.set_region((0, 0), (3, 2))
    >>> edits.arguments()
    {'center': (30.5, 33.0), 'region': (slice(0, 4, None), slice(0, 3, None))}
    >>> edits.call()
    'datacube.prenet.calibrate(center=(30.5, 33.0), region=(slice(0, 4), slice(0, 3)))'
    """

    scan_shape: tuple[int, int]
    pattern_shape: tuple[int, int]
    centers: dict = field(default_factory=dict)
    model: str = "auto"
    region: tuple[slice, slice] | None = None
    mask: np.ndarray | None = None
    ellipse: bool = True
    replace: bool = False

    def clear(self) -> None:
        """Remove all corrections; every mask, also that of an earlier calibration, then masks no pixels."""
        self.centers, self.model, self.region = {}, "auto", None
        self.ellipse, self.replace = True, False
        self.mask = None if self.mask is None else np.ones(self.pattern_shape, bool)

    def set_center(self, position, qx: float, qy: float) -> None:
        """Set the position of the direct beam of a pattern.

        Parameters
        ----------
        position : tuple of int
            Row and column of the scan.
        qx, qy : float
            Row and column of the pattern, pixels.

        Raises
        ------
        PrenetError
            If the place lies outside the pattern.
        """
        if not all(-0.5 <= q <= n - 0.5 for q, n in zip((qx, qy), self.pattern_shape, strict=True)):
            raise PrenetError(f"The center ({qx:.1f}, {qy:.1f}) lies outside the pattern; place it inside.")
        self.centers[tuple(int(k) for k in position)] = (float(qx), float(qy))

    def set_region(self, first, last) -> None:
        """Use only a rectangle of the scan.

        Parameters
        ----------
        first, last : tuple of float
            Two opposite corners, row and column of the scan; both belong to the region.
        """
        corners = np.sort(np.rint([first, last]), axis=0).astype(int)
        limits = [np.clip(corners[:, k], 0, n - 1) for k, n in enumerate(self.scan_shape)]
        region = tuple(slice(int(low), int(high) + 1) for low, high in limits)
        whole = all(part.stop - part.start == n for part, n in zip(region, self.scan_shape, strict=True))
        self.region = None if whole else region

    def add_mask(self, outline) -> None:
        """Mask the detector pixels inside an outline, such as the shadow of a beam stop.

        Parameters
        ----------
        outline : array_like, shape (n, 2)
            Corners (qx, qy) of a polygon, pixels; n is at least 3.
        """
        from matplotlib.path import Path

        outline = np.asarray(outline, float)
        if len(outline) < 3:
            return
        pixels = np.indices(self.pattern_shape).reshape(2, -1).T
        inside = Path(outline).contains_points(pixels).reshape(self.pattern_shape)
        self.mask = ~inside if self.mask is None else self.mask & ~inside

    def center(self, fitted=None):
        """Combine the centers of single patterns into the argument `center` of `calibrate`.

        Parameters
        ----------
        fitted : tuple of numpy.ndarray, shape (Rx, Ry), optional
            The origin (qx0, qy0) that is to be corrected, pixels. Its descan is kept: a plane through the corrections
            is added to it, or a constant if there are fewer than three.

        Returns
        -------
        tuple or None
            (qx, qy), two numbers or two maps of shape (Rx, Ry); None without a correction.
        """
        if not self.centers:
            return None
        positions, places = np.array(list(self.centers)), np.array(list(self.centers.values()))
        if fitted is None and len(places) == 1:
            return tuple(float(q) for q in places[0])
        surface = np.zeros((2, *self.scan_shape)) if fitted is None else np.array(fitted, float)
        away = places - surface[:, positions[:, 0], positions[:, 1]].T
        offset = np.broadcast_to(away.mean(0)[:, None, None], surface.shape)
        if len(away) > 2:
            middle = positions.mean(0)
            tilt = np.linalg.lstsq(positions - middle, away - away.mean(0), rcond=None)[0]
            steps = np.indices(self.scan_shape) - middle[:, None, None]
            offset = offset + np.einsum("kij,kq->qij", steps, tilt)
        limits = np.array(self.pattern_shape)[:, None, None] - 0.5
        return tuple(np.clip(surface + offset, -0.5, limits))

    def arguments(self, fitted=None) -> dict:
        """Return the arguments of `calibrate`.

        Parameters
        ----------
        fitted : tuple of numpy.ndarray, shape (Rx, Ry), optional
            The origin that is to be corrected, see `center`.

        Returns
        -------
        dict
            The arguments that differ from the defaults of `calibrate`.
        """
        chosen = {"center": self.center(fitted), "model": self.model, "region": self.region, "mask": self.mask,
                  "ellipse": self.ellipse, "replace": self.replace}
        return {name: value for name, value in chosen.items()
                if isinstance(value, np.ndarray | tuple) or value != BY_ITSELF[name]}

    def call(self, fitted=None) -> str:
        """Return the equivalent call in Python.

        Parameters
        ----------
        fitted : tuple of numpy.ndarray, shape (Rx, Ry), optional
            The origin that is to be corrected, see `center`.

        Returns
        -------
        str
            The call. Maps and masks are not written out; `Viewer.arguments` holds them.
        """
        def told(name, value):
            if name == "mask" or np.ndim(value) > 1:
                return f'viewer.arguments["{name}"]'
            if name == "region":
                return "({})".format(", ".join(f"slice({part.start}, {part.stop})" for part in value))
            if name == "center":
                return "({:.1f}, {:.1f})".format(*value)
            return repr(value)

        given = ", ".join(f"{name}={told(name, value)}" for name, value in self.arguments(fitted).items())
        return f"datacube.prenet.calibrate({given})"
