"""A specimen that is a known crystal, from which `calibrate` measures the pixel size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core import PrenetError
from ..ellipse import in_region
from ..pixel_size import Standard, check_approximate, find_standard


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
