"""Pixel size from the disks of single patterns: assignment, lattices that vary, and distortions, in drawn positions."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from drawn_disks import crystal_disks, disks_of, state_of

from py4dstem_prenet.core import NoiseModel, has_flag
from py4dstem_prenet.fits import Pooled
from py4dstem_prenet.pixel_size import (
    Assignment,
    assign_spots,
    expected_heights,
    find_standard,
    fit_spots,
    lattice_variation,
    measure_pooled_size,
    posterior_of,
    same_reflections,
)
from py4dstem_prenet.pixel_size.decide import assignment_doubts


def test_strained_layers_on_the_standard_are_told():
    layer = np.zeros((16, 16))
    layer[:, 4:10] = 0.006
    assert crystal_disks(layer, error=0.02)[1].variation == pytest.approx(layer.std(), rel=0.15)
    alarms = [crystal_disks(np.zeros((6, 6)), 0.05, seed=seed)[1].variation > 0 for seed in range(20)]
    assert sum(alarms) <= 2  # 1 % expected: more than 2 in a thousandth of such samples


def test_stray_disks_of_one_pattern_are_no_variation_of_the_lattice():
    """Four disks of a pattern lie 2.5 % off the same ring, as in simulated iron powder, outward or inward."""
    spots, niobium, scale = disks_of("Nb", 0.0195, 400, 0.05, vector=(0.0, 0.0)), find_standard("Nb"), 0.0195
    radius = niobium.g[niobium.g / scale < 58][-1] / scale
    for k, change in enumerate((1.025, 0.975, 0.975, 1.025)):
        group = slice(100 * k, 100 * k + 4)
        spots.place[group] = spots.place[100 * k]
        spots.offset[group] *= change * radius / np.hypot(*spots.offset[group].T)[:, None]
    fit = fit_spots(spots, niobium, state_of(spots, scale, 1e-6), 50.0)
    assert fit.variation == 0 and abs(np.log(fit.state.scale / scale)) < 1e-3


def test_a_ring_to_which_no_disk_belongs_does_not_change_the_variation():
    rng, number = np.random.default_rng(0), np.tile(np.arange(12), 64)
    spots, _ = crystal_disks(np.zeros((8, 8)), count=12)
    change = 0.006 * (spots.place[:, 1] > 3) + rng.normal(0, 0.001, 768)
    pairs = [np.arange(768), number % 2, change, np.full(768, 1e6)]
    alone = lattice_variation(spots, *pairs)
    empty = [np.append(values, added) for values, added in zip(pairs, (5, 2, 0.3, 0.0), strict=True)]
    assert alone == pytest.approx(0.003, rel=0.1) and lattice_variation(spots, *empty) == pytest.approx(alone)


def test_a_sample_of_disks_keeps_the_number_of_reflections():
    spots, _ = crystal_disks(np.zeros((16, 16)))
    fewer = spots.thinned(100)
    assert len(fewer.size) <= 100 and (1 / fewer.size).sum() == pytest.approx((1 / spots.size).sum())
    assert set(spots.parts(4)) == set(range(16))


@pytest.mark.slow
def test_disks_are_assigned_and_fitted_without_a_known_ellipse():
    scale, errors = 0.0195, []
    for seed in range(2):
        spots = disks_of("Nb", scale, seed=seed)
        assignment = assign_spots(spots, find_standard("Nb"), state_of(spots), spots.span)
        fit = fit_spots(spots, find_standard("Nb"), state_of(spots, assignment.scale), 50.0)
        errors.append(np.log(fit.state.scale / scale) / np.sqrt(fit.covariance[0, 0]))
        assert abs(np.log(fit.state.scale / scale)) < 1.5e-3 and assignment.margin > 10
        assert np.abs(fit.state.vector - (0.02, -0.01)).max() < 0.005
    assert np.abs(errors).max() < 4


@pytest.mark.slow
def test_disks_of_another_lattice_are_told():
    spots = disks_of("Nb", 0.0195)
    assert assign_spots(spots, find_standard("Ni"), state_of(spots), spots.span).lattice_margin < -5


@pytest.mark.parametrize("ring_margin", [20.0, -70.0])
def test_rings_of_the_mean_pattern_contradict_disks_that_are_certain(monkeypatch, ring_margin):
    """In a simulated powder of germanium, false disks lay on the rings of molybdenum with a probability of 99.9 %."""
    from py4dstem_prenet.pixel_size import measure

    disks, rings = (Assignment(0.02, np.nan, (), {"Si": margin}) for margin in (13.7, ring_margin))
    found = disks, lambda assignment: posterior_of(assignment) > 0.99
    monkeypatch.setattr(measure, "_from_spots", lambda *arguments: found)
    monkeypatch.setattr(measure, "_rings", lambda *arguments: SimpleNamespace(assigned=lambda *a: (rings, None)))
    pooled = Pooled(np.ones((64, 64)), (32.0, 32.0), 1, np.ones((64, 64)), *[np.zeros((0, 64, 64))] * 2)
    noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((64, 64), bool), counting=True, dose=1e4)
    spots = disks_of("Mo", 0.02, 40)
    assert measure_pooled_size(pooled, 3.0, noise, "Mo", spots=spots) == (ring_margin > 0)


@pytest.mark.slow
def test_double_diffraction_does_not_turn_diamond_into_fcc():
    """222 of silicon and germanium is visible in thick crystals, 200 is not."""
    for seed in range(2):
        spots = disks_of("Ge", 0.0165, 300, seed=seed, forbidden=("2 2 2",))
        assignment = assign_spots(spots, find_standard("Ge"), state_of(spots), spots.span)
        assert abs(np.log(assignment.scale / 0.0165)) < 2e-3 and posterior_of(assignment) > 0.999
        assert assign_spots(spots, find_standard("Pt"), state_of(spots), spots.span).lattice_margin < -5


def test_forbidden_rings_of_a_powder_need_an_allowed_reflection_on_the_same_row():
    """222 of silicon is twice 111; 200 is the sum of two reflections only if a crystal lies near a zone axis."""
    silicon, rings = find_standard("Si"), np.arange(12)
    names = np.array(silicon.hkl[:12])
    powder, crystal = (expected_heights(silicon, rings, grains)[0] for grains in (100.0, 1.0))
    row, zone = np.isin(names, ["2 2 2"]), np.isin(names, ["2 0 0", "4 2 0"])
    assert powder[zone].max() < powder[row].min() / 50 and crystal[zone] == pytest.approx(crystal[row][0])
    assert find_standard("Ti").common[:2].tolist() == [False, True]  # 0 0 1 needs a zone axis, 1 0 0 is allowed


def test_disks_on_a_forbidden_ring_that_needs_a_zone_axis_contradict_a_powder():
    germanium, scale, evidence = find_standard("Ge"), 0.0165, []
    for forbidden in (("2 2 2",), ("2 0 0",)):
        spots = disks_of("Ge", scale, 300, vector=(0.0, 0.0), forbidden=forbidden)
        evidence.append(fit_spots(spots, germanium, state_of(spots, scale, 1e-6), 50.0, complete=False).evidence)
    assert evidence[0] - evidence[1] > 20


@pytest.mark.slow
def test_fcc_is_not_diamond_with_double_diffraction():
    spots = disks_of("Al", 0.0195, 300)
    assert assign_spots(spots, find_standard("Ge"), state_of(spots), spots.span).lattice_margin < -5
    assert posterior_of(assign_spots(spots, find_standard("Al"), state_of(spots), spots.span)) > 0.999


def test_a_large_pixel_size_and_hidden_first_rings():
    """Rings up to 3 1/angstrom are in the pattern; those inside 10 pixels, 111 of gold among them, are hidden."""
    scale = 0.05
    spots = disks_of("Au", scale, 300)
    gold, silicon = (assign_spots(spots, find_standard(name), state_of(spots), spots.span) for name in ("Au", "Si"))
    assert find_standard("Au").g[0] / scale < spots.inner
    assert abs(np.log(gold.scale / scale)) < 1.5e-3 and posterior_of(gold) > 0.999
    assert silicon.lattice_margin < -5 and posterior_of(silicon) < 0.5


@pytest.mark.parametrize("name", ["Au", "Si", "Ti", "LaB6"])
def test_rings_are_listed_beyond_the_pattern(name):
    """If a list ends within a pattern, the right pixel size is not tried, and another lattice may be accepted."""
    standard = find_standard(name)
    assert standard.g[-1] > 3.4 and (np.diff(standard.g) > 0).all()


@pytest.mark.slow
def test_hexagonal_crystals_of_another_axial_ratio_are_told():
    spots = disks_of("Ti", 0.018)
    assert assign_spots(spots, find_standard("Mg"), state_of(spots), spots.span).lattice_margin < -5
    assert posterior_of(assign_spots(spots, find_standard("Ti"), state_of(spots), spots.span)) > 0.999


def test_the_posterior_counts_all_other_assignments():
    """Two other pixel sizes are twice as probable as one; the name is no evidence against another lattice."""
    one, two = (posterior_of(Assignment(0.02, 0.03, margins, {})) for margins in ((8.0,), (8.0, 8.0)))
    assert (1 - two) / two == pytest.approx(2 * (1 - one) / one)
    assert posterior_of(Assignment(0.02, np.nan, (), {"W": 0.0, "Au": 0.0, "Mg": np.inf})) == pytest.approx(0.5)
    assert posterior_of(Assignment(0.02, np.nan, (), {})) == 1


def test_a_name_is_accepted_if_no_other_lattice_is_a_hundredth_as_probable():
    for margin, accepted in ((5.0, False), (8.0, False), (12.0, True)):
        assert (not assignment_doubts(Assignment(0.02, np.nan, (), {"CsCl": margin}), "Fe")) == accepted


def test_distortions_beyond_the_ellipse_are_seen_in_disks():
    spots = disks_of("Nb", 0.0195, 400, 0.08, barrel=0.02, threefold=(0.01, -0.008))
    fit = fit_spots(spots, find_standard("Nb"), state_of(spots, 0.0195), 50.0, ("barrel", "three0", "three1"))
    assert fit.state.barrel == pytest.approx(0.02, abs=0.004)
    assert np.abs(fit.state.threefold - (0.01, -0.008)).max() < 0.003


def test_an_approximate_pixel_size_tells_the_rings_of_a_single_crystal_apart():
    from py4dstem_prenet.pixel_size import measure

    spots, _ = crystal_disks(np.zeros((4, 4)))
    arguments = np.zeros(2), 1e-8 * np.eye(2), 64.0, 0.0207
    sizes = {}
    for name in ("Si", "W"):
        assignment, decided = measure._from_spots(spots, find_standard(name), *arguments)
        sizes[name] = decided(assignment)
    assert sizes["Si"].accepted and sizes["Si"].value == pytest.approx(0.02, rel=2e-3)
    assert abs(sizes["Si"].value - 0.02) < 3 * sizes["Si"].sigma
    assert has_flag(sizes["Si"].flags, "crystal_not_tested") and has_flag(sizes["W"].flags, "pixel_size_off_rings")
    elsewhere = assign_spots(spots, find_standard("Si"), state_of(spots), spots.span, 0.0142, others=False)
    assert elsewhere is None or abs(np.log(elsewhere.scale / 0.0142)) < 0.12


def test_disks_of_one_grain_count_as_one():
    place = np.array([[0, 0], [0, 1], [1, 1], [4, 4]])
    offset = np.array([[20.0, 5.0], [20.1, 5.0], [20.1, 5.1], [20.0, 5.0]])
    reflection, size = same_reflections(place, offset, np.full((4, 2), 0.05))
    assert size.tolist() == [3, 3, 3, 1] and len(set(reflection)) == 2


def test_the_doubt_about_a_distortion_has_no_step(monkeypatch):
    """A false radial distortion of 4.7 sigma moved the pixel size by 1 %, and its sigma did not include that."""
    from py4dstem_prenet.pixel_size import measure

    start = state_of(disks_of("Au", 0.02))
    doubts = []
    for sigmas in (4.4, 4.6, 9.0):
        monkeypatch.setattr(measure, "significance", lambda fit, names, z=sigmas: z if names == ("barrel",) else 0.0)
        fit, doubt = measure._fitted(lambda state, names=(): replace(state, scale=1.01 if names else 1.0), start)
        assert fit.scale == (1.01 if sigmas > 4.5 else 1.0)
        doubts.append(doubt / np.log(1.01))
    assert doubts == pytest.approx([1.0, 0.957, 0.25], abs=0.01)
