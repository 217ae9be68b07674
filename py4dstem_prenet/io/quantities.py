"""Write pixel size, rotation and probe into a calibration."""

import json
from dataclasses import replace

import numpy as np

from ..core import PrenetError
from . import calibration_of, sign, stored_ratio, to_json, write_ellipse

RING_PROFILE = "prenet_rings"
DEFLECTION = "prenet_deflection"
PROBE = "prenet_probe"
KERNEL_REACH = 2.0  # radii of the disk; outer radius of the negative annulus of a probe's kernel


def write_rotation(datacube, rotation, **facts):
    """Write rotation and flip between scan and pattern with `set_QR_rotflip_degrees`, if they were accepted.

    py4DSTEM's `BraggVectors` and strain maps use them from then on. An angle that is known up to half a turn is written
    as it is, in (-90, 90] degrees; the record in the calibration says so.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The scan whose rotation was measured.
    rotation : Rotation
        The rotation.
    **facts
        Facts for `sign`.

    Returns
    -------
    bool
        Whether it was written.
    """
    from py4DSTEM import RealSlice

    if not rotation.accepted:
        return False
    calibration_of(datacube).set_QR_rotflip_degrees((float(rotation.degrees), bool(rotation.flip)))
    if rotation.deflection is not None:
        datacube.attach(RealSlice(np.array(rotation.deflection), name=DEFLECTION, slicelabels=["qx", "qy"]))
    sign(datacube, "rotation", half_turn_determined=bool(rotation.half_turn_determined), sigma=float(rotation.sigma),
         result=replace(rotation, deflection=None), **facts)
    return True


def write_pixel_size(datacube, size, ellipse: bool = True, **facts):
    """Write a pixel size with `set_Q_pixel_size` and `set_Q_pixel_units`, if it was accepted.

    An ellipse that the lattice of one crystal determines with it is written before, if the calibration has none.

    py4DSTEM's elliptical correction multiplies the geometric-mean radius by sqrt(b / a). The pixel size is therefore
    multiplied by sqrt(a / b) if an ellipse is set, so that `BraggVectors.cal` and `PolarDatacube` return 1/angstrom.
    Distortions beyond the ellipse, which py4DSTEM cannot hold, are recorded for `corrected`.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The scan whose pixel size was measured; its ellipse is written already.
    size : PixelSize
        The pixel size.
    ellipse : bool
        False if no ellipse is to be written.
    **facts
        Facts for `sign`.

    Returns
    -------
    bool
        Whether it was written.
    """
    if not size.accepted:
        return False
    calibration, fitted = calibration_of(datacube), size.ellipse
    if ellipse and fitted is not None and calibration.get_ellipse() is None:
        write_ellipse(datacube, fitted, covariance=fitted.covariance, used=fitted.used, leading=fitted.leading, **facts)
    ratio = stored_ratio(calibration)
    value = float(size.value * np.sqrt(ratio))
    calibration.set_Q_pixel_size(value)
    calibration.set_Q_pixel_units("A^-1")
    sign(datacube, "pixel_size", standard=size.standard, value=value, sigma=float(size.sigma * np.sqrt(ratio)),
         ratio=ratio, barrel=float(size.barrel), threefold=[float(v) for v in size.threefold],
         reference=float(size.reference), result=replace(size, profile=np.empty(0)), **facts)
    calibration[RING_PROFILE] = np.array(size.profile, float)
    return True


def write_probe(datacube, image):
    """Make a py4DSTEM `Probe` with its kernel, attach it to a cube, and store the convergence semi-angle.

    The kernel is that of `Probe.get_kernel(mode="sigmoid")` with an annulus from one to two radii, so that it sums to
    zero; it is ready for `find_Bragg_disks(template=probe.kernel)`.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The scan whose probe was measured.
    image : ProbeImage
        The image of the probe, accepted.

    Returns
    -------
    py4DSTEM.Probe
        The probe, in the tree of the cube as "probe".

    Raises
    ------
    PrenetError
        If the image was refused.
    """
    from py4DSTEM import Metadata, Probe

    if not image.accepted:
        raise PrenetError(f"No probe was made. {image.reason}")
    probe = Probe(np.array(image.image, dtype=np.float64))
    probe.alpha, probe.origin = float(image.radius), tuple(map(float, image.center))
    probe.get_kernel(mode="sigmoid", origin=image.center, returncalc=False,
                     radii=(float(image.radius), KERNEL_REACH * float(image.radius)))
    probe.metadata = Metadata(PROBE, {"json": json.dumps(to_json(replace(image, image=None)))})
    datacube.attach(probe)
    calibration = calibration_of(datacube)
    calibration.set_convergence_semiangle_pixels(float(image.radius))
    if image.semiangle_mrad is not None:
        calibration.set_convergence_semiangle_mrad(float(image.semiangle_mrad))
    return probe


def probe_optics(datacube):
    """Read the pixel size and the acceleration voltage from the calibration.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        The cube.

    Returns
    -------
    pixel_size : float or None
        Size of a detector pixel, 1/angstrom; None if it is not calibrated in this unit.
    voltage : float or None
        Acceleration voltage, V; None if the calibration does not hold it as "accelerating_voltage".
    """
    calibration = datacube.calibration
    if calibration is None:
        return None, None
    size = float(calibration.get_Q_pixel_size()) if calibration.get_Q_pixel_units() == "A^-1" else None
    voltage = calibration._params.get("accelerating_voltage")
    return size, None if voltage is None else float(voltage)
