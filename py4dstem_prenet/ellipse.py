"""The elliptical distortion of a scan: pooled, looked at by a network, refined, and refused where it cannot be told.

The ellipse belongs to the microscope, so the whole scan is pooled about its fitted origin. Two kinds of evidence are
weighed: everything outside the direct beam (rings and halos, or the many grains of a powder), and the shape of the
direct beam itself, which supposes a round aperture. Each comes from a network on polar maps that starts a refinement
on the full-resolution pool. One crystal's lattice cannot tell strain from distortion, so spots alone never count.

`a`, `b`, `theta` are py4DSTEM's: theta in radians from +qx (rows) toward +qy (columns) to the `a` axis, in [0, pi).
Only a / b matters to py4DSTEM; here a b = 1. The vector is (eps cos 2theta, eps sin 2theta) with eps = a / b - 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import chi2 as chi2_law

from . import batches
from .disk_fit import fit_disk
from .errors import PrenetError
from .networks.ellipse import AZIMUTHS, DISK_SPAN, RADII, RINGS_FROM, normalize_polar
from .networks.weights import load, pick_device
from .noise import NoiseModel, stabilize
from .polar import ellipse_axes, to_polar
from .pooling import Pooled, pool
from .ring_fit import refine_rings

SIGMA_ACCEPTED = 0.006  # a component of the ellipse vector must be known better than this
CONTINUOUS = 0.35  # part of the azimuth that must carry the rings' signal
WHOLE = 0.7  # part from which rings stand against the direct beam's shape
SPOT = 0.4  # edge width of the direct beam, in radii, from which it shows no aperture


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


def measure_ellipse(data, qx0, qy0, radius: float, noise: NoiseModel, valid=None, device="auto",
                    progress=True) -> Ellipse:
    """Measure the elliptical distortion of a scan about its origin.

    Args:
        data: a DataCube or array-like (Rx, Ry, Qx, Qy).
        qx0, qy0: origin in pixels, (Rx, Ry). radius: of the direct disk, pixels.
        noise: the detector's noise model. valid: (Rx, Ry) bool, positions to use.

    Raises:
        PrenetError: no position to pool, a radius that is not positive, no weights.
    """
    batches.check(data)
    network = load("ellipse", pick_device(device))
    pooled = pool(data, qx0, qy0, noise, valid=valid, progress="ellipse" if progress else None)
    return judge(network, pooled, radius, noise)


def judge(network, pooled: Pooled, radius: float, noise: NoiseModel) -> Ellipse:
    """Weigh the evidence in pooled patterns."""
    seen = look(network, pooled, radius, noise)
    disk = fit_disk(pooled, radius, start_vector=seen["disk"][0])
    sources, notes, continuity = {}, [], 0.0
    # Where the edge is as wide as the disk there is a spot, not the image of an aperture.
    if np.isfinite(disk.vector).all() and disk.edge < SPOT * disk.radius:
        sources["direct beam"] = (disk.vector, disk.covariance)
    if usable_radius(pooled) > 2 * radius + 14:
        rings = refine_rings(pooled, start_vector=seen["rings"][0])
        continuity = rings.continuity
        if continuity >= CONTINUOUS and rings.improved:
            sources["rings"] = (rings.vector, rings.covariance)
            apart = np.subtract(rings.center, disk.center)
            sigma = np.sqrt(np.diag(rings.center_covariance) + 0.05**2)
            if (np.abs(apart) > 3 * sigma).any() and np.hypot(*apart) > 0.3:
                notes.append(f"the rings' center lies ({apart[0]:+.2f}, {apart[1]:+.2f}) px from the direct beam, "
                             "which is the origin that is reported")
    return _decide(sources, notes, continuity)


def _decide(sources, notes, continuity) -> Ellipse:
    if not sources:
        unknown = np.diag([1.0, 1.0])
        return Ellipse(1.0, 1.0, 0.0, np.zeros(2), unknown, False,
                       "not determined: neither rings nor the image of a round aperture can be seen", {})
    used = dict(sources)
    vector, covariance, agree, chi2 = combine(used)
    if not agree and continuity >= WHOLE and _sigma(sources["rings"][1]) < SIGMA_ACCEPTED:
        # Rings are what distortion is seen in; the direct beam's shape rests on the aperture being round.
        notes = [*notes, f"the direct beam's shape disagrees by {np.sqrt(chi2):.1f} sigma (is the aperture round?) and "
                         "was left out"]
        used = {"rings": sources["rings"]}
        vector, covariance, agree, chi2 = combine(used)
    a, b, theta = ellipse_axes(vector)
    names, sigma = " and ".join(used), _sigma(covariance)
    if not agree:
        verdict, accepted = f"refused: {names} disagree by {np.sqrt(chi2):.1f} sigma", False
    elif not sigma < SIGMA_ACCEPTED:
        lone = "" if "rings" in sources else "; one crystal's lattice cannot tell strain from distortion"
        verdict, accepted = f"not determined: the axis ratio is uncertain by {sigma:.3f}{lone}", False
    else:
        verdict, accepted = f"accepted, from {names}", True
    return Ellipse(a, b, theta, vector, covariance, accepted, "; ".join([verdict, *notes]), sources)


def combine(sources):
    """Join estimates by inverse covariance.

    Args:
        sources: dict name -> (vector (2,), covariance (2, 2)).

    Returns: (vector, covariance, agree, chi2). `agree`: chi2 of the sources about their mean, with 2 (n - 1)
    degrees of freedom, is one that chance exceeds in more than one case in a thousand. Where chi2 exceeds its
    degrees of freedom the covariance is scaled up by their ratio.
    """
    if not sources:
        raise PrenetError("There is no ellipse estimate to combine.")
    vectors = [np.asarray(v, float) for v, _ in sources.values()]
    precisions = [np.linalg.inv(np.asarray(c, float)) for _, c in sources.values()]
    covariance = np.linalg.inv(np.sum(precisions, 0))
    vector = covariance @ np.sum([p @ v for p, v in zip(precisions, vectors, strict=True)], 0)
    chi2 = float(sum((v - vector) @ p @ (v - vector) for p, v in zip(precisions, vectors, strict=True)))
    freedom = 2 * (len(vectors) - 1)
    if not freedom:
        return vector, covariance, True, 0.0
    return vector, covariance * max(1.0, chi2 / freedom), bool(chi2 < chi2_law.ppf(0.999, freedom)), chi2


def _sigma(covariance) -> float:
    """The largest standard deviation in any direction."""
    return float(np.sqrt(np.linalg.eigvalsh(covariance).max()))


def usable_radius(pooled: Pooled) -> float:
    """The radius, in pixels, out to which half of the azimuth was seen."""
    shape, center = pooled.weight.shape, np.asarray(pooled.center)
    corners = np.array([[x, y] for x in (0, shape[0] - 1) for y in (0, shape[1] - 1)])
    radii = np.arange(1.0, np.linalg.norm(corners - center, axis=1).max())
    _, weight = to_polar(pooled.weight, center, radii, AZIMUTHS, weight=pooled.weight)
    covered = (weight > 0).mean(0) >= 0.5
    return float(radii[covered][-1]) if covered.any() else 0.0


def look(network, pooled: Pooled, radius: float, noise: NoiseModel) -> dict:
    """What the network says of "rings" and "disk": (vector (2,), sigma)."""
    counts = np.clip(pooled.mean * pooled.weight, 0, None)
    z = stabilize(counts, noise.readout / noise.gain * np.sqrt(pooled.weight)).astype(np.float32)
    device = next(network.parameters()).device
    maps = {}
    for name, count in RADII.items():
        first, last = ((RINGS_FROM * radius, max(usable_radius(pooled), 2.2 * radius)) if name == "rings" else
                       (DISK_SPAN[0] * radius, DISK_SPAN[1] * radius))
        polar, weight = to_polar(z, pooled.center, np.linspace(first, last, count), AZIMUTHS, weight=pooled.weight)
        usable = torch.from_numpy((weight > 0).astype(np.float32))[None]
        maps[name] = normalize_polar(torch.from_numpy(polar.astype(np.float32))[None], usable).to(device)
    with torch.inference_mode():
        return {name: (vector[0].cpu().numpy().astype(float), float(log_sigma[0].exp()))
                for name, (vector, log_sigma) in network(**maps).items()}
