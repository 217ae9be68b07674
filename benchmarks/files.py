"""Open every file of a folder, and compare the patterns with those of a reference reader.

    python benchmarks/files.py FOLDER             # prints what is not read or differs, and the table
    python benchmarks/files.py FOLDER --write     # also writes the table into docs/files.md

Suitable folders are unpacked copies of the test files of RosettaSciIO, HyperSpy, ncempy or LiberTEM. The reference is
RosettaSciIO (turned upside down for Merlin files, see docs/files.md), or py4DSTEM for its own files and for Merlin
files that RosettaSciIO does not read. Where the shape of the scan is not certain, the first possible one is given.
Images and spectra, which no reader takes for a scan or a stack of patterns, are counted apart.
"""

import argparse
import importlib
import io
import logging
import sys
import time
import traceback
import warnings
from collections import Counter, defaultdict
from contextlib import redirect_stdout
from datetime import date
from pathlib import Path

import numpy as np

import py4dstem_prenet
from py4dstem_prenet.core import MIN_SIDE, PrenetError
from py4dstem_prenet.io import choose_array, describe_file, is_emd, load_shaped, possible_shapes, read_contents

PAGE = Path(__file__).parents[1] / "docs" / "files.md"
BEGIN, END = "<!-- table -->", "<!-- end of the table -->"
ENDINGS = {".mib", ".raw", ".h5", ".hdf5", ".nxs", ".hspy", ".emd", ".blo", ".tvips", ".dm3", ".dm4", ".mrc", ".ser",
           ".emi", ".tif", ".tiff", ".de5", ".npy", ".xml", ".zspy", ".zarr", ".gtg", ".py4dstem", ".prz", ".app5",
           ".rpl"}
READ, SHAPED, SMALL, REFUSED, NO_SCAN, CRASHED = "read", "shape given", "too small", "refused", "no scan", "crashed"
COLUMNS = ("files", READ, SHAPED, SMALL, REFUSED, NO_SCAN, "equal", "different", "not compared", "missed", CRASHED)


def reference(path):
    """Patterns of the only scan, or stack, that the reference reader finds, (n, Qx, Qy); None if it finds none."""
    import py4DSTEM

    if path.is_file() and path.suffix.lower() in (".h5", ".emd", ".hdf5", ".py4dstem") and is_emd(path):
        found = py4DSTEM.read(path)
        return np.asarray(found.data) if isinstance(found, py4DSTEM.DataCube) else None
    signals = []
    for plugin in _plugins(path):
        try:
            signals = importlib.import_module(plugin).file_reader(str(path))
            break
        except Exception:
            continue
    if not signals and path.suffix.lower() == ".mib":
        frames = py4DSTEM.io.filereaders.load_mib(str(path), reshape=False, mem="RAM").data
        return frames[:, 0]
    least = 2 if path.suffix.lower() == ".mib" else 3  # RosettaSciIO leaves axes of one frame out
    patterns = [s["data"] for s in signals if np.ndim(s["data"]) >= least and _is_stack(s)]
    four = [data for data in patterns if data.ndim == 4]
    if len(four or patterns) != 1:
        return None
    found = np.asarray((four or patterns)[0])
    return found[..., ::-1, :] if path.suffix.lower() == ".mib" else found


def _plugins(path):
    from rsciio import IO_PLUGINS

    ending = path.suffix.lower().lstrip(".")
    return [p["api"] for p in IO_PLUGINS if ending in map(str.lower, p["file_extensions"])]


def _is_stack(signal):
    """Whether the last two axes are patterns."""
    axes = signal["axes"]
    if not any(axis.get("navigate") for axis in axes):
        return True
    return sum(axis.get("navigate") is False for axis in axes) == 2


def opened(path):
    """Outcome, data or None, and reason."""
    try:
        return READ, py4dstem_prenet.open(path).data, ""
    except PrenetError as error:
        reason = str(error)
    try:
        described = describe_file(path)
    except PrenetError as error:
        return REFUSED, None, str(error)
    arrays = [part for part in described["contents"] if part["kind"] in ("scan", "stack of patterns", "DataCube")]
    if not arrays:
        return NO_SCAN, None, reason
    if max(min(part["shape"][-2:]) for part in arrays) < MIN_SIDE:
        return SMALL, _small(path), reason
    if described["possible_scan_shapes"]:
        try:
            return SHAPED, py4dstem_prenet.open(path, scan_shape=described["possible_scan_shapes"][0]).data, reason
        except PrenetError as error:
            reason = str(error)
    return REFUSED, None, reason


def _small(path):
    """Patterns that are too small to be opened, to compare them nevertheless; None if there is no one array."""
    try:
        array = choose_array(read_contents(path), path)
    except PrenetError:
        return None
    shape = array.shape[:2] if array.ndim == 4 else possible_shapes(array.count)[0]
    return load_shaped(array, shape)


def compared(path, outcome, data):
    """How a file compares with the reference reader."""
    try:
        known = reference(path)
    except Exception as error:
        return "not compared", f"the reference fails ({type(error).__name__})"
    if data is None:
        if known is not None and known.ndim == 4 and min(known.shape[-2:]) >= MIN_SIDE and outcome != SMALL:
            return "missed", f"the reference reads {known.shape}"
        return "", ""
    if known is None:
        return "not compared", ""
    found = np.asarray(data[...])
    whole = known.reshape(-1, *known.shape[-2:])
    equal = whole.shape[1:] == found.shape[2:] and np.array_equal(found.reshape(-1, *found.shape[2:]), whole)
    same_shape = known.ndim != 4 or outcome in (SHAPED, SMALL) or known.shape == found.shape
    return ("equal", "") if equal and same_shape else ("different", f"{found.shape}, the reference {known.shape}")


def files_in(folder):
    """Files and zarr stores of a folder, the parts of a store aside."""
    for path in sorted(p for p in folder.iterdir() if not p.name.startswith(".")):
        if path.is_dir() and path.suffix.lower() not in (".zspy", ".zarr"):
            yield from files_in(path)
        elif path.suffix.lower() in ENDINGS:
            yield path


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", action="store_true", help="write the table into docs/files.md")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    table, slowest = defaultdict(Counter), 0.0
    for path in files_in(arguments.folder):
        row = table[path.suffix.lower().lstrip(".")]
        row["files"] += 1
        start = time.perf_counter()
        try:
            with redirect_stdout(io.StringIO()):
                outcome, data, reason = opened(path)
                slowest = max(slowest, time.perf_counter() - start)
                comparison, difference = compared(path, outcome, data)
        except Exception:
            outcome, comparison, reason, difference = CRASHED, "", traceback.format_exc(), ""
        row[outcome] += 1
        row[comparison] += bool(comparison)
        if outcome in (REFUSED, CRASHED) or comparison in ("different", "missed"):
            told = reason or difference
            print(f"{path.relative_to(arguments.folder)}: {outcome} {comparison} {difference}\n    {told}", flush=True)
    lines = ["| ending | " + " | ".join(COLUMNS) + " |", "|---|" + "---|" * len(COLUMNS)]
    lines += [f"| {ending} | " + " | ".join(str(row[name] or "") for name in COLUMNS) + " |"
              for ending, row in sorted(table.items())]
    total = sum(table.values(), Counter())
    lines.append("| all | " + " | ".join(str(total[name] or "") for name in COLUMNS) + " |")
    text = "\n".join(lines)
    print(f"{text}\nThe slowest was opened in {slowest:.1f} s.")
    if arguments.write:
        page = PAGE.read_text(encoding="utf-8")
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\nMeasured on {date.today()}.\n\n{text}\n{END}{after}", encoding="utf-8")
    return bool(total[CRASHED] or total["different"])


if __name__ == "__main__":
    sys.exit(main())
