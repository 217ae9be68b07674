"""The plugin of py4D-browser in a real window, off screen: what a user would click, and what is then to be seen."""

import importlib.util
import os
import sys
import time
import types
from pathlib import Path

import numpy as np
import py4DSTEM
import pytest
from scans import simulated

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
ALIVE = []  # pyqtgraph's items crash where Python collects them before Qt is gone


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    for needed in ("PyQt5", "py4D_browser"):
        pytest.importorskip(needed, reason="the extra `browser` is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        from PyQt5.QtWidgets import QApplication

        application = QApplication.instance() or QApplication([])
        from py4D_browser import DataViewer

        viewer = DataViewer()
        viewer.application = application
        ALIVE.append(viewer)
        viewer.show()
        yield viewer
        viewer.close()


@pytest.fixture
def plugin(window):
    """The plugin as the browser loaded it; without a scan."""
    loaded, = (p for p in window.loaded_plugins if p["id"] == "py4dstem_prenet")
    window.datacube = None
    yield loaded["plugin"]
    loaded["plugin"].dialog.close()


def test_the_namespace_belongs_to_nobody():
    """An `__init__` there would hide the plugins of others, and the wheel must carry ours."""
    root = Path(__file__).parents[1]
    assert {p.name for p in (root / "py4d_browser_plugin").glob("*.py")} == {"prenet.py"}
    assert '"py4d_browser_plugin"]' in (root / "pyproject.toml").read_text()


def test_a_scan_without_a_calibration_is_not_calibrated(monkeypatch):
    """Without Qt: `cube.calibration` is None for a cube out of a file that has none."""
    for name in ("", ".QtCore", ".QtGui", ".QtWidgets"):
        qt = types.ModuleType(f"PyQt5{name}")
        qt.__getattr__ = lambda kind: type(kind, (), {"__init__": lambda self, *arguments: None})
        monkeypatch.setitem(sys.modules, qt.__name__, qt)
    spec = importlib.util.spec_from_file_location("plugin", Path(__file__).parents[1] / "py4d_browser_plugin/prenet.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    complaints = []
    cube = types.SimpleNamespace(calibration=None)
    plugin = types.SimpleNamespace(window=types.SimpleNamespace(datacube=cube), busy=False, _complain=complaints.append)
    assert module.PrenetPlugin._cube(plugin) is cube and not complaints
    assert module.PrenetPlugin._cube(plugin, calibrated=True) is None and len(complaints) == 1


def choose(window, entry):
    """Click an entry of Plugins > prenet, and wait until its work is done."""
    loaded, = (p for p in window.loaded_plugins if p["id"] == "py4dstem_prenet")
    action, = (a for a in loaded["menu"].actions() if a.text().startswith(entry))
    action.trigger()
    end = time.monotonic() + 240
    while loaded["plugin"].busy and time.monotonic() < end:
        window.application.processEvents()
        time.sleep(0.01)
    assert not loaded["plugin"].busy


def test_calibrate_look_and_save(window, plugin, tmp_path, monkeypatch):
    from PyQt5.QtWidgets import QFileDialog, QPlainTextEdit, QTextBrowser, QWidget

    scan = simulated()
    window.set_datacube(py4DSTEM.DataCube(scan.counts.copy()), "a scan")
    told = []
    monkeypatch.setattr(plugin, "_tell_progress", lambda: told.append(1))
    choose(window, "Calibrate")
    assert "Origin" in plugin.dialog.findChild(QPlainTextEdit).toPlainText() and plugin._bar is None
    qx0, qy0 = window.datacube.calibration.get_origin()
    assert np.hypot(qx0 - scan.truth["qx0"], qy0 - scan.truth["qy0"]).mean() < 0.3
    plugin.dialog.close()

    choose(window, "Maps")
    words = plugin.dialog.findChild(QTextBrowser).toPlainText()
    assert words
    canvas, = (child for child in plugin.dialog.findChildren(QWidget) if hasattr(child, "figure"))
    assert "qx0 residual, px" in [ax.get_title() for ax in canvas.figure.axes]
    plugin.dialog.close()

    path = tmp_path / "saved.h5"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *arguments: (str(path), arguments[4]))
    choose(window, "Save")
    np.testing.assert_array_equal(py4DSTEM.read(path).calibration.get_origin()[0], qx0)
    size = path.stat().st_size
    choose(window, "Save")
    assert one_sentence(plugin.dialog.text()) and path.stat().st_size == size


def test_correct_by_hand(window, plugin):
    """The brighter of two disks was taken: the other one is clicked, in the window, and calibrated."""
    from test_viewer import RIGHT, cube, mouse

    window.set_datacube(cube(), "two beams")
    choose(window, "Correct")
    panels, controls = plugin.dialog.panels, plugin.dialog.controls
    panels.figure.canvas.draw()
    controls["tool"].set_active(1)
    mouse(panels.measured, (RIGHT + 1, 47))
    mouse(controls["apply"].ax, (0.5, 0.5))
    end = time.monotonic() + 240
    while plugin.busy and time.monotonic() < end:
        window.application.processEvents()
        time.sleep(0.01)
    assert panels.session.report.origin.found and not plugin.busy
    assert np.abs(window.datacube.calibration.get_origin()[0] - RIGHT).max() < 0.5
    if "VIEWER_PICTURES" in os.environ:
        plugin.dialog.grab().save(str(Path(os.environ["VIEWER_PICTURES"], "qt.png")))


def one_sentence(text):
    return text.endswith(".") and "\n" not in text


def test_refusals_are_one_sentence_in_a_dialog(window, plugin):
    choose(window, "Calibrate")
    assert one_sentence(plugin.dialog.text())
    window.datacube = py4DSTEM.DataCube(np.full((2, 2, 32, 32), np.nan, np.float32))
    choose(window, "Maps")
    assert one_sentence(plugin.dialog.text())
    choose(window, "Calibrate")
    assert one_sentence(plugin.dialog.text()) and not plugin.dialog.detailedText()  # no traceback


def test_progress_is_that_of_the_stage(window, plugin):
    from PyQt5.QtCore import QThread
    from tqdm import tqdm

    seen = []

    def work():
        with tqdm(total=4, desc="origin", file=open(os.devnull, "w")) as bar:
            bar.update(3)
            while not seen:
                time.sleep(0.01)
        return QThread.currentThread() is not window.thread()

    plugin._start("Calibrating", work, seen.append)
    plugin._tell_progress()
    end = time.monotonic() + 20
    while plugin._bar.value() != 750 and time.monotonic() < end:
        plugin._tell_progress()
        time.sleep(0.01)
    seen.append((plugin._bar.value(), plugin._bar.labelText()))
    while plugin.busy and time.monotonic() < end:
        window.application.processEvents()
    assert seen == [(750, "Calibrating: origin"), True]
    plugin._complain("Done.")
