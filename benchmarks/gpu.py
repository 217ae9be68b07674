"""Measure the package on a GPU: parity with the CPU, rates, memory, where the time goes; then train for some minutes.

    python benchmarks/gpu.py [--device cuda] [--out runs/gpu] [--minutes 2] [--small]

`benchmarks/gpu.sh` runs it. `report.md` in the folder gets a table after every stage, so that a run that is cut off
leaves what it measured. A stage that fails is named with its error, and the others go on. After the training, weights
that validate better than those of the package are in `OUT/weights`. `--small` takes tiny sizes, to try the script on a
CPU (tests/test_gpu_script.py).
"""

import argparse
import cProfile
import datetime
import platform
import pstats
import subprocess
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import py4DSTEM
import torch

import py4dstem_prenet
from py4dstem_prenet.compute import pick_device
from py4dstem_prenet.denoising import denoise
from py4dstem_prenet.networks import tensors
from py4dstem_prenet.origin import measure_origin
from py4dstem_prenet.pipeline import calibrate
from py4dstem_prenet.simulation import simulate
from py4dstem_prenet.training import BANKS, VALIDATION_SPECIMENS, export, load_mixed_bank, tasks, train

MAX_ORIGIN_PX, MAX_SIGNAL = 0.002, 1e-3  # largest differences from the CPU: pixels, and in the signal's rms
SEED = 7


def scan(side, positions, repeats=1):
    """A DataCube of positions x positions patterns, repeated along the rows: counts at 3,000 electrons per pattern."""
    counts = simulate((positions, positions), (side, side), dose=3000, seed=SEED, amplitude=1.0).counts
    counts = counts.astype(np.uint16)
    mirrored = np.concatenate([counts, counts[::-1]])
    return py4DSTEM.DataCube(np.concatenate([mirrored] * repeats)[: positions * repeats])


def bragg_disks(cube, device):
    """The disks of a calibrated cube; as a user calls them."""
    return cube.prenet.bragg_disks(device=device, progress=False)


def parity(device, small):
    """Largest differences between the device and the CPU: one row for each stage."""
    cube = scan(64 if small else 128, 6 if small else 16)
    here, there = (measure_origin(cube.data, device=d, progress=False) for d in ("cpu", device))
    both = here.valid & there.valid
    off = max(float(np.abs(getattr(here, q) - getattr(there, q))[both].max()) for q in ("qx0", "qy0"))
    rows = [("origin", f"{off:.5f} px", off <= MAX_ORIGIN_PX and (here.valid == there.valid).all())]
    calibrate(cube, progress=False, device="cpu")
    clean = [denoise(cube, device=d, progress=False).data for d in ("cpu", device)]
    difference = float(np.sqrt(np.mean((clean[0] - clean[1]) ** 2) / np.mean(np.square(clean[0]))))
    rows.append(("denoised", f"{difference:.1e} of the signal", difference <= MAX_SIGNAL))
    return [f"| {name} | {value} | {'yes' if good else '**no**'} |" for name, value, good in rows]


def rates(device, small, folder):
    """Patterns per second, and the memory of the device: one row for each stage, and for each source of `calibrate`."""
    side, positions, repeats = (64, 6, 1) if small else (128, 32, 16)
    cube = scan(side, positions, repeats)
    path = folder / "scan.npy"
    np.save(path, cube.data)
    rows = []
    for where, data in (("memory", py4DSTEM.DataCube(cube.data)), ("file", py4dstem_prenet.open(path))):
        rows.append(_timed(f"calibrate, {where}", lambda d: calibrate(d, progress=False, device=device), data, device))
    for name, lines, function in (
            ("denoise", 6 if small else 128, lambda d: denoise(d, progress=False, device=device)),
            ("bragg_disks", 2 if small else 16, lambda d: bragg_disks(d, device))):
        part = py4DSTEM.DataCube(cube.data[:lines])
        calibrate(part, progress=False, device=device)
        rows.append(_timed(f"{name}, memory", function, part, device))
    path.unlink()
    return rows


def _timed(name, function, data, device):
    """Row of a stage: patterns, seconds, rate, peak memory of the device in MiB."""
    cuda = pick_device(device).type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    function(data)
    if cuda:
        torch.cuda.synchronize()
    seconds, count = time.perf_counter() - start, int(np.prod(data.data.shape[:2]))
    memory = f"{torch.cuda.max_memory_allocated() / 2**20:.0f}" if cuda else ""
    return f"| {name} | {count:,} | {seconds:.1f} | {count / seconds:,.0f} | {memory} |"


def profile(device, small):
    """The functions of this package in which `calibrate` spends most of its time."""
    cube = scan(64 if small else 128, 6 if small else 32, 1 if small else 8)
    profiler = cProfile.Profile()
    profiler.runcall(calibrate, cube, progress=False, device=device)
    stats = pstats.Stats(profiler).stats
    own = [(cumulative, calls, Path(file).name, name) for (file, _, name), (_, calls, _, cumulative, _) in stats.items()
           if "py4dstem_prenet" in file]
    return [f"| {file}, {name} | {calls:,} | {seconds:.2f} |" for seconds, calls, file, name in sorted(own)[:-26:-1]]


def training(device, small, folder, minutes):
    """Train every network from the weights of the package: its score before and after, and whether it is kept."""
    rows, banks = [], folder / "banks"
    specimens = 7 if small else 400
    for name, task in tasks().items():
        length = {"steps": 2} if small else {"minutes": minutes}
        run = train(name, seed=SEED, start=name, specimens=specimens, banks=banks, out=folder / name, device=device,
                    **length)
        trained = _exported(run, folder, name, minutes)
        scores = [_score(task(), weights, banks, specimens) for weights in (name, trained)]
        kept = scores[1] < scores[0]
        if not kept:
            for path in (folder / "weights").glob(f"{name}.*"):
                path.unlink()
        steps = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)["step"]
        rows.append(f"| {name} | {steps:,} | {scores[0]:.4f} | {scores[1]:.4f} | {'yes' if kept else 'no'} |")
    return rows


def _exported(run, folder, name, minutes):
    command = f"prenet train {name} --minutes {minutes:g} --start {name} --seed {SEED} --device cuda"
    return str(export(run, folder / "weights", command, name))


def _score(task, weights, banks, specimens):
    """Validation score of weights, lower is better."""
    network = task.build()
    network.load_state_dict(tensors(weights))
    bank = load_mixed_bank(banks, BANKS["validation"], min(VALIDATION_SPECIMENS, specimens))
    return task.validate(network.eval(), bank, torch.Generator().manual_seed(12345))["score"]


def describe(device):
    """Head of the report: date, commit, machine."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    found = pick_device(device)
    card = torch.cuda.get_device_name() if found.type == "cuda" else f"no GPU ({platform.machine()})"
    return f"{datetime.date.today()}, commit {commit or '?'}, {card}, PyTorch {torch.__version__}."


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--minutes", type=float, default=1.5, help="of training of each network")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the script on a CPU")
    parser.add_argument("--only", default="", help="stages whose title holds this text")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    report = options.out / "report.md"
    stages = (
        ("Parity with the CPU", "| stage | largest difference | within tolerance |", parity, ()),
        ("Rates", "| stage | patterns | s | patterns per second | memory of the device, MiB |", rates, (options.out,)),
        ("Where the time of calibrate goes", "| function | calls | s |", profile, ()),
        ("Training", "| network | steps | score before | after | kept |", training, (options.out, options.minutes)),
    )
    lines = [f"# GPU\n\n{describe(options.device)}"]
    for title, head, stage, more in (stage for stage in stages if options.only in stage[0]):
        start = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                rows = stage(options.device, options.small, *more)
            table = "\n".join([head, "|---" * (head.count("|") - 1) + "|", *rows])
        except Exception:  # the other stages go on
            table = "```\n" + traceback.format_exc(limit=-4) + "```"
        lines.append(f"## {title} ({time.perf_counter() - start:.0f} s)\n\n{table}")
        report.write_text("\n\n".join(lines) + "\n")
        print(lines[-1] + "\n", flush=True)


if __name__ == "__main__":
    main()
