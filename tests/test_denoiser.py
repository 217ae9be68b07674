"""Denoised scans against the truth: less error, all electrons, no harm where there is nothing to gain."""

import pickle

import dask.array
import h5py
import numpy as np
import py4DSTEM
import pytest
import torch
from scans import CCD, others_slow, simulated
from scipy.ndimage import gaussian_filter

from py4dstem_prenet.core import reading
from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.core.noise import NoiseModel
from py4dstem_prenet.denoising import denoiser as module
from py4dstem_prenet.denoising.denoiser import denoise
from py4dstem_prenet.detector.estimate import estimate_noise
from py4dstem_prenet.io import provenance
from py4dstem_prenet.networks.weights import load

SMALL = dict(scan=(3, 3))


def cube(**options):
    return py4DSTEM.DataCube(np.array(simulated(**options).counts))


def squared(image, scan):
    """Mean squared error of an image in detector units, electrons."""
    truth = scan.truth
    return float(np.mean(((image - truth["offset"]) / truth["gain"] - scan.clean) ** 2))


def kept(clean, scan):
    """Electrons in the result over electrons in the data."""
    clean, counts = (((image.astype(float) - scan.truth["offset"]) / scan.truth["gain"]).sum()
                     for image in (clean, scan.counts))
    return clean / counts


def best_gaussian(scan):
    """The smallest squared error that any Gaussian filter of the patterns reaches, the truth at hand."""
    return min(squared(gaussian_filter(scan.counts.astype(float), (0, 0, s, s)), scan)
               for s in (0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0))


@pytest.mark.parametrize("options", others_slow([
    dict(dose=300.0), dict(dose=10_000.0), CCD | dict(dose=10_000.0, seed=3),
    dict(dose=2000.0, shape=(64, 64), radius=4.0), dict(dose=2000.0, shape=(100, 76), radius=5.0),
    dict(dose=10_000.0, shape=(256, 256), scan=(2, 1)),
]), ids=["300 e", "10 ke", "camera, other grains", "64 x 64", "100 x 76", "256 x 256"])
def test_denoising_beats_the_best_gaussian_and_keeps_electrons(options):
    scan = simulated(**SMALL | options)
    clean = denoise(py4DSTEM.DataCube(scan.counts), scan_aware=False, progress=False).data
    assert clean.shape == scan.counts.shape and clean.dtype == np.float32
    error = squared(clean, scan)
    assert error < 0.75 * squared(scan.counts, scan)
    assert error < best_gaussian(scan)
    assert kept(clean, scan) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(("dose", "worst"), others_slow([(1e6, 1.0), (3e6, 1.1)]))
def test_at_a_high_dose_it_does_no_harm(dose, worst):
    scan = simulated(**SMALL, dose=dose)
    clean = denoise(py4DSTEM.DataCube(scan.counts), scan_aware=False, progress=False).data
    assert squared(clean, scan) < worst * squared(scan.counts, scan)
    # Bounded: no pixel moves by more than six standard deviations of its noise.
    moved = 2 * (np.sqrt(clean + 0.375) - np.sqrt(scan.counts + 0.375))
    assert np.abs(moved).max() < 6.1


@pytest.mark.slow
def test_bfloat16_changes_the_result_by_far_less_than_noise(monkeypatch):
    scan, results = simulated(dose=3000, scan=(4, 4), shape=(64, 64), radius=5.0, seed=4), []
    for half in (False, True):
        monkeypatch.setattr(module, "has_fast_bfloat16", lambda device, half=half: half)
        results.append(np.asarray(denoise(py4DSTEM.DataCube(scan.counts), progress=False).data, float))
    exact, fast = results
    assert not np.array_equal(exact, fast)
    difference = np.sum((exact - fast) ** 2) / scan.clean.sum()
    assert difference < 0.02**2  # measured: 0.001 to 0.0065 standard deviations of the counts (rms)
    assert np.sum((fast - scan.clean) ** 2) < 1.02 * np.sum((exact - scan.clean) ** 2)


def test_the_unit_is_that_of_the_input():
    """The same electrons through a camera, its noise model given, give the same answer in its own unit."""
    counts = simulated(**SMALL).counts
    none = np.zeros(counts.shape[2:], bool)
    options = dict(scan_aware=False, progress=False)
    plain = denoise(py4DSTEM.DataCube(counts), NoiseModel(1.0, 0.0, 0.0, none, True, 2000.0), **options).data
    stored = (counts.astype(np.float32) * 12 + 100)
    camera = denoise(py4DSTEM.DataCube(stored), NoiseModel(12.0, 100.0, 0.0, none, False, 2000.0), **options).data
    assert np.allclose(camera, plain * 12 + 100, atol=2e-3)


def test_a_hot_pixel_is_filled_with_what_is_expected_there():
    scan = simulated(**SMALL)
    counts = np.array(scan.counts)
    counts[:, :, 40, 41] = 3000
    datacube = py4DSTEM.DataCube(counts)
    assert estimate_noise(datacube).bad_pixels[40, 41]
    clean = denoise(datacube, scan_aware=False, progress=False).data
    assert np.abs(clean[:, :, 40, 41] - scan.clean[:, :, 40, 41]).max() < 2


def test_alone_the_company_of_other_patterns_hardly_matters():
    """Order does not; the scan's own electrons, which correct the mean, do by far less than their noise."""
    counts = simulated(**SMALL).counts
    noise = estimate_noise(counts)
    options = dict(scan_aware=False, progress=False)
    whole = denoise(py4DSTEM.DataCube(counts), noise, **options).data
    turned = denoise(py4DSTEM.DataCube(counts[::-1]), noise, **options).data
    assert np.allclose(turned, whole[::-1], atol=1e-3)
    some = denoise(py4DSTEM.DataCube(counts[::-1, :1]), noise, **options).data
    assert (np.abs(some - whole[::-1, :1]) / np.sqrt(whole[::-1, :1] + 0.1)).max() < 0.1


@pytest.mark.slow
def test_a_streamed_file_is_the_cube_in_memory(tmp_path):
    """That py4DSTEM reads such files without this package: test_emd."""
    datacube = cube(**SMALL, shape=(64, 64), radius=4.0)
    before = datacube.data.copy()
    datacube.calibration.set_Q_pixel_size(0.02)
    datacube.calibration.set_ellipse((1.1, 1.0, 0.3))
    here = denoise(datacube, progress=False)
    there = denoise(datacube, out=tmp_path / "out.h5", progress=False)
    assert np.array_equal(there.data[...], here.data)
    assert here.calibration.get_ellipse() == there.calibration.get_ellipse() == (1.1, 1.0, 0.3)
    assert np.array_equal(datacube.data, before)
    again = py4DSTEM.read(tmp_path / "out.h5")
    assert type(again) is py4DSTEM.DataCube and np.array_equal(again.data, here.data)
    assert again.calibration.get_Q_pixel_size() == 0.02 and again.calibration.get_ellipse() == (1.1, 1.0, 0.3)
    assert [p.name for p in tmp_path.iterdir()] == ["out.h5"]


@pytest.mark.slow
def test_lazy_data_give_what_they_give_in_memory(tmp_path):
    counts = np.array(simulated(scan=(3, 3), shape=(64, 64), radius=4.0).counts)
    known = denoise(py4DSTEM.DataCube(counts), progress=False).data
    np.save(tmp_path / "a.npy", counts)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        lazy = (file.create_dataset("a", data=counts, chunks=(2, 1, 32, 64), compression=5),
                dask.array.from_array(counts, chunks=(2, 2, 64, 32)), np.load(tmp_path / "a.npy", mmap_mode="r"))
        for data in lazy:
            assert np.array_equal(denoise(py4DSTEM.DataCube(data), progress=False).data, known)


@pytest.mark.slow
def test_a_copy_shares_no_calibration():
    datacube = cube(scan=(1, 2), shape=(64, 64), radius=4.0)
    datacube.calibration.set_origin((np.ones((1, 2)), np.ones((1, 2))))
    clean = denoise(datacube, progress=False)
    clean.calibration.get_origin()[0][:] = 9
    assert (datacube.calibration.get_origin()[0] == 1).all()


def test_a_taken_path_is_refused_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "out.h5").write_text("mine")
    for where, name in ((module, "load"), (module, "noise_of")):
        monkeypatch.setattr(where, name, lambda *_: pytest.fail("work was done"))
    datacube = cube(**SMALL)
    with pytest.raises(PrenetError):
        denoise(datacube, out=tmp_path / "out.h5", progress=False)
    assert (tmp_path / "out.h5").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_a_run_that_is_cut_off_leaves_nothing_that_looks_whole_and_is_resumed(tmp_path, monkeypatch):
    datacube = cube(**SMALL)
    monkeypatch.setattr(reading, "BLOCK_BYTES", 3 * 4 * 128**2)  # three patterns
    straight = denoise(datacube, scan_aware=False, progress=False).data
    clean, calls = module._clean, []

    def cut(index, *args, **options):
        calls.append(index)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return clean(index, *args, **options)

    out = tmp_path / "out.h5"
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(module, "_clean", cut)
            with pytest.raises(KeyboardInterrupt):
                denoise(datacube, out=out, scan_aware=False, progress=False)
        assert not out.exists()
        first = calls[0]
        monkeypatch.setattr(module, "_clean", lambda index, *a, **o: calls.append(index) or clean(index, *a, **o))
        there = denoise(datacube, out=out, scan_aware=False, progress=False).data[...]
    finally:
        torch.set_num_threads(torch_threads)
    assert np.array_equal(there, straight)
    assert not any(np.array_equal(first, index) for index in calls[1:])
    assert [p.name for p in tmp_path.iterdir()] == ["out.h5"]


def test_each_worker_decides_on_its_own_device(monkeypatch):
    """What goes to workers says "auto", and one whose choice is another device loads its network there."""
    sent, loaded = [], []
    map_chunks = module.map_chunks
    monkeypatch.setattr(module, "map_chunks", lambda f, *a, **o: sent.append(pickle.dumps(f)) or map_chunks(f, *a, **o))
    datacube = cube(scan=(1, 2), shape=(64, 64), radius=4.0)
    clean = denoise(datacube, scan_aware=False, progress=False).data
    work = pickle.loads(sent[0])
    monkeypatch.setattr(module, "pick_device", lambda device: torch.device({"auto": "cpu:0"}[device]))
    monkeypatch.setattr(module, "load", lambda name, device: loaded.append(device) or load(name))
    assert np.array_equal(work(np.arange(2), datacube.data[0]), clean[0])
    assert loaded == ["cpu:0"]


def test_nan_is_refused_and_leaves_no_file(tmp_path):
    datacube = cube(**SMALL)
    datacube.data = datacube.data.astype(np.float32)
    datacube.data[1, 2, 5, 5] = np.nan
    noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((128, 128), bool), True, 2000.0)
    with pytest.raises(PrenetError):
        denoise(datacube, noise, out=tmp_path / "out.h5", progress=False)
    assert not list(tmp_path.iterdir()) and provenance.read_provenance(datacube) is None
