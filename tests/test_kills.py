"""Killed at random moments, what writes leaves the old file or the new one; benchmarks/kills.py does it 240 times."""

import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("kills", Path(__file__).parents[1] / "benchmarks" / "kills.py")
kills = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kills)


@pytest.mark.slow
def test_nothing_is_lost(tmp_path):
    counts = kills.run(3, seed=1, folder=tmp_path)
    assert len(counts) == 5 and all(sum(found.values()) == 3 for found in counts.values())


def test_a_writer_that_fills_its_file_in_place_is_caught(monkeypatch, tmp_path):
    """The test above can fail."""
    def careless(cube, path):
        path.write_bytes(b"half")
        kills.time.sleep(60)

    monkeypatch.setitem(kills.WRITERS, "save", (careless, ".h5", kills.whole_scan))
    kills.save(kills.make_cube(), tmp_path / "old.h5")
    with pytest.raises(Exception):  # noqa: B017  (py4DSTEM's own, of whatever kind)
        kills.kill_once("save", kills.make_cube(), tmp_path, 1.0)
