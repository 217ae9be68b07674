"""Training: a few steps learn, and a run that was cut off goes on as if it had not been."""

import json

import numpy as np
import pytest
import torch
from scans import SPECIMENS
from scipy.stats import chi2

from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.networks import weights
from py4dstem_prenet.networks.weights import replay
from py4dstem_prenet.training import center, denoise, ellipse, loop
from py4dstem_prenet.training.exporting import export

BATCH = {"center": 32, "denoise": 8, "ellipse": 8}  # the smallest that still mix grains


@pytest.fixture
def small(monkeypatch):
    for name, task in loop.tasks().items():
        monkeypatch.setattr(task, "batch", BATCH[name])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_larger_network_begins_with_the_answers_of_a_smaller_one():
    torch.manual_seed(0)
    small, large = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(5, 8, 3)
    before = large.weight.detach().clone()
    large.load_state_dict(loop.expand_weights(small.state_dict(), large))
    x = torch.randn(2, 5, 6, 6)
    assert torch.allclose(large(x)[:, :4], small(x[:, :3]), atol=1e-6)
    assert torch.equal(large.weight[4:, :3], before[4:, :3])
    with pytest.raises(RuntimeError):
        small.load_state_dict(loop.expand_weights(large.state_dict(), small))


def test_gaussian_nll_is_smallest_at_the_true_covariance():
    error = torch.randn(4000, 2, generator=seeded()) @ torch.tensor([[0.5, 0.3], [0.0, 0.8]])
    true = torch.linalg.cholesky(error.T @ error / len(error))

    def nll(factor):
        return center.gaussian_nll(error, factor.expand(len(error), 2, 2))

    best, white = nll(true)
    assert float(white.square().sum(1).median()) == pytest.approx(chi2(2).median(), rel=0.08)
    for factor in (true * 1.15, true / 1.15, true * torch.tensor([[1.0, 1.0], [-1.0, 1.0]])):
        assert nll(factor)[0].mean() > best.mean()


def test_splat_puts_unit_weight_where_the_beam_is():
    weights_ = center.bilinear_target(torch.tensor([[3.25, 5.5], [0.0, 7.0]]), (8, 9))
    assert weights_.sum((1, 2)).tolist() == pytest.approx([1, 1])
    assert float(weights_[0].sum(1) @ torch.arange(8.0)) == pytest.approx(3.25)
    assert float(weights_[0].sum(0) @ torch.arange(9.0)) == pytest.approx(5.5)
    assert float(weights_[1, 0, 7]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["center", "denoise", "ellipse"])
def test_a_few_steps_learn(name, bank, small):
    """On one and the same batch the loss falls: gradients reach the weights, with the right sign."""
    torch.manual_seed(0)
    task = loop.tasks()[name]()
    network = task.build()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-4)
    losses = []
    for _ in range(9):
        loss = task.loss(network, bank, seeded(6), half=False)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert min(losses[-3:]) < losses[0] - 0.01 * abs(losses[0]), losses


class Cut(Exception):
    pass


def run(banks, folder, monkeypatch, name, cut_before=None, **options):
    """A run of 4 steps, cut off before a step if asked; its checkpoint. Steps are kept, figures are not."""
    task = loop.tasks()[name]
    loss, calls = task.loss, []

    def counted(self, *args):
        calls.append(1)
        if len(calls) == cut_before:
            raise Cut
        return loss(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(task, "loss", counted)
        patch.setattr(task, "validate", lambda *_: {"score": 0.0})
        patch.setattr(loop, "CHECKPOINT_INTERVAL_S", -1.0)
        settings = dict(steps=4, seed=5, out=folder, specimens=SPECIMENS, banks=banks) | options
        if cut_before:
            with pytest.raises(Cut):
                loop.train(name, **settings)
        else:
            loop.train(name, **settings)
    return torch.load(folder / "checkpoint.pt", weights_only=True), len(calls)


def apart(one, other, key="network"):
    return max(float((one[key][k] - other[key][k]).abs().max()) for k in one[key])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["center", "ellipse"])
def test_a_run_that_was_cut_off_goes_on_to_the_same_weights(name, banks, small, monkeypatch, tmp_path):
    straight, steps = run(banks, tmp_path / "a", monkeypatch, name)
    assert straight["step"] == steps == 4
    cut, _ = run(banks, tmp_path / "b", monkeypatch, name, cut_before=3)
    assert cut["step"] == 2
    assert apart(straight, cut) > 1e-5  # there was something left to do
    resumed, steps = run(banks, tmp_path / "b", monkeypatch, name, resume=True)
    assert resumed["step"] == 4 and steps == 2
    assert apart(straight, resumed) < 1e-6 and apart(straight, resumed, "average") < 1e-6
    assert torch.equal(straight["generator"], resumed["generator"])


@pytest.mark.slow
def test_a_seed_is_the_whole_run(banks, small, monkeypatch, tmp_path):
    one, same, other = (run(banks, tmp_path / str(k), monkeypatch, "ellipse", seed=seed)[0]
                        for k, seed in enumerate((5, 5, 6)))
    assert apart(one, same) < 1e-7
    assert apart(one, other) > 1e-3


@pytest.mark.slow
def test_one_part_is_trained_and_the_other_stays(banks, small, monkeypatch, tmp_path):
    state, _ = run(banks, tmp_path / "run", monkeypatch, "center", steps=2, start="center", part="coarse")
    before, after = weights.tensors("center"), state["network"]
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("coarse.") for name in changed)
    with pytest.raises(PrenetError):
        loop.train("center", steps=2, out=tmp_path / "other", part="middle", specimens=SPECIMENS, banks=banks)


def test_the_learning_rate_warms_up_and_falls(banks, small, monkeypatch, tmp_path):
    monkeypatch.setattr(loop, "WARMUP_STEPS", 2)
    state, _ = run(banks, tmp_path, monkeypatch, "ellipse")
    # The last of four steps: three quarters through the cosine.
    rate = state["optimizer"]["param_groups"][0]["lr"]
    assert rate == pytest.approx(ellipse.EllipseTask.rate * 0.5 * (1 + np.cos(np.pi * 0.75)))


@pytest.mark.slow
def test_a_run_becomes_weights_that_load_and_replay(banks, small, monkeypatch, tmp_path):
    """Through the real validation, into a folder that the environment names, to the same answers."""
    out = loop.train("ellipse", steps=2, seed=1, out=tmp_path / "run", specimens=SPECIMENS, banks=banks)
    line = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    assert line["step"] == 2 and np.isfinite(line["score"])
    assert 0 < line["rings_median"] < 1
    path = export(out, tmp_path / "weights", "prenet train ellipse --steps 2 --seed 1", name="mine")
    assert sorted(p.name for p in path.parent.iterdir()) == ["mine.json", "mine.md", "mine.safetensors"]
    monkeypatch.setenv(weights.VARIABLE, str(tmp_path / "weights"))
    assert weights.verify("mine") == weights.card("mine")["sha256"]
    network = weights.load("mine")
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    assert all(torch.equal(v, state["average"][k]) for k, v in network.state_dict().items())
    assert replay(network) == pytest.approx(weights.card("mine")["replay"], abs=1e-5)
    card = path.with_suffix(".md").read_text()
    for fact in ("prenet train ellipse --steps 2 --seed 1", weights.verify("mine"), "rings_median",
                 f"{SPECIMENS} random specimens"):
        assert fact in card
    # and training can begin from them
    with monkeypatch.context() as patch:
        patch.setattr(ellipse.EllipseTask, "rate", 0.0)
        warm, _ = run(banks, tmp_path / "warm", patch, "ellipse", start="mine")
    assert max(float((v - warm["network"][k]).abs().max()) for k, v in network.state_dict().items()) < 1e-7


@pytest.mark.slow
@pytest.mark.parametrize("name", ["center", "denoise"])
def test_figures_of_an_untrained_network_are_those_of_ignorance(name, bank, small, monkeypatch):
    """What validation prints is measured on the right scale: doing nothing leaves the noise as it was."""
    monkeypatch.setattr(denoise, "TRAINING_CROP_PX", 48)  # a quarter of the time
    monkeypatch.setattr(center, "VALIDATION_BATCHES", 2)
    task = loop.tasks()[name]()
    torch.manual_seed(0)
    figures = task.validate(task.build().eval(), bank, seeded(), False)
    if name == "denoise":
        assert figures["ratio_3000"] == pytest.approx(1, abs=0.25)
        assert figures["kept_3000"] == pytest.approx(1, abs=0.1)
    else:
        assert 0.5 < figures["median_3000"] < 4  # the spread of the offsets that are drawn
        assert figures["coarse_far"] > 0.5 and figures["far_none"] > 0.2
        assert all(np.isfinite(v) for v in figures.values())


@pytest.mark.parametrize("options", [dict(task="dance", steps=1), dict(task="center"),
                                     dict(task="center", steps=1, resume=True)])
def test_what_cannot_be_trained_is_refused_before_anything_is_made(options, tmp_path):
    with pytest.raises(PrenetError):
        loop.train(out=tmp_path / "run", banks=tmp_path / "banks", **options)
    assert not list(tmp_path.iterdir())
