"""Denoising with similar patterns of the scan: less error than alone, and nothing taken from other grains."""

import numpy as np
import py4DSTEM
import pytest
import torch
from scans import simulated
from torch.nn.functional import pixel_unshuffle

from py4dstem_prenet.core import ATTENUATED, Slope
from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.core.noise import NoiseModel
from py4dstem_prenet.denoising import denoiser as module
from py4dstem_prenet.denoising.denoiser import denoise
from py4dstem_prenet.detector.estimate import estimate_noise
from py4dstem_prenet.networks.denoise import MAX_CORRECTION
from py4dstem_prenet.networks.layers import AttentionGate, UnshuffledConv
from py4dstem_prenet.networks.weights import load

SMALL = dict(scan=(3, 3))


def cube(**options):
    return py4DSTEM.DataCube(np.array(simulated(**options).counts))


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_where_no_mode_keeps_a_quantity_the_counts_are_returned(monkeypatch):
    scan = simulated(**SMALL | dict(scan=(5, 5)), dose=1000.0)
    monkeypatch.setattr(module, "measure_slopes", lambda *args: {"rotation": Slope(0.5, 0.02, 3.0, ATTENUATED)})
    with pytest.warns(UserWarning):
        clean = denoise(py4DSTEM.DataCube(scan.counts), progress=False).data
    good = clean == scan.counts
    assert clean.dtype == np.float32 and good.mean() > 0.99  # bad pixels are filled in
