"""From a run's checkpoint to shipped weights: safetensors, a description with the hash, and a model card."""

from __future__ import annotations

import datetime
import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import save

from .._version import __version__
from ..networks import weights
from .loop import BANKS, HELD_OUT, ORIENTED, SPECIMENS

WHAT = {
    "center": "Finds the direct beam: roughly in block sums of a scan, then with a covariance in a window of every "
              "pattern. Inputs are variance-stabilized electrons, normalized per pattern (networks/center.py).",
    "denoise": "An attention U-Net that gives the expected electrons of one pattern, from it and from the mean of "
               "similar ones in the scan where there are any: a bounded correction of variance-stabilized counts "
               "(networks/denoise.py).",
    "ellipse": "Finds the elliptical distortion with a covariance in polar maps of a scan's pooled, recentered "
               "patterns (networks/ellipse.py).",
}


def export(run: Path, out: Path, command: str, name: str | None = None, minutes_before: float = 0.0) -> Path:
    """Write NAME.safetensors, NAME.json and NAME.md of a run's averaged weights into `out`.

    Args:
        run: folder of a training run. command: what was run, for the card.
        minutes_before: training that the run started from, for the card.
    """
    state = torch.load(Path(run) / "checkpoint.pt", weights_only=True)
    figures = json.loads((Path(run) / "log.jsonl").read_text().splitlines()[-1])
    task = state["task"]
    name = name or task
    network = weights.build(task)
    network.load_state_dict(state["average"])
    network.eval()
    content = save({k: v.contiguous().float() for k, v in network.state_dict().items()})
    digest = hashlib.sha256(content).hexdigest()
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    specimens = state.get("specimens", SPECIMENS)  # runs of before did not note it
    minutes = round(state["spent"] / 60 + minutes_before)
    facts = {
        "task": task, "format": weights.FORMAT, "sha256": digest, "version": __version__,
        "date": datetime.date.today().isoformat(), "seed": state["seed"], "steps": state["step"],
        "minutes": minutes, "command": command,
        "parameters": sum(p.numel() for p in network.parameters()),
        "banks": {"training": [BANKS["train"], specimens],
                  "validation": [BANKS["validation"], min(HELD_OUT, specimens)]},
        "figures": {k: v for k, v in figures.items() if k not in ("step", "seconds", "loss")},
        "replay": weights.replay(network),
    }
    for path, text in ((out / f"{name}.safetensors", content),
                       (out / f"{name}.json", (json.dumps(facts, indent=1) + "\n").encode()),
                       (out / f"{name}.md", _card(name, facts).encode())):
        beside = path.with_name(path.name + ".part")
        beside.write_bytes(text)
        beside.replace(path)
    return out / f"{name}.safetensors"


def _card(name: str, facts: dict) -> str:
    figures = "\n".join(f"| {k} | {v} |" for k, v in facts["figures"].items())
    (train_seed, specimens), (held_seed, held) = facts["banks"]["training"], facts["banks"]["validation"]
    return f"""# {name}

{WHAT[facts["task"]]}

| | |
|---|---|
| parameters | {facts["parameters"]:,} |
| trained | {facts["steps"]:,} steps in its last run, {facts["minutes"]} minutes in all on two CPU cores |
| seed, command | {facts["seed"]}, `{facts["command"]}` |
| data | simulated: multislice patterns of {specimens} random specimens and {round(ORIENTED * specimens)} crystals \
along zone axes (seed {train_seed}), drawn anew each step |
| SHA-256 | `{facts["sha256"]}` |
| made | {facts["date"]}, py4dstem-prenet {facts["version"]}, GPL-3.0-or-later |

Measured at the end of that run on {held} specimens of another seed ({held_seed}); what a name means is said in
`py4dstem_prenet/training/{facts["task"]}.py`, `validate`:

| figure | value |
|---|---|
{figures}
"""
