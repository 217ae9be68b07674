"""Weights: what ships is what was trained, and what is not is refused before it is parsed."""

import json
import pickle
import shutil

import pytest
import torch

from py4dstem_prenet.compute.devices import pick_device
from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.networks import weights
from py4dstem_prenet.networks.weights import WeightsError, replay

SHIPPED = ("center", "denoise", "ellipse")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder of weights, holding a copy of what ships."""
    source = weights.find("center").parent
    for ending in ("safetensors", "json", "md"):
        shutil.copy(source / f"center.{ending}", tmp_path)
    monkeypatch.setenv(weights.VARIABLE, str(tmp_path))
    return tmp_path


def refused(name="center"):
    """The one sentence with which weights are refused, by all that use them."""
    sentences = []
    for use in (weights.verify, weights.load):
        with pytest.raises(WeightsError) as caught:
            use(name)
        sentences.append(str(caught.value))
    assert sentences[0] == sentences[1] and "\n" not in sentences[0] and sentences[0].endswith((".", ")."))
    assert isinstance(caught.value, PrenetError)
    return sentences[0]


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_is_whole_and_answers_as_it_did_when_it_was_saved(name):
    assert name in weights.names()
    card = weights.card(name)
    assert card["task"] == name and weights.verify(name) == card["sha256"]
    network = weights.load(name)
    assert replay(network) == pytest.approx(card["replay"], abs=1e-3, rel=1e-3)
    assert sum(p.numel() for p in network.parameters()) == card["parameters"]
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    text = weights.find(name).with_suffix(".md").read_text()
    assert card["sha256"] in text and card["command"] in text


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_was_trained(name):
    """An untrained network answers its replay otherwise: the test above is no formality."""
    torch.manual_seed(0)
    untrained = replay(weights.build(name).eval())
    assert max(abs(a - b) for a, b in zip(untrained, weights.card(name)["replay"], strict=True)) > 0.02
    assert weights.card(name)["steps"] > 100


def test_no_pickle_is_opened(monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("unpickled")

    weights._load.cache_clear()
    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, never)
    for name in SHIPPED:
        weights.load(name)
        content = weights.find(name).read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8:8 + length])  # the format: a length, JSON, and numbers
        assert len(content) == 8 + length + max(t["data_offsets"][1] for k, t in header.items() if k != "__metadata__")


@pytest.mark.parametrize("where", [20, -5])
def test_one_altered_byte_is_noticed(folder, where):
    path = folder / "center.safetensors"
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)
    assert "altered" in refused() and str(path) in refused()


def test_a_file_cut_short_is_noticed(folder):
    path = folder / "center.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "altered or is incomplete" in refused()


def test_missing_weights_say_where_they_were_looked_for(folder, monkeypatch):
    assert "missing" in refused("nonsense") and str(folder) in refused("nonsense")
    assert "There is no weights file" in refused(str(folder / "nonsense.safetensors"))
    monkeypatch.setattr(weights, "folders", lambda: [folder / "empty"])
    assert "missing" in refused()


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"task": "center", "format": 1}'])
def test_a_missing_or_broken_description_is_noticed(folder, content):
    path = folder / "center.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    assert "missing or unreadable" in refused() and str(path) in refused()


def edit(folder, **changes):
    path = folder / "center.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_newer_weights_ask_for_a_newer_package(folder):
    edit(folder, format=weights.FORMAT + 1)
    assert "newer version" in refused()


def test_weights_of_another_task_are_not_forced_into_a_network(folder):
    edit(folder, task="denoise")
    with pytest.raises(WeightsError):
        weights.load("center")
    edit(folder, task="dance")
    with pytest.raises(WeightsError):
        weights.load("center")


def test_the_users_folder_comes_first_then_the_packages(folder, monkeypatch):
    assert weights.find("center").parent == folder
    for ending in ("safetensors", "json"):
        (folder / f"center.{ending}").rename(folder / f"mine.{ending}")
    assert "mine" in weights.names() and "center" in weights.names()
    assert weights.find("center").parent != folder  # not there any more: what ships
    assert weights.verify("mine") == weights.verify(str(folder / "mine.safetensors"))
    monkeypatch.delenv(weights.VARIABLE)
    assert "mine" not in weights.names()
    with pytest.raises(WeightsError):
        weights.load("mine")


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(PrenetError):
        pick_device("cuda:99")
    assert pick_device("cpu").type == "cpu"
