"""Measure patterns per second and peak memory against the size of the file, the patterns and the number of threads.

    python benchmarks/throughput.py [--quick] [--folder DIR] [--pyxem PYTHON]

The scans are memory-mapped uint16 files, made of one simulated piece that is repeated and mirrored, so that the descan
is continuous; the descan is small, since many folds of it are no smooth surface. Every row of the table is measured in
a process of its own, with the file on the disk and not in the page cache. Memory is the peak of anonymous resident
memory; cached pages of the file are not counted. Then py4DSTEM's `get_origin` (with the true radius) processes a few
hundred of the same patterns, as float32 in memory, and `denoise` a square part of the smallest scan, in memory, with
the origin that was found. The heads of the table give the numbers of patterns.

pyxem's `center_direct_beam` (blur by the true radius; it also shifts the patterns) processes the patterns of
`get_origin` with as many Dask threads, if `--pyxem` names a Python that has it (`pip install "pyxem<0.21"` in an
environment of its own).

    python benchmarks/throughput.py --operations

counts the operations of each network for a pattern instead, and estimates the rate on GPUs.
"""

import argparse
import contextlib
import datetime
import io
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

PIECE = 32  # positions along each side of the simulated piece
RADIUS = 0.05  # of the direct disk, in sides of a pattern


def scan_shape(gigabytes, side):
    """(Rx, Ry), multiples of the piece, of a uint16 file of about that size."""
    pieces = max(1, round(gigabytes * 2**30 / (2 * side**2 * PIECE**2)))
    columns = max(n for n in range(1, int(pieces**0.5) + 1) if pieces % n == 0)
    return pieces // columns * PIECE, columns * PIECE


def mirrored(count):
    """Positions of the piece along an axis of so many, to and fro. Its ends come once, so that no even sample of a scan
    always meets the same of them."""
    at = np.arange(count) % (2 * PIECE - 2)
    return np.minimum(at, 2 * PIECE - 2 - at)


def write_scan(path, gigabytes, side):
    from py4dstem_prenet.simulation.scan import simulate

    rx, ry = scan_shape(gigabytes, side)
    piece = simulate((PIECE, PIECE), (side, side), dose=3000, seed=1, amplitude=0.1, radius=RADIUS * side).counts
    piece = piece.astype(np.uint16)
    file = np.lib.format.open_memmap(path, "w+", np.uint16, (rx, ry, side, side))
    rows, columns = mirrored(rx), mirrored(ry)
    for first in range(0, rx, 8):
        file[first : first + 8] = piece[rows[first : first + 8]][:, columns]
    file.flush()


def forget(path):
    """Have the system write a file out and drop it from its cache, so that every row begins alike."""
    with open(path, "r+b") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def anonymous():
    """Anonymous resident memory of this process in MiB; NaN where the system does not tell."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024
    except (OSError, StopIteration):
        return float("nan")


class Peak:
    """The largest anonymous memory within a block."""

    def __enter__(self):
        self.value, self._stop = anonymous(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while not self._stop.wait(0.01):
            self.value = max(self.value, anonymous())

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


def seconds(function, *args, **kwargs):
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        function(*args, **kwargs)
    return time.perf_counter() - start


def first_patterns(data, few):
    """The first `few` patterns of the scan's first piece, float32 in memory, as a scan of one row."""
    some = data[: -(-few // PIECE), :PIECE]
    return np.array(some.reshape(-1, *some.shape[2:])[None, :few], np.float32)


def measure(path, threads, few, part):
    """In the process of a row: what is measured, as a dict. `part`: side of the square part to denoise; 0 for none."""
    import torch

    torch.set_num_threads(threads)
    import py4DSTEM
    from py4DSTEM.process.calibration.origin import get_origin

    import py4dstem_prenet
    from py4dstem_prenet.denoising.denoiser import denoise
    from py4dstem_prenet.pipeline import calibrate

    cube = py4dstem_prenet.open(path)
    rx, ry, side, _ = cube.data.shape
    calibrate(py4DSTEM.DataCube(cube.data[:8, :8]), progress=False)  # what is loaded and set up once
    with Peak() as peak:
        calibrating = seconds(calibrate, cube, progress=False)
    row = {"scan": (rx, ry), "side": side, "size": cube.data.nbytes / 2**30, "threads": threads, "seconds": calibrating,
           "rate": rx * ry / calibrating, "memory": peak.value}
    floats = first_patterns(cube.data, few)
    row["get_origin"] = few / seconds(get_origin, py4DSTEM.DataCube(floats), r=RADIUS * side)
    if part:
        square = py4DSTEM.DataCube(np.array(cube.data[:part, :part]))
        square.calibration.set_origin([m[:part, :part] for m in cube.calibration.get_origin()])
        row["denoise"] = square.data[..., 0, 0].size / seconds(denoise, square, progress=False)
    return row


def operations(side=128, batch=8):
    """{network: (floating-point operations, bytes moved at least)} of a pattern of side x side pixels.

    Bytes: what the layers that compute read and write if nothing stays in a cache, float32, weights left out.
    """
    import torch

    from py4dstem_prenet.networks.center import WINDOW
    from py4dstem_prenet.networks.weights import load

    center, denoiser = load("center"), load("denoise")
    images = torch.rand(batch, side, side)
    calls = {
        "center (windows in doubt)": (center.fine, (torch.rand(batch, 3, WINDOW, WINDOW), torch.ones(batch))),
        "denoise": (denoiser, (images, torch.zeros(batch), images > -1, images, torch.full((batch,), 9.0))),
    }
    return {name: _counted(network, inputs, batch) for name, (network, inputs) in calls.items()}


def _counted(network, inputs, batch):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    moved = []

    def note(layer, seen, result):
        moved.append(result.nbytes + sum(x.nbytes for x in seen))

    kinds = torch.nn.Conv2d | torch.nn.Linear | torch.nn.GroupNorm
    hooks = [layer.register_forward_hook(note) for layer in network.modules() if isinstance(layer, kinds)]
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(*inputs)
    for hook in hooks:
        hook.remove()
    return counter.get_total_flops() / batch, sum(moved) / batch


# Vendors' figures: float32 without tensor cores, operations a second; memory, bytes a second.
GPUS = {"A100 (19.5 TFLOP/s, 1.6 TB/s)": (19.5e12, 1.6e12), "RTX 3060 (12.7 TFLOP/s, 0.36 TB/s)": (12.7e12, 0.36e12)}
REACHED = 0.3  # of these figures, by small convolutions: a guess


def tell_operations():
    print(f"Estimates, not measurements: patterns of 128 x 128 px per second if {REACHED:.0%} of the vendor's figures "
          "are reached, by operations or by memory, whichever is slower.\n")
    print("| network | Mflop a pattern | MB moved | " + " | ".join(GPUS) + " |\n" + "|---" * (3 + len(GPUS)) + "|")
    for name, (flops, moved) in operations().items():
        rates = [REACHED * min(most / flops, wide / moved) for most, wide in GPUS.values()]
        print(f"| {name} | {flops / 1e6:,.0f} | {moved / 1e6:.1f} | " + " | ".join(f"{r:,.0f}" for r in rates) + " |")


def measure_pyxem(path, threads, few):
    """Patterns per second of pyxem's `center_direct_beam`, after a warm-up of some, and its version."""
    import dask
    import pyxem
    from pyxem.signals import Diffraction2D

    floats = first_patterns(np.load(path, mmap_mode="r"), few)
    side = floats.shape[-1]
    floats, sigma = floats.reshape(-1, PIECE, side, side), RADIUS * side
    with dask.config.set(scheduler="threads", num_workers=threads):
        Diffraction2D(floats[:1, :4]).center_direct_beam(method="blur", sigma=sigma)
        rate = few / seconds(Diffraction2D(floats).center_direct_beam, method="blur", sigma=sigma)
    return {"rate": rate, "version": pyxem.__version__}


def in_process(call, threads, python=sys.executable):
    """What a call of this module gives in a process of its own, in an interpreter that has what it needs."""
    code = f"import json, throughput; print(json.dumps(throughput.{call}))"
    here = Path(__file__).resolve().parent
    known = os.environ | {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
    known["PYTHONPATH"] = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([python, "-W", "ignore", "-c", code], env=known, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{call} failed in {python}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def processor():
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def cell(value, digits=0):
    return "" if value is None else f"{value:,.{digits}f}"


HEADS = {
    "file": lambda row: f"{row['size']:.3g} GB",
    "patterns": lambda row: "{} x {} of {side} x {side}".format(*row["scan"], **row),
    "threads": lambda row: str(row["threads"]),
    "`calibrate()`": lambda row: f"{row['seconds']:.1f} s",
    "patterns per second": lambda row: cell(row["rate"]),
    "peak memory": lambda row: f"{cell(row['memory'])} MB",
    "time, memory beside half the file": lambda row: row["half"] and "x {:.2f}, x {:.2f}".format(
        *(row[key] / row["half"][key] for key in ("seconds", "memory"))),
    "patterns per second in the other half": lambda row: row["half"] and cell(added_rate(row, row["half"])),
    "`get_origin` of {few}, a second": lambda row: cell(row["get_origin"]),
    "`center_direct_beam` of {few}, a second": lambda row: cell(row.get("pyxem")),
    "`denoise()` of {part} x {part}, a second": lambda row: cell(row.get("denoise")),
}


def added_rate(row, half):
    """Patterns per second of what a file holds more than one of half its size; None where it took no longer."""
    patterns = np.prod(row["scan"]) - np.prod(half["scan"])
    longer = row["seconds"] - half["seconds"]
    return patterns / longer if longer > 0 else None


def growth(patterns, seconds):
    """(constant seconds, patterns per second, largest relative deviation) of a straight line through what rows took.

    patterns, seconds: (n,), n >= 3. The relative deviations are least in their squares.
    """
    patterns, seconds = np.asarray(patterns, float), np.asarray(seconds, float)
    line = np.stack([1 / seconds, patterns / seconds], 1)
    (constant, each), *_ = np.linalg.lstsq(line, np.ones(len(seconds)), rcond=None)
    return constant, 1 / each, np.abs(line @ [constant, each] - 1).max()


def tell_growth(rows):
    """What twice the file costs, of rows that differ in nothing else."""
    if len(rows) < 3:
        return
    constant, rate, off = growth([np.prod(row["scan"]) for row in rows], [row["seconds"] for row in rows])
    memory = [row["memory"] for row in rows]
    print(f"\n`calibrate()` takes {constant:.1f} s and a second for every {rate:,.0f} patterns: each file's time is "
          f"within {off:.0%} of that. Its memory is from {min(memory):,.0f} to {max(memory):,.0f} MB.")


def planned(options):
    """(GB, side, threads, side of the part to denoise) of every row, files that are the same one after another."""
    most, part = max(options.threads), 12 if options.quick else 128
    sizes, other = (([1 / 32], 1 / 32) if options.quick else (options.gigabytes, 1))
    rows = [(size, 128, most, part * (size == min(sizes))) for size in sizes]
    rows += [(other, side, most, 0) for side in options.sides]
    rows += [(min(sizes), 128, threads, part) for threads in options.threads if threads != most]
    return sorted(rows, key=lambda row: (row[1], row[0], row[2]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.5, 1, 2, 4, 8, 16],
                        help="of files with 128 x 128 px")
    parser.add_argument("--sides", type=int, nargs="*", default=[64, 256, 512], help="of patterns, in 1 GB files")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, os.cpu_count()}))
    parser.add_argument("--folder", type=Path, help="where the files are made; must have room for the largest")
    parser.add_argument("--pyxem", metavar="PYTHON", help="an interpreter that has pyxem, to measure it beside")
    parser.add_argument("--quick", action="store_true", help="files of 1/32 GB, a few patterns for the others")
    parser.add_argument("--operations", action="store_true", help="count them, and estimate what GPUs would do")
    options = parser.parse_args()
    if options.operations:
        return tell_operations()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # files are removed then too
    few, rows = 64 if options.quick else 256, planned(options)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
                            cwd=Path(__file__).parent).stdout.strip()
    print(f"{datetime.date.today()}, commit {commit}, {processor()}, {os.cpu_count()} cores, no GPU.\n")
    heads = {head: tell for head, tell in HEADS.items() if options.pyxem or "center_direct_beam" not in head}
    print(f"| {' | '.join(heads).format(few=few, part=max(row[3] for row in rows))} |\n" + "|---" * len(heads) + "|")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        need, free = max(row[0] for row in rows) * 2**30, shutil.disk_usage(folder).free
        if need > free:
            raise SystemExit(f"The largest file needs {need / 2**30:.3g} GB, and {folder} has {free / 2**30:.3g} GB.")
        done = measured(rows, Path(folder), few, options.pyxem, lambda row: print(
            f"| {' | '.join(tell(row) or '' for tell in heads.values())} |", flush=True))
    tell_growth([row for row in done if (row["side"], row["threads"]) == (128, max(options.threads))])
    versions = {row["pyxem version"] for row in done if "pyxem version" in row}
    if versions:
        print(f"\n`center_direct_beam` is that of pyxem {', '.join(versions)}.")


def measured(rows, folder, few, pyxem, tell):
    """The rows as dicts, each told as soon as it is known; of the files one is on the disk at a time."""
    done, path, made = [], folder / "scan.npy", None
    for size, side, threads, part in rows:
        if made != (size, side):
            path.unlink(missing_ok=True)
            write_scan(path, size, side)
            made = size, side
        forget(path)
        row = in_process(f"measure({str(path)!r}, {threads}, {few}, {part})", threads)
        if pyxem:
            other = in_process(f"measure_pyxem({str(path)!r}, {threads}, {few})", threads, pyxem)
            row |= {"pyxem": other["rate"], "pyxem version": other["version"]}
        like = [r for r in done if (r["side"], r["threads"]) == (side, threads)]
        row["half"] = next((r for r in like if 2 * np.prod(r["scan"]) == np.prod(row["scan"])), None)
        done.append(row)
        tell(row)
    return done


if __name__ == "__main__":
    main()
