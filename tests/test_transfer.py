"""What a standard tells of another scan: carried over, converted, tested and refused."""

import importlib
from datetime import datetime

import numpy as np
import py4DSTEM
import pytest
from dm4 import write_dm4
from opened import signal
from py4DSTEM import DataCube, Metadata
from scans import distance, origin_map, simulated
from test_pipeline import refused
from typer.testing import CliRunner

import py4dstem_prenet
from py4dstem_prenet import calibrate, cli
from py4dstem_prenet.core import ellipse_vector
from py4dstem_prenet.ellipse.decide import decide_ellipse
from py4dstem_prenet.io import author_of, read_frame, read_provenance, sign
from py4dstem_prenet.transfer import (
    Conditions,
    conditions_of,
    decided_transfer,
    fit_with_descan,
    planned,
    read_standard,
)

pytestmark = pytest.mark.usefixtures("beams_learned_once")

OPTIONS = dict(scan=(6, 6), shape=(96, 96), dose=20_000.0, ratio=1.04, theta=0.6, seed=4)
SIZE, ROTATION = 0.0125, np.radians(13.0)


def cube(name="scan", **options):
    return DataCube(np.array(simulated(**(OPTIONS | options)).counts), name=name)


def blank(shape=(4, 4, 96, 96), name="scan"):
    return DataCube(np.broadcast_to(np.uint8(0), shape), name=name)


def standard(shape=(4, 4, 96, 96), ratio=1.04):
    gold = blank(shape, "gold")
    gold.calibration.set_ellipse((ratio, 1.0, 0.6))
    gold.calibration.set_Q_pixel_size(SIZE)
    gold.calibration.set_Q_pixel_units("A^-1")
    gold.calibration.set_QR_rotflip((ROTATION, True))
    return gold


def rings(vector, sigma):
    return decide_ellipse({"rings": (np.asarray(vector, float), sigma**2 * np.eye(2))}, [], continuity=1.0)


@pytest.fixture(scope="module")
def gold(tmp_path_factory):
    """A calibrated scan with pixel size and rotation, and its files with and without patterns."""
    folder = tmp_path_factory.mktemp("gold")
    gold = cube("gold")
    calibrate(gold, progress=False)
    gold.calibration.set_Q_pixel_size(SIZE)
    gold.calibration.set_Q_pixel_units("A^-1")
    gold.calibration.set_QR_rotflip((ROTATION, True))
    gold.prenet.save(folder / "gold.h5")
    gold.prenet.save(folder / "calibration.h5", data=False)
    return gold, folder


@pytest.mark.slow
def test_a_standard_is_carried_over(gold):
    gold, folder = gold
    hashes, scans = set(), []
    for like in (gold, folder / "gold.h5", str(folder / "calibration.h5")):
        scan = cube(seed=7, dose=3000.0)
        report = calibrate(scan, progress=False, like=like)
        assert report.transfer.accepted and report.transfer.quantities == ("ellipse", "pixel_size", "rotation")
        assert scan.calibration.get_ellipse() == pytest.approx(gold.calibration.get_ellipse())
        assert (scan.calibration.get_Q_pixel_size(), scan.calibration.get_Q_pixel_units()) == (SIZE, "A^-1")
        assert scan.calibration.get_QR_rotation() == pytest.approx(ROTATION) and scan.calibration.get_QR_flip()
        assert author_of(scan, "ellipse") == author_of(scan, "pixel_size") == "a standard"
        record = read_provenance(scan)["transfer"]
        hashes.add(record["sha256"])
        scans.append(scan)
        assert record["source"] in ("gold", "gold.h5", "calibration.h5")
        written = next(flag for flag in report.written if flag.name == "standard_written")
        assert written.numbers["quantities"] == ["ellipse", "pixel_size", "rotation"]
        summary = {flag.name: flag.numbers for flag in report.summary}
        assert summary["summary_pixel_size_unsure"]["value"] == SIZE  # set by hand in the standard
        assert summary["summary_ellipse"]["ratio"] == pytest.approx(np.divide(*gold.calibration.get_ellipse()[:2]))
    assert len(hashes) == 1  # of the values, wherever they lie
    again = calibrate(scan, progress=False)  # what the calibration holds is part of the summary
    assert {"summary_pixel_size_unsure", "summary_rotation_unsure"} <= {flag.name for flag in again.summary}
    before = scans[0]
    before.prenet.undo()
    assert before.calibration.get_Q_pixel_size() == 1 and before.calibration.get_ellipse() is None
    assert before.calibration.get_Q_pixel_units() == "pixels"


@pytest.mark.slow
def test_binned_cropped_and_saved_scans_get_the_same(gold, tmp_path):
    """Transfer, then bin and crop; or bin and crop and save, then transfer."""
    gold, _ = gold
    scan = cube(seed=7)
    calibrate(scan, progress=False, like=gold)
    direct = scan.prenet.crop_Q((8, 88, 4, 92)).prenet.bin_Q(2)
    small = cube(seed=7).prenet.crop_Q((8, 88, 4, 92)).prenet.bin_Q(2)
    assert read_frame(small).binning == 2 and read_frame(small).offset == (8, 4)
    small.prenet.save(tmp_path / "small.h5")
    again = py4DSTEM.read(str(tmp_path / "small.h5"))
    report = calibrate(again, progress=False, like=gold)
    assert report.transfer.binning == 2
    assert again.calibration.get_Q_pixel_size() == direct.calibration.get_Q_pixel_size() == 2 * SIZE
    assert again.calibration.get_ellipse() == pytest.approx(direct.calibration.get_ellipse())
    assert again.calibration.get_QR_rotation() == pytest.approx(direct.calibration.get_QR_rotation())
    # A binned standard serves a scan that is not binned.
    assert planned(cube(), direct).binning == 0.5


@pytest.mark.slow
def test_the_command(gold, tmp_path):
    _, folder = gold
    np.save(tmp_path / "scan.npy", cube(seed=7).data)
    command = ["calibrate", str(tmp_path / "scan.npy"), "-o", str(tmp_path / "out.h5"), "--like",
               str(folder / "gold.h5"), "--transfer", "ellipse,pixel_size", "--center", "46,46", "--model", "parabola",
               "--json", "--scan", "6,6"]
    done = CliRunner().invoke(cli.app, command)
    assert done.exit_code == 0, done.output
    written = py4DSTEM.read(str(tmp_path / "out.h5")).calibration
    assert written.get_Q_pixel_size() == SIZE and written.get_QR_rotation() is None
    assert '"source": "gold.h5"' in done.stdout


@pytest.mark.slow
def test_a_pixel_size_belongs_to_its_ellipse():
    """py4DSTEM's corrected radius is b times the ideal one: what 1/angstrom is in a pixel grows with sqrt(a / b)."""
    gold = standard((6, 6, 96, 96))
    scan = cube(seed=7)
    report = calibrate(scan, progress=False, like=gold, transfer="pixel_size", ellipse=(1.10, 1.0, 0.6))
    assert scan.calibration.get_Q_pixel_size() == pytest.approx(SIZE * np.sqrt(1.10 / 1.04))
    assert report.transfer.pixel_size[0] == scan.calibration.get_Q_pixel_size()
    assert report.transfer.decision.has("pixel_size_adapted")
    gold.calibration.set_ellipse((None, None, None))
    plan = planned(scan, gold, "pixel_size")
    assert decided_transfer(plan, None).for_ellipse(1.1).pixel_size[0] == pytest.approx(SIZE * np.sqrt(1.1))


def test_what_is_recorded_of_a_quantity_goes_with_it():
    gold = standard()
    sign(gold, "pixel_size", sigma=1e-5, reference=40.0, standard="Au")
    sign(gold, "rotation", sigma=0.3)
    facts = decided_transfer(planned(blank((4, 4, 48, 48)), gold, binning=2), None).facts
    assert facts["pixel_size"] == {"sigma": 2e-5, "reference": 20.0, "standard": "Au"}
    assert facts["rotation"] == {"sigma": 0.3}
    gold.calibration.set_Q_pixel_size(2 * SIZE)  # by hand since
    assert decided_transfer(planned(blank(), gold), None).facts["pixel_size"] == {}


# --- what is refused


@pytest.mark.slow
def test_rings_that_contradict_refuse_and_the_error_rate_is_that_stated():
    gold = standard()
    plan = planned(blank(), gold)
    vector = np.asarray(ellipse_vector(1.04, 1.0, 0.6))
    agreed = decided_transfer(plan, rings(np.add(vector, (0.001, 0)), 0.001))
    assert agreed.accepted and agreed.quantities == ("ellipse", "pixel_size", "rotation")
    other = decided_transfer(plan, rings(np.add(vector, (0.02, 0)), 0.001))
    assert not other.accepted and other.quantities == ("rotation",) and other.decision.has("standard_contradicted")
    strained = decided_transfer(plan, rings(np.add(vector, (0.006, 0)), 0.001))
    assert strained.accepted and strained.decision.has("standard_differs")
    for beam, kept in (("", True), ("direct beam and rings", False)):  # whether the aperture was round
        sign(gold, "ellipse", covariance=1e-6 * np.eye(2), used=beam)
        oval = decide_ellipse({"direct beam": (np.add(vector, (0.035, 0)), 4e-6 * np.eye(2))}, [], continuity=0.0)
        found = decided_transfer(planned(blank(), gold), oval)
        assert found.accepted == kept and found.decision.has("beam_shape_differs") == kept
    vague = decided_transfer(plan, rings(np.add(vector, (0.02, 0)), 0.02))
    assert vague.accepted and vague.decision.has("ellipse_agrees")
    untested = decided_transfer(plan, None)
    assert untested.accepted and untested.decision.has("ellipse_untested")
    rng = np.random.default_rng(0)
    told = [decided_transfer(plan, rings(rng.multivariate_normal(vector, 4e-6 * np.eye(2)), 2e-3)).decision.has(
        "ellipse_agrees") for _ in range(3000)]
    assert 0.997 < np.mean(told) < 1


@pytest.mark.parametrize(("theirs", "ours", "flag"), [
    ({"beam_energy": 300}, {"Voltage": 200e3}, "voltage_differs"),
    ({"camera_length": 0.23}, {"a": {"Camera Length": 0.285}}, "camera_length_differs")])
def test_other_settings_of_the_microscope_refuse_all(theirs, ours, flag):
    gold, scan = standard(), blank()
    gold.metadata, scan.metadata = Metadata("microscope", theirs), Metadata("microscope", ours)
    plan = planned(scan, gold)
    assert plan.quantities == () and plan.flags[0].name == flag
    assert decided_transfer(plan, None).quantities == ()
    scan.metadata = Metadata("microscope", dict(theirs))
    assert len(planned(scan, gold).quantities) == 3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ending", ["hspy", "zspy"])
def test_settings_are_read_from_files_and_survive_saving(tmp_path, ending):
    if ending == "zspy":
        pytest.importorskip("zarr")
    data = np.random.default_rng(0).poisson(3, (3, 4, 48, 40)).astype("u2")
    made = signal(data)
    made["metadata"]["Acquisition_instrument"] = {"TEM": {"beam_energy": 300.0, "camera_length": 230.0}}
    made["metadata"]["General"]["date"] = "2026-03-04"
    importlib.import_module(f"rsciio.{ending}").file_writer(str(tmp_path / f"a.{ending}"), made)
    scan = py4dstem_prenet.open(tmp_path / f"a.{ending}")
    assert conditions_of(scan) == Conditions(300e3, 230.0, datetime(2026, 3, 4))
    scan.prenet.save(tmp_path / "saved.h5")
    assert conditions_of(py4DSTEM.read(str(tmp_path / "saved.h5"))) == conditions_of(scan)


def test_settings_in_the_tags_of_gatan(tmp_path):
    path, info = tmp_path / "scan.dm4", {"Voltage": np.float32(200e3), "STEM Camera Length": np.float32(600)}
    data = np.random.default_rng(0).poisson(3, (3, 4, 48, 40)).astype("u2")
    write_dm4(path, data, microscope=info)
    scan = py4dstem_prenet.open(path)
    assert conditions_of(scan) == Conditions(200e3, 600.0, None)


def test_an_old_standard_is_told():
    gold, scan = standard(), blank()
    gold.metadata = Metadata("microscope", {"acquisition_date": "2026-01-05"})
    scan.metadata = Metadata("microscope", {"acquisition_date": "2026-11-05"})
    plan = planned(scan, gold)
    assert len(plan.quantities) == 3 and [flag.numbers["days"] for flag in plan.flags] == [304]


def test_unknown_frames_need_the_binning():
    gold, scan = standard((4, 4, 192, 192)), blank()
    plan = planned(scan, gold)
    assert plan.quantities == ("rotation",) and plan.flags[0].name == "frames_differ"
    plan = planned(scan, gold, binning=2)
    assert decided_transfer(plan, None).pixel_size == (2 * SIZE, "A^-1")


def test_a_pixel_size_far_from_that_of_the_file_is_refused():
    scan = blank()
    scan.calibration.set_Q_pixel_size(1.25 * SIZE)  # the nominal one, of another camera length
    scan.calibration.set_Q_pixel_units("A^-1")
    plan = planned(scan, standard())
    assert plan.quantities == ("rotation",) and plan.flags[0].name == "scale_differs"
    scan.calibration.set_Q_pixel_size(1.04 * SIZE)
    assert len(planned(scan, standard()).quantities) == 3


def test_wrong_arguments_are_refused_before_any_work(tmp_path):
    scan, gold = cube(), standard((6, 6, 96, 96))
    (tmp_path / "text.h5").write_text("no")
    for wrong in ({"like": blank((6, 6, 96, 96))}, {"like": 3}, {"like": tmp_path / "none.h5"},
                  {"like": tmp_path / "text.h5"}, {"like": gold, "transfer": ("ellipse", "strain")},
                  {"like": gold, "transfer": "descan"}, {"like": gold, "transfer": ()}, {"transfer": "ellipse"},
                  {"like": gold, "binning": -1}, {"binning": 2}):
        refused(scan, lambda wrong=wrong: calibrate(scan, progress=False, **wrong))
    stale = standard((6, 6, 96, 96))
    stale.calibration.set_origin((np.ones((3, 3)), np.ones((3, 3))))
    refused(scan, lambda: calibrate(scan, progress=False, like=stale))
    assert read_standard(gold).rotation == (pytest.approx(ROTATION), True)


@pytest.mark.slow
def test_a_scan_is_no_standard_of_itself(gold):
    gold, folder = gold
    for like in (gold, folder / "gold.h5", folder / "calibration.h5"):
        refused(gold, lambda like=like: calibrate(gold, progress=False, like=like))


def test_a_calibration_that_py4dstem_saved_is_a_standard_without_checks(tmp_path):
    bare = standard()
    py4DSTEM.save(tmp_path / "bare.h5", bare.calibration)
    plan = planned(blank((4, 4, 64, 64)), tmp_path / "bare.h5")
    assert plan.quantities == ("ellipse", "pixel_size", "rotation") and plan.binning == 1
    assert [flag.name for flag in plan.flags] == ["standard_bare"]
    assert plan.standard.pixel_size == (SIZE, "A^-1") and plan.standard.frame is None
    found = decided_transfer(plan, rings(plan.standard.ellipse.vector, 0.001))
    assert found.ellipse is not None and not np.isfinite(found.ellipse.sigma)
    assert planned(blank(), tmp_path / "bare.h5", binning=2).binning == 2
    with_maps = standard()
    with_maps.calibration.set_origin((np.full((4, 4), 48.0), np.full((4, 4), 47.0)))
    py4DSTEM.save(tmp_path / "maps.h5", with_maps.calibration)
    assert planned(blank(), tmp_path / "maps.h5", "descan").quantities == ("descan",)


# --- descan


def descans(bend=1.0, scan=(20, 20), sigma=0.1, seed=0):
    """Plan for the descan of a vacuum scan, the truth of another scan and its measured positions, px."""
    rng = np.random.default_rng(seed)
    x, y = (np.linspace(-1, 1, n) for n in scan)
    bent = np.stack([1.5 * x[:, None] ** 2 + 0.4 * y**3, 0.9 * y**2 - 0.5 * x[:, None] ** 3 + 0 * x[:, None]])
    vacuum = blank((*scan, 96, 96), "vacuum")
    slope = np.stack([2 * x[:, None] + 0 * y, 3 * y + 0 * x[:, None]])
    vacuum.calibration.set_origin(tuple(48 + slope + bent))
    plan = planned(blank((*scan, 96, 96)), vacuum, "descan")
    truth = 45 + 0.5 * slope[::-1] + bend * bent
    return plan, truth, truth + sigma * rng.normal(size=truth.shape), sigma


def fitted(plan, measured, sigma):
    s = np.full(measured.shape[1:], sigma)
    return fit_with_descan(origin_map(*measured, s, s, np.ones(s.shape, bool)), plan)


def test_the_descan_of_a_vacuum_scan_serves_a_specimen_scan():
    """Deflection by the specimen, which a flexible surface would follow, stays out of the fit."""
    plan, truth, measured, sigma = descans()
    x, y = np.indices(truth.shape[1:])
    deflected = measured + 0.2 * np.stack([np.sin(x / 2.0), np.cos(y / 2.5)])
    fit, flag = fitted(plan, deflected, sigma)
    assert fit.accepted and flag.name == "descan_agrees"
    assert np.sqrt(np.mean((np.stack([fit.qx0, fit.qy0]) - truth) ** 2)) < 0.06
    assert decided_transfer(plan, None, flag).descan is not None


@pytest.mark.slow
def test_the_descan_of_other_scan_settings_is_refused():
    kept = 0
    for seed in range(30):
        plan, _, measured, sigma = descans(seed=seed)
        kept += fitted(plan, measured, sigma)[1].name == "descan_agrees"
    assert kept >= 29
    for bend in (0.5, -1.0, 2.0):
        plan, _, measured, sigma = descans(bend=bend)
        fit, flag = fitted(plan, measured, sigma)
        assert fit is None and flag.name == "descan_contradicted"
        assert flag.numbers["amplitude"] == pytest.approx(bend, abs=0.1)
    other = planned(blank((10, 20, 96, 96)), blank_vacuum(), ("descan",))
    assert other.quantities == () and other.flags[0].name == "scan_differs"


def blank_vacuum():
    vacuum = blank((20, 20, 96, 96), "vacuum")
    vacuum.calibration.set_origin((np.full((20, 20), 48.0), np.full((20, 20), 48.0)))
    return vacuum


@pytest.mark.slow
def test_calibrate_with_the_descan_of_another_scan():
    vacuum = cube("vacuum", seed=11)
    truth = simulated(**OPTIONS | dict(seed=4)).truth
    vacuum.calibration.set_origin((truth["qx0"] + 3.0, truth["qy0"] - 2.0))
    scan = cube()
    report = calibrate(scan, progress=False, like=vacuum, transfer="descan", ellipse=False)
    assert report.transfer.quantities == ("descan",)
    assert distance(report.fit, truth).mean() < 0.05
    assert np.array_equal(scan.calibration.get_origin()[0], report.fit.qx0)


@pytest.mark.slow
def test_a_pixel_size_by_hand_is_not_replaced_silently(gold):
    scan = cube(seed=7, dose=3000.0)
    scan.calibration.set_Q_pixel_size(0.0127)
    scan.calibration.set_Q_pixel_units("A^-1")
    report = calibrate(scan, progress=False, like=gold[0])
    flag = next(flag for flag in report.written if flag.name == "pixel_size_replaced")
    assert flag.numbers["value"] == 0.0127 and scan.calibration.get_Q_pixel_size() != 0.0127
