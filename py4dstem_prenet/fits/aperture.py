"""Model of the direct disk on the detector: radius, blur, ellipse, and the polynomials of the contrast inside it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import pi

import numpy as np
import torch

MAX_CONTRAST_DEGREE = 6  # highest polynomial degree of the contrast
# Pixels, for radius and blur; relative units, for the contrast. Learning ends when a round changes the aperture by less
# than both. Chosen for speed.
LEARNED_STEP_PX, LEARNED_STEP = 0.005, 0.003
# Fraction; smallest share of a contrast term that the data determine, the rest coming from its prior. Terms below it
# are left out, for speed. On eleven simulated scans of 300 to 100,000 electrons, the rms error of the positions agreed
# within 2 % with that of a limit of 0.1.
MIN_DETERMINED_PART = 0.3
MIN_BLUR_PX = 0.05  # pixels, 1 sigma; smallest blur: a sharper edge looks the same after averaging over a pixel


@dataclass(frozen=True)
class Aperture:
    """Model of the direct disk on the detector.

    Attributes
    ----------
    radius : float
        Radius in pixels.
    blur : float
        Blur of the edge in pixels, 1 sigma, not including the averaging over a pixel.
    vector : tuple of float
        Ellipse vector (eps cos 2 theta, eps sin 2 theta).
    contrast : tuple of float
        Relative amplitude of each degree of the contrast inside the disk, degree 1 first; empty if not yet learned.
    radius_sigma : float
        One standard deviation of the radius, pixels; NaN if the radius was not learned. It does not change the model.

    Examples
    --------
    >>> from py4dstem_prenet.fits import Aperture
    >>> Aperture(radius=8.0, blur=0.4, vector=(0.0, 0.0)).binned(2)
    Aperture(radius=4.0, blur=0.2, vector=(0.0, 0.0), contrast=())
    """

    radius: float
    blur: float
    vector: tuple[float, float]
    contrast: tuple[float, ...] = ()
    radius_sigma: float = field(default=float("nan"), compare=False, repr=False)

    @property
    def edge(self) -> float:
        """Width of the edge, including the averaging over a pixel.

        Returns
        -------
        float
            Standard deviation in pixels.
        """
        return float(np.hypot(self.blur, 12**-0.5))

    def steady(self, before: Aperture) -> bool:
        """Return whether the last round of learning left the aperture nearly unchanged.

        Parameters
        ----------
        before : Aperture
            The aperture before the round.

        Returns
        -------
        bool
            True if radius, blur and contrast have changed by less than LEARNED_STEP_PX and LEARNED_STEP.
        """
        change = max(abs(self.radius - before.radius), abs(self.blur - before.blur))
        contrast = np.subtract(self.contrast, before.contrast) if before.contrast else np.inf
        return bool(change < LEARNED_STEP_PX and np.max(np.abs(contrast)) < LEARNED_STEP)

    def lean(self, electrons: float) -> Aperture:
        """Remove the degrees of the contrast that a disk of this many electrons hardly determines.

        In a fit, the prior keeps these terms near zero; they take time and change the result little.

        Parameters
        ----------
        electrons : float
            Electrons in a bright disk.

        Returns
        -------
        Aperture
            The aperture with the contrast up to the highest degree that is determined; at least degree 1.

        Examples
        --------
        >>> from py4dstem_prenet.fits import Aperture
        >>> Aperture(8.0, 0.4, (0.0, 0.0), (0.1, 0.02, 0.001)).lean(electrons=2000).contrast
        (0.1, 0.02)
        """
        # Information of the data on a term that is orthonormal on the disk, relative to the information of its prior.
        information = np.square(self.contrast) * electrons
        kept = np.flatnonzero(information / (1 + information) > MIN_DETERMINED_PART)
        return replace(self, contrast=self.contrast[: max(1, kept.max(initial=0) + 1)])

    def binned(self, bins: int) -> Aperture:
        """Return the aperture on patterns binned by `bins`.

        Parameters
        ----------
        bins : int
            Side of a bin in pixels.

        Returns
        -------
        Aperture
            The aperture in units of bins.
        """
        return replace(self, radius=self.radius / bins, blur=max(self.blur / bins, MIN_BLUR_PX),
                       radius_sigma=self.radius_sigma / bins)

    def unbinned(self, bins: int) -> Aperture:
        """Return the aperture on the original patterns; the inverse of `binned`.

        Parameters
        ----------
        bins : int
            Side of a bin in pixels.

        Returns
        -------
        Aperture
            The aperture in units of pixels.
        """
        return replace(self, radius=self.radius * bins, blur=self.blur * bins, radius_sigma=self.radius_sigma * bins)


def monomials(u, v, degree: int) -> torch.Tensor:
    """Compute all monomials of two coordinates.

    Parameters
    ----------
    u, v : torch.Tensor, shape (...)
        Coordinates.
    degree : int
        Highest degree.

    Returns
    -------
    torch.Tensor, shape (..., terms)
        u**(n - k) v**k, by degree n, then by k.
    """
    return torch.stack([u ** (n - k) * v**k for n in range(degree + 1) for k in range(n + 1)], -1)


def unit_disk() -> tuple[torch.Tensor, torch.Tensor]:
    """Fill the unit disk with a square grid of points.

    Returns
    -------
    u, v : torch.Tensor, shape (points,)
        Coordinates, float64.
    """
    axis = torch.linspace(-1, 1, 61, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).view(-1, 2)
    inside = points[points.norm(dim=1) < 1]
    return inside[:, 0], inside[:, 1]


@lru_cache(maxsize=8)
def orthonormal(degree: int) -> torch.Tensor:
    """Compute the matrix from monomials to terms that are orthonormal on the unit disk.

    Parameters
    ----------
    degree : int
        Highest degree.

    Returns
    -------
    torch.Tensor, shape (terms, terms)
        The matrix, float32; triangular, so that a term contains only its own monomial and those before it.
    """
    inside = monomials(*unit_disk(), degree)
    return torch.linalg.inv(torch.linalg.cholesky(inside.T @ inside / len(inside))).T.float()


def disk_terms(u, v, degree: int) -> torch.Tensor:
    """Compute polynomials that are orthonormal on the unit disk.

    Parameters
    ----------
    u, v : torch.Tensor, shape (...)
        Coordinates.
    degree : int
        Highest degree.

    Returns
    -------
    torch.Tensor, shape (..., terms)
        The terms of the contrast, lower degrees first.
    """
    return monomials(u, v, degree) @ orthonormal(degree).to(u.device)


def highest_degree(radius: float) -> int:
    """Choose the highest degree of the contrast that a disk can determine.

    Parameters
    ----------
    radius : float
        Radius of the disk in pixels.

    Returns
    -------
    int
        The degree, 1 to MAX_CONTRAST_DEGREE; there are at most half as many terms as pixels in the disk.

    Examples
    --------
    >>> from py4dstem_prenet.fits.aperture import highest_degree
    >>> [highest_degree(radius) for radius in (1.5, 3.0, 10.0)]
    [1, 3, 6]
    """
    degree = 1
    while degree < MAX_CONTRAST_DEGREE and (degree + 2) * (degree + 3) / 2 <= pi * radius**2 / 2:
        degree += 1
    return degree
