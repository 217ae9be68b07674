"""Patterns a second and peak memory, against the size of the file, of the patterns, and threads, as the README's table.

    python benchmarks/throughput.py [--quick] [--folder DIR]

The scans are memory-mapped uint16 files, made of one simulated piece that is laid out mirrored, so that descan goes on
from piece to piece. Every row is a process of its own. Memory is the peak of anonymous resident memory: cached pages
of the file are not counted, they are the system's to drop. py4DSTEM's `get_origin` (true radius given) and pyxem's
`center_direct_beam`, if pyxem is installed, work on a few hundred of the same patterns, in the same process right
after, as float32 in memory; `denoise` on some thousand, in memory.
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
    piece = simulate((PIECE, PIECE), (side, side), dose=3000, seed=1, amplitude=1.0, radius=RADIUS * side).counts
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
    try:
        from pyxem.signals import Diffraction2D
    except ImportError:
        row["pyxem"] = None
    else:
        row["pyxem"] = few / seconds(Diffraction2D(floats).center_direct_beam, method="blur", sigma=3)
    if many:
        row["denoise"] = many / seconds(denoise, py4DSTEM.DataCube(some[None, :many]), progress=False)
    return row


def run_row(path, threads, few, many):
    code = f"import json, throughput; print(json.dumps(throughput.measure({str(path)!r}, {threads}, {few}, {many})))"
    here = Path(__file__).resolve().parent
    known = os.environ | {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
    known["PYTHONPATH"] = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=known, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


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
    options = parser.parse_args()
    few, many = (64, 128) if options.quick else (256, 1024)
    sizes, other = (([1 / 32], 1 / 32) if options.quick else (options.gigabytes, 1))
    most = max(options.threads)
    rows = [(size, 128, most, many) for size in sizes] + [(other, side, most, 0) for side in options.sides]
    rows += [(sizes[0], 128, threads, many) for threads in options.threads if threads != most]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
                            cwd=Path(__file__).parent).stdout.strip()
    print(f"{datetime.date.today()}, commit {commit}, {processor()}, {os.cpu_count()} cores, no GPU.\n")
    print("| file | patterns | threads | `calibrate()` | patterns a second | peak memory | `get_origin` a second | "
          "`center_direct_beam` a second | `denoise()` a second |\n" + "|---" * 9 + "|")
    made, written = None, None
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for size, side, threads, denoised in sorted(rows, key=lambda r: (r[1], r[0], r[2])):
            if made != (size, side):
                if written:
                    written.unlink()
                made, written = (size, side), Path(folder) / f"{side}_{size}.npy"
                write_scan(written, size, side)
            row = run_row(written, threads, few, denoised)
            print(f"| {row['size']:.3g} GB | {row['scan'][0]} x {row['scan'][1]} of {side} x {side} | {threads} | "
                  f"{row['seconds']:.1f} s | {cell(row['rate'])} | {cell(row['memory'])} MB | "
                  f"{cell(row['get_origin'])} | {cell(row['pyxem'])} | {cell(row.get('denoise'))} |", flush=True)


if __name__ == "__main__":
    main()
