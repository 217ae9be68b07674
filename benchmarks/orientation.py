"""Compare orientation maps by py4DSTEM after different calibrations of the same scan with the truth.

    python benchmarks/orientation.py [--doses 300 3000 30000] [--figure docs/orientation.png]

The scan is multislice gold (`simulation/known.py`), a thin film of twelve grains near [001] or [011], each turned and
tilted by up to 3 degrees and bent by some tenths of a degree from position to position, seen through a camera with
descan and an ellipse of five per cent. All methods get the same counts, the true probe as the template, the same disk
detection, the true pixel size (multiplied by sqrt(a / b) of their own ellipse, as py4DSTEM needs it) and the same
orientation plan, which was set by hand on patterns without noise:

- truth given: the true origins and ellipse; the remaining error is that of py4DSTEM's matching and of the counts.
- by hand, no ellipse: `measure_origin` from the disks, near the true center, and py4DSTEM's robust parabola.
- by hand: the same, and an ellipse by `fit_ellipse_1D` on the {220} ring of the Bragg vector map, in a window set by
  hand.
- prenet: `calibrate()` without a parameter.
- prenet, disks: the same calibration, and `bragg_disks()` instead of `find_Bragg_disks`.
- denoised: disks in denoised patterns, each pattern alone (`scan_aware=False`) or with its neighbors in the scan.

The error is the misorientation from the truth, the smallest over the 24 rotations of the cube: its median over all
positions (no orientation counts as 180 degrees), the fraction within 2 degrees, and the fraction of failures, off by
more than 5. Grains near [111] are left out: in the zero-order Laue zone the crystal and its twin, 60 degrees away, have
the same pattern, and py4DSTEM confused them in 12 of 17 such patterns without noise and with the true calibration.
"""

import argparse
import datetime
import os
import platform
import subprocess

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import py4DSTEM
from py4DSTEM.braggvectors import Probe
from py4DSTEM.process.calibration import fit_ellipse_1D
from py4DSTEM.process.diffraction import Crystal
from scipy.spatial.transform import Rotation
from strain import quiet

import py4dstem_prenet  # noqa: F401
from py4dstem_prenet.simulation.known import GOLD, OPTICS, misorientation, simulate_known, zone_axis

SCAN = (16, 20)
GRAINS = (3, 4)
ZONES = ((0, 0, 1), (0, 1, 1))
CLOSE, FAR = 2.0, 5.0  # degrees
RING = (31.0, 38.5)  # px, around {220}
PREPARED = ("truth given", "by hand, no ellipse", "by hand", "prenet", "prenet, disks", "denoised alone",
            "denoised in the scan")


def scan(seed):
    """A `KnownScan`, the number of the grain at each position in its truth."""
    rng = np.random.default_rng((seed, 7))
    at = np.stack(np.meshgrid(*map(np.arange, SCAN), indexing="ij"), -1)
    cells = np.stack(np.meshgrid(*map(np.arange, GRAINS), indexing="ij"), -1).reshape(-1, 2)
    seeds = (cells + rng.uniform(0.15, 0.85, cells.shape)) * SCAN / GRAINS
    grain = np.argmin(((at[:, :, None] - seeds) ** 2).sum(-1), -1)
    frames = np.empty((*SCAN, 3, 3))
    for number in range(len(seeds)):
        zone = ZONES[cells[number].sum() % len(ZONES)]
        turned = Rotation.from_rotvec([0, 0, rng.uniform(0, 2 * np.pi)]).as_matrix() @ zone_axis(zone, (1, 0, 0))
        toward, inside = rng.uniform(0, 2 * np.pi), grain == number
        tilt = np.radians(rng.uniform(0.5, 3.0)) * np.array([np.cos(toward), np.sin(toward), 0])
        bend = (at[inside] - at[inside].mean(0)) @ np.radians(rng.normal(0, 0.2, (2, 3)))
        frames[inside] = Rotation.from_rotvec(tilt + bend).as_matrix() @ turned
    thickness = np.linspace(24, 56, SCAN[1])[None] * np.ones(SCAN)
    known = simulate_known(GOLD, frames, thickness=thickness, seed=seed, ratio=1.05)
    return known, grain


def disks(data, radius):
    """Bragg vectors of a scan; the template is the true probe."""
    middle = (data.Qshape[0] - 1) / 2
    axis = np.arange(data.Qshape[0]) - middle
    probe = Probe((np.hypot(axis[:, None], axis) <= radius).astype(np.float32))
    probe.get_kernel(mode="sigmoid", radii=(radius, 2.2 * radius), origin=(middle, middle))
    return data.find_Bragg_disks(template=probe.kernel, corrPower=1, sigma_cc=1, subpixel="multicorr",
                                 upsample_factor=16, minRelativeIntensity=0.005, minPeakSpacing=1.5 * radius,
                                 edgeBoundary=int(radius) + 1, maxNumPeaks=40)


def gold():
    """py4DSTEM's crystal with its orientation plan over the cubic triangle."""
    crystal = Crystal(GOLD.sites, GOLD.number, GOLD.edge)
    crystal.setup_diffraction(OPTICS.volts)
    crystal.calculate_structure_factors(1.2)
    crystal.orientation_plan(zone_axis_range=np.array([[0, 1, 1], [1, 1, 1]]), angle_step_zone_axis=1.0,
                             angle_coarse_zone_axis=3.0, angle_step_in_plane=2.0, accel_voltage=OPTICS.volts,
                             corr_kernel_size=0.05, sigma_excitation_error=0.01, progress_bar=False)
    return crystal


def frames_of(crystal, vectors, origin, ellipse, sampling):
    """(Rx, Ry, 3, 3) frames that py4DSTEM finds with this calibration; zeros where it finds none."""
    vectors.calibration.set_origin(origin)
    a, b, theta = ellipse or (None, None, None)
    vectors.calibration.set_ellipse((a, b, theta))
    vectors.calibration.set_Q_pixel_size(sampling * (np.sqrt(a / b) if ellipse else 1))
    vectors.calibration.set_Q_pixel_units("A^-1")
    vectors.setcal(ellipse=ellipse is not None)
    return crystal.match_orientations(vectors, progress_bar=False).matrix[:, :, 0].swapaxes(-1, -2)


def by_hand(vectors, truth):
    """Origin and ellipse as py4DSTEM's own functions give them with good settings."""
    guess = (truth["qx0"].mean(), truth["qy0"].mean())
    vectors.calibration.set_origin_meas(vectors.measure_origin(center_guess=guess, score_method="distance")[:2])
    vectors.fit_origin(fitfunction="parabola", robust=True, plot=False)
    vectors.setcal(ellipse=False, pixel=False)
    bragg = vectors.histogram(mode="cal", sampling=2)
    ellipse = fit_ellipse_1D(bragg.data, bragg.origin, tuple(2 * r for r in RING))[2:]
    return vectors.calibration.get_origin(), ellipse


def prepared(crystal, counts, truth, denoise=True):
    """{name: (frames, ellipse or None)} from each preparation of the same counts."""
    cube = py4DSTEM.DataCube(counts)
    cube.prenet.calibrate(progress=False)
    ours = cube.calibration.get_origin(), cube.calibration.get_ellipse()
    ours_disks = cube.prenet.bragg_disks(progress=False)
    vectors = disks(py4DSTEM.DataCube(counts.astype(np.float32)), truth["radius"])
    denoised = [disks(cube.prenet.denoise(scan_aware=mode, progress=False), truth["radius"])
                for mode in (False, True)] if denoise else []
    hand = by_hand(vectors, truth)
    true = (truth["qx0"], truth["qy0"]), (truth["a"], truth["b"], truth["theta"])
    given = dict(zip(PREPARED, ((vectors, *true), (vectors, hand[0], None), (vectors, *hand), (vectors, *ours),
                                (ours_disks, *ours), *((some, *ours) for some in denoised)), strict=False))
    return {name: (frames_of(crystal, *some, truth["sampling"]), some[2]) for name, some in given.items()}


def summary(error):
    """Median, degrees, the part within `CLOSE`, the part that failed."""
    error = np.nan_to_num(error, nan=180.0)
    return np.median(error), (error < CLOSE).mean(), (error > FAR).mean()


def colors(frames):
    """(Rx, Ry, 3): the crystal direction along the rows, [001] red, [011] green, [111] blue; black where none is."""
    low, middle, high = np.moveaxis(np.sort(np.abs(frames[..., 0, :]), -1), -1, 0)
    color = np.stack([high - middle, (middle - low) * np.sqrt(2), low * np.sqrt(3)], -1)
    return color / np.maximum(color.max(-1, keepdims=True), 1e-9)


def figure(path, true, maps, table, doses):
    shown = doses[0]
    drawn = plt.figure(figsize=(12, 7), constrained_layout=True)
    top, bottom = drawn.subfigures(2, 1, height_ratios=(1, 1))
    axes = top.subplots(2, len(PREPARED) + 1)
    for ax in axes.ravel():
        ax.set(xticks=[], yticks=[])
    axes[0, 0].imshow(colors(true))
    axes[0, 0].set_title("true")
    axes[1, 0].axis("off")
    for name, (above, below) in zip(PREPARED, axes[:, 1:].T, strict=True):
        frames = maps[shown][name][0]
        above.imshow(colors(frames))
        above.set_title(name.replace(", ", ",\n").replace(" in", "\nin"), fontsize=10)
        image = below.imshow(np.nan_to_num(misorientation(frames, true), nan=180), vmin=0, vmax=FAR, cmap="magma")
    top.colorbar(image, ax=axes[1], label="off by, degrees", extend="max")
    top.suptitle(f"{shown:,} electrons per pattern: crystal direction along the rows, and misorientation")
    titles = "median misorientation, degrees", f"within {CLOSE:g} degrees, %", f"off by more than {FAR:g} degrees, %"
    for k, (ax, title) in enumerate(zip(bottom.subplots(1, 3), titles, strict=True)):
        for name, look, size in zip(PREPARED, ("k--", "o-", "s-", "o-", "o-", "o-", "o-"),
                                    (0, 5, 10, 5, 5, 5, 5), strict=True):
            values = np.array([table[dose][name][k] for dose in doses]) * (100 if k else 1)
            ax.semilogx(doses, values, look, ms=size, label=name)
        ax.set(title=title, xlabel="electrons per pattern")
        ax.set_ylim(0, None if k != 1 else 103)
    ax.legend(frameon=False)
    drawn.savefig(path, dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--doses", type=int, nargs="+", default=[300, 3000, 30_000])
    parser.add_argument("--no-denoising", action="store_true", help="leave out the rows of denoised patterns")
    parser.add_argument("--figure")
    args = parser.parse_args()
    known, _ = scan(seed=1)
    true = known.truth["frames"]
    crystal = quiet(gold)
    maps = {dose: quiet(prepared, crystal, known.counts(dose), known.truth, not args.no_denoising)
            for dose in args.doses}
    table = {dose: {name: summary(misorientation(some[0], true)) for name, some in by.items()}
             for dose, by in maps.items()}
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    print(f"{SCAN[0]} x {SCAN[1]} patterns of 128 x 128 pixels; {datetime.date.today()}, commit {commit}, "
          f"{os.cpu_count()} cores ({platform.machine()}), no GPU. Median misorientation (positions within {CLOSE:g} "
          f"degrees; failed, off by more than {FAR:g}).\n")
    print("| electrons per pattern | " + " | ".join(f"{d:,}" for d in args.doses) + " |\n|---"
          + "|---" * len(args.doses) + "|")
    for name in maps[args.doses[0]]:
        cells = ["{:.2f}° ({:.0f} %; {:.0f} %)".format(*np.multiply(table[d][name], (1, 100, 100)))
                 for d in args.doses]
        print(f"| {name} | " + " | ".join(cells) + " |")
    ratios = (f"{dose:,}: " + ", ".join(f"{ellipse[0] / ellipse[1]:.4f} at {np.degrees(ellipse[2]) % 180:.1f}°"
              if ellipse else "none" for ellipse in (maps[dose][name][1] for name in (PREPARED[0], *PREPARED[2:4])))
              for dose in args.doses)
    print("\nEllipse, true, by hand, prenet: " + "; ".join(ratios) + ".")
    if args.figure:
        figure(args.figure, true, maps, table, args.doses)


if __name__ == "__main__":
    main()
