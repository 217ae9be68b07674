"""The viewer: corrections by hand become arguments of `calibrate`, by the mouse and controls that a user has."""

from types import SimpleNamespace

import numpy as np
import py4DSTEM
import pytest
from matplotlib.backend_bases import KeyEvent, MouseEvent
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from py4DSTEM import DataCube
from test_by_hand import two_beams

from py4dstem_prenet import PrenetError, view
from py4dstem_prenet.io import write_mask
from py4dstem_prenet.viewer import Edits, Session, ViewerPanels, figure_controls, notebook_controls

pytestmark = pytest.mark.usefixtures("beams_learned_once")

RIGHT, WRONG = 36.3, 60.3  # rows of the dimmer disk, which is the direct beam, and of the brighter one


def cube():
    return py4DSTEM.DataCube(two_beams())


def opened(session, right=0.8):
    figure = Figure(figsize=(11, 8))
    FigureCanvasAgg(figure)
    panels = ViewerPanels(session, figure, right)
    figure.canvas.draw()
    return panels


def mouse(ax, *points, pressed=1):
    """Press a button at the first (row, column), drag through the others, release at the last."""
    canvas = ax.figure.canvas
    for name, (row, column) in (("button_press_event", points[0]),
                                *(("motion_notify_event", point) for point in points[1:]),
                                ("button_release_event", points[-1])):
        x, y = ax.transData.transform((column, row))
        button = None if name == "motion_notify_event" else pressed
        held = {pressed} if name == "motion_notify_event" else None
        canvas.callbacks.process(name, MouseEvent(name, canvas, x, y, button=button, buttons=held))


def wheel(ax, at, step):
    canvas = ax.figure.canvas
    x, y = ax.transData.transform(at[::-1])
    canvas.callbacks.process("scroll_event", MouseEvent("scroll_event", canvas, x, y, step=step))


# --- corrections


def test_one_center_without_a_calibration_is_two_numbers():
    edits = Edits((4, 5), (64, 64))
    assert edits.arguments() == {}
    edits.set_center((1, 2), 30.0, 31.0)
    assert edits.arguments() == {"center": (30.0, 31.0)}


def test_the_call_that_is_shown_has_the_same_arguments():
    edits = Edits((4, 5), (64, 64))
    edits.set_center((1, 2), 30.0, 31.0)
    edits.set_region((0, 1), (3, 2))
    edits.add_mask([(4, 4), (4, 20), (20, 20), (20, 4)])
    edits.model = "plane"
    fitted = np.full((4, 5), 33.0), np.full((4, 5), 32.0)
    viewer = SimpleNamespace(arguments=edits.arguments(fitted))
    called = eval(edits.call(fitted).replace("datacube.prenet.calibrate", "dict"), {"viewer": viewer})
    assert called.keys() == viewer.arguments.keys() == {"center", "region", "mask", "model"}
    for name, value in called.items():
        np.testing.assert_equal(value, viewer.arguments[name])


def test_corrections_keep_the_descan_and_add_a_plane():
    rows, columns = np.indices((6, 8), float)
    fitted = 30 + 0.4 * rows + 0.02 * columns**2, 20 - 0.3 * columns  # of the wrong disk
    edits = Edits((6, 8), (64, 64))
    edits.set_center((2, 3), fitted[0][2, 3] + 9, fitted[1][2, 3] - 4)
    qx0, qy0 = edits.center(fitted)
    np.testing.assert_allclose(qx0, fitted[0] + 9)
    np.testing.assert_allclose(qy0, fitted[1] - 4)
    truth = fitted[0] + 9 + 0.1 * rows - 0.2 * columns, fitted[1] + 2 - 0.3 * rows
    edits.clear()
    for at in ((0, 0), (5, 1), (2, 7)):
        edits.set_center(at, truth[0][at], truth[1][at])
    for found, true in zip(edits.center(fitted), truth, strict=True):
        np.testing.assert_allclose(found, true)
    with pytest.raises(PrenetError):
        edits.set_center((0, 0), 64.0, 3.0)


def test_regions_and_masks():
    edits = Edits((4, 6), (20, 30))
    edits.set_region((3.2, 4.4), (1.1, -2.0))
    assert edits.region == (slice(1, 4), slice(0, 5))
    edits.set_region((-1, -1), (9, 9))  # all of it
    assert edits.arguments() == {}
    edits.add_mask([(2, 3), (2, 9)])  # no area
    assert edits.mask is None
    edits.add_mask([(1.5, 2.5), (1.5, 8.5), (5.5, 8.5), (5.5, 2.5)])
    expected = np.ones((20, 30), bool)
    expected[2:6, 3:9] = False  # rows are qx
    np.testing.assert_array_equal(edits.mask, expected)
    edits.add_mask([(9.5, 9.5), (9.5, 12.5), (11.5, 12.5), (11.5, 9.5)])
    expected[10:12, 10:13] = False
    np.testing.assert_array_equal(edits.arguments()["mask"], expected)
    edits.clear()
    assert edits.mask.all()  # also one of an earlier calibration is removed


def test_clear_removes_what_was_drawn_and_an_earlier_mask():
    cube = DataCube(np.random.default_rng(1).poisson(2.0, (3, 3, 32, 32)).astype(np.uint16))
    session = Session(cube)
    session.edits.add_mask([(2, 3), (2, 9), (8, 9)])
    session.move_center(12.0, 13.0)
    session.clear()
    assert session.edits.arguments() == {}
    write_mask(cube, np.eye(32) == 0)
    session = Session(cube)
    session.clear()
    assert session.edits.arguments()["mask"].all()


# --- a wrong center, with the mouse


@pytest.fixture(scope="module")
def wrong():
    """A scan that was calibrated on the brighter disk."""
    datacube = cube()
    datacube.prenet.calibrate(center=(WRONG, 48), progress=False)
    assert np.abs(datacube.calibration.get_origin()[0] - WRONG).max() < 0.5
    return datacube


@pytest.mark.slow
def test_drag_the_center_apply_and_undo(wrong):
    panels = opened(Session(wrong))
    controls = figure_controls(panels)
    mouse(panels.image, (4, 1))
    assert panels.session.position == (4, 1)
    mouse(panels.measured, (20, 20))  # the tool is "look": nothing is changed
    assert panels.session.edits.arguments(panels.session.fitted) == {}
    controls["tool"].set_active(1)
    mouse(panels.measured, (WRONG, 48), (45, 47), (RIGHT + 1, 47.5))
    assert np.allclose(panels.session.edits.centers[4, 1], (RIGHT + 1, 47.5), atol=0.3)
    controls["model"].set_active(1)
    mouse(controls["apply"].ax, (0.5, 0.5))
    report = panels.session.report
    assert report.fit.model == "constant" and report.origin.decision.has("center_given")
    assert np.abs(wrong.calibration.get_origin()[0] - RIGHT).max() < 0.5
    mouse(controls["clear"].ax, (0.5, 0.5))
    assert panels.session.edits.arguments() == {}
    mouse(controls["undo"].ax, (0.5, 0.5))
    assert np.abs(wrong.calibration.get_origin()[0] - WRONG).max() < 0.5 and panels.session.report is None


@pytest.mark.slow
def test_draw_a_region_and_a_mask_and_walk(wrong):
    panels = opened(Session(wrong))
    panels.tool = "region"
    mouse(panels.image, (1, 1), (2, 2), (3, 4))
    assert panels.session.edits.region == (slice(1, 4), slice(1, 5)) and panels.session.position == (3, 3)
    panels.tool = "center"
    mouse(panels.measured, (30, 31))
    assert set(panels.session.edits.centers) == {(3, 3)}
    mouse(panels.measured, (5, 5), pressed=3)  # anywhere in the pattern
    assert not panels.session.edits.centers
    panels.tool = "mask"
    mouse(panels.measured, (9.6, 9.6), (9.6, 20.4), (15.4, 20.4), (15.4, 9.6), (9.7, 9.6))
    masked = ~panels.session.edits.mask
    assert masked[10:16, 10:21].all() and masked.sum() == 6 * 11
    canvas = panels.figure.canvas
    canvas.callbacks.process("key_press_event", KeyEvent("key_press_event", canvas, "left"))
    assert panels.session.position == (3, 2)
    for _ in range(9):
        canvas.callbacks.process("key_press_event", KeyEvent("key_press_event", canvas, "down"))
    assert panels.session.position == (5, 2)


@pytest.mark.slow
def test_what_is_shown_of_a_position(wrong):
    """Raw beside denoised, their difference in standard deviations, and the disks."""
    session = Session(wrong)
    panels = opened(session)
    session.select(2, 3)
    assert session.look().clean is None
    panels.show(clean=True, disks=True)
    seen = session.look()
    np.testing.assert_allclose(seen.measured, wrong.data[2, 3])
    assert abs(seen.clean.sum() / seen.measured.sum() - 1) < 0.02
    bright = seen.clean > 5
    assert 0.7 < seen.difference[bright].std() < 1.2
    rows = np.sort(seen.disks[:, 0])
    assert len(rows) == 2 and np.abs(rows - (RIGHT, WRONG)).max() < 0.6
    assert np.abs(seen.origin[0] - WRONG) < 0.5 and 0 < seen.sigma[0] < 0.2
    given = Session(wrong, denoised=py4DSTEM.DataCube(np.full(wrong.data.shape, 2, np.float32)))
    assert (given.look().clean == 2).all()


def test_a_scan_without_a_beam_is_refused_in_a_sentence():
    session = Session(py4DSTEM.DataCube(np.random.default_rng(0).poisson(1.0, (4, 4, 48, 48)).astype(np.uint16)))
    panels = opened(session)
    panels.apply(progress=False)
    assert session.report is None or not session.report.origin.found
    assert session.message
    panels.undo()
    assert session.message.endswith(".") and session.center is None


def test_the_wheel_enlarges_all_patterns_about_the_pointer(wrong):
    panels = opened(Session(wrong))
    whole = panels.measured.get_xlim()
    for _ in range(4):
        wheel(panels.measured, (RIGHT, 40.0), 1)
    width = np.ptp(panels.measured.get_xlim())
    assert width == pytest.approx(np.ptp(whole) / 1.3**4) and panels.clean.get_xlim() == panels.measured.get_xlim()
    part = (40.0 - panels.measured.get_xlim()[0]) / width
    assert part == pytest.approx((40.0 - whole[0]) / np.ptp(whole))  # the pixel stays at its place
    panels.session.select(1, 1)
    panels.refresh()
    assert np.ptp(panels.measured.get_xlim()) == pytest.approx(width)
    wheel(panels.measured, (RIGHT, 40.0), -5)
    assert panels.measured.get_xlim() == whole


def test_wrong_shapes_are_refused():
    with pytest.raises(PrenetError):
        Session(cube(), image=np.ones((2, 2)))
    with pytest.raises(PrenetError):
        Session(cube(), denoised=py4DSTEM.DataCube(np.ones((2, 2, 8, 8))))


# --- where it opens


@pytest.mark.slow
def test_a_script_without_a_display_gets_a_figure(wrong):
    viewer = view(wrong)
    assert viewer.controls is None and viewer._repr_mimebundle_()["image/png"].startswith(b"\x89PNG")
    viewer.session.move_center(RIGHT, 48)
    assert np.abs(viewer.arguments["center"][0] - RIGHT).max() < 0.5


@pytest.mark.slow
def test_a_notebook_without_ipympl_gets_a_figure(wrong, monkeypatch):
    from py4dstem_prenet.viewer import launch

    monkeypatch.setattr(launch, "in_notebook", lambda: True)
    monkeypatch.setattr(launch, "find_spec", lambda name: None)
    with pytest.warns(UserWarning):
        viewer = view(wrong)
    assert viewer.controls is None and viewer._repr_mimebundle_()["image/png"].startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_controls_of_a_notebook(wrong):
    pytest.importorskip("ipympl", reason="the extra `viewer` is not installed")
    from ipympl.backend_nbagg import Canvas, FigureManager

    figure = Figure(figsize=(9, 8))
    FigureManager(Canvas(figure), 0)
    panels = ViewerPanels(Session(wrong), figure)
    box = notebook_controls(panels)
    controls = box.controls
    controls["tool"].value = "center"
    mouse(panels.measured, (RIGHT, 48))
    controls["model"].value, controls["ellipse"].value = "plane", False
    assert panels.session.edits.call() == "datacube.prenet.calibrate(center=({:.1f}, {:.1f}), model='plane', "\
        "ellipse=False)".format(*panels.session.edits.centers[3, 3])
    controls["apply"].click()
    report = panels.session.report
    assert report.fit.model == "plane" and np.abs(report.fit.qx0 - RIGHT).max() < 0.5
    assert any(getattr(child, "value", "") == report._repr_html_() for child in box.children)
    assert not controls["apply"].disabled
    controls["undo"].click()
    controls["clear"].click()
    assert np.abs(wrong.calibration.get_origin()[0] - WRONG).max() < 0.5 and controls["model"].value == "auto"
