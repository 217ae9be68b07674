"""The state of a viewer without its widgets: position, corrections, and the last result."""

from __future__ import annotations

import numpy as np

from ..core import CalibrationReport, PrenetError
from ..io import read_mask, undo
from ..pipeline import calibrate
from . import Edits, PatternSource, PatternView

GIVEN_IMAGE = "given image"  # title of an image of unknown unit


class Session:
    """A scan that is looked at, corrected and calibrated.

    Parameters
    ----------
    datacube : DataCube
        The scan; `apply` writes into its calibration.
    denoised : DataCube, optional
        The same scan, denoised.
    image : numpy.ndarray, shape (Rx, Ry), optional
        The image of the scan in which positions are chosen; a virtual image by default.
    device : str, optional
        "auto", "cpu", "cuda" or "mps".

    Attributes
    ----------
    position : tuple of int
        Row and column of the scan position that is shown.
    edits : Edits
        The corrections.
    clean, disks : bool
        Whether patterns are denoised, and Bragg disks searched.
    report : CalibrationReport or None
        Report of the last `apply`.
    message : str
        Result of the last action, a sentence.

    Examples
    --------
    >>> from py4dstem_prenet.demo import load_scan
    >>> session = Session(load_scan()[0])
    >>> session.select(2, 30)
    >>> session.position
    (2, 19)
    >>> session.move_center(60.0, 66.5)
    >>> session.edits.arguments()
    {'center': (60.0, 66.5)}
    >>> session.remove_center()
    >>> session.edits.arguments()
    {}
    """

    def __init__(self, datacube, denoised=None, image=None, device="auto"):
        self.datacube, self.device = datacube, device
        self.source = PatternSource(datacube, denoised, device)
        shape = self.source.scan.shape
        if image is not None and np.shape(image) != tuple(shape[:2]):
            raise PrenetError(f"The image has the shape {np.shape(image)}, and the scan {tuple(shape[:2])}; give an "
                              "image of the scan.")
        self._given_image, self._image = image, None
        self.edits = Edits(tuple(shape[:2]), tuple(shape[2:]), mask=read_mask(datacube))
        self.position = shape[0] // 2, shape[1] // 2
        self.clean = self.disks = False
        self.report: CalibrationReport | None = None
        self.message = ""
        self._seen = None

    @property
    def fitted(self):
        """Origin (qx0, qy0) in the calibration, shape (Rx, Ry) each; None if there is none."""
        return None if self.source.fitted is None else self.source.fitted[:2]

    @property
    def image(self):
        """The image of the scan, and its title."""
        if self._given_image is not None:
            return np.asarray(self._given_image), GIVEN_IMAGE
        if self._image is None:
            self._image = self.source.image()
        return self._image

    @property
    def center(self) -> tuple[float, float] | None:
        """Position of the direct beam here, set by hand or from the calibration; None if neither is known."""
        if self.position in self.edits.centers:
            return self.edits.centers[self.position]
        if self.edits.centers and self.fitted is not None:
            return tuple(float(q[self.position]) for q in self.edits.center(self.fitted))
        return None if self.fitted is None else tuple(float(q[self.position]) for q in self.fitted)

    def look(self) -> PatternView:
        """Read the data of the present position.

        Returns
        -------
        PatternView
            The pattern, with the origin, sigma and ellipse of the calibration.
        """
        key = self.position, self.clean, self.disks
        if self._seen is None or self._seen[0] != key:
            try:
                seen = self.source.look(self.position, self.clean, self.disks)
            except PrenetError as error:  # disks need a direct beam, denoising needs electrons
                self.message, self.clean, self.disks = str(error), False, False
                seen = self.source.look(self.position)
            self._seen = (self.position, self.clean, self.disks), seen
        return self._seen[1]

    def select(self, row: float, column: float) -> None:
        """Go to a scan position, the nearest one inside the scan.

        Parameters
        ----------
        row, column : float
            Row and column of the scan.
        """
        self.position = tuple(int(np.clip(round(k), 0, n - 1))
                              for k, n in zip((row, column), self.edits.scan_shape, strict=True))

    def move_center(self, qx: float, qy: float) -> None:
        """Set the position of the direct beam in the pattern that is shown.

        Parameters
        ----------
        qx, qy : float
            Row and column of the pattern, pixels.
        """
        try:
            self.edits.set_center(self.position, qx, qy)
            self.message = f"The center at position {self.position} was set by hand to ({qx:.1f}, {qy:.1f}) px."
        except PrenetError as error:
            self.message = str(error)

    def remove_center(self) -> None:
        """Remove the center that was placed in the pattern that is shown; without one, nothing changes."""
        if self.edits.centers.pop(self.position, None) is not None:
            self.message = f"The center at position {self.position} is no longer set by hand."

    def apply(self, progress=True) -> CalibrationReport | None:
        """Calibrate with the corrections, and write accepted results.

        Parameters
        ----------
        progress : bool, optional
            Whether to show progress bars.

        Returns
        -------
        CalibrationReport or None
            The report; None if the calibration was refused; `message` states the reason.
        """
        try:
            self.report = calibrate(self.datacube, device=self.device, progress=progress,
                                    **self.edits.arguments(self.fitted))
        except PrenetError as error:
            self.report, self.message = None, str(error)
            return None
        written = self.report.written
        warnings = [flag for flag in self.report.flags if flag.severity != "info" and flag not in written]
        self.message = "\n".join(flag.sentence for flag in (*warnings, *written))
        self._changed()
        return self.report

    def clear(self) -> None:
        """Remove all corrections, and with them every mask; nothing is written before `apply`."""
        self.edits.clear()
        if read_mask(self.datacube) is None:
            self.edits.mask = None
        self.message = ""

    def undo(self) -> None:
        """Restore the calibration before the last change; the corrections stay, until `clear`."""
        try:
            undo(self.datacube)
            self.report, self.message = None, "The previous calibration was restored."
            if self.edits.arguments():
                self.message += " The corrections are still set; Clear removes them."
        except PrenetError as error:
            self.message = str(error)
        self._changed()

    def _changed(self):
        self.source.refresh()
        self._image = self._seen = None
