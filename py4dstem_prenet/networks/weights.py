"""Trained weights by name: found on disk, verified by their SHA-256 before they are parsed, and loaded into a network.

A set of weights is three files: NAME.safetensors; NAME.json, its description (task, format, SHA-256, history of the
training, and replay values, which a loaded network must reproduce); and NAME.md, the model card. They are searched in
the folder that the environment variable PY4DSTEM_PRENET_WEIGHTS names, then in the package. Nothing is downloaded, and
no other file type is read, because a pickle can run code.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import nn

from .._version import __version__
from ..compute import pick_device
from ..core import PrenetError
from ..io import check_output, existing, new_file

VARIABLE = "PY4DSTEM_PRENET_WEIGHTS"  # environment variable with the user's folder of weights
CARD_ENDINGS = (".json", ".md")  # files beside a safetensors file
REPLAY_SEED = 7  # seed of the input of `replay`; the stored replay values depend on it
FORMAT = 1  # version of the description; raised when older versions of the package can no longer read newer files


_verified = {}  # {path: SHA-256 of the content that was loaded from it}


class WeightsError(PrenetError):
    """A weights file is missing, altered, or made for another version."""


def folders() -> list[Path]:
    """Return the folders that are searched for weights, in order.

    Returns
    -------
    list of pathlib.Path
        The user's folder, if set, then those of the package.
    """
    package = Path(__file__).resolve().parents[1]
    user_folder = os.environ.get(VARIABLE)
    # A wheel holds the weights in _weights; a checkout of the repository holds them at its top level.
    return ([Path(user_folder)] if user_folder else []) + [package / "_weights", package.parent / "weights"]


def names() -> list[str]:
    """Return the names of all sets of weights that are found.

    Returns
    -------
    list of str
        Sorted names.

    Examples
    --------
    >>> {"center", "denoise", "ellipse"} <= set(names())
    True
    """
    return sorted({path.stem for folder in folders() for path in folder.glob("*.safetensors")})


def find(name: str) -> Path:
    """Return the safetensors file of a set of weights.

    Parameters
    ----------
    name : str
        Name of the set, or the path of a .safetensors file.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    WeightsError
        No such file exists.
    """
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
    """Return the description of a set of weights.

    Parameters
    ----------
    name : str
        Name of the set, or the path of a .safetensors file.

    Returns
    -------
    dict
        Content of the JSON file beside the weights.

    Raises
    ------
    WeightsError
        The description is missing, unreadable, or written by a newer version of the package.

    Examples
    --------
    >>> card("center")["task"]
    'center'
    """
    path = find(name).with_suffix(".json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        required = {"task": str, "format": int, "sha256": str}
        if not all(isinstance(content[key], kind) for key, kind in required.items()):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as problem:
        raise WeightsError(
            f"The description {path} of the weights is missing or unreadable; install the package again.") from problem
    if content["format"] > FORMAT:
        raise WeightsError(f"The weights {path.stem!r} need a newer version of py4dstem_prenet; update the package.")
    return content


def verify(name: str) -> str:
    """Return the SHA-256 of a weights file, after comparison with its description.

    Parameters
    ----------
    name : str
        Name of the set, or the path of a .safetensors file.

    Returns
    -------
    str
        Hexadecimal digest.

    Raises
    ------
    WeightsError
        The file is missing or does not match its description.
    """
    path, digest = str(find(name).resolve()), _read(name)[1]
    if _verified.setdefault(path, digest) != digest:  # the file was replaced since it was loaded
        _verified[path] = digest
        _load.cache_clear()
    return digest


def _read(name: str) -> tuple[bytes, str]:
    """Verified content of a weights file, and its digest."""
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
    """Return the tensors of a verified weights file.

    Parameters
    ----------
    name : str
        Name of the set, or the path of a .safetensors file.

    Returns
    -------
    dict
        Tensors by name, as a state dict.

    Raises
    ------
    WeightsError
        The file is missing, altered or unreadable.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as parse

    content = _read(name)[0]
    try:
        return parse(content)
    except (SafetensorError, ValueError, KeyError) as problem:
        raise WeightsError(f"The weights file {find(name)} cannot be read; install the package again.") from problem


def adopt(file) -> Path:
    """Copy a weights file and its description into the user's folder.

    Parameters
    ----------
    file : str or pathlib.Path
        A .safetensors file with its description (.json), as `finetune` or `prenet train` writes. It is compared with
        its SHA-256, must fit a network of this version, and must reproduce its replay values.

    Returns
    -------
    pathlib.Path
        The copy.

    Raises
    ------
    PrenetError
        The file fails one of these checks, no folder is set, or the name exists there already.
    """
    file = existing(file)
    if file.suffix != ".safetensors":
        raise WeightsError(f"{file} is not a .safetensors file. Other formats (.pt, .pth, .ckpt) are pickles, which "
                           "can run code, and are not read. Export the weights with safetensors first.")
    user_folder = os.environ.get(VARIABLE)
    if not user_folder or not Path(user_folder).is_dir():
        raise WeightsError(f"{VARIABLE} is " + (f"{user_folder}, which is not a folder" if user_folder else "not set")
                           + "; set it to the folder for your weights.")
    target = Path(user_folder) / file.name
    for ending in (".safetensors", *CARD_ENDINGS):
        check_output(target.with_suffix(ending), (ending,))
    content, description = _read(str(file))[0], card(str(file))
    _check_replay(_network(str(file)), description, file)
    others = {}
    for ending in CARD_ENDINGS:
        if file.with_suffix(ending).is_file():
            others[target.with_suffix(ending)] = file.with_suffix(ending).read_bytes()
    publish(target, content, others)
    return target


def publish(out, content: bytes, others: dict) -> None:
    """Write a weights file and the files that belong to it, either all of them or none.

    Parameters
    ----------
    out : pathlib.Path
        New .safetensors file; it is written last.
    content : bytes
        Its content.
    others : dict
        Content (bytes) of the other files by path.
    """
    written = []
    try:
        for path, text in others.items():
            with new_file(path, (path.suffix,)) as partial_file:
                partial_file.write_bytes(text)
            written.append(path)
        with new_file(out, (".safetensors",)) as partial_file:
            partial_file.write_bytes(content)
    except BaseException:
        if not out.exists():
            for path in written:
                path.unlink(missing_ok=True)
        raise


def _check_replay(network, description, file):
    """Raise WeightsError unless a network reproduces the replay values of its description."""
    stored, computed = description.get("replay"), replay(network)
    close = isinstance(stored, list) and len(stored) == len(computed) and all(
        isinstance(a, float | int) and abs(a - b) <= 1e-3 + 1e-3 * abs(b)
        for a, b in zip(stored, computed, strict=True))
    if not close:
        raise WeightsError(f"The network in {file} does not reproduce the test outputs in its description; ask the "
                           "author of the file.")


def replay(network) -> list[float]:
    """Evaluate a network on input from a fixed seed, to verify that it was loaded as it was saved.

    Parameters
    ----------
    network : torch.nn.Module
        A network in evaluation mode. Its method ``replay(generator)`` draws the input from a `torch.Generator`, and
        returns some of its outputs as scalars.

    Returns
    -------
    list of float
        These scalars, rounded to 5 decimals. They are stored in the description of the weights.

    Examples
    --------
    >>> stored = card("ellipse")["replay"]
    >>> all(abs(a - b) < 1e-3 for a, b in zip(replay(load("ellipse")), stored, strict=True))
    True
    """
    generator = torch.Generator().manual_seed(REPLAY_SEED)
    with torch.inference_mode():
        return [round(float(v), 5) for v in network.replay(generator)]


def serialize(network, task: str) -> tuple[bytes, dict]:
    """Convert a network to the content of a weights file and the entries of its description that every file has.

    Parameters
    ----------
    network : torch.nn.Module
        A network on the CPU, in evaluation mode.
    task : str
        Its task, a key of `build`.

    Returns
    -------
    content : bytes
        Content of the .safetensors file.
    description : dict
        Task, format, SHA-256, versions, date, number of parameters and replay values.
    """
    from safetensors.torch import save

    content = save({key: value.contiguous().float() for key, value in network.state_dict().items()})
    return content, {
        "task": task, "format": FORMAT, "sha256": hashlib.sha256(content).hexdigest(), "version": __version__,
        "date": datetime.date.today().isoformat(), "parameters": sum(p.numel() for p in network.parameters()),
        "replay": replay(network),
    }


def build(task: str) -> nn.Module:
    """Return an untrained network.

    Parameters
    ----------
    task : {"center", "denoise", "ellipse"}
        Its task.

    Returns
    -------
    torch.nn.Module
        A network with random weights.

    Raises
    ------
    WeightsError
        The task is unknown.
    """
    from . import CenterNet, DenoiseNet, EllipseNet

    classes = {"center": CenterNet, "denoise": DenoiseNet, "ellipse": EllipseNet}
    if task not in classes:
        raise WeightsError(f"The weights are for a task {task!r} that this version does not know.")
    return classes[task]()


def requirement(*names: str):
    """Return a function that checks in another process that the weights are those of this process.

    Parameters
    ----------
    *names : str
        Names of sets of weights.

    Returns
    -------
    callable
        A function without arguments that can be pickled. It raises PrenetError where the weights differ.
    """
    return partial(_require, tuple((name, verify(name)) for name in names))


@lru_cache
def _require(expected):
    """Raise PrenetError unless the weights have the expected digests, ((name, digest), ...)."""
    for name, digest in expected:
        if verify(name) != digest:
            raise PrenetError(f"The weights {name!r} of a worker are not the ones used here; install the same "
                              "everywhere.")


def load(name: str, device="auto") -> nn.Module:
    """Return a trained network in evaluation mode, without gradients.

    Parameters
    ----------
    name : str
        Name of a set of weights, or the path of a .safetensors file.
    device : str or torch.device
        "auto", "cpu", "cuda" or "mps".

    Returns
    -------
    torch.nn.Module
        The network. Later calls with the same arguments return the same object; do not change it.

    Raises
    ------
    WeightsError
        The weights are missing, altered, or made for another version.

    Examples
    --------
    >>> type(load("ellipse")).__name__
    'EllipseNet'
    """
    return _load(str(find(name).resolve()), str(pick_device(device)))


@lru_cache(maxsize=8)
def _load(path: str, device: str) -> nn.Module:
    """The network of `load`; the cache is cleared where a file changes."""
    network = _network(path)
    _verified[path] = card(path)["sha256"]
    return network.to(device, memory_format=torch.channels_last)


def _network(path: str) -> nn.Module:
    """A network with the weights of a file, in evaluation mode."""
    network = build(card(path)["task"])
    try:
        network.load_state_dict(tensors(path))
    except RuntimeError as problem:
        raise WeightsError(f"The weights file {path} does not fit this version's networks; install the package again."
                           ) from problem
    return network.eval().requires_grad_(False)
