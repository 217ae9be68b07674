"""Multislice diffraction patterns of random specimens: the clean patterns of training and tests.

A convergent probe passes a stack of phase gratings with free propagation between them (Cowley and Moodie 1957,
doi 10.1107/S0365110X57002194; Kirkland, Advanced Computing in Electron Microscopy, ch. 6). This yields the dynamical
contrast of disks, the speckle of halos and the interference of overlapping orders. The wave after an intermediate
slice is the pattern of a thinner specimen, at no additional cost.
"""

from __future__ import annotations

import numpy as np
import torch

from .specimens import GRID, Optics, Specimen, draw_optics, draw_oriented, draw_specimen

CENTER = GRID // 2  # row and column of the direct beam in a clean pattern, samples


def probe(optics: Optics, defocus, position) -> torch.Tensor:
    """Return the aperture functions of probes in reciprocal space.

    Parameters
    ----------
    optics : Optics
        Illumination and sampling.
    defocus : array_like
        Defocus of each probe, (probes,), angstrom.
    position : array_like
        Positions of the probes, (probes, 2), angstrom.

    Returns
    -------
    torch.Tensor
        (probes, GRID, GRID), complex64, in FFT order.
    """
    k = torch.fft.fftfreq(GRID) * GRID
    kx, ky = k[:, None], k[None, :]
    radius = torch.hypot(kx, ky)
    amplitude = (optics.aperture - radius + 0.5).clamp(0, 1)
    defocus = torch.as_tensor(defocus, dtype=torch.float32)[:, None, None]
    chi = -np.pi * optics.wavelength * optics.dk**2 * defocus * radius**2
    shift = torch.as_tensor(position, dtype=torch.float32) * optics.dk * 2 * np.pi
    phase = chi - shift[:, 0, None, None] * kx - shift[:, 1, None, None] * ky
    # This phase puts the real-space origin in the middle of the grid, where the atoms are.
    return torch.polar(amplitude.expand_as(phase), phase + np.pi * (kx + ky))


def multislice(specimen: Specimen, optics: Optics, waves: torch.Tensor, exits,
               antialias: bool = False) -> torch.Tensor:
    """Propagate probes through a specimen.

    Parameters
    ----------
    specimen : Specimen
        Phase gratings and their distance.
    optics : Optics
        Illumination and sampling.
    waves : torch.Tensor
        Probes in reciprocal space, FFT order, (probes, GRID, GRID), complex.
    exits : set of int
        Numbers of the slices (from 1) after which patterns are recorded.
    antialias : bool, optional
        Whether waves and phase gratings end at two thirds of the largest frequency (Kirkland, Advanced Computing in
        Electron Microscopy, section 6.8). Patterns are then smaller, and free of disks that wrap around.

    Returns
    -------
    torch.Tensor
        Intensities, (len(exits), probes, GRID, GRID), with the direct beam at CENTER. The sum is 1 for an unscattered
        probe.
    """
    k = torch.fft.fftfreq(GRID) * GRID
    square = k[:, None] ** 2 + k[None, :] ** 2
    # A soft limit at the largest frequency of the axes suppresses most of the aliasing.
    limit = (((2 / 3 if antialias else 0.96) * CENTER - square.sqrt()) / 4).clamp(0, 1)
    propagator = torch.polar(limit, -np.pi * optics.wavelength * optics.dk**2 * specimen.thickness * square)
    phase = torch.from_numpy(specimen.phase)
    total = waves[0].abs().square().sum()
    out = []
    for number, transmission in enumerate(torch.polar(torch.ones_like(phase), phase), 1):
        if antialias:
            transmission = torch.fft.ifft2(torch.fft.fft2(transmission) * limit)
        waves = torch.fft.fft2(torch.fft.ifft2(waves) * transmission) * propagator
        if number in exits:
            out.append(torch.fft.fftshift(waves.abs().square(), dim=(-2, -1)) / total)
    return torch.stack(out)


def draw_patterns(seed, oriented: bool = False):
    """Simulate clean patterns of one random specimen, at three probe positions and two thicknesses.

    Parameters
    ----------
    seed : int or tuple of int
        Seed of all random numbers.
    oriented : bool
        Whether the specimen is a crystal along a zone axis, from `draw_oriented`.

    Returns
    -------
    patterns : torch.Tensor
        Intensities, (n, GRID, GRID), float32, with the direct beam at (CENTER, CENTER), fractions of the beam.
    aperture : float
        Radius of the aperture, samples.
    kind : str
        Kind of the specimen.
    """
    rng = np.random.default_rng(seed)
    if oriented:
        specimen, optics = draw_oriented(rng)
    else:
        optics = draw_optics(rng)
        specimen = draw_specimen(rng, optics)
    slices = len(specimen.phase)
    chosen = sorted(rng.choice(np.arange(1, slices + 1), min(2, slices), replace=False))
    defocus = rng.normal(0, 60, 3) * (rng.random(3) < 0.7)
    wander = rng.uniform(-1, 1, (3, 2)) * min(optics.reach / 4, 6)
    patterns = multislice(specimen, optics, probe(optics, defocus, wander), set(chosen))
    return patterns.reshape(-1, GRID, GRID), optics.aperture, specimen.kind
