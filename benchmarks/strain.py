"""Compare strain maps by py4DSTEM after different calibrations of the same scan with the truth.

    python benchmarks/strain.py [--doses 300 3000 30000] [--figure docs/strain.png]

The scan is multislice silicon along [110] (`simulation/known.py`): an unstrained substrate, a layer whose strain grows
across it, and a grain turned by a degree, of a thickness that varies, seen through a camera with descan and an
ellipse. All methods get the same counts, the true probe as the template, and the same `find_Bragg_disks`, basis
vectors and reference region:

- by hand: `measure_origin` from the disks, near the true center, and py4DSTEM's robust parabola; no ellipse, since
  there is no ring.
- prenet: `calibrate()` without a parameter.
- prenet, disks: the same calibration, and `bragg_disks(weights="precision")` instead of `find_Bragg_disks`.
- denoised: disks in denoised patterns, each pattern alone (`scan_aware=False`) or with its neighbors in the scan.
- bound: Cramer-Rao bound of the strain of a position if the intensity of each disk, the contrast inside it and the
  origin are known. The bound for free contrast is higher.

Errors are rms over the positions with a strain, in parts per thousand (mrad for the rotation). A position fails if
py4DSTEM fits no lattice or a component is off by more than two per cent.
"""

import argparse
import contextlib
import datetime
import io
import os
import platform
import subprocess
import warnings

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import py4DSTEM
from py4DSTEM.braggvectors import Probe
from py4DSTEM.process.strain import StrainMap
from scipy.ndimage import shift
from scipy.spatial import cKDTree

import py4dstem_prenet  # noqa: F401
from py4dstem_prenet.core import ellipse_matrix, ellipse_vector
from py4dstem_prenet.simulation.known import SILICON, deformation, simulate_known, strain_of, zone_axis

SCAN = (12, 24)
SUBSTRATE, LAYER = np.s_[:, :8], np.s_[:, 8:16]  # the rest is the turned grain
FAR = 0.02  # of strain, or radians, from which a position counts as failed
COMPONENTS = ("exx", "eyy", "exy", "rotation")
PREPARED = ("by hand", "prenet", "prenet, disks", "denoised alone", "denoised in the scan")
DENOISED = PREPARED[3:]


def quiet(function, *args, **kwargs):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), \
            warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


def scan(seed):
    """A `KnownScan`, and its true strain (4, Rx, Ry)."""
    frame = zone_axis([1, 1, 0], [0, 0, 1])
    across = np.linspace(0.25, 1, 8)
    exx, eyy, exy, turn = np.zeros((4, *SCAN))
    exx[LAYER], eyy[LAYER], exy[LAYER] = 0.015 * across, -0.008 * across, 0.004 * across
    turn[:, 16:] = np.radians(1.0)
    frames = deformation(exx, eyy, exy, turn) @ frame
    thickness = np.linspace(70, 150, SCAN[0])[:, None] * np.ones(SCAN)
    return simulate_known(SILICON, frames, thickness=thickness, seed=seed), strain_of(frames, frame)


def disks(data, radius):
    """Bragg vectors of a scan; the template is the true probe."""
    middle = (data.Qshape[0] - 1) / 2
    axis = np.arange(data.Qshape[0]) - middle
    probe = Probe((np.hypot(axis[:, None], axis) <= radius).astype(np.float32))
    probe.get_kernel(mode="sigmoid", radii=(radius, 2.2 * radius), origin=(middle, middle))
    return data.find_Bragg_disks(template=probe.kernel, corrPower=1, sigma_cc=1, subpixel="multicorr",
                                 upsample_factor=32, minRelativeIntensity=0.01, minPeakSpacing=1.5 * radius,
                                 edgeBoundary=int(radius) + 1, maxNumPeaks=30)


def strain_map(vectors):
    """The StrainMap of calibrated Bragg vectors, relative to the substrate."""
    vectors.setcal()
    mapped = StrainMap(vectors)
    mapped.choose_basis_vectors(minSpacing=6, minAbsoluteIntensity=0.02 * np.sort(mapped.bvm.data.ravel())[-20],
                                maxNumPeaks=40, edgeBoundary=4)
    mapped.fit_basis_vectors(max_peak_spacing=2.5)
    reference = np.zeros(SCAN, bool)
    reference[SUBSTRATE] = True
    mapped.get_strain(gvects=reference)
    plt.close("all")
    return mapped


def strain(vectors):
    """(4, Rx, Ry) exx, eyy, exy, rotation, NaN where there is none, of calibrated Bragg vectors."""
    mapped = strain_map(vectors)
    return np.where(mapped.data[4] > 0.5, mapped.data[:4], np.nan)


def prepared(counts, truth, denoise=True):
    """{name: strain maps} from each preparation of the same counts; and how far off our origin is, mean, pixels.

    The latter, since a strain map is the same with an origin in any other disk of the lattice.
    """
    out = {}
    cube = py4DSTEM.DataCube(counts.astype(np.float32))
    vectors = disks(cube, truth["radius"])
    guess = (truth["qx0"].mean(), truth["qy0"].mean())
    qx0, qy0 = vectors.measure_origin(center_guess=guess, score_method="distance")[:2]
    cube.calibration.set_origin_meas((qx0, qy0))
    vectors.fit_origin(fitfunction="parabola", robust=True, plot=False)
    out[PREPARED[0]] = strain(vectors)
    cube = py4DSTEM.DataCube(counts)
    cube.prenet.calibrate(progress=False)
    off = np.hypot(*(found - truth[key] for found, key in zip(cube.calibration.get_origin(), ("qx0", "qy0"),
                                                              strict=True))).mean()
    out[PREPARED[2]] = strain(cube.prenet.bragg_disks(weights="precision", progress=False))
    data = {PREPARED[1]: py4DSTEM.DataCube(counts.astype(np.float32))}
    if denoise:
        data |= {name: cube.prenet.denoise(scan_aware=mode, progress=False)
                 for name, mode in zip(DENOISED, (False, True), strict=True)}
    for name, scanned in data.items():
        vectors = disks(scanned, truth["radius"])
        for key, setter in (("get_origin", "set_origin"), ("get_ellipse", "set_ellipse")):
            values = getattr(cube.calibration, key)()
            if values is not None:
                getattr(vectors.calibration, setter)(values)
        out[name] = strain(vectors)
    return out, off


def errors(found, true):
    """rms of each component, parts per thousand, and the part of positions that failed."""
    off = found - true
    failed = ~(np.abs(off) < FAR).all(0)
    return 1e3 * np.sqrt((off[:, ~failed] ** 2).mean(1)), failed.mean()


def slopes(found, true):
    """Slope of each component on the truth over the scan; NaN where the truth hardly varies."""
    good = (np.abs(found - true) < FAR).all(0)
    x, y = (values[:, good] - values[:, good].mean(1, keepdims=True) for values in (true, found))
    return np.where(x.std(1) > 5e-4, (x * y).sum(1) / np.maximum((x * x).sum(1), 1e-30), np.nan)


def bound(known, dose):
    """Cramer-Rao bound of each component, rms over the positions, parts per thousand."""
    truth, shape = known.truth, known.expected.shape[2:]
    matrix = ellipse_matrix(ellipse_vector(truth["a"] / truth["b"], 1.0, truth["theta"])) / truth["sampling"]
    hkl = np.stack(np.meshgrid(*(np.arange(-9, 10),) * 3, indexing="ij"), -1).reshape(-1, 3)
    hkl = hkl[(np.ptp(hkl % 2, axis=1) == 0) & (np.abs(hkl).sum(1) > 0)]
    pixels = np.stack(np.indices(shape), -1).reshape(-1, 2)
    variances = []
    for k, frame in enumerate(truth["frames"].reshape(-1, 3, 3)):
        g = hkl @ np.linalg.inv(frame) / SILICON.edge
        g = g[np.abs(g[:, 2]) < 0.04][:, :2]  # 1 / angstrom: the zero-order Laue zone
        origin = np.array([truth["qx0"].flat[k], truth["qy0"].flat[k]])
        away, nearest = cKDTree(g @ matrix.T + origin).query(pixels)
        lit = away < truth["radius"] + 1.5
        image = (known.expected.reshape(-1, *shape)[k] * dose).astype(float)
        # Derivatives along both axes of a cubic spline through the pixels.
        slopes = np.stack([(shift(image, np.negative(step)) - shift(image, step)).ravel() / 0.2
                           for step in ((0.1, 0), (0, 0.1))], -1)[lit] @ matrix
        change = (slopes[:, :, None] * g[nearest[lit]][:, None]).reshape(-1, 4)  # by the four elements of a distortion
        rate = image.ravel()[lit].clip(1e-3)
        covariance = np.linalg.inv((change / rate[:, None]).T @ change)
        parts = np.array([[1, 0, 0, 0], [0, 0, 0, 1], [0, 0.5, 0.5, 0], [0, 0.5, -0.5, 0]])
        variances.append((parts @ covariance @ parts.T).diagonal())
    return 1e3 * np.sqrt(np.mean(variances, 0))


def figure(path, true, maps, table, doses):
    middle = doses[len(doses) // 2]
    drawn = plt.figure(figsize=(11, 6), constrained_layout=True)
    top, bottom = drawn.subfigures(2, 1, height_ratios=(1, 1.4))
    shown = {"true": true, **{name: maps[middle][name] for name in PREPARED if name in maps[middle]}}
    axes = top.subplots(1, len(shown))
    for ax, (name, values) in zip(axes, shown.items(), strict=True):
        image = ax.imshow(100 * values[0], vmin=-1.8, vmax=1.8, cmap="RdBu_r")
        ax.set(title=name, xticks=[], yticks=[])
    top.colorbar(image, ax=axes, label="exx, %")
    top.suptitle(f"{middle:,} electrons per pattern")
    for k, (ax, name) in enumerate(zip(bottom.subplots(1, 4, sharey=True), COMPONENTS, strict=True)):
        for method in list(shown)[1:]:
            ax.loglog(doses, [table[d][method][0][k] for d in doses], "o-", label=method)
        ax.set(title=name, xlabel="electrons per pattern")
        if k == 0:
            ax.set_ylabel("rms error, 1e-3")
            ax.legend(frameon=False)
    drawn.savefig(path, dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--doses", type=int, nargs="+", default=[300, 3000, 30_000])
    parser.add_argument("--no-denoising", action="store_true", help="leave out the rows of denoised patterns")
    parser.add_argument("--figure")
    args = parser.parse_args()
    known, true = scan(seed=1)
    made = {dose: quiet(prepared, known.counts(dose), known.truth, not args.no_denoising) for dose in args.doses}
    maps = {dose: found for dose, (found, _) in made.items()}
    table = {dose: {name: errors(found, true) for name, found in some.items()} for dose, some in maps.items()}
    rows = [name for name in PREPARED if name in maps[args.doses[0]]]
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    print(f"{SCAN[0]} x {SCAN[1]} patterns of 128 x 128 pixels; {datetime.date.today()}, commit {commit}, "
          f"{os.cpu_count()} cores ({platform.machine()}), no GPU. rms error of exx / eyy / exy / rotation in 1e-3 "
          "(positions that failed).\n")
    print("| electrons per pattern | " + " | ".join(f"{d:,}" for d in args.doses) + " |\n|---" * 1
          + "|---" * len(args.doses) + "|")
    for name in rows:
        cells = [" / ".join(f"{e:.2f}" for e in table[d][name][0]) + f" ({100 * table[d][name][1]:.0f} %)"
                 for d in args.doses]
        print(f"| {name} | " + " | ".join(cells) + " |")
    print("| bound, known contrast | " + " | ".join(" / ".join(f"{e:.2f}" for e in bound(known, d))
                                                    for d in args.doses) + " |")
    print("| origin of prenet, mean error | " + " | ".join(f"{made[d][1]:.3f} px" for d in args.doses) + " |")
    print("\nSlope on the truth of exx / eyy / exy / rotation.\n")
    print("| electrons per pattern | " + " | ".join(f"{d:,}" for d in args.doses) + " |\n|---" * 1
          + "|---" * len(args.doses) + "|")
    for name in rows:
        cells = [" / ".join(f"{k:.2f}" for k in slopes(maps[d][name], true)) for d in args.doses]
        print(f"| {name} | " + " | ".join(cells) + " |")
    if args.figure:
        figure(args.figure, true, maps, table, args.doses)


if __name__ == "__main__":
    main()
