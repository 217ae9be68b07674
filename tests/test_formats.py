"""Files of detectors and other programs: the shape of the scan, links, order of axes, pixel sizes, and refusals.

The orientation of raw Merlin frames, and real files, were checked with `benchmarks/files.py` (docs/files.md).
"""

import importlib
import json
import os
import shutil
import warnings

import h5py
import hdf5plugin
import numpy as np
import py4DSTEM
import pytest
from typer.testing import CliRunner

import py4dstem_prenet
from py4dstem_prenet import cli
from py4dstem_prenet.core import as_scan
from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.io import merlin_files, pixel_sizes, scan_shapes

RNG = np.random.default_rng(0)
SCAN = RNG.poisson(3, (3, 4, 48, 40)).astype("u2")
STACK = SCAN.reshape(-1, 48, 40)


def told(path, **options):
    """The cube, and the sentences that opening it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cube = py4dstem_prenet.open(path, **options)
    return cube, [str(w.message) for w in caught if w.category is UserWarning]


def is_scan(path, known=SCAN, **options):
    cube = told(path, **options)[0]
    np.testing.assert_array_equal(np.asarray(cube.data[...]), known)
    return cube


def refused(path, **options):
    with pytest.raises(PrenetError) as caught:
        py4dstem_prenet.open(path, **options)
    return str(caught.value)


# --- the shape of a scan ------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [12, (3,), (0, 4), (2.5, 4), "34", (3, 4, 1), ("a", "b"), (-3, -4), float("nan")])
def test_a_shape_that_is_none_is_refused_before_the_file_is_read(tmp_path, shape):
    np.save(tmp_path / "a.npy", STACK)
    refused(tmp_path / "a.npy", scan_shape=shape)


def test_all_possible_shapes_are_listed(tmp_path):
    np.save(tmp_path / "a.npy", STACK)
    text = refused(tmp_path / "a.npy")
    assert all(f"{n} x {12 // n}" in text for n in (1, 2, 3, 4, 6, 12))
    assert scan_shapes.possible_shapes(12) == [(3, 4), (4, 3), (2, 6), (6, 2), (1, 12), (12, 1)]


S = scan_shapes.StatedShape


@pytest.mark.parametrize("stated, found", [
    ([S(3, 4, "header")], (3, 4)), ([S(3, 4, "header"), S(4, 3, "name")], None), ([S(2, 3, "header")], None),
    ([S(4, 3, "name", False), S(3, 4, "name", False)], None),
    ([S(4, 3, "name", False), S(3, 4, "name", False), S(3, 4, "times", False)], (3, 4)),
    ([S(5, 4, "header")], (3, 4)), ([S(5, 5, "header")], (2, 5)), ([S(64, 64, "name", False)], None), ([], None)])
def test_a_guess_must_be_unique_and_agree(stated, found):
    if found is None:
        with pytest.raises(PrenetError):
            scan_shapes.choose_shape(12, None, stated, grows=True)
    else:
        assert scan_shapes.choose_shape(12, None, stated, grows=True)[0] == found
    assert scan_shapes.choose_shape(12, (6, 2), stated)[0] == (6, 2)


@pytest.mark.parametrize("count, given, shape", [(13, (3, 4), (3, 4)), (15, (3, 4), None), (16, (3, 4), None),
                                                 (11, (3, 4), (2, 4)), (3, (3, 4), None)])
def test_frames_more_or_less_than_the_shape_that_is_given(count, given, shape):
    with pytest.raises(PrenetError):
        scan_shapes.choose_shape(count, given)
    if shape is None:  # 15 frames may be rows of 4 with a flyback frame each
        with pytest.raises(PrenetError):
            scan_shapes.choose_shape(count, given, grows=True)
    else:
        found, flags = scan_shapes.choose_shape(count, given, grows=True)
        assert found == shape and len(flags) == 1


def test_row_ends_are_found_only_where_they_stand_out():
    times = np.cumsum(1000 + RNG.integers(0, 5, 40))
    assert scan_shapes.period_of_gaps(times) is None
    assert scan_shapes.period_of_gaps(times + 300 * (np.arange(40) // 8)) == 8
    assert scan_shapes.period_of_gaps(times + 20 * (np.arange(40) // 8)) is None
    assert scan_shapes.period_of_gaps(times + 300 * (np.arange(40) // 8) + 300 * (np.arange(40) > 13)) is None


# --- Merlin -------------------------------------------------------------------------------------------------
def merlin(path, frames, hdr=None, times=None, layout="1x1", kind=None, tail="", chips=1, header=384):
    rows, columns = frames[0].shape if kind is None else kind[1]
    name = kind[0] if kind else {1: "U08", 2: "U16", 4: "U32"}[frames.dtype.itemsize]
    with open(path, "wb") as file:
        for i, frame in enumerate(frames):
            time = times[i] if times is not None else f"2020-01-01 10:00:00.{i:06d}"
            text = f"MQ1,{i + 1:06d},{header:05d},{chips:02d},{columns:04d},{rows:04d},{name},   {layout},01,{time},"
            text += "0.001,0,0,0,1.0E0" + tail
            file.write(text.encode().ljust(header, b"\0") + frame.tobytes())
    if hdr is not None:
        lines = "".join(f"{key}:\t{value}\n" for key, value in hdr.items())
        path.with_suffix(".hdr").write_text(f"HDR,\t\n{lines}End\t\n")


@pytest.mark.parametrize("kind", ["u1", ">u2", ">u4"])
@pytest.mark.parametrize("shape", [(256, 256), (128, 256), (512, 512), (514, 514)])
def test_merlin_frames_of_any_shape_and_type(tmp_path, kind, shape):
    frames = RNG.integers(0, 60, (6, *shape)).astype(kind)
    merlin(tmp_path / "a.mib", frames, layout="2x2G" if shape[0] == 514 else "1x1")
    cube = is_scan(tmp_path / "a.mib", frames.reshape(2, 3, *shape), scan_shape=(2, 3))
    assert isinstance(cube.data, np.memmap)
    whole = as_scan(cube)
    np.testing.assert_array_equal(whole.read([1, 4]), frames[[1, 4]])


FRAMES, EACH = "Frames in Acquisition (Number)", "Frames per Trigger (Number)"


@pytest.mark.parametrize("hdr, shape", [
    (None, None), ({FRAMES: 12}, None), ({"ScanX": 4, "ScanY": 3}, (3, 4)), ({"ScanX": 3, "ScanY": 3}, None),
    ({FRAMES: 12, EACH: 4}, (3, 4)), ({FRAMES: 12, EACH: 12}, None)])
def test_the_hdr_of_merlin_counts_where_it_agrees_and_the_argument_always(tmp_path, hdr, shape):
    frames = np.zeros((12, 256, 256), ">u2")
    merlin(tmp_path / "a.mib", frames, hdr)
    assert told(tmp_path / "a.mib", scan_shape=(2, 6))[0].Rshape == (2, 6)
    if shape is None:
        refused(tmp_path / "a.mib")
    else:
        assert told(tmp_path / "a.mib")[0].Rshape == shape


def test_the_ends_of_rows_in_the_times_of_merlin_frames(tmp_path):
    nanoseconds = np.arange(12) * 1_000_000 + (np.arange(12) // 4) * 50_000
    new = [f",MQ1A,2020-01-01T10:00:00.{t:09d}Z,1000000ns,12," for t in nanoseconds]
    frames = np.zeros((12, 256, 256), ">u2")
    merlin(tmp_path / "a.mib", frames, times=[f"2020-01-01 10:00:00.{t // 1000:06d}" for t in nanoseconds])
    assert told(tmp_path / "a.mib")[0].Rshape == (3, 4)
    assert merlin_files._time(f"0,{'0,' * 11}{new[3]}".split(",")) % 10**9 == nanoseconds[3]


@pytest.mark.parametrize("rest", [0, 1000])
def test_what_is_whole_of_an_interrupted_merlin_file_is_read(tmp_path, rest):
    frames = RNG.integers(0, 60, (14, 256, 256)).astype(">u2")
    merlin(tmp_path / "a.mib", frames, {"ScanX": 4, "ScanY": 5})
    if rest:
        os.truncate(tmp_path / "a.mib", os.path.getsize(tmp_path / "a.mib") - rest)
    for options in ({}, {"scan_shape": (5, 4)}):
        cube, said = told(tmp_path / "a.mib", **options)
        np.testing.assert_array_equal(cube.data, frames[:12].reshape(3, 4, 256, 256))
        assert len(said) == (2 if rest else 1)
    (tmp_path / "a.mib").write_bytes((tmp_path / "a.mib").read_bytes()[:50_000])
    refused(tmp_path / "a.mib", scan_shape=(5, 4))


def raw_words(pixels, depth):
    """Pixels (rows, columns) as words of 64 bits whose bytes are in reverse."""
    if depth == 1:
        return np.packbits(pixels.reshape(-1, 8), axis=-1, bitorder="little").reshape(-1, 8)[:, ::-1].tobytes()
    if depth == 6:
        return pixels.astype("u1").reshape(-1, 8)[:, ::-1].tobytes()
    if depth == 12:
        return pixels.astype(">u2").reshape(-1, 4)[:, ::-1].tobytes()
    return raw_words(pixels >> 12, 12) + raw_words(pixels & 4095, 12)


@pytest.mark.parametrize("depth", [1, 6, 12, 24])
@pytest.mark.parametrize("chips", [1, 4])
def test_raw_merlin_frames(tmp_path, depth, chips):
    side = 256 if chips == 1 else 512
    frames = RNG.integers(0, 2**depth, (4, side, side)).astype("u4")
    if chips == 4:  # chips 4, 3, 2, 1 side by side, the lower two turned
        top, bottom = frames[:, :256], frames[:, 256:, :][:, ::-1, ::-1]
        stored = np.concatenate([bottom[..., :256], bottom[..., 256:], top[..., 256:], top[..., :256]], axis=-1)
    else:
        stored = frames
    words = [np.frombuffer(raw_words(frame, depth), "u1") for frame in stored]
    tail = ",0,0,0,0,0,0,3RX," + ("0," * 20) + f"MQ1A,2020-01-01T10:00:00.000000000Z,1ns,{depth},"
    merlin(tmp_path / "a.mib", words, kind=("R64", stored.shape[1:]), tail=tail, chips=chips, header=768,
           layout="1x1" if chips == 1 else "2x2")
    if (depth, chips) == (24, 4):
        refused(tmp_path / "a.mib", scan_shape=(2, 2))
        return
    cube = is_scan(tmp_path / "a.mib", frames.reshape(2, 2, side, side), scan_shape=(2, 2))
    assert cube.data.dtype == {1: "u1", 6: "u1", 12: "u2", 24: "u4"}[depth]
    np.testing.assert_array_equal(as_scan(cube).read([1, 3]), frames[[1, 3]])


# --- EMPAD --------------------------------------------------------------------------------------------------
XML = """<root><pix_x>4</pix_x><pix_y>3</pix_y><raw_file filename="/somewhere/{name}"/><iom_measurements>
<optics.get_full_scan_field_of_view>[4e-08, 3e-08]</optics.get_full_scan_field_of_view>
<calibrated_pixelsize>1.8e-10</calibrated_pixelsize></iom_measurements></root>"""


def test_empad(tmp_path):
    frames = RNG.random((12, 130, 128)).astype("<f4")
    known = frames[:, :128].reshape(3, 4, 128, 128)
    frames.tofile(tmp_path / "some.raw")
    refused(tmp_path / "some.raw")
    cube = is_scan(tmp_path / "some.raw", known, scan_shape=(3, 4))
    assert isinstance(cube.data, np.memmap)  # opened lazily
    (tmp_path / "acquisition.xml").write_text(XML.format(name="some.raw"))
    for name in ("some.raw", "acquisition.xml"):
        calibration = is_scan(tmp_path / name, known).calibration
        assert calibration.get_R_pixel_size() == pytest.approx(10) and calibration.get_R_pixel_units() == "nm"
        assert calibration.get_Q_pixel_size() == pytest.approx(0.018) and calibration.get_Q_pixel_units() == "A^-1"
        assert told(tmp_path / name, scan_shape=(2, 6))[0].Rshape == (2, 6)
    (tmp_path / "some.raw").unlink()
    assert "some.raw" in refused(tmp_path / "acquisition.xml")


def test_an_interrupted_empad_scan_and_other_raw_files(tmp_path):
    frames = RNG.random((9, 130, 128)).astype("<f4")
    (tmp_path / "scan_x4_y4.raw").write_bytes(frames.tobytes() + b"0" * 99)
    cube, said = told(tmp_path / "scan_x4_y4.raw")
    assert cube.Rshape == (2, 4) and len(said) == 2
    np.zeros((16, 128, 128), "u4").tofile(tmp_path / "scan_x4_y4_g2.raw")
    np.zeros(12_345, "u1").tofile(tmp_path / "other.raw")
    np.zeros(10, "u1").tofile(tmp_path / "short.raw")
    for name in ("scan_x4_y4_g2.raw", "other.raw", "short.raw"):
        refused(tmp_path / name, scan_shape=(4, 4))


# --- HDF5 ---------------------------------------------------------------------------------------------------
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


def signal(data):
    axes = [dict(name=name, size=size, navigate=i < 2, scale=(2.5, 0.05)[i // 2], offset=0.0,
                 units=("nm", "1/nm")[i // 2], index_in_array=i, _type="UniformDataAxis")
            for i, (name, size) in enumerate(zip(("y", "x", "ky", "kx"), data.shape, strict=True))]
    return dict(data=data, axes=axes, metadata={"General": {"title": "scan"}, "Signal": {"signal_type": ""}},
                original_metadata={}, learning_results={}, package_info={"package": "", "package_version": ""},
                attributes={"_lazy": False, "ragged": False}, tmp_parameters={}, models={})


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


# --- pixel sizes --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("axes, size, unit, flags", [
    ((("0.5", "1/nm"),), 0.05, "A^-1", 0), (((2, "rad"),), 2000, "mrad", 0), (((3, b"mrad"),), 3, "mrad", 0),
    (((0.1, "Å^-1"),), 0.1, "A^-1", 0), (((0.5, "nm"),), None, None, 1), (((1, ""),), None, None, 0),
    (((1, "1 / nm"), (1.2, "1 / nm")), 0.1, "A^-1", 1), (((0, "1/nm"),), None, None, 0),
    (((0.5, "furlong"),), None, None, 1)])
def test_sizes_of_patterns_in_units_of_py4dstem(axes, size, unit, flags):
    sizes, raised = pixel_sizes.PixelSizes((), axes).in_units_of_py4dstem()
    assert len(raised) == flags and ("Q" in sizes) == (size is not None)
    if size is not None:
        assert sizes["Q"] == (pytest.approx(size), unit)


def test_a_length_on_the_camera_needs_the_camera_length():
    sizes, flags = pixel_sizes.PixelSizes((), ((0.016, "cm"),), 0.2).in_units_of_py4dstem()
    assert sizes["Q"] == (pytest.approx(0.8, rel=1e-3), "mrad") and not flags
    sizes, flags = pixel_sizes.PixelSizes((), ((0.016, "cm"),)).in_units_of_py4dstem()
    assert sizes["Q"] == (0.016, "cm") and len(flags) == 1


# --- files that are refused, and info -----------------------------------------------------------------------
def run(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


@pytest.mark.parametrize("name", ["a.tpx3", "a.t3pa", "a.seq", "a.frms6", "a.toml", "a.xyz", "a"])
def test_what_must_be_converted_is_said(tmp_path, name):
    (tmp_path / name).write_bytes(b"hello" * 100)
    refused(tmp_path / name)
    assert run("info", tmp_path / name).exit_code == 1


@pytest.mark.parametrize("path", [5, None, 2.5, object(), "a\0b"])
def test_what_is_no_path(path):
    with pytest.raises(PrenetError):
        py4dstem_prenet.open(path)


def test_a_path_of_bytes(tmp_path):
    np.save(tmp_path / "a.npy", SCAN)
    np.testing.assert_array_equal(py4dstem_prenet.open(os.fsencode(tmp_path / "a.npy")).data, SCAN)


def test_info_tells_possible_shapes_and_what_is_calibrated(tmp_path):
    np.save(tmp_path / "a.npy", STACK)
    described = json.loads(run("info", tmp_path / "a.npy", "--json").stdout)
    assert described["scan_shape"] is None and [3, 4] in described["possible_scan_shapes"]
    assert run("info", tmp_path / "a.npy").exit_code == 0
    cube = py4DSTEM.DataCube(SCAN)
    cube.calibration.set_R_pixel_size(2.0)
    cube.calibration.set_R_pixel_units("A")
    cube.calibration.set_ellipse((1.0, 0.9, 0.1))
    py4dstem_prenet.save(cube, tmp_path / "a.h5")
    described = json.loads(run("info", tmp_path / "a.h5", "--json").stdout)
    assert described["scan_shape"] == [3, 4] and described["pixel_sizes"] == {"R": [2.0, "A"]}
    assert described["calibration"] == ["ellipse"]


def test_what_readers_print_stays_off_stdout(tmp_path, monkeypatch):
    from py4dstem_prenet.io import opening

    np.save(tmp_path / "a.npy", SCAN)

    def loud(path):
        print("I am a reader")
        warnings.warn("of no use", stacklevel=1)
        return read(path)

    read = opening._READERS[".npy"]
    monkeypatch.setitem(opening._READERS, ".npy", loud)
    said = told(tmp_path / "a.npy")[1]
    assert len(said) == 1 and "of no use" in said[0]
    assert json.loads(run("info", tmp_path / "a.npy", "--json").stdout)["scan_shape"] == [3, 4]
