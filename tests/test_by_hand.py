"""What the user decides by hand: taken, kept, reported, and undone."""

import json
import types
from dataclasses import replace

import numpy as np
import py4DSTEM
import pytest
from scans import distance, origin_map, simulated
from test_pipeline import refused, state

from py4dstem_prenet import calibrate, load_calibration, measure_ellipse
from py4dstem_prenet.choices import chosen
from py4dstem_prenet.core import as_scan, ellipse_vector
from py4dstem_prenet.ellipse import compare_ellipses, given_ellipse
from py4dstem_prenet.ellipse.decide import decide_ellipse
from py4dstem_prenet.fits import pool_arrays, pooled_radius
from py4dstem_prenet.io import author_of, fingerprint, read_origin, read_stop, same_data, undoable, write_origin
from py4dstem_prenet.origin import measure_origin

pytestmark = pytest.mark.usefixtures("beams_learned_once")
OPTIONS = dict(scan=(6, 6), shape=(96, 96), dose=50_000.0, ratio=1.04, theta=0.6, seed=4)
SCAN = simulated(**OPTIONS)
TRUTH = SCAN.truth
VECTOR = np.asarray(ellipse_vector(TRUTH["a"], TRUTH["b"], TRUTH["theta"]))


def cube(scan=SCAN):
    return py4DSTEM.DataCube(np.array(scan.counts))


def names(flags):
    return {flag.name for flag in flags}


@pytest.fixture(scope="module")
def calibrated():
    datacube = cube()
    before = state(datacube)
    return datacube, calibrate(datacube, progress=False), before


# --- the direct beam


def two_beams():
    """A direct disk and a brighter twin 24 px beside it, which the search over the whole pattern takes."""
    rng = np.random.default_rng(8)
    x, y = np.indices((96, 96))
    disks = [1 / (1 + np.exp(4 * (np.hypot(x - c, y - 48) - 5))) for c in (36.3, 60.3)]
    mean = 20 * disks[0] + 30 * disks[1] + 0.02
    return rng.poisson(mean, (6, 6, 96, 96)).astype(np.uint16)


@pytest.mark.slow
def test_a_given_place_chooses_the_disk():
    counts = two_beams()
    for row in (36.3, 60.3):
        origin = measure_origin(counts, center=(row + 2, 47), progress=False)
        assert origin.found and origin.decision.has("center_given")
        assert np.abs(origin.qx0 - row).max() < 0.3 and np.abs(origin.qy0 - 48).max() < 0.3
        elsewhere = [flag for flag in origin.flags if flag.name == "center_elsewhere"]
        assert len(elsewhere) == (row == 36.3)  # the search alone takes the brighter one
    assert not measure_origin(counts, progress=False).decision.has("center_elsewhere")


@pytest.mark.slow
def test_a_wrong_place_is_refused_and_maps_are_taken():
    origin = measure_origin(SCAN.counts, center=(10, 80), progress=False)
    assert not origin.found and origin.decision.has("center_searched", "center_not_confirmed")
    maps = TRUTH["qx0"] + 1.5, TRUTH["qy0"] - 1.5
    origin = measure_origin(SCAN.counts, center=maps, radius=TRUTH["radius"] * 1.2, progress=False)
    assert origin.found and distance(origin, TRUTH).mean() < 0.1
    assert origin.radius == pytest.approx(TRUTH["radius"], rel=0.06)


@pytest.mark.slow
def test_one_place_is_enough_for_a_large_descan():
    scan = simulated(scan=(8, 8), shape=(128, 128), dose=2000.0, amplitude=12.0, seed=3)
    truth = scan.truth
    origin = measure_origin(scan.counts, center=(truth["qx0"][0, 0], truth["qy0"][0, 0]), progress=False)
    assert np.ptp(truth["qx0"]) > 3 * truth["radius"]
    assert origin.valid.all() and distance(origin, truth).max() < 0.5


@pytest.mark.parametrize("radius", [3.0, 6.5, 14.0])
@pytest.mark.parametrize("electrons", [30, 3000])
def test_the_radius_about_a_known_center(radius, electrons):
    rng, (x, y) = np.random.default_rng(3), np.indices((96, 96))
    r = np.hypot(x - 47.4, y - 45.8)
    mean = 1 / (1 + np.exp(4 * (r - radius))) + 0.15 * np.exp(-0.5 * ((r - 38) / 2) ** 2) + 0.02
    counts = rng.poisson(mean * electrons / mean.sum(), (64, 96, 96))
    found = pooled_radius(pool_arrays(counts, np.full(64, 47.4), np.full(64, 45.8)))
    assert found == pytest.approx(radius, abs=0.5)


def test_no_disk_has_no_radius():
    assert np.isnan(pooled_radius(pool_arrays(np.ones((9, 64, 64)), np.full(9, 31.0), np.full(9, 31.0))))


# --- what is kept, and whose it is


@pytest.mark.slow
def test_write_false_changes_nothing(calibrated):
    datacube = cube()
    before = state(datacube)
    report = calibrate(datacube, progress=False, write=False)
    assert state(datacube) == before
    assert np.array_equal(report.fit.qx0, calibrated[1].fit.qx0) and names(report.written) == {"not_written_as_asked"}


@pytest.mark.slow
def test_undo_restores_what_was_there_also_from_a_file(calibrated, tmp_path):
    datacube = calibrated[0]
    datacube.prenet.save(tmp_path / "saved.h5")
    again = py4DSTEM.read(str(tmp_path / "saved.h5"))
    assert "qx0" in again.prenet.undo()
    assert again.calibration.get_origin() is None and again.calibration.get_ellipse() is None
    assert not list(again.treekeys)
    again = cube()
    again.calibration.set_ellipse((1.1, 1.0, 0.2))
    untouched = state(again)
    with undoable(again):
        again.calibration.set_ellipse((1.2, 1.0, 0.2))
        again.calibration.set_origin((TRUTH["qx0"], TRUTH["qy0"]))
    again.calibration.set_Q_pixel_size(0.02)
    again.prenet.undo()
    again.calibration.set_Q_pixel_size(1)
    assert state(again) == untouched
    assert "nothing to undo" in refused(again, again.prenet.undo)


@pytest.mark.slow
def test_undo_of_a_cropped_cube_is_refused_and_changes_nothing(calibrated):
    datacube = calibrated[0]
    for new in (datacube.prenet.crop_R((0, 4, 0, 4)), datacube.prenet.bin_Q(2)):
        refused(new, new.prenet.undo)
        assert new.calibration.get_origin() is not None


def test_pixel_size_and_rotation_belong_to_the_ellipse_that_the_calibration_holds():
    own, given = given_ellipse((1.03, 1.0, 0.2)), given_ellipse((1.05, 1.0, 0.9))
    datacube = cube()
    scan = as_scan(datacube)
    assert chosen(datacube, scan).applied(own, None) is own
    assert chosen(datacube, scan, ellipse=(1.05, 1.0, 0.9)).applied(given, None) is given
    datacube.calibration.set_ellipse((1.02, 1.0, 0.4))
    for choices in (chosen(datacube, scan), chosen(datacube, scan, ellipse=False)):
        applied = choices.applied(own, None)
        assert applied.a / applied.b == pytest.approx(1.02)
    assert chosen(datacube, scan, replace=True).applied(own, None) is own
    carried = types.SimpleNamespace(ellipse=given)
    assert chosen(datacube, scan).applied(own, carried) is given


def test_a_stop_is_kept_with_the_calibration(tmp_path):
    datacube, stop = cube(), np.zeros((96, 96), bool)
    stop[:48, 40:50] = True
    with undoable(datacube):
        write_origin(datacube, replace(measured_origin(), stop=stop))
    assert np.array_equal(read_origin(datacube).stop, stop)
    assert np.array_equal(read_stop(datacube.prenet.crop_Q((8, 80, 10, 90))), stop[8:80, 10:90])
    assert read_stop(datacube.prenet.bin_Q(2)).shape == (48, 48)
    datacube.prenet.save(tmp_path / "stop.h5")
    assert np.array_equal(read_stop(py4DSTEM.read(str(tmp_path / "stop.h5"))), stop)
    datacube.prenet.undo()
    assert read_stop(datacube) is None
    write_origin(datacube, replace(measured_origin(), stop=stop))
    write_origin(datacube, measured_origin())
    assert read_stop(datacube) is None


def measured_origin():
    sigma = np.full((6, 6), 0.05)
    return origin_map(TRUTH["qx0"], TRUTH["qy0"], sigma, sigma, np.ones((6, 6), bool))


def test_undo_leaves_what_was_changed_since():
    datacube = cube()
    with undoable(datacube):
        datacube.calibration.set_ellipse((1.2, 1.0, 0.2))
        datacube.calibration.set_origin((TRUTH["qx0"], TRUTH["qy0"]))
    datacube.calibration.set_ellipse((1.3, 1.0, 0.2))
    restored = datacube.prenet.undo()
    assert datacube.calibration.get_ellipse() == (1.3, 1.0, 0.2) and datacube.calibration.get_origin() is None
    assert "qx0" in restored and "a" not in restored


def test_earlier_changes_are_undone_one_after_the_other(tmp_path):
    datacube = cube()
    ellipses = [(1.0 + 0.05 * number, 1.0, 0.2) for number in range(7)]
    for ellipse in ellipses:
        with undoable(datacube):
            datacube.calibration.set_ellipse(ellipse)
    datacube.prenet.save(tmp_path / "scan.h5")
    for one in (datacube, py4DSTEM.read(str(tmp_path / "scan.h5"))):
        for ellipse in ellipses[-2:-6:-1]:
            one.prenet.undo()
            assert one.calibration.get_ellipse() == ellipse
        refused(one, one.prenet.undo)


@pytest.mark.slow
def test_what_was_set_by_hand_is_kept_until_it_is_to_be_replaced():
    datacube = cube()
    datacube.calibration.set_origin((TRUTH["qx0"] + 1.0, TRUTH["qy0"]))
    datacube.calibration.set_ellipse((1.2, 1.0, 0.6))
    report = calibrate(datacube, progress=False)
    assert np.array_equal(datacube.calibration.get_origin()[0], TRUTH["qx0"] + 1.0)
    assert datacube.calibration.get_ellipse() == (1.2, 1.0, 0.6)
    flags = {flag.name: flag.numbers for flag in report.written}
    assert flags["fit_kept"]["distance"] == pytest.approx(1.0, abs=0.15)
    assert flags["ellipse_kept"]["sigmas"] > 5
    assert distance(report.fit, TRUTH).mean() < 0.1
    assert author_of(datacube, "origin") == author_of(datacube, "ellipse") != "prenet"
    assert author_of(datacube, "origin_meas") == "prenet"
    report = calibrate(datacube, progress=False, replace=True)
    assert author_of(datacube, "origin") == author_of(datacube, "ellipse") == "prenet"
    assert np.array_equal(datacube.calibration.get_origin()[0], report.fit.qx0)
    datacube.prenet.undo()
    assert datacube.calibration.get_ellipse() == (1.2, 1.0, 0.6)


@pytest.mark.slow
def test_an_ellipse_can_be_set_or_left():
    datacube = cube()
    report = calibrate(datacube, progress=False, ellipse=(31.2, 30.0, 0.6), model="plane",
                       region=(slice(0, 6), slice(1, 5)))
    a, b, theta = datacube.calibration.get_ellipse()
    assert a / b == pytest.approx(1.04) and theta == pytest.approx(0.6) and a * b == pytest.approx(1)
    assert report.ellipse.decision.has("ellipse_agrees") and report.ellipse.sources
    assert author_of(datacube, "ellipse") == "hand"
    assert report.fit.model == "plane"
    assert "set by hand" in str(report)
    json.dumps([flag.to_json() for flag in report.flags])
    report = calibrate(datacube, progress=False, ellipse=False)
    assert report.ellipse is None and author_of(datacube, "ellipse") == "hand"
    assert "ellipse_not_asked" in names(report.written)


@pytest.mark.slow
def test_another_ellipse_is_told():
    rings = decide_ellipse({"rings": (np.array([0.03, 0.0]), 4e-6 * np.eye(2))}, [], continuity=1.0)
    rng, chance = np.random.default_rng(0), []
    for _ in range(2000):  # the test errs in one case in a thousand
        vector = rng.multivariate_normal((0.03, 0), 4e-6 * np.eye(2))
        own = decide_ellipse({"rings": (vector, 4e-6 * np.eye(2))}, [], 1.0)
        chance.append(compare_ellipses(own, given_ellipse((1.03, 1, 0))).agrees)
    assert np.mean(chance) > 0.995
    assert not compare_ellipses(rings, given_ellipse((1.03, 1, np.pi / 2))).agrees
    assert not compare_ellipses(None, given_ellipse((1.03, 1, 0))).testable


@pytest.mark.slow
def test_what_lies_outside_the_region_does_not_count():
    """The last rows have another descan, which the whole scan cannot have."""
    counts = np.array(SCAN.counts)
    counts[4:] = np.roll(counts[4:], 9, 2)
    region = np.zeros((6, 6), bool)
    region[:4] = True
    report = calibrate(py4DSTEM.DataCube(counts), progress=False, region=region, write=False)
    assert distance(report.fit, TRUTH)[:4].mean() < 0.1
    assert np.array_equal(report.origin.valid, region)


@pytest.mark.parametrize("wrong", [
    {"center": 61}, {"center": (200, 40)}, {"center": (np.ones(3), np.ones(3))}, {"center": ("a", "b")}, {"radius": -1},
    {"radius": 80}, {"radius": "6"}, {"model": "cubic"}, {"region": (0, 4)}, {"region": np.zeros((6, 6), bool)},
    {"region": (slice(0, 60), slice(0, 6))}, {"region": (slice(0, 6), slice(-60, None))},
    {"ellipse": (1.0, 2.0)}, {"ellipse": (1.0, -1.0, 0.0)}, {"ellipse": (2.0, 1.0, 0.0)}, {"ellipse": None}])
def test_wrong_arguments_are_refused_before_any_work(wrong):
    datacube = cube()
    refused(datacube, lambda: calibrate(datacube, progress=False, **wrong))


# --- step by step


@pytest.mark.slow
def test_the_ellipse_about_an_origin_set_by_hand():
    datacube = cube()
    datacube.calibration.set_origin((TRUTH["qx0"], TRUTH["qy0"]))
    assert datacube.prenet.show().shape == (4, 3)  # without a measurement
    part = datacube.prenet.measure_ellipse((slice(0, 3), slice(None)), progress=False)
    assert part.accepted and datacube.calibration.get_ellipse() is None
    whole = datacube.prenet.measure_ellipse(progress=False)
    assert np.hypot(*(whole.vector - VECTOR)) < 4 * max(whole.sigma, 0.002)
    assert datacube.calibration.get_ellipse() == (whole.a, whole.b, whole.theta)
    datacube.prenet.measure_ellipse((slice(0, 3), slice(None)), progress=False)
    assert datacube.calibration.get_ellipse()[0] == whole.a
    datacube.prenet.undo()
    assert datacube.calibration.get_ellipse() is None


@pytest.mark.slow
def test_the_radius_is_not_asked_of_who_hides_the_beam(calibrated):
    datacube, report, _ = calibrated
    qx0, qy0 = report.fit.qx0, report.fit.qy0
    hidden = measure_ellipse(datacube, qx0, qy0, None, report.noise, progress=False)
    assert "direct beam" not in hidden.sources
    unknown = measure_ellipse(datacube, qx0, qy0, float("nan"), report.noise, progress=False)
    assert "direct beam" in unknown.sources


# --- whose data


def test_a_calibration_of_another_scan_is_told(calibrated, tmp_path):
    datacube, _, _ = calibrated
    datacube.prenet.save(tmp_path / "calibration.h5", data=False)
    own, other = cube(), cube(simulated(**OPTIONS | dict(seed=5)))
    load_calibration(own, tmp_path / "calibration.h5")
    assert own.prenet.check().current
    with pytest.warns(UserWarning):
        load_calibration(other, tmp_path / "calibration.h5")
    assert "data" in other.prenet.check().stale
    other.prenet.undo()
    assert other.calibration.get_origin() is None
    assert own.prenet.crop_Q((2, 90, 4, 92)).prenet.check().current
    assert own.prenet.bin_R(2).prenet.check().current
    own.data = own.data.transpose(1, 0, 2, 3)  # a square scan, transposed
    assert not own.prenet.check().current


def test_fingerprints_survive_repairs_and_types():
    rng = np.random.default_rng(1)
    for electrons in (0.02, 3.0):
        counts = rng.poisson(electrons, (5, 7, 64, 64)).astype(np.uint16)
        kept = fingerprint(py4DSTEM.DataCube(counts))
        repaired = counts.astype(np.float32)
        repaired[:, :, 5, 7], repaired[:, :, 40, 40] = 9, 9
        assert same_data(kept, fingerprint(py4DSTEM.DataCube(repaired)))
        for seed in (11, 12, 13):
            others = np.random.default_rng(seed).poisson(electrons, counts.shape)
            assert same_data(kept, fingerprint(py4DSTEM.DataCube(others))) is False
    assert fingerprint(py4DSTEM.DataCube(np.zeros((3, 3, 32, 32)))) is None
    assert as_scan(counts).size == 35
