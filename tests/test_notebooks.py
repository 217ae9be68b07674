"""Every notebook runs from what the package makes or ships, and is committed with what it printed."""

from pathlib import Path

import nbformat
import pytest
from jupyter_client import KernelManager
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SMALLER = {  # what is replaced in a notebook that is tried, to try it on a smaller scan
    "01_calibrate": {
        "datacube, truth = load_scan()": """datacube, truth = load_scan()
datacube = py4DSTEM.DataCube(datacube.data[10:18, :8])
truth |= {"positions": truth["positions"] - [10, 0]} | {q: truth[q][10:18, :8] for q in ("qx0", "qy0")}""",
        "scan, shape, radius, dose = (14, 14)": "scan, shape, radius, dose = (8, 8)"},
    "02_strain": {"scan = (10, 18)": "scan = (4, 11)"},
    "03_orientation": {"rows, columns = np.indices((12, 12))": "rows, columns = np.indices((8, 8))",
                       "true = np.empty((12, 12, 3, 3))": "true = np.empty((8, 8, 3, 3))"},
    "04_denoise_and_trust": {
        "whole, truth = load_scan()": """whole, truth = load_scan()
whole = py4DSTEM.DataCube(whole.data[12:17, :7])
truth |= {"positions": truth["positions"] - [12, 0]}""",
        "corner = np.array([8, 0])": "corner = 0", "crop_R((8, 18, 0, 10))": "crop_R((0, 5, 0, 7))",
        "minutes=0.1": "minutes=0.02", "denoised.data[:8, :8]": "denoised.data[:5, :5]"},
    "05_large_files_and_clusters": {"load_scan()[0].data)": "load_scan()[0].data[:8, :12])"},
    "06_train_your_own": {
        "from py4dstem_prenet.training import export, train":
            """from py4dstem_prenet.training import denoise as task, export, train
task.TRAINING_CROP_PX = 48  # a quarter of the time""",
        "whole, truth = load_scan()": "whole, truth = load_scan()\nwhole = whole.prenet.crop_R((0, 7, 0, 7))",
        "crop_R((0, 8, 0, 8))": "crop_R((0, 6, 0, 6))", "steps=2": "steps=1", "steps=4": "steps=2"},
    "07_standard_to_strain": {"scan = (8, 14)": "scan = (3, 8)", "(36, 36), (40, 40)": "(24, 24), (40, 40)",
                              "(8, 8), grains=64": "(6, 6), grains=36"},
}

FRESH = """%reset -f
import os; os.environ.pop("PY4DSTEM_PRENET_MEMORY", None); del os"""


def smaller(path):
    """A notebook with the replacements of `SMALLER`."""
    notebook = nbformat.read(path, 4)
    for old, new in SMALLER[path.stem].items():
        (cell,) = (cell for cell in notebook.cells if old in cell.source)
        cell.source = cell.source.replace(old, new)
    return notebook


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """One kernel for all notebooks: modules are imported once. `FRESH` is run before each notebook."""
    manager = KernelManager()
    manager.start_kernel(cwd=str(tmp_path_factory.mktemp("notebooks")))
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
@pytest.mark.slow
def test_runs(path, kernel):
    notebook = smaller(path)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(FRESH))
    NotebookClient(notebook, km=kernel, timeout=300).execute(reset_kc=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_is_committed_with_outputs_and_without_errors(path):
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    assert any("image/png" in out.get("data", {}) for cell in cells for out in cell.outputs)
    assert not any(out.output_type == "error" for cell in cells for out in cell.outputs)


def test_there_are_notebooks():
    assert NOTEBOOKS
