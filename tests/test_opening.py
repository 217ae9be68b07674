"""Scans out of files: the same numbers whatever the format, and none of them read before they are used."""

import importlib
import os

import h5py
import numpy as np
import py4DSTEM
import pytest
from dm4 import write_dm4
from py4DSTEM import Calibration, DataCube
from scans import simulated

import py4dstem_prenet
from py4dstem_prenet.core import as_scan
from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.io import emd_files, provenance

SCAN, SHAPE = (3, 4), (40, 48)


@pytest.fixture(scope="module")
def data():
    return np.random.default_rng(0).integers(0, 200, (*SCAN, *SHAPE)).astype(np.uint8)


@pytest.fixture
def emd_file(data, tmp_path):
    """A calibrated cube "scan" and what belongs to it, as py4DSTEM itself writes it."""
    cube = DataCube(data, name="scan")
    x, y = np.mgrid[: SCAN[0], : SCAN[1]].astype(float)
    cube.calibration.set_origin((19 + x, 24 - y))
    cube.calibration.set_ellipse((1.01, 0.99, 0.3))
    cube.attach(py4DSTEM.RealSlice(np.ones(SCAN), name="image"))
    provenance.write_provenance(cube, {"verdicts": ["Good: 1 ± 0.1 px."]})
    py4DSTEM.save(tmp_path / "a.h5", cube.root)
    return tmp_path / "a.h5"


def opened(path, lazy, data, **options):
    cube = py4dstem_prenet.open(path, **options)
    assert isinstance(cube, DataCube) and isinstance(cube.data, lazy)
    whole = np.concatenate([block for _, block in as_scan(cube).blocks()])
    np.testing.assert_array_equal(whole.reshape(*SCAN, *data.shape[2:]), data)
    return cube


def test_emd_brings_all_that_py4dstem_read_brings(emd_file, data):
    cube, known = opened(emd_file, np.memmap, data), py4DSTEM.read(emd_file)
    assert cube.name == "scan" and cube in cube.calibration.targets
    np.testing.assert_array_equal(cube.calibration.get_origin(), known.calibration.get_origin())
    assert cube.calibration.get_ellipse() == known.calibration.get_ellipse()
    np.testing.assert_array_equal(cube.tree("image").data, 1)
    assert provenance.read_provenance(cube) == provenance.read_provenance(known)
    assert cube.dims[2][0] == pytest.approx(-20)  # axes follow the calibration
    again = emd_file.with_name("again.h5")
    emd_files.save(cube, again)
    np.testing.assert_array_equal(py4DSTEM.read(again).data, data)


def test_a_large_file_is_opened_without_being_read(tmp_path):
    """512 MiB, of which the disk holds next to nothing: reading it would show in the process's own memory."""
    path = tmp_path / "large.h5"
    with h5py.File(path, "w") as file:
        space = h5py.h5s.create_simple((64, 64, 256, 256))
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        settings.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        h5py.h5d.create(file.id, b"data", h5py.h5t.NATIVE_UINT16, space, settings)
    before = resident()
    cube = py4dstem_prenet.open(path)
    assert cube.data.shape == (64, 64, 256, 256) and cube.data[3, 5, 7, 9] == 0
    assert resident() - before < 50


def resident():
    import psutil

    return psutil.Process().memory_info().rss / 2**20


def test_the_file_can_be_closed_deleted_and_written_again(data, tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=data, chunks=(1, 1, *SHAPE), compression="gzip")
    cube = opened(path, h5py.Dataset, data)
    cube.data.file.close()
    with h5py.File(path, "r+") as file:  # nothing holds a lock
        file["more"] = 1
    with h5py.File(path, "w") as file:
        file["data"] = data
    cube = opened(path, np.memmap, data)
    with h5py.File(path, "r+") as file:  # there is no handle at all
        file["more"] = 1


def test_one_of_several_cubes_is_named(emd_file, data):
    cube = DataCube(data, name="scan")
    cube.root.graft(DataCube(data + 1, name="other"))
    path = emd_file.with_name("several.h5")
    py4DSTEM.save(path, cube.root)
    with pytest.raises(PrenetError):
        py4dstem_prenet.open(path)
    opened(path, np.memmap, data + 1, name="other")
    with pytest.raises(PrenetError):
        py4dstem_prenet.open(path, name="third")
    assert py4dstem_prenet.open(path, scan_shape=(2, 6), name="other").Rshape == (2, 6)
    with pytest.raises(PrenetError):
        py4dstem_prenet.open(path, scan_shape=(2, 5), name="other")
    with pytest.raises(PrenetError):  # its calibration holds maps of the scan
        py4dstem_prenet.open(emd_file, scan_shape=(2, 6))


@pytest.mark.parametrize("options", [{}, dict(chunks=(2, 2, 20, 24)), dict(chunks=(1, 4, *SHAPE), compression="gzip")])
@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_plain_hdf5(data, tmp_path, options, order):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file.create_dataset("entry/counts", data=data.astype(order), **options)
        file["mask"] = np.ones(SHAPE)
    cube = opened(tmp_path / "a.hdf5", h5py.Dataset if options else np.memmap, data)
    assert cube.data.dtype == order
    if options:
        cube.data.file.close()
    with h5py.File(tmp_path / "a.hdf5", "r+") as file:
        file["second"] = data + 1
    with pytest.raises(PrenetError):
        py4dstem_prenet.open(tmp_path / "a.hdf5")
    for name in ("counts", "entry/counts"):
        opened(tmp_path / "a.hdf5", h5py.Dataset if options else np.memmap, data, name=name)


@pytest.mark.parametrize("chunks", [None, (1, *SHAPE), (5, 10, 48), (8, *SHAPE)])
def test_a_stack_of_patterns_takes_the_scans_shape(data, tmp_path, chunks):
    stack = data.reshape(-1, *SHAPE)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("stack", data=stack, chunks=chunks)
    np.save(tmp_path / "a.npy", stack)
    for path in (tmp_path / "a.h5", tmp_path / "a.npy"):
        opened(path, object if path.suffix == ".h5" and chunks else np.memmap, data, scan_shape=SCAN)
        with pytest.raises(PrenetError):
            py4dstem_prenet.open(path, scan_shape=(5, 5))
        with pytest.raises(PrenetError):
            py4dstem_prenet.open(path)


def test_npy(data, tmp_path):
    np.save(tmp_path / "a.npy", data)
    opened(tmp_path / "a.npy", np.memmap, data)


def test_mib_as_py4dstem_reads_it(tmp_path):
    frames = np.random.default_rng(0).integers(0, 4095, (*SCAN, 256, 256)).astype(">u2")
    header = "MQ1,000001,00384,01,0256,0256,U16,   1x1,01,2020-01-01 10:00:00.000000,0.001,0,0,1.0,0,0,0,0,12,"
    with open(tmp_path / "a.mib", "wb") as file:
        for frame in frames.reshape(-1, 256, 256):
            file.write(header.encode().ljust(384, b"\0") + frame.tobytes())
    opened(tmp_path / "a.mib", np.memmap, frames, scan_shape=SCAN)
    with pytest.raises(PrenetError):
        py4dstem_prenet.open(tmp_path / "a.mib")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_dm4(data, tmp_path, dtype):
    write_dm4(tmp_path / "a.dm4", data.astype(dtype))
    cube = opened(tmp_path / "a.dm4", np.memmap, data)
    assert cube.data.dtype == dtype
    assert cube.calibration.get_Q_pixel_size() == pytest.approx(0.01)  # A^-1
    assert cube.calibration.get_R_pixel_units() == "nm"
    write_dm4(tmp_path / "stack.dm4", data.reshape(-1, *SHAPE).astype(dtype), units=("1/nm", "1/nm", ""))
    opened(tmp_path / "stack.dm4", np.memmap, data, scan_shape=SCAN)
    with pytest.raises(PrenetError):
        py4dstem_prenet.open(tmp_path / "stack.dm4")


@pytest.mark.parametrize("swapped", [None, False])
def test_a_dm4_that_stores_images_of_the_scan_is_turned(data, tmp_path, swapped):
    """Before patterns were stored one after another, and a tag said so, the scan's axes were the fastest."""
    turned = np.ascontiguousarray(data.transpose(2, 3, 0, 1))
    write_dm4(tmp_path / "a.dm4", turned, swapped, units=("nm", "nm", "1/nm", "1/nm"))
    cube = opened(tmp_path / "a.dm4", np.memmap, data)
    assert cube.calibration.get_Q_pixel_units() == "A^-1" and cube.calibration.get_R_pixel_units() == "nm"
    # What says nothing of it is taken as py4DSTEM takes it.
    write_dm4(tmp_path / "b.dm4", data, None, units=("", "", "", ""))
    opened(tmp_path / "b.dm4", np.memmap, data)


# --- RosettaSciIO -------------------------------------------------------------------------------------------


def write(format, path, data):
    pytest.importorskip("rsciio")
    if format == "zspy":
        pytest.importorskip("zarr")
    axes = [dict(name=name, size=size, navigate=i < data.ndim - 2, scale=1.0, offset=0.0, units="nm", index_in_array=i)
            for i, (name, size) in enumerate(zip(("y", "x", "dy", "dx")[-data.ndim:], data.shape, strict=True))]
    signal = dict(data=data, axes=axes, metadata={"General": {"title": "scan"}, "Signal": {"signal_type": ""}},
                  original_metadata={}, learning_results={}, package_info={"package": "", "package_version": ""},
                  attributes={"_lazy": False, "ragged": False}, tmp_parameters={}, models={})
    importlib.import_module(f"rsciio.{format}").file_writer(str(path), signal)


@pytest.mark.parametrize("format, ending",
                         [("hspy", "hspy"), ("zspy", "zspy"), ("blockfile", "blo"), ("tvips", "tvips")])
@pytest.mark.filterwarnings("ignore")
def test_files_of_other_packages(data, tmp_path, format, ending):
    square = np.ascontiguousarray(data[..., :40]) if format == "blockfile" else data
    path = tmp_path / (f"a_000.{ending}" if format == "tvips" else f"a.{ending}")
    write(format, path, square)
    before = {p: os.path.getmtime(p) for p in tmp_path.rglob("*")}
    options = dict(scan_shape=SCAN) if format == "tvips" else {}
    cube = opened(path, object, square, **options)
    assert type(cube.data) is not np.ndarray  # not loaded
    assert {p: os.path.getmtime(p) for p in tmp_path.rglob("*")} == before


def test_a_tvips_file_larger_than_memory_is_refused(data, tmp_path, monkeypatch):
    write("tvips", tmp_path / "a_000.tvips", data)
    monkeypatch.setenv("PY4DSTEM_PRENET_MEMORY", str(data.nbytes / 4 / 2**30))
    with pytest.raises(PrenetError):
        py4dstem_prenet.open(tmp_path / "a_000.tvips", scan_shape=SCAN)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["npy", "emd", "chunked", "stack", "zspy"])
@pytest.mark.filterwarnings("ignore")
def test_an_opened_scan_is_calibrated_as_one_in_memory(tmp_path, known, format):
    counts, (qx0, qy0) = known
    if format == "npy":
        np.save(path := tmp_path / "a.npy", counts)
    elif format == "emd":
        py4DSTEM.save(path := tmp_path / "a.h5", DataCube(counts))
    elif format == "zspy":
        write(format, path := tmp_path / "a.zspy", counts)
    else:
        stored = counts.reshape(-1, *counts.shape[2:]) if format == "stack" else counts
        with h5py.File(path := tmp_path / "a.h5", "w") as file:
            file.create_dataset("data", data=stored, chunks=(2, *stored.shape[1:]), compression="gzip")
    cube = py4dstem_prenet.open(path, **(dict(scan_shape=counts.shape[:2]) if format == "stack" else {}))
    lazy = cube.data
    found = cube.prenet.measure_origin(progress=False, device="cpu")
    assert cube.data is lazy and type(lazy) is not np.ndarray
    # Blocks follow the storage, and a network may round differently in batches of another size.
    np.testing.assert_allclose(found.qx0, qx0, atol=1e-3)
    np.testing.assert_allclose(found.qy0, qy0, atol=1e-3)
    assert cube.calibration.get_origin_meas() is not None


@pytest.fixture(scope="module")
def known():
    """A simulated scan, and the origin that is measured in memory."""
    counts = np.array(simulated(scan=(4, 4), shape=(64, 64)).counts)
    cube = DataCube(counts)
    found = cube.prenet.measure_origin(progress=False, device="cpu")
    assert found.found
    return counts, (found.qx0, found.qy0)


def test_bad_files_are_refused_in_one_sentence(emd_file, data, tmp_path):
    def refused(name, content=None):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(PrenetError) as caught:
            py4dstem_prenet.open(tmp_path / name)
        assert "\n" not in str(caught.value) and str(tmp_path / name) in str(caught.value)

    refused("none.h5")
    refused(".")
    refused("text.h5", b"hello")
    refused("cut.h5", emd_file.read_bytes()[:9000])
    np.save(tmp_path / "a.npy", data)
    refused("cut.npy", (tmp_path / "a.npy").read_bytes()[:5000])
    refused("text.npy", b"hello")
    refused("a.xyz", b"hello")
    refused("a.dm4", b"hello")
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        file["x"] = np.zeros(3)
    refused("plain.h5")
    py4DSTEM.save(tmp_path / "alone.h5", Calibration())
    refused("alone.h5")
    py4DSTEM.save(tmp_path / "slice.h5", py4DSTEM.RealSlice(np.ones((3, 4)), name="image"))
    refused("slice.h5")
