"""One map over the blocks of a scan, on the cores of this machine or on the workers of a Dask cluster.

Both ways read the same blocks (`batches.plan`) and hand results back in the same order, so that what is computed
from them is the same, bit for bit, on the same kind of device.

The cluster is that of the `dask.distributed.Client` which is active. Workers open a file by its path, which must lead
to the same file everywhere, as it does on a shared file system; arrays in memory are sent to them. A block whose
worker dies goes to another one, and one that failed is tried again. Each worker loads its own networks, on its own
device.
"""

import os
import sys
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import lru_cache, partial
from itertools import chain, islice

import h5py
import numpy as np

from .._version import __version__
from ..core import PrenetError, reading
from . import allocator

RETRIES = 2  # of a block that failed, before the run is given up
TRIMMED = 64  # blocks after which memory that is free goes back to the system


def map_chunks(function, data, *along, positions=None, chunk=None, progress=None, skip=None, require=None):
    """Yield `(index, function(index, block, *rows))` for all blocks of a scan, in the order of `batches.patterns`.

    Without an active Dask client as many threads work as torch is set to use (`torch.set_num_threads`), one block
    each; with a client, its workers do. They are a few blocks ahead of what has been yielded.

    Args:
        function: of index (n,) flat scan positions, block (n, Qx, Qy), and the rows of `along` at these positions.
            It must be picklable (a function of a module, or a `functools.partial` of one), change nothing outside
            (several calls may run at once), and load networks by name, so that they are on the device of the
            process that calls it.
        along: arrays with one row for each position of the scan, (Rx * Ry, ...).
        positions, chunk, progress, skip: as for `batches.patterns`.
        require: called without arguments by each worker before it works; it raises PrenetError where something
            that `function` needs is missing there (`networks.weights.requirement`).

    Raises:
        PrenetError: as `batches.patterns`; workers that cannot read the file, that have another version of this
            package or other weights, or that keep dying.
        Exception: whatever `function` raised.
    """
    client = _client()
    if client is None:
        allocator.keep()
        try:
            yield from _on_threads(function, data, along, positions, chunk, progress, skip)
        finally:
            allocator.give_back()
    else:
        chunk, total, jobs = reading.plan(data, chunk, positions, skip)
        array = data.data if hasattr(data, "R_Nx") else data
        submit = partial(_submit, client, function, array, along, chunk, require)
        file = reading.Unchanged(array)
        yield from _on_cluster(client, submit, chunk, total, jobs, progress)
        file.check()


@contextmanager
def connected(address):
    """A Dask client of the scheduler at `address`, active within the block; nothing where it is None.

    Raises PrenetError where no scheduler answers.
    """
    if address is None:
        yield
        return
    from distributed import Client

    try:
        client = Client(address, timeout=10, set_as_default=False)  # one that fails would stay the default
    except (OSError, ValueError, TimeoutError) as error:
        raise PrenetError(f"No Dask scheduler answers at {address!r}; give its address, such as "
                          "tcp://127.0.0.1:8786.") from error
    with client, client.as_current():
        yield


def _client():
    """The active Dask client, or None; None on a worker, too, whose own tasks would wait for one another."""
    distributed = sys.modules.get("distributed")  # who has a client has imported it
    if distributed is None:
        return None
    try:
        distributed.get_worker()
        return None
    except ValueError:
        pass
    try:
        client = distributed.Client.current()
    except ValueError:
        return None
    return client if client.status == "running" and not client.asynchronous else None


def _on_threads(function, data, along, positions, chunk, progress, skip):
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 1
    blocks = _trimmed(reading.patterns(data, chunk, progress, positions, skip))
    if threads == 1:
        for index, block in blocks:
            yield index, function(index, block, *(rows[index] for rows in along))
        return
    # A block for each thread keeps all cores busy; threads within an operation on small windows do not.
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
        torch.set_num_threads(threads)  # one thread's setting is that of all


def _trimmed(blocks):
    """The same blocks; after every so many, memory that is free goes back to the system."""
    with closing(blocks):
        for number, block in enumerate(blocks):
            if number % TRIMMED == 0:
                allocator.give_back()
            yield block


def _on_cluster(client, submit, chunk, total, jobs, progress):
    waiting = deque()
    try:
        with reading.progress_bar(total, progress) as bar:
            while True:
                # Few enough that blocks and results stay small beside the memory of workers and of this process.
                ahead = 2 + 2 * sum(client.nthreads().values())
                while len(waiting) < ahead and (job := next(jobs, None)) is not None:
                    waiting.append((job, submit(job)))
                if not waiting:
                    return
                job, future = waiting.popleft()
                results = _result(job, future)
                for part, result in zip(reading.parts(len(job.index), chunk), results, strict=True):
                    yield job.index[part], result
                    bar.update(len(job.index[part]))
    finally:
        client.cancel([future for _, future in waiting])


def _submit(client, function, array, along, chunk, require, job):
    """A future of the job's results."""
    rows = [values[job.index] for values in along]
    source = _reference(array)
    if source is None and hasattr(array, "dask"):
        source = client.compute(job.select(array))
    elif source is None:
        # A part of the task, not data scattered beforehand: those are lost with the worker that holds them.
        source = job.block(job.select(array), array.shape[1])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sending large graph")
        return client.submit(_work, function, source, array.shape[1], job, rows, chunk, (__version__, require), pure=False,
                             retries=RETRIES)


def _result(job, future):
    from distributed import KilledWorker

    try:
        result = future.result()
    except KilledWorker as error:
        raise PrenetError(f"Workers of the Dask cluster died again and again at scan positions {job.index[0]} to "
                          f"{job.index[-1]}, perhaps for want of memory; their logs say more.") from error
    if isinstance(result, PrenetError):
        raise result
    return result


def _work(function, source, columns, job, rows, chunk, software):
    """On a worker: the results of the job's blocks; or a PrenetError, which it would be no use to try again."""
    allocator.keep()
    try:
        version, require = software
        _same_version(version)
        if require is not None:
            require()
        if callable(source):
            with source() as array:
                source = job.select(array)
                block = job.block(source, columns)
        else:
            block = job.block(source, columns)
        return [function(job.index[part], block[part], *(values[part] for values in rows))
                for part in reading.parts(len(block), chunk)]
    except PrenetError as error:
        return error


@lru_cache
def _same_version(version):
    """Raise PrenetError where this process runs another version of the package."""
    if __version__ != version:
        raise PrenetError(f"A worker has py4dstem_prenet {__version__}, not {version}; install the same version "
                          "everywhere.")


# --- arrays that a worker opens itself -----------------------------------------------------------------------
def _reference(array):
    """A picklable function that opens the array anew as a context, or None where it does not lie in a file."""
    if isinstance(array, h5py.Dataset):
        if array.file.driver != "core":
            return partial(_hdf5, os.path.abspath(array.file.filename), array.name)
    elif isinstance(array, np.ndarray):
        root = array
        while isinstance(root.base, np.ndarray):
            root = root.base
        if isinstance(root, np.memmap) and root.filename is not None and root.mode != "c":
            start = root.offset + _address(array) - _address(root)
            return partial(_memmap, os.path.abspath(root.filename), array.dtype, array.shape, array.strides, start)
    return None


def _address(array):
    return array.__array_interface__["data"][0]


@contextmanager
def _hdf5(path, name):
    from ..io import existing, open_hdf5

    with _seen_by_worker(path), open_hdf5(existing(path)) as file:
        yield file[name]


@contextmanager
def _memmap(path, dtype, shape, strides, start):
    from ..io import existing

    with _seen_by_worker(path):
        buffer = np.memmap(existing(path), np.uint8, "r")
    yield np.ndarray(shape, dtype, buffer, start, strides)


@contextmanager
def _seen_by_worker(path):
    try:
        yield
    except PrenetError as error:
        if os.path.isfile(path):
            raise
        raise PrenetError(f"A worker of the Dask cluster sees no file {path}; the file must lie where all of them "
                          "reach it by the same path.") from error
