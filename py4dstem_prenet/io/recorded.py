"""What the calibration records of a measured pixel size and rotation, for figures and verdicts.

The signature of an entry (`calibrations.sign`) holds the result under "result"; the radial profile of a standard is the
array "prenet_rings" of the calibration, and the deflection from which a rotation was measured is the `RealSlice`
"prenet_deflection" in the tree of the cube. Other scans do not take them over.
"""

from __future__ import annotations

import numpy as np

from ..core import Decision, Flag, PixelSize, Rotation
from . import DEFLECTION, RING_PROFILE, signatures


def read_pixel_size(datacube) -> PixelSize | None:
    """Read the pixel size that was measured in a scan from a known crystal.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.

    Returns
    -------
    PixelSize or None
        With its rings and flags; None if the pixel size in the calibration was not measured in this scan.
    """
    stored = _stored(datacube, "pixel_size")
    if stored is None:
        return None
    arrays = {name: _array(stored[name]) for name in ("g", "ring_errors", "ring_sigmas", "covariance", "vector",
                                                      "threefold")}
    profile = np.array(datacube.calibration._params.get(RING_PROFILE, np.empty((3, 0))), float)
    numbers = {name: _number(stored[name]) for name in ("value", "sigma", "barrel", "barrel_sigma", "threefold_sigma",
                                                        "reference")}
    return PixelSize(standard=stored["standard"], decision=_decision(stored), evidence=stored["evidence"],
                     hkl=tuple(stored["hkl"]), profile=profile, **numbers, **arrays)


def read_rotation(datacube) -> Rotation | None:
    """Read the rotation that was measured in a scan.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.

    Returns
    -------
    Rotation or None
        With its estimates, flags and the deflection; None if the rotation in the calibration was not measured in this
        scan.
    """
    stored = _stored(datacube, "rotation")
    if stored is None:
        return None
    field = np.array(datacube.tree(DEFLECTION).data) if DEFLECTION in datacube.treekeys else None
    if field is not None and field.shape != (2, *datacube.Rshape):
        field = None
    sources = {name: (_number(angle), bool(flip), _number(sigma)) for name, (angle, flip, sigma) in
               stored["sources"].items()}
    return Rotation(_number(stored["degrees"]), bool(stored["flip"]), _number(stored["sigma"]),
                    bool(stored["half_turn_determined"]), _decision(stored), sources, field)


def _stored(datacube, entry):
    """The recorded result of an entry that was not changed since."""
    signature = signatures(datacube).get(entry, {})
    return signature.get("result") if signature.get("unchanged") else None


def _decision(stored):
    decision = stored["decision"]
    flags = tuple(Flag(flag["name"], flag["numbers"]) for flag in decision["flags"])
    return Decision(decision["accepted"], flags, decision["numbers"])


def _number(value):
    """A number of JSON, in which NaN is null."""
    return float("nan") if value is None else float(value)


def _array(values):
    return np.array(values, dtype=object).astype(float)  # None becomes NaN
