"""Commands for the networks: `weights` and `train`."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ..core import PrenetError
from .common import Device


class Task(str, Enum):
    """The networks that can be trained."""

    denoise = "denoise"
    center = "center"
    ellipse = "ellipse"


def weights(
    adopt: Annotated[Path | None, typer.Option("--import", metavar="FILE", help="Copy a .safetensors file into the "
                                               "folder that PY4DSTEM_PRENET_WEIGHTS names.")] = None,
):
    """List and verify the weights that are installed, or import a file of weights."""
    from ..networks import weights

    if adopt is not None:
        typer.echo(f"Imported {weights.adopt(adopt)}.")
        return
    n_failed = 0
    for name in weights.names():
        try:
            digest, card = weights.verify(name), weights.card(name)
            typer.echo(f"{name}  {card['task']}, sha256 {digest}, verified, {weights.find(name)}")
        except PrenetError as error:
            n_failed += 1
            typer.echo(f"{name}  {error}")
    if n_failed:
        raise typer.Exit(1)


def train(
    task: Annotated[Task, typer.Argument(help="The network to train.")],
    minutes: Annotated[float | None, typer.Option(min=0, help="Stop after this time.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Stop after this number of steps.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the --output folder.")] = False,
    start: Annotated[str | None, typer.Option(help="Initial weights: a name, or a file.")] = None,
    part: Annotated[str | None, typer.Option(help="Part to train: coarse, fine (center); rings, disk "
                                                   "(ellipse).")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the run; default runs/TASK.")] = None,
    device: Device = "cpu",
):
    """Train a network on simulated patterns; write its weights and model card to the folder of the run."""
    folder = Path("runs") / task.value if output is None else output
    if resume and not folder.is_dir():
        raise PrenetError(f"There is no run in {folder} to resume; leave --resume out to start one.")
    if not resume and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PrenetError(f"{folder} is not empty; continue the run in it with --resume, or choose another --output.")
    from ..training import export, train

    given = {"part": part, "minutes": minutes, "steps": steps}
    options = " ".join(f"--{name} {value}" for name, value in given.items() if value)
    train(task.value, minutes=minutes, steps=steps, seed=seed, resume=resume, out=folder, start=start, part=part,
          device=device)
    typer.echo(f"Saved {export(folder, folder, f'prenet train {task.value} {options} --seed {seed}')}.")
