"""The results of checks of a calibration, of denoising and of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import Decided, Decision, Slope


@dataclass(frozen=True, eq=False, repr=False)
class OriginCheck(Decided):
    """Precision of the measured origin, from two halves of a scan's electrons.

    Attributes
    ----------
    scatter : float
        RMS difference between the halves along each axis over sqrt(2), pixels: the precision at half the dose.
    ratio, ratio_sigma : float
        Scatter over the stated sigma, and its standard error. Below 1 if sigma includes errors that both halves share.
    positions : int
        Number of positions that show a beam in both halves.
    decision : Decision
        Accepted if sigma is not understated by more than a third.
    """

    scatter: float
    ratio: float
    ratio_sigma: float
    positions: int
    decision: Decision

    def rows(self):
        """List the results for display.

        Returns
        -------
        list of tuple of str
            Name and value of each.
        """
        return [("accepted", "yes" if self.accepted else "no"), ("positions", str(self.positions)),
                ("scatter at half the dose", f"{self.scatter:.3f} px"),
                ("scatter over stated sigma", f"{self.ratio:.2f} ± {self.ratio_sigma:.2f}"), ("flags", self.reason)]


@dataclass(frozen=True, eq=False, repr=False)
class EllipseCheck(Decided):
    """Agreement of the ellipses of two halves of a scan's electrons.

    Attributes
    ----------
    difference : float
        Length of the difference of the two ellipse vectors, a difference in a/b; NaN if it was not checked.
    chi2 : float
        Chi square of the difference for the stated covariances, with two degrees of freedom.
    positions : int
        Number of positions that were split.
    decision : Decision
        Accepted if chance exceeds this chi square in more than one check in a thousand.
    """

    difference: float
    chi2: float
    positions: int
    decision: Decision

    def rows(self):
        """List the results for display.

        Returns
        -------
        list of tuple of str
            Name and value of each.
        """
        return [("accepted", "yes" if self.accepted else "no"), ("positions", str(self.positions)),
                ("difference in a/b", f"{self.difference:.4f}"), ("flags", self.reason)]


@dataclass(frozen=True, eq=False, repr=False)
class DenoisingCheck(Decided):
    """Signal that denoising keeps, and its effect on the squared error, measured on the scan's own counts.

    Attributes
    ----------
    slopes : dict
        `Slope` of each quantity by its name ("strain along qx", "rotation", "dark-field image", ...): the part of its
        variation over the scan that is left in denoised patterns.
    worth, worth_sigma : float
        Number of raw patterns whose average has the same squared error of pixels, at the dose of the scan, and its
        standard error. It describes single pixels, not strain. It is at most the number of patterns in a block, which
        are averaged; NaN if the standard error is half of it or more.
    worth_at_half : float
        The same number at half the dose, as measured.
    errors, error_sigmas : dict
        "raw", "denoised", "gaussian" and "svd" to the squared error relative to that of the raw counts, at half the
        dose, and its standard error.
    deviances : dict
        The same keys to the Poisson deviance per pixel of the held-out half.
    sigma : float
        Width of the best Gaussian, pixels.
    rank : int
        Rank of the best truncated SVD.
    positions : int
        Number of positions that were split.
    valid : bool
        Whether the noise is independent between pixels; otherwise there are no results.
    decision : Decision
        Accepted if no slope is known to differ from 1 by more than 5 %, and the squared error at half the dose
        decreases by more than two standard errors. If slopes could not be measured, a flag names them.
    mode : str
        Default mode of `denoise`: "neighbors", "alone", or "unchanged"; empty without results.
    """

    slopes: dict[str, Slope]
    worth: float
    worth_sigma: float
    worth_at_half: float
    errors: dict[str, float]
    error_sigmas: dict[str, float]
    deviances: dict[str, float]
    sigma: float
    rank: int
    positions: int
    valid: bool
    decision: Decision
    mode: str = ""

    def rows(self):
        """List the results for display.

        Returns
        -------
        list of tuple of str
            Name and value of each.
        """
        names = {"denoised": "denoised", "gaussian": f"best Gaussian ({self.sigma:g} px)",
                 "svd": f"best truncated SVD (rank {self.rank})"}
        measured = [(f"slope, {name}", f"{slope} ({slope.status})")
                    for name, slope in self.slopes.items() if np.isfinite(slope.value)]
        worth = [("worth for the squared error of pixels", f"{self.worth:.2g} ± {self.worth_sigma:.1g} raw patterns")]
        errors = [(f"squared error, {names[key]}", f"{error:#.2g} ± {self.error_sigmas[key]:.1g} of raw")
                  for key, error in self.errors.items() if key in names]
        return [*measured, *errors, *(worth if np.isfinite(self.worth) else ()),
                ("positions", f"{self.positions}, at half the dose"), ("flags", self.reason)]


@dataclass(frozen=True, eq=False, repr=False)
class FinetuneResult(Decided):
    """Result of fine-tuning, and whether it improved the denoiser.

    Attributes
    ----------
    path : pathlib.Path or None
        The new weights; None if none were written.
    gain, gain_sigma : float
        Decrease of the Poisson deviance of held-out electrons per pixel, and its standard error.
    error, error_sigma : float
        Change of the squared error, as a fraction of that of the raw counts, and its standard error. Negative values
        are an improvement.
    steps : int
        Number of training steps.
    decision : Decision
        Accepted if new weights were written.
    """

    path: Path | None
    gain: float
    gain_sigma: float
    error: float
    error_sigma: float
    steps: int
    decision: Decision

    def rows(self):
        return [("accepted", "yes" if self.accepted else "no"), ("weights", str(self.path or "not written")),
                ("flags", self.reason)]


@dataclass(frozen=True, eq=False, repr=False)
class CalibrationCheck(Decided):
    """Check that a calibration belongs to the data in the same file.

    Attributes
    ----------
    stale : tuple of str
        Names of the entries that do not belong to the data ("origin", "sigma", "probe radius", "braggvectors", ...).
    decision : Decision
        Accepted if nothing is stale.
    """

    stale: tuple[str, ...]
    decision: Decision

    @property
    def current(self) -> bool:
        """Whether all of the calibration belongs to the data.

        Returns
        -------
        bool
            False if anything is stale.
        """
        return not self.stale

    def rows(self):
        return [("current", "yes" if self.current else "no"), *(("flag", str(flag)) for flag in self.flags[:8])]
