"""Pixel size, rotation between scan and pattern, and the probe."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from . import Decided, Decision, Ellipse, Flag, ellipse_axes, has_flag, with_sigma

SHOWN_VOLTAGES = (200e3, 300e3)  # V; acceleration voltages for which a semi-angle is stated


def semi_angle(radius: float, pixel_size, voltage) -> float | None:
    """Compute the convergence semi-angle.

    Parameters
    ----------
    radius : float
        Radius of the direct disk, pixels.
    pixel_size : float or None
        Size of a pixel, 1/angstrom.
    voltage : float or None
        Acceleration voltage, V.

    Returns
    -------
    float or None
        The angle in mrad; None if pixel size or voltage is unknown.

    Notes
    -----
    Relativistic wavelength as in Kirkland, Advanced Computing in Electron Microscopy, eq. 2.5.

    Examples
    --------
    >>> from py4dstem_prenet.core import semi_angle
    >>> round(semi_angle(10.0, 0.02, 200e3), 2)
    5.02
    """
    if pixel_size is None or voltage is None:
        return None
    wavelength = 12.2643 / np.sqrt(voltage * (1 + 0.97845e-6 * voltage))
    return float(1e3 * radius * pixel_size * wavelength)


def kind_of_rings(evidence: str) -> str:
    """Name what the rings of a pixel size are.

    Parameters
    ----------
    evidence : str
        "rings", "disks" or "lattice", see `PixelSize`.

    Returns
    -------
    str
        "reflections" of one crystal, or "rings".

    Examples
    --------
    >>> kind_of_rings("lattice")
    'reflections'
    """
    return "reflections" if evidence == "lattice" else "rings"


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
        Accepted if the pixel size can be used. Numbers: posterior (probability of the assignment), margin
        and lattice_margin (differences of -2 log likelihood to the next assignment and to the best other lattice),
        scatter (relative, of the rings).
    evidence : str
        "rings" of the pooled pattern, "disks" of single patterns, or the "lattice" of one crystal; empty if there is
        none.
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
    beam_radius : float
        Radius of the direct beam, pixels; NaN if it is hidden.
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
    beam_radius: float = np.nan

    @property
    def relative_sigma(self) -> float:
        """Standard deviation relative to the value."""
        return self.sigma / self.value

    @property
    def ellipse(self) -> Ellipse | None:
        """The ellipse that the lattice of one crystal determines, if it can be used."""
        if not has_flag(self.flags, "ellipse_of_crystal"):
            return None
        covariance = self.covariance[1:, 1:]
        sigma = float(np.sqrt(np.linalg.eigvalsh(covariance)[-1]))
        decision = Decision(True, (Flag("ellipse_determined", {"sources": "crystal", "sigma": sigma}),))
        a, b, theta = ellipse_axes(self.vector)
        return Ellipse(a, b, theta, self.vector, covariance, decision, {"crystal": (self.vector, covariance)})

    @property
    def beam_text(self) -> str:
        """Radius of the direct beam in 1/angstrom, and as a semi-angle, by which the pixel size can be checked."""
        angles = " or ".join(f"{semi_angle(self.beam_radius, self.value, volts):.3g} mrad at {volts / 1e3:.0f} kV"
                             for volts in SHOWN_VOLTAGES)
        return f"{self.beam_radius * self.value:.4g} Å⁻¹; a convergent probe then has a semi-angle of {angles}"

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
        size = ("pixel size", f"{self.value:.6f} ± {self.sigma:.6f} Å⁻¹ ({100 * self.relative_sigma:.2g} %)")
        shown = [("accepted", "yes" if self.accepted else "no"), ("standard", self.standard),
                 size if self.accepted else ("best fit, refused", f"{self.value:.6f} Å⁻¹ per pixel; do not use it"),
                 ("from", self.evidence)]
        if self.accepted:
            shown.insert(3, ("in the calibration",
                             "this times sqrt(a/b) of the ellipse, since py4DSTEM's correction divides radii by it"))
        seen = [ring for ring in self.rings if np.isfinite(ring.error)]
        if seen:
            shown.append((f"{kind_of_rings(self.evidence)}, measured less expected", "; ".join(
                f"{ring.names}: {with_sigma(100 * ring.error, 100 * ring.sigma)} %" for ring in seen)))
        if self.accepted and np.isfinite(self.beam_radius):
            shown.append(("radius of the direct beam", self.beam_text))
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

    To convert a vector of the pattern to a vector of the scan, exchange its components if `flip` is set, then rotate it
    by the angle from +x (rows) toward +y (columns). These are py4DSTEM's `QR_rotation_degrees` and `QR_flip`.

    Attributes
    ----------
    degrees : float
        The angle in (-180, 180], degrees; in (-90, 90] if half a turn is not determined.
    flip : bool
        Whether the axes of the pattern are exchanged.
    sigma : float
        One standard deviation of the angle, degrees.
    half_turn_determined : bool
        Whether the angle is distinguished from the angle plus 180 degrees.
    decision : Decision
        Accepted if angle and flip are known.
    sources : dict
        Angle (degrees, up to half a turn), flip and sigma (degrees) of each estimate by its name ("center of mass",
        "shadow image"), refused estimates included.
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
        return {"degrees": self.degrees, "sigma": self.sigma, "flipped": "flipped" if self.flip else "not flipped"}

    @property
    def text(self) -> str:
        """Angle, sigma and flip as text; without sigma if the rotation was refused."""
        half = "" if self.half_turn_determined else " (or half a turn more)"
        flip = "flipped" if self.flip else "not flipped"
        sigma = f" ± {self.sigma:.2f}°" if self.accepted else " (not accepted)"
        return f"{self.degrees:.2f}°{sigma}{half}, {flip}"

    def rows(self):
        return [("accepted", "yes" if self.accepted else "no"), ("rotation", self.text),
                *((f"from the {name}", f"{angle:.2f}°{f' ± {sigma:.2f}°' * self.accepted}{', flipped' * flip}")
                  for name, (angle, flip, sigma) in self.sources.items()),
                ("flags", self.reason)]


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
    radius_sigma : float
        One standard deviation of the radius, pixels; NaN if it is unknown.
    """

    image: np.ndarray
    center: tuple[int, int]
    radius: float
    edge: float
    sigma: float
    positions: int
    semiangle_mrad: float | None
    decision: Decision
    radius_sigma: float = float("nan")

    def rows(self):
        angle = [] if self.semiangle_mrad is None else [("convergence semi-angle", f"{self.semiangle_mrad:.3g} mrad")]
        sigma = f" ± {self.radius_sigma:.2f}" if np.isfinite(self.radius_sigma) else ""
        return [("accepted", "yes" if self.accepted else "no"), ("radius", f"{self.radius:.2f}{sigma} px"),
                ("edge", f"{self.edge:.2f} px"), ("sigma of the center", f"{self.sigma:.3f} px"),
                ("positions", str(self.positions)), *angle, ("flags", self.reason)]
