"""Calibrate random scenes with sharp direct beams that have long tails, and count what is right, refused and wrong.

    python benchmarks/sharp_beams.py [--scenes 60] [--first 0] [--size 256] [--list]

A scene is a parallel or nearly parallel beam: a core of 0.7 to 5 px radius (Gaussian, disk, or Lorentzian) with
power-law tails, on a diffuse halo, among spots of a crystal, rings or nothing, blurred by the detector. In parts of
the scenes the core saturates, a Bragg spot lies 3 to 6 px beside it, the limit of the frame or a bar cuts the tails,
and the detector counts electrons or is a camera. 40 % are scans of 2 x 2 or 4 x 4 positions with descan. An origin is
right within 0.3 px, covered within three sigmas, and else silently wrong.
"""

import argparse
import datetime
import platform
import subprocess
import time
import warnings

import numpy as np
import py4DSTEM
from py4DSTEM.process.calibration.origin import get_origin
from scipy.ndimage import gaussian_filter

from py4dstem_prenet.pipeline import calibrate

RIGHT_PX, COVERED_SIGMAS = 0.3, 3
FINE, FINE_REACH = 5, 14  # samples along the side of a pixel in the core, and its half side in pixels


def profile_of(rng):
    """Radial profile of a spot, a function of the distance in pixels; its radius, and a word for it."""
    radius = float(np.exp(rng.uniform(np.log(0.7), np.log(5.0))))
    kind = rng.choice(["gaussian", "disk", "lorentzian"])
    share = np.exp(rng.uniform(np.log(0.003), np.log(0.3)))  # height of the tail in that of the core
    width, power = radius * np.exp(rng.uniform(0, np.log(8))), rng.uniform(0.8, 2.0)

    def profile(r):
        core = {"gaussian": np.exp(-np.log(2) * (r / radius) ** 2), "disk": 1 / (1 + np.exp((r - radius) / 0.2)),
                "lorentzian": (1 + (r / radius) ** 2) ** -1.5}[kind]
        return core + share * (1 + (r / width) ** 2) ** -power

    return profile, radius, kind


def drawn(image, profile, at, height):
    """Add a spot to an image; its core is averaged over pixels."""
    x, y = np.indices(image.shape)
    whole = profile(np.hypot(x - at[0], y - at[1]))
    low = np.maximum(np.round(at).astype(int) - FINE_REACH, 0)
    high = np.minimum(np.round(at).astype(int) + FINE_REACH + 1, image.shape)
    if (high > low).all():
        axes = [((np.arange((b - a) * FINE) + 0.5) / FINE - 0.5 + a) - c for a, b, c in zip(low, high, at, strict=True)]
        fine = profile(np.hypot(axes[0][:, None], axes[1]))
        sides = high - low
        whole[low[0] : high[0], low[1] : high[1]] = fine.reshape(sides[0], FINE, sides[1], FINE).mean((1, 3))
    image += height * whole


def scene(seed, side):
    """Data (Rx, Ry, side, side), origins (2, Rx, Ry), and words for what the scene holds."""
    rng = np.random.default_rng((seed, 77))
    profile, radius, kind = profile_of(rng)
    scan = [(1, 1), (1, 1), (1, 1), (2, 2), (4, 4)][rng.integers(5)]
    near_limit = rng.random() < 0.2
    middle = rng.uniform(0.25, 0.75, 2) * side
    if near_limit:
        middle[rng.integers(2)] = rng.uniform(2, 6) * radius + 2
    words = [kind, f"r{radius:.1f}"] + ["limit"] * bool(near_limit)
    what = rng.choice(["crystal", "rings", "empty"], p=[0.6, 0.25, 0.15])
    words.append(what)
    angle, length = rng.uniform(0, np.pi), side * np.exp(rng.uniform(np.log(0.06), np.log(0.25)))
    other = angle + rng.uniform(0.9, 2.0)
    lattice = length * np.array([[np.cos(angle), np.sin(angle)], [np.cos(other), np.sin(other)]])
    orders = np.array([(h, k) for h in range(-3, 4) for k in range(-3, 4) if (h, k) != (0, 0)])
    reach = side * rng.uniform(0.15, 0.5)
    brightness = np.exp(rng.uniform(np.log(0.003), np.log(0.6), len(orders)))
    brightness *= np.exp(-((np.hypot(*(orders @ lattice).T) / reach) ** 2))
    neighbor = rng.random() < 0.2
    words += ["neighbor"] * bool(neighbor)
    turn, gap, height = rng.uniform(0, 2 * np.pi), rng.uniform(3, 6) + radius, rng.uniform(0.03, 0.3)
    halo, halo_width = np.exp(rng.uniform(np.log(1e-5), np.log(0.02))), side * np.exp(rng.uniform(-3.5, -1.2))
    ring_radii = side * rng.uniform(0.1, 0.2) * np.sqrt([1, 4 / 3, 8 / 3, 11 / 3])
    ring_height = np.exp(rng.uniform(np.log(1e-4), np.log(0.03)))
    descan = rng.uniform(-1, 1, (2, 2)) * rng.uniform(0, 1.5)
    bar = rng.random() < 0.15
    words += ["bar"] * bool(bar)
    bar_turn, bar_gap = rng.uniform(0, 2 * np.pi), rng.uniform(1.5, 4) * radius + 2
    psf = rng.uniform(0.3, 1.2) if rng.random() < 0.7 else 0.0
    camera, saturated = rng.random() < 0.4, rng.random() < 0.3
    words += ["camera"] * bool(camera) + ["saturated"] * bool(saturated)
    peak = float(np.exp(rng.uniform(np.log(30), np.log(3e4))))
    x, y = np.indices((side, side))
    origins, patterns = np.empty((2, *scan)), np.empty((*scan, side, side))
    for i in range(scan[0]):
        for j in range(scan[1]):
            at = middle + descan @ [i / max(scan[0] - 1, 1), j / max(scan[1] - 1, 1)]
            origins[:, i, j] = at
            image = np.zeros((side, side))
            drawn(image, profile, at, 1.0)
            if what == "crystal":
                varied = brightness * np.exp(rng.normal(0, 0.3, len(orders)))
                for place, b in zip(orders @ lattice, varied, strict=True):
                    if b > 1e-4:
                        drawn(image, profile, at + place, b)
            r = np.hypot(x - at[0], y - at[1])
            if what == "rings":
                for k, q in enumerate(ring_radii):
                    image += ring_height / (k + 1) * np.exp(-0.5 * ((r - q) / (0.008 * side + 0.5)) ** 2)
            if neighbor:
                drawn(image, profile, at + gap * np.array([np.cos(turn), np.sin(turn)]), height)
            image += halo / (1 + (r / halo_width) ** 2) ** 1.3
            patterns[i, j] = gaussian_filter(image, psf) if psf else image
            if bar:
                along = (x - middle[0]) * np.cos(bar_turn) + (y - middle[1]) * np.sin(bar_turn)
                across = (y - middle[1]) * np.cos(bar_turn) - (x - middle[0]) * np.sin(bar_turn)
                patterns[i, j][(along > bar_gap) & (np.abs(across) < 0.03 * side)] *= 0.02
    counts = rng.poisson(patterns * peak).astype(float)
    if camera:
        counts = np.rint(counts * 9 + 100 + rng.normal(0, 4, counts.shape)).clip(0)
    if saturated:
        floor = 100.0 if camera else 0.0
        counts = counts.clip(None, np.ceil(floor + (counts.max() - floor) * rng.uniform(0.15, 0.7)))
    return counts.astype(np.uint16 if counts.max() < 65536 else np.uint32), origins, words


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--list", action="store_true", help="print every scene")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    counts, pulls, others, errors, seconds = {}, [], [], [], []
    for seed in range(args.first, args.first + args.scenes):
        data, origins, words = scene(seed, args.size)
        start = time.perf_counter()
        report = calibrate(py4DSTEM.DataCube(data), progress=False)
        seconds.append(time.perf_counter() - start)
        origin = report.origin
        if data.shape[0] == 1:
            theirs = np.array([q[0, 0] for q in get_origin(py4DSTEM.DataCube(data.astype(np.float32)))[:2]])
            others.append(np.hypot(*(theirs - origins[:, 0, 0])))
        verdict, error, sigma = "refused", np.nan, np.nan
        if origin.found and origin.valid.any():
            off = np.stack([origin.qx0, origin.qy0])[:, origin.valid] - origins[:, origin.valid]
            sigmas = np.stack([origin.sigma_qx0, origin.sigma_qy0])[:, origin.valid]
            error, sigma = np.median(np.hypot(*off)), np.median(np.hypot(*sigmas))
            verdict = "right" if error <= RIGHT_PX else "covered" if error <= COVERED_SIGMAS * sigma else "wrong"
            pulls.append(np.sqrt(np.mean((off / sigmas) ** 2)))
            errors.append(error)
        counts[verdict] = counts.get(verdict, 0) + 1
        if args.list or verdict == "wrong":
            print(f"{seed:4d} {verdict:8s} error {error:6.2f} sigma {sigma:5.2f} {data.shape[0]} x {data.shape[1]} "
                  f"{seconds[-1]:5.1f} s  {' '.join(words)}  {origin.feature} "
                  f"{' '.join(flag.name for flag in origin.decision.flags)}", flush=True)
    pulls = np.array(pulls)
    print(f"\n{datetime.date.today()}, commit {commit}, {platform.machine()}, no GPU; {args.scenes} scenes of "
          f"{args.size} x {args.size}: " + ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))
          + f"; error {np.median(errors):.3f} px (median); error / sigma, rms without those beyond 5: "
          f"{np.sqrt((pulls[pulls < 5] ** 2).mean()):.2f}; {np.median(seconds):.1f} s (median); get_origin within "
          f"{RIGHT_PX} px in {np.sum(np.array(others) <= RIGHT_PX)} of {len(others)} single patterns")


if __name__ == "__main__":
    main()
