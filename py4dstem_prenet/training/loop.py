"""The training loop of all networks: seeded, and resumable at the step where a run was interrupted."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import torch

from ..compute import move_to_device, pick_device
from ..core import PrenetError
from ..io import make_folder
from ..networks import averaged_weights, tensors
from ..simulation import Bank, joined, load_bank

# Settings of the training of the published weights.
BANK_SPECIMENS = 1600  # random specimens in the training bank, about six patterns each: some minutes of simulation
ORIENTED_FRACTION = 0.4  # crystals along zone axes, added to the bank, as a fraction of the random specimens
BANKS = {"train": 1, "validation": 2}  # seeds of the banks; different seeds share no specimen
VALIDATION_SPECIMENS = 120  # random specimens in the validation bank
WARMUP_STEPS = 200  # steps over which the learning rate rises linearly
RESTART_RATE_FACTOR = 0.5  # factor of the learning rate where a run starts from trained weights
CHECKPOINT_INTERVAL_S = 120  # time between checkpoints, seconds


def tasks() -> dict:
    """Return the training tasks.

    Returns
    -------
    dict
        Subclasses of `Task` by name.

    Examples
    --------
    >>> sorted(tasks())
    ['center', 'denoise', 'ellipse']
    """
    from . import CenterTask, DenoiseTask, EllipseTask

    return {task.name: task for task in (DenoiseTask, CenterTask, EllipseTask)}


def save_checkpoint(path: Path, **state):
    """Write a checkpoint; an earlier one is replaced only when the new one is complete.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    **state
        Its content.
    """
    partial_file = path.with_suffix(".part")
    torch.save(state, partial_file)
    partial_file.rename(path)


def expand_weights(state: dict, network) -> dict:
    """Adapt weights to a network with other submodules, or with more channels, than the one they were trained in.

    Parameters
    ----------
    state : dict
        State dict of the trained network.
    network : torch.nn.Module
        The new network, with random weights.

    Returns
    -------
    dict
        State dict for the new network. Weights of submodules that it lacks are dropped, new submodules keep their
        random weights. Where a layer has more channels, the weights of new inputs are zero and those of new outputs
        random, so that the old outputs stay the same.

    Examples
    --------
    >>> import torch
    >>> small, large = torch.nn.Linear(2, 1), torch.nn.Linear(3, 1)
    >>> large.load_state_dict(expand_weights(small.state_dict(), large))
    <All keys matched successfully>
    >>> x = torch.tensor([1.0, 2.0, 3.0])
    >>> bool(torch.isclose(large(x), small(x[:2])))
    True
    """
    out = {}
    for name, new in network.state_dict().items():
        old = state.get(name)
        out[name] = new if old is None else old
        if old is None or old.ndim != new.ndim:
            continue
        if all(a <= b for a, b in zip(old.shape, new.shape, strict=True)):
            out[name] = new.clone()
            if old.ndim > 1:
                out[name][:, old.shape[1]:] = 0
            out[name][tuple(slice(n) for n in old.shape)] = old
    return out


def load_mixed_bank(folder: Path, seed: int, specimens: int) -> Bank:
    """Return a bank of random specimens and of crystals along zone axes.

    Parameters
    ----------
    folder : pathlib.Path
        Folder of the banks; missing ones are simulated and stored there.
    seed : int
        Seed of the banks.
    specimens : int
        Number of random specimens; `ORIENTED_FRACTION` of that number of oriented crystals is added.

    Returns
    -------
    Bank
        Patterns of both.
    """
    oriented = max(1, round(ORIENTED_FRACTION * specimens))
    return joined(load_bank(folder, seed, specimens), load_bank(folder, seed, oriented, oriented=True))


def train(task: str, *, minutes: float | None = None, steps: int | None = None, seed: int = 0, resume: bool = False,
          out: Path | None = None, start: str | None = None, specimens: int = BANK_SPECIMENS,
          banks: Path = Path("runs"), half: bool = False, threads: int | None = None,
          part: str | None = None, device: str = "cpu") -> Path:
    """Train a network for a number of steps or minutes, whichever ends first.

    Parameters
    ----------
    task : {"denoise", "center", "ellipse"}
        What to train.
    minutes : float, optional
        Duration of the training, that of earlier runs included when resumed.
    steps : int, optional
        Number of steps. One of `minutes` and `steps` is required. The learning rate falls to zero over this length
        (cosine schedule).
    seed : int
        Seed of all random numbers.
    resume : bool
        Whether to continue from the checkpoint in the folder, with its optimizer and random state.
    out : pathlib.Path, optional
        Folder of the run; ``runs/TASK`` by default. It gets `checkpoint.pt`, every two minutes, and `log.jsonl`.
    start : str, optional
        Trained weights to start from: a name or a .safetensors file. Random weights by default.
    specimens : int
        Number of random specimens in the training bank.
    banks : pathlib.Path
        Folder of the banks; missing ones are simulated and stored there.
    half : bool
        Whether convolutions run in bfloat16, for processors on which that is faster.
    threads : int, optional
        Number of threads of PyTorch.
    part : str, optional
        The only part of the network to train, see `Task.parts`; the other weights stay as they are. All by default.
    device : {"cpu", "cuda", "mps", "auto"}, optional
        Where the network computes. Samples are drawn on the CPU.

    Returns
    -------
    pathlib.Path
        The folder of the run.

    Raises
    ------
    PrenetError
        The task is unknown, there is no checkpoint to resume, or neither `minutes` nor `steps` is given.
    """
    classes = tasks()
    if task not in classes:
        raise PrenetError(f"There is no task called {task!r}; the tasks are {', '.join(classes)}.")
    if minutes is None and steps is None:
        raise PrenetError("Give the duration of the training: minutes or steps.")
    out = Path(out or Path("runs") / task)
    checkpoint = out / "checkpoint.pt"
    if resume and not checkpoint.exists():
        raise PrenetError(f"There is nothing to resume in {out}; start without --resume.")
    make_folder(out)
    if threads:
        torch.set_num_threads(threads)
    job = classes[task]()
    if part is not None:
        if part not in job.parts:
            raise PrenetError(f"The network {task} has no part {part!r}; its parts are {', '.join(job.parts)}.")
        job.parts = (part,)
    run = _Run(job, seed, start, device)
    if resume:
        run.resume(checkpoint)
    bank = load_mixed_bank(banks, BANKS["train"], specimens)
    validation_bank = load_mixed_bank(banks, BANKS["validation"], min(VALIDATION_SPECIMENS, specimens))

    def write_checkpoint():
        """Save the state of the run, and log its validation."""
        save_checkpoint(checkpoint, task=task, specimens=specimens, part=part, **run.state())
        line = json.dumps(run.validated(validation_bank, half))
        with open(out / "log.jsonl", "a") as log:
            log.write(line + "\n")
        print(line, flush=True)

    run.began = saved = time.monotonic()
    while (done := run.done(steps, minutes)) < 1:
        run.advance(bank, half, done)
        if time.monotonic() - saved > CHECKPOINT_INTERVAL_S:
            write_checkpoint()
            saved = time.monotonic()
    write_checkpoint()
    return out


class _Run:
    """A training run: network, optimizer, random state, and how far it has come.

    Parameters
    ----------
    job : Task
        The task.
    seed : int
        Seed of all random numbers.
    start : str or None
        Trained weights to start from.
    device : str
        Where the network computes.
    """

    def __init__(self, job, seed, start, device):
        torch.manual_seed(seed)
        network = job.build()
        if start is not None:
            network.load_state_dict(expand_weights(tensors(start), network))
        self.network = network.to(memory_format=torch.channels_last)  # twice as fast on a CPU
        for name in job.called:
            move_to_device(network.get_submodule(name), pick_device(device))
        self.average = averaged_weights(self.network, decay=0.999, warmup=20)
        trained = [p for name in job.parts for p in self.network.get_submodule(name).parameters()]
        self.optimizer = torch.optim.AdamW(trained, lr=job.rate, weight_decay=1e-4, betas=(0.9, 0.98))
        self.generator = torch.Generator().manual_seed(seed)
        self.job, self.seed = job, seed
        self.peak_rate = job.rate * (RESTART_RATE_FACTOR if start is not None else 1)
        self.step, self.spent, self.running_loss = 0, 0.0, 0.0  # `spent`: seconds of earlier runs
        self.began = time.monotonic()

    def resume(self, checkpoint):
        """Continue from a checkpoint."""
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.module.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.step, self.spent, self.seed = state["step"], state["spent"], state["seed"]
        self.running_loss, self.peak_rate = state["running"], state["peak"]
        self.average.n_averaged.fill_(self.step + 1)

    def done(self, steps, minutes):  # numpydoc ignore=PR01,RT01
        """Part of the steps or of the minutes that is done, whichever is larger; without a limit, 0."""
        by_steps = self.step / steps if steps else 0.0
        by_time = self.elapsed() / 60 / minutes if minutes else 0.0
        return max(by_steps, by_time)

    def elapsed(self) -> float:
        """Seconds of training, earlier runs included."""
        return self.spent + time.monotonic() - self.began

    def state(self) -> dict:
        """What `resume` needs."""
        return dict(network=self.network.state_dict(), average=self.average.module.state_dict(),
                    optimizer=self.optimizer.state_dict(), generator=self.generator.get_state(), step=self.step,
                    spent=self.elapsed(), seed=self.seed, running=self.running_loss, peak=self.peak_rate)

    def validated(self, bank, half) -> dict:
        """Step, time and loss, and what the averaged network reaches in the validation."""
        figures = self.job.validate(self.average.module.eval(), bank, torch.Generator().manual_seed(12345), half)
        return dict(step=self.step, seconds=round(self.elapsed()), loss=round(self.running_loss, 4),
                    **{name: round(value, 4) for name, value in figures.items()})

    def advance(self, bank, half, done):
        """Take a step, at the learning rate after the fraction `done` of the run."""
        rate = self.peak_rate * min(1, (self.step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * done))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.job.loss(self.network, bank, self.generator, half)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for name in self.job.parts:  # clipped separately, so that a large gradient of one stage does not slow the other
            torch.nn.utils.clip_grad_norm_(self.network.get_submodule(name).parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self.running_loss += (loss.item() - self.running_loss) * max(0.01, 1 / self.step)
        self.average.update_parameters(self.network)
