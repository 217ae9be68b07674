"""Trained weights by name: found offline, checked against their hash before a byte is parsed, then loaded.

A set of weights is three files: NAME.safetensors, NAME.json (task, architecture, SHA-256, how it was trained, and
an output that a loaded network must replay) and NAME.md, the model card. They are looked for in the folder that
the environment variable PY4DSTEM_PRENET_WEIGHTS names, then in the package. Nothing is ever downloaded.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from ..errors import PrenetError

VARIABLE = "PY4DSTEM_PRENET_WEIGHTS"
FORMAT = 1  # raised when older versions of the package can no longer read newer files


class WeightsError(PrenetError):
    """A weights file is missing, altered, or not for this version."""


def folders() -> list[Path]:
    """Where weights are looked for, in order."""
    package = Path(__file__).resolve().parents[1]
    given = os.environ.get(VARIABLE)
    # A wheel carries them in _weights; a checkout has them at its top.
    return ([Path(given)] if given else []) + [package / "_weights", package.parent / "weights"]


def names() -> list[str]:
    """The sets of weights that can be found."""
    return sorted({path.stem for folder in folders() for path in folder.glob("*.safetensors")})


def find(name: str) -> Path:
    """The safetensors file of a name, or of a path that is given as such. Raises WeightsError."""
    if name.endswith(".safetensors"):
        path = Path(name)
        if path.is_file():
            return path
        raise WeightsError(f"There is no weights file {path}.")
    for folder in folders():
        path = folder / f"{name}.safetensors"
        if path.is_file():
            return path
    raise WeightsError(f"The weights {name!r} are missing (looked in {', '.join(map(str, folders()))}); "
                       "install the package again or set " + VARIABLE + ".")


def card(name: str) -> dict:
    """What the JSON file beside the weights says of them. Raises WeightsError."""
    path = find(name).with_suffix(".json")
    try:
        content = json.loads(path.read_text())
        task, version, digest = content["task"], content["format"], content["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise WeightsError(
            f"The description {path} of the weights is missing or unreadable; install the package again.") from problem
    if version > FORMAT:
        raise WeightsError(f"The weights {path.stem!r} need a newer version of py4dstem_prenet; update the package.")
    return {**content, "task": task, "sha256": digest}


def verify(name: str) -> str:
    """The SHA-256 of the weights, or a WeightsError where the file is not what its description says."""
    return _read(name)[1]


def _read(name: str) -> tuple[bytes, str]:
    path, expected = find(name), card(name)["sha256"]
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected:
        raise WeightsError(f"The weights file {path} was altered or is incomplete (its SHA-256 is {digest[:12]}…, "
                           f"not {expected[:12]}…); install it again.")
    return content, digest


def tensors(name: str) -> dict:
    """The verified tensors of a name. Raises WeightsError."""
    from safetensors.torch import load as parse

    content = _read(name)[0]
    try:
        return parse(content)
    except ValueError as problem:
        raise WeightsError(f"The weights file {find(name)} cannot be read; install the package again.") from problem


def build(task: str) -> nn.Module:
    """An untrained network of a task."""
    from .center import CenterNet
    from .denoise import DenoiseNet
    from .ellipse import EllipseNet

    kinds = {"center": CenterNet, "denoise": DenoiseNet, "ellipse": EllipseNet}
    if task not in kinds:
        raise WeightsError(f"The weights are for a task {task!r} that this version does not know.")
    return kinds[task]()


def pick_device(device: str = "auto") -> torch.device:
    """The device to compute on: a GPU when there is one, or what is asked for. Raises PrenetError."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError) as problem:
        raise PrenetError(f"The device {device!r} cannot be used here; device='cpu' always works.") from problem


def load(name: str, device="cpu") -> nn.Module:
    """A trained network, ready to use (evaluation mode, no gradients). Raises WeightsError."""
    return _load(str(find(name).resolve()), str(device))


@lru_cache(maxsize=8)
def _load(path: str, device: str) -> nn.Module:
    network = build(card(path)["task"])
    try:
        network.load_state_dict(tensors(path))
    except RuntimeError as problem:
        raise WeightsError(f"The weights file {path} does not fit this version's networks; install the package again."
                           ) from problem
    return network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
