"""A small scan, and results that are written into its calibration."""

import types

import numpy as np
import py4DSTEM
from py4DSTEM import DataCube

from py4dstem_prenet.core import Decision
from py4dstem_prenet.io import calibrations, provenance

RSHAPE, QSHAPE = (3, 4), (40, 48)


def origin_map(**changes):
    rx, ry = np.mgrid[: RSHAPE[0], : RSHAPE[1]]
    values = {
        "qx0": 19.5 + 0.3 * rx + 0.1 * ry,
        "qy0": 24.0 - 0.2 * rx + 0.05 * ry,
        "sigma_qx0": np.full(RSHAPE, 0.02),
        "sigma_qy0": np.full(RSHAPE, 0.03),
        "valid": np.ones(RSHAPE, bool),
        "radius": np.float32(5.0),
        "radius_sigma": 0.03,
        "found": True,
        "reason": "",
        "feature": "direct beam",
        "stop": None,
        "decision": Decision(True),
    }
    return types.SimpleNamespace(**{**values, **changes})


def origin_fit(**changes):
    measured = origin_map()
    return types.SimpleNamespace(**{"qx0": measured.qx0, "qy0": measured.qy0, "accepted": True, **changes})


def ellipse(**changes):
    values = {"a": np.float64(1.015), "b": np.float64(0.985), "theta": np.float64(0.4), "accepted": True}
    return types.SimpleNamespace(**{**values, **changes})


def blank_cube():
    """A scan of disks without a calibration."""
    rng = np.random.default_rng(0)
    x, y = np.mgrid[: QSHAPE[0], : QSHAPE[1]]
    m = origin_map()
    beam = np.hypot(x - m.qx0[..., None, None], y - m.qy0[..., None, None]) < 5
    return DataCube(rng.poisson(1 + 20 * beam).astype(np.uint16), name="scan")


def written_cube():
    """A scan with all that this package writes."""
    cube = blank_cube()
    calibrations.write_origin(cube, origin_map())
    calibrations.write_fit(cube, origin_fit())
    calibrations.write_ellipse(cube, ellipse())
    record = provenance.make_provenance(cube, weights={"center": "ab12"}, settings={"note": "Good: 1 ± 0.1 px."})
    provenance.write_provenance(cube, record)
    return cube


def bragg_vectors(cube, qx, qy):
    """Bragg vectors at (qx, qy) from the origin of every pattern, in the cube's tree."""
    m = origin_map()
    vectors = py4DSTEM.BraggVectors(RSHAPE, QSHAPE)
    for i, j in np.ndindex(RSHAPE):
        peaks = np.zeros(len(qx), vectors._v_uncal.dtype)
        peaks["qx"], peaks["qy"], peaks["intensity"] = m.qx0[i, j] + qx, m.qy0[i, j] + qy, 1
        vectors._v_uncal[i, j].add(peaks)
    cube.attach(vectors)
    cube.calibration.register_target(vectors)
    vectors.setcal()
    return vectors


def saved(calibration):
    return {k: np.copy(v) for k, v in calibration._params.items() if not k.startswith("_")}


def assert_same(one, two):
    assert one.keys() == two.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])
