"""Patterns from microscopes, where a checkout has them beside it (GPL-3.0 data that the package does not ship)."""

import sys
from functools import cache
from pathlib import Path

import numpy as np
import py4DSTEM
import pytest
from typer.testing import CliRunner

from py4dstem_prenet import cli
from py4dstem_prenet.core.flags import has_flag
from py4dstem_prenet.io import provenance
from py4dstem_prenet.pipeline import calibrate

REAL = Path(__file__).parents[2] / "shared" / "real"
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason="no real patterns beside this checkout")


sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import real  # noqa: E402

# Within three sigmas, but off by more than the table allows: a large disk that is not quite elliptical (0.22 px).
COVERED = ("200kV_CL_300mm",)


# Tests of their own ask more of these than the table does.
ELSEWHERE = ("medipix_au_2x2.npy", "au_rings_xgrating.npy", "bi_rings_beamstop.npy", "nanobeam_ccd_discs.npy",
             "nanobeam_ccd_smear.npy")
PARTS = {"merlin_aupd_scan_16x16.npz": np.s_[::2, ::2]}  # of the positions; benchmarks/real.py calibrates all


@cache
def calibrated(file, array="", mask="", ellipse=True):
    """A pattern or scan, calibrated; and the report. Shared: whoever changes them must copy them."""
    data, good = real.load(REAL, {"file": file, "array": array, "mask": mask})
    datacube = py4DSTEM.DataCube(data[PARTS.get(file, ...)].copy())
    return datacube, calibrate(datacube, mask=good, ellipse=ellipse, progress=False)


@pytest.mark.slow
def test_gold_rings_index_as_gold():
    """The rings of a cross grating: the scale is right, the rings agree, and another lattice is refused."""
    pattern = np.load(REAL / "au_rings_xgrating.npy")[None, None]
    cube = py4DSTEM.DataCube(pattern.copy())
    size = calibrate(cube, standard="Au", progress=False).pixel_size
    assert size.accepted and abs(size.value / 0.0100 - 1) < 0.02
    assert size.decision.numbers["scatter"] < 0.005
    assert not cube.prenet.measure_pixel_size("W", progress=False).accepted


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in real.entries() if row["file"] not in ELSEWHERE],
                         ids=lambda row: ":".join(row[k] for k in ("file", "array", "mask")))
def test_every_pattern_is_right_or_refused(row):
    """The center of `benchmarks/real.csv`, within its tolerance; a refusal where the table asks for one."""
    center, sigma, accepted = real.measured(calibrated(row["file"], row["array"], row["mask"], ellipse=False)[1].origin)
    result = real.verdict(row, center, sigma, accepted)
    assert real.as_wanted(row, result) or (row["array"] in COVERED and result == "covered"), (center, sigma, result)


def cube(name):
    data = np.load(REAL / f"{name}.npy")
    return py4DSTEM.DataCube(data if data.ndim == 4 else data[None, None])


def prenet(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


@pytest.mark.slow
def test_medipix_from_the_command_line(tmp_path):
    """The direct beam, not the center of rings, which lies 2.6 px beside it; and the file says all of it."""
    py4DSTEM.save(str(tmp_path / "scan.h5"), cube("medipix_au_2x2"))
    result = prenet("calibrate", tmp_path / "scan.h5", "-o", tmp_path / "out.h5")
    assert result.exit_code == 0, result.output
    out = py4DSTEM.read(str(tmp_path / "out.h5"))
    for qx0, qy0 in (out.calibration.get_origin(), out.calibration.get_origin_meas()):
        assert np.hypot(qx0 - 125.1, qy0 - 128.7).max() < 0.5
    assert np.array_equal(out.data, np.load(REAL / "medipix_au_2x2.npy"))
    record = provenance.read_provenance(out)
    assert "origin_written" in {flag["flag"] for flag in record["flags"]}
    assert record["noise"]["counting"] and record["noise"]["dose"] == pytest.approx(8.2e5, rel=0.03)
    ellipse = out.calibration.get_ellipse()
    assert ellipse is None or ellipse[0] / ellipse[1] < 1.04


def test_a_blanked_beam_is_reported_and_nothing_is_written(tmp_path):
    np.save(tmp_path / "scan.npy", np.load(REAL / "beam_blanked_ccd_2x2.npy"))
    result = prenet("calibrate", tmp_path / "scan.npy", "-o", tmp_path / "out.h5")
    assert result.exit_code == 1
    assert [p.name for p in tmp_path.iterdir()] == ["scan.npy"]


@pytest.mark.slow
def test_gold_rings_have_the_published_ellipse():
    """Axial ratio 0.9659, major axis at 147.4 degrees from the column axis toward the row axis."""
    datacube, report = calibrated("au_rings_xgrating.npy")
    assert report.ellipse.accepted, report.ellipse.reason
    theta = np.radians(90 - 147.4)
    known = (1 / 0.9659 - 1) * np.array([np.cos(2 * theta), np.sin(2 * theta)])
    assert np.hypot(*(report.ellipse.vector - known)) < 0.006
    a, b, angle = datacube.calibration.get_ellipse()
    assert a / b == pytest.approx(1 / 0.9659, abs=0.006) and np.degrees(angle) == pytest.approx(122.6, abs=4)


@pytest.mark.slow
def test_bismuth_rings_behind_their_beam_stop_report_the_rings_center():
    datacube, report = calibrated("bi_rings_beamstop.npy")
    assert report.origin.feature == "rings" and report.origin.decision.has("beam_hidden")
    assert np.hypot(report.origin.qx0 - 141.7, report.origin.qy0 - 99.3).max() < 0.7
    assert np.isnan(report.origin.radius) and report.ellipse.accepted
    qx0, qy0 = datacube.calibration.get_origin()
    assert np.array_equal([qx0, qy0], [report.fit.qx0, report.fit.qy0])


@pytest.mark.slow
def test_a_ccd_of_many_disks_gets_an_answer_without_an_ellipse_of_its_lattice():
    """About 35 disks of one crystal and negative values: an origin inside, and no ellipse from spots alone."""
    _, report = calibrated("nanobeam_ccd_discs.npy")
    if not report.origin.found:
        assert report.origin.decision.has("beam_ambiguous") or report.origin.decision.has("diffuse_elsewhere")
        return
    assert 40 < report.origin.qx0[0, 0] < 216 and 40 < report.origin.qy0[0, 0] < 216
    assert report.origin.radius == pytest.approx(6.0, abs=1.5)  # that of the disks in the picture
    assert not report.ellipse.accepted


@pytest.mark.slow
def test_a_saturated_smeared_ccd_finds_its_direct_beam_and_no_ellipse_that_it_cannot_know():
    """The read-out smear runs through all rows at the columns of the direct beam, and says where its middle is."""
    datacube, report = calibrated("nanobeam_ccd_smear.npy")
    assert report.origin.found and not report.noise.counting
    pattern = np.load(REAL / "nanobeam_ccd_smear.npy").astype(float)
    far = pattern.reshape(512, 512)[:60].sum(0)  # rows that no disk reaches
    smear = np.convolve(far, np.ones(2 * round(report.origin.radius)), "same").argmax()
    assert report.origin.qy0[0, 0] == pytest.approx(smear, abs=3) and 8 < report.origin.radius < 14
    assert (datacube.calibration.get_ellipse() is None) == (not report.ellipse.accepted)
    assert has_flag(report.written, "ellipse_not_written") == (not report.ellipse.accepted)
