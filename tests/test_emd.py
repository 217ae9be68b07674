"""What is written is what py4DSTEM uses, and what any process reads back."""

import json
import os
import pickle
import subprocess
import sys
import textwrap
import types

import dask.array
import h5py
import numpy as np
import py4DSTEM
import pytest
from py4DSTEM import DataCube

import py4dstem_prenet
from py4dstem_prenet.core import Decision, Flag, NoiseModel
from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.io import calibrations, emd_files, files, provenance

RSHAPE, QSHAPE = (3, 4), (40, 48)


def origin_map(**changes):
    rx, ry = np.mgrid[: RSHAPE[0], : RSHAPE[1]]
    values = {
        "qx0": 19.5 + 0.3 * rx + 0.1 * ry,
        "qy0": 24.0 - 0.2 * rx + 0.05 * ry,
        "sigma_qx0": np.full(RSHAPE, 0.02),
        "sigma_qy0": np.full(RSHAPE, 0.03),
        "valid": np.ones(RSHAPE, bool),
        "radius": np.float32(5.0),
        "found": True,
        "reason": "",
        "feature": "direct beam",
        "stop": None,
        "decision": Decision(True),
    }
    return types.SimpleNamespace(**{**values, **changes})


def origin_fit(**changes):
    measured = origin_map()
    return types.SimpleNamespace(**{"qx0": measured.qx0, "qy0": measured.qy0, "accepted": True, **changes})


def ellipse(**changes):
    values = {"a": np.float64(1.015), "b": np.float64(0.985), "theta": np.float64(0.4), "accepted": True}
    return types.SimpleNamespace(**{**values, **changes})


def bragg_vectors(cube, qx, qy):
    """Bragg vectors at (qx, qy) from the origin of every pattern, in the cube's tree."""
    m = origin_map()
    vectors = py4DSTEM.BraggVectors(RSHAPE, QSHAPE)
    for i, j in np.ndindex(RSHAPE):
        peaks = np.zeros(len(qx), vectors._v_uncal.dtype)
        peaks["qx"], peaks["qy"], peaks["intensity"] = m.qx0[i, j] + qx, m.qy0[i, j] + qy, 1
        vectors._v_uncal[i, j].add(peaks)
    cube.attach(vectors)
    cube.calibration.register_target(vectors)
    vectors.setcal()
    return vectors


@pytest.fixture
def cube():
    rng = np.random.default_rng(0)
    x, y = np.mgrid[: QSHAPE[0], : QSHAPE[1]]
    m = origin_map()
    beam = np.hypot(x - m.qx0[..., None, None], y - m.qy0[..., None, None]) < 5
    return DataCube(rng.poisson(1 + 20 * beam).astype(np.uint16), name="scan")


@pytest.fixture
def written(cube):
    calibrations.write_origin(cube, origin_map())
    calibrations.write_fit(cube, origin_fit())
    calibrations.write_ellipse(cube, ellipse())
    record = provenance.make_provenance(cube, weights={"center": "ab12"}, settings={"note": "Good: 1 ± 0.1 px."})
    provenance.write_provenance(cube, record)
    return cube


def saved(calibration):
    return {k: np.copy(v) for k, v in calibration._params.items() if not k.startswith("_")}


def assert_same(one, two):
    assert one.keys() == two.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])


class TestOrigin:
    def test_invalid_positions_take_the_nearest_valid_origin(self, cube):
        m = origin_map()
        m.valid[0, 0] = False
        m.qx0[0, 0] = m.sigma_qx0[0, 0] = np.nan
        m.qy0[2, 3] = np.inf  # said to be valid, and not usable
        assert calibrations.write_origin(cube, m)
        qx0, qy0 = cube.calibration.get_origin_meas()
        mask = cube.calibration.get_origin_meas_mask()
        assert np.isfinite(qx0).all() and np.isfinite(qy0).all() and qx0.dtype == qy0.dtype == np.float64
        assert mask.dtype == bool and np.argwhere(~mask).tolist() == [[0, 0], [2, 3]]
        assert qx0[0, 0] in (m.qx0[0, 1], m.qx0[1, 0]) and qy0[2, 3] in (m.qy0[1, 3], m.qy0[2, 2])
        np.testing.assert_array_equal(qx0[mask], m.qx0[mask])
        assert np.isnan(cube.tree(calibrations.SIGMA).data[:, ~mask]).all()

    def test_writing_again_replaces(self, written):
        before = set(written.treekeys), set(written.calibration.keys)
        calibrations.write_origin(written, origin_map(sigma_qx0=np.full(RSHAPE, 0.5)))
        assert (set(written.treekeys), set(written.calibration.keys)) == before
        assert (written.tree(calibrations.SIGMA).data[0] == 0.5).all()
        assert written.tree(calibrations.SIGMA).calibration is written.calibration

    def test_maps_are_copies(self, cube):
        m = origin_map()
        calibrations.write_origin(cube, m)
        calibrations.write_fit(cube, m_fit := origin_fit())
        m.qx0 += 1
        m_fit.qx0 += 1
        m.valid[:] = False
        np.testing.assert_array_equal(cube.calibration.get_origin_meas()[0], origin_map().qx0)
        np.testing.assert_array_equal(cube.calibration.get_origin()[0], origin_map().qx0)
        assert cube.calibration.get_origin_meas_mask().all()

    @pytest.mark.parametrize("changes", [{"found": False}, {"valid": np.zeros(RSHAPE, bool)}])
    def test_without_a_beam_nothing_is_written(self, cube, changes):
        before = saved(cube.calibration)
        assert not calibrations.write_origin(cube, origin_map(**changes))
        assert_same(saved(cube.calibration), before)
        assert not list(cube.treekeys)

    def test_measuring_leaves_the_origin_in_use_alone(self, written):
        """py4DSTEM's own set_probe_param would move the mean origin, and with it the axes."""
        axes = [np.copy(d) for d in written.dims]
        calibrations.write_origin(written, origin_map(qx0=np.full(RSHAPE, 30.0), radius=7))
        written.calibration.calibrate()
        for dim, was in zip(written.dims, axes, strict=True):
            np.testing.assert_array_equal(dim, was)
        assert written.calibration.get_probe_param()[0] == 7

    def test_what_was_located_and_its_radius_are_read_back(self, written):
        """The center of rings is not the direct beam's, and an earlier disk's radius is not theirs."""
        assert calibrations.read_origin(written).feature == "direct beam"
        calibrations.write_origin(written, origin_map(feature="rings", radius=float("nan")))
        found = calibrations.read_origin(written)
        assert found.feature == "rings" and np.isnan(found.radius)
        written.calibration.set_origin_meas((found.qx0 + 1, found.qy0, found.valid))  # somebody else's
        assert calibrations.read_origin(written).feature == "direct beam"

    def test_a_cube_without_a_calibration(self, cube, written, tmp_path):
        """py4DSTEM reads a cube that was saved without one with None in its place."""
        emd_files.save(written, tmp_path / "calibration.h5", data=False)
        cube.root._metadata.pop("calibration")
        with pytest.raises(PrenetError):
            emd_files.save(cube, tmp_path / "none.h5", data=False)
        emd_files.load_calibration(cube, tmp_path / "calibration.h5")
        np.testing.assert_array_equal(cube.calibration.get_origin()[0], written.calibration.get_origin()[0])
        cube.root._metadata.pop("calibration")
        assert calibrations.cube_like(cube, cube.data).calibration is not None

    def test_a_cube_like_another_does_not_copy_its_data(self, written):
        """As a memory map's copy would be in memory, and an HDF5 data set has none."""

        class Large(np.ndarray):
            def __deepcopy__(self, memo):
                raise AssertionError("the data were copied")

        written.data = written.data.view(Large)
        new, maps = calibrations.cube_like(written, np.zeros(written.data.shape)), written.tree(calibrations.SIGMA)
        np.testing.assert_array_equal(new.tree(calibrations.SIGMA).data, maps.data)
        copied = new.tree(calibrations.SIGMA)
        assert copied.root is new.root and not np.shares_memory(copied.data, maps.data)

    def test_refused_results_are_not_written(self, cube):
        before = saved(cube.calibration)
        assert not calibrations.write_fit(cube, origin_fit(accepted=False))
        assert not calibrations.write_ellipse(cube, ellipse(accepted=False))
        assert_same(saved(cube.calibration), before)

    def test_bad_maps_are_refused(self, cube):
        with pytest.raises(PrenetError):
            calibrations.write_origin(cube, origin_map(qx0=np.zeros((9, 9))))
        with pytest.raises(PrenetError):
            calibrations.write_fit(cube, origin_fit(qy0=np.float64(3)))
        with pytest.raises(PrenetError):
            calibrations.write_fit(cube, origin_fit(qx0=np.full(RSHAPE, np.nan)))

    def test_reads_back_what_was_measured(self, written):
        m = calibrations.read_origin(written)
        np.testing.assert_array_equal(m.qx0, origin_map().qx0)
        np.testing.assert_array_equal(m.sigma_qy0, origin_map().sigma_qy0)
        assert m.valid.all() and m.found and m.radius == 5

    def test_reads_what_py4dstem_measured(self, cube):
        cube.calibration.set_origin_meas((origin_map().qx0, origin_map().qy0, False))
        m = calibrations.read_origin(cube)
        assert m.valid.all() and (m.sigma_qx0 == 1).all() and np.isnan(m.radius)

    def test_what_is_missing_or_stale_is_said(self, cube, written):
        with pytest.raises(PrenetError):
            calibrations.read_fitted_origin(DataCube(np.zeros((*RSHAPE, *QSHAPE))))
        qx0, _, radius = calibrations.read_fitted_origin(written)
        assert qx0.shape == RSHAPE and radius == 5
        cropped = DataCube(written.data[:2], calibration=written.calibration.copy())
        with pytest.raises(PrenetError):
            calibrations.read_fitted_origin(cropped)


class TestConsumers:
    def test_virtual_images_use_the_origin(self, written):
        image = written.get_virtual_image(
            mode="circle",
            geometry=((0, 0), 5),
            centered=True,
            calibrated=False,
            shift_center=True,
            verbose=False,
        )
        assert (image.data > 0.9 * 80 * 20).all()

    @pytest.mark.parametrize("theta", [0.0, 0.4, 1.3, 2.9])
    def test_an_ellipse_comes_back_as_a_circle_of_radius_b(self, theta):
        m, a, b = origin_map(), np.sqrt(1.05), 1 / np.sqrt(1.05)
        cube = DataCube(np.zeros((*RSHAPE, *QSHAPE), np.float32))
        calibrations.write_fit(cube, origin_fit())
        calibrations.write_ellipse(cube, ellipse(a=a, b=b, theta=theta))
        phi = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        turn = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
        qx, qy = turn @ (10 * np.array([a * np.cos(phi), b * np.sin(phi)]))

        vectors = bragg_vectors(cube, qx, qy)
        assert vectors.calstate["center"] and vectors.calstate["ellipse"]
        for i, j in np.ndindex(RSHAPE):
            radii = np.hypot(vectors.cal[i, j].qx, vectors.cal[i, j].qy)
            np.testing.assert_allclose(radii, 10 * b, atol=1e-9)

        x, y = np.mgrid[: QSHAPE[0], : QSHAPE[1]]
        u, v = turn.T @ np.array([(x - m.qx0[1, 2]).ravel(), (y - m.qy0[1, 2]).ravel()])
        cube.data[1, 2] = np.exp(-((np.hypot(u / a, v / b) - 10) ** 2) / 4).reshape(QSHAPE)
        polar = py4DSTEM.PolarDatacube(cube, qmin=4, qmax=16, qstep=0.5, n_annular=36)
        for corrected in (True, False):
            polar.ellipse = corrected
            rings = np.ma.filled(polar.data[1, 2], 0)
            radii = (rings * polar.radial_bins).sum(1) / rings.sum(1)
            wave = 2 * abs(np.mean(radii * np.exp(2j * polar.annular_bins)))
            if corrected:  # to the accuracy of the polar sampling
                assert wave < 0.04 and abs(radii.mean() - 10 * b) < 0.05
            else:
                assert wave > 0.2

    def test_one_line_undoes_the_ellipse(self, written, tmp_path):
        written.calibration.set_ellipse((None, None, None))
        assert written.calibration.get_ellipse() is None
        assert not bragg_vectors(written, [0], [0]).calstate["ellipse"]
        emd_files.save(written, tmp_path / "a.h5")
        assert py4DSTEM.read(tmp_path / "a.h5").calibration.get_ellipse() is None


class TestProvenance:
    def test_holds_only_what_json_can(self, cube):
        settings = {"mask": np.ones((2, 2), bool), 3: np.nan, "path": files.Path("x"), "type": np.dtype("u2")}
        record = provenance.make_provenance(cube, settings=settings)
        assert json.loads(json.dumps(record, allow_nan=False)) == record
        assert record["shape"] == [3, 4, 40, 48] and record["settings"]["3"] is None
        assert record["date"].endswith("+00:00")

    def test_the_noise_model_is_told_without_its_map(self, cube):
        bad = np.zeros(QSHAPE, bool)
        bad[1, :3] = True
        numbers = {"gain": np.float64(2), "offset": 0.0, "readout": 0.5, "counting": True, "dose": 100.0}
        model = NoiseModel(**numbers, bad_pixels=bad, flags=(Flag("no_electrons"),))
        noise = provenance.make_provenance(cube, noise=model)["noise"]
        assert noise["gain"] == 2 and noise["bad_pixels"] == 3 and noise["flags"][0]["name"] == "no_electrons"

    def test_is_kept_with_the_cube(self, cube):
        assert provenance.read_provenance(cube) is None
        provenance.write_provenance(cube, {"a": 1})
        provenance.write_provenance(cube, {"a": 2, "ü": "±"})
        assert provenance.read_provenance(cube) == {"a": 2, "ü": "±"}


READ_BACK = """
    import json, sys
    import numpy as np
    import py4DSTEM

    cube = py4DSTEM.read("full.h5")
    truth = np.load("truth.npz")
    assert isinstance(cube, py4DSTEM.DataCube) and cube.data.dtype == np.uint16 and cube.name == "scan"
    alone = py4DSTEM.read("alone.h5")
    assert isinstance(alone, py4DSTEM.Calibration)
    for calibration in cube.calibration, alone:
        np.testing.assert_array_equal(calibration.get_origin()[0], truth["qx0"])
        np.testing.assert_array_equal(calibration.get_origin_meas()[1], truth["qy0"])
        assert calibration.get_origin_meas_mask().dtype == bool
        assert calibration.get_ellipse() == (1.015, 0.985, 0.4)
        assert calibration.get_probe_semiangle() == 5
    np.testing.assert_array_equal(cube.data, truth["data"])
    sigma = cube.tree("prenet_origin_sigma")
    assert sigma.get_slice("qy0").data.tolist() == truth["sigma_qy0"].tolist()
    assert json.loads(cube.metadata["prenet"]["json"])["settings"]["note"] == "Good: 1 \\u00b1 0.1 px."
    assert json.loads(alone["prenet"]["json"])["shape"] == [3, 4, 40, 48]
    assert alone["prenet"]["sigma"].shape == (2, 3, 4)
    mean = np.mean([calibration.get_qx0() for calibration in (cube.calibration, alone)])
    np.testing.assert_allclose(cube.dims[2][0], -mean)

    streamed = py4DSTEM.read("streamed.h5")
    assert streamed.data.dtype == np.float32 and (streamed.data[1] == 7).all() and not streamed.data[0].any()
    assert streamed.calibration.get_ellipse() == (1.015, 0.985, 0.4)
    simulated = py4DSTEM.read("simulated.h5")
    assert isinstance(simulated, py4DSTEM.DataCube) and simulated.Rshape == (3, 4)
    assert simulated.metadata["truth"]["qx0"].shape == (3, 4) and simulated.metadata["truth"]["a"] == 1.01
    assert not [name for name in sys.modules if name.startswith("py4dstem_prenet")]
"""


@pytest.mark.slow
def test_a_process_without_the_plugin_reads_every_file(written, tmp_path):
    m = origin_map()
    np.savez(tmp_path / "truth.npz", data=written.data, qx0=m.qx0, qy0=m.qy0, sigma_qy0=m.sigma_qy0)
    emd_files.save(written, tmp_path / "full.h5")
    emd_files.save(written, tmp_path / "alone.h5", data=False)
    assert os.path.getsize(tmp_path / "alone.h5") < 60_000
    with emd_files.new_cube(written, tmp_path / "streamed.h5", np.float32) as data:
        data[1] = 7
    files.save_scan(tmp_path / "simulated.h5", written.data, {"qx0": m.qx0, "a": 1.01, "kind": "crystal"})
    subprocess.run([sys.executable, "-c", textwrap.dedent(READ_BACK)], cwd=tmp_path, check=True)


class TestSave:
    def test_leaves_the_cube_as_it_was(self, written, tmp_path):
        before, tree, data = set(written.calibration.keys), set(written.treekeys), written.data
        emd_files.save(written, tmp_path / "a.h5")
        emd_files.save(written, tmp_path / "b.h5", data=False)
        assert set(written.calibration.keys) == before and set(written.treekeys) == tree
        assert written.data is data and written in written.calibration.targets
        assert os.stat(tmp_path / "a.h5").st_nlink == 1

    @pytest.mark.parametrize("data", [True, False])
    def test_an_existing_file_is_untouched(self, cube, tmp_path, data):
        path = tmp_path / "a.h5"
        path.write_text("mine")
        with pytest.raises(PrenetError):
            emd_files.save(cube, path, data=data)
        assert path.read_text() == "mine" and os.listdir(tmp_path) == ["a.h5"]

    @pytest.mark.parametrize("path", ["missing/a.h5", "a.dat", "file/a.h5", "/proc/a.h5", "."])
    def test_a_path_that_cannot_be_written_is_refused_first(self, tmp_path, monkeypatch, path):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "file").touch()
        with pytest.raises(PrenetError):
            files.check_output(path)
        assert os.listdir(tmp_path) == ["file"]

    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError])
    def test_a_failed_save_leaves_nothing(self, cube, tmp_path, error):
        with pytest.raises(PrenetError if error is OSError else error):
            with emd_files.new_cube(cube, tmp_path / "a.h5", np.float32):
                raise error("stop")
        assert not os.listdir(tmp_path)

    def test_what_emdfile_cannot_store_is_told_and_leaves_nothing(self, written, tmp_path):
        written.calibration["flag"] = np.bool_(True)
        before = set(written.calibration.keys)
        for data in (True, False):
            with pytest.raises(PrenetError):
                emd_files.save(written, tmp_path / "a.h5", data=data)
        assert not os.listdir(tmp_path) and set(written.calibration.keys) == before

    def test_a_file_that_appears_meanwhile_is_not_replaced(self, cube, tmp_path):
        path = tmp_path / "a.h5"
        with pytest.raises(PrenetError):
            with emd_files.new_cube(cube, path, np.float32):
                path.write_text("mine")
        assert path.read_text() == "mine" and os.listdir(tmp_path) == ["a.h5"]

    @pytest.mark.parametrize("taken", [False, True])
    def test_without_hard_links_as_well(self, tmp_path, monkeypatch, taken):
        def link(*_):
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(os, "link", link)
        path = tmp_path / "a.h5"
        if taken:
            with pytest.raises(PrenetError), files.new_file(path) as partial:
                partial.write_text("ours")
                path.write_text("mine")
        else:
            with files.new_file(path) as partial:
                partial.write_text("ours")
        assert path.read_text() == ("mine" if taken else "ours") and os.listdir(tmp_path) == ["a.h5"]

    @pytest.mark.parametrize("rshape", [(1, 1), (1, 5), (5, 1)])
    def test_any_scan_shape_and_source(self, tmp_path, rshape):
        data = np.random.default_rng(0).integers(0, 9, (*rshape, 32, 40), dtype=np.int32)
        emd_files.save(DataCube(data), tmp_path / "a.h5")
        with h5py.File(tmp_path / "a.h5") as file:
            emd_files.save(DataCube(file["datacube_root/datacube/data"]), tmp_path / "b.h5")
        emd_files.save(DataCube(dask.array.from_array(data)), tmp_path / "c.h5")
        for name in ("a.h5", "b.h5", "c.h5"):
            np.testing.assert_array_equal(py4DSTEM.read(tmp_path / name).data, data)

    def test_bragg_vectors_and_strain_map_are_read_back(self, written, tmp_path):
        vectors = bragg_vectors(written, np.array([0.0, 10, 0]), np.array([0.0, 0, 10]))
        py4DSTEM.StrainMap(vectors).data[:] = np.arange(6)[:, None, None]
        emd_files.save(written, tmp_path / "a.h5")
        for cube in (py4DSTEM.read(tmp_path / "a.h5"), py4dstem_prenet.open(tmp_path / "a.h5")):
            again = cube.tree("braggvectors")
            assert again in cube.calibration.targets and again.calstate == vectors.calstate
            np.testing.assert_allclose(again.cal[1, 2].qx, vectors.cal[1, 2].qx)
            assert (again.tree("strainmap").data == np.arange(6)[:, None, None]).all()

    def test_blocks_follow_storage(self):
        def rows(shape, chunks=None):
            return emd_files._rows_at_once(types.SimpleNamespace(shape=shape, dtype=np.dtype("u2"), chunks=chunks))

        assert rows((100, 64, 128, 128)) == 32  # 64 MiB
        assert rows((100, 256, 256, 256), (4, 4, 256, 256)) == 4
        assert rows((100, 256, 256, 256), ((8, 8), (256,), (256,), (256,))) == 8
        assert rows((100, 256, 256, 256), (100, 1, 1, 1)) == 2  # unpacking all at once would take gigabytes


class TestLoadCalibration:
    @pytest.mark.parametrize("data", [True, False])
    def test_brings_all_that_was_written(self, written, tmp_path, data):
        written.calibration.set_QR_rotflip_degrees((12.5, True))
        emd_files.save(written, tmp_path / "a.h5", data=data)
        fresh = DataCube(written.data)
        fresh.calibration.set_Q_pixel_size(0.02)
        fresh.calibration.set_Q_pixel_units("A^-1")
        emd_files.load_calibration(fresh, tmp_path / "a.h5")
        assert fresh.calibration.get_Q_pixel_size() == 0.02  # the file has none
        ours, theirs = saved(fresh.calibration), saved(written.calibration)
        for key in ("Q_pixel_size", "Q_pixel_units"):
            del ours[key], theirs[key]
        assert_same(ours, theirs)
        np.testing.assert_array_equal(fresh.tree(calibrations.SIGMA).data, written.tree(calibrations.SIGMA).data)
        assert provenance.read_provenance(fresh)["weights"] == {"center": "ab12"}
        assert fresh.dims[2][0] == pytest.approx(-np.mean(origin_map().qx0))

    def test_a_calibration_that_py4dstem_saved(self, written, tmp_path):
        py4DSTEM.save(tmp_path / "a.h5", written.calibration)
        fresh = DataCube(written.data)
        emd_files.load_calibration(fresh, tmp_path / "a.h5")
        assert fresh.calibration.get_ellipse() == (1.015, 0.985, 0.4)
        with pytest.raises(PrenetError):
            emd_files.load_calibration(DataCube(np.zeros((4, 3, *QSHAPE))), tmp_path / "a.h5")

    @pytest.mark.parametrize("data", [True, False])
    @pytest.mark.parametrize("shape", [(3, 5, 40, 48), (3, 4, 80, 96)])
    def test_not_to_other_data(self, written, tmp_path, data, shape):
        emd_files.save(written, tmp_path / "a.h5", data=data)
        other = DataCube(np.zeros(shape, np.uint8))
        before = saved(other.calibration)
        with pytest.raises(PrenetError):
            emd_files.load_calibration(other, tmp_path / "a.h5")
        assert_same(saved(other.calibration), before)

    def test_without_a_calibration(self, cube, tmp_path):
        files.save_scan(tmp_path / "a.h5", cube.data, {})
        with pytest.raises(PrenetError):
            emd_files.load_calibration(cube, tmp_path / "a.h5")
        with pytest.raises(PrenetError):
            emd_files.load_calibration(cube, tmp_path / "b.h5")


def test_a_pickled_cube_keeps_what_was_written(written):
    again = pickle.loads(pickle.dumps(written))
    assert_same(saved(again.calibration), saved(written.calibration))
