"""Every notebook runs from what the package makes or ships, and is committed with what it printed."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SMALLER = {  # what is replaced in a notebook that is tried, to try it on a smaller scan
    "01_calibrate": {"scan, shape, radius, dose = (14, 14)": "scan, shape, radius, dose = (8, 8)"},
    "02_strain": {"scan = (10, 18)": "scan = (5, 12)"},
    "03_orientation": {"rows, columns = np.indices((12, 12))": "rows, columns = np.indices((8, 8))",
                       "true = np.empty((12, 12, 3, 3))": "true = np.empty((8, 8, 3, 3))"},
    "07_standard_to_strain": {"scan = (8, 14)": "scan = (4, 10)"},
}


def smaller(path):
    """A notebook with the replacements of `SMALLER`."""
    notebook = nbformat.read(path, 4)
    for old, new in SMALLER.get(path.stem, {}).items():
        (cell,) = (cell for cell in notebook.cells if old in cell.source)
        cell.source = cell.source.replace(old, new)
    return notebook


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
@pytest.mark.slow
def test_runs(path, tmp_path):
    NotebookClient(smaller(path), timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_is_committed_with_outputs_and_without_errors(path):
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    assert any("image/png" in out.get("data", {}) for cell in cells for out in cell.outputs)
    assert not any(out.output_type == "error" for cell in cells for out in cell.outputs)


def test_there_are_notebooks():
    assert NOTEBOOKS
