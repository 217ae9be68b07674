"""`prenet demo`: calibrate and denoise the scan that comes with the package, and compare with the truth."""

from __future__ import annotations

from importlib.resources import files as resources
from pathlib import Path

import numpy as np

_FILES = ("scan_calibrated.h5", "patterns.png", "origin.png", "ellipse.png")


def load_scan():
    """Load the demonstration scan and its truth.

    The patterns are multislice simulations of gold particles on amorphous carbon with 4000 electrons each, with descan
    and an ellipse of a/b = 1.05 at 35 degrees.

    Returns
    -------
    datacube : py4DSTEM.DataCube
        Counts, (20, 20, 128, 128).
    truth : dict
        "qx0" and "qy0", the origin (20, 20) in pixels; "ratio", "theta", the ellipse; "regions", "positions" and
        "clean", names, scan positions and expected counts of three patterns.

    Examples
    --------
    >>> datacube, truth = load_scan()
    >>> datacube.data.shape, truth["qx0"].shape
    ((20, 20, 128, 128), (20, 20))
    """
    from py4DSTEM import DataCube

    with (resources(__package__) / "data" / "demo_scan.npz").open("rb") as file:
        stored = dict(np.load(file))
    return DataCube(stored.pop("counts"), name="demo_scan"), stored


def run(out: Path) -> None:
    """Calibrate and denoise the demonstration scan, print a comparison with the truth, and save a file and figures.

    Parameters
    ----------
    out : pathlib.Path
        Folder for the EMD file and three figures; those of an earlier run are replaced.
    """
    import matplotlib

    matplotlib.use("Agg")
    from .io import check_output, make_folder, save

    out = make_folder(out)
    new = out / "scan_calibrated.new.h5"
    new.unlink(missing_ok=True)
    check_output(new)
    datacube, truth = load_scan()
    report = datacube.prenet.calibrate()
    print(report, "\n")
    denoised = datacube.prenet.denoise()
    print(_table(datacube, denoised, report, truth))
    save(datacube, new)
    new.replace(out / _FILES[0])
    before, centered, after = _pools(datacube, report.noise)
    figures = (_patterns(datacube, denoised, truth), _origin(datacube, before, centered),
               _ellipse(after, centered, report))
    for name, figure in zip(_FILES[1:], figures, strict=True):
        part = out / (name + ".part")
        figure.savefig(part, dpi=150, format="png")
        part.replace(out / name)
    print(f"\nSaved in {out}: " + ", ".join(_FILES))


def _table(datacube, denoised, report, truth) -> str:
    """Results beside the truth, as text."""
    def error(origin, sigma):
        rms = np.sqrt(np.mean((np.stack(origin) - [truth["qx0"], truth["qy0"]]) ** 2))
        return f"{rms:.3f} (stated {sigma:.3f})"

    cal, origin = datacube.calibration, report.origin
    stated = np.sqrt(np.mean(np.stack([origin.sigma_qx0, origin.sigma_qy0])[:, origin.valid] ** 2))
    e = report.ellipse
    rows = [
        ("measured origin, rms error per axis, px", "0", error(cal.get_origin_meas()[:2], stated)),
        ("fitted origin, rms error per axis, px", "0", error(cal.get_origin(), report.fit.sigma)),
        ("ellipse a/b", f"{float(truth['ratio']):.4f}", f"{e.a / e.b:.4f}" + ("" if e.accepted else " (refused)")),
        ("ellipse theta, degrees", f"{np.degrees(float(truth['theta'])):.1f}", f"{np.degrees(e.theta):.1f}"),
        ("electrons in the scan", f"{datacube.data.sum():,}", f"{denoised.data.sum(dtype=float):,.0f} denoised"),
    ]
    for name, at, clean in zip(truth["regions"], truth["positions"], truth["clean"].astype(float), strict=True):
        raw, ours = (((cube.data[tuple(at)] - clean) ** 2).sum() / (clean**2).sum() for cube in (datacube, denoised))
        rows.append((f"relative squared error, {name}", f"{raw:.4f} noisy", f"{ours:.4f} denoised"))
    wide = [max(len(row[k]) for row in rows) for k in range(3)]
    head = f"{'':{wide[0]}}  {'truth':>{wide[1]}}  {'result':>{wide[2]}}"
    return "\n".join([head, *(f"{a:{wide[0]}}  {b:>{wide[1]}}  {c:>{wide[2]}}" for a, b, c in rows)])


def _patterns(datacube, denoised, truth):
    """Figure: three patterns measured, denoised and true."""
    import matplotlib.pyplot as plt

    from .report import LABEL_SIZE, show_pattern

    figure, axes = plt.subplots(3, 3, figsize=(6.6, 6.9), constrained_layout=True)
    for row, name, at, clean in zip(axes, truth["regions"], truth["positions"], truth["clean"], strict=True):
        top = float(clean.max())
        for ax, title, pattern in zip(row, (f"{name}, measured", "denoised", "true"), (
                datacube.data[tuple(at)], denoised.data[tuple(at)], clean.astype(float)), strict=True):
            show_pattern(pattern, ax, title, power=0.3, vmax=top)
    figure.supxlabel("color bars: electrons in a pixel", fontsize=LABEL_SIZE)
    return figure


def _pools(datacube, noise):
    """Mean patterns as recorded, recentered to whole pixels (not interpolated, to look at), and recentered."""
    from .fits import pool
    from .io import read_fitted_origin

    origin = np.stack(read_fitted_origin(datacube)[:2])
    still = np.rint(origin.mean((1, 2)))[:, None, None] * np.ones_like(origin)
    return tuple(pool(datacube, *maps, noise) for maps in (still, np.rint(origin), origin))


def _origin(datacube, before, centered):
    """Figure: mean patterns, and maps of the measured and fitted origin."""
    import matplotlib.pyplot as plt

    from .report import show_map, show_recentered

    figure, axes = plt.subplots(2, 3, figsize=(8.0, 5.1), constrained_layout=True)
    show_recentered(before.mean, centered.mean, axes[:, 0], weights=(before.weight, centered.weight))
    measured, fitted = datacube.calibration.get_origin_meas(), datacube.calibration.get_origin()
    for row, (name, values) in enumerate((("measured", measured), ("fitted", fitted))):
        for column, axis in enumerate(("qx0", "qy0")):
            shift = values[column] - fitted[column].mean()
            show_map(shift, axes[row, column + 1], f"{axis} {name},\nless the mean, px", center=0.0)
    return figure


def _ellipse(pooled, centered, report):
    """Figure: the recentered mean, and the evidence for the ellipse."""
    import matplotlib.pyplot as plt

    from .report import draw_evidence

    e = report.ellipse
    figure, axes = plt.subplots(1, 3, figsize=(8.2, 3.1), constrained_layout=True)
    draw_evidence(pooled, centered, report.origin.radius, (e.a, e.b, e.theta) if e.accepted else None, e.leading, axes)
    return figure
