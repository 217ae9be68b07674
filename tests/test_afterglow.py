"""Afterglow of the detector: it is measured from frames after long steps of the beam, and sigmas include the lag."""

import numpy as np
import py4DSTEM
import pytest

from py4dstem_prenet.core import as_scan
from py4dstem_prenet.core.flags import has_flag
from py4dstem_prenet.detector import estimate_noise
from py4dstem_prenet.origin import Afterglow, lag, measure_afterglow
from py4dstem_prenet.pipeline import calibrate

RADIUS, EDGE, SIDE = 5.0, 0.5, 64


def scan_with_afterglow(ratio, columns=12, rows=10, span=8.0, electrons=2000, seed=0, decay=None, spots=0.0):
    """Counts of a disk that the descan moves along the rows, and its true positions (2, rows, columns).

    The part `ratio` of a frame is left in the next one, and falls by the factor `decay` (`ratio`) from frame to frame.
    Two Bragg disks have up to `spots` times the brightness of the beam, which grows along the rows.
    """
    rng = np.random.default_rng(seed)
    truth = np.stack(np.meshgrid(np.linspace(30, 32, rows), 30 + np.linspace(0, span, columns), indexing="ij"))
    x, y = np.indices((SIDE, SIDE))
    mean = np.full((rows, columns, SIDE, SIDE), 0.02)
    for dx, dy, brightness in ((0, 0, np.ones(columns)), (0, 13, spots * np.linspace(0, 1, columns)),
                               (-9, -11, spots * np.linspace(1, 0, columns))):
        distance = np.hypot(x - truth[0][..., None, None] - dx, y - truth[1][..., None, None] - dy)
        mean += brightness[:, None, None] * electrons / (np.pi * RADIUS**2) / (1 + np.exp((distance - RADIUS) / 0.3))
    frames, image = mean.reshape(-1, SIDE, SIDE), np.zeros((SIDE, SIDE))
    for frame in frames:
        left = image.copy()
        image[:] = ratio * frame + (ratio if decay is None else decay) * image
        frame += left
    return rng.poisson(frames).reshape(rows, columns, SIDE, SIDE).astype(np.uint16), truth


def measured(data, truth, valid=None):
    valid = np.ones(truth[0].size, bool) if valid is None else valid
    return measure_afterglow(as_scan(data), estimate_noise(data), truth.reshape(2, -1).T, valid, RADIUS, EDGE)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.25])
def test_the_part_of_the_frame_before_is_measured(ratio):
    data, truth = scan_with_afterglow(ratio)
    glow = measured(data, truth)
    assert glow.amount == 0 if ratio == 0 else 0.7 * ratio < glow.amount < 1.2 * ratio
    # Without the frames after the long steps nothing is known.
    valid = np.ones(truth[0].shape, bool)
    valid[:, 0] = False
    assert measured(data, truth, valid.ravel()).amount == 0


@pytest.mark.parametrize("amount, decay", [(0.05, 0.9), (0.02, 0.97)])
def test_a_slow_image_is_measured_and_delays_the_beam(amount, decay):
    """Only the first frames after a step were compared, in which a slow image hardly fades."""
    data, truth = scan_with_afterglow(amount, decay=decay, columns=16, rows=14)
    glow = measured(data, truth)
    assert 0.6 * amount < glow.amount < 1.6 * amount and abs(np.log(glow.decay) / np.log(decay) - 1) < 0.6
    known, found = (np.median(lag(truth, some, RADIUS)[1]) for some in (Afterglow(amount, decay), glow))
    assert known > 0.15 and found == pytest.approx(known, rel=0.3)


@pytest.mark.parametrize("ratio", [0.0, 0.1])
def test_few_rows_show_afterglow_if_it_is_clear(ratio):
    data, truth = scan_with_afterglow(ratio, rows=6)
    assert measured(data, truth).amount == pytest.approx(ratio, abs=0.02)


def test_disks_that_become_brighter_along_the_rows_are_no_afterglow():
    data, truth = scan_with_afterglow(0.0, columns=16, rows=14, span=13.0, spots=0.5)
    assert measured(data, truth).amount == 0


def test_a_disk_lags_by_the_center_of_mass_of_its_earlier_images():
    truth = scan_with_afterglow(0.25)[1]
    behind = lag(truth, Afterglow(0.25, 0.25), RADIUS)
    assert behind[1, :, 6:] == pytest.approx(8 / 11 / 3, rel=0.01) and np.abs(behind[0]).max() < 1e-3
    assert not behind[:, :, 0].any()  # the previous image does not overlap the disk


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.0, 0.25])
def test_sigmas_include_the_lag(ratio):
    data, truth = scan_with_afterglow(ratio, columns=16, rows=14, span=13.0, seed=1)
    report = calibrate(py4DSTEM.DataCube(data), progress=False, ellipse=False)
    error = np.stack([report.fit.qx0, report.fit.qy0]) - truth
    sigma = np.stack([report.fit.sigma_qx0, report.fit.sigma_qy0])
    assert has_flag(report.flags, "afterglow") == (ratio > 0)
    if ratio:  # the lag along the rows is a quarter of a pixel or more
        assert np.median(error[1]) < -0.2 and 0.8 < np.median(np.abs(error[1]) / sigma[1]) < 2
    else:
        assert np.abs(error).max() < 0.1 and np.median(sigma) < 0.05
