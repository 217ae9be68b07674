"""Write quantities that were carried over from the calibration of a standard."""

from __future__ import annotations

from . import STANDARD, calibration_of, sign, write_ellipse


def write_transfer(datacube, transfer, **facts) -> None:
    """Write the quantities that were carried over with py4DSTEM's setters; the descan is in the fitted origin.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.
    transfer : Transfer
        Quantities that were carried over.
    **facts
        Facts for `sign`.
    """
    calibration = calibration_of(datacube)
    facts |= {"author": STANDARD, "source": transfer.source, "sha256": transfer.sha256}
    if transfer.ellipse is not None:
        write_ellipse(datacube, transfer.ellipse, covariance=transfer.ellipse.covariance,
                      leading=transfer.ellipse.leading, **facts)
    if transfer.pixel_size is not None:
        size, unit = transfer.pixel_size
        calibration.set_Q_pixel_size(float(size))
        calibration.set_Q_pixel_units(unit)
        sign(datacube, "pixel_size", **transfer.facts["pixel_size"] | facts | {"ratio": transfer.ratio})
    if transfer.rotation is not None:
        rotation, flip = transfer.rotation
        calibration.set_QR_rotation(float(rotation))
        calibration.set_QR_flip(bool(flip))
        sign(datacube, "rotation", **transfer.facts["rotation"] | facts)


def transfer_record(transfer) -> dict:
    """Describe the quantities that were carried over, for the provenance.

    Parameters
    ----------
    transfer : Transfer
        Quantities that were carried over.

    Returns
    -------
    dict
        source, sha256, binning and quantities.
    """
    return {"source": transfer.source, "sha256": transfer.sha256, "binning": transfer.binning,
            "quantities": list(transfer.quantities)}
