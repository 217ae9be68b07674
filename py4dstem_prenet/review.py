"""A calibrated scan looked at anew: figures of what its calibration holds and does, and a page with verdicts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from .compute import pick_device
from .core import Ellipse, OriginMap, PrenetError, ellipse_vector, reading, sample_positions
from .denoising import DenoisingCheck, check_denoising, denoise
from .detector import NoiseModel, virtual_images
from .ellipse import EllipseCheck, check_ellipse, judge
from .fits import Pooled, pool
from .io import calibrations, check_output, new_file
from .networks import load
from .origin import OriginCheck, check_origin, fit_origin
from .report import figures, page_html, verdicts
from .resampling import CalibrationCheck, check

HTML_ENDINGS = (".html", ".htm")
PIECE = 16  # positions along each side of the part of the scan that is denoised to be shown
PIECE_BYTES = 64 * 2**20  # of these patterns as float32
CHECKED = 256  # positions that are split into halves: some seconds, and enough to tell
MAP_SIDE = 128  # positions along each side of virtual images that residuals are compared with


@dataclass(frozen=True)
class Seen:
    """All that a page tells of a scan, gathered in one place. What was not looked at is None."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    noise: NoiseModel
    belongs: CalibrationCheck
    record: dict | None
    origin: OriginMap | None = None
    sigma_known: bool = False
    fitted: np.ndarray | None = None  # (2, Rx, Ry), the calibration's
    fit: verdicts.FitJudged | None = None
    before: Pooled | None = None
    after: Pooled | None = None
    stored: tuple | None = None  # ellipse
    stored_by: str = ""
    ellipse: Ellipse | None = None
    raw: np.ndarray | None = None  # (n, m, Qx, Qy), a part of the scan in electrons
    clean: np.ndarray | None = None
    virtual: np.ndarray | None = None  # (2 kinds, 2 detectors, n, m)
    denoising: DenoisingCheck | None = None
    halves: OriginCheck | None = None
    ellipse_halves: EllipseCheck | None = None

    @property
    def verdicts(self) -> list[verdicts.Verdict]:
        """All of them, the most asked for first."""
        found = [verdicts.judge_belonging(self.belongs)]
        if self.origin is not None:
            found = [self.fit.verdict, *found, verdicts.judge_origin(self.origin, self.sigma_known, self.halves),
                      verdicts.judge_ellipse(self.stored, self.ellipse, self.stored_by, self.ellipse_halves)]
        found.append(verdicts.judge_noise(self.noise))
        if self.denoising is not None:
            found.append(verdicts.judge_denoising(self.denoising))
        return found


def report(datacube, path, device="auto", progress=True) -> list[verdicts.Verdict]:
    """Write a page about a calibrated scan: can one go on with it, and what that rests on. Returns its verdicts.

    Looks at the scan anew: the fit with every function, the ellipse, and what denoising does for these counts. Changes
    nothing in the cube.

    Args:
        datacube: a DataCube with an origin in its calibration, whoever measured it.
        path: an .html file that does not exist yet; it appears whole or not at all.

    Raises PrenetError where the path is taken, or the calibration has no origin.
    """
    path = check_output(path, HTML_ENDINGS)
    seen = look(datacube, device, progress)
    with new_file(path, HTML_ENDINGS) as partial:
        partial.write_text(page_html(seen), encoding="utf-8")
    return seen.verdicts


def look(datacube, device="auto", progress=True) -> Seen:
    """Gather what a page tells. Raises PrenetError where the calibration has no origin."""
    reading.check(datacube)
    if datacube.calibration is None or datacube.calibration.get_origin_meas() is None:
        raise PrenetError("No origin was measured in this scan; call datacube.prenet.calibrate() (or prenet calibrate) "
                          "first.")
    with tqdm(total=5, desc="report", unit=" stages", disable=not progress) as bar:
        noise = calibrations.noise_of(datacube)
        shape = reading.shape_of(datacube)
        seen = {"name": datacube.name, "shape": shape, "dtype": str(datacube.data.dtype), "noise": noise,
                "belongs": check(datacube), "record": calibrations.read_provenance(datacube)}
        if set(seen["belongs"].stale) & {"measured origin", "probe radius"}:
            return Seen(**seen)  # maps of other data: there is nothing to draw
        bar.update()
        origin = calibrations.read_origin(datacube)
        radius = origin.radius if np.isfinite(origin.radius) else 0.05 * min(shape[2:])
        stored = datacube.calibration.get_origin()
        used = stored
        if stored is None:
            best = fit_origin(origin)
            used = best.qx0, best.qy0
        used = np.stack([np.broadcast_to(np.asarray(q, float), shape[:2]) for q in used])
        before = pool(datacube, *(np.full(shape[:2], q.mean()) for q in used), noise)
        after = pool(datacube, *used, noise, valid=origin.valid)
        bar.update()
        outer = figures.inner_radius(after.mean.shape, after.center)
        detectors = [(0, radius), (min(2 * radius, 0.5 * outer), outer)]
        seen |= {"origin": origin, "sigma_known": calibrations.sigma_is_current(datacube), "before": before, "after": after,
                 "fitted": None if stored is None else used,
                 "fit": verdicts.judge_fit(origin, stored if stored is None else used, calibrations.sigma_is_current(datacube),
                                           min(shape[2:]), _maps(datacube, used, detectors, noise))}
        bar.update()
        ours = calibrations.signatures(datacube).get("ellipse", {}).get("unchanged")
        known = origin.radius if np.isfinite(origin.radius) else None
        seen |= {"stored": figures.stored_ellipse(datacube.calibration),
                 "stored_by": "prenet" if ours else "another hand",
                 "ellipse": judge(load("ellipse", pick_device(device)), after, known, noise)}
        bar.update()
        seen |= _denoised(datacube, used, detectors, noise, device)
        seen["denoising"] = check_denoising(datacube, noise, device=device, positions=CHECKED)
        seen["halves"] = check_origin(datacube, noise, device=device, positions=CHECKED)
        if seen["ellipse"].accepted and stored is not None:
            seen["ellipse_halves"] = check_ellipse(datacube, noise, device=device, positions=4 * CHECKED)
        bar.update()
    return Seen(**seen)


def _maps(datacube, used, detectors, noise):
    """Virtual images of the whole scan, or None where it is too large to look at all of it for a page."""
    scan = reading.shape_of(datacube)[:2]
    if scan[0] * scan[1] > MAP_SIDE**2:
        return None
    return virtual_images(datacube, *used, detectors, noise).reshape(-1, *scan)


def _denoised(datacube, used, detectors, noise, device):
    """A part of the scan in electrons, measured and denoised, with virtual images; about the strongest scattering."""
    from py4DSTEM import DataCube

    rx, ry, qx, qy = reading.shape_of(datacube)
    some = sample_positions((rx, ry), 256)
    dark = virtual_images(datacube, *used, detectors[1:], noise, positions=some)[0]
    middle = np.unravel_index(some[np.argmax(dark)], (rx, ry))
    side = int(np.clip(np.sqrt(PIECE_BYTES / (4 * qx * qy)), 2, PIECE))
    part = tuple(slice(max(0, min(m - side // 2, n - side)), max(0, min(m - side // 2, n - side)) + side)
                 for m, n in zip(middle, (rx, ry), strict=True))
    data = np.array(datacube.data[part])
    origins = used[:, part[0], part[1]]
    piece = DataCube(data)
    piece.calibration.set_origin(tuple(origins))  # by which patterns are compared with their neighbors
    clean = denoise(piece, noise, device=device, progress=False).data
    kinds = [noise.electrons(kind.reshape(-1, qx, qy)).reshape(kind.shape) for kind in (data, clean)]
    exact = NoiseModel(1.0, 0.0, 0.0, np.zeros((qx, qy), bool), False, noise.dose)
    images = [virtual_images(kind, *origins, detectors, exact).reshape(2, *kind.shape[:2]) for kind in kinds]
    return {"raw": kinds[0], "clean": kinds[1], "virtual": np.stack(images)}


def show(datacube, axes=None):
    """What a cube's calibration holds and does: origin maps, the mean pattern and the rings before and after.

    axes: (3, 4) to draw into; by default those of a new figure. Returns them. Raises PrenetError where the cube has no
    origin, or one of other data.
    """
    measured = calibrations.read_origin(datacube)
    qx0, qy0, radius = calibrations.read_fitted_origin(datacube)
    noise = calibrations.noise_of(datacube)
    pooled = pool(datacube, qx0, qy0, noise, valid=measured.valid)
    still = pool(datacube, np.full_like(qx0, qx0.mean()), np.full_like(qy0, qy0.mean()), noise)
    if axes is None:
        axes = figures.subplots(3, 4, figsize=(13, 9.4))
    figures.show_origin((measured.qx0, measured.qy0), (qx0, qy0), axes[:2, :3], measured.valid)
    figures.show_sigma(measured.sigma_qx0, measured.sigma_qy0, measured.valid, axes[:2, 3])
    figures.show_pattern(still.mean, axes[2, 0], "mean pattern, as recorded", 0.25)
    ellipse = figures.stored_ellipse(datacube.calibration)
    vector = np.zeros(2) if ellipse is None else ellipse_vector(*ellipse)
    size = float(radius) if np.isfinite(radius) else 0.05 * min(datacube.Qshape)
    ring = figures.ring_radius(pooled.mean, pooled.center, size, pooled.weight, vector)
    if ellipse is None:
        figures.show_pattern(pooled.mean, axes[2, 1], "recentered; no ellipse is set", 0.25)
    else:
        figures.show_ellipse(pooled.mean, pooled.center, ellipse, ring or size, axes[2, 1],
                     f"recentered; a/b {ellipse[0] / ellipse[1]:.4f}")
    figures.show_straightened(pooled.mean, pooled.center, vector, axes[2, 2:], pooled.weight, ring, 1.3 * size)
    return axes
