"""Pixel size of simulated standards, measured by this package, by py4DSTEM by hand, and by quantem.

    python benchmarks/pixel_size_peers.py FOLDER [--materials N] [--seed S]
    ENVIRONMENT/bin/python benchmarks/pixel_size_peers.py FOLDER --quantem
    python benchmarks/pixel_size_peers.py FOLDER --table

The first command writes the scans of `pixel_size.py` to FOLDER and measures them; the second measures them in an
environment that has quantem (`.ci/bridges` shows how to make one); the third prints the table.

This package gets the counts and the name of the standard: `calibrate(standard=...)`. The others get what a user would
have to set: the true radius of the disks, the true mean origin, and a guess of the pixel size that is up to 3 % off.
They find disks at three thresholds, fractions of the intensity of the direct beam. The table has the threshold with
the smallest rms error for each dose, chosen with the truth, which favors them.

- py4DSTEM: `find_Bragg_disks`, origins from the disks, and `Crystal.calibrate_pixel_size`, without an ellipse.
- quantem: `detect_disks`, `measure_origins`, and `calibrate`, which fits the ellipse as well.
"""

import argparse
import contextlib
import io
import json
import warnings
from pathlib import Path

import numpy as np

DOSES = (300, 3_000, 30_000)  # electrons per pattern
THRESHOLDS = (0.003, 0.01, 0.03)  # fractions of the direct beam; smallest intensity of a disk
GUESS_ERROR = 0.03  # relative; largest error of the guess of the pixel size
K_RANGE = (0.2, 0.62)  # 1/angstrom; radii that are compared with the rings
RESULTS = ("prenet", "by hand", "quantem")


def write(folder, materials, seed):
    """Simulate the scans, write them, and measure them with this package and with py4DSTEM."""
    import py4DSTEM
    import torch
    from pixel_size import MATERIALS, cases

    import py4dstem_prenet  # noqa: F401

    torch.set_num_threads(1)
    for number, (name, kind, simulate) in enumerate(cases(seed, materials)):
        scan = simulate()
        crystal, truth = MATERIALS[name], scan.truth
        for dose in DOSES:
            counts = scan.counts(dose)
            stem = folder / f"{name}_{kind}_{dose}"
            guess = truth["sampling"] * np.exp(np.random.default_rng([seed, number, dose]).uniform(-1, 1) * GUESS_ERROR)
            numbers = {"material": name, "kind": kind, "dose": dose, "prototype": crystal.prototype, "a": crystal.edge,
                       "atomic_numbers": np.atleast_1d(crystal.number).tolist(), "radius": truth["radius"],
                       "center": [float(truth[q].mean()) for q in ("qx0", "qy0")], "guess": float(guess),
                       "truth": truth["sampling"]}
            np.save(stem.with_suffix(".npy"), counts)
            stem.with_suffix(".json").write_text(json.dumps(numbers))
            cube = py4DSTEM.DataCube(counts)
            report = cube.prenet.calibrate(standard=name, progress=False)
            size = report.pixel_size
            result = {"size": float(size.value) if size is not None and size.accepted else None}
            save(stem, "prenet", [result])
            save(stem, "by hand", [by_hand(counts, numbers, threshold) for threshold in THRESHOLDS])
            print(stem.name, result["size"] and f"{100 * (result['size'] / truth['sampling'] - 1):+.3f} %", flush=True)


def save(stem, who, results):
    """Write the results of a method for one scan."""
    stem.with_suffix(f".{who.replace(' ', '_')}.result").write_text(json.dumps(results))


def by_hand(counts, numbers, threshold):
    """Pixel size by py4DSTEM, or None if it fails."""
    import py4DSTEM
    from py4DSTEM.braggvectors import Probe
    from py4DSTEM.process.diffraction import Crystal

    radius = numbers["radius"]
    cube = py4DSTEM.DataCube(counts.astype(np.float32))
    middle = (cube.Qshape[0] - 1) / 2
    axis = np.arange(cube.Qshape[0]) - middle
    probe = Probe((np.hypot(axis[:, None], axis) <= radius).astype(np.float32))
    probe.get_kernel(mode="sigmoid", radii=(radius, 2.2 * radius), origin=(middle, middle))
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), \
                warnings.catch_warnings():
            warnings.simplefilter("ignore")
            vectors = cube.find_Bragg_disks(
                template=probe.kernel, corrPower=1, sigma_cc=1, subpixel="multicorr", upsample_factor=32,
                minRelativeIntensity=threshold, minPeakSpacing=1.5 * radius, edgeBoundary=int(radius) + 1,
                maxNumPeaks=60)
            vectors.measure_origin(center_guess=numbers["center"], score_method="distance")
            vectors.fit_origin(fitfunction="parabola", robust=True, plot=False)
            vectors.calibration.set_Q_pixel_size(numbers["guess"])
            vectors.calibration.set_Q_pixel_units("A^-1")
            vectors.setcal()
            crystal = Crystal(*sites(numbers), cell=numbers["a"])
            crystal.calculate_structure_factors(k_max=K_RANGE[1] + 0.3)
            fitted = crystal.calibrate_pixel_size(vectors, bragg_k_power=1.0, k_min=K_RANGE[0], k_max=K_RANGE[1],
                                                  k_broadening=0.005, verbose=False)
            return {"size": float(fitted.calibration.get_Q_pixel_size())}
    except Exception as error:  # a peer that fails counts as failed
        return {"size": None, "why": repr(error)}


def sites(numbers):
    """Positions (fractions of the cell) and atomic numbers of the atoms in a cubic cell."""
    fcc = np.array([(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)])
    kinds = numbers["atomic_numbers"]
    shifts = {"fcc": [0], "bcc": None, "diamond": [0, 0.25], "zincblende": [0, 0.25], "rocksalt": [0, 0.5]}
    prototype = numbers["prototype"]
    if prototype in ("bcc", "cscl"):
        return np.array([(0, 0, 0), (0.5, 0.5, 0.5)], float), np.array(kinds * 2 if prototype == "bcc" else kinds)
    if prototype == "perovskite":
        a, b, x = kinds
        return np.array([(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]), \
            np.array([a, b, x, x, x])
    places = np.concatenate([fcc + shift for shift in shifts[prototype]]) % 1
    return places, np.repeat(kinds if len(kinds) > 1 else kinds * len(shifts[prototype]), 4)


def measure_by_quantem(folder):
    """Measure all scans of a folder with quantem."""
    import ase
    from quantem.core.datastructures.dataset4dstem import Dataset4dstem
    from quantem.diffraction.bragg_vectors import BraggVectors
    from quantem.diffraction.calibration import calibrate, measure_origins
    from quantem.diffraction.crystal import Crystal

    for path in sorted(folder.glob("*.json")):
        numbers, counts = json.loads(path.read_text()), np.load(path.with_suffix(".npy"))
        places, kinds = sites(numbers)
        atoms = ase.Atoms(numbers=kinds, scaled_positions=places, cell=[numbers["a"]] * 3, pbc=True)
        results = []
        for threshold in THRESHOLDS:
            try:
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), \
                        warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    crystal = Crystal.from_ase(atoms, verbose=False).calculate_structure_factors(k_max=1.0)
                    vectors = BraggVectors.from_dataset(Dataset4dstem.from_array(counts.astype(np.float32)))
                    vectors.make_template_synthetic(radius=numbers["radius"])
                    direct = float(vectors.detect_disks(positions=[(0, 0)], progressbar=False).numpy()[:, 2].max())
                    vectors.detect_disks(min_abs_intensity=threshold * direct, min_spacing=1.5 * numbers["radius"],
                                         edge_boundary=int(numbers["radius"]) + 1, progressbar=False)
                    origins = measure_origins(vectors, search_radius=8.0, center=numbers["center"])
                    centered = vectors.correct_peak_origins(origins, origin_ref=(0.0, 0.0))
                    found = calibrate(centered.peaks, crystal, numbers["guess"], k_min=K_RANGE[0], k_max=K_RANGE[1])
                results.append({"size": float(found.pixel_size)})
            except Exception as error:  # a peer that fails counts as failed
                results.append({"size": None, "why": repr(error)})
        save(path.with_suffix(""), "quantem", results)
        print(path.stem, [r["size"] and f"{100 * (r['size'] / numbers['truth'] - 1):+.3f} %" for r in results],
              [r["why"] for r in results if "why" in r][:1], flush=True)


def table(folder):
    """Print rms and largest error of each method and dose."""
    print("| electrons | kind | method | measured | median error | rms error | off by more than 1 % |\n"
          "|---|---|---|---|---|---|---|")
    scans = [(path, json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]
    for dose in DOSES:
        for kind in ("grains", "powder"):
            chosen = [(path, numbers) for path, numbers in scans if (numbers["dose"], numbers["kind"]) == (dose, kind)]
            for who in RESULTS:
                found = [(json.loads(path.with_suffix(f".{who.replace(' ', '_')}.result").read_text()), numbers)
                         for path, numbers in chosen if path.with_suffix(f".{who.replace(' ', '_')}.result").exists()]
                if not found:
                    continue
                errors = np.array([[np.nan if r["size"] is None else np.log(r["size"] / numbers["truth"])
                                    for r in results] for results, numbers in found])
                best = min(errors.T, key=lambda e: np.sqrt(np.nanmean(np.nan_to_num(e, nan=0.1) ** 2)))
                good = np.abs(best[np.isfinite(best)])
                if not len(good):
                    print(f"| {dose:,} | {kind} | {who} | 0 of {len(best)} | - | - | - |")
                    continue
                print(f"| {dose:,} | {kind} | {who} | {len(good)} of {len(best)} | {100 * np.median(good):.2f} % | "
                      f"{100 * np.sqrt(np.mean(good**2)):.2f} % | {int((good > 0.01).sum())} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--materials", type=int, default=4)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--quantem", action="store_true", help="measure the scans of the folder with quantem")
    parser.add_argument("--table", action="store_true", help="print the table")
    arguments = parser.parse_args()
    if arguments.quantem:
        measure_by_quantem(arguments.folder)
    elif arguments.table:
        table(arguments.folder)
    else:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        write(arguments.folder, arguments.materials, arguments.seed)


if __name__ == "__main__":
    main()
