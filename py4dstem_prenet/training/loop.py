"""One training loop for every task: seeded, resumable to the step, the same on a CPU and a GPU."""

from __future__ import annotations

import copy
import json
import math
import time
from pathlib import Path

import torch

from ..core import PrenetError
from ..networks import tensors
from ..simulation import Bank, joined, load_bank

SPECIMENS = 1600  # in the training bank, some six patterns each
ORIENTED = 0.4  # as many crystals along zone axes besides, in parts of these
BANKS = {"train": 1, "validation": 2}  # seeds that share no specimen
HELD_OUT = 120
WARMUP = 200  # steps
RESTARTED = 0.5  # of the learning rate, where a run begins from trained weights
AVERAGE = 0.999  # decay of the running mean of the weights, which is what is shipped
SAVE_EVERY = 120  # seconds


def tasks() -> dict:
    from .center import CenterTask
    from .denoise import DenoiseTask
    from .ellipse import EllipseTask

    return {task.name: task for task in (DenoiseTask, CenterTask, EllipseTask)}


def save_checkpoint(path: Path, **state):
    beside = path.with_suffix(".part")
    torch.save(state, beside)
    beside.rename(path)


def grown(state: dict, network) -> dict:
    """Weights for a network that has other parts, or more channels here and there, than the one they were trained in.

    What it lacks is left out, what is new is as it was drawn. With more channels it answers as that one did: new
    inputs count for nothing at first, and new outputs are as they were drawn.
    """
    out = {}
    for name, fresh in network.state_dict().items():
        old = state.get(name)
        out[name] = fresh if old is None else old
        if old is None or old.ndim != fresh.ndim:
            continue
        if all(a <= b for a, b in zip(old.shape, fresh.shape, strict=True)):
            out[name] = fresh.clone()
            if old.ndim > 1:
                out[name][:, old.shape[1]:] = 0
            out[name][tuple(slice(n) for n in old.shape)] = old
    return out


def everything(folder: Path, seed: int, specimens: int) -> Bank:
    """Random specimens and, besides, crystals along zone axes, from the banks in `folder`."""
    oriented = max(1, round(ORIENTED * specimens))
    return joined(load_bank(folder, seed, specimens), load_bank(folder, seed, oriented, oriented=True))


def train(task: str, *, minutes: float | None = None, steps: int | None = None, seed: int = 0, resume: bool = False,
          out: Path | None = None, start: str | None = None, specimens: int = SPECIMENS, banks: Path = Path("runs"),
          half: bool = False, threads: int | None = None) -> Path:
    """Train a network for a number of steps or minutes, whichever ends first; return the run's folder.

    The learning rate falls to zero (cosine) over that length, so give the length that is meant. The folder gets
    `checkpoint.pt` (weights, running mean, optimizer, generator, step) every two minutes, and `log.jsonl`.

    Args:
        task: "denoise", "center" or "ellipse".
        resume: go on from the folder's checkpoint, with its optimizer and random state.
        start: weights to begin from instead of random ones (a warm restart): a name, or a safetensors file.
        half: bfloat16 in the convolutional trunks, for processors on which that is faster.

    Raises:
        PrenetError: unknown task, nothing to resume, or neither minutes nor steps.
    """
    known = tasks()
    if task not in known:
        raise PrenetError(f"There is no task called {task!r}; the tasks are {', '.join(known)}.")
    if minutes is None and steps is None:
        raise PrenetError("Say how long to train: give minutes or steps.")
    out = Path(out or Path("runs") / task)
    checkpoint = out / "checkpoint.pt"
    if resume and not checkpoint.exists():
        raise PrenetError(f"There is nothing to resume in {out}; start without --resume.")
    out.mkdir(parents=True, exist_ok=True)
    if threads:
        torch.set_num_threads(threads)
    job = known[task]()
    torch.manual_seed(seed)
    network = job.build()
    if start is not None:
        network.load_state_dict(grown(tensors(start), network))
    network = network.to(memory_format=torch.channels_last)  # twice as fast on a CPU
    average = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=job.rate, weight_decay=1e-4, betas=(0.9, 0.98))
    generator = torch.Generator().manual_seed(seed)
    step, spent, running = 0, 0.0, 0.0
    peak = job.rate * (RESTARTED if start is not None else 1)
    if resume:
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        step, spent, seed, running, peak = (state[key] for key in ("step", "spent", "seed", "running", "peak"))
    bank = everything(banks, BANKS["train"], specimens)
    held_out = everything(banks, BANKS["validation"], min(HELD_OUT, specimens))

    def progress():
        parts = [step / steps if steps else 0.0, (spent + time.monotonic() - began) / 60 / minutes if minutes else 0.0]
        return max(parts)

    def keep():
        save_checkpoint(checkpoint, task=task, network=network.state_dict(), average=average.state_dict(),
                        optimizer=optimizer.state_dict(), generator=generator.get_state(), step=step,
                        spent=spent + time.monotonic() - began, seed=seed, running=running, peak=peak,
                        specimens=specimens)
        figures = job.validate(average.eval(), held_out, torch.Generator().manual_seed(12345), half)
        line = dict(step=step, seconds=round(spent + time.monotonic() - began), loss=round(running, 4),
                    **{k: round(v, 4) for k, v in figures.items()})
        with open(out / "log.jsonl", "a") as log:
            log.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    began = saved = time.monotonic()
    while (done := progress()) < 1:
        rate = peak * min(1, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = job.loss(network, bank, generator, half)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for part in job.parts:  # each by itself: a rare steep pattern of one stage is not to hold back the other
            torch.nn.utils.clip_grad_norm_(network.get_submodule(part).parameters(), 1.0)
        optimizer.step()
        step += 1
        running += (loss.item() - running) * max(0.01, 1 / step)
        with torch.no_grad():
            decay = min(AVERAGE, (1 + step) / (20 + step))
            for mean, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
                mean.lerp_(value, 1 - decay)
        if time.monotonic() - saved > SAVE_EVERY:
            keep()
            saved = time.monotonic()
    keep()
    return out
