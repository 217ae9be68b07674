"""DataCube.prenet: how it is added, and that its doors lead where their names say."""

import copy
import importlib
import pickle
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest
from py4DSTEM import DataCube

import py4dstem_prenet
from py4dstem_prenet import accessor, io
from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.core.flags import Decision
from py4dstem_prenet.io import calibrations, provenance

accessor.register()


@pytest.fixture
def cube():
    return DataCube(np.zeros((2, 3, 32, 32), np.uint8))


@pytest.fixture
def stage(monkeypatch):
    """Put functions in the place of a stage's module."""

    for module in ("pipeline", "review.measure"):  # before a replaced function could be imported into them
        importlib.import_module(f"py4dstem_prenet.{module}")

    def replace(module, **functions):
        home = importlib.import_module(f"py4dstem_prenet.{module}")
        for name, function in functions.items():
            if name in py4dstem_prenet.__all__:
                monkeypatch.setattr(py4dstem_prenet, name, function)
            monkeypatch.setattr(home, name, function)

    return replace


def run(code):
    root = Path(accessor.__file__).parents[2]
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=root, check=True)


@pytest.mark.slow
def test_added_at_whichever_import_comes_last():
    run("""
        import importlib, sys
        from py4dstem_prenet import accessor
        finders = list(sys.meta_path)
        accessor.register(), accessor.register()
        importlib.reload(accessor).register()
        assert "py4DSTEM" not in sys.modules and sys.meta_path == finders
        import numpy, pickle, py4DSTEM
        assert type(py4DSTEM.DataCube.__dict__["prenet"]) is accessor._Door
        cube = py4DSTEM.DataCube(numpy.zeros((1, 1, 32, 32)))
        assert type(cube.prenet).__name__ == "PrenetAccessor"
        accessor.register()
        assert pickle.loads(pickle.dumps(cube)).prenet._datacube.data.shape == (1, 1, 32, 32)
    """)


def test_each_cube_has_its_own(cube):
    cubes = [cube, cube.copy(), copy.copy(cube), copy.deepcopy(cube), pickle.loads(pickle.dumps(cube))]
    for one in cubes:
        assert one.prenet._datacube is one
    assert "prenet" not in vars(cube) and DataCube.prenet is accessor.PrenetAccessor
    with pytest.raises(AttributeError):
        cube.prenet = 1


def test_another_packages_attribute_is_left_alone(monkeypatch):
    monkeypatch.setattr(DataCube, "prenet", theirs := object())
    with pytest.raises(PrenetError):
        accessor.register()
    assert DataCube.__dict__["prenet"] is theirs


def test_a_reloaded_package_takes_its_own_place():
    DataCube.prenet = type("_Door", (), {"__module__": accessor.__name__})()
    accessor.register()
    assert type(DataCube.__dict__["prenet"]) is accessor._Door


def test_stages_one_by_one(cube, stage, monkeypatch):
    ones = np.ones(cube.Rshape)
    measured = types.SimpleNamespace(
        qx0=15 * ones, qy0=16 * ones, sigma_qx0=ones, sigma_qy0=ones, valid=ones > 0, radius=4.0,
        radius_sigma=0.02, found=True, feature="direct beam", stop=None, decision=Decision(True),
    )
    fitted = types.SimpleNamespace(qx0=15.5 * ones, qy0=16.5 * ones, accepted=True,
                                   decision=Decision(True, (), {"uncertainty": 0.01}))
    round_ring = types.SimpleNamespace(a=1.01, b=0.99, theta=0.3, accepted=True, used="rings", leading="rings",
                                       covariance=1e-6 * np.eye(2))
    seen = {}

    def measure_origin(data, noise=None, mask=None, device="auto", progress=True, center=None, radius=None):
        seen["mask"] = mask
        return measured

    def fit_origin(origin_map, model):
        seen["map"], seen["model"] = origin_map, model
        return fitted

    def measure_ellipse(data, qx0, qy0, radius, noise, valid=None, region=None, device="auto", progress=True):
        seen["ellipse"] = (data, qx0[0, 0], qy0[0, 0], radius, noise, valid.all())
        seen["options"] = device, progress
        return round_ring

    def map_ellipse(data, qx0, qy0, radius, noise, blocks, valid=None, device="auto", progress=True):
        seen["map options"] = blocks, device, progress
        return types.SimpleNamespace(at_positions=lambda: np.zeros((5, *cube.Rshape)))

    stage("origin", measure_origin=measure_origin)
    stage("descan", fit_origin=fit_origin)
    monkeypatch.setattr(io, "noise_of", lambda data: "noise")
    mask = np.ones(cube.Qshape, bool)
    stage("ellipse", measure_ellipse=measure_ellipse, map_ellipse=map_ellipse)

    with pytest.raises(PrenetError):
        cube.prenet.fit_origin()
    with pytest.raises(PrenetError):
        cube.prenet.measure_ellipse()
    assert cube.prenet.measure_origin(mask=mask) is measured
    assert cube.prenet.fit_origin("plane") is fitted
    assert cube.prenet.measure_ellipse() is round_ring
    assert seen["mask"] is mask and calibrations.read_mask(cube).all() and seen["model"] == "plane"
    np.testing.assert_array_equal(seen["map"].qx0, measured.qx0)
    assert seen["ellipse"] == (cube, 15.5, 16.5, 4.0, "noise", True)
    assert cube.calibration.get_origin_meas()[0][0, 0] == 15
    assert cube.calibration.get_origin()[0][0, 0] == 15.5
    assert cube.calibration.get_ellipse() == (1.01, 0.99, 0.3)

    assert seen["options"] == ("auto", True)
    cube.prenet.measure_ellipse(device="cpu", progress=False)
    cube.prenet.map_ellipse(2, device="cpu", progress=False)
    assert seen["options"] == ("cpu", False) and seen["map options"] == (2, "cpu", False)


def test_whole_pipelines(cube, stage):
    def told(name):
        return lambda *args, **kwargs: (name, args, kwargs)

    stage("denoising", denoise=told("denoise"))
    stage("pipeline", calibrate=told("calibrate"), preprocess=told("preprocess"))
    stage("review", show=told("show"))
    auto = {"device": "auto", "progress": True}
    assert cube.prenet.denoise() == (
        "denoise", (cube,), {"out": None, "scan_aware": "auto", "weights": "denoise", **auto})
    assert cube.prenet.denoise(out="a.h5", device="cpu")[2]["device"] == "cpu"
    name, arguments, options = cube.prenet.calibrate(center=(15, 16))
    assert (name, arguments) == ("calibrate", (cube,)) and options["center"] == (15, 16)
    assert options == {**options, "mask": None, "model": "auto", "ellipse": True, "write": True, **auto}
    assert cube.prenet.preprocess(progress=False)[2] == {"out": None, "device": "auto", "progress": False}
    assert cube.prenet.show() == ("show", (cube,), {})


def test_saves_and_loads(cube, tmp_path):
    cube.calibration.set_ellipse((1.01, 0.99, 0.3))
    cube.prenet.save(tmp_path / "all.h5")
    cube.prenet.save(tmp_path / "alone.h5", data=False)
    for name in ("all.h5", "alone.h5"):
        fresh = DataCube(cube.data)
        fresh.prenet.load_calibration(tmp_path / name)
        assert fresh.calibration.get_ellipse() == (1.01, 0.99, 0.3)
        assert provenance.read_provenance(fresh) is None or "shape" in provenance.read_provenance(fresh)
