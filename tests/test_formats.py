"""Units of pixel sizes, files that are refused, and `prenet info`."""

import json
import os
import warnings

import h5py
import numpy as np
import py4DSTEM
import pytest
from imageio.v3 import imwrite
from opened import SCAN, STACK, is_scan, refused, run, told

import py4dstem_prenet
from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.io import pixel_sizes


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


@pytest.mark.parametrize("name", ["a.tpx3", "a.t3pa", "a.seq", "a.frms6", "a.toml", "a.npz", "a.xyz", "a"])
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
    cube.calibration.set_Q_pixel_size(0.02)
    cube.calibration.set_Q_pixel_units("A^-1")
    py4dstem_prenet.save(cube, tmp_path / "b.h5")
    assert json.loads(run("info", tmp_path / "b.h5", "--json").stdout)["calibration"] == ["ellipse", "Q pixel size"]


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


@pytest.mark.parametrize("ending", ["npy", "tif", "png", "bmp", "h5", "hspy"])
def test_an_image_is_a_single_pattern_if_the_caller_says_so(tmp_path, ending):
    """An image of a specimen and a pattern look alike in a file; only the shape (1, 1) states which it is."""
    path, pattern = tmp_path / f"one.{ending}", SCAN[0, 0].astype(np.uint8)
    if ending == "npy":
        np.save(path, pattern)
    elif ending in ("h5", "hspy"):
        with h5py.File(path, "w") as file:
            file["Experiments/one/data"] = pattern
    else:
        imwrite(path, pattern)
    assert "(1, 1)" in refused(path)
    is_scan(path, pattern[None, None], scan_shape=(1, 1))
    refused(path, scan_shape=(1, 2))


def test_a_picture_in_colors_is_their_sum(tmp_path):
    gray = SCAN[0, 0].astype(np.uint8)
    imwrite(tmp_path / "gray.png", np.stack([gray] * 3, -1))
    is_scan(tmp_path / "gray.png", gray[None, None], scan_shape=(1, 1))
    colored = np.stack([gray, 2 * gray, 0 * gray], -1)
    imwrite(tmp_path / "colored.png", colored)
    is_scan(tmp_path / "colored.png", colored.astype(int).sum(-1)[None, None], scan_shape=(1, 1))


def test_a_stack_is_preferred_to_an_image_of_the_same_file(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["mean"], file["one"] = SCAN.mean((0, 1)), SCAN[:1, :1]
    is_scan(tmp_path / "a.h5", SCAN[:1, :1])
    is_scan(tmp_path / "a.h5", SCAN.mean((0, 1))[None, None], scan_shape=(1, 1), name="mean")
