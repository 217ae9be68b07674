"""Faults of simulated patterns, each against its definition."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from scans import bank_of, moments, vacuum

from py4dstem_prenet.simulation import faults
from py4dstem_prenet.simulation.faults import draw_faults
from py4dstem_prenet.simulation.pattern import CENTER, ideal_coordinates


def clean_faults(batch, shape=(48, 48), **changes):
    """Faults of which none is there but those that are given."""
    middle = torch.tensor([(n - 1) / 2 for n in shape]).expand(batch, 2)
    none = draw_faults(torch.Generator().manual_seed(0), middle, torch.full((batch,), 5.0), shape, faults.NO_FAULTS)
    return replace(none, **changes)


def spread_image(batch=4, shape=(48, 48), seed=0):
    """Positive everywhere, of no symmetry."""
    return 1 + 50 * torch.rand(batch, *shape, generator=torch.Generator().manual_seed(seed)) ** 4


def coordinates_of(batch, shape=(48, 48)):
    middle = torch.tensor([(n - 1) / 2 for n in shape]).expand(batch, 2)
    return ideal_coordinates(shape, middle, torch.eye(2).expand(batch, 2, 2))


def test_without_faults_nothing_changes():
    image, none, at = spread_image(), clean_faults(4), coordinates_of(4)
    assert not any(some.any() for some in none.kinds().values())
    assert torch.equal(faults.scatter(image, none, at), image)
    assert torch.equal(faults.diffract(image, none, at, torch.full((4,), 9.0)), image)
    shaded, masked = faults.shade(image, none)
    assert torch.equal(shaded, image) and not masked.any()
    assert torch.equal(faults.record(image, image, none, torch.Generator().manual_seed(1)), image)


def test_faults_come_as_often_as_they_should_and_from_their_seed():
    def draw(seed, **options):
        generator = torch.Generator().manual_seed(seed)
        return draw_faults(generator, torch.full((4000, 2), 20.0), torch.full((4000,), 6.0), (48, 40),
                           faults.Rates(moved=0.2), **options)

    one, same, other = draw(1).kinds(), draw(1).kinds(), draw(2).kinds()
    for name, rate in vars(faults.Rates(moved=0.2)).items():
        share = float(one[name].float().mean())
        seen = {"bands": 0.97, "hits": 0.97, "sides": 0.87}.get(name, 1.0)  # all parts of one may come out as none
        assert share == pytest.approx(rate * seen, abs=4 * (rate / 4000) ** 0.5), name
        assert torch.equal(one[name], same[name]) and not torch.equal(one[name], other[name])
    few = draw(1, can_hide=torch.arange(4000) < 2000).kinds()
    assert few["stop"][:2000].any() and few["sides"][:2000].any()
    assert not few["stop"][2000:].any() and not few["sides"][2000:].any()
    assert few["dark"][2000:].any()


def test_a_saturated_pattern_never_exceeds_its_level():
    image = spread_image()
    clipped = faults.record(image, image, clean_faults(4, saturated=torch.tensor([0.5, 0.9, torch.inf, 0.2])),
                            torch.Generator().manual_seed(0))
    peak = image.amax((1, 2))
    assert clipped.amax((1, 2)).tolist() == pytest.approx((peak * torch.tensor([0.5, 0.9, 1.0, 0.2])).tolist())
    under = image < (0.2 * peak)[:, None, None]
    assert torch.equal(clipped[under], image[under])


def test_wrapped_counts_are_what_is_left_of_them():
    image = spread_image().round()
    image[0, 0, 0] = -3.0  # below its offset a camera may read anything; that does not wrap
    level = 0.3 * image.amax((1, 2))
    wrapped = faults.record(image, image, clean_faults(4, wrapped=torch.full((4,), 0.3)),
                            torch.Generator().manual_seed(0))
    turns = (image - wrapped) / level[:, None, None]
    assert (wrapped < level[:, None, None]).all() and turns.max() > 1.5
    assert torch.allclose(turns, turns.round(), atol=1e-4)
    assert torch.equal(wrapped[turns < 0.5], image[turns < 0.5])


def test_smear_leaves_each_column_its_charge_and_trails_its_way():
    image = torch.zeros(3, 40, 40)
    image[:, 15, 7] = 1000.0
    smear = torch.tensor([[0.2, 8.0, 1.0], [0.2, 8.0, -1.0], [0.2, 1e4, 0.0]])
    out, _ = faults.shade(image, clean_faults(3, (40, 40), smear=smear))
    assert torch.allclose(out.sum(1), image.sum(1), rtol=1e-5)
    assert not out[:, :, :7].any() and not out[:, :, 8:].any()
    assert (out[0, 16:, 7] > 0).all() and not out[0, :15, 7].any()  # rows after the spot
    assert (out[1, :15, 7] > 0).all() and not out[1, 16:, 7].any()
    assert out[2, [0, 39], 7].tolist() == pytest.approx([5, 5], rel=0.02)  # an even trail: a part of 1 / 40 each
    trail = out[0, 16:24, 7]
    assert (trail[1:] / trail[:-1]).tolist() == pytest.approx([np.exp(-1 / 8)] * 7, rel=1e-4)


def beam_stop(**changes):
    given = dict(at=[[20.0, 30.0]], angle=[0.0], width=[4.0], slope=[0.0], wire=[0.0], soft=[0.1], leak=[0.0],
                 kind=[faults.NEEDLE_STOP], in_mask=[True]) | changes
    return faults.BeamStop(**{name: torch.tensor(value) for name, value in given.items()})


def test_beam_stops_hide_what_is_behind_them_and_masks_know_it_or_not():
    image = torch.full((1, 48, 48), 100.0)

    def behind(**changes):
        out, masked = faults.shade(image, clean_faults(1, stop=beam_stop(**changes)))
        return out[0], masked[0]

    out, masked = behind()
    # A needle along +x from its tip at row 20 - 4: held at the last row, 9 px wide.
    assert out[24:, 30].max() < 1 and out[47, 30] < 1 and out[18, 30] < 1
    assert out[14, 30] > 99 and out[30, 24] > 99 and out[30, 36] > 99 and out[0, 0] > 99
    assert masked[out < 50].all() and not masked[10, 30] and not masked[30, 20]
    assert masked.float().mean() < 0.2
    unknown, nothing = behind(in_mask=[False])
    assert torch.equal(unknown, out) and not nothing.any()
    leaky, _ = behind(leak=[0.1])
    assert leaky[30, 30] == pytest.approx(10, rel=1e-3) and leaky[0, 0] == pytest.approx(100)
    bar, _ = behind(kind=[faults.BAR_STOP])
    assert bar[:, 30].max() < 1 and bar[:, 20].min() > 99
    disk, _ = behind(kind=[faults.ROUND_STOP], width=[6.0])
    assert float((100 - disk).sum() / 100) == pytest.approx(np.pi * 36, rel=0.03)
    held, _ = behind(kind=[faults.ROUND_STOP], width=[6.0], wire=[1.5])
    assert (held[26:, 30] < 1).all() and held[10, 30] > 99 and held[40, 33] > 99
    wedge, _ = behind(slope=[0.3])
    assert (100 - wedge[45]).sum() > 1.5 * (100 - wedge[22]).sum()
    turned, _ = behind(angle=[np.pi / 2])
    assert turned[20, 40] < 1 and turned[20, 20] > 99 and turned[40, 30] > 99  # along +y


def test_gaps_between_chips_cross_and_count_what_they_count():
    cross = torch.tensor([[20.0, 31.0, 1.6, 0.0], [20.0, 31.0, 1.6, 2.5]])
    image = spread_image(2)
    out, masked = faults.shade(image, clean_faults(2, cross=cross, cross_in_mask=torch.tensor([True, False])))
    gap = torch.zeros(48, 48, dtype=torch.bool)
    gap[19:22], gap[:, 30:33] = True, True
    assert torch.equal(out[:, ~gap], image[:, ~gap])
    assert not out[0, gap].any() and torch.allclose(out[1, gap], 2.5 * image[1, gap])
    assert torch.equal(masked[0], gap) and not masked[1].any()


def test_past_the_detectors_sides_nothing_is_seen_and_that_is_known():
    out, masked = faults.shade(spread_image(1), clean_faults(1, sides=torch.tensor([[3.0, 0.0, 0.0, 5.0]])))
    seen = torch.zeros(48, 48, dtype=torch.bool)
    seen[3:, :43] = True
    assert torch.equal(masked[0], ~seen) and torch.equal(out[0] > 0, seen)


def test_moved_copies_spread_a_beam_about_its_place():
    image = torch.zeros(2, 61, 61)
    image[:, 33, 28] = 100.0
    moved = torch.zeros(2, faults.MAX_COPIES, 2)
    moved[0, :8], moved[0, 8:] = torch.tensor([2.0, -1.5]), torch.tensor([-2.0, 1.5])
    out = faults.scatter(image, clean_faults(2, (61, 61), moved=moved), coordinates_of(2, (61, 61)))
    assert torch.equal(out[1], image[1])
    total, center, cov = moments(out[0])
    assert total == pytest.approx(100, rel=1e-5) and np.abs(center - (33, 28)).max() < 1e-4
    assert cov[0, 1] == pytest.approx(-3, abs=0.01)  # of the copies: 2 * -1.5
    assert out[0, 35, 26:28].sum() == pytest.approx(50, rel=1e-4)  # +2 rows, -1.5 columns
    drawn = draw_faults(torch.Generator().manual_seed(3), torch.full((50, 2), 30.0), torch.full((50,), 5.0), (61, 61),
                        faults.Rates(moved=1.0)).moved
    assert drawn.mean(1).abs().max() < 1e-4
    assert 0.3 < drawn.abs().amax((1, 2)).min() <= drawn.abs().max() < faults.MAX_COPY_SHIFT_PX


def test_a_dark_direct_beam_is_dark_and_all_else_as_it_was():
    image, at = spread_image(2), coordinates_of(2)
    radius = torch.tensor([6.0, 9.0])
    out = faults.diffract(image, clean_faults(2, dark=torch.tensor([0.05, 1.0])), at, radius)
    distance = torch.linalg.vector_norm(at[0], dim=-1)
    assert torch.allclose(out[0, distance < 6], 0.05 * image[0, distance < 6])
    assert torch.equal(out[0, distance > 7.5], image[0, distance > 7.5]) and torch.equal(out[1], image[1])


def test_bragg_disks_overlap_where_their_lattice_is_finer_than_they_are_wide():
    """Those of the orders +-(1, 0) of a lattice of 9 px, of 6 px radius: between them both are seen."""
    strength = torch.zeros(2, len(faults.BRAGG_ORDERS))
    chosen = [faults.BRAGG_ORDERS.tolist().index([h, 0]) for h in (0, 1)]
    strength[0, chosen[0]], strength[0, chosen[1]] = 0.5, 2.0
    base = torch.tensor([[9.0, 0.0], [0.0, 11.0]]).expand(2, 2, 2)
    given, at = clean_faults(2, disks=strength, lattice=base), coordinates_of(2)
    added = faults.diffract(torch.zeros(2, 48, 48), given, at, torch.full((2,), 6.0))
    assert not added[1].any()
    total, center, _ = moments(added[0])
    assert total == pytest.approx(2.5, rel=0.02)
    assert center == pytest.approx([23.5 + 2.0 / 2.5 * 9, 23.5], abs=0.02)  # +x is down the rows
    level = added[0, [20, 28, 37], 24] * np.pi * 36
    assert level.tolist() == pytest.approx([0.5, 2.5, 2.0], rel=0.01)
    drawn = draw_faults(torch.Generator().manual_seed(1), torch.full((300, 2), 20.0), torch.full((300,), 6.0),
                        (48, 48), faults.Rates(disks=1.0))
    assert not drawn.disks[:, faults.BRAGG_ORDERS.abs().sum(1) == 0].any()  # the direct beam is the bank's own
    shortest = torch.linalg.vector_norm(drawn.lattice, dim=-1).amin(1)
    assert 0.2 < (shortest < 12).float().mean() < 0.9 and (drawn.disks.amax(1) > 1).any()


def test_bands_are_bright_between_their_edges():
    image, at = torch.full((2, 48, 48), 10.0), coordinates_of(2)
    bands = torch.zeros(2, faults.MAX_BANDS, 4)
    bands[0, 0] = torch.tensor([0.5, 0.0, 8.0, 5.0])  # across x, 8 px from the direct beam, 10 px wide
    out = faults.scatter(image, clean_faults(2, bands=bands), at)
    assert torch.equal(out[1], image[1])
    rows = out[0].mean(1)
    assert torch.allclose(out[0], rows[:, None].expand(48, 48), rtol=1e-5)
    assert float(rows[31]) == pytest.approx(15, rel=0.03) and float(rows[:20].mean()) == pytest.approx(10, rel=0.02)
    assert rows[36] > 15 and rows[26] < 12.5  # its excess line and its deficit line
    deep = clean_faults(2, bands=bands * torch.tensor([-9.0, 1, 1, 1]))
    assert (faults.scatter(image, deep, at) > 0).all()


def test_hits_are_few_pixels_of_huge_counts_and_units_may_be_wrong():
    image = torch.full((2, 48, 48), 2.0)
    hits = torch.zeros(2, faults.MAX_HITS)
    hits[0, :3] = 100.0
    out = faults.record(image, image, clean_faults(2, hits=hits), torch.Generator().manual_seed(2))
    struck = out[0] != 2
    assert torch.equal(out[1], image[1]) and 1 <= struck.sum() <= 9 and out[0].max() > 50 and out.min() >= 2
    wrong = clean_faults(2, gain=torch.tensor([3.0, 1.0]), offset=torch.tensor([0.0, 7.0]))
    assert torch.equal(faults.record(image, image, wrong, torch.Generator())[:, 0, 0], torch.tensor([6.0, 9.0]))
    striped = faults.record(image, image, clean_faults(2, columns=torch.tensor([2.0, 0.0])),
                            torch.Generator().manual_seed(4))
    assert torch.equal(striped[0], striped[0, :1].expand(48, 48)) and 1 < striped[0, 0].std() < 3


@pytest.mark.parametrize("aperture", [6.0, 9.3, 14.7, 22.0])
def test_the_radius_of_a_bank_is_that_of_the_even_disk_with_as_many_electrons(aperture):
    """The aperture's edge falls linearly in amplitude, as a square in intensity."""
    areas = [vacuum(aperture + step) for step in np.arange(-0.5, 0.5, 0.1)]  # the grid's own steps average out
    found = np.mean([np.sqrt(float(a.sum() / a[CENTER - 2:CENTER + 3, CENTER - 2:CENTER + 3].mean()) / np.pi)
                     for a in areas]) + 0.05
    bank = bank_of(vacuum(aperture)[None], aperture)
    assert found == pytest.approx(float(bank.radius), abs=0.03)
    assert abs(found - aperture) > 0.1
