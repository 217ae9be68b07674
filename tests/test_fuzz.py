"""Some of the mutated inputs of `fuzz.py`, which makes a million by a command; and kinds of damage that it found."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from fuzz import originals

import py4dstem_prenet
from py4dstem_prenet.core.errors import PrenetError


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.slow
def test_mutated_files_and_arrays_are_taken_or_refused():
    """In a process of its own, since to fork one that has threads is not safe."""
    code = "import fuzz, json; print(json.dumps(fuzz.run(1500, seconds=60)))"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert made.returncode == 0, made.stderr
    counts, failures = json.loads(made.stdout.splitlines()[-1])
    assert [failure for failure in failures if failure.startswith("FAIL")] == []
    taken, refused = np.sum(list(counts.values()), 0)
    assert taken > 100 and refused > 200  # a slow machine does not reach all of them


def refused(path):
    with pytest.raises(PrenetError) as caught:
        py4dstem_prenet.open(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", ["(2, 3, 32", f"({2**63}, 3, 32, 34)", f"({2**62}, 3, 32, 34)", "(-1, 3, 32, 34)"])
def test_a_header_that_numpy_stumbles_over(shape, tmp_path):
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    header = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
    (tmp_path / "a.npy").write_bytes(header + bytes(7000))
    refused(tmp_path / "a.npy")


def test_an_emd_file_whose_objects_are_others(tmp_path):
    """A link to itself, a class that is an array, data that are a group, an entry that is damaged."""
    path = tmp_path / "a.h5"
    whole = originals()["emd"][0]

    def with_file(change):
        path.write_bytes(whole)
        with h5py.File(path, "r+") as file:
            change(file, file["scan_root/scan"])

    def link(file, cube):
        del file["scan_root/scan/data"]
        cube["data"] = h5py.SoftLink("/scan_root/scan/data")

    def group(file, cube):
        del cube["data"]
        cube.create_group("data")

    def classes(file, cube):
        cube.attrs["emd_group_type"] = [1, 2]
        file["scan_root"].attrs["emd_group_type"] = np.zeros(3)

    for change in (link, group):
        with_file(change)
        refused(path)
    with_file(classes)
    assert py4dstem_prenet.open(path).data.shape == (2, 3, 32, 34)  # what was spoiled is not needed
    at = whole.index(b"SNOD")
    path.write_bytes(whole[:at] + b"SNOB" + whole[at + 4 :])
    refused(path)


def test_a_scan_longer_than_any(tmp_path):
    """A header may say so without any data behind it; py4DSTEM would list the positions one by one."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("data", (2**31, 2, 40, 40), "u1", chunks=(8, 2, 8, 8))
    refused(tmp_path / "a.h5")
