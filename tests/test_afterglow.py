"""Afterglow of the detector: it is measured from frames after long steps of the beam, and sigmas include the lag."""

import numpy as np
import py4DSTEM
import pytest

from py4dstem_prenet.core import as_scan
from py4dstem_prenet.core.flags import has_flag
from py4dstem_prenet.detector import estimate_noise
from py4dstem_prenet.origin import afterglow_ratio, lag
from py4dstem_prenet.pipeline import calibrate

RADIUS, EDGE, SIDE = 5.0, 0.5, 64


def scan_with_afterglow(ratio, columns=12, rows=10, span=8.0, electrons=2000, seed=0):
    """Counts of a disk that the descan moves along the rows, and its true positions (2, rows, columns)."""
    rng = np.random.default_rng(seed)
    truth = np.stack(np.meshgrid(np.linspace(30, 32, rows), 30 + np.linspace(0, span, columns), indexing="ij"))
    x, y = np.indices((SIDE, SIDE))
    distance = np.hypot(x - truth[0][..., None, None], y - truth[1][..., None, None])
    mean = electrons / (np.pi * RADIUS**2) / (1 + np.exp((distance - RADIUS) / 0.3)) + 0.02
    frames = mean.reshape(-1, SIDE, SIDE)
    for k in range(1, len(frames)):
        frames[k] += ratio * frames[k - 1]
    return rng.poisson(frames).reshape(rows, columns, SIDE, SIDE).astype(np.uint16), truth


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.25])
def test_the_part_of_the_frame_before_is_measured(ratio):
    data, truth = scan_with_afterglow(ratio)
    positions, valid = truth.reshape(2, -1).T, np.ones(truth[0].size, bool)
    measured = afterglow_ratio(as_scan(data), estimate_noise(data), positions, valid, RADIUS, EDGE)
    assert measured == 0 if ratio == 0 else 0.7 * ratio < measured < 1.1 * ratio
    # Without the frames after the long steps nothing is known.
    valid.reshape(truth[0].shape)[:, 0] = False
    assert afterglow_ratio(as_scan(data), estimate_noise(data), positions, valid, RADIUS, EDGE) == 0


def test_a_disk_lags_by_the_center_of_mass_of_its_earlier_images():
    truth = scan_with_afterglow(0.25)[1]
    behind = lag(truth, 0.25, RADIUS)
    assert behind[1, :, 1:] == pytest.approx(8 / 11 / 3) and np.abs(behind[0]).max() == 0
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
