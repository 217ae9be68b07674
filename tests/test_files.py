"""Files whose writing takes long, and what is left of them after an interruption."""

import contextlib
import multiprocessing
import os
import signal
import time

import h5py
import numpy as np
import py4DSTEM
import pytest

from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.io import emd_files, files, hdf5_access, opening

SHAPE = (3, 4, 32, 32)
RECORD = {"version": "1", "weights": {"denoise": "ab12"}}
DATA = np.random.default_rng(0).random(SHAPE).astype(np.float32)
PATTERNS = DATA.reshape(-1, 32, 32)
BLOCKS = np.array_split(np.arange(12), 5)


def cube(name="scan"):
    return py4DSTEM.DataCube(np.broadcast_to(np.float32(0), SHAPE), name=name)


def interrupted(path, blocks, record=RECORD, error=KeyboardInterrupt):
    with pytest.raises(error), emd_files.resumable_cube(cube(), path, np.float32, record) as target:
        for index in blocks:
            target.write(index, PATTERNS[index])
        raise error


def go_on(path, record=RECORD):
    """Write what is missing; which positions that were."""
    with emd_files.resumable_cube(cube(), path, np.float32, record) as target:
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


def test_a_cube_of_another_name_is_written_from_the_start(tmp_path):
    interrupted(tmp_path / "a.h5", BLOCKS[:2])
    with emd_files.resumable_cube(cube("other"), tmp_path / "a.h5", np.float32, RECORD) as target:
        assert not target.done.any()
        target.write(np.arange(12), PATTERNS)
    np.testing.assert_array_equal(py4DSTEM.read(tmp_path / "a.h5").data, DATA)


@pytest.mark.parametrize("fails", [False, True])
def test_a_file_system_without_hard_links(tmp_path, monkeypatch, fails):
    """The name is taken first, then filled; where that fails it is given back."""

    def denied(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", denied)
    if fails:
        monkeypatch.setattr(os, "replace", denied)
    with pytest.raises(OSError) if fails else contextlib.nullcontext():
        with files.new_file(tmp_path / "a.h5") as partial:
            partial.write_bytes(b"whole")
    assert [p.name for p in tmp_path.iterdir()] == ([] if fails else ["a.h5"])
    if not fails:
        with pytest.raises(PrenetError):
            with files.new_file(tmp_path / "a.h5") as partial:
                partial.write_bytes(b"other")
        assert (tmp_path / "a.h5").read_bytes() == b"whole"


def test_nothing_is_left_where_nothing_was_done(tmp_path):
    interrupted(tmp_path / "a.h5", [])
    assert not list(tmp_path.iterdir())
    with pytest.raises(PrenetError):
        with emd_files.resumable_cube(cube(), tmp_path / "a.h5", np.float32, RECORD) as target:
            target.write(np.array([0, 1, 5, 6]), PATTERNS[:4])
    assert not (tmp_path / "a.h5").exists()


def test_a_damaged_remainder_is_no_obstacle(tmp_path):
    interrupted(tmp_path / "a.h5", BLOCKS[:2])
    left = next(tmp_path.iterdir())
    left.write_bytes(left.read_bytes()[:3000])
    assert go_on(tmp_path / "a.h5") == list(range(12))
    assert is_whole(tmp_path / "a.h5")


def test_positions_that_do_not_follow_one_another(tmp_path):
    with emd_files.resumable_cube(cube(), tmp_path / "a.h5", np.float32, RECORD) as target:
        for index in (np.array([0, 2, 3, 4, 11]), np.array([1, 5, 6, 7, 8, 9, 10])):
            target.write(index, PATTERNS[index])
    assert is_whole(tmp_path / "a.h5")


def write_slowly(path, wait):
    with emd_files.resumable_cube(cube(), path, np.float32, RECORD) as target:
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
    with pytest.raises(PrenetError):
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


@pytest.mark.parametrize(("shape", "columns"), [((3, 4, 32, 32), 4), ((2, 600, 32, 32), 200), ((2, 7, 512, 512), 1),
                                                ((1, 1, 700, 500), 1)])
def test_what_is_streamed_lies_in_chunks_along_the_scan_and_still_in_one_piece(tmp_path, shape, columns):
    path = tmp_path / "a.h5"
    data = np.random.default_rng(0).integers(0, 99, shape).astype(np.float32)
    empty = py4DSTEM.DataCube(np.broadcast_to(np.float32(0), shape), name="scan")
    with emd_files.resumable_cube(empty, path, np.float32, RECORD) as target:
        for index in np.array_split(np.arange(shape[0] * shape[1]), min(3, shape[0]))[::-1]:
            target.write(index, data.reshape(-1, *shape[2:])[index])
    with h5py.File(path) as file:
        stored = file["scan_root/scan/data"]
        assert stored.chunks == (1, columns, *shape[2:])
        assert hdf5_access.contiguous_offset(stored) is not None
    np.testing.assert_array_equal(py4DSTEM.read(path).data, data)
    opened = opening.open(path)
    assert isinstance(opened.data, np.memmap)
    np.testing.assert_array_equal(opened.data, data)


@pytest.mark.parametrize("options", [dict(chunks=(1, 4, 32, 32)), dict(chunks=(1, 3, 32, 32)), dict(chunks=True),
                                     dict(chunks=(1, 4, 32, 32), compression="gzip")])
def test_chunks_that_may_lie_anywhere_are_not_taken_for_one_piece(tmp_path, options):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        assert hdf5_access.contiguous_offset(file.create_dataset("a", data=DATA, **options)) is None
        piece = hdf5_access.contiguous_offset(file.create_dataset("b", data=DATA))
    assert np.array_equal(np.memmap(tmp_path / "a.h5", np.float32, "r", piece, SHAPE), DATA)
