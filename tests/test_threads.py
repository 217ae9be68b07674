"""Threads: no more than free cores in torch, one in BLAS, and the caller's settings are restored."""

import torch
from threadpoolctl import threadpool_info, threadpool_limits

from py4dstem_prenet.compute import sharing_cores


def blas_threads():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_one_blas_thread_while_it_computes_and_the_callers_settings_afterwards():
    torch_threads = torch.get_num_threads()
    inside = sharing_cores(lambda: (blas_threads(), torch.get_num_threads()))
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        blas, threads = inside()
        assert blas == {1} and 1 <= threads <= torch_threads
        assert blas_threads() == before and torch.get_num_threads() == torch_threads


def test_a_limit_of_the_caller_is_never_raised():
    torch_threads = torch.get_num_threads()
    with threadpool_limits(1, user_api="blas"):
        torch.set_num_threads(1)
        try:
            assert sharing_cores(lambda: (blas_threads(), torch.get_num_threads()))() == ({1}, 1)
        finally:
            torch.set_num_threads(torch_threads)
