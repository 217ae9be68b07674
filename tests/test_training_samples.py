"""What networks are taught: labels are true, and counts are those of their truth."""

import numpy as np
import pytest
import torch
from scans import bank_of, vacuum

from py4dstem_prenet.core.noise import NoiseModel
from py4dstem_prenet.denoising import neighbors
from py4dstem_prenet.simulation import faults
from py4dstem_prenet.simulation.bank import make_bank
from py4dstem_prenet.simulation.pattern import ideal_coordinates, soft_disk
from py4dstem_prenet.training import center, denoise, ellipse
from py4dstem_prenet.training.scenes import draw_scene


@pytest.fixture(scope="module")
def vacuum_bank():
    """Nothing but direct beams, half of them called powders."""
    return bank_of(vacuum(16.0)[None].expand(2, -1, -1), 16.0, ["isotropic", "crystal"])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


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


@pytest.mark.slow
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
    # A weak beam is detected unless noise hides it, or a stop hides it together with its surroundings.
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


def test_the_bank_shows_every_kind_of_specimen():
    """Both classes that the ellipse task draws from are there, and the shares are as drawn."""
    kinds = [make_bank((21, k), 1).kind[0] for k in range(8)]
    assert "isotropic" in kinds and len(set(kinds)) >= 3
