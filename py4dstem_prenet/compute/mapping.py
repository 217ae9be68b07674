"""One map over the blocks of a scan, on the cores of this machine or on the workers of a Dask cluster.

Both ways read the same blocks (`core.reading`) and return results in the same order, so that what is computed from them
is equal to the last bit on devices of the same kind.

A cluster is used only within `use_cluster`. Its workers open a file by its path, which must lead to the same file
everywhere, as on a shared file system; arrays in memory are sent to them. A block whose worker dies goes to another
worker, and a block that failed is tried again. Each worker loads its own networks on its own device.
"""

from __future__ import annotations

import socket
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from contextvars import ContextVar
from functools import lru_cache, partial
from itertools import chain, islice

import torch

from .._version import __version__
from ..core import PrenetError, UnchangedFile, as_scan, parts, plan_reading, progress_bar
from . import adapt_threads, free_cores, give_back_memory, keep_memory

CONNECT_S = 10  # seconds; longest wait for a scheduler
TRIM_INTERVAL = 64  # blocks; number between two returns of free memory to the system

_cluster: ContextVar = ContextVar("prenet_cluster", default=None)  # the Dask client of `use_cluster`


def map_chunks(function, data, *along, positions=None, chunk=None, progress=None, skip=None,
               require=None) -> Iterator[tuple]:
    """Apply a function to all blocks of a scan, in the order of `Scan.blocks`.

    On this machine as many threads work as torch is set to use (`torch.set_num_threads`), one block each; within
    `use_cluster`, the workers of the cluster do. They are a few blocks ahead of the results.

    Parameters
    ----------
    function : callable
        Called with index (n,) of flat scan positions, block (n, Qx, Qy), and the rows of `along` at these positions. It
        must be picklable (a function of a module, or a `functools.partial` of one), change nothing outside (several
        calls may run at once), and load networks by name, so that they are on the device of the calling process.
    data : DataCube, array_like or Scan
        The scan.
    *along : numpy.ndarray
        Arrays with one row for each position of the scan, (Rx * Ry, ...).
    positions : array_like of int, optional
        Flat scan positions in ascending order; all by default.
    chunk : int, optional
        Largest number of patterns in a block.
    progress : str, optional
        Name of the stage, to show a progress bar of the patterns whose results the caller has taken.
    skip : numpy.ndarray of bool, optional
        (Rx * Ry,), True at positions that are not needed.
    require : callable, optional
        Called without arguments by each worker of a cluster before it works; it raises PrenetError if something that
        `function` needs is missing there (`networks.weights.requirement`).

    Yields
    ------
    index : numpy.ndarray
        (n,) flat scan positions.
    result : object
        Results of `function` for them.

    Raises
    ------
    PrenetError
        As `Scan.blocks`; workers cannot read the file, have another version of this package or other weights, or keep
        dying.
    """
    scan, client = as_scan(data), _cluster.get()
    chunk, total, jobs = plan_reading(scan, chunk, positions, skip)
    if client is None:
        results = _on_threads(function, scan.blocks(chunk, positions, skip), along)
    else:
        submit = partial(_submit, client, function, scan, along, chunk, require)
        results = _on_cluster(client, submit, chunk, jobs, UnchangedFile(scan.file))
    with progress_bar(total, progress) as bar, closing(results):
        for index, result in results:
            missing = len(index) if skip is None else int((~skip[index]).sum())  # the caller may mark them as done
            yield index, result
            bar.update(missing)


@contextmanager
def use_cluster(cluster):
    """Compute on a Dask cluster within a block.

    Parameters
    ----------
    cluster : distributed.Client, str or None
        A synchronous client, or the address of a scheduler such as "tcp://127.0.0.1:8786"; None computes on this
        machine.

    Yields
    ------
    distributed.Client or None
        The client.

    Raises
    ------
    PrenetError
        No scheduler answers, the client is asynchronous or closed, or the extra `cluster` is not installed.

    Examples
    --------
    >>> with use_cluster("tcp://127.0.0.1:8786"):  # doctest: +SKIP
    ...     datacube.prenet.calibrate()
    """
    if cluster is None:
        yield None
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise PrenetError("Dask's distributed is missing; install the package with its extra `cluster`.") from error

    if isinstance(cluster, Client):
        if cluster.asynchronous or cluster.status != "running":
            raise PrenetError("The Dask client must be synchronous and running.")
        client, own = cluster, None
    else:
        try:
            _check_reachable(cluster)
            client = own = Client(cluster, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise PrenetError(f"No Dask scheduler answers at {cluster!r}; give its address, such as "
                              "tcp://127.0.0.1:8786.") from error
    token = _cluster.set(client)
    try:
        yield client
    finally:
        _cluster.reset(token)
        if own is not None:
            own.close()


def _check_reachable(cluster):
    """Raise an OSError or ValueError if nobody listens at an address: a client that failed prints a traceback later."""
    from distributed.comm import get_address_host_port

    scheme, _, place = cluster.rpartition("://") if isinstance(cluster, str) else ("other", "", "")
    if scheme in ("", "tcp", "tls"):
        socket.create_connection(get_address_host_port(f"tcp://{place}", strict=True), CONNECT_S).close()


def _on_threads(function, blocks, along):
    keep_memory()
    try:
        yield from _computed(function, _trimmed(blocks), along)
    finally:
        give_back_memory()


def _computed(function, blocks, along):
    adapt_threads()
    threads = min(torch.get_num_threads(), free_cores())
    torch_threads = torch.get_num_threads()
    if threads == 1:
        for index, block in blocks:
            yield index, function(index, block, *(rows[index] for rows in along))
        return
    # One block for each thread: more threads within an operation on small windows would wait for one another.
    waiting = deque()
    pool = ThreadPoolExecutor(threads, "prenet-block", torch.set_num_threads, (1,))
    try:
        early = list(islice(blocks, 2))
        if len(early) == 1:  # all threads for the only block
            index, block = early[0]
            yield index, function(index, block, *(rows[index] for rows in along))
            return
        for index, block in chain((early.pop(0) for _ in range(len(early))), blocks):
            waiting.append((index, pool.submit(function, index, block, *(rows[index] for rows in along))))
            del block
            if len(waiting) > threads:
                index, future = waiting.popleft()
                yield index, future.result()
        while waiting:
            index, future = waiting.popleft()
            yield index, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        blocks.close()
        torch.set_num_threads(torch_threads)  # the setting of one thread is that of all


def _trimmed(blocks):
    """Yield the blocks, and return free memory to the system every TRIM_INTERVAL blocks."""
    with closing(blocks):
        for number, block in enumerate(blocks):
            if number % TRIM_INTERVAL == 0:
                give_back_memory()
            yield block


def _on_cluster(client, submit, chunk, jobs, file):
    waiting = deque()
    try:
        while True:
            # Few jobs at a time, so that blocks and results need little memory in the workers and in this process.
            ahead = 2 + 2 * sum(client.nthreads().values())
            while len(waiting) < ahead and (job := next(jobs, None)) is not None:
                waiting.append((job, submit(job)))
            if not waiting:
                break
            job, future = waiting.popleft()
            results = _result(job, future)
            for part, result in zip(parts(len(job.index), chunk), results, strict=True):
                yield job.index[part], result
        file.check()
    finally:
        client.cancel([future for _, future in waiting])


def _submit(client, function, scan, along, chunk, require, job):
    """Submit a job to the cluster and return the future of its results."""
    rows = [values[job.index] for values in along]
    source, reading = scan.reopener(), (scan.scan_shape[1], scan.invalid_pixels)
    if source is None and scan.deferred:
        source = client.compute(job.select(scan))
    elif source is None:
        # A part of the task, not data scattered beforehand: those are lost with the worker that holds them.
        source = job.block(job.select(scan), *reading)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sending large graph")
        return client.submit(_work, function, source, reading, job, rows, chunk, (__version__, require), pure=False,
                             retries=2)


def _result(job, future):
    from distributed import KilledWorker

    try:
        result = future.result()
    except KilledWorker as error:
        raise PrenetError(f"Workers of the Dask cluster died repeatedly at scan positions {job.index[0]} to "
                          f"{job.index[-1]}, perhaps because they ran out of memory; see their logs.") from error
    if isinstance(result, PrenetError):
        raise result
    return result


def _work(function, source, reading, job, rows, chunk, software):
    """Compute a job on a worker; a PrenetError is returned, not raised, so that Dask does not retry it."""
    keep_memory()
    try:
        version, require = software
        _same_version(version)
        if require is not None:
            require()
        if callable(source):
            with source() as scan:
                block = job.block(job.select(scan), *reading)
        else:
            block = job.block(source, *reading)
        return [function(job.index[part], block[part], *(values[part] for values in rows))
                for part in parts(len(block), chunk)]
    except PrenetError as error:
        return error


@lru_cache
def _same_version(version):
    """Raise PrenetError if this process runs another version of the package."""
    if __version__ != version:
        raise PrenetError(f"A worker has py4dstem_prenet {__version__}, not {version}; install the same version "
                          "everywhere.")
