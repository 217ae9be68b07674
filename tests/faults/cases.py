"""The table of faults, and the page of the documentation that is made of it."""

import tempfile
from collections import Counter
from pathlib import Path

import pytest

from faults import machinery, outputs, storage, values
from faults.bench import Bench

CASES = [*values.CASES, *storage.CASES, *outputs.CASES, *machinery.CASES]

HEAD = """# Faulty input and failures

This page lists what happens with faulty input, and when something fails during the computation. Each row is a test in
`tests/faults`. The test makes the fault and calls the functions that a user would call. It checks the error or the
flags, that arrays, calibrations and files are unchanged, and that no incomplete file is left behind.

- **refused**: no result is accepted or written. Python raises `PrenetError` with the sentence in the last column before
  the computation starts; the command prints it on stderr and exits with code 1. In rows with a flag, the function
  returns a report that is not accepted.
- **warned**: there is a result that agrees with the truth, and the report carries the flag.
- **answered**: the result equals the truth within its uncertainty, without a warning.

{counts}. `python tests/faults` runs all of them and writes this page.
"""


def document() -> str:
    """Try all faults, and return the text of docs/faults.md."""
    total = Counter(case.outcome for case in CASES)
    counts = f"{len(CASES)} faults: " + ", ".join(f"{total[name]} {name}" for name in ("refused", "warned", "answered"))
    lines = [HEAD.format(counts=counts)]
    for group in dict.fromkeys(case.group for case in CASES):
        lines += [f"\n## {group}\n", "| fault | how it is made | outcome | error, flag or result |",
                  "|---|---|---|---|"]
        lines += [f"{start(case)} {_cell(_tried(case))} |" for case in CASES if case.group == group]
    return "\n".join(lines) + "\n"


def start(case) -> str:
    """The first three cells of a row of the page."""
    return "| " + " | ".join(map(_cell, (case.name, case.made, case.outcome))) + " |"


def _tried(case):
    with tempfile.TemporaryDirectory() as folder:
        try:
            results = case.run(Bench(Path(folder)))
        except pytest.skip.Exception:
            return "(cannot be made on this system)"
        case.check(results)
        return case.sentence(results)


def _cell(text):
    return text.replace("|", "\\|")
