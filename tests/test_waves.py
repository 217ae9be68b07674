"""Multislice waves against Fourier optics."""

import numpy as np
import pytest
import torch
from scans import moments, vacuum
from scipy.special import jv

from py4dstem_prenet.simulation.pattern import CENTER
from py4dstem_prenet.simulation.specimens import GRID, Optics, Specimen, atoms_to_phase, glass_phase
from py4dstem_prenet.simulation.waves import draw_patterns, multislice, probe

OPTICS = Optics(volts=200e3, dk=0.01, aperture=12.0)


def through(phase, thickness=10.0, optics=OPTICS, position=(0.0, 0.0)):
    """The pattern of a stack of phase gratings."""
    specimen = Specimen("test", np.asarray(phase, np.float32), thickness)
    waves = probe(optics, np.zeros(1), np.array([position]))
    return multislice(specimen, optics, waves, {len(phase)})[0, 0].numpy()


@pytest.mark.parametrize("slices", [1, 9])
def test_vacuum_is_an_even_disk_of_the_apertures_size(slices):
    """However thick: propagation alone turns phases, which no detector sees."""
    disk = vacuum(12.0, slices).numpy()
    total, center, cov = moments(disk)
    assert total == pytest.approx(1, abs=1e-4)
    assert np.abs(center - CENTER).max() < 1e-3
    level = np.median(disk[disk > disk.max() / 2])
    assert np.sqrt(total / level / np.pi) == pytest.approx(12, abs=0.25)
    x = np.arange(GRID) - CENTER
    radius = np.hypot(x[:, None], x)
    assert np.allclose(disk[radius < 11], level, rtol=1e-3)
    assert disk[radius > 13].max() < 1e-6 * level
    assert np.allclose(cov, np.eye(2) * 12**2 / 4, atol=1.5)


def test_defocus_and_position_do_not_show_in_vacuum():
    nothing = Specimen("vacuum", np.zeros((1, GRID, GRID), np.float32), 10.0)
    waves = probe(OPTICS, np.array([0.0, 400.0, -90.0]), np.array([[0.0, 0.0], [3.0, -2.0], [1.0, 5.0]]))
    patterns = multislice(nothing, OPTICS, waves, {1})[0]
    assert torch.allclose(patterns[1:], patterns[:1].expand(2, -1, -1), atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_sine_grating_diffracts_as_bessel_functions(axis):
    """A phase A cos(2 pi g x) sends J_n(A)^2 into order n, at n g along the grating's own axis."""
    strength, g = 0.9, 30
    x = np.arange(GRID) * 2 * np.pi * g / GRID
    grating = np.broadcast_to(strength * np.cos(x), (GRID, GRID))
    grating = grating.T if axis == 0 else grating
    pattern = through(grating[None], thickness=0.0)
    for order in (-2, -1, 0, 1, 2):
        at = [CENTER, CENTER]
        at[axis] += order * g
        disk = pattern[at[0] - 14:at[0] + 15, at[1] - 14:at[1] + 15]
        total, center, _ = moments(disk)
        assert total == pytest.approx(jv(order, strength) ** 2, abs=2e-4)
        assert np.abs(center - 14).max() < 0.01


def test_phase_objects_keep_electrons():
    """Only what would leave the grid is lost, and a smooth potential sends nothing there."""
    x = (np.arange(GRID) - GRID / 2) / 20
    hill = np.exp(-(x[:, None] ** 2 + x**2) / 2)
    pattern = through(np.repeat(1.5 * hill[None], 6, 0))
    assert pattern.sum() == pytest.approx(1, abs=0.01)
    disk = vacuum(12.0).numpy()
    assert np.abs(pattern - disk).sum() > 0.1  # and yet it is no vacuum


def test_specimens_keep_most_electrons_and_scatter_some():
    for seed in range(6):
        patterns, radius, kind = draw_patterns((5, seed))
        total = patterns.sum((1, 2))
        assert ((total > 0.6) & (total < 1.001)).all(), kind
        x = torch.arange(GRID) - CENTER
        outside = torch.hypot(x[:, None].float(), x.float()) > radius + 2
        scattered = (patterns * outside).sum((1, 2))
        assert (scattered > 1e-3).all(), kind


def test_an_atom_refracts_toward_itself():
    """Electrons are drawn to nuclei: a probe left of an atom (smaller x) is deflected toward larger x."""
    optics = Optics(volts=200e3, dk=0.02, aperture=10.0)
    atom = np.array([[0.0, 0.0, 0.5]])
    phase = atoms_to_phase(atom, np.zeros(1, int), np.array([29, 29, 29]), optics, 1, 2.0)
    assert phase[0, GRID // 2, GRID // 2] == phase.max() > 0
    for axis in (0, 1):
        position = np.zeros(2)
        position[axis] = -1.0
        _, center, _ = moments(through(phase, optics=optics, position=position))
        assert center[axis] > CENTER + 0.05
        assert abs(center[1 - axis] - CENTER) < 0.02


def test_reflections_beyond_the_samples_do_not_wrap_around():
    """A row of atoms with a reflection beyond the largest frequency of the samples."""
    optics = Optics(volts=200e3, dk=0.01, aperture=10.0)  # the samples reach 1.28 per angstrom
    spacing = 1 / 1.9
    atoms = np.stack([(np.arange(120) - 60) * spacing, np.zeros(120), np.full(120, 0.5)], 1)
    wrapped = [np.abs(np.fft.fft2(atoms_to_phase(atoms, np.zeros(120, int), np.array([26]), optics, 1, 2.0, finer)[0]))
               [round((1.9 - 2.56) / 0.01), 0] for finer in (1, 2)]
    assert wrapped[1] < 0.2 * wrapped[0]


def test_phase_grows_with_thickness_not_with_slicing():
    """The variance of a glass's phase is proportional to its thickness."""
    rng = np.random.default_rng(3)
    thin = glass_phase(np.random.default_rng(3), OPTICS, 4, 5.0)
    thick = glass_phase(np.random.default_rng(3), OPTICS, 4, 20.0)
    assert thick.var() / thin.var() == pytest.approx(4, rel=0.01)
    assert abs(glass_phase(rng, OPTICS, 1, 5.0).mean()) < 3 * thin.std()
