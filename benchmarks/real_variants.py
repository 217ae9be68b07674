"""Variants of real patterns with known centers through `calibrate`: flipped, binned, cropped, padded, as pictures.

    python benchmarks/real_variants.py FOLDER [--only TEXT] [--kinds crop,picture] [--seed 0] [--out FILE] [--list]

FOLDER and the table (benchmarks/real.csv) are those of benchmarks/real.py; rows without a known answer (`any`) are left
out, and of the probes four are run. A variant transforms data, mask and center. Results are appended to the file, a
line for each; those that are in it are not run again. A center that a crop moves beyond the limit of the frame may be
found (rings tell it) or refused. Verdicts are those of benchmarks/real.py; *wrong* is accepted, off by more than the
tolerance of the table and by more than three of its sigmas.
"""

import argparse
import json
import os
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from real import TABLE, entries, load, measure, verdict

from py4dstem_prenet.core import PrenetError

PROBES = ("200kV_CL_38mm", "200kV_CL_130mm", "80kV_CL_60mm", "80kV_CL_380mm")
MIN_TOLERANCE_PX = 0.15  # pixels, where binning makes that of the table smaller
VERDICTS = ("right", "covered", "refused", "wrong", "error")


def flip(rng, data, mask, center):
    """Rows in the opposite order."""
    return data[..., ::-1, :], None if mask is None else mask[::-1], [data.shape[-2] - 1 - center[0], center[1]]


def turn(rng, data, mask, center):
    """Rotated by 90 degrees."""
    return (np.rot90(data, axes=(-2, -1)), None if mask is None else np.rot90(mask),
            [data.shape[-1] - 1 - center[1], center[0]])


def binned(rng, data, mask, center):
    """Sums of 2 x 2 pixels."""
    rows, columns = (n // 2 for n in data.shape[-2:])

    def squares(a):
        return a[..., : 2 * rows, : 2 * columns].reshape(*a.shape[:-2], rows, 2, columns, 2)

    total = squares(data.astype(np.float32 if data.dtype.kind == "f" else np.int64)).sum((-3, -1))
    total = total if data.dtype.kind == "f" else total.astype(np.int32)
    return total, None if mask is None else squares(mask).all((-3, -1)), [(q - 0.5) / 2 for q in center]


def crop(rng, data, mask, center):
    """Up to a third of the frame cut off at each side, the center well inside."""
    return _cut(data, mask, center, [_span(rng, n, q, 0.1 * n) for n, q in zip(data.shape[-2:], center, strict=True)])


def margin(rng, data, mask, center):
    """Cut so that the center lies 4 px to a tenth of the frame from one side."""
    spans = [[0, n] for n in data.shape[-2:]]
    axis = int(rng.integers(2))
    n, q = data.shape[-2 + axis], center[axis]
    gap = rng.uniform(4, 0.1 * n)
    spans[axis] = [max(0, round(q - gap)), n] if q < n / 2 else [0, min(n, round(q + gap) + 1)]
    return _cut(data, mask, center, spans)


def outside(rng, data, mask, center):
    """Cut so that the center lies beyond a side, by 2 px to a tenth of the frame."""
    spans = [[0, n] for n in data.shape[-2:]]
    axis = int(rng.integers(2))
    n, q = data.shape[-2 + axis], center[axis]
    gap = rng.uniform(2, 0.1 * n)
    spans[axis] = [min(n - 48, round(q + gap)), n] if q < n / 2 else [0, max(48, round(q - gap))]
    return _cut(data, mask, center, spans)


def _span(rng, n, q, gap):
    """First and last pixel of a crop of one axis."""
    first, last = max(0, min(n / 3, q - gap)), min(n, max(2 * n / 3, q + gap))
    return [int(rng.uniform(0, first)), int(np.ceil(rng.uniform(last, n)))]


def _cut(data, mask, center, spans):
    part = tuple(slice(*span) for span in spans)
    center = [q - span[0] for q, span in zip(center, spans, strict=True)]
    return data[(..., *part)], None if mask is None else mask[part], center


def padded(rng, data, mask, center):
    """Zeros around the frame, up to a quarter of it at each side."""
    widths = [tuple(int(rng.uniform(0, n / 4)) for _ in range(2)) for n in data.shape[-2:]]
    return (np.pad(data, [(0, 0)] * (data.ndim - 2) + widths), None if mask is None else np.pad(mask, widths),
            [q + w[0] for q, w in zip(center, widths, strict=True)])


def scaled(rng, data, mask, center):
    """Counts in other units, with an offset, as floating-point numbers."""
    factor, offset = np.float32(np.exp(rng.uniform(-6, 6))), np.float32(rng.uniform(0, 50))
    return (data * factor + offset).astype(np.float32), mask, center


def picture(rng, data, mask, center, gamma=1.0, quantile=0.998):
    """8 bits between two quantiles, as programs stretch the contrast of pictures."""
    low, high = np.quantile(data, [0.002, quantile])
    high = high if high > low else max(float(data.max()), low + 1)
    return np.rint(255 * ((data - low) / (high - low)).clip(0, 1) ** gamma).astype(np.uint8), mask, center


def gamma(rng, data, mask, center):
    """8 bits of the square root, all of the range."""
    return picture(rng, data, mask, center, 0.5, 1.0)


def saturated(rng, data, mask, center):
    """8 bits, of which the brightest hundredth of the pixels is white."""
    return picture(rng, data, mask, center, rng.uniform(0.5, 1), 0.99)


def labeled(rng, data, mask, center):
    """A picture with a scale bar and a word burnt in at a corner."""
    data = picture(rng, data, mask, center)[0].copy()
    n, m = data.shape[-2:]
    high, first = max(2, n // 100), m // 20
    row = n - n // 12 if rng.random() < 0.7 else n // 14
    if abs(row - center[0]) > n / 8:
        data[..., row : row + high, first : first + m // 5] = 255
        word = data[..., row - 3 * high : row - high, first : first + m // 10]
        word[..., rng.random((2 * high, m // 10)) < 0.5] = 255
    return data, mask, center


KINDS = {f.__name__: f for f in (flip, turn, binned, crop, margin, outside, padded, scaled, picture, gamma, saturated,
                                 labeled)}


def variant(row, kind, data, mask, seed):
    """Data, mask and row of the table of a variant."""
    rng = np.random.default_rng((seed, zlib.crc32(f"{row['file']}{row['array']}{row['mask']}{kind}".encode())))
    known = bool(row["row"])
    center = [float(row["row"]), float(row["column"])] if known else [n / 2 for n in data.shape[-2:]]
    data, mask, center = KINDS[kind](rng, data, mask, center)
    tolerance = float(row["tolerance"] or 0)
    if kind == "binned":
        tolerance = max(tolerance / 2, MIN_TOLERANCE_PX)
    row = row | ({"row": center[0], "column": center[1]} if known else {}) | {"tolerance": tolerance}
    return np.ascontiguousarray(data), None if mask is None else np.ascontiguousarray(mask), row


def run(folder, row, kind, seed):
    """One variant: its verdict, and what led to it."""
    data, mask, row = variant(row, kind, *load(folder, row), seed)
    name = row["file"].split(".")[0] + (f" {row['array']}" if row["array"] not in ("", "data") else "")
    name += " (mask)" if row["mask"] else ""
    out = {"pattern": name, "kind": kind, "seed": seed, "feature": row["feature"], "shape": data.shape[-2:]}
    try:
        center, sigma, accepted, flags, seconds, _ = measure(data, mask)
    except PrenetError as error:  # refused before work started
        return out | {"verdict": "refused", "flags": [str(error)[:80]]}
    except Exception as error:  # an error of the program is counted
        return out | {"verdict": "error", "flags": [repr(error)[:120]]}
    off = np.hypot(*(center - (float(row["row"]), float(row["column"])))) if row["row"] != "" and accepted else np.nan
    return out | {"verdict": verdict(row, center, sigma, accepted), "error": float(off), "sigma": float(sigma),
                  "flags": flags, "seconds": round(seconds, 1), "center": [float(q) for q in center]}


def table(results):
    """Counts of verdicts by kind, in Markdown."""
    lines = [f"| variant | patterns | {' | '.join(VERDICTS)} |", f"|{'---|' * (len(VERDICTS) + 2)}"]
    for kind in (*KINDS, "all"):
        some = [r for r in results if kind in (r["kind"], "all")]
        if some:
            count = Counter(r["verdict"] for r in some)
            lines.append(f"| {kind} | {len(some)} | {' | '.join(str(count[v] or '') for v in VERDICTS)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--only", default="", help="rows whose file and array contain this text")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/variants.jsonl"))
    parser.add_argument("--list", action="store_true", help="print every variant, not only the wrong ones")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    done = {}
    if args.out.exists():
        results = map(json.loads, args.out.read_text().splitlines())
        done = {(r["pattern"], r["kind"], r["seed"]): r for r in results}
    rows = [row for row in entries(args.table, args.only) if row["feature"] != "any"
            and (row["file"] != "merlin_probe_disks.npz" or row["array"] in PROBES)]
    chosen = []
    with args.out.open("a") as file:
        for row in rows:
            name = row["file"].split(".")[0] + (f" {row['array']}" if row["array"] not in ("", "data") else "")
            name += " (mask)" if row["mask"] else ""
            for kind in args.kinds.split(","):
                key = (name, kind, args.seed)
                if key not in done:
                    done[key] = run(args.folder, row, kind, args.seed)
                    file.write(json.dumps(done[key]) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
                result = done[key]
                chosen.append(result)
                if args.list or result["verdict"] in ("wrong", "error"):
                    print(f"{name:32s} {kind:10s} {result['verdict']:8s} error {result.get('error', np.nan):7.2f} "
                          f"sigma {result.get('sigma', np.nan):5.2f} {result.get('seconds', 0):5.1f} s  "
                          f"{' '.join(result['flags'])}", flush=True)
    print("\n" + table(chosen))


if __name__ == "__main__":
    main()
