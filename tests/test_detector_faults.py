"""What real detectors do wrong, simulated with truth: the calibration is right within its own sigmas, or it is flagged.

Beside the fault matrix (`tests/faults`), this holds another scan, whose sigmas have to describe the errors of all
positions, of the descan and of the ellipse, unless a flag warned.
"""

import warnings

import numpy as np
import py4DSTEM
import pytest
from scans import simulated
from scipy.ndimage import gaussian_filter

from py4dstem_prenet.core import as_scan
from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.core.flags import has_flag
from py4dstem_prenet.detector import estimate_noise
from py4dstem_prenet.pipeline import calibrate

SCAN = dict(scan=(5, 6), shape=(96, 88), dose=30_000.0, ratio=1.04, theta=0.9, seed=23)


def counts():
    return simulated(**SCAN).counts.astype(np.int64)


def middle():
    truth = simulated(**SCAN).truth
    return round(float(truth["qx0"].mean())), round(float(truth["qy0"].mean()))


def noise(scale, seed=0):
    return np.random.default_rng(seed).normal(0, scale, counts().shape)


def changed(part, value):
    data = counts()
    data[part] = value
    return data.astype(np.uint16)


def camera(gain=23.0, offset=400.0, readout=30.0):
    return np.rint(counts() * gain + offset + noise(readout)).clip(0).astype(np.uint16)


def wrapped(over):
    """Over: the largest count, as a multiple of what 16 bits hold."""
    return (np.rint(counts() * (over * 2**16 / counts().max())).astype(np.int64) % 2**16).astype(np.uint16)


def cross():
    """Two rows and two columns between chips that see nothing, through the direct beam."""
    x, y = middle()
    data = counts()
    data[:, :, x : x + 2] = 0
    data[..., y : y + 2] = 0
    return data.astype(np.uint16)


def wide_cross():
    """Rows and columns beside the gap, away from the beam, whose pixels are twice as large and count twice."""
    data = counts()
    data[:, :, 20:22] *= 2
    data[..., 70:72] *= 2
    return data.astype(np.uint16)


def shared():
    """Half of every electron's charge in its neighbors: noise that they share."""
    return np.rint(gaussian_filter(counts() * 40.0, (0, 0, 0.6, 0.6)) + 200 + noise(5)).astype(np.uint16)


def hot_rows():
    data = counts()
    data[:, :, 30] += 200
    data[:, :, middle()[0] + 3] += 40
    return data.astype(np.uint16)


def hot_in_the_beam():
    """A pixel that adds as much as the direct disk is bright, in it."""
    x, y = middle()
    truth = simulated(**SCAN).truth
    bright = truth["dose"] / (np.pi * truth["radius"] ** 2)
    data = counts()
    data[:, :, x - 1, y + 2] += np.random.default_rng(1).poisson(bright, data.shape[:2])
    return data.astype(np.uint16)


def bar():
    return changed(np.s_[..., middle()[0] - 2 : middle()[0] + 1, 30:70], 500)


REFUSED = object()  # the data are refused before any work
# What is made, and the flag that has to be raised; None: what is found must be right without one.
FAULTS = {
    "none": (lambda: counts().astype(np.uint16), None),
    "wrapped at 16 bits": (lambda: wrapped(1.6), None),
    "read as signed": (lambda: wrapped(0.9).view(np.int16), REFUSED),
    "a chip gap cross, dead": (cross, "dead_lines"),
    "a chip gap cross, large pixels": (wide_cross, None),
    "a burnt-in scale bar": (lambda: changed(np.s_[..., 88:91, 55:80], 500), "unresponsive"),
    "a bar in the direct beam": (bar, "unresponsive"),
    "correlated noise": (shared, None),
    "a square root": (lambda: (10 * counts() ** 0.5).astype(np.float32), "clipped"),
    "gamma of 0.7": (lambda: (counts() ** 0.7).astype(np.float32), "nonlinear"),
    "hot rows": (hot_rows, None),
    "a hot pixel in the beam": (hot_in_the_beam, None),
    "a dead quadrant": (lambda: changed(np.s_[..., : middle()[0], : middle()[1]], 0), "unresponsive"),
    "gain and offset unknown": (camera, None),
    "saturated": (lambda: np.minimum(counts(), 200).astype(np.uint16), "saturated"),
    "an inverted camera": (lambda: 65535 - camera(), "inverted"),
    "inverted counts": (lambda: (4000 - counts()).astype(np.uint16), REFUSED),
}
QUICK = {"none", "read as signed"}  # the others come in the full run
WITHOUT_BEAM = {"an inverted camera"}  # flagged, and no beam is found


@pytest.mark.parametrize("fault", [
    pytest.param(fault, marks=() if fault in QUICK else pytest.mark.slow) for fault in FAULTS])
def test_a_fault_is_flagged_or_does_no_harm(fault):
    """Without a flag, positions are off by what their sigmas say; with one, hardly by more. The error of the descan,
    common to many positions, stays within the sigma of a position; without a flag, within 0.06 px. An ellipse that is
    accepted is right."""
    make, expected = FAULTS[fault]
    datacube, truth = py4DSTEM.DataCube(make()), simulated(**SCAN).truth
    if expected is REFUSED:
        with pytest.raises(PrenetError):
            calibrate(datacube, progress=False)
        assert datacube.calibration.get_origin_meas() is None
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        report = calibrate(datacube, progress=False)
    origin, fit, ellipse = report.origin, report.fit, report.ellipse
    assert expected is None or has_flag(report.noise.flags, expected), [flag.name for flag in report.flags]
    assert origin.found == (fault not in WITHOUT_BEAM)
    if not origin.found:
        assert fit is None and ellipse is None
        return
    off = [(getattr(origin, q) - truth[q]) / getattr(origin, f"sigma_{q}") for q in ("qx0", "qy0")]
    assert np.sqrt(np.mean(np.square(off)[:, origin.valid])) < (1.5 if expected is None else 2.5)
    distance = np.median(np.hypot(fit.qx0 - truth["qx0"], fit.qy0 - truth["qy0"]))
    sigma = np.median(np.hypot(origin.sigma_qx0, origin.sigma_qy0)[origin.valid])
    assert distance < 1.2 * sigma and (expected is not None or distance < 0.06)
    eps = truth["a"] / truth["b"] - 1
    wrong = ellipse.vector - eps * np.array([np.cos(2 * truth["theta"]), np.sin(2 * truth["theta"])])
    assert not ellipse.accepted or wrong @ np.linalg.solve(ellipse.covariance, wrong) < 9
    assert ellipse.accepted or fault != "none"


@pytest.mark.parametrize("bits", [6, 12])
@pytest.mark.parametrize("over, expected", [(0.8, False), (1.2, True), (1.6, True)])
def test_counters_narrower_than_the_data_type_are_told_where_they_wrap(bits, over, expected):
    bright = np.random.default_rng(bits).poisson(counts() * (over * 2**bits / counts().max()))
    if not expected:
        bright = bright.clip(max=2**bits - 1)
    noise = estimate_noise(as_scan((bright % 2**bits).astype(np.uint16)))
    limits = [flag.numbers["limit"] for flag in noise.flags if flag.name == "wrapped"]
    assert limits == [2**bits] * expected


@pytest.mark.slow
@pytest.mark.parametrize("cut", [-3, 4, 12])
def test_a_dead_half_of_a_camera_is_masked_and_the_beam_is_right_or_refused(cut):
    """The dead half has read-out noise, too; its edge lies `cut` pixels below the mean position of the beam."""
    rng = np.random.default_rng(5)
    rows, columns = np.indices((10, 10))
    qx, qy = 50.3 + 0.2 * rows, 46.6 - 0.25 * columns
    x, y = np.indices((96, 96))
    radius = np.hypot(x - qx[..., None, None], y - qy[..., None, None])
    electrons = 15 * np.clip(6.5 - radius, 0, 1) + 1.5 * np.exp(-radius / 25)
    electrons[:, :, round(qx.mean()) + cut :] = 0
    data = 20 * rng.poisson(electrons) + 300 + rng.normal(0, 8, electrons.shape) + rng.normal(0, 5, (10, 10, 96, 1))
    report = calibrate(py4DSTEM.DataCube(np.rint(data).astype(np.uint16)), progress=False, ellipse=False)
    assert has_flag(report.noise.flags, "dead_part")
    assert report.noise.bad_pixels[round(qx.mean()) + cut :].all() and not report.noise.bad_pixels[:40].any()
    assert report.origin.found or cut < 12
    if report.origin.found:
        valid = report.origin.valid
        error = np.hypot(report.origin.qx0 - qx, report.origin.qy0 - qy)[valid]
        sigma = np.hypot(report.origin.sigma_qx0, report.origin.sigma_qy0)[valid]
        assert np.median(error) < max(0.15, 3 * np.median(sigma))
