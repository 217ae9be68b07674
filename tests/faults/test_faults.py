"""Every row of the fault matrix: the user is told so, and nothing is changed or left behind."""

from pathlib import Path

import pytest

from faults.bench import Bench
from faults.cases import CASES, document

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_fault(case, tmp_path):
    sentences = case.run(Bench(tmp_path))
    assert case.is_told(sentences), sentences
    assert not any("\n" in sentence for sentence in sentences)


def test_the_matrix_is_large_and_nothing_is_in_it_twice():
    assert len({case.id for case in CASES}) == len(CASES) >= 60
    assert {case.outcome for case in CASES} == {"refused", "warned", "answered"}


def test_the_documentation_is_that_of_the_table():
    assert (ROOT / "docs" / "faults.md").read_text(encoding="utf-8") == document(), "run: python tests/faults"
