"""Adapting the network to a scan: it learns, keeps what is better on electrons it never saw, writes all or nothing."""

import itertools
import json
import types

import numpy as np
import py4DSTEM
import pytest
import torch
from scans import simulated
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

from py4dstem_prenet import cli
from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.core.flags import FLAGS
from py4dstem_prenet.denoising import finetuning as module
from py4dstem_prenet.denoising.checks import SplitBlocks
from py4dstem_prenet.denoising.finetuning import finetune
from py4dstem_prenet.detector.estimate import estimate_noise
from py4dstem_prenet.networks import weights
from py4dstem_prenet.networks.weights import replay

OPTIONS = dict(scan=(4, 4), shape=(64, 64), radius=4.0, dose=2000.0)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small batches, and a clock that shows a second more at every look."""
    monkeypatch.setattr(module, "FINETUNE_BATCH", 4)
    monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=itertools.count().__next__))


def cube(**options):
    return py4DSTEM.DataCube(np.array(simulated(**OPTIONS | options).counts))


def scores(monkeypatch, better):
    """Let the held-out estimate with new weights be better, or worse, than that with the old ones."""
    calls = itertools.count()

    def denoised(self, options):
        new = next(calls) % 2
        return gaussian_filter(self.electrons, (0, 1, 1)) if new == better else self.electrons + 0.5

    monkeypatch.setattr(SplitBlocks, "denoised", denoised)


def spoiled(folder):
    """The shipped network with its last layer nearly silenced, as weights in a file."""
    network = weights.build("denoise")
    network.load_state_dict(weights.load("denoise").state_dict())
    with torch.no_grad():
        network.correction.weight *= 0.3
    content, card = module._described(network, "denoise", estimate_noise(cube()), 1.0, 0, 0, 0)
    (folder / "spoiled.safetensors").write_bytes(content)
    (folder / "spoiled.json").write_text(json.dumps(card))
    return str(folder / "spoiled.safetensors")


@pytest.mark.slow
def test_it_learns_from_counts_alone(tmp_path):
    """A network that was spoiled becomes better on held-out electrons, and what is written is what was learned."""
    start = spoiled(tmp_path)
    result = finetune(cube(), out=tmp_path / "mine.safetensors", minutes=15 / 60, start=start, progress=False)
    assert result.accepted and result.steps == 15, result.reason
    assert result.gain > 3 * result.gain_sigma and result.error < 0
    card = weights.card(str(result.path))
    assert card["sha256"] == weights.verify(str(result.path)) and card["start"]["sha256"] == weights.verify(start)
    network = weights.load(str(result.path))
    assert replay(network) == card["replay"] != weights.card(start)["replay"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mine.json", "mine.safetensors", "spoiled.json", "spoiled.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize("better", [1, 0], ids=["better", "worse"])
def test_only_better_weights_are_kept(monkeypatch, tmp_path, better):
    scores(monkeypatch, better)
    before = weights.verify("denoise")
    result = cube().prenet.finetune(out=tmp_path / "mine.safetensors", minutes=1 / 60, progress=False)
    assert result.accepted == bool(better) and result.steps == 1
    names = sorted(path.name for path in tmp_path.iterdir())
    if better:
        assert names == ["mine.json", "mine.safetensors"] and result.path == tmp_path / "mine.safetensors"
        assert weights.load(str(result.path)).training is False
    else:
        assert names == [] and result.path is None and result.decision.has("fine_tuning_no_gain")
    assert weights.verify("denoise") == before


@pytest.mark.slow
@pytest.mark.parametrize("part, kept", [(0.3, True), (0.995, False)])
def test_a_gain_beyond_doubt_but_of_no_use_is_not_written(monkeypatch, tmp_path, part, kept):
    """The old weights leave an offset of a tenth of an electron a pixel, the new ones a part of it."""
    calls = itertools.count()
    monkeypatch.setattr(SplitBlocks, "denoised", lambda self, options: gaussian_filter(self.electrons, (0, 1, 1))
                        + 0.1 * (part if next(calls) % 2 else 1.0))
    result = cube().prenet.finetune(out=tmp_path / "mine.safetensors", minutes=1 / 60, progress=False)
    assert result.gain > 2 * result.gain_sigma and result.error < 0
    assert result.accepted == kept and bool(list(tmp_path.iterdir())) == kept


@pytest.mark.slow
def test_what_is_held_out_is_not_learned_from(monkeypatch, tmp_path):
    seen = []

    def train(network, blocks, *_):
        seen.append(np.concatenate([block.patterns for block in blocks]))
        return network, 0

    held_out = []
    monkeypatch.setattr(module, "_train", train)
    monkeypatch.setattr(SplitBlocks, "denoised", lambda self, options: held_out.append(self.electrons + self.target) or
                        self.electrons)
    result = finetune(cube(), out=tmp_path / "mine.safetensors", progress=False)
    assert not result.accepted and not list(tmp_path.iterdir())  # as good as before is not better
    counts = simulated(**OPTIONS).counts.reshape(16, 64, 64)
    where = [{k for k in range(16) for p in part if np.array_equal(p, counts[k])} for part in (seen[0], held_out[0])]
    assert len(where[0]) == 12 and len(where[1]) == 4 and not where[0] & where[1]


@pytest.mark.slow
def test_an_interruption_leaves_nothing(monkeypatch, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_loss", stop)
    with pytest.raises(KeyboardInterrupt):
        finetune(cube(), out=tmp_path / "mine.safetensors", progress=False)
    assert not list(tmp_path.iterdir())


def test_a_failure_while_writing_leaves_neither_file(monkeypatch, tmp_path):
    from py4dstem_prenet.io import files

    publish = files._publish
    monkeypatch.setattr(files, "_publish", lambda partial, path: publish(partial, path) if path.suffix == ".json" else
                        (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        weights.publish(tmp_path / "mine.safetensors", b"content", {tmp_path / "mine.json": b"{}"})
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_learned_from_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_train", lambda *_: pytest.fail("it was trained"))
    out = tmp_path / "mine.safetensors"
    with pytest.raises(PrenetError):
        finetune(cube(scan=(1, 1)), out=out)
    with pytest.raises(PrenetError):
        finetune(cube(), out=tmp_path / "mine.pt")
    with pytest.raises(PrenetError):
        finetune(cube(), out=out, minutes=0)
    correlated = py4DSTEM.DataCube(gaussian_filter(cube(dose=30_000.0).data.astype(np.float32), (0, 0, 0.6, 0.6)))
    result = finetune(correlated, out=out)
    assert not result.accepted and result.decision.has("fine_tuning_refused") and not list(tmp_path.iterdir())
    out.with_suffix(".json").write_text("mine")
    with pytest.raises(PrenetError):
        finetune(cube(), out=out)
    assert out.with_suffix(".json").read_text() == "mine"


@pytest.mark.slow
def test_from_the_command_line(monkeypatch, tmp_path):
    scores(monkeypatch, better=0)
    np.save(tmp_path / "scan.npy", cube().data)
    arguments = ["finetune", str(tmp_path / "scan.npy"), "-o", str(tmp_path / "mine.safetensors"), "--minutes", "0.01"]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 1 and FLAGS["fine_tuning_no_gain"].sentence.split("{")[0] in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["scan.npy"]
