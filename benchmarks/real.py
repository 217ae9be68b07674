"""Calibrate real patterns with known centers, and compare with other center finders.

    python benchmarks/real.py FOLDER [--table FILE] [--others] [--only TEXT]

FOLDER holds the arrays (.npy, .npz); the table (benchmarks/real.csv) names for each what it shows and its center:
`beam` (a visible direct beam), `rings` (their center), `hidden` (a direct beam behind a stop: right or refused),
`refuse` (the center cannot be determined) and `none` (no beam at all). A center is right within the table's tolerance;
`any` has no known center. An accepted center that is neither right nor within three of its sigmas is silently wrong.
`--others` runs `get_origin`, and pyxem and scikit-ued where they are installed. A second table compares the ellipse
with `fit_ellipse_1D` where the table of truths has one: of a ring, or of the edge of the direct beam, whose gradient
that fit gets. It also gets the known radius, and the known center or else ours.
"""

import argparse
import csv
import datetime
import platform
import subprocess
import time
import warnings
from pathlib import Path

import numpy as np
import py4DSTEM
from py4DSTEM.process.calibration import fit_ellipse_1D
from py4DSTEM.process.calibration.origin import get_origin
from scipy.ndimage import gaussian_gradient_magnitude

from py4dstem_prenet.core import ellipse_vector
from py4dstem_prenet.pipeline import calibrate

TABLE = Path(__file__).with_suffix(".csv")
COVERED_SIGMAS = 3  # an error below this number of sigmas is covered by them
HALF_WINDOW_PX = 6  # pixels, of the window that `fit_ellipse_1D` gets
FEATURES = {"rings": ("rings",), "beam": ("beam",), "hidden": ("beam", "rings"), "any": ("beam", "rings")}


def entries(table=TABLE, only=""):
    """Rows of a table of truths whose file or array contains a text."""
    with open(table, newline="") as file:
        return [row for row in csv.DictReader(file) if only in row["file"] + ":" + row["array"]]


def load(folder, row):
    """Scan (Rx, Ry, Qx, Qy) of a row, and its mask (True means good) or None."""
    content = np.load(Path(folder) / row["file"])
    data = content[row["array"]] if row["array"] else content
    mask = content[row["mask"]] if row["mask"] else None
    return data.reshape(*(data.shape[:2] if data.ndim == 4 else (1, 1)), *data.shape[-2:]), mask


def measure(data, mask=None):
    """Median origin (2,), its median sigma, whether it is valid, the flags, the seconds, and the ellipse or None."""
    datacube = py4DSTEM.DataCube(data.copy())
    start = time.perf_counter()
    report = calibrate(datacube, mask=mask, progress=False)
    seconds = time.perf_counter() - start
    center, sigma, accepted = measured(report.origin)
    return (center, sigma, accepted, [flag.name for flag in report.origin.decision.flags], seconds,
            report.ellipse if accepted else None)


def measured(origin):
    """Median origin (2,), its median sigma, and whether it is valid."""
    valid = origin.valid
    if not origin.found or not valid.any():
        return np.full(2, np.nan), np.nan, False
    center = np.array([np.median(origin.qx0[valid]), np.median(origin.qy0[valid])])
    return center, float(np.median(np.hypot(origin.sigma_qx0, origin.sigma_qy0)[valid])), True


def verdict(row, center, sigma, accepted):
    """One of right, refused, covered, wrong, and for rows without a known center, accepted."""
    if not accepted:
        return "refused"
    if row["feature"] in ("none", "refuse"):
        return "wrong"
    if row["feature"] == "any":
        return "accepted"
    error = np.hypot(*(center - (float(row["row"]), float(row["column"]))))
    if error <= float(row["tolerance"]):
        return "right"
    return "covered" if error <= COVERED_SIGMAS * sigma else "wrong"


def as_wanted(row, result):
    """Whether a verdict is what the table asks for."""
    wanted = {"none": {"refused"}, "refuse": {"refused"}, "any": {"accepted", "refused"},
              "hidden": {"right", "refused", "covered"}}
    return result in wanted.get(row["feature"], {"right"})


def by_py4dstem(pattern, mask):
    """`get_origin` of py4DSTEM."""
    return np.ravel([q[0, 0] for q in get_origin(py4DSTEM.DataCube(pattern[None, None]))[:2]])


def by_scikit_ued(pattern, mask):
    """`autocenter` of scikit-ued."""
    from skued import autocenter

    return np.array(autocenter(pattern, mask=mask), float)


def by_pyxem(pattern, mask):
    """`get_direct_beam_position` of pyxem, by cross-correlation with a disk of a guessed radius, and by blurring."""
    from pyxem.signals import Diffraction2D

    shift = Diffraction2D(pattern).get_direct_beam_position(method="blur", sigma=3, lazy_output=False).data
    return (np.array(pattern.shape) / 2 - np.ravel(shift)[::-1])


OTHERS = {"get_origin": by_py4dstem, "autocenter": by_scikit_ued, "pyxem blur": by_pyxem}


def error_of(method, row, pattern, mask):
    """Error of another center finder in pixels, as text."""
    if not row["row"]:
        return ""
    try:
        center = method(pattern, mask)
    except ImportError:
        return "not installed"
    except Exception as problem:  # other software fails in its own ways
        return type(problem).__name__
    return f"{np.hypot(*(center - (float(row['row']), float(row['column'])))):.2f}"


def ellipse_cells(row, name, pattern, center, ellipse):
    """Cells of the table of ellipses, as text: known, error, sigma and verdict of ours, error of `fit_ellipse_1D`."""
    known = np.asarray(ellipse_vector(float(row["ratio"]), 1.0, np.radians(float(row["theta"]))))
    ours = ["", "", "refused"]
    if ellipse is not None and ellipse.sources:
        ours = [f"{np.hypot(*(ellipse.vector - known)):.4f}", f"{ellipse.sigma:.4f}",
                "accepted" if ellipse.accepted else "refused"]
    at = (float(row["row"]), float(row["column"])) if row["row"] else tuple(center)
    radius = float(row["radius"])
    image = pattern if row["feature"] != "beam" else gaussian_gradient_magnitude(pattern.astype(float), 1.0)
    try:
        a, b, theta = map(float, fit_ellipse_1D(image, at, (radius - HALF_WINDOW_PX, radius + HALF_WINDOW_PX))[2:5])
        theirs = f"{np.hypot(*(np.asarray(ellipse_vector(a, b, theta)) - known)):.4f}"
    except Exception as problem:  # other software fails in its own ways
        theirs = type(problem).__name__
    return [name, f"{float(row['ratio']):.4f} at {float(row['theta']):.0f}°", *ours, theirs]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--others", action="store_true", help="run other center finders as well")
    parser.add_argument("--only", default="", help="rows whose file and array contain this text")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    print(f"{datetime.date.today()}, commit {commit}, {platform.machine()}, no GPU. Errors in pixels.\n")
    others = OTHERS if args.others else {}
    heads = ["pattern", "shows", "error", "sigma", "verdict", "s", *others, "flags"]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    counts, ellipses = {}, []
    for row in entries(args.table, args.only):
        data, mask = load(args.folder, row)
        center, sigma, accepted, flags, seconds, ellipse = measure(data, mask)
        result = verdict(row, center, sigma, accepted)
        counts[result] = counts.get(result, 0) + 1
        error = np.hypot(*(center - (float(row["row"]), float(row["column"])))) if row["row"] and accepted else np.nan
        name = row["file"].split(".")[0] + (f" {row['array']}" if row["array"] not in ("", "data") else "")
        mean = data.reshape(-1, *data.shape[2:]).mean(0)
        if row["ratio"]:
            ellipses.append(ellipse_cells(row, name, mean, center, ellipse))
        cells = [name + (" (mask)" if row["mask"] else ""), row["feature"], f"{error:.2f}", f"{sigma:.2f}",
                 result if as_wanted(row, result) else f"**{result}**", f"{seconds:.1f}",
                 *(error_of(method, row, mean, mask) for method in others.values()), " ".join(flags)]
        print("| " + " | ".join("" if c == "nan" else c for c in cells) + " |", flush=True)
    print("\n" + ", ".join(f"{n} {result}" for result, n in sorted(counts.items())))
    if ellipses:
        heads = ["pattern", "known a/b", "error", "sigma", "verdict", "`fit_ellipse_1D`, error"]
        print("\n| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
        print("\n".join("| " + " | ".join(cells) + " |" for cells in ellipses))


if __name__ == "__main__":
    main()
