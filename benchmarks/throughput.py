"""Patterns a second and peak memory, against the size of the file, of the patterns, and threads, as the README's table.

    python benchmarks/throughput.py [--quick] [--folder DIR]

The scans are memory-mapped uint16 files, made of one simulated piece that is laid out mirrored, so that descan goes on
from piece to piece; it is small, since in a large scan so many folds of it are no smooth surface.
Every row is a process of its own. Memory is the peak of anonymous resident memory: cached pages
of the file are not counted, they are the system's to drop. py4DSTEM's `get_origin` (true radius given) and pyxem's
`center_direct_beam` (blur; if pyxem is installed) work on a few hundred of the same patterns right after, as float32 in
memory, pyxem with as many Dask threads; `denoise` on some thousand, in memory, with the origin just found.

    python benchmarks/throughput.py --operations

counts instead what each network computes for a pattern, and estimates from it what GPUs would do.
"""

import argparse
import contextlib
import datetime
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np

PIECE = 32  # positions along each side of the simulated piece
RADIUS = 0.05  # of the direct disk, in sides of a pattern


def scan_shape(gigabytes, side):
    """(Rx, Ry), multiples of the piece, of a uint16 file of about that size."""
    pieces = max(1, round(gigabytes * 2**30 / (2 * side**2 * PIECE**2)))
    columns = max(n for n in range(1, int(pieces**0.5) + 1) if pieces % n == 0)
    return pieces // columns * PIECE, columns * PIECE


def write_scan(path, gigabytes, side):
    from py4dstem_prenet.simulation.scan import simulate

    rx, ry = scan_shape(gigabytes, side)
    piece = simulate((PIECE, PIECE), (side, side), dose=3000, seed=1, amplitude=0.1, radius=RADIUS * side).counts
    piece = piece.astype(np.uint16)
    file = np.lib.format.open_memmap(path, "w+", np.uint16, (rx, ry, side, side))
    for i in range(rx // PIECE):
        for j in range(ry // PIECE):
            mirrored = piece[:: (-1) ** i, :: (-1) ** j]
            file[i * PIECE : (i + 1) * PIECE, j * PIECE : (j + 1) * PIECE] = mirrored
        file.flush()


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


def measure(path, threads, few, many):
    """In the process of a row: what is measured, as a dict."""
    import torch

    torch.set_num_threads(threads)
    import py4DSTEM
    from py4DSTEM.process.calibration.origin import get_origin

    import py4dstem_prenet
    from py4dstem_prenet.denoise import denoise
    from py4dstem_prenet.pipeline import calibrate

    cube = py4dstem_prenet.open(path)
    rx, ry, side, _ = cube.data.shape
    calibrate(py4DSTEM.DataCube(cube.data[:8, :8]), progress=False)  # what is loaded and set up once
    with Peak() as peak:
        calibrating = seconds(calibrate, cube, progress=False)
    some = np.asarray(cube.data[:PIECE, :PIECE]).reshape(-1, side, side)
    row = {"scan": (rx, ry), "side": side, "size": cube.data.nbytes / 2**30, "threads": threads, "seconds": calibrating,
           "rate": rx * ry / calibrating, "memory": peak.value}
    floats = some[:few].astype(np.float32)[None]
    row["get_origin"] = few / seconds(get_origin, py4DSTEM.DataCube(floats), r=RADIUS * side)
    if many:
        rows = -(-many // ry)
        part = py4DSTEM.DataCube(np.array(cube.data[:rows]))
        part.calibration.set_origin([m[:rows] for m in cube.calibration.get_origin()])
        row["denoise"] = rows * ry / seconds(denoise, part, progress=False)
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
    print(f"Estimates, not measurements: patterns of 128 x 128 px a second if {REACHED:.0%} of the vendor's figures "
          "are reached, by operations or by memory, whichever is slower.\n")
    print("| network | Mflop a pattern | MB moved | " + " | ".join(GPUS) + " |\n" + "|---" * (3 + len(GPUS)) + "|")
    for name, (flops, moved) in operations().items():
        rates = [REACHED * min(most / flops, wide / moved) for most, wide in GPUS.values()]
        print(f"| {name} | {flops / 1e6:,.0f} | {moved / 1e6:.1f} | " + " | ".join(f"{r:,.0f}" for r in rates) + " |")


def measure_pyxem(path, threads, few):
    """Patterns a second of pyxem's `center_direct_beam`, after a warm-up of some."""
    import dask
    from pyxem.signals import Diffraction2D

    floats = np.array(np.load(path, mmap_mode="r")[:1, :PIECE], np.float32).repeat(-(-few // PIECE), 0)
    with dask.config.set(scheduler="threads", num_workers=threads):
        Diffraction2D(floats[:1, :4]).center_direct_beam(method="blur", sigma=3)
        return floats[..., 0, 0].size / seconds(Diffraction2D(floats).center_direct_beam, method="blur", sigma=3)


def run_row(path, threads, few, many):
    row = in_process(f"measure({str(path)!r}, {threads}, {few}, {many})", threads)
    if isinstance(row, str):
        raise SystemExit(row)
    # Version 0.21 has been seen to crash the process that imports it.
    rate = in_process(f"measure_pyxem({str(path)!r}, {threads}, {few})", threads) if find_spec("pyxem") else None
    return row | {"pyxem": None if isinstance(rate, str) else rate}


def in_process(call, threads):
    """What a call of this module gives in a process of its own; the text of its errors where it fails."""
    code = f"import json, throughput; print(json.dumps(throughput.{call}))"
    here = Path(__file__).resolve().parent
    known = os.environ | {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
    known["PYTHONPATH"] = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=known, capture_output=True, text=True)
    return f"{call} failed: {done.stderr}" if done.returncode else json.loads(done.stdout.splitlines()[-1])


def processor():
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def cell(value, digits=0):
    return "" if value is None else f"{value:,.{digits}f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1, 4, 16], help="of files with 128 x 128 px")
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 256, 512], help="of patterns, in 1 GB files")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, os.cpu_count()}))
    parser.add_argument("--folder", type=Path, help="where the files are made; must have room for the largest")
    parser.add_argument("--quick", action="store_true", help="files of 1/32 GB, a few patterns for the others")
    parser.add_argument("--operations", action="store_true", help="count them, and estimate what GPUs would do")
    options = parser.parse_args()
    if options.operations:
        return tell_operations()
    few, many = (64, 128) if options.quick else (256, 4096)
    sizes, other = (([1 / 32], 1 / 32) if options.quick else (options.gigabytes, 1))
    most = max(options.threads)
    rows = [(size, 128, most, many) for size in sizes] + [(other, side, most, 0) for side in options.sides]
    rows += [(sizes[0], 128, threads, many) for threads in options.threads if threads != most]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
                            cwd=Path(__file__).parent).stdout.strip()
    print(f"{datetime.date.today()}, commit {commit}, {processor()}, {os.cpu_count()} cores, no GPU.\n")
    heads = ["file", "patterns", "threads", "`calibrate()`", "patterns a second", "peak memory",
             "`get_origin` a second", "`center_direct_beam` a second", "`denoise()` a second"]
    if find_spec("pyxem") is None:
        print("pyxem is not installed: its `center_direct_beam` is left out.\n")
        heads.pop(7)
    print(f"| {' | '.join(heads)} |\n" + "|---" * len(heads) + "|")
    made, written, grown = None, None, []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for size, side, threads, denoised in sorted(rows, key=lambda r: (r[1], r[0], r[2])):
            if made != (size, side):
                if written:
                    written.unlink()
                made, written = (size, side), Path(folder) / f"{side}_{size}.npy"
                write_scan(written, size, side)
            row = run_row(written, threads, few, denoised)
            cells = [f"{row['size']:.3g} GB", f"{row['scan'][0]} x {row['scan'][1]} of {side} x {side}", str(threads),
                     f"{row['seconds']:.1f} s", cell(row["rate"]), f"{cell(row['memory'])} MB",
                     cell(row["get_origin"]), cell(row["pyxem"]), cell(row.get("denoise"))]
            if len(heads) < len(cells):
                cells.pop(7)
            print(f"| {' | '.join(cells)} |", flush=True)
            if (side, threads) == (128, most):
                grown.append((np.prod(row["scan"]), row["seconds"], row["memory"]))
    for (few, short, low), (many, long, high) in pairwise(grown):
        print(f"\n{many / few:.3g} times the file: {long / short:.3g} times the time, {high / low:.3g} times the "
              "memory.")


if __name__ == "__main__":
    main()
