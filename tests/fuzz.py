"""Test `open`, and the checks that `calibrate` makes first, with damaged files and arrays.

    python tests/fuzz.py --inputs 1000000

The number of an input is its seed: `--first N --inputs 1` repeats input N. An input may be read, or refused with
PrenetError. Any other exception is a failure, and so is a crash, a hang, or too much memory. Inputs run in a child
process, which is restarted after an input that kills it. Crashes and hangs inside the HDF5 library are counted apart,
since this package cannot prevent them.
"""

import argparse
import faulthandler
import mmap
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import py4DSTEM

import py4dstem_prenet
from py4dstem_prenet.core import as_scan
from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.detector.estimate import estimate_noise
from py4dstem_prenet.origin.measure import check_mask

BUDGET = 2**29  # bytes of address space that an input of some kB may take beyond what was there before
PATIENCE = 2.0  # seconds of computing, for an input that takes some milliseconds
SCAN, SHAPE = (2, 3), (32, 34)
LENGTHS = (0, 1, 2, 3, 31, 32, 255, 65536, 2**31, 2**40)
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
TYPES = ("u1", ">u2", "<i4", ">f4", "f2", "f8", "g", "c8", "?", "S5", "M8[s]", "V3", "i4,f4", "u8", "(3,)f4")
VALUES = ("DataCube", "Calibration", "", "file", "nö\0", b"\xff\xfe", np.nan, -1, 2**62, np.zeros((0, 3)), [1, 2],
          h5py.Empty("f"), "__import__", np.bool_(True), "../../x", "a" * 5000)
LEARN = 0.01  # of the inputs also have their noise estimated
# How often each kind of input is made, by the time that one takes: an EMD file with a tree takes a hundred .npy files'.
SHARE = {"array": 0.45, "header": 0.35, "plain": 0.08, "packed": 0.05, "emd": 0.055, "tree": 0.0025,
         "calibration": 0.0125}


# --- what is mutated


def _patterns():
    return np.random.default_rng(0).poisson(3, (*SCAN, *SHAPE)).astype(np.uint8)


def _emd(path, tree):
    cube = py4DSTEM.DataCube(_patterns(), name="scan")
    x, y = np.mgrid[: SCAN[0], : SCAN[1]].astype(float)
    cube.calibration.set_origin((15 + x, 16 - y))
    cube.calibration.set_ellipse((1.01, 0.99, 0.3))
    cube.metadata = py4DSTEM.Metadata("prenet", {"json": '{"verdicts": ["good"]}', "values": np.ones(2)})
    if tree:
        cube.attach(py4DSTEM.RealSlice(np.ones(SCAN), name="image"))
    py4DSTEM.save(path, cube.root)


def originals():
    """{kind: whole files, as bytes}."""
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.h5"

        def keep(kind):
            files.setdefault(kind, []).append(path.read_bytes())
            path.unlink()

        for kind in ("emd", "tree"):
            _emd(path, kind == "tree")
            keep(kind)
        cube = py4DSTEM.DataCube(_patterns())
        cube.calibration.set_origin((np.ones(SCAN), np.ones(SCAN)))
        py4DSTEM.save(path, cube.calibration)
        keep("calibration")
        for libver in ("earliest", "latest"):
            for kind, options in (("plain", {}), ("packed", dict(chunks=(1, 1, *SHAPE), compression="gzip"))):
                with h5py.File(path, "w", libver=libver) as file:
                    file.create_dataset("entry/data", data=_patterns().astype(np.uint16), **options)
                keep(kind)
        for data in (_patterns(), _patterns().astype(">f4"), np.asfortranarray(_patterns().astype(np.int16))):
            np.save(path.with_suffix(".npy"), data)
            path.with_suffix(".npy").rename(path)
            keep("header")
    return files


def _damaged(rng, content):
    """Bytes with some flipped, overwritten, cut out, or put in."""
    content = bytearray(content)
    for _ in range(int(rng.choice([1, 1, 2, 3, 8, 40]))):
        at = int(rng.integers(len(content))) if rng.random() < 0.5 else int(len(content) * rng.random() ** 4)
        way = rng.integers(7)
        if way <= 1:
            content[at] ^= 1 << int(rng.integers(8))
        elif way == 2:
            content[at] = int(rng.integers(256))
        elif way == 3:
            size = int(rng.choice([1, 2, 4, 8]))
            number = int(rng.choice(np.array(NUMBERS, np.uint64))) & (256**size - 1)
            content[at : at + size] = number.to_bytes(size, "little")
        elif way == 4:
            source = int(rng.integers(len(content)))
            size = int(rng.integers(1, 64))
            content[at : at + size] = content[source : source + size]
        elif way == 5:
            del content[at : at + int(rng.integers(1, 9))]
        elif rng.random() < 0.2:
            del content[at:]
        else:
            content[at:at] = rng.bytes(int(rng.integers(1, 9)))
        if not content:
            break
    return bytes(content)


def _rebuilt(rng, content, path):
    """The HDF5 file with other objects in it: well-formed, but of unexpected types and shapes."""
    path.write_bytes(content)
    with h5py.File(path, "r+") as file:
        for _ in range(int(rng.choice([1, 1, 2, 4]))):
            nodes = []
            file.visit(nodes.append)
            if not nodes:
                break
            where = nodes[rng.integers(len(nodes))]
            node, way = file[where], rng.integers(8)
            if way == 0:
                del file[where]
            elif way == 1:
                file.move(where, where + "é")
            elif way == 2 and len(node.attrs):
                del node.attrs[list(node.attrs)[rng.integers(len(node.attrs))]]
            elif way in (3, 4):
                known = [*node.attrs, "emd_group_type", "python_class", "version_major"]
                _try(node.attrs.__setitem__, known[rng.integers(len(known))], VALUES[rng.integers(len(VALUES))])
            elif way in (5, 6):
                del file[where]
                rank = int(rng.choice([0, 1, 2, 3, 4, 4, 4, 5]))
                shape = tuple(int(n) for n in rng.choice(LENGTHS if way == 5 else (1, 2, 3, 32, 40), rank))
                large = float(np.prod([float(n) for n in shape])) > 1e5
                _try(file.create_dataset, where, shape, rng.choice(TYPES), chunks=(8,) * rank if large else None)
            else:
                del file[where]
                target = nodes[rng.integers(len(nodes))]
                file[where] = (h5py.SoftLink("/" + target), h5py.ExternalLink("/nowhere.h5", "/x"),
                               h5py.SoftLink("/" + where), file["/"])[rng.integers(4)]
    return path.read_bytes()


def _try(make, *arguments, **options):
    try:
        make(*arguments, **options)
    except (ValueError, TypeError, OSError, OverflowError, KeyError):  # what HDF5 cannot hold is no input
        pass


def _header(rng, content):
    """A .npy file with another header."""
    shape = tuple(int(n) for n in rng.choice([*LENGTHS, -1, 2**63], int(rng.integers(0, 6))))
    shape = rng.choice(["(2, 3, 32, 34)", "(6, 32, 34)", "(2, 3, 32", "None", "(2., 3, 32, 34)", "{}", repr(shape)])
    descr = rng.choice([*map(repr, TYPES), "'|O'", "[('a', '<f4')]", "''", "7", "'<u1024'", "'" + "f" * 300 + "'"])
    order = rng.choice(["True", "False", "None", "3"], p=[0.1, 0.8, 0.05, 0.05])
    if rng.random() < 0.3:
        descr = "'|u1'"
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
    version = bytes(rng.choice([(1, 0), (2, 0), (3, 0), (9, 9)], p=[0.7, 0.1, 0.1, 0.1]).astype(np.uint8))
    size = len(text).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + version + size + text.encode() + content[128:]


def _array(rng):
    """An array and a mask of random shapes and types."""
    rank = int(rng.choice([0, 1, 2, 3, 4, 4, 4, 4, 5]))
    shape = tuple(int(n) for n in rng.choice([0, 1, 2, 3, 31, 32, 33, 40], rank))
    if len(shape) == 4 and rng.random() < 0.7:
        shape = (*rng.integers(1, 4, 2).tolist(), *rng.integers(32, 41, 2).tolist())
    dtype = np.dtype(str(rng.choice(["u1", "u2", ">i2", "i8", "u8", ">f4", "f2", "f8", "g"]))
                     if rng.random() < 0.7 else str(rng.choice([*TYPES, "O"])))
    if dtype.kind in "iufc?" and not dtype.shape and np.prod(shape) < 2e5:
        data = rng.poisson(3, shape).astype(dtype)
        if data.size and dtype.kind in "iuf":
            info = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
            extremes = [info.min, info.max, 0, 1, *([np.nan, np.inf, -np.inf, 1e-30] if dtype.kind == "f" else [])]
            for _ in range(int(rng.integers(4))):
                data.flat[rng.integers(data.size)] = extremes[rng.integers(len(extremes))]
            if rng.random() < 0.05:
                data[...] = extremes[rng.integers(len(extremes))]
    else:
        data = np.broadcast_to(np.zeros((1,) * len(shape), dtype), shape) if not dtype.shape else np.zeros((), dtype)
    if rng.random() < 0.05:
        data = np.ma.masked_array(data)
    mask = None
    if rng.random() < 0.5:
        mask = np.ones(shape[2:] if rng.random() < 0.7 else (3, 3), bool if rng.random() < 0.7 else "f4")
    return data, mask


# --- what is done with it


def check_array(data, mask, learn):
    """Run the checks of `calibrate`; with learn, also estimate the noise, for which patterns are read."""
    scan = as_scan(data)
    check_mask(scan, mask)
    if learn:
        estimate_noise(scan)


def check_file(path, learn):
    """Open, as a user would."""
    cube = py4dstem_prenet.open(path)
    try:
        check_array(cube, None, learn)
    finally:
        if isinstance(cube.data, h5py.Dataset):
            cube.data.file.close()


def one(number, kinds, folder, seed=0):
    """Make an input and open it. Returns its kind, and "taken" or "refused"."""
    rng = np.random.default_rng((seed, number))
    kind = str(rng.choice(list(SHARE), p=np.array(list(SHARE.values())) / sum(SHARE.values())))
    learn = rng.random() < LEARN
    try:
        if kind == "array":
            check_array(*_array(rng), learn)
            return kind, "taken"
        content = kinds[kind][rng.integers(len(kinds[kind]))]
        path = folder / ("a.npy" if kind == "header" else "a.h5")
        if kind == "header":
            content = _header(rng, content) if rng.random() < 0.5 else content
        elif rng.random() < 0.3:
            content = _rebuilt(rng, content, folder / "made.h5")
        if kind == "header" or rng.random() < 0.7:
            content = _damaged(rng, content)
        path.write_bytes(content)
        check_file(path, learn)
        return kind, "taken"
    except PrenetError as error:
        assert str(error).strip() and "Traceback" not in str(error)
        return kind, "refused"


# --- many of it


def _child(numbers, kinds, folder, reached, counts, failures):
    """Open inputs in a process with limited memory. reached, counts: memory shared with the parent."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_AS, (used + BUDGET,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    sys.stderr = open(os.devnull, "w")
    trace = open(folder / "trace", "w")
    faulthandler.enable(trace)
    faulthandler.register(signal.SIGPROF, trace, chain=True)
    with open(failures, "a", buffering=1) as file:
        for number in numbers:
            reached[0] = number
            signal.setitimer(signal.ITIMER_PROF, PATIENCE)
            try:
                kind, became = one(number, kinds, folder)
                counts[list(SHARE).index(kind), ["taken", "refused"].index(became)] += 1
            except Exception as error:
                frames = traceback.extract_tb(error.__traceback__)
                ours = [f for f in frames if "py4dstem_prenet" in f.filename] or frames
                told = (str(error).splitlines() or [""])[0][:120]
                file.write(f"FAIL {number} {type(error).__name__} at {Path(ours[-1].filename).name}:{ours[-1].lineno} "
                           f"({Path(frames[-1].filename).name}): {told}\n")


def run(inputs, first=0, seconds=float("inf")):
    """Open inputs first, first + 1, ...

    Returns the numbers of inputs of each kind that were read and refused, {kind: (taken, refused)}, and the failures as
    texts: "FAIL", or "HDF5" if the HDF5 library itself hung or crashed, then the number and what happened.
    """
    end, number = time.monotonic() + seconds, first
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    reached = np.frombuffer(mmap.mmap(-1, 8), np.int64)
    counts = np.frombuffer(mmap.mmap(-1, 16 * len(SHARE)), np.int64).reshape(-1, 2)
    written, failures = folder / "failures", []
    written.touch()
    try:
        kinds = originals()
        while number < first + inputs and time.monotonic() < end:
            stop = min(number + 5_000, first + inputs)  # what libraries keep of a file adds up
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    _child(range(number, stop), kinds, folder, reached, counts, written)
                    code = 0
                finally:
                    os._exit(code)
            status = _wait(child, end)
            if status is None:
                break
            if status == 0:
                number = stop
                continue
            trace = (folder / "trace").read_text()
            innermost = [part.splitlines()[1].split('"')[1] for part in trace.split("\n\n") if '"' in part]
            at = next((path for path in innermost if "/h5py/" in path), (innermost or ["?"])[-1])  # of all threads
            how = "hangs" if os.WTERMSIG(status) == signal.SIGPROF else f"kills the process (status {status})"
            failures.append(f"{'HDF5' if '/h5py/' in at else 'FAIL'} {reached[0]} {how} in {Path(at).name}")
            number = int(reached[0]) + 1
        failures += written.read_text().splitlines()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return dict(zip(SHARE, counts.tolist(), strict=True)), failures


def _wait(child, end):
    """Exit status of the child, or None if it was killed at the end of the time."""
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.02)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    options = parser.parse_args()
    counted, failed = run(options.inputs, options.first, 60 * options.minutes)
    for kind, (taken, refused) in counted.items():
        print(f"{kind:12s} {taken:9,} taken {refused:9,} refused")
    print(f"{np.sum(list(counted.values())):9,}  inputs without a failure")
    same = Counter(line.split(" ", 2)[2] for line in failed)
    for text, count in same.most_common(40):
        example = next(line.split(" ")[1] for line in failed if line.endswith(text))
        print(f"{count:9,}  FAILED {text} (input {example})")
    inside = sum(line.startswith("HDF5") for line in failed)
    print(f"{inside:9,}  inside the HDF5 library\n{len(failed) - inside:9,}  failures")
    raise SystemExit(len(failed) > inside)
