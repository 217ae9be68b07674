"""What is written into a Calibration, what py4DSTEM makes of it, and its provenance."""

import json

import numpy as np
import py4DSTEM
import pytest
from py4DSTEM import DataCube
from written import (
    QSHAPE,
    RSHAPE,
    assert_same,
    blank_cube,
    bragg_vectors,
    ellipse,
    origin_fit,
    origin_map,
    saved,
    written_cube,
)

from py4dstem_prenet.core import Flag, NoiseModel
from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.io import calibrations, emd_files, files, provenance


@pytest.fixture
def cube():
    return blank_cube()


@pytest.fixture
def written():
    return written_cube()


class TestOrigin:
    def test_invalid_positions_take_the_nearest_valid_origin(self, cube):
        m = origin_map()
        m.valid[0, 0] = False
        m.qx0[0, 0] = m.sigma_qx0[0, 0] = np.nan
        m.qy0[2, 3] = np.inf  # said to be valid, and not usable
        assert calibrations.write_origin(cube, m)
        qx0, qy0 = cube.calibration.get_origin_meas()
        mask = cube.calibration.get_origin_meas_mask()
        assert np.isfinite(qx0).all() and np.isfinite(qy0).all() and qx0.dtype == qy0.dtype == np.float64
        assert mask.dtype == bool and np.argwhere(~mask).tolist() == [[0, 0], [2, 3]]
        assert qx0[0, 0] in (m.qx0[0, 1], m.qx0[1, 0]) and qy0[2, 3] in (m.qy0[1, 3], m.qy0[2, 2])
        np.testing.assert_array_equal(qx0[mask], m.qx0[mask])
        assert np.isnan(cube.tree(calibrations.SIGMA).data[:, ~mask]).all()

    def test_writing_again_replaces(self, written):
        before = set(written.treekeys), set(written.calibration.keys)
        calibrations.write_origin(written, origin_map(sigma_qx0=np.full(RSHAPE, 0.5)))
        assert (set(written.treekeys), set(written.calibration.keys)) == before
        assert (written.tree(calibrations.SIGMA).data[0] == 0.5).all()
        assert written.tree(calibrations.SIGMA).calibration is written.calibration

    def test_maps_are_copies(self, cube):
        m = origin_map()
        calibrations.write_origin(cube, m)
        calibrations.write_fit(cube, m_fit := origin_fit())
        m.qx0 += 1
        m_fit.qx0 += 1
        m.valid[:] = False
        np.testing.assert_array_equal(cube.calibration.get_origin_meas()[0], origin_map().qx0)
        np.testing.assert_array_equal(cube.calibration.get_origin()[0], origin_map().qx0)
        assert cube.calibration.get_origin_meas_mask().all()

    @pytest.mark.parametrize("changes", [{"found": False}, {"valid": np.zeros(RSHAPE, bool)}])
    def test_without_a_beam_nothing_is_written(self, cube, changes):
        before = saved(cube.calibration)
        assert not calibrations.write_origin(cube, origin_map(**changes))
        assert_same(saved(cube.calibration), before)
        assert not list(cube.treekeys)

    def test_measuring_leaves_the_origin_in_use_alone(self, written):
        """py4DSTEM's own set_probe_param would move the mean origin, and with it the axes."""
        axes = [np.copy(d) for d in written.dims]
        calibrations.write_origin(written, origin_map(qx0=np.full(RSHAPE, 30.0), radius=7))
        written.calibration.calibrate()
        for dim, was in zip(written.dims, axes, strict=True):
            np.testing.assert_array_equal(dim, was)
        assert written.calibration.get_probe_param()[0] == 7

    def test_what_was_located_and_its_radius_are_read_back(self, written):
        """The center of rings is not the direct beam's, and an earlier disk's radius is not theirs."""
        assert calibrations.read_origin(written).feature == "direct beam"
        calibrations.write_origin(written, origin_map(feature="rings", radius=float("nan")))
        found = calibrations.read_origin(written)
        assert found.feature == "rings" and np.isnan(found.radius)
        written.calibration.set_origin_meas((found.qx0 + 1, found.qy0, found.valid))  # somebody else's
        assert calibrations.read_origin(written).feature == "direct beam"

    def test_a_cube_without_a_calibration(self, cube, written, tmp_path):
        """py4DSTEM reads a cube that was saved without one with None in its place."""
        emd_files.save(written, tmp_path / "calibration.h5", data=False)
        cube.root._metadata.pop("calibration")
        with pytest.raises(PrenetError):
            emd_files.save(cube, tmp_path / "none.h5", data=False)
        emd_files.load_calibration(cube, tmp_path / "calibration.h5")
        np.testing.assert_array_equal(cube.calibration.get_origin()[0], written.calibration.get_origin()[0])
        cube.root._metadata.pop("calibration")
        assert calibrations.cube_like(cube, cube.data).calibration is not None

    def test_a_cube_like_another_does_not_copy_its_data(self, written):
        """As a memory map's copy would be in memory, and an HDF5 data set has none."""

        class Large(np.ndarray):
            def __deepcopy__(self, memo):
                raise AssertionError("the data were copied")

        written.data = written.data.view(Large)
        new, maps = calibrations.cube_like(written, np.zeros(written.data.shape)), written.tree(calibrations.SIGMA)
        np.testing.assert_array_equal(new.tree(calibrations.SIGMA).data, maps.data)
        copied = new.tree(calibrations.SIGMA)
        assert copied.root is new.root and not np.shares_memory(copied.data, maps.data)

    def test_refused_results_are_not_written(self, cube):
        before = saved(cube.calibration)
        assert not calibrations.write_fit(cube, origin_fit(accepted=False))
        assert not calibrations.write_ellipse(cube, ellipse(accepted=False))
        assert_same(saved(cube.calibration), before)

    def test_bad_maps_are_refused(self, cube):
        with pytest.raises(PrenetError):
            calibrations.write_origin(cube, origin_map(qx0=np.zeros((9, 9))))
        with pytest.raises(PrenetError):
            calibrations.write_fit(cube, origin_fit(qy0=np.float64(3)))
        with pytest.raises(PrenetError):
            calibrations.write_fit(cube, origin_fit(qx0=np.full(RSHAPE, np.nan)))

    def test_reads_back_what_was_measured(self, written):
        m = calibrations.read_origin(written)
        np.testing.assert_array_equal(m.qx0, origin_map().qx0)
        np.testing.assert_array_equal(m.sigma_qy0, origin_map().sigma_qy0)
        assert m.valid.all() and m.found and m.radius == 5

    def test_reads_what_py4dstem_measured(self, cube):
        cube.calibration.set_origin_meas((origin_map().qx0, origin_map().qy0, False))
        m = calibrations.read_origin(cube)
        assert m.valid.all() and (m.sigma_qx0 == 1).all() and np.isnan(m.radius)

    def test_what_is_missing_or_stale_is_said(self, cube, written):
        with pytest.raises(PrenetError):
            calibrations.read_fitted_origin(DataCube(np.zeros((*RSHAPE, *QSHAPE))))
        qx0, _, radius = calibrations.read_fitted_origin(written)
        assert qx0.shape == RSHAPE and radius == 5
        cropped = DataCube(written.data[:2], calibration=written.calibration.copy())
        with pytest.raises(PrenetError):
            calibrations.read_fitted_origin(cropped)


class TestConsumers:
    def test_virtual_images_use_the_origin(self, written):
        image = written.get_virtual_image(
            mode="circle",
            geometry=((0, 0), 5),
            centered=True,
            calibrated=False,
            shift_center=True,
            verbose=False,
        )
        assert (image.data > 0.9 * 80 * 20).all()

    @pytest.mark.parametrize("theta", [0.0, 0.4, 1.3, 2.9])
    def test_an_ellipse_comes_back_as_a_circle_of_radius_b(self, theta):
        m, a, b = origin_map(), np.sqrt(1.05), 1 / np.sqrt(1.05)
        cube = DataCube(np.zeros((*RSHAPE, *QSHAPE), np.float32))
        calibrations.write_fit(cube, origin_fit())
        calibrations.write_ellipse(cube, ellipse(a=a, b=b, theta=theta))
        phi = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        turn = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
        qx, qy = turn @ (10 * np.array([a * np.cos(phi), b * np.sin(phi)]))

        vectors = bragg_vectors(cube, qx, qy)
        assert vectors.calstate["center"] and vectors.calstate["ellipse"]
        for i, j in np.ndindex(RSHAPE):
            radii = np.hypot(vectors.cal[i, j].qx, vectors.cal[i, j].qy)
            np.testing.assert_allclose(radii, 10 * b, atol=1e-9)

        x, y = np.mgrid[: QSHAPE[0], : QSHAPE[1]]
        u, v = turn.T @ np.array([(x - m.qx0[1, 2]).ravel(), (y - m.qy0[1, 2]).ravel()])
        cube.data[1, 2] = np.exp(-((np.hypot(u / a, v / b) - 10) ** 2) / 4).reshape(QSHAPE)
        polar = py4DSTEM.PolarDatacube(cube, qmin=4, qmax=16, qstep=0.5, n_annular=36)
        for corrected in (True, False):
            polar.ellipse = corrected
            rings = np.ma.filled(polar.data[1, 2], 0)
            radii = (rings * polar.radial_bins).sum(1) / rings.sum(1)
            wave = 2 * abs(np.mean(radii * np.exp(2j * polar.annular_bins)))
            if corrected:  # to the accuracy of the polar sampling
                assert wave < 0.04 and abs(radii.mean() - 10 * b) < 0.05
            else:
                assert wave > 0.2

    def test_one_line_undoes_the_ellipse(self, written, tmp_path):
        written.calibration.set_ellipse((None, None, None))
        assert written.calibration.get_ellipse() is None
        assert not bragg_vectors(written, [0], [0]).calstate["ellipse"]
        emd_files.save(written, tmp_path / "a.h5")
        assert py4DSTEM.read(tmp_path / "a.h5").calibration.get_ellipse() is None


class TestProvenance:
    def test_holds_only_what_json_can(self, cube):
        settings = {"mask": np.ones((2, 2), bool), 3: np.nan, "path": files.Path("x"), "type": np.dtype("u2")}
        record = provenance.make_provenance(cube, settings=settings)
        assert json.loads(json.dumps(record, allow_nan=False)) == record
        assert record["shape"] == [3, 4, 40, 48] and record["settings"]["3"] is None
        assert record["date"].endswith("+00:00")

    def test_the_noise_model_is_told_without_its_map(self, cube):
        bad = np.zeros(QSHAPE, bool)
        bad[1, :3] = True
        numbers = {"gain": np.float64(2), "offset": 0.0, "readout": 0.5, "counting": True, "dose": 100.0}
        model = NoiseModel(**numbers, bad_pixels=bad, flags=(Flag("no_electrons"),))
        noise = provenance.make_provenance(cube, noise=model)["noise"]
        assert noise["gain"] == 2 and noise["bad_pixels"] == 3 and noise["flags"][0]["name"] == "no_electrons"

    def test_is_kept_with_the_cube(self, cube):
        assert provenance.read_provenance(cube) is None
        provenance.write_provenance(cube, {"a": 1})
        provenance.write_provenance(cube, {"a": 2, "ü": "±"})
        assert provenance.read_provenance(cube) == {"a": 2, "ü": "±"}
