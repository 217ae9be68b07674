"""The results of the stages. Maps have the scan's shape (Rx, Ry); lengths are detector pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class OriginMap:
    """The measured origin. Maps have the scan's shape (Rx, Ry); lengths are detector pixels.

    qx0, qy0: position, finite wherever a beam is in the data at all. sigma_qx0, sigma_qy0: one standard deviation.
    valid: False where a position shows no beam. radius: of the direct disk, NaN where that is hidden. found: False
    where the scan has no beam; the maps are NaN then. reason: why, in one sentence. feature: what was located,
    "direct beam", or "rings" (their center) where the direct beam is hidden; in real data the two can differ by
    pixels.
    """

    qx0: np.ndarray
    qy0: np.ndarray
    sigma_qx0: np.ndarray
    sigma_qy0: np.ndarray
    valid: np.ndarray
    radius: float
    found: bool
    reason: str
    feature: str = "direct beam"


@dataclass(frozen=True)
class OriginFit:
    """A smooth descan surface. Maps have the scan's shape (Rx, Ry); lengths are detector pixels.

    residual_qx0, residual_qy0: measured less fitted. sigma_qx0, sigma_qy0: of the surface, if positions err each by
    itself; what one specimen does to the disks of all of them is not in it. model: the one chosen.
    accepted: whether the surface describes the positions. reason: sentences about what remains.
    """

    qx0: np.ndarray
    qy0: np.ndarray
    residual_qx0: np.ndarray
    residual_qy0: np.ndarray
    sigma_qx0: np.ndarray
    sigma_qy0: np.ndarray
    model: str
    accepted: bool
    reason: str


@dataclass(frozen=True)
class Ellipse:
    """What is known of the elliptical distortion.

    a, b, theta: axes (a b = 1) and angle, radians. vector (2,) and covariance (2, 2): of the ellipse vector.
    accepted: whether it is fit to be written. reason: why, in a sentence. sources: name to (vector, covariance).
    """

    a: float
    b: float
    theta: float
    vector: np.ndarray
    covariance: np.ndarray
    accepted: bool
    reason: str
    sources: dict


@dataclass(frozen=True)
class EllipseMap:
    """Ellipses of the regions of a scan, (n, m) each: a b = 1, theta in radians; NaN where none was accepted.

    sigma: the largest standard deviation of the ellipse vector in any direction. accepted: bool.
    ellipses: the results, a list of n lists of m. scan: (Rx, Ry).
    """

    a: np.ndarray
    b: np.ndarray
    theta: np.ndarray
    sigma: np.ndarray
    accepted: np.ndarray
    ellipses: list
    scan: tuple[int, int]

    def at_positions(self):
        """(5, Rx, Ry): a, b, theta, sigma and accepted (1 or 0) of the region of each scan position."""
        rows, columns = (np.arange(n) * m // n for n, m in zip(self.scan, self.a.shape, strict=True))
        maps = np.array([self.a, self.b, self.theta, self.sigma, self.accepted.astype(float)])
        return maps[:, rows[:, None], columns]
