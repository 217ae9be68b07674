"""The controls beside the panels of the viewer: ipywidgets in notebooks, matplotlib's widgets elsewhere."""

from __future__ import annotations

from html import escape
from textwrap import fill

from ..descan import MODELS
from . import TOOLS, ViewerPanels

MODEL_NAMES = ("auto", *MODELS)
MESSAGE_LETTERS = 105  # letters in a line of the message, as many as fit beside the controls of a window
HINTS = {
    "look": "Click in the image, or use the arrow keys.",
    "center": "Click or drag in a pattern to place the direct beam (wheel: zoom); a right click removes it.",
    "region": "Drag in the image: only these positions are used.",
    "mask": "Draw a line around the pixels of a pattern to leave out.",
}  # what each tool does


def notebook_controls(panels: ViewerPanels):
    """Make the controls of a notebook.

    Parameters
    ----------
    panels : ViewerPanels
        The panels, on a canvas of ipympl.

    Returns
    -------
    ipywidgets.VBox
        Canvas and controls. Its attribute `controls` is a dict of the controls by name.
    """
    import ipywidgets as w

    session, controls = panels.session, _notebook_widgets()
    hint, told, found, output = w.HTML(), w.HTML(), w.HTML(), w.Output()

    def tell():
        lines = "<br>".join(escape(line) for line in session.message.splitlines())
        told.value = f"<code>{escape(session.edits.call(session.fitted))}</code><br>{lines}"
        found.value = "" if session.report is None else session.report._repr_html_()
        hint.value = f"<i>{HINTS[panels.tool]}</i>"

    def take(change):
        panels.tool = controls["tool"].value
        edits = session.edits
        edits.model, edits.ellipse = controls["model"].value, controls["ellipse"].value
        edits.replace = controls["replace"].value
        tell()

    def shown(change):
        told.value = "Computing ..."
        panels.show(controls["clean"].value, controls["disks"].value)
        controls["clean"].value, controls["disks"].value = session.clean, session.disks

    def enable(enabled):
        for name in ("apply", "undo", "clear"):
            controls[name].disabled = not enabled

    def act(action):
        def clicked(button):
            output.clear_output()
            told.value = "Working ..."
            enable(False)
            try:
                with output:
                    action()
                output.clear_output()
            finally:
                enable(True)
                tell()
        return clicked

    def clear():
        panels.clear()
        controls["model"].value, controls["ellipse"].value, controls["replace"].value = "auto", True, False

    for name in ("tool", "model", "ellipse", "replace"):
        controls[name].observe(take, "value")
    for name in ("clean", "disks"):
        controls[name].observe(shown, "value")
    for name, action in (("apply", panels.apply), ("undo", panels.undo), ("clear", clear)):
        controls[name].on_click(act(action))
    panels.changed.append(tell)
    tell()
    rows = (("tool", "clean", "disks"), ("model", "ellipse", "replace", "apply", "undo", "clear"))
    wrapping = w.Layout(flex_flow="row wrap")  # beside a narrow notebook
    boxes = [w.HBox([controls[name] for name in row], layout=wrapping) for row in rows]
    box = w.VBox([panels.figure.canvas, *boxes, hint, told, output, found])
    box.controls = controls
    return box


def _notebook_widgets():
    """The widgets of a notebook, by name."""
    import ipywidgets as w

    wide, narrow = {"layout": w.Layout(width="auto")}, {"layout": w.Layout(width="64px")}
    return {
        "tool": w.ToggleButtons(options=TOOLS, style={"button_width": "70px"}),
        "clean": w.Checkbox(description="denoise", indent=False, **wide),
        "disks": w.Checkbox(description="Bragg disks", indent=False, **wide),
        "model": w.Dropdown(options=MODEL_NAMES, description="descan", layout=w.Layout(width="160px"),
                            style={"description_width": "50px"}),
        "ellipse": w.Checkbox(value=True, description="measure ellipse", indent=False, **wide),
        "replace": w.Checkbox(description="replace what was set by hand", indent=False, **wide),
        "apply": w.Button(description="Apply", button_style="primary", tooltip="Calibrate with these corrections",
                          **narrow),
        "undo": w.Button(description="Undo", tooltip="Restore the calibration before the last Apply", **narrow),
        "clear": w.Button(description="Clear", tooltip="Remove the corrections", **narrow),
    }


def figure_controls(panels: ViewerPanels, left=0.83) -> dict:
    """Draw controls into the figure of the panels.

    Parameters
    ----------
    panels : ViewerPanels
        The panels; their figure has room from `left` to its right side.
    left : float, optional
        Left end of the controls, as a fraction of the figure.

    Returns
    -------
    dict
        matplotlib's widgets by name; they must be kept, since a figure does not keep them.
    """
    from matplotlib.widgets import Button, CheckButtons, RadioButtons

    session, figure, width = panels.session, panels.figure, 0.99 - left

    def axes(bottom, height, title=""):
        ax = figure.add_axes((left, bottom, width, height))
        ax.set_title(title, fontsize=9, loc="left")
        return ax

    controls = {
        "tool": RadioButtons(axes(0.77, 0.18, "tool"), TOOLS),
        "model": RadioButtons(axes(0.52, 0.2, "descan"), MODEL_NAMES),
        "show": CheckButtons(axes(0.37, 0.11, "show"), ("denoise", "Bragg disks"), (session.clean, session.disks)),
        "options": CheckButtons(axes(0.23, 0.11, "calibrate"), ("ellipse", "replace"), (True, False)),
        "apply": Button(axes(0.15, 0.05), "Apply"),
        "undo": Button(axes(0.09, 0.05), "Undo"),
        "clear": Button(axes(0.03, 0.05), "Clear"),
    }
    message = figure.text(0.02, 0.005, "", fontsize=8, va="bottom")

    def tell():
        message.set_text(fill(session.message.replace("\n", " "), MESSAGE_LETTERS) or HINTS[panels.tool])
        figure.canvas.draw_idle()

    def take(label):
        panels.tool, session.edits.model = controls["tool"].value_selected, controls["model"].value_selected
        session.edits.ellipse, session.edits.replace = controls["options"].get_status()
        session.message = ""
        tell()

    for name in ("tool", "model", "options"):
        controls[name].on_clicked(take)
    controls["show"].on_clicked(lambda label: panels.show(*controls["show"].get_status()))
    for name, action in (("apply", panels.apply), ("undo", panels.undo), ("clear", panels.clear)):
        controls[name].on_clicked(lambda event, action=action: action())
    panels.changed.append(tell)
    tell()
    return controls
