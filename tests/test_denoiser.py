"""Denoised scans against the truth: less error, all electrons, no harm where there is nothing to gain."""

import pickle
import subprocess
import sys

import dask.array
import h5py
import numpy as np
import py4DSTEM
import pytest
import torch
from scans import CCD, simulated
from scipy.ndimage import gaussian_filter
from torch.nn.functional import pixel_unshuffle

from py4dstem_prenet.core import ATTENUATED, Slope, reading
from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.core.noise import NoiseModel
from py4dstem_prenet.denoising import denoiser as module
from py4dstem_prenet.denoising.denoiser import denoise
from py4dstem_prenet.detector.estimate import estimate_noise
from py4dstem_prenet.io import provenance
from py4dstem_prenet.networks.denoise import MAX_CORRECTION
from py4dstem_prenet.networks.layers import AttentionGate, UnshuffledConv
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


@pytest.mark.parametrize("options", [
    dict(dose=300.0), dict(dose=10_000.0), CCD | dict(dose=10_000.0), dict(dose=10_000.0, seed=3),
    dict(dose=2000.0, shape=(64, 64), radius=4.0), dict(dose=2000.0, shape=(100, 76), radius=5.0),
    dict(dose=10_000.0, shape=(256, 256), scan=(2, 1)),
], ids=["300 e", "10 ke", "camera", "other grains", "64 x 64", "100 x 76", "256 x 256"])
def test_denoising_beats_the_best_gaussian_and_keeps_electrons(options):
    scan = simulated(**SMALL | options)
    clean = denoise(py4DSTEM.DataCube(scan.counts), scan_aware=False, progress=False).data
    assert clean.shape == scan.counts.shape and clean.dtype == np.float32
    error = squared(clean, scan)
    assert error < 0.75 * squared(scan.counts, scan)
    assert error < best_gaussian(scan)
    assert kept(clean, scan) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(("dose", "worst"), [(1e6, 1.0), (3e6, 1.1)])
def test_at_a_high_dose_it_does_no_harm(dose, worst):
    scan = simulated(**SMALL, dose=dose)
    clean = denoise(py4DSTEM.DataCube(scan.counts), scan_aware=False, progress=False).data
    assert squared(clean, scan) < worst * squared(scan.counts, scan)
    # Bounded: no pixel moves by more than six standard deviations of its noise.
    moved = 2 * (np.sqrt(clean + 0.375) - np.sqrt(scan.counts + 0.375))
    assert np.abs(moved).max() < 6.1


def test_bfloat16_changes_the_result_by_far_less_than_noise(monkeypatch):
    scan, results = simulated(dose=3000, scan=(6, 6), shape=(64, 64), radius=5.0, seed=4), []
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


READ = """
import sys, numpy, py4DSTEM
cube = py4DSTEM.read(sys.argv[1])
assert not [name for name in sys.modules if name.startswith("py4dstem_prenet")]
assert type(cube) is py4DSTEM.DataCube
assert numpy.array_equal(cube.data, numpy.load(sys.argv[2]))
assert cube.calibration.get_Q_pixel_size() == 0.02 and cube.calibration.get_ellipse() == (1.1, 1.0, 0.3)
"""


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gzip", "dask", "memmap"])
def test_lazy_data_give_what_they_give_in_memory(tmp_path, kind):
    counts = np.array(simulated(scan=(3, 3), shape=(64, 64), radius=4.0).counts)
    known = denoise(py4DSTEM.DataCube(counts), progress=False).data
    if kind == "gzip":
        lazy = h5py.File(tmp_path / "a.h5", "w").create_dataset("a", data=counts, chunks=(2, 1, 32, 64), compression=5)
    elif kind == "dask":
        lazy = dask.array.from_array(counts, chunks=(2, 2, 64, 32))
    else:
        np.save(tmp_path / "a.npy", counts)
        lazy = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert np.array_equal(denoise(py4DSTEM.DataCube(lazy), progress=False).data, known)


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


# --- with the scan around


def two_grains(dose, seed=0):
    """A scan of 8 x 8 over two grains, one pattern each, moved by the descan: counts, expected electrons, origin."""
    generator = np.random.default_rng(seed)
    scan = simulated(scan=(2, 2), dose=1.0, amplitude=0.0, seed=3)
    one, other = scan.clean[0, 0], scan.clean[-1, -1]
    assert np.abs(one - other).sum() > 0.05
    rows, columns = np.meshgrid(np.arange(8), np.arange(8), indexing="ij")
    # Whole pixels, so that the patterns repeat exactly; what parts of a pixel do is in test_neighbors.
    dx, dy = rows // 2 - 2, columns // 3 - 1
    clean = np.array([np.roll(one if c < 4 + (r > 4) else other, (x, y), (0, 1)) for r, c, x, y in
                      zip(rows.flat, columns.flat, dx.flat, dy.flat, strict=True)]).reshape(8, 8, 128, 128) * dose
    origin = (scan.truth["qx0"][0, 0] + dx, scan.truth["qy0"][0, 0] + dy)
    return generator.poisson(clean).astype(np.uint16), clean, origin


@pytest.mark.slow
@pytest.mark.parametrize(("dose", "gain"), [(100.0, 0.45), (3000.0, 0.5)])
def test_a_scan_tells_more_than_its_patterns(dose, gain):
    counts, clean, origin = two_grains(dose)
    datacube = py4DSTEM.DataCube(counts)
    datacube.calibration.set_origin(origin)
    noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((128, 128), bool), True, dose)
    alone, aware, chosen = (denoise(datacube, noise, scan_aware=mode, progress=False).data
                            for mode in (False, True, "auto"))
    assert ((aware - clean) ** 2).sum() < gain * ((alone - clean) ** 2).sum()
    assert np.array_equal(chosen, aware)
    for image in (alone, aware):
        assert image.sum(dtype=float) == pytest.approx(counts.sum(), rel=1e-4)


def test_without_a_beam_there_is_no_frame_and_patterns_stay_alone():
    counts = np.random.default_rng(0).poisson(0.3, (4, 4, 64, 64)).astype(np.uint16)
    noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((64, 64), bool), True, 1200.0)
    datacube = py4DSTEM.DataCube(counts)
    assert module.smooth_origins(datacube, noise) is None
    aware, alone = (denoise(datacube, noise, scan_aware=mode, progress=False).data for mode in (True, False))
    assert np.array_equal(aware, alone)


def test_the_origin_of_the_calibration_is_used_where_there_is_one(monkeypatch):
    datacube = cube(**SMALL)
    known = [np.arange(9.0).reshape(3, 3) + k for k in (60, 61)]
    datacube.calibration.set_origin(known)
    monkeypatch.setattr(module, "measure_origin", lambda *_, **__: pytest.fail("measured"))
    assert np.array_equal(module.smooth_origins(datacube, estimate_noise(datacube)), np.stack(known, -1).reshape(-1, 2))


@pytest.mark.slow
def test_an_origin_of_other_data_is_not_used():
    """py4DSTEM's bin_Q leaves the origin where it was in the larger patterns."""
    datacube = cube()
    datacube.prenet.calibrate(progress=False)
    datacube.bin_Q(2)
    found = module.smooth_origins(datacube, estimate_noise(datacube)).reshape(6, 6, 2)
    truth = simulated().truth
    assert np.hypot(found[..., 0] - truth["qx0"] / 2, found[..., 1] - truth["qy0"] / 2).mean() < 0.5


@pytest.mark.slow
def test_a_measured_descan_is_smooth_and_true():
    scan = simulated()
    found = module.smooth_origins(py4DSTEM.DataCube(scan.counts), estimate_noise(scan.counts)).reshape(6, 6, 2)
    assert np.hypot(found[..., 0] - scan.truth["qx0"], found[..., 1] - scan.truth["qy0"]).mean() < 0.15


def test_a_mode_that_is_not_known_is_refused():
    with pytest.raises(PrenetError):
        denoise(cube(**SMALL), scan_aware="yes", progress=False)


def seen(dose=200.0, seed=0):
    generator = np.random.default_rng(seed)
    clean = simulated(scan=(2, 2), dose=dose, seed=3).clean.reshape(4, 128, 128)
    return (torch.from_numpy(generator.poisson(clean).astype(np.float32)), torch.zeros(4),
            torch.ones(4, 128, 128, dtype=torch.bool), clean)


def test_neighbors_that_are_worth_nothing_are_no_neighbors():
    electrons, readout, good, _ = seen()
    network = load("denoise")
    alone = network(electrons, readout, good)
    junk = torch.rand(4, 128, 128) * 50
    assert torch.allclose(network(electrons, readout, good, junk, torch.zeros(4)), alone, atol=1e-5)
    some = network(electrons, readout, good, electrons.mean(0, keepdim=True).expand(4, -1, -1),
                   torch.tensor([0.0, 3.0, 0.0, 3.0]))
    assert torch.allclose(some[::2], alone[::2], atol=1e-5)
    assert not torch.allclose(some[1::2], alone[1::2], atol=1e-2)


def test_what_makes_it_fast_gives_the_same():
    """A stem that moves no pixels, a gate that mixes before it enlarges, and sums in place where nothing is learned."""
    torch.manual_seed(0)
    stem, gate = UnshuffledConv(12, 5), AttentionGate(6)
    x = torch.randn(2, 3, 16, 24)
    plain = torch.nn.functional.conv2d(pixel_unshuffle(x, 2), stem.weight, stem.bias, padding=1)
    assert torch.allclose(stem(x), plain, atol=1e-5)
    skip, coarse = torch.randn(2, 6, 8, 12), torch.randn(2, 6, 4, 6)
    mixed = gate.mix(torch.cat([skip, coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)], 1))
    weighed = skip * torch.sigmoid(gate.weight(torch.nn.functional.silu(mixed)))
    assert torch.allclose(gate(skip, coarse), weighed, atol=1e-5)
    with torch.inference_mode():
        assert torch.allclose(gate(skip, coarse), weighed, atol=1e-5)
    electrons, readout, good, _ = seen()
    several = electrons, readout, good, electrons.flip(0), torch.tensor([0.0, 3.0, 5.0, 8.0])
    learning = load("denoise")(*several)
    with torch.inference_mode():
        assert torch.allclose(load("denoise")(*several), learning, atol=1e-4)
        apart = torch.cat([load("denoise")(*(part[k : k + 1] for part in several)) for k in range(4)])
    assert torch.allclose(apart, learning, atol=1e-4)


def test_no_neighbors_move_a_pixel_by_more_than_the_bound():
    electrons, readout, good, _ = seen(dose=1e5)
    wrong = electrons.flip(1, 2) * 3
    clean = load("denoise")(electrons, readout, good, wrong, torch.full((4,), 100.0))
    moved = 2 * ((clean + 0.375).sqrt() - (electrons + 0.375).sqrt())
    assert moved.abs().max() < MAX_CORRECTION + 0.1


def test_peaks_of_another_grain_are_not_invented():
    """Half of the neighbors show a disk that this pattern does not have: what is left of it is far below its noise."""
    electrons, readout, good, clean = seen(dose=10_000.0)
    x, y = np.meshgrid(np.arange(128) - 100, np.arange(128) - 30, indexing="ij")
    disk = torch.from_numpy((np.hypot(x, y) < 6).astype(np.float32))
    clean = torch.tensor(clean)
    neighbors = clean + 3.0 * disk
    network = load("denoise")
    there = (network(electrons, readout, good, neighbors, torch.full((4,), 20.0)) * disk).sum((1, 2)) / disk.sum()
    truth = (clean * disk).sum((1, 2)) / disk.sum()
    assert (there - truth).max() < 0.5


def test_where_no_mode_keeps_a_quantity_the_counts_are_returned(monkeypatch):
    scan = simulated(**SMALL | dict(scan=(5, 5)), dose=1000.0)
    monkeypatch.setattr(module, "measure_slopes", lambda *args: {"rotation": Slope(0.5, 0.02, 3.0, ATTENUATED)})
    with pytest.warns(UserWarning):
        clean = denoise(py4DSTEM.DataCube(scan.counts), progress=False).data
    good = clean == scan.counts
    assert clean.dtype == np.float32 and good.mean() > 0.99  # bad pixels are filled in
