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


def test_threads_follow_what_other_processes_leave(monkeypatch):
    from py4dstem_prenet.compute import adapt_threads, threads

    seen, before = [], torch.get_num_threads()

    @sharing_cores
    def inside():
        for others in (0.0, 1e3, 0.0):
            monkeypatch.setattr(threads._meter, "others", lambda others=others: others)
            adapt_threads()
            seen.append(torch.get_num_threads())

    monkeypatch.setattr(threads, "_cores", lambda: [0, 1])
    torch.set_num_threads(2)
    try:
        inside()
        assert seen == [2, 1, 2] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_whatever_reads_a_whole_scan_shares_the_cores():
    """A measurement with a thread for each core took ten times as long beside other processes."""
    import py4dstem_prenet as prenet
    from py4dstem_prenet import denoising, disks, ellipse, resampling

    for function in (prenet.calibrate, prenet.measure_origin, prenet.measure_ellipse, ellipse.map_ellipse,
                     prenet.measure_pixel_size, disks.find_bragg_disks, denoising.denoise, denoising.check_denoising,
                     denoising.finetune, prenet.check_origin, ellipse.check_ellipse, resampling.corrected):
        assert hasattr(function, "__wrapped__"), function.__name__
