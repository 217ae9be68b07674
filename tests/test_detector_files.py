"""Files of Merlin and EMPAD detectors.

The orientation of raw Merlin frames, and real files, were checked with `benchmarks/files.py` (docs/files.md).
"""

import os

import numpy as np
import pytest
from opened import RNG, is_scan, refused, told

from py4dstem_prenet.core import as_scan
from py4dstem_prenet.io import merlin_files


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
