"""Multislice diffraction patterns of random specimens: the clean patterns that everything is trained on.

The physics is the textbook one (Cowley and Moodie 1957; Kirkland, Advanced Computing in Electron Microscopy,
ch. 6): a convergent probe passes a stack of phase gratings with free propagation between them. Disks
get their dynamical contrast, halos their speckle and overlapping orders their interference from it, none of
which can be painted convincingly. The wave after every slice is a pattern of a thinner specimen, free of cost.
"""

from __future__ import annotations

import numpy as np
import torch

from .specimens import GRID, Optics, Specimen, draw_optics, draw_oriented, draw_specimen

CENTER = GRID // 2  # the index of the direct beam in a pattern


def probe(optics: Optics, defocus, position) -> torch.Tensor:
    """Aperture functions in reciprocal space, FFT order: (probes, GRID, GRID) complex64.

    Args:
        defocus: (probes,) in angstrom.
        position: (probes, 2) probe positions in angstrom.
    """
    k = torch.fft.fftfreq(GRID) * GRID
    kx, ky = k[:, None], k[None, :]
    radius = torch.hypot(kx, ky)
    amplitude = (optics.aperture - radius + 0.5).clamp(0, 1)
    defocus = torch.as_tensor(defocus, dtype=torch.float32)[:, None, None]
    chi = -np.pi * optics.wavelength * optics.dk**2 * defocus * radius**2
    shift = torch.as_tensor(position, dtype=torch.float32) * optics.dk * 2 * np.pi
    phase = chi - shift[:, 0, None, None] * kx - shift[:, 1, None, None] * ky
    # Real-space origin in the middle of the grid, where the atoms are.
    return torch.polar(amplitude.expand_as(phase), phase + np.pi * (kx + ky))


def multislice(specimen: Specimen, optics: Optics, waves: torch.Tensor, exits) -> torch.Tensor:
    """Intensities (len(exits), probes, GRID, GRID), direct beam at CENTER, sum 1 for an unscattered probe.

    Args:
        waves: (probes, GRID, GRID) complex, reciprocal space, FFT order.
        exits: slice numbers (from 1) after which a pattern is recorded.
    """
    k = torch.fft.fftfreq(GRID) * GRID
    square = k[:, None] ** 2 + k[None, :] ** 2
    # A soft limit below the corner frequencies keeps most of the wrap-around out.
    limit = ((0.96 * CENTER - square.sqrt()) / 4).clamp(0, 1)
    propagator = torch.polar(limit, -np.pi * optics.wavelength * optics.dk**2 * specimen.thickness * square)
    phase = torch.from_numpy(specimen.phase)
    total = waves[0].abs().square().sum()
    out = []
    for number, transmission in enumerate(torch.polar(torch.ones_like(phase), phase), 1):
        waves = torch.fft.fft2(torch.fft.ifft2(waves) * transmission) * propagator
        if number in exits:
            out.append(torch.fft.fftshift(waves.abs().square(), dim=(-2, -1)) / total)
    return torch.stack(out)


def draw_patterns(seed, probes: int = 3, exits: int = 2, oriented: bool = False):
    """Clean patterns of one random specimen, or of a crystal along a zone axis.

    Returns:
        intensities (n, GRID, GRID) float32 with the direct beam at (CENTER, CENTER), the aperture's radius in
        samples, and the kind of specimen.
    """
    rng = np.random.default_rng(seed)
    if oriented:
        specimen, optics = draw_oriented(rng)
    else:
        optics = draw_optics(rng)
        specimen = draw_specimen(rng, optics)
    slices = len(specimen.phase)
    chosen = sorted(rng.choice(np.arange(1, slices + 1), min(exits, slices), replace=False))
    focus = rng.normal(0, 60, probes) * (rng.random(probes) < 0.7)
    wander = rng.uniform(-1, 1, (probes, 2)) * min(optics.reach / 4, 6)
    patterns = multislice(specimen, optics, probe(optics, focus, wander), set(chosen))
    return patterns.reshape(-1, GRID, GRID), optics.aperture, specimen.kind
