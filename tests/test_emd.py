"""EMD files: what is saved is what any process reads back."""

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
from written import QSHAPE, assert_same, blank_cube, bragg_vectors, origin_map, saved, written_cube

import py4dstem_prenet
from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.io import calibrations, emd_files, files, provenance


@pytest.fixture
def cube():
    return blank_cube()


@pytest.fixture
def written():
    return written_cube()


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


def test_a_saved_scan_names_the_file_of_the_camera(tmp_path):
    np.save(tmp_path / "camera.npy", np.ones((2, 3, 32, 32), np.uint16))
    for name, copy in (("camera.npy", "first.h5"), ("first.h5", "second.h5"), ("second.h5", "third.h5")):
        scan = py4dstem_prenet.open(tmp_path / name)
        provenance.write_provenance(scan, provenance.make_provenance(scan))
        assert provenance.first_file(scan) == "camera.npy"
        scan.prenet.save(tmp_path / copy)


def test_no_disks_are_searched_in_denoised_patterns(tmp_path):
    scan = DataCube(np.random.default_rng(0).poisson(2.0, (2, 3, 32, 32)).astype(np.uint16))
    provenance.write_provenance(scan, provenance.make_provenance(scan))
    assert not provenance.is_denoised(scan)
    denoised = scan.prenet.denoise(scan_aware=False, progress=False)
    streamed = scan.prenet.denoise(tmp_path / "denoised.h5", scan_aware=False, progress=False)
    denoised.prenet.save(tmp_path / "copy.h5")
    for cube in (denoised, streamed, py4dstem_prenet.open(tmp_path / "copy.h5")):
        assert provenance.is_denoised(cube)
        with pytest.raises(PrenetError):
            cube.prenet.bragg_disks(progress=False)


def test_a_pickled_cube_keeps_what_was_written(written):
    again = pickle.loads(pickle.dumps(written))
    assert_same(saved(again.calibration), saved(written.calibration))
