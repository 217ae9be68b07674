"""The world of scans with faults, and a fixed sample of the hunt through it."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from py4dstem_prenet.simulation import FAULTS, draw_case, make_case

spec = importlib.util.spec_from_file_location("hunt", Path(__file__).parents[1] / "benchmarks" / "hunt.py")
hunt = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hunt)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["snake", "full_scale", "hits", "stop_masked"])
def test_a_case_is_made_again_by_its_seed(fault):
    first, second = (make_case(draw_case(7, fault)) for _ in range(2))
    np.testing.assert_array_equal(first.data, second.data)
    assert first.history == second.history and first.history[0] == fault
    assert not np.array_equal(first.data.shape, make_case(draw_case(8, fault)).data.shape) or not np.array_equal(
        first.data, make_case(draw_case(8, fault)).data)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_has_truth(fault):
    made = make_case(replace(draw_case(1, fault), scan=(6, 6), shape=(64, 64)))
    shape = made.data.shape
    assert made.truth["qx0"].shape == made.truth["good"].shape == shape[:2]
    assert made.mask is None or (made.mask.shape == shape[2:] and made.mask.dtype == bool)
    assert np.isfinite(made.data).all() and np.isfinite([made.truth["qx0"], made.truth["qy0"]]).all()


@pytest.mark.slow
@pytest.mark.parametrize("seed, fault", [(0, "none"), (1, "snake"), (3, "lost_frames"), (4, "row_jumps"), (5, "hits")])
def test_a_sample_of_the_world_is_right_or_refused(seed, fault):
    """Of pixels at full scale, swapped quadrants and inverted masks, see test_scan_faults."""
    assert hunt.run(seed, fault)["outcome"] in ("right", "refused rightly")
