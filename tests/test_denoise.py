"""Denoised scans against the truth: less error, all electrons, no harm where there is nothing to gain."""

import subprocess
import sys

import numpy as np
import py4DSTEM
import pytest
from scans import CCD, simulated
from scipy.ndimage import gaussian_filter

from py4dstem_prenet import denoise as module
from py4dstem_prenet import emd
from py4dstem_prenet.denoise import denoise
from py4dstem_prenet.errors import PrenetError
from py4dstem_prenet.noise import NoiseModel, estimate_noise

SMALL = dict(scan=(3, 3))


def cube(**options):
    return py4DSTEM.DataCube(np.array(simulated(**options).counts))


def squared(image, scan):
    """Mean squared error of an image in detector units, electrons."""
    truth = scan.truth
    return float(np.mean(((image - truth["offset"]) / truth["gain"] - scan.clean) ** 2))


def best_gaussian(scan):
    """The smallest squared error that any Gaussian filter of the patterns reaches, the truth at hand."""
    return min(squared(gaussian_filter(scan.counts.astype(float), (0, 0, s, s)), scan)
               for s in (0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0))


@pytest.mark.parametrize("options", [
    dict(dose=300.0), dict(dose=10_000.0), CCD | dict(dose=10_000.0), dict(dose=10_000.0, seed=3),
    dict(dose=2000.0, shape=(64, 64), radius=4.0), dict(dose=2000.0, shape=(100, 76), radius=5.0),
    dict(dose=10_000.0, shape=(256, 256), scan=(2, 1)),
], ids=["300 e", "10 ke", "camera", "other grains", "64 x 64", "100 x 76", "256 x 256"])
def test_denoising_beats_the_best_gaussian_and_keeps_electrons(options):
    scan = simulated(**SMALL | options)
    clean = denoise(py4DSTEM.DataCube(scan.counts), progress=False).data
    assert clean.shape == scan.counts.shape and clean.dtype == np.float32
    error = squared(clean, scan)
    assert error < 0.75 * squared(scan.counts, scan)
    assert error < best_gaussian(scan)
    total = ((clean - scan.truth["offset"]) / scan.truth["gain"]).sum()
    # What counting and read-out leave unsure of the total comes on top of the per cent that denoising may cost.
    readout = scan.truth["readout"] / scan.truth["gain"] * np.sqrt(clean.size)
    assert abs(total - scan.clean.sum()) < 0.01 * scan.clean.sum() + 3 * np.sqrt(scan.clean.sum()) + 3 * readout


@pytest.mark.parametrize(("dose", "worst"), [(1e6, 1.0), (3e6, 1.1)])
def test_at_a_high_dose_it_does_no_harm(dose, worst):
    scan = simulated(**SMALL, dose=dose)
    clean = denoise(py4DSTEM.DataCube(scan.counts), progress=False).data
    assert squared(clean, scan) < worst * squared(scan.counts, scan)
    # Bounded: no pixel moves by more than six standard deviations of its noise.
    moved = 2 * (np.sqrt(clean + 0.375) - np.sqrt(scan.counts + 0.375))
    assert np.abs(moved).max() < 6.1


def test_the_unit_is_that_of_the_input():
    """The same electrons through a camera, its noise model given, give the same answer in its own unit."""
    counts = simulated(**SMALL).counts
    none = np.zeros(counts.shape[2:], bool)
    plain = denoise(py4DSTEM.DataCube(counts), NoiseModel(1.0, 0.0, 0.0, none, True, 2000.0), progress=False).data
    stored = (counts.astype(np.float32) * 12 + 100)
    camera = denoise(py4DSTEM.DataCube(stored), NoiseModel(12.0, 100.0, 0.0, none, False, 2000.0), progress=False).data
    assert np.allclose(camera, plain * 12 + 100, atol=2e-3)


def test_a_hot_pixel_is_filled_with_what_is_expected_there():
    scan = simulated(**SMALL)
    counts = np.array(scan.counts)
    counts[:, :, 40, 41] = 3000
    datacube = py4DSTEM.DataCube(counts)
    assert estimate_noise(datacube).bad_pixels[40, 41]
    clean = denoise(datacube, progress=False).data
    assert np.abs(clean[:, :, 40, 41] - scan.clean[:, :, 40, 41]).max() < 2


def test_the_company_of_other_patterns_hardly_matters():
    """Order does not; the scan's own electrons, which correct the mean, do by far less than their noise."""
    counts = simulated(**SMALL).counts
    noise = estimate_noise(counts)
    whole = denoise(py4DSTEM.DataCube(counts), noise, progress=False).data
    turned = denoise(py4DSTEM.DataCube(counts[::-1]), noise, progress=False).data
    assert np.allclose(turned, whole[::-1], atol=1e-3)
    some = denoise(py4DSTEM.DataCube(counts[::-1, :1]), noise, progress=False).data
    assert (np.abs(some - whole[::-1, :1]) / np.sqrt(whole[::-1, :1] + 0.1)).max() < 0.1


READ = """
import sys, numpy, py4DSTEM
cube = py4DSTEM.read(sys.argv[1])
assert not [name for name in sys.modules if name.startswith("py4dstem_prenet")]
assert type(cube) is py4DSTEM.DataCube
assert numpy.array_equal(cube.data, numpy.load(sys.argv[2]))
assert cube.calibration.get_Q_pixel_size() == 0.02 and cube.calibration.get_ellipse() == (1.1, 1.0, 0.3)
"""


def test_a_streamed_file_is_the_cube_in_memory_for_any_py4dstem(tmp_path):
    datacube = cube(**SMALL)
    before = datacube.data.copy()
    datacube.calibration.set_Q_pixel_size(0.02)
    datacube.calibration.set_ellipse((1.1, 1.0, 0.3))
    here = denoise(datacube, progress=False)
    there = denoise(datacube, out=tmp_path / "out.h5", progress=False)
    assert np.array_equal(there.data[...], here.data)
    assert here.calibration.get_ellipse() == there.calibration.get_ellipse() == (1.1, 1.0, 0.3)
    assert np.array_equal(datacube.data, before)
    np.save(tmp_path / "here.npy", here.data)
    subprocess.run([sys.executable, "-c", READ, tmp_path / "out.h5", tmp_path / "here.npy"], cwd=tmp_path, check=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["here.npy", "out.h5"]


def test_a_copy_shares_no_calibration():
    datacube = cube(scan=(1, 2), shape=(64, 64), radius=4.0)
    datacube.calibration.set_origin((np.ones((1, 2)), np.ones((1, 2))))
    clean = denoise(datacube, progress=False)
    clean.calibration.get_origin()[0][:] = 9
    assert (datacube.calibration.get_origin()[0] == 1).all()


def test_a_taken_path_is_refused_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "out.h5").write_text("mine")
    for name in ("load", "estimate_noise"):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("work was done"))
    datacube = cube(**SMALL)
    with pytest.raises(PrenetError, match="exists already"):
        denoise(datacube, out=tmp_path / "out.h5", progress=False)
    assert (tmp_path / "out.h5").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_a_failure_half_way_leaves_no_file(tmp_path, monkeypatch):
    def half(target, *_):
        target[0] = 1
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_fill", half)
    with pytest.raises(KeyboardInterrupt):
        denoise(cube(**SMALL), out=tmp_path / "out.h5", progress=False)
    assert not list(tmp_path.iterdir())


def test_nan_is_refused_and_leaves_no_file(tmp_path):
    datacube = cube(**SMALL)
    datacube.data = datacube.data.astype(np.float32)
    datacube.data[1, 2, 5, 5] = np.nan
    noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((128, 128), bool), True, 2000.0)
    with pytest.raises(PrenetError, match=r"\(1, 2\)"):
        denoise(datacube, noise, out=tmp_path / "out.h5", progress=False)
    assert not list(tmp_path.iterdir()) and emd.read_provenance(datacube) is None
