"""The viewer in JupyterLab, in a real browser: what a user would click, and what is then to be seen.

Needs jupyterlab, the extra `viewer`, and playwright with a Chromium, that of the system for example.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import py4dstem_prenet
from py4dstem_prenet.demo import load_scan
from py4dstem_prenet.viewer import Session, ViewerPanels
from py4dstem_prenet.viewer.launch import NOTEBOOK_DPI, NOTEBOOK_SIZE

for needed in ("jupyterlab", "ipympl", "ipywidgets", "playwright"):
    pytest.importorskip(needed, reason="jupyterlab, the extra `viewer` and playwright are not all installed")
pytestmark = pytest.mark.slow
CODE = """import py4DSTEM, py4dstem_prenet
from py4dstem_prenet.demo import load_scan
datacube, truth = load_scan()
report = datacube.prenet.calibrate(progress=False)
datacube.prenet.view()"""
AT = (9, 14)  # scan position that is looked at, in a gold particle
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A JupyterLab with one notebook, on this machine only."""
    folder = tmp_path_factory.mktemp("lab")
    cell = {"cell_type": "code", "id": "one", "source": CODE, "metadata": {}, "outputs": [], "execution_count": None}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": kernel, "cells": [cell]}
    (folder / "viewer.ipynb").write_text(json.dumps(notebook))
    environment = os.environ | {"JUPYTER_RUNTIME_DIR": str(folder / "runtime"), "OMP_NUM_THREADS": "1",
                                "JUPYTER_CONFIG_DIR": str(folder / "config"), "HOME": str(folder),
                                "PYTHONPATH": str(Path(py4dstem_prenet.__file__).parents[1])}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--port=0", "--ip=127.0.0.1", "--allow-root",
               "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]
    with open(folder / "log", "w") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as server:
        try:
            end = time.monotonic() + 60
            while not (found := list((folder / "runtime").glob("jpserver-*.json"))) and time.monotonic() < end:
                time.sleep(0.2)
            assert found, (folder / "log").read_text()
            yield json.loads(found[0].read_text())["url"]
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def page(address):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport={"width": 1200, "height": 1150})
        page.goto(f"{address}lab/tree/viewer.ipynb?reset")
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
        page.wait_for_selector("text=/ipykernel. . Idle/", timeout=60_000)
        page.wait_for_timeout(2000)
        page.click(".jp-Notebook .jp-CodeCell .cm-content")
        page.keyboard.press("Shift+Enter")
        try:
            page.wait_for_selector(".jupyter-matplotlib canvas", timeout=60_000)
            yield page
        finally:
            picture(page, "last")
        browser.close()


@pytest.fixture(scope="module")
def panels():
    """The same figure in this process, to know where in it a position lies."""
    figure = Figure(figsize=NOTEBOOK_SIZE, dpi=NOTEBOOK_DPI)
    FigureCanvasAgg(figure)
    made = ViewerPanels(Session(load_scan()[0]), figure)
    figure.canvas.draw()
    return made


def mouse(page, ax, *points):
    """Press at the first (row, column) of an axes, drag through the others, and release."""
    canvas = page.query_selector(".jupyter-matplotlib canvas")
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    box, height = canvas.bounding_box(), ax.figure.bbox.height
    places = [ax.transData.transform((column, row)) for row, column in points]
    places = [(box["x"] + x, box["y"] + height - y) for x, y in places]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=5)
        page.wait_for_timeout(100)
    page.mouse.up()


def wait_for(page, text, seconds=60):
    page.wait_for_selector(f".jp-OutputArea :text-matches({json.dumps(text)})", timeout=1000 * seconds)


def picture(page, name):
    """A screenshot, kept where the environment variable VIEWER_PICTURES says."""
    if "VIEWER_PICTURES" in os.environ:
        page.wait_for_timeout(500)
        page.screenshot(path=Path(os.environ["VIEWER_PICTURES"], f"{name}.png"))


def test_correct_a_center_and_a_region_and_apply(page, panels):
    page.wait_for_timeout(2000)
    mouse(page, panels.image, AT)
    page.get_by_text("center", exact=True).click()
    truth = load_scan()[1]
    at = [truth[name][AT] for name in ("qx0", "qy0")]
    mouse(page, panels.measured, (at[0] + 12, at[1] + 9), at)
    wait_for(page, r"The center at position \(9, 14\)")
    page.wait_for_timeout(2000)  # until the drag has ended in the kernel, too
    told = page.inner_text(".jp-OutputArea :text-matches('The center at position')")
    moved = [float(q) for q in re.search(r"\(([\d.]+), ([\d.]+)\) px", told).groups()]
    assert np.abs(np.subtract(moved, at)).max() < 1.0
    page.get_by_text("region", exact=True).click()
    mouse(page, panels.image, (2, 5), (16, 19))
    wait_for(page, r"region=\(slice\(2, 17\), slice\(5, 20\)\)")
    page.select_option(".jp-OutputArea select", "plane")
    wait_for(page, "model='plane'")
    picture(page, "corrected")
    page.get_by_role("button", name="Apply").click()
    wait_for(page, "CalibrationReport", 120)
    picture(page, "applied")
    page.get_by_role("button", name="Clear").click()
    wait_for(page, r"calibrate\(\)")  # the buttons are disabled until the kernel is done
    page.get_by_role("button", name="Undo").click()
    wait_for(page, "restored")


def test_mask_and_denoise(page, panels):
    page.get_by_text("mask", exact=True).click()
    mouse(page, panels.measured, (90, 20), (90, 60), (110, 60), (110, 20), (91, 20))
    wait_for(page, "mask=viewer.arguments")
    for name in ("denoise", "Bragg disks"):
        page.get_by_text(name, exact=True).click()
        page.wait_for_timeout(1000)
        page.wait_for_selector(".jp-OutputArea :text('Computing')", state="detached", timeout=120_000)
    page.wait_for_timeout(1000)
    picture(page, "denoised")
    assert not page.query_selector("text=Traceback")
