"""The map over blocks on a Dask cluster: the same as here, and one of its workers is killed midway."""

import os
import signal
import threading
import time
from functools import partial

import numpy as np
import pytest
from blocks import SHAPE, broken, centroid, computed_here, gather, sources

from py4dstem_prenet import __version__
from py4dstem_prenet.compute import mapping
from py4dstem_prenet.compute.mapping import map_chunks
from py4dstem_prenet.core import reading
from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.networks.weights import requirement

distributed = pytest.importorskip("distributed")


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


def slow(index, block, folder):
    """Leaves the process's number in a file, then takes its time."""
    (folder / str(os.getpid())).touch()
    time.sleep(0.3)
    return block.sum((1, 2), dtype=np.int64)


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


@pytest.mark.slow
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


@pytest.mark.slow
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
    for address in ("nonsense://1.2.3.4:1", "tcp://127.0.0.1:1", "127.0.0.1:1", "nobody"):
        with pytest.raises(PrenetError) as refused, mapping.use_cluster(address):
            pass
        assert str(refused.value).endswith(".") and "\n" not in str(refused.value)
        assert computed_here(cube)  # what failed is not what the next call uses


@pytest.mark.slow
def test_a_cluster_is_used_within_the_block_and_not_after_nor_because_a_client_is_active(cube, workers):
    with distributed.Client(workers) as client:
        assert computed_here(cube)
        with mapping.use_cluster(client.scheduler.address) as inside:
            assert inside is not client and not computed_here(cube)
        assert computed_here(cube)
    with pytest.raises(PrenetError), mapping.use_cluster(client):  # closed by now
        pass


@pytest.mark.slow
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
def test_the_command_works_on_a_live_scheduler(tmp_path, workers):
    """`prenet calibrate --scheduler`: the workers do it, and the answer is the local one."""
    import py4DSTEM
    from scans import simulated
    from typer.testing import CliRunner

    from py4dstem_prenet import cli
    from py4dstem_prenet.origin.measure import measure_origin

    counts = simulated(scan=(5, 5), shape=(64, 64)).counts
    np.save(tmp_path / "scan.npy", counts)
    with distributed.Client(workers) as client:
        before = sum(client.run(transitions).values())
        done = CliRunner().invoke(cli.app, [
            "calibrate", str(tmp_path / "scan.npy"), "-o", str(tmp_path / "calibrated.h5"), "--calibration-only",
            "--device", "cpu", "--scheduler", client.scheduler.address])
        assert done.exit_code == 0, done.output
        assert sum(client.run(transitions).values()) > before
    found = py4DSTEM.read(tmp_path / "calibrated.h5").get_origin_meas()
    here = measure_origin(counts, device="cpu", progress=False)
    for there, mine in zip(found, (here.qx0, here.qy0), strict=False):
        np.testing.assert_array_equal(there, mine)
