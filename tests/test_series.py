"""Many files with one summary: resumed, continued past bad files, and never overwritten."""

import csv
import json

import numpy as np
import py4DSTEM
import pytest
from scans import simulated
from typer.testing import CliRunner

from py4dstem_prenet import PrenetError, calibrate_files
from py4dstem_prenet.cli import app
from py4dstem_prenet.core import FLAGS
from py4dstem_prenet.io import save_scan
from py4dstem_prenet.series import COLUMNS, FileOutcome, drift_panels, run

OPTIONS = dict(scan=(5, 5), shape=(64, 66), dose=5000.0, radius=4.0)


def scans():
    return [simulated(**OPTIONS | dict(seed=seed)) for seed in (0, 1)]


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """Two scans, a file that is none, one without a beam, one that is not there; a standard; the first outcome."""
    folder = tmp_path_factory.mktemp("session")
    for k, scan in enumerate(scans()):
        save_scan(folder / f"scan{k}.h5", scan.counts, scan.truth)
    (folder / "bad.h5").write_text("nonsense")
    np.save(folder / "dark.npy", np.random.default_rng(0).poisson(1.0, (4, 4, 64, 64)).astype(np.uint8))
    gold = py4DSTEM.DataCube(np.broadcast_to(np.uint8(0), (5, 5, 64, 66)), name="gold")
    gold.calibration.set_Q_pixel_size(0.02)
    gold.calibration.set_Q_pixel_units("A^-1")
    gold.prenet.save(folder / "gold.h5", data=False)
    paths = [folder / name for name in ("scan0.h5", "bad.h5", "dark.npy", "scan1.h5", "missing.h5")]
    options = dict(like=folder / "gold.h5", data=False, progress=False)
    return folder, paths, options, calibrate_files(paths, folder / "out", **options)


def table(series):
    with series.table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_one_bad_file_stops_nothing(session):
    folder, paths, _, series = session
    assert [file.state for file in series.files] == ["calibrated", "failed", "refused", "calibrated", "failed"]
    assert not series.complete
    rows = table(series)
    assert [row["file"] for row in rows] == [path.name for path in paths] and set(rows[0]) == set(COLUMNS)
    assert all(row["problem"] for row in rows if row["state"] in ("failed", "refused"))
    assert sorted(p.name for p in (folder / "out").iterdir()) == [
        "scan0_calibrated.h5", "scan1_calibrated.h5", "summary.csv", "summary.html"]


def test_the_table_holds_the_truth(session):
    rows = [row for row in table(session[3]) if row["state"] == "calibrated"]
    for row, scan in zip(rows, scans(), strict=True):
        for name, key in (("qx0_px", "qx0"), ("qy0_px", "qy0")):
            assert float(row[name]) == pytest.approx(np.median(scan.truth[key]), abs=0.1)
        assert float(row["span_qx_px"]) == pytest.approx(np.ptp(scan.truth["qx0"]), abs=0.4)
        assert float(row["radius_px"]) == pytest.approx(scan.truth["radius"], rel=0.1)
        ratio = float(row["ratio"] or 1)  # the standard has no ellipse
        assert float(row["pixel_size"]) == pytest.approx(0.02 * ratio**0.5) and row["pixel_unit"] == "A^-1"
        assert row["light"] in ("green", "amber") and all(name in FLAGS for name in row["flags"].split())


@pytest.mark.slow
def test_the_results_are_those_of_single_files(session):
    folder, _, _, series = session
    cube = py4DSTEM.DataCube(np.array(scans()[0].counts))
    cube.prenet.load_calibration(series.files[0].output)
    assert cube.prenet.check().current
    alone = py4DSTEM.DataCube(np.array(scans()[0].counts))
    report = alone.prenet.calibrate(like=folder / "gold.h5", progress=False)
    assert np.allclose(cube.calibration.get_origin()[0], report.fit.qx0, atol=1e-3)


def test_the_page_shows_rows_and_drift(session):
    text = session[3].page.read_text(encoding="utf-8")
    assert text.count("<tr>") == 6 and text.count("<svg") >= 2 and "#012345" not in text
    assert "http" not in text.replace("http://www.w3.org", "")  # it loads nothing
    assert drift_panels([]) == []
    row = dict.fromkeys(COLUMNS) | {"qx0_px": 30.0, "qy0_px": 31.0, "span_qx_px": 1.0, "span_qy_px": 2.0}
    dated = [FileOutcome(None, None, "calibrated", row | {"date": f"2026-01-0{day}T00:00:00"}) for day in (1, 2)]
    assert "hours" in str(drift_panels(dated)[0]["figures"][0]["svg"])


@pytest.mark.slow
def test_a_series_is_continued_and_nothing_is_replaced(session, monkeypatch):
    folder, paths, options, first = session
    before = {path: path.stat().st_mtime_ns for path in (folder / "out").glob("*.h5")}
    done, work = [], run.calibrate
    monkeypatch.setattr(run, "calibrate", lambda cube, **k: done.append(cube.name) or work(cube, **k))
    series = calibrate_files(paths, folder / "out", **options)
    assert done == ["dark"]  # what was refused is tried again, what is done is not
    assert [file.state for file in series.files] == ["done before", "failed", "refused", "done before", "failed"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    strip = [{k: v for k, v in file.row.items() if k not in ("state", "seconds")} for file in first.files]
    assert [{k: v for k, v in file.row.items() if k not in ("state", "seconds")} for file in series.files] == strip
    calibrate_files(paths[3:4], folder / "out", **options)  # a part keeps the rows of the others
    assert [row["file"] for row in table(series)] == [path.name for path in paths]


def test_what_cannot_be_right_is_refused_before_any_work(session, tmp_path, monkeypatch):
    folder, paths, options, _ = session
    monkeypatch.setattr(run, "calibrate", lambda *_, **__: pytest.fail("work was done"))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "summary.csv").write_text("mine")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "scan0_calibrated.h5").write_bytes((folder / "scan0.h5").read_bytes())
    summary = (folder / "out" / "summary.csv").read_bytes()
    for arguments in (([], tmp_path / "new"), (paths, tmp_path / "file"), (paths, tmp_path / "taken"),
                      ([paths[0], paths[0]], tmp_path / "new"), (paths[:1], tmp_path / "copy")):
        with pytest.raises(PrenetError):
            calibrate_files(*arguments, **options)
    with pytest.raises(PrenetError):  # other settings
        calibrate_files(paths, folder / "out", **options, model="plane")
    with pytest.raises(PrenetError):
        calibrate_files(paths, tmp_path / "new", **options | {"like": folder / "bad.h5"})
    assert not (tmp_path / "new").exists() and (tmp_path / "taken" / "summary.csv").read_text() == "mine"
    assert (folder / "out" / "summary.csv").read_bytes() == summary


@pytest.mark.slow
def test_the_command_takes_many_files(session):
    folder, paths, _, _ = session
    out = folder / "commanded"
    command = ["calibrate", *map(str, paths[:2]), "-o", str(out), "--like", str(folder / "gold.h5"),
               "--calibration-only", "--model", "parabola", "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    told = json.loads(result.stdout.splitlines()[-1])
    assert [row["state"] for row in told["files"]] == ["calibrated", "failed"] and not told["complete"]
    result = CliRunner().invoke(app, [*command[:2], *command[3:]])  # one file, and a folder that is there
    assert result.exit_code == 0
    assert json.loads(result.stdout.splitlines()[-1])["files"][0]["state"] == "done before"
