"""The corrected scan: one center, round rings, the same electrons; in memory and in a file."""

import types

import h5py
import numpy as np
import py4DSTEM
import pytest

import py4dstem_prenet
from py4dstem_prenet.core import Decision, PrenetError
from py4dstem_prenet.core.geometry import ellipse_axes, ellipse_matrix
from py4dstem_prenet.core.noise import NoiseModel
from py4dstem_prenet.io import calibrations, provenance
from py4dstem_prenet.resampling import cropping
from py4dstem_prenet.resampling.correcting import corrected

SCAN, SHAPE, VECTOR = (3, 4), (72, 64), (0.05, -0.03)


def noise(gain=1.0, offset=0.0, bad=None):
    return NoiseModel(gain, offset, 0.0, np.zeros(SHAPE, bool) if bad is None else bad, False, 100.0)


@pytest.fixture
def cube():
    """Rings of radius 20 px about a drifting origin, stretched; calibrated."""
    i, j = np.meshgrid(*map(np.arange, SCAN), indexing="ij")
    qx0, qy0 = 35.3 + 0.8 * i - 0.3 * j, 30.9 - 0.4 * i + 0.6 * j
    x, y = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    inverse = np.linalg.inv(ellipse_matrix(VECTOR))
    at = np.stack([x - qx0[..., None, None], y - qy0[..., None, None]])
    rho = np.hypot(*np.einsum("ij,j...->i...", inverse, at))
    data = 100 * np.exp(-0.5 * ((rho - 20) / 1.5) ** 2) + 400 * np.exp(-0.5 * (rho / 3) ** 2)
    cube = py4DSTEM.DataCube(np.random.default_rng(0).poisson(data).astype(np.uint16))
    cube.calibration.set_origin_meas((qx0, qy0, np.ones(SCAN, bool)))
    cube.calibration.set_origin((qx0, qy0))
    cube.calibration.set_ellipse(ellipse_axes(VECTOR))
    return cube


def second_moment(pattern, center):
    """The centroid, and (xx - yy, 2 xy) / (xx + yy), of what lies in the ring."""
    x, y = np.meshgrid(*(np.arange(n) - c for n, c in zip(pattern.shape, center, strict=True)), indexing="ij")
    near = pattern * (np.hypot(x, y) < 27)
    at = np.array([(near * x).sum(), (near * y).sum()]) / near.sum()
    ring = near * (np.hypot(x, y) > 13)
    return at, np.array([(ring * (x**2 - y**2)).sum(), 2 * (ring * x * y).sum()]) / (ring * (x**2 + y**2)).sum()


def test_one_center_and_round_rings(cube):
    new = corrected(cube, noise(), progress=False)
    origin = new.calibration.get_origin()
    center = origin[0][0, 0], origin[1][0, 0]
    assert all((q == q[0, 0]).all() and q.shape == SCAN for q in origin) and center == (36.0, 31.0)
    assert np.hypot(*second_moment(cube.data.mean((0, 1)), [q.mean() for q in cube.calibration.get_origin()])[1]) > 0.02
    for pattern in new.data.reshape(-1, *SHAPE):
        at, shape = second_moment(pattern, center)
        assert np.abs(at).max() < 0.25  # of 12,000 electrons
    at, shape = second_moment(new.data.mean((0, 1)), center)
    assert np.abs(at).max() < 0.05 and np.abs(shape).max() < 0.004


def test_ideal_radii_keep_their_length(cube):
    mean = corrected(cube, noise(), progress=False).data.mean((0, 1))
    x, y = np.meshgrid(np.arange(SHAPE[0]) - 36, np.arange(SHAPE[1]) - 31, indexing="ij")
    rho = np.hypot(x, y)
    ring = (rho > 15) & (rho < 25)
    assert np.average(rho[ring], weights=mean[ring] / rho[ring]) == pytest.approx(20, abs=0.05)


def test_electrons_stay(cube):
    new = corrected(cube, noise(), progress=False)
    assert new.data.dtype == np.float32 and new.data.min() > -1e-4
    assert new.data.sum((2, 3)) == pytest.approx(cube.data.sum((2, 3)), rel=1e-3)  # little lies at the edge
    flat = py4DSTEM.DataCube(np.full((*SCAN, *SHAPE), 50.0, np.float32))
    for key in ("qx0", "qy0", "a", "b", "theta"):
        flat.calibration[key] = cube.calibration[key]
    even = corrected(flat, noise(), progress=False).data[:, :, 12:-12, 12:-12]
    assert even == pytest.approx(50, rel=1e-5)


def test_no_ellipse_and_whole_pixels_only_move(cube):
    cube.calibration.set_ellipse((None, None, None))
    cube.calibration.set_origin((np.full(SCAN, 36.0), np.full(SCAN, 31.0)))
    assert np.array_equal(corrected(cube, noise(), progress=False).data, cube.data)


def test_units_offset_and_bad_pixels(cube):
    plain = corrected(cube, noise(), progress=False).data
    stored = py4DSTEM.DataCube((cube.data * 12.0 + 100).astype(np.float32), calibration=cube.calibration.copy())
    bad = np.zeros(SHAPE, bool)
    bad[5, 7] = True
    stored.data[:, :, 5, 7] = 6e4
    moved = corrected(stored, noise(12.0, 100.0, bad), progress=False).data
    assert moved == pytest.approx(plain * 12 + 100, abs=15)
    assert moved[..., 0, :].min() >= 99.9  # what no pixel reaches is zero electrons, the offset


def test_the_new_calibration_says_what_was_done_and_the_old_one_stays(cube):
    before = {k: np.array(v, float) for k, v in cube.calibration._params.items() if k in ("qx0", "a", "theta")}
    new = corrected(cube, noise(), progress=False)
    assert new.calibration.get_ellipse() is None and new.calibration.get_origin_meas() is None
    assert all(np.array_equal(cube.calibration[k], v) for k, v in before.items())


def test_streamed_to_a_file_that_py4dstem_reads(cube, tmp_path):
    path = tmp_path / "corrected.h5"
    here = corrected(cube, noise(), progress=False)
    there = corrected(cube, noise(), out=path, progress=False)
    assert np.array_equal(np.asarray(there.data), here.data)
    read = py4DSTEM.read(path)
    assert np.array_equal(read.data, here.data)
    assert read.calibration.get_ellipse() is None and read.calibration.get_origin()[0] == pytest.approx(36.0)
    with pytest.raises(PrenetError):
        corrected(cube, noise(), out=path)


def calibrate(cube, qx0, qy0):
    """Origin, sigma maps, fit and ellipse as `DataCube.prenet.calibrate` leaves them."""
    sigma = np.full(SCAN, 0.1)
    calibrations.write_origin(cube, types.SimpleNamespace(
        decision=Decision(True),
        qx0=qx0, qy0=qy0, sigma_qx0=sigma, sigma_qy0=sigma, radius=5.0, valid=np.ones(SCAN, bool), found=True,
        radius_sigma=0.03, feature="direct beam", stop=None))
    calibrations.write_fit(cube, types.SimpleNamespace(qx0=qx0, qy0=qy0, accepted=True))
    a, b, theta = ellipse_axes(VECTOR)
    calibrations.write_ellipse(cube, types.SimpleNamespace(a=a, b=b, theta=theta, accepted=True))


def test_what_this_package_wrote_is_corrected_and_what_it_says_of_the_old_patterns_dropped(cube, tmp_path):
    calibrate(cube, *cube.calibration.get_origin())
    calibrations.write_mask(cube, np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE) != 1000)
    provenance.write_provenance(cube, provenance.make_provenance(cube))
    assert calibrations.SIGMA in cube.treekeys
    here = cube.prenet.corrected(progress=False)
    cube.prenet.corrected(out=tmp_path / "corrected.h5", progress=False)
    for new in (here, py4DSTEM.read(tmp_path / "corrected.h5")):
        assert np.array_equal(new.data, here.data) and calibrations.SIGMA not in new.treekeys
        assert new.calibration.get_origin_meas() is None and new.calibration.get_ellipse() is None
        assert cropping.check_calibration(new).current, cropping.check_calibration(new)
        assert calibrations.read_mask(new) is None and provenance.read_provenance(new)["since"] == ["corrected()"]
    assert calibrations.SIGMA in cube.treekeys and cube.calibration.get_ellipse() is not None


def test_calibrated_scans_that_stay_in_their_file(cube, tmp_path):
    """A new cube is made beside one whose data are in an HDF5 file, and takes neither the file nor the data along."""
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file.create_dataset("data", data=cube.data, chunks=(1, 2, *SHAPE), compression="gzip")
    qx0, qy0 = cube.calibration.get_origin()
    lazy = py4dstem_prenet.open(tmp_path / "scan.h5")
    assert isinstance(lazy.data, h5py.Dataset)
    for one in (cube, lazy):
        calibrate(one, qx0, qy0)
    assert np.array_equal(lazy.prenet.corrected(progress=False).data, cube.prenet.corrected(progress=False).data)
    for name, argument in (("crop_Q", (4, 60, 0, 64)), ("crop_R", (1, 3, 0, 4)), ("bin_Q", 2), ("bin_R", 2)):
        new = getattr(lazy.prenet, name)(argument)
        assert np.array_equal(new.data, getattr(cube.prenet, name)(argument).data)
        assert calibrations.SIGMA in new.treekeys


def test_an_ellipse_for_every_position_is_refused(cube):
    a, b, theta = cube.calibration.get_ellipse()
    cube.calibration.set_ellipse((np.full(SCAN, a), np.full(SCAN, b), np.full(SCAN, theta)))
    with pytest.raises(PrenetError):
        corrected(cube, noise(), progress=False)


def test_nothing_to_correct_about_is_refused():
    with pytest.raises(PrenetError):
        corrected(py4DSTEM.DataCube(np.ones((*SCAN, *SHAPE), np.float32)), noise())


def test_the_doors_of_notebook_and_shell(cube, tmp_path):
    from typer.testing import CliRunner

    from py4dstem_prenet.cli import app

    here = cube.prenet.corrected(progress=False)
    assert here.calibration.get_ellipse() is None and cube.calibration.get_ellipse() is not None
    cube.prenet.save(tmp_path / "scan.h5")
    result = CliRunner().invoke(app, ["correct", str(tmp_path / "scan.h5"), "-o", str(tmp_path / "corrected.h5")])
    assert result.exit_code == 0, result.output
    assert np.allclose(py4DSTEM.read(tmp_path / "corrected.h5").data, here.data)


@pytest.mark.slow
def test_a_map_is_attached_in_a_stock_class(cube, tmp_path):
    found = cube.prenet.map_ellipse(blocks=1)
    cube.prenet.save(tmp_path / "scan.h5")
    stored = py4DSTEM.read(tmp_path / "scan.h5").tree("prenet_ellipse_map")
    assert type(stored) is py4DSTEM.RealSlice and stored.data.shape == (5, *SCAN)
    assert (stored.data[4] == found.accepted[0, 0]).all() and stored.slicelabels[0] == "a"
    assert cube.calibration.get_ellipse() == pytest.approx(ellipse_axes(VECTOR))  # the one ellipse stays
