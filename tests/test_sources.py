"""Frames out of files that grow, stop, start anew or go away; nothing is timed but the writer's silence."""

import re

import h5py
import numpy as np
import pytest

from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.live.following import Ended, Frames, Restarted, Waiting, follow, from_frames
from py4dstem_prenet.live.sources import Hdf5File, RawFile, open_source

SCAN = (3, 4)
PATTERNS = np.arange(12 * 32 * 40, dtype=np.uint16).reshape(12, 32, 40)


def raw(path, frames=PATTERNS, header=b"", gap=b"", mode="wb"):
    with open(path, mode) as file:
        file.write(header)
        for frame in frames:
            file.write(frame.tobytes() + gap)
    return path


def grown(path, source, then, timeout=5.0):
    """All events; `then` is a list of actions, one each time the follower finds nothing new."""
    events = []
    for event in follow(source, SCAN, timeout, poll=0.001):
        events.append(event)
        if isinstance(event, Waiting) and then:
            then.pop(0)()
    return [e for e in events if not isinstance(e, Waiting)]


def read(events):
    """Patterns by position; what is read after a restart counts."""
    found = {}
    for event in events:
        if isinstance(event, Restarted):
            found = {}
        elif isinstance(event, Frames):
            found.update(zip(event.positions.tolist(), event.patterns, strict=True))
    return found


def numbers_in(ended):
    """The whole numbers in the reason of an end."""
    return [int(number) for number in re.findall(r"\d+", ended.reason)]


def is_scan(events, patterns=PATTERNS):
    found = read(events)
    return list(found) == list(range(len(patterns))) and np.array_equal(np.stack(list(found.values())), patterns)


def test_a_raw_file_is_read_as_it_grows_and_half_a_frame_is_none(tmp_path):
    path = raw(tmp_path / "a.raw", PATTERNS[:2])
    half = PATTERNS[2].tobytes()
    steps = [lambda: path.open("ab").write(half[:700]), lambda: path.open("ab").write(half[700:]),
             lambda: raw(path, PATTERNS[3:], mode="ab")]
    events = grown(path, lambda: RawFile(path, (32, 40)), steps)
    assert is_scan(events) and (events[-1].frames, events[-1].complete) == (12, True)
    assert numbers_in(events[-1]) == []
    assert [len(e.positions) for e in events[:-1]] == [2, 1, 9]


def test_headers_gaps_and_the_order_of_bytes(tmp_path):
    path = raw(tmp_path / "a.raw", PATTERNS.astype(">u2"), header=b"h" * 100, gap=b"g" * 6)
    source = RawFile(path, (32, 40), ">u2", 100, 6)
    assert source.count() == 12 and source.read(3, 7).dtype == np.uint16
    assert np.array_equal(source.read(3, 7), PATTERNS[3:7])
    assert np.array_equal(source.data(2, 4), PATTERNS[:8].reshape(2, 4, 32, 40))


@pytest.mark.parametrize("replace", ["shorter", "another file"])
def test_a_scan_that_is_started_again_is_read_anew(tmp_path, replace):
    path = raw(tmp_path / "a.raw", PATTERNS[:5] + 1)

    def again():
        if replace == "another file":
            path.unlink()
        raw(path, PATTERNS[:2])

    events = grown(path, lambda: RawFile(path, (32, 40)), [again, lambda: raw(path, PATTERNS[2:], mode="ab")])
    assert Restarted() in events and is_scan(events)


def test_a_file_of_more_patterns_than_the_scan_has_is_told(tmp_path):
    path = raw(tmp_path / "a.raw", np.concatenate([PATTERNS, PATTERNS[:2]]))
    events = grown(path, lambda: RawFile(path, (32, 40)), [])
    assert is_scan(events) and events[-1].complete and numbers_in(events[-1]) == [2, 3, 4]  # 2 more than 3 x 4


def test_a_writer_that_dies_is_told_and_so_is_a_file_that_goes(tmp_path):
    path = raw(tmp_path / "a.raw", PATTERNS[:5])
    ended = grown(path, lambda: RawFile(path, (32, 40)), [], timeout=0.05)[-1]
    assert (ended.frames, ended.complete) == (5, False) and numbers_in(ended)[-2:] == [5, 12]
    events = []
    for event in follow(lambda: RawFile(path, (32, 40)), SCAN, 0.3, poll=0.001):
        events.append(event)
        if isinstance(event, Waiting) and path.exists():
            path.unlink()
    assert isinstance(events[-1], Ended) and not events[-1].complete
    assert sum(event.gone for event in events[:-1] if isinstance(event, Waiting)) > 3  # it goes on telling


def writer(path, full=False, dims=3):
    file = h5py.File(path, "w", libver="latest")
    shape = (12, 32, 40) if dims == 3 else (3, 4, 32, 40)
    chunks = (1, *shape[1:]) if dims == 3 else (1, 1, *shape[2:])
    start = shape if full else (0, *shape[1:])
    most = shape if full else (None, *shape[1:])
    data = file.create_dataset("entry/data", start, np.uint16, maxshape=most, chunks=chunks)
    file["other"] = np.zeros(5)
    file.swmr_mode = True

    def write(first, last):
        if not full:
            data.resize(last if dims == 3 else last // 4, axis=0)
        if dims == 3:
            data[first:last] = PATTERNS[first:last]
        else:
            data[first // 4 : last // 4] = PATTERNS[first:last].reshape(-1, 4, 32, 40)
        data.flush()
        file.flush()

    return file, write


@pytest.mark.parametrize("full", [False, True], ids=["grows", "full shape at once"])
@pytest.mark.parametrize("dims", [3, 4])
def test_hdf5_is_read_while_it_is_written(tmp_path, full, dims):
    path = tmp_path / "a.h5"
    file, write = writer(path, full, dims)
    write(0, 4)
    events = grown(path, lambda: open_source(path, SCAN), [lambda: write(4, 8), lambda: write(8, 12)])
    assert is_scan(events) and [len(e.positions) for e in events[:-1]] == [4, 4, 4]
    source = Hdf5File(path, 4)
    assert np.array_equal(np.asarray(source.data(2, 4)), PATTERNS[:8].reshape(2, 4, 32, 40))
    source.close()
    file.close()
    assert is_scan(grown(path, lambda: open_source(path, SCAN, name="entry/data"), []))  # complete, as any other file


def test_an_iterator_of_frames_is_a_source_as_well():
    assert is_scan(list(from_frames(iter(PATTERNS), SCAN)))
    events = list(from_frames(iter(PATTERNS[:6]), SCAN))
    assert is_scan(events, PATTERNS[:6]) and events[-1].frames == 6 and not events[-1].complete


def test_what_cannot_be_read_gets_one_sentence(tmp_path):
    path = raw(tmp_path / "a.raw")
    with pytest.raises(PrenetError):
        open_source(path, SCAN)
    with pytest.raises(PrenetError):
        open_source(tmp_path / "b.raw", SCAN, (32, 40))
    with pytest.raises(PrenetError):
        open_source(path, SCAN, (32, 40), "uint17")
    with pytest.raises(PrenetError):
        open_source(path, SCAN, (32, 40), header=-1)
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a"] = file["b"] = np.zeros((2, 40, 40))
        file["c"] = np.zeros((3, 2, 40, 40))
    with pytest.raises(PrenetError):
        open_source(tmp_path / "two.h5", SCAN)
    with pytest.raises(PrenetError):
        open_source(tmp_path / "two.h5", SCAN, name="d")
    with pytest.raises(PrenetError):
        open_source(tmp_path / "two.h5", SCAN, name="c")
    (tmp_path / "cut.h5").write_bytes((tmp_path / "two.h5").read_bytes()[:900])
    with pytest.raises(PrenetError):
        open_source(tmp_path / "cut.h5", SCAN)
