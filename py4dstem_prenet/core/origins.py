"""The measured origin and the fit of the descan. Maps have the shape of the scan (Rx, Ry); lengths are pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import CENTERS, Decided, Decision, Flag

# Fraction of the radius; smallest standard error of the radius of the direct disk, limited by contrast inside the disk.
# Set on simulated scans of 300 to 30,000 electrons (benchmarks/sigma.py).
MIN_RADIUS_SIGMA = 0.007
MAX_FEW_MISSING = 0.01  # fraction of positions without a beam, above which their flag is a warning


def missing_beam(missing: int, total: int) -> Flag:
    """Convert the number of positions without a beam to a flag.

    Parameters
    ----------
    missing, total : int
        Number of positions that show no beam, and of those that were searched.

    Returns
    -------
    Flag
        "beam_found", "beam_missing_few" or "beam_missing".

    Examples
    --------
    >>> missing_beam(0, 36).name, missing_beam(1, 1408).severity, missing_beam(3, 36).severity
    ('beam_found', 'info', 'warning')
    """
    if not missing:
        return Flag("beam_found")
    numbers = {"count": missing, "total": total}
    return Flag("beam_missing", numbers) if missing > MAX_FEW_MISSING * total else Flag("beam_missing_few", numbers)


@dataclass(frozen=True, eq=False, repr=False)
class OriginMap(Decided):
    """The measured origin.

    Attributes
    ----------
    qx0, qy0 : numpy.ndarray
        (Rx, Ry), position of the origin in pixels, finite wherever the scan has a beam at all.
    sigma_qx0, sigma_qy0 : numpy.ndarray
        (Rx, Ry), one standard deviation, pixels.
    valid : numpy.ndarray
        (Rx, Ry) bool, False where a position shows no beam.
    radius : float
        Radius of the direct disk, pixels; NaN if the direct beam is hidden.
    radius_sigma : float
        One standard deviation of the radius, pixels; NaN if it is unknown.
    decision : Decision
        Accepted if the scan has a beam; otherwise the maps are NaN. Numbers: searched, the number of positions that
        were searched (absent: all).
    feature : str
        "direct beam"; "rings" (their center), "center of inversion" or "diffuse scattering" (its center) if the direct
        beam is hidden. In measured data these can differ by pixels.
    stop : numpy.ndarray of bool or None
        (Qx, Qy), True behind a beam stop that was found but is not in the mask; None without such a stop.
    copied : numpy.ndarray of bool or None
        (Rx, Ry), True for frames that are exact copies of the frame before; None without any.
    """

    qx0: np.ndarray
    qy0: np.ndarray
    sigma_qx0: np.ndarray
    sigma_qy0: np.ndarray
    valid: np.ndarray
    radius: float
    decision: Decision
    feature: str = "direct beam"
    stop: np.ndarray | None = None
    copied: np.ndarray | None = None
    radius_sigma: float = float("nan")

    @property
    def found(self) -> bool:
        """Whether an origin was accepted: from the direct beam or from rings."""
        return self.decision.accepted

    @property
    def sigma(self) -> float:
        """Typical standard deviation of a position along one axis, pixels; NaN without a beam."""
        sigmas = np.stack([self.sigma_qx0, self.sigma_qy0])[:, self.valid]
        return float(np.median(sigmas)) if sigmas.size else np.nan

    @property
    def high_sigma(self) -> float:
        """Standard deviation along one axis that 95 % of the positions do not exceed, pixels; NaN without a beam."""
        sigmas = np.maximum(self.sigma_qx0, self.sigma_qy0)[self.valid]
        return float(np.quantile(sigmas, 0.95)) if sigmas.size else np.nan

    @property
    def searched(self) -> int:
        """Number of positions in which the beam was searched: fewer than the scan has if a region was calibrated."""
        return int(self.decision.numbers.get("searched", self.valid.size))

    @property
    def radius_text(self) -> str:
        """Radius of the direct disk with its sigma, as text."""
        if not np.isfinite(self.radius):
            return "unknown"
        if not np.isfinite(self.radius_sigma):
            return f"{self.radius:.2f} px, sigma unknown"
        return f"{self.radius:.3f} ± {self.radius_sigma:.3f} px"

    def summary_numbers(self) -> dict:
        """Return the numbers for the summary of a report.

        Returns
        -------
        dict
            feature, count, total, and qx0, qy0, sigma and high (`high_sigma`) in pixels.
        """
        qx0, qy0 = (float(np.median(q[self.valid])) for q in (self.qx0, self.qy0))
        return {"feature": CENTERS.get(self.feature, self.feature), "count": int(self.valid.sum()),
                "total": self.searched, "qx0": qx0, "qy0": qy0, "sigma": self.sigma, "high": self.high_sigma}

    def rows(self):
        if not self.found:
            return [("found", "no"), ("flags", self.reason)]
        at = [np.median(q[self.valid]) for q in (self.qx0, self.qy0)]
        return [("found", f"{self.feature} at {int(self.valid.sum())} of {self.searched} positions"),
                ("origin, median", f"({at[0]:.2f}, {at[1]:.2f}) px"),
                ("sigma of a position, per axis", f"{self.sigma:.2g} px (median; 95 % of the positions: at most "
                                                  f"{self.high_sigma:.2g} px)"),
                ("radius of the direct disk", self.radius_text),
                ("flags", self.reason)]


@dataclass(frozen=True)
class ModelTrial:
    """One model of the descan surface, fitted to the measured origin.

    Attributes
    ----------
    model : str
        "constant", "plane", "parabola" or "spline".
    scatter : float
        Robust standard deviation of the measured minus the fitted origin along one axis, pixels.
    distance : float
        RMS distance of its surface from the chosen one, pixels.
    determined : bool
        Whether the positions determine the model.
    chosen : bool
        Whether held-out residuals chose it.
    """

    model: str
    scatter: float
    distance: float
    determined: bool
    chosen: bool


@dataclass(frozen=True, eq=False, repr=False)
class OriginFit(Decided):
    """A smooth descan surface.

    Attributes
    ----------
    qx0, qy0 : numpy.ndarray
        (Rx, Ry), the fitted origin, pixels.
    residual_qx0, residual_qy0 : numpy.ndarray
        (Rx, Ry), measured minus fitted origin, pixels; NaN where no origin was measured.
    sigma_qx0, sigma_qy0 : numpy.ndarray
        (Rx, Ry), one standard deviation of the surface, pixels, with the errors that many positions share.
    model : str
        The chosen model; the most complex one of all parts, if the descan is fitted in parts.
    decision : Decision
        Accepted if the surface describes the positions. Numbers: scatter (px per axis), scale (of the stated sigma),
        shared (px rms), shared_sigmas, outliers (fraction), common (px, the error that positions share), uncertainty
        (px per axis, rms over the measured positions).
    trials : tuple of ModelTrial
        The models that were compared.
    taken : tuple of float or None
        How much the fit correlates neighboring residuals, as for `check_residuals`.
    """

    qx0: np.ndarray
    qy0: np.ndarray
    residual_qx0: np.ndarray
    residual_qy0: np.ndarray
    sigma_qx0: np.ndarray
    sigma_qy0: np.ndarray
    model: str
    decision: Decision
    trials: tuple[ModelTrial, ...] = ()
    taken: tuple[float, ...] | None = None

    @property
    def sigma(self) -> float:
        """Standard deviation of the fitted origin along one axis, rms over the measured positions, pixels."""
        measured = np.isfinite(self.residual_qx0)
        variance = np.stack([self.sigma_qx0, self.sigma_qy0])[:, measured] ** 2
        return float(np.sqrt(np.nanmean(variance))) if np.isfinite(variance).any() else float("nan")

    @property
    def span(self) -> tuple[float, float]:
        """Range of the fitted origin along qx and qy, pixels, without displaced rows and columns."""
        smooth = np.isfinite(self.qx0) & np.isfinite(self.qy0)  # NaN: not scanned yet
        for flag in self.decision.flags:
            if flag.name == "lines_elsewhere":
                smooth[flag.numbers["rows"], :] = False
                smooth[:, flag.numbers["columns"]] = False
        if not smooth.any():
            return float("nan"), float("nan")
        return float(np.ptp(self.qx0[smooth])), float(np.ptp(self.qy0[smooth]))

    def summary_numbers(self) -> dict:
        """Return the numbers for the summary of a report.

        Returns
        -------
        dict
            model; span_x, span_y and sigma in pixels.
        """
        return {"model": self.model, "span_x": self.span[0], "span_y": self.span[1], "sigma": self.sigma}

    def rows(self):
        rms = [np.sqrt(np.nanmean(r**2)) if np.isfinite(r).any() else np.nan
               for r in (self.residual_qx0, self.residual_qy0)]
        return [("accepted", "yes" if self.accepted else "no"), ("model", self.model),
                ("span", "({:.2f}, {:.2f}) px".format(*self.span)),
                ("residual, rms", f"({rms[0]:.3f}, {rms[1]:.3f}) px"), ("flags", self.reason)]
