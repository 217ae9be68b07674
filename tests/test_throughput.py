"""How benchmarks/throughput.py reckons from what it measured; it measures nothing here."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

spec = importlib.util.spec_from_file_location("throughput", Path(__file__).parents[1] / "benchmarks" / "throughput.py")
throughput = importlib.util.module_from_spec(spec)
spec.loader.exec_module(throughput)

SIZES = (0.5, 1, 2, 4, 8, 16)


def test_scans_of_twice_the_size_hold_twice_the_patterns():
    shapes = [throughput.scan_shape(size, 128) for size in SIZES]
    assert [2 * 128**2 * np.prod(shape) / 2**30 for shape in shapes] == pytest.approx(SIZES)
    assert all(n % throughput.PIECE == 0 for shape in shapes for n in shape)


def test_growth_is_a_straight_line_with_what_is_off_it():
    patterns = 16384 * 2 ** np.arange(6)
    constant, rate, off = throughput.growth(patterns, 6.0 + patterns / 8000)
    assert (constant, rate) == pytest.approx((6.0, 8000)) and off < 1e-9
    _, _, off = throughput.growth(patterns, (6.0 + patterns / 8000) * [1, 1, 1, 1, 1, 1.3])
    assert 0.05 < off < 0.3


def test_what_the_other_half_took():
    half, whole = ({"scan": (n, 128), "seconds": t} for n, t in ((128, 8.0), (256, 10.0)))
    assert throughput.added_rate(whole, half) == 8192
    assert throughput.added_rate(whole, whole | {"seconds": 11.0}) is None


def test_the_piece_goes_to_and_fro():
    at = throughput.mirrored(512)
    assert (np.abs(np.diff(at)) == 1).all() and (at.min(), at.max()) == (0, throughput.PIECE - 1)
    assert len(set(at[16::32])) > 8
