"""Rotation and flip between scan and pattern, against known ones, and as py4DSTEM uses them."""

import contextlib
import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from py4DSTEM import DataCube
from py4DSTEM.braggvectors import BraggVectors
from py4DSTEM.data import QPoints
from scans import others_slow

from py4dstem_prenet.core import (
    Decision,
    NoiseModel,
    PrenetError,
    Rotation,
    as_scan,
    ellipse_matrix,
    ellipse_vector,
)
from py4dstem_prenet.io import read_rotation, signatures, write_rotation
from py4dstem_prenet.report import show_rotation
from py4dstem_prenet.rotation import (
    Estimate,
    ShadowShift,
    align,
    decide_rotation,
    from_shadow,
    half_turn_distance,
    measure_deflection,
    measure_rotation,
)
from py4dstem_prenet.rotation.decide import MAX_PROBABILITY
from py4dstem_prenet.simulation import pattern_matrix, simulate_nanobeam, simulate_rotated


def noise_for(counts, dose):
    return NoiseModel(1.0, 0.0, 0.0, np.zeros(counts.shape[2:], bool), counting=True, dose=dose)


def measured(made, dose, seed=0, **options):
    counts, truth = made.counts(dose, seed), made.truth
    return measure_rotation(counts, truth["qx0"], truth["qy0"], truth["radius"], noise_for(counts, dose),
                            progress=False, **options)


def full_turn_distance(first, second):
    return abs((first - second + 180) % 360 - 180)


@pytest.fixture(scope="module")
def crystal():
    return simulate_rotated("crystal", (40, 40), (40, 40), rotation=2.0, flip=True, step=0.4, seed=1)


# --- physics ------------------------------------------------------------------------------------------------
def test_the_deflection_points_toward_atoms(crystal):
    """So the dark field decides about the half turn, flipped or not."""
    found = measured(crystal, 20_000)
    assert found.accepted and found.flip and found.half_turn_determined
    assert full_turn_distance(found.degrees, np.degrees(2.0)) < 0.6
    assert found.sigma < 0.4


@pytest.mark.slow
def test_a_feature_decides_about_the_half_turn(crystal):
    dark = measure_deflection(as_scan(crystal.expected), *(crystal.truth[k] for k in ("qx0", "qy0", "radius")),
                              noise_for(crystal.expected, 1.0)).dark
    found, inverse = (measured(crystal, 20_000, feature=sign * dark) for sign in (1, -1))
    assert found.half_turn_determined and inverse.half_turn_determined
    assert abs(full_turn_distance(found.degrees, inverse.degrees) - 180) < 1e-6
    assert full_turn_distance(found.degrees, np.degrees(2.0)) < 0.6


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("degrees", [-140.0, 35.0])
def test_smooth_fields(degrees, flip):
    made = simulate_nanobeam((40, 40), (32, 32), rotation=np.radians(degrees), flip=flip, field=0.8, length=2.0,
                             radius=5.0, amplitude=2.0, seed=3)
    found = measured(made, 10_000)
    assert found.accepted and found.flip == flip
    assert abs(half_turn_distance(found.degrees, degrees)) < min(1.0, 3 * found.sigma)
    assert not found.half_turn_determined  # no dark field that knows the sign


def test_descan_left_in_the_origin_does_not_matter():
    """A parabola is no field, whatever its curl."""
    made = simulate_nanobeam((40, 40), (32, 32), rotation=0.5, field=0.8, length=2.0, radius=5.0, amplitude=0.0, seed=3)
    counts, dose = made.counts(10_000), 10_000
    x, y = np.meshgrid(*2 * [np.linspace(-1, 1, 40)], indexing="ij")
    found = measure_rotation(counts, made.truth["qx0"] + 0.5 * y * y, made.truth["qy0"] - 0.7 * x, 5.0,
                             noise_for(counts, dose), progress=False)
    assert found.accepted and abs(half_turn_distance(found.degrees, np.degrees(0.5))) < min(1.0, 3 * found.sigma)


def test_an_ellipse_of_the_camera_is_removed():
    """A field along one direction, which an ellipse turns most."""
    distortion = ellipse_matrix(ellipse_vector(1.1, 1.0, 0.5 + np.pi / 4))
    rng, shape = np.random.default_rng(0), (40, 40)
    made = simulate_nanobeam(shape, (32, 32), rotation=0.0, field=0.8, length=2.0, radius=5.0, amplitude=0.0, seed=3)
    x, y = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    along = np.cos(0.5) * x + np.sin(0.5) * y
    gradient = made.truth["deflection"] * 0.3 + np.multiply.outer([np.cos(0.5), np.sin(0.5)], np.sin(along))
    field = np.einsum("ij,jxy->ixy", distortion, gradient) + rng.normal(0, 0.02, (2, *shape))
    bent, right = (align(f, 4e-4).angle[0] for f in (field, np.einsum("ij,jxy->ixy", np.linalg.inv(distortion), field)))
    assert abs(np.degrees(right)) < 0.5 < 1.0 < abs(np.degrees(bent))


def test_faults_of_the_acquisition():
    """Rows that are displaced, cosmic rays, bad pixels and positions without a beam."""
    made = simulate_nanobeam((40, 40), (32, 32), rotation=0.5, field=0.8, length=2.0, radius=5.0, amplitude=0.0, seed=3)
    dose, rng, truth = 10_000, np.random.default_rng(0), made.truth
    counts, bad = made.counts(dose).astype(np.uint32), np.zeros((32, 32), bool)
    bad[17, 14] = bad[3, 29] = True
    counts[..., bad] = 60_000
    counts[5, 7, 2, 2] = counts[21, 30, 29, 3] = 4000
    valid = np.ones((40, 40), bool)
    valid[30, 10:14] = False
    counts[~valid] = rng.poisson(0.5, (4, 32, 32))
    jitter = rng.normal(0, 0.4, (40, 1))
    noise = NoiseModel(1.0, 0.0, 0.0, bad, counting=True, dose=dose)
    found = measure_rotation(counts, truth["qx0"] + jitter, truth["qy0"] - jitter, 5.0, noise, valid=valid,
                             progress=False)
    assert found.accepted and not found.flip
    assert abs(half_turn_distance(found.degrees, np.degrees(0.5))) < min(1.0, 3 * found.sigma)


@pytest.mark.parametrize("flip", others_slow([True, False]))
def test_the_shadow_image_of_a_defocused_probe(flip):
    made = simulate_rotated("glass", (16, 16), (48, 48), rotation=-0.7, flip=flip, step=3.5, defocus=350.0, seed=2)
    found = measured(made, 30_000)
    assert found.accepted and found.flip == flip and "shadow image" in found.sources
    assert abs(half_turn_distance(found.degrees, np.degrees(-0.7))) < min(1.0, 3 * found.sigma)


@pytest.mark.slow
def test_sigma_is_calibrated():
    pulls = []
    for seed in range(14):
        rotation, flip = 0.3 * seed - 2, bool(seed % 2)
        made = simulate_nanobeam((32, 32), (32, 32), rotation=rotation, flip=flip, field=0.6, length=1.5, radius=4.0,
                                 seed=seed)
        field = measure_deflection(as_scan(made.counts(3000)), *(made.truth[k] for k in ("qx0", "qy0", "radius")),
                                   noise_for(made.expected, 3000))
        found = align(field.whole, field.whole_noise)
        assert found.flip == flip
        error = np.radians(half_turn_distance(np.degrees(found.angle[flip]), np.degrees(rotation)))
        pulls.append(error / found.sigma[flip])
    assert 0.5 < np.sqrt(np.mean(np.square(pulls))) < 1.5 and np.abs(pulls).max() < 3.5


# --- refusals -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", others_slow(range(3)))
def test_grains_without_a_field_are_refused(seed):
    """Contrast inside the disks moves the center of mass at every grain boundary."""
    made = simulate_nanobeam((24, 24), (40, 40), field=0.0, grains=8, radius=5.0, seed=seed)
    assert not measured(made, 20_000).accepted


@pytest.mark.slow
def test_vacuum_is_refused():
    made = simulate_rotated("vacuum", (20, 20), (32, 32), seed=0)
    found = measured(made, 3000)
    assert [flag.name for flag in found.flags] == ["rotation_no_field"]


def test_a_field_along_one_direction_leaves_the_flip_open():
    x = np.arange(48)
    ramp = np.broadcast_to(np.sin(2 * np.pi * (x[:, None] + x[None, :]) / 9), (48, 48))
    field = np.stack([ramp, 0.3 * ramp]) + np.random.default_rng(0).normal(0, 0.01, (2, 48, 48))
    found = align(field, 1e-4)
    assert found.probability > 0.01 or min(found.strength) > 0.8 * max(found.strength)


def test_false_alarms_of_noise_are_rare():
    rng = np.random.default_rng(1)
    chance = [align(rng.normal(size=(2, 24, 24)), 1.0).probability for _ in range(100)]
    assert np.mean(np.array(chance) < 0.01) <= 0.07 and min(chance) > MAX_PROBABILITY


def test_sources_that_disagree_are_refused():
    estimates = {"center of mass": Estimate(10.0, False, 0.2), "shadow image": Estimate(13.0, False, 0.2)}
    assert not decide_rotation(estimates).accepted
    estimates["shadow image"] = Estimate(10.5, False, 0.2)
    assert abs(decide_rotation(estimates).degrees - 10.25) < 1e-9
    estimates["shadow image"] = Estimate(10.5, True, 0.2)
    assert not decide_rotation(estimates).accepted


def test_angles_near_a_half_turn_average_there():
    found = decide_rotation({"a": Estimate(89.9, False, 0.2), "b": Estimate(-89.9, False, 0.2)})
    assert abs(half_turn_distance(found.degrees, 90.0)) < 1e-6 and -90 < found.degrees <= 90


@pytest.mark.parametrize("flip", [False, True])
def test_astigmatism_does_not_turn_the_shadow(flip):
    angle, curvature = 0.6, np.array([[3.0, 0.4], [0.4, 2.5]])
    shift = ShadowShift(-pattern_matrix(angle, flip) @ curvature, 1e-6 * np.eye(4), 20.0)
    found = from_shadow(shift)
    assert found.flip == flip and abs(half_turn_distance(found.degrees, np.degrees(angle))) < 1e-6


def test_bad_input():
    noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((32, 32), bool), counting=True, dose=1.0)
    for options in ({"feature": np.ones((3, 3))}, {"radius": -1.0}):
        with pytest.raises(PrenetError):
            measure_rotation(np.ones((9, 9, 32, 32)), **({"qx0": 16.0, "qy0": 16.0, "radius": 5.0} | options),
                             noise=noise, progress=False)


@pytest.mark.parametrize("shape", [(1, 40), (5, 5)])
def test_small_scans_are_refused(shape):
    found = measure_rotation(np.ones((*shape, 32, 32)), 16.0, 16.0, 5.0, noise_for(np.ones((*shape, 32, 32)), 1.0),
                             progress=False)
    assert not found.accepted and [flag.name for flag in found.flags] == ["rotation_scan_small"]


# --- py4DSTEM -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("flip", [False, True])
def test_bragg_vectors_are_turned_into_the_frame_of_the_scan(flip):
    """`BraggVectors.cal` undoes what the simulation did."""
    vector = np.array([5.0, 2.0])  # in the frame of the scan
    cube = DataCube(np.ones((2, 2, 32, 32), np.float32))
    cube.calibration.set_origin((np.full((2, 2), 16.0), np.full((2, 2), 15.0)))
    vectors = BraggVectors((2, 2), (32, 32), calibration=cube.calibration)
    qx, qy = np.array([16.0, 15.0]) + pattern_matrix(0.8, flip) @ vector
    for i in range(2):
        for j in range(2):
            vectors._v_uncal[i, j] = QPoints(np.array([(qx, qy, 1.0)], [("qx", float), ("qy", float), ("i", float)]))
    write_rotation(cube, Rotation(np.degrees(0.8), flip, 0.1, True, Decision(True)))
    vectors.setcal(center=True, ellipse=False, pixel=False, rotate=True)
    found = vectors.cal[0, 0]
    assert np.allclose([found.qx[0], found.qy[0]], vector)


def test_dpc_finds_the_same_angle_and_flip(crystal):
    from py4DSTEM.process.phase import DPC

    truth = crystal.truth
    with contextlib.redirect_stdout(io.StringIO()):
        dpc = DPC(datacube=DataCube(crystal.expected * 1e6), energy=200e3, verbose=False)
        dpc.preprocess(force_com_shifts=(truth["qx0"], truth["qy0"]), plot_center_of_mass=False, plot_rotation=False,
                       vectorized_com_calculation=True)
    assert dpc._rotation_best_transpose
    assert abs(half_turn_distance(np.degrees(dpc._rotation_best_rad), np.degrees(2.0))) < 2


@pytest.mark.slow
def test_written_signed_and_kept_under_cropping_and_binning(crystal, tmp_path):
    import py4DSTEM

    cube = DataCube(crystal.counts(20_000))
    cube.calibration.set_origin((crystal.truth["qx0"], crystal.truth["qy0"]))
    cube.calibration.set_probe_semiangle(crystal.truth["radius"])
    found = cube.prenet.measure_rotation(progress=False)
    assert found.accepted
    calibration = cube.calibration
    assert calibration.get_QR_rotation() == np.radians(found.degrees) and calibration.get_QR_flip() is True
    assert read_rotation(cube) == found and found.deflection.shape == (2, *cube.Rshape)
    assert signatures(cube)["rotation"]["unchanged"] and signatures(cube)["rotation"]["half_turn_determined"]
    small = cube.prenet.crop_R((0, 20, 0, 20)).prenet.bin_Q(2).prenet.bin_R(2)
    assert small.calibration.get_QR_rotation_degrees() == found.degrees and small.prenet.check().current
    assert signatures(small)["rotation"]["unchanged"]
    assert read_rotation(small).degrees == found.degrees and read_rotation(small).deflection is None
    small.prenet.save(tmp_path / "small.h5")
    again = py4DSTEM.read(str(tmp_path / "small.h5"))
    assert again.calibration.get_QR_rotation_degrees() == pytest.approx(found.degrees)
    assert bool(again.calibration.get_QR_flip()) and signatures(again)["rotation"]["unchanged"]
    fresh = DataCube(small.data)
    fresh.calibration.set_QR_rotflip_degrees((5.0, False))
    fresh.prenet.load_calibration(tmp_path / "small.h5")
    assert fresh.calibration.get_QR_rotflip_degrees() == (pytest.approx(found.degrees), True)
    again.calibration.set_QR_rotation_degrees(1.0)
    assert not signatures(again)["rotation"]["unchanged"]


def test_a_refusal_writes_nothing():
    cube = DataCube(np.random.default_rng(0).poisson(5.0, (12, 12, 32, 32)).astype(np.uint16))
    cube.calibration.set_origin((np.full((12, 12), 16.0), np.full((12, 12), 16.0)))
    found = cube.prenet.measure_rotation(progress=False)
    assert not found.accepted
    assert cube.calibration.get_QR_rotation() is None and "rotation" not in signatures(cube)


def test_figure(crystal):
    ax = show_rotation(measured(crystal, 20_000), Figure().add_subplot())
    curl, _, flipped, _ = (line.get_ydata() for line in ax.lines)
    assert min(flipped) < 0.1 < min(curl)


@pytest.mark.slow
def test_calibrate_with_rotation_and_its_report():
    """The sequence of `calibrate`, with the origin that it measures itself."""
    from py4dstem_prenet.report import of_calibration

    made = simulate_nanobeam((28, 28), (48, 48), rotation=0.9, field=0.8, length=1.5, radius=6.0, amplitude=1.0, seed=4)
    cube = DataCube(made.counts(20_000))
    report = cube.prenet.calibrate(rotation=True, progress=False)
    found = report.rotation
    assert found is not None and not found.flip
    assert abs(half_turn_distance(found.degrees, np.degrees(0.9))) < max(1.0, 3 * found.sigma)
    written = {flag.name for flag in report.written}
    assert ("rotation_written" in written) == found.accepted == (cube.calibration.get_QR_rotation() is not None)
    assert of_calibration(report)["rotation"]["degrees"] == found.degrees
    assert "Rotation" in str(report) and any(label == "rotation" for label, _ in report.rows())
