"""Error rates of the tests for beam stops and for Bragg disks taken for the beam, without the networks.

    python benchmarks/stops.py [--scans 200] [--first 81000] [--crystals 60]

Scan k of each row is case k of the simulated world (`simulation/world.py`). False alarms: `find_bar` finds a bar in a
scan without a stop; `check_diffuse` refuses the true origin. Misses: `find_bar` does not find a bar that is not in the
mask; `check_diffuse` accepts the brightest Bragg disk beside a stop as the origin. With `--crystals`, only `find_bar`
is tested, in crystals near a zone axis without a stop: the scans of `zone_axis.py`, each at three doses.
"""

import argparse
import datetime
import platform
import subprocess
import warnings

import numpy as np
from scipy.signal import fftconvolve
from zone_axis import DOSES, scan as zone_axis_scan

from py4dstem_prenet.core import Decision, NoiseModel, OriginMap, PrenetError, as_scan
from py4dstem_prenet.detector import estimate_noise
from py4dstem_prenet.origin import block_sums, check_diffuse, find_bar, find_stop
from py4dstem_prenet.simulation import draw_case, make_case

HIDING = {"stop_masked", "stop_unmasked", "cut", "swapped", "mask_inverted", "clipped_8_bits"}
CRYSTALS = {"crystal", "grains", "mixed"}
SIGMA_PX = 0.05  # stated for the true origins; no check depends on it
MIN_DISTANCE_RADII = 2.0  # of a Bragg disk from the beam


def prepared(case, made):
    """Case, what was made of it, its scan and its noise model; None if the data are refused."""
    scan = as_scan(made.data)
    try:
        return case, made, scan, estimate_noise(scan)
    except PrenetError:
        return None


def true_noise(case, made, bad):
    """The noise model that the detector has, with bad pixels."""
    gain, offset, readout = (made.truth[name] for name in ("gain", "offset", "readout"))
    return NoiseModel(gain, offset, readout, bad, case.camera is None, case.dose)


def origin_at(case, made, offset=(0.0, 0.0)):
    """A measured origin at the truth, or away from it by an offset in pixels."""
    q = [made.truth[name] + shift for name, shift in zip(("qx0", "qy0"), offset, strict=True)]
    sigma = np.full(q[0].shape, SIGMA_PX)
    return OriginMap(*q, sigma, sigma, made.truth["good"], case.radius, Decision(True))


def bragg_offset(case, made, scan, noise, hidden):
    """Offset of the brightest disk other than the direct one, (2,) pixels, from the sum of recentered patterns."""
    q = np.stack([made.truth["qx0"].ravel(), made.truth["qy0"].ravel()])
    middle = np.median(q, 1)
    shift = np.rint(middle[:, None] - q).astype(int)
    total, seen = np.zeros((2, *scan.pattern_shape))
    usable = (~noise.bad_pixels & ~hidden).astype(float)
    for index, block in scan.blocks():
        for k, pattern in zip(index, noise.electrons(block), strict=True):
            total += np.roll(np.where(usable > 0, pattern, 0.0), shift[:, k], (0, 1))
            seen += np.roll(usable, shift[:, k], (0, 1))
    x, y = np.indices(total.shape)
    size = int(np.ceil(case.radius)) + 1
    u, v = np.mgrid[-size : size + 1, -size : size + 1]
    disk = (np.hypot(u, v) <= case.radius).astype(float)
    electrons, area = (fftconvolve(a, disk, mode="same") for a in (total, seen / max(seen.max(), 1)))
    distance = np.hypot(x - middle[0], y - middle[1])
    whole = area > 0.9 * disk.sum()
    electrons = np.where(whole & (distance > MIN_DISTANCE_RADII * case.radius), electrons, -np.inf)
    return np.array(np.unravel_index(electrons.argmax(), electrons.shape)) - middle


def rates(first, scans):
    """Rows of the table: what is tested, scans, and those in which the test errs."""
    count = dict.fromkeys(("bar", "bar_missed", "shadow_missed", "either_missed", "rivals", "rivals_masked",
                           "bragg", "bragg_masked"), 0)
    total = dict.fromkeys(count, 0)

    def add(name, wrong):
        total[name] += 1
        count[name] += bool(wrong)

    for seed in range(first, first + scans):
        case = draw_case(seed)
        case = draw_case(seed, "none") if HIDING & set(case.faults) else case
        found = prepared(case, make_case(case))
        if found:
            case, made, scan, noise = found
            add("bar", bar_of(scan, noise) is not None)
            add("rivals", not check_diffuse(scan, noise, origin_at(case, made)).found)
        case = draw_case(seed, "stop_masked")
        made = make_case(case)
        scan, hidden = as_scan(made.data), ~made.mask
        noise, masked = (true_noise(case, made, bad) for bad in (np.zeros_like(hidden), hidden))
        bar = bar_of(scan, noise)
        hit = bar is not None and (bar & hidden).sum() > 0.5 * hidden.sum()
        middle = [np.median(made.truth[name]) for name in ("qx0", "qy0")]
        shadow = find_stop(block_sums(scan, noise, 1)[0][0], ~noise.bad_pixels, middle)
        add("bar_missed", not hit)
        add("shadow_missed", shadow is None)
        add("either_missed", not hit and shadow is None)
        add("rivals_masked", not check_diffuse(scan, masked, origin_at(case, made)).found)
        if case.specimen in CRYSTALS:
            offset = bragg_offset(case, made, scan, noise, hidden)
            add("bragg_masked", check_diffuse(scan, masked, origin_at(case, made, offset)).found)
            add("bragg", check_diffuse(scan, noise, origin_at(case, made, offset)).found)
    return [(name, total[name], count[name]) for name in count]


def bars_in_crystals(scans):
    """Patterns of crystals near a zone axis, and those with a bar."""
    bars = []
    for seed in range(60_000, 60_000 + scans):
        known = zone_axis_scan(seed)[1]
        for dose in DOSES:
            total = known.counts(dose).sum((0, 1)).astype(float)
            bars.append(find_bar(total, np.ones(total.shape, bool)) is not None)
    return len(bars), sum(bars)


def bar_of(scan, noise):
    """The bar that the search without a place finds, as `BeamLocator.learn` does."""
    sums, counts, _ = block_sums(scan, noise)
    return find_bar(sums.sum(0), ~noise.bad_pixels, noise.readout / noise.gain * counts.sum() ** 0.5)


TITLES = {
    "bar": "`find_bar`: a bar where there is no stop", "bar_missed": "`find_bar`: an unmasked stop not found",
    "shadow_missed": "`find_stop`, given the true origin: the same", "either_missed": "neither of the two",
    "rivals": "`diffuse_elsewhere` at the true origin, no stop",
    "rivals_masked": "`diffuse_elsewhere` at the true origin, masked stop",
    "bragg_masked": "no `diffuse_elsewhere` at the brightest Bragg disk, masked stop",
    "bragg": "no `diffuse_elsewhere` at the brightest Bragg disk, stop without a mask",
    "crystals": "`find_bar`: a bar in a crystal near a zone axis"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=200)
    parser.add_argument("--first", type=int, default=81_000)
    parser.add_argument("--crystals", type=int, help="number of scans of crystals; these alone")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    print(f"{datetime.date.today()}, commit {commit}, {platform.machine()}, no GPU.\n")
    print("| error | scans | wrong | rate |\n|---|---|---|---|")
    rows = [("crystals", *bars_in_crystals(args.crystals))] if args.crystals else rates(args.first, args.scans)
    for name, total, wrong in rows:
        print(f"| {TITLES[name]} | {total} | {wrong} | {100 * wrong / max(total, 1):.1f} % |")


if __name__ == "__main__":
    main()
