"""Kept patterns read like the scan; a calibration reads its file once for origin and pooling."""

import numpy as np
import py4DSTEM
import pytest
from py4dstem_prenet.core.sample import Sample
from scans import simulated

from py4dstem_prenet.core import reading
from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.core.sampling import evenly, sample_positions
from py4dstem_prenet.detector import estimate
from py4dstem_prenet.detector.estimate import estimate_noise
from py4dstem_prenet.fits import pooling
from py4dstem_prenet.fits.pooling import pool, worth_keeping
from py4dstem_prenet.origin import beam, coarse
from py4dstem_prenet.pipeline import calibrate


class Counting:
    """A scan that lies somewhere else than in memory, and counts how often each of its patterns is read."""

    def __init__(self, data):
        self._data, self.reads = data, np.zeros(data.shape[:2], int)
        self.shape, self.dtype, self.ndim = data.shape, data.dtype, data.ndim

    def __getitem__(self, key):
        self.reads[key] += 1
        return self._data[key]


@pytest.fixture
def scan():
    return simulated(scan=(12, 12), shape=(64, 64), dose=5000.0).counts


def kept(scan, positions):
    return Sample(scan.shape[:2], np.asarray(positions), scan.reshape(-1, *scan.shape[2:])[positions])


def test_what_is_pooled_is_kept_when_the_origin_is_measured(scan, monkeypatch):
    """Beside the pass of the origin only the small samples of the first stages are read; the result is the same."""
    for module, name in ((estimate, "MAX_NOISE_POSITIONS"), (beam, "SAMPLE")):
        monkeypatch.setattr(module, name, 16)
    monkeypatch.setattr(coarse, "PER_BLOCK", 1)
    monkeypatch.setattr(pooling, "MIN_POOLED_POSITIONS", 36)
    monkeypatch.setattr(pooling, "POOLED_ELECTRONS", 0)
    stored = Counting(scan)
    once = calibrate(py4DSTEM.DataCube(stored), device="cpu", progress=False)
    early = 64 + 2 * len(sample_positions((12, 12), 16))
    assert stored.reads.min() == 1 and stored.reads.sum() == stored.reads.size + early
    monkeypatch.setattr(pooling, "MAX_KEPT_BYTES", 1000)  # too little: pooled patterns are read again
    stored = Counting(scan)
    twice = calibrate(py4DSTEM.DataCube(stored), device="cpu", progress=False)
    again = twice.origin.valid.ravel()[sample_positions((12, 12), 36)].sum()
    assert stored.reads.sum() == stored.reads.size + early + again and again > 30
    assert np.array_equal(once.origin.qx0, twice.origin.qx0)
    assert np.array_equal(once.ellipse.vector, twice.ellipse.vector)


def test_what_lies_in_memory_is_not_kept_twice(scan):
    assert len(worth_keeping(scan, 5000.0)) == 0 and len(worth_keeping(Counting(scan), 5000.0)) == 144


def test_a_sample_reads_like_the_scan(scan):
    some = kept(scan, [0, 1, 5, 12, 13, 143])
    assert some.shape == scan.shape and some.dtype == scan.dtype
    assert np.array_equal(some[:2, :2], scan[:2, :2])
    read = {int(i): p for index, block in reading.patterns(some, positions=[1, 5, 143]) for i, p in
            zip(index, block, strict=True)}
    assert list(read) == [1, 5, 143] and all(np.array_equal(p, scan[divmod(i, 12)]) for i, p in read.items())
    with pytest.raises(PrenetError, match="does not hold"):
        some[:2, :3]


def test_pooling_a_sample_is_pooling_the_scan_bit_for_bit(scan, monkeypatch):
    monkeypatch.setattr(pooling, "MIN_POOLED_POSITIONS", 36)
    monkeypatch.setattr(pooling, "POOLED_ELECTRONS", 0)
    model, origin = estimate_noise(scan), np.full((12, 12), 31.3)
    whole = pool(scan, origin, origin, model)
    some = pool(kept(scan, sample_positions((12, 12), 36)), origin, origin, model)
    assert np.array_equal(whole.mean, some.mean) and np.array_equal(whole.parts, some.parts)


def test_an_even_sample_is_the_grid_where_that_is_there(scan):
    grid = sample_positions((12, 12), 9)
    assert np.array_equal(evenly(scan, 9), grid)
    assert np.array_equal(evenly(kept(scan, np.union1d(grid, [0, 1, 2])), 9), grid)
    assert evenly(kept(scan, np.arange(10, 40)), 9).tolist() == [10, 13, 17, 20, 24, 28, 31, 35, 39]
