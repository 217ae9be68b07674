"""Files that are written for long, and what is left of them when the writing is interrupted."""

import multiprocessing
import os
import signal
import time

import h5py
import numpy as np
import py4DSTEM
import pytest

from py4dstem_prenet import emd, files
from py4dstem_prenet.errors import PrenetError

SHAPE = (3, 4, 32, 32)
RECORD = {"version": "1", "weights": {"denoise": "ab12"}}
DATA = np.random.default_rng(0).random(SHAPE).astype(np.float32)
PATTERNS = DATA.reshape(-1, 32, 32)
BLOCKS = np.array_split(np.arange(12), 5)


def cube():
    return py4DSTEM.DataCube(np.broadcast_to(np.float32(0), SHAPE), name="scan")


def interrupted(path, blocks, record=RECORD, error=KeyboardInterrupt):
    with pytest.raises(error), emd.resumable_cube(cube(), path, np.float32, record) as target:
        for index in blocks:
            target.write(index, PATTERNS[index])
        raise error


def go_on(path, record=RECORD):
    """Write what is missing; which positions that were."""
    with emd.resumable_cube(cube(), path, np.float32, record) as target:
        missing = np.flatnonzero(~target.done)
        for index in BLOCKS:
            if not target.done[index].all():
                target.write(index, PATTERNS[index])
    return missing.tolist()


def is_whole(path):
    """py4DSTEM reads what was written, and nothing else is in the file or beside it."""
    np.testing.assert_array_equal(py4DSTEM.read(path).data, DATA)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with h5py.File(path) as file:
        assert list(file) == ["scan_root"]
    return True


def test_an_interrupted_file_is_resumed(tmp_path):
    path = tmp_path / "a.h5"
    interrupted(path, [BLOCKS[3], BLOCKS[0]])
    assert not path.exists() and len(list(tmp_path.iterdir())) == 1
    assert go_on(path) == sorted({*range(12)} - {*BLOCKS[3], *BLOCKS[0]})
    assert is_whole(path)
    assert go_on(tmp_path / "b.h5") == list(range(12))  # every path is its own run


def test_what_was_begun_otherwise_is_begun_again(tmp_path):
    interrupted(tmp_path / "a.h5", BLOCKS[:2])
    assert go_on(tmp_path / "a.h5", {**RECORD, "weights": {"denoise": "cd34"}}) == list(range(12))
    assert is_whole(tmp_path / "a.h5")


def test_nothing_is_left_where_nothing_was_done(tmp_path):
    interrupted(tmp_path / "a.h5", [])
    assert not list(tmp_path.iterdir())
    with pytest.raises(PrenetError, match="8 of 12 patterns were not written"):
        with emd.resumable_cube(cube(), tmp_path / "a.h5", np.float32, RECORD) as target:
            target.write(np.array([0, 1, 5, 6]), PATTERNS[:4])
    assert not (tmp_path / "a.h5").exists()


def test_a_damaged_remainder_is_no_obstacle(tmp_path):
    interrupted(tmp_path / "a.h5", BLOCKS[:2])
    left = next(tmp_path.iterdir())
    left.write_bytes(left.read_bytes()[:3000])
    assert go_on(tmp_path / "a.h5") == list(range(12))
    assert is_whole(tmp_path / "a.h5")


def test_positions_that_do_not_follow_one_another(tmp_path):
    with emd.resumable_cube(cube(), tmp_path / "a.h5", np.float32, RECORD) as target:
        for index in (np.array([0, 2, 3, 4, 11]), np.array([1, 5, 6, 7, 8, 9, 10])):
            target.write(index, PATTERNS[index])
    assert is_whole(tmp_path / "a.h5")


def write_slowly(path, wait):
    with emd.resumable_cube(cube(), path, np.float32, RECORD) as target:
        for index in BLOCKS[:3]:
            target.write(index, PATTERNS[index])
        (path.parent / "three").touch()
        time.sleep(wait)


def test_a_killed_process_loses_no_finished_block_and_a_second_one_is_kept_out(tmp_path):
    path = tmp_path / "a.h5"
    process = multiprocessing.get_context("fork").Process(target=write_slowly, args=(path, 60))
    process.start()
    while not (tmp_path / "three").exists():
        time.sleep(0.01)
    with pytest.raises(PrenetError, match="Another process is writing"):
        go_on(path)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (tmp_path / "three").unlink()
    assert go_on(path) == np.concatenate(BLOCKS[3:]).tolist()
    assert is_whole(path)


def test_a_file_that_is_not_resumable_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), files.new_file(tmp_path / "a.h5") as partial:
        partial.write_bytes(b"half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
