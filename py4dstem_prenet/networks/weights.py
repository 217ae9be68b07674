"""Trained weights by name: found offline, checked against their hash before a byte is parsed, then loaded.

A set of weights is three files: NAME.safetensors, NAME.json (task, architecture, SHA-256, how it was trained, and
an output that a loaded network must replay) and NAME.md, the model card. They are looked for in the folder that
the environment variable PY4DSTEM_PRENET_WEIGHTS names, then in the package. Nothing is ever downloaded, and nothing
but safetensors is read: a pickle runs whatever code its author liked.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import nn

from ..compute import pick_device
from ..core import PrenetError
from ..io import check_output, existing, new_file

VARIABLE = "PY4DSTEM_PRENET_WEIGHTS"
CARD_ENDINGS = (".json", ".md")
REPLAY_SEED = 7
FORMAT = 1  # raised when older versions of the package can no longer read newer files


_verified = {}  # {path: the SHA-256 of what was loaded from it}


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
        content = json.loads(path.read_text(encoding="utf-8"))
        kinds = {"task": str, "format": int, "sha256": str}
        if not all(isinstance(content[key], kind) for key, kind in kinds.items()):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as problem:
        raise WeightsError(
            f"The description {path} of the weights is missing or unreadable; install the package again.") from problem
    if content["format"] > FORMAT:
        raise WeightsError(f"The weights {path.stem!r} need a newer version of py4dstem_prenet; update the package.")
    return content


def verify(name: str) -> str:
    """The SHA-256 of the weights, or a WeightsError where the file is not what its description says."""
    path, digest = str(find(name).resolve()), _read(name)[1]
    if _verified.setdefault(path, digest) != digest:  # exchanged since it was loaded
        _verified[path] = digest
        _load.cache_clear()
    return digest


def _read(name: str) -> tuple[bytes, str]:
    path, expected = find(name), card(name)["sha256"]
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise WeightsError(f"The weights file {path} cannot be opened ({problem.strerror}).") from problem
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected:
        raise WeightsError(f"The weights file {path} was altered or is incomplete (its SHA-256 is {digest[:12]}…, "
                           f"not {expected[:12]}…); install it again.")
    return content, digest


def tensors(name: str) -> dict:
    """The verified tensors of a name. Raises WeightsError."""
    from safetensors import SafetensorError
    from safetensors.torch import load as parse

    content = _read(name)[0]
    try:
        return parse(content)
    except (SafetensorError, ValueError, KeyError) as problem:
        raise WeightsError(f"The weights file {find(name)} cannot be read; install the package again.") from problem


def adopt(file) -> Path:
    """Copy a weights file and what lies beside it into the user's folder, verified; returns where it is now.

    file: a safetensors file with its description (.json), such as `finetune` or `prenet train` leaves. The file is
    checked against its hash, must fit a network of this version, and must answer as it did when it was saved.

    Raises PrenetError where it does not, where no folder is set, or where the name is taken there.
    """
    file = existing(file)
    if file.suffix != ".safetensors":
        raise WeightsError(f"{file} is no .safetensors file; nothing else is read, because a pickle (.pt, .pth, .ckpt) "
                           "can run code. Export the weights with safetensors first.")
    given = os.environ.get(VARIABLE)
    if not given or not Path(given).is_dir():
        raise WeightsError(f"Set {VARIABLE} to the folder that shall hold your weights; it is "
                           + (f"{given}, which is no folder." if given else "not set."))
    target = Path(given) / file.name
    for ending in (".safetensors", *CARD_ENDINGS):
        check_output(target.with_suffix(ending), (ending,))
    content, about = _read(str(file))[0], card(str(file))
    _answers(_network(str(file)), about, file)
    others = {}
    for ending in CARD_ENDINGS:
        if file.with_suffix(ending).is_file():
            others[target.with_suffix(ending)] = file.with_suffix(ending).read_bytes()
    publish(target, content, others)
    return target


def publish(out, content: bytes, others: dict) -> None:
    """Write new weights and {path: content} of what belongs to them, all or none; the weights appear last."""
    done = []
    try:
        for path, text in others.items():
            with new_file(path, (path.suffix,)) as partial:
                partial.write_bytes(text)
            done.append(path)
        with new_file(out, (".safetensors",)) as partial:
            partial.write_bytes(content)
    except BaseException:
        if not out.exists():
            for path in done:
                path.unlink(missing_ok=True)
        raise


def _answers(network, about, file):
    """Raise WeightsError unless a network answers its replay as its description says."""
    said, now = about.get("replay"), replay(network)
    close = isinstance(said, list) and len(said) == len(now) and all(
        isinstance(a, float | int) and abs(a - b) <= 1e-3 + 1e-3 * abs(b) for a, b in zip(said, now, strict=True))
    if not close:
        raise WeightsError(f"The weights file {file} does not answer as its description says; ask who made it.")


def replay(network) -> list[float]:
    """What a network answers to an input drawn from a fixed seed: proof that it was loaded as it was saved."""
    generator = torch.Generator().manual_seed(REPLAY_SEED)
    with torch.inference_mode():
        return [round(float(v), 5) for v in network.replay(generator)]


def build(task: str) -> nn.Module:
    """An untrained network of a task."""
    from .center import CenterNet
    from .denoise import DenoiseNet
    from .ellipse import EllipseNet

    kinds = {"center": CenterNet, "denoise": DenoiseNet, "ellipse": EllipseNet}
    if task not in kinds:
        raise WeightsError(f"The weights are for a task {task!r} that this version does not know.")
    return kinds[task]()


def requirement(*names: str):
    """A function to call in another process: raises PrenetError where its weights are not those of this one."""
    return partial(_require, tuple((name, verify(name)) for name in names))


@lru_cache
def _require(expected):
    for name, digest in expected:
        if verify(name) != digest:
            raise PrenetError(f"The weights {name!r} of a worker are not the ones used here; install the same "
                              "everywhere.")


def load(name: str, device="auto") -> nn.Module:
    """A trained network, ready to use (evaluation mode, no gradients). Raises WeightsError."""
    return _load(str(find(name).resolve()), str(pick_device(device)))


@lru_cache(maxsize=8)
def _load(path: str, device: str) -> nn.Module:
    network = _network(path)
    _verified[path] = card(path)["sha256"]
    return network.to(device, memory_format=torch.channels_last)


def _network(path: str) -> nn.Module:
    network = build(card(path)["task"])
    try:
        network.load_state_dict(tensors(path))
    except RuntimeError as problem:
        raise WeightsError(f"The weights file {path} does not fit this version's networks; install the package again."
                           ) from problem
    return network.eval().requires_grad_(False)
