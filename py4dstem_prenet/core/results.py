"""The results of the stages. Maps have the scan's shape (Rx, Ry); lengths are detector pixels."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field, fields, is_dataclass
from html import escape
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from . import Decision, Flag, conclude, ellipse_axes

if TYPE_CHECKING:
    from . import NoiseModel, Transfer

TEXT_WIDTH = 110  # characters of a line of text
MAX_REPR_LINES = 11  # lines that a console shows of a result; all of them are printed
MIN_SIGMA_PX = 0.01  # pixels, of an origin along each axis: what the scatter of positions cannot show; set on simulated


# scans at 100,000 electrons (benchmarks/origin.py)
class Result:
    """How results are compared and shown: equal if all fields are, a short text, and a small table in notebooks.

    Subclasses are dataclasses made with `eq=False, repr=False`; `rows` says what is shown.
    """

    def rows(self) -> list[tuple[str, str]]:
        """Return what is shown of the result.

        Returns
        -------
        list of tuple
            Pairs of a label and a value, at most ten.
        """
        raise NotImplementedError

    def __eq__(self, other):
        if type(self) is not type(other):
            return NotImplemented
        return all(_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    __hash__ = object.__hash__

    def __str__(self):
        rows = self.rows()
        width = max((len(label) for label, _ in rows), default=0)
        lines = (_wrapped(f"  {label:{width}}  ", value) for label, value in rows)
        return "\n".join([type(self).__name__, *lines])

    def __repr__(self):
        lines = Result.__str__(self).splitlines()
        if len(lines) > MAX_REPR_LINES:
            lines[MAX_REPR_LINES - 1 :] = ["  ... (print it to see the rest)"]
        return "\n".join(lines)

    def _repr_html_(self):
        left = "style='text-align:left'"
        rows = "".join(f"<tr><th {left}>{escape(label)}</th><td {left}>{escape(value)}</td></tr>"
                       for label, value in self.rows())
        return f"<table><caption>{type(self).__name__}</caption><tbody>{rows}</tbody></table>"


def _wrapped(start, text):
    """Text on lines of TEXT_WIDTH characters, the later ones indented as far as the first."""
    return textwrap.fill(text, TEXT_WIDTH, initial_indent=start, subsequent_indent=" " * len(start))


def _equal(a, b):
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        a, b = np.asarray(a), np.asarray(b)
        return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f" == b.dtype.kind))
    if type(a) is type(b) and is_dataclass(a) and not isinstance(a, Result):
        return all(_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float) and np.isnan(a) and np.isnan(b):
        return True
    return bool(a == b)


class Decided(Result):
    """A result with a `decision`."""

    decision: Decision

    @property
    def accepted(self) -> bool:
        """Whether the result is fit to be used."""
        return self.decision.accepted

    @property
    def flags(self) -> tuple[Flag, ...]:
        """What is to be known of the result."""
        return self.decision.flags

    @property
    def reason(self) -> str:
        """The flags as text."""
        return self.decision.text


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
    decision : Decision
        Accepted if the scan has a beam; otherwise the maps are NaN.
    feature : str
        "direct beam"; "rings" (their center) or "center of inversion" if the direct beam is hidden. In measured data
        these can differ by pixels.
    stop : numpy.ndarray of bool or None
        (Qx, Qy), True behind a beam stop that was found although no mask names it; None without such a stop.
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

    @property
    def found(self) -> bool:
        """Whether an origin was accepted: from the direct beam or from rings."""
        return self.decision.accepted

    @property
    def sigma(self) -> float:
        """Typical standard deviation of a position along one axis, pixels; NaN without a beam."""
        sigmas = np.stack([self.sigma_qx0, self.sigma_qy0])[:, self.valid]
        return float(np.median(sigmas)) if sigmas.size else np.nan

    def summary_numbers(self) -> dict:
        """Return the numbers for the summary of a report.

        Returns
        -------
        dict
            feature, count, total, and qx0, qy0 and sigma in pixels.
        """
        qx0, qy0 = (float(np.median(q[self.valid])) for q in (self.qx0, self.qy0))
        feature = "center of the rings" if self.feature == "rings" else self.feature
        return {"feature": feature, "count": int(self.valid.sum()), "total": int(self.valid.size),
                "qx0": qx0, "qy0": qy0, "sigma": self.sigma}

    def rows(self):
        if not self.found:
            return [("found", "no"), ("flags", self.reason)]
        at = [np.median(q[self.valid]) for q in (self.qx0, self.qy0)]
        return [("found", f"{self.feature} at {int(self.valid.sum())} of {self.valid.size} positions"),
                ("origin, median", f"({at[0]:.2f}, {at[1]:.2f}) px"),
                ("sigma of a position, per axis", f"{self.sigma:.2g} px"),
                ("radius of the direct disk", f"{self.radius:.2f} px" if np.isfinite(self.radius) else "unknown"),
                ("flags", self.reason)]


@dataclass(frozen=True)
class ModelTrial:
    """One model of the descan surface, fitted to the measured origin.

    Attributes
    ----------
    model : str
        "constant", "plane", "parabola" or "spline".
    scatter : float
        Robust standard deviation of measured less fitted, pixels along one axis.
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
        (Rx, Ry), measured less fitted, pixels.
    sigma_qx0, sigma_qy0 : numpy.ndarray
        (Rx, Ry), one standard deviation of the surface, pixels, with the errors that many positions share.
    model : str
        The chosen model; of the richest part, if the descan is fitted in parts.
    decision : Decision
        Accepted if the surface describes the positions. Numbers: scatter (px per axis), scale (of the stated sigma),
        shared (px rms), shared_sigmas, outliers (fraction), common (px, the error
        that positions share), uncertainty (px rms).
    trials : tuple of ModelTrial
        The models that were compared.
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

    @property
    def sigma(self) -> float:
        """Standard deviation of the fitted origin along one axis, rms over the scan, pixels."""
        variance = np.stack([self.sigma_qx0, self.sigma_qy0]) ** 2
        return float(np.sqrt(np.nanmean(variance))) if np.isfinite(variance).any() else float("nan")

    def summary_numbers(self) -> dict:
        """Return the numbers for the summary of a report.

        Returns
        -------
        dict
            model; span_x, span_y and sigma in pixels.
        """
        span_x, span_y = (float(np.nanmax(q) - np.nanmin(q)) for q in (self.qx0, self.qy0))  # NaN: not scanned yet
        return {"model": self.model, "span_x": span_x, "span_y": span_y, "sigma": self.sigma}

    def rows(self):
        span = [np.ptp(q[np.isfinite(q)]) if np.isfinite(q).any() else np.nan for q in (self.qx0, self.qy0)]
        rms = [np.sqrt(np.nanmean(r**2)) if np.isfinite(r).any() else np.nan
               for r in (self.residual_qx0, self.residual_qy0)]
        return [("accepted", "yes" if self.accepted else "no"), ("model", self.model),
                ("span", f"({span[0]:.2f}, {span[1]:.2f}) px"), ("residual, rms", f"({rms[0]:.3f}, {rms[1]:.3f}) px"),
                ("flags", self.reason)]


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
        Accepted if the ellipse is fit to be written.
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
        """`theta` with its standard deviation in degrees, as text."""
        sigma = np.degrees(self.angle_sigma)
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
        """a/b with its standard deviation, as text."""
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
            Name of the evidence to an `Ellipse`.
        """
        found = {}
        for name, (vector, covariance) in self.sources.items():
            a, b, theta = ellipse_axes(vector)
            found[name] = Ellipse(a, b, theta, np.asarray(vector), np.asarray(covariance), self.decision)
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


@dataclass(frozen=True)
class Ring:
    """A ring of a standard, or several that blend.

    Attributes
    ----------
    names : str
        Indices, joined by "and".
    g : float
        |g|, 1/angstrom; the mean of rings that blend.
    error, sigma : float
        Relative difference between measured and expected radius, and its standard deviation; NaN if the ring is not
        seen.
    """

    names: str
    g: float
    error: float
    sigma: float


@dataclass(frozen=True, eq=False, repr=False)
class PixelSize(Decided):
    """The pixel size of patterns, from the rings of a standard.

    Attributes
    ----------
    value : float
        1/angstrom per pixel at the center of the pattern, along the geometric mean of the semi-axes of the ellipse.
    sigma : float
        Its standard deviation, 1/angstrom.
    standard : str
        Name of the standard.
    decision : Decision
        Accepted if the pixel size is fit to be written. Numbers: margin and lattice_margin (differences of
        -2 log likelihood to the next assignment and to the best other lattice), scatter (relative, of the rings).
    evidence : str
        "rings" of the pooled pattern, or "disks" of single patterns; empty if there is none.
    hkl : tuple of str
        Indices of each ring on the detector.
    g : numpy.ndarray
        (k,), |g| of each ring, 1/angstrom.
    ring_errors, ring_sigmas : numpy.ndarray
        (k,), relative difference between measured and expected radius, and its standard deviation; NaN where a ring is
        not seen.
    covariance : numpy.ndarray
        (3, 3), of log(value) and the ellipse vector.
    vector : numpy.ndarray
        (2,), ellipse vector that was fitted together with the pixel size.
    barrel, barrel_sigma : float
        Relative change of the radius at `reference`, which grows with the square of the radius; 0 if not significant.
    threefold : numpy.ndarray
        (2,), amplitudes of cos 3 phi and sin 3 phi in the relative change of the radius at `reference`, which grow with
        the radius; 0 if not significant.
    threefold_sigma : float
        Standard deviation of each amplitude.
    reference : float
        Radius to which the distortions refer, pixels.
    profile : numpy.ndarray
        (3, n), radius (pixels), mean of the pattern or density of disks, and its fit, for figures.
    """

    value: float
    sigma: float
    standard: str
    decision: Decision
    evidence: str = ""
    hkl: tuple[str, ...] = ()
    g: np.ndarray = field(default_factory=lambda: np.empty(0))
    ring_errors: np.ndarray = field(default_factory=lambda: np.empty(0))
    ring_sigmas: np.ndarray = field(default_factory=lambda: np.empty(0))
    covariance: np.ndarray = field(default_factory=lambda: np.full((3, 3), np.nan))
    vector: np.ndarray = field(default_factory=lambda: np.zeros(2))
    barrel: float = 0.0
    barrel_sigma: float = np.nan
    threefold: np.ndarray = field(default_factory=lambda: np.zeros(2))
    threefold_sigma: float = np.nan
    reference: float = np.nan
    profile: np.ndarray = field(default_factory=lambda: np.empty((3, 0)))

    @property
    def relative_sigma(self) -> float:
        """Standard deviation relative to the value."""
        return self.sigma / self.value

    @property
    def rings(self) -> list[Ring]:
        """The rings on the detector; those that blend into one are one entry."""
        found: list[Ring] = []
        for name, g, error, sigma in zip(self.hkl, self.g, self.ring_errors, self.ring_sigmas, strict=True):
            last = found[-1] if found else None
            if last is not None and np.isfinite(error) and last.error == error:  # they have a common error
                count = last.names.count(" and ") + 1
                found[-1] = Ring(f"{last.names} and {name}", (last.g * count + float(g)) / (count + 1), last.error,
                                 last.sigma)
            else:
                found.append(Ring(name, float(g), float(error), float(sigma)))
        return found

    @property
    def distorted(self) -> bool:
        """Whether a distortion beyond the ellipse is significant."""
        return bool(self.barrel or self.threefold.any())

    def rows(self):
        if not np.isfinite(self.value):
            return [("accepted", "no"), ("standard", self.standard), ("flags", self.reason)]
        shown = [("accepted", "yes" if self.accepted else "no"), ("standard", self.standard),
                 ("pixel size", f"{self.value:.6f} ± {self.sigma:.6f} Å⁻¹ ({100 * self.relative_sigma:.2g} %)"),
                 ("from", self.evidence)]
        seen = [ring for ring in self.rings if np.isfinite(ring.error)]
        if seen:
            shown.append(("rings, measured less expected", "; ".join(
                f"{ring.names}: {100 * ring.error:+.2f} ± {100 * ring.sigma:.2f} %" for ring in seen)))
        if self.barrel:
            shown.append(("radial distortion", f"{100 * self.barrel:+.2f} ± {100 * self.barrel_sigma:.2f} % at "
                                               f"{self.reference:.0f} px"))
        if self.threefold.any():
            shown.append(("threefold distortion", f"{100 * np.hypot(*self.threefold):.2f} ± "
                          f"{100 * self.threefold_sigma:.2f} % at {self.reference:.0f} px"))
        return [*shown, ("flags", self.reason)]


@dataclass(frozen=True, eq=False, repr=False)
class Rotation(Decided):
    """Rotation and flip between scan and pattern.

    A vector of the pattern, its components exchanged if `flip`, and then rotated by the angle from +x (rows) toward +y
    (columns), is a vector of the scan. These are py4DSTEM's `QR_rotation_degrees` and `QR_flip`.

    Attributes
    ----------
    degrees : float
        The angle in (-180, 180], degrees; in (-90, 90] if half a turn is not determined.
    flip : bool
        Whether the axes of the pattern are exchanged.
    sigma : float
        One standard deviation of the angle, degrees.
    half_turn_determined : bool
        Whether the angle is known beyond half a turn.
    decision : Decision
        Accepted if angle and flip are known.
    sources : dict
        Name of each estimate ("center of mass", "shadow image") to its angle (degrees, up to half a turn), flip and
        sigma (degrees), also of those that were refused.
    deflection : numpy.ndarray or None
        (2, Rx, Ry), center of mass about the fitted origin along qx and qy in pixels, for figures.
    """

    degrees: float
    flip: bool
    sigma: float
    half_turn_determined: bool
    decision: Decision
    sources: dict = field(default_factory=dict)
    deflection: np.ndarray | None = None

    @property
    def radians(self) -> float:
        """The angle in radians, py4DSTEM's `QR_rotation`."""
        return float(np.radians(self.degrees))

    def summary_numbers(self) -> dict:
        """Return the numbers for the summary of a report.

        Returns
        -------
        dict
            degrees, sigma and flipped, a text.
        """
        return {"degrees": self.degrees, "sigma": self.sigma, "flipped": _flipped(self.flip)}

    def rows(self):
        return [("accepted", "yes" if self.accepted else "no"), ("rotation", _turned(self)),
                *((f"from the {name}", f"{angle:.2f}° ± {sigma:.2f}°{', flipped' if flip else ''}")
                  for name, (angle, flip, sigma) in self.sources.items()),
                ("flags", self.reason)]


def _turned(rotation):
    """A rotation as text."""
    half = "" if rotation.half_turn_determined else " (or half a turn more)"
    return f"{rotation.degrees:.2f}° ± {rotation.sigma:.2f}°{half}, {_flipped(rotation.flip)}"


def _flipped(flip):
    return "flipped" if flip else "not flipped"


@dataclass(frozen=True, eq=False, repr=False)
class ProbeImage(Decided):
    """The image of the probe over vacuum.

    Attributes
    ----------
    image : numpy.ndarray
        (Qx, Qy), sum 1, zero away from the disk; zero everywhere if it was refused.
    center : tuple of int
        Pixel of its center, (Qx // 2, Qy // 2).
    radius : float
        Radius of the disk, pixels.
    edge : float
        Width of its edge, pixels, 1 sigma.
    sigma : float
        One standard deviation of the center along either axis, pixels.
    positions : int
        Number of positions whose direct beams were averaged.
    semiangle_mrad : float or None
        Convergence semi-angle, mrad; None if the pixel size or the voltage is unknown.
    decision : Decision
        Accepted if there is an image.
    """

    image: np.ndarray
    center: tuple[int, int]
    radius: float
    edge: float
    sigma: float
    positions: int
    semiangle_mrad: float | None
    decision: Decision

    def rows(self):
        angle = [] if self.semiangle_mrad is None else [("convergence semi-angle", f"{self.semiangle_mrad:.3g} mrad")]
        return [("accepted", "yes" if self.accepted else "no"), ("radius", f"{self.radius:.2f} px"),
                ("edge", f"{self.edge:.2f} px"), ("sigma of the center", f"{self.sigma:.3f} px"),
                ("positions", str(self.positions)), *angle, ("flags", self.reason)]


@dataclass(frozen=True, eq=False, repr=False)
class BraggDisks(Result):
    """Bragg disks of a scan.

    Attributes
    ----------
    table : numpy.ndarray, shape (k,)
        A structured array of `DTYPE`, in the order of the scan, the direct beam first in each pattern: flat position in
        the scan; qx, qy and their sigmas, pixels; intensity of the whole disk above its surroundings and its sigma,
        electrons; significance, standard deviations; probability that it is a disk.
    scan_shape : tuple of int
        (Rx, Ry).
    pattern_shape : tuple of int
        (Qx, Qy).
    threshold : float
        Least significance, standard deviations.
    false_alarm : float
        Mean number of false disks in a pattern above it.
    """

    DTYPE: ClassVar[list] = [("position", np.int64), *((name, np.float64) for name in (
        "qx", "qy", "sigma_qx", "sigma_qy", "intensity", "intensity_sigma", "significance", "probability"))]

    table: np.ndarray
    scan_shape: tuple[int, int]
    pattern_shape: tuple[int, int]
    threshold: float
    false_alarm: float

    def rows(self):
        disks = self.table
        bragg = disks[np.isfinite(disks["significance"])]
        size = int(np.prod(self.scan_shape))
        shown = [("Bragg disks", f"{len(bragg)} in {size} patterns, {len(bragg) / size:.1f} in each"),
                 ("false disks", f"{self.false_alarm:g} in a pattern on average"),
                 ("least significance", f"{self.threshold:.1f} standard deviations")]
        if len(bragg):
            sigma = np.median([bragg["sigma_qx"], bragg["sigma_qy"]])
            shown.append(("sigma of a position, per axis, median", f"{sigma:.2g} px"))
        return shown


@dataclass(frozen=True, eq=False, repr=False)
class CalibrationReport(Result):
    """What was found in a scan, and what was written.

    Attributes
    ----------
    origin : OriginMap
        The measured origin.
    fit : OriginFit or None
        The descan; None if no beam was found.
    ellipse : Ellipse or None
        The elliptical distortion; None if no beam was found.
    noise : NoiseModel or None
        The detector's noise; None if nothing was learned yet.
    written : tuple of Flag
        What was written into the calibration, and what was not.
    pixel_size : PixelSize or None
        The pixel size; None if no standard was named.
    rotation : Rotation or None
        Rotation and flip between scan and pattern; None if they were not measured.
    transfer : Transfer or None
        What was carried over from a standard; None if none was given.
    held : dict
        "ellipse", "pixel_size" and "rotation" to the numbers that the calibration holds after writing
        (`io.held_quantities`).
    """

    origin: OriginMap
    fit: OriginFit | None
    ellipse: Ellipse | None
    noise: NoiseModel | None
    written: tuple[Flag, ...] = ()
    pixel_size: PixelSize | None = None
    rotation: Rotation | None = None
    transfer: Transfer | None = None
    held: dict = field(default_factory=dict)

    @property
    def flags(self) -> tuple[Flag, ...]:
        """The flags of all stages, in their order."""
        stages = (self.noise, self.origin, self.fit, self.ellipse, self.pixel_size, self.rotation, self.transfer)
        bad_pixels = () if self.noise is None else self.noise.bad_pixel_flags
        return (*bad_pixels, *(flag for stage in stages if stage is not None for flag in stage.flags), *self.written)

    @property
    def summary(self) -> tuple[Flag, ...]:
        """The first paragraph: what was found, how sure, what to do next, and what not to do."""
        if not self.origin.found:
            return conclude({}, self.flags)
        carried = self.transfer
        found = {"origin": self.origin.summary_numbers()}
        if self.fit is not None and self.fit.accepted:
            found["descan"] = self.fit.summary_numbers()
        ellipse = self.ellipse if carried is None or carried.ellipse is None else carried.ellipse
        if ellipse is not None and ellipse.accepted:
            found["ellipse"] = ellipse.summary_numbers()
        found |= self.held
        size, turned = self.pixel_size, self.rotation
        if size is not None and size.accepted:
            found["pixel_size"] = {"value": size.value, "sigma": size.sigma, "unit": "Å⁻¹"}
        elif "pixel_size" not in found and carried is not None and carried.pixel_size is not None:
            value, unit = carried.pixel_size
            sigma = carried.facts["pixel_size"].get("sigma")
            found["pixel_size"] = {"value": value, "sigma": np.nan if sigma is None else sigma, "unit": unit}
        if turned is not None and turned.accepted:
            found["rotation"] = turned.summary_numbers()
        elif "rotation" not in found and carried is not None and carried.rotation is not None:
            sigma = carried.facts["rotation"].get("sigma")
            found["rotation"] = {"degrees": float(np.degrees(carried.rotation[0])), "flipped": _flipped(
                carried.rotation[1]), "sigma": np.nan if sigma is None else sigma}
        return conclude(found, self.flags)

    def rows(self):
        shown = []
        if self.noise is not None:
            shown.append(("detector", self.noise.summary))
        if self.origin.found:
            at = [np.nanmedian(q) for q in (self.origin.qx0, self.origin.qy0)]
            shown.append(("origin", f"({at[0]:.2f}, {at[1]:.2f}) px, sigma of a position {self.origin.sigma:.2g} px "
                                    f"per axis, the {self.origin.feature}"))
        if self.fit is not None:
            rows = dict(self.fit.rows())
            accepted = "" if self.fit.accepted else "refused; "
            shown.append(("descan", f"{accepted}{self.fit.model}, span {rows['span']}, residual "
                                    f"{rows['residual, rms']}"))
        if self.ellipse is not None:
            e = self.ellipse
            shown.append(("ellipse", f"a/b {e.ratio} at {e.angle}"
                          if e.accepted else "not determined"))
        if self.pixel_size is not None:
            p = self.pixel_size
            shown.append(("pixel size", f"{p.value:.6f} ± {p.sigma:.6f} Å⁻¹, from {p.standard}"
                          if p.accepted else f"not determined from {p.standard}"))
        if self.rotation is not None:
            shown.append(("rotation", _turned(self.rotation) if self.rotation.accepted else "not determined"))
        if self.transfer is not None:
            shown.append(("carried over", self.transfer.summary))
        warnings = [flag.sentence for flag in self.flags if flag.severity != "info"]
        count = min(4, MAX_REPR_LINES - 2 - len(shown))
        shown += [("warning", sentence) for sentence in warnings[:count]]
        if len(warnings) > count:
            shown.append(("", f"{len(warnings) - count} more: see print(report)"))
        return shown

    def __str__(self):
        lines = ["Calibration by py4dstem_prenet", "", _wrapped("", " ".join(f.sentence for f in self.summary)), ""]
        for title, stage in (("Detector", self.noise), ("Origin", self.origin), ("Descan", self.fit),
                             ("Ellipse", self.ellipse), ("Pixel size", self.pixel_size), ("Rotation", self.rotation),
                             ("Standard", self.transfer)):
            if stage is None:
                continue
            shown = [(label, value) for label, value in stage.rows() if label not in ("flag", "flags")]
            flags = (*(stage.bad_pixel_flags if stage is self.noise else ()), *stage.flags)
            lines += [title, *(f"  {label}: {value}" for label, value in shown),
                      *(_wrapped(f"  {_MARKS[flag.severity]} ", str(flag)) for flag in flags), ""]
        return "\n".join([*lines, *(_wrapped(f"{_MARKS[f.severity]} ", str(f)) for f in self.written)]).rstrip()


_MARKS = {"info": "-", "warning": "!", "refusal": "x"}
