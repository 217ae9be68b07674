"""The arguments of `calibrate` by which a user decides a part of the calibration, and what the calibration keeps.

An origin or ellipse that the user, another program or a standard set is kept, unless the user asks for its replacement.
An origin that is kept is also the place where the direct beam is searched.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..core import Ellipse, Flag, OriginFit, OriginMap, PrenetError, Scan, Transfer
from ..descan import MODELS, fit_origin
from ..ellipse import given_ellipse, in_region, judged_ellipse
from ..io import is_kept, read_ellipse
from ..origin import GivenBeam, given_beam
from ..pixel_size import Standard, check_approximate, find_standard
from ..transfer import Plan, decided_transfer, fit_with_descan, planned


@dataclass(frozen=True)
class Choices:
    """What the user decides by hand.

    Attributes
    ----------
    given : GivenBeam or None
        Place and radius of the direct beam, from which the search starts.
    model : str
        Model of the descan surface, or "auto".
    region : numpy.ndarray of bool or None, shape (Rx, Ry)
        Positions that are used for descan and ellipse; None uses all.
    ellipse : bool or Ellipse
        Whether the ellipse is measured, or the ellipse that is set.
    replace : bool
        Whether entries of others in the calibration are replaced.
    plan : Plan or None
        Quantities carried over from a standard.
    settings : dict
        The arguments that were given, as JSON can hold them.
    stored_ellipse : Ellipse or None
        The ellipse that the calibration holds before.
    keeps_ellipse : bool
        Whether it stays, whatever is measured.
    """

    given: GivenBeam | None = None
    model: str = "auto"
    region: np.ndarray | None = None
    ellipse: bool | Ellipse = True
    replace: bool = False
    plan: Plan | None = None
    settings: dict | None = None
    stored_ellipse: Ellipse | None = None
    keeps_ellipse: bool = False

    def searched(self, processed=True):
        """Restrict the positions that count to the region.

        Parameters
        ----------
        processed : numpy.ndarray of bool, shape (Rx * Ry,), or bool, optional
            False for positions that have not been searched.

        Returns
        -------
        numpy.ndarray of bool, shape (Rx * Ry,), or bool
            True where a position was searched and lies in the region.
        """
        return processed if self.region is None else self.region.ravel() & processed

    def restricted(self, origin):
        """Mask an origin outside the region.

        Parameters
        ----------
        origin : OriginMap
            The measured origin.

        Returns
        -------
        OriginMap
            The same maps; positions outside the region are not valid.
        """
        return origin if self.region is None else replace(origin, valid=origin.valid & self.region)

    def fit(self, origin: OriginMap) -> tuple[OriginFit, Flag | None]:
        """Fit the descan: that of the standard, or a surface of the model.

        Parameters
        ----------
        origin : OriginMap
            The measured origin.

        Returns
        -------
        fit : OriginFit
            The fit.
        flag : Flag or None
            Whether the positions show the descan of the standard; None if it is not asked for.
        """
        fit = flag = None
        if self.plan is not None and "descan" in self.plan.quantities:
            fit, flag = fit_with_descan(origin, self.plan)
        return fit_origin(origin, self.model) if fit is None else fit, flag

    def settled(self, own: Ellipse | None, descan: Flag | None = None) -> tuple[Ellipse | None, Transfer | None]:
        """Decide which ellipse is used, and which quantities are carried over.

        Parameters
        ----------
        own : Ellipse or None
            The ellipse that the scan shows.
        descan : Flag or None
            What `fit` said of the descan of the standard.

        Returns
        -------
        ellipse : Ellipse or None
            The ellipse that is set by hand, or that of the scan.
        transfer : Transfer or None
            Quantities carried over; None without a standard.
        """
        transfer = None if self.plan is None else decided_transfer(self.plan, own, descan)
        return judged_ellipse(self.ellipse, own) if isinstance(self.ellipse, Ellipse) else own, transfer

    def applied(self, ellipse: Ellipse | None, transfer: Transfer | None) -> Ellipse | None:
        """Choose the ellipse that the calibration holds in the end, to which pixel size and rotation belong.

        Parameters
        ----------
        ellipse : Ellipse or None
            The ellipse that `settled` returned.
        transfer : Transfer or None
            Quantities carried over.

        Returns
        -------
        Ellipse or None
            That of the standard, the one set by hand, the one that is kept, or that of the scan.
        """
        if transfer is not None and transfer.ellipse is not None:
            return transfer.ellipse
        if isinstance(self.ellipse, Ellipse) or self.stored_ellipse is None:
            return ellipse
        measured = ellipse is not None and ellipse.accepted and not self.keeps_ellipse
        return ellipse if measured else self.stored_ellipse


AUTOMATIC = Choices()  # nothing is decided by hand


def chosen(datacube, scan: Scan, center=None, radius=None, model="auto", region=None, ellipse=True,
           replace=False, like=None, transfer=None, binning=None) -> Choices:
    """Check what the user decides, and add what the calibration keeps.

    Parameters
    ----------
    datacube : DataCube
        The cube.
    scan : Scan
        Its data.
    center : tuple of float or of array_like, optional
        (qx, qy) of the direct beam in pixels, numbers or maps (Rx, Ry).
    radius : float, optional
        Radius of the direct disk, pixels.
    model : {"auto", "constant", "plane", "parabola", "spline"}, optional
        Model of the descan.
    region : tuple of slice or numpy.ndarray of bool, shape (Rx, Ry), optional
        Positions that are used for descan and ellipse.
    ellipse : bool or tuple of float, optional
        Whether to measure the ellipse; or (a, b, theta), which is set: semi-axes in any unit, radians.
    replace : bool, optional
        Whether entries of others in the calibration are replaced.
    like : DataCube, str or path-like, optional
        A calibrated standard.
    transfer : str or iterable of str, optional
        Quantities carried over from it (`transfer.planned`).
    binning : float, optional
        Pixels of the standard along the side of a pixel.

    Returns
    -------
    Choices
        The choices.

    Raises
    ------
    PrenetError
        If an argument is not as described.

    Examples
    --------
    >>> import numpy as np
    >>> from py4DSTEM import DataCube
    >>> from py4dstem_prenet.core import as_scan
    >>> datacube = DataCube(np.ones((2, 2, 32, 32), np.uint8))
    >>> chosen(datacube, as_scan(datacube), model="plane", ellipse=(1.02, 1.0, 0.3)).settings
    {'model': 'plane', 'ellipse': [1.02, 1.0, 0.3]}
    """
    if model not in ("auto", *MODELS):
        raise PrenetError(f"The model of the descan must be auto, {', '.join(MODELS)}, not {model!r}.")
    used = None if region is None else in_region(region, scan.scan_shape)
    given = given_beam(scan, center, radius, used)
    stated = ellipse
    if not isinstance(ellipse, bool):
        ellipse = given_ellipse(ellipse)
    if (given is None or given.center is None) and not replace and is_kept(datacube, "origin"):
        kept = datacube.calibration.get_origin()
        given = given_beam(scan, kept, radius, used)
    if like is None and (transfer is not None or binning is not None):
        raise PrenetError("transfer= and binning= belong to a standard; name the standard with like=.")
    plan = None if like is None else planned(datacube, like, transfer, binning)
    if plan is not None and "ellipse" in plan.quantities and ellipse is not True:
        plan = plan.without("ellipse")  # an argument that names the ellipse wins
    settings = {} if plan is None else {"like": plan.standard.name}
    if center is not None:
        settings["center"] = [float(np.median(q)) for q in center]
    if radius is not None:
        settings["radius"] = float(radius)
    if model != "auto":
        settings["model"] = model
    if used is not None:
        settings["region"] = int(used.sum())
    if ellipse is not True:
        settings["ellipse"] = stated and [float(value) for value in stated]
    if replace:
        settings["replace"] = True
    keeps = ellipse is False or (not replace and is_kept(datacube, "ellipse"))
    return Choices(given, model, used, ellipse, bool(replace), plan, settings, read_ellipse(datacube), keeps)


@dataclass(frozen=True, eq=False)
class KnownCrystal:
    """The crystal of a specimen, as the user states it.

    Attributes
    ----------
    standard : Standard
        The crystal.
    approximate : float or None
        Pixel size, 1/angstrom, known within 10 %; None if the user does not state it.
    region : numpy.ndarray of bool or None, shape (Rx, Ry)
        Positions that show the crystal; None for the whole scan.
    """

    standard: Standard
    approximate: float | None = None
    region: np.ndarray | None = None

    @property
    def settings(self) -> dict:
        """What the user stated, for the provenance; the region as a number of positions."""
        stated = {"approximate": self.approximate,
                  "standard_region": None if self.region is None else int(self.region.sum())}
        return {"standard": self.standard.name} | {k: v for k, v in stated.items() if v is not None}


def known_crystal(standard, approximate, region, scan_shape) -> KnownCrystal | None:
    """Check what the user states about the crystal of a specimen.

    Parameters
    ----------
    standard : str, pathlib.Path, py4DSTEM.process.diffraction.Crystal, Standard or None
        The crystal.
    approximate : float or None
        Pixel size, 1/angstrom, known within 10 %.
    region : tuple of slice, numpy.ndarray of bool, shape (Rx, Ry), or None
        Positions that show the crystal.
    scan_shape : tuple of int
        (Rx, Ry).

    Returns
    -------
    KnownCrystal or None
        None if no crystal is named.

    Raises
    ------
    PrenetError
        If the crystal is unknown, another argument is wrong, or one is given without a crystal.

    Examples
    --------
    >>> known_crystal("Au", 0.02, (slice(0, 2), slice(None)), (4, 5)).settings
    {'standard': 'Au', 'approximate': 0.02, 'standard_region': 10}
    """
    check_approximate(approximate)
    if standard is None:
        for name, value in (("approximate", approximate), ("standard_region", region)):
            if value is not None:
                raise PrenetError(f"{name}= belongs to a known crystal; name the crystal with standard=.")
        return None
    return KnownCrystal(find_standard(standard), approximate, None if region is None else in_region(region, scan_shape))
