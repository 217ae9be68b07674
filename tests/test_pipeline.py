"""The whole line: what is found is written as the report says, what is refused changes nothing."""

import json
import shutil
from dataclasses import replace

import numpy as np
import py4DSTEM
import pytest
from scans import CCD, distance, simulated

from py4dstem_prenet import pipeline
from py4dstem_prenet.choices import by_hand
from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.core.flags import Decision, Flag, has_flag
from py4dstem_prenet.core.geometry import ellipse_vector
from py4dstem_prenet.core.sampling import sample_positions
from py4dstem_prenet.io import calibrations, provenance
from py4dstem_prenet.networks import weights
from py4dstem_prenet.pipeline import calibrate, preprocess

pytestmark = pytest.mark.usefixtures("beams_learned_once")
OPTIONS = CCD | dict(dose=50_000.0, ratio=1.04, theta=0.6, seed=4)


def cube(**options):
    return py4DSTEM.DataCube(np.array(simulated(**(OPTIONS | options)).counts))


def state(datacube):
    """All that a stage may write into, as text; the data as bytes."""
    params = {k: np.asarray(v).tolist() for k, v in datacube.calibration._params.items()}
    return (json.dumps(params, sort_keys=True, default=str), sorted(datacube.treekeys),
            sorted(datacube.metadata), datacube.data.tobytes())


@pytest.fixture(scope="module")
def calibrated():
    datacube = cube()
    before = datacube.data.copy()
    return datacube, calibrate(datacube, progress=False), before


def test_what_is_written_is_what_was_found(calibrated):
    datacube, report, before = calibrated
    qx, qy, mask = (*datacube.calibration.get_origin_meas(), datacube.calibration.get_origin_meas_mask())
    assert np.array_equal(qx, report.origin.qx0) and np.array_equal(qy, report.origin.qy0)
    assert np.array_equal(mask, report.origin.valid)
    assert report.fit.accepted
    for written, fitted in zip(datacube.calibration.get_origin(), (report.fit.qx0, report.fit.qy0), strict=True):
        assert type(written) is np.ndarray and written.dtype == np.float64 and np.array_equal(written, fitted)
    assert report.ellipse.accepted
    assert datacube.calibration.get_ellipse() == (report.ellipse.a, report.ellipse.b, report.ellipse.theta)
    sigma = datacube.tree(calibrations.SIGMA).data
    assert np.array_equal(sigma, [report.origin.sigma_qx0, report.origin.sigma_qy0])
    assert np.array_equal(datacube.data, before)


@pytest.mark.slow
def test_what_the_mask_excludes_is_not_looked_at():
    """A burnt-in bar beside the beam, masked, changes nothing; a mask of another shape is refused before any work."""
    datacube, good = cube(), np.ones((128, 128), bool)
    x, y = (round(simulated(**OPTIONS).truth[q].mean()) for q in ("qx0", "qy0"))
    good[x + 4 : x + 8, y - 20 : y + 20] = False
    datacube.data[:, :, ~good] = 60_000
    report = calibrate(datacube, mask=good, progress=False)
    assert distance(report.fit, simulated(**OPTIONS).truth).mean() < 0.1
    assert (report.noise.bad_pixels[~good]).all()
    truth = simulated(**OPTIONS).truth
    assert report.noise.dose == pytest.approx(truth["dose"], rel=0.3)  # the bar's are no electrons
    # It holds for what follows: the bar would make an ellipse of its own.
    assert datacube.prenet.measure_ellipse().vector == pytest.approx(report.ellipse.vector, abs=1e-4)
    assert np.array_equal(calibrations.read_mask(datacube.prenet.crop_Q((4, 124, 8, 128))), good[4:124, 8:128])
    assert calibrations.read_mask(datacube.prenet.bin_Q(2)).shape == (64, 64)
    for wrong in (good.T[:5], np.zeros_like(good)):
        refused(datacube, lambda wrong=wrong: calibrate(datacube, mask=wrong, progress=False))


def test_what_was_found_is_true(calibrated):
    _, report, _ = calibrated
    truth = simulated(**OPTIONS).truth
    assert distance(report.fit, truth).mean() < 0.1
    vector = ellipse_vector(truth["a"], truth["b"], truth["theta"])
    assert np.hypot(*(report.ellipse.vector - vector)) < 0.01
    assert report.noise.gain == pytest.approx(20, rel=0.1) and not report.noise.counting


def test_provenance_names_the_networks_and_their_bytes(calibrated):
    datacube, report, _ = calibrated
    record = provenance.read_provenance(datacube)
    assert record["weights"] == {name: weights.verify(name) for name in ("center", "ellipse")}
    assert record["shape"] == list(datacube.data.shape)
    assert [flag["flag"] for flag in record["flags"]] == [flag.name for flag in report.flags]
    assert record["noise"]["gain"] == pytest.approx(report.noise.gain)


def test_the_printed_report_holds_all_numbers_and_flags(calibrated):
    _, report, _ = calibrated
    text = " ".join(str(report).split())  # lines are wrapped
    for shown in (f"{np.median(report.origin.qx0):.2f}", report.fit.model, f"{report.ellipse.a / report.ellipse.b:.4f}",
                  f"{report.noise.gain:.4g}", f"{np.degrees(report.ellipse.theta):.1f}", *map(str, report.flags)):
        assert " ".join(shown.split()) in text
    assert 8 < len(str(report).splitlines()) < 60
    assert [flag.name for flag in report.written] == ["origin_written", "fit_written", "ellipse_written"]


@pytest.mark.slow
def test_calibrating_again_changes_nothing(calibrated):
    datacube, report, _ = calibrated
    copy = calibrations.cube_like(datacube, datacube.data)
    again = calibrate(copy, progress=False)
    assert np.array_equal(again.origin.qx0, report.origin.qx0)
    assert again.ellipse.a == report.ellipse.a and again.flags == report.flags


@pytest.mark.slow
def test_what_is_refused_is_not_written_but_flagged(monkeypatch):
    """An ellipse or a surface that is not accepted leaves what was there before."""
    datacube = cube(scan=(3, 3), dose=2000.0)
    datacube.calibration.set_ellipse((1.5, 1.0, 0.2))
    for module, name in ((pipeline, "measure_ellipse"), (by_hand, "fit_origin")):
        stage = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, _stage=stage, **k: replace(
            _stage(*a, **k), decision=Decision(False, (Flag("ellipse_no_evidence"),))))
    report = calibrate(datacube, progress=False)
    assert datacube.calibration.get_ellipse() == (1.5, 1.0, 0.2)
    assert datacube.calibration.get_origin() is None
    assert datacube.calibration.get_origin_meas() is not None
    assert [flag.name for flag in report.written] == ["origin_written", "fit_not_written", "ellipse_kept"]
    assert not report.fit.accepted and has_flag(report.flags, "ellipse_no_evidence")


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(64, 64), (96, 128), (64, 80), (40, 40)])
@pytest.mark.parametrize("kind", ["counts", "camera"])
def test_without_a_beam_nothing_is_written(kind, shape):
    rng = np.random.default_rng(2)
    shape = (4, 4, *shape)
    data = rng.poisson(1.0, shape).astype(np.uint16) if kind == "counts" else rng.normal(50, 4, shape)
    datacube = py4DSTEM.DataCube(data)
    before = state(datacube)
    report = calibrate(datacube, progress=False)
    assert state(datacube) == before
    assert not report.origin.found and report.fit is None and report.ellipse is None
    assert [flag.name for flag in report.written] == ["nothing_written"]


@pytest.mark.slow
def test_preprocess_gives_a_calibrated_denoised_cube(tmp_path):
    scan = simulated(**OPTIONS | dict(scan=(3, 4), dose=2000.0))
    datacube = py4DSTEM.DataCube(np.array(scan.counts))
    clean = preprocess(datacube, out=tmp_path / "clean.h5", progress=False)
    assert np.array_equal(datacube.data, scan.counts)
    for one in (datacube, clean):
        qx0, qy0 = one.calibration.get_origin()
        assert np.hypot(qx0 - scan.truth["qx0"], qy0 - scan.truth["qy0"]).mean() < 0.3
    assert clean.calibration.get_ellipse() == datacube.calibration.get_ellipse()
    assert provenance.read_provenance(clean)["weights"]
    truth = scan.clean * 20 + 100
    errors = [np.mean((np.asarray(data[...], float) - truth) ** 2) for data in (clean.data, scan.counts)]
    assert errors[0] < 0.5 * errors[1]
    stored = py4DSTEM.read(str(tmp_path / "clean.h5"))
    assert np.array_equal(stored.data, clean.data[...])
    assert np.array_equal(stored.calibration.get_origin()[0], datacube.calibration.get_origin()[0])


# --- bad input


def spoiled(value, scan=(3, 3)):
    data = np.ones((*scan, 40, 40), np.float32) + np.random.default_rng(0).random((*scan, 40, 40), np.float32)
    data[2, 1, 7, 9] = value
    return data


BAD = {
    "three axes": np.ones((3, 40, 40)),
    "empty": np.ones((0, 3, 40, 40), np.uint8),
    "zero": np.zeros((3, 3, 40, 40), np.uint16),
    "constant": np.full((3, 3, 40, 40), 7, np.int16),
    "nan": spoiled(np.nan),
    "infinite": spoiled(-np.inf),
    "small": np.ones((3, 3, 40, 31)),
    "complex": np.ones((3, 3, 40, 40), np.complex64),
    "bool": np.ones((3, 3, 40, 40), bool),
    "masked": np.ma.masked_less(spoiled(-1.0), 0),
}


@pytest.mark.parametrize("door", [calibrate, preprocess])
@pytest.mark.parametrize("case", BAD)
def test_bad_data_get_one_sentence_and_change_nothing(case, door):
    datacube = py4DSTEM.DataCube(np.ones((2, 2, 40, 40)))
    datacube.data = BAD[case]
    refused(datacube, lambda: door(datacube, progress=False))


def refused(datacube, act):
    """One sentence, and nothing is written into the cube; the sentence."""
    before = state(datacube)
    with pytest.raises(PrenetError) as caught:
        act()
    assert state(datacube) == before
    assert "\n" not in str(caught.value) and str(caught.value).endswith((".", ")"))
    return str(caught.value)


def test_one_bad_value_far_into_a_scan_changes_nothing():
    """Not among the positions that the noise is learned from: found when the origin is half measured."""
    scan = simulated(scan=(4, 4), shape=(64, 64), dose=3000.0)
    data = np.tile(scan.counts, (5, 5, 1, 1)).astype(np.float32)
    position = np.setdiff1d(np.arange(400), sample_positions((20, 20), 256))[-1]
    data.reshape(400, 64, 64)[position, 3, 60] = np.nan
    datacube = py4DSTEM.DataCube(data)
    i, j = divmod(int(position), 20)
    assert f"({i}, {j})" in refused(datacube, lambda: calibrate(datacube, progress=False))


def test_paths_that_cannot_be_taken_are_refused_before_any_work(tmp_path, monkeypatch):
    datacube = cube(scan=(3, 3), dose=2000.0)
    (tmp_path / "taken.h5").write_text("mine")
    monkeypatch.setattr(pipeline, "calibrate", lambda *_, **__: pytest.fail("work was done"))
    for name in ("taken.h5", "missing/out.h5", "taken.h5/out.h5", "out.txt"):
        refused(datacube, lambda name=name: preprocess(datacube, out=tmp_path / name, progress=False))
    assert [p.name for p in tmp_path.iterdir()] == ["taken.h5"] and (tmp_path / "taken.h5").read_text() == "mine"


@pytest.mark.parametrize("name", ["center", "ellipse"])
def test_altered_or_missing_weights_stop_everything(name, tmp_path, monkeypatch):
    """Also those that are needed only at the end are checked before anything is written."""
    datacube = cube(scan=(3, 3), dose=2000.0)
    for one in ("center", "ellipse"):
        for ending in ("safetensors", "json"):
            shutil.copy(weights.find(one).with_suffix(f".{ending}"), tmp_path)
    monkeypatch.setattr(weights, "folders", lambda: [tmp_path])
    path = tmp_path / f"{name}.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    refused(datacube, lambda: calibrate(datacube, progress=False))
    path.unlink()
    refused(datacube, lambda: calibrate(datacube, progress=False))


def test_a_device_that_is_not_there():
    datacube = cube(scan=(3, 3), dose=2000.0)
    refused(datacube, lambda: calibrate(datacube, device="cuda:77", progress=False))
