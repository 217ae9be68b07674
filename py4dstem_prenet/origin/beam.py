"""Location of the direct beam in single patterns, by a likelihood fit and by the center network.

The network finds the direct disk in any pattern, with a precision of a few hundredths of a pixel. The likelihood fit
(`fits.DiskModel`) is more precise, but it needs a start within a pixel and a disk that the learned aperture describes.
A sharp beam with soft edges is fitted by its radial profile instead (`fits.SpotModel`). `Beam.locate` combines fit and
network in three steps:

1. The fit starts at the guess, which lies on the descan surface.
2. If the aperture does not describe the pattern, or the fit is uncertain or far from the guess, the network locates the
   disk and the fit starts again at that position.
3. If the fit fails again, the position and sigma of the network are used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import erfc

from ..compute import pick_device
from ..core import NoiseModel, ellipse_matrix, stabilize
from ..fits import (
    DISK_MARGIN_PX,
    Aperture,
    DiskOutline,
    disk_model,
    electron_windows,
    spot_model,
)
from ..networks import WINDOW, load, normalize
from . import wide_disk

MAX_WINDOW_RADIUS_PX = 13.0  # pixels; largest disk radius in a window of the network: larger disks are binned
LOCATE_BATCH = 256  # patterns; number that is located together, chosen for speed
SURROUNDINGS_RADII = 1.8  # disk radii; outer limit of the ring around the disk, with which its brightness is compared
SECOND_WINDOW_PX = 3.0  # pixels; largest distance from the middle of a window that needs no new, centered window
MORE_LOOKS = 4  # windows; most that follow the first one
MOVED_PX = 0.3  # pixels; smallest step after which a new window is evaluated
# Largest distance of a fit from its start at which it is trusted: the larger of these pixels and standard errors.
MAX_FIT_MOVE_PX = 0.75
MAX_FIT_MOVE_SIGMAS = 5
UNCERTAIN_SIGMA_PX = 0.5  # pixels; smallest sigma of a position that counts as uncertain
# Largest sigma of the network if the beam is visible: the larger of these pixels and disk radii.
MAX_NETWORK_SIGMA_PX = 2.0
MAX_NETWORK_SIGMA_RADII = 0.2
# Standard error of a fit along one axis, per relative residual and radius, for apertures that are not exactly
# elliptical.
MODEL_SIGMA = 0.05
# Fraction of the disk's brightness; largest rms residual of a fit in excess of counting noise. For real and simulated
# disks that the model describes it is 0.05 or less, for sharp beams with long tails and for halos 0.1 or more.
MAX_RELATIVE_MISFIT = 0.07
MIN_DISK_STRENGTH = 3.0  # standard errors; smallest brightness of a disk: the edge of a beam stop alone has less
MIN_DISK_CONTRAST = 4.0  # standard errors; smallest difference between the brightness of the disk and of the ring


@dataclass(frozen=True)
class Located:
    """Positions of the direct beam in n patterns.

    Attributes
    ----------
    position : numpy.ndarray, shape (n, 2)
        Position (qx, qy) in pixels.
    sigma : numpy.ndarray, shape (n, 2)
        Standard error of the position in pixels.
    signal : numpy.ndarray, shape (n,)
        Electrons in the window of the disk.
    found : numpy.ndarray of bool, shape (n,)
        False where no direct beam was found.

    Examples
    --------
    >>> from py4dstem_prenet.origin import unlocated
    >>> located = unlocated(3, guess=32.0)
    >>> located.position[0].tolist(), located.found.any().item()
    ([32.0, 32.0], False)
    """

    position: np.ndarray
    sigma: np.ndarray
    signal: np.ndarray
    found: np.ndarray

    def put(self, index, located: Located) -> None:
        """Write the positions of selected patterns into these arrays.

        Parameters
        ----------
        index : numpy.ndarray or slice
            Index of the patterns.
        located : Located
            Positions of these patterns.
        """
        self.position[index], self.sigma[index] = located.position, located.sigma
        self.signal[index], self.found[index] = located.signal, located.found

    def subset(self, index) -> Located:
        """Select a subset of the patterns.

        Parameters
        ----------
        index : numpy.ndarray or slice
            Index of the patterns.

        Returns
        -------
        Located
            Positions of these patterns.
        """
        return Located(self.position[index], self.sigma[index], self.signal[index], self.found[index])


def unlocated(n: int, guess=np.nan) -> Located:
    """Create the `Located` of patterns that have not been searched.

    Parameters
    ----------
    n : int
        Number of patterns.
    guess : float or array_like, shape (n, 2), optional
        Guess of the positions in pixels.

    Returns
    -------
    Located
        The guesses, with infinite sigma and no pattern found.
    """
    return Located(np.full((n, 2), guess, float), np.full((n, 2), np.inf), np.zeros(n), np.zeros(n, bool))


@dataclass(frozen=True)
class Beam:
    """Direct beam of a scan, learned from a sample of its patterns.

    The object contains only data and can be pickled; each worker loads its own network.

    Attributes
    ----------
    device : str
        Device chosen by the user; "auto" is resolved by each worker.
    noise : NoiseModel
        Noise model of the detector.
    aperture : Aperture
        The direct disk, in pixels.
    fits : tuple of (Aperture, float)
        Apertures for the fit, in bins of `fit_bins` and with their contrast, each with the largest misfit of a disk
        that it describes; the most frequent aperture first. Empty if the disk has no edge that can be fitted.
    fit_bins : int
        Side of a bin of the fit in pixels; coarser bins would bias the position of a large disk.
    wide : bool
        Whether the disk is too large for the network; it is then found by its contour (`wide_disk`).
    spot : bool
        Whether the beam is a spot with soft edges, not an image of the aperture; its radial profile is then fitted.
    outline : DiskOutline or None
        Outline of the disk in the recentered sample, in pixels; None if it is not visible.
    """

    device: str
    noise: NoiseModel
    aperture: Aperture
    fits: tuple[tuple[Aperture, float], ...] = ()
    fit_bins: int = 1
    wide: bool = False
    spot: bool = False
    outline: DiskOutline | None = None

    @property
    def resolved_device(self) -> str:
        """Device used by this process.

        Returns
        -------
        str
            "cpu", "cuda" or "mps".
        """
        return str(pick_device(self.device))

    @property
    def bins(self) -> int:
        """Side of a bin of the network: large disks are binned to fit its window.

        Returns
        -------
        int
            Side in pixels.
        """
        return max(1, int(np.ceil(self.aperture.radius / MAX_WINDOW_RADIUS_PX)))

    @property
    def reach(self) -> float:
        """Half of the side of the network's window: the largest offset at which it finds the disk.

        Returns
        -------
        float
            Offset in pixels.
        """
        return WINDOW / 2 * self.bins

    def windows(self, patterns, positions):
        """Cut the network's windows out of patterns.

        Parameters
        ----------
        patterns : numpy.ndarray, shape (n, Qx, Qy)
            Patterns in detector units.
        positions : numpy.ndarray, shape (n, 2)
            Positions of the windows in pixels.

        Returns
        -------
        electrons : torch.Tensor, shape (n, side, side)
            Electrons in each bin.
        good : torch.Tensor of bool, shape (n, side, side)
            True where a bin is usable.
        middle : numpy.ndarray, shape (n, 2)
            Middle of each window in pixels.
        """
        return electron_windows(patterns, positions, WINDOW, self.noise, self.bins)

    def locate(self, patterns, guess) -> Located:
        """Locate the direct beam in patterns.

        Parameters
        ----------
        patterns : numpy.ndarray, shape (n, Qx, Qy)
            Patterns in detector units.
        guess : numpy.ndarray, shape (n, 2)
            Guesses of the positions in pixels.

        Returns
        -------
        Located
            Position and sigma in each pattern.
        """
        n = len(patterns)
        located = unlocated(n, guess)
        doubtful = np.ones(n, bool)
        if self.fits:
            described = self._fit(located, patterns, guess, slice(None), self.fits[:1])
            distance = np.abs(located.position - guess).max(1)
            sigma = located.sigma.max(1)
            doubtful = (~described | (distance > np.maximum(MAX_FIT_MOVE_PX, MAX_FIT_MOVE_SIGMAS * sigma))
                        | (sigma > UNCERTAIN_SIGMA_PX))
        located.found[~doubtful] = True
        if doubtful.any():
            index = np.flatnonzero(doubtful)
            position, sigma = self.predict(patterns[index], guess[index])
            self._fit(located, patterns, position, index, self.fits, sigma)
            certain = np.hypot(*sigma.T) < max(MAX_NETWORK_SIGMA_PX, MAX_NETWORK_SIGMA_RADII * self.aperture.radius)
            contrast = self._contrast(patterns[index], located.position[index])
            located.found[index] = certain & (contrast > MIN_DISK_CONTRAST)
        return located

    def _fit(self, located, patterns, start, index, fits, sigma=None):
        """Write the best fit of each pattern at `index` into `located`; if no fit is good, the start and its sigma."""
        patterns = patterns[index]
        position = np.array(start, float)
        spread = np.full(position.shape, np.inf) if sigma is None else np.array(sigma)
        signal, best = np.zeros(len(patterns)), np.ones(len(patterns))
        for number, (aperture, limit) in enumerate(fits):
            model = (spot_model if self.spot else disk_model)(aperture, self.resolved_device)
            for first in range(0, len(patterns), LOCATE_BATCH):
                part = slice(first, first + LOCATE_BATCH)
                fitted, middle, electrons = fit_windows(model, patterns[part], start[part], self.noise,
                                                        self.fit_bins)
                if number == 0:
                    signal[part] = electrons
                fit_position = fitted.position.cpu().numpy() * self.fit_bins + middle
                misfit = fitted.misfit.cpu().numpy()
                relative = fitted.relative_misfit.cpu().numpy()
                # The limit of windows without electrons is 0.
                ratio = misfit / max(limit, 1e-9)
                ratio = ratio if self.spot else np.maximum(ratio, relative / MAX_RELATIVE_MISFIT)
                better = (ratio < best[part]) & (fitted.strength.cpu().numpy() > MIN_DISK_STRENGTH)
                if sigma is not None:  # the fit may refine the network's position, but not move to a different disk
                    limits = np.maximum(MAX_FIT_MOVE_PX, MAX_FIT_MOVE_SIGMAS * spread[part])
                    better &= (np.abs(fit_position - start[part]) < limits).all(1)
                inflated = fitted.covariance.diagonal(dim1=1, dim2=2).cpu().numpy() ** 0.5 * self.fit_bins
                model_sigma = MODEL_SIGMA * relative * aperture.radius * self.fit_bins
                if not self.spot:  # the covariance of a spot includes these errors
                    inflated = np.hypot(inflated * np.sqrt(misfit.clip(1))[:, None], model_sigma[:, None])
                position[part][better], spread[part][better] = fit_position[better], inflated[better]
                best[part][better] = ratio[better]
        located.position[index], located.sigma[index] = position, spread
        located.signal[index] = signal if fits else _signal(patterns, start, self)
        return best < 1

    def _contrast(self, patterns, positions):
        """Difference (n,) between the brightness of the disk and of the ring around it, in standard errors.

        The network returns a position with a small sigma even for a few electrons of background. The brightness is
        therefore tested by the likelihood ratio of two Poisson rates against one. The variance of the read-out noise is
        added to the counts. The result is infinite if no pixel around the disk is usable.
        """
        edge, radius = self.aperture.edge, self.aperture.radius
        side = 2 * int(np.ceil((SURROUNDINGS_RADII * radius + DISK_MARGIN_PX) / self.bins)) + 1
        contrast = np.empty(len(positions))
        for first in range(0, len(positions), LOCATE_BATCH):
            part = slice(first, first + LOCATE_BATCH)
            electrons, good, middle = electron_windows(patterns[part], positions[part], side, self.noise, self.bins)
            offset = (positions[part] - middle)[:, :, None]
            axis = (np.arange(side) - (side - 1) / 2) * self.bins
            distance = torch.from_numpy(np.hypot((axis - offset[:, 0])[:, :, None], (axis - offset[:, 1])[:, None]))
            area, counts = [], []
            for region in (distance < radius + edge, (distance > radius + 3 * edge) & (distance < axis[-1])):
                area.append((region & good).sum((1, 2)).double())
                counts.append((electrons * (region & good)).sum((1, 2), dtype=torch.float64))
            area, counts = torch.stack(area), torch.stack(counts)
            counts = (counts + area * (self.noise.readout / self.noise.gain * self.bins) ** 2).clamp_min(0)
            expected = counts.sum(0) * area / area.sum(0).clamp_min(1)
            ratio = 2 * torch.xlogy(counts, counts / expected.clamp_min(1e-9)).sum(0)
            contrast[part] = torch.where(area[1] > 0, ratio.clamp_min(0).sqrt(), torch.inf).numpy()
        return contrast

    def predict(self, patterns, guess):
        """Locate the direct beam by the network alone, or by its contour if it is too large for the network.

        If a position is uncertain or far from the guess, the network is applied again to a window centered on it.

        Parameters
        ----------
        patterns : numpy.ndarray, shape (n, Qx, Qy)
            Patterns in detector units.
        guess : numpy.ndarray, shape (n, 2)
            Guesses of the positions in pixels.

        Returns
        -------
        position : numpy.ndarray, shape (n, 2)
            Positions in pixels.
        sigma : numpy.ndarray, shape (n, 2)
            Standard errors of the positions in pixels.
        """
        if self.wide:
            return self._contours(patterns, guess)
        position, sigma = np.zeros((len(guess), 2)), np.zeros((len(guess), 2))
        reference = torch.from_numpy(_reference(self.aperture, self.bins))
        for first in range(0, len(guess), LOCATE_BATCH):
            part = np.arange(first, min(first + LOCATE_BATCH, len(guess)))
            position[part], sigma[part] = self._look(patterns[part], guess[part], reference)
            moved = np.abs(position[part] - guess[part]).max(1)
            again = part[(moved > SECOND_WINDOW_PX * self.bins) | (sigma[part].max(1) > UNCERTAIN_SIGMA_PX * self.bins)]
            for _ in range(MORE_LOOKS):
                if not len(again):
                    break
                previous = position[again]
                position[again], sigma[again] = self._look(patterns[again], previous, reference)
                moved = np.abs(position[again] - previous).max(1)
                again = again[(moved > MOVED_PX * self.bins) & (sigma[again].max(1) > UNCERTAIN_SIGMA_PX * self.bins)]
        return position, sigma

    def _contours(self, patterns, guess):
        """Centers of the contours and their sigmas, (n, 2) each; the guess and infinity if there is no contour."""
        position, sigma = np.array(guess, float), np.full((len(guess), 2), np.inf)
        for k, pattern in enumerate(self.noise.electrons(patterns)):
            disk = wide_disk(pattern, ~self.noise.bad_pixels)
            if disk is not None:
                position[k], sigma[k] = disk.center, disk.sigma
        return position, sigma

    def _look(self, patterns, guess, reference):
        """Positions and sigmas of the network, (n, 2) each, in windows around the guesses."""
        electrons, good, middle = self.windows(patterns, guess)
        device = self.resolved_device
        network = load("center", device).fine
        with torch.inference_mode():
            z, scale = normalize(stabilize(electrons, self.noise.readout / self.noise.gain * self.bins), good)
            x = torch.stack([z, reference.expand_as(z), good.float()], 1)
            offset, factor = network(x.to(device, memory_format=torch.channels_last), scale.to(device))
            spread = factor.square().sum(-1).sqrt()
        return offset.cpu().numpy() * self.bins + middle, spread.cpu().numpy() * self.bins


def fit_windows(model, patterns, positions, noise: NoiseModel, bins: int, learn: bool = False):
    """Fit the disk in windows around positions.

    Parameters
    ----------
    model : DiskModel or SpotModel
        Model of the beam, in bins.
    patterns : numpy.ndarray, shape (n, Qx, Qy)
        Patterns in detector units.
    positions : numpy.ndarray, shape (n, 2)
        Start of each fit in pixels.
    noise : NoiseModel
        Noise model of the detector.
    bins : int
        Side of a bin in pixels.
    learn : bool, optional
        Whether to compute the derivatives that `DiskModel.learned` needs.

    Returns
    -------
    fitted : DiskPositions
        The fits, in bins from the middle of each window.
    middle : numpy.ndarray, shape (n, 2)
        Middle of each window in pixels.
    signal : numpy.ndarray, shape (n,)
        Electrons in each window.
    """
    electrons, good, middle = electron_windows(patterns, positions, model.side, noise, bins)
    start = torch.from_numpy((positions - middle) / bins).float()
    with torch.inference_mode():
        device = model.x.device
        fitted = model.fit(electrons.to(device), good.to(device), start.to(device),
                           noise.readout / noise.gain * bins, learn)
    return fitted, middle, electrons.sum((1, 2)).numpy()


def _signal(patterns, positions, beam):
    """Electrons (n,) in a window of the disk's size around each position."""
    side = 2 * int(np.ceil(beam.aperture.radius / beam.bins + 4)) + 1
    signals = []
    for first in range(0, len(patterns), LOCATE_BATCH):
        part = slice(first, first + LOCATE_BATCH)
        electrons, _, _ = electron_windows(patterns[part], positions[part], side, beam.noise, beam.bins)
        signals.append(electrons.sum((1, 2)).numpy())
    return np.concatenate(signals)


def _reference(aperture, bins):
    """Image of the aperture in the middle of the network's window, (WINDOW, WINDOW) float32."""
    axis = np.arange(WINDOW) - (WINDOW - 1) / 2
    ideal = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1) @ np.linalg.inv(ellipse_matrix(aperture.vector)).T
    distance = np.hypot(ideal[..., 0], ideal[..., 1]) - aperture.radius / bins
    edge = aperture.edge if bins == 1 else np.hypot(aperture.edge / bins, 12**-0.5)
    return (0.5 * erfc(distance / (edge * 2**0.5))).astype(np.float32)
