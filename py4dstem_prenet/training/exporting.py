"""Export of a training run: weights as safetensors, their description with the SHA-256, and a model card."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ..networks import build, serialize
from . import BANK_SPECIMENS, BANKS, ORIENTED_FRACTION, VALIDATION_SPECIMENS

TASK_DESCRIPTIONS = {
    "center": "Locates the direct beam in two stages: to a few pixels in sums over blocks of the scan, then with a "
              "covariance in a window of each pattern. The inputs are variance-stabilized electrons, normalized per "
              "pattern (networks/center.py).",
    "denoise": "An attention U-Net that estimates the expected electrons of a pattern from its counts and, if the "
               "scan has similar patterns, from their mean. Its output is a bounded correction of the "
               "variance-stabilized counts (networks/denoise.py).",
    "ellipse": "Measures the elliptical distortion, with a covariance, in polar maps of the pooled, recentered "
               "patterns of a scan (networks/ellipse.py).",
}  # first paragraph of the model card of each task
RADII_SEEN = {
    "center": "coarse stage: 1 to 40 px for disks of a convergent beam, 0.7 to 6 px for spots and rings of a parallel "
              "beam, 2 to 64 px for vacuum probes, in patterns of 128 x 128 px; fine stage: 1 to 15 px, 0.7 to 6 px "
              "and 2 to 24 px, in windows of 48 x 48 px",
    "denoise": "1 to 26 px, disks of a convergent beam only, in crops of 96 x 96 px",
    "ellipse": "disks of a convergent beam only; the polar maps are in units of the radius",
}  # radii of the direct beam in the training, as `training/center.py`, `denoise.py` and `ellipse.py` draw them


def export(run: Path, out: Path, command: str, name: str | None = None) -> Path:
    """Write the averaged weights of a run as NAME.safetensors, with NAME.json and NAME.md.

    Parameters
    ----------
    run : pathlib.Path
        Folder of a training run.
    out : pathlib.Path
        Folder for the files; existing ones are replaced.
    command : str
        The command that was run, for the model card.
    name : str, optional
        Name of the weights; that of the task by default.

    Returns
    -------
    pathlib.Path
        The .safetensors file.
    """
    state = torch.load(Path(run) / "checkpoint.pt", map_location="cpu", weights_only=True)
    figures = json.loads((Path(run) / "log.jsonl").read_text().splitlines()[-1])
    task = state["task"]
    name = name or task
    network = build(task)
    network.load_state_dict(state["average"])
    specimens = state.get("specimens", BANK_SPECIMENS)  # missing in checkpoints of earlier versions
    content, description = serialize(network.eval(), task)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    description |= {
        "seed": state["seed"], "steps": state["step"], "minutes": round(state["spent"] / 60),
        "command": command,
        "banks": {"training": [BANKS["train"], specimens],
                  "validation": [BANKS["validation"], min(VALIDATION_SPECIMENS, specimens)]},
        "figures": {k: v for k, v in figures.items() if k not in ("step", "seconds", "loss")},
    }
    for path, text in ((out / f"{name}.safetensors", content),
                       (out / f"{name}.json", (json.dumps(description, indent=1) + "\n").encode()),
                       (out / f"{name}.md", _card(name, description).encode())):
        partial_file = path.with_name(path.name + ".part")
        partial_file.write_bytes(text)
        partial_file.replace(path)
    return out / f"{name}.safetensors"


def _card(name: str, description: dict) -> str:
    """Text of the model card."""
    figures = "\n".join(f"| {k} | {v} |" for k, v in description["figures"].items())
    banks = description["banks"]
    (training_seed, specimens), (validation_seed, validation_specimens) = banks["training"], banks["validation"]
    return f"""# {name}

{TASK_DESCRIPTIONS[description["task"]]}

| | |
|---|---|
| parameters | {description["parameters"]:,} |
| training | {description["steps"]:,} steps in the last run, {description["minutes"]} minutes in all on two CPU cores |
| seed, command | {description["seed"]}, `{description["command"]}` |
| data | simulated: multislice patterns of {specimens} random specimens and {round(ORIENTED_FRACTION * specimens)} \
crystals along zone axes (seed {training_seed}), with new random geometry, dose and detector in each step |
| radii of the direct beam | {RADII_SEEN[description["task"]]} |
| SHA-256 | `{description["sha256"]}` |
| date, version | {description["date"]}, py4dstem-prenet {description["version"]}, GPL-3.0-or-later |

These errors were measured at the end of the last run, on {validation_specimens} specimens of another seed \
({validation_seed}).
`py4dstem_prenet/training/{description["task"]}.py` defines the figures, in `validate`:

| figure | value |
|---|---|
{figures}
"""
