"""LiberTEM reads and its workers compute; what comes out is what the package itself finds in the same data."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import py4DSTEM
import pytest
from py4DSTEM import DataCube
from scans import distance, simulated

from py4dstem_prenet import calibrate, load_calibration
from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.core.scan import as_scan

pytest.importorskip("libertem")

from libertem.api import Context
from libertem.executor.dask import DaskJobExecutor, cluster_spec
from libertem.executor.inline import InlineJobExecutor

from py4dstem_prenet import libertem

SCAN = dict(scan=(6, 9), shape=(64, 80), dose=10_000.0, seed=1)
ROUNDING_PX = 2e-6  # positions are float32 within a window
BY_GROUPS = 5e-4  # of the ellipse vector: frames are summed in other groups before they are moved


@pytest.fixture(scope="module")
def inline():
    with Context(executor=InlineJobExecutor(inline_threads=1)) as context:
        yield context


@pytest.fixture(scope="module")
def workers():
    spec = cluster_spec(cpus=[0, 1], cudas=[], has_cupy=False)
    with Context(executor=DaskJobExecutor.make_local(spec=spec)) as context:
        yield context


@pytest.fixture(scope="module")
def own():
    """(DataCube, CalibrationReport): by the package itself."""
    cube = DataCube(simulated(**SCAN).counts.copy())
    return cube, calibrate(cube, device="cpu", progress=False)


@pytest.fixture(scope="module")
def learned(inline):
    survey = simulated(**SCAN).counts[::2, ::2]
    return libertem.learn(inline, inline.load("memory", data=survey, num_partitions=1), device="cpu")


def assert_same(report, own, atol):
    """atol: px; 0 where both locate in blocks of the same frames, else what float32 rounds."""
    assert np.array_equal(report.origin.valid, own.origin.valid)
    for name in ("qx0", "qy0", "sigma_qx0", "sigma_qy0"):
        for found, expected in ((report.origin, own.origin), (report.fit, own.fit)):
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=0, atol=atol, err_msg=name)
    assert report.origin.radius == own.origin.radius
    assert own.ellipse.accepted
    np.testing.assert_allclose(report.ellipse.vector, own.ellipse.vector, atol=BY_GROUPS)
    assert report.ellipse.accepted
    assert [flag.name for flag in report.flags] == [flag.name for flag in own.flags]


def test_a_data_set_in_memory_gives_the_packages_own_results_and_a_file_that_py4dstem_reads(inline, own, tmp_path):
    cube, report = own
    dataset = inline.load("memory", data=cube.data, num_partitions=1)
    found = libertem.calibrate_dataset(inline, dataset, out=tmp_path / "calibration.h5", device="cpu")
    assert_same(found, report, atol=0)
    calibration = py4DSTEM.read(tmp_path / "calibration.h5")
    for here, there in zip(calibration.get_origin(), cube.calibration.get_origin(), strict=True):
        np.testing.assert_array_equal(here, there)
    np.testing.assert_allclose(calibration.get_ellipse(), cube.calibration.get_ellipse(), atol=0.05)
    fresh = DataCube(cube.data)
    load_calibration(fresh, tmp_path / "calibration.h5")
    np.testing.assert_array_equal(fresh.calibration.get_origin_meas()[0], report.origin.qx0)
    assert fresh.prenet.check().current
    with pytest.raises(PrenetError):
        libertem.calibrate_dataset(inline, dataset, out=tmp_path / "calibration.h5")


@pytest.mark.slow
def test_files_on_two_workers_give_the_same(workers, own, learned, tmp_path):
    cube, report = own
    cube.data.tofile(tmp_path / "scan.raw")
    dataset = workers.load("raw", path=tmp_path / "scan.raw", dtype=cube.data.dtype, nav_shape=SCAN["scan"],
                           sig_shape=SCAN["shape"], num_partitions=4)
    assert_same(libertem.calibrate_dataset(workers, dataset, device="cpu"), report, ROUNDING_PX)
    bad = cube.data.astype(np.float32)
    bad[-1, -1, 3, 4] = np.nan
    np.save(tmp_path / "bad.npy", bad)
    dataset = workers.load("npy", path=tmp_path / "bad.npy")
    udf = learned.origin_udf(SCAN["scan"])
    with pytest.raises(Exception, match="NaN or infinite"):
        workers.run_udf(dataset, udf)


def test_a_stream_is_calibrated_as_it_comes_by(inline, own, learned, tmp_path):
    cube, report = own
    dataset = inline.load("memory", data=cube.data, num_partitions=3)
    known = []
    for results in inline.run_udf_iter(dataset, learned.origin_udf(SCAN["scan"])):
        origin = learned.origin(results.buffers[0])
        known.append(int(origin.valid.sum()))
    assert known[0] < known[1] < known[2] == report.origin.valid.sum()
    # From a survey of a quarter of the positions what was learned differs a little, and so do the origins.
    np.testing.assert_allclose(origin.qx0, report.origin.qx0, atol=0.05)
    found = learned.calibrate(results.buffers[0], tmp_path / "calibration.h5")
    truth = simulated(**SCAN).truth
    assert np.median(distance(found.fit, truth)) < np.median(distance(report.fit, truth)) + 0.02
    np.testing.assert_allclose(found.ellipse.vector, report.ellipse.vector, atol=0.002)
    assert (tmp_path / "calibration.h5").exists()


def test_libertem_live_takes_the_udfs(own, learned):
    live = pytest.importorskip("libertem_live.api")
    with live.LiveContext(executor=InlineJobExecutor(inline_threads=1)) as context:
        with context.make_connection("memory").open(data=own[0].data) as connection:
            acquisition = context.make_acquisition(conn=connection, nav_shape=SCAN["scan"])
            origin = learned.origin(context.run_udf(acquisition, learned.origin_udf(acquisition.shape.nav)))
    np.testing.assert_allclose(origin.qy0, own[1].origin.qy0, atol=0.05)


def test_a_data_set_reads_like_an_array(inline):
    data = np.random.default_rng(0).integers(0, 60000, (5, 4, 32, 40)).astype(np.uint16)
    scan = libertem.DatasetScan(inline, inline.load("memory", data=data, num_partitions=3))
    assert as_scan(scan) is scan and scan.shape == data.shape and scan.dtype == data.dtype
    rows, columns = np.array([4, 0, 2, 2]), np.array([3, 1, 0, 0])
    np.testing.assert_array_equal(scan.read_points(rows, columns, None), data[rows, columns])
    for tile in (np.s_[1:3, 0:4], np.s_[3:4, 1:4], np.s_[0:5, 3:4]):
        np.testing.assert_array_equal(scan.read_tile(tile), data[tile])
    blocks = [(index.tolist(), block) for index, block in scan.blocks(6)]
    assert [index for index, _ in blocks] == [index.tolist() for index, _ in as_scan(data).blocks(6)]
    for index, block in blocks:
        np.testing.assert_array_equal(block, data.reshape(20, 32, 40)[index])


def test_what_cannot_be_calibrated_is_refused_in_one_sentence(inline):
    def load(data, **options):
        return inline.load("memory", data=data, num_partitions=1, **options)

    for dataset, options in ((load(np.ones((12, 64, 64), np.uint8), sig_dims=2), {}),
                             (load(np.ones((3, 4, 64, 64), np.complex64)), {}),
                             (load(simulated(**SCAN).counts), dict(mask=np.ones((3, 3), bool)))):
        with pytest.raises(PrenetError) as refused:
            libertem.calibrate_dataset(inline, dataset, **options)
        assert str(refused.value).endswith(".") and "\n" not in str(refused.value)
    noise = np.random.default_rng(1).normal(100, 3, (4, 4, 64, 64)).astype(np.float32)
    report = libertem.calibrate_dataset(inline, load(noise), device="cpu")
    assert not report.origin.found and report.fit is None
    with pytest.raises(PrenetError):
        libertem.learn(inline, load(noise), device="cpu")


@pytest.mark.slow
def test_a_stream_from_a_simulated_detector():
    pytest.importorskip("libertem_live")
    run = subprocess.run([sys.executable, Path(__file__).parents[1] / "benchmarks" / "stream.py", "--scan", "8", "8"],
                         capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    found, of, median = re.search(r"at (\d+) of (\d+) positions, median error ([\d.]+) px", run.stdout).groups()
    assert found == of == "64" and float(median) < 0.1
