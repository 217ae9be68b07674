"""Bragg disks in multislice scans with a known lattice: recall, false disks, positions and sigmas against the truth.

    python benchmarks/disks.py [--doses 300 3000 30000] [--crystals silicon gold iron] [--speed]

The scans (`simulation/known.py`) are thin and thick films of silicon, gold and iron near a zone axis, each in four
orientations within half a degree, seen through a camera with descan and an ellipse. `prenet` is `calibrate()` and
`find_bragg_disks` without a parameter. `by hand` is `find_Bragg_disks` with the true probe as the template, subpixel
positions by upsampled correlation, and the threshold of intensity that gives as many false disks as prenet, chosen with
the truth.

- recall: of the disks, with the center in the pattern, with more than 12 electrons above their background; a disk that
  is taken for the direct beam is found. Ideal: the power of the test of a Poisson count in the aperture at the true
  place, with the background known, at the false-alarm rate of a place for which prenet's threshold is set.
- false: found disks a pattern that are more than half a radius, more than 3 px, and more than three of their own sigmas
  (or a radius) from any point of the lattice, or at a point that a brighter one has; over the part of the
  pattern that is farther than 3 px from all points. The stated rate is 0.1. The points include those of higher Laue
  zones, whose rods reach the zero-order one in a thin film as weak disks (no other number uses them). In brackets
  those that lie on a place that is two standard deviations of its counts brighter than its surroundings in the pattern
  without noise: structure of the background; and the former count, of all that are more than half a radius and more
  than 3 px from any point of the zero-order zone.
- rms, bias: position error along one axis, of disks that both methods find, in 0.001 px; the bias is outward.
- bound: rms of the Cramer-Rao bound of these disks, for an aperture of uniform, known brightness on a known background;
  and, with the same mean brightness, of the Bayesian bound for brightness that varies inside by an unknown polynomial
  of degree CONTRAST_DEGREE, whose coefficients of each degree have the mean square of those of the disks of the row,
  fitted to the patterns without noise, on a uniform, unknown background.
- error / sigma: rms of disks with 12 to 50, 50 to 500, and more electrons above the background.

Positions are those of disks that the simulation holds whole: it has no electrons beyond 41 px from the direct beam.
"""

import argparse
import datetime
import os
import platform
import subprocess
import time
from itertools import pairwise

import numpy as np
import py4DSTEM
import torch
from py4DSTEM.braggvectors import Probe
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from scipy.special import ndtr
from scipy.stats import poisson
from strain import quiet, scan as strained

import py4dstem_prenet  # noqa: F401
from py4dstem_prenet.core import PrenetError, as_scan, ellipse_matrix, ellipse_vector
from py4dstem_prenet.disks import DiskFilter, DiskFinder, find_bragg_disks
from py4dstem_prenet.fits import Aperture, disk_terms
from py4dstem_prenet.simulation.known import GOLD, SILICON, Cubic, deformation, simulate_known, zone_axis

IRON = Cubic("bcc", 2.866, 26)
CRYSTALS = {"silicon": (SILICON, (1, 1, 0), (0, 0, 1), (80, 400)), "gold": (GOLD, (0, 0, 1), (1, 0, 0), (48, 160)),
            "iron": (IRON, (1, 1, 1), (1, -1, 0), (64, 240))}  # crystal, zone, rows, thicknesses in angstrom
SCAN, SHAPE = (8, 8), (60, 60)  # the simulation without aliasing ends 42 px from the direct beam, at the corners
WEAK_ELECTRONS = 12.0
GROUPS = (12.0, 50.0, 500.0, np.inf)
NEAR_PX = 3.0
WHOLE_PX = 36.0  # pixels from the direct beam; disks beyond are cut where the simulation ends
ROD = 0.45  # 1 / angstrom: points of higher Laue zones up to this height
TIMED = 200  # patterns
CONTRAST_DEGREE, WINDOW_PX = 6, 3.0  # of the bound for unknown contrast; pixels around a disk that it uses
EDGE_PX = 0.4  # pixels, 1 sigma; edge of a disk for this bound: 0.29 of a pixel, and that of a finite illuminated patch


def scan(name, thickness, seed=1, configurations=1):
    """A `KnownScan` of four orientations of a crystal."""
    crystal, zone, rows, _ = CRYSTALS[name]
    rng = np.random.default_rng((seed, len(name)))
    frames = np.empty((*SCAN, 3, 3))
    for k in range(4):
        tilt = np.radians(rng.uniform(-0.5, 0.5, 2))
        turn = np.eye(3)
        turn[0, 2], turn[1, 2], turn[2, 0], turn[2, 1] = *tilt, *-tilt
        frames[2 * k : 2 * k + 2] = turn @ deformation(turn=0.15 * k) @ zone_axis(zone, rows)
    return simulate_known(crystal, frames, thickness=thickness, shape=SHAPE, seed=seed, slice_angstrom=2.0,
                          antialias=True, configurations=configurations)


def lattice(known, crystal, rods=False):
    """Points of the zero-order Laue zone for each position, pixels, the direct beam left out; or those of the others.

    A thin film extends the points of higher Laue zones to rods, which reach the zero-order one as weak disks.
    """
    truth = known.truth
    matrix = ellipse_matrix(ellipse_vector(truth["a"] / truth["b"], 1.0, truth["theta"]))
    count = int(np.ceil(crystal.edge / truth["sampling"] ** -1 * max(known.expected.shape[2:])))
    axis = np.arange(-count, count + 1)
    hkl = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    # Forbidden reflections are points of the lattice too, where they are sums of allowed ones.
    hkl = hkl[(np.abs(hkl).sum(1) > 0)]
    allowed = np.abs(np.exp(2j * np.pi * hkl @ np.array([(0, .5, .5), (.5, 0, .5)]).T) - 1).max(1) < 1e-6
    if len(crystal.sites) == 2:
        allowed = hkl.sum(1) % 2 == 0
    hkl = hkl[allowed]
    points = []
    for k, frame in enumerate(truth["frames"].reshape(-1, 3, 3)):
        g = hkl @ np.linalg.inv(frame) / crystal.edge
        flat = np.abs(g[:, 2]) < 0.04  # 1 / angstrom: the zero-order zone alone, tilted
        g = g[(np.abs(g[:, 2]) < ROD) & ~flat if rods else flat][:, :2]
        at = g @ matrix.T / truth["sampling"] + [truth["qx0"].flat[k], truth["qy0"].flat[k]]
        shape = known.expected.shape[2:]
        margin = truth["radius"] + 0.5  # disks with the center outside are seen in part
        points.append(at[((at > -margin) & (at < np.subtract(shape, 1) + margin)).all(1)])
    return points


def disk_truth(known, points, dose):
    """Electrons above and of the background of each disk, and two bounds of its position along one axis, pixels.

    The brightness of a disk is uniform and known for the first bound; it varies and is not known for the second.
    """
    truth, shape = known.truth, known.expected.shape[2:]
    vector = tuple(ellipse_vector(truth["a"] / truth["b"], 1.0, truth["theta"]))
    filter_ = DiskFilter(Aperture(truth["radius"], 0.3, vector), shape)
    expected = known.expected.reshape(-1, *shape) * dose
    ideal = np.linalg.inv(ellipse_matrix(vector))
    grid = np.stack(np.indices(shape), -1)
    electrons, beneath, bounds, bright, cases = [], [], [], [], []
    for k, at in enumerate(points):
        image = torch.from_numpy(expected[k][None])
        every = np.vstack([at, [truth["qx0"].flat[k], truth["qy0"].flat[k]]])
        free = np.ones(shape, bool)
        for point in every:
            free &= np.hypot(*((grid - point) @ ideal.T).transpose(2, 0, 1)) > filter_.inner
        place, free = np.rint(at).astype(int), torch.from_numpy(free)[None]
        none = np.zeros(len(at), int)
        on, area = (filter_.sums_at(x, none, place, 0).numpy() for x in (image, torch.ones_like(image)))
        off, ring = (filter_.sums_at(x, none, place, 1).numpy() for x in (image * free, free.float()))
        level = off / np.maximum(ring, 1)
        signal = on - level * area
        inside = ((at >= 0) & (at <= np.subtract(shape, 1))).all(1)
        electrons.append(np.where((ring > 5) & inside, signal, np.nan))
        beneath.append((level * area).clip(1e-3))
        bound = np.full((2, len(at)), np.nan)
        for n, point in enumerate(at):
            if signal[n] <= 0 or area[n] < 0.95 * filter_.area:
                continue
            away = (grid - point) @ ideal.T / truth["radius"]
            distance = np.hypot(*away.transpose(2, 0, 1))
            disk = gaussian_filter((distance < 1) * 1.0, 0.5)
            slopes = np.gradient(disk)
            terms = disk_terms(*torch.from_numpy(away / np.maximum(distance, 1)[..., None]).float().unbind(-1),
                               CONTRAST_DEGREE).numpy().astype(float)
            used = distance < 1 + WINDOW_PX / truth["radius"]
            beyond = (distance[used] - 1) * truth["radius"] / EDGE_PX
            smooth, bell = ndtr(-beyond), np.exp(-0.5 * beyond**2) / (np.sqrt(2 * np.pi) * EDGE_PX)
            mean = signal[n] / smooth.sum()
            moved = mean * bell[:, None] * (away[used] / distance[used, None].clip(1e-6)) @ ideal
            lit = mean * smooth[:, None] * terms[used]
            bright.append(np.linalg.lstsq(lit, expected[k][used] - level[n], rcond=None)[0])
            cases.append((bound, n, np.column_stack([moved, lit, np.ones(len(lit))]),
                          mean * smooth + max(level[n], 1e-4)))
            rate = signal[n] / disk.sum() * disk + max(level[n], 1e-4)
            information = [(signal[n] / disk.sum() * s) ** 2 / rate for s in slopes]
            bound[0, n] = np.sqrt(np.mean([1 / i.sum() for i in information]))
        bounds.append(bound)
    degree = np.repeat(np.arange(CONTRAST_DEGREE + 1), np.arange(CONTRAST_DEGREE + 1) + 1)
    square = np.mean(np.square(bright), 0)
    prior = np.array([0 if d == 0 else 1 / square[degree == d].mean() for d in degree])
    for bound, n, design, rate in cases:
        information = design.T @ (design / rate[:, None]) + np.diag([0, 0, *prior, 0])
        bound[1, n] = np.sqrt(np.linalg.inv(information).diagonal()[:2].mean())
    return electrons, beneath, bounds


def by_hand(counts, radius):
    """Rows (position in the scan, qx, qy, intensity) of `find_Bragg_disks` without a threshold of intensity."""
    middle = (counts.shape[-1] - 1) / 2
    axis = np.arange(counts.shape[-1]) - middle
    probe = Probe((np.hypot(axis[:, None], axis) <= radius).astype(np.float32))
    probe.get_kernel(mode="sigmoid", radii=(radius, 2.2 * radius), origin=(middle, middle))
    data = py4DSTEM.DataCube(counts.astype(np.float32))
    vectors = data.find_Bragg_disks(template=probe.kernel, corrPower=1, sigma_cc=1, subpixel="multicorr",
                                    upsample_factor=32, minRelativeIntensity=0, minPeakSpacing=1.5 * radius,
                                    edgeBoundary=int(radius) + 1, maxNumPeaks=120)
    rows = []
    for k in range(int(np.prod(counts.shape[:2]))):
        points = vectors.raw[divmod(k, counts.shape[1])]
        rows.append(np.stack([np.full(len(points.qx), k), points.qx, points.qy, points.I], 1))
    return np.concatenate(rows)


def on_structure(known, rows, dose):
    """Whether the pattern without noise is brighter at places than around them."""
    truth, shape = known.truth, known.expected.shape[2:]
    filter_ = DiskFilter(Aperture(truth["radius"], 0.3, (0.0, 0.0)), shape)
    images = torch.from_numpy(known.expected.reshape(-1, *shape) * dose)
    pattern, place = rows[:, 0].astype(int), np.clip(np.rint(rows[:, 1:3]).astype(int), 0, np.subtract(shape, 1))
    ones = torch.ones(1, *shape)
    on, off = (filter_.sums_at(images, pattern, place, kernel).numpy() for kernel in (0, 1))
    area, ring = (filter_.sums_at(ones, 0 * pattern, place, kernel).numpy() for kernel in (0, 1))
    return on - off * area / np.maximum(ring, 1) > 2 * np.sqrt(on)


def match(rows, points, origins, reach):
    """Nearest lattice point of each row and the distance to it; -1 for the direct beam."""
    nearest, distance = np.full(len(rows), -1), np.zeros(len(rows))
    for n, row in enumerate(rows):
        k = int(row[0])
        if np.hypot(*(row[1:3] - origins[k])) < reach:
            continue
        away = np.hypot(*(points[k] - row[1:3]).T)
        nearest[n], distance[n] = away.argmin(), away.min()
    return nearest, distance


def first_at(rows, nearest, near):
    """Whether a row is near its lattice point, and the brightest of those of the same point."""
    out, seen = np.zeros(len(rows), bool), set()
    for n in np.argsort(-rows[:, 3], kind="stable"):
        key = int(rows[n, 0]), int(nearest[n])
        if near[n] and nearest[n] >= 0 and key not in seen:
            seen.add(key)
            out[n] = True
    return out


def measured(known, crystal, dose):
    """One row of the table."""
    counts = known.counts(dose)
    points, rods = lattice(known, crystal), lattice(known, crystal, rods=True)
    origins = np.stack([known.truth["qx0"], known.truth["qy0"]], -1).reshape(-1, 2)
    electrons, beneath, bounds = disk_truth(known, points, dose)
    patterns = len(points)
    reach = max(NEAR_PX, 0.5 * known.truth["radius"])
    grid = np.stack(np.indices(known.expected.shape[2:]), -1).reshape(-1, 2)
    free = 1 - np.mean([cKDTree(np.vstack(some)).query(grid)[0] < reach for some in zip(points, rods, origins[:, None],
                                                                                      strict=True)])
    cube = py4DSTEM.DataCube(counts)
    quiet(cube.prenet.calibrate, progress=False)
    origin = cube.calibration.get_origin()
    result = find_bragg_disks(counts, progress=False, origin=origin if origin and origin[0] is not None else None)
    bragg = np.isfinite(result.table["significance"])
    table, taken = result.table[bragg], result.table[~bragg]
    ours = np.stack([table["position"], table["qx"], table["qy"], table["intensity"]], 1)
    hand = quiet(by_hand, counts, known.truth["radius"])
    sets = {}
    for name, rows in (("prenet", ours), ("by hand", hand)):
        nearest, distance = match(rows, points, origins, known.truth["radius"])
        bragg = nearest >= 0
        near = np.full(len(rows), reach)
        if name == "prenet":
            wide = 3 * np.maximum(table["sigma_qx"], table["sigma_qy"])
            near = np.maximum(near, np.minimum(wide, known.truth["radius"]))
        owned = first_at(rows, nearest, distance < near)
        false = bragg & ~owned & (match(rows, rods, origins, known.truth["radius"])[1] >= near)
        keep = np.ones(len(rows), bool)
        if name == "by hand":  # the threshold that gives as many false disks as ours
            least = np.sort(rows[false, 3])[::-1]
            allowed = round(sets["prenet"]["false"] * patterns * free)
            keep = rows[:, 3] > (least[allowed] if allowed < len(least) else -np.inf)
        true = bragg & (distance < reach) & owned & keep
        former = bragg & (distance >= reach)
        sets[name] = dict(former=former.sum() / patterns, index=np.flatnonzero(true), wrong=false & keep,
                          false=(false & keep).sum() / patterns / free,
                          key={(int(rows[n, 0]), int(nearest[n])): n for n in np.flatnonzero(true)}, rows=rows)
    visible = {(k, n) for k in range(patterns) for n in np.flatnonzero(electrons[k] > WEAK_ELECTRONS)}
    away = [np.hypot(*(at - origin).T) for at, origin in zip(points, origins, strict=True)]
    whole = {(k, n) for k in range(patterns) for n in np.flatnonzero(away[k] < WHOLE_PX)}
    both = [key for key in visible & whole if key in sets["prenet"]["key"] and key in sets["by hand"]["key"]
            and np.isfinite(bounds[key[0]][0, key[1]])]
    taken = {(int(row["position"]), n) for row in taken
             for n in np.flatnonzero(np.hypot(*(points[row["position"]] - [row["qx"], row["qy"]]).T) < reach)}
    out = {"visible": len(visible) / patterns,
           "bound": 1e3 * np.sqrt(np.mean([bounds[k][:, n] ** 2 for k, n in both], 0)) if both else [np.nan] * 2}
    for name, found in sets.items():
        error = np.array([found["rows"][found["key"][key], 1:3] - points[key[0]][key[1]] for key in both])
        outward = np.array([points[k][n] - origins[k] for k, n in both]).reshape(-1, 2)
        outward /= np.hypot(*outward.T)[:, None]
        seen = set(found["key"]) | (taken if name == "prenet" else set())
        out[name] = (len(visible & seen) / max(len(visible), 1), found["false"],
                     1e3 * np.sqrt((error**2).mean()) if both else np.nan,
                     1e3 * (error * outward).sum(1).mean() if both else np.nan)
    out["ideal"] = np.mean([poisson.sf(poisson.isf(ndtr(-result.threshold), beneath[k][n]),
                                       electrons[k][n] + beneath[k][n]) for k, n in visible]) if visible else np.nan
    pulls = []
    for key, n in sets["prenet"]["key"].items():
        if key not in whole:
            continue
        sigma = np.array([table["sigma_qx"][n], table["sigma_qy"][n]])
        pull = (ours[n, 1:3] - points[key[0]][key[1]]) / sigma
        pulls.append((electrons[key[0]][key[1]], *pull))
    wrong = np.flatnonzero(sets["prenet"]["wrong"])
    out["former"] = sets["prenet"]["former"]
    out["on structure"] = on_structure(known, ours[wrong], dose).sum() / patterns
    out["pulls"] = np.array(pulls).reshape(-1, 3)
    return out


def rms_by_electrons(pulls):
    """error / sigma, rms, for each group of electrons."""
    values = []
    for low, high in pairwise(GROUPS):
        group = pulls[(pulls[:, 0] > low) & (pulls[:, 0] <= high), 1:]
        values.append(f"{np.sqrt((group**2).mean()):.2f}" if len(group) > 10 else "-")
    return " / ".join(values)


def speed(doses):
    """Print the time of a processor for a pattern of 128 x 128 pixels of the scan of `strain.py`."""
    known, _ = strained(seed=1)
    origin = np.stack([known.truth["qx0"], known.truth["qy0"]], -1).reshape(-1, 2)
    torch.set_num_threads(1)
    for dose in doses:
        counts = known.counts(dose)
        block, index = counts.reshape(-1, 128, 128)[:TIMED], np.arange(TIMED)
        begin = time.process_time()
        finder = DiskFinder.learn(as_scan(counts), origin=origin)
        learned, taken = time.process_time() - begin, []
        for _ in range(3):
            begin = time.process_time()
            rows = finder.find(index, block)
            taken.append(time.process_time() - begin)
        print(f"{dose:,} electrons, {len(rows) / TIMED:.1f} disks: {1e3 * min(taken) / TIMED:.1f} ms a pattern, after "
              f"{learned:.1f} s of learning", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--doses", type=int, nargs="+", default=[300, 3000, 30_000])
    parser.add_argument("--crystals", nargs="+", choices=CRYSTALS, default=list(CRYSTALS))
    parser.add_argument("--configurations", type=int, default=1, help="frozen-phonon configurations that are averaged")
    parser.add_argument("--seed", type=int, default=1, help="of the scans")
    parser.add_argument("--speed", action="store_true", help="measure the speed alone")
    args = parser.parse_args()
    if args.speed:
        speed(args.doses)
        return
    began = time.time()
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    print(f"{SCAN[0]} x {SCAN[1]} patterns of {SHAPE[0]} x {SHAPE[1]} pixels; {datetime.date.today()}, commit {commit},"
          f" {os.cpu_count()} cores ({platform.machine()}), no GPU.\n")
    print("| specimen | electrons | visible disks a pattern | recall, prenet / by hand / ideal | false a pattern | "
          "rms, prenet / by hand / bounds | bias | error / sigma |\n" + "|---" * 8 + "|")
    every = []
    for name in args.crystals:
        for thickness in CRYSTALS[name][3]:
            known = scan(name, thickness, args.seed, args.configurations)
            for dose in args.doses:
                try:
                    row = measured(known, CRYSTALS[name][0], dose)
                except PrenetError as refused:
                    print(f"| {name}, {thickness} Å | {dose:,} | refused: {refused} |" + " - |" * 5,
                          flush=True)
                    continue
                every.append(row)
                ours, hand = row["prenet"], row["by hand"]
                print(f"| {name}, {thickness} Å | {dose:,} | {row['visible']:.1f} | "
                      f"{ours[0]:.2f} / {hand[0]:.2f} / {row['ideal']:.2f} | "
                      f"{ours[1]:.2f} ({row['on structure']:.2f}; {row['former']:.2f}) | "
                      f"{ours[2]:.0f} / {hand[2]:.0f} / {row['bound'][0]:.0f}, {row['bound'][1]:.0f} | "
                      f"{ours[3]:.0f} / {hand[3]:.0f} | {rms_by_electrons(row['pulls'])} |", flush=True)
    print(f"\nAll: error / sigma {rms_by_electrons(np.concatenate([row['pulls'] for row in every]))}; "
          f"false disks a pattern {np.mean([row['prenet'][1] for row in every]):.3f}, "
          f"on structure {np.mean([row['on structure'] for row in every]):.3f}, by the former count "
          f"{np.mean([row['former'] for row in every]):.3f}. "
          f"{time.time() - began:.0f} s.")


if __name__ == "__main__":
    main()
