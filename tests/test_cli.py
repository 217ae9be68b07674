"""The command line: right calls, one-line errors, exit codes, and no slow import for help and errors."""

import importlib
import json
import subprocess
import sys
import types
from pathlib import Path

import h5py
import numpy as np
import py4DSTEM
import pytest
from typer.testing import CliRunner

import py4dstem_prenet
from py4dstem_prenet import __version__, cli
from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.io import provenance

SHAPE = (2, 3, 32, 40)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("scan.npy", np.arange(np.prod(SHAPE), dtype=np.uint16).reshape(SHAPE))
    return tmp_path


@pytest.fixture
def stage(monkeypatch):
    def replace(module, **functions):
        home = importlib.import_module(f"py4dstem_prenet.{module}")
        for name, function in functions.items():
            if name in py4dstem_prenet.__all__:
                monkeypatch.setattr(py4dstem_prenet, name, function)
            monkeypatch.setattr(home, name, function)

    return replace


@pytest.fixture
def calibrated(stage):
    """A pipeline that finds what it is told to; returns what it was called with."""
    calls = []

    class Report:
        origin = types.SimpleNamespace(found=True)

        def __str__(self):
            return "Origin: found.\nEllipse: not determined."

    def calibrate(datacube, mask=None, device="auto", progress=True, **options):
        calls.append((datacube.data.shape, device))
        origin = tuple(np.full(datacube.Rshape, v) for v in (15.0, 20.0))
        if Report.origin.found:
            datacube.calibration.set_origin(origin)
            provenance.write_provenance(datacube, provenance.make_provenance(datacube, settings={"note": "Fine."}))
        return Report()

    calls.append(Report)
    stage("pipeline", calibrate=calibrate)
    return calls


def prenet(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def refused(*arguments):
    """Assert that a call ends with code 1, one line on stderr, and nothing on stdout."""
    result = prenet(*arguments)
    assert result.exit_code == 1 and result.stdout == "", result.output
    assert result.stderr.startswith("prenet: ") and result.stderr.count("\n") == 1, result.stderr


ONLY_ASKING = """
import sys
from py4dstem_prenet.cli import main

codes = []
for sys.argv[1:] in ["--help"], ["train", "--help"], ["calibrate", "x.npy", "-o", "."]:
    try:
        main()
    except SystemExit as end:
        codes.append(end.code)
assert codes == [0, 0, 1], codes
assert not {"py4DSTEM", "torch"} & set(sys.modules)
"""


def test_help_and_errors_import_nothing_slow():
    root = Path(cli.__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", ONLY_ASKING], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_calibrate(calibrated):
    result = prenet("calibrate", "scan.npy", "-o", "out.h5", "--device", "cpu")
    assert result.exit_code == 0
    cube = py4DSTEM.read("out.h5")
    assert calibrated[1:] == [(SHAPE, "cpu")]
    assert cube.calibration.get_origin()[0][1, 2] == 15
    np.testing.assert_array_equal(cube.data, np.load("scan.npy"))

    assert prenet("calibrate", "out.h5", "-o", "alone.h5", "--calibration-only").exit_code == 0
    assert isinstance(py4DSTEM.read("alone.h5"), py4DSTEM.Calibration)
    assert calibrated[2] == (SHAPE, "auto")

    for name in ("out.h5", "alone.h5"):
        contents = json.loads(prenet("info", name, "--json").stdout)["contents"]
        assert [part["record"]["settings"]["note"] for part in contents if part["record"]] == ["Fine."]


def test_a_stack_takes_the_scans_shape(calibrated):
    np.save("stack.npy", np.load("scan.npy").reshape(6, 32, 40))
    assert prenet("calibrate", "stack.npy", "-o", "out.h5", "--scan", "3,2").exit_code == 0
    assert calibrated[1][0] == (3, 2, 32, 40)
    refused("calibrate", "stack.npy", "-o", "b.h5", "--scan", "3")
    assert not Path("b.h5").exists()


def test_without_a_beam_nothing_is_written(calibrated, here):
    calibrated[0].origin = types.SimpleNamespace(found=False)
    assert prenet("calibrate", "scan.npy", "-o", "out.h5").exit_code == 1
    assert [p.name for p in here.iterdir()] == ["scan.npy"]


@pytest.mark.parametrize("command", ["calibrate", "denoise"])
def test_bad_input_is_one_line_and_changes_nothing(command, calibrated, stage, here):
    stage("denoising", denoise=None)
    (here / "text.h5").write_text("hello")
    np.save("flat.npy", np.zeros((4, 32, 32)))
    before = {p.name: p.read_bytes() for p in here.iterdir()}
    for file, output in [("none.h5", "out.h5"), ("text.h5", "out.h5"), ("flat.npy", "out.h5"), ("scan.npy", "scan.npy"),
                         ("scan.npy", "missing/out.h5"), ("scan.npy", "out.tif"), ("scan.npy", "/proc/out.h5")]:
        refused(command, file, "-o", output)
    assert {p.name: p.read_bytes() for p in here.iterdir()} == before
    assert len(calibrated) == 1  # the stage never ran


def test_a_mask_from_a_file(stage):
    masks = []

    def calibrate(datacube, mask, device, **options):
        masks.append(mask)
        raise PrenetError("The data contain NaN.")

    stage("pipeline", calibrate=calibrate)
    np.save("good.npy", np.arange(12).reshape(3, 4) > 4)
    refused("calibrate", "scan.npy", "-o", "masked.h5", "--mask", "good.npy")
    assert masks[0].dtype == bool and masks[0].sum() == 7
    Path("text.npy").write_text("no numbers")
    refused("calibrate", "scan.npy", "-o", "masked.h5", "--mask", "text.npy")
    assert len(masks) == 1 and not Path("masked.h5").exists()


def test_denoise_streams_to_its_file(stage):
    calls = []
    stage("denoising", denoise=lambda cube, out, weights, device: calls.append((cube.data.shape, str(out), device)))
    assert prenet("denoise", "scan.npy", "-o", "out.h5").exit_code == 0
    assert calls == [(SHAPE, "out.h5", "auto")]


def test_train(stage, here):
    calls = []
    stage("training", train=lambda task, **settings: calls.append((task, settings)))
    commands = []
    stage("training", export=lambda run, out, command: commands.append(command))
    assert prenet("train", "center", "--minutes", 2, "--seed", 7).exit_code == 0
    assert commands == ["prenet train center --minutes 2.0 --seed 7"]
    (task, settings), *_ = calls
    assert task == "center" and settings.pop("out").as_posix() == "runs/center"
    assert settings == {"minutes": 2, "steps": None, "seed": 7, "resume": False, "start": None, "part": None,
                        "device": "cpu"}
    (here / "run").mkdir()
    (here / "run" / "state").touch()
    refused("train", "denoise", "--out", "run")
    assert prenet("train", "denoise", "--out", "run", "--resume").exit_code == 0 and calls[1][1]["resume"]
    refused("train", "denoise", "--out", "none", "--resume")
    refused("train", "denoise", "--output", "run")
    assert len(calls) == 2
    assert prenet("train", "cooking").exit_code == 2


def test_simulate(stage):
    def simulate(scan, shape, dose, seed):
        assert (dose, seed) == (500, 3)
        return types.SimpleNamespace(counts=np.ones((*scan, *shape), np.uint16), truth={"qx0": np.ones(scan)})

    stage("simulation", simulate=simulate)
    arguments = ("--scan", "2,3", "--shape", "32x40", "--dose", 500, "--seed", 3)
    assert prenet("simulate", "-o", "sim.h5", *arguments).exit_code == 0
    cube = py4DSTEM.read("sim.h5")
    assert cube.data.shape == SHAPE and cube.metadata["truth"]["qx0"].shape == (2, 3)
    before = Path("sim.h5").read_bytes()
    refused("simulate", "-o", "sim.h5")
    assert Path("sim.h5").read_bytes() == before


def test_demo(stage):
    calls = []
    stage("demo", run=calls.append)
    for arguments in ((), ("--output", "there"), ("-o", "there"), ("--out", "there")):  # --out is its former name
        assert prenet("demo", *arguments).exit_code == 0
    assert [str(c) for c in calls] == ["demo", "there", "there", "there"]


def test_info(stage):
    versions = json.loads(prenet("info", "--json").stdout)
    assert versions["py4DSTEM"].startswith("0.") and versions["device"]
    assert len(prenet("info").stdout.splitlines()) == len(versions)
    assert prenet("info", "scan.npy").exit_code == 0
    refused("info", "none.h5")
    assert prenet("--version").stdout.split() == ["prenet", __version__]


def test_info_describes_any_hdf5_file(here):
    with h5py.File("plain.h5", "w") as file:
        file.create_dataset("entry/counts", (2, 3, 32, 40), np.uint16, compression="gzip")
        file["energy"] = 300.0
    assert len(prenet("info", "plain.h5").stdout.splitlines()) == 3
    contents = json.loads(prenet("info", "plain.h5", "--json").stdout)["contents"]
    assert [(c["path"], c["shape"], c["compression"]) for c in contents] == [
        ("energy", [], None), ("entry/counts", [2, 3, 32, 40], "deflate")]
    Path("plain.h5").rename("plain.nxs")
    assert json.loads(prenet("info", "plain.nxs", "--json").stdout)["contents"] == contents
    h5py.File("empty.h5", "w").close()
    refused("info", "empty.h5")
    whole = Path("plain.nxs").read_bytes()
    for name, content in (("cut.h5", whole[:1000]), ("text.h5", b"text"), ("short.npy", b"text"), ("a.xyz", b"text")):
        Path(name).write_bytes(content)
        refused("info", name)


def test_weights_that_are_no_better_are_refused_on_stderr(stage):
    verdicts = [types.SimpleNamespace(accepted=accepted) for accepted in (False, True)]
    stage("denoising", finetune=lambda cube, out, minutes, device: verdicts.pop(0))
    refused("finetune", "scan.npy", "-o", "new.safetensors")
    assert prenet("finetune", "scan.npy", "-o", "new.safetensors").exit_code == 0


def test_watching_a_scan_without_a_beam_fails(stage, here):
    report = types.SimpleNamespace(origin=types.SimpleNamespace(found=False))
    stage("live", watch_file=lambda *arguments, **options: report)
    for output in ((), ("-o", "out.h5")):
        assert prenet("watch", "scan.raw", "--scan", "4,4", "--shape", "32,32", *output).exit_code == 1
        assert not Path("out.h5").exists()


def test_weights_are_listed_and_each_is_verified(here, monkeypatch):
    listed = prenet("weights")
    names = {line.split()[0] for line in listed.stdout.splitlines()}
    assert listed.exit_code == 0 and names >= {"center", "denoise", "ellipse"}
    monkeypatch.setenv("PY4DSTEM_PRENET_WEIGHTS", str(here))
    (here / "mine.safetensors").write_bytes(b"hello")
    listed = prenet("weights")
    assert listed.exit_code == 1 and {line.split()[0] for line in listed.stdout.splitlines()} == names | {"mine"}
    before = set(here.iterdir())
    refused("weights", "--import", "scan.npy")
    assert set(here.iterdir()) == before


def test_empty_scan_is_refused(here):
    np.save("empty.npy", np.zeros((0, 4, 64, 64)))
    refused("calibrate", "empty.npy", "-o", "out.h5")
    assert not (here / "out.h5").exists()


@pytest.mark.slow
def test_a_simulated_scan_is_calibrated_and_read_back(here):
    """The real stages behind the commands; the file of `simulate` holds no calibration yet."""
    import py4DSTEM

    assert prenet("simulate", "-o", "sim.h5", "--scan", "4,4", "--shape", "64,64", "--dose", 3000).exit_code == 0
    assert prenet("calibrate", "sim.h5", "-o", "cal.h5").exit_code == 0
    back, before = (py4DSTEM.read(str(here / name)) for name in ("cal.h5", "sim.h5"))
    truth = before.metadata["truth"]
    qx0, qy0 = back.calibration.get_origin()
    assert np.hypot(qx0 - truth["qx0"], qy0 - truth["qy0"]).mean() < 0.4


@pytest.mark.parametrize("command", [
    ("demo", "-o", "scan.npy"), ("demo", "-o", "scan.npy/inside"),
    ("train", "center", "--steps", "1", "-o", "scan.npy"), ("calibrate", "scan.npy", "other.npy", "-o", "scan.npy"),
    ("calibrate", "scan.npy", "-o", "a.h5", "--mask", "none.npy"),
    ("calibrate", "scan.npy", "-o", "a.h5", "--ellipse", "perhaps")])
def test_a_wrong_folder_or_value_is_told_in_one_line(command):
    np.save("other.npy", np.load("scan.npy"))
    refused(*command)


def test_a_fault_needs_an_acquisition():
    assert prenet("simulate", "-o", "a.h5", "--fault", "jump").exit_code == 2


@pytest.mark.slow
def test_rotation_and_probe(here):
    """On a scan over a field, from a file to a file."""
    from py4dstem_prenet.simulation import simulate_nanobeam

    made = simulate_nanobeam((16, 16), (48, 48), rotation=0.4, field=0.8, length=1.5, radius=6.0, seed=4)
    np.save("field.npy", made.counts(5000))
    command = ["calibrate", "field.npy", "-o", "field.h5", "--rotation", "--probe", "--json"]
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["probe"]["accepted"] and told["probe"]["radius"] == pytest.approx(6, abs=0.5)
    told = told["rotation"]
    assert told["flip"] is False and abs(told["degrees"] - np.degrees(0.4)) < 8
    cube = py4DSTEM.read("field.h5")
    assert (cube.calibration.get_QR_rotation_degrees() is not None) == told["accepted"]
    assert cube.tree("probe").kernel.shape == (48, 48)


@pytest.mark.slow
def test_results_for_machines(here):
    """The real stages: one JSON object on stdout, nothing else, the same numbers as in the file."""
    assert prenet("simulate", "-o", "sim.h5", "--scan", "3,3", "--shape", "64,64", "--dose", 3000).exit_code == 0
    run = prenet("calibrate", "sim.h5", "-o", "cal.h5", "--json")
    told = json.loads(run.stdout)
    assert run.exit_code == 0 and told["saved"] == "cal.h5" and told["found"]
    assert {"detector", "origin", "descan", "ellipse", "flags"} <= set(told)
    origin = py4DSTEM.read(str(here / "cal.h5")).calibration.get_origin_meas()
    assert told["origin"]["qx0"] == pytest.approx(np.nanmedian(origin[0])) and told["origin"]["positions"] == 9
    assert told["detector"]["electrons"] == pytest.approx(3000, rel=0.3)

    held = json.loads(prenet("info", "cal.h5", "--json").stdout)
    cube, = (part for part in held["contents"] if part["kind"] == "DataCube")
    assert cube["shape"] == [3, 3, 64, 64] and held["file"] == "cal.h5"
    assert any(part["record"] for part in held["contents"])
    refused("calibrate", "none.h5", "-o", "x.h5", "--json")


def test_nothing_that_json_does_not_know():
    from py4dstem_prenet.report.summary import _finite

    assert _finite({"a": [np.float32("nan"), np.int64(2), float("inf")]}) == {"a": [None, 2, None]}


def test_help_and_completion():
    assert "Usage: prenet" in CliRunner().invoke(cli.app, ["--help"], prog_name="prenet").stdout
    assert prenet("calibrate").exit_code == 2 and prenet("cook").exit_code == 2
    words = {"_PRENET_COMPLETE": "complete_bash", "COMP_WORDS": "prenet cal", "COMP_CWORD": "1"}
    assert CliRunner().invoke(cli.app, prog_name="prenet", env=words).stdout.split() == ["calibrate"]
