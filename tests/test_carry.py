"""Calibration that survives cropping and binning: maps lie where the beam then is, or are called stale."""

import types

import h5py
import numpy as np
import py4DSTEM
import pytest
from py4DSTEM import BraggVectors, DataCube

from py4dstem_prenet import accessor
from py4dstem_prenet.core import Decision, PrenetError
from py4dstem_prenet.io import calibrations, provenance
from py4dstem_prenet.resampling import cropping

accessor.register()
SCAN, PATTERN = (7, 6), (50, 45)


def beams(dtype=np.float64):
    """A cube of soft direct beams (sigma 2.5 px, all of the same intensity) and where their centers are."""
    rng = np.random.default_rng(3)
    qx0, qy0 = (n / 2 + rng.uniform(-3, 3, SCAN) for n in PATTERN)
    x, y = (np.arange(n) for n in PATTERN)
    data = np.exp(-((x[:, None] - qx0[..., None, None]) ** 2 + (y - qy0[..., None, None]) ** 2) / (2 * 2.5**2))
    return DataCube((200 * data).astype(dtype)), qx0, qy0


def measured(cube):
    """Centers of mass, which are the beams' centers: there is nothing else in these patterns."""
    data = np.asarray(cube.data, float)
    x, y = (np.arange(n) for n in data.shape[2:])
    total = data.sum((2, 3)) + 1e-300  # a blank pattern's center is 0
    return (data * x[:, None]).sum((2, 3)) / total, (data * y).sum((2, 3)) / total


@pytest.fixture
def cube():
    """Calibrated with the truth, one position (1, 1) without a beam, written by this package's own functions."""
    cube, qx0, qy0 = beams()
    valid = np.ones(SCAN, bool)
    cube.data[1, 1], valid[1, 1] = 0, False
    sigma = np.full(SCAN, 0.2)
    calibrations.write_origin(cube, types.SimpleNamespace(
        decision=Decision(True), qx0=np.where(valid, qx0, np.nan), qy0=qy0, sigma_qx0=sigma,
                                                 sigma_qy0=2 * sigma, valid=valid, radius=4.0, found=True,
                                                 radius_sigma=0.03, feature="direct beam", stop=None))
    calibrations.write_fit(cube, types.SimpleNamespace(qx0=qx0, qy0=qy0, accepted=True))
    calibrations.write_ellipse(cube, types.SimpleNamespace(a=1.1, b=1 / 1.1, theta=0.4, accepted=True))
    cube.calibration.set_Q_pixel_size(0.01)
    cube.calibration.set_R_pixel_size(5.0)
    cube.calibration.set_probe_center((20.0, 21.0))
    provenance.write_provenance(cube, provenance.make_provenance(cube))
    return cube


def test_the_sigma_of_the_radius_is_carried(cube):
    assert calibrations.read_origin(cube).radius_sigma == pytest.approx(0.03)
    binned = calibrations.read_origin(cube.prenet.bin_Q(2))
    assert (binned.radius, binned.radius_sigma) == pytest.approx((2.0, 0.015))
    cube.calibration.set_probe_semiangle(5.0)  # another radius, by hand
    assert np.isnan(calibrations.read_origin(cube).radius_sigma)


OPERATIONS = {
    "crop_Q": ((4, 47, 6, 43),),
    "crop_R": ((0, 5, 1, 6),),
    "bin_Q": (2,),
    "bin_R": (2,),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_maps_lie_where_the_beam_is_afterwards(cube, name):
    before = cube.data.copy(), cube.calibration.get_origin()[0].copy()
    new = getattr(cube.prenet, name)(*OPERATIONS[name])
    assert new.data.shape != cube.data.shape and new.prenet.check().current
    found = measured(new)
    lit = new.data.sum((2, 3)) > 0
    for maps in (new.calibration.get_origin(), new.calibration.get_origin_meas()):
        for ours, truth in zip(maps, found, strict=True):
            assert ours.shape == new.Rshape and np.isfinite(ours).all()
            assert ours[lit] == pytest.approx(truth[lit], abs=0.01)
    np.testing.assert_array_equal(new.calibration.get_origin_meas_mask(), lit)
    assert new.calibration.get_origin_mean() == pytest.approx([q.mean() for q in new.calibration.get_origin()])
    shift = new.calibration.get_origin_shift()
    assert shift[0] == pytest.approx(new.calibration.get_origin()[0] - new.calibration.get_origin_mean()[0])
    # what py4DSTEM itself makes of the data, and the old cube as it was
    theirs = getattr(DataCube(before[0].copy()), name)(*OPERATIONS[name])
    np.testing.assert_allclose(new.data, theirs.data)
    np.testing.assert_array_equal(cube.data, before[0])
    np.testing.assert_array_equal(cube.calibration.get_origin()[0], before[1])
    assert cube.prenet.check().current


def test_lengths_follow_a_binning_of_patterns(cube):
    new = cube.prenet.bin_Q(3)
    calibration, sigma = new.calibration, new.tree(calibrations.SIGMA).data
    assert calibration.get_probe_semiangle() == pytest.approx(4 / 3)
    assert calibration.get_Q_pixel_size() == pytest.approx(0.03) and calibration.get_R_pixel_size() == 5
    assert calibration.get_probe_center() == pytest.approx(((20.5) / 3 - 0.5, (21.5) / 3 - 0.5))
    assert calibration.get_ellipse() == (1.1, 1 / 1.1, 0.4)  # a ratio
    assert sigma[0, 0, 0] == pytest.approx(0.2 / 3) and np.isnan(sigma[0, 1, 1])
    assert np.diff(new.dims[2])[0] == pytest.approx(0.03) and len(new.dims[2]) == PATTERN[0] // 3
    cube.calibration.set_ellipse((30.0, 27.0, 0.4))  # semi-axes of a ring in pixels, as py4DSTEM's fits give them
    assert cube.prenet.bin_Q(3).calibration.get_ellipse() == pytest.approx((10.0, 9.0, 0.4))


def test_sigma_of_a_mean(cube):
    new = cube.prenet.bin_R(2)
    sigma = new.tree(calibrations.SIGMA).data
    assert new.calibration.get_R_pixel_size() == 10 and new.calibration.get_Q_pixel_size() == 0.01
    assert sigma[1, 0, 1] == pytest.approx(0.4 / 2)  # of four
    assert sigma[0, 0, 0] == pytest.approx(0.2 / np.sqrt(3))  # one of them shows no beam
    blank = cube.prenet.crop_R((1, 2, 1, 2))
    assert np.isnan(blank.tree(calibrations.SIGMA).data).all() and not blank.calibration.get_origin_meas_mask().any()


def test_one_after_another_through_a_file(cube, tmp_path):
    new = cube.prenet.crop_R((1, 7, 0, 6)).prenet.bin_Q(2).prenet.crop_Q((2, 20, 1, 21)).prenet.bin_R(2)
    new.prenet.save(tmp_path / "new.h5")
    read = py4DSTEM.read(tmp_path / "new.h5")
    assert read.prenet.check().current
    truth = measured(read)
    assert read.calibration.get_origin()[0] == pytest.approx(truth[0], abs=0.01)
    assert read.calibration.get_origin()[1] == pytest.approx(truth[1], abs=0.01)
    record = provenance.read_provenance(read)
    assert record["shape"] == [*SCAN, *PATTERN]
    assert record["since"] == ["crop_R(1, 7, 0, 6)", "bin_Q(2)", "crop_Q(2, 20, 1, 21)", "bin_R(2)"]


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">u2", "float16"])
def test_sums_of_any_type_of_numbers(dtype):
    cube, qx0, qy0 = beams()
    cube.data = (100 * cube.data).astype(dtype)  # 20,000 at most
    cube.calibration.set_origin((qx0, qy0))
    for name, sums in (("bin_Q", (1, 1, 2, 2)), ("bin_R", (2, 2, 1, 1))):
        binned = getattr(cube.prenet, name)(2).data
        used = cube.data[tuple(slice(n // b * b) for n, b in zip(cube.data.shape, sums, strict=True))].astype(float)
        shape = [m for n, b in zip(used.shape, sums, strict=True) for m in (n // b, b)]
        assert binned.dtype.isnative
        np.testing.assert_allclose(binned, used.reshape(shape).sum((1, 3, 5, 7)), rtol=1e-6)


def test_sums_do_not_overflow():
    cube = DataCube(np.full((4, 4, 32, 32), 250, np.uint8))
    assert cube.prenet.bin_Q(2).data.max() == cube.prenet.bin_R(2).data.max() == 1000
    assert cube.prenet.bin_Q(2).data.dtype == np.uint16 and cube.prenet.bin_Q(1).data.dtype == np.uint8
    signed = DataCube(np.full((1, 1, 32, 32), -30000, np.int16)).prenet.bin_Q(4).data
    assert signed.dtype == np.int32 and (signed == -480000).all()


def test_data_on_disk(tmp_path):
    cube, qx0, qy0 = beams(np.float32)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        lazy = DataCube(file.create_dataset("data", data=cube.data))
        calibrations.write_fit(lazy, types.SimpleNamespace(qx0=qx0, qy0=qy0, accepted=True))
        for new in (lazy.prenet.bin_Q(2), lazy.prenet.bin_R(3), lazy.prenet.crop_Q((0, 48, 2, 40))):
            assert new.calibration.get_origin()[1] == pytest.approx(measured(new)[1], abs=0.01)


@pytest.mark.parametrize(("name", "argument"), [
    ("crop_Q", (0, 51, 0, 45)), ("crop_Q", (5, 5, 0, 45)), ("crop_R", (-3, 5, 0, 4)), ("crop_R", (0, 5)),
    ("crop_Q", (0.5, 9, 0, 9)), ("bin_Q", 0), ("bin_Q", 2.0), ("bin_R", 7), ("bin_R", True),
])
def test_invalid_regions_and_factors_are_refused(cube, name, argument):
    with pytest.raises(PrenetError):
        getattr(cube.prenet, name)(argument)


def test_no_mean_of_ellipses(cube):
    cube.calibration.set_ellipse(tuple(np.full(SCAN, v) for v in (1.1, 0.9, 0.2)))
    assert cube.prenet.crop_R((0, 3, 0, 2)).calibration.get_a().shape == (3, 2)
    with pytest.raises(PrenetError):
        cube.prenet.bin_R(2)


# --- left behind --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("left", "stale"), [
    (lambda cube: cube.crop_Q((4, 46, 6, 40)), {"measured origin", "origin", "probe radius"}),
    (lambda cube: cube.bin_Q(2), {"measured origin", "origin", "probe radius"}),
    (lambda cube: cube.pad_Q(output_size=(60, 60)), {"measured origin", "origin", "probe radius"}),
    (lambda cube: cube.crop_R((0, 5, 0, 6)), {"measured origin", "origin", "sigma"}),
    (lambda cube: cube.bin_R(2), {"measured origin", "origin", "sigma"}),
    (lambda cube: cube.thin_R(2), {"measured origin", "origin", "sigma"}),
])
def test_what_py4dstem_leaves_behind_is_stale(cube, left, stale):
    kept = cube.calibration.get_origin()[0].copy()
    left(cube)
    np.testing.assert_array_equal(cube.calibration.get_origin()[0], kept)  # the fault that check is for
    found = cube.prenet.check()
    assert not found.current and set(found.stale) == stale
    with pytest.raises(PrenetError):
        cube.prenet.crop_Q((0, 20, 0, 20))
    with pytest.raises(PrenetError):
        calibrations.read_fitted_origin(cube)


def test_measured_again_with_py4dstem(cube):
    meas = cube.calibration.get_origin_meas()
    cube.calibration.set_origin_meas((meas[0] + 0.1, meas[1]))
    found = cube.prenet.check()
    assert set(found.stale) == {"origin", "sigma"} and found.decision.has("fit_stale")
    assert (calibrations.read_origin(cube).sigma_qx0 == 1).all()  # not those of the earlier measurement
    cube.calibration.set_origin((meas[0] + 0.1, meas[1]))  # py4DSTEM's fit_origin
    assert cube.prenet.check().stale == ("sigma",)
    new = cube.prenet.crop_R((0, 3, 0, 3))  # theirs is carried along, our sigma is not
    assert new.calibration.get_origin()[0] == pytest.approx(meas[0][:3, :3] + 0.1)
    assert calibrations.SIGMA not in new.treekeys and new.prenet.check().current


def test_a_mean_origin_that_get_probe_size_moved(cube):
    origin = cube.calibration.get_origin()
    cube.get_probe_size(cube.data[0, 0], plot=False)  # its center becomes the mean of all positions
    found = cube.prenet.check()
    assert found.stale == ("mean origin",) and found.decision.has("mean_origin_moved")
    np.testing.assert_array_equal(cube.calibration.get_origin(), origin)
    cube.calibration.set_origin(origin)  # what the flag says
    assert cube.prenet.check().current


def test_maps_that_py4dstem_wrote():
    cube, qx0, qy0 = beams()
    assert cube.prenet.check().stale == ("origin",) and cube.prenet.check().decision.has("calibration_missing")
    cube.calibration.set_origin((qx0, qy0))
    assert cube.prenet.check().current and cube.prenet.check().decision.has("calibration_current")
    cube.crop_Q((30, 50, 0, 45))  # nothing was noted, but there is no beam any more
    cube.calibration.set_origin((qx0, qy0))
    assert cube.prenet.check().decision.has("origin_outside")


def test_bragg_vectors_of_other_data(cube):
    vectors = BraggVectors(SCAN, PATTERN, calibration=cube.calibration)
    cube.attach(vectors)
    assert cube.prenet.check().current
    assert not set(cube.prenet.crop_R((0, 2, 0, 2)).treekeys) & {"braggvectors"}
    cube.data = cube.data[:5]
    assert "braggvectors" in cube.prenet.check().stale


def test_a_cube_without_calibration():
    cube = DataCube(np.zeros((2, 2, 32, 32), np.uint16))
    assert cube.prenet.crop_Q((0, 8, 0, 8)).data.shape == (2, 2, 8, 8)
    cube.root._metadata.pop("calibration")  # as read from a file without one
    assert cube.calibration is None
    with pytest.raises(PrenetError):
        cropping.crop_Q(cube, (0, 8, 0, 8))
    assert not cropping.check_calibration(cube).current
