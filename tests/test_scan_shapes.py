"""The shape of a scan: given, stated in files, or found in the times of frames."""

import numpy as np
import pytest
from opened import RNG, STACK, refused

from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.io import scan_shapes


@pytest.mark.parametrize("shape", [12, (3,), (0, 4), (2.5, 4), "34", (3, 4, 1), ("a", "b"), (-3, -4), float("nan")])
def test_a_shape_that_is_none_is_refused_before_the_file_is_read(tmp_path, shape):
    np.save(tmp_path / "a.npy", STACK)
    refused(tmp_path / "a.npy", scan_shape=shape)


def test_all_possible_shapes_are_listed(tmp_path):
    np.save(tmp_path / "a.npy", STACK)
    text = refused(tmp_path / "a.npy")
    assert all(f"{n} x {12 // n}" in text for n in (1, 2, 3, 4, 6, 12))
    assert scan_shapes.possible_shapes(12) == [(3, 4), (4, 3), (2, 6), (6, 2), (1, 12), (12, 1)]


S = scan_shapes.StatedShape


@pytest.mark.parametrize("stated, found", [
    ([S(3, 4, "header")], (3, 4)), ([S(3, 4, "header"), S(4, 3, "name")], None), ([S(2, 3, "header")], None),
    ([S(4, 3, "name", False), S(3, 4, "name", False)], None),
    ([S(4, 3, "name", False), S(3, 4, "name", False), S(3, 4, "times", False)], (3, 4)),
    ([S(5, 4, "header")], (3, 4)), ([S(5, 5, "header")], (2, 5)), ([S(64, 64, "name", False)], None), ([], None)])
def test_a_guess_must_be_unique_and_agree(stated, found):
    if found is None:
        with pytest.raises(PrenetError):
            scan_shapes.choose_shape(12, None, stated, grows=True)
    else:
        assert scan_shapes.choose_shape(12, None, stated, grows=True)[0] == found
    assert scan_shapes.choose_shape(12, (6, 2), stated)[0] == (6, 2)


@pytest.mark.parametrize("count, given, shape", [(13, (3, 4), (3, 4)), (15, (3, 4), None), (16, (3, 4), None),
                                                 (11, (3, 4), (2, 4)), (3, (3, 4), None)])
def test_frames_more_or_less_than_the_shape_that_is_given(count, given, shape):
    with pytest.raises(PrenetError):
        scan_shapes.choose_shape(count, given)
    if shape is None:  # 15 frames may be rows of 4 with a flyback frame each
        with pytest.raises(PrenetError):
            scan_shapes.choose_shape(count, given, grows=True)
    else:
        found, flags = scan_shapes.choose_shape(count, given, grows=True)
        assert found == shape and len(flags) == 1


def test_row_ends_are_found_only_where_they_stand_out():
    times = np.cumsum(1000 + RNG.integers(0, 5, 40))
    assert scan_shapes.period_of_gaps(times) is None
    assert scan_shapes.period_of_gaps(times + 300 * (np.arange(40) // 8)) == 8
    assert scan_shapes.period_of_gaps(times + 20 * (np.arange(40) // 8)) is None
    assert scan_shapes.period_of_gaps(times + 300 * (np.arange(40) // 8) + 300 * (np.arange(40) > 13)) is None
