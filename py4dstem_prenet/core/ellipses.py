"""The elliptical distortion of a scan, and of its regions."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from . import Decided, Decision, Result, ellipse_axes


@dataclass(frozen=True, eq=False, repr=False)
class Ellipse(Decided):
    """The elliptical distortion.

    Attributes
    ----------
    a, b, theta : float
        Semi-axes with a b = 1, and the angle of the a axis from +qx toward +qy, radians in [0, pi).
    vector : numpy.ndarray
        (2,), (eps cos 2 theta, eps sin 2 theta) with eps = a/b - 1.
    covariance : numpy.ndarray
        (2, 2), of `vector`.
    decision : Decision
        Accepted if the ellipse can be used.
    sources : dict
        Name of the evidence to (vector, covariance).
    """

    a: float
    b: float
    theta: float
    vector: np.ndarray
    covariance: np.ndarray
    decision: Decision
    sources: dict = field(default_factory=dict)

    @property
    def sigma(self) -> float:
        """Largest standard deviation of `vector` in any direction; NaN if the ellipse was set by hand."""
        if not np.isfinite(self.covariance).all():
            return float("nan")
        return float(np.sqrt(np.linalg.eigvalsh(self.covariance).max()))

    @property
    def angle_sigma(self) -> float:
        """Standard deviation of `theta`, radians; NaN if it is not known or the ellipse is not significant."""
        eps = float(np.hypot(*self.vector))
        if not np.isfinite(self.covariance).all() or not eps > self.sigma:
            return float("nan")
        across = np.array([-self.vector[1], self.vector[0]]) / eps
        return float(0.5 * np.sqrt(across @ self.covariance @ across) / eps)

    @property
    def angle(self) -> str:
        """`theta` in degrees as text; with its standard deviation, if the ellipse was accepted."""
        sigma = np.degrees(self.angle_sigma) if self.accepted else np.nan
        return f"{np.degrees(self.theta):.1f}" + (f" ± {sigma:.1f}°" if np.isfinite(sigma) else "°")

    @property
    def used(self) -> str:
        """Names of the evidence that determined it; empty if it was set or not determined."""
        return next((flag.numbers["sources"] for flag in self.flags if flag.name == "ellipse_determined"), "")

    @property
    def leading(self) -> str:
        """Name of the most precise of the evidence that determined it; empty if none did."""
        used = {name: np.linalg.eigvalsh(covariance).max() for name, (_, covariance) in self.sources.items()
                if name in self.used}
        return min(used, key=lambda name: float(used[name])) if used else ""

    @property
    def ratio(self) -> str:
        """a/b as text; with its standard deviation, if the ellipse was accepted."""
        if not self.accepted:
            return f"{self.a / self.b:.4f} (not accepted)"
        return f"{self.a / self.b:.4f}" + (f" ± {self.sigma:.4f}" if np.isfinite(self.sigma) else
                                             " (no uncertainty stated)")

    def summary_numbers(self) -> dict:
        """Return the numbers for the summary of a report.

        Returns
        -------
        dict
            ratio, sigma, degrees and degrees_sigma.
        """
        return {"ratio": self.a / self.b, "sigma": self.sigma, "degrees": float(np.degrees(self.theta)),
                "degrees_sigma": float(np.degrees(self.angle_sigma))}

    def by_source(self) -> dict[str, Ellipse]:
        """Return the estimate of each kind of evidence.

        Returns
        -------
        dict
            Name of the evidence to an `Ellipse`, which is accepted if it determined this one.
        """
        found = {}
        for name, (vector, covariance) in self.sources.items():
            a, b, theta = ellipse_axes(vector)
            decision = self.decision if name in self.used else Decision(False)
            found[name] = Ellipse(a, b, theta, np.asarray(vector), np.asarray(covariance), decision)
        return found

    def rows(self):
        return [("accepted", "yes" if self.accepted else "no"), ("a/b", self.ratio),
                ("a axis, from +qx toward +qy", self.angle),
                *((f"from {name}", f"a/b {e.ratio} at {e.angle}") for name, e in self.by_source().items()),
                ("flags", self.reason)]


@dataclass(frozen=True, eq=False, repr=False)
class EllipseMap(Result):
    """Ellipses of the regions of a scan.

    Attributes
    ----------
    a, b, theta : numpy.ndarray
        (n, m), semi-axes with a b = 1 and angle in radians; NaN where none was accepted.
    sigma : numpy.ndarray
        (n, m), largest standard deviation of the ellipse vector in any direction; NaN where none was accepted.
    accepted : numpy.ndarray
        (n, m) bool.
    ellipses : list of list of Ellipse
        The results.
    scan : tuple of int
        (Rx, Ry).
    """

    a: np.ndarray
    b: np.ndarray
    theta: np.ndarray
    sigma: np.ndarray
    accepted: np.ndarray
    ellipses: list
    scan: tuple[int, int]

    def at_positions(self) -> np.ndarray:
        """Expand the regions to scan positions.

        Returns
        -------
        numpy.ndarray
            (5, Rx, Ry): a, b, theta, sigma and accepted (1 or 0) of the region of each position.
        """
        rows, columns = (np.arange(n) * m // n for n, m in zip(self.scan, self.a.shape, strict=True))
        maps = np.array([self.a, self.b, self.theta, self.sigma, self.accepted.astype(float)])
        return maps[:, rows[:, None], columns]

    def rows(self):
        count = int(self.accepted.sum())
        shown = [("regions", f"{self.a.shape[0]} x {self.a.shape[1]}, {count} accepted")]
        if count:
            ratio = (self.a / self.b)[self.accepted]
            shown.append(("a/b", f"{ratio.min():.4f} to {ratio.max():.4f}"))
            shown.append(("sigma, median", f"{np.median(self.sigma[self.accepted]):.4f}"))
        return shown
