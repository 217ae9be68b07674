"""Pixel size and ellipse of one crystal from the lattice of its disks, in drawn positions; disks that are held."""

from dataclasses import replace

import numpy as np
import py4DSTEM
import pytest
from drawn_disks import lattice_disks

import py4dstem_prenet  # noqa: F401
from py4dstem_prenet.core import BraggDisks, Decision, Ellipse, NoiseModel, PrenetError, as_scan, ellipse_axes, has_flag
from py4dstem_prenet.io import read_disks, read_pixel_size, read_provenance, to_bragg_vectors, write_pixel_size
from py4dstem_prenet.pixel_size import (
    Assignment,
    find_lattices,
    find_standard,
    measure,
    measure_spots,
    spots,
    systematic_of,
    zones_of,
)
from py4dstem_prenet.pixel_size.decide import assignment_doubts

VECTOR = np.array([0.02, -0.01])


def size_of(disks, standard="Si", approximate=0.021, ellipse=None):
    return measure._from_lattice(disks, find_standard(standard), ellipse, 64.0, approximate)


def test_one_crystal_gives_pixel_size_and_ellipse_together():
    errors = []
    for seed, (standard, zone) in enumerate((s, z) for s in ("Si", "Al", "Fe") for z in range(4)):
        rng = np.random.default_rng(seed)
        vector = rng.normal(0, 0.02, 2)
        disks = lattice_disks(standard, zone, 0.02, vector, rng.uniform(0, 3), seed=seed)
        size = size_of(disks, standard, 0.02 * rng.uniform(0.94, 1.06))
        assert size.accepted and has_flag(size.flags, "crystal_not_tested"), (standard, zone)
        assert abs(np.log(size.value / 0.02)) < 1.5e-3 and np.abs(size.ellipse.vector - vector).max() < 4e-3
        change = np.array([np.log(size.value / 0.02), *(size.vector - vector)])
        errors.append(change / np.sqrt(np.diag(size.covariance)))
    assert np.abs(errors).max() < 3.5


def test_a_crystal_is_not_named_by_its_lattice():
    """A square lattice is that of aluminum and of any other cubic crystal."""
    assert has_flag(size_of(lattice_disks("Al", 1), "Al", None).flags, "pixel_size_other_lattice")
    assert has_flag(size_of(lattice_disks("Al", 1), "Al", 0.0262).flags, "pixel_size_no_zone")


def test_zone_axes_that_fit_are_listed():
    results = tuple(f"{scale} 1/Å per pixel" for scale in (0.02, 0.03, 0.04))
    (flag,) = assignment_doubts(Assignment(0.02, 0.03, (2.0, 60.0), {}, results), "Si")
    assert flag.name == "pixel_size_zones" and flag.numbers["results"] == "; ".join(results[:2])


def test_a_known_ellipse_that_no_zone_axis_has_is_no_match():
    ellipse = Ellipse(*ellipse_axes([-0.06, 0.05]), np.array([-0.06, 0.05]), 1e-6 * np.eye(2), Decision(True))
    assert has_flag(size_of(lattice_disks("Si", 0), ellipse=ellipse).flags, "pixel_size_no_zone")
    right = replace(ellipse, vector=VECTOR)
    assert size_of(lattice_disks("Si", 0), ellipse=right).value == pytest.approx(0.02, rel=1.5e-3)


def test_strain_in_a_part_of_the_scan_widens_the_sigma():
    strain = np.zeros((8, 8, 2, 2))
    strain[:, :3, 0, 0] = 0.02
    plain, strained = (size_of(lattice_disks("Si", side=8, strain=s)) for s in (None, strain))
    assert has_flag(strained.flags, "lattice_varies") and not has_flag(plain.flags, "lattice_varies")
    assert strained.relative_sigma > 2 * plain.relative_sigma
    assert abs(np.log(strained.value / 0.02)) < 2 * strained.relative_sigma
    off = strained.vector - VECTOR
    assert off @ np.linalg.solve(strained.covariance[1:, 1:], off) < 2 * 9
    alarms = [has_flag(size_of(lattice_disks("Si", seed=seed)).flags, "lattice_varies") for seed in range(8)]
    assert sum(alarms) <= 1  # 1 % expected


def test_other_crystals_that_fit_the_lattice_are_named_and_better_ones_refuse():
    """The pattern of aluminum [0 0 1] is square: that of gold or iron, but not of NaCl near this pixel size."""
    disks = lattice_disks("Al", 1, vector=(0.01, 0.0))
    right, other = size_of(disks, "Al"), size_of(disks, "Au")
    assert right.accepted and other.accepted
    for size, name in ((right, "Au"), (other, "Al")):
        flag = next(flag for flag in size.flags if flag.name == "crystal_not_tested")
        assert name in flag.numbers["others"].split(", ")
        # Square patterns from titanium nitride (200 at 0.4715 1/angstrom) to nickel (0.5676) lie within 10 %.
        assert 3 < flag.numbers["spread"] < 21
    wrong = size_of(disks, "NaCl")
    assert not wrong.accepted and has_flag(wrong.flags, "pixel_size_other_crystal")


def test_a_bent_crystal_that_turns_keeps_its_pixel_size():
    turn = np.linspace(-6e-3, 6e-3, 8)[:, None, None, None] * np.array([[0.0, -1], [1, 0]])
    size = size_of(lattice_disks("Si", side=8, strain=np.broadcast_to(turn, (8, 8, 2, 2))))
    assert size.value == pytest.approx(0.02, rel=1.5e-3) and np.abs(size.vector - VECTOR).max() < 3e-3


def test_two_crystals_have_no_common_lattice():
    one, other = lattice_disks("Si", 0, turn=0.3), lattice_disks("Si", 0, turn=0.9)
    both = replace(one, **{name: np.concatenate([getattr(one, name), getattr(other, name)])
                           for name in ("offset", "sigma", "pattern", "place", "size")},
                   reflection=np.concatenate([one.reflection, other.reflection + 1000]))
    assert size_of(both) is None
    assert len(find_lattices(one.subset(np.arange(2)))) == 0


def test_zones_are_those_of_the_reciprocal_lattice():
    gold = zones_of(find_standard("Au"))
    lengths = [np.linalg.norm(zone.basis, axis=0) * 4.07825 for zone in gold[:3]]
    assert np.allclose(lengths, np.sqrt([[3, 3], [4, 4], [3, 8]]), rtol=1e-5)  # 111 and 111, 200 and 020, 111 and 220


def test_the_ellipse_of_a_crystal_is_written_only_where_there_is_none():
    size = size_of(lattice_disks("Si", 0))
    cubes = [py4DSTEM.DataCube(np.random.default_rng(0).poisson(1, (2, 2, 64, 64))) for _ in range(3)]
    cubes[1].calibration.set_ellipse((1.05, 1.0, 0.2))
    for cube, ellipse in zip(cubes, (True, True, False), strict=True):
        cube.calibration.set_origin((32.0, 32.0))
        assert write_pixel_size(cube, size, ellipse)
    a, b, _ = cubes[0].calibration.get_ellipse()
    assert a / b == pytest.approx(1 + np.hypot(*VECTOR), abs=3e-3)
    assert cubes[0].calibration.get_Q_pixel_size() == pytest.approx(size.value * np.sqrt(a / b))
    assert tuple(cubes[1].calibration.get_ellipse()) == (1.05, 1.0, 0.2) and cubes[2].calibration.get_ellipse() is None


def held_cube():
    """A cube of noise, and disks that are said to be in it, of which two in three are significant."""
    cube = py4DSTEM.DataCube(np.random.default_rng(0).poisson(5.0, (6, 6, 128, 128)).astype(np.uint16))
    drawn = lattice_disks("Si", 0)
    table = np.zeros(len(drawn.pattern) + 36, BraggDisks.DTYPE)
    table["position"] = np.r_[drawn.pattern, np.arange(36)]
    table["qx"], table["qy"] = np.r_[drawn.offset, np.zeros((36, 2))].T + 64.0
    table["sigma_qx"] = table["sigma_qy"] = 0.1
    table["significance"] = np.r_[np.where(np.arange(len(drawn.pattern)) % 3, 9.0, 4.1), np.full(36, np.inf)]
    table = table[np.argsort(table["position"], kind="stable")]
    return cube, BraggDisks(table, (6, 6), (128, 128), 4.0, 0.1)


def test_disks_that_the_cube_holds_are_used_if_they_belong_to_its_data(tmp_path, monkeypatch):
    cube, disks = held_cube()
    to_bragg_vectors(cube, disks)
    cube.prenet.save(tmp_path / "held.h5")
    again = py4DSTEM.read(str(tmp_path / "held.h5"))
    for holder in (cube, again):
        assert np.array_equal(read_disks(holder).table["qx"], disks.table["qx"])
    again.data = again.data[::-1].copy()
    assert read_disks(again) is None

    def search(*arguments):
        raise AssertionError("a search for disks")

    monkeypatch.setattr(spots.LearnedDisks, "learn", search)
    noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((128, 128), bool), counting=True, dose=5 * 128.0**2)
    arguments = as_scan(cube), np.full((36, 2), 64.0), np.ones(36, bool), 4.0, noise, np.zeros(2), None, disks
    found = measure_spots(*arguments)
    strong = np.isfinite(disks.table["significance"]) & (disks.table["significance"] > 5)
    assert len(found.pattern) == strong.sum() and size_of(found).value == pytest.approx(0.02, rel=1.5e-3)
    with pytest.raises(AssertionError):  # about another beam
        measure_spots(*arguments[:1], np.full((36, 2), 50.0), *arguments[2:])


def test_the_disks_of_the_last_search_are_kept_for_another_standard(monkeypatch):
    x, y = np.indices((64, 64)) - 32
    image = sum(np.hypot(x - a, y - b) < 3 for a in (-16, 0, 16) for b in (-16, 0, 16))
    counts = np.random.default_rng(0).poisson(0.5 + 20 * image, (3, 3, 64, 64)).astype(np.uint16)
    noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((64, 64), bool), counting=True, dose=7000.0)

    def searched(patterns, origin=32.0):
        return measure_spots(as_scan(patterns), np.full((9, 2), origin), np.ones(9, bool), 3.0, noise, np.zeros(2))

    first = searched(counts)
    assert len(np.unique(first.reflection)) == 8

    def search(*arguments):
        raise AssertionError("a search for disks")

    monkeypatch.setattr(spots.LearnedDisks, "learn", search)
    assert searched(counts.copy()) is first
    for other in (lambda: searched(counts[::-1]), lambda: searched(counts, 32.5)):
        with pytest.raises(AssertionError):
            other()


def test_the_systematic_error_of_few_grains_limits_the_search():
    one = lattice_disks("Si", 0)
    assert systematic_of(one) > 4 * systematic_of(replace(one, grains=50.0))
    assert spots._expected_sigma(one) < systematic_of(one)


@pytest.mark.slow
def test_calibrate_finds_pixel_size_and_ellipse_of_one_crystal():
    """Drawn silicon along [110], at an approximate pixel size that is 5 % off; two rows are a strained film."""
    rng, size, ratio, angle = np.random.default_rng(5), 0.0185, 1.03, 0.4
    turn, axes = (np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in (0.3, angle))
    stretch = axes @ np.diag([ratio**0.5, ratio**-0.5]) @ axes.T
    lattice = stretch @ turn @ np.array([[2**0.5, 0.0], [0.0, 1.0]]) / 5.4309 / size  # of 220/2 and 002/2, px
    places = [(h, k) for h in range(-5, 6) for k in range(-7, 8) if (h + k) % 2 == 0]
    x, y = np.indices((128, 128))
    scan = np.zeros((8, 6, 128, 128))
    for row, column in np.ndindex(8, 6):
        strain = 0.05 if row > 5 else 0.0
        for place in places:
            u, v = np.array([63.4 + 0.1 * row, 64.8 - 0.1 * column]) + lattice @ place / (1 + strain)
            height = 1.0 if place == (0, 0) else rng.uniform(0.05, 0.4) * np.exp(-np.hypot(*place) / 4)
            from_middle = np.linalg.inv(stretch) @ np.stack([x - u, y - v]).reshape(2, -1)
            scan[row, column] += height / (1 + np.exp(3 * (np.hypot(*from_middle).reshape(128, 128) - 3.4)))
    cube = py4DSTEM.DataCube(rng.poisson(15 * scan + 0.02).astype(np.uint16))
    substrate = slice(0, 6), slice(None)
    report = cube.prenet.calibrate(standard="Si", approximate=0.0194, standard_region=substrate, progress=False)
    assert report.origin.valid[7].all() and read_provenance(cube)["settings"]["standard_region"] == 36
    found, (a, b, theta) = report.pixel_size, cube.calibration.get_ellipse()
    assert not report.ellipse.accepted  # the direct beam alone does not determine the ellipse
    assert has_flag(report.written, "crystal_ellipse_written") and not has_flag(report.written, "ellipse_written")
    assert found.accepted and abs(found.value - size) < 3 * found.sigma < 0.01 * size
    assert a / b == pytest.approx(ratio, abs=6e-3) and abs(np.sin(theta - angle)) < 0.12
    assert cube.calibration.get_Q_pixel_size() == pytest.approx(found.value * np.sqrt(a / b))
    assert found.beam_radius == report.origin.radius == read_pixel_size(cube).beam_radius
    for stated in ({"approximate": 0.0194}, {"standard_region": substrate}):
        with pytest.raises(PrenetError):
            cube.prenet.calibrate(**stated)
