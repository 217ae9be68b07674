"""Every method of `datacube.prenet`, on a scan that it calibrated itself, gives the same wherever the data lie."""

import h5py
import matplotlib.pyplot as plt
import numpy as np
import pytest
from py4DSTEM import DataCube
from scans import simulated

import py4dstem_prenet
from py4dstem_prenet import accessor
from py4dstem_prenet.core import Scan

pytestmark = pytest.mark.usefixtures("beams_learned_once")
DOORS = {
    "measure_origin": lambda door, out: door(progress=False).qx0,
    "fit_origin": lambda door, out: door().qx0,
    "measure_ellipse": lambda door, out: door().vector,
    "map_ellipse": lambda door, out: door(1).ellipses[0][0].vector,
    "measure_rotation": lambda door, out: str(door(progress=False)),
    "measure_pixel_size": lambda door, out: str(door("Au", progress=False)),
    "bragg_disks": lambda door, out: door(progress=False).raw[0, 0].qx,
    "probe": lambda door, out: door(progress=False).kernel,
    "calibrate": lambda door, out: door(progress=False).fit.qx0,
    "view": lambda door, out: door().session.look().difference,
    "check": lambda door, out: str(door()),
    "show": lambda door, out: door().shape,
    "check_origin": lambda door, out: door().ratio,
    "check_ellipse": lambda door, out: str(door()),
    "check_denoising": lambda door, out: door().worth,
    "corrected": lambda door, out: (door(progress=False).data, door(out=out / "corrected.h5", progress=False).data),
    "denoise": lambda door, out: (door(progress=False).data, door(out=out / "denoised.h5", progress=False).data),
    "repaired": lambda door, out: (door(progress=False).data, door(out=out / "repaired.h5", progress=False).data),
    "preprocess": lambda door, out: door(out=out / "preprocessed.h5", progress=False).data,
    "crop_Q": lambda door, out: door((2, 60, 4, 64)).data,
    "crop_R": lambda door, out: door((0, 3, 1, 4)).data,
    "bin_Q": lambda door, out: door(2).data,
    "bin_R": lambda door, out: door(2).data,
    "report": lambda door, out: [verdict.answer for verdict in door(out / "report.html", progress=False)],
    "finetune": lambda door, out: door(out=out / "tuned.safetensors", minutes=0.001, progress=False).accepted,
    "save": lambda door, out: door(out / "saved.h5"),
    "load_calibration": lambda door, out: door(out / "saved.h5"),
    "undo": lambda door, out: sorted(door()),
}
LASTING = ("report", "finetune", "preprocess", "check_origin", "check_ellipse", "check_denoising")


def in_memory(counts, folder):
    return DataCube(counts.copy())


def in_compressed_hdf5(counts, folder):
    with h5py.File(folder / "scan.h5", "w") as file:
        file.create_dataset("data", data=counts, chunks=(1, 3, *counts.shape[2:]), compression="gzip")
    return py4dstem_prenet.open(folder / "scan.h5")


def gone_through(cube, out, doors):
    """What doors give, of one cube, calibrated first. Arrays are read before another door is tried."""
    cube.prenet.calibrate(progress=False)
    given = {}
    for name in doors:
        result = DOORS[name](getattr(cube.prenet, name), out)
        given[name] = tuple(map(np.array, result)) if isinstance(result, tuple) else result
    plt.close("all")
    return given


@pytest.fixture(scope="module")
def counts():
    return simulated(scan=(5, 5), shape=(64, 66), dose=5000.0, radius=4.0).counts


@pytest.fixture(scope="module")
def expected(counts, tmp_path_factory):
    doors = [name for name in DOORS if name not in LASTING]
    return gone_through(in_memory(counts, None), tmp_path_factory.mktemp("memory"), doors)


class Frames(Scan):
    """A scan that is no array, as `DatasetScan` of LiberTEM."""

    ndim = 4

    def __init__(self, counts):
        self.counts, self.dtype = counts, counts.dtype
        self.scan_shape, self.pattern_shape = counts.shape[:2], counts.shape[2:]

    def read_tile(self, tile):
        return self.counts[tile]

    def read_points(self, rows, columns, key):
        return self.counts[rows, columns]


@pytest.mark.slow
def test_a_scan_can_be_the_data_of_a_cube(counts, expected):
    cube = DataCube(Frames(counts))
    given = gone_through(cube, None, ["measure_origin", "fit_origin", "measure_ellipse"])
    for name, result in given.items():
        np.testing.assert_array_equal(result, expected[name], err_msg=name)


def test_every_public_name_can_be_imported():
    assert set(py4dstem_prenet.__all__) < set(dir(py4dstem_prenet))
    for name in dir(py4dstem_prenet):
        assert getattr(py4dstem_prenet, name) is not None


def test_no_door_is_left_out():
    assert set(DOORS) == {name for name in dir(accessor.PrenetAccessor) if not name.startswith("_")}


@pytest.mark.slow
def test_a_file_and_a_cube_in_memory_give_the_same(expected):
    for name in ("corrected", "denoise", "repaired"):
        here, there = expected[name]
        np.testing.assert_array_equal(here, there)


@pytest.mark.slow
def test_doors_lead_to_the_same_from_a_compressed_file(counts, expected, tmp_path):
    given = gone_through(in_compressed_hdf5(counts, tmp_path), tmp_path, DOORS)
    assert len(given["report"]) >= 5
    for name, result in expected.items():
        np.testing.assert_equal(given[name], result, err_msg=name)
