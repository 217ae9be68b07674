"""Some random sequences of calls of `walks.py`; `python tests/walks.py` runs any number of them."""

import numpy as np
import py4DSTEM
import pytest
import walks


@pytest.mark.parametrize("number", [0, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 2))])
def test_nothing_breaks_on_a_walk(number):
    steps, failure = walks.walk(number)
    assert failure is None, steps


def test_a_walk_sees_an_origin_that_was_left_behind():
    """py4DSTEM's own crop takes pixels off the patterns and leaves the origin where it was."""
    counts = np.ones((3, 4, 48, 48), np.uint16)
    truth = np.full((2, 3, 4), 23.0)
    at = walks.Walker(py4DSTEM.DataCube(counts), truth, np.random.default_rng(0), None)
    at.cube.calibration.set_origin_meas(tuple(truth))
    at.cube.calibration.set_origin(tuple(truth))
    assert walks.wrong(at) is None
    at.within(at.cube.crop_Q((5, 46, 0, 48)), truth - np.reshape([5, 0], (2, 1, 1)))
    assert "5.00 px off" in walks.wrong(at)
