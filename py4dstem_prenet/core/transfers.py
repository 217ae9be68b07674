"""Quantities that were carried over from one scan to another."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from . import Decided, Decision, Ellipse, Flag


@dataclass(frozen=True, eq=False, repr=False)
class Transfer(Decided):
    """Quantities that a calibration takes from the calibration of a standard.

    Attributes
    ----------
    source : str
        Name of the file or DataCube of the standard.
    sha256 : str
        Hash of the values of its calibration.
    binning : float or None
        Pixels of the standard along the side of a pixel of this scan; None if it is not known.
    ellipse : Ellipse or None
        The ellipse, with the covariance that the standard states.
    pixel_size : tuple of (float, str) or None
        Q pixel size and its unit, of a pixel of this scan.
    ratio : float
        a / b of the ellipse of the standard, to which its pixel size belongs; 1 without an ellipse.
    rotation : tuple of (float, bool) or None
        Rotation between scan and pattern in radians, and whether the pattern is flipped.
    descan : numpy.ndarray or None
        (2, Rx, Ry), the descan of the standard about its mean, in pixels of this scan.
    facts : dict
        Records of "pixel_size" and "rotation", in pixels of this scan.
    decision : Decision
        Accepted if all that was asked for is carried over.
    """

    source: str
    sha256: str
    binning: float | None
    ellipse: Ellipse | None
    pixel_size: tuple[float, str] | None
    ratio: float
    rotation: tuple[float, bool] | None
    descan: np.ndarray | None
    facts: dict
    decision: Decision

    @property
    def quantities(self) -> tuple[str, ...]:
        """Names of the quantities that are carried over."""
        names = ("ellipse", "pixel_size", "rotation", "descan")
        return tuple(name for name in names if getattr(self, name) is not None)

    def for_ellipse(self, ratio: float) -> Transfer:
        """Convert the pixel size to another ellipse.

        py4DSTEM's elliptical correction returns radii that are `b` times the ideal ones, so a pixel size belongs to the
        ellipse with which it is used: it grows with sqrt(a / b).

        Parameters
        ----------
        ratio : float
            a / b of the ellipse that is set in this scan; 1 without an ellipse.

        Returns
        -------
        Transfer
            The same for this ellipse.
        """
        if self.pixel_size is None or np.isclose(ratio, self.ratio, rtol=1e-9):
            return self
        size, unit = self.pixel_size
        flag = Flag("pixel_size_adapted", {"ratio": float(ratio), "standard": float(self.ratio)})
        return replace(self, pixel_size=(float(size * np.sqrt(ratio / self.ratio)), unit), ratio=float(ratio),
                       decision=replace(self.decision, flags=(*self.flags, flag)))

    @property
    def summary(self) -> str:
        """The quantities that are carried over, as one line of text."""
        values = []
        if self.ellipse is not None:
            values.append(f"ellipse a/b {self.ellipse.ratio} at {np.degrees(self.ellipse.theta):.1f}°")
        if self.pixel_size is not None:
            values.append(f"pixel size {self.pixel_size[0]:.6g} {self.pixel_size[1]}")
        if self.rotation is not None:
            values.append(f"rotation {np.degrees(self.rotation[0]):.2f}°{', flipped' if self.rotation[1] else ''}")
        if self.descan is not None:
            values.append("descan")
        return f"{'; '.join(values) or 'nothing'}; from {self.source}"

    def rows(self):
        shown = [("from", self.source), ("carried over", ", ".join(self.quantities).replace("_", " ") or "nothing")]
        if self.ellipse is not None:
            shown.append(("a/b", f"{self.ellipse.ratio} at {np.degrees(self.ellipse.theta):.1f}°"))
        if self.pixel_size is not None:
            shown.append(("pixel size", f"{self.pixel_size[0]:.6g} {self.pixel_size[1]}"))
        if self.rotation is not None:
            flip = ", flipped" if self.rotation[1] else ""
            shown.append(("rotation", f"{np.degrees(self.rotation[0]):.2f}°{flip}"))
        return [*shown, ("flags", self.reason)]
