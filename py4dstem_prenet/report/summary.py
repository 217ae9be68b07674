"""What the command line tells machines: results as dicts of numbers, strings and lists, ready for JSON.

Lengths are in detector pixels, angles in radians; unknown values are None. Maps are only in the saved file.
"""

from __future__ import annotations

import json
import platform

import numpy as np

from .._version import __version__
from ..io import PROBE
from .verdicts import overall

PACKAGES = ("py4DSTEM", "emdfile", "numpy", "torch")


def of_calibration(report) -> dict:
    """Return a `CalibrationReport` as plain data.

    Parameters
    ----------
    report : CalibrationReport
        The report.

    Returns
    -------
    dict
        found, detector, origin, descan, ellipse, pixel_size, rotation, transfer (None if there is none), and flags
        (`Flag.to_json` of each).
    """
    origin, fit, e, noise = report.origin, report.fit, report.ellipse, report.noise
    data = {
        "found": bool(origin.found),
        "detector": {"gain": noise.gain, "offset": noise.offset, "readout": noise.readout, "counting": noise.counting,
                     "electrons": noise.dose, "bad_pixels": int(noise.bad_pixels.sum())},
        "origin": None, "descan": None, "ellipse": None, "pixel_size": None, "rotation": None, "transfer": None,
        "flags": [flag.to_json() for flag in report.flags],
    }
    if origin.found:
        data["origin"] = {"qx0": float(np.nanmedian(origin.qx0)), "qy0": float(np.nanmedian(origin.qy0)),
                          "sigma": origin.sigma, "high_sigma": origin.high_sigma, "radius": float(origin.radius),
                          "radius_sigma": origin.radius_sigma, "feature": origin.feature,
                          "valid": int(origin.valid.sum()), "positions": origin.searched}
    if fit is not None:
        data["descan"] = {"model": fit.model, "accepted": bool(fit.accepted),
                          "span": list(fit.span),
                          "residual_rms": [float(np.sqrt(np.nanmean(r[origin.valid] ** 2)))
                                           for r in (fit.residual_qx0, fit.residual_qy0)], **fit.decision.numbers}
    if e is not None:
        data["ellipse"] = _ellipse(e) | {"accepted": bool(e.accepted), "in_calibration": report.held.get("ellipse")}
    size = report.pixel_size
    if size is not None:
        data["pixel_size"] = {
            "value": size.value, "sigma": size.sigma, "unit": "A^-1",
            "in_calibration": report.held.get("pixel_size", {}).get("value"), "standard": size.standard,
            "accepted": bool(size.accepted), "evidence": size.evidence, "barrel": size.barrel,
            "ellipse": None if size.ellipse is None else _ellipse(size.ellipse),
            "threefold": [float(v) for v in size.threefold], "reference": size.reference,
            "rings": [{"hkl": ring.names, "g": ring.g, "error": ring.error, "sigma": ring.sigma}
                      for ring in size.rings], **size.decision.numbers}
    r = report.rotation
    if r is not None:
        data["rotation"] = {"degrees": r.degrees, "flip": r.flip, "sigma": r.sigma, "accepted": bool(r.accepted),
                            "half_turn_determined": r.half_turn_determined}
    if report.transfer is not None:
        t = report.transfer
        data["transfer"] = {
            "source": t.source, "sha256": t.sha256, "binning": t.binning, "accepted": bool(t.accepted),
            "quantities": list(t.quantities), "pixel_size": None if t.pixel_size is None else list(t.pixel_size),
            "rotation": None if t.rotation is None else list(t.rotation),
            "ellipse": None if t.ellipse is None else [t.ellipse.a, t.ellipse.b, t.ellipse.theta]}
    return _finite(data)


def of_probe(probe) -> dict:
    """Return a probe as plain data.

    Parameters
    ----------
    probe : py4DSTEM.Probe
        What `datacube.prenet.probe` returned.

    Returns
    -------
    dict
        accepted, center (row and column of its image), radius, edge, sigma, positions, semiangle_mrad, and flags
        (names with their numbers).
    """
    measured = json.loads(probe.metadata[PROBE]["json"])
    decision = measured.pop("decision")
    measured.pop("image")
    return _finite({"accepted": decision["accepted"], **measured, "flags": decision["flags"]})


def of_verdicts(verdicts) -> dict:
    """Return verdicts as plain data.

    Parameters
    ----------
    verdicts : list of Verdict
        The verdicts of a report.

    Returns
    -------
    dict
        light and answer of them all, and verdicts: topic, question, light, answer and flags of each.
    """
    total = overall(verdicts)
    return _finite({"light": total.light, "answer": total.answer, "verdicts": [
        {"topic": v.topic, "question": v.question, "light": v.light, "answer": v.answer,
         "flags": [flag.to_json() for flag in v.flags]} for v in verdicts]})


def of_versions() -> dict:
    """Return the versions of this installation.

    Returns
    -------
    dict
        Versions by package, python, platform and device.
    """
    from importlib.metadata import version

    import torch

    on_cpu = f"CPU, {torch.get_num_threads()} threads"
    return {"py4dstem_prenet": __version__, **{name: version(name) for name in PACKAGES},
            "python": platform.python_version(), "platform": platform.platform(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else on_cpu}


def _ellipse(e):
    """Return an ellipse: its semi-axes, their ratio a/b with its sigma, and the angle of the a axis with its sigma."""
    return {"a": e.a, "b": e.b, "ratio": e.a / e.b, "sigma": e.sigma, "theta": e.theta, "theta_sigma": e.angle_sigma}


def _finite(value):
    """NaN and infinity, which JSON does not know, as None; numbers as Python's own."""
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
