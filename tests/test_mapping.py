"""The map over blocks: the same here and on a cluster, of whose workers one is killed midway."""

import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, nullcontext
from functools import partial

import dask.array
import h5py
import numpy as np
import pytest

from py4dstem_prenet import __version__
from py4dstem_prenet.compute import mapping
from py4dstem_prenet.compute.mapping import map_chunks
from py4dstem_prenet.core import reading
from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.core.scan import as_scan
from py4dstem_prenet.networks.weights import requirement

distributed = pytest.importorskip("distributed")

SHAPE = (6, 8, 32, 32)


@pytest.fixture(scope="module")
def cube():
    return np.random.default_rng(0).integers(0, 60000, SHAPE).astype(np.uint16)


@pytest.fixture(scope="module")
def workers():
    """Two processes with one thread each; a killed one is replaced."""
    made = distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
    with made:
        yield made


@pytest.fixture
def client(workers):
    with distributed.Client(workers) as made, mapping.use_cluster(made):
        yield made


def centroid(index, block, weight, exponent=1.0):
    """A float32 result that depends on how patterns are summed; and the process that made it."""
    total = (block.astype(np.float32) ** np.float32(exponent)).sum((1, 2)) * weight
    return total, os.getpid()


def slow(index, block, folder):
    """Leaves the process's number in a file, then takes its time."""
    (folder / str(os.getpid())).touch()
    time.sleep(0.3)
    return block.sum((1, 2), dtype=np.int64)


def gather(function, data, *along, **options):
    results = list(map_chunks(function, data, *along, chunk=5, **options))
    return [index for index, _ in results], [result for _, result in results]


def sources(cube, folder):
    np.save(folder / "a.npy", np.concatenate([cube, cube], axis=1))
    whole = np.load(folder / "a.npy", mmap_mode="r")
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("some/where", data=cube, chunks=(2, 3, 16, 32), compression="gzip")
    return {
        "memory": cube,
        "view of a memmap": whole[:, SHAPE[1]:],
        "reversed memmap": np.load(folder / "a.npy", mmap_mode="r")[::-1, :SHAPE[1]],
        "hdf5": h5py.File(folder / "a.h5", "r")["some/where"],
        "dask": dask.array.from_array(cube, chunks=(4, 4, 32, 16)),
    }


@pytest.mark.slow
def test_a_cluster_gives_what_the_machine_itself_gives(cube, tmp_path, workers):
    weight = np.linspace(0, 1, SHAPE[0] * SHAPE[1], dtype=np.float32)
    function = partial(centroid, exponent=0.7)
    cases = [(kind, data, positions) for kind, data in sources(cube, tmp_path).items()
             for positions in (None, np.array([0, 3, 4, 5, 17, 30, 47]))
             if positions is None or kind in ("hdf5", "dask")]
    here = [gather(function, data, weight, positions=positions) for _, data, positions in cases]
    with distributed.Client(workers) as client, mapping.use_cluster(client):
        there = [gather(function, data, weight, positions=positions) for _, data, positions in cases]
    for (kind, _, positions), mine, theirs in zip(cases, here, there, strict=True):
        assert np.array_equal(np.sort(np.concatenate(mine[0])), np.arange(48) if positions is None else positions)
        assert len(mine[0]) > 1
        for a, b in zip(mine[0], theirs[0], strict=True):
            np.testing.assert_array_equal(a, b, err_msg=kind)
        for (a, a_process), (b, b_process) in zip(mine[1], theirs[1], strict=True):
            np.testing.assert_array_equal(a, b, err_msg=kind)
            assert a_process == os.getpid() != b_process
    values = np.concatenate([values for values, _ in here[0][1]])[np.argsort(np.concatenate(here[0][0]))]
    np.testing.assert_allclose(values, (cube.astype(float) ** 0.7).sum((2, 3)).ravel() * weight, rtol=1e-5)


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


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "hdf5"])
def test_a_killed_worker_costs_nothing_but_time(cube, tmp_path, client, kind):
    (tmp_path / "seen").mkdir()
    data = sources(cube, tmp_path)[kind]

    def kill_one():
        while not list((tmp_path / "seen").iterdir()):
            time.sleep(0.01)
        time.sleep(0.1)  # in the middle of a block
        victim = next((tmp_path / "seen").iterdir())
        os.kill(int(victim.name), signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    index, sums = gather(partial(slow, folder=tmp_path / "seen"), data)
    killer.join()
    out = np.zeros(SHAPE[0] * SHAPE[1], np.int64)
    out[np.concatenate(index)] = np.concatenate(sums)
    np.testing.assert_array_equal(out.reshape(SHAPE[:2]), cube.sum((2, 3), dtype=np.int64))
    assert len(list((tmp_path / "seen").iterdir())) > 1  # others did the rest


def broken(index, block):
    raise ZeroDivisionError("in the function")


@pytest.mark.slow
def test_errors_of_workers_reach_the_caller(cube, client, tmp_path):
    with pytest.raises(ZeroDivisionError, match="in the function"):
        gather(broken, cube)
    data = cube.astype(np.float32)
    data[3, 2, 1, 1] = np.nan
    np.save(tmp_path / "nan.npy", data)
    for scan in (data, np.load(tmp_path / "nan.npy", mmap_mode="r")):
        with pytest.raises(PrenetError, match=r"\(3, 2\)"):
            gather(partial(slow, folder=tmp_path), scan)
    gone = np.load(tmp_path / "nan.npy", mmap_mode="r")
    (tmp_path / "nan.npy").unlink()
    with pytest.raises(PrenetError):
        gather(partial(slow, folder=tmp_path), gone)


def test_a_worker_with_other_software_is_refused():
    mapping._same_version(__version__)
    requirement("center")()
    with pytest.raises(PrenetError):
        mapping._same_version("0.0.0")
    with pytest.raises(PrenetError):
        partial(requirement("center").func, (("center", "0" * 64),))()


def test_what_is_done_is_not_done_again(cube, client):
    done = np.zeros(SHAPE[0] * SHAPE[1], bool)
    weight = np.ones(len(done), np.float32)
    index, results = gather(partial(centroid), cube, weight)
    done[np.concatenate(index[:4])] = True
    done[index[5][:2]] = True  # a block that was left in the middle comes whole
    again, more = gather(partial(centroid), cube, weight, skip=done)
    assert [list(i) for i in again] == [list(i) for i in index[4:]]
    for (a, _), (b, _) in zip(results[4:], more, strict=True):
        np.testing.assert_array_equal(a, b)


def test_leaving_early_cancels_what_is_under_way(cube, client, tmp_path):
    results = map_chunks(partial(slow, folder=tmp_path), cube, chunk=2)
    next(results)
    results.close()
    until = time.time() + 5
    while client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)) and time.time() < until:
        time.sleep(0.05)
    assert client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)) == 0


@pytest.mark.slow
def test_no_scheduler_is_refused_in_one_sentence(cube):
    with mapping.use_cluster(None) as used:
        assert used is None
    for address in ("nonsense://1.2.3.4:1", "tcp://127.0.0.1:1"):
        with pytest.raises(PrenetError) as refused, mapping.use_cluster(address):
            pass
        assert str(refused.value).endswith(".") and "\n" not in str(refused.value)
        assert computed_here(cube)  # what failed is not what the next call uses


def computed_here(cube):
    _, results = gather(partial(centroid), cube, np.ones(48, np.float32))
    return {process for _, process in results} == {os.getpid()}


def test_a_cluster_is_used_within_the_block_and_not_after_nor_because_a_client_is_active(cube, workers):
    with distributed.Client(workers) as client:
        assert computed_here(cube)
        with mapping.use_cluster(client.scheduler.address) as inside:
            assert inside is not client and not computed_here(cube)
        assert computed_here(cube)
    with pytest.raises(PrenetError), mapping.use_cluster(client):  # closed by now
        pass


def test_a_bar_counts_patterns_on_a_cluster(cube, client, capsys):
    gather(partial(centroid), cube, np.ones(48, np.float32), progress="origin")
    assert "origin: 100%" in capsys.readouterr().err


@pytest.mark.slow
def test_origins_from_a_cluster_are_the_same_bit_for_bit(tmp_path, workers, monkeypatch):
    from scans import simulated  # not above: workers import this module, too, and torch takes its time

    from py4dstem_prenet.origin.measure import measure_origin

    monkeypatch.setattr(reading, "BLOCK_BYTES", 6 * 64 * 64 * 4)  # several blocks
    np.save(tmp_path / "scan.npy", simulated(scan=(5, 5), shape=(64, 64)).counts)
    scan = np.load(tmp_path / "scan.npy", mmap_mode="r")
    here = measure_origin(scan, device="cpu", progress=False)
    seen = []
    with distributed.Client(workers) as client, mapping.use_cluster(client):
        submit = client.submit
        monkeypatch.setattr(client, "submit", lambda *a, **k: seen.append(a) or submit(*a, **k))
        there = measure_origin(scan, device="cpu", progress=False)
    assert here.found and len(seen) >= 4
    for name in ("qx0", "qy0", "sigma_qx0", "sigma_qy0", "valid"):
        np.testing.assert_array_equal(getattr(here, name), getattr(there, name))


def transitions(dask_worker):
    return dask_worker.state.transition_counter


@pytest.mark.slow
def test_the_command_works_on_a_live_scheduler(tmp_path, workers, client):
    """`prenet calibrate --scheduler`, a process of its own: the workers do it, and the answer is the local one."""
    import py4DSTEM
    from scans import simulated

    from py4dstem_prenet.origin.measure import measure_origin

    counts = simulated(scan=(5, 5), shape=(64, 64)).counts
    np.save(tmp_path / "scan.npy", counts)
    before = sum(client.run(transitions).values())
    command = [sys.executable, "-m", "py4dstem_prenet.cli", "calibrate", "scan.npy", "-o", "calibrated.h5",
               "--calibration-only", "--device", "cpu", "--scheduler", client.scheduler.address]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sum(client.run(transitions).values()) > before
    found = py4DSTEM.read(tmp_path / "calibrated.h5").get_origin_meas()
    here = measure_origin(counts, device="cpu", progress=False)
    for there, mine in zip(found, (here.qx0, here.qy0), strict=False):
        np.testing.assert_array_equal(there, mine)


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
