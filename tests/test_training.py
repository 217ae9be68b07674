"""Training: labels are true, a few steps learn, and a run that was cut off goes on as if it had not been."""

import json

import numpy as np
import pytest
import torch
from scans import bank_of, vacuum
from scipy.stats import chi2

from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.core.noise import NoiseModel
from py4dstem_prenet.denoising import neighbors
from py4dstem_prenet.networks import weights
from py4dstem_prenet.networks.weights import replay
from py4dstem_prenet.simulation import faults
from py4dstem_prenet.simulation.bank import make_bank
from py4dstem_prenet.simulation.pattern import ideal_coordinates, soft_disk
from py4dstem_prenet.training import center, denoise, ellipse, loop
from py4dstem_prenet.training.exporting import export
from py4dstem_prenet.training.scenes import draw_scene

SPECIMENS = 7
BATCH = {"center": 32, "denoise": 8, "ellipse": 8}  # the smallest that still mix grains


@pytest.fixture(scope="module")
def banks(tmp_path_factory):
    """A folder of banks where `train` finds them, of seeds whose few specimens are of all kinds."""
    folder = tmp_path_factory.mktemp("banks")
    for wanted, seed in zip(loop.BANKS.values(), (102, 103), strict=True):
        assert "isotropic" in loop.load_bank(folder, seed, SPECIMENS).kind
        (folder / f"bank-{seed}-{SPECIMENS}.npz").rename(folder / f"bank-{wanted}-{SPECIMENS}.npz")
    return folder


@pytest.fixture(scope="module")
def bank(banks):
    return loop.load_bank(banks, loop.BANKS["train"], SPECIMENS)


@pytest.fixture(scope="module")
def vacuum_bank():
    """Nothing but direct beams, half of them called powders."""
    return bank_of(vacuum(16.0)[None].expand(2, -1, -1), 16.0, ["isotropic", "crystal"])


@pytest.fixture
def small(monkeypatch):
    for name, task in loop.tasks().items():
        monkeypatch.setattr(task, "batch", BATCH[name])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# --- what networks are taught


def test_scenes_show_their_disk_where_their_labels_say(vacuum_bank):
    """Matched against the disk that their labels describe, patterns answer best without a shift."""
    middle = torch.full((64, 2), 31.5) + torch.rand(64, 2, generator=seeded(5)) * 4
    scene = draw_scene(vacuum_bank, seeded(), 64, (64, 64), middle, radius_range=(4, 12), dose_range=(1e4, 1e4),
                       stops=0)
    assert torch.equal(scene.origin, middle)

    def match(shift=(0.0, 0.0), vector=None):
        at = ideal_coordinates((64, 64), middle + torch.tensor(shift), scene.matrix if vector is None else vector)
        disk = soft_disk(at, scene.radius, scene.edge)
        disk = disk - disk.mean((1, 2), keepdim=True)
        # The background is smooth; differences of neighbors see edges.
        return (scene.expected.diff(dim=1)[:, :, 1:] * disk.diff(dim=1)[:, :, 1:]
                + scene.expected.diff(dim=2)[:, 1:] * disk.diff(dim=2)[:, 1:]).sum((1, 2)) / disk.norm(dim=(1, 2))

    best = match()
    for shift in ((0.5, 0.0), (-0.5, 0.0), (0.0, 0.5), (0.0, -0.5)):
        assert (best > match(shift)).float().mean() > 0.95, shift
    stretched = torch.linalg.vector_norm(scene.vector, dim=1) > 0.04
    assert stretched.any()
    assert (best > match(vector=torch.linalg.inv(scene.matrix)))[stretched].float().mean() > 0.9


def test_windows_are_centered_on_the_guess_not_on_the_beam(vacuum_bank):
    """The offset's sign: a beam at larger x has its electrons at larger x."""
    x, _, offset, scene = center.draw_windows(vacuum_bank, seeded(1), 128)
    plain = (scene.radius < 8) & (scene.dose > 1e4) & ~scene.detector.dead.flatten(1).any(1)
    axis = torch.arange(center.WINDOW) - (center.WINDOW - 1) / 2
    light = scene.expected / scene.expected.sum((1, 2), keepdim=True)
    com = torch.stack([light.sum(2) @ axis, light.sum(1) @ axis], 1)[plain]
    assert len(com) > 10
    for k in (0, 1):
        assert np.corrcoef(com[:, k], offset[plain][:, k])[0, 1] > 0.8
        assert abs(np.corrcoef(com[:, k], offset[plain][:, 1 - k])[0, 1]) < 0.6
    assert scene.masked.any() and not x[:, 2][scene.masked].any()  # what a mask hides is hidden
    # The reference disk knows nothing of the offset: it lies in the middle.
    reference = x[:, 1] / x[:, 1].sum((1, 2), keepdim=True)
    assert (reference.sum(2) @ axis).abs().max() < 0.05 and (reference.sum(1) @ axis).abs().max() < 0.05


def test_fields_have_their_beam_at_the_label_also_when_turned(vacuum_bank):
    x, _, origin, present, scene = center.draw_fields(vacuum_bank, seeded(2), 256)
    radius, kinds = scene.radius, scene.faults.kinds()
    hidden = ("dark", "stop", "sides", "wrapped", "gain", "offset")
    plain = present & ~torch.stack([kinds[k] for k in hidden]).any(0)
    rows, columns = torch.meshgrid(*2 * [torch.arange(center.COARSE_FIELD_PX)], indexing="ij")
    near = torch.hypot(rows - origin[:, 0, None, None], columns - origin[:, 1, None, None]) < radius[:, None, None]
    swapped = torch.hypot(rows - origin[:, 1, None, None], columns - origin[:, 0, None, None]) < radius[:, None, None]
    usual = x[:, 0].flatten(1).mean(1)
    inside = (x[:, 0] * near).sum((1, 2)) / near.sum((1, 2)).clamp_min(1) - usual
    mirrored = (x[:, 0] * swapped).sum((1, 2)) / swapped.sum((1, 2)).clamp_min(1) - usual
    assert (inside[plain] > 0.3).float().mean() > 0.85
    off_diagonal = plain & ((origin[:, 0] - origin[:, 1]).abs() > 2 * radius)
    assert (inside > mirrored)[off_diagonal].float().mean() > 0.9
    assert (inside[~present].abs() < 0.5).float().mean() > 0.5
    # A weak beam is told from none but where noise hides it, or a stop of which nothing is seen beside.
    clean = (scene.detector.readout == 0) & ~kinds["columns"]
    told, seen = center.is_detectable(scene), scene.visible > center.HIDDEN_FRACTION
    assert told[clean & seen].all() and told[(scene.dose > 1e5) & seen].all() and told.float().mean() > 0.8
    # Behind a beam stop a beam is present all the same.
    assert (present & kinds["stop"]).any()


def test_polar_samples_show_the_ellipse_of_their_label(vacuum_bank):
    """A disk stretched along theta is brighter there at its edge: cos 2phi carries the vector's first component."""
    inputs, vector = ellipse.draw_polar_maps(vacuum_bank, seeded(3), 48)
    maps = inputs["disk"][:, 0] * inputs["disk"][:, 2]
    phi = torch.arange(ellipse.AZIMUTHS) * (2 * torch.pi / ellipse.AZIMUTHS)
    second = torch.stack([maps.mean(2) @ torch.cos(2 * phi), maps.mean(2) @ torch.sin(2 * phi)], 1)
    for k in (0, 1):
        assert np.corrcoef(second[:, k], vector[:, k])[0, 1] > 0.8


def test_denoising_samples_are_counts_of_their_truth(bank):
    inputs, scene = denoise.draw_crops(bank, seeded(4), 16)
    counts, readout, good = (inputs[key] for key in ("electrons", "readout", "good"))
    z = (counts - scene.expected) / (scene.expected + readout[:, None, None] ** 2).sqrt()
    some = good & (scene.expected > 3)
    assert some.sum() > 5000
    assert abs(float(z[some].mean())) < 0.05 and float(z[some].std()) == pytest.approx(1, abs=0.05)
    # Bad pixels come as the package hands them over: from their neighbors.
    near = NoiseModel(1.0, 0.0, 0.0, ~good[0].numpy(), True, 1.0).electrons(counts[:1].numpy())[0]
    assert np.array_equal(near[good[0]], counts[0][good[0]])
    assert counts.isfinite().all() and inputs["neighbors"].isfinite().all()
    assert not inputs["neighbors"][inputs["patterns"] == 0].any()


def test_repeats_are_worth_what_they_are_said_to_be(bank):
    """Means of repeats scatter about the truth as that many patterns do, a little less where interpolation smooths."""
    inputs, scene = denoise.draw_crops(bank, seeded(8), 32, 25.0)
    # Flat places: what a shift does to edges is another matter.
    smooth = torch.nn.functional.avg_pool2d(scene.expected[:, None], 5, 1, 2)[:, 0]
    flat = ((smooth - scene.expected).abs() < 0.02 * smooth) & (smooth > 1) & (smooth < 1e4)
    flat[:, :8] = flat[:, -8:] = flat[:, :, :8] = flat[:, :, -8:] = False
    variance = (scene.expected + inputs["readout"][:, None, None] ** 2) / 25
    z = ((inputs["neighbors"] - scene.expected) / variance.sqrt())[flat]
    assert len(z) > 2000
    assert 0.55 < float(z.square().median() / 0.455) < 1.15  # 0.455 is the median of chi squared


def test_what_is_seen_elsewhere_has_the_same_place_and_dose(bank):
    scene, moved, move, other = denoise.draw_neighbor_scenes(bank, seeded(9), 16)
    back = neighbors.shift(moved, move)
    wrong = neighbors.shift(moved, -move)
    error, mirrored = (((image - scene.expected)[:, 6:-6, 6:-6]).square().sum() for image in (back, wrong))
    assert error < 0.2 * mirrored
    assert (other - moved).abs().sum() > 0.05 * moved.sum()


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


# --- learning


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


@pytest.mark.parametrize("name", ["center", "denoise", "ellipse"])
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


def test_a_seed_is_the_whole_run(banks, small, monkeypatch, tmp_path):
    one, same, other = (run(banks, tmp_path / str(k), monkeypatch, "ellipse", seed=seed)[0]
                        for k, seed in enumerate((5, 5, 6)))
    assert apart(one, same) < 1e-7
    assert apart(one, other) > 1e-3


def test_one_part_is_trained_and_the_other_stays(banks, tmp_path):
    run = loop.train("center", steps=2, out=tmp_path / "run", start="center", part="coarse", specimens=SPECIMENS,
                     banks=banks)
    before, after = weights.tensors("center"), torch.load(run / "checkpoint.pt", weights_only=True)["network"]
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("coarse.") for name in changed)
    with pytest.raises(PrenetError):
        loop.train("center", steps=2, out=tmp_path / "other", part="middle", specimens=SPECIMENS, banks=banks)


def test_a_disk_behind_a_stop_is_labeled_hidden(bank):
    """The visible fraction is that of the electrons of the disk which the stop leaves."""
    middle = torch.full((64, 2), 31.5)
    rates = faults.Rates(**{name: 0.0 for name in vars(faults.NO_FAULTS)} | {"stop": 1.0})
    scene = draw_scene(bank, seeded(5), 64, (64, 64), middle, radius_range=(3, 8), dose_range=(1e5, 1e5), stops=0.0,
                       rates=rates, long_stops=0.5, max_eps=0.0)
    stopped = scene.faults.stop.width > 0
    distance = faults.stop_distance(scene.faults.stop, torch.arange(64), (64, 64))
    x, y = np.indices((64, 64)) - 31.5
    disk = np.hypot(x, y)[None] < scene.radius.numpy()[:, None, None]
    shown = np.array([(d.numpy() > 0)[inside].mean() for d, inside in zip(distance, disk, strict=True)])
    assert stopped.all() and np.abs(shown - scene.visible.numpy()).max() < 0.2  # at most 0.101 in this batch
    assert np.corrcoef(shown, scene.visible.numpy())[0, 1] > 0.97


def test_the_learning_rate_warms_up_and_falls(banks, small, monkeypatch, tmp_path):
    monkeypatch.setattr(loop, "WARMUP_STEPS", 2)
    state, _ = run(banks, tmp_path, monkeypatch, "ellipse")
    # The last of four steps: three quarters through the cosine.
    rate = state["optimizer"]["param_groups"][0]["lr"]
    assert rate == pytest.approx(ellipse.EllipseTask.rate * 0.5 * (1 + np.cos(np.pi * 0.75)))


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


def test_the_bank_shows_every_kind_of_specimen():
    """Both classes that the ellipse task draws from are there, and the shares are as drawn."""
    kinds = [make_bank((21, k), 1).kind[0] for k in range(8)]
    assert "isotropic" in kinds and len(set(kinds)) >= 3
