"""`make defects` puts defects into the code and names the tests that fail; the code that it replaces must exist."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("defects", ROOT / "benchmarks" / "defects.py")
defects = importlib.util.module_from_spec(spec)
spec.loader.exec_module(defects)


@pytest.mark.parametrize("name", defects.DEFECTS)
def test_a_defect_has_its_place(name):
    module, code, defect, tests = defects.DEFECTS[name]
    assert code in (ROOT / "py4dstem_prenet" / module).read_text() and defect != code
    assert all((ROOT / test.split("::")[0]).exists() for test in tests.split())
