"""The one table of faults, and the page of the documentation that is made of it."""

from collections import Counter

from faults import machinery, outputs, storage, values

CASES = [*values.CASES, *storage.CASES, *outputs.CASES, *machinery.CASES]

HEAD = """# Faults

What happens with bad input, and when something fails meanwhile. Each row is a test (`tests/faults`): it makes the
fault, asks for what a user would ask for, and holds that the sentence is this one (… stands for what varies), that
arrays, calibrations and files are as they were, and that nothing was left behind. **Refused**: nothing was done or
written. **Warned**: an answer, checked against the truth, with that sentence in the report. **Answered**: as the
truth is, with nothing special to tell, or with what the sentence says.

{counts}. This page is written by `python tests/faults`.
"""


def document() -> str:
    """docs/faults.md."""
    total = Counter(case.outcome for case in CASES)
    counts = f"{len(CASES)} faults: " + ", ".join(f"{total[name]} {name}" for name in ("refused", "warned", "answered"))
    lines = [HEAD.format(counts=counts)]
    for group in dict.fromkeys(case.group for case in CASES):
        lines += [f"\n## {group}\n", "| fault | how it is made | | what is told |", "|---|---|---|---|"]
        lines += [_row(case.name, case.made, case.outcome, case.told) for case in CASES if case.group == group]
    return "\n".join(lines) + "\n"


def _row(*cells):
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
