"""How scans are read: every pattern once, in bounded memory, storage chunk by storage chunk; and what is kept."""

import os
import threading
from contextlib import closing, nullcontext

import h5py
import numpy as np
import py4DSTEM
import pytest
from hypothesis import given, settings, strategies as st
from scans import simulated

from py4dstem_prenet.core import memory, reading
from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.core.reading import plan_reading
from py4dstem_prenet.core.sampling import sample_positions, spread_positions
from py4dstem_prenet.core.scan import SampledScan, as_scan
from py4dstem_prenet.detector import estimate
from py4dstem_prenet.detector.estimate import estimate_noise
from py4dstem_prenet.fits import pooling
from py4dstem_prenet.fits.pooling import pool, worth_keeping
from py4dstem_prenet.origin import coarse, decide, learn
from py4dstem_prenet.pipeline import calibrate

SHAPE = (5, 7, 32, 34)


@pytest.fixture(scope="module")
def cube():
    return np.random.default_rng(0).integers(0, 60000, SHAPE).astype(np.uint16)


class Dataset:
    """Slices like an h5py dataset and counts how often each storage chunk along the scan is read."""

    def __init__(self, values, chunks):
        self.values, self.chunks, self.shape, self.dtype = values, (*chunks, 8, 8), values.shape, values.dtype
        self.reads = np.zeros([-(-values.shape[k] // chunks[k]) for k in (0, 1)], int)

    def __getitem__(self, key):
        rows, columns = (np.unique(np.arange(self.shape[k])[key[k]] // self.chunks[k]) for k in (0, 1))
        self.reads[np.ix_(rows, columns)] += 1
        return self.values[key]


def blocks_of(data, **options):
    return as_scan(data).blocks(**options)


def gather(data, **options):
    """All blocks put back in their places, and how often each position came."""
    shape = as_scan(data).shape
    out, seen = np.zeros((shape[0] * shape[1], *shape[2:]), np.float64), np.zeros(shape[0] * shape[1], int)
    for index, block in blocks_of(data, **options):
        assert index.dtype == np.int64 and (np.diff(index) > 0).all()
        assert block.dtype.isnative
        out[index] = block
        np.add.at(seen, index, 1)
    return out.reshape(shape), seen


@settings(max_examples=40, deadline=None)
@given(*(st.integers(1, n) for n in (9, 9, 5, 5, 20)), st.data())
def test_no_storage_chunk_is_read_twice_and_blocks_stay_small(rx, ry, cx, cy, chunk, draw):
    values = np.arange(rx * ry, dtype=np.int32)[:, None, None] * np.ones((32, 32), np.int32)
    data = Dataset(values.reshape(rx, ry, 32, 32), (min(cx, rx), min(cy, ry)))
    wanted = draw.draw(st.one_of(st.none(), st.sets(st.integers(0, rx * ry - 1)).map(sorted)))
    count = 0
    for index, block in blocks_of(data, chunk=chunk, positions=wanted):
        assert len(index) == len(block) <= chunk
        assert (block[:, 5, 7] == index).all()
        count += len(index)
    assert count == (rx * ry if wanted is None else len(wanted))
    assert data.reads.max() <= 1


@pytest.mark.parametrize(("scan", "chunk"), [((256, 256), None), ((128, 2000), None), ((90, 2047), (1, 16)),
                                             ((65, 1025), None), ((40, 3000), (3, 7)), ((2, 5000), None)])
def test_blocks_of_a_large_scan_are_nearly_square_tiles_of_one_size(monkeypatch, scan, chunk):
    """What is near in the scan comes in one block: neighbors.py looks for a pattern's like there."""
    monkeypatch.setattr(reading, "BLOCK_BYTES", 1024 * 32 * 32 * 4)
    monkeypatch.setenv(memory.MEMORY, "1")
    data = np.broadcast_to(np.uint16(0), (*scan, 32, 32)) if chunk is None else Dataset(
        np.broadcast_to(np.uint16(0), (*scan, 32, 32)), chunk)
    seen, sides = np.zeros(scan, int), []
    _, total, jobs = plan_reading(as_scan(data))
    for job in jobs:
        assert len(job.index) <= 1024
        seen[job.tile] += 1
        sides.append([len(np.unique(part)) for part in np.divmod(job.index, scan[1])])
    assert total == seen.size and (seen == 1).all()
    assert np.min(sides) >= min(18, *scan)
    assert np.median(np.prod(sides, 1)) > 500


def test_memory_is_bounded_even_by_one_huge_storage_chunk(monkeypatch, cube):
    monkeypatch.setattr(reading, "BLOCK_BYTES", 3 * 32 * 34 * 4)
    for data in (cube, Dataset(cube, (5, 7)), Dataset(cube, (1, 2))):
        sizes = [len(i) for i, _ in blocks_of(data)]
        assert max(sizes) <= 3 and sum(sizes) == 35


@pytest.mark.parametrize("rx, ry, rows, columns", [(12, 10, 12, 10), (24, 10, 12, 10), (13, 11, 13, 11), (8, 16, 8, 8)])
@pytest.mark.parametrize("some", [False, True])
def test_a_chunk_larger_than_the_budget_is_unpacked_as_seldom_as_that_allows(monkeypatch, rx, ry, rows, columns, some):
    pattern = 32 * 32 * 2
    monkeypatch.setenv(memory.MEMORY, str(4 * 30 * pattern / 2**30))  # 30 patterns in one quarter of the budget
    data = Dataset(np.zeros((rx, ry, 32, 32), np.uint16), (rows, columns))
    sizes = [len(index) for index, _ in blocks_of(data, positions=np.arange(rx * ry) if some else None)]
    assert max(sizes) <= 30 and sum(sizes) == rx * ry
    assert data.reads.max() <= 1.5 * np.ceil(rows * columns / 30)


def test_a_huge_unpacked_chunk_is_read_in_parts(monkeypatch, cube, tmp_path):
    monkeypatch.setenv(memory.MEMORY, str(4 * 3 * 32 * 34 * 2 / 2**30))
    read = []
    with h5py.File(tmp_path / "a.h5", "w") as file:
        plain = file.create_dataset("plain", data=cube, chunks=SHAPE)
        packed = file.create_dataset("packed", data=cube, chunks=SHAPE, compression="gzip")
        for dataset in (plain, packed):
            _, _, jobs = plan_reading(as_scan(dataset))
            read.append([len(job.index) for job in jobs])
            np.testing.assert_array_equal(gather(dataset)[0], cube)
    assert max(read[0]) == 1 and max(read[1]) == 3


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="memory is told by Linux")
def test_memory_does_not_grow_with_the_file(tmp_path):
    """A quarter of a gigabyte of zeros, mapped: pages of the file may stay in memory, ours may not."""

    def own():
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024

    data = np.memmap(tmp_path / "a", np.uint16, "w+", shape=(64, 64, 128, 256))
    before, largest = own(), 0
    for _, _ in blocks_of(data, chunk=64):
        largest = max(largest, own())
    assert largest - before < 40


def test_the_budget_is_a_quarter_of_what_is_free_unless_it_is_given(monkeypatch):
    monkeypatch.setattr(memory, "_free", lambda *_: 8 * 2**30)
    monkeypatch.delenv(memory.MEMORY, raising=False)
    assert memory.budget() == 2 * 2**30
    monkeypatch.setenv(memory.MEMORY, "0.5")
    assert memory.budget() == 2**29
    for wrong in ("", "-1", "8GB", "nan"):
        monkeypatch.setenv(memory.MEMORY, wrong)
        with pytest.raises(PrenetError):
            memory.budget()


@pytest.mark.parametrize("positions", [None, np.arange(1, 35, 2)])
def test_what_is_done_is_left_out_and_the_rest_comes_in_the_same_blocks(cube, positions):
    blocks = [index for index, _ in blocks_of(cube, chunk=3, positions=positions)]
    done = np.zeros(35, bool)
    done[np.concatenate(blocks[1:3])] = True
    done[blocks[4][0]] = True
    again = [index for index, _ in blocks_of(cube, chunk=3, positions=positions, skip=done)]
    assert [list(i) for i in again] == [list(i) for i in (blocks[0], *blocks[3:])]


def test_a_block_is_the_callers_own(cube):
    before = cube.copy()
    for options in ({}, {"positions": [0, 1, 2]}):
        for _, block in blocks_of(cube, **options):
            block[:] = 0
    np.testing.assert_array_equal(cube, before)


def test_closing_early_leaves_no_thread_and_the_file_can_be_closed(cube, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        blocks = blocks_of(file.create_dataset("d", data=cube), chunk=2)
        next(blocks)
        blocks.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("prenet-read")]


def test_an_error_while_reading_reaches_the_caller():
    class Broken(Dataset):
        def __getitem__(self, key):
            if key[0].start > 0:
                raise OSError("disk gone")
            return super().__getitem__(key)

    with pytest.raises(PrenetError, match=r"\(1, 0\).*disk gone"):
        list(blocks_of(Broken(np.zeros(SHAPE, np.uint8), (1, 7)), chunk=7))
    assert not [t for t in threading.enumerate() if t.name.startswith("prenet-read")]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named_with_its_position(cube, value):
    data = cube.astype(np.float32)
    data[3, 2, 10, 11] = value
    with pytest.raises(PrenetError, match=r"\(3, 2\)"):
        list(blocks_of(data))
    assert len(list(blocks_of(data, positions=[0, 22, 24]))) == 1  # (3, 2) is 23: it can be left out


@pytest.mark.parametrize("positions", [[], [0], [2, 3, 17, 34]])
def test_patterns_at_some_positions_come_in_their_order(cube, positions):
    found = as_scan(cube.astype(">u2")).read(positions)
    np.testing.assert_array_equal(found, cube.reshape(35, *cube.shape[2:])[positions])
    assert found.dtype == np.uint16 and found.dtype.isnative


@pytest.mark.parametrize("positions", [[3, 1], [1, 1], [-1, 2], [35]])
def test_positions_outside_or_out_of_order_are_refused(cube, positions):
    with pytest.raises(PrenetError):
        list(blocks_of(cube, positions=positions))


def test_a_damaged_chunk_is_told_with_its_place(tmp_path):
    """The second of two chunks, damaged where it is compressed."""
    path = tmp_path / "a.h5"
    data = np.random.default_rng(0).integers(0, 200, (2, 2, 40, 40)).astype(np.uint8)
    with h5py.File(path, "w") as file:
        stored = file.create_dataset("data", data=data, chunks=(1, 2, 40, 40), compression="gzip")
        place = stored.id.get_chunk_info(1).byte_offset
    content = bytearray(path.read_bytes())
    content[place : place + 40] = bytes(40)
    path.write_bytes(content)
    with h5py.File(path) as file, pytest.raises(PrenetError) as caught:
        list(blocks_of(file["data"], chunk=2))
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence
    for place in (str(path), "/data", "(1, 0)", "(1, 1)"):
        assert place in sentence


@pytest.mark.parametrize("kind", ["npy", "h5"])
def test_a_file_written_while_it_is_read_is_told(kind, tmp_path):
    """In place: in the middle of a pass, or cut short, which would end a process that has it mapped. Not one that
    another takes the place of."""
    path, data = tmp_path / f"a.{kind}", np.ones((4, 3, 40, 40), np.uint8)

    def write(path):
        if kind == "npy":
            np.save(path, data)
        else:
            with h5py.File(path, "w") as file:
                file.create_dataset("data", data=data, chunks=(1, 3, 40, 40))

    def read(meanwhile):
        write(path)
        with closing(h5py.File(path, "r")) if kind == "h5" else nullcontext({}) as file:
            array = file["data"] if kind == "h5" else np.load(path, mmap_mode="r")
            for n, _ in enumerate(blocks_of(array, chunk=3)):
                if n == 0:
                    meanwhile()

    def overwrite():
        os.utime(path, ns=(0, 0))  # clocks of file systems may stand still for some milliseconds
        with open(path, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"2")

    def replace():
        write(tmp_path / f"b.{kind}")
        os.replace(tmp_path / f"b.{kind}", path)

    # The first two of four blocks may have been read by then: they are left.
    for meanwhile in (overwrite, lambda: os.truncate(path, 12000)):
        with pytest.raises(PrenetError):
            read(meanwhile)
    read(replace)


# --- patterns that are kept of a scan


class Counting:
    """A scan that lies somewhere else than in memory, and counts how often each of its patterns is read."""

    def __init__(self, data):
        self._data, self.reads = data, np.zeros(data.shape[:2], int)
        self.shape, self.dtype, self.ndim = data.shape, data.dtype, data.ndim

    def __getitem__(self, key):
        self.reads[key] += 1
        return self._data[key]


@pytest.fixture
def counts():
    return simulated(scan=(12, 12), shape=(64, 64), dose=5000.0).counts


def kept(counts, positions):
    return SampledScan(counts.shape[:2], np.asarray(positions), counts.reshape(-1, *counts.shape[2:])[positions])


@pytest.mark.slow
def test_what_is_pooled_is_kept_when_the_origin_is_measured(counts, monkeypatch):
    """Beside the pass of the origin only the small samples of the first stages are read; the result is the same."""
    for module, name in ((estimate, "MAX_NOISE_POSITIONS"), (learn, "MAX_BEAM_PATTERNS"),
                         (decide, "MAX_STRUCTURE_PATTERNS")):
        monkeypatch.setattr(module, name, 16)
    monkeypatch.setattr("py4dstem_prenet.origin.afterglow.MAX_GLOW_STEPS", 8)
    monkeypatch.setattr(coarse, "PATTERNS_PER_BLOCK", 1)
    monkeypatch.setattr(pooling, "MIN_POOLED_POSITIONS", 36)
    monkeypatch.setattr(pooling, "POOLED_ELECTRONS", 0)
    stored = Counting(counts)
    once = calibrate(py4DSTEM.DataCube(stored), device="cpu", progress=False)
    # The blocks of the first guess, samples for noise (twice: the beam is kept with their digest) and beam, four
    # patterns that may be saturated, four blocks whose edges are compared, the sample in which common structure
    # is measured, eight frames after long steps of the beam with three later ones each, one block whose diffuse
    # scattering has a center, the blocks of which opposite sectors are compared, since the descan is larger than the
    # disk, and the fingerprint of the data.
    early = 64 + 3 * len(sample_positions((12, 12), 16)) + 4 + 4 + 16 + 32 + 1 + 64 + 8
    assert stored.reads.min() == 1 and stored.reads.sum() == stored.reads.size + early
    monkeypatch.setattr(pooling, "MAX_KEPT_BYTES", 1000)  # too little: pooled patterns are read again
    stored = Counting(counts)
    twice = calibrate(py4DSTEM.DataCube(stored), device="cpu", progress=False)
    again = twice.origin.valid.ravel()[sample_positions((12, 12), 36)].sum()
    assert stored.reads.sum() == stored.reads.size + early + again and again > 30
    assert np.array_equal(once.origin.qx0, twice.origin.qx0)
    assert np.array_equal(once.ellipse.vector, twice.ellipse.vector)


def test_what_lies_in_memory_is_not_kept_twice(counts):
    assert len(worth_keeping(as_scan(counts), 5000.0)) == 0
    assert len(worth_keeping(as_scan(Counting(counts)), 5000.0)) == 144


def test_a_sample_reads_like_the_scan(counts):
    some = kept(counts, [0, 1, 5, 12, 13, 143])
    assert some.shape == counts.shape and some.dtype == counts.dtype
    tile = (slice(0, 2), slice(0, 2))
    assert np.array_equal(some.read_tile(tile), counts[tile])
    assert np.array_equal(some.read([1, 5, 143]), counts.reshape(144, 64, 64)[[1, 5, 143]])
    assert some.holds([0, 143]) and not some.holds([0, 2]) and some.readable.sum() == 6
    with pytest.raises(PrenetError):
        some.read_tile((slice(0, 2), slice(0, 3)))


def test_pooling_a_sample_is_pooling_the_scan_bit_for_bit(counts, monkeypatch):
    monkeypatch.setattr(pooling, "MIN_POOLED_POSITIONS", 36)
    monkeypatch.setattr(pooling, "POOLED_ELECTRONS", 0)
    model, origin = estimate_noise(counts), np.full((12, 12), 31.3)
    whole = pool(counts, origin, origin, model)
    some = pool(kept(counts, sample_positions((12, 12), 36)), origin, origin, model)
    assert np.array_equal(whole.mean, some.mean) and np.array_equal(whole.parts, some.parts)


def test_an_even_sample_is_the_grid_where_that_is_there(counts):
    grid = sample_positions((12, 12), 9)
    assert np.array_equal(spread_positions(as_scan(counts), 9), grid)
    assert np.array_equal(spread_positions(kept(counts, np.union1d(grid, [0, 1, 2])), 9), grid)
    assert spread_positions(kept(counts, np.arange(10, 40)), 9).tolist() == [10, 13, 17, 20, 24, 28, 31, 35, 39]
