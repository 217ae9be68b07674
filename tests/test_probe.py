"""The image of the probe, and the disks that py4DSTEM finds with it."""

import contextlib
import io

import numpy as np
import py4DSTEM
import pytest
from py4DSTEM import DataCube, Probe
from scipy.spatial import cKDTree

from py4dstem_prenet.core import NoiseModel, PrenetError, as_scan, semi_angle
from py4dstem_prenet.fits import fit_disk, pool_arrays
from py4dstem_prenet.probe import choose_thin, measure_probe
from py4dstem_prenet.probe.measure import draw_aperture
from py4dstem_prenet.simulation import simulate_nanobeam

RADIUS = 6.3  # px


def noise_for(shape, dose, bad=None):
    return NoiseModel(1.0, 0.0, 0.0, np.zeros(shape, bool) if bad is None else bad, counting=True, dose=dose)


@pytest.fixture(scope="module")
def vacuum():
    return simulate_nanobeam((10, 10), (64, 60), field=0.0, radius=RADIUS, amplitude=2.0, seed=1)


@pytest.fixture(scope="module")
def grains():
    return simulate_nanobeam((8, 8), (80, 80), field=0.0, grains=10, radius=RADIUS, seed=5)


def test_the_vacuum_probe_is_centered(vacuum):
    """Also if all origins are off by the same amount."""
    truth, dose = vacuum.truth, 30_000
    found = measure_probe(vacuum.counts(dose), truth["qx0"] + 0.15, truth["qy0"] - 0.1, RADIUS,
                          noise_for((64, 60), dose), progress=False)
    assert [flag.name for flag in found.flags] == ["probe_measured"]
    assert found.center == (32, 30) and found.image.sum() == pytest.approx(1)
    place = [(found.image * axis).sum() for axis in np.indices((64, 60))]
    assert np.abs(np.subtract(place, found.center)).max() < 0.02
    assert found.sigma < 0.02 and abs(found.radius - RADIUS) < 0.05 and 0 < found.radius_sigma < 0.05
    true, distance = draw_aperture((64, 60), (32, 30), RADIUS, np.hypot(truth["edge"], 12**-0.5))
    assert np.abs(found.image / found.image.max() - true).max() < 0.12  # interpolation blurs the edge a little
    assert not found.image[distance > RADIUS + 6].any()


def test_bad_pixels_leave_no_trace(vacuum):
    truth, dose = vacuum.truth, 30_000
    counts, bad = vacuum.counts(dose), np.zeros((64, 60), bool)
    bad[33, 28] = bad[40, 31] = True
    counts[..., bad] = 60_000
    found = measure_probe(counts, truth["qx0"], truth["qy0"], RADIUS, noise_for((64, 60), dose, bad), progress=False)
    place = [(found.image * axis).sum() for axis in np.indices((64, 60))]
    assert np.abs(np.subtract(place, found.center)).max() < 0.03


def test_thin_positions_are_chosen(grains, vacuum):
    """Half of the scan is vacuum, and half of it grains."""
    counts = np.zeros((8, 16, 80, 80), np.uint16)
    counts[:, 8:] = grains.counts(3000)
    empty = simulate_nanobeam((8, 8), (80, 80), field=0.0, radius=RADIUS, seed=5)
    counts[:, :8] = empty.counts(3000)
    qx0, qy0 = (np.concatenate([empty.truth[k], grains.truth[k]], 1) for k in ("qx0", "qy0"))
    thin, direct = choose_thin(as_scan(counts), qx0, qy0, RADIUS, noise_for((80, 80), 3000))
    assert direct > 0.95 and thin[:, :8].mean() > 0.9 and thin[:, 8:].mean() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("dose", [1000, 10_000])
def test_bragg_disks_are_found_as_well_as_with_the_true_probe(grains, dose):
    truth, counts = grains.truth, grains.counts(dose)
    cube = DataCube(counts.astype(np.float32))
    cube.calibration.set_origin((truth["qx0"], truth["qy0"]))
    cube.calibration.set_probe_semiangle(RADIUS)
    ours = cube.prenet.probe(progress=False)
    assert isinstance(ours, Probe) and cube.tree("probe") is ours
    true, _ = draw_aperture((80, 80), (40, 40), RADIUS, np.hypot(truth["edge"], 12**-0.5))
    theirs = Probe(true).get_kernel(mode="sigmoid", origin=(40, 40), radii=(RADIUS, 2 * RADIUS))
    (error, missed, false), (best_error, best_missed, best_false) = (
        score(cube, kernel, truth) for kernel in (ours.kernel, theirs))
    assert error <= 1.05 * best_error
    assert missed <= best_missed + 0.01 and false <= best_false + 0.01


def score(cube, kernel, truth):
    """Rms distance in px, fraction missed, and false ones per disk, of the disks that py4DSTEM finds."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        vectors = cube.find_Bragg_disks(template=kernel, minPeakSpacing=8, edgeBoundary=6, minRelativeIntensity=0.02,
                                        maxNumPeaks=20, sigma_cc=1.0)
    squares, missed, false, total = [], 0, 0, 0
    for i, j in np.ndindex(*cube.Rshape):
        found = np.stack([vectors.raw[i, j].qx, vectors.raw[i, j].qy], -1)
        true = truth["reflections"][i, j] + [truth["qx0"][i, j], truth["qy0"][i, j]]
        distance, nearest = cKDTree(found).query(true)
        near = distance < 2
        squares += list(distance[near] ** 2)
        missed, total = missed + (~near).sum(), total + len(true)
        false += len(found) - len(set(nearest[near]))
    return np.sqrt(np.mean(squares)), missed / total, false / total


def test_a_patterned_aperture_is_kept(vacuum):
    """As a bullseye: its pattern is the probe, and no contrast of a specimen."""
    truth, dose = vacuum.truth, 30_000
    x, y = np.indices((64, 60))
    expected = vacuum.expected.copy()
    for i, j in np.ndindex(10, 10):
        expected[i, j] *= np.hypot(x - truth["qx0"][i, j], y - truth["qy0"][i, j]) > 2.5
    counts = np.random.default_rng(0).poisson(expected * dose).astype(np.uint16)
    found = measure_probe(counts, truth["qx0"], truth["qy0"], RADIUS, noise_for((64, 60), dose), progress=False)
    assert [flag.name for flag in found.flags] == ["probe_measured"]
    assert found.image[32, 30] < 0.05 * found.image.max()


def test_a_hidden_beam_is_refused(vacuum):
    found = measure_probe(vacuum.expected, 32.0, 30.0, None, noise_for((64, 60), 1.0), progress=False)
    assert not found.accepted and not found.image.any()
    cube = DataCube(vacuum.counts(1000))
    cube.calibration.set_origin((vacuum.truth["qx0"], vacuum.truth["qy0"]))
    with pytest.raises(PrenetError):
        cube.prenet.probe(progress=False)


def test_a_cut_disk_is_drawn_from_the_aperture(vacuum):
    truth, dose = vacuum.truth, 30_000
    counts = vacuum.counts(dose)[..., :, : int(truth["qy0"].mean() + 4)]  # the edge of the detector cuts the disk
    found = measure_probe(counts, truth["qx0"], truth["qy0"], RADIUS, noise_for(counts.shape[2:], dose), progress=False)
    assert [flag.name for flag in found.flags] == ["probe_from_aperture"]
    fit = fit_disk(pool_arrays([found.image * 1e6] * 4, 4 * [32.0], 4 * [float(found.center[1])]), RADIUS)
    assert abs(fit.radius - RADIUS) < 0.15


@pytest.mark.slow
def test_semi_angle(vacuum):
    assert semi_angle(10.0, 0.02, 200e3) == pytest.approx(5.016, rel=1e-3)
    cube = DataCube(vacuum.counts(10_000))
    cube.calibration.set_origin((vacuum.truth["qx0"], vacuum.truth["qy0"]))
    cube.calibration.set_probe_semiangle(RADIUS)
    cube.prenet.probe(progress=False)
    assert cube.calibration.get_convergence_semiangle_mrad() is None
    cube.calibration.set_Q_pixel_size(0.02)
    cube.calibration.set_Q_pixel_units("A^-1")
    cube.prenet.probe(voltage=200e3, progress=False)
    assert cube.calibration.get_convergence_semiangle_mrad() == pytest.approx(0.5016 * RADIUS, rel=0.01)


def test_bad_probe_input(vacuum):
    for options in ({"radius": -1.0}, {"pixel_size": 0.0}, {"voltage": -1.0}):
        with pytest.raises(PrenetError):
            measure_probe(vacuum.expected, 32.0, 30.0, noise=noise_for((64, 60), 1.0), progress=False,
                          **({"radius": RADIUS} | options))


@pytest.mark.slow
def test_the_probe_is_saved_and_read_back(vacuum, tmp_path):
    import py4DSTEM

    cube = DataCube(vacuum.counts(10_000))
    cube.calibration.set_origin((vacuum.truth["qx0"], vacuum.truth["qy0"]))
    cube.calibration.set_probe_semiangle(RADIUS)
    probe = cube.prenet.probe(progress=False)
    cube.prenet.save(tmp_path / "scan.h5")
    again = py4DSTEM.read(str(tmp_path / "scan.h5")).tree("probe")
    assert np.allclose(again.kernel, probe.kernel) and again.alpha == pytest.approx(probe.alpha)


@pytest.mark.slow
def test_undo_brings_the_earlier_probe_back(vacuum, tmp_path):
    cube = DataCube(vacuum.counts(10_000))
    cube.calibration.set_origin((vacuum.truth["qx0"], vacuum.truth["qy0"]))
    cube.calibration.set_probe_semiangle(RADIUS)
    cube.prenet.probe(progress=False)
    cube.prenet.undo()
    assert "probe" not in cube.treekeys and cube.calibration.get_convergence_semiangle_pixels() is None
    assert cube.calibration.get_origin() is not None
    theirs = Probe(np.arange(64 * 60.0).reshape(64, 60))
    theirs.alpha, theirs.origin = 7.0, (32.0, 30.0)
    cube.attach(theirs)
    cube.prenet.probe(progress=False)
    cube.prenet.save(tmp_path / "with_probe.h5")
    for one in (cube, py4DSTEM.read(str(tmp_path / "with_probe.h5"))):
        one.prenet.undo()
        assert np.array_equal(one.tree("probe").data, theirs.data) and one.tree("probe").alpha == 7.0


@pytest.mark.parametrize("voltage", ["300kV", -5, float("nan")])
def test_a_voltage_must_be_a_positive_number(vacuum, voltage):
    noise = noise_for((64, 60), 1.0)
    with pytest.raises(PrenetError):
        measure_probe(vacuum.expected, 32.0, 30.0, RADIUS, noise, voltage=voltage, progress=False)
