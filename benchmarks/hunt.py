"""Hunt for silent failures: random scans of the simulated world through `calibrate`, counted by kind.

    python benchmarks/hunt.py [--cases 1000] [--first 0] [--out runs/hunt.jsonl] [--fault NAME]

Case k has seed k, so a case is made again by its number. Results are appended to the file, a line for each case; cases
that are in it are not run again. The table is printed at the end.

A case is *silently wrong* if what was accepted (the fit, or the measured origin where the fit was refused) is off by
more than 0.15 px and by more than five of its own sigmas: in the median of its good frames, or in at least 5 % of them
by more than half a pixel. It is *wrong, warned* if a warning names a fault of detector, origin or descan.
"""

import argparse
import json
import os
import time
import warnings
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import py4DSTEM

from py4dstem_prenet.core import PrenetError
from py4dstem_prenet.pipeline import calibrate
from py4dstem_prenet.simulation import draw_case, make_case

OUTCOMES = ("right", "refused rightly", "silently wrong", "wrong, warned", "wrongly refused", "crashed")
MAX_ERROR_PX, MAX_PULL = 0.15, 5.0  # of what is accepted
MAX_GROSS_PX, MAX_GROSS_FRACTION = 0.5, 0.05  # error of single frames, and how many may have it
FIT_MAY_BE_REFUSED = {"jumps", "flyback_columns"}  # the measured origin is all that there is
# Warnings that say nothing of the origin's truth.
UNSPECIFIC = {"few_positions", "outliers", "ellipse_not_written", "fit_not_written", "jump", "beam_missing",
              "offset_undetermined", "gain_undetermined"}


def run(seed, fault=None):
    """One case: its outcome, and what led to it."""
    case = draw_case(seed, fault)
    made = make_case(case)
    kind = case.faults[0] if case.faults else "none"
    result = {"seed": seed, "kind": kind, "history": made.history, "specimen": case.specimen,
              "dose": round(case.dose), "radius": round(case.radius, 2)}
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            report = calibrate(py4DSTEM.DataCube(made.data), mask=made.mask, progress=False)
        except PrenetError as error:
            outcome = "wrongly refused" if made.determinable else "refused rightly"
            return result | {"outcome": outcome, "flags": [str(error)[:80]]}
        except Exception as error:  # a crash is what is counted
            return result | {"outcome": "crashed", "flags": [repr(error)[:120]]}
    result["seconds"] = round(time.perf_counter() - start, 1)
    result["flags"] = [flag.name for flag in report.flags]
    return result | judge(report, made, kind)


def judge(report, made, kind):
    """Outcome of a report against the truth, with errors in pixels and in sigmas."""
    origin, fit, truth = report.origin, report.fit, made.truth
    if not origin.found:
        return {"outcome": "wrongly refused" if made.determinable else "refused rightly"}
    good = truth["good"]
    out = {}
    for name, found, used in (("measured", origin, good & origin.valid), ("fitted", fit, good)):
        error = np.stack([found.qx0 - truth["qx0"], found.qy0 - truth["qy0"]])[:, used]
        sigma = np.stack([found.sigma_qx0, found.sigma_qy0])[:, used]
        if not error.size:
            return {"outcome": "wrongly refused" if made.determinable else "refused rightly"}
        distance, pull = np.hypot(*error), np.hypot(*error) / np.hypot(*sigma)
        wrong = np.median(distance) > MAX_ERROR_PX and np.median(pull) > MAX_PULL
        gross = np.mean((distance > MAX_GROSS_PX) & (pull > MAX_PULL))
        out[name] = {"error": float(np.median(distance)), "gross": float(gross),
                     "pull": float(np.sqrt(np.mean(np.clip(error / sigma, -10, 10) ** 2))),
                     "wrong": bool(wrong or gross > MAX_GROSS_FRACTION)}
    chosen = out["fitted" if fit.accepted else "measured"]
    warned = any(flag.severity == "warning" and flag.kind.stage in ("detector", "origin", "descan")
               and flag.name not in UNSPECIFIC for flag in report.flags)
    if chosen["wrong"]:
        outcome = "wrong, warned" if warned else "silently wrong"
    elif fit.accepted or kind in FIT_MAY_BE_REFUSED or not made.determinable:
        outcome = "right"
    else:
        outcome = "wrongly refused"
    return out | {"outcome": outcome, "fit_accepted": fit.accepted}


def table(results):
    """Counts by kind, and the rms of error over sigma, in Markdown."""
    kinds = defaultdict(list)
    for result in results:
        kinds[result["kind"]].append(result)
    lines = [f"| kind | cases | {' | '.join(OUTCOMES)} | error / sigma, positions | of the fit |",
             f"|{'---|' * (len(OUTCOMES) + 4)}"]
    for kind, some in [*sorted(kinds.items()), ("**all**", results)]:
        count = Counter(result["outcome"] for result in some)
        right = [r for r in some if r["outcome"] == "right" and "measured" in r]
        pulls = [_rms([r["measured"]["pull"] for r in right]),
                 _rms([r["fitted"]["pull"] for r in right if r["fit_accepted"]])]  # a refused fit is not written
        lines.append(f"| {kind} | {len(some)} | {' | '.join(str(count[o] or '') for o in OUTCOMES)} | "
                     f"{pulls[0]} | {pulls[1]} |")
    return "\n".join(lines)


def _rms(values):
    return f"{np.sqrt(np.mean(np.square(values))):.2f}" if values else ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/hunt.jsonl"))
    parser.add_argument("--fault")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    done = {}
    if args.out.exists():
        done = {result["seed"]: result for result in map(json.loads, args.out.read_text().splitlines())}
    with args.out.open("a") as file:
        for seed in range(args.first, args.first + args.cases):
            if seed in done:
                continue
            done[seed] = run(seed, args.fault)
            file.write(json.dumps(done[seed]) + "\n")
            file.flush()
            os.fsync(file.fileno())
    print(table([done[seed] for seed in range(args.first, args.first + args.cases)]))


if __name__ == "__main__":
    main()
