"""The shape of Bragg disks, learned from a sample: radius, blur, and the contrast inside strong and weak disks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from ..fits import Aperture, DiskModel
from . import Candidates, DiskWindows, error_ratios

# Set on multislice silicon along [110] (benchmarks/strain.py, disks.py), unless a comment says otherwise.
DIRECTIONS = 36  # directions of the contrast over half a turn
MIN_LEARNED_DISKS = 16  # disks; smallest number from which aperture or contrast is learned
MAX_APERTURE_DISKS, MAX_CLASS_DISKS = 512, 256  # disks; largest numbers for aperture and contrast, for speed
MAX_CLASSES = 3  # classes of disks by electrons, each with its own contrast
APERTURE_ROUNDS, APERTURE_STEP_PX = 15, 0.01  # rounds, pixels; learning ends when radius and blur change less
# Ratios; largest width of the edge, and largest radius, of the learned aperture to that of the given one. Contrast in
# the direct disk changes its radius by some percent; of overlapping disks in a powder, radii grew by 1.7.
MAX_EDGE_GROWTH, MAX_RADIUS_GROWTH = 2.0, 1.25
CONTRAST_ROUNDS = 5  # rounds of the evidence
AMPLITUDE_LIMITS = (1e-3, 1.0)  # fractions of the brightness of the disk; limits of a term
MAX_MOVE_PX = 1.5  # pixels; largest offset from the middle of a window at which the fit is valid
MIN_DETERMINED = 0.02  # fraction; smallest part of a term of the contrast that the electrons determine
GROUP_ELECTRONS = (30.0, 120.0, 500.0, 2000.0)  # electrons; limits between disks fitted with different numbers of terms


@dataclass(frozen=True)
class DiskShape:
    """Aperture and contrast of Bragg disks.

    Attributes
    ----------
    aperture : Aperture
        The aperture.
    limits : tuple of float
        Electrons that divide disks into classes, ascending.
    amplitudes : tuple of numpy.ndarray
        For each class, the relative amplitude of each term of the contrast along and across the direction of a disk;
        empty if it is not known, and the contrast that of the direct disk.
    misfits : tuple of float
        Median misfit of the fits of disks between the limits GROUP_ELECTRONS; empty if it is not known.
    errors : tuple of float
        Ratio of the variance of their positions to the stated one (`error_ratios`); empty if it is not known.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.disks import DiskShape
    >>> from py4dstem_prenet.fits import Aperture
    >>> shape = DiskShape(Aperture(4.0, 0.3, (0.0, 0.0), contrast=(0.3, 0.1)))
    >>> [(len(members), model.degree) for members, model, _ in shape.groups(np.array([5.0, 9.0]))]
    [(2, 2)]
    """

    aperture: Aperture
    limits: tuple = ()
    amplitudes: tuple = ()
    misfits: tuple = ()
    errors: tuple = ()

    def typical_misfit(self, electrons) -> np.ndarray:
        """Return the typical misfit of disks in this scan.

        Parameters
        ----------
        electrons : numpy.ndarray, shape (k,)
            Electrons of the disks.

        Returns
        -------
        numpy.ndarray, shape (k,)
            Mean squared residual in units of the expected variance; infinite if it is not known.
        """
        return np.array(self.misfits or (np.inf,) * (len(GROUP_ELECTRONS) + 1))[
            np.searchsorted(GROUP_ELECTRONS, electrons)]

    def with_misfits(self, electrons, misfit) -> DiskShape:
        """Learn the typical misfit from fits.

        Parameters
        ----------
        electrons, misfit : numpy.ndarray, shape (k,)
            Electrons of disks and the misfit of their fits.

        Returns
        -------
        DiskShape
            This shape with `misfits`.

        Examples
        --------
        >>> import numpy as np
        >>> from py4dstem_prenet.disks import DiskShape
        >>> from py4dstem_prenet.fits import Aperture
        >>> shape = DiskShape(Aperture(4.0, 0.3, (0.0, 0.0))).with_misfits(np.full(50, 99.0), np.full(50, 0.8))
        >>> shape.typical_misfit(np.array([60.0, 900.0])).tolist()  # there are no bright disks
        [0.8, inf]
        """
        group = np.searchsorted(GROUP_ELECTRONS, electrons)
        return replace(self, misfits=tuple(
            float(np.median(misfit[group == k])) if (group == k).sum() >= MIN_LEARNED_DISKS else np.inf
            for k in range(len(GROUP_ELECTRONS) + 1)))

    def error_ratio(self, electrons) -> np.ndarray:
        """Return the ratio of the variance of positions to the one that their fits state.

        Parameters
        ----------
        electrons : numpy.ndarray, shape (k,)
            Electrons of the disks.

        Returns
        -------
        numpy.ndarray, shape (k,)
            The ratio; 1 if it is not known.
        """
        return np.array(self.errors or (1.0,) * (len(GROUP_ELECTRONS) + 1))[np.searchsorted(GROUP_ELECTRONS, electrons)]

    def with_errors(self, pattern, position, sigma, electrons, direct, reach: float) -> DiskShape:
        """Learn the ratio of the variance of positions to the stated one from disks that lie opposite each other.

        Parameters
        ----------
        pattern : numpy.ndarray of int, shape (k,)
            Number of the pattern of each disk.
        position, sigma : numpy.ndarray, shape (k, 2)
            Positions and their stated standard errors, pixels.
        electrons : numpy.ndarray, shape (k,)
            Electrons of the disks.
        direct : numpy.ndarray, shape (n, 2)
            Positions of the direct beam, pixels.
        reach : float
            Largest distance from the direct beam at which the middle of two disks is that of a pair, pixels.

        Returns
        -------
        DiskShape
            This shape with `errors`.
        """
        group = np.searchsorted(GROUP_ELECTRONS, electrons)
        ratios = error_ratios(pattern, position, sigma, group, direct, reach, len(GROUP_ELECTRONS) + 1,
                              MIN_LEARNED_DISKS)
        return replace(self, errors=tuple(ratios.tolist()))

    def contrast_class(self, electrons) -> np.ndarray:
        """Return the class of disks.

        Parameters
        ----------
        electrons : numpy.ndarray, shape (k,)
            Electrons of the disks.

        Returns
        -------
        numpy.ndarray of int, shape (k,)
            Index into `amplitudes`.
        """
        return np.searchsorted(self.limits, electrons)

    def priors(self, number: int, degree: int, brightness: float) -> torch.Tensor:
        """Return the prior of a contrast that includes the brightness.

        Parameters
        ----------
        number : int
            The class of disks.
        degree : int
            Polynomial degree of the contrast.
        brightness : float
            Relative uncertainty of the brightness, 1 sigma.

        Returns
        -------
        torch.Tensor, shape (DIRECTIONS, terms, terms)
            Inverse covariance of the contrast for each direction.
        """
        return _whole_priors(self.aperture, self._amplitudes_of(number), degree, brightness)

    def _amplitudes_of(self, number):
        return tuple(self.amplitudes[number].tolist()) if self.amplitudes else None

    def groups(self, electrons, device="cpu"):
        """Group disks by the terms of the contrast that they determine.

        Parameters
        ----------
        electrons : numpy.ndarray, shape (k,)
            Electrons of the disks.
        device : str, optional
            Where windows are fitted.

        Yields
        ------
        members : numpy.ndarray of int
            Index of the disks of the group.
        model : DiskModel
            Their model.
        priors : torch.Tensor, shape (DIRECTIONS, terms, terms)
            The prior of their contrast for each direction.
        """
        edges = np.array(sorted({*GROUP_ELECTRONS, *self.limits}))
        group = np.searchsorted(edges, electrons)
        for number in np.unique(group):
            most = edges[number] if number < len(edges) else np.inf
            amplitudes = self._amplitudes_of(int(np.searchsorted(self.limits, 0.999 * most)))
            model, priors = _model(self.aperture, amplitudes, float(most), str(device))
            yield np.flatnonzero(group == number), model, priors


@lru_cache(maxsize=32)
def _model(aperture: Aperture, amplitudes, electrons: float, device: str):
    """Model of disks of at most `electrons` electrons, and the priors of its contrast."""
    whole = DiskModel(aperture, "cpu", amplitudes=amplitudes)
    determined = whole.amplitudes**2 * electrons > MIN_DETERMINED
    degree = max(1, int(whole.degrees[determined].max()))
    terms = (degree + 1) * (degree + 2) // 2
    contrast = aperture.contrast or (0.4,) * whole.degree
    model = DiskModel(replace(aperture, contrast=contrast[:degree]), device,
                      amplitudes=None if amplitudes is None else amplitudes[:terms])
    return model, model.turned_priors(DIRECTIONS)


@lru_cache(maxsize=8)
def _whole_priors(aperture: Aperture, amplitudes, degree: int, brightness: float):
    """Priors of the contrast up to a degree that all apertures have, the brightness included."""
    terms = (degree + 1) * (degree + 2) // 2
    model = DiskModel(aperture, amplitudes=amplitudes)
    known = model.turned_priors(DIRECTIONS)[:, :terms, :terms]
    # Smaller disks have fewer terms; the others are zero.
    priors = 1e6 * torch.eye(terms).repeat(DIRECTIONS, 1, 1)
    priors[:, : known.shape[1], : known.shape[1]] = known
    priors[:, 0, 0] = brightness**-2
    return priors


def directions(candidates: Candidates, direct) -> np.ndarray:
    """Compute the direction of disks from the direct beam.

    Parameters
    ----------
    candidates : Candidates
        The disks.
    direct : numpy.ndarray, shape (n, 2)
        Positions of the direct beam, pixels.

    Returns
    -------
    numpy.ndarray of int, shape (k,)
        The direction, from +qx toward +qy, in units of half a turn over DIRECTIONS.
    """
    away = candidates.place - direct[candidates.pattern]
    return np.rint(np.arctan2(away[:, 1], away[:, 0]) % np.pi / np.pi * DIRECTIONS).astype(int) % DIRECTIONS


def learned_shape(windows: DiskWindows, candidates: Candidates, aperture: Aperture, direct,
                  readout: float, certain: float) -> DiskShape:
    """Learn the aperture from Bragg disks, and the contrast inside them.

    Radius and blur are learned from disks of all directions: in the direct disk alone, contrast that is symmetric about
    the center and the radius are hard to tell apart, and with a wrong radius half-lit disks are displaced. The rocking
    curve of a reflection varies along its direction, so Bragg disks have more contrast along it than across, and weak
    reflections, which are far from their Bragg condition, more than strong ones: each term has a Gaussian prior whose
    width maximizes the evidence (MacKay, Neural Computation 4, 415 (1992), eq. 4.8) over a class of disks.

    Parameters
    ----------
    windows : DiskWindows
        The patterns.
    candidates : Candidates
        Disks of these patterns, the direct one left out.
    aperture : Aperture
        The direct disk.
    direct : numpy.ndarray, shape (n, 2)
        Positions of the direct beam, pixels.
    readout : float
        Read-out noise in electrons, rms.
    certain : float
        Smallest significance of the disks that are used, standard deviations.

    Returns
    -------
    DiskShape
        The shape; that of the direct disk if there are few strong disks.
    """
    device = windows.electrons.device
    coverage = windows.coverage(with_direct(candidates, direct))
    candidates = candidates.subset(candidates.reported(windows.shape[1:]))
    certainly = candidates.subset(candidates.significance > certain)
    if len(certainly.pattern) < MIN_LEARNED_DISKS:
        return DiskShape(aperture)
    strong, given = _some(certainly, MAX_APERTURE_DISKS), aperture
    for _ in range(APERTURE_ROUNDS):
        model = DiskModel(aperture, device)
        electrons, good = windows.cut(strong, coverage, model.side)
        fitted = _located(model, electrons, good, readout, learn=True)
        before, aperture = aperture, model.learned(fitted, (fitted.position.abs() < MAX_MOVE_PX).all(1))
        if max(abs(aperture.radius - before.radius), abs(aperture.blur - before.blur)) < APERTURE_STEP_PX:
            break
    # If the disks overlap, the aperture may spread over others.
    if aperture.edge > MAX_EDGE_GROWTH * given.edge or aperture.radius > MAX_RADIUS_GROWTH * given.radius:
        aperture = given
    classes = int(np.clip(len(certainly.pattern) // (2 * MIN_LEARNED_DISKS), 1, MAX_CLASSES))
    limits = tuple(np.quantile(certainly.electrons, np.arange(1, classes) / classes).tolist())
    number = np.searchsorted(limits, certainly.electrons)
    amplitudes = tuple(_amplitudes(windows, coverage, _some(certainly.subset(number == k), MAX_CLASS_DISKS), aperture,
                                   direct, readout)
                       for k in range(classes))
    return DiskShape(aperture, limits, amplitudes)


def _some(candidates, most):
    """Choose at most `most` disks, evenly."""
    return candidates.subset(np.unique(np.linspace(0, len(candidates.pattern) - 1, most).astype(int)))


def _amplitudes(windows, coverage, chosen, aperture, direct, readout):
    """Relative amplitude of each term of the contrast of some disks."""
    device, direction = windows.electrons.device, directions(chosen, direct)
    side = DiskModel(aperture).side
    groups = []
    for k in np.unique(direction // 3):  # a dozen models instead of DIRECTIONS
        members = np.flatnonzero(direction // 3 == k)
        groups.append(((3 * k + 1) * np.pi / DIRECTIONS, *windows.cut(chosen.subset(members), coverage, side)))
    amplitudes = None
    for _ in range(CONTRAST_ROUNDS):
        power, determined = 0.0, 0.0
        for angle, electrons, good in groups:
            model = DiskModel(aperture, device, angle, amplitudes)
            fitted = _located(model, electrons, good, readout)
            used = (fitted.position.abs() < MAX_MOVE_PX).all(1)
            power = power + fitted.contrast[used].square().sum(0)
            determined = determined + (1 - fitted.contrast_variance[used] / model.amplitudes**2).clamp(0, 1).sum(0)
        amplitudes = (power / determined.clamp_min(1)).sqrt().clamp(*AMPLITUDE_LIMITS).cpu().numpy()
        amplitudes[0] = 1
    return amplitudes


def with_direct(candidates: Candidates, direct) -> Candidates:
    """Add the direct disk of each pattern.

    Parameters
    ----------
    candidates : Candidates
        The disks.
    direct : numpy.ndarray, shape (n, 2)
        Positions of the direct beam, pixels.

    Returns
    -------
    Candidates
        The disks, the direct ones last.
    """
    n = len(direct)
    return Candidates(np.concatenate([candidates.pattern, np.arange(n)]),
                      np.concatenate([candidates.place, np.rint(direct).astype(int)]),
                      np.concatenate([candidates.significance, np.full(n, np.inf)]),
                      np.concatenate([candidates.electrons, np.full(n, np.inf)]),
                      np.concatenate([candidates.background, np.zeros(n)]),
                      np.concatenate([candidates.seen, np.ones(n)]))


def _located(model, electrons, good, readout, learn=False):
    """Fit windows, starting from their middles."""
    with torch.inference_mode():
        return model.fit(electrons, good, torch.zeros(len(electrons), 2, device=electrons.device), readout, learn)
