"""Every row of the table of faults: its error or flags, and nothing changed or left behind."""

from pathlib import Path

import pytest

from faults.bench import Bench
from faults.cases import CASES, start

QUICK = ("Values", "Mask", "File", "Output", "Device", "Weights")  # groups of cases that take about a second
SLOW = ("file-replaced-by-another-while-it-is-read", "values-an-unknown-unit", "values-pixels-of-nan",
        "values-a-constant-subtracted", "values-each-pattern-divided-by-its-maximum")  # of these groups
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("case", [
    pytest.param(case, id=case.id, marks=[] if case.group in QUICK and case.id not in SLOW else pytest.mark.slow)
    for case in CASES])
def test_fault(case, tmp_path):
    case.check(case.run(Bench(tmp_path)))


def test_the_table_is_large_and_has_no_row_twice():
    assert len({case.id for case in CASES}) == len(CASES) >= 60
    assert {case.outcome for case in CASES} == {"refused", "warned", "answered"}


def test_the_documentation_has_the_rows_of_the_table():
    page = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    found = [row for case in CASES for row in rows if row.startswith(start(case))]
    assert len(found) == len(CASES) == len(rows) - len({case.group for case in CASES}), "run: python tests/faults"
