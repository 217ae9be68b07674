"""Faults of devices and of weights."""

import json
import os
import pickle

import numpy as np
import pytest
import torch

from py4dstem_prenet.compute import devices
from py4dstem_prenet.networks import weights

from .bench import cube_of, into, scan, state
from .storage import Bomb, text

CASES = []
case = into(CASES)


# --- devices ------------------------------------------------------------------------------------------------


@case("Device", "a device that does not exist", "refused", "device='cuda:99'")
def _(bench):
    cube = cube_of(scan().counts)
    return bench.refuse(lambda: cube.prenet.calibrate(device="cuda:99", progress=False),
                        lambda: cube.prenet.denoise(device="cuda:99", progress=False))


def short_of_memory(most):
    def function(x):
        if len(x) > most:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return 2 * x
    return function


@case("Device", "memory for only a few patterns", "answered", "a simulated error of a full memory")
def _(bench):
    x = np.arange(40.0).reshape(10, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "_fits", {})
        assert np.array_equal(devices.in_batches(short_of_memory(3), x, device="cpu", size=10), 2 * x)
    return ["smaller batches, the same result"]


@case("Device", "memory for no pattern", "refused", "the same error for every batch")
def _(bench):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "_fits", {})
        return bench.refuse(lambda: devices.in_batches(short_of_memory(0), np.zeros((4, 4)), device="cpu", size=4))


# --- weights ------------------------------------------------------------------------------------------------


def with_weights(name, made, spoil, uses=("calibrate", "denoise")):
    """Weights in the user's folder that are wrong. spoil(folder): of a copy of what ships."""
    def run(bench):
        source = weights.find("center").parent
        for task in ("center", "denoise"):
            for ending in (".safetensors", ".json"):
                (bench.given / (task + ending)).write_bytes((source / (task + ending)).read_bytes())
        spoil(bench.given)
        cube = cube_of(scan().counts)
        before = state(cube)
        calls = {"calibrate": lambda: cube.prenet.calibrate(progress=False),
                 "denoise": lambda: cube.prenet.denoise(weights="center", out=bench.out / "a.h5", progress=False)}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(weights.VARIABLE, str(bench.given))
            weights._load.cache_clear()
            try:
                sentences = bench.refuse(*(calls[use] for use in uses))
            finally:
                weights._load.cache_clear()
        assert state(cube) == before
        return sentences
    case("Weights", name, "refused", made)(run)


def edit(**changes):
    def change(folder):
        path = folder / "center.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return change


def flip(folder):
    path = folder / "center.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def replaced(content):
    """Other content, of which the description gives the right hash."""
    import hashlib

    def change(folder):
        (folder / "center.safetensors").write_bytes(content)
        edit(sha256=hashlib.sha256(content).hexdigest())(folder)
    return change


with_weights("altered weights", "one bit", flip)
with_weights("weights cut short", "100 bytes less", lambda f: os.truncate(
    f / "center.safetensors", (f / "center.safetensors").stat().st_size - 100))
with_weights("weights without a description", "no JSON file", lambda f: (f / "center.json").unlink())
with_weights("weights with an unreadable description", "text", lambda f: text(f / "center.json"))
with_weights("weights whose description has a wrong type", '"format": "one"', edit(format="one"))
with_weights("weights of a newer version", '"format": 2', edit(format=weights.FORMAT + 1))
with_weights("weights of an unknown task", '"task": "dance"', edit(task="dance"), uses=("calibrate",))
with_weights("weights of another architecture", "the ellipse network's content under the center's name",
             replaced(weights.find("ellipse").read_bytes()), uses=("calibrate",))
with_weights("weights that are no safetensors file", "100 zeros with the right hash", replaced(bytes(100)),
             uses=("calibrate",))
with_weights("weights that are a pickle with the right name", "os.abort, pickled, with the right hash",
             replaced(pickle.dumps(Bomb())),
             uses=("calibrate",))


@case("Weights", "weights that do not exist", "refused", "denoise(weights='mine')")
def _(bench):
    cube = cube_of(scan().counts)
    return bench.refuse(lambda: cube.prenet.denoise(weights="mine", progress=False),
                        lambda: cube.prenet.denoise(weights="mine", out=bench.out / "a.h5", progress=False))


def imported(name, made, make, folder=True):
    def run(bench):
        file = make(bench.given)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(weights.VARIABLE, str(bench.out)) if folder else patch.delenv(weights.VARIABLE, raising=False)
            return bench.refuse(lambda: weights.adopt(file))
    case("Weights", name, "refused", made)(run)


def pickled_weights(folder):
    path = folder / "mine.pt"
    path.write_bytes(pickle.dumps(Bomb()))
    return path


def with_nan(folder):
    from safetensors.torch import save

    state = weights.build("center").state_dict()
    replaced(save({key: torch.full_like(value, torch.nan) for key, value in state.items()}))(copied(folder).parent)
    return folder / "center.safetensors"


def copied(folder):
    source = weights.find("center")
    for ending in (".safetensors", ".json"):
        (folder / source.name).with_suffix(ending).write_bytes(source.with_suffix(ending).read_bytes())
    return folder / source.name


imported("weights imported from a pickle", "os.abort, pickled, as mine.pt", pickled_weights)
imported("imported weights that are NaN", "NaN everywhere", with_nan)
imported("weights imported without a folder", "PY4DSTEM_PRENET_WEIGHTS is not set", copied, folder=False)


@case("Weights", "weights imported twice", "refused", "prenet weights --import, twice")
def _(bench):
    from typer.testing import CliRunner

    from py4dstem_prenet.cli import app

    file = copied(bench.given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(weights.VARIABLE, str(bench.out))
        first = CliRunner().invoke(app, ["weights", "--import", str(file)])
        assert first.exit_code == 0 and weights.find("center").parent == bench.out, first.output
        assert (bench.out / file.name).read_bytes() == file.read_bytes()
        return bench.refuse(lambda: weights.adopt(file))


@case("Weights", "weights exchanged between two runs", "answered", "another file under the same name")
def _(bench):
    from safetensors.torch import load, save

    file = copied(bench.given)
    name = str(file)
    weights.verify(name)
    first = weights.load(name)
    changed = {key: value * 1.5 for key, value in load(file.read_bytes()).items()}
    replaced(save(changed))(bench.given)
    weights.verify(name)
    key = next(iter(changed))
    assert torch.equal(weights.load(name).state_dict()[key], changed[key])
    assert not torch.equal(first.state_dict()[key], changed[key])
    return ["the new weights are used"]
