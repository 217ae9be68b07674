"""benchmarks/gpu.py runs through with small sizes on a CPU, so that it works at the first try where there is a GPU."""

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch

from py4dstem_prenet.compute import move_to_device
from py4dstem_prenet.training import ellipse

spec = importlib.util.spec_from_file_location("gpu", Path(__file__).parents[1] / "benchmarks" / "gpu.py")
gpu = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gpu)
tasks = gpu.tasks()
pytestmark = pytest.mark.usefixtures("beams_learned_once")


@pytest.mark.slow
@pytest.mark.parametrize("stage, rows", [("Parity", 2), ("Rates", 4), ("time", 25)])
def test_each_stage_writes_its_table(stage, rows, tmp_path):
    gpu.main(["--device", "cpu", "--small", "--out", str(tmp_path), "--only", stage])
    text = (tmp_path / "report.md").read_text()
    assert "Traceback" not in text
    assert sum(line.startswith("| ") for line in text.splitlines()) == rows + 1


@pytest.mark.slow
def test_a_network_is_trained_and_kept_if_it_is_better(tmp_path, monkeypatch, banks):
    shutil.copytree(banks, tmp_path / "banks")
    monkeypatch.setattr(gpu, "tasks", lambda: {"ellipse": tasks["ellipse"]})
    monkeypatch.setattr(tasks["ellipse"], "batch", 8)
    monkeypatch.setattr(ellipse, "POLAR_VALIDATION_BATCHES", 1)
    gpu.main(["--device", "cpu", "--small", "--out", str(tmp_path), "--only", "Training"])
    text = (tmp_path / "report.md").read_text()
    assert "Traceback" not in text
    kept = text.rstrip().endswith("| yes |")
    assert (tmp_path / "weights" / "ellipse.safetensors").exists() == kept


def test_a_stage_that_fails_is_named_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "parity", lambda *_: 1 / 0)
    monkeypatch.setattr(gpu, "rates", lambda *_: ["| a | 1 | 1 | 1 | |"])
    for other in ("profile", "training"):
        monkeypatch.setattr(gpu, other, lambda *_: [])
    gpu.main(["--device", "cpu", "--small", "--out", str(tmp_path)])
    text = (tmp_path / "report.md").read_text()
    assert "ZeroDivisionError" in text and "| a | 1 |" in text


def test_gradients_pass_through_a_module_on_a_device():
    layer, x = torch.nn.Linear(3, 2), torch.ones(4, 3, requires_grad=True)
    expected = layer(x).detach()
    move_to_device(layer, "cpu")
    out = layer(x)
    out.sum().backward()
    assert torch.equal(out.detach(), expected) and layer.weight.grad is not None and x.grad is not None
