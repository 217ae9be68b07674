"""The map over blocks on threads of this machine: order, progress bars, memory."""

import pickle
import re
import sys
import threading
import time
from contextlib import contextmanager, nullcontext
from functools import partial

import numpy as np
import pytest
from blocks import SHAPE, broken, centroid, gather, sources

from py4dstem_prenet.compute import mapping
from py4dstem_prenet.compute.mapping import map_chunks
from py4dstem_prenet.core import reading
from py4dstem_prenet.core.scan import as_scan


@pytest.fixture(scope="module")
def cube():
    return np.random.default_rng(0).integers(0, 60000, SHAPE).astype(np.uint16)


@pytest.fixture
def three_threads(monkeypatch):
    """torch set to three threads, on a machine with as many free cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    monkeypatch.setattr(mapping, "free_cores", lambda: 3)
    yield torch.get_num_threads
    assert torch.get_num_threads() == 3  # whatever happened
    torch.set_num_threads(before)


def meet(index, block, barrier):
    """Only where three blocks are worked on at once does this return."""
    barrier.wait(20)
    return block.sum((1, 2), dtype=np.int64)


def test_threads_work_side_by_side_and_give_results_in_order(cube, three_threads):
    index, sums = gather(partial(meet, barrier=threading.Barrier(3)), cube[:, :2])  # 3 blocks
    assert [i.tolist() for i in index] == [[k, k + 1, k + 2, k + 3] for k in (0, 4, 8)]
    np.testing.assert_array_equal(np.concatenate(sums), cube[:, :2].sum((2, 3), dtype=np.int64).ravel())
    with pytest.raises(ZeroDivisionError):
        gather(broken, cube)
    results = map_chunks(partial(centroid), cube, np.ones(48, np.float32), chunk=2)
    next(results)
    results.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("prenet-")]


def test_where_one_core_is_free_one_thread_works(cube, three_threads, monkeypatch):
    monkeypatch.setattr(mapping, "free_cores", lambda: 1)
    threads = set()

    def work(index, block):
        threads.add(threading.current_thread().name)
        return block.sum((1, 2), dtype=np.int64)

    _, sums = gather(work, cube)
    assert threads == {threading.current_thread().name}
    assert sum(int(part.sum()) for part in sums) == cube.sum(dtype=np.int64)


def test_an_only_block_has_all_threads(cube, three_threads):
    seen = []

    def work(index, block, factor):
        seen.append((threading.current_thread().name, three_threads()))
        return factor * block.sum((1, 2), dtype=np.int64)

    index, sums = gather(work, cube[:1, :2], np.array([10, 20]))
    assert seen == [(threading.current_thread().name, 3)] and [i.tolist() for i in index] == [[0, 1]]
    np.testing.assert_array_equal(sums[0], np.array([10, 20]) * cube[0, :2].sum((1, 2), dtype=np.int64))
    assert gather(work, cube, np.zeros(48), positions=np.array([], int)) == ([], [])


class Bars:
    """Progress bars as they are made."""

    def __init__(self, monkeypatch):
        self.made, make = [], mapping.progress_bar

        @contextmanager
        def kept(total, title):
            with make(total, title) as bar:
                self.made.append(bar)
                yield bar

        monkeypatch.setattr(mapping, "progress_bar", kept)

    def now(self):
        return self.made[-1].n


@pytest.mark.parametrize("cores", [1, 3])
def test_a_bar_advances_when_results_were_taken_not_when_blocks_are_read(cube, three_threads, monkeypatch, cores):
    monkeypatch.setattr(mapping, "free_cores", lambda: cores)
    bars, counts, taken = Bars(monkeypatch), [], 0
    for index, _ in map_chunks(centroid, cube, np.ones(48, np.float32), chunk=5, progress="origin"):
        counts.append((bars.now(), taken))
        taken += len(index)
    assert taken == bars.made[0].total == bars.now() == 48 and len(counts) > 3
    assert all(shown == finished for shown, finished in counts), counts
    done = np.arange(48) < 40
    for index, _ in map_chunks(centroid, cube, np.ones(48, np.float32), progress="origin", skip=done):
        done[index] = True  # a resumed run: 8 are missing, and their block comes whole
    assert done.all() and bars.made[1].total == bars.now() == 8


@pytest.mark.parametrize("cores", [1, 3])
def test_the_rate_of_an_only_block_is_that_of_its_work(cube, three_threads, monkeypatch, capsys, cores):
    """It was that of reading, thousands a second; and the clock of the bar stood still at 0."""
    monkeypatch.setattr(mapping, "free_cores", lambda: cores)
    monkeypatch.setattr(reading, "REDRAW_SECONDS", 0.05)
    bars, during, seconds = Bars(monkeypatch), [], 0.6

    def work(index, block):
        during.append(bars.now())
        time.sleep(seconds)
        during.append(bars.now())

    assert len(list(map_chunks(work, cube, progress="denoising"))) == 1 and during == [0, 0]
    drawn = capsys.readouterr().err.split("\r")
    assert sum("0/48" in text for text in drawn) > 3 and "48/48" in drawn[-1]
    rate = float(re.search(r"([\d.]+) patterns/s", drawn[-1]).group(1))
    assert 0.05 * 48 / seconds < rate < 1.05 * 48 / seconds  # a machine under load is slower, never faster
    assert not [t for t in threading.enumerate() if t.name.startswith("prenet-")]


def test_without_a_name_no_bar_is_shown(cube, capsys):
    gather(partial(centroid), cube, np.ones(48, np.float32))
    assert capsys.readouterr().err == ""


def test_views_of_memmaps_lead_to_their_own_bytes(cube, tmp_path):
    for kind, data in sources(cube, tmp_path).items():
        reopen = as_scan(data).reopener()
        assert (reopen is None) == (kind in ("memory", "dask"))
        with pickle.loads(pickle.dumps(reopen))() if reopen else nullcontext(as_scan(data)) as scan:
            np.testing.assert_array_equal(scan.read(np.arange(48)).reshape(SHAPE),
                                          cube[::-1] if kind.startswith("reversed") else cube)


def leave_holes(index, block):
    """At the first position, a hundred megabytes in small pieces, of which the last one alone is kept."""
    return [np.ones(10_000) for _ in range(1250 if index[0] == 0 else 1)][-1]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it is glibc's habit that is mended")
def test_memory_that_is_free_goes_back_on_the_way(monkeypatch):
    def held(trimmed):
        monkeypatch.setattr(mapping, "TRIM_INTERVAL", trimmed)
        before, kept, memory = anonymous(), [], []
        for _, last in map_chunks(leave_holes, np.zeros((4, 4, 32, 32), np.uint8), chunk=1):
            kept.append(last)
            memory.append(anonymous() - before)
        return memory[-1], anonymous() - before

    assert max(held(4)) < 30
    on_the_way, in_the_end = held(1000)
    assert on_the_way > 60 and in_the_end < 30  # else there was nothing to mend


def anonymous():
    """Anonymous memory of this process, MiB."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024
