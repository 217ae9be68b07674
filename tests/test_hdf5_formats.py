"""HDF5 files and zarr stores of detectors, py4DSTEM and HyperSpy: links, order of axes, pixel sizes."""

import importlib
import json
import shutil

import h5py
import hdf5plugin
import numpy as np
import py4DSTEM
import pytest
from opened import SCAN, STACK, is_scan, refused, run, signal, told

from py4dstem_prenet.core import as_scan
from py4dstem_prenet.core.errors import PrenetError


def dectris(folder, numbers=(1, 2, 3), **options):
    """A master file that links to three files, of which some are there."""
    for i in numbers:
        with h5py.File(folder / f"a_data_{i:06d}.h5", "w") as file:
            file.create_dataset("entry/data/data", data=STACK[4 * i - 4 : 4 * i], **options)
    with h5py.File(folder / "a_master.h5", "w") as file:
        file["entry"] = file.create_group("x")
        file["entry"].attrs["DECTRIS_lab_geometry"] = "mcstas"
        for i in (1, 2, 3):
            file[f"entry/data/data_{i:06d}"] = h5py.ExternalLink(f"a_data_{i:06d}.h5", "/entry/data/data")
        file["entry/instrument/detector/detectorSpecific/ntrigger"] = 3
        file["entry/instrument/detector/detectorSpecific/nimages"] = 4
        file["entry/flat"] = np.ones((48, 40))
    return folder / "a_master.h5"


@pytest.mark.parametrize("filters", [{}, "Bitshuffle", "LZ4", "Zstd", "Blosc"])
def test_stacks_behind_links_are_joined(tmp_path, filters):
    if filters:
        filters = dict(chunks=(1, 48, 40), **getattr(hdf5plugin, filters)())
    path = dectris(tmp_path, **filters)
    assert is_scan(path).Rshape == (3, 4)  # by the triggers
    np.testing.assert_array_equal(as_scan(told(path)[0]).read([3, 4, 11]), STACK[[3, 4, 11]])
    is_scan(path, SCAN.reshape(2, 6, 48, 40), scan_shape=(2, 6))


def test_missing_parts_of_a_stack_are_named(tmp_path):
    for name, numbers in (("hole", (1, 3)), ("first", (2, 3)), ("none", ())):
        (tmp_path / name).mkdir()
        text = refused(dectris(tmp_path / name, numbers), scan_shape=(3, 4))
        assert "a_data_" in text
    (tmp_path / "last").mkdir()
    cube, said = told(dectris(tmp_path / "last", (1, 2)), scan_shape=(3, 4))  # an interrupted acquisition
    np.testing.assert_array_equal(np.asarray(cube.data[...]), SCAN[:2])
    assert len(said) == 2


def test_links_of_all_kinds_are_followed(tmp_path):
    with h5py.File(tmp_path / "far.h5", "w") as file:
        file["group/d"] = SCAN
        file["again"] = h5py.SoftLink("/group/d")
    with h5py.File(tmp_path / "near.nxs", "w") as file:
        file["entry/all"] = h5py.ExternalLink("far.h5", "/group")
        file["entry/one"] = h5py.ExternalLink("far.h5", "/again")
        file["soft"] = h5py.SoftLink("/entry/one")
        file["loop"] = h5py.SoftLink("/")
        file["gone"] = h5py.ExternalLink("nowhere.h5", "/d")
    cube = is_scan(tmp_path / "near.nxs")  # the same data under three names are one scan
    for name in ("entry/one", "/entry/all/d", "soft", "d"):
        is_scan(tmp_path / "near.nxs", name=name)
    assert as_scan(cube).reopener() is not None
    with as_scan(cube).reopener()() as again:
        np.testing.assert_array_equal(again.read([5]), STACK[5:6])
    (tmp_path / "far.h5").unlink()
    assert "far.h5" in refused(tmp_path / "near.nxs")


def test_virtual_data_sets(tmp_path):
    layout = h5py.VirtualLayout((12, 48, 40), "u2")
    for i in range(3):
        with h5py.File(tmp_path / f"part{i}.h5", "w") as file:
            file["d"] = STACK[4 * i : 4 * i + 4]
        layout[4 * i : 4 * i + 4] = h5py.VirtualSource(f"part{i}.h5", "d", (4, 48, 40))
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_virtual_dataset("d", layout)
    cube = is_scan(tmp_path / "v.h5", scan_shape=(3, 4))
    (tmp_path / "part1.h5").unlink()
    with pytest.raises(PrenetError):  # HDF5 would give zeros
        as_scan(cube).read(np.arange(12))
    assert "part1.h5" in refused(tmp_path / "v.h5", scan_shape=(3, 4))


@pytest.mark.parametrize("options", [{}, dict(chunks=(1, 2, 48, 40), compression="gzip")])
def test_truth_values_in_hdf5(tmp_path, options):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("d", data=SCAN > 3, **options)
    scan = as_scan(told(tmp_path / "a.h5")[0])
    assert scan.dtype == np.uint8
    np.testing.assert_array_equal(scan.read(np.arange(12)), STACK > 3)


def test_events_are_no_patterns(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("electron_events/frames", 12, h5py.vlen_dtype("u4"))[0] = np.arange(3, dtype="u4")
        file["stem/images"] = np.zeros((2, 64, 64))
    assert "stempy" in refused(tmp_path / "a.h5")
    assert run("info", tmp_path / "a.h5").exit_code == 1


@pytest.mark.parametrize("version", [(0, 9), (0, 11), (0, 12)])
def test_files_of_py4dstem_before_0_13(tmp_path, version):
    path = tmp_path / "old.h5"
    with h5py.File(path, "w") as file:
        top = file.create_group("4DSTEM_experiment")
        top.attrs.update(emd_group_type=2, version_major=version[0], version_minor=version[1])
        cube = top.create_group("data/datacubes/my scan")
        cube["data"] = SCAN
        for i, n in enumerate(SCAN.shape):
            cube[f"dim{i + 1}"] = np.arange(n)
        for kind in ("counted_datacubes", "diffractionslices", "realslices", "pointlists", "pointlistarrays",
                     "coordinates"):
            top.create_group(f"data/{kind}")
        top["data/realslices/stack/data"] = np.zeros((60, 60, 3))
        calibration = top.create_group("metadata/metadata_0/calibration")
        calibration["R_pixel_size"], calibration["R_pixel_units"] = 2.0, "nm"
        calibration.attrs.update(K_pix_size=0.01, K_units="A^-1")
    np.testing.assert_array_equal(py4DSTEM.read(path, data_id="my scan").data, SCAN)
    for options in ({}, dict(name="my scan")):
        cube = is_scan(path, **options)
        assert isinstance(cube.data, np.memmap)
        assert (cube.calibration.get_R_pixel_size(), cube.calibration.get_R_pixel_units()) == (2, "nm")
        assert (cube.calibration.get_Q_pixel_size(), cube.calibration.get_Q_pixel_units()) == (0.01, "A^-1")


def test_files_of_py4dstem_0_13(tmp_path):
    path = tmp_path / "old.h5"
    with h5py.File(path, "w") as file:
        top = file.create_group("4DSTEM")
        top.attrs.update(emd_group_type="root", version_major=0, version_minor=13, version_release=11)
        cube = top.create_group("datacube")
        cube.attrs.update(emd_group_type=1, py4dstem_class="DataCube")
        cube["data"] = SCAN
        for name, value, kind in (("Q_pixel_size", 0.02, "number"), ("Q_pixel_units", "A^-1", "string")):
            calibration = top.require_group("calibration")
            calibration.attrs.update(emd_group_type=0, py4dstem_class="Calibration")
            calibration[name] = value
            calibration[name].attrs["type"] = np.bytes_(kind)
    cube = is_scan(path)
    assert (cube.calibration.get_Q_pixel_size(), cube.calibration.get_Q_pixel_units()) == (0.02, "A^-1")
    is_scan(path, name="datacube")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format, name", [("emd", "a.emd"), ("hspy", "a.hspy"), ("hspy", "a.hdf5"), ("zspy", "a.zspy"),
                                          ("nexus", "a.nxs")])
def test_files_of_hyperspy_have_the_right_order_and_sizes(tmp_path, format, name):
    importlib.import_module(f"rsciio.{format}").file_writer(str(tmp_path / name), signal(SCAN))
    cube = is_scan(tmp_path / name)
    calibration = cube.calibration
    assert (calibration.get_R_pixel_size(), calibration.get_R_pixel_units()) == (2.5, "nm")
    assert calibration.get_Q_pixel_size() == pytest.approx(0.005) and calibration.get_Q_pixel_units() == "A^-1"
    np.testing.assert_array_equal(as_scan(cube).read([2, 7]), STACK[[2, 7]])
    is_scan(tmp_path / name, SCAN.reshape(4, 3, 48, 40), scan_shape=(4, 3))
    described = json.loads(run("info", tmp_path / name, "--json").stdout)
    assert described["scan_shape"] == [3, 4] and described["pixel_sizes"]["R"] == [2.5, "nm"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format, name", [("hspy", "a.hspy"), ("zspy", "a.zspy"), ("nexus", "a.nxs")])
def test_spectra_are_no_patterns(tmp_path, format, name):
    spectra = signal(SCAN)
    spectra["axes"][2]["navigate"] = True
    importlib.import_module(f"rsciio.{format}").file_writer(str(tmp_path / name), spectra)
    refused(tmp_path / name)
    described = run("info", tmp_path / name, "--json")
    assert described.exit_code == 0 and json.loads(described.stdout)["scan_shape"] is None


@pytest.mark.filterwarnings("ignore")
def test_zarr_stores(tmp_path):
    zarr = pytest.importorskip("zarr")
    zarr.save(str(tmp_path / "a.zarr"), SCAN)
    zarr.open_group(str(tmp_path / "folder"), mode="w").create_dataset("deep/scan", data=SCAN, chunks=(1, 2, 48, 40))
    zarr.save(str(tmp_path / "b.zarr"), STACK)
    with zarr.ZipStore(str(tmp_path / "c.zspy"), mode="w") as store:
        zarr.group(store).create_dataset("scan", data=SCAN)
    is_scan(tmp_path / "a.zarr")
    is_scan(tmp_path / "c.zspy")
    is_scan(tmp_path / "b.zarr", scan_shape=(3, 4))
    cube = is_scan(tmp_path / "folder", name="deep/scan")
    assert type(cube.data) is not np.ndarray
    shutil.rmtree(tmp_path / "folder")
    with pytest.raises(PrenetError):  # zarr would give zeros
        as_scan(cube).read([0])
    (tmp_path / "empty").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.tif").touch()
    for name in ("empty", "images", "folder"):
        refused(tmp_path / name)
