"""Bad rows and columns of a detector, and rows of disks or spots, which are none."""

import numpy as np
import pytest
from scipy.special import erfc

from py4dstem_prenet.detector import bad_lines, dark_sides

SIDE, PATTERNS = 128, 40
GOOD = np.zeros((SIDE, SIDE), bool)


def lattice(radius, spacing, angle=0.0, brightness=20.0):
    """Expected electrons of a square lattice of disks that does not move, (SIDE, SIDE)."""
    x, y = np.indices((SIDE, SIDE))
    pattern = np.full((SIDE, SIDE), 0.3)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for h in range(-7, 8):
        for k in range(-7, 8):
            cx, cy = SIDE // 2 + spacing * turn @ (h, k)
            disk = 0.5 * erfc((np.hypot(x - cx, y - cy) - radius) / 0.6)
            pattern += brightness * np.exp(-(h * h + k * k) / 30) * disk
    return pattern


@pytest.mark.parametrize("radius, spacing", [(0.8, 16), (1.5, 9), (2.5, 16), (5, 16)])
def test_rows_of_disks_along_rows_of_pixels_are_no_faults(radius, spacing):
    counts = np.random.default_rng(0).poisson(lattice(radius, spacing), (PATTERNS, SIDE, SIDE))
    for faults in bad_lines(counts, GOOD, 1.0):
        assert not faults.uneven.size + faults.wide.size + faults.dead.size


@pytest.mark.parametrize("ratio", [0.7, 1.4, 2.0])
def test_a_line_that_counts_more_or_less_is_found(ratio):
    x, y = np.indices((SIDE, SIDE))
    expected = 0.5 + 3 * np.exp(-np.hypot(x - 64, y - 60) / 30)
    expected[30] *= ratio
    expected[:, 95] *= ratio
    counts = np.random.default_rng(1).poisson(expected, (PATTERNS, SIDE, SIDE))
    rows, columns = bad_lines(counts, GOOD, 1.0)
    assert [np.union1d(faults.uneven, faults.wide).tolist() for faults in (rows, columns)] == [[30], [95]]


def camera(electrons, seed=0, rows=6.0):
    """Values of a camera with 25 units per electron, and noise that the pixels of a row share."""
    rng = np.random.default_rng(seed)
    values = 25.0 * rng.poisson(electrons, (PATTERNS, SIDE, SIDE)) + rng.normal(120, 9, (PATTERNS, SIDE, SIDE))
    return np.rint(values + rng.normal(0, rows, (PATTERNS, SIDE, 1)))


def halo(width):
    """Electrons of a disk and of diffuse scattering with an exponential profile, (SIDE, SIDE)."""
    x, y = np.indices((SIDE, SIDE))
    radius = np.hypot(x - 62, y - 66)
    return 30 * (radius < 6) + 3 * np.exp(-radius / width)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("cut", [40, 62, 90])
def test_a_part_of_a_camera_that_is_dead_but_noisy_is_found(axis, cut):
    electrons = halo(30).T if axis else halo(30)
    (electrons.T if axis else electrons)[cut:] = 0
    dark = dark_sides(camera(electrons), GOOD)
    assert np.flatnonzero(dark.all(1 - axis)).tolist() == list(range(cut, SIDE)) and dark.sum() == (SIDE - cut) * SIDE


@pytest.mark.parametrize("width", [3, 8, 15, 30, 100])
@pytest.mark.parametrize("dose", [0.1, 1, 100])
def test_a_pattern_that_fades_has_no_dead_part(width, dose):
    for seed in range(3):
        assert not dark_sides(camera(dose * halo(width), seed), GOOD).any()
        counts = np.random.default_rng(seed).poisson(dose * halo(width), (PATTERNS, SIDE, SIDE))
        assert not dark_sides(counts, GOOD).any()


@pytest.mark.parametrize("radius, spacing", [(0.8, 16), (2.5, 16), (5, 16), (5, 40)])
def test_rows_of_disks_do_not_end_a_dead_part(radius, spacing):
    pattern = lattice(radius, spacing) - 0.3
    assert not dark_sides(np.random.default_rng(0).poisson(pattern, (PATTERNS, SIDE, SIDE)), GOOD).any()


@pytest.mark.parametrize("level", [12.0, 40.0])
def test_a_level_that_is_added_to_a_line_is_found_across_bright_disks(level):
    """The factor on the signal is large beside the disks and small in them."""
    expected = lattice(5, 16, 0.6)
    expected[45] += level
    expected[:, 70] += level
    counts = np.random.default_rng(2).poisson(expected, (PATTERNS, SIDE, SIDE))
    for faults, line in zip(bad_lines(counts, GOOD, 1.0), (45, 70), strict=True):
        assert np.concatenate([faults.uneven, faults.wide]).tolist() == [line]
