"""Limit threads to the free cores: OpenMP threads without a core of their own wait for one another, spinning.

Two processes with two threads each on two cores took ten times as long as with one thread each. How busy the cores of
this process are with other processes is measured from the time since the last measurement, without waiting.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import ParamSpec, TypeVar

import psutil
import torch
from threadpoolctl import threadpool_limits

P = ParamSpec("P")
R = TypeVar("R")


def _cores():
    """Return the numbers of the cores on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


class _Meter:
    """Meter of the cores of this process that other processes use."""

    def __init__(self):
        self._process = psutil.Process()
        self._last = self._now()
        self._others = 0.0

    def _now(self):
        own = self._process.cpu_times()
        times = psutil.cpu_times(percpu=True)
        cores = [k for k in _cores() if k < len(times)]
        busy = sum(sum(times[k]) - times[k].idle - getattr(times[k], "iowait", 0.0) for k in cores)
        return time.monotonic(), busy, own.user + own.system

    def others(self) -> float:
        """Return the number of cores that other processes used since the last measurement."""
        if time.monotonic() - self._last[0] >= 0.5:  # clock ticks last 10 ms
            now = self._now()
            elapsed, busy, own = (b - a for a, b in zip(self._last, now, strict=True))
            self._last, self._others = now, max(0.0, (busy - own) / elapsed)
        return self._others


_meter = _Meter()
_most: ContextVar[int | None] = ContextVar("prenet_threads", default=None)  # threads that the user allows


def free_cores() -> int:
    """Count the cores that other processes leave to this one.

    Returns
    -------
    int
        At least 1.

    Examples
    --------
    >>> free_cores() >= 1
    True
    """
    return max(1, round(len(_cores()) - _meter.others()))


def adapt_threads() -> None:
    """Set the threads of torch to the cores that are free now; no effect outside `shared_cores`."""
    max_threads = _most.get()
    if max_threads is not None:
        threads = min(max_threads, free_cores())
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)


@contextmanager
def shared_cores():
    """Limit torch to the free cores and BLAS to one thread; the outermost block restores both.

    Yields
    ------
    None
        The block calls `adapt_threads` before work that takes long.
    """
    if _most.get() is not None:
        adapt_threads()
        yield
        return
    max_threads = torch.get_num_threads()
    token = _most.set(max_threads)
    try:
        with threadpool_limits(1, user_api="blas"):  # matrices are small: more threads would wait for one another
            adapt_threads()
            yield
    finally:
        _most.reset(token)
        torch.set_num_threads(max_threads)


def sharing_cores(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function to run within `shared_cores`.

    Parameters
    ----------
    function : callable
        The function.

    Returns
    -------
    callable
        The decorated function.
    """
    @wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        with shared_cores():
            return function(*args, **kwargs)

    return inner
