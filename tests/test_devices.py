"""Batches on a device, and what happens when its memory does not suffice."""

import numpy as np
import pytest
import torch

from py4dstem_prenet.compute import devices
from py4dstem_prenet.compute.devices import in_batches
from py4dstem_prenet.core.errors import PrenetError


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(devices, "_fits", {})


class Network:
    """Takes at most `fits` patterns, or fails the first `failures` times."""

    def __init__(self, fits=10**9, failures=0, error=torch.cuda.OutOfMemoryError):
        self.fits, self.failures, self.error, self.sizes = fits, failures, error, []

    def __call__(self, x, y):
        self.sizes.append(len(x))
        assert torch.is_inference_mode_enabled() and len(x) == len(y)
        if len(x) > self.fits or self.failures > 0:
            self.failures -= 1
            raise self.error("no room")
        return x.flatten(1).sum(1) * y, x + 1


X = np.random.default_rng(0).random((50, 4, 4)).astype(np.float32)
Y = np.arange(50, dtype=np.float32)


def is_right(result):
    total, more = result
    np.testing.assert_allclose(total, X.sum((1, 2)) * Y, rtol=1e-6)
    np.testing.assert_array_equal(more, X + 1)
    return True


@pytest.mark.parametrize("size", [1, 7, 50, 1000])
def test_results_come_in_order_whatever_the_batch(size):
    network = Network()
    assert is_right(in_batches(network, X, Y, device="cpu", size=size))
    assert max(network.sizes) == min(size, 50) and sum(network.sizes) == 50
    alone = in_batches(lambda x: 2 * x, X, device="cpu", size=size)
    np.testing.assert_array_equal(alone, 2 * X)


@pytest.mark.parametrize("error", [
    torch.cuda.OutOfMemoryError, MemoryError,
    lambda text: RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"),
    lambda text: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 5 bytes"),
])
def test_out_of_memory_halves_the_batch_and_keeps_what_was_done(error):
    network = Network(fits=12, error=error)
    assert is_right(in_batches(network, X, Y, device="cpu", size=40))
    assert network.sizes == [40, 20, 10, 10, 10, 10, 10]
    network.sizes.clear()
    assert is_right(in_batches(network, X, Y, device="cpu", size=40))  # it is remembered
    assert network.sizes == [10] * 5


def test_memory_that_is_short_for_a_while_costs_nothing_that_was_computed():
    seen = []

    def network(x):
        seen.append(len(x))
        if len(seen) == 3:
            raise torch.cuda.OutOfMemoryError("for once")
        return x

    np.testing.assert_array_equal(in_batches(network, X, device="cpu", size=16), X)
    assert seen == [16, 16, 16, 8, 8, 2]


def test_a_pattern_that_does_not_fit_is_said_in_one_sentence():
    with pytest.raises(PrenetError):
        in_batches(Network(fits=0), X, Y, device="cpu", size=16)


def test_other_errors_are_not_taken_for_want_of_memory():
    with pytest.raises(RuntimeError):
        in_batches(Network(failures=1, error=lambda text: RuntimeError("shapes differ")), X, Y, device="cpu", size=16)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_gpu_gives_the_same(device):
    available = torch.cuda.is_available() if device == "cuda" else torch.backends.mps.is_available()
    if not available:
        pytest.skip(f"no {device} here")
    assert is_right(in_batches(Network(), X, Y, device=device, size=3))
    assert is_right(in_batches(Network(fits=12), X, Y, device=device, size=3))
